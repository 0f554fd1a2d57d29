//! The policy on a server: the flags that say how it is asked.

use crate::ui;
use agent::policy::remote::{ApiKey, INSTRUCTIONS, RemoteOptions, RemotePolicy, ServerAddress};
use anyhow::Context;
use clap::{Args, ValueHint};
use std::path::PathBuf;
use std::time::Duration;

/// Where the key is, unless a flag says otherwise.
const KEY: &str = "OPENAI_API_KEY";

/// How a server is asked, for every command that plays.
#[derive(Args)]
#[command(next_help_heading = "Server (--policy openai:URL#MODEL)")]
pub(crate) struct RemoteArgs {
    /// Requests at once, at most one an episode
    #[arg(long, value_name = "N", default_value_t = 16)]
    concurrency: usize,
    /// Seconds that a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    request_timeout: f64,
    /// Further tries, each after a longer wait, before an episode is lost
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: usize,
    /// Environment variable that holds the server's key [default: OPENAI_API_KEY]
    #[arg(long, value_name = "NAME")]
    api_key_env: Option<String>,
    /// Text file that stands above the first observation [default: which commands there are in household games]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    instructions: Option<PathBuf>,
    /// Give no instructions, as to a model that has learned these games
    #[arg(long, conflicts_with = "instructions")]
    no_instructions: bool,
}

impl RemoteArgs {
    /// Meets the server of `openai:URL#MODEL`; `stop` ends its completions.
    pub(crate) fn connect(&self, policy: &str, stop: Vec<String>) -> anyhow::Result<RemotePolicy> {
        let wrong = |error: agent::AgentError| ui::WrongUse(error.to_string());
        let remote = RemotePolicy::connect(
            ServerAddress::parse(policy).map_err(wrong)?,
            self.options(stop)?,
        )
        .map_err(wrong)?;
        remote
            .notes()
            .iter()
            .for_each(|note| eprintln!("note: {note}"));
        Ok(remote)
    }

    fn options(&self, stop: Vec<String>) -> anyhow::Result<RemoteOptions> {
        if self.concurrency == 0 {
            return Err(ui::WrongUse("--concurrency: N starts at 1".into()).into());
        }
        let timeout = Duration::try_from_secs_f64(self.request_timeout)
            .ok()
            .filter(|duration| !duration.is_zero());
        let timeout = timeout.ok_or_else(|| {
            ui::WrongUse(format!(
                "--request-timeout {}: seconds above 0",
                self.request_timeout
            ))
        })?;
        let instructions = match &self.instructions {
            _ if self.no_instructions => None,
            None => Some(INSTRUCTIONS.to_string()),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot use {}", path.display()));
                Some(
                    text.map_err(|error| ui::WrongUse(format!("{error:#}")))?
                        .trim()
                        .to_string(),
                )
            }
        };
        Ok(RemoteOptions {
            concurrency: self.concurrency,
            timeout,
            retries: self.retries,
            first_wait: Duration::from_millis(500),
            key: self.key()?,
            instructions,
            stop,
        })
    }

    /// The key, whose text no message here repeats. No key is right for most servers of one's own.
    fn key(&self) -> anyhow::Result<Option<ApiKey>> {
        let name = self.api_key_env.as_deref().unwrap_or(KEY);
        let unusable = |why: &str| ui::WrongUse(format!("the environment variable {name} {why}"));
        match std::env::var(name) {
            Ok(text) if text.trim().is_empty() && self.api_key_env.is_none() => Ok(None),
            Ok(text) => {
                Ok(Some(ApiKey::new(&text).ok_or_else(|| {
                    unusable("holds no key that a header could carry")
                })?))
            }
            Err(std::env::VarError::NotPresent) if self.api_key_env.is_none() => Ok(None),
            Err(std::env::VarError::NotPresent) => {
                Err(unusable("is not set\nhint: export it, or leave --api-key-env away").into())
            }
            Err(std::env::VarError::NotUnicode(_)) => Err(unusable("holds no text").into()),
        }
    }
}
