//! `hearth scenarios`: generated games, and suites with faults.

use crate::binary::{folder, has_keys, hearth, with_games};
use crate::tiny::files;
use scenarios::Split;
use serde_json::{Value, json};
use std::fs;

#[test]
fn the_same_seed_writes_the_same_games() {
    let folder = folder();
    let generate = |out: &str, seed: &str| {
        let counts = [
            "--train",
            "6",
            "--valid-train",
            "1",
            "--seen",
            "1",
            "--unseen",
            "2",
        ];
        hearth(
            folder.path(),
            &[
                &["scenarios", "generate", out, "--seed", seed, "--json"],
                &counts[..],
            ]
            .concat(),
        )
        .json()
    };
    let (one, again, other) = (generate("a", "1"), generate("b", "1"), generate("c", "2"));
    assert_eq!((&one["games"], &one["hash"]), (&json!(10), &again["hash"]));
    assert_ne!(one["hash"], other["hash"]);
    assert!(
        files(&folder.path().join("a")) == files(&folder.path().join("b")),
        "every byte is the same"
    );
    let listed = hearth(folder.path(), &["scenarios", "list", "a", "--json"]).json();
    assert_eq!(listed, one, "what was generated is what is listed");
    has_keys(
        &listed,
        &[
            "suite", "hash", "games", "splits", "texts", "faults", "left_out",
        ],
    );
    assert_eq!(listed["texts"], json!({"2.1.3": 10}));
    assert_eq!(
        (&listed["splits"]["valid_unseen"], &listed["faults"]),
        (&json!({"examine": 1, "put": 1}), &json!([]))
    );
}

#[test]
fn a_damaged_game_is_named_and_counted() {
    let (folder, suite) = with_games();
    let damaged = &suite.split(Split::ValidSeen)[1].path;
    let name = damaged
        .strip_prefix(folder.path())
        .unwrap()
        .display()
        .to_string();
    let text = fs::read_to_string(damaged).unwrap();
    fs::write(damaged, &text[..text.len() / 2]).unwrap();

    let listed = hearth(folder.path(), &["scenarios", "list", "games"]);
    assert_eq!(
        listed.code, 1,
        "a suite with faults is not what it says it is"
    );
    assert!(
        listed.stdout.ends_with(" 10 games, 1 faults\n"),
        "{}",
        listed.stdout
    );
    assert!(
        listed.stderr.starts_with(&format!(
            "left out: {name}: the game is not the one in the manifest (hash "
        )),
        "{}",
        listed.stderr
    );
    assert!(
        listed
            .stderr
            .ends_with("\n1 games of household-small-seed5 are left out\n"),
        "{}",
        listed.stderr
    );

    fs::remove_file(folder.path().join("games/suite.jsonl")).unwrap();
    let listed = hearth(folder.path(), &["scenarios", "list", "games", "--json"]);
    assert_eq!(listed.code, 1);
    let report: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(report["faults"][0][0], json!(name));
    assert!(
        report["faults"][0][1]
            .as_str()
            .unwrap()
            .starts_with("not a game: "),
        "{report}"
    );

    let eval = hearth(
        folder.path(),
        &[
            "eval",
            "--policy",
            "expert",
            "--suite",
            "games",
            "--split",
            "valid_seen",
            "--out",
            "out",
        ],
    );
    assert!(
        eval.stderr.contains("1 games of games are left out"),
        "{}",
        eval.stderr
    );
    assert_eq!(
        eval.code, 0,
        "the others are played, and the loss is on the screen"
    );

    let mut broken: Value = serde_json::from_str(&text).unwrap();
    broken["pddl_problem"] = json!("(define (problem");
    fs::write(damaged, broken.to_string()).unwrap();
    let play = hearth(
        folder.path(),
        &["play", "--policy", "expert", "--suite", &name],
    );
    assert_eq!(play.code, 2, "a broken world");
    assert!(
        play.stderr.contains("game.tw-pddl") && play.stderr.contains("pddl_problem"),
        "{}",
        play.stderr
    );
}

