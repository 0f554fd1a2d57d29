//! Search in corridors: that it finds what it should, spends what it says, and leaves a record that is an episode like
//! any other.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod corridor;

use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::policy::{
    Completion, ExpertPolicy, Lookahead, Policy, TurnRequest, TurnResponse, written,
};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use agent::text::chat::MALFORMED_ANSWER;
use corridor::{Corridors, babbler, jobs, play, protocol, task};
use scenarios::{
    Environment, EnvironmentError, Observation, Outcome, Protocol, Search, Spent, Task, Trajectory,
    Turn, World,
};
use std::convert::Infallible;

const POOL: Concurrency = Concurrency {
    workers: 2,
    episodes: 8,
};
const BEAM: Search = Search::Beam { width: 2 };
const BEST_FIRST: Search = Search::BestFirst { budget: 14 };

fn searched(search: Search, k: usize) -> Protocol {
    Protocol {
        search: Some(search),
        ..best_of(k)
    }
}

fn best_of(k: usize) -> Protocol {
    Protocol {
        best_of: k,
        ..protocol()
    }
}

fn tasks(ids: &[&str]) -> Vec<Task> {
    ids.iter().map(|id| task(id)).collect()
}

fn player(seed: u64) -> LmPolicy {
    LmPolicy::new(babbler(seed), ValueUse::Score).unwrap()
}

/// Knows the exact value of a room, the number of those to its west, and would rather look around than go there: its first
/// candidates lead nowhere, and only the fourth leads east.
struct Walker;

struct Walk {
    room: usize,
    seen: bool,
}

const CANDIDATES: [&str; 4] = ["look", "", "west", "east"];

impl Policy for Walker {
    type EpisodeState = Walk;

    fn name(&self) -> String {
        "walker".into()
    }

    fn begin(&self, _: u64) -> Walk {
        Walk {
            room: 0,
            seen: false,
        }
    }

    fn replay(&self, seat: &mut Walk, turn: &Turn) -> Result<(), String> {
        seat.room += usize::from(turn.action.as_deref() == Some("east"));
        Ok(())
    }

    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, Walk>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        asked
            .iter_mut()
            .map(|question| question.seat.respond(question.observation, protocol))
            .collect()
    }

    fn lookahead(&self) -> Option<&dyn Lookahead<EpisodeState = Walk>> {
        Some(self)
    }
}

