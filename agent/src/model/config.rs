//! The shape of a decoder, read from and written as Hugging Face's `config.json`.
//!
//! Three families share one decoder: Llama (arXiv 2302.13971), Qwen2 (arXiv 2407.10671: biases on queries, keys and
//! values) and MiniCPM (arXiv 2404.06395: scaled embeddings, residual branches and logits). What a file asks for beyond
//! that is refused, never ignored.

use crate::error::AgentError;
use crate::files;
use crate::model::rope::RopeScaling;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Tokens, layers or units of width may be at most this many, so that sizes can be multiplied without overflow.
const SIZE_LIMIT: usize = 1 << 24;

/// Layers may be at most this many: the names of their tensors are listed before the weights are looked at.
const LAYER_LIMIT: usize = 1 << 12;

/// A context may have this many tokens, times the width of a head: its rotary table takes eight bytes for each. The
/// longest in use, of a million tokens, need half of it.
const TABLE_LIMIT: usize = 1 << 28;

/// A `config.json` may have this many bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Whose decoder it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// No biases, no scales.
    Llama,
    /// Biases on queries, keys and values.
    Qwen2,
    /// Scaled embeddings, residual branches and logits.
    MiniCpm,
}

impl Family {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::MiniCpm];

    /// Hugging Face's `model_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::MiniCpm => "minicpm",
        }
    }

    /// Hugging Face's class.
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::MiniCpm => "MiniCPMForCausalLM",
        }
    }
}

/// MiniCPM's scales; all 1 in the other families.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Embeddings are multiplied by it.
    pub embedding: f64,
    /// What a layer adds to the residual stream is multiplied by it.
    pub residual: f64,
    /// Logits are multiplied by it.
    pub logits: f64,
}

impl Default for Scales {
    fn default() -> Self {
        Self {
            embedding: 1.0,
            residual: 1.0,
            logits: 1.0,
        }
    }
}

