//! OREO: Offline Reinforcement Learning for LLM Multi-Step Reasoning, arXiv 2412.16145, sections
//! 3.2 and 3.3.
//!
//! ```text
//! l_t = log π_θ(a_t|s_t) − log π_ref(a_t|s_t)                                             nats
//! L_V = 1/T Σ_t ( V_φ(s_t) − R_t + β Σ_{i≥t} sg[l_i] )²                                   (Eq. 8)
//! L_π = 1/T Σ_t ( sg[V_φ(s_t)] − R_t + β l_t + sg[β Σ_{i>t} l_i] )² + α L_reg             (Eq. 9)
//! L_reg = 1/T Σ_t KL( π_θ(·|s_t) ‖ π_ref(·|s_t) )
//! L_π^resp = ( sg[V_φ(s_0)] − R_0 + β Σ_{i≥0} l_i )² + α L_reg                            (Eq. 10)
//! ```
//!
//! The losses have one `actions` axis. An action is a token (token-level) or a turn, whose l_t is
//! the sum over its tokens (the paper's step-level). Both use the same functions over another
//! aggregation ([`turn_sums`]). T is the trajectory's own number of actions.
//!
//! If the environment is deterministic, every loss is 0 at (π*, V*), the solution of the soft
//! Bellman equation. If it is stochastic, Eq. 8, Eq. 9 and L_U are still stationary there on two
//! conditions: the stop-gradient of Eq. 9, and a T that chance does not decide. Eq. 10 has no
//! stop-gradient, so it is not stationary there.
//!
//! 1/T is a weight that depends on the outcome if won episodes end early and lost ones do not. If
//! π = π_ref, Eq. 8 then has its minimum at V(s) = E[R/T | s] / E[1/T | s], not at E[R | s]: the
//! value of a state from which short wins are possible is too high, and π leans towards them.
//! `normalise = "batch"` of a recipe, [`ActionDivisor::BatchMean`], gives every action of a batch
//! the same weight and removes this. In batches of B trajectories a dependence of order 1/B
//! remains, because the number of actions in the batch depends on the outcomes in it.
//!
//! Differs from the paper:
//! - `α L_reg` is [`exact_kl`], a separate term that the caller adds: 1/T there always counts
//!   tokens.
//! - [`response_value_loss`] is Eq. 8 at t = 0 alone; the paper prints only the policy side of Eq.
//!   10.
//! - [`after_value_loss`] is not in the paper: U(s_t, a_t) is the value after an action, which
//!   best-of-K over whole turns needs. L_U = 1/T Σ_t ( U(s_t,a_t) − R_t + β Σ_{i>t} sg\[l_i\] )²;
//!   at the optimum U* = Q*. If the value network has an advantage head, U = sg\[V\] + A.
//! - The squares of L_V and L_U may be replaced by the cross-entropy of [`super::hl_gauss`], with the
//!   same targets.
//! - A recipe's `imitation_coef` adds the imitation of won trajectories to the policy loss:
//!   [`super::rejection_sampling::won_loss`].
//! - [`OreoSettings`] has three more settings, which are not in the paper. The values of
//!   [`OreoSettings::published`] leave the equations above as they are, to the bit.
//!
//! With a discount γ per turn (as in PCL, arXiv 1702.08892), if the level is `turn`:
//!
//! ```text
//! G_t = Σ_{i≥t} γ^{i−t} r_i        Λ_t = Σ_{i≥t} γ^{i−t} l_i
//! L_V = 1/T Σ_t ( V_φ(s_t) − G_t + β sg[Λ_t] )²
//! L_π = 1/T Σ_t ( sg[V_φ(s_t)] − G_t + β l_t + sg[β γ Λ_{t+1}] )² + α L_reg
//! L_U = 1/T Σ_t ( U(s_t,a_t) − G_t + β sg[γ Λ_{t+1}] )²
//! ```
//!
//! With paths of n actions (PCL's d), if the level is `turn`, L_π and L_U end at V instead of the end of
//! the episode; what lies beyond the end is 0. L_V stays as it is.
//!
//! ```text
//! G_t^n = G_t − γ^n ( G_{t+n} − sg[V_φ(s_{t+n})] )        Λ_t^n = Λ_t − γ^n Λ_{t+n}
//! L_π = 1/T Σ_t ( sg[V_φ(s_t)] − G_t^n + β l_t + sg[β γ Λ_{t+1}^{n−1}] )² + α L_reg
//! L_U = 1/T Σ_t ( U(s_t,a_t) − G_t^n + β sg[γ Λ_{t+1}^{n−1}] )²
//! ```
//!
//! Chance after the n-th action then adds no noise, but the errors of V do.
//!
//! The optimum of all of these is that of V*(s) = β log Σ_a π_ref(a|s) e^{Q*(s,a)/β}, Q* = r + γ E V*(s'). At
//! the optimum U* = Q*, and U* − V* = β log(π*/π_ref) as without a discount.

