//! The keys of `config.json` that are used here.

use super::family::{Family, Scales};
use crate::model::reading::config::{ConvolutionConfig, GoalMatch, ReadingConfig};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The keys of `config.json` that are used here, with Hugging Face's defaults.
#[derive(Deserialize)]
pub(super) struct ConfigKeys {
    pub(super) model_type: String,
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) hidden_act: Option<String>,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_scaling: Option<Map<String, Value>>,
    pub(super) rope_parameters: Option<Map<String, Value>>,
    pub(super) rms_norm_eps: Option<f64>,
    pub(super) max_position_embeddings: Option<usize>,
    pub(super) tie_word_embeddings: Option<bool>,
    #[serde(default)]
    pub(super) attention_bias: bool,
    #[serde(default)]
    pub(super) mlp_bias: bool,
    #[serde(default)]
    pub(super) use_sliding_window: bool,
    pub(super) partial_rotary_factor: Option<f64>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) layer_types: Vec<String>,
    pub(super) scale_emb: Option<f64>,
    pub(super) scale_depth: Option<f64>,
    pub(super) dim_model_base: Option<f64>,
    pub(super) embedding_multiplier: Option<f64>,
    pub(super) residual_multiplier: Option<f64>,
    pub(super) attention_multiplier: Option<f64>,
    pub(super) logits_scaling: Option<f64>,
    pub(super) sliding_window: Option<usize>,
    pub(super) no_rope_layers: Option<Vec<u8>>,
    pub(super) no_rope_layer_interval: Option<usize>,
    pub(super) num_experts: Option<usize>,
    pub(super) quantization_config: Option<Value>,
    pub(super) goal_match: Option<GoalMatch>,
    #[serde(default)]
    pub(super) ngram_embedding: Vec<usize>,
    pub(super) convolution: Option<ConvolutionConfig>,
}

/// Reads `null` as the default value.
fn null_as_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl ConfigKeys {
    /// Refuses a decoder that needs a computation which is not supported.
    pub(super) fn refuse_unsupported(&self) -> Result<(), String> {
        let unsupported = [
            (self.attention_bias, "attention_bias"),
            (self.mlp_bias, "mlp_bias"),
            (self.use_sliding_window, "use_sliding_window"),
            (
                self.partial_rotary_factor
                    .is_some_and(|factor| factor != 1.0),
                "partial_rotary_factor",
            ),
            (
                self.layer_types.iter().any(|kind| kind != "full_attention"),
                "layer_types with another type than full_attention",
            ),
            (
                self.num_experts.is_some_and(|experts| experts > 0),
                "num_experts",
            ),
            (self.quantization_config.is_some(), "quantization_config"),
        ];
        if let Some((_, key)) = unsupported.into_iter().find(|(is_set, _)| *is_set) {
            return Err(format!("{key} is set, which is not supported"));
        }
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => Ok(()),
            Some(other) => Err(format!(
                "hidden_act {other:?} is not supported; only \"silu\""
            )),
        }
    }

    /// The additions of hearth's family.
    pub(super) fn reading(&self, family: Family) -> Result<ReadingConfig, String> {
        let reading = ReadingConfig {
            goal_match: self.goal_match.clone(),
            ngram_embedding: self.ngram_embedding.clone(),
            convolution: self.convolution.clone(),
        };
        if family != Family::Hearth && !reading.is_empty() {
            return Err(format!(
                "goal_match, ngram_embedding and convolution need the model_type hearth, not {:?}",
                self.model_type
            ));
        }
        Ok(reading)
    }

    /// The scales of the family.
    pub(super) fn scales(&self, family: Family) -> Scales {
        let layers = self.num_hidden_layers as f64;
        match family {
            Family::MiniCpm => Scales {
                embedding: self.scale_emb.unwrap_or(1.0),
                residual: self.scale_depth.map_or(1.0, |depth| depth / layers.sqrt()),
                logits: self
                    .dim_model_base
                    .map_or(1.0, |base| base / self.hidden_size as f64),
                ..Scales::default()
            },
            Family::Granite => {
                let heads = self.num_attention_heads.max(1);
                let head = self.head_dim.unwrap_or(self.hidden_size / heads) as f64;
                Scales {
                    embedding: self.embedding_multiplier.unwrap_or(1.0),
                    residual: self.residual_multiplier.unwrap_or(1.0),
                    attention: self.attention_multiplier.unwrap_or(1.0) * head.sqrt(),
                    logits: 1.0 / self.logits_scaling.unwrap_or(1.0),
                }
            }
            Family::Llama
            | Family::Qwen2
            | Family::Qwen3
            | Family::Mistral
            | Family::SmolLm3
            | Family::Hearth => Scales::default(),
        }
    }

    /// The layers without rotary embedding. If a SmolLM3 does not list them, every fourth is one.
    ///
    /// # Errors
    /// If the list has another length than the number of layers.
    pub(super) fn unrotated(&self, family: Family) -> Result<BTreeSet<usize>, String> {
        let layers = self.num_hidden_layers;
        match &self.no_rope_layers {
            _ if family != Family::SmolLm3 => Ok(BTreeSet::new()),
            Some(rotated) if rotated.len() == layers => {
                Ok((0..layers).filter(|layer| rotated[*layer] == 0).collect())
            }
            Some(rotated) => Err(format!(
                "no_rope_layers has {} entries, and there are {layers} layers",
                rotated.len()
            )),
            None => {
                let interval = self.no_rope_layer_interval.unwrap_or(4).max(1);
                Ok((0..layers)
                    .filter(|layer| (layer + 1) % interval == 0)
                    .collect())
            }
        }
    }

    /// The number of tokens that a token sees, if the family limits it.
    pub(super) fn window(&self, family: Family) -> Option<usize> {
        self.sliding_window.filter(|_| family == Family::Mistral)
    }
}
