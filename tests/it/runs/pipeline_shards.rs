//! Shards of a pipeline at the same time, and shards of which one never comes.

use super::pipeline::{episodes, go, go_as, recipe, stores};
use crate::tiny::files;
use scenarios::store::Store;
use std::fs;
use std::path::Path;
use trainer::TrainerError;
use trainer::measure::table::EvalRow;

/// Two shards run at the same time; then three shards, of which one never runs. Both end in the run
/// of one process.
#[test]
fn shards_of_a_loop_make_the_run_of_one_process() {
    let (recipe, folder) = (
        recipe(|text| text.replace("iterations = 2", "iterations = 1")),
        tempfile::tempdir().unwrap(),
    );
    let [whole, shared, left] = ["whole", "shared", "left"].map(|name| folder.path().join(name));
    let first = go(&recipe, &whole).unwrap();
    let same = |out: &Path, rows: &[EvalRow]| {
        assert_eq!(rows, first.report.rows);
        assert_eq!(
            stores(out),
            stores(&whole),
            "shards' stores are merged and gone"
        );
        for store in stores(&whole) {
            assert_eq!(
                episodes(&out.join(&store)),
                episodes(&whole.join(&store)),
                "{}",
                store.display()
            );
        }
        for (path, bytes) in files(&whole)
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e == "safetensors"))
        {
            assert!(
                fs::read(out.join(path)).unwrap() == *bytes,
                "{}",
                path.display()
            );
        }
    };
    let (leader, follower) = std::thread::scope(|scope| {
        let follower = scope.spawn(|| go_as("1/2", 120, &recipe, &shared));
        (
            go_as("0/2", 120, &recipe, &shared).unwrap(),
            follower.join().unwrap().unwrap(),
        )
    });
    assert_eq!(
        leader.opened + follower.opened,
        first.opened,
        "each episode once"
    );
    assert!(
        follower.opened >= first.opened / 3,
        "{} of {}",
        follower.opened,
        first.opened
    );
    same(&shared, &leader.report.rows);
    assert_eq!(follower.report.rows, first.report.rows);
    let merged = Store::read(shared.join("1/eval/oreo-k1.jsonl")).unwrap();
    assert!(
        merged.is_sorted_by_key(|episode| (episode.repetition, episode.seed)),
        "in the order of play"
    );

    let awaits = |shard: &str| match go_as(shard, 0, &recipe, &left) {
        Err(TrainerError::Awaiting(what)) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{shard} is done"),
    };
    assert_eq!(
        awaits("1/3"),
        "games: awaits shard 0, which begins and finishes it"
    );
    assert_eq!(
        awaits("0/3"),
        "demonstrations: awaits the other shards; 4 of 12 episodes are there"
    );
    assert_eq!(
        awaits("1/3"),
        "demonstrations: awaits shard 0, which begins and finishes it"
    );
    assert_eq!(
        awaits("0/3"),
        "demonstrations: awaits the other shards; 8 of 12 episodes are there"
    );
    let rest = go(&recipe, &left).unwrap();
    assert_eq!(
        rest.opened,
        first.opened - 8,
        "what shards have played is taken in"
    );
    same(&left, &rest.report.rows);
}
