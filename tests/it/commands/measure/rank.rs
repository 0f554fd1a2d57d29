//! `hearth rank`, and `hearth train --branches`, on branch states of the expert's episodes.

use crate::binary::{folder, has_keys, hearth_line, with_games};
use crate::tiny;
use scenarios::store::Store;
use scenarios::{BranchInfo, Candidate, Trajectory};
use std::fs;
use std::path::Path;

/// Writes a branch store. At every other turn of the expert, its own command has a higher return
/// than `look`.
fn write_branches(episodes: &Path, path: &Path) -> usize {
    let (mut store, _) = Store::open(path).unwrap();
    let mut states = 0;
    for episode in Store::read(episodes).unwrap() {
        for turn in (0..episode.turns.len()).step_by(2) {
            store.append(&state(&episode, turn)).unwrap();
            states += 1;
        }
    }
    states
}

fn state(episode: &Trajectory, turn: usize) -> Trajectory {
    let mut state = episode.clone();
    state.turns.truncate(turn + 1);
    let last = state.turns.last_mut().unwrap();
    let texts = [
        ("look", vec![0.0, 0.5]),
        (last.completion.as_str(), vec![0.75, 1.0]),
    ];
    last.candidates = texts
        .into_iter()
        .map(|(text, returns)| Candidate {
            completion: text.into(),
            score: 0.0,
            count: 1,
            logprob: None,
            log_ratio: None,
            after_value: None,
            tokens: Vec::new(),
            returns,
        })
        .collect();
    state.branch = Some(BranchInfo {
        source: "won.jsonl".into(),
        turn,
        policy: episode.policy.clone(),
        discount: 1.0,
    });
    state
}

const JOB: &str = r#"
name = "ranked"
from = "collector"
data = ["rollouts", "branches"]
optimizer = { batch = 4, updates = 3, learning_rate = 1e-3 }
algorithm = { kind = "oreo", level = "turn", beta = 0.1, alpha = 0.01, value_learning_rate = 1e-2, critic_only_share = 0.5 }

[critic]
ranking = "listwise"
policy_branch_coef = 0.5
branch_batch = 4
"#;

#[test]
fn branch_states_are_learned_from_and_ranked() {
    let (folder, _) = with_games();
    let run = |line: &str| hearth_line(folder.path(), line);
    run("collect --policy expert --suite games --games 3 --repetitions 1 --out won.jsonl").done();
    let states = write_branches(
        &folder.path().join("won.jsonl"),
        &folder.path().join("branches.jsonl"),
    );
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("trainer/recipes/jobs");
    let sft = fs::read_to_string(recipes.join("sft.toml")).unwrap();
    for (name, text) in [
        ("tiny.toml", tiny::RECIPE),
        ("sft.toml", &sft.replace("updates = 1000", "updates = 2")),
        ("job.toml", JOB),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    run("train sft.toml --data won.jsonl --model tiny.toml --out sft").done();

    let train = "train job.toml --data won.jsonl --from sft --out ranked --json";
    run(train).refused_with("--branches FILE is missing: the job reads branch states");
    run("train sft.toml --data won.jsonl --branches branches.jsonl --model tiny.toml --out no")
        .refused_with("--branches: the job reads no branch states");
    let trained = run(&format!("{train} --branches branches.jsonl")).json();
    let read = trained["read"]["ranking"]["states"].as_u64().unwrap();
    let too_long = trained["read"]["ranking"]["too_long"].as_u64().unwrap();
    assert!(read > 0 && read + too_long == states as u64, "{trained}");
    let metrics = fs::read_to_string(folder.path().join("ranked/metrics.csv")).unwrap();
    assert!(
        metrics
            .lines()
            .next()
            .unwrap()
            .ends_with("loss/ranking,loss/policy_branch")
    );

    let rank = "rank --policy ranked --branches branches.jsonl --out table.csv";
    let with_reference = "--reference sft --plot rank.svg --lambda 0,0.5";
    let measured = run(&format!("{rank} --json {with_reference}")).json();
    has_keys(&measured, &["policy_hash", "value_hash", "single"]);
    assert_eq!(measured["states"].as_u64(), Some(read));
    assert_eq!(measured["too_long"].as_u64(), Some(too_long));
    let rows = measured["rows"].as_array().unwrap();
    let of = |scorer: &str| {
        rows.iter()
            .find(|row| row["scorer"] == scorer && row["turns"] == "all")
            .unwrap_or_else(|| panic!("{scorer} is not in {measured}"))
    };
    assert_eq!(of("uniform")["pair_accuracy"], 0.5);
    assert_eq!(of("uniform")["regret"], 0.3125, "half of .875 − .25");
    for scorer in ["expert", "split_halves"] {
        assert_eq!(of(scorer)["pair_accuracy"], 1.0, "{scorer}");
        assert_eq!(of(scorer)["regret"], 0.0, "{scorer}");
    }
    assert_eq!(of("soft_value")["lambda"], 0.5);
    for scorer in ["log_ratio", "after_value", "logprob"] {
        assert_eq!(of(scorer)["pairs"].as_u64(), Some(read), "{scorer}");
    }
    assert_eq!(of("expert")["clear_pairs"].as_u64(), Some(read));
    let gaps = measured["by_gap"].as_array().unwrap();
    let in_gaps = gaps.iter().filter(|row| row["scorer"] == "log_ratio");
    let counted: u64 = in_gaps.map(|row| row["pairs"].as_u64().unwrap()).sum();
    assert_eq!(counted, read, "{measured}");
    let plot = fs::read_to_string(folder.path().join("rank.svg")).unwrap();
    assert!(plot.contains("log_ratio") && plot.contains("soft_value, λ = 0.5"));
    assert!(of("after_value")["pairs"].as_u64() == Some(read));
    let areas = measured["discrimination"].as_array().unwrap();
    assert_eq!((areas.len(), &areas[0]["reading"]), (2, &"V".into()));
    let table = fs::read_to_string(folder.path().join("table.csv")).unwrap();
    assert_eq!(table.lines().count(), rows.len() + 1);

    let text = run(rank).done();
    assert!(
        text.contains("pair accuracy %")
            && text.contains("AUC given the turn")
            && !text.contains("log_ratio"),
        "{text}"
    );
    let without = run("rank --policy sft --branches branches.jsonl");
    assert!(
        without.stderr.contains("has no value network"),
        "{}",
        without.stderr
    );
    assert!(!without.done().contains("after_value"));
    run("rank --policy ranked --branches won.jsonl")
        .refused_with("is an episode, not a branch\nhint: `hearth branch` writes branches");
}

#[test]
fn wrong_use_of_rank_is_refused() {
    let folder = folder();
    let run = |line: &str| hearth_line(folder.path(), line);
    run("rank --policy expert --branches a.jsonl")
        .refused_with("--policy expert: not a model folder");
    run("rank --policy none --branches a.jsonl").refused_with("--policy none: not a model folder");
    for lambda in ["-1", "nan", "x"] {
        run(&format!("rank --policy a --branches b --lambda={lambda}"))
            .refused_with("not a number of 0 or more");
    }
}
