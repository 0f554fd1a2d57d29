//! A [`Batch`] as tensors on a device.

use super::batch::{Batch, position};
use crate::learn::transfer::counted;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// The inputs of networks and losses. If [`Batch`] has a field of the same name, it means the same.
#[derive(Debug, Clone)]
pub struct BatchTensors {
    /// `[batch, time]`.
    pub tokens: Tensor<2, Int>,
    /// `[batch, time]`.
    pub targets: Tensor<2, Int>,
    /// `[batch, time]`.
    pub imitated_mask: Tensor<2, Bool>,
    /// True if there is a target that the policy did not write, `[batch, time]`.
    pub observation_mask: Tensor<2, Bool>,
    /// `[batch, turns]`.
    pub before_positions: Tensor<2, Int>,
    /// `[batch, turns]`.
    pub after_positions: Tensor<2, Int>,
    /// `[batch, turns]`.
    pub turn_mask: Tensor<2, Bool>,
    /// `[batch, 1]`.
    pub returns: Tensor<2>,
    /// `[batch, turns]`.
    pub rewards: Tensor<2>,
    /// `[batch, turns]`.
    pub advantages: Tensor<2>,
    /// The tokens that the policy wrote.
    pub written: WrittenTokens,
}

/// The tokens that the policy wrote, moved to the left of each row, `[batch, written]`.
#[derive(Debug, Clone)]
pub struct WrittenTokens {
    /// The position that predicts the token, in `[0, time)`; 0 in the padding.
    pub positions: Tensor<2, Int>,
    /// The same position in the flattened batch, `[batch · written]`.
    pub rows: Tensor<1, Int>,
    /// The token ids.
    pub targets: Tensor<2, Int>,
    /// The turn of each token.
    pub turns: Tensor<2, Int>,
    /// The reward of a turn, at its last token.
    pub rewards: Tensor<2>,
    /// ln π of the policy that sampled the tokens, nats.
    pub behaviour_logprobs: Tensor<2>,
    /// ln π_ref, nats, if it is cached.
    pub reference_logprobs: Option<Tensor<2>>,
    /// False in the padding.
    pub mask: Tensor<2, Bool>,
    /// False in the padding and in perturbed turns.
    pub imitated_mask: Tensor<2, Bool>,
}

impl WrittenTokens {
    /// Selects the hidden states at the positions that predict written tokens.
    ///
    /// # Shapes
    /// `hidden` `[batch, time, width]`; the result `[batch · written, width]`.
    #[must_use]
    pub fn select(&self, hidden: Tensor<3>) -> Tensor<2> {
        let [batch, time, width] = hidden.dims();
        hidden
            .reshape([batch * time, width])
            .select(0, self.rows.clone())
    }

    /// Picks the entries of the written tokens out of a table over the whole vocabulary.
    ///
    /// # Shapes
    /// `logprobs` `[batch, written, vocab]`; the result `[batch, written]`.
    #[must_use]
    pub fn of_targets(&self, logprobs: Tensor<3>) -> Tensor<2> {
        logprobs
            .gather(2, self.targets.clone().unsqueeze_dim(2))
            .squeeze_dim(2)
    }
}

impl Batch {
    /// Copies the batch to a device. The number of written positions is rounded up to a multiple of
    /// `written_multiple`.
    ///
    /// # Panics
    /// If `written_multiple` is 0.
    #[must_use]
    pub fn to_device(&self, device: &Device, written_multiple: usize) -> BatchTensors {
        let by_time = [self.batch, self.time];
        let by_turn = [self.batch, self.turns];
        BatchTensors {
            tokens: ints(self.tokens.clone(), by_time, device),
            targets: ints(self.targets.clone(), by_time, device),
            imitated_mask: bools(self.imitated_mask.clone(), by_time, device),
            observation_mask: bools(self.observation_mask(), by_time, device),
            before_positions: ints(self.before_positions.clone(), by_turn, device),
            after_positions: ints(self.after_positions.clone(), by_turn, device),
            turn_mask: bools(self.turn_mask.clone(), by_turn, device),
            returns: floats(self.returns.clone(), [self.batch, 1], device),
            rewards: floats(self.rewards.clone(), by_turn, device),
            advantages: floats(self.advantages.clone(), by_turn, device),
            written: self.written_tokens(device, written_multiple),
        }
    }

    /// Returns true if there is a target that the policy did not write, `[batch, time]`.
    fn observation_mask(&self) -> Vec<bool> {
        let pairs = self.target_mask.iter().zip(&self.action_mask);
        pairs.map(|(target, written)| *target && !written).collect()
    }

    /// Gathers the positions that predict written tokens: logits are needed nowhere else.
    fn written_tokens(&self, device: &Device, multiple: usize) -> WrittenTokens {
        let width = (0..self.batch)
            .map(|row| self.written_positions(row).count())
            .max()
            .unwrap_or(0)
            .next_multiple_of(multiple);
        let shape = [self.batch, width];
        let size = self.batch * width;
        let mut positions = vec![0_i64; size];
        let mut rows = vec![0_i64; size];
        let mut targets = vec![0_i64; size];
        let mut turns = vec![0_i64; size];
        let mut rewards = vec![0.0_f32; size];
        let mut behaviour = vec![0.0_f32; size];
        let mut reference = vec![0.0_f32; size];
        let mut mask = vec![false; size];
        let mut imitated = vec![false; size];
        for row in 0..self.batch {
            for (slot, t) in self.written_positions(row).enumerate() {
                let to = row * width + slot;
                let from = row * self.time + t;
                positions[to] = position(t);
                rows[to] = position(from);
                targets[to] = self.targets[from];
                turns[to] = self.turn_of_target[from];
                let turn = row * self.turns
                    + usize::try_from(self.turn_of_target[from]).expect("turns count from 0");
                if self.after_positions[turn] == position(t + 1) {
                    rewards[to] = self.rewards[turn];
                }
                behaviour[to] = self.behaviour_logprobs[from];
                reference[to] = self
                    .reference_logprobs
                    .as_ref()
                    .map_or(0.0, |logprobs| logprobs[from]);
                mask[to] = true;
                imitated[to] = self.imitated_mask[from];
            }
        }
        WrittenTokens {
            rows: Tensor::from_data(counted(TensorData::new(rows, [size])), device),
            positions: ints(positions, shape, device),
            targets: ints(targets, shape, device),
            turns: ints(turns, shape, device),
            rewards: floats(rewards, shape, device),
            behaviour_logprobs: floats(behaviour, shape, device),
            reference_logprobs: self
                .reference_logprobs
                .is_some()
                .then(|| floats(reference, shape, device)),
            mask: bools(mask, shape, device),
            imitated_mask: bools(imitated, shape, device),
        }
    }

    /// Returns the positions of a row whose target the policy wrote.
    fn written_positions(&self, row: usize) -> impl Iterator<Item = usize> {
        (0..self.time).filter(move |t| self.action_mask[row * self.time + t])
    }
}

fn ints(values: Vec<i64>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(counted(TensorData::new(values, shape)), device)
}

fn floats(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(counted(TensorData::new(values, shape)), device)
}

fn bools(values: Vec<bool>, shape: [usize; 2], device: &Device) -> Tensor<2, Bool> {
    Tensor::from_data(counted(TensorData::new(values, shape)), device)
}
