//! The training loop: batch, forward pass, losses, backward pass, update, log.
//!
//! A job is a function of its recipe, data, starting policy and seed. Which trajectories form
//! update *n* does not depend on earlier updates. So if a run resumes from a checkpoint, its result
//! equals that of an uninterrupted run.

use crate::error::TrainerError;
use crate::learn::checkpoint::{BestEvaluation, Checkpoint, Position};
use crate::learn::config::{CriticConfig, ReferenceUse, TrainConfig};
use crate::learn::critic;
use crate::learn::data::episodes::Episodes;
use crate::learn::data::plan::{DataSummary, Plan};
use crate::learn::lineage::Lineage;
use crate::learn::metrics::reading::{ReadingNumbers, ReadingProbe};
use crate::learn::metrics::{Metrics, MetricsColumns, MetricsRow, UpdateTime};
use crate::learn::micro_batch::{MicroBatchShape, PassKind};
use crate::learn::networks::{NetworkSource, Placement};
use crate::learn::optimizer::{OptimizerState, learning_rate_at};
use crate::learn::parameters::{Parameter, from_weights, parameters, to_weights};
use crate::learn::ranks::Ranks;
use crate::learn::replicas::Replicas;
use agent::inference::PolicyInference;
use agent::inference::device::DeviceChoice;
use agent::model::decoder::ValueNetwork;
use agent::model::folder::Model;
use agent::model::peft::Adapter;
use agent::model::weights::Weights;
use indicatif::ProgressBar;
use scenarios::household::is_permuted;
use scenarios::store::Store;
use scenarios::suite::hex;
use scenarios::{Split, TextVersion, Trajectory, WeightFormat};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Largest number of updates between two checkpoints.
const CHECKPOINT_EVERY: usize = 100;

/// Longest time between two checkpoints, if updates are slow.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(120);

/// The inputs of a training job.
pub struct TrainingJob<'a> {
    /// Algorithm, optimizer and their settings.
    pub recipe: &'a TrainConfig,
    /// The policy to start from. It is also the reference.
    pub start: &'a Model,
    /// The lineage of `start`, if it is known.
    pub lineage: Option<&'a Lineage>,
    /// The data: [`Episodes::in_memory`] or [`Episodes::stored`].
    pub episodes: &'a Episodes<'a>,
    /// The lines of branch stores, if the job reads branch states; else empty. Their token ids must
    /// be those of the tokenizer of `start`: [`crate::learn::ranking::tokenize_states`].
    pub branches: &'a [Trajectory],
    /// The reading test; needed if the recipe sets `reading_every`.
    pub reading: Option<&'a dyn ReadingProbe>,
    /// Seed of the order of batches.
    pub seed: u64,
    /// Folder for `metrics.csv`, `tensorboard/`, `lineage.json` and the checkpoint.
    pub out: &'a Path,
    /// The device. It changes the rounding of sums and the duration.
    pub hardware: DeviceChoice,
    /// The processes that train together; [`crate::learn::ranks::Alone`] if this is the only one. They must see the
    /// same `out`, in which rank 0 writes. Their number changes only the duration.
    pub ranks: &'a dyn Ranks,
}

