//! A policy behind a server with `OpenAI`'s protocol (vLLM, SGLang, llama.cpp's server): every turn
//! is one request to `/chat/completions` with all messages of the episode, observations as the
//! user's and completions as the assistant's.
//!
//! Every request switches off, by name, what a server does to the distribution by default (its own
//! top-k, min-p, penalties), so that completions come from the model's distribution at the
//! protocol's temperature, as they do from a [`crate::policy::lm::LmPolicy`]. If a server refuses
//! log-probabilities, or fields that are not part of `OpenAI`'s protocol, this is found when the
//! connection is made. The requests then leave them out, and [`RemotePolicy::take_notes`] returns a
//! message.
//!
//! - *Log-probabilities* belong to the untempered policy. Servers differ in whether they divide by
//!   the temperature first (vLLM and llama.cpp do not, SGLang does). At temperature 1 the division
//!   changes nothing, and at 0 none of them divides. At other temperatures they are not requested,
//!   and the list of a turn stays empty.
//! - *Token ids* are kept if the server returns those of the prompt and of the completion (vLLM),
//!   as long as each prompt extends what was read and written before. If the template of a server
//!   or a stop text breaks that, they stay empty from that turn on, and training tokenizes the
//!   texts of the episode, as it does with the expert's.
//!
//! This module does not read environment variables: the caller passes the key. It is sent as a
//! header and never shown.

mod address;
mod client;
mod episode;
mod failure;
mod options;
mod reply;
mod retry;
mod wire;

pub use address::{ApiKey, ServerAddress};
pub use episode::RemoteEpisode;
pub use options::{INSTRUCTIONS, RemoteOptions};

use crate::error::AgentError;
use crate::inference::sample::Sampling;
use crate::policy::{Policy, TurnRequest, TurnResponse};
use crate::text::template::{Message, Role};
use client::ServerClient;
use crossbeam::channel::unbounded;
use failure::RequestFailure;
use reply::ChatReply;
use retry::Retry;
use scenarios::Protocol;
use scenarios::seed::mixed_seed;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use wire::{ChatRequest, CompletionLimit, EXTRAS, ExtraFields, LOGPROBS};

/// What is asked to find out what a server accepts.
const PROBE: &str = "Say yes.";

/// The most tokens of the reply to it. Some servers refuse to write fewer than 16.
const PROBE_TOKENS: usize = 16;

/// A note if the server separates thoughts from completions.
const THINKS: &str = "the server's model thinks first, and its thoughts count against --completion\n\
    hint: raise --completion, or switch thinking off at the server (vLLM and SGLang: chat_template_kwargs enable_thinking)";

/// A policy behind a server.
#[derive(Debug)]
pub struct RemotePolicy {
    client: ServerClient,
    retry: Retry,
    accepts: Mutex<AcceptedFields>,
    notes: Mutex<Vec<String>>,
    counts: ReplyCounts,
}

/// The fields that a server accepts.
#[derive(Debug, Clone, Copy)]
struct AcceptedFields {
    logprobs: bool,
    extras: bool,
    /// `max_tokens`, and not `max_completion_tokens`.
    max_tokens: bool,
    stop: bool,
    /// Any temperature, and not only its own, 1.
    temperature: bool,
    /// The temperatures were tried.
    temperature_is_known: bool,
}

/// How often replies lacked something.
#[derive(Debug, Default)]
struct ReplyCounts {
    replies: AtomicUsize,
    /// With a log-probability that is null or not finite.
    without_logprobs: AtomicUsize,
    tool_calls: AtomicUsize,
}

impl RemotePolicy {
    /// Connects to the server: checks whether it lists the model, and requests one token to find
    /// out which fields it accepts.
    ///
    /// # Errors
    /// Returns [`AgentError::Remote`] with a hint if there is no server, if the key is refused, if
    /// the server lists other models only, or if a plain request fails.
    pub fn connect(address: ServerAddress, options: RemoteOptions) -> Result<Self, AgentError> {
        let mut policy = Self {
            retry: Retry::new(&options),
            client: ServerClient::new(address, options),
            accepts: Mutex::new(AcceptedFields {
                logprobs: true,
                extras: true,
                max_tokens: true,
                stop: true,
                temperature: true,
                temperature_is_known: false,
            }),
            notes: Mutex::default(),
            counts: ReplyCounts::default(),
        };
        policy.find_model()?;
        policy.probe_fields()?;
        Ok(policy)
    }

