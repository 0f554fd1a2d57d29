//! The HTTP requests to one server, without retries.

use super::address::ServerAddress;
use super::failure::RequestFailure;
use super::options::RemoteOptions;
use super::reply::{BodyFault, ChatReply};
use super::wire::{error_message, failure_of};
use crate::error::AgentError;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};
use ureq::http::Response;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Number of characters of a server's message that are shown.
const MAX_SHOWN: usize = 300;

#[derive(Debug)]
pub(super) struct ServerClient {
    pub(super) address: ServerAddress,
    pub(super) options: RemoteOptions,
    agent: Agent,
    /// The proxy of the environment, without its password, if requests go through one.
    proxy: Option<String>,
}

/// The delay that a `Retry-After` asks for: seconds, or a date.
fn delay(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

impl ServerClient {
    pub(super) fn new(address: ServerAddress, options: RemoteOptions) -> Self {
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
            .proxy(proxy.clone())
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::PlatformVerifier)
                    .build(),
            )
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")));
        Self {
            agent: config.build().new_agent(),
            proxy: proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port())),
            address,
            options,
        }
    }

    pub(super) fn get(&self, path: &str) -> Result<String, RequestFailure> {
        let mut request = self.agent.get(format!("{}/{path}", self.address.base));
        if let Some(key) = &self.options.key {
            request = request.header("Authorization", format!("Bearer {}", key.0));
        }
        self.receive(request.call())
    }

    pub(super) fn post(&self, path: &str, body: &str) -> Result<String, RequestFailure> {
        let mut request = self
            .agent
            .post(format!("{}/{path}", self.address.base))
            .content_type("application/json");
        if let Some(key) = &self.options.key {
            request = request.header("Authorization", format!("Bearer {}", key.0));
        }
        self.receive(request.send(body))
    }

    /// Parses the body of a chat completion. If it is something else, it may be the page of a
    /// proxy, so the failure is transient.
    pub(super) fn parse(&self, text: &str) -> Result<ChatReply, RequestFailure> {
        ChatReply::parse(text).map_err(|fault| match fault {
            BodyFault::Error { status, message } => {
                failure_of(status, text, &self.shown(&message), None)
            }
            BodyFault::Other(why) => RequestFailure::transient(format!(
                "no chat completion but {:?} ({why})",
                self.shown(text)
            )),
        })
    }

    /// Returns the body of a response with status 200.
    fn receive(
        &self,
        response: Result<Response<Body>, ureq::Error>,
    ) -> Result<String, RequestFailure> {
        let mut response = response.map_err(|error| self.no_response(&error))?;
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let retry_after = header("Retry-After").and_then(|value| delay(value.trim()));
        let location = header("Location");
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|error| self.no_response(&error))?;
        if status == 200 {
            return Ok(text);
        }
        if let (300..=399, Some(location)) = (status, location) {
            return Err(RequestFailure::Refused {
                status,
                reason: format!(
                    "HTTP {status}: the server redirects to {}",
                    self.shown(&location)
                ),
            });
        }
        let shown = self.shown(&error_message(&text));
        Err(failure_of(status, &text, &shown, retry_after))
    }

    fn no_response(&self, error: &ureq::Error) -> RequestFailure {
        let reason = self.shown(&error.to_string());
        match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                RequestFailure::Unreachable(reason)
            }
            // `InvalidData` is a certificate that is not trusted.
            ureq::Error::Io(cause)
                if matches!(
                    cause.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::InvalidData
                ) =>
            {
                RequestFailure::Unreachable(reason)
            }
            ureq::Error::Timeout(_) => {
                let seconds = self.options.timeout.as_secs_f64();
                RequestFailure::transient(format!("no whole answer within {seconds} s"))
            }
            _ => RequestFailure::transient(reason),
        }
    }

    /// Returns a text of the server on one line, cut after 300 characters, without the key.
    pub(super) fn shown(&self, text: &str) -> String {
        let text = match &self.options.key {
            Some(key) => text.replace(&key.0, "[key]"),
            None => text.into(),
        };
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(MAX_SHOWN) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    /// Returns an error with the reason of a failure, and a hint if one is known.
    pub(super) fn error_of(&self, failure: &RequestFailure) -> AgentError {
        let reason = failure.reason();
        match self.hint_for(failure) {
            Some(hint) => self.address.error(format!("{reason}\nhint: {hint}")),
            None => self.address.error(reason),
        }
    }

    fn hint_for(&self, failure: &RequestFailure) -> Option<String> {
        let base = &self.address.base;
        let hint = match (failure, &self.options.key) {
            (RequestFailure::Unreachable(reason), _) if reason.contains("certificate") => {
                "if the certificate of the server is not among those of the system, set SSL_CERT_FILE to a file of \
                 certificates to trust"
            }
            (RequestFailure::Unreachable(_), _) => {
                let proxy = match &self.proxy {
                    Some(proxy) => format!(
                        ". Requests go through the proxy {proxy}; NO_PROXY lists hosts without it"
                    ),
                    None => String::new(),
                };
                return Some(format!(
                    "is a server running at {base}? The URL usually ends in /v1{proxy}"
                ));
            }
            (
                RequestFailure::Refused {
                    status: 300..=399, ..
                },
                _,
            ) => {
                "requests are not redirected, because a key must not reach another host; use the other URL in --policy"
            }
            (
                RequestFailure::Refused {
                    status: 401 | 403, ..
                },
                None,
            ) => {
                "put its key into OPENAI_API_KEY, or name the variable that holds it with --api-key-env"
            }
            (
                RequestFailure::Refused {
                    status: 401 | 403, ..
                },
                Some(_),
            ) => {
                "a key was sent and refused; --api-key-env names the variable that holds the right one"
            }
            (RequestFailure::Refused { status: 404, .. }, _) => {
                return Some(format!(
                    "nothing answers at {base}/chat/completions; the URL usually ends in /v1"
                ));
            }
            (RequestFailure::Transient { .. }, _) => {
                "--request-timeout and --retries set how long hearth waits for a server"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_a_number_of_seconds_or_a_date() {
        assert_eq!(delay("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(delay("-1"), None);
        assert_eq!(delay("soon"), None);
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let seconds = delay(&date).unwrap().as_secs();
        assert!((88..=90).contains(&seconds), "{seconds}");
        assert_eq!(delay("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
    }
}
