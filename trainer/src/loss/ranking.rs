//! Losses within a state: how the scores of several candidates of one state are ordered and spaced.
//! An extension of hearth; OREO as published (arXiv 2412.16145) has no such term.
//!
//! State i has candidates k with scores U_ik and labels G_ik, the mean returns of Monte-Carlo
//! continuations. w_i is 0 if all labels of the state are equal, else 1. |I| is the number of
//! states. Both sides have the same temperature τ, so that U stays in reward units.
//!
//! ```text
//! advantage      1/|I|  Σ_i w_i Σ_k ( (U_ik − Ū_i) − (G_ik − Ḡ_i) )²
//! listwise       τ²/|I| Σ_i w_i Σ_k − p_ik log q_ik        q = softmax_k(U/τ), p = softmax_k(G/τ)
//! bradley_terry  τ²/|I| Σ_i w_i Σ_{k<j} − σ(ΔG/τ) log σ(ΔU/τ) − σ(−ΔG/τ) log σ(−ΔU/τ)
//!                                                           ΔU = U_ik − U_ij, ΔG = G_ik − G_ij
//! ∂ listwise / ∂U_ik = τ w_i (q_ik − p_ik) / |I|
//! ```
//!
//! In each of them the gradient over the candidates of a state sums to 0. Whatever the candidates
//! share, first of all the turn number, therefore gets no gradient through the scores.
//!
//! `listwise` is the cross-entropy of ListNet (Cao et al., ICML 2007), `bradley_terry` that of
//! RankNet (Burges et al., ICML 2005) with soft labels. `advantage` is unbiased if the labels are
//! noisy; the softmax of a noisy label is not.
//!
//! The policy has a loss of the same kind. Two actions of one state have one V(s), which cancels in
//! the difference of their soft-Bellman residuals (Eq. 9 of OREO): at the optimum,
//! β (l_k − l_j) = Q_k − Q_j. With l = ln π_θ − ln π_ref of the whole candidate:
//!
//! ```text
//! L_π^br = mean over states, mean over pairs k<j of ( β (l_k − l_j) − (G_k − G_j) )²
//!        = mean over states of 2/(K−1) Σ_k ( d_k − d̄ )²,  d = β l − G
//! ```

use super::{counts, where_masked};
use burn::tensor::activation::{log_sigmoid, log_softmax, sigmoid, softmax};
use burn::tensor::{Bool, Tensor, assert_shape};

/// A score that no candidate has, for entries that the mask leaves out.
const FAR_BELOW: f64 = -1e30;

/// The candidates of several states.
#[derive(Debug, Clone)]
pub struct RankingInputs {
    /// The scores, reward units, or the log-ratios of the candidates, nats, `[states, candidates]`.
    pub scores: Tensor<2>,
    /// G, the mean returns, reward units, `[states, candidates]`.
    pub labels: Tensor<2>,
    /// True if there is a candidate, `[states, candidates]`. A row without any is no state.
    pub candidate_mask: Tensor<2, Bool>,
}

impl RankingInputs {
    /// Returns the mean over the states of w times a loss of each state, `[states, 1]`.
    fn weighted_mean(&self, of_states: Tensor<2>) -> Tensor<1> {
        let absent = self.candidate_mask.clone().bool_not();
        let highest = self.labels.clone().mask_fill(absent.clone(), FAR_BELOW);
        let lowest = self.labels.clone().mask_fill(absent, -FAR_BELOW);
        let differ = highest.max_dim(1).greater(lowest.min_dim(1));
        let is_equal = differ.bool_not();
        self.mean_over_states(of_states.mask_fill(is_equal, 0.0))
    }

    /// Returns the mean over the states of a loss of each state, `[states, 1]`.
    fn mean_over_states(&self, of_states: Tensor<2>) -> Tensor<1> {
        let states = counts(&self.candidate_mask).sum_dim(1).clamp_max(1).sum();
        of_states.sum() / states.clamp_min(1).float().cast(self.scores.dtype())
    }

