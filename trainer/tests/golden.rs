//! The production losses against exact optima: tables for networks, trees small enough to solve, double precision.
//!
//! Recorded numbers come from `tests/oracle/oreo_golden.py`. Two trees of two turns and two actions, β = ½:
//! **A** is deterministic; in **B** the next state is drawn, as a hidden world draws it. Data are rows of a batch,
//! repeated as often as the behaviour and the world make them, so no loss needs a weight.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, activation::log_softmax};
use scenarios::Trajectory;
use serde_json::json;
use trainer::batch::{Batch, BatchTensors};
use trainer::loss::oreo::{
    OreoInputs, after_value_loss, exact_kl, policy_loss, response_policy_loss, response_value_loss, turn_sums,
    value_loss,
};
use trainer::loss::sft::{sft_loss, transcript_loss};
use trainer::loss::target_logprobs;

const BETA: f64 = 0.5;

// ---- Tables and trees ----

/// States of a tree.
const ROOT: usize = 0;
const A: usize = 1;
const B: usize = 2;

/// So many rows of: at the root this action, at the leaf reached that action.
struct Path {
    rows: usize,
    first: usize,
    leaf: usize,
    second: usize,
}

struct Tree {
    /// π_ref of root, A and B.
    reference: [[f64; 2]; 3],
    /// Terminal reward by leaf (A, B) and action.
    rewards: [[f64; 2]; 2],
    paths: Vec<Path>,
}

/// What training moves: logits `[3, 2]`, V `[3]` and U `[3, 2]` of root, A and B.
#[derive(Clone)]
struct Tables {
    logits: Tensor<2>,
    values: Tensor<1>,
    after_values: Tensor<2>,
}

/// The exact answer, in the shapes of [`Tables`].
struct Optimum {
    probabilities: [f64; 6],
    values: [f64; 3],
    after_values: [f64; 6],
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&device(), DType::F64))
}

fn indices(values: impl IntoIterator<Item = usize>) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|index| index as i64).collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), &device())
}

fn all(batch: usize, actions: usize) -> Tensor<2, Bool> {
    Tensor::from_data(TensorData::new(vec![true; batch * actions], [batch, actions]), &device())
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().try_to_vec().unwrap()
}

fn number(tensor: Tensor<1>) -> f64 {
    tensor.into_scalar()
}

#[track_caller]
fn assert_near(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (a, b) in got.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{got:?} is not {expected:?} within {tolerance:e}");
    }
}

fn tree_a(rows: [usize; 4]) -> Tree {
    let path = |(index, rows): (usize, usize)| Path { rows, first: index / 2, leaf: A + index / 2, second: index % 2 };
    Tree {
        reference: [[0.5, 0.5], [0.25, 0.75], [0.6, 0.4]],
        rewards: [[1.0, 0.0], [0.0, 1.0]],
        paths: rows.into_iter().enumerate().map(path).collect(),
    }
}

/// P(A | 0) = .8, P(A | 1) = .3; behaviour root [.5, .5], A [.4, .6], B [.5, .5]: 200 rows hold it exactly.
fn tree_b() -> Tree {
    let rows = [
        (32, 0, A, 0),
        (48, 0, A, 1),
        (10, 0, B, 0),
        (10, 0, B, 1),
        (12, 1, A, 0),
        (18, 1, A, 1),
        (35, 1, B, 0),
        (35, 1, B, 1),
    ];
    Tree {
        reference: [[0.5, 0.5], [0.3, 0.7], [0.6, 0.4]],
        rewards: [[1.0, 0.0], [0.0, 0.5]],
        paths: rows.into_iter().map(|(rows, first, leaf, second)| Path { rows, first, leaf, second }).collect(),
    }
}

impl Tree {
    fn rows(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().flat_map(|path| std::iter::repeat_n(path, path.rows))
    }

