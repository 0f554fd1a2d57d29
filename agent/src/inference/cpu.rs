//! The engine on the CPU: the decoder over plain vectors, with kernels of our own.
//!
//! A row's numbers do not depend on which other spans travel with it, on how a sequence was cut, or on the number of
//! threads.

use super::layer::Layer;
use crate::error::AgentError;
use crate::model::config::{DecoderConfig, OUTPUT, Scales};
use crate::model::rope::rotary_table;
use crate::model::weights::Weights;
use kernels::attention::{Attend, Keys, Seen, Widths, reserve};
use kernels::elementwise;
use kernels::matrix::Matrix;
use kernels::simd;
use rayon::prelude::*;
use scenarios::WeightFormat;

/// Multiply-adds of attention, or numbers of a row-wise loop, below which it stays on its thread.
const WORTH_SHARING: usize = 1 << 17;
/// Tokens that a cache makes room for at first.
const FIRST_TOKENS: usize = 64;

/// Keys and values of the tokens read so far, layer by layer.
#[derive(Debug, Default)]
pub(super) struct KvCache {
    layers: Vec<LayerCache>,
    length: usize,
}

#[derive(Debug, Default)]
struct LayerCache {
    keys: Keys,
    /// `[length, kv_dim]`.
    values: Vec<f32>,
}

impl LayerCache {
    /// The first so many tokens.
    fn seen(&self, tokens: usize, kv: usize) -> Seen<'_> {
        Seen {
            keys: self.keys.blocks(),
            values: &self.values[..tokens * kv],
            tokens,
        }
    }
}

impl KvCache {
    /// Tokens read so far.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Appends what a candidate read on top of this cache.
    pub(super) fn append(&mut self, tail: KvCache) {
        if self.layers.is_empty() {
            self.layers
                .resize_with(tail.layers.len(), LayerCache::default);
        }
        for (layer, more) in self.layers.iter_mut().zip(tail.layers) {
            layer.keys.append(&more.keys);
            extend(&mut layer.values, &more.values, 0);
        }
        self.length += tail.length;
    }
}

fn extend(numbers: &mut Vec<f32>, more: &[f32], first: usize) {
    reserve(numbers, more.len(), first);
    numbers.extend_from_slice(more);
}

/// The first tokens of a cache that stands before a span, and is only read.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) cache: &'a KvCache,
    pub(super) tokens: usize,
}

/// New tokens of one sequence.
pub(super) struct Span<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) before: Vec<Part<'a>>,
    /// Grows by `tokens`.
    pub(super) cache: &'a mut KvCache,
}

impl Span<'_> {
    /// Tokens before the new ones.
    fn start(&self) -> usize {
        self.before.iter().map(|part| part.tokens).sum::<usize>() + self.cache.length
    }
}

/// A decoder on the CPU.
pub(super) struct Trunk {
    config: DecoderConfig,
    /// `[hidden, vocab]`.
    embedding: Matrix,
    /// Of the logits where it is not the embedding, `[hidden, vocab]`.
    output: Option<Matrix>,
    layers: Vec<Layer<Vec<f32>, Matrix>>,
    norm: Vec<f32>,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// A row for each token, packed.
fn table(
    name: &str,
    config: &DecoderConfig,
    weights: &mut Weights,
    format: WeightFormat,
) -> Result<Matrix, AgentError> {
    let DecoderConfig {
        vocab_size,
        hidden_size,
        ..
    } = *config;
    Ok(Matrix::pack(
        weights.take(name, &[vocab_size, hidden_size])?,
        vocab_size,
        hidden_size,
        format,
    ))
}

/// Where a row belongs.
#[derive(Clone, Copy)]
struct Row {
    span: usize,
    position: usize,
}

/// [`elementwise::rms_norm`] as a job.
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
        elementwise::rms_norm(self.stream, self.weight, self.epsilon, self.normed);
    }
}

/// [`elementwise::swiglu`] as a job.
struct Gate<'a> {
    gate_up: &'a [f32],
    out: &'a mut [f32],
    width: usize,
}

impl pulp::NullaryFnOnce for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        elementwise::swiglu(self.gate_up, self.out, self.width);
    }
}

/// [`elementwise::log_softmax`] of some rows as a job.
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
            elementwise::log_softmax(row, self.scale);
        }
    }
}

/// Rows for each thread, or all on this one.
fn share(rows: usize, work: usize) -> usize {
    let threads = rayon::current_num_threads();
    if threads > 1 && work >= WORTH_SHARING {
        rows.div_ceil(threads * 2)
    } else {
        rows.max(1)
    }
}

