//! Process scores: how far a failed episode could still be won.
//!
//! In DQO (arXiv 2410.09302), 20 completions are sampled from prefixes of a failed response. The
//! longest prefix from which at least one of them succeeds gets 1/n per segment. Here a segment is a
//! turn. For a failed episode of n turns, let m < n be the length of the longest prefix from whose
//! end one of C completions by the policy wins within the turns that the protocol leaves. Each of its
//! m turns is scored 1/n and each later turn 0. If an episode was won, it keeps its terminal reward
//! and has no process scores.
//!
//! Winning is not monotone in m, because a later turn can undo an earlier mistake. Prefixes are
//! therefore tried from the longest down. The empty prefix is not tried, because its score is 0 in
//! both cases. If an episode of n turns cannot be won, it costs up to C · n(n−1)/2 turns of the
//! policy. A stride above 1 skips prefixes and divides this cost by the stride; the result may then
//! be a shorter prefix than the longest one.
//!
//! This module does not read or write stores: the caller selects the episodes and keeps the scores.

use crate::error::TrainerError;
use agent::policy::Policy;
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use scenarios::{Outcome, Protocol, Task, Trajectory, Turn, World};

/// Returns the score of each turn of a failed episode, in units of reward: 1/n for each turn of the
/// longest prefix from which a completion won, and 0 for the others. `won_from` contains the lengths
/// in turns of the prefixes from which a completion won.
///
/// ```
/// use trainer::measure::score::process_scores;
///
/// assert_eq!(process_scores(4, &[1, 3]), [0.25, 0.25, 0.25, 0.0]);
/// ```
///
/// # Panics
/// If a prefix is as long as the episode, because the episode itself was not won.
#[must_use]
pub fn process_scores(turns: usize, won_from: &[usize]) -> Vec<f64> {
    let longest = won_from.iter().copied().max().unwrap_or(0);
    assert!(
        longest == 0 || longest < turns,
        "a prefix of {longest} turns of an episode of {turns}"
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

/// Returns whether an episode gets process scores: if it ended without success. If the environment
/// failed, the episode gets none.
#[must_use]
pub fn is_scored(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failure | Outcome::TurnLimit | Outcome::ContextLimit => true,
        Outcome::Success | Outcome::EnvFailed => false,
    }
}

/// Returns the episode with one score per turn.
///
/// # Panics
/// If the number of scores differs from the number of turns.
#[must_use]
pub fn with_scores(episode: &Trajectory, scores: &[f64]) -> Trajectory {
    assert_eq!(scores.len(), episode.turns.len(), "one score for each turn");
    Trajectory {
        turns: episode
            .turns
            .iter()
            .zip(scores)
            .map(|(turn, score)| Turn {
                process_score: Some(*score),
                ..turn.clone()
            })
            .collect(),
        ..episode.clone()
    }
}

/// Returns the protocol of the completions of an episode that was played under `protocol`.
///
/// The search is removed. If the temperature is 0, it becomes 1, because all greedy completions are
/// equal. If the protocol has no context limit, because the episode was recorded as text,
/// `context_limit` is used, in tokens.
#[must_use]
pub fn completion_protocol(protocol: &Protocol, context_limit: usize) -> Protocol {
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

/// What is sampled for each failed episode.
#[derive(Debug, Clone, Copy)]
pub struct Scoring {
    /// Number of completions C from the end of each prefix. It is 20 in the paper.
    pub completions: usize,
    /// Difference in turns between consecutive prefixes. If it is 1, every prefix is tried.
    pub stride: usize,
    /// Seed of the completions. The seed of each completion is computed from it, the episode's seed,
    /// the length of the prefix and the number of the completion.
    pub seed: u64,
    /// Number of episodes that are played concurrently.
    pub pool: Concurrency,
}

/// A failed episode and its game.
#[derive(Debug, Clone, Copy)]
pub struct FailedEpisode<'a> {
    /// The game.
    pub task: &'a Task,
    /// The episode.
    pub episode: &'a Trajectory,
}

/// The result for a failed episode.
#[derive(Debug, Clone, PartialEq)]
pub enum ScoringResult {
    /// The scores of the turns, from [`process_scores`].
    Scores(Vec<f64>),
    /// The scores are unknown: completions failed and none of the others won. For example, the
    /// environment did not repeat a logged observation. Contains the last failure.
    Lost(String),
}

/// The cost of the completions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScoringCost {
    /// Number of completions that were played.
    pub completions: usize,
    /// Number of turns that the policy generated in them.
    pub turns: usize,
}

/// An episode whose longest prefix is not known yet.
struct OpenEpisode<'a> {
    failed: FailedEpisode<'a>,
    /// Length in turns of the prefix that is tried next.
    next: usize,
    won: usize,
    lost: Option<String>,
}

