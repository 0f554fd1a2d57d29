//! The text grammar: the TWL2 document, its rules, and the program they are compiled into.
//!
//! Three readers on top of each other, all faithful to TextWorld's: the document (`grammar :: """…"""`,
//! `action NAME { template :: "…"; feedback :: "…"; }`), the rule text (`#symbol#`, `{expression | query}`,
//! `[{expression | query}]`, plain text), and the query (`p(x:type) & not_q(x:type, y:type)`). A rule text ends
//! silently at the first character no reader can use, as it does there.
//!
//! A symbol is compiled once for every list of placeholders it can be reached with, because what a query leaves open
//! depends on what its caller has bound. Knows the domain's types and predicates, but no object and no fact.

use super::pddl::{Domain, PredicateId, Signatures, TypeId};
use crate::error::Fault;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

/// Symbols may call each other this deep.
const DEPTH_LIMIT: usize = 100;
/// A query may have this many predicates, and a text this many placeholders in scope.
const SCOPE_LIMIT: usize = 200;
/// The whole program may have this many procedures.
const PROCEDURE_LIMIT: usize = 20_000;
/// The whole program may have this many pieces and query predicates together.
const PIECE_LIMIT: usize = 1_000_000;
/// A query may be looked up under this many type signatures.
const SIGNATURE_LIMIT: usize = 20_000;

/// Index of a place in the frame of bound placeholders.
pub(crate) type Place = u16;

/// An attribute of an object that a text can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    Name,
    Id,
    Type,
}

/// One piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(Box<str>),
    Show(Place, Attribute),
    Call(usize),
    /// The pieces once for every answer of the query, or once when there is none; joined as a list or just run on.
    Each {
        pieces: Vec<Piece>,
        query: Option<usize>,
        list: Option<ListWords>,
    },
}

/// Procedures for the words of a list; a grammar may lack those it never needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListWords {
    pub(crate) empty: Option<usize>,
    pub(crate) separator: Option<usize>,
    pub(crate) last_separator: Option<usize>,
}

/// A symbol in one scope: the first rule whose condition has an answer is taken.
#[derive(Debug)]
pub(crate) struct Procedure {
    pub(crate) symbol: String,
    pub(crate) rules: Vec<Rule>,
}

/// A rule: an index into [`Program::queries`] and the text.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) condition: Option<usize>,
    pub(crate) pieces: Vec<Piece>,
}

/// How an argument of a query atom meets the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Argument {
    /// Must equal what is there.
    Bound(Place),
    /// Is put there; must differ from everything before.
    New(Place),
}

/// One predicate of a query.
#[derive(Debug)]
pub(crate) struct QueryAtom {
    /// Index into [`Program::patterns`].
    pub(crate) pattern: usize,
    pub(crate) arguments: Vec<Argument>,
}

/// A predicate with the types of its placeholders.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub(crate) struct Pattern {
    pub(crate) predicate: PredicateId,
    /// Asks for the facts that an effect made false, not for all that do not hold.
    pub(crate) negated: bool,
    pub(crate) types: Box<[TypeId]>,
}

/// The texts of one action.
#[derive(Debug)]
pub(crate) struct ActionTexts {
    pub(crate) template: Vec<Piece>,
    pub(crate) feedback: Vec<Piece>,
}

/// A compiled grammar.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) procedures: Vec<Procedure>,
    pub(crate) queries: Vec<Vec<QueryAtom>>,
    pub(crate) patterns: Vec<Pattern>,
    /// By pattern, the type signatures of the facts to look at, in order.
    pub(crate) signatures: Vec<Signatures>,
    pub(crate) intro: Vec<Piece>,
    /// What `#task#` says, where the grammar has that symbol.
    pub(crate) task: Option<usize>,
    /// By action of the domain; `None` where the grammar has no such action.
    pub(crate) actions: Vec<Option<ActionTexts>>,
}

/// What a text can look at, through all the symbols it calls.
#[derive(Debug, Default)]
struct Reach {
    queries: Vec<usize>,
    shown: Vec<Place>,
    visited: FxHashSet<usize>,
}

