//! The keys of `config.json` that are used here.

use super::family::{Family, Scales};
use super::pattern::LayerPattern;
use crate::model::reading::config::{ConvolutionConfig, GoalMatch, ReadingConfig};
use kernels::elementwise::Activation;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::borrow::Cow;
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
    pub(super) hidden_activation: Option<String>,
    pub(super) query_pre_attn_scalar: Option<f64>,
    pub(super) rope_local_base_freq: Option<f64>,
    pub(super) sliding_window_pattern: Option<usize>,
    pub(super) max_window_layers: Option<usize>,
    pub(super) attn_logit_softcapping: Option<f64>,
    pub(super) final_logit_softcapping: Option<f64>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) use_bidirectional_attention: bool,
    pub(super) original_max_position_embeddings: Option<f64>,
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
    #[serde(default, deserialize_with = "null_as_default")]
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
    /// `None` if the key is missing, `Some(None)` if it is null.
    #[serde(default, deserialize_with = "null_as_some")]
    pub(super) sliding_window: Option<Option<usize>>,
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

/// Distinguishes `null` from a missing key.
fn null_as_some<'de, D>(deserializer: D) -> Result<Option<Option<usize>>, D::Error>
where
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

impl ConfigKeys {
    /// Refuses a decoder that needs a computation which is not supported.
    pub(super) fn refuse_unsupported(&self, family: Family) -> Result<(), String> {
        let partial = self.partial_rotary().is_some_and(|factor| factor != 1.0);
        let unsupported = [
            (self.attention_bias, "attention_bias"),
            (self.mlp_bias, "mlp_bias"),
            (partial && family != Family::Phi3, "partial_rotary_factor"),
            (
                self.attn_logit_softcapping.is_some(),
                "attn_logit_softcapping",
            ),
            (
                self.final_logit_softcapping.is_some(),
                "final_logit_softcapping",
            ),
            (
                self.use_bidirectional_attention,
                "use_bidirectional_attention",
            ),
            (
                self.num_experts.is_some_and(|experts| experts > 0),
                "num_experts",
            ),
            (self.quantization_config.is_some(), "quantization_config"),
        ];
        match unsupported.into_iter().find(|(is_set, _)| *is_set) {
            Some((_, key)) => Err(format!("{key} is set, which is not supported")),
            None => Ok(()),
        }
    }

