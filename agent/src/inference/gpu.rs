//! The engine on burn, for a GPU: keys and values of all sequences lie in one pool a layer, and a sequence's cache is
//! the list of its rows there, so that joining and sharing caches copies nothing.
//!
//! A pass is all new tokens as rows `[rows, hidden]`: linear layers, norms and SwiGLU know no sequences. New keys and
//! values go into a layer's pool by one indexed write, in place, since nothing else holds the pool then. For attention,
//! spans of like length form a [`Group`], padded to the longest: those of one token are one, so that a long prompt makes
//! no other sequence longer. Rows, spans and lengths are rounded up, so that few shapes of kernels occur.
//!
//! In bf16, matrices, keys and values, and what they are multiplied by have 16 bits; the stream, norms, rotations,
//! softmax, and the embedding with the logits have 32, as in [`crate::model::decoder`]. Attention is written out for the reasons
//! given here: burn 0.22's own knows no grouped heads, would repeat keys and values for each head of a group, takes the
//! softmax in 16 bits where its tuner prefers separate kernels, and multiplies in f16 whatever it is given where it does
//! not. One mask for a whole pass comes from positions; queries of a group of heads stand below each other as rows of one
//! product.

use super::layer::Layer;
use super::pool::{Free, PADDING, Rows};
use crate::error::AgentError;
use crate::model::config::{DecoderConfig, OUTPUT, Scales};
use crate::model::decoder::{Precision, scaled};
use crate::model::rope::rotary_table;
use crate::model::weights::{Weights, transposed};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use half::bf16;
use scenarios::WeightFormat;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Rows of a pool at first.
const FIRST_ROWS: usize = 512;
/// Tokens that the longest sequence of a group is rounded up to.
const TOKENS: usize = 64;
/// Spans or rows up to which they are rounded to a power of two; above, to its multiples.
const ROWS: usize = 8;
/// Keys, values and scores that a group may hold at once.
const GROUP_NUMBERS: usize = 1 << 28;
/// What is added to the score of a token that must not be seen.
const UNSEEN: f32 = -1e9;

/// New tokens of one sequence.
pub(super) struct Span<'a> {
    pub(super) tokens: &'a [u32],
    /// Rows of what stands before its own.
    pub(super) before: Vec<&'a [u32]>,
    /// Grows by those of `tokens`.
    pub(super) own: &'a mut Rows,
}

/// A decoder on a device.
pub(super) struct Trunk {
    config: DecoderConfig,
    device: Device,
    precision: Precision,
    /// `[vocab, hidden]`, f32.
    embedding: Tensor<2>,
    /// Of the logits where it is not the embedding, `[vocab, hidden]`, f32.
    output: Option<Tensor<2>>,
    /// Matrices `[inputs, outputs]` in the precision of products, vectors in f32.
    layers: Vec<Layer<Tensor<1>, Tensor<2>>>,
    norm: Tensor<1>,
    /// `[context, head / 2]`.
    cosines: Tensor<2>,
    sines: Tensor<2>,
    free: Arc<Free>,
    /// By layer, `[rows · 2 · kv_heads, head]`: of a row first the keys' heads, then the values'.
    pools: Mutex<Vec<Tensor<2>>>,
}

/// Takes tensors out of weights and onto a device.
struct Loader<'a> {
    weights: &'a mut Weights,
    precision: Precision,
    device: &'a Device,
}

