//! Host arrays of a batch of trajectories.
//!
//! A trajectory is one token sequence: the observation tokens of each turn, then its completion
//! tokens. All `[batch, time]` arrays share one axis of positions. The convention is: **position
//! `t` reads token `t` and predicts token `t + 1`**, its target. So `targets[t]`, `target_mask[t]`,
//! `action_mask[t]` and `turn_of_target[t]` all describe token `t + 1`, and the last token of a row
//! has no target. Rows are padded on the right. Masks come from lengths, never from the id of a
//! token. This file uses token ids only, no text.

use scenarios::{Outcome, Trajectory, Turn};

/// Why a trajectory cannot be part of a batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// There was no trajectory.
    #[error("a batch needs at least one trajectory")]
    Empty,
    /// The environment failed, so the outcome is no evidence about the policy.
    #[error(
        "game {game}, repetition {repetition}: the environment failed, so its reward means nothing"
    )]
    EnvFailed {
        /// The game of the trajectory.
        game: String,
        /// The repetition of the trajectory.
        repetition: usize,
    },
    /// The trajectory has no action to learn from.
    #[error("game {game}, repetition {repetition}: no turns")]
    NoTurns {
        /// The game of the trajectory.
        game: String,
        /// The repetition of the trajectory.
        repetition: usize,
    },
    /// No token precedes the first completion, so no position predicts or values it.
    #[error("game {game}, repetition {repetition}: the first observation has no tokens")]
    NoContext {
        /// The game of the trajectory.
        game: String,
        /// The repetition of the trajectory.
        repetition: usize,
    },
    /// The policy wrote no token in a turn, for example if the log contains text only.
    #[error("game {game}, repetition {repetition}: the completion of turn {turn} has no tokens")]
    EmptyCompletion {
        /// The game of the trajectory.
        game: String,
        /// The repetition of the trajectory.
        repetition: usize,
        /// The turn, from 0.
        turn: usize,
    },
}

/// A trajectory with what was computed about it before the training job began.
#[derive(Debug, Clone, Copy)]
pub struct Example<'a> {
    /// The trajectory.
    pub trajectory: &'a Trajectory,
    /// The advantage of each turn, if the algorithm compares episodes.
    pub advantages: Option<&'a [f64]>,
    /// ln π_ref of every token that the policy wrote, nats, if it is cached.
    pub reference_logprobs: Option<&'a [f32]>,
    /// Whether process scores are rewards.
    pub rewards: RewardSource,
}

/// Which numbers of a trajectory are rewards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewardSource {
    /// The reward of the outcome, at the last turn.
    Terminal,
    /// The reward of the outcome, plus the process scores of failed episodes.
    WithProcessScores,
}

impl<'a> From<&'a Trajectory> for Example<'a> {
    fn from(trajectory: &'a Trajectory) -> Self {
        Self {
            trajectory,
            advantages: None,
            reference_logprobs: None,
            rewards: RewardSource::Terminal,
        }
    }
}

