use super::*;
use crate::measure::branch::BranchRecipe;
use crate::pipeline::recipe::{Algorithm, DaggerRecipe, Lost, Prefer, Ranking, TrainConfig};
use scenarios::{DistinctBy, Scorer};

fn compare() -> Recipe {
    let text = include_str!("../../../recipes/gigpo-online.toml");
    toml::from_str(text).expect("a recipe of the repository")
}

/// The outputs of a finished run. The hashes are the names of their stages.
fn outputs(recipe: &Recipe) -> StageOutputs {
    let mut outputs = StageOutputs::new();
    for stage in stages(recipe) {
        let name = stage.name(recipe);
        let output = StageOutput {
            suite: Some(format!("suite of {name}")),
            episodes: Some(format!("episodes of {name}")),
            policy: Some(format!("policy of {name}")),
            practice: None,
            value: None,
        };
        outputs.insert(stage, output);
    }
    outputs
}

fn names(recipe: &Recipe) -> Vec<String> {
    stages(recipe)
        .iter()
        .map(|stage| stage.name(recipe))
        .collect()
}

/// The stages whose inputs a change of the recipe affects, before any stage runs again.
fn affected(change: impl Fn(&mut Recipe)) -> Vec<String> {
    let before = compare();
    let mut after = compare();
    change(&mut after);
    let outputs = outputs(&before);
    stages(&before)
        .iter()
        .filter(|stage| stage.inputs(&after, &outputs) != stage.inputs(&before, &outputs))
        .map(|stage| stage.name(&before))
        .collect()
}

#[test]
fn a_change_affects_the_stages_that_read_it_and_none_before() {
    let all = names(&compare());
    assert_eq!(
        all[..7],
        [
            "games",
            "demonstrations",
            "1/sft",
            "1/rollouts",
            "1/gigpo",
            "1/eval/sft-k1",
            "1/eval/gigpo-k1"
        ]
    );
    assert_eq!(
        all[7..10],
        ["2/rollouts", "2/gigpo", "2/eval/gigpo-k1"],
        "the fresh job is trained once"
    );
    assert_eq!(affected(|_| {}), [""; 0]);
    assert_eq!(affected(|recipe| recipe.name = "other".into()), [""; 0]);
    assert_eq!(affected(|recipe| recipe.seed = 9), all);
    assert_eq!(
        affected(|recipe| recipe.evaluate.games = 3),
        [
            "1/eval/sft-k1",
            "1/eval/gigpo-k1",
            "2/eval/gigpo-k1",
            "3/eval/gigpo-k1",
            "4/eval/gigpo-k1"
        ]
    );
    assert_eq!(
        affected(|recipe| recipe.evaluate.temperature = 3.0),
        [""; 0],
        "it is greedy"
    );
    assert_eq!(
        affected(|recipe| recipe.jobs[0].optimizer.batch += 1),
        ["1/sft"]
    );
    assert_eq!(
        affected(|recipe| recipe.jobs[1].optimizer.batch += 1),
        ["1/gigpo", "2/gigpo", "3/gigpo", "4/gigpo"]
    );
    assert_eq!(
        affected(|recipe| recipe.collect.temperature = 0.5),
        ["1/rollouts", "2/rollouts", "3/rollouts", "4/rollouts"]
    );
    assert_eq!(
        affected(|recipe| recipe.collect.min_p = 0.02),
        ["1/rollouts", "2/rollouts", "3/rollouts", "4/rollouts"]
    );
    assert_eq!(
        affected(|recipe| recipe.evaluate.scorer = Scorer::Distinct),
        [""; 0],
        "K is 1 here"
    );
    assert_eq!(
        affected(|recipe| recipe.demonstrations.expert_noise = 0.5),
        ["demonstrations"]
    );
}

/// The hash over the practice suites is an input of the stages that play train games. Without practice
/// suites, the inputs have no such entry.
#[test]
fn practice_is_an_input_of_the_stages_that_play_train_games() {
    let recipe = with_students();
    let before = outputs(&recipe);
    let mut after = before.clone();
    after.entry(Stage::Games).or_default().practice = Some("practice".into());
    let names: Vec<String> = stages(&recipe)
        .iter()
        .filter(|stage| stage.inputs(&recipe, &after) != stage.inputs(&recipe, &before))
        .map(|stage| stage.name(&recipe))
        .collect();
    let expected = [
        "demonstrations",
        "dagger-sft",
        "dagger-second",
        "1/rollouts",
        "2/rollouts",
        "3/rollouts",
        "4/rollouts",
    ];
    assert_eq!(names, expected);
}

