//! Checks of identities between residuals, levels and algorithms.

use super::compare::{FactResult, holds, near, summarised, together};
use super::optimum::policy_rate;
use super::problem::Optimum;
use super::problems::{
    A, ROOT, bandit, dqo, dro, losses, oreo, point, problem_a, problem_of_words, somewhere,
    unweighted,
};
use super::tables::{ProblemBatch, numbers};
use crate::learn::config::Level;

/// T3: for any (π, V), the residual from i to k is the sum of those from i to j and from j to k.
pub(super) fn residuals_telescope() -> FactResult {
    // DQO at λ = 0 has one-step residuals. Their sum along a path must be the response residual,
    // whose square is the loss of DRO.
    let problem = problem_a();
    let mut parts = Vec::new();
    for path in 0..4 {
        let batch = ProblemBatch::of_rows(&problem, &[path], 1, &[]);
        let inputs = batch.actions(&point(), Level::Turn);
        let l = numbers(inputs.log_ratios);
        let v = numbers(inputs.values);
        let steps = [
            v[0] + 0.5 * l[0] - v[1],
            v[1] + 0.5 * l[1] - problem.paths[path].reward,
        ];
        let loss = unweighted(&batch, &point(), 0.0);
        let response = losses(&batch, &point(), &dro(&problem))[1];
        parts.push(near(
            "one-step residuals",
            &[loss],
            &[steps.map(|step| step * step / 2.0).iter().sum()],
            1e-14,
        ));
        parts.push(near(
            "their sum",
            &[response],
            &[(steps[0] + steps[1]).powi(2)],
            1e-14,
        ));
    }
    summarised(parts, "residuals of a path add up", 1e-14)
}

/// T4: the residual of a turn is that of its first token, and aggregation keeps V* at turn starts.
pub(super) fn turns_and_tokens_agree() -> FactResult {
    let problem = problem_of_words();
    let batch = ProblemBatch::of_rows(&problem, &[3], 1, &[]);
    let tables = somewhere(&problem);
    let second: Vec<u32> = vec![4, 0, 1, A, 7];
    // The gradient of the mean square is 2/T times the residual.
    let [of_turns, of_tokens] =
        [(Level::Turn, 2.0), (Level::Token, 3.0)].map(|(level, actions)| {
            let gradient = batch.value_gradient(&tables, level, &problem);
            [ROOT, &second].map(|state| gradient[batch.place(state)] * actions / 2.0)
        });
    together([
        near(
            "residuals of two turns, by turn and by token",
            &of_turns,
            &of_tokens,
            1e-14,
        ),
        holds(
            "they are not 0",
            of_turns.iter().all(|x| x.abs() > 1e-3),
            format!("{of_turns:.3?}"),
        ),
    ])
}

/// T5: the response level is the term at t = 0. If there is one action, every algorithm is DRO:
/// π ∝ π_ref e^{r/β}.
pub(super) fn one_action_is_dro() -> FactResult {
    let problem = bandit([[1, 0], [0, 1], [1, 0]]);
    let batch = ProblemBatch::new(&problem);
    let tables = somewhere(&problem);
    let expected = losses(&batch, &tables, &dro(&problem));
    let mut parts: Vec<FactResult> = [Level::Turn, Level::Token, Level::Response]
        .into_iter()
        .map(|level| {
            near(
                "one action",
                &losses(&batch, &tables, &oreo(level, &problem))[..2],
                &expected[..2],
                1e-14,
            )
        })
        .collect();
    let optimum = problem.solve();
    let weights =
        [(0.2, 1.0), (0.5, 0.0), (0.3, 1.0)].map(|(p, r): (f64, f64)| p * (r / 0.5).exp());
    let total: f64 = weights.iter().sum();
    let policy: Vec<f64> = optimum.policy[ROOT].iter().map(|(_, p)| *p).collect();
    parts.push(near(
        "π ∝ π_ref e^{r/β}",
        &policy,
        &weights.map(|w| w / total),
        1e-14,
    ));
    parts.push(near(
        "V = β log E_ref e^{r/β}",
        &[optimum.values[ROOT]],
        &[0.5 * total.ln()],
        1e-14,
    ));
    let learned = batch.descend(problem.start(), &dro(&problem), policy_rate(&problem), 150);
    parts.push(near(
        "what DRO learns",
        &batch.policy(&learned, ROOT, &[0, 1, 2]),
        &policy,
        1e-8,
    ));
    let two = problem_a();
    let batch = ProblemBatch::new(&two);
    let response = losses(&batch, &point(), &oreo(Level::Response, &two));
    let dro = losses(&batch, &point(), &dro(&two));
    parts.push(near(
        "the response level of two turns",
        &response[..2],
        &dro[..2],
        1e-14,
    ));
    summarised(parts, "response level, one action and DRO agree", 1e-8)
}

