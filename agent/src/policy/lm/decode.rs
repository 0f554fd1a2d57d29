//! The decode step: one more token for every candidate that is being written.

use super::episode::LmEpisode;
use super::forward::ForwardInput;
use super::load::LmPolicy;
use super::turn::CandidateInProgress;
use crate::inference::sample::{DrawRequest, Sampling};
use crate::policy::TurnResponse;
use scenarios::Protocol;
use scenarios::seed::mixed_seed;

impl LmPolicy {
    /// Writes one token of every candidate of these episodes, all of which are admitted, after
    /// reading what was not read yet. Returns the responses of the turns that are over. In a
    /// search, observations that were not evaluated are evaluated first, and then nothing is
    /// written.
    pub(super) fn decode_step(
        &self,
        episodes: &mut [&mut LmEpisode],
        protocol: &Protocol,
    ) -> Vec<Option<TurnResponse>> {
        if protocol.search.is_some() && self.value.is_some() {
            let values = self.evaluate_observations(episodes);
            if values.iter().any(Option::is_some) {
                return values;
            }
        }
        let mut inputs = self.plan_inputs(episodes);
        self.read_values(episodes, &mut inputs);
        let hidden = self.read_policy(episodes, &inputs);
        self.publish_prefixes(episodes, &inputs, &hidden);
        self.sample_tokens(episodes, &inputs, &hidden, protocol);
        self.finish_turns(episodes, protocol)
    }

    /// Repeats the decode step until a turn is over. Distributing every token over the threads
    /// would cost more time than it saves.
    pub(super) fn decode_until_a_turn_ends(
        &self,
        episodes: &mut [&mut LmEpisode],
        protocol: &Protocol,
    ) -> Vec<Option<TurnResponse>> {
        loop {
            let responses = self.decode_step(episodes, protocol);
            if responses.iter().any(Option::is_some) {
                return responses;
            }
        }
    }

    /// Samples the next token of every candidate. If an episode has just ended its prefill, its K
    /// candidates begin.
    fn sample_tokens(
        &self,
        episodes: &mut [&mut LmEpisode],
        inputs: &[ForwardInput],
        hidden: &[f32],
        protocol: &Protocol,
    ) {
        let sampling = Sampling::of(protocol);
        let mut rows = 0..;
        let mut next_row = || rows.next().expect("the range has no end");
        let mut requests = Vec::new();
        let mut writing: Vec<&mut CandidateInProgress> = Vec::new();
        let mut ask = |row, candidate: &mut CandidateInProgress| {
            requests.push(DrawRequest {
                row,
                uniform: candidate.next_uniform(sampling),
            });
        };
        for (episode, input) in episodes.iter_mut().zip(inputs) {
            let LmEpisode {
                seed,
                turn: number,
                in_progress: Some(turn),
                ..
            } = &mut **episode
            else {
                continue;
            };
            match input {
                ForwardInput::Deferred => {}
                ForwardInput::LastTokens => {
                    for candidate in turn.candidates.iter_mut().filter(|one| !one.done) {
                        ask(next_row(), candidate);
                        writing.push(candidate);
                    }
                }
                ForwardInput::Unread(_) | ForwardInput::Prefix(_) => {
                    let row = next_row();
                    turn.candidates = (0..protocol.best_of as u64)
                        .map(|index| CandidateInProgress::new(mixed_seed(*seed, *number, index)))
                        .collect();
                    for candidate in &mut turn.candidates {
                        ask(row, candidate);
                        writing.push(candidate);
                    }
                }
            }
        }
        let drawn = self.policy.draw(hidden, &requests, sampling);
        for (candidate, drawn) in writing.into_iter().zip(drawn) {
            candidate.append(drawn, protocol, &self.tokenizer);
        }
    }
}
