//! The language model at play: one growing sequence of tokens an episode, read once, K candidates a turn, the best by
//! what the protocol says ([`Scorer`]).
//!
//! Who looks on reads every episode and all its candidates once: a value network, and a reference policy, which costs
//! what a second policy's reading costs, but writes nothing. The value network has one head. Read before a completion it
//! says V, read just after a candidate U; that is one function of the tokens so far, so that U and "V after the
//! candidate, before the world answers" are the same number and no two scorers.
//!
//! Under a history of the last n turns the sequence is not append-only: once turns fall out, it is made anew each turn
//! and all but a shared opening is read again. Ids and log-probabilities of such an episode are not logged: put together
//! they are not what was read.
//!
//! [`LmPolicy::answer`] writes one token of every episode that was asked and returns, so that an episode whose turn
//! is over leaves the batch at once and one whose world has answered enters it. Episodes that open with the same words
//! share what was read of them; those that go on from the same turns, played before, open with these turns. Caches hold no more tokens than the budget says: an episode that does not
//! fit waits, and where all wait, the last gives up its cache and reads its sequence again when its turn comes; that
//! changes no number, since a sequence may be cut anywhere (on a GPU: but for rounding).
//!
//! In a search all candidates of a turn are gone on with: what stands before them becomes one that they share, as an opening
//! is shared, so that the caches of a game are a tree.

pub mod select;

use crate::error::AgentError;
use crate::inference::device::Backend;
use crate::inference::sample::Sampling;
use crate::inference::{KvCache, Part, PolicyInference, Span, ValueInference, on_all_threads};
use crate::model::folder::Model;
use crate::model::weights::Weights;
use crate::policy::{CandidateText, Completion, Lookahead, Policy, TurnRequest, TurnResponse};
use crate::text::chat::{self, Place};
use crate::text::tokenizer::Tokenizer;
use rand::{SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use scenarios::seed::mixed_seed;
use scenarios::{Candidate, History, Protocol, Scorer, TextVersion, Turn, WeightFormat};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of matrices up to which, on the CPU, each thread plays episodes of its own; above, all threads share each
/// product, so that the matrices are read from memory once.
const OWN_EPISODES: usize = 8 << 20;
/// Openings remembered.
const OPENINGS: usize = 64;
/// Tokens in common from which an opening is shared.
const WORTH_SHARING: usize = 16;
/// Numbers of a round's logits from which its tokens are drawn on all threads.
const WORTH_DRAWING_APART: usize = 1 << 16;
/// What the caches may hold where nobody says.
const DEFAULT_CACHE_BYTES: usize = 4 << 30;

/// Whether the model's value network reads along: needed for best-of-K, and costs a second forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueUse {
    /// The value network, where the model has one.
    Score,
    /// The policy plays alone.
    Skip,
}

/// How a model is held while it plays. Changes memory and speed; only `weights` changes numbers, and `engine` rounds them
/// differently.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// Whether the value network reads along.
    pub looking_on: ValueUse,
    /// How its matrices are held.
    pub weights: WeightFormat,
    /// Most tokens in the caches of all episodes; `None` = what 4 GiB hold.
    pub token_budget: Option<usize>,
    /// What computes.
    pub engine: Backend,
}

impl From<ValueUse> for LoadOptions {
    fn from(looking_on: ValueUse) -> Self {
        Self {
            looking_on,
            weights: WeightFormat::Exact,
            token_budget: None,
            engine: Backend::Cpu,
        }
    }
}

/// A language model at play.
pub struct LmPolicy {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The text versions of the games that it learned from, as far as its folder tells.
    pub text_versions: BTreeSet<TextVersion>,
    policy: PolicyInference,
    value: Option<ValueInference>,
    reference: Option<PolicyInference>,
    name: String,
    value_name: Option<String>,
    reference_name: Option<String>,
    budget: Budget,
    openings: Mutex<Vec<Shared>>,
}

/// Tokens that caches may hold, and those that they do.
#[derive(Debug)]
struct Budget {
    most: usize,
    held: Arc<AtomicUsize>,
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
struct Lease {
    held: Arc<AtomicUsize>,
    tokens: usize,
}

impl Lease {
    fn set(&mut self, tokens: usize) {
        self.held.fetch_add(tokens, Ordering::Relaxed);
        self.held.fetch_sub(self.tokens, Ordering::Relaxed);
        self.tokens = tokens;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What the policy and the value network read of an episode's opening.
#[derive(Debug, Clone)]
struct Shared {
    policy: Arc<Opening>,
    value: Option<Arc<Opening>>,
}

/// The cache of an opening that several episodes stand on, and the hidden state at its end.
#[derive(Debug)]
struct Opening {
    tokens: Vec<u32>,
    /// What its first tokens were shared with, and how many they are.
    parent: Option<(Arc<Opening>, usize)>,
    /// The rest.
    cache: KvCache,
    /// `[hidden]`.
    last_state: Vec<f32>,
    _lease: Lease,
}

impl Opening {
    /// The caches that hold the first `tokens` tokens.
    fn parts<'a>(&'a self, tokens: usize, parts: &mut Vec<Part<'a>>) {
        let above = self.parent.as_ref().map_or(0, |(_, shared)| *shared);
        if let Some((parent, shared)) = &self.parent {
            parent.parts(tokens.min(*shared), parts);
        }
        if tokens > above {
            parts.push(Part {
                cache: &self.cache,
                tokens: tokens - above,
            });
        }
    }

    /// The opening that really holds the first `tokens` tokens' end.
    fn holder(self: &Arc<Self>, tokens: usize) -> Arc<Self> {
        match &self.parent {
            Some((parent, shared)) if tokens <= *shared => parent.holder(tokens),
            _ => Arc::clone(self),
        }
    }
}

/// What one network has read of an episode.
#[derive(Debug, Default)]
struct Line {
    /// What stands before the cache, and how many of its tokens.
    shared: Option<(Arc<Opening>, usize)>,
    cache: KvCache,
}

impl Line {
    fn len(&self) -> usize {
        self.shared_tokens() + self.cache.len()
    }