    /// `[batch, 2]` of whatever stands in the table `[3, 2]` at each row's two (state, action).
    fn by_action(&self, table: Tensor<2>) -> Tensor<2> {
        let places = indices(self.rows().flat_map(|row| [ROOT * 2 + row.first, row.leaf * 2 + row.second]));
        let batch = places.dims()[0] / 2;
        table.reshape([6]).select(0, places).reshape([batch, 2])
    }

    fn inputs(&self, tables: &Tables) -> OreoInputs {
        let reference = tensor(&self.reference.concat().map_ln(), [3, 2]);
        let log_ratios = self.by_action(log_softmax(tables.logits.clone(), 1) - reference);
        let [batch, _] = log_ratios.dims();
        let states = indices(self.rows().flat_map(|row| [ROOT, row.leaf]));
        let returns: Vec<f64> = self.rows().map(|row| self.rewards[row.leaf - A][row.second]).collect();
        OreoInputs {
            log_ratios,
            values: tables.values.clone().select(0, states).reshape([batch, 2]),
            returns: tensor(&returns, [batch, 1]),
            action_mask: all(batch, 2),
        }
    }

    fn after_value_loss(&self, tables: &Tables) -> Tensor<1> {
        after_value_loss(self.by_action(tables.after_values.clone()), &self.inputs(tables), BETA)
    }

    /// (π_ref, V = 0, U = 0).
    fn start(&self) -> Tables {
        tables(&self.reference.concat().map_ln(), &[0.0; 3], &[0.0; 6])
    }

    /// Backward induction: V* = β log Σ π_ref e^{Q*/β}, π* = π_ref e^{(Q* − V*)/β}.
    fn optimum(&self) -> Optimum {
        let value = |state: usize, q: [f64; 2]| {
            let sum: f64 = (0..2).map(|action| self.reference[state][action] * (q[action] / BETA).exp()).sum();
            BETA * sum.ln()
        };
        let leaves = [value(A, self.rewards[0]), value(B, self.rewards[1])];
        let root = [0, 1].map(|action| {
            let (mut sum, mut rows) = (0.0, 0.0);
            for path in self.paths.iter().filter(|path| path.first == action) {
                sum += path.rows as f64 * leaves[path.leaf - A];
                rows += path.rows as f64;
            }
            sum / rows
        });
        let q = [root, self.rewards[0], self.rewards[1]];
        let values = [value(ROOT, root), leaves[0], leaves[1]];
        let mut optimum = Optimum { probabilities: [0.0; 6], values, after_values: [0.0; 6] };
        for place in 0..6 {
            let (state, action) = (place / 2, place % 2);
            optimum.after_values[place] = q[state][action];
            optimum.probabilities[place] =
                self.reference[state][action] * ((q[state][action] - values[state]) / BETA).exp();
        }
        optimum
    }

    /// Plain alternating gradient descent from `start`: value first, the policy against the value before that update.
    fn train(&self, updates: usize) -> Tables {
        const VALUE_RATE: f64 = 1.0;
        const POLICY_RATE: f64 = 6.0;
        let mut tables = self.start();
        for _ in 0..updates {
            let inputs = self.inputs(&tables);
            let after_value_gradients = self.after_value_loss(&tables).backward();
            let value_gradients = value_loss(&inputs, BETA).backward();
            let policy_gradients = policy_loss(&inputs, BETA).backward();
            let values = tables.values.grad(&value_gradients).unwrap() * VALUE_RATE;
            let after_values = tables.after_values.grad(&after_value_gradients).unwrap() * VALUE_RATE;
            let logits = tables.logits.grad(&policy_gradients).unwrap() * POLICY_RATE;
            tables = Tables {
                logits: (tables.logits.inner() - logits).autodiff().require_grad(),
                values: (tables.values.inner() - values).autodiff().require_grad(),
                after_values: (tables.after_values.inner() - after_values).autodiff().require_grad(),
            };
        }
        tables
    }

