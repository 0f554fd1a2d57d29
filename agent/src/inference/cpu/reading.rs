//! What hearth's own family adds on the CPU: embeddings of token features, and convolutions.

use super::{HostSpan, HostTrunk, append_values};
use crate::error::AgentError;
use crate::model::config::DecoderConfig;
use crate::model::reading::config::{
    ConvolutionPlace, GOAL_MATCH, ReadingConfig, ngram_matrix, ngram_none,
};
use crate::model::reading::features::TokenFeatures;
use crate::model::weights::Weights;
use kernels::convolution::Convolution;
use kernels::elementwise;
use kernels::matrix::Matrix;
use scenarios::WeightFormat;

/// The tensors of the additions to the embedding.
pub(super) struct HostInputs {
    goal_match: Option<Vec<f32>>,
    ngrams: Vec<HostNgram>,
}

/// The n-gram embedding of one order.
struct HostNgram {
    weight: Matrix,
    none: Vec<f32>,
}

impl HostInputs {
    /// Takes these tensors out of `weights`.
    ///
    /// # Errors
    /// If a tensor is missing or its shape differs from `config`.
    pub(super) fn take(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        let hidden = config.hidden_size;
        let reading = &config.reading;
        let goal_match = (reading.goal_match.is_some())
            .then(|| weights.take(GOAL_MATCH, &[1, hidden]))
            .transpose()?;
        let mut ngrams = Vec::with_capacity(reading.ngram_embedding.len());
        for order in &reading.ngram_embedding {
            let data = weights.take(&ngram_matrix(*order), &[hidden, hidden])?;
            ngrams.push(HostNgram {
                weight: Matrix::pack(data, hidden, hidden, format),
                none: weights.take(&ngram_none(*order), &[1, hidden])?,
            });
        }
        Ok(Self { goal_match, ngrams })
    }

    /// All matrices.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.ngrams.iter().map(|ngram| &ngram.weight)
    }

    /// Adds the embeddings of the features of all new tokens to `stream`
    /// `[all new tokens, hidden]`.
    pub(super) fn add_to(
        &self,
        stream: &mut [f32],
        spans: &[HostSpan<'_>],
        config: &ReadingConfig,
        table: &Matrix,
    ) {
        let mut features = TokenFeatures::default();
        for span in spans {
            let sequence = span.sequence();
            features.extend(config, &sequence, sequence.len() - span.tokens.len());
        }
        let rows: usize = spans.iter().map(|span| span.tokens.len()).sum();
        let hidden = stream.len() / rows.max(1);
        if let Some(vector) = &self.goal_match {
            for (row, matched) in stream.chunks_exact_mut(hidden).zip(&features.matched) {
                if *matched {
                    elementwise::add(row, vector);
                }
            }
        }
        for (ngram, followers) in self.ngrams.iter().zip(&features.followers) {
            ngram.add_to(stream, followers, table);
        }
    }
}

impl HostNgram {
    fn add_to(&self, stream: &mut [f32], followers: &[Option<u32>], table: &Matrix) {
        let mut embedded = Vec::new();
        for token in followers.iter().flatten() {
            table.column_into(*token as usize, &mut embedded);
        }
        let hidden = self.none.len();
        let mut read = vec![0.0; embedded.len()];
        self.weight.product(&embedded, &mut read);
        let mut read = read.chunks_exact(hidden);
        for (row, token) in stream.chunks_exact_mut(hidden).zip(followers) {
            let added = token.and_then(|_| read.next()).unwrap_or(&self.none);
            elementwise::add(row, added);
        }
    }
}

impl HostSpan<'_> {
    /// The token ids of the whole sequence, those of the span last.
    fn sequence(&self) -> Vec<u32> {
        let mut sequence = Vec::new();
        for prefix in &self.before {
            sequence.extend_from_slice(&prefix.cache.tokens[..prefix.tokens]);
        }
        sequence.extend_from_slice(&self.cache.tokens);
        sequence.extend_from_slice(self.tokens);
        sequence
    }

    /// Up to `count` inputs of a convolution before the span's tokens, the latest last,
    /// `[inputs, channels]`.
    fn earlier_inputs(
        &self,
        layer: usize,
        place: usize,
        count: usize,
        channels: usize,
    ) -> Vec<f32> {
        let own = &self.cache.layers[layer].convolved[place];
        let mut parts = vec![&own[own.len().saturating_sub(count * channels)..]];
        let mut missing = count - parts[0].len() / channels;
        for prefix in self.before.iter().rev() {
            if missing == 0 {
                break;
            }
            if prefix.tokens > 0 {
                let inputs = &prefix.cache.layers[layer].convolved[place];
                let first = prefix.tokens.saturating_sub(missing);
                missing -= prefix.tokens - first;
                parts.push(&inputs[first * channels..prefix.tokens * channels]);
            }
        }
        parts.reverse();
        parts.concat()
    }
}

impl HostTrunk {
    /// Replaces rows `[all new tokens, channels]` by their convolution, if there is one at this place,
    /// and appends them to the spans' caches.
    pub(super) fn convolve(
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
            append_values(own, rows, super::FIRST_TOKENS * channels);
            Convolution {
                x: &x,
                weight: &filter.weight,
                channels,
            }
            .run(first, rows);
        }
    }
}