    /// Returns the number of candidates of each state, at least `least`, `[states, 1]`.
    fn candidates(&self, least: i64) -> Tensor<2> {
        let counts = counts(&self.candidate_mask).sum_dim(1);
        counts.clamp_min(least).float().cast(self.scores.dtype())
    }

    /// Returns Σ_k (d_k − d̄)² of each state, `[states, 1]`; `differences` is `[states, candidates]`.
    fn squared_spread(&self, differences: Tensor<2>) -> Tensor<2> {
        let differences = where_masked(differences, &self.candidate_mask);
        let mean = differences.clone().sum_dim(1) / self.candidates(1);
        where_masked(differences - mean, &self.candidate_mask)
            .square()
            .sum_dim(1)
    }
}

/// Returns the squared error of the centred scores.
///
/// # Shapes
/// See [`RankingInputs`]; the result `[1]`, squared reward units.
#[must_use]
pub fn advantage_loss(inputs: &RankingInputs) -> Tensor<1> {
    check(inputs);
    inputs.weighted_mean(inputs.squared_spread(inputs.scores.clone() - inputs.labels.clone()))
}

/// Returns the cross-entropy between the softmax of the labels and that of the scores.
///
/// # Shapes
/// See [`RankingInputs`]; the result `[1]`, squared reward units. `temperature` in reward units,
/// above 0.
#[must_use]
pub fn listwise_loss(inputs: &RankingInputs, temperature: f64) -> Tensor<1> {
    check(inputs);
    let absent = inputs.candidate_mask.clone().bool_not();
    let [scores, labels] = [&inputs.scores, &inputs.labels]
        .map(|numbers| (numbers.clone() / temperature).mask_fill(absent.clone(), FAR_BELOW));
    let terms = softmax(labels, 1) * log_softmax(scores, 1);
    let of_states = -where_masked(terms, &inputs.candidate_mask).sum_dim(1);
    inputs.weighted_mean(of_states) * (temperature * temperature)
}

/// Returns the cross-entropy over pairs of candidates between the sigmoid of the difference of their
/// labels and that of their scores.
///
/// # Shapes
/// See [`RankingInputs`]; the result `[1]`, squared reward units. `temperature` in reward units,
/// above 0.
#[must_use]
pub fn bradley_terry_loss(inputs: &RankingInputs, temperature: f64) -> Tensor<1> {
    check(inputs);
    let [states, candidates] = inputs.scores.dims();
    let mask = &inputs.candidate_mask;
    let [scores, labels] = [&inputs.scores, &inputs.labels]
        .map(|numbers| differences(where_masked(numbers.clone() / temperature, mask)));
    // Over ordered pairs k ≠ j: each unordered pair gives both terms of the sum.
    let terms = sigmoid(labels) * log_sigmoid(scores);
    let present: Tensor<3, Bool> = mask
        .clone()
        .unsqueeze_dim::<3>(2)
        .expand([states, candidates, candidates])
        .bool_and(
            mask.clone()
                .unsqueeze_dim::<3>(1)
                .expand([states, candidates, candidates]),
        );
    let diagonal = Tensor::<2, Bool>::diag_mask([candidates, candidates], 0, &mask.device());
    // `diag_mask` is false on the diagonal.
    let pairs = present.bool_and(
        diagonal
            .unsqueeze_dim::<3>(0)
            .expand([states, candidates, candidates]),
    );
    let of_states = -terms
        .mask_fill(pairs.bool_not(), 0.0)
        .reshape([states, candidates * candidates])
        .sum_dim(1);
    inputs.weighted_mean(of_states) * (temperature * temperature)
}

/// Returns L_π^br: the scores of the inputs are l, the log-ratios of the candidates to the
/// reference, nats. States with equal labels count too.
///
/// # Shapes
/// See [`RankingInputs`]; the result `[1]`, squared reward units. `beta` in reward units per nat.
#[must_use]
pub fn policy_pair_loss(inputs: &RankingInputs, beta: f64) -> Tensor<1> {
    check(inputs);
    let spread = inputs.squared_spread(inputs.scores.clone() * beta - inputs.labels.clone());
    inputs.mean_over_states(spread * 2.0 / (inputs.candidates(2) - 1.0))
}

