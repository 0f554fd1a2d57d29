//! `tokenizer.json` of Hugging Face from the vocabulary of a GGUF file.
//!
//! `gpt2` is byte-level BPE: the file has its tokens and merges, but only the name of how text is
//! cut beforehand. `llama` is the BPE of SentencePiece: its merges are all ways to make a piece from
//! two others, best score first, as transformers' `SentencePieceExtractor` finds them. If a token is
//! a control token or user-defined, it is matched before everything else.

use super::file::GgufFile;
use super::metadata::{MetadataNumber, MetadataValue};
use super::vocabulary::GgufVocabulary;
use crate::error::AgentError;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;

/// Most merges that are turned into JSON. The largest vocabularies in use have 0.6 million.
const MOST_MERGES: usize = 1 << 20;
/// Most bytes of a piece whose merges are searched.
const LONGEST_PIECE: usize = 256;

/// How llama.cpp cuts text for "default": each cut is applied within the pieces of the one before.
/// The second is that of GPT-2.
const DEFAULT_CUTS: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"\p{N}+",
    "[0-9][0-9][0-9]",
];
const LLAMA3_CUT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The cut of tiktoken's `o200k_base`.
const O200K_CUT: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_CUT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way to make a piece from two others.
struct PieceMerge<'a> {
    score: f32,
    texts: [&'a str; 2],
    ids: [u32; 2],
}

/// A token that is put around a text: its id and its text.
type FrameToken<'a> = (u32, &'a String);

impl<R> GgufFile<R> {
    /// The content of `tokenizer.json`, as [`tokenizers::Tokenizer::from_bytes`] reads it.
    ///
    /// # Errors
    /// If something needed is missing, has another type or does not fit the rest, or if the kind of
    /// vocabulary or its way to cut text is not supported.
    pub fn tokenizer(&self) -> Result<Value, AgentError> {
        let vocabulary = self.vocabulary()?;
        let mut tokenizer = match self.text("tokenizer.ggml.model")? {
            Some("gpt2") => self.byte_level(&vocabulary)?,
            Some("llama") => self.sentencepiece(&vocabulary)?,
            Some(other) => {
                return Err(self.content(format!(
                    "tokenizer model {other:?}; gpt2 and llama are supported"
                )));
            }
            None => return Err(self.content("metadata tokenizer.ggml.model is missing")),
        };
        tokenizer["version"] = json!("1.0");
        tokenizer["added_tokens"] = vocabulary.added();
        tokenizer["post_processor"] = self.post_processor(&vocabulary)?;
        Ok(tokenizer)
    }

