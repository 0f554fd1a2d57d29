//! `hearth loop`, and each of its stages by hand.

use crate::binary::{expert_plays, folder, has_keys, hearth, with_games};
use crate::tiny;
use serde_json::{Value, json};
use std::fs;

fn sweep_row(row: &Value) -> (&str, u64) {
    (row["scorer"].as_str().unwrap(), row["k"].as_u64().unwrap())
}

/// If the checkpoint of `[model]` changes, the jobs that start from it run again.
#[test]
fn a_loop_starts_from_a_checkpoint() {
    let (folder, _) = with_games();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("tiny.toml", tiny::RECIPE);
    write(
        "sft.toml",
        "name = \"start\"\nfrom = \"fresh\"\ndata = [\"demonstrations\"]\n\
         optimizer = { batch = 2, updates = 2, learning_rate = 1e-3 }\n\
         algorithm = { kind = \"sft\", targets = \"actions\" }\n",
    );
    run(&expert_plays("won.jsonl", &["--repetitions", "1"])).done();
    let start = |seed: &str, out: &str| {
        let job = ["train", "sft.toml", "--data", "won.jsonl", "--model"];
        let rest = ["tiny.toml", "--seed", seed, "--out", out];
        run(&[&job[..], &rest[..]].concat()).done();
        folder.path().join(out)
    };
    let first = start("1", "start");
    let shape = tiny::RECIPE.split("[model]").nth(1).unwrap();
    let shape = shape.split("[protocol]").next().unwrap();
    let recipe = |context: &str| {
        tiny::RECIPE
            .replace("iterations = 2", "iterations = 1")
            .replace(
                shape,
                &format!("\ncheckpoint = \"start\"\ncontext = {context}\n\n"),
            )
    };
    write("long.toml", &recipe("401"));
    write(
        "nowhere.toml",
        &recipe("300").replace("\"start\"", "\"nowhere\""),
    );
    for (file, reason) in [
        ("long", "its context has 400 tokens"),
        ("nowhere", "nowhere"),
    ] {
        let refused = run(&["loop", &format!("{file}.toml"), "--out", file]);
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
        assert!(
            !folder.path().join(file).exists(),
            "refused before any stage"
        );
    }
    write("loop.toml", &recipe("300"));
    run(&["loop", "loop.toml", "--out", "run"]).done();
    let trained = folder.path().join("run/1/sft");
    for file in ["config.json", "tokenizer.json"] {
        let same = fs::read(first.join(file)).unwrap() == fs::read(trained.join(file)).unwrap();
        assert!(same, "{file}");
    }
    let weights = || fs::read(trained.join("model.safetensors")).unwrap();
    let before = weights();
    run(&["loop", "loop.toml", "--out", "run"]).done();
    assert!(weights() == before);
    fs::rename(start("2", "other"), folder.path().join("moved")).unwrap();
    fs::rename(first, folder.path().join("old")).unwrap();
    fs::rename(folder.path().join("moved"), folder.path().join("start")).unwrap();
    run(&["loop", "loop.toml", "--out", "run"]).done();
    assert!(weights() != before);
}

