//! Who plays: the [`Policy`] trait that the rollout loop asks for completions, the language model behind it, the
//! expert, and a scripted policy for tests.

use crate::chat::{self, Place};
use crate::error::AgentError;
use crate::generate::{KvCache, PolicyEngine, Span, ValueEngine, sample};
use crate::model::Model;
use crate::select;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use scenarios::{Candidate, Protocol, TextVersion, expert::Expert, household::catalog};
use std::collections::BTreeSet;

/// Answers observations with completions, many episodes at once.
pub trait Policy: Sync {
    /// What one episode keeps between its turns.
    type Seat: Send;

    /// Hash of the weights, or a name.
    fn name(&self) -> String;

    /// Hash of the value network's weights, when one looks on.
    fn value_name(&self) -> Option<String> {
        None
    }

    /// Begins an episode; everything random in it comes from `seed`.
    fn sit(&self, seed: u64) -> Self::Seat;

    /// One answer for each question, in order.
    fn answer(&self, asked: &mut [Asked<'_, Self::Seat>], protocol: &Protocol) -> Vec<Answer>;
}

/// An episode that waits for its next completion.
#[derive(Debug)]
pub struct Asked<'a, S> {
    /// What the policy keeps of this episode.
    pub seat: &'a mut S,
    /// The world's last text.
    pub observation: &'a str,
}

/// What a policy does with an observation.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It writes.
    Completion(Completion),
    /// The observation and a whole completion would not fit into the context.
    ContextFull,
    /// It ends the episode.
    GaveUp,
}

/// What a policy wrote in a turn. Fields as in [`scenarios::Turn`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Completion {
    /// All it wrote, without the end-of-turn token.
    pub text: String,
    /// Whether it ended its turn itself; a cut completion is malformed.
    pub ended: bool,
    /// Token ids that brought the observation into the context.
    pub observation_tokens: Vec<u32>,
    /// Token ids as sampled.
    pub tokens: Vec<u32>,
    /// Under the untempered policy, nats.
    pub logprobs: Vec<f32>,
    /// V before the completion.
    pub value: Option<f32>,
    /// U after the completion.
    pub after_value: Option<f32>,
    /// The distinct alternatives of a best-of-K turn.
    pub candidates: Vec<Candidate>,
}

/// Whether the model's value network reads along: needed for best-of-K, and costs a second forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookingOn {
    /// The value network, where the model has one.
    Value,
    /// The policy plays alone.
    Nobody,
}

/// A language model at play.
pub struct ModelPlayer {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The text versions of the games that it learned from, as far as its folder tells.
    pub text_versions: BTreeSet<TextVersion>,
    policy: PolicyEngine,
    value: Option<ValueEngine>,
    name: String,
    value_name: Option<String>,
}

/// What a [`ModelPlayer`] keeps of an episode.
#[derive(Debug)]
pub struct ModelSeat {
    policy_cache: KvCache,
    value_cache: KvCache,
    /// The last token of the last completion, not yet read by the policy.
    pending: Option<u32>,
    place: Place,
    seed: u64,
    turn: u64,
}

/// One candidate completion while it is written.
struct Branch {
    question: usize,
    rng: StdRng,
    tail: KvCache,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    done: bool,
}

impl ModelPlayer {
    /// Puts a player together; policy and value network share one shape.
    ///
    /// # Errors
    /// When a tensor does not fit the configuration, or the vocabulary does not fit the embedding.
    pub fn new(model: &Model, looking_on: LookingOn) -> Result<Self, AgentError> {
        let (tokenizer, config) = (model.tokenizer.clone(), &model.config);
        if tokenizer.vocab_size() > config.vocab_size {
            let (has, fits) = (tokenizer.vocab_size(), config.vocab_size);
            return Err(AgentError::Config(format!("the tokenizer has {has} tokens, the model {fits}")));
        }
        let value = match looking_on {
            LookingOn::Value => model.value.as_ref(),
            LookingOn::Nobody => None,
        };
        Ok(Self {
            tokenizer,
            text_versions: model.text_versions.clone(),
            policy: PolicyEngine::from_weights(config, &model.policy)?,
            value: value.map(|weights| ValueEngine::from_weights(config, weights)).transpose()?,
            name: model.policy.hash(),
            value_name: value.map(Weights::hash),
        })
    }

