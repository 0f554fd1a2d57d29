//! Checks of the baselines: where they converge, or what their first gradients are; and of
//! best-of-K.

use super::compare::{FactResult, near, summarised, together};
use super::problem::{DecisionProblem, VOCAB};
use super::problems::{ROOT, bandit};
use super::tables::ProblemBatch;
use crate::learn::config::{Algorithm, Level, Targets};
use crate::learn::objective::TrainingLosses;
use crate::loss::rejection_sampling::is_imitated;
use crate::loss::{gigpo, grpo, kto};
use agent::policy::lm::select;

/// T14: best-of-K by exact Q* never gets worse with K; on a one-turn bandit its success rate is
/// 1 − (1−p)^K.
pub(super) fn more_candidates_never_hurt() -> FactResult {
    let problem = bandit([[1, 0], [0, 1], [0, 1]]);
    let optimum = problem.solve();
    let scores: Vec<f32> = [0, 1, 2]
        .map(|action| optimum.values[&vec![4, action]] as f32)
        .to_vec();
    let reference = &problem.reference[0].1;
    let mut parts = Vec::new();
    for k in 1..=5_u32 {
        let mut success = 0.0;
        for draw in 0..3_usize.pow(k) {
            let drawn: Vec<usize> = (0..k).map(|place| draw / 3_usize.pow(place) % 3).collect();
            let p: f64 = drawn.iter().map(|action| reference[*action].1).product();
            let of_drawn: Vec<f32> = drawn.iter().map(|action| scores[*action]).collect();
            let best = select::best(&of_drawn).expect("exact values are numbers, and K is above 0");
            let selected = drawn[best];
            success += if selected == 0 { p } else { 0.0 };
        }
        parts.push(near(
            &format!("K = {k}"),
            &[success],
            &[1.0 - 0.8_f64.powi(k as i32)],
            1e-12,
        ));
    }
    summarised(parts, "best-of-K by Q* wins 1 − (1−p)^K", 1e-12)
}

/// SFT converges to the frequencies of the demonstrated actions.
pub(super) fn imitation_finds_the_frequencies() -> FactResult {
    let problem = bandit([[3, 1], [0, 4], [2, 0]]);
    let batch = ProblemBatch::new(&problem);
    let mut parts = Vec::new();
    for targets in [Targets::Actions, Targets::Transcript] {
        let learned = batch.descend(problem.start(), &Algorithm::Sft { targets }, 1.5, 100);
        parts.push(near(
            "frequencies",
            &batch.policy(&learned, ROOT, &[0, 1, 2]),
            &[0.4, 0.4, 0.2],
            1e-10,
        ));
    }
    summarised(
        parts,
        "π is the frequency of each demonstrated action",
        1e-10,
    )
}

/// Rejection sampling converges to the frequencies of the successful actions.
pub(super) fn rejection_sampling_finds_the_successful_frequencies() -> FactResult {
    let problem = bandit([[3, 1], [1, 4], [1, 0]]);
    let won: Vec<usize> = (0..problem.paths.len())
        .filter(|path| is_imitated(problem.paths[*path].reward))
        .flat_map(|path| std::iter::repeat_n(path, problem.paths[path].rows))
        .collect();
    let batch = ProblemBatch::of_rows(&problem, &won, 1, &[]);
    let algorithm = Algorithm::RejectionSampling {
        targets: Targets::Actions,
    };
    let learned = batch.descend(problem.start(), &algorithm, 1.5, 100);
    near(
        "π is the frequency of each successful action",
        &batch.policy(&learned, ROOT, &[0, 1, 2]),
        &[0.6, 0.2, 0.2],
        1e-10,
    )
}

/// DPO converges to β(ρ_0 − ρ_1) = the log-odds of the preferences: 0 is preferred three times, 1
/// once.
pub(super) fn preferences_find_their_odds() -> FactResult {
    let problem = bandit([[1, 1], [1, 1], [0, 0]]);
    let problem = DecisionProblem {
        reference: vec![(ROOT.to_vec(), vec![(0, 0.2), (1, 0.8)])],
        ..problem
    };
    // Walks: 0 won, 0 lost, 1 won, 1 lost.
    let pairs = [[0, 3], [0, 3], [0, 3], [2, 1]].concat();
    let batch = ProblemBatch::of_rows(&problem, &pairs, 1, &[]);
    let beta = 0.5;
    let learned = batch.descend(
        problem.start(),
        &Algorithm::Dpo { beta, pairs: 5 },
        4.0 / beta.powi(2),
        150,
    );
    let policy = batch.policy(&learned, ROOT, &[0, 1]);
    let margin = beta * ((policy[0] / 0.2).ln() - (policy[1] / 0.8).ln());
    let TrainingLosses { statistics, .. } =
        batch.losses(&problem.start(), &Algorithm::Dpo { beta, pairs: 5 });
    together([
        near("β(ρ_w − ρ_l)", &[margin], &[3.0_f64.ln()], 1e-8),
        near(
            "the first loss, ln 2",
            &[statistics.loss_policy.unwrap_or_default()],
            &[2.0_f64.ln()],
            1e-14,
        ),
    ])
}

