//! The end of a turn: the best candidate becomes the completion, and the episode continues after
//! it.

use super::episode::LmEpisode;
use super::load::LmPolicy;
use super::score::score;
use super::select;
use super::turn::{FinishedTurn, PastTurn, place_after};
use crate::policy::{Completion, TurnResponse};
use scenarios::{Candidate, Protocol, Scorer};

impl LmPolicy {
    /// Ends the turns of which all candidates have ended: scores the candidates, takes the best,
    /// and appends it to the episode. Under the oracle, the candidates are returned as offers. In a
    /// search, all of them are returned. If K is above 1 and no score is a number, the episode fails.
    pub(super) fn finish_turns(
        &self,
        episodes: &mut [&mut LmEpisode],
        protocol: &Protocol,
    ) -> Vec<Option<TurnResponse>> {
        let mut finished: Vec<Option<FinishedTurn>> = episodes
            .iter_mut()
            .map(|episode| episode.take_finished(protocol, &self.tokenizer))
            .collect();
        self.read_after_values(episodes, &mut finished);
        self.read_reference(episodes, &mut finished);
        episodes
            .iter_mut()
            .zip(finished)
            .map(|(episode, finished)| Some(self.finish_turn(episode, finished?, protocol)))
            .collect()
    }

    fn finish_turn(
        &self,
        episode: &mut LmEpisode,
        finished: FinishedTurn,
        protocol: &Protocol,
    ) -> TurnResponse {
        if protocol.search.is_some() && self.value.is_some() {
            return TurnResponse::Candidates(self.take_all(episode, finished));
        }
        if protocol.scorer == Scorer::Oracle && finished.candidates.len() > 1 {
            let offers = finished
                .distinct
                .iter()
                .map(|candidate| finished.sample(candidate).offer(&self.tokenizer))
                .collect();
            episode.offered = Some(finished);
            return TurnResponse::Offers(offers);
        }
        let scores: Vec<f32> = finished
            .distinct
            .iter()
            .map(|candidate| score(protocol, episode, &finished, candidate, &self.tokenizer))
            .collect();
        if finished.candidates.len() > 1 && scores.iter().all(|score| score.is_nan()) {
            let reason = no_number(protocol, &finished);
            return TurnResponse::Failed(reason);
        }
        TurnResponse::Completion(self.take_best(episode, finished, &scores))
    }

    /// Takes the candidate with the highest score and appends it to the episode. `scores` contains
    /// one score for each distinct candidate.
    ///
    /// # Panics
    /// Panics if there are several scores and none is a number.
    pub(super) fn take_best(
        &self,
        episode: &mut LmEpisode,
        mut finished: FinishedTurn,
        scores: &[f32],
    ) -> Completion {
        let best = match scores {
            [_] => 0, // there is no choice, whatever the score is
            _ => select::best(scores).expect("one of the scores is a number"),
        };
        let mut completion = self.completion_of(&finished, best, scores);
        let command = finished.command(&finished.distinct[best], &self.tokenizer);
        let chosen = finished.distinct.swap_remove(best);
        let candidate = finished.candidates.swap_remove(chosen.index);
        if episode.expert.intended().is_some() {
            episode.expert.continue_after(command.as_deref());
        }
        episode.policy.cache.append(candidate.cache);
        episode.value.cache.append(chosen.value_cache);
        episode.reference.cache.append(chosen.reference_cache);
        episode.place = place_after(&candidate.tokens, &self.tokenizer);
        episode.sequence.extend_from_slice(&candidate.tokens);
        let held = episode.own_tokens();
        episode.lease.set(held);
        episode.turn += 1;
        if let Some(observation) = finished.turn.windowed {
            // The ids of a window are not those of the whole episode, so they are not logged.
            episode.past.push(PastTurn {
                observation,
                completion: candidate.tokens,
                next_place: episode.place,
            });
        } else {
            completion.observation_tokens = finished.turn.observation;
            completion.tokens = candidate.tokens;
            completion.logprobs = candidate.logprobs;
            completion.sampling_logprobs = candidate.sampling_logprobs;
        }
        completion
    }

    /// Returns the completion with distinct candidate `best`, without its token ids and
    /// log-probabilities.
    fn completion_of(&self, finished: &FinishedTurn, best: usize, scores: &[f32]) -> Completion {
        let chosen = &finished.distinct[best];
        let candidate = finished.sample(chosen);
        Completion {
            text: candidate.text(&self.tokenizer),
            ended: candidate.ended(&self.tokenizer),
            value: finished.turn.value,
            after_value: chosen.after_value,
            log_ratio: finished.log_ratio(chosen),
            candidates: if finished.candidates.len() > 1 {
                self.candidates_for_log(finished, scores)
            } else {
                Vec::new()
            },
            written: finished.candidates.len(),
            written_tokens: finished
                .candidates
                .iter()
                .map(|candidate| candidate.tokens.len())
                .sum(),
            ..Completion::default()
        }
    }

    /// Returns the distinct candidates with all their scores.
    fn candidates_for_log(&self, finished: &FinishedTurn, scores: &[f32]) -> Vec<Candidate> {
        finished
            .distinct
            .iter()
            .zip(scores)
            .map(|(candidate, score)| Candidate {
                completion: finished.sample(candidate).text(&self.tokenizer),
                score: *score,
                count: candidate.same.len(),
                logprob: Some(finished.sample(candidate).logprob()),
                log_ratio: finished.log_ratio(candidate),
                after_value: candidate.after_value,
                tokens: Vec::new(),
                returns: Vec::new(),
            })
            .collect()
    }
}

/// Returns the message if the scores of all candidates are NaN.
fn no_number(protocol: &Protocol, finished: &FinishedTurn) -> String {
    format!(
        "the scorer {} gave NaN to all {} distinct candidates of a turn\n\
         hint: the network of this scorer has diverged; use an earlier checkpoint or another scorer",
        protocol.scorer.name(),
        finished.distinct.len()
    )
}
