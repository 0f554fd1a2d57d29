//! Search over turns with copies of the world: which of the states found so far to go on from.
//!
//! A best-of-K agent chooses among completions before it knows what they do. A search sees what they lead to: every
//! candidate's command is tried in a copy of the world, and the state it leads to is scored by V after its observation.
//! [`Search::Beam`] is the step-level beam search of OREO (arXiv 2412.16145), which the paper has for mathematics, where a
//! state is its text, and not for `ALFWorld`, whose world it could not copy. [`Search::BestFirst`] goes on from the best
//! state found so far, however early it is (Koh et al., Tree Search for Language Model Agents, arXiv 2407.01476).
//!
//! Differs from the papers: states with one hash ([`scenarios::Environment::state_hash`]) that are reached in as many
//! turns are one, though a policy that came another way may go on otherwise: of those found at once the better-scored is
//! kept, and one that was found before is not gone on from again. With more turns behind it a state is another, since the
//! policy has seen more: best-first would else soon have nowhere to go.
//!
//! Knows no model and no world, only scores.

use scenarios::{Outcome, Search};
use std::collections::HashSet;

/// A state that was found, with whatever is kept of it.
#[derive(Debug)]
pub struct Found<N> {
    /// What is kept of it.
    pub node: N,
    /// Turns that led to it.
    pub turns: usize,
    /// Its hash, where the world tells.
    pub state: Option<u64>,
    /// V, reward units.
    pub score: f32,
    /// Why nobody can go on from it; `None` where one can.
    pub end: Option<Outcome>,
}

/// What a search does next.
#[derive(Debug, PartialEq)]
pub enum Next<N> {
    /// Goes on from these states, the best first.
    GoOn(Vec<N>),
    /// The search is over, and this is its result.
    End(N, Outcome),
}

/// The states that a search could go on from.
#[derive(Debug)]
pub struct Frontier<N> {
    search: Search,
    /// K: what each state is given.
    candidates: usize,
    /// Completions asked for.
    written: usize,
    waiting: Vec<Found<N>>,
    /// The best of those that ran out of turns or context.
    ended: Option<Found<N>>,
    /// The best of those that are lost or nothing new: the result where nothing else is left.
    rejected: Option<Found<N>>,
    /// The states found, each with the turns that led to it.
    known: HashSet<(u64, usize)>,
}

impl<N> Frontier<N> {
    /// A search that gives each state `candidates` completions.
    #[must_use]
    pub fn new(search: Search, candidates: usize) -> Self {
        Self {
            search,
            candidates,
            written: 0,
            waiting: Vec::new(),
            ended: None,
            rejected: None,
            known: HashSet::new(),
        }
    }

    /// Takes in all that the last states led to, in their order and each with its candidates in order, and says what to do
    /// next. The first call takes the state that the game begins in. A win ends the search, the first of several.
    ///
    /// # Panics
    /// When nothing was found at all.
    pub fn next(&mut self, mut found: Vec<Found<N>>) -> Next<N> {
        if let Some(won) = found
            .iter()
            .position(|found| found.end == Some(Outcome::Success))
        {
            return Next::End(found.swap_remove(won).node, Outcome::Success);
        }
        found.sort_by(Found::ranked); // stable: of equals the first stays first
        for found in found {
            match found.end {
                Some(Outcome::TurnLimit | Outcome::ContextLimit) => {
                    keep_better(&mut self.ended, found)
                }
                None if self.is_new(&found) => self.waiting.push(found),
                _ => keep_better(&mut self.rejected, found),
            }
        }
        match self.search {
            Search::Beam { width } => self.go_on_from(width.max(1), true),
            Search::BestFirst { budget } if self.written + self.candidates <= budget => {
                self.go_on_from(1, false)
            }
            Search::BestFirst { .. } => self.end(),
        }
    }

    /// Those that wait, to give up what they hold.
    pub fn waiting(&mut self) -> impl Iterator<Item = &mut N> {
        let others = self.ended.iter_mut().chain(&mut self.rejected);
        self.waiting
            .iter_mut()
            .chain(others)
            .map(|found| &mut found.node)
    }

    /// Whether its state was not found after as many turns before.
    fn is_new(&mut self, found: &Found<N>) -> bool {
        found
            .state
            .is_none_or(|state| self.known.insert((state, found.turns)))
    }