/// Completes failed episodes from their longest prefix down, and passes the result of each to
/// `record` as soon as it is known. All episodes must have been played under one protocol, and
/// `protocol` must be the [`completion_protocol`] of it.
///
/// Enough episodes are open at once to use the whole pool. Each round completes one prefix of every
/// open episode. A result depends only on the episode and `scoring`.
///
/// # Errors
/// The first error of `record`. [`TrainerError::Gone`] if the policy does not respond any more.
///
/// # Panics
/// If the number of completions or the stride is 0.
pub fn score_episodes<P: Policy>(
    policy: &P,
    world: &dyn World,
    failed: &[FailedEpisode<'_>],
    protocol: &Protocol,
    scoring: Scoring,
    mut record: impl FnMut(&Trajectory, ScoringResult) -> Result<(), TrainerError>,
) -> Result<ScoringCost, TrainerError> {
    assert!(
        scoring.completions > 0 && scoring.stride > 0,
        "the number of completions and the stride must be above 0"
    );
    let at_once = (4 * scoring.pool.episodes / scoring.completions).max(1);
    let mut waiting = failed.iter();
    let mut open: Vec<OpenEpisode<'_>> = Vec::new();
    let mut cost = ScoringCost::default();
    loop {
        while open.len() < at_once
            && let Some(failed) = waiting.next()
        {
            match failed.episode.turns.len() {
                turns @ (0 | 1) => record(
                    failed.episode,
                    ScoringResult::Scores(process_scores(turns, &[])),
                )?,
                turns => open.push(OpenEpisode {
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
            match one.result(scoring.stride) {
                Some(result) => record(one.failed.episode, result)?,
                None => still_open.push(one),
            }
        }
        open = still_open;
    }
}

/// Plays one round: all completions of the next prefix of every open episode.
fn complete<'a, P: Policy>(
    policy: &P,
    world: &dyn World,
    open: &mut [OpenEpisode<'a>],
    protocol: &Protocol,
    scoring: Scoring,
    cost: &mut ScoringCost,
) -> Result<(), TrainerError> {
    let mut jobs: Vec<EpisodeJob<'a>> = Vec::new();
    for (index, one) in open.iter().enumerate() {
        let FailedEpisode { task, episode } = one.failed;
        let turns = one.next;
        jobs.extend((0..scoring.completions).map(|number| EpisodeJob {
            task,
            repetition: index * scoring.completions + number,
            seed: completion_seed(scoring.seed, episode.seed, turns, number),
            forced: &episode.turns[..turns],
        }));
    }
    play_episodes(policy, world, &jobs, protocol, scoring.pool, |completion| {
        TrainerError::check_policy(policy, &completion)?;
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

impl OpenEpisode<'_> {
    /// Returns the result after a round, if it is final. Otherwise sets the next prefix and returns
    /// `None`.
    fn result(&mut self, stride: usize) -> Option<ScoringResult> {
        let turns = self.failed.episode.turns.len();
        if self.won > 0 {
            return Some(ScoringResult::Scores(process_scores(turns, &[self.next])));
        }
        if let Some(reason) = self.lost.take() {
            return Some(ScoringResult::Lost(reason));
        }
        self.next = self.next.saturating_sub(stride);
        (self.next == 0).then(|| ScoringResult::Scores(process_scores(turns, &[])))
    }
}

/// Returns the seed of a completion, computed from the seeds of the command and the episode, the
/// length of the prefix and the number of the completion. If this formula changes, logged seeds
/// cannot be reproduced.
fn completion_seed(seed: u64, episode: u64, turns: usize, completion: usize) -> u64 {
    let parts = [episode, turns as u64, completion as u64];
    parts.into_iter().fold(seed, |mixed, part| {
        mixed.wrapping_mul(1_000_003).wrapping_add(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// n = 5, won from prefixes of 1, 2 and 4 turns: 4 turns get 1/5. The gap at 3 changes nothing.
    /// If no prefix won, or only the empty one, all scores are 0. The sum is m/n, which is below 1.
    #[test]
    fn the_turns_of_the_longest_winning_prefix_share_the_score_equally() {
        assert_eq!(process_scores(5, &[4, 1, 2]), [0.2, 0.2, 0.2, 0.2, 0.0]);
        assert_eq!(process_scores(3, &[]), [0.0; 3]);
        assert_eq!(process_scores(3, &[0]), [0.0; 3]);
        assert!(process_scores(0, &[]).is_empty());
        assert_eq!(process_scores(1, &[0]), [0.0]);
        assert_eq!(process_scores(8, &[2, 6]).iter().sum::<f64>(), 6.0 / 8.0);
    }

    #[test]
    #[should_panic(expected = "a prefix of 3 turns of an episode of 3")]
    fn the_whole_of_a_failed_episode_has_not_won() {
        let _ = process_scores(3, &[3]);
    }

    #[test]
    fn completions_are_never_greedy() {
        assert_eq!(
            completion_protocol(&protocol(0.0, 0), 512),
            protocol(1.0, 512)
        );
        assert_eq!(
            completion_protocol(&protocol(0.3, 100), 512),
            protocol(0.3, 100)
        );
    }

    fn protocol(temperature: f32, context_limit: usize) -> Protocol {
        Protocol {
            temperature,
            context_limit,
            ..Protocol::default()
        }
    }
}
