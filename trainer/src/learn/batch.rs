//! From trajectories to a batch: plain arrays first, then the same arrays as tensors on a device.
//!
//! A trajectory is one sequence: each turn's observation tokens, then its completion tokens. All `[batch, time]`
//! arrays share one axis of positions, and the convention is: **position `t` reads token `t` and foretells token
//! `t + 1`**, its target. So `targets[t]`, `target_mask[t]`, `action_mask[t]` and `turn_of_target[t]` all speak of
//! token `t + 1`, and a row's last token has no target. Rows are padded on the right; masks come from lengths, never
//! from a token's id. This file knows nothing of text, only token ids.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use scenarios::{Outcome, Trajectory, Turn};

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

/// A trajectory and what was found out about it before the job began.
#[derive(Debug, Clone, Copy)]
pub struct Example<'a> {
    /// What is read.
    pub trajectory: &'a Trajectory,
    /// The advantage of each turn, where the algorithm compares episodes.
    pub advantages: Option<&'a [f64]>,
    /// ln π_ref of every token that the policy wrote, nats, where it is cached.
    pub reference_logprobs: Option<&'a [f32]>,
    /// Whether process scores are rewards.
    pub rewards: Rewards,
}

/// What counts as a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewards {
    /// The outcome, at the last turn.
    Terminal,
    /// That, and the process scores of failed episodes.
    WithProcessScores,
}

impl<'a> From<&'a Trajectory> for Example<'a> {
    fn from(trajectory: &'a Trajectory) -> Self {
        Self {
            trajectory,
            advantages: None,
            reference_logprobs: None,
            rewards: Rewards::Terminal,
        }
    }
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
    /// True where an imitator may learn the target: not in turns that went perturbed. `[batch, time]`.
    pub imitated_mask: Vec<bool>,
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
    /// r of each turn: the terminal reward at a trajectory's last one, and in a failed trajectory its process scores where
    /// the example says so; else 0. `[batch, turns]`.
    pub rewards: Vec<f32>,
    /// Advantages, 0 where there are none. `[batch, turns]`.
    pub advantages: Vec<f32>,
    /// ln π(target) of the policy that sampled it, nats; 0 outside `action_mask` and where nobody told. `[batch, time]`.
    pub behaviour_logprobs: Vec<f32>,
    /// ln π_ref(target), nats, where every trajectory brought it; 0 outside `action_mask`. `[batch, time]`.
    pub reference_logprobs: Option<Vec<f32>>,
}

impl Batch {
    /// Lays trajectories out, the number of positions rounded up to a multiple of `time_multiple` (1 = as it is).
    ///
    /// # Errors
    /// Any [`BatchError`]: a trajectory that cannot be learned from is refused, never skipped.
    ///
    /// # Panics
    /// When `time_multiple` is 0.
    pub fn new<'a, E: Into<Example<'a>> + Copy>(
        examples: &[E],
        time_multiple: usize,
    ) -> Result<Self, BatchError> {
        let examples: Vec<Example<'a>> = examples.iter().map(|example| (*example).into()).collect();
        for example in &examples {
            check(example.trajectory)?;
        }
        let trajectories = || examples.iter().map(|example| example.trajectory);
        let longest = trajectories()
            .map(Trajectory::tokens)
            .max()
            .ok_or(BatchError::Empty)?;
        let turns = trajectories()
            .map(|trajectory| trajectory.turns.len())
            .max()
            .ok_or(BatchError::Empty)?;
        let mut batch = Self::blank(
            examples.len(),
            longest.next_multiple_of(time_multiple),
            turns,
        );
        if examples
            .iter()
            .all(|example| example.reference_logprobs.is_some())
        {
            batch.reference_logprobs = Some(vec![0.0; batch.tokens.len()]);
        }
        for (row, example) in examples.iter().enumerate() {
            batch.write(row, example);
        }
        Ok(batch)
    }

    /// What networks and losses read, as tensors; the number of written positions rounded up to a multiple of
    /// `written_multiple`.
    ///
    /// # Panics
    /// When `written_multiple` is 0.
    #[must_use]
    pub fn to_device(&self, device: &Device, written_multiple: usize) -> BatchTensors {
        let by_time = [self.batch, self.time];
        let by_turn = [self.batch, self.turns];
        let ints = |values: &[i64], shape| {
            Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
        };
        let bools = |values: &[bool], shape| {
            Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
        };
        let floats = |values: &[f32], shape| {
            Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
        };
        BatchTensors {
            tokens: ints(&self.tokens, by_time),
            targets: ints(&self.targets, by_time),
            imitated_mask: bools(&self.imitated_mask, by_time),
            before_positions: ints(&self.before_positions, by_turn),
            after_positions: ints(&self.after_positions, by_turn),
            turn_mask: bools(&self.turn_mask, by_turn),
            returns: floats(&self.returns, [self.batch, 1]),
            rewards: floats(&self.rewards, by_turn),
            advantages: floats(&self.advantages, by_turn),
            written: self.written(device, written_multiple),
        }
    }

