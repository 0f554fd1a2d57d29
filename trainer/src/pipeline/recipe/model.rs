//! The decoder of fresh jobs: the table `[model]` of a recipe.

use agent::AgentError;
use agent::model::config::{DecoderConfig, Family};
use agent::model::initial::heads::check_initial_heads;
use agent::model::initial::random::USUAL_EXPONENT;
use agent::model::reading::config::{ConvolutionConfig, GoalMatch, ReadingConfig};
use agent::model::weights::Weights;
use agent::text::tokenizer::{NumberTokens, Tokenizer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Shape of the decoder and its vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// A model folder. Fresh jobs start from its weights, and it decides all keys but `context`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// Number of layers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layers: usize,
    /// Width of the residual stream.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hidden: usize,
    /// Width inside the SwiGLU block.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub inner: usize,
    /// Number of query heads.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub heads: usize,
    /// Number of key and value heads.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kv_heads: usize,
    /// Maximum number of tokens in the vocabulary.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vocabulary: usize,
    /// How numbers are tokenised: `whole` or `digits`. Default: `whole`.
    #[serde(default, alias = "names", skip_serializing_if = "are_whole")]
    pub numbers: NumberTokens,
    /// Maximum number of tokens in an episode.
    pub context: usize,
    /// Whether tokens that occur in the goal are marked. It needs `numbers = "digits"`, else `mug 2` in a list
    /// is another token than `mug` in the goal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goal_match: bool,
    /// The orders of the n-gram embeddings, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ngram_embedding: Vec<usize>,
    /// Convolutions in every layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub convolution: Option<ConvolutionConfig>,
    /// γ of the initial weights, in (0, 1.5]: the matrices of the layers have the standard deviation
    /// inputs^(−γ). Default: 0.5.
    #[serde(default = "usual_exponent", skip_serializing_if = "is_usual")]
    pub initial_exponent: f64,
    /// Whether the initial weights contain a previous-token head and an induction head. Only in the plain
    /// Llama layout. Default: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub initial_heads: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(size: &usize) -> bool {
    *size == 0
}

fn usual_exponent() -> f64 {
    USUAL_EXPONENT
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_usual(exponent: &f64) -> bool {
    exponent.to_bits() == USUAL_EXPONENT.to_bits()
}

/// If a recipe has the default value, the key is not written, so the stage hashes of recipes from before
/// the key existed stay the same.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn are_whole(numbers: &NumberTokens) -> bool {
    *numbers == NumberTokens::Whole
}

impl ModelRecipe {
    /// Returns the same shape in the plain Llama layout, which other programs also compute.
    #[must_use]
    pub fn plain(self) -> Self {
        Self {
            goal_match: false,
            ngram_embedding: Vec::new(),
            convolution: None,
            ..self
        }
    }

    /// Returns the decoder's configuration for the vocabulary of a tokenizer. If the recipe asks for an
    /// addition of [`ReadingConfig`], it is of hearth's own family, else a Llama.
    #[must_use]
    pub fn config(&self, tokenizer: &Tokenizer) -> DecoderConfig {
        let mut config = self.sizes(tokenizer.vocab_size());
        if self.goal_match {
            config.reading.goal_match = Some(GoalMatch::of_household_games(tokenizer));
        }
        config
    }

    /// Returns the initial weights of a decoder with this configuration.
    ///
    /// # Errors
    /// If the decoder cannot have the initial heads. Reading a recipe refuses such a decoder.
    pub fn initial_weights(
        &self,
        config: &DecoderConfig,
        seed: u64,
    ) -> Result<Weights, AgentError> {
        let weights = Weights::random_with_exponent(config, self.initial_exponent, seed);
        if self.initial_heads {
            weights.with_initial_heads(config, seed)
        } else {
            Ok(weights)
        }
    }

    /// Returns the configuration without the token ids of the goal.
    fn sizes(&self, vocab_size: usize) -> DecoderConfig {
        let reading = ReadingConfig {
            goal_match: None,
            ngram_embedding: self.ngram_embedding.clone(),
            convolution: self.convolution.clone(),
        };
        let is_llama = reading.is_empty() && !self.goal_match;
        DecoderConfig {
            family: if is_llama {
                Family::Llama
            } else {
                Family::Hearth
            },
            reading,
            vocab_size: vocab_size.next_multiple_of(16),
            hidden_size: self.hidden,
            intermediate_size: self.inner,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            max_position_embeddings: self.context,
            ..DecoderConfig::default()
        }
    }

