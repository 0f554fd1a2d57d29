//! A policy behind a server that speaks `OpenAI`'s protocol (vLLM, SGLang, llama.cpp's server): every turn is one request
//! to `/chat/completions` with all messages of the episode, observations as the user's and completions as the assistant's.
//!
//! What a server samples with by default (its own top-k, min-p, penalties) is switched off by name in every request, so
//! that completions come from the model's distribution at the protocol's temperature, as they do from a
//! [`crate::policy::lm::LmPolicy`]. A server that refuses fields beyond `OpenAI`'s, or log-probabilities, is found out when
//! it is connected to, asked without them, and [`RemotePolicy::notes`] say so.
//!
//! - *Log-probabilities* belong to the untempered policy, and servers differ in whether they divide by the temperature
//!   first (vLLM and llama.cpp do not, SGLang does). At temperature 1 nothing is divided, and at 0 none of them divides; at
//!   others they are not asked for, and the list of a turn stays empty.
//! - *Token ids* are kept where the server tells those of the prompt and of the completion (vLLM), as long as each prompt
//!   extends what was read and written before. From the first turn where a server's template or a stop text breaks that,
//!   they stay empty, and a lesson reads the whole episode from its texts, as it does an expert's.
//!
//! Knows nothing of the environment's variables: who connects brings the key. It is sent as a header and shown nowhere.

use crate::error::AgentError;
use crate::inference::sample::Sampling;
use crate::policy::{Completion, Policy, TurnRequest, TurnResponse};
use crate::text::template::{Message, Role};
use crossbeam::channel::unbounded;
use rand::RngExt;
use scenarios::Protocol;
use scenarios::seed::mixed_seed;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::io::ErrorKind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use ureq::http::{Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// What a model that has never seen these games is told above the first observation, in the user's message, because not
/// every chat template knows a system's.
pub const INSTRUCTIONS: &str = "\
You act in a house, one command a turn, until your task is done. TurnResponse with one command on one line and nothing else.

Commands, where X, Y and Z are names with their numbers, such as desk 1:
look, inventory, go to X, open X, close X, examine X, use X, take X from Y, put X in/on Y (in some houses: move X to Y), \
clean X with Y, heat X with Y, cool X with Y, slice X with Y

\"Nothing happens.\" means that the command was not possible.";

/// Requests in a row that a server may fail, each after its last retry, before it counts as gone.
const LOST_IN_A_ROW: usize = 8;

/// No wait before a retry is longer, whatever a server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Where a policy is: `openai:URL#MODEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// Without a slash at its end.
    base: String,
    model: String,
    host: String,
    is_loopback: bool,
}

/// A secret; its debug form does not tell it.
#[derive(Clone)]
pub struct ApiKey(String);

/// How a server is asked.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Requests at once.
    pub concurrency: usize,
    /// Most time for a request, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Further tries after a request has failed in a way that may pass.
    pub retries: usize,
    /// The wait before the first retry; each further one is twice as long, up to 30 seconds, less a random part.
    pub first_wait: Duration,
    /// Sent as a bearer token.
    pub key: Option<ApiKey>,
    /// What stands above the first observation; see [`INSTRUCTIONS`].
    pub instructions: Option<String>,
    /// Texts at which a completion ends; they are no part of it.
    pub stop: Vec<String>,
}

/// A policy behind a server.
#[derive(Debug)]
pub struct RemotePolicy {
    address: ServerAddress,
    options: RemoteOptions,
    agent: Agent,
    accepts: Accepts,
    notes: Vec<String>,
    answered: AtomicBool,
    lost_in_a_row: AtomicUsize,
    gone: OnceLock<String>,
}

/// What a [`RemotePolicy`] keeps of an episode.
#[derive(Debug)]
pub struct RemoteEpisode {
    messages: Vec<Message>,
    /// All token ids so far; `None` from the first turn that did not extend them.
    context: Option<Vec<u32>>,
    seed: u64,
    turn: u64,
}

/// Which fields beyond the plain protocol a server takes.
#[derive(Debug, Clone, Copy)]
struct Accepts {
    logprobs: bool,
    extras: bool,
}

