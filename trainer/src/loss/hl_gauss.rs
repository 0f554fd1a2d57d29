//! HL-Gauss: Stop Regressing: Training Value Functions via Classification for Scalable Deep RL,
//! arXiv 2403.03950, section 3.1.
//!
//! ```text
//! p_b(y) = ( Φ((e_{b+1} − y)/σ) − Φ((e_b − y)/σ) ) / ( Φ((e_m − y)/σ) − Φ((e_0 − y)/σ) )
//! L      = − 1/T Σ_t Σ_b p_b(y_t) log softmax(z_t)_b                                       nats
//! V      = Σ_b softmax(z)_b c_b
//! ```
//!
//! e_0 … e_m are the edges of the m bins ([`agent::model::value_heads`]), c_b their centres, y the
//! target, σ = 0.75 bins, and Φ the distribution function of the normal distribution.
//!
//! Differs from the paper: a target beyond the range is clipped to it. OREO's targets may be, because
//! they contain log-ratios. The mean over actions is that of [`super::oreo`].

use super::{ActionDivisor, mean_over_actions, where_masked};
use agent::model::value_heads::{VALUE_BINS, VALUE_RANGE, bin_edges};
use burn::tensor::{Bool, Tensor, TensorData, activation, assert_shape};

/// σ of the normal distribution around a target, in bins.
const SIGMA: f64 = 0.75;

/// Returns the cross-entropy of the predicted distributions to the histograms of the targets, nats;
/// only `logits` gets a gradient.
///
/// # Shapes
/// `logits` `[batch, actions, VALUE_BINS]`, `targets` (reward units) and `mask` `[batch, actions]`;
/// the result `[1]`.
#[must_use]
pub fn hl_gauss_loss(
    logits: Tensor<3>,
    targets: Tensor<2>,
    mask: &Tensor<2, Bool>,
    divisor: ActionDivisor,
) -> Tensor<1> {
    let [batch, actions] = mask.dims();
    assert_shape!(logits, [batch, actions, VALUE_BINS]);
    assert_shape!(targets, [batch, actions]);
    let elsewhere = mask.clone().bool_not().unsqueeze_dim::<3>(2);
    let logits = logits.mask_fill(elsewhere.repeat_dim(2, VALUE_BINS), 0.0);
    let histograms = histograms(where_masked(targets.detach(), mask));
    let terms = (histograms * activation::log_softmax(logits, 2))
        .sum_dim(2)
        .squeeze_dim(2);
    mean_over_actions(-terms, mask, divisor)
}

