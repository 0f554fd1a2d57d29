//! DQO: Enhancing Multi-Step Reasoning Abilities of Language Models through Direct Q-Function
//! Optimization, arXiv 2410.09302v2, the sections on the objective, on the λ-return and on
//! importance sampling.
//!
//! ```text
//! l_h = log π_θ(a_h|s_h) − log π_ref(a_h|s_h)                                                 nats
//! G^(n)(s_h) = V(s_{h+n}) + Σ_{j<n} ( r_{h+j} − β l_{h+j} ),           V past the end = 0
//! G^λ(s_h) = (1−λ) Σ_{n=1}^{N−1} λ^{n−1} G^(n)(s_h) + λ^{N−1} G^(N)(s_h),     N actions left
//!          = r_h − β l_h + (1−λ) V(s_{h+1}) + λ G^λ(s_{h+1}),          G^λ past the end = 0
//! w(τ) = sg[ min( π_θ(τ)/π_ref(τ), e ) ]
//! L_V = 1/H Σ_h w ( sg[G^λ(s_h)] − V_φ(s_h) )²
//! L_π = 1/H Σ_h w ( sg[V_φ(s_h)] + β l_h − r_h − sg[G^λ(s_{h+1})] )²
//! ```
//!
//! The policy is the Q-function: Q_θ(s_h,a_h) = V_φ(s_h) + β l_h. If λ = 1 and w = 1, both losses
//! are those of [`super::oreo`], Eq. 8 and Eq. 9. If λ = 0, L_V is the squared one-step residual.
//! L_π still depends on two actions, because its target is r_h + G^λ(s_{h+1}), and G^0 contains one
//! step. If the environment is deterministic, both are 0 at (π*, V*) for every λ and w. An action
//! is a token or a turn.
//!
//! Differs from the paper:
//! - The last term of the λ-return has the weight λ^{N−1}. The printed sum lacks it, so its weights
//!   do not add up to 1.
//! - H is the trajectory's own number of actions: mean within a trajectory, then over the batch, as
//!   in OREO.
//! - The weights are an argument, so w = 1 is a tensor of ones, not a flag.
//! - Process scores (from completions sampled after prefixes) are computed elsewhere, and are part
//!   of `rewards`.

use super::{ahead, discounted_suffix_sum, mean_per_trajectory, where_masked};
use burn::tensor::{Bool, Tensor, assert_shape};

/// The inputs of every DQO loss.
///
/// The actions of a trajectory are at the left of its row without gaps: the mask is a run of true,
/// then of false. The entry to the right of an action is that of the next action, or the end.
#[derive(Debug, Clone)]
pub struct DqoInputs {
    /// l_h, nats, `[batch, actions]`.
    pub log_ratios: Tensor<2>,
    /// V_φ(s_h) just before each action, reward units, `[batch, actions]`.
    pub values: Tensor<2>,
    /// r_h, reward units, `[batch, actions]`. If there are no process scores, only the last action
    /// has one.
    pub rewards: Tensor<2>,
    /// True if there is an action, `[batch, actions]`.
    pub action_mask: Tensor<2, Bool>,
}

impl DqoInputs {
    /// Returns `terms`, one of the fields, with 0 if there is no action, so that terms past the end
    /// are 0.
    fn masked(&self, terms: &Tensor<2>) -> Tensor<2> {
        where_masked(terms.clone(), &self.action_mask)
    }
}

/// Returns G^λ(s_h), and 0 if there is no action; without a gradient.
///
/// # Shapes
/// See [`DqoInputs`]; the result `[batch, actions]`, reward units. `beta` is reward per nat,
/// `lambda` is in [0, 1].
#[must_use]
pub fn lambda_returns(inputs: &DqoInputs, beta: f64, lambda: f64) -> Tensor<2> {
    let [log_ratios, values, rewards] = [&inputs.log_ratios, &inputs.values, &inputs.rewards]
        .map(|terms| inputs.masked(terms).detach());
    let steps = rewards - log_ratios * beta + ahead(values, 1) * (1.0 - lambda);
    discounted_suffix_sum(steps, lambda)
}

