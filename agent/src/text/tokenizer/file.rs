//! `tokenizer.json`: read here, and handed to the library piece by piece.
//!
//! The library trusts its files. It panics on merges that are longer than any token, on prefixes and on lengths of 0,
//! fills memory to pad a text, and holds a file many times over while it reads it. So the file is read into plain types
//! here, what the library cannot bear is refused by name, and only what was checked reaches it. What it reads: BPE over
//! bytes or with fallback to bytes, as all families of [`crate::model::config`] have it.
//!
//! Truncation, padding and what stands around a text (`post_processor`) are not for episodes and are left out.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt::{Display, Formatter};
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

/// Most tokens, and most merges; the largest vocabularies in use have 0.26 and 0.6 million.
const MOST_TOKENS: usize = 1 << 19;
const MOST_MERGES: usize = 1 << 20;
/// Largest id of a token.
const LARGEST_ID: u32 = 1 << 24;
/// Most bytes of a token that is matched in the raw text, and of all of them: the automaton that finds them takes sixty
/// times as much to build. The most in use, 28 thousand sounds, have half of it.
const LONGEST_ADDED: usize = 256;
const MOST_ADDED_BYTES: usize = 1 << 20;
/// Most values in the settings of a normalizer, a pre-tokenizer or a decoder; those in use have some twenty.
const MOST_VALUES: usize = 256;
/// Most regular expressions, and most bytes of all together.
const MOST_PATTERNS: usize = 8;
const LONGEST_PATTERNS: usize = 2048;
/// Largest product of all `{1,3}` in these patterns: a pattern is compiled as often as it is repeated.
const MOST_REPEATED: u64 = 256;
/// Most parts that make a text longer; each may double it.
const MOST_GROWING: usize = 4;
/// Most bytes that are put before a text.
const LONGEST_PREFIX: usize = 16;

/// A tokenizer as the library holds it, and the largest id of its tokens.
pub(super) struct Opened {
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) largest_id: u32,
}

/// Reads the text of a `tokenizer.json`.
pub(super) fn open(json: &[u8]) -> Result<Opened, String> {
    let File {
        version,
        normalizer,
        pre_tokenizer,
        decoder,
        model,
        added_tokens,
    } = serde_json::from_slice(json).map_err(said)?;
    if let Some(version) = version.filter(|version| version != "1.0") {
        return Err(format!("version {version:?}; 1.0 is read"));
    }
    let mut bounds = Bounds {
        patterns: MOST_PATTERNS,
        length: LONGEST_PATTERNS,
        repeated: 1,
        growing: MOST_GROWING,
    };
    each_part(
        "normalizer",
        "normalizers",
        normalizer.as_ref(),
        &mut |kind, part| bounds.normalizer(kind, part),
    )?;
    each_part(
        "pre_tokenizer",
        "pretokenizers",
        pre_tokenizer.as_ref(),
        &mut |kind, part| bounds.pre_tokenizer(kind, part),
    )?;
    each_part("decoder", "decoders", decoder.as_ref(), &mut check_decoder)?;
    let mut largest_id = model.vocab.values().copied().max().unwrap_or(0);
    let mut inner = tokenizers::Tokenizer::new(model.build()?);
    inner
        .with_normalizer(part::<NormalizerWrapper>("normalizer", normalizer)?)
        .map_err(said)?;
    inner.with_pre_tokenizer(part::<PreTokenizerWrapper>("pre_tokenizer", pre_tokenizer)?);
    inner.with_decoder(part::<DecoderWrapper>("decoder", decoder)?);
    let added = added_tokens.unwrap_or_default();
    check_added(&added)?;
    inner
        .add_tokens(added.iter().map(Added::token))
        .map_err(said)?;
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
    Ok(Opened { inner, largest_id })
}

fn said(error: impl Display) -> String {
    error.to_string()
}

/// The file as far as it is used.
#[derive(Deserialize)]
struct File {
    version: Option<String>,
    normalizer: Option<Tree>,
    pre_tokenizer: Option<Tree>,
    decoder: Option<Tree>,
    model: Model,
    added_tokens: Option<Vec<Added>>,
}