/// Why a request gave no completion.
#[derive(Debug)]
enum Trouble {
    /// The messages and a whole completion would not fit.
    ContextFull,
    /// It may go well next time, after the wait that the server asked for.
    Passing {
        reason: String,
        wait: Option<Duration>,
    },
    /// Nobody answers at the address.
    Away(String),
    /// The server does not want this request.
    Refused { status: u16, reason: String },
}

impl ServerAddress {
    /// What `--policy` begins with.
    pub const SCHEME: &str = "openai:";

    /// Reads `openai:URL#MODEL`, with or without a slash at the end of the URL.
    ///
    /// # Errors
    /// [`AgentError::Remote`] for what is no such address, or has a password in it.
    pub fn parse(text: &str) -> Result<Self, AgentError> {
        let form =
            "\nhint: the form is openai:URL#MODEL, as in openai:http://127.0.0.1:8000/v1#my-model";
        // The text itself is not repeated: it may hold a password.
        let wrong = |why: &str| AgentError::Remote {
            server: Self::SCHEME.into(),
            reason: format!("{why}{form}"),
        };
        let rest = text
            .strip_prefix(Self::SCHEME)
            .ok_or_else(|| wrong("no such address"))?;
        let (url, model) = rest.split_once('#').unwrap_or((rest, ""));
        let uri: Uri = url.parse().map_err(|_| wrong("that is no URL"))?;
        let authority = uri
            .authority()
            .ok_or_else(|| wrong("the URL names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong(
                "a URL with a user or a password is refused; a key is taken from the environment alone",
            ));
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("the URL begins with neither http:// nor https://"));
        }
        if uri.query().is_some() {
            return Err(wrong("a URL with a ? in it is refused"));
        }
        let name = authority.host();
        let is_loopback = name == "localhost" || name == "[::1]" || name.starts_with("127.");
        Ok(Self {
            base: url.trim_end_matches('/').into(),
            model: model.into(),
            host: authority.as_str().into(),
            is_loopback,
        })
    }

    fn wrong(&self, reason: impl Into<String>) -> AgentError {
        AgentError::Remote {
            server: self.to_string(),
            reason: reason.into(),
        }
    }
}

/// Host and model only: `openai:127.0.0.1:8000#my-model`.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}#{}", Self::SCHEME, self.host, self.model)
    }
}

