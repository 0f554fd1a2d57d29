//! Policies on the same games, paired.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../agent/tests/corridor/mod.rs"]
mod corridor;

use agent::episode::Pool;
use agent::player::Scripted;
use corridor::{jobs, play, protocol, task};
use scenarios::{Outcome, Trajectory};
use trainer::evaluate::{Baseline, read_csv, table, write_csv};

/// So many steps to the east, in corridors of 1 to 5 rooms and one that is lost to the world.
fn walked(steps: usize) -> Vec<Trajectory> {
    let tasks = ["plain/1", "plain/2", "plain/3", "plain/4", "plain/5", "rotten/9"].map(task);
    let mut commands = vec!["east".to_string(); steps];
    commands.resize(8, "look".into());
    play(&Scripted(commands), &jobs(&tasks, 1), &protocol(), Pool { workers: 1, episodes: 2 })
}

/// Four steps win corridors 1 to 4, two steps 1 and 2. Each game counts once; the one lost to the world nowhere, and one
/// that only one of the two ended nowhere either.
#[test]
fn games_are_paired_one_by_one() {
    let (short, mut long) = (walked(2), walked(4));
    let mut rows = table("long", 1, &long);
    Baseline::new("short", &short).pair(&mut rows, &long);
    let row = &rows[0];
    assert_eq!((row.n, row.successes, row.env_failed), (5, 4, 1));
    assert_eq!((row.against.as_deref(), row.won_alone, row.lost_alone), (Some("short"), Some(2), Some(0)));
    assert!((row.p_value.unwrap() - 0.5).abs() < 1e-12, "2 · ½²");

    let mut backwards = table("short", 1, &short);
    Baseline::new("long", &long).pair(&mut backwards, &short);
    assert_eq!((backwards[0].won_alone, backwards[0].lost_alone), (Some(0), Some(2)));

    long.iter_mut().find(|t| t.game == "plain/4").unwrap().outcome = Outcome::EnvFailed;
    Baseline::new("short", &short).pair(&mut rows, &long);
    assert_eq!(rows[0].won_alone, Some(1));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eval.csv");
    rows.extend(table("short", 1, &short)); // paired with nobody
    write_csv(&path, &rows).unwrap();
    assert_eq!(read_csv(&path).unwrap(), rows);
}
