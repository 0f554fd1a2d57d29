//! A run ends in its table, a second call plays nothing again, and an interrupted run continues to the
//! same table.

use super::pipeline::{Notes, cut, cut_last_lines, episodes, go, recipe, remove, states, stores};
use crate::tiny::files;
use agent::inference::device::DeviceChoice;
use env_bridge::NativeWorld;
use indicatif::ProgressBar;
use scenarios::{Environment, EnvironmentError, Split, Task, World};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use trainer::measure::card::Lineage;
use trainer::measure::table::EvalRow;
use trainer::pipeline::run::{Reporter, RunOptions, follow};
use trainer::pipeline::status::{StageState, status};

#[track_caller]
fn check_table(rows: &[EvalRow]) {
    let lines: BTreeSet<(&str, usize)> = rows
        .iter()
        .map(|row| (row.policy.as_str(), row.k))
        .collect();
    let expected = [
        ("oreo", 1),
        ("oreo", 2),
        ("oreo-2", 1),
        ("oreo-2", 2),
        ("rejection-sampling", 1),
        ("rejection-sampling-2", 1),
        ("sft", 1),
    ];
    assert_eq!(
        lines,
        expected.into(),
        "only a job with a value network has a best of 2, and the fresh job is learned once"
    );
    for (policy, k) in lines {
        for split in [Split::ValidSeen, Split::ValidUnseen] {
            let of = |row: &&EvalRow| row.policy == policy && row.k == k && row.split == split;
            let total: Vec<usize> = rows
                .iter()
                .filter(of)
                .filter(|row| row.task_type.is_none())
                .map(|row| row.n)
                .collect();
            let by_type: usize = rows
                .iter()
                .filter(of)
                .filter(|row| row.task_type.is_some())
                .map(|row| row.n)
                .sum();
            assert_eq!(
                (total, by_type),
                (vec![2], 2),
                "{policy}, K = {k}, {split}: each of two games once"
            );
        }
    }
}

/// Each kind of damage that a kill may leave, on a copy of a finished run, with the number of
/// episodes that are played again.
#[test]
fn a_run_that_was_killed_anywhere_ends_in_the_same_table() {
    let (recipe, folder) = (recipe(str::to_string), tempfile::tempdir().unwrap());
    let whole = folder.path().join("whole");
    let first = go(&recipe, &whole).unwrap();
    check_table(&first.report.rows);
    let table: Vec<EvalRow> = csv::Reader::from_path(whole.join("eval.csv"))
        .unwrap()
        .deserialize()
        .map(Result::unwrap)
        .collect();
    assert_eq!(table, first.report.rows, "eval.csv is the table");
    assert_eq!(
        fs::read_to_string(whole.join("recipe.toml")).unwrap(),
        toml::to_string(&recipe).unwrap()
    );
    assert_eq!(
        first.opened,
        12 + 2 * 3 + 7 * 4,
        "demonstrations, rollouts and evaluations, each once"
    );
    assert!(
        first
            .notes
            .iter()
            .any(|note| note == "collect, iteration 2"),
        "{:?}",
        first.notes
    );
    let notes: Vec<_> = files(&whole)
        .into_iter()
        .filter(|(path, _)| path.ends_with("hearth.json"))
        .collect();
    assert_eq!(notes.len(), 5, "each job's model says what it learned from");
    assert!(
        notes
            .iter()
            .all(|(_, bytes)| bytes == b"{\"text_versions\":[\"2.1.3\"]}\n"),
        "{notes:?}"
    );
    let all_stores = stores(&whole);
    assert_eq!(all_stores.len(), 1 + 2 + 7, "{all_stores:?}");

    type Damage<'a> = (&'a str, usize, Box<dyn Fn(&Path) + 'a>);
    let damages: [Damage<'_>; 5] = [
        ("nothing", 0, Box::new(|_| {})),
        (
            "the last line of an evaluation is torn",
            1,
            Box::new(|out| cut(&out.join("2/eval/oreo-k2.jsonl"), 30)),
        ),
        (
            "killed while the second rollouts were collected",
            2 + 3 * 4,
            Box::new(|out| {
                remove(out, &["2/oreo", "2/rejection-sampling", "2/eval"]);
                cut_last_lines(&out.join("2/rollouts.jsonl"));
            }),
        ),
        (
            "killed while a model was saved",
            2 * 4,
            Box::new(|out| {
                remove(
                    out,
                    &[
                        "2/oreo/model.safetensors",
                        "2/eval/oreo-k1.jsonl",
                        "2/eval/oreo-k2.jsonl",
                    ],
                );
            }),
        ),
        (
            "killed while games were generated",
            first.opened,
            Box::new(|out| {
                remove(
                    out,
                    &[
                        "1",
                        "2",
                        "demonstrations.jsonl",
                        "eval.csv",
                        "run.json",
                        "suite.jsonl",
                    ],
                );
                remove(out, &["games/suite.jsonl", "games/train"]);
            }),
        ),
    ];
    for (index, (damage, opened, apply)) in damages.into_iter().enumerate() {
        let out = folder.path().join(index.to_string());
        for (path, bytes) in files(&whole) {
            fs::create_dir_all(out.join(&path).parent().unwrap()).unwrap();
            fs::write(out.join(&path), bytes).unwrap();
        }
        apply(&out);
        let again = go(&recipe, &out).unwrap();
        assert_eq!(again.report.rows, first.report.rows, "{damage}");
        assert_eq!(again.opened, opened, "episodes played again where {damage}");
        for store in &all_stores {
            assert_eq!(
                episodes(&out.join(store)),
                episodes(&whole.join(store)),
                "{} where {damage}",
                store.display()
            );
        }
        for (path, bytes) in files(&whole) {
            if path.extension().is_some_and(|e| e == "safetensors") || opened == 0 {
                assert!(
                    fs::read(out.join(&path)).unwrap() == bytes,
                    "{} changed where {damage}",
                    path.display()
                );
            }
        }
    }
}

