//! Search in corridors: it finds the win, reports what it has spent, and leaves the log of an
//! ordinary episode.

use super::{ALONE, POOL, best_of};
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::policy::{
    Completion, ExpertPolicy, Lookahead, Policy, TurnRequest, TurnResponse, text_response,
};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use agent::text::chat::MALFORMED_ANSWER;
use scenarios::{
    Environment, EnvironmentError, Observation, Outcome, Protocol, Search, Spent, Task, Trajectory,
    Turn, World,
};
use std::convert::Infallible;
use support::corridor::{Corridors, babbler, jobs, play, protocol, task, tasks};

const BEAM: Search = Search::Beam { width: 2 };
const BEST_FIRST: Search = Search::BestFirst { budget: 14 };

fn searched(search: Search, k: usize) -> Protocol {
    Protocol {
        search: Some(search),
        ..best_of(k)
    }
}

fn player(seed: u64) -> LmPolicy {
    LmPolicy::new(babbler(seed), ValueUse::Score).unwrap()
}

/// A policy with the exact value of a room, which is the number of rooms in its west. Its first
/// three candidates lead nowhere, and only the fourth leads east.
struct RoomCounter;

struct RoomEpisode {
    room: usize,
    evaluated: bool,
}

const CANDIDATES: [&str; 4] = ["look", "", "west", "east"];

impl Policy for RoomCounter {
    type EpisodeState = RoomEpisode;

    fn name(&self) -> String {
        "walker".into()
    }

    fn begin(&self, _: u64) -> RoomEpisode {
        RoomEpisode {
            room: 0,
            evaluated: false,
        }
    }

    fn replay(&self, episode: &mut RoomEpisode, turn: &Turn) -> Result<(), String> {
        episode.room += usize::from(turn.action.as_deref() == Some("east"));
        Ok(())
    }

    fn respond(
        &self,
        requests: &mut [TurnRequest<'_, RoomEpisode>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        requests
            .iter_mut()
            .map(|request| request.episode.respond(request.observation, protocol))
            .collect()
    }

    fn lookahead(&self) -> Option<&dyn Lookahead<EpisodeState = RoomEpisode>> {
        Some(self)
    }
}

impl RoomEpisode {
    fn respond(&mut self, observation: &str, protocol: &Protocol) -> TurnResponse {
        if protocol.search.is_none() {
            return text_response(CANDIDATES[0].into());
        }
        if !std::mem::replace(&mut self.evaluated, true) {
            let room = observation
                .strip_prefix("You are in room ")
                .map(|rest| rest.split([' ', '.']).next().unwrap());
            self.room = room.map_or(self.room, |room| room.parse().unwrap());
            return TurnResponse::StateValue(self.room as f32);
        }
        let candidate = |text: &&str| Completion {
            text: (*text).into(),
            ended: true,
            value: Some(self.room as f32),
            written: 1,
            written_tokens: 2,
            ..Completion::default()
        };
        TurnResponse::Candidates(
            CANDIDATES[..protocol.best_of]
                .iter()
                .map(candidate)
                .collect(),
        )
    }
}

impl Lookahead for RoomCounter {
    type EpisodeState = RoomEpisode;