/// Trains; returns the model and a summary of the data.
///
/// # Errors
/// If the device is not available, no data remain, branch states are missing or not asked for, a
/// number is not finite, the policy diverges, or a file cannot be written.
pub fn train(
    job: &TrainingJob<'_>,
    progress: &ProgressBar,
) -> Result<(Model, DataSummary), TrainerError> {
    let recipe = job.recipe;
    let token_budget = recipe.optimizer.token_budget;
    let device = job.hardware.burn()?;
    recipe.precision.check(&device)?;
    let placement = Placement {
        device: device.autodiff(),
        shape: MicroBatchShape::new(job.hardware, &job.start.policy, token_budget),
    };
    std::fs::create_dir_all(job.out).map_err(TrainerError::file(job.out))?;
    let context = job.start.config.max_position_embeddings;
    let mut plan = Plan::new(recipe, job.episodes, job.seed)?.with_branches(
        recipe,
        job.branches,
        context,
        job.seed,
    )?;
    let mut state = TrainingState::new(job, &plan, placement)?;
    state.check_ranks(job.ranks)?;
    if recipe.reference == ReferenceUse::Cached {
        plan.reference_logprobs = state.replicas.cache_reference(&plan)?;
    }
    let writes = job.ranks.rank() == 0;
    let mut metrics = if writes {
        Some(Metrics::open(job.out, state.update, metrics_columns(job)?)?)
    } else {
        None
    };
    let mut last_checkpoint = Instant::now();
    progress.set_length(plan.updates.len() as u64);
    progress.set_position(state.update as u64);
    while state.update < plan.updates.len() && !state.has_stopped_improving(recipe) {
        let row = state.update(job, &plan)?;
        if let Some(metrics) = &mut metrics {
            metrics.write(&row)?;
        }
        progress.set_message(row.summary());
        progress.inc(1);
        let is_due = state.update.is_multiple_of(CHECKPOINT_EVERY)
            || last_checkpoint.elapsed() > CHECKPOINT_AFTER;
        if is_due && writes && state.update < plan.updates.len() {
            state.checkpoint().save(&job.out.join("checkpoint"))?;
            last_checkpoint = Instant::now();
        }
    }
    state.restore_best();
    if writes {
        state.save_adapters(job)?;
        Lineage::new(recipe, games_of(&plan), job.lineage).save(job.out)?;
    }
    let text_versions = plan.text_versions(&job.start.text_versions);
    Ok((state.into_model(job.start, text_versions), plan.read))
}

/// The networks, their optimizers, and the number of updates done.
struct TrainingState<'a> {
    replicas: Replicas<'a>,
    policy: OptimizedNetwork,
    value: Option<OptimizedNetwork>,
    update: usize,
    /// The best evaluation on the held-out games, if there was one.
    best: Option<BestParameters>,
    /// Hash of recipe, data and starting weights.
    job: String,
}

/// The parameters of a network on the host, and their optimizer.
struct OptimizedNetwork {
    parameters: Vec<Parameter>,
    optimizer: OptimizerState,
}

/// The trainable parameters of both networks at the best evaluation.
struct BestParameters {
    evaluation: BestEvaluation,
    policy: Vec<Parameter>,
    value: Option<Vec<Parameter>>,
}

impl<'a> TrainingState<'a> {
    /// Builds the networks, and continues from the checkpoint if there is one.
    fn new(
        job: &TrainingJob<'a>,
        plan: &Plan<'_>,
        placement: Placement,
    ) -> Result<Self, TrainerError> {
        let identity = identity(job, plan);
        let mut checkpoint = Checkpoint::open(&job.out.join("checkpoint"), &identity)?;
        let mut policy_weights = job.start.policy.clone();
        let mut policy_optimizer = OptimizerState::default();
        let mut value_weights = critic::initial_weights(job.recipe, job.start)?;
        let mut value_optimizer = OptimizerState::default();
        // A checkpoint contains the trainable tensors only. If the job has adapters, these are
        // their factors and the head of the value network.
        if let Some(checkpoint) = &mut checkpoint {
            policy_weights.0.extend(checkpoint.take("policy")?.0);
            policy_optimizer = OptimizerState::from_weights(checkpoint.take("policy-optimizer")?)?;
            if let Some(weights) = &mut value_weights {
                weights.0.extend(checkpoint.take("value")?.0);
                value_optimizer =
                    OptimizerState::from_weights(checkpoint.take("value-optimizer")?)?;
            }
        }
        let source = NetworkSource {
            recipe: job.recipe,
            start: job.start,
            seed: job.seed,
            policy: &policy_weights,
            value: value_weights.as_ref(),
        };
        let replicas = Replicas::new(&source, placement, job.ranks)?;
        let networks = replicas.first();
        let policy = OptimizedNetwork {
            parameters: parameters(&networks.policy),
            optimizer: policy_optimizer,
        };
        let value = networks.value.as_ref().map(|network| OptimizedNetwork {
            parameters: parameters(network),
            optimizer: value_optimizer,
        });
        let mut state = Self {
            replicas,
            policy,
            value,
            update: 0,
            best: None,
            job: identity,
        };
        if let Some(checkpoint) = checkpoint {
            state.resume(checkpoint)?;
        }
        Ok(state)
    }

