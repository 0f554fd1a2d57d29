//! Reads and checks `tokenizer.json`, then gives it to the library piece by piece.
//!
//! The library trusts its files. It panics if merges are longer than any token, or if prefixes or
//! lengths are 0; it fills memory to pad a text; and it needs many times the size of a file to read
//! it. So the file is first read into plain types. If a part would make the library panic or grow,
//! it is refused by name, and only checked parts reach the library. Supported is BPE over bytes or
//! with fallback to bytes, as all families of [`crate::model::config`] have it.
//!
//! Truncation, padding and what is put around a text (`post_processor`) are ignored, because
//! episodes do not use them.

use super::growth::{GrowthBounds, check_decoder};
use super::settings::SettingsTree;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::fmt::{Display, Formatter};
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

/// Most tokens, and most merges. The largest vocabularies in use have 0.26 and 0.6 million.
const MOST_TOKENS: usize = 1 << 19;
const MOST_MERGES: usize = 1 << 20;
/// Largest id of a token.
const LARGEST_ID: u32 = 1 << 24;
/// Most bytes of an added token, which is matched in the raw text, and of all of them. The automaton
/// that finds them takes sixty times as much memory to build. The most in use, 28 thousand sounds,
/// have half of it.
const LONGEST_ADDED: usize = 256;
const MOST_ADDED_BYTES: usize = 1 << 20;

/// The library's tokenizer, and the largest id of its tokens.
pub(super) struct CheckedTokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) largest_id: u32,
}

/// Reads the content of a `tokenizer.json`.
pub(super) fn open(json: &[u8]) -> Result<CheckedTokenizer, String> {
    let file: TokenizerJson = serde_json::from_slice(json).map_err(reason)?;
    if let Some(version) = file.version.as_ref().filter(|version| *version != "1.0") {
        return Err(format!("version {version:?}; 1.0 is supported"));
    }
    file.check_parts()?;
    let mut largest_id = file.model.vocab.values().copied().max().unwrap_or(0);
    let mut inner = tokenizers::Tokenizer::new(file.model.build()?);
    let normalizer: Option<NormalizerWrapper> = built(file.normalizer, "normalizer")?;
    inner.with_normalizer(normalizer).map_err(reason)?;
    let pre_tokenizer: Option<PreTokenizerWrapper> = built(file.pre_tokenizer, "pre_tokenizer")?;
    inner.with_pre_tokenizer(pre_tokenizer);
    let decoder: Option<DecoderWrapper> = built(file.decoder, "decoder")?;
    inner.with_decoder(decoder);
    let added = file.added_tokens.unwrap_or_default();
    check_added(&added)?;
    inner
        .add_tokens(added.iter().map(AddedTokenJson::token))
        .map_err(reason)?;
    for token in &added {
        let id = inner.token_to_id(&token.content).unwrap_or(token.id);
        if id != token.id {
            return Err(format!(
                "added token {:?} has the id {id}, not {}",
                token.content, token.id
            ));
        }
        largest_id = largest_id.max(id);
    }
    Ok(CheckedTokenizer { inner, largest_id })
}

fn built<P: serde::de::DeserializeOwned>(
    tree: Option<SettingsTree>,
    what: &str,
) -> Result<Option<P>, String> {
    tree.map(|tree| tree.build(what)).transpose()
}

fn reason(error: impl Display) -> String {
    error.to_string()
}

/// The parts of the file that are used.
#[derive(Deserialize)]
struct TokenizerJson {
    version: Option<String>,
    normalizer: Option<SettingsTree>,
    pre_tokenizer: Option<SettingsTree>,
    decoder: Option<SettingsTree>,
    model: BpeJson,
    added_tokens: Option<Vec<AddedTokenJson>>,
}

