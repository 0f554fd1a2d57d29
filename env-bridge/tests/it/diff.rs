//! Two worlds side by side: the native one against itself, and against a world that lies or breaks.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use env_bridge::NativeWorld;
use env_bridge::diff::{Commands, Plan, Progress, Report, Side, TURNS_BEFORE, diff};
use scenarios::household::{GenerateOptions, Size, generate};
use scenarios::{Environment, EnvironmentError, Observation, Status, Task, World};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const TURNS: usize = 30;

struct Games {
    tasks: Vec<Task>,
    _folder: TempDir,
}

fn games() -> Games {
    let options = GenerateOptions {
        seed: 11,
        size: Size::Small,
        ..GenerateOptions::default()
    };
    let options = GenerateOptions {
        train: 6,
        valid_train: 0,
        seen: 0,
        unseen: 6,
        ..options
    };
    let folder = tempfile::tempdir().unwrap();
    let tasks = generate(folder.path(), &options).unwrap().tasks;
    assert_eq!(tasks.len(), 12);
    Games {
        tasks,
        _folder: folder,
    }
}

fn plan() -> Plan {
    Plan {
        commands: Commands::ALL.to_vec(),
        turns: TURNS,
        seed: 7,
    }
}

fn held_against(other: &dyn World, games: &Games, workers: usize) -> Report {
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

/// What the liar does to a game.
#[derive(Clone, Copy)]
enum Lie {
    /// Another text at a turn.
    Observation(usize),
    /// The last admissible command is left out from a turn on.
    Admissible(usize),
    /// The opposite status at a turn.
    Won(usize),
    /// The game is never loaded.
    Load,
    /// A turn fails in the first `times` environments of the game.
    Step { turn: usize, times: usize },
}

/// The native world, but for the games it lies about.
#[derive(Default)]
struct Liar {
    truth: NativeWorld,
    lies: BTreeMap<String, Lie>,
    seen: Arc<Seen>,
}

/// What the liar was asked.
#[derive(Default)]
struct Seen {
    /// By game, once for each time it was opened.
    commands: Mutex<BTreeMap<String, Vec<Vec<String>>>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Liar {
    fn about<'a>(lies: impl IntoIterator<Item = (&'a Task, Lie)>) -> Self {
        Self {
            lies: lies
                .into_iter()
                .map(|(task, lie)| (task.id.clone(), lie))
                .collect(),
            ..Self::default()
        }
    }

    fn commands(&self) -> BTreeMap<String, Vec<Vec<String>>> {
        self.seen.commands.lock().unwrap().clone()
    }
}

impl World for Liar {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        let mut commands = self.seen.commands.lock().unwrap();
        let opened = commands.entry(task.id.clone()).or_default();
        opened.push(Vec::new());
        let lie = self.lies.get(&task.id).copied();
        if let Some(Lie::Load) = lie {
            return Err(EnvironmentError::Load {
                path: task.path.clone(),
                reason: "no such luck".to_owned(),
            });
        }
        let open = self.seen.open.fetch_add(1, SeqCst) + 1;
        self.seen.most_open.fetch_max(open, SeqCst);
        Ok(Box::new(LyingEnvironment {
            truth: self.truth.open(task)?,
            lie,
            opened: opened.len(),
            turn: 0,
            game: task.id.clone(),
            seen: self.seen.clone(),
        }))
    }
}

struct LyingEnvironment {
    truth: Box<dyn Environment>,
    lie: Option<Lie>,
    opened: usize,
    turn: usize,
    game: String,
    seen: Arc<Seen>,
}

impl Drop for LyingEnvironment {
    fn drop(&mut self) {
        self.seen.open.fetch_sub(1, SeqCst);
    }
}

impl LyingEnvironment {
    fn lie_about(&self, mut said: Observation) -> Observation {
        match self.lie {
            Some(Lie::Observation(turn)) if turn == self.turn => said.text.push_str(" Honestly."),
            Some(Lie::Won(turn)) if turn == self.turn => said.status = Status::of_goal(!said.won()),
            _ => {}
        }
        said
    }
}

impl Environment for LyingEnvironment {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        self.turn = 0;
        let said = self.truth.reset()?;
        Ok(self.lie_about(said))
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        self.turn += 1;
        let mut commands = self.seen.commands.lock().unwrap();
        commands
            .get_mut(&self.game)
            .unwrap()
            .last_mut()
            .unwrap()
            .push(command.to_owned());
        drop(commands);
        match self.lie {
            Some(Lie::Step { turn, times }) if turn == self.turn && self.opened <= times => {
                Err(EnvironmentError::Step {
                    command: command.to_owned(),
                    reason: "out of breath".to_owned(),
                })
            }
            _ => {
                let said = self.truth.step(command)?;
                Ok(self.lie_about(said))
            }
        }
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        let mut admissible = self.truth.admissible_commands()?;
        if let Some(Lie::Admissible(turn)) = self.lie
            && turn <= self.turn
        {
            admissible.pop();
        }
        Ok(admissible)
    }
}