/// Two students, one after the other. The second job reads the episodes with the first student, the third
/// job those with both.
fn with_students() -> Recipe {
    let mut recipe = compare();
    let fresh = recipe.jobs[0].clone();
    let [second, third] = ["second", "third"].map(|name| TrainConfig {
        name: name.into(),
        data: vec![DataSource::Demonstrations, DataSource::Dagger],
        ..fresh.clone()
    });
    recipe.jobs.splice(1..1, [second, third]);
    let daggers = ["second", "sft"].map(|student| DaggerRecipe {
        student: student.into(),
        games: 4,
        repetitions: 1,
        temperature: 0.5,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    });
    recipe.dagger = daggers.to_vec();
    recipe.check().expect("it is valid");
    recipe
}

#[test]
fn students_play_before_the_jobs_that_read_their_episodes() {
    let mut recipe = with_students();
    assert_eq!(
        names(&recipe)[1..8],
        [
            "demonstrations",
            "1/sft",
            "dagger-sft",
            "1/second",
            "dagger-second",
            "1/third",
            "1/rollouts"
        ]
    );
    recipe.jobs[2].from = StartFrom::Job("second".into());
    let starts = [1, 2, 3].map(|job| start(&recipe, job, 3).map(|stage| stage.name(&recipe)));
    assert_eq!(
        starts,
        [None, Some("1/second".into()), Some("2/gigpo".into())]
    );
    recipe.collect.policy = "third".into();
    recipe.check().expect("it is valid");
    let reads = [0, 1, 2].map(|job| {
        data(&recipe, job, 1)
            .iter()
            .map(|stage| stage.name(&recipe))
            .collect::<Vec<_>>()
    });
    assert_eq!(reads[0], ["demonstrations"]);
    assert_eq!(reads[1], ["demonstrations", "dagger-sft"]);
    assert_eq!(reads[2], ["demonstrations", "dagger-second", "dagger-sft"]);
    let seeds: BTreeSet<u64> = stages(&recipe)[1..6]
        .iter()
        .map(|stage| stage.seed(&recipe))
        .collect();
    assert_eq!(seeds.len(), 3, "no episode is played twice");
}

/// Changes a valid recipe with students and returns the error.
#[track_caller]
fn refused(change: impl Fn(&mut Recipe)) -> String {
    let mut recipe = with_students();
    recipe.jobs[2].from = StartFrom::Job("second".into());
    recipe.collect.policy = "third".into();
    change(&mut recipe);
    recipe.check().expect_err("it is not valid")
}

/// Each stage has the filters of its own table, and only K above 1 has the scorer.
#[test]
fn a_sampled_stage_has_the_settings_of_its_table() {
    let mut recipe = with_students();
    recipe.dagger[1].top_k = 5;
    recipe.collect.min_p = 0.02;
    recipe.evaluate.top_p = 0.9;
    recipe.evaluate.scorer = Scorer::Distinct;
    recipe.evaluate.distinct_by = DistinctBy::Command;
    recipe.evaluate.best_of = vec![1, 3];
    let evaluation = |k| Stage::Evaluate {
        iteration: 1,
        job: 0,
        k,
    };
    assert!(stages(&recipe).contains(&evaluation(3)));
    let filters = [
        Stage::Demonstrations,
        Stage::Dagger { dagger: 0 },
        Stage::Dagger { dagger: 1 },
        Stage::Collect { iteration: 2 },
        evaluation(1),
        evaluation(3),
    ]
    .map(|stage| {
        let protocol = stage.protocol(&recipe);
        (protocol.top_k, protocol.top_p, protocol.min_p)
    });
    let off = (0, 1.0, 0.0);
    assert_eq!(
        filters,
        [off, off, (5, 1.0, 0.0), (0, 1.0, 0.02), off, (0, 0.9, 0.0)]
    );
    // Only a collector with a value network plays the best of K.
    recipe.iterations = 2;
    recipe.collect.best_of = 4;
    let error = recipe.check().expect_err("gigpo has ratios of samples");
    assert!(error.contains("collect.best_of = 4") && error.contains("\nhint: "));
    recipe.collect.scorer = Scorer::SoftValue;
    recipe.collect.soft_value_beta = 0.05;
    let collected = |recipe: &Recipe| {
        [1, 2].map(|iteration| {
            let protocol = Stage::Collect { iteration }.protocol(recipe);
            (protocol.best_of, protocol.scorer, protocol.min_p)
        })
    };
    let plain = (1, Scorer::AfterValue, 0.02);
    assert_eq!(collected(&recipe), [plain; 2], "no job has a value network");
    let then = recipe.collect.then.clone();
    let job = recipe.jobs.iter_mut().find(|job| job.name == then).unwrap();
    job.algorithm = Algorithm::Dro {
        beta: 0.1,
        value_learning_rate: 1e-3,
        critic_only_share: 0.0,
    };
    let guided = (4, Scorer::SoftValue, 0.02);
    assert_eq!(collected(&recipe), [plain, guided]);
    recipe.collect.scorer = Scorer::Logprob;
    let prior = (4, Scorer::Logprob, 0.02);
    assert_eq!(collected(&recipe), [prior; 2], "no value network is needed");
    let selection = [1, 3].map(|k| {
        let protocol = evaluation(k).protocol(&recipe);
        (protocol.scorer, protocol.distinct_by)
    });
    assert_eq!(
        selection,
        [
            (Scorer::AfterValue, DistinctBy::Tokens),
            (Scorer::Distinct, DistinctBy::Command)
        ]
    );
}

