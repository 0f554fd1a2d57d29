//! The proof of a log: every episode once more, its commands in a fresh world, and where that world says something else.
//!
//! A [`Replay`] is a policy that writes what the log holds, so the one rollout loop decides again what a malformed turn
//! costs, what is shown beside an observation and why an episode ends. What it played and what was logged must then be the
//! same: observations, states where both tell them, actions, the outcome and its reward. An episode that was lost to its
//! world, or to a server, ended for a reason that no replay brings back, and is not checked.
//!
//! What the log alone knows is not checked: which candidates there were, what they cost, how long it took. Nor is a
//! `context_limit` that ended an episode: only a model could tell that its context was full.

use agent::policy::{Completion, Policy, TurnRequest, TurnResponse};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use agent::text::chat::{self, Place};
use agent::text::tokenizer::Tokenizer;
use scenarios::{Outcome, Protocol, Task, Trajectory, Turn, World};
use serde::Serialize;
use std::fmt;

/// A logged episode and its game.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'a> {
    /// Its place in the store, or among the records, that it comes from.
    pub place: usize,
    /// The game.
    pub task: &'a Task,
    /// What was logged.
    pub episode: &'a Trajectory,
}

/// What two records of one episode do not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The world's text before a turn, or after the last one.
    Observation,
    /// The hash of the game's state.
    State,
    /// The command in a completion.
    Action,
    /// Why the episode ended, and after which turn.
    Outcome,
    /// The terminal reward.
    Reward,
    /// The ids of an observation or a completion.
    Tokens,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Observation => "observation",
            Self::State => "state",
            Self::Action => "action",
            Self::Outcome => "outcome",
            Self::Reward => "reward",
            Self::Tokens => "tokens",
        })
    }
}

/// Where an episode is first something else than what was logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The turn, from 1; one more than there are for what came after the last.
    pub turn: usize,
    /// What differs.
    pub field: Field,
    /// What the log says.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            turn,
            field,
            expected,
            found,
        } = self;
        write!(
            f,
            "turn {turn}: {field}\n  expected {expected}\n  found    {found}"
        )
    }
}

/// Whether an episode can be replayed to its end.
#[must_use]
pub fn is_checkable(episode: &Trajectory) -> bool {
    episode.outcome != Outcome::EnvFailed
}

/// Writes what was logged, turn by turn; the seed of an episode is its place among the logged ones.
#[derive(Debug)]
pub struct Replay<'a>(&'a [Logged<'a>]);

/// Which episode, and how many of its turns have been written.
#[derive(Debug)]
pub struct ReplayEpisode {
    episode: usize,
    turn: usize,
}

impl Policy for Replay<'_> {
    type EpisodeState = ReplayEpisode;

    fn name(&self) -> String {
        "replay".into()
    }

    fn begin(&self, seed: u64) -> ReplayEpisode {
        ReplayEpisode {
            episode: usize::try_from(seed).expect("a place in memory"),
            turn: 0,
        }
    }

    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, ReplayEpisode>],
        _: &Protocol,
    ) -> Vec<TurnResponse> {
        asked
            .iter_mut()
            .map(|question| self.next(question.episode))
            .collect()
    }
}

impl Replay<'_> {
    fn next(&self, seat: &mut ReplayEpisode) -> TurnResponse {
        let episode = self.0[seat.episode].episode;
        let Some(turn) = episode.turns.get(seat.turn) else {
            return match episode.outcome {
                Outcome::Failure => TurnResponse::GaveUp,
                Outcome::ContextLimit => TurnResponse::ContextFull,
                Outcome::Success | Outcome::TurnLimit | Outcome::EnvFailed => {
                    TurnResponse::Failed("it goes on".into())
                }
            };
        };
        seat.turn += 1;
        // A completion that held no command though it reads as one was cut off.
        TurnResponse::Completion(Completion {
            text: turn.completion.clone(),
            ended: turn.action.is_some(),
            ..Completion::default()
        })
    }
}

