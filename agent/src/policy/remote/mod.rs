//! A policy behind a server with `OpenAI`'s protocol (vLLM, SGLang, llama.cpp's server): every turn
//! is one request to `/chat/completions` with all messages of the episode, observations as the
//! user's and completions as the assistant's.
//!
//! Every request switches off, by name, what a server does to the distribution by default (its own
//! top-k, min-p, penalties), so that completions come from the model's distribution at the
//! protocol's temperature, as they do from a [`crate::policy::lm::LmPolicy`]. If a server refuses
//! log-probabilities, or fields that are not part of `OpenAI`'s protocol, this is found when the
//! connection is made. The requests then leave them out, and [`RemotePolicy::notes`] contains a
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
use retry::Retry;
use scenarios::Protocol;
use scenarios::seed::mixed_seed;
use wire::{ChatReply, ChatRequest, EXTRAS, ExtraFields, LOGPROBS};

/// A policy behind a server.
#[derive(Debug)]
pub struct RemotePolicy {
    client: ServerClient,
    retry: Retry,
    accepts: AcceptedFields,
    notes: Vec<String>,
}

/// The fields beyond the plain protocol that a server accepts.
#[derive(Debug, Clone, Copy)]
struct AcceptedFields {
    logprobs: bool,
    extras: bool,
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
            accepts: AcceptedFields {
                logprobs: true,
                extras: true,
            },
            notes: Vec::new(),
        };
        policy.find_model()?;
        policy.probe_fields()?;
        Ok(policy)
    }

    /// Returns a message for each kind of fields that the server refused, so that requests leave
    /// them out.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns whether the server accepts top-k and min-p.
    #[must_use]
    pub fn takes_filters(&self) -> bool {
        self.accepts.extras
    }

    /// Returns the protocol with the settings that only a policy behind a server has: instructions
    /// and stop texts.
    #[must_use]
    pub fn protocol(&self, protocol: Protocol) -> Protocol {
        let RemoteOptions {
            instructions, stop, ..
        } = &self.client.options;
        Protocol {
            instructions: instructions.clone(),
            stop: stop.clone(),
            ..protocol
        }
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

    /// Requests one token. If the server refuses, fields are left out until it accepts the request.
    fn probe_fields(&mut self) -> Result<(), AgentError> {
        let messages = [Message::new(Role::User, "Say yes.")];
        let protocol = Protocol {
            completion_limit: 1,
            ..Protocol::default()
        };
        loop {
            let Err(failure) = self.complete(&self.request(&messages, &protocol, 0)) else {
                return Ok(());
            };
            let RequestFailure::Refused { reason, status } = &failure else {
                return Err(self.client.error_of(&failure));
            };
            if matches!(status, 401 | 403 | 404) {
                return Err(self.client.error_of(&failure));
            }
            let about_logprobs = reason.contains("logprob");
            let note = if self.accepts.logprobs && (about_logprobs || !self.accepts.extras) {
                self.accepts.logprobs = false;
                format!("asked without log-probabilities, which the server refuses ({reason})")
            } else if self.accepts.extras {
                self.accepts.extras = false;
                format!(
                    "asked without fields beyond OpenAI's (top_k, min_p, …), which the server refuses ({reason})"
                )
            } else {
                return Err(self.client.error_of(&failure));
            };
            self.notes.push(note);
        }
    }

    fn request<'a>(
        &'a self,
        messages: &'a [Message],
        protocol: &'a Protocol,
        seed: u64,
    ) -> ChatRequest<'a> {
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
            max_tokens: protocol.completion_limit,
            temperature: protocol.temperature,
            top_p: protocol.top_p,
            // Some servers read 32 bits, some of them with a sign.
            seed: seed & 0x7FFF_FFFF,
            stop: &protocol.stop,
            logprobs: (self.accepts.logprobs && undivided).then_some(LOGPROBS),
            extras: self.accepts.extras.then_some(extras),
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
            Ok(reply) => TurnResponse::Completion(episode.push_completion(reply)),
            Err(RequestFailure::ContextFull) => TurnResponse::ContextFull,
            Err(failure) => TurnResponse::Failed(self.client.error_of(&failure).to_string()),
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
