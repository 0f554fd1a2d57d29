//! Verifies logs: replays every episode's commands in a new environment and returns the first
//! difference.
//!
//! A [`Replay`] is a policy that writes the logged completions. The rollout loop decides again what a
//! malformed turn costs, what is shown with an observation and why an episode ends. The replayed
//! episode must then equal the logged one: observations, states if both record them, actions, the
//! outcome and its reward. If the environment or a server failed in an episode, no replay can
//! reproduce the reason, so the episode is not checked.
//!
//! Data that only the log contains are not checked: the candidates, their cost and the time. A
//! `context_limit` that ended an episode is not checked either, because only a model can determine
//! if its context was full.

use agent::policy::{Completion, Policy, TurnRequest, TurnResponse};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use agent::text::chat::{self, PromptPosition};
use agent::text::tokenizer::Tokenizer;
use scenarios::{Outcome, Protocol, Task, Trajectory, Turn, World};
use serde::Serialize;
use std::fmt;

/// A logged episode and its game.
#[derive(Debug, Clone, Copy)]
pub struct EpisodeToReplay<'a> {
    /// The index in the store or in the list of records that the episode comes from.
    pub place: usize,
    /// The game.
    pub task: &'a Task,
    /// The episode as it was logged.
    pub episode: &'a Trajectory,
}

/// The part of an episode in which two records differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The text of the environment before a turn, or after the last one.
    Observation,
    /// The hash of the game's state.
    State,
    /// The command in a completion.
    Action,
    /// Why the episode ended, and after which turn.
    Outcome,
    /// The terminal reward.
    Reward,
    /// The token ids of an observation or a completion.
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

/// The first difference between a replayed episode and the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayDifference {
    /// The turn, from 1. If the difference is after the last turn, it is the number of turns plus 1.
    pub turn: usize,
    /// The part that differs.
    pub field: Field,
    /// The logged value.
    pub expected: String,
    /// The replayed value.
    pub found: String,
}

impl fmt::Display for ReplayDifference {
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

/// Returns whether an episode can be replayed to its end.
#[must_use]
pub fn is_checkable(episode: &Trajectory) -> bool {
    episode.outcome != Outcome::EnvFailed
}

/// A policy that writes the logged completions, turn by turn. The seed of an episode is its index
/// among the logged ones.
#[derive(Debug)]
pub struct Replay<'a>(&'a [EpisodeToReplay<'a>]);

/// The index of an episode and the number of its turns that have been written.
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
            episode: usize::try_from(seed).expect("the seed is the index of an episode in memory"),
            turn: 0,
        }
    }

    fn respond(
        &self,
        requests: &mut [TurnRequest<'_, ReplayEpisode>],
        _: &Protocol,
    ) -> Vec<TurnResponse> {
        requests
            .iter_mut()
            .map(|request| self.next(request.episode))
            .collect()
    }
}

impl Replay<'_> {
    fn next(&self, state: &mut ReplayEpisode) -> TurnResponse {
        let episode = self.0[state.episode].episode;
        let Some(turn) = episode.turns.get(state.turn) else {
            return match episode.outcome {
                Outcome::Failure => TurnResponse::GaveUp,
                Outcome::ContextLimit => TurnResponse::ContextFull,
                Outcome::Success | Outcome::TurnLimit | Outcome::EnvFailed => {
                    TurnResponse::Failed("it goes on".into())
                }
            };
        };
        state.turn += 1;
        // If a completion reads as a command but the log has no action, it was cut off.
        TurnResponse::Completion(Completion {
            text: turn.completion.clone(),
            ended: turn.action.is_some(),
            ..Completion::default()
        })
    }
}