/// Plays the commands of logged episodes again, all of one group of [`by_protocol`], and hands each and what became of it to
/// `record`, in the order in which they end.
///
/// # Errors
/// The first error of `record`.
pub fn replay_all<E>(
    world: &dyn World,
    logged: &[Logged<'_>],
    protocol: &Protocol,
    pool: Concurrency,
    mut record: impl FnMut(&Logged<'_>, Trajectory) -> Result<(), E>,
) -> Result<(), E> {
    let numbered = logged.iter().enumerate();
    let jobs: Vec<EpisodeJob<'_>> = numbered
        .map(|(index, one)| EpisodeJob {
            task: one.task,
            repetition: index,
            seed: index as u64,
            forced: &[],
        })
        .collect();
    play_episodes(&Replay(logged), world, &jobs, protocol, pool, |played| {
        record(&logged[played.repetition], played)
    })
}

/// The episodes by what of their protocol a replay depends on, in order: the rest of it is about who plays.
#[must_use]
pub fn by_protocol<'a>(logged: &[Logged<'a>]) -> Vec<(Protocol, Vec<Logged<'a>>)> {
    let mut groups: Vec<(Protocol, Vec<Logged<'a>>)> = Vec::new();
    for one in logged {
        let Protocol {
            turn_limit,
            admissible_shown,
            translated_to,
            ..
        } = one.episode.protocol;
        let protocol = Protocol {
            turn_limit,
            admissible_shown,
            translated_to,
            ..Protocol::default()
        };
        match groups.iter_mut().find(|(other, _)| *other == protocol) {
            Some((_, group)) => group.push(*one),
            None => groups.push((protocol, vec![*one])),
        }
    }
    groups
}

/// Where what was `played` again first differs from what was logged.
#[must_use]
pub fn first_difference(logged: &Trajectory, played: &Trajectory) -> Option<Difference> {
    let turns = logged.turns.iter().zip(&played.turns).enumerate();
    let in_a_turn = turns
        .filter_map(|(index, (logged, played))| of_a_turn(index + 1, logged, played))
        .next();
    in_a_turn
        .or_else(|| of_the_end(logged, played))
        .or_else(|| of_the_reward(logged))
}

fn of_a_turn(turn: usize, logged: &Turn, played: &Turn) -> Option<Difference> {
    let differs = |field, expected, found| {
        Some(Difference {
            turn,
            field,
            expected,
            found,
        })
    };
    if logged.observation != played.observation {
        return differs(
            Field::Observation,
            quoted(&logged.observation),
            quoted(&played.observation),
        );
    }
    match (logged.state, played.state) {
        (Some(expected), Some(found)) if expected != found => {
            return differs(
                Field::State,
                format!("{expected:016x}"),
                format!("{found:016x}"),
            );
        }
        _ => {}
    }
    if logged.action != played.action {
        let said = |action: &Option<String>| {
            action
                .as_deref()
                .map_or_else(|| "no command".into(), quoted)
        };
        return differs(Field::Action, said(&logged.action), said(&played.action));
    }
    None
}

fn of_the_end(logged: &Trajectory, played: &Trajectory) -> Option<Difference> {
    let [expected_turns, found_turns] = [logged, played].map(|episode| episode.turns.len());
    if (logged.outcome, expected_turns) != (played.outcome, found_turns) {
        // Its own world, or the log's end, ended it; a replay writes no turns beyond the logged ones.
        let found = played
            .failure
            .clone()
            .unwrap_or_else(|| played.outcome.name().into());
        return Some(Difference {
            turn: found_turns.min(expected_turns) + 1,
            field: Field::Outcome,
            expected: format!("{} after {expected_turns} turns", logged.outcome.name()),
            found: format!("{found} after {found_turns} turns"),
        });
    }
    (logged.last_observation != played.last_observation).then(|| Difference {
        turn: expected_turns + 1,
        field: Field::Observation,
        expected: quoted(&logged.last_observation),
        found: quoted(&played.last_observation),
    })
}

fn of_the_reward(logged: &Trajectory) -> Option<Difference> {
    let due = logged.outcome.reward();
    (logged.reward.to_bits() != due.to_bits()).then(|| Difference {
        turn: logged.turns.len() + 1,
        field: Field::Reward,
        expected: logged.reward.to_string(),
        found: format!("{due}, which is what {} gives", logged.outcome.name()),
    })
}

/// Where the ids of an episode first do not spell its texts in this vocabulary. Turns without ids say nothing.
#[must_use]
pub fn token_difference(tokenizer: &Tokenizer, logged: &Trajectory) -> Option<Difference> {
    let mut place = Place::Opening;
    for (index, turn) in logged
        .turns
        .iter()
        .enumerate()
        .filter(|(_, turn)| !turn.completion_tokens.is_empty())
    {
        let differs = |expected, found| {
            Some(Difference {
                turn: index + 1,
                field: Field::Tokens,
                expected,
                found,
            })
        };
        let due = chat::observation_tokens(tokenizer, &turn.observation, place);
        if due != turn.observation_tokens {
            return differs(
                format!("{:?}", turn.observation_tokens),
                format!("{due:?}, which is the observation"),
            );
        }
        let wrote_end = turn.completion_tokens.last() == Some(&tokenizer.end);
        let ids = turn
            .completion_tokens
            .strip_suffix(&[tokenizer.end])
            .unwrap_or(&turn.completion_tokens);
        let spelled = tokenizer.decode(ids);
        // A text that ends a completion is sampled, and no part of it.
        let stopped = || !logged.protocol.stop.is_empty() && spelled.starts_with(&turn.completion);
        if spelled != turn.completion && !stopped() {
            return differs(
                quoted(&turn.completion),
                format!("ids that spell {}", quoted(&spelled)),
            );
        }
        place = if wrote_end {
            Place::AfterEnd
        } else {
            Place::AfterCut
        };
    }
    None
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}
