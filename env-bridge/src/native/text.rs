//! Telling: runs the compiled grammar over a state. Knows which facts there are, not how they come about.

use super::grammar::{Argument, Attribute, ListWords, Piece, Program, QueryAtom};
use super::ground::{Grounded, STATIC};
use super::pddl::{Domain, TypeId};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// A text may be this long, in bytes; so may all commands of a game together.
const TEXT_LIMIT: usize = 8 << 20;
/// A text may take this many facts and pieces; so may all commands of a game together.
const WORK_LIMIT: u32 = 10_000_000;

/// Set in a frame where the placeholder's type is not the object's own: TextWorld then takes them for different.
pub(crate) const FOREIGN: u16 = 1 << 15;

/// What an object is called.
#[derive(Debug)]
pub(crate) struct ObjectText {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) type_id: TypeId,
}

/// The rows of one predicate, sorted by object numbers, which is by raw id.
#[derive(Debug, Default)]
struct Relation {
    arity: usize,
    args: Vec<u16>,
    atoms: Vec<u32>,
    /// By row: which of `signatures` it has.
    signature: Vec<u32>,
    signatures: FxHashMap<Box<[TypeId]>, u32>,
    /// By argument position, where a query needs it: starts by object, and rows.
    by: Vec<Option<(Vec<u32>, Vec<u32>)>>,
}

/// A pattern of the grammar, linked to this game's facts.
#[derive(Debug)]
struct Link {
    relation: usize,
    negated: bool,
    /// The relation's signatures to visit, in order; a single [`ANY`] where all rows have the same.
    visits: Vec<u32>,
}

const ANY: u32 = u32::MAX;

/// The facts a state adds to what never changes: by fluent, whether it is told to hold, and to have been made false.
#[derive(Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) holds: &'a [u64],
    pub(crate) made_false: &'a [u64],
}

pub(crate) fn bit(words: &[u64], index: u32) -> bool {
    words[(index >> 6) as usize] >> (index & 63) & 1 == 1
}

/// Everything needed to turn a state into text.
#[derive(Debug)]
pub(crate) struct Narrator {
    domain: Arc<Domain>,
    program: Arc<Program>,
    relations: Vec<Relation>,
    links: Vec<Link>,
    pub(crate) objects: Vec<ObjectText>,
}

/// One text in the making.
struct Telling<'a> {
    narrator: &'a Narrator,
    told: Told<'a>,
    frame: Vec<u16>,
    answers: Vec<u16>,
    work: &'a mut u32,
    text: &'a mut String,
}

impl Narrator {
    pub(crate) fn new(
        domain: Arc<Domain>,
        program: Arc<Program>,
        grounded: &Grounded,
        objects: Vec<ObjectText>,
    ) -> Self {
        let mut relation_of = vec![usize::MAX; domain.predicates.len()];
        let (relations, links) = (Vec::new(), Vec::new());
        let mut narrator = Self {
            domain,
            program: program.clone(),
            relations,
            links,
            objects,
        };
        for pattern in &program.patterns {
            let known = &mut relation_of[usize::from(pattern.predicate)];
            if *known == usize::MAX {
                *known = narrator.relations.len();
                let table = &grounded.tables[usize::from(pattern.predicate)];
                narrator
                    .relations
                    .push(Relation::new(table, &narrator.objects));
            }
        }
        for (pattern, signatures) in program.patterns.iter().zip(&program.signatures) {
            let relation_index = relation_of[usize::from(pattern.predicate)];
            let relation = &narrator.relations[relation_index];
            let mut visits: Vec<u32> = signatures
                .iter()
                .filter_map(|wanted| relation.signatures.get(wanted).copied())
                .collect();
            if relation.signatures.len() == 1 {
                visits.fill(ANY);
            }
            narrator.links.push(Link {
                relation: relation_index,
                negated: pattern.negated,
                visits,
            });
        }
        for atom in program.queries.iter().flatten() {
            let relation = narrator.links[atom.pattern].relation;
            for (position, argument) in atom.arguments.iter().enumerate() {
                if matches!(argument, Argument::Bound(_)) {
                    let objects = narrator.objects.len();
                    narrator.relations[relation].ensure_index(position, objects);
                }
            }
        }
        narrator
    }

    /// Whether everything a text looks at never changes.
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

    /// Appends a text, with the given objects bound to the first places of the frame. `work` counts what it takes.
    pub(crate) fn tell(
        &self,
        told: Told<'_>,
        pieces: &[Piece],
        frame: Vec<u16>,
        text: &mut String,
        work: &mut u32,
    ) -> Result<(), String> {
        let mut telling = Telling {
            narrator: self,
            told,
            frame,
            answers: Vec::new(),
            work,
            text,
        };
        telling.tell(pieces)
    }
}