impl ApiKey {
    /// A key without the spaces and newlines around it; `None` when nothing or what no header can hold is left.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| Self(text.into()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

impl RemotePolicy {
    /// Meets the server: looks whether it lists the model, and asks for one token to learn which fields it takes.
    ///
    /// # Errors
    /// [`AgentError::Remote`] with what mends it, when nobody is there, the key is refused, the model is not among those
    /// that the server lists, or a plain request does not work.
    pub fn connect(address: ServerAddress, options: RemoteOptions) -> Result<Self, AgentError> {
        let proxy = if address.is_loopback {
            None
        } else {
            ureq::Proxy::try_from_env()
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(options.timeout))
            .max_idle_connections(options.concurrency)
            .max_idle_connections_per_host(options.concurrency)
            .proxy(proxy)
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::PlatformVerifier)
                    .build(),
            )
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")));
        let mut policy = Self {
            agent: config.build().new_agent(),
            address,
            options,
            accepts: Accepts {
                logprobs: true,
                extras: true,
            },
            notes: Vec::new(),
            answered: AtomicBool::new(false),
            lost_in_a_row: AtomicUsize::new(0),
            gone: OnceLock::new(),
        };
        policy.look_for_model()?;
        policy.learn_what_it_takes()?;
        Ok(policy)
    }

    /// What the server refused and is therefore asked without, in words.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the server can be asked to sample by top-k and min-p.
    #[must_use]
    pub fn takes_filters(&self) -> bool {
        self.accepts.extras
    }

    /// The protocol with what only a server's policy has: its instructions and its stop texts.
    #[must_use]
    pub fn protocol(&self, protocol: Protocol) -> Protocol {
        let RemoteOptions {
            instructions, stop, ..
        } = &self.options;
        Protocol {
            instructions: instructions.clone(),
            stop: stop.clone(),
            ..protocol
        }
    }

    /// Many servers list their models; one that does not is believed to have it.
    fn look_for_model(&self) -> Result<(), AgentError> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let listed: Option<Models> = match self.persist(|| self.get("models")) {
            Ok(text) => serde_json::from_str(&text).ok(),
            Err(Trouble::Refused { status, .. }) if !matches!(status, 401 | 403) => None,
            Err(trouble) => return Err(self.unusable(trouble)),
        };
        let wanted = &self.address.model;
        let Some(listed) = listed else {
            let unnamed = "which model?\nhint: name it behind a #, as in openai:URL#MODEL";
            return if wanted.is_empty() {
                Err(self.address.wrong(unnamed))
            } else {
                Ok(())
            };
        };
        if listed.data.iter().any(|model| model.id == *wanted) {
            return Ok(());
        }
        let names: Vec<String> = listed.data.into_iter().map(|model| model.id).collect();
        let base = &self.address.base;
        Err(self.address.wrong(match names.first() {
            Some(first) => format!(
                "the server has no such model; it lists {}\nhint: --policy 'openai:{base}#{first}'",
                self.shown(&names.join(", "))
            ),
            None => "the server lists no model".into(),
        }))
    }

    /// Asks for one token, with less and less until the server agrees.
    fn learn_what_it_takes(&mut self) -> Result<(), AgentError> {
        let messages = [Message::new(Role::User, "Say yes.")];
        let protocol = Protocol {
            completion_limit: 1,
            ..Protocol::default()
        };
        loop {
            let trouble = match self.complete(&self.request(&messages, &protocol, 0)) {
                Ok(_) => return Ok(()),
                Err(trouble) => trouble,
            };
            let Trouble::Refused { reason, status } = &trouble else {
                return Err(self.unusable(trouble));
            };
            if matches!(status, 401 | 403 | 404) {
                return Err(self.unusable(trouble));
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
                return Err(self.unusable(trouble));
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
            model: &self.address.model,
            messages,
            n: 1,
            stream: false,
            max_tokens: protocol.completion_limit,
            temperature: protocol.temperature,
            top_p: protocol.top_p,
            // Some servers read 32 bits, some with a sign.
            seed: seed & 0x7FFF_FFFF,
            stop: &protocol.stop,
            logprobs: (self.accepts.logprobs && undivided).then_some(LOGPROBS),
            extras: self.accepts.extras.then_some(extras),
        }
    }

    fn answer_one(
        &self,
        seat: &mut RemoteEpisode,
        observation: &str,
        protocol: &Protocol,
    ) -> TurnResponse {
        if let Err(reason) = self.can_play(protocol) {
            return TurnResponse::Failed(reason);
        }
        seat.hear(observation, protocol);
        let request = self.request(
            &seat.messages,
            protocol,
            mixed_seed(seat.seed, seat.turn, 0),
        );
        match self.complete(&request) {
            Ok(reply) => TurnResponse::Completion(seat.write(reply)),
            Err(Trouble::ContextFull) => TurnResponse::ContextFull,
            Err(trouble) => TurnResponse::Failed(self.unusable(trouble).to_string()),
        }
    }

    fn complete(&self, request: &ChatRequest<'_>) -> Result<Reply, Trouble> {
        let body = serde_json::to_string(request)
            .expect("a request holds nothing but texts and finite numbers");
        self.persist(|| {
            self.post("chat/completions", &body)
                .and_then(|text| self.read(&text))
        })
    }

    /// Tries again while the trouble may pass, and notices when the server is gone for good. A server that has never
    /// answered is not waited for: the URL is wrong, or it was not started.
    fn persist<T>(&self, attempt: impl Fn() -> Result<T, Trouble>) -> Result<T, Trouble> {
        if let Some(reason) = self.gone.get() {
            return Err(Trouble::Away(reason.clone()));
        }
        let mut tries = 0;
        loop {
            let trouble = match attempt() {
                Err(trouble) => trouble,
                done => {
                    self.answered.store(true, Ordering::Relaxed);
                    self.lost_in_a_row.store(0, Ordering::Relaxed);
                    return done;
                }
            };
            let asked_wait = match &trouble {
                Trouble::Passing { wait, .. } => *wait,
                Trouble::Away(_) if self.answered.load(Ordering::Relaxed) => None,
                _ => return Err(self.given_up(trouble)),
            };
            if tries == self.options.retries {
                return Err(self.given_up(trouble));
            }
            std::thread::sleep(
                self.wait_before(tries)
                    .max(asked_wait.unwrap_or_default())
                    .min(LONGEST_WAIT),
            );
            tries += 1;
        }
    }

    /// Exponential, with up to half of it taken off at random, so that requests that failed together do not come back
    /// together.
    fn wait_before(&self, tries: usize) -> Duration {
        let doubled = self.options.first_wait.saturating_mul(1 << tries.min(16));
        doubled
            .min(Duration::from_secs(30))
            .mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    fn given_up(&self, trouble: Trouble) -> Trouble {
        let gone = match &trouble {
            Trouble::Away(_)
            | Trouble::Refused {
                status: 401 | 403 | 404,
                ..
            } => self.answered.load(Ordering::Relaxed),
            Trouble::Passing { .. } => {
                self.lost_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= LOST_IN_A_ROW
            }
            Trouble::Refused { .. } | Trouble::ContextFull => false,
        };
        if gone {
            // Whoever came first has said why.
            let _ = self.gone.set(trouble.reason());
        }
        trouble
    }

    fn get(&self, path: &str) -> Result<String, Trouble> {
        let request = self.agent.get(format!("{}/{path}", self.address.base));
        let request = match &self.options.key {
            Some(key) => request.header("Authorization", format!("Bearer {}", key.0)),
            None => request,
        };
        self.receive(request.call())
    }

    fn post(&self, path: &str, body: &str) -> Result<String, Trouble> {
        let request = self
            .agent
            .post(format!("{}/{path}", self.address.base))
            .content_type("application/json");
        let request = match &self.options.key {
            Some(key) => request.header("Authorization", format!("Bearer {}", key.0)),
            None => request,
        };
        self.receive(request.send(body))
    }

    /// The text of a good answer.
    fn receive(&self, response: Result<Response<Body>, ureq::Error>) -> Result<String, Trouble> {
        let mut response = response.map_err(|error| self.not_received(&error))?;
        let wait = response
            .headers()
            .get("Retry-After")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|error| self.not_received(&error))?;
        if status == 200 {
            return Ok(text);
        }
        if is_context_overflow(&text) {
            return Err(Trouble::ContextFull);
        }
        let reason = format!("HTTP {status}: {}", self.shown(&said_in(&text)));
        match status {
            // llama-cpp-python's 500 for log-probabilities that it was not started for comes every time.
            500 if reason.contains("logprobs is not supported") => {
                Err(Trouble::Refused { status, reason })
            }
            408 | 409 | 425 | 429 | 500..=599 => Err(Trouble::Passing {
                reason,
                wait: wait.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            }),
            _ => Err(Trouble::Refused { status, reason }),
        }
    }

    fn not_received(&self, error: &ureq::Error) -> Trouble {
        let reason = self.shown(&error.to_string());
        match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => Trouble::Away(reason),
            // The last is a certificate that nobody trusts.
            ureq::Error::Io(cause)
                if matches!(
                    cause.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::InvalidData
                ) =>
            {
                Trouble::Away(reason)
            }
            ureq::Error::Timeout(_) => {
                let seconds = self.options.timeout.as_secs_f64();
                Trouble::Passing {
                    reason: format!("no whole answer within {seconds} s"),
                    wait: None,
                }
            }
            _ => Trouble::Passing { reason, wait: None },
        }
    }

    /// The first choice of an answer. What is no answer may be a proxy's page, so it passes.
    fn read(&self, text: &str) -> Result<Reply, Trouble> {
        let passing = |reason| Trouble::Passing { reason, wait: None };
        let malformed = |why: &str| {
            passing(format!(
                "no chat completion but {:?} ({why})",
                self.shown(text)
            ))
        };
        let mut reply: ChatReply =
            serde_json::from_str(text).map_err(|error| malformed(&error.to_string()))?;
        if reply.choices.is_empty() {
            return Err(malformed("no choices"));
        }
        Ok(Reply {
            prompt_token_ids: reply.prompt_token_ids,
            choice: reply.choices.swap_remove(0),
        })
    }

    /// A foreign text on one line, cut to a bearable length, without the key.
    fn shown(&self, text: &str) -> String {
        const LONGEST: usize = 300;
        let text = match &self.options.key {
            Some(key) => text.replace(&key.0, "[key]"),
            None => text.into(),
        };
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    /// The trouble and what mends it.
    fn unusable(&self, trouble: Trouble) -> AgentError {
        let base = &self.address.base;
        let hint = match (&trouble, &self.options.key) {
            (Trouble::Away(reason), _) if reason.contains("certificate") => {
                "SSL_CERT_FILE names a file of certificates to trust, where the server's own is not among the system's"
                    .into()
            }
            (Trouble::Away(_), _) => {
                format!("is a server running at {base}? The URL usually ends in /v1")
            }
            (Trouble::Refused { status: 401 | 403, .. }, None) => {
                "put its key into OPENAI_API_KEY, or name the variable that holds it with --api-key-env".into()
            }
            (Trouble::Refused { status: 401 | 403, .. }, Some(_)) => {
                "a key was sent and refused; --api-key-env names the variable that holds the right one".into()
            }
            (Trouble::Refused { status: 404, .. }, _) => {
                format!("nothing answers at {base}/chat/completions; the URL usually ends in /v1")
            }
            (Trouble::Passing { .. }, _) => {
                "--request-timeout and --retries say how long a server is waited for".into()
            }
            _ => return self.address.wrong(trouble.reason()),
        };
        self.address
            .wrong(format!("{}\nhint: {hint}", trouble.reason()))
    }
}

