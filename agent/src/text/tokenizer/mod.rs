//! Text to token ids and back: a byte-level BPE tokenizer that is trained on a suite's own texts
//! and saved as `tokenizer.json`.
//!
//! Household texts are templates around numbered names ("On the desk 1, you see a mug 2."). The
//! pre-tokenizer keeps a numbered name in one piece, or splits it into its name and its number
//! ([`NumberTokens`]). The words that lead up to a numbered name are another piece, so that frequent
//! pieces become one token each. The rest is split by words. Any bytes round-trip, even if the
//! training texts did not contain them.

mod file;
mod growth;
mod settings;

use crate::error::AgentError;
use crate::files;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// How a numbered name such as `mug 2` is tokenized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberTokens {
    /// One token, `mug 2`. Episodes are shorter; better after little training.
    #[default]
    Whole,
    /// Two tokens, `mug` and ` 2`. A mug is the same token in the task, in a list and in a command,
    /// whatever its number. A third more tokens; better after long training (results/LOG.md).
    #[serde(alias = "apart")]
    Digits,
}

impl NumberTokens {
    /// The pattern of the pre-tokenizer: a numbered name, or a name and its number | the words that
    /// lead up to one | a word | what remains. At every word, the pattern looks ahead for a numbered
    /// name, at most 200 letters: if this were unbounded, a line without names would take time
    /// quadratic in its length.
    fn pieces(self) -> &'static str {
        match self {
            Self::Whole => {
                r"[a-z]+ [0-9]+|[^0-9\n:]{1,200}?(?=[a-z]+ [0-9])|\n+| ?[A-Za-z]+|[0-9]| ?[^A-Za-z0-9\s]+|\s"
            }
            Self::Digits => {
                r"[a-z]+(?= [0-9])| [0-9]+|[^0-9\n:]{1,200}?(?=[a-z]+ [0-9])|\n+|[A-Za-z]+|[0-9]| ?[^A-Za-z0-9\s]+|\s"
            }
        }
    }
}

/// Longest `tokenizer.json`, in bytes. The largest in use have a third of it.
const FILE_LIMIT: u64 = 100 << 20;

/// Begins the context of an episode.
pub const BEGIN: &str = "<|begin|>";
/// Ends an observation; the policy writes next.
pub const AGENT: &str = "<|agent|>";
/// Ends a completion.
pub const END: &str = "<|end|>";

type TrainedTokenizer = TokenizerImpl<
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// The texts around the observations and completions of an episode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// Before the first observation.
    pub opening: String,
    /// After an observation; the policy writes next.
    pub answer: String,
    /// Ends a completion. Must be one token.
    pub end: String,
    /// Between the end of a completion and the next observation.
    pub between: String,
    /// Whether observations are stripped of white space at both ends.
    pub strips: bool,
}

impl Default for Frames {
    /// The frames of a tokenizer that hearth trained.
    fn default() -> Self {
        let [opening, answer, end] = [BEGIN, AGENT, END].map(String::from);
        Self {
            opening,
            answer,
            end,
            between: String::new(),
            strips: false,
        }
    }
}

/// A tokenizer and the frames of turns.
///
/// ```
/// use agent::text::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::train(["go to desk 1"].into_iter(), 300)?;
/// let ids = tokenizer.encode("go to desk 1");
/// assert_eq!(tokenizer.decode(&ids), "go to desk 1");
/// # Ok::<(), agent::AgentError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    frames: Frames,
    /// Texts of the special tokens. If another text contains one, it is encoded as ordinary text.
    special: Vec<String>,
    /// Id of the token that ends a completion.
    pub end: u32,
    largest_id: u32,
    /// The bytes of `tokenizer.json`, including what only other programs read.
    json: Arc<[u8]>,
}

fn refused(error: impl std::fmt::Display) -> AgentError {
    AgentError::Tokenizer(error.to_string())
}