    fn byte_level(&self, vocabulary: &GgufVocabulary) -> Result<Value, AgentError> {
        let Some(cut) = self.text("tokenizer.ggml.pre")? else {
            return Err(
                self.content("metadata tokenizer.ggml.pre is missing: how to cut text is unknown")
            );
        };
        let cuts = match cut {
            "smollm" | "refact" | "starcoder" | "command-r" => vec![
                json!({"type": "Digits", "individual_digits": true}),
                bytes_part(true),
            ],
            "gpt-2" => vec![bytes_part(true)],
            "qwen2" | "deepseek-r1-qwen" => vec![split_part(QWEN2_CUT), bytes_part(false)],
            "gpt-4o" => vec![split_part(O200K_CUT), bytes_part(false)],
            "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" | "dbrx" => {
                vec![split_part(LLAMA3_CUT), bytes_part(false)]
            }
            "default" => DEFAULT_CUTS
                .map(split_part)
                .into_iter()
                .chain([bytes_part(false)])
                .collect(),
            other => {
                let known = "smollm, refact, gpt-2, qwen2, llama-bpe, smaug-bpe, dbrx, gpt-4o and default are supported";
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
            "decoder": bytes_part(true),
        }))
    }

    /// The merges `"left right"` of a byte-level vocabulary. Each must consist of two tokens and
    /// make a third.
    fn merges(&self, vocabulary: &GgufVocabulary) -> Result<Vec<[String; 2]>, AgentError> {
        let Some(merges) = self.texts("tokenizer.ggml.merges")? else {
            return Err(self.content("metadata tokenizer.ggml.merges is missing"));
        };
        if merges.len() > MOST_MERGES {
            return Err(self.content(format!(
                "{} merges, {MOST_MERGES} are allowed",
                merges.len()
            )));
        }
        merges
            .iter()
            .enumerate()
            .map(|(index, merge)| {
                split_merge(merge, vocabulary).ok_or_else(|| {
                    self.content(format!(
                        "merge {index}, {merge:?}, does not make a token of two"
                    ))
                })
            })
            .collect()
    }

    fn sentencepiece(&self, vocabulary: &GgufVocabulary) -> Result<Value, AgentError> {
        for key in [
            "tokenizer.ggml.remove_extra_whitespaces",
            "tokenizer.ggml.precompiled_charsmap",
        ] {
            match self.metadata.get(key) {
                None | Some(MetadataValue::Number(MetadataNumber::Bool(false))) => {}
                Some(_) => return Err(self.content(format!("metadata {key} is not supported"))),
            }
        }
        let has_bytes = (0..=255_u8).all(|byte| {
            vocabulary
                .ids
                .contains_key(format!("<0x{byte:02X}>").as_str())
        });
        if !has_bytes {
            return Err(self.content("the vocabulary lacks some of the tokens <0x00> to <0xFF>"));
        }
        let has_prefix = self
            .flag("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true);
        let mut normalizers =
            vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if has_prefix {
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

    /// For every piece, all pairs of pieces that make it, in the order of [`PieceMerge::order`].
    fn rebuilt_merges<'a>(
        &self,
        vocabulary: &GgufVocabulary<'a>,
    ) -> Result<Vec<[&'a str; 2]>, AgentError> {
        let scores = self.scores(vocabulary)?;
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
                let ids = (piece(left, vocabulary), piece(right, vocabulary));
                if let (Some(left_id), Some(right_id)) = ids {
                    merges.push(PieceMerge {
                        score,
                        texts: [left, right],
                        ids: [left_id, right_id],
                    });
                }
            }
            if merges.len() > MOST_MERGES {
                return Err(self.content(format!("more than {MOST_MERGES} ways to merge tokens")));
            }
        }
        merges.sort_by(PieceMerge::order);
        Ok(merges.into_iter().map(|merge| merge.texts).collect())
    }

    fn scores(&self, vocabulary: &GgufVocabulary) -> Result<Vec<f32>, AgentError> {
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
        scores
            .iter()
            .enumerate()
            .map(|(id, score)| match score {
                MetadataNumber::Single(score) if score.is_finite() => Ok(score),
                other => Err(self.content(format!("token {id} has the score {other:?}"))),
            })
            .collect()
    }

    /// The post-processor that puts bos before a text and eos after it; null if the file needs
    /// neither.
    fn post_processor(&self, vocabulary: &GgufVocabulary) -> Result<Value, AgentError> {
        let special = self.special_tokens()?;
        let bos_by_default =
            self.is_sentencepiece()? || self.text("tokenizer.ggml.pre")?.is_some_and(is_llama3);
        let bos = if self.is_wanted("add_bos_token", bos_by_default)? {
            Some(self.frame_token("add_bos_token", special.bos, vocabulary)?)
        } else {
            None
        };
        let eos = if self.is_wanted("add_eos_token", false)? {
            Some(self.frame_token("add_eos_token", special.eos, vocabulary)?)
        } else {
            None
        };
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let mut tokens = Map::new();
        for (id, text) in bos.into_iter().chain(eos) {
            tokens.insert(
                text.clone(),
                json!({"id": text, "ids": [id], "tokens": [text]}),
            );
        }
        let single = framed(bos, "A", 0, eos);
        let pair = [single.clone(), framed(bos, "B", 1, eos)].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": tokens,
        }))
    }

    fn is_wanted(&self, key: &str, default: bool) -> Result<bool, AgentError> {
        let flag = self.flag(&format!("tokenizer.ggml.{key}"))?;
        Ok(flag.unwrap_or(default))
    }

    /// The token that the flag `key` requires; an error if the file does not name it.
    fn frame_token<'a>(
        &self,
        key: &str,
        id: Option<u32>,
        vocabulary: &GgufVocabulary<'a>,
    ) -> Result<FrameToken<'a>, AgentError> {
        id.and_then(|id| Some((id, vocabulary.tokens.get(id as usize)?)))
            .ok_or_else(|| {
                self.content(format!("tokenizer.ggml.{key}, but that token is not named"))
            })
    }
}

impl PieceMerge<'_> {
    /// Best score first, then as transformers orders them: longer left part, longer right part,
    /// lower ids.
    fn order(&self, other: &Self) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then_with(|| other.lengths().cmp(&self.lengths()))
            .then(self.ids.cmp(&other.ids))
    }

    fn lengths(&self) -> [usize; 2] {
        self.texts.map(|text| text.chars().count())
    }
}

/// The id of a text, if it is a piece.
fn piece(text: &str, vocabulary: &GgufVocabulary) -> Option<u32> {
    let id = vocabulary.ids.get(text).copied();
    id.filter(|id| vocabulary.is_piece(*id))
}

