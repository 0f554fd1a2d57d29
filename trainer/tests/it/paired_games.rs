//! Policies on the same games, paired.

use agent::policy::ScriptedPolicy;
use agent::rollout::Concurrency;
use indicatif::ProgressBar;
use scenarios::{History, Outcome, Protocol, Task, Trajectory};
use support::corridor::{Corridors, jobs, play, protocol, task};
use trainer::measure::compare::Baseline;
use trainer::measure::csv_file::{read_csv, write_csv};
use trainer::measure::games::games;
use trainer::measure::table::{EvalRow, Interval, table};
use trainer::pipeline::rounds::{Round, Shard};
use trainer::pipeline::shard::play_round;

/// Plays `steps` steps to the east, in corridors of 1 to 5 rooms and in one whose environment
/// fails.
fn walked(steps: usize) -> Vec<Trajectory> {
    let tasks = [
        "plain/1", "plain/2", "plain/3", "plain/4", "plain/5", "rotten/9",
    ]
    .map(task);
    let mut commands = vec!["east".to_string(); steps];
    commands.resize(8, "look".into());
    play(
        &ScriptedPolicy(commands),
        &jobs(&tasks, 1),
        &protocol(),
        Concurrency {
            workers: 1,
            episodes: 2,
        },
    )
}

/// Four steps win corridors 1 to 4, two steps 1 and 2. Each game counts once. If the environment of
/// a game failed for one of the policies, the game does not count.
#[test]
fn games_are_paired_one_by_one() {
    let short = walked(2);
    let mut long = walked(4);
    let mut rows = table("long", 1, &long);
    Baseline::new("short", &short).pair(&mut rows, &long);
    let row = &rows[0];
    assert_eq!((row.n, row.successes, row.env_failed), (5, 4, 1));
    assert_eq!(
        (row.against.as_deref(), row.won_alone, row.lost_alone),
        (Some("short"), Some(2), Some(0))
    );
    assert!((row.p_value.unwrap() - 0.5).abs() < 1e-12, "2 · ½²");

    let mut backwards = table("short", 1, &short);
    Baseline::new("long", &long).pair(&mut backwards, &short);
    assert_eq!(
        (backwards[0].won_alone, backwards[0].lost_alone),
        (Some(0), Some(2))
    );

    long.iter_mut()
        .find(|t| t.game == "plain/4")
        .unwrap()
        .outcome = Outcome::EnvFailed;
    Baseline::new("short", &short).pair(&mut rows, &long);
    assert_eq!(rows[0].won_alone, Some(1));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eval.csv");
    rows.extend(table("short", 1, &short)); // not paired
    write_csv(&path, &rows).unwrap();
    assert_eq!(read_csv::<EvalRow>(&path).unwrap(), rows);
}

/// A policy that wins corridors of 1 and 2 rooms plays corridors 1 to 4, each once or three times.
/// The rate is the same, but the interval is over four games, not over twelve episodes.
#[test]
fn repeated_games_have_an_interval_over_games() {
    let tasks = ["plain/1", "plain/2", "plain/3", "plain/4"].map(task);
    let play_all = |repetitions| {
        let folder = tempfile::tempdir().unwrap();
        let round = Round {
            repetitions,
            seed: 1,
            pool: Concurrency {
                workers: 1,
                episodes: 2,
            },
            shard: Shard::WHOLE,
        };
        let policy = ScriptedPolicy(vec!["east".to_string(); 2]);
        let tasks: Vec<&Task> = tasks.iter().collect();
        let store = folder.path().join("store.jsonl");
        let bar = ProgressBar::hidden();
        play_round(
            &policy,
            &Corridors::default(),
            &tasks,
            &protocol(),
            round,
            &store,
            &bar,
        )
        .unwrap()
    };
    let once = play_all(1);
    let thrice = play_all(3);
    let row = &table("p", 1, &once)[0];
    let of_three = &table("p", 1, &thrice)[0];
    assert_eq!(
        (row.n, row.games, row.success_rate, row.interval),
        (4, 4, 0.5, Interval::Wilson)
    );
    assert_eq!(
        (of_three.n, of_three.games, of_three.success_rate),
        (12, 4, 0.5)
    );
    assert_eq!(of_three.interval, Interval::BootstrapOverGames);
    assert!(
        of_three.high - of_three.low > 0.9,
        "[{}, {}]",
        of_three.low,
        of_three.high
    );

    let games = games("p", 1, &thrice);
    let counts: Vec<_> = games
        .iter()
        .map(|game| (game.game.as_str(), game.won, game.played, game.mean_turns))
        .collect();
    let expected = [
        ("plain/1", 3, 3, 1.0),
        ("plain/2", 3, 3, 2.0),
        ("plain/3", 0, 3, 2.0),
        ("plain/4", 0, 3, 2.0),
    ];
    assert_eq!(counts, expected);

    let same: Vec<Trajectory> = thrice
        .into_iter()
        .filter(|episode| episode.is_won())
        .collect();
    let row = &table("p", 1, &same)[0];
    assert_eq!(
        (row.n, row.games, row.success_rate, row.interval),
        (6, 2, 1.0, Interval::WilsonOverGames)
    );
    assert_eq!(
        (row.low, row.high),
        trainer::statistics::wilson_interval(2, 2, 0.95)
    );
}

/// If a policy needs the full history, a protocol with a window is refused.
#[test]
fn a_history_window_that_the_policy_does_not_support_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let round = Round {
        repetitions: 1,
        seed: 1,
        pool: Concurrency::default(),
        shard: Shard::WHOLE,
    };
    let task = task("plain/1");
    let store = folder.path().join("store.jsonl");
    let windowed = Protocol {
        history: History::Last(2),
        ..protocol()
    };
    let bar = ProgressBar::hidden();
    let refused = play_round(
        &ScriptedPolicy(Vec::new()),
        &Corridors::default(),
        &[&task],
        &windowed,
        round,
        &store,
        &bar,
    )
    .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "scripted sees the full history and cannot play with last_2 of it"
    );
    assert!(!store.exists());
}
