//! The vocabulary of a GGUF file as Hugging Face's `tokenizer.json`.
//!
//! `gpt2` is byte-level BPE: tokens and merges stand in the file, how text is cut beforehand is only named there.
//! `llama` is the BPE of SentencePiece: its merges are the ways to put a piece together from two others, best score
//! first, as transformers' `SentencePieceExtractor` finds them. Tokens for control and those that a user defined are matched
//! before all else. Knows nothing of chats.

use super::{GgufFile, MetadataValue, Number};
use crate::error::AgentError;
use serde_json::{Value, json};
use std::collections::{HashMap, hash_map::Entry};

/// Most tokens and most merges that are turned into JSON; the largest vocabularies in use have 0.26 and 0.6 million.
const MOST_TOKENS: usize = 1 << 19;
const MOST_MERGES: usize = 1 << 20;
/// Most bytes of a piece whose merges are looked for.
const LONGEST_PIECE: usize = 256;

/// What llama.cpp does for "default", one cut within the other; the second is that of GPT-2.
const DEFAULT_CUTS: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"\p{N}+",
    "[0-9][0-9][0-9]",
];
const LLAMA3_CUT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_CUT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Ids of tokens with a meaning of their own, where the file names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Fills a batch.
    pub pad: Option<u32>,
    /// Stands for what the vocabulary lacks.
    pub unknown: Option<u32>,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// Tokens in the order of their ids, and the way back.
struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
}

impl<R> GgufFile<R> {
    /// The template (Jinja) that makes a text of a chat.
    ///
    /// # Errors
    /// When it is not a text.
    pub fn chat_template(&self) -> Result<Option<&str>, AgentError> {
        self.text("tokenizer.chat_template")
    }

