//! Checks of the soft-Bellman optimum: the golden numbers, and that losses are 0 there and lead
//! there.
//!
//! The recorded numbers are from `tests/oracle/oreo_golden.py`.

use super::compare::{FactResult, holds, near, summarised, together};
use super::problem::{DecisionProblem, OBSERVATIONS, TokenPrefix, VOCAB};
use super::problems::{
    A, B, ROOT, dqo, dro, label, losses, oreo, oreo_by_batch, point, problem_a, problem_b,
    problem_c, problem_of_words, soft_bellman, unweighted,
};
use super::tables::ProblemBatch;
use crate::learn::config::{Algorithm, Level};

/// Golden numbers A: the solution, the losses at the start and at a point, and gradients there.
pub(super) fn golden_a() -> FactResult {
    let problem = problem_a();
    let batch = ProblemBatch::new(&problem);
    let optimum = problem.solve();
    let start = problem.start();
    let [leaf_a, leaf_b] = [vec![4, 0, A], vec![4, 1, B]];
    let values = [ROOT, &leaf_a, &leaf_b].map(|state| optimum.values[state]);
    let policy: Vec<f64> = [ROOT, &leaf_a, &leaf_b]
        .iter()
        .flat_map(|state| optimum.policy[*state].iter().map(|(_, p)| *p))
        .collect();
    let best = [
        0.422_121_233_636,
        0.577_878_766_364,
        0.711_234_594_228,
        0.288_765_405_772,
        0.168_746_825_682,
        0.831_253_174_318,
    ];
    let at_start = [
        oreo(Level::Turn, &problem),
        dqo(Level::Turn, &problem, 0.0),
        dqo(Level::Turn, &problem, 0.95),
        dro(&problem),
    ]
    .map(|algorithm| losses(&batch, &start, &algorithm)[1]);
    let [oreo_policy, oreo_value, _] = losses(&batch, &point(), &oreo(Level::Turn, &problem));
    let [dqo_policy, dqo_value, _] = losses(&batch, &point(), &dqo(Level::Turn, &problem, 1.0));
    let [_, dro_value, _] = losses(&batch, &point(), &dro(&problem));
    let gradients = batch.gradients(&point(), &oreo(Level::Turn, &problem));
    let logits = [ROOT, &leaf_a, &leaf_b].map(|state| gradients.logits[batch.place(state) * VOCAB]);
    let of_values = [ROOT, &leaf_a, &leaf_b].map(|state| gradients.values[batch.place(state)]);
    // V and U share a table here. The leaves are no after-states, because an observation precedes
    // them.
    together([
        near(
            "V*",
            &values,
            &[
                0.561_887_067_470_277,
                0.477_229_296_396_620,
                0.634_265_068_208_139,
            ],
            1e-14,
        ),
        near("π*", &policy, &best, 1e-11),
        near(
            "at the start OREO, one-step, DQO(.95) and DRO",
            &at_start,
            &[0.5, 0.25, 0.475_625, 0.5],
            1e-14,
        ),
        near(
            "at the point OREO, DQO(1), one-step, DQO(.95) and DRO",
            &[
                oreo_policy,
                oreo_value,
                unweighted(&batch, &point(), 1.0),
                unweighted(&batch, &point(), 0.0),
                unweighted(&batch, &point(), 0.95),
                dro_value,
            ],
            &[
                0.100_413_623_750_726_21,
                0.100_413_623_750_726_21,
                0.100_413_623_750_726_21,
                0.067_969_628_246_210_72,
                0.096_198_825_408_474_26,
                0.091_665_202_574_033_89,
            ],
            1e-14,
        ),
        holds(
            "DQO weighs trajectories",
            dqo_policy != oreo_policy && dqo_value != oreo_value,
            format!("{dqo_value:.6}"),
        ),
        near(
            "∂L_π/∂logits",
            &logits,
            &[0.034_213_516_238, -0.021_888_620_433, 0.024_858_749_782],
            1e-11,
        ),
        near(
            "∂L_V/∂V",
            &of_values,
            &[
                -0.175_075_490_464_972_23,
                0.083_158_243_079_327_13,
                -0.152_629_701_590_008_5,
            ],
            1e-14,
        ),
    ])
}