impl TokenizerJson {
    fn check_parts(&self) -> Result<(), String> {
        let mut bounds = GrowthBounds::new();
        if let Some(tree) = &self.normalizer {
            tree.check_parts("normalizer", "normalizers", &mut |kind, part| {
                bounds.normalizer(kind, part)
            })?;
        }
        if let Some(tree) = &self.pre_tokenizer {
            tree.check_parts("pre_tokenizer", "pretokenizers", &mut |kind, part| {
                bounds.pre_tokenizer(kind, part)
            })?;
        }
        if let Some(tree) = &self.decoder {
            tree.check_parts("decoder", "decoders", &mut check_decoder)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct BpeJson {
    /// Missing in old files.
    #[serde(rename = "type")]
    _kind: Option<BpeType>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: MergeList,
}

#[derive(Deserialize)]
enum BpeType {
    #[serde(rename = "BPE")]
    Bpe,
}

#[derive(Deserialize)]
struct AddedTokenJson {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl AddedTokenJson {
    fn token(&self) -> AddedToken {
        let token = AddedToken::from(self.content.clone(), self.special);
        token
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

fn check_added(added: &[AddedTokenJson]) -> Result<(), String> {
    let bytes: usize = added.iter().map(|token| token.content.len()).sum();
    if bytes > MOST_ADDED_BYTES {
        return Err(format!(
            "added tokens of {bytes} bytes, {MOST_ADDED_BYTES} are allowed"
        ));
    }
    match added
        .iter()
        .find(|token| !(1..=LONGEST_ADDED).contains(&token.content.len()) || token.id > LARGEST_ID)
    {
        Some(AddedTokenJson { id, content, .. }) => {
            let allowed = format!("1 to {LONGEST_ADDED} bytes and ids to {LARGEST_ID} are allowed");
            Err(format!(
                "added token {id} has {} bytes; {allowed}",
                content.len()
            ))
        }
        None => Ok(()),
    }
}

impl BpeJson {
    fn build(self) -> Result<BPE, String> {
        self.check()?;
        let mut builder = BpeBuilder::new()
            .vocab_and_merges(self.vocab, self.merges.0)
            .fuse_unk(self.fuse_unk.unwrap_or(false))
            .byte_fallback(self.byte_fallback.unwrap_or(false))
            .ignore_merges(self.ignore_merges.unwrap_or(false));
        if let Some(unknown) = self.unk_token {
            builder = builder.unk_token(unknown);
        }
        builder.build().map_err(reason)
    }

    fn check(&self) -> Result<(), String> {
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err("dropout is not supported: a text must always have the same ids".into());
        }
        for (affix, name) in [
            (&self.continuing_subword_prefix, "continuing_subword_prefix"),
            (&self.end_of_word_suffix, "end_of_word_suffix"),
        ] {
            if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
                return Err(format!("{name} {affix:?} is not supported"));
            }
        }
        if self.vocab.len() > MOST_TOKENS {
            return Err(format!(
                "{} tokens, {MOST_TOKENS} are allowed",
                self.vocab.len()
            ));
        }
        if let Some((token, id)) = self.vocab.iter().find(|(_, id)| **id > LARGEST_ID) {
            return Err(format!(
                "token {token:?} has the id {id}, {LARGEST_ID} is the largest allowed"
            ));
        }
        if let Some(unknown) = self
            .unk_token
            .as_ref()
            .filter(|unknown| !self.vocab.contains_key(*unknown))
        {
            return Err(format!("unk_token {unknown:?} is not in the vocabulary"));
        }
        let mut whole = String::new();
        for (index, (left, right)) in self.merges.0.iter().enumerate() {
            whole.clear();
            whole.extend([left.as_str(), right]);
            if ![left, right, &whole]
                .into_iter()
                .all(|token| self.vocab.contains_key(token))
            {
                return Err(format!(
                    "merge {index}, {left:?} and {right:?}, does not make a token of two"
                ));
            }
        }
        Ok(())
    }
}

/// Pairs of tokens, written as `["a", "b"]` or `"a b"`.
struct MergeList(Vec<(String, String)>);

impl<'de> Deserialize<'de> for MergeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for MergeList {
    type Value = Self;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self, A::Error> {
        while let Some(MergeEntry(pair)) = list.next_element()? {
            if self.0.len() == MOST_MERGES {
                return Err(A::Error::custom(format!("more than {MOST_MERGES} merges")));
            }
            self.0.extend(pair);
        }
        Ok(self)
    }
}

/// `None` for the line with the version in old lists.
struct MergeEntry(Option<(String, String)>);

impl<'de> Deserialize<'de> for MergeEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self(None))
    }
}

impl<'de> Visitor<'de> for MergeEntry {
    type Value = Self;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("a merge: two tokens, or a text with one blank between them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self, E> {
        match text.split_once(' ') {
            _ if text.starts_with("#version") => Ok(self),
            Some((left, right)) if !right.contains(' ') => {
                Ok(Self(Some((left.into(), right.into()))))
            }
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        let left = list.next_element()?;
        let right = list.next_element()?;
        match (left, right, list.next_element::<String>()?) {
            (Some(left), Some(right), None) => Ok(Self(Some((left, right)))),
            _ => Err(A::Error::invalid_length(0, &self)),
        }
    }
}
