//! The hash of a state, computed from the names of the facts that can still matter.
//!
//! Every fact has a mark: a hash of its predicate and of its objects' ids as the game file writes
//! them. The hash of a state is the exclusive or of the marks of its facts (Zobrist 1970). It
//! therefore depends neither on the order in which the facts became true nor on how this program
//! numbers them. For each state, only the differences from the initial state are processed.
//!
//! A fact matters if a condition, the goal or a text reads it. ALFWorld's fact `checked` (the
//! player has looked) is written but never read, so it is left out. If it were included, a `look`
//! would lead to another state.

use super::bits::Bits;
use super::grammar::Program;
use super::ground::Grounded;
use super::pddl::{ConditionBranch, Domain, PddlProblem, Test};
use super::text::ObjectText;
use scenarios::seed::spread;

/// What reads the facts of a predicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readers {
    /// A condition or the goal reads whether a fact is true.
    rules: bool,
    /// A text reads whether a fact is true.
    texts: bool,
    /// A text reads whether a fact was made false.
    negations: bool,
}

/// Returns, by predicate, what reads its facts.
pub(crate) fn readers(domain: &Domain, problem: &PddlProblem, program: &Program) -> Vec<Readers> {
    let mut readers = vec![Readers::default(); domain.predicates.len()];
    for action in &domain.actions {
        read_branches(&mut readers, &action.branches);
        for effect in &action.effects {
            read_branches(&mut readers, &effect.conditions);
        }
    }
    let axioms = domain
        .axioms
        .iter()
        .chain(&problem.goal_axioms)
        .chain([&problem.goal]);
    for axiom in axioms {
        read_branches(&mut readers, &axiom.branches);
    }
    for pattern in &program.patterns {
        let readers = &mut readers[usize::from(pattern.predicate)];
        if pattern.negated {
            readers.negations = true;
        } else {
            readers.texts = true;
        }
    }
    readers
}

/// Marks the predicates of a condition as read.
fn read_branches(readers: &mut [Readers], branches: &[ConditionBranch]) {
    for literal in branches.iter().flat_map(|branch| &branch.literals) {
        if let Test::Predicate(predicate) = literal.test {
            readers[usize::from(predicate)].rules = true;
        }
    }
}

/// The marks of a game's facts.
#[derive(Debug)]
pub(crate) struct Fingerprint {
    /// The hash of the initial state.
    initial: u64,
    /// A hash of all facts in the order in which this program numbers them.
    layout: u64,
    /// By fluent: its mark.
    marks: Box<[u64]>,
    /// By shape, one bit per fluent: whether something reads it.
    masks: [Box<[u64]>; 3],
}

/// The three ways in which a fact is read, in the order of [`Readers`]. The values are part of the
/// hash.
const SHAPES: [u64; 3] = [1, 2, 3];

impl Fingerprint {
    pub(crate) fn new(
        domain: &Domain,
        grounded: &Grounded,
        objects: &[ObjectText],
        readers: &[Readers],
    ) -> Self {
        let words = grounded.fluents.div_ceil(64);
        let mut masks = [(); 3].map(|()| vec![0u64; words].into_boxed_slice());
        let mut marks = vec![0; grounded.fluents].into_boxed_slice();
        let mut initial = 0;
        for (predicate, (table, readers)) in grounded.tables.iter().zip(readers).enumerate() {
            let Readers {
                rules,
                texts,
                negations,
            } = *readers;
            for row in 0..table.count() {
                let ids = table
                    .row(row)
                    .iter()
                    .map(|object| objects[usize::from(*object)].id.as_str());
                let mark = mark(&domain.predicates[predicate].name, ids);
                let Some(&atom) = table.atoms.get(row) else {
                    initial ^= initial_mark(mark, *readers); // a static fact always holds
                    continue;
                };
                marks[atom as usize] = mark;
                for (mask, is_read) in masks.iter_mut().zip([rules, texts, negations]) {
                    mask[atom as usize / 64] |= u64::from(is_read) << (atom % 64);
                }
                if grounded.initial[atom as usize] {
                    initial ^= initial_mark(mark, *readers);
                }
            }
        }
        Self {
            initial,
            layout: marks.iter().fold(initial, |hash, mark| spread(hash, *mark)),
            marks,
            masks,
        }
    }

    /// Returns a number that is the same in every process, and differs for games with other facts or with the same facts
    /// in another order.
    pub(crate) fn layout(&self) -> u64 {
        self.layout
    }

    /// Returns the hash of a state. The three bit sets contain, by fluent, whether it is true,
    /// whether the texts read it as true, and whether they read it as made false; in the state and
    /// in the initial state.
    pub(crate) fn hash(&self, now: [&[u64]; 3], start: [&[u64]; 3]) -> u64 {
        let mut hash = self.initial;
        for (((mask, now), start), shape) in self.masks.iter().zip(now).zip(start).zip(SHAPES) {
            for (index, ((mask, now), start)) in mask.iter().zip(now).zip(start).enumerate() {
                for bit in Bits((now ^ start) & mask) {
                    hash ^= shaped(self.marks[index * 64 + bit], shape);
                }
            }
        }
        hash
    }
}

/// Returns the part of the initial hash for a fact that holds at the start.
fn initial_mark(mark: u64, readers: Readers) -> u64 {
    let mut hash = 0;
    if readers.rules {
        hash ^= shaped(mark, SHAPES[0]);
    }
    if readers.texts {
        hash ^= shaped(mark, SHAPES[1]);
    }
    hash
}

/// Returns FNV-1a (64 bits) over the predicate and the objects, with a zero byte after each.
fn mark<'a>(predicate: &'a str, objects: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = std::iter::once(predicate)
        .chain(objects)
        .flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Spreads a mark over all bits (the output function of SplitMix64), so that the marks of similar
/// names do not cancel.
fn shaped(mark: u64, shape: u64) -> u64 {
    spread(mark, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FNV-1a's published value for "a" is af63dc4c8601ec8c. One more zero byte multiplies it by
    /// the prime. Logs contain hashes, so these numbers must not change.
    #[test]
    fn a_mark_is_the_same_number_everywhere() {
        assert_eq!(
            mark("a", [].into_iter()),
            0xaf63_dc4c_8601_ec8c_u64.wrapping_mul(0x0100_0000_01b3)
        );
        assert_ne!(
            mark("in", ["ab", "c"].into_iter()),
            mark("in", ["a", "bc"].into_iter())
        );
        // The first number of SplitMix64 with seed 0.
        assert_eq!(shaped(0, 1), 0xe220_a839_7b1d_cdaf);
    }
}