    fn go_on_from(&mut self, most: usize, forgets_others: bool) -> Next<N> {
        self.waiting.sort_by(Found::ranked);
        let others = self.waiting.split_off(most.min(self.waiting.len()));
        let chosen = std::mem::replace(
            &mut self.waiting,
            if forgets_others { Vec::new() } else { others },
        );
        if chosen.is_empty() {
            return self.end();
        }
        self.written += chosen.len() * self.candidates;
        Next::GoOn(chosen.into_iter().map(|found| found.node).collect())
    }

    /// The best state that was not gone on from.
    fn end(&mut self) -> Next<N> {
        let left = self.waiting.drain(..).chain(self.ended.take());
        let best = left.min_by(Found::ranked).or_else(|| self.rejected.take());
        let best = best.expect("a search begins with a state, and every state leads to some");
        Next::End(best.node, best.end.unwrap_or(Outcome::TurnLimit))
    }
}

impl<N> Found<N> {
    /// The higher score first; of equals the one with fewer turns. What is no number comes last.
    fn ranked(&self, other: &Self) -> std::cmp::Ordering {
        let score = |found: &Self| {
            if found.score.is_nan() {
                f32::NEG_INFINITY
            } else {
                found.score
            }
        };
        score(other)
            .total_cmp(&score(self))
            .then(self.turns.cmp(&other.turns))
    }
}