    #[track_caller]
    fn assert_converges(&self, updates: usize, tolerance: f64) {
        let (trained, optimum) = (self.train(updates), self.optimum());
        let logprobs = log_softmax(trained.logits, 1);
        assert_near(&numbers(logprobs.clone().exp()), &optimum.probabilities, tolerance);
        assert_near(&numbers(trained.values.clone()), &optimum.values, tolerance);
        assert_near(&numbers(trained.after_values.clone()), &optimum.after_values, tolerance);
        // U* − V* = β log(π*/π_ref)
        let advantages = trained.after_values - trained.values.unsqueeze_dim(1);
        let log_ratios = logprobs - tensor(&self.reference.concat().map_ln(), [3, 2]);
        assert_near(&numbers(advantages), &numbers(log_ratios * BETA), 4.0 * tolerance);
    }
}

/// ln of every entry.
trait MapLn {
    fn map_ln(&self) -> Vec<f64>;
}

impl MapLn for [f64] {
    fn map_ln(&self) -> Vec<f64> {
        self.iter().map(|x| x.ln()).collect()
    }
}

fn tables(logits: &[f64], values: &[f64], after_values: &[f64]) -> Tables {
    Tables {
        logits: tensor(logits, [3, 2]).require_grad(),
        values: tensor(values, [3]).require_grad(),
        after_values: tensor(after_values, [3, 2]).require_grad(),
    }
}

/// The oracle's "point".
fn point() -> Tables {
    tables(&[0.2, -0.1, 0.3, 0.0, -0.4, 0.1], &[0.3, 0.6, 0.2], &[0.5, 0.1, 0.7, -0.2, 0.4, 0.9])
}

// ---- Golden numbers ----

/// The losses' values at `tables`: value, policy, after, response policy, response value.
fn losses(tree: &Tree, tables: &Tables) -> [f64; 5] {
    let inputs = tree.inputs(tables);
    [
        number(value_loss(&inputs, BETA)),
        number(policy_loss(&inputs, BETA)),
        number(tree.after_value_loss(tables)),
        number(response_policy_loss(&inputs, BETA)),
        number(response_value_loss(&inputs, BETA)),
    ]
}

/// Their gradients where they have any: V, logits, U, logits, V.
fn gradients(tree: &Tree, tables: &Tables) -> [Vec<f64>; 5] {
    let inputs = || tree.inputs(tables);
    let of_logits = |loss: Tensor<1>| numbers(tables.logits.grad(&loss.backward()).unwrap());
    let of_values = |loss: Tensor<1>| numbers(tables.values.grad(&loss.backward()).unwrap());
    let after = tree.after_value_loss(tables).backward();
    [
        of_values(value_loss(&inputs(), BETA)),
        of_logits(policy_loss(&inputs(), BETA)),
        numbers(tables.after_values.grad(&after).unwrap()),
        of_logits(response_policy_loss(&inputs(), BETA)),
        of_values(response_value_loss(&inputs(), BETA)),
    ]
}

/// Both letters of every pair of a softmax's two logits: +x, −x.
fn pairs(halves: [f64; 3]) -> [f64; 6] {
    let [root, a, b] = halves;
    [root, -root, a, -a, b, -b]
}

#[test]
fn a_backward_induction() {
    let optimum = tree_a([1; 4]).optimum();
    assert_near(&optimum.values, &[0.561_887_067_470_277, 0.477_229_296_396_620, 0.634_265_068_208_139], 1e-15);
    let expected = [
        0.422_121_233_636,
        0.577_878_766_364,
        0.711_234_594_228,
        0.288_765_405_772,
        0.168_746_825_682,
        0.831_253_174_318,
    ];
    assert_near(&optimum.probabilities, &expected, 1e-12);
}

/// Half of the four paths succeed.
#[test]
fn a_at_the_start() {
    let tree = tree_a([1; 4]);
    assert_near(&losses(&tree, &tree.start()), &[0.5; 5], 1e-15);
}

