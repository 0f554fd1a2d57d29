//! `hearth train`: every algorithm learns from its own recipe.

use crate::binary::{expert_plays, hearth, with_games};
use crate::tiny;
use std::fs;
use std::path::Path;

/// Every algorithm trains from its own recipe, on episodes of generated games that were won, or cut
/// short and lost. If an algorithm needs the log-probabilities of sampled tokens, it refuses the
/// episodes of the expert.
#[test]
fn every_algorithm_learns_from_its_recipe() {
    let (folder, _) = with_games();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    fs::write(folder.path().join("tiny.toml"), tiny::RECIPE).unwrap();
    let collect = |turns: &str, out: &str| {
        run(&expert_plays(
            out,
            &["--repetitions", "3", "--turns", turns],
        ))
        .done();
    };
    collect("30", "won.jsonl");
    collect("2", "lost.jsonl");
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("trainer/recipes/jobs");
    let train = |name: &str, more: &[&str]| {
        let recipe = recipes.join(format!("{name}.toml"));
        let data = ["--data", "won.jsonl", "lost.jsonl", "--out", name, "--json"];
        run(&[&["train", recipe.to_str().unwrap()], &data[..], more].concat())
    };
    let quick = fs::read_to_string(recipes.join("sft.toml"))
        .unwrap()
        .replace("updates = 1000", "updates = 2");
    fs::write(folder.path().join("sft.toml"), quick).unwrap();
    let sft = [
        "train",
        "sft.toml",
        "--data",
        "won.jsonl",
        "--model",
        "tiny.toml",
        "--out",
        "sft",
        "--json",
    ];
    let start = run(&sft).json()["policy_hash"].clone();
    for name in [
        "rejection-sampling",
        "oreo-turn",
        "oreo-token",
        "oreo-response",
        "dqo",
        "dro",
        "dpo",
        "kto",
    ] {
        let trained = train(name, &["--from", "sft"]).json();
        assert_ne!(trained["policy_hash"], start, "{name}");
        let has_value = ["oreo", "dqo", "dro"]
            .iter()
            .any(|kind| name.starts_with(kind));
        assert_eq!(
            folder
                .path()
                .join(name)
                .join("value/model.safetensors")
                .exists(),
            has_value,
            "{name}"
        );
        assert!(
            folder
                .path()
                .join(name)
                .join("tensorboard/events.out.tfevents.hearth")
                .exists()
        );
    }
    for name in ["grpo", "gigpo"] {
        let refused = train(name, &["--from", "sft"]);
        let why = "without the log-probabilities that they were sampled with)";
        assert!(
            refused.code == 1 && refused.stderr.contains(why),
            "{name}: {}",
            refused.stderr
        );
    }
}
