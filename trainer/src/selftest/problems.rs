//! The problems of the checks, with the algorithms and tables that they use.

use super::problem::{DecisionProblem, Optimum, ProblemPath, TokenProbabilities, TurnTokens};
use super::tables::{PolicyValueTables, ProblemBatch, numbers};
use crate::learn::config::{Algorithm, Level, Normalisation};
use crate::loss::dqo::{DqoInputs, value_loss};
use burn::tensor::DType;
use std::collections::BTreeMap;

/// The state before the first action.
pub(super) const ROOT: &[u32] = &[4];
/// An observation that leads to leaf A.
pub(super) const A: u32 = 5;
/// An observation that leads to leaf B.
pub(super) const B: u32 = 6;

fn path(rows: usize, turns: &[TurnTokens], reward: f64) -> ProblemPath {
    ProblemPath {
        rows,
        turns: turns.to_vec(),
        reward,
    }
}

/// Two turns of two actions; the first action decides which of two leaves is reached. β = ½.
pub(super) fn problem_a() -> DecisionProblem {
    DecisionProblem {
        beta: 0.5,
        discount: 1.0,
        paths: vec![
            path(1, &[(&[4], &[0]), (&[A], &[0])], 1.0),
            path(1, &[(&[4], &[0]), (&[A], &[1])], 0.0),
            path(1, &[(&[4], &[1]), (&[B], &[0])], 0.0),
            path(1, &[(&[4], &[1]), (&[B], &[1])], 1.0),
        ],
        reference: vec![
            (ROOT.to_vec(), vec![(0, 0.5), (1, 0.5)]),
            (vec![4, 0, A], vec![(0, 0.25), (1, 0.75)]),
            (vec![4, 1, B], vec![(0, 0.6), (1, 0.4)]),
        ],
    }
}

/// The same with chance: P(A | 0) = .8, P(A | 1) = .3. The behaviour policy is root [.5, .5],
/// A [.4, .6], B [.5, .5], which 200 rows represent exactly.
pub(super) fn problem_b() -> DecisionProblem {
    let paths = vec![
        path(32, &[(&[4], &[0]), (&[A], &[0])], 1.0),
        path(48, &[(&[4], &[0]), (&[A], &[1])], 0.0),
        path(10, &[(&[4], &[0]), (&[B], &[0])], 0.0),
        path(10, &[(&[4], &[0]), (&[B], &[1])], 0.5),
        path(12, &[(&[4], &[1]), (&[A], &[0])], 1.0),
        path(18, &[(&[4], &[1]), (&[A], &[1])], 0.0),
        path(35, &[(&[4], &[1]), (&[B], &[0])], 0.0),
        path(35, &[(&[4], &[1]), (&[B], &[1])], 0.5),
    ];
    let mut reference = vec![(ROOT.to_vec(), vec![(0, 0.5), (1, 0.5)])];
    for (leaf, p) in [(A, 0.3), (B, 0.6)] {
        for action in [0, 1] {
            reference.push((vec![4, action, leaf], vec![(0, p), (1, 1.0 - p)]));
        }
    }
    DecisionProblem {
        beta: 0.5,
        discount: 1.0,
        paths,
        reference,
    }
}

