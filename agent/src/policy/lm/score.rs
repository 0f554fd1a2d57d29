//! The scores of finished candidates: U by the value network, ln π_ref by the reference policy, and
//! the rank under a scorer. The same scores of completions that are given, not sampled.

use super::episode::LmEpisode;
use super::load::LmPolicy;
use super::select;
use super::turn::{DistinctCandidate, FinishedTurn};
use crate::inference::{KvCache, PolicyInference, Span, on_all_threads};
use crate::text::tokenizer::Tokenizer;
use rayon::prelude::*;
use scenarios::{Protocol, Scorer};

/// A state of an episode, and the completions to score after it.
#[derive(Debug, Clone, Copy)]
pub struct GivenCompletions<'a> {
    /// Token ids of the episode up to where the policy begins to write; at least one.
    pub prefix: &'a [u32],
    /// Token ids of each completion; each has at least one.
    pub completions: &'a [&'a [u32]],
}

/// The scores of a state and of its completions.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenScores {
    /// V of the state, reward units, if a value network is loaded.
    pub value: Option<f32>,
    /// ln π of each completion under the untempered policy, nats.
    pub logprobs: Vec<f32>,
    /// ln π_ref of each completion, nats. Empty if no reference is loaded.
    pub reference_logprobs: Vec<f32>,
    /// U after each completion, reward units. Empty if no value network is loaded.
    pub after_values: Vec<f32>,
}