#[test]
fn a_at_a_point() {
    let (tree, tables) = (tree_a([1; 4]), point());
    let (value, response) = (0.100_413_623_750_726_21, 0.091_665_202_574_033_89);
    assert_near(&losses(&tree, &tables), &[value, value, 0.104_028_168_314_777_43, response, response], 1e-15);

    let [values, logits, after_values, response_logits, response_values] = gradients(&tree, &tables);
    assert_near(&values, &[-0.175_075_490_464_972_23, 0.083_158_243_079_327_13, -0.152_629_701_590_008_5], 1e-15);
    let expected = pairs([0.034_213_516_238_457_96, -0.021_888_620_433_351_99, 0.024_858_749_782_494_333]);
    assert_near(&logits, &expected, 1e-15);
    let expected = [0.033_158_243_079_327_146, -0.202_629_701_590_008_48, -0.075, -0.05, 0.1, -0.025];
    assert_near(&after_values, &expected, 1e-15);
    let expected = pairs([0.068_427_032_476_915_92, -0.035_193_868_603_907_15, 0.050_905_108_202_433_685]);
    assert_near(&response_logits, &expected, 1e-15);
    assert_near(&response_values, &[2.0 * values[0], 0.0, 0.0], 1e-15);
}

#[test]
fn b_at_a_point() {
    let (tree, tables) = (tree_b(), point());
    let (value, response) = (0.038_279_839_303_363_77, 0.032_997_021_552_657_59);
    assert_near(&losses(&tree, &tables), &[value, value, 0.080_786_392_034_492_59, response, response], 1e-15);

    let [values, logits, after_values, response_logits, _] = gradients(&tree, &tables);
    assert_near(&values, &[-0.051_130_081_388_399_7, 0.099_340_681_996_898_84, -0.024_866_731_431_007_625], 1e-15);
    let expected = pairs([0.010_395_552_533_703_73, -0.036_803_789_901_885_126, 0.001_136_212_184_349_213_6]);
    assert_near(&logits, &expected, 1e-15);
    let expected = [0.056_721_828_407_015_64, -0.102_247_877_841_124_44, -0.066, -0.066, 0.09, 0.09];
    assert_near(&after_values, &expected, 1e-15);
    let expected = pairs([0.020_791_105_067_407_46, -0.047_557_691_928_945_42, 0.005_178_162_110_426_781_5]);
    assert_near(&response_logits, &expected, 1e-15);
}

#[test]
fn b_backward_induction() {
    let optimum = tree_b().optimum();
    assert_near(&optimum.values, &[0.416_748_083_548_173_5, 0.535_229_305_150_334_5, 0.261_568_581_805_792_73], 1e-14);
    assert_near(&optimum.probabilities[..2], &[0.567_991_385_531_691_6, 0.432_008_614_468_308_4], 1e-14);
}

// ---- Facts ----

/// At (π*, V*, U*) of a deterministic tree every loss and every gradient is 0.
#[test]
fn t1_the_optimum_is_a_zero() {
    let tree = tree_a([1; 4]);
    let optimum = tree.optimum();
    let tables = tables(&optimum.probabilities.map_ln(), &optimum.values, &optimum.after_values);
    assert_near(&losses(&tree, &tables), &[0.0; 5], 1e-30);
    for gradient in gradients(&tree, &tables) {
        assert_near(&gradient, &vec![0.0; gradient.len()], 1e-15);
    }
}

/// With chance in the world the losses keep its variance, yet (π*, V*, U*) is where Eq. 8, Eq. 9 and L_U rest.
/// Not so Eq. 10: what its one residual says of the second action is spoilt by the luck of the first.
#[test]
fn t1_the_optimum_is_a_fixed_point_under_chance() {
    let tree = tree_b();
    let optimum = tree.optimum();
    let tables = tables(&optimum.probabilities.map_ln(), &optimum.values, &optimum.after_values);
    let [values, logits, after_values, response_logits, _] = gradients(&tree, &tables);
    for gradient in [values, logits, after_values] {
        assert_near(&gradient, &vec![0.0; gradient.len()], 1e-15);
    }
    assert!(response_logits.iter().any(|x| x.abs() > 1e-3), "{response_logits:?}");
    let variance = 0.006_927_342_713_884_85;
    assert_near(&losses(&tree, &tables)[..3], &[variance; 3], 1e-15);
}

