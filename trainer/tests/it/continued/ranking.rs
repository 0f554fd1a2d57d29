//! Training with branch states: U learns the order of the candidates, and the policy too if the job
//! asks for it.

use crate::training_jobs::{
    CHECKPOINT, CsvRow, in_memory, metrics, number, oreo, recipe, rollouts,
};
use agent::model::folder::Model;
use agent::model::weights::ADVANTAGE_HEAD;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::text::chat;
use indicatif::ProgressBar;
use scenarios::{BranchInfo, Candidate, Trajectory};
use std::path::Path;
use support::corridor::babbler;
use trainer::TrainerError;
use trainer::learn::optimizer::{Activations, OptimizerRecipe};
use trainer::learn::plan::DataSummary;
use trainer::learn::ranking::{RankedState, tokenize_states};
use trainer::learn::ranks::Alone;
use trainer::learn::train::{TrainingJob, train};
use trainer::measure::ranking::{RankingRow, TurnGroup, ranking_rows, score_states};
use trainer::pipeline::recipe::{
    CriticConfig, DataSource, EarlyStopping, Level, Ranking, TrainConfig, ValueLoss,
};
use trainer::statistics::Resampling;

/// Updates of a job that learns the order of a few states.
const UPDATES: usize = 25;

/// The first two states of every third episode, with three candidates each. `west` is best, although
/// the policy prefers the others.
fn states(model: &Model, played: &[Trajectory]) -> Vec<Trajectory> {
    let mut states = Vec::new();
    for trajectory in played.iter().step_by(3) {
        for turn in 0..trajectory.turns.len().min(2) {
            let mut state = trajectory.clone();
            state.turns.truncate(turn + 1);
            let last = state.turns.last_mut().unwrap();
            let of = [("east", 0.25), ("west", 1.0), ("look", 0.5)];
            last.candidates = of.map(|(text, label)| candidate(model, text, label)).into();
            states.push(state);
        }
    }
    states
}

fn candidate(model: &Model, text: &str, label: f64) -> Candidate {
    Candidate {
        completion: text.into(),
        score: 0.0,
        count: 1,
        logprob: None,
        log_ratio: None,
        after_value: None,
        tokens: chat::completion_tokens(&model.tokenizer, text),
        returns: vec![label + 0.125, label - 0.125],
    }
}

/// OREO with a table `critic`.
fn job(critic: CriticConfig, updates: usize) -> TrainConfig {
    let optimizer = OptimizerRecipe {
        batch: 2,
        updates,
        learning_rate: 2e-3,
        ..OptimizerRecipe::default()
    };
    TrainConfig {
        data: vec![DataSource::Rollouts, DataSource::Branches],
        critic,
        ..recipe(oreo(Level::Turn, 0.0), optimizer)
    }
}

fn learn(
    recipe: &TrainConfig,
    start: &Model,
    played: &[Trajectory],
    branches: &[Trajectory],
    out: &Path,
) -> Result<(Model, DataSummary), TrainerError> {
    let job = TrainingJob {
        recipe,
        start,
        lineage: None,
        episodes: &in_memory(recipe, start, played)?,
        branches,
        reading: None,
        seed: 7,
        out,
        hardware: support::device::choice(),
        ranks: &Alone,
    };
    train(&job, &ProgressBar::hidden())
}

/// The row of a scorer over all states, with the model's networks.
fn measured(model: &Model, branches: &[Trajectory], scorer: &str) -> RankingRow {
    let policy = LmPolicy::new(model.clone(), ValueUse::Score).unwrap();
    let states: Vec<RankedState<'_>> = branches
        .iter()
        .map(|line| RankedState::new(line).unwrap().unwrap())
        .collect();
    let resampling = Resampling { count: 10, seed: 1 };
    ranking_rows(&score_states(&policy, &states), &[], resampling)
        .into_iter()
        .find(|row| row.scorer == scorer && row.turns == TurnGroup::All)
        .unwrap()
}