/// 12 games of 30 commands: 360.
#[test]
fn a_world_does_not_differ_from_itself() {
    let games = games();
    for workers in [0, 1, 4, 99] {
        let report = held_against(&NativeWorld::new(), &games, workers);
        assert_eq!(
            report,
            Report {
                games: 12,
                commands: 12 * TURNS,
                ..Report::default()
            }
        );
        assert!(report.clean());
    }
}

#[test]
fn nothing_compared_is_not_clean() {
    let report = diff(
        &NativeWorld::new(),
        &NativeWorld::new(),
        &[],
        &plan(),
        4,
        &|_| panic!("there is no game"),
    );
    assert_eq!(report, Report::default());
    assert!(!report.clean());
}

/// Games 2, 5 and 9 differ at their turns 8, 0 and 30: 12 · 30 − 22 − 30 commands are compared, and game 2 is first.
#[test]
fn each_lie_is_found_where_it_is_told() {
    let games = games();
    for (field, lie) in [
        ("observation", Lie::Observation as fn(usize) -> Lie),
        ("admissible", Lie::Admissible as fn(usize) -> Lie),
        ("won", Lie::Won as fn(usize) -> Lie),
    ] {
        let liar = || {
            let turns = [(2, 8), (5, 0), (9, TURNS)];
            Liar::about(turns.map(|(game, turn): (usize, usize)| (&games.tasks[game], lie(turn))))
        };
        let report = held_against(&liar(), &games, 1);
        assert_eq!(report, held_against(&liar(), &games, 4));
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
                    ours + " Honestly."
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
        let liar = liar();
        held_against(&liar, &games, 1);
        let said = &liar.commands()[&task.id][0];
        assert_eq!(first.place.command.as_ref(), said.last());
        let before: Vec<_> = first
            .place
            .before
            .iter()
            .map(|turn| turn.command.clone().unwrap())
            .collect();
        assert_eq!(before.len(), TURNS_BEFORE);
        assert_eq!(before, said[said.len() - 1 - TURNS_BEFORE..said.len() - 1]);
    }
}

#[test]
fn a_reset_that_differs_is_turn_zero() {
    let games = games();
    let liar = Liar::about([(&games.tasks[0], Lie::Observation(0))]);
    let report = held_against(&liar, &games, 4);
    let place = report.first.unwrap().place;
    assert_eq!(
        (place.turn, place.command, place.before.len()),
        (0, None, 0)
    );
    assert_eq!(report.commands, 11 * TURNS);
    assert_eq!(
        liar.commands()[&games.tasks[0].id],
        [[""; 0]],
        "the game is stopped, and not tried again"
    );
}