/// The loop, and each of its stages by hand with the models that it made.
#[test]
fn a_loop_and_its_stages_by_hand() {
    let folder = folder();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    fs::write(
        folder.path().join("tiny.toml"),
        tiny::RECIPE.replace("iterations = 2", "iterations = 1"),
    )
    .unwrap();
    let report = run(&["loop", "tiny.toml", "--json"]).json();
    has_keys(&report, &["rows", "seconds", "run", "suite", "protocols"]);
    assert_eq!(report["run"], json!("runs/tiny"));
    let table = run(&["loop", "tiny.toml"]).done();
    assert!(
        table.contains("oreo, best of 2 by value") && table.contains("valid_unseen (n = 2)"),
        "{table}"
    );
    let reseeded = run(&["loop", "tiny.toml", "--seed", "4", "--out", "runs/tiny"]);
    assert_eq!(reseeded.code, 2);
    assert!(
        reseeded
            .stderr
            .contains("recipe.toml: another recipe has run here"),
        "{}",
        reseeded.stderr
    );

    let pooled = run(&["compare", "runs/tiny", "runs/tiny", "--json"]).json();
    let rows = pooled["rows"].as_array().unwrap();
    assert_eq!(
        rows.len(),
        8,
        "three policies greedily and one by value, on two splits"
    );
    let (first, second) = (&rows[0], &rows[2]);
    assert_eq!(
        (&first["n"], &first["against"], &first["p_value"]),
        (&json!(4), &Value::Null, &Value::Null)
    );
    assert_eq!(
        (
            &second["against"],
            &second["runs"].as_array().unwrap().len()
        ),
        (&json!("sft"), &2)
    );
    assert!(
        second["p_value"]
            .as_f64()
            .is_some_and(|p| p > 0.0 && p <= 1.0),
        "{second}"
    );
    let table = run(&["compare", "runs/tiny"]).done();
    assert!(
        table.contains("alone : sft alone") && table.contains("rejection-sampling"),
        "{table}"
    );
    run(&["compare", "runs/tiny", "--plot", "plot.svg"]).done();
    let plot = fs::read_to_string(folder.path().join("plot.svg")).unwrap();
    assert!(plot.contains("oreo, best of 2") && plot.contains("valid_unseen (n = 2)"));
    run(&[
        "compare",
        "runs/tiny:sft",
        "runs/tiny:oreo@1",
        "--plot",
        "plot.svg",
    ])
    .refused(
        2,
        "error: --plot draws the pooled table of run folders, not two policies\n\
         hint: name the run folders of one recipe, or remove --plot\n",
    );
    run(&["compare", "nowhere"]).refused(
        2,
        "error: nowhere/eval.csv: No such file or directory (os error 2)\n",
    );

    let (games, oreo) = ("runs/tiny/games", "runs/tiny/1/oreo");
    let played = ["--suite", games, "--turns", "10", "--completion", "4"];
    let collect = [
        &[
            "collect",
            "--policy",
            oreo,
            "--games",
            "2",
            "--repetitions",
            "2",
            "--out",
            "store.jsonl",
            "--json",
        ],
        &played[..],
    ]
    .concat();
    let collected = run(&collect).json();
    assert_eq!(
        (&collected["episodes"], &collected["store"]),
        (&json!(4), &json!("store.jsonl"))
    );
    assert_eq!(
        run(&collect).json(),
        collected,
        "existing episodes are not played again"
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("store.jsonl"))
            .unwrap()
            .lines()
            .count(),
        4
    );

    let job = "name = \"more\"\nfrom = \"collector\"\ndata = [\"rollouts\"]\noptimizer = { batch = 2, updates = 1 }\nalgorithm = { kind = \"sft\", targets = \"actions\" }\n";
    fs::write(folder.path().join("more.toml"), job).unwrap();
    let train = [
        "train",
        "more.toml",
        "--data",
        "store.jsonl",
        "--out",
        "more",
    ];
    run(&train).refused(
        2,
        "error: --from MODEL is missing: the job does not have from = \"fresh\"\n",
    );
    let trained = run(&[&train[..], &["--from", oreo, "--json"]].concat()).json();
    assert_eq!(
        (&trained["given"], &trained["model"]),
        (&json!(4), &json!("more"))
    );
    let read = &trained["read"];
    assert_eq!(
        (
            &read["trajectories"],
            &read["held_out"],
            &read["left_out"]["too_long"]
        ),
        (&json!(4), &json!(0), &json!(0))
    );
    let notes = fs::read_to_string(folder.path().join("more/hearth.json")).unwrap();
    assert_eq!(
        notes, "{\"text_versions\":[\"2.1.3\"]}\n",
        "the start's, at least"
    );
    let metrics = fs::read_to_string(folder.path().join("more/metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count(), 2, "a header and a row an update");

    let eval = [
        &[
            "eval",
            "--policy",
            oreo,
            "--best-of",
            "1,2",
            "--split",
            "valid_unseen",
            "--out",
            "out",
            "--json",
        ],
        &played[..],
    ]
    .concat();
    let measured = run(&eval).json();
    let ks: Vec<&Value> = measured["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["k"])
        .collect();
    assert!(ks.contains(&&json!(1)) && ks.contains(&&json!(2)), "{ks:?}");
    assert_ne!(
        measured["policy_hash"], trained["policy_hash"],
        "the job made another policy"
    );
    let sweep = [
        "sweep",
        "--policy",
        oreo,
        "--reference",
        "runs/tiny/1/sft",
        "--split",
        "valid_unseen",
        "--games",
        "1",
    ];
    let sweep = [
        &sweep[..],
        &["--best-of", "2", "--beam", "--out", "sweep"],
        &played[..],
    ]
    .concat();
    let tables = run(&sweep).done();
    assert!(
        tables.contains("oracle") && tables.contains("calibration error"),
        "{tables}"
    );
    let report = run(&[&sweep[..], &["--json"]].concat()).json();
    let rows: Vec<(&str, u64)> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(sweep_row)
        .collect();
    let scorers = [
        "after_value",
        "soft_value",
        "log_ratio",
        "logprob",
        "random",
        "distinct",
        "oracle",
    ]
    .map(|scorer| (scorer, 2));
    let before = [("greedy", 1), ("sampled", 1), ("repeated", 2)];
    assert_eq!(rows, [&before[..], &scorers, &[("beam", 2)]].concat());
    let completions = |row: usize| report["rows"][row]["completions"].as_f64().unwrap();
    assert!(
        completions(2) > completions(1),
        "what was lost was played again"
    );
    let stores = fs::read_dir(folder.path().join("sweep"))
        .unwrap()
        .filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.extension().is_some_and(|e| e == "jsonl")
                && fs::read_to_string(path).unwrap().lines().count() == 1
        });
    assert_eq!(stores.count(), 11, "one episode each, played once");
    let table = fs::read_to_string(folder.path().join("sweep/sweep.csv")).unwrap();
    assert_eq!(table.lines().count(), 12);
    let scorers = ["sweep:soft_value@2", "sweep:greedy@1", "--json"];
    let compared = run(&[&["compare"], &scorers[..]].concat()).json();
    assert_eq!(compared["rows"][0]["games"], json!(1));
    run(&["compare", "sweep:soft_value@3", "sweep:greedy"])
        .refused_with("sweep:soft_value@3: no policy and K matches");
    run(&[
        "sweep", "--policy", "expert", "--suite", games, "--out", "sweep2",
    ])
    .refused(2, "error: --policy expert: a sweep needs a model folder\n");

    let again = run(&[
        &[
            "eval",
            "--policy",
            "more",
            "--split",
            "valid_unseen",
            "--out",
            "out2",
            "--episodes",
            "1",
            "--json",
        ],
        &played[..],
    ]
    .concat());
    assert_eq!(again.json()["policy_hash"], trained["policy_hash"]);
}
