//! Weights on the host and on disk: named f32 tensors in Hugging Face's names and layouts (`[out, in]`), safetensors
//! files, `config.json`, and the model folder that holds them.
//!
//! ```text
//! MODEL/config.json  model.safetensors  tokenizer.json      the policy
//! MODEL/hearth.json                                         the text versions of the games that it learned from
//! MODEL/value/config.json  model.safetensors                the value network, where one was trained
//! ```

use crate::error::AgentError;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path};

/// Shape of a Llama-style decoder, in the words of Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Always `llama`.
    pub model_type: String,
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
    /// θ of the rotary embedding.
    pub rope_theta: f64,
    /// ε of RMSNorm.
    pub rms_norm_eps: f64,
    /// Most tokens in a context.
    pub max_position_embeddings: usize,
    /// Always true: the embedding is also the output matrix.
    pub tie_word_embeddings: bool,
}

impl DecoderConfig {
    /// Width of one head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Width of all key heads together.
    #[must_use]
    pub fn kv_dim(&self) -> usize {
        self.head_dim() * self.num_key_value_heads
    }

    /// Refuses shapes that cannot be built.
    ///
    /// # Errors
    /// Says which numbers do not fit.
    pub fn check(&self) -> Result<(), AgentError> {
        let refuse = |reason: String| Err(AgentError::Config(reason));
        let sizes = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.max_position_embeddings,
        ];
        if sizes.contains(&0) {
            return refuse("every size must be above 0".into());
        }
        if self.model_type != "llama" || !self.tie_word_embeddings {
            return refuse("only model_type \"llama\" with tied embeddings is supported".into());
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) || !self.head_dim().is_multiple_of(2) {
            return refuse(format!(
                "hidden_size {} must split into {} heads of even width",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return refuse(format!(
                "num_key_value_heads {} must divide num_attention_heads {}",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        Ok(())
    }

    /// Names and shapes of all trunk tensors.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner, kv) = (self.hidden_size, self.intermediate_size, self.kv_dim());
        let mut list = vec![("model.embed_tokens.weight".into(), vec![self.vocab_size, hidden])];
        for layer in 0..self.num_hidden_layers {
            let mut add =
                |name: &str, shape: &[usize]| list.push((format!("model.layers.{layer}.{name}.weight"), shape.into()));
            add("input_layernorm", &[hidden]);
            add("self_attn.q_proj", &[hidden, hidden]);
            add("self_attn.k_proj", &[kv, hidden]);
            add("self_attn.v_proj", &[kv, hidden]);
            add("self_attn.o_proj", &[hidden, hidden]);
            add("post_attention_layernorm", &[hidden]);
            add("mlp.gate_proj", &[inner, hidden]);
            add("mlp.up_proj", &[inner, hidden]);
            add("mlp.down_proj", &[hidden, inner]);
        }
        list.push(("model.norm.weight".into(), vec![hidden]));
        list
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the file is missing, not JSON, or describes a shape that cannot be built.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let text = std::fs::read_to_string(path).map_err(|source| AgentError::File { path: path.into(), source })?;
        let content = |reason: String| AgentError::Content { path: path.into(), reason };
        let config: Self = serde_json::from_str(&text).map_err(|e| content(e.to_string()))?;
        config.check().map_err(|e| content(e.to_string()))?;
        Ok(config)
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AgentError> {
        let text = serde_json::to_string_pretty(self).map_err(|e| AgentError::Config(e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|source| AgentError::File { path: path.into(), source })
    }
}

/// Name of the value head's tensor, `[1, hidden]`.
pub const VALUE_HEAD: &str = "value_head.weight";

/// One tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: Vec<f32>,
}

/// Named tensors on the host, in name order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights(pub BTreeMap<String, HostTensor>);

impl Weights {
    /// Fresh trunk weights: normal with σ = 1/√inputs for matrices, zero for the two that write into the residual
    /// stream (so that every layer begins as the identity and a token's own embedding is what the first updates see),
    /// σ = 0.02 for the embedding, ones for norms.
    #[must_use]
    pub fn random(config: &DecoderConfig, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let make = |(name, shape): (String, Vec<usize>)| {
            let size: usize = shape.iter().product();
            let data = if shape.len() == 1 {
                vec![1.0; size]
            } else {
                let deviation = match name.as_str() {
                    "model.embed_tokens.weight" => 0.02,
                    name if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => 0.0,
                    _ => 1.0 / (shape[1] as f32).sqrt(),
                };
                (0..size).map(|_| normal(&mut rng) * deviation).collect()
            };
            (name, HostTensor { shape, data })
        };
        Self(config.tensors().into_iter().map(make).collect())
    }

    /// The same trunk with a value head of zeros: V ≡ 0 before the first update.
    #[must_use]
    pub fn with_zero_value_head(&self, config: &DecoderConfig) -> Self {
        let mut weights = self.clone();
        let head = HostTensor { shape: vec![1, config.hidden_size], data: vec![0.0; config.hidden_size] };
        weights.0.insert(VALUE_HEAD.into(), head);
        weights
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<&[f32], AgentError> {
        let tensor = self.0.get(name).ok_or_else(|| AgentError::Config(format!("tensor {name} is missing")))?;
        if tensor.shape != shape {
            return Err(AgentError::Config(format!("tensor {name} has shape {:?}, expected {shape:?}", tensor.shape)));
        }
        Ok(&tensor.data)
    }

    /// SHA-256 over names, shapes and bytes: what trajectories call the policy's hash (first 16 hex digits).
    #[must_use]
    pub fn hash(&self) -> String {
        let mut digest = Sha256::new();
        for (name, tensor) in &self.0 {
            digest.update(name.as_bytes());
            tensor.shape.iter().for_each(|size| digest.update((*size as u64).to_le_bytes()));
            tensor.data.iter().for_each(|value| digest.update(value.to_le_bytes()));
        }
        digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads a safetensors file of f32 tensors.
    ///
    /// # Errors
    /// When the file is missing, damaged, or holds another type.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let bytes = std::fs::read(path).map_err(|source| AgentError::File { path: path.into(), source })?;
        let content = |reason: String| AgentError::Content { path: path.into(), reason };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| content(e.to_string()))?;
        let mut weights = Self::default();
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(content(format!("tensor {name} is {:?}; only F32 is read", view.dtype())));
            }
            let data = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            weights.0.insert(name.to_string(), HostTensor { shape: view.shape().to_vec(), data });
        }
        Ok(weights)
    }

    /// Writes a safetensors file: first beside, then renamed, so that a killed run leaves the old file whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AgentError> {
        let content = |reason: String| AgentError::Content { path: path.into(), reason };
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = (self.0.iter())
            .map(|(name, tensor)| (name, &tensor.shape, tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let mut views = Vec::with_capacity(bytes.len());
        for (name, shape, data) in &bytes {
            let view = TensorView::new(Dtype::F32, (*shape).clone(), data).map_err(|e| content(e.to_string()))?;
            views.push((name.as_str(), view));
        }
        let metadata = Some([("format".to_string(), "pt".to_string())].into());
        let whole = safetensors::serialize(views, metadata).map_err(|e| content(e.to_string()))?;
        let beside = path.with_extension("safetensors.new");
        let file_error = |source| AgentError::File { path: path.into(), source };
        std::fs::write(&beside, whole).map_err(file_error)?;
        std::fs::rename(&beside, path).map_err(file_error)
    }
}

/// A standard normal number (Box–Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f32, f32) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// `[rows, columns]` to `[columns, rows]`.
#[must_use]
pub fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| data[r * columns + c])).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn tiny_config() -> DecoderConfig {
        DecoderConfig {
            model_type: "llama".into(),
            vocab_size: 37,
            hidden_size: 24,
            intermediate_size: 40,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 64,
            tie_word_embeddings: true,
        }
    }

    #[test]
    fn saved_weights_come_back_with_the_same_hash() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.safetensors");
        let weights = Weights::random(&tiny_config(), 7);
        weights.save(&path).expect("saves");
        let again = Weights::open(&path).expect("opens");
        assert_eq!(again, weights);
        assert_eq!(again.hash(), weights.hash());
        assert_ne!(Weights::random(&tiny_config(), 8).hash(), weights.hash());
    }

    #[test]
    fn a_truncated_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.safetensors");
        Weights::random(&tiny_config(), 7).save(&path).expect("saves");
        let bytes = std::fs::read(&path).expect("reads");
        for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).expect("writes");
            let error = Weights::open(&path).expect_err("truncated");
            assert!(error.to_string().contains("model.safetensors"), "{error}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let mut config = tiny_config();
        config.num_key_value_heads = 3;
        assert!(config.check().expect_err("3 does not divide 4").to_string().contains("num_key_value_heads 3"));
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let data: Vec<f32> = (0..6_u8).map(f32::from).collect();
        assert_eq!(transposed(&data, 2, 3), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(transposed(&transposed(&data, 2, 3), 3, 2), data);
    }
}