/// A first turn of two tokens and a second of one, with an observation of two tokens between them.
pub(super) fn problem_of_words() -> DecisionProblem {
    let mut paths = Vec::new();
    let firsts: [&'static [u32]; 4] = [&[0, 0], &[0, 1], &[1, 0], &[1, 1]];
    let seconds: [&'static [u32]; 2] = [&[2], &[3]];
    let rewards = [1.0, 0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0];
    for (index, first) in firsts.into_iter().enumerate() {
        for (place, second) in seconds.into_iter().enumerate() {
            paths.push(path(
                1 + index % 2,
                &[(&[4], first), (&[A, 7], second)],
                rewards[2 * index + place],
            ));
        }
    }
    let mut reference = vec![
        (ROOT.to_vec(), vec![(0, 0.3), (1, 0.7)]),
        (vec![4, 0], vec![(0, 0.6), (1, 0.4)]),
        (vec![4, 1], vec![(0, 0.2), (1, 0.8)]),
    ];
    for (index, first) in firsts.into_iter().enumerate() {
        let p = 0.2 + 0.2 * index as f64;
        reference.push(([ROOT, first, &[A, 7]].concat(), vec![(2, p), (3, 1.0 - p)]));
    }
    DecisionProblem {
        beta: 0.4,
        discount: 1.0,
        paths,
        reference,
    }
}

/// One choice, and a length that chance decides. Action 0 wins at once or, as often, loses after a
/// second, forced turn. Action 1 wins or loses after two turns. β = ½.
pub(super) fn problem_c() -> DecisionProblem {
    DecisionProblem {
        beta: 0.5,
        discount: 1.0,
        paths: vec![
            path(1, &[(&[4], &[0])], 1.0),
            path(1, &[(&[4], &[0]), (&[A], &[2])], 0.0),
            path(1, &[(&[4], &[1]), (&[B], &[2])], 1.0),
            path(1, &[(&[4], &[1]), (&[B], &[2])], 0.0),
        ],
        reference: vec![
            (ROOT.to_vec(), vec![(0, 0.5), (1, 0.5)]),
            (vec![4, 0, A], vec![(2, 1.0)]),
            (vec![4, 1, B], vec![(2, 1.0)]),
        ],
    }
}

/// One turn of one token: action 0, 1 or 2. `rows` is how often each was won and lost.
pub(super) fn bandit(rows: [[usize; 2]; 3]) -> DecisionProblem {
    const ACTIONS: [&[u32]; 3] = [&[0], &[1], &[2]];
    let mut paths = Vec::new();
    for (action, [won, lost]) in ACTIONS.into_iter().zip(rows) {
        paths.push(path(won, &[(&[4], action)], 1.0));
        paths.push(path(lost, &[(&[4], action)], 0.0));
    }
    paths.retain(|path| path.rows > 0);
    DecisionProblem {
        beta: 0.5,
        discount: 1.0,
        paths,
        reference: vec![(ROOT.to_vec(), vec![(0, 0.2), (1, 0.5), (2, 0.3)])],
    }
}

/// OREO without regularisation.
pub(super) fn oreo(level: Level, problem: &DecisionProblem) -> Algorithm {
    let beta = problem.beta;
    Algorithm::Oreo {
        level,
        beta,
        alpha: 0.0,
        value_learning_rate: 1.0,
        critic_only_share: 0.0,
        discount: problem.discount,
        normalise: Normalisation::Trajectory,
        log_ratio_clip: None,
        path_length: None,
        imitation_coef: 0.0,
    }
}

/// OREO over turns, averaged over all turns of the batch.
pub(super) fn oreo_by_batch(problem: &DecisionProblem) -> Algorithm {
    let mut algorithm = oreo(Level::Turn, problem);
    if let Algorithm::Oreo { normalise, .. } = &mut algorithm {
        *normalise = Normalisation::Batch;
    }
    algorithm
}

/// DQO without process scores.
pub(super) fn dqo(level: Level, problem: &DecisionProblem, lambda: f64) -> Algorithm {
    let beta = problem.beta;
    Algorithm::Dqo {
        level,
        beta,
        lambda,
        process_scores: false,
        value_learning_rate: 1.0,
        critic_only_share: 0.0,
    }
}

/// DRO.
pub(super) fn dro(problem: &DecisionProblem) -> Algorithm {
    Algorithm::Dro {
        beta: problem.beta,
        value_learning_rate: 1.0,
        critic_only_share: 0.0,
    }
}

/// The "point" of the oracle: logits of root, A and B, and their values.
pub(super) fn point() -> PolicyValueTables {
    let policy = [
        (ROOT.to_vec(), [0.2, -0.1]),
        (vec![4, 0, A], [0.3, 0.0]),
        (vec![4, 1, B], [-0.4, 0.1]),
    ];
    let policy = policy
        .into_iter()
        .map(|(state, [a, b]): (_, [f64; 2])| (state, vec![(0, a.exp()), (1, b.exp())]));
    let values = [
        (ROOT.to_vec(), 0.3),
        (vec![4, 0, A], 0.6),
        (vec![4, 1, B], 0.2),
    ];
    problem_a().tables(&policy.collect(), &values.into_iter().collect())
}

/// Returns L_π, L_V and L_U.
pub(super) fn losses(
    batch: &ProblemBatch,
    tables: &PolicyValueTables,
    algorithm: &Algorithm,
) -> [f64; 3] {
    let statistics = batch.losses(tables, algorithm).statistics;
    [
        statistics.loss_policy,
        statistics.loss_value,
        statistics.loss_after_value,
    ]
    .map(Option::unwrap_or_default)
}

/// Returns DQO's value loss with w = 1. No recipe has this setting, so the loss is called directly.
pub(super) fn unweighted(batch: &ProblemBatch, tables: &PolicyValueTables, lambda: f64) -> f64 {
    let inputs = batch.actions(tables, Level::Turn);
    let terms = DqoInputs {
        log_ratios: inputs.log_ratios,
        values: inputs.values,
        rewards: batch.tensors.rewards.clone().cast(DType::F64),
        action_mask: inputs.action_mask,
    };
    let [rows, _] = terms.action_mask.dims();
    let ones = terms.values.ones_like().narrow(1, 0, 1).reshape([rows, 1]);
    numbers(value_loss(&terms, &ones, 0.5, lambda))[0]
}

/// Returns all algorithms whose optimum is that of the soft Bellman equation.
pub(super) fn soft_bellman(problem: &DecisionProblem) -> Vec<Algorithm> {
    let mut all = vec![oreo(Level::Response, problem), dro(problem)];
    for level in [Level::Turn, Level::Token] {
        all.push(oreo(level, problem));
        all.extend([0.0, 0.7, 1.0].map(|lambda| dqo(level, problem, lambda)));
    }
    all
}

/// Returns the name of an algorithm with its level.
pub(super) fn label(algorithm: &Algorithm) -> String {
    match algorithm {
        Algorithm::Oreo { level, .. } => format!("OREO {level:?}"),
        Algorithm::Dqo { level, lambda, .. } => format!("DQO {level:?} λ = {lambda}"),
        other => other.kind().into(),
    }
}

/// Returns tables that are neither the start nor the optimum.
pub(super) fn somewhere(problem: &DecisionProblem) -> PolicyValueTables {
    let Optimum { values, policy } = problem.solve();
    let mut wave = std::iter::successors(Some(1.3), |turn| Some(turn + 1.3)).map(f64::sin);
    let mut moved_policy = BTreeMap::new();
    for (state, probabilities) in policy {
        let moved: TokenProbabilities = probabilities
            .into_iter()
            .zip(&mut wave)
            .map(|((token, p), wave)| (token, p * (0.5 * wave).exp()))
            .collect();
        moved_policy.insert(state, moved);
    }
    let moved_values = values
        .into_iter()
        .zip(wave)
        .map(|((state, value), wave)| (state, value + 0.3 * wave))
        .collect();
    problem.tables(&moved_policy, &moved_values)
}
