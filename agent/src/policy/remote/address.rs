//! The address of a server, and the key that it may need.

use crate::error::AgentError;
use std::fmt;
use ureq::http::Uri;

/// The address of a policy behind a server: `openai:URL#MODEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// The URL, without a slash at its end.
    pub(super) base: String,
    pub(super) model: String,
    host: String,
    /// Whether the server runs on this machine, so that no proxy is used.
    pub(super) is_loopback: bool,
}

impl ServerAddress {
    /// The beginning of a `--policy` that is a server.
    pub const SCHEME: &str = "openai:";

    /// Parses `openai:URL#MODEL`, with or without a slash at the end of the URL.
    ///
    /// # Errors
    /// Returns [`AgentError::Remote`] if the text is not such an address, or if it contains a
    /// password. The message does not repeat the text, because it may contain a secret.
    pub fn parse(text: &str) -> Result<Self, AgentError> {
        let rest = text
            .strip_prefix(Self::SCHEME)
            .ok_or_else(|| malformed("no such address"))?;
        let (url, model) = rest.split_once('#').unwrap_or((rest, ""));
        let uri: Uri = url.parse().map_err(|_| malformed("that is no URL"))?;
        let authority = uri
            .authority()
            .ok_or_else(|| malformed("the URL names no host"))?;
        if authority.as_str().contains('@') {
            return Err(malformed(
                "a URL with a user or a password is refused; a key is taken from the environment alone",
            ));
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(malformed(
                "the URL begins with neither http:// nor https://",
            ));
        }
        if uri.query().is_some() {
            return Err(malformed("a URL with a ? in it is refused"));
        }
        let name = authority.host();
        Ok(Self {
            base: url.trim_end_matches('/').into(),
            model: model.into(),
            host: authority.as_str().into(),
            is_loopback: ["localhost", "[::1]", "0.0.0.0", "[::]"].contains(&name)
                || name.starts_with("127."),
        })
    }

    /// Returns an error about this server.
    pub(super) fn error(&self, reason: impl Into<String>) -> AgentError {
        AgentError::Remote {
            server: self.to_string(),
            reason: reason.into(),
        }
    }
}

fn malformed(reason: &str) -> AgentError {
    AgentError::Remote {
        server: ServerAddress::SCHEME.into(),
        reason: format!(
            "{reason}\nhint: the form is openai:URL#MODEL, as in openai:http://127.0.0.1:8000/v1#my-model"
        ),
    }
}

/// Writes only host and model: `openai:127.0.0.1:8000#my-model`.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}#{}", Self::SCHEME, self.host, self.model)
    }
}

/// The secret key for a server. Its debug form does not contain the key.
#[derive(Clone)]
pub struct ApiKey(pub(super) String);

impl ApiKey {
    /// Returns the key without the spaces and newlines around it. Returns `None` if nothing is
    /// left, or if a header cannot contain it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        // People copy the whole header.
        let text = text.strip_prefix("Bearer ").unwrap_or(text).trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| Self(text.into()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_address_with_a_secret_is_refused_and_not_repeated() {
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
        assert!(ApiKey::new("Bearer sk-secret").is_some_and(|key| key.0 == "sk-secret"));
        assert!(ApiKey::new(" \n").is_none() && ApiKey::new("two words").is_none());
    }
}