/// Returns the histogram of each target, clipped to the range of the bins. Each sums to 1.
///
/// # Shapes
/// `targets` `[batch, actions]`, reward units; the result `[batch, actions, VALUE_BINS]`.
#[must_use]
pub fn histograms(targets: Tensor<2>) -> Tensor<3> {
    let [low, high] = VALUE_RANGE;
    let width = (high - low) / VALUE_BINS as f64;
    let edges = TensorData::new(bin_edges(), [1, 1, VALUE_BINS + 1]);
    let edges = Tensor::<3>::from_data(edges, (&targets.device(), targets.dtype()));
    let targets = targets.clamp(low, high).unsqueeze_dim::<3>(2);
    let scale = 1.0 / (SIGMA * width * std::f64::consts::SQRT_2);
    let below = ((edges - targets) * scale).erf(); // 2Φ − 1
    let whole = below.clone().narrow(2, VALUE_BINS, 1) - below.clone().narrow(2, 0, 1);
    let upper = below.clone().narrow(2, 1, VALUE_BINS);
    (upper - below.narrow(2, 0, VALUE_BINS)) / whole
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::cases::{assert_close, mask, number, numbers, tensor};
    use super::*;
    use agent::model::value_heads::bin_centres;

    /// The loss with the mean over each trajectory's own actions.
    fn own_mean(logits: Tensor<3>, targets: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        hl_gauss_loss(logits, targets, mask, ActionDivisor::Own)
    }

    /// Logits that differ from each other, of `actions` actions.
    fn logits(actions: usize) -> Tensor<3> {
        let values: Vec<f64> = (0..actions * VALUE_BINS)
            .map(|index| (index as f64 * 0.7).sin())
            .collect();
        tensor(&values, [1, actions, VALUE_BINS]).require_grad()
    }

    fn expected_value(histogram: &[f64]) -> f64 {
        let centres = bin_centres();
        let products = histogram.iter().zip(&centres);
        products.map(|(p, centre)| p * f64::from(*centre)).sum()
    }

    /// A target of 0.5 is the centre of bin 25. Its own bin has the mass Φ(⅔) − Φ(−⅔), the next one
    /// Φ(2) − Φ(⅔).
    #[test]
    fn the_histogram_of_a_centre_by_hand() {
        let found = numbers(histograms(tensor(&[0.5], [1, 1])));
        assert!((found[25] - 0.495_014_924_906_154).abs() < 1e-12);
        assert!((found[26] - 0.229_742_405_598_744).abs() < 1e-12);
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    /// The expected value of a histogram is its target, up to 1e-5 if the target is 3σ or more from
    /// the ends of the range, and up to 0.7 bins at the ends, where the normal distribution is cut.
    #[test]
    fn the_expected_value_of_a_histogram_is_the_clipped_target() {
        let bin = 1.5 / 51.0;
        for (target, clipped, tolerance) in [
            (0.0, 0.0, 1e-5),
            (0.123, 0.123, 1e-5),
            (0.9, 0.9, 1e-5),
            (1.0, 1.0, 1e-5),
            (1.18, 1.18, 2e-3),
            (-7.0, -0.25, 0.7 * bin),
            (100.0, 1.25, 0.7 * bin),
        ] {
            let histogram = numbers(histograms(tensor(&[target], [1, 1])));
            let found = expected_value(&histogram);
            assert!(
                (found - clipped).abs() < tolerance,
                "{target}: {found} instead of {clipped}"
            );
        }
    }

    /// The gradient of a cross-entropy is softmax(z) − p, times the weight of the action, 1/2.
    #[test]
    fn the_gradient_is_the_difference_of_the_distributions() {
        let logits = logits(2);
        let targets = tensor(&[0.2, 0.9], [1, 2]);
        let loss = hl_gauss_loss(
            logits.clone(),
            targets.clone(),
            &mask(&[true, true], [1, 2]),
            ActionDivisor::Own,
        );
        let found = numbers(logits.grad(&loss.backward()).unwrap());
        let softmax = numbers(activation::softmax(logits, 2));
        let expected: Vec<f64> = softmax
            .iter()
            .zip(numbers(histograms(targets)))
            .map(|(q, p)| (q - p) / 2.0)
            .collect();
        assert_close(&found, &expected);
    }

    #[test]
    fn targets_get_no_gradient() {
        let targets = tensor(&[0.2, 0.9], [1, 2]).require_grad();
        let loss = own_mean(logits(2), targets.clone(), &mask(&[true, true], [1, 2]));
        assert!(targets.grad(&loss.backward()).is_none());
    }

    /// A masked action may have any target and any logits.
    #[test]
    fn no_gradient_where_masked() {
        let logits = logits(2);
        let spoilt = logits.clone().slice_fill([0..1, 1..2], f64::NAN);
        let targets = tensor(&[0.2, f64::NAN], [1, 2]);
        let counted = mask(&[true, false], [1, 2]);
        let loss = own_mean(spoilt, targets, &counted);
        let gradients = numbers(logits.grad(&loss.backward()).unwrap());
        assert!(gradients[..VALUE_BINS].iter().any(|g| *g != 0.0));
        assert!(gradients[VALUE_BINS..].iter().all(|g| *g == 0.0));
    }

    /// The mean over a batch is the mean of its singles; padding changes nothing.
    #[test]
    fn a_batch_equals_its_singles() {
        let [first, second] = [0, 1].map(|row| logits(2).detach() * (1.0 + f64::from(row)));
        let targets = tensor(&[0.2, 0.9, 0.4, f64::NAN], [2, 2]);
        let counted = mask(&[true, true, true, false], [2, 2]);
        let both = Tensor::cat(vec![first.clone(), second.clone()], 0);
        let batch = number(own_mean(both.clone(), targets.clone(), &counted));
        let single = |logits: Tensor<3>, row: usize| {
            let targets = targets.clone().narrow(0, row, 1);
            number(own_mean(
                logits,
                targets,
                &counted.clone().narrow(0, row, 1),
            ))
        };
        let singles = [single(first, 0), single(second, 1)];
        assert_close(&[batch], &[(singles[0] + singles[1]) / 2.0]);

        // With the mean length of the batch, 1.5, each of the three actions has the same weight.
        let of_batch = ActionDivisor::BatchMean(1.5);
        let whole = number(hl_gauss_loss(both, targets, &counted, of_batch));
        assert_close(&[whole], &[(2.0 * singles[0] + singles[1]) / 3.0]);
    }
}
