//! `hearth world replay`: recorded walks are repeated.

use crate::binary::{folder, hearth, with_games};
use env_bridge::NativeWorld;
use scenarios::World;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Plays a game's walkthrough and records it in the form that `world replay` reads.
fn recorded(task: &scenarios::Task) -> Value {
    let world = NativeWorld::new();
    let commands = world
        .game(&task.path)
        .unwrap()
        .walkthrough()
        .unwrap()
        .to_vec();
    let mut environment = world.open(task).unwrap();
    let mut walk = Vec::new();
    for command in std::iter::once(None).chain(commands.iter().map(Some)) {
        let observation = match command {
            None => environment.reset().unwrap(),
            Some(command) => environment.step(command).unwrap(),
        };
        let admissible = environment.admissible_commands().unwrap();
        walk.push(json!({"command": command, "observation": observation.text, "admissible": admissible, "won": observation.won()}));
    }
    json!({"game": format!("{}/game.tw-pddl", task.id), "version": "games", "walk": walk})
}

#[test]
fn a_replay_repeats_the_record_or_names_the_first_difference() {
    let (folder, suite) = with_games();
    let mut traces: Vec<Value> = suite.tasks.iter().take(3).map(recorded).collect();
    let commands: usize = traces
        .iter()
        .map(|trace| trace["walk"].as_array().unwrap().len() - 1)
        .sum();
    let replay = |traces: &[Value], more: &[&str]| {
        let lines: String = traces.iter().map(|trace| format!("{trace}\n")).collect();
        fs::write(folder.path().join("traces.jsonl"), lines).unwrap();
        hearth(
            folder.path(),
            &[&["world", "replay", "traces.jsonl", "--games", "."], more].concat(),
        )
    };
    assert_eq!(
        replay(&traces, &[]).done(),
        format!("3 walks, {commands} commands, 0 differences\n")
    );
    assert_eq!(
        replay(&traces, &["--json"]).json(),
        json!({"walks": 3, "commands": commands, "differences": 0, "first": null})
    );

    let (game, command) = (
        traces[1]["game"].clone(),
        traces[1]["walk"][2]["command"].clone(),
    );
    let found = traces[1]["walk"][2]["observation"].clone();
    traces[1]["walk"][2]["observation"] = json!("You fall asleep.");
    traces[2]["walk"][1]["won"] = json!(true);
    let different = replay(&traces, &[]);
    let first = format!(
        "3 walks, {commands} commands, 2 differences\nfirst: {} in text games, turn 2, {command}: observation\n  \
         recorded \"You fall asleep.\"\n  here     {found}\n",
        game.as_str().unwrap()
    );
    assert_eq!((different.code, different.stdout), (1, first));
    assert_eq!(replay(&traces, &["--json"]).code, 1);

    traces[0]["game"] = json!("nowhere/game.tw-pddl");
    let missing = replay(&traces, &[]);
    assert_eq!(missing.code, 2);
    assert_eq!(
        missing.stderr,
        "error: traces.jsonl, line 1: there is no game file ./games/nowhere/game.tw-pddl\n"
    );
}

/// A few of the walks that were recorded with the Python packages. Needs the official games, and
/// Python to unpack them.
#[test]
fn official_walks_are_replayed() {
    let Some(official) = support::alfworld::folder() else {
        return;
    };
    let python = |arguments: &[&str]| {
        Command::new("python3")
            .args(arguments)
            .stdout(Stdio::null())
            .status()
    };
    if !python(&["-c", "import lzma"]).is_ok_and(|status| status.success()) {
        support::skip("python3 with lzma is not there");
        return;
    }
    let folder = folder();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    for version in ["2.1.1", "2.1.3"] {
        let (script, out) = (
            text(official.join("expand.py")),
            text(folder.path().join(version)),
        );
        assert!(
            python(&[&script, &out, "--version", version, "--split", "valid_seen"])
                .unwrap()
                .success()
        );
    }
    let unpack = "import lzma, sys; open(sys.argv[2], 'w').writelines(l for i, l in enumerate(lzma.open(sys.argv[1], 'rt')) if i % 20 == 0)";
    let (packed, few) = (
        text(official.join("traces.jsonl.xz")),
        text(folder.path().join("few.jsonl")),
    );
    assert!(python(&["-c", unpack, &packed, &few]).unwrap().success());
    let report = hearth(
        folder.path(),
        &["world", "replay", "few.jsonl", "--games", ".", "--json"],
    )
    .json();
    assert_eq!(
        (&report["walks"], &report["differences"]),
        (&json!(6), &json!(0)),
        "{report}"
    );
}