    fn shared_tokens(&self) -> usize {
        self.shared.as_ref().map_or(0, |(_, tokens)| *tokens)
    }

    fn before(&self) -> Vec<Part<'_>> {
        before(self.shared.as_ref())
    }
}

fn before(shared: Option<&(Arc<Opening>, usize)>) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    if let Some((opening, tokens)) = shared {
        opening.parts(*tokens, &mut parts);
    }
    parts
}

/// What a [`LmPolicy`] keeps of an episode.
#[derive(Debug)]
pub struct LmEpisode {
    /// All tokens of the episode.
    sequence: Vec<u32>,
    policy: Line,
    value: Line,
    reference: Line,
    /// The turns so far, for a window over them.
    past: Vec<Past>,
    place: Place,
    seed: u64,
    turn: u64,
    /// The first turn that it writes itself; those before it were played before.
    first_turn: u64,
    /// Whether those were written in another vocabulary.
    retells: bool,
    writing: Option<Writing>,
    /// In a search: the candidates of its last turn, until each is gone on with.
    candidates: Vec<Option<Rest>>,
    /// The turn whose candidates the world looks at.
    offered: Option<Candidates>,
    lease: Lease,
}

/// A turn that is over.
#[derive(Debug)]
struct Past {
    observation: String,
    completion: Vec<u32>,
    /// Where the next observation stands.
    place: Place,
}

/// What a search needs to go on with a candidate, beside what all candidates of its turn stand on.
#[derive(Debug)]
struct Rest {
    tokens: Vec<u32>,
    policy: KvCache,
    value: KvCache,
}

/// A turn that is being written.
#[derive(Debug)]
struct Writing {
    /// Ids of the observation.
    observation: Vec<u32>,
    /// Its text, where it is read under a window, which its ids would not tell.
    windowed: Option<String>,
    value: Option<f32>,
    /// Empty until the observation was read.
    branches: Vec<Branch>,
    admitted: bool,
}

/// One candidate completion while it is written.
#[derive(Debug)]
struct Branch {
    rng: StdRng,
    tail: KvCache,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    sampling_logprobs: Vec<f32>,
    /// What it wrote before a stop text.
    stopped: Option<String>,
    done: bool,
}

impl LmEpisode {
    /// Gives its caches up; they are read again when they are needed.
    fn forget(&mut self) {
        self.policy = Line::default();
        self.value = Line::default();
        self.reference = Line::default();
        self.lease.set(0);
    }

    /// The first observation, and the last `turns` turns behind it. Its text and that of the first turn that is left
    /// stand in one frame, an empty line between them, since nobody answered the first.
    fn window(&self, turns: usize, tokenizer: &Tokenizer) -> Vec<u32> {
        let left = &self.past[self.past.len() - turns..];
        let mut sequence = Vec::new();
        let mut place = Place::Opening;
        for past in left {
            let text = match place {
                Place::Opening => &format!("{}\n\n{}", self.past[0].observation, past.observation),
                _ => &past.observation,
            };
            sequence.extend(chat::observation_tokens(tokenizer, text, place));
            sequence.extend_from_slice(&past.completion);
            place = past.place;
        }
        sequence
    }
}

impl LmPolicy {
    /// Puts a player together; policy and value network share one shape. The model's weights are used up.
    ///
    /// # Errors
    /// When a tensor does not fit the configuration, the vocabulary does not fit the embedding, the token budget not one
    /// episode, or the engine has no such weights.
    pub fn new(model: Model, holding: impl Into<LoadOptions>) -> Result<Self, AgentError> {
        Self::with_reference(model, None, holding)
    }

    /// The same with a policy that looks on, of any shape, for log-ratios against it. It reads every token of every
    /// episode and candidate, which takes the memory and about the time of one more network.
    ///
    /// # Errors
    /// As [`Self::new`], and when the reference spells texts otherwise.
    pub fn with_reference(
        model: Model,
        reference: Option<Model>,
        holding: impl Into<LoadOptions>,
    ) -> Result<Self, AgentError> {
        let LoadOptions {
            looking_on,
            weights,
            token_budget,
            engine,
        } = holding.into();
        if reference
            .as_ref()
            .is_some_and(|reference| !reference.tokenizer.is_same(&model.tokenizer))
        {
            let reason = "the reference has another tokenizer than the policy, and the two cannot be held against each \
                          other\nhint: take the model that the policy was trained from";
            return Err(AgentError::Config(reason.into()));
        }
        let Model {
            config,
            tokenizer,
            mut policy,
            value,
            text_versions,
            ..
        } = model;
        if tokenizer.vocab_size() > config.vocab_size {
            let (has, fits) = (tokenizer.vocab_size(), config.vocab_size);
            return Err(AgentError::Config(format!(
                "the tokenizer has {has} tokens, the model {fits}"
            )));
        }
        let value = match looking_on {
            ValueUse::Score => value,
            ValueUse::Skip => None,
        };
        let (name, value_name) = (policy.hash(), value.as_ref().map(Weights::hash));
        let reference_name = reference.as_ref().map(|reference| reference.policy.hash());
        let reference = reference.map(|mut model| {
            let Model { config, policy, .. } = &mut model;
            PolicyInference::from_weights(config, policy, weights, &engine)
        });
        let reference = reference.transpose()?;
        let networks = 1 + usize::from(value.is_some()) + usize::from(reference.is_some());
        let value = value
            .map(|mut value| ValueInference::from_weights(&config, &mut value, weights, &engine))
            .transpose()?;
        let policy = PolicyInference::from_weights(&config, &mut policy, weights, &engine)?;
        let most = token_budget.unwrap_or(DEFAULT_CACHE_BYTES / policy.trunk.bytes_per_token());
        let least = networks * config.max_position_embeddings;
        if token_budget.is_some_and(|tokens| tokens < least) {
            let text = format!(
                "a token budget of {most}: one episode may hold {least} (a context of {} in {networks} network{})",
                config.max_position_embeddings,
                if networks == 1 { "" } else { "s" }
            );
            return Err(AgentError::Config(text));
        }
        let budget = Budget {
            most: most.max(least),
            held: Arc::default(),
        };
        let openings = Mutex::default();
        Ok(Self {
            tokenizer,
            text_versions,
            policy,
            value,
            reference,
            name,
            value_name,
            reference_name,
            budget,
            openings,
        })
    }

