//! The forward passes of a decode step: prefill of what the networks have not read, and the last
//! token of every candidate that is being written.

use super::cache::{PrefixCache, PrefixPair};
use super::episode::LmEpisode;
use super::load::LmPolicy;
use crate::inference::Span;

/// Tokens in common from which an episode continues a shared prefix.
const MIN_SHARED_TOKENS: usize = 16;

/// What the networks read of an episode in this step.
#[derive(Debug)]
pub(super) enum ForwardInput {
    /// The last token of each of its candidates (decode).
    LastTokens,
    /// The tokens that were not read yet (prefill). If there is a value network, it then stores its
    /// hidden state here.
    Unread(Option<Vec<f32>>),
    /// Nothing, because the whole sequence is a shared prefix. This is the policy's hidden state at
    /// its end.
    Prefix(Vec<f32>),
    /// Nothing in this step, because another episode is reading the same tokens.
    Deferred,
}

impl ForwardInput {
    /// Returns the number of rows of hidden states from which tokens of this episode are sampled.
    pub(super) fn rows(&self, episode: &LmEpisode) -> usize {
        match self {
            Self::Deferred => 0,
            Self::Unread(_) | Self::Prefix(_) => 1,
            Self::LastTokens => episode
                .candidates()
                .iter()
                .filter(|candidate| !candidate.done)
                .count(),
        }
    }
}

impl LmPolicy {
    /// Decides what the networks read of each episode. An episode that has read nothing continues
    /// the closest shared prefix. If several begin with the same tokens and no prefix is known, the
    /// first reads them in this step, and the others continue from it in the next one.
    pub(super) fn plan_inputs(&self, episodes: &mut [&mut LmEpisode]) -> Vec<ForwardInput> {
        let mut being_read: Vec<Vec<u32>> = Vec::new();
        let prefixes = self.prefixes();
        episodes
            .iter_mut()
            .map(|episode| self.plan_input(episode, &prefixes, &mut being_read))
            .collect()
    }

    fn plan_input(
        &self,
        episode: &mut LmEpisode,
        prefixes: &PrefixCache,
        being_read: &mut Vec<Vec<u32>>,
    ) -> ForwardInput {
        if !episode.candidates().is_empty() {
            return ForwardInput::LastTokens;
        }
        if episode.policy.len() > 0 || episode.value.len() > 0 {
            return ForwardInput::Unread(None);
        }
        let closest = prefixes.closest(&episode.sequence);
        if let Some((common, prefix)) = closest
            && common == episode.sequence.len()
            && common == prefix.policy.tokens.len()
            && episode.is_at_first_turn()
        {
            return self.start_from_prefix(episode, prefix);
        }
        if being_read.contains(&episode.sequence) {
            return ForwardInput::Deferred;
        }
        if episode.is_at_first_turn() {
            being_read.push(episode.sequence.clone());
        }
        if let Some((common, prefix)) = closest {
            let tokens = common.min(episode.sequence.len() - 1);
            if tokens >= MIN_SHARED_TOKENS {
                episode.continue_from(prefix, tokens);
            }
        }
        ForwardInput::Unread(None)
    }

    /// Continues from a prefix that is the whole sequence, so that nothing has to be read.
    fn start_from_prefix(&self, episode: &mut LmEpisode, prefix: &PrefixPair) -> ForwardInput {
        episode.continue_from(prefix, episode.sequence.len());
        if let Some(turn) = &mut episode.in_progress {
            turn.value = match (&self.value, &prefix.value) {
                (Some(network), Some(read)) => Some(network.value(&read.last_state)),
                _ => None,
            };
        }
        ForwardInput::Prefix(prefix.policy.last_state.clone())
    }