    /// Returns a message for each kind of fields that the server refused, so that requests leave them out, and for what
    /// else its replies show. Each message is returned once.
    #[must_use]
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what replies lacked, as messages for the end of a run.
    #[must_use]
    pub fn closing_notes(&self) -> Vec<String> {
        let [replies, without, calls] = [
            &self.counts.replies,
            &self.counts.without_logprobs,
            &self.counts.tool_calls,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        let mut notes = Vec::new();
        if without > 0 {
            notes.push(format!(
                "{without} of {replies} completions came with a log-probability that is null or not finite; they are logged without \
                 log-probabilities"
            ));
        }
        if calls > 0 {
            notes.push(format!(
                "{calls} of {replies} completions were calls of a tool, which is not a command; switch tools off at the server"
            ));
        }
        notes
    }

    fn accepts(&self) -> AcceptedFields {
        *self.accepts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, change: impl FnOnce(&mut AcceptedFields), note: Option<String>) {
        change(&mut self.accepts.lock().unwrap_or_else(PoisonError::into_inner));
        self.note(note);
    }

    fn note(&self, note: Option<String>) {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(note);
    }

    /// Returns whether the server accepts top-k and min-p.
    #[must_use]
    pub fn takes_filters(&self) -> bool {
        self.accepts().extras
    }

    /// Returns the protocol with the settings that only a policy behind a server has: instructions
    /// and stop texts. If the server refuses the temperature, the protocol has the only one that it takes, 1. To
    /// find this out, a few tokens are requested with the first temperature that is not 1.
    #[must_use]
    pub fn protocol(&self, protocol: Protocol) -> Protocol {
        let RemoteOptions {
            instructions, stop, ..
        } = &self.client.options;
        self.probe_temperature(protocol.temperature);
        let temperature = if self.accepts().temperature {
            protocol.temperature
        } else {
            1.0
        };
        Protocol {
            instructions: instructions.clone(),
            stop: stop.clone(),
            temperature,
            ..protocol
        }
    }

    fn probe_temperature(&self, temperature: f32) {
        let accepts = self.accepts();
        if accepts.temperature_is_known || temperature == 1.0 {
            return;
        }
        let protocol = Protocol {
            completion_limit: PROBE_TOKENS,
            temperature,
            ..Protocol::default()
        };
        let messages = [Message::new(Role::User, PROBE)];
        let refused = match self.complete(&self.request(&messages, &protocol, 0)) {
            Err(RequestFailure::Refused { reason, .. })
                if reason.contains("temperature")
                    && (reason.contains("only")
                        || reason.contains("Only")
                        || reason.contains("default")) =>
            {
                reason
            }
            Ok(_) => return self.accept(|fields| fields.temperature_is_known = true, None),
            // The first turn fails for the same reason, and names it.
            Err(_) => return,
        };
        let note = format!(
            "played at temperature 1, the only one that the server takes ({refused}); the protocol says so"
        );
        self.accept(
            |fields| (fields.temperature, fields.temperature_is_known) = (false, true),
            Some(note),
        );
    }

    /// Checks that the server lists the model. If it has no list, it is assumed to have the model.
    fn find_model(&self) -> Result<(), AgentError> {
        let listed = match self.retry.run(|| self.client.get("models")) {
            Ok(text) => wire::model_ids(&text),
            Err(RequestFailure::Refused { status, .. }) if !matches!(status, 401 | 403) => None,
            Err(failure) => return Err(self.client.error_of(&failure)),
        };
        let address = &self.client.address;
        let Some(listed) = listed else {
            if address.model.is_empty() {
                let unnamed = "no model is named\nhint: name it behind a #, as in openai:URL#MODEL";
                return Err(address.error(unnamed));
            }
            return Ok(());
        };
        if listed.contains(&address.model) {
            return Ok(());
        }
        Err(address.error(match listed.first() {
            Some(first) => format!(
                "the server has no such model; it lists {}\nhint: --policy 'openai:{}#{first}'",
                self.client.shown(&listed.join(", ")),
                address.base
            ),
            None => "the server lists no model".into(),
        }))
    }

    /// Requests a few tokens. If the server refuses, fields are left out until it accepts the request.
    fn probe_fields(&mut self) -> Result<(), AgentError> {
        let messages = [Message::new(Role::User, PROBE)];
        let protocol = Protocol {
            completion_limit: PROBE_TOKENS,
            temperature: 1.0,
            stop: self.client.options.stop.clone(),
            ..Protocol::default()
        };
        loop {
            let failure = match self.complete(&self.request(&messages, &protocol, 0)) {
                Ok(reply) => {
                    let thinks = reply.choice.message.thought().is_some();
                    self.note(thinks.then(|| THINKS.to_owned()));
                    return Ok(());
                }
                Err(failure) => failure,
            };
            let RequestFailure::Refused { reason, status } = &failure else {
                return Err(self.client.error_of(&failure));
            };
            if matches!(status, 401 | 403 | 404) {
                return Err(self.client.error_of(&failure));
            }
            let accepts = self.accepts();
            let about_logprobs = reason.contains("logprob");
            if accepts.max_tokens && reason.contains("max_completion_tokens") {
                // Another name for the same: nothing is given up.
                self.accept(|fields| fields.max_tokens = false, None);
            } else if accepts.stop && !protocol.stop.is_empty() && reason.contains("stop") {
                let note = format!(
                    "completions are cut at the stop texts here, because the server refuses them ({reason})"
                );
                self.accept(|fields| fields.stop = false, Some(note));
            } else if accepts.logprobs && (about_logprobs || !accepts.extras) {
                let note =
                    format!("asked without log-probabilities, which the server refuses ({reason})");
                self.accept(|fields| fields.logprobs = false, Some(note));
            } else if accepts.extras {
                let note = format!(
                    "asked without fields beyond OpenAI's (top_k, min_p, …), which the server refuses ({reason})"
                );
                self.accept(|fields| fields.extras = false, Some(note));
            } else {
                return Err(self.client.error_of(&failure));
            }
        }
    }

    fn request<'a>(
        &'a self,
        messages: &'a [Message],
        protocol: &'a Protocol,
        seed: u64,
    ) -> ChatRequest<'a> {
        let accepts = self.accepts();
        let sampling = Sampling::of(protocol);
        let undivided = sampling == Sampling::GREEDY || sampling.is_untempered();
        let extras = ExtraFields {
            top_k: if protocol.top_k > 0 {
                u32::try_from(protocol.top_k).unwrap_or(EXTRAS.top_k)
            } else {
                EXTRAS.top_k
            },
            min_p: protocol.min_p,
            ..EXTRAS
        };
        ChatRequest {
            model: &self.client.address.model,
            messages,
            n: 1,
            stream: false,
            limit: if accepts.max_tokens {
                CompletionLimit::MaxTokens(protocol.completion_limit)
            } else {
                CompletionLimit::MaxCompletionTokens(protocol.completion_limit)
            },
            temperature: if accepts.temperature {
                protocol.temperature
            } else {
                1.0
            },
            top_p: protocol.top_p,
            // Some servers read 32 bits, some of them with a sign.
            seed: seed & 0x7FFF_FFFF,
            stop: if accepts.stop { &protocol.stop } else { &[] },
            logprobs: (accepts.logprobs && undivided).then_some(LOGPROBS),
            extras: accepts.extras.then_some(extras),
        }
    }

    fn complete(&self, request: &ChatRequest<'_>) -> Result<ChatReply, RequestFailure> {
        let body = serde_json::to_string(request)
            .expect("a request contains only texts and finite numbers");
        self.retry.run(|| {
            self.client
                .post("chat/completions", &body)
                .and_then(|text| self.client.parse(&text))
        })
    }

    fn respond_one(
        &self,
        episode: &mut RemoteEpisode,
        observation: &str,
        protocol: &Protocol,
    ) -> TurnResponse {
        if let Err(reason) = self.can_play(protocol) {
            return TurnResponse::Failed(reason);
        }
        episode.push_observation(observation, protocol);
        let seed = mixed_seed(episode.seed, episode.turn, 0);
        match self.complete(&self.request(&episode.messages, protocol, seed)) {
            Ok(reply) => {
                self.count(&reply);
                TurnResponse::Completion(episode.push_completion(reply, &protocol.stop))
            }
            Err(RequestFailure::ContextFull) => TurnResponse::ContextFull,
            Err(failure) => TurnResponse::Failed(self.client.error_of(&failure).to_string()),
        }
    }
}

