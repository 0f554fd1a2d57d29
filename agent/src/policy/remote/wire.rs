//! The JSON of `/chat/completions`: the fields of a request, and the parts of a reply that are
//! used.

use super::failure::RequestFailure;
use crate::text::template::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `top_logprobs` is above 0, because llama.cpp returns no log-probabilities otherwise.
pub(super) const LOGPROBS: LogprobFields = LogprobFields {
    logprobs: true,
    top_logprobs: 1,
};

/// Everything that a server may do to a distribution, switched off, and vLLM's token ids switched
/// on. `top_k` is above the size of every vocabulary, because servers disagree on whether -1 or 0
/// means all tokens.
pub(super) const EXTRAS: ExtraFields = ExtraFields {
    top_k: 1 << 30,
    min_p: 0.0,
    repetition_penalty: 1.0,
    repeat_penalty: 1.0,
    return_token_ids: true,
};

#[derive(Serialize)]
pub(super) struct ChatRequest<'a> {
    pub(super) model: &'a str,
    pub(super) messages: &'a [Message],
    pub(super) n: u32,
    pub(super) stream: bool,
    pub(super) max_tokens: usize,
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    pub(super) seed: u64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) stop: &'a [String],
    #[serde(flatten)]
    pub(super) logprobs: Option<LogprobFields>,
    #[serde(flatten)]
    pub(super) extras: Option<ExtraFields>,
}

#[derive(Serialize)]
pub(super) struct LogprobFields {
    logprobs: bool,
    top_logprobs: u32,
}

/// Fields that are not part of `OpenAI`'s protocol.
#[derive(Serialize)]
pub(super) struct ExtraFields {
    pub(super) top_k: u32,
    pub(super) min_p: f32,
    /// Read by vLLM and SGLang.
    pub(super) repetition_penalty: f32,
    /// Read by llama.cpp.
    pub(super) repeat_penalty: f32,
    pub(super) return_token_ids: bool,
}

/// A reply with its first choice.
pub(super) struct ChatReply {
    pub(super) prompt_token_ids: Option<Vec<u32>>,
    pub(super) choice: ChatChoice,
}

#[derive(Deserialize)]
pub(super) struct ChatChoice {
    pub(super) message: ChatContent,
    pub(super) finish_reason: Option<String>,
    /// vLLM: the stop text, or the id of an end-of-turn token.
    pub(super) stop_reason: Option<Value>,
    /// SGLang: the same.
    pub(super) matched_stop: Option<Value>,
    pub(super) logprobs: Option<ChoiceLogprobs>,
    pub(super) token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
pub(super) struct ChatContent {
    pub(super) content: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ChoiceLogprobs {
    pub(super) content: Option<Vec<TokenLogprob>>,
}

#[derive(Deserialize)]
pub(super) struct TokenLogprob {
    pub(super) logprob: f32,
}

#[derive(Deserialize)]
struct ChatReplyBody {
    choices: Vec<ChatChoice>,
    prompt_token_ids: Option<Vec<u32>>,
}

impl ChatReply {
    /// Parses the body of a reply.
    ///
    /// # Errors
    /// Returns the reason if the body is not a chat completion.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut body: ChatReplyBody =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        if body.choices.is_empty() {
            return Err("no choices".into());
        }
        Ok(Self {
            prompt_token_ids: body.prompt_token_ids,
            choice: body.choices.swap_remove(0),
        })
    }
}

/// Parses the reply to `/models`. Returns the ids of the models, or `None` if it is no such list.
pub(super) fn model_ids(text: &str) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct ModelList {
        data: Vec<ListedModel>,
    }
    #[derive(Deserialize)]
    struct ListedModel {
        id: String,
    }
    let list: ModelList = serde_json::from_str(text).ok()?;
    Some(list.data.into_iter().map(|model| model.id).collect())
}

/// Returns the failure that a reply with an error status stands for. `shown` is its message, fit to
/// be printed.
pub(super) fn failure_of(
    status: u16,
    text: &str,
    shown: &str,
    retry_after: Option<std::time::Duration>,
) -> RequestFailure {
    if is_context_overflow(text) {
        return RequestFailure::ContextFull;
    }
    let reason = format!("HTTP {status}: {shown}");
    match status {
        // llama-cpp-python replies 500 every time if it was not started for log-probabilities.
        500 if reason.contains("logprobs is not supported") => {
            RequestFailure::Refused { status, reason }
        }
        408 | 409 | 425 | 429 | 500..=599 => RequestFailure::Transient {
            reason,
            wait: retry_after,
        },
        _ => RequestFailure::Refused { status, reason },
    }
}

/// Returns the message in the body of an error, or the whole body if it has none.
pub(super) fn error_message(text: &str) -> String {
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

/// Returns whether an error means that the messages are too long for the model. The phrases are
/// those of vLLM, SGLang, llama.cpp, its Python server, and `OpenAI`.
fn is_context_overflow(text: &str) -> bool {
    const PHRASES: [&str; 6] = [
        "context_length_exceeded",
        "exceed_context_size_error",
        "maximum context length",
        "context length (",
        "available context size",
        "exceed context window",
    ];
    let text = text.to_lowercase();
    PHRASES.iter().any(|phrase| text.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_own_message_for_a_full_context() {
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

    #[test]
    fn a_reply_without_a_choice_is_refused() {
        assert_eq!(
            ChatReply::parse(r#"{"choices": []}"#).err().as_deref(),
            Some("no choices")
        );
        assert!(ChatReply::parse("<html>").is_err());
        assert_eq!(
            model_ids(r#"{"data": [{"id": "a"}]}"#),
            Some(vec!["a".into()])
        );
        assert_eq!(model_ids("{}"), None);
    }
}
