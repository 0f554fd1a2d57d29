//! The tensors of one layer, by their names in a checkpoint.

use crate::error::AgentError;
use crate::model::config::{DecoderConfig, LayerNorms};
use crate::model::reading::config::ConvolutionPlace;
use crate::model::weights::Weights;

/// The vectors V and matrices M of a layer.
pub(super) struct LayerWeights<V, M> {
    pub(super) norms: LayerNorms<V>,
    /// Queries, keys and values; their outputs are adjacent.
    pub(super) qkv: M,
    /// The biases of `qkv`, if the family has them.
    pub(super) bias: Option<V>,
    /// The norms of queries and of keys, over each head or over all heads, if the family has them.
    pub(super) query_norms: Option<[V; 2]>,
    /// Index of its kind of attention in [`DecoderConfig::attention_kinds`].
    pub(super) attention_kind: usize,
    pub(super) o: M,
    /// Gate and up; their outputs are adjacent.
    pub(super) gate_up: M,
    pub(super) down: M,
    /// The filters of the convolutions, in the order of [`ConvolutionPlace::ALL`].
    pub(super) filters: [Option<Filter<V>>; 4],
}

/// The filter of a convolution.
pub(super) struct Filter<V> {
    /// Number of its place in [`ConvolutionPlace::ALL`].
    pub(super) place: usize,
    pub(super) width: usize,
    /// `[width, channels]`, flat.
    pub(super) weight: V,
}

impl<V, M> LayerWeights<V, M> {
    /// Takes the tensors of layer `index` out of `weights`; the kind of its attention is kept with them. No number is held twice for longer than it takes to make
    /// its tensor.
    ///
    /// `vector` makes a vector of its numbers. `matrix` makes a matrix of its numbers
    /// `[outputs, inputs]` and this shape.
    ///
    /// # Errors
    /// If a tensor is missing or its shape differs from `config`.
    pub(super) fn take(
        config: &DecoderConfig,
        weights: &mut Weights,
        [index, attention_kind]: [usize; 2],
        vector: impl Fn(Vec<f32>) -> V,
        matrix: impl Fn(Vec<f32>, [usize; 2]) -> M,
    ) -> Result<Self, AgentError> {
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let queries = config.query_width();
        let kv = config.kv_width();
        let heads = [
            ("self_attn.q_proj", queries),
            ("self_attn.k_proj", kv),
            ("self_attn.v_proj", kv),
        ];
        let gate_up = [("mlp.gate_proj", inner), ("mlp.up_proj", inner)];
        let mut tensors = LayerTensors { weights, index };
        let offset = config.norm_offset();
        let mut norm = |part, width| tensors.norm(part, width, offset);
        let norms = (config.norms()).try_map(|part| norm(part, hidden).map(&vector))?;
        let bias = if config.has_biases() {
            Some(vector(tensors.vectors("bias", &heads)?))
        } else {
            None
        };
        let query_norms = if let Some([of_queries, of_keys]) = config.query_norm_widths() {
            let mut norm = |part, width| tensors.norm(part, width, offset);
            let queries = norm("self_attn.q_norm", of_queries)?;
            let keys = norm("self_attn.k_norm", of_keys)?;
            Some([vector(queries), vector(keys)])
        } else {
            None
        };
        let mut filters = [const { None }; 4];
        for (index, place) in ConvolutionPlace::ALL.into_iter().enumerate() {
            if let Some(width) = config.reading.width_at(place) {
                let data = tensors.filter(place, [width, config.channels_at(place)])?;
                filters[index] = Some(Filter {
                    place: index,
                    width,
                    weight: vector(data),
                });
            }
        }
        let (data, shape) = tensors.matrices(hidden, &heads)?;
        let qkv = matrix(data, shape);
        let (data, shape) = tensors.matrices(queries, &[("self_attn.o_proj", hidden)])?;
        let o = matrix(data, shape);
        let (data, shape) = tensors.matrices(hidden, &gate_up)?;
        let gate_up = matrix(data, shape);
        let (data, shape) = tensors.matrices(inner, &[("mlp.down_proj", hidden)])?;
        let down = matrix(data, shape);
        Ok(Self {
            norms,
            qkv,
            bias,
            query_norms,
            attention_kind,
            o,
            gate_up,
            down,
            filters,
        })
    }

    /// The filter at a place, if there is a convolution.
    pub(super) fn filter(&self, place: ConvolutionPlace) -> Option<&Filter<V>> {
        self.filters[place as usize].as_ref()
    }

    /// All matrices.
    pub(super) fn matrices(&self) -> [&M; 4] {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
    }
}

/// Takes the tensors of one layer out of weights.
struct LayerTensors<'a> {
    weights: &'a mut Weights,
    index: usize,
}

impl LayerTensors<'_> {
    /// Vectors, joined; `parts` are their names and sizes.
    fn vectors(&mut self, kind: &str, parts: &[(&str, usize)]) -> Result<Vec<f32>, AgentError> {
        let mut joined = Vec::new();
        for (part, size) in parts {
            let name = format!("model.layers.{}.{part}.{kind}", self.index);
            append(&mut joined, self.weights.take(&name, &[*size])?);
        }
        Ok(joined)
    }

    /// What a norm multiplies by.
    fn norm(&mut self, part: &str, width: usize, offset: f32) -> Result<Vec<f32>, AgentError> {
        let mut weight = self.vectors("weight", &[(part, width)])?;
        add_to_all(&mut weight, offset);
        Ok(weight)
    }

    /// The filter of a convolution, flat.
    fn filter(
        &mut self,
        place: ConvolutionPlace,
        shape: [usize; 2],
    ) -> Result<Vec<f32>, AgentError> {
        let name = format!("model.layers.{}.{}", self.index, place.tensor());
        self.weights.take(&name, &shape)
    }

    /// Matrices with the same inputs, joined, and the shape `[outputs, inputs]` of the result;
    /// `parts` are their names and outputs.
    fn matrices(
        &mut self,
        inputs: usize,
        parts: &[(&str, usize)],
    ) -> Result<(Vec<f32>, [usize; 2]), AgentError> {
        let mut joined = Vec::new();
        for (part, outputs) in parts {
            let name = format!("model.layers.{}.{part}.weight", self.index);
            append(&mut joined, self.weights.take(&name, &[*outputs, inputs])?);
        }
        let outputs = parts.iter().map(|(_, outputs)| outputs).sum();
        Ok((joined, [outputs, inputs]))
    }
}

/// What the last norm of a decoder multiplies by.
///
/// # Errors
/// If the tensor is missing or its shape differs from `config`.
pub(super) fn take_last_norm(
    config: &DecoderConfig,
    weights: &mut Weights,
) -> Result<Vec<f32>, AgentError> {
    let mut weight = weights.take("model.norm.weight", &[config.hidden_size])?;
    add_to_all(&mut weight, config.norm_offset());
    Ok(weight)
}

fn add_to_all(numbers: &mut [f32], offset: f32) {
    numbers.iter_mut().for_each(|number| *number += offset);
}

/// Appends numbers. The first ones are not copied.
fn append(joined: &mut Vec<f32>, numbers: Vec<f32>) {
    if joined.is_empty() {
        *joined = numbers;
    } else {
        joined.extend_from_slice(&numbers);
    }
}
