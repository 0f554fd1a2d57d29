//! The clairvoyant oracle: it scores candidate completions by what they lead to in copies of the
//! environment. It reads the hidden state, which no policy can do.

use super::state::RolloutState;
use crate::policy::CandidateText;
use crate::text::action;
use scenarios::ActionFormat;

/// The message if the oracle cannot score candidates in an environment.
pub const NO_LOOK_AHEAD: &str = "the oracle needs an environment that can be copied and that estimates how far the goal is, and \
                                 this one does not\nhint: use --world native or another scorer";

/// The scores of candidates, and the number of commands that the copies performed.
pub(super) struct OracleScores {
    /// One for each candidate: minus [`scenarios::Environment::remaining`] after its command.
    pub(super) scores: Vec<f32>,
    pub(super) commands: usize,
}

/// Performs each candidate in a copy of the environment and scores the result. A malformed
/// candidate performs no command.
pub(super) fn look_ahead<S>(
    state: &RolloutState<S>,
    candidates: &[CandidateText],
    format: ActionFormat,
) -> Result<OracleScores, String> {
    let environment = state
        .environment
        .as_ref()
        .expect("the environment has replied before the policy responds");
    let mut found = OracleScores {
        scores: Vec::with_capacity(candidates.len()),
        commands: 0,
    };
    for candidate in candidates {
        let mut copy = environment.fork().ok_or(NO_LOOK_AHEAD)?;
        if let Some(command) = action::command(format, &candidate.text, candidate.ended) {
            found.commands += 1;
            copy.step(&command).map_err(|error| error.to_string())?;
        }
        let remaining = copy.remaining().ok_or(NO_LOOK_AHEAD)?;
        found.scores.push(-(remaining as f32));
    }
    Ok(found)
}