/// What came before turn 2: the reset and turn 1, as the native world says them.
#[test]
fn a_difference_can_be_come_to_again_from_the_report() {
    let games = games();
    let report = held_against(&Liar::about([(&games.tasks[1], Lie::Won(2))]), &games, 4);
    let first = report.first.unwrap();
    let mut environment = NativeWorld::new().open(&games.tasks[1]).unwrap();
    assert_eq!(first.place.before.len(), 2);
    for turn in &first.place.before {
        let said = match &turn.command {
            None => environment.reset().unwrap(),
            Some(command) => environment.step(command).unwrap(),
        };
        assert_eq!(said.text, turn.observation);
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
fn a_game_that_is_never_loaded_is_a_failure_and_not_a_difference() {
    let games = games();
    let liar = || Liar::about([(&games.tasks[3], Lie::Load), (&games.tasks[8], Lie::Load)]);
    let report = held_against(&liar(), &games, 1);
    assert_eq!(report, held_against(&liar(), &games, 4));
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
    assert_eq!(failure.world, Side::Other);
    assert_eq!(
        failure.message,
        format!(
            "cannot load {}: no such luck",
            games.tasks[3].path.display()
        )
    );
}

#[test]
fn a_world_that_fails_once_is_asked_again_and_one_that_fails_twice_is_reported() {
    let games = games();
    let fails = |times| Liar::about([(&games.tasks[4], Lie::Step { turn: 11, times })]);
    let report = held_against(&fails(1), &games, 1);
    assert_eq!(report, held_against(&fails(1), &games, 4));
    assert_eq!(
        report,
        Report {
            games: 12,
            commands: 12 * TURNS,
            retried: 1,
            ..Report::default()
        }
    );
    assert!(report.clean());

    let report = held_against(&fails(2), &games, 1);
    assert_eq!(report, held_against(&fails(2), &games, 4));
    assert_eq!(
        (report.failures, report.retried, report.differences),
        (1, 1, 0)
    );
    assert_eq!(
        report.commands,
        11 * TURNS + 10,
        "ten turns before the one that failed"
    );
    let failure = report.first_failure.clone().unwrap();
    assert_eq!(
        (failure.place.turn, failure.place.before.len()),
        (11, TURNS_BEFORE)
    );
    assert!(
        failure.message.ends_with("out of breath"),
        "{}",
        failure.message
    );
    assert!(!report.clean());

    let liar = fails(2);
    held_against(&liar, &games, 4);
    let attempts = &liar.commands()[&games.tasks[4].id];
    assert_eq!(attempts.len(), 2, "once more and no oftener");
    assert_eq!(attempts[0], attempts[1], "a second attempt says the same");
}

#[test]
fn a_game_that_our_world_refuses_is_a_failure_too() {
    let mut games = games();
    games.tasks[6].path.set_file_name("no such game");
    let report = held_against(&Liar::default(), &games, 4);
    assert_eq!(
        (report.failures, report.retried, report.differences),
        (1, 0, 0)
    );
    assert_eq!(report.first_failure.as_ref().unwrap().world, Side::Ours);
    assert!(!report.clean());
}

#[test]
fn commands_depend_on_seed_and_game_alone() {
    let games = games();
    let said = |tasks: &[&Task], seed, turns, workers| {
        let liar = Liar::default();
        let plan = Plan {
            commands: vec![Commands::Mixed],
            turns,
            seed,
        };
        assert!(diff(&NativeWorld::new(), &liar, tasks, &plan, workers, &|_| {}).clean());
        liar.commands()
    };
    let all: Vec<&Task> = games.tasks.iter().collect();
    let reference = said(&all, 7, TURNS, 1);
    assert_eq!(reference, said(&all, 7, TURNS, 4));
    assert_ne!(reference, said(&all, 8, TURNS, 4));
    for (game, commands) in said(&all[5..], 7, 10, 2) {
        assert_eq!(
            commands[0],
            reference[&game][0][..10],
            "alone and shorter, it begins alike"
        );
    }
}

#[test]
fn without_a_walkthrough_commands_are_drawn() {
    let games = games();
    let task = &games.tasks[0];
    let mut file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&task.path).unwrap()).unwrap();
    let said = |commands| {
        let liar = Liar::default();
        let plan = Plan {
            commands: vec![commands],
            turns: TURNS,
            seed: 7,
        };
        assert!(diff(&NativeWorld::new(), &liar, &[task], &plan, 1, &|_| {}).clean());
        liar.commands()
    };
    assert_ne!(said(Commands::Walkthrough), said(Commands::Random));
    file.as_object_mut().unwrap().remove("walkthrough").unwrap();
    std::fs::write(&task.path, file.to_string()).unwrap();
    assert_eq!(said(Commands::Walkthrough), said(Commands::Random));
}

#[test]
fn so_many_environments_are_open_as_there_are_workers() {
    let games = games();
    for workers in [1, 3] {
        let liar = Liar::about([(&games.tasks[4], Lie::Step { turn: 3, times: 2 })]);
        held_against(&liar, &games, workers);
        assert!(liar.seen.most_open.load(SeqCst) <= workers);
        assert_eq!(liar.seen.open.load(SeqCst), 0);
    }
}

#[test]
fn progress_counts_every_game_up() {
    let games = games();
    let tasks: Vec<&Task> = games.tasks.iter().collect();
    let liar = Liar::about([(tasks[1], Lie::Won(4)), (tasks[2], Lie::Load)]);
    let heard = Mutex::new(Vec::<Progress>::new());
    let report = diff(
        &NativeWorld::new(),
        &liar,
        &tasks,
        &plan(),
        4,
        &|progress| heard.lock().unwrap().push(*progress),
    );
    let heard = heard.into_inner().unwrap();
    assert_eq!(
        heard
            .iter()
            .map(|progress| progress.done)
            .collect::<Vec<_>>(),
        (1..=12).collect::<Vec<_>>()
    );
    let Report {
        games,
        commands,
        differences,
        failures,
        ..
    } = report;
    assert_eq!(
        heard.last(),
        Some(&Progress {
            done: 12,
            games,
            commands,
            differences,
            failures
        })
    );
}

#[test]
fn the_json_has_its_keys() {
    let games = games();
    let report = held_against(&Liar::about([(&games.tasks[0], Lie::Won(1))]), &games, 4);
    let json = serde_json::to_value(&report).unwrap();
    let keys = |value: &serde_json::Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&json),
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
        keys(&json["first"]),
        [
            "before", "command", "commands", "field", "game", "other", "ours", "path", "seed",
            "turn"
        ]
    );
    assert_eq!(json["first"]["commands"], "walkthrough");
}
