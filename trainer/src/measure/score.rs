//! Process scores: how far a failed episode could still be won.
//!
//! DQO (arXiv 2410.09302): of a failed response, the longest beginning from which at least one of 20 completions succeeds
//! gets 1/n per segment. Here a segment is a turn. Of a failed episode of n turns, let m < n be the length of the longest
//! beginning from whose end one of C completions by the policy wins within the turns that the protocol leaves; each of its
//! m turns is scored 1/n, each later one 0. An episode that was won keeps its terminal reward and has no process scores.
//!
//! Winning is not monotone in m (a later turn can undo an earlier mistake), so beginnings are tried from the longest down.
//! The one without turns is not tried: it scores nothing whether it wins or not. A hopeless episode of n turns costs
//! C · n(n−1)/2 turns of the policy at worst; a stride above 1 skips beginnings, divides that by itself, and may take a
//! shorter beginning for the longest.
//!
//! Knows nothing of stores: who calls says which episodes, and keeps what is found.

use crate::error::TrainerError;
use agent::policy::Policy;
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use scenarios::{Outcome, Protocol, Task, Trajectory, Turn, World};

/// The score of each turn of a failed episode, reward units: 1/n for those of the longest beginning from which a
/// completion won, 0 for the others. `won_from` holds the lengths, in turns, of the beginnings from which one won.
///
/// ```
/// assert_eq!(trainer::process::process_scores(4, &[1, 3]), [0.25, 0.25, 0.25, 0.0]);
/// ```
///
/// # Panics
/// When a beginning is as long as the episode: that one has ended, and not in success.
#[must_use]
pub fn process_scores(turns: usize, won_from: &[usize]) -> Vec<f64> {
    let longest = won_from.iter().copied().max().unwrap_or(0);
    assert!(
        longest == 0 || longest < turns,
        "a beginning of {longest} turns of an episode of {turns}"
    );
    (0..turns)
        .map(|turn| {
            if turn < longest {
                1.0 / turns as f64
            } else {
                0.0
            }
        })
        .collect()
}

/// Whether an episode gets process scores: it ended, and not in success. One that was lost to the world says nothing.
#[must_use]
pub fn is_scored(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failure | Outcome::TurnLimit | Outcome::ContextLimit => true,
        Outcome::Success | Outcome::EnvFailed => false,
    }
}

/// The episode with these scores at its turns.
///
/// # Panics
/// When there is not one score for each turn.
#[must_use]
pub fn with_scores(episode: &Trajectory, scores: &[f64]) -> Trajectory {
    assert_eq!(scores.len(), episode.turns.len(), "one score for each turn");
    let scored = |(turn, score): (&Turn, &f64)| Turn {
        process_score: Some(*score),
        ..turn.clone()
    };
    Trajectory {
        turns: episode.turns.iter().zip(scores).map(scored).collect(),
        ..episode.clone()
    }
}

/// How an episode is completed that was played under `protocol`: in the same way, but never searched, and never greedily,
/// since all completions would be the same one; and in the player's context of `context_limit` tokens where it was played in text.
#[must_use]
pub fn completing(protocol: &Protocol, context_limit: usize) -> Protocol {
    Protocol {
        temperature: if protocol.temperature == 0.0 {
            1.0
        } else {
            protocol.temperature
        },
        context_limit: if protocol.context_limit == 0 {
            context_limit
        } else {
            protocol.context_limit
        },
        search: None,
        ..protocol.clone()
    }
}

/// What is tried for each failed episode.
#[derive(Debug, Clone, Copy)]
pub struct Scoring {
    /// C: completions from the end of each beginning; 20 in the paper.
    pub completions: usize,
    /// Turns between the beginnings that are tried; 1 = each is.
    pub stride: usize,
    /// Seed of the completions; each one's own comes from it, the episode's seed, the beginning's length and its number.
    pub seed: u64,
    /// How many at once.
    pub pool: Concurrency,
}

/// A failed episode and its game.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// The game.
    pub task: &'a Task,
    /// The episode.
    pub episode: &'a Trajectory,
}

/// What was found out about a failed episode.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// [`process_scores`].
    Scores(Vec<f64>),
    /// Completions were lost, to a world that did not say again what it had said for instance, and none of the others
    /// won: nobody knows whether one would have. The last failure.
    Lost(String),
}

/// What the completions cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Completions that were played.
    pub completions: usize,
    /// Turns that the policy wrote in them.
    pub turns: usize,
}

/// An episode whose longest beginning is looked for.
struct Open<'a> {
    failed: Failed<'a>,
    /// Turns of the beginning that is tried next.
    next: usize,
    won: usize,
    lost: Option<String>,
}