impl Loader<'_> {
    /// A row for each token, of numbers of the precision but in 32 bits: what logits are made of.
    fn table(&mut self, name: &str, config: &DecoderConfig) -> Result<Tensor<2>, AgentError> {
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
        index: usize,
    ) -> Result<Layer<Tensor<1>, Tensor<2>>, AgentError> {
        let (precision, device) = (self.precision, self.device);
        let matrix = |data, shape| matrix(data, shape, precision, device);
        Layer::take(
            config,
            self.weights,
            index,
            |data| vector(data, device),
            matrix,
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

impl Trunk {
    /// Takes the trunk's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says, or a device cannot hold weights so.
    pub(super) fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
        device: &Device,
    ) -> Result<Self, AgentError> {
        config.check()?;
        let precision = Precision::of(format).ok_or_else(|| {
            let name = format.name();
            let reason = format!(
                "weights in {name} are for the CPU alone\nhint: bf16, or exact, which is f32"
            );
            AgentError::Device {
                device: format!("{device:?}"),
                reason,
            }
        })?;
        let mut loader = Loader {
            weights,
            precision,
            device,
        };
        let (context, head) = (config.max_position_embeddings, config.head_width());
        let (cosines, sines) = rotary_table(context, head, config.rope_theta, &config.rope_scaling);
        let half = |table: Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(table, [context, head]), device).narrow(
                1,
                0,
                head / 2,
            )
        };
        Ok(Self {
            precision,
            embedding: loader.table("model.embed_tokens.weight", config)?,
            output: None,
            layers: (0..config.num_hidden_layers)
                .map(|i| loader.layer(config, i))
                .collect::<Result<_, _>>()?,
            norm: vector(
                loader
                    .weights
                    .take("model.norm.weight", &[config.hidden_size])?,
                device,
            ),
            cosines: half(cosines),
            sines: half(sines),
            free: Arc::default(),
            pools: Mutex::default(),
            device: device.clone(),
            config: config.clone(),
        })
    }

    /// The same with the matrix of the logits, where that is not the embedding.
    ///
    /// # Errors
    /// When it is missing or has another shape than the embedding.
    pub(super) fn with_output(mut self, weights: &mut Weights) -> Result<Self, AgentError> {
        if !self.config.tie_word_embeddings {
            let mut loader = Loader {
                weights,
                precision: self.precision,
                device: &self.device,
            };
            self.output = Some(loader.table(OUTPUT, &self.config)?);
        }
        Ok(self)
    }

    /// The shape this trunk was built from.
    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Bytes of the matrices that a token and its logits are multiplied by.
    pub(super) fn bytes(&self) -> usize {
        let bytes =
            |matrix: &Tensor<2>| matrix.dims().iter().product::<usize>() * matrix.dtype().size();
        let of = |layer: &Layer<Tensor<1>, Tensor<2>>| {
            [&layer.qkv, &layer.o, &layer.gate_up, &layer.down]
                .map(bytes)
                .iter()
                .sum::<usize>()
        };
        self.layers.iter().map(of).sum::<usize>()
            + bytes(self.output.as_ref().unwrap_or(&self.embedding))
    }

    /// Bytes of a cache for each token.
    pub(super) fn bytes_per_token(&self) -> usize {
        2 * self.precision.dtype().size() * self.config.kv_width() * self.layers.len()
    }

    /// The cache of a sequence of which nothing was read.
    pub(super) fn no_rows(&self) -> Rows {
        Rows::none_of(&self.free)
    }

    /// Rows of the pools that were ever in use.
    #[cfg(test)]
    pub(super) fn reach(&self) -> usize {
        self.free.reach()
    }

    /// Reads every span's tokens; hidden states after the last norm, `[all new tokens, hidden]`, in span order.
    pub(super) fn extend(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        let rows = spans.iter().map(|span| span.tokens.len()).sum();
        let stream = self.read(spans);
        self.to_host(
            normalized(stream, &self.norm, self.config.rms_norm_eps),
            rows,
        )
    }

    /// The same of each span's last token alone, `[spans, hidden]`.
    pub(super) fn last_states(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        let ends = spans.iter().scan(0, |end, span| {
            *end += span.tokens.len();
            Some(*end as i32 - 1)
        });
        let mut ends: Vec<i32> = ends.collect();
        ends.resize(friendly(spans.len()), 0);
        let stream = self.read(spans).select(0, self.numbers(ends));
        self.to_host(
            normalized(stream, &self.norm, self.config.rms_norm_eps),
            spans.len(),
        )
    }

    /// Log-probabilities of the next token, nats: `hidden` `[rows, hidden]` → `[rows, vocab]`.
    pub(super) fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        let width = self.config.hidden_size;
        let rows = hidden.len() / width;
        let mut padded = hidden.to_vec();
        padded.resize(friendly(rows) * width, 0.0);
        let hidden = Tensor::<2>::from_data(
            TensorData::new(padded, [friendly(rows), width]),
            &self.device,
        );
        let output = self.output.as_ref().unwrap_or(&self.embedding).clone();
        let logits = scaled(hidden.matmul(output.transpose()), self.config.scales.logits);
        self.to_host(activation::log_softmax(logits, 1), rows)
    }

    /// The first rows of an f32 tensor.
    fn to_host(&self, x: Tensor<2>, rows: usize) -> Vec<f32> {
        let width = x.dims()[1];
        let mut numbers = x.into_data().try_to_vec::<f32>().expect("it is f32");
        numbers.truncate(rows * width);
        numbers
    }

    fn numbers(&self, numbers: Vec<i32>) -> Tensor<1, Int> {
        let length = numbers.len();
        Tensor::from_data(TensorData::new(numbers, [length]), &self.device)
    }

    /// The residual stream of all new tokens after the last layer, `[rows, hidden]`; rows behind them are padding.
    fn read(&self, spans: &mut [Span<'_>]) -> Tensor<2> {
        // Of several threads one reads at a time: while it does, nobody else holds a pool.
        let mut pools = self.pools.lock().expect("no pass panicked");
        let reads: Vec<Read> = spans
            .iter_mut()
            .scan(0, |first, span| Some(self.seated(span, first)))
            .collect();
        self.make_room(&mut pools);
        let tokens: Vec<u32> = spans.iter().flat_map(|span| span.tokens).copied().collect();
        let pass = self.pass(&tokens, &reads);
        let embedded = self.embedding.clone().select(0, pass.tokens.clone());
        let mut stream = scaled(embedded, self.config.scales.embedding);
        // A pool that is held here alone is written to where it lies.
        for (layer, pool) in self.layers.iter().zip(std::mem::take(&mut *pools)) {
            let (after, pool) = self.through(layer, stream, pool, &pass);
            stream = after;
            pools.push(pool);
        }
        stream
    }

    /// Checks a span and gives it rows; `first` is its place among all new tokens, and then the next one's.
    fn seated(&self, span: &mut Span<'_>, first: &mut usize) -> Read {
        let DecoderConfig {
            vocab_size,
            max_position_embeddings,
            ..
        } = self.config;
        assert!(span.own.are_of(&self.free), "{}", super::FOREIGN);
        for token in span.tokens {
            assert!(
                (*token as usize) < vocab_size,
                "token {token} is outside the vocabulary"
            );
        }
        span.own.grow(span.tokens.len());
        let seen: Vec<u32> = span
            .before
            .iter()
            .copied()
            .chain([span.own.numbers()])
            .flatten()
            .copied()
            .collect();
        let end = seen.len();
        assert!(
            end <= max_position_embeddings,
            "position {} is outside the context",
            end - 1
        );
        let read = Read {
            first: *first,
            new: span.tokens.len(),
            seen,
        };
        *first += read.new;
        read
    }

    /// Makes every pool as long as its rows reach.
    fn make_room(&self, pools: &mut Vec<Tensor<2>>) {
        let width = 2 * self.config.num_key_value_heads;
        let held = pools.first().map_or(0, |pool| pool.dims()[0] / width);
        let reach = self.free.reach();
        if reach <= held {
            return;
        }
        let more = (reach - held).max(held / 2).next_multiple_of(FIRST_ROWS);
        let zeros = || {
            Tensor::zeros(
                [more * width, self.config.head_width()],
                (&self.device, self.precision.dtype()),
            )
        };
        if pools.is_empty() {
            pools.extend(self.layers.iter().map(|_| zeros()));
        } else {
            let old = std::mem::take(pools);
            pools.extend(
                old.into_iter()
                    .map(|pool| Tensor::cat(vec![pool, zeros()], 0)),
            );
        }
    }

    /// Puts what a pass needs of all its tokens onto the device, once for all layers.
    fn pass(&self, tokens: &[u32], reads: &[Read]) -> Pass {
        let rows = friendly(tokens.len());
        let padded = |numbers: Vec<i32>| {
            let mut numbers = numbers;
            numbers.resize(rows, 0);
            self.numbers(numbers)
        };
        let positions = padded(reads.iter().flat_map(Read::positions).collect());
        let turned = |table: &Tensor<2>| {
            table
                .clone()
                .select(0, positions.clone())
                .unsqueeze_dim::<3>(1)
        };
        let kv_heads = self.config.num_key_value_heads;
        let new = reads
            .iter()
            .flat_map(|read| &read.seen[read.seen.len() - read.new..]);
        let new = padded(new.map(|row| *row as i32).collect());
        let lines = Tensor::<1, Int>::arange(0..2 * kv_heads as i64, &self.device);
        let written = new.unsqueeze_dim::<2>(1) * (2 * kv_heads as i32) + lines.unsqueeze::<2>();
        let members = members(reads, self.numbers_of_a_span());
        let in_order = members.len() == 1 && reads.iter().all(|read| read.new == 1);
        let order = (!in_order).then(|| padded(places(reads, &members)));
        Pass {
            tokens: padded(tokens.iter().map(|token| *token as i32).collect()),
            cosines: turned(&self.cosines),
            sines: turned(&self.sines),
            written: written.reshape([rows * 2 * kv_heads, 1]),
            groups: members
                .iter()
                .map(|members| self.group(reads, members, in_order))
                .collect(),
            order,
        }
    }

    /// Numbers that attention holds of one span of `new` tokens that sees `seen`.
    fn numbers_of_a_span(&self) -> impl Fn(usize, usize) -> usize {
        let (kv, heads) = (self.config.kv_width(), self.config.num_attention_heads);
        move |new, seen| seen * (2 * kv + heads * new)
    }

    fn group(&self, reads: &[Read], members: &[usize], in_order: bool) -> Group {
        let shape = Padded::of(reads, members);
        let Padded { spans, new, seen } = shape;
        let (mut rows, mut positions, mut lines) = (
            vec![0; spans * new],
            vec![0; spans * new],
            vec![PADDING as i32; spans * seen],
        );
        for (place, member) in members.iter().enumerate() {
            let read = &reads[*member];
            for (offset, position) in read.positions().enumerate() {
                rows[place * new + offset] = (read.first + offset) as i32;
                positions[place * new + offset] = position;
            }
            for (line, row) in lines[place * seen..].iter_mut().zip(&read.seen) {
                *line = *row as i32;
            }
        }
        let kv_heads = self.config.num_key_value_heads;
        let heads =
            Tensor::<1, Int>::arange(0..kv_heads as i64, &self.device).reshape([1, kv_heads, 1]);
        let lines = self.numbers(lines).reshape([spans, 1, seen]) * (2 * kv_heads as i32) + heads;
        let keys = lines.reshape([spans * kv_heads * seen]);
        let places = Tensor::<1, Int>::arange(0..seen as i64, &self.device).reshape([1, 1, seen]);
        let unseen = places.greater(self.numbers(positions).reshape([spans, new, 1]));
        Group {
            shape,
            rows: (!in_order).then(|| self.numbers(rows)),
            values: keys.clone() + kv_heads as i32,
            keys,
            bias: (unseen.float() * UNSEEN).reshape([spans, 1, 1, new, seen]),
        }
    }

    /// One layer: the stream `[rows, hidden]` behind it, and its pool with the new keys and values.
    fn through(
        &self,
        layer: &Layer<Tensor<1>, Tensor<2>>,
        stream: Tensor<2>,
        pool: Tensor<2>,
        pass: &Pass,
    ) -> (Tensor<2>, Tensor<2>) {
        let Scales { residual, .. } = self.config.scales;
        let projected = self.product(
            self.normalize(stream.clone(), &layer.input_norm),
            &layer.qkv,
        );
        let projected = match &layer.bias {
            Some(bias) => projected + bias.clone().unsqueeze::<2>(),
            None => projected,
        };
        let (queries, pool) = self.remember(projected, pool, pass);
        let mixed = self.attend(&queries, &pool, pass);
        let stream = stream + scaled(self.product(mixed, &layer.o), residual);
        let inner = self.gated(self.product(
            self.normalize(stream.clone(), &layer.post_norm),
            &layer.gate_up,
        ));
        (
            stream + scaled(self.product(inner, &layer.down), residual),
            pool,
        )
    }

    fn normalize(&self, stream: Tensor<2>, weight: &Tensor<1>) -> Tensor<2> {
        self.precision
            .narrow(normalized(stream, weight, self.config.rms_norm_eps))
    }

    /// x·W of a narrow x, wide.
    fn product(&self, x: Tensor<2>, matrix: &Tensor<2>) -> Tensor<2> {
        self.precision.widen(x.matmul(matrix.clone()))
    }

    /// silu(gate) · up of `[rows, 2 · inner]`, narrow.
    fn gated(&self, gate_up: Tensor<2>) -> Tensor<2> {
        let inner = self.config.intermediate_size;
        let gate = activation::silu(gate_up.clone().narrow(1, 0, inner));
        self.precision
            .narrow(gate * gate_up.narrow(1, inner, inner))
    }

    /// Rotates queries and keys `[rows, queries + keys + values]` and writes keys and values into the pool; the queries
    /// are over √head, narrow, `[rows, queries]`.
    fn remember(
        &self,
        projected: Tensor<2>,
        pool: Tensor<2>,
        pass: &Pass,
    ) -> (Tensor<2>, Tensor<2>) {
        let DecoderConfig {
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            ..
        } = self.config;
        let (rows, head) = (projected.dims()[0], self.config.head_width());
        let all = projected.reshape([rows, heads + 2 * kv_heads, head]);
        let turned = pass.rotate(all.clone().narrow(1, 0, heads + kv_heads));
        let queries = turned.clone().narrow(1, 0, heads) * (1.0 / (head as f64).sqrt());
        let new = Tensor::cat(
            vec![
                turned.narrow(1, heads, kv_heads),
                all.narrow(1, heads + kv_heads, kv_heads),
            ],
            1,
        );
        let new = self
            .precision
            .narrow(new.reshape([rows * 2 * kv_heads, head]));
        let pool = pool.scatter_nd(pass.written.clone(), new, IndexingUpdateOp::Assign);
        (
            self.precision.narrow(queries.reshape([rows, heads * head])),
            pool,
        )
    }

    /// Attention of every new token over its own sequence: queries `[rows, queries]` → `[rows, queries]`, narrow.
    fn attend(&self, queries: &Tensor<2>, pool: &Tensor<2>, pass: &Pass) -> Tensor<2> {
        let parts = pass
            .groups
            .iter()
            .map(|group| self.attend_together(group, queries, pool))
            .collect::<Vec<_>>();
        let mixed = match <[Tensor<2>; 1]>::try_from(parts) {
            Ok([only]) => only, // which cat would copy
            Err(parts) => Tensor::cat(parts, 0),
        };
        match &pass.order {
            Some(order) => mixed.select(0, order.clone()),
            None => mixed,
        }
    }

    /// Attention of one group, `[spans · new, queries]`.
    fn attend_together(&self, group: &Group, queries: &Tensor<2>, pool: &Tensor<2>) -> Tensor<2> {
        let Padded { spans, new, seen } = group.shape;
        let DecoderConfig {
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            ..
        } = self.config;
        let (head, share) = (self.config.head_width(), heads / kv_heads);
        let queries = match &group.rows {
            Some(rows) => queries.clone().select(0, rows.clone()),
            None => queries.clone(),
        };
        let queries = queries
            .reshape([spans, new, kv_heads, share, head])
            .permute([0, 2, 3, 1, 4]);
        let fetch = |lines: &Tensor<1, Int>| {
            pool.clone()
                .select(0, lines.clone())
                .reshape([spans, kv_heads, seen, head])
        };
        let keys = fetch(&group.keys).swap_dims(2, 3);
        let scores = self.precision.widen(
            queries
                .reshape([spans, kv_heads, share * new, head])
                .matmul(keys),
        );
        let scores = scores.reshape([spans, kv_heads, share, new, seen]) + group.bias.clone();
        let weights = self.precision.narrow(activation::softmax(scores, 4));
        let mixed = weights
            .reshape([spans, kv_heads, share * new, seen])
            .matmul(fetch(&group.values));
        let mixed = mixed
            .reshape([spans, kv_heads, share, new, head])
            .permute([0, 3, 1, 2, 4]);
        mixed.reshape([spans * new, heads * head])
    }
}

