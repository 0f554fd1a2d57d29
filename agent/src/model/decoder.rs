//! The transformer that is trained: a Llama-style decoder on burn, in one file from top to bottom.
//!
//! RMSNorm, rotary position embedding (rotate-half), grouped-query attention, a gated unit (Touvron et
//! al., arXiv 2302.13971; Ainslie et al., arXiv 2305.13245), and what else the family
//! has ([`crate::model::config`]). It depends on token ids, not on text.
//!
//! Attention, norms, gated units and the logits are operations of [`kernels::ops`], which are fused on the
//! CPU in f32. Policy and reference use the same operations: if their weights are equal, their
//! results are equal to the bit.
//!
//! [`crate::model::parameters`] loads the weights. [`crate::model::checkpointing`] has the forward
//! and backward pass with activation checkpointing. The same computation for generation, with a KV
//! cache, is [`crate::inference`]; a test checks that the two agree.

use crate::error::AgentError;
use crate::model::config::{AttentionKind, LayerNorms, Scales};
use crate::model::reading::config::{ConvolutionPlace, ReadingConfig};
use crate::model::reading::features::TokenFeatures;
use crate::model::reading::inputs::{InputTensors, NgramTensors};
use crate::model::value_heads::bin_centres;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};
use kernels::elementwise::Activation;
use kernels::ops::{self, AttentionPositions, AttentionShape};
use scenarios::WeightFormat;
use serde::{Deserialize, Serialize};

/// The precision of the products in linear layers. Parameters and their gradients, norms,
/// rotations, attention scores, softmax, logits and values are always f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, of which the mantissa has eight. The tensor cores of a GPU are fast in it; a CPU is
    /// slower.
    Bf16,
}

impl Precision {
    /// Returns the precision of products on burn if matrices are stored in this format; `None` if
    /// burn does not have such numbers.
    #[must_use]
    pub fn of(format: WeightFormat) -> Option<Self> {
        match format {
            WeightFormat::Exact => Some(Self::F32),
            WeightFormat::Bf16 => Some(Self::Bf16),
            WeightFormat::F16 | WeightFormat::Q8 => None,
        }
    }

    /// The name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Checks that a device multiplies in this precision; where it does not, results would be wrong.
    ///
    /// # Errors
    /// [`AgentError::Device`] if it does not.
    pub fn check(self, device: &Device) -> Result<(), AgentError> {
        if device.supports_dtype(self.dtype()) {
            return Ok(());
        }
        Err(AgentError::Device {
            device: format!("{device:?}"),
            reason:
                "it does not compute in bf16\nhint: use f32, which is --weights exact at play and \
                     precision = \"f32\" in a job"
                    .into(),
        })
    }

    /// The type of the operands.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Converts an operand to the type of the product.
    pub(crate) fn narrow<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(DType::BF16),
        }
    }

    /// Converts a product back to 32 bits.
    pub(crate) fn widen<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(DType::F32),
        }
    }

    /// x·W in 32 bits, if x is narrowed; with an adapter x·W + α/r · (x·A)·B.
    ///
    /// Unlike x·(W + α/r · A·B), this needs no gradient of W's size, and a small A·B is not lost in
    /// the rounding of a large W.
    fn product(self, x: Tensor<2>, weight: &Param<Tensor<2>>) -> Tensor<2> {
        let Some(adapter) = weight.adapter() else {
            return self.widen(x.matmul(self.narrow(weight.val())));
        };
        let [down, up] = [&adapter.a, &adapter.b].map(|factor| self.narrow(factor.val()));
        let added = self.widen(x.clone().matmul(down).matmul(up)) * adapter.scale;
        self.widen(x.matmul(self.narrow(weight.base()))) + added
    }

    /// The same product plus a bias, if there is one.
    fn biased_product(
        self,
        x: Tensor<2>,
        weight: &Param<Tensor<2>>,
        bias: &Option<Param<Tensor<1>>>,
    ) -> Tensor<2> {
        let product = self.product(x, weight);
        match bias {
            Some(bias) => product + bias.val().unsqueeze::<2>(),
            None => product,
        }
    }
}

