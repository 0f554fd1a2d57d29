//! GRPO: Group Relative Policy Optimization, from DeepSeekMath: Pushing the Limits of Mathematical
//! Reasoning in Open Language Models, arXiv 2402.03300, sections 4.1.1 and 4.1.2 (outcome
//! supervision).
//!
//! ```text
//! Â_i = ( R_i − mean(R) ) / std(R)                             over the G episodes of one task
//! ρ_t = log π_θ(a_t|s_t) − log π_old(a_t|s_t),  r_t = e^{ρ_t}  π_old sampled the episodes
//! L = − 1/G Σ_i 1/T_i Σ_t min( r_t Â_t, clip(r_t, 1−ε, 1+ε) Â_t ) + β KL( π_θ ‖ π_ref )   (−Eq. 3)
//! ```
//!
//! Â is the same for all actions of an episode. An action is a token or a turn.
//!
//! Differs from the paper:
//! - The caller adds the KL term: [`super::oreo::exact_kl`] over the vocabulary, or
//!   [`super::k3_kl`], the estimate of the paper's Eq. 4. Its ratios are to π_ref, not to π_old.
//! - std divides by G, because the group is the whole population. The paper does not specify this.
//!   If code divides by G − 1, its advantages are smaller by √((G−1)/G).
//! - No small number is added to std. If all returns are equal, every advantage is exactly 0.
//! - A batch may contain groups of several tasks; its mean is over all its episodes.

use super::{mean_per_trajectory, where_masked};
use burn::tensor::{Bool, Tensor, assert_shape};

/// The inputs of the surrogate.
#[derive(Debug, Clone)]
pub struct SurrogateInputs {
    /// ρ_t to the policy that sampled, not to the reference, nats, `[batch, actions]`.
    pub log_ratios: Tensor<2>,
    /// Â_t, `[batch, actions]`; it gets no gradient.
    pub advantages: Tensor<2>,
    /// True if there is an action, `[batch, actions]`.
    pub action_mask: Tensor<2, Bool>,
}

/// Returns Â of each episode of one task, in standard deviations of the returns: mean 0, mean
/// square 1.
///
/// If all returns are the same, for example in a group of one, all advantages are 0.
#[must_use]
pub fn group_advantages(returns: &[f64]) -> Vec<f64> {
    if returns.iter().all(|&return_| return_ == returns[0]) {
        return vec![0.0; returns.len()];
    }
    let center = mean(returns);
    let deviations: Vec<f64> = returns.iter().map(|return_| return_ - center).collect();
    let squares: Vec<f64> = deviations
        .iter()
        .map(|deviation| deviation * deviation)
        .collect();
    let deviation = mean(&squares).sqrt();
    deviations
        .into_iter()
        .map(|difference| difference / deviation)
        .collect()
}

/// Returns −Eq. 3 without its KL term; only `log_ratios` gets a gradient.
///
/// If the ratio of an action is beyond the clip in the direction of its advantage, the action gets
/// no gradient.
///
/// # Shapes
/// See [`SurrogateInputs`]; the result `[1]`. `clip` is ε, relative to a ratio of 1.
#[must_use]
pub fn clipped_surrogate_loss(inputs: &SurrogateInputs, clip: f64) -> Tensor<1> {
    let [batch, actions] = inputs.action_mask.dims();
    assert_shape!(inputs.advantages, [batch, actions]);
    let ratios = where_masked(inputs.log_ratios.clone(), &inputs.action_mask).exp();
    let advantages = inputs.advantages.clone().detach();
    let clipped = ratios.clone().clamp(1.0 - clip, 1.0 + clip) * advantages.clone();
    -mean_per_trajectory((ratios * advantages).min_pair(clipped), &inputs.action_mask)
}

fn mean(terms: &[f64]) -> f64 {
    terms.iter().sum::<f64>() / terms.len() as f64
}

