//! The options of a policy behind a server.

use super::address::ApiKey;
use std::time::Duration;

/// The instructions for a model that was not trained on these games. They precede the first
/// observation in the user's message, because not every chat template has a system message. Logs
/// record this text in their protocol.
pub const INSTRUCTIONS: &str = "\
You act in a house, one command a turn, until your task is done. Answer with one command on one line and nothing else.

Commands, where X, Y and Z are names with their numbers, such as desk 1:
look, inventory, go to X, open X, close X, examine X, use X, take X from Y, put X in/on Y (in some houses: move X to Y), \
clean X with Y, heat X with Y, cool X with Y, slice X with Y

\"Nothing happens.\" means that the command was not possible.";

/// How requests are sent to a server.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Most requests at the same time.
    pub concurrency: usize,
    /// Most time for a request, from connecting to the last byte of the reply.
    pub timeout: Duration,
    /// Number of retries if a request fails for a reason that may pass.
    pub retries: usize,
    /// Delay before the first retry. Each further delay is twice as long, up to 30 seconds, less a
    /// random part.
    pub first_wait: Duration,
    /// The key, which is sent as a bearer token.
    pub key: Option<ApiKey>,
    /// Text before the first observation, for example [`INSTRUCTIONS`].
    pub instructions: Option<String>,
    /// Texts at which a completion ends. They are not part of the completion.
    pub stop: Vec<String>,
}