/// Returns x_k − x_j of every ordered pair, `[states, candidates, candidates]`.
fn differences(x: Tensor<2>) -> Tensor<3> {
    x.clone().unsqueeze_dim::<3>(2) - x.unsqueeze_dim::<3>(1)
}

fn check(inputs: &RankingInputs) {
    let [states, candidates] = inputs.scores.dims();
    assert_shape!(inputs.labels, [states, candidates]);
    assert_shape!(inputs.candidate_mask, [states, candidates]);
}

#[cfg(test)]
mod tests {
    use super::super::cases::{assert_close, gradient, mask, number, tensor};
    use super::*;

    const TAU: f64 = 0.1;

    /// A loss of the scores by its name.
    type NamedLoss = (&'static str, fn(&RankingInputs, f64) -> Tensor<1>);

    const LOSSES: [NamedLoss; 4] = [
        ("advantage", |inputs, _| advantage_loss(inputs)),
        ("listwise", listwise_loss),
        ("bradley_terry", bradley_terry_loss),
        ("policy", |inputs, _| policy_pair_loss(inputs, 0.5)),
    ];

    /// The three states of the oracle: three candidates; two candidates; two with equal labels.
    fn case() -> RankingInputs {
        let absent = f64::NAN;
        RankingInputs {
            scores: tensor(
                &[0.3, 0.1, 0.25, 0.6, 0.7, absent, 0.2, 0.4, absent],
                [3, 3],
            )
            .require_grad(),
            labels: tensor(
                &[0.5, 0.25, 0.3, 0.9, 0.75, absent, 0.5, 0.5, absent],
                [3, 3],
            ),
            candidate_mask: mask(
                &[true, true, true, true, true, false, true, true, false],
                [3, 3],
            ),
        }
    }

    fn pair(scores: [f64; 2], labels: [f64; 2]) -> RankingInputs {
        RankingInputs {
            scores: tensor(&scores, [1, 2]).require_grad(),
            labels: tensor(&labels, [1, 2]),
            candidate_mask: mask(&[true; 2], [1, 2]),
        }
    }

    /// U = [.5, 0], G = [0, 1]: the centred differences are ±¾, so 2 · 9/16; the gradient is
    /// 2 · ±¾.
    #[test]
    fn advantage_by_hand() {
        let inputs = pair([0.5, 0.0], [0.0, 1.0]);
        let loss = advantage_loss(&inputs);
        assert_close(&[number(loss.clone())], &[1.125]);
        assert_close(&gradient(&loss, &inputs.scores), &[1.5, -1.5]);
    }

    /// τ = ½, U/τ = [ln 3, 0], so q = [¾, ¼]; G/τ = [0, 0] plus ln 2, so p = [⅓, ⅔].
    /// ¼ (⅓ ln 4/3 + ⅔ ln 4), and the gradient τ (q − p) = ½ (¾ − ⅓).
    #[test]
    fn listwise_by_hand() {
        let inputs = pair([0.5 * 3f64.ln(), 0.0], [0.0, 0.5 * 2f64.ln()]);
        let loss = listwise_loss(&inputs, 0.5);
        let expected = 0.25 * ((4f64 / 3.0).ln() / 3.0 + 4f64.ln() * 2.0 / 3.0);
        assert_close(&[number(loss.clone())], &[expected]);
        assert_close(&gradient(&loss, &inputs.scores), &[5.0 / 24.0, -5.0 / 24.0]);
    }

    /// For two candidates the softmax is a sigmoid, so both losses are equal.
    #[test]
    fn bradley_terry_of_two_candidates_is_listwise() {
        let inputs = pair([0.5 * 3f64.ln(), 0.0], [0.0, 0.5 * 2f64.ln()]);
        let loss = bradley_terry_loss(&inputs, 0.5);
        assert_close(
            &[number(loss.clone())],
            &[number(listwise_loss(&inputs, 0.5))],
        );
        assert_close(&gradient(&loss, &inputs.scores), &[5.0 / 24.0, -5.0 / 24.0]);
    }

    /// β = ½, l = [2, 0], G = [0, 1]: (½ · 2 + 1)² = 4, and 2 · 2 · β · ±1. If the labels are equal,
    /// the state counts: (½ · 2)² = 1.
    #[test]
    fn policy_pairs_by_hand() {
        let inputs = pair([2.0, 0.0], [0.0, 1.0]);
        let loss = policy_pair_loss(&inputs, 0.5);
        assert_close(&[number(loss.clone())], &[4.0]);
        assert_close(&gradient(&loss, &inputs.scores), &[2.0, -2.0]);
        let equal = pair([2.0, 0.0], [1.0, 1.0]);
        assert_close(&[number(policy_pair_loss(&equal, 0.5))], &[1.0]);
    }

    /// Recorded from tests/oracle/losses.py, "ranking". The masked entries are NaN, and their
    /// gradient is 0.
    #[test]
    fn ranking_against_the_oracle() {
        let expected: [(f64, [f64; 7]); 4] = [
            (
                0.014_305_555_555_555_557,
                [
                    -0.044_444_444_444_444_45,
                    -0.011_111_111_111_111_108,
                    0.055_555_555_555_555_56,
                    -0.083_333_333_333_333_34,
                    0.083_333_333_333_333_33,
                    0.0,
                    0.0,
                ],
            ),
            (
                0.006_254_088_703_233_245,
                [
                    -0.008_243_734_216_581_054,
                    0.000_342_340_697_203_922_86,
                    0.007_901_393_519_377_131,
                    -0.018_287_768_494_121_62,
                    0.018_287_768_494_121_625,
                    0.0,
                    0.0,
                ],
            ),
            (
                0.009_036_277_537_228_209,
                [
                    -0.010_056_082_959_230_064,
                    -0.005_059_013_433_030_501,
                    0.015_115_096_392_260_566,
                    -0.018_287_768_494_121_625,
                    0.018_287_768_494_121_625,
                    0.0,
                    0.0,
                ],
            ),
            (
                0.022_638_888_888_888_892,
                [
                    -0.036_111_111_111_111_115,
                    0.013_888_888_888_888_892,
                    0.022_222_222_222_222_223,
                    -0.066_666_666_666_666_67,
                    0.066_666_666_666_666_67,
                    -0.033_333_333_333_333_33,
                    0.033_333_333_333_333_33,
                ],
            ),
        ];
        for ((name, loss), (value, gradients)) in LOSSES.into_iter().zip(expected) {
            let inputs = case();
            let loss = loss(&inputs, TAU);
            assert!((number(loss.clone()) - value).abs() < 1e-14, "{name}");
            let got = gradient(&loss, &inputs.scores);
            let present = [0, 1, 2, 3, 4, 6, 7].map(|at: usize| got[at]);
            assert_close(&present, &gradients);
            assert_eq!([got[5], got[8]], [0.0, 0.0], "{name}");
        }
    }

    /// The third state has equal labels. Only the policy learns from it.
    #[test]
    fn a_state_with_equal_labels_has_no_gradient() {
        for (name, loss) in LOSSES {
            let inputs = case();
            let got = gradient(&loss(&inputs, TAU), &inputs.scores);
            assert_eq!(got[6] != 0.0, name == "policy", "{name}: {got:?}");
        }
    }

    #[test]
    fn the_gradients_of_a_state_sum_to_zero() {
        for (name, loss) in LOSSES {
            let inputs = case();
            let got = gradient(&loss(&inputs, TAU), &inputs.scores);
            for state in got.chunks(3) {
                assert!(state.iter().sum::<f64>().abs() < 1e-16, "{name}: {got:?}");
            }
            assert!(got[0] != 0.0, "{name}");
        }
    }

    /// The score is a function of the turn number alone, with one weight. The labels are 0 and 1 and
    /// τ = 2⁻¹⁰, so that every probability is 0, 1 or a power of two, and no sum is rounded.
    #[test]
    fn a_head_that_reads_only_the_turn_number_gets_exactly_no_gradient() {
        let turns = tensor(&[1.0, 3.0, 7.0], [3, 1]);
        let labels = tensor(
            &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0],
            [3, 4],
        );
        for (name, loss) in &LOSSES[..3] {
            let weight = tensor(&[0.375], [1, 1]).require_grad();
            let scores = (turns.clone() * weight.clone()).repeat_dim(1, 4);
            let inputs = RankingInputs {
                scores: scores.clone(),
                labels: labels.clone(),
                candidate_mask: mask(&[true; 12], [3, 4]),
            };
            let loss = loss(&inputs, 2f64.powi(-10)) * 3.0; // 1/3 would be rounded
            let gradients = loss.backward();
            let of_weight: Vec<f64> = weight
                .grad(&gradients)
                .expect("the scores depend on it")
                .into_data()
                .try_to_vec()
                .expect("f64");
            assert_eq!(of_weight[0].abs().to_bits(), 0, "{name}: {of_weight:?}");
        }
    }

