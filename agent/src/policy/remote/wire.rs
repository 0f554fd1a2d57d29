//! The JSON of `/chat/completions`: the fields of a request, the list of models, and errors.

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
    #[serde(flatten)]
    pub(super) limit: CompletionLimit,
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

/// The most tokens of a completion, by the name that the server knows.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CompletionLimit {
    MaxTokens(usize),
    MaxCompletionTokens(usize),
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
    if is_context_overflow(status, text) {
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

/// Returns whether an error means that the messages are too long for the model.
fn is_context_overflow(status: u16, text: &str) -> bool {
    /// Of vLLM, SGLang, llama.cpp, its Python server, `OpenAI`, LM Studio, TGI and others.
    const PHRASES: [&str; 14] = [
        "context_length_exceeded",
        "exceed_context_size_error",
        "maximum context length",
        "maximum model length",
        "context length (",
        "context length of",
        "than the context length",
        "available context size",
        "exceed context window",
        "exceeds the context window",
        "tokens to keep from the initial prompt",
        "`inputs` tokens + `max_new_tokens` must be",
        "input token count",
        "prompt is too long",
    ];
    let text = text.to_lowercase();
    if PHRASES.iter().any(|phrase| text.contains(phrase)) {
        return true;
    }
    // Other words for the same: the request is too large, or its tokens exceed a limit.
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    status == 413
        || matches!(status, 400 | 422)
            && says(&["token", "context", "prompt", "input"])
            && says(&[
                "too long",
                "too large",
                "exceed",
                "longer than",
                "maximum length",
            ])
            && !says(&[
                "unsupported",
                "unrecognized",
                "unknown",
                "max_tokens",
                "max_completion_tokens",
                "completion tokens",
            ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_own_message_for_a_full_context() {
        for (status, text) in [
            (
                400,
                r#"{"message": "This model's maximum context length is 2048 tokens. However, you requested 2100", "code": 400}"#,
            ),
            (
                400,
                "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            ),
            (
                400,
                r#"{"error":{"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error"}}"#,
            ),
            (500, "Requested tokens (3000) exceed context window of 2048"),
            (400, r#"{"error": {"code": "context_length_exceeded"}}"#),
            (
                400,
                "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens",
            ),
            (
                200,
                "The number of tokens to keep from the initial prompt is greater than the context length",
            ),
            (
                422,
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
            ),
            (
                400,
                "The decoder prompt (length 4200) is longer than the maximum model length of 4096.",
            ),
            (413, "Request Entity Too Large"),
            (422, "the prompt exceeds what this deployment serves"),
        ] {
            assert!(is_context_overflow(status, text), "{text}");
        }
        for (status, text) in [
            (400, r#"{"error": "unknown field top_k"}"#),
            (
                400,
                "Unsupported parameter: 'max_tokens' is too large for this model",
            ),
            (
                400,
                "max_completion_tokens is too large: 200000. This model supports at most 100000 completion tokens",
            ),
            (422, "max_tokens exceeds the limit of 4096"),
            (429, "the number of tokens a minute exceeds your plan"),
        ] {
            assert!(!is_context_overflow(status, text), "{text}");
        }
    }

    #[test]
    fn a_list_of_models_is_read() {
        assert_eq!(
            model_ids(r#"{"data": [{"id": "a"}]}"#),
            Some(vec!["a".into()])
        );
        assert_eq!(model_ids("{}"), None);
        assert_eq!(model_ids(r#"{"data": null}"#), None);
    }
}
