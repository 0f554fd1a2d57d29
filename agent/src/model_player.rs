//! The language model at play: one growing sequence of tokens an episode, read once, K candidates a turn, the best by
//! after-state value.
//!
//! [`ModelPlayer::answer`] writes one token of every episode that was asked and returns, so that an episode whose turn
//! is over leaves the batch at once and one whose world has answered enters it. Episodes that open with the same words
//! share what was read of them; those that go on from the same turns, played before, open with these turns. Caches hold no more tokens than the budget says: an episode that does not
//! fit waits, and where all wait, the last gives up its cache and reads its sequence again when its turn comes; that
//! changes no number, since a sequence may be cut anywhere (on a GPU: but for rounding).
//!
//! In a search all candidates of a turn are gone on with: what stands before them becomes one that they share, as an opening
//! is shared, so that the caches of a game are a tree.

use crate::chat::{self, Place};
use crate::device::Engine;
use crate::error::AgentError;
use crate::generate::{KvCache, Part, PolicyEngine, Span, ValueEngine, on_all_threads};
use crate::model::Model;
use crate::player::{Answer, Asked, Completion, Foresight, Policy};
use crate::sample::Sampling;
use crate::select;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use rand::{SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use scenarios::{Candidate, Protocol, TextVersion, Turn, WeightFormat};
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
pub enum LookingOn {
    /// The value network, where the model has one.
    Value,
    /// The policy plays alone.
    Nobody,
}

/// How a model is held while it plays. Changes memory and speed; only `weights` changes numbers, and `engine` rounds them
/// differently.
#[derive(Debug, Clone, PartialEq)]
pub struct Holding {
    /// Whether the value network reads along.
    pub looking_on: LookingOn,
    /// How its matrices are held.
    pub weights: WeightFormat,
    /// Most tokens in the caches of all episodes; `None` = what 4 GiB hold.
    pub token_budget: Option<usize>,
    /// What computes.
    pub engine: Engine,
}

impl From<LookingOn> for Holding {
    fn from(looking_on: LookingOn) -> Self {
        Self { looking_on, weights: WeightFormat::Exact, token_budget: None, engine: Engine::Cpu }
    }
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
    weights: WeightFormat,
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
            parts.push(Part { cache: &self.cache, tokens: tokens - above });
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

/// What a [`ModelPlayer`] keeps of an episode.
#[derive(Debug)]
pub struct ModelSeat {
    /// All tokens of the episode.
    sequence: Vec<u32>,
    policy: Line,
    value: Line,
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
    lease: Lease,
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
    observation: Vec<u32>,
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

impl ModelSeat {
    /// Gives its caches up; they are read again when they are needed.
    fn forget(&mut self) {
        self.policy = Line::default();
        self.value = Line::default();
        self.lease.set(0);
    }
}

impl ModelPlayer {
    /// Puts a player together; policy and value network share one shape. The model's weights are used up.
    ///
    /// # Errors
    /// When a tensor does not fit the configuration, the vocabulary does not fit the embedding, the token budget not one
    /// episode, or the engine has no such weights.
    pub fn new(model: Model, holding: impl Into<Holding>) -> Result<Self, AgentError> {
        let Holding { looking_on, weights, token_budget, engine } = holding.into();
        let Model { config, tokenizer, mut policy, value, text_versions, .. } = model;
        if tokenizer.vocab_size() > config.vocab_size {
            let (has, fits) = (tokenizer.vocab_size(), config.vocab_size);
            return Err(AgentError::Config(format!("the tokenizer has {has} tokens, the model {fits}")));
        }
        let value = match looking_on {
            LookingOn::Value => value,
            LookingOn::Nobody => None,
        };
        let (name, value_name) = (policy.hash(), value.as_ref().map(Weights::hash));
        let networks = 1 + usize::from(value.is_some());
        let value =
            value.map(|mut value| ValueEngine::from_weights(&config, &mut value, weights, &engine)).transpose()?;
        let policy = PolicyEngine::from_weights(&config, &mut policy, weights, &engine)?;
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
        let budget = Budget { most: most.max(least), held: Arc::default() };
        let openings = Mutex::default();
        Ok(Self { tokenizer, text_versions, policy, value, name, value_name, weights, budget, openings })
    }

    /// Whether a value network looks on.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.value.is_some()
    }

    /// How its matrices are held.
    #[must_use]
    pub fn weights(&self) -> WeightFormat {
        self.weights
    }

    /// Most tokens the model can hold.
    #[must_use]
    pub fn context_limit(&self) -> usize {
        self.policy.trunk.config().max_position_embeddings
    }

    /// Tokens in the caches of all its episodes now.
    #[must_use]
    pub fn tokens_held(&self) -> usize {
        self.budget.held.load(Ordering::Relaxed)
    }

    fn networks(&self) -> usize {
        1 + usize::from(self.value.is_some())
    }

    fn lease(&self, tokens: usize) -> Lease {
        self.budget.held.fetch_add(tokens, Ordering::Relaxed);
        Lease { held: Arc::clone(&self.budget.held), tokens }
    }

    /// Takes a question in; what cannot be answered within the context is answered at once.
    fn listen(&self, question: &mut Asked<'_, ModelSeat>, protocol: &Protocol) -> Option<Answer> {
        let seat = &mut *question.seat;
        if seat.writing.is_some() {
            return None;
        }
        if let Err(reason) = self.can_play(protocol) {
            return Some(Answer::Failed(reason));
        }
        let observation = chat::observation_tokens(&self.tokenizer, question.observation, seat.place);
        let context = self.context_limit().min(protocol.context_limit);
        if seat.sequence.len() + observation.len() + protocol.completion_limit > context {
            return Some(Answer::ContextFull);
        }
        seat.sequence.extend_from_slice(&observation);
        seat.writing = Some(Writing { observation, value: None, branches: Vec::new(), admitted: false });
        None
    }

    /// Lets the turns in that the budget has room for, in order. Where no turn is being written and the first does not
    /// fit, those behind it give up their caches, the last first.
    fn admit(&self, seats: &mut [&mut ModelSeat], protocol: &Protocol) {
        let after = |seat: &ModelSeat| {
            let shared = seat.policy.shared_tokens() + seat.value.shared_tokens();
            (seat.sequence.len() + protocol.best_of * protocol.completion_limit) * self.networks() - shared
        };
        let fits = |seat: &ModelSeat| self.tokens_held() - seat.lease.tokens + after(seat) <= self.budget.most;
        let admit = |seat: &mut ModelSeat| {
            seat.lease.set(after(seat));
            seat.writing.iter_mut().for_each(|writing| writing.admitted = true);
        };
        for seat in seats.iter_mut().filter(|seat| !seat.is_admitted()) {
            if fits(seat) {
                admit(seat);
            }
        }
        let Some((first, others)) = seats.split_first_mut() else { return };
        if first.is_admitted() || others.iter().any(|seat| seat.is_admitted()) {
            return;
        }
        self.openings.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
    fn advance(&self, seats: &mut [&mut ModelSeat], protocol: &Protocol) -> Vec<Option<Answer>> {
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
    fn advance_to_an_end(&self, seats: &mut [&mut ModelSeat], protocol: &Protocol) -> Vec<Option<Answer>> {
        loop {
            let over = self.advance(seats, protocol);
            if over.iter().any(Option::is_some) {
                return over;
            }
        }
    }

    /// The value network alone reads the observations that it has not read: V of each, and nothing is written.
    fn look(&self, seats: &mut [&mut ModelSeat]) -> Vec<Option<Answer>> {
        let is_unseen = |seat: &ModelSeat| seat.writing.as_ref().is_some_and(|writing| writing.value.is_none());
        let mut reads: Vec<Reads> =
            seats.iter().map(|seat| if is_unseen(seat) { Reads::Own(None) } else { Reads::Later }).collect();
        self.read_values(seats, &mut reads);
        let seen = |(seat, reads): (&mut &mut ModelSeat, Reads)| {
            let Reads::Own(_) = reads else { return None };
            let writing = seat.writing.as_mut()?;
            writing.admitted = false;
            let value = writing.value?;
            seat.lease.set(seat.policy.cache.len() + seat.value.cache.len());
            Some(Answer::Seen(value))
        };
        seats.iter_mut().zip(reads).map(seen).collect()
    }

    /// Lets fresh seats stand on openings that are remembered. Of several that open alike and stand on none, the first
    /// reads now, and the others next time.
    fn join_openings(&self, seats: &mut [&mut ModelSeat]) -> Vec<Reads> {
        let mut leaders: Vec<Vec<u32>> = Vec::new();
        let openings = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut join = |seat: &mut ModelSeat| {
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
            let closest = openings.iter().map(|shared| (common(shared), shared)).max_by_key(|(common, _)| *common);
            let is_same = |(common, shared): &(usize, &Shared)| {
                *common == seat.sequence.len() && shared.policy.tokens.len() == *common && seat.is_opening()
            };
            if let Some((tokens, shared)) = closest.filter(is_same) {
                seat.stand_on(shared, tokens);
                let value = shared.value.as_ref().and_then(|opening| self.value_at(&opening.last_state));
                seat.writing.iter_mut().for_each(|writing| writing.value = value);
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
    fn read_values(&self, seats: &mut [&mut ModelSeat], reads: &mut [Reads]) {
        let Some(value) = &self.value else { return };
        let mut spans = Vec::new();
        let mut found = Vec::new();
        for (seat, reads) in seats.iter_mut().zip(reads) {
            let (Reads::Own(state), ModelSeat { sequence, value: line, writing: Some(writing), .. }) =
                (reads, &mut **seat)
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
    fn read_policy(&self, seats: &mut [&mut ModelSeat], reads: &[Reads]) -> Vec<f32> {
        let mut spans = Vec::new();
        let mut rows: Vec<Option<&[f32]>> = Vec::new();
        for (seat, reads) in seats.iter_mut().zip(reads) {
            let ModelSeat { sequence, policy: line, writing, .. } = &mut **seat;
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
                        spans.push(Span { tokens, before, cache: &mut branch.tail });
                        rows.push(None);
                    }
                }
            }
        }
        let states = if spans.is_empty() { Vec::new() } else { self.policy.trunk.last_states(&mut spans) };
        let mut read = states.chunks_exact(self.width());
        rows.into_iter()
            .flat_map(|row| row.or_else(|| read.next()).expect("a state for each span").iter().copied())
            .collect()
    }

    /// What a fresh seat has read becomes an opening, for it and for others.
    fn remember_openings(&self, seats: &mut [&mut ModelSeat], reads: &[Reads], hidden: &[f32]) {
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
            let publish = |line: &mut Line, state: &[f32]| self.share(line, sequence.clone(), state.to_vec());
            let read = seat.policy.cache.len() + seat.value.cache.len();
            let policy = publish(&mut seat.policy, state);
            let value = value_state.as_ref().map(|state| publish(&mut seat.value, state));
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
        let opening = Arc::new(Opening { tokens, parent: line.shared.take(), cache, last_state, _lease: lease });
        line.shared = Some((Arc::clone(&opening), read));
        opening
    }

    /// Draws the next token of every candidate; the K candidates of a seat that has just read begin.
    fn draw(&self, seats: &mut [&mut ModelSeat], reads: &[Reads], hidden: &[f32], protocol: &Protocol) {
        let logprobs = self.policy.logprobs(hidden);
        let mut rows = logprobs.chunks_exact(self.policy.trunk.config().vocab_size);
        let mut drawing: Vec<(&[f32], &mut Branch)> = Vec::new();
        for (seat, reads) in seats.iter_mut().zip(reads) {
            let (seed, turn) = (seat.seed, seat.turn);
            let Some(writing) = &mut seat.writing else { continue };
            match reads {
                Reads::Later => {}
                Reads::Writes => {
                    let branches = writing.branches.iter_mut().filter(|branch| !branch.done);
                    drawing.extend(branches.zip(rows.by_ref()).map(|(branch, row)| (row, branch)));
                }
                Reads::Own(_) | Reads::Nothing(_) => {
                    let row = rows.next().expect("a row for each that has read");
                    let candidates = 0..protocol.best_of as u64;
                    writing.branches = candidates.map(|index| Branch::new(mixed_seed(seed, turn, index))).collect();
                    drawing.extend(writing.branches.iter_mut().map(|branch| (row, branch)));
                }
            }
        }
        let write = |(row, branch): (&[f32], &mut Branch)| branch.write(row, protocol, &self.tokenizer);
        if drawing.len() * self.policy.trunk.config().vocab_size >= WORTH_DRAWING_APART {
            drawing.into_par_iter().for_each(write);
        } else {
            drawing.into_iter().for_each(write);
        }
    }

    /// Where all candidates of a seat are written, scores them by U if a value network looks on, takes the best, and
    /// lets the seat remember it. A search takes all of them.
    fn choose(&self, seats: &mut [&mut ModelSeat], protocol: &Protocol) -> Vec<Option<Answer>> {
        let mut over: Vec<Option<Candidates>> = seats.iter_mut().map(|seat| seat.written()).collect();
        self.score(seats, &mut over);
        let choose = |(seat, over): (&mut &mut ModelSeat, Option<Candidates>)| {
            let over = over?;
            Some(match protocol.search {
                Some(_) if self.value.is_some() => Answer::Candidates(self.take_all(seat, over)),
                _ => Answer::Completion(self.take_best(seat, over)),
            })
        };
        seats.iter_mut().zip(over).map(choose).collect()
    }

    /// The value network reads the distinct candidates of all turns that are over.
    fn score(&self, seats: &[&mut ModelSeat], over: &mut [Option<Candidates>]) {
        let Some(value) = &self.value else { return };
        let mut spans = Vec::new();
        let mut scores = Vec::new();
        for (seat, over) in seats.iter().zip(over) {
            let Some(Candidates { branches, distinct, .. }) = over else { continue };
            for candidate in distinct {
                let mut before = seat.value.before();
                before.push(seat.value.cache.whole());
                let tokens = &branches[candidate.index].tokens[..];
                spans.push(Span { tokens, before, cache: &mut candidate.tail });
                scores.push(&mut candidate.score);
            }
        }
        if spans.is_empty() {
            return;
        }
        let states = value.trunk.last_states(&mut spans);
        for (score, state) in scores.into_iter().zip(states.chunks_exact(self.width())) {
            *score = value.value(state);
        }
    }

    fn take_best(&self, seat: &mut ModelSeat, over: Candidates) -> Completion {
        let Candidates { writing, mut branches, mut distinct } = over;
        let is_scored = self.value.is_some();
        let scores: Vec<f32> = distinct.iter().map(|candidate| candidate.score).collect();
        let best = if is_scored { select::best(&scores) } else { 0 };
        let candidates = if is_scored && branches.len() > 1 {
            let candidate = |candidate: &Distinct| {
                let branch = &branches[candidate.index];
                Candidate {
                    completion: self.text(branch),
                    score: candidate.score,
                    count: candidate.count,
                    logprob: Some(branch.logprobs.iter().sum()),
                    log_ratio: None,
                    after_value: Some(candidate.score),
                }
            };
            distinct.iter().map(candidate).collect()
        } else {
            Vec::new()
        };
        let (written, written_tokens) = (branches.len(), branches.iter().map(|branch| branch.tokens.len()).sum());
        let chosen = distinct.swap_remove(best);
        let branch = branches.swap_remove(chosen.index);
        let text = self.text(&branch);
        if is_scored {
            seat.value.cache.append(chosen.tail);
        }
        seat.policy.cache.append(branch.tail);
        seat.sequence.extend_from_slice(&branch.tokens);
        seat.lease.set(seat.policy.cache.len() + seat.value.cache.len());
        let wrote_end = branch.tokens.last() == Some(&self.tokenizer.end);
        seat.place = if wrote_end { Place::AfterEnd } else { Place::AfterCut };
        seat.turn += 1;
        Completion {
            text,
            ended: wrote_end || branch.stopped.is_some(),
            observation_tokens: writing.observation,
            tokens: branch.tokens,
            logprobs: branch.logprobs,
            sampling_logprobs: branch.sampling_logprobs,
            astray: false,
            value: writing.value,
            after_value: is_scored.then(|| scores[best]),
            candidates,
            log_ratio: None,
            written,
            written_tokens,
        }
    }

    /// Keeps what was read of every distinct candidate; what stands before them they share.
    fn take_all(&self, seat: &mut ModelSeat, over: Candidates) -> Vec<Completion> {
        let Candidates { writing, branches, distinct } = over;
        for line in [&mut seat.policy, &mut seat.value] {
            if !line.cache.is_empty() {
                self.share(line, Vec::new(), Vec::new());
            }
        }
        let mut branches: Vec<Option<Branch>> = branches.into_iter().map(Some).collect();
        let mut take = |candidate: Distinct| {
            let branch = branches[candidate.index].take().expect("each is taken once");
            let wrote_end = branch.tokens.last() == Some(&self.tokenizer.end);
            let completion = Completion {
                text: self.text(&branch),
                ended: wrote_end || branch.stopped.is_some(),
                observation_tokens: writing.observation.clone(),
                tokens: branch.tokens.clone(),
                logprobs: branch.logprobs,
                sampling_logprobs: branch.sampling_logprobs,
                value: writing.value,
                after_value: Some(candidate.score),
                written: candidate.count,
                written_tokens: candidate.count * branch.tokens.len(),
                ..Completion::default()
            };
            let rest = Rest { tokens: branch.tokens, policy: branch.tail, value: candidate.tail };
            (completion, Some(rest))
        };
        let (completions, candidates): (Vec<_>, Vec<_>) = distinct.into_iter().map(&mut take).unzip();
        seat.candidates = candidates;
        seat.lease.set(seat.candidates.iter().flatten().map(Rest::tokens_held).sum());
        completions
    }

    fn text(&self, branch: &Branch) -> String {
        let tokens = branch.tokens.strip_suffix(&[self.tokenizer.end]).unwrap_or(&branch.tokens);
        branch.stopped.clone().unwrap_or_else(|| self.tokenizer.decode(tokens))
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
    fn rows(&self, seat: &ModelSeat) -> usize {
        match self {
            Self::Later => 0,
            Self::Own(_) | Self::Nothing(_) => 1,
            Self::Writes => seat.branches().iter().filter(|branch| !branch.done).count(),
        }
    }
}

/// The candidates of a turn that is over.
struct Candidates {
    writing: Writing,
    branches: Vec<Branch>,
    distinct: Vec<Distinct>,
}

/// A candidate that is no repetition.
struct Distinct {
    index: usize,
    /// How many of the K it stands for.
    count: usize,
    /// What the value network read of it.
    tail: KvCache,
    score: f32,
}

impl Rest {
    fn tokens_held(&self) -> usize {
        self.policy.len() + self.value.len()
    }
}

impl Line {
    /// One that stands where this one does, which has nothing of its own, and has read this beyond.
    fn beside(&self, cache: KvCache) -> Self {
        Self { shared: self.shared.clone(), cache }
    }

    /// The tokens of a sequence that it has not read.
    fn span<'a>(&'a mut self, sequence: &'a [u32]) -> Span<'a> {
        let tokens = &sequence[self.len()..];
        Span { tokens, before: before(self.shared.as_ref()), cache: &mut self.cache }
    }
}

impl ModelSeat {
    fn branches(&self) -> &[Branch] {
        self.writing.as_ref().map_or(&[], |writing| &writing.branches)
    }

    /// Whether the turn that it writes is its first.
    fn is_opening(&self) -> bool {
        self.turn == self.first_turn
    }

    fn is_admitted(&self) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.admitted)
    }

    fn stand_on(&mut self, shared: &Shared, tokens: usize) {
        self.policy.shared = Some((shared.policy.holder(tokens), tokens));
        self.value.shared = shared.value.as_ref().map(|opening| (opening.holder(tokens), tokens));
    }

    /// Its turn, when all candidates are written.
    fn written(&mut self) -> Option<Candidates> {
        let is_over = !self.branches().is_empty() && self.branches().iter().all(|branch| branch.done);
        let mut writing = self.writing.take_if(|_| is_over)?;
        let branches = std::mem::take(&mut writing.branches);
        let tokens: Vec<&[u32]> = branches.iter().map(|branch| &branch.tokens[..]).collect();
        let first = select::first_equals(&tokens);
        let distinct = (0..first.len()).filter(|index| first[*index] == *index);
        let count = |index| first.iter().filter(|of| **of == index).count();
        let distinct = distinct
            .map(|index| Distinct { index, count: count(index), tail: KvCache::default(), score: 0.0 })
            .collect();
        Some(Candidates { writing, branches, distinct })
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
            let first = protocol.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
            self.stopped = first.map(|at| text[..at].to_string());
        }
        self.done = ended || self.stopped.is_some() || self.tokens.len() >= protocol.completion_limit;
    }
}

/// One seed out of an episode's seed, its turn and a candidate's index (splitmix64).
pub(crate) fn mixed_seed(seed: u64, turn: u64, candidate: u64) -> u64 {
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
            sequence: Vec::new(),
            policy: Line::default(),
            value: Line::default(),
            place: Place::Opening,
            seed,
            turn: 0,
            first_turn: 0,
            retells: false,
            writing: None,
            candidates: Vec::new(),
            lease: self.lease(0),
        }
    }

    /// The ids of the turn go into the sequence as they were sampled, and are read when the next completion is asked for.
    /// Where the first observation's are not this tokenizer's, or ids were never told, the texts are tokenized.
    fn replay(&self, seat: &mut ModelSeat, turn: &Turn) -> Result<(), String> {
        if seat.turn == 0 {
            let own = chat::observation_tokens(&self.tokenizer, &turn.observation, seat.place);
            seat.retells = turn.observation_tokens != own;
        }
        if seat.retells || turn.completion_tokens.is_empty() {
            let (observation, completion, place) = chat::turn_tokens(&self.tokenizer, turn, seat.place);
            seat.sequence.extend(observation.into_iter().chain(completion));
            seat.place = place;
        } else {
            seat.sequence.extend(turn.observation_tokens.iter().chain(&turn.completion_tokens));
            let wrote_end = turn.completion_tokens.last() == Some(&self.tokenizer.end);
            seat.place = if wrote_end { Place::AfterEnd } else { Place::AfterCut };
        }
        seat.turn += 1;
        seat.first_turn = seat.turn;
        Ok(())
    }

    fn answer(&self, asked: &mut [Asked<'_, ModelSeat>], protocol: &Protocol) -> Vec<Answer> {
        let heard: Vec<Option<Answer>> = asked.par_iter_mut().map(|question| self.listen(question, protocol)).collect();
        let mut answers: Vec<Answer> = heard.iter().map(|answer| answer.clone().unwrap_or(Answer::Waiting)).collect();
        let listening = asked.iter_mut().zip(&heard).filter(|(_, answer)| answer.is_none());
        let mut seats: Vec<&mut ModelSeat> = listening.map(|(question, _)| &mut *question.seat).collect();
        self.admit(&mut seats, protocol);
        let places = (0..heard.len()).filter(|index| heard[*index].is_none()).zip(&seats);
        let places: Vec<usize> = places.filter(|(_, seat)| seat.is_admitted()).map(|(place, _)| place).collect();
        seats.retain(|seat| seat.is_admitted());
        let apart = self.policy.trunk.is_on_host() && self.policy.bytes() <= OWN_EPISODES;
        let over: Vec<Option<Answer>> = if apart {
            let share = seats.len().div_ceil(rayon::current_num_threads()).max(1);
            seats.par_chunks_mut(share).flat_map_iter(|seats| self.advance_to_an_end(seats, protocol)).collect()
        } else {
            on_all_threads(|| self.advance(&mut seats, protocol))
        };
        for (place, over) in places.into_iter().zip(over) {
            answers[place] = over.unwrap_or(Answer::Writing);
        }
        answers
    }

    fn foresight(&self) -> Option<&dyn Foresight<Seat = ModelSeat>> {
        self.value.as_ref().map(|_| self as _)
    }
}

impl Foresight for ModelPlayer {
    type Seat = ModelSeat;

    fn branch(&self, seat: &mut ModelSeat, candidate: usize) -> ModelSeat {
        let rest = seat.candidates[candidate].take().expect("each candidate is gone on with once");
        let held = rest.tokens_held();
        seat.lease.set(seat.lease.tokens - held);
        let seed = if candidate == 0 { seat.seed } else { mixed_seed(seat.seed, seat.turn, candidate as u64) };
        let wrote_end = rest.tokens.last() == Some(&self.tokenizer.end);
        ModelSeat {
            sequence: [&seat.sequence[..], &rest.tokens].concat(),
            policy: seat.policy.beside(rest.policy),
            value: seat.value.beside(rest.value),
            place: if wrote_end { Place::AfterEnd } else { Place::AfterCut },
            seed,
            turn: seat.turn + 1,
            first_turn: seat.first_turn,
            retells: seat.retells,
            writing: None,
            candidates: Vec::new(),
            lease: self.lease(held),
        }
    }

    fn make_room(&self, seat: &mut ModelSeat) {
        seat.forget();
    }
}