/// Shape of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Whose it is.
    pub family: Family,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the SwiGLU block.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; `None` = `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// θ of the rotary embedding.
    pub rope_theta: f64,
    /// How the rotary embedding is stretched.
    pub rope_scaling: RopeScaling,
    /// ε of RMSNorm.
    pub rms_norm_eps: f64,
    /// Most tokens in a context.
    pub max_position_embeddings: usize,
    /// Whether the embedding is also the output matrix.
    pub tie_word_embeddings: bool,
    /// MiniCPM's scales.
    pub scales: Scales,
    /// The keys of the file as they were, to be written again; empty for a decoder that was made here.
    pub source: Map<String, Value>,
}

impl Default for DecoderConfig {
    /// A tied Llama without sizes, which are to be filled in.
    fn default() -> Self {
        Self {
            family: Family::Llama,
            vocab_size: 0,
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: None,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 0,
            tie_word_embeddings: true,
            scales: Scales::default(),
            source: Map::new(),
        }
    }
}

/// The keys that matter here, with Hugging Face's defaults.
#[derive(Deserialize)]
struct Keys {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    rope_parameters: Option<Map<String, Value>>,
    rms_norm_eps: Option<f64>,
    max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    scale_emb: Option<f64>,
    scale_depth: Option<f64>,
    dim_model_base: Option<f64>,
    num_experts: Option<usize>,
    quantization_config: Option<Value>,
}

impl DecoderConfig {
    /// Width of one head.
    #[must_use]
    pub fn head_width(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.head_width() * self.num_attention_heads
    }

    /// Width of all key heads together.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.head_width() * self.num_key_value_heads
    }

    /// Whether queries, keys and values have biases.
    #[must_use]
    pub fn has_biases(&self) -> bool {
        self.family == Family::Qwen2
    }

    /// Refuses shapes that cannot be built.
    ///
    /// # Errors
    /// Says which numbers do not fit.
    pub fn check(&self) -> Result<(), AgentError> {
        let refuse = |reason: String| Err(AgentError::Config(reason));
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("head_dim", self.head_width()),
        ];
        if let Some((name, size)) = sizes
            .into_iter()
            .find(|(_, size)| !(1..=SIZE_LIMIT).contains(size))
        {
            return refuse(format!(
                "{name} is {size}, and must be from 1 to {SIZE_LIMIT}"
            ));
        }
        if self.num_hidden_layers > LAYER_LIMIT {
            return refuse(format!(
                "num_hidden_layers is {}, and may be {LAYER_LIMIT}",
                self.num_hidden_layers
            ));
        }
        let (context, width) = (self.max_position_embeddings, self.head_width());
        if context * width > TABLE_LIMIT {
            return refuse(format!(
                "max_position_embeddings {context} times head_dim {width} is above {TABLE_LIMIT}"
            ));
        }
        let splits =
            self.head_dim.is_some() || self.hidden_size.is_multiple_of(self.num_attention_heads);
        if !splits || !self.head_width().is_multiple_of(2) {
            let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
            return refuse(format!(
                "hidden_size {hidden} must split into {heads} heads of even width"
            ));
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
            return refuse(format!(
                "num_key_value_heads {kv_heads} must divide num_attention_heads {heads}"
            ));
        }
        let Scales {
            embedding,
            residual,
            logits,
        } = self.scales;
        let positive = [
            self.rope_theta,
            self.rms_norm_eps,
            embedding,
            residual,
            logits,
        ];
        if !positive
            .iter()
            .all(|number| number.is_finite() && *number > 0.0)
        {
            return refuse(
                "rope_theta, rms_norm_eps and the scales must be numbers above 0".into(),
            );
        }
        match &self.rope_scaling {
            RopeScaling::LongRope { short, .. } if short.len() != self.head_width() / 2 => {
                refuse(format!(
                    "rope_scaling: short_factor has {} numbers, and a head of width {} needs {}",
                    short.len(),
                    self.head_width(),
                    self.head_width() / 2
                ))
            }
            _ => Ok(()),
        }
    }

    /// Names and shapes of all trunk tensors, `[out, in]`; and of the output matrix, where it is one of its own.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (queries, kv) = (self.query_width(), self.kv_width());
        let mut list = vec![(
            "model.embed_tokens.weight".into(),
            vec![self.vocab_size, hidden],
        )];
        for layer in 0..self.num_hidden_layers {
            let mut add = |name: &str, shape: &[usize]| {
                list.push((format!("model.layers.{layer}.{name}"), shape.into()))
            };
            add("input_layernorm.weight", &[hidden]);
            add("self_attn.q_proj.weight", &[queries, hidden]);
            add("self_attn.k_proj.weight", &[kv, hidden]);
            add("self_attn.v_proj.weight", &[kv, hidden]);
            if self.has_biases() {
                add("self_attn.q_proj.bias", &[queries]);
                add("self_attn.k_proj.bias", &[kv]);
                add("self_attn.v_proj.bias", &[kv]);
            }
            add("self_attn.o_proj.weight", &[hidden, queries]);
            add("post_attention_layernorm.weight", &[hidden]);
            add("mlp.gate_proj.weight", &[inner, hidden]);
            add("mlp.up_proj.weight", &[inner, hidden]);
            add("mlp.down_proj.weight", &[hidden, inner]);
        }
        list.push(("model.norm.weight".into(), vec![hidden]));
        if !self.tie_word_embeddings {
            list.push((OUTPUT.into(), vec![self.vocab_size, hidden]));
        }
        list
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the file is missing, not JSON, or describes a decoder that is not built here.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let content = |reason: String| AgentError::Content {
            path: path.into(),
            reason,
        };
        let bytes = files::read(path, FILE_LIMIT)?;
        let keys: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|e| content(e.to_string()))?;
        Self::from_hugging_face(keys).map_err(|error| match error {
            AgentError::Config(reason) => content(reason),
            other => other,
        })
    }

    /// Reads the keys of a `config.json`.
    ///
    /// # Errors
    /// When they describe a decoder that is not built here.
    pub fn from_hugging_face(source: Map<String, Value>) -> Result<Self, AgentError> {
        let refused = AgentError::Config;
        let keys: Keys = serde_json::from_value(Value::Object(source.clone()))
            .map_err(|e| refused(e.to_string()))?;
        let family = Family::ALL
            .into_iter()
            .find(|family| family.name() == keys.model_type);
        let family = family.ok_or_else(|| {
            refused(format!(
                "model_type {:?} is not known; known: llama, qwen2, minicpm",
                keys.model_type
            ))
        })?;
        keys.refuse_what_is_not_built().map_err(refused)?;
        let mut context = keys.max_position_embeddings.unwrap_or(2048);
        let rope = keys.rope_scaling.as_ref().or(keys.rope_parameters.as_ref());
        let rope_scaling = rope.map_or(Ok(RopeScaling::None), |rope| {
            RopeScaling::from_hugging_face(rope, context)
        });
        let rope_scaling = rope_scaling.map_err(refused)?;
        if let RopeScaling::LongRope { original, .. } = &rope_scaling {
            context = context.min(*original as usize);
        }
        let theta_inside = keys
            .rope_parameters
            .as_ref()
            .and_then(|rope| rope.get("rope_theta")?.as_f64());
        let config = Self {
            family,
            vocab_size: keys.vocab_size,
            hidden_size: keys.hidden_size,
            intermediate_size: keys.intermediate_size,
            num_hidden_layers: keys.num_hidden_layers,
            num_attention_heads: keys.num_attention_heads,
            num_key_value_heads: keys.num_key_value_heads.unwrap_or(keys.num_attention_heads),
            head_dim: keys.head_dim,
            rope_theta: keys.rope_theta.or(theta_inside).unwrap_or(10_000.0),
            rope_scaling,
            rms_norm_eps: keys.rms_norm_eps.unwrap_or(1e-6),
            max_position_embeddings: context,
            tie_word_embeddings: keys.tie_word_embeddings.unwrap_or(false),
            scales: keys.scales(family),
            source,
        };
        config.check()?;
        Ok(config)
    }

    /// The keys of `config.json`: those that were read, and over them what this shape says.
    #[must_use]
    pub fn to_hugging_face(&self) -> Map<String, Value> {
        let mut keys = self.source.clone();
        let mut set = |key: &str, value: Value| keys.insert(key.into(), value);
        set("architectures", json!([self.family.architecture()]));
        set("model_type", json!(self.family.name()));
        set("hidden_act", json!("silu"));
        set("vocab_size", json!(self.vocab_size));
        set("hidden_size", json!(self.hidden_size));
        set("intermediate_size", json!(self.intermediate_size));
        set("num_hidden_layers", json!(self.num_hidden_layers));
        set("num_attention_heads", json!(self.num_attention_heads));
        set("num_key_value_heads", json!(self.num_key_value_heads));
        set("rms_norm_eps", json!(self.rms_norm_eps));
        set("tie_word_embeddings", json!(self.tie_word_embeddings));
        set("torch_dtype", json!("float32"));
        keys.remove("dtype"); // transformers 5 writes it instead
        let mut set = |key: &str, value: Value| keys.insert(key.into(), value);
        if self.source.is_empty() {
            set("rope_theta", json!(self.rope_theta));
            set(
                "max_position_embeddings",
                json!(self.max_position_embeddings),
            );
            if let Some(width) = self.head_dim {
                set("head_dim", json!(width));
            }
        }
        keys
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AgentError> {
        let text = serde_json::to_string_pretty(&self.to_hugging_face())
            .map_err(|e| AgentError::Config(e.to_string()))?;
        scenarios::files::replace(path, (text + "\n").as_bytes()).map_err(|source| {
            AgentError::File {
                path: path.into(),
                source,
            }
        })
    }
}

/// Name of the output matrix where it is not the embedding, `[vocab, hidden]`.
pub const OUTPUT: &str = "lm_head.weight";

impl Keys {
    /// Refuses what would change the numbers and is not computed here.
    fn refuse_what_is_not_built(&self) -> Result<(), String> {
        let not_built = [
            (self.attention_bias, "attention_bias"),
            (self.mlp_bias, "mlp_bias"),
            (self.use_sliding_window, "use_sliding_window"),
            (
                self.num_experts.is_some_and(|experts| experts > 0),
                "num_experts",
            ),
            (self.quantization_config.is_some(), "quantization_config"),
        ];
        if let Some((_, key)) = not_built.into_iter().find(|(asked, _)| *asked) {
            return Err(format!("{key} is asked for, and is not supported"));
        }
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => Ok(()),
            Some(other) => Err(format!(
                "hidden_act {other:?} is not supported; only \"silu\""
            )),
        }
    }

    /// MiniCPM's scales from its own keys.
    fn scales(&self, family: Family) -> Scales {
        if family != Family::MiniCpm {
            return Scales::default();
        }
        let layers = self.num_hidden_layers as f64;
        Scales {
            embedding: self.scale_emb.unwrap_or(1.0),
            residual: self.scale_depth.map_or(1.0, |depth| depth / layers.sqrt()),
            logits: self
                .dim_model_base
                .map_or(1.0, |base| base / self.hidden_size as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::tests::tiny_config;

    fn keys(model_type: &str) -> Map<String, Value> {
        let value = json!({
            "model_type": model_type, "vocab_size": 64, "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2
        });
        value.as_object().expect("an object").clone()
    }

    fn with(model_type: &str, key: &str, value: Value) -> Result<DecoderConfig, AgentError> {
        let mut keys = keys(model_type);
        keys.insert(key.into(), value);
        DecoderConfig::from_hugging_face(keys)
    }

    #[test]
    fn what_a_file_leaves_out_is_what_transformers_takes() {
        let config = DecoderConfig::from_hugging_face(keys("llama")).expect("fits");
        assert_eq!(
            (
                config.rope_theta,
                config.rms_norm_eps,
                config.max_position_embeddings
            ),
            (1e4, 1e-6, 2048)
        );
        assert!(!config.tie_word_embeddings && !config.has_biases());
        assert_eq!(
            (config.head_width(), config.kv_width(), config.scales),
            (6, 12, Scales::default())
        );
        let shapes: Vec<String> = config.tensors().into_iter().map(|(name, _)| name).collect();
        assert_eq!(shapes.len(), 1 + 4 * 9 + 2);
        assert_eq!(shapes.last().map(String::as_str), Some("lm_head.weight"));
    }

    #[test]
    fn families_differ_where_they_should() {
        let qwen2 = with("qwen2", "tie_word_embeddings", json!(true)).expect("fits");
        assert_eq!(qwen2.tensors().len(), 1 + 4 * 12 + 1);
        let minicpm = with("minicpm", "scale_depth", json!(1.4)).expect("fits");
        assert_eq!(
            minicpm.scales,
            Scales {
                embedding: 1.0,
                residual: 0.7,
                logits: 1.0
            }
        );
    }

    #[test]
    fn what_is_not_computed_is_refused() {
        for (key, value, words) in [
            ("model_type", json!("gpt2"), "\"gpt2\" is not known"),
            ("hidden_act", json!("gelu"), "\"gelu\" is not supported"),
            ("attention_bias", json!(true), "attention_bias is asked for"),
            ("use_sliding_window", json!(true), "use_sliding_window"),
            (
                "num_key_value_heads",
                json!(3),
                "num_key_value_heads 3 must divide",
            ),
            ("num_attention_heads", json!(5), "must split into 5 heads"),
            ("hidden_size", json!(0), "hidden_size is 0"),
            (
                "vocab_size",
                json!(1_u64 << 40),
                "vocab_size is 1099511627776",
            ),
            ("rms_norm_eps", json!(-1.0), "must be numbers above 0"),
            (
                "rope_scaling",
                json!({"rope_type": "spiral"}),
                "\"spiral\" is not known",
            ),
            ("hidden_size", json!("wide"), "invalid type"),
        ] {
            let said = with("llama", key, value).expect_err("refused").to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn keys_that_are_not_ours_are_written_again() {
        let config = with("qwen2", "bos_token_id", json!(7)).expect("fits");
        let written = config.to_hugging_face();
        assert_eq!(
            (&written["bos_token_id"], &written["architectures"]),
            (&json!(7), &json!(["Qwen2ForCausalLM"]))
        );
        let again = DecoderConfig::from_hugging_face(written).expect("fits");
        assert_eq!(
            DecoderConfig {
                source: Map::new(),
                ..again
            },
            DecoderConfig {
                source: Map::new(),
                ..config
            }
        );
    }

    #[test]
    fn a_decoder_made_here_comes_back() {
        let made = tiny_config();
        let again = DecoderConfig::from_hugging_face(made.to_hugging_face()).expect("fits");
        assert_eq!(
            DecoderConfig {
                source: Map::new(),
                ..again
            },
            made
        );
    }
}
