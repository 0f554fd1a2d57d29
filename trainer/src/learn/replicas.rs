//! The data-parallel replicas of a job's networks: losses and gradients of whole batches.

use crate::error::TrainerError;
use crate::learn::config::{Algorithm, TrainConfig};
use crate::learn::critic::{CriticPart, CriticPass};
use crate::learn::data::batch::{Example, MeanLengths};
use crate::learn::data::episodes::TrajectoryGroup;
use crate::learn::data::plan::{LoadedGroups, Plan};
use crate::learn::micro_batch::{MicroBatchResult, PackedBatch, PassKind, loss_weight, pack};
use crate::learn::networks::{NetworkReplica, NetworkSource, Placement};
use crate::learn::objective::{UpdateContext, reference_logprobs, trajectory_log_ratios};
use crate::learn::parameters::{Parameter, with_parameters};
use crate::learn::ranking::batch::{RankingBatch, pack_states};
use crate::learn::ranks::{self, Ranks};
use crate::loss::kto;
use rayon::{ThreadPool, ThreadPoolBuilder};
use scenarios::Trajectory;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Copies of the networks that compute micro-batches in parallel: those of this process, and of the other ranks.
pub(crate) struct Replicas<'a> {
    ranks: &'a dyn Ranks,
    replicas: Vec<NetworkReplica>,
    /// The threads of each replica, so that replicas do not wait for the small matrix products of
    /// each other.
    pools: Vec<ThreadPool>,
    placement: Placement,
}

impl<'a> Replicas<'a> {
    /// Builds the networks.
    ///
    /// # Errors
    /// If the weights do not fit the configuration, or threads cannot be started.
    pub(crate) fn new(
        source: &NetworkSource<'_>,
        placement: Placement,
        ranks: &'a dyn Ranks,
    ) -> Result<Self, TrainerError> {
        let count = placement.shape.replicas;
        let threads = (rayon::current_num_threads() / count).max(1);
        let replicas = NetworkReplica::new(source, &placement)?.replicate();
        let mut pools = Vec::new();
        for _ in 0..count {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            pools.push(
                pool.map_err(|e| TrainerError::Data(format!("no threads for training: {e}")))?,
            );
        }
        Ok(Self {
            ranks,
            replicas,
            pools,
            placement,
        })
    }

    /// Returns the number of replicas of all ranks.
    pub(crate) fn count(&self) -> usize {
        self.placement.shape.replicas * self.ranks.count()
    }

    /// Returns the networks of the first replica; the others are equal.
    pub(crate) fn first(&self) -> &NetworkReplica {
        &self.replicas[0]
    }

    /// Computes losses and, if the pass trains, gradients of a whole batch.
    pub(crate) fn run(
        &self,
        recipe: &TrainConfig,
        batch: &LoadedGroups<'_>,
        pass: PassKind,
    ) -> Result<MicroBatchResult, TrainerError> {
        let PackedBatch { micro_batches, .. } = pack(&batch.examples(), self.placement.shape)?;
        let reference_point = match recipe.algorithm {
            Algorithm::Kto { .. } => self.reference_point(batch)?,
            _ => 0.0,
        };
        let context = UpdateContext {
            policy_learns: !matches!(pass, PassKind::Train { policy: false, .. }),
            reference_point,
            mean_lengths: MeanLengths::of(&micro_batches),
            critic: critic_pass(recipe, pass),
        };
        let weights: Vec<f64> = micro_batches
            .iter()
            .map(|batch| loss_weight(batch, &recipe.algorithm))
            .collect();
        let total: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let results = self.map_own(&micro_batches, |networks, batch| {
            networks.run(batch, recipe, context, pass)
        });
        Ok(self.sum(results, &shares))
    }