/// Each of the three losses teaches U that `west` is best in every state, and so does one with an
/// advantage head or with bins. The rollouts alone do not show it, because `west` is rare in them.
#[test]
fn the_after_state_value_learns_the_order_of_the_candidates() {
    let model = babbler(28);
    let played = rollouts(&model);
    let branches = states(&model, &played);
    let plain = CriticConfig::default();
    let with_advantage = CriticConfig {
        advantage_head: true,
        ..plain
    };
    let with_bins = CriticConfig {
        value_loss: ValueLoss::HlGauss,
        ranking_coef: 4.0,
        ..plain
    };
    // Bins learn more slowly: at first their softmax is flat.
    for (form, ranking, accuracy) in [
        (plain, Ranking::Advantage, 0.95),
        (plain, Ranking::Listwise, 0.95),
        (plain, Ranking::BradleyTerry, 0.95),
        (with_advantage, Ranking::Advantage, 0.95),
        (with_bins, Ranking::Listwise, 0.9),
    ] {
        let critic = CriticConfig {
            ranking: Some(ranking),
            branch_batch: 4,
            ..form
        };
        let out = tempfile::tempdir().unwrap();
        let (learned, read) = learn(
            &job(critic, UPDATES),
            &model,
            &played,
            &branches,
            out.path(),
        )
        .unwrap();
        let row = measured(&learned, &branches, "after_value");
        assert!(row.pair_accuracy.unwrap() > accuracy, "{critic:?}: {row:?}");
        assert!(row.regret < 0.05, "{critic:?}: {row:?}");
        assert_eq!(read.ranking.unwrap().states, branches.len());
        let rows = metrics(out.path());
        let [first, last] = [&rows[0], &rows[UPDATES - 1]].map(|row| number(row, "loss/ranking"));
        assert!(last < first, "{critic:?}: {first} {last}");
        assert_eq!(rows[0]["loss/policy_branch"], "");
    }
}

/// If only U learns from branch states, the policy has the bits of a job without them, and so have
/// the losses of the first update.
#[test]
fn ranking_does_not_touch_the_policy_of_an_update() {
    let model = babbler(28);
    let played = rollouts(&model);
    let branches = states(&model, &played);
    let critic = CriticConfig {
        ranking: Some(Ranking::Advantage),
        ..CriticConfig::default()
    };
    let [with, without] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (ranked, _) = learn(&job(critic, 1), &model, &played, &branches, with.path()).unwrap();
    let plain = TrainConfig {
        data: vec![DataSource::Rollouts],
        ..job(CriticConfig::default(), 1)
    };
    let (plain, _) = learn(&plain, &model, &played, &[], without.path()).unwrap();
    assert_eq!(ranked.policy, plain.policy);
    assert_ne!(ranked.value, plain.value);
    let [with, without] = [with, without].map(|out| metrics(out.path()).remove(0));
    for column in ["loss/policy", "loss/value", "loss/after_value", "tokens"] {
        assert_eq!(with[column], without[column], "{column}");
    }
}

/// In updates that train the heads alone, the trunk of the value network gets no gradient from branch
/// states either, with checkpointed activations too.
#[test]
fn ranking_in_head_only_updates_leaves_the_trunk_as_it_is() {
    let model = babbler(28);
    let played = rollouts(&model);
    let branches = states(&model, &played);
    for activations in [Activations::Kept, Activations::Checkpointed] {
        let critic = CriticConfig {
            head_only: 1.0,
            advantage_head: true,
            ranking: Some(Ranking::Advantage),
            ..CriticConfig::default()
        };
        let mut job = job(critic, 2);
        job.optimizer.activations = activations;
        let out = tempfile::tempdir().unwrap();
        let (learned, _) = learn(&job, &model, &played, &branches, out.path()).unwrap();
        let value = learned.value.unwrap();
        assert!(value.0[ADVANTAGE_HEAD].data.iter().all(|w| *w != 0.0));
        for (name, tensor) in &model.policy.0 {
            assert_eq!(&value.0[name], tensor, "{name}");
        }
    }
}

/// L_π^br alone moves the policy towards the candidate with the highest return.
#[test]
fn the_policy_learns_from_pairs_of_candidates() {
    let model = babbler(28);
    let played = rollouts(&model);
    let branches = states(&model, &played);
    let before = measured(&model, &branches, "logprob");
    let critic = CriticConfig {
        policy_branch_coef: 10.0,
        branch_batch: 4,
        ..CriticConfig::default()
    };
    let out = tempfile::tempdir().unwrap();
    let (learned, _) = learn(
        &job(critic, UPDATES),
        &model,
        &played,
        &branches,
        out.path(),
    )
    .unwrap();
    let after = measured(&learned, &branches, "logprob");
    assert!(
        after.pair_accuracy.unwrap() > before.pair_accuracy.unwrap() + 0.3,
        "{before:?} {after:?}"
    );
    let rows = metrics(out.path());
    let [first, last] = [&rows[0], &rows[UPDATES - 1]].map(|row| number(row, "loss/policy_branch"));
    assert!(last < first, "{first} {last}");
    assert_eq!(rows[0]["loss/ranking"], "");
}

