//! The rollout loop: what an episode's result depends on, how each episode ends, and that what is logged is what the
//! policy read and wrote.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod corridor;

use agent::inference::device::Backend;
use agent::inference::{KvCache, PolicyInference, Span, ValueInference};
use agent::model::folder::Model;
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::policy::{ExpertPolicy, ScriptedPolicy};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use agent::text::chat::{self, MALFORMED_ANSWER, Place};
use agent::text::tokenizer::BEGIN;
use corridor::{Corridors, babbler, jobs, play, protocol, task};
use scenarios::{Outcome, Protocol, Search, Task, Trajectory, WeightFormat};

const POOL: Concurrency = Concurrency {
    workers: 2,
    episodes: 8,
};

fn script(commands: &[&str]) -> ScriptedPolicy {
    ScriptedPolicy(commands.iter().map(ToString::to_string).collect())
}

fn tasks(ids: &[&str]) -> Vec<Task> {
    ids.iter().map(|id| task(id)).collect()
}

fn player(model: &Model) -> LmPolicy {
    LmPolicy::new(model.clone(), ValueUse::Score).unwrap()
}

fn best_of(k: usize) -> Protocol {
    Protocol {
        best_of: k,
        ..protocol()
    }
}

/// The ids of the whole episode, turn after turn.
fn tokens(trajectory: &Trajectory) -> Vec<u32> {
    trajectory
        .turns
        .iter()
        .flat_map(|turn| {
            turn.observation_tokens
                .iter()
                .chain(&turn.completion_tokens)
        })
        .copied()
        .collect()
}