    /// Computes losses and gradients of branch states. Each state has the same weight.
    ///
    /// # Errors
    /// If a candidate cannot be learned from.
    pub(crate) fn run_ranking(
        &self,
        recipe: &TrainConfig,
        plan: &Plan<'_>,
        states: &[usize],
        policy: bool,
        part: CriticPart,
    ) -> Result<MicroBatchResult, TrainerError> {
        let critic = &recipe.critic;
        if critic.ranking.is_none() && !policy {
            return Ok(MicroBatchResult::default());
        }
        let chosen: Vec<_> = states
            .iter()
            .map(|index| &plan.ranking.states[*index])
            .collect();
        let batches = pack_states(&chosen, self.placement.shape)?;
        let share = |batch: &RankingBatch| batch.states as f64 / states.len() as f64;
        let shares: Vec<f64> = batches.iter().map(share).collect();
        let results = self.map_own(&batches, |networks, batch| {
            networks.run_ranking(batch, recipe, policy, part)
        });
        Ok(self.sum(results, &shares))
    }

    /// Returns KTO's z₀: the log-ratios of the completions of one game after the first observation
    /// of another.
    fn reference_point(&self, batch: &LoadedGroups<'_>) -> Result<f64, TrainerError> {
        let trajectories = batch.trajectories();
        let pairs: Vec<Trajectory> = (0..trajectories.len())
            .filter_map(|place| mismatched(&trajectories, place))
            .filter(|pair| pair.tokens() <= batch.longest())
            .collect();
        if pairs.is_empty() {
            return Ok(0.0);
        }
        let examples: Vec<Vec<Example<'_>>> = pairs.iter().map(|pair| vec![pair.into()]).collect();
        let PackedBatch { micro_batches, .. } = pack(&examples, self.placement.shape)?;
        let log_ratios = self.map_batches(&micro_batches, |networks, batch| {
            trajectory_log_ratios(&networks.outputs(), &networks.tensors(batch))
        });
        Ok(kto::reference_point(&log_ratios.concat()))
    }

    /// Returns ln π_ref of the written tokens of all trajectories, and frees the reference.
    ///
    /// # Errors
    /// If a trajectory cannot be read or learned from.
    pub(crate) fn cache_reference(
        &mut self,
        plan: &Plan<'_>,
    ) -> Result<Vec<Vec<f32>>, TrainerError> {
        let rows: Vec<u32> = (0..).take(plan.episodes.rows.len()).collect();
        let mut logprobs = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(256) {
            let groups: Vec<_> = chunk.iter().copied().map(TrajectoryGroup::Single).collect();
            let loaded = plan.load(&groups)?;
            let trajectories = loaded.trajectories().into_iter();
            let examples: Vec<Vec<Example<'_>>> = trajectories
                .map(|trajectory| vec![trajectory.into()])
                .collect();
            let PackedBatch {
                micro_batches,
                order,
            } = pack(&examples, self.placement.shape)?;
            let results = self.map_batches(&micro_batches, |networks, batch| {
                reference_logprobs(&networks.outputs(), &networks.tensors(batch))
            });
            let mut by_index: Vec<(usize, Vec<f32>)> = order
                .into_iter()
                .zip(results.into_iter().flatten())
                .collect();
            by_index.sort_by_key(|(index, _)| *index);
            logprobs.extend(by_index.into_iter().map(|(_, logprobs)| logprobs));
        }
        for networks in &mut self.replicas {
            networks.reference = None;
        }
        Ok(logprobs)
    }

    /// Copies new parameters into the networks of all replicas. `None` leaves a network as it is.
    pub(crate) fn load(&mut self, policy: Option<&[Parameter]>, value: Option<&[Parameter]>) {
        // The first replica is then the only user of its memory, so it can reuse it.
        self.replicas.truncate(1);
        let Some(mut networks) = self.replicas.pop() else {
            return;
        };
        if let Some(policy) = policy {
            networks.policy = with_parameters(networks.policy, policy);
        }
        if let Some(value) = value {
            networks.value = networks
                .value
                .map(|network| with_parameters(network, value));
        }
        self.replicas = networks.replicate();
    }

