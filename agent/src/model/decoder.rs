//! The transformer that learns: a Llama-style decoder on burn, read from top to bottom.
//!
//! RMSNorm, rotary position embedding (rotate-half), grouped-query attention, SwiGLU (Touvron et al., arXiv 2302.13971;
//! Ainslie et al., arXiv 2305.13245); biases and scales where the family has them ([`crate::model::config`]). Knows nothing of
//! text, only token ids.
//! On the CPU in f32 attention, norms and SwiGLU are operations of our own ([`kernels::fused`]); elsewhere they are written out, for
//! burn's own `attention` has no other backward pass. Policy and reference go the same way: while the two are the same, so are
//! their numbers, to the bit.
//! The same computation for playing, with a cache, is [`crate::inference`]; a test holds the two together.

use crate::error::AgentError;
use crate::model::config::{DecoderConfig, OUTPUT, Scales};
use crate::model::rope::{RopeScaling, rotary_table};
use crate::model::weights::{HostTensor, VALUE_HEAD, Weights, transposed};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData, activation};
use kernels::fused;
use scenarios::WeightFormat;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the linear layers multiply in. Parameters and their gradients, norms, rotations, attention scores, softmax,
/// logits and values are f32 whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, eight of them the mantissa's: what a GPU's tensor cores are fast in; slower on a CPU.
    Bf16,
}

impl Precision {
    /// What matrices that are held so are multiplied in on burn; none where it has no such numbers.
    #[must_use]
    pub fn of(format: WeightFormat) -> Option<Self> {
        match format {
            WeightFormat::Exact => Some(Self::F32),
            WeightFormat::Bf16 => Some(Self::Bf16),
            WeightFormat::F16 | WeightFormat::Q8 => None,
        }
    }

    /// The type of what is multiplied.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// A product's operand as it is multiplied.
    pub(crate) fn narrow<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(DType::BF16),
        }
    }

    /// A product in 32 bits again.
    pub(crate) fn widen<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(DType::F32),
        }
    }

    /// x·W of a narrowed x, wide again; with an adapter x·W + α/r · (x·A)·B, which unlike x·(W + α/r · A·B) asks for no
    /// gradient of W's size and loses nothing of a small A·B to the rounding of a large W.
    fn product(self, x: Tensor<2>, weight: &Param<Tensor<2>>) -> Tensor<2> {
        let Some(adapter) = weight.adapter() else {
            return self.widen(x.matmul(self.narrow(weight.val())));
        };
        let [down, up] = [&adapter.a, &adapter.b].map(|factor| self.narrow(factor.val()));
        let added = self.widen(x.clone().matmul(down).matmul(up)) * adapter.scale;
        self.widen(x.matmul(self.narrow(weight.base()))) + added
    }
}

/// The decoder: token ids in, hidden states or logits out.
#[derive(Module, Debug)]
pub struct Decoder {
    embed_tokens: Param<Tensor<2>>,
    layers: Vec<Layer>,
    norm: Param<Tensor<1>>,
    /// The output matrix, `[vocab, hidden]`, where it is not the embedding.
    lm_head: Option<Param<Tensor<2>>>,
    #[module(skip)]
    shape: Shape,
}

/// The way through a decoder: what it takes to go back.
#[derive(Debug, Clone)]
pub struct Trail {
    tokens: Tensor<2, Int>,
    /// What entered each layer, and the norm behind them.
    entered: Vec<Tensor<3>>,
    /// Hidden states after the last norm, `[batch, time, hidden]`: where backward passes end.
    pub hidden: Tensor<3>,
}

/// Whether anything in a layer does.
fn learns(layer: &Layer) -> bool {
    struct Look(bool);
    impl ModuleVisitor for Look {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut look = Look(false);
    layer.visit(&mut look);
    look.0
}

/// What the decoder needs of its configuration.
#[derive(Debug, Clone)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    rope_theta: f64,
    rope_scaling: RopeScaling,
    epsilon: f64,
    scales: Scales,
    precision: Precision,
}