/// If the output of a finished stage was changed, the next stage that reads it refuses it.
#[test]
fn a_finished_stage_that_was_changed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let one = |text: &str| -> String { text.replace("iterations = 2", "iterations = 1") };
    go(&recipe(one), out).unwrap();
    let path = out.join("1/rollouts.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replacen("\"repetition\":0", "\"repetition\":1", 1),
    )
    .unwrap();
    let other = recipe(|text| one(text).replace("beta = 0.1", "beta = 0.2"));
    let Err(error) = go(&other, out) else {
        panic!("other episodes")
    };
    assert!(
        error
            .to_string()
            .contains("rollouts.jsonl: does not hold the episodes that its stage ended with"),
        "{error}"
    );
}

/// The number of rows in the table when each stage begins.
struct Watching<'a>(&'a Path, Mutex<Vec<usize>>);

impl Reporter for Watching<'_> {
    fn stage(&self, _: &str) -> ProgressBar {
        let rows = trainer::measure::csv_file::read_csv::<EvalRow>(&self.0.join("eval.csv"))
            .map_or(0, |rows| rows.len());
        self.1.lock().unwrap().push(rows);
        ProgressBar::hidden()
    }

    fn say(&self, _: &str) {}
}

#[test]
fn the_table_grows_with_each_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let watching = Watching(folder.path(), Mutex::default());
    let means = RunOptions::alone(DeviceChoice::Cpu, "test");
    let one = recipe(|text| text.replace("iterations = 2", "iterations = 1"));
    let report = follow(&one, folder.path(), &NativeWorld::new(), &watching, &means).unwrap();
    let mut seen = watching.1.into_inner().unwrap();
    seen.push(report.rows.len());
    assert!(seen.is_sorted(), "{seen:?}");
    seen.dedup();
    assert_eq!(
        seen.len(),
        1 + 4,
        "empty, then longer after each of four evaluations: {seen:?}"
    );
}

#[test]
fn status_reports_each_stage_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let one = recipe(|text| text.replace("iterations = 2", "iterations = 1"));
    let out = folder.path().join("run");
    assert!(
        status(&one, &out)
            .unwrap()
            .iter()
            .all(|stage| (stage.state, stage.done) == (StageState::Missing, 0))
    );
    assert!(!out.exists());
    go(&one, &out).unwrap();
    let of = |all: &[(String, StageState, usize, usize)], stage: &str| {
        let (_, state, done, of) = all.iter().find(|(name, ..)| name == stage).unwrap();
        (*state, *done, *of)
    };
    let all = states(&one, &out);
    assert!(
        all.iter()
            .all(|(_, state, done, of)| *state == StageState::Done && done == of && *of > 0),
        "{all:?}"
    );
    let updates = [
        of(&all, "1/sft"),
        of(&all, "1/oreo"),
        of(&all, "1/rollouts"),
    ];
    assert_eq!(
        updates,
        [
            (StageState::Done, 3, 3),
            (StageState::Done, 2, 2),
            (StageState::Done, 3, 3)
        ]
    );

    let mut other = one.clone();
    other.jobs[2].optimizer.updates = 5;
    other.evaluate.best_of = vec![1];
    let before = files(&out);
    let told = status(&other, &out).unwrap();
    let oreo = told.iter().find(|stage| stage.stage == "1/oreo").unwrap();
    assert_eq!((oreo.state, oreo.differs.len()), (StageState::OutOfDate, 1));
    assert_eq!(
        oreo.differs[0].to_string(),
        "`job.optimizer.updates` is 5 and was 2"
    );
    let after = told
        .iter()
        .find(|stage| stage.stage == "1/eval/oreo-k1")
        .unwrap();
    assert_eq!(
        (after.state, after.awaits.as_deref()),
        (StageState::OutOfDate, Some("1/oreo"))
    );
    let all = states(&other, &out);
    assert_eq!(of(&all, "1/eval/oreo-k2"), (StageState::NotAsked, 4, 4));
    assert_eq!(of(&all, "1/eval/sft-k1"), (StageState::Done, 4, 4));
    assert!(files(&out) == before);

    cut_last_lines(&out.join("1/eval/oreo-k2.jsonl"));
    assert_eq!(
        of(&states(&one, &out), "1/eval/oreo-k2"),
        (StageState::Partial, 2, 4)
    );
}

