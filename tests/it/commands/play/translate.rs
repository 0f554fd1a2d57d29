//! `--translate-commands`: games of one text version in the words of the other.

use crate::binary::{folder, hearth};
use crate::commands::models::save_model;
use crate::commands::models::save_model_of;
use scenarios::TextVersion;
use scenarios::household::{GenerateOptions, generate};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// The same few games in the folders `2.1.1` and `2.1.3`, one for each text version.
fn with_both_texts() -> TempDir {
    let folder = folder();
    for text in TextVersion::ALL {
        let options = GenerateOptions {
            train: 2,
            valid_train: 0,
            seen: 1,
            unseen: 2,
            text,
            ..GenerateOptions::default()
        };
        generate(&folder.path().join(text.name()), &options).unwrap();
    }
    folder
}

/// The observations and the actions of an episode.
fn seen_and_written(played: &Value) -> (String, Vec<&str>) {
    let turns = played["turns"].as_array().unwrap();
    let observations = turns
        .iter()
        .map(|turn| turn["observation"].as_str().unwrap());
    let last = played["last_observation"].as_str().unwrap();
    let actions = turns
        .iter()
        .filter_map(|turn| turn["action"].as_str())
        .collect();
    (
        observations.chain([last]).collect::<Vec<_>>().join("\n"),
        actions,
    )
}

#[test]
fn a_game_is_played_in_the_other_text_version() {
    let folder = with_both_texts();
    let play = |suite: &str, more: &[&str]| {
        let fixed = [
            "play", "--policy", "expert", "--game", "1", "--json", "--suite", suite,
        ];
        hearth(folder.path(), &[&fixed[..], more].concat())
    };
    for (suite, version, put, arrive, other) in [
        ("2.1.3", "2.1.1", "put ", "You arrive at loc ", "move "),
        ("2.1.1", "2.1.3", "move ", "You arrive at ", "put "),
    ] {
        let ran = play(suite, &[&format!("--translate-commands={version}")]);
        assert_eq!(ran.stderr, "", "a translation needs no warning");
        let translated = ran.json();
        assert_eq!(
            (
                &translated["outcome"],
                &translated["protocol"]["translated_to"]
            ),
            (&json!("success"), &json!(version))
        );
        let (seen, written) = seen_and_written(&translated);
        assert!(
            written.iter().any(|action| action.starts_with(put)),
            "{written:?}"
        );
        assert!(
            !written.iter().any(|action| action.starts_with(other)),
            "{written:?}"
        );
        assert!(
            seen.contains(arrive) && seen.contains("You arrive at loc ") == (version == "2.1.1"),
            "{seen}"
        );

        let own = play(version, &[]).json();
        assert_eq!(
            own["turns"], translated["turns"],
            "as if it were a game of that version"
        );
        assert!(
            own["protocol"].get("translated_to").is_none(),
            "{}",
            own["protocol"]
        );
    }
    let shown = hearth(
        folder.path(),
        &[
            "eval",
            "--policy",
            "expert",
            "--suite",
            "2.1.3",
            "--translate-commands=2.1.1",
            "--out",
            "out",
        ],
    );
    let line = "no admissible list, translated to text 2.1.1, greedy";
    assert!(shown.stdout.contains(line), "{}", shown.stdout);
    let as_written = hearth(
        folder.path(),
        &[
            "eval", "--policy", "expert", "--suite", "2.1.3", "--out", "out",
        ],
    );
    assert!(
        as_written
            .stderr
            .contains("holds episodes of policy expert under another protocol"),
        "{}",
        as_written.stderr
    );
}