impl Trouble {
    fn reason(&self) -> String {
        match self {
            Self::ContextFull => {
                "the server says that one short message does not fit into its context".into()
            }
            Self::Passing { reason, .. } | Self::Away(reason) | Self::Refused { reason, .. } => {
                reason.clone()
            }
        }
    }
}

impl Policy for RemotePolicy {
    type EpisodeState = RemoteEpisode;

    fn name(&self) -> String {
        self.address.to_string()
    }

    fn gone(&self) -> Option<String> {
        self.gone
            .get()
            .map(|reason| format!("{}: {reason}", self.address))
    }

    fn begin(&self, seed: u64) -> RemoteEpisode {
        RemoteEpisode {
            messages: Vec::new(),
            context: Some(Vec::new()),
            seed,
            turn: 0,
        }
    }

    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, RemoteEpisode>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        let mut answers = vec![TurnResponse::GaveUp; asked.len()];
        let threads = self.options.concurrency.clamp(1, asked.len().max(1));
        let (questions, inbox) = unbounded();
        for question in asked.iter_mut().zip(&mut answers) {
            questions.send(question).expect("the inbox stands below");
        }
        drop(questions);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for (question, answer) in &inbox {
                        *answer = self.answer_one(question.seat, question.observation, protocol);
                    }
                });
            }
        });
        drop(inbox);
        answers
    }
}

