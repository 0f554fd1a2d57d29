//! The sum of the gradients of micro-batches over all ranks.
//!
//! Each parameter is cut into as many pieces as there are ranks, and a rank adds up its piece of every parameter. It
//! receives the pieces of one micro-batch after another, in their order, with the operations of a process that is alone.
//! In the end all ranks exchange their sums. If every rank has one micro-batch, this moves two numbers for each parameter
//! and rank, as an all-reduce does.

use super::{Ranks, in_order};
use crate::learn::micro_batch::MicroBatchResult;
use crate::learn::objective::BatchStatistics;
use crate::learn::parameters::{Gradient, NetworkGradients, accumulate};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The number of values of each parameter that has a gradient.
type GradientLengths = Vec<Option<usize>>;

/// Everything of a micro-batch's result but the gradients themselves.
#[derive(Serialize, Deserialize)]
struct Summary {
    statistics: BatchStatistics,
    seconds: [f64; 2],
    policy: Option<GradientLengths>,
    value: Option<GradientLengths>,
}

impl Summary {
    fn of(result: &MicroBatchResult) -> Self {
        Self {
            statistics: result.statistics.clone(),
            seconds: [result.forward_seconds, result.backward_seconds],
            policy: result.policy.as_ref().map(lengths_of),
            value: result.value.as_ref().map(lengths_of),
        }
    }
}

fn lengths_of(gradients: &NetworkGradients) -> GradientLengths {
    let gradients = gradients.iter();
    gradients
        .map(|gradient| gradient.as_ref().map(Gradient::len))
        .collect()
}

/// Returns the sum of the results of all micro-batches, each times its share. `mine` has those of this rank, by index.
pub(crate) fn sum(
    ranks: &dyn Ranks,
    mine: Vec<(usize, MicroBatchResult)>,
    shares: &[f64],
    device: &Device,
) -> MicroBatchResult {
    let mut whole = MicroBatchResult::default();
    if ranks.count() == 1 {
        for ((_, result), share) in mine.into_iter().zip(shares) {
            whole.add(result, *share);
        }
        return whole;
    }
    let summaries = mine
        .iter()
        .map(|(index, result)| (*index, Summary::of(result)));
    let summaries = in_order(ranks, summaries.collect());
    let (policies, values) = mine
        .into_iter()
        .map(|(_, result)| (result.policy, result.value))
        .unzip();
    let mut lengths = [Vec::new(), Vec::new()];
    for (summary, share) in summaries.into_iter().zip(shares) {
        whole.statistics.add(summary.statistics, *share);
        whole.forward_seconds += summary.seconds[0];
        whole.backward_seconds += summary.seconds[1];
        lengths[0].push(summary.policy);
        lengths[1].push(summary.value);
    }
    let [of_policy, of_value] = lengths;
    let sum = |mine, lengths| {
        NetworkSum {
            ranks,
            lengths,
            shares,
            device,
        }
        .sum(mine)
    };
    whole.policy = sum(policies, of_policy);
    whole.value = sum(values, of_value);
    whole
}

/// The sum for one network.
struct NetworkSum<'a> {
    ranks: &'a dyn Ranks,
    /// By micro-batch.
    lengths: Vec<Option<GradientLengths>>,
    /// By micro-batch.
    shares: &'a [f64],
    device: &'a Device,
}

impl NetworkSum<'_> {
    /// Sums up; `mine` has the gradients of this rank's micro-batches, in order.
    fn sum(&self, mine: Vec<Option<NetworkGradients>>) -> Option<NetworkGradients> {
        let Self { ranks, lengths, .. } = self;
        let mut mine = mine.into_iter();
        let mut pieces = NetworkGradients::new();
        for first in (0..lengths.len()).step_by(ranks.count()) {
            let gradients = mine.next().flatten().unwrap_or_default();
            let parts: Vec<Vec<f32>> = (0..ranks.count())
                .map(|to| self.pieces_of(to, &gradients))
                .collect();
            let received = ranks.exchange(&parts);
            for (index, numbers) in (first..lengths.len()).zip(received) {
                if let Some(part_lengths) = &lengths[index] {
                    let part = self.to_gradients(&numbers, part_lengths);
                    accumulate(&mut pieces, part, self.shares[index]);
                }
            }
        }
        let part_lengths = self.lengths_of_sum()?;
        let sent: Vec<f32> = pieces.iter().flatten().flat_map(Gradient::to_vec).collect();
        let mut received: Vec<std::vec::IntoIter<f32>> = ranks
            .gather(&sent)
            .into_iter()
            .map(Vec::into_iter)
            .collect();
        let whole = part_lengths.into_iter().map(|length| {
            let length = length?;
            let mut values = Vec::with_capacity(length);
            for (rank, numbers) in received.iter_mut().enumerate() {
                values.extend(numbers.take(self.piece(rank, length).len()));
            }
            Some(Gradient::on(self.device, values))
        });
        Some(whole.collect())
    }

    /// Returns which values of a parameter a rank adds up.
    fn piece(&self, rank: usize, length: usize) -> Range<usize> {
        let start = |rank: usize| length * rank / self.ranks.count();
        start(rank)..start(rank + 1)
    }

    /// Returns a rank's pieces of all gradients, one after the other.
    fn pieces_of(&self, rank: usize, gradients: &NetworkGradients) -> Vec<f32> {
        let mut numbers = Vec::new();
        for gradient in gradients.iter().flatten() {
            numbers.extend(gradient.range(self.piece(rank, gradient.len())));
        }
        numbers
    }

    /// Returns this rank's pieces of a micro-batch's gradients. A parameter with fewer values than ranks may have no piece.
    fn to_gradients(
        &self,
        mut numbers: &[f32],
        part_lengths: &GradientLengths,
    ) -> NetworkGradients {
        let mut pieces = NetworkGradients::new();
        for length in part_lengths {
            let length = length.map_or(0, |length| self.piece(self.ranks.rank(), length).len());
            let (piece, rest) = numbers.split_at(length);
            numbers = rest;
            pieces.push((length > 0).then(|| Gradient::on(self.device, piece.to_vec())));
        }
        pieces
    }

    /// Returns the number of values of each parameter of the sum; `None` if no micro-batch has a gradient.
    fn lengths_of_sum(&self) -> Option<GradientLengths> {
        let mut whole: Option<GradientLengths> = None;
        for part_lengths in self.lengths.iter().flatten() {
            let whole = whole.get_or_insert_default();
            whole.resize(part_lengths.len(), None);
            for (sum, length) in whole.iter_mut().zip(part_lengths) {
                *sum = sum.or(*length);
            }
        }
        whole
    }
}
