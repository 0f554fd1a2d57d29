//! The transformer that plays: the decoder of [`crate::decoder`] over plain vectors, with a key-value cache for each
//! episode that is kept from turn to turn, so that every token is read exactly once.
//!
//! Sequences of any lengths go through together as [`Span`]s without padding. A span may stand on caches that others
//! share: the K candidates of a turn read the episode's cache and write only their own, and episodes that open with the
//! same words share those. A row's numbers do not depend on which other spans travel with it, on how a sequence was
//! cut, or on the number of threads. Knows nothing of text, only token ids.

use crate::config::{DecoderConfig, OUTPUT, Scales};
use crate::error::AgentError;
use crate::kernel;
use crate::matrix::Matrix;
use crate::rope::rotary_table;
use crate::weights::{VALUE_HEAD, Weights};
use rayon::prelude::*;
use scenarios::WeightFormat;

/// Multiply-adds of attention, or numbers of a row-wise loop, below which it stays on its thread.
const WORTH_SHARING: usize = 1 << 17;
/// Tokens that a cache makes room for at first.
const FIRST_TOKENS: usize = 64;

/// Keys and values of the tokens read so far, layer by layer.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    length: usize,
}

#[derive(Debug, Clone, Default)]
struct LayerCache {
    /// `[length, kv_dim]`.
    keys: Vec<f32>,
    /// `[length, kv_dim]`.
    values: Vec<f32>,
}

impl KvCache {
    /// Tokens read so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends what a candidate read on top of this cache.
    pub fn append(&mut self, tail: KvCache) {
        if self.layers.is_empty() {
            self.layers.resize_with(tail.layers.len(), LayerCache::default);
        }
        for (layer, more) in self.layers.iter_mut().zip(tail.layers) {
            extend(&mut layer.keys, &more.keys, 0);
            extend(&mut layer.values, &more.values, 0);
        }
        self.length += tail.length;
    }

    /// The whole of it, to stand before a span.
    #[must_use]
    pub fn whole(&self) -> Part<'_> {
        Part { cache: self, tokens: self.length }
    }
}

/// Appends; room grows by a quarter at a time, so that at most a fifth of a cache lies idle.
fn extend(numbers: &mut Vec<f32>, more: &[f32], first: usize) {
    let length = numbers.len() + more.len();
    if length > numbers.capacity() {
        let room = length.max(numbers.len() + numbers.len() / 4).max(first);
        numbers.reserve_exact(room - numbers.len());
    }
    numbers.extend_from_slice(more);
}

/// The first tokens of a cache that stands before a span, and is only read.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The cache.
    pub cache: &'a KvCache,
    /// How many of its tokens.
    pub tokens: usize,
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Span<'a> {
    /// The tokens to read; at least one.
    pub tokens: &'a [u32],
    /// What stands before `cache`, in order.
    pub before: Vec<Part<'a>>,
    /// What the sequence read itself; grows by `tokens`.
    pub cache: &'a mut KvCache,
}

impl<'a> Span<'a> {
    /// A span with nothing before its own cache.
    pub fn new(tokens: &'a [u32], cache: &'a mut KvCache) -> Self {
        Self { tokens, before: Vec::new(), cache }
    }

    /// Tokens before the new ones.
    fn start(&self) -> usize {
        self.before.iter().map(|part| part.tokens).sum::<usize>() + self.cache.length
    }
}

struct LayerWeights {
    input_norm: Vec<f32>,
    /// Queries, keys and values side by side.
    qkv: Matrix,
    /// Of these; empty where the family has none.
    bias: Vec<f32>,
    o: Matrix,
    post_norm: Vec<f32>,
    /// Gate and up side by side.
    gate_up: Matrix,
    down: Matrix,
}

/// A decoder trunk for playing.
pub struct Trunk {
    config: DecoderConfig,
    /// `[hidden, vocab]`.
    embedding: Matrix,
    layers: Vec<LayerWeights>,
    norm: Vec<f32>,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// Takes tensors out of weights, so that no number is held twice for longer than it takes to pack its matrix.
struct Packer<'a> {
    weights: &'a mut Weights,
    format: WeightFormat,
}

