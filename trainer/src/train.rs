//! The whole lesson in one loop: batch, log-probabilities, losses, backward, update, log.
//!
//! A lesson is a function of its recipe, data, starting policy and seed: which trajectories form update *n* does not
//! depend on what was done before, so a run that resumes from a checkpoint equals one that never stopped.

use crate::batch::{Batch, BatchTensors};
use crate::checkpoint::{Checkpoint, Position};
use crate::error::TrainerError;
use crate::loss::oreo::{OreoInputs, after_value_loss, exact_kl, policy_loss, turn_sums, value_loss};
use crate::loss::{mean_per_token, sft, target_logprobs};
use crate::optimizer::{
    AdamW, HostGradients, Parameter, accumulate, gradients, parameters, scheduled, with_parameters,
};
use crate::recipe::{Algorithm, LessonRecipe, Level, Targets};
use agent::decoder::{Decoder, ValueNetwork};
use agent::device::Hardware;
use agent::fused;
use agent::model::Model;
use agent::weights::Weights;
use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};
use indicatif::ProgressBar;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::{Outcome, TextVersion, Trajectory};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Updates between two checkpoints.
const CHECKPOINT_EVERY: usize = 100;

/// Numbers of a network from which its weights fit into no cache.
const LARGE: usize = 1 << 24;

/// What a lesson needs besides its recipe.
pub struct Lesson<'a> {
    /// How to learn.
    pub recipe: &'a LessonRecipe,
    /// The policy to start from, also the reference.
    pub start: &'a Model,
    /// What to read, in an order that does not depend on who finished first.
    pub trajectories: &'a [Trajectory],
    /// Seed of the batches' order.
    pub seed: u64,
    /// Folder for `metrics.csv` and the checkpoint.
    pub out: &'a Path,
    /// Where to learn; it changes how sums are rounded and how long they take.
    pub hardware: Hardware,
}

/// Which trajectories a lesson does not read, counted.
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
}

/// A row of `metrics.csv`; losses that an algorithm does not have stay empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Metrics {
    update: usize,
    epoch: usize,
    learning_rate: f64,
    trajectories: usize,
    tokens: usize,
    loss_policy: Option<f64>,
    loss_value: Option<f64>,
    loss_after_value: Option<f64>,
    kl_exact: Option<f64>,
    log_ratio_per_action: Option<f64>,
    value_mean: Option<f64>,
    success_rate: f64,
    gradient_norm_policy: Option<f64>,
    gradient_norm_value: Option<f64>,
    seconds: f64,
}

/// Learns; returns the model and what was left out of the data.
///
/// # Errors
/// When the device cannot be had, nothing is left to read, a number is not finite, or a file cannot be written.
pub fn train(lesson: &Lesson<'_>, progress: &ProgressBar) -> Result<(Model, LeftOut), TrainerError> {
    let place = Place {
        device: lesson.hardware.burn()?.autodiff(),
        cut: Cut::of(lesson.hardware).for_weights(&lesson.start.policy),
    };
    std::fs::create_dir_all(lesson.out).map_err(TrainerError::file(lesson.out))?;
    let (data, left_out) = readable(lesson);
    if data.is_empty() {
        return Err(TrainerError::Data(format!(
            "lesson {}: no trajectory remains of {}",
            lesson.recipe.name,
            lesson.trajectories.len()
        )));
    }
    let plan = plan(lesson, &data);
    let mut student = Student::new(lesson, &plan, place)?;
    let mut metrics = MetricsFile::open(&lesson.out.join("metrics.csv"), student.update)?;
    progress.set_length(plan.len() as u64);
    progress.set_position(student.update as u64);
    while student.update < plan.len() {
        let (epoch, indices) = &plan[student.update];
        let chosen: Vec<&Trajectory> = indices.iter().map(|index| data[*index]).collect();
        let row = student.update(lesson.recipe, &chosen, *epoch, plan.len())?;
        metrics.write(&row)?;
        progress.set_message(row.summary());
        progress.inc(1);
        if student.update.is_multiple_of(CHECKPOINT_EVERY) && student.update < plan.len() {
            student.checkpoint().save(&lesson.out.join("checkpoint"))?;
        }
    }
    let text_versions = text_versions(lesson.start, &plan, &data);
    Ok((student.graduate(lesson.start, text_versions), left_out))
}

