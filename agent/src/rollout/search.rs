//! Search over turns with copies of the environment: from which of the states found so far to
//! continue.
//!
//! A best-of-K agent chooses among completions before it has seen their effect. A search sees it:
//! the command of every candidate is performed in a copy of the environment, and the state that it
//! leads to is scored by V after its observation. [`Search::Beam`] is the step-level beam search of
//! OREO (arXiv 2412.16145). The paper has it for mathematics, where a state is its text, and not
//! for `ALFWorld`, whose environment it could not copy. [`Search::BestFirst`] continues from the
//! best state found so far, however early it is (Koh et al., Tree Search for Language Model Agents,
//! arXiv 2407.01476).
//!
//! Differs from the papers: if states with one hash ([`scenarios::Environment::state_hash`]) are
//! reached in the same number of turns, they count as one, although a policy with another history
//! may continue differently. Of those found at the same time, the one with the better score is
//! kept. If a state was found before, the search does not continue from it again. If more turns led
//! to it, it counts as another state, since the policy has seen more; otherwise best-first search
//! would soon have no state to continue from.
//!
//! This module depends on no model and no environment, only on scores.

use scenarios::{Outcome, Search};
use std::cmp::Ordering;
use std::collections::HashSet;

/// A state that was found.
#[derive(Debug)]
pub struct FoundState<N> {
    /// What the caller keeps of the state.
    pub node: N,
    /// Number of turns that led to it.
    pub turns: usize,
    /// Its hash, if the environment has one.
    pub hash: Option<u64>,
    /// V, in reward units.
    pub score: f32,
    /// Why the episode cannot continue from it. `None` if it can.
    pub end: Option<Outcome>,
}

/// What a search does next.
#[derive(Debug, PartialEq)]
pub enum NextStates<N> {
    /// It continues from these states, the best first.
    GoOn(Vec<N>),
    /// It is over, and this is its result.
    End(N, Outcome),
}

/// The states from which a search can continue.
#[derive(Debug)]
pub struct Frontier<N> {
    search: Search,
    /// K, the number of completions that are sampled for each state.
    candidates: usize,
    /// Number of completions that were requested so far.
    written: usize,
    waiting: Vec<FoundState<N>>,
    /// The best of the states that reached the turn limit or the context limit.
    ended: Option<FoundState<N>>,
    /// The best of the states that are lost or were found before. It is the result if no other
    /// state is left.
    rejected: Option<FoundState<N>>,
    /// The hashes of the states that were found, each with the number of turns that led to it.
    known: HashSet<(u64, usize)>,
}

impl<N> Frontier<N> {
    /// Returns a search that samples `candidates` completions for each state.
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

    /// Takes all states that the last ones have led to, in the order of the last ones and of their
    /// candidates, and returns what to do next. The first call takes the state in which the game
    /// begins. If a state is won, the search ends with it; if several are won, with the first.
    ///
    /// # Panics
    /// Panics if no state was ever found.
    pub fn next(&mut self, mut found: Vec<FoundState<N>>) -> NextStates<N> {
        if let Some(won) = found
            .iter()
            .position(|found| found.end == Some(Outcome::Success))
        {
            return NextStates::End(found.swap_remove(won).node, Outcome::Success);
        }
        found.sort_by(FoundState::ranked); // stable: of equals, the first stays first
        for found in found {
            match found.end {
                Some(Outcome::TurnLimit | Outcome::ContextLimit) => {
                    keep_better(&mut self.ended, found);
                }
                None if self.is_new(&found) => self.waiting.push(found),
                _ => keep_better(&mut self.rejected, found),
            }
        }
        match self.search {
            Search::Beam { width } => {
                let chosen = self.take_best(width.max(1));
                self.waiting.clear();
                self.go_on_from(chosen)
            }
            Search::BestFirst { budget } if self.written + self.candidates <= budget => {
                let chosen = self.take_best(1);
                self.go_on_from(chosen)
            }
            Search::BestFirst { .. } => self.end(),
        }
    }

    /// Returns the states that are kept but not played now, so that they can release their caches.
    pub fn waiting(&mut self) -> impl Iterator<Item = &mut N> {
        let others = self.ended.iter_mut().chain(&mut self.rejected);
        self.waiting
            .iter_mut()
            .chain(others)
            .map(|found| &mut found.node)
    }

    /// Returns whether the state was not found before after the same number of turns. If the
    /// environment has no hash, every state is new.
    fn is_new(&mut self, found: &FoundState<N>) -> bool {
        found
            .hash
            .is_none_or(|hash| self.known.insert((hash, found.turns)))
    }

