//! Tests of the settings that are not in the paper: discount, clip and the mean over the batch.
//!
//! The recorded numbers are from tests/oracle/losses.py, `oreo_extensions` and `golden_c`.

use super::super::cases::{assert_close, gradient, mask, number, numbers, tensor};
use super::*;
use burn::tensor::activation::log_softmax;

const PUBLISHED: OreoSettings = OreoSettings::published(0.5);
const DISCOUNTED: OreoSettings = OreoSettings {
    discount: 0.9,
    ..PUBLISHED
};
/// Five actions of two trajectories.
const BY_BATCH: ActionDivisor = ActionDivisor::BatchMean(2.5);

type Loss = fn(&OreoInputs, OreoSettings) -> Tensor<1>;

/// One trajectory of two actions: l = [2, −1], V = [1, 0], r = [0, 1].
fn by_hand(discount: f64) -> OreoInputs {
    OreoInputs {
        log_ratios: tensor(&[2.0, -1.0], [1, 2]),
        values: tensor(&[1.0, 0.0], [1, 2]),
        returns: discounted_suffix_sum(tensor(&[0.0, 1.0], [1, 2]), discount),
        action_mask: mask(&[true, true], [1, 2]),
    }
}

/// The two trajectories of the oracle, of three and two actions; NaN if there is no action.
fn ragged(discount: f64) -> OreoInputs {
    let rewards = tensor(&[0.25, 0.0, 1.0, 0.0, 0.5, 0.0], [2, 3]);
    OreoInputs {
        log_ratios: tensor(&[0.4, -0.2, 0.1, -0.3, 0.5, f64::NAN], [2, 3]).require_grad(),
        values: tensor(&[0.2, 0.5, 0.9, 0.1, -0.4, f64::NAN], [2, 3]).require_grad(),
        returns: discounted_suffix_sum(rewards, discount),
        action_mask: mask(&[true, true, true, true, true, false], [2, 3]),
    }
}

fn ragged_after_values() -> Tensor<2> {
    tensor(&[0.3, 0.6, 0.8, 0.0, -0.1, f64::NAN], [2, 3]).require_grad()
}

/// γ = ½: G = [½, 1], Λ = [3/2, −1]. V: 1 − ½ + ¾ = 5/4 and 0 − 1 − ½ = −3/2, (25/16 + 9/4)/2; the
/// residuals of π are the same. U = [0, 1]: 0 − ½ − ¼ = −¾ and 0, (9/16)/2.
#[test]
fn discounted_losses_by_hand() {
    let settings = OreoSettings {
        discount: 0.5,
        ..PUBLISHED
    };
    let inputs = by_hand(0.5);
    let after = after_value_loss(tensor(&[0.0, 1.0], [1, 2]), &inputs, settings);
    assert_close(&[number(value_loss(&inputs, settings))], &[1.906_25]);
    assert_close(&[number(policy_loss(&inputs, settings))], &[1.906_25]);
    assert_close(&[number(after)], &[0.281_25]);
}

/// c = ¼: β Λ = [½, −½] becomes [¼, −¼]. V: ¼ and −5/4, (1/16 + 25/16)/2. U = [0, 1]: 0 − 1 − ¼ and
/// 0, (25/16)/2. Eq. 8 at t = 0 alone: (¼)². The losses of the policy do not change. A limit that no
/// sum reaches changes nothing.
#[test]
fn clipped_losses_by_hand() {
    let inputs = by_hand(1.0);
    let after = || tensor(&[0.0, 1.0], [1, 2]);
    let settings = OreoSettings {
        log_ratio_clip: Some(0.25),
        ..PUBLISHED
    };
    assert_close(&[number(value_loss(&inputs, settings))], &[0.8125]);
    assert_close(
        &[number(after_value_loss(after(), &inputs, settings))],
        &[0.781_25],
    );
    assert_close(&[number(response_value_loss(&inputs, settings))], &[0.0625]);
    assert_close(&[number(policy_loss(&inputs, settings))], &[1.25]);
    assert_close(&[number(response_policy_loss(&inputs, settings))], &[0.25]);
    let wide = OreoSettings {
        log_ratio_clip: Some(0.75),
        ..PUBLISHED
    };
    for loss in [value_loss, policy_loss, response_value_loss] {
        assert_eq!(
            number(loss(&inputs, wide)),
            number(loss(&inputs, PUBLISHED))
        );
    }
}

