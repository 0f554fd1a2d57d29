//! The rollout loop: on what the result of an episode depends, how an episode ends, and how
//! completions become commands.

use super::{ALONE, POOL, best_of, player, script};
use agent::rollout::{Concurrency, play_episodes};
use agent::text::chat::{self, MALFORMED_ANSWER, PromptPosition};
use scenarios::{Outcome, Protocol};
use support::corridor::{Corridors, babbler, jobs, play, protocol, task, tasks};

#[test]
fn results_do_not_depend_on_the_concurrency() {
    let tasks = tasks(&["plain/1", "plain/2", "rotten/4", "plain/9", "walled/1"]);
    let jobs = jobs(&tasks, 3);
    let player = player(&babbler(1));
    for protocol in [best_of(1), best_of(3)] {
        let alone = play(&player, &jobs, &protocol, ALONE);
        let found: Vec<(&str, usize)> = alone
            .iter()
            .map(|t| (t.game.as_str(), t.repetition))
            .collect();
        let expected: Vec<(&str, usize)> = jobs
            .iter()
            .map(|job| (job.task.id.as_str(), job.repetition))
            .collect();
        assert_eq!(found, expected, "each job gives exactly one trajectory");
        let outcomes: Vec<Outcome> = alone.iter().map(|t| t.outcome).collect();
        for outcome in [Outcome::Success, Outcome::TurnLimit, Outcome::EnvFailed] {
            assert!(
                outcomes.contains(&outcome),
                "the games were chosen to end in every way: {outcomes:?}"
            );
        }
        for (workers, episodes) in [(4, 16), (2, 5)] {
            assert_eq!(
                play(&player, &jobs, &protocol, Concurrency { workers, episodes }),
                alone
            );
        }
    }
}

#[test]
fn the_admissible_commands_follow_the_observation_if_they_are_shown() {
    let tasks = tasks(&["plain/2"]);
    let shown = Protocol {
        admissible_shown: true,
        ..protocol()
    };
    let played = play(
        &script(&["look", "east", "east"]),
        &jobs(&tasks, 1),
        &shown,
        POOL,
    );
    assert_eq!(
        played[0].turns[1].observation,
        "You are in room 0.\nAdmissible commands: east, look, west"
    );
    assert_eq!(played[0].last_observation, "You are in room 2.");
}

#[test]
fn the_outcome_names_why_an_episode_ended() {
    let ended = |id: &str, commands: &[&str], turn_limit: usize| {
        let tasks = [task(id)];
        let protocol = Protocol {
            turn_limit,
            ..protocol()
        };
        let played = play(&script(commands), &jobs(&tasks, 1), &protocol, POOL).remove(0);
        (played.outcome, played.turns.len(), played.last_observation)
    };
    let east = ["east"; 3];
    assert_eq!(
        ended("plain/3", &east, 9),
        (Outcome::Success, 3, "You are in room 3.".into())
    );
    assert_eq!(
        ended("plain/3", &east, 3),
        (Outcome::Success, 3, "You are in room 3.".into()),
        "with its last turn"
    );
    assert_eq!(
        ended("plain/3", &east, 2),
        (Outcome::TurnLimit, 2, "You are in room 2.".into())
    );
    assert_eq!(
        ended("plain/4", &east, 9),
        (Outcome::Failure, 3, "You are in room 3.".into()),
        "the script gives up"
    );
    let (outcome, turns, last) = ended("plain/0", &east, 9);
    assert_eq!(
        (outcome, turns),
        (Outcome::Success, 0),
        "won before the first turn"
    );
    assert!(last.starts_with("You are in room 0 of 0."));
}

/// The corridor has a pit in room 2. If the agent enters it, the game is lost, whatever commands
/// were left to play.
#[test]
fn a_lost_game_is_a_failure() {
    let pitted = tasks(&["pitted/5"]);
    let shown = Protocol {
        admissible_shown: true,
        ..protocol()
    };
    for protocol in [protocol(), shown] {
        let played = play(
            &script(&["look", "east", "east", "west", "east"]),
            &jobs(&pitted, 1),
            &protocol,
            POOL,
        );
        assert_eq!(
            (played[0].outcome, played[0].turns.len()),
            (Outcome::Failure, 3)
        );
        assert_eq!(
            (played[0].last_observation.as_str(), played[0].reward),
            ("You are in room 2.", 0.0)
        );
        assert_eq!(played[0].failure, None, "the environment did not fail");
    }
}