#[cfg(test)]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, tensor};
    use super::*;

    const CLIP: f64 = 0.2;

    /// The two episodes of the oracle, of three and two actions, within and beyond the clip on both
    /// sides.
    fn ragged() -> SurrogateInputs {
        SurrogateInputs {
            log_ratios: tensor(&[0.1, 0.4, -0.5, -0.1, 0.3, f64::NAN], [2, 3]).require_grad(),
            advantages: tensor(&[1.2, 1.2, 1.2, -0.8, -0.8, f64::NAN], [2, 3]).require_grad(),
            action_mask: mask(&[true, true, true, true, true, false], [2, 3]),
        }
    }

    /// [1, 0, 0, 0]: mean ¼, variance 3/16, so ¾ / (√3/4) = √3 and −1/√3.
    #[test]
    fn group_advantages_by_hand() {
        let third = -(1.0 / 3f64.sqrt());
        assert_close(
            &group_advantages(&[1.0, 0.0, 0.0, 0.0]),
            &[3f64.sqrt(), third, third, third],
        );
    }

    /// The floating-point mean of three times 0.1 is not 0.1; the advantages are still 0.
    #[test]
    fn equal_returns_have_no_advantage() {
        assert_eq!(group_advantages(&[0.1; 3]), [0.0; 3]);
        assert_eq!(group_advantages(&[1.0]), [0.0]);
        assert!(group_advantages(&[]).is_empty());
    }

    /// If Â = 2: r = 1 gives 2, r = 2 is clipped to 1.2 and gives 2.4. If Â = −1: r = ½ is clipped
    /// to 0.8 and gives −0.8, r = 2 is not clipped and gives −2. −(2 + 2.4 − 0.8 − 2)/4 = −0.4.
    #[test]
    fn surrogate_by_hand() {
        let two = 2f64.ln();
        let inputs = SurrogateInputs {
            log_ratios: tensor(&[0.0, two, -two, two], [1, 4]).require_grad(),
            advantages: tensor(&[2.0, 2.0, -1.0, -1.0], [1, 4]),
            action_mask: mask(&[true; 4], [1, 4]),
        };
        let loss = clipped_surrogate_loss(&inputs, CLIP);
        assert_close(&[number(loss.clone())], &[-0.4]);
        // −r Â / 4 if it is not clipped.
        let got = gradient(&loss, &inputs.log_ratios);
        assert_close(&got, &[-0.5, 0.0, 0.0, 0.5]);
        assert_eq!((got[1], got[2]), (0.0, 0.0));
    }

    /// Recorded from tests/oracle/losses.py, "grpo advantages".
    #[test]
    fn group_advantages_against_the_oracle() {
        let expected = [
            1.200_198_396_297_958,
            -0.981_980_506_061_965_7,
            -0.436_435_780_471_984_8,
            1.200_198_396_297_958,
            -0.981_980_506_061_965_7,
        ];
        assert_close(&group_advantages(&[1.0, 0.0, 0.25, 1.0, 0.0]), &expected);
    }

    /// Recorded from tests/oracle/losses.py, "grpo surrogate". The second is clipped and the last
    /// is masked: exactly 0.
    #[test]
    fn surrogate_against_the_oracle() {
        let inputs = ragged();
        let loss = clipped_surrogate_loss(&inputs, CLIP);
        assert_close(&[number(loss.clone())], &[-0.131_401_070_435_263_6]);
        let expected = [
            -0.221_034_183_615_129_53,
            0.0,
            -0.121_306_131_942_526_68,
            0.180_967_483_607_191_92,
            0.269_971_761_515_200_64,
        ];
        let got = gradient(&loss, &inputs.log_ratios);
        assert_close(&got[..5], &expected);
        assert_eq!((got[1], got[5]), (0.0, 0.0));
    }

    #[test]
    fn advantages_get_no_gradient() {
        let inputs = ragged();
        assert!(
            inputs
                .advantages
                .grad(&clipped_surrogate_loss(&inputs, CLIP).backward())
                .is_none()
        );
    }

    /// If the policy is the one that sampled, the gradient is the policy gradient for any clip:
    /// −Â_t / T / G.
    #[test]
    fn the_first_update_is_the_policy_gradient() {
        let mut inputs = ragged();
        inputs.log_ratios = tensor(&[0.0; 6], [2, 3]).require_grad();
        let got = gradient(&clipped_surrogate_loss(&inputs, CLIP), &inputs.log_ratios);
        assert_close(&got, &[-0.2, -0.2, -0.2, 0.2, 0.2, 0.0]);
    }

    /// With the same advantages; those of a group are computed before.
    #[test]
    fn a_batch_equals_its_singles() {
        let single = |row: usize, actions: usize| {
            let cut = |tensor: Tensor<2>| tensor.narrow(0, row, 1).narrow(1, 0, actions);
            let whole = ragged();
            SurrogateInputs {
                log_ratios: cut(whole.log_ratios),
                advantages: cut(whole.advantages),
                action_mask: whole.action_mask.narrow(0, row, 1).narrow(1, 0, actions),
            }
        };
        let loss = |inputs: SurrogateInputs| number(clipped_surrogate_loss(&inputs, CLIP));
        assert_close(
            &[loss(ragged())],
            &[(loss(single(0, 3)) + loss(single(1, 2))) / 2.0],
        );
    }
}