/// One layer: attention and SwiGLU, each behind its norm and beside the residual stream.
#[derive(Module, Debug)]
pub struct Layer {
    input_layernorm: Param<Tensor<1>>,
    q_proj: Param<Tensor<2>>,
    k_proj: Param<Tensor<2>>,
    v_proj: Param<Tensor<2>>,
    /// Of queries, keys and values, where the family has them.
    q_bias: Option<Param<Tensor<1>>>,
    k_bias: Option<Param<Tensor<1>>>,
    v_bias: Option<Param<Tensor<1>>>,
    o_proj: Param<Tensor<2>>,
    post_attention_layernorm: Param<Tensor<1>>,
    gate_proj: Param<Tensor<2>>,
    up_proj: Param<Tensor<2>>,
    down_proj: Param<Tensor<2>>,
}

/// What attention knows of positions in one forward pass.
enum Positions {
    /// Cosines and sines `[time, head_dim]`, for [`fused::attention`].
    OnHost(Arc<[Vec<f32>; 2]>),
    OnDevice(Box<Tables>),
}

/// Cosines and sines `[1, 1, time, head_dim]` and the causal bias `[1, 1, time, time]`.
struct Tables {
    cosines: Tensor<4>,
    sines: Tensor<4>,
    causal: Tensor<4>,
}

