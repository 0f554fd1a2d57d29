//! The loop: a run ends in its table, a second call replays nothing, and a run that was killed anywhere goes on to the
//! same table.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod tiny;

use agent::inference::device::DeviceChoice;
use env_bridge::NativeWorld;
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{Environment, EnvironmentError, Split, Task, Trajectory, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tiny::{RECIPE, files};
use trainer::TrainerError;
use trainer::measure::card::Lineage;
use trainer::measure::evaluate::Row;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::{Report, Reporter, RunOptions, follow};
use trainer::pipeline::status::{State, status};

/// The native world, counting the games that are opened.
#[derive(Default)]
struct Counting {
    world: NativeWorld,
    opened: AtomicUsize,
}

impl World for Counting {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.world.open(task)
    }
}

/// Keeps what is said, and the titles of the stages.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Reporter for Notes {
    fn stage(&self, title: &str) -> ProgressBar {
        self.say(title);
        ProgressBar::hidden()
    }

    fn say(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
}

struct Followed {
    report: Report,
    opened: usize,
    notes: Vec<String>,
}

fn go(recipe: &Recipe, out: &Path) -> Result<Followed, TrainerError> {
    let (world, notes) = (Counting::default(), Notes::default());
    let report = follow(
        recipe,
        out,
        &world,
        &notes,
        &RunOptions::alone(DeviceChoice::Cpu, "test"),
    )?;
    Ok(Followed {
        report,
        opened: world.opened.into_inner(),
        notes: notes.0.into_inner().unwrap(),
    })
}

fn recipe(change: impl Fn(&str) -> String) -> Recipe {
    let recipe: Recipe = toml::from_str(&change(RECIPE)).unwrap();
    recipe.check().unwrap();
    recipe
}

/// The episodes of a store without their wall-clock seconds, in the order of games.
fn episodes(path: &Path) -> Vec<Trajectory> {
    let mut all = Store::read(path).unwrap();
    all.iter_mut().for_each(|t| t.seconds = 0.0);
    all.sort_by(|a, b| (&a.game, a.seed).cmp(&(&b.game, b.seed)));
    all
}

fn stores(out: &Path) -> Vec<PathBuf> {
    files(out)
        .into_keys()
        .filter(|path| {
            path.extension().is_some_and(|e| e == "jsonl") && !path.ends_with("suite.jsonl")
        })
        .collect()
}

fn remove(out: &Path, parts: &[&str]) {
    for path in parts.iter().map(|part| out.join(part)) {
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
    }
}

fn cut(path: &Path, bytes: usize) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() - bytes]).unwrap();
}

/// One line and a half: an episode that was lost and one that was being written.
fn cut_last_lines(path: &Path) {
    let whole = fs::read(path).unwrap();
    let ends: Vec<usize> = whole
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at)
        .collect();
    cut(path, whole.len() - (ends[ends.len() - 3] + 200));
}

