//! The requests that the rollout loop passes to a policy, and the responses of the policy.

use scenarios::Candidate;

/// An episode that waits for its next completion.
#[derive(Debug)]
pub struct TurnRequest<'a, S> {
    /// The state that the policy keeps for this episode.
    pub episode: &'a mut S,
    /// The last observation of the environment.
    pub observation: &'a str,
}

/// The response of a policy to an observation.
#[derive(Debug, Clone, PartialEq)]
pub enum TurnResponse {
    /// The completion of this turn.
    Completion(Completion),
    /// Only in a search: V of the observation, in reward units, before anything is written.
    StateValue(f32),
    /// Only in a search: the distinct completions among the K that were sampled. The field
    /// `written` of each counts the samples that are equal to it, and `written_tokens` their tokens.
    Candidates(Vec<Completion>),
    /// Several distinct completions. The rollout loop scores them and calls
    /// [`crate::policy::Policy::take`].
    Offers(Vec<CandidateText>),
    /// The observation and a whole completion would not fit into the context.
    ContextFull,
    /// The policy ends the episode.
    GaveUp,
    /// The turn is still being written. The loop must send the same request again.
    InProgress,
    /// The turn has not started, because the cache budget has no room for it. The loop must send
    /// the same request again after another episode ended or another environment replied.
    Waiting,
    /// The policy could not be used, for this reason. If so, the episode does not count against the
    /// policy.
    Failed(String),
}

/// The text of a candidate completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateText {
    /// The whole completion, without the end-of-turn token.
    pub text: String,
    /// Whether the policy ended the turn itself. If not, the completion was cut and is malformed.
    pub ended: bool,
}

/// The completion that a policy wrote in a turn. If a field has the same name as a field of
/// [`scenarios::Turn`], it has the same meaning.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Completion {
    /// The whole completion, without the end-of-turn token.
    pub text: String,
    /// Whether the policy ended the turn itself. If not, the completion was cut and is malformed.
    pub ended: bool,
    /// Token ids that brought the observation into the context.
    pub observation_tokens: Vec<u32>,
    /// Token ids of the completion as sampled.
    pub tokens: Vec<u32>,
    /// ln π of each token under the untempered policy, nats.
    pub logprobs: Vec<f32>,
    /// ln of the probability of each token under the sampling distribution, nats. Empty if that is
    /// the untempered policy.
    pub sampling_logprobs: Vec<f32>,
    /// Whether the action was perturbed, so that it must not be imitated.
    pub perturbed: bool,
    /// V before the completion.
    pub value: Option<f32>,
    /// U after the completion.
    pub after_value: Option<f32>,
    /// The distinct candidates, if the turn was played with best-of-K.
    pub candidates: Vec<Candidate>,
    /// ln π − ln π_ref of the whole completion, nats.
    pub log_ratio: Option<f32>,
    /// Number of completions sampled for this turn, this one included.
    pub written: usize,
    /// Number of tokens in those completions.
    pub written_tokens: usize,
}

impl Completion {
    /// Returns the completion of a policy that writes text and no tokens.
    #[must_use]
    pub fn from_text(text: String) -> Self {
        Self {
            text,
            ended: true,
            written: 1,
            ..Self::default()
        }
    }
}

/// Returns the response of a policy that writes text and no tokens.
#[must_use]
pub fn text_response(text: String) -> TurnResponse {
    TurnResponse::Completion(Completion::from_text(text))
}
