//! What a search over turns needs from a language model: V of an observation before anything is
//! written, all candidates of a turn, and an episode that continues with any of them.

use super::cache::NetworkContext;
use super::episode::LmEpisode;
use super::forward::ForwardInput;
use super::load::LmPolicy;
use super::turn::{CandidateContext, CandidateInProgress, FinishedTurn, place_after};
use crate::policy::{Completion, Lookahead, TurnResponse};
use scenarios::seed::mixed_seed;

impl LmPolicy {
    /// Runs only the value network, over the observations that were not evaluated yet. Returns V of
    /// each of these; their turns must then be admitted again.
    pub(super) fn evaluate_observations(
        &self,
        episodes: &mut [&mut LmEpisode],
    ) -> Vec<Option<TurnResponse>> {
        let mut inputs: Vec<ForwardInput> = episodes
            .iter()
            .map(|episode| match &episode.in_progress {
                Some(turn) if turn.value.is_none() => ForwardInput::Unread(None),
                _ => ForwardInput::Deferred,
            })
            .collect();
        self.read_values(episodes, &mut inputs);
        episodes
            .iter_mut()
            .zip(inputs)
            .map(|(episode, input)| match input {
                ForwardInput::Unread(_) => evaluated(episode),
                _ => None,
            })
            .collect()
    }

    /// Returns all distinct candidates and keeps their caches. What was read before them becomes a
    /// shared prefix.
    pub(super) fn take_all(
        &self,
        episode: &mut LmEpisode,
        finished: FinishedTurn,
    ) -> Vec<Completion> {
        let written_tokens: Vec<usize> = finished
            .distinct
            .iter()
            .map(|candidate| finished.written_tokens(candidate))
            .collect();
        let FinishedTurn {
            turn,
            candidates,
            distinct,
            ..
        } = finished;
        for context in [&mut episode.policy, &mut episode.value] {
            if !context.cache.is_empty() {
                context.publish(&self.budget, Vec::new(), Vec::new());
            }
        }
        let mut candidates: Vec<Option<CandidateInProgress>> =
            candidates.into_iter().map(Some).collect();
        let mut completions = Vec::with_capacity(distinct.len());
        episode.branches.clear();
        for (distinct, written_tokens) in distinct.into_iter().zip(written_tokens) {
            let candidate = candidates[distinct.index]
                .take()
                .expect("distinct candidates have different indices");
            completions.push(Completion {
                text: candidate.text(&self.tokenizer),
                ended: candidate.ended(&self.tokenizer),
                observation_tokens: turn.observation.clone(),
                tokens: candidate.tokens.clone(),
                logprobs: candidate.logprobs,
                sampling_logprobs: candidate.sampling_logprobs,
                value: turn.value,
                after_value: distinct.after_value,
                written: distinct.same.len(),
                written_tokens,
                ..Completion::default()
            });
            episode.branches.push(Some(CandidateContext {
                tokens: candidate.tokens,
                policy: candidate.cache,
                value: distinct.value_cache,
            }));
        }
        let held = episode
            .branches
            .iter()
            .flatten()
            .map(CandidateContext::cached_tokens)
            .sum();
        episode.lease.set(held);
        completions
    }
}

/// Returns V of an observation that was just evaluated. The turn gives up its place in the batch,
/// and the episode keeps the part of the budget that its caches hold.
fn evaluated(episode: &mut LmEpisode) -> Option<TurnResponse> {
    let turn = episode.in_progress.as_mut()?;
    turn.admitted = false;
    let value = turn.value?;
    let held = episode.own_tokens();
    episode.lease.set(held);
    Some(TurnResponse::StateValue(value))
}

impl Lookahead for LmPolicy {
    type EpisodeState = LmEpisode;

    fn branch(&self, episode: &mut LmEpisode, candidate: usize) -> LmEpisode {
        let context = episode.branches[candidate]
            .take()
            .expect("each candidate is continued once");
        let held = context.cached_tokens();
        let left = episode.lease.tokens() - held;
        episode.lease.set(left);
        let seed = if candidate == 0 {
            episode.seed
        } else {
            mixed_seed(episode.seed, episode.turn, candidate as u64)
        };
        LmEpisode {
            sequence: [&episode.sequence[..], &context.tokens].concat(),
            policy: episode.policy.fork(context.policy),
            value: episode.value.fork(context.value),
            reference: NetworkContext::default(), // `can_play` refuses a search with a reference
            place: place_after(&context.tokens, &self.tokenizer),
            turn: episode.turn + 1,
            first_turn: episode.first_turn,
            retokenizes: episode.retokenizes,
            ..LmEpisode::new(seed, self.budget.lease(held))
        }
    }

    fn make_room(&self, episode: &mut LmEpisode) {
        episode.release_caches();
    }
}
