//! The sizes of a decoder, read from and written to Hugging Face's `config.json`.
//!
//! Several families share one decoder; [`Family`] lists them with what differs. If a file needs
//! anything else, it is refused, never ignored.

mod family;
mod keys;
mod pattern;

use crate::error::AgentError;
use crate::files;
use crate::model::reading::config::{ConvolutionPlace, ReadingConfig};
use crate::model::rope::{RopeScaling, RotaryEmbedding};
use kernels::elementwise::Activation;
use keys::ConfigKeys;
use pattern::LayerRotary;
use serde_json::{Map, Value, json};
use std::path::Path;

pub use family::{Family, Scales};
pub(crate) use family::{LayerNorms, QueryNorms};
pub use pattern::LayerPattern;

/// The most tokens, layers or units of width, so that sizes can be multiplied without overflow.
const SIZE_LIMIT: usize = 1 << 24;

/// The most layers. The names of their tensors are listed before the weights are read.
const LAYER_LIMIT: usize = 1 << 12;

/// The most tokens of a context times the width of a head. The rotary table takes eight bytes for
/// each. The longest context in use, a million tokens, needs half of it.
const TABLE_LIMIT: usize = 1 << 28;

/// The most bytes of a `config.json`.
const FILE_LIMIT: u64 = 1 << 20;

/// How a layer attends to earlier tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionKind {
    /// The rotary embedding.
    pub rotary: RotaryEmbedding,
    /// The number of tokens that a token sees, itself included; `None` = all.
    pub window: Option<usize>,
}