/// The trajectories that the lesson can and may read.
fn readable<'a>(lesson: &Lesson<'a>) -> (Vec<&'a Trajectory>, LeftOut) {
    let mut left_out = LeftOut::default();
    let only_successes = matches!(lesson.recipe.algorithm, Algorithm::RejectionSampling { .. });
    let mut may_read = |trajectory: &&Trajectory| {
        let turns = &trajectory.turns;
        let empty = turns.is_empty() || turns.iter().any(|turn| turn.completion_tokens.is_empty());
        let count = if trajectory.outcome == Outcome::EnvFailed {
            &mut left_out.env_failed
        } else if empty {
            &mut left_out.empty
        } else if trajectory.tokens() > lesson.start.config.max_position_embeddings {
            &mut left_out.too_long
        } else if only_successes && trajectory.outcome != Outcome::Success {
            &mut left_out.failures
        } else {
            return true;
        };
        *count += 1;
        false
    };
    let data = lesson.trajectories.iter().filter(|trajectory| may_read(trajectory)).collect();
    (data, left_out)
}

/// Which trajectories form which update: every epoch reads all of them in an order of its own. Batches are drawn
/// without regard to length, because length tells the outcome: a batch of short episodes is a batch of successes.
fn plan(lesson: &Lesson<'_>, data: &[&Trajectory]) -> Vec<(usize, Vec<usize>)> {
    let recipe = &lesson.recipe.optimizer;
    let epochs = if recipe.updates == 0 { recipe.epochs } else { usize::MAX };
    let updates = if recipe.updates == 0 { usize::MAX } else { recipe.updates };
    let epoch = |epoch: usize| {
        let mut order: Vec<usize> = (0..data.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(lesson.seed.wrapping_add(epoch as u64)));
        order.chunks(recipe.batch).map(|batch| (epoch, batch.to_vec())).collect::<Vec<_>>()
    };
    (0..epochs).flat_map(epoch).take(updates).collect()
}

/// What the start has learned to read, and what the trajectories of these updates show.
fn text_versions(start: &Model, plan: &[(usize, Vec<usize>)], data: &[&Trajectory]) -> BTreeSet<TextVersion> {
    let read: BTreeSet<usize> = plan.iter().flat_map(|(_, indices)| indices).copied().collect();
    let shown = read.into_iter().filter_map(|index| TextVersion::of_trajectory(data[index]));
    start.text_versions.iter().copied().chain(shown).collect()
}

/// A device, and how batches are cut for it.
#[derive(Clone)]
struct Place {
    /// With gradients.
    device: Device,
    cut: Cut,
}

/// How a batch is cut into parts of near-equal lengths, whose gradients are added in order: the sum does not depend on
/// the number of cores, and on the cut only in its rounding.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Tokens, padding included, that go through the networks together.
    tokens: usize,
    /// Parts in work at the same time.
    lanes: usize,
    /// The positions of a part are rounded up to a multiple of this, so that few shapes occur.
    positions: usize,
    /// So are the positions whose logits are looked at.
    written: usize,
}

impl Cut {
    fn of(hardware: Hardware) -> Self {
        match hardware {
            // What fits into the caches of a core.
            Hardware::Cpu => Self { tokens: 640, lanes: 2, positions: 16, written: 1 },
            // What fills a GPU and fits into its memory. Its kernels are tuned once for each power of two of a dimension
            // and each alignment of rows; multiples of 64 leave few of the latter.
            Hardware::Cuda(_) => Self { tokens: 8192, lanes: 1, positions: 64, written: 64 },
        }
    }

    /// The same where products are small; where each fills all threads by itself, what saves passes over the weights.
    fn for_weights(self, weights: &Weights) -> Self {
        let numbers: usize = weights.0.values().map(|tensor| tensor.data.len()).sum();
        let is_large = self.lanes > 1 && numbers >= LARGE;
        if is_large { Self { tokens: 1024, lanes: 1, ..self } } else { self }
    }
}

/// The networks, their optimizers and how far they are.
struct Student {
    /// The same networks, one for each lane.
    replicas: Vec<Networks>,
    /// Threads of each lane, so that lanes do not wait for each other's small products.
    pools: Vec<rayon::ThreadPool>,
    place: Place,
    policy: Trained,
    value: Option<Trained>,
    update: usize,
    lesson: String,
}