impl Decoder {
    /// Builds the decoder on a device from host weights.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, AgentError> {
        config.check()?;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, kv) = (config.query_width(), config.kv_width());
        let sized_vector = |name: &str, size: usize| -> Result<Param<Tensor<1>>, AgentError> {
            let data = weights.get(name, &[size])?.to_vec();
            Ok(Param::from_data(TensorData::new(data, [size]), device))
        };
        let vector = |name: &str| sized_vector(name, hidden);
        let matrix =
            |name: &str, out: usize, input: usize| -> Result<Param<Tensor<2>>, AgentError> {
                let data = transposed(weights.get(name, &[out, input])?, out, input);
                Ok(Param::from_data(
                    TensorData::new(data, [input, out]),
                    device,
                ))
            };
        let layer = |index: usize| -> Result<Layer, AgentError> {
            let name = |part: &str| format!("model.layers.{index}.{part}.weight");
            let bias = |part: &str, size: usize| {
                let name = format!("model.layers.{index}.self_attn.{part}.bias");
                config
                    .has_biases()
                    .then(|| sized_vector(&name, size))
                    .transpose()
            };
            Ok(Layer {
                input_layernorm: vector(&name("input_layernorm"))?,
                q_proj: matrix(&name("self_attn.q_proj"), queries, hidden)?,
                k_proj: matrix(&name("self_attn.k_proj"), kv, hidden)?,
                v_proj: matrix(&name("self_attn.v_proj"), kv, hidden)?,
                q_bias: bias("q_proj", queries)?,
                k_bias: bias("k_proj", kv)?,
                v_bias: bias("v_proj", kv)?,
                o_proj: matrix(&name("self_attn.o_proj"), hidden, queries)?,
                post_attention_layernorm: vector(&name("post_attention_layernorm"))?,
                gate_proj: matrix(&name("mlp.gate_proj"), inner, hidden)?,
                up_proj: matrix(&name("mlp.up_proj"), inner, hidden)?,
                down_proj: matrix(&name("mlp.down_proj"), hidden, inner)?,
            })
        };
        let table = |name: &str| -> Result<Param<Tensor<2>>, AgentError> {
            let data = weights.get(name, &[config.vocab_size, hidden])?.to_vec();
            Ok(Param::from_data(
                TensorData::new(data, [config.vocab_size, hidden]),
                device,
            ))
        };
        Ok(Self {
            embed_tokens: table("model.embed_tokens.weight")?,
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Result<_, _>>()?,
            norm: vector("model.norm.weight")?,
            lm_head: (!config.tie_word_embeddings)
                .then(|| table(OUTPUT))
                .transpose()?,
            shape: Shape {
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_width: config.head_width(),
                rope_theta: config.rope_theta,
                rope_scaling: config.rope_scaling.clone(),
                epsilon: config.rms_norm_eps,
                scales: config.scales,
                precision: Precision::default(),
            },
        })
    }

    /// The same decoder, its linear layers in another precision.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.shape.precision = precision;
        self
    }

    /// The same decoder, of which only the last so many layers and the norm behind them learn; 0 = everything.
    #[must_use]
    pub fn learning_last(self, layers: usize) -> Self {
        if layers == 0 {
            return self;
        }
        let still = self.layers.len().saturating_sub(layers);
        let hold = |(index, layer): (usize, Layer)| {
            if index < still {
                layer.no_grad()
            } else {
                layer
            }
        };
        Self {
            embed_tokens: self.embed_tokens.no_grad(),
            layers: self.layers.into_iter().enumerate().map(hold).collect(),
            lm_head: self.lm_head.map(Module::no_grad),
            ..self
        }
    }

    /// The weights back on the host, in Hugging Face's names and layouts.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::default();
        let mut vector = |name: String, param: &Param<Tensor<1>>| {
            weights.0.insert(name, host(param.val()));
        };
        vector("model.norm.weight".into(), &self.norm);
        for (index, layer) in self.layers.iter().enumerate() {
            vector(
                format!("model.layers.{index}.input_layernorm.weight"),
                &layer.input_layernorm,
            );
            vector(
                format!("model.layers.{index}.post_attention_layernorm.weight"),
                &layer.post_attention_layernorm,
            );
            for (part, bias) in [
                ("q", &layer.q_bias),
                ("k", &layer.k_bias),
                ("v", &layer.v_bias),
            ] {
                if let Some(bias) = bias {
                    vector(
                        format!("model.layers.{index}.self_attn.{part}_proj.bias"),
                        bias,
                    );
                }
            }
        }
        weights.0.insert(
            "model.embed_tokens.weight".into(),
            host(self.embed_tokens.val()),
        );
        if let Some(output) = &self.lm_head {
            weights.0.insert(OUTPUT.into(), host(output.val()));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            for (part, param) in layer.matrices() {
                weights.0.insert(
                    format!("model.layers.{index}.{part}.weight"),
                    host(param.val().transpose()),
                );
            }
        }
        weights
    }

    /// Hidden states after the last norm.
    ///
    /// # Shapes
    /// `tokens` `[batch, time]` → `[batch, time, hidden]`; right padding is invisible to what stands before it.
    #[must_use]
    pub fn hidden(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let positions = self.positions(tokens.dims()[1], &self.embed_tokens.val().device());
        let embedded = self.embedded(tokens);
        let stream = self.layers.iter().fold(embedded, |stream, layer| {
            self.through(layer, stream, &positions)
        });
        rms_norm(stream, &self.norm, self.shape.epsilon)
    }

    /// The same without a way back through the layers: only what enters each of them is kept, and
    /// [`Decoder::retrace`] computes the rest anew.
    #[must_use]
    pub fn trail(&self, tokens: Tensor<2, Int>) -> Trail {
        // Off the record altogether: what is only detached stays in the graph's memory until a backward pass.
        let unrecorded = self.valid();
        let positions =
            unrecorded.positions(tokens.dims()[1], &unrecorded.embed_tokens.val().device());
        let mut stream = unrecorded.embedded(tokens.clone().inner());
        let mut entered = Vec::with_capacity(self.layers.len() + 1);
        for layer in &unrecorded.layers {
            entered.push(stream.clone());
            stream = unrecorded.through(layer, stream, &positions);
        }
        let hidden = rms_norm(stream.clone(), &unrecorded.norm, self.shape.epsilon)
            .autodiff()
            .require_grad();
        entered.push(stream);
        Trail {
            tokens,
            entered,
            hidden,
        }
    }

    /// The gradients of all that learns in the layers, the norm behind them and the embedding, from that of the hidden
    /// states of a trail, layer by layer from the last; each parameter's is the sum over what is returned.
    ///
    /// # Shapes
    /// `gradient` `[batch, time, hidden]`, of [`Trail::hidden`], without autodiff.
    ///
    /// # Panics
    /// Never: whatever entered a layer has a gradient behind it.
    #[must_use]
    pub fn retrace(&self, trail: Trail, gradient: Tensor<3>) -> Vec<Gradients> {
        let Trail {
            tokens,
            mut entered,
            hidden,
        } = trail;
        drop(hidden);
        let positions = self.positions(tokens.dims()[1], &self.embed_tokens.val().device());
        let mut found = Vec::with_capacity(entered.len() + 1);
        let mut gradient = gradient;
        let mut back =
            |entered: Tensor<3>, step: &dyn Fn(Tensor<3>) -> Tensor<3>, gradient: Tensor<3>| {
                let entered = entered.autodiff().require_grad();
                let mut gradients = (step(entered.clone()) * gradient.autodiff())
                    .sum()
                    .backward();
                let behind = entered
                    .grad_remove(&mut gradients)
                    .expect("it is a part of the sum");
                found.push(gradients);
                behind
            };
        let mut enters = || entered.pop().expect("something entered every layer");
        gradient = back(
            enters(),
            &|stream| rms_norm(stream, &self.norm, self.shape.epsilon),
            gradient,
        );
        let embedding_learns = self.embed_tokens.is_require_grad();
        let lowest = if embedding_learns {
            0
        } else {
            self.layers
                .iter()
                .position(learns)
                .unwrap_or(self.layers.len())
        };
        for layer in self.layers[lowest..].iter().rev() {
            gradient = back(
                enters(),
                &|stream| self.through(layer, stream, &positions),
                gradient,
            );
        }
        if embedding_learns {
            found.push(
                (self.embedded(tokens) * gradient.autodiff())
                    .sum()
                    .backward(),
            );
        }
        found
    }

    fn embedded(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [batch, time] = tokens.dims();
        let table = self.embed_tokens.val();
        let hidden = table.dims()[1];
        let embedded = table
            .select(0, tokens.reshape([batch * time]))
            .reshape([batch, time, hidden]);
        scaled(embedded, self.shape.scales.embedding)
    }

    /// The residual stream after a layer.
    fn through(&self, layer: &Layer, stream: Tensor<3>, positions: &Positions) -> Tensor<3> {
        let residual = self.shape.scales.residual;
        let stream = stream.clone() + scaled(self.attention(layer, stream, positions), residual);
        stream.clone() + scaled(self.mlp(layer, stream), residual)
    }

    /// Logits of hidden states: by the output matrix, or by the embedding read backwards.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden]` → `[rows, vocab]`.
    #[must_use]
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let output = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        let table = output.val();
        let logits = match fused::work_on(&table.device(), table.dtype()) {
            true => fused::by_table(hidden, table),
            false => hidden.matmul(table.transpose()),
        };
        scaled(logits, self.shape.scales.logits)
    }

    fn attention(&self, layer: &Layer, stream: Tensor<3>, positions: &Positions) -> Tensor<3> {
        let [batch, time, hidden] = stream.dims();
        let Shape {
            heads,
            kv_heads,
            head_width,
            epsilon,
            precision,
            ..
        } = self.shape;
        let normed =
            rms_norm(stream, &layer.input_layernorm, epsilon).reshape([batch * time, hidden]);
        let normed = precision.narrow(normed);
        let project = |projection: &Param<Tensor<2>>, bias: &Option<Param<Tensor<1>>>| {
            let projected = precision.product(normed.clone(), projection);
            match bias {
                Some(bias) => projected + bias.val().unsqueeze::<2>(),
                None => projected,
            }
        };
        let queries = project(&layer.q_proj, &layer.q_bias);
        let keys = project(&layer.k_proj, &layer.k_bias);
        let values = project(&layer.v_proj, &layer.v_bias);
        let joined = match positions {
            Positions::OnHost(rotary) => {
                let rotary = rotary.clone();
                let heads = fused::Heads {
                    batch,
                    heads,
                    kv_heads,
                    width: head_width,
                    rotary,
                };
                fused::attention(queries, keys, values, heads)
            }
            Positions::OnDevice(positions) => {
                let split = |x: Tensor<2>, heads: usize| {
                    x.reshape([batch, time, heads, head_width]).swap_dims(1, 2)
                };
                let scale = 1.0 / (head_width as f64).sqrt();
                let queries = positions.rotate(split(queries, heads)) * scale;
                let keys = self.share_heads(positions.rotate(split(keys, kv_heads)));
                let values = self.share_heads(split(values, kv_heads));
                let scores = queries.matmul(keys.swap_dims(2, 3)) + positions.causal.clone();
                let mixed = activation::softmax(scores, 3).matmul(values);
                mixed
                    .swap_dims(1, 2)
                    .reshape([batch * time, heads * head_width])
            }
        };
        precision
            .product(precision.narrow(joined), &layer.o_proj)
            .reshape([batch, time, hidden])
    }

    /// Repeats each key or value head for the query heads of its group.
    fn share_heads(&self, kv: Tensor<4>) -> Tensor<4> {
        let group = self.shape.heads / self.shape.kv_heads;
        if group == 1 {
            return kv;
        }
        let [batch, kv_heads, time, head_dim] = kv.dims();
        kv.unsqueeze_dim::<5>(2).repeat_dim(2, group).reshape([
            batch,
            kv_heads * group,
            time,
            head_dim,
        ])
    }

    fn mlp(&self, layer: &Layer, stream: Tensor<3>) -> Tensor<3> {
        let [batch, time, hidden] = stream.dims();
        let Shape {
            epsilon, precision, ..
        } = self.shape;
        let normed = rms_norm(stream, &layer.post_attention_layernorm, epsilon)
            .reshape([batch * time, hidden]);
        let normed = precision.narrow(normed);
        let gate = precision.product(normed.clone(), &layer.gate_proj);
        let up = precision.product(normed, &layer.up_proj);
        let inner = match fused::work_on(&gate.device(), gate.dtype()) {
            true => fused::swiglu(gate, up),
            false => activation::silu(gate) * up,
        };
        precision
            .product(precision.narrow(inner), &layer.down_proj)
            .reshape([batch, time, hidden])
    }

    fn positions(&self, time: usize, device: &Device) -> Positions {
        let Shape {
            head_width: head_dim,
            rope_theta,
            rope_scaling,
            ..
        } = &self.shape;
        let head_dim = *head_dim;
        let (cosines, sines) = rotary_table(time, head_dim, *rope_theta, rope_scaling);
        if fused::work_on(device, DType::F32) {
            return Positions::OnHost(Arc::new([cosines, sines]));
        }
        let causal = (0..time * time)
            .map(|i| if i % time > i / time { -1e9 } else { 0.0f32 })
            .collect::<Vec<_>>();
        let tensor = |data: Vec<f32>, shape: [usize; 4]| {
            Tensor::<4>::from_data(TensorData::new(data, shape), device)
        };
        Positions::OnDevice(Box::new(Tables {
            cosines: tensor(cosines, [1, 1, time, head_dim]),
            sines: tensor(sines, [1, 1, time, head_dim]),
            causal: tensor(causal, [1, 1, time, time]),
        }))
    }
}