/// A slot of the world is used again as soon as its episode is over, however it ended, and never
/// before.
#[test]
fn a_world_of_limited_capacity_never_exceeds_it() {
    let tasks = tasks(&[
        "plain/1", "plain/3", "walled/1", "pitted/5", "rotten/5", "buggy/5", "plain/9",
    ]);
    let jobs = jobs(&tasks, 6);
    let policy = script(&["east", "", "look", "east", "east"]);
    let alone = play(&policy, &jobs, &protocol(), ALONE);
    for (capacity, most) in [(1, 1), (3, 3), (100, 8)] {
        let world = Corridors::of_capacity(capacity);
        let mut outcomes = Vec::new();
        play_episodes(
            &policy,
            &world,
            &jobs,
            &protocol(),
            POOL,
            |trajectory| -> Result<(), ()> {
                outcomes.push((trajectory.game, trajectory.repetition, trajectory.outcome));
                Ok(())
            },
        )
        .unwrap();
        let (open, highest) = world.open_and_most();
        assert_eq!(open, 0, "every corridor was closed");
        assert!(
            (1..=most).contains(&highest),
            "{highest} open at once in a world of {capacity}"
        );
        let mut expected: Vec<_> = alone
            .iter()
            .map(|t| (t.game.clone(), t.repetition, t.outcome))
            .collect();
        outcomes.sort_by_key(|(game, repetition, _)| (game.clone(), *repetition));
        expected.sort_by_key(|(game, repetition, _)| (game.clone(), *repetition));
        assert_eq!(outcomes, expected);
    }
}

#[test]
fn an_environment_that_fails_loses_only_its_own_episode() {
    let healthy = tasks(&["plain/1", "plain/3", "plain/5"]);
    let mixed = tasks(&[
        "plain/1", "plain/3", "plain/5", "walled/1", "rotten/5", "buggy/5",
    ]);
    let policy = script(&["east"; 5]);
    let played = play(&policy, &jobs(&mixed, 1), &protocol(), POOL);
    let undisturbed = play(&policy, &jobs(&healthy, 1), &protocol(), POOL);
    assert_eq!(
        played[..3],
        undisturbed,
        "the other episodes are not affected"
    );
    assert!(
        undisturbed
            .iter()
            .all(|t| t.is_won() && t.failure.is_none())
    );
    let lost: Vec<(Outcome, usize, &str, &str)> = (played[3..].iter())
        .map(|t| {
            (
                t.outcome,
                t.turns.len(),
                t.failure.as_deref().unwrap(),
                t.last_observation.as_str(),
            )
        })
        .collect();
    let failed = Outcome::EnvFailed;
    assert_eq!(lost[0], (failed, 0, "cannot load walled/1: walled up", ""));
    assert_eq!(
        lost[1],
        (
            failed,
            2,
            "the world failed at command \"east\": the floor gave way",
            ""
        )
    );
    assert_eq!(
        lost[2],
        (
            failed,
            2,
            "the world failed at command \"east\": it panicked",
            ""
        ),
        "no other episode waits for it"
    );
}

