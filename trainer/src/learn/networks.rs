//! The networks of a training job on a device: forward and backward passes over one micro-batch.

use crate::error::TrainerError;
use crate::learn::config::TrainConfig;
use crate::learn::critic::{CriticOutputs, CriticPart, CriticPass};
use crate::learn::data::batch::Batch;
use crate::learn::data::tensors::BatchTensors;
use crate::learn::micro_batch::{MicroBatchResult, MicroBatchShape, PassKind};
use crate::learn::objective::{self, NetworkOutputs, TrainingLosses, UpdateContext};
use crate::learn::optimizer::Activations;
use crate::learn::parameters::{NetworkGradients, accumulate, gradients, sharing};
use crate::learn::ranking::batch::RankingBatch;
use crate::learn::ranking::objective::ranking_losses;
use crate::loss::target_logprobs;
use agent::model::checkpointing::CheckpointedForward;
use agent::model::decoder::{Decoder, ValueNetwork};
use agent::model::folder::Model;
use agent::model::weights::Weights;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use std::cell::RefCell;
use std::time::Instant;

/// A device, and the size of micro-batches on it.
#[derive(Clone)]
pub(crate) struct Placement {
    /// The device, with autodiff.
    pub(crate) device: Device,
    /// The size of micro-batches.
    pub(crate) shape: MicroBatchShape,
}

/// What networks are built from.
pub(crate) struct NetworkSource<'a> {
    /// Precision, adapters and trainable layers.
    pub(crate) recipe: &'a TrainConfig,
    /// The configuration, and the weights of the reference.
    pub(crate) start: &'a Model,
    /// Seed of the adapters.
    pub(crate) seed: u64,
    /// Weights of the policy.
    pub(crate) policy: &'a Weights,
    /// Weights of the value network, if there is one.
    pub(crate) value: Option<&'a Weights>,
}

/// The networks of one data-parallel replica.
pub(crate) struct NetworkReplica {
    placement: Placement,
    /// π_θ.
    pub(crate) policy: Decoder,
    /// π_ref, frozen; `None` if the algorithm does not need it, or its log-probabilities are
    /// cached.
    pub(crate) reference: Option<Decoder>,
    /// V_φ, if the algorithm has a value network.
    pub(crate) value: Option<ValueNetwork>,
}

impl NetworkReplica {
    /// Builds the networks.
    ///
    /// # Errors
    /// If the weights do not fit the configuration.
    pub(crate) fn new(
        source: &NetworkSource<'_>,
        placement: &Placement,
    ) -> Result<Self, TrainerError> {
        let device = &placement.device;
        let policy = trainable_policy(source, device)?;
        let reference = if source.recipe.algorithm.has_reference() {
            Some(decoder(source, &source.start.policy, device)?.no_grad())
        } else {
            None
        };
        let value = match source.value {
            Some(weights) => Some(value_network(source, weights, device)?),
            None => None,
        };
        Ok(Self {
            placement: placement.clone(),
            policy,
            reference,
            value,
        })
    }

    /// Returns as many replicas as the placement has, over the same memory.
    pub(crate) fn replicate(self) -> Vec<Self> {
        let mut replicas = Vec::new();
        for _ in 1..self.placement.shape.replicas {
            replicas.push(Self {
                placement: self.placement.clone(),
                policy: sharing(&self.policy),
                reference: self.reference.as_ref().map(sharing),
                value: self.value.as_ref().map(sharing),
            });
        }
        replicas.push(self);
        replicas
    }

    /// Computes losses and, if the pass trains, gradients of a micro-batch.
    pub(crate) fn run(
        &self,
        batch: &Batch,
        recipe: &TrainConfig,
        context: UpdateContext,
        pass: PassKind,
    ) -> MicroBatchResult {
        let tensors = self.tensors(batch);
        self.pass(recipe, pass, |forward| {
            objective::losses(&recipe.algorithm, forward, &tensors, context)
        })
    }