/// A world that opens no game.
struct NoWorld;

impl World for NoWorld {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        Err(EnvironmentError::Load {
            path: task.path.clone(),
            reason: "the world is down".into(),
        })
    }
}

/// If no episode of a stage could be played, the stages that follow would learn from nothing.
#[test]
fn a_stage_whose_episodes_are_all_lost_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = |world: &dyn World| {
        let options = RunOptions::alone(DeviceChoice::Cpu, "test");
        let recipe = recipe(|text| text.replace("iterations = 2", "iterations = 0"));
        follow(&recipe, folder.path(), world, &Notes::default(), &options)
    };
    let store = folder.path().join("demonstrations.jsonl");
    for _ in 0..2 {
        let Err(error) = run(&NoWorld) else {
            panic!("nothing was played")
        };
        let expected = format!(
            "{}: every episode of this stage was lost; the last: ",
            store.display()
        );
        let error = error.to_string();
        assert!(
            error.starts_with(&expected) && error.contains("the world is down"),
            "{error}"
        );
    }
    fs::remove_file(store).unwrap();
    run(&NativeWorld::default()).unwrap();
}

/// A DAgger stage between two training jobs. If a job reads its episodes, it ends in another model.
/// The log marks the turns that are not imitated.
#[test]
fn a_loop_runs_dagger_between_two_jobs() {
    let (folder, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = |text: &str| {
        text.replace("iterations = 2", "iterations = 0")
            .replace("context = 400", "context = 900")
    };
    let beside = |text: &str| {
        let again = "[[train]]\nname = \"again\"\nreceptacle_dropout = 0.9\nfrom = { job = \"sft\" }\ndata = [\"demonstrations\", \"dagger\"]\n\
                     optimizer = { batch = 2, updates = 3, learning_rate = 2e-3 }\n\
                     algorithm = { kind = \"sft\", targets = \"transcript\" }\n";
        let dagger =
            "[[dagger]]\nstudent = \"sft\"\ngames = 6\nrepetitions = 2\ntemperature = 1.0\n\n";
        let rejection = text
            .find("[[train]]\nname = \"rejection-sampling\"")
            .unwrap();
        format!(
            "{}{again}\n{dagger}{}",
            &text[..rejection],
            &text[rejection..]
        )
        .replace("iterations = 0", "iterations = 1")
    };
    go(
        &recipe(|text| one(text).replace("iterations = 0", "iterations = 1")),
        plain.path(),
    )
    .unwrap();
    let dagger = recipe(|text| beside(&one(text)));
    let first = go(&dagger, folder.path()).unwrap();
    let shown = episodes(&folder.path().join("dagger-sft.jsonl"));
    assert_eq!(shown.len(), 12);
    let turns = || shown.iter().flat_map(|episode| &episode.turns);
    assert!(
        turns().any(|turn| turn.perturbed) && turns().any(|turn| !turn.perturbed),
        "both have written"
    );
    let policy =
        |out: &Path, name: &str| fs::read(out.join(format!("1/{name}/model.safetensors"))).unwrap();
    assert_eq!(
        policy(folder.path(), "sft"),
        policy(plain.path(), "sft"),
        "the job before it is unchanged"
    );
    assert_ne!(policy(folder.path(), "again"), policy(folder.path(), "sft"));
    let lineage = Lineage::open(&folder.path().join("1/again"))
        .unwrap()
        .expect("a job leaves it");
    assert_eq!(
        lineage.start.as_deref(),
        Lineage::open(&folder.path().join("1/sft"))
            .unwrap()
            .as_ref()
    );
    let again = go(&dagger, folder.path()).unwrap();
    assert_eq!((again.opened, again.report.rows), (0, first.report.rows));
}
