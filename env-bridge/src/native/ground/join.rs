//! Joins: finds every frame that satisfies the positive literals of a conjunction.

use super::facts::{FactTable, Facts, STATIC, WORK_LIMIT, are_equal};
use super::literal::{GroundArgument, JoinBody, RowMatch, argument_value, is_bound};
use crate::native::pddl::{PredicateId, Slot, Test};

/// The largest total length of the frames that one join may find.
const FOUND_LIMIT: usize = 8_000_000;

/// One step of a join.
#[derive(Debug)]
pub(super) enum JoinStep {
    /// All variables of the literal are bound: look the literal up.
    Check(usize),
    /// Bind the variables of the literal from the facts of its predicate.
    Match {
        literal: usize,
        predicate: PredicateId,
        /// The argument positions that are bound before.
        bound: Vec<usize>,
        matches: Vec<RowMatch>,
    },
    /// Try every object of the slot's type.
    Enumerate(Slot),
}

/// The newest fact of a semi-naive round and the literal that it matches.
#[derive(Clone, Copy)]
pub(super) struct Trigger {
    pub(super) literal: usize,
    pub(super) atom: u32,
}

impl Facts<'_> {
    /// Returns the order of a join. A literal is checked as soon as it is bound; then the literal
    /// with the fewest expected rows is matched. `skip` is left out.
    pub(super) fn plan(
        &mut self,
        body: &JoinBody<'_>,
        bound_slots: &[Slot],
        skip: Option<usize>,
    ) -> Vec<JoinStep> {
        self.spend(body.literals.len() * body.literals.len());
        let mut bound = vec![false; body.slot_types.len()];
        for slot in bound_slots {
            bound[usize::from(*slot)] = true;
        }
        let mut left: Vec<usize> = (0..body.literals.len())
            .filter(|i| Some(*i) != skip && !body.literals[*i].negated)
            .collect();
        let mut steps = Vec::new();
        loop {
            left.retain(|&literal| {
                let args = &body.literals[literal].args;
                let checked = args.iter().all(|arg| is_bound(*arg, &bound));
                if checked {
                    steps.push(JoinStep::Check(literal));
                }
                !checked
            });
            if let Some((literal, predicate)) = self.cheapest(body, &left, &bound) {
                steps.push(self.match_step(body, literal, predicate, &mut bound));
                left.retain(|other| *other != literal);
            } else if let Some(&slot) = body.slots.iter().find(|slot| !bound[usize::from(**slot)]) {
                bound[usize::from(slot)] = true;
                steps.push(JoinStep::Enumerate(slot));
            } else {
                return steps;
            }
        }
    }

    /// Returns the first of the literals in `left` with the fewest expected rows, and its
    /// predicate. Returns `None` if none of them has a predicate.
    fn cheapest(
        &self,
        body: &JoinBody<'_>,
        left: &[usize],
        bound: &[bool],
    ) -> Option<(usize, PredicateId)> {
        left.iter()
            .filter_map(|&literal| match body.literals[literal].test {
                Test::Predicate(predicate) => Some((literal, predicate)),
                Test::Equal | Test::Axiom(_) => None,
            })
            .min_by_key(|&(literal, predicate)| {
                let rows = expected_rows(&self.tables[usize::from(predicate)]);
                let args = &body.literals[literal].args;
                if args.iter().any(|arg| is_bound(*arg, bound)) {
                    rows / 16
                } else {
                    rows
                }
            })
    }

    /// Returns the step that matches a literal, and marks its slots as bound.
    fn match_step(
        &mut self,
        body: &JoinBody<'_>,
        literal: usize,
        predicate: PredicateId,
        bound: &mut [bool],
    ) -> JoinStep {
        let objects = self.object_count();
        let args = &body.literals[literal].args;
        let positions: Vec<usize> = (0..args.len())
            .filter(|i| is_bound(args[*i], bound))
            .collect();
        for position in &positions {
            self.tables[usize::from(predicate)].ensure_index(*position, objects);
        }
        let matches = body.row_matches(literal, bound);
        for arg in args {
            if let GroundArgument::Slot(slot) = arg {
                bound[usize::from(*slot)] = true;
            }
        }
        JoinStep::Match {
            literal,
            predicate,
            bound: positions,
            matches,
        }
    }
}