#[test]
fn a_model_of_another_text_version_gives_a_warning_and_can_be_translated() {
    let folder = with_both_texts();
    save_model_of(&folder.path().join("model"), &[TextVersion::V2_1_3]);
    let warning = |games: &str| {
        format!(
            "warning: model was trained on games of text 2.1.3, and {games} games are of text 2.1.1 (`put X in/on Y` instead of \
             `move X to Y`)\nhint: --translate-commands\n"
        )
    };
    let run = |command: &[&str], more: &[&str]| {
        let fixed = ["--policy", "model", "--turns", "2", "--json", "--suite"];
        hearth(folder.path(), &[command, &fixed[..], more].concat())
    };
    let play = |more: &[&str]| run(&["play"], more);
    let other = play(&["2.1.1"]);
    assert_eq!(other.stderr, warning("1 of 1"));
    assert_eq!(
        other.json()["turns"].as_array().unwrap().len(),
        2,
        "a warning stops nothing"
    );
    assert_eq!(play(&["2.1.3"]).stderr, "", "its own text version");
    let translated = play(&["2.1.1", "--translate-commands"]);
    assert_eq!(translated.stderr, "");
    assert_eq!(
        translated.json()["protocol"]["translated_to"],
        json!("2.1.3"),
        "the version that the model was trained on"
    );

    let collect = run(
        &["collect", "--repetitions", "1", "--out", "store.jsonl"],
        &["2.1.1"],
    );
    // The model babbles, which a note says.
    let begins = |text: &str, expected: String| {
        let note = text.strip_prefix(&expected).expect("begins so");
        assert!(note.is_empty() || note.starts_with("note: "), "{note}");
    };
    begins(&collect.stderr, warning("2 of 2") + "collect\n");
    let eval = run(&["eval", "--out", "out"], &["2.1.1"]);
    begins(&eval.stderr, warning("3 of 3") + "evaluate, K = 1\n");
    let eval = run(
        &["eval", "--out", "out2"],
        &["2.1.1", "--translate-commands"],
    );
    begins(&eval.stderr, "evaluate, K = 1\n".into());
    assert_eq!(eval.json()["protocols"][0]["translated_to"], json!("2.1.3"));

    fs::remove_dir_all(folder.path().join("2.1.3/valid_unseen")).unwrap();
    fs::rename(
        folder.path().join("2.1.1/valid_unseen"),
        folder.path().join("2.1.3/valid_unseen"),
    )
    .unwrap();
    fs::remove_file(folder.path().join("2.1.3/suite.jsonl")).unwrap();
    let mixed = run(&["eval", "--out", "out3"], &["2.1.3"]);
    begins(&mixed.stderr, warning("2 of 3") + "evaluate, K = 1\n");
}

#[test]
fn a_translation_without_a_version_is_wrong_use() {
    let folder = with_both_texts();
    save_model(&folder.path().join("silent"));
    save_model_of(&folder.path().join("bilingual"), &TextVersion::ALL);
    let hint =
        "\nhint: name the version: --translate-commands=2.1.1 or --translate-commands=2.1.3\n";
    for (policy, why) in [
        ("expert", "expert reads both text versions"),
        (
            "silent",
            "silent does not record which text version it was trained on",
        ),
        ("bilingual", "bilingual was trained on both text versions"),
    ] {
        let run = |command: &[&str]| {
            let fixed = [
                "--policy",
                policy,
                "--suite",
                "2.1.1",
                "--translate-commands",
            ];
            hearth(folder.path(), &[command, &fixed[..]].concat())
        };
        let refusal = format!("error: --translate-commands: {why}{hint}");
        run(&["play"]).refused(2, &refusal);
        run(&["eval", "--out", "out"]).refused(2, &refusal);
        run(&["collect", "--out", "store.jsonl"]).refused(2, &refusal);
        let asked = hearth(
            folder.path(),
            &[
                "play",
                "--policy",
                policy,
                "--suite",
                "2.1.1",
                "--turns",
                "1",
                "--translate-commands=2.1.3",
                "--json",
            ],
        );
        assert_eq!(asked.stderr, "");
        assert_eq!(asked.json()["protocol"]["translated_to"], json!("2.1.3"));
        let unasked = hearth(
            folder.path(),
            &[
                "play", "--policy", policy, "--suite", "2.1.1", "--turns", "1",
            ],
        );
        assert_eq!(
            (unasked.code, unasked.stderr.as_str()),
            (0, ""),
            "nothing is known, so there is no warning"
        );
    }
    hearth(
        folder.path(),
        &["play", "--suite", "2.1.1", "--translate-commands"],
    )
    .refused(
        2,
        &format!("error: --translate-commands: person reads both text versions{hint}"),
    );
    let unknown = hearth(folder.path(), &["play", "--translate-commands=2.1.2"]);
    assert_eq!(unknown.code, 2);
    assert!(
        unknown
            .stderr
            .contains("unknown text version \"2.1.2\"; known: 2.1.1, 2.1.3"),
        "{}",
        unknown.stderr
    );
    assert!(
        !folder.path().join("out").exists() && !folder.path().join("store.jsonl").exists(),
        "nothing was begun"
    );
}