#[derive(Deserialize)]
struct Model {
    /// Missing in old files.
    #[serde(rename = "type")]
    _kind: Option<Kind>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Merges,
}

#[derive(Deserialize)]
enum Kind {
    #[serde(rename = "BPE")]
    Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl Added {
    fn token(&self) -> AddedToken {
        let token = AddedToken::from(self.content.clone(), self.special);
        token
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

fn check_added(added: &[Added]) -> Result<(), String> {
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
        Some(Added { id, content, .. }) => {
            let allowed = format!("1 to {LONGEST_ADDED} bytes and ids to {LARGEST_ID} are allowed");
            Err(format!(
                "added token {id} has {} bytes; {allowed}",
                content.len()
            ))
        }
        None => Ok(()),
    }
}

impl Model {
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
        builder.build().map_err(said)
    }

    fn check(&self) -> Result<(), String> {
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err("dropout is not supported: a text has one list of ids".into());
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
struct Merges(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Merges {
    type Value = Self;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self, A::Error> {
        while let Some(Merge(pair)) = list.next_element()? {
            if self.0.len() == MOST_MERGES {
                return Err(A::Error::custom(format!("more than {MOST_MERGES} merges")));
            }
            self.0.extend(pair);
        }
        Ok(self)
    }
}

/// `None` for the line that tells the version of old lists.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self(None))
    }
}

impl<'de> Visitor<'de> for Merge {
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
        let (left, right) = (list.next_element()?, list.next_element()?);
        match (left, right, list.next_element::<String>()?) {
            (Some(left), Some(right), None) => Ok(Self(Some((left, right)))),
            _ => Err(A::Error::invalid_length(0, &self)),
        }
    }
}

/// A small JSON value in which no key stands twice.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut left = MOST_VALUES;
        Branch(&mut left).deserialize(deserializer).map(Self)
    }
}

/// One value of a [`Tree`], and how many more there may be.
struct Branch<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for Branch<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.0 = self
            .0
            .checked_sub(1)
            .ok_or_else(|| D::Error::custom(format!("more than {MOST_VALUES} settings")))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Branch<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Branch(&mut *self.0))? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Branch(&mut *self.0))?;
            if values.contains_key(&key) {
                return Err(A::Error::custom(format!("{key:?} stands twice")));
            }
            values.insert(key, value);
        }
        Ok(values.into())
    }
}

/// Makes a part of a checked tree.
fn part<P: serde::de::DeserializeOwned>(
    what: &str,
    tree: Option<Tree>,
) -> Result<Option<P>, String> {
    tree.map(|tree| serde_json::from_value(tree.0).map_err(|error| format!("{what}: {error}")))
        .transpose()
}

type Check<'c> = dyn FnMut(&str, &Value) -> Result<(), String> + 'c;

/// Asks about a part, or about each in a sequence of them.
fn each_part(
    what: &str,
    list: &str,
    tree: Option<&Tree>,
    check: &mut Check<'_>,
) -> Result<(), String> {
    fn walk(list: &str, part: &Value, check: &mut Check<'_>) -> Result<(), String> {
        match part["type"].as_str() {
            None => Err("its type is missing".into()),
            Some("Sequence") => {
                let parts = part[list]
                    .as_array()
                    .ok_or_else(|| format!("a sequence without {list}"))?;
                parts.iter().try_for_each(|part| walk(list, part, check))
            }
            Some(kind) => check(kind, part),
        }
    }
    tree.map_or(Ok(()), |tree| {
        walk(list, &tree.0, check).map_err(|reason| format!("{what}: {reason}"))
    })
}

/// What regular expressions and growing texts may still cost.
struct Bounds {
    patterns: usize,
    length: usize,
    repeated: u64,
    growing: usize,
}

