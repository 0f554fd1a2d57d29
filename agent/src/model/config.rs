//! The sizes of a decoder, read from and written to Hugging Face's `config.json`.
//!
//! Several families share one decoder; [`Family`] lists them with what differs. If a file needs
//! anything else, it is refused, never ignored.

mod family;
mod keys;

use crate::error::AgentError;
use crate::files;
use crate::model::reading::config::{ConvolutionPlace, ReadingConfig};
use crate::model::rope::RopeScaling;
use keys::ConfigKeys;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

pub use family::{Family, Scales};

/// The most tokens, layers or units of width, so that sizes can be multiplied without overflow.
const SIZE_LIMIT: usize = 1 << 24;

/// The most layers. The names of their tensors are listed before the weights are read.
const LAYER_LIMIT: usize = 1 << 12;

/// The most tokens of a context times the width of a head. The rotary table takes eight bytes for
/// each. The longest context in use, a million tokens, needs half of it.
const TABLE_LIMIT: usize = 1 << 28;

/// The most bytes of a `config.json`.
const FILE_LIMIT: u64 = 1 << 20;

/// The sizes and constants of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The family.
    pub family: Family,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the SwiGLU block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads. It divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; `None` = `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// θ of the rotary embedding.
    pub rope_theta: f64,
    /// Scaling of the rotary embedding.
    pub rope_scaling: RopeScaling,
    /// Layers without rotary embedding.
    pub unrotated: BTreeSet<usize>,
    /// ε of RMSNorm.
    pub rms_norm_eps: f64,
    /// The most tokens of a context.
    pub max_position_embeddings: usize,
    /// Whether the embedding is also the output matrix.
    pub tie_word_embeddings: bool,
    /// MiniCPM's scales.
    pub scales: Scales,
    /// The additions of hearth's family; none in the others.
    pub reading: ReadingConfig,
    /// The keys of the file as they were read, so that they can be written again. Empty if the
    /// decoder was made here.
    pub source: Map<String, Value>,
}

impl Default for DecoderConfig {
    /// Returns a tied Llama without sizes. The caller sets the sizes.
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
            unrotated: BTreeSet::new(),
            rms_norm_eps: 1e-5,
            max_position_embeddings: 0,
            tie_word_embeddings: true,
            scales: Scales::default(),
            reading: ReadingConfig::default(),
            source: Map::new(),
        }
    }
}

impl DecoderConfig {
    /// Returns the width of one head.
    #[must_use]
    pub fn head_width(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Returns the width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.head_width() * self.num_attention_heads
    }

    /// Returns the width of all key heads together.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.head_width() * self.num_key_value_heads
    }

    /// Returns whether queries, keys and values have biases.
    #[must_use]
    pub fn has_biases(&self) -> bool {
        self.family.traits().biases
    }

    /// Returns whether the queries and keys of each head are normalised.
    #[must_use]
    pub fn has_head_norms(&self) -> bool {
        self.family.traits().head_norms
    }

    /// Refuses sizes with which a decoder cannot be built.
    ///
    /// # Errors
    /// If a size is out of range, or sizes do not fit each other. The message names them.
    pub fn check(&self) -> Result<(), AgentError> {
        self.check_sizes()
            .and_then(|()| self.check_heads())
            .and_then(|()| self.check_numbers())
            .and_then(|()| self.reading.check(self.vocab_size))
            .map_err(AgentError::Config)
    }

    fn check_sizes(&self) -> Result<(), String> {
        for (name, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("head_dim", self.head_width()),
        ] {
            if !(1..=SIZE_LIMIT).contains(&size) {
                return Err(format!(
                    "{name} is {size}, and must be from 1 to {SIZE_LIMIT}"
                ));
            }
        }
        if self.num_hidden_layers > LAYER_LIMIT {
            return Err(format!(
                "num_hidden_layers is {}, and must be at most {LAYER_LIMIT}",
                self.num_hidden_layers
            ));
        }
        let context = self.max_position_embeddings;
        let width = self.head_width();
        if context * width > TABLE_LIMIT {
            return Err(format!(
                "max_position_embeddings {context} times head_dim {width} is above {TABLE_LIMIT}"
            ));
        }
        Ok(())
    }

    fn check_heads(&self) -> Result<(), String> {
        let hidden = self.hidden_size;
        let heads = self.num_attention_heads;
        let kv_heads = self.num_key_value_heads;
        let splits = self.head_dim.is_some() || hidden.is_multiple_of(heads);
        if !splits || !self.head_width().is_multiple_of(2) {
            return Err(format!(
                "hidden_size {hidden} must split into {heads} heads of even width"
            ));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "num_key_value_heads {kv_heads} must divide num_attention_heads {heads}"
            ));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), String> {
        let positive = [
            self.rope_theta,
            self.rms_norm_eps,
            self.scales.embedding,
            self.scales.residual,
            self.scales.attention,
            self.scales.logits,
        ];
        if !positive
            .iter()
            .all(|number| number.is_finite() && *number > 0.0)
        {
            return Err("rope_theta, rms_norm_eps and the scales must be numbers above 0".into());
        }
        match &self.rope_scaling {
            RopeScaling::LongRope { short, .. } if short.len() != self.head_width() / 2 => {
                Err(format!(
                    "rope_scaling: short_factor has {} numbers, and a head of width {} needs {}",
                    short.len(),
                    self.head_width(),
                    self.head_width() / 2
                ))
            }
            _ => Ok(()),
        }
    }

    /// Returns names and shapes `[out, in]` of all trunk tensors, and of the output matrix if it is
    /// not the embedding.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let table = vec![self.vocab_size, self.hidden_size];
        let mut list = vec![("model.embed_tokens.weight".into(), table.clone())];
        list.extend(self.reading.input_tensors(self.hidden_size));
        for layer in 0..self.num_hidden_layers {
            for (name, shape) in self.layer_tensors() {
                list.push((format!("model.layers.{layer}.{name}"), shape));
            }
        }
        list.push(("model.norm.weight".into(), vec![self.hidden_size]));
        if !self.tie_word_embeddings {
            list.push((OUTPUT.into(), table));
        }
        list
    }

    fn layer_tensors(&self) -> Vec<(&'static str, Vec<usize>)> {
        let hidden = self.hidden_size;
        let inner = self.intermediate_size;
        let queries = self.query_width();
        let kv = self.kv_width();
        let mut list = vec![
            ("input_layernorm.weight", vec![hidden]),
            ("self_attn.q_proj.weight", vec![queries, hidden]),
            ("self_attn.k_proj.weight", vec![kv, hidden]),
            ("self_attn.v_proj.weight", vec![kv, hidden]),
        ];
        if self.has_biases() {
            list.extend([
                ("self_attn.q_proj.bias", vec![queries]),
                ("self_attn.k_proj.bias", vec![kv]),
                ("self_attn.v_proj.bias", vec![kv]),
            ]);
        }
        if self.has_head_norms() {
            let head = self.head_width();
            list.extend([
                ("self_attn.q_norm.weight", vec![head]),
                ("self_attn.k_norm.weight", vec![head]),
            ]);
        }
        list.extend([
            ("self_attn.o_proj.weight", vec![hidden, queries]),
            ("post_attention_layernorm.weight", vec![hidden]),
            ("mlp.gate_proj.weight", vec![inner, hidden]),
            ("mlp.up_proj.weight", vec![inner, hidden]),
            ("mlp.down_proj.weight", vec![hidden, inner]),
        ]);
        for place in ConvolutionPlace::ALL {
            if let Some(width) = self.reading.width_at(place) {
                list.push((place.tensor(), vec![width, self.channels_at(place)]));
            }
        }
        list
    }

    /// Numbers of a row at a place of a convolution.
    #[must_use]
    pub fn channels_at(&self, place: ConvolutionPlace) -> usize {
        match place {
            ConvolutionPlace::AttentionInput | ConvolutionPlace::MlpInput => self.hidden_size,
            ConvolutionPlace::QueryKeyValue => self.query_width() + 2 * self.kv_width(),
            ConvolutionPlace::GateUp => 2 * self.intermediate_size,
        }
    }

    /// Numbers that the convolutions keep of each token in each layer of a cache.
    #[must_use]
    pub fn convolved_width(&self) -> usize {
        ConvolutionPlace::ALL
            .into_iter()
            .filter(|place| self.reading.width_at(*place).is_some())
            .map(|place| self.channels_at(place))
            .sum()
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// If the file is missing, is not JSON, or describes a decoder that is not supported.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let bytes = files::read(path, FILE_LIMIT)?;
        let keys: Map<String, Value> = serde_json::from_slice(&files::standard_json(&bytes))
            .map_err(|error| AgentError::content(path, error.to_string()))?;
        Self::from_hugging_face(keys).map_err(|error| error.in_file(path))
    }

    /// Reads the keys of a `config.json`.
    ///
    /// # Errors
    /// If they describe a decoder that is not supported.
    pub fn from_hugging_face(source: Map<String, Value>) -> Result<Self, AgentError> {
        let config = Self::from_keys(source).map_err(AgentError::Config)?;
        config.check()?;
        Ok(config)
    }

    fn from_keys(source: Map<String, Value>) -> Result<Self, String> {
        let keys: ConfigKeys = serde_json::from_value(Value::Object(source.clone()))
            .map_err(|error| error.to_string())?;
        let family = Family::ALL
            .into_iter()
            .find(|family| family.name() == keys.model_type);
        let family = family.ok_or_else(|| {
            format!(
                "model_type {:?} is not known; known: {}",
                keys.model_type,
                Family::names()
            )
        })?;
        keys.refuse_unsupported()?;
        let reading = keys.reading(family)?;
        let mut context = keys.max_position_embeddings.unwrap_or(2048);
        let rope_scaling = match keys.rope_scaling.as_ref().or(keys.rope_parameters.as_ref()) {
            Some(rope) => RopeScaling::from_hugging_face(rope, context)?,
            None => RopeScaling::None,
        };
        if let RopeScaling::LongRope { original, .. } = &rope_scaling {
            context = context.min(*original as usize);
        }
        if let Some(window) = keys.window(family) {
            context = context.min(window); // within the window, attention is full
        }
        let inner_theta = keys
            .rope_parameters
            .as_ref()
            .and_then(|rope| rope.get("rope_theta")?.as_f64());
        if let (Some(outer), Some(inner)) = (keys.rope_theta, inner_theta)
            && outer != inner
        {
            return Err(format!(
                "rope_theta is {outer}, and rope_parameters.rope_theta is {inner}\n\
                 hint: transformers 5 uses the second; remove the wrong one"
            ));
        }
        Ok(Self {
            family,
            vocab_size: keys.vocab_size,
            hidden_size: keys.hidden_size,
            intermediate_size: keys.intermediate_size,
            num_hidden_layers: keys.num_hidden_layers,
            num_attention_heads: keys.num_attention_heads,
            num_key_value_heads: keys.num_key_value_heads.unwrap_or(keys.num_attention_heads),
            head_dim: keys.head_dim,
            rope_theta: keys.rope_theta.or(inner_theta).unwrap_or(10_000.0),
            rope_scaling,
            unrotated: keys.unrotated(family)?,
            rms_norm_eps: keys.rms_norm_eps.unwrap_or(1e-6),
            max_position_embeddings: context,
            tie_word_embeddings: keys.tie_word_embeddings.unwrap_or(family.traits().tied),
            scales: keys.scales(family),
            reading,
            source,
        })
    }

    /// Returns the keys of `config.json`: those that were read, overwritten by these sizes.
    #[must_use]
    pub fn to_hugging_face(&self) -> Map<String, Value> {
        let mut keys = self.source.clone();
        for (key, value) in [
            ("architectures", json!([self.family.traits().architecture])),
            ("model_type", json!(self.family.name())),
            ("hidden_act", json!("silu")),
            ("vocab_size", json!(self.vocab_size)),
            ("hidden_size", json!(self.hidden_size)),
            ("intermediate_size", json!(self.intermediate_size)),
            ("num_hidden_layers", json!(self.num_hidden_layers)),
            ("num_attention_heads", json!(self.num_attention_heads)),
            ("num_key_value_heads", json!(self.num_key_value_heads)),
            ("rms_norm_eps", json!(self.rms_norm_eps)),
            ("tie_word_embeddings", json!(self.tie_word_embeddings)),
            ("torch_dtype", json!("float32")),
        ] {
            keys.insert(key.into(), value);
        }
        self.insert_reading(&mut keys);
        keys.remove("dtype"); // transformers 5 writes it in place of torch_dtype
        if self.family == Family::SmolLm3 {
            let rotated = |layer| u8::from(!self.unrotated.contains(&layer));
            let rotated: Vec<u8> = (0..self.num_hidden_layers).map(rotated).collect();
            keys.insert("no_rope_layers".into(), json!(rotated));
        }
        if self.source.is_empty() {
            let context = self.max_position_embeddings;
            keys.insert("rope_theta".into(), json!(self.rope_theta));
            keys.insert("max_position_embeddings".into(), json!(context));
            if let Some(width) = self.head_dim {
                keys.insert("head_dim".into(), json!(width));
            }
        }
        keys
    }

    fn insert_reading(&self, keys: &mut Map<String, Value>) {
        let ReadingConfig {
            goal_match,
            ngram_embedding,
            convolution,
        } = &self.reading;
        if self.family == Family::Hearth {
            let classes = json!({
                "AutoConfig": "modeling_hearth.HearthConfig",
                "AutoModelForCausalLM": "modeling_hearth.HearthForCausalLM",
            });
            keys.insert("auto_map".into(), classes);
        }
        if let Some(goal) = goal_match {
            keys.insert("goal_match".into(), json!(goal));
        }
        if !ngram_embedding.is_empty() {
            keys.insert("ngram_embedding".into(), json!(ngram_embedding));
        }
        if let Some(convolution) = convolution {
            keys.insert("convolution".into(), json!(convolution));
        }
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AgentError> {
        let text = serde_json::to_string_pretty(&self.to_hugging_face())
            .map_err(|error| AgentError::Config(error.to_string()))?;
        scenarios::files::replace(path, (text + "\n").as_bytes())
            .map_err(|source| AgentError::file(path, source))
    }
}

/// Name of the output matrix if it is not the embedding, `[vocab, hidden]`.
pub const OUTPUT: &str = "lm_head.weight";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::tests::tiny_config;

    fn source(model_type: &str) -> Map<String, Value> {
        let value = json!({
            "model_type": model_type, "vocab_size": 64, "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2
        });
        value.as_object().expect("an object").clone()
    }

    /// A configuration of that family with one more key.
    fn with(model_type: &str, key: &str, value: Value) -> Result<DecoderConfig, AgentError> {
        let mut keys = source(model_type);
        keys.insert(key.into(), value);
        DecoderConfig::from_hugging_face(keys)
    }

    #[test]
    fn missing_keys_have_the_defaults_of_transformers() {
        let config = DecoderConfig::from_hugging_face(source("llama")).expect("fits");
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
    fn families_differ_in_biases_and_scales() {
        let qwen2 = with("qwen2", "tie_word_embeddings", json!(true)).expect("fits");
        assert_eq!(qwen2.tensors().len(), 1 + 4 * 12 + 1);
        let minicpm = with("minicpm", "scale_depth", json!(1.4)).expect("fits");
        assert_eq!(
            minicpm.scales,
            Scales {
                embedding: 1.0,
                residual: 0.7,
                attention: 1.0,
                logits: 1.0
            }
        );
    }

    #[test]
    fn unsupported_configurations_are_refused() {
        for (key, value, words) in [
            ("model_type", json!("gpt2"), "\"gpt2\" is not known"),
            ("hidden_act", json!("gelu"), "\"gelu\" is not supported"),
            ("attention_bias", json!(true), "attention_bias is set"),
            (
                "partial_rotary_factor",
                json!(0.5),
                "partial_rotary_factor is set",
            ),
            (
                "layer_types",
                json!(["full_attention", "sliding_attention"]),
                "layer_types",
            ),
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
            (
                "rope_scaling",
                json!({"type": "dynamic", "alpha": 1000.0}),
                "with alpha",
            ),
            ("hidden_size", json!("wide"), "invalid type"),
        ] {
            let error = with("llama", key, value).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn two_values_of_theta_are_refused() {
        let mut keys = source("llama");
        keys.insert("rope_theta".into(), json!(10_000.0));
        for (inner, fits) in [(10_000.0, true), (500_000.0, false)] {
            keys.insert(
                "rope_parameters".into(),
                json!({"rope_type": "default", "rope_theta": inner}),
            );
            let config = DecoderConfig::from_hugging_face(keys.clone());
            assert_eq!(config.is_ok(), fits);
            if let Err(error) = config {
                let error = error.to_string();
                assert!(
                    error.contains("10000") && error.contains("500000"),
                    "{error}"
                );
            }
        }
        keys.remove("rope_theta");
        let config = DecoderConfig::from_hugging_face(keys).expect("fits");
        assert_eq!(config.rope_theta, 500_000.0);
    }

    #[test]
    fn minicpm_ties_its_output_unless_the_file_says_otherwise() {
        let tied = |family, key, value| with(family, key, value).expect("fits").tie_word_embeddings;
        assert!(tied("minicpm", "bos_token_id", json!(1)));
        assert!(!tied("minicpm", "tie_word_embeddings", json!(false)));
        assert!(!tied("llama", "bos_token_id", json!(1)));
    }

    fn without_source(mut config: DecoderConfig) -> DecoderConfig {
        config.source = Map::new();
        config
    }

    #[test]
    fn unknown_keys_are_kept() {
        let config = with("qwen2", "bos_token_id", json!(7)).expect("fits");
        let written = config.to_hugging_face();
        assert_eq!(
            (&written["bos_token_id"], &written["architectures"]),
            (&json!(7), &json!(["Qwen2ForCausalLM"]))
        );
        let again = DecoderConfig::from_hugging_face(written).expect("fits");
        assert_eq!(without_source(again), without_source(config));
    }

    #[test]
    fn a_written_configuration_is_read_as_the_same() {
        let made = tiny_config();
        let again = DecoderConfig::from_hugging_face(made.to_hugging_face()).expect("fits");
        assert_eq!(without_source(again), made);
    }
}