impl Program {
    /// The queries a text can run into.
    pub(crate) fn queries_of(&self, pieces: &[Piece]) -> Vec<usize> {
        let mut reach = Reach::default();
        self.follow(pieces, &mut reach);
        reach.queries
    }

    /// The first `parameters` places that a text can look at; all of them where a query binds something new, since
    /// that must differ from everything bound before.
    pub(crate) fn places_used(&self, pieces: &[Piece], parameters: usize) -> Vec<Place> {
        let mut reach = Reach::default();
        self.follow(pieces, &mut reach);
        let mut used = vec![false; parameters.max(SCOPE_LIMIT + 1)];
        reach
            .shown
            .iter()
            .for_each(|place| used[usize::from(*place)] = true);
        for argument in reach
            .queries
            .iter()
            .flat_map(|query| &self.queries[*query])
            .flat_map(|atom| &atom.arguments)
        {
            match argument {
                Argument::Bound(place) => used[usize::from(*place)] = true,
                Argument::New(_) => used.fill(true),
            }
        }
        (0..parameters as Place)
            .filter(|place| used[usize::from(*place)])
            .collect()
    }

    fn follow(&self, pieces: &[Piece], reach: &mut Reach) {
        for piece in pieces {
            match piece {
                Piece::Text(_) => {}
                Piece::Show(place, _) => reach.shown.push(*place),
                Piece::Call(procedure) => self.follow_call(*procedure, reach),
                Piece::Each {
                    pieces,
                    query,
                    list,
                } => {
                    reach.queries.extend(query);
                    self.follow(pieces, reach);
                    if let Some(words) = list {
                        let words = [words.empty, words.separator, words.last_separator];
                        words
                            .into_iter()
                            .flatten()
                            .for_each(|procedure| self.follow_call(procedure, reach));
                    }
                }
            }
        }
    }

    fn follow_call(&self, procedure: usize, reach: &mut Reach) {
        if reach.visited.insert(procedure) {
            for rule in &self.procedures[procedure].rules {
                reach.queries.extend(rule.condition);
                self.follow(&rule.pieces, reach);
            }
        }
    }
}

// ---- the document -------------------------------------------------------------------------------------------------

#[derive(Debug, Deserialize)]
struct RuleText {
    rhs: String,
    #[serde(default)]
    condition: Option<String>,
}

struct ActionText<'a> {
    at: usize,
    template: Option<&'a str>,
    feedback: Option<&'a str>,
}

