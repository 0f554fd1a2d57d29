//! Which trajectories a training job reads, how they are grouped, and which groups form which
//! update. All of it is decided before the first update, by recipe, data and seed alone.

use super::batch::{Example, RewardSource, behaviour_logprobs};
use super::short_first::ShortEpisodes;
use crate::error::TrainerError;
use crate::learn::config::{Algorithm, TrainConfig};
use crate::learn::ranking::RankingSummary;
use crate::learn::ranking::plan::RankingPlan;
use crate::loss::{dpo, gigpo, grpo, rejection_sampling};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::{Outcome, TextVersion, Trajectory};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// How many trajectories a job does not read, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExcludedEpisodes {
    /// The environment failed.
    pub env_failed: usize,
    /// Longer than the context of the model.
    pub too_long: usize,
    /// Without a turn, or with a turn without tokens.
    pub empty: usize,
    /// Failures, if only successes are imitated.
    pub failures: usize,
    /// Without sampling log-probabilities, if the algorithm needs them.
    pub unlogged: usize,
    /// Without the states of their turns, if the algorithm compares states.
    pub stateless: usize,
    /// Failures without process scores, if these are rewards.
    pub unscored: usize,
    /// Nothing to compare with: every episode of the same game ended alike, or the limit of pairs
    /// was reached.
    pub uncompared: usize,
}

impl ExcludedEpisodes {
    /// Returns a sentence with the counts; `None` if nothing is excluded.
    #[must_use]
    pub fn describe(self) -> Option<String> {
        let Self {
            env_failed,
            too_long,
            empty,
            failures,
            unlogged,
            stateless,
            unscored,
            uncompared,
        } = self;
        let counts = [
            (failures, "failures"),
            (env_failed, "whose environment failed"),
            (too_long, "longer than the context"),
            (empty, "without tokens"),
            (
                unlogged,
                "without the log-probabilities that they were sampled with",
            ),
            (stateless, "without the states of their turns"),
            (unscored, "failures without process scores"),
            (
                uncompared,
                "with no episode of the same game to compare with",
            ),
        ];
        let parts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
    }
}

/// Counts of what a job reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DataSummary {
    /// Trajectories that are learned from.
    pub trajectories: usize,
    /// How many of these are successes.
    pub successes: usize,
    /// Trajectories that only decide when training stops.
    pub held_out: usize,
    /// All others, by reason.
    pub left_out: ExcludedEpisodes,
    /// Branch states, if the job reads them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<RankingSummary>,
    /// Whether the algorithm contrasts successes with failures.
    #[serde(skip)]
    pub(crate) needs_both: bool,
}

impl DataSummary {
    /// Returns warnings for the user: what is excluded, and whether all outcomes are the same.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let Self {
            trajectories,
            successes,
            left_out,
            ..
        } = *self;
        let one_sided = match successes {
            _ if !self.needs_both => None,
            0 => Some(format!(
                "all {trajectories} episodes were lost: there is nothing to reinforce"
            )),
            all if all == trajectories => Some(format!(
                "all {trajectories} episodes were won: there is nothing to compare them with"
            )),
            _ => None,
        };
        let states = self.ranking.map(RankingSummary::remarks);
        left_out
            .describe()
            .into_iter()
            .chain(one_sided)
            .chain(states.into_iter().flatten())
            .collect()
    }
}

/// Indices of trajectories that must be in one micro-batch: one trajectory, or a pair.
pub(crate) type TrajectoryGroup = Vec<usize>;

/// What a job reads, and in which update.
pub(crate) struct Plan<'a> {
    /// The trajectories that may be read.
    pub(crate) data: Vec<&'a Trajectory>,
    /// Tokens of the longest of them.
    pub(crate) longest: usize,
    /// The advantage of each turn, by trajectory; empty if the algorithm has none.
    pub(crate) advantages: Vec<Vec<f64>>,
    /// ln π_ref of the written tokens, by trajectory; empty if it is not cached.
    pub(crate) reference_logprobs: Vec<Vec<f32>>,
    /// The epoch and the groups of each update.
    pub(crate) updates: Vec<(usize, Vec<TrajectoryGroup>)>,
    /// The groups that decide when training stops.
    pub(crate) held_out: Vec<TrajectoryGroup>,
    /// The branch states that are read beside them.
    pub(crate) ranking: RankingPlan<'a>,
    /// Which numbers are rewards.
    pub(crate) rewards: RewardSource,
    /// Counts of all of it.
    pub(crate) read: DataSummary,
}