/// Parameters on the host and what moves them.
struct Trained {
    parameters: Vec<Parameter>,
    optimizer: AdamW,
}

/// The networks on a device.
struct Networks {
    place: Place,
    policy: Decoder,
    critic: Option<Critic>,
}

/// What only value-based algorithms have.
struct Critic {
    reference: Decoder,
    value: ValueNetwork,
}

/// What one part of a batch says: gradients, and the numbers to log, each a mean over the part.
#[derive(Default)]
struct Part {
    policy: Option<HostGradients>,
    value: Option<HostGradients>,
    logged: Logged,
}

/// Losses and diagnostics of an update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Logged {
    loss_policy: Option<f64>,
    loss_value: Option<f64>,
    loss_after_value: Option<f64>,
    kl_exact: Option<f64>,
    log_ratio_per_action: Option<f64>,
    value_mean: Option<f64>,
}

impl Student {
    fn new(lesson: &Lesson<'_>, plan: &[(usize, Vec<usize>)], place: Place) -> Result<Self, TrainerError> {
        let identity = identity(lesson, plan);
        let mut found = Checkpoint::open(&lesson.out.join("checkpoint"), &identity)?;
        let update = found.as_ref().map_or(0, |checkpoint| checkpoint.position.update);
        let mut tensors = |name: &str| found.as_mut().map(|checkpoint| checkpoint.take(name)).transpose();
        let optimizer = |weights: Option<_>| weights.map_or(Ok(AdamW::default()), AdamW::from_weights);
        let policy_weights = tensors("policy")?.unwrap_or_else(|| lesson.start.policy.clone());
        let policy_optimizer = optimizer(tensors("policy-optimizer")?)?;
        let mut value_weights = None;
        let mut value_optimizer = AdamW::default();
        if let Algorithm::Oreo { .. } = lesson.recipe.algorithm {
            let fresh = || lesson.start.policy.with_zero_value_head(&lesson.start.config);
            value_weights = Some(tensors("value")?.unwrap_or_else(fresh));
            value_optimizer = optimizer(tensors("value-optimizer")?)?;
        }
        let replica = |_| Networks::new(lesson, &policy_weights, value_weights.as_ref(), &place);
        let replicas = (0..place.cut.lanes).map(replica).collect::<Result<Vec<_>, _>>()?;
        let policy = Trained { parameters: parameters(&replicas[0].policy), optimizer: policy_optimizer };
        let critic = replicas[0].critic.as_ref();
        let value = critic.map(|critic| Trained { parameters: parameters(&critic.value), optimizer: value_optimizer });
        let threads = (rayon::current_num_threads() / place.cut.lanes).max(1);
        let pool = |_| rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pools = (0..place.cut.lanes).map(pool).collect::<Result<_, _>>();
        let pools = pools.map_err(|e| TrainerError::Data(format!("no threads for training: {e}")))?;
        Ok(Self { replicas, pools, place, policy, value, update, lesson: identity })
    }

    fn checkpoint(&self) -> Checkpoint {
        let networks = &self.replicas[0];
        let mut tensors = vec![
            ("policy".to_string(), networks.policy.to_weights()),
            ("policy-optimizer".to_string(), self.policy.optimizer.to_weights()),
        ];
        if let (Some(critic), Some(value)) = (&networks.critic, &self.value) {
            tensors.push(("value".to_string(), critic.value.to_weights()));
            tensors.push(("value-optimizer".to_string(), value.optimizer.to_weights()));
        }
        Checkpoint { position: Position { update: self.update, lesson: self.lesson.clone() }, tensors }
    }

    fn graduate(self, start: &Model, text_versions: BTreeSet<TextVersion>) -> Model {
        let networks = &self.replicas[0];
        Model {
            config: start.config.clone(),
            tokenizer: start.tokenizer.clone(),
            policy: networks.policy.to_weights(),
            value: networks.critic.as_ref().map(|critic| critic.value.to_weights()),
            text_versions,
            companions: start.companions.clone(),
        }
    }