    /// Returns an error if another rank has another job or another checkpoint.
    fn check_ranks(&self, ranks: &dyn Ranks) -> Result<(), TrainerError> {
        let mine = format!("job {} at update {}", self.job, self.update);
        let all = ranks.gather_bytes(mine.as_bytes());
        let all = all.iter().map(|bytes| String::from_utf8_lossy(bytes));
        for (rank, other) in all.enumerate() {
            if other != mine {
                return Err(TrainerError::Data(format!(
                    "rank {} has {mine}, and rank {rank} has {other}\n\
                     hint: start all processes with the same arguments, and on files that all of them see",
                    ranks.rank()
                )));
            }
        }
        Ok(())
    }

    /// Sets the position and the best parameters from a checkpoint.
    fn resume(&mut self, mut checkpoint: Checkpoint) -> Result<(), TrainerError> {
        self.update = checkpoint.position.update;
        let Some(evaluation) = checkpoint.position.best.take() else {
            return Ok(());
        };
        let policy = from_weights(&checkpoint.take("best-policy")?, &self.policy.parameters)?;
        let value = match &self.value {
            Some(value) => Some(from_weights(
                &checkpoint.take("best-value")?,
                &value.parameters,
            )?),
            None => None,
        };
        self.best = Some(BestParameters {
            evaluation,
            policy,
            value,
        });
        Ok(())
    }

    /// Returns the state as a checkpoint.
    fn checkpoint(&self) -> Checkpoint {
        let networks = self.replicas.first();
        let mut tensors = vec![
            ("policy", networks.policy.to_learned()),
            ("policy-optimizer", self.policy.optimizer.to_weights()),
        ];
        if let (Some(network), Some(value)) = (&networks.value, &self.value) {
            tensors.push(("value", network.to_learned()));
            tensors.push(("value-optimizer", value.optimizer.to_weights()));
        }
        if let Some(best) = &self.best {
            tensors.push(("best-policy", to_weights(&best.policy)));
            if let Some(value) = &best.value {
                tensors.push(("best-value", to_weights(value)));
            }
        }
        Checkpoint {
            position: Position {
                update: self.update,
                job: self.job.clone(),
                best: self.best.as_ref().map(|best| best.evaluation.clone()),
            },
            tensors: tensors
                .into_iter()
                .map(|(name, weights)| (name.to_string(), weights))
                .collect(),
        }
    }

