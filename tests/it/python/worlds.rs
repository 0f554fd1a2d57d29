//! Python worlds and the native world play the same games. Needs `HEARTH_PYTHON`.

use env_bridge::NativeWorld;
use env_bridge::diff::{Commands, DiffPlan, diff};
use env_bridge::python::{PythonKind, PythonOptions, PythonWorld, Venv};
use scenarios::household::{GenerateOptions, generate};
use scenarios::{Split, Status, Task, TextVersion, Trajectory, World};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Python environment with the packages. If `HEARTH_PYTHON` is not set, the test is skipped.
fn venv() -> Option<PathBuf> {
    let folder = std::env::var_os("HEARTH_PYTHON").map(PathBuf::from);
    if folder.is_none() {
        support::skip("HEARTH_PYTHON names no venv; `hearth doctor --install DIR` makes one");
    }
    folder
}

fn world(venv: &Path, workers: usize) -> PythonWorld {
    let options = PythonOptions::new(env!("CARGO_BIN_EXE_hearth").into(), PythonKind::TextWorld);
    PythonWorld::start(PythonOptions {
        workers,
        venv: Some(Venv::open(venv).unwrap()),
        ..options
    })
    .unwrap()
}

fn hearth(venv: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments)
        .env("HEARTH_PYTHON", venv)
        .output()
        .unwrap()
}