#[test]
fn a_suite_lists_the_text_versions_of_its_games() {
    let folder = folder();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    let few = [
        "--train",
        "2",
        "--valid-train",
        "0",
        "--seen",
        "1",
        "--unseen",
        "1",
    ];
    let older = run(&[
        &[
            "scenarios",
            "generate",
            "older",
            "--text",
            "2.1.1",
            "--json",
        ],
        &few[..],
    ]
    .concat())
    .json();
    assert_eq!(
        (&older["texts"], &older["suite"]),
        (
            &json!({"2.1.1": 4}),
            &json!("household-small-seed1-text2.1.1")
        )
    );
    let newer = run(&[&["scenarios", "generate", "newer"], &few[..]].concat()).done();
    assert!(
        newer.contains("\ntext 2.1.3 (4 games)\nsuite household-small-seed1 "),
        "{newer}"
    );
    let unknown = run(&["scenarios", "generate", "nowhere", "--text", "2.1.2"]);
    assert_eq!(
        (unknown.code, folder.path().join("nowhere").exists()),
        (2, false)
    );
    assert!(
        unknown
            .stderr
            .contains("unknown text version \"2.1.2\"; known: 2.1.1, 2.1.3"),
        "{}",
        unknown.stderr
    );

    fs::remove_file(folder.path().join("newer/suite.jsonl")).unwrap();
    fs::remove_dir_all(folder.path().join("newer/valid_seen")).unwrap();
    fs::rename(
        folder.path().join("older/valid_seen"),
        folder.path().join("newer/valid_seen"),
    )
    .unwrap();
    fs::write(folder.path().join("newer/train/coin1.z8"), b"\x08").unwrap();
    fs::write(folder.path().join("newer/train/coin1.ulx"), b"Glul").unwrap();
    let mixed = run(&["scenarios", "list", "newer", "--json"]).json();
    assert_eq!(
        mixed["texts"],
        json!({"2.1.1": 1, "2.1.3": 3, "unknown": 1})
    );
    assert_eq!(
        (&mixed["splits"]["train"]["unknown"], &mixed["left_out"]),
        (&json!(1), &json!(1))
    );
    let mixed = run(&["scenarios", "list", "newer"]).done();
    assert!(
        mixed.contains("\ntext 2.1.1 (1 games), 2.1.3 (3 games), unknown (1 games)\n"),
        "{mixed}"
    );
    assert!(
        mixed.ends_with(": 5 games, 0 faults, 1 folders or files contain no game\n"),
        "{mixed}"
    );

    let play = run(&[
        "play",
        "--policy",
        "expert",
        "--suite",
        "newer/train/coin1.z8",
    ]);
    assert_eq!(play.code, 2);
    let hint = "\nhint: only .tw-pddl games play natively; play this one with --world python\n";
    let cause = "error: cannot load newer/train/coin1.z8: expected value at line 1 column 1";
    assert!(play.stderr == format!("{cause}{hint}"), "{}", play.stderr);
}

/// The variants are a suite of train games; a second run with the same seed writes the same bytes.
#[test]
fn train_games_are_permuted_and_others_are_refused() {
    let (folder, suite) = with_games();
    let games = suite.root.display().to_string();
    let permute = |out: &str| {
        let args = ["scenarios", "permute", &games, out, "--json"];
        hearth(
            folder.path(),
            &[&args[..], &["--variants", "2", "--games", "2"]].concat(),
        )
    };
    let one = permute("a").json();
    assert_eq!(permute("b").json(), one);
    assert!(files(&folder.path().join("a")) == files(&folder.path().join("b")));
    has_keys(
        &one,
        &[
            "suite",
            "hash",
            "sources",
            "games",
            "left_out",
            "redrawn",
            "winnable",
            "same_receptacles",
            "same_places",
            "receptacles",
            "expert_turns",
            "plan",
        ],
    );
    assert_eq!((&one["sources"], &one["games"]), (&json!(2), &json!(4)));
    let listed = hearth(folder.path(), &["scenarios", "list", "a", "--json"]).json();
    assert_eq!(
        (&listed["hash"], &listed["games"]),
        (&one["hash"], &json!(4))
    );
    assert!(!folder.path().join("a.unfinished").exists());

    permute("a").refused_with("a exists\nhint: ");
    let args = |suite| ["scenarios", "permute", suite, "c"];
    hearth(folder.path(), &args("a")).refused_with("is a permuted game\nhint: ");
    fs::rename(suite.root.join("train"), folder.path().join("away")).unwrap();
    fs::remove_file(suite.root.join("suite.jsonl")).unwrap();
    hearth(folder.path(), &args(&games))
        .refused_with("has no games in train\nhint: only train games");
    assert!(!folder.path().join("c").exists());
}
