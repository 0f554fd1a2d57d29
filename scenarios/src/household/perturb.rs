//! Perturbed expert actions: commands that fail or lead nowhere.
//!
//! They are the noise of noise injection (Laskey et al. 2017, DART, arXiv 1703.09327).

use super::catalog::RECEPTACLES;
use crate::expert::Expert;
use std::ops::Range;

/// The random draws of [`perturb`]. If two implementations return the same numbers in the same
/// order, the commands are the same.
pub trait PerturbationDraws {
    /// Returns true with probability 1/2.
    fn coin(&mut self) -> bool;

    /// Returns a number, uniform in 64 bits.
    fn bits(&mut self) -> u64;

    /// Returns an index, uniform in `0..count`. It is never called with a `count` of 0.
    fn index(&mut self, count: usize) -> usize;

    /// Returns a number, uniform in the range.
    fn integer(&mut self, range: Range<i32>) -> i32;
}

/// Returns a command that perturbs the expert's play, or `None` if this draw gives none.
///
/// With probability 1/2 the command is possible but useless ([`Expert::useless_command`]).
/// Otherwise it very likely fails: it takes an object from a receptacle that does not contain it,
/// or goes to a receptacle that does not exist, or opens or uses something at random. `names` are
/// the numbered names in the observations so far, see [`numbered_names`].
pub fn perturb(
    expert: &Expert,
    names: &[String],
    draws: &mut impl PerturbationDraws,
) -> Option<String> {
    if draws.coin() {
        return expert.useless_command(draws.bits());
    }
    let object = pick(names, draws);
    let place = pick(names, draws);
    let elsewhere = pick(RECEPTACLES, draws)?.name;
    Some(match draws.integer(0..4) {
        0 => format!("go to {elsewhere} {}", draws.integer(1..4)),
        1 => format!("open {}", object?),
        2 => "use desklamp 1".into(),
        _ => format!("take {} from {}", object?, place?),
    })
}

/// Draws an item. If there are none, nothing is drawn.
fn pick<'a, T>(items: &'a [T], draws: &mut impl PerturbationDraws) -> Option<&'a T> {
    if items.is_empty() {
        return None;
    }
    items.get(draws.index(items.len()))
}

/// Returns the names with a number in a text, such as "mug 2".
///
/// ```
/// use scenarios::household::numbered_names;
/// let names = numbered_names("On the desk 1, you see a mug 2, and a pen 14.");
/// assert_eq!(names, ["desk 1", "mug 2", "pen 14"]);
/// ```
#[must_use]
pub fn numbered_names(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    words
        .windows(2)
        .filter(|pair| {
            pair.iter().all(|word| !word.is_empty())
                && pair[0].chars().all(|c| c.is_ascii_lowercase())
                && pair[1].chars().all(|c| c.is_ascii_digit())
        })
        .map(|pair| format!("{} {}", pair[0], pair[1]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Returns these numbers in this order, whatever is drawn.
    struct ListedDraws(VecDeque<u64>);

    impl ListedDraws {
        fn next(&mut self) -> u64 {
            self.0.pop_front().expect("the test lists every draw")
        }
    }

    impl PerturbationDraws for ListedDraws {
        fn coin(&mut self) -> bool {
            self.next() == 1
        }

        fn bits(&mut self) -> u64 {
            self.next()
        }

        fn index(&mut self, count: usize) -> usize {
            let index = self.next() as usize;
            assert!(index < count);
            index
        }

        fn integer(&mut self, range: Range<i32>) -> i32 {
            let number = self.next() as i32;
            assert!(range.contains(&number));
            number
        }
    }

    fn perturbed(names: &[&str], draws: &[u64]) -> Option<String> {
        let mut expert = Expert::new(0);
        expert.act(
            "Looking quickly around you, you see a desk 1.\n\nYour task is to: put a mug in desk.",
        );
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut draws = ListedDraws(draws.iter().copied().collect());
        let command = perturb(&expert, &names, &mut draws);
        assert!(draws.0.is_empty(), "{:?} are not drawn", draws.0);
        command
    }

    #[test]
    fn the_draws_determine_the_command() {
        let names = ["desk 1", "mug 2"];
        for (draws, expected) in [
            (&[1, 5][..], "go to desk 1"),
            (&[0, 0, 1, 2, 0, 3], "go to bed 3"),
            (&[0, 1, 0, 2, 1], "open mug 2"),
            (&[0, 1, 0, 2, 2], "use desklamp 1"),
            (&[0, 1, 0, 2, 3], "take mug 2 from desk 1"),
        ] {
            assert_eq!(perturbed(&names, draws).as_deref(), Some(expected));
        }
    }

    #[test]
    fn without_names_nothing_is_drawn_for_them() {
        assert_eq!(perturbed(&[], &[0, 2, 1]), None);
        let command = perturbed(&[], &[0, 2, 0, 1]);
        assert_eq!(command.as_deref(), Some("go to bed 1"));
    }

    #[test]
    fn names_with_numbers_are_found() {
        let text =
            "On the desk 1, you see a mug 2, and a pen 14.\n\nYour task is to: put a pen in desk.";
        assert_eq!(numbered_names(text), ["desk 1", "mug 2", "pen 14"]);
        assert!(numbered_names("Take 2 steps to loc5 or to the desk").is_empty());
    }
}