/// Replays the commands of logged episodes. All must be of one group of [`by_protocol`]. Each logged
/// episode and its replay are passed to `record`, in the order in which they end.
///
/// # Errors
/// The first error of `record`.
pub fn replay_all<E>(
    world: &dyn World,
    logged: &[EpisodeToReplay<'_>],
    protocol: &Protocol,
    pool: Concurrency,
    mut record: impl FnMut(&EpisodeToReplay<'_>, Trajectory) -> Result<(), E>,
) -> Result<(), E> {
    let jobs: Vec<EpisodeJob<'_>> = logged
        .iter()
        .enumerate()
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

/// Groups episodes by the fields of their protocol that a replay depends on. The order is kept. The
/// other fields describe the policy and have their default in the result.
#[must_use]
pub fn by_protocol<'a>(
    logged: &[EpisodeToReplay<'a>],
) -> Vec<(Protocol, Vec<EpisodeToReplay<'a>>)> {
    let mut groups: Vec<(Protocol, Vec<EpisodeToReplay<'a>>)> = Vec::new();
    for one in logged {
        let Protocol {
            turn_limit,
            admissible_shown,
            action_format,
            translated_to,
            ..
        } = one.episode.protocol;
        let protocol = Protocol {
            turn_limit,
            admissible_shown,
            action_format,
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

/// Returns the first difference between a logged episode and its replay, or `None` if they are equal.
#[must_use]
pub fn first_difference(logged: &Trajectory, played: &Trajectory) -> Option<ReplayDifference> {
    logged
        .turns
        .iter()
        .zip(&played.turns)
        .enumerate()
        .find_map(|(index, (logged, played))| turn_difference(index + 1, logged, played))
        .or_else(|| end_difference(logged, played))
        .or_else(|| reward_difference(logged))
}

fn turn_difference(turn: usize, logged: &Turn, played: &Turn) -> Option<ReplayDifference> {
    let (field, expected, found) = if logged.observation != played.observation {
        (
            Field::Observation,
            quoted(&logged.observation),
            quoted(&played.observation),
        )
    } else if let (Some(expected), Some(found)) = (logged.state, played.state)
        && expected != found
    {
        (
            Field::State,
            format!("{expected:016x}"),
            format!("{found:016x}"),
        )
    } else if logged.action != played.action {
        (
            Field::Action,
            action_text(logged.action.as_deref()),
            action_text(played.action.as_deref()),
        )
    } else {
        return None;
    };
    Some(ReplayDifference {
        turn,
        field,
        expected,
        found,
    })
}

fn action_text(action: Option<&str>) -> String {
    action.map_or_else(|| "no command".into(), quoted)
}

fn end_difference(logged: &Trajectory, played: &Trajectory) -> Option<ReplayDifference> {
    let [expected_turns, found_turns] = [logged, played].map(|episode| episode.turns.len());
    if (logged.outcome, expected_turns) != (played.outcome, found_turns) {
        // The replay ended because its environment ended, or because the log has no more turns.
        let found = played
            .failure
            .clone()
            .unwrap_or_else(|| played.outcome.name().into());
        return Some(ReplayDifference {
            turn: found_turns.min(expected_turns) + 1,
            field: Field::Outcome,
            expected: format!("{} after {expected_turns} turns", logged.outcome.name()),
            found: format!("{found} after {found_turns} turns"),
        });
    }
    (logged.last_observation != played.last_observation).then(|| ReplayDifference {
        turn: expected_turns + 1,
        field: Field::Observation,
        expected: quoted(&logged.last_observation),
        found: quoted(&played.last_observation),
    })
}

fn reward_difference(logged: &Trajectory) -> Option<ReplayDifference> {
    let reward = logged.outcome.reward();
    (logged.reward.to_bits() != reward.to_bits()).then(|| ReplayDifference {
        turn: logged.turns.len() + 1,
        field: Field::Reward,
        expected: logged.reward.to_string(),
        found: format!("{reward}, which is what {} gives", logged.outcome.name()),
    })
}

/// Returns the first turn whose token ids do not decode to its texts in this vocabulary. If a turn
/// has no ids, it is not checked.
#[must_use]
pub fn token_difference(tokenizer: &Tokenizer, logged: &Trajectory) -> Option<ReplayDifference> {
    let mut place = PromptPosition::Opening;
    for (index, turn) in logged
        .turns
        .iter()
        .enumerate()
        .filter(|(_, turn)| !turn.completion_tokens.is_empty())
    {
        let tokens = chat::observation_tokens(tokenizer, &turn.observation, place);
        if tokens != turn.observation_tokens {
            return Some(ReplayDifference {
                turn: index + 1,
                field: Field::Tokens,
                expected: format!("{:?}", turn.observation_tokens),
                found: format!("{tokens:?}, which is the observation"),
            });
        }
        let has_end = turn.completion_tokens.last() == Some(&tokenizer.end);
        let ids = turn
            .completion_tokens
            .strip_suffix(&[tokenizer.end])
            .unwrap_or(&turn.completion_tokens);
        let decoded = tokenizer.decode(ids);
        // If a stop text ended the completion, its tokens are logged but are not part of the text.
        let is_stopped = !logged.protocol.stop.is_empty() && decoded.starts_with(&turn.completion);
        if decoded != turn.completion && !is_stopped {
            return Some(ReplayDifference {
                turn: index + 1,
                field: Field::Tokens,
                expected: quoted(&turn.completion),
                found: format!("ids that decode to {}", quoted(&decoded)),
            });
        }
        place = if has_end {
            PromptPosition::AfterEnd
        } else {
            PromptPosition::AfterCut
        };
    }
    None
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}
