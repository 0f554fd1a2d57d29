//! The expert on the real `ALFWorld` validation games, played by the native world. Skips, and says so, where the games
//! are not there: `../shared/alfworld` beside the repository, and a `python3` to expand them.

use env_bridge::NativeWorld;
use scenarios::expert::Expert;
use scenarios::{EnvironmentError, Split, Task, TaskType, World};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const TURN_LIMIT: usize = 50;

#[test]
fn the_expert_wins_the_validation_games_of_the_newer_texts() {
    wins_on_both_splits("2.1.3");
}

#[test]
fn the_expert_wins_the_validation_games_of_the_older_texts() {
    wins_on_both_splits("2.1.1");
}

fn wins_on_both_splits(version: &str) {
    let folder = tempfile::tempdir().expect("a folder for the games");
    for (split, games) in [(Split::ValidSeen, 140), (Split::ValidUnseen, 134)] {
        if !expand(folder.path(), version, split) {
            eprintln!("skipped: no ALFWorld games in ../shared/alfworld, or no python3");
            return;
        }
        let tasks = tasks(&folder.path().join(split.name()), split);
        assert_eq!(tasks.len(), games, "games of {split}");
        let turns: Vec<(Option<TaskType>, Option<usize>)> = tasks
            .iter()
            .map(|task| {
                (
                    task.task_type,
                    turns_to_win(task).expect("the world plays its games"),
                )
            })
            .collect();
        report(version, split, &turns);
        let won = turns.iter().filter(|(_, turns)| turns.is_some()).count();
        assert!(
            won * 100 > games * 95,
            "{split} in text {version}: {won} of {games}"
        );
    }
}

/// Writes the games of a split under `folder`; false where that cannot be done.
fn expand(folder: &Path, version: &str, split: Split) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/alfworld/expand.py");
    let arguments = ["--version", version, "--split", split.name()];
    script.exists()
        && Command::new("python3")
            .arg(script)
            .arg(folder)
            .args(arguments)
            .output()
            .is_ok_and(|output| output.status.success())
}

/// The games under a split's folder, `TASK/TRIAL/game.tw-pddl`.
fn tasks(folder: &Path, split: Split) -> Vec<Task> {
    let trials = children(folder)
        .into_iter()
        .flat_map(|task| children(&task));
    let task = |trial: PathBuf| Task {
        id: trial.display().to_string(),
        split,
        task_type: TaskType::ALL
            .into_iter()
            .find(|kind| trial.to_string_lossy().contains(kind.name())),
        path: trial.join("game.tw-pddl"),
        hash: String::new(),
    };
    trials.map(task).collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of games");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}

/// How many commands the expert needed; `None` when it did not win within the limit.
fn turns_to_win(task: &Task) -> Result<Option<usize>, EnvironmentError> {
    let mut game = NativeWorld::default().open(task)?;
    let mut expert = Expert::new(0);
    let mut observation = game.reset()?;
    for turn in 1..=TURN_LIMIT {
        observation = game.step(&expert.act(&observation.text))?;
        if observation.won() {
            return Ok(Some(turn));
        }
    }
    Ok(None)
}

/// A line for each kind of task: games, wins within 30, 40 and 50 turns, mean turns of the won ones.
fn report(version: &str, split: Split, turns: &[(Option<TaskType>, Option<usize>)]) {
    let mut kinds: BTreeMap<&str, Vec<Option<usize>>> = BTreeMap::new();
    for (kind, turns) in turns {
        kinds
            .entry(kind.map_or("?", TaskType::short_name))
            .or_default()
            .push(*turns);
        kinds.entry("total").or_default().push(*turns);
    }
    for (kind, turns) in kinds {
        let within = |limit: usize| {
            turns
                .iter()
                .flatten()
                .filter(|&&turn| turn <= limit)
                .count()
        };
        let sum: usize = turns.iter().flatten().sum();
        println!(
            "{version} {split} {kind:8} {:4} games, won within 30 {}, 40 {}, 50 {}; {} turns in all",
            turns.len(),
            within(30),
            within(40),
            within(50),
            sum
        );
    }
}