use super::{
    ActionDivisor, ahead, discounted_suffix_sum, mean_over_actions, mean_per_trajectory,
    suffix_sum, where_masked,
};
use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor, assert_shape};

/// The settings of OREO's losses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OreoSettings {
    /// β, reward per nat.
    pub beta: f64,
    /// γ per action, in (0, 1]. If it is below 1, the actions of a trajectory must be at the left of
    /// its row without gaps, and `returns` must be discounted. The response level ignores it.
    pub discount: f64,
    /// Limit c of the summed log-ratios in the losses of V and U, reward units: β Σ l is clipped to
    /// [−c, c]. L_π is not clipped. If it is `None`, nothing is clipped.
    pub log_ratio_clip: Option<f64>,
    /// Number n of actions after which the paths of L_π and L_U end at V; `None` means at the end of the
    /// episode. The response level ignores it.
    pub path_length: Option<usize>,
    /// What the sums over actions are divided by. The response level has one action per trajectory
    /// and ignores it.
    pub divisor: ActionDivisor,
}

impl OreoSettings {
    /// Returns the settings of the paper: γ = 1, no clip, whole paths, mean within each trajectory.
    #[must_use]
    pub const fn published(beta: f64) -> Self {
        Self {
            beta,
            discount: 1.0,
            log_ratio_clip: None,
            path_length: None,
            divisor: ActionDivisor::Own,
        }
    }

    /// Returns Λ_t = Σ_{i≥t} γ^{i−t} l_i.
    fn whole_sum(&self, log_ratios: Tensor<2>) -> Tensor<2> {
        if self.discount < 1.0 {
            discounted_suffix_sum(log_ratios, self.discount)
        } else {
            suffix_sum(log_ratios)
        }
    }

    /// Returns γ Λ_{t+1} = Σ_{i>t} γ^{i−t} l_i.
    fn later(&self, log_ratios: Tensor<2>) -> Tensor<2> {
        if self.discount < 1.0 {
            ahead(self.whole_sum(log_ratios), 1) * self.discount
        } else {
            suffix_sum(log_ratios.clone()) - log_ratios
        }
    }

    /// Returns β times a sum of log-ratios, clipped.
    fn soft_reward(&self, log_ratios: Tensor<2>) -> Tensor<2> {
        let soft_reward = log_ratios * self.beta;
        match self.log_ratio_clip {
            Some(limit) => soft_reward.clamp(-limit, limit),
            None => soft_reward,
        }
    }
}

/// The inputs of every OREO loss. They have no vocabulary axis.
///
/// A graph allows one backward pass only. If two losses go back through the same network (L_V and
/// L_U through one trunk), add them first.
#[derive(Debug, Clone)]
pub struct OreoInputs {
    /// l_t, nats, `[batch, actions]`.
    pub log_ratios: Tensor<2>,
    /// V_φ(s_t) just before each action, reward units, `[batch, actions]`.
    pub values: Tensor<2>,
    /// R_t, or G_t if γ < 1, reward units, `[batch, actions]`; or `[batch, 1]` if one terminal reward
    /// makes them all equal.
    pub returns: Tensor<2>,
    /// True if there is an action, `[batch, actions]`.
    pub action_mask: Tensor<2, Bool>,
}

impl OreoInputs {
    /// Returns l_t, and 0 if there is no action, so that sums may run over the whole axis.
    fn masked_log_ratios(&self) -> Tensor<2> {
        let [batch, actions] = self.action_mask.dims();
        let [_, returns] = self.returns.dims();
        assert_shape!(self.values, [batch, actions]);
        assert_shape!(
            self.returns,
            [batch, if returns == 1 { 1 } else { actions }]
        );
        where_masked(self.log_ratios.clone(), &self.action_mask)
    }