/// γ = ½, paths of one action: G¹ = [0 + ½·0, 1], and no later log-ratio. π: 1 − 0 + ½·2 = 2 and
/// 0 − 1 − ½, (4 + 9/4)/2. U = [¼, 1]: ¼ and 0. Eq. 8 is that of whole paths, and so is everything if
/// a path is as long as the episode.
#[test]
fn losses_of_short_paths_by_hand() {
    let inputs = by_hand(0.5);
    let whole = OreoSettings {
        discount: 0.5,
        ..PUBLISHED
    };
    let short = OreoSettings {
        path_length: Some(1),
        ..whole
    };
    let after = |settings| after_value_loss(tensor(&[0.25, 1.0], [1, 2]), &inputs, settings);
    assert_close(&[number(policy_loss(&inputs, short))], &[3.125]);
    assert_close(&[number(after(short))], &[0.031_25]);
    assert_eq!(
        number(value_loss(&inputs, short)),
        number(value_loss(&inputs, whole))
    );
    let long = OreoSettings {
        path_length: Some(2),
        ..whole
    };
    assert_eq!(
        number(policy_loss(&inputs, long)),
        number(policy_loss(&inputs, whole))
    );
    assert_eq!(number(after(long)), number(after(whole)));
}

/// Three actions with γ = 1, l = [.4, −.2, .1], V = [.2, .5, .9], R = 1 as one column, and a second
/// trajectory of two actions, l = [−.3, .5], V = [.1, −.4], R = 0. Paths of two actions. π, β = ½:
/// .2 − .9 + ½(.4 − .2) = −.6; .5 − 1 + ½(−.2 + .1) = −.55; .9 − 1 + ½·.1 = −.05;
/// .1 − 0 + ½(−.3 + .5) = .2; −.4 − 0 + ½·.5 = −.15. Only l of the action itself gets a gradient.
#[test]
fn short_paths_of_trajectories_with_one_return() {
    let settings = OreoSettings {
        path_length: Some(2),
        ..PUBLISHED
    };
    let mut inputs = ragged(1.0);
    inputs.returns = tensor(&[1.0, 0.0], [2, 1]);
    let loss = policy_loss(&inputs, settings);
    let first = (0.36 + 0.3025 + 0.0025) / 3.0;
    let second = (0.04 + 0.0225) / 2.0;
    assert_close(&[number(loss.clone())], &[f64::midpoint(first, second)]);
    let third = 1.0 / 3.0;
    assert_close(
        &gradient(&loss, &inputs.log_ratios),
        &[
            -0.3 * third,
            -0.275 * third,
            -0.025 * third,
            0.05,
            -0.0375,
            0.0,
        ],
    );
    // U: G¹ of the first is .9, and −.2 comes later; and so on.
    let residuals = after_value_residuals(ragged_after_values(), &inputs, settings);
    let found = where_masked(residuals, &inputs.action_mask);
    let expected = [
        0.3 - 0.9 - 0.1,
        0.6 - 1.0 + 0.05,
        0.8 - 1.0,
        0.0 + 0.25,
        -0.1,
        0.0,
    ];
    assert_close(&numbers(found), &expected);
}

/// A loss and its gradient, with the expected numbers of the oracle.
struct OracleCase {
    settings: OreoSettings,
    value: (f64, [f64; 5]),
    policy: (f64, [f64; 5]),
    after: (f64, [f64; 5]),
}

