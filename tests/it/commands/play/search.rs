//! `--search`: protocol, counts and files of a search.

use crate::binary::{folder, hearth};
use crate::commands::models::{corridor, walker};
use agent::model::folder::Model;
use scenarios::Trajectory;
use scenarios::store::Store;
use serde_json::json;
use std::fs;

/// A search has its own protocol and its own file. If an episode is already in the file, it is not
/// played again. The value network of the walker returns 0 for every state.
#[test]
fn a_search_is_a_protocol_of_its_own() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("corridors/valid_seen")).unwrap();
    for rooms in [1, 2, 3] {
        fs::write(
            folder
                .path()
                .join(format!("corridors/valid_seen/{rooms}.tw-pddl")),
            corridor(rooms),
        )
        .unwrap();
    }
    let walker = walker();
    walker.save(&folder.path().join("blind")).unwrap();
    let value = Some(walker.policy.with_zero_value_head(&walker.config));
    Model { value, ..walker }
        .save(&folder.path().join("model"))
        .unwrap();
    let played = [
        "--suite",
        "corridors",
        "--turns",
        "6",
        "--completion",
        "4",
        "--best-of",
        "3",
    ];
    let eval = |policy: &str, search: &str| {
        let more = [
            "--split",
            "valid_seen",
            "--out",
            "out",
            "--json",
            "--policy",
            policy,
            "--search",
            search,
        ];
        hearth(folder.path(), &[&["eval"], &played[..], &more].concat())
    };

    eval("blind", "beam:2").refused(
        2,
        "error: --search beam:2: blind has no value network to guide the search\nhint: use a model folder that contains value/\n",
    );
    eval("model", "best-first:2").refused(
        2,
        "error: --search best-first:2: fewer completions than the 3 of --best-of, which each state gets\n",
    );
    hearth(folder.path(), &["play", "--policy", "expert", "--search", "beam:2"]).refused(
        2,
        "error: --search beam:2: expert has no value network to guide the search\nhint: use a model folder that contains value/\n",
    );

    let measured = eval("model", "best-first:30").json();
    assert_eq!(
        measured["protocols"][0]["search"],
        json!({"kind": "best_first", "budget": 30})
    );
    let row = &measured["rows"][0];
    assert_eq!(
        (&row["search"], &row["k"], &row["n"]),
        (&json!("best-first:30"), &json!(3), &json!(3))
    );
    let store = folder.path().join("out/episodes-best-first30-k3.jsonl");
    let (episodes, text) = (Store::read(&store).unwrap(), fs::read(&store).unwrap());
    let mean = |part: fn(&Trajectory) -> usize| {
        json!(episodes.iter().map(part).sum::<usize>() as f64 / 3.0)
    };
    assert_eq!(row["mean_completions"], mean(|t| t.spent.completions));
    assert_eq!(row["mean_tokens"], mean(|t| t.spent.tokens));
    assert_eq!(row["mean_commands"], mean(|t| t.spent.commands));
    assert!(
        episodes
            .iter()
            .all(|t| (3..=30).contains(&t.spent.completions) && t.spent.tokens > 0),
        "{episodes:?}"
    );
    assert!(
        row["successes"].as_u64() > Some(0),
        "one step east is soon found: {row}"
    );
    assert_eq!(
        eval("model", "best-first:30").json()["rows"],
        measured["rows"]
    );
    assert_eq!(fs::read(&store).unwrap(), text);
    eval("model", "beam:2").json();
    assert!(folder.path().join("out/episodes-beam2-k3.jsonl").exists());

    let play = [
        "play",
        "--policy",
        "model",
        "--split",
        "valid_seen",
        "--temperature",
        "1",
        "--search",
        "beam:2",
    ];
    let alone = hearth(folder.path(), &[&play, &played[..], &["--json"]].concat()).json();
    assert_eq!(
        alone["protocol"]["search"],
        json!({"kind": "beam", "width": 2})
    );
}
