//! The whole job in one loop: batch, log-probabilities, losses, backward, update, log.
//!
//! A job is a function of its recipe, data, starting policy and seed: which trajectories form update *n* does not
//! depend on what was done before, so a run that resumes from a checkpoint equals one that never stopped.

use crate::error::TrainerError;
use crate::learn::batch::{Batch, BatchTensors, Example};
use crate::learn::checkpoint::{Best, Checkpoint, Position};
use crate::learn::metrics::{Metrics, Row, Time};
use crate::learn::objective::{self, Losses, Moment, Watched, trajectory_log_ratios};
use crate::learn::optimizer::{
    Activations, AdamW, HostGradients, Parameter, accumulate, from_weights, gradients, parameters,
    scheduled, sharing, to_weights, with_parameters,
};
use crate::learn::plan::{Plan, Read, Unit};
use crate::loss::kto;
use crate::measure::card::Lineage;
use crate::pipeline::recipe::{Algorithm, ReferenceUse, Targets, TrainConfig};
use agent::inference::device::DeviceChoice;
use agent::model::decoder::{Decoder, Trail, ValueNetwork};
use agent::model::folder::Model;
use agent::model::lora::Adapter;
use agent::model::weights::Weights;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{TextVersion, Trajectory};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Updates between two checkpoints at most.
const CHECKPOINT_EVERY: usize = 100;

/// So is the time, where updates take long.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(120);

/// Numbers of a network from which its weights fit into no cache.
const LARGE: usize = 1 << 24;

/// What a job needs besides its recipe.
pub struct TrainingJob<'a> {
    /// How to learn.
    pub recipe: &'a TrainConfig,
    /// The policy to start from, also the reference.
    pub start: &'a Model,
    /// What that was made from, where it is known.
    pub lineage: Option<&'a Lineage>,
    /// What to read, in an order that does not depend on who finished first.
    pub trajectories: &'a [Trajectory],
    /// Seed of the batches' order.
    pub seed: u64,
    /// Folder for `metrics.csv`, `tensorboard/`, `lineage.json` and the checkpoint.
    pub out: &'a Path,
    /// Where to learn; it changes how sums are rounded and how long they take.
    pub hardware: DeviceChoice,
}

