//! Shards of a pipeline at the same time, and shards of which one never comes.

use super::pipeline::{episodes, go, go_as, go_with_lease, recipe, stores};
use crate::tiny::files;
use scenarios::store::Store;
use std::fs;
use std::path::Path;
use std::time::Duration;
use trainer::TrainerError;
use trainer::measure::table::EvalRow;
use trainer::pipeline::status::status;

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
    let same =
        |out: &Path, rows: &[EvalRow]| assert_same_run(out, rows, &whole, &first.report.rows);
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

/// Table, episodes and weights are those of the run of one process, and nothing of the shards is left.
#[track_caller]
fn assert_same_run(out: &Path, rows: &[EvalRow], whole: &Path, expected: &[EvalRow]) {
    assert_eq!(rows, expected);
    assert_eq!(
        stores(out),
        stores(whole),
        "shards' stores are merged and gone"
    );
    for store in stores(whole) {
        assert_eq!(
            episodes(&out.join(&store)),
            episodes(&whole.join(&store)),
            "{}",
            store.display()
        );
    }
    for (path, bytes) in files(whole)
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "safetensors"))
    {
        assert!(
            fs::read(out.join(path)).unwrap() == *bytes,
            "{}",
            path.display()
        );
    }
}

/// Of three shards, one plays a part of the demonstrations and stops. The others play its games, and end in the run of
/// one process. Until then, the status names the shards.
#[test]
fn the_games_of_a_shard_that_stops_are_taken_over() {
    let (recipe, folder) = (
        recipe(|text| text.replace("iterations = 2", "iterations = 1")),
        tempfile::tempdir().unwrap(),
    );
    let [whole, shared] = ["whole", "shared"].map(|name| folder.path().join(name));
    let first = go(&recipe, &whole).unwrap();
    assert!(
        go_as("0/3", 0, &recipe, &shared).is_err(),
        "it waits for the others"
    );
    assert!(go_as("2/3", 0, &recipe, &shared).is_err(), "it stops");
    let store = shared.join("demonstrations.shard-2-of-3.jsonl");
    let played = fs::read_to_string(&store).unwrap();
    let one: String = played.split_inclusive('\n').take(1).collect();
    fs::write(&store, one).unwrap();
    let stages = status(&recipe, &shared).unwrap();
    let demonstrations = stages.iter().find(|stage| stage.stage == "demonstrations");
    let counts = demonstrations.unwrap().shards.iter();
    let counts: Vec<(&str, usize)> = counts
        .map(|shard| (shard.shard.as_str(), shard.done))
        .collect();
    assert_eq!(counts, [("0/3", 4), ("2/3", 1)]);

    let lease = Duration::from_millis(300);
    let (leader, follower) = std::thread::scope(|scope| {
        let follower = scope.spawn(|| go_with_lease("1/3", 120, lease, &recipe, &shared));
        (
            go_with_lease("0/3", 120, lease, &recipe, &shared).unwrap(),
            follower.join().unwrap().unwrap(),
        )
    });
    assert_same_run(&shared, &leader.report.rows, &whole, &first.report.rows);
    let notes = [leader.notes, follower.notes].concat();
    let taken_over = notes
        .iter()
        .filter(|note| note.contains("shard 2/3 has written nothing"))
        .count();
    assert!(
        taken_over >= 3,
        "demonstrations, rollouts and evaluations: {notes:?}"
    );
}
