//! The body of a reply to `/chat/completions`, as servers really write it.
//!
//! The content may be a text, a list of parts, or null beside a thought; a server may stream although it was asked not to;
//! an error may come with status 200; a log-probability may be null or infinite; and a text may contain half of a
//! surrogate pair.

use crate::files::standard_json;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A reply with its first choice.
#[derive(Debug)]
pub(super) struct ChatReply {
    pub(super) prompt_token_ids: Option<Vec<u32>>,
    pub(super) choice: ChatChoice,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ChatChoice {
    #[serde(default)]
    pub(super) message: ChatContent,
    pub(super) finish_reason: Option<String>,
    /// vLLM: the stop text, or the id of an end-of-turn token.
    pub(super) stop_reason: Option<Value>,
    /// SGLang: the same.
    pub(super) matched_stop: Option<Value>,
    pub(super) logprobs: Option<ChoiceLogprobs>,
    pub(super) token_ids: Option<Vec<u32>>,
    error: Option<Value>,
    /// Of a stream.
    delta: Option<ChatContent>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ChatContent {
    #[serde(default, deserialize_with = "text_of_parts")]
    pub(super) content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<Value>>,
}

impl ChatContent {
    /// The thought that the server separated from the content.
    pub(super) fn thought(&self) -> Option<&str> {
        [&self.reasoning_content, &self.reasoning]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .find(|thought| !thought.is_empty())
    }

    /// Whether the model called a tool in place of writing.
    pub(super) fn is_tool_call(&self) -> bool {
        self.tool_calls
            .as_ref()
            .is_some_and(|calls| !calls.is_empty())
    }

    /// Adds a piece of a stream.
    fn extend(&mut self, piece: Self) {
        for (own, more) in [
            (&mut self.content, piece.content),
            (&mut self.reasoning_content, piece.reasoning_content),
            (&mut self.reasoning, piece.reasoning),
        ] {
            if let Some(more) = more {
                own.get_or_insert_default().push_str(&more);
            }
        }
        self.tool_calls = self.tool_calls.take().or(piece.tool_calls);
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ChoiceLogprobs {
    pub(super) content: Option<Vec<TokenLogprob>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenLogprob {
    /// `None` if it is not a finite number.
    #[serde(default, deserialize_with = "finite")]
    pub(super) logprob: Option<f32>,
}

/// Why a body is no completion.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// It is an error that came with a status of success. `status` is the one in the body, or 502.
    Error { status: u16, message: String },
    /// It is something else, for this reason.
    Other(String),
}

#[derive(Deserialize)]
struct ChatReplyBody {
    #[serde(default)]
    choices: Vec<ChatChoice>,
    prompt_token_ids: Option<Vec<u32>>,
    error: Option<Value>,
}

impl ChatReply {
    /// Parses the body of a reply.
    ///
    /// # Errors
    /// If the body is not a chat completion.
    pub(super) fn parse(text: &str) -> Result<Self, BodyFault> {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let mut body = if ["data:", "event:", ":"]
            .iter()
            .any(|start| text.starts_with(start))
        {
            streamed(text)?
        } else {
            parsed(text)?
        };
        if let Some(error) = body.error.filter(|error| !error.is_null()) {
            return Err(error_in(&error));
        }
        if body.choices.is_empty() {
            return Err(BodyFault::Other("no choices".into()));
        }
        let choice = body.choices.swap_remove(0);
        match &choice.error {
            Some(error) if !error.is_null() => return Err(error_in(error)),
            _ if choice.finish_reason.as_deref() == Some("error") => {
                return Err(error_in(&Value::from("finish_reason is \"error\"")));
            }
            _ => {}
        }
        Ok(Self {
            prompt_token_ids: body.prompt_token_ids,
            choice,
        })
    }
}

fn parsed(text: &str) -> Result<ChatReplyBody, BodyFault> {
    let text = whole_pairs(text);
    serde_json::from_slice(&standard_json(text.as_bytes()))
        .map_err(|error| BodyFault::Other(error.to_string()))
}

/// Joins the pieces of a stream of events.
fn streamed(text: &str) -> Result<ChatReplyBody, BodyFault> {
    let mut whole = ChatReplyBody {
        choices: Vec::new(),
        prompt_token_ids: None,
        error: None,
    };
    let mut choice = ChatChoice::default();
    let mut pieces = 0;
    let lines = text.lines().filter_map(|line| line.strip_prefix("data:"));
    for line in lines
        .map(str::trim)
        .filter(|line| !line.is_empty() && *line != "[DONE]")
    {
        let piece = parsed(line)?;
        whole.error = whole.error.or(piece.error);
        whole.prompt_token_ids = whole.prompt_token_ids.or(piece.prompt_token_ids);
        for piece in piece.choices.into_iter().take(1) {
            pieces += 1;
            choice.message.extend(piece.delta.unwrap_or(piece.message));
            choice.finish_reason = piece.finish_reason.or(choice.finish_reason);
            choice.stop_reason = piece.stop_reason.or(choice.stop_reason);
            choice.matched_stop = piece.matched_stop.or(choice.matched_stop);
            choice.error = piece.error.or(choice.error);
            if let Some(tokens) = piece.token_ids {
                choice.token_ids.get_or_insert_default().extend(tokens);
            }
            if let Some(logprobs) = piece.logprobs.and_then(|logprobs| logprobs.content) {
                let all = choice.logprobs.get_or_insert_default();
                all.content.get_or_insert_default().extend(logprobs);
            }
        }
    }
    if pieces > 0 && choice.finish_reason.is_none() && choice.error.is_none() {
        return Err(BodyFault::Other(
            "the stream ends without a finish_reason".into(),
        ));
    }
    whole.choices.extend((pieces > 0).then_some(choice));
    Ok(whole)
}

/// An error in the body of a reply.
fn error_in(error: &Value) -> BodyFault {
    let code = &error["code"];
    let status = code.as_u64().or_else(|| code.as_str()?.parse().ok());
    let message = error["message"].as_str().or(error.as_str());
    BodyFault::Error {
        status: status
            .and_then(|status| u16::try_from(status).ok())
            .unwrap_or(502),
        message: message.map_or_else(|| error.to_string(), str::to_owned),
    }
}

/// JSON in which every half of a surrogate pair that stands alone is the replacement character.
fn whole_pairs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find('\\') {
        out.push_str(&rest[..place]);
        rest = &rest[place..];
        let (length, replaced) = match (escaped(rest), rest.get(6..).and_then(escaped)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (12, false),
            (Some(0xD800..=0xDFFF), _) => (6, true),
            (Some(_), _) => (6, false),
            (None, _) => (rest.chars().take(2).map(char::len_utf8).sum(), false),
        };
        out.push_str(if replaced { "\\ufffd" } else { &rest[..length] });
        rest = &rest[length..];
    }
    out + rest
}

/// The number of an escape such as `\ud83d` at the beginning of a text.
fn escaped(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

/// A content: a text, or the texts of a list of parts.
fn text_of_parts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text),
        Value::Array(parts) => Some(
            parts
                .iter()
                .filter_map(|part| part["text"].as_str().or(part.as_str()))
                .collect(),
        ),
        _ => None,
    })
}

fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
    let number = Value::deserialize(deserializer)?.as_f64();
    Ok(number
        .map(|number| number as f32)
        .filter(|number| number.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(body: &str) -> (Option<String>, Option<String>) {
        let ChatReply { choice, .. } = ChatReply::parse(body).unwrap();
        let thought = choice.message.thought().map(str::to_owned);
        (choice.message.content, thought)
    }

    #[test]
    fn every_form_of_a_content_is_read() {
        for (message, expected) in [
            (r#"{"content": "look"}"#, (Some("look"), None)),
            (
                r#"{"content": [{"type": "text", "text": "lo"}, {"type": "text", "text": "ok"}]}"#,
                (Some("look"), None),
            ),
            (
                r#"{"content": null, "reasoning_content": "Hm", "tool_calls": []}"#,
                (None, Some("Hm")),
            ),
            (
                r#"{"content": "look", "reasoning": "Hm", "reasoning_content": ""}"#,
                (Some("look"), Some("Hm")),
            ),
            (
                r#"{"content": "look \ud83d"}"#,
                (Some("look \u{fffd}"), None),
            ),
            (
                r#"{"content": "\ud83d\ude42 \\ud83d"}"#,
                (Some("\u{1f642} \\ud83d"), None),
            ),
        ] {
            let body = format!("\u{feff}{{\"choices\": [{{\"message\": {message}}}]}}");
            let (text, thought) = content(&body);
            assert_eq!((text.as_deref(), thought.as_deref()), expected, "{message}");
        }
    }

    #[test]
    fn a_stream_is_joined() {
        let body = "data: {\"choices\": [{\"delta\": {\"role\": \"assistant\"}}]}\n\n\
                    data: {\"choices\": [{\"delta\": {\"content\": \"lo\"}}]}\n\n\
                    data: {\"choices\": [{\"delta\": {\"content\": \"ok\"}, \"finish_reason\": \"stop\"}]}\n\ndata: [DONE]\n";
        let reply = ChatReply::parse(body).unwrap();
        assert_eq!(reply.choice.message.content.as_deref(), Some("look"));
        assert_eq!(reply.choice.finish_reason.as_deref(), Some("stop"));
        let commented = format!(": processing\n\n{body}");
        assert!(ChatReply::parse(&commented).is_ok());
        let cut = body.split("\"finish_reason\"").next().unwrap();
        let cut = &cut[..cut.rfind("data:").unwrap()];
        for (text, why) in [(cut, "finish_reason"), ("data: [DONE]", "no choices")] {
            let fault = ChatReply::parse(text).unwrap_err();
            assert!(
                matches!(&fault, BodyFault::Other(reason) if reason.contains(why)),
                "{fault:?}"
            );
        }
    }

    #[test]
    fn a_log_probability_that_is_no_number_is_absent() {
        let body = r#"{"choices": [{"logprobs": {"content": [{"logprob": null}, {"logprob": -Infinity}, {"logprob": -0.5}]}}]}"#;
        let logprobs = ChatReply::parse(body).unwrap().choice.logprobs.unwrap();
        let found: Vec<_> = logprobs
            .content
            .unwrap()
            .iter()
            .map(|one| one.logprob)
            .collect();
        assert_eq!(found, [None, None, Some(-0.5)]);
    }

    #[test]
    fn an_error_inside_a_reply_is_found() {
        let error = |status, message: &str| BodyFault::Error {
            status,
            message: message.into(),
        };
        for (body, expected) in [
            (
                r#"{"error": {"message": "slow down", "code": 429}}"#,
                error(429, "slow down"),
            ),
            (r#"{"error": "broken"}"#, error(502, "broken")),
            (
                r#"{"choices": [{"finish_reason": "error", "error": {"code": 503, "message": "down"}}]}"#,
                error(503, "down"),
            ),
            (
                r#"{"choices": [{"finish_reason": "error"}]}"#,
                error(502, "finish_reason is \"error\""),
            ),
            (r#"{"choices": []}"#, BodyFault::Other("no choices".into())),
        ] {
            assert_eq!(ChatReply::parse(body).unwrap_err(), expected, "{body}");
        }
        assert!(matches!(
            ChatReply::parse("<html>"),
            Err(BodyFault::Other(_))
        ));
    }

    #[test]
    fn a_damaged_body_never_panics() {
        let seed = r#"{"choices": [{"message": {"content": "ü\ud83d\ude42", "reasoning": null}, "logprobs": {"content": [{"logprob": NaN}]}}]}"#;
        let mut state = 7_u64;
        for round in 0..3000 {
            let mut bytes = seed.as_bytes().to_vec();
            for _ in 0..3 {
                state = scenarios::seed::spread(state, 1);
                let place = state as usize % bytes.len();
                bytes[place] = b"{}[]\",:\\ \nuN\xc3"[(state >> 32) as usize % 13];
            }
            let text = String::from_utf8_lossy(&bytes);
            let _ = ChatReply::parse(&text);
            if round % 3 == 0 {
                let _ = ChatReply::parse(&format!("data: {text}\ndata: [DONE]"));
            }
        }
    }
}