    /// One update; the value network's and the policy's gradients are both taken before either moves.
    fn update(
        &mut self,
        recipe: &LessonRecipe,
        chosen: &[&Trajectory],
        epoch: usize,
        updates: usize,
    ) -> Result<Metrics, TrainerError> {
        let started = Instant::now();
        let optimizer = &recipe.optimizer;
        let rate = scheduled(optimizer.learning_rate, optimizer.warmup, self.update, updates);
        let whole = self.whole(recipe, chosen, updates)?;
        let mut row = Metrics {
            update: self.update,
            epoch,
            learning_rate: rate,
            trajectories: chosen.len(),
            tokens: chosen.iter().map(|trajectory| trajectory.tokens()).sum(),
            success_rate: chosen.iter().map(|trajectory| trajectory.reward()).sum::<f64>() / chosen.len() as f64,
            loss_policy: whole.logged.loss_policy,
            loss_value: whole.logged.loss_value,
            loss_after_value: whole.logged.loss_after_value,
            kl_exact: whole.logged.kl_exact,
            log_ratio_per_action: whole.logged.log_ratio_per_action,
            value_mean: whole.logged.value_mean,
            ..Metrics::default()
        };
        if let (Some(gradients), Some(value)) = (&whole.value, &mut self.value) {
            let rate = match recipe.algorithm {
                Algorithm::Oreo { value_learning_rate, .. } => {
                    scheduled(value_learning_rate, optimizer.warmup, self.update, updates)
                }
                _ => rate,
            };
            row.gradient_norm_value = Some(value.optimizer.update(&mut value.parameters, gradients, rate, optimizer));
        }
        if let Some(gradients) = &whole.policy {
            let Trained { parameters, optimizer: adam } = &mut self.policy;
            row.gradient_norm_policy = Some(adam.update(parameters, gradients, rate, optimizer));
        }
        row.check()?;
        let moved = (whole.policy.is_some(), whole.value.is_some());
        self.replicas = std::mem::take(&mut self.replicas).into_iter().map(|n| self.refresh(n, moved)).collect();
        self.update += 1;
        row.seconds = started.elapsed().as_secs_f64();
        Ok(row)
    }

    /// Gradients and numbers of the whole batch, from its parts side by side.
    fn whole(&self, recipe: &LessonRecipe, chosen: &[&Trajectory], updates: usize) -> Result<Part, TrainerError> {
        let mut by_length = chosen.to_vec();
        by_length.sort_by_key(|trajectory| std::cmp::Reverse(trajectory.tokens()));
        let batch = |part: &[&Trajectory]| Batch::new(part, self.place.cut.positions);
        let batches = parts(&by_length, self.place.cut).into_iter().map(batch).collect::<Result<Vec<_>, _>>()?;
        let weights: Vec<f64> = batches.iter().map(|batch| weight(batch, &recipe.algorithm)).collect();
        let total: f64 = weights.iter().sum();
        let progress = self.update as f64 / updates as f64;
        let next = AtomicUsize::new(0);
        let lane = |networks: &Networks| -> Vec<(usize, Part)> {
            let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < batches.len());
            std::iter::from_fn(take).map(|index| (index, networks.part(&batches[index], recipe, progress))).collect()
        };
        let mut parts: Vec<(usize, Part)> = match &self.replicas[..] {
            [alone] => lane(alone), // in this thread: a GPU gives every thread a queue and memory of its own
            _ => std::thread::scope(|scope| {
                let lanes = self.replicas.iter().zip(&self.pools);
                let threads: Vec<_> =
                    lanes.map(|(networks, pool)| scope.spawn(|| pool.install(|| lane(networks)))).collect();
                threads.into_iter().flat_map(|thread| thread.join().expect("a part does not panic")).collect()
            }),
        };
        parts.sort_by_key(|(index, _)| *index);
        let mut whole = Part::default();
        for ((_, part), weight) in parts.into_iter().zip(weights) {
            whole.add(part, weight / total);
        }
        Ok(whole)
    }

    fn refresh(&self, mut networks: Networks, (policy_moved, value_moved): (bool, bool)) -> Networks {
        if policy_moved {
            networks.policy = with_parameters(networks.policy, &self.policy.parameters);
        }
        if let (true, Some(value)) = (value_moved, &self.value) {
            networks.critic = networks
                .critic
                .map(|critic| Critic { value: with_parameters(critic.value, &value.parameters), ..critic });
        }
        networks
    }
}

