//! Draws of tokens on a device, so that no row of log-probabilities crosses to the host.
//!
//! The token is found from a random number of the host by the inverse of the cumulative distribution,
//! in two levels: first a block of the vocabulary, then a token of the block. A cumulative sum over
//! the whole vocabulary would be long, and in f32 inexact.

use super::pass::{int_tensor, padded_rows};
use super::{DeviceTrunk, to_host};
use crate::inference::sample::{DrawRequest, Drawn};
use burn::tensor::{Int, Tensor, TensorData, activation};

/// The largest f32 below 1.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;

impl DeviceTrunk {
    /// Draws the next token of some rows of `hidden`, `[rows, hidden]`. If the temperature is 0, the
    /// most probable token is taken; the lowest id if several are equal.
    pub(in crate::inference) fn draw(
        &self,
        hidden: &[f32],
        requests: &[DrawRequest],
        temperature: f32,
    ) -> Vec<Drawn> {
        let draws = padded_rows(requests.len());
        let mut rows: Vec<i32> = requests.iter().map(|request| request.row as i32).collect();
        rows.resize(draws, 0);
        let logprobs = self
            .logprobs_on_device(hidden)
            .select(0, int_tensor(rows, &self.device));
        let (tokens, sampling_logprobs) = if temperature <= 0.0 {
            let tokens = first_highest(&logprobs);
            let zeros = Tensor::zeros([draws, 1], &self.device);
            (tokens, zeros)
        } else {
            let tempered = if temperature == 1.0 {
                logprobs.clone()
            } else {
                activation::log_softmax(logprobs.clone() / temperature, 1)
            };
            let mut uniforms: Vec<f32> = requests
                .iter()
                .map(|request| (request.uniform as f32).min(BELOW_ONE))
                .collect();
            uniforms.resize(draws, 0.0);
            let uniforms = TensorData::new(uniforms, [draws, 1]);
            let uniforms = Tensor::from_data(uniforms, &self.device);
            let tokens = selected(tempered.clone().exp(), uniforms);
            (tokens.clone(), tempered.gather(1, tokens))
        };
        let logprobs = logprobs.gather(1, tokens.clone());
        // One transfer. Token ids are exact in f32, because no vocabulary has 2²⁴ tokens.
        let parts = vec![tokens.float(), logprobs, sampling_logprobs];
        to_host(Tensor::cat(parts, 1), requests.len())
            .chunks_exact(3)
            .map(|numbers| Drawn {
                token: numbers[0] as u32,
                logprob: numbers[1],
                sampling_logprob: numbers[2],
            })
            .collect()
    }
}

/// The first highest number of each row: `[rows, width]` → `[rows, 1]`.
fn first_highest(x: &Tensor<2>) -> Tensor<2, Int> {
    let [rows, width] = x.dims();
    let ids = Tensor::<1, Int>::arange(0..width as i64, &x.device())
        .unsqueeze::<2>()
        .expand([rows, width]);
    let is_lower = x.clone().lower(x.clone().max_dim(1).expand([rows, width]));
    ids.mask_fill(is_lower, width as i32 - 1).min_dim(1)
}

/// The indices that uniform random numbers `[rows, 1]` from [0, 1) select from weights
/// `[rows, width]`: `[rows, 1]`. An index whose weight is 0 is never selected.
fn selected(weights: Tensor<2>, uniforms: Tensor<2>) -> Tensor<2, Int> {
    let [rows, width] = weights.dims();
    let device = weights.device();
    let block = width.isqrt().max(1);
    let blocks = width.div_ceil(block);
    let padding = blocks * block - width;
    let weights = if padding == 0 {
        weights
    } else {
        Tensor::cat(vec![weights, Tensor::zeros([rows, padding], &device)], 1)
    };
    let weights = weights.reshape([rows * blocks, block]);
    let of_blocks = weights.clone().sum_dim(1).reshape([rows, blocks]);
    let (chosen, rest) = first_above(&of_blocks, uniforms);
    let first = Tensor::<1, Int>::arange(0..rows as i64, &device) * blocks as i32;
    let lines = chosen.clone().reshape([rows]) + first;
    let (place, _) = first_above(&weights.select(0, lines), rest);
    chosen * block as i32 + place
}

/// The first place of each row at which the cumulative sum exceeds the share `uniforms` of the total,
/// and how far the place is divided by that share, from [0, 1): `[rows, 1]` each.
fn first_above(weights: &Tensor<2>, uniforms: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    let [rows, width] = weights.dims();
    let cumulative = weights.clone().cumsum(1);
    let target = uniforms * cumulative.clone().narrow(1, width - 1, 1);
    let is_before = cumulative
        .clone()
        .lower_equal(target.clone().expand([rows, width]));
    let place = is_before
        .clone()
        .int()
        .sum_dim(1)
        .clamp(0, width as i32 - 1);
    let before = cumulative.mask_fill(is_before.bool_not(), 0.0).max_dim(1);
    let weight = weights.clone().gather(1, place.clone());
    let rest = ((target - before) / weight).clamp(0.0, BELOW_ONE);
    (place, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// What each number of a grid over [0, 1) selects, on the device of the tests.
    fn selections(weights: &[f32], draws: usize) -> Vec<i64> {
        let device: Device = support::device::device();
        let width = weights.len();
        let rows = weights.repeat(draws);
        let grid: Vec<f32> = (0..draws).map(|at| at as f32 / draws as f32).collect();
        let found = selected(
            Tensor::from_data(TensorData::new(rows, [draws, width]), &device),
            Tensor::from_data(TensorData::new(grid, [draws, 1]), &device),
        );
        found
            .into_data()
            .convert::<i64>()
            .try_to_vec()
            .expect("integers")
    }

    #[test]
    fn the_share_of_numbers_that_select_an_index_is_its_weight() {
        let weights = [0.0, 3.0, 0.0, 0.0, 1.0, 4.0, 0.0, 6.0, 2.0, 0.0, 0.0];
        let found = selections(&weights, 64);
        assert!(found.is_sorted());
        for (index, weight) in weights.iter().enumerate() {
            let count = found.iter().filter(|one| **one == index as i64).count();
            assert_eq!(count as f32, weight * 4.0, "index {index}");
        }
    }

    #[test]
    fn the_first_of_equal_numbers_is_the_highest() {
        let device: Device = support::device::device();
        let rows = TensorData::new(vec![1.0_f32, 5.0, 5.0, 2.0, -7.0, -8.0, -7.0, -9.0], [2, 4]);
        let found = first_highest(&Tensor::from_data(rows, &device)).into_data();
        assert_eq!(
            found
                .convert::<i64>()
                .try_to_vec::<i64>()
                .expect("integers"),
            [1, 0]
        );
    }
}