    fn branch(&self, episode: &mut RoomEpisode, _: usize) -> RoomEpisode {
        RoomEpisode {
            room: episode.room,
            evaluated: false,
        }
    }
}

/// The goal is three rooms to the east. Each state has four candidates, of which three are
/// commands. Best-first tries each room once. A beam of two also continues from the best state that
/// is behind.
#[test]
fn a_search_finds_the_win_that_greedy_play_misses() {
    let tasks = tasks(&["plain/3"]);
    let played =
        |protocol: &Protocol| play(&RoomCounter, &jobs(&tasks, 1), protocol, POOL).remove(0);
    assert_eq!(played(&best_of(1)).outcome, Outcome::TurnLimit);
    for (search, states) in [(Search::Beam { width: 1 }, 3), (BEAM, 5), (BEST_FIRST, 3)] {
        let found = played(&searched(search, 4));
        assert_eq!(found.outcome, Outcome::Success, "{search}");
        let actions: Vec<Option<&str>> = found
            .turns
            .iter()
            .map(|turn| turn.action.as_deref())
            .collect();
        assert_eq!(actions, [Some("east"); 3]);
        let expected = Spent {
            completions: 4 * states,
            tokens: 8 * states,
            commands: 3 * states,
        };
        assert_eq!(found.spent, expected, "{search} counts all that was tried");
        let told: Vec<Option<f32>> = found.turns.iter().map(|turn| turn.value).collect();
        assert_eq!(told, [Some(0.0), Some(1.0), Some(2.0)]);
    }
}

/// If no candidate leads east, the best state is logged: no success, and everything that was spent.
#[test]
fn a_search_without_a_win_is_no_success() {
    let tasks = tasks(&["plain/3", "dumb/3"]);
    let played = |search| play(&RoomCounter, &jobs(&tasks, 1), &searched(search, 3), POOL);
    for trajectory in played(BEAM) {
        assert_eq!(
            (trajectory.outcome, trajectory.turns.len()),
            (Outcome::TurnLimit, 6)
        );
        assert_eq!(trajectory.last_observation, "You are in room 0.");
    }
    let found = played(BEST_FIRST);
    let shape = |t: &Trajectory| (t.outcome, t.turns.len(), t.spent.completions);
    assert_eq!(
        shape(&found[0]),
        (Outcome::TurnLimit, 4, 12),
        "a room after the same number of turns is one state"
    );
    assert_eq!(
        shape(&found[1]),
        (Outcome::TurnLimit, 2, 12),
        "without hashes, there are several"
    );
    let lost = play(
        &RoomCounter,
        &jobs(&[task("pitted/3")], 1),
        &searched(BEST_FIRST, 4),
        POOL,
    )
    .remove(0);
    assert_eq!(
        (lost.outcome, lost.last_observation.as_str()),
        (Outcome::TurnLimit, "You are in room 1."),
        "not the pit"
    );
}

/// With K = 2, the candidates are `look` and an empty text. Both lead to the same state, so the
/// malformed one is the second of two equals.
#[test]
fn a_malformed_candidate_is_a_wasted_turn() {
    let only_malformed = |trajectory: &Trajectory| {
        trajectory
            .turns
            .iter()
            .all(|turn| turn.candidates.len() == 2 && turn.candidates[1].completion.is_empty())
    };
    let tasks = tasks(&["dumb/3"]);
    let beam = play(&RoomCounter, &jobs(&tasks, 1), &searched(BEAM, 2), POOL).remove(0);
    assert!(only_malformed(&beam), "{beam:?}");
    assert_eq!(
        (beam.spent.completions, beam.spent.commands),
        (2 + 5 * 4, 1 + 5 * 2),
        "it is not sent to the environment"
    );

    let player = player(1);
    let cut = Protocol {
        completion_limit: 1,
        ..searched(BEAM, 3)
    };
    let mut malformed = 0;
    for trajectory in play(&player, &jobs(&tasks, 4), &cut, POOL) {
        malformed += trajectory.malformed_turns();
        for pair in trajectory
            .turns
            .windows(2)
            .filter(|pair| pair[0].action.is_none())
        {
            assert_eq!(pair[1].observation, MALFORMED_ANSWER);
        }
    }
    assert!(malformed > 10, "{malformed}");
}

#[test]
fn a_beam_of_one_with_one_candidate_is_plain_sampling() {
    let tasks = tasks(&["plain/1", "plain/3", "plain/9", "pitted/4"]);
    let player = player(1);
    let tight = |protocol: Protocol| Protocol {
        context_limit: 80,
        ..protocol
    };
    let greedy = |protocol: Protocol| Protocol {
        temperature: 0.0,
        ..protocol
    };
    let mut outcomes = Vec::new();
    for how in [|protocol| protocol, tight, greedy] {
        let plain = play(&player, &jobs(&tasks, 4), &how(best_of(1)), POOL);
        let beam = play(
            &player,
            &jobs(&tasks, 4),
            &how(searched(Search::Beam { width: 1 }, 1)),
            POOL,
        );
        for (beam, plain) in beam.into_iter().zip(plain) {
            outcomes.push(plain.outcome);
            assert_eq!(
                Trajectory {
                    protocol: plain.protocol.clone(),
                    ..beam
                },
                plain
            );
        }
    }
    for outcome in [
        Outcome::Success,
        Outcome::Failure,
        Outcome::TurnLimit,
        Outcome::ContextLimit,
    ] {
        assert!(
            outcomes.contains(&outcome),
            "the games were chosen to end in every way: {outcomes:?}"
        );
    }
}

#[test]
fn search_results_do_not_depend_on_the_concurrency() {
    let tasks = tasks(&[
        "plain/1", "plain/3", "plain/9", "rotten/9", "walled/1", "pitted/6", "dumb/5",
    ]);
    let jobs = jobs(&tasks, 2);
    let player = player(1);
    for search in [BEAM, BEST_FIRST] {
        let protocol = searched(search, 3);
        let alone = play(&player, &jobs, &protocol, ALONE);
        let outcomes: Vec<Outcome> = alone.iter().map(|t| t.outcome).collect();
        for outcome in [Outcome::Success, Outcome::TurnLimit, Outcome::EnvFailed] {
            assert!(
                outcomes.contains(&outcome),
                "the games were chosen to end in every way: {outcomes:?}"
            );
        }
        for (workers, episodes) in [(4, 14), (2, 5)] {
            assert_eq!(
                play(&player, &jobs, &protocol, Concurrency { workers, episodes }),
                alone,
                "{search}"
            );
        }
    }
}

/// If the search continues from one state, all waiting states release their caches.
#[test]
fn a_small_token_budget_changes_no_search() {
    let tasks = tasks(&["plain/9", "dumb/7"]);
    let model = babbler(6);
    let jobs = jobs(&tasks, 3);
    let unlimited = player(6);
    let budget = 2 * model.config.max_position_embeddings;
    let options = LoadOptions {
        token_budget: Some(budget),
        ..LoadOptions::from(ValueUse::Score)
    };
    let small = LmPolicy::new(model, options).unwrap();
    let pool = Concurrency {
        workers: 2,
        episodes: 6,
    };
    for (search, turn_limit) in [
        (Search::Beam { width: 3 }, 8),
        (Search::BestFirst { budget: 45 }, 20),
    ] {
        let protocol = Protocol {
            turn_limit,
            ..searched(search, 3)
        };
        let Ok(()) = play_episodes(
            &small,
            &Corridors::default(),
            &jobs,
            &protocol,
            pool,
            |played| {
                assert!(
                    small.tokens_held() <= budget,
                    "{} tokens in a budget of {budget}",
                    small.tokens_held()
                );
                let job = jobs
                    .iter()
                    .find(|job| job.task.id == played.game && job.repetition == played.repetition);
                let alone = play(&unlimited, &[job.unwrap().clone()], &protocol, POOL).remove(0);
                assert_eq!(
                    Trajectory {
                        seconds: 0.0,
                        ..played
                    },
                    alone
                );
                Ok::<(), Infallible>(())
            },
        );
    }
}

#[test]
fn the_completion_budget_is_never_exceeded() {
    let tasks = tasks(&["plain/9", "dumb/9"]);
    let player = player(2);
    for budget in [3, 4, 10, 31] {
        for trajectory in play(
            &player,
            &jobs(&tasks, 3),
            &searched(Search::BestFirst { budget }, 3),
            POOL,
        ) {
            let written = trajectory.spent.completions;
            assert!(
                written <= budget && (trajectory.game != "dumb/9" || written + 3 > budget),
                "{written} of {budget}"
            );
        }
    }
}

/// The log is that of an ordinary episode: a new environment gives the same observations, and each
/// turn contains its candidates, of which the played one has V of the state that it led to.
#[test]
fn the_logged_path_can_be_replayed_in_a_new_environment() {
    let tasks = tasks(&["plain/1", "plain/2", "plain/3"]);
    let player = player(1);
    let mut won = 0;
    for search in [BEAM, BEST_FIRST] {
        for logged in play(&player, &jobs(&tasks, 3), &searched(search, 3), POOL) {
            let task = tasks.iter().find(|task| task.id == logged.game).unwrap();
            let mut environment = Corridors::default().open(task).unwrap();
            let mut observation = environment.reset().unwrap();
            for turn in &logged.turns {
                assert!(!observation.won());
                assert_eq!(
                    (&turn.observation, turn.state),
                    (&observation.text, environment.state_hash())
                );
                observation = match &turn.action {
                    Some(command) => environment.step(command).unwrap(),
                    None => Observation {
                        text: MALFORMED_ANSWER.into(),
                        ..observation
                    },
                };
            }
            assert_eq!(logged.last_observation, observation.text);
            assert_eq!(observation.won(), logged.is_won());
            won += usize::from(observation.won());
            for (place, turn) in logged.turns.iter().enumerate() {
                let played = turn
                    .candidates
                    .iter()
                    .find(|candidate| candidate.completion == turn.completion)
                    .unwrap();
                assert_eq!(
                    turn.candidates
                        .iter()
                        .map(|candidate| candidate.count)
                        .sum::<usize>(),
                    3
                );
                let led_to = logged.turns.get(place + 1).map(|next| next.value.unwrap());
                assert!(
                    led_to.is_none_or(|value| value == played.score),
                    "{played:?}"
                );
            }
            let forced = EpisodeJob {
                task,
                repetition: 0,
                seed: 9,
                forced: &logged.turns,
            };
            let as_long = Protocol {
                turn_limit: logged.turns.len(),
                ..protocol()
            };
            let again = play(&player, &[forced], &as_long, POOL).remove(0);
            assert_eq!(
                (again.outcome, again.turns.len()),
                (logged.outcome, logged.turns.len())
            );
        }
    }
    assert!(won > 3, "{won}");
}

/// If an episode begins with turns that were played before, the search continues after them.
#[test]
fn a_search_can_continue_from_turns_that_were_played() {
    let tasks = tasks(&["plain/3"]);
    let found = play(&RoomCounter, &jobs(&tasks, 1), &searched(BEAM, 4), POOL).remove(0);
    let forced = EpisodeJob {
        task: &tasks[0],
        repetition: 0,
        seed: 0,
        forced: &found.turns[..2],
    };
    let again = play(&RoomCounter, &[forced], &searched(BEAM, 4), POOL).remove(0);
    assert_eq!(
        (again.outcome, &again.turns),
        (Outcome::Success, &found.turns)
    );
    assert_eq!((again.spent.completions, again.spent.commands), (4, 2 + 3));
}

/// Opens corridors of which only copies may be stepped, and which must not be asked for admissible
/// commands.
struct CopiesOnly(Corridors);

struct CopyOnlyCorridor {
    corridor: Box<dyn Environment>,
    is_copy: bool,
}

impl World for CopiesOnly {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(CopyOnlyCorridor {
            corridor: self.0.open(task)?,
            is_copy: false,
        }))
    }
}