    /// Ids of the special tokens. `llama` vocabularies have the defaults unknown 0, bos 1, eos 2.
    ///
    /// # Errors
    /// When an id is no whole number, or not one of the vocabulary.
    pub fn special_tokens(&self) -> Result<SpecialTokens, AgentError> {
        let count = self.tokens()?.len();
        let sentencepiece = self.text("tokenizer.ggml.model")? == Some("llama");
        let id = |name: &str, default: Option<u32>| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match self.size(&key)? {
                None => Ok(default.filter(|_| sentencepiece)),
                Some(id) if id >= count => {
                    Err(self.content(format!("metadata {key} is {id} of {count} tokens")))
                }
                Some(id) => Ok(u32::try_from(id).ok()),
            }
        };
        Ok(SpecialTokens {
            bos: id("bos", Some(1))?,
            eos: id("eos", Some(2))?,
            eot: id("eot", None)?,
            pad: id("padding", None)?,
            unknown: id("unknown", Some(0))?,
        })
    }

    /// The tokens in the order of their ids; none where the file has none.
    ///
    /// # Errors
    /// When they are no texts.
    pub fn tokens(&self) -> Result<&[String], AgentError> {
        Ok(self.texts("tokenizer.ggml.tokens")?.unwrap_or_default())
    }

    /// The content of `tokenizer.json`, as [`tokenizers::Tokenizer::from_bytes`] reads it.
    ///
    /// # Errors
    /// When something needed is missing, has another type or does not fit the rest, or when the kind of vocabulary or
    /// its way to cut text is not one of those read here.
    pub fn tokenizer(&self) -> Result<Value, AgentError> {
        let vocabulary = self.vocabulary()?;
        let mut tokenizer = match self.text("tokenizer.ggml.model")? {
            Some("gpt2") => self.byte_level(&vocabulary)?,
            Some("llama") => self.sentencepiece(&vocabulary)?,
            Some(other) => {
                return Err(self.content(format!(
                    "tokenizer model {other:?}; gpt2 and llama are read"
                )));
            }
            None => return Err(self.content("metadata tokenizer.ggml.model is missing")),
        };
        tokenizer["version"] = json!("1.0");
        tokenizer["added_tokens"] = vocabulary.added();
        tokenizer["post_processor"] = self.frame(&vocabulary)?;
        Ok(tokenizer)
    }

    fn vocabulary(&self) -> Result<Vocabulary<'_>, AgentError> {
        let missing = |key: &str| self.content(format!("metadata tokenizer.ggml.{key} is missing"));
        let tokens = self
            .texts("tokenizer.ggml.tokens")?
            .ok_or_else(|| missing("tokens"))?;
        let types = self
            .numbers("tokenizer.ggml.token_type")?
            .ok_or_else(|| missing("token_type"))?;
        if tokens.len() > MOST_TOKENS || types.len() != tokens.len() {
            let reason = format!(
                "{} tokens ({MOST_TOKENS} are allowed) and {} token types",
                tokens.len(),
                types.len()
            );
            return Err(self.content(reason));
        }
        let kind = |(id, number): (usize, Number)| {
            let kind = number.integer().and_then(Kind::of);
            kind.ok_or_else(|| self.content(format!("token {id} has the unknown type {number:?}")))
        };
        let kinds = types
            .iter()
            .enumerate()
            .map(kind)
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
        Ok(Vocabulary { tokens, kinds, ids })
    }

    fn byte_level(&self, vocabulary: &Vocabulary) -> Result<Value, AgentError> {
        let Some(cut) = self.text("tokenizer.ggml.pre")? else {
            return Err(
                self.content("metadata tokenizer.ggml.pre is missing: how to cut text is unknown")
            );
        };
        let bytes = |cut: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cut});
        let split = |pattern: &str| {
            let pattern = json!({"Regex": pattern});
            json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
        };
        let cuts = match cut {
            "smollm" => vec![
                json!({"type": "Digits", "individual_digits": true}),
                bytes(true),
            ],
            "gpt-2" => vec![bytes(true)],
            "qwen2" | "deepseek-r1-qwen" => vec![split(QWEN2_CUT), bytes(false)],
            "llama-bpe" | "llama3" | "llama-v3" => vec![split(LLAMA3_CUT), bytes(false)],
            "default" => DEFAULT_CUTS
                .map(split)
                .into_iter()
                .chain([bytes(false)])
                .collect(),
            other => {
                let known = "smollm, gpt-2, qwen2, llama-bpe and default are read";
                return Err(self.content(format!("pre-tokenizer {other:?}; {known}")));
            }
        };
        let normalizer = if cut == "qwen2" {
            json!({"type": "NFC"})
        } else {
            Value::Null
        };
        Ok(json!({
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
            "model": {
                "type": "BPE",
                "ignore_merges": is_llama3(cut),
                "vocab": vocabulary.ids,
                "merges": self.merges(vocabulary)?,
            },
            "decoder": bytes(true),
        }))
    }

    /// The merges `"left right"` of a byte-level vocabulary, each made of tokens and making one.
    fn merges(&self, vocabulary: &Vocabulary) -> Result<Vec<[String; 2]>, AgentError> {
        let Some(merges) = self.texts("tokenizer.ggml.merges")? else {
            return Err(self.content("metadata tokenizer.ggml.merges is missing"));
        };
        if merges.len() > MOST_MERGES {
            return Err(self.content(format!(
                "{} merges, {MOST_MERGES} are allowed",
                merges.len()
            )));
        }
        let split = |(index, merge): (usize, &String)| {
            let pair = merge.split_once(' ').filter(|(left, right)| {
                let whole = [*left, *right].concat();
                [*left, *right, whole.as_str()]
                    .iter()
                    .all(|token| vocabulary.ids.contains_key(token))
            });
            match pair {
                Some((left, right)) => Ok([left.to_string(), right.to_string()]),
                None => Err(self.content(format!(
                    "merge {index}, {merge:?}, does not make a token of two"
                ))),
            }
        };
        merges.iter().enumerate().map(split).collect()
    }

    fn sentencepiece(&self, vocabulary: &Vocabulary) -> Result<Value, AgentError> {
        for key in [
            "tokenizer.ggml.remove_extra_whitespaces",
            "tokenizer.ggml.precompiled_charsmap",
        ] {
            match self.metadata.get(key) {
                None | Some(MetadataValue::Number(Number::Bool(false))) => {}
                Some(_) => return Err(self.content(format!("metadata {key} is not supported"))),
            }
        }
        let bytes_known = (0..=255_u8).all(|byte| {
            vocabulary
                .ids
                .contains_key(format!("<0x{byte:02X}>").as_str())
        });
        if !bytes_known {
            return Err(self.content("the vocabulary lacks some of the tokens <0x00> to <0xFF>"));
        }
        let prefix = self
            .flag("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true);
        let mut normalizers =
            vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self
            .special_tokens()?
            .unknown
            .and_then(|id| vocabulary.tokens.get(id as usize));
        Ok(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "model": {
                "type": "BPE",
                "unk_token": unknown,
                "fuse_unk": true,
                "byte_fallback": true,
                "vocab": vocabulary.ids,
                "merges": self.rebuilt_merges(vocabulary)?,
            },
            "decoder": {"type": "Sequence", "decoders": decoders},
        }))
    }

    /// For every piece all pairs of pieces that make it, best score first, then as transformers orders them: longer
    /// left part, longer right part, lower ids.
    fn rebuilt_merges<'a>(
        &self,
        vocabulary: &Vocabulary<'a>,
    ) -> Result<Vec<[&'a str; 2]>, AgentError> {
        let scores = self.scores(vocabulary)?;
        let piece = |text: &str| {
            vocabulary
                .ids
                .get(text)
                .copied()
                .filter(|id| vocabulary.is_piece(*id))
        };
        let mut merges = Vec::new();
        for (id, (&score, token)) in (0..).zip(scores.iter().zip(vocabulary.tokens)) {
            if !vocabulary.is_piece(id) {
                continue;
            }
            if token.len() > LONGEST_PIECE {
                return Err(self.content(format!(
                    "token {id} has {} bytes, {LONGEST_PIECE} are allowed",
                    token.len()
                )));
            }
            for (place, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(place);
                if let (Some(left_id), Some(right_id)) = (piece(left), piece(right)) {
                    merges.push((score, left, right, left_id, right_id));
                }
            }
            if merges.len() > MOST_MERGES {
                return Err(self.content(format!("more than {MOST_MERGES} ways to merge tokens")));
            }
        }
        merges.sort_by(
            |(score, left, right, left_id, right_id),
             (other, left2, right2, left_id2, right_id2)| {
                let lengths =
                    |left: &str, right: &str| (left.chars().count(), right.chars().count());
                (other.total_cmp(score))
                    .then_with(|| lengths(left2, right2).cmp(&lengths(left, right)))
                    .then((left_id, right_id).cmp(&(left_id2, right_id2)))
            },
        );
        Ok(merges
            .into_iter()
            .map(|(_, left, right, ..)| [left, right])
            .collect())
    }

    fn scores(&self, vocabulary: &Vocabulary) -> Result<Vec<f32>, AgentError> {
        let Some(scores) = self.numbers("tokenizer.ggml.scores")? else {
            return Err(self.content("metadata tokenizer.ggml.scores is missing"));
        };
        if scores.len() != vocabulary.tokens.len() {
            return Err(self.content(format!(
                "{} scores for {} tokens",
                scores.len(),
                vocabulary.tokens.len()
            )));
        }
        let score = |(id, score)| match score {
            Number::Single(score) if score.is_finite() => Ok(score),
            other => Err(self.content(format!("token {id} has the score {other:?}"))),
        };
        scores.iter().enumerate().map(score).collect()
    }

    /// The post-processor that puts bos before a text and eos behind it, where the file asks for them.
    fn frame(&self, vocabulary: &Vocabulary) -> Result<Value, AgentError> {
        let special = self.special_tokens()?;
        let sentencepiece = self.text("tokenizer.ggml.model")? == Some("llama");
        let bos_by_default =
            sentencepiece || self.text("tokenizer.ggml.pre")?.is_some_and(is_llama3);
        let wanted = |key: &str, default: bool, id: Option<u32>| {
            if !self
                .flag(&format!("tokenizer.ggml.{key}"))?
                .unwrap_or(default)
            {
                return Ok(None);
            }
            let token = id.and_then(|id| Some((id, vocabulary.tokens.get(id as usize)?)));
            token.map(Some).ok_or_else(|| {
                self.content(format!("tokenizer.ggml.{key}, but that token is not named"))
            })
        };
        let bos = wanted("add_bos_token", bos_by_default, special.bos)?;
        let eos = wanted("add_eos_token", false, special.eos)?;
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let place =
            |text: &str, type_id: u8| json!({"SpecialToken": {"id": text, "type_id": type_id}});
        let framed = |name: &str, type_id: u8| {
            let text = json!({"Sequence": {"id": name, "type_id": type_id}});
            let (before, after) = (
                bos.map(|(_, bos)| place(bos, type_id)),
                eos.map(|(_, eos)| place(eos, type_id)),
            );
            before
                .into_iter()
                .chain([text])
                .chain(after)
                .collect::<Vec<_>>()
        };
        let pair = [framed("A", 0), framed("B", 1)].concat();
        let mut tokens = serde_json::Map::new();
        for (id, text) in bos.into_iter().chain(eos) {
            tokens.insert(
                text.clone(),
                json!({"id": text, "ids": [id], "tokens": [text]}),
            );
        }
        Ok(json!({
            "type": "TemplateProcessing",
            "single": framed("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }))
    }
}

fn is_llama3(cut: &str) -> bool {
    matches!(cut, "llama-bpe" | "llama3" | "llama-v3")
}

impl Kind {
    fn of(number: i64) -> Option<Self> {
        use Kind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        let kinds = [Normal, Unknown, Control, UserDefined, Unused, Byte];
        kinds
            .get(usize::try_from(number.checked_sub(1)?).ok()?)
            .copied()
    }
}

impl Vocabulary<'_> {
    /// Whether a token can be put together from others, and others from it.
    fn is_piece(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Normal)
    }

    /// The tokens that are matched in the raw text.
    fn added(&self) -> Value {
        let added = (0_u32..).zip(self.tokens.iter().zip(&self.kinds));
        let added = added.filter(|(_, (text, kind))| {
            !text.is_empty() && matches!(kind, Kind::Unknown | Kind::Control | Kind::UserDefined)
        });
        added
            .map(|(id, (text, kind))| {
                json!({
                    "id": id,
                    "content": text,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind != Kind::UserDefined,
                })
            })
            .collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::{
        Writer, bool_value, f32s_value, i32s_value, text_value, texts_value, u32_value,
    };
    use super::*;
    use tokenizers::Tokenizer;

    /// The 256 bytes as GPT-2 spells them (ids 0 to 255), "Ġg" 256, "go" 257, "Ġgo" 258, a control token 259, one of
    /// the user's 260.
    pub(in super::super) fn byte_level() -> Writer {
        let mut tokens: Vec<String> = (0..=255_u8).map(spelled).map(String::from).collect();
        tokens.extend(["Ġg", "go", "Ġgo", "<|end|>", "<tool>"].map(String::from));
        let types: Vec<i32> = (0..261)
            .map(|id| [1, 3, 4][(id.max(258) - 258) as usize])
            .collect();
        Writer::new(&[
            ("general.architecture", text_value("llama")),
            ("tokenizer.ggml.model", text_value("gpt2")),
            ("tokenizer.ggml.pre", text_value("smollm")),
            ("tokenizer.ggml.tokens", texts_value(&tokens)),
            ("tokenizer.ggml.token_type", i32s_value(&types)),
            (
                "tokenizer.ggml.merges",
                texts_value(&["g o", "Ġ g", "Ġ go"]),
            ),
            ("tokenizer.ggml.eos_token_id", u32_value(259)),
        ])
    }

    /// Printable bytes spell themselves; the others follow from U+0100 on.
    fn spelled(byte: u8) -> char {
        let itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let others = (0..byte).filter(|other| !itself(*other)).count() as u32;
        if itself(byte) {
            byte.into()
        } else {
            char::from_u32(256 + others).unwrap()
        }
    }

    /// unknown 0, bos 1, eos 2, bytes 3 to 258, then pieces from 259 with scores −0, −1, …
    pub(in super::super) fn pieces() -> Writer {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
        tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
        tokens.extend(["og", "▁g", "go", "▁go", "▁", "g", "o"].map(String::from));
        let types: Vec<i32> = [vec![2, 3, 3], vec![6; 256], vec![1; 7]].concat();
        let scores: Vec<f32> = (0..266_u16)
            .map(|id| 259.0 - f32::from(id.max(259)))
            .collect();
        Writer::new(&[
            ("general.architecture", text_value("llama")),
            ("tokenizer.ggml.model", text_value("llama")),
            ("tokenizer.ggml.tokens", texts_value(&tokens)),
            ("tokenizer.ggml.token_type", i32s_value(&types)),
            ("tokenizer.ggml.scores", f32s_value(&scores)),
        ])
    }

    fn tokenizer(writer: &Writer) -> Tokenizer {
        Tokenizer::from_bytes(writer.open().tokenizer().unwrap().to_string()).unwrap()
    }

    fn ids(writer: &Writer, text: &str) -> Vec<u32> {
        tokenizer(writer)
            .encode(text, true)
            .unwrap()
            .get_ids()
            .to_vec()
    }

    fn refusal(writer: &Writer) -> String {
        let error = writer.open().tokenizer().unwrap_err().to_string();
        error.trim_start_matches("model.gguf: ").to_string()
    }

    /// "go" merges first; "Ġ go" is a merge, "Ġ g" comes too late.
    #[test]
    fn bytes_merge_in_the_order_of_the_file() {
        let writer = byte_level();
        assert_eq!(ids(&writer, "go go g"), [257, 258, 256]);
        assert_eq!(
            ids(&writer, "a\u{e9}12<tool>go<|end|>"),
            [97, 0xC3, 0xA9, 49, 50, 260, 257, 259]
        );
        let text = "go  go\n\u{e9} 漢 12\u{7f} <tool>";
        assert_eq!(
            tokenizer(&writer)
                .decode(&ids(&writer, text), true)
                .unwrap(),
            text
        );
    }

    #[test]
    fn text_is_cut_as_the_file_says() {
        let cuts = |cut: &str| {
            let mut tokenizer = tokenizer(&byte_level().set("tokenizer.ggml.pre", text_value(cut)));
            tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
            let encoding = tokenizer.encode("I'LL go12345.\n\n go", false).unwrap();
            let mut ends: Vec<u32> = encoding.get_word_ids().iter().flatten().copied().collect();
            ends.dedup();
            (0..ends.len() as u32)
                .map(|word| encoding.word_to_chars(word, 0).unwrap())
                .map(|(_, end)| end)
                .collect::<Vec<_>>()
        };
        assert_eq!(cuts("gpt-2"), [1, 2, 4, 7, 12, 13, 15, 18]);
        assert_eq!(cuts("smollm"), [1, 2, 4, 7, 8, 9, 10, 11, 12, 13, 15, 18]);
        assert_eq!(cuts("qwen2"), [1, 4, 7, 8, 9, 10, 11, 12, 15, 18]);
        assert_eq!(cuts("default"), [1, 2, 4, 7, 10, 12, 13, 15, 18]);
    }

    #[test]
    fn llama_bpe_cuts_threes_and_begins_with_bos() {
        let writer = byte_level().set("tokenizer.ggml.pre", text_value("llama-bpe"));
        assert_eq!(
            refusal(&writer),
            "tokenizer.ggml.add_bos_token, but that token is not named"
        );
        let writer = writer.set("tokenizer.ggml.bos_token_id", u32_value(259));
        assert_eq!(ids(&writer, "go"), [259, 257]);
        let writer = writer.set("tokenizer.ggml.add_bos_token", bool_value(false));
        assert_eq!(ids(&writer, "go"), [257]);
        let both = byte_level().set("tokenizer.ggml.add_eos_token", bool_value(true));
        let pair = tokenizer(&both).encode(("go", "go"), true).unwrap();
        assert_eq!(
            (pair.get_ids(), pair.get_type_ids()),
            (&[257, 259, 257, 259][..], &[0, 0, 1, 1][..])
        );
    }

    /// Scores: "og" before "▁g" before "go" before "▁go". "▁go" may be made of "▁g" and "o", as the score is that of
    /// what is made. What no piece spells becomes bytes.
    #[test]
    fn pieces_merge_by_score() {
        let writer = pieces();
        assert_eq!(ids(&writer, "go"), [1, 262]);
        assert_eq!(ids(&writer, "ogo"), [1, 263, 259, 265]);
        assert_eq!(ids(&writer, "\u{e9}"), [1, 263, 3 + 0xC3, 3 + 0xA9]);
        assert_eq!(
            ids(&writer, "g</s>g"),
            [1, 260, 2, 260],
            "a blank is put before each text"
        );
        let text = "go  \u{e9}\ngo";
        assert_eq!(
            tokenizer(&writer)
                .decode(&ids(&writer, text), true)
                .unwrap(),
            text
        );
        let bare = writer.set("tokenizer.ggml.add_space_prefix", bool_value(false));
        assert_eq!(ids(&bare, "go"), [1, 261]);
        assert_eq!(tokenizer(&bare).decode(&[260, 265], true).unwrap(), " go");
    }

    #[test]
    fn special_tokens_are_those_of_the_file() {
        let given = byte_level()
            .set("tokenizer.ggml.eot_token_id", u32_value(259))
            .set("tokenizer.ggml.padding_token_id", u32_value(3))
            .set("tokenizer.chat_template", text_value("{{ messages }}"))
            .open();
        let expected = SpecialTokens {
            eos: Some(259),
            eot: Some(259),
            pad: Some(3),
            ..SpecialTokens::default()
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

    #[test]
    fn vocabularies_that_do_not_fit_are_refused() {
        let types = |types: &[i32]| i32s_value(types);
        for (key, value, reason) in [
            (
                "model",
                text_value("t5"),
                "tokenizer model \"t5\"; gpt2 and llama are read",
            ),
            (
                "pre",
                text_value("tekken"),
                "pre-tokenizer \"tekken\"; smollm, gpt-2, qwen2, llama-bpe and default are read",
            ),
            (
                "tokens",
                texts_value(&["a", "b", "a"]),
                "3 tokens (524288 are allowed) and 261 token types",
            ),
            (
                "tokens",
                text_value("a"),
                "metadata tokenizer.ggml.tokens is not an array of texts",
            ),
            (
                "token_type",
                types(&[7; 261]),
                "token 0 has the unknown type Signed(7)",
            ),
            (
                "merges",
                texts_value(&["g o", "go"]),
                "merge 1, \"go\", does not make a token of two",
            ),
            (
                "merges",
                texts_value(&["o g"]),
                "merge 0, \"o g\", does not make a token of two",
            ),
            (
                "add_bos_token",
                u32_value(1),
                "metadata tokenizer.ggml.add_bos_token is not a truth value",
            ),
        ] {
            assert_eq!(
                refusal(&byte_level().set(&format!("tokenizer.ggml.{key}"), value)),
                reason
            );
        }
        let twice = byte_level().set("tokenizer.ggml.tokens", texts_value(&["a", "b", "a"]));
        let twice = twice.set("tokenizer.ggml.token_type", types(&[1; 3]));
        assert_eq!(refusal(&twice), "tokens 0 and 2 are both \"a\"");
        let mut bare = byte_level();
        bare.values.retain(|(key, _)| key != "tokenizer.ggml.pre");
        assert_eq!(
            refusal(&bare),
            "metadata tokenizer.ggml.pre is missing: how to cut text is unknown"
        );
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        for (key, value, reason) in [
            ("scores", f32s_value(&[0.0]), "1 scores for 266 tokens"),
            (
                "scores",
                f32s_value(&[f32::NAN; 266]),
                "token 0 has the score Single(NaN)",
            ),
            (
                "remove_extra_whitespaces",
                bool_value(true),
                "metadata tokenizer.ggml.remove_extra_whitespaces is not sup",
            ),
        ] {
            let error = refusal(&pieces().set(&format!("tokenizer.ggml.{key}"), value));
            assert!(error.starts_with(reason), "{error}");
        }
        let few = pieces().set("tokenizer.ggml.tokens", texts_value(&["a", "b", "c"]));
        let few = few.set("tokenizer.ggml.token_type", i32s_value(&[1; 3]));
        assert_eq!(
            refusal(&few),
            "the vocabulary lacks some of the tokens <0x00> to <0xFF>"
        );
    }
}
