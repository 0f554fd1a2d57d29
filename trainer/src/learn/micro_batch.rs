//! How a batch is split into micro-batches, and how their results add up to those of the batch.
//!
//! Micro-batches have near-equal lengths. Their gradients are added in order, so the sum does not
//! depend on the number of cores. Another split changes only the rounding.

use crate::error::TrainerError;
use crate::learn::config::{Algorithm, Targets};
use crate::learn::critic::CriticPart;
use crate::learn::data::batch::{Batch, Example};
use crate::learn::objective::BatchStatistics;
use crate::learn::parameters::{NetworkGradients, accumulate};
use agent::inference::device::DeviceChoice;
use agent::model::weights::Weights;
use std::cmp::Reverse;

/// Number of values of a network above which its weights fit into no CPU cache.
const LARGE: usize = 1 << 24;

/// The size of micro-batches on a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MicroBatchShape {
    /// Largest number of tokens of a micro-batch, padding included.
    pub(crate) tokens: usize,
    /// Micro-batches that are computed at the same time, one for each data-parallel replica.
    pub(crate) replicas: usize,
    /// The positions are rounded up to a multiple of this, so that few shapes occur.
    pub(crate) positions: usize,
    /// The written positions, at which logits are computed, are rounded up to a multiple of this.
    pub(crate) written: usize,
}

impl MicroBatchShape {
    /// Returns the shape for a network on a device. If `token_budget` is not 0, it replaces the
    /// default number of tokens.
    pub(crate) fn new(device: DeviceChoice, weights: &Weights, token_budget: usize) -> Self {
        let mut shape = Self::of_device(device);
        let values: usize = weights.0.values().map(|tensor| tensor.data.len()).sum();
        if shape.replicas > 1 && values >= LARGE {
            // Each matrix product fills all threads by itself. More tokens save passes over the
            // weights.
            shape.tokens = 1024;
            shape.replicas = 1;
        }
        if token_budget > 0 {
            shape.tokens = token_budget;
        }
        shape
    }

    /// Returns the shape for small networks.
    pub(crate) fn of_device(device: DeviceChoice) -> Self {
        match device {
            // The activations fit into the caches of a core.
            DeviceChoice::Cpu => Self {
                tokens: 640,
                replicas: 2,
                positions: 16,
                written: 1,
            },
            // The micro-batch fills a GPU and fits into its memory. Kernels are tuned once for each
            // power of two of a dimension and each alignment of rows; multiples of 64 leave few
            // alignments.
            DeviceChoice::Gpu(..) => Self {
                tokens: 8192,
                replicas: 1,
                positions: 64,
                written: 64,
            },
        }
    }
}

/// A batch as micro-batches.
pub(crate) struct PackedBatch {
    /// The micro-batches.
    pub(crate) micro_batches: Vec<Batch>,
    /// The index of each group, in the order in which the micro-batches contain the groups.
    pub(crate) order: Vec<usize>,
}

/// Packs groups of trajectories. A group is never split between micro-batches.
///
/// # Errors
/// If a trajectory cannot be learned from.
pub(crate) fn pack(
    groups: &[Vec<Example<'_>>],
    shape: MicroBatchShape,
) -> Result<PackedBatch, TrainerError> {
    let mut sized: Vec<SizedGroup> = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let longest = group
            .iter()
            .map(|example| example.trajectory.tokens())
            .max();
        sized.push(SizedGroup {
            tokens: group.len() * longest.unwrap_or(0),
            index,
        });
    }
    sized.sort_by_key(|group| Reverse(group.tokens));
    let mut micro_batches = Vec::new();
    for part in split(&sized, shape) {
        let examples: Vec<Example<'_>> = part
            .iter()
            .flat_map(|group| groups[group.index].iter().copied())
            .collect();
        micro_batches.push(Batch::new(&examples, shape.positions)?);
    }
    Ok(PackedBatch {
        micro_batches,
        order: sized.into_iter().map(|group| group.index).collect(),
    })
}

/// The number of tokens of a group, with the padding between its own rows.
#[derive(Clone, Copy)]
struct SizedGroup {
    tokens: usize,
    index: usize,
}

/// Splits groups, largest first, into parts of at most `shape.tokens` tokens with their padding, or
/// of one group. The number of parts is the smallest that keeps all replicas busy, and the parts
/// are as even as possible.
fn split(groups: &[SizedGroup], shape: MicroBatchShape) -> Vec<&[SizedGroup]> {
    let fewest = split_within(groups, shape.tokens)
        .len()
        .next_multiple_of(shape.replicas);
    let all: usize = groups.iter().map(|group| group.tokens).sum();
    (all / fewest..shape.tokens)
        .step_by(16)
        .map(|tokens| split_within(groups, tokens))
        .find(|parts| parts.len() <= fewest)
        .unwrap_or_else(|| split_within(groups, shape.tokens))
}

fn split_within(groups: &[SizedGroup], tokens: usize) -> Vec<&[SizedGroup]> {
    let mut rest = groups;
    let mut parts = Vec::new();
    while let Some(largest) = rest.first() {
        let most = tokens / largest.tokens.max(1);
        let (part, after) = rest.split_at(most.clamp(1, rest.len()));
        parts.push(part);
        rest = after;
    }
    parts
}

/// What a pass over data computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassKind {
    /// Losses and gradients.
    Train {
        /// Whether the policy learns; if not, only the value network does.
        policy: bool,
        /// The parameters of the value network that learn, if there is one.
        critic: CriticPart,
    },
    /// Losses only.
    Evaluate,
}

/// Gradients and numbers of one micro-batch, or the sum over a batch.
#[derive(Default)]
pub(crate) struct MicroBatchResult {
    /// Gradient of the policy, if it learns.
    pub(crate) policy: Option<NetworkGradients>,
    /// Gradient of the value network, if there is one.
    pub(crate) value: Option<NetworkGradients>,
    /// Losses, KL, log-ratios and values.
    pub(crate) statistics: BatchStatistics,
    /// Seconds of the forward passes.
    pub(crate) forward_seconds: f64,
    /// Seconds of the backward passes.
    pub(crate) backward_seconds: f64,
}

impl MicroBatchResult {
    /// Adds the result of a micro-batch, whose share of the batch is `share`.
    pub(crate) fn add(&mut self, part: Self, share: f64) {
        add_gradients(&mut self.policy, part.policy, share);
        add_gradients(&mut self.value, part.value, share);
        self.statistics.add(part.statistics, share);
        self.forward_seconds += part.forward_seconds;
        self.backward_seconds += part.backward_seconds;
    }
}

fn add_gradients(whole: &mut Option<NetworkGradients>, part: Option<NetworkGradients>, share: f64) {
    if let Some(part) = part {
        accumulate(whole.get_or_insert_default(), part, share);
    }
}

/// Returns the weight of a micro-batch in its batch: the number of tokens for losses over tokens,
/// the number of trajectories for losses over trajectories. `normalise = "batch"` is one of the
/// latter: its losses are sums over trajectories, divided by the [`crate::learn::batch::MeanLengths`] of the whole batch.
pub(crate) fn loss_weight(batch: &Batch, algorithm: &Algorithm) -> f64 {
    let (Algorithm::Sft { targets } | Algorithm::RejectionSampling { targets }) = algorithm else {
        return batch.batch as f64;
    };
    let mut count = 0_u32;
    for (imitated, written) in batch.imitated_mask.iter().zip(&batch.action_mask) {
        let is_target = match targets {
            Targets::Actions => *written,
            Targets::Transcript => true,
        };
        if *imitated && is_target {
            count += 1;
        }
    }
    f64::from(count)
}
