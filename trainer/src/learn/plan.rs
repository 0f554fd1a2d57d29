//! What a job reads: which trajectories, which of them belong together, what their neighbours say of them, and which
//! form which update. All of it is decided before the first update, by recipe, data and seed alone.

use crate::error::TrainerError;
use crate::learn::batch::{Example, Rewards, behaviour_logprobs};
use crate::loss::{dpo, gigpo, grpo, rejection_sampling};
use crate::pipeline::recipe::{Algorithm, TrainConfig};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::{Outcome, TextVersion, Trajectory, Turn};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Which trajectories a job does not read, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The world failed.
    pub env_failed: usize,
    /// Longer than the model's context.
    pub too_long: usize,
    /// No turn, or a turn without tokens.
    pub empty: usize,
    /// Failures, where only successes are imitated.
    pub failures: usize,
    /// Without the log-probabilities that they were sampled with, where an algorithm needs them.
    pub unlogged: usize,
    /// Without the states of their turns, where an algorithm compares those.
    pub stateless: usize,
    /// Failures without process scores, where those are rewards.
    pub unscored: usize,
    /// Nothing to compare with: no episode of the same game ended otherwise, or no pair was left.
    pub uncompared: usize,
}

impl LeftOut {
    /// In words; `None` where nothing was left out.
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
            (env_failed, "lost to the world"),
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

/// What a job reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Read {
    /// Trajectories that are learned from.
    pub trajectories: usize,
    /// Those of them that were won.
    pub successes: usize,
    /// Trajectories that only decide when to stop.
    pub held_out: usize,
    /// All others, by reason.
    pub left_out: LeftOut,
    /// Whether the algorithm tells won episodes from lost ones.
    #[serde(skip)]
    pub(crate) needs_both: bool,
}

impl Read {
    /// What a user should know of the data: what is left out, and outcomes that are all the same.
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
                "all {trajectories} episodes were won: there is nothing to tell them from"
            )),
            _ => None,
        };
        left_out.describe().into_iter().chain(one_sided).collect()
    }
}

/// Trajectories that go through the networks together: one, or a pair.
pub(crate) type Unit = Vec<usize>;

/// What a job reads, and when.
pub(crate) struct Plan<'a> {
    /// What may be read.
    pub(crate) data: Vec<&'a Trajectory>,
    /// Tokens of the longest of them.
    pub(crate) longest: usize,
    /// By trajectory, the advantage of each turn; empty where the algorithm has none.
    pub(crate) advantages: Vec<Vec<f64>>,
    /// By trajectory, ln π_ref of its tokens; empty unless it is cached.
    pub(crate) reference_logprobs: Vec<Vec<f32>>,
    /// By update: the epoch, and what is read.
    pub(crate) updates: Vec<(usize, Vec<Unit>)>,
    /// What is held out to decide when to stop.
    pub(crate) held_out: Vec<Unit>,
    /// What counts as a reward.
    pub(crate) rewards: Rewards,
    pub(crate) read: Read,
}

