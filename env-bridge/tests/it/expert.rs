//! The expert on the real `ALFWorld` validation games, played by the native world. The tests are
//! skipped if the games or `python3` are missing.

use crate::support;
use env_bridge::NativeWorld;
use scenarios::expert::Expert;
use scenarios::{EnvironmentError, Split, Task, TaskType, World};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const TURN_LIMIT: usize = 50;

#[test]
fn the_expert_wins_the_validation_games_of_text_version_2_1_3() {
    wins_on_both_splits("2.1.3");
}

#[test]
fn the_expert_wins_the_validation_games_of_text_version_2_1_1() {
    wins_on_both_splits("2.1.1");
}

fn wins_on_both_splits(version: &str) {
    let Some(alfworld) = support::alfworld() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder for the games");
    for (split, games) in [(Split::ValidSeen, 140), (Split::ValidUnseen, 134)] {
        if !support::expand_games(&alfworld, folder.path(), version, split) {
            return;
        }
        let tasks = tasks(&folder.path().join(split.name()), split);
        assert_eq!(tasks.len(), games, "games of {split}");
        let turns: Vec<(Option<TaskType>, Option<usize>)> = tasks
            .iter()
            .map(|task| {
                (
                    task.task_type,
                    turns_to_win(task).expect("the world plays its own games"),
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

/// Returns the games in a split's folder, `TASK/TRIAL/game.tw-pddl`.
fn tasks(folder: &Path, split: Split) -> Vec<Task> {
    let trials = children(folder)
        .into_iter()
        .flat_map(|task| children(&task));
    trials
        .map(|trial| Task {
            id: trial.display().to_string(),
            split,
            task_type: TaskType::ALL
                .into_iter()
                .find(|kind| trial.to_string_lossy().contains(kind.name())),
            path: trial.join("game.tw-pddl"),
            hash: String::new(),
        })
        .collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of games");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}

/// Returns the number of commands the expert needed, or `None` if it did not win within the limit.
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

/// Prints a line for each task type: games, wins within 30, 40 and 50 turns, and the total turns of
/// the won games.
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
        let sum: usize = turns.iter().flatten().sum();
        println!(
            "{version} {split} {kind:8} {:4} games, won within 30 {}, 40 {}, 50 {}; {} turns in all",
            turns.len(),
            wins_within(30, &turns),
            wins_within(40, &turns),
            wins_within(50, &turns),
            sum
        );
    }
}

fn wins_within(limit: usize, turns: &[Option<usize>]) -> usize {
    turns
        .iter()
        .flatten()
        .filter(|turn| **turn <= limit)
        .count()
}
