//! The scores of finished candidates: U by the value network, ln π_ref by the reference policy, and
//! the rank under a scorer.

use super::episode::LmEpisode;
use super::load::LmPolicy;
use super::select;
use super::turn::{DistinctCandidate, FinishedTurn};
use crate::inference::{PolicyInference, Span};
use scenarios::Scorer;

impl LmPolicy {
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
    let vocab = reference.trunk.config().vocab_size;
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
        let logprobs = reference.logprobs(&[first, own].concat());
        let of_tokens = logprobs
            .chunks_exact(vocab)
            .zip(tokens)
            .map(|(row, token)| row[*token as usize]);
        *logprob = Some(of_tokens.sum());
    }
}

/// Returns the score of a candidate under a scorer; the highest is best. If the scorer needs a
/// network that is not loaded, which [`crate::policy::Policy::can_play`] allows only for a single
/// candidate, it returns 0.
pub(super) fn score(
    scorer: Scorer,
    episode: &LmEpisode,
    finished: &FinishedTurn,
    candidate: &DistinctCandidate,
) -> f32 {
    let score = match scorer {
        Scorer::AfterValue => candidate.after_value,
        Scorer::SoftValue => candidate
            .after_value
            .map(|value| value + Scorer::BETA * finished.sample(candidate).logprob()),
        Scorer::LogRatio => finished.log_ratio(candidate),
        Scorer::Logprob => Some(finished.sample(candidate).logprob()),
        Scorer::Random => candidate
            .same
            .iter()
            .map(|index| select::random_score(episode.seed, episode.turn, *index as u64))
            .reduce(f32::max),
        Scorer::Oracle => None, // the rollout loop scores the candidates
    };
    score.unwrap_or_default()
}