/// T6: DQO with λ = 1 and w = 1 is OREO; λ = 0 leaves one-step residuals (checked in T3).
pub(super) fn dqo_contains_oreo() -> FactResult {
    let mut parts = Vec::new();
    let problem = problem_a();
    let batch = ProblemBatch::new(&problem);
    parts.push(near(
        "value losses",
        &[unweighted(&batch, &point(), 1.0)],
        &[losses(&batch, &point(), &oreo(Level::Turn, &problem))[1]],
        1e-14,
    ));
    // If π = π_ref, every weight is 1.
    let mut start = problem.start();
    start.values = point().values;
    let [oreo_slopes, dqo_slopes] = [oreo(Level::Turn, &problem), dqo(Level::Turn, &problem, 1.0)]
        .map(|algorithm| batch.gradients(&start, &algorithm));
    parts.push(near(
        "policy gradients",
        &dqo_slopes.logits,
        &oreo_slopes.logits,
        1e-14,
    ));
    parts.push(near(
        "value gradients",
        &dqo_slopes.values,
        &oreo_slopes.values,
        1e-14,
    ));
    summarised(parts, "DQO(λ = 1, w = 1) is OREO", 1e-14)
}

/// T7: if c is added to the final reward, V moves by c and π stays. If rewards and β are scaled by
/// k, V is scaled by k and π stays.
pub(super) fn rewards_shift_and_scale() -> FactResult {
    let base = problem_of_words();
    let mut shifted = base.clone();
    shifted
        .paths
        .iter_mut()
        .for_each(|path| path.reward += 0.25);
    let mut scaled = base.clone();
    scaled.beta *= 2.0;
    scaled.paths.iter_mut().for_each(|path| path.reward *= 2.0);
    let mut parts = Vec::new();
    let optimum = base.solve();
    for (what, problem, value) in [
        ("+ c", shifted, (|v| v + 0.25) as fn(f64) -> f64),
        ("· k", scaled, (|v| 2.0 * v) as fn(f64) -> f64),
    ] {
        let batch = ProblemBatch::new(&problem);
        let other = problem.solve();
        let values: Vec<f64> = optimum.values.values().map(|v| value(*v)).collect();
        parts.push(near(
            what,
            &other.values.values().copied().collect::<Vec<_>>(),
            &values,
            1e-14,
        ));
        parts.push(near(
            what,
            &probabilities(&other),
            &probabilities(&optimum),
            1e-14,
        ));
        let gradients = batch.gradients(&problem.at_optimum(), &oreo(Level::Token, &problem));
        parts.push(near(
            what,
            &gradients.logits,
            &vec![0.0; gradients.logits.len()],
            1e-12,
        ));
    }
    summarised(
        parts,
        "rewards + c and · k move V alone, in the solution and in the losses",
        1e-12,
    )
}

/// Returns the probabilities of all states and tokens.
fn probabilities(optimum: &Optimum) -> Vec<f64> {
    let entries = optimum.policy.values().flatten();
    entries.map(|(_, p)| *p).collect()
}