/// What a span reads.
struct Read {
    /// Place of its first new token among those of all spans.
    first: usize,
    /// New tokens.
    new: usize,
    /// Rows of the whole sequence, the new tokens' last.
    seen: Vec<u32>,
}

impl Read {
    /// Of its new tokens.
    fn positions(&self) -> impl Iterator<Item = i32> + use<> {
        (self.seen.len() - self.new..self.seen.len()).map(|position| position as i32)
    }
}

/// A pass on the device.
struct Pass {
    /// `[rows]`.
    tokens: Tensor<1, Int>,
    /// `[rows, 1, head / 2]`.
    cosines: Tensor<3>,
    sines: Tensor<3>,
    /// Lines of a pool that the new keys and values go to, `[rows · 2 · kv_heads, 1]`.
    written: Tensor<2, Int>,
    groups: Vec<Group>,
    /// Where each row stands among the rows of all groups, `[rows]`; none where that is its own place.
    order: Option<Tensor<1, Int>>,
}

impl Pass {
    /// x·cos + rotate_half(x)·sin of `[rows, heads, head]`.
    fn rotate(&self, x: Tensor<3>) -> Tensor<3> {
        let half = x.dims()[2] / 2;
        let (low, high) = (x.clone().narrow(2, 0, half), x.narrow(2, half, half));
        let turned_low = low.clone() * self.cosines.clone() - high.clone() * self.sines.clone();
        let turned_high = high * self.cosines.clone() + low * self.sines.clone();
        Tensor::cat(vec![turned_low, turned_high], 2)
    }
}

