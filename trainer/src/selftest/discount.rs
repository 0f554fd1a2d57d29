//! Checks of OREO with a discount γ per turn, which is not in the paper: the facts of the undiscounted
//! losses in their discounted form.
//!
//! The recorded numbers are from `tests/oracle/losses.py`, `golden_a_discounted`.

use super::compare::{FactResult, holds, near, together};
use super::optimum::{decision_states, policy_rate};
use super::problem::{DecisionProblem, VOCAB};
use super::problems::{
    A, B, ROOT, losses, oreo, point, problem_a, problem_b, problem_c, problem_of_words,
};
use super::tables::ProblemBatch;
use crate::learn::config::Level;

const DISCOUNT: f64 = 0.9;

fn discounted(problem: DecisionProblem) -> DecisionProblem {
    DecisionProblem {
        discount: DISCOUNT,
        ..problem
    }
}

/// Checks all discounted facts.
pub(super) fn discounted_facts() -> FactResult {
    together([
        golden_a(),
        the_optimum_is_a_zero(),
        updates_converge(),
        the_first_value_loss(),
        rewards_scale(),
    ])
}

/// Golden numbers A with γ = .9: the solution, the losses, and the gradients at a point.
fn golden_a() -> FactResult {
    let problem = discounted(problem_a());
    let batch = ProblemBatch::new(&problem);
    let optimum = problem.solve();
    let algorithm = oreo(Level::Turn, &problem);
    let leaves = [ROOT, &[4, 0, A], &[4, 1, B]];
    let at_start = losses(&batch, &problem.start(), &algorithm);
    let at_point = losses(&batch, &point(), &algorithm);
    let gradients = batch.gradients(&point(), &algorithm);
    together([
        near(
            "V* with γ = .9",
            &leaves.map(|state| optimum.values[state]),
            &[
                0.505_149_624_726_342_7,
                0.477_229_296_396_620_26,
                0.634_265_068_208_139_2,
            ],
            1e-14,
        ),
        near(
            "π*",
            &[optimum.policy[ROOT][0].1],
            &[0.429_800_686_939_149_4],
            1e-14,
        ),
        near(
            "L_π, L_V at the start and at the point",
            &[at_start[0], at_start[1], at_point[0], at_point[1]],
            &[
                0.4525,
                0.4525,
                0.088_275_981_398_032_72,
                0.088_275_981_398_032_72,
            ],
            1e-14,
        ),
        near(
            "∂L_π/∂logits",
            &leaves.map(|state| gradients.logits[batch.place(state) * VOCAB]),
            &[
                0.031_571_385_774_585_81,
                -0.021_888_620_433_351_99,
                0.024_858_749_782_494_336,
            ],
            1e-14,
        ),
        near(
            "∂L_V/∂V",
            &leaves.map(|state| gradients.values[batch.place(state)]),
            &[
                -0.128_128_344_613_904_07,
                0.083_158_243_079_327_19,
                -0.152_629_701_590_008_5,
            ],
            1e-14,
        ),
    ])
}

/// T1: at the discounted (π*, V*, U*) of a deterministic problem every loss and gradient is 0. At
/// the undiscounted optimum they are not.
fn the_optimum_is_a_zero() -> FactResult {
    let mut parts = Vec::new();
    for plain in [problem_a(), problem_of_words()] {
        let problem = discounted(plain.clone());
        let batch = ProblemBatch::new(&problem);
        let algorithm = oreo(Level::Turn, &problem);
        let tables = problem.at_optimum();
        let gradients = batch.gradients(&tables, &algorithm);
        let all: Vec<f64> = losses(&batch, &tables, &algorithm)
            .into_iter()
            .chain(gradients.logits)
            .chain(gradients.values)
            .collect();
        parts.push(near(
            "losses and gradients at the optimum",
            &all,
            &vec![0.0; all.len()],
            1e-12,
        ));
        let elsewhere = losses(&batch, &plain.at_optimum(), &algorithm);
        parts.push(holds(
            "without γ the optimum is another",
            elsewhere.iter().all(|loss| *loss > 1e-4),
            format!("{elsewhere:.4?}"),
        ));
    }
    together(parts)
}

/// T2: updates from (π_ref, 0) reach the discounted (π*, V*), under chance too, and the learned U is
/// γ times the learned V of the next state, if the action decides that state.
fn updates_converge() -> FactResult {
    let mut parts = Vec::new();
    for (name, problem) in [("A", problem_a()), ("B", problem_b())] {
        let problem = discounted(problem);
        let batch = ProblemBatch::new(&problem);
        let algorithm = oreo(Level::Turn, &problem);
        let learned = batch.descend(problem.start(), &algorithm, policy_rate(&problem), 150);
        let states = decision_states(&problem, Level::Turn);
        let off = batch.distance(&learned, &problem.solve(), &states);
        parts.push(near(
            &format!("{name} reaches (π*, V*)"),
            &[off],
            &[0.0],
            1e-8,
        ));
        if name == "A" {
            parts.push(near(
                "U = γ V",
                &[batch.value(&learned, &[4, 0])],
                &[DISCOUNT * batch.value(&learned, &[4, 0, A])],
                1e-8,
            ));
        }
    }
    together(parts)
}

/// T11: if π = π_ref and V ≡ 0, the first L_V is the mean of R² γ^{2(T−1−t)} over the turns of each
/// trajectory, then over the trajectories. Problem C has wins in one turn and in two.
fn the_first_value_loss() -> FactResult {
    let problem = discounted(problem_c());
    let batch = ProblemBatch::new(&problem);
    let first = losses(&batch, &problem.start(), &oreo(Level::Turn, &problem));
    let expected = (1.0 + (1.0 + DISCOUNT.powi(2)) / 2.0) / 4.0;
    near("the first losses", &first, &[expected; 3], 1e-14)
}

/// T7: if rewards and β are scaled by 2, V* is scaled by 2 and π* stays.
fn rewards_scale() -> FactResult {
    let base = discounted(problem_of_words());
    let mut scaled = base.clone();
    scaled.beta *= 2.0;
    scaled.paths.iter_mut().for_each(|path| path.reward *= 2.0);
    let [before, after] = [base, scaled].map(|problem| problem.solve());
    let doubled: Vec<f64> = before.values.values().map(|value| 2.0 * value).collect();
    let values: Vec<f64> = after.values.values().copied().collect();
    let [one, two] = [before, after].map(|optimum| {
        let entries = optimum.policy.into_values().flatten();
        entries.map(|(_, p)| p).collect::<Vec<f64>>()
    });
    together([
        near("V* of 2 r and 2 β", &values, &doubled, 1e-14),
        near("π* of 2 r and 2 β", &two, &one, 1e-14),
    ])
}