/// Cuts trajectories, longest first, into parts of at most so many tokens with their padding, or of one trajectory: as few
/// as keep all lanes busy, and those as even as may be.
fn parts<'a, 'b>(by_length: &'b [&'a Trajectory], cut: Cut) -> Vec<&'b [&'a Trajectory]> {
    let fewest = parts_within(by_length, cut.tokens).len().next_multiple_of(cut.lanes);
    let all: usize = by_length.iter().map(|trajectory| trajectory.tokens()).sum();
    let limits = (all / fewest..cut.tokens).step_by(16);
    let even = limits.map(|tokens| parts_within(by_length, tokens)).find(|parts| parts.len() <= fewest);
    even.unwrap_or_else(|| parts_within(by_length, cut.tokens))
}

fn parts_within<'a, 'b>(by_length: &'b [&'a Trajectory], tokens: usize) -> Vec<&'b [&'a Trajectory]> {
    let mut rest = by_length;
    std::iter::from_fn(|| {
        let longest = rest.first()?.tokens().max(1);
        let (part, after) = rest.split_at((tokens / longest).clamp(1, rest.len()));
        rest = after;
        Some(part)
    })
    .collect()
}

/// How much a part counts: losses over tokens by its tokens, losses over trajectories by its trajectories.
fn weight(batch: &Batch, algorithm: &Algorithm) -> f64 {
    let count = |mask: &[bool]| mask.iter().filter(|m| **m).count() as f64;
    match algorithm {
        Algorithm::Sft { targets } | Algorithm::RejectionSampling { targets } => match targets {
            Targets::Actions => count(&batch.action_mask),
            Targets::Transcript => count(&batch.target_mask),
        },
        Algorithm::Oreo { .. } => batch.batch as f64,
    }
}

impl Part {
    fn add(&mut self, part: Part, share: f64) {
        let add = |whole: &mut Option<HostGradients>, part: Option<HostGradients>| {
            if let Some(part) = part {
                accumulate(whole.get_or_insert_default(), part, share);
            }
        };
        add(&mut self.policy, part.policy);
        add(&mut self.value, part.value);
        self.logged.add(part.logged, share);
    }
}

impl Logged {
    fn add(&mut self, part: Self, share: f64) {
        let add = |whole: &mut Option<f64>, part: Option<f64>| {
            if let Some(part) = part {
                *whole = Some(whole.unwrap_or(0.0) + share * part);
            }
        };
        add(&mut self.loss_policy, part.loss_policy);
        add(&mut self.loss_value, part.loss_value);
        add(&mut self.loss_after_value, part.loss_after_value);
        add(&mut self.kl_exact, part.kl_exact);
        add(&mut self.log_ratio_per_action, part.log_ratio_per_action);
        add(&mut self.value_mean, part.value_mean);
    }
}

impl Networks {
    fn new(
        lesson: &Lesson<'_>,
        policy: &Weights,
        value: Option<&Weights>,
        place: &Place,
    ) -> Result<Self, TrainerError> {
        let (start, precision, layers) = (lesson.start, lesson.recipe.precision, lesson.recipe.optimizer.last_layers);
        let device = &place.device;
        let decoder = |weights: &Weights| -> Result<Decoder, TrainerError> {
            let decoder = Decoder::from_weights(&start.config, weights, device)?;
            Ok(decoder.with_precision(precision).learning_last(layers))
        };
        let critic = |value: &Weights| -> Result<Critic, TrainerError> {
            let value = ValueNetwork::from_weights(&start.config, value, device)?;
            let value = value.with_precision(precision).learning_last(layers);
            Ok(Critic { reference: decoder(&start.policy)?.no_grad(), value })
        };
        let critic = value.map(critic).transpose()?;
        Ok(Self { policy: decoder(policy)?, critic, place: place.clone() })
    }

    /// Gradients and numbers of one part of a batch; `progress` in [0, 1) says how far the lesson is.
    fn part(&self, batch: &Batch, recipe: &LessonRecipe, progress: f64) -> Part {
        match &recipe.algorithm {
            Algorithm::Sft { targets } | Algorithm::RejectionSampling { targets } => self.imitate(batch, *targets),
            Algorithm::Oreo { level, beta, alpha, value_warmup, .. } => {
                let policy_learns = progress >= *value_warmup;
                self.oreo(batch, &Oreo { level: *level, beta: *beta, alpha: *alpha, policy_learns })
            }
        }
    }