/// Spans whose attention is one product.
struct Group {
    shape: Padded,
    /// Its rows among those of the pass, `[spans · new]`; none where it is all of them in order.
    rows: Option<Tensor<1, Int>>,
    /// Lines of a pool, `[spans · kv_heads · seen]`.
    keys: Tensor<1, Int>,
    values: Tensor<1, Int>,
    /// [`UNSEEN`] where a token comes later than the query's, else 0: `[spans, 1, 1, new, seen]`.
    bias: Tensor<5>,
}

/// Sizes of a group, padding included.
#[derive(Clone, Copy)]
struct Padded {
    spans: usize,
    /// New tokens of a span.
    new: usize,
    /// All tokens of a sequence.
    seen: usize,
}

impl Padded {
    fn of(reads: &[Read], members: &[usize]) -> Self {
        let longest = members
            .iter()
            .map(|member| reads[*member].seen.len())
            .max()
            .unwrap_or(0);
        let new = members
            .first()
            .map_or(1, |member| bucket(reads[*member].new));
        Self {
            spans: friendly(members.len()),
            new,
            seen: longest.next_multiple_of(TOKENS),
        }
    }
}

/// A number of rows or spans, rounded up.
fn friendly(rows: usize) -> usize {
    if rows <= ROWS {
        rows.next_power_of_two()
    } else {
        rows.next_multiple_of(ROWS)
    }
}

