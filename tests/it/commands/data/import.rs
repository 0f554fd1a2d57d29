//! `hearth import`: published records become episodes.

use super::episodes::{collected, hearth, json_of, refused, said, suite};
use scenarios::store::Store;
use scenarios::{Outcome, TextVersion, Trajectory};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

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

/// An episode as AgentGym's recorder writes it: every second answer has no thought, and labels are
/// on lines of their own.
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

/// Games of text version 2.1.1, and the expert's episodes of them: `games`, `log.jsonl`.
fn old() -> (TempDir, Vec<Trajectory>) {
    let how = [
        "--repetitions",
        "1",
        "--expert-noise",
        "0.2",
        "--turns",
        "60",
    ];
    let (folder, episodes) = collected(TextVersion::V2_1_1, 12, &how);
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

/// If the records of two recorders are imported, they become the original episodes, byte by byte,
/// with states and outcome.
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

/// The same episodes in the other text version: from games of that version, and from the old games
/// if they are translated. Thoughts become turns.
#[test]
fn old_games_are_translated_and_the_episodes_are_verified() {
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
fn records_that_differ_from_the_world_are_left_out_and_named() {
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
        "eto.json, record 4: message 4: no line begins with `Action:`\nhint: --skip-bad omits such records",
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
        "1 records are of games that the suite does not contain",
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

/// If there is no suite, the episode contains what the record contains, and no more.
#[test]
fn without_a_suite_a_record_is_imported_as_it_is() {
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

/// Copies of the published files in other layouts give the same episodes.
#[test]
fn records_in_other_layouts_are_the_same_episodes() {
    let (folder, episodes) = old();
    let records: Vec<Value> = (0..2).map(|id| eto(&episodes[id], id)).collect();
    let import = |text: &str, more: &[&str]| {
        let _ = fs::remove_file(folder.path().join("out.jsonl"));
        fs::write(folder.path().join("in.json"), text).unwrap();
        let arguments = [
            "import",
            "in.json",
            "--format",
            "eto",
            "--out",
            "out.jsonl",
            "--json",
        ];
        hearth(folder.path(), &[&arguments, more].concat())
    };
    let imported = |text: &str| {
        json_of(&import(text, &[]));
        Store::read(folder.path().join("out.jsonl")).unwrap()
    };
    let plain = imported(&json!(records).to_string());
    assert_eq!(plain.len(), 2);
    let with_roles = json!(records)
        .to_string()
        .replace("\"from\":\"human\"", "\"role\":\"user\"")
        .replace("\"from\":\"gpt\"", "\"role\":\"assistant\"")
        .replace("\"value\"", "\"content\"")
        .replace("\"conversations\"", "\"messages\"");
    let mut with_system = records.clone();
    for record in &mut with_system {
        let messages = record["conversations"].as_array_mut().unwrap();
        messages.insert(0, json!({"from": "system", "value": "You are a robot."}));
    }
    let with_tags = json!(records)
        .to_string()
        .replace("Thought: This", "<think>This")
        .replace("\\nAction: ", "</think>\\n<action>");
    let with_tags = close_tags(&with_tags);
    let with_paths = json!(records)
        .to_string()
        .replace("/trial_S", "\\\\trial_S")
        .replace("game_file\":\"data/", "game_file\":\"C:\\\\data/");
    let lines: Vec<String> = records.iter().map(ToString::to_string).collect();
    for (layout, text) in [
        ("roles", with_roles),
        ("system", json!(with_system).to_string()),
        ("tags", with_tags),
        ("paths", with_paths),
        ("data", json!({"version": 1, "data": records}).to_string()),
        ("lines", lines.join("\n")),
        ("mark", format!("\u{feff}{}", json!(records))),
    ] {
        assert_eq!(imported(&text), plain, "{layout}");
    }

    // One that is damaged does not take the others with it.
    for damage in ["\"\\ud83d\"", "NaN", "Infinity"] {
        let text = format!("[{}, {{\"id\": {damage}}}, {}]", records[0], records[1]);
        refused(&import(&text, &[]), 2, "record 2: ");
        let report = json_of(&import(&text, &["--skip-bad"]));
        assert_eq!(
            (&report["imported"], &report["bad"]),
            (&json!(2), &json!(1))
        );
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    refused(&import(pointer, &[]), 2, "git lfs pull");
    refused(
        &import(&json!([agentgym(&episodes[0])]).to_string(), &[]),
        2,
        "hint: --format agentgym",
    );
}

/// Closes the tag of an action at the end of its text.
fn close_tags(text: &str) -> String {
    let mut parts = text.split("<action>");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let (command, rest) = part.split_once('"').unwrap();
        format!("{text}<action>{command}</action>\"{rest}")
    })
}
