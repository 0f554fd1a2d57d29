//! `hearth export` and `hearth import` from end to end, and with the libraries that the exports are for.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use scenarios::household::{GenerateOptions, generate};
use scenarios::store::Store;
use scenarios::{Outcome, Suite, TextVersion, Trajectory, Turn};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn hearth(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, text: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    assert!(said(output).contains(text), "{}", said(output));
}

fn write(path: &Path, episodes: &[Trajectory]) {
    let (mut store, before) = Store::open(path).unwrap();
    assert!(before.is_empty());
    episodes
        .iter()
        .for_each(|episode| store.append(episode).unwrap());
}

/// A suite of generated games in `games`.
fn suite(folder: &Path, text: TextVersion, train: usize) -> Suite {
    let options = GenerateOptions {
        seed: 5,
        text,
        train,
        valid_train: 0,
        seen: 3,
        unseen: 0,
        ..GenerateOptions::default()
    };
    generate(&folder.join("games"), &options).unwrap()
}

/// `games` and `log.jsonl`: episodes of an expert who expert_noise, too long for some.
fn played() -> (TempDir, Vec<Trajectory>) {
    let folder = tempfile::tempdir().unwrap();
    suite(folder.path(), TextVersion::V2_1_3, 6);
    let how = [
        "--repetitions",
        "6",
        "--expert_noise",
        "0.4",
        "--turns",
        "9",
        "--out",
        "log.jsonl",
        "--json",
    ];
    json_of(&hearth(
        folder.path(),
        &[
            &["collect", "--policy", "expert", "--suite", "games"][..],
            &how,
        ]
        .concat(),
    ));
    let episodes = Store::read(folder.path().join("log.jsonl")).unwrap();
    (folder, episodes)
}

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn exported(folder: &Path, format: &str, more: &[&str]) -> (Value, Vec<Value>) {
    let out = folder.join("out.jsonl");
    let _ = fs::remove_file(&out);
    let arguments = [
        "export",
        "log.jsonl",
        "--format",
        format,
        "--out",
        "out.jsonl",
        "--json",
    ];
    let counts = json_of(&hearth(folder, &[&arguments, more].concat()));
    (counts, rows(&out))
}

/// Three episodes of one game, two turns each: won, lost after the same beginning, and lost from the first turn on.
fn three(folder: &Path) {
    let turn = |observation: &str, completion: &str| Turn {
        observation: observation.into(),
        completion: completion.into(),
        action: Some(completion.into()),
        ..Turn::default()
    };
    let won: Trajectory = serde_json::from_value(json!({
        "format": 1, "game": "train/a/b", "game_hash": "00", "split": "train", "task_type": "pick_and_place_simple",
        "repetition": 0, "seed": 1, "policy": "me", "protocol": scenarios::Protocol::default(), "reward": 1.0, "seconds": 0.0,
        "turns": [turn("A room.", "look"), turn("A desk.", "move cup to desk")],
        "last_observation": "You move it.", "outcome": "success",
    }))
    .unwrap();
    let lost = |repetition, turns: [Turn; 2]| Trajectory {
        repetition,
        turns: turns.into(),
        outcome: Outcome::TurnLimit,
        reward: 0.0,
        ..won.clone()
    };
    let late = lost(
        1,
        [
            turn("A room.", "look"),
            turn("A desk.", "move cup to shelf"),
        ],
    );
    let early = lost(2, [turn("A room.", "inventory"), turn("Nothing.", "look")]);
    write(&folder.join("log.jsonl"), &[won, late, early]);
}

