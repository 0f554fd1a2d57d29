//! Rescues: won continuations of lost episodes, for imitation without an expert.
//!
//! A lost episode often goes in a circle. Its turns show how a policy gets there, and no rollout shows how it
//! leaves. A rescue does: it is the beginning of a lost episode, up to the circle, and a continuation by the
//! policy that won. The turns of the beginning are marked `perturbed`, so imitation reads them as context only.
//! This is DAgger's distribution of states (Ross et al. 2011, arXiv 1011.0686) with the labels of the policy's own
//! successes instead of an expert's. It is our extension, and no published algorithm.
//!
//! A rescue is selected by its outcome in a copy of the game, so part of the wins are luck with the hidden layout.
//! Three rules damp this. A beginning is rescued only if several of its continuations won. Of these, a few are
//! drawn at random, not the shortest. And only imitation may read rescues: a value that is fitted to selected
//! episodes is biased.
//!
//! This module does not read or write stores.

use crate::error::TrainerError;
use crate::measure::branch::{branch_protocol, play_jobs};
use crate::measure::failures::times_given;
use crate::measure::score::is_scored;
use agent::policy::Policy;
use agent::rollout::{Concurrency, EpisodeJob};
use scenarios::seed::SplitMix64;
use scenarios::{Outcome, Protocol, Task, Trajectory, Turn, World};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Separates the choice among won continuations from the seeds of the continuations.
const CHOICE: u64 = 0x0064_7261_776e;

/// The settings of rescues: the table `[rescue]` of a recipe, and the flags of `hearth rescue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RescueRecipe {
    /// Number of continuations of each beginning.
    pub completions: usize,
    /// Number of continuations that must have won, so that a beginning is rescued.
    pub wins: usize,
    /// Number of won continuations that are kept of each beginning, drawn at random.
    pub keep: usize,
    /// Difference in turns between consecutive beginnings of an episode without a circle.
    pub stride: usize,
    /// Sampling temperature of the continuations.
    pub temperature: f32,
}

impl Default for RescueRecipe {
    fn default() -> Self {
        Self {
            completions: 8,
            wins: 2,
            keep: 2,
            stride: 8,
            temperature: 1.0,
        }
    }
}

impl RescueRecipe {
    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// A text that names the setting.
    pub fn check(&self) -> Result<(), String> {
        if self.completions == 0 || self.keep == 0 || self.stride == 0 {
            return Err("completions, keep and stride must be above 0".into());
        }
        if self.wins == 0 || self.wins > self.completions {
            return Err("wins must be from 1 to the number of completions".into());
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(
                "temperature must be above 0, because all greedy continuations are equal".into(),
            );
        }
        Ok(())
    }
}

/// Returns the lengths in turns of the beginnings of a lost episode that are continued.
///
/// If a command was given a third time in one state, the episode goes in a circle: the only beginning ends with
/// that turn. If not, the beginnings have `stride`, 2 · `stride`, … turns. No beginning is the whole episode.
///
/// # Panics
/// If the stride is 0.
#[must_use]
pub fn beginnings(turns: &[Turn], stride: usize) -> Vec<usize> {
    assert!(stride > 0, "the stride must be above 0");
    let second_repetition = times_given(turns).into_iter().position(|times| times == 2);
    match second_repetition {
        Some(turn) if turn + 1 < turns.len() => vec![turn + 1],
        Some(_) => Vec::new(),
        None => (stride..turns.len()).step_by(stride).collect(),
    }
}

/// The beginning of a lost episode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LostBeginning<'a> {
    /// The game.
    pub task: &'a Task,
    /// The episode.
    pub episode: &'a Trajectory,
    /// Number of its turns that are replayed.
    pub turns: usize,
}

/// Returns the beginnings of all lost episodes, in order. If the game of an episode is not in `tasks`, which maps
/// the hashes of games to them, it has none.
#[must_use]
pub fn lost_beginnings<'a>(
    episodes: &'a [Trajectory],
    tasks: &HashMap<&str, &'a Task>,
    recipe: &RescueRecipe,
) -> Vec<LostBeginning<'a>> {
    let mut found = Vec::new();
    for episode in episodes.iter().filter(|episode| is_scored(episode.outcome)) {
        let Some(&task) = tasks.get(episode.game_hash.as_str()) else {
            continue;
        };
        let lengths = beginnings(&episode.turns, recipe.stride).into_iter();
        found.extend(lengths.map(|turns| LostBeginning {
            task,
            episode,
            turns,
        }));
    }
    found
}

/// How beginnings are continued.
#[derive(Debug, Clone, Copy)]
pub struct Rescuing<'a> {
    /// Numbers of continuations and temperature.
    pub recipe: &'a RescueRecipe,
    /// Maximum number of tokens in the context, if the episodes were recorded as text.
    pub context_limit: usize,
    /// Seed of the continuations and of the choice among them.
    pub seed: u64,
    /// Number of episodes that are played concurrently.
    pub pool: Concurrency,
}

/// The result of a beginning.
#[derive(Debug, Clone, PartialEq)]
pub enum RescueResult {
    /// The rescues that are kept; none if too few continuations won.
    Rescues(Vec<Trajectory>),
    /// A continuation failed, so the beginning has no rescues. Contains the last failure.
    Lost(String),
}

/// The cost of rescues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RescueCost {
    /// Number of continuations that were played.
    pub completions: usize,
    /// Number of turns that the policy generated in them.
    pub turns: usize,
}

