//! Episodes of a policy on a server: how failed ones count, and what is in the store if the server
//! is gone.

use agent::policy::lm::{LmPolicy, ValueUse};
use agent::policy::remote::{RemoteOptions, RemotePolicy, ServerAddress};
use agent::rollout::Concurrency;
use agent::text::chat::is_tokenized_by;
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{Outcome, Protocol, Task};
use std::path::Path;
use std::time::Duration;
use support::corridor::{Corridors, babbler, jobs, play, protocol, task, tokenizer};
use support::server::{HttpReply, Server, friendly};
use trainer::TrainerError;
use trainer::measure::table::table;
use trainer::pipeline::rounds::{Round, Shard};
use trainer::pipeline::run::tokenize_texts;
use trainer::pipeline::shard::play_round;

fn connect(server: &Server) -> RemotePolicy {
    let options = RemoteOptions {
        concurrency: 2,
        timeout: Duration::from_secs(10),
        retries: 1,
        first_wait: Duration::from_millis(1),
        key: None,
        instructions: None,
        stop: Vec::new(),
    };
    RemotePolicy::connect(ServerAddress::parse(&server.policy()).unwrap(), options).unwrap()
}

/// The server fails in the longest of five corridors. Of the other four, 3 are won and 1 is lost.
#[test]
fn a_failed_episode_counts_neither_way() {
    let server =
        friendly(
            |_, heard| match heard.body["messages"][0]["content"].as_str().unwrap() {
                long if long.contains("of 9") => HttpReply::new(500, "{}"),
                _ => HttpReply::completion("east"),
            },
        );
    let tasks = ["plain/1", "plain/2", "plain/3", "plain/8", "plain/9"].map(task);
    let pool = Concurrency {
        workers: 1,
        episodes: 2,
    };
    let mut all = play(&connect(&server), &jobs(&tasks, 1), &protocol(), pool);
    let row = &table("m", 1, &all)[0];
    assert_eq!(
        (row.n, row.successes, row.success_rate, row.env_failed),
        (4, 3, 0.75, 1)
    );
    assert_eq!(
        (row.mean_turns, row.malformed_share),
        (3.0, 0.0),
        "1, 2, 3 and the limit of 6 turns"
    );

    all.retain(|trajectory| trajectory.outcome == Outcome::EnvFailed);
    let row = &table("m", 1, &all)[0];
    assert_eq!(
        (row.n, row.success_rate, row.low, row.high, row.env_failed),
        (0, 0.0, 0.0, 1.0, 1),
        "nothing is known"
    );
}

fn round(policy: &RemotePolicy, tasks: &[Task], store: &Path) -> Result<usize, TrainerError> {
    let round = Round {
        repetitions: 1,
        seed: 1,
        pool: Concurrency {
            workers: 1,
            episodes: 1,
        },
        shard: Shard::WHOLE,
    };
    let tasks: Vec<&Task> = tasks.iter().collect();
    let all = play_round(
        policy,
        &Corridors::default(),
        &tasks,
        &protocol(),
        round,
        store,
        &ProgressBar::hidden(),
    )?;
    Ok(all.len())
}

/// In the third episode the server returns 404. Nothing of the episode is kept, so a later round
/// plays it.
#[test]
fn a_round_stops_if_the_server_is_gone_and_resumes_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.jsonl");
    let server =
        friendly(
            |number, heard| match heard.body["messages"][0]["content"].as_str().unwrap() {
                third if third.contains("of 3") && number < 4 => HttpReply::new(404, "{}"),
                _ => HttpReply::completion("east"),
            },
        );
    let tasks = ["plain/1", "plain/2", "plain/3", "plain/4"].map(task);
    let error = round(&connect(&server), &tasks, &path)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("the same command goes on with the others") && error.contains("HTTP 404"),
        "{error}"
    );
    assert_eq!(Store::read(&path).unwrap().len(), 2);
    assert_eq!(round(&connect(&server), &tasks, &path).unwrap(), 4);
    assert!(
        Store::read(&path)
            .unwrap()
            .iter()
            .all(|trajectory| trajectory.is_won())
    );
}

/// Texts from a server, and ids of another vocabulary, are tokenized again. If the ids are those of
/// this tokenizer, they stay as sampled.
#[test]
fn episodes_of_other_tokenizers_are_tokenized_again() {
    let server = friendly(|number, _| match number {
        0 => HttpReply::choice(
            serde_json::json!({"message": {"content": "look"}, "finish_reason": "length"}),
        ),
        _ => HttpReply::completion("east"),
    });
    let pool = Concurrency {
        workers: 1,
        episodes: 1,
    };
    let tokenizer = tokenizer();
    let mut played = play(
        &connect(&server),
        &jobs(&[task("plain/1")], 1),
        &Protocol {
            stop: vec![],
            ..protocol()
        },
        pool,
    );
    played[0].turns[1].logprobs = vec![-0.5];
    let mut foreign = played.clone();
    tokenize_texts(&tokenizer, &mut played);
    let turns = &played[0].turns;
    assert!(
        is_tokenized_by(&tokenizer, &played[0])
            && turns.iter().all(|turn| turn.logprobs.is_empty())
    );
    assert_ne!(
        turns[0].completion_tokens.last(),
        Some(&tokenizer.end),
        "cut off, not ended by the policy"
    );
    assert_eq!(
        turns[1].observation_tokens[0], tokenizer.end,
        "part of the observation"
    );
    assert_eq!(turns[1].completion_tokens.last(), Some(&tokenizer.end));

    for turn in &mut foreign[0].turns {
        (turn.observation_tokens, turn.completion_tokens) = (vec![1, 2], vec![40_000, 3]);
    }
    assert!(!is_tokenized_by(&tokenizer, &foreign[0]));
    tokenize_texts(&tokenizer, &mut foreign);
    assert_eq!(foreign, played);

    let player = LmPolicy::new(babbler(3), ValueUse::Skip).unwrap();
    let mut own = play(
        &player,
        &jobs(&["plain/2", "plain/9"].map(task), 6),
        &protocol(),
        pool,
    );
    let sampled = own.clone();
    tokenize_texts(&player.tokenizer, &mut own);
    assert_eq!(own, sampled, "sampled tokens stay");
}
