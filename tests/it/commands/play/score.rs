//! `hearth score`: process scores of failed episodes.

use crate::binary::{folder, hearth, with_games};
use crate::commands::models::{corridor, walker};
use scenarios::store::Store;
use scenarios::{Outcome, Trajectory, Turn};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::fs;

/// The walker often wastes its turn. In short corridors it may reach the end within ten turns; one
/// corridor is too long.
#[test]
fn failed_episodes_are_scored_by_how_far_they_could_be_won() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("corridors/train")).unwrap();
    for rooms in [1, 3, 20] {
        fs::write(
            folder
                .path()
                .join(format!("corridors/train/{rooms}.tw-pddl")),
            corridor(rooms),
        )
        .unwrap();
    }
    walker().save(&folder.path().join("model")).unwrap();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    let with_model = |command: &[&str], more: &[&str]| {
        run(&[
            command,
            &["--policy", "model", "--suite", "corridors", "--json"],
            more,
        ]
        .concat())
    };
    let collect = [
        "--repetitions",
        "5",
        "--turns",
        "10",
        "--completion",
        "4",
        "--out",
        "played.jsonl",
    ];
    let collected = with_model(&["collect"], &collect).json();
    let played = Store::read(folder.path().join("played.jsonl")).unwrap();
    let by_identity = |mut all: Vec<Trajectory>| {
        all.sort_by(|a, b| (&a.game, a.seed).cmp(&(&b.game, b.seed)));
        all
    };

    let mut rooms: HashMap<(&str, String), u64> = HashMap::new();
    for turn in played
        .iter()
        .flat_map(|t| t.turns.iter().map(move |turn| (t.game.as_str(), turn)))
    {
        let (
            game,
            Turn {
                observation, state, ..
            },
        ) = turn;
        if let Some((room, _)) = observation
            .strip_prefix("You are in ")
            .and_then(|rest| rest.split_once('.'))
        {
            assert_eq!(
                *rooms.entry((game, room.into())).or_insert(state.unwrap()),
                state.unwrap(),
                "{room}"
            );
        }
    }
    let states: BTreeSet<u64> = rooms.values().copied().collect();
    assert!(states.len() == rooms.len() && states.len() > 5, "{rooms:?}");
    let line = fs::read_to_string(folder.path().join("played.jsonl")).unwrap();
    assert!(line.contains(&format!(
        "\"state\":\"{:016x}\"",
        played[0].turns[0].state.unwrap()
    )));

    let score = |store: &str, more: &[&str]| {
        with_model(
            &["score", store],
            &[&["--completions", "4", "--out", "scored.jsonl"], more].concat(),
        )
    };
    let counts = score("played.jsonl", &[]).json();
    let scored = Store::read(folder.path().join("scored.jsonl")).unwrap();
    let failures = scored.iter().filter(|t| t.reward == 0.0).count();
    assert_eq!(
        (&counts["episodes"], &counts["successes"]),
        (&json!(15), &collected["successes"])
    );
    assert_eq!(
        (&counts["scored"], &counts["lost"], &counts["unscored"]),
        (&json!(failures), &json!(0), &json!(0))
    );
    let winnable = counts["winnable"].as_u64().unwrap() as usize;
    assert!(
        0 < winnable && winnable < failures && failures < 15,
        "{counts}"
    );
    for t in &scored {
        let scores: Vec<Option<f64>> = t.turns.iter().map(|turn| turn.process_score).collect();
        let longest = scores.iter().filter(|score| **score > Some(0.0)).count();
        let share = |turn: usize| if turn < longest { 0.1 } else { 0.0 };
        match t.outcome {
            Outcome::Success => assert!(scores.iter().all(Option::is_none)),
            _ => assert_eq!(
                scores,
                (0..10).map(|turn| Some(share(turn))).collect::<Vec<_>>(),
                "{}",
                t.game
            ),
        }
        assert!(
            longest < 10 && (longest == 0 || t.game != "train/20.tw-pddl"),
            "{longest} in {}",
            t.game
        );
    }
    let unscored = |t: &Trajectory| {
        let turns = t
            .turns
            .iter()
            .map(|turn| Turn {
                process_score: None,
                ..turn.clone()
            })
            .collect();
        Trajectory { turns, ..t.clone() }
    };
    let seconds = |t: &Trajectory| Trajectory {
        seconds: 0.0,
        ..unscored(t)
    };
    let all = |of: &[Trajectory]| by_identity(of.iter().map(seconds).collect());
    assert_eq!(all(&scored), all(&played), "nothing else changes");

    let whole = fs::read(folder.path().join("scored.jsonl")).unwrap();
    let again = score("played.jsonl", &[]).json();
    assert_eq!(
        (&again["winnable"], &again["completions"]),
        (&counts["winnable"], &json!(0)),
        "nothing is scored twice"
    );
    assert_eq!(fs::read(folder.path().join("scored.jsonl")).unwrap(), whole);
    fs::write(
        folder.path().join("scored.jsonl"),
        &whole[..whole.len() / 2],
    )
    .unwrap();
    let rest = score("played.jsonl", &[]).json();
    assert!(
        rest["completions"].as_u64() > Some(0)
            && rest["completions"].as_u64() < counts["completions"].as_u64()
    );
    let resumed = Store::read(folder.path().join("scored.jsonl")).unwrap();
    let scores = |of: Vec<Trajectory>| {
        by_identity(of)
            .iter()
            .flat_map(|t| t.turns.iter().map(|turn| turn.process_score))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        scores(resumed),
        scores(scored),
        "an interrupted run ends in the same scores"
    );

    let hint = "hint: choose another --out, or remove it\n";
    score("played.jsonl", &["--seed", "2"]).refused(
        2,
        &format!(
            "error: scored.jsonl: contains scores by another policy, or with other settings\n{hint}"
        ),
    );
    with_model(
        &["collect"],
        &[&collect[..7], &["other.jsonl", "--seed", "9"]].concat(),
    )
    .done();
    score("other.jsonl", &[]).refused(
        2,
        &format!("error: scored.jsonl: contains 15 episodes of another store\n{hint}"),
    );
    with_model(&["score", "played.jsonl"], &["--out", "other.jsonl"]).refused(
        2,
        &format!(
            "error: other.jsonl: contains episodes, and no record of how they were scored\n{hint}"
        ),
    );
    let (_elsewhere, suite) = with_games();
    let elsewhere = suite.root.to_str().unwrap();
    let foreign = run(&[
        "score",
        "played.jsonl",
        "--policy",
        "model",
        "--suite",
        elsewhere,
        "--out",
        "new.jsonl",
    ]);
    let text = format!(
        "error: {failures} failed episodes are of games that {elsewhere} does not contain; the first: train/"
    );
    assert!(
        foreign.code == 2 && foreign.stderr.starts_with(&text),
        "{}",
        foreign.stderr
    );
    run(&["score", "played.jsonl", "--policy", "expert", "--suite", "corridors", "--out", "new.jsonl"]).refused(
        2,
        "error: --policy expert: not a model folder\nhint: a model folder contains config.json, tokenizer.json and model.safetensors\n",
    );
    assert!(
        !folder.path().join("new.jsonl").exists(),
        "nothing was begun"
    );
}