#[test]
fn students_and_starts_that_do_not_come_before_are_refused() {
    let text = refused(|recipe| recipe.dagger.clear());
    assert!(
        text.starts_with("job \"second\": data contains \"dagger\", but no [[dagger]] student")
            && text.contains("\nhint: "),
        "{text}"
    );
    assert!(
        refused(|recipe| recipe.dagger[0].student = "gigpo".into())
            .contains("no job \"gigpo\" is trained before")
    );
    assert!(refused(|recipe| recipe.dagger[0].student = "sft".into()).contains("is listed twice"));
    for start in ["third", "gigpo", "nobody"] {
        let text = refused(|recipe| recipe.jobs[1].from = StartFrom::Job(start.into()));
        assert!(
            text.starts_with(&format!(
                "job \"second\": it cannot start from \"{start}\"\nhint: "
            )),
            "{text}"
        );
    }
    assert!(
        refused(|recipe| recipe.jobs[0].data.push(DataSource::Rollouts))
            .contains("trained before the first rollouts, so it cannot read rollouts")
    );
    assert!(
        refused(|recipe| recipe.jobs[2].data.push(DataSource::Rollouts))
            .contains("collect.policy must be a job that is trained before the first rollouts")
    );
}

/// A job that reads rollouts is trained in every iteration, also if it starts from another job: from the model
/// of the same iteration, or from one that is trained once.
#[test]
fn a_job_that_reads_rollouts_may_start_from_another_job() {
    let text = include_str!("../../../recipes/compare.toml");
    let mut recipe: Recipe = toml::from_str(text).expect("a recipe of the repository");
    recipe.iterations = 2;
    let job = recipe.job_index("oreo-turn").expect("compare has OREO");
    for (name, starts) in [
        (
            "rejection-sampling",
            ["1/rejection-sampling", "2/rejection-sampling"],
        ),
        ("sft", ["1/sft", "1/sft"]),
    ] {
        recipe.jobs[job].from = StartFrom::Job(name.into());
        recipe.check().expect("it is valid");
        let found = [1, 2].map(|iteration| start(&recipe, job, iteration));
        let found = found.map(|stage| stage.expect("a start").name(&recipe));
        assert_eq!(found, starts);
        let trained = |stage: &String| stage.ends_with("/oreo-turn");
        assert_eq!(
            names(&recipe).iter().filter(|stage| trained(stage)).count(),
            2
        );
    }
}

/// Whether the inputs of OREO's second iteration change with the value network of the first one.
fn depends_on_the_last_value_network(init: CriticInit) -> bool {
    let mut recipe = Recipe::quickstart();
    recipe.iterations = 2;
    let job = recipe.job_index("oreo").expect("the quickstart has OREO");
    recipe.jobs[job].from = StartFrom::Collector;
    recipe.jobs[job].critic.init = init;
    let first = Stage::Train { iteration: 1, job };
    let second = Stage::Train { iteration: 2, job };
    let [one, other] = ["one", "other"].map(|value| {
        let mut outputs = outputs(&recipe);
        outputs.get_mut(&first).expect("an output").value = Some(value.into());
        second.inputs(&recipe, &outputs).expect("all outputs exist")
    });
    one != other
}

