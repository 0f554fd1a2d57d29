//! The flags of a policy on a server: how requests are sent to it.

use crate::ui;
use agent::policy::remote::{ApiKey, INSTRUCTIONS, RemoteOptions, RemotePolicy, ServerAddress};
use anyhow::Context;
use clap::{Args, ValueHint};
use std::path::PathBuf;
use std::time::Duration;

/// The environment variable that is read if `--api-key-env` is not given.
const KEY: &str = "OPENAI_API_KEY";

/// The heading of these flags in `--help`. Each field sets it, because `next_help_heading` would
/// also apply to the flags that follow this struct.
const HEADING: &str = "Server (--policy openai:URL#MODEL)";

/// How requests are sent to a server; for every command that plays.
#[derive(Args)]
pub(crate) struct RemoteArgs {
    /// Maximum number of requests in flight; each episode has at most one
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = HEADING)]
    concurrency: usize,
    /// Timeout of a request in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, help_heading = HEADING)]
    request_timeout: f64,
    /// Number of retries of a failed request, with growing waits, before its episode is lost
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = HEADING)]
    retries: usize,
    /// Environment variable that contains the server's API key [default: OPENAI_API_KEY]
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    api_key_env: Option<String>,
    /// Text file to put before the first observation [default: the list of household commands]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = HEADING)]
    instructions: Option<PathBuf>,
    /// Send no instructions, for example if the model was trained on these games
    #[arg(long, conflicts_with = "instructions", help_heading = HEADING)]
    no_instructions: bool,
}

/// Prints messages about a server.
pub(crate) fn print_notes(notes: &[String]) {
    for note in notes {
        eprintln!("note: {note}");
    }
}

impl RemoteArgs {
    /// Connects to the server of `openai:URL#MODEL`. A completion ends at any text of `stop`.
    ///
    /// # Errors
    /// If a flag is not usable or the server cannot be reached.
    pub(crate) fn connect(&self, policy: &str, stop: Vec<String>) -> anyhow::Result<RemotePolicy> {
        let address = ServerAddress::parse(policy).map_err(wrong_use)?;
        let remote = RemotePolicy::connect(address, self.options(stop)?).map_err(wrong_use)?;
        print_notes(&remote.take_notes());
        Ok(remote)
    }

    fn options(&self, stop: Vec<String>) -> anyhow::Result<RemoteOptions> {
        if self.concurrency == 0 {
            return Err(ui::WrongUse("--concurrency: N starts at 1".into()).into());
        }
        let timeout = Duration::try_from_secs_f64(self.request_timeout)
            .ok()
            .filter(|duration| !duration.is_zero())
            .ok_or_else(|| {
                ui::WrongUse(format!(
                    "--request-timeout {}: must be above 0 seconds",
                    self.request_timeout
                ))
            })?;
        Ok(RemoteOptions {
            concurrency: self.concurrency,
            timeout,
            retries: self.retries,
            first_wait: Duration::from_millis(500),
            key: self.key()?,
            instructions: self.instructions()?,
            stop,
        })
    }

    fn instructions(&self) -> anyhow::Result<Option<String>> {
        if self.no_instructions {
            return Ok(None);
        }
        let Some(path) = &self.instructions else {
            return Ok(Some(INSTRUCTIONS.to_string()));
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot use {}", path.display()))
            .map_err(|error| ui::WrongUse(format!("{error:#}")))?;
        Ok(Some(text.trim().to_string()))
    }

    /// Returns the API key. No message contains its text. Most local servers need no key, so a
    /// missing or empty default variable is not an error.
    fn key(&self) -> anyhow::Result<Option<ApiKey>> {
        let name = self.api_key_env.as_deref().unwrap_or(KEY);
        let problem = match std::env::var(name) {
            Ok(text) if text.trim().is_empty() && self.api_key_env.is_none() => return Ok(None),
            Ok(text) => match ApiKey::new(&text) {
                Some(key) => return Ok(Some(key)),
                None => "contains no key that fits into an HTTP header",
            },
            Err(std::env::VarError::NotPresent) if self.api_key_env.is_none() => return Ok(None),
            Err(std::env::VarError::NotPresent) => {
                "is not set\nhint: export it, or omit --api-key-env"
            }
            Err(std::env::VarError::NotUnicode(_)) => "is not valid UTF-8",
        };
        Err(ui::WrongUse(format!("the environment variable {name} {problem}")).into())
    }
}

fn wrong_use(error: agent::AgentError) -> ui::WrongUse {
    ui::WrongUse(error.to_string())
}