#[test]
fn t2_alternating_updates_converge() {
    tree_a([1; 4]).assert_converges(200, 1e-12);
}

/// The same optimum from lopsided data.
#[test]
fn t2_whoever_gathered_the_data() {
    tree_a([5, 1, 2, 4]).assert_converges(200, 1e-12);
}

/// Tree B, where the form without the stop-gradient would end at V = (0.40686, 0.51471, 0.26650).
#[test]
fn t2_under_chance_too() {
    tree_b().assert_converges(200, 1e-12);
}

/// One trajectory of the actions in `log_ratios`, valued by `values`, ending in `outcome` (a return or a value).
fn segment(log_ratios: &[f64], values: &[f64], outcome: f64) -> OreoInputs {
    let actions = log_ratios.len();
    OreoInputs {
        log_ratios: tensor(log_ratios, [1, actions]).require_grad(),
        values: tensor(values, [1, actions]).require_grad(),
        returns: tensor(&[outcome], [1, 1]),
        action_mask: all(1, actions),
    }
}

/// V(s_i) − outcome + β Σ l, read off the loss: ∂/∂V(s_0) of its square is twice it.
fn residual(log_ratios: &[f64], values: &[f64], outcome: f64) -> f64 {
    let inputs = segment(log_ratios, values, outcome);
    let gradients = response_value_loss(&inputs, BETA).backward();
    numbers(inputs.values.grad(&gradients).unwrap())[0] / 2.0
}

/// residual(0→3) = residual(0→j) + residual(j→3), where a segment cut at j ends in V(s_j).
#[test]
fn t3_residuals_telescope() {
    let (log_ratios, values) = ([0.4, -0.2, 0.1], [0.2, 0.5, 0.9]);
    let whole = residual(&log_ratios, &values, 1.0);
    assert_near(&[whole], &[0.2 - 1.0 + 0.5 * 0.3], 1e-15);
    for j in 1..3 {
        let early = residual(&log_ratios[..j], &values[..j], values[j]);
        let late = residual(&log_ratios[j..], &values[j..], 1.0);
        assert_near(&[early + late], &[whole], 1e-15);
    }
}

/// Tokens 0–1 are turn 0, tokens 2–4 turn 1. ∂L_V/∂V(s_t) = 2 residual_t / T at either level, T = 5 or 2.
#[test]
fn t4_a_turn_has_the_residual_of_its_first_token() {
    let tokens = segment(&[0.4, -0.2, 0.1, 0.7, -0.3], &[0.2, 0.5, 0.9, -0.1, 0.3], 1.0);
    let turn_of_target = indices([0, 0, 1, 1, 1]).unsqueeze();
    let turns = OreoInputs {
        log_ratios: turn_sums(tokens.log_ratios.clone(), turn_of_target, &tokens.action_mask, 2),
        values: tensor(&[0.2, 0.9], [1, 2]).require_grad(),
        returns: tokens.returns.clone(),
        action_mask: all(1, 2),
    };
    let residuals = |inputs: &OreoInputs| {
        let gradients = value_loss(inputs, BETA).backward();
        let [_, actions] = inputs.action_mask.dims();
        numbers(inputs.values.grad(&gradients).unwrap() * (actions as f64 / 2.0))
    };
    let (of_tokens, of_turns) = (residuals(&tokens), residuals(&turns));
    assert_near(&of_turns, &[of_tokens[0], of_tokens[2]], 1e-15);
}

/// Tree A read as one turn of two tokens: its V*(root) and the sums of its log-ratios are the turn-level optimum.
#[test]
fn t4_turns_keep_the_optimum() {
    let tree = tree_a([1; 4]);
    let optimum = tree.optimum();
    let tokens = tree.inputs(&tables(&optimum.probabilities.map_ln(), &optimum.values, &[0.0; 6]));
    let turn_of_target = Tensor::zeros([4, 2], &device());
    let turns = OreoInputs {
        log_ratios: turn_sums(tokens.log_ratios.clone(), turn_of_target, &tokens.action_mask, 1),
        values: tokens.values.narrow(1, 0, 1),
        returns: tokens.returns,
        action_mask: all(4, 1),
    };
    assert_near(&[number(value_loss(&turns, BETA)), number(policy_loss(&turns, BETA))], &[0.0; 2], 1e-30);
}

