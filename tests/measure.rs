//! What is measured, compared and audited, from end to end.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod tiny;

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn hearth(folder: &Path, arguments: &str) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .env("COLUMNS", "110")
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Ran {
    #[track_caller]
    fn json(self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    #[track_caller]
    fn refused(self, text: &str) {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (2, ""),
            "{}",
            self.stderr
        );
        assert!(self.stderr.contains(text), "{}", self.stderr);
    }
}

/// `games`, a suite of six games of train, three of valid_seen and two of valid_unseen.
fn with_games() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny::suite(&folder.path().join("games"));
    folder
}

#[test]
fn a_card_sets_the_protocol_and_refuses_what_contradicts_it() {
    let folder = with_games();
    let eval = |more: &str| {
        hearth(
            folder.path(),
            &format!("eval --policy expert --suite games --out {more}"),
        )
    };
    let measured = eval("out --card oreo --json").json();
    let card = &measured["cards"][0];
    assert_eq!(
        (&card["nearest"], &card["differences"]),
        (&json!("oreo"), &json!([]))
    );
    assert_eq!(
        (&card["games"], &card["seeds"], &card["repetitions"]),
        (&json!(5), &json!([1]), &json!(1))
    );
    assert_eq!(card["checkpoint"], json!("the expert learns nothing"));
    let beside: Value =
        serde_json::from_slice(&fs::read(folder.path().join("out/eval-card.json")).unwrap())
            .unwrap();
    assert_eq!(
        &beside["cards"][0], card,
        "the card stands beside eval.csv too"
    );
    assert_eq!(measured["audit"]["findings"], json!([]));

    let own = eval("own --turns 20 --json").json();
    assert_eq!(
        own["cards"][0]["differences"],
        json!(["turn_limit is 20, not 40"])
    );
    let table = eval("own --turns 20").stdout;
    assert!(
        table.contains("success = won; nearest to card oreo: turn_limit is 20, not 40\n"),
        "{table}"
    );

    eval("no --card oreo --turns 20")
        .refused("error: --card oreo: turn_limit is 20, not 40\nhint: leave out either");
    eval("no --card oreo --show-admissible").refused("the admissible list is shown, not hidden");
    eval("no --card verl --history full").refused("--card verl: history is full, not last_2\n");
    eval("no --card verl --best-of 1,2").refused("--card verl: best_of is 2, not 1\n");
    eval("no --card oreo --best-of 2 --search beam:2")
        .refused("--card oreo: search is done, not none\n");
    eval("no --card paper").refused("`paper` is neither oreo nor verl");
    eval("no --history last_0").refused("`last_0` is neither full nor last_N");
    eval("no --card verl")
        .refused("error: expert sees the full history and cannot play with last_2 of it\n");
    eval("no --seeds 1,1").refused("--seeds: one of them stands there twice");
    eval("no --repetitions 0").refused("--repetitions 0: each game is played at least once");
}

