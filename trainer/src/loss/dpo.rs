//! DPO: Direct Preference Optimization: Your Language Model is Secretly a Reward Model, arXiv
//! 2305.18290, section 4.
//!
//! ```text
//! ρ = log π_θ(y|x) − log π_ref(y|x) = Σ_i l_i                   nats, over the whole trajectory
//! L_DPO = − E_{(x, y_w, y_l)} log σ( β ρ_w − β ρ_l )                                       (Eq. 7)
//! ∂L/∂ρ_w = − β σ( β ρ_l − β ρ_w ) = − ∂L/∂ρ_l
//! ```
//!
//! x is the task, y_w a won trajectory of it and y_l a lost one.
//!
//! Differs from the paper:
//! - y is a trajectory of several turns, and the observations between them are in no sum. The
//!   partition function of x cancels between y_w and y_l exactly only if the environment is
//!   deterministic.
//! - Preferences are outcomes, success over failure, not human choices; [`pairs`] forms the pairs.

use burn::tensor::{Tensor, activation::log_sigmoid, assert_shape};
use std::collections::HashMap;

/// The inputs of the DPO loss: entry i of both fields is one pair.
#[derive(Debug, Clone)]
pub struct DpoInputs {
    /// ρ_w, the sum over the action tokens of the won trajectory, nats, `[pairs]`.
    pub chosen_log_ratios: Tensor<1>,
    /// ρ_l, the sum over the action tokens of the lost trajectory, nats, `[pairs]`.
    pub rejected_log_ratios: Tensor<1>,
}

/// Returns Eq. 7, nats; ln 2 if the policy is the reference.
///
/// # Shapes
/// See [`DpoInputs`]; the result `[1]`. `beta` is reward per nat.
#[must_use]
pub fn dpo_loss(inputs: &DpoInputs, beta: f64) -> Tensor<1> {
    let [pairs] = inputs.chosen_log_ratios.dims();
    assert_shape!(inputs.rejected_log_ratios, [pairs]);
    let margins = inputs.chosen_log_ratios.clone() - inputs.rejected_log_ratios.clone();
    -log_sigmoid(margins * beta).mean()
}

/// Returns up to `most_per_task` distinct `[won, lost]` pairs of indices into `outcomes` for each
/// task; an outcome is (task, won).
///
/// Tasks are in order of first appearance. Within a task, all won trajectories are used equally
/// often, and so are all lost ones: their numbers of pairs never differ by more than one. If a task
/// has only wins or only losses, it gives no pair.
#[must_use]
pub fn pairs(outcomes: &[(usize, bool)], most_per_task: usize) -> Vec<[usize; 2]> {
    let mut places = HashMap::new();
    let mut tasks: Vec<[Vec<usize>; 2]> = Vec::new(); // [won, lost] of each task
    for (index, &(task, won)) in outcomes.iter().enumerate() {
        let place = *places.entry(task).or_insert(tasks.len());
        if place == tasks.len() {
            tasks.push(Default::default());
        }
        tasks[place][usize::from(!won)].push(index);
    }
    tasks
        .iter()
        .flat_map(|[won, lost]| pairs_of_a_task(won, lost, most_per_task))
        .collect()
}