#[track_caller]
fn check_table(rows: &[Row]) {
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
            let of = |row: &&Row| row.policy == policy && row.k == k && row.split == split;
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

/// What a kill may leave behind, each on a copy of a finished run; and what must not be played again then.
#[test]
fn a_run_that_was_killed_anywhere_ends_in_the_same_table() {
    let (recipe, folder) = (recipe(str::to_string), tempfile::tempdir().unwrap());
    let whole = folder.path().join("whole");
    let first = go(&recipe, &whole).unwrap();
    check_table(&first.report.rows);
    let table: Vec<Row> = csv::Reader::from_path(whole.join("eval.csv"))
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

/// With other games or another seed nothing could be reused: it is another run.
#[test]
fn a_recipe_of_other_games_or_another_seed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let few = |text: &str| -> String { text.replace("iterations = 2", "iterations = 0") };
    go(&recipe(few), folder.path()).unwrap();
    let before = files(folder.path());
    for (from, to, why) in [
        ("seed = 3", "seed = 4", "`seed` is 4 and was 3"),
        ("train = 12", "train = 13", "`games.train` is 13 and was 12"),
    ] {
        let other = recipe(|text| few(text).replacen(from, to, 1));
        let Err(error) = go(&other, folder.path()) else {
            panic!("{why}")
        };
        let path = folder.path().join("recipe.toml").display().to_string();
        let expected = format!(
            "{path}: another recipe has run here: {why}, and every stage follows from that\nhint: choose another --out, or remove this folder"
        );
        assert_eq!(error.to_string(), expected);
        assert!(
            files(folder.path()) == before,
            "the run that was there is untouched"
        );
    }
}

/// The files of `before` that are not the same in `after`, but for those that say who ran last.
fn changed(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let differ = before
        .iter()
        .filter(|(path, bytes)| after.get(*path) != Some(bytes));
    differ.map(|(path, _)| path.display().to_string()).collect()
}

/// What is earlier than a change stays as it is, byte for byte; what depends on it is done anew beside what was there; and
/// with the old recipe all of that comes back without an episode played.
#[test]
fn a_changed_recipe_costs_what_depends_on_the_change() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let one = |text: &str| -> String { text.replace("iterations = 2", "iterations = 1") };
    let first = go(&recipe(one), out).unwrap();
    let before = files(out);

    let more = go(
        &recipe(|text| one(text).replace("best_of = [1, 2]", "best_of = [1, 2, 3]")),
        out,
    )
    .unwrap();
    assert_eq!(more.opened, 4, "the new K");
    let sheets = [
        "eval-card.json",
        "eval-failures.csv",
        "eval-games.csv",
        "eval.csv",
        "recipe.toml",
    ];
    assert_eq!(changed(&before, &files(out)), sheets);
    assert!(
        more.notes[0].starts_with("the recipe has changed; the one before is kept in "),
        "{:?}",
        more.notes
    );

    let beta = |text: &str| {
        one(text)
            .replace("beta = 0.1", "beta = 0.2")
            .replace("[1, 2]", "[1]")
    };
    let other = go(&recipe(beta), out).unwrap();
    assert_eq!(other.opened, 4, "OREO's model, greedily");
    let notes = other.notes.join("\n");
    for said in [
        "1/eval/oreo-k2 is not asked for by the recipe any more; it is kept in aside/1/eval/oreo-k2.",
        "1/oreo is out of date, as `job.algorithm.beta` is 0.2 and was 0.1; it is kept in aside/1/oreo.",
        "1/eval/oreo-k1 is out of date, as `policy` is \"",
    ] {
        assert!(notes.contains(said), "{notes}");
    }
    let now = files(out);
    let (oreo, kept) = ("1/oreo/model.safetensors", |path: &Path| {
        path.starts_with("aside/1")
    });
    assert_ne!(now[Path::new(oreo)], before[Path::new(oreo)]);
    assert!(
        now.iter()
            .any(|(path, bytes)| kept(path) && *bytes == before[Path::new(oreo)]),
        "it is kept"
    );
    assert!(
        changed(&before, &now)
            .iter()
            .all(|path| path.contains("oreo") || !path.starts_with("1/"))
    );

    let back = go(&recipe(one), out).unwrap();
    assert_eq!((back.opened, back.report.rows), (0, first.report.rows));
    assert_eq!(changed(&before, &files(out)), [""; 0]);
    assert!(
        back.notes
            .iter()
            .any(|note| note == "1/oreo is taken again from what was moved aside"),
        "{:?}",
        back.notes
    );
}

/// A folder without manifests, as before there were any: with its own recipe it goes on, with another it is left alone.
#[test]
fn a_run_of_an_earlier_version_is_taken_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let one = |text: &str| -> String { text.replace("iterations = 2", "iterations = 1") };
    let first = go(&recipe(one), out).unwrap();
    for path in files(out)
        .into_keys()
        .filter(|path| path.to_string_lossy().ends_with("stage.json"))
    {
        fs::remove_file(out.join(path)).unwrap();
    }
    let before = files(out);
    let Err(error) = go(
        &recipe(|text| one(text).replace("beta = 0.1", "beta = 0.2")),
        out,
    ) else {
        panic!("refused")
    };
    assert!(
        error
            .to_string()
            .contains("another recipe has run here: demonstrations does not say"),
        "{error}"
    );
    assert_eq!(changed(&before, &files(out)), [""; 0]);
    let unsigned = &states(&recipe(one), out)[1];
    assert_eq!(
        *unsigned,
        ("demonstrations".to_string(), State::Partial, 12, 0)
    );
    let again = go(&recipe(one), out).unwrap();
    assert_eq!((again.opened, again.report.rows), (0, first.report.rows));
    assert_eq!(changed(&before, &files(out)), [""; 0]);
    assert!(
        status(&recipe(one), out)
            .unwrap()
            .iter()
            .all(|stage| stage.state == State::Done)
    );
}