    /// Whether a value network looks on.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.value.is_some()
    }

    /// Most tokens the model can hold.
    #[must_use]
    pub fn context_limit(&self) -> usize {
        self.policy.trunk.config().max_position_embeddings
    }

    fn answer_chunk(&self, asked: &mut [Asked<'_, ModelSeat>], protocol: &Protocol) -> Vec<Answer> {
        let context = self.context_limit().min(protocol.context_limit);
        let mut answers = vec![Answer::ContextFull; asked.len()];
        let mut open = Vec::new();
        let mut observations = Vec::new();
        for (index, question) in asked.iter().enumerate() {
            let seat = &question.seat;
            let tokens = chat::observation_tokens(&self.tokenizer, question.observation, seat.place);
            let used = seat.policy_cache.len() + usize::from(seat.pending.is_some());
            if used + tokens.len() + protocol.completion_limit <= context {
                open.push(index);
                observations.push(tokens);
            }
        }
        if open.is_empty() {
            return answers;
        }
        let mut seats: Vec<&mut ModelSeat> = (asked.iter_mut().enumerate())
            .filter(|(index, _)| open.binary_search(index).is_ok())
            .map(|(_, question)| &mut *question.seat)
            .collect();
        let states = self.read_observations(&mut seats, &observations);
        let values = self.read_values(&mut seats, &observations);
        let mut branches = self.write_candidates(&seats, &states, protocol);
        for (question, index) in open.into_iter().enumerate() {
            let rest = branches.split_off(branches.iter().take_while(|b| b.question == question).count());
            let mut completion = self.choose(seats[question], branches);
            branches = rest;
            completion.observation_tokens = std::mem::take(&mut observations[question]);
            completion.value = values.as_ref().map(|values| values[question]);
            answers[index] = Answer::Completion(completion);
        }
        answers
    }

    /// The policy reads the pending token and the observation of every seat; the last hidden state of each.
    fn read_observations(&self, seats: &mut [&mut ModelSeat], observations: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let texts: Vec<Vec<u32>> = (seats.iter_mut().zip(observations))
            .map(|(seat, tokens)| seat.pending.take().into_iter().chain(tokens.iter().copied()).collect())
            .collect();
        let mut spans: Vec<Span<'_>> = (seats.iter_mut().zip(&texts))
            .map(|(seat, tokens)| Span { tokens, prefix: None, cache: &mut seat.policy_cache })
            .collect();
        let hidden = self.policy.trunk.extend(&mut spans);
        last_states(&hidden, texts.iter().map(Vec::len), self.policy.trunk.config().hidden_size)
    }

    /// The value network reads the observations; V of each seat.
    fn read_values(&self, seats: &mut [&mut ModelSeat], observations: &[Vec<u32>]) -> Option<Vec<f32>> {
        let value = self.value.as_ref()?;
        let mut spans: Vec<Span<'_>> = (seats.iter_mut().zip(observations))
            .map(|(seat, tokens)| Span { tokens, prefix: None, cache: &mut seat.value_cache })
            .collect();
        let hidden = value.trunk.extend(&mut spans);
        let states = last_states(&hidden, observations.iter().map(Vec::len), value.trunk.config().hidden_size);
        Some(states.iter().map(|state| value.value(state)).collect())
    }

    /// K candidates for every seat, grouped by seat.
    fn write_candidates(&self, seats: &[&mut ModelSeat], states: &[Vec<f32>], protocol: &Protocol) -> Vec<Branch> {
        let mut branches: Vec<Branch> = Vec::with_capacity(seats.len() * protocol.best_of);
        for (question, (seat, state)) in seats.iter().zip(states).enumerate() {
            let logprobs = self.policy.logprobs(state);
            for candidate in 0..protocol.best_of {
                let rng = StdRng::seed_from_u64(mixed_seed(seat.seed, seat.turn, candidate as u64));
                let (tail, tokens) = (KvCache::default(), Vec::new());
                let mut branch = Branch { question, rng, tail, tokens, logprobs: Vec::new(), done: false };
                branch.write(&logprobs, protocol, self.tokenizer.end);
                branches.push(branch);
            }
        }
        let vocab = self.policy.trunk.config().vocab_size;
        loop {
            let mut writing: Vec<&mut Branch> = branches.iter_mut().filter(|branch| !branch.done).collect();
            if writing.is_empty() {
                return branches;
            }
            let last: Vec<[u32; 1]> = writing.iter().map(|b| [b.tokens[b.tokens.len() - 1]]).collect();
            let mut spans: Vec<Span<'_>> = (writing.iter_mut().zip(&last))
                .map(|(branch, token)| Span {
                    tokens: token,
                    prefix: Some(&seats[branch.question].policy_cache),
                    cache: &mut branch.tail,
                })
                .collect();
            let logprobs = self.policy.logprobs(&self.policy.trunk.extend(&mut spans));
            for (branch, row) in writing.into_iter().zip(logprobs.chunks_exact(vocab)) {
                branch.write(row, protocol, self.tokenizer.end);
            }
        }
    }

    /// Scores a seat's candidates by U where a value network looks on, takes the best, and lets the seat remember it.
    fn choose(&self, seat: &mut ModelSeat, mut branches: Vec<Branch>) -> Completion {
        let tokens: Vec<Vec<u32>> = branches.iter().map(|branch| branch.tokens.clone()).collect();
        let first = select::first_equals(&tokens);
        let distinct: Vec<usize> = (0..first.len()).filter(|index| first[*index] == *index).collect();
        let mut scores = None;
        let mut chosen = 0;
        if let Some(value) = &self.value {
            let mut tails: Vec<KvCache> = distinct.iter().map(|_| KvCache::default()).collect();
            let mut spans: Vec<Span<'_>> = (distinct.iter().zip(&mut tails))
                .map(|(index, tail)| Span { tokens: &tokens[*index], prefix: Some(&seat.value_cache), cache: tail })
                .collect();
            let hidden = value.trunk.extend(&mut spans);
            let lengths = distinct.iter().map(|index| tokens[*index].len());
            let states = last_states(&hidden, lengths, value.trunk.config().hidden_size);
            let after: Vec<f32> = states.iter().map(|state| value.value(state)).collect();
            let best = select::best(&after);
            chosen = distinct[best];
            seat.value_cache.append(tails.swap_remove(best));
            scores = Some((after, best));
        }
        let candidates = match &scores {
            Some((after, _)) if branches.len() > 1 => (distinct.iter().zip(after))
                .map(|(index, score)| Candidate { completion: self.text(&tokens[*index]), score: *score })
                .collect(),
            _ => Vec::new(),
        };
        let branch = branches.swap_remove(chosen);
        seat.policy_cache.append(branch.tail);
        seat.pending = branch.tokens.last().copied();
        let ended = seat.pending == Some(self.tokenizer.end);
        seat.place = if ended { Place::AfterEnd } else { Place::AfterCut };
        seat.turn += 1;
        Completion {
            text: self.text(&branch.tokens),
            ended,
            observation_tokens: Vec::new(),
            tokens: branch.tokens,
            logprobs: branch.logprobs,
            value: None,
            after_value: scores.map(|(after, best)| after[best]),
            candidates,
        }
    }

    fn text(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens.strip_suffix(&[self.tokenizer.end]).unwrap_or(tokens))
    }
}