/// The length that a span of so many new tokens is padded to: its own, or a power of two from 8 on.
fn bucket(new: usize) -> usize {
    if new == 1 {
        1
    } else {
        new.next_power_of_two().max(ROWS)
    }
}

/// The spans that attend together: those of one [`bucket`], as many as fit into [`GROUP_NUMBERS`]. `numbers` tells what
/// one holds, from its new tokens and all it sees.
fn members(reads: &[Read], numbers: impl Fn(usize, usize) -> usize) -> Vec<Vec<usize>> {
    let mut buckets: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, read) in reads.iter().enumerate() {
        buckets.entry(bucket(read.new)).or_default().push(place);
    }
    let parts = buckets.into_iter().flat_map(|(new, places)| {
        let longest = places
            .iter()
            .map(|place| reads[*place].seen.len())
            .max()
            .unwrap_or(0);
        let most = (GROUP_NUMBERS / numbers(new, longest).max(1)).max(1);
        places
            .chunks(most)
            .map(<[usize]>::to_vec)
            .collect::<Vec<_>>()
    });
    parts.collect()
}

/// Where each new token stands among the padded rows of all groups.
fn places(reads: &[Read], groups: &[Vec<usize>]) -> Vec<i32> {
    let mut places = vec![0; reads.iter().map(|read| read.new).sum()];
    let mut start = 0;
    for members in groups {
        let Padded { spans, new, .. } = Padded::of(reads, members);
        for (slot, member) in members.iter().enumerate() {
            let Read {
                first, new: own, ..
            } = reads[*member];
            for (offset, place) in places[first..first + own].iter_mut().enumerate() {
                *place = (start + slot * new + offset) as i32;
            }
        }
        start += spans * new;
    }
    places
}

/// x / √(mean(x²) + ε) · weight.
fn normalized(x: Tensor<2>, weight: &Tensor<1>, epsilon: f64) -> Tensor<2> {
    let mean_square = x.clone().square().mean_dim(1);
    x * (mean_square + epsilon).sqrt().recip() * weight.clone().unsqueeze::<2>()
}
