//! `hearth audit`: leaks between training and test games.

use crate::binary::hearth_line;
use crate::tiny;
use serde_json::{Value, json};
use std::fs;

/// A loop on whole splits has no findings. If a test game is among its demonstrations, the audit of
/// the run finds it, and so does the audit of an evaluation of its model.
#[test]
fn a_loop_is_clean_until_a_test_game_is_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &str| hearth_line(folder.path(), arguments);
    let recipe = tiny::RECIPE
        .replace("iterations = 2", "iterations = 1")
        .replace("games = 2\n", "games = 0\n");
    fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
    run("loop tiny.toml --out run --json").json();
    let clean = run("audit run --strict --json").json();
    assert_eq!(
        (&clean["findings"], &clean["folders"][0]["not_checked"]),
        (&json!(0), &json!([]))
    );

    let cards: Value =
        serde_json::from_slice(&fs::read(folder.path().join("run/eval-card.json")).unwrap())
            .unwrap();
    let cards = cards["cards"].as_array().unwrap();
    let places: Vec<_> = cards
        .iter()
        .map(|card| {
            (
                card["policy"].as_str().unwrap(),
                card["k"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            ("sft", 1),
            ("rejection-sampling", 1),
            ("oreo", 1),
            ("oreo", 2)
        ]
    );
    assert!(
        cards
            .iter()
            .all(|card| card["checkpoint"] == json!("last update") && card["games"] == json!(8))
    );
    let lineage = fs::read_to_string(folder.path().join("run/1/oreo/lineage.json")).unwrap();
    assert!(
        lineage.contains("\"train\": ") && !lineage.contains("valid"),
        "{lineage}"
    );

    let compared = run("compare run:oreo@2 run:sft --json").json();
    assert_eq!(compared["rows"][0]["games"], json!(4));
    assert_eq!(
        compared["warnings"],
        json!([
            "protocol.best_of: 2 against 1",
            "protocol.temperature: 1.0 against 0.0"
        ])
    );
    run("compare run:nobody run:sft")
        .refused_with("run:nobody: no policy and K matches\nhint: there are :sft@1,");

    let eval = "eval --policy run/1/oreo --suite run/games --turns 3 --completion 4 --split valid_unseen --out out --json";
    assert_eq!(run(eval).json()["audit"]["findings"], json!([]));
    let mut demonstrations =
        fs::read_to_string(folder.path().join("run/demonstrations.jsonl")).unwrap();
    let tested = fs::read_to_string(folder.path().join("run/1/eval/sft-k1.jsonl")).unwrap();
    let unseen = tested
        .lines()
        .find(|line| line.contains("\"split\":\"valid_unseen\""))
        .unwrap();
    demonstrations.push_str(&format!("{unseen}\n"));
    fs::write(
        folder.path().join("run/demonstrations.jsonl"),
        demonstrations,
    )
    .unwrap();
    let audited = run("audit run --strict");
    assert_eq!(audited.code, 1);
    assert!(
        audited
            .stdout
            .starts_with("run: 3 found\n  error: 1 games of the test splits "),
        "{}",
        audited.stdout
    );
    assert!(
        audited
            .stdout
            .contains("1 of 8 test games stand in the episodes that were learned from"),
        "{}",
        audited.stdout
    );
    let measured = run(eval);
    assert!(
        measured
            .stderr
            .contains("warning: 1 of 4 test games stand in the episodes"),
        "{}",
        measured.stderr
    );
    let ids: Vec<Value> = run("audit out --json").json()["folders"][0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["id"].clone())
        .collect();
    assert_eq!(
        ids,
        [
            "trained_on_test_split",
            "trained_on_test_game",
            "trained_on_unseen_room"
        ]
    );
    run("audit run/1").refused_with("run/1: neither an eval folder nor a run");
}