/// Continues beginnings, and passes the result of each to `record` as soon as it is known, in order. All episodes
/// must have been played under `protocol`; its turn limit counts the turns of the beginning too.
///
/// A result depends only on the beginning, the settings and the policy.
///
/// # Errors
/// The first error of `record`. [`TrainerError::Protocol`] if the policy cannot play by the protocol,
/// [`TrainerError::Gone`] if it does not respond any more.
///
/// # Panics
/// If the settings are out of range, which [`RescueRecipe::check`] refuses.
pub fn play_rescues<P: Policy>(
    policy: &P,
    world: &dyn World,
    beginnings: &[LostBeginning<'_>],
    protocol: &Protocol,
    rescuing: Rescuing<'_>,
    mut record: impl FnMut(&LostBeginning<'_>, RescueResult) -> Result<(), TrainerError>,
) -> Result<RescueCost, TrainerError> {
    let recipe = rescuing.recipe;
    recipe.check().expect("the caller has checked the settings");
    let protocol = branch_protocol(protocol, rescuing.context_limit, recipe.temperature, 0.0);
    policy.can_play(&protocol).map_err(TrainerError::Protocol)?;
    let at_once = (8 * rescuing.pool.episodes / recipe.completions).max(1);
    let mut cost = RescueCost::default();
    for chunk in beginnings.chunks(at_once) {
        let mut jobs = Vec::new();
        for beginning in chunk {
            let first = jobs.len();
            jobs.extend((0..recipe.completions).map(|number| EpisodeJob {
                task: beginning.task,
                repetition: first + number,
                seed: completion_seed(rescuing.seed, beginning, number as u64),
                forced: &beginning.episode.turns[..beginning.turns],
            }));
        }
        let mut played: Vec<Option<Trajectory>> = vec![None; jobs.len()];
        play_jobs(policy, world, &jobs, &protocol, rescuing.pool, |episode| {
            let place = episode.repetition;
            cost.completions += 1;
            cost.turns += episode.turns.len().saturating_sub(jobs[place].forced.len());
            played[place] = Some(episode);
        })?;
        let mut played = played.into_iter().flatten();
        for beginning in chunk {
            let of_beginning: Vec<Trajectory> = played.by_ref().take(recipe.completions).collect();
            record(beginning, rescues(beginning, of_beginning, rescuing))?;
        }
    }
    Ok(cost)
}

/// Returns the rescues among the continuations of a beginning.
fn rescues(
    beginning: &LostBeginning<'_>,
    played: Vec<Trajectory>,
    rescuing: Rescuing<'_>,
) -> RescueResult {
    let recipe = rescuing.recipe;
    let failed = played.iter().rfind(|of| of.outcome == Outcome::EnvFailed);
    if let Some(failed) = failed {
        return RescueResult::Lost(failed.failure.clone().unwrap_or_default());
    }
    let mut won: Vec<Trajectory> = played.into_iter().filter(Trajectory::is_won).collect();
    if won.len() < recipe.wins {
        return RescueResult::Rescues(Vec::new());
    }
    let seed = completion_seed(rescuing.seed, beginning, CHOICE);
    SplitMix64(seed).shuffle(&mut won);
    won.truncate(recipe.keep);
    for rescue in &mut won {
        rescue.repetition = beginning.episode.repetition;
        rescue.seconds = 0.0;
        for turn in &mut rescue.turns[..beginning.turns] {
            turn.perturbed = true;
        }
    }
    RescueResult::Rescues(won)
}

/// Returns the seed of a continuation. If this formula changes, logged seeds cannot be reproduced.
fn completion_seed(seed: u64, beginning: &LostBeginning<'_>, number: u64) -> u64 {
    let turns = beginning.turns as u64;
    SplitMix64::new(&[seed, beginning.episode.seed, turns, number]).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(of: &[(&str, &str)]) -> Vec<Turn> {
        of.iter()
            .map(|(observation, command)| Turn {
                observation: (*observation).into(),
                action: (!command.is_empty()).then(|| (*command).into()),
                ..Turn::default()
            })
            .collect()
    }

    /// `west` in room 1 is given at turns 1, 3 and 5: the circle is closed a second time at turn 5.
    #[test]
    fn a_beginning_ends_with_the_second_repetition_of_a_command_in_a_state() {
        let step = [("room 0", "east"), ("room 1", "west")];
        let circle = [&step[..], &step, &step, &[("room 0", "look")]].concat();
        let first = times_given(&turns(&circle));
        assert_eq!(first, [0, 0, 1, 1, 2, 2, 0]);
        assert_eq!(beginnings(&turns(&circle), 2), [5]);
        assert_eq!(
            beginnings(&turns(&circle[..5]), 2),
            [0_usize; 0],
            "it is the whole episode"
        );
        assert_eq!(beginnings(&turns(&circle[..4]), 2), [2]);
        let malformed = [("room 0", ""); 7];
        assert_eq!(beginnings(&turns(&malformed), 3), [3, 6]);
        assert_eq!(beginnings(&[], 3), [0_usize; 0]);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        assert_eq!(RescueRecipe::default().check(), Ok(()));
        let of = |change: fn(&mut RescueRecipe)| {
            let mut recipe = RescueRecipe::default();
            change(&mut recipe);
            recipe.check().expect_err("refused")
        };
        assert!(of(|recipe| recipe.keep = 0).contains("keep"));
        assert!(of(|recipe| recipe.wins = 9).starts_with("wins"));
        assert!(of(|recipe| recipe.wins = 0).starts_with("wins"));
        assert!(of(|recipe| recipe.temperature = 0.0).starts_with("temperature"));
    }
}
