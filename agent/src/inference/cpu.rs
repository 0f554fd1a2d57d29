//! The decoder at play on the CPU, on plain vectors and the kernels of this workspace.
//!
//! A row's numbers do not depend on which other spans are read with it, on where a sequence was cut,
//! or on the number of threads.

mod cache;
mod reading;

pub(super) use self::cache::{HostCache, HostPrefix, HostSpan};

use self::cache::{FIRST_TOKENS, LayerCache, append_values};
use self::reading::HostInputs;
use super::layer::{LayerWeights, take_last_norm};
use crate::error::AgentError;
use crate::model::config::{DecoderConfig, OUTPUT};
use crate::model::reading::config::ConvolutionPlace;
use crate::model::weights::Weights;
use kernels::attention::{CachedAttention, HeadWidths, KvSegment};
use kernels::convolution::Convolution;
use kernels::elementwise;
use kernels::matrix::Matrix;
use rayon::prelude::*;
use scenarios::{KvFormat, WeightFormat};

/// Multiply-adds of attention, or numbers of a loop over rows, from which threads share the work.
const MIN_PARALLEL: usize = 1 << 17;
/// A decoder on the CPU.
pub(super) struct HostTrunk {
    config: DecoderConfig,
    /// `[hidden, vocab]`.
    embedding: Matrix,
    /// The output matrix `[hidden, vocab]`, if it is not the embedding.
    output: Option<Matrix>,
    inputs: HostInputs,
    layers: Vec<LayerWeights<Vec<f32>, Matrix>>,
    norm: Vec<f32>,
    /// By kind of attention.
    attention: Vec<HostAttention>,
    /// The number format of the caches of the sequences that it reads.
    kv: KvFormat,
}

/// What the layers with one kind of attention share.
struct HostAttention {
    /// Cosines and sines, `[context, head / 2]`.
    rotary: [Vec<f32>; 2],
    /// How many tokens a token sees.
    window: usize,
}

/// A new token's sequence and position.
#[derive(Clone, Copy)]
struct RowPosition {
    span: usize,
    position: usize,
}

/// Packs a tensor with a row for each token.
fn token_matrix(
    name: &str,
    config: &DecoderConfig,
    weights: &mut Weights,
    format: WeightFormat,
) -> Result<Matrix, AgentError> {
    let vocab = config.vocab_size;
    let hidden = config.hidden_size;
    let data = weights.take(name, &[vocab, hidden])?;
    Ok(Matrix::pack(data, vocab, hidden, format))
}

/// Rows that a thread takes at a time; all rows if the work is too small to share.
fn row_share(rows: usize, work: usize) -> usize {
    let threads = rayon::current_num_threads();
    if threads > 1 && work >= MIN_PARALLEL {
        rows.div_ceil(threads * 2)
    } else {
        rows.max(1)
    }
}