/// Learns; returns the model and what was read.
///
/// # Errors
/// When the device cannot be had, nothing is left to read, a number is not finite or a policy goes diverged, or a file cannot
/// be written.
pub fn train(job: &TrainingJob<'_>, progress: &ProgressBar) -> Result<(Model, Read), TrainerError> {
    let recipe = job.recipe;
    let cut = Cut::of(job.hardware)
        .for_weights(&job.start.policy)
        .within(recipe.optimizer.token_budget);
    let place = Place {
        device: job.hardware.burn()?.autodiff(),
        cut,
    };
    std::fs::create_dir_all(job.out).map_err(TrainerError::file(job.out))?;
    let context = job.start.config.max_position_embeddings;
    let mut plan = Plan::new(recipe, job.trajectories, context, job.seed)?;
    let mut student = Student::new(job, &plan, place)?;
    if recipe.reference == ReferenceUse::Cached {
        plan.reference_logprobs = student.ask_the_reference(&plan)?;
    }
    let mut metrics = Metrics::open(job.out, student.update)?;
    let mut saved = Instant::now();
    progress.set_length(plan.updates.len() as u64);
    progress.set_position(student.update as u64);
    while student.update < plan.updates.len() && !student.has_peaked(recipe) {
        let row = student.update(recipe, &plan, job.out)?;
        metrics.write(&row)?;
        progress.set_message(row.summary());
        progress.inc(1);
        let is_time =
            student.update.is_multiple_of(CHECKPOINT_EVERY) || saved.elapsed() > CHECKPOINT_AFTER;
        if is_time && student.update < plan.updates.len() {
            student.checkpoint().save(&job.out.join("checkpoint"))?;
            saved = Instant::now();
        }
    }
    student.go_back_to_the_best();
    student.save_adapters(job)?;
    Lineage::new(recipe, plan.data.iter().copied(), job.lineage).save(job.out)?;
    let text_versions = plan.text_versions(&job.start.text_versions);
    Ok((student.graduate(job.start, text_versions), plan.read))
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
    fn of(hardware: DeviceChoice) -> Self {
        match hardware {
            // What fits into the caches of a core.
            DeviceChoice::Cpu => Self {
                tokens: 640,
                lanes: 2,
                positions: 16,
                written: 1,
            },
            // What fills a GPU and fits into its memory. Its kernels are tuned once for each power of two of a dimension
            // and each alignment of rows; multiples of 64 leave few of the latter.
            DeviceChoice::Cuda(_) => Self {
                tokens: 8192,
                lanes: 1,
                positions: 64,
                written: 64,
            },
        }
    }

    /// The same where products are small; where each fills all threads by itself, what saves passes over the weights.
    fn for_weights(self, weights: &Weights) -> Self {
        let numbers: usize = weights.0.values().map(|tensor| tensor.data.len()).sum();
        let is_large = self.lanes > 1 && numbers >= LARGE;
        if is_large {
            Self {
                tokens: 1024,
                lanes: 1,
                ..self
            }
        } else {
            self
        }
    }

    /// The same within a recipe's budget; 0 = its own.
    fn within(self, budget: usize) -> Self {
        Self {
            tokens: if budget > 0 { budget } else { self.tokens },
            ..self
        }
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
    /// The best look at what is held out, where some of it is, and what was learned by then.
    best: Option<(Best, Learned)>,
    job: String,
}

/// Parameters on the host and what moves them.
struct Trained {
    parameters: Vec<Parameter>,
    optimizer: AdamW,
}

/// What has been learned: the parameters that learn, of both networks.
#[derive(Clone)]
struct Learned {
    policy: Vec<Parameter>,
    value: Option<Vec<Parameter>>,
}

/// The networks on a device.
struct Networks {
    place: Place,
    policy: Decoder,
    /// Frozen; `None` where no algorithm asks it, or what it says is cached.
    reference: Option<Decoder>,
    value: Option<ValueNetwork>,
}

/// What one part of a batch says, or all parts together.
#[derive(Default)]
struct Part {
    policy: Option<HostGradients>,
    value: Option<HostGradients>,
    watched: Watched,
    forward_seconds: f64,
    backward_seconds: f64,
}

impl Student {
    fn new(job: &TrainingJob<'_>, plan: &Plan<'_>, place: Place) -> Result<Self, TrainerError> {
        let identity = identity(job, plan);
        let mut found = Checkpoint::open(&job.out.join("checkpoint"), &identity)?;
        let position = found.as_ref().map(|checkpoint| checkpoint.position.clone());
        let mut tensors = |name: &str| {
            found
                .as_mut()
                .map(|checkpoint| checkpoint.take(name))
                .transpose()
        };
        let optimizer =
            |weights: Option<_>| weights.map_or(Ok(AdamW::default()), AdamW::from_weights);
        // A checkpoint has what learns: everything, or the factors of adapters and the value network's head.
        let resumed = |mut weights: Weights, learned: Option<Weights>| {
            weights
                .0
                .extend(learned.into_iter().flat_map(|learned| learned.0));
            weights
        };
        let policy_weights = resumed(job.start.policy.clone(), tensors("policy")?);
        let policy_optimizer = optimizer(tensors("policy-optimizer")?)?;
        let has_critic = job.recipe.algorithm.critic().is_some();
        let mut value_weights = None;
        let mut value_optimizer = AdamW::default();
        if has_critic {
            let fresh = job.start.policy.with_zero_value_head(&job.start.config);
            value_weights = Some(resumed(fresh, tensors("value")?));
            value_optimizer = optimizer(tensors("value-optimizer")?)?;
        }
        let replicas =
            Networks::new(job, &policy_weights, value_weights.as_ref(), &place)?.in_lanes();
        let policy = Trained {
            parameters: parameters(&replicas[0].policy),
            optimizer: policy_optimizer,
        };
        let value = replicas[0].value.as_ref();
        let value = value.map(|value| Trained {
            parameters: parameters(value),
            optimizer: value_optimizer,
        });
        let threads = (rayon::current_num_threads() / place.cut.lanes).max(1);
        let pool = |_| rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pools = (0..place.cut.lanes).map(pool).collect::<Result<_, _>>();
        let pools =
            pools.map_err(|e| TrainerError::Data(format!("no threads for training: {e}")))?;
        let best = match position.as_ref().and_then(|position| position.best.clone()) {
            Some(best) => {
                let mut of = |name: &str, like: &Trained| -> Result<Vec<Parameter>, TrainerError> {
                    from_weights(&tensors(name)?.unwrap_or_default(), &like.parameters)
                };
                let learned = Learned {
                    policy: of("best-policy", &policy)?,
                    value: value
                        .as_ref()
                        .map(|value| of("best-value", value))
                        .transpose()?,
                };
                Some((best, learned))
            }
            None => None,
        };
        let update = position.map_or(0, |position| position.update);
        Ok(Self {
            replicas,
            pools,
            place,
            policy,
            value,
            update,
            best,
            job: identity,
        })
    }

    fn checkpoint(&self) -> Checkpoint {
        let networks = &self.replicas[0];
        let mut tensors = vec![
            ("policy".to_string(), networks.policy.to_learned()),
            (
                "policy-optimizer".to_string(),
                self.policy.optimizer.to_weights(),
            ),
        ];
        if let (Some(network), Some(value)) = (&networks.value, &self.value) {
            tensors.push(("value".to_string(), network.to_learned()));
            tensors.push(("value-optimizer".to_string(), value.optimizer.to_weights()));
        }
        if let Some((_, Learned { policy, value })) = &self.best {
            tensors.push(("best-policy".to_string(), to_weights(policy)));
            tensors.extend(
                value
                    .iter()
                    .map(|value| ("best-value".to_string(), to_weights(value))),
            );
        }
        let best = self.best.as_ref().map(|(best, _)| best.clone());
        Checkpoint {
            position: Position {
                update: self.update,
                job: self.job.clone(),
                best,
            },
            tensors,
        }
    }

    /// Of a job with adapters: the adapters beside the model that has them merged, for PEFT.
    fn save_adapters(&self, job: &TrainingJob<'_>) -> Result<(), TrainerError> {
        let Some(lora) = &job.recipe.lora else {
            return Ok(());
        };
        let (networks, base) = (&self.replicas[0], job.start.policy.hash());
        Adapter::new(lora, &base, networks.policy.to_learned()).save(&job.out.join("adapter"))?;
        if let Some(value) = &networks.value {
            Adapter::new(lora, &base, value.to_learned()).save(&job.out.join("value/adapter"))?;
        }
        Ok(())
    }

    /// Puts what was learned by the best look into the networks.
    fn go_back_to_the_best(&mut self) {
        if let Some((_, Learned { policy, value })) = self.best.take() {
            self.policy.parameters = policy;
            self.value
                .iter_mut()
                .zip(value)
                .for_each(|(trained, best)| trained.parameters = best);
            self.refresh((true, true));
        }
    }

    fn graduate(self, start: &Model, text_versions: BTreeSet<TextVersion>) -> Model {
        let Self {
            replicas,
            policy,
            value,
            ..
        } = self;
        drop((policy, value)); // moments and parameters are twice what is to come
        let networks = &replicas[0];
        Model {
            config: start.config.clone(),
            tokenizer: start.tokenizer.clone(),
            policy: networks.policy.to_weights(),
            value: networks.value.as_ref().map(ValueNetwork::to_weights),
            text_versions,
            companions: start.companions.clone(),
        }
    }

    /// One update; the value network's and the policy's gradients are both taken before either moves.
    fn update(
        &mut self,
        recipe: &TrainConfig,
        plan: &Plan<'_>,
        out: &Path,
    ) -> Result<Row, TrainerError> {
        let started = Instant::now();
        let updates = plan.updates.len();
        let (epoch, units) = &plan.updates[self.update];
        let chosen: Vec<&Trajectory> = units
            .iter()
            .flatten()
            .map(|index| plan.data[*index])
            .collect();
        let optimizer = &recipe.optimizer;
        let rate = |highest: f64| scheduled(highest, optimizer.warmup, self.update, updates);
        let critic = recipe.algorithm.critic();
        let progress = self.update as f64 / updates as f64;
        let policy_learns = critic.is_none_or(|critic| progress >= critic.critic_only_share);
        let whole = self.whole(
            recipe,
            plan,
            units,
            Learns::Yes {
                policy: policy_learns,
            },
        )?;
        let mut row = Row {
            update: self.update,
            epoch: *epoch,
            learning_rate: rate(optimizer.learning_rate),
            trajectories: chosen.len(),
            tokens: chosen.iter().map(|trajectory| trajectory.tokens()).sum(),
            success_rate: chosen
                .iter()
                .map(|trajectory| trajectory.outcome.reward())
                .sum::<f64>()
                / chosen.len() as f64,
            watched: whole.watched,
            ..Row::default()
        };
        let computed = Instant::now();
        let value_rate = critic.map(|critic| rate(critic.learning_rate));
        if let (Some(gradients), Some(value), Some(rate)) =
            (&whole.value, &mut self.value, value_rate)
        {
            row.gradient_norm_value = Some(value.optimizer.update(
                &mut value.parameters,
                gradients,
                rate,
                optimizer,
            ));
        }
        if let Some(gradients) = &whole.policy {
            let Trained {
                parameters,
                optimizer: adam,
            } = &mut self.policy;
            row.gradient_norm_policy =
                Some(adam.update(parameters, gradients, row.learning_rate, optimizer));
        }
        if let Some((what, value)) = row.diverged(optimizer.log_ratio_limit) {
            let batch = out.join("stopped-batch.jsonl");
            save(&batch, &chosen)?;
            return Err(TrainerError::Diverged {
                update: self.update,
                what: what.into(),
                value,
                batch,
            });
        }
        let moved = (whole.policy.is_some(), whole.value.is_some());
        self.refresh(moved);
        let update_seconds = computed.elapsed().as_secs_f64();
        self.update += 1;
        row.held_out = self.look(recipe, plan)?;
        let lanes = self.place.cut.lanes as f64;
        row.time = Time {
            total: started.elapsed().as_secs_f64(),
            forward: whole.forward_seconds / lanes,
            backward: whole.backward_seconds / lanes,
            update: update_seconds,
        };
        Ok(row)
    }

    /// Gradients and numbers of a whole batch, from its parts side by side.
    fn whole(
        &self,
        recipe: &TrainConfig,
        plan: &Plan<'_>,
        units: &[Unit],
        learns: Learns,
    ) -> Result<Part, TrainerError> {
        let examples: Vec<Vec<Example<'_>>> = units
            .iter()
            .map(|unit| unit.iter().map(|index| plan.example(*index)).collect())
            .collect();
        let (batches, _) = self.pack(&examples)?;
        let reference_point = match recipe.algorithm {
            Algorithm::Kto { .. } => self.reference_point(plan, units)?,
            _ => 0.0,
        };
        let weights: Vec<f64> = batches
            .iter()
            .map(|batch| weight(batch, &recipe.algorithm))
            .collect();
        let total: f64 = weights.iter().sum();
        let moment = Moment {
            policy_learns: learns != Learns::Yes { policy: false },
            reference_point,
        };
        let parts = self.in_lanes(&batches, |networks, batch| {
            networks.part(batch, recipe, moment, learns)
        });
        let mut whole = Part::default();
        for (part, weight) in parts.into_iter().zip(weights) {
            whole.add(part, weight / total);
        }
        Ok(whole)
    }

    /// Units cut into parts that go through the networks together, and the units of each, by their places in `units`.
    fn pack(&self, units: &[Vec<Example<'_>>]) -> Result<(Vec<Batch>, Vec<usize>), TrainerError> {
        let size = |unit: &Vec<Example<'_>>| {
            unit.len()
                * unit
                    .iter()
                    .map(|e| e.trajectory.tokens())
                    .max()
                    .unwrap_or(0)
        };
        let mut by_size: Vec<(usize, usize)> = units
            .iter()
            .enumerate()
            .map(|(place, unit)| (size(unit), place))
            .collect();
        by_size.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        let batch = |part: &[(usize, usize)]| {
            let examples: Vec<Example<'_>> = part
                .iter()
                .flat_map(|(_, place)| units[*place].clone())
                .collect();
            Ok(Batch::new(&examples, self.place.cut.positions)?)
        };
        let batches = parts(&by_size, self.place.cut)
            .into_iter()
            .map(batch)
            .collect::<Result<_, TrainerError>>()?;
        Ok((
            batches,
            by_size.into_iter().map(|(_, place)| place).collect(),
        ))
    }

    /// What is asked of every batch, by as many lanes as there are, in the order of the batches.
    fn in_lanes<T: Send>(
        &self,
        batches: &[Batch],
        work: impl Fn(&Networks, &Batch) -> T + Sync,
    ) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let lane = |networks: &Networks| -> Vec<(usize, T)> {
            let take = || {
                Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < batches.len())
            };
            std::iter::from_fn(take)
                .map(|index| (index, work(networks, &batches[index])))
                .collect()
        };
        let mut answers: Vec<(usize, T)> = match &self.replicas[..] {
            [alone] => lane(alone), // in this thread: a GPU gives every thread a queue and memory of its own
            _ => std::thread::scope(|scope| {
                let lanes = self.replicas.iter().zip(&self.pools);
                let threads: Vec<_> = lanes
                    .map(|(networks, pool)| scope.spawn(|| pool.install(|| lane(networks))))
                    .collect();
                threads
                    .into_iter()
                    .flat_map(|thread| thread.join().expect("a part does not panic"))
                    .collect()
            }),
        };
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// KTO's z₀: log-ratios of what was said in one game, under the beginning of another.
    fn reference_point(&self, plan: &Plan<'_>, units: &[Unit]) -> Result<f64, TrainerError> {
        let indices: Vec<usize> = units.iter().flatten().copied().collect();
        let other = |place: usize| {
            let after =
                (1..indices.len()).map(|next| plan.data[indices[(place + next) % indices.len()]]);
            let mut others =
                after.filter(|other| other.game_hash != plan.data[indices[place]].game_hash);
            others
                .next()
                .map(|other| mismatched(plan.data[indices[place]], other))
        };
        let pairs: Vec<Trajectory> = (0..indices.len())
            .filter_map(other)
            .filter(|pair| pair.tokens() <= plan.longest)
            .collect();
        if pairs.is_empty() {
            return Ok(0.0);
        }
        let (batches, _) = self.pack(
            &pairs
                .iter()
                .map(|pair| vec![pair.into()])
                .collect::<Vec<_>>(),
        )?;
        let answers = self.in_lanes(&batches, |networks, batch| {
            trajectory_log_ratios(&networks.asked(), &networks.place.tensors(batch))
        });
        Ok(kto::reference_point(&answers.concat()))
    }

    /// What the reference says of all that is read; it then leaves the memory.
    fn ask_the_reference(&mut self, plan: &Plan<'_>) -> Result<Vec<Vec<f32>>, TrainerError> {
        let mut logprobs = Vec::with_capacity(plan.data.len());
        for some in plan.data.chunks(256) {
            let (batches, order) =
                self.pack(&some.iter().map(|t| vec![(*t).into()]).collect::<Vec<_>>())?;
            let answers = self.in_lanes(&batches, |networks, batch| {
                objective::reference_logprobs(&networks.asked(), &networks.place.tensors(batch))
            });
            let mut in_place: Vec<(usize, Vec<f32>)> = order
                .into_iter()
                .zip(answers.into_iter().flatten())
                .collect();
            in_place.sort_by_key(|(place, _)| *place);
            logprobs.extend(in_place.into_iter().map(|(_, logprobs)| logprobs));
        }
        self.replicas
            .iter_mut()
            .for_each(|networks| networks.reference = None);
        Ok(logprobs)
    }

    /// The loss on what is held out, when it is time to look, and whether it is the best so far.
    fn look(&mut self, recipe: &TrainConfig, plan: &Plan<'_>) -> Result<Option<f64>, TrainerError> {
        let Some(early_stopping) = recipe.early_stopping else {
            return Ok(None);
        };
        if !self.update.is_multiple_of(early_stopping.every) && self.update < plan.updates.len() {
            return Ok(None);
        }
        let Watched {
            loss_policy,
            loss_value,
            ..
        } = self
            .whole(recipe, plan, &plan.held_out, Learns::No)?
            .watched;
        let loss = loss_policy.unwrap_or(0.0) + loss_value.unwrap_or(0.0);
        match &mut self.best {
            Some((best, _)) if best.loss <= loss => best.looks_since += 1,
            _ => {
                let value = self.value.as_ref().map(|value| value.parameters.clone());
                let learned = Learned {
                    policy: self.policy.parameters.clone(),
                    value,
                };
                self.best = Some((
                    Best {
                        loss,
                        update: self.update,
                        looks_since: 0,
                    },
                    learned,
                ));
            }
        }
        Ok(Some(loss))
    }

    /// Whether the held-out loss has stopped falling.
    fn has_peaked(&self, recipe: &TrainConfig) -> bool {
        let patience = recipe
            .early_stopping
            .map(|early_stopping| early_stopping.patience);
        let looks = self.best.as_ref().map(|(best, _)| best.looks_since);
        patience
            .zip(looks)
            .is_some_and(|(patience, looks)| looks >= patience)
    }

    /// Brings what was learned into the networks of all lanes.
    fn refresh(&mut self, (policy_moved, value_moved): (bool, bool)) {
        self.replicas.truncate(1); // the first then has its memory for itself, and need not ask for more
        let Some(mut networks) = self.replicas.pop() else {
            return;
        };
        if policy_moved {
            networks.policy = with_parameters(networks.policy, &self.policy.parameters);
        }
        if let (true, Some(value)) = (value_moved, &self.value) {
            networks.value = networks
                .value
                .map(|network| with_parameters(network, &value.parameters));
        }
        self.replicas = networks.in_lanes();
    }
}