    /// Does one update. The gradients of value network and policy are both computed before either
    /// moves.
    fn update(
        &mut self,
        job: &TrainingJob<'_>,
        plan: &Plan<'_>,
    ) -> Result<MetricsRow, TrainerError> {
        let started = Instant::now();
        let recipe = job.recipe;
        let optimizer = &recipe.optimizer;
        let updates = plan.updates.len();
        let (epoch, groups) = &plan.updates[self.update];
        let batch = plan.load(groups)?;
        let trajectories = batch.trajectories();
        let critic = recipe.algorithm.critic();
        let progress = self.update as f64 / updates as f64;
        let policy = critic.is_none_or(|critic| progress >= critic.critic_only_share);
        let part = critic::part(&recipe.critic, self.update, updates);
        let pass = PassKind::Train {
            policy,
            critic: part,
        };
        let mut result = self.replicas.run(recipe, &batch, pass)?;
        if let Some(states) = plan.ranking.updates.get(self.update) {
            let of_states = self
                .replicas
                .run_ranking(recipe, plan, states, policy, part)?;
            result.add(of_states, 1.0);
        }
        let computed = Instant::now();

        let warmup = optimizer.warmup;
        let rate = learning_rate_at(optimizer.learning_rate, warmup, self.update, updates)
            * optimizer.policy_rate_share(self.policy.optimizer.updates());
        let mut row = MetricsRow {
            update: self.update,
            epoch: *epoch,
            learning_rate: rate,
            trajectories: trajectories.len(),
            tokens: trajectories.iter().map(|episode| episode.tokens()).sum(),
            success_rate: success_rate(&trajectories),
            statistics: result.statistics,
            ..MetricsRow::default()
        };
        if let (Some(gradients), Some(network), Some(critic)) =
            (&result.value, &mut self.value, critic)
        {
            let rate = learning_rate_at(critic.learning_rate, warmup, self.update, updates);
            let OptimizedNetwork {
                parameters,
                optimizer: state,
            } = network;
            if critic::trunk_joins(&recipe.critic, self.update, updates) {
                // The second phase of LP-FT is a training run of its own.
                *state = OptimizerState::default();
            }
            let optimizer = optimizer.of_value_network();
            row.gradient_norm_value = Some(state.update(parameters, gradients, rate, &optimizer));
        }
        if let Some(gradients) = &result.policy {
            let OptimizedNetwork {
                parameters,
                optimizer: state,
            } = &mut self.policy;
            row.gradient_norm_policy = Some(state.update(parameters, gradients, rate, optimizer));
        }
        if let Some((what, value)) = row.diverged(optimizer.log_ratio_limit) {
            let stopped = job.out.join("stopped-batch.jsonl");
            if job.ranks.rank() == 0 {
                save_trajectories(&stopped, &trajectories)?;
            }
            return Err(TrainerError::Diverged {
                update: self.update,
                what: what.into(),
                value,
                batch: stopped,
            });
        }
        self.load_networks(result.policy.is_some(), result.value.is_some());
        let update_seconds = computed.elapsed().as_secs_f64();
        self.update += 1;
        row.held_out = self.evaluate(recipe, plan)?;
        row.reading = self.test_reading(job, plan)?;
        let replicas = self.replicas.count() as f64;
        row.time = UpdateTime {
            total: started.elapsed().as_secs_f64(),
            forward: result.forward_seconds / replicas,
            backward: result.backward_seconds / replicas,
            update: update_seconds,
        };
        Ok(row)
    }

    /// Computes the loss on the held-out games, if an evaluation is due, and keeps the parameters
    /// if it is the lowest so far.
    fn evaluate(
        &mut self,
        recipe: &TrainConfig,
        plan: &Plan<'_>,
    ) -> Result<Option<f64>, TrainerError> {
        let Some(early_stopping) = recipe.early_stopping else {
            return Ok(None);
        };
        if !self.update.is_multiple_of(early_stopping.every) && self.update < plan.updates.len() {
            return Ok(None);
        }
        let batch = plan.load(&plan.held_out)?;
        let result = self.replicas.run(recipe, &batch, PassKind::Evaluate)?;
        let loss = result.statistics.loss_policy.unwrap_or(0.0)
            + result.statistics.loss_value.unwrap_or(0.0);
        match &mut self.best {
            Some(best) if best.evaluation.loss <= loss => best.evaluation.looks_since += 1,
            _ => {
                let value = self.value.as_ref().map(|value| value.parameters.clone());
                self.best = Some(BestParameters {
                    evaluation: BestEvaluation {
                        loss,
                        update: self.update,
                        looks_since: 0,
                    },
                    policy: self.policy.parameters.clone(),
                    value,
                });
            }
        }
        Ok(Some(loss))
    }

    /// Runs the reading test on a copy of the policy at play, if a test is due: every `reading_every`
    /// updates, and after the last.
    fn test_reading(
        &self,
        job: &TrainingJob<'_>,
        plan: &Plan<'_>,
    ) -> Result<Option<ReadingNumbers>, TrainerError> {
        let every = job.recipe.reading_every;
        let is_asked = every > 0 && job.ranks.rank() == 0; // no other rank writes the result
        let Some(test) = job.reading.filter(|_| is_asked) else {
            return Ok(None);
        };
        if !self.update.is_multiple_of(every) && self.update < plan.updates.len() {
            return Ok(None);
        }
        let mut weights = self.replicas.first().policy.to_weights();
        let policy = PolicyInference::from_weights(
            &job.start.config,
            &mut weights,
            WeightFormat::Exact,
            &job.hardware.backend()?,
        )?;
        Ok(Some(test.read(&policy)))
    }

