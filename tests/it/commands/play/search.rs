//! `--search`: protocol, counts and files of a search.

use crate::binary::{folder, hearth};
use crate::commands::models::{corridor, walker};
use agent::model::folder::Model;
use scenarios::Trajectory;
use scenarios::store::Store;
use serde_json::json;
use std::fs;
use std::path::Path;

/// Three games of a split in the folder `corridors`.
fn write_corridors(folder: &Path, split: &str) {
    let games = folder.join("corridors").join(split);
    fs::create_dir_all(&games).unwrap();
    for rooms in [1, 2, 3] {
        fs::write(games.join(format!("{rooms}.tw-pddl")), corridor(rooms)).unwrap();
    }
}

/// The walker with a value network that returns 0 for every state.
fn walker_with_value() -> Model {
    let walker = walker();
    let value = Some(walker.policy.with_zero_value_head(&walker.config));
    Model { value, ..walker }
}

/// The episodes that a search on games of `train` returns are ordinary training data. If a job with
/// a value network reads them, a warning is printed.
#[test]
fn the_episodes_of_a_search_can_be_learned_from() {
    let folder = folder();
    write_corridors(folder.path(), "train");
    walker_with_value()
        .save(&folder.path().join("model"))
        .unwrap();
    let run = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        hearth(folder.path(), &arguments)
    };
    run(
        "eval --policy model --suite corridors --split train --turns 6 --completion 4 \
         --best-of 3 --search beam:2 --out out",
    )
    .done();
    let store = "out/episodes-beam2-k3.jsonl";
    let episodes = Store::read(folder.path().join(store)).unwrap();
    let won = episodes.iter().filter(|episode| episode.is_won()).count();
    assert!(won > 0 && episodes.len() == 3, "{won}");
    let job = |name: &str, algorithm: &str| {
        let text = format!(
            "name = \"{name}\"\nfrom = \"collector\"\ndata = [\"rollouts\"]\n\
             optimizer = {{ batch = 2, updates = 1 }}\nalgorithm = {{ kind = {algorithm} }}\n"
        );
        fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
        run(&format!(
            "train {name}.toml --data {store} --from model --out {name} --json"
        ))
    };
    let imitated = job("imitate", "\"rejection_sampling\", targets = \"actions\"");
    assert!(!imitated.stderr.contains("warning"), "{}", imitated.stderr);
    let imitated = imitated.json();
    assert_eq!(imitated["given"], json!(3));
    assert_eq!(imitated["read"]["successes"], json!(won), "{imitated}");
    let valued = job(
        "valued",
        "\"oreo\", level = \"turn\", beta = 0.1, alpha = 0.01, value_learning_rate = 5e-4, \
         critic_only_share = 0.15",
    );
    assert_eq!(valued.code, 0, "{}", valued.stderr);
    assert!(
        valued
            .stderr
            .contains("warning: 3 of 3 episodes are the result of a search"),
        "{}",
        valued.stderr
    );
}

/// If a flag has no effect with the scorer, or the expert cannot read the games, it is refused.
#[test]
fn the_settings_of_a_selection_are_checked() {
    let folder = folder();
    write_corridors(folder.path(), "valid_seen");
    walker_with_value()
        .save(&folder.path().join("model"))
        .unwrap();
    let eval = |out: &str, more: &str| {
        let all = format!(
            "eval --policy model --suite corridors --split valid_seen --turns 3 --completion 4 \
             --best-of 1,3 --out {out} --json {more}"
        );
        hearth(folder.path(), &all.split_whitespace().collect::<Vec<_>>())
    };
    eval("a", "--soft-value-beta 0.02").refused(
        2,
        "error: --soft-value-beta: only the scorer soft_value uses it\nhint: add --scorer soft_value\n",
    );
    let wrong = eval("a", "--scorer soft_value --soft-value-beta -1");
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    let unread = eval("a", "--scorer expert");
    assert_eq!(unread.code, 2, "{}", unread.stderr);
    assert!(
        unread.stderr.contains("the expert reads no household task")
            && unread.stderr.contains("hint: "),
        "{}",
        unread.stderr
    );
    let settings = "--scorer soft_value --soft-value-beta 0.02 --distinct-by command";
    let measured = eval("b", settings).json();
    let [single, selected] = [0, 1].map(|k| &measured["protocols"][k]);
    assert_eq!(
        (&selected["soft_value_beta"], &selected["distinct_by"]),
        (&json!(0.02), &json!("command"))
    );
    for key in ["scorer", "soft_value_beta", "distinct_by"] {
        assert_eq!(single.get(key), None, "one candidate is no choice");
    }
    let null = eval("c", "--scorer distinct").json();
    assert_eq!(null["protocols"][1]["scorer"], json!("distinct"));
    let clairvoyant = eval("d", "--scorer clairvoyant_oracle").json();
    assert_eq!(clairvoyant["protocols"][1]["scorer"], json!("oracle"));
}

/// A search has its own protocol and its own file. If an episode is already in the file, it is not
/// played again. The value network of the walker returns 0 for every state.
#[test]
fn a_search_is_a_protocol_of_its_own() {
    let folder = folder();
    write_corridors(folder.path(), "valid_seen");
    walker().save(&folder.path().join("blind")).unwrap();
    walker_with_value()
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