/// Cuts units, given by their sizes, largest first, into parts of at most so many tokens with their padding, or of one
/// unit: as few as keep all lanes busy, and those as even as may be.
fn parts(by_size: &[(usize, usize)], cut: Cut) -> Vec<&[(usize, usize)]> {
    let fewest = parts_within(by_size, cut.tokens)
        .len()
        .next_multiple_of(cut.lanes);
    let all: usize = by_size.iter().map(|(size, _)| size).sum();
    let limits = (all / fewest..cut.tokens).step_by(16);
    let even = limits
        .map(|tokens| parts_within(by_size, tokens))
        .find(|parts| parts.len() <= fewest);
    even.unwrap_or_else(|| parts_within(by_size, cut.tokens))
}

fn parts_within(by_size: &[(usize, usize)], tokens: usize) -> Vec<&[(usize, usize)]> {
    let mut rest = by_size;
    std::iter::from_fn(|| {
        let largest = rest.first()?.0.max(1);
        let (part, after) = rest.split_at((tokens / largest).clamp(1, rest.len()));
        rest = after;
        Some(part)
    })
    .collect()
}

/// Whether a pass over data moves anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learns {
    /// The value network does, and the policy where it says so.
    Yes { policy: bool },
    /// Only numbers are wanted.
    No,
}

