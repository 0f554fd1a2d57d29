//! Attention of single tokens that reads keys and values where they are: in one pool of all sequences,
//! at the rows that a table names. Nothing is gathered into a tensor of its own.
//!
//! A cube computes the query heads of one sequence that share a key head. It reads the sequence in
//! chunks of one token for each of its units, and keeps for each head the highest score, the sum of
//! the weights, and the weighted sum of the values (online softmax; Milakov and Gimelshein,
//! arXiv 1805.02867). The table is that of Kwon et al., arXiv 2309.06180, with pages of one token.

mod kernel;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{Device, Int, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::{CubeCount, CubeDim};
pub use kernel::HeadCounts;
use kernel::{UNITS, read_in_place};

/// Whether [`paged_attention`] runs on a device.
#[must_use]
pub fn runs_on(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Cube(_))
}

/// softmax(q · k) · v of one query token of each sequence, in f32 inside. Queries are scaled by the
/// caller.
///
/// # Shapes
/// `queries` and the result `[sequences, heads · width]`; `pool` `[rows · 2 · kv_heads, width]`, in
/// which a row has the heads of its keys before those of its values; `table`
/// `[sequences · longest]`, the row of each token; `seen` `[sequences, 2]`, the first token that a
/// query sees and the one after the last. Every query sees at least one token.
///
/// # Panics
/// If the tensors are not on a GPU.
#[must_use]
pub fn paged_attention(
    queries: Tensor<2>,
    pool: &Tensor<2>,
    table: &Tensor<1, Int>,
    seen: &Tensor<2, Int>,
    heads: HeadCounts,
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::paged_attention(
        queries.into_dispatch(),
        pool.clone().into_dispatch(),
        table.clone().into_dispatch(),
        seen.clone().into_dispatch(),
        heads,
    ))
}

/// The operation as burn dispatches it. Call [`paged_attention`] instead.
#[backend_extension(Cube, Fusion)]
pub(crate) trait PagedBackend: Backend {
    #[fusion(dtype = queries, shape = queries)]
    fn paged_attention(
        queries: FloatTensor<Self>,
        pool: FloatTensor<Self>,
        table: IntTensor<Self>,
        seen: IntTensor<Self>,
        heads: HeadCounts,
    ) -> FloatTensor<Self>;
}

impl PagedBackend for CubeBackend {
    fn paged_attention(
        queries: CubeTensor,
        pool: CubeTensor,
        table: CubeTensor,
        seen: CubeTensor,
        heads: HeadCounts,
    ) -> CubeTensor {
        let [queries, pool, table, seen] = [queries, pool, table, seen].map(into_contiguous);
        let client = queries.client.clone();
        let shape = queries.meta.shape().clone();
        let sequences = shape[0];
        let longest = table.meta.shape()[0] / sequences;
        let output =
            empty_device_dtype(client.clone(), queries.device.clone(), shape, queries.dtype);
        let types = [queries.dtype, table.dtype].map(burn::backend::cubecl::dtype_to_storage_type);
        read_in_place::launch(
            &client,
            CubeCount::new_2d(sequences as u32, heads.kv_heads as u32),
            CubeDim::new_1d(UNITS as u32),
            queries.into_tensor_arg(),
            pool.into_tensor_arg(),
            table.into_tensor_arg(),
            seen.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            longest,
            heads,
            types,
        );
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    /// Three sequences of 5, 64 and 150 tokens, whose rows are spread over the pool. One query sees a
    /// window only. Grouped heads, and a width that is no power of two.
    #[test]
    fn it_equals_the_written_out_form() {
        let device = support::device::device();
        if !runs_on(&device) {
            return support::skip("paged attention runs on a GPU only");
        }
        let heads = HeadCounts {
            heads: 6,
            kv_heads: 2,
            width: 20,
        };
        let (rows, longest) = (400, 192);
        let seen = [[0_usize, 5], [30, 64], [0, 150]];
        let row = |sequence: usize, token: usize| (sequence * 131 + token * 7 + 1) % rows;
        let noise = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|at| (at as f32 * step).sin()).collect()
        };
        let queries = noise(3 * 6 * 20, 0.37);
        let pool = noise(rows * 2 * 2 * 20, 0.113);
        let table: Vec<i32> = (0..3 * longest)
            .map(|at| row(at / longest, at % longest) as i32)
            .collect();

        let mut expected = vec![0.0_f32; queries.len()];
        for (sequence, [first, end]) in seen.into_iter().enumerate() {
            for head in 0..6 {
                let query = &queries[(sequence * 6 + head) * 20..][..20];
                let line = |token, of_values: usize| {
                    let line = row(sequence, token) * 4 + of_values * 2 + head / 3;
                    &pool[line * 20..][..20]
                };
                let dot = |token| {
                    query
                        .iter()
                        .zip(line(token, 0))
                        .map(|(q, k)| q * k)
                        .sum::<f32>()
                };
                let weights: Vec<f32> = (first..end).map(|token| dot(token).exp()).collect();
                let total: f32 = weights.iter().sum();
                for (weight, token) in weights.iter().zip(first..end) {
                    for (number, value) in line(token, 1).iter().enumerate() {
                        expected[(sequence * 6 + head) * 20 + number] += weight / total * value;
                    }
                }
            }
        }
        let bounds: Vec<i32> = seen.concat().into_iter().map(|at| at as i32).collect();
        let found = paged_attention(
            Tensor::from_data(TensorData::new(queries, [3, 120]), &device),
            &Tensor::from_data(TensorData::new(pool, [rows * 4, 20]), &device),
            &Tensor::from_data(TensorData::new(table, [3 * longest]), &device),
            &Tensor::from_data(TensorData::new(bounds, [3, 2]), &device),
            heads,
        );
        let found = found.into_data().try_to_vec::<f32>().expect("f32");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-5,
                "{found} instead of {expected}"
            );
        }
    }
}