impl Packer<'_> {
    fn vector(&mut self, name: &str, size: usize) -> Result<Vec<f32>, AgentError> {
        self.weights.take(name, &[size])
    }

    /// Matrices of the same inputs, side by side.
    fn matrix(&mut self, inputs: usize, parts: &[(String, usize)]) -> Result<Matrix, AgentError> {
        let mut data = Vec::new();
        for (name, columns) in parts {
            let part = self.weights.take(name, &[*columns, inputs])?;
            if data.is_empty() { data = part } else { data.extend_from_slice(&part) }
        }
        let columns = parts.iter().map(|(_, columns)| columns).sum();
        Ok(Matrix::pack(data, columns, inputs, self.format))
    }

    fn layer(&mut self, config: &DecoderConfig, index: usize) -> Result<LayerWeights, AgentError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let heads = [("q_proj", config.query_width()), ("k_proj", config.kv_width()), ("v_proj", config.kv_width())];
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let mut bias = Vec::new();
        for (part, size) in heads.iter().filter(|_| config.has_biases()) {
            bias.extend(self.vector(&format!("model.layers.{index}.self_attn.{part}.bias"), *size)?);
        }
        Ok(LayerWeights {
            input_norm: self.vector(&name("input_layernorm"), hidden)?,
            qkv: self.matrix(hidden, &heads.map(|(part, size)| (name(&format!("self_attn.{part}")), size)))?,
            bias,
            o: self.matrix(config.query_width(), &[(name("self_attn.o_proj"), hidden)])?,
            post_norm: self.vector(&name("post_attention_layernorm"), hidden)?,
            gate_up: self.matrix(hidden, &[(name("mlp.gate_proj"), inner), (name("mlp.up_proj"), inner)])?,
            down: self.matrix(inner, &[(name("mlp.down_proj"), hidden)])?,
        })
    }
}

/// Some rows of an attention, as a job for the widest vectors.
struct Attend<'a> {
    config: &'a DecoderConfig,
    /// Of these rows, `[rows, queries + keys + values]`.
    qkv: &'a [f32],
    rows: &'a [Row],
    /// By span: keys and values of all that stands before and of its own, part by part.
    seen: &'a [Vec<(&'a [f32], &'a [f32])>],
    /// Of these rows, `[rows, queries]`.
    mixed: &'a mut [f32],
}

/// Where a row belongs.
#[derive(Clone, Copy)]
struct Row {
    span: usize,
    position: usize,
}

impl pulp::NullaryFnOnce for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let config = self.config;
        let (wide, kv, head) = (config.query_width(), config.kv_width(), config.head_width());
        let group = config.num_attention_heads / config.num_key_value_heads;
        let scale = 1.0 / (head as f32).sqrt();
        let mut scores = Vec::new();
        let rows = self.qkv.chunks_exact(wide + 2 * kv).zip(self.mixed.chunks_exact_mut(wide)).zip(self.rows);
        for ((qkv, mixed), row) in rows {
            for index in 0..config.num_attention_heads {
                let (at, column) = (index * head, index / group * head);
                let (query, mixed) = (&qkv[at..][..head], &mut mixed[at..][..head]);
                scores.clear();
                scores.resize(row.position + 1, 0.0);
                let mut left = &mut scores[..];
                for (keys, _) in &self.seen[row.span] {
                    let count = left.len().min(keys.len() / kv);
                    let (part, rest) = left.split_at_mut(count);
                    kernel::score(query, keys, kv, column, scale, part);
                    left = rest;
                }
                kernel::softmax(&mut scores);
                mixed.fill(0.0);
                let mut left = &scores[..];
                for (_, values) in &self.seen[row.span] {
                    let (part, rest) = left.split_at(left.len().min(values.len() / kv));
                    kernel::mix(part, values, kv, column, mixed);
                    left = rest;
                }
            }
        }
    }
}

/// [`kernel::rms_norm`] as a job.
struct Normalize<'a> {
    stream: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    normed: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        kernel::rms_norm(self.stream, self.weight, self.epsilon, self.normed);
    }
}

/// [`kernel::swiglu`] as a job.
struct Gate<'a> {
    gate_up: &'a [f32],
    out: &'a mut [f32],
    width: usize,
}

impl pulp::NullaryFnOnce for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        kernel::swiglu(self.gate_up, self.out, self.width);
    }
}

/// [`kernel::log_softmax`] of some rows as a job.
struct LogSoftmax<'a> {
    rows: &'a mut [f32],
    width: usize,
    scale: f32,
}

impl pulp::NullaryFnOnce for LogSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.rows.chunks_exact_mut(self.width) {
            kernel::log_softmax(row, self.scale);
        }
    }
}

/// Rows for each thread, or all on this one.
fn share(rows: usize, work: usize) -> usize {
    let threads = rayon::current_num_threads();
    if threads > 1 && work >= WORTH_SHARING { rows.div_ceil(threads * 2) } else { rows }
}