/// The sizes and constants of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The family.
    pub family: Family,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated unit.
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
    /// Numbers of a head that the rotary embedding rotates; `None` = all.
    pub rotary_width: Option<usize>,
    /// What differs between the layers.
    pub pattern: LayerPattern,
    /// The activation of the gated unit.
    pub activation: Activation,
    /// ε of RMSNorm.
    pub rms_norm_eps: f64,
    /// The most tokens of a context.
    pub max_position_embeddings: usize,
    /// Whether the embedding is also the output matrix.
    pub tie_word_embeddings: bool,
    /// Constant factors.
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
            rotary_width: None,
            pattern: LayerPattern::default(),
            activation: Activation::default(),
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

    /// Returns the widths of the norms of queries and of keys; `None` if the family has none.
    #[must_use]
    pub fn query_norm_widths(&self) -> Option<[usize; 2]> {
        match self.family.traits().query_norms {
            QueryNorms::None => None,
            QueryNorms::Head => Some([self.head_width(); 2]),
            QueryNorms::All => Some([self.query_width(), self.kv_width()]),
        }
    }

    /// Returns the names of the norms of a layer.
    #[must_use]
    pub(crate) fn norms(&self) -> LayerNorms<&'static str> {
        self.family.traits().norms
    }

    /// Returns what is added to the weight of a norm before it multiplies.
    #[must_use]
    pub(crate) fn norm_offset(&self) -> f32 {
        if self.family.traits().norms_minus_one {
            1.0
        } else {
            0.0
        }
    }

    /// Returns whether the family's checkpoints join matrices.
    #[must_use]
    pub(crate) fn joins_matrices(&self) -> bool {
        self.family.traits().joined
    }

    /// Returns the kinds of attention that the layers have, and the index of each layer's kind.
    #[must_use]
    pub fn attention_kinds(&self) -> (Vec<AttentionKind>, Vec<usize>) {
        let mut kinds = Vec::new();
        let of_layers = (0..self.num_hidden_layers).map(|layer| {
            let kind = AttentionKind {
                rotary: self.rotary_embedding(self.pattern.rotary(layer)),
                window: self.pattern.window(layer),
            };
            let known = kinds.iter().position(|known| *known == kind);
            known.unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            })
        });
        let of_layers = of_layers.collect();
        (kinds, of_layers)
    }

    fn rotary_embedding(&self, rotary: LayerRotary) -> RotaryEmbedding {
        let main = RotaryEmbedding {
            width: self.head_width(),
            rotated: self.rotated_width(),
            theta: self.rope_theta,
            scaling: self.rope_scaling.clone(),
            scores: self.scales.attention,
        };
        match rotary {
            LayerRotary::Main => main,
            LayerRotary::None => RotaryEmbedding { rotated: 0, ..main },
            LayerRotary::Windowed => RotaryEmbedding {
                theta: self.pattern.windowed_theta.unwrap_or(main.theta),
                scaling: RopeScaling::None,
                ..main
            },
        }
    }

    /// Returns how many numbers of a head the rotary embedding rotates.
    #[must_use]
    pub fn rotated_width(&self) -> usize {
        self.rotary_width.unwrap_or(self.head_width())
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
        check_layers(self.num_hidden_layers)?;
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
        let (rotated, width) = (self.rotated_width(), self.head_width());
        if !(2..=width).contains(&rotated) || !rotated.is_multiple_of(2) {
            return Err(format!(
                "partial_rotary_factor rotates {rotated} of {width} numbers of a head; the number must be even and above 0"
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
            self.pattern.windowed_theta.unwrap_or(1.0),
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
        let window = self.pattern.window;
        if !self.pattern.windowed.is_empty() && !(1..=SIZE_LIMIT).contains(&window) {
            return Err(format!(
                "sliding_window is {window}, and must be from 1 to {SIZE_LIMIT}"
            ));
        }
        match &self.rope_scaling {
            RopeScaling::LongRope { short, .. } if short.len() != self.rotated_width() / 2 => {
                Err(format!(
                    "rope_scaling: short_factor has {} numbers, and {} rotated numbers of a head need {}",
                    short.len(),
                    self.rotated_width(),
                    self.rotated_width() / 2
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

    fn layer_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden_size;
        let inner = self.intermediate_size;
        let queries = self.query_width();
        let kv = self.kv_width();
        let norms = self.norms();
        let mut list = Vec::new();
        let mut add = |name: &str, shape: &[usize]| list.push((name.to_owned(), shape.to_vec()));
        let norm = |place: Option<&str>| place.map(|name| format!("{name}.weight"));
        let before_attention = norm(norms.before_attention);
        before_attention
            .iter()
            .for_each(|name| add(name, &[hidden]));
        add("self_attn.q_proj.weight", &[queries, hidden]);
        add("self_attn.k_proj.weight", &[kv, hidden]);
        add("self_attn.v_proj.weight", &[kv, hidden]);
        if self.has_biases() {
            add("self_attn.q_proj.bias", &[queries]);
            add("self_attn.k_proj.bias", &[kv]);
            add("self_attn.v_proj.bias", &[kv]);
        }
        if let Some([of_queries, of_keys]) = self.query_norm_widths() {
            add("self_attn.q_norm.weight", &[of_queries]);
            add("self_attn.k_norm.weight", &[of_keys]);
        }
        add("self_attn.o_proj.weight", &[hidden, queries]);
        let between = [norm(norms.after_attention), norm(norms.before_mlp)];
        between
            .iter()
            .flatten()
            .for_each(|name| add(name, &[hidden]));
        add("mlp.gate_proj.weight", &[inner, hidden]);
        add("mlp.up_proj.weight", &[inner, hidden]);
        add("mlp.down_proj.weight", &[hidden, inner]);
        norm(norms.after_mlp)
            .iter()
            .for_each(|name| add(name, &[hidden]));
        for place in ConvolutionPlace::ALL {
            if let Some(width) = self.reading.width_at(place) {
                add(place.tensor(), &[width, self.channels_at(place)]);
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
            let hint = match keys.model_type.as_str() {
                "gemma3" => "\nhint: this is the model with images; save its text model, whose model_type is gemma3_text",
                _ => "",
            };
            format!(
                "model_type {:?} is not known; known: {}{hint}",
                keys.model_type,
                Family::names()
            )
        })?;
        let traits = family.traits();
        check_layers(keys.num_hidden_layers)?; // before layers are listed
        keys.refuse_unsupported(family)?;
        let reading = keys.reading(family)?;
        let default_context = match family {
            Family::Phi3 => 4096,
            _ => 2048,
        };
        let mut context = keys.max_position_embeddings.unwrap_or(default_context);
        let rope_scaling = match keys.rope(family)? {
            Some(rope) => RopeScaling::from_hugging_face(&rope, context)?,
            None => RopeScaling::None,
        };
        if let RopeScaling::LongRope { original, .. } = &rope_scaling {
            context = context.min(*original as usize);
        }
        let mut pattern = keys.pattern(family)?;
        pattern.window = pattern.window.min(SIZE_LIMIT); // no context is longer
        Ok(Self {
            family,
            vocab_size: keys.vocab_size,
            hidden_size: keys.hidden_size,
            intermediate_size: keys.intermediate_size,
            num_hidden_layers: keys.num_hidden_layers,
            num_attention_heads: keys.num_attention_heads,
            num_key_value_heads: keys.kv_heads(family),
            head_dim: keys.head_dim(family),
            rope_theta: keys.theta(family)?,
            rope_scaling,
            rotary_width: keys.rotary_width(family)?,
            pattern,
            activation: keys.activation(family)?,
            rms_norm_eps: keys.rms_norm_eps.unwrap_or(traits.epsilon),
            max_position_embeddings: context,
            tie_word_embeddings: keys.tie_word_embeddings.unwrap_or(traits.tied),
            scales: keys.scales(family),
            reading,
            source,
        })
    }

    /// Returns the keys of `config.json`: those that were read, overwritten by these sizes.
    #[must_use]
    pub fn to_hugging_face(&self) -> Map<String, Value> {
        let mut keys = self.source.clone();
        let traits = self.family.traits();
        for (key, value) in [
            ("architectures", json!([traits.architecture])),
            ("model_type", json!(self.family.name())),
            (
                traits.activation_key,
                json!(activation_name(self.activation)),
            ),
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
            let rotated = |layer| u8::from(!self.pattern.unrotated.contains(&layer));
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

/// Hugging Face's name of an activation.
pub(crate) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    }
}

fn check_layers(layers: usize) -> Result<(), String> {
    if layers > LAYER_LIMIT {
        return Err(format!(
            "num_hidden_layers is {layers}, and must be at most {LAYER_LIMIT}"
        ));
    }
    Ok(())
}

/// Name of the output matrix if it is not the embedding, `[vocab, hidden]`.
pub const OUTPUT: &str = "lm_head.weight";

#[cfg(test)]
mod tests;
