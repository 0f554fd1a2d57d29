//! The differential test of two worlds: the native one against itself, and against a world with
//! injected faults.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod faulty_world;

use env_bridge::NativeWorld;
use env_bridge::diff::{
    Commands, DiffPlan, DiffProgress, DiffReport, TURNS_BEFORE, WorldSide, diff,
};
use faulty_world::{FaultyWorld, InjectedFault};
use scenarios::household::{GenerateOptions, Size, generate};
use scenarios::{Task, World};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use tempfile::TempDir;

const TURNS: usize = 30;

/// Twelve generated games. Their folder is removed when this is dropped.
struct DiffGames {
    tasks: Vec<Task>,
    _folder: TempDir,
}

fn games() -> DiffGames {
    let options = GenerateOptions {
        seed: 11,
        size: Size::Small,
        train: 6,
        valid_train: 0,
        seen: 0,
        unseen: 6,
        ..GenerateOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let tasks = generate(folder.path(), &options).unwrap().tasks;
    assert_eq!(tasks.len(), 12);
    DiffGames {
        tasks,
        _folder: folder,
    }
}

fn plan() -> DiffPlan {
    DiffPlan {
        commands: Commands::ALL.to_vec(),
        turns: TURNS,
        seed: 7,
    }
}

fn compare_with(other: &dyn World, games: &DiffGames, workers: usize) -> DiffReport {
    let tasks: Vec<&Task> = games.tasks.iter().collect();
    diff(
        &NativeWorld::new(),
        other,
        &tasks,
        &plan(),
        workers,
        &|_| {},
    )
}

/// 12 games with 30 commands each: 360 commands.
#[test]
fn a_world_does_not_differ_from_itself() {
    let games = games();
    for workers in [0, 1, 4, 99] {
        let report = compare_with(&NativeWorld::new(), &games, workers);
        assert_eq!(
            report,
            DiffReport {
                games: 12,
                commands: 12 * TURNS,
                ..DiffReport::default()
            }
        );
        assert!(report.clean());
    }
}

#[test]
fn an_empty_report_is_not_clean() {
    let report = diff(
        &NativeWorld::new(),
        &NativeWorld::new(),
        &[],
        &plan(),
        4,
        &|_| panic!("called without a game"),
    );
    assert_eq!(report, DiffReport::default());
    assert!(!report.clean());
}

/// Games 2, 5 and 9 differ at their turns 8, 0 and 30. Therefore 12 · 30 − 22 − 30 commands are
/// compared, and the first difference is in game 2.
#[test]
fn each_difference_is_found_at_its_turn() {
    let games = games();
    for (field, fault) in [
        (
            "observation",
            InjectedFault::Observation as fn(usize) -> InjectedFault,
        ),
        (
            "admissible",
            InjectedFault::Admissible as fn(usize) -> InjectedFault,
        ),
        ("won", InjectedFault::Won as fn(usize) -> InjectedFault),
    ] {
        let turns = [(2, 8), (5, 0), (9, TURNS)];
        let faults = turns.map(|(game, turn): (usize, usize)| (&games.tasks[game], fault(turn)));
        let world = FaultyWorld::new(faults);
        let report = compare_with(&world, &games, 1);
        assert_eq!(report, compare_with(&FaultyWorld::new(faults), &games, 4));
        assert!(!report.clean());
        assert_eq!(
            (
                report.games,
                report.differences,
                report.failures,
                report.retried
            ),
            (12, 3, 0, 0)
        );
        assert_eq!(report.commands, 12 * TURNS - 22 - TURNS);

        let first = report.first.unwrap();
        let task = &games.tasks[2];
        assert_eq!(first.field, field);
        assert_eq!(first.place.game, task.id);
        assert_eq!(first.place.path, task.path.display().to_string());
        assert_eq!(
            (first.place.seed, first.place.commands, first.place.turn),
            (7, Commands::Mixed, 8)
        );
        match field {
            "observation" => {
                let ours: String = serde_json::from_str(&first.ours).unwrap();
                assert_eq!(
                    serde_json::from_str::<String>(&first.other).unwrap(),
                    ours + " Changed."
                );
            }
            "admissible" => {
                let mut ours: Vec<String> = serde_json::from_str(&first.ours).unwrap();
                ours.pop().unwrap();
                assert_eq!(
                    serde_json::from_str::<Vec<String>>(&first.other).unwrap(),
                    ours
                );
            }
            _ => assert_eq!(
                (first.ours.as_str(), first.other.as_str()),
                ("false", "true")
            ),
        }
        let played = &world.commands()[&task.id][0];
        assert_eq!(first.place.command.as_ref(), played.last());
        let before: Vec<_> = first
            .place
            .before
            .iter()
            .map(|turn| turn.command.clone().unwrap())
            .collect();
        assert_eq!(before.len(), TURNS_BEFORE);
        assert_eq!(
            before,
            played[played.len() - 1 - TURNS_BEFORE..played.len() - 1]
        );
    }
}

#[test]
fn a_reset_that_differs_is_turn_zero() {
    let games = games();
    let world = FaultyWorld::new([(&games.tasks[0], InjectedFault::Observation(0))]);
    let report = compare_with(&world, &games, 4);
    let place = report.first.unwrap().place;
    assert_eq!(
        (place.turn, place.command, place.before.len()),
        (0, None, 0)
    );
    assert_eq!(report.commands, 11 * TURNS);
    assert_eq!(
        world.commands()[&games.tasks[0].id],
        [[""; 0]],
        "the game ends and is not retried"
    );
}

/// The turns before turn 2 are the reset and turn 1, as in the native world.
#[test]
fn a_difference_can_be_reproduced_from_the_report() {
    let games = games();
    let report = compare_with(
        &FaultyWorld::new([(&games.tasks[1], InjectedFault::Won(2))]),
        &games,
        4,
    );
    let first = report.first.unwrap();
    let mut environment = NativeWorld::new().open(&games.tasks[1]).unwrap();
    assert_eq!(first.place.before.len(), 2);
    for turn in &first.place.before {
        let observation = match &turn.command {
            None => environment.reset().unwrap(),
            Some(command) => environment.step(command).unwrap(),
        };
        assert_eq!(observation.text, turn.observation);
    }
    assert_eq!(
        environment
            .step(first.place.command.as_ref().unwrap())
            .unwrap()
            .won()
            .to_string(),
        first.ours
    );
}

#[test]
fn a_game_that_cannot_be_loaded_is_a_failure_and_not_a_difference() {
    let games = games();
    let world =
        FaultyWorld::new([3, 8].map(|game: usize| (&games.tasks[game], InjectedFault::Load)));
    let report = compare_with(&world, &games, 1);
    assert_eq!(report, compare_with(&world, &games, 4));
    assert!(!report.clean());
    assert_eq!(
        (report.games, report.commands, report.differences),
        (12, 10 * TURNS, 0)
    );
    assert_eq!(
        (report.failures, report.retried, report.first),
        (2, 2, None)
    );
    let failure = report.first_failure.unwrap();
    assert_eq!(
        (failure.place.game, failure.place.turn),
        (games.tasks[3].id.clone(), 0)
    );
    assert_eq!(failure.world, WorldSide::Other);
    assert_eq!(
        failure.message,
        format!(
            "cannot load {}: injected load fault",
            games.tasks[3].path.display()
        )
    );
}

#[test]
fn a_game_that_fails_once_is_retried_and_one_that_fails_twice_is_reported() {
    let games = games();
    let report = compare_with(&world_that_fails(1, &games), &games, 1);
    assert_eq!(
        report,
        compare_with(&world_that_fails(1, &games), &games, 4)
    );
    assert_eq!(
        report,
        DiffReport {
            games: 12,
            commands: 12 * TURNS,
            retried: 1,
            ..DiffReport::default()
        }
    );
    assert!(report.clean());

    let world = world_that_fails(2, &games);
    let report = compare_with(&world, &games, 1);
    assert_eq!(
        report,
        compare_with(&world_that_fails(2, &games), &games, 4)
    );
    assert_eq!(
        (report.failures, report.retried, report.differences),
        (1, 1, 0)
    );
    assert_eq!(
        report.commands,
        11 * TURNS + 10,
        "the ten turns before the failure"
    );
    let failure = report.first_failure.clone().unwrap();
    assert_eq!(
        (failure.place.turn, failure.place.before.len()),
        (11, TURNS_BEFORE)
    );
    assert!(
        failure.message.ends_with("injected step fault"),
        "{}",
        failure.message
    );
    assert!(!report.clean());

    let attempts = &world.commands()[&games.tasks[4].id];
    assert_eq!(attempts.len(), 2, "one retry");
    assert_eq!(attempts[0], attempts[1], "the retry has the same commands");
}

/// Returns a world in which turn 11 of game 4 fails in the first `times` environments.
fn world_that_fails(times: usize, games: &DiffGames) -> FaultyWorld {
    FaultyWorld::new([(&games.tasks[4], InjectedFault::Step { turn: 11, times })])
}

#[test]
fn a_game_that_the_native_world_cannot_load_is_a_failure() {
    let mut games = games();
    games.tasks[6].path.set_file_name("no such game");
    let report = compare_with(&FaultyWorld::default(), &games, 4);
    assert_eq!(
        (report.failures, report.retried, report.differences),
        (1, 0, 0)
    );
    assert_eq!(
        report.first_failure.as_ref().unwrap().world,
        WorldSide::Ours
    );
    assert!(!report.clean());
}

#[test]
fn commands_depend_only_on_seed_and_game() {
    let games = games();
    let plan = DiffPlan {
        commands: vec![Commands::Mixed],
        ..plan()
    };
    let all: Vec<&Task> = games.tasks.iter().collect();
    let reference = played_commands(&all, &plan, 1);
    assert_eq!(reference, played_commands(&all, &plan, 4));
    let other_seed = DiffPlan {
        seed: 8,
        ..plan.clone()
    };
    assert_ne!(reference, played_commands(&all, &other_seed, 4));
    let shorter = DiffPlan { turns: 10, ..plan };
    for (game, commands) in played_commands(&all[5..], &shorter, 2) {
        assert_eq!(
            commands[0],
            reference[&game][0][..10],
            "a shorter plan with fewer games has the same first commands"
        );
    }
}

/// Returns the commands that a plan plays in each game, once for each environment.
fn played_commands(
    tasks: &[&Task],
    plan: &DiffPlan,
    workers: usize,
) -> BTreeMap<String, Vec<Vec<String>>> {
    let world = FaultyWorld::default();
    assert!(diff(&NativeWorld::new(), &world, tasks, plan, workers, &|_| {}).clean());
    world.commands()
}

#[test]
fn if_a_game_has_no_walkthrough_commands_are_random() {
    let games = games();
    let task = &games.tasks[0];
    let mut file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&task.path).unwrap()).unwrap();
    let [walkthrough, random] =
        [Commands::Walkthrough, Commands::Random].map(|commands| DiffPlan {
            commands: vec![commands],
            ..plan()
        });
    assert_ne!(
        played_commands(&[task], &walkthrough, 1),
        played_commands(&[task], &random, 1)
    );
    file.as_object_mut().unwrap().remove("walkthrough").unwrap();
    std::fs::write(&task.path, file.to_string()).unwrap();
    assert_eq!(
        played_commands(&[task], &walkthrough, 1),
        played_commands(&[task], &random, 1)
    );
}

