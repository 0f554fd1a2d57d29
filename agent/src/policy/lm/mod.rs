//! The language model as a policy: one growing sequence of tokens per episode, K candidates per
//! turn, and the best of them by the protocol's [`Scorer`].
//!
//! *Value network and reference policy.* If they are loaded, each reads every token of an episode
//! and of its candidates once, which costs one more forward pass each. The value network has one
//! head. If it is read before a completion, its output is V. If it is read just after a candidate,
//! before the environment replies, its output is U. Both are the same function of the tokens so far.
//!
//! *History.* If the history is the last n turns, the sequence is not append-only: once turns drop
//! out of the window, it is built again each turn, and everything but a shared prefix is read
//! again. Token ids and log-probabilities of such an episode are not logged, because their
//! concatenation is not what the policy read.
//!
//! *Continuous batching.* [`LmPolicy::respond`] writes one token of every episode in the requests
//! and returns. An episode whose turn is over leaves the batch at once, and one whose environment
//! has replied enters it.
//!
//! *Prefix cache.* Episodes that begin with the same tokens share the KV cache of these tokens. If
//! several continue from the same replayed turns, these turns are part of the shared prefix. In a
//! search, all candidates of a turn are continued: what was read before them becomes a shared
//! prefix, so the caches of a game form a tree.
//!
//! *Cache budget.* The caches never hold more tokens than the budget. If an episode does not fit,
//! it waits. If all of them wait, the last gives up its cache and reads its sequence again when it
//! is admitted. This changes no number, since a sequence may be cut anywhere (on a GPU, up to
//! rounding).

mod cache;
mod decode;
mod episode;
mod finish;
mod forward;
mod load;
mod schedule;
mod score;
mod search;
pub mod select;
mod turn;

pub use episode::LmEpisode;
pub use load::{LmPolicy, LoadOptions, ValueUse};
pub use score::{GivenCompletions, GivenScores};

use crate::inference::on_all_threads;
use crate::policy::{Completion, Lookahead, Policy, TurnRequest, TurnResponse};
use crate::text::chat;
use rayon::prelude::*;
use scenarios::{ActionFormat, History, Protocol, Scorer, Turn};
use schedule::Admission;
use turn::{PastTurn, TurnInProgress, place_after};

/// Size of the matrices up to which, on the CPU, each thread decodes episodes of its own, bytes. If
/// they are larger, all threads share each product, so that the matrices are read from memory once.
const MAX_BYTES_FOR_OWN_EPISODES: usize = 8 << 20;

impl Policy for LmPolicy {
    type EpisodeState = LmEpisode;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn value_name(&self) -> Option<String> {
        self.value_name.clone()
    }

    /// Best-of-K needs the network of its scorer. A search needs the full history, the scorer
    /// `after_value`, and no reference.
    fn can_play(&self, protocol: &Protocol) -> Result<(), String> {
        if protocol.search.is_some() {
            return self.can_search(protocol);
        }
        let scorers = self.scorers();
        if protocol.best_of < 2 || scorers.contains(&protocol.scorer) {
            return Ok(());
        }
        let missing = match protocol.scorer {
            Scorer::LogRatio => "no reference policy is loaded",
            _ => "no value network is loaded",
        };
        let names: Vec<&str> = scorers.into_iter().map(Scorer::name).collect();
        Err(format!(
            "the best of {} by {}: {missing}\nhint: available scorers are {}",
            protocol.best_of,
            protocol.scorer.name(),
            names.join(", ")
        ))
    }

    fn begin(&self, seed: u64) -> LmEpisode {
        LmEpisode::new(seed, self.budget.lease(0))
    }

    /// Appends the token ids of the turn as they were sampled. The networks read them when the next
    /// completion is requested. If the ids of the first observation are not those of this
    /// tokenizer, or if there are none, the texts are tokenized.
    fn replay(&self, episode: &mut LmEpisode, turn: &Turn) -> Result<(), String> {
        if episode.turn == 0 {
            let own = chat::observation_tokens(&self.tokenizer, &turn.observation, episode.place);
            episode.retokenizes = turn.observation_tokens != own;
        }
        let (observation, completion, next_place) =
            if episode.retokenizes || turn.completion_tokens.is_empty() {
                chat::turn_tokens(&self.tokenizer, turn, episode.place, ActionFormat::Plain)
            } else {
                (
                    turn.observation_tokens.clone(),
                    turn.completion_tokens.clone(),
                    place_after(&turn.completion_tokens, &self.tokenizer),
                )
            };
        episode
            .sequence
            .extend(observation.iter().chain(&completion));
        episode.past.push(PastTurn {
            observation: turn.observation.clone(),
            completion,
            next_place,
        });
        episode
            .expert
            .read(chat::without_admissible(&turn.observation));
        episode.expert.continue_after(turn.action.as_deref());
        episode.place = next_place;
        // If the policy has already written a turn itself, its first turn stays where it is.
        episode.first_turn += u64::from(episode.is_at_first_turn());
        episode.turn += 1;
        Ok(())
    }