    /// Returns the return of the path that begins with each action, G_t^n, and the log-ratios of its
    /// later actions, γ Λ_{t+1}^{n−1}. Neither has a gradient.
    fn paths(&self, settings: OreoSettings) -> (Tensor<2>, Tensor<2>) {
        let log_ratios = self.masked_log_ratios().detach();
        let later = settings.later(log_ratios.clone());
        let Some(length) = settings.path_length else {
            return (self.returns.clone(), later);
        };
        let factor = (0..length).fold(1.0, |factor, _| factor * settings.discount);
        let [batch, actions] = self.action_mask.dims();
        let returns = self.returns.clone().expand([batch, actions]);
        let returns = where_masked(returns, &self.action_mask);
        let values = where_masked(self.values.clone().detach(), &self.action_mask);
        let behind = ahead(returns.clone() - values, length) * factor;
        let later_behind = ahead(settings.whole_sum(log_ratios), length) * factor;
        (returns - behind, later - later_behind)
    }

    /// Returns the mean square of the residuals of actions.
    fn mean_square(&self, residuals: Tensor<2>, divisor: ActionDivisor) -> Tensor<1> {
        mean_over_actions(
            where_masked(residuals, &self.action_mask).square(),
            &self.action_mask,
            divisor,
        )
    }

    /// Returns the mean over the batch of (V − R + `soft_rewards`)² at t = 0.
    fn first_mean_square(&self, values: Tensor<2>, soft_rewards: Tensor<2>) -> Tensor<1> {
        let first = first_actions(&self.action_mask);
        let residuals = values - self.returns.clone() + soft_rewards;
        mean_per_trajectory(where_masked(residuals, &first).square(), &first)
    }
}

/// Returns Eq. 8; only `values` gets a gradient.
///
/// # Shapes
/// See [`OreoInputs`]; the result `[1]`, reward units squared.
#[must_use]
pub fn value_loss(inputs: &OreoInputs, settings: OreoSettings) -> Tensor<1> {
    inputs.mean_square(value_residuals(inputs, settings), settings.divisor)
}

/// Returns V(s_t) minus its target G_t − β Σ_{i≥t} γ^{i−t} sg\[l_i\], reward units,
/// `[batch, actions]`; only `values` gets a gradient.
#[must_use]
pub fn value_residuals(inputs: &OreoInputs, settings: OreoSettings) -> Tensor<2> {
    let rest = settings.whole_sum(inputs.masked_log_ratios().detach()); // Σ_{i≥t} l_i
    inputs.values.clone() - inputs.returns.clone() + settings.soft_reward(rest)
}

/// Returns Eq. 9 without `α L_reg`; only `log_ratios` gets a gradient, and that of action t is from
/// its own residual alone.
///
/// # Shapes
/// See [`OreoInputs`]; the result `[1]`, reward units squared.
#[must_use]
pub fn policy_loss(inputs: &OreoInputs, settings: OreoSettings) -> Tensor<1> {
    let log_ratios = inputs.masked_log_ratios();
    let (returns, later) = inputs.paths(settings);
    let values = inputs.values.clone().detach();
    let residuals = values - returns + (log_ratios + later) * settings.beta;
    inputs.mean_square(residuals, settings.divisor)
}

/// Returns L_U, Eq. 8 for the after-state value; only `after_values` gets a gradient.
/// `inputs.values` is read only if paths have a length.
///
/// # Shapes
/// `after_values` `[batch, actions]`, U just after each action; the result `[1]`.
#[must_use]
pub fn after_value_loss(
    after_values: Tensor<2>,
    inputs: &OreoInputs,
    settings: OreoSettings,
) -> Tensor<1> {
    let residuals = after_value_residuals(after_values, inputs, settings);
    inputs.mean_square(residuals, settings.divisor)
}

/// Returns U(s_t, a_t) minus its target G_t − β Σ_{i>t} γ^{i−t} sg\[l_i\], reward units,
/// `[batch, actions]`; only `after_values` gets a gradient.
#[must_use]
pub fn after_value_residuals(
    after_values: Tensor<2>,
    inputs: &OreoInputs,
    settings: OreoSettings,
) -> Tensor<2> {
    let (returns, later) = inputs.paths(settings);
    let [batch, actions] = inputs.action_mask.dims();
    assert_shape!(after_values, [batch, actions]);
    after_values - returns + settings.soft_reward(later)
}