/// With one action a trajectory every level is the response level, and its optimum is DRO's:
/// π ∝ π_ref e^{r/β}, V = β log E_ref e^{r/β}.
#[test]
fn t5_one_action_is_dro() {
    let (reference, rewards) = ([0.2, 0.5, 0.3], [1.0, 0.0, 0.3]);
    let weights: Vec<f64> = reference.iter().zip(rewards).map(|(p, r)| p * (r / BETA).exp()).collect();
    let total: f64 = weights.iter().sum();
    let log_ratios: Vec<f64> = weights.iter().zip(reference).map(|(w, p)| (w / total / p).ln()).collect();
    let bandit = |values: f64, log_ratios: &[f64]| OreoInputs {
        log_ratios: tensor(log_ratios, [3, 1]),
        values: tensor(&[values; 3], [3, 1]),
        returns: tensor(&rewards, [3, 1]),
        action_mask: all(3, 1),
    };
    let every = [value_loss, policy_loss, response_value_loss, response_policy_loss];
    let at = |inputs: OreoInputs| every.map(|loss| number(loss(&inputs, BETA)));
    assert_near(&at(bandit(BETA * total.ln(), &log_ratios)), &[0.0; 4], 1e-30);
    // Elsewhere they agree without being 0: ((.1 − 1 + .2)² + (.1 − .05)² + (.1 − .3)²)/3.
    let elsewhere = (0.49 + 0.0025 + 0.04) / 3.0;
    assert_near(&at(bandit(0.1, &[0.4, -0.1, 0.0])), &[elsewhere; 4], 1e-15);
}

// ---- Through the batch ----

const VOCAB: usize = 7;

fn trajectory(outcome: &str, turns: &[(&[u32], &[u32])]) -> Trajectory {
    let turns: Vec<_> = turns
        .iter()
        .map(|(observation, completion)| {
            json!({
                "observation": "", "observation_tokens": observation, "completion": "",
                "completion_tokens": completion, "logprobs": [], "action": "look",
            })
        })
        .collect();
    let protocol = json!({
        "turn_limit": 3, "context_limit": 99, "completion_limit": 9, "temperature": 1.0, "best_of": 1,
        "admissible_shown": false, "history": "full", "malformed": "wasted_turn",
    });
    serde_json::from_value(json!({
        "format": 1, "game": "g", "game_hash": "", "split": "train", "task_type": null, "repetition": 0,
        "seed": 0, "policy": "", "protocol": protocol, "turns": turns, "last_observation": "",
        "outcome": outcome, "seconds": 0.0,
    }))
    .unwrap()
}

/// Four trajectories, three of them won.
fn episodes() -> [Trajectory; 4] {
    [
        trajectory("success", &[(&[1, 2, 3], &[4, 5]), (&[6], &[1, 0, 3]), (&[2, 2], &[5])]),
        trajectory("turn_limit", &[(&[3], &[0, 6]), (&[1, 1], &[2])]),
        trajectory("success", &[(&[5, 5], &[4])]),
        trajectory("success", &[(&[6, 0], &[1, 2]), (&[4], &[4, 4])]),
    ]
}

/// A network that looks at (what, episode, position, vocabulary entry) and says something between −1 and 1.
fn said(what: usize, episode: usize, position: usize, entry: usize) -> f64 {
    (what as f64 * 1.7 + episode as f64 * 2.3 + position as f64 * 3.1 + entry as f64 * 0.9 + 0.4).sin()
}

/// A batch of some episodes with all that networks say about it.
struct Lesson {
    batch: BatchTensors,
    logits: Tensor<3>,
    reference_logits: Tensor<3>,
    values: Tensor<2>,
}