#[test]
fn chats_are_written_as_everyone_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    three(folder.path());
    let about = json!({
        "game": "train/a/b", "split": "train", "task_type": "pick_and_place_simple", "repetition": 0, "policy": "me",
        "outcome": "success", "reward": 1.0,
    });
    let with = |mut row: Value| {
        row.as_object_mut()
            .unwrap()
            .extend(about.as_object().unwrap().clone());
        row
    };
    let (counts, found) = exported(folder.path(), "sharegpt", &["--won-only"]);
    let conversations = json!([
        {"from": "human", "value": "A room."}, {"from": "gpt", "value": "look"},
        {"from": "human", "value": "A desk."}, {"from": "gpt", "value": "move cup to desk"},
    ]);
    assert_eq!(
        found,
        [with(
            json!({"id": "train/a/b#0", "conversations": conversations})
        )]
    );
    assert_eq!(
        (&counts["rows"], &counts["left_out"]["not_won"]),
        (&1.into(), &2.into())
    );

    fs::write(folder.path().join("above.txt"), "You are in a house.\n").unwrap();
    let (_, found) = exported(folder.path(), "openai", &["--instructions", "above.txt"]);
    let messages = json!([
        {"role": "system", "content": "You are in a house."},
        {"role": "user", "content": "A room."}, {"role": "assistant", "content": "look"},
        {"role": "user", "content": "A desk."}, {"role": "assistant", "content": "move cup to desk"},
    ]);
    assert_eq!(found[0], with(json!({"messages": messages})));
    assert_eq!(found.len(), 3);

    let (_, found) = exported(folder.path(), "trl-sft", &["--won-only"]);
    assert_eq!(
        found[0]["messages"].as_array().unwrap()[..],
        messages.as_array().unwrap()[1..]
    );
    let (_, found) = exported(folder.path(), "trl-kto", &[]);
    assert_eq!(
        found[1]["prompt"],
        json!([{"role": "user", "content": "A room."}])
    );
    assert_eq!(found[1]["completion"].as_array().unwrap().len(), 3);
    assert_eq!(
        found
            .iter()
            .map(|row| row["label"].as_bool().unwrap())
            .collect::<Vec<_>>(),
        [true, false, false]
    );
}

/// The prompt is what the two episodes share; the one pair that is asked for is drawn by the seed.
#[test]
fn a_pair_is_a_won_and_a_lost_episode_of_one_game() {
    let folder = tempfile::tempdir().unwrap();
    three(folder.path());
    let (counts, found) = exported(folder.path(), "trl-dpo", &[]);
    assert_eq!(
        (
            found.len(),
            &counts["left_out"]["unpaired"],
            &counts["not_won"]
        ),
        (2, &0.into(), &2.into())
    );
    let say = |role: &str, content: &str| json!({"role": role, "content": content});
    let late = json!({
        "prompt": [say("user", "A room."), say("assistant", "look"), say("user", "A desk.")],
        "chosen": [say("assistant", "move cup to desk")],
        "rejected": [say("assistant", "move cup to shelf")],
    });
    let early = json!({
        "prompt": [say("user", "A room.")],
        "chosen": [say("assistant", "look"), say("user", "A desk."), say("assistant", "move cup to desk")],
        "rejected": [say("assistant", "inventory"), say("user", "Nothing."), say("assistant", "look")],
    });
    assert!(found.contains(&late) && found.contains(&early), "{found:?}");

    let one = |seed: &str| {
        let (counts, found) = exported(folder.path(), "trl-dpo", &["--pairs", "1", "--seed", seed]);
        assert_eq!(
            (found.len(), &counts["left_out"]["unpaired"]),
            (1, &1.into())
        );
        found[0].to_string()
    };
    assert_eq!(one("1"), one("1"));
    assert_eq!(
        ["1", "2", "3", "4", "5", "6"]
            .map(one)
            .into_iter()
            .collect::<BTreeSet<_>>()
            .len(),
        2
    );
}

#[test]
fn what_is_left_out_is_said_and_what_is_there_is_kept() {
    let (folder, mut episodes) = played();
    episodes[0].outcome = Outcome::EnvFailed;
    episodes[1].turns.clear();
    fs::remove_file(folder.path().join("log.jsonl")).unwrap();
    write(&folder.path().join("log.jsonl"), &episodes);
    let won = episodes[2..]
        .iter()
        .filter(|episode| episode.is_won())
        .count();
    assert!(won > 0 && won < 34, "{won}");

    let export = |more: &[&str]| {
        hearth(
            folder.path(),
            &[
                &["export", "log.jsonl", "--out", "out.json", "--format"],
                more,
            ]
            .concat(),
        )
    };
    let output = export(&["openai", "--won-only"]);
    assert!(output.status.success());
    let lines = said(&output);
    for line in [
        "left out: 1 episodes that were lost to their world or server",
        "left out: 1 episodes that have no turn",
        &format!("left out: {} episodes that were not won", 34 - won),
    ] {
        assert!(lines.contains(line), "{lines}");
    }
    let list: Vec<Value> =
        serde_json::from_slice(&fs::read(folder.path().join("out.json")).unwrap()).unwrap();
    assert_eq!(list.len(), won, "a .json file is one list");

    refused(
        &export(&["sharegpt"]),
        2,
        "out.json: is there already\nhint: choose another --out, or remove it",
    );
    fs::remove_file(folder.path().join("out.json")).unwrap();
    let output = export(&["trl-sft"]);
    assert!(said(&output).contains(&format!(
        "warning: {} of the rows were not won, and will be imitated",
        34 - won
    )));
    refused(
        &export(&["trl-dpo", "--won-only"]),
        2,
        "a pair needs a lost episode too",
    );
    let (counts, found) = exported(folder.path(), "openai", &["--split", "valid_seen"]);
    assert_eq!(
        (found.len(), counts["left_out"]["other_split"].as_u64()),
        (0, Some(35))
    );
    refused(
        &export(&["csv"]),
        2,
        "known: sharegpt, openai, trl-sft, trl-dpo, trl-kto, verl-sft, verl-rl",
    );
}

