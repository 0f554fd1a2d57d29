//! What the losses are held to: the production losses, learned through [`crate::learn::objective`] as every lesson learns, on
//! decision problems that backward induction solves exactly. In double precision, in seconds.
//!
//! T1 to T14 and the golden numbers A and B are the facts that the equations entail; the others say what the baselines
//! rest at. Recorded numbers come from `tests/oracle/oreo_golden.py`.

mod problem;

use crate::learn::objective::Losses;
use crate::loss::rejection_sampling::is_imitated;
use crate::loss::{gigpo, grpo, kto};
use crate::pipeline::recipe::{Algorithm, Level, Targets};
use agent::policy::lm::select;
use problem::{
    Desk, Exchange, OBSERVATIONS, Optimum, Problem, Tables, VOCAB, Walk, numbers, tensor,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// One fact and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Its name: `T1` to `T14`, `A`, `B`, or an algorithm's.
    pub id: String,
    /// Whether it holds.
    pub passed: bool,
    /// What was compared, how near it came and what is allowed.
    pub detail: String,
}

/// A fact that holds, in words, or what is wrong.
type Found = Result<String, String>;

/// A fact's name, and what checks it.
type Check = (&'static str, fn() -> Found);

/// Checks every fact.
#[must_use]
pub fn facts() -> Vec<Fact> {
    let all: [Check; 23] = [
        ("A", golden_a),
        ("B", golden_b),
        ("T1", the_optimum_is_a_zero),
        ("T2", updates_converge),
        ("T3", residuals_telescope),
        ("T4", turns_and_tokens_agree),
        ("T5", one_action_is_dro),
        ("T6", dqo_contains_oreo),
        ("T7", rewards_shift_and_scale),
        ("T8", beta_goes_to_its_limits),
        ("T9", what_was_not_written_is_invisible),
        ("T10", an_action_learns_from_its_own_residual),
        ("T11", the_first_value_loss_is_the_success_rate),
        ("T12", failures_teach_nothing_at_first),
        ("T13", regularising_moves_the_optimum),
        ("T14", more_candidates_never_hurt),
        ("sft", imitation_finds_the_frequencies),
        (
            "rejection-sampling",
            selection_finds_the_frequencies_of_the_won,
        ),
        ("dqo", dqo_converges),
        ("dpo", preferences_find_their_odds),
        ("kto", kto_pulls_by_the_outcome),
        ("grpo", the_first_slope_is_the_policy_gradient),
        ("gigpo", equal_states_are_compared),
    ];
    let fact = |(id, check): Check| {
        let found = check();
        let (passed, detail) = (found.is_ok(), found.unwrap_or_else(|wrong| wrong));
        Fact {
            id: id.into(),
            passed,
            detail,
        }
    };
    all.into_iter().map(fact).collect()
}

// ---- Problems ----

const ROOT: &[u32] = &[4];
const A: u32 = 5;
const B: u32 = 6;

fn walk(rows: usize, turns: &[Exchange], reward: f64) -> Walk {
    Walk {
        rows,
        turns: turns.to_vec(),
        reward,
    }
}

/// Two turns of two actions; the first decides which of two leaves is reached. β = ½.
fn problem_a() -> Problem {
    Problem {
        beta: 0.5,
        walks: vec![
            walk(1, &[(&[4], &[0]), (&[A], &[0])], 1.0),
            walk(1, &[(&[4], &[0]), (&[A], &[1])], 0.0),
            walk(1, &[(&[4], &[1]), (&[B], &[0])], 0.0),
            walk(1, &[(&[4], &[1]), (&[B], &[1])], 1.0),
        ],
        reference: vec![
            (ROOT.to_vec(), vec![(0, 0.5), (1, 0.5)]),
            (vec![4, 0, A], vec![(0, 0.25), (1, 0.75)]),
            (vec![4, 1, B], vec![(0, 0.6), (1, 0.4)]),
        ],
    }
}

/// The same with chance: P(A | 0) = .8, P(A | 1) = .3; behaviour root [.5, .5], A [.4, .6], B [.5, .5], which 200 rows
/// hold exactly.
fn problem_b() -> Problem {
    let walks = vec![
        walk(32, &[(&[4], &[0]), (&[A], &[0])], 1.0),
        walk(48, &[(&[4], &[0]), (&[A], &[1])], 0.0),
        walk(10, &[(&[4], &[0]), (&[B], &[0])], 0.0),
        walk(10, &[(&[4], &[0]), (&[B], &[1])], 0.5),
        walk(12, &[(&[4], &[1]), (&[A], &[0])], 1.0),
        walk(18, &[(&[4], &[1]), (&[A], &[1])], 0.0),
        walk(35, &[(&[4], &[1]), (&[B], &[0])], 0.0),
        walk(35, &[(&[4], &[1]), (&[B], &[1])], 0.5),
    ];
    let leaf = |action: u32, leaf: u32, p: f64| (vec![4, action, leaf], vec![(0, p), (1, 1.0 - p)]);
    let reference = vec![
        (ROOT.to_vec(), vec![(0, 0.5), (1, 0.5)]),
        leaf(0, A, 0.3),
        leaf(1, A, 0.3),
        leaf(0, B, 0.6),
        leaf(1, B, 0.6),
    ];
    Problem {
        beta: 0.5,
        walks,
        reference,
    }
}

/// A first turn of two tokens, a second of one, an observation of two tokens between them.
fn problem_of_words() -> Problem {
    let mut walks = Vec::new();
    let firsts: [&'static [u32]; 4] = [&[0, 0], &[0, 1], &[1, 0], &[1, 1]];
    let seconds: [&'static [u32]; 2] = [&[2], &[3]];
    let rewards = [1.0, 0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0];
    for (index, first) in firsts.into_iter().enumerate() {
        for (place, second) in seconds.into_iter().enumerate() {
            walks.push(walk(
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
    Problem {
        beta: 0.4,
        walks,
        reference,
    }
}

/// One turn of one token: action 0, 1 or 2.
fn bandit(rows: [[usize; 2]; 3]) -> Problem {
    const ACTIONS: [&[u32]; 3] = [&[0], &[1], &[2]];
    let mut walks = Vec::new();
    for (action, [won, lost]) in ACTIONS.into_iter().zip(rows) {
        walks.push(walk(won, &[(&[4], action)], 1.0));
        walks.push(walk(lost, &[(&[4], action)], 0.0));
    }
    walks.retain(|walk| walk.rows > 0);
    Problem {
        beta: 0.5,
        walks,
        reference: vec![(ROOT.to_vec(), vec![(0, 0.2), (1, 0.5), (2, 0.3)])],
    }
}

// ---- Algorithms ----

fn oreo(level: Level, problem: &Problem) -> Algorithm {
    let beta = problem.beta;
    Algorithm::Oreo {
        level,
        beta,
        alpha: 0.0,
        value_learning_rate: 1.0,
        critic_only_share: 0.0,
    }
}

fn dqo(level: Level, problem: &Problem, lambda: f64) -> Algorithm {
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

fn dro(problem: &Problem) -> Algorithm {
    Algorithm::Dro {
        beta: problem.beta,
        value_learning_rate: 1.0,
        critic_only_share: 0.0,
    }
}

/// Where oracle's "point" stands: logits of root, A and B, and their values.
fn point() -> Tables {
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

/// L_π and L_V as they were watched; `value` without U's share.
fn watched(desk: &Desk, tables: &Tables, algorithm: &Algorithm) -> [f64; 3] {
    let watched = desk.losses(tables, algorithm).watched;
    [
        watched.loss_policy,
        watched.loss_value,
        watched.loss_after_value,
    ]
    .map(Option::unwrap_or_default)
}

// ---- Comparing ----

/// The largest difference, which must not exceed the tolerance.
fn near(what: &str, got: &[f64], expected: &[f64], tolerance: f64) -> Found {
    let off = got
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    let same = got.len() == expected.len() && off <= tolerance && got.iter().all(|x| x.is_finite());
    match same {
        true => Ok(format!("{what} within {off:.0e} of {tolerance:.0e}")),
        false => Err(format!(
            "{what}: {got:?} is not {expected:?} within {tolerance:e}"
        )),
    }
}

fn holds(what: &str, does: bool, detail: String) -> Found {
    if does {
        Ok(format!("{what}: {detail}"))
    } else {
        Err(format!("{what} does not hold: {detail}"))
    }
}

/// All of them, in one line; the first that fails alone.
fn together(parts: impl IntoIterator<Item = Found>) -> Found {
    parts
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map(|details| details.join("; "))
}

// ---- Facts ----

fn golden_a() -> Found {
    let problem = problem_a();
    let (desk, optimum, start) = (Desk::new(&problem), problem.solve(), problem.start());
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
    let at_start = |algorithm: &Algorithm| watched(&desk, &start, algorithm)[1];
    let at_point = |algorithm: &Algorithm| watched(&desk, &point(), algorithm);
    let [oreo_policy, oreo_value, _] = at_point(&oreo(Level::Turn, &problem));
    let [dqo_policy, dqo_value, _] = at_point(&dqo(Level::Turn, &problem, 1.0));
    let slopes = desk.slopes(&point(), &oreo(Level::Turn, &problem));
    let logits = [ROOT, &leaf_a, &leaf_b].map(|state| slopes.logits[desk.place(state) * VOCAB]);
    let of_values = [ROOT, &leaf_a, &leaf_b].map(|state| slopes.values[desk.place(state)]);
    // V and U share a table here, and the leaves are after-states of nothing: the observation stands between.
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
            &[
                at_start(&oreo(Level::Turn, &problem)),
                at_start(&dqo(Level::Turn, &problem, 0.0)),
                at_start(&dqo(Level::Turn, &problem, 0.95)),
                at_start(&dro(&problem)),
            ],
            &[0.5, 0.25, 0.475_625, 0.5],
            1e-14,
        ),
        near(
            "at the point OREO, DQO(1), one-step, DQO(.95) and DRO",
            &[
                oreo_policy,
                oreo_value,
                unweighted(&desk, &point(), 1.0),
                unweighted(&desk, &point(), 0.0),
                unweighted(&desk, &point(), 0.95),
                at_point(&dro(&problem))[1],
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

/// DQO's value loss with w = 1, which no recipe asks for, from the loss itself.
fn unweighted(desk: &Desk, tables: &Tables, lambda: f64) -> f64 {
    use crate::loss::dqo::{DqoInputs, value_loss};
    let inputs = desk.actions(tables, Level::Turn);
    let terms = DqoInputs {
        log_ratios: inputs.log_ratios,
        values: inputs.values,
        rewards: desk.batch.rewards.clone().cast(burn::tensor::DType::F64),
        action_mask: inputs.action_mask,
    };
    let [batch, _] = terms.action_mask.dims();
    let ones = terms.values.ones_like().narrow(1, 0, 1).reshape([batch, 1]);
    numbers(value_loss(&terms, &ones, 0.5, lambda))[0]
}

fn golden_b() -> Found {
    let problem = problem_b();
    let (desk, optimum) = (Desk::new(&problem), problem.solve());
    let values = [ROOT, &[4, 0, A], &[4, 0, B]].map(|state| optimum.values[state]);
    let root: Vec<f64> = optimum.policy[ROOT].iter().map(|(_, p)| *p).collect();
    let learned = desk.descend(
        problem.start(),
        &oreo(Level::Turn, &problem),
        squares(&problem),
        150,
    );
    let reached = desk.policy(&learned, ROOT, &[0, 1]);
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

/// T1: at (π*, V*, U*) every loss and every gradient of a deterministic problem is 0.
fn the_optimum_is_a_zero() -> Found {
    let mut parts = Vec::new();
    for (name, problem) in [("two turns", problem_a()), ("words", problem_of_words())] {
        let (desk, tables) = (Desk::new(&problem), problem.at_optimum());
        for algorithm in soft_bellman(&problem) {
            let losses = watched(&desk, &tables, &algorithm);
            let slopes = desk.slopes(&tables, &algorithm);
            let all: Vec<f64> = losses
                .into_iter()
                .chain(slopes.logits)
                .chain(slopes.values)
                .collect();
            parts.push(near(
                &format!("{} on {name}", label(&algorithm)),
                &all,
                &vec![0.0; all.len()],
                1e-12,
            ));
        }
    }
    shortened(parts, "losses and gradients are 0 at (π*, V*, U*)", 1e-12)
}

/// All algorithms whose optimum is the soft-Bellman one.
fn soft_bellman(problem: &Problem) -> Vec<Algorithm> {
    let mut all = vec![oreo(Level::Response, problem), dro(problem)];
    for level in [Level::Turn, Level::Token] {
        all.push(oreo(level, problem));
        all.extend([0.0, 0.7, 1.0].map(|lambda| dqo(level, problem, lambda)));
    }
    all
}

fn label(algorithm: &Algorithm) -> String {
    match algorithm {
        Algorithm::Oreo { level, .. } => format!("OREO {level:?}"),
        Algorithm::Dqo { level, lambda, .. } => format!("DQO {level:?} λ = {lambda}"),
        other => other.kind().into(),
    }
}

/// Many parts that all hold, in few words.
fn shortened(parts: Vec<Found>, what: &str, tolerance: f64) -> Found {
    let count = parts.len();
    together(parts).map(|_| format!("{what}: {count} cases within {tolerance:.0e}"))
}

/// T2: from (π_ref, 0) alternating updates reach (π*, V*), whoever gathered the data.
fn updates_converge() -> Found {
    let mut lopsided = problem_a();
    lopsided
        .walks
        .iter_mut()
        .zip([5, 1, 2, 4])
        .for_each(|(walk, rows)| walk.rows = rows);
    let mut parts = Vec::new();
    for (name, problem, updates) in [
        ("A", problem_a(), 150),
        ("A, lopsided", lopsided, 150),
        ("words", problem_of_words(), 400),
    ] {
        for level in [Level::Turn, Level::Token] {
            let (desk, optimum) = (Desk::new(&problem), problem.solve());
            let learned = desk.descend(
                problem.start(),
                &oreo(level, &problem),
                squares(&problem),
                updates,
            );
            let decisions = decisions(&problem, level);
            let off = desk.distance(&learned, &optimum, &decisions);
            parts.push(near(&format!("{level:?} on {name}"), &[off], &[0.0], 1e-8));
        }
    }
    shortened(parts, "(π, V) reaches (π*, V*) from (π_ref, 0)", 1e-8)
}

/// A rate for squared residuals, whose curvature goes with β².
fn squares(problem: &Problem) -> f64 {
    0.6 / problem.beta.powi(2)
}

/// The states before an action of a level.
fn decisions(problem: &Problem, level: Level) -> Vec<Vec<u32>> {
    let is_turn_start = |state: &[u32]| state.last().is_some_and(|token| *token >= OBSERVATIONS);
    let states = problem.reference.iter().map(|(state, _)| state.clone());
    states
        .filter(|state| level == Level::Token || is_turn_start(state))
        .collect()
}

/// T3: the residual from i to k is that from i to j and from j to k, whatever (π, V).
fn residuals_telescope() -> Found {
    // One-step residuals are DQO's at λ = 0: their sum along a walk must be the response residual, whose square DRO's
    // loss is.
    let problem = problem_a();
    let mut parts = Vec::new();
    for walk in 0..4 {
        let desk = Desk::of_rows(&problem, &[walk], 1, &[]);
        let inputs = desk.actions(&point(), Level::Turn);
        let (l, v) = (numbers(inputs.log_ratios), numbers(inputs.values));
        let steps = [
            v[0] + 0.5 * l[0] - v[1],
            v[1] + 0.5 * l[1] - problem.walks[walk].reward,
        ];
        let loss = unweighted(&desk, &point(), 0.0);
        let response = watched(&desk, &point(), &dro(&problem))[1];
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
    shortened(parts, "residuals of a walk add up", 1e-14)
}

/// T4: a turn has the residual of its first token, and aggregating keeps V* where turns begin.
fn turns_and_tokens_agree() -> Found {
    let problem = problem_of_words();
    let desk = Desk::of_rows(&problem, &[3], 1, &[]);
    let tables = somewhere(&problem);
    let residuals = |level: Level, state: &[u32], actions: f64| {
        desk.slopes_of_value(&tables, level, &problem)[desk.place(state)] * actions / 2.0
    };
    let second: Vec<u32> = vec![4, 0, 1, A, 7];
    let [of_turns, of_tokens] = [(Level::Turn, 2.0), (Level::Token, 3.0)]
        .map(|(level, actions)| [ROOT, &second].map(|state| residuals(level, state, actions)));
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

/// Tables that are neither start nor optimum.
fn somewhere(problem: &Problem) -> Tables {
    let Optimum { values, policy } = problem.solve();
    let mut turn = 0.0;
    let mut wave = || {
        turn += 1.3;
        f64::sin(turn)
    };
    let policy: BTreeMap<Vec<u32>, Vec<(u32, f64)>> = policy
        .into_iter()
        .map(|(state, all)| {
            (
                state,
                all.into_iter()
                    .map(|(token, p)| (token, p * (0.5 * wave()).exp()))
                    .collect(),
            )
        })
        .collect();
    let values = values
        .into_iter()
        .map(|(state, value)| (state, value + 0.3 * wave()))
        .collect();
    problem.tables(&policy, &values)
}

/// T5: the response level is the term at t = 0, and with one action everything is DRO: π ∝ π_ref e^{r/β}.
fn one_action_is_dro() -> Found {
    let problem = bandit([[1, 0], [0, 1], [1, 0]]);
    let (desk, tables) = (Desk::new(&problem), somewhere(&problem));
    let expected = watched(&desk, &tables, &dro(&problem));
    let mut parts: Vec<Found> = [Level::Turn, Level::Token, Level::Response]
        .into_iter()
        .map(|level| {
            near(
                "one action",
                &watched(&desk, &tables, &oreo(level, &problem))[..2],
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
    let learned = desk.descend(problem.start(), &dro(&problem), squares(&problem), 150);
    parts.push(near(
        "what DRO learns",
        &desk.policy(&learned, ROOT, &[0, 1, 2]),
        &policy,
        1e-8,
    ));
    let two = problem_a();
    let desk = Desk::new(&two);
    let (response, dro) = (
        watched(&desk, &point(), &oreo(Level::Response, &two)),
        watched(&desk, &point(), &dro(&two)),
    );
    parts.push(near(
        "the response level of two turns",
        &response[..2],
        &dro[..2],
        1e-14,
    ));
    shortened(parts, "response level, one action and DRO agree", 1e-8)
}

/// T6: DQO with λ = 1 and w = 1 is OREO; λ = 0 leaves one-step residuals (checked in T3).
fn dqo_contains_oreo() -> Found {
    let mut parts = Vec::new();
    let problem = problem_a();
    let desk = Desk::new(&problem);
    parts.push(near(
        "value losses",
        &[unweighted(&desk, &point(), 1.0)],
        &[watched(&desk, &point(), &oreo(Level::Turn, &problem))[1]],
        1e-14,
    ));
    // Where π = π_ref every weight is 1.
    let mut start = problem.start();
    start.values = point().values;
    let [oreo_slopes, dqo_slopes] = [oreo(Level::Turn, &problem), dqo(Level::Turn, &problem, 1.0)]
        .map(|algorithm| desk.slopes(&start, &algorithm));
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
    shortened(parts, "DQO(λ = 1, w = 1) is OREO", 1e-14)
}

/// T7: c more at the end moves V by c and leaves π; rewards and β times k scale V by k and leave π.
fn rewards_shift_and_scale() -> Found {
    let base = problem_of_words();
    let mut shifted = base.clone();
    shifted
        .walks
        .iter_mut()
        .for_each(|walk| walk.reward += 0.25);
    let mut scaled = base.clone();
    scaled.beta *= 2.0;
    scaled.walks.iter_mut().for_each(|walk| walk.reward *= 2.0);
    let mut parts = Vec::new();
    let optimum = base.solve();
    for (what, problem, value) in [
        ("+ c", shifted, (|v| v + 0.25) as fn(f64) -> f64),
        ("· k", scaled, (|v| 2.0 * v) as fn(f64) -> f64),
    ] {
        let (desk, other) = (Desk::new(&problem), problem.solve());
        let values: Vec<f64> = optimum.values.values().map(|v| value(*v)).collect();
        parts.push(near(
            what,
            &other.values.values().copied().collect::<Vec<_>>(),
            &values,
            1e-14,
        ));
        let flat = |optimum: &Optimum| {
            optimum
                .policy
                .values()
                .flatten()
                .map(|(_, p)| *p)
                .collect::<Vec<_>>()
        };
        parts.push(near(what, &flat(&other), &flat(&optimum), 1e-14));
        let slopes = desk.slopes(&problem.at_optimum(), &oreo(Level::Token, &problem));
        parts.push(near(
            what,
            &slopes.logits,
            &vec![0.0; slopes.logits.len()],
            1e-12,
        ));
    }
    shortened(
        parts,
        "rewards + c and · k move V alone, in the solution and in the losses",
        1e-12,
    )
}

/// T8: β → ∞ leaves π_ref, β → 0 leaves the best reward that can be reached.
fn beta_goes_to_its_limits() -> Found {
    let mut parts = Vec::new();
    for (beta, is_large) in [(1e6, true), (1e-2, false)] {
        let problem = Problem {
            beta,
            ..problem_of_words()
        };
        let (desk, optimum) = (Desk::new(&problem), problem.solve());
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
        let losses = watched(&desk, &problem.at_optimum(), &oreo(Level::Turn, &problem));
        parts.push(near("losses there", &losses, &[0.0; 3], 1e-9));
    }
    shortened(parts, "β = 10⁶ gives π_ref, β = 10⁻² the best reward", 5e-2)
}

/// T9: logits where the policy did not write, padding, order and company change no loss and get no gradient.
fn what_was_not_written_is_invisible() -> Found {
    let problem = problem_of_words();
    let rows: Vec<usize> = (0..problem.walks.len()).collect();
    let backwards: Vec<usize> = rows.iter().rev().copied().collect();
    let tables = somewhere(&problem);
    let mut shouting = tables.clone();
    let desk = Desk::of_rows(&problem, &rows, 1, &[]);
    let [states, _] = shouting.logits.dims();
    let written: Vec<bool> = (0..states)
        .map(|at| {
            problem
                .reference
                .iter()
                .any(|(state, _)| desk.place(state) == at)
        })
        .collect();
    let loud: Vec<f64> = (0..states * VOCAB)
        .map(|at| {
            if written[at / VOCAB] {
                0.0
            } else {
                2e9 * f64::sin(at as f64)
            }
        })
        .collect();
    shouting.logits = shouting.logits.clone() + tensor(&loud, [states, VOCAB]);
    let mut parts = Vec::new();
    for algorithm in everything(&problem) {
        let name = label(&algorithm);
        let all = |desk: &Desk, tables: &Tables| watched(desk, tables, &algorithm);
        let plain = all(&desk, &tables);
        parts.push(near(&name, &all(&desk, &shouting), &plain, 0.0));
        parts.push(near(
            &name,
            &all(&Desk::of_rows(&problem, &rows, 8, &[]), &tables),
            &plain,
            1e-14,
        ));
        if !matches!(algorithm, Algorithm::Dpo { .. }) {
            parts.push(near(
                &name,
                &all(&Desk::of_rows(&problem, &backwards, 1, &[]), &tables),
                &plain,
                1e-14,
            ));
            let singles = rows
                .iter()
                .map(|row| all(&Desk::of_rows(&problem, &[*row], 1, &[]), &tables));
            let mean = singles.fold([0.0; 3], |sum, one| {
                [0, 1, 2].map(|i| sum[i] + one[i] / rows.len() as f64)
            });
            parts.push(near(&name, &mean, &plain, 1e-14));
        }
        let slopes = desk.slopes(&tables, &algorithm).logits;
        let leaked = slopes
            .chunks(VOCAB)
            .zip(&written)
            .any(|(slopes, written)| !written && slopes.iter().any(|x| *x != 0.0));
        parts.push(holds(&name, !leaked, "no gradient elsewhere".into()));
    }
    shortened(
        parts,
        "other positions, padding, order and company are invisible",
        1e-14,
    )
}

/// Every algorithm whose losses a batch alone decides.
fn everything(problem: &Problem) -> Vec<Algorithm> {
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
fn an_action_learns_from_its_own_residual() -> Found {
    let problem = problem_a();
    let desk = Desk::of_rows(&problem, &[0], 1, &[]);
    let leaf = vec![4, 0, A];
    let slope = |value: f64| {
        let mut tables = point();
        let mut values = numbers(tables.values.clone());
        values[desk.place(&leaf)] = value;
        let states = values.len();
        tables.values = tensor(&values, [states]).require_grad();
        let logits = desk.slopes(&tables, &oreo(Level::Turn, &problem)).logits;
        [ROOT, &leaf].map(|state| logits[desk.place(state) * VOCAB])
    };
    let (plain, moved) = (slope(0.6), slope(7.0));
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

/// T11: at π = π_ref and V ≡ 0 the first L_V is the share of won walks.
fn the_first_value_loss_is_the_success_rate() -> Found {
    let problem = bandit([[3, 1], [0, 2], [1, 1]]);
    let desk = Desk::new(&problem);
    let all = soft_bellman(&problem)
        .iter()
        .flat_map(|algorithm| watched(&desk, &problem.start(), algorithm))
        .collect::<Vec<_>>();
    near(
        "every first loss is 4 of 8",
        &all,
        &vec![0.5; all.len()],
        1e-14,
    )
}

/// T12: at π = π_ref and V ≡ 0 a lost walk gives the policy exactly no gradient.
fn failures_teach_nothing_at_first() -> Found {
    let problem = problem_a();
    let start = problem.start();
    let mut parts = Vec::new();
    for algorithm in soft_bellman(&problem) {
        for (walk, is_won) in [(0, true), (1, false), (2, false), (3, true)] {
            let slopes = Desk::of_rows(&problem, &[walk], 1, &[])
                .slopes(&start, &algorithm)
                .logits;
            let moves = slopes.iter().any(|x| *x != 0.0);
            parts.push(holds(
                &label(&algorithm),
                moves == is_won,
                format!("walk {walk}"),
            ));
        }
    }
    shortened(parts, "lost walks move nothing, won ones do", 0.0)
}

/// T13: α > 0 moves the fixed point a little, so that exact checks use α = 0.
fn regularising_moves_the_optimum() -> Found {
    let problem = problem_a();
    let (desk, optimum) = (Desk::new(&problem), problem.solve());
    let algorithm = Algorithm::Oreo {
        level: Level::Turn,
        beta: 0.5,
        alpha: 0.01,
        value_learning_rate: 1.0,
        critic_only_share: 0.0,
    };
    let learned = desk.descend(problem.at_optimum(), &algorithm, squares(&problem), 150);
    let off = desk.distance(&learned, &optimum, &[]);
    holds(
        "α = .01 moves π by about 1e-2",
        (1e-3..5e-2).contains(&off),
        format!("{off:.4}"),
    )
}

/// T14: the best of K by exact Q* never gets worse with K; on a one-turn bandit it wins 1 − (1−p)^K.
fn more_candidates_never_hurt() -> Found {
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
            let chosen = drawn[select::best(
                &drawn
                    .iter()
                    .map(|action| scores[*action])
                    .collect::<Vec<_>>(),
            )];
            success += if chosen == 0 { p } else { 0.0 };
        }
        parts.push(near(
            &format!("K = {k}"),
            &[success],
            &[1.0 - 0.8_f64.powi(k as i32)],
            1e-12,
        ));
    }
    shortened(parts, "best of K by Q* wins 1 − (1−p)^K", 1e-12)
}

/// SFT rests where π is how often each action was shown.
fn imitation_finds_the_frequencies() -> Found {
    let problem = bandit([[3, 1], [0, 4], [2, 0]]);
    let desk = Desk::new(&problem);
    let mut parts = Vec::new();
    for targets in [Targets::Actions, Targets::Transcript] {
        let learned = desk.descend(problem.start(), &Algorithm::Sft { targets }, 1.5, 100);
        parts.push(near(
            "frequencies",
            &desk.policy(&learned, ROOT, &[0, 1, 2]),
            &[0.4, 0.4, 0.2],
            1e-10,
        ));
    }
    shortened(parts, "π is how often each action was shown", 1e-10)
}

/// Rejection sampling rests where π is how often each action won.
fn selection_finds_the_frequencies_of_the_won() -> Found {
    let problem = bandit([[3, 1], [1, 4], [1, 0]]);
    let won: Vec<usize> = (0..problem.walks.len())
        .filter(|walk| is_imitated(problem.walks[*walk].reward))
        .flat_map(|walk| std::iter::repeat_n(walk, problem.walks[walk].rows))
        .collect();
    let desk = Desk::of_rows(&problem, &won, 1, &[]);
    let algorithm = Algorithm::RejectionSampling {
        targets: Targets::Actions,
    };
    let learned = desk.descend(problem.start(), &algorithm, 1.5, 100);
    near(
        "π is how often each action won",
        &desk.policy(&learned, ROOT, &[0, 1, 2]),
        &[0.6, 0.2, 0.2],
        1e-10,
    )
}

/// DQO reaches (π*, V*) at every λ, its weights and all.
fn dqo_converges() -> Found {
    let mut parts = Vec::new();
    for (level, lambda) in [(Level::Turn, 0.0), (Level::Turn, 1.0), (Level::Token, 0.7)] {
        let problem = problem_of_words();
        let (desk, optimum) = (Desk::new(&problem), problem.solve());
        // Weights reach e, so steps are shorter.
        let learned = desk.descend(
            problem.start(),
            &dqo(level, &problem, lambda),
            squares(&problem) / 2.0,
            200,
        );
        let off = desk.distance(&learned, &optimum, &decisions(&problem, level));
        parts.push(near(
            &format!("{level:?}, λ = {lambda}"),
            &[off],
            &[0.0],
            1e-6,
        ));
    }
    shortened(parts, "(π, V) reaches (π*, V*) for λ = 0, .7 and 1", 1e-6)
}

/// DPO rests where β(ρ_0 − ρ_1) is the log of how often 0 was preferred to 1: three times to once.
fn preferences_find_their_odds() -> Found {
    let problem = bandit([[1, 1], [1, 1], [0, 0]]);
    let problem = Problem {
        reference: vec![(ROOT.to_vec(), vec![(0, 0.2), (1, 0.8)])],
        ..problem
    };
    // Walks: 0 won, 0 lost, 1 won, 1 lost.
    let pairs = [[0, 3], [0, 3], [0, 3], [2, 1]].concat();
    let desk = Desk::of_rows(&problem, &pairs, 1, &[]);
    let beta = 0.5;
    let learned = desk.descend(
        problem.start(),
        &Algorithm::Dpo { beta, pairs: 5 },
        4.0 / beta.powi(2),
        150,
    );
    let policy = desk.policy(&learned, ROOT, &[0, 1]);
    let margin = beta * ((policy[0] / 0.2).ln() - (policy[1] / 0.8).ln());
    let Losses { watched, .. } = desk.losses(&problem.start(), &Algorithm::Dpo { beta, pairs: 5 });
    together([
        near("β(ρ_w − ρ_l)", &[margin], &[3.0_f64.ln()], 1e-8),
        near(
            "the first loss, ln 2",
            &[watched.loss_policy.unwrap_or_default()],
            &[2.0_f64.ln()],
            1e-14,
        ),
    ])
}

/// KTO's first gradient is ∓β/4 a walk, against its outcome; far above the reference point a won walk pulls less.
fn kto_pulls_by_the_outcome() -> Found {
    let problem = bandit([[1, 0], [0, 1], [1, 0]]);
    let (beta, undesirable) = (0.5, 1.5);
    let algorithm = Algorithm::Kto {
        beta,
        desirable: 1.0,
        undesirable,
    };
    let slope = |walk: usize, action: usize| {
        let desk = Desk::of_rows(&problem, &[walk], 1, &[]);
        desk.slopes(&problem.start(), &algorithm).logits[desk.place(ROOT) * VOCAB + action]
    };
    let desk = Desk::new(&problem);
    let loss = |reference_point: f64| {
        desk.losses_at(&problem.start(), &algorithm, reference_point)
            .watched
            .loss_policy
            .unwrap_or_default()
    };
    // ∂ρ/∂logit_a = 1 − π(a).
    let sigmoid = |x: f64| 1.0 / (1.0 + f64::exp(-x));
    let expected =
        |z: f64| (2.0 * (1.0 - sigmoid(-beta * z)) + undesirable * (1.0 - sigmoid(beta * z))) / 3.0;
    together([
        near("won", &[slope(0, 0)], &[-beta / 4.0 * 0.8], 1e-14),
        near(
            "lost",
            &[slope(1, 1)],
            &[undesirable * beta / 4.0 * 0.5],
            1e-14,
        ),
        near(
            "under z₀ = 2",
            &[loss(0.0), loss(2.0)],
            &[expected(0.0), expected(2.0)],
            1e-14,
        ),
        near(
            "z₀ is never below 0",
            &[kto::reference_point(&[-1.0, -2.0])],
            &[0.0],
            0.0,
        ),
    ])
}

/// GRPO's first gradient is that of −mean Â·ln π, and a group without contrast has none.
fn the_first_slope_is_the_policy_gradient() -> Found {
    let problem = bandit([[1, 0], [0, 1], [0, 1]]);
    let rows = [0, 1, 2, 1];
    let returns = rows.map(|walk| problem.walks[walk].reward);
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
    let desk = Desk::of_rows(&problem, &rows, 1, &per_turn).told_by_the_reference();
    let slopes = desk.slopes(&problem.start(), &algorithm).logits;
    let policy = [0.2, 0.5, 0.3];
    let expected: Vec<f64> = (0..3)
        .map(|action| {
            let one = |(row, advantage): (&usize, &f64)| {
                advantage * (f64::from(u8::from(*row == action)) - policy[action])
            };
            -rows.iter().zip(&advantages).map(one).sum::<f64>() / 4.0
        })
        .collect();
    let at = desk.place(ROOT) * VOCAB;
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
        near("the first gradient", &slopes[at..at + 3], &expected, 1e-7),
        near(
            "without contrast",
            &grpo::group_advantages(&[1.0; 3]),
            &[0.0; 3],
            0.0,
        ),
    ])
}

/// GiGPO compares turns that began in the same state: of two ways on from it, the one that won is the better.
fn equal_states_are_compared() -> Found {
    let step = |state, return_to_go| gigpo::AnchorStep {
        state,
        return_to_go,
    };
    let won = gigpo::discounted_returns(1.0, 3, 0.5);
    let lost = gigpo::discounted_returns(0.0, 2, 0.5);
    // The lost episode stands in state 8 when it goes wrong, the won one when it goes right.
    let episodes = [
        vec![step(7, won[0]), step(8, won[1]), step(9, won[2])],
        vec![step(7, lost[0]), step(8, lost[1])],
    ];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_holds() {
        let facts = facts();
        let missed: Vec<&Fact> = facts.iter().filter(|fact| !fact.passed).collect();
        assert!(missed.is_empty(), "{missed:#?}");
        assert_eq!(facts.len(), 23);
    }
}