impl Lesson {
    fn new(episodes: &[Trajectory], chosen: &[usize], time_multiple: usize) -> Self {
        let trajectories: Vec<&Trajectory> = chosen.iter().map(|&episode| &episodes[episode]).collect();
        let batch = Batch::new(&trajectories, time_multiple).unwrap();
        let shape = [batch.batch, batch.time, VOCAB];
        let table = |what: usize, entries: usize| {
            let mut numbers = Vec::new();
            for &episode in chosen {
                for position in 0..batch.time {
                    numbers.extend((0..entries).map(|entry| said(what, episode, position, entry)));
                }
            }
            numbers
        };
        Self {
            logits: tensor(&table(0, VOCAB), shape),
            reference_logits: tensor(&table(1, VOCAB), shape),
            values: tensor(&table(2, 1), [shape[0], shape[1]]),
            batch: batch.to_device(&device()),
        }
    }

    fn levels(&self) -> [OreoInputs; 2] {
        let targets = &self.batch.targets;
        let log_ratios = target_logprobs(self.logits.clone(), targets.clone())
            - target_logprobs(self.reference_logits.clone(), targets.clone());
        [
            self.batch.token_level(log_ratios.clone(), self.values.clone()),
            self.batch.turn_level(log_ratios, self.values.clone()),
        ]
    }

    /// Every OREO loss at both levels, and the exact KL.
    fn losses(&self) -> Vec<Tensor<1>> {
        let kl = exact_kl(
            log_softmax(self.logits.clone(), 2),
            log_softmax(self.reference_logits.clone(), 2),
            &self.batch.action_mask,
        );
        let [tokens, turns] = self.levels();
        let mut losses = vec![kl];
        for inputs in [&tokens, &turns] {
            let every = [value_loss, policy_loss, response_value_loss, response_policy_loss];
            losses.extend(every.map(|loss| loss(inputs, BETA)));
        }
        losses.push(after_value_loss(self.batch.turn_after_values(self.values.clone()), &turns, BETA));
        losses
    }

    fn numbers(&self) -> Vec<f64> {
        self.losses().into_iter().map(number).collect()
    }
}

/// Whatever the network says where the policy did not write changes no loss by a single bit.
#[test]
fn t9_other_positions_are_invisible() {
    let plain = Lesson::new(&episodes(), &[0, 1, 2, 3], 1);
    let mut shouting = Lesson::new(&episodes(), &[0, 1, 2, 3], 1);
    let elsewhere = shouting.batch.action_mask.clone().bool_not();
    let loud = elsewhere.clone().float().cast(DType::F64) * 17.0;
    let ramp = tensor(&[3.0, -2.0, 1.0, 5.0, 0.0, -1.0, 2.0], [1, 1, VOCAB]);
    shouting.logits = shouting.logits + loud.unsqueeze_dim::<3>(2) * ramp;
    assert_eq!(plain.numbers(), shouting.numbers());

    let logprobs = |lesson: &Lesson| target_logprobs(lesson.logits.clone(), lesson.batch.targets.clone());
    let sft = |lesson: &Lesson| number(sft_loss(logprobs(lesson), &lesson.batch.action_mask));
    let transcript = |lesson: &Lesson| number(transcript_loss(logprobs(lesson), &lesson.batch.target_mask));
    assert_eq!(sft(&plain), sft(&shouting));
    assert!((transcript(&plain) - transcript(&shouting)).abs() > 0.1);
}

#[test]
fn t9_padding_is_invisible() {
    let tight = Lesson::new(&episodes(), &[0, 1, 2, 3], 1).numbers();
    assert_near(&Lesson::new(&episodes(), &[0, 1, 2, 3], 32).numbers(), &tight, 1e-15);
}

