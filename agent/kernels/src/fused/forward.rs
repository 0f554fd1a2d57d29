//! The fused operations without gradients.

use super::FusedBackend;
use super::attention::{self, Heads};
use super::elementwise::{gated_block, log_normalizers};
use super::host::{
    CpuTensor, contiguous, for_blocks, for_row_blocks, last_axis, numbers, numbers_at, tensor,
    tensor_like,
};
use crate::convolution::Convolution;
use crate::elementwise::{self, Activation};
use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use std::sync::Arc;

impl FusedBackend for Flex {
    fn fused_rms_norm(x: CpuTensor, weight: CpuTensor, epsilon: f32) -> CpuTensor {
        rms_norm(&contiguous(x), &contiguous(weight), epsilon)
    }

    fn fused_gated(gate: CpuTensor, up: CpuTensor, activation: Activation) -> CpuTensor {
        gated(&contiguous(gate), &contiguous(up), activation)
    }

    fn fused_attention(
        queries: CpuTensor,
        keys: CpuTensor,
        values: CpuTensor,
        heads: Heads,
    ) -> CpuTensor {
        let inputs = [queries, keys, values].map(contiguous);
        attention::forward(inputs.each_ref(), &heads).0
    }

    fn fused_causal_convolution(x: CpuTensor, weight: CpuTensor, time: usize) -> CpuTensor {
        causal_convolution(&contiguous(x), &contiguous(weight), time)
    }

    fn fused_by_table(hidden: CpuTensor, table: CpuTensor) -> CpuTensor {
        Self::float_matmul(hidden, table.transpose(0, 1))
    }

    fn fused_log_softmax(logits: CpuTensor) -> CpuTensor {
        let logits = contiguous(logits);
        let width = last_axis(&logits);
        let mut out = numbers(&logits).to_vec();
        for_row_blocks(&mut out, width, |_, out| {
            elementwise::log_softmax(out, width, 1.0);
        });
        tensor_like(out, &logits)
    }

    fn fused_target_logprobs(logits: CpuTensor, targets: Arc<[usize]>) -> CpuTensor {
        target_logprobs(&contiguous(logits), &targets).0
    }
}

/// RMSNorm of contiguous tensors.
pub(super) fn rms_norm(x: &CpuTensor, weight: &CpuTensor, epsilon: f32) -> CpuTensor {
    let width = last_axis(x);
    let mut out = vec![0.0; numbers(x).len()];
    for_row_blocks(&mut out, width, |first, out| {
        let x = numbers_at(x, first * width, out.len());
        elementwise::rms_norm(x, numbers(weight), epsilon, out);
    });
    tensor_like(out, x)
}

/// A gated linear unit of contiguous tensors.
pub(super) fn gated(gate: &CpuTensor, up: &CpuTensor, activation: Activation) -> CpuTensor {
    let width = last_axis(gate);
    let mut out = vec![0.0; numbers(gate).len()];
    for_row_blocks(&mut out, width, |first, out| {
        let gate = numbers_at(gate, first * width, out.len());
        let up = numbers_at(up, first * width, out.len());
        gated_block(gate, up, out, activation);
    });
    tensor_like(out, gate)
}

/// A causal convolution of contiguous tensors.
pub(super) fn causal_convolution(x: &CpuTensor, weight: &CpuTensor, time: usize) -> CpuTensor {
    let channels = last_axis(x);
    let sequence = time * channels;
    let mut out = vec![0.0; numbers(x).len()];
    for_blocks(&mut out, sequence, |index, out| {
        Convolution {
            x: numbers_at(x, index * sequence, sequence),
            weight: numbers(weight),
            channels,
        }
        .run(0, out);
    });
    tensor_like(out, x)
}

/// ln softmax at the targets, `[rows]`, and ln Σ exp of each row of contiguous logits.
pub(super) fn target_logprobs(logits: &CpuTensor, targets: &[usize]) -> (CpuTensor, Vec<f32>) {
    let width = last_axis(logits);
    let mut out = vec![0.0; targets.len()];
    let normalizers = for_row_blocks(&mut out, 1, |first, out| {
        let logits = numbers_at(logits, first * width, out.len() * width);
        let mut normalizers = vec![0.0; out.len()];
        log_normalizers(logits, width, &mut normalizers);
        for (index, out) in out.iter_mut().enumerate() {
            *out = logits[index * width + targets[first + index]] - normalizers[index];
        }
        normalizers
    });
    (tensor(out, [targets.len()]), normalizers.concat())
}