/// The decoder. Its input is token ids, and its output hidden states or logits.
#[derive(Module, Debug)]
pub struct Decoder {
    pub(super) embed_tokens: Param<Tensor<2>>,
    /// Added to the embeddings of tokens that occur in the goal, `[1, hidden]`.
    pub(super) goal_match: Option<Param<Tensor<2>>>,
    /// By order.
    pub(super) ngrams: Vec<NgramEmbedding>,
    pub(super) layers: Vec<DecoderLayer>,
    pub(super) norm: Param<Tensor<1>>,
    /// The output matrix, `[vocab, hidden]`, if it is not the embedding.
    pub(super) lm_head: Option<Param<Tensor<2>>>,
    #[module(skip)]
    pub(super) settings: DecoderSettings,
}

/// The part of the configuration that the forward pass needs.
#[derive(Debug, Clone)]
pub(super) struct DecoderSettings {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_width: usize,
    /// The kinds of attention; a layer has the index of its own.
    pub(super) attention: Vec<AttentionKind>,
    pub(super) activation: Activation,
    pub(super) norm: NormSettings,
    pub(super) scales: Scales,
    pub(super) precision: Precision,
    pub(super) reading: ReadingConfig,
    /// The names of the norms of a layer.
    pub(super) norms: LayerNorms<&'static str>,
}

/// What all norms share.
#[derive(Debug, Clone, Copy)]
pub(super) struct NormSettings {
    pub(super) epsilon: f64,
    /// Added to the weight of a norm before it multiplies.
    pub(super) offset: f32,
}

impl NormSettings {
    /// x after a norm of this weight.
    fn apply<const D: usize>(self, x: Tensor<D>, weight: Tensor<1>) -> Tensor<D> {
        let weight = if self.offset == 0.0 {
            weight
        } else {
            weight + self.offset
        };
        ops::rms_norm(x, weight, self.epsilon)
    }

    /// The same, or x if there is no norm.
    fn apply_if<const D: usize>(self, x: Tensor<D>, norm: &Option<Param<Tensor<1>>>) -> Tensor<D> {
        match norm {
            Some(norm) => self.apply(x, norm.val()),
            None => x,
        }
    }

    /// The queries or keys `[rows, heads · head]` after their norm, if there is one. Its width is that of a head or of all heads.
    fn apply_to_heads(self, rows: Tensor<2>, norm: &Option<Param<Tensor<1>>>) -> Tensor<2> {
        let Some(norm) = norm else {
            return rows;
        };
        let [count, width] = rows.dims();
        let weight = norm.val();
        let part = weight.dims()[0];
        let parts = rows.reshape([count, width / part, part]);
        self.apply(parts, weight).reshape([count, width])
    }
}

/// The n-gram embedding of one order.
#[derive(Module, Debug)]
pub struct NgramEmbedding {
    /// `[hidden, hidden]`, `[in, out]`.
    pub(super) weight: Param<Tensor<2>>,
    /// `[1, hidden]`.
    pub(super) none: Param<Tensor<2>>,
}

/// One layer: attention and a gated unit, each added to the residual stream, with norms before or after them.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Norms of the input of attention, and of its result, if the family has them.
    pub(super) before_attention: Option<Param<Tensor<1>>>,
    pub(super) after_attention: Option<Param<Tensor<1>>>,
    pub(super) q_proj: Param<Tensor<2>>,
    pub(super) k_proj: Param<Tensor<2>>,
    pub(super) v_proj: Param<Tensor<2>>,
    /// Biases of queries, keys and values, if the family has them.
    pub(super) q_bias: Option<Param<Tensor<1>>>,
    pub(super) k_bias: Option<Param<Tensor<1>>>,
    pub(super) v_bias: Option<Param<Tensor<1>>>,
    /// Norms of queries and keys, over each head or over all heads, if the family has them.
    pub(super) q_norm: Option<Param<Tensor<1>>>,
    pub(super) k_norm: Option<Param<Tensor<1>>>,
    pub(super) o_proj: Param<Tensor<2>>,
    /// Norms of the input of the gated unit, and of its result, if the family has them.
    pub(super) before_mlp: Option<Param<Tensor<1>>>,
    pub(super) after_mlp: Option<Param<Tensor<1>>>,
    pub(super) gate_proj: Param<Tensor<2>>,
    pub(super) up_proj: Param<Tensor<2>>,
    pub(super) down_proj: Param<Tensor<2>>,
    /// Filters `[width, channels]` of the convolutions, by [`ConvolutionPlace`].
    pub(super) attention_conv: Option<Param<Tensor<2>>>,
    pub(super) qkv_conv: Option<Param<Tensor<2>>>,
    pub(super) mlp_conv: Option<Param<Tensor<2>>>,
    pub(super) gate_up_conv: Option<Param<Tensor<2>>>,
    /// Index of its kind of attention.
    #[module(skip)]
    pub(super) attention_kind: usize,
}