impl HostTrunk {
    /// Takes the trunk's tensors out of `weights`.
    ///
    /// # Errors
    /// If a tensor is missing or its shape differs from `config`.
    pub(super) fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        config.check()?;
        let context = config.max_position_embeddings;
        let (kinds, kind_of_layer) = config.attention_kinds();
        let kinds = kinds.into_iter().map(|kind| HostAttention {
            rotary: kind.rotary.half_table(context),
            window: kind.window.unwrap_or(usize::MAX),
        });
        let embedding = token_matrix("model.embed_tokens.weight", config, weights, format)?;
        let inputs = HostInputs::take(config, weights, format)?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for (index, kind) in kind_of_layer.into_iter().enumerate() {
            layers.push(LayerWeights::take(
                config,
                weights,
                [index, kind],
                |data| data,
                |data, [outputs, inputs]| Matrix::pack(data, outputs, inputs, format),
            )?);
        }
        Ok(Self {
            embedding,
            inputs,
            layers,
            norm: take_last_norm(config, weights)?,
            output: None,
            config: config.clone(),
            attention: kinds.collect(),
            kv: KvFormat::Exact,
        })
    }

    /// Also takes the output matrix, if it is not the embedding.
    ///
    /// # Errors
    /// If the matrix is missing or its shape differs from that of the embedding.
    pub(super) fn with_output(
        mut self,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        if !self.config.tie_word_embeddings {
            self.output = Some(token_matrix(OUTPUT, &self.config, weights, format)?);
        }
        Ok(self)
    }

    /// Keeps keys and values in this format.
    pub(super) fn with_kv(self, kv: KvFormat) -> Self {
        Self { kv, ..self }
    }

    /// The configuration of this trunk.
    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The matrix that computes logits.
    fn output(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of all matrices, the output matrix included.
    pub(super) fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(LayerWeights::matrices);
        layers
            .chain(self.inputs.matrices())
            .chain([self.output()])
            .map(Matrix::bytes)
            .sum()
    }

    /// Bytes of a KV cache for each token, and of the inputs of convolutions.
    pub(super) fn bytes_per_token(&self) -> usize {
        let number = match self.kv {
            KvFormat::Exact => size_of::<f32>(),
            KvFormat::F16 => size_of::<u16>(),
        };
        let kv = 2 * number * self.config.kv_width();
        (kv + size_of::<f32>() * self.config.convolved_width()) * self.layers.len()
    }

    /// Reads every span's tokens. Returns the hidden states after the last norm in the order of the
    /// spans, `[all new tokens, hidden]`.
    ///
    /// # Panics
    /// If a sequence becomes longer than `max_position_embeddings`, or a token id is outside the
    /// vocabulary.
    pub(super) fn extend(&self, spans: &mut [HostSpan<'_>]) -> Vec<f32> {
        let config = &self.config;
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let queries = config.query_width();
        let residual = config.scales.residual as f32;
        let (mut stream, positions) = self.embed(spans);
        let rows = positions.len();
        let mut normed = vec![0.0; rows * hidden];
        let mut qkv = vec![0.0; rows * (queries + 2 * config.kv_width())];
        let mut mixed = vec![0.0; rows * queries];
        let mut projected = vec![0.0; rows * hidden];
        let mut gate_up = vec![0.0; rows * 2 * inner];
        let mut gated = vec![0.0; rows * inner];
        for (index, layer) in self.layers.iter().enumerate() {
            self.normalize_or_copy(&stream, &layer.norms.before_attention, &mut normed);
            self.convolve(index, ConvolutionPlace::AttentionInput, spans, &mut normed);
            layer.qkv.product(&normed, &mut qkv);
            elementwise::add_to_rows(&mut qkv, layer.bias.as_deref().unwrap_or_default());
            self.convolve(index, ConvolutionPlace::QueryKeyValue, spans, &mut qkv);
            self.attend(index, spans, &positions, &mut qkv, &mut mixed);
            layer.o.product(&mixed, &mut projected);
            self.normalize_in_place(&mut projected, &layer.norms.after_attention);
            add_scaled(&mut stream, &mut projected, residual);
            self.normalize_or_copy(&stream, &layer.norms.before_mlp, &mut normed);
            self.convolve(index, ConvolutionPlace::MlpInput, spans, &mut normed);
            layer.gate_up.product(&normed, &mut gate_up);
            self.convolve(index, ConvolutionPlace::GateUp, spans, &mut gate_up);
            let share = row_share(rows, 16 * rows * inner);
            (gate_up
                .par_chunks(share * 2 * inner)
                .zip(gated.par_chunks_mut(share * inner)))
            .for_each(|(gate_up, out)| {
                elementwise::gated_rows(gate_up, out, inner, config.activation)
            });
            layer.down.product(&gated, &mut projected);
            self.normalize_in_place(&mut projected, &layer.norms.after_mlp);
            add_scaled(&mut stream, &mut projected, residual);
        }
        for span in spans.iter_mut() {
            span.cache.tokens.extend_from_slice(span.tokens);
        }
        self.normalize(&stream, &self.norm, &mut normed);
        normed
    }

    /// The embeddings of all new tokens, `[all new tokens, hidden]`, and their positions. Every
    /// span's cache gets its layers.
    fn embed(&self, spans: &mut [HostSpan<'_>]) -> (Vec<f32>, Vec<RowPosition>) {
        let mut stream = Vec::new();
        let mut positions = Vec::new();
        for (index, span) in spans.iter_mut().enumerate() {
            let start = span.start();
            for (offset, token) in span.tokens.iter().enumerate() {
                assert!(
                    (*token as usize) < self.config.vocab_size,
                    "token {token} is outside the vocabulary"
                );
                self.embedding.column_into(*token as usize, &mut stream);
                positions.push(RowPosition {
                    span: index,
                    position: start + offset,
                });
            }
            span.cache
                .layers
                .resize_with(self.layers.len(), || LayerCache::new(self.kv));
        }
        elementwise::scale(&mut stream, self.config.scales.embedding as f32);
        if self.config.reading.has_inputs() {
            self.inputs
                .add_to(&mut stream, spans, &self.config.reading, &self.embedding);
        }
        (stream, positions)
    }

    /// Log-probabilities of the next token, nats: `hidden` `[rows, hidden]` → `[rows, vocab]`.
    pub(super) fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        let vocab = self.config.vocab_size;
        let rows = hidden.len() / self.config.hidden_size;
        let mut logits = vec![0.0; rows * vocab];
        self.output().product(hidden, &mut logits);
        let scale = self.config.scales.logits as f32;
        let share = row_share(rows, 16 * logits.len()).max(1);
        logits
            .par_chunks_mut(share * vocab)
            .for_each(|rows| elementwise::log_softmax(rows, vocab, scale));
        logits
    }

    fn normalize(&self, stream: &[f32], weight: &[f32], normed: &mut [f32]) {
        let epsilon = self.config.rms_norm_eps as f32;
        let share = row_share(stream.len() / weight.len(), 4 * stream.len()) * weight.len();
        (stream.par_chunks(share).zip(normed.par_chunks_mut(share)))
            .for_each(|(stream, normed)| elementwise::rms_norm(stream, weight, epsilon, normed));
    }

    /// The rows after a norm, or the rows themselves if there is none.
    fn normalize_or_copy(&self, stream: &[f32], weight: &Option<Vec<f32>>, normed: &mut [f32]) {
        match weight {
            Some(weight) => self.normalize(stream, weight, normed),
            None => normed.copy_from_slice(stream),
        }
    }

    /// Replaces rows by their norm, if there is one.
    fn normalize_in_place(&self, rows: &mut [f32], weight: &Option<Vec<f32>>) {
        if let Some(weight) = weight {
            let before = rows.to_vec();
            self.normalize(&before, weight, rows);
        }
    }

    /// Attention of every new token over its own sequence; writes `mixed`, `[rows, queries]`.
    fn attend(
        &self,
        layer: usize,
        spans: &mut [HostSpan<'_>],
        rows: &[RowPosition],
        qkv: &mut [f32],
        mixed: &mut [f32],
    ) {
        let queries = self.config.query_width();
        let kv = self.config.kv_width();
        self.append_keys_and_values(layer, spans, qkv);
        let mut segments = Vec::with_capacity(spans.len());
        for span in spans.iter() {
            let mut of_span: Vec<KvSegment<'_>> = Vec::with_capacity(span.before.len() + 1);
            for prefix in span.before.iter().filter(|prefix| prefix.tokens > 0) {
                of_span.push(prefix.cache.layers[layer].segment(prefix.tokens));
            }
            let tokens = span.cache.len() + span.tokens.len();
            of_span.push(span.cache.layers[layer].segment(tokens));
            segments.push(of_span);
        }
        let widths = HeadWidths {
            head: self.config.head_width(),
            queries,
            kv,
        };
        let window = self.attention[self.layers[layer].attention_kind].window;
        let seen = |row: &RowPosition| (row.position + 1).min(window) * queries;
        let work: usize = rows.iter().map(seen).sum();
        let share = row_share(rows.len(), work);
        (mixed
            .par_chunks_mut(share * queries)
            .zip(qkv.par_chunks(share * (queries + 2 * kv)))
            .zip(rows.par_chunks(share)))
        .for_each(|((mixed, qkv), rows)| {
            CachedAttention {
                widths,
                qkv,
                visible: |row: usize| (&segments[rows[row].span][..], rows[row].position + 1),
                window,
                mixed,
            }
            .run();
        });
    }

    /// Replaces rows `[all new tokens, channels]` by their convolution, if there is one at this place,
    /// and appends them to the spans' caches.
    fn convolve(
        &self,
        layer: usize,
        place: ConvolutionPlace,
        spans: &mut [HostSpan<'_>],
        rows: &mut [f32],
    ) {
        let Some(filter) = self.layers[layer].filter(place) else {
            return;
        };
        let channels = self.config.channels_at(place);
        let mut rest = rows;
        for span in spans {
            let rows;
            (rows, rest) = rest.split_at_mut(span.tokens.len() * channels);
            let mut x = span.earlier_inputs(layer, filter.place, filter.width - 1, channels);
            let first = x.len() / channels;
            x.extend_from_slice(rows);
            let own = &mut span.cache.layers[layer].convolved[filter.place];
            append_values(own, rows, FIRST_TOKENS * channels);
            Convolution {
                x: &x,
                weight: &filter.weight,
                channels,
            }
            .run(first, rows);
        }
    }

    /// Rotates queries and keys of all new tokens, and appends keys and values to the spans' caches.
    fn append_keys_and_values(&self, layer: usize, spans: &mut [HostSpan<'_>], qkv: &mut [f32]) {
        let queries = self.config.query_width();
        let kv = self.config.kv_width();
        let width = queries + 2 * kv;
        let work = 4 * qkv.len();
        let mut rest = qkv;
        let mut parts = Vec::with_capacity(spans.len());
        for span in spans.iter_mut() {
            let (rows, after) = std::mem::take(&mut rest).split_at_mut(span.tokens.len() * width);
            parts.push((span, rows));
            rest = after;
        }
        let share = row_share(parts.len(), work);
        parts
            .par_chunks_mut(share)
            .flat_map_iter(|parts| parts)
            .for_each(|(span, rows)| {
                for (position, row) in (span.start()..).zip(rows.chunks_exact_mut(width)) {
                    if let Some([of_queries, of_keys]) = &self.layers[layer].query_norms {
                        self.normalize_row(&mut row[..queries], of_queries);
                        self.normalize_row(&mut row[queries..queries + kv], of_keys);
                    }
                    self.rotate(&mut row[..queries + kv], layer, position);
                    let own = &mut span.cache.layers[layer];
                    let (keys, values) = row[queries..].split_at(kv);
                    own.kv.push(keys, values, FIRST_TOKENS);
                }
            });
    }

    /// The norm of each head of one row, or of the whole row if `weight` is as long.
    fn normalize_row(&self, row: &mut [f32], weight: &[f32]) {
        let heads = row.to_vec();
        elementwise::rms_norm(&heads, weight, self.config.rms_norm_eps as f32, row);
    }

    /// Rotary position embedding of all heads of one row.
    fn rotate(&self, row: &mut [f32], layer: usize, position: usize) {
        let head = self.config.head_width();
        let half = head / 2;
        assert!(
            position < self.config.max_position_embeddings,
            "position {position} is outside the context"
        );
        let [cosines, sines] = &self.attention[self.layers[layer].attention_kind].rotary;
        let cosines = &cosines[position * half..][..half];
        let sines = &sines[position * half..][..half];
        for part in row.chunks_exact_mut(head) {
            let (low, high) = part.split_at_mut(half);
            for d in 0..half {
                let a = low[d];
                let b = high[d];
                low[d] = a * cosines[d] - b * sines[d];
                high[d] = b * cosines[d] + a * sines[d];
            }
        }
    }
}

/// stream += factor · projected. `projected` is used as scratch memory.
fn add_scaled(stream: &mut [f32], projected: &mut [f32], factor: f32) {
    elementwise::scale(projected, factor);
    elementwise::add(stream, projected);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::tests::{tiny_config, tiny_reading_config, tiny_windowed_config};

    const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 36];

    fn span<'a>(tokens: &'a [u32], cache: &'a mut HostCache) -> HostSpan<'a> {
        HostSpan {
            tokens,
            before: Vec::new(),
            cache,
        }
    }

    /// One call, token by token, on a shared prefix, or together with other spans: the bits are the
    /// same.
    #[test]
    fn cutting_a_sequence_changes_no_bit() {
        for kv in [KvFormat::Exact, KvFormat::F16] {
            assert_cuts_change_nothing(&tiny_config(), kv);
            assert_cuts_change_nothing(&tiny_reading_config(), kv);
            assert_cuts_change_nothing(&tiny_windowed_config(), kv);
        }
    }

    fn assert_cuts_change_nothing(config: &DecoderConfig, kv: KvFormat) {
        let mut weights = Weights::random(config, 1);
        for (name, tensor) in &mut weights.0 {
            if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
                tensor.data.fill(0.1); // else a layer would add nothing
            }
        }
        let trunk = HostTrunk::from_weights(config, &mut weights, WeightFormat::Exact);
        let trunk = trunk.expect("builds").with_kv(kv);
        let mut whole_cache = HostCache::default();
        let whole = trunk.extend(&mut [span(&TOKENS, &mut whole_cache)]);
        let mut stepped = Vec::new();
        let mut cache = HostCache::default();
        for token in &TOKENS {
            let one = std::slice::from_ref(token);
            stepped.extend(trunk.extend(&mut [span(one, &mut cache)]));
        }
        assert_eq!(whole, stepped);
        let mut prefix = HostCache::default();
        let mut tail = HostCache::default();
        let mut other = HostCache::default();
        trunk.extend(&mut [span(&TOKENS[..4], &mut prefix)]);
        let before = vec![HostPrefix {
            cache: &prefix,
            tokens: 4,
        }];
        let together = trunk.extend(&mut [
            span(&[7, 8, 9], &mut other),
            HostSpan {
                tokens: &TOKENS[4..],
                before,
                cache: &mut tail,
            },
        ]);
        assert_eq!(
            whole[4 * config.hidden_size..],
            together[3 * config.hidden_size..]
        );
        // The convolutions of the last token read two tokens of the tail, then of two caches.
        let mut last = HostCache::default();
        let before = vec![
            HostPrefix {
                cache: &prefix,
                tokens: 4,
            },
            HostPrefix {
                cache: &tail,
                tokens: 1,
            },
        ];
        let from_both = trunk.extend(&mut [HostSpan {
            tokens: &TOKENS[5..],
            before,
            cache: &mut last,
        }]);
        assert_eq!(whole[5 * config.hidden_size..], from_both);
        prefix.append(tail);
        assert_eq!(prefix.layers[1].kv, whole_cache.layers[1].kv);
        assert_eq!(prefix.layers[1].convolved, whole_cache.layers[1].convolved);
        assert_eq!(prefix.tokens, TOKENS);
    }
}
