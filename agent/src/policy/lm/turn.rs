//! The turn that is being written: its candidate completions, token by token, and what is known of
//! them when all have ended.

use super::select;
use crate::inference::KvCache;
use crate::inference::sample::{Drawn, Sampling};
use crate::policy::CandidateText;
use crate::text::action;
use crate::text::chat::PromptPosition;
use crate::text::template::open_thought;
use crate::text::tokenizer::Tokenizer;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::{ActionFormat, DistinctBy, Protocol};

/// A turn that has ended. A window over the last turns is built from these.
#[derive(Debug)]
pub(super) struct PastTurn {
    pub(super) observation: String,
    pub(super) completion: Vec<u32>,
    /// The place of the next observation.
    pub(super) next_place: PromptPosition,
}

/// A turn that is being written.
#[derive(Debug)]
pub(super) struct TurnInProgress {
    /// Token ids of the observation.
    pub(super) observation: Vec<u32>,
    /// Text of the observation, if the history is a window over the last turns: its ids depend on
    /// the window.
    pub(super) windowed: Option<String>,
    /// V of the observation, in reward units.
    pub(super) value: Option<f32>,
    /// The K candidates. Empty until the observation was read.
    pub(super) candidates: Vec<CandidateInProgress>,
    /// Whether the cache budget has room for this turn.
    pub(super) admitted: bool,
}

/// One candidate completion while it is being written.
#[derive(Debug)]
pub(super) struct CandidateInProgress {
    rng: StdRng,
    /// The KV cache of the policy after that of the episode.
    pub(super) cache: KvCache,
    pub(super) tokens: Vec<u32>,
    pub(super) logprobs: Vec<f32>,
    pub(super) sampling_logprobs: Vec<f32>,
    /// The text before a stop text, if it contains one.
    stopped: Option<String>,
    pub(super) done: bool,
}

impl CandidateInProgress {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            cache: KvCache::default(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            sampling_logprobs: Vec::new(),
            stopped: None,
            done: false,
        }
    }

    /// The random number from [0, 1) that selects the next token.
    pub(super) fn next_uniform(&mut self, sampling: Sampling) -> f64 {
        if sampling.is_greedy() {
            0.0
        } else {
            self.rng.random()
        }
    }

    /// Appends a token that was drawn.
    pub(super) fn append(&mut self, drawn: Drawn, protocol: &Protocol, tokenizer: &Tokenizer) {
        let sampling = Sampling::of(protocol);
        self.tokens.push(drawn.token);
        self.logprobs.push(drawn.logprob);
        if !sampling.is_greedy() && !sampling.is_untempered() {
            self.sampling_logprobs.push(drawn.sampling_logprob);
        }
        let ended = drawn.token == tokenizer.end;
        if !ended && !protocol.stop.is_empty() {
            let text = tokenizer.decode(&self.tokens);
            let thinks =
                open_thought(&tokenizer.frames().answer).is_some_and(|close| !text.contains(close));
            let place = action::stop_place(&text, &protocol.stop).filter(|_| !thinks);
            self.stopped = place.map(|place| text[..place].to_string());
        }
        self.done =
            ended || self.stopped.is_some() || self.tokens.len() >= protocol.completion_limit;
    }

    /// Returns ln π of the whole candidate, nats.
    pub(super) fn logprob(&self) -> f32 {
        self.logprobs.iter().sum()
    }

    /// Returns whether the policy ended the turn, by the end-of-turn token or a stop text. If the prompt opened a
    /// thought, the policy must have closed it.
    pub(super) fn ended(&self, tokenizer: &Tokenizer) -> bool {
        let ended = self.tokens.last() == Some(&tokenizer.end) || self.stopped.is_some();
        ended
            && open_thought(&tokenizer.frames().answer)
                .is_none_or(|close| self.text(tokenizer).contains(close))
    }

    /// Returns the command, if the completion has one.
    pub(super) fn command(&self, tokenizer: &Tokenizer, format: ActionFormat) -> Option<String> {
        action::command(format, &self.text(tokenizer), self.ended(tokenizer))
    }

    /// Returns the completion without the end-of-turn token or the stop text.
    pub(super) fn text(&self, tokenizer: &Tokenizer) -> String {
        let tokens = self
            .tokens
            .strip_suffix(&[tokenizer.end])
            .unwrap_or(&self.tokens);
        self.stopped
            .clone()
            .unwrap_or_else(|| tokenizer.decode(tokens))
    }

    /// Returns text and end, for the rollout loop to score.
    pub(super) fn offer(&self, tokenizer: &Tokenizer) -> CandidateText {
        CandidateText {
            text: self.text(tokenizer),
            ended: self.ended(tokenizer),
        }
    }
}