#[test]
fn at_most_one_environment_per_worker_is_open() {
    let games = games();
    for workers in [1, 3] {
        let fault = InjectedFault::Step { turn: 3, times: 2 };
        let world = FaultyWorld::new([(&games.tasks[4], fault)]);
        compare_with(&world, &games, workers);
        assert!(world.log.most_open.load(SeqCst) <= workers);
        assert_eq!(world.log.open.load(SeqCst), 0);
    }
}

#[test]
fn progress_is_reported_after_every_game() {
    let games = games();
    let tasks: Vec<&Task> = games.tasks.iter().collect();
    let world = FaultyWorld::new([
        (tasks[1], InjectedFault::Won(4)),
        (tasks[2], InjectedFault::Load),
    ]);
    let reported = Mutex::new(Vec::<DiffProgress>::new());
    let report = diff(
        &NativeWorld::new(),
        &world,
        &tasks,
        &plan(),
        4,
        &|progress| reported.lock().unwrap().push(*progress),
    );
    let reported = reported.into_inner().unwrap();
    assert_eq!(
        reported
            .iter()
            .map(|progress| progress.done)
            .collect::<Vec<_>>(),
        (1..=12).collect::<Vec<_>>()
    );
    let DiffReport {
        games,
        commands,
        differences,
        failures,
        ..
    } = report;
    assert_eq!(
        reported.last(),
        Some(&DiffProgress {
            done: 12,
            games,
            commands,
            differences,
            failures
        })
    );
}

#[test]
fn the_keys_of_the_json_report_are_stable() {
    let games = games();
    let report = compare_with(
        &FaultyWorld::new([(&games.tasks[0], InjectedFault::Won(1))]),
        &games,
        4,
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        json_keys(&json),
        [
            "commands",
            "differences",
            "failures",
            "first",
            "first_failure",
            "games",
            "retried"
        ]
    );
    assert_eq!(
        json_keys(&json["first"]),
        [
            "before", "command", "commands", "field", "game", "other", "ours", "path", "seed",
            "turn"
        ]
    );
    assert_eq!(json["first"]["commands"], "walkthrough");
}

fn json_keys(value: &serde_json::Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}