/// Returns w(τ) = min( π_θ(τ)/π_ref(τ), e ), at most e and never negative; without a gradient.
///
/// # Shapes
/// See [`DqoInputs`]; the result `[batch, 1]`.
#[must_use]
pub fn trajectory_weights(inputs: &DqoInputs) -> Tensor<2> {
    inputs
        .masked(&inputs.log_ratios)
        .detach()
        .sum_dim(1)
        .clamp_max(1.0)
        .exp()
}

/// Returns L_V; only `values` gets a gradient.
///
/// # Shapes
/// See [`DqoInputs`]; `weights` `[batch, 1]`, from [`trajectory_weights`] or ones; the result
/// `[1]`, reward units squared. `beta` is reward per nat, `lambda` is in [0, 1].
#[must_use]
pub fn value_loss(inputs: &DqoInputs, weights: &Tensor<2>, beta: f64, lambda: f64) -> Tensor<1> {
    let residuals = lambda_returns(inputs, beta, lambda) - inputs.masked(&inputs.values);
    weighted_mean_square(residuals, weights, &inputs.action_mask)
}

/// Returns L_π; only `log_ratios` gets a gradient, and that of action h is from its own residual
/// alone.
///
/// # Shapes
/// See [`DqoInputs`]; `weights` `[batch, 1]`, from [`trajectory_weights`] or ones; the result
/// `[1]`, reward units squared. `beta` is reward per nat, `lambda` is in [0, 1].
#[must_use]
pub fn policy_loss(inputs: &DqoInputs, weights: &Tensor<2>, beta: f64, lambda: f64) -> Tensor<1> {
    let q = inputs.masked(&inputs.values).detach() + inputs.masked(&inputs.log_ratios) * beta;
    // r_h + G^λ(s_{h+1})
    let target = inputs.masked(&inputs.rewards) + ahead(lambda_returns(inputs, beta, lambda), 1);
    weighted_mean_square(q - target.detach(), weights, &inputs.action_mask)
}

fn weighted_mean_square(
    residuals: Tensor<2>,
    weights: &Tensor<2>,
    mask: &Tensor<2, Bool>,
) -> Tensor<1> {
    let [batch, _] = residuals.dims();
    assert_shape!(weights, [batch, 1]);
    mean_per_trajectory(weights.clone().detach() * residuals.square(), mask)
}