/// Every combination of the oracle. The last gradient is the masked one: exactly 0.
#[test]
fn losses_against_the_oracle() {
    let clipped = OreoSettings {
        log_ratio_clip: Some(0.1),
        ..DISCOUNTED
    };
    let third = 1.0 / 3.0;
    let cases = [
        OracleCase {
            settings: PUBLISHED,
            value: (
                0.313_958_333_333_333_34,
                [-0.3, -0.55 * third, -0.05 * third, -0.15, -0.325],
            ),
            policy: (
                0.313_958_333_333_333_34,
                [-0.15, -0.275 * third, -0.025 * third, -0.075, -0.1625],
            ),
            after: (
                0.299_375,
                [-third, -0.35 * third, -0.2 * third, -0.125, -0.3],
            ),
        },
        OracleCase {
            settings: DISCOUNTED,
            value: (
                0.243_350_458_333_333_35,
                [-0.2365, -0.455 * third, -0.05 * third, -0.1375, -0.325],
            ),
            policy: (
                0.243_350_458_333_333_35,
                [
                    -0.118_25,
                    -0.2275 * third,
                    -0.025 * third,
                    -0.068_75,
                    -0.1625,
                ],
            ),
            after: (
                0.229_375_458_333_333_3,
                [-0.8095 * third, -0.085, -0.2 * third, -0.1125, -0.3],
            ),
        },
        OracleCase {
            settings: OreoSettings {
                divisor: BY_BATCH,
                ..DISCOUNTED
            },
            value: (0.242_208_05, [-0.2838, -0.182, -0.02, -0.11, -0.26]),
            policy: (0.242_208_05, [-0.1419, -0.091, -0.01, -0.055, -0.13]),
            after: (0.234_188_05, [-0.3238, -0.102, -0.08, -0.09, -0.24]),
        },
        OracleCase {
            settings: clipped,
            value: (
                0.310_093_75,
                [-0.76 * third, -0.455 * third, -0.05 * third, -0.1375, -0.4],
            ),
            policy: (
                0.243_350_458_333_333_35,
                [
                    -0.118_25,
                    -0.2275 * third,
                    -0.025 * third,
                    -0.068_75,
                    -0.1625,
                ],
            ),
            after: (
                0.247_344_208_333_333_32,
                [-0.8095 * third, -0.085, -0.2 * third, -0.175, -0.3],
            ),
        },
        OracleCase {
            settings: OreoSettings {
                divisor: BY_BATCH,
                ..clipped
            },
            value: (0.300_55, [-0.304, -0.182, -0.02, -0.11, -0.32]),
            policy: (0.242_208_05, [-0.1419, -0.091, -0.01, -0.055, -0.13]),
            after: (0.248_563_05, [-0.3238, -0.102, -0.08, -0.14, -0.24]),
        },
    ];
    for case in cases {
        let settings = case.settings;
        let inputs = ragged(settings.discount);
        let after_values = ragged_after_values();
        let losses = [
            (value_loss(&inputs, settings), &inputs.values, case.value),
            (
                policy_loss(&inputs, settings),
                &inputs.log_ratios,
                case.policy,
            ),
            (
                after_value_loss(after_values.clone(), &inputs, settings),
                &after_values,
                case.after,
            ),
        ];
        for (loss, of, (expected, slopes)) in losses {
            let got = gradient(&loss, of);
            assert_close(&[number(loss)], &[expected]);
            assert_close(&got[..5], &slopes);
            assert_eq!(got[5], 0.0);
        }
    }
}

/// The residual of t is the one-step residual V − r + β l − γ V', plus γ times that of t + 1. The
/// gradient of L_V is 2/T times the residual, and that of L_π is β times the gradient of L_V.
#[test]
fn discounted_residuals_telescope() {
    let inputs = ragged(0.9);
    let of_value = gradient(&value_loss(&inputs, DISCOUNTED), &inputs.values);
    let of_policy = gradient(&policy_loss(&inputs, DISCOUNTED), &inputs.log_ratios);
    // The mean is over T = 3 and T = 2 actions, then over two trajectories.
    let residuals: Vec<f64> = [3.0, 3.0, 3.0, 2.0, 2.0]
        .iter()
        .zip(&of_value)
        .map(|(actions, slope)| slope * actions)
        .collect();
    let one_step = [
        0.2 - 0.25 + 0.2 - 0.9 * 0.5,
        0.5 - 0.1 - 0.9 * 0.9,
        0.9 - 1.0 + 0.05,
        0.1 - 0.15 + 0.9 * 0.4,
        -0.4 - 0.5 + 0.25,
    ];
    let expected = [
        one_step[0] + 0.9 * residuals[1],
        one_step[1] + 0.9 * residuals[2],
        one_step[2],
        one_step[3] + 0.9 * residuals[4],
        one_step[4],
    ];
    assert_close(&residuals, &expected);
    let scaled: Vec<f64> = of_value.iter().map(|slope| slope * 0.5).collect();
    assert_close(&of_policy, &scaled);
}

/// Central differences of L_V and L_U in each value agree with the gradients.
#[test]
fn gradients_are_those_of_central_differences() {
    let settings = OreoSettings {
        log_ratio_clip: Some(0.1),
        divisor: BY_BATCH,
        ..DISCOUNTED
    };
    let losses: [Loss; 2] = [value_loss, |inputs, settings| {
        after_value_loss(inputs.values.clone(), inputs, settings)
    }];
    for loss in losses {
        let inputs = ragged(0.9);
        let slopes = gradient(&loss(&inputs, settings), &inputs.values);
        for (index, slope) in slopes.iter().enumerate() {
            let mut step = [0.0; 6];
            step[index] = 1e-5;
            let [above, below] = [1.0, -1.0].map(|sign| {
                let mut moved = ragged(0.9);
                moved.values = moved.values + tensor(&step, [2, 3]) * sign;
                number(loss(&moved, settings))
            });
            let difference = (above - below) / 2e-5;
            assert!(
                (difference - slope).abs() < 1e-9,
                "{index}: {difference}, {slope}"
            );
        }
    }
}