/// Returns Eq. 10 without `α L_reg`: the t = 0 term of Eq. 9 without stop-gradient; only
/// `log_ratios` gets a gradient.
///
/// # Shapes
/// See [`OreoInputs`]; the result `[1]`.
#[must_use]
pub fn response_policy_loss(inputs: &OreoInputs, settings: OreoSettings) -> Tensor<1> {
    let rest = suffix_sum(inputs.masked_log_ratios()) * settings.beta;
    inputs.first_mean_square(inputs.values.clone().detach(), rest)
}

/// Returns the t = 0 term of Eq. 8, the counterpart of Eq. 10; only V_φ(s_0) gets a gradient.
///
/// # Shapes
/// See [`OreoInputs`]; the result `[1]`.
#[must_use]
pub fn response_value_loss(inputs: &OreoInputs, settings: OreoSettings) -> Tensor<1> {
    let rest = settings.soft_reward(suffix_sum(inputs.masked_log_ratios().detach()));
    inputs.first_mean_square(inputs.values.clone(), rest)
}

/// Returns L_reg: exact D_KL(π_θ ‖ π_ref) over the full vocabulary, nats, summed over a trajectory's
/// action tokens, divided by `divisor`, mean over the batch; only `policy_logprobs` gets a gradient.
///
/// # Shapes
/// `policy_logprobs` and `reference_logprobs` `[batch, time, vocab]`, normalised and finite;
/// `action_mask` `[batch, time]`; the result `[1]`. `time` may be any axis of positions, so action
/// tokens alone suffice.
#[must_use]
pub fn exact_kl(
    policy_logprobs: Tensor<3>,
    reference_logprobs: Tensor<3>,
    action_mask: &Tensor<2, Bool>,
    divisor: ActionDivisor,
) -> Tensor<1> {
    let [batch, time, vocab] = policy_logprobs.dims();
    assert_shape!(reference_logprobs, [batch, time, vocab]);
    let log_ratios = policy_logprobs.clone() - reference_logprobs.detach();
    let divergences = (policy_logprobs.exp() * log_ratios)
        .sum_dim(2)
        .squeeze_dim(2);
    mean_over_actions(divergences, action_mask, divisor)
}

/// Returns the sums of token terms over each turn: token-level log-ratios become turn-level ones.
///
/// # Shapes
/// `token_terms`, `turn_of_target` (from 0, read only if the mask is true) and `action_mask`
/// `[batch, time]`; the result `[batch, turns]`.
#[must_use]
pub fn turn_sums(
    token_terms: Tensor<2>,
    turn_of_target: Tensor<2, Int>,
    action_mask: &Tensor<2, Bool>,
    turns: usize,
) -> Tensor<2> {
    let [batch, time] = token_terms.dims();
    assert_shape!(turn_of_target, [batch, time]);
    let turn_of_target = turn_of_target.mask_fill(action_mask.clone().bool_not(), 0);
    let token_terms = where_masked(token_terms, action_mask);
    let zeros = Tensor::zeros([batch, turns], (&token_terms.device(), token_terms.dtype()));
    zeros.scatter(1, turn_of_target, token_terms, IndexingUpdateOp::Add)
}