/// Returns the number of rows for the cost of a match. A fluent may get more rows later.
fn expected_rows(table: &FactTable) -> usize {
    if table.fluent {
        table.count().max(1000)
    } else {
        table.count()
    }
}

/// A running join.
pub(super) struct Join<'j> {
    pub(super) facts: &'j Facts<'j>,
    pub(super) body: &'j JoinBody<'j>,
    pub(super) trigger: Option<Trigger>,
    /// Every frame found so far, end to end.
    pub(super) found: &'j mut Vec<u16>,
}

impl Join<'_> {
    /// Runs the steps and appends every frame that satisfies them to `found`.
    pub(super) fn run(&mut self, steps: &[JoinStep], frame: &mut [u16]) {
        let Some((step, rest)) = steps.split_first() else {
            self.found.extend_from_slice(frame);
            return;
        };
        if !self.facts.spend(1)
            || (self.found.len() > FOUND_LIMIT && !self.facts.spend(WORK_LIMIT as usize))
        {
            return;
        }
        match step {
            JoinStep::Check(literal) => {
                if self.holds(*literal, frame) {
                    self.run(rest, frame);
                }
            }
            JoinStep::Match {
                literal,
                predicate,
                bound,
                matches,
            } => {
                let facts = self.facts;
                let table = &facts.tables[usize::from(*predicate)];
                let Some(newest) = self.newest_atom(*literal) else {
                    return;
                };
                let Some(rows) = self.matching_rows(*literal, table, bound, frame) else {
                    return;
                };
                let count = rows.map_or(table.count(), <[u32]>::len);
                for index in 0..count {
                    let row = rows.map_or(index, |rows| rows[index] as usize);
                    if table.fluent && table.atoms[row] > newest {
                        break;
                    }
                    facts.spend(1);
                    if facts.bind(matches, table.row(row), frame) {
                        self.run(rest, frame);
                    }
                }
            }
            JoinStep::Enumerate(slot) => {
                let Some(wanted) = self.body.slot_types[usize::from(*slot)] else {
                    return;
                };
                let facts = self.facts;
                for object in &facts.by_type[usize::from(wanted)] {
                    frame[usize::from(*slot)] = *object;
                    self.run(rest, frame);
                }
            }
        }
    }

    /// Returns whether a literal whose variables are all bound holds.
    fn holds(&self, index: usize, frame: &[u16]) -> bool {
        let literal = &self.body.literals[index];
        match literal.test {
            Test::Predicate(predicate) => match self.facts.find(predicate, &literal.args, frame) {
                Some(STATIC) => true,
                Some(atom) => self.newest_atom(index).is_some_and(|newest| atom <= newest),
                None => false,
            },
            Test::Equal => are_equal(literal, frame),
            Test::Axiom(_) => false,
        }
    }

    /// Returns the newest atom that a literal may match, or `None` if it may match no atom. Facts
    /// at or after the trigger belong to later rounds.
    fn newest_atom(&self, literal: usize) -> Option<u32> {
        match self.trigger {
            Some(trigger) if literal < trigger.literal => trigger.atom.checked_sub(1),
            Some(trigger) => Some(trigger.atom),
            None => Some(STATIC - 1),
        }
    }

    /// Returns the shortest list of rows that agree with a bound argument, or `Some(None)` for all
    /// rows of the table. Returns `None` if an argument is not an object.
    fn matching_rows<'t>(
        &self,
        literal: usize,
        table: &'t FactTable,
        bound: &[usize],
        frame: &[u16],
    ) -> Option<Option<&'t [u32]>> {
        let args = &self.body.literals[literal].args;
        let mut shortest: Option<&[u32]> = None;
        for position in bound {
            let object = argument_value(args[*position], frame)?;
            let Some(rows) = table.rows_with(*position, object) else {
                continue;
            };
            if shortest.is_none_or(|best| rows.len() < best.len()) {
                shortest = Some(rows);
            }
        }
        Some(shortest)
    }
}
