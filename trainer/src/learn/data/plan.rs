//! Which trajectories a training job reads, how they are grouped, and which groups form which
//! update. All of it is decided before the first update, by recipe, data and seed alone.

use super::batch::{Example, RewardSource};
use super::episodes::{EpisodeRow, Episodes, ExcludedEpisodes, TrajectoryGroup, reward_source};
use super::short_first::ShortEpisodes;
use crate::error::TrainerError;
use crate::learn::config::{Algorithm, TrainConfig};
use crate::learn::ranking::RankingSummary;
use crate::learn::ranking::plan::RankingPlan;
use crate::loss::{dpo, gigpo, grpo};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::{TextVersion, Trajectory};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeSet;

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

/// What a job reads, and in which update.
pub(crate) struct Plan<'a> {
    /// The episodes that may be read.
    pub(crate) episodes: &'a Episodes<'a>,
    /// Tokens of the longest of them.
    pub(crate) longest: usize,
    /// The advantage of each turn, by row; empty if the algorithm has none.
    pub(crate) advantages: Vec<Vec<f64>>,
    /// ln π_ref of the written tokens, by row; empty if it is not cached.
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
    /// Plans a job on episodes.
    ///
    /// # Errors
    /// If nothing is left to learn from, or an episode cannot be read.
    pub(crate) fn new(
        recipe: &TrainConfig,
        episodes: &'a Episodes<'a>,
        seed: u64,
    ) -> Result<Self, TrainerError> {
        let data = &episodes.rows[..];
        let mut left_out = episodes.left_out;
        if data.is_empty() {
            let why = left_out
                .describe()
                .map(|text| format!(" ({text})"))
                .unwrap_or_default();
            let reason = format!("no trajectory remains of {}{why}", episodes.given);
            return Err(no_data(recipe, &reason));
        }
        let advantages = advantages(&recipe.algorithm, episodes)?;
        let groups = groups(&recipe.algorithm, data, &advantages);
        left_out.uncompared = data.len() - count_rows(&groups, data.len(), |_| true);
        if groups.is_empty() {
            let reason = format!(
                "{} compares episodes of one game, and among {} episodes no game was both won and lost\nhint: collect more repetitions of each game, at a higher temperature",
                recipe.algorithm.kind(),
                data.len()
            );
            return Err(no_data(recipe, &reason));
        }
        if let (Algorithm::Kto { .. }, Some(outcome)) = (&recipe.algorithm, common_outcome(data)) {
            let reason = format!(
                "kto needs won and lost episodes, and all {} are {outcome}",
                data.len()
            );
            return Err(no_data(recipe, &reason));
        }
        let (groups, held_out) = hold_out(recipe, groups, data, seed);
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
        .come_first(&mut updates, &groups, data);
        let read = DataSummary {
            trajectories: count_rows(&groups, data.len(), |_| true),
            successes: count_rows(&groups, data.len(), |row| data[row].is_won()),
            held_out: count_rows(&held_out, data.len(), |_| true),
            left_out,
            ranking: None,
            needs_both: recipe.algorithm.has_reference(),
        };
        let longest = data.iter().map(|row| row.tokens).max().unwrap_or(0);
        Ok(Self {
            episodes,
            longest: longest as usize,
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
            .flat_map(TrajectoryGroup::rows)
            .map(|row| {
                self.episodes.games[self.episodes.rows[row].game as usize]
                    .hash
                    .as_str()
            })
            .collect();
        let updates = self.updates.len();
        self.ranking = RankingPlan::new(recipe, branches, context, &held_out, updates, seed)?;
        self.read.ranking = recipe
            .critic
            .reads_branches()
            .then_some(self.ranking.summary);
        Ok(self)
    }

    /// Reads the trajectories of some groups.
    ///
    /// # Errors
    /// If an episode cannot be read from its store.
    pub(crate) fn load(
        &self,
        groups: &[TrajectoryGroup],
    ) -> Result<LoadedGroups<'_>, TrainerError> {
        let mut loaded = Vec::new();
        for group in groups {
            let group: Result<Vec<_>, TrainerError> = group
                .rows()
                .map(|row| Ok((row, self.episodes.load(row)?)))
                .collect();
            loaded.push(group?);
        }
        Ok(LoadedGroups {
            plan: self,
            groups: loaded,
        })
    }

    /// Returns the trajectory of a row with its advantages and cached log-probabilities.
    fn example<'t>(&'t self, row: usize, trajectory: &'t Trajectory) -> Example<'t> {
        Example {
            trajectory,
            advantages: self.advantages.get(row).map(Vec::as_slice),
            reference_logprobs: self.reference_logprobs.get(row).map(Vec::as_slice),
            rewards: self.rewards,
        }
    }

    /// Returns the text versions of the starting model and of the trajectories of the updates.
    pub(crate) fn text_versions(&self, start: &BTreeSet<TextVersion>) -> BTreeSet<TextVersion> {
        let read = self.updates.iter().flat_map(|(_, groups)| groups);
        let seen = read
            .flat_map(TrajectoryGroup::rows)
            .filter_map(|row| self.episodes.rows[row].text_version);
        start.iter().copied().chain(seen).collect()
    }
}

/// The trajectories of some groups, in memory.
pub(crate) struct LoadedGroups<'p> {
    plan: &'p Plan<'p>,
    groups: Vec<Vec<(usize, Cow<'p, Trajectory>)>>,
}

