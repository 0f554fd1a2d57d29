//! Branch states with the scores of a policy and its value network.

use crate::learn::ranking::RankedState;
use agent::policy::lm::{GivenCompletions, GivenScores, LmPolicy};
use agent::text::action;
use scenarios::Trajectory;
use scenarios::expert::{Expert, goal_object};

/// A branch state with the scores of its candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredState {
    /// The id of the game.
    pub game: String,
    /// Number of turns before the state.
    pub turn: usize,
    /// V of the state, reward units, if there is a value network.
    pub value: Option<f64>,
    /// The distinct candidates.
    pub candidates: Vec<ScoredCandidate>,
}

/// A candidate with its scores and its label.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredCandidate {
    /// The return of each continuation, reward units.
    pub returns: Vec<f64>,
    /// Their mean.
    pub label: f64,
    /// ln π of the candidate, nats.
    pub logprob: f64,
    /// ln π − ln π_ref of the candidate, nats, if there is a reference. The advantage that the policy
    /// implies is β times it.
    pub log_ratio: Option<f64>,
    /// U after it, reward units, if there is a value network.
    pub after_value: Option<f64>,
    /// Whether the expert would write its command. `None` if the game is no household game.
    pub is_expert: Option<bool>,
}

/// Scores the candidates of branch states by teacher forcing. The token ids must be those of the
/// policy's tokenizer.
///
/// The result has the order of `states`.
#[must_use]
pub fn score_states(policy: &LmPolicy, states: &[RankedState<'_>]) -> Vec<ScoredState> {
    let completions: Vec<Vec<&[u32]>> = states
        .iter()
        .map(|state| state.candidates().iter().map(|c| &c.tokens[..]).collect())
        .collect();
    let given: Vec<GivenCompletions<'_>> = states
        .iter()
        .zip(&completions)
        .map(|(state, completions)| GivenCompletions {
            prefix: &state.prefix,
            completions,
        })
        .collect();
    states
        .iter()
        .zip(policy.score_given(&given))
        .map(|(state, scores)| scored(state, &scores))
        .collect()
}

fn scored(state: &RankedState<'_>, scores: &GivenScores) -> ScoredState {
    let expert = expert_command(state.trajectory);
    let candidates = state
        .candidates()
        .iter()
        .enumerate()
        .map(|(index, candidate)| ScoredCandidate {
            returns: candidate.returns.clone(),
            label: state.labels[index],
            logprob: f64::from(scores.logprobs[index]),
            log_ratio: scores
                .reference_logprobs
                .get(index)
                .map(|reference| f64::from(scores.logprobs[index] - reference)),
            after_value: scores.after_values.get(index).copied().map(f64::from),
            is_expert: expert.as_deref().map(|expected| {
                let format = state.trajectory.protocol.action_format;
                action::command(format, &candidate.completion, true).as_deref() == Some(expected)
            }),
        });
    ScoredState {
        game: state.trajectory.game.clone(),
        turn: state.turn(),
        value: scores.value.map(f64::from),
        candidates: candidates.collect(),
    }
}

/// Returns the command that the expert writes in the last turn, after the commands that were
/// executed before. Returns `None` if the opening text has no known task.
fn expert_command(trajectory: &Trajectory) -> Option<String> {
    let (last, earlier) = trajectory.turns.split_last()?;
    goal_object(&trajectory.turns[0].observation)?;
    let mut expert = Expert::new(trajectory.seed);
    for turn in earlier {
        let intended = expert.act(&turn.observation);
        if turn.action.as_deref() != Some(&intended) {
            expert.replace_last(turn.action.as_deref().unwrap_or_default());
        }
    }
    Some(expert.act(&last.observation))
}