/// Parts of one trajectory each, the second without its padding, add up to the batch if each is
/// weighted by its share of the trajectories.
#[test]
fn a_batch_is_the_mean_of_its_trajectories() {
    let single = |row: usize, actions: usize| {
        let cut = |tensor: Tensor<2>| tensor.narrow(0, row, 1).narrow(1, 0, actions);
        let whole = ragged(0.9);
        OreoInputs {
            log_ratios: cut(whole.log_ratios),
            values: cut(whole.values),
            returns: cut(whole.returns),
            action_mask: whole.action_mask.narrow(0, row, 1).narrow(1, 0, actions),
        }
    };
    let losses: [Loss; 3] = [value_loss, policy_loss, |inputs, settings| {
        after_value_loss(inputs.values.clone() * 3.0, inputs, settings)
    }];
    for divisor in [ActionDivisor::Own, BY_BATCH] {
        let settings = OreoSettings {
            divisor,
            ..DISCOUNTED
        };
        for loss in losses {
            let parts = [single(0, 3), single(1, 2)].map(|part| number(loss(&part, settings)));
            let whole = number(loss(&ragged(0.9), settings));
            assert_close(&[(parts[0] + parts[1]) / 2.0], &[whole]);
        }
    }
}

/// If the exact KL is divided by the mean number of tokens of the batch, it is the mean over all
/// tokens: trajectories of two tokens and of one, with KL ¾ ln 3/2 + ¼ ln 1/2 at the first token
/// and 0 at the others.
#[test]
fn exact_kl_by_batch_by_hand() {
    let half = 0.5f64.ln();
    let policy = [
        0.75f64.ln(),
        0.25f64.ln(),
        half,
        half,
        half,
        half,
        half,
        half,
    ];
    let policy = tensor(&policy, [2, 2, 2]);
    let reference = tensor(&[half; 8], [2, 2, 2]);
    let action_mask = mask(&[true, true, true, false], [2, 2]);
    let kl = 0.75 * 1.5f64.ln() + 0.25 * half;
    for (divisor, expected) in [
        (ActionDivisor::Own, kl / 4.0),
        (ActionDivisor::BatchMean(1.5), kl / 3.0),
    ] {
        let loss = exact_kl(policy.clone(), reference.clone(), &action_mask, divisor);
        assert_close(&[number(loss)], &[expected]);
    }
}

/// Golden C: π(a), V(s_0), and the gradients of the policy by the logits and of V(s_0).
///
/// Action a wins at once or, as often, loses after a second, forced turn; action b wins or loses
/// after two turns. So Q* of both is ½, π* = (½, ½), V* = ½.
fn golden_c(divisor: ActionDivisor, first: f64, value: f64) -> [f64; 3] {
    let logits = tensor(&[first.ln(), (1.0 - first).ln()], [1, 2]).require_grad();
    let values = tensor(&[value], [1, 1]).require_grad();
    let [a, b] = [0, 1].map(|action| {
        let chosen = log_softmax(logits.clone(), 1).narrow(1, action, 1);
        chosen - 0.5f64.ln()
    });
    let forced = tensor(&[0.0], [1, 1]);
    let row = |l: &Tensor<2>, next: f64| {
        let log_ratios = Tensor::cat(vec![l.clone(), forced.clone()], 1);
        let values = Tensor::cat(vec![values.clone(), tensor(&[next], [1, 1])], 1);
        (log_ratios, values)
    };
    // V* of the second turn: 0 after a, ½ after b. The first path has no second turn.
    let rows = [row(&a, f64::NAN), row(&a, 0.0), row(&b, 0.5), row(&b, 0.5)];
    let (log_ratios, state_values): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let inputs = OreoInputs {
        log_ratios: Tensor::cat(log_ratios, 0),
        values: Tensor::cat(state_values, 0),
        returns: tensor(&[1.0, 0.0, 1.0, 0.0], [4, 1]),
        action_mask: mask(&[true, false, true, true, true, true, true, true], [4, 2]),
    };
    let settings = OreoSettings {
        divisor,
        ..PUBLISHED
    };
    let of_logits = gradient(&policy_loss(&inputs, settings), &logits);
    let of_value = gradient(&value_loss(&inputs, settings), &values);
    [of_logits[0], of_logits[1], of_value[0]]
}

/// The mean within each trajectory rests at the wrong point, because chance decides T; the mean over
/// the batch rests at (π*, V*). Neither rests at the point of the other.
#[test]
fn golden_c_rests_at_the_optimum_only_by_batch() {
    let by_trajectory = (0.582_570_206_462_314_6, 0.590_245_863_731_398_2);
    let optimum = (0.5, 0.5);
    let by_batch = ActionDivisor::BatchMean(7.0 / 4.0);
    for (divisor, rest, other) in [
        (ActionDivisor::Own, by_trajectory, optimum),
        (by_batch, optimum, by_trajectory),
    ] {
        assert_close(&golden_c(divisor, rest.0, rest.1), &[0.0; 3]);
        let moves = golden_c(divisor, other.0, other.1);
        assert!(moves.iter().all(|slope| slope.abs() > 1e-3), "{moves:?}");
    }
}