impl<'a> Plan<'a> {
    /// Plans a job on `trajectories` for a model with `context` positions.
    ///
    /// # Errors
    /// If nothing is left to learn from, or if a trajectory is a branch.
    pub(crate) fn new(
        recipe: &TrainConfig,
        trajectories: &'a [Trajectory],
        context: usize,
        seed: u64,
    ) -> Result<Self, TrainerError> {
        for trajectory in trajectories {
            trajectory.check_episode().map_err(TrainerError::Data)?;
        }
        let mut left_out = ExcludedEpisodes::default();
        let data = readable(&recipe.algorithm, trajectories, context, &mut left_out);
        if data.is_empty() {
            let why = left_out
                .describe()
                .map(|text| format!(" ({text})"))
                .unwrap_or_default();
            let reason = format!("no trajectory remains of {}{why}", trajectories.len());
            return Err(no_data(recipe, &reason));
        }
        let advantages = advantages(&recipe.algorithm, &data);
        let groups = groups(&recipe.algorithm, &data, &advantages);
        let used: BTreeSet<usize> = groups.iter().flatten().copied().collect();
        left_out.uncompared = data.len() - used.len();
        if groups.is_empty() {
            let reason = format!(
                "{} compares episodes of one game, and among {} episodes no game was both won and lost\nhint: collect more repetitions of each game, at a higher temperature",
                recipe.algorithm.kind(),
                data.len()
            );
            return Err(no_data(recipe, &reason));
        }
        if let (Algorithm::Kto { .. }, Some(outcome)) = (&recipe.algorithm, common_outcome(&data)) {
            let reason = format!(
                "kto needs won and lost episodes, and all {} are {outcome}",
                data.len()
            );
            return Err(no_data(recipe, &reason));
        }
        let (groups, held_out) = hold_out(recipe, groups, &data, seed);
        if groups.is_empty() {
            return Err(no_data(recipe, "early_stopping.share holds out every game"));
        }
        if recipe.early_stopping.is_some() && held_out.is_empty() {
            let reason = format!(
                "{} compares episodes of one game, and no game that early_stopping holds out was both won and lost\nhint: raise early_stopping.share, or collect more repetitions of each game",
                recipe.algorithm.kind()
            );
            return Err(no_data(recipe, &reason));
        }
        let mut updates = updates(recipe, &groups, seed);
        ShortEpisodes {
            share: recipe.short_first,
            batch: recipe.optimizer.batch,
            seed,
        }
        .come_first(&mut updates, &groups, &data);
        let learned: BTreeSet<usize> = groups.iter().flatten().copied().collect();
        let held: BTreeSet<usize> = held_out.iter().flatten().copied().collect();
        let successes = learned
            .iter()
            .filter(|index| data[**index].is_won())
            .count();
        let read = DataSummary {
            trajectories: learned.len(),
            successes,
            held_out: held.len(),
            left_out,
            ranking: None,
            needs_both: recipe.algorithm.has_reference(),
        };
        let longest = data
            .iter()
            .map(|trajectory| trajectory.tokens())
            .max()
            .unwrap_or(0);
        Ok(Self {
            data,
            longest,
            advantages,
            reference_logprobs: Vec::new(),
            updates,
            held_out,
            ranking: RankingPlan::default(),
            rewards: reward_source(&recipe.algorithm),
            read,
        })
    }

    /// Plans which branch states are read beside the trajectories of each update.
    ///
    /// # Errors
    /// As [`RankingPlan::new`].
    pub(crate) fn with_branches(
        mut self,
        recipe: &TrainConfig,
        branches: &'a [Trajectory],
        context: usize,
        seed: u64,
    ) -> Result<Self, TrainerError> {
        let held_out: BTreeSet<&str> = self
            .held_out
            .iter()
            .flatten()
            .map(|index| self.data[*index].game_hash.as_str())
            .collect();
        let updates = self.updates.len();
        self.ranking = RankingPlan::new(recipe, branches, context, &held_out, updates, seed)?;
        self.read.ranking = recipe
            .critic
            .reads_branches()
            .then_some(self.ranking.summary);
        Ok(self)
    }

