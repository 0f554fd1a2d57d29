//! The state that a language model keeps for one episode.

use super::cache::{BudgetLease, NetworkContext, PrefixPair};
use super::turn::{CandidateContext, CandidateInProgress, FinishedTurn, PastTurn, TurnInProgress};
use crate::policy::expert::ExpertAdvice;
use crate::text::chat::{self, PromptPosition};
use crate::text::tokenizer::Tokenizer;
use scenarios::Protocol;

/// The state that a [`crate::policy::lm::LmPolicy`] keeps for an episode.
#[derive(Debug)]
pub struct LmEpisode {
    /// All tokens of the episode, as the networks read them.
    pub(super) sequence: Vec<u32>,
    pub(super) policy: NetworkContext,
    pub(super) value: NetworkContext,
    pub(super) reference: NetworkContext,
    /// The turns so far, if the history is a window over the last turns.
    pub(super) past: Vec<PastTurn>,
    /// The place of the next observation.
    pub(super) place: PromptPosition,
    pub(super) seed: u64,
    /// Index of the turn that is written next.
    pub(super) turn: u64,
    /// Index of the first turn that the policy writes itself. The turns before it were replayed.
    pub(super) first_turn: u64,
    /// Whether the replayed turns have the token ids of another tokenizer.
    pub(super) retokenizes: bool,
    pub(super) in_progress: Option<TurnInProgress>,
    /// In a search: the candidates of the last turn, until each was continued.
    pub(super) branches: Vec<Option<CandidateContext>>,
    /// The turn whose candidates the rollout loop is scoring.
    pub(super) offered: Option<FinishedTurn>,
    /// The expert that reads the same text. It reads a turn only if the scorer is
    /// [`scenarios::Scorer::Expert`], or if the turn is replayed.
    pub(super) expert: ExpertAdvice,
    pub(super) lease: BudgetLease,
}

impl LmEpisode {
    /// Returns an episode without any turn. `lease` is the share of the cache budget that it grows
    /// into.
    pub(super) fn new(seed: u64, lease: BudgetLease) -> Self {
        Self {
            sequence: Vec::new(),
            policy: NetworkContext::default(),
            value: NetworkContext::default(),
            reference: NetworkContext::default(),
            past: Vec::new(),
            place: PromptPosition::Opening,
            seed,
            turn: 0,
            first_turn: 0,
            retokenizes: false,
            in_progress: None,
            branches: Vec::new(),
            offered: None,
            expert: ExpertAdvice::new(seed),
            lease,
        }
    }

    /// Frees the caches. The networks read the whole sequence again when the next token is needed.
    pub(super) fn release_caches(&mut self) {
        self.policy = NetworkContext::default();
        self.value = NetworkContext::default();
        self.reference = NetworkContext::default();
        self.lease.set(0);
    }

    /// Returns the number of tokens in the caches that belong to this episode alone.
    pub(super) fn own_tokens(&self) -> usize {
        self.policy.cache.len() + self.value.cache.len() + self.reference.cache.len()
    }

    /// Continues from the first `tokens` tokens of a shared prefix.
    pub(super) fn continue_from(&mut self, prefix: &PrefixPair, tokens: usize) {
        self.policy = NetworkContext::on(prefix.policy.slice(tokens));
        self.value = match &prefix.value {
            Some(value) => NetworkContext::on(value.slice(tokens)),
            None => NetworkContext::default(),
        };
    }

    /// Returns the sequence of a window: the first observation, and the last `turns` turns after
    /// it. The first observation and that of the first turn in the window share one frame, with an
    /// empty line between them, because no completion follows the first.
    pub(super) fn windowed_sequence(&self, turns: usize, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut sequence = Vec::new();
        let mut place = PromptPosition::Opening;
        for past in &self.past[self.past.len() - turns..] {
            let text = match place {
                PromptPosition::Opening => {
                    &format!("{}\n\n{}", self.past[0].observation, past.observation)
                }
                _ => &past.observation,
            };
            sequence.extend(chat::observation_tokens(tokenizer, text, place));
            sequence.extend_from_slice(&past.completion);
            place = past.next_place;
        }
        sequence
    }

    /// Returns the candidates that are being written.
    pub(super) fn candidates(&self) -> &[CandidateInProgress] {
        self.in_progress
            .as_ref()
            .map_or(&[], |turn| &turn.candidates)
    }

    /// Returns whether the policy has not written a turn of this episode yet.
    pub(super) fn is_at_first_turn(&self) -> bool {
        self.turn == self.first_turn
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.in_progress.as_ref().is_some_and(|turn| turn.admitted)
    }

    /// Returns the turn if all its candidates have ended.
    pub(super) fn take_finished(
        &mut self,
        protocol: &Protocol,
        tokenizer: &Tokenizer,
    ) -> Option<FinishedTurn> {
        let is_over = !self.candidates().is_empty()
            && self.candidates().iter().all(|candidate| candidate.done);
        let turn = self.in_progress.take_if(|_| is_over)?;
        Some(FinishedTurn::new(turn, protocol, tokenizer))
    }
}