fn keep_better<N>(best: &mut Option<Found<N>>, found: Found<N>) {
    if best.as_ref().is_none_or(|best| found.ranked(best).is_lt()) {
        *best = Some(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAM: Search = Search::Beam { width: 2 };

    /// A state that can be gone on from, after as many turns as its name has letters.
    fn open(node: &'static str, state: u64, score: f32) -> Found<&'static str> {
        Found {
            node,
            turns: node.len(),
            state: Some(state),
            score,
            end: None,
        }
    }

    fn ended(node: &'static str, score: f32, outcome: Outcome) -> Found<&'static str> {
        Found {
            end: Some(outcome),
            ..open(node, 99, score)
        }
    }

    #[test]
    fn a_beam_keeps_the_best_of_what_all_of_it_led_to() {
        let mut beam = Frontier::new(BEAM, 3);
        assert_eq!(beam.next(vec![open("", 0, 0.1)]), Next::GoOn(vec![""]));
        let first = vec![open("a", 1, 0.2), open("b", 2, 0.5), open("c", 3, 0.4)];
        assert_eq!(beam.next(first), Next::GoOn(vec!["b", "c"]));
        let second = vec![
            open("ba", 4, 0.1),
            open("bb", 5, 0.3),
            open("ca", 6, 0.3),
            open("cb", 7, 0.6),
        ];
        assert_eq!(
            beam.next(second),
            Next::GoOn(vec!["cb", "bb"]),
            "of equals the first"
        );
        let last = vec![
            ended("cba", 0.2, Outcome::TurnLimit),
            ended("bba", 0.3, Outcome::TurnLimit),
        ];
        assert_eq!(beam.next(last), Next::End("bba", Outcome::TurnLimit));
    }

    /// Two in one state are one; but a state of an earlier turn is another, and so is every state of a world that does not
    /// tell.
    #[test]
    fn a_beam_holds_a_state_once() {
        let mut beam = Frontier::new(BEAM, 3);
        beam.next(vec![open("", 0, 0.1)]);
        let same = vec![open("a", 1, 0.2), open("b", 1, 0.5), open("c", 0, 0.1)];
        assert_eq!(beam.next(same), Next::GoOn(vec!["b", "c"]));
        let untold = |node, score| Found {
            state: None,
            ..open(node, 0, score)
        };
        assert_eq!(
            beam.next(vec![untold("ba", 0.2), untold("bb", 0.3)]),
            Next::GoOn(vec!["bb", "ba"])
        );
    }

    #[test]
    fn a_win_is_the_best_there_is_and_the_first_of_them_ends_the_search() {
        for search in [BEAM, Search::BestFirst { budget: 100 }] {
            let mut frontier = Frontier::new(search, 3);
            frontier.next(vec![open("", 0, 0.1)]);
            let won = |node| ended(node, f32::NEG_INFINITY, Outcome::Success);
            let found = vec![open("a", 1, 9.0), won("b"), won("c")];
            assert_eq!(frontier.next(found), Next::End("b", Outcome::Success));
        }
    }

    /// What has ended is the result only if nothing that was left at the end is better.
    #[test]
    fn without_a_win_the_best_that_is_left_is_the_result() {
        for (score, outcome) in [(0.9, Outcome::ContextLimit), (0.1, Outcome::TurnLimit)] {
            let mut beam = Frontier::new(BEAM, 2);
            beam.next(vec![open("", 0, 0.1)]);
            let first = vec![ended("a", score, Outcome::ContextLimit), open("b", 1, 0.5)];
            assert_eq!(beam.next(first), Next::GoOn(vec!["b"]));
            let last = vec![
                ended("ba", f32::NEG_INFINITY, Outcome::Failure),
                ended("bb", 0.4, Outcome::TurnLimit),
            ];
            assert_eq!(
                beam.next(last),
                Next::End(if score > 0.5 { "a" } else { "bb" }, outcome)
            );
        }
    }

    #[test]
    fn best_first_goes_back_to_an_earlier_state_when_it_is_the_best() {
        let mut queue = Frontier::new(Search::BestFirst { budget: 100 }, 2);
        assert_eq!(queue.next(vec![open("", 0, 0.3)]), Next::GoOn(vec![""]));
        assert_eq!(
            queue.next(vec![open("a", 1, 0.8), open("b", 2, 0.6)]),
            Next::GoOn(vec!["a"])
        );
        let worse = vec![open("aa", 3, 0.2), open("ab", 4, 0.6)];
        assert_eq!(
            queue.next(worse),
            Next::GoOn(vec!["b"]),
            "of equals the one with fewer turns"
        );
        assert_eq!(
            queue.next(vec![open("ba", 5, f32::NAN)]),
            Next::GoOn(vec!["ab"])
        );
        assert_eq!(
            queue.next(vec![open("aba", 6, 0.1)]),
            Next::GoOn(vec!["aa"])
        );
        assert_eq!(queue.next(vec![]), Next::GoOn(vec!["aba"]));
        assert_eq!(
            queue.next(vec![]),
            Next::GoOn(vec!["ba"]),
            "what is no number comes last"
        );
    }

    /// A state reached again after as many turns is dropped, and what is lost as well.
    #[test]
    fn best_first_ends_when_nothing_new_is_found() {
        let mut queue = Frontier::new(Search::BestFirst { budget: 100 }, 2);
        queue.next(vec![open("", 0, 0.3)]);
        assert_eq!(
            queue.next(vec![open("a", 1, 0.8), open("b", 2, 0.2)]),
            Next::GoOn(vec!["a"])
        );
        assert_eq!(
            queue.next(vec![open("aa", 1, 0.5), open("ab", 3, 0.1)]),
            Next::GoOn(vec!["aa"]),
            "a turn later"
        );
        assert_eq!(queue.next(vec![]), Next::GoOn(vec!["b"]));
        assert_eq!(
            queue.next(vec![open("ba", 3, 0.9), open("bb", 1, 0.4)]),
            Next::GoOn(vec!["ab"])
        );
        let result = queue.next(vec![ended("aba", f32::NEG_INFINITY, Outcome::Failure)]);
        assert_eq!(
            result,
            Next::End("ba", Outcome::TurnLimit),
            "nothing else is left to show"
        );
    }

    /// Three a state and a budget of 8: two states are gone on from, and the best of what is left is the result.
    #[test]
    fn the_budget_is_never_exceeded() {
        let mut queue = Frontier::new(Search::BestFirst { budget: 8 }, 3);
        queue.next(vec![open("", 0, 0.3)]);
        assert_eq!(
            queue.next(vec![open("a", 1, 0.2), open("b", 2, 0.6)]),
            Next::GoOn(vec!["b"])
        );
        assert_eq!(
            queue.next(vec![open("ba", 3, 0.1)]),
            Next::End("a", Outcome::TurnLimit)
        );
        let mut poor = Frontier::new(Search::BestFirst { budget: 2 }, 3);
        assert_eq!(
            poor.next(vec![open("", 0, 0.3)]),
            Next::End("", Outcome::TurnLimit)
        );
    }
}
