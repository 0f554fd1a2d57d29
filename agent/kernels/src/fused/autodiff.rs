//! The gradients of the fused operations.
//!
//! [`record`] runs an operation and, if an input needs a gradient, registers its backward step. What
//! the step needs is a [`Saved`] value, which also computes the gradients.

use super::FusedBackend;
use super::attention::{self, Heads};
use super::elementwise::{GatedGradient, LogSoftmaxGradient, RmsNormGradient, TargetGradient};
use super::forward;
use super::host::{
    CpuTensor, contiguous, for_blocks, for_row_blocks, last_axis, numbers, numbers_at, tensor,
    tensor_like,
};
use crate::convolution::Convolution;
use crate::elementwise::{Activation, add};
use burn::backend::Flex;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

/// What an operation with N inputs saves for its backward pass.
trait Saved<const N: usize>: Clone + Debug + Send + 'static {
    /// The gradients of the inputs, from the gradient of the result. The gradient of input `i` is
    /// used only if `needed[i]`.
    fn gradients(self, gradient: CpuTensor, needed: [bool; N]) -> [Option<CpuTensor>; N];
}

/// The backward step of the operation that saves a `T`.
#[derive(Debug)]
struct BackwardStep<T>(PhantomData<fn() -> T>);

impl<T: Saved<N>, const N: usize> Backward<Flex, N> for BackwardStep<T> {
    type State = T;

    fn backward(self, ops: Ops<T, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let needed = ops.parents.each_ref().map(Option::is_some);
        let gradients = ops.state.gradients(gradient, needed);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// Runs `forward`, which returns the result and what its backward step needs. If an input needs a
/// gradient, the step is registered.
fn record<C: CheckpointStrategy, T: Saved<N>, const N: usize>(
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
    forward: impl FnOnce([CpuTensor; N]) -> (CpuTensor, T),
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = inputs.each_ref().map(|input| input.node());
    match BackwardStep::<T>(PhantomData)
        .prepare::<C>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(step) => {
            let (out, saved) = forward(inputs.map(|input| input.into_primitive()));
            step.finish(saved, out)
        }
        OpsKind::UnTracked(step) => {
            step.finish(forward(inputs.map(|input| input.into_primitive())).0)
        }
    }
}

impl<C: CheckpointStrategy> FusedBackend for Autodiff<Flex, C> {
    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        record::<C, _, 2>([x, weight], |inputs| {
            let [x, weight] = inputs.map(contiguous);
            let out = forward::rms_norm(&x, &weight, epsilon);
            let saved = SavedRmsNorm { x, weight, epsilon };
            (out, saved)
        })
    }

    fn fused_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        record::<C, _, 2>([gate, up], |inputs| {
            let [gate, up] = inputs.map(contiguous);
            let out = forward::gated(&gate, &up, activation);
            let saved = SavedGated {
                gate,
                up,
                activation,
            };
            (out, saved)
        })
    }

    fn fused_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self> {
        record::<C, _, 3>([queries, keys, values], |inputs| {
            let inputs = inputs.map(contiguous);
            let (out, normalizers) = attention::forward(inputs.each_ref(), &heads);
            let saved = SavedAttention {
                inputs,
                out: out.clone(),
                normalizers: normalizers.into(),
                heads,
            };
            (out, saved)
        })
    }

    fn fused_causal_convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        time: usize,
    ) -> FloatTensor<Self> {
        record::<C, _, 2>([x, weight], |inputs| {
            let [x, weight] = inputs.map(contiguous);
            let out = forward::causal_convolution(&x, &weight, time);
            (out, SavedConvolution { x, weight, time })
        })
    }

    fn fused_by_table(hidden: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self> {
        record::<C, _, 2>([hidden, table], |[hidden, table]| {
            let out = Flex::fused_by_table(hidden.clone(), table.clone());
            (out, SavedByTable { hidden, table })
        })
    }

    fn fused_log_softmax(logits: FloatTensor<Self>) -> FloatTensor<Self> {
        record::<C, _, 1>([logits], |[logits]| {
            let logprobs = Flex::fused_log_softmax(logits);
            (logprobs.clone(), SavedLogSoftmax { logprobs })
        })
    }

    fn fused_target_logprobs(
        logits: FloatTensor<Self>,
        targets: Arc<[usize]>,
    ) -> FloatTensor<Self> {
        record::<C, _, 1>([logits], |[logits]| {
            let logits = contiguous(logits);
            let (out, normalizers) = forward::target_logprobs(&logits, &targets);
            let saved = SavedTargetLogprobs {
                logits,
                normalizers: normalizers.into(),
                targets,
            };
            (out, saved)
        })
    }
}

