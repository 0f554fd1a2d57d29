//! Access to the numbers of CPU tensors, and loops over blocks of their rows.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Shape, TensorData};
use rayon::prelude::*;

/// A float tensor on the CPU.
pub(super) type CpuTensor = FloatTensor<Flex>;

/// Numbers from which threads share a loop over rows.
const MIN_PARALLEL: usize = 1 << 15;
/// Rows of a block.
const BLOCK_ROWS: usize = 64;

/// The numbers of a contiguous tensor.
pub(super) fn numbers(tensor: &CpuTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("the caller made the tensor contiguous")
}

/// The `count` numbers of a contiguous tensor that begin at `start`.
pub(super) fn numbers_at(tensor: &CpuTensor, start: usize, count: usize) -> &[f32] {
    &numbers(tensor)[start..][..count]
}

/// The tensor itself if it is contiguous, else a copy that is.
pub(super) fn contiguous(tensor: CpuTensor) -> CpuTensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// A tensor of these numbers.
pub(super) fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> CpuTensor {
    CpuTensor::from_data(TensorData::new(data, shape.into()))
}

/// A tensor of these numbers with the shape of another.
pub(super) fn tensor_like(data: Vec<f32>, other: &CpuTensor) -> CpuTensor {
    tensor(data, other.layout().shape().clone())
}

/// Numbers of the last axis.
pub(super) fn last_axis(tensor: &CpuTensor) -> usize {
    *tensor
        .layout()
        .shape()
        .last()
        .expect("every tensor here has an axis")
}

/// Calls `compute` with every block of rows: the number of its first row, and its part of `out`
/// `[rows, width]`. Returns the results in the order of the blocks.
pub(super) fn for_row_blocks<T: Send>(
    out: &mut [f32],
    width: usize,
    compute: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    for_blocks(out, BLOCK_ROWS * width, |index, out| {
        compute(index * BLOCK_ROWS, out)
    })
}

/// Calls `compute` with every block of `size` numbers: its index, and its part of `out`. Returns the
/// results in the order of the blocks.
pub(super) fn for_blocks<T: Send>(
    out: &mut [f32],
    size: usize,
    compute: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    if out.len() >= MIN_PARALLEL && rayon::current_num_threads() > 1 {
        out.par_chunks_mut(size)
            .enumerate()
            .map(|(index, out)| compute(index, out))
            .collect()
    } else {
        out.chunks_mut(size)
            .enumerate()
            .map(|(index, out)| compute(index, out))
            .collect()
    }
}