impl Trunk {
    /// Takes the trunk's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        config.check()?;
        let hidden = config.hidden_size;
        let mut packer = Packer { weights, format };
        let (width, context) = (config.head_width(), config.max_position_embeddings);
        let (cosines, sines) = rotary_table(context, width, config.rope_theta, &config.rope_scaling);
        Ok(Self {
            embedding: packer.matrix(hidden, &[("model.embed_tokens.weight".into(), config.vocab_size)])?,
            layers: (0..config.num_hidden_layers).map(|i| packer.layer(config, i)).collect::<Result<_, _>>()?,
            norm: packer.vector("model.norm.weight", hidden)?,
            config: config.clone(),
            cosines,
            sines,
        })
    }

    /// The shape this trunk was built from.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Bytes of the matrices that every token is multiplied by.
    #[must_use]
    pub fn layer_bytes(&self) -> usize {
        let of = |layer: &LayerWeights| -> usize {
            [&layer.qkv, &layer.o, &layer.gate_up, &layer.down].map(Matrix::bytes).iter().sum()
        };
        self.layers.iter().map(of).sum()
    }

    /// Bytes of a cache for each token.
    #[must_use]
    pub fn bytes_per_token(&self) -> usize {
        2 * size_of::<f32>() * self.config.kv_width() * self.layers.len()
    }

    /// Reads every span's tokens; returns the hidden states after the last norm, `[all new tokens, hidden]`, in span
    /// order.
    ///
    /// # Panics
    /// When a sequence outgrows `max_position_embeddings` or a token id the vocabulary.
    pub fn extend(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        let config = &self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (wide, kv) = (config.query_width(), config.kv_width());
        let Scales { embedding, residual, .. } = config.scales;
        let epsilon = config.rms_norm_eps as f32;
        let mut stream: Vec<f32> = Vec::new();
        let mut places = Vec::new();
        for (span, asked) in spans.iter_mut().enumerate() {
            let start = asked.start();
            for (offset, token) in asked.tokens.iter().enumerate() {
                assert!((*token as usize) < config.vocab_size, "token {token} is outside the vocabulary");
                self.embedding.column_into(*token as usize, &mut stream);
                places.push(Row { span, position: start + offset });
            }
            asked.cache.layers.resize_with(self.layers.len(), LayerCache::default);
        }
        kernel::scale(&mut stream, embedding as f32);
        let rows = places.len();
        let mut normed = vec![0.0; rows * hidden];
        let mut qkv = vec![0.0; rows * (wide + 2 * kv)];
        let mut mixed = vec![0.0; rows * wide];
        let mut projected = vec![0.0; rows * hidden];
        let mut gate_up = vec![0.0; rows * 2 * inner];
        let mut gated = vec![0.0; rows * inner];
        let write = |stream: &mut [f32], projected: &mut [f32]| {
            kernel::scale(projected, residual as f32);
            kernel::add(stream, projected);
        };
        for (index, layer) in self.layers.iter().enumerate() {
            self.normalize(&stream, &layer.input_norm, epsilon, &mut normed);
            layer.qkv.product(&normed, &mut qkv);
            kernel::add_to_rows(&mut qkv, &layer.bias);
            self.attend(index, spans, &places, &mut qkv, &mut mixed);
            layer.o.product(&mixed, &mut projected);
            write(&mut stream, &mut projected);
            self.normalize(&stream, &layer.post_norm, epsilon, &mut normed);
            layer.gate_up.product(&normed, &mut gate_up);
            let share = share(rows, 16 * rows * inner);
            (gate_up.par_chunks(share * 2 * inner).zip(gated.par_chunks_mut(share * inner))).for_each(|(both, out)| {
                kernel::widest(Gate { gate_up: both, out, width: inner });
            });
            layer.down.product(&gated, &mut projected);
            write(&mut stream, &mut projected);
        }
        for span in spans.iter_mut() {
            span.cache.length += span.tokens.len();
        }
        self.normalize(&stream, &self.norm, epsilon, &mut normed);
        normed
    }

    fn normalize(&self, stream: &[f32], weight: &[f32], epsilon: f32, normed: &mut [f32]) {
        kernel::widest(Normalize { stream, weight, epsilon, normed });
    }

    /// Attention of every new token over its own sequence; fills `mixed`, `[rows, queries]`.
    fn attend(&self, layer: usize, spans: &mut [Span<'_>], rows: &[Row], qkv: &mut [f32], mixed: &mut [f32]) {
        let config = &self.config;
        let (wide, kv) = (config.query_width(), config.kv_width());
        let width = wide + 2 * kv;
        for (place, row) in rows.iter().zip(qkv.chunks_exact_mut(width)) {
            self.rotate(&mut row[..wide + kv], place.position);
            let own = &mut spans[place.span].cache.layers[layer];
            extend(&mut own.keys, &row[wide..wide + kv], FIRST_TOKENS * kv);
            extend(&mut own.values, &row[wide + kv..], FIRST_TOKENS * kv);
        }
        let seen: Vec<Vec<(&[f32], &[f32])>> = (spans.iter())
            .map(|span| {
                let before = span.before.iter().filter(|part| part.tokens > 0).map(|part| {
                    let (layer, numbers) = (&part.cache.layers[layer], part.tokens * kv);
                    (&layer.keys[..numbers], &layer.values[..numbers])
                });
                let own = &span.cache.layers[layer];
                before.chain([(&own.keys[..], &own.values[..])]).collect()
            })
            .collect();
        let work: usize = rows.iter().map(|row| (row.position + 1) * wide).sum();
        let share = share(rows.len(), work);
        (mixed.par_chunks_mut(share * wide).zip(qkv.par_chunks(share * width)).zip(rows.par_chunks(share)))
            .for_each(|((mixed, qkv), rows)| kernel::widest(Attend { config, qkv, rows, seen: &seen, mixed }));
    }

    /// Rotary embedding of all heads of one row.
    fn rotate(&self, row: &mut [f32], position: usize) {
        let head = self.config.head_width();
        let half = head / 2;
        assert!(position < self.config.max_position_embeddings, "position {position} is outside the context");
        let cosines = &self.cosines[position * head..][..half];
        let sines = &self.sines[position * head..][..half];
        for part in row.chunks_exact_mut(head) {
            let (low, high) = part.split_at_mut(half);
            for d in 0..half {
                let (a, b) = (low[d], high[d]);
                low[d] = a * cosines[d] - b * sines[d];
                high[d] = b * cosines[d] + a * sines[d];
            }
        }
    }
}

