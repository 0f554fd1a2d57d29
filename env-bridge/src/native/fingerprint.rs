//! A number for each state: the facts that can still matter, by their names.
//!
//! Every fact has a mark, a hash of its predicate and its objects' ids as the game file writes them; a state's hash is the
//! exclusive or of the marks of its facts (Zobrist 1970), so that it depends neither on the order in which they came to
//! hold nor on how this program numbers them. Only what differs from the start is looked at for each state.
//!
//! A fact matters when some condition, the goal or some text asks for it. That somebody looked around is written down
//! (`checked` in ALFWorld) and never read: it is left out, else a look would lead to another state.

use super::ground::Grounded;
use super::pddl::{Branch, Domain, Problem, Test};
use super::text::ObjectText;

/// What asks for the facts of a predicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readers {
    /// A condition or the goal: whether a fact is true.
    rules: bool,
    /// A text: whether it is told to hold.
    texts: bool,
    /// A text: whether it is told to have been made false.
    negations: bool,
}

/// By predicate, who asks for its facts.
pub(crate) fn readers(
    domain: &Domain,
    problem: &Problem,
    program: &super::grammar::Program,
) -> Vec<Readers> {
    let mut readers = vec![Readers::default(); domain.predicates.len()];
    let mut read = |branch: &Branch| {
        for literal in &branch.literals {
            if let Test::Predicate(predicate) = literal.test {
                readers[usize::from(predicate)].rules = true;
            }
        }
    };
    for action in &domain.actions {
        action.branches.iter().for_each(&mut read);
        action
            .effects
            .iter()
            .flat_map(|effect| &*effect.conditions)
            .for_each(&mut read);
    }
    let axioms = domain
        .axioms
        .iter()
        .chain(&problem.goal_axioms)
        .chain([&problem.goal]);
    axioms.flat_map(|axiom| &axiom.branches).for_each(&mut read);
    for pattern in &program.patterns {
        let readers = &mut readers[usize::from(pattern.predicate)];
        if pattern.negated {
            readers.negations = true
        } else {
            readers.texts = true
        }
    }
    readers
}

/// The marks of a game's facts.
#[derive(Debug)]
pub(crate) struct Fingerprint {
    /// The hash of the first state.
    initial: u64,
    /// By fluent: its mark.
    marks: Box<[u64]>,
    /// The fluents that somebody asks for, a bit each.
    masks: [Box<[u64]>; 3],
}

/// In which of its three shapes a fact is marked; the values are part of what a hash is.
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
            if !(rules || texts || negations) {
                continue;
            }
            let mut at_start = |mark| {
                initial ^= if rules { shaped(mark, SHAPES[0]) } else { 0 };
                initial ^= if texts { shaped(mark, SHAPES[1]) } else { 0 };
            };
            for row in 0..table.count() {
                let ids = table
                    .row(row)
                    .iter()
                    .map(|object| objects[usize::from(*object)].id.as_str());
                let mark = mark(&domain.predicates[predicate].name, ids);
                let Some(&atom) = table.atoms.get(row) else {
                    at_start(mark); // it never changes
                    continue;
                };
                marks[atom as usize] = mark;
                for (mask, asked) in masks.iter_mut().zip([rules, texts, negations]) {
                    mask[atom as usize / 64] |= u64::from(asked) << (atom % 64);
                }
                if grounded.initial[atom as usize] {
                    at_start(mark);
                }
            }
        }
        Self {
            initial,
            marks,
            masks,
        }
    }

    /// The hash of the state of these bits: by fluent, whether it is true, told to hold, told to have been made false; now
    /// and at the start.
    pub(crate) fn hash(&self, now: [&[u64]; 3], start: [&[u64]; 3]) -> u64 {
        let mut hash = self.initial;
        for (((mask, now), start), shape) in self.masks.iter().zip(now).zip(start).zip(SHAPES) {
            for (index, ((mask, now), start)) in mask.iter().zip(now).zip(start).enumerate() {
                for bit in super::engine::Bits((now ^ start) & mask) {
                    hash ^= shaped(self.marks[index * 64 + bit], shape);
                }
            }
        }
        hash
    }
}

/// FNV-1a (64 bits) over the predicate and the objects, a zero byte after each.
fn mark<'a>(predicate: &'a str, objects: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = std::iter::once(predicate)
        .chain(objects)
        .flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Spreads a mark over all bits (splitmix64's finish), so that marks of similar names do not cancel out.
fn shaped(mark: u64, shape: u64) -> u64 {
    scenarios::seed::spread(mark, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FNV-1a's published value for "a" is af63dc4c8601ec8c; one more zero byte multiplies it by the prime. Logs hold
    /// hashes, so these numbers stay.
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
        // The first number that splitmix64 draws from the seed 0.
        assert_eq!(shaped(0, 1), 0xe220_a839_7b1d_cdaf);
    }
}