    fn respond(
        &self,
        requests: &mut [TurnRequest<'_, LmEpisode>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        let mut responses: Vec<Option<TurnResponse>> = requests
            .par_iter_mut()
            .map(|request| self.begin_turn(request, protocol))
            .collect();
        let mut indices: Vec<usize> = Vec::new();
        let mut episodes: Vec<&mut LmEpisode> = Vec::new();
        for (index, (request, response)) in requests.iter_mut().zip(&responses).enumerate() {
            if response.is_none() {
                indices.push(index);
                episodes.push(&mut *request.episode);
            }
        }
        let admission = Admission {
            budget: &self.budget,
            networks: self.networks(),
            protocol,
        };
        admission.admit(&mut episodes, || self.prefixes());
        let mut admitted = episodes.iter().map(|episode| episode.is_admitted());
        indices.retain(|_| admitted.next().unwrap_or(false));
        drop(admitted);
        episodes.retain(|episode| episode.is_admitted());
        for (index, over) in indices
            .into_iter()
            .zip(self.decode(&mut episodes, protocol))
        {
            responses[index] = Some(over.unwrap_or(TurnResponse::InProgress));
        }
        responses
            .into_iter()
            .map(|response| response.unwrap_or(TurnResponse::Waiting))
            .collect()
    }

    fn take(&self, episode: &mut LmEpisode, scores: &[f32]) -> Completion {
        let offered = episode
            .offered
            .take()
            .expect("`take` is called after offers were returned");
        self.take_best(episode, offered, scores)
    }

    fn lookahead(&self) -> Option<&dyn Lookahead<EpisodeState = LmEpisode>> {
        self.value.as_ref().map(|_| self as _)
    }
}

impl LmPolicy {
    fn can_search(&self, protocol: &Protocol) -> Result<(), String> {
        let refusal = if protocol.scorer != Scorer::AfterValue {
            "needs the scorer after_value\nhint: leave --scorer out"
        } else if self.reference.is_some() {
            "uses no reference policy\nhint: leave --reference out"
        } else if protocol.history != History::Full {
            "needs the full history\nhint: leave --history out"
        } else {
            return Ok(());
        };
        Err(format!("a search {refusal}"))
    }

    /// Appends an observation to its episode and begins the turn, if it was not begun before.
    /// Returns a response if the turn cannot be written at all.
    fn begin_turn(
        &self,
        request: &mut TurnRequest<'_, LmEpisode>,
        protocol: &Protocol,
    ) -> Option<TurnResponse> {
        let episode = &mut *request.episode;
        if episode.in_progress.is_some() {
            return None;
        }
        if let Err(reason) = self.can_play(protocol) {
            return Some(TurnResponse::Failed(reason));
        }
        if let History::Last(turns) = protocol.history
            && episode.past.len() > turns
        {
            episode.release_caches();
            episode.sequence = episode.windowed_sequence(turns, &self.tokenizer);
        }
        let observation =
            chat::observation_tokens(&self.tokenizer, request.observation, episode.place);
        let context = self.context_limit().min(protocol.context_limit);
        if episode.sequence.len() + observation.len() + protocol.completion_limit > context {
            return Some(TurnResponse::ContextFull);
        }
        if protocol.scorer == Scorer::Expert && protocol.best_of > 1 {
            let text = chat::without_admissible(request.observation);
            episode.expert.read(text);
        }
        episode.sequence.extend_from_slice(&observation);
        episode.in_progress = Some(TurnInProgress {
            observation,
            windowed: (protocol.history != History::Full).then(|| request.observation.to_string()),
            value: None,
            candidates: Vec::new(),
            admitted: false,
        });
        None
    }

    /// Runs one decode step over all episodes on all threads, or, if the model is small, lets each
    /// thread decode a part of them until a turn is over.
    fn decode(
        &self,
        episodes: &mut [&mut LmEpisode],
        protocol: &Protocol,
    ) -> Vec<Option<TurnResponse>> {
        if self.each_thread_has_own_episodes() {
            let share = episodes.len().div_ceil(rayon::current_num_threads()).max(1);
            return episodes
                .par_chunks_mut(share)
                .flat_map_iter(|episodes| self.decode_until_a_turn_ends(episodes, protocol))
                .collect();
        }
        on_all_threads(|| self.decode_step(episodes, protocol))
    }

    /// Returns whether the model is so small that each thread computes episodes of its own.
    fn each_thread_has_own_episodes(&self) -> bool {
        self.policy.trunk.is_on_host() && self.policy.bytes() <= MAX_BYTES_FOR_OWN_EPISODES
    }
}
