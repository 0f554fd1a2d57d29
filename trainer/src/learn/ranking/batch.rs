//! Branch states as micro-batches: a row for each candidate, and where each state's rows are.

use super::state::RankedState;
use crate::error::TrainerError;
use crate::learn::data::batch::{Batch, Example};
use crate::learn::data::tensors::BatchTensors;
use crate::learn::micro_batch::{MicroBatchShape, PackedBatch, pack};
use crate::learn::transfer::counted;
use crate::loss::ranking::RankingInputs;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// A micro-batch of whole states.
pub(crate) struct RankingBatch {
    /// One row for each candidate. Its only turn is the candidate, after the prefix of its state.
    pub(crate) batch: Batch,
    /// Number of states.
    pub(crate) states: usize,
    /// The largest number of candidates of one state.
    candidates: usize,
    /// The row of each candidate, 0 in the padding, `[states, candidates]`.
    rows: Vec<i64>,
    /// The mean return of each candidate, reward units, `[states, candidates]`.
    labels: Vec<f32>,
    /// True if there is a candidate, `[states, candidates]`.
    mask: Vec<bool>,
}

/// The tensors of a [`RankingBatch`].
pub(crate) struct RankingTensors {
    /// One row for each candidate.
    pub(crate) rows: BatchTensors,
    shape: [usize; 2],
    row_of_candidate: Tensor<1, Int>,
    labels: Tensor<2>,
    mask: Tensor<2, Bool>,
}

/// Packs states. The candidates of a state are never split between micro-batches.
///
/// # Errors
/// If a candidate cannot be learned from.
pub(crate) fn pack_states(
    states: &[&RankedState<'_>],
    shape: MicroBatchShape,
) -> Result<Vec<RankingBatch>, TrainerError> {
    let rows: Vec<_> = states.iter().map(|state| state.rows()).collect();
    let groups: Vec<Vec<Example<'_>>> = rows
        .iter()
        .map(|rows| rows.iter().map(Example::from).collect())
        .collect();
    let PackedBatch {
        micro_batches,
        order,
    } = pack(&groups, shape)?;
    let mut order = order.into_iter();
    let mut batches = Vec::new();
    for batch in micro_batches {
        let mut members = Vec::new();
        let mut rows = 0;
        while rows < batch.batch {
            let index = order.next().expect("every row belongs to a state");
            rows += groups[index].len();
            members.push(states[index]);
        }
        batches.push(RankingBatch::new(batch, &members));
    }
    Ok(batches)
}

impl RankingBatch {
    /// The rows of `batch` are the candidates of the states, in order.
    fn new(batch: Batch, states: &[&RankedState<'_>]) -> Self {
        let widths = states.iter().map(|state| state.labels.len());
        let candidates = widths.max().unwrap_or(0);
        let size = states.len() * candidates;
        let mut whole = Self {
            batch,
            states: states.len(),
            candidates,
            rows: vec![0; size],
            labels: vec![0.0; size],
            mask: vec![false; size],
        };
        let mut row = 0;
        for (state, of_state) in states.iter().enumerate() {
            for (candidate, label) in of_state.labels.iter().enumerate() {
                let slot = state * candidates + candidate;
                whole.rows[slot] = row;
                #[expect(clippy::cast_possible_truncation, reason = "a reward needs few digits")]
                let label = *label as f32;
                whole.labels[slot] = label;
                whole.mask[slot] = true;
                row += 1;
            }
        }
        whole
    }

    /// Copies the batch to a device; see [`Batch::to_device`].
    pub(crate) fn to_device(&self, device: &Device, written_multiple: usize) -> RankingTensors {
        let shape = [self.states, self.candidates];
        let flat = [self.rows.len()];
        RankingTensors {
            rows: self.batch.to_device(device, written_multiple),
            shape,
            row_of_candidate: Tensor::from_data(
                counted(TensorData::new(self.rows.clone(), flat)),
                device,
            ),
            labels: Tensor::from_data(counted(TensorData::new(self.labels.clone(), shape)), device),
            mask: Tensor::from_data(counted(TensorData::new(self.mask.clone(), shape)), device),
        }
    }
}

impl RankingTensors {
    /// Returns the inputs of a loss of numbers that each row has one of, `[rows]`.
    pub(crate) fn inputs(&self, of_rows: Tensor<1>) -> RankingInputs {
        let scores = of_rows
            .select(0, self.row_of_candidate.clone())
            .reshape(self.shape);
        RankingInputs {
            labels: self.labels.clone().cast(scores.dtype()),
            scores,
            candidate_mask: self.mask.clone(),
        }
    }
}