    /// The activation of the gated unit.
    pub(super) fn activation(&self, family: Family) -> Result<Activation, String> {
        let traits = family.traits();
        let key = traits.activation_key;
        let named = match key {
            "hidden_act" => &self.hidden_act,
            _ => &self.hidden_activation,
        };
        match named.as_deref() {
            None => Ok(traits.activation),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Activation::GeluTanh),
            Some(other) => Err(format!(
                "{key} {other:?} is not supported; only \"silu\" and \"gelu_pytorch_tanh\""
            )),
        }
    }

    /// The keys that transformers 5 writes for the layers of one kind.
    fn rope_of_kind(&self, kind: &str) -> Option<&Map<String, Value>> {
        self.rope_parameters.as_ref()?.get(kind)?.as_object()
    }

    /// The keys that transformers 5 writes for the layers without a window, or for all layers.
    fn main_rope(&self) -> Option<&Map<String, Value>> {
        let all = self.rope_parameters.as_ref()?;
        if all.contains_key(FULL) || all.contains_key(SLIDING) {
            self.rope_of_kind(FULL)
        } else {
            Some(all)
        }
    }

    /// The scaling of the rotary embedding. If layers with a window have their own, that of the others.
    pub(super) fn rope(
        &self,
        family: Family,
    ) -> Result<Option<Cow<'_, Map<String, Value>>>, String> {
        let scaling = self.rope_scaling.as_ref();
        let Some(rope) = scaling.or(self.main_rope()) else {
            return Ok(None);
        };
        let mut rope = Cow::Borrowed(rope);
        if family == Family::Phi3 {
            let kind = rope.get("rope_type").or_else(|| rope.get("type"));
            if kind.and_then(Value::as_str) == Some("yarn") {
                rope.to_mut().insert("rope_type".into(), "longrope".into()); // an old name in this family
            }
            const ORIGINAL: &str = "original_max_position_embeddings";
            let inner = rope.get(ORIGINAL).and_then(Value::as_f64);
            let original = self.original_max_position_embeddings.or(inner);
            let original = original.unwrap_or(4096.0);
            rope.to_mut().insert(ORIGINAL.into(), original.into());
        }
        Ok(Some(rope))
    }

    /// θ of the rotary embedding. If layers with a window have their own, that of the others.
    pub(super) fn theta(&self, family: Family) -> Result<f64, String> {
        let inner = inner_theta(self.main_rope())?;
        let default = match family {
            Family::Gemma3 => 1e6,
            Family::Olmo3 => 5e5,
            Family::SmolLm3 => 2e6,
            _ => 1e4,
        };
        match (self.rope_theta, inner) {
            (Some(outer), Some(inner)) if outer != inner => Err(format!(
                "rope_theta is {outer}, and rope_parameters.rope_theta is {inner}\n\
                 hint: transformers 5 uses the second; remove the wrong one"
            )),
            (outer, inner) => Ok(outer.or(inner).unwrap_or(default)),
        }
    }

    /// θ of the layers with a window, if they have their own.
    fn windowed_theta(&self, family: Family) -> Result<Option<f64>, String> {
        if family != Family::Gemma3 && family != Family::Olmo3 {
            return Ok(None);
        }
        let inner = self.rope_of_kind(SLIDING);
        let kind = inner.and_then(|rope| rope.get("rope_type")?.as_str());
        if let Some(kind) = kind.filter(|kind| *kind != "default") {
            return Err(format!(
                "rope_parameters.{SLIDING}.rope_type is {kind:?}, which is not supported"
            ));
        }
        let inner = inner_theta(inner)?;
        let default = match family {
            Family::Gemma3 => self.rope_local_base_freq.unwrap_or(1e4),
            _ => 5e5, // as in transformers, whatever rope_theta is
        };
        Ok(Some(inner.unwrap_or(default)))
    }

    /// The share of a head's numbers that are rotated, if a key says so.
    fn partial_rotary(&self) -> Option<f64> {
        const KEY: &str = "partial_rotary_factor";
        let of = |rope: Option<&Map<String, Value>>| rope.and_then(|rope| rope.get(KEY)?.as_f64());
        of(self.main_rope())
            .or(of(self.rope_scaling.as_ref()))
            .or(self.partial_rotary_factor)
    }

    /// The number of a head's numbers that are rotated, if it is not all.
    pub(super) fn rotary_width(&self, family: Family) -> Result<Option<usize>, String> {
        let Some(factor) = self.partial_rotary().filter(|factor| *factor != 1.0) else {
            return Ok(None);
        };
        if factor > 0.0 && factor < 1.0 {
            Ok(Some((self.head_width(family) as f64 * factor) as usize))
        } else {
            Err(format!(
                "partial_rotary_factor is {factor}, and must be above 0 and at most 1"
            ))
        }
    }

    /// The width of a head, if it does not follow from the other sizes.
    pub(super) fn head_dim(&self, family: Family) -> Option<usize> {
        self.head_dim
            .or_else(|| (family == Family::Gemma3).then_some(256))
    }

    fn head_width(&self, family: Family) -> usize {
        let heads = self.num_attention_heads.max(1);
        self.head_dim(family).unwrap_or(self.hidden_size / heads)
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
                let head = self.head_width(family) as f64;
                Scales {
                    embedding: self.embedding_multiplier.unwrap_or(1.0),
                    residual: self.residual_multiplier.unwrap_or(1.0),
                    attention: self.attention_multiplier.unwrap_or(1.0) * head.sqrt(),
                    logits: 1.0 / self.logits_scaling.unwrap_or(1.0),
                }
            }
            Family::Gemma3 => Scales {
                embedding: (self.hidden_size as f64).sqrt(),
                attention: (self.head_width(family) as f64
                    / self.query_pre_attn_scalar.unwrap_or(256.0))
                .sqrt(),
                ..Scales::default()
            },
            Family::Llama
            | Family::Qwen2
            | Family::Qwen3
            | Family::Mistral
            | Family::Phi3
            | Family::Olmo2
            | Family::Olmo3
            | Family::SmolLm3
            | Family::Hearth => Scales::default(),
        }
    }

    /// What differs between the layers.
    ///
    /// # Errors
    /// If a list does not have the length of the number of layers, or a kind of layers is not supported.
    pub(super) fn pattern(&self, family: Family) -> Result<LayerPattern, String> {
        let windowed = self.windowed(family)?;
        let window = match self.window() {
            _ if windowed.is_empty() => 0,
            Some(window) => window,
            None => return Err("sliding_window is null, and layers have a window".into()),
        };
        Ok(LayerPattern {
            unrotated: self.unrotated(family)?,
            windowed_theta: self.windowed_theta(family)?,
            windowed,
            window,
        })
    }

    /// The window in the layers that have one. As in transformers, a missing key means 4096, and null no window.
    fn window(&self) -> Option<usize> {
        self.sliding_window.unwrap_or(Some(4096))
    }

    /// The number of key heads.
    pub(super) fn kv_heads(&self, family: Family) -> usize {
        let default = match family {
            Family::Gemma3 => 4,
            _ => self.num_attention_heads,
        };
        self.num_key_value_heads.unwrap_or(default)
    }

    /// The layers with a window.
    fn windowed(&self, family: Family) -> Result<BTreeSet<usize>, String> {
        let layers = self.num_hidden_layers;
        if !self.layer_types.is_empty() {
            self.has_length("layer_types", self.layer_types.len())?;
        }
        let every = |pattern: usize| {
            let pattern = pattern.max(1);
            (0..layers).filter(move |layer| !(layer + 1).is_multiple_of(pattern))
        };
        let listed = || {
            let mut windowed = BTreeSet::new();
            for (layer, kind) in self.layer_types.iter().enumerate() {
                match kind.as_str() {
                    FULL => {}
                    SLIDING => _ = windowed.insert(layer),
                    other => {
                        return Err(format!(
                            "layer_types contains {other:?}, which is not supported"
                        ));
                    }
                }
            }
            Ok(windowed)
        };
        match family {
            Family::Phi3 if self.sliding_window.is_none() => Ok(BTreeSet::new()),
            Family::Mistral | Family::Phi3 if self.window().is_none() => Ok(BTreeSet::new()),
            Family::Mistral | Family::Phi3 if !self.layer_types.is_empty() => listed(),
            Family::Mistral | Family::Phi3 => Ok((0..layers).collect()),
            Family::Gemma3 | Family::Olmo3 if !self.layer_types.is_empty() => listed(),
            Family::Gemma3 => Ok(every(self.sliding_window_pattern.unwrap_or(6)).collect()),
            Family::Olmo3 => Ok(every(self.sliding_window_pattern.unwrap_or(4)).collect()),
            Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 if self.use_sliding_window => {
                if self.window().is_none() {
                    Ok(BTreeSet::new())
                } else if self.layer_types.is_empty() && family != Family::SmolLm3 {
                    Ok((self.max_window_layers.unwrap_or(28)..layers).collect())
                } else if self.layer_types.is_empty() {
                    Err("use_sliding_window is set, and layer_types is missing".into())
                } else {
                    listed()
                }
            }
            Family::Llama
            | Family::Qwen2
            | Family::Qwen3
            | Family::Olmo2
            | Family::SmolLm3
            | Family::Granite
            | Family::MiniCpm
            | Family::Hearth => {
                if self.use_sliding_window {
                    return Err("use_sliding_window is set, which is not supported".into());
                }
                let knows_windows =
                    matches!(family, Family::Qwen2 | Family::Qwen3 | Family::SmolLm3);
                match self.layer_types.iter().find(|kind| *kind != FULL) {
                    Some(kind) if knows_windows && kind == SLIDING => Err(format!(
                        "layer_types contains {kind:?}, which needs use_sliding_window"
                    )),
                    Some(kind) => Err(format!(
                        "layer_types contains {kind:?}, which is not supported in {}",
                        self.model_type
                    )),
                    None => Ok(BTreeSet::new()),
                }
            }
        }
    }

    /// Refuses a list that does not have an entry for each layer.
    fn has_length(&self, key: &str, length: usize) -> Result<(), String> {
        let layers = self.num_hidden_layers;
        if length == layers {
            Ok(())
        } else {
            Err(format!(
                "{key} has {length} entries, and there are {layers} layers"
            ))
        }
    }

    /// The layers without rotary embedding. If a SmolLM3 does not list them, every fourth is one.
    fn unrotated(&self, family: Family) -> Result<BTreeSet<usize>, String> {
        let layers = self.num_hidden_layers;
        if family != Family::SmolLm3 {
            return Ok(BTreeSet::new());
        }
        if let Some(rotated) = &self.no_rope_layers {
            self.has_length("no_rope_layers", rotated.len())?;
            return Ok((0..layers).filter(|layer| rotated[*layer] == 0).collect());
        }
        let interval = self.no_rope_layer_interval.unwrap_or(4).max(1);
        Ok((0..layers)
            .filter(|layer| (layer + 1) % interval == 0)
            .collect())
    }
}

/// θ of the keys that transformers 5 writes.
fn inner_theta(rope: Option<&Map<String, Value>>) -> Result<Option<f64>, String> {
    match rope.and_then(|rope| rope.get("rope_theta")) {
        None => Ok(None),
        Some(theta) => match theta.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(format!(
                "rope_parameters.rope_theta is {theta}, and must be a number"
            )),
        },
    }
}

/// The names of kinds of layers in `layer_types`.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