#[test]
fn results_do_not_depend_on_the_pool() {
    let tasks = tasks(&["plain/1", "plain/2", "rotten/4", "plain/9", "walled/1"]);
    let (jobs, player) = (jobs(&tasks, 3), player(&babbler(1)));
    for protocol in [best_of(1), best_of(3)] {
        let alone = play(
            &player,
            &jobs,
            &protocol,
            Concurrency {
                workers: 1,
                episodes: 1,
            },
        );
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
fn the_admissible_commands_stand_below_the_observation_where_they_are_shown() {
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
fn an_episode_ends_for_the_reason_it_names() {
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

/// The corridor has a pit in room 2: who falls in has lost, whatever was still to be played.
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
        assert_eq!(played[0].failure, None, "the world did what it should");
    }
}

/// The slots of a world are taken again as soon as an episode is over, however it ended, and never before.
#[test]
fn a_world_of_limited_capacity_is_never_overfull() {
    let tasks = tasks(&[
        "plain/1", "plain/3", "walled/1", "pitted/5", "rotten/5", "buggy/5", "plain/9",
    ]);
    let (jobs, policy) = (
        jobs(&tasks, 6),
        script(&["east", "", "look", "east", "east"]),
    );
    let alone = play(
        &policy,
        &jobs,
        &protocol(),
        Concurrency {
            workers: 1,
            episodes: 1,
        },
    );
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
fn a_world_that_fails_loses_its_own_episode_and_says_why() {
    let healthy = tasks(&["plain/1", "plain/3", "plain/5"]);
    let mixed = tasks(&[
        "plain/1", "plain/3", "plain/5", "walled/1", "rotten/5", "buggy/5",
    ]);
    let policy = script(&["east"; 5]);
    let played = play(&policy, &jobs(&mixed, 1), &protocol(), POOL);
    let undisturbed = play(&policy, &jobs(&healthy, 1), &protocol(), POOL);
    assert_eq!(played[..3], undisturbed, "the others are as without it");
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
        "nobody waits for it"
    );
}

#[test]
fn a_slow_world_makes_no_other_episode_wait() {
    let tasks = tasks(&["slow/1", "plain/1", "plain/2", "plain/3", "plain/4"]);
    let (jobs, world) = (jobs(&tasks, 2), Corridors::default());
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
        "the slow ones end last, after they were released"
    );
}

#[test]
fn an_error_of_the_recorder_ends_the_round() {
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

/// The world never hears of a malformed completion: the room stays, a turn is spent, the next observation says so.
#[test]
fn a_malformed_completion_costs_a_turn_and_does_not_reach_the_world() {
    let tasks = tasks(&["plain/2"]);
    let policy = script(&["east", "", "east\nlook", "<|agent|>", "east"]);
    let played = play(&policy, &jobs(&tasks, 1), &protocol(), POOL).remove(0);
    let heard: Vec<&str> = played
        .turns
        .iter()
        .skip(1)
        .map(|turn| turn.observation.as_str())
        .collect();
    assert_eq!(
        heard,
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

/// One token is no room for a word and an end: every command is cut, and the world puts the missing end in.
#[test]
fn a_cut_completion_is_malformed_and_closed_by_the_world() {
    let (tasks, model) = (tasks(&["plain/2"]), babbler(1));
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
                Place::AfterEnd
            } else {
                Place::AfterCut
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

/// An episode stops before the turn that might not fit, and never later.
#[test]
fn the_context_limit_leaves_room_for_a_whole_completion() {
    let (tasks, model) = (tasks(&["plain/9"]), babbler(2));
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
                    None => Place::Opening,
                    Some(turn) if turn.completion_tokens.last() == Some(&model.tokenizer.end) => {
                        Place::AfterEnd
                    }
                    Some(_) => Place::AfterCut,
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
    assert_eq!(played_with(20), (4, 0), "not even the opening fits");
    assert_eq!(played_with(100), (4, 0));
    let (stopped, _) = played_with(10_000);
    assert_eq!(
        stopped, 0,
        "the model's own context of 512 tokens is enough for 20 turns"
    );
}

/// What stands in the log, read from scratch in one piece, gives the very log-probabilities and values that were
/// logged turn by turn: the policy read this concatenation and nothing else, at any temperature and K.
#[test]
fn the_logged_tokens_are_what_the_policy_read() {
    let (tasks, model) = (tasks(&["plain/3", "plain/9"]), babbler(3));
    let policy = PolicyInference::from_weights(
        &model.config,
        &mut model.policy.clone(),
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let value = ValueInference::from_weights(
        &model.config,
        &mut model.value.clone().unwrap(),
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let (width, vocab) = (model.config.hidden_size, model.config.vocab_size);
    for protocol in [
        best_of(1),
        best_of(3),
        Protocol {
            temperature: 2.5,
            ..best_of(2)
        },
        Protocol {
            temperature: 0.0,
            ..best_of(1)
        },
        Protocol {
            search: Some(Search::Beam { width: 3 }),
            ..best_of(2)
        },
        Protocol {
            search: Some(Search::BestFirst { budget: 24 }),
            ..best_of(3)
        },
    ] {
        for played in play(&player(&model), &jobs(&tasks, 2), &protocol, POOL) {
            let tokens = tokens(&played);
            assert_eq!(Some(tokens[0]), model.tokenizer.id(BEGIN));
            let read = |trunk: &agent::inference::Trunk| {
                trunk.extend(&mut [Span::new(&tokens, &mut KvCache::default())])
            };
            let (states, value_states) = (read(&policy.trunk), read(&value.trunk));
            let logprobs = policy.logprobs(&states);
            let value_at = |position: usize| {
                value.value(&value_states[position * width..(position + 1) * width])
            };
            let mut end = 0;
            for turn in &played.turns {
                end += turn.observation_tokens.len();
                assert_eq!(
                    turn.value,
                    Some(value_at(end - 1)),
                    "V just before the completion"
                );
                for (token, logged) in turn.completion_tokens.iter().zip(&turn.logprobs) {
                    let row = &logprobs[(end - 1) * vocab..end * vocab];
                    assert_eq!(*logged, row[*token as usize], "under the untempered policy");
                    if protocol.temperature == 0.0 {
                        assert!(
                            row.iter().all(|other| other <= logged),
                            "greedy takes the likeliest"
                        );
                    }
                    end += 1;
                }
                assert_eq!(
                    turn.after_value,
                    Some(value_at(end - 1)),
                    "U just after the completion"
                );
                assert_eq!(turn.logprobs.len(), turn.completion_tokens.len());
            }
        }
    }
}

#[test]
fn the_best_of_k_is_the_candidate_with_the_highest_value() {
    let (tasks, model) = (tasks(&["plain/9"]), babbler(4));
    let played = play(&player(&model), &jobs(&tasks, 4), &best_of(4), POOL);
    let turns: Vec<_> = played.iter().flat_map(|t| &t.turns).collect();
    for turn in &turns {
        let scores: Vec<f32> = turn
            .candidates
            .iter()
            .map(|candidate| candidate.score)
            .collect();
        assert!((1..=4).contains(&scores.len()));
        assert_eq!(turn.after_value, scores.iter().copied().reduce(f32::max));
        let winner = agent::policy::lm::select::best(&scores);
        assert_eq!(turn.completion, turn.candidates[winner].completion);
    }
    assert!(
        turns.iter().any(|turn| turn.candidates.len() == 4),
        "four different completions occur"
    );
    assert!(
        turns
            .iter()
            .any(|turn| turn.after_value != Some(turn.candidates[0].score)),
        "not always the first"
    );
}

/// At temperature 0 all K candidates are the same one: it is scored once, and K changes nothing.
#[test]
fn equal_candidates_count_once() {
    let (tasks, model) = (tasks(&["plain/9"]), babbler(4));
    let greedy = |k: usize| {
        play(
            &player(&model),
            &jobs(&tasks, 2),
            &Protocol {
                temperature: 0.0,
                ..best_of(k)
            },
            POOL,
        )
    };
    let (one, three) = (greedy(1), greedy(3));
    assert!(
        three
            .iter()
            .flat_map(|t| &t.turns)
            .all(|turn| turn.candidates.len() == 1)
    );
    assert!(
        one.iter()
            .flat_map(|t| &t.turns)
            .all(|turn| turn.candidates.is_empty())
    );
    assert_eq!(
        one.iter().map(tokens).collect::<Vec<_>>(),
        three.iter().map(tokens).collect::<Vec<_>>()
    );
    assert_eq!(
        one[0].turns, one[1].turns,
        "greedy play does not depend on the seed"
    );
}

/// A budget of one full context: most episodes wait, some give up their caches and read their sequence again. Nobody
/// sees a difference, and the caches never hold more.
#[test]
fn a_small_token_budget_changes_no_result() {
    let (tasks, model) = (tasks(&["plain/9", "plain/5", "plain/7"]), babbler(6));
    let (jobs, protocol) = (
        jobs(&tasks, 8),
        Protocol {
            turn_limit: 12,
            ..best_of(2)
        },
    );
    let budget = 2 * model.config.max_position_embeddings;
    let holding = |token_budget| LoadOptions {
        token_budget,
        ..LoadOptions::from(ValueUse::Score)
    };
    let small = LmPolicy::new(model.clone(), holding(Some(budget))).unwrap();
    let pool = Concurrency {
        workers: 2,
        episodes: 24,
    };
    let mut played = Vec::new();
    play_episodes(
        &small,
        &Corridors::default(),
        &jobs,
        &protocol,
        pool,
        |trajectory| -> Result<(), ()> {
            assert!(
                small.tokens_held() <= budget,
                "{} tokens in a budget of {budget}",
                small.tokens_held()
            );
            played.push(trajectory);
            Ok(())
        },
    )
    .unwrap();
    let held: usize = played.iter().map(Trajectory::tokens).sum();
    assert!(
        2 * held > 3 * budget,
        "{held} tokens would have fitted anyway"
    );
    for trajectory in play(&player(&model), &jobs, &protocol, pool) {
        let same =
            |t: &&Trajectory| (&t.game, t.repetition) == (&trajectory.game, trajectory.repetition);
        assert_eq!(played.iter().find(same).unwrap().turns, trajectory.turns);
    }
    let Err(error) = LmPolicy::new(model, holding(Some(budget - 1))) else {
        panic!("not one episode fits")
    };
    assert!(
        error.to_string().contains("one episode may hold 1024"),
        "{error}"
    );
}

/// Its text ends before the stop text, its tokens are those that were sampled, and the world puts the end in.
#[test]
fn a_stop_text_ends_a_completion() {
    let (tasks, model) = (tasks(&["plain/9"]), babbler(7));
    let stopping = Protocol {
        stop: vec!["k".into(), "as".into()],
        ..protocol()
    };
    let mut stopped = 0;
    for played in play(&player(&model), &jobs(&tasks, 6), &stopping, POOL) {
        for (place, turn) in played.turns.iter().enumerate() {
            let written = model.tokenizer.decode(&turn.completion_tokens);
            let at = [written.find('k'), written.find("as")]
                .into_iter()
                .flatten()
                .min();
            let Some(at) = at else { continue };
            assert_eq!(turn.completion, written[..at]);
            assert_eq!(
                turn.action.as_deref(),
                chat::parse_command(&turn.completion)
            );
            assert_eq!(turn.completion_tokens.len(), turn.logprobs.len());
            if let Some(next) = played.turns.get(place + 1) {
                assert_eq!(next.observation_tokens[0], model.tokenizer.end);
            }
            stopped += 1;
        }
    }
    assert!(stopped > 5, "{stopped}");
}

/// Both log-probabilities of a token are logged where they differ: at top-2 the two likeliest share the whole.
#[test]
fn the_sampling_distribution_is_logged_where_it_is_not_the_policys() {
    let (tasks, model) = (tasks(&["plain/9"]), babbler(8));
    let played = |protocol: &Protocol| play(&player(&model), &jobs(&tasks, 3), protocol, POOL);
    for same in [
        protocol(),
        Protocol {
            temperature: 0.0,
            top_k: 5,
            ..protocol()
        },
    ] {
        assert!(
            played(&same)
                .iter()
                .flat_map(|t| &t.turns)
                .all(|turn| turn.sampling_logprobs.is_empty())
        );
    }
    let two = Protocol {
        top_k: 2,
        ..protocol()
    };
    for turn in played(&two).iter().flat_map(|t| &t.turns) {
        for (policy, sampling) in turn.logprobs.iter().zip(&turn.sampling_logprobs) {
            assert!(
                sampling > policy && *sampling <= 0.0,
                "{sampling} of two, {policy} of all"
            );
        }
        assert_eq!(turn.sampling_logprobs.len(), turn.completion_tokens.len());
    }
}

#[test]
fn samples_come_from_the_seed_alone() {
    let (tasks, model) = (tasks(&["plain/9"]), babbler(5));
    let blind = LmPolicy::new(model.clone(), ValueUse::Skip).unwrap();
    let alone = play(&blind, &jobs(&tasks, 3), &best_of(1), POOL);
    assert_ne!(
        tokens(&alone[0]),
        tokens(&alone[1]),
        "another seed, another episode"
    );
    let watched = play(&player(&model), &jobs(&tasks, 3), &best_of(1), POOL);
    for (blind, watched) in alone.iter().zip(&watched) {
        assert_eq!(tokens(blind), tokens(watched), "looking on changes nothing");
        assert!(
            blind
                .turns
                .iter()
                .all(|turn| turn.value.is_none() && turn.after_value.is_none())
        );
        assert_eq!(
            (blind.value_policy.is_some(), watched.value_policy.is_some()),
            (false, true)
        );
    }
}

/// A malformed turn leaves the world where it was.
#[test]
fn a_turn_names_the_state_in_which_it_was_written() {
    let policy = script(&["east", "", "look", "west", "east", "east"]);
    let states = |id: &str| -> Vec<Option<u64>> {
        let played = play(&policy, &jobs(&tasks(&[id]), 1), &protocol(), POOL).remove(0);
        assert_eq!((played.outcome, played.turns.len()), (Outcome::Success, 6));
        played.turns.iter().map(|turn| turn.state).collect()
    };
    assert_eq!(states("plain/2"), [0, 1, 1, 1, 0, 1].map(Some));
    assert_eq!(states("dumb/2"), [None; 6]);
}

/// Continues an episode from its first turns.
fn forced<'a>(task: &'a Task, played: &'a Trajectory, turns: usize) -> EpisodeJob<'a> {
    EpisodeJob {
        task,
        repetition: played.repetition,
        seed: played.seed,
        forced: &played.turns[..turns],
    }
}

/// With the same seed an episode that begins with its own first turns is that episode again, log-probabilities, values
/// and all: nothing that the policy reads differs.
#[test]
fn an_episode_goes_on_from_any_of_its_turns() {
    let (tasks, model) = (tasks(&["plain/9"]), babbler(3));
    let player = player(&model);
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
                    "turns played before cost nothing"
                );
                again.spent = whole.spent;
            }
            assert_eq!(again, whole);
        }
    }
    assert!(malformed > 10, "{malformed}");
}

/// Many that go on from one turn share what is read of it, whoever they are in flight with.
#[test]
fn those_that_go_on_from_one_turn_do_not_depend_on_each_other() {
    let (tasks, player) = (tasks(&["plain/9"]), player(&babbler(6)));
    let whole = play(&player, &jobs(&tasks, 2), &protocol(), POOL);
    let jobs: Vec<EpisodeJob<'_>> = (0..12)
        .map(|index| EpisodeJob {
            repetition: index,
            seed: 50 + index as u64,
            ..forced(&tasks[0], &whole[index % 2], 3)
        })
        .collect();
    let alone = play(
        &player,
        &jobs,
        &protocol(),
        Concurrency {
            workers: 1,
            episodes: 1,
        },
    );
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
        "each from its own seed"
    );
}

/// A demonstration has no ids; the model reads its texts, as a lesson does.
#[test]
fn a_model_goes_on_from_turns_that_were_written_in_text() {
    let (tasks, model) = (tasks(&["plain/9"]), babbler(3));
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
fn a_world_that_does_not_say_again_what_it_said_loses_the_episode() {
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
    let whoever = play(
        &ExpertPolicy::default(),
        &[forced(&healthy[0], &played, 1)],
        &protocol(),
        POOL,
    )
    .remove(0);
    assert_eq!(
        whoever.failure.unwrap(),
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

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    let mut model = babbler(1);
    let (has, fits) = (
        model.tokenizer.vocab_size(),
        model.tokenizer.vocab_size() - 1,
    );
    model.config.vocab_size = fits;
    let Err(error) = LmPolicy::new(model, ValueUse::Skip) else {
        panic!("{has} tokens do not fit into {fits}")
    };
    assert_eq!(
        error.to_string(),
        format!("model configuration: the tokenizer has {has} tokens, the model {fits}")
    );
}