/// A batch on the host: row-major arrays, `[batch, time]` or `[batch, turns]`.
///
/// [`Batch::to_device`] turns it into tensors.
///
/// # Example
/// ```
/// use trainer::learn::batch::Batch;
/// # use scenarios::Trajectory;
/// # use serde_json::json;
/// # fn episode(outcome: &str, turns: &[(&[u32], &[u32])]) -> Trajectory {
/// #     let turn = |(observation, completion): &(&[u32], &[u32])| json!({
/// #         "observation": "", "observation_tokens": observation, "completion": "",
/// #         "completion_tokens": completion, "logprobs": [], "action": "look",
/// #     });
/// #     let protocol = json!({
/// #         "turn_limit": 3, "context_limit": 99, "completion_limit": 9, "temperature": 1.0,
/// #         "best_of": 1, "admissible_shown": false, "history": "full",
/// #         "malformed": "wasted_turn",
/// #     });
/// #     serde_json::from_value(json!({
/// #         "format": 1, "game": "g", "game_hash": "", "split": "train", "task_type": null,
/// #         "repetition": 0, "seed": 0, "policy": "", "protocol": protocol,
/// #         "turns": turns.iter().map(turn).collect::<Vec<_>>(), "last_observation": "",
/// #         "outcome": outcome, "seconds": 0.0,
/// #     }))
/// #     .unwrap()
/// # }
///
/// // Each turn is (observation tokens, completion tokens).
/// let won = episode("success", &[(&[11, 12], &[21, 22]), (&[13], &[23])]);
/// let lost = episode("turn_limit", &[(&[14], &[24])]);
/// let batch = Batch::new(&[&won, &lost], 1).unwrap();
/// assert_eq!((batch.batch, batch.time, batch.turns), (2, 6, 2));
/// assert_eq!(batch.tokens[..6], [11, 12, 21, 22, 13, 23]);
/// assert_eq!(batch.before_positions, [1, 4, 0, 0]);
/// assert_eq!(batch.returns, [1.0, 0.0]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of trajectories.
    pub batch: usize,
    /// Number of positions: the tokens of the longest trajectory, rounded up.
    pub time: usize,
    /// The largest number of turns of one trajectory.
    pub turns: usize,
    /// Token ids, 0 in the padding, `[batch, time]`.
    pub tokens: Vec<i64>,
    /// The id of the next token, 0 if there is none, `[batch, time]`.
    pub targets: Vec<i64>,
    /// True if there is a token, `[batch, time]`.
    pub valid_mask: Vec<bool>,
    /// True if there is a target, `[batch, time]`.
    pub target_mask: Vec<bool>,
    /// True if imitation learning may learn the target: false in perturbed turns. `[batch, time]`.
    pub imitated_mask: Vec<bool>,
    /// True if the policy wrote the target, `[batch, time]`. Token-level V is read at these same
    /// positions.
    pub action_mask: Vec<bool>,
    /// The turn, from 0, whose completion contains the target; 0 outside `action_mask`.
    /// `[batch, time]`.
    pub turn_of_target: Vec<i64>,
    /// Position of the last token before each completion, at which turn-level V is read; 0 in the
    /// padding. `[batch, turns]`.
    pub before_positions: Vec<i64>,
    /// Position of the last token of each completion, at which U is read; 0 in the padding.
    /// `[batch, turns]`.
    pub after_positions: Vec<i64>,
    /// True if there is a turn, `[batch, turns]`.
    pub turn_mask: Vec<bool>,
    /// Reward of the outcome, which is R_t for every t, `[batch]`. Process scores are not in it.
    pub returns: Vec<f32>,
    /// r of each turn: the reward of the outcome at the last turn, else 0. If
    /// [`Example::rewards`] includes process scores, these are added. `[batch, turns]`.
    pub rewards: Vec<f32>,
    /// Advantages, 0 if there are none. `[batch, turns]`.
    pub advantages: Vec<f32>,
    /// ln π(target) of the policy that sampled it, nats; 0 outside `action_mask` and if the log
    /// does not contain it. `[batch, time]`.
    pub behaviour_logprobs: Vec<f32>,
    /// ln π_ref(target), nats, if every example has it; 0 outside `action_mask`. `[batch, time]`.
    pub reference_logprobs: Option<Vec<f32>>,
}

