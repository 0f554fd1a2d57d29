//! DRO: Offline Regularised Reinforcement Learning for Large Language Models Alignment, arXiv
//! 2405.19107, section 3.
//!
//! ```text
//! ρ = log π_θ(y|x) − log π_ref(y|x) = Σ_i l_i                   nats, over the whole response
//! L(π,V) = ½ E( r(x,y) − V(x) − τ ρ )²                                                     (Eq. 4)
//! ∇_φ L = Σ ( V_φ − r + τ ρ ) ∇_φ V_φ                                                      (Eq. 7)
//! ∇_θ L = − τ Σ ( ∇_θ log π_θ (r − V_φ) − τ/2 ∇_θ ρ² )                                     (Eq. 8)
//! ```
//!
//! Here x is the first state s_0, y all tokens that the policy wrote in its trajectory, τ is β and
//! r the return. There is one action, the whole response. The losses equal those of [`super::oreo`]
//! at response level, Eq. 10 there, but the inputs are sums already.
//!
//! Differs from the paper:
//! - No ½ before the square, as in OREO and DQO: both gradients are twice those of Eq. 7 and Eq. 8.
//! - The policy's gradient is that of the loss. The paper's algorithm divides it by τ; here this
//!   factor is part of the learning rate.
//! - One V per trajectory, at s_0; the paper found one value per token of the response to work
//!   better.
//! - A trajectory has observations between its turns. They are in no sum, because no policy chose
//!   them.

use burn::tensor::{Tensor, assert_shape};

/// The inputs of both DRO losses.
#[derive(Debug, Clone)]
pub struct DroInputs {
    /// ρ, the sum over the action tokens of a trajectory, nats, `[batch]`.
    pub log_ratios: Tensor<1>,
    /// V_φ(s_0), reward units, `[batch]`.
    pub values: Tensor<1>,
    /// R_0, reward units, `[batch]`.
    pub returns: Tensor<1>,
}

/// Returns twice Eq. 4 as a loss of V; only `values` gets a gradient.
///
/// # Shapes
/// See [`DroInputs`]; the result `[1]`, reward units squared. `beta`, the paper's τ, is reward per
/// nat.
#[must_use]
pub fn value_loss(inputs: &DroInputs, beta: f64) -> Tensor<1> {
    mean_square(
        inputs.returns.clone(),
        inputs.values.clone(),
        inputs.log_ratios.clone().detach() * beta,
    )
}

/// Returns twice Eq. 4 as a loss of π; only `log_ratios` gets a gradient.
///
/// # Shapes
/// See [`DroInputs`]; the result `[1]`, reward units squared. `beta`, the paper's τ, is reward per
/// nat.
#[must_use]
pub fn policy_loss(inputs: &DroInputs, beta: f64) -> Tensor<1> {
    mean_square(
        inputs.returns.clone(),
        inputs.values.clone().detach(),
        inputs.log_ratios.clone() * beta,
    )
}

/// Returns E( r − V − τ ρ )².
fn mean_square(returns: Tensor<1>, values: Tensor<1>, penalties: Tensor<1>) -> Tensor<1> {
    let [batch] = returns.dims();
    assert_shape!(values, [batch]);
    assert_shape!(penalties, [batch]);
    (returns - values - penalties).square().mean()
}