/// Whoever tampers with what a finished stage made is told so by those who read it.
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

/// How many rows the table has whenever a stage begins.
struct Watching<'a>(&'a Path, Mutex<Vec<usize>>);

impl Reporter for Watching<'_> {
    fn stage(&self, _: &str) -> ProgressBar {
        let rows = trainer::measure::evaluate::read_csv::<Row>(&self.0.join("eval.csv"))
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

fn go_as(shard: &str, wait: u64, recipe: &Recipe, out: &Path) -> Result<Followed, TrainerError> {
    let (world, notes) = (Counting::default(), Notes::default());
    let shard = shard.parse().unwrap();
    let means = RunOptions {
        shard,
        wait: Duration::from_secs(wait),
        ..RunOptions::alone(DeviceChoice::Cpu, "test")
    };
    let report = follow(recipe, out, &world, &notes, &means)?;
    Ok(Followed {
        report,
        opened: world.opened.into_inner(),
        notes: notes.0.into_inner().unwrap(),
    })
}

/// Two shards at the same time, and then three of which one never comes: the same run as without shards.
#[test]
fn shards_of_a_loop_make_the_run_of_one_process() {
    let (recipe, folder) = (
        recipe(|text| text.replace("iterations = 2", "iterations = 1")),
        tempfile::tempdir().unwrap(),
    );
    let [whole, shared, left] = ["whole", "shared", "left"].map(|name| folder.path().join(name));
    let first = go(&recipe, &whole).unwrap();
    let same = |out: &Path, rows: &[Row]| {
        assert_eq!(rows, first.report.rows);
        assert_eq!(
            stores(out),
            stores(&whole),
            "shards' stores are merged and gone"
        );
        for store in stores(&whole) {
            assert_eq!(
                episodes(&out.join(&store)),
                episodes(&whole.join(&store)),
                "{}",
                store.display()
            );
        }
        for (path, bytes) in files(&whole)
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e == "safetensors"))
        {
            assert!(
                fs::read(out.join(path)).unwrap() == *bytes,
                "{}",
                path.display()
            );
        }
    };
    let (leader, follower) = std::thread::scope(|scope| {
        let follower = scope.spawn(|| go_as("1/2", 120, &recipe, &shared));
        (
            go_as("0/2", 120, &recipe, &shared).unwrap(),
            follower.join().unwrap().unwrap(),
        )
    });
    assert_eq!(
        leader.opened + follower.opened,
        first.opened,
        "each episode once"
    );
    assert!(
        follower.opened >= first.opened / 3,
        "{} of {}",
        follower.opened,
        first.opened
    );
    same(&shared, &leader.report.rows);
    assert_eq!(follower.report.rows, first.report.rows);
    let merged = Store::read(shared.join("1/eval/oreo-k1.jsonl")).unwrap();
    assert!(
        merged.is_sorted_by_key(|episode| (episode.repetition, episode.seed)),
        "in the order of play"
    );

    let awaits = |shard: &str| match go_as(shard, 0, &recipe, &left) {
        Err(TrainerError::Awaiting(what)) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{shard} is done"),
    };
    assert_eq!(
        awaits("1/3"),
        "games: awaits shard 0, which begins and finishes it"
    );
    assert_eq!(
        awaits("0/3"),
        "demonstrations: awaits the other shards; 4 of 12 episodes are there"
    );
    assert_eq!(
        awaits("1/3"),
        "demonstrations: awaits shard 0, which begins and finishes it"
    );
    assert_eq!(
        awaits("0/3"),
        "demonstrations: awaits the other shards; 8 of 12 episodes are there"
    );
    let rest = go(&recipe, &left).unwrap();
    assert_eq!(
        rest.opened,
        first.opened - 8,
        "what shards have played is taken in"
    );
    same(&left, &rest.report.rows);
}

/// By stage: its state and how far it is.
fn states(recipe: &Recipe, out: &Path) -> Vec<(String, State, usize, usize)> {
    status(recipe, out)
        .unwrap()
        .into_iter()
        .map(|s| (s.stage, s.state, s.done, s.of))
        .collect()
}