    /// SFT, and rejection sampling, which is SFT on successes.
    fn imitate(&self, batch: &Batch, targets: Targets) -> Part {
        let tensors = batch.to_device(&self.place.device);
        let loss = match targets {
            Targets::Actions => {
                let written = Written::new(batch, &self.place);
                let logprobs = written.logprobs(&self.policy, &tensors);
                sft::sft_loss(written.of_targets(logprobs), &written.mask)
            }
            Targets::Transcript => {
                let hidden = self.policy.hidden(tensors.tokens.clone());
                let [rows, time, width] = hidden.dims();
                let logits = self.policy.logits(hidden.reshape([rows * time, width]));
                let logits = logits.reshape([rows as i64, time as i64, -1]);
                sft::transcript_loss(target_logprobs(logits, tensors.targets.clone()), &tensors.target_mask)
            }
        };
        let logged = Logged { loss_policy: Some(number(&loss)), ..Logged::default() };
        Part { policy: Some(gradients(&self.policy, loss.backward())), value: None, logged }
    }

    /// Log-ratios first, then both losses, neither of which reaches the other's network.
    fn oreo(&self, batch: &Batch, science: &Oreo) -> Part {
        let critic = self.critic.as_ref().expect("oreo lessons have a critic");
        let tensors = batch.to_device(&self.place.device);
        let written = Written::new(batch, &self.place);
        let policy_logprobs = written.logprobs(&self.policy, &tensors);
        let reference_logprobs = written.logprobs(&critic.reference, &tensors).detach();
        let token_log_ratios =
            written.of_targets(policy_logprobs.clone()) - written.of_targets(reference_logprobs.clone());
        let values = critic.value.values(tensors.tokens.clone());
        let inputs = science.inputs(&tensors, &written, token_log_ratios, values.clone());

        let loss_value = value_loss(&inputs, science.beta);
        let loss_after = after_value_loss(science.after_values(&tensors, &written, values), &inputs, science.beta);
        let loss_policy = policy_loss(&inputs, science.beta);
        let kl = exact_kl(policy_logprobs, reference_logprobs, &written.mask);
        let logged = Logged {
            loss_policy: Some(number(&loss_policy)),
            loss_value: Some(number(&loss_value)),
            loss_after_value: Some(number(&loss_after)),
            kl_exact: Some(number(&kl)),
            log_ratio_per_action: Some(number(&mean_per_token(inputs.log_ratios.clone(), &inputs.action_mask))),
            value_mean: Some(number(&mean_per_token(inputs.values.clone(), &inputs.action_mask))),
        };
        let value = gradients(&critic.value, (loss_value + loss_after).backward());
        let policy = science.policy_learns.then(|| {
            let loss = if science.alpha > 0.0 { loss_policy + kl * science.alpha } else { loss_policy };
            gradients(&self.policy, loss.backward())
        });
        Part { policy, value: Some(value), logged }
    }
}

/// The numbers of one OREO update.
struct Oreo {
    level: Level,
    beta: f64,
    alpha: f64,
    /// False while only the value network learns.
    policy_learns: bool,
}

impl Oreo {
    /// Actions of the chosen level; `token_log_ratios` `[batch, written]`, `values` `[batch, time]`.
    fn inputs(
        &self,
        tensors: &BatchTensors,
        written: &Written,
        token_log_ratios: Tensor<2>,
        values: Tensor<2>,
    ) -> OreoInputs {
        let returns = tensors.returns.clone();
        match self.level {
            Level::Turn => OreoInputs {
                log_ratios: turn_sums(
                    token_log_ratios,
                    written.turns.clone(),
                    &written.mask,
                    tensors.turn_mask.dims()[1],
                ),
                values: values.gather(1, tensors.before_positions.clone()),
                returns,
                action_mask: tensors.turn_mask.clone(),
            },
            Level::Token => OreoInputs {
                log_ratios: token_log_ratios,
                values: values.gather(1, written.positions.clone()),
                returns,
                action_mask: written.mask.clone(),
            },
        }
    }

    /// U just after each action; `values` `[batch, time]`.
    fn after_values(&self, tensors: &BatchTensors, written: &Written, values: Tensor<2>) -> Tensor<2> {
        match self.level {
            Level::Turn => tensors.turn_after_values(values),
            Level::Token => values.gather(1, written.positions.clone() + 1),
        }
    }
}