    /// Returns whether the held-out loss has not fallen for as many evaluations as the recipe
    /// allows.
    fn has_stopped_improving(&self, recipe: &TrainConfig) -> bool {
        match (recipe.early_stopping, &self.best) {
            (Some(early_stopping), Some(best)) => {
                best.evaluation.looks_since >= early_stopping.patience
            }
            _ => false,
        }
    }

    /// Restores the parameters of the best evaluation, if there was one.
    fn restore_best(&mut self) {
        let Some(best) = self.best.take() else { return };
        self.policy.parameters = best.policy;
        if let (Some(network), Some(parameters)) = (&mut self.value, best.value) {
            network.parameters = parameters;
        }
        self.load_networks(true, true);
    }

    /// Copies the parameters from the host into the networks that moved.
    fn load_networks(&mut self, policy_moved: bool, value_moved: bool) {
        let policy = policy_moved.then_some(self.policy.parameters.as_slice());
        let value = self
            .value
            .as_ref()
            .filter(|_| value_moved)
            .map(|value| value.parameters.as_slice());
        self.replicas.load(policy, value);
    }

    /// Saves the adapters in PEFT format beside the merged model, if the job has adapters.
    fn save_adapters(&self, job: &TrainingJob<'_>) -> Result<(), TrainerError> {
        let Some(lora) = &job.recipe.lora else {
            return Ok(());
        };
        let networks = self.replicas.first();
        let base = job.start.policy.hash();
        let config = &job.start.config;
        let save = |base: &str, learned: Weights, folder: &str| {
            let adapter = Adapter::new(lora, base, learned);
            adapter.for_checkpoint(config).save(&job.out.join(folder))
        };
        save(&base, networks.policy.to_learned(), "adapter")?;
        if let Some(value) = &networks.value {
            let inherited = critic::inherited(job.recipe, job.start);
            let base = inherited.map_or(base, Weights::hash);
            save(&base, value.to_learned(), "value/adapter")?;
        }
        Ok(())
    }

    /// Returns the trained model.
    fn into_model(self, start: &Model, text_versions: BTreeSet<TextVersion>) -> Model {
        let Self {
            replicas,
            policy,
            value,
            ..
        } = self;
        drop((policy, value)); // parameters and moments need twice the memory of the model
        let networks = replicas.first();
        Model {
            config: start.config.clone(),
            tokenizer: start.tokenizer.clone(),
            policy: networks.policy.to_weights(),
            value: networks.value.as_ref().map(ValueNetwork::to_weights),
            text_versions,
            companions: start.companions.clone(),
        }
    }
}

/// Returns the columns of `metrics.csv`.
///
/// # Errors
/// If the recipe asks for a reading test and the job has none.
fn metrics_columns(job: &TrainingJob<'_>) -> Result<MetricsColumns, TrainerError> {
    match (job.recipe.reading_every, job.reading) {
        (0, _) => Ok(MetricsColumns::Common),
        (_, Some(_)) => Ok(MetricsColumns::WithReading),
        (every, None) => Err(TrainerError::Data(format!(
            "job {:?}: reading_every = {every} needs a reading test\nhint: name the games that give its pairs",
            job.recipe.name
        ))),
    }
}

/// Returns the mean reward of the outcomes.
fn success_rate(trajectories: &[&Trajectory]) -> f64 {
    let rewards = trajectories
        .iter()
        .map(|trajectory| trajectory.outcome.reward());
    rewards.sum::<f64>() / trajectories.len() as f64
}

/// Writes trajectories into a new store.
fn save_trajectories(path: &Path, trajectories: &[&Trajectory]) -> Result<(), TrainerError> {
    if path.exists() {
        std::fs::remove_file(path).map_err(TrainerError::file(path))?;
    }
    let (mut store, _) = Store::open(path)?;
    for trajectory in trajectories {
        store.append(trajectory)?;
    }
    Ok(())
}

