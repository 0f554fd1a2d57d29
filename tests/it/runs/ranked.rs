//! A recipe whose training job learns the order of the actions of a state: branches, then OREO with ranking.

use super::pipeline::{go, recipe};
use crate::tiny::files;
use scenarios::store::Store;
use std::fs;
use std::path::Path;
use trainer::pipeline::recipe::Recipe;

/// The tiny recipe in one iteration, with a decoder of hearth's own family. OREO reads the branches and ranks their
/// candidates, and its policy's reading is tested.
fn ranked(branch_discount: &str) -> Recipe {
    recipe(|text| {
        let before =
            "name = \"oreo\"\nfrom = \"collector\"\ndata = [\"demonstrations\", \"rollouts\"]";
        let reads = "name = \"oreo\"\nfrom = \"collector\"\ndata = [\"rollouts\", \"branches\"]";
        let tables = format!(
            "[branch]\ncandidates = 3\nrollouts = 1\ndiscount = {branch_discount}\n\n[[train]]"
        );
        let critic = "[train.critic]\ninit = \"critic_if_any\"\nadvantage_head = true\nhead_only = 0.5\n\
                      ranking = \"listwise\"\nbranch_batch = 2\n\n[evaluate]";
        let reading = "numbers = \"digits\"\ngoal_match = true\nngram_embedding = [1]\n\
                       convolution = { width = 3, places = [\"attention_input\"] }";
        assert!(text.contains(before));
        text.replace(before, reads)
            .replacen("[[train]]", &tables, 1)
            // The policy must have learned to end a turn, so that its commands differ.
            .replace("completion = 4", "completion = 12")
            .replacen(
                "updates = 3, learning_rate = 2e-3",
                "updates = 60, learning_rate = 2e-2",
                1,
            )
            .replace("iterations = 2", "iterations = 1")
            .replace("best_of = [1, 2]", "best_of = [1]")
            .replace("valid_train = 2", "valid_train = 9")
            .replace("vocabulary = 600", &format!("vocabulary = 600\n{reading}"))
            .replace(reads, &format!("{reads}\nreading_every = 2"))
            .replace("beta = 0.1,", "beta = 0.1, discount = 0.9,")
            .replace("[evaluate]", critic)
    })
}

/// The entries of a column of OREO's metrics.
fn column(out: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(out.join("1/oreo/metrics.csv")).unwrap();
    let mut lines = text.lines();
    let header = lines.next().unwrap();
    let at = header.split(',').position(|column| column == name).unwrap();
    lines
        .map(|line| line.split(',').nth(at).unwrap().to_string())
        .collect()
}

#[test]
fn a_job_ranks_the_branches_of_its_iteration() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let first = go(&ranked("0.9"), out).unwrap();
    let notes = first.notes.join("\n");
    assert!(!notes.contains("another discount"), "{notes}");
    let branches = Store::read(out.join("1/branches.jsonl")).unwrap();
    let several = branches
        .iter()
        .filter(|state| state.turns.last().unwrap().candidates.len() > 1);
    assert!(several.count() > 0);
    let losses = column(out, "loss/ranking");
    assert!(
        losses.iter().all(|loss| loss.parse::<f64>().is_ok()),
        "{losses:?}"
    );
    let tests = column(out, "reading/pairs");
    assert!(
        tests[0].is_empty() && tests[1].parse::<f64>().is_ok(),
        "{tests:?}"
    );
    let keys = [
        "discount = 0.9",
        "critic.init = \"critic_if_any\"",
        "critic.head_only = 0.5",
        "critic.advantage_head = true",
        "critic.ranking = \"listwise\"",
        "critic.branch_batch = 2",
    ];
    let lineage = fs::read_to_string(out.join("1/oreo/lineage.json")).unwrap();
    let lineage: serde_json::Value = serde_json::from_str(&lineage).unwrap();
    assert_eq!(lineage["extensions"], serde_json::json!(keys));
    let cards = fs::read_to_string(out.join("eval-card.json")).unwrap();
    assert!(
        cards.contains("critic.ranking = \\\"listwise\\\""),
        "{cards}"
    );

    let before = files(out);
    // Other returns: OREO is trained anew, from the same rollouts. The remark shows that it read the branches.
    let other = go(&ranked("0.8"), out).unwrap();
    assert!(
        other.notes.join("\n").contains("another discount"),
        "{:?}",
        other.notes
    );
    let after = files(out);
    for (path, is_kept) in [
        ("1/rollouts.jsonl", true),
        ("1/rejection-sampling/model.safetensors", true),
        ("1/branches.jsonl", false),
        ("1/oreo/stage.json", false),
    ] {
        assert_eq!(
            before[Path::new(path)] == after[Path::new(path)],
            is_kept,
            "{path}"
        );
    }
}