    /// Resolves a relative path of a checkpoint against a folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        if let Some(path) = &mut self.checkpoint {
            *path = folder.join(&*path);
        }
    }

    /// Returns the shape of which everything but the context is decided by a checkpoint.
    fn of_checkpoint(path: PathBuf, context: usize) -> Self {
        Self {
            checkpoint: Some(path),
            layers: 0,
            hidden: 0,
            inner: 0,
            heads: 0,
            kv_heads: 0,
            vocabulary: 0,
            numbers: NumberTokens::default(),
            context,
            goal_match: false,
            ngram_embedding: Vec::new(),
            convolution: None,
            initial_exponent: USUAL_EXPONENT,
            initial_heads: false,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(path) = &self.checkpoint {
            if self.context == 0 {
                return Err("model: context must be above 0".into());
            }
            if *self != Self::of_checkpoint(path.clone(), self.context) {
                return Err(
                    "model: the checkpoint decides the shape and the vocabulary\n\
                     hint: remove every key but checkpoint and context"
                        .into(),
                );
            }
            return Ok(());
        }
        let sizes = [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("inner", self.inner),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("vocabulary", self.vocabulary),
        ];
        if let Some((key, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(format!(
                "model: {key} is missing or 0\n\
                 hint: give the whole shape, or checkpoint = \"FOLDER\""
            ));
        }
        if self.goal_match && self.numbers == NumberTokens::Whole {
            return Err(
                "model: goal_match needs numbers = \"digits\", because \"mug 2\" as one token never \
                 equals the \"mug\" of a goal"
                    .into(),
            );
        }
        let exponent = self.initial_exponent;
        if !(exponent > 0.0 && exponent <= 1.5) {
            return Err(format!(
                "model: initial_exponent = {exponent} must be above 0, at most 1.5"
            ));
        }
        let sizes = self.sizes(self.vocabulary);
        let checked = if self.initial_heads {
            check_initial_heads(&sizes)
        } else {
            sizes.check()
        };
        checked.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::ModelRecipe;
    use crate::pipeline::recipe::Recipe;
    use agent::model::config::Family;
    use agent::model::weights::Weights;

    #[test]
    fn the_keys_of_the_initial_weights_reach_the_weights() {
        let mut shape = Recipe::quickstart().model.plain();
        let config = shape.sizes(64);
        let usual = Weights::random(&config, 3);
        assert_eq!(shape.initial_weights(&config, 3).expect("makes"), usual);
        shape.initial_exponent = 0.8;
        shape.initial_heads = true;
        assert_eq!(shape.sizes(64), config, "the layout stays");
        assert_eq!(config.family, Family::Llama);
        let small = Weights::random_with_exponent(&config, 0.8, 3);
        let expected = small.clone().with_initial_heads(&config, 3);
        let expected = expected.expect("the quickstart's decoder can have the heads");
        assert_eq!(shape.initial_weights(&config, 3).expect("makes"), expected);
        assert!(expected != small && small != usual);
    }

    #[test]
    fn a_checkpoint_decides_all_keys_but_the_context() {
        let read = |text: &str| {
            let shape: ModelRecipe = toml::from_str(text).expect("reads");
            shape.check()
        };
        assert_eq!(read("checkpoint = \"smollm2\"\ncontext = 1024"), Ok(()));
        for key in ["layers = 2", "goal_match = true", "initial_heads = true"] {
            let error = read(&format!("checkpoint = \"smollm2\"\ncontext = 1024\n{key}"));
            assert!(error.expect_err(key).contains("remove every key but"));
        }
        let error = read("checkpoint = \"smollm2\"\ncontext = 0").expect_err("no context");
        assert!(error.contains("context must be above 0"));
        let error = read("context = 1024\nlayers = 2").expect_err("no shape");
        assert!(error.contains("hidden is missing or 0"), "{error}");
    }
}