impl Trunk {
    /// Takes the trunk's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub(super) fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        config.check()?;
        let (width, context) = (config.head_width(), config.max_position_embeddings);
        let (cosines, sines) =
            rotary_table(context, width, config.rope_theta, &config.rope_scaling);
        let embedding = table("model.embed_tokens.weight", config, weights, format)?;
        let matrix =
            |data, [outputs, inputs]: [usize; 2]| Matrix::pack(data, outputs, inputs, format);
        let layer = |index| Layer::take(config, weights, index, |data| data, matrix);
        Ok(Self {
            embedding,
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Result<_, _>>()?,
            norm: weights.take("model.norm.weight", &[config.hidden_size])?,
            output: None,
            config: config.clone(),
            cosines,
            sines,
        })
    }

    /// The same with the matrix of the logits, where that is not the embedding.
    ///
    /// # Errors
    /// When it is missing or has another shape than the embedding.
    pub(super) fn with_output(
        mut self,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        if !self.config.tie_word_embeddings {
            self.output = Some(table(OUTPUT, &self.config, weights, format)?);
        }
        Ok(self)
    }

    /// The shape this trunk was built from.
    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Bytes of the matrices that a token and its logits are multiplied by.
    pub(super) fn bytes(&self) -> usize {
        let of = |layer: &Layer<Vec<f32>, Matrix>| -> usize {
            [&layer.qkv, &layer.o, &layer.gate_up, &layer.down]
                .map(Matrix::bytes)
                .iter()
                .sum()
        };
        self.layers.iter().map(of).sum::<usize>()
            + self.output.as_ref().unwrap_or(&self.embedding).bytes()
    }

    /// Bytes of a cache for each token.
    pub(super) fn bytes_per_token(&self) -> usize {
        2 * size_of::<f32>() * self.config.kv_width() * self.layers.len()
    }

    /// Reads every span's tokens; returns the hidden states after the last norm, `[all new tokens, hidden]`, in span
    /// order.
    ///
    /// # Panics
    /// When a sequence outgrows `max_position_embeddings` or a token id the vocabulary.
    pub(super) fn extend(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        let config = &self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (wide, kv) = (config.query_width(), config.kv_width());
        let Scales {
            embedding,
            residual,
            ..
        } = config.scales;
        let epsilon = config.rms_norm_eps as f32;
        let mut stream: Vec<f32> = Vec::new();
        let mut places = Vec::new();
        for (span, asked) in spans.iter_mut().enumerate() {
            let start = asked.start();
            for (offset, token) in asked.tokens.iter().enumerate() {
                assert!(
                    (*token as usize) < config.vocab_size,
                    "token {token} is outside the vocabulary"
                );
                self.embedding.column_into(*token as usize, &mut stream);
                places.push(Row {
                    span,
                    position: start + offset,
                });
            }
            asked
                .cache
                .layers
                .resize_with(self.layers.len(), LayerCache::default);
        }
        elementwise::scale(&mut stream, embedding as f32);
        let rows = places.len();
        let mut normed = vec![0.0; rows * hidden];
        let mut qkv = vec![0.0; rows * (wide + 2 * kv)];
        let mut mixed = vec![0.0; rows * wide];
        let mut projected = vec![0.0; rows * hidden];
        let mut gate_up = vec![0.0; rows * 2 * inner];
        let mut gated = vec![0.0; rows * inner];
        let write = |stream: &mut [f32], projected: &mut [f32]| {
            elementwise::scale(projected, residual as f32);
            elementwise::add(stream, projected);
        };
        for (index, layer) in self.layers.iter().enumerate() {
            self.normalize(&stream, &layer.input_norm, epsilon, &mut normed);
            layer.qkv.product(&normed, &mut qkv);
            elementwise::add_to_rows(&mut qkv, layer.bias.as_deref().unwrap_or_default());
            self.attend(index, spans, &places, &mut qkv, &mut mixed);
            layer.o.product(&mixed, &mut projected);
            write(&mut stream, &mut projected);
            self.normalize(&stream, &layer.post_norm, epsilon, &mut normed);
            layer.gate_up.product(&normed, &mut gate_up);
            let share = share(rows, 16 * rows * inner);
            (gate_up
                .par_chunks(share * 2 * inner)
                .zip(gated.par_chunks_mut(share * inner)))
            .for_each(|(both, out)| {
                elementwise::widest(Gate {
                    gate_up: both,
                    out,
                    width: inner,
                });
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

    /// Log-probabilities of the next token, nats: `hidden` `[rows, hidden]` → `[rows, vocab]`.
    pub(super) fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        let (width, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let rows = hidden.len() / width;
        let mut logits = vec![0.0; rows * vocab];
        self.output
            .as_ref()
            .unwrap_or(&self.embedding)
            .product(hidden, &mut logits);
        let scale = self.config.scales.logits as f32;
        let share = share(rows, 16 * logits.len()).max(1);
        logits.par_chunks_mut(share * vocab).for_each(|rows| {
            elementwise::widest(LogSoftmax {
                rows,
                width: vocab,
                scale,
            });
        });
        logits
    }

    fn normalize(&self, stream: &[f32], weight: &[f32], epsilon: f32, normed: &mut [f32]) {
        let share = share(stream.len() / weight.len(), 4 * stream.len()) * weight.len();
        (stream.par_chunks(share).zip(normed.par_chunks_mut(share))).for_each(
            |(stream, normed)| {
                elementwise::widest(Normalize {
                    stream,
                    weight,
                    epsilon,
                    normed,
                });
            },
        );
    }

    /// Attention of every new token over its own sequence; fills `mixed`, `[rows, queries]`.
    fn attend(
        &self,
        layer: usize,
        spans: &mut [Span<'_>],
        rows: &[Row],
        qkv: &mut [f32],
        mixed: &mut [f32],
    ) {
        let config = &self.config;
        let (wide, kv) = (config.query_width(), config.kv_width());
        let width = wide + 2 * kv;
        self.remember(layer, spans, qkv);
        let seen: Vec<Vec<Seen<'_>>> = (spans.iter())
            .map(|span| {
                let before = span.before.iter().filter(|part| part.tokens > 0);
                let before = before.map(|part| part.cache.layers[layer].seen(part.tokens, kv));
                let tokens = span.cache.length + span.tokens.len();
                before
                    .chain([span.cache.layers[layer].seen(tokens, kv)])
                    .collect()
            })
            .collect();
        let widths = Widths {
            head: config.head_width(),
            queries: wide,
            kv,
        };
        let work: usize = rows.iter().map(|row| (row.position + 1) * wide).sum();
        let share = share(rows.len(), work);
        (mixed
            .par_chunks_mut(share * wide)
            .zip(qkv.par_chunks(share * width))
            .zip(rows.par_chunks(share)))
        .for_each(|((mixed, qkv), rows)| {
            let seen = |row: usize| (&seen[rows[row].span][..], rows[row].position + 1);
            simd::widest(Attend {
                widths,
                qkv,
                seen,
                mixed,
            });
        });
    }

    /// Rotates queries and keys of all new tokens and appends keys and values to their spans' caches.
    fn remember(&self, layer: usize, spans: &mut [Span<'_>], qkv: &mut [f32]) {
        let (wide, kv) = (self.config.query_width(), self.config.kv_width());
        let width = wide + 2 * kv;
        let work = 4 * qkv.len();
        let mut rest = qkv;
        let mut parts = Vec::with_capacity(spans.len());
        for span in spans.iter_mut() {
            let (rows, after) = std::mem::take(&mut rest).split_at_mut(span.tokens.len() * width);
            parts.push((span, rows));
            rest = after;
        }
        let share = share(parts.len(), work);
        parts
            .par_chunks_mut(share)
            .flat_map_iter(|parts| parts)
            .for_each(|(span, rows)| {
                for (position, row) in (span.start()..).zip(rows.chunks_exact_mut(width)) {
                    self.rotate(&mut row[..wide + kv], position);
                    let own = &mut span.cache.layers[layer];
                    own.keys
                        .push(row[wide..wide + kv].iter().copied(), FIRST_TOKENS);
                    extend(&mut own.values, &row[wide + kv..], FIRST_TOKENS * kv);
                }
            });
    }

    /// Rotary embedding of all heads of one row.
    fn rotate(&self, row: &mut [f32], position: usize) {
        let head = self.config.head_width();
        let half = head / 2;
        assert!(
            position < self.config.max_position_embeddings,
            "position {position} is outside the context"
        );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::tests::tiny_config;

    const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 36];

    fn span<'a>(tokens: &'a [u32], cache: &'a mut KvCache) -> Span<'a> {
        Span {
            tokens,
            before: Vec::new(),
            cache,
        }
    }

    /// One call, token by token, on a shared prefix, or in company: the same bits.
    #[test]
    fn cutting_a_sequence_changes_no_bit() {
        let config = tiny_config();
        let trunk = Trunk::from_weights(
            &config,
            &mut Weights::random(&config, 1),
            WeightFormat::Exact,
        )
        .expect("builds");
        let mut whole_cache = KvCache::default();
        let whole = trunk.extend(&mut [span(&TOKENS, &mut whole_cache)]);
        let mut stepped = Vec::new();
        let mut cache = KvCache::default();
        for token in &TOKENS {
            let one = std::slice::from_ref(token);
            stepped.extend(trunk.extend(&mut [span(one, &mut cache)]));
        }
        assert_eq!(whole, stepped);
        let (mut prefix, mut tail, mut other) =
            (KvCache::default(), KvCache::default(), KvCache::default());
        trunk.extend(&mut [span(&TOKENS[..4], &mut prefix)]);
        let before = vec![Part {
            cache: &prefix,
            tokens: 4,
        }];
        let together = trunk.extend(&mut [
            span(&[7, 8, 9], &mut other),
            Span {
                tokens: &TOKENS[4..],
                before,
                cache: &mut tail,
            },
        ]);
        assert_eq!(
            whole[4 * config.hidden_size..],
            together[3 * config.hidden_size..]
        );
        prefix.append(tail);
        assert_eq!(prefix.layers[1].keys, whole_cache.layers[1].keys);
    }
}