/// An episode as ETO's recorder writes it.
fn eto(episode: &Trajectory, id: usize) -> Value {
    let shown = |turn: usize, text: &str| match turn {
        0 => text.split("\n\n").skip(1).collect::<Vec<_>>().join("\n"),
        _ => format!("Observation: {}", without_arrival(text)),
    };
    let mut conversations = vec![
        json!({"from": "human", "value": "Interact with a household to solve a task."}),
        json!({"from": "gpt", "value": "OK"}),
    ];
    for (number, turn) in episode.turns.iter().enumerate() {
        conversations.push(json!({"from": "human", "value": shown(number, &turn.observation)}));
        let thought = format!(
            "Thought: This is turn {number}.\nAction: {}",
            turn.completion
        );
        conversations.push(json!({"from": "gpt", "value": thought}));
    }
    json!({"id": id, "game_file": format!("data/json_2.1.1/{}", episode.game), "conversations": conversations})
}

/// An episode as AgentGym's recorder writes it: every second answer without a thought, and labels on lines of their own.
fn agentgym(episode: &Trajectory) -> Value {
    let mut conversations = vec![
        json!({"from": "human", "loss": null, "value": "Interact with a household to solve a task."}),
        json!({"from": "gpt", "loss": false, "value": "OK. I'll follow your instructions and try my best to solve the task."}),
    ];
    for (number, turn) in episode.turns.iter().enumerate() {
        let text = match number {
            0 => {
                let opening = turn
                    .observation
                    .split("\n\n")
                    .skip(1)
                    .collect::<Vec<_>>()
                    .join("\n");
                format!("{opening}\nAVAILABLE ACTIONS: inventory,look")
            }
            _ => without_arrival(&turn.observation).into(),
        };
        conversations.push(json!({"from": "human", "loss": null, "value": text}));
        let value = match number % 2 {
            0 => format!("Thought:\nI go on.\n\nAction:\n{} ", turn.completion),
            _ => format!("Action: {} ", turn.completion),
        };
        conversations.push(json!({"from": "gpt", "loss": true, "value": value}));
    }
    conversations.push(
        json!({"from": "human", "loss": null, "value": without_arrival(&episode.last_observation)}),
    );
    let folders: Vec<&str> = episode.game.split('/').skip(1).collect();
    json!({"conversations": conversations, "item_id": folders.join("_")})
}

fn without_arrival(text: &str) -> &str {
    match text.strip_prefix("You arrive at loc ") {
        Some(rest) => rest.split_once(". ").unwrap().1,
        None => text,
    }
}

/// Games that speak the old text, and an expert's episodes of them: `games`, `log.jsonl`.
fn old() -> (TempDir, Vec<Trajectory>) {
    let folder = tempfile::tempdir().unwrap();
    suite(folder.path(), TextVersion::V2_1_1, 12);
    let how = [
        "--repetitions",
        "1",
        "--expert_noise",
        "0.2",
        "--turns",
        "60",
        "--out",
        "log.jsonl",
        "--json",
    ];
    json_of(&hearth(
        folder.path(),
        &[
            &["collect", "--policy", "expert", "--suite", "games"][..],
            &how,
        ]
        .concat(),
    ));
    let episodes = Store::read(folder.path().join("log.jsonl")).unwrap();
    assert_eq!(
        episodes.iter().filter(|episode| episode.is_won()).count(),
        12
    );
    (folder, episodes)
}

fn played_turns(episode: &Trajectory) -> Vec<(&str, &str)> {
    episode
        .turns
        .iter()
        .map(|turn| (turn.observation.as_str(), turn.completion.as_str()))
        .collect()
}