/// The policy for playing.
pub struct PolicyEngine {
    /// The decoder.
    pub trunk: Trunk,
    /// The output's matrix where it is not the embedding, `[hidden, vocab]`.
    output: Option<Matrix>,
}

impl PolicyEngine {
    /// Takes the policy's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        let trunk = Trunk::from_weights(config, weights, format)?;
        let mut output =
            || Packer { weights, format }.matrix(config.hidden_size, &[(OUTPUT.into(), config.vocab_size)]);
        let output = if config.tie_word_embeddings { None } else { Some(output()?) };
        Ok(Self { trunk, output })
    }

    /// Bytes that writing one token reads: every matrix once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.trunk.layer_bytes() + self.output.as_ref().unwrap_or(&self.trunk.embedding).bytes()
    }

    /// Log-probabilities of the next token, nats.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden]` → `[rows, vocab]`.
    #[must_use]
    pub fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        let (width, vocab) = (self.trunk.config.hidden_size, self.trunk.config.vocab_size);
        let rows = hidden.len() / width;
        let mut logits = vec![0.0; rows * vocab];
        self.output.as_ref().unwrap_or(&self.trunk.embedding).product(hidden, &mut logits);
        let scale = self.trunk.config.scales.logits as f32;
        let share = share(rows, 16 * logits.len()).max(1);
        logits.par_chunks_mut(share * vocab).for_each(|rows| {
            kernel::widest(LogSoftmax { rows, width: vocab, scale });
        });
        logits
    }
}

/// The value network for playing.
pub struct ValueEngine {
    /// The trunk.
    pub trunk: Trunk,
    head: Vec<f32>,
}

