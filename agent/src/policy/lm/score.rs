//! The scores of finished candidates: U by the value network, ln π_ref by the reference policy, and
//! the rank under a scorer.

use super::episode::LmEpisode;
use super::load::LmPolicy;
use super::select;
use super::turn::{DistinctCandidate, FinishedTurn};
use crate::inference::{PolicyInference, Span};
use crate::text::tokenizer::Tokenizer;
use scenarios::{Protocol, Scorer};

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
                targets.push(&mut candidate.after_value);
            }
        }
        if spans.is_empty() {
            return;
        }
        let states = network.trunk.last_states(&mut spans);
        for (after_value, state) in targets.into_iter().zip(states.chunks_exact(self.width())) {
            *after_value = Some(network.value(state));
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
            finished.sample(candidate).command(tokenizer).as_deref(),
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