/// Five games, twice with each of two seeds, in seven turns, which not every game can be won in.
#[test]
fn each_game_is_played_once_a_repetition_and_seed() {
    let folder = with_games();
    let eval = || {
        hearth(
            folder.path(),
            "eval --policy expert --suite games --turns 7 --repetitions 2 --seeds 1,2 --out out --json",
        )
    };
    let measured = eval().json();
    let all: Vec<&Value> = measured["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["task_type"].is_null())
        .collect();
    let counts: Vec<_> = all
        .iter()
        .map(|row| (row["n"].as_u64().unwrap(), row["games"].as_u64().unwrap()))
        .collect();
    assert_eq!(counts, [(12, 3), (8, 2)]);
    assert!(
        all.iter().all(|row| row["interval"] != json!("wilson")),
        "{all:?}"
    );
    assert_eq!(measured["seeds"], json!([1, 2]));
    assert_eq!(
        measured["cards"][0]["differences"][1],
        json!("repetitions is 4, not 1")
    );
    let text = |name: &str| fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    let games = text("eval-games.csv");
    assert_eq!(games.lines().count(), 6, "{games}");
    assert!(
        games
            .lines()
            .skip(1)
            .all(|line| line.split(',').nth(6) == Some("4")),
        "{games}"
    );
    let lost = all
        .iter()
        .map(|row| row["n"].as_u64().unwrap() - row["successes"].as_u64().unwrap())
        .sum::<u64>();
    let failures = measured["failures"].as_array().unwrap();
    let told = failures
        .iter()
        .filter(|row| row["task_type"].is_null())
        .map(|row| row["episodes"].as_u64().unwrap());
    assert_eq!(told.sum::<u64>(), lost);
    assert!(
        lost > 0 && text("eval-failures.csv").contains("turn_limit"),
        "some games are longer than seven turns"
    );

    let store = text("episodes-k1.jsonl");
    assert_eq!(store.lines().count(), 20);
    assert_eq!(eval().json()["rows"], measured["rows"]);
    assert_eq!(
        text("episodes-k1.jsonl"),
        store,
        "what stands there is not played again"
    );
    let table = hearth(
        folder.path(),
        "eval --policy expert --suite games --turns 7 --repetitions 2 --seeds 1,2 --out out",
    );
    assert!(
        table.stdout.contains("each game 4 times") && table.stdout.contains("over games"),
        "{}",
        table.stdout
    );
    assert!(
        table.stdout.contains("lost episodes of"),
        "{}",
        table.stdout
    );
}

#[test]
fn two_policies_are_compared_with_every_difference_named() {
    let folder = with_games();
    let run = |arguments: &str| hearth(folder.path(), arguments);
    run("eval --policy expert --suite games --out a --json").json();
    run("eval --policy expert --suite games --out b --turns 7 --json").json();
    run("eval --policy expert --suite games --split train --out train --json").json();

    let same = run("compare a a --json").json();
    assert_eq!(same["warnings"], json!([]));
    let row = &same["rows"][0];
    assert_eq!(
        (&row["games"], &row["difference"], &row["p_value"]),
        (&json!(3), &json!(0.0), &json!(1.0))
    );

    let compared = run("compare a b --json").json();
    assert_eq!(
        compared["warnings"],
        json!(["protocol.turn_limit: 40 against 7"])
    );
    let alone = |key: &str| -> u64 {
        let rows = compared["rows"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["task_type"].is_null());
        rows.map(|row| row[key].as_u64().unwrap()).sum()
    };
    assert!(
        alone("first_alone") > 0 && alone("second_alone") == 0,
        "fewer turns win no other game: {compared}"
    );
    let table = run("compare a@1 b");
    assert!(
        table.stdout.contains("A alone : B alone")
            && table.stdout.contains("\nA: a@1, policy expert\n"),
        "{}",
        table.stdout
    );
    assert_eq!(table.stderr, "warning: protocol.turn_limit: 40 against 7\n");

    run("compare a train").refused("a and train have no game in common");
    run("compare a@5 b")
        .refused("error: a@5: nothing there is meant?\nhint: there are :expert@1\n");
    for name in ["c", "d"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::copy(
            folder.path().join("a/eval.csv"),
            folder.path().join(name).join("eval.csv"),
        )
        .unwrap();
    }
    let added = run("compare c d --json").json();
    assert_eq!(
        (&added["rows"][0]["n"], &added["rows"][0]["successes"]),
        (&json!(6), &json!(6)),
        "tables alone: {added}"
    );
    run("compare c a").refused("error: c: no games are told of there\nhint: ");
    run("compare a nowhere:oreo").refused("error: nowhere: no such folder\n");

    fs::remove_file(folder.path().join("b/eval-card.json")).unwrap();
    let bare = run("compare a b --json").json();
    assert_eq!(bare["rows"], compared["rows"], "the store tells the games");
    let warning =
        "b has no eval-card.json: of its suite, seeds, code and checkpoint nothing is known";
    assert_eq!(
        bare["warnings"],
        json!([warning, "protocol.turn_limit: 40 against 7"])
    );
}

/// A loop on whole splits has nothing to be found; a test game among its demonstrations is found at once, by the loop's
/// folder and by that of an evaluation of its model.
#[test]
fn a_loop_is_clean_until_a_test_game_is_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &str| hearth(folder.path(), arguments);
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
        .refused("run:nobody: nothing there is meant?\nhint: there are :sft@1,");

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
            .starts_with("run: 3 found\n  error: 1 games of the test splits are among"),
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
    run("audit run/1").refused("run/1: neither an eval folder nor a run");
}