#[derive(Default)]
struct Document<'a> {
    symbols: FxHashMap<String, (usize, Vec<RuleText>)>,
    actions: FxHashMap<String, ActionText<'a>>,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips blanks and `# …` comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn accept(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), Fault> {
        if self.accept(token) {
            Ok(())
        } else {
            Err(Fault::new(self.at, format!("expected {token:?}")))
        }
    }

    fn name(&mut self) -> Result<&'a str, Fault> {
        self.skip();
        let rest = self.rest();
        let end = rest
            .find(|c: char| !is_word(c) && c != '/' && c != '-')
            .unwrap_or(rest.len());
        if end == 0 {
            return Err(Fault::new(self.at, "expected a name"));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    /// What stands between two of `quote`, and where it starts.
    fn quoted(&mut self, quote: &str) -> Result<(usize, &'a str), Fault> {
        self.expect(quote)?;
        let (start, rest) = (self.at, self.rest());
        let end = rest
            .find(quote)
            .ok_or_else(|| Fault::new(start, format!("this {quote} is never closed")))?;
        self.at += end + quote.len();
        Ok((start, &rest[..end]))
    }

    fn field(&mut self, quote: &str) -> Result<(usize, &'a str), Fault> {
        self.expect("::")?;
        let value = self.quoted(quote)?;
        self.expect(";")?;
        Ok(value)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl<'a> Document<'a> {
    fn parse(text: &'a str) -> Result<Self, Fault> {
        let mut document = Self::default();
        let mut reader = Reader { text, at: 0 };
        loop {
            reader.skip();
            if reader.rest().is_empty() {
                return Ok(document);
            }
            if reader.accept("action") {
                document.read_action(&mut reader)?;
            } else if reader.accept("grammar") {
                let (at, block) = reader.field("\"\"\"")?;
                document.add_rules(at, block, text)?;
            } else {
                return Err(Fault::new(reader.at, "expected \"action\" or \"grammar\""));
            }
        }
    }

    fn read_action(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        let name = reader.name()?.to_lowercase();
        let mut action = ActionText {
            at: reader.at,
            template: None,
            feedback: None,
        };
        let mut block = None;
        reader.expect("{")?;
        while !reader.accept("}") {
            if reader.accept("template") {
                action.template = Some(reader.field("\"")?.1);
            } else if reader.accept("feedback") {
                action.feedback = Some(reader.field("\"")?.1);
            } else if reader.accept("pddl") {
                reader.field("\"\"\"")?;
            } else if reader.accept("grammar") {
                block = Some(reader.field("\"\"\"")?);
            } else {
                return Err(Fault::new(
                    reader.at,
                    "expected \"template\", \"feedback\", \"grammar\", \"pddl\" or \"}\"",
                ));
            }
        }
        self.actions.insert(name, action);
        let Some((at, block)) = block else {
            return Ok(());
        };
        if block.lines().any(|line| line.trim_start().starts_with('#')) {
            // Comment lines are blanked, not removed, so that places stay true.
            let blank = |line: &str| {
                if line.trim_start().starts_with('#') {
                    " ".repeat(line.len())
                } else {
                    line.to_owned()
                }
            };
            let block = block.split('\n').map(blank).collect::<Vec<_>>().join("\n");
            return self.add_rules(at, &block, reader.text);
        }
        self.add_rules(at, block, reader.text)
    }

    /// Adds the symbols of one JSON block; a later block replaces a symbol of an earlier one.
    fn add_rules(&mut self, at: usize, block: &str, text: &str) -> Result<(), Fault> {
        let symbols: FxHashMap<String, Vec<RuleText>> =
            serde_json::from_str(block).map_err(|error| {
                let line_start: usize = block
                    .split_inclusive('\n')
                    .take(error.line().saturating_sub(1))
                    .map(str::len)
                    .sum();
                let offset = (at + line_start + error.column().saturating_sub(1)).min(text.len());
                let message = error.to_string();
                let reason = message.split(" at line ").next().unwrap_or_default();
                Fault::new(
                    offset,
                    format!("a grammar block is not JSON rules: {reason}"),
                )
            })?;
        for (name, rules) in symbols {
            self.symbols.insert(name, (at, rules));
        }
        Ok(())
    }
}

// ---- the rule text ------------------------------------------------------------------------------------------------

#[derive(Debug, PartialEq, Eq)]
enum Symbol<'a> {
    Text(&'a str),
    Call(&'a str),
    Each {
        what: What<'a>,
        given: Option<&'a str>,
        list: bool,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum What<'a> {
    Call(&'a str),
    Eval(&'a str),
}

/// Splits a rule text into symbols, up to the first character that fits none.
fn split_rule(text: &str) -> Vec<Symbol<'_>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut symbols = Vec::new();
    loop {
        let before = scanner.at;
        match scanner.symbol() {
            Some(symbol) => symbols.push(symbol),
            None => return symbols,
        }
        if scanner.at == before || scanner.at == text.len() {
            return symbols;
        }
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Tabs are blanks; at the start of a line so is all white space, and `//` starts a comment.
    fn skip(&mut self) {
        loop {
            let before = self.at;
            self.at += self.rest().len() - self.rest().trim_start_matches('\t').len();
            if self.at == 0 || self.text.as_bytes()[self.at - 1] == b'\n' {
                let rest = self.rest();
                if rest.starts_with("//") {
                    self.at += rest.find('\n').map_or(rest.len(), |end| end + 1);
                } else {
                    self.at += rest.len() - rest.trim_start().len();
                }
            }
            if self.at == before {
                return;
            }
        }
    }

    fn token(&mut self, token: &str) -> Option<()> {
        self.skip();
        self.rest()
            .starts_with(token)
            .then(|| self.at += token.len())
    }

    /// A longest run of characters that pass, at least one.
    fn run(&mut self, pass: impl Fn(char) -> bool) -> Option<&'a str> {
        let rest = self.rest();
        let end = rest.find(|c| !pass(c)).unwrap_or(rest.len());
        self.at += end;
        (end > 0).then(|| &rest[..end])
    }

    /// Tries a reader, and steps back where it fails.
    fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let before = self.at;
        let found = read(self);
        if found.is_none() {
            self.at = before;
        }
        found
    }

    fn symbol(&mut self) -> Option<Symbol<'a>> {
        self.attempt(Self::list)
            .or_else(|| self.attempt(|s| s.each(false)))
            .or_else(|| self.attempt(Self::call).map(Symbol::Call))
            .or_else(|| self.plain())
    }

    fn list(&mut self) -> Option<Symbol<'a>> {
        self.token("[")?;
        let inner = self.each(true)?;
        self.token("]")?;
        Some(inner)
    }

    fn each(&mut self, list: bool) -> Option<Symbol<'a>> {
        self.token("{")?;
        let what = match self.attempt(Self::call) {
            Some(name) => What::Call(name),
            None => {
                self.skip();
                What::Eval(
                    self.run(|c| !matches!(c, '|' | '[' | ']' | '{' | '}' | '\n' | '<' | '>'))?,
                )
            }
        };
        let given = self.attempt(|s| {
            s.run(char::is_whitespace);
            s.rest().starts_with('|').then(|| s.at += 1)?;
            s.run(char::is_whitespace);
            s.skip();
            s.run(|c| !matches!(c, ';' | '|' | '{' | '}' | '\n' | '[' | ']' | '#'))
        });
        self.token("}")?;
        Some(Symbol::Each { what, given, list })
    }

    fn call(&mut self) -> Option<&'a str> {
        self.token("#")?;
        self.skip();
        let name = self.run(is_tag)?;
        self.token("#")?;
        Some(name)
    }

    fn plain(&mut self) -> Option<Symbol<'a>> {
        self.skip();
        let literal =
            |c: char| !matches!(c, ';' | '|' | '"' | '<' | '>' | '[' | ']' | '#' | '{' | '}');
        let quoted = self.attempt(|s| {
            s.token("\"")?;
            let text = s.run(literal).unwrap_or("");
            s.token("\"")?;
            Some(text)
        });
        // An empty plain text moves nothing and ends the rule.
        quoted.or_else(|| self.run(literal)).map(Symbol::Text)
    }
}

