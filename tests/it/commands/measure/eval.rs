//! `hearth eval`: the table, its card and its stores.

use crate::binary::{has_keys, hearth, hearth_line, with_games};
use serde_json::{Value, json};
use std::fs;

#[test]
fn the_expert_is_measured_in_one_json_object() {
    let (folder, suite) = with_games();
    let eval = || {
        hearth(
            folder.path(),
            &[
                "eval", "--policy", "expert", "--suite", "games", "--out", "out", "--json",
            ],
        )
        .json()
    };
    let measured = eval();
    has_keys(
        &measured,
        &[
            "rows",
            "seconds",
            "run",
            "protocols",
            "suite",
            "policy_hash",
            "seed",
        ],
    );
    assert_eq!(
        (&measured["run"], &measured["suite"]),
        (&json!("out"), &json!(suite.hash()))
    );
    let rows = measured["rows"].as_array().unwrap();
    for row in rows {
        has_keys(
            row,
            &[
                "policy",
                "split",
                "task_type",
                "k",
                "n",
                "successes",
                "success_rate",
                "low",
                "high",
                "mean_turns",
            ],
        );
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!((number("success_rate") - number("successes") / number("n")).abs() < 1e-12);
        assert!(
            number("low") <= number("success_rate") && number("success_rate") <= number("high")
        );
    }
    let totals: Vec<(&Value, &Value)> = rows
        .iter()
        .filter(|row| row["task_type"].is_null())
        .map(|row| (&row["split"], &row["n"]))
        .collect();
    assert_eq!(
        totals,
        [
            (&json!("valid_seen"), &json!(3)),
            (&json!("valid_unseen"), &json!(2))
        ]
    );
    assert!(
        rows.iter().any(|row| row["successes"].as_f64() > Some(0.0)),
        "the expert wins now and then"
    );

    let store = fs::read(folder.path().join("out/episodes-k1.jsonl")).unwrap();
    assert_eq!(
        eval()["rows"],
        measured["rows"],
        "a second call reads the episodes"
    );
    assert_eq!(
        fs::read(folder.path().join("out/episodes-k1.jsonl")).unwrap(),
        store
    );
    let other = hearth(
        folder.path(),
        &[
            "eval", "--policy", "expert", "--suite", "games", "--out", "out", "--turns", "9",
        ],
    );
    assert_eq!(other.code, 2, "another protocol into the same folder");
    assert!(
        other
            .stderr
            .contains("holds episodes of policy expert under another protocol"),
        "{}",
        other.stderr
    );
    let table = hearth(
        folder.path(),
        &[
            "eval", "--policy", "expert", "--suite", "games", "--out", "out",
        ],
    )
    .done();
    assert!(
        table.contains("K = 1: each game once, 40 turns, full history, no admissible list, greedy"),
        "{table}"
    );
}

#[test]
fn a_card_sets_the_protocol_and_refuses_what_contradicts_it() {
    let (folder, _) = with_games();
    let eval = |more: &str| {
        hearth_line(
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
        "the card is written beside eval.csv too"
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

    eval("no --card oreo --turns 20").refused_with(
        "error: --card oreo: turn_limit is 20, not 40\nhint: omit the flags or --card",
    );
    eval("no --card oreo --show-admissible")
        .refused_with("the admissible list is shown, not hidden");
    eval("no --card verl --history full")
        .refused_with("--card verl: history is full, not last_2\n");
    // The expert allows K = 1 only, so these name a model. They are refused before it is opened.
    for (more, difference) in [
        (
            "--card verl --best-of 1,2",
            "--card verl: best_of is 2, not 1\n",
        ),
        (
            "--card oreo --best-of 2 --search beam:2",
            "--card oreo: search is done, not none\n",
        ),
    ] {
        let eval = "eval --policy model --suite games --out no";
        hearth_line(folder.path(), &format!("{eval} {more}")).refused_with(difference);
    }
    eval("no --card paper").refused_with("`paper` is neither oreo nor verl");
    eval("no --history last_0").refused_with("`last_0` is neither full nor last_N");
    eval("no --card verl")
        .refused_with("error: expert sees the full history and cannot play with last_2 of it\n");
    eval("no --seeds 1,1").refused_with("--seeds: one of the values is given twice");
    eval("no --repetitions 0").refused_with("--repetitions 0: each game is played at least once");
}

/// Five games, twice with each of two seeds, with a limit of seven turns. Some games need more
/// turns.
#[test]
fn each_game_is_played_once_a_repetition_and_seed() {
    let (folder, _) = with_games();
    let eval = || {
        hearth_line(
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
        "existing episodes are not played again"
    );
    let table = hearth_line(
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
