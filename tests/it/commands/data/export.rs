//! `hearth export`, also with the libraries that the exports are for.

#[cfg(feature = "parquet")]
use super::episodes::json_of;
use super::episodes::{exported, hearth, played, refused, said, write};
use scenarios::{Outcome, Trajectory, Turn};
use serde_json::{Value, json};
#[cfg(feature = "parquet")]
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
#[cfg(feature = "parquet")]
use std::process::Command;

/// Three episodes of one game with two turns each: one is won, one is lost after the same first
/// turn, and one is lost with another first turn.
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
fn chats_are_written_in_the_common_formats() {
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

/// The prompt is what the two episodes share. If fewer pairs are requested than there are, the seed
/// selects them.
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
fn omitted_episodes_are_counted_and_existing_files_are_kept() {
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
        "left out: 1 episodes that were lost because their world or server failed",
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

/// Every format is read by the library that it is for. `tests/oracle/formats.py` lists the libraries
/// and counts the rows.
#[cfg(feature = "parquet")]
#[test]
#[ignore = "needs HEARTH_FORMATS_PYTHON, a Python with the packages of tests/oracle/formats.py"]
fn each_export_loads_with_the_library_it_is_for() {
    let python = std::env::var_os("HEARTH_FORMATS_PYTHON").expect("HEARTH_FORMATS_PYTHON is set");
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