/// Only the positions before a token that the policy wrote, `[batch, written]`: nobody needs other logits.
struct Written {
    /// Where a written token is foretold; 0 in the padding.
    positions: Tensor<2, Int>,
    /// The same in the flattened batch, `[batch · written]`.
    rows: Tensor<1, Int>,
    /// The written tokens.
    targets: Tensor<2, Int>,
    /// Their turns.
    turns: Tensor<2, Int>,
    /// False in the padding.
    mask: Tensor<2, Bool>,
}

impl Written {
    fn new(batch: &Batch, Place { device, cut }: &Place) -> Self {
        let row = |index: usize| (0..batch.time).filter(move |t| batch.action_mask[index * batch.time + t]);
        let width = (0..batch.batch).map(|index| row(index).count()).max().unwrap_or(0);
        let width = width.next_multiple_of(cut.written);
        let shape = [batch.batch, width];
        let [mut positions, mut rows, mut targets, mut turns] = [(); 4].map(|()| vec![0_i64; batch.batch * width]);
        let mut mask = vec![false; batch.batch * width];
        for index in 0..batch.batch {
            for (slot, t) in row(index).enumerate() {
                let (at, from) = (index * width + slot, index * batch.time + t);
                positions[at] = t as i64;
                rows[at] = from as i64;
                targets[at] = batch.targets[from];
                turns[at] = batch.turn_of_target[from];
                mask[at] = true;
            }
        }
        let ints = |data: Vec<i64>| Tensor::<2, Int>::from_data(TensorData::new(data, shape), device);
        Self {
            rows: Tensor::from_data(TensorData::new(rows, [batch.batch * width]), device),
            positions: ints(positions),
            targets: ints(targets),
            turns: ints(turns),
            mask: Tensor::from_data(TensorData::new(mask, shape), device),
        }
    }

    /// Log-probabilities of the whole vocabulary, `[batch, written, vocab]`.
    fn logprobs(&self, policy: &Decoder, tensors: &BatchTensors) -> Tensor<3> {
        let hidden = policy.hidden(tensors.tokens.clone());
        let [batch, time, width] = hidden.dims();
        let chosen = hidden.reshape([batch * time, width]).select(0, self.rows.clone());
        let logprobs = log_softmax(policy.logits(chosen));
        logprobs.reshape([batch as i64, self.targets.dims()[1] as i64, -1])
    }

    /// Of those, the written tokens', `[batch, written]`.
    fn of_targets(&self, logprobs: Tensor<3>) -> Tensor<2> {
        logprobs.gather(2, self.targets.clone().unsqueeze_dim(2)).squeeze_dim(2)
    }
}

fn log_softmax(logits: Tensor<2>) -> Tensor<2> {
    match fused::work_on(&logits.device(), logits.dtype()) {
        true => fused::log_softmax(logits),
        false => activation::log_softmax(logits, 1),
    }
}

fn number(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().into_scalar::<f32>())
}

