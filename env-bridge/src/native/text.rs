//! Text rendering: runs the compiled grammar over the facts of a state.

use super::bits::bit;
use super::grammar::{
    FramePlace, ListWords, ObjectAttribute, Piece, Program, QueryArgument, QueryAtom,
};
use super::ground::{FactTable, Grounded, STATIC};
use super::pddl::{Domain, TypeId};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// The largest length in bytes of a text, and of all commands of a game together.
const TEXT_LIMIT: usize = 8 << 20;
/// The largest number of facts and pieces that a text visits, and all commands of a game together.
const WORK_LIMIT: u32 = 10_000_000;

/// Set in an object of a frame if the type of the placeholder is not the object's own type.
/// TextWorld treats the two as different objects.
pub(crate) const FOREIGN: u16 = 1 << 15;

/// The texts for an object.
#[derive(Debug)]
pub(crate) struct ObjectText {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) type_id: TypeId,
}

/// The facts of one predicate, sorted by object numbers, which is the order of raw ids.
#[derive(Debug, Default)]
struct FactRelation {
    arity: usize,
    args: Vec<u16>,
    atoms: Vec<u32>,
    /// By row: its signature, as a number in `signatures`.
    signature: Vec<u32>,
    signatures: FxHashMap<Box<[TypeId]>, u32>,
    /// By argument position, if a query needs it: the rows by object.
    by: Vec<Option<RowIndex>>,
}

/// The rows by object.
#[derive(Debug)]
struct RowIndex {
    /// By object: its start in `rows`. Then the length of `rows`.
    starts: Vec<u32>,
    rows: Vec<u32>,
}

/// A pattern of the grammar, linked to the facts of a game.
#[derive(Debug)]
struct PatternLink {
    relation: usize,
    negated: bool,
    /// The relation's signatures to visit, in order. If all rows have the same signature, each
    /// visit is [`ANY`].
    visits: Vec<u32>,
}

const ANY: u32 = u32::MAX;

/// The changing facts of a state, one bit per fluent: whether the texts read it as true, and
/// whether they read it as made false by an effect.
#[derive(Clone, Copy)]
pub(crate) struct TextFacts<'a> {
    pub(crate) holds: &'a [u64],
    pub(crate) made_false: &'a [u64],
}

/// Renders the texts of a game.
#[derive(Debug)]
pub(crate) struct TextRenderer {
    domain: Arc<Domain>,
    program: Arc<Program>,
    relations: Vec<FactRelation>,
    links: Vec<PatternLink>,
    pub(crate) objects: Vec<ObjectText>,
}

impl TextRenderer {
    pub(crate) fn new(
        domain: Arc<Domain>,
        program: Arc<Program>,
        grounded: &Grounded,
        objects: Vec<ObjectText>,
    ) -> Self {
        let mut renderer = Self {
            domain,
            program,
            relations: Vec::new(),
            links: Vec::new(),
            objects,
        };
        renderer.link_patterns(grounded);
        renderer.index_relations();
        renderer
    }

    /// Builds the relations that the grammar reads, and the link of every pattern.
    fn link_patterns(&mut self, grounded: &Grounded) {
        let program = self.program.clone();
        let mut relation_of = vec![usize::MAX; self.domain.predicates.len()];
        for pattern in &program.patterns {
            let known = &mut relation_of[usize::from(pattern.predicate)];
            if *known == usize::MAX {
                *known = self.relations.len();
                let table = &grounded.tables[usize::from(pattern.predicate)];
                self.relations.push(FactRelation::new(table, &self.objects));
            }
        }
        for (pattern, signatures) in program.patterns.iter().zip(&program.signatures) {
            let relation_index = relation_of[usize::from(pattern.predicate)];
            let relation = &self.relations[relation_index];
            let mut visits: Vec<u32> = signatures
                .iter()
                .filter_map(|wanted| relation.signatures.get(wanted).copied())
                .collect();
            if relation.signatures.len() == 1 {
                visits.fill(ANY);
            }
            self.links.push(PatternLink {
                relation: relation_index,
                negated: pattern.negated,
                visits,
            });
        }
    }

    /// Builds the row index of every argument position that a query binds before.
    fn index_relations(&mut self) {
        for atom in self.program.queries.iter().flatten() {
            let relation = self.links[atom.pattern].relation;
            for (position, argument) in atom.arguments.iter().enumerate() {
                if matches!(argument, QueryArgument::Bound(_)) {
                    self.relations[relation].ensure_index(position, self.objects.len());
                }
            }
        }
    }

    /// Returns whether everything that a text reads never changes.
    pub(crate) fn is_fixed(&self, pieces: &[Piece]) -> bool {
        let program = &*self.program;
        program
            .queries_of(pieces)
            .into_iter()
            .flat_map(|query| &program.queries[query])
            .all(|atom| {
                let link = &self.links[atom.pattern];
                !link.negated
                    && self.relations[link.relation]
                        .atoms
                        .iter()
                        .all(|atom| *atom == STATIC)
            })
    }

