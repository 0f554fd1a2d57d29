//! One layer's tensors, by their names in a checkpoint, as whichever engine holds them.

use crate::error::AgentError;
use crate::model::config::DecoderConfig;
use crate::model::weights::Weights;

/// Vectors V and matrices M of a layer.
pub(super) struct Layer<V, M> {
    pub(super) input_norm: V,
    /// Queries, keys and values side by side.
    pub(super) qkv: M,
    /// Of these, where the family has them.
    pub(super) bias: Option<V>,
    pub(super) o: M,
    pub(super) post_norm: V,
    /// Gate and up side by side.
    pub(super) gate_up: M,
    pub(super) down: M,
}

impl<V, M> Layer<V, M> {
    /// Takes a layer out of weights, so that no number is held twice for longer than it takes to make its tensor:
    /// `vector` of numbers, `matrix` of a matrix `[outputs, inputs]`, which the second argument says.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub(super) fn take(
        config: &DecoderConfig,
        weights: &mut Weights,
        index: usize,
        vector: impl Fn(Vec<f32>) -> V,
        matrix: impl Fn(Vec<f32>, [usize; 2]) -> M,
    ) -> Result<Self, AgentError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, kv) = (config.query_width(), config.kv_width());
        let heads = [
            ("self_attn.q_proj", queries),
            ("self_attn.k_proj", kv),
            ("self_attn.v_proj", kv),
        ];
        let name = |part: &str, kind: &str| format!("model.layers.{index}.{part}.{kind}");
        let mut vector = |kind: &str, parts: &[(&str, usize)]| {
            let parts = parts
                .iter()
                .map(|(part, size)| weights.take(&name(part, kind), &[*size]));
            Ok::<V, AgentError>(vector(side_by_side(parts)?))
        };
        let input_norm = vector("weight", &[("input_layernorm", hidden)])?;
        let post_norm = vector("weight", &[("post_attention_layernorm", hidden)])?;
        let bias = config
            .has_biases()
            .then(|| vector("bias", &heads))
            .transpose()?;
        let mut matrix = |inputs: usize, parts: &[(&str, usize)]| {
            let outputs = parts.iter().map(|(_, outputs)| outputs).sum();
            let parts = parts
                .iter()
                .map(|(part, outputs)| weights.take(&name(part, "weight"), &[*outputs, inputs]));
            Ok::<M, AgentError>(matrix(side_by_side(parts)?, [outputs, inputs]))
        };
        Ok(Self {
            input_norm,
            qkv: matrix(hidden, &heads)?,
            bias,
            o: matrix(queries, &[("self_attn.o_proj", hidden)])?,
            post_norm,
            gate_up: matrix(hidden, &[("mlp.gate_proj", inner), ("mlp.up_proj", inner)])?,
            down: matrix(inner, &[("mlp.down_proj", hidden)])?,
        })
    }
}

/// Numbers one after the other, the first in their own memory.
fn side_by_side(
    parts: impl Iterator<Item = Result<Vec<f32>, AgentError>>,
) -> Result<Vec<f32>, AgentError> {
    let mut joined = Vec::new();
    for part in parts {
        let part = part?;
        if joined.is_empty() {
            joined = part
        } else {
            joined.extend_from_slice(&part)
        }
    }
    Ok(joined)
}