fn is_tag(c: char) -> bool {
    is_word(c)
        || c.is_whitespace()
        || matches!(c, '(' | ')' | '/' | '!' | '<' | '>' | '-' | ',' | '.')
}

// ---- the compiler -------------------------------------------------------------------------------------------------

/// What is bound where a symbol is used: placeholders by place, newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Scope<'a>(Vec<Placeholder<'a>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Placeholder<'a> {
    name: &'a str,
    type_name: &'a str,
}

impl Scope<'_> {
    /// The place of a placeholder, by name and type.
    fn place(&self, wanted: Placeholder<'_>) -> Option<Place> {
        self.0
            .iter()
            .position(|known| *known == wanted)
            .map(|place| place as Place)
    }

    /// The place of the newest placeholder with this name.
    fn newest(&self, name: &str) -> Option<Place> {
        self.0
            .iter()
            .rposition(|known| known.name == name)
            .map(|place| place as Place)
    }
}

struct Compiler<'a> {
    text: &'a str,
    domain: &'a Domain,
    document: &'a Document<'a>,
    program: Program,
    known_patterns: FxHashMap<Pattern, usize>,
    done: FxHashMap<(&'a str, Scope<'a>), usize>,
    /// Pieces and query predicates so far.
    pieces: usize,
    /// Symbols being compiled, outermost first.
    open: Vec<&'a str>,
}