/// How much a part counts: losses over tokens by its tokens, losses over trajectories by its trajectories.
fn weight(batch: &Batch, algorithm: &Algorithm) -> f64 {
    let imitated = || {
        batch
            .imitated_mask
            .iter()
            .zip(&batch.action_mask)
            .filter(|(imitated, _)| **imitated)
    };
    match algorithm {
        Algorithm::Sft { targets } | Algorithm::RejectionSampling { targets } => match targets {
            Targets::Actions => imitated().filter(|(_, written)| **written).count() as f64,
            Targets::Transcript => imitated().count() as f64,
        },
        _ => batch.batch as f64,
    }
}

/// The beginning of one episode before what was done in another.
fn mismatched(beginning: &Trajectory, deeds: &Trajectory) -> Trajectory {
    let mut pair = deeds.clone();
    pair.turns[0]
        .observation_tokens
        .clone_from(&beginning.turns[0].observation_tokens);
    pair
}

/// Writes trajectories into a store of their own.
fn save(path: &Path, trajectories: &[&Trajectory]) -> Result<(), TrainerError> {
    if path.exists() {
        std::fs::remove_file(path).map_err(TrainerError::file(path))?;
    }
    let (mut store, _) = Store::open(path)?;
    Ok(trajectories
        .iter()
        .try_for_each(|trajectory| store.append(trajectory))?)
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
        self.watched.add(part.watched, share);
        self.forward_seconds += part.forward_seconds;
        self.backward_seconds += part.backward_seconds;
    }
}

