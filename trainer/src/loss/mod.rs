//! Losses: tensors in, a scalar tensor out, one file per algorithm.
//!
//! Nothing here does I/O, draws random numbers, reads a recipe or has an optimizer. Axes are
//! `[batch, time]`, or `[batch, actions]`; an action is a token or a turn. A mask is true if an
//! entry counts. If it is false, the entry may have any value, even NaN: it changes neither the
//! loss nor any gradient.

pub mod dpo;
pub mod dqo;
pub mod dro;
pub mod gigpo;
pub mod grpo;
pub mod hl_gauss;
pub mod kto;
pub mod oreo;
pub mod ranking;
pub mod rejection_sampling;
pub mod sft;

use burn::tensor::{Bool, Int, Tensor, assert_shape};
use kernels::ops;

/// Returns ln π(target | before) of each position, nats: the logit of the target minus the
/// log-sum-exp over the vocabulary.
///
/// Entry `t` belongs to `targets[t]`, which is token `t + 1` of the sequence (see
/// [`crate::learn::batch`]). The normalised `[batch, time, vocab]` table is never made. If only a
/// few positions matter, select them before the output projection: `time` may be any axis of
/// positions.
///
/// # Shapes
/// `logits` `[batch, time, vocab]`, `targets` `[batch, time]`; the result `[batch, time]`.
#[must_use]
pub fn target_logprobs(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
    ops::target_logprobs(logits, targets)
}

/// Returns the mean over the batch of the mean within each trajectory, over its own number T of
/// actions.
///
/// If a trajectory has no action, its mean is 0.
///
/// # Shapes
/// `terms` and `mask` `[batch, actions]`; the result `[1]`.
#[must_use]
pub fn mean_per_trajectory(terms: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
    let counts = counts(mask)
        .sum_dim(1)
        .clamp_min(1)
        .float()
        .cast(terms.dtype());
    (where_masked(terms, mask).sum_dim(1) / counts).mean()
}

/// What the sum over the actions of a trajectory is divided by, before the mean over trajectories.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActionDivisor {
    /// The trajectory's own number T of actions.
    Own,
    /// The mean number of actions of the trajectories of the whole batch, the same for each
    /// trajectory and in each micro-batch. So every action of the batch has the same weight.
    BatchMean(f64),
}

/// Returns the mean over the batch of the sum within each trajectory, divided by `divisor`.
///
/// With [`ActionDivisor::Own`] this is [`mean_per_trajectory`], to the bit.
///
/// # Shapes
/// `terms` and `mask` `[batch, actions]`; the result `[1]`.
#[must_use]
pub fn mean_over_actions(
    terms: Tensor<2>,
    mask: &Tensor<2, Bool>,
    divisor: ActionDivisor,
) -> Tensor<1> {
    match divisor {
        ActionDivisor::Own => mean_per_trajectory(terms, mask),
        ActionDivisor::BatchMean(actions) => {
            // The gradient of a division by a scalar has only single precision.
            where_masked(terms, mask).sum_dim(1).mean() * actions.max(1.0).recip()
        }
    }
}

/// Returns the mean over all entries that the mask counts; 0 if there is none.
///
/// # Shapes
/// `terms` and `mask` `[batch, time]`; the result `[1]`.
#[must_use]
pub fn mean_per_token(terms: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
    let count = counts(mask).sum().clamp_min(1).float().cast(terms.dtype());
    where_masked(terms, mask).sum() / count
}

/// Returns Σ_{i≥t} along the last axis.
///
/// # Shapes
/// `terms` and the result `[batch, actions]`.
#[must_use]
pub fn suffix_sum(terms: Tensor<2>) -> Tensor<2> {
    terms.flip([1]).cumsum(1).flip([1])
}

/// Returns Σ_{i≥t} γ^{i−t} along the last axis, with γ = `discount`, by doubling: each round joins
/// two neighbouring runs of `length` terms. So a row of T takes log₂ T rounds, and no T × T matrix
/// of powers is needed.
///
/// The entry to the right of an action must be that of the next action, or 0.
///
/// # Shapes
/// `terms` and the result `[batch, actions]`.
#[must_use]
pub fn discounted_suffix_sum(terms: Tensor<2>, discount: f64) -> Tensor<2> {
    let [_, actions] = terms.dims();
    let mut sums = terms;
    let mut length = 1;
    let mut factor = discount;
    while length < actions {
        sums = sums.clone() + ahead(sums, length) * factor;
        length *= 2;
        factor *= factor;
    }
    sums
}

