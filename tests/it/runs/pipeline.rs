//! Runs a recipe in this process, and counts the episodes that are played.

use crate::tiny::{RECIPE, files};
use agent::inference::device::DeviceChoice;
use env_bridge::NativeWorld;
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{Environment, EnvironmentError, Task, Trajectory, World};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use trainer::TrainerError;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::{Reporter, RunOptions, RunReport, follow};
use trainer::pipeline::status::{StageState, status};

/// The native world, which counts the games that are opened.
#[derive(Default)]
pub(super) struct Counting {
    world: NativeWorld,
    opened: AtomicUsize,
}

impl World for Counting {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.world.open(task)
    }
}

/// Keeps the messages, and the titles of the stages.
#[derive(Default)]
pub(super) struct Notes(pub(super) Mutex<Vec<String>>);

impl Reporter for Notes {
    fn stage(&self, title: &str) -> ProgressBar {
        self.say(title);
        ProgressBar::hidden()
    }

    fn say(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
}

pub(super) struct Followed {
    pub(super) report: RunReport,
    pub(super) opened: usize,
    pub(super) notes: Vec<String>,
}

pub(super) fn go(recipe: &Recipe, out: &Path) -> Result<Followed, TrainerError> {
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

pub(super) fn go_as(
    shard: &str,
    wait: u64,
    recipe: &Recipe,
    out: &Path,
) -> Result<Followed, TrainerError> {
    go_with_lease(shard, wait, Duration::ZERO, recipe, out)
}

pub(super) fn go_with_lease(
    shard: &str,
    wait: u64,
    lease: Duration,
    recipe: &Recipe,
    out: &Path,
) -> Result<Followed, TrainerError> {
    let (world, notes) = (Counting::default(), Notes::default());
    let shard = shard.parse().unwrap();
    let means = RunOptions {
        shard,
        wait: Duration::from_secs(wait),
        lease,
        ..RunOptions::alone(DeviceChoice::Cpu, "test")
    };
    let report = follow(recipe, out, &world, &notes, &means)?;
    Ok(Followed {
        report,
        opened: world.opened.into_inner(),
        notes: notes.0.into_inner().unwrap(),
    })
}

pub(super) fn recipe(change: impl Fn(&str) -> String) -> Recipe {
    let recipe: Recipe = toml::from_str(&change(RECIPE)).unwrap();
    recipe.check().unwrap();
    recipe
}

/// The episodes of a store without their wall-clock seconds, in the order of games.
pub(super) fn episodes(path: &Path) -> Vec<Trajectory> {
    let mut all = Store::read(path).unwrap();
    all.iter_mut().for_each(|t| t.seconds = 0.0);
    all.sort_by(|a, b| (&a.game, a.seed).cmp(&(&b.game, b.seed)));
    all
}

pub(super) fn stores(out: &Path) -> Vec<PathBuf> {
    files(out)
        .into_keys()
        .filter(|path| {
            path.extension().is_some_and(|e| e == "jsonl") && !path.ends_with("suite.jsonl")
        })
        .collect()
}

pub(super) fn remove(out: &Path, parts: &[&str]) {
    for path in parts.iter().map(|part| out.join(part)) {
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
    }
}

pub(super) fn cut(path: &Path, bytes: usize) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() - bytes]).unwrap();
}

/// Removes one line and a half: an episode that was lost, and one that was being written.
pub(super) fn cut_last_lines(path: &Path) {
    let whole = fs::read(path).unwrap();
    let ends: Vec<usize> = whole
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at)
        .collect();
    cut(path, whole.len() - (ends[ends.len() - 3] + 200));
}

/// The files of `before` that differ in `after` or are missing there.
pub(super) fn changed(
    before: &BTreeMap<PathBuf, Vec<u8>>,
    after: &BTreeMap<PathBuf, Vec<u8>>,
) -> Vec<String> {
    let differ = before
        .iter()
        .filter(|(path, bytes)| after.get(*path) != Some(bytes));
    differ.map(|(path, _)| path.display().to_string()).collect()
}

/// The state and the progress of each stage.
pub(super) fn states(recipe: &Recipe, out: &Path) -> Vec<(String, StageState, usize, usize)> {
    status(recipe, out)
        .unwrap()
        .into_iter()
        .map(|s| (s.stage, s.state, s.done, s.of))
        .collect()
}
