//! KTO: Model Alignment as Prospect Theoretic Optimization, arXiv 2402.01306, section 4.1.
//!
//! ```text
//! ρ(x,y) = log π_θ(y|x) − log π_ref(y|x) = Σ_i l_i                nats; the paper's r_θ
//! z_0 = KL( π_θ(y'|x) ‖ π_ref(y'|x) ) ≈ max( 0, 1/m Σ_i ρ(x_i, y_j) ),  j ≠ i;  detached
//! v(x,y) = λ_D σ( β (ρ − z_0) )  if y is desirable, else λ_U σ( β (z_0 − ρ) )
//! L_KTO = E( λ_y − v(x,y) )                                       λ_y = λ_D or λ_U
//! ```
//!
//! x is the task and y a trajectory, which is desirable if it was won. No pairs are needed.
//!
//! Differs from the paper:
//! - y is a trajectory of several turns, and only its action tokens are in the sum.
//! - The caller makes the mismatched pairs, which are actions of other trajectories after the first
//!   observation of this task, and passes their log-ratios. z_0 is one number a batch, a plain
//!   `f64`, so it has no gradient.

use burn::tensor::{Bool, Tensor, activation::sigmoid, assert_shape};

/// The inputs of the KTO loss.
#[derive(Debug, Clone)]
pub struct KtoInputs {
    /// ρ, the sum over the action tokens of a trajectory, nats, `[batch]`.
    pub log_ratios: Tensor<1>,
    /// True if the trajectory is desirable, `[batch]`.
    pub desirable: Tensor<1, Bool>,
}

/// λ_D and λ_U, the weights of gains and losses.
///
/// If successes and failures are not equally many, the paper chooses the weights so that
/// λ_D n_D / (λ_U n_U) is near 1 or somewhat above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KtoWeights {
    /// λ_D.
    pub desirable: f64,
    /// λ_U.
    pub undesirable: f64,
}

/// Returns z_0 of a batch, nats, from ρ of the mismatched pairs; never below 0, and 0 if there is
/// no pair.
#[must_use]
pub fn reference_point(mismatched_log_ratios: &[f64]) -> f64 {
    let count = mismatched_log_ratios.len().max(1) as f64;
    (mismatched_log_ratios.iter().sum::<f64>() / count).max(0.0)
}

/// Returns L_KTO, between 0 and the larger weight.
///
/// # Shapes
/// See [`KtoInputs`]; the result `[1]`. `reference_point` in nats, `beta` per nat.
#[must_use]
pub fn kto_loss(
    inputs: &KtoInputs,
    reference_point: f64,
    beta: f64,
    weights: KtoWeights,
) -> Tensor<1> {
    let [batch] = inputs.log_ratios.dims();
    assert_shape!(inputs.desirable, [batch]);
    let gains = (inputs.log_ratios.clone() - reference_point) * beta;
    let of_desirable = sigmoid(-gains.clone()) * weights.desirable; // λ_D − λ_D σ(x) = λ_D σ(−x)
    let of_undesirable = sigmoid(gains) * weights.undesirable;
    of_undesirable
        .mask_where(inputs.desirable.clone(), of_desirable)
        .mean()
}

#[cfg(test)]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, tensor};
    use super::*;

    const BETA: f64 = 0.1;
    const WEIGHTS: KtoWeights = KtoWeights {
        desirable: 1.0,
        undesirable: 1.5,
    };
    const REFERENCE_POINT: f64 = 0.7;

    /// The four trajectories of the oracle.
    fn case() -> KtoInputs {
        KtoInputs {
            log_ratios: tensor(&[1.5, -0.5, 3.0, -4.0], [4]).require_grad(),
            desirable: mask(&[true, false, false, true], [4]),
        }
    }

    fn single(log_ratio: f64, desirable: bool) -> KtoInputs {
        KtoInputs {
            log_ratios: tensor(&[log_ratio], [1]).require_grad(),
            desirable: mask(&[desirable], [1]),
        }
    }

    /// (1 + 2 − 1)/3. If the mean is below 0, or there is no pair, the result is 0.
    #[test]
    fn reference_point_by_hand() {
        assert_close(&[reference_point(&[1.0, 2.0, -1.0])], &[2.0 / 3.0]);
        assert_eq!(
            [reference_point(&[1.0, -2.0]), reference_point(&[])],
            [0.0, 0.0]
        );
    }

    /// β (ρ − z_0) = ln 3 for both, σ = ¾: λ_D (1 − ¾) = ¼ for the desirable, λ_U (1 − ¼) = 9/8 for
    /// the other.
    #[test]
    fn kto_by_hand() {
        let log_ratio = 0.5 + 9f64.ln();
        assert_close(
            &[number(kto_loss(
                &single(log_ratio, true),
                0.5,
                0.5,
                WEIGHTS,
            ))],
            &[0.25],
        );
        assert_close(
            &[number(kto_loss(
                &single(log_ratio, false),
                0.5,
                0.5,
                WEIGHTS,
            ))],
            &[1.125],
        );
    }

    /// Recorded from tests/oracle/losses.py, "kto reference point" and "kto".
    #[test]
    fn kto_against_the_oracle() {
        assert_close(
            &[reference_point(&[1.2, -0.3, 0.5, 1.4])],
            &[REFERENCE_POINT],
        );
        let inputs = case();
        let loss = kto_loss(&inputs, REFERENCE_POINT, BETA, WEIGHTS);
        assert_close(&[number(loss.clone())], &[0.659_080_030_121_644]);
        let expected = [
            -0.006_240_010_657_003_613,
            0.009_341_330_835_069_377,
            0.009_252_100_617_894_846,
            -0.005_917_164_719_026_509,
        ];
        assert_close(&gradient(&loss, &inputs.log_ratios), &expected);
    }

    /// ∓ λ β σ(x) σ(−x), here ∓ λ ½ · 3/16: negative if the trajectory is desirable, else positive,
    /// with its own weight.
    #[test]
    fn gradients_by_hand() {
        for (desirable, expected) in [(true, -3.0 / 32.0), (false, 1.5 * 3.0 / 32.0)] {
            let inputs = single(0.5 + 9f64.ln(), desirable);
            let loss = kto_loss(&inputs, 0.5, 0.5, WEIGHTS);
            assert_close(&gradient(&loss, &inputs.log_ratios), &[expected]);
        }
    }

    /// If β (ρ − z_0) = ±10³, the value is saturated: 0 or λ, and no gradient.
    #[test]
    fn far_ratios_stay_finite() {
        for (log_ratio, desirable, expected) in [
            (1e3, true, 0.0),
            (-1e3, true, 1.0),
            (1e3, false, 1.5),
            (-1e3, false, 0.0),
        ] {
            let inputs = single(log_ratio, desirable);
            let loss = kto_loss(&inputs, 0.0, 1.0, WEIGHTS);
            assert_close(&[number(loss.clone())], &[expected]);
            assert_eq!(gradient(&loss, &inputs.log_ratios)[0].abs(), 0.0);
        }
    }

    /// With the same z_0: a single trajectory has no mismatched pair of its own.
    #[test]
    fn a_batch_equals_its_singles() {
        let single = |row: usize| KtoInputs {
            log_ratios: case().log_ratios.narrow(0, row, 1),
            desirable: case().desirable.narrow(0, row, 1),
        };
        let singles = (0..4)
            .map(|row| number(kto_loss(&single(row), REFERENCE_POINT, BETA, WEIGHTS)))
            .sum::<f64>();
        assert_close(
            &[number(kto_loss(&case(), REFERENCE_POINT, BETA, WEIGHTS))],
            &[singles / 4.0],
        );
    }
}