/// Returns the terms shifted to the left: entry t is that at t + `actions`, and 0 past the end.
fn ahead(terms: Tensor<2>, actions: usize) -> Tensor<2> {
    let [batch, width] = terms.dims();
    let past_the_end = Tensor::zeros([batch, actions], (&terms.device(), terms.dtype()));
    Tensor::cat(vec![terms, past_the_end], 1).narrow(1, actions, width)
}

/// Returns k3, an estimate of D_KL(π_θ ‖ π_ref) from the sampled actions alone, nats, never
/// negative.
///
/// It is the mean over a trajectory's actions, then over the batch, of e^{−ρ} − 1 + ρ, with ρ = ln
/// π_θ − ln π_ref of the action. It is unbiased only if π_θ itself sampled the actions:
/// E_π_θ\[e^{−ρ}\] = 1, so the mean is that of ρ. If another policy sampled them, it is a distance
/// under the distribution of that policy, not the KL. [`oreo::exact_kl`] has no such condition, but
/// needs the whole vocabulary.
///
/// # Shapes
/// `log_ratios` `[batch, actions]`, nats; `action_mask` `[batch, actions]`; the result `[1]`.
#[must_use]
pub fn k3_kl(log_ratios: Tensor<2>, action_mask: &Tensor<2, Bool>) -> Tensor<1> {
    let log_ratios = where_masked(log_ratios, action_mask);
    mean_per_trajectory((-log_ratios.clone()).exp() - 1.0 + log_ratios, action_mask)
}