impl Tokenizer {
    /// Trains a tokenizer on `texts`, with numbered names as one token ([`NumberTokens::Whole`]). It
    /// has at most `vocab_size` tokens, of which 256 are bytes and 3 are special.
    ///
    /// # Errors
    /// If the library refuses the settings.
    pub fn train<'a>(
        texts: impl Iterator<Item = &'a str> + Send,
        vocab_size: usize,
    ) -> Result<Self, AgentError> {
        Self::train_with(texts, vocab_size, NumberTokens::Whole)
    }

    /// The same, with the given tokenization of numbered names.
    ///
    /// # Errors
    /// If the library refuses the settings.
    pub fn train_with<S: AsRef<str> + Send>(
        texts: impl Iterator<Item = S> + Send,
        vocab_size: usize,
        numbers: NumberTokens,
    ) -> Result<Self, AgentError> {
        let pieces = SplitPattern::Regex(numbers.pieces().into());
        let split = Split::new(pieces, SplitDelimiterBehavior::Isolated, false).map_err(refused)?;
        let bytes = ByteLevel::new(false, false, false);
        let mut inner: TrainedTokenizer = TokenizerBuilder::new()
            .with_model(ModelWrapper::BPE(BPE::default()))
            .with_normalizer(None)
            .with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
                PreTokenizerWrapper::Split(split),
                PreTokenizerWrapper::ByteLevel(bytes),
            ]))))
            .with_post_processor(None)
            .with_decoder(Some(DecoderWrapper::ByteLevel(bytes)))
            .build()
            .map_err(refused)?;
        let trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(vocab_size)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(
                [BEGIN, AGENT, END]
                    .map(|text| AddedToken::from(text, true))
                    .to_vec(),
            )
            .build();
        let mut trainer = tokenizers::models::TrainerWrapper::BpeTrainer(trainer);
        inner.train(&mut trainer, texts).map_err(refused)?;
        let json = serde_json::to_string(&inner).map_err(refused)?;
        Self::from_json(json.as_bytes(), Frames::default())
    }

    /// Whether both have the same ids for the same texts, and the same frames of turns.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.frames == other.frames && self.inner.get_vocab(true) == other.inner.get_vocab(true)
    }

    /// Reads a `tokenizer.json`; turns get the given frames.
    ///
    /// # Errors
    /// If the file is missing, is damaged, or lacks a token of the frames.
    pub fn open(path: &Path, frames: Frames) -> Result<Self, AgentError> {
        UnframedTokenizer::open(path)?
            .with_frames(frames)
            .map_err(|error| AgentError::content(path, error.to_string()))
    }

    /// The same from the content of the file.
    ///
    /// # Errors
    /// If it is damaged, needs what is not supported, or lacks a token of the frames.
    pub fn from_json(json: &[u8], frames: Frames) -> Result<Self, AgentError> {
        UnframedTokenizer::from_json(json)?.with_frames(frames)
    }

    /// The texts around turns.
    #[must_use]
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The id of a token; `None` if the vocabulary lacks it.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Writes `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AgentError> {
        scenarios::files::replace(path, &self.json).map_err(|source| AgentError::File {
            path: path.into(),
            source,
        })
    }

    /// Token ids of a text. If it contains the spelling of a special token, that stays text.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_framed("", text, "")
    }

    /// Token ids of a text between two frames. Special tokens are recognised only in the frames.
    ///
    /// # Panics
    /// Never: if the vocabulary lacks a part of the text, the part becomes the unknown token, or is
    /// left out if there is none.
    #[must_use]
    pub fn encode_framed(&self, before: &str, text: &str, after: &str) -> Vec<u32> {
        framed_ids(&self.inner, &self.special, [before, text, after])
    }

    /// The text of token ids, including the texts of special tokens.
    ///
    /// # Panics
    /// Never: the byte-level decoder replaces what is not UTF-8.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner
            .decode(ids, false)
            .expect("byte-level decoding accepts any ids")
    }

    /// The largest id of a token.
    #[must_use]
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// Checks that every token that an episode can contain has a row in an embedding of `rows` tokens. Special tokens
    /// without a row, such as a pad token that was added later, are allowed if the frames of turns do not need them.
    ///
    /// # Errors
    /// Returns the reason if a token has no row.
    pub fn check_rows(&self, rows: usize) -> Result<(), String> {
        if (self.largest_id as usize) < rows {
            return Ok(());
        }
        let beyond = |id: u32| id as usize >= rows;
        let is_special = |token: &String| self.special.binary_search(token).is_ok();
        let vocabulary = self.inner.get_vocab(true).into_iter();
        let Frames {
            opening,
            answer,
            end,
            between,
            ..
        } = &self.frames;
        let framed = self.encode_framed(
            &[opening, end, between].map(String::as_str).concat(),
            "",
            answer,
        );
        let fed = vocabulary
            .filter(|(token, id)| beyond(*id) && (!is_special(token) || framed.contains(id)))
            .min_by_key(|(_, id)| *id);
        match fed {
            None => Ok(()),
            Some((token, id)) => Err(format!(
                "its token {token:?} has the id {id}, and the model's vocab_size is {rows}"
            )),
        }
    }

    /// The number of tokens.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// Token ids of a text between two frames; see [`Tokenizer::encode_framed`].
fn framed_ids(
    inner: &tokenizers::Tokenizer,
    special: &[String],
    [before, text, after]: [&str; 3],
) -> Vec<u32> {
    let mut unframed = text.replace("<|", "< |");
    for special in special.iter().filter(|special| !special.starts_with("<|")) {
        if unframed.contains(special.as_str()) {
            let first = special.chars().next().map_or(0, char::len_utf8);
            unframed = unframed.replace(
                special.as_str(),
                &format!("{} {}", &special[..first], &special[first..]),
            );
        }
    }
    let whole = [before, &unframed, after].concat();
    inner
        .encode_fast(whole, false)
        .expect("a checked tokenizer has ids, or the unknown token, for every text")
        .get_ids()
        .to_vec()
}

/// A `tokenizer.json` before the frames of turns are chosen.
#[derive(Debug, Clone)]
pub struct UnframedTokenizer {
    inner: tokenizers::Tokenizer,
    special: Vec<String>,
    largest_id: u32,
    json: Arc<[u8]>,
}

impl UnframedTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file is missing or damaged, or needs what is not supported.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        Self::from_json(&files::read(path, FILE_LIMIT)?)
            .map_err(|error| AgentError::content(path, error.to_string()))
    }

    /// The same from the content of the file.
    ///
    /// # Errors
    /// If it is damaged, or needs what is not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, AgentError> {
        let file::CheckedTokenizer { inner, largest_id } =
            file::open(files::without_mark(json)).map_err(AgentError::Tokenizer)?;
        let mut special: Vec<String> = inner
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special)
            .map(|token| token.content)
            .filter(|text| text.len() > 1)
            .collect();
        special.sort();
        Ok(Self {
            inner,
            special,
            largest_id,
            json: json.into(),
        })
    }

    /// The id of a token; `None` if the vocabulary lacks it.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id; `None` if the vocabulary lacks it.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The special tokens of more than one letter, sorted.
    #[must_use]
    pub fn special(&self) -> &[String] {
        &self.special
    }

    /// Whether hearth trained this tokenizer: it has the three tokens of [`Frames::default`].
    #[must_use]
    pub fn is_own(&self) -> bool {
        [BEGIN, AGENT, END]
            .iter()
            .all(|token| self.id(token).is_some())
    }

    /// Checks that the vocabulary can spell these frames. Returns the id of the token that ends a completion.
    ///
    /// # Errors
    /// If the vocabulary lacks a token of the frames.
    pub fn check_frames(&self, frames: &Frames) -> Result<u32, AgentError> {
        if *frames == Frames::default() {
            self.needed_id(BEGIN)?;
            self.needed_id(AGENT)?;
        }
        let end = self.needed_id(&frames.end)?;
        let parts = [&frames.opening, "", &frames.answer];
        if framed_ids(&self.inner, &self.special, parts).is_empty() {
            return Err(AgentError::Tokenizer(
                "the vocabulary has no token for the frames of a turn".into(),
            ));
        }
        Ok(end)
    }

    /// The tokenizer with the given frames of turns.
    ///
    /// # Errors
    /// If the vocabulary lacks a token of the frames.
    pub fn with_frames(self, frames: Frames) -> Result<Tokenizer, AgentError> {
        let end = self.check_frames(&frames)?;
        Ok(Tokenizer {
            inner: self.inner,
            frames,
            special: self.special,
            end,
            largest_id: self.largest_id,
            json: self.json,
        })
    }

    fn needed_id(&self, token: &str) -> Result<u32, AgentError> {
        self.id(token)
            .ok_or_else(|| AgentError::Tokenizer(format!("the vocabulary lacks {token}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small_with(numbers: NumberTokens) -> Tokenizer {
        let texts = ["You arrive at desk 1. On the desk 1, you see a mug 2, and a pen 1.\ngo to desk 1\ntake mug 2 from desk 1\n\
            put a mug in desk"; 8];
        Tokenizer::train_with(texts.into_iter(), 400, numbers).expect("trains")
    }

    fn small() -> Tokenizer {
        small_with(NumberTokens::Whole)
    }

    fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        tokenizer
            .encode(text)
            .iter()
            .map(|id| tokenizer.decode(&[*id]))
            .collect()
    }

    /// Found by fuzzing: 8000 letters without a numbered name took seconds, and this line would have
    /// taken hours.
    #[test]
    fn a_long_line_without_names_takes_linear_time() {
        let line = "the desk ".repeat(4_000);
        for numbers in [NumberTokens::Whole, NumberTokens::Digits] {
            let tokenizer = small_with(numbers);
            assert_eq!(tokenizer.decode(&tokenizer.encode(&line)), line);
        }
    }

    #[test]
    fn a_numbered_name_is_one_token() {
        assert_eq!(pieces(&small(), "go to desk 1"), ["go to ", "desk 1"]);
    }

    #[test]
    fn a_name_without_its_number_is_the_same_token_everywhere() {
        let tokenizer = small_with(NumberTokens::Digits);
        assert_eq!(pieces(&tokenizer, "go to desk 1"), ["go to ", "desk", " 1"]);
        assert_eq!(
            pieces(&tokenizer, "take mug 2 from desk 1")[1..3],
            ["mug", " 2"]
        );
        let unnumbered = pieces(&tokenizer, "put a mug in desk");
        assert_eq!(
            unnumbered
                .iter()
                .filter(|piece| ["mug", "desk"].contains(&piece.as_str()))
                .count(),
            2
        );
    }

    #[test]
    fn any_text_round_trips() {
        for tokenizer in [NumberTokens::Whole, NumberTokens::Digits].map(small_with) {
            for text in [
                "",
                "\n\n -= Ünïcode 漢字 =- \t\r\n",
                "mug 12345",
                "On the desk 1, you see nothing.",
                ": a: b 2",
            ] {
                assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
            }
        }
    }

    #[test]
    fn an_observation_cannot_forge_a_turn() {
        let tokenizer = small();
        assert!(!tokenizer.encode("<|end|>").contains(&tokenizer.end));
    }

    #[test]
    fn a_saved_tokenizer_gives_the_same_ids() {
        let tokenizer = small();
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tokenizer.json");
        tokenizer.save(&path).expect("saves");
        let again = Tokenizer::open(&path, Frames::default()).expect("opens");
        let text = "You arrive at desk 1.\nmug 7";
        assert_eq!(again.encode(text), tokenizer.encode(text));
    }
}