/// Returns the place of the observation after a completion.
pub(super) fn place_after(completion: &[u32], tokenizer: &Tokenizer) -> PromptPosition {
    if completion.last() == Some(&tokenizer.end) {
        PromptPosition::AfterEnd
    } else {
        PromptPosition::AfterCut
    }
}

/// A turn whose candidates have all ended.
#[derive(Debug)]
pub(super) struct FinishedTurn {
    pub(super) turn: TurnInProgress,
    pub(super) candidates: Vec<CandidateInProgress>,
    /// The distinct ones, in the order of the samples.
    pub(super) distinct: Vec<DistinctCandidate>,
    /// Where a candidate contains its command.
    format: ActionFormat,
}

impl FinishedTurn {
    /// Takes the candidates out of a turn and finds the distinct ones, in the order of the samples.
    pub(super) fn new(
        mut turn: TurnInProgress,
        protocol: &Protocol,
        tokenizer: &Tokenizer,
    ) -> Self {
        let by = protocol.distinct_by;
        let candidates = std::mem::take(&mut turn.candidates);
        let first = match by {
            DistinctBy::Tokens => {
                let tokens: Vec<&[u32]> = candidates.iter().map(|one| &one.tokens[..]).collect();
                select::first_equals(&tokens)
            }
            DistinctBy::Command => {
                let format = protocol.action_format;
                let commands: Vec<Option<String>> = candidates
                    .iter()
                    .map(|candidate| candidate.command(tokenizer, format))
                    .collect();
                select::first_equals(&commands)
            }
        };
        let distinct = (0..first.len())
            .filter(|index| first[*index] == *index)
            .map(|index| {
                let same: Vec<usize> = (0..first.len())
                    .filter(|other| first[*other] == index)
                    .collect();
                DistinctCandidate {
                    index: match by {
                        DistinctBy::Tokens => index, // all have the same ln π, up to rounding
                        DistinctBy::Command => most_likely(&candidates, &same),
                    },
                    same,
                    value_cache: KvCache::default(),
                    after_value: None,
                    reference_cache: KvCache::default(),
                    reference_logprob: None,
                }
            })
            .collect();
        Self {
            turn,
            candidates,
            distinct,
            format: protocol.action_format,
        }
    }

    /// Returns the command of a distinct candidate, if it has one.
    pub(super) fn command(
        &self,
        distinct: &DistinctCandidate,
        tokenizer: &Tokenizer,
    ) -> Option<String> {
        self.sample(distinct).command(tokenizer, self.format)
    }

    /// Returns the sample that a distinct candidate stands for.
    pub(super) fn sample(&self, distinct: &DistinctCandidate) -> &CandidateInProgress {
        &self.candidates[distinct.index]
    }

    /// Returns the number of tokens in all samples that are equal to a distinct candidate.
    pub(super) fn written_tokens(&self, distinct: &DistinctCandidate) -> usize {
        distinct
            .same
            .iter()
            .map(|index| self.candidates[*index].tokens.len())
            .sum()
    }

    /// Returns ln π − ln π_ref of a candidate, nats, if the reference has read it.
    pub(super) fn log_ratio(&self, distinct: &DistinctCandidate) -> Option<f32> {
        distinct
            .reference_logprob
            .map(|reference| self.sample(distinct).logprob() - reference)
    }
}

/// Returns the index with the highest ln π among `same`. If several are equal, it returns the first.
fn most_likely(candidates: &[CandidateInProgress], same: &[usize]) -> usize {
    let logprobs: Vec<f32> = same
        .iter()
        .map(|index| candidates[*index].logprob())
        .collect();
    same[select::best(&logprobs).unwrap_or(0)]
}

/// A candidate that stands for all samples that are equal to it.
#[derive(Debug)]
pub(super) struct DistinctCandidate {
    /// Its index among the K samples.
    pub(super) index: usize,
    /// The indices of the samples that are equal to it, its own included, in increasing order.
    pub(super) same: Vec<usize>,
    /// What the value network has read of it.
    pub(super) value_cache: KvCache,
    /// U after it, in reward units.
    pub(super) after_value: Option<f32>,
    /// What the reference policy has read of it.
    pub(super) reference_cache: KvCache,
    /// ln π_ref of it, nats.
    pub(super) reference_logprob: Option<f32>,
}

/// The tokens and caches of a candidate that a search can continue with.
#[derive(Debug)]
pub(super) struct CandidateContext {
    pub(super) tokens: Vec<u32>,
    pub(super) policy: KvCache,
    pub(super) value: KvCache,
}

impl CandidateContext {
    pub(super) fn cached_tokens(&self) -> usize {
        self.policy.len() + self.value.len()
    }
}