impl Decoder {
    /// Returns the same decoder with another precision of its linear layers.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.settings.precision = precision;
        self
    }

    /// Returns the hidden states after the last norm.
    ///
    /// # Shapes
    /// `tokens` `[batch, time]` → `[batch, time, hidden]`. If a row is padded on the right, the
    /// padding does not change the states before it.
    #[must_use]
    pub fn hidden(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let positions = self.positions(tokens.dims()[1], &self.embed_tokens.val().device());
        let embedded = self.embedded(tokens);
        let stream = self.layers.iter().fold(embedded, |stream, layer| {
            self.through(layer, stream, &positions)
        });
        self.last_norm(stream)
    }

    /// The residual stream after the last norm.
    pub(super) fn last_norm(&self, stream: Tensor<3>) -> Tensor<3> {
        self.settings.norm.apply(stream, self.norm.val())
    }

    /// Returns the logits of hidden states: the product with the output matrix. If the decoder has
    /// none, with the transposed embedding.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden]` → `[rows, vocab]`.
    #[must_use]
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let output = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        let logits = ops::matmul_transposed(hidden, output.val());
        scaled(logits, self.settings.scales.logits)
    }

    /// The embeddings of token ids, `[batch, time, hidden]`.
    pub(super) fn embedded(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [batch, time] = tokens.dims();
        let table = self.embed_tokens.val();
        let hidden = table.dims()[1];
        let embedded = table
            .clone()
            .select(0, tokens.clone().reshape([batch * time]));
        let embedded = scaled(embedded, self.settings.scales.embedding);
        let embedded = if self.settings.reading.has_inputs() {
            let features = self.features(tokens);
            self.input_tensors().add_to(embedded, &table, &features)
        } else {
            embedded
        };
        embedded.reshape([batch, time, hidden])
    }

    /// The features of all tokens, row by row.
    fn features(&self, tokens: Tensor<2, Int>) -> TokenFeatures {
        let time = tokens.dims()[1];
        let ids: Vec<u32> = tokens
            .into_data()
            .iter::<i64>()
            .map(|id| id as u32)
            .collect();
        let mut features = TokenFeatures::default();
        for row in ids.chunks_exact(time) {
            features.extend(&self.settings.reading, row, 0);
        }
        features
    }

    fn input_tensors(&self) -> InputTensors {
        let ngrams = self.ngrams.iter().map(|ngram| NgramTensors {
            weight: ngram.weight.val(),
            none: ngram.none.val(),
        });
        InputTensors {
            goal_match: self.goal_match.as_ref().map(Param::val),
            ngrams: ngrams.collect(),
        }
    }

    /// The residual stream after a layer.
    pub(super) fn through(
        &self,
        layer: &DecoderLayer,
        stream: Tensor<3>,
        positions: &[AttentionPositions],
    ) -> Tensor<3> {
        let DecoderSettings { norm, scales, .. } = self.settings;
        let positions = &positions[layer.attention_kind];
        let added = self.attention(layer, stream.clone(), positions);
        let added = norm.apply_if(added, &layer.after_attention);
        let stream = stream + scaled(added, scales.residual);
        let added = self.mlp(layer, stream.clone());
        let added = norm.apply_if(added, &layer.after_mlp);
        stream + scaled(added, scales.residual)
    }

    fn attention(
        &self,
        layer: &DecoderLayer,
        stream: Tensor<3>,
        positions: &AttentionPositions,
    ) -> Tensor<3> {
        let [batch, time, hidden] = stream.dims();
        let DecoderSettings {
            heads,
            kv_heads,
            head_width,
            norm,
            precision,
            ..
        } = self.settings;
        let input =
            (norm.apply_if(stream, &layer.before_attention)).reshape([batch * time, hidden]);
        let input = precision.narrow(convolved(input, &layer.attention_conv, time));
        let queries = precision.biased_product(input.clone(), &layer.q_proj, &layer.q_bias);
        let keys = precision.biased_product(input.clone(), &layer.k_proj, &layer.k_bias);
        let values = precision.biased_product(input, &layer.v_proj, &layer.v_bias);
        let projected = convolved_parts([queries, keys, values], &layer.qkv_conv, time);
        let [queries, keys, values] = projected;
        let projected = [
            norm.apply_to_heads(queries, &layer.q_norm),
            norm.apply_to_heads(keys, &layer.k_norm),
            values,
        ];
        let shape = AttentionShape {
            batch,
            heads,
            kv_heads,
            head_width,
        };
        let joined = ops::attention(projected, shape, positions);
        precision
            .product(precision.narrow(joined), &layer.o_proj)
            .reshape([batch, time, hidden])
    }

    fn mlp(&self, layer: &DecoderLayer, stream: Tensor<3>) -> Tensor<3> {
        let [batch, time, hidden] = stream.dims();
        let DecoderSettings {
            norm,
            precision,
            activation,
            ..
        } = self.settings;
        let input = (norm.apply_if(stream, &layer.before_mlp)).reshape([batch * time, hidden]);
        let input = precision.narrow(convolved(input, &layer.mlp_conv, time));
        let gate = precision.product(input.clone(), &layer.gate_proj);
        let up = precision.product(input, &layer.up_proj);
        let [gate, up] = convolved_parts([gate, up], &layer.gate_up_conv, time);
        let inner = ops::gated(gate, up, activation);
        precision
            .product(precision.narrow(inner), &layer.down_proj)
            .reshape([batch, time, hidden])
    }

    /// The positions of sequences of `time` tokens, as each kind of attention needs them.
    pub(super) fn positions(&self, time: usize, device: &Device) -> Vec<AttentionPositions> {
        let kinds = self.settings.attention.iter();
        kinds
            .map(|kind| AttentionPositions::new(kind.rotary.table(time), kind.window, time, device))
            .collect()
    }
}