    /// Removes the best waiting states, at most `most`.
    fn take_best(&mut self, most: usize) -> Vec<FoundState<N>> {
        self.waiting.sort_by(FoundState::ranked);
        let most = most.min(self.waiting.len());
        self.waiting.drain(..most).collect()
    }

    fn go_on_from(&mut self, chosen: Vec<FoundState<N>>) -> NextStates<N> {
        if chosen.is_empty() {
            return self.end();
        }
        self.written += chosen.len() * self.candidates;
        NextStates::GoOn(chosen.into_iter().map(|found| found.node).collect())
    }

    /// Returns the best state from which the search has not continued.
    fn end(&mut self) -> NextStates<N> {
        let best = self
            .waiting
            .drain(..)
            .chain(self.ended.take())
            .min_by(FoundState::ranked)
            .or_else(|| self.rejected.take())
            .expect("a search begins with a state, and every state leads to at least one");
        NextStates::End(best.node, best.end.unwrap_or(Outcome::TurnLimit))
    }
}

impl<N> FoundState<N> {
    /// Orders by score, the highest first. If two are equal, the one with fewer turns comes first.
    /// NaN comes last.
    fn ranked(&self, other: &Self) -> Ordering {
        other
            .comparable_score()
            .total_cmp(&self.comparable_score())
            .then(self.turns.cmp(&other.turns))
    }

    fn comparable_score(&self) -> f32 {
        if self.score.is_nan() {
            f32::NEG_INFINITY
        } else {
            self.score
        }
    }
}