impl Place {
    fn tensors(&self, batch: &Batch) -> BatchTensors {
        batch.to_device(&self.device, self.cut.written)
    }
}

impl Networks {
    fn new(
        job: &TrainingJob<'_>,
        policy: &Weights,
        value: Option<&Weights>,
        place: &Place,
    ) -> Result<Self, TrainerError> {
        let (start, precision, layers) = (
            job.start,
            job.recipe.precision,
            job.recipe.optimizer.last_layers,
        );
        let (device, lora) = (&place.device, job.recipe.lora.as_ref());
        let decoder = |weights: &Weights| -> Result<Decoder, TrainerError> {
            Ok(Decoder::from_weights(&start.config, weights, device)?.with_precision(precision))
        };
        let network = |weights: &Weights| -> Result<ValueNetwork, TrainerError> {
            let value = ValueNetwork::from_weights(&start.config, weights, device)?
                .with_precision(precision);
            Ok(match lora {
                Some(lora) => value.with_lora(lora, job.seed)?.with_factors(weights)?,
                None => value.learning_last(layers),
            })
        };
        let learning = |weights: &Weights| -> Result<Decoder, TrainerError> {
            Ok(match lora {
                Some(lora) => decoder(weights)?
                    .with_lora(lora, job.seed)?
                    .with_factors(weights)?,
                None => decoder(weights)?.learning_last(layers),
            })
        };
        let has_reference = job.recipe.algorithm.has_reference();
        Ok(Self {
            policy: learning(policy)?,
            reference: has_reference
                .then(|| decoder(&start.policy))
                .transpose()?
                .map(Module::no_grad),
            value: value.map(network).transpose()?,
            place: place.clone(),
        })
    }

