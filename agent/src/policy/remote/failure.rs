//! The ways in which a request to a server can fail.

use std::time::Duration;

/// Why a request gave no completion.
#[derive(Debug)]
pub(super) enum RequestFailure {
    /// The messages and a whole completion do not fit into the context.
    ContextFull,
    /// The next attempt may succeed. `wait` is the delay that the server asked for.
    Transient {
        reason: String,
        wait: Option<Duration>,
    },
    /// There is no server at the address.
    Unreachable(String),
    /// The server refuses this request.
    Refused { status: u16, reason: String },
}

impl RequestFailure {
    pub(super) fn transient(reason: String) -> Self {
        Self::Transient { reason, wait: None }
    }

    pub(super) fn reason(&self) -> String {
        match self {
            Self::ContextFull => {
                "the server replies that one short message does not fit into its context".into()
            }
            Self::Transient { reason, .. }
            | Self::Unreachable(reason)
            | Self::Refused { reason, .. } => reason.clone(),
        }
    }
}
