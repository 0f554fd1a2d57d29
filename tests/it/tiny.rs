//! The smallest recipe that goes through every stage, a small suite, and the files of a folder.

use scenarios::Suite;
use scenarios::household::{GenerateOptions, generate};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Two rounds of collect → train → evaluate with a decoder that
/// learns almost nothing in so few updates.
pub(crate) const RECIPE: &str = r#"
name = "tiny"
seed = 3
iterations = 2

[games]
kind = "household"
size = "small"
train = 12
valid_train = 2
seen = 4
unseen = 4

[model]
layers = 1
hidden = 16
inner = 24
heads = 2
kv_heads = 1
vocabulary = 600
context = 400

[protocol]
turns = 12
completion = 4

[demonstrations]
games = 0
repetitions = 1

[collect]
policy = "sft"
then = "oreo"
games = 3
repetitions = 1
temperature = 1.0

[[train]]
name = "sft"
from = "fresh"
data = ["demonstrations"]
optimizer = { batch = 2, updates = 3, learning_rate = 2e-3 }
algorithm = { kind = "sft", targets = "transcript" }

[[train]]
name = "rejection-sampling"
from = "collector"
data = ["demonstrations", "rollouts"]
optimizer = { batch = 2, updates = 1, learning_rate = 1e-3 }
algorithm = { kind = "rejection_sampling", targets = "actions" }

[[train]]
name = "oreo"
from = "collector"
data = ["demonstrations", "rollouts"]
optimizer = { batch = 2, updates = 2, learning_rate = 1e-3 }
algorithm = { kind = "oreo", level = "turn", beta = 0.1, alpha = 0.01, value_learning_rate = 1e-3, critic_only_share = 0.5 }

[evaluate]
splits = ["valid_seen", "valid_unseen"]
games = 2
best_of = [1, 2]
temperature = 1.0
"#;

/// A suite of a few generated games.
pub(crate) fn suite(folder: &Path) -> Suite {
    let options = GenerateOptions {
        seed: 5,
        train: 6,
        valid_train: 0,
        seen: 3,
        unseen: 2,
        ..GenerateOptions::default()
    };
    generate(folder, &options).unwrap()
}

/// Every file below a folder, by its path there.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(
                    path.strip_prefix(folder).unwrap().into(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    files
}