impl LoadedGroups<'_> {
    /// Returns the trajectories of all groups, in order.
    pub(crate) fn trajectories(&self) -> Vec<&Trajectory> {
        let all = self.groups.iter().flatten();
        all.map(|(_, trajectory)| trajectory.as_ref()).collect()
    }

    /// Returns the groups with their advantages and cached log-probabilities.
    pub(crate) fn examples(&self) -> Vec<Vec<Example<'_>>> {
        let groups = self.groups.iter();
        groups
            .map(|group| {
                let examples = group.iter();
                examples
                    .map(|(row, trajectory)| self.plan.example(*row, trajectory))
                    .collect()
            })
            .collect()
    }

    /// Returns the tokens of the longest trajectory of the job.
    pub(crate) fn longest(&self) -> usize {
        self.plan.longest
    }
}

/// Returns the number of distinct rows in groups that fulfil a condition.
fn count_rows(groups: &[TrajectoryGroup], rows: usize, condition: impl Fn(usize) -> bool) -> usize {
    let mut counts = vec![false; rows];
    for row in groups.iter().flat_map(TrajectoryGroup::rows) {
        counts[row] = condition(row);
    }
    counts.into_iter().filter(|counts| *counts).count()
}

fn no_data(recipe: &TrainConfig, reason: &str) -> TrainerError {
    TrainerError::Data(format!("job {}: {reason}", recipe.name))
}

/// Returns the rows of each game. Games are in the order in which they first occur.
fn by_game(data: &[EpisodeRow]) -> Vec<Vec<u32>> {
    let games = data.iter().map(|row| row.game as usize + 1).max();
    let mut places = vec![usize::MAX; games.unwrap_or(0)];
    let mut found: Vec<Vec<u32>> = Vec::new();
    for (index, row) in (0..).zip(data) {
        let place = &mut places[row.game as usize];
        if *place == usize::MAX {
            *place = found.len();
            found.push(Vec::new());
        }
        found[*place].push(index);
    }
    found
}

/// Returns the advantage of each turn, by row; nothing if the algorithm has none.
fn advantages(
    algorithm: &Algorithm,
    episodes: &Episodes<'_>,
) -> Result<Vec<Vec<f64>>, TrainerError> {
    let data = &episodes.rows[..];
    let (anchor, omega) = match *algorithm {
        Algorithm::Grpo { .. } => (None, 0.0),
        Algorithm::Gigpo {
            discount, omega, ..
        } => (Some(discount), omega),
        _ => return Ok(Vec::new()),
    };
    let mut all = vec![Vec::new(); data.len()];
    for game in by_game(data) {
        let rows = || game.iter().map(|row| *row as usize);
        let returns: Vec<f64> = rows().map(|row| data[row].outcome.reward()).collect();
        let of_episodes = grpo::group_advantages(&returns);
        let of_turns = match anchor {
            Some(discount) => {
                let mut steps = Vec::new();
                for row in rows() {
                    let episode = episodes.load(row)?;
                    steps.push(anchor_steps(&episode, discount));
                }
                gigpo::anchor_advantages(&steps)
            }
            None => rows()
                .map(|row| vec![0.0; data[row].turns as usize])
                .collect(),
        };
        for ((row, of_episode), of_turns) in rows().zip(of_episodes).zip(of_turns) {
            all[row] = gigpo::combined(of_episode, &of_turns, omega);
        }
    }
    Ok(all)
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
    data: &[EpisodeRow],
    advantages: &[Vec<f64>],
) -> Vec<TrajectoryGroup> {
    let rows = 0..u32::try_from(data.len()).expect("rows have 32-bit numbers");
    match algorithm {
        Algorithm::Dpo { pairs, .. } => {
            let mut outcomes = vec![(0, false); data.len()];
            for (game, rows) in by_game(data).into_iter().enumerate() {
                for row in rows {
                    outcomes[row as usize] = (game, data[row as usize].is_won());
                }
            }
            dpo::pairs(&outcomes, *pairs)
                .into_iter()
                .map(|pair| {
                    TrajectoryGroup::Pair(
                        pair.map(|row| u32::try_from(row).expect("rows have 32-bit numbers")),
                    )
                })
                .collect()
        }
        Algorithm::Grpo { .. } | Algorithm::Gigpo { .. } => rows
            .filter(|row| {
                let turns = &advantages[*row as usize];
                turns.iter().any(|advantage| *advantage != 0.0)
            })
            .map(TrajectoryGroup::Single)
            .collect(),
        _ => rows.map(TrajectoryGroup::Single).collect(),
    }
}

/// Returns `won` or `lost` if all trajectories have that outcome.
fn common_outcome(data: &[EpisodeRow]) -> Option<&'static str> {
    match data.iter().filter(|row| row.is_won()).count() {
        0 => Some("lost"),
        all if all == data.len() => Some("won"),
        _ => None,
    }
}

/// Splits the groups into those that are learned from and those of held-out games.
fn hold_out(
    recipe: &TrainConfig,
    groups: Vec<TrajectoryGroup>,
    data: &[EpisodeRow],
    seed: u64,
) -> (Vec<TrajectoryGroup>, Vec<TrajectoryGroup>) {
    let Some(early_stopping) = recipe.early_stopping else {
        return (groups, Vec::new());
    };
    let mut games = by_game(data);
    games.shuffle(&mut StdRng::seed_from_u64(seed));
    let count = (games.len() as f64 * early_stopping.share).ceil() as usize;
    let held: BTreeSet<u32> = games.into_iter().take(count).flatten().collect();
    groups
        .into_iter()
        .partition(|group| !group.rows().any(|row| held.contains(&(row as u32))))
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
    let groups_per_update = (optimizer.batch / groups[0].rows().count()).max(1);
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