#[test]
fn resuming_with_branch_states_equals_not_stopping() {
    let model = babbler(28);
    let played = rollouts(&model);
    let branches = states(&model, &played);
    let critic = CriticConfig {
        ranking: Some(Ranking::Listwise),
        branch_batch: 1,
        policy_branch_coef: 0.5,
        ..CriticConfig::default()
    };
    let mut job = TrainConfig {
        early_stopping: Some(EarlyStopping {
            share: 0.3,
            every: 1000, // only at the end
            patience: 100,
        }),
        ..job(critic, CHECKPOINT + 3)
    };
    job.optimizer.batch = 1;
    let out = tempfile::tempdir().unwrap();
    let (whole, read) = learn(&job, &model, &played, &branches, out.path()).unwrap();
    let ranking = read.ranking.unwrap();
    assert!(
        ranking.held_out > 0,
        "states of held-out games are left out"
    );
    assert_eq!(ranking.states + ranking.held_out, branches.len());
    let (resumed, _) = learn(&job, &model, &played, &branches, out.path()).unwrap();
    assert_eq!((resumed.policy, resumed.value), (whole.policy, whole.value));

    let mut other = branches.clone();
    let last = other[0].turns.last_mut().unwrap();
    last.candidates[0].returns[0] += 0.5;
    let error = learn(&job, &model, &played, &other, out.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("belongs to another recipe, data"), "{error}");
}

#[test]
fn missing_and_damaged_branch_states_are_refused() {
    let model = babbler(28);
    let played = rollouts(&model);
    let mut branches = states(&model, &played);
    let critic = CriticConfig {
        ranking: Some(Ranking::Advantage),
        ..CriticConfig::default()
    };
    let out = tempfile::tempdir().unwrap();
    let refused = |job: &TrainConfig, branches: &[Trajectory]| {
        learn(job, &model, &played, branches, out.path())
            .unwrap_err()
            .to_string()
    };
    let wants = job(critic, 1);
    assert!(refused(&wants, &[]).contains("reads branch states, and none remains of 0"));
    let plain = job(CriticConfig::default(), 1);
    assert!(refused(&plain, &branches).contains("branch states are given, and the job reads none"));
    assert!(refused(&wants, &played).contains("the last turn has no candidates"));
    let last = branches[0].turns.last_mut().unwrap();
    last.candidates[1].returns.clear();
    let error = refused(&wants, &branches);
    assert!(error.contains("\"west\" has no finite returns"), "{error}");
    let last = branches[0].turns.last_mut().unwrap();
    last.candidates.truncate(1); // a single candidate needs no returns
    last.candidates[0].returns.clear();
    let (_, read) = learn(&wants, &model, &played, &branches, out.path()).unwrap();
    assert_eq!(read.ranking.unwrap().single, 1);
    assert!(read.remarks().concat().contains("1 with fewer than two"));

    for (discount, differ) in [(1.0, 0), (0.95, branches.len() - 1)] {
        for state in &mut branches {
            state.branch = Some(BranchInfo {
                source: "rollouts.jsonl".into(),
                turn: state.turns.len() - 1,
                policy: "policy".into(),
                discount,
            });
        }
        let out = tempfile::tempdir().unwrap();
        let (_, read) = learn(&wants, &model, &played, &branches, out.path()).unwrap();
        assert_eq!(read.ranking.unwrap().other_discount, differ);
        let has_remark = read.remarks().concat().contains("another discount");
        assert_eq!(has_remark, differ > 0);
    }
}

/// The ids of another vocabulary are replaced, and ids that fit are left as they were sampled.
#[test]
fn branch_states_are_tokenized_if_their_ids_do_not_fit() {
    let model = babbler(28);
    let mut branches = states(&model, &rollouts(&model));
    let before = branches.clone();
    let [first, second, ..] = &mut branches[..] else {
        panic!("too few states")
    };
    first.turns.last_mut().unwrap().candidates[0].tokens = vec![1, 1, 1];
    second.turns.last_mut().unwrap().observation_tokens.clear();
    let damaged = branches.iter().zip(&before).filter(|(a, b)| a != b).count();
    assert_eq!(damaged, 2);
    assert_eq!(tokenize_states(&model.tokenizer, &mut branches), damaged);
    for (after, before) in branches.iter().zip(&before) {
        let [after, before] = [after, before].map(|line| RankedState::new(line).unwrap().unwrap());
        assert_eq!(after.candidates()[0].tokens, before.candidates()[0].tokens);
        assert_eq!(after.labels, [0.25, 1.0, 0.5]);
    }
}

/// AUC given the turn has a column of its own.
#[test]
fn metrics_have_the_area_given_the_turn() {
    let model = babbler(28);
    let played = rollouts(&model);
    let out = tempfile::tempdir().unwrap();
    for level in [Level::Turn, Level::Token] {
        let optimizer = OptimizerRecipe {
            batch: played.len(),
            updates: 2,
            learning_rate: 1e-3,
            ..OptimizerRecipe::default()
        };
        let job = recipe(oreo(level, 0.0), optimizer);
        let out = out.path().join(format!("{level:?}"));
        learn(&job, &model, &played, &[], &out).unwrap();
        let rows: Vec<CsvRow> = metrics(&out);
        assert_eq!(number(&rows[0], "value/auc_given_turn"), 0.5, "V is 0");
        let area = number(&rows[1], "value/auc_given_turn");
        assert!((0.0..=1.0).contains(&area), "{area}");
        assert_ne!(rows[1]["value/auc_given_turn"], rows[1]["value/auc"]);
    }
}