impl RemoteEpisode {
    fn hear(&mut self, observation: &str, protocol: &Protocol) {
        let content = match &protocol.instructions {
            Some(instructions) if self.messages.is_empty() => {
                format!("{instructions}\n\n{observation}")
            }
            _ => observation.into(),
        };
        self.messages.push(Message::new(Role::User, content));
    }

    fn write(&mut self, reply: Reply) -> Completion {
        let Choice {
            message,
            finish_reason,
            stop_reason,
            matched_stop,
            logprobs,
            token_ids,
        } = reply.choice;
        let text = message.content.unwrap_or_default();
        self.messages
            .push(Message::new(Role::Assistant, text.clone()));
        self.turn += 1;
        let ended = finish_reason.as_deref() == Some("stop");
        // vLLM's word and SGLang's; an end-of-turn token is null or a number.
        let stopped_at_text = stop_reason.is_some_and(|v| v.is_string())
            || matched_stop.is_some_and(|v| v.is_string());
        let ids = reply
            .prompt_token_ids
            .zip(token_ids)
            .filter(|_| !stopped_at_text);
        let (observation_tokens, tokens) = ids
            .and_then(|(prompt, tokens)| self.extend(prompt, tokens))
            .unzip();
        let tokens = tokens.unwrap_or_default();
        let logprobs: Vec<f32> = (logprobs
            .and_then(|all| all.content)
            .unwrap_or_default()
            .iter())
        .map(|token| token.logprob.min(0.0)) // rounding in half precision can end above
        .collect();
        let written_tokens = tokens.len().max(logprobs.len());
        let fits = tokens.is_empty() || tokens.len() == logprobs.len();
        Completion {
            text,
            ended,
            observation_tokens: observation_tokens.unwrap_or_default(),
            tokens,
            logprobs: if fits { logprobs } else { Vec::new() },
            written: 1,
            written_tokens,
            ..Completion::default()
        }
    }

