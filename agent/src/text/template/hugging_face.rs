//! `tokenizer_config.json`, as far as chat templates need it.
//!
//! [`TemplateSource`] and [`TokenText`] have visitors of their own. If serde derived them as enums
//! without tags, it would first hold whatever value the file has, at many times its size.

use super::message::SpecialTokens;
use crate::files;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt::Formatter;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenizerConfigJson {
    chat_template: Option<TemplateSource>,
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    unk_token: Option<TokenText>,
    pad_token: Option<TokenText>,
    added_tokens_decoder: BTreeMap<String, ConfigAddedToken>,
}

impl TokenizerConfigJson {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let json = files::standard_json(text.as_bytes());
        serde_json::from_slice(&json).map_err(|error| error.to_string())
    }

    /// Adds the special tokens of `special_tokens_map.json` that this file does not name.
    pub(super) fn add_special(&mut self, map: Self) {
        for (own, other) in [
            (&mut self.bos_token, map.bos_token),
            (&mut self.eos_token, map.eos_token),
            (&mut self.unk_token, map.unk_token),
            (&mut self.pad_token, map.pad_token),
        ] {
            if own.is_none() {
                *own = other;
            }
        }
    }

    /// The texts of the special tokens.
    pub(super) fn special_tokens(&self) -> SpecialTokens {
        SpecialTokens {
            bos: self.bos_token.as_ref().map(TokenText::text),
            eos: self.eos_token.as_ref().map(TokenText::text),
            unk: self.unk_token.as_ref().map(TokenText::text),
            pad: self.pad_token.as_ref().map(TokenText::text),
            others: self
                .added_tokens_decoder
                .values()
                .filter(|token| token.special)
                .map(|token| token.content.clone())
                .collect(),
        }
    }

    /// Takes out the chat template, or the one named `default` if there are several; an error if
    /// none of several has that name.
    pub(super) fn take_default_template(&mut self) -> Result<Option<String>, String> {
        let all = match self.chat_template.take() {
            None => return Ok(None),
            Some(TemplateSource::One(source)) => return Ok(Some(source)),
            Some(TemplateSource::Named(all)) => all,
        };
        let names: Vec<_> = all.iter().map(|one| one.name.clone()).collect();
        match all.into_iter().find(|one| one.name == "default") {
            Some(default) => Ok(Some(default.template)),
            None => Err(format!(
                "no chat template is named `default`, only {}\nhint: write one of them to a file, and give it as `--template FILE`",
                names.join(", ")
            )),
        }
    }
}

enum TemplateSource {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

enum TokenText {
    Plain(String),
    Added(ConfigAddedToken),
}

#[derive(Deserialize)]
struct ConfigAddedToken {
    content: String,
    #[serde(default)]
    special: bool,
}

impl TokenText {
    fn text(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Added(token) => token.content.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for TemplateSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TemplateSourceVisitor)
    }
}

struct TemplateSourceVisitor;

impl<'de> Visitor<'de> for TemplateSourceVisitor {
    type Value = TemplateSource;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("a chat template, or several by name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TemplateSource, E> {
        Ok(TemplateSource::One(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TemplateSource, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(TemplateSource::Named)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TemplateSource, A::Error> {
        let all: BTreeMap<String, String> =
            Deserialize::deserialize(MapAccessDeserializer::new(map))?;
        let named = |(name, template)| NamedTemplate { name, template };
        Ok(TemplateSource::Named(all.into_iter().map(named).collect()))
    }
}

impl<'de> Deserialize<'de> for TokenText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenTextVisitor)
    }
}

struct TokenTextVisitor;

impl<'de> Visitor<'de> for TokenTextVisitor {
    type Value = TokenText;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("a token's text, or a token")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TokenText, E> {
        Ok(TokenText::Plain(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TokenText, A::Error> {
        ConfigAddedToken::deserialize(MapAccessDeserializer::new(map)).map(TokenText::Added)
    }
}