/// Returns `terms` with exactly 0 if the mask is false, in the backward pass too.
fn where_masked(terms: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<2> {
    let [batch, actions] = terms.dims();
    assert_shape!(mask, [batch, actions]);
    terms.mask_fill(mask.clone().bool_not(), 0.0)
}

/// Returns 1 if the mask is true, else 0.
fn counts(mask: &Tensor<2, Bool>) -> Tensor<2, Int> {
    mask.clone().int()
}

/// Helpers of the tests of all losses: double precision, with gradients.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod cases {
    use burn::tensor::{Bool, DType, Device, Tensor, TensorData};

    pub(crate) fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
        let device = Device::flex().autodiff();
        Tensor::from_data(
            TensorData::new(values.to_vec(), shape),
            (&device, DType::F64),
        )
    }

    pub(crate) fn mask<const D: usize>(values: &[bool], shape: [usize; D]) -> Tensor<D, Bool> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), shape),
            &Device::flex().autodiff(),
        )
    }

    pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.into_data().try_to_vec().unwrap()
    }

    pub(crate) fn number(tensor: Tensor<1>) -> f64 {
        tensor.into_scalar()
    }

    pub(crate) fn gradient<const D: usize>(loss: &Tensor<1>, of: &Tensor<D>) -> Vec<f64> {
        numbers(
            of.grad(&loss.backward())
                .expect("the loss depends on this tensor"),
        )
    }

    #[track_caller]
    pub(crate) fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            assert!(
                (a - b).abs() <= 1e-14 * b.abs().max(1.0),
                "{got:?} is not {expected:?}"
            );
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::cases::{assert_close, gradient, mask, number, numbers, tensor};
    use super::*;

    /// The logits [0, ln 3] normalise to [1/4, 3/4]. If 10⁴ is added to both, nothing changes.
    #[test]
    fn target_logprobs_by_hand() {
        let three = 3f64.ln();
        let logits = tensor(&[0.0, three, 1e4, 1e4 + three], [1, 2, 2]);
        let targets = Tensor::from_data([[0, 1]], &logits.device());
        let logprobs: Vec<f64> = target_logprobs(logits, targets)
            .into_data()
            .try_to_vec()
            .unwrap();
        assert!((logprobs[0] - 0.25f64.ln()).abs() < 1e-12);
        assert!((logprobs[1] - 0.75f64.ln()).abs() < 1e-11);
    }

    /// ∂ ln π(target) / ∂ logits = onehot(target) − π.
    #[test]
    fn target_logprobs_gradient_is_onehot_minus_probabilities() {
        let logits = tensor(&[0.0, 3f64.ln(), 0.0], [1, 1, 3]).require_grad();
        let targets = Tensor::from_data([[1]], &logits.device());
        let gradients = target_logprobs(logits.clone(), targets).sum().backward();
        let gradient: Vec<f64> = logits
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        for (got, expected) in gradient.iter().zip([-0.2, 0.4, -0.2]) {
            assert!((got - expected).abs() < 1e-12, "{gradient:?}");
        }
    }

    /// Rows 1, 3 | 10: ((1 + 3)/2 + 10/1)/2 = 6, but (1 + 3 + 10)/3 per token. The masked entry is
    /// NaN.
    #[test]
    fn means_divide_by_the_number_of_counted_entries() {
        let terms = tensor(&[1.0, 3.0, 10.0, f64::NAN], [2, 2]);
        let mask = Tensor::from_data([[true, true], [true, false]], &terms.device());
        let by_trajectory: f64 = mean_per_trajectory(terms.clone(), &mask).into_scalar();
        let by_token: f64 = mean_per_token(terms, &mask).into_scalar();
        assert!((by_trajectory - 6.0).abs() < 1e-12);
        assert!((by_token - 14.0 / 3.0).abs() < 1e-12);
    }

    /// [1, 2, 4] → [7, 6, 4]. If the result is weighted by [1, 10, 100], the gradient is the prefix
    /// sum of the weights, [1, 11, 111].
    #[test]
    fn suffix_sum_and_its_gradient() {
        let terms = tensor(&[1.0, 2.0, 4.0], [1, 3]).require_grad();
        let sums = suffix_sum(terms.clone());
        let weights = tensor(&[1.0, 10.0, 100.0], [1, 3]);
        let gradients = (sums.clone() * weights).sum().backward();
        let gradient = terms.grad(&gradients).unwrap();
        assert_eq!(
            sums.into_data().try_to_vec::<f64>().unwrap(),
            [7.0, 6.0, 4.0]
        );
        assert_eq!(
            gradient.into_data().try_to_vec::<f64>().unwrap(),
            [1.0, 11.0, 111.0]
        );
    }

    /// [1, 2, 4, 8, 16] with γ = ½: each sum is the term plus half of the next sum. If the result is
    /// weighted by [1, 10, 100, 0, 0], the gradient is Σ_{t≤i} γ^{i−t} w_t. γ = 1 is the plain sum,
    /// γ = 0 leaves the terms.
    #[test]
    fn discounted_suffix_sum_and_its_gradient() {
        let terms = tensor(&[1.0, 2.0, 4.0, 8.0, 16.0], [1, 5]).require_grad();
        let sums = discounted_suffix_sum(terms.clone(), 0.5);
        let weighted = (sums.clone() * tensor(&[1.0, 10.0, 100.0, 0.0, 0.0], [1, 5])).sum();
        assert_close(&numbers(sums), &[5.0, 8.0, 12.0, 16.0, 16.0]);
        assert_close(
            &gradient(&weighted, &terms),
            &[1.0, 10.5, 105.25, 52.625, 26.3125],
        );
        let plain = discounted_suffix_sum(terms.clone(), 1.0);
        assert_close(&numbers(plain), &numbers(suffix_sum(terms.clone())));
        let none = discounted_suffix_sum(terms.clone(), 0.0);
        assert_close(&numbers(none), &numbers(terms));
    }

    /// Rows 1, 3 | 10 with 3/2 actions in the mean: (4 + 10)/2/(3/2) = 14/3, the mean over all
    /// actions. Parts of one row each, weighted by ½, add up to it; the gradient of a masked entry
    /// is 0.
    #[test]
    fn a_batch_mean_gives_all_actions_the_same_weight() {
        let terms = tensor(&[1.0, 3.0, 10.0, f64::NAN], [2, 2]).require_grad();
        let action_mask = mask(&[true, true, true, false], [2, 2]);
        let divisor = ActionDivisor::BatchMean(1.5);
        let whole = mean_over_actions(terms.clone(), &action_mask, divisor);
        let by_token = number(mean_per_token(terms.clone(), &action_mask));
        assert_close(&[number(whole.clone())], &[14.0 / 3.0]);
        assert_close(&[by_token], &[14.0 / 3.0]);
        let third = 1.0 / 3.0;
        assert_close(&gradient(&whole, &terms), &[third, third, third, 0.0]);
        let parts = [0, 1].map(|row| {
            let part = terms.clone().narrow(0, row, 1);
            let mask = action_mask.clone().narrow(0, row, 1);
            number(mean_over_actions(part, &mask, divisor)) / 2.0
        });
        assert_close(&[parts[0] + parts[1]], &[14.0 / 3.0]);
        let own = mean_over_actions(terms.clone(), &action_mask, ActionDivisor::Own);
        assert_close(&[number(own)], &[6.0]);
    }

    /// ρ = [ln 2, 0 | −ln 2]: ½ − 1 + ln 2 and 0 in the first row, 2 − 1 − ln 2 in the second; NaN
    /// is masked. ((ln 2 − ½)/2 + 1 − ln 2)/2 = 3/8 − ¼ ln 2.
    #[test]
    fn k3_by_hand() {
        let two = 2f64.ln();
        let action_mask = mask(&[true, true, true, false], [2, 2]);
        let kl = number(k3_kl(
            tensor(&[two, 0.0, -two, f64::NAN], [2, 2]),
            &action_mask,
        ));
        assert_close(&[kl], &[0.375 - 0.25 * two]);
    }

    /// Recorded from tests/oracle/losses.py, "k3": trajectories of three and two actions.
    #[test]
    fn k3_against_the_oracle() {
        let log_ratios = tensor(&[0.4, -0.2, 0.1, -0.3, 0.5, f64::NAN], [2, 3]).require_grad();
        let loss = k3_kl(
            log_ratios.clone(),
            &mask(&[true, true, true, true, true, false], [2, 3]),
        );
        assert_close(&[number(loss.clone())], &[0.055_190_737_194_120_61]);
        let expected = [
            0.054_946_658_994_060_11,
            -0.036_900_459_693_361_64,
            0.015_860_430_327_340_08,
            -0.087_464_701_894_000_8,
            0.098_367_335_071_841_64,
        ];
        let got = gradient(&loss, &log_ratios);
        assert_close(&got[..5], &expected);
        assert_eq!(got[5], 0.0);
    }

    /// ∂/∂ρ = 1 − e^{−ρ}: ½ and 0 times a quarter, 1 − 2 times a half; exactly 0 if masked.
    #[test]
    fn k3_gradient_by_hand() {
        let two = 2f64.ln();
        let log_ratios = tensor(&[two, 0.0, -two, f64::NAN], [2, 2]).require_grad();
        let loss = k3_kl(
            log_ratios.clone(),
            &mask(&[true, true, true, false], [2, 2]),
        );
        let got = gradient(&loss, &log_ratios);
        assert_close(&got[..3], &[0.125, 0.0, -0.5]);
        assert_eq!(got[3], 0.0);
    }

    /// If the policy itself sampled, k3 averages to the KL: π = [¾, ¼] against [½, ½], so three
    /// rows of the first action to one of the second; ¾ ln 3/2 + ¼ ln 1/2, which [`oreo::exact_kl`]
    /// returns too. If π_ref sampled, half and half, it does not.
    #[test]
    fn k3_is_the_kl_if_the_policy_sampled() {
        let first = 1.5f64.ln();
        let second = 0.5f64.ln();
        let kl = 0.75 * first + 0.25 * second;
        let own = k3_kl(
            tensor(&[first, first, first, second], [4, 1]),
            &mask(&[true; 4], [4, 1]),
        );
        assert_close(&[number(own)], &[kl]);
        let other = number(k3_kl(
            tensor(&[first, second], [2, 1]),
            &mask(&[true; 2], [2, 1]),
        ));
        assert!((other - kl).abs() > 0.01);
    }

    /// Rows of two actions and of one: the mean over the batch is the mean of both singles.
    #[test]
    fn k3_of_a_batch_equals_its_singles() {
        let log_ratios = || tensor(&[0.3, -0.2, 0.5, f64::NAN], [2, 2]);
        let action_mask = mask(&[true, true, true, false], [2, 2]);
        let single = |row: usize, actions: usize| {
            let cut = action_mask.clone().narrow(0, row, 1).narrow(1, 0, actions);
            number(k3_kl(
                log_ratios().narrow(0, row, 1).narrow(1, 0, actions),
                &cut,
            ))
        };
        assert_close(
            &[number(k3_kl(log_ratios(), &action_mask))],
            &[(single(0, 2) + single(1, 1)) / 2.0],
        );
    }
}
