//! Losses: tensors in, a scalar tensor out, one file per algorithm.
//!
//! Nothing here does I/O, draws random numbers, reads a recipe or holds an optimizer. Axes are `[batch, time]`, or
//! `[batch, actions]` where an action is a token or a turn. Masks are true where an entry counts; where a mask is
//! false the entry, whatever it holds, changes neither the loss nor any gradient.

pub mod oreo;
pub mod sft;

use agent::fused;
use burn::tensor::{Bool, Int, Tensor, assert_shape};

/// ln π(target | before) of each position, nats: logit of the target minus the log-sum-exp over the vocabulary.
///
/// Entry `t` belongs to `targets[t]`, which is token `t + 1` of the sequence (see [`crate::batch`]). The normalised
/// `[batch, time, vocab]` table is never made; where only a few positions matter, select them before the output
/// projection: `time` may be any axis of positions.
///
/// # Shapes
/// `logits` `[batch, time, vocab]`, `targets` `[batch, time]`; the answer `[batch, time]`.
#[must_use]
pub fn target_logprobs(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
    let [batch, time, vocab] = logits.dims();
    assert_shape!(targets, [batch, time]);
    if fused::work_on(&logits.device(), logits.dtype()) {
        let (logits, targets) = (logits.reshape([batch * time, vocab]), targets.reshape([batch * time]));
        return fused::target_logprobs(logits, targets).reshape([batch, time]);
    }
    let maxima = logits.clone().detach().max_dim(2);
    let sums = (logits.clone() - maxima.clone()).exp().sum_dim(2);
    let target_logits = logits.gather(2, targets.unsqueeze_dim(2));
    (target_logits - maxima - sums.log()).squeeze_dim(2)
}

/// Mean within each trajectory, over its own number T of actions, then mean over the batch.
///
/// A trajectory without any action counts as 0.
///
/// # Shapes
/// `terms` and `mask` `[batch, actions]`; the answer `[1]`.
#[must_use]
pub fn mean_per_trajectory(terms: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
    let counts = counts(mask).sum_dim(1).clamp_min(1).float().cast(terms.dtype());
    (where_masked(terms, mask).sum_dim(1) / counts).mean()
}

/// Mean over all unmasked entries of the batch; 0 when there is none.
///
/// # Shapes
/// `terms` and `mask` `[batch, time]`; the answer `[1]`.
#[must_use]
pub fn mean_per_token(terms: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
    let count = counts(mask).sum().clamp_min(1).float().cast(terms.dtype());
    where_masked(terms, mask).sum() / count
}

/// Σ_{i≥t} along the last axis.
///
/// # Shapes
/// `terms` and the answer `[batch, actions]`.
#[must_use]
pub fn suffix_sum(terms: Tensor<2>) -> Tensor<2> {
    terms.flip([1]).cumsum(1).flip([1])
}

/// `terms` with exactly 0 wherever the mask is false, in the backward pass too.
fn where_masked(terms: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<2> {
    let [batch, actions] = terms.dims();
    assert_shape!(mask, [batch, actions]);
    terms.mask_fill(mask.clone().bool_not(), 0.0)
}

fn counts(mask: &Tensor<2, Bool>) -> Tensor<2, Int> {
    mask.clone().int()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
        let device = Device::flex().autodiff();
        Tensor::from_data(TensorData::new(values.to_vec(), shape), (&device, DType::F64))
    }

    /// logits [0, ln 3] normalise to [1/4, 3/4]; a common shift of 10⁴ changes nothing.
    #[test]
    fn target_logprobs_by_hand() {
        let three = 3f64.ln();
        let logits = tensor(&[0.0, three, 1e4, 1e4 + three], [1, 2, 2]);
        let targets = Tensor::from_data([[0, 1]], &logits.device());
        let logprobs: Vec<f64> = target_logprobs(logits, targets).into_data().try_to_vec().unwrap();
        assert!((logprobs[0] - 0.25f64.ln()).abs() < 1e-12);
        assert!((logprobs[1] - 0.75f64.ln()).abs() < 1e-11);
    }

    /// ∂ ln π(target) / ∂ logits = onehot(target) − π.
    #[test]
    fn target_logprobs_gradient_is_onehot_minus_probabilities() {
        let logits = tensor(&[0.0, 3f64.ln(), 0.0], [1, 1, 3]).require_grad();
        let targets = Tensor::from_data([[1]], &logits.device());
        let gradients = target_logprobs(logits.clone(), targets).sum().backward();
        let gradient: Vec<f64> = logits.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        for (got, expected) in gradient.iter().zip([-0.2, 0.4, -0.2]) {
            assert!((got - expected).abs() < 1e-12, "{gradient:?}");
        }
    }

    /// Rows 1, 3 | 10: ((1 + 3)/2 + 10/1)/2 = 6, but (1 + 3 + 10)/3 per token. NaN stands under the mask.
    #[test]
    fn means_divide_by_what_they_count() {
        let terms = tensor(&[1.0, 3.0, 10.0, f64::NAN], [2, 2]);
        let mask = Tensor::from_data([[true, true], [true, false]], &terms.device());
        let by_trajectory: f64 = mean_per_trajectory(terms.clone(), &mask).into_scalar();
        let by_token: f64 = mean_per_token(terms, &mask).into_scalar();
        assert!((by_trajectory - 6.0).abs() < 1e-12);
        assert!((by_token - 14.0 / 3.0).abs() < 1e-12);
    }

    /// [1, 2, 4] → [7, 6, 4]; with weights [1, 10, 100] on the answer the gradient is their prefix sum [1, 11, 111].
    #[test]
    fn suffix_sum_and_its_gradient() {
        let terms = tensor(&[1.0, 2.0, 4.0], [1, 3]).require_grad();
        let sums = suffix_sum(terms.clone());
        let weights = tensor(&[1.0, 10.0, 100.0], [1, 3]);
        let gradients = (sums.clone() * weights).sum().backward();
        let gradient = terms.grad(&gradients).unwrap();
        assert_eq!(sums.into_data().try_to_vec::<f64>().unwrap(), [7.0, 6.0, 4.0]);
        assert_eq!(gradient.into_data().try_to_vec::<f64>().unwrap(), [1.0, 11.0, 111.0]);
    }
}