    /// Appends a text. The objects of `frame` are bound to the first places. `work` counts the
    /// facts and pieces visited.
    pub(crate) fn render(
        &self,
        facts: TextFacts<'_>,
        pieces: &[Piece],
        frame: Vec<u16>,
        text: &mut String,
        work: &mut u32,
    ) -> Result<(), String> {
        let mut rendering = Rendering {
            renderer: self,
            facts,
            frame,
            answers: Vec::new(),
            work,
            text,
        };
        rendering.render(pieces)
    }
}

impl FactRelation {
    fn new(table: &FactTable, objects: &[ObjectText]) -> Self {
        let arity = table.arity;
        let mut order: Vec<u32> = (0..table.count() as u32).collect();
        order.sort_unstable_by_key(|row| {
            table
                .row(*row as usize)
                .iter()
                .fold(0u128, |key, object| key << 16 | u128::from(*object))
        });
        let mut relation = Self {
            arity,
            by: (0..arity).map(|_| None).collect(),
            ..Self::default()
        };
        let mut types: Vec<TypeId> = Vec::with_capacity(arity);
        for row in order {
            let args = table.row(row as usize);
            types.clear();
            types.extend(
                args.iter()
                    .map(|object| objects[usize::from(*object)].type_id),
            );
            let next = relation.signatures.len() as u32;
            let signature = match relation.signatures.get(&types[..]) {
                Some(known) => *known,
                None => *relation
                    .signatures
                    .entry(types.clone().into())
                    .or_insert(next),
            };
            relation.args.extend_from_slice(args);
            relation.atoms.push(if table.fluent {
                table.atoms[row as usize]
            } else {
                STATIC
            });
            relation.signature.push(signature);
        }
        relation
    }

    fn row(&self, row: usize) -> &[u16] {
        &self.args[row * self.arity..(row + 1) * self.arity]
    }

    /// Builds the row index of a position if there is none.
    fn ensure_index(&mut self, position: usize, objects: usize) {
        if self.by[position].is_some() {
            return;
        }
        let mut starts = vec![0u32; objects + 1];
        for row in 0..self.atoms.len() {
            starts[usize::from(self.row(row)[position]) + 1] += 1;
        }
        for object in 0..objects {
            starts[object + 1] += starts[object];
        }
        let mut next = starts.clone();
        let mut rows = vec![0u32; self.atoms.len()];
        for row in 0..self.atoms.len() {
            let place = &mut next[usize::from(self.row(row)[position])];
            rows[*place as usize] = row as u32;
            *place += 1;
        }
        self.by[position] = Some(RowIndex { starts, rows });
    }
}

impl RowIndex {
    fn rows_of(&self, object: usize) -> &[u32] {
        &self.rows[self.starts[object] as usize..self.starts[object + 1] as usize]
    }
}

/// One text under construction.
struct Rendering<'a> {
    renderer: &'a TextRenderer,
    facts: TextFacts<'a>,
    frame: Vec<u16>,
    /// The new places of every answer of the open queries, end to end.
    answers: Vec<u16>,
    work: &'a mut u32,
    text: &'a mut String,
}

/// The rows that can match a query atom.
#[derive(Clone, Copy)]
enum MatchingRows<'a> {
    None,
    All(usize),
    Listed(&'a [u32]),
}

impl<'a> Rendering<'a> {
    fn render(&mut self, pieces: &[Piece]) -> Result<(), String> {
        for piece in pieces {
            self.spend(1)?;
            match piece {
                Piece::Text(text) => self.text.push_str(text),
                Piece::Show(place, attribute) => self.show(*place, *attribute),
                Piece::Call(procedure) => self.call(*procedure)?,
                Piece::Each {
                    pieces,
                    query,
                    list,
                } => self.each(pieces, *query, list.as_ref())?,
            }
        }
        if self.text.len() > TEXT_LIMIT {
            return Err(format!("the text is longer than {TEXT_LIMIT} bytes"));
        }
        Ok(())
    }

    fn spend(&mut self, work: usize) -> Result<(), String> {
        *self.work = self.work.saturating_add(work as u32);
        if *self.work > WORK_LIMIT {
            return Err(format!(
                "the text needs more than {WORK_LIMIT} facts and pieces"
            ));
        }
        Ok(())
    }

    fn show(&mut self, place: FramePlace, attribute: ObjectAttribute) {
        let object = self.frame[usize::from(place)] & !FOREIGN;
        let object = &self.renderer.objects[usize::from(object)];
        self.text.push_str(match attribute {
            ObjectAttribute::Name => &object.name,
            ObjectAttribute::Id => &object.id,
            ObjectAttribute::Type => &self.renderer.domain.types.names[usize::from(object.type_id)],
        });
    }

    fn call(&mut self, procedure: usize) -> Result<(), String> {
        let program: &'a Program = &self.renderer.program;
        let procedure = &program.procedures[procedure];
        for rule in &procedure.rules {
            let applies = match rule.condition {
                None => true,
                Some(query) => self.has_answer(&program.queries[query])?,
            };
            if applies {
                return self.render(&rule.pieces);
            }
        }
        Err(format!("no rule of #{}# applies", procedure.symbol))
    }

