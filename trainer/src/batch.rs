//! From trajectories to a batch: plain arrays first, then the same arrays as tensors on a device.
//!
//! A trajectory is one sequence: each turn's observation tokens, then its completion tokens. All `[batch, time]`
//! arrays share one axis of positions, and the convention is: **position `t` reads token `t` and foretells token
//! `t + 1`**, its target. So `targets[t]`, `target_mask[t]`, `action_mask[t]` and `turn_of_target[t]` all speak of
//! token `t + 1`, and a row's last token has no target. Rows are padded on the right; masks come from lengths, never
//! from a token's id. This file knows nothing of text, only token ids.

use crate::loss::oreo::{OreoInputs, turn_sums};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, assert_shape};
use scenarios::{Outcome, Trajectory};

/// Why trajectories cannot be learned from.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// There was no trajectory.
    #[error("a batch needs at least one trajectory")]
    Empty,
    /// The world failed, so the outcome says nothing about the policy.
    #[error("game {game}, repetition {repetition}: the world failed, its reward means nothing")]
    EnvFailed {
        /// The trajectory's game.
        game: String,
        /// The trajectory's repetition.
        repetition: usize,
    },
    /// There is no action to learn from.
    #[error("game {game}, repetition {repetition}: no turns")]
    NoTurns {
        /// The trajectory's game.
        game: String,
        /// The trajectory's repetition.
        repetition: usize,
    },
    /// The first completion has no token before it, where it would be foretold and valued.
    #[error("game {game}, repetition {repetition}: the first observation has no tokens")]
    NoContext {
        /// The trajectory's game.
        game: String,
        /// The trajectory's repetition.
        repetition: usize,
    },
    /// A turn in which the policy wrote nothing, as when the player reads text instead of tokens.
    #[error("game {game}, repetition {repetition}: the completion of turn {turn} has no tokens")]
    EmptyCompletion {
        /// The trajectory's game.
        game: String,
        /// The trajectory's repetition.
        repetition: usize,
        /// The turn, from 0.
        turn: usize,
    },
}

/// A batch on the host: row-major arrays, `[batch, time]` or `[batch, turns]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Trajectories.
    pub batch: usize,
    /// Positions: the longest trajectory's tokens, rounded up.
    pub time: usize,
    /// The most turns in one trajectory.
    pub turns: usize,
    /// Token ids, 0 in the padding, `[batch, time]`.
    pub tokens: Vec<i64>,
    /// The next token's id, 0 where there is none, `[batch, time]`.
    pub targets: Vec<i64>,
    /// True where there is a token, `[batch, time]`.
    pub valid_mask: Vec<bool>,
    /// True where there is a target, `[batch, time]`.
    pub target_mask: Vec<bool>,
    /// True where the policy wrote the target, `[batch, time]`. Token-level V is read at these same positions.
    pub action_mask: Vec<bool>,
    /// The turn, from 0, whose completion the target belongs to; 0 outside `action_mask`. `[batch, time]`.
    pub turn_of_target: Vec<i64>,
    /// Position of the last token before each turn's completion, where turn-level V is read; 0 in the padding.
    /// `[batch, turns]`.
    pub before_positions: Vec<i64>,
    /// Position of each completion's last token, where U is read; 0 in the padding. `[batch, turns]`.
    pub after_positions: Vec<i64>,
    /// True where there is a turn, `[batch, turns]`.
    pub turn_mask: Vec<bool>,
    /// Terminal reward, which is R_t of every t, `[batch]`.
    pub returns: Vec<f32>,
}

impl Batch {
    /// Lays `trajectories` out, the number of positions rounded up to a multiple of `time_multiple` (1 = as it is).
    ///
    /// # Errors
    /// Any [`BatchError`]: a trajectory that cannot be learned from is refused, never skipped.
    ///
    /// # Panics
    /// When `time_multiple` is 0.
    pub fn new(trajectories: &[&Trajectory], time_multiple: usize) -> Result<Self, BatchError> {
        for trajectory in trajectories {
            check(trajectory)?;
        }
        let longest = trajectories.iter().map(|trajectory| trajectory.tokens()).max().ok_or(BatchError::Empty)?;
        let turns = trajectories.iter().map(|trajectory| trajectory.turns.len()).max().ok_or(BatchError::Empty)?;
        let mut batch = Self::blank(trajectories.len(), longest.next_multiple_of(time_multiple), turns);
        for (row, trajectory) in trajectories.iter().enumerate() {
            batch.write(row, trajectory);
        }
        Ok(batch)
    }