fn json(venv: &Path, arguments: &[&str]) -> Value {
    let output = hearth(venv, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn task(path: PathBuf) -> Task {
    Task {
        id: "game".into(),
        split: Split::Train,
        task_type: None,
        path,
        hash: String::new(),
    }
}

/// One game of each task type in each text.
#[test]
fn generated_games_are_the_same_in_both_worlds() {
    let Some(venv) = venv() else { return };
    let python = world(&venv, 2);
    for text in TextVersion::ALL {
        let folder = tempfile::tempdir().unwrap();
        let counts = GenerateOptions {
            train: 6,
            valid_train: 0,
            seen: 0,
            unseen: 6,
            ..GenerateOptions::default()
        };
        let suite = generate(folder.path(), &GenerateOptions { text, ..counts }).unwrap();
        let tasks: Vec<&Task> = suite.split(Split::Train);
        let kinds: BTreeSet<_> = tasks.iter().filter_map(|task| task.task_type).collect();
        assert_eq!((tasks.len(), kinds.len()), (6, 6), "a game of each type");
        let plan = DiffPlan {
            commands: Commands::ALL.to_vec(),
            turns: 12,
            seed: 5,
        };
        let report = diff(&NativeWorld::new(), &python, &tasks, &plan, 2, &|_| {});
        assert!(report.clean(), "text {text}: {report:?}");
        assert_eq!((report.games, report.commands), (6, 72));
    }
}

/// Ten games of ALFWorld, from both text versions.
#[test]
fn alfworld_games_are_the_same_in_both_worlds() {
    let Some(venv) = venv() else { return };
    let Some(shared) = support::alfworld::folder() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (version, split, limit) in [("2.1.3", "valid_unseen", "6"), ("2.1.1", "train", "4")] {
        let games = folder.path().join(version);
        let mut expand = Command::new("python3");
        expand.arg(shared.join("expand.py")).arg(&games).args([
            "--version",
            version,
            "--split",
            split,
            "--limit",
            limit,
        ]);
        assert!(expand.status().unwrap().success());
        let games = games.to_str().unwrap();
        let report = json(
            &venv,
            &[
                "world", "diff", "--suite", games, "--turns", "10", "--seed", "3", "--json",
            ],
        );
        let expected = limit.parse::<u64>().unwrap();
        assert_eq!(
            (report["games"].as_u64(), report["commands"].as_u64()),
            (Some(expected), Some(10 * expected))
        );
        assert_eq!(
            (report["differences"].as_u64(), report["first"].is_null()),
            (Some(0), true),
            "{report}"
        );
    }
}

/// A game made by the tool of TextWorld.
fn tw_make(venv: &Path, folder: &Path, arguments: &[&str]) -> Task {
    let path = folder.join("game.z8");
    let mut command = Command::new(venv.join("bin/python"));
    command
        .arg(venv.join("bin/tw-make"))
        .args(arguments)
        .args(["--seed", "1", "--format", "z8", "--output"])
        .arg(&path);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    task(path)
}

fn walkthrough(game: &Task) -> Vec<String> {
    let text = fs::read_to_string(game.path.with_extension("json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(json["metadata"]["walkthrough"].clone()).unwrap()
}

#[test]
fn a_coin_collector_is_played_and_won() {
    let Some(venv) = venv() else { return };
    let folder = tempfile::tempdir().unwrap();
    let game = tw_make(&venv, folder.path(), &["tw-coin_collector", "--level", "5"]);
    let python = world(&venv, 1);
    let mut environment = python.open(&game).unwrap();
    for _ in 0..2 {
        let opening = environment.reset().unwrap();
        assert!(
            opening.text.contains("coin") && opening.status == Status::Playing,
            "{opening:?}"
        );
        let commands = walkthrough(&game);
        assert!(
            commands.last().unwrap().starts_with("take coin"),
            "{commands:?}"
        );
        for (index, command) in commands.iter().enumerate() {
            let admissible = environment.admissible_commands().unwrap();
            assert!(
                admissible.is_sorted() && admissible.contains(command),
                "{command:?} is not in {admissible:?}"
            );
            let said = environment.step(command).unwrap();
            assert_eq!(said.won(), index + 1 == commands.len(), "{said:?}");
        }
    }
}

#[test]
fn a_cooking_game_is_won_by_its_walkthrough_and_lost_by_eating_the_ingredient() {
    let Some(venv) = venv() else { return };
    let folder = tempfile::tempdir().unwrap();
    let game = tw_make(
        &venv,
        folder.path(),
        &["tw-cooking", "--recipe", "1", "--take", "1", "--cook"],
    );
    let python = world(&venv, 1);
    let mut environment = python.open(&game).unwrap();
    environment.reset().unwrap();
    let commands = walkthrough(&game);
    let statuses: Vec<Status> = commands
        .iter()
        .map(|command| environment.step(command).unwrap().status)
        .collect();
    assert_eq!(statuses.last(), Some(&Status::Won), "{commands:?}");

    // If the ingredient of the recipe is eaten, or cooked twice, the meal can no longer be made.
    environment.reset().unwrap();
    let cook = commands
        .iter()
        .position(|command| command.starts_with("cook"))
        .unwrap();
    let mut last = Status::Playing;
    for command in commands[..=cook]
        .iter()
        .chain([&commands[cook], &commands[cook]])
    {
        if last == Status::Playing {
            last = environment.step(command).unwrap().status;
        }
    }
    assert_eq!(last, Status::Lost, "burnt");
}

#[test]
fn games_that_textworld_cannot_play_are_named() {
    let Some(venv) = venv() else { return };
    let folder = tempfile::tempdir().unwrap();
    let python = world(&venv, 1);
    let said = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        match python.open(&task(path)) {
            Ok(mut environment) => environment.reset().map(drop).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    let glulx = said("game.ulx", b"Glul");
    assert!(
        glulx.contains("game.ulx") && glulx.contains("Glulx games are not supported anymore"),
        "{glulx}"
    );
    let damaged = said("game.tw-pddl", b"{\"pddl_domain\": ");
    assert!(
        damaged.contains("game.tw-pddl") && damaged.contains("JSONDecodeError"),
        "{damaged}"
    );
    let no_pddl = said(
        "other.tw-pddl",
        br#"{"pddl_domain": "(define", "grammar": "", "pddl_problem": ""}"#,
    );
    assert!(no_pddl.contains("other.tw-pddl"), "{no_pddl}");
    let missing = python
        .open(&task(folder.path().join("absent.z8")))
        .err()
        .unwrap()
        .to_string();
    assert!(missing.contains("absent.z8"), "{missing}");
}

/// The commands `eval`, `collect` and `play` play the same turns with `--world python` and `--world
/// native`.
#[test]
fn the_expert_plays_the_same_in_both_worlds() {
    let Some(venv) = venv() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let counts = GenerateOptions {
        train: 6,
        valid_train: 0,
        seen: 6,
        unseen: 6,
        ..GenerateOptions::default()
    };
    generate(Path::new(&path("games")), &counts).unwrap();
    let play = |world: &str| -> (Value, Vec<Trajectory>) {
        let (games, out) = (path("games"), path(world));
        let split = "valid_seen,valid_unseen";
        let common = [
            "--policy", "expert", "--suite", &games, "--world", world, "--json", "--out", &out,
        ];
        let report = json(&venv, &[&["eval", "--split", split], &common[..]].concat());
        let log = fs::read_to_string(Path::new(&out).join("episodes-k1.jsonl")).unwrap();
        let mut played: Vec<Trajectory> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        played.sort_by(|a, b| a.game.cmp(&b.game));
        played
            .iter_mut()
            .for_each(|trajectory| trajectory.seconds = 0.0);
        (report["rows"].clone(), played)
    };
    let (native, python) = (play("native"), play("python"));
    assert_eq!(native.0, python.0);
    assert_eq!(native.1.len(), 12);
    let states = |played: &[Trajectory]| {
        played
            .iter()
            .flat_map(|t| &t.turns)
            .filter(|t| t.state.is_some())
            .count()
    };
    assert_eq!(
        states(&native.1),
        native
            .1
            .iter()
            .map(|trajectory| trajectory.turns.len())
            .sum::<usize>()
    );
    assert_eq!(
        states(&python.1),
        0,
        "Python cannot tell whether two states are one"
    );
    let mut stateless = native.1.clone();
    stateless
        .iter_mut()
        .flat_map(|trajectory| &mut trajectory.turns)
        .for_each(|turn| turn.state = None);
    assert_eq!(stateless, python.1);
    assert!(
        native.1.iter().all(|trajectory| trajectory.reward > 0.0),
        "the expert wins them all"
    );

    let games = path("games");
    let suite = ["--suite", &games, "--policy", "expert", "--json"];
    let collect = |world: &str| {
        let store = path(&format!("{world}.jsonl"));
        let own = [
            "collect",
            "--games",
            "3",
            "--repetitions",
            "2",
            "--expert-noise",
            "0.2",
            "--world",
            world,
            "--out",
            &store,
        ];
        let mut report = json(&venv, &[&own[..], &suite].concat());
        report.as_object_mut().unwrap().remove("store");
        report
    };
    assert_eq!(collect("native"), collect("python"));
    let play = |world: &str| {
        let mut played = json(
            &venv,
            &[&["play", "--game", "2", "--world", world][..], &suite].concat(),
        );
        played.as_object_mut().unwrap().remove("seconds");
        for turn in played["turns"].as_array_mut().unwrap() {
            turn.as_object_mut().unwrap().remove("state");
        }
        played
    };
    assert_eq!(play("native"), play("python"));
}

#[test]
fn the_doctor_finds_everything_and_the_bench_measures_both_worlds() {
    let Some(venv) = venv() else { return };
    let findings = json(&venv, &["doctor", "--json"]);
    assert_eq!(findings["ok"], true, "{findings}");
    let names: Vec<&str> = findings["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    for name in [
        "native world",
        "python support",
        "textworld",
        "alfworld",
        "python world",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let bench = json(
        &venv,
        &["bench", "world", "--games", "2", "--turns", "3", "--json"],
    );
    for world in ["native", "python"] {
        for figure in ["commands_per_s", "load_ms", "reset_ms", "memory_mib"] {
            assert!(
                bench[world][figure].as_f64().unwrap() > 0.0,
                "{world} {figure}: {bench}"
            );
        }
    }
    assert!(bench["native"]["clone_ns"].as_f64().unwrap() > 0.0);
    let quotient = bench["native"]["commands_per_s"].as_f64().unwrap()
        / bench["python"]["commands_per_s"].as_f64().unwrap();
    assert!((bench["ratio"].as_f64().unwrap() / quotient - 1.0).abs() < 1e-9);
    assert_eq!(bench["bridge"]["scaling"][0]["processes"], 1);

    let pool = json(
        &venv,
        &[
            "bench",
            "pool",
            "--resets",
            "6",
            "--processes",
            "2",
            "--json",
        ],
    );
    assert_eq!(
        (&pool["processes_left"], &pool["files_left"]),
        (&0.into(), &0.into()),
        "{pool}"
    );
    assert_eq!(pool["readings"][0]["resets"], 6);
}