    fn has_answer(&mut self, query: &'a [QueryAtom]) -> Result<bool, String> {
        let places = self.frame.len();
        let mut found = false;
        self.solve(query, &mut |_| {
            found = true;
            false
        })?;
        self.frame.truncate(places);
        Ok(found)
    }

    fn each(
        &mut self,
        pieces: &[Piece],
        query: Option<usize>,
        list: Option<&ListWords>,
    ) -> Result<(), String> {
        let Some(query) = query else {
            return self.render(pieces);
        };
        let renderer = self.renderer;
        let places = self.frame.len();
        let first = self.answers.len();
        let mut answers = std::mem::take(&mut self.answers);
        let mut count = 0;
        let solved = self.solve(&renderer.program.queries[query], &mut |frame| {
            answers.extend_from_slice(&frame[places..]);
            count += 1;
            true
        });
        self.answers = answers;
        solved?;
        if let (0, Some(words)) = (count, list) {
            return self.word(words.empty, "list_empty");
        }
        let size = (self.answers.len() - first).checked_div(count).unwrap_or(0);
        for answer in 0..count {
            match list {
                Some(words) if answer > 0 && answer + 1 == count => {
                    self.word(words.last_separator, "list_last_separator")?
                }
                Some(words) if answer > 0 => self.word(words.separator, "list_separator")?,
                _ => {}
            }
            let from = first + answer * size;
            self.frame
                .extend_from_slice(&self.answers[from..from + size]);
            self.render(pieces)?;
            self.frame.truncate(places);
        }
        self.answers.truncate(first);
        Ok(())
    }

    fn word(&mut self, procedure: Option<usize>, symbol: &str) -> Result<(), String> {
        self.call(procedure.ok_or_else(|| format!("unknown symbol #{symbol}#"))?)
    }

    /// Calls `answer` with the frame of every answer, in order, until it returns `false`. Returns
    /// whether it always returned `true`, and leaves the frame unchanged.
    fn solve(
        &mut self,
        query: &'a [QueryAtom],
        answer: &mut dyn FnMut(&[u16]) -> bool,
    ) -> Result<bool, String> {
        let Some((atom, rest)) = query.split_first() else {
            return Ok(answer(&self.frame));
        };
        let renderer = self.renderer;
        let link = &renderer.links[atom.pattern];
        let relation = &renderer.relations[link.relation];
        let places = self.frame.len();
        let rows = self.matching_rows(atom, relation);
        let count = match rows {
            MatchingRows::None => return Ok(true),
            MatchingRows::All(count) => count,
            MatchingRows::Listed(rows) => rows.len(),
        };
        for visit in &link.visits {
            self.spend(count)?;
            for index in 0..count {
                let row = match rows {
                    MatchingRows::Listed(rows) => rows[index] as usize,
                    _ => index,
                };
                if *visit != ANY && relation.signature[row] != *visit {
                    continue;
                }
                if !self.facts.contains(relation.atoms[row], link.negated) {
                    continue;
                }
                let go_on = !self.bind(atom, relation.row(row)) || self.solve(rest, answer)?;
                self.frame.truncate(places);
                if !go_on {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Returns the shortest list of rows that agree with a bound argument, or all rows.
    fn matching_rows(&self, atom: &QueryAtom, relation: &'a FactRelation) -> MatchingRows<'a> {
        let mut shortest: Option<&[u32]> = None;
        for (position, argument) in atom.arguments.iter().enumerate() {
            let (QueryArgument::Bound(place), Some(index)) = (argument, &relation.by[position])
            else {
                continue;
            };
            // If the same atom binds the place, there is no object yet.
            let Some(object) = self.frame.get(usize::from(*place)) else {
                continue;
            };
            if *object >= FOREIGN {
                return MatchingRows::None;
            }
            let rows = index.rows_of(usize::from(*object));
            if shortest.is_none_or(|best| rows.len() < best.len()) {
                shortest = Some(rows);
            }
        }
        shortest.map_or(
            MatchingRows::All(relation.atoms.len()),
            MatchingRows::Listed,
        )
    }

    /// Matches the arguments of an atom against a row, and appends the new objects to the frame.
    /// Returns `false` if an argument does not match.
    fn bind(&mut self, atom: &QueryAtom, row: &[u16]) -> bool {
        atom.arguments
            .iter()
            .zip(row)
            .all(|(argument, object)| match argument {
                QueryArgument::Bound(place) => self.frame[usize::from(*place)] == *object,
                QueryArgument::New(_) => {
                    let is_new = !self.frame.contains(object);
                    self.frame.push(*object);
                    is_new
                }
            })
    }
}

impl TextFacts<'_> {
    /// Returns whether a fact is true, or, if `negated`, whether an effect made it false.
    fn contains(self, atom: u32, negated: bool) -> bool {
        match (atom, negated) {
            (STATIC, negated) => !negated,
            (atom, false) => bit(self.holds, atom),
            (atom, true) => bit(self.made_false, atom),
        }
    }
}