/// The gradient of a weight that all blocks of rows share, from that of each block, in their order.
fn sum_of_parts(parts: &[Vec<f32>], size: usize) -> Vec<f32> {
    let mut sum = vec![0.0; size];
    parts.iter().for_each(|part| add(&mut sum, part));
    sum
}

#[derive(Debug, Clone)]
struct SavedRmsNorm {
    x: CpuTensor,
    weight: CpuTensor,
    epsilon: f32,
}

impl Saved<2> for SavedRmsNorm {
    fn gradients(self, gradient: CpuTensor, _: [bool; 2]) -> [Option<CpuTensor>; 2] {
        let Self { x, weight, epsilon } = self;
        let gradient = contiguous(gradient);
        let width = last_axis(&x);
        let mut to_x = vec![0.0; numbers(&x).len()];
        let parts = for_row_blocks(&mut to_x, width, |first, to_x| {
            let mut to_weight = vec![0.0; width];
            RmsNormGradient {
                x: numbers_at(&x, first * width, to_x.len()),
                gradient: numbers_at(&gradient, first * width, to_x.len()),
                weight: numbers(&weight),
                epsilon,
                to_x,
                to_weight: &mut to_weight,
            }
            .run();
            to_weight
        });
        [
            Some(tensor_like(to_x, &x)),
            Some(tensor(sum_of_parts(&parts, width), [width])),
        ]
    }
}

#[derive(Debug, Clone)]
struct SavedGated {
    gate: CpuTensor,
    up: CpuTensor,
    activation: Activation,
}

impl Saved<2> for SavedGated {
    fn gradients(self, gradient: CpuTensor, _: [bool; 2]) -> [Option<CpuTensor>; 2] {
        let Self {
            gate,
            up,
            activation,
        } = self;
        let gradient = contiguous(gradient);
        let width = last_axis(&gate);
        let mut to_gate = vec![0.0; numbers(&gate).len()];
        let to_up = for_row_blocks(&mut to_gate, width, |first, to_gate| {
            let mut to_up = vec![0.0; to_gate.len()];
            GatedGradient {
                activation,
                gate: numbers_at(&gate, first * width, to_gate.len()),
                up: numbers_at(&up, first * width, to_gate.len()),
                gradient: numbers_at(&gradient, first * width, to_gate.len()),
                to_gate,
                to_up: &mut to_up,
            }
            .run();
            to_up
        });
        [
            Some(tensor_like(to_gate, &gate)),
            Some(tensor_like(to_up.concat(), &gate)),
        ]
    }
}

#[derive(Debug, Clone)]
struct SavedConvolution {
    x: CpuTensor,
    weight: CpuTensor,
    time: usize,
}

impl Saved<2> for SavedConvolution {
    fn gradients(self, gradient: CpuTensor, _: [bool; 2]) -> [Option<CpuTensor>; 2] {
        let Self { x, weight, time } = self;
        let gradient = contiguous(gradient);
        let channels = last_axis(&x);
        let sequence = time * channels;
        let size = numbers(&weight).len();
        let mut to_x = vec![0.0; numbers(&x).len()];
        let parts = for_blocks(&mut to_x, sequence, |index, to_x| {
            let mut to_weight = vec![0.0; size];
            Convolution {
                x: numbers_at(&x, index * sequence, sequence),
                weight: numbers(&weight),
                channels,
            }
            .gradients(
                numbers_at(&gradient, index * sequence, sequence),
                to_x,
                &mut to_weight,
            );
            to_weight
        });
        let to_weight = tensor_like(sum_of_parts(&parts, size), &weight);
        [Some(tensor_like(to_x, &x)), Some(to_weight)]
    }
}

