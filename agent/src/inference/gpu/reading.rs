//! The pools of a layer, and what hearth's own family adds on a device: embeddings of token features,
//! and convolutions.

use super::pass::DevicePass;
use crate::error::AgentError;
use crate::inference::layer::Filter;
use crate::inference::pool::DeviceSpan;
use crate::model::config::DecoderConfig;
use crate::model::decoder::Precision;
use crate::model::reading::config::{
    ConvolutionPlace, GOAL_MATCH, ReadingConfig, ngram_matrix, ngram_none,
};
use crate::model::reading::features::TokenFeatures;
use crate::model::reading::inputs::{InputTensors, NgramTensors};
use crate::model::weights::{Weights, transposed};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};

/// What the tokens of all sequences keep in one layer. An optional tensor that is being written is
/// taken out, so that burn writes in place.
#[derive(Clone)]
pub(super) struct LayerPool {
    /// `[rows · 2 · kv_heads, head]`. A row has the heads of its keys before those of its values.
    kv: Option<Tensor<2>>,
    /// The inputs of the convolutions in f32, by place, `[rows, channels]`.
    convolved: [Option<Tensor<2>>; 4],
}

impl LayerPool {
    /// A pool of zeros.
    pub(super) fn zeros(
        config: &DecoderConfig,
        precision: Precision,
        rows: usize,
        device: &Device,
    ) -> Self {
        let lines = rows * 2 * config.num_key_value_heads;
        let kv = Tensor::zeros([lines, config.head_width()], (device, precision.dtype()));
        Self {
            kv: Some(kv),
            convolved: ConvolutionPlace::ALL.map(|place| {
                config
                    .reading
                    .width_at(place)
                    .map(|_| Tensor::zeros([rows, config.channels_at(place)], device))
            }),
        }
    }

    /// Rows that it has.
    pub(super) fn rows(&self, config: &DecoderConfig) -> usize {
        self.lines().dims()[0] / (2 * config.num_key_value_heads)
    }

    /// This pool with more rows.
    pub(super) fn followed_by(self, more: &Self) -> Self {
        let mut convolved = self.convolved;
        for (pool, more) in convolved.iter_mut().zip(&more.convolved) {
            *pool = joined(pool.take(), more.as_ref());
        }
        Self {
            kv: joined(self.kv, more.kv.as_ref()),
            convolved,
        }
    }

    /// The heads of keys and values.
    pub(super) fn lines(&self) -> &Tensor<2> {
        self.kv.as_ref().expect("it is put back after each write")
    }

    /// Writes keys and values `[lines, head]` to the given lines `[lines, 1]`.
    pub(super) fn write(&mut self, lines: Tensor<2, Int>, new: Tensor<2>) {
        let pool = self.kv.take().expect("it is put back after each write");
        self.kv = Some(pool.scatter_nd(lines, new, IndexingUpdateOp::Assign));
    }

    /// The convolution of f32 rows `[rows, channels]`, if there is a filter; keeps the rows.
    pub(super) fn convolve(
        &mut self,
        filter: Option<&Filter<Tensor<1>>>,
        x: Tensor<2>,
        pass: &DevicePass,
    ) -> Tensor<2> {
        let Some(filter) = filter else { return x };
        let channels = x.dims()[1];
        let weight = filter.weight.clone().reshape([filter.width, channels]);
        let pool = self.convolved[filter.place].take();
        let pool = pool.expect("every filter has a pool").scatter_nd(
            pass.new_rows.clone(),
            x.clone(),
            IndexingUpdateOp::Assign,
        );
        let mut sum = x.clone() + x * weight.clone().narrow(0, 0, 1);
        for (earlier, tap) in pass.earlier.iter().zip(1..filter.width) {
            let rows = pool.clone().select(0, earlier.numbers.clone()) * earlier.exist.clone();
            sum = sum + rows * weight.clone().narrow(0, tap, 1);
        }
        self.convolved[filter.place] = Some(pool);
        sum
    }
}

fn joined(pool: Option<Tensor<2>>, more: Option<&Tensor<2>>) -> Option<Tensor<2>> {
    Some(Tensor::cat(vec![pool?, more?.clone()], 0))
}

/// The tensors of the additions to the embedding, f32.
pub(super) struct DeviceInputs {
    goal_match: Option<Tensor<2>>,
    /// By order: the matrix `[in, out]`, and the vector `[1, hidden]`.
    ngrams: Vec<[Tensor<2>; 2]>,
}

impl DeviceInputs {
    /// Takes these tensors out of `weights`.
    ///
    /// # Errors
    /// If a tensor is missing or its shape differs from `config`.
    pub(super) fn take(
        config: &DecoderConfig,
        weights: &mut Weights,
        device: &Device,
    ) -> Result<Self, AgentError> {
        let hidden = config.hidden_size;
        let reading = &config.reading;
        let goal_match = (reading.goal_match.is_some())
            .then(|| weights.take(GOAL_MATCH, &[1, hidden]))
            .transpose()?
            .map(|data| tensor(data, [1, hidden], device));
        let mut ngrams = Vec::with_capacity(reading.ngram_embedding.len());
        for order in &reading.ngram_embedding {
            let matrix = weights.take(&ngram_matrix(*order), &[hidden, hidden])?;
            let none = weights.take(&ngram_none(*order), &[1, hidden])?;
            ngrams.push([
                tensor(
                    transposed(&matrix, hidden, hidden),
                    [hidden, hidden],
                    device,
                ),
                tensor(none, [1, hidden], device),
            ]);
        }
        Ok(Self { goal_match, ngrams })
    }

    /// The features of all new tokens. Must be called before the spans' caches grow.
    pub(super) fn features(
        &self,
        config: &ReadingConfig,
        spans: &[DeviceSpan<'_>],
    ) -> TokenFeatures {
        let mut features = TokenFeatures::default();
        if !config.has_inputs() {
            return features;
        }
        for span in spans {
            let before = span.before.iter().map(|part| part.tokens);
            let own = span.own.first(span.own.len()).tokens;
            let sequence = before
                .chain([own, span.tokens])
                .collect::<Vec<_>>()
                .concat();
            features.extend(config, &sequence, sequence.len() - span.tokens.len());
        }
        features
    }

    /// Adds the embeddings of the features to `stream` `[rows, hidden]`.
    pub(super) fn add_to(
        &self,
        stream: Tensor<2>,
        table: &Tensor<2>,
        features: &TokenFeatures,
    ) -> Tensor<2> {
        let ngrams = self.ngrams.iter().map(|[weight, none]| NgramTensors {
            weight: weight.clone(),
            none: none.clone(),
        });
        InputTensors {
            goal_match: self.goal_match.clone(),
            ngrams: ngrams.collect(),
        }
        .add_to(stream, table, features)
    }
}

fn tensor(data: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(data, shape), device)
}