    /// The same for every lane, over the same memory.
    fn in_lanes(self) -> Vec<Self> {
        let other = |_| Self {
            place: self.place.clone(),
            policy: sharing(&self.policy),
            reference: self.reference.as_ref().map(sharing),
            value: self.value.as_ref().map(sharing),
        };
        let mut all: Vec<Self> = (1..self.place.cut.lanes).map(other).collect();
        all.push(self);
        all
    }

    /// Gradients and numbers of one part of a batch.
    fn part(&self, batch: &Batch, recipe: &TrainConfig, moment: Moment, learns: Learns) -> Part {
        let started = Instant::now();
        let tensors = self.place.tensors(batch);
        let walk = Walk {
            networks: self,
            activations: recipe.optimizer.activations,
            trails: RefCell::default(),
        };
        let Losses {
            policy,
            value,
            watched,
        } = objective::losses(&recipe.algorithm, &walk, &tensors, moment);
        let forward_seconds = started.elapsed().as_secs_f64();
        if learns == Learns::No {
            return Part {
                watched,
                forward_seconds,
                ..Part::default()
            };
        }
        let started = Instant::now();
        let [policy_trail, value_trail] = walk.trails.into_inner();
        let value = self.value.as_ref().zip(value);
        let value =
            value.map(|(network, loss)| all_the_way(network, network.trunk(), value_trail, loss));
        let policy = policy.map(|loss| all_the_way(&self.policy, &self.policy, policy_trail, loss));
        Part {
            policy,
            value,
            watched,
            forward_seconds,
            backward_seconds: started.elapsed().as_secs_f64(),
        }
    }
}

/// A backward pass; where a trail was laid it goes on along that.
fn all_the_way<M: Module>(
    network: &M,
    trunk: &Decoder,
    trail: Option<Trail>,
    loss: Tensor<1>,
) -> HostGradients {
    let mut found = loss.backward();
    let Some(trail) = trail else {
        return gradients(network, found);
    };
    let of_hidden = trail.hidden.grad_remove(&mut found);
    let mut all = gradients(network, found);
    if let Some(of_hidden) = of_hidden {
        for found in trunk.retrace(trail, of_hidden) {
            accumulate(&mut all, gradients(network, found), 1.0);
        }
    }
    all
}

/// The networks during one pass forward, and the trails of policy and value network where they are laid.
struct Walk<'a> {
    networks: &'a Networks,
    activations: Activations,
    trails: RefCell<[Option<Trail>; 2]>,
}