/// Both indices cycle in step. After lcm pairs the first pair would occur again, so the lost index
/// is shifted by one.
fn pairs_of_a_task<'a>(
    won: &'a [usize],
    lost: &'a [usize],
    most: usize,
) -> impl Iterator<Item = [usize; 2]> + 'a {
    let all = won.len() * lost.len();
    let round = all / greatest_common_divisor(won.len(), lost.len()).max(1);
    (0..all.min(most)).map(move |i| [won[i % won.len()], lost[(i + i / round) % lost.len()]])
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases::{assert_close, gradient, number, tensor};
    use super::*;
    use std::collections::HashSet;

    const BETA: f64 = 0.1;

    /// The three pairs of the oracle.
    fn case() -> DpoInputs {
        DpoInputs {
            chosen_log_ratios: tensor(&[1.5, -0.5, 0.2], [3]).require_grad(),
            rejected_log_ratios: tensor(&[-2.0, 0.5, 0.2], [3]).require_grad(),
        }
    }

    fn margin(margin: f64) -> DpoInputs {
        DpoInputs {
            chosen_log_ratios: tensor(&[margin], [1]).require_grad(),
            rejected_log_ratios: tensor(&[0.0], [1]).require_grad(),
        }
    }

    /// β (ρ_w − ρ_l) = ½ (ln 9 − 0) = ln 3: σ = ¾, the loss is ln 4/3. If both ρ are equal it is ln
    /// 2, so the mean is ½ ln 8/3.
    #[test]
    fn dpo_by_hand() {
        let inputs = DpoInputs {
            chosen_log_ratios: tensor(&[9f64.ln() + 1.0, 7.0], [2]),
            rejected_log_ratios: tensor(&[1.0, 7.0], [2]),
        };
        assert_close(
            &[number(dpo_loss(&inputs, 0.5))],
            &[0.5 * (8.0f64 / 3.0).ln()],
        );
    }

    /// Recorded from tests/oracle/losses.py, "dpo".
    #[test]
    fn dpo_against_the_oracle() {
        let inputs = case();
        let loss = dpo_loss(&inputs, BETA);
        assert_close(&[number(loss.clone())], &[0.656_975_332_017_431_1]);
        let expected = [
            -0.013_779_414_036_089,
            -0.017_499_306_249_298,
            -0.016_666_666_666_666_666,
        ];
        assert_close(&gradient(&loss, &inputs.chosen_log_ratios), &expected);
        let inputs = case();
        let got = gradient(&dpo_loss(&inputs, BETA), &inputs.rejected_log_ratios);
        assert_close(&got, &expected.map(|slope| -slope));
    }

    /// −β σ(−x)/n for the won trajectory: σ(−ln 3) = ¼ with β = ½ gives −1/8; +1/8 for the lost
    /// one.
    #[test]
    fn gradients_by_hand() {
        let inputs = margin(9f64.ln());
        assert_close(
            &gradient(&dpo_loss(&inputs, 0.5), &inputs.chosen_log_ratios),
            &[-0.125],
        );
        let inputs = margin(9f64.ln());
        assert_close(
            &gradient(&dpo_loss(&inputs, 0.5), &inputs.rejected_log_ratios),
            &[0.125],
        );
    }

    /// If β (ρ_w − ρ_l) is 10³ nats, the loss and its gradient are 0; if it is −10³, the loss is
    /// 10³ and the gradient −1. Nothing overflows.
    #[test]
    fn far_margins_stay_finite() {
        for (far, loss, slope) in [(1e3, 0.0, 0.0), (-1e3, 1e3, -1.0)] {
            let inputs = margin(far);
            let got = dpo_loss(&inputs, 1.0);
            assert_close(&[number(got.clone())], &[loss]);
            assert_close(&gradient(&got, &inputs.chosen_log_ratios), &[slope]);
        }
    }

    #[test]
    fn a_batch_equals_its_singles() {
        let single = |row: usize| DpoInputs {
            chosen_log_ratios: case().chosen_log_ratios.narrow(0, row, 1),
            rejected_log_ratios: case().rejected_log_ratios.narrow(0, row, 1),
        };
        let singles = (0..3)
            .map(|row| number(dpo_loss(&single(row), BETA)))
            .sum::<f64>()
            / 3.0;
        assert_close(&[number(dpo_loss(&case(), BETA))], &[singles]);
    }

    /// Task 7: won 0 and 3, lost 1 and 4: 0–1 and 3–4, then the lost index is shifted by one. Task
    /// 2 is second.
    #[test]
    fn pairs_by_hand() {
        let outcomes = [
            (7, true),
            (7, false),
            (2, false),
            (7, true),
            (7, false),
            (2, true),
        ];
        assert_eq!(
            pairs(&outcomes, 5),
            [[0, 1], [3, 4], [0, 4], [3, 1], [5, 2]]
        );
        assert_eq!(pairs(&outcomes, 1), [[0, 1], [5, 2]]);
        assert_eq!(pairs(&outcomes, 0), [[0; 2]; 0]);
    }

    #[test]
    fn one_sided_tasks_give_no_pair() {
        assert_eq!(
            pairs(&[(0, true), (0, true), (1, false), (2, false)], 5),
            [[0; 2]; 0]
        );
        assert_eq!(pairs(&[], 5), [[0; 2]; 0]);
    }

    /// For up to six won and six lost trajectories and every limit: the number of pairs is the
    /// largest possible, all are distinct, each is a won before a lost trajectory, and the numbers
    /// of uses on a side differ by at most one.
    #[test]
    fn pairs_are_many_distinct_and_even() {
        for (won, lost) in (1..=6).flat_map(|won| (1..=6).map(move |lost| (won, lost))) {
            let outcomes: Vec<(usize, bool)> =
                (0..won + lost).map(|index| (0, index < won)).collect();
            for most in 0..=won * lost + 1 {
                let pairs = pairs(&outcomes, most);
                assert_eq!(pairs.len(), most.min(won * lost));
                assert_eq!(pairs.iter().collect::<HashSet<_>>().len(), pairs.len());
                assert!(
                    pairs
                        .iter()
                        .all(|&[chosen, rejected]| chosen < won && rejected >= won)
                );
                for (side, members) in [(0, 0..won), (1, won..won + lost)] {
                    let uses: Vec<usize> = members
                        .map(|index| pairs.iter().filter(|pair| pair[side] == index).count())
                        .collect();
                    let least = uses.iter().min().expect("at least one member");
                    let most = uses.iter().max().expect("at least one member");
                    assert!(most - least <= 1, "{uses:?}");
                }
            }
        }
    }
}
