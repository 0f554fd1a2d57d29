//! Episodes that begin with turns that were played before.

use super::{ALONE, POOL, best_of, player, script, tokens};
use agent::policy::ExpertPolicy;
use agent::rollout::{Concurrency, EpisodeJob};
use agent::text::chat;
use scenarios::{Outcome, Protocol, Task, Trajectory};
use support::corridor::{babbler, jobs, play, protocol, tasks};

/// An episode that continues from the first turns of another one.
fn forced<'a>(task: &'a Task, played: &'a Trajectory, turns: usize) -> EpisodeJob<'a> {
    EpisodeJob {
        task,
        repetition: played.repetition,
        seed: played.seed,
        forced: &played.turns[..turns],
    }
}

/// If an episode begins with its own first turns and has the same seed, it is equal to the
/// original, with the same log-probabilities and values: the policy reads the same tokens.
#[test]
fn an_episode_can_continue_from_any_of_its_turns() {
    let tasks = tasks(&["plain/9"]);
    let player = player(&babbler(3));
    let mut malformed = 0;
    for protocol in [
        best_of(1),
        best_of(3),
        Protocol {
            completion_limit: 1,
            ..protocol()
        },
    ] {
        let whole = play(&player, &jobs(&tasks, 6), &protocol, POOL);
        malformed += whole.iter().map(Trajectory::malformed_turns).sum::<usize>();
        for turns in [1, 3, 5] {
            let jobs: Vec<EpisodeJob<'_>> = whole
                .iter()
                .map(|played| forced(&tasks[0], played, turns))
                .collect();
            let mut again = play(&player, &jobs, &protocol, POOL);
            for (again, whole) in again.iter_mut().zip(&whole) {
                let written = whole.spent.completions - again.spent.completions;
                assert_eq!(
                    written,
                    turns.min(whole.turns.len()) * protocol.best_of,
                    "turns that were played before cost nothing"
                );
                again.spent = whole.spent;
            }
            assert_eq!(again, whole);
        }
    }
    assert!(malformed > 10, "{malformed}");
}

/// Episodes that continue from the same turns share a prefix, whatever other episodes are played at
/// the same time.
#[test]
fn episodes_that_continue_from_one_turn_are_independent() {
    let tasks = tasks(&["plain/9"]);
    let player = player(&babbler(6));
    let whole = play(&player, &jobs(&tasks, 2), &protocol(), POOL);
    let jobs: Vec<EpisodeJob<'_>> = (0..12)
        .map(|index| EpisodeJob {
            repetition: index,
            seed: 50 + index as u64,
            ..forced(&tasks[0], &whole[index % 2], 3)
        })
        .collect();
    let alone = play(&player, &jobs, &protocol(), ALONE);
    let among = play(
        &player,
        &jobs,
        &protocol(),
        Concurrency {
            workers: 2,
            episodes: 12,
        },
    );
    assert_eq!(among, alone);
    assert!(
        alone
            .iter()
            .all(|t| t.turns[..3] == whole[t.repetition % 2].turns[..3])
    );
    assert!(
        alone
            .windows(3)
            .any(|three| tokens(&three[0]) != tokens(&three[2])),
        "each has its own seed"
    );
}

/// A demonstration has no token ids. The model tokenizes its texts, as training does.
#[test]
fn a_model_can_continue_from_turns_without_token_ids() {
    let tasks = tasks(&["plain/9"]);
    let model = babbler(3);
    let mut shown = play(
        &script(&["east", "look", "", "east"]),
        &jobs(&tasks, 1),
        &protocol(),
        POOL,
    )
    .remove(0);
    let told = play(
        &player(&model),
        &[forced(&tasks[0], &shown, 4)],
        &protocol(),
        POOL,
    )
    .remove(0);
    chat::tokenize(&model.tokenizer, &mut shown);
    let read = play(
        &player(&model),
        &[forced(&tasks[0], &shown, 4)],
        &protocol(),
        POOL,
    )
    .remove(0);
    assert_eq!((told.turns.len(), &told.turns[4..]), (6, &read.turns[4..]));
    assert!(
        told.turns[0].completion_tokens.is_empty() && !read.turns[0].completion_tokens.is_empty()
    );
}

#[test]
fn if_the_environment_does_not_repeat_its_observations_the_episode_is_lost() {
    let healthy = tasks(&["plain/5", "plain/1"]);
    let policy = script(&["east", "look", "east"]);
    let played = play(&policy, &jobs(&healthy[..1], 1), &protocol(), POOL).remove(0);
    let failure = |job: EpisodeJob<'_>| {
        let again = play(&policy, &[job], &protocol(), POOL).remove(0);
        assert_eq!(again.outcome, Outcome::EnvFailed);
        (again.turns.len(), again.failure.unwrap())
    };
    let mut other = played.clone();
    other.turns[2].observation = "You are in room 7.".into();
    let expected = "before turn 2, played before, the world said \"You are in room 7.\", and now it says \"You are in room 1.\"";
    assert_eq!(
        failure(forced(&healthy[0], &other, 3)),
        (2, expected.into())
    );
    let (turns, said) = failure(forced(&healthy[1], &played, 3));
    assert!(
        turns == 0
            && said.starts_with(
                "before turn 0, played before, the world said \"You are in room 0 of 5."
            ),
        "{said}"
    );
    let mut shorter = played.clone();
    shorter.turns[0].observation = shorter.turns[0].observation.replace('5', "1");
    assert_eq!(
        failure(forced(&healthy[1], &shorter, 3)),
        (
            1,
            "the game was over before turn 1, which was played before".into()
        )
    );
    let expert = play(
        &ExpertPolicy::default(),
        &[forced(&healthy[0], &played, 1)],
        &protocol(),
        POOL,
    )
    .remove(0);
    assert_eq!(
        expert.failure.unwrap(),
        "expert cannot go on from turns that were played before"
    );
    assert_eq!(
        play(
            &policy,
            &[forced(&healthy[0], &played, 2)],
            &protocol(),
            POOL
        )[0]
        .turns,
        played.turns
    );
}
