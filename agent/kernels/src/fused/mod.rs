//! Fused operations of the decoder with their gradients, f32 on the CPU.
//!
//! burn would compose each of them from many tensor operations, which read and write memory each
//! time. Here each is one loop over rows. [`crate::ops`] selects between them and burn's operations.
//!
//! Sums over rows are computed in blocks of a fixed number of rows, and the blocks are added in
//! order. Neither the number of threads nor the order in which they finish changes a bit.

mod attention;
mod autodiff;
mod elementwise;
mod forward;
mod host;

pub(crate) use self::attention::Heads;

use crate::elementwise::Activation;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Device, Int, Tensor};
use std::sync::Arc;

/// Whether these operations support tensors of this type on this device: f32 on the CPU.
#[must_use]
pub(crate) fn work_on(device: &Device, dtype: DType) -> bool {
    dtype == DType::F32 && *device == Device::flex()
}

/// x / √(mean(x²) + ε) · weight over the last axis.
///
/// # Shapes
/// `weight` `[width]`, if the last axis of `x` has `width` numbers.
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_rms_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        epsilon as f32,
    ))
}

/// activation(gate) · up, both of one shape.
pub(crate) fn gated(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_gated(
        gate.into_dispatch(),
        up.into_dispatch(),
        activation,
    ))
}

/// Causal attention. Queries and keys are rotated here, with the tables of `heads`.
///
/// # Shapes
/// `queries` `[batch · time, heads · width]`, `keys` and `values` `[batch · time, kv_heads · width]`;
/// the result has the shape of `queries`.
pub(crate) fn attention(
    queries: Tensor<2>,
    keys: Tensor<2>,
    values: Tensor<2>,
    heads: Heads,
) -> Tensor<2> {
    let [queries, keys, values] = [queries, keys, values].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::fused_attention(queries, keys, values, heads))
}

/// x[t] + Σ_j w[j] · x[t − j] within each sequence.
///
/// # Shapes
/// `x` and the result `[batch · time, channels]`, `weight` `[width, channels]`.
pub(crate) fn causal_convolution(x: Tensor<2>, weight: Tensor<2>, time: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_causal_convolution(
        x.into_dispatch(),
        weight.into_dispatch(),
        time,
    ))
}

/// ln softmax over the last axis, nats.
#[must_use]
pub(crate) fn log_softmax<const D: usize>(logits: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_log_softmax(logits.into_dispatch()))
}

/// ln softmax at one target of each row, nats.
///
/// # Shapes
/// `logits` `[rows, vocab]`, `targets` `[rows]`; the result `[rows]`.
#[must_use]
pub(crate) fn target_logprobs(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let targets: Arc<[usize]> = targets
        .into_data()
        .iter::<i64>()
        .map(|target| target as usize)
        .collect();
    Tensor::from_dispatch(Dispatch::fused_target_logprobs(
        logits.into_dispatch(),
        targets,
    ))
}

/// `hidden · tableᵀ`: the logits if the embedding is also the output matrix. The gradient of the
/// table has the table's own layout.
///
/// # Shapes
/// `hidden` `[rows, width]`, `table` `[vocab, width]`; the result `[rows, vocab]`.
pub(crate) fn by_table(hidden: Tensor<2>, table: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_by_table(
        hidden.into_dispatch(),
        table.into_dispatch(),
    ))
}

/// The operations as burn dispatches them. Call the functions above instead.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait FusedBackend: Backend {
    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    fn fused_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;
    fn fused_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self>;
    fn fused_causal_convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        time: usize,
    ) -> FloatTensor<Self>;
    fn fused_by_table(hidden: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_log_softmax(logits: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_target_logprobs(logits: FloatTensor<Self>, targets: Arc<[usize]>)
    -> FloatTensor<Self>;
}