    /// The same arrays as tensors.
    #[must_use]
    pub fn to_device(&self, device: &Device) -> BatchTensors {
        let by_time = [self.batch, self.time];
        let by_turn = [self.batch, self.turns];
        let ints = |values: &[i64], shape| Tensor::from_data(TensorData::new(values.to_vec(), shape), device);
        let bools = |values: &[bool], shape| Tensor::from_data(TensorData::new(values.to_vec(), shape), device);
        BatchTensors {
            tokens: ints(&self.tokens, by_time),
            targets: ints(&self.targets, by_time),
            valid_mask: bools(&self.valid_mask, by_time),
            target_mask: bools(&self.target_mask, by_time),
            action_mask: bools(&self.action_mask, by_time),
            turn_of_target: ints(&self.turn_of_target, by_time),
            before_positions: ints(&self.before_positions, by_turn),
            after_positions: ints(&self.after_positions, by_turn),
            turn_mask: bools(&self.turn_mask, by_turn),
            returns: Tensor::from_data(TensorData::new(self.returns.clone(), [self.batch, 1]), device),
        }
    }

    fn blank(batch: usize, time: usize, turns: usize) -> Self {
        Self {
            batch,
            time,
            turns,
            tokens: vec![0; batch * time],
            targets: vec![0; batch * time],
            valid_mask: vec![false; batch * time],
            target_mask: vec![false; batch * time],
            action_mask: vec![false; batch * time],
            turn_of_target: vec![0; batch * time],
            before_positions: vec![0; batch * turns],
            after_positions: vec![0; batch * turns],
            turn_mask: vec![false; batch * turns],
            returns: vec![0.0; batch],
        }
    }

    fn write(&mut self, row: usize, trajectory: &Trajectory) {
        let start = row * self.time;
        let mut length = 0; // tokens of this row so far
        for (k, turn) in trajectory.turns.iter().enumerate() {
            for &token in &turn.observation_tokens {
                self.push(start, &mut length, token);
            }
            let slot = row * self.turns + k;
            self.turn_mask[slot] = true;
            self.before_positions[slot] = position(length - 1);
            for &token in &turn.completion_tokens {
                self.action_mask[start + length - 1] = true;
                self.turn_of_target[start + length - 1] = position(k);
                self.push(start, &mut length, token);
            }
            self.after_positions[slot] = position(length - 1);
        }
        #[expect(clippy::cast_possible_truncation, reason = "rewards are 0 and 1")]
        let reward = trajectory.reward() as f32;
        self.returns[row] = reward;
    }

    fn push(&mut self, start: usize, length: &mut usize, token: u32) {
        let here = start + *length;
        self.tokens[here] = i64::from(token);
        self.valid_mask[here] = true;
        if *length > 0 {
            self.targets[here - 1] = i64::from(token);
            self.target_mask[here - 1] = true;
        }
        *length += 1;
    }
}

/// A [`Batch`] as tensors; every field means what its namesake means.
#[derive(Debug, Clone)]
pub struct BatchTensors {
    /// `[batch, time]`.
    pub tokens: Tensor<2, Int>,
    /// `[batch, time]`.
    pub targets: Tensor<2, Int>,
    /// `[batch, time]`.
    pub valid_mask: Tensor<2, Bool>,
    /// `[batch, time]`.
    pub target_mask: Tensor<2, Bool>,
    /// `[batch, time]`.
    pub action_mask: Tensor<2, Bool>,
    /// `[batch, time]`.
    pub turn_of_target: Tensor<2, Int>,
    /// `[batch, turns]`.
    pub before_positions: Tensor<2, Int>,
    /// `[batch, turns]`.
    pub after_positions: Tensor<2, Int>,
    /// `[batch, turns]`.
    pub turn_mask: Tensor<2, Bool>,
    /// `[batch, 1]`.
    pub returns: Tensor<2>,
}