    /// Returns a trajectory with its advantages and cached log-probabilities.
    pub(crate) fn example(&self, index: usize) -> Example<'_> {
        let advantages = &self.advantages[index];
        Example {
            trajectory: self.data[index],
            advantages: (!advantages.is_empty()).then_some(advantages),
            reference_logprobs: self.reference_logprobs.get(index).map(Vec::as_slice),
            rewards: self.rewards,
        }
    }

    /// Returns the text versions of the starting model and of the trajectories of the updates.
    pub(crate) fn text_versions(&self, start: &BTreeSet<TextVersion>) -> BTreeSet<TextVersion> {
        let read: BTreeSet<usize> = self
            .updates
            .iter()
            .flat_map(|(_, groups)| groups)
            .flatten()
            .copied()
            .collect();
        let seen = read
            .into_iter()
            .filter_map(|index| TextVersion::of_trajectory(self.data[index]));
        start.iter().copied().chain(seen).collect()
    }
}

fn no_data(recipe: &TrainConfig, reason: &str) -> TrainerError {
    TrainerError::Data(format!("job {}: {reason}", recipe.name))
}

/// Returns the trajectories that the algorithm can learn from, and counts the others.
fn readable<'a>(
    algorithm: &Algorithm,
    trajectories: &'a [Trajectory],
    context: usize,
    left_out: &mut ExcludedEpisodes,
) -> Vec<&'a Trajectory> {
    let mut readable = Vec::new();
    for trajectory in trajectories {
        match exclusion(algorithm, trajectory, context, left_out) {
            Some(count) => *count += 1,
            None => readable.push(trajectory),
        }
    }
    readable
}

/// Returns the count of the first reason for which the algorithm cannot learn from the trajectory;
/// `None` if it can.
fn exclusion<'c>(
    algorithm: &Algorithm,
    trajectory: &Trajectory,
    context: usize,
    left_out: &'c mut ExcludedEpisodes,
) -> Option<&'c mut usize> {
    let needs_success = matches!(algorithm, Algorithm::RejectionSampling { .. });
    let needs_logprobs = matches!(algorithm, Algorithm::Grpo { .. } | Algorithm::Gigpo { .. });
    let needs_states = matches!(algorithm, Algorithm::Gigpo { .. });
    let needs_scores = reward_source(algorithm) == RewardSource::WithProcessScores;
    let turns = &trajectory.turns;
    if trajectory.outcome == Outcome::EnvFailed {
        Some(&mut left_out.env_failed)
    } else if turns.is_empty() || turns.iter().any(|turn| turn.completion_tokens.is_empty()) {
        Some(&mut left_out.empty)
    } else if trajectory.tokens() > context {
        Some(&mut left_out.too_long)
    } else if needs_success && !rejection_sampling::is_imitated(trajectory.outcome.reward()) {
        Some(&mut left_out.failures)
    } else if needs_logprobs && turns.iter().any(|turn| behaviour_logprobs(turn).is_empty()) {
        Some(&mut left_out.unlogged)
    } else if needs_states && turns.iter().any(|turn| turn.state.is_none()) {
        Some(&mut left_out.stateless)
    } else if needs_scores
        && !trajectory.is_won()
        && turns.iter().any(|turn| turn.process_score.is_none())
    {
        Some(&mut left_out.unscored)
    } else {
        None
    }
}

fn reward_source(algorithm: &Algorithm) -> RewardSource {
    match algorithm {
        Algorithm::Dqo {
            process_scores: true,
            ..
        } => RewardSource::WithProcessScores,
        _ => RewardSource::Terminal,
    }
}

/// Returns the indices of the trajectories of each game. Games are in the order in which they first
/// occur.
fn by_game(data: &[&Trajectory]) -> Vec<Vec<usize>> {
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut games: Vec<Vec<usize>> = Vec::new();
    for (index, trajectory) in data.iter().enumerate() {
        let next = games.len();
        let place = *places
            .entry((&trajectory.game_hash, &trajectory.game))
            .or_insert(next);
        if place == next {
            games.push(Vec::new());
        }
        games[place].push(index);
    }
    games
}