/// Returns the recipe as text. Optional keys with their default are left out, so that the checkpoints
/// of versions without these keys still fit.
fn recipe_text(recipe: &TrainConfig) -> String {
    let mut text = format!("{recipe:?}").replace(", short_first: 0.0, ", ", ");
    let critic = format!(", critic: {:?}", CriticConfig::default());
    // The reading test decides no number of the model.
    let reading = format!(", reading_every: {}", recipe.reading_every);
    for default in [
        ", imitation_coef: 0.0",
        ", path_length: None",
        ", discount: 1.0, normalise: Trajectory, log_ratio_clip: None",
        ", value_gradient_clip: None, policy_warmup: 0",
        ", kind: AdamW",
        &critic,
        &reading,
    ] {
        text = text.replace(default, "");
    }
    text
}

/// Returns the games of the episodes and branch states that a job may read, as [`Lineage::new`] wants them.
fn games_of<'p>(plan: &'p Plan<'_>) -> impl Iterator<Item = (Split, &'p str, bool)> {
    let Episodes { rows, games, .. } = plan.episodes;
    let of_episodes: BTreeSet<u32> = rows.iter().map(|row| row.game).collect();
    let of_episodes = of_episodes
        .into_iter()
        .map(|game| games[game as usize].lineage_key());
    let of_states = plan.ranking.states.iter().map(|state| {
        let Trajectory {
            split,
            game_hash,
            game,
            ..
        } = state.trajectory;
        (*split, game_hash.as_str(), is_permuted(game))
    });
    of_episodes.chain(of_states)
}

/// Returns a hash of everything that decides the numbers of a job.
fn identity(job: &TrainingJob<'_>, plan: &Plan<'_>) -> String {
    let mut digest = Sha256::new();
    let mut text = HashedText(&mut digest);
    let Plan {
        updates, held_out, ..
    } = plan;
    write!(
        text,
        "{} {} {updates:?} {held_out:?}",
        recipe_text(job.recipe),
        job.seed
    )
    .expect("hashing does not fail");
    digest.update(job.start.policy.hash());
    if let Some(value) = critic::inherited(job.recipe, job.start) {
        digest.update(value.hash());
    }
    job.episodes.hash_into(&mut digest);
    for state in &plan.ranking.states {
        for candidate in state.candidates() {
            for token in state.prefix.iter().chain(&candidate.tokens) {
                digest.update(token.to_le_bytes());
            }
        }
        for label in &state.labels {
            digest.update(label.to_le_bytes());
        }
    }
    for advantage in plan.advantages.iter().flatten() {
        digest.update(advantage.to_le_bytes());
    }
    hex(&digest.finalize()[..8])
}

/// Hashes a text while it is written.
struct HashedText<'d>(&'d mut Sha256);

impl fmt::Write for HashedText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::config::{Algorithm, Level, Normalisation};
    use crate::learn::optimizer::OptimizerKind;

    /// A checkpoint of a version without the optional keys belongs to the same job.
    #[test]
    fn optional_keys_with_their_default_are_not_part_of_the_identity() {
        let mut recipe = TrainConfig::of(Algorithm::Oreo {
            level: Level::Turn,
            beta: 0.1,
            alpha: 0.0,
            value_learning_rate: 0.5,
            critic_only_share: 0.25,
            discount: 1.0,
            normalise: Normalisation::Trajectory,
            log_ratio_clip: None,
            path_length: None,
            imitation_coef: 0.0,
        });
        let text = recipe_text(&recipe);
        assert!(text.ends_with("critic_only_share: 0.25 } }"), "{text}");
        assert!(text.contains("clip: 1.0, weight_decay: 0.0"), "{text}");
        assert!(text.contains("early_stopping: None, algorithm: "), "{text}");
        assert!(text.contains("activations: Kept }, lora"), "{text}");
        recipe.reading_every = 7;
        assert_eq!(recipe_text(&recipe), text, "a test changes no model");
        recipe.optimizer.policy_warmup = 3;
        recipe.critic.head_only = 0.5;
        recipe.optimizer.kind = OptimizerKind::Muon;
        recipe.short_first = 0.05;
        let text = recipe_text(&recipe);
        assert!(text.contains("policy_warmup: 3") && text.contains("head_only: 0.5"));
        assert!(text.contains("kind: Muon") && text.contains("short_first: 0.05, algorithm"));
    }
}