/// Reads a grammar text and compiles what the domain's actions and the intro can reach.
pub(crate) fn compile<'d>(text: &'d str, domain: &'d Domain) -> Result<Program, Fault> {
    let document = Document::parse(text)?;
    let mut compiler = Compiler {
        text,
        domain,
        document: &document,
        program: Program::default(),
        known_patterns: FxHashMap::default(),
        done: FxHashMap::default(),
        pieces: 0,
        open: Vec::new(),
    };
    compiler.program.intro = compiler.compile_text("#intro#", &Scope::default(), 0)?;
    compiler.program.task = compiler.optional_procedure("task", &Scope::default(), 0)?;
    for action in &domain.actions {
        let texts = match document.actions.get(&action.name) {
            None => None,
            Some(found) => {
                let placeholder =
                    |(name, type_name): &'d (String, String)| Placeholder { name, type_name };
                let scope = Scope(action.parameters.iter().map(placeholder).collect());
                let need = |field: Option<&'static str>| {
                    Fault::new(
                        found.at,
                        format!(
                            "action {:?} has no {}",
                            action.name,
                            field.unwrap_or_default()
                        ),
                    )
                };
                let template = found.template.ok_or_else(|| need(Some("template")))?;
                let feedback = found.feedback.ok_or_else(|| need(Some("feedback")))?;
                Some(ActionTexts {
                    template: compiler.compile_text(template, &scope, found.at)?,
                    feedback: compiler.compile_text(feedback, &scope, found.at)?,
                })
            }
        };
        compiler.program.actions.push(texts);
    }
    let mut program = compiler.program;
    let mut total = 0;
    for pattern in &program.patterns {
        let signatures = domain.types.signatures(&pattern.types, SIGNATURE_LIMIT);
        let too_many = || {
            let name = &domain.predicates[usize::from(pattern.predicate)].name;
            Fault::new(
                0,
                format!("a query of {name:?} has more than {SIGNATURE_LIMIT} type signatures"),
            )
        };
        let signatures = signatures.ok_or_else(too_many)?;
        total += signatures.len();
        if total > 50 * SIGNATURE_LIMIT {
            return Err(too_many());
        }
        program.signatures.push(signatures);
    }
    Ok(program)
}

impl<'a> Compiler<'a> {
    fn compile_text(
        &mut self,
        text: &'a str,
        scope: &Scope<'a>,
        at: usize,
    ) -> Result<Vec<Piece>, Fault> {
        let mut pieces = Vec::new();
        for symbol in split_rule(text) {
            self.count(1, at)?;
            match symbol {
                Symbol::Text(text) => pieces.push(Piece::Text(text.into())),
                Symbol::Call(name) => pieces.push(Piece::Call(self.procedure(name, scope, at)?)),
                Symbol::Each { what, given, list } => {
                    pieces.push(self.compile_each(&what, given, list, scope, at)?)
                }
            }
        }
        Ok(pieces)
    }

    fn compile_each(
        &mut self,
        what: &What<'a>,
        given: Option<&'a str>,
        list: bool,
        scope: &Scope<'a>,
        at: usize,
    ) -> Result<Piece, Fault> {
        let mut inner = scope.clone();
        let query = given
            .map(|given| self.query(given, &mut inner, at))
            .transpose()?;
        let mut pieces = match what {
            What::Call(name) => vec![Piece::Call(self.procedure(name, &inner, at)?)],
            What::Eval(expression) => compile_expression(expression, &inner, at)?,
        };
        if !list && query.is_none() && pieces.len() == 1 {
            return Ok(pieces.remove(0));
        }
        let list = if list {
            Some(ListWords {
                empty: self.optional_procedure("list_empty", scope, at)?,
                separator: self.optional_procedure("list_separator", scope, at)?,
                last_separator: self.optional_procedure("list_last_separator", scope, at)?,
            })
        } else {
            None
        };
        Ok(Piece::Each {
            pieces,
            query,
            list,
        })
    }

    fn count(&mut self, pieces: usize, at: usize) -> Result<(), Fault> {
        self.pieces += pieces;
        if self.pieces > PIECE_LIMIT {
            return Err(Fault::new(
                at,
                format!("the grammar unfolds into more than {PIECE_LIMIT} pieces"),
            ));
        }
        Ok(())
    }

    fn optional_procedure(
        &mut self,
        name: &'a str,
        scope: &Scope<'a>,
        at: usize,
    ) -> Result<Option<usize>, Fault> {
        if self.document.symbols.contains_key(name) {
            self.procedure(name, scope, at).map(Some)
        } else {
            Ok(None)
        }
    }