impl Walk {
    fn respond(&mut self, observation: &str, protocol: &Protocol) -> TurnResponse {
        if protocol.search.is_none() {
            return written(CANDIDATES[0].into());
        }
        if !std::mem::replace(&mut self.seen, true) {
            let room = observation
                .strip_prefix("You are in room ")
                .map(|rest| rest.split([' ', '.']).next().unwrap());
            self.room = room.map_or(self.room, |room| room.parse().unwrap());
            return TurnResponse::Seen(self.room as f32);
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

impl Lookahead for Walker {
    type EpisodeState = Walk;

    fn branch(&self, seat: &mut Walk, _: usize) -> Walk {
        Walk {
            room: seat.room,
            seen: false,
        }
    }
}

/// Three rooms to the east, four candidates a state, of which three are commands. Best-first tries each room once; a beam
/// of two also goes on from the best that stayed behind.
#[test]
fn a_search_finds_the_win_that_greedy_play_misses() {
    let tasks = tasks(&["plain/3"]);
    let played = |protocol: &Protocol| play(&Walker, &jobs(&tasks, 1), protocol, POOL).remove(0);
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

/// With the way east never written, what is logged is the best state that there is: no success, and all it has spent.
#[test]
fn what_is_not_won_is_no_success() {
    let tasks = tasks(&["plain/3", "dumb/3"]);
    let played = |search| play(&Walker, &jobs(&tasks, 1), &searched(search, 3), POOL);
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
        "a room after as many turns is one state"
    );
    assert_eq!(
        shape(&found[1]),
        (Outcome::TurnLimit, 2, 12),
        "and several where the world does not tell"
    );
    let lost = play(
        &Walker,
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

/// K = 2: it looks around or writes nothing; the state is the same, so the malformed one is the second of equals.
#[test]
fn a_malformed_candidate_is_a_wasted_turn() {
    let only_malformed = |trajectory: &Trajectory| {
        trajectory
            .turns
            .iter()
            .all(|turn| turn.candidates.len() == 2 && turn.candidates[1].completion.is_empty())
    };
    let tasks = tasks(&["dumb/3"]);
    let beam = play(&Walker, &jobs(&tasks, 1), &searched(BEAM, 2), POOL).remove(0);
    assert!(only_malformed(&beam), "{beam:?}");
    assert_eq!(
        (beam.spent.completions, beam.spent.commands),
        (2 + 5 * 4, 1 + 5 * 2),
        "it reaches no world"
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
fn one_beam_of_one_candidate_is_plain_sampling() {
    let (tasks, player) = (
        tasks(&["plain/1", "plain/3", "plain/9", "pitted/4"]),
        player(1),
    );
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
fn results_do_not_depend_on_the_pool() {
    let tasks = tasks(&[
        "plain/1", "plain/3", "plain/9", "rotten/9", "walled/1", "pitted/6", "dumb/5",
    ]);
    let (jobs, player) = (jobs(&tasks, 2), player(1));
    for search in [BEAM, BEST_FIRST] {
        let protocol = searched(search, 3);
        let alone = play(
            &player,
            &jobs,
            &protocol,
            Concurrency {
                workers: 1,
                episodes: 1,
            },
        );
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

/// All that waits in a queue gives up its caches when another state is to be gone on from.
#[test]
fn a_small_token_budget_changes_no_result() {
    let (tasks, model) = (tasks(&["plain/9", "dumb/7"]), babbler(6));
    let (jobs, roomy, budget) = (
        jobs(&tasks, 3),
        player(6),
        2 * model.config.max_position_embeddings,
    );
    let holding = LoadOptions {
        token_budget: Some(budget),
        ..LoadOptions::from(ValueUse::Score)
    };
    let small = LmPolicy::new(model, holding).unwrap();
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
                let alone = play(&roomy, &[job.unwrap().clone()], &protocol, POOL).remove(0);
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
fn the_budget_is_never_exceeded() {
    let (tasks, player) = (tasks(&["plain/9", "dumb/9"]), player(2));
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

/// The record is that of an episode which only went this way: the world says it all again, and its turns tell what they
/// chose among, the acted one with V of where it led.
#[test]
fn the_logged_way_replays_in_a_fresh_world() {
    let (tasks, player) = (tasks(&["plain/1", "plain/2", "plain/3"]), player(1));
    let mut won = 0;
    for search in [BEAM, BEST_FIRST] {
        for logged in play(&player, &jobs(&tasks, 3), &searched(search, 3), POOL) {
            let task = tasks.iter().find(|task| task.id == logged.game).unwrap();
            let mut world = Corridors::default().open(task).unwrap();
            let mut said = world.reset().unwrap();
            for turn in &logged.turns {
                assert!(!said.won());
                assert_eq!(
                    (&turn.observation, turn.state),
                    (&said.text, world.state_hash())
                );
                said = match &turn.action {
                    Some(command) => world.step(command).unwrap(),
                    None => Observation {
                        text: MALFORMED_ANSWER.into(),
                        ..said
                    },
                };
            }
            assert_eq!(logged.last_observation, said.text);
            assert_eq!(said.won(), logged.is_won());
            won += usize::from(said.won());
            for (place, turn) in logged.turns.iter().enumerate() {
                let acted = turn
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
                assert!(led_to.is_none_or(|value| value == acted.score), "{acted:?}");
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

/// An episode can begin with turns that were played before, and is searched from there.
#[test]
fn a_search_goes_on_from_turns_that_were_played() {
    let tasks = tasks(&["plain/3"]);
    let found = play(&Walker, &jobs(&tasks, 1), &searched(BEAM, 4), POOL).remove(0);
    let forced = EpisodeJob {
        task: &tasks[0],
        repetition: 0,
        seed: 0,
        forced: &found.turns[..2],
    };
    let again = play(&Walker, &[forced], &searched(BEAM, 4), POOL).remove(0);
    assert_eq!(
        (again.outcome, &again.turns),
        (Outcome::Success, &found.turns)
    );
    assert_eq!((again.spent.completions, again.spent.commands), (4, 2 + 3));
}

/// Opens corridors of which only copies may be walked, and none may be asked what is admissible.
struct CopiesOnly(Corridors);

struct Guarded {
    corridor: Box<dyn Environment>,
    is_copy: bool,
}

impl World for CopiesOnly {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(Guarded {
            corridor: self.0.open(task)?,
            is_copy: false,
        }))
    }
}

impl Environment for Guarded {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        assert!(!self.is_copy, "a copy goes on from where it was made");
        self.corridor.reset()
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        assert!(self.is_copy, "the game itself was played on");
        self.corridor.step(command)
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        panic!("somebody asked what is admissible")
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
fn a_search_looks_ahead_through_copies_of_the_world_alone() {
    let (tasks, player) = (tasks(&["plain/2", "plain/5"]), player(3));
    for search in [BEAM, BEST_FIRST] {
        let (world, mut ended) = (CopiesOnly(Corridors::default()), Vec::new());
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
fn who_cannot_search_loses_the_episode_and_says_why() {
    let failure = |policy: &dyn Fn(&[EpisodeJob<'_>]) -> Trajectory, id: &str| {
        let tasks = tasks(&[id]);
        let trajectory = policy(&jobs(&tasks, 1));
        assert_eq!(trajectory.outcome, Outcome::EnvFailed);
        trajectory.failure.unwrap()
    };
    let protocol = searched(BEAM, 2);
    let walker = |jobs: &[EpisodeJob<'_>]| play(&Walker, jobs, &protocol, POOL).remove(0);
    assert!(failure(&walker, "single/3").starts_with("the world cannot be copied"));
    let expert =
        |jobs: &[EpisodeJob<'_>]| play(&ExpertPolicy::default(), jobs, &protocol, POOL).remove(0);
    assert_eq!(
        failure(&expert, "plain/3"),
        "expert cannot search: it has no value network"
    );
    let blind = LmPolicy::new(babbler(1), ValueUse::Skip).unwrap();
    let blind = |jobs: &[EpisodeJob<'_>]| play(&blind, jobs, &protocol, POOL).remove(0);
    assert!(failure(&blind, "plain/3").ends_with("cannot search: it has no value network"));
}