    /// The new ids of a prompt and the completion's, where the prompt begins with all that came before.
    fn extend(&mut self, prompt: Vec<u32>, tokens: Vec<u32>) -> Option<(Vec<u32>, Vec<u32>)> {
        let context = self.context.take()?;
        let new = prompt
            .strip_prefix(context.as_slice())
            .filter(|new| !new.is_empty() && !tokens.is_empty())?
            .to_vec();
        self.context = Some([prompt, tokens.clone()].concat());
        Some((new, tokens))
    }
}

/// Whether an error says that the messages are too long for the model, in the words of vLLM, SGLang, llama.cpp, its
/// Python server, or `OpenAI`.
fn is_context_overflow(text: &str) -> bool {
    let text = text.to_lowercase();
    let codes = ["context_length_exceeded", "exceed_context_size_error"];
    let sizes = [
        "maximum context length",
        "context length (",
        "available context size",
        "exceed context window",
    ];
    codes.iter().chain(&sizes).any(|piece| text.contains(piece))
}

/// The message in an error's body, or all of it.
fn said_in(text: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let places = [
        &body["error"]["message"],
        &body["message"],
        &body["error"],
        &body["detail"],
    ];
    places
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or(text)
        .into()
}

/// `top_logprobs` above 0, because llama.cpp tells none otherwise.
const LOGPROBS: LogprobFields = LogprobFields {
    logprobs: true,
    top_logprobs: 1,
};

/// Everything a server may do to a distribution, switched off, and vLLM's token ids switched on. A `top_k` above every
/// vocabulary, because servers disagree on whether -1 or 0 means all.
const EXTRAS: ExtraFields = ExtraFields {
    top_k: 1 << 30,
    min_p: 0.0,
    repetition_penalty: 1.0,
    repeat_penalty: 1.0,
    return_token_ids: true,
};

#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: &'a [Message],
    n: u32,
    stream: bool,
    max_tokens: usize,
    temperature: f32,
    top_p: f32,
    seed: u64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop: &'a [String],
    #[serde(flatten)]
    logprobs: Option<LogprobFields>,
    #[serde(flatten)]
    extras: Option<ExtraFields>,
}

#[derive(Serialize)]
struct LogprobFields {
    logprobs: bool,
    top_logprobs: u32,
}

#[derive(Serialize)]
struct ExtraFields {
    top_k: u32,
    min_p: f32,
    /// vLLM's and SGLang's.
    repetition_penalty: f32,
    /// llama.cpp's.
    repeat_penalty: f32,
    return_token_ids: bool,
}

#[derive(Deserialize)]
struct ChatReply {
    choices: Vec<Choice>,
    prompt_token_ids: Option<Vec<u32>>,
}

struct Reply {
    prompt_token_ids: Option<Vec<u32>>,
    choice: Choice,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    finish_reason: Option<String>,
    stop_reason: Option<Value>,
    matched_stop: Option<Value>,
    logprobs: Option<Logprobs>,
    token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<TokenLogprob>>,
}

#[derive(Deserialize)]
struct TokenLogprob {
    logprob: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_is_a_url_and_a_model() {
        let address = ServerAddress::parse("openai:http://127.0.0.1:8000/v1/#org/model").unwrap();
        assert_eq!(
            (address.base.as_str(), address.is_loopback),
            ("http://127.0.0.1:8000/v1", true)
        );
        assert_eq!(
            address,
            ServerAddress::parse("openai:http://127.0.0.1:8000/v1#org/model").unwrap()
        );
        assert_eq!(address.to_string(), "openai:127.0.0.1:8000#org/model");
        assert!(
            !ServerAddress::parse("openai:https://api.example.org/v1#m")
                .unwrap()
                .is_loopback
        );
    }