/// What two recorders made of an expert's episodes becomes these episodes again, to the byte, states and outcome included.
#[test]
fn a_record_becomes_the_episode_that_it_was_recorded_from() {
    let (folder, episodes) = old();
    let records: Vec<Value> = episodes
        .iter()
        .enumerate()
        .map(|(id, episode)| eto(episode, id))
        .collect();
    fs::write(folder.path().join("eto.json"), json!(records).to_string()).unwrap();
    let lines: Vec<String> = episodes
        .iter()
        .map(|episode| agentgym(episode).to_string())
        .collect();
    fs::write(folder.path().join("agentgym.jsonl"), lines.join("\n")).unwrap();
    for (file, format) in [("eto.json", "eto"), ("agentgym.jsonl", "agentgym")] {
        let out = format!("{format}-store.jsonl");
        let arguments = [
            "import", file, "--format", format, "--out", &out, "--suite", "games", "--json",
        ];
        let report = json_of(&hearth(folder.path(), &arguments));
        assert_eq!(
            (report["imported"].as_u64(), report["won"].as_u64()),
            (Some(12), Some(12)),
            "{report}"
        );
        let imported = Store::read(folder.path().join(&out)).unwrap();
        for (imported, episode) in imported.iter().zip(&episodes) {
            assert_eq!(played_turns(imported), played_turns(episode));
            assert_eq!(
                (&imported.game, &imported.game_hash),
                (&episode.game, &episode.game_hash)
            );
            assert_eq!(
                (&imported.last_observation, imported.outcome),
                (&episode.last_observation, episode.outcome)
            );
            assert_eq!(imported.turns[1].state, episode.turns[1].state);
            assert_eq!(
                (imported.policy.as_str(), imported.protocol.turn_limit),
                (format, 50.max(imported.turns.len()))
            );
        }
        json_of(&hearth(
            folder.path(),
            &["verify", &out, "--suite", "games", "--json"],
        ));
    }
}

/// The same episodes in new words: from games that speak them, and from the old games translated; with thoughts as turns.
#[test]
fn old_grammar_is_translated_and_the_episodes_are_true() {
    let (folder, episodes) = old();
    let records: Vec<Value> = episodes
        .iter()
        .enumerate()
        .map(|(id, episode)| eto(episode, id))
        .collect();
    fs::write(folder.path().join("eto.json"), json!(records).to_string()).unwrap();
    let newer = folder.path().join("newer");
    fs::create_dir(&newer).unwrap();
    suite(&newer, TextVersion::V2_1_3, 12);
    let import = |out: &str, suite: &str, more: &[&str]| {
        let arguments = [
            "import", "eto.json", "--format", "eto", "--out", out, "--suite", suite, "--json",
        ];
        let report = json_of(&hearth(folder.path(), &[&arguments, more].concat()));
        assert_eq!(
            (report["imported"].as_u64(), report["won"].as_u64()),
            (Some(12), Some(12)),
            "{report}"
        );
        json_of(&hearth(
            folder.path(),
            &["verify", out, "--suite", suite, "--json"],
        ));
        Store::read(folder.path().join(out)).unwrap()
    };
    let new = import("new.jsonl", "newer/games", &[]);
    let translated = import("translated.jsonl", "games", &["--text", "2.1.3"]);
    for (new, translated) in new.iter().zip(&translated) {
        assert_eq!(
            (
                new.protocol.translated_to,
                translated.protocol.translated_to
            ),
            (None, Some(TextVersion::V2_1_3))
        );
        assert_eq!(
            TextVersion::of_trajectory(new),
            Some(TextVersion::V2_1_3),
            "{}",
            new.game
        );
        assert_eq!(played_turns(new), played_turns(translated));
    }
    let thinking = import("thinking.jsonl", "newer/games", &["--thoughts", "keep"]);
    for (thinking, new) in thinking.iter().zip(&new) {
        assert_eq!(thinking.turns.len(), 2 * new.turns.len());
        assert_eq!(
            (
                &*thinking.turns[2].completion,
                &*thinking.turns[3].observation
            ),
            ("think: This is turn 1.", "Nothing happens.")
        );
        assert_eq!(thinking.last_observation, new.last_observation);
    }
}

