//! Compiles a grammar text into a program.

use super::document::{ActionBlock, Document, RuleText, is_word};
use super::expression::compile_expression;
use super::program::{
    ActionTexts, FramePlace, GrammarRule, ListWords, Piece, Procedure, Program, QueryArgument,
    QueryAtom, QueryPattern, SCOPE_LIMIT,
};
use super::rule_text::{EachContent, TextSymbol, split_rule};
use super::scope::{Placeholder, PlaceholderScope};
use crate::error::Fault;
use crate::native::pddl::{Action, Domain, PredicateId, TypeId};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// The largest depth of symbols that call each other.
const DEPTH_LIMIT: usize = 100;
/// The largest number of procedures in the program.
const PROCEDURE_LIMIT: usize = 20_000;
/// The largest number of pieces and query predicates together in the program.
const PIECE_LIMIT: usize = 1_000_000;
/// The largest number of type signatures of a query.
const SIGNATURE_LIMIT: usize = 20_000;

/// Parses a grammar text and compiles everything that the domain's actions and the intro can reach.
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
    let empty = PlaceholderScope::default();
    compiler.program.intro = compiler.text("#intro#", &empty, 0)?;
    compiler.program.task = compiler.optional_procedure("task", &empty, 0)?;
    for action in &domain.actions {
        let texts = match document.actions.get(&action.name) {
            None => None,
            Some(block) => Some(compiler.action(action, block)?),
        };
        compiler.program.actions.push(texts);
    }
    let templates: BTreeSet<&str> = document
        .actions
        .values()
        .filter_map(|block| block.template)
        .collect();
    compiler.program.templates = templates.into_iter().map(Into::into).collect();
    let mut program = compiler.program;
    let mut total = 0;
    for pattern in &program.patterns {
        let signatures = domain
            .types
            .signatures(&pattern.types, SIGNATURE_LIMIT)
            .ok_or_else(|| too_many_signatures(pattern, domain))?;
        total += signatures.len();
        if total > 50 * SIGNATURE_LIMIT {
            return Err(too_many_signatures(pattern, domain));
        }
        program.signatures.push(signatures);
    }
    Ok(program)
}

fn too_many_signatures(pattern: &QueryPattern, domain: &Domain) -> Fault {
    let name = &domain.predicates[usize::from(pattern.predicate)].name;
    Fault::new(
        0,
        format!("a query of {name:?} has more than {SIGNATURE_LIMIT} type signatures"),
    )
}

struct Compiler<'a> {
    text: &'a str,
    domain: &'a Domain,
    document: &'a Document<'a>,
    program: Program,
    known_patterns: FxHashMap<QueryPattern, usize>,
    /// The compiled procedures, by symbol and scope.
    done: FxHashMap<(&'a str, PlaceholderScope<'a>), usize>,
    /// The number of pieces and query predicates so far.
    pieces: usize,
    /// The symbols being compiled, outermost first.
    open: Vec<&'a str>,
}

/// One use of a placeholder in a query.
struct QueryPlaceholder<'a> {
    placeholder: Placeholder<'a>,
    type_id: TypeId,
}

impl<'a> Compiler<'a> {
    fn action(
        &mut self,
        action: &'a Action,
        block: &ActionBlock<'a>,
    ) -> Result<ActionTexts, Fault> {
        let mut scope = PlaceholderScope::default();
        for (name, type_name) in &action.parameters {
            scope.0.push(Placeholder { name, type_name });
        }
        let template = block
            .template
            .ok_or_else(|| missing_field(action, block, "template"))?;
        let feedback = block
            .feedback
            .ok_or_else(|| missing_field(action, block, "feedback"))?;
        Ok(ActionTexts {
            template: self.text(template, &scope, block.at)?,
            feedback: self.text(feedback, &scope, block.at)?,
        })
    }

    fn text(
        &mut self,
        text: &'a str,
        scope: &PlaceholderScope<'a>,
        at: usize,
    ) -> Result<Vec<Piece>, Fault> {
        let mut pieces = Vec::new();
        for symbol in split_rule(text) {
            self.count(1, at)?;
            match symbol {
                TextSymbol::Text(text) => pieces.push(Piece::Text(text.into())),
                TextSymbol::Call(name) => {
                    pieces.push(Piece::Call(self.procedure(name, scope, at)?))
                }
                TextSymbol::Each {
                    content,
                    query,
                    list,
                } => pieces.push(self.each(&content, query, list, scope, at)?),
            }
        }
        Ok(pieces)
    }

