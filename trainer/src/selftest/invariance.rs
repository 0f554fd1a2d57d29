//! Checks of what a loss must not depend on, and of the first gradients.

use super::compare::{FactResult, holds, near, summarised, together};
use super::problem::{DecisionProblem, VOCAB};
use super::problems::{
    A, ROOT, bandit, label, losses, oreo, point, problem_a, problem_of_words, soft_bellman,
    somewhere,
};
use super::tables::{ProblemBatch, numbers, tensor};
use crate::learn::config::{Algorithm, Level, Targets};

/// T9: logits at other positions, padding, order and the other rows change no loss and get no
/// gradient.
pub(super) fn other_positions_change_nothing() -> FactResult {
    let problem = problem_of_words();
    let rows: Vec<usize> = (0..problem.paths.len()).collect();
    let backwards: Vec<usize> = rows.iter().rev().copied().collect();
    let tables = somewhere(&problem);
    let mut disturbed = tables.clone();
    let batch = ProblemBatch::of_rows(&problem, &rows, 1, &[]);
    let [states, _] = disturbed.logits.dims();
    let written: Vec<bool> = (0..states)
        .map(|at| {
            problem
                .reference
                .iter()
                .any(|(state, _)| batch.place(state) == at)
        })
        .collect();
    let noise: Vec<f64> = (0..states * VOCAB)
        .map(|at| {
            if written[at / VOCAB] {
                0.0
            } else {
                2e9 * f64::sin(at as f64)
            }
        })
        .collect();
    disturbed.logits = disturbed.logits.clone() + tensor(&noise, [states, VOCAB]);
    let mut parts = Vec::new();
    for algorithm in everything(&problem) {
        let name = label(&algorithm);
        let plain = losses(&batch, &tables, &algorithm);
        parts.push(near(
            &name,
            &losses(&batch, &disturbed, &algorithm),
            &plain,
            0.0,
        ));
        parts.push(near(
            &name,
            &losses(
                &ProblemBatch::of_rows(&problem, &rows, 8, &[]),
                &tables,
                &algorithm,
            ),
            &plain,
            1e-14,
        ));
        if !matches!(algorithm, Algorithm::Dpo { .. }) {
            parts.push(near(
                &name,
                &losses(
                    &ProblemBatch::of_rows(&problem, &backwards, 1, &[]),
                    &tables,
                    &algorithm,
                ),
                &plain,
                1e-14,
            ));
            let singles = rows.iter().map(|row| {
                losses(
                    &ProblemBatch::of_rows(&problem, &[*row], 1, &[]),
                    &tables,
                    &algorithm,
                )
            });
            let mean = singles.fold([0.0; 3], |sum, one| {
                [0, 1, 2].map(|i| sum[i] + one[i] / rows.len() as f64)
            });
            parts.push(near(&name, &mean, &plain, 1e-14));
        }
        let gradients = batch.gradients(&tables, &algorithm).logits;
        let leaked = gradients
            .chunks(VOCAB)
            .zip(&written)
            .any(|(gradients, written)| !written && gradients.iter().any(|x| *x != 0.0));
        parts.push(holds(&name, !leaked, "no gradient elsewhere".into()));
    }
    summarised(
        parts,
        "other positions, padding, order and other rows change nothing",
        1e-14,
    )
}

/// Returns every algorithm whose losses depend on the batch alone.
fn everything(problem: &DecisionProblem) -> Vec<Algorithm> {
    let mut all = soft_bellman(problem);
    all.push(Algorithm::Sft {
        targets: Targets::Actions,
    });
    all.push(Algorithm::Dpo {
        beta: 0.3,
        pairs: 5,
    });
    all.push(Algorithm::Kto {
        beta: 0.3,
        desirable: 1.0,
        undesirable: 1.3,
    });
    all
}

/// T10: the gradient through an action's tokens comes from its own residual alone.
pub(super) fn an_action_learns_from_its_own_residual() -> FactResult {
    let problem = problem_a();
    let batch = ProblemBatch::of_rows(&problem, &[0], 1, &[]);
    let leaf = vec![4, 0, A];
    let [plain, moved] = [0.6, 7.0].map(|value| {
        let mut tables = point();
        let mut values = numbers(tables.values.clone());
        values[batch.place(&leaf)] = value;
        let states = values.len();
        tables.values = tensor(&values, [states]).require_grad();
        let gradients = batch.gradients(&tables, &oreo(Level::Turn, &problem));
        [ROOT, &leaf].map(|state| gradients.logits[batch.place(state) * VOCAB])
    });
    // ∂L/∂l = 2β·residual/T, ∂l/∂logit₀ = 1 − π(0).
    let p = 1.0 / (1.0 + f64::exp(-0.3));
    together([
        near(
            "the first action, when only the second's value moves",
            &[moved[0]],
            &[plain[0]],
            0.0,
        ),
        near(
            "the second",
            &[moved[1] - plain[1]],
            &[2.0 * 0.5 * 6.4 / 2.0 * (1.0 - p)],
            1e-14,
        ),
    ])
}

/// T11: if π = π_ref and V ≡ 0, the first L_V is the share of won paths.
pub(super) fn the_first_value_loss_is_the_success_rate() -> FactResult {
    let problem = bandit([[3, 1], [0, 2], [1, 1]]);
    let batch = ProblemBatch::new(&problem);
    let all = soft_bellman(&problem)
        .iter()
        .flat_map(|algorithm| losses(&batch, &problem.start(), algorithm))
        .collect::<Vec<_>>();
    near(
        "every first loss is 4 of 8",
        &all,
        &vec![0.5; all.len()],
        1e-14,
    )
}

/// T12: if π = π_ref and V ≡ 0, a lost path gives the policy exactly no gradient.
pub(super) fn failures_have_no_gradient_at_first() -> FactResult {
    let problem = problem_a();
    let start = problem.start();
    let mut parts = Vec::new();
    for algorithm in soft_bellman(&problem) {
        for (path, is_won) in [(0, true), (1, false), (2, false), (3, true)] {
            let gradients = ProblemBatch::of_rows(&problem, &[path], 1, &[])
                .gradients(&start, &algorithm)
                .logits;
            let moves = gradients.iter().any(|x| *x != 0.0);
            parts.push(holds(
                &label(&algorithm),
                moves == is_won,
                format!("path {path}"),
            ));
        }
    }
    summarised(parts, "lost paths have no gradient, won ones do", 0.0)
}