/// Returns true at the first action of each trajectory only.
fn first_actions(action_mask: &Tensor<2, Bool>) -> Tensor<2, Bool> {
    let so_far = action_mask.clone().int().cumsum(1);
    so_far.equal_scalar(1).bool_and(action_mask.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, numbers, tensor};
    use super::*;
    use burn::tensor::activation::log_softmax;

    const PUBLISHED: OreoSettings = OreoSettings::published(0.5);
    type Loss = fn(&OreoInputs, OreoSettings) -> Tensor<1>;
    type Field = fn(&OreoInputs) -> &Tensor<2>;

    /// One trajectory of two actions: l = [2, −1], V = [1, 0], R = 1.
    fn by_hand() -> OreoInputs {
        OreoInputs {
            log_ratios: tensor(&[2.0, -1.0], [1, 2]),
            values: tensor(&[1.0, 0.0], [1, 2]),
            returns: tensor(&[1.0], [1, 1]),
            action_mask: mask(&[true, true], [1, 2]),
        }
    }

    /// The two trajectories of the oracle, of three and two actions; NaN if there is no action.
    fn ragged() -> OreoInputs {
        OreoInputs {
            log_ratios: tensor(&[0.4, -0.2, 0.1, -0.3, 0.5, f64::NAN], [2, 3]).require_grad(),
            values: tensor(&[0.2, 0.5, 0.9, 0.1, -0.4, f64::NAN], [2, 3]).require_grad(),
            returns: tensor(&[1.0, 0.0], [2, 1]),
            action_mask: mask(&[true, true, true, true, true, false], [2, 3]),
        }
    }

    fn ragged_after_values() -> Tensor<2> {
        tensor(&[0.3, 0.6, 0.8, 0.0, -0.1, f64::NAN], [2, 3]).require_grad()
    }

    /// t = 0: 1 − 1 + ½(2 − 1) = ½; t = 1: 0 − 1 − ½ = −3/2. (¼ + 9/4)/2 = 5/4.
    #[test]
    fn value_loss_by_hand() {
        assert_close(&[number(value_loss(&by_hand(), PUBLISHED))], &[1.25]);
    }

    /// As a number, without its gradient, Eq. 9 equals Eq. 8: 5/4.
    #[test]
    fn policy_loss_by_hand() {
        assert_close(&[number(policy_loss(&by_hand(), PUBLISHED))], &[1.25]);
    }

    /// U = [0, 1]. t = 0: 0 − 1 + ½(−1) = −3/2; t = 1: 1 − 1 = 0. (9/4 + 0)/2 = 9/8.
    #[test]
    fn after_value_loss_by_hand() {
        let after_values = tensor(&[0.0, 1.0], [1, 2]);
        assert_close(
            &[number(after_value_loss(
                after_values,
                &by_hand(),
                PUBLISHED,
            ))],
            &[1.125],
        );
    }

    /// (1 − 1 + ½(2 − 1))² = ¼.
    #[test]
    fn response_losses_by_hand() {
        assert_close(
            &[number(response_policy_loss(&by_hand(), PUBLISHED))],
            &[0.25],
        );
        assert_close(
            &[number(response_value_loss(&by_hand(), PUBLISHED))],
            &[0.25],
        );
    }

    /// π = [3/4, 1/4] against [1/2, 1/2]: ¾ ln 3/2 + ¼ ln 1/2. The other direction, ½ ln 2/3 + ½ ln
    /// 2, differs.
    #[test]
    fn exact_kl_by_hand() {
        let policy = tensor(&[0.75f64.ln(), 0.25f64.ln()], [1, 1, 2]);
        let reference = tensor(&[0.5f64.ln(), 0.5f64.ln()], [1, 1, 2]);
        let kl = number(exact_kl(
            policy,
            reference,
            &mask(&[true], [1, 1]),
            ActionDivisor::Own,
        ));
        assert_close(&[kl], &[0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln()]);
    }

    /// Recorded from tests/oracle/oreo_golden.py, "ragged value". The last gradient is the masked
    /// one: exactly 0.
    #[test]
    fn value_loss_against_the_oracle() {
        let inputs = ragged();
        let loss = value_loss(&inputs, PUBLISHED);
        assert_close(&[number(loss.clone())], &[0.136_875]);
        let expected = [
            -0.216_666_666_666_666_65,
            -0.183_333_333_333_333_38,
            -0.016_666_666_666_666_66,
            0.1,
            -0.075,
        ];
        let got = gradient(&loss, &inputs.values);
        assert_close(&got[..5], &expected);
        assert_eq!(got[5], 0.0);
    }

    /// Recorded from tests/oracle/oreo_golden.py, "ragged policy".
    #[test]
    fn policy_loss_against_the_oracle() {
        let inputs = ragged();
        let loss = policy_loss(&inputs, PUBLISHED);
        assert_close(&[number(loss.clone())], &[0.136_875]);
        let expected = [
            -0.108_333_333_333_333_36,
            -0.091_666_666_666_666_65,
            -0.008_333_333_333_333_33,
            0.05,
            -0.0375,
        ];
        let got = gradient(&loss, &inputs.log_ratios);
        assert_close(&got[..5], &expected);
        assert_eq!(got[5], 0.0);
    }

    /// Recorded from tests/oracle/oreo_golden.py, "ragged after".
    #[test]
    fn after_value_loss_against_the_oracle() {
        let after_values = ragged_after_values();
        let loss = after_value_loss(after_values.clone(), &ragged(), PUBLISHED);
        assert_close(&[number(loss.clone())], &[0.138_958_333_333_333_35]);
        let expected = [
            -0.25,
            -0.116_666_666_666_666_67,
            -0.066_666_666_666_666_65,
            0.125,
            -0.05,
        ];
        let got = gradient(&loss, &after_values);
        assert_close(&got[..5], &expected);
        assert_eq!(got[5], 0.0);
    }

    /// Recorded from tests/oracle/oreo_golden.py, "ragged response policy" and "ragged response
    /// value".
    #[test]
    fn response_losses_against_the_oracle() {
        let inputs = ragged();
        let policy = response_policy_loss(&inputs, PUBLISHED);
        assert_close(&[number(policy.clone())], &[0.231_25]);
        let got = gradient(&policy, &inputs.log_ratios);
        assert_close(&got[..5], &[-0.325, -0.325, -0.325, 0.1, 0.1]);
        assert_eq!(got[5], 0.0);

        let value = response_value_loss(&inputs, PUBLISHED);
        assert_close(&[number(value.clone())], &[0.231_25]);
        let got = gradient(&value, &inputs.values);
        assert_close(&got[..5], &[-0.65, 0.0, 0.0, 0.2, 0.0]);
        assert_eq!(got[5], 0.0);
    }

    /// Recorded from tests/oracle/oreo_golden.py, "kl". The fourth position is masked: its gradient
    /// is exactly 0.
    #[test]
    fn exact_kl_against_the_oracle() {
        let logits = [
            0.5, -0.2, 0.1, 0.0, 1.0, -1.0, 0.3, 0.3, -0.6, 9.0, -9.0, 0.0,
        ];
        let reference = [0.1, 0.0, 0.4, 0.2, 0.2, 0.2, -0.5, 0.1, 0.7, 0.0, 0.0, 0.0];
        let logits = tensor(&logits, [2, 2, 3]).require_grad();
        let reference = log_softmax(tensor(&reference, [2, 2, 3]), 2);
        let action_mask = mask(&[true, true, true, false], [2, 2]);
        let loss = exact_kl(
            log_softmax(logits.clone(), 2),
            reference,
            &action_mask,
            ActionDivisor::Own,
        );
        assert_close(&[number(loss.clone())], &[0.246_189_243_648_717_75]);
        let expected = [
            0.040_846_484_883_442_57,
            -0.014_091_431_643_814_342,
            -0.026_755_053_239_628_22,
            -0.035_192_589_367_407_53,
            0.070_646_862_769_860_58,
            -0.035_454_273_402_453_045,
            0.125_509_524_704_759_7,
            0.000_850_760_398_582_653_6,
            -0.126_360_285_103_342_32,
        ];
        let got = numbers(logits.grad(&loss.backward()).unwrap());
        assert_close(&got[..9], &expected);
        assert_eq!(got[9..], [0.0; 3]);
    }

    /// Eq. 8 detaches the policy, Eq. 9 the value: no gradient is even recorded for the other
    /// network.
    #[test]
    fn each_loss_moves_its_own_network_only() {
        let detached: [(Loss, Field); 4] = [
            (value_loss, |inputs| &inputs.log_ratios),
            (policy_loss, |inputs| &inputs.values),
            (response_value_loss, |inputs| &inputs.log_ratios),
            (response_policy_loss, |inputs| &inputs.values),
        ];
        for (loss, frozen) in detached {
            let inputs = ragged();
            assert!(
                frozen(&inputs)
                    .grad(&loss(&inputs, PUBLISHED).backward())
                    .is_none()
            );
        }
        let inputs = ragged();
        let after_values = ragged_after_values();
        let gradients = after_value_loss(after_values, &inputs, PUBLISHED).backward();
        assert!(inputs.log_ratios.grad(&gradients).is_none());
        assert!(inputs.values.grad(&gradients).is_none());
    }

    #[test]
    fn the_reference_stays_frozen() {
        let logprobs = || tensor(&[0.75f64.ln(), 0.25f64.ln()], [1, 1, 2]).require_grad();
        let policy = logprobs();
        let reference = logprobs();
        let loss = exact_kl(
            policy.clone(),
            reference.clone(),
            &mask(&[true], [1, 1]),
            ActionDivisor::Own,
        );
        let gradients = loss.backward();
        assert!(policy.grad(&gradients).is_some());
        assert!(reference.grad(&gradients).is_none());
    }

    /// The mean over two trajectories is the mean of both singles, the second without its padding.
    #[test]
    fn a_batch_equals_its_singles() {
        let single = |row: usize, actions: usize| {
            let cut = |tensor: Tensor<2>| tensor.narrow(0, row, 1).narrow(1, 0, actions);
            let whole = ragged();
            OreoInputs {
                log_ratios: cut(whole.log_ratios),
                values: cut(whole.values),
                returns: whole.returns.narrow(0, row, 1),
                action_mask: whole.action_mask.narrow(0, row, 1).narrow(1, 0, actions),
            }
        };
        let losses: [Loss; 5] = [
            value_loss,
            policy_loss,
            response_policy_loss,
            response_value_loss,
            |inputs, settings| after_value_loss(inputs.values.clone() * 3.0, inputs, settings),
        ];
        for loss in losses {
            let singles = (number(loss(&single(0, 3), PUBLISHED))
                + number(loss(&single(1, 2), PUBLISHED)))
                / 2.0;
            assert_close(&[number(loss(&ragged(), PUBLISHED))], &[singles]);
        }
    }

    /// Returns per action [1, 1, 1 | 0, 0, 0] give the same losses as one return a trajectory.
    #[test]
    fn one_terminal_return_equals_returns_per_action() {
        let mut spread = ragged();
        spread.returns = tensor(&[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [2, 3]);
        for loss in [
            value_loss,
            policy_loss,
            response_policy_loss,
            response_value_loss,
        ] {
            assert_close(
                &[number(loss(&spread, PUBLISHED))],
                &[number(loss(&ragged(), PUBLISHED))],
            );
        }
    }

    /// If observations (−) are between actions, nothing changes: [−, 0.4, −, −0.2, 0.1] equals
    /// [0.4, −0.2, 0.1].
    #[test]
    fn gaps_between_actions_change_nothing() {
        let nan = f64::NAN;
        let gapped = OreoInputs {
            log_ratios: tensor(
                &[nan, 0.4, nan, -0.2, 0.1, nan, -0.3, nan, 0.5, nan],
                [2, 5],
            ),
            values: tensor(&[nan, 0.2, nan, 0.5, 0.9, nan, 0.1, nan, -0.4, nan], [2, 5]),
            returns: tensor(&[1.0, 0.0], [2, 1]),
            action_mask: mask(
                &[
                    false, true, false, true, true, false, true, false, true, false,
                ],
                [2, 5],
            ),
        };
        for loss in [
            value_loss,
            policy_loss,
            response_policy_loss,
            response_value_loss,
        ] {
            assert_close(
                &[number(loss(&gapped, PUBLISHED))],
                &[number(loss(&ragged(), PUBLISHED))],
            );
        }
    }

    /// Tokens 1 2 | 4 of turns 0 0 | 1, with an observation (of turn 99) between: the sums are 3
    /// and 4. Every token gets the gradient of its turn.
    #[test]
    fn turn_sums_by_hand() {
        let terms = tensor(&[1.0, 2.0, f64::NAN, 4.0], [1, 4]).require_grad();
        let turn_of_target = Tensor::from_data([[0, 0, 99, 1]], &terms.device());
        let sums = turn_sums(
            terms.clone(),
            turn_of_target,
            &mask(&[true, true, false, true], [1, 4]),
            3,
        );
        let gradients = (sums.clone() * tensor(&[10.0, 20.0, 30.0], [1, 3]))
            .sum()
            .backward();
        assert_eq!(
            numbers(terms.grad(&gradients).unwrap()),
            [10.0, 10.0, 0.0, 20.0]
        );
        assert_eq!(numbers(sums), [3.0, 4.0, 0.0]);
    }
}

#[cfg(test)]
mod extension_tests;