/// Order and company do not matter: a batch is the mean of its singles.
#[test]
fn t9_a_batch_equals_its_singles() {
    let together = Lesson::new(&episodes(), &[0, 1, 2, 3], 1).numbers();
    assert_near(&Lesson::new(&episodes(), &[2, 0, 3, 1], 1).numbers(), &together, 1e-15);
    let mut mean = vec![0.0; together.len()];
    for episode in 0..4 {
        let single = Lesson::new(&episodes(), &[episode], 1).numbers();
        mean.iter_mut().zip(single).for_each(|(sum, loss)| *sum += loss / 4.0);
    }
    assert_near(&mean, &together, 1e-15);
}

/// No loss sends anything, not even rounding, into logits of positions where the policy did not write.
#[test]
fn t9_other_positions_get_exactly_no_gradient() {
    let mut lesson = Lesson::new(&episodes(), &[0, 1, 2, 3], 16);
    lesson.logits = lesson.logits.require_grad();
    let written: Vec<bool> = lesson.batch.action_mask.clone().into_data().iter::<bool>().collect();
    let policy_losses = [0, 2, 4, 6, 8]; // of `Lesson::losses`: the KL and Eq. 9 and 10 at both levels
    for index in policy_losses {
        let gradients = lesson.losses()[index].backward();
        let gradient = numbers(lesson.logits.grad(&gradients).unwrap());
        for (position, &written) in written.iter().enumerate() {
            let here = &gradient[position * VOCAB..(position + 1) * VOCAB];
            assert_eq!(here.iter().any(|&x| x != 0.0), written, "loss {index} at position {position}");
        }
    }
}

/// ∂L_π/∂l_t = 2β residual_t / T: changing V(s_1) moves the gradient of action 1 and of no other.
#[test]
fn t10_an_action_learns_from_its_own_residual() {
    let log_ratios = [0.4, -0.2, 0.1];
    let gradient = |values: [f64; 3]| {
        let inputs = segment(&log_ratios, &values, 1.0);
        let gradients = policy_loss(&inputs, BETA).backward();
        numbers(inputs.log_ratios.grad(&gradients).unwrap())
    };
    let values = [0.2, 0.5, 0.9];
    let plain = gradient(values);
    let residuals = [0, 1, 2].map(|t| residual(&log_ratios[t..], &values[t..], 1.0));
    assert_near(&plain, &residuals.map(|residual| 2.0 * BETA * residual / 3.0), 1e-15);
    let moved = gradient([0.2, 7.0, 0.9]);
    assert_eq!((moved[0], moved[2]), (plain[0], plain[2]));
    assert_near(&[moved[1] - plain[1]], &[2.0 * BETA * 6.5 / 3.0], 1e-14);
}

/// π = π_ref and V ≡ 0: the first L_V is the success rate, 3 of 4, and so are all the others.
#[test]
fn t11_the_first_value_loss_is_the_success_rate() {
    let mut lesson = Lesson::new(&episodes(), &[0, 1, 2, 3], 1);
    lesson.reference_logits = lesson.logits.clone();
    lesson.values = lesson.values.zeros_like();
    let losses = lesson.numbers();
    assert_eq!(losses[0], 0.0);
    assert_eq!(losses[1..], [0.75; 9]);
}

/// π = π_ref and V ≡ 0: the lost episode moves no logit at all, the won ones move every action of theirs.
#[test]
fn t12_failures_teach_the_policy_nothing_at_first() {
    let mut lesson = Lesson::new(&episodes(), &[0, 1, 2, 3], 1);
    lesson.reference_logits = lesson.logits.clone();
    lesson.logits = lesson.logits.require_grad();
    lesson.values = lesson.values.zeros_like();
    for level in 0..2 {
        let inputs = &lesson.levels()[level]; // anew: one graph serves one backward pass
        let gradients = policy_loss(inputs, BETA).backward();
        let by_episode = lesson.logits.grad(&gradients).unwrap().abs().sum_dim(2).sum_dim(1);
        let sums = numbers(by_episode);
        assert_eq!(sums[1], 0.0);
        assert!([0, 2, 3].into_iter().all(|episode| sums[episode] > 1e-3), "{sums:?}");
    }
}