#[derive(Debug, Clone)]
struct SavedAttention {
    /// Queries, keys and values.
    inputs: [CpuTensor; 3],
    out: CpuTensor,
    /// Of each key head of each sequence, `[group, time]`.
    normalizers: Arc<[Vec<f32>]>,
    heads: Heads,
}

impl Saved<3> for SavedAttention {
    fn gradients(self, gradient: CpuTensor, _: [bool; 3]) -> [Option<CpuTensor>; 3] {
        let gradient = contiguous(gradient);
        let gradients = attention::backward(attention::BackwardInputs {
            inputs: self.inputs.each_ref(),
            out: &self.out,
            gradient: &gradient,
            normalizers: &self.normalizers,
            heads: &self.heads,
        });
        let [to_queries, to_keys, to_values] = gradients;
        let [queries, keys, values] = &self.inputs;
        [
            Some(tensor_like(to_queries, queries)),
            Some(tensor_like(to_keys, keys)),
            Some(tensor_like(to_values, values)),
        ]
    }
}

#[derive(Debug, Clone)]
struct SavedByTable {
    hidden: CpuTensor,
    table: CpuTensor,
}

impl Saved<2> for SavedByTable {
    fn gradients(
        self,
        gradient: CpuTensor,
        [hidden_needed, table_needed]: [bool; 2],
    ) -> [Option<CpuTensor>; 2] {
        let Self { hidden, table } = self;
        let to_table = table_needed.then(|| Flex::float_matmul(gradient.transpose(0, 1), hidden));
        let to_hidden = hidden_needed.then(|| Flex::float_matmul(gradient, table));
        [to_hidden, to_table]
    }
}

#[derive(Debug, Clone)]
struct SavedLogSoftmax {
    logprobs: CpuTensor,
}

impl Saved<1> for SavedLogSoftmax {
    fn gradients(self, gradient: CpuTensor, _: [bool; 1]) -> [Option<CpuTensor>; 1] {
        let logprobs = self.logprobs;
        let gradient = contiguous(gradient);
        let width = last_axis(&logprobs);
        let mut out = vec![0.0; numbers(&logprobs).len()];
        for_row_blocks(&mut out, width, |first, out| {
            LogSoftmaxGradient {
                logprobs: numbers_at(&logprobs, first * width, out.len()),
                gradient: numbers_at(&gradient, first * width, out.len()),
                to_logits: out,
                width,
            }
            .run();
        });
        [Some(tensor_like(out, &logprobs))]
    }
}

#[derive(Debug, Clone)]
struct SavedTargetLogprobs {
    logits: CpuTensor,
    /// ln Σ exp of each row.
    normalizers: Arc<[f32]>,
    targets: Arc<[usize]>,
}

impl Saved<1> for SavedTargetLogprobs {
    fn gradients(self, gradient: CpuTensor, _: [bool; 1]) -> [Option<CpuTensor>; 1] {
        let gradient = contiguous(gradient);
        let gradient = numbers(&gradient);
        let width = last_axis(&self.logits);
        let mut out = vec![0.0; numbers(&self.logits).len()];
        for_row_blocks(&mut out, width, |first, out| {
            for (index, out) in out.chunks_exact_mut(width).enumerate() {
                let row = first + index;
                if gradient[row] != 0.0 {
                    TargetGradient {
                        logits: numbers_at(&self.logits, row * width, width),
                        normalizer: self.normalizers[row],
                        gradient: gradient[row],
                        to_logits: out,
                    }
                    .run();
                    out[self.targets[row]] += gradient[row];
                }
            }
        });
        [Some(tensor_like(out, &self.logits))]
    }
}