impl Walk<'_> {
    /// Hidden states of a trunk, its trail put into a place.
    fn hidden(&self, trunk: &Decoder, place: usize, batch: &BatchTensors) -> Tensor<3> {
        match self.activations {
            Activations::Kept => trunk.hidden(batch.tokens.clone()),
            Activations::Checkpointed => {
                let trail = trunk.trail(batch.tokens.clone());
                let hidden = trail.hidden.clone();
                self.trails.borrow_mut()[place] = Some(trail);
                hidden
            }
        }
    }
}

/// Logits before every written token.
fn written_logits(decoder: &Decoder, hidden: Tensor<3>, batch: &BatchTensors) -> Tensor<3> {
    let [rows, written] = batch.written.targets.dims();
    decoder
        .logits(batch.written.select(hidden))
        .reshape([rows as i64, written as i64, -1])
}

impl objective::Networks for Walk<'_> {
    fn policy_logits(&self, batch: &BatchTensors) -> Tensor<3> {
        let policy = &self.networks.policy;
        written_logits(policy, self.hidden(policy, 0, batch), batch)
    }

    fn reference_logits(&self, batch: &BatchTensors) -> Tensor<3> {
        let reference = self
            .networks
            .reference
            .as_ref()
            .expect("who asks for a reference has one");
        written_logits(reference, reference.hidden(batch.tokens.clone()), batch).detach()
    }

    fn transcript_logits(&self, batch: &BatchTensors) -> Tensor<3> {
        let policy = &self.networks.policy;
        let hidden = self.hidden(policy, 0, batch);
        let [rows, time, width] = hidden.dims();
        policy
            .logits(hidden.reshape([rows * time, width]))
            .reshape([rows as i64, time as i64, -1])
    }

    fn values(&self, batch: &BatchTensors) -> Tensor<2> {
        let network = self
            .networks
            .value
            .as_ref()
            .expect("who asks for values has a value network");
        network.of_hidden(self.hidden(network.trunk(), 1, batch))
    }
}

impl Networks {
    /// Only numbers are wanted.
    fn asked(&self) -> Walk<'_> {
        Walk {
            networks: self,
            activations: Activations::Kept,
            trails: RefCell::default(),
        }
    }
}