fn keep_better<N>(best: &mut Option<FoundState<N>>, found: FoundState<N>) {
    if best.as_ref().is_none_or(|best| found.ranked(best).is_lt()) {
        *best = Some(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAM: Search = Search::Beam { width: 2 };

    /// A state from which the search can continue, after as many turns as its name has letters.
    fn open(node: &'static str, state: u64, score: f32) -> FoundState<&'static str> {
        FoundState {
            node,
            turns: node.len(),
            hash: Some(state),
            score,
            end: None,
        }
    }

    fn ended(node: &'static str, score: f32, outcome: Outcome) -> FoundState<&'static str> {
        FoundState {
            end: Some(outcome),
            ..open(node, 99, score)
        }
    }

    #[test]
    fn a_beam_keeps_the_best_states_that_any_of_its_states_led_to() {
        let mut beam = Frontier::new(BEAM, 3);
        assert_eq!(
            beam.next(vec![open("", 0, 0.1)]),
            NextStates::GoOn(vec![""])
        );
        let first = vec![open("a", 1, 0.2), open("b", 2, 0.5), open("c", 3, 0.4)];
        assert_eq!(beam.next(first), NextStates::GoOn(vec!["b", "c"]));
        let second = vec![
            open("ba", 4, 0.1),
            open("bb", 5, 0.3),
            open("ca", 6, 0.3),
            open("cb", 7, 0.6),
        ];
        assert_eq!(
            beam.next(second),
            NextStates::GoOn(vec!["cb", "bb"]),
            "of equals, the first"
        );
        let last = vec![
            ended("cba", 0.2, Outcome::TurnLimit),
            ended("bba", 0.3, Outcome::TurnLimit),
        ];
        assert_eq!(beam.next(last), NextStates::End("bba", Outcome::TurnLimit));
    }

    /// Two states with one hash are one. If the number of turns differs, or if the environment has
    /// no hash, they are not.
    #[test]
    fn a_beam_holds_a_state_once() {
        let mut beam = Frontier::new(BEAM, 3);
        beam.next(vec![open("", 0, 0.1)]);
        let same = vec![open("a", 1, 0.2), open("b", 1, 0.5), open("c", 0, 0.1)];
        assert_eq!(beam.next(same), NextStates::GoOn(vec!["b", "c"]));
        let without_hash = |node, score| FoundState {
            hash: None,
            ..open(node, 0, score)
        };
        assert_eq!(
            beam.next(vec![without_hash("ba", 0.2), without_hash("bb", 0.3)]),
            NextStates::GoOn(vec!["bb", "ba"])
        );
    }

    #[test]
    fn the_first_win_ends_the_search() {
        for search in [BEAM, Search::BestFirst { budget: 100 }] {
            let mut frontier = Frontier::new(search, 3);
            frontier.next(vec![open("", 0, 0.1)]);
            let won = |node| ended(node, f32::NEG_INFINITY, Outcome::Success);
            let found = vec![open("a", 1, 9.0), won("b"), won("c")];
            assert_eq!(frontier.next(found), NextStates::End("b", Outcome::Success));
        }
    }

    /// A state that has ended is the result only if no better state is left at the end.
    #[test]
    fn without_a_win_the_best_remaining_state_is_the_result() {
        for (score, outcome) in [(0.9, Outcome::ContextLimit), (0.1, Outcome::TurnLimit)] {
            let mut beam = Frontier::new(BEAM, 2);
            beam.next(vec![open("", 0, 0.1)]);
            let first = vec![ended("a", score, Outcome::ContextLimit), open("b", 1, 0.5)];
            assert_eq!(beam.next(first), NextStates::GoOn(vec!["b"]));
            let last = vec![
                ended("ba", f32::NEG_INFINITY, Outcome::Failure),
                ended("bb", 0.4, Outcome::TurnLimit),
            ];
            assert_eq!(
                beam.next(last),
                NextStates::End(if score > 0.5 { "a" } else { "bb" }, outcome)
            );
        }
    }

    #[test]
    fn best_first_returns_to_an_earlier_state_if_it_is_the_best() {
        let mut queue = Frontier::new(Search::BestFirst { budget: 100 }, 2);
        assert_eq!(
            queue.next(vec![open("", 0, 0.3)]),
            NextStates::GoOn(vec![""])
        );
        assert_eq!(
            queue.next(vec![open("a", 1, 0.8), open("b", 2, 0.6)]),
            NextStates::GoOn(vec!["a"])
        );
        let worse = vec![open("aa", 3, 0.2), open("ab", 4, 0.6)];
        assert_eq!(
            queue.next(worse),
            NextStates::GoOn(vec!["b"]),
            "of equals, the one with fewer turns"
        );
        assert_eq!(
            queue.next(vec![open("ba", 5, f32::NAN)]),
            NextStates::GoOn(vec!["ab"])
        );
        assert_eq!(
            queue.next(vec![open("aba", 6, 0.1)]),
            NextStates::GoOn(vec!["aa"])
        );
        assert_eq!(queue.next(vec![]), NextStates::GoOn(vec!["aba"]));
        assert_eq!(
            queue.next(vec![]),
            NextStates::GoOn(vec!["ba"]),
            "NaN comes last"
        );
    }

    /// If a state is reached again after the same number of turns, it is dropped, and so are lost
    /// states.
    #[test]
    fn best_first_ends_if_no_new_state_is_found() {
        let mut queue = Frontier::new(Search::BestFirst { budget: 100 }, 2);
        queue.next(vec![open("", 0, 0.3)]);
        assert_eq!(
            queue.next(vec![open("a", 1, 0.8), open("b", 2, 0.2)]),
            NextStates::GoOn(vec!["a"])
        );
        assert_eq!(
            queue.next(vec![open("aa", 1, 0.5), open("ab", 3, 0.1)]),
            NextStates::GoOn(vec!["aa"]),
            "a turn later"
        );
        assert_eq!(queue.next(vec![]), NextStates::GoOn(vec!["b"]));
        assert_eq!(
            queue.next(vec![open("ba", 3, 0.9), open("bb", 1, 0.4)]),
            NextStates::GoOn(vec!["ab"])
        );
        let result = queue.next(vec![ended("aba", f32::NEG_INFINITY, Outcome::Failure)]);
        assert_eq!(
            result,
            NextStates::End("ba", Outcome::TurnLimit),
            "no other state is left"
        );
    }

    /// With three completions per state and a budget of 8, the search continues from two states,
    /// and the result is the best of the rest.
    #[test]
    fn the_budget_is_never_exceeded() {
        let mut queue = Frontier::new(Search::BestFirst { budget: 8 }, 3);
        queue.next(vec![open("", 0, 0.3)]);
        assert_eq!(
            queue.next(vec![open("a", 1, 0.2), open("b", 2, 0.6)]),
            NextStates::GoOn(vec!["b"])
        );
        assert_eq!(
            queue.next(vec![open("ba", 3, 0.1)]),
            NextStates::End("a", Outcome::TurnLimit)
        );
        let mut poor = Frontier::new(Search::BestFirst { budget: 2 }, 3);
        assert_eq!(
            poor.next(vec![open("", 0, 0.3)]),
            NextStates::End("", Outcome::TurnLimit)
        );
    }
}