/// Hash of all that decides a lesson's numbers.
fn identity(lesson: &Lesson<'_>, plan: &[(usize, Vec<usize>)]) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("{:?} {} {:?}", lesson.recipe, lesson.seed, plan));
    digest.update(lesson.start.policy.hash());
    for trajectory in lesson.trajectories {
        digest.update(format!("{} {} {:?}", trajectory.game_hash, trajectory.repetition, trajectory.outcome));
        for turn in &trajectory.turns {
            turn.observation_tokens.iter().chain(&turn.completion_tokens).for_each(|t| digest.update(t.to_le_bytes()));
        }
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl Metrics {
    fn summary(&self) -> String {
        let part = |name: &str, value: Option<f64>| value.map(|v| format!(" {name} {v:.4}")).unwrap_or_default();
        let losses = part("policy", self.loss_policy) + &part("value", self.loss_value) + &part("kl", self.kl_exact);
        format!("loss{losses}")
    }

    fn check(&self) -> Result<(), TrainerError> {
        let numbers = [
            ("the policy loss", self.loss_policy),
            ("the value loss", self.loss_value),
            ("the policy's gradient norm", self.gradient_norm_policy),
            ("the value network's gradient norm", self.gradient_norm_value),
        ];
        for (what, value) in numbers {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return Err(TrainerError::NotFinite { update: self.update, what: what.into(), value });
            }
        }
        Ok(())
    }
}

/// `metrics.csv`, one row an update; a resumed lesson drops the rows after its checkpoint.
struct MetricsFile {
    writer: csv::Writer<std::fs::File>,
    path: std::path::PathBuf,
}

impl MetricsFile {
    fn open(path: &Path, update: usize) -> Result<Self, TrainerError> {
        let mut kept: Vec<Metrics> = Vec::new();
        if update > 0 && path.exists() {
            let mut reader = csv::Reader::from_path(path).map_err(|e| TrainerError::content(path, e))?;
            kept = reader.deserialize().filter_map(Result::ok).filter(|row: &Metrics| row.update < update).collect();
        }
        let writer = csv::Writer::from_path(path).map_err(|e| TrainerError::content(path, e))?;
        let mut file = Self { writer, path: path.into() };
        kept.iter().try_for_each(|row| file.write(row))?;
        Ok(file)
    }

    fn write(&mut self, row: &Metrics) -> Result<(), TrainerError> {
        self.writer.serialize(row).map_err(|e| TrainerError::content(&self.path, e))?;
        self.writer.flush().map_err(TrainerError::file(&self.path))
    }
}

#[cfg(test)]
#[path = "../../agent/tests/corridor/mod.rs"]
mod corridor;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::corridor::{babbler, jobs, play, protocol, task};
    use super::*;
    use crate::optimizer::OptimizerRecipe;
    use crate::recipe::{Data, Start};
    use agent::decoder::Precision;
    use agent::episode::Pool;
    use agent::model_player::{LookingOn, ModelPlayer};

    /// As far apart as a part of the larger; gradients as vectors.
    #[track_caller]
    fn close(a: &[f32], b: &[f32]) {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let size = a.iter().map(|a| square(*a)).sum::<f64>().sqrt();
        let off = a.iter().zip(b).map(|(a, b)| square(a - b)).sum::<f64>().sqrt();
        assert!(a.len() == b.len() && off <= 1e-4 * size + 1e-7, "off by {off}, of {size}");
    }

    /// A GPU's parts, padding and single lane, on the CPU: losses and gradients differ from the CPU's in rounding alone.
    #[test]
    fn the_cut_is_invisible() {
        let model = babbler(31);
        let player = ModelPlayer::new(model.clone(), LookingOn::Nobody).unwrap();
        let tasks = ["plain/1", "plain/2", "plain/9"].map(task);
        let played = play(&player, &jobs(&tasks, 4), &protocol(), Pool { workers: 2, episodes: 8 });
        let chosen: Vec<&Trajectory> = played.iter().collect();
        let oreo =
            |level| Algorithm::Oreo { level, beta: 0.1, alpha: 0.1, value_learning_rate: 1e-3, value_warmup: 0.0 };
        for algorithm in [
            Algorithm::Sft { targets: Targets::Actions },
            Algorithm::Sft { targets: Targets::Transcript },
            oreo(Level::Turn),
            oreo(Level::Token),
        ] {
            let (name, data, optimizer) = ("lesson".into(), vec![Data::Rollouts], OptimizerRecipe::default());
            let precision = Precision::F32;
            let recipe = LessonRecipe { name, from: Start::Collector, data, precision, optimizer, algorithm };
            let out = tempfile::tempdir().unwrap();
            let (out, hardware) = (out.path(), Hardware::Cpu);
            let lesson = Lesson { recipe: &recipe, start: &model, trajectories: &played, seed: 1, out, hardware };
            let whole = |cut: Cut| {
                let place = Place { device: Device::flex().autodiff(), cut };
                let student = Student::new(&lesson, &[], place).unwrap();
                student.whole(&recipe, &chosen, 1).unwrap()
            };
            let (cpu, gpu) = (whole(Cut::of(Hardware::Cpu)), whole(Cut::of(Hardware::Cuda(0))));
            let losses = |part: &Part| {
                let Logged { loss_policy, loss_value, loss_after_value, kl_exact, value_mean, .. } = part.logged;
                let all = [loss_policy, loss_value, loss_after_value, kl_exact, value_mean];
                all.into_iter().flatten().map(|loss| loss as f32).collect::<Vec<_>>()
            };
            close(&losses(&cpu), &losses(&gpu));
            for (cpu, gpu) in [(cpu.policy, gpu.policy), (cpu.value, gpu.value)] {
                let flat = |gradients: Option<HostGradients>| -> Vec<f32> {
                    gradients.iter().flatten().flatten().flat_map(|gradient| gradient.values()).copied().collect()
                };
                close(&flat(cpu), &flat(gpu));
            }
        }
    }
}