    /// Computes losses and gradients of a micro-batch of branch states.
    pub(crate) fn run_ranking(
        &self,
        batch: &RankingBatch,
        recipe: &TrainConfig,
        policy: bool,
        critic: CriticPart,
    ) -> MicroBatchResult {
        let Placement { device, shape } = &self.placement;
        let tensors = batch.to_device(device, shape.written);
        self.pass(recipe, PassKind::Train { policy, critic }, |forward| {
            ranking_losses(recipe, forward, &tensors, policy, critic)
        })
    }

    /// Computes losses and, if the pass trains, their gradients.
    fn pass(
        &self,
        recipe: &TrainConfig,
        pass: PassKind,
        losses: impl FnOnce(&ForwardPass<'_>) -> TrainingLosses,
    ) -> MicroBatchResult {
        let started = Instant::now();
        let forward = ForwardPass {
            networks: self,
            activations: recipe.optimizer.activations,
            policy_trail: RefCell::default(),
            value_trail: RefCell::default(),
        };
        let TrainingLosses {
            policy,
            value,
            statistics,
        } = losses(&forward);
        let forward_seconds = started.elapsed().as_secs_f64();
        if pass == PassKind::Evaluate {
            return MicroBatchResult {
                statistics,
                forward_seconds,
                ..MicroBatchResult::default()
            };
        }
        let started = Instant::now();
        let policy_trail = forward.policy_trail.into_inner();
        let value_trail = forward.value_trail.into_inner();
        let value = self
            .value
            .as_ref()
            .zip(value)
            .map(|(network, loss)| backward(network, network.trunk(), value_trail, loss));
        let policy = policy.map(|loss| backward(&self.policy, &self.policy, policy_trail, loss));
        MicroBatchResult {
            policy,
            value,
            statistics,
            forward_seconds,
            backward_seconds: started.elapsed().as_secs_f64(),
        }
    }

    /// Returns the forward passes, if no gradient is needed.
    pub(crate) fn outputs(&self) -> impl NetworkOutputs {
        ForwardPass {
            networks: self,
            activations: Activations::Kept,
            policy_trail: RefCell::default(),
            value_trail: RefCell::default(),
        }
    }

    /// Copies a micro-batch to the device.
    pub(crate) fn tensors(&self, batch: &Batch) -> BatchTensors {
        batch.to_device(&self.placement.device, self.placement.shape.written)
    }
}

fn decoder(
    source: &NetworkSource<'_>,
    weights: &Weights,
    device: &Device,
) -> Result<Decoder, TrainerError> {
    Ok(
        Decoder::from_weights(&source.start.config, weights, device)?
            .with_precision(source.recipe.precision),
    )
}

fn trainable_policy(source: &NetworkSource<'_>, device: &Device) -> Result<Decoder, TrainerError> {
    let policy = decoder(source, source.policy, device)?;
    Ok(match &source.recipe.lora {
        Some(lora) => policy
            .with_lora(lora, source.seed)?
            .with_factors(source.policy)?,
        None => policy.learning_last(source.recipe.optimizer.last_layers),
    })
}

fn value_network(
    source: &NetworkSource<'_>,
    weights: &Weights,
    device: &Device,
) -> Result<ValueNetwork, TrainerError> {
    let network = ValueNetwork::from_weights(&source.start.config, weights, device)?
        .with_precision(source.recipe.precision);
    Ok(match &source.recipe.lora {
        Some(lora) => network
            .with_lora(lora, source.seed)?
            .with_factors(weights)?,
        None => network.learning_last(source.recipe.optimizer.last_layers),
    })
}

/// Computes the gradients of a loss. If activations were checkpointed, the trunk's layers are
/// computed again, from the last to the first.
fn backward<M: Module>(
    network: &M,
    trunk: &Decoder,
    trail: Option<CheckpointedForward>,
    loss: Tensor<1>,
) -> NetworkGradients {
    let mut graph = loss.backward();
    let Some(trail) = trail else {
        return gradients(network, graph);
    };
    let of_hidden = trail.hidden.grad_remove(&mut graph);
    let mut all = gradients(network, graph);
    if let Some(of_hidden) = of_hidden {
        for layer in trunk.backward_checkpointed(trail, of_hidden) {
            accumulate(&mut all, gradients(network, layer), 1.0);
        }
    }
    all
}

/// One forward pass of the networks. If activations are checkpointed, it records the inputs of the
/// layers.
struct ForwardPass<'a> {
    networks: &'a NetworkReplica,
    activations: Activations,
    policy_trail: RefCell<Option<CheckpointedForward>>,
    value_trail: RefCell<Option<CheckpointedForward>>,
}

