//! The embeddings of [`TokenFeatures`] on burn, for the decoder that is trained and for a device.

use super::features::TokenFeatures;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The tensors of the additions to the embedding.
pub(crate) struct InputTensors {
    /// `[1, hidden]`, if goals are matched.
    pub(crate) goal_match: Option<Tensor<2>>,
    /// By order.
    pub(crate) ngrams: Vec<NgramTensors>,
}

/// The tensors of an n-gram embedding.
pub(crate) struct NgramTensors {
    /// `[hidden, hidden]`, `[in, out]`.
    pub(crate) weight: Tensor<2>,
    /// `[1, hidden]`.
    pub(crate) none: Tensor<2>,
}

impl InputTensors {
    /// Adds the features' embeddings to those of the tokens. Rows after the last token are padding.
    ///
    /// # Shapes
    /// `embedded` and the result `[rows, hidden]`, `table` `[vocab, hidden]`.
    pub(crate) fn add_to(
        self,
        embedded: Tensor<2>,
        table: &Tensor<2>,
        features: &TokenFeatures,
    ) -> Tensor<2> {
        let rows = embedded.dims()[0];
        let device = embedded.device();
        let mut sum = embedded;
        if let Some(vector) = self.goal_match {
            sum = sum + flags(features.matched.iter().copied(), rows, &device) * vector;
        }
        for (ngram, followers) in self.ngrams.into_iter().zip(&features.followers) {
            let known = flags(followers.iter().map(Option::is_some), rows, &device);
            let mut ids: Vec<i32> = followers
                .iter()
                .map(|token| token.unwrap_or(0) as i32)
                .collect();
            ids.resize(rows, 0);
            let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [rows]), &device);
            let read = table.clone().select(0, ids).matmul(ngram.weight);
            sum = sum + read * known.clone() + (known.neg() + 1.0) * ngram.none;
        }
        sum
    }
}

/// Flags as a column of ones and zeros, `[rows, 1]`.
fn flags(flags: impl Iterator<Item = bool>, rows: usize, device: &Device) -> Tensor<2> {
    let mut column: Vec<f32> = flags.map(|flag| f32::from(u8::from(flag))).collect();
    column.resize(rows, 0.0);
    Tensor::from_data(TensorData::new(column, [rows, 1]), device)
}