#[cfg(test)]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, tensor};
    use super::super::oreo;
    use super::*;

    const BETA: f64 = 0.5;

    /// The three trajectories of the oracle.
    fn case() -> DroInputs {
        DroInputs {
            log_ratios: tensor(&[0.3, 0.2, -1.5], [3]).require_grad(),
            values: tensor(&[0.2, 0.1, 0.6], [3]).require_grad(),
            returns: tensor(&[1.0, 0.0, 1.0], [3]),
        }
    }

    /// Residuals 1 − 0.2 − 0.15, 0 − 0.1 − 0.1 and 1 − 0.6 + 0.75: (0.65² + 0.2² + 1.15²)/3.
    #[test]
    fn both_losses_by_hand() {
        let expected = (0.65f64.powi(2) + 0.2f64.powi(2) + 1.15f64.powi(2)) / 3.0;
        assert_close(
            &[
                number(value_loss(&case(), BETA)),
                number(policy_loss(&case(), BETA)),
            ],
            &[expected; 2],
        );
    }

    /// Recorded from tests/oracle/losses.py, "dro value" and "dro policy".
    #[test]
    fn both_losses_against_the_oracle() {
        let inputs = case();
        let value = value_loss(&inputs, BETA);
        assert_close(&[number(value.clone())], &[0.594_999_999_999_999_9]);
        let expected = [
            -0.433_333_333_333_333_35,
            0.133_333_333_333_333_33,
            -0.766_666_666_666_666_6,
        ];
        assert_close(&gradient(&value, &inputs.values), &expected);

        let inputs = case();
        let policy = policy_loss(&inputs, BETA);
        assert_close(&[number(policy.clone())], &[0.594_999_999_999_999_9]);
        let expected = [
            -0.216_666_666_666_666_67,
            0.066_666_666_666_666_67,
            -0.383_333_333_333_333_3,
        ];
        assert_close(&gradient(&policy, &inputs.log_ratios), &expected);
    }

    /// ∂L_V/∂V = −2/3 residual, ∂L_π/∂ρ = −2/3 β residual; the other network gets no gradient.
    #[test]
    fn each_loss_moves_its_own_network_only() {
        let residuals = [0.65, -0.2, 1.15];
        let inputs = case();
        let loss = value_loss(&inputs, BETA);
        assert_close(
            &gradient(&loss, &inputs.values),
            &residuals.map(|residual| -residual * 2.0 / 3.0),
        );
        let inputs = case();
        assert!(
            inputs
                .log_ratios
                .grad(&value_loss(&inputs, BETA).backward())
                .is_none()
        );
        let inputs = case();
        let loss = policy_loss(&inputs, BETA);
        assert_close(
            &gradient(&loss, &inputs.log_ratios),
            &residuals.map(|residual| -residual / 3.0),
        );
        let inputs = case();
        assert!(
            inputs
                .values
                .grad(&policy_loss(&inputs, BETA).backward())
                .is_none()
        );
    }

    #[test]
    fn a_batch_equals_its_singles() {
        let single = |row: usize| {
            let whole = case();
            DroInputs {
                log_ratios: whole.log_ratios.narrow(0, row, 1),
                values: whole.values.narrow(0, row, 1),
                returns: whole.returns.narrow(0, row, 1),
            }
        };
        for loss in [value_loss, policy_loss] {
            let singles = (0..3)
                .map(|row| number(loss(&single(row), BETA)))
                .sum::<f64>()
                / 3.0;
            assert_close(&[number(loss(&case(), BETA))], &[singles]);
        }
    }

    /// T5: from the sums of OREO's two ragged trajectories, 0.4 − 0.2 + 0.1 and −0.3 + 0.5, the
    /// losses equal those of OREO's t = 0 term.
    #[test]
    fn one_action_is_oreo_at_response_level() {
        let nan = f64::NAN;
        let tokens = oreo::OreoInputs {
            log_ratios: tensor(&[0.4, -0.2, 0.1, -0.3, 0.5, nan], [2, 3]),
            values: tensor(&[0.2, nan, nan, 0.1, nan, nan], [2, 3]),
            returns: tensor(&[1.0, 0.0], [2, 1]),
            action_mask: mask(&[true, true, true, true, true, false], [2, 3]),
        };
        let whole = DroInputs {
            log_ratios: tensor(&[0.3, 0.2], [2]),
            values: tensor(&[0.2, 0.1], [2]),
            returns: tensor(&[1.0, 0.0], [2]),
        };
        let settings = oreo::OreoSettings::published(BETA);
        assert_close(
            &[number(value_loss(&whole, BETA))],
            &[number(oreo::response_value_loss(&tokens, settings))],
        );
        assert_close(
            &[number(policy_loss(&whole, BETA))],
            &[number(oreo::response_policy_loss(&tokens, settings))],
        );
    }

    /// Problem A of the self-test: half of the four paths succeed. Then the point of the oracle,
    /// with the log-ratios of its logits.
    #[test]
    fn golden_a() {
        let reference: [[f64; 2]; 3] = [[0.5, 0.5], [0.25, 0.75], [0.6, 0.4]];
        let loss = |logits: [[f64; 2]; 3], value: f64| {
            let log_ratio = |state: usize, action: usize| {
                let total: f64 = logits[state].iter().map(|logit| logit.exp()).sum();
                logits[state][action] - total.ln() - reference[state][action].ln()
            };
            let paths = [(0, 0), (0, 1), (1, 0), (1, 1)];
            let sums =
                paths.map(|(first, second)| log_ratio(0, first) + log_ratio(1 + first, second));
            let inputs = DroInputs {
                log_ratios: tensor(&sums, [4]),
                values: tensor(&[value; 4], [4]),
                returns: tensor(&[1.0, 0.0, 0.0, 1.0], [4]),
            };
            number(value_loss(&inputs, BETA))
        };
        let point = [[0.2, -0.1], [0.3, 0.0], [-0.4, 0.1]];
        let got = [
            loss(reference.map(|row| row.map(f64::ln)), 0.0),
            loss(point, 0.3),
        ];
        assert_close(&got, &[0.5, 0.091_665_202_574_033_89]);
    }
}
