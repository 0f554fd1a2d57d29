//! A compiled grammar.

use crate::native::pddl::{PredicateId, Signatures, TypeId};
use rustc_hash::FxHashSet;

/// The largest number of placeholders in scope, and of predicates in a query.
pub(super) const SCOPE_LIMIT: usize = 200;

/// Index of a place in the frame of bound placeholders.
pub(crate) type FramePlace = u16;

/// An attribute of an object that a text can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectAttribute {
    Name,
    Id,
    Type,
}

/// One piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(Box<str>),
    Show(FramePlace, ObjectAttribute),
    Call(usize),
    /// The pieces once for every answer of the query, or once if there is no query. The results are
    /// joined as a list, or without separators if `list` is `None`.
    Each {
        pieces: Vec<Piece>,
        query: Option<usize>,
        list: Option<ListWords>,
    },
}

/// The procedures for the words of a list. If a grammar never needs one, it may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListWords {
    pub(crate) empty: Option<usize>,
    pub(crate) separator: Option<usize>,
    pub(crate) last_separator: Option<usize>,
}

/// A symbol in one scope. The first rule whose condition has an answer is applied.
#[derive(Debug)]
pub(crate) struct Procedure {
    pub(crate) symbol: String,
    pub(crate) rules: Vec<GrammarRule>,
}

/// A rule: its text, and its condition as an index into [`Program::queries`].
#[derive(Debug)]
pub(crate) struct GrammarRule {
    pub(crate) condition: Option<usize>,
    pub(crate) pieces: Vec<Piece>,
}

/// How an argument of a query atom relates to the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueryArgument {
    /// Must equal the object in this place.
    Bound(FramePlace),
    /// Is stored in this place. Must differ from every object before it.
    New(FramePlace),
}

/// One predicate of a query.
#[derive(Debug)]
pub(crate) struct QueryAtom {
    /// Index into [`Program::patterns`].
    pub(crate) pattern: usize,
    pub(crate) arguments: Vec<QueryArgument>,
}

/// A predicate with the types of its placeholders.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub(crate) struct QueryPattern {
    pub(crate) predicate: PredicateId,
    /// Whether the query finds the facts that an effect made false. These are not all facts that do
    /// not hold.
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
    pub(crate) patterns: Vec<QueryPattern>,
    /// By pattern: the type signatures of the facts to visit, in order.
    pub(crate) signatures: Vec<Signatures>,
    pub(crate) intro: Vec<Piece>,
    /// The procedure of `#task#`, if the grammar has that symbol.
    pub(crate) task: Option<usize>,
    /// By action of the domain: its texts, or `None` if the grammar does not have the action.
    pub(crate) actions: Vec<Option<ActionTexts>>,
    /// The command templates of all actions of the grammar as it writes them, sorted and without
    /// duplicates.
    pub(crate) templates: Vec<Box<str>>,
}

/// What a text can read, including the symbols it calls.
#[derive(Debug, Default)]
struct TextReach {
    queries: Vec<usize>,
    shown: Vec<FramePlace>,
    visited: FxHashSet<usize>,
}

impl Program {
    /// Returns the queries that a text can run.
    pub(crate) fn queries_of(&self, pieces: &[Piece]) -> Vec<usize> {
        let mut reach = TextReach::default();
        self.follow(pieces, &mut reach);
        reach.queries
    }

    /// Returns those of the first `parameters` places that a text can read. If a query binds a new
    /// place, the text reads all of them, because the new object must differ from all before it.
    pub(crate) fn places_used(&self, pieces: &[Piece], parameters: usize) -> Vec<FramePlace> {
        let mut reach = TextReach::default();
        self.follow(pieces, &mut reach);
        let mut used = vec![false; parameters.max(SCOPE_LIMIT + 1)];
        for place in &reach.shown {
            used[usize::from(*place)] = true;
        }
        let atoms = reach.queries.iter().flat_map(|query| &self.queries[*query]);
        for argument in atoms.flat_map(|atom| &atom.arguments) {
            match argument {
                QueryArgument::Bound(place) => used[usize::from(*place)] = true,
                QueryArgument::New(_) => used.fill(true),
            }
        }
        (0..parameters as FramePlace)
            .filter(|place| used[usize::from(*place)])
            .collect()
    }

    fn follow(&self, pieces: &[Piece], reach: &mut TextReach) {
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
                        for procedure in words.into_iter().flatten() {
                            self.follow_call(procedure, reach);
                        }
                    }
                }
            }
        }
    }

    fn follow_call(&self, procedure: usize, reach: &mut TextReach) {
        if reach.visited.insert(procedure) {
            for rule in &self.procedures[procedure].rules {
                reach.queries.extend(rule.condition);
                self.follow(&rule.pieces, reach);
            }
        }
    }
}