#[test]
fn status_tells_how_far_each_stage_is_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let one = recipe(|text| text.replace("iterations = 2", "iterations = 1"));
    let out = folder.path().join("run");
    assert!(
        status(&one, &out)
            .unwrap()
            .iter()
            .all(|stage| (stage.state, stage.done) == (State::Missing, 0))
    );
    assert!(!out.exists());
    go(&one, &out).unwrap();
    let of = |all: &[(String, State, usize, usize)], stage: &str| {
        let (_, state, done, of) = all.iter().find(|(name, ..)| name == stage).unwrap();
        (*state, *done, *of)
    };
    let all = states(&one, &out);
    assert!(
        all.iter()
            .all(|(_, state, done, of)| *state == State::Done && done == of && *of > 0),
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
            (State::Done, 3, 3),
            (State::Done, 2, 2),
            (State::Done, 3, 3)
        ]
    );

    let mut other = one.clone();
    other.jobs[2].optimizer.updates = 5;
    other.evaluate.best_of = vec![1];
    let before = files(&out);
    let told = status(&other, &out).unwrap();
    let oreo = told.iter().find(|stage| stage.stage == "1/oreo").unwrap();
    assert_eq!((oreo.state, oreo.differs.len()), (State::OutOfDate, 1));
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
        (State::OutOfDate, Some("1/oreo"))
    );
    let all = states(&other, &out);
    assert_eq!(of(&all, "1/eval/oreo-k2"), (State::NotAsked, 4, 4));
    assert_eq!(of(&all, "1/eval/sft-k1"), (State::Done, 4, 4));
    assert!(files(&out) == before);

    cut_last_lines(&out.join("1/eval/oreo-k2.jsonl"));
    assert_eq!(
        of(&states(&one, &out), "1/eval/oreo-k2"),
        (State::Partial, 2, 4)
    );
}

/// Games that lie elsewhere are named by their hash; when they change, the run does not go on with the others.
#[test]
fn a_run_on_a_folder_of_games_is_bound_to_these_games() {
    let folder = tempfile::tempdir().unwrap();
    let (games, out) = (folder.path().join("games"), folder.path().join("run"));
    let suite = tiny::suite(&games);
    fs::remove_file(games.join("suite.jsonl")).unwrap();
    let mut recipe = recipe(|text| text.replace("iterations = 2", "iterations = 0"));
    recipe.games = trainer::pipeline::recipe::GamesRecipe::Folder {
        path: games.clone(),
    };
    let followed = go(&recipe, &out).unwrap();
    assert_eq!(followed.report.suite, suite.hash());
    assert_eq!(go(&recipe, &out).unwrap().opened, 0);
    let damaged = &suite.split(Split::ValidSeen)[0].path;
    fs::write(damaged, "{").unwrap();
    let notes = Notes::default();
    let Err(error) = follow(
        &recipe,
        &out,
        &NativeWorld::new(),
        &notes,
        &RunOptions::alone(DeviceChoice::Cpu, "test"),
    ) else {
        panic!("a game less")
    };
    assert!(
        error
            .to_string()
            .contains("run.json: the games are not those that this run began with"),
        "{error}"
    );
    let notes = notes.0.into_inner().unwrap();
    assert!(
        notes[0].starts_with(&format!("left out: {}: not a game: ", damaged.display())),
        "{notes:?}"
    );
    assert_eq!(notes[1], "1 games of games are left out");
}

/// A student is dagger between two jobs, and who reads that learns something else; the log marks what is not imitated.
#[test]
fn a_student_is_guided_in_a_loop() {
    let (folder, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = |text: &str| {
        text.replace("iterations = 2", "iterations = 0")
            .replace("context = 400", "context = 900")
    };
    let beside = |text: &str| {
        let again = "[[job]]\nname = \"again\"\nthinned = 0.9\nfrom = { job = \"sft\" }\ndata = [\"demonstrations\", \"dagger\"]\n\
                     optimizer = { batch = 2, updates = 3, learning_rate = 2e-3 }\n\
                     algorithm = { kind = \"sft\", targets = \"transcript\" }\n";
        let dagger =
            "[[dagger]]\nstudent = \"sft\"\ngames = 6\nrepetitions = 2\ntemperature = 1.0\n\n";
        let rejection = text.find("[[job]]\nname = \"rejection-sampling\"").unwrap();
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
        "what stands before it is as it was"
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