impl RemotePolicy {
    fn count(&self, reply: &ChatReply) {
        let logprobs = reply.choice.logprobs.as_ref();
        let mut logprobs = logprobs
            .and_then(|all| all.content.as_ref())
            .into_iter()
            .flatten();
        for (count, is_so) in [
            (&self.counts.replies, true),
            (
                &self.counts.without_logprobs,
                logprobs.any(|token| token.logprob.is_none()),
            ),
            (&self.counts.tool_calls, reply.choice.message.is_tool_call()),
        ] {
            count.fetch_add(usize::from(is_so), Ordering::Relaxed);
        }
    }
}

impl Policy for RemotePolicy {
    type EpisodeState = RemoteEpisode;

    fn name(&self) -> String {
        self.client.address.to_string()
    }

    fn gone(&self) -> Option<String> {
        self.retry
            .gone()
            .map(|reason| format!("{}: {reason}", self.client.address))
    }

    fn begin(&self, seed: u64) -> RemoteEpisode {
        RemoteEpisode::new(seed)
    }

    fn respond(
        &self,
        requests: &mut [TurnRequest<'_, RemoteEpisode>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        let mut responses = vec![TurnResponse::GaveUp; requests.len()];
        let threads = self
            .client
            .options
            .concurrency
            .clamp(1, requests.len().max(1));
        let (queue, inbox) = unbounded();
        for pair in requests.iter_mut().zip(&mut responses) {
            queue.send(pair).expect("the receiver is still alive below");
        }
        drop(queue);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for (request, response) in &inbox {
                        *response =
                            self.respond_one(request.episode, request.observation, protocol);
                    }
                });
            }
        });
        drop(inbox);
        responses
    }
}