impl Bounds {
    fn normalizer(&mut self, kind: &str, part: &Value) -> Result<(), String> {
        match kind {
            "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "Nmt" | "Strip" | "StripAccents" => {
                Ok(())
            }
            "ByteLevel" => self.grow(),
            "Prepend" => {
                self.grow()?;
                // With nothing to put there, the library loses its place in the text.
                match part["prepend"].as_str().map_or(0, str::len) {
                    1..=LONGEST_PREFIX => Ok(()),
                    length => Err(format!(
                        "Prepend has {length} bytes, 1 to {LONGEST_PREFIX} are allowed"
                    )),
                }
            }
            "Replace" => match (&part["pattern"]["String"], &part["pattern"]["Regex"]) {
                (Value::String(pattern), Value::Null) => shrinks(pattern, part),
                (Value::Null, Value::String(pattern)) => {
                    self.pattern(pattern)?;
                    self.grow()?;
                    // What matches nothing, it puts between all letters.
                    shrinks("x", part)
                }
                _ => Err("Replace without a pattern".into()),
            },
            other => Err(format!("{other:?} is not read")),
        }
    }

    fn pre_tokenizer(&mut self, kind: &str, part: &Value) -> Result<(), String> {
        match kind {
            "Digits" | "Punctuation" | "Whitespace" | "WhitespaceSplit" => Ok(()),
            "ByteLevel" | "Metaspace" => self.grow(),
            "Split" => match (&part["pattern"]["String"], &part["pattern"]["Regex"]) {
                (Value::String(pattern), Value::Null) | (Value::Null, Value::String(pattern)) => {
                    self.pattern(pattern)
                }
                _ => Err("Split without a pattern".into()),
            },
            other => Err(format!("{other:?} is not read")),
        }
    }

    fn grow(&mut self) -> Result<(), String> {
        let left = self.growing.checked_sub(1);
        self.growing =
            left.ok_or_else(|| format!("more than {MOST_GROWING} parts that make a text longer"))?;
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        let left = self.patterns.checked_sub(1);
        self.patterns = left.ok_or_else(|| format!("more than {MOST_PATTERNS} patterns"))?;
        let left = self.length.checked_sub(pattern.len());
        self.length =
            left.ok_or_else(|| format!("patterns of more than {LONGEST_PATTERNS} bytes"))?;
        self.repeated = counts(pattern).fold(self.repeated, u64::saturating_mul);
        if self.repeated > MOST_REPEATED {
            return Err(format!(
                "pattern {pattern:?} repeats too much: {MOST_REPEATED} times are allowed"
            ));
        }
        Ok(())
    }
}

/// The counts of a pattern's `{3}` and `{1,3}`; those of letters by number, `\x{3000}`, are none.
fn counts(pattern: &str) -> impl Iterator<Item = u64> {
    pattern.match_indices('{').filter_map(|(place, _)| {
        let by_number = [r"\x", r"\u", r"\U"]
            .iter()
            .any(|start| pattern[..place].ends_with(start));
        let (inside, _) = pattern[place + 1..].split_once('}')?;
        let parts = inside
            .split(',')
            .map(str::trim)
            .filter(|part| part.starts_with(|c: char| c.is_ascii_digit()));
        // More digits than a number has are many.
        parts
            .map(|part| part.parse().unwrap_or(u64::MAX))
            .max()
            .filter(|_| !by_number)
    })
}

/// Whether a replacement leaves a text as long as it was, or shorter.
fn shrinks(pattern: &str, part: &Value) -> Result<(), String> {
    let content = part["content"].as_str().unwrap_or_default();
    if pattern.is_empty()
        || pattern.len() > LONGEST_PATTERNS
        || content.chars().count() > pattern.chars().count()
    {
        return Err(format!("Replace by {content:?} makes a text longer"));
    }
    Ok(())
}

fn check_decoder(kind: &str, part: &Value) -> Result<(), String> {
    match kind {
        "ByteLevel" | "ByteFallback" | "Fuse" | "Metaspace" => Ok(()),
        "Replace" => match part["pattern"]["String"].as_str() {
            Some(pattern) => shrinks(pattern, part),
            None => Err("Replace without a text to replace".into()),
        },
        // It counts below 0 where a token is shorter than what is to be cut.
        "Strip" if part["stop"] != 0 => Err("Strip at the end is not supported".into()),
        "Strip" => Ok(()),
        other => Err(format!("{other:?} is not read")),
    }
}