    fn procedure(&mut self, name: &'a str, scope: &Scope<'a>, at: usize) -> Result<usize, Fault> {
        let key = (name, scope.clone());
        if let Some(&known) = self.done.get(&key) {
            return Ok(known);
        }
        let document = self.document;
        let (block_at, rules) = match document.symbols.get(name) {
            Some((at, rules)) if !rules.is_empty() => (*at, rules),
            _ => {
                return Err(Fault::new(
                    at,
                    format!("unknown symbol #{name}#{}", self.trail()),
                ));
            }
        };
        if self.open.contains(&name) {
            return Err(Fault::new(
                block_at,
                format!("symbol #{name}# calls itself{}", self.trail()),
            ));
        }
        if self.open.len() == DEPTH_LIMIT {
            return Err(Fault::new(
                block_at,
                format!("symbols call each other deeper than {DEPTH_LIMIT}"),
            ));
        }
        if self.program.procedures.len() >= PROCEDURE_LIMIT {
            return Err(Fault::new(
                block_at,
                format!("the grammar unfolds into more than {PROCEDURE_LIMIT} procedures"),
            ));
        }
        self.open.push(name);
        let rules =
            self.rules(rules, scope, block_at)
                .map_err(|fault| match fault.at == block_at {
                    true => Fault::new(self.place_of(name, block_at), fault.reason),
                    false => fault,
                })?;
        self.open.pop();
        let id = self.program.procedures.len();
        self.program.procedures.push(Procedure {
            symbol: name.to_owned(),
            rules,
        });
        self.done.insert(key, id);
        Ok(id)
    }

    fn rules(
        &mut self,
        rules: &'a [RuleText],
        scope: &Scope<'a>,
        at: usize,
    ) -> Result<Vec<Rule>, Fault> {
        let mut compiled = Vec::with_capacity(rules.len());
        for rule in rules {
            let condition = match rule.condition.as_deref() {
                None | Some("") => None,
                Some(condition) => Some(self.query(condition, &mut scope.clone(), at)?),
            };
            let pieces = self.compile_text(&rule.rhs, scope, at)?;
            let certain = condition.is_none();
            compiled.push(Rule { condition, pieces });
            if certain {
                break;
            }
        }
        Ok(compiled)
    }

    /// Where a symbol is defined, in a block that begins at `block_at`.
    fn place_of(&self, symbol: &str, block_at: usize) -> usize {
        block_at
            + self.text[block_at..]
                .find(&format!("\"{symbol}\""))
                .unwrap_or(0)
    }

    /// How we got here, for messages.
    fn trail(&self) -> String {
        match self.open.last() {
            None => String::new(),
            Some(_) => format!(" (reached through #{}#)", self.open.join("# → #")),
        }
    }

