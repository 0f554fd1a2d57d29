//! The loop: a run ends in its table, a second call replays nothing, and a run that was killed anywhere goes on to the
//! same table.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod tiny;

use agent::device::Hardware;
use env_bridge::NativeWorld;
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{Environment, EnvironmentError, Split, Task, Trajectory, World};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tiny::{RECIPE, files};
use trainer::TrainerError;
use trainer::course::{Means, Report, Reporter, follow};
use trainer::evaluate::Row;
use trainer::recipe::Recipe;

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
    let report = follow(recipe, out, &world, &notes, &Means::alone(Hardware::Cpu, "test"))?;
    Ok(Followed { report, opened: world.opened.into_inner(), notes: notes.0.into_inner().unwrap() })
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
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl") && !path.ends_with("suite.jsonl"))
        .collect()
}

fn remove(out: &Path, parts: &[&str]) {
    for path in parts.iter().map(|part| out.join(part)) {
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
}

fn cut(path: &Path, bytes: usize) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() - bytes]).unwrap();
}

/// One line and a half: an episode that was lost and one that was being written.
fn cut_last_lines(path: &Path) {
    let whole = fs::read(path).unwrap();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    cut(path, whole.len() - (ends[ends.len() - 3] + 200));
}

#[track_caller]
fn check_table(rows: &[Row]) {
    let lines: BTreeSet<(&str, usize)> = rows.iter().map(|row| (row.policy.as_str(), row.k)).collect();
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
        "only a lesson with a value network has a best of 2, and the fresh lesson is learned once"
    );
    for (policy, k) in lines {
        for split in [Split::ValidSeen, Split::ValidUnseen] {
            let of = |row: &&Row| row.policy == policy && row.k == k && row.split == split;
            let total: Vec<usize> =
                rows.iter().filter(of).filter(|row| row.task_type.is_none()).map(|row| row.n).collect();
            let by_type: usize = rows.iter().filter(of).filter(|row| row.task_type.is_some()).map(|row| row.n).sum();
            assert_eq!((total, by_type), (vec![2], 2), "{policy}, K = {k}, {split}: each of two games once");
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
    let table: Vec<Row> =
        csv::Reader::from_path(whole.join("eval.csv")).unwrap().deserialize().map(Result::unwrap).collect();
    assert_eq!(table, first.report.rows, "eval.csv is the table");
    assert_eq!(fs::read_to_string(whole.join("recipe.toml")).unwrap(), toml::to_string(&recipe).unwrap());
    assert_eq!(first.opened, 12 + 2 * 3 + 7 * 4, "demonstrations, rollouts and evaluations, each once");
    assert!(first.notes.iter().any(|note| note == "collect, iteration 2"), "{:?}", first.notes);
    let notes: Vec<_> = files(&whole).into_iter().filter(|(path, _)| path.ends_with("hearth.json")).collect();
    assert_eq!(notes.len(), 5, "each lesson's model says what it learned from");
    assert!(notes.iter().all(|(_, bytes)| bytes == b"{\"text_versions\":[\"2.1.3\"]}\n"), "{notes:?}");
    let all_stores = stores(&whole);
    assert_eq!(all_stores.len(), 1 + 2 + 7, "{all_stores:?}");

    type Damage<'a> = (&'a str, usize, Box<dyn Fn(&Path) + 'a>);
    let damages: [Damage<'_>; 5] = [
        ("nothing", 0, Box::new(|_| {})),
        ("the last line of an evaluation is torn", 1, Box::new(|out| cut(&out.join("2/eval/oreo-k2.jsonl"), 30))),
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
                remove(out, &["2/oreo/model.safetensors", "2/eval/oreo-k1.jsonl", "2/eval/oreo-k2.jsonl"]);
            }),
        ),
        (
            "killed while games were generated",
            first.opened,
            Box::new(|out| {
                remove(out, &["1", "2", "demonstrations.jsonl", "eval.csv", "run.json", "suite.jsonl"]);
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
            assert_eq!(episodes(&out.join(store)), episodes(&whole.join(store)), "{} where {damage}", store.display());
        }
        for (path, bytes) in files(&whole) {
            if path.extension().is_some_and(|e| e == "safetensors") || opened == 0 {
                assert!(fs::read(out.join(&path)).unwrap() == bytes, "{} changed where {damage}", path.display());
            }
        }
    }
}

#[test]
fn another_recipe_in_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let few = |text: &str| -> String { text.replace("iterations = 2", "iterations = 0") };
    go(&recipe(few), folder.path()).unwrap();
    let before = files(folder.path());
    let other = recipe(|text| few(text).replace("beta = 0.1", "beta = 0.2"));
    let Err(error) = go(&other, folder.path()) else { panic!("another beta") };
    let path = folder.path().join("recipe.toml");
    let expected =
        format!("{}: another recipe has run here\nhint: choose another --out, or remove this folder", path.display());
    assert_eq!(error.to_string(), expected);
    assert!(files(folder.path()) == before, "the run that was there is untouched");
}

/// Games that lie elsewhere are named by their hash; when they change, the run does not go on with the others.
#[test]
fn a_run_on_a_folder_of_games_is_bound_to_these_games() {
    let folder = tempfile::tempdir().unwrap();
    let (games, out) = (folder.path().join("games"), folder.path().join("run"));
    let suite = tiny::suite(&games);
    fs::remove_file(games.join("suite.jsonl")).unwrap();
    let mut recipe = recipe(|text| text.replace("iterations = 2", "iterations = 0"));
    recipe.games = trainer::recipe::GamesRecipe::Folder { path: games.clone() };
    let followed = go(&recipe, &out).unwrap();
    assert_eq!(followed.report.suite, suite.hash());
    assert_eq!(go(&recipe, &out).unwrap().opened, 0);
    let damaged = &suite.split(Split::ValidSeen)[0].path;
    fs::write(damaged, "{").unwrap();
    let notes = Notes::default();
    let Err(error) = follow(&recipe, &out, &NativeWorld::new(), &notes, &Means::alone(Hardware::Cpu, "test")) else {
        panic!("a game less")
    };
    assert!(error.to_string().contains("run.json: the games are not those that this run began with"), "{error}");
    let notes = notes.0.into_inner().unwrap();
    assert!(notes[0].starts_with(&format!("left out: {}: not a game: ", damaged.display())), "{notes:?}");
    assert_eq!(notes[1], "1 games of games are left out");
}