#[cfg(test)]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, numbers, tensor};
    use super::super::{dro, oreo};
    use super::*;

    /// Returns rewards that are the return at the last action of each trajectory, else 0.
    fn terminal_rewards(returns: Tensor<2>, action_mask: &Tensor<2, Bool>) -> Tensor<2> {
        let [batch, actions] = action_mask.dims();
        assert_shape!(returns, [batch, 1]);
        let left = action_mask.clone().int().flip([1]).cumsum(1).flip([1]);
        let last = left.equal_scalar(1).bool_and(action_mask.clone());
        where_masked(returns.expand([batch, actions]), &last)
    }

    const BETA: f64 = 0.5;
    type Loss = fn(&DqoInputs, &Tensor<2>, f64, f64) -> Tensor<1>;
    type Field = fn(&DqoInputs) -> &Tensor<2>;
    const LOSSES: [Loss; 2] = [value_loss, policy_loss];

    fn ones(batch: usize) -> Tensor<2> {
        tensor(&vec![1.0; batch], [batch, 1])
    }

    /// One trajectory of two actions: l = [2, −1], V = [1, 3], r = [0, 1].
    fn by_hand() -> DqoInputs {
        DqoInputs {
            log_ratios: tensor(&[2.0, -1.0], [1, 2]),
            values: tensor(&[1.0, 3.0], [1, 2]),
            rewards: tensor(&[0.0, 1.0], [1, 2]),
            action_mask: mask(&[true, true], [1, 2]),
        }
    }

    /// The two trajectories of the oracle, of three and two actions, with process scores; NaN if
    /// there is no action.
    fn ragged() -> DqoInputs {
        DqoInputs {
            log_ratios: tensor(&[0.4, -0.2, 0.1, -0.3, 0.5, f64::NAN], [2, 3]).require_grad(),
            values: tensor(&[0.2, 0.5, 0.9, 0.1, -0.4, f64::NAN], [2, 3]).require_grad(),
            rewards: tensor(&[0.25, 0.0, 1.0, 0.0, 0.5, f64::NAN], [2, 3]),
            action_mask: mask(&[true, true, true, true, true, false], [2, 3]),
        }
    }

    /// G(s_1) = 1 + ½ = 3/2. G(s_0) = 0 − 1 + (1−λ) 3 + λ 3/2: 2 for λ = 0, 1.25 for λ = ½, ½ for λ
    /// = 1.
    #[test]
    fn lambda_returns_by_hand() {
        for (lambda, first) in [(0.0, 2.0), (0.5, 1.25), (1.0, 0.5)] {
            assert_close(
                &numbers(lambda_returns(&by_hand(), BETA, lambda)),
                &[first, 1.5],
            );
        }
    }

    /// The (1−λ) Σ form, n by n, on rows of five actions and of two, for λ = 0 and 1 too.
    #[test]
    fn the_recursion_is_the_sum_over_n() {
        let log_ratios = [0.4, -0.2, 0.1, 0.7, -0.5];
        let values = [0.2, 0.5, 0.9, -0.3, 0.6];
        let rewards = [0.0, 0.25, 0.0, 0.0, 1.0];
        for (actions, lambda) in [(5, 0.0_f64), (5, 0.3), (5, 0.95), (5, 1.0), (2, 0.3)] {
            let n_step = |h: usize, n: usize| {
                let rewards_and_kl: f64 =
                    (h..h + n).map(|j| rewards[j] - BETA * log_ratios[j]).sum();
                rewards_and_kl + if h + n < actions { values[h + n] } else { 0.0 }
            };
            let expected: Vec<f64> = (0..actions)
                .map(|h| {
                    let left = actions - h;
                    let mixed: f64 = (1..left)
                        .map(|n| lambda.powi(n as i32 - 1) * n_step(h, n))
                        .sum();
                    (1.0 - lambda) * mixed + lambda.powi(left as i32 - 1) * n_step(h, left)
                })
                .collect();
            let row: Vec<bool> = (0..5).map(|h| h < actions).collect();
            let inputs = DqoInputs {
                log_ratios: tensor(&log_ratios, [1, 5]),
                values: tensor(&values, [1, 5]),
                rewards: tensor(&rewards, [1, 5]),
                action_mask: mask(&row, [1, 5]),
            };
            let got = numbers(lambda_returns(&inputs, BETA, lambda));
            assert_close(&got[..actions], &expected);
            assert_eq!(got[actions..], vec![0.0; 5 - actions]);
        }
    }

    /// e^½ from l = [1, −½]; e from l = [900, 0], whose exponential would overflow. The NaN is
    /// masked.
    #[test]
    fn trajectory_weights_by_hand() {
        let mut inputs = by_hand();
        inputs.log_ratios = tensor(&[1.0, -0.5, 900.0, f64::NAN], [2, 2]);
        inputs.action_mask = mask(&[true, true, true, false], [2, 2]);
        assert_close(
            &numbers(trajectory_weights(&inputs)),
            &[0.5f64.exp(), 1f64.exp()],
        );
    }

    /// The returns 7, 8 and 9 are at the third action, at the first, and nowhere.
    #[test]
    fn terminal_rewards_by_hand() {
        let action_mask = mask(
            &[true, true, true, true, false, false, false, false, false],
            [3, 3],
        );
        let rewards = terminal_rewards(tensor(&[7.0, 8.0, 9.0], [3, 1]), &action_mask);
        assert_eq!(
            numbers(rewards),
            [0.0, 0.0, 7.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
    }

    /// λ = ½: (5/4 − 1, 3/2 − 3) = (¼, −3/2); (1/16 + 9/4)/2 = 37/32, and twice that if w = 2.
    #[test]
    fn value_loss_by_hand() {
        assert_close(
            &[number(value_loss(&by_hand(), &ones(1), BETA, 0.5))],
            &[37.0 / 32.0],
        );
        assert_close(
            &[number(value_loss(&by_hand(), &(ones(1) * 2.0), BETA, 0.5))],
            &[37.0 / 16.0],
        );
    }

    /// t = 0: 1 + 1 − 0 − 3/2 = ½; t = 1: 3 − ½ − 1 − 0 = 3/2. (¼ + 9/4)/2 = 5/4 for every λ, two
    /// actions from the end.
    #[test]
    fn policy_loss_by_hand() {
        for lambda in [0.0, 0.5, 1.0] {
            assert_close(
                &[number(policy_loss(&by_hand(), &ones(1), BETA, lambda))],
                &[1.25],
            );
        }
    }

    /// Recorded from tests/oracle/losses.py, "dqo weights" and "dqo lambda-returns".
    #[test]
    fn weights_and_returns_against_the_oracle() {
        let inputs = ragged();
        assert_close(
            &numbers(trajectory_weights(&inputs)),
            &[1.349_858_807_576_003_2, 1.221_402_758_160_169_9],
        );
        let returns = numbers(lambda_returns(&inputs, BETA, 0.95));
        assert_close(
            &returns,
            &[1.070_124_999_999_999_8, 1.047_5, 0.95, 0.367_5, 0.25, 0.0],
        );
    }

    /// Recorded from tests/oracle/losses.py, "dqo value". The last gradient is the masked one:
    /// exactly 0.
    #[test]
    fn value_loss_against_the_oracle() {
        let cases = [
            (
                0.0,
                0.250_782_301_272_823_36,
                [
                    -0.157_483_527_550_533_71,
                    -0.224_976_467_929_333_87,
                    -0.022_497_646_792_933_357,
                    0.213_745_482_678_029_7,
                    -0.396_955_896_402_055_2,
                ],
            ),
            (
                0.95,
                0.389_194_584_616_378,
                [
                    -0.391_515_298_314_023_2,
                    -0.246_349_232_382_620_55,
                    -0.022_497_646_792_933_357,
                    -0.163_362_618_903_922_7,
                    -0.396_955_896_402_055_2,
                ],
            ),
        ];
        for (lambda, expected, slopes) in cases {
            let inputs = ragged();
            let loss = value_loss(&inputs, &trajectory_weights(&inputs), BETA, lambda);
            assert_close(&[number(loss.clone())], &[expected]);
            let got = gradient(&loss, &inputs.values);
            assert_close(&got[..5], &slopes);
            assert_eq!(got[5], 0.0);
        }
    }

    /// Recorded from tests/oracle/losses.py, "dqo policy". If λ changes, only the first of three
    /// actions does.
    #[test]
    fn policy_loss_against_the_oracle() {
        let later = [
            -0.123_737_057_361_133_62,
            -0.011_248_823_396_466_679,
            -0.091_605_206_862_012_73,
            -0.198_477_948_201_027_6,
        ];
        for (lambda, expected, first) in [
            (0.0, 0.387_655_549_186_662_34, -0.191_229_997_739_933_8),
            (0.95, 0.406_330_002_127_721_5, -0.201_916_379_966_577_13),
        ] {
            let inputs = ragged();
            let loss = policy_loss(&inputs, &trajectory_weights(&inputs), BETA, lambda);
            assert_close(&[number(loss.clone())], &[expected]);
            let got = gradient(&loss, &inputs.log_ratios);
            assert_close(&got[..1], &[first]);
            assert_close(&got[1..5], &later);
            assert_eq!(got[5], 0.0);
        }
    }

    /// T6: if λ = 1, w = 1 and the reward is terminal, both losses and both gradients are those of
    /// OREO.
    #[test]
    fn lambda_one_is_oreo() {
        let returns = || tensor(&[1.0, 0.0], [2, 1]);
        let dqo = || {
            let inputs = ragged();
            DqoInputs {
                rewards: terminal_rewards(returns(), &inputs.action_mask),
                ..inputs
            }
        };
        let oreo = || {
            let DqoInputs {
                log_ratios,
                values,
                action_mask,
                ..
            } = ragged();
            oreo::OreoInputs {
                log_ratios,
                values,
                returns: returns(),
                action_mask,
            }
        };
        let a = dqo();
        let b = oreo();
        let of_dqo = value_loss(&a, &ones(2), BETA, 1.0);
        let of_oreo = oreo::value_loss(&b, oreo::OreoSettings::published(BETA));
        assert_close(&[number(of_dqo.clone())], &[number(of_oreo.clone())]);
        assert_close(
            &gradient(&of_dqo, &a.values),
            &gradient(&of_oreo, &b.values),
        );
        let a = dqo();
        let b = oreo();
        let of_dqo = policy_loss(&a, &ones(2), BETA, 1.0);
        let of_oreo = oreo::policy_loss(&b, oreo::OreoSettings::published(BETA));
        assert_close(&[number(of_dqo.clone())], &[number(of_oreo.clone())]);
        assert_close(
            &gradient(&of_dqo, &a.log_ratios),
            &gradient(&of_oreo, &b.log_ratios),
        );
    }

    /// T6: with λ = 0 the value loss is the mean square of V(s_h) + β l_h − r_h − V(s_{h+1}): (0.2
    /// + 0.2 − 0.25 − 0.5, 0.5 − 0.1 − 0.9, 0.9 + 0.05 − 1 | 0.1 − 0.15 + 0.4, −0.4 + 0.25 − 0.5).
    #[test]
    fn lambda_zero_is_the_one_step_residual() {
        let first = (0.35f64.powi(2) + 0.5f64.powi(2) + 0.05f64.powi(2)) / 3.0;
        let second = (0.35f64.powi(2) + 0.65f64.powi(2)) / 2.0;
        let loss = value_loss(&ragged(), &ones(2), BETA, 0.0);
        assert_close(&[number(loss)], &[(first + second) / 2.0]);
    }

    /// T5: if every trajectory is one action, its response, both losses are those of DRO for every
    /// λ.
    #[test]
    fn one_action_is_dro() {
        let action_mask = mask(&[true, true], [2, 1]);
        let inputs = DqoInputs {
            log_ratios: tensor(&[0.3, 0.2], [2, 1]),
            values: tensor(&[0.2, 0.1], [2, 1]),
            rewards: terminal_rewards(tensor(&[1.0, 0.0], [2, 1]), &action_mask),
            action_mask,
        };
        let whole = dro::DroInputs {
            log_ratios: tensor(&[0.3, 0.2], [2]),
            values: tensor(&[0.2, 0.1], [2]),
            returns: tensor(&[1.0, 0.0], [2]),
        };
        for lambda in [0.0, 0.95, 1.0] {
            let value = number(value_loss(&inputs, &ones(2), BETA, lambda));
            assert_close(&[value], &[number(dro::value_loss(&whole, BETA))]);
            let policy = number(policy_loss(&inputs, &ones(2), BETA, lambda));
            assert_close(&[policy], &[number(dro::policy_loss(&whole, BETA))]);
        }
    }

    /// Problem A of the self-test, two turns of two actions, with each of its four paths once.
    fn tree(logits: [[f64; 2]; 3], values: [f64; 3]) -> DqoInputs {
        let reference: [[f64; 2]; 3] = [[0.5, 0.5], [0.25, 0.75], [0.6, 0.4]];
        let log_ratio = |state: usize, action: usize| {
            let total: f64 = logits[state].iter().map(|logit| logit.exp()).sum();
            logits[state][action] - total.ln() - reference[state][action].ln()
        };
        let paths = [(0, 0), (0, 1), (1, 0), (1, 1)];
        let action_mask = mask(&[true; 8], [4, 2]);
        let log_ratios =
            paths.map(|(first, second)| [log_ratio(0, first), log_ratio(1 + first, second)]);
        DqoInputs {
            log_ratios: tensor(log_ratios.as_flattened(), [4, 2]),
            values: tensor(
                paths
                    .map(|(first, _)| [values[0], values[1 + first]])
                    .as_flattened(),
                [4, 2],
            ),
            rewards: terminal_rewards(tensor(&[1.0, 0.0, 0.0, 1.0], [4, 1]), &action_mask),
            action_mask,
        }
    }

    /// At (π_ref, V = 0) the two won paths give 1 at the second turn and .95² at the first, (1 +
    /// .9025)/2/2.
    #[test]
    fn golden_a_at_the_start() {
        let start = tree(
            [[0.5, 0.5], [0.25, 0.75], [0.6, 0.4]].map(|row: [f64; 2]| row.map(f64::ln)),
            [0.0; 3],
        );
        assert_close(
            &[number(value_loss(
                &start,
                &trajectory_weights(&start),
                BETA,
                0.95,
            ))],
            &[0.475_625],
        );
    }

    #[test]
    fn golden_a_at_a_point() {
        let point = tree([[0.2, -0.1], [0.3, 0.0], [-0.4, 0.1]], [0.3, 0.6, 0.2]);
        assert_close(
            &[number(value_loss(&point, &ones(4), BETA, 0.95))],
            &[0.096_198_825_408_474_26],
        );
        for loss in LOSSES {
            assert_close(
                &[number(loss(&point, &ones(4), BETA, 1.0))],
                &[0.100_413_623_750_726_21],
            );
        }
    }

    /// T1: at the soft optimum of a deterministic tree both losses are 0 for every λ and w.
    #[test]
    fn the_optimum_is_a_zero() {
        let soft = |reference: [f64; 2], q: [f64; 2]| {
            let weighted = [0, 1].map(|action| reference[action] * (q[action] / BETA).exp());
            (
                BETA * (weighted[0] + weighted[1]).ln(),
                weighted.map(f64::ln),
            )
        };
        let (a, logits_a) = soft([0.25, 0.75], [1.0, 0.0]);
        let (b, logits_b) = soft([0.6, 0.4], [0.0, 1.0]);
        let (root, logits) = soft([0.5, 0.5], [a, b]);
        let optimum = tree([logits, logits_a, logits_b], [root, a, b]);
        for (loss, lambda) in LOSSES
            .into_iter()
            .flat_map(|loss| [0.0, 0.95, 1.0].map(|lambda| (loss, lambda)))
        {
            assert!(number(loss(&optimum, &trajectory_weights(&optimum), BETA, lambda)) < 1e-30);
        }
    }

    /// L_V detaches the policy, L_π the value. Weights and targets have no gradient either.
    #[test]
    fn each_loss_moves_its_own_network_only() {
        let detached: [(Loss, Field); 2] = [
            (value_loss, |inputs| &inputs.log_ratios),
            (policy_loss, |inputs| &inputs.values),
        ];
        for (loss, frozen) in detached {
            let inputs = ragged();
            let weights = trajectory_weights(&inputs);
            assert!(
                frozen(&inputs)
                    .grad(&loss(&inputs, &weights, BETA, 0.5).backward())
                    .is_none()
            );
        }
    }

    /// The mean over two trajectories, each with its own w, is the mean of both singles, the second
    /// without padding.
    #[test]
    fn a_batch_equals_its_singles() {
        let single = |row: usize, actions: usize| {
            let cut = |tensor: Tensor<2>| tensor.narrow(0, row, 1).narrow(1, 0, actions);
            let whole = ragged();
            DqoInputs {
                log_ratios: cut(whole.log_ratios),
                values: cut(whole.values),
                rewards: cut(whole.rewards),
                action_mask: whole.action_mask.narrow(0, row, 1).narrow(1, 0, actions),
            }
        };
        for loss in LOSSES {
            let weighted =
                |inputs: DqoInputs| number(loss(&inputs, &trajectory_weights(&inputs), BETA, 0.95));
            assert_close(
                &[weighted(ragged())],
                &[(weighted(single(0, 3)) + weighted(single(1, 2))) / 2.0],
            );
        }
    }
}