impl Relation {
    fn new(table: &super::ground::Table, objects: &[ObjectText]) -> Self {
        let arity = table.arity;
        let sort_key = |row: &u32| {
            table
                .row(*row as usize)
                .iter()
                .fold(0u128, |key, object| key << 16 | u128::from(*object))
        };
        let mut order: Vec<u32> = (0..table.count() as u32).collect();
        order.sort_unstable_by_key(sort_key);
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

    fn ensure_index(&mut self, position: usize, objects: usize) {
        if self.by[position].is_some() {
            return;
        }
        let column = || self.args.iter().skip(position).step_by(self.arity);
        let mut starts = vec![0u32; objects + 1];
        column().for_each(|object| starts[usize::from(*object) + 1] += 1);
        for object in 0..objects {
            starts[object + 1] += starts[object];
        }
        let mut next = starts.clone();
        let mut rows = vec![0u32; self.atoms.len()];
        for (row, object) in column().enumerate() {
            let place = &mut next[usize::from(*object)];
            rows[*place as usize] = row as u32;
            *place += 1;
        }
        self.by[position] = Some((starts, rows));
    }
}

impl<'a> Telling<'a> {
    fn tell(&mut self, pieces: &[Piece]) -> Result<(), String> {
        for piece in pieces {
            self.spend(1)?;
            match piece {
                Piece::Text(text) => self.text.push_str(text),
                Piece::Show(place, attribute) => {
                    let object = &self.narrator.objects
                        [usize::from(self.frame[usize::from(*place)] & !FOREIGN)];
                    self.text.push_str(match attribute {
                        Attribute::Name => &object.name,
                        Attribute::Id => &object.id,
                        Attribute::Type => {
                            &self.narrator.domain.types.names[usize::from(object.type_id)]
                        }
                    });
                }
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
                "the text takes more than {WORK_LIMIT} facts and pieces"
            ));
        }
        Ok(())
    }

    fn call(&mut self, procedure: usize) -> Result<(), String> {
        let program: &'a Program = &self.narrator.program;
        let procedure = &program.procedures[procedure];
        for rule in &procedure.rules {
            let applies = match rule.condition {
                None => true,
                Some(query) => {
                    let places = self.frame.len();
                    let mut found = false;
                    self.solve(&program.queries[query], &mut |_| {
                        found = true;
                        false
                    })?;
                    self.frame.truncate(places);
                    found
                }
            };
            if applies {
                return self.tell(&rule.pieces);
            }
        }
        Err(format!("no rule of #{}# applies", procedure.symbol))
    }

    fn each(
        &mut self,
        pieces: &[Piece],
        query: Option<usize>,
        list: Option<&ListWords>,
    ) -> Result<(), String> {
        let Some(query) = query else {
            return self.tell(pieces);
        };
        let narrator = self.narrator;
        let places = self.frame.len();
        let first = self.answers.len();
        let mut answers = std::mem::take(&mut self.answers);
        let mut count = 0;
        let solved = self.solve(&narrator.program.queries[query], &mut |frame| {
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
            self.tell(pieces)?;
            self.frame.truncate(places);
        }
        self.answers.truncate(first);
        Ok(())
    }

    fn word(&mut self, procedure: Option<usize>, symbol: &str) -> Result<(), String> {
        self.call(procedure.ok_or_else(|| format!("unknown symbol #{symbol}#"))?)
    }

    /// Calls `answer` with the frame of every answer, in order, until it says no. Leaves the frame as it was.
    fn solve(
        &mut self,
        query: &'a [QueryAtom],
        answer: &mut dyn FnMut(&[u16]) -> bool,
    ) -> Result<bool, String> {
        let Some((atom, rest)) = query.split_first() else {
            return Ok(answer(&self.frame));
        };
        let narrator = self.narrator;
        let link = &narrator.links[atom.pattern];
        let relation = &narrator.relations[link.relation];
        let places = self.frame.len();
        // The shortest list of rows: of one of the bound arguments, or all.
        let mut shortest: Option<&[u32]> = None;
        for (position, argument) in atom.arguments.iter().enumerate() {
            if let (Argument::Bound(place), Some((starts, rows))) =
                (argument, &relation.by[position])
                && usize::from(*place) < places
            {
                let object = usize::from(self.frame[usize::from(*place)]);
                if object >= usize::from(FOREIGN) {
                    return Ok(true);
                }
                let rows = &rows[starts[object] as usize..starts[object + 1] as usize];
                if shortest.is_none_or(|best| rows.len() < best.len()) {
                    shortest = Some(rows);
                }
            }
        }
        let count = shortest.map_or(relation.atoms.len(), <[u32]>::len);
        for visit in &link.visits {
            self.spend(count)?;
            for index in 0..count {
                let row = shortest.map_or(index, |rows| rows[index] as usize);
                if *visit != ANY && relation.signature[row] != *visit {
                    continue;
                }
                let holds = match (relation.atoms[row], link.negated) {
                    (STATIC, negated) => !negated,
                    (atom, false) => bit(self.told.holds, atom),
                    (atom, true) => bit(self.told.made_false, atom),
                };
                if !holds {
                    continue;
                }
                let args = &relation.args[row * relation.arity..(row + 1) * relation.arity];
                let fits =
                    atom.arguments
                        .iter()
                        .zip(args)
                        .all(|(argument, object)| match argument {
                            Argument::Bound(place) => self.frame[usize::from(*place)] == *object,
                            Argument::New(_) => {
                                let fresh = !self.frame.contains(object);
                                self.frame.push(*object);
                                fresh
                            }
                        });
                let go_on = !fits || self.solve(rest, answer)?;
                self.frame.truncate(places);
                if !go_on {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