/// Completes the failed episodes, all played under one protocol of which `protocol` is [`completing`], from the longest
/// beginning down, and hands what is found of each to `record` as soon as it is known.
///
/// As many episodes are open at once as keep the pool busy; each round completes one beginning of every open one. What is
/// found depends on the episode and `scoring` alone.
///
/// # Errors
/// The first error of `record`; [`TrainerError::Gone`] when the policy answers no more.
///
/// # Panics
/// When the completions or the stride are 0.
pub fn score_episodes<P: Policy>(
    policy: &P,
    world: &dyn World,
    failed: &[Failed<'_>],
    protocol: &Protocol,
    scoring: Scoring,
    mut record: impl FnMut(&Trajectory, Found) -> Result<(), TrainerError>,
) -> Result<Cost, TrainerError> {
    assert!(
        scoring.completions > 0 && scoring.stride > 0,
        "completions and a stride above 0"
    );
    let at_once = (4 * scoring.pool.episodes / scoring.completions).max(1);
    let mut waiting = failed.iter();
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut cost = Cost::default();
    loop {
        while open.len() < at_once
            && let Some(failed) = waiting.next()
        {
            match failed.episode.turns.len() {
                turns @ (0 | 1) => {
                    record(failed.episode, Found::Scores(process_scores(turns, &[])))?
                }
                turns => open.push(Open {
                    failed: *failed,
                    next: turns - 1,
                    won: 0,
                    lost: None,
                }),
            }
        }
        if open.is_empty() {
            return Ok(cost);
        }
        complete(policy, world, &mut open, protocol, scoring, &mut cost)?;
        let mut still_open = Vec::new();
        for mut one in open {
            match one.found(scoring.stride) {
                Some(found) => record(one.failed.episode, found)?,
                None => still_open.push(one),
            }
        }
        open = still_open;
    }
}

/// A round: all completions of the next beginning of every open episode.
fn complete<'a, P: Policy>(
    policy: &P,
    world: &dyn World,
    open: &mut [Open<'a>],
    protocol: &Protocol,
    scoring: Scoring,
    cost: &mut Cost,
) -> Result<(), TrainerError> {
    let completions = |(index, one): (usize, &Open<'a>)| {
        let (Failed { task, episode }, turns) = (one.failed, one.next);
        (0..scoring.completions).map(move |number| EpisodeJob {
            task,
            repetition: index * scoring.completions + number,
            seed: completion_seed(scoring.seed, episode.seed, turns, number),
            forced: &episode.turns[..turns],
        })
    };
    let jobs: Vec<EpisodeJob<'a>> = open.iter().enumerate().flat_map(completions).collect();
    play_episodes(policy, world, &jobs, protocol, scoring.pool, |completion| {
        if let Some(reason) = policy
            .gone()
            .filter(|_| completion.outcome == Outcome::EnvFailed)
        {
            return Err(TrainerError::Gone(reason));
        }
        let one = &mut open[completion.repetition / scoring.completions];
        cost.completions += 1;
        cost.turns += completion.turns.len().saturating_sub(one.next);
        match completion.outcome {
            Outcome::Success => one.won += 1,
            Outcome::EnvFailed => one.lost = completion.failure,
            Outcome::Failure | Outcome::TurnLimit | Outcome::ContextLimit => {}
        }
        Ok(())
    })
}

impl Open<'_> {
    /// After a round: what is known for good, or the next beginning to try.
    fn found(&mut self, stride: usize) -> Option<Found> {
        let turns = self.failed.episode.turns.len();
        if self.won > 0 {
            return Some(Found::Scores(process_scores(turns, &[self.next])));
        }
        if let Some(reason) = self.lost.take() {
            return Some(Found::Lost(reason));
        }
        self.next = self.next.saturating_sub(stride);
        (self.next == 0).then(|| Found::Scores(process_scores(turns, &[])))
    }
}

/// One seed out of those of the command and the episode, and two small numbers.
fn completion_seed(seed: u64, episode: u64, turns: usize, completion: usize) -> u64 {
    let parts = [episode, turns as u64, completion as u64];
    parts.into_iter().fold(seed, |mixed, part| {
        mixed.wrapping_mul(1_000_003).wrapping_add(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// n = 5, won from 1, 2 and 4 turns: 4 of them get 1/5, and the gap at 3 changes nothing. Won from nowhere, or from
    /// the start alone: all 0. The sum is m/n, below 1.
    #[test]
    fn the_longest_beginning_that_wins_shares_in_equal_parts() {
        assert_eq!(process_scores(5, &[4, 1, 2]), [0.2, 0.2, 0.2, 0.2, 0.0]);
        assert_eq!(process_scores(3, &[]), [0.0; 3]);
        assert_eq!(process_scores(3, &[0]), [0.0; 3]);
        assert!(process_scores(0, &[]).is_empty());
        assert_eq!(process_scores(1, &[0]), [0.0]);
        assert_eq!(process_scores(8, &[2, 6]).iter().sum::<f64>(), 6.0 / 8.0);
    }

    #[test]
    #[should_panic(expected = "a beginning of 3 turns of an episode of 3")]
    fn the_whole_of_a_failed_episode_has_not_won() {
        let _ = process_scores(3, &[3]);
    }

    #[test]
    fn completions_are_never_greedy() {
        let protocol = |temperature, context_limit| Protocol {
            temperature,
            context_limit,
            ..Protocol::default()
        };
        assert_eq!(completing(&protocol(0.0, 0), 512), protocol(1.0, 512));
        assert_eq!(completing(&protocol(0.3, 100), 512), protocol(0.3, 100));
    }
}