#[test]
fn records_that_are_not_true_are_left_out_and_named() {
    let (folder, episodes) = old();
    let mut records: Vec<Value> = episodes
        .iter()
        .enumerate()
        .map(|(id, episode)| eto(episode, id))
        .collect();
    records[1]["conversations"][4]["value"] = json!("Observation: The roof is gone.");
    records[2]["game_file"] =
        json!("data/json_2.1.1/train/pick_and_place_simple-Nothing-None-Desk-1/trial_T0");
    records[3]["conversations"][3]["value"] = json!("I do not know.");
    let length = records[4]["conversations"].as_array().unwrap().len();
    records[4]["conversations"]
        .as_array_mut()
        .unwrap()
        .truncate(length - 2);
    let won = records[5]["conversations"].as_array_mut().unwrap();
    won.extend([
        json!({"from": "human", "value": "Observation: Done."}),
        json!({"from": "gpt", "value": "Action: look"}),
    ]);
    fs::write(folder.path().join("eto.json"), json!(records).to_string()).unwrap();

    let arguments = [
        "import",
        "eto.json",
        "--format",
        "eto",
        "--out",
        "out.jsonl",
        "--suite",
        "games",
        "--json",
    ];
    let output = hearth(folder.path(), &arguments);
    refused(
        &output,
        2,
        "eto.json, record 4: message 4: no line begins with `Action:`\nhint: --skip-bad leaves such records out",
    );
    assert!(!folder.path().join("out.jsonl").exists());

    let output = hearth(folder.path(), &[&arguments[..], &["--skip-bad"]].concat());
    let report = json_of(&output);
    let counts = [
        "records",
        "imported",
        "won",
        "bad",
        "unmatched",
        "differing",
    ]
    .map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts, [12, 8, 7, 1, 1, 2], "{report}");
    let text = said(&output);
    for line in [
        "left out: eto.json, record 2 (1), turn 2: observation\n  expected \"The roof is gone.\"",
        "left out: eto.json, record 6 (5), turn ",
        "1 records are of games that the suite does not hold",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let imported = Store::read(folder.path().join("out.jsonl")).unwrap();
    let cut = imported
        .iter()
        .find(|episode| episode.game == episodes[4].game)
        .unwrap();
    assert_eq!(
        (cut.outcome, cut.reward),
        (Outcome::Failure, 0.0),
        "a record that stops before the end has not won"
    );
    json_of(&hearth(
        folder.path(),
        &["verify", "out.jsonl", "--suite", "games", "--json"],
    ));
    refused(
        &hearth(folder.path(), &[&arguments[..], &["--skip-bad"]].concat()),
        2,
        "out.jsonl: is there already",
    );
}

/// Without the games there is what the record says, and no more.
#[test]
fn without_a_suite_a_record_is_taken_at_its_word() {
    let (folder, episodes) = old();
    fs::write(
        folder.path().join("one.json"),
        json!([agentgym(&episodes[0])]).to_string(),
    )
    .unwrap();
    let arguments = [
        "import",
        "one.json",
        "--format",
        "agentgym",
        "--out",
        "out.jsonl",
        "--text",
        "2.1.3",
        "--json",
    ];
    assert_eq!(json_of(&hearth(folder.path(), &arguments))["won"], 1);
    let imported = &Store::read(folder.path().join("out.jsonl")).unwrap()[0];
    assert_eq!(
        (&imported.game, &*imported.game_hash),
        (&episodes[0].game, "")
    );
    assert_eq!(
        (imported.task_type, imported.turns.len()),
        (episodes[0].task_type, episodes[0].turns.len())
    );
    assert!(
        imported
            .turns
            .iter()
            .all(|turn| TextVersion::V2_1_1.put_parts(&turn.completion).is_none())
    );
}

/// Every form with the library that it is for: `tests/oracle/formats.py` says which, and counts the rows.
#[test]
fn each_export_loads_with_the_library_it_is_for() {
    let Some(python) = std::env::var_os("HEARTH_FORMATS_PYTHON") else {
        eprintln!(
            "skipped: HEARTH_FORMATS_PYTHON names no Python with the packages of tests/oracle/formats.py"
        );
        return;
    };
    let (folder, episodes) = played();
    fs::write(folder.path().join("above.txt"), "You are in a house.").unwrap();
    let mut expected = BTreeMap::new();
    for format in [
        "sharegpt", "openai", "trl-sft", "trl-dpo", "trl-kto", "verl-sft", "verl-rl",
    ] {
        let file = format!(
            "{format}.{}",
            if format.starts_with("verl") {
                "parquet"
            } else {
                "jsonl"
            }
        );
        let arguments = [
            "export",
            "log.jsonl",
            "--format",
            format,
            "--out",
            &file,
            "--instructions",
            "above.txt",
            "--json",
        ];
        let counts = json_of(&hearth(folder.path(), &arguments));
        assert!(counts["rows"].as_u64().unwrap() > 1, "{format}: {counts}");
        expected.insert(format, counts["rows"].clone());
    }
    assert_eq!(expected["verl-rl"], 6, "a row a game");
    assert_eq!(expected["openai"], episodes.len());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/formats.py");
    let output = Command::new(python)
        .arg(script)
        .arg(folder.path())
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let found: BTreeMap<String, Value> = serde_json::from_value(json_of(&output)).unwrap();
    let found: BTreeMap<&str, Value> = found
        .iter()
        .map(|(format, rows)| (format.as_str(), rows.clone()))
        .collect();
    assert_eq!(found, expected);
}
