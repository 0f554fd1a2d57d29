//! The decoder at play on a device through burn, for a GPU.
//!
//! Keys and values of all sequences are in one pool per layer. A sequence's cache is the list of its
//! rows in the pool, so that joining and sharing caches copies nothing.
//!
//! A pass has all new tokens as rows `[rows, hidden]`; linear layers, norms and SwiGLU do not
//! distinguish sequences. New keys and values are written into a layer's pool by one indexed write.
//! The write is in place, because the pass owns the only reference to the pool. The mask of a pass
//! comes from positions. In attention, the queries of the heads that share a key head are rows of one
//! product.
//!
//! In bf16, matrices, keys and values, and what they are multiplied by have 16 bits. The residual
//! stream, norms, rotations, softmax, and the embedding with the logits have 32, as in
//! [`crate::model::decoder`].
//!
//! Attention is composed of burn's operations, because burn 0.22's own attention does not support
//! grouped heads and would repeat keys and values for each head of a group. If its tuner prefers
//! separate kernels, it computes the softmax in 16 bits; if not, it multiplies in f16 for any input
//! type.

mod draw;
mod pass;
mod reading;

use self::pass::{
    DeviceAttention, DevicePass, GroupShape, PassBuilder, SeenTokens, SpanGroup, SpanRead,
    int_tensor, padded_rows,
};
use self::reading::{DeviceInputs, LayerPool};
use super::layer::{LayerWeights, take_last_norm};
use super::pool::{CacheRows, DeviceSpan, FOREIGN_CACHE, FreeRows};
use crate::error::AgentError;
use crate::model::config::{DecoderConfig, OUTPUT};
use crate::model::decoder::{Precision, scaled};
use crate::model::reading::config::ConvolutionPlace;
use crate::model::weights::{Weights, transposed};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use half::bf16;
use kernels::ops;
use scenarios::WeightFormat;
use std::sync::{Arc, Mutex};

/// Rows of a pool at first; a pool grows by multiples of it.
const FIRST_ROWS: usize = 512;

/// A layer's tensors: matrices `[inputs, outputs]` in the precision of products, vectors in f32.
type DeviceLayer = LayerWeights<Tensor<1>, Tensor<2>>;

/// A decoder on a device.
pub(super) struct DeviceTrunk {
    config: DecoderConfig,
    device: Device,
    precision: Precision,
    /// `[vocab, hidden]`, f32.
    embedding: Tensor<2>,
    /// The output matrix `[vocab, hidden]` in f32, if it is not the embedding.
    output: Option<Tensor<2>>,
    inputs: DeviceInputs,
    layers: Vec<DeviceLayer>,
    norm: Tensor<1>,
    /// By kind of attention.
    attention: Vec<DeviceAttention>,
    free: Arc<FreeRows>,
    /// By layer.
    pools: Mutex<Vec<LayerPool>>,
}

/// Takes tensors out of weights and puts them onto a device.
struct DeviceLoader<'a> {
    weights: &'a mut Weights,
    precision: Precision,
    device: &'a Device,
}

impl DeviceLoader<'_> {
    /// A tensor with a row for each token. Its numbers are rounded to the precision but stored in 32
    /// bits, because logits are computed from it.
    fn token_matrix(
        &mut self,
        name: &str,
        config: &DecoderConfig,
    ) -> Result<Tensor<2>, AgentError> {
        let shape = [config.vocab_size, config.hidden_size];
        let mut data = self.weights.take(name, &shape)?;
        if self.precision == Precision::Bf16 {
            data.iter_mut()
                .for_each(|weight| *weight = bf16::from_f32(*weight).to_f32());
        }
        Ok(Tensor::from_data(TensorData::new(data, shape), self.device))
    }

    fn layer(
        &mut self,
        config: &DecoderConfig,
        index_and_kind: [usize; 2],
    ) -> Result<DeviceLayer, AgentError> {
        let precision = self.precision;
        let device = self.device;
        LayerWeights::take(
            config,
            self.weights,
            index_and_kind,
            |data| vector(data, device),
            |data, shape| matrix(data, shape, precision, device),
        )
    }
}

fn vector(data: Vec<f32>, device: &Device) -> Tensor<1> {
    let size = data.len();
    Tensor::from_data(TensorData::new(data, [size]), device)
}