impl Layer {
    fn matrices(&self) -> [(&'static str, &Param<Tensor<2>>); 7] {
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
}

impl Tables {
    /// x·cos + rotate_half(x)·sin.
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let turned = Tensor::cat(
            vec![
                -x.clone().narrow(3, half, half),
                x.clone().narrow(3, 0, half),
            ],
            3,
        );
        x * self.cosines.clone() + turned * self.sines.clone()
    }
}

/// `x · factor`; the same tensor where the factor is 1.
pub(crate) fn scaled<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    if factor == 1.0 { x } else { x * factor }
}

fn rms_norm(x: Tensor<3>, weight: &Param<Tensor<1>>, epsilon: f64) -> Tensor<3> {
    if fused::work_on(&x.device(), x.dtype()) {
        return fused::rms_norm(x, weight.val(), epsilon);
    }
    let mean_square = x.clone().square().mean_dim(2);
    x * (mean_square + epsilon).sqrt().recip() * weight.val().unsqueeze::<3>()
}

fn host<const D: usize>(tensor: Tensor<D>) -> HostTensor {
    let shape = tensor.dims().to_vec();
    let data = tensor
        .into_data()
        .try_to_vec::<f32>()
        .expect("decoder weights are f32");
    HostTensor { shape, data }
}

/// The value network: a trunk of its own and a bias-free linear head.
#[derive(Module, Debug)]
pub struct ValueNetwork {
    trunk: Decoder,
    value_head: Param<Tensor<2>>,
}