impl DecoderLayer {
    /// The matrices with their names at Hugging Face.
    pub(super) fn matrices(&self) -> [(&'static str, &Param<Tensor<2>>); 7] {
        [
            ("self_attn.q_proj", &self.q_proj),
            ("self_attn.k_proj", &self.k_proj),
            ("self_attn.v_proj", &self.v_proj),
            ("self_attn.o_proj", &self.o_proj),
            ("mlp.gate_proj", &self.gate_proj),
            ("mlp.up_proj", &self.up_proj),
            ("mlp.down_proj", &self.down_proj),
        ]
    }

    /// The filter at a place, if it has a convolution.
    pub(super) fn filter(&self, place: ConvolutionPlace) -> Option<&Param<Tensor<2>>> {
        match place {
            ConvolutionPlace::AttentionInput => &self.attention_conv,
            ConvolutionPlace::QueryKeyValue => &self.qkv_conv,
            ConvolutionPlace::MlpInput => &self.mlp_conv,
            ConvolutionPlace::GateUp => &self.gate_up_conv,
        }
        .as_ref()
    }
}

/// The convolution of rows `[batch · time, channels]`, if there is a filter.
fn convolved(x: Tensor<2>, filter: &Option<Param<Tensor<2>>>, time: usize) -> Tensor<2> {
    match filter {
        Some(filter) => ops::causal_convolution(x, filter.val(), time),
        None => x,
    }
}

/// The same for tensors whose channels are adjacent in the filter.
fn convolved_parts<const N: usize>(
    parts: [Tensor<2>; N],
    filter: &Option<Param<Tensor<2>>>,
    time: usize,
) -> [Tensor<2>; N] {
    let Some(filter) = filter else { return parts };
    let filter = filter.val();
    let mut first = 0;
    parts.map(|part| {
        let channels = part.dims()[1];
        let own = filter.clone().narrow(1, first, channels);
        first += channels;
        ops::causal_convolution(part, own, time)
    })
}

/// `x · factor`; the same tensor if the factor is 1.
pub(crate) fn scaled<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    if factor == 1.0 { x } else { x * factor }
}