/// Hash of all that decides a job's numbers.
fn identity(job: &TrainingJob<'_>, plan: &Plan<'_>) -> String {
    let mut digest = Sha256::new();
    digest.update(format!(
        "{:?} {} {:?} {:?}",
        job.recipe, job.seed, plan.updates, plan.held_out
    ));
    digest.update(job.start.policy.hash());
    for trajectory in job.trajectories {
        digest.update(format!(
            "{} {} {:?}",
            trajectory.game_hash, trajectory.repetition, trajectory.outcome
        ));
        for turn in &trajectory.turns {
            turn.observation_tokens
                .iter()
                .chain(&turn.completion_tokens)
                .for_each(|t| digest.update(t.to_le_bytes()));
            turn.process_score
                .iter()
                .for_each(|score| digest.update(score.to_le_bytes()));
        }
    }
    plan.advantages
        .iter()
        .flatten()
        .for_each(|advantage| digest.update(advantage.to_le_bytes()));
    digest
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
#[path = "../../../agent/tests/corridor/mod.rs"]
mod corridor;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::corridor::{babbler, jobs, play, protocol, task};
    use super::*;
    use crate::pipeline::recipe::Level;
    use agent::policy::lm::{LmPolicy, ValueUse};
    use agent::rollout::Concurrency;

    /// As far apart as a part of the larger; gradients as vectors.
    #[track_caller]
    fn close(a: &[f32], b: &[f32], what: &str) {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let size = a.iter().map(|a| square(*a)).sum::<f64>().sqrt();
        let off = a
            .iter()
            .zip(b)
            .map(|(a, b)| square(a - b))
            .sum::<f64>()
            .sqrt();
        assert!(
            a.len() == b.len() && off <= 1e-4 * size + 1e-7,
            "{what}: off by {off}, of {size}"
        );
    }

    /// Every algorithm, at every level that it has.
    fn algorithms() -> Vec<Algorithm> {
        let (beta, alpha, value_learning_rate, critic_only_share) = (0.1, 0.1, 1e-3, 0.0);
        let mut all = vec![
            Algorithm::Sft {
                targets: Targets::Actions,
            },
            Algorithm::Sft {
                targets: Targets::Transcript,
            },
            Algorithm::RejectionSampling {
                targets: Targets::Actions,
            },
            Algorithm::Oreo {
                level: Level::Response,
                beta,
                alpha,
                value_learning_rate,
                critic_only_share,
            },
            Algorithm::Dro {
                beta,
                value_learning_rate,
                critic_only_share,
            },
            Algorithm::Dpo { beta, pairs: 5 },
            Algorithm::Kto {
                beta,
                desirable: 1.0,
                undesirable: 1.5,
            },
        ];
        for level in [Level::Turn, Level::Token] {
            all.extend([
                Algorithm::Oreo {
                    level,
                    beta,
                    alpha,
                    value_learning_rate,
                    critic_only_share,
                },
                Algorithm::Dqo {
                    level,
                    beta,
                    lambda: 0.9,
                    process_scores: false,
                    value_learning_rate,
                    critic_only_share,
                },
                Algorithm::Grpo {
                    level,
                    clip: 0.2,
                    alpha,
                },
                Algorithm::Gigpo {
                    level,
                    clip: 0.2,
                    alpha,
                    discount: 0.9,
                    omega: 1.0,
                },
            ]);
        }
        all
    }

    /// The numbers of a part, and its gradients as vectors.
    fn said(part: Part) -> Vec<Vec<f32>> {
        let Watched {
            loss_policy,
            loss_value,
            loss_after_value,
            kl_exact,
            kl_k3,
            ..
        } = part.watched;
        let losses = [loss_policy, loss_value, loss_after_value, kl_exact, kl_k3];
        let flat = |gradients: HostGradients| {
            gradients
                .iter()
                .flatten()
                .flat_map(|gradient| gradient.values())
                .copied()
                .collect::<Vec<f32>>()
        };
        let losses = losses
            .into_iter()
            .flatten()
            .map(|loss| loss as f32)
            .collect();
        [Some(losses), part.policy.map(flat), part.value.map(flat)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// A batch cut for a CPU, for a GPU (other padding, one lane), into single units that are added up, with activations
    /// recomputed, and read backwards:
    /// losses and gradients of every algorithm differ in rounding alone. The policy has moved away from its reference.
    #[test]
    fn neither_padding_nor_packing_nor_order_nor_accumulation_changes_anything() {
        let model = babbler(31);
        let player = LmPolicy::new(model.clone(), ValueUse::Skip).unwrap();
        let tasks = ["plain/1", "plain/2", "plain/9"].map(task);
        let mut played = play(
            &player,
            &jobs(&tasks, 4),
            &protocol(),
            Concurrency {
                workers: 2,
                episodes: 8,
            },
        );
        for (index, turn) in played
            .iter_mut()
            .flat_map(|trajectory| &mut trajectory.turns)
            .enumerate()
        {
            turn.state = Some(index as u64 % 4);
        }
        let mut moved = model.clone();
        let norm = moved.policy.0.get_mut("model.norm.weight").unwrap();
        norm.data
            .iter_mut()
            .enumerate()
            .for_each(|(index, x)| *x *= 1.0 + 0.1 * (index as f32).sin());
        for algorithm in algorithms() {
            let recipe = TrainConfig::of(algorithm);
            let out = tempfile::tempdir().unwrap();
            let (out, hardware) = (out.path(), DeviceChoice::Cpu);
            let job = TrainingJob {
                recipe: &recipe,
                start: &model,
                lineage: None,
                trajectories: &played,
                seed: 1,
                out,
                hardware,
            };
            let plan = Plan::new(&recipe, &played, 10_000, 1).unwrap();
            let mut units: Vec<Unit> = plan
                .updates
                .iter()
                .flat_map(|(_, units)| units.clone())
                .collect();
            let mut recomputing = recipe.clone();
            recomputing.optimizer.activations = Activations::Checkpointed;
            let whole_of = |recipe: &TrainConfig, cut: Cut, units: &[Unit]| {
                let place = Place {
                    device: Device::flex().autodiff(),
                    cut,
                };
                let mut student = Student::new(&job, &plan, place).unwrap();
                for networks in &mut student.replicas {
                    networks.policy =
                        Decoder::from_weights(&model.config, &moved.policy, &networks.place.device)
                            .unwrap();
                }
                said(
                    student
                        .whole(recipe, &plan, units, Learns::Yes { policy: true })
                        .unwrap(),
                )
            };
            let whole = |cut: Cut, units: &[Unit]| whole_of(&recipe, cut, units);
            let cut = Cut::of(DeviceChoice::Cpu);
            let expected = whole(cut, &units);
            assert!(
                expected[1].iter().any(|gradient| *gradient != 0.0),
                "{:?}",
                recipe.algorithm
            );
            let mut others = vec![
                whole(Cut::of(DeviceChoice::Cuda(0)), &units),
                whole(Cut { tokens: 1, ..cut }, &units),
                whole_of(&recomputing, cut, &units),
            ];
            if !matches!(recipe.algorithm, Algorithm::Kto { .. }) {
                units.reverse(); // KTO's reference point depends on who stands beside whom
                others.push(whole(cut, &units));
            }
            for (other, how) in
                others
                    .iter()
                    .zip(["on a GPU", "added up", "recomputed", "backwards"])
            {
                let what = format!("{:?} {how}", recipe.algorithm);
                assert_eq!(expected.len(), other.len(), "{what}");
                expected
                    .iter()
                    .zip(other)
                    .for_each(|(expected, other)| close(expected, other, &what));
            }
        }
    }
}