impl Environment for CopyOnlyCorridor {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        assert!(!self.is_copy, "a copy must continue from where it was made");
        self.corridor.reset()
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        assert!(self.is_copy, "the game itself must not be continued");
        self.corridor.step(command)
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        panic!("admissible commands must not be read")
    }

    fn state_hash(&self) -> Option<u64> {
        self.corridor.state_hash()
    }

    fn fork(&self) -> Option<Box<dyn Environment>> {
        Some(Box::new(Self {
            corridor: self.corridor.fork()?,
            is_copy: true,
        }))
    }
}

#[test]
fn a_search_steps_only_copies_of_the_environment() {
    let tasks = tasks(&["plain/2", "plain/5"]);
    let player = player(3);
    for search in [BEAM, BEST_FIRST] {
        let world = CopiesOnly(Corridors::default());
        let mut ended = Vec::new();
        let Ok(()) = play_episodes(
            &player,
            &world,
            &jobs(&tasks, 3),
            &searched(search, 3),
            POOL,
            |trajectory| {
                ended.push((trajectory.outcome, trajectory.failure));
                Ok::<(), Infallible>(())
            },
        );
        assert!(
            ended
                .iter()
                .all(|(outcome, _)| *outcome != Outcome::EnvFailed),
            "{ended:?}"
        );
        assert_eq!(
            (ended.len(), world.0.open_and_most().0),
            (6, 0),
            "every copy was closed"
        );
    }
}