    /// If a number is added to all scores of a state, nothing changes.
    #[test]
    fn a_shift_of_a_state_changes_nothing() {
        for (name, loss) in LOSSES {
            let inputs = case();
            let shifted = RankingInputs {
                scores: inputs.scores.clone() + tensor(&[0.5, -2.0, 1.0], [3, 1]),
                ..inputs.clone()
            };
            let [a, b] = [inputs, shifted].map(|inputs| number(loss(&inputs, TAU)));
            assert!((a - b).abs() < 1e-14, "{name}: {a} {b}");
        }
    }

    /// If the scores are the labels plus a constant, the gradient is 0: there q = p.
    #[test]
    fn the_labels_are_the_minimum() {
        for (name, loss) in &LOSSES[..3] {
            let labels = case().labels;
            let inputs = RankingInputs {
                scores: (labels + 0.25).detach().require_grad(),
                ..case()
            };
            let got = gradient(&loss(&inputs, TAU), &inputs.scores);
            assert!(got.iter().all(|g| g.abs() < 1e-15), "{name}: {got:?}");
        }
    }

    #[test]
    fn a_batch_equals_its_singles() {
        for (name, loss) in LOSSES {
            let singles: f64 = [3, 2, 2]
                .into_iter()
                .enumerate()
                .map(|(row, width)| {
                    let inputs = case();
                    let single = RankingInputs {
                        scores: inputs.scores.narrow(0, row, 1).narrow(1, 0, width),
                        labels: inputs.labels.narrow(0, row, 1).narrow(1, 0, width),
                        candidate_mask: inputs.candidate_mask.narrow(0, row, 1).narrow(1, 0, width),
                    };
                    number(loss(&single, TAU))
                })
                .sum();
            let batch = number(loss(&case(), TAU));
            assert!((batch - singles / 3.0).abs() < 1e-14, "{name}");
        }
    }

    /// A row of padding is no state.
    #[test]
    fn padding_is_no_state() {
        for (name, loss) in LOSSES {
            let inputs = case();
            let nan = tensor(&[f64::NAN; 3], [1, 3]);
            let padded = RankingInputs {
                scores: Tensor::cat(vec![inputs.scores.clone(), nan.clone()], 0),
                labels: Tensor::cat(vec![inputs.labels.clone(), nan], 0),
                candidate_mask: Tensor::cat(
                    vec![inputs.candidate_mask.clone(), mask(&[false; 3], [1, 3])],
                    0,
                ),
            };
            let [a, b] = [&inputs, &padded].map(|inputs| number(loss(inputs, TAU)));
            assert!((a - b).abs() < 1e-15, "{name}: {a} {b}");
        }
    }
}