    /// Compiles a query and adds its new placeholders to the scope.
    fn query(&mut self, text: &'a str, scope: &mut Scope<'a>, at: usize) -> Result<usize, Fault> {
        let fault = |reason: String| Fault::new(at, format!("query {text:?}: {reason}"));
        let mut atoms = Vec::new();
        for part in text.split('&') {
            let (name, rest) = part
                .split_once('(')
                .ok_or_else(|| fault("expected predicate(…)".into()))?;
            let inside = rest
                .trim_end()
                .strip_suffix(')')
                .ok_or_else(|| fault("expected ')'".into()))?;
            let (predicate, negated) = self
                .query_predicate(name.trim())
                .ok_or_else(|| fault(format!("unknown predicate {:?}", name.trim())))?;
            let mut arguments = Vec::new();
            let mut types = Vec::new();
            let placeholders = if inside.trim().is_empty() {
                Vec::new()
            } else {
                inside.split(',').collect()
            };
            for placeholder in placeholders {
                let (name, type_name) = placeholder
                    .split_once(':')
                    .unwrap_or((placeholder, placeholder));
                let (name, type_name) = (name.trim(), type_name.trim());
                if name.is_empty() || !name.chars().all(|c| is_word(c) || c == '\'') {
                    return Err(fault(format!("{name:?} is not a placeholder")));
                }
                let unknown = || fault(format!("unknown type {type_name:?}"));
                types.push(self.domain.types.id(type_name).ok_or_else(unknown)?);
                let placeholder = Placeholder { name, type_name };
                arguments.push(match scope.place(placeholder) {
                    Some(place) => Argument::Bound(place),
                    None => {
                        scope.0.push(placeholder);
                        Argument::New((scope.0.len() - 1) as Place)
                    }
                });
            }
            let arity = self.domain.predicates[usize::from(predicate)].arity;
            if types.len() != arity {
                return Err(fault(format!(
                    "{:?} takes {arity} arguments, found {}",
                    name.trim(),
                    types.len()
                )));
            }
            let pattern = Pattern {
                predicate,
                negated,
                types: types.into(),
            };
            let next = self.program.patterns.len();
            let pattern_id = *self.known_patterns.entry(pattern.clone()).or_insert(next);
            if pattern_id == next {
                self.program.patterns.push(pattern);
            }
            atoms.push(QueryAtom {
                pattern: pattern_id,
                arguments,
            });
        }
        if scope.0.len() > SCOPE_LIMIT || atoms.len() > SCOPE_LIMIT {
            return Err(fault(format!(
                "more than {SCOPE_LIMIT} placeholders or predicates"
            )));
        }
        self.count(atoms.len(), at)?;
        self.program.queries.push(atoms);
        Ok(self.program.queries.len() - 1)
    }

    /// `p` asks what holds, `not_p` and `!p` what was made false.
    fn query_predicate(&self, name: &str) -> Option<(PredicateId, bool)> {
        let find = |name: &str| self.domain.predicate_ids.get(name).copied();
        match name.strip_prefix('!') {
            Some(plain) => find(plain).map(|id| (id, true)),
            None => find(name)
                .map(|id| (id, false))
                .or_else(|| Some((find(name.strip_prefix("not_")?)?, true))),
        }
    }
}

// ---- expressions --------------------------------------------------------------------------------------------------

/// What an expression is worth: an object itself, or a text.
enum Value {
    Object(Place),
    Text(Vec<Piece>),
}

/// Compiles `x`, `x.name`, `'text'`, `a + b`, `a or b` and parentheses; nothing else of Python.
fn compile_expression(text: &str, scope: &Scope<'_>, at: usize) -> Result<Vec<Piece>, Fault> {
    let fault = |reason: String| Fault::new(at, format!("expression {text:?}: {reason}"));
    let mut parser = ExpressionParser {
        rest: text.trim(),
        scope,
        depth: 0,
    };
    let value = parser.alternatives().map_err(fault)?;
    if !parser.rest.trim().is_empty() {
        return Err(fault(format!("cannot read {:?}", parser.rest.trim())));
    }
    Ok(match value {
        Value::Object(place) => vec![Piece::Show(place, Attribute::Name)],
        Value::Text(pieces) => pieces,
    })
}

struct ExpressionParser<'a> {
    rest: &'a str,
    scope: &'a Scope<'a>,
    depth: usize,
}

impl<'a> ExpressionParser<'a> {
    fn accept(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let Some(rest) = self.rest.strip_prefix(token) else {
            return false;
        };
        if token == "or" && rest.starts_with(is_word) {
            return false;
        }
        self.rest = rest;
        true
    }

    fn alternatives(&mut self) -> Result<Value, String> {
        let mut value = self.sum()?;
        while self.accept("or") {
            let other = self.sum()?;
            // Names, ids and types are never empty; only an empty literal gives way.
            if matches!(&value, Value::Text(pieces) if pieces.iter().all(|p| matches!(p, Piece::Text(t) if t.is_empty())))
            {
                value = other;
            }
        }
        Ok(value)
    }

    fn sum(&mut self) -> Result<Value, String> {
        let mut value = self.term()?;
        while self.accept("+") {
            match (value, self.term()?) {
                (Value::Text(mut left), Value::Text(right)) => {
                    left.extend(right);
                    value = Value::Text(left);
                }
                _ => return Err("only texts can be added; an object needs .name".to_owned()),
            }
        }
        Ok(value)
    }