    /// Returns the sum over the micro-batches of all ranks, each times its share.
    fn sum(&self, mine: Vec<(usize, MicroBatchResult)>, shares: &[f64]) -> MicroBatchResult {
        let device = self.placement.device.clone().inner();
        ranks::sum(self.ranks, mine, shares, &device)
    }

    /// Applies `work` to every micro-batch, on the replicas of all ranks. The results are in the order of the
    /// micro-batches.
    fn map_batches<B: Sync, T: Send + Serialize + DeserializeOwned>(
        &self,
        batches: &[B],
        work: impl Fn(&NetworkReplica, &B) -> T + Sync,
    ) -> Vec<T> {
        ranks::in_order(self.ranks, self.map_own(batches, work))
    }

    /// Applies `work` to the micro-batches of this rank, on its replicas. The results are in the order of the
    /// micro-batches, with their indices.
    fn map_own<B: Sync, T: Send>(
        &self,
        batches: &[B],
        work: impl Fn(&NetworkReplica, &B) -> T + Sync,
    ) -> Vec<(usize, T)> {
        let batches: Vec<(usize, &B)> = (batches.iter().enumerate())
            .skip(self.ranks.rank())
            .step_by(self.ranks.count())
            .collect();
        let batches = &batches[..];
        let next = AtomicUsize::new(0);
        let mut results: Vec<(usize, T)> =
            match &self.replicas[..] {
                // In this thread: a GPU gives every thread a queue and memory of its own.
                [only] => work_off(batches, &next, only, &work),
                replicas => std::thread::scope(|scope| {
                    let next = &next;
                    let work = &work;
                    let mut threads = Vec::new();
                    for (networks, pool) in replicas.iter().zip(&self.pools) {
                        threads.push(scope.spawn(move || {
                            pool.install(|| work_off(batches, next, networks, work))
                        }));
                    }
                    threads
                        .into_iter()
                        .flat_map(|thread| thread.join().expect("a micro-batch does not panic"))
                        .collect()
                }),
            };
        results.sort_by_key(|(index, _)| *index);
        results
    }
}

/// Returns what a pass computes of the value network. Observations are predicted only if the trunk
/// learns from it.
fn critic_pass(recipe: &TrainConfig, pass: PassKind) -> CriticPass {
    match pass {
        PassKind::Train {
            critic: CriticPart::Whole,
            ..
        } => CriticPass {
            part: CriticPart::Whole,
            next_observation_coef: recipe.critic.next_observation_coef,
        },
        PassKind::Train { critic: part, .. } => CriticPass {
            part,
            ..CriticPass::default()
        },
        PassKind::Evaluate => CriticPass::default(),
    }
}

/// Takes micro-batches from the queue until it is empty; returns the results with their indices.
fn work_off<B, T>(
    batches: &[(usize, &B)],
    next: &AtomicUsize,
    networks: &NetworkReplica,
    work: &impl Fn(&NetworkReplica, &B) -> T,
) -> Vec<(usize, T)> {
    let mut results = Vec::new();
    loop {
        let place = next.fetch_add(1, Ordering::Relaxed);
        let Some((index, batch)) = batches.get(place) else {
            return results;
        };
        results.push((*index, work(networks, batch)));
    }
}

/// Returns the completions of the next trajectory of another game after the first observation of
/// the trajectory at `place`; `None` if all are of one game.
fn mismatched(trajectories: &[&Trajectory], place: usize) -> Option<Trajectory> {
    let beginning = trajectories[place];
    let other = (1..trajectories.len())
        .map(|next| trajectories[(place + next) % trajectories.len()])
        .find(|other| other.game_hash != beginning.game_hash)?;
    let mut pair = other.clone();
    pair.turns[0]
        .observation_tokens
        .clone_from(&beginning.turns[0].observation_tokens);
    Some(pair)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