impl BatchTensors {
    /// The token-level view: every token the policy wrote is an action.
    ///
    /// # Shapes
    /// `log_ratios` of the targets and `values` at every position, both `[batch, time]`.
    #[must_use]
    pub fn token_level(&self, log_ratios: Tensor<2>, values: Tensor<2>) -> OreoInputs {
        let [batch, time] = self.tokens.dims();
        assert_shape!(log_ratios, [batch, time]);
        assert_shape!(values, [batch, time]);
        let returns = self.returns.clone().cast(values.dtype());
        OreoInputs { log_ratios, values, returns, action_mask: self.action_mask.clone() }
    }

    /// The turn-level view: every completion is one action, valued at the last position before it.
    ///
    /// # Shapes
    /// `log_ratios` of the targets and `values` at every position, both `[batch, time]`.
    #[must_use]
    pub fn turn_level(&self, log_ratios: Tensor<2>, values: Tensor<2>) -> OreoInputs {
        let [batch, time] = self.tokens.dims();
        assert_shape!(log_ratios, [batch, time]);
        let [_, turns] = self.turn_mask.dims();
        OreoInputs {
            log_ratios: turn_sums(log_ratios, self.turn_of_target.clone(), &self.action_mask, turns),
            returns: self.returns.clone().cast(values.dtype()),
            values: self.at_positions(values, &self.before_positions),
            action_mask: self.turn_mask.clone(),
        }
    }

    /// U(s_t, a_t) of every turn, for `after_value_loss`.
    ///
    /// # Shapes
    /// `after_values` at every position `[batch, time]`; the answer `[batch, turns]`.
    #[must_use]
    pub fn turn_after_values(&self, after_values: Tensor<2>) -> Tensor<2> {
        self.at_positions(after_values, &self.after_positions)
    }

    fn at_positions(&self, values: Tensor<2>, positions: &Tensor<2, Int>) -> Tensor<2> {
        let [batch, time] = self.tokens.dims();
        assert_shape!(values, [batch, time]);
        values.gather(1, positions.clone())
    }
}

fn check(trajectory: &Trajectory) -> Result<(), BatchError> {
    let (game, repetition) = (trajectory.game.clone(), trajectory.repetition);
    if trajectory.outcome == Outcome::EnvFailed {
        return Err(BatchError::EnvFailed { game, repetition });
    }
    let Some(first) = trajectory.turns.first() else {
        return Err(BatchError::NoTurns { game, repetition });
    };
    if first.observation_tokens.is_empty() {
        return Err(BatchError::NoContext { game, repetition });
    }
    match trajectory.turns.iter().position(|turn| turn.completion_tokens.is_empty()) {
        Some(turn) => Err(BatchError::EmptyCompletion { game, repetition, turn }),
        None => Ok(()),
    }
}