    #[test]
    fn an_address_with_a_secret_in_it_is_refused_and_not_repeated() {
        for text in [
            "openai:http://me:secret@host/v1#m",
            "openai:https://host/v1?key=secret#m",
            "openai:secret#m",
        ] {
            let error = ServerAddress::parse(text).unwrap_err().to_string();
            assert!(
                error.contains("hint: the form is openai:URL#MODEL") && !error.contains("secret"),
                "{error}"
            );
        }
        assert!(
            ServerAddress::parse("openai:ftp://host/v1#m")
                .unwrap_err()
                .to_string()
                .contains("neither http://")
        );
    }

    #[test]
    fn a_key_is_never_shown() {
        assert_eq!(format!("{:?}", ApiKey::new(" sk-secret\n")), "Some(ApiKey)");
        assert!(ApiKey::new(" \n").is_none() && ApiKey::new("two words").is_none());
    }

    fn reply(prompt: &[u32], tokens: &[u32], more: &Value) -> Reply {
        let mut choice =
            json!({"message": {"content": "look"}, "finish_reason": "stop", "token_ids": tokens});
        choice
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Reply {
            prompt_token_ids: Some(prompt.into()),
            choice: serde_json::from_value(choice).unwrap(),
        }
    }

    fn ids(completion: Completion) -> (Vec<u32>, Vec<u32>) {
        (completion.observation_tokens, completion.tokens)
    }

    /// Prompts 1 2 and 1 2 3 4 5 around completion 3: the second adds 4 5. A third that begins otherwise ends it.
    #[test]
    fn token_ids_are_kept_while_each_prompt_extends_the_last() {
        let mut seat = RemoteEpisode {
            messages: Vec::new(),
            context: Some(Vec::new()),
            seed: 1,
            turn: 0,
        };
        let none = json!({});
        assert_eq!(
            ids(seat.write(reply(&[1, 2], &[3], &none))),
            (vec![1, 2], vec![3])
        );
        assert_eq!(
            ids(seat.write(reply(&[1, 2, 3, 4, 5], &[6], &none))),
            (vec![4, 5], vec![6])
        );
        assert_eq!(
            ids(seat.write(reply(&[1, 2, 9, 4, 5, 6, 7], &[8], &none))),
            (vec![], vec![])
        );
        assert_eq!(
            ids(seat.write(reply(&[1, 2, 9, 4, 5, 6, 7, 8, 9], &[8], &none))),
            (vec![], vec![]),
            "nor later"
        );
    }

    /// The text that stopped it was sampled, but belongs neither to the completion nor to the next prompt.
    #[test]
    fn a_completion_that_stopped_at_a_text_has_no_ids() {
        for more in [json!({"stop_reason": "\n"}), json!({"matched_stop": "\n"})] {
            let mut seat = RemoteEpisode {
                messages: Vec::new(),
                context: Some(Vec::new()),
                seed: 1,
                turn: 0,
            };
            assert_eq!(ids(seat.write(reply(&[1], &[2], &more))), (vec![], vec![]));
        }
        let mut seat = RemoteEpisode {
            messages: Vec::new(),
            context: Some(Vec::new()),
            seed: 1,
            turn: 0,
        };
        assert_eq!(
            ids(seat.write(reply(&[1], &[2], &json!({"matched_stop": 2})))),
            (vec![1], vec![2]),
            "a token did"
        );
    }

    #[test]
    fn every_server_has_its_own_words_for_a_full_context() {
        for text in [
            r#"{"message": "This model's maximum context length is 2048 tokens. However, you requested 2100", "code": 400}"#,
            "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            r#"{"error":{"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error"}}"#,
            "Requested tokens (3000) exceed context window of 2048",
            r#"{"error": {"code": "context_length_exceeded"}}"#,
        ] {
            assert!(is_context_overflow(text), "{text}");
        }
        assert!(!is_context_overflow(r#"{"error": "unknown field top_k"}"#));
    }
}