impl ForwardPass<'_> {
    /// Returns the hidden states of the policy.
    fn policy_hidden(&self, batch: &BatchTensors) -> Tensor<3> {
        hidden(
            &self.networks.policy,
            self.activations,
            &self.policy_trail,
            batch,
        )
    }
}

/// Returns the hidden states of a trunk. If activations are checkpointed, `slot` gets the inputs of
/// its layers.
fn hidden(
    trunk: &Decoder,
    activations: Activations,
    slot: &RefCell<Option<CheckpointedForward>>,
    batch: &BatchTensors,
) -> Tensor<3> {
    match activations {
        Activations::Kept => trunk.hidden(batch.tokens.clone()),
        Activations::Checkpointed => {
            let trail = trunk.forward_checkpointed(batch.tokens.clone());
            let hidden = trail.hidden.clone();
            slot.replace(Some(trail));
            hidden
        }
    }
}

/// Returns the logits before every written token, `[batch, written, vocab]`.
fn written_logits(decoder: &Decoder, hidden: Tensor<3>, batch: &BatchTensors) -> Tensor<3> {
    let [rows, written] = batch.written.targets.dims();
    decoder
        .logits(batch.written.select(hidden))
        .reshape([rows as i64, written as i64, -1])
}

/// Returns the logits at every position, `[batch, time, vocab]`.
fn all_logits(decoder: &Decoder, hidden: Tensor<3>) -> Tensor<3> {
    let [rows, time, width] = hidden.dims();
    decoder
        .logits(hidden.reshape([rows * time, width]))
        .reshape([rows as i64, time as i64, -1])
}

impl NetworkOutputs for ForwardPass<'_> {
    fn policy_logits(&self, batch: &BatchTensors) -> Tensor<3> {
        let hidden = self.policy_hidden(batch);
        written_logits(&self.networks.policy, hidden, batch)
    }

    fn reference_logits(&self, batch: &BatchTensors) -> Tensor<3> {
        let reference = self
            .networks
            .reference
            .as_ref()
            .expect("an algorithm that reads the reference has one");
        written_logits(reference, reference.hidden(batch.tokens.clone()), batch).detach()
    }

    fn transcript_logits(&self, batch: &BatchTensors) -> Tensor<3> {
        all_logits(&self.networks.policy, self.policy_hidden(batch))
    }

    fn values(&self, batch: &BatchTensors) -> Tensor<2> {
        self.critic(batch, CriticPass::default()).heads.values
    }

    fn critic(&self, batch: &BatchTensors, pass: CriticPass) -> CriticOutputs {
        let network = self
            .networks
            .value
            .as_ref()
            .expect("an algorithm that reads values has a value network");
        let trunk = network.trunk();
        let hidden = hidden(trunk, self.activations, &self.value_trail, batch);
        let target_logprobs = (pass.next_observation_coef > 0.0).then(|| {
            let logits = all_logits(trunk, hidden.clone());
            target_logprobs(logits, batch.targets.clone())
        });
        let hidden = match pass.part {
            CriticPart::Whole => hidden,
            CriticPart::Heads => hidden.detach(),
        };
        CriticOutputs {
            heads: network.head_outputs(hidden),
            target_logprobs,
        }
    }
}