/// Golden numbers B: the solution under chance, and that OREO reaches it.
pub(super) fn golden_b() -> FactResult {
    let problem = problem_b();
    let batch = ProblemBatch::new(&problem);
    let optimum = problem.solve();
    let values = [ROOT, &[4, 0, A], &[4, 0, B]].map(|state| optimum.values[state]);
    let root: Vec<f64> = optimum.policy[ROOT].iter().map(|(_, p)| *p).collect();
    let learned = batch.descend(
        problem.start(),
        &oreo(Level::Turn, &problem),
        policy_rate(&problem),
        150,
    );
    let reached = batch.policy(&learned, ROOT, &[0, 1]);
    together([
        near(
            "V*",
            &values,
            &[0.416_748_083_5, 0.535_229_305_2, 0.261_568_581_8],
            1e-9,
        ),
        near("π*", &root, &[0.567_991_385_532, 0.432_008_614_468], 1e-11),
        near("π reached under chance", &reached, &root, 1e-9),
    ])
}

/// Golden numbers C: if chance decides the length of an episode, the mean within each trajectory
/// rests beside the optimum, and the mean over the batch at it.
pub(super) fn golden_c() -> FactResult {
    let problem = problem_c();
    let batch = ProblemBatch::new(&problem);
    let optimum = problem.solve();
    let mut parts = vec![near(
        "(π*, V*)",
        &[optimum.policy[ROOT][0].1, optimum.values[ROOT]],
        &[0.5, 0.5],
        1e-14,
    )];
    for (what, algorithm, expected) in [
        (
            "1/T rests at",
            oreo(Level::Turn, &problem),
            [0.582_570_206_462_314_6, 0.590_245_863_731_398_2],
        ),
        ("the batch rests at", oreo_by_batch(&problem), [0.5, 0.5]),
    ] {
        let rate = policy_rate(&problem);
        let learned = batch.descend(problem.start(), &algorithm, rate, 150);
        let rest = [
            batch.policy(&learned, ROOT, &[0])[0],
            batch.value(&learned, ROOT),
        ];
        parts.push(near(what, &rest, &expected, 1e-9));
    }
    together(parts)
}

/// T1: at (π*, V*, U*) every loss and every gradient of a deterministic problem is 0.
pub(super) fn the_optimum_is_a_zero() -> FactResult {
    let mut parts = Vec::new();
    for (name, problem) in [("two turns", problem_a()), ("words", problem_of_words())] {
        let batch = ProblemBatch::new(&problem);
        let tables = problem.at_optimum();
        for algorithm in soft_bellman(&problem) {
            let values = losses(&batch, &tables, &algorithm);
            let gradients = batch.gradients(&tables, &algorithm);
            let all: Vec<f64> = values
                .into_iter()
                .chain(gradients.logits)
                .chain(gradients.values)
                .collect();
            parts.push(near(
                &format!("{} on {name}", label(&algorithm)),
                &all,
                &vec![0.0; all.len()],
                1e-12,
            ));
        }
    }
    summarised(parts, "losses and gradients are 0 at (π*, V*, U*)", 1e-12)
}

/// T2: alternating updates from (π_ref, 0) reach (π*, V*), even if the data are not from π_ref.
pub(super) fn updates_converge() -> FactResult {
    let mut lopsided = problem_a();
    lopsided
        .paths
        .iter_mut()
        .zip([5, 1, 2, 4])
        .for_each(|(path, rows)| path.rows = rows);
    let mut parts = Vec::new();
    for (name, problem, updates) in [
        ("A", problem_a(), 150),
        ("A, lopsided", lopsided, 150),
        ("words", problem_of_words(), 400),
    ] {
        for level in [Level::Turn, Level::Token] {
            let batch = ProblemBatch::new(&problem);
            let optimum = problem.solve();
            let learned = batch.descend(
                problem.start(),
                &oreo(level, &problem),
                policy_rate(&problem),
                updates,
            );
            let decisions = decision_states(&problem, level);
            let off = batch.distance(&learned, &optimum, &decisions);
            parts.push(near(&format!("{level:?} on {name}"), &[off], &[0.0], 1e-8));
        }
    }
    summarised(parts, "(π, V) reaches (π*, V*) from (π_ref, 0)", 1e-8)
}