impl Batch {
    /// Packs trajectories. The number of positions is rounded up to a multiple of `time_multiple`;
    /// 1 leaves it as it is.
    ///
    /// # Errors
    /// Any [`BatchError`]. If one trajectory cannot be learned from, the whole batch is refused.
    ///
    /// # Panics
    /// If `time_multiple` is 0.
    pub fn new<'a, E: Into<Example<'a>> + Copy>(
        examples: &[E],
        time_multiple: usize,
    ) -> Result<Self, BatchError> {
        let examples: Vec<Example<'a>> = examples.iter().map(|example| (*example).into()).collect();
        let mut longest = 0;
        let mut turns = 0;
        for example in &examples {
            check(example.trajectory)?;
            longest = longest.max(example.trajectory.tokens());
            turns = turns.max(example.trajectory.turns.len());
        }
        if examples.is_empty() {
            return Err(BatchError::Empty);
        }
        let time = longest.next_multiple_of(time_multiple);
        let mut batch = Self::blank(examples.len(), time, turns);
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

    /// Returns a batch of padding only.
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

    /// Writes one trajectory into a row.
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
            if let (RewardSource::WithProcessScores, Some(score)) =
                (example.rewards, turn.process_score)
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

    /// Appends a token to the row that begins at `start`.
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

/// Mean numbers of actions of the trajectories of a whole batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanLengths {
    /// Turns per trajectory.
    pub turns: f64,
    /// Written tokens per trajectory.
    pub tokens: f64,
}

impl MeanLengths {
    /// Returns the means over all trajectories of the micro-batches of a batch.
    #[must_use]
    pub fn of(micro_batches: &[Batch]) -> Self {
        let mut counts = [0_usize; 3];
        for batch in micro_batches {
            counts[0] += batch.batch;
            counts[1] += batch.turn_mask.iter().filter(|turn| **turn).count();
            counts[2] += batch.action_mask.iter().filter(|token| **token).count();
        }
        let [trajectories, turns, tokens] = counts.map(|count| count as f64);
        Self {
            turns: turns / trajectories,
            tokens: tokens / trajectories,
        }
    }
}

/// Returns ln π of each completion token under the distribution that it was sampled from, nats. If
/// the log does not contain one number a token, the result is empty.
#[must_use]
pub fn behaviour_logprobs(turn: &Turn) -> &[f32] {
    let logged = if turn.sampling_logprobs.is_empty() {
        &turn.logprobs
    } else {
        &turn.sampling_logprobs
    };
    if logged.len() == turn.completion_tokens.len() {
        logged
    } else {
        &[]
    }
}

/// Returns an error if the trajectory cannot be learned from.
fn check(trajectory: &Trajectory) -> Result<(), BatchError> {
    let game = trajectory.game.clone();
    let repetition = trajectory.repetition;
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

/// Converts a position to the type of tensor data.
pub(super) fn position(index: usize) -> i64 {
    i64::try_from(index).expect("a position in memory fits into i64")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int, Tensor};
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

    /// Episodes of 2 turns and 3 tokens, and of 1 turn and 1 token: 3/2 turns and 2 tokens, however
    /// they are split.
    #[test]
    fn mean_lengths_do_not_depend_on_the_split() {
        let won = trajectory("success", &[(&[11, 12], &[21, 22]), (&[13], &[23])]);
        let lost = trajectory("turn_limit", &[(&[14], &[24])]);
        let expected = MeanLengths {
            turns: 1.5,
            tokens: 2.0,
        };
        let whole = [Batch::new(&[&won, &lost], 8).unwrap()];
        let parts = [&won, &lost].map(|one| Batch::new(&[one], 1).unwrap());
        assert_eq!(MeanLengths::of(&whole), expected);
        assert_eq!(MeanLengths::of(&parts), expected);
    }

    /// Ids 1x came from the environment, 2x and 0 from the policy. Id 0 is a token like any other;
    /// the padding contains it too.
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
    fn a_three_turn_trajectory_has_the_expected_layout() {
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

    /// If turn 1 is perturbed, its three targets are context only, and nothing else changes.
    #[test]
    #[rustfmt::skip]
    fn perturbed_turns_are_not_imitated() {
        let mut perturbed = three_turns();
        perturbed.turns[1].perturbed = true;
        let batch = Batch::new(&[&perturbed], 1).unwrap();
        let plain = Batch::new(&[&three_turns()], 1).unwrap();
        //           t =              0   1   2   3   4   5   6   7   8   9  10  11
        assert_eq!(batch.imitated_mask,
                           bits(&[   1,  1,  1,  1,  1,  0,  0,  0,  1,  1,  1,  0]));
        assert_eq!(plain.imitated_mask, plain.target_mask);
        assert_eq!(Batch { imitated_mask: plain.target_mask.clone(), ..batch.clone() }, plain);
        let written = batch.to_device(&Device::flex(), 1).written;
        assert_eq!(written.imitated_mask.into_data().iter::<bool>().collect::<Vec<_>>(), bits(&[1, 1, 0, 0, 0, 1]));
        assert_eq!(written.mask.into_data().iter::<bool>().collect::<Vec<_>>(), bits(&[1; 6]));
    }

    /// Twelve tokens rounded up to a multiple of 8 give 16 positions. If the last four columns are
    /// ignored, nothing differs.
    #[test]
    fn padding_is_invisible() {
        let trajectory = three_turns();
        let plain = Batch::new(&[&trajectory], 1).unwrap();
        let padded = Batch::new(&[&trajectory], 8).unwrap();
        assert_eq!(padded.time, 16);
        assert_eq!(padded.tokens[..12], plain.tokens);
        assert_eq!(padded.action_mask[..12], plain.action_mask);
        assert_eq!(padded.valid_mask[12..], [false; 4]);
        assert_eq!(padded.target_mask[11..], [false; 5]);
        assert_eq!(padded.before_positions, plain.before_positions);
        assert_eq!(padded.after_positions, plain.after_positions);
    }

    /// The written tokens moved to the left: six and two tokens of two rows, and one column of
    /// padding.
    #[test]
    #[rustfmt::skip]
    fn written_tokens_are_packed_to_the_left() {
        let first = three_turns();
        let second = one_turn();
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

    /// Advantages are at their turns. If a turn has sampling log-probabilities, they take
    /// precedence over the untempered ones.
    #[test]
    fn advantages_and_behaviour_logprobs_are_at_their_positions() {
        let mut trajectory = three_turns();
        trajectory.turns[0].logprobs = vec![-0.5, -0.25];
        trajectory.turns[1].logprobs = vec![-9.0; 3];
        trajectory.turns[1].sampling_logprobs = vec![-1.0, -2.0, -3.0];
        trajectory.turns[2].logprobs = vec![-7.0; 2]; // not one a token: ignored
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
    fn invalid_trajectories_are_refused() {
        let message = |trajectory: &Trajectory| {
            Batch::new(&[&three_turns(), trajectory], 1)
                .unwrap_err()
                .to_string()
        };
        let prefix = "game g, repetition 2: ";
        assert_eq!(
            message(&trajectory("env_failed", &[(&[1], &[2])])),
            format!("{prefix}the environment failed, so its reward means nothing")
        );
        assert_eq!(
            message(&trajectory("failure", &[])),
            format!("{prefix}no turns")
        );
        assert_eq!(
            message(&trajectory("failure", &[(&[], &[2])])),
            format!("{prefix}the first observation has no tokens")
        );
        assert_eq!(
            message(&trajectory("failure", &[(&[1], &[2]), (&[3], &[])])),
            format!("{prefix}the completion of turn 1 has no tokens")
        );
        assert_eq!(
            Batch::new::<&Trajectory>(&[], 1).unwrap_err().to_string(),
            "a batch needs at least one trajectory"
        );
    }
}