    /// Whether a value network looks on.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.value.is_some()
    }

    /// Hash of the reference's weights, when one looks on.
    #[must_use]
    pub fn reference_name(&self) -> Option<&str> {
        self.reference_name.as_deref()
    }

    /// What the best of K can be chosen by: what looks on, and whatever needs nobody.
    #[must_use]
    pub fn scorers(&self) -> Vec<Scorer> {
        let can = |scorer: &Scorer| match scorer {
            Scorer::AfterValue | Scorer::SoftValue => self.value.is_some(),
            Scorer::LogRatio => self.reference.is_some(),
            Scorer::Logprob | Scorer::Random | Scorer::Oracle => true,
        };
        Scorer::ALL.into_iter().filter(can).collect()
    }

    /// Most tokens the model can hold, and the reference that looks on.
    #[must_use]
    pub fn context_limit(&self) -> usize {
        let of = |policy: &PolicyInference| policy.trunk.config().max_position_embeddings;
        of(&self.policy).min(self.reference.as_ref().map_or(usize::MAX, of))
    }

    /// Tokens in the caches of all its episodes now.
    #[must_use]
    pub fn tokens_held(&self) -> usize {
        self.budget.held.load(Ordering::Relaxed)
    }

    fn networks(&self) -> usize {
        1 + usize::from(self.value.is_some()) + usize::from(self.reference.is_some())
    }

    fn lease(&self, tokens: usize) -> Lease {
        self.budget.held.fetch_add(tokens, Ordering::Relaxed);
        Lease {
            held: Arc::clone(&self.budget.held),
            tokens,
        }
    }

    /// Takes a question in; what cannot be answered within the context is answered at once.
    fn listen(
        &self,
        question: &mut TurnRequest<'_, LmEpisode>,
        protocol: &Protocol,
    ) -> Option<TurnResponse> {
        let seat = &mut *question.seat;
        if seat.writing.is_some() {
            return None;
        }
        if let Err(reason) = self.can_play(protocol) {
            return Some(TurnResponse::Failed(reason));
        }
        if let History::Last(turns) = protocol.history
            && seat.past.len() > turns
        {
            seat.forget();
            seat.sequence = seat.window(turns, &self.tokenizer);
        }
        let observation =
            chat::observation_tokens(&self.tokenizer, question.observation, seat.place);
        let context = self.context_limit().min(protocol.context_limit);
        if seat.sequence.len() + observation.len() + protocol.completion_limit > context {
            return Some(TurnResponse::ContextFull);
        }
        seat.sequence.extend_from_slice(&observation);
        seat.writing = Some(Writing {
            observation,
            windowed: (protocol.history != History::Full).then(|| question.observation.to_string()),
            value: None,
            branches: Vec::new(),
            admitted: false,
        });
        None
    }

    /// Lets the turns in that the budget has room for, in order. Where no turn is being written and the first does not
    /// fit, those behind it give up their caches, the last first.
    fn admit(&self, seats: &mut [&mut LmEpisode], protocol: &Protocol) {
        let after = |seat: &LmEpisode| {
            let shared = seat.policy.shared_tokens() + seat.value.shared_tokens();
            (seat.sequence.len() + protocol.best_of * protocol.completion_limit) * self.networks()
                - shared
        };
        let fits = |seat: &LmEpisode| {
            self.tokens_held() - seat.lease.tokens + after(seat) <= self.budget.most
        };
        let admit = |seat: &mut LmEpisode| {
            seat.lease.set(after(seat));
            seat.writing
                .iter_mut()
                .for_each(|writing| writing.admitted = true);
        };
        for seat in seats.iter_mut().filter(|seat| !seat.is_admitted()) {
            if fits(seat) {
                admit(seat);
            }
        }
        let Some((first, others)) = seats.split_first_mut() else {
            return;
        };
        if first.is_admitted() || others.iter().any(|seat| seat.is_admitted()) {
            return;
        }
        self.openings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        for last in others.iter_mut().rev() {
            if fits(first) {
                break;
            }
            last.forget();
        }
        if !fits(first) {
            first.forget();
        }
        if fits(first) || self.tokens_held() == 0 {
            admit(first);
        }
    }

    /// Writes one token of every seat, all of them admitted, after reading what it has not read; the turns that are over.
    /// In a search, those that nobody has looked at are looked at first.
    fn advance(
        &self,
        seats: &mut [&mut LmEpisode],
        protocol: &Protocol,
    ) -> Vec<Option<TurnResponse>> {
        if protocol.search.is_some() && self.value.is_some() {
            let seen = self.look(seats);
            if seen.iter().any(Option::is_some) {
                return seen;
            }
        }
        let mut states = self.join_openings(seats);
        self.read_values(seats, &mut states);
        let hidden = self.read_policy(seats, &states);
        self.remember_openings(seats, &states, &hidden);
        self.draw(seats, &states, &hidden, protocol);
        self.choose(seats, protocol)
    }

    /// Advances until a turn is over: handing every token out to the threads anew would cost more than it gives.
    fn advance_to_an_end(
        &self,
        seats: &mut [&mut LmEpisode],
        protocol: &Protocol,
    ) -> Vec<Option<TurnResponse>> {
        loop {
            let over = self.advance(seats, protocol);
            if over.iter().any(Option::is_some) {
                return over;
            }
        }
    }

    /// The value network alone reads the observations that it has not read: V of each, and nothing is written.
    fn look(&self, seats: &mut [&mut LmEpisode]) -> Vec<Option<TurnResponse>> {
        let is_unseen = |seat: &LmEpisode| {
            seat.writing
                .as_ref()
                .is_some_and(|writing| writing.value.is_none())
        };
        let mut reads: Vec<Reads> = seats
            .iter()
            .map(|seat| {
                if is_unseen(seat) {
                    Reads::Own(None)
                } else {
                    Reads::Later
                }
            })
            .collect();
        self.read_values(seats, &mut reads);
        let seen = |(seat, reads): (&mut &mut LmEpisode, Reads)| {
            let Reads::Own(_) = reads else { return None };
            let writing = seat.writing.as_mut()?;
            writing.admitted = false;
            let value = writing.value?;
            seat.lease
                .set(seat.policy.cache.len() + seat.value.cache.len());
            Some(TurnResponse::Seen(value))
        };
        seats.iter_mut().zip(reads).map(seen).collect()
    }

    /// Lets fresh seats stand on openings that are remembered. Of several that open alike and stand on none, the first
    /// reads now, and the others next time.
    fn join_openings(&self, seats: &mut [&mut LmEpisode]) -> Vec<Reads> {
        let mut leaders: Vec<Vec<u32>> = Vec::new();
        let openings = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut join = |seat: &mut LmEpisode| {
            if !seat.branches().is_empty() {
                return Reads::Writes;
            }
            if seat.policy.len() > 0 || seat.value.len() > 0 {
                return Reads::Own(None);
            }
            let common = |shared: &Shared| {
                let pairs = shared.policy.tokens.iter().zip(&seat.sequence);
                pairs.take_while(|(a, b)| a == b).count()
            };
            let closest = openings
                .iter()
                .map(|shared| (common(shared), shared))
                .max_by_key(|(common, _)| *common);
            let is_same = |(common, shared): &(usize, &Shared)| {
                *common == seat.sequence.len()
                    && shared.policy.tokens.len() == *common
                    && seat.is_opening()
            };
            if let Some((tokens, shared)) = closest.filter(is_same) {
                seat.stand_on(shared, tokens);
                let value = shared
                    .value
                    .as_ref()
                    .and_then(|opening| self.value_at(&opening.last_state));
                seat.writing
                    .iter_mut()
                    .for_each(|writing| writing.value = value);
                return Reads::Nothing(shared.policy.last_state.clone());
            }
            if leaders.contains(&seat.sequence) {
                return Reads::Later;
            }
            if seat.is_opening() {
                leaders.push(seat.sequence.clone());
            }
            if let Some((common, shared)) = closest {
                let tokens = common.min(seat.sequence.len() - 1);
                if tokens >= WORTH_SHARING {
                    seat.stand_on(shared, tokens);
                }
            }
            Reads::Own(None)
        };
        seats.iter_mut().map(|seat| join(seat)).collect()
    }

    fn value_at(&self, state: &[f32]) -> Option<f32> {
        self.value.as_ref().map(|value| value.value(state))
    }

    /// The value network reads what it has not read of the seats that read; V of each.
    fn read_values(&self, seats: &mut [&mut LmEpisode], reads: &mut [Reads]) {
        let Some(value) = &self.value else { return };
        let mut spans = Vec::new();
        let mut found = Vec::new();
        for (seat, reads) in seats.iter_mut().zip(reads) {
            let (
                Reads::Own(state),
                LmEpisode {
                    sequence,
                    value: line,
                    writing: Some(writing),
                    ..
                },
            ) = (reads, &mut **seat)
            else {
                continue;
            };
            if line.len() == sequence.len() {
                continue; // a search has looked already
            }
            spans.push(line.span(sequence));
            found.push((state, &mut writing.value));
        }
        if spans.is_empty() {
            return;
        }
        let states = value.trunk.last_states(&mut spans);
        for ((last, v), state) in found.into_iter().zip(states.chunks_exact(self.width())) {
            *v = Some(value.value(state));
            *last = Some(state.to_vec());
        }
    }

    /// The policy reads what it has not read, and the last token of every candidate that is being written; the hidden
    /// state of each row that a token is drawn from, by seat and candidate.
    fn read_policy(&self, seats: &mut [&mut LmEpisode], reads: &[Reads]) -> Vec<f32> {
        let mut spans = Vec::new();
        let mut rows: Vec<Option<&[f32]>> = Vec::new();
        for (seat, reads) in seats.iter_mut().zip(reads) {
            let LmEpisode {
                sequence,
                policy: line,
                writing,
                ..
            } = &mut **seat;
            match reads {
                Reads::Later => {}
                Reads::Nothing(state) => rows.push(Some(state)),
                Reads::Own(_) => {
                    spans.push(line.span(sequence));
                    rows.push(None);
                }
                Reads::Writes => {
                    let branches = writing.iter_mut().flat_map(|writing| &mut writing.branches);
                    for branch in branches.filter(|branch| !branch.done) {
                        let mut before = before(line.shared.as_ref());
                        before.push(line.cache.whole());
                        let tokens = &branch.tokens[branch.tokens.len() - 1..];
                        spans.push(Span {
                            tokens,
                            before,
                            cache: &mut branch.tail,
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
        rows.into_iter()
            .flat_map(|row| {
                row.or_else(|| read.next())
                    .expect("a state for each span")
                    .iter()
                    .copied()
            })
            .collect()
    }

    /// What a fresh seat has read becomes an opening, for it and for others.
    fn remember_openings(&self, seats: &mut [&mut LmEpisode], reads: &[Reads], hidden: &[f32]) {
        let mut rows = hidden.chunks_exact(self.width());
        for (seat, reads) in seats.iter_mut().zip(reads) {
            let mut taken = rows.by_ref().take(reads.rows(seat));
            let Reads::Own(value_state) = reads else {
                taken.for_each(drop);
                continue;
            };
            let state = taken.next().expect("a row for each that reads");
            let knows_both = value_state.is_some() == self.value.is_some(); // a search looked before, and kept V alone
            if !seat.is_opening() || !knows_both {
                continue;
            }
            let sequence = &seat.sequence;
            let publish =
                |line: &mut Line, state: &[f32]| self.share(line, sequence.clone(), state.to_vec());
            let read = seat.policy.cache.len() + seat.value.cache.len();
            let policy = publish(&mut seat.policy, state);
            let value = value_state
                .as_ref()
                .map(|state| publish(&mut seat.value, state));
            seat.lease.set(seat.lease.tokens.saturating_sub(read));
            let mut openings = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
            if openings.len() >= OPENINGS {
                openings.remove(0);
            }
            openings.push(Shared { policy, value });
        }
    }

    /// Makes what a line has read one that others can stand on as it does.
    fn share(&self, line: &mut Line, tokens: Vec<u32>, last_state: Vec<f32>) -> Arc<Opening> {
        let read = line.len();
        let cache = std::mem::take(&mut line.cache);
        let lease = self.lease(cache.len());
        let opening = Arc::new(Opening {
            tokens,
            parent: line.shared.take(),
            cache,
            last_state,
            _lease: lease,
        });
        line.shared = Some((Arc::clone(&opening), read));
        opening
    }

    /// Draws the next token of every candidate; the K candidates of a seat that has just read begin.
    fn draw(
        &self,
        seats: &mut [&mut LmEpisode],
        reads: &[Reads],
        hidden: &[f32],
        protocol: &Protocol,
    ) {
        let logprobs = self.policy.logprobs(hidden);
        let mut rows = logprobs.chunks_exact(self.policy.trunk.config().vocab_size);
        let mut drawing: Vec<(&[f32], &mut Branch)> = Vec::new();
        for (seat, reads) in seats.iter_mut().zip(reads) {
            let (seed, turn) = (seat.seed, seat.turn);
            let Some(writing) = &mut seat.writing else {
                continue;
            };
            match reads {
                Reads::Later => {}
                Reads::Writes => {
                    let branches = writing.branches.iter_mut().filter(|branch| !branch.done);
                    drawing.extend(
                        branches
                            .zip(rows.by_ref())
                            .map(|(branch, row)| (row, branch)),
                    );
                }
                Reads::Own(_) | Reads::Nothing(_) => {
                    let row = rows.next().expect("a row for each that has read");
                    let candidates = 0..protocol.best_of as u64;
                    writing.branches = candidates
                        .map(|index| Branch::new(mixed_seed(seed, turn, index)))
                        .collect();
                    drawing.extend(writing.branches.iter_mut().map(|branch| (row, branch)));
                }
            }
        }
        let write =
            |(row, branch): (&[f32], &mut Branch)| branch.write(row, protocol, &self.tokenizer);
        if drawing.len() * self.policy.trunk.config().vocab_size >= WORTH_DRAWING_APART {
            drawing.into_par_iter().for_each(write);
        } else {
            drawing.into_iter().for_each(write);
        }
    }

    /// Where all candidates of a seat are written, lets those who look on read them, takes the best, and lets the seat
    /// remember it. What only the world can tell it is asked for; a search takes all of them.
    fn choose(
        &self,
        seats: &mut [&mut LmEpisode],
        protocol: &Protocol,
    ) -> Vec<Option<TurnResponse>> {
        let mut over: Vec<Option<Candidates>> =
            seats.iter_mut().map(|seat| seat.written()).collect();
        self.read_after_values(seats, &mut over);
        self.read_reference(seats, &mut over);
        let answer = |(seat, over): (&mut &mut LmEpisode, Option<Candidates>)| {
            let over = over?;
            if protocol.search.is_some() && self.value.is_some() {
                return Some(TurnResponse::Candidates(self.take_all(seat, over)));
            }
            if protocol.scorer == Scorer::Oracle && over.branches.len() > 1 {
                let offers = over
                    .distinct
                    .iter()
                    .map(|of| self.offer(&over.branches[of.index]))
                    .collect();
                seat.offered = Some(over);
                return Some(TurnResponse::Offers(offers));
            }
            let scores: Vec<f32> = over
                .distinct
                .iter()
                .map(|of| of.score(protocol.scorer, seat, &over))
                .collect();
            Some(TurnResponse::Completion(
                self.take_best(seat, over, &scores),
            ))
        };
        seats.iter_mut().zip(over).map(answer).collect()
    }

    /// The value network reads the distinct candidates of all turns that are over.
    fn read_after_values(&self, seats: &[&mut LmEpisode], over: &mut [Option<Candidates>]) {
        let Some(value) = &self.value else { return };
        let mut spans = Vec::new();
        let mut found = Vec::new();
        for (seat, over) in seats.iter().zip(over) {
            let Some(Candidates {
                branches, distinct, ..
            }) = over
            else {
                continue;
            };
            for candidate in distinct {
                let mut before = seat.value.before();
                before.push(seat.value.cache.whole());
                let tokens = &branches[candidate.index].tokens[..];
                spans.push(Span {
                    tokens,
                    before,
                    cache: &mut candidate.tail,
                });
                found.push(&mut candidate.after_value);
            }
        }
        if spans.is_empty() {
            return;
        }
        let states = value.trunk.last_states(&mut spans);
        for (after_value, state) in found.into_iter().zip(states.chunks_exact(self.width())) {
            *after_value = Some(value.value(state));
        }
    }

    /// The reference reads what it has not read of the sequences whose turn is over, and then their distinct candidates.
    fn read_reference(&self, seats: &mut [&mut LmEpisode], over: &mut [Option<Candidates>]) {
        let Some(reference) = &self.reference else {
            return;
        };
        let mut turns: Vec<(&mut LmEpisode, &mut Candidates)> = seats
            .iter_mut()
            .zip(over)
            .filter_map(|(seat, over)| Some((&mut **seat, over.as_mut()?)))
            .collect();
        if turns.is_empty() {
            return;
        }
        let mut spans: Vec<Span<'_>> = (turns.iter_mut())
            .map(
                |(
                    LmEpisode {
                        sequence,
                        reference: line,
                        ..
                    },
                    _,
                )| line.span(sequence),
            )
            .collect();
        let firsts = reference.trunk.last_states(&mut spans);
        let width = reference.trunk.config().hidden_size;
        let mut spans = Vec::new();
        let mut found = Vec::new();
        for ((seat, over), first) in turns.iter_mut().zip(firsts.chunks_exact(width)) {
            let Candidates {
                branches, distinct, ..
            } = &mut **over;
            for candidate in distinct {
                let tokens = &branches[candidate.index].tokens[..];
                let read = &tokens[..tokens.len() - 1]; // what follows the last token nobody asks
                if !read.is_empty() {
                    let mut before = seat.reference.before();
                    before.push(seat.reference.cache.whole());
                    spans.push(Span {
                        tokens: read,
                        before,
                        cache: &mut candidate.reference_tail,
                    });
                }
                found.push((first, tokens, &mut candidate.reference_logprob));
            }
        }
        let states = if spans.is_empty() {
            Vec::new()
        } else {
            reference.trunk.extend(&mut spans)
        };
        let mut left = &states[..];
        for (first, tokens, logprob) in found {
            let own;
            (own, left) = left.split_at((tokens.len() - 1) * width);
            let logprobs = reference.logprobs(&[first, own].concat());
            let rows = logprobs.chunks_exact(reference.trunk.config().vocab_size);
            *logprob = Some(
                rows.zip(tokens)
                    .map(|(row, token)| row[*token as usize])
                    .sum(),
            );
        }
    }

    /// What a candidate says.
    fn offer(&self, branch: &Branch) -> CandidateText {
        CandidateText {
            text: self.text(branch),
            ended: self.ended(branch),
        }
    }

    fn wrote_end(&self, branch: &Branch) -> bool {
        branch.tokens.last() == Some(&self.tokenizer.end)
    }

    fn ended(&self, branch: &Branch) -> bool {
        self.wrote_end(branch) || branch.stopped.is_some()
    }

    /// Takes the candidate with the highest score, one score for each distinct one.
    fn take_best(&self, seat: &mut LmEpisode, over: Candidates, scores: &[f32]) -> Completion {
        let candidates = if over.branches.len() > 1 {
            self.candidates(&over, scores)
        } else {
            Vec::new()
        };
        let Candidates {
            writing,
            mut branches,
            mut distinct,
        } = over;
        let (written, written_tokens) = (
            branches.len(),
            branches.iter().map(|branch| branch.tokens.len()).sum(),
        );
        let chosen = distinct.swap_remove(select::best(scores));
        let (after_value, log_ratio) = (chosen.after_value, chosen.log_ratio(&branches));
        let branch = branches.swap_remove(chosen.index);
        let (text, ended) = (self.text(&branch), self.ended(&branch));
        seat.value.cache.append(chosen.tail);
        seat.reference.cache.append(chosen.reference_tail);
        seat.place = if self.wrote_end(&branch) {
            Place::AfterEnd
        } else {
            Place::AfterCut
        };
        seat.policy.cache.append(branch.tail);
        seat.sequence.extend_from_slice(&branch.tokens);
        seat.lease
            .set(seat.policy.cache.len() + seat.value.cache.len() + seat.reference.cache.len());
        seat.turn += 1;
        let completion = Completion {
            text,
            ended,
            value: writing.value,
            after_value,
            candidates,
            log_ratio,
            written,
            written_tokens,
            ..Completion::default()
        };
        if let Some(observation) = writing.windowed {
            seat.past.push(Past {
                observation,
                completion: branch.tokens,
                place: seat.place,
            });
            return completion;
        }
        Completion {
            observation_tokens: writing.observation,
            tokens: branch.tokens,
            logprobs: branch.logprobs,
            sampling_logprobs: branch.sampling_logprobs,
            ..completion
        }
    }

    /// Keeps what was read of every distinct candidate; what stands before them they share.
    fn take_all(&self, seat: &mut LmEpisode, over: Candidates) -> Vec<Completion> {
        let Candidates {
            writing,
            branches,
            distinct,
        } = over;
        for line in [&mut seat.policy, &mut seat.value] {
            if !line.cache.is_empty() {
                self.share(line, Vec::new(), Vec::new());
            }
        }
        let mut branches: Vec<Option<Branch>> = branches.into_iter().map(Some).collect();
        let mut take = |candidate: Distinct| {
            let branch = branches[candidate.index]
                .take()
                .expect("each is taken once");
            let completion = Completion {
                text: self.text(&branch),
                ended: self.ended(&branch),
                observation_tokens: writing.observation.clone(),
                tokens: branch.tokens.clone(),
                logprobs: branch.logprobs,
                sampling_logprobs: branch.sampling_logprobs,
                value: writing.value,
                after_value: candidate.after_value,
                written: candidate.same.len(),
                written_tokens: candidate.same.len() * branch.tokens.len(),
                ..Completion::default()
            };
            let rest = Rest {
                tokens: branch.tokens,
                policy: branch.tail,
                value: candidate.tail,
            };
            (completion, Some(rest))
        };
        let (completions, candidates): (Vec<_>, Vec<_>) =
            distinct.into_iter().map(&mut take).unzip();
        seat.candidates = candidates;
        seat.lease.set(
            seat.candidates
                .iter()
                .flatten()
                .map(Rest::tokens_held)
                .sum(),
        );
        completions
    }

    /// The distinct candidates for the log, with all that is known of them.
    fn candidates(&self, over: &Candidates, scores: &[f32]) -> Vec<Candidate> {
        let candidate = |(of, score): (&Distinct, &f32)| Candidate {
            completion: self.text(&over.branches[of.index]),
            score: *score,
            count: of.same.len(),
            logprob: Some(over.branches[of.index].logprob()),
            log_ratio: of.log_ratio(&over.branches),
            after_value: of.after_value,
        };
        over.distinct.iter().zip(scores).map(candidate).collect()
    }

    fn text(&self, branch: &Branch) -> String {
        let tokens = branch
            .tokens
            .strip_suffix(&[self.tokenizer.end])
            .unwrap_or(&branch.tokens);
        branch
            .stopped
            .clone()
            .unwrap_or_else(|| self.tokenizer.decode(tokens))
    }

    fn width(&self) -> usize {
        self.policy.trunk.config().hidden_size
    }
}

/// What a seat's networks read before its next token is drawn.
#[derive(Debug)]
enum Reads {
    /// Its candidates' last tokens.
    Writes,
    /// What it has not read; then the value network's state, where one looks on.
    Own(Option<Vec<f32>>),
    /// Nothing: it stands on an opening, whose policy state this is.
    Nothing(Vec<f32>),
    /// It waits for an opening that another seat reads now.
    Later,
}

impl Reads {
    /// Rows that its tokens are drawn from.
    fn rows(&self, seat: &LmEpisode) -> usize {
        match self {
            Self::Later => 0,
            Self::Own(_) | Self::Nothing(_) => 1,
            Self::Writes => seat.branches().iter().filter(|branch| !branch.done).count(),
        }
    }
}

/// The candidates of a turn that is over.
#[derive(Debug)]
struct Candidates {
    writing: Writing,
    branches: Vec<Branch>,
    distinct: Vec<Distinct>,
}

/// A candidate that is no repetition.
#[derive(Debug)]
struct Distinct {
    index: usize,
    /// Those of the K that say this, itself included.
    same: Vec<usize>,
    /// What the value network read of it.
    tail: KvCache,
    after_value: Option<f32>,
    /// What the reference read of it.
    reference_tail: KvCache,
    /// ln π_ref of it, nats.
    reference_logprob: Option<f32>,
}

impl Distinct {
    fn log_ratio(&self, branches: &[Branch]) -> Option<f32> {
        self.reference_logprob
            .map(|reference| branches[self.index].logprob() - reference)
    }

    /// What it is chosen by, higher is better. Where there is nothing to choose between, 0 stands for what nobody knows.
    fn score(&self, by: Scorer, seat: &LmEpisode, over: &Candidates) -> f32 {
        let known = match by {
            Scorer::AfterValue => self.after_value,
            Scorer::SoftValue => self
                .after_value
                .map(|value| value + Scorer::BETA * over.branches[self.index].logprob()),
            Scorer::LogRatio => self.log_ratio(&over.branches),
            Scorer::Logprob => Some(over.branches[self.index].logprob()),
            Scorer::Random => {
                let draws = self
                    .same
                    .iter()
                    .map(|index| select::draw(seat.seed, seat.turn, *index as u64));
                draws.reduce(f32::max)
            }
            Scorer::Oracle => None, // the world is asked
        };
        known.unwrap_or_default()
    }
}

impl Rest {
    fn tokens_held(&self) -> usize {
        self.policy.len() + self.value.len()
    }
}

impl Line {
    /// One that stands where this one does, which has nothing of its own, and has read this beyond.
    fn beside(&self, cache: KvCache) -> Self {
        Self {
            shared: self.shared.clone(),
            cache,
        }
    }

    /// The tokens of a sequence that it has not read.
    fn span<'a>(&'a mut self, sequence: &'a [u32]) -> Span<'a> {
        let tokens = &sequence[self.len()..];
        Span {
            tokens,
            before: before(self.shared.as_ref()),
            cache: &mut self.cache,
        }
    }
}

impl LmEpisode {
    fn branches(&self) -> &[Branch] {
        self.writing
            .as_ref()
            .map_or(&[], |writing| &writing.branches)
    }

    /// Whether the turn that it writes is its first.
    fn is_opening(&self) -> bool {
        self.turn == self.first_turn
    }

    fn is_admitted(&self) -> bool {
        self.writing
            .as_ref()
            .is_some_and(|writing| writing.admitted)
    }

    fn stand_on(&mut self, shared: &Shared, tokens: usize) {
        self.policy.shared = Some((shared.policy.holder(tokens), tokens));
        self.value.shared = shared
            .value
            .as_ref()
            .map(|opening| (opening.holder(tokens), tokens));
    }

    /// Its turn, when all candidates are written.
    fn written(&mut self) -> Option<Candidates> {
        let is_over =
            !self.branches().is_empty() && self.branches().iter().all(|branch| branch.done);
        let mut writing = self.writing.take_if(|_| is_over)?;
        let branches = std::mem::take(&mut writing.branches);
        let tokens: Vec<&[u32]> = branches.iter().map(|branch| &branch.tokens[..]).collect();
        let first = select::first_equals(&tokens);
        let same = |index| {
            (0..first.len())
                .filter(|other| first[*other] == index)
                .collect()
        };
        let distinct = |index| Distinct {
            index,
            same: same(index),
            tail: KvCache::default(),
            after_value: None,
            reference_tail: KvCache::default(),
            reference_logprob: None,
        };
        let distinct = (0..first.len())
            .filter(|index| first[*index] == *index)
            .map(distinct)
            .collect();
        Some(Candidates {
            writing,
            branches,
            distinct,
        })
    }
}

impl Branch {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            tail: KvCache::default(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            sampling_logprobs: Vec::new(),
            stopped: None,
            done: false,
        }
    }

    /// ln π of all that it wrote, nats.
    fn logprob(&self) -> f32 {
        self.logprobs.iter().sum()
    }

    fn write(&mut self, logprobs: &[f32], protocol: &Protocol, tokenizer: &Tokenizer) {
        let sampling = Sampling::of(protocol);
        let drawn = sampling.draw(logprobs, &mut self.rng);
        self.tokens.push(drawn.token);
        self.logprobs.push(logprobs[drawn.token as usize]);
        if sampling.temperature > 0.0 && !sampling.is_untempered() {
            self.sampling_logprobs.push(drawn.logprob);
        }
        let ended = drawn.token == tokenizer.end;
        if !ended && !protocol.stop.is_empty() {
            let text = tokenizer.decode(&self.tokens);
            let first = protocol
                .stop
                .iter()
                .filter_map(|stop| text.find(stop.as_str()))
                .min();
            self.stopped = first.map(|at| text[..at].to_string());
        }
        self.done =
            ended || self.stopped.is_some() || self.tokens.len() >= protocol.completion_limit;
    }
}

impl Policy for LmPolicy {
    type EpisodeState = LmEpisode;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn value_name(&self) -> Option<String> {
        self.value_name.clone()
    }

    /// The best of K wants whoever it is chosen by to look on.
    fn can_play(&self, protocol: &Protocol) -> Result<(), String> {
        let (k, by) = (protocol.best_of, protocol.scorer);
        if protocol.search.is_some() {
            let refused = |what: &str| Err(format!("a search {what}"));
            return match protocol.history {
                _ if by != Scorer::AfterValue => {
                    refused("is guided by V\nhint: leave --choose-by out")
                }
                _ if self.reference.is_some() => {
                    refused("takes no reference along\nhint: leave --reference out")
                }
                History::Last(_) => refused("reads the full history\nhint: leave --history out"),
                History::Full => Ok(()),
            };
        }
        let can = self.scorers();
        if k < 2 || can.contains(&by) {
            return Ok(());
        }
        let lacks = match by {
            Scorer::LogRatio => "no reference looks on",
            _ => "no value network looks on",
        };
        let others: Vec<&str> = can.into_iter().map(Scorer::name).collect();
        Err(format!(
            "the best of {k} by {}: {lacks}\nhint: it can be chosen by {}",
            by.name(),
            others.join(", ")
        ))
    }

    fn begin(&self, seed: u64) -> LmEpisode {
        LmEpisode {
            sequence: Vec::new(),
            policy: Line::default(),
            value: Line::default(),
            reference: Line::default(),
            past: Vec::new(),
            place: Place::Opening,
            seed,
            turn: 0,
            first_turn: 0,
            retells: false,
            writing: None,
            candidates: Vec::new(),
            offered: None,
            lease: self.lease(0),
        }
    }

    /// The ids of the turn go into the sequence as they were sampled, and are read when the next completion is asked for.
    /// Where the first observation's are not this tokenizer's, or ids were never told, the texts are tokenized.
    fn replay(&self, seat: &mut LmEpisode, turn: &Turn) -> Result<(), String> {
        if seat.turn == 0 {
            let own = chat::observation_tokens(&self.tokenizer, &turn.observation, seat.place);
            seat.retells = turn.observation_tokens != own;
        }
        let (observation, completion, place) = if seat.retells || turn.completion_tokens.is_empty()
        {
            chat::turn_tokens(&self.tokenizer, turn, seat.place)
        } else {
            let wrote_end = turn.completion_tokens.last() == Some(&self.tokenizer.end);
            let place = if wrote_end {
                Place::AfterEnd
            } else {
                Place::AfterCut
            };
            (
                turn.observation_tokens.clone(),
                turn.completion_tokens.clone(),
                place,
            )
        };
        seat.sequence.extend(observation.iter().chain(&completion));
        seat.past.push(Past {
            observation: turn.observation.clone(),
            completion,
            place,
        });
        seat.place = place;
        seat.first_turn += u64::from(seat.is_opening()); // not where it has written itself in between
        seat.turn += 1;
        Ok(())
    }

    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, LmEpisode>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        let heard: Vec<Option<TurnResponse>> = asked
            .par_iter_mut()
            .map(|question| self.listen(question, protocol))
            .collect();
        let mut answers: Vec<TurnResponse> = heard
            .iter()
            .map(|answer| answer.clone().unwrap_or(TurnResponse::Waiting))
            .collect();
        let listening = asked
            .iter_mut()
            .zip(&heard)
            .filter(|(_, answer)| answer.is_none());
        let mut seats: Vec<&mut LmEpisode> =
            listening.map(|(question, _)| &mut *question.seat).collect();
        self.admit(&mut seats, protocol);
        let places = (0..heard.len())
            .filter(|index| heard[*index].is_none())
            .zip(&seats);
        let places: Vec<usize> = places
            .filter(|(_, seat)| seat.is_admitted())
            .map(|(place, _)| place)
            .collect();
        seats.retain(|seat| seat.is_admitted());
        let apart = self.policy.trunk.is_on_host() && self.policy.bytes() <= OWN_EPISODES;
        let over: Vec<Option<TurnResponse>> = if apart {
            let share = seats.len().div_ceil(rayon::current_num_threads()).max(1);
            seats
                .par_chunks_mut(share)
                .flat_map_iter(|seats| self.advance_to_an_end(seats, protocol))
                .collect()
        } else {
            on_all_threads(|| self.advance(&mut seats, protocol))
        };
        for (place, over) in places.into_iter().zip(over) {
            answers[place] = over.unwrap_or(TurnResponse::Writing);
        }
        answers
    }

    fn take(&self, seat: &mut LmEpisode, scores: &[f32]) -> Completion {
        let over = seat
            .offered
            .take()
            .expect("a seat that offered candidates has them");
        self.take_best(seat, over, scores)
    }

    fn lookahead(&self) -> Option<&dyn Lookahead<EpisodeState = LmEpisode>> {
        self.value.as_ref().map(|_| self as _)
    }
}

impl Lookahead for LmPolicy {
    type EpisodeState = LmEpisode;

    fn branch(&self, seat: &mut LmEpisode, candidate: usize) -> LmEpisode {
        let rest = seat.candidates[candidate]
            .take()
            .expect("each candidate is gone on with once");
        let held = rest.tokens_held();
        seat.lease.set(seat.lease.tokens - held);
        let seed = if candidate == 0 {
            seat.seed
        } else {
            mixed_seed(seat.seed, seat.turn, candidate as u64)
        };
        let wrote_end = rest.tokens.last() == Some(&self.tokenizer.end);
        LmEpisode {
            sequence: [&seat.sequence[..], &rest.tokens].concat(),
            policy: seat.policy.beside(rest.policy),
            value: seat.value.beside(rest.value),
            place: if wrote_end {
                Place::AfterEnd
            } else {
                Place::AfterCut
            },
            seed,
            turn: seat.turn + 1,
            first_turn: seat.first_turn,
            retells: seat.retells,
            writing: None,
            reference: Line::default(), // none looks on: see `can_play`
            past: Vec::new(),
            candidates: Vec::new(),
            offered: None,
            lease: self.lease(held),
        }
    }

    fn make_room(&self, seat: &mut LmEpisode) {
        seat.forget();
    }
}