    /// Runs the value network over its unread tokens of the episodes in prefill, and stores V of
    /// each.
    pub(super) fn read_values(&self, episodes: &mut [&mut LmEpisode], inputs: &mut [ForwardInput]) {
        let Some(network) = &self.value else { return };
        let mut spans = Vec::new();
        let mut targets = Vec::new();
        for (episode, input) in episodes.iter_mut().zip(inputs) {
            let (
                ForwardInput::Unread(state),
                LmEpisode {
                    sequence,
                    value: context,
                    in_progress: Some(turn),
                    ..
                },
            ) = (input, &mut **episode)
            else {
                continue;
            };
            if context.len() == sequence.len() {
                continue; // a search has evaluated the observation before
            }
            spans.push(context.unread(sequence));
            targets.push((state, &mut turn.value));
        }
        if spans.is_empty() {
            return;
        }
        let states = network.trunk.last_states(&mut spans);
        for ((last_state, value), state) in
            targets.into_iter().zip(states.chunks_exact(self.width()))
        {
            *value = Some(network.value(state));
            *last_state = Some(state.to_vec());
        }
    }

    /// Runs the policy over its unread tokens of the episodes in prefill, and over the last token
    /// of every candidate that is being written. Returns the hidden states from which tokens are
    /// sampled, `[rows, hidden]`, by episode and candidate.
    pub(super) fn read_policy(
        &self,
        episodes: &mut [&mut LmEpisode],
        inputs: &[ForwardInput],
    ) -> Vec<f32> {
        let mut spans = Vec::new();
        let mut rows: Vec<Option<&[f32]>> = Vec::new();
        for (episode, input) in episodes.iter_mut().zip(inputs) {
            let LmEpisode {
                sequence,
                policy: context,
                in_progress,
                ..
            } = &mut **episode;
            match input {
                ForwardInput::Deferred => {}
                ForwardInput::Prefix(state) => rows.push(Some(state)),
                ForwardInput::Unread(_) => {
                    spans.push(context.unread(sequence));
                    rows.push(None);
                }
                ForwardInput::LastTokens => {
                    let candidates = in_progress.iter_mut().flat_map(|turn| &mut turn.candidates);
                    for candidate in candidates.filter(|candidate| !candidate.done) {
                        spans.push(Span {
                            tokens: &candidate.tokens[candidate.tokens.len() - 1..],
                            before: context.parts(),
                            cache: &mut candidate.cache,
                        });
                        rows.push(None);
                    }
                }
            }
        }
        let states = if spans.is_empty() {
            Vec::new()
        } else {
            self.policy.trunk.last_states(&mut spans)
        };
        let mut read = states.chunks_exact(self.width());
        let mut hidden = Vec::with_capacity(rows.len() * self.width());
        for row in rows {
            let state = row.or_else(|| read.next());
            hidden.extend_from_slice(state.expect("every span has a hidden state"));
        }
        hidden
    }

    /// Publishes what episodes have read before their first turn as shared prefixes, for themselves
    /// and for others.
    pub(super) fn publish_prefixes(
        &self,
        episodes: &mut [&mut LmEpisode],
        inputs: &[ForwardInput],
        hidden: &[f32],
    ) {
        let mut rows = hidden.chunks_exact(self.width());
        for (episode, input) in episodes.iter_mut().zip(inputs) {
            let mut of_episode = rows.by_ref().take(input.rows(episode));
            let ForwardInput::Unread(value_state) = input else {
                of_episode.for_each(drop);
                continue;
            };
            let state = of_episode.next().expect("a prefill has one row");
            // If a search has evaluated the observation before, only V was kept, and not the hidden
            // state.
            let has_all_states = value_state.is_some() == self.value.is_some();
            if episode.is_at_first_turn() && has_all_states {
                self.publish_prefix(episode, state, value_state.as_deref());
            }
        }
    }

    fn publish_prefix(&self, episode: &mut LmEpisode, state: &[f32], value_state: Option<&[f32]>) {
        let read = episode.policy.cache.len() + episode.value.cache.len();
        let sequence = &episode.sequence;
        let policy = episode
            .policy
            .publish(&self.budget, sequence.clone(), state.to_vec());
        let value = value_state.map(|state| {
            episode
                .value
                .publish(&self.budget, sequence.clone(), state.to_vec())
        });
        let kept = episode.lease.tokens().saturating_sub(read);
        episode.lease.set(kept);
        self.prefixes().insert(PrefixPair { policy, value });
    }
}