    fn term(&mut self) -> Result<Value, String> {
        if self.accept("(") {
            self.depth += 1;
            if self.depth > DEPTH_LIMIT {
                return Err(format!("nested deeper than {DEPTH_LIMIT}"));
            }
            let value = self.alternatives()?;
            self.depth -= 1;
            return if self.accept(")") {
                Ok(value)
            } else {
                Err("expected ')'".to_owned())
            };
        }
        for quote in ["'", "\""] {
            if self.accept(quote) {
                let end = self.rest.find(quote).ok_or("a text is never closed")?;
                let text = &self.rest[..end];
                self.rest = &self.rest[end + 1..];
                return Ok(Value::Text(vec![Piece::Text(text.into())]));
            }
        }
        let name = self.identifier()?;
        let place = self
            .scope
            .newest(name)
            .ok_or_else(|| format!("unknown variable {name:?}"))?;
        if !self.accept(".") {
            return Ok(Value::Object(place));
        }
        let piece = match self.identifier()? {
            "name" => Piece::Show(place, Attribute::Name),
            "id" => Piece::Show(place, Attribute::Id),
            "type" => Piece::Show(place, Attribute::Type),
            "definite" => Piece::Text("the".into()),
            "indefinite" => Piece::Text("a".into()),
            other => {
                return Err(format!(
                    "unknown attribute {other:?}; known: name, id, type, definite, indefinite"
                ));
            }
        };
        Ok(Value::Text(vec![piece]))
    }

    fn identifier(&mut self) -> Result<&'a str, String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        if name.is_empty() {
            Err(format!("expected a variable at {rest:?}"))
        } else {
            Ok(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each<'a>(expression: &'a str, given: Option<&'a str>, list: bool) -> Symbol<'a> {
        Symbol::Each {
            what: What::Eval(expression),
            given,
            list,
        }
    }

    /// Every row was printed by TextWorld's own parser.
    #[test]
    fn rule_texts_split_as_textworld_splits_them() {
        let rows: Vec<(&str, Vec<Symbol<'_>>)> = vec![
            ("a;b#c#", vec![Symbol::Text("a")]),
            ("x <b> y", vec![Symbol::Text("x ")]),
            (
                "hi {o.name} (in)} tail",
                vec![
                    Symbol::Text("hi "),
                    each("o.name", None, false),
                    Symbol::Text(" (in)"),
                ],
            ),
            (
                "\n\n  lead\n#a#\n b",
                vec![
                    Symbol::Text("lead\n"),
                    Symbol::Call("a"),
                    Symbol::Text("\n b"),
                ],
            ),
            ("#a#\tfoo", vec![Symbol::Call("a"), Symbol::Text("foo")]),
            ("// c\nx", vec![Symbol::Text("x")]),
            (
                "say \"hi\" there",
                vec![
                    Symbol::Text("say "),
                    Symbol::Text("hi"),
                    Symbol::Text(" there"),
                ],
            ),
            ("say \"hi there", vec![Symbol::Text("say ")]),
            (
                "#a#  #b#",
                vec![Symbol::Call("a"), Symbol::Text("  "), Symbol::Call("b")],
            ),
            (
                "[{o.name|p(o)}] x",
                vec![each("o.name", Some("p(o)"), true), Symbol::Text(" x")],
            ),
            (
                "{o.name  |  p(o:t) & q(o:t)}",
                vec![each("o.name  ", Some("p(o:t) & q(o:t)"), false)],
            ),
            ("#a b#", vec![Symbol::Call("a b")]),
            ("#a#//b", vec![Symbol::Call("a"), Symbol::Text("//b")]),
            (
                "x\n\n  {o.name}",
                vec![Symbol::Text("x\n\n  "), each("o.name", None, false)],
            ),
            (
                "a\n//c {o.name}",
                vec![Symbol::Text("a\n//c "), each("o.name", None, false)],
            ),
            ("a [b] c", vec![Symbol::Text("a ")]),
        ];
        for (text, expected) in rows {
            assert_eq!(split_rule(text), expected, "{text:?}");
        }
    }
}