#[test]
fn an_episode_that_cannot_be_searched_is_lost_with_a_reason() {
    let failure = |policy: &dyn Fn(&[EpisodeJob<'_>]) -> Trajectory, id: &str| {
        let tasks = tasks(&[id]);
        let trajectory = policy(&jobs(&tasks, 1));
        assert_eq!(trajectory.outcome, Outcome::EnvFailed);
        trajectory.failure.unwrap()
    };
    let protocol = searched(BEAM, 2);
    let counter = |jobs: &[EpisodeJob<'_>]| play(&RoomCounter, jobs, &protocol, POOL).remove(0);
    assert!(failure(&counter, "single/3").starts_with("the world cannot be copied"));
    let expert =
        |jobs: &[EpisodeJob<'_>]| play(&ExpertPolicy::default(), jobs, &protocol, POOL).remove(0);
    assert_eq!(
        failure(&expert, "plain/3"),
        "expert cannot search: it has no value network"
    );
    let without_value = LmPolicy::new(babbler(1), ValueUse::Skip).unwrap();
    let without_value =
        |jobs: &[EpisodeJob<'_>]| play(&without_value, jobs, &protocol, POOL).remove(0);
    assert!(failure(&without_value, "plain/3").ends_with("cannot search: it has no value network"));
}
