//! Runs the binary as a process of its own, without variables of a launcher such as Slurm.

use crate::tiny;
use scenarios::Trajectory;
use scenarios::store::Store;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

pub(super) const HEARTH: &str = env!("CARGO_BIN_EXE_hearth");

/// Variables of launchers, which are removed in case the tests run under one.
pub(super) const LAUNCHERS: [&str; 5] = [
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_STEP_ID",
    "RANK",
    "WORLD_SIZE",
];

pub(super) fn hearth(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(HEARTH);
    command.args(arguments).current_dir(folder);
    LAUNCHERS.iter().for_each(|name| {
        command.env_remove(name);
    });
    command
}

pub(super) fn output(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

#[track_caller]
pub(super) fn done(command: &mut Command) -> String {
    let (code, stdout, stderr) = output(command);
    assert_eq!(code, 0, "{stderr}");
    stdout
}

pub(super) fn json_of(command: &mut Command) -> Value {
    serde_json::from_str(&done(command)).unwrap()
}

pub(super) fn with_recipe(iterations: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = tiny::RECIPE.replace("iterations = 2", &format!("iterations = {iterations}"));
    fs::write(folder.path().join("tiny.toml"), text).unwrap();
    folder
}

/// The episodes of a store without their seconds.
pub(super) fn episodes(path: &Path) -> Vec<Trajectory> {
    let mut all = Store::read(path).unwrap();
    all.iter_mut().for_each(|episode| episode.seconds = 0.0);
    all
}

pub(super) fn in_order(mut episodes: Vec<Trajectory>) -> Vec<Trajectory> {
    episodes.sort_by_key(|episode| (episode.repetition, episode.seed));
    episodes
}

/// The stages of a run that are done.
pub(super) fn finished(folder: &Path) -> Vec<String> {
    let status = json_of(&mut hearth(
        folder,
        &["loop", "tiny.toml", "--status", "--json"],
    ));
    let stages = status["stages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|stage| stage["state"] == "done");
    stages
        .map(|stage| stage["stage"].as_str().unwrap().to_string())
        .collect()
}

pub(super) fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn kill(mut child: Child) {
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
}
