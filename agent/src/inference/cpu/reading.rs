//! What hearth's own family adds to the embeddings on the CPU: those of token features.

use super::cache::HostSpan;
use crate::error::AgentError;
use crate::model::config::DecoderConfig;
use crate::model::reading::config::{GOAL_MATCH, ReadingConfig, ngram_matrix, ngram_none};
use crate::model::reading::features::TokenFeatures;
use crate::model::weights::Weights;
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
