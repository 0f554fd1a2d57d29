//! The additions of [`crate::model::config::Family::Hearth`] in `config.json`, and their tensors.
//!
//! - `goal_match`: a learned vector is added to the embedding of every token that occurs in the goal's
//!   sentence (exact match, as in DrQA, arXiv 1704.00051).
//! - `ngram_embedding`: for each order n, W·E[the token that followed the last occurrence of the last n
//!   tokens] is added, or a learned vector if they did not occur before (the induction head of arXiv
//!   2401.12973 at the input).
//! - `convolution`: causal depthwise convolutions beside the residual (Canon layers, arXiv 2512.17351).
//!
//! All of them depend on the tokens up to a position only, so KV caches work as usual.

use crate::text::tokenizer::{AGENT, BEGIN, END, Tokenizer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The widest filter, in tokens.
const WIDEST: usize = 16;
/// The highest order of an n-gram embedding.
const HIGHEST_ORDER: usize = 4;

/// What precedes the goal in the first observation of every household game.
const MARKER: &str = "task is to:";

/// Words of goal sentences that name nothing which an observation could list.
const FUNCTION_WORDS: [&str; 26] = [
    "a", "an", "the", "to", "it", "in", "on", "of", "at", "with", "and", "them", "some", "two",
    "put", "find", "look", "examine", "under", "using", "then", "is", "your", "task", "into",
    "onto",
];

/// The additions to the Llama layout; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadingConfig {
    /// Where the goal's sentence is, if tokens of it are marked.
    pub goal_match: Option<GoalMatch>,
    /// The orders n of the n-gram embeddings, ascending.
    pub ngram_embedding: Vec<usize>,
    /// The convolutions, if there are any.
    pub convolution: Option<ConvolutionConfig>,
}

/// Where a sequence of token ids contains its goal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoalMatch {
    /// The token ids before the goal; their first occurrence counts.
    pub marker: Vec<u32>,
    /// The goal ends before the first of these.
    pub end: Vec<u32>,
    /// Tokens of a goal that are never marked: function words, digits and punctuation.
    pub ignored: Vec<u32>,
}

/// The convolutions of every layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvolutionConfig {
    /// Tokens that a filter covers, the token itself included.
    pub width: usize,
    /// Where the convolutions are in a layer.
    pub places: Vec<ConvolutionPlace>,
}

/// A place in a layer where a convolution can be, with the letter of arXiv 2512.17351.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvolutionPlace {
    /// A: after the norm before attention.
    AttentionInput,
    /// B: on queries, keys and values, before their rotation.
    QueryKeyValue,
    /// C: after the norm before the MLP.
    MlpInput,
    /// D: on the gate and the up projection.
    GateUp,
}

impl ConvolutionPlace {
    /// All places.
    pub const ALL: [Self; 4] = [
        Self::AttentionInput,
        Self::QueryKeyValue,
        Self::MlpInput,
        Self::GateUp,
    ];

    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AttentionInput => "attention_input",
            Self::QueryKeyValue => "query_key_value",
            Self::MlpInput => "mlp_input",
            Self::GateUp => "gate_up",
        }
    }

    /// The name of the tensor within its layer.
    #[must_use]
    pub fn tensor(self) -> &'static str {
        match self {
            Self::AttentionInput => "attention_conv.weight",
            Self::QueryKeyValue => "qkv_conv.weight",
            Self::MlpInput => "mlp_conv.weight",
            Self::GateUp => "gate_up_conv.weight",
        }
    }
}

/// The name of the vector that is added to tokens of the goal, `[1, hidden]`.
pub const GOAL_MATCH: &str = "model.goal_match.weight";

/// The name of the matrix of an n-gram embedding, `[hidden, hidden]` (`[out, in]`).
#[must_use]
pub fn ngram_matrix(order: usize) -> String {
    format!("model.ngram.{order}.weight")
}

/// The name of the vector that an n-gram without an earlier occurrence adds, `[1, hidden]`.
#[must_use]
pub fn ngram_none(order: usize) -> String {
    format!("model.ngram.{order}.none")
}

impl ReadingConfig {
    /// Whether there are no additions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_inputs() && self.convolution.is_none()
    }

    /// Whether something is added to the embeddings.
    #[must_use]
    pub fn has_inputs(&self) -> bool {
        self.goal_match.is_some() || !self.ngram_embedding.is_empty()
    }

    /// The width of the filter at a place; `None` if there is no convolution.
    #[must_use]
    pub fn width_at(&self, place: ConvolutionPlace) -> Option<usize> {
        let convolution = self.convolution.as_ref()?;
        convolution
            .places
            .contains(&place)
            .then_some(convolution.width)
    }

    /// Names and shapes of the tensors beside the embedding.
    #[must_use]
    pub fn input_tensors(&self, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let mut list = Vec::new();
        if self.goal_match.is_some() {
            list.push((GOAL_MATCH.into(), vec![1, hidden]));
        }
        for order in &self.ngram_embedding {
            list.push((ngram_matrix(*order), vec![hidden, hidden]));
            list.push((ngram_none(*order), vec![1, hidden]));
        }
        list
    }

    /// Refuses sizes with which a decoder cannot be built.
    ///
    /// # Errors
    /// If a key is out of range. The message names it.
    pub fn check(&self, vocabulary: usize) -> Result<(), String> {
        if let Some(goal) = &self.goal_match {
            if goal.marker.is_empty() || goal.end.is_empty() {
                return Err("goal_match: marker and end must not be empty".into());
            }
            let ids = goal.marker.iter().chain(&goal.end).chain(&goal.ignored);
            if let Some(id) = ids.into_iter().find(|id| **id as usize >= vocabulary) {
                return Err(format!(
                    "goal_match: token {id} is outside the vocabulary of {vocabulary}"
                ));
            }
        }
        let orders = &self.ngram_embedding;
        if !orders.is_sorted_by(|a, b| a < b)
            || orders
                .iter()
                .any(|order| !(1..=HIGHEST_ORDER).contains(order))
        {
            return Err(format!(
                "ngram_embedding is {orders:?}, and must be ascending orders from 1 to {HIGHEST_ORDER}"
            ));
        }
        let Some(ConvolutionConfig { width, places }) = &self.convolution else {
            return Ok(());
        };
        if !(2..=WIDEST).contains(width) {
            return Err(format!(
                "convolution: width is {width}, and must be from 2 to {WIDEST}"
            ));
        }
        let distinct: BTreeSet<_> = places.iter().collect();
        if places.is_empty() || distinct.len() < places.len() {
            return Err("convolution: places must be one or more different places".into());
        }
        Ok(())
    }
}

impl GoalMatch {
    /// The goal of household games, in the token ids of a tokenizer. It begins after `task is to:` and
    /// ends with the line.
    #[must_use]
    pub fn of_household_games(tokenizer: &Tokenizer) -> Self {
        let special: BTreeSet<u32> = [BEGIN, AGENT, END]
            .iter()
            .filter_map(|token| tokenizer.id(token))
            .chain([tokenizer.end])
            .collect();
        let mut end = special.clone();
        let mut ignored = special;
        for id in 0..=tokenizer.largest_id() {
            let text = tokenizer.decode(&[id]);
            if text.contains('\n') {
                end.insert(id);
            }
            let word = text.trim();
            if word.len() < 2
                || !word.chars().all(char::is_alphabetic)
                || FUNCTION_WORDS.contains(&word)
            {
                ignored.insert(id);
            }
        }
        Self {
            marker: tokenizer.encode(MARKER),
            end: end.into_iter().collect(),
            ignored: ignored.into_iter().collect(),
        }
    }
}