    /// Only the positions before a token that the policy wrote: nobody needs other logits.
    fn written(&self, device: &Device, multiple: usize) -> Written {
        let row =
            |index: usize| (0..self.time).filter(move |t| self.action_mask[index * self.time + t]);
        let width = (0..self.batch)
            .map(|index| row(index).count())
            .max()
            .unwrap_or(0)
            .next_multiple_of(multiple);
        let (shape, size) = ([self.batch, width], self.batch * width);
        let [mut positions, mut rows, mut targets, mut turns] = [(); 4].map(|()| vec![0_i64; size]);
        let [mut rewards, mut behaviour, mut reference] = [(); 3].map(|()| vec![0.0_f32; size]);
        let [mut mask, mut imitated] = [(); 2].map(|()| vec![false; size]);
        for index in 0..self.batch {
            for (slot, t) in row(index).enumerate() {
                let (at, from) = (index * width + slot, index * self.time + t);
                positions[at] = position(t);
                rows[at] = position(from);
                targets[at] = self.targets[from];
                turns[at] = self.turn_of_target[from];
                let turn = index * self.turns
                    + usize::try_from(self.turn_of_target[from]).expect("turns count from 0");
                if self.after_positions[turn] == position(t + 1) {
                    rewards[at] = self.rewards[turn];
                }
                behaviour[at] = self.behaviour_logprobs[from];
                reference[at] = self
                    .reference_logprobs
                    .as_ref()
                    .map_or(0.0, |logprobs| logprobs[from]);
                mask[at] = true;
                imitated[at] = self.imitated_mask[from];
            }
        }
        let ints =
            |data: Vec<i64>| Tensor::<2, Int>::from_data(TensorData::new(data, shape), device);
        let floats = |data: Vec<f32>| Tensor::<2>::from_data(TensorData::new(data, shape), device);
        let bools =
            |data: Vec<bool>| Tensor::<2, Bool>::from_data(TensorData::new(data, shape), device);
        Written {
            rows: Tensor::from_data(TensorData::new(rows, [size]), device),
            positions: ints(positions),
            targets: ints(targets),
            turns: ints(turns),
            rewards: floats(rewards),
            behaviour_logprobs: floats(behaviour),
            reference_logprobs: self.reference_logprobs.is_some().then(|| floats(reference)),
            mask: bools(mask),
            imitated_mask: bools(imitated),
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
            imitated_mask: vec![false; batch * time],
            action_mask: vec![false; batch * time],
            turn_of_target: vec![0; batch * time],
            before_positions: vec![0; batch * turns],
            after_positions: vec![0; batch * turns],
            turn_mask: vec![false; batch * turns],
            returns: vec![0.0; batch],
            rewards: vec![0.0; batch * turns],
            advantages: vec![0.0; batch * turns],
            behaviour_logprobs: vec![0.0; batch * time],
            reference_logprobs: None,
        }
    }

