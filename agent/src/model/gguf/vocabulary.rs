//! The vocabulary of a GGUF file: its tokens, what each is for, and the special tokens.

use super::file::GgufFile;
use super::metadata::MetadataNumber;
use crate::error::AgentError;
use serde_json::{Value, json};
use std::collections::{HashMap, hash_map::Entry};

/// Most tokens that are turned into JSON. The largest vocabularies in use have 0.26 million.
const MOST_TOKENS: usize = 1 << 19;

/// Ids of special tokens; `None` if the file does not name one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecialTokenIds {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Fills a batch.
    pub pad: Option<u32>,
    /// Replaces what the vocabulary lacks.
    pub unknown: Option<u32>,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// Tokens in the order of their ids, and their ids by text.
pub(super) struct GgufVocabulary<'a> {
    pub(super) tokens: &'a [String],
    kinds: Vec<TokenKind>,
    pub(super) ids: HashMap<&'a str, u32>,
}

impl<R> GgufFile<R> {
    /// The Jinja template that makes a text of a chat; `None` if the file has none.
    ///
    /// # Errors
    /// If it is not a text.
    pub fn chat_template(&self) -> Result<Option<&str>, AgentError> {
        self.text("tokenizer.chat_template")
    }

    /// Ids of the special tokens. If a vocabulary of the model `llama` does not name them, unknown
    /// is 0, bos is 1 and eos is 2.
    ///
    /// # Errors
    /// If an id is not a whole number, or is not in the vocabulary.
    pub fn special_tokens(&self) -> Result<SpecialTokenIds, AgentError> {
        Ok(SpecialTokenIds {
            bos: self.special_token("bos", Some(1))?,
            eos: self.special_token("eos", Some(2))?,
            eot: self.special_token("eot", None)?,
            pad: self.special_token("padding", None)?,
            unknown: self.special_token("unknown", Some(0))?,
        })
    }

    /// The id of one special token; `default` applies only if the vocabulary is SentencePiece.
    fn special_token(&self, name: &str, default: Option<u32>) -> Result<Option<u32>, AgentError> {
        let count = self.tokens()?.len();
        let is_sentencepiece = self.is_sentencepiece()?;
        let key = format!("tokenizer.ggml.{name}_token_id");
        match self.size(&key)? {
            None => Ok(default.filter(|_| is_sentencepiece)),
            Some(id) if id >= count => {
                Err(self.content(format!("metadata {key} is {id} of {count} tokens")))
            }
            Some(id) => Ok(u32::try_from(id).ok()),
        }
    }

    /// Whether the vocabulary is the BPE of SentencePiece, which GGUF calls `llama`.
    pub(super) fn is_sentencepiece(&self) -> Result<bool, AgentError> {
        Ok(self.text("tokenizer.ggml.model")? == Some("llama"))
    }

    /// The tokens in the order of their ids; empty if the file has none.
    ///
    /// # Errors
    /// If they are not texts.
    pub fn tokens(&self) -> Result<&[String], AgentError> {
        Ok(self.texts("tokenizer.ggml.tokens")?.unwrap_or_default())
    }

    pub(super) fn vocabulary(&self) -> Result<GgufVocabulary<'_>, AgentError> {
        let tokens = self
            .texts("tokenizer.ggml.tokens")?
            .ok_or_else(|| self.content("metadata tokenizer.ggml.tokens is missing"))?;
        let types = self
            .numbers("tokenizer.ggml.token_type")?
            .ok_or_else(|| self.content("metadata tokenizer.ggml.token_type is missing"))?;
        if tokens.len() > MOST_TOKENS || types.len() != tokens.len() {
            return Err(self.content(format!(
                "{} tokens ({MOST_TOKENS} are allowed) and {} token types",
                tokens.len(),
                types.len()
            )));
        }
        let kinds = types
            .iter()
            .enumerate()
            .map(|(id, number)| self.token_kind(id, number))
            .collect::<Result<_, _>>()?;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in (0..).zip(tokens) {
            match ids.entry(token.as_str()) {
                Entry::Vacant(entry) => entry.insert(id),
                Entry::Occupied(entry) => {
                    return Err(self.content(format!(
                        "tokens {} and {id} are both {token:?}",
                        entry.get()
                    )));
                }
            };
        }
        Ok(GgufVocabulary { tokens, kinds, ids })
    }

    fn token_kind(&self, id: usize, number: MetadataNumber) -> Result<TokenKind, AgentError> {
        let kind = number.integer().and_then(TokenKind::of);
        kind.ok_or_else(|| self.content(format!("token {id} has the unknown type {number:?}")))
    }
}

impl TokenKind {
    fn of(number: i64) -> Option<Self> {
        use TokenKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        let kinds = [Normal, Unknown, Control, UserDefined, Unused, Byte];
        kinds
            .get(usize::try_from(number.checked_sub(1)?).ok()?)
            .copied()
    }
}

impl GgufVocabulary<'_> {
    /// Whether a token can be merged from others, and others from it.
    pub(super) fn is_piece(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&TokenKind::Normal)
    }

    /// `added_tokens` of `tokenizer.json`: the tokens that are matched in the raw text.
    pub(super) fn added(&self) -> Value {
        (0_u32..)
            .zip(self.tokens.iter().zip(&self.kinds))
            .filter(|(_, (text, kind))| {
                !text.is_empty()
                    && matches!(
                        kind,
                        TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined
                    )
            })
            .map(|(id, (text, kind))| {
                json!({
                    "id": id,
                    "content": text,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind != TokenKind::UserDefined,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_files::{byte_level, pieces, text_value, u32_value};
    use super::*;

    #[test]
    fn special_tokens_come_from_the_file() {
        let given = byte_level()
            .set("tokenizer.ggml.eot_token_id", u32_value(259))
            .set("tokenizer.ggml.padding_token_id", u32_value(3))
            .set("tokenizer.chat_template", text_value("{{ messages }}"))
            .open();
        let expected = SpecialTokenIds {
            eos: Some(259),
            eot: Some(259),
            pad: Some(3),
            ..SpecialTokenIds::default()
        };
        assert_eq!(given.special_tokens().unwrap(), expected);
        assert_eq!(given.chat_template().unwrap(), Some("{{ messages }}"));
        assert_eq!(byte_level().open().chat_template().unwrap(), None);
        let pieces = pieces().open().special_tokens().unwrap();
        assert_eq!(
            (pieces.unknown, pieces.bos, pieces.eos),
            (Some(0), Some(1), Some(2))
        );
        let outside = byte_level()
            .set("tokenizer.ggml.eos_token_id", u32_value(261))
            .open()
            .special_tokens();
        let reason = "metadata tokenizer.ggml.eos_token_id is 261 of 261 tokens";
        assert!(outside.unwrap_err().to_string().ends_with(reason));
    }
}