impl Branch {
    fn write(&mut self, logprobs: &[f32], protocol: &Protocol, end: u32) {
        let token = sample(logprobs, protocol.temperature, &mut self.rng);
        self.tokens.push(token);
        self.logprobs.push(logprobs[token as usize]);
        self.done = token == end || self.tokens.len() >= protocol.completion_limit;
    }
}

/// The last row of each of several sequences that lie one after the other in `hidden`.
fn last_states(hidden: &[f32], lengths: impl Iterator<Item = usize>, width: usize) -> Vec<Vec<f32>> {
    let ends = lengths.scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    ends.map(|end| hidden[(end - 1) * width..end * width].to_vec()).collect()
}

/// One seed out of an episode's seed, its turn and a candidate's index (splitmix64).
fn mixed_seed(seed: u64, turn: u64, candidate: u64) -> u64 {
    [turn, candidate].into_iter().fold(seed, |mixed, part| {
        let mut z = mixed ^ part.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

impl Policy for ModelPlayer {
    type Seat = ModelSeat;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn value_name(&self) -> Option<String> {
        self.value_name.clone()
    }

    fn sit(&self, seed: u64) -> ModelSeat {
        ModelSeat {
            policy_cache: KvCache::default(),
            value_cache: KvCache::default(),
            pending: None,
            place: Place::Opening,
            seed,
            turn: 0,
        }
    }

    fn answer(&self, asked: &mut [Asked<'_, ModelSeat>], protocol: &Protocol) -> Vec<Answer> {
        let share = asked.len().div_ceil(rayon::current_num_threads()).max(1);
        asked.par_chunks_mut(share).flat_map_iter(|chunk| self.answer_chunk(chunk, protocol)).collect()
    }
}

/// The expert of [`scenarios::expert`], as a policy.
///
/// With slips it is a better teacher: now and then it first writes a command that fails, sees "Nothing happens.", and
/// goes on as it meant to. Whoever imitates only perfect play never sees how to go on after a mistake
/// (Laskey et al., DART, arXiv 1703.09327).
#[derive(Debug, Clone, Copy, Default)]
pub struct ExpertPolicy {
    /// Share of turns that begin with a slip; 0 = perfect play.
    pub slips: f64,
}

/// What an [`ExpertPolicy`] keeps of an episode.
#[derive(Debug)]
pub struct ExpertSeat {
    expert: Expert,
    rng: StdRng,
    /// The numbered names read so far: what a slip is made of.
    names: Vec<String>,
    /// What the expert meant to write when it slipped.
    meant: Option<String>,
}

impl ExpertSeat {
    fn act(&mut self, observation: &str, slips: f64) -> String {
        if let Some(meant) = self.meant.take() {
            return meant;
        }
        let command = self.expert.act(observation);
        if slips <= 0.0 {
            return command;
        }
        self.names.extend(numbered_names(observation));
        if !self.rng.random_bool(slips.min(1.0)) || self.names.is_empty() {
            return command;
        }
        self.meant = Some(command);
        self.slip()
    }

    /// A command that very likely changes nothing: a thing taken from where it is not, or a way to where nothing is.
    fn slip(&mut self) -> String {
        let mut name = || self.names[self.rng.random_range(0..self.names.len())].clone();
        let (object, place) = (name(), name());
        let receptacles = catalog::RECEPTACLES;
        let elsewhere = receptacles[self.rng.random_range(0..receptacles.len())].name.to_lowercase();
        match self.rng.random_range(0..4) {
            0 => format!("go to {elsewhere} {}", self.rng.random_range(1..4)),
            1 => format!("open {object}"),
            2 => "use desklamp 1".into(),
            _ => format!("take {object} from {place}"),
        }
    }
}

/// The names with a number in a text, such as "mug 2".
fn numbered_names(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let pairs = words.windows(2).filter(|pair| pair[0].chars().all(|c| c.is_ascii_lowercase()) && !pair[0].is_empty());
    let numbered = pairs.filter(|pair| !pair[1].is_empty() && pair[1].chars().all(|c| c.is_ascii_digit()));
    numbered.map(|pair| format!("{} {}", pair[0], pair[1])).collect()
}

impl Policy for ExpertPolicy {
    type Seat = ExpertSeat;

    fn name(&self) -> String {
        if self.slips > 0.0 { format!("expert with {} slips a turn", self.slips) } else { "expert".into() }
    }

    fn sit(&self, seed: u64) -> ExpertSeat {
        let rng = StdRng::seed_from_u64(mixed_seed(seed, 0, 0));
        ExpertSeat { expert: Expert::new(seed), rng, names: Vec::new(), meant: None }
    }

    fn answer(&self, asked: &mut [Asked<'_, ExpertSeat>], _: &Protocol) -> Vec<Answer> {
        asked.iter_mut().map(|question| written(question.seat.act(question.observation, self.slips))).collect()
    }
}

/// Writes the same list of commands in every episode, then gives up.
#[derive(Debug, Clone)]
pub struct Scripted(pub Vec<String>);

impl Policy for Scripted {
    type Seat = std::vec::IntoIter<String>;

    fn name(&self) -> String {
        "scripted".into()
    }

    fn sit(&self, _: u64) -> Self::Seat {
        self.0.clone().into_iter()
    }

    fn answer(&self, asked: &mut [Asked<'_, Self::Seat>], _: &Protocol) -> Vec<Answer> {
        asked.iter_mut().map(|question| question.seat.next().map_or(Answer::GaveUp, written)).collect()
    }
}

/// A completion by somebody who writes text, not tokens.
#[must_use]
pub fn written(text: String) -> Answer {
    Answer::Completion(Completion { text, ended: true, ..Completion::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_numbers_are_found() {
        let text = "On the desk 1, you see a mug 2, and a pen 14.\n\nYour task is to: put a pen in desk.";
        assert_eq!(numbered_names(text), ["desk 1", "mug 2", "pen 14"]);
    }

    /// The command that was meant follows every slip, so a seat without its slips is the perfect expert.
    #[test]
    fn a_slip_only_delays_what_was_meant() {
        let opening = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1.\n\n\
                       Your task is to: put a mug in desk.";
        let perfect = ExpertPolicy::default().sit(3).act(opening, 0.0);
        let mut seat = ExpertPolicy::default().sit(3);
        let slip = seat.act(opening, 1.0);
        assert_ne!(slip, perfect);
        assert_eq!(seat.act("Nothing happens.", 1.0), perfect);
    }
}