impl<'a> Plan<'a> {
    /// Decides it all.
    ///
    /// # Errors
    /// When nothing is left to learn from.
    pub(crate) fn new(
        recipe: &TrainConfig,
        trajectories: &'a [Trajectory],
        context: usize,
        seed: u64,
    ) -> Result<Self, TrainerError> {
        let nothing = |reason: String| TrainerError::Data(format!("job {}: {reason}", recipe.name));
        let mut left_out = LeftOut::default();
        let data = readable(&recipe.algorithm, trajectories, context, &mut left_out);
        if data.is_empty() {
            let why = left_out
                .describe()
                .map(|text| format!(" ({text})"))
                .unwrap_or_default();
            return Err(nothing(format!(
                "no trajectory remains of {}{why}",
                trajectories.len()
            )));
        }
        let advantages = advantages(&recipe.algorithm, &data);
        let units = units(&recipe.algorithm, &data, &advantages);
        let used: BTreeSet<usize> = units.iter().flatten().copied().collect();
        left_out.uncompared = data.len() - used.len();
        if units.is_empty() {
            return Err(nothing(format!(
                "{} compares episodes of one game, and among {} episodes no game was both won and lost\nhint: collect more repetitions of each game, at a higher temperature",
                recipe.algorithm.kind(),
                data.len()
            )));
        }
        if let (Algorithm::Kto { .. }, Some(side)) = (&recipe.algorithm, one_sided(&data)) {
            return Err(nothing(format!(
                "kto needs won and lost episodes, and all {} are {side}",
                data.len()
            )));
        }
        let (units, held_out) = hold_out(recipe, units, &data, seed);
        if units.is_empty() {
            return Err(nothing("early_stopping.share holds out every game".into()));
        }
        let updates = updates(recipe, &units, seed);
        let learned: BTreeSet<usize> = units.iter().flatten().copied().collect();
        let held: BTreeSet<usize> = held_out.iter().flatten().copied().collect();
        let successes = learned
            .iter()
            .filter(|index| data[**index].is_won())
            .count();
        let read = Read {
            trajectories: learned.len(),
            successes,
            held_out: held.len(),
            left_out,
            needs_both: recipe.algorithm.has_reference(),
        };
        let rewards = match recipe.algorithm {
            Algorithm::Dqo {
                process_scores: true,
                ..
            } => Rewards::WithProcessScores,
            _ => Rewards::Terminal,
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
            rewards,
            read,
        })
    }

    /// A trajectory with all that is known of it.
    pub(crate) fn example(&self, index: usize) -> Example<'_> {
        let advantages = &self.advantages[index];
        Example {
            trajectory: self.data[index],
            advantages: (!advantages.is_empty()).then_some(advantages),
            reference_logprobs: self.reference_logprobs.get(index).map(Vec::as_slice),
            rewards: self.rewards,
        }
    }

    /// What the start has learned to read, and what the trajectories of these updates show.
    pub(crate) fn text_versions(&self, start: &BTreeSet<TextVersion>) -> BTreeSet<TextVersion> {
        let read: BTreeSet<usize> = self
            .updates
            .iter()
            .flat_map(|(_, units)| units)
            .flatten()
            .copied()
            .collect();
        let shown = read
            .into_iter()
            .filter_map(|index| TextVersion::of_trajectory(self.data[index]));
        start.iter().copied().chain(shown).collect()
    }
}

/// The trajectories that an algorithm can and may read.
fn readable<'a>(
    algorithm: &Algorithm,
    trajectories: &'a [Trajectory],
    context: usize,
    left_out: &mut LeftOut,
) -> Vec<&'a Trajectory> {
    let only_successes = matches!(algorithm, Algorithm::RejectionSampling { .. });
    let only_logged = matches!(algorithm, Algorithm::Grpo { .. } | Algorithm::Gigpo { .. });
    let only_with_states = matches!(algorithm, Algorithm::Gigpo { .. });
    let only_scored = matches!(
        algorithm,
        Algorithm::Dqo {
            process_scores: true,
            ..
        }
    );
    let mut may_read = |trajectory: &&Trajectory| {
        let turns = &trajectory.turns;
        let empty = turns.is_empty() || turns.iter().any(|turn| turn.completion_tokens.is_empty());
        let count = if trajectory.outcome == Outcome::EnvFailed {
            &mut left_out.env_failed
        } else if empty {
            &mut left_out.empty
        } else if trajectory.tokens() > context {
            &mut left_out.too_long
        } else if only_successes && !rejection_sampling::is_imitated(trajectory.outcome.reward()) {
            &mut left_out.failures
        } else if only_logged && turns.iter().any(|turn| behaviour_logprobs(turn).is_empty()) {
            &mut left_out.unlogged
        } else if only_with_states && turns.iter().any(|turn| turn.state.is_none()) {
            &mut left_out.stateless
        } else if only_scored
            && !trajectory.is_won()
            && turns.iter().any(|turn| turn.process_score.is_none())
        {
            &mut left_out.unscored
        } else {
            return true;
        };
        *count += 1;
        false
    };
    trajectories
        .iter()
        .filter(|trajectory| may_read(trajectory))
        .collect()
}