impl ValueEngine {
    /// Takes the value network's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        let head = weights.take(VALUE_HEAD, &[1, config.hidden_size])?;
        Ok(Self { trunk: Trunk::from_weights(config, weights, format)?, head })
    }

    /// The value at one hidden state `[hidden]`, reward units.
    #[must_use]
    pub fn value(&self, hidden: &[f32]) -> f32 {
        hidden.iter().zip(&self.head).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Family;
    use crate::decoder::{Decoder, ValueNetwork};
    use crate::rope::RopeScaling;
    use crate::weights::tests::tiny_config;
    use burn::tensor::{Device, Int, Tensor, TensorData};

    const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 36];

    /// Every family, and every way in which one departs from the plain Llama.
    fn configs() -> Vec<DecoderConfig> {
        let llama = tiny_config();
        let scales = Scales { embedding: 3.0, residual: 0.7, logits: 0.25 };
        let rope_scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 16.0 };
        vec![
            DecoderConfig { family: Family::Qwen2, tie_word_embeddings: false, ..llama.clone() },
            DecoderConfig { family: Family::MiniCpm, scales, ..llama.clone() },
            DecoderConfig { head_dim: Some(10), rope_scaling, ..llama.clone() },
            llama,
        ]
    }

    /// Weights of which every one matters.
    fn noise(config: &DecoderConfig) -> Weights {
        let mut weights = Weights::random(config, 1);
        for (name, tensor) in &mut weights.0 {
            if name.ends_with("bias") || name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
                tensor.data.iter_mut().enumerate().for_each(|(i, w)| *w = (i as f32 * 1.7).sin() / 4.0);
            }
        }
        weights
    }

    fn on_burn(tokens: &[u32]) -> Tensor<2, Int> {
        let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
        Tensor::from_data(TensorData::new(ids, [1, tokens.len()]), &Device::flex())
    }

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() < 2e-5, "{x} and {y}");
        }
    }

    /// Playing and learning compute the same log-probabilities.
    #[test]
    fn the_engine_equals_the_decoder() {
        for config in configs() {
            let weights = noise(&config);
            let engine =
                PolicyEngine::from_weights(&config, &mut weights.clone(), WeightFormat::Exact).expect("builds");
            let decoder = Decoder::from_weights(&config, &weights, &Device::flex()).expect("builds");
            assert_eq!(decoder.to_weights(), weights);
            let mut cache = KvCache::default();
            let hidden = engine.trunk.extend(&mut [Span::new(&TOKENS, &mut cache)]);
            let ours = engine.logprobs(&hidden);
            let states = decoder.hidden(on_burn(&TOKENS)).reshape([TOKENS.len(), config.hidden_size]);
            let theirs = burn::tensor::activation::log_softmax(decoder.logits(states), 1);
            close(&ours, &theirs.into_data().try_to_vec::<f32>().expect("f32"));
        }
    }

    #[test]
    fn the_value_engine_equals_the_value_network() {
        let config = tiny_config();
        let mut weights = Weights::random(&config, 1).with_zero_value_head(&config);
        let head = weights.0.get_mut(VALUE_HEAD).expect("a head");
        head.data.iter_mut().enumerate().for_each(|(i, w)| *w = (i as f32).sin());
        let engine = ValueEngine::from_weights(&config, &mut weights.clone(), WeightFormat::Exact).expect("builds");
        let network = ValueNetwork::from_weights(&config, &weights, &Device::flex()).expect("builds");
        assert_eq!(network.to_weights(), weights);
        let mut cache = KvCache::default();
        let hidden = engine.trunk.extend(&mut [Span::new(&TOKENS, &mut cache)]);
        let ours: Vec<f32> = hidden.chunks_exact(config.hidden_size).map(|h| engine.value(h)).collect();
        close(&ours, &network.values(on_burn(&TOKENS)).into_data().try_to_vec::<f32>().expect("f32"));
    }

    /// One call, token by token, on a shared prefix, or in company: the same bits.
    #[test]
    fn cutting_a_sequence_changes_no_bit() {
        let config = tiny_config();
        let trunk =
            Trunk::from_weights(&config, &mut Weights::random(&config, 1), WeightFormat::Exact).expect("builds");
        let mut whole_cache = KvCache::default();
        let whole = trunk.extend(&mut [Span::new(&TOKENS, &mut whole_cache)]);
        let mut stepped = Vec::new();
        let mut cache = KvCache::default();
        for token in &TOKENS {
            let one = std::slice::from_ref(token);
            stepped.extend(trunk.extend(&mut [Span::new(one, &mut cache)]));
        }
        assert_eq!(whole, stepped);
        let (mut prefix, mut tail, mut other) = (KvCache::default(), KvCache::default(), KvCache::default());
        trunk.extend(&mut [Span::new(&TOKENS[..4], &mut prefix)]);
        let together = trunk.extend(&mut [
            Span::new(&[7, 8, 9], &mut other),
            Span { tokens: &TOKENS[4..], before: vec![prefix.whole()], cache: &mut tail },
        ]);
        assert_eq!(whole[4 * config.hidden_size..], together[3 * config.hidden_size..]);
        prefix.append(tail);
        assert_eq!(prefix.layers[1].keys, whole_cache.layers[1].keys);
    }
}