    fn write(&mut self, row: usize, example: &Example<'_>) {
        let trajectory = example.trajectory;
        let mut cached = example.reference_logprobs.into_iter().flatten();
        let start = row * self.time;
        let mut length = 0; // tokens of this row so far
        for (k, turn) in trajectory.turns.iter().enumerate() {
            for &token in &turn.observation_tokens {
                self.push(start, &mut length, token);
            }
            let slot = row * self.turns + k;
            self.turn_mask[slot] = true;
            self.before_positions[slot] = position(length - 1);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an advantage needs few digits"
            )]
            let advantage = example
                .advantages
                .map_or(0.0, |advantages| advantages[k] as f32);
            self.advantages[slot] = advantage;
            if let (Rewards::WithProcessScores, Some(score)) = (example.rewards, turn.process_score)
            {
                #[expect(clippy::cast_possible_truncation, reason = "a reward needs few digits")]
                let score = score as f32;
                self.rewards[slot] = score;
            }
            let behaviour = behaviour_logprobs(turn);
            for (index, &token) in turn.completion_tokens.iter().enumerate() {
                let here = start + length - 1;
                self.action_mask[here] = true;
                self.turn_of_target[here] = position(k);
                self.behaviour_logprobs[here] = behaviour.get(index).copied().unwrap_or_default();
                if let (Some(all), Some(logprob)) = (&mut self.reference_logprobs, cached.next()) {
                    all[here] = *logprob;
                }
                self.push(start, &mut length, token);
                self.imitated_mask[here] &= !turn.perturbed;
            }
            self.after_positions[slot] = position(length - 1);
        }
        #[expect(clippy::cast_possible_truncation, reason = "rewards are 0 and 1")]
        let reward = trajectory.outcome.reward() as f32;
        self.returns[row] = reward;
        self.rewards[row * self.turns + trajectory.turns.len() - 1] += reward;
    }

    fn push(&mut self, start: usize, length: &mut usize, token: u32) {
        let here = start + *length;
        self.tokens[here] = i64::from(token);
        self.valid_mask[here] = true;
        if *length > 0 {
            self.targets[here - 1] = i64::from(token);
            self.target_mask[here - 1] = true;
            self.imitated_mask[here - 1] = true;
        }
        *length += 1;
    }
}