/// Indices of the trajectories of each game, games in the order in which they first occur.
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

/// By trajectory: what each turn's advantage is; empty for algorithms without any.
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

/// What a trajectory shows of the states that it went through.
fn anchor_steps(trajectory: &Trajectory, discount: f64) -> Vec<gigpo::AnchorStep> {
    let returns = gigpo::discounted_returns(
        trajectory.outcome.reward(),
        trajectory.turns.len(),
        discount,
    );
    let step = |(turn, return_to_go): (&Turn, f64)| gigpo::AnchorStep {
        state: turn.state.expect("episodes without states are left out"),
        return_to_go,
    };
    trajectory.turns.iter().zip(returns).map(step).collect()
}

/// What goes through the networks together, of all that has something to say.
fn units(algorithm: &Algorithm, data: &[&Trajectory], advantages: &[Vec<f64>]) -> Vec<Unit> {
    let alone = |index: usize| vec![index];
    match algorithm {
        Algorithm::Dpo { pairs, .. } => {
            let mut outcomes = vec![(0, false); data.len()];
            for (game, indices) in by_game(data).into_iter().enumerate() {
                indices
                    .into_iter()
                    .for_each(|index| outcomes[index] = (game, data[index].is_won()));
            }
            dpo::pairs(&outcomes, *pairs)
                .into_iter()
                .map(Vec::from)
                .collect()
        }
        Algorithm::Grpo { .. } | Algorithm::Gigpo { .. } => {
            let speaks =
                |index: &usize| advantages[*index].iter().any(|advantage| *advantage != 0.0);
            (0..data.len()).filter(speaks).map(alone).collect()
        }
        _ => (0..data.len()).map(alone).collect(),
    }
}

/// `won` or `lost`, where all are.
fn one_sided(data: &[&Trajectory]) -> Option<&'static str> {
    match data.iter().filter(|trajectory| trajectory.is_won()).count() {
        0 => Some("lost"),
        all if all == data.len() => Some("won"),
        _ => None,
    }
}

/// Sets the units of some games aside.
fn hold_out(
    recipe: &TrainConfig,
    units: Vec<Unit>,
    data: &[&Trajectory],
    seed: u64,
) -> (Vec<Unit>, Vec<Unit>) {
    let Some(early_stopping) = recipe.early_stopping else {
        return (units, Vec::new());
    };
    let mut games = by_game(data);
    games.shuffle(&mut StdRng::seed_from_u64(seed));
    let count = (games.len() as f64 * early_stopping.share).ceil() as usize;
    let held: BTreeSet<usize> = games.into_iter().take(count).flatten().collect();
    units.into_iter().partition(|unit| !held.contains(&unit[0]))
}

/// Which units form which update: every epoch reads all of them in an order of its own. Batches are drawn without regard
/// to length, because length tells the outcome: a batch of short episodes is a batch of successes.
fn updates(recipe: &TrainConfig, units: &[Unit], seed: u64) -> Vec<(usize, Vec<Unit>)> {
    let optimizer = &recipe.optimizer;
    let epochs = if optimizer.updates == 0 {
        optimizer.epochs
    } else {
        usize::MAX
    };
    let updates = if optimizer.updates == 0 {
        usize::MAX
    } else {
        optimizer.updates
    };
    let together = (optimizer.batch / units[0].len()).max(1);
    let epoch = |epoch: usize| {
        let mut order = units.to_vec();
        order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(epoch as u64)));
        order
            .chunks(together)
            .map(|batch| (epoch, batch.to_vec()))
            .collect::<Vec<_>>()
    };
    (0..epochs).flat_map(epoch).take(updates).collect()
}