/// A matrix `[outputs, inputs]` as `[inputs, outputs]`.
fn matrix(
    data: Vec<f32>,
    [outputs, inputs]: [usize; 2],
    precision: Precision,
    device: &Device,
) -> Tensor<2> {
    let data = transposed(&data, outputs, inputs);
    let data = match precision {
        Precision::F32 => TensorData::new(data, [inputs, outputs]),
        Precision::Bf16 => TensorData::new(
            data.into_iter().map(bf16::from_f32).collect::<Vec<bf16>>(),
            [inputs, outputs],
        ),
    };
    Tensor::from_data(data, (device, precision.dtype()))
}

impl DeviceTrunk {
    /// Takes the trunk's tensors out of `weights`.
    ///
    /// # Errors
    /// If a tensor is missing or its shape differs from `config`, or if a device does not support
    /// `format`.
    pub(super) fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
        device: &Device,
    ) -> Result<Self, AgentError> {
        config.check()?;
        let precision = Precision::of(format).ok_or_else(|| AgentError::Device {
            device: format!("{device:?}"),
            reason: format!(
                "weights in {} are supported on the CPU only\nhint: use bf16, or exact, which is f32 \
                 on a GPU",
                format.name()
            ),
        })?;
        precision.check(device)?;
        let mut loader = DeviceLoader {
            weights,
            precision,
            device,
        };
        let (kinds, kind_of_layer) = config.attention_kinds();
        let attention = kinds.into_iter().map(|kind| {
            let shape = [config.max_position_embeddings, config.head_width() / 2];
            let tables = kind.rotary.half_table(shape[0]);
            DeviceAttention {
                rotary: tables
                    .map(|table| Tensor::from_data(TensorData::new(table, shape), device)),
                window: kind.window,
            }
        });
        let embedding = loader.token_matrix("model.embed_tokens.weight", config)?;
        let inputs = DeviceInputs::take(config, loader.weights, device)?;
        let layers = (kind_of_layer.into_iter().enumerate())
            .map(|(index, kind)| loader.layer(config, [index, kind]))
            .collect::<Result<_, _>>()?;
        let norm = take_last_norm(config, loader.weights)?;
        Ok(Self {
            precision,
            embedding,
            output: None,
            inputs,
            layers,
            norm: vector(norm, device),
            attention: attention.collect(),
            free: Arc::default(),
            pools: Mutex::default(),
            device: device.clone(),
            config: config.clone(),
        })
    }

    /// Also takes the output matrix, if it is not the embedding.
    ///
    /// # Errors
    /// If the matrix is missing or its shape differs from that of the embedding.
    pub(super) fn with_output(mut self, weights: &mut Weights) -> Result<Self, AgentError> {
        if !self.config.tie_word_embeddings {
            let mut loader = DeviceLoader {
                weights,
                precision: self.precision,
                device: &self.device,
            };
            self.output = Some(loader.token_matrix(OUTPUT, &self.config)?);
        }
        Ok(self)
    }

    /// The configuration of this trunk.
    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The matrix that computes logits.
    fn output(&self) -> &Tensor<2> {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of all matrices, the output matrix included.
    pub(super) fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(LayerWeights::matrices);
        layers.chain([self.output()]).map(tensor_bytes).sum()
    }

    /// Bytes of a KV cache for each token, and of the inputs of convolutions.
    pub(super) fn bytes_per_token(&self) -> usize {
        let kv = 2 * self.precision.dtype().size() * self.config.kv_width();
        (kv + size_of::<f32>() * self.config.convolved_width()) * self.layers.len()
    }

    /// The cache of a sequence of which nothing was read.
    pub(super) fn empty_cache(&self) -> CacheRows {
        CacheRows::empty(&self.free)
    }

    /// Rows of the pools that were ever used.
    #[cfg(test)]
    pub(super) fn pool_rows(&self) -> usize {
        self.free.pool_rows()
    }

    /// Reads every span's tokens. Returns the hidden states after the last norm in the order of the
    /// spans, `[all new tokens, hidden]`.
    pub(super) fn extend(&self, spans: &mut [DeviceSpan<'_>]) -> Vec<f32> {
        let rows = spans.iter().map(|span| span.tokens.len()).sum();
        let stream = self.read(spans);
        to_host(self.normalized(stream, &self.norm), rows)
    }

    /// Reads every span's tokens. Returns the hidden state of each span's last token,
    /// `[spans, hidden]`.
    pub(super) fn last_states(&self, spans: &mut [DeviceSpan<'_>]) -> Vec<f32> {
        let mut last = Vec::with_capacity(spans.len());
        let mut end = 0;
        for span in spans.iter() {
            end += span.tokens.len();
            last.push(end as i32 - 1);
        }
        last.resize(padded_rows(spans.len()), 0);
        let stream = self.read(spans).select(0, int_tensor(last, &self.device));
        to_host(self.normalized(stream, &self.norm), spans.len())
    }

    /// Log-probabilities of the next token, nats: `hidden` `[rows, hidden]` → `[rows, vocab]`.
    pub(super) fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        let rows = hidden.len() / self.config.hidden_size;
        to_host(self.logprobs_on_device(hidden), rows)
    }

    /// The same, with as many rows as [`padded_rows`] tells.
    fn logprobs_on_device(&self, hidden: &[f32]) -> Tensor<2> {
        let width = self.config.hidden_size;
        let rows = hidden.len() / width;
        let mut padded = hidden.to_vec();
        padded.resize(padded_rows(rows) * width, 0.0);
        let hidden = Tensor::<2>::from_data(
            TensorData::new(padded, [padded_rows(rows), width]),
            &self.device,
        );
        let logits = hidden.matmul(self.output().clone().transpose());
        activation::log_softmax(scaled(logits, self.config.scales.logits), 1)
    }

    /// The residual stream of all new tokens after the last layer, `[rows, hidden]`. Rows after the
    /// last token are padding.
    fn read(&self, spans: &mut [DeviceSpan<'_>]) -> Tensor<2> {
        // One thread reads at a time, so that nothing else refers to a pool.
        let mut pools = self.pools.lock().expect("no pass panicked");
        let mut reads = Vec::with_capacity(spans.len());
        let mut first = 0;
        let features = self.inputs.features(&self.config.reading, spans);
        for span in spans.iter_mut() {
            reads.push(self.allocate(span, first));
            first += span.tokens.len();
        }
        self.grow_pools(&mut pools);
        let tokens: Vec<u32> = spans.iter().flat_map(|span| span.tokens).copied().collect();
        let builder = PassBuilder {
            config: &self.config,
            device: &self.device,
            attention: &self.attention,
        };
        let pass = builder.pass(&tokens, &reads);
        let embedded = self.embedding.clone().select(0, pass.tokens.clone());
        let mut stream = scaled(embedded, self.config.scales.embedding);
        if self.config.reading.has_inputs() {
            stream = self.inputs.add_to(stream, &self.embedding, &features);
        }
        // If this is the only reference to a pool, burn writes to it in place.
        for (layer, pool) in self.layers.iter().zip(std::mem::take(&mut *pools)) {
            let (after, pool) = self.layer(layer, stream, pool, &pass);
            stream = after;
            pools.push(pool);
        }
        stream
    }

    /// Checks a span and allocates the rows of its tokens. `first` is the index of its first token
    /// among the new tokens of all spans.
    fn allocate(&self, span: &mut DeviceSpan<'_>, first: usize) -> SpanRead {
        let DecoderConfig {
            vocab_size,
            max_position_embeddings,
            ..
        } = self.config;
        assert!(span.own.belong_to(&self.free), "{FOREIGN_CACHE}");
        for token in span.tokens {
            assert!(
                (*token as usize) < vocab_size,
                "token {token} is outside the vocabulary"
            );
        }
        span.own.grow(span.tokens);
        let before: Vec<&[u32]> = span.before.iter().map(|part| part.numbers).collect();
        let mut seen = before.concat();
        seen.extend_from_slice(span.own.numbers());
        let end = seen.len();
        assert!(
            end <= max_position_embeddings,
            "position {} is outside the context",
            end - 1
        );
        SpanRead {
            first,
            new: span.tokens.len(),
            seen,
        }
    }

    /// Makes every pool long enough for all allocated rows.
    fn grow_pools(&self, pools: &mut Vec<LayerPool>) {
        let held = pools.first().map_or(0, |pool| pool.rows(&self.config));
        let needed = self.free.pool_rows();
        if needed <= held {
            return;
        }
        let more = (needed - held).max(held / 2).next_multiple_of(FIRST_ROWS);
        let added = LayerPool::zeros(&self.config, self.precision, more, &self.device);
        if pools.is_empty() {
            pools.resize(self.layers.len(), added);
        } else {
            let old = std::mem::take(pools);
            pools.extend(old.into_iter().map(|pool| pool.followed_by(&added)));
        }
    }

    /// One layer: the stream `[rows, hidden]` after it, and its pool with the new keys and values.
    fn layer(
        &self,
        layer: &DeviceLayer,
        stream: Tensor<2>,
        mut pool: LayerPool,
        pass: &DevicePass,
    ) -> (Tensor<2>, LayerPool) {
        let residual = self.config.scales.residual;
        let normed = self.normalized_if(stream.clone(), &layer.norms.before_attention);
        let filter = layer.filter(ConvolutionPlace::AttentionInput);
        let normed = pool.convolve(filter, normed, pass);
        let projected = self.product(self.precision.narrow(normed), &layer.qkv);
        let projected = match &layer.bias {
            Some(bias) => projected + bias.clone().unsqueeze::<2>(),
            None => projected,
        };
        let filter = layer.filter(ConvolutionPlace::QueryKeyValue);
        let projected = pool.convolve(filter, projected, pass);
        let queries = self.write_keys_and_values(layer, projected, &mut pool, pass);
        let mixed = self.attend(&queries, pool.lines(), pass, layer.attention_kind);
        let added = self.product(mixed, &layer.o);
        let added = self.normalized_if(added, &layer.norms.after_attention);
        let stream = stream + scaled(added, residual);
        let normed = self.normalized_if(stream.clone(), &layer.norms.before_mlp);
        let normed = pool.convolve(layer.filter(ConvolutionPlace::MlpInput), normed, pass);
        let gate_up = self.product(self.precision.narrow(normed), &layer.gate_up);
        let gate_up = pool.convolve(layer.filter(ConvolutionPlace::GateUp), gate_up, pass);
        let inner = self.gated(gate_up);
        let added = self.product(inner, &layer.down);
        let added = self.normalized_if(added, &layer.norms.after_mlp);
        (stream + scaled(added, residual), pool)
    }

    /// x after a norm, if there is one.
    fn normalized_if(&self, x: Tensor<2>, weight: &Option<Tensor<1>>) -> Tensor<2> {
        match weight {
            Some(weight) => self.normalized(x, weight),
            None => x,
        }
    }

    /// x / √(mean(x²) + ε) · weight.
    fn normalized(&self, x: Tensor<2>, weight: &Tensor<1>) -> Tensor<2> {
        let mean_square = x.clone().square().mean_dim(1);
        x * (mean_square + self.config.rms_norm_eps).sqrt().recip()
            * weight.clone().unsqueeze::<2>()
    }

    /// The norm of each head of `[rows, heads, head]`, or of all heads together if `weight` is as long.
    fn normalized_heads(&self, x: Tensor<3>, weight: &Tensor<1>) -> Tensor<3> {
        let shape @ [rows, heads, head] = x.dims();
        let width = weight.dims()[0];
        let parts = x.reshape([rows * heads * head / width, width]);
        self.normalized(parts, weight).reshape(shape)
    }

    /// x·W in 32 bits; x is in the precision of products.
    fn product(&self, x: Tensor<2>, matrix: &Tensor<2>) -> Tensor<2> {
        self.precision.widen(x.matmul(matrix.clone()))
    }

    /// activation(gate) · up of `[rows, 2 · inner]`, in the precision of products.
    fn gated(&self, gate_up: Tensor<2>) -> Tensor<2> {
        let inner = self.config.intermediate_size;
        let gate = gate_up.clone().narrow(1, 0, inner);
        let gate = ops::activated(gate, self.config.activation);
        self.precision
            .narrow(gate * gate_up.narrow(1, inner, inner))
    }

    /// Rotates queries and keys of `[rows, queries + keys + values]`, and writes keys and values into
    /// the pool. Returns the queries divided by √head in the precision of products,
    /// `[rows, queries]`.
    fn write_keys_and_values(
        &self,
        layer: &DeviceLayer,
        projected: Tensor<2>,
        pool: &mut LayerPool,
        pass: &DevicePass,
    ) -> Tensor<2> {
        let heads = self.config.num_attention_heads;
        let kv_heads = self.config.num_key_value_heads;
        let rows = projected.dims()[0];
        let head = self.config.head_width();
        let all = projected.reshape([rows, heads + 2 * kv_heads, head]);
        let rotating = match &layer.query_norms {
            None => all.clone().narrow(1, 0, heads + kv_heads),
            Some([of_queries, of_keys]) => {
                let queries = all.clone().narrow(1, 0, heads);
                let keys = all.clone().narrow(1, heads, kv_heads);
                let parts = [(queries, of_queries), (keys, of_keys)];
                Tensor::cat(
                    parts.map(|(x, norm)| self.normalized_heads(x, norm)).into(),
                    1,
                )
            }
        };
        let rotated = pass.rotate(rotating, layer.attention_kind);
        let queries = rotated.clone().narrow(1, 0, heads) * (1.0 / (head as f64).sqrt());
        let keys = rotated.narrow(1, heads, kv_heads);
        let values = all.narrow(1, heads + kv_heads, kv_heads);
        let new = Tensor::cat(vec![keys, values], 1);
        let new = self
            .precision
            .narrow(new.reshape([rows * 2 * kv_heads, head]));
        pool.write(pass.written.clone(), new);
        self.precision.narrow(queries.reshape([rows, heads * head]))
    }

    /// Attention of every new token over its own sequence: queries `[rows, queries]` →
    /// `[rows, queries]`, in the precision of products.
    fn attend(
        &self,
        queries: &Tensor<2>,
        pool: &Tensor<2>,
        pass: &DevicePass,
        kind: usize,
    ) -> Tensor<2> {
        let parts = pass
            .groups
            .iter()
            .map(|group| self.attend_group(group, queries, pool, kind))
            .collect::<Vec<_>>();
        let mixed = match <[Tensor<2>; 1]>::try_from(parts) {
            Ok([only]) => only, // `cat` would copy it
            Err(parts) => Tensor::cat(parts, 0),
        };
        match &pass.order {
            Some(order) => mixed.select(0, order.clone()),
            None => mixed,
        }
    }

    /// Attention of one group, `[spans · new, queries]`.
    fn attend_group(
        &self,
        group: &SpanGroup,
        queries: &Tensor<2>,
        pool: &Tensor<2>,
        kind: usize,
    ) -> Tensor<2> {
        let GroupShape { spans, new, seen } = group.shape;
        let heads = self.config.num_attention_heads;
        let kv_heads = self.config.num_key_value_heads;
        let head = self.config.head_width();
        let share = heads / kv_heads;
        let queries = match &group.rows {
            Some(rows) => queries.clone().select(0, rows.clone()),
            None => queries.clone(),
        };
        let (keys, values, biases) = match &group.tokens {
            SeenTokens::Gathered {
                keys,
                values,
                biases,
            } => (keys, values, biases),
            #[cfg(feature = "gpu")]
            SeenTokens::InPlace { table, seen } => {
                let counts = kernels::paged::HeadCounts {
                    heads,
                    kv_heads,
                    width: head,
                };
                return kernels::paged::paged_attention(queries, pool, table, &seen[kind], counts);
            }
        };
        let queries = queries
            .reshape([spans, new, kv_heads, share, head])
            .permute([0, 2, 3, 1, 4]);
        let cached = [spans, kv_heads, seen, head];
        let keys = pool_lines(pool, keys).reshape(cached);
        let scores = self.precision.widen(
            queries
                .reshape([spans, kv_heads, share * new, head])
                .matmul(keys.swap_dims(2, 3)),
        );
        let scores = scores.reshape([spans, kv_heads, share, new, seen]) + biases[kind].clone();
        let weights = self.precision.narrow(activation::softmax(scores, 4));
        let values = pool_lines(pool, values).reshape(cached);
        let mixed = weights
            .reshape([spans, kv_heads, share * new, seen])
            .matmul(values);
        let mixed = mixed
            .reshape([spans, kv_heads, share, new, head])
            .permute([0, 3, 1, 2, 4]);
        mixed.reshape([spans * new, heads * head])
    }
}

/// Lines of a pool, `[lines, head]`.
fn pool_lines(pool: &Tensor<2>, lines: &Tensor<1, Int>) -> Tensor<2> {
    pool.clone().select(0, lines.clone())
}

/// Bytes of a tensor.
fn tensor_bytes(tensor: &Tensor<2>) -> usize {
    tensor.dims().iter().product::<usize>() * tensor.dtype().size()
}

/// The first rows of an f32 tensor.
fn to_host(x: Tensor<2>, rows: usize) -> Vec<f32> {
    let width = x.dims()[1];
    let mut numbers = x.into_data().try_to_vec::<f32>().expect("it is f32");
    numbers.truncate(rows * width);
    numbers
}