/// The value network: a trunk of its own and linear heads without bias
/// ([`crate::model::value_heads`]).
#[derive(Module, Debug)]
pub struct ValueNetwork {
    pub(super) trunk: Decoder,
    /// `[hidden, 1]`, or `[hidden, VALUE_BINS]` if V is the expected value of a distribution.
    pub(super) value_head: Param<Tensor<2>>,
    /// `[hidden, 1]`, if U is V plus an advantage.
    pub(super) advantage_head: Option<Param<Tensor<2>>>,
}

/// What the heads of a value network compute from hidden states.
#[derive(Debug, Clone)]
pub struct HeadOutputs {
    /// V of the state that ends at each position, reward units, `[batch, time]`.
    pub values: Tensor<2>,
    /// The logits of the bins, `[batch, time, VALUE_BINS]`, if the value head has bins.
    pub bin_logits: Option<Tensor<3>>,
    /// A of the action that ends at each position, reward units, `[batch, time]`, if there is an
    /// advantage head.
    pub advantages: Option<Tensor<2>>,
}

impl ValueNetwork {
    /// Returns the same network with another precision of the linear layers of its trunk.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self {
            trunk: self.trunk.with_precision(precision),
            ..self
        }
    }

    /// Returns the value of the state that ends at each position, in reward units.
    ///
    /// # Shapes
    /// `tokens` `[batch, time]` → `[batch, time]`.
    #[must_use]
    pub fn values(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        self.of_hidden(self.trunk.hidden(tokens))
    }

    /// Returns the values of hidden states, `[batch, time, hidden]` → `[batch, time]`.
    #[must_use]
    pub fn of_hidden(&self, hidden: Tensor<3>) -> Tensor<2> {
        self.head_outputs(hidden).values
    }

    /// Returns the outputs of all heads; `hidden` is `[batch, time, hidden]`.
    #[must_use]
    pub fn head_outputs(&self, hidden: Tensor<3>) -> HeadOutputs {
        let [batch, time, width] = hidden.dims();
        let rows = hidden.reshape([batch * time, width]);
        let advantages = self.advantage_head.as_ref().map(|head| {
            let advantages = rows.clone().matmul(head.val());
            advantages.reshape([batch, time])
        });
        let outputs = rows.matmul(self.value_head.val());
        let [_, bins] = outputs.dims();
        if bins == 1 {
            return HeadOutputs {
                values: outputs.reshape([batch, time]),
                bin_logits: None,
                advantages,
            };
        }
        let centres = TensorData::new(bin_centres(), [bins, 1]);
        let centres = Tensor::<2>::from_data(centres, &outputs.device());
        let values = activation::softmax(outputs.clone(), 1).matmul(centres);
        HeadOutputs {
            values: values.reshape([batch, time]),
            bin_logits: Some(outputs.reshape([batch, time, bins])),
            advantages,
        }
    }

    /// Returns the trunk, which computes the hidden states.
    #[must_use]
    pub fn trunk(&self) -> &Decoder {
        &self.trunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::DecoderConfig;
    use crate::model::weights::tests::{tiny_config, tiny_reading_config};
    use crate::model::weights::{VALUE_HEAD, Weights};
    use burn::module::ModuleVisitor;
    use burn::tensor::Gradients;

    /// A network whose result depends on every weight.
    fn network(config: &DecoderConfig) -> ValueNetwork {
        let mut weights = Weights::random(config, 5).with_zero_value_head(config);
        for (name, tensor) in &mut weights.0 {
            if ["o_proj.weight", "down_proj.weight", ".none", VALUE_HEAD]
                .iter()
                .any(|end| name.ends_with(end))
            {
                tensor
                    .data
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, w)| *w = (i as f32 * 1.7).sin() / 4.0);
            }
        }
        ValueNetwork::from_weights(config, &weights, &support::device::device().autodiff())
            .expect("builds")
    }

    /// Reads the gradient of every parameter.
    struct GradientVisitor<'a> {
        gradients: &'a Gradients,
        found: Vec<Vec<f32>>,
    }

    impl ModuleVisitor for GradientVisitor<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            assert_eq!(param.val().dtype(), DType::F32);
            let gradient = param.val().grad(self.gradients);
            let gradient = gradient.expect("the number depends on it").into_data();
            self.found
                .push(gradient.try_to_vec().expect("f32 as its parameter"));
        }
    }

    /// Logits, and the gradients of a number made of all logits and values by every parameter.
    fn logits_and_gradients(network: &ValueNetwork) -> (Vec<f32>, Vec<Vec<f32>>) {
        // The first row has a goal, 1, and n-grams that return.
        let tokens = [3, 1, 4, 1, 9, 4, 1, 9, 5, 7, 8, 9, 7, 8, 9, 2, 2, 30_i64];
        let tokens = TensorData::new(tokens.to_vec(), [2, 9]);
        let tokens = Tensor::<2, Int>::from_data(tokens, &support::device::device().autodiff());
        let hidden = network.trunk.hidden(tokens.clone());
        let logits = network.trunk.logits(hidden.reshape([18, -1]));
        let number = activation::log_softmax(logits.clone(), 1)
            .narrow(1, 3, 1)
            .mean()
            + network.values(tokens).mean();
        let mut visitor = GradientVisitor {
            gradients: &number.backward(),
            found: Vec::new(),
        };
        network.visit(&mut visitor);
        let logits = logits.into_data().try_to_vec().expect("f32");
        (logits, visitor.found)
    }

    /// |a − b| / |a|.
    fn distance(a: &[f32], b: &[f32]) -> f32 {
        let difference: f32 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
        let square: f32 = a.iter().map(|a| a * a).sum();
        difference.sqrt() / square.sqrt()
    }

    /// A mantissa of eight bits has an error of at most 2⁻⁹ = 0.2 %. Several such errors in a row
    /// stay within some percent. If large summands of a gradient cancel, as in the vector of the goal,
    /// its own error is larger; a gradient that is lost would be off by 1.
    #[test]
    fn bf16_gives_nearly_the_same_logits_and_gradients() {
        if Precision::Bf16.check(&support::device::device()).is_err() {
            return;
        }
        for config in [tiny_config(), tiny_reading_config()] {
            let (wide, wide_gradients) = logits_and_gradients(&network(&config));
            let narrow = network(&config).with_precision(Precision::Bf16);
            let (narrow, narrow_gradients) = logits_and_gradients(&narrow);
            let off = distance(&wide, &narrow);
            assert!(off > 1e-4 && off < 0.02, "logits are off by {off}");
            let off = distance(&wide_gradients.concat(), &narrow_gradients.concat());
            assert!(off < 0.05, "the whole gradient is off by {off}");
            assert_eq!(wide_gradients.len(), narrow_gradients.len());
            for (index, (wide, narrow)) in wide_gradients.iter().zip(&narrow_gradients).enumerate()
            {
                let off = distance(wide, narrow);
                assert!(
                    off < 0.6,
                    "the gradient of parameter {index} is off by {off}"
                );
            }
        }
    }

    #[test]
    fn f32_is_the_default_precision() {
        let config = tiny_config();
        assert_eq!(
            logits_and_gradients(&network(&config)),
            logits_and_gradients(&network(&config).with_precision(Precision::F32))
        );
    }
}