/// Returns the advantage of each turn, by trajectory; empty lists if the algorithm has none.
fn advantages(algorithm: &Algorithm, data: &[&Trajectory]) -> Vec<Vec<f64>> {
    let mut all = vec![Vec::new(); data.len()];
    let (anchor, omega) = match *algorithm {
        Algorithm::Grpo { .. } => (None, 0.0),
        Algorithm::Gigpo {
            discount, omega, ..
        } => (Some(discount), omega),
        _ => return all,
    };
    for game in by_game(data) {
        let returns: Vec<f64> = game
            .iter()
            .map(|index| data[*index].outcome.reward())
            .collect();
        let of_episodes = grpo::group_advantages(&returns);
        let of_turns = match anchor {
            Some(discount) => {
                let steps: Vec<_> = game
                    .iter()
                    .map(|index| anchor_steps(data[*index], discount))
                    .collect();
                gigpo::anchor_advantages(&steps)
            }
            None => game
                .iter()
                .map(|index| vec![0.0; data[*index].turns.len()])
                .collect(),
        };
        for ((index, of_episode), of_turns) in game.into_iter().zip(of_episodes).zip(of_turns) {
            all[index] = gigpo::combined(of_episode, &of_turns, omega);
        }
    }
    all
}

/// Returns the state and the return-to-go of each turn.
fn anchor_steps(trajectory: &Trajectory, discount: f64) -> Vec<gigpo::AnchorStep> {
    let returns = gigpo::discounted_returns(
        trajectory.outcome.reward(),
        trajectory.turns.len(),
        discount,
    );
    trajectory
        .turns
        .iter()
        .zip(returns)
        .map(|(turn, return_to_go)| gigpo::AnchorStep {
            state: turn.state.expect("episodes without states are excluded"),
            return_to_go,
        })
        .collect()
}

/// Returns the groups that have a gradient: pairs for DPO, single trajectories otherwise.
fn groups(
    algorithm: &Algorithm,
    data: &[&Trajectory],
    advantages: &[Vec<f64>],
) -> Vec<TrajectoryGroup> {
    match algorithm {
        Algorithm::Dpo { pairs, .. } => {
            let mut outcomes = vec![(0, false); data.len()];
            for (game, indices) in by_game(data).into_iter().enumerate() {
                for index in indices {
                    outcomes[index] = (game, data[index].is_won());
                }
            }
            dpo::pairs(&outcomes, *pairs)
                .into_iter()
                .map(Vec::from)
                .collect()
        }
        Algorithm::Grpo { .. } | Algorithm::Gigpo { .. } => (0..data.len())
            .filter(|index| advantages[*index].iter().any(|advantage| *advantage != 0.0))
            .map(|index| vec![index])
            .collect(),
        _ => (0..data.len()).map(|index| vec![index]).collect(),
    }
}

/// Returns `won` or `lost` if all trajectories have that outcome.
fn common_outcome(data: &[&Trajectory]) -> Option<&'static str> {
    match data.iter().filter(|trajectory| trajectory.is_won()).count() {
        0 => Some("lost"),
        all if all == data.len() => Some("won"),
        _ => None,
    }
}

/// Splits the groups into those that are learned from and those of held-out games.
fn hold_out(
    recipe: &TrainConfig,
    groups: Vec<TrajectoryGroup>,
    data: &[&Trajectory],
    seed: u64,
) -> (Vec<TrajectoryGroup>, Vec<TrajectoryGroup>) {
    let Some(early_stopping) = recipe.early_stopping else {
        return (groups, Vec::new());
    };
    let mut games = by_game(data);
    games.shuffle(&mut StdRng::seed_from_u64(seed));
    let count = (games.len() as f64 * early_stopping.share).ceil() as usize;
    let held: BTreeSet<usize> = games.into_iter().take(count).flatten().collect();
    groups
        .into_iter()
        .partition(|group| !held.contains(&group[0]))
}

/// Returns the epoch and the groups of each update. Every epoch reads all groups in an order of its
/// own.
///
/// Batches are drawn without regard to length. If they were sorted by length, a batch of short
/// episodes would be a batch of successes, because length correlates with the outcome. If imitation
/// asks for it, [`ShortEpisodes`] replaces the first batches.
fn updates(
    recipe: &TrainConfig,
    groups: &[TrajectoryGroup],
    seed: u64,
) -> Vec<(usize, Vec<TrajectoryGroup>)> {
    let optimizer = &recipe.optimizer;
    let epochs = if optimizer.updates == 0 {
        optimizer.epochs
    } else {
        usize::MAX
    };
    let most = if optimizer.updates == 0 {
        usize::MAX
    } else {
        optimizer.updates
    };
    let groups_per_update = (optimizer.batch / groups[0].len()).max(1);
    let mut updates = Vec::new();
    for epoch in 0..epochs {
        let mut order = groups.to_vec();
        order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(epoch as u64)));
        for batch in order.chunks(groups_per_update) {
            if updates.len() == most {
                return updates;
            }
            updates.push((epoch, batch.to_vec()));
        }
    }
    updates
}