#[test]
fn a_job_depends_on_the_value_network_that_it_starts_from() {
    assert!(depends_on_the_last_value_network(CriticInit::CriticIfAny));
    assert!(!depends_on_the_last_value_network(CriticInit::Policy));
}

#[test]
fn a_job_cannot_start_from_a_value_network_that_does_not_exist() {
    let mut recipe = Recipe::quickstart();
    let job = recipe.job_index("oreo").expect("the quickstart has OREO");
    recipe.jobs[job].from = StartFrom::Collector;
    recipe.jobs[job].critic.init = CriticInit::CriticIfAny;
    assert_eq!(recipe.check(), Ok(()));
    recipe.jobs[job].critic.init = CriticInit::Critic;
    let error = recipe.check().expect_err("sft has none");
    assert!(
        error.contains("\"sft\", from which it starts, has no value network\nhint: "),
        "{error}"
    );
}

/// The branches are played after the rollouts, by the collector. Their settings affect no other
/// stage, unless a job reads them. Without the table, every stage has the inputs that it had
/// before the table existed.
#[test]
fn branches_depend_on_the_rollouts_and_only_their_readers_on_them() {
    let mut recipe = compare();
    recipe.branch = Some(BranchRecipe::default());
    recipe.check().expect("it is valid");
    assert_eq!(
        names(&recipe)[3..6],
        ["1/rollouts", "1/branches", "1/gigpo"]
    );
    let outputs = outputs(&recipe);
    for stage in stages(&compare()) {
        let inputs = stage.inputs(&compare(), &outputs);
        assert_eq!(stage.inputs(&recipe, &outputs), inputs, "{stage:?}");
    }
    let affected = |before: &Recipe, change: fn(&mut Recipe)| -> Vec<String> {
        let mut after = before.clone();
        change(&mut after);
        stages(before)
            .iter()
            .filter(|stage| stage.inputs(&after, &outputs) != stage.inputs(before, &outputs))
            .map(|stage| stage.name(before))
            .collect()
    };
    let of_branches = ["1/branches", "2/branches", "3/branches", "4/branches"];
    let discounted = affected(&recipe, |recipe| {
        recipe.branch.as_mut().expect("it is set").discount = 0.9;
    });
    assert_eq!(discounted, of_branches);
    let warmer = affected(&recipe, |recipe| recipe.collect.temperature = 0.5);
    assert_eq!(warmer.len(), 8, "rollouts and branches: {warmer:?}");

    let job = 1;
    let quickstart = Recipe::quickstart();
    let oreo = quickstart.job_index("oreo").expect("it has OREO");
    recipe.jobs[job].algorithm = quickstart.jobs[oreo].algorithm.clone();
    recipe.jobs[job].data.push(DataSource::Branches);
    recipe.jobs[job].critic.ranking = Some(Ranking::Listwise);
    recipe.check().expect("it is valid");
    let reads = data(&recipe, job, 3);
    assert!(reads.contains(&Stage::Branch { iteration: 3 }), "{reads:?}");
    assert!(
        !reads.contains(&Stage::Branch { iteration: 2 }),
        "{reads:?}"
    );
}

#[test]
fn a_job_depends_on_the_iterations_that_it_reads() {
    let mut recipe = compare();
    recipe.jobs[1].data = vec![DataSource::SelectedRollouts {
        last: 2,
        won_per_game: 0,
        prefer: Prefer::Shortest,
        lost: Lost::Kept,
    }];
    let mut outputs = outputs(&recipe);
    let job = Stage::Train {
        iteration: 3,
        job: 1,
    };
    let before = job.inputs(&recipe, &outputs).expect("every output exists");
    outputs.remove(&Stage::Collect { iteration: 1 });
    assert_eq!(job.inputs(&recipe, &outputs), Ok(before));
    let second = Stage::Collect { iteration: 2 };
    outputs.remove(&second);
    assert_eq!(job.inputs(&recipe, &outputs), Err(second));
}