fn position(index: usize) -> i64 {
    i64::try_from(index).expect("a position in memory fits into i64")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use serde_json::json;

    fn trajectory(outcome: &str, turns: &[(&[u32], &[u32])]) -> Trajectory {
        let turns: Vec<_> = turns
            .iter()
            .map(|(observation, completion)| {
                json!({
                    "observation": "", "observation_tokens": observation, "completion": "",
                    "completion_tokens": completion, "logprobs": [], "action": "look",
                })
            })
            .collect();
        let protocol = json!({
            "turn_limit": 3, "context_limit": 99, "completion_limit": 9, "temperature": 1.0, "best_of": 1,
            "admissible_shown": false, "history": "full", "malformed": "wasted_turn",
        });
        serde_json::from_value(json!({
            "format": 1, "game": "g", "game_hash": "", "split": "train", "task_type": null, "repetition": 2,
            "seed": 0, "policy": "", "protocol": protocol, "turns": turns, "last_observation": "",
            "outcome": outcome, "seconds": 0.0,
        }))
        .unwrap()
    }

    /// Ids 1x came from the world, 2x and 0 from the policy: 0 is a token like any other, and it is what padding
    /// holds too.
    fn three_turns() -> Trajectory {
        trajectory("success", &[(&[11, 12, 13], &[21, 22]), (&[14], &[23, 0, 24]), (&[15, 16], &[25])])
    }

    fn one_turn() -> Trajectory {
        trajectory("turn_limit", &[(&[17], &[26, 27])])
    }

    fn bits(picture: &[i64]) -> Vec<bool> {
        picture.iter().map(|&bit| bit == 1).collect()
    }

    #[test]
    #[rustfmt::skip]
    fn the_picture_of_a_three_turn_trajectory() {
        let batch = Batch::new(&[&three_turns(), &one_turn()], 1).unwrap();
        assert_eq!((batch.batch, batch.time, batch.turns), (2, 12, 3));
        //           t =              0   1   2   3   4   5   6   7   8   9  10  11
        assert_eq!(batch.tokens,  [  11, 12, 13, 21, 22, 14, 23,  0, 24, 15, 16, 25,
                                     17, 26, 27,  0,  0,  0,  0,  0,  0,  0,  0,  0]);
        assert_eq!(batch.targets, [  12, 13, 21, 22, 14, 23,  0, 24, 15, 16, 25,  0,
                                     26, 27,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]);
        assert_eq!(batch.valid_mask,
                           bits(&[   1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
                                     1,  1,  1,  0,  0,  0,  0,  0,  0,  0,  0,  0]));
        assert_eq!(batch.target_mask,
                           bits(&[   1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  0,
                                     1,  1,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]));
        assert_eq!(batch.action_mask,
                           bits(&[   0,  0,  1,  1,  0,  1,  1,  1,  0,  0,  1,  0,
                                     1,  1,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]));
        assert_eq!(batch.turn_of_target,
                                 [   0,  0,  0,  0,  0,  1,  1,  1,  0,  0,  2,  0,
                                     0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]);
        //           turn =          0   1   2
        assert_eq!(batch.before_positions, [2, 5, 10,   0, 0, 0]);
        assert_eq!(batch.after_positions,  [4, 8, 11,   2, 0, 0]);
        assert_eq!(batch.turn_mask, bits(&[1, 1, 1,     1, 0, 0]));
        assert_eq!(batch.returns, [1.0, 0.0]);
    }

    /// Twelve tokens rounded up to a multiple of 8 make 16 positions; without the last four columns nothing differs.
    #[test]
    fn padding_is_invisible() {
        let (trajectory, wide) = (three_turns(), 16);
        let plain = Batch::new(&[&trajectory], 1).unwrap();
        let padded = Batch::new(&[&trajectory], 8).unwrap();
        assert_eq!(padded.time, wide);
        assert_eq!(padded.tokens[..12], plain.tokens);
        assert_eq!(padded.action_mask[..12], plain.action_mask);
        assert_eq!(padded.valid_mask[12..], [false; 4]);
        assert_eq!(padded.target_mask[11..], [false; 5]);
        assert_eq!(padded.before_positions, plain.before_positions);
        assert_eq!(padded.after_positions, plain.after_positions);
    }

    /// V = position, l = 1 a token: turn-level reads V at 2, 5, 10 and U at 4, 8, 11, and sums 2, 3 and 1 tokens.
    #[test]
    fn the_two_levels_read_the_right_places() {
        let batch = Batch::new(&[&three_turns()], 1).unwrap().to_device(&Device::flex());
        let positions: Tensor<2> = Tensor::<1, Int>::arange(0..12, &Device::flex()).float().unsqueeze();
        let turns = batch.turn_level(positions.ones_like(), positions.clone());
        let numbers = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(numbers(turns.values), [2.0, 5.0, 10.0]);
        assert_eq!(numbers(turns.log_ratios), [2.0, 3.0, 1.0]);
        assert_eq!(numbers(turns.returns), [1.0]);
        assert_eq!(numbers(batch.turn_after_values(positions.clone())), [4.0, 8.0, 11.0]);
        let tokens = batch.token_level(positions.ones_like(), positions.clone());
        assert_eq!(numbers(tokens.values), numbers(positions));
    }

    #[test]
    fn what_cannot_be_learned_from_is_refused() {
        let said = |trajectory: &Trajectory| Batch::new(&[&three_turns(), trajectory], 1).unwrap_err().to_string();
        let place = "game g, repetition 2: ";
        assert_eq!(
            said(&trajectory("env_failed", &[(&[1], &[2])])),
            format!("{place}the world failed, its reward means nothing")
        );
        assert_eq!(said(&trajectory("failure", &[])), format!("{place}no turns"));
        assert_eq!(said(&trajectory("failure", &[(&[], &[2])])), format!("{place}the first observation has no tokens"));
        assert_eq!(
            said(&trajectory("failure", &[(&[1], &[2]), (&[3], &[])])),
            format!("{place}the completion of turn 1 has no tokens")
        );
        assert_eq!(Batch::new(&[], 1).unwrap_err().to_string(), "a batch needs at least one trajectory");
    }
}