/// ln π of each completion token under the distribution that it was sampled from, nats; of none where nobody told.
#[must_use]
pub fn behaviour_logprobs(turn: &Turn) -> &[f32] {
    let told = if turn.sampling_logprobs.is_empty() {
        &turn.logprobs
    } else {
        &turn.sampling_logprobs
    };
    if told.len() == turn.completion_tokens.len() {
        told
    } else {
        &[]
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
    pub imitated_mask: Tensor<2, Bool>,
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
    /// What the policy wrote.
    pub written: Written,
}

/// The tokens that the policy wrote, moved to the left of each row, `[batch, written]`.
#[derive(Debug, Clone)]
pub struct Written {
    /// Where a written token is foretold, in `[0, time)`; 0 in the padding.
    pub positions: Tensor<2, Int>,
    /// The same in the flattened batch, `[batch · written]`.
    pub rows: Tensor<1, Int>,
    /// The written tokens.
    pub targets: Tensor<2, Int>,
    /// Their turns.
    pub turns: Tensor<2, Int>,
    /// A turn's reward, at its last token.
    pub rewards: Tensor<2>,
    /// ln π of the policy that sampled them, nats.
    pub behaviour_logprobs: Tensor<2>,
    /// ln π_ref, nats, where it is cached.
    pub reference_logprobs: Option<Tensor<2>>,
    /// False in the padding.
    pub mask: Tensor<2, Bool>,
    /// The same, without turns that went perturbed.
    pub imitated_mask: Tensor<2, Bool>,
}

impl Written {
    /// The states before the written tokens.
    ///
    /// # Shapes
    /// `hidden` `[batch, time, width]`; the answer `[batch · written, width]`.
    #[must_use]
    pub fn select(&self, hidden: Tensor<3>) -> Tensor<2> {
        let [batch, time, width] = hidden.dims();
        hidden
            .reshape([batch * time, width])
            .select(0, self.rows.clone())
    }

    /// What is said of the written tokens, out of what is said of the whole vocabulary.
    ///
    /// # Shapes
    /// `logprobs` `[batch, written, vocab]`; the answer `[batch, written]`.
    #[must_use]
    pub fn of_targets(&self, logprobs: Tensor<3>) -> Tensor<2> {
        logprobs
            .gather(2, self.targets.clone().unsqueeze_dim(2))
            .squeeze_dim(2)
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
    match trajectory
        .turns
        .iter()
        .position(|turn| turn.completion_tokens.is_empty())
    {
        Some(turn) => Err(BatchError::EmptyCompletion {
            game,
            repetition,
            turn,
        }),
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
        trajectory(
            "success",
            &[
                (&[11, 12, 13], &[21, 22]),
                (&[14], &[23, 0, 24]),
                (&[15, 16], &[25]),
            ],
        )
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

    /// Turn 1 went perturbed: its three targets are context, and nothing else changes.
    #[test]
    #[rustfmt::skip]
    fn who_went_astray_is_not_imitated() {
        let mut strayed = three_turns();
        strayed.turns[1].perturbed = true;
        let (batch, straight) = (Batch::new(&[&strayed], 1).unwrap(), Batch::new(&[&three_turns()], 1).unwrap());
        //           t =              0   1   2   3   4   5   6   7   8   9  10  11
        assert_eq!(batch.imitated_mask,
                           bits(&[   1,  1,  1,  1,  1,  0,  0,  0,  1,  1,  1,  0]));
        assert_eq!(straight.imitated_mask, straight.target_mask);
        assert_eq!(Batch { imitated_mask: straight.target_mask.clone(), ..batch.clone() }, straight);
        let written = batch.to_device(&Device::flex(), 1).written;
        assert_eq!(written.imitated_mask.into_data().iter::<bool>().collect::<Vec<_>>(), bits(&[1, 1, 0, 0, 0, 1]));
        assert_eq!(written.mask.into_data().iter::<bool>().collect::<Vec<_>>(), bits(&[1; 6]));
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

    /// The same picture moved to the left: nine written tokens of two rows, and one column of padding.
    #[test]
    #[rustfmt::skip]
    fn what_was_written_stands_together() {
        let (first, second) = (three_turns(), one_turn());
        let cached = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0];
        let example = |trajectory, tokens: usize| Example { reference_logprobs: Some(&cached[..tokens]), ..Example::from(trajectory) };
        let batch = Batch::new(&[example(&first, 6), example(&second, 2)], 1).unwrap();
        let written = batch.to_device(&Device::flex(), 7).written;
        let ints = |tensor: Tensor<2, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
        assert_eq!(ints(written.positions), [2, 3, 5, 6, 7, 10, 0,  0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(ints(written.targets),   [21, 22, 23, 0, 24, 25, 0,  26, 27, 0, 0, 0, 0, 0]);
        assert_eq!(ints(written.turns),     [0, 0, 1, 1, 1, 2, 0,  0, 0, 0, 0, 0, 0, 0]);
        let mask: Vec<bool> = written.mask.into_data().iter::<bool>().collect();
        assert_eq!(mask,            bits(&[1, 1, 1, 1, 1, 1, 0,  1, 1, 0, 0, 0, 0, 0]));
        let rows: Vec<i64> = written.rows.into_data().iter::<i64>().collect();
        assert_eq!(rows,                    [2, 3, 5, 6, 7, 10, 0,  12, 13, 0, 0, 0, 0, 0]);
        let logprobs: Vec<f32> = written.reference_logprobs.unwrap().into_data().try_to_vec().unwrap();
        assert_eq!(logprobs, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, 0.0,  -1.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    /// Advantages stand at their turns; the log-probabilities that were sampled from go before the untempered ones.
    #[test]
    fn advantages_and_behaviour_stand_where_they_belong() {
        let mut trajectory = three_turns();
        trajectory.turns[0].logprobs = vec![-0.5, -0.25];
        trajectory.turns[1].logprobs = vec![-9.0; 3];
        trajectory.turns[1].sampling_logprobs = vec![-1.0, -2.0, -3.0];
        trajectory.turns[2].logprobs = vec![-7.0; 2]; // not one a token: nobody told
        let advantages = [0.5, -1.0, 2.0];
        let example = Example {
            advantages: Some(&advantages),
            ..Example::from(&trajectory)
        };
        let batch = Batch::new(&[example, Example::from(&one_turn())], 1).unwrap();
        assert_eq!(batch.advantages, [0.5, -1.0, 2.0, 0.0, 0.0, 0.0]);
        let behaviour: Vec<f32> = (0..12)
            .filter(|t| batch.action_mask[*t])
            .map(|t| batch.behaviour_logprobs[t])
            .collect();
        assert_eq!(behaviour, [-0.5, -0.25, -1.0, -2.0, -3.0, 0.0]);
        assert_eq!(batch.reference_logprobs, None);
    }

    #[test]
    fn what_cannot_be_learned_from_is_refused() {
        let said = |trajectory: &Trajectory| {
            Batch::new(&[&three_turns(), trajectory], 1)
                .unwrap_err()
                .to_string()
        };
        let place = "game g, repetition 2: ";
        assert_eq!(
            said(&trajectory("env_failed", &[(&[1], &[2])])),
            format!("{place}the world failed, its reward means nothing")
        );
        assert_eq!(
            said(&trajectory("failure", &[])),
            format!("{place}no turns")
        );
        assert_eq!(
            said(&trajectory("failure", &[(&[], &[2])])),
            format!("{place}the first observation has no tokens")
        );
        assert_eq!(
            said(&trajectory("failure", &[(&[1], &[2]), (&[3], &[])])),
            format!("{place}the completion of turn 1 has no tokens")
        );
        assert_eq!(
            Batch::new::<&Trajectory>(&[], 1).unwrap_err().to_string(),
            "a batch needs at least one trajectory"
        );
    }
}
