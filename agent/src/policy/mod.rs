//! The policies: what writes the completions of an episode.
//!
//! The trait [`Policy`] is the interface between the rollout loop and everything that can play: a
//! language model ([`lm`]), a model behind a server ([`remote`]), the rule-based expert
//! ([`ExpertPolicy`]), an expert that alternates with a model ([`dagger`]), and a fixed list of
//! commands ([`ScriptedPolicy`]).

pub mod dagger;
mod expert;
pub mod lm;
pub mod remote;
mod request;
mod scripted;

pub use expert::{ExpertEpisode, ExpertPolicy};
pub use request::{CandidateText, Completion, TurnRequest, TurnResponse, text_response};
pub use scripted::ScriptedPolicy;

use scenarios::{History, Protocol, Turn};

/// Answers observations with completions, for many episodes at once.
///
/// A policy that always writes the same command:
///
/// ```
/// use agent::policy::{Completion, Policy, TurnRequest, TurnResponse, text_response};
/// use scenarios::Protocol;
///
/// struct Always(String);
///
/// impl Policy for Always {
///     type EpisodeState = ();
///
///     fn name(&self) -> String {
///         format!("always {}", self.0)
///     }
///
///     fn begin(&self, _seed: u64) {}
///
///     fn respond(&self, requests: &mut [TurnRequest<'_, ()>], _: &Protocol) -> Vec<TurnResponse> {
///         requests.iter().map(|_| text_response(self.0.clone())).collect()
///     }
/// }
///
/// let policy = Always("look".into());
/// let mut episode = policy.begin(1);
/// let request = TurnRequest { episode: &mut episode, observation: "You are in a kitchen." };
/// let responses = policy.respond(&mut [request], &Protocol::default());
/// assert_eq!(responses, [TurnResponse::Completion(Completion::from_text("look".into()))]);
/// ```
pub trait Policy: Sync {
    /// The state that the policy keeps for one episode between its turns.
    type EpisodeState: Send;

    /// Returns the name that logs record: the hash of the weights, or a fixed name if there are no
    /// weights.
    fn name(&self) -> String;

    /// Returns the hash of the weights of the value network, if one scores the episodes.
    fn value_name(&self) -> Option<String> {
        None
    }

    /// Returns a reason if the policy can no longer respond to any request. If so, a run must stop,
    /// because it would lose every remaining episode.
    fn gone(&self) -> Option<String> {
        None
    }

    /// Checks whether the policy can play by this protocol.
    ///
    /// # Errors
    /// Returns a message that names the unsupported setting.
    fn can_play(&self, protocol: &Protocol) -> Result<(), String> {
        match protocol.history {
            History::Full => Ok(()),
            window @ History::Last(_) => Err(format!(
                "{} sees the full history and cannot play with {window} of it",
                self.name()
            )),
        }
    }

    /// Begins an episode. Everything random in it must follow from `seed`.
    fn begin(&self, seed: u64) -> Self::EpisodeState;

    /// Adds a turn that was played before to an episode: its observation, and its completion as if
    /// the policy had written it. The next request continues after this turn.
    ///
    /// # Errors
    /// Returns a message if the policy cannot do so. The episode is then lost.
    fn replay(&self, _episode: &mut Self::EpisodeState, _turn: &Turn) -> Result<(), String> {
        Err(format!(
            "{} cannot go on from turns that were played before",
            self.name()
        ))
    }

    /// Takes the best of the candidates that the policy returned as [`TurnResponse::Offers`].
    /// `scores` contains one score for each candidate, and the highest is best.
    ///
    /// # Panics
    /// Panics if the policy has not returned any offers for this episode, or if there are several
    /// scores and none is a number.
    fn take(&self, _episode: &mut Self::EpisodeState, _scores: &[f32]) -> Completion {
        panic!("{} returns no offers to choose from", self.name())
    }

    /// Returns one response for each request, in the same order. If a response is
    /// [`TurnResponse::InProgress`] or [`TurnResponse::Waiting`], the loop sends the same request
    /// again, together with other requests that are ready by then.
    fn respond(
        &self,
        requests: &mut [TurnRequest<'_, Self::EpisodeState>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse>;

    /// Returns the interface that a search needs, or `None` if the policy cannot search.
    fn lookahead(&self) -> Option<&dyn Lookahead<EpisodeState = Self::EpisodeState>> {
        None
    }
}

/// A policy that can guide a search. If the protocol has a search, the policy first responds to an
/// observation with [`TurnResponse::StateValue`], and with [`TurnResponse::Candidates`] when the
/// same request is sent again.
pub trait Lookahead {
    /// The same type as [`Policy::EpisodeState`].
    type EpisodeState;

    /// Returns the state of an episode that continues with one of the candidates that `episode` has
    /// just returned, named by its index. Each candidate can be taken once. The first candidate
    /// continues the random numbers of `episode`; every other candidate gets a seed of its own.
    fn branch(&self, episode: &mut Self::EpisodeState, candidate: usize) -> Self::EpisodeState;

    /// Releases the cache that an episode holds and is not using now. This must not change any
    /// response.
    fn make_room(&self, _episode: &mut Self::EpisodeState) {}
}
