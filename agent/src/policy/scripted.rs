//! A policy that plays a fixed list of commands, for tests and tools.

use crate::policy::{Policy, TurnRequest, TurnResponse, text_response};
use scenarios::{Protocol, Turn};

/// Writes the same list of commands in every episode, then gives up.
#[derive(Debug, Clone)]
pub struct ScriptedPolicy(pub Vec<String>);

impl Policy for ScriptedPolicy {
    type EpisodeState = std::vec::IntoIter<String>;

    fn name(&self) -> String {
        "scripted".into()
    }

    fn begin(&self, _: u64) -> Self::EpisodeState {
        self.0.clone().into_iter()
    }

    /// Skips one command of the list for each turn that was played before.
    fn replay(&self, commands: &mut Self::EpisodeState, _: &Turn) -> Result<(), String> {
        commands.next();
        Ok(())
    }

    fn respond(
        &self,
        requests: &mut [TurnRequest<'_, Self::EpisodeState>],
        _: &Protocol,
    ) -> Vec<TurnResponse> {
        requests
            .iter_mut()
            .map(|request| {
                request
                    .episode
                    .next()
                    .map_or(TurnResponse::GaveUp, text_response)
            })
            .collect()
    }
}
