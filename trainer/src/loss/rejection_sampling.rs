//! Rejection sampling: imitation of the policy's own successes.
//!
//! ```text
//! L_RS = − 1/N Σ_n log π_θ(y_n | before)     n runs over the N action tokens of successful rollouts
//! ```
//!
//! This is a baseline of OREO (arXiv 2412.16145, section 4.1). If there are several rollouts a
//! task, it is rejection sampling fine-tuning: Scaling Relationship on Learning Mathematical
//! Reasoning with Large Language Models, arXiv 2308.01825. The loss is [`sft_loss`] on the
//! trajectories that [`is_imitated`] keeps; this file has only that rule.
//!
//! Differs from the paper:
//! - 2308.01825 keeps distinct correct reasonings only. Here every success counts; if one occurs
//!   twice, it counts twice.

pub use super::sft::sft_loss;

use super::mean_per_trajectory;
use burn::tensor::{Bool, Tensor, assert_shape};

/// Return R_0 from which a trajectory counts as won.
const WON: f64 = 1.0;

/// Returns whether a trajectory of this return R_0 is imitated: only if it was won, so that the
/// return is 1.
///
/// If a return is below 1, for example from process scores of a failure, or is NaN, it is no
/// success.
#[must_use]
pub fn is_imitated(return_: f64) -> bool {
    return_ >= WON
}

/// Returns the imitation of won trajectories as a term beside another loss, nats: the mean over a
/// trajectory's tokens, then over the batch, where a lost trajectory counts as 0. The term is additive over
/// trajectories, which [`sft_loss`] is not. RPO (arXiv 2404.19733) has it beside DPO.
///
/// # Shapes
/// `logprobs` `[batch, time]` of the target tokens, nats; `action_mask` `[batch, time]`; `returns`
/// `[batch, 1]`; the result `[1]`.
#[must_use]
pub fn won_loss(
    logprobs: Tensor<2>,
    action_mask: &Tensor<2, Bool>,
    returns: &Tensor<2>,
) -> Tensor<1> {
    let [batch, time] = logprobs.dims();
    assert_shape!(returns, [batch, 1]);
    let won = returns
        .clone()
        .greater_equal_elem(WON)
        .expand([batch, time]);
    mean_per_trajectory(-logprobs, &action_mask.clone().bool_and(won))
}

#[cfg(test)]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, tensor};
    use super::*;

    /// Log-probabilities of three rollouts. The first and the last are won; NaN if there is no
    /// action.
    fn rollouts() -> (Tensor<2>, Tensor<2, Bool>) {
        let logprobs = tensor(&[-0.5, -1.0, -9.0, -8.0, -3.0, f64::NAN], [3, 2]).require_grad();
        (
            logprobs,
            mask(&[true, true, true, true, true, false], [3, 2]),
        )
    }

    /// Returns the mask of the rollouts that the rule keeps.
    fn kept(action_mask: Tensor<2, Bool>) -> Tensor<2, Bool> {
        let won = [1.0, 0.0, 1.0].map(is_imitated);
        action_mask.bool_and(mask(&won, [3, 1]).expand([3, 2]))
    }

    #[test]
    fn only_successes_are_imitated() {
        assert_eq!(
            [1.0, 0.0, 0.4, -1.0, f64::NAN].map(is_imitated),
            [true, false, false, false, false]
        );
    }

    /// Per trajectory (0.5 + 1)/2, 0 for the failure, and 3: 3.75/3. The failure has no gradient.
    #[test]
    fn won_trajectories_by_hand() {
        let (logprobs, action_mask) = rollouts();
        let loss = won_loss(
            logprobs.clone(),
            &action_mask,
            &tensor(&[1.0, 0.4, 1.0], [3, 1]),
        );
        assert_close(&[number(loss.clone())], &[1.25]);
        let sixth = 1.0 / 6.0;
        assert_close(
            &gradient(&loss, &logprobs),
            &[-sixth, -sixth, 0.0, 0.0, -2.0 * sixth, 0.0],
        );
    }

    /// (0.5 + 1 + 3)/3 = 1.5; the 9 and 8 of the failure do not count.
    #[test]
    fn successes_by_hand() {
        let (logprobs, action_mask) = rollouts();
        assert_close(&[number(sft_loss(logprobs, &kept(action_mask)))], &[1.5]);
    }

    /// Recorded from tests/oracle/losses.py, "rejection sampling": three rollouts of three, two and
    /// two tokens.
    #[test]
    fn successes_against_the_oracle() {
        let nan = f64::NAN;
        let logprobs = tensor(
            &[-0.4, -1.1, -0.3, -2.0, -0.7, nan, -0.9, -1.6, nan],
            [3, 3],
        )
        .require_grad();
        let action_mask = mask(
            &[true, true, true, false, false, false, true, true, false],
            [3, 3],
        );
        let loss = sft_loss(logprobs.clone(), &action_mask);
        assert_close(&[number(loss.clone())], &[0.86]);
        let got = gradient(&loss, &logprobs);
        assert_close(&got, &[-0.2, -0.2, -0.2, 0.0, 0.0, 0.0, -0.2, -0.2, 0.0]);
    }

    /// −1/3 for each token of a success, exactly 0 for failures and padding.
    #[test]
    fn failures_get_exactly_no_gradient() {
        let (logprobs, action_mask) = rollouts();
        let loss = sft_loss(logprobs.clone(), &kept(action_mask));
        let third = -1.0 / 3.0;
        assert_eq!(
            gradient(&loss, &logprobs),
            [third, third, 0.0, 0.0, third, 0.0]
        );
    }

    /// Singles are weighted by their tokens: (2·0.75 + 1·3)/3 = 1.5. The loss of the failure is 0,
    /// over no token.
    #[test]
    fn a_batch_equals_its_singles_by_token_count() {
        let single = |row: usize| {
            let (logprobs, action_mask) = rollouts();
            number(sft_loss(
                logprobs.narrow(0, row, 1),
                &kept(action_mask).narrow(0, row, 1),
            ))
        };
        assert_close(&[single(0), single(1), single(2)], &[0.75, 0.0, 3.0]);
        let (logprobs, action_mask) = rollouts();
        assert_close(
            &[number(sft_loss(logprobs, &kept(action_mask)))],
            &[(2.0 * single(0) + single(2)) / 3.0],
        );
    }
}
