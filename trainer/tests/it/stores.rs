//! Jobs that read their episodes from stores, not from memory, give the same bits.

use crate::training_jobs::{in_memory, oreo, recipe, rollouts};
use agent::model::folder::Model;
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{Trajectory, Turn};
use std::fs;
use std::path::{Path, PathBuf};
use support::corridor::babbler;
use trainer::TrainerError;
use trainer::learn::config::{EarlyStopping, ReferenceUse};
use trainer::learn::episodes::{Episodes, Readable};
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::learn::ranks::Alone;
use trainer::learn::train::{TrainingJob, train};
use trainer::pipeline::recipe::{Algorithm, Level, Targets, TrainConfig};
use trainer::store::StoredRecords;
use trainer::store::compact::{LEVEL, compact};
use trainer::store::select::Selection;

/// Every way in which a plan or an update reads episodes.
fn recipes() -> Vec<TrainConfig> {
    let optimizer = OptimizerRecipe {
        batch: 4,
        updates: 5,
        ..OptimizerRecipe::default()
    };
    let of = |algorithm| recipe(algorithm, optimizer.clone());
    let sft = of(Algorithm::Sft {
        targets: Targets::Actions,
    });
    let dpo = of(Algorithm::Dpo {
        beta: 0.1,
        pairs: 3,
    });
    vec![
        TrainConfig {
            short_first: 0.5,
            ..sft.clone()
        },
        TrainConfig {
            early_stopping: Some(EarlyStopping {
                share: 0.3,
                every: 2,
                patience: 9,
            }),
            ..sft
        },
        TrainConfig {
            reference: ReferenceUse::Cached,
            ..dpo
        },
        of(oreo(Level::Turn, 0.0)),
    ]
}

/// Trains; returns the policy's hash and the games of the lineage.
fn learned(recipe: &TrainConfig, start: &Model, episodes: &Episodes<'_>) -> (String, String) {
    let out = tempfile::tempdir().unwrap();
    let job = TrainingJob {
        recipe,
        start,
        lineage: None,
        reading: None,
        episodes,
        branches: &[],
        seed: 7,
        out: out.path(),
        hardware: support::device::choice(),
        ranks: &Alone,
    };
    let (model, _) = train(&job, &ProgressBar::hidden()).unwrap();
    let lineage = fs::read_to_string(out.path().join("lineage.json")).unwrap();
    (model.policy.hash(), lineage)
}

fn readable<'r>(recipe: &'r TrainConfig, start: &Model) -> Readable<'r> {
    Readable::new(recipe, start.config.max_position_embeddings)
}

/// The episodes in two JSONL stores, in another order, and in a compacted store.
fn stored(episodes: &[Trajectory], folder: &Path) -> [Vec<PathBuf>; 2] {
    let paths = ["a.jsonl", "b.jsonl"].map(|name| folder.join(name));
    for (place, path) in paths.iter().enumerate() {
        let (mut store, _) = Store::open(path).unwrap();
        for episode in episodes.iter().rev().skip(place).step_by(2) {
            store.append(episode).unwrap();
        }
    }
    let compacted = folder.join("compacted");
    compact(&paths, &Selection::default(), LEVEL, &compacted).unwrap();
    [paths.into(), vec![compacted]]
}

#[test]
fn stored_episodes_give_the_bits_of_episodes_in_memory() {
    let start = babbler(31);
    let mut played = rollouts(&start);
    played.sort_by(|a, b| (&a.game, a.repetition, a.seed).cmp(&(&b.game, b.repetition, b.seed)));
    let folder = tempfile::tempdir().unwrap();
    let stores = stored(&played, folder.path());
    for recipe in recipes() {
        let expected = learned(
            &recipe,
            &start,
            &in_memory(&recipe, &start, &played).unwrap(),
        );
        for paths in &stores {
            let records = StoredRecords::open(paths).unwrap();
            let (episodes, counts) =
                Episodes::stored(readable(&recipe, &start), &records, &|_| {}).unwrap();
            assert_eq!(
                (counts.records, episodes.given()),
                (played.len(), played.len())
            );
            let found = learned(&recipe, &start, &episodes);
            assert_eq!(found, expected, "{:?} {paths:?}", recipe.algorithm);
        }
    }
}

#[test]
fn an_episode_that_changed_during_the_job_is_refused() {
    let start = babbler(31);
    let played = rollouts(&start);
    let folder = tempfile::tempdir().unwrap();
    let [paths, _] = stored(&played, folder.path());
    let recipe = recipes().remove(0);
    let records = StoredRecords::open(&paths).unwrap();
    let longer = std::sync::atomic::AtomicBool::new(false);
    let prepare = |episode: &mut Trajectory| {
        if longer.load(std::sync::atomic::Ordering::Relaxed) {
            episode.turns.push(Turn::default());
        }
    };
    let (episodes, _) = Episodes::stored(readable(&recipe, &start), &records, &prepare).unwrap();
    longer.store(true, std::sync::atomic::Ordering::Relaxed);
    let out = tempfile::tempdir().unwrap();
    let job = TrainingJob {
        recipe: &recipe,
        start: &start,
        lineage: None,
        reading: None,
        episodes: &episodes,
        branches: &[],
        seed: 7,
        out: out.path(),
        hardware: support::device::choice(),
        ranks: &Alone,
    };
    let error = match train(&job, &ProgressBar::hidden()) {
        Err(TrainerError::Data(reason)) => reason,
        _ => panic!("the job must fail"),
    };
    assert!(error.contains("has changed in its store"), "{error}");
}