impl ValueNetwork {
    /// Builds the network on a device from host weights with a `value_head.weight` `[1, hidden]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, AgentError> {
        let head = weights.get(VALUE_HEAD, &[1, config.hidden_size])?.to_vec();
        Ok(Self {
            trunk: Decoder::from_weights(config, weights, device)?,
            value_head: Param::from_data(TensorData::new(head, [config.hidden_size, 1]), device),
        })
    }

    /// The same network, the linear layers of its trunk in another precision.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self {
            trunk: self.trunk.with_precision(precision),
            ..self
        }
    }

    /// The same network, of which only the last so many layers, the norm and the head learn; 0 = everything.
    #[must_use]
    pub fn learning_last(self, layers: usize) -> Self {
        Self {
            trunk: self.trunk.learning_last(layers),
            ..self
        }
    }

    /// The weights back on the host.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut weights = self.trunk.to_weights();
        weights
            .0
            .insert(VALUE_HEAD.into(), host(self.value_head.val().transpose()));
        weights
    }

    /// The value of the state that ends at each position, in reward units.
    ///
    /// # Shapes
    /// `tokens` `[batch, time]` → `[batch, time]`.
    #[must_use]
    pub fn values(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        self.of_hidden(self.trunk.hidden(tokens))
    }

    /// The value of hidden states, `[batch, time, hidden]` → `[batch, time]`.
    #[must_use]
    pub fn of_hidden(&self, hidden: Tensor<3>) -> Tensor<2> {
        let [batch, time, width] = hidden.dims();
        hidden
            .reshape([batch * time, width])
            .matmul(self.value_head.val())
            .reshape([batch, time])
    }

    /// What makes hidden states.
    #[must_use]
    pub fn trunk(&self) -> &Decoder {
        &self.trunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::tests::tiny_config;

    /// Weights of which every one matters.
    fn network() -> ValueNetwork {
        let config = tiny_config();
        let mut weights = Weights::random(&config, 5).with_zero_value_head(&config);
        for (name, tensor) in &mut weights.0 {
            if ["o_proj.weight", "down_proj.weight", VALUE_HEAD]
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
        ValueNetwork::from_weights(&config, &weights, &Device::flex().autodiff()).expect("builds")
    }

    /// Logits, and the gradient of a number made of all logits and values by every parameter.
    fn logits_and_gradients(network: &ValueNetwork) -> (Vec<f32>, Vec<Vec<f32>>) {
        struct Fetch<'a>(&'a burn::tensor::Gradients, Vec<Vec<f32>>);
        impl burn::module::ModuleVisitor for Fetch<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                assert_eq!(param.val().dtype(), DType::F32);
                let gradient = param.val().grad(self.0).expect("a part in the number");
                self.1.push(
                    gradient
                        .into_data()
                        .try_to_vec::<f32>()
                        .expect("f32 as its parameter"),
                );
            }
        }
        let tokens = TensorData::new((0..18).map(|i| i * 7 % 37).collect::<Vec<i64>>(), [2, 9]);
        let tokens = Tensor::<2, Int>::from_data(tokens, &Device::flex().autodiff());
        let hidden = network.trunk.hidden(tokens.clone());
        let logits = network.trunk.logits(hidden.reshape([18, -1]));
        let number = activation::log_softmax(logits.clone(), 1)
            .narrow(1, 3, 1)
            .mean()
            + network.values(tokens).mean();
        let mut fetch = Fetch(&number.backward(), Vec::new());
        network.visit(&mut fetch);
        (logits.into_data().try_to_vec().expect("f32"), fetch.1)
    }

    /// |a − b| / |a|.
    fn distance(a: &[f32], b: &[f32]) -> f32 {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied())
    }

    /// A mantissa of eight bits is off by at most 2⁻⁹ = 0.2 %; a few such in a row stay within some percent.
    #[test]
    fn half_the_bits_give_nearly_the_same_logits_and_gradients() {
        let (wide, wide_gradients) = logits_and_gradients(&network());
        let (narrow, narrow_gradients) =
            logits_and_gradients(&network().with_precision(Precision::Bf16));
        let off = distance(&wide, &narrow);
        assert!(off > 1e-4 && off < 0.02, "logits are off by {off}");
        assert_eq!(wide_gradients.len(), narrow_gradients.len());
        for (index, (wide, narrow)) in wide_gradients.iter().zip(&narrow_gradients).enumerate() {
            let off = distance(wide, narrow);
            assert!(
                off < 0.05,
                "the gradient of parameter {index} is off by {off}"
            );
        }
    }

    #[test]
    fn full_precision_is_what_it_is_without_asking() {
        assert_eq!(
            logits_and_gradients(&network()),
            logits_and_gradients(&network().with_precision(Precision::F32))
        );
    }
}