/// Returns a rate for squared residuals, whose curvature is proportional to β².
pub(super) fn policy_rate(problem: &DecisionProblem) -> f64 {
    0.6 / problem.beta.powi(2)
}

/// Returns the states before an action of a level.
pub(super) fn decision_states(problem: &DecisionProblem, level: Level) -> Vec<TokenPrefix> {
    problem
        .reference
        .iter()
        .map(|(state, _)| state)
        .filter(|state| level == Level::Token || state.last().is_some_and(|t| *t >= OBSERVATIONS))
        .cloned()
        .collect()
}

/// T8: for β → ∞ the optimum is π_ref; for β → 0 its value is the highest reward that can be
/// reached.
pub(super) fn beta_goes_to_its_limits() -> FactResult {
    let mut parts = Vec::new();
    for (beta, is_large) in [(1e6, true), (1e-2, false)] {
        let problem = DecisionProblem {
            beta,
            ..problem_of_words()
        };
        let batch = ProblemBatch::new(&problem);
        let optimum = problem.solve();
        if is_large {
            for (state, reference) in &problem.reference {
                let best: Vec<f64> = optimum.policy[state].iter().map(|(_, p)| *p).collect();
                parts.push(near(
                    "π",
                    &best,
                    &reference.iter().map(|(_, p)| *p).collect::<Vec<_>>(),
                    1e-5,
                ));
            }
        } else {
            parts.push(near("V", &[optimum.values[ROOT]], &[1.0], 5e-2));
        }
        let at_optimum = losses(&batch, &problem.at_optimum(), &oreo(Level::Turn, &problem));
        parts.push(near("losses there", &at_optimum, &[0.0; 3], 1e-9));
    }
    summarised(parts, "β = 10⁶ gives π_ref, β = 10⁻² the best reward", 5e-2)
}

/// T13: if α > 0, the fixed point moves a little. So exact checks use α = 0.
pub(super) fn regularising_moves_the_optimum() -> FactResult {
    let problem = problem_a();
    let batch = ProblemBatch::new(&problem);
    let optimum = problem.solve();
    let mut algorithm = oreo(Level::Turn, &problem);
    if let Algorithm::Oreo { alpha, .. } = &mut algorithm {
        *alpha = 0.01;
    }
    let learned = batch.descend(problem.at_optimum(), &algorithm, policy_rate(&problem), 150);
    let off = batch.distance(&learned, &optimum, &[]);
    holds(
        "α = .01 moves π by about 1e-2",
        (1e-3..5e-2).contains(&off),
        format!("{off:.4}"),
    )
}

/// DQO with its trajectory weights reaches (π*, V*) for every λ.
pub(super) fn dqo_converges() -> FactResult {
    let mut parts = Vec::new();
    for (level, lambda) in [(Level::Turn, 0.0), (Level::Turn, 1.0), (Level::Token, 0.7)] {
        let problem = problem_of_words();
        let batch = ProblemBatch::new(&problem);
        let optimum = problem.solve();
        // Weights are up to e, so steps are shorter.
        let learned = batch.descend(
            problem.start(),
            &dqo(level, &problem, lambda),
            policy_rate(&problem) / 2.0,
            200,
        );
        let off = batch.distance(&learned, &optimum, &decision_states(&problem, level));
        parts.push(near(
            &format!("{level:?}, λ = {lambda}"),
            &[off],
            &[0.0],
            1e-6,
        ));
    }
    summarised(parts, "(π, V) reaches (π*, V*) for λ = 0, .7 and 1", 1e-6)
}