#[test]
fn a_slow_environment_delays_no_other_episode() {
    let tasks = tasks(&["slow/1", "plain/1", "plain/2", "plain/3", "plain/4"]);
    let jobs = jobs(&tasks, 2);
    let world = Corridors::default();
    let policy = script(&["east"; 4]);
    let mut ended = Vec::new();
    let pool = Concurrency {
        workers: 3,
        episodes: 4,
    };
    play_episodes(
        &policy,
        &world,
        &jobs,
        &protocol(),
        pool,
        |trajectory| -> Result<(), ()> {
            assert_eq!(
                trajectory.outcome,
                Outcome::Success,
                "{:?}",
                trajectory.failure
            );
            ended.push(trajectory.game);
            if ended.len() == 8 {
                world.release();
            }
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(
        ended[8..],
        ["slow/1", "slow/1"],
        "the slow ones end last, after their release"
    );
}

#[test]
fn an_error_of_the_recorder_stops_the_rollout() {
    let tasks = tasks(&["plain/1", "plain/2"]);
    let mut recorded = 0;
    let result = play_episodes(
        &script(&["east"; 2]),
        &Corridors::default(),
        &jobs(&tasks, 9),
        &protocol(),
        POOL,
        |_| {
            recorded += 1;
            if recorded == 4 {
                Err("the disk is full")
            } else {
                Ok(())
            }
        },
    );
    assert_eq!((result, recorded), (Err("the disk is full"), 4));
}

/// A malformed completion is not sent to the environment: the room stays the same, a turn is used,
/// and the next observation is a fixed text.
#[test]
fn a_malformed_completion_costs_a_turn_and_is_not_sent_to_the_environment() {
    let tasks = tasks(&["plain/2"]);
    let policy = script(&["east", "", "east\nlook", "<|agent|>", "east"]);
    let played = play(&policy, &jobs(&tasks, 1), &protocol(), POOL).remove(0);
    let observations: Vec<&str> = played
        .turns
        .iter()
        .skip(1)
        .map(|turn| turn.observation.as_str())
        .collect();
    assert_eq!(
        observations,
        [
            "You are in room 1.",
            MALFORMED_ANSWER,
            MALFORMED_ANSWER,
            MALFORMED_ANSWER
        ]
    );
    let actions: Vec<Option<&str>> = played
        .turns
        .iter()
        .map(|turn| turn.action.as_deref())
        .collect();
    assert_eq!(actions, [Some("east"), None, None, None, Some("east")]);
    assert_eq!(
        (played.malformed_turns(), played.outcome),
        (3, Outcome::Success)
    );

    let never = play(&script(&[""; 9]), &jobs(&tasks, 1), &protocol(), POOL).remove(0);
    assert_eq!(
        (never.outcome, never.turns.len(), never.malformed_turns()),
        (Outcome::TurnLimit, 6, 6)
    );
    assert_eq!(never.last_observation, MALFORMED_ANSWER);
}

/// One token has no room for a word and an end: every command is cut, and the next observation
/// contains the missing end.
#[test]
fn a_cut_completion_is_malformed_and_its_end_is_inserted() {
    let tasks = tasks(&["plain/2"]);
    let model = babbler(1);
    let cut = Protocol {
        completion_limit: 1,
        ..protocol()
    };
    let mut cuts = 0;
    for played in play(&player(&model), &jobs(&tasks, 6), &cut, POOL) {
        assert_eq!(played.malformed_turns(), played.turns.len());
        for pair in played.turns.windows(2) {
            let written_end = pair[0].completion_tokens == [model.tokenizer.end];
            let place = if written_end {
                PromptPosition::AfterEnd
            } else {
                PromptPosition::AfterCut
            };
            cuts += usize::from(!written_end);
            assert_eq!(
                pair[1].observation_tokens,
                chat::observation_tokens(&model.tokenizer, MALFORMED_ANSWER, place)
            );
            assert_eq!(
                pair[1].observation_tokens[0] == model.tokenizer.end,
                !written_end
            );
        }
    }
    assert!(cuts > 10, "{cuts}");
}

/// An episode stops before the first turn that might not fit, and not earlier.
#[test]
fn an_episode_ends_before_a_turn_that_might_not_fit_into_the_context() {
    let tasks = tasks(&["plain/9"]);
    let model = babbler(2);
    let player = player(&model);
    let played_with = |context_limit: usize| {
        let protocol = Protocol {
            context_limit,
            turn_limit: 20,
            ..protocol()
        };
        let played = play(&player, &jobs(&tasks, 4), &protocol, POOL);
        for trajectory in &played {
            let used = trajectory.tokens();
            assert!(
                used <= context_limit,
                "{used} tokens in a context of {context_limit}"
            );
            if trajectory.outcome == Outcome::ContextLimit {
                let place = match trajectory.turns.last() {
                    None => PromptPosition::Opening,
                    Some(turn) if turn.completion_tokens.last() == Some(&model.tokenizer.end) => {
                        PromptPosition::AfterEnd
                    }
                    Some(_) => PromptPosition::AfterCut,
                };
                let next =
                    chat::observation_tokens(&model.tokenizer, &trajectory.last_observation, place)
                        .len();
                assert!(
                    used + next + protocol.completion_limit > context_limit,
                    "it stopped too early"
                );
            }
        }
        let ended = |outcome| played.iter().filter(|t| t.outcome == outcome).count();
        (ended(Outcome::ContextLimit), ended(Outcome::TurnLimit))
    };
    assert_eq!(played_with(20), (4, 0), "not even the first turn fits");
    assert_eq!(played_with(100), (4, 0));
    let (stopped, _) = played_with(10_000);
    assert_eq!(
        stopped, 0,
        "the model's own context of 512 tokens is enough for 20 turns"
    );
}

/// A malformed turn does not change the state.
#[test]
fn a_turn_records_the_hash_of_its_state() {
    let policy = script(&["east", "", "look", "west", "east", "east"]);
    let states = |id: &str| -> Vec<Option<u64>> {
        let played = play(&policy, &jobs(&tasks(&[id]), 1), &protocol(), POOL).remove(0);
        assert_eq!((played.outcome, played.turns.len()), (Outcome::Success, 6));
        played.turns.iter().map(|turn| turn.state).collect()
    };
    assert_eq!(states("plain/2"), [0, 1, 1, 1, 0, 1].map(Some));
    assert_eq!(states("dumb/2"), [None; 6]);
}