/// The two tokens of a merge `"left right"`, if they and the two together are in the vocabulary.
fn split_merge(merge: &str, vocabulary: &GgufVocabulary) -> Option<[String; 2]> {
    let (left, right) = merge.split_once(' ')?;
    let whole = [left, right].concat();
    [left, right, whole.as_str()]
        .iter()
        .all(|token| vocabulary.ids.contains_key(token))
        .then(|| [left.to_string(), right.to_string()])
}

/// A pre-tokenizer or decoder that spells bytes as letters; if `cut` is set, it also cuts as GPT-2.
fn bytes_part(cut: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cut})
}

fn split_part(pattern: &str) -> Value {
    let pattern = json!({"Regex": pattern});
    json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
}

fn is_llama3(cut: &str) -> bool {
    matches!(cut, "llama-bpe" | "llama3" | "llama-v3")
}

/// The sequence `name` between bos and eos, if there are any.
fn framed(bos: Option<FrameToken>, name: &str, type_id: u8, eos: Option<FrameToken>) -> Vec<Value> {
    let text = json!({"Sequence": {"id": name, "type_id": type_id}});
    bos.map(|(_, bos)| special_part(bos, type_id))
        .into_iter()
        .chain([text])
        .chain(eos.map(|(_, eos)| special_part(eos, type_id)))
        .collect()
}

fn special_part(text: &str, type_id: u8) -> Value {
    json!({"SpecialToken": {"id": text, "type_id": type_id}})
}

#[cfg(test)]
mod tests {
    use super::super::test_files::{
        GgufWriter, bool_value, byte_level, f32s_value, i32s_value, pieces, text_value,
        texts_value, u32_value,
    };
    use tokenizers::Tokenizer;

    fn tokenizer(writer: &GgufWriter) -> Tokenizer {
        Tokenizer::from_bytes(writer.open().tokenizer().unwrap().to_string()).unwrap()
    }

    fn ids(writer: &GgufWriter, text: &str) -> Vec<u32> {
        tokenizer(writer)
            .encode(text, true)
            .unwrap()
            .get_ids()
            .to_vec()
    }

    fn refusal(writer: &GgufWriter) -> String {
        let error = writer.open().tokenizer().unwrap_err().to_string();
        error.trim_start_matches("model.gguf: ").to_string()
    }

    /// "go" merges first; then "Ġ go" is a merge, and "Ġ g" is too late.
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

    /// The ends of the pieces that a text is cut into.
    fn cuts(cut: &str) -> Vec<usize> {
        let mut tokenizer = tokenizer(&byte_level().set("tokenizer.ggml.pre", text_value(cut)));
        tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        let encoding = tokenizer.encode("I'LL go12345.\n\n go", false).unwrap();
        let mut words: Vec<u32> = encoding.get_word_ids().iter().flatten().copied().collect();
        words.dedup();
        (0..words.len() as u32)
            .map(|word| encoding.word_to_chars(word, 0).unwrap())
            .map(|(_, end)| end)
            .collect()
    }

    #[test]
    fn text_is_cut_as_the_file_names_it() {
        assert_eq!(cuts("gpt-2"), [1, 2, 4, 7, 12, 13, 15, 18]);
        assert_eq!(cuts("smollm"), [1, 2, 4, 7, 8, 9, 10, 11, 12, 13, 15, 18]);
        assert_eq!(cuts("qwen2"), [1, 4, 7, 8, 9, 10, 11, 12, 15, 18]);
        assert_eq!(cuts("default"), [1, 2, 4, 7, 10, 12, 13, 15, 18]);
    }

    #[test]
    fn llama_bpe_cuts_three_digits_and_begins_with_bos() {
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

    /// Scores: "og" before "▁g" before "go" before "▁go". "▁go" may be made of "▁g" and "o", because
    /// the score is that of the result. If no piece spells a letter, it becomes bytes.
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
    fn vocabularies_that_do_not_fit_are_refused() {
        for (key, value, reason) in [
            (
                "model",
                text_value("t5"),
                "tokenizer model \"t5\"; gpt2 and llama are supported",
            ),
            (
                "pre",
                text_value("tekken"),
                "pre-tokenizer \"tekken\"; smollm, refact, gpt-2, qwen2, llama-bpe, smaug-bpe, dbrx, gpt-4o and default are supported",
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
                i32s_value(&[7; 261]),
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
        let twice = twice.set("tokenizer.ggml.token_type", i32s_value(&[1; 3]));
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