impl LmPolicy {
    /// Scores completions that are given by teacher forcing. The completions of a state share its
    /// KV cache. On the CPU, the numbers are equal to the bit to those that are logged if the
    /// policy samples these tokens.
    ///
    /// The caches are not part of the cache budget. Each thread holds those of one state.
    #[must_use]
    pub fn score_given(&self, states: &[GivenCompletions<'_>]) -> Vec<GivenScores> {
        if self.each_thread_has_own_episodes() {
            return states
                .par_iter()
                .map(|state| self.scores_of(state))
                .collect();
        }
        on_all_threads(|| states.iter().map(|state| self.scores_of(state)).collect())
    }

    fn scores_of(&self, state: &GivenCompletions<'_>) -> GivenScores {
        let mut scores = GivenScores {
            value: None,
            logprobs: completion_logprobs(&self.policy, state),
            reference_logprobs: self
                .reference
                .as_ref()
                .map_or_else(Vec::new, |reference| completion_logprobs(reference, state)),
            after_values: Vec::new(),
        };
        let Some(network) = &self.value else {
            return scores;
        };
        let mut cache = KvCache::default();
        let last = network
            .trunk
            .last_states(&mut [Span::new(state.prefix, &mut cache)]);
        let value = network.value(&last);
        scores.value = Some(value);
        let mut caches: Vec<KvCache> = state
            .completions
            .iter()
            .map(|_| KvCache::default())
            .collect();
        let mut spans: Vec<Span<'_>> = state
            .completions
            .iter()
            .zip(&mut caches)
            .map(|(tokens, own)| Span {
                tokens,
                before: vec![cache.whole()],
                cache: own,
            })
            .collect();
        if !spans.is_empty() {
            let states = network.trunk.last_states(&mut spans);
            scores.after_values = states
                .chunks_exact(self.width())
                .filter_map(|state| network.after_value(Some(value), state))
                .collect();
        }
        scores
    }

    /// Runs the value network over the distinct candidates of all turns that are over, and stores U
    /// of each.
    pub(super) fn read_after_values(
        &self,
        episodes: &[&mut LmEpisode],
        finished: &mut [Option<FinishedTurn>],
    ) {
        let Some(network) = &self.value else { return };
        let mut spans = Vec::new();
        let mut targets = Vec::new();
        for (episode, finished) in episodes.iter().zip(finished) {
            let Some(FinishedTurn {
                turn,
                candidates,
                distinct,
                ..
            }) = finished
            else {
                continue;
            };
            for candidate in distinct {
                spans.push(Span {
                    tokens: &candidates[candidate.index].tokens,
                    before: episode.value.parts(),
                    cache: &mut candidate.value_cache,
                });
                targets.push((turn.value, &mut candidate.after_value));
            }
        }
        if spans.is_empty() {
            return;
        }
        let states = network.trunk.last_states(&mut spans);
        let states = states.chunks_exact(self.width());
        for ((value, after_value), state) in targets.into_iter().zip(states) {
            *after_value = network.after_value(value, state);
        }
    }

    /// Runs the reference policy over its unread tokens of the episodes whose turn is over, then
    /// over their distinct candidates, and stores ln π_ref of each.
    pub(super) fn read_reference(
        &self,
        episodes: &mut [&mut LmEpisode],
        finished: &mut [Option<FinishedTurn>],
    ) {
        let Some(reference) = &self.reference else {
            return;
        };
        let mut turns: Vec<(&mut LmEpisode, &mut FinishedTurn)> = episodes
            .iter_mut()
            .zip(finished)
            .filter_map(|(episode, finished)| Some((&mut **episode, finished.as_mut()?)))
            .collect();
        if turns.is_empty() {
            return;
        }
        let mut spans: Vec<Span<'_>> = turns
            .iter_mut()
            .map(|(episode, _)| {
                let LmEpisode {
                    sequence,
                    reference: context,
                    ..
                } = &mut **episode;
                context.unread(sequence)
            })
            .collect();
        let firsts = reference.trunk.last_states(&mut spans);
        score_by_reference(reference, &mut turns, &firsts);
    }
}

/// Stores ln π_ref of the distinct candidates. `firsts` `[turns, hidden]` are the hidden states
/// before the candidates.
fn score_by_reference(
    reference: &PolicyInference,
    turns: &mut [(&mut LmEpisode, &mut FinishedTurn)],
    firsts: &[f32],
) {
    let width = reference.trunk.config().hidden_size;
    let mut spans = Vec::new();
    let mut targets = Vec::new();
    for ((episode, finished), first) in turns.iter_mut().zip(firsts.chunks_exact(width)) {
        let FinishedTurn {
            candidates,
            distinct,
            ..
        } = &mut **finished;
        for candidate in distinct {
            let tokens = &candidates[candidate.index].tokens[..];
            // The distribution after the last token is not needed.
            let read = &tokens[..tokens.len() - 1];
            if !read.is_empty() {
                spans.push(Span {
                    tokens: read,
                    before: episode.reference.parts(),
                    cache: &mut candidate.reference_cache,
                });
            }
            targets.push((first, tokens, &mut candidate.reference_logprob));
        }
    }
    let states = if spans.is_empty() {
        Vec::new()
    } else {
        reference.trunk.extend(&mut spans)
    };
    let mut left = &states[..];
    for (first, tokens, logprob) in targets {
        let own;
        (own, left) = left.split_at((tokens.len() - 1) * width);
        *logprob = Some(sum_of_logprobs(reference, &[first, own].concat(), tokens));
    }
}

/// Returns ln π of each completion of a state, nats.
fn completion_logprobs(policy: &PolicyInference, state: &GivenCompletions<'_>) -> Vec<f32> {
    let width = policy.trunk.config().hidden_size;
    let mut cache = KvCache::default();
    let first = policy
        .trunk
        .last_states(&mut [Span::new(state.prefix, &mut cache)]);
    let mut caches: Vec<KvCache> = state
        .completions
        .iter()
        .map(|_| KvCache::default())
        .collect();
    // The distribution after the last token is not needed.
    let mut spans: Vec<Span<'_>> = state
        .completions
        .iter()
        .zip(&mut caches)
        .filter(|(tokens, _)| tokens.len() > 1)
        .map(|(tokens, own)| Span {
            tokens: &tokens[..tokens.len() - 1],
            before: vec![cache.whole()],
            cache: own,
        })
        .collect();
    let states = if spans.is_empty() {
        Vec::new()
    } else {
        policy.trunk.extend(&mut spans)
    };
    let mut left = &states[..];
    let mut logprobs = Vec::with_capacity(state.completions.len());
    for tokens in state.completions {
        let own;
        (own, left) = left.split_at((tokens.len() - 1) * width);
        logprobs.push(sum_of_logprobs(policy, &[&first, own].concat(), tokens));
    }
    logprobs
}

/// Returns ln π of a completion, nats. `states` `[tokens, hidden]` are the hidden states before
/// each of its tokens.
fn sum_of_logprobs(policy: &PolicyInference, states: &[f32], tokens: &[u32]) -> f32 {
    let logprobs = policy.logprobs(states);
    let of_tokens = logprobs
        .chunks_exact(policy.trunk.config().vocab_size)
        .zip(tokens)
        .map(|(row, token)| row[*token as usize]);
    of_tokens.sum()
}

/// Returns the score of a candidate under the scorer of the protocol; the highest is best. If the
/// scorer needs a network that is not loaded, which [`crate::policy::Policy::can_play`] allows only
/// for a single candidate, it returns 0.
pub(super) fn score(
    protocol: &Protocol,
    episode: &LmEpisode,
    finished: &FinishedTurn,
    candidate: &DistinctCandidate,
    tokenizer: &Tokenizer,
) -> f32 {
    let logprob = finished.sample(candidate).logprob();
    let mut random_scores = candidate
        .same
        .iter()
        .map(|index| select::random_score(episode.seed, episode.turn, *index as u64));
    let score = match protocol.scorer {
        Scorer::AfterValue => candidate.after_value,
        Scorer::SoftValue => candidate
            .after_value
            .map(|value| value + protocol.soft_value_beta * logprob),
        Scorer::LogRatio => finished.log_ratio(candidate),
        Scorer::Logprob => Some(logprob),
        Scorer::Random => random_scores.reduce(f32::max),
        Scorer::Distinct => random_scores.next(),
        Scorer::Expert => Some(expert_score(
            finished.command(candidate, tokenizer).as_deref(),
            episode.expert.intended(),
            logprob,
        )),
        Scorer::Oracle => None, // the rollout loop scores the candidates
    };
    score.unwrap_or_default()
}

/// Returns 1 + π if the candidate has the command of the expert, else ln π. ln π is at most 0, so a
/// candidate with the command of the expert is above all others.
fn expert_score(command: Option<&str>, expert: Option<&str>, logprob: f32) -> f32 {
    if command.is_some() && command == expert {
        1.0 + logprob.exp()
    } else {
        logprob
    }
}

#[cfg(test)]
mod tests {
    use super::expert_score;

    #[test]
    fn the_command_of_the_expert_is_above_every_other_candidate() {
        let expert = Some("go to desk 1");
        let rare = expert_score(expert, expert, -200.0);
        let likely = expert_score(Some("look"), expert, -0.01);
        assert!(rare > likely && likely > expert_score(None, expert, -0.02));
        assert!(expert_score(expert, expert, -1.0) > rare);
        assert_eq!(expert_score(None, None, -1.0), -1.0);
    }
}