/// The first gradient of KTO is ∓β/4 a path, by its outcome. Far above the reference point, a won
/// path has a smaller gradient.
pub(super) fn kto_follows_the_outcome() -> FactResult {
    let problem = bandit([[1, 0], [0, 1], [1, 0]]);
    let beta = 0.5;
    let undesirable = 1.5;
    let algorithm = Algorithm::Kto {
        beta,
        desirable: 1.0,
        undesirable,
    };
    let start = problem.start();
    // Path i is action i.
    let [won, lost] = [0, 1].map(|action| {
        let batch = ProblemBatch::of_rows(&problem, &[action], 1, &[]);
        batch.gradients(&start, &algorithm).logits[batch.place(ROOT) * VOCAB + action]
    });
    let batch = ProblemBatch::new(&problem);
    let reference_points = [0.0, 2.0];
    let found = reference_points.map(|z| {
        let losses = batch.losses_at(&start, &algorithm, z);
        losses.statistics.loss_policy.unwrap_or_default()
    });
    let expected = reference_points.map(|z| {
        (2.0 * (1.0 - sigmoid(-beta * z)) + undesirable * (1.0 - sigmoid(beta * z))) / 3.0
    });
    // ∂ρ/∂logit_a = 1 − π(a).
    together([
        near("won", &[won], &[-beta / 4.0 * 0.8], 1e-14),
        near("lost", &[lost], &[undesirable * beta / 4.0 * 0.5], 1e-14),
        near("under z₀ = 2", &found, &expected, 1e-14),
        near(
            "z₀ is never below 0",
            &[kto::reference_point(&[-1.0, -2.0])],
            &[0.0],
            0.0,
        ),
    ])
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + f64::exp(-x))
}

/// The first gradient of GRPO is that of −mean Â·ln π. If all returns of a group are equal, it has
/// none.
pub(super) fn the_first_gradient_is_the_policy_gradient() -> FactResult {
    let problem = bandit([[1, 0], [0, 1], [0, 1]]);
    let rows = [0, 1, 2, 1];
    let returns = rows.map(|path| problem.paths[path].reward);
    let advantages = grpo::group_advantages(&returns);
    let spread = 1.0 / (0.25_f64 * 0.75).sqrt();
    let per_turn: Vec<Vec<f64>> = advantages
        .iter()
        .map(|advantage| vec![*advantage])
        .collect();
    let algorithm = Algorithm::Grpo {
        level: Level::Token,
        clip: 0.2,
        alpha: 0.0,
    };
    let batch = ProblemBatch::of_rows(&problem, &rows, 1, &per_turn).sampled_by_reference();
    let gradients = batch.gradients(&problem.start(), &algorithm).logits;
    let policy = [0.2, 0.5, 0.3];
    let expected: Vec<f64> = (0..3)
        .map(|action| {
            let sum: f64 = rows
                .iter()
                .zip(&advantages)
                .map(|(row, advantage)| {
                    advantage * (f64::from(u8::from(*row == action)) - policy[action])
                })
                .sum();
            -sum / 4.0
        })
        .collect();
    let at = batch.place(ROOT) * VOCAB;
    together([
        near(
            "advantages",
            &advantages,
            &[
                0.75 * spread,
                -0.25 * spread,
                -0.25 * spread,
                -0.25 * spread,
            ],
            1e-12,
        ),
        near(
            "the first gradient",
            &gradients[at..at + 3],
            &expected,
            1e-7,
        ),
        near(
            "if all returns are equal",
            &grpo::group_advantages(&[1.0; 3]),
            &[0.0; 3],
            0.0,
        ),
    ])
}

/// GiGPO compares turns that began in the same state: the turn of the won episode has the higher
/// advantage.
pub(super) fn equal_states_are_compared() -> FactResult {
    let won = gigpo::discounted_returns(1.0, 3, 0.5);
    let lost = gigpo::discounted_returns(0.0, 2, 0.5);
    // Both episodes act in state 8, and only one of them then wins.
    let episodes = [(&won, vec![7, 8, 9]), (&lost, vec![7, 8])].map(|(returns, states)| {
        returns
            .iter()
            .zip(states)
            .map(|(return_to_go, state)| gigpo::AnchorStep {
                state,
                return_to_go: *return_to_go,
            })
            .collect()
    });
    let advantages = gigpo::anchor_advantages(&episodes);
    together([
        near("returns to go", &won, &[0.25, 0.5, 1.0], 1e-15),
        near("the won episode", &advantages[0], &[1.0, 1.0, 0.0], 1e-12),
        near("the lost one", &advantages[1], &[-1.0, -1.0], 1e-12),
        near(
            "both advantages",
            &gigpo::combined(0.5, &advantages[1], 2.0),
            &[-1.5, -1.5],
            1e-12,
        ),
    ])
}