    fn each(
        &mut self,
        content: &EachContent<'a>,
        query: Option<&'a str>,
        list: bool,
        scope: &PlaceholderScope<'a>,
        at: usize,
    ) -> Result<Piece, Fault> {
        let mut inner = scope.clone();
        let query = query
            .map(|query| self.query(query, &mut inner, at))
            .transpose()?;
        let mut pieces = match content {
            EachContent::Call(name) => vec![Piece::Call(self.procedure(name, &inner, at)?)],
            EachContent::Expression(expression) => compile_expression(expression, &inner, at)?,
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

    /// Counts pieces. Returns a fault if there are too many.
    fn count(&mut self, pieces: usize, at: usize) -> Result<(), Fault> {
        self.pieces += pieces;
        if self.pieces > PIECE_LIMIT {
            return Err(Fault::new(
                at,
                format!("the grammar expands into more than {PIECE_LIMIT} pieces"),
            ));
        }
        Ok(())
    }

    /// Returns the procedure of a symbol, or `None` if the grammar does not have the symbol.
    fn optional_procedure(
        &mut self,
        name: &'a str,
        scope: &PlaceholderScope<'a>,
        at: usize,
    ) -> Result<Option<usize>, Fault> {
        if self.document.symbols.contains_key(name) {
            self.procedure(name, scope, at).map(Some)
        } else {
            Ok(None)
        }
    }

    fn procedure(
        &mut self,
        name: &'a str,
        scope: &PlaceholderScope<'a>,
        at: usize,
    ) -> Result<usize, Fault> {
        let key = (name, scope.clone());
        if let Some(&known) = self.done.get(&key) {
            return Ok(known);
        }
        let document = self.document;
        let symbol = document
            .symbols
            .get(name)
            .filter(|symbol| !symbol.rules.is_empty())
            .ok_or_else(|| Fault::new(at, format!("unknown symbol #{name}#{}", self.trail())))?;
        self.check_call(name, symbol.at)?;
        self.open.push(name);
        let rules = self
            .rules(&symbol.rules, scope, symbol.at)
            .map_err(|fault| {
                if fault.at == symbol.at {
                    Fault::new(self.place_of(name, symbol.at), fault.reason)
                } else {
                    fault
                }
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

    /// Returns a fault if a symbol must not be compiled inside the open ones.
    fn check_call(&self, name: &str, at: usize) -> Result<(), Fault> {
        let reason = if self.open.contains(&name) {
            format!("symbol #{name}# calls itself{}", self.trail())
        } else if self.open.len() == DEPTH_LIMIT {
            format!("symbols call each other deeper than {DEPTH_LIMIT}")
        } else if self.program.procedures.len() >= PROCEDURE_LIMIT {
            format!("the grammar expands into more than {PROCEDURE_LIMIT} procedures")
        } else {
            return Ok(());
        };
        Err(Fault::new(at, reason))
    }

    fn rules(
        &mut self,
        rules: &'a [RuleText],
        scope: &PlaceholderScope<'a>,
        at: usize,
    ) -> Result<Vec<GrammarRule>, Fault> {
        let mut compiled = Vec::with_capacity(rules.len());
        for rule in rules {
            let condition = match rule.condition.as_deref() {
                None | Some("") => None,
                Some(condition) => Some(self.query(condition, &mut scope.clone(), at)?),
            };
            let pieces = self.text(&rule.rhs, scope, at)?;
            let is_last = condition.is_none();
            compiled.push(GrammarRule { condition, pieces });
            if is_last {
                break;
            }
        }
        Ok(compiled)
    }

    /// Returns the byte where a symbol is defined, in a block that starts at `block_at`.
    fn place_of(&self, symbol: &str, block_at: usize) -> usize {
        block_at
            + self.text[block_at..]
                .find(&format!("\"{symbol}\""))
                .unwrap_or(0)
    }

    /// Returns the open symbols, for messages.
    fn trail(&self) -> String {
        match self.open.last() {
            None => String::new(),
            Some(_) => format!(" (reached through #{}#)", self.open.join("# → #")),
        }
    }

    /// Compiles a query and adds its new placeholders to the scope. Returns its number.
    fn query(
        &mut self,
        text: &'a str,
        scope: &mut PlaceholderScope<'a>,
        at: usize,
    ) -> Result<usize, Fault> {
        let atoms = self
            .query_atoms(text, scope)
            .map_err(|reason| Fault::new(at, format!("query {text:?}: {reason}")))?;
        self.count(atoms.len(), at)?;
        self.program.queries.push(atoms);
        Ok(self.program.queries.len() - 1)
    }

    fn query_atoms(
        &mut self,
        text: &'a str,
        scope: &mut PlaceholderScope<'a>,
    ) -> Result<Vec<QueryAtom>, String> {
        let mut atoms = Vec::new();
        for part in text.split('&') {
            atoms.push(self.query_atom(part, scope)?);
        }
        if scope.0.len() > SCOPE_LIMIT || atoms.len() > SCOPE_LIMIT {
            return Err(format!(
                "more than {SCOPE_LIMIT} placeholders or predicates"
            ));
        }
        Ok(atoms)
    }

    /// Compiles `predicate(x:type, …)`.
    fn query_atom(
        &mut self,
        text: &'a str,
        scope: &mut PlaceholderScope<'a>,
    ) -> Result<QueryAtom, String> {
        let (name, rest) = text.split_once('(').ok_or("expected predicate(…)")?;
        let name = name.trim();
        let inside = rest.trim_end().strip_suffix(')').ok_or("expected ')'")?;
        let (predicate, negated) = self
            .query_predicate(name)
            .ok_or_else(|| format!("unknown predicate {name:?}"))?;
        let mut arguments = Vec::new();
        let mut types = Vec::new();
        if !inside.trim().is_empty() {
            for part in inside.split(',') {
                let used = self.query_placeholder(part)?;
                types.push(used.type_id);
                arguments.push(bind(used.placeholder, scope));
            }
        }
        let arity = self.domain.predicates[usize::from(predicate)].arity;
        if types.len() != arity {
            return Err(format!(
                "{name:?} takes {arity} arguments, found {}",
                types.len()
            ));
        }
        let pattern = self.pattern(QueryPattern {
            predicate,
            negated,
            types: types.into(),
        });
        Ok(QueryAtom { pattern, arguments })
    }

    /// Parses `x:type`, or `x` for a placeholder whose type has the same name.
    fn query_placeholder(&self, text: &'a str) -> Result<QueryPlaceholder<'a>, String> {
        let (name, type_name) = text.split_once(':').unwrap_or((text, text));
        let name = name.trim();
        let type_name = type_name.trim();
        if name.is_empty() || !name.chars().all(|c| is_word(c) || c == '\'') {
            return Err(format!("{name:?} is not a placeholder"));
        }
        let type_id = self
            .domain
            .types
            .id(type_name)
            .ok_or_else(|| format!("unknown type {type_name:?}"))?;
        Ok(QueryPlaceholder {
            placeholder: Placeholder { name, type_name },
            type_id,
        })
    }

    /// Returns the predicate, and whether the query reads what was made false (`not_p` or `!p`).
    fn query_predicate(&self, name: &str) -> Option<(PredicateId, bool)> {
        let ids = &self.domain.predicate_ids;
        if let Some(plain) = name.strip_prefix('!') {
            return ids.get(plain).map(|id| (*id, true));
        }
        if let Some(id) = ids.get(name) {
            return Some((*id, false));
        }
        let plain = name.strip_prefix("not_")?;
        ids.get(plain).map(|id| (*id, true))
    }

    /// Returns the number of a pattern. Equal patterns have the same number.
    fn pattern(&mut self, pattern: QueryPattern) -> usize {
        let next = self.program.patterns.len();
        let id = *self.known_patterns.entry(pattern.clone()).or_insert(next);
        if id == next {
            self.program.patterns.push(pattern);
        }
        id
    }
}

fn missing_field(action: &Action, block: &ActionBlock<'_>, field: &str) -> Fault {
    Fault::new(block.at, format!("action {:?} has no {field}", action.name))
}

/// Returns how a placeholder relates to the frame. If it is new, adds it to the scope.
fn bind<'a>(placeholder: Placeholder<'a>, scope: &mut PlaceholderScope<'a>) -> QueryArgument {
    match scope.place(placeholder) {
        Some(place) => QueryArgument::Bound(place),
        None => {
            scope.0.push(placeholder);
            QueryArgument::New((scope.0.len() - 1) as FramePlace)
        }
    }
}
