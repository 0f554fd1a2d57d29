//! Operations of the decoder that learns, each with its backward pass, for the CPU in f32: what burn would put together of
//! many tensor operations, every one of which reads and writes memory, is one loop over rows here.
//!
//! Sums over rows are made in stretches of a fixed length and added in their order: neither the number of threads nor
//! who was done first changes a bit.

use crate::elementwise::{add, dot, exp, highest, sum_of_exp, widest};
use crate::simd::{self, Lanes, WIDTH, Work, vector};
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use std::sync::Arc;

/// Numbers from which threads share a loop over rows.
const WORTH_SHARING: usize = 1 << 15;
/// Rows of a stretch.
const STRETCH: usize = 64;
/// Queries that go together.
const BLOCK: usize = 32;

/// Whether these operations work there.
#[must_use]
pub fn work_on(device: &Device, dtype: DType) -> bool {
    dtype == DType::F32 && *device == Device::flex()
}

/// x / √(mean(x²) + ε) · weight over the last axis.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_rms_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        epsilon as f32,
    ))
}

/// silu(gate) · up.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_swiglu(
        gate.into_dispatch(),
        up.into_dispatch(),
    ))
}

/// Causal attention of turned queries over turned keys; `queries` `[batch · time, heads · width]`, the others with the heads
/// of keys, the answer as `queries`.
pub fn attention(
    queries: Tensor<2>,
    keys: Tensor<2>,
    values: Tensor<2>,
    heads: Heads,
) -> Tensor<2> {
    let [queries, keys, values] = [queries, keys, values].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::fused_attention(queries, keys, values, heads))
}

/// ln softmax over the vocabulary.
///
/// # Shapes
/// `logits` and the answer `[rows, vocab]`.
#[must_use]
pub fn log_softmax(logits: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_log_softmax(logits.into_dispatch()))
}

/// ln softmax at one target a row, nats.
///
/// # Shapes
/// `logits` `[rows, vocab]`, `targets` `[rows]`; the answer `[rows]`.
#[must_use]
pub fn target_logprobs(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
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

/// `hidden` times a table read backwards: the logits of a tied embedding. The table's gradient comes in the table's own layout.
///
/// # Shapes
/// `hidden` `[rows, width]`, `table` `[vocab, width]`; the answer `[rows, vocab]`.
pub fn by_table(hidden: Tensor<2>, table: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_by_table(
        hidden.into_dispatch(),
        table.into_dispatch(),
    ))
}

/// How attention is laid out.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Sequences.
    pub batch: usize,
    /// Of queries.
    pub heads: usize,
    /// Of keys, and of values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub width: usize,
    /// Cosines and sines, both `[time, width]`.
    pub rotary: Arc<[Vec<f32>; 2]>,
}

/// The operations, for what burn dispatches to; called by the functions above.
#[backend_extension(Flex, Autodiff)]
pub trait Fused: Backend {
    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self>;
    fn fused_by_table(hidden: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_log_softmax(logits: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_target_logprobs(logits: FloatTensor<Self>, targets: Arc<[usize]>)
    -> FloatTensor<Self>;
}

type Held = FloatTensor<Flex>;

/// The numbers of a tensor that lies in one piece.
fn numbers(tensor: &Held) -> &[f32] {
    tensor
        .as_slice()
        .expect("a tensor that was made contiguous")
}

fn contiguous(tensor: Held) -> Held {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

fn made(data: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> Held {
    Held::from_data(TensorData::new(data, shape.into()))
}

fn last(tensor: &Held) -> usize {
    *tensor.layout().shape().last().expect("an axis")
}

/// Calls `rows` with stretches of rows: their first row's number, and their part of `out`, `[rows, width]`.
fn by_stretches<T: Send>(
    out: &mut [f32],
    width: usize,
    rows: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    let is_large = out.len() >= WORTH_SHARING && rayon::current_num_threads() > 1;
    let call = |(index, out): (usize, &mut [f32])| rows(index * STRETCH, out);
    if is_large {
        out.par_chunks_mut(STRETCH * width)
            .enumerate()
            .map(call)
            .collect()
    } else {
        out.chunks_mut(STRETCH * width)
            .enumerate()
            .map(call)
            .collect()
    }
}

impl Fused for Flex {
    fn fused_rms_norm(x: Held, weight: Held, epsilon: f32) -> Held {
        let (x, weight) = (contiguous(x), contiguous(weight));
        let width = last(&x);
        let mut out = vec![0.0; numbers(&x).len()];
        by_stretches(&mut out, width, |first, out| {
            let x = &numbers(&x)[first * width..][..out.len()];
            widest(Norm {
                x,
                weight: numbers(&weight),
                epsilon,
                out,
            });
        });
        made(out, x.layout().shape().clone())
    }

    fn fused_swiglu(gate: Held, up: Held) -> Held {
        let (gate, up) = (contiguous(gate), contiguous(up));
        let width = last(&gate);
        let mut out = vec![0.0; numbers(&gate).len()];
        by_stretches(&mut out, width, |first, out| {
            let part = |x| &numbers(x)[first * width..][..out.len()];
            widest(Swiglu {
                gate: part(&gate),
                up: part(&up),
                out,
            });
        });
        made(out, gate.layout().shape().clone())
    }

    fn fused_attention(queries: Held, keys: Held, values: Held, heads: Heads) -> Held {
        attend(
            [&contiguous(queries), &contiguous(keys), &contiguous(values)],
            &heads,
        )
        .0
    }

    fn fused_by_table(hidden: Held, table: Held) -> Held {
        Self::float_matmul(hidden, table.transpose(0, 1))
    }

    fn fused_log_softmax(logits: Held) -> Held {
        let logits = contiguous(logits);
        let width = last(&logits);
        let mut out = numbers(&logits).to_vec();
        by_stretches(&mut out, width, |_, out| widest(LogSoftmax { out, width }));
        made(out, logits.layout().shape().clone())
    }

    fn fused_target_logprobs(logits: Held, targets: Arc<[usize]>) -> Held {
        foretell(&contiguous(logits), &targets).0
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl Backward<Flex, 2> for Step {
            type State = (Held, Held, f32);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (x, weight, epsilon) = ops.state;
                let gradient = contiguous(grads.consume::<Flex>(&ops.node));
                let width = last(&x);
                let mut to_x = vec![0.0; numbers(&x).len()];
                let parts = by_stretches(&mut to_x, width, |first, out| {
                    let part = |x| &numbers(x)[first * width..][..out.len()];
                    let (x, gradient, mut to_weight) =
                        (part(&x), part(&gradient), vec![0.0; width]);
                    let to_weight_part = &mut to_weight[..];
                    widest(NormBack {
                        x,
                        gradient,
                        weight: numbers(&weight),
                        epsilon,
                        out,
                        to_weight: to_weight_part,
                    });
                    to_weight
                });
                let [x_node, weight_node] = ops.parents;
                if let Some(node) = weight_node {
                    let mut to_weight = vec![0.0; width];
                    parts.iter().for_each(|part| add(&mut to_weight, part));
                    grads.register::<Flex>(node.id, made(to_weight, [width]));
                }
                if let Some(node) = x_node {
                    grads.register::<Flex>(node.id, made(to_x, x.layout().shape().clone()));
                }
            }
        }

        match Step
            .prepare::<C>([x.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (
                    contiguous(x.into_primitive()),
                    contiguous(weight.into_primitive()),
                );
                let out = Flex::fused_rms_norm(x.clone(), weight.clone(), epsilon);
                prep.finish((x, weight, epsilon), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_rms_norm(
                x.into_primitive(),
                weight.into_primitive(),
                epsilon,
            )),
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl Backward<Flex, 2> for Step {
            type State = (Held, Held);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (gate, up) = ops.state;
                let gradient = contiguous(grads.consume::<Flex>(&ops.node));
                let width = last(&gate);
                let mut to_gate = vec![0.0; numbers(&gate).len()];
                let to_up = by_stretches(&mut to_gate, width, |first, to_gate| {
                    let part = |x| &numbers(x)[first * width..][..to_gate.len()];
                    let (gate, up, gradient, mut to_up) = (
                        part(&gate),
                        part(&up),
                        part(&gradient),
                        vec![0.0; to_gate.len()],
                    );
                    widest(SwigluBack {
                        gate,
                        up,
                        gradient,
                        to_gate,
                        to_up: &mut to_up,
                    });
                    to_up
                });
                let [gate_node, up_node] = ops.parents;
                let shape = || gate.layout().shape().clone();
                if let Some(node) = up_node {
                    grads.register::<Flex>(node.id, made(to_up.concat(), shape()));
                }
                if let Some(node) = gate_node {
                    grads.register::<Flex>(node.id, made(to_gate, shape()));
                }
            }
        }

        match Step
            .prepare::<C>([gate.node(), up.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (gate, up) = (
                    contiguous(gate.into_primitive()),
                    contiguous(up.into_primitive()),
                );
                let out = Flex::fused_swiglu(gate.clone(), up.clone());
                prep.finish((gate, up), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_swiglu(
                gate.into_primitive(),
                up.into_primitive(),
            )),
        }
    }

    fn fused_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl Backward<Flex, 3> for Step {
            type State = ([Held; 3], Held, Arc<[Vec<f32>]>, Heads);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (inputs, out, normalizers, heads) = ops.state;
                let gradient = contiguous(grads.consume::<Flex>(&ops.node));
                let found = attend_back(inputs.each_ref(), &out, &gradient, &normalizers, &heads);
                for ((node, found), input) in ops.parents.into_iter().zip(found).zip(&inputs) {
                    if let Some(node) = node {
                        grads
                            .register::<Flex>(node.id, made(found, input.layout().shape().clone()));
                    }
                }
            }
        }

        match Step
            .prepare::<C>([queries.node(), keys.node(), values.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let inputs = [queries, keys, values].map(|x| contiguous(x.into_primitive()));
                let (out, normalizers) = attend(inputs.each_ref(), &heads);
                prep.finish((inputs, out.clone(), normalizers.into(), heads), out)
            }
            OpsKind::UnTracked(prep) => {
                let [queries, keys, values] = [queries, keys, values].map(|x| x.into_primitive());
                prep.finish(Flex::fused_attention(queries, keys, values, heads))
            }
        }
    }

    fn fused_by_table(hidden: FloatTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl Backward<Flex, 2> for Step {
            type State = (Held, Held);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (hidden, table) = ops.state;
                let gradient = grads.consume::<Flex>(&ops.node);
                let [hidden_node, table_node] = ops.parents;
                if let Some(node) = table_node {
                    grads.register::<Flex>(
                        node.id,
                        Flex::float_matmul(gradient.transpose(0, 1), hidden),
                    );
                }
                if let Some(node) = hidden_node {
                    grads.register::<Flex>(node.id, Flex::float_matmul(gradient, table));
                }
            }
        }

        match Step
            .prepare::<C>([hidden.node(), table.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (hidden, table) = (hidden.into_primitive(), table.into_primitive());
                prep.finish(
                    (hidden.clone(), table.clone()),
                    Flex::fused_by_table(hidden, table),
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_by_table(
                hidden.into_primitive(),
                table.into_primitive(),
            )),
        }
    }

    fn fused_log_softmax(logits: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl Backward<Flex, 1> for Step {
            type State = Held;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let logprobs = ops.state;
                let gradient = contiguous(grads.consume::<Flex>(&ops.node));
                let width = last(&logprobs);
                let mut out = vec![0.0; numbers(&logprobs).len()];
                by_stretches(&mut out, width, |first, out| {
                    let part = |x| &numbers(x)[first * width..][..out.len()];
                    widest(LogSoftmaxBack {
                        logprobs: part(&logprobs),
                        gradient: part(&gradient),
                        out,
                        width,
                    });
                });
                let [node] = ops.parents;
                if let Some(node) = node {
                    grads.register::<Flex>(node.id, made(out, logprobs.layout().shape().clone()));
                }
            }
        }

        match Step
            .prepare::<C>([logits.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let out = Flex::fused_log_softmax(logits.into_primitive());
                prep.finish(out.clone(), out)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::fused_log_softmax(logits.into_primitive()))
            }
        }
    }

    fn fused_target_logprobs(
        logits: FloatTensor<Self>,
        targets: Arc<[usize]>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl Backward<Flex, 1> for Step {
            type State = (Held, Arc<[f32]>, Arc<[usize]>);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let (logits, normalizers, targets) = ops.state;
                let gradient = contiguous(grads.consume::<Flex>(&ops.node));
                let gradient = numbers(&gradient);
                let width = last(&logits);
                let mut out = vec![0.0; numbers(&logits).len()];
                by_stretches(&mut out, width, |first, out| {
                    for (index, out) in out.chunks_exact_mut(width).enumerate() {
                        let row = first + index;
                        let (logits, gradient) =
                            (&numbers(&logits)[row * width..][..width], gradient[row]);
                        if gradient != 0.0 {
                            widest(ForetellBack {
                                logits,
                                normalizer: normalizers[row],
                                gradient,
                                out,
                            });
                            out[targets[row]] += gradient;
                        }
                    }
                });
                let [node] = ops.parents;
                if let Some(node) = node {
                    grads.register::<Flex>(node.id, made(out, logits.layout().shape().clone()));
                }
            }
        }

        match Step
            .prepare::<C>([logits.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let logits = contiguous(logits.into_primitive());
                let (out, normalizers) = foretell(&logits, &targets);
                prep.finish((logits, normalizers.into(), targets), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_target_logprobs(
                logits.into_primitive(),
                targets,
            )),
        }
    }
}

/// Rows of [`crate::elementwise::rms_norm`].
struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        crate::elementwise::rms_norm(self.x, self.weight, self.epsilon, self.out);
    }
}

/// With s = 1/√(mean(x²) + ε) and h = g·w: ∂x = s·h − x · s³ · mean(h·x), ∂w = Σ g · s·x.
struct NormBack<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
    to_weight: &'a mut [f32],
}

impl pulp::NullaryFnOnce for NormBack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.weight.len();
        let (weight, to_weight) = (&self.weight[..width], &mut self.to_weight[..width]);
        let rows = self
            .x
            .chunks_exact(width)
            .zip(self.gradient.chunks_exact(width));
        for ((x, gradient), out) in rows.zip(self.out.chunks_exact_mut(width)) {
            let scale = 1.0 / (dot(x, x) / width as f32 + self.epsilon).sqrt();
            for at in 0..width {
                out[at] = gradient[at] * weight[at];
                to_weight[at] += gradient[at] * x[at] * scale;
            }
            let back = scale * scale * scale * (dot(out, x) / width as f32);
            for at in 0..width {
                out[at] = out[at] * scale - x[at] * back;
            }
        }
    }
}

struct Swiglu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (gate, up) = (&self.gate[..self.out.len()], &self.up[..self.out.len()]);
        for (at, out) in self.out.iter_mut().enumerate() {
            *out = gate[at] / (1.0 + exp(-gate[at])) * up[at];
        }
    }
}

/// With σ = 1/(1 + e^−gate): ∂up = g · gate·σ, ∂gate = g · up · σ · (1 + gate·(1 − σ)).
struct SwigluBack<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    gradient: &'a [f32],
    to_gate: &'a mut [f32],
    to_up: &'a mut [f32],
}

impl pulp::NullaryFnOnce for SwigluBack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let length = self.to_gate.len();
        let (gate, up, gradient) = (
            &self.gate[..length],
            &self.up[..length],
            &self.gradient[..length],
        );
        let to_up = &mut self.to_up[..length];
        for (at, to_gate) in self.to_gate.iter_mut().enumerate() {
            let open = 1.0 / (1.0 + exp(-gate[at]));
            to_up[at] = gradient[at] * gate[at] * open;
            *to_gate = gradient[at] * up[at] * open * (1.0 + gate[at] * (1.0 - open));
        }
    }
}

struct LogSoftmax<'a> {
    out: &'a mut [f32],
    width: usize,
}

impl pulp::NullaryFnOnce for LogSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.out.chunks_exact_mut(self.width) {
            crate::elementwise::log_softmax(row, 1.0);
        }
    }
}

/// ∂x = g − softmax(x) · Σg.
struct LogSoftmaxBack<'a> {
    logprobs: &'a [f32],
    gradient: &'a [f32],
    out: &'a mut [f32],
    width: usize,
}

impl pulp::NullaryFnOnce for LogSoftmaxBack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.width;
        let rows = self
            .logprobs
            .chunks_exact(width)
            .zip(self.gradient.chunks_exact(width));
        for ((logprobs, gradient), out) in rows.zip(self.out.chunks_exact_mut(width)) {
            let total = crate::elementwise::total(gradient);
            for at in 0..width {
                out[at] = gradient[at] - exp(logprobs[at]) * total;
            }
        }
    }
}

/// Logarithms of the softmax at the targets, `[rows]`, and of its normalizers.
fn foretell(logits: &Held, targets: &[usize]) -> (Held, Vec<f32>) {
    let width = last(logits);
    let mut out = vec![0.0; targets.len()];
    let normalizers = by_stretches(&mut out, 1, |first, out| {
        let logits = &numbers(logits)[first * width..][..out.len() * width];
        let mut normalizers = vec![0.0; out.len()];
        widest(Normalizers {
            logits,
            width,
            normalizers: &mut normalizers,
        });
        for (index, out) in out.iter_mut().enumerate() {
            *out = logits[index * width + targets[first + index]] - normalizers[index];
        }
        normalizers
    });
    (made(out, [targets.len()]), normalizers.concat())
}

/// ln Σ exp of each row.
struct Normalizers<'a> {
    logits: &'a [f32],
    width: usize,
    normalizers: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Normalizers<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (row, normalizer) in self.logits.chunks_exact(self.width).zip(self.normalizers) {
            let highest = highest(row);
            *normalizer = highest + sum_of_exp(row, highest).ln() as f32;
        }
    }
}

/// −g · softmax; the target's own g is the caller's.
struct ForetellBack<'a> {
    logits: &'a [f32],
    normalizer: f32,
    gradient: f32,
    out: &'a mut [f32],
}

impl pulp::NullaryFnOnce for ForetellBack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, logit) in self.out.iter_mut().zip(self.logits) {
            *out = -self.gradient * exp(logit - self.normalizer);
        }
    }
}

/// The mixed values, and for every key head of every sequence the normalizers of its queries, `[group, time]`.
fn attend([queries, keys, values]: [&Held; 3], heads: &Heads) -> (Held, Vec<Vec<f32>>) {
    let all = numbers(queries);
    let place = |index: usize| Place::new(heads, all.len(), index);
    let found: Vec<(Vec<f32>, Vec<f32>)> = (0..heads.batch * heads.kv_heads)
        .into_par_iter()
        .map(|index| {
            let place = place(index);
            let (mut out, mut normalizers) =
                (vec![0.0; place.group * place.time * place.padded], vec![]);
            normalizers.resize(place.group * place.time, 0.0);
            let [keys, values] = [numbers(keys), numbers(values)];
            let work = Attend {
                place,
                heads,
                queries: all,
                keys,
                values,
                out: &mut out,
                normalizers: &mut normalizers,
            };
            simd::widest(work);
            (out, normalizers)
        })
        .collect();
    let mut out = vec![0.0; all.len()];
    let mut normalizers = Vec::with_capacity(found.len());
    for (index, (mixed, normalizer)) in found.into_iter().enumerate() {
        let place = place(index);
        for member in 0..place.group {
            place.put(
                &mixed[member * place.time * place.padded..],
                &mut out,
                heads.heads,
                place.query_head(member),
            );
        }
        normalizers.push(normalizer);
    }
    (made(out, queries.layout().shape().clone()), normalizers)
}

/// Gradients by queries, keys and values.
fn attend_back(
    [queries, keys, values]: [&Held; 3],
    out: &Held,
    gradient: &Held,
    normalizers: &[Vec<f32>],
    heads: &Heads,
) -> [Vec<f32>; 3] {
    let all = numbers(queries);
    let place = |index: usize| Place::new(heads, all.len(), index);
    let found: Vec<[Vec<f32>; 3]> = (0..heads.batch * heads.kv_heads)
        .into_par_iter()
        .map(|index| {
            let place = place(index);
            let size = place.time * place.padded;
            let mut back = [
                vec![0.0; place.group * size],
                vec![0.0; size],
                vec![0.0; size],
            ];
            simd::widest(AttendBack {
                place,
                heads,
                queries: all,
                keys: numbers(keys),
                values: numbers(values),
                out: numbers(out),
                gradient: numbers(gradient),
                normalizers: &normalizers[index],
                back: &mut back,
            });
            back
        })
        .collect();
    let mut all_back = [queries, keys, values].map(|input| vec![0.0; numbers(input).len()]);
    for (index, [to_queries, to_keys, to_values]) in found.into_iter().enumerate() {
        let place = place(index);
        let [all_queries, all_keys, all_values] = &mut all_back;
        for member in 0..place.group {
            let part = &to_queries[member * place.time * place.padded..];
            place.put(part, all_queries, heads.heads, place.query_head(member));
        }
        place.put(&to_keys, all_keys, heads.kv_heads, place.kv_head);
        place.put(&to_values, all_values, heads.kv_heads, place.kv_head);
    }
    all_back
}

/// A key head of a sequence, and the query heads that share it.
#[derive(Clone, Copy)]
struct Place {
    sequence: usize,
    kv_head: usize,
    /// Query heads.
    group: usize,
    time: usize,
    /// Numbers of a head.
    width: usize,
    /// The same, filled up to whole vectors.
    padded: usize,
}

impl Place {
    fn new(heads: &Heads, queries: usize, index: usize) -> Self {
        Self {
            sequence: index / heads.kv_heads,
            kv_head: index % heads.kv_heads,
            group: heads.heads / heads.kv_heads,
            time: queries / (heads.batch * heads.heads * heads.width),
            width: heads.width,
            padded: heads.width.next_multiple_of(WIDTH),
        }
    }

    fn query_head(&self, member: usize) -> usize {
        self.kv_head * self.group + member
    }

    /// Where a token's numbers of a head begin, of so many heads.
    #[inline(always)]
    fn start(&self, token: usize, heads: usize, head: usize) -> usize {
        ((self.sequence * self.time + token) * heads + head) * self.width
    }

    /// A head's numbers `[time, padded]`.
    #[inline(always)]
    fn take(&self, all: &[f32], heads: usize, head: usize) -> Vec<f32> {
        let mut taken = vec![0.0; self.time * self.padded];
        for (token, out) in taken.chunks_exact_mut(self.padded).enumerate() {
            out[..self.width].copy_from_slice(&all[self.start(token, heads, head)..][..self.width]);
        }
        taken
    }

    /// The same, turned by their positions and scaled.
    #[inline(always)]
    fn take_turned(
        &self,
        all: &[f32],
        heads: usize,
        head: usize,
        rotary: &[Vec<f32>; 2],
        scale: f32,
    ) -> Vec<f32> {
        let mut taken = vec![0.0; self.time * self.padded];
        let half = self.width / 2;
        for (token, out) in taken.chunks_exact_mut(self.padded).enumerate() {
            let (low, high) = all[self.start(token, heads, head)..][..self.width].split_at(half);
            let [cosines, sines] = rotary
                .each_ref()
                .map(|table| &table[token * self.width..][..self.width]);
            for at in 0..half {
                out[at] = (low[at] * cosines[at] - high[at] * sines[at]) * scale;
                out[half + at] =
                    (high[at] * cosines[half + at] + low[at] * sines[half + at]) * scale;
            }
        }
        taken
    }

    /// Turns gradients `[time, padded]` back, and scales them.
    #[inline(always)]
    fn turn_back(&self, gradients: &mut [f32], rotary: &[Vec<f32>; 2], scale: f32) {
        let half = self.width / 2;
        for (token, out) in gradients.chunks_exact_mut(self.padded).enumerate() {
            let [cosines, sines] = rotary
                .each_ref()
                .map(|table| &table[token * self.width..][..self.width]);
            for at in 0..half {
                let (low, high) = (out[at], out[half + at]);
                out[at] = (low * cosines[at] + high * sines[half + at]) * scale;
                out[half + at] = (high * cosines[half + at] - low * sines[at]) * scale;
            }
        }
    }

    /// Writes a head's `[time, padded]` where it belongs.
    fn put(&self, from: &[f32], all: &mut [f32], heads: usize, head: usize) {
        for (token, from) in from.chunks_exact(self.padded).take(self.time).enumerate() {
            all[self.start(token, heads, head)..][..self.width]
                .copy_from_slice(&from[..self.width]);
        }
    }

    /// `[time, padded]` as `[padded, columns]`, filled up with zeros.
    #[inline(always)]
    fn transposed(&self, taken: &[f32]) -> Vec<f32> {
        let columns = self.columns();
        let mut out = vec![0.0; self.padded * columns];
        for (token, row) in taken.chunks_exact(self.padded).enumerate() {
            for (at, number) in row.iter().enumerate() {
                out[at * columns + token] = *number;
            }
        }
        out
    }

    /// Tokens, filled up to whole vectors.
    fn columns(&self) -> usize {
        self.time.next_multiple_of(WIDTH)
    }
}

/// Attention of a group of query heads.
struct Attend<'a> {
    place: Place,
    heads: &'a Heads,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    /// `[group, time, padded]`.
    out: &'a mut [f32],
    /// `[group, time]`.
    normalizers: &'a mut [f32],
}

impl Work for Attend<'_> {
    #[inline(always)]
    fn with<L: Lanes>(self, lanes: L) {
        let Self { place, heads, .. } = self;
        let Place {
            time,
            padded,
            width,
            ..
        } = place;
        let columns = place.columns();
        let keys = place.transposed(&place.take_turned(
            self.keys,
            heads.kv_heads,
            place.kv_head,
            &heads.rotary,
            1.0,
        ));
        let values = place.take(self.values, heads.kv_heads, place.kv_head);
        let scale = 1.0 / (width as f32).sqrt();
        let mut scores = vec![0.0; BLOCK * columns];
        let outs = self
            .out
            .chunks_exact_mut(time * padded)
            .zip(self.normalizers.chunks_exact_mut(time));
        for (member, (out, normalizers)) in outs.enumerate() {
            let queries = place.take_turned(
                self.queries,
                heads.heads,
                place.query_head(member),
                &heads.rotary,
                scale,
            );
            for first in (0..time).step_by(BLOCK) {
                let rows = BLOCK.min(time - first);
                let seen = (first + rows).next_multiple_of(WIDTH);
                let queries = Left::rows(&queries[first * padded..], padded);
                product(
                    lanes,
                    queries,
                    [rows, width, seen],
                    &keys,
                    columns,
                    &mut scores,
                    columns,
                    Sum::Overwritten,
                );
                for (row, scores) in scores.chunks_exact_mut(columns).take(rows).enumerate() {
                    let count = first + row + 1;
                    normalizers[first + row] = soften(&mut scores[..count]);
                    scores[count..seen].fill(0.0);
                }
                let weights = Left::rows(&scores, columns);
                let out = &mut out[first * padded..];
                product(
                    lanes,
                    weights,
                    [rows, first + rows, padded],
                    &values,
                    padded,
                    out,
                    padded,
                    Sum::Overwritten,
                );
            }
        }
    }
}

/// Turns scores into weights that sum to one, in place; tells ln Σ exp.
#[inline(always)]
fn soften(scores: &mut [f32]) -> f32 {
    let highest = highest(scores);
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    let total = crate::elementwise::total(scores);
    let scale = 1.0 / total;
    for score in scores.iter_mut() {
        *score *= scale;
    }
    highest + total.ln()
}

/// The backward pass of [`Attend`], which makes the weights P anew from the normalizers. With D = Σ g·out of a query:
/// ∂V = Pᵀg, ∂P = gVᵀ, ∂S = P·(∂P − D), ∂Q = ∂S·K, ∂K = ∂Sᵀ·Q.
struct AttendBack<'a> {
    place: Place,
    heads: &'a Heads,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    out: &'a [f32],
    gradient: &'a [f32],
    /// `[group, time]`.
    normalizers: &'a [f32],
    /// By queries `[group, time, padded]`, keys and values `[time, padded]`.
    back: &'a mut [Vec<f32>; 3],
}

impl Work for AttendBack<'_> {
    #[inline(always)]
    fn with<L: Lanes>(self, lanes: L) {
        let Self { place, heads, .. } = self;
        let Place {
            time,
            padded,
            width,
            ..
        } = place;
        let columns = place.columns();
        let keys = place.take_turned(self.keys, heads.kv_heads, place.kv_head, &heads.rotary, 1.0);
        let keys_across = place.transposed(&keys);
        let values_across =
            place.transposed(&place.take(self.values, heads.kv_heads, place.kv_head));
        let scale = 1.0 / (width as f32).sqrt();
        let [mut weights, mut changes] = [vec![0.0; BLOCK * columns], vec![0.0; BLOCK * columns]];
        let [to_queries, to_keys, to_values] = self.back;
        for (member, to_queries) in to_queries.chunks_exact_mut(time * padded).enumerate() {
            let head = place.query_head(member);
            let queries = place.take_turned(self.queries, heads.heads, head, &heads.rotary, scale);
            let gradient = place.take(self.gradient, heads.heads, head);
            let out = place.take(self.out, heads.heads, head);
            let normalizers = &self.normalizers[member * time..][..time];
            for first in (0..time).step_by(BLOCK) {
                let rows = BLOCK.min(time - first);
                let (count, seen) = (first + rows, (first + rows).next_multiple_of(WIDTH));
                let (queries, gradient) = (&queries[first * padded..], &gradient[first * padded..]);
                let left = Left::rows(queries, padded);
                let across = [rows, width, seen];
                product(
                    lanes,
                    left,
                    across,
                    &keys_across,
                    columns,
                    &mut weights,
                    columns,
                    Sum::Overwritten,
                );
                let left = Left::rows(gradient, padded);
                product(
                    lanes,
                    left,
                    across,
                    &values_across,
                    columns,
                    &mut changes,
                    columns,
                    Sum::Overwritten,
                );
                let both = weights
                    .chunks_exact_mut(columns)
                    .zip(changes.chunks_exact_mut(columns));
                for (row, (weights, changes)) in both.take(rows).enumerate() {
                    let at = (first + row) * padded;
                    let mean = dot(&gradient[row * padded..][..padded], &out[at..][..padded]);
                    let normalizer = normalizers[first + row];
                    let (ours, rest) = weights[..seen].split_at_mut(first + row + 1);
                    for (weight, change) in ours.iter_mut().zip(changes.iter_mut()) {
                        *weight = exp(*weight - normalizer);
                        *change = *weight * (*change - mean);
                    }
                    rest.fill(0.0);
                    changes[first + row + 1..seen].fill(0.0);
                }
                let out = &mut to_queries[first * padded..];
                let left = Left::rows(&changes, columns);
                product(
                    lanes,
                    left,
                    [rows, count, padded],
                    &keys,
                    padded,
                    out,
                    padded,
                    Sum::Overwritten,
                );
                let sizes = [count, rows, padded];
                let left = Left::columns(&weights, columns);
                product(
                    lanes,
                    left,
                    sizes,
                    gradient,
                    padded,
                    to_values,
                    padded,
                    Sum::Added,
                );
                let left = Left::columns(&changes, columns);
                product(
                    lanes,
                    left,
                    sizes,
                    queries,
                    padded,
                    to_keys,
                    padded,
                    Sum::Added,
                );
            }
            place.turn_back(to_queries, &heads.rotary, scale);
        }
        place.turn_back(to_keys, &heads.rotary, 1.0);
    }
}

/// The left matrix of a product: by rows, or by columns, which lie so far apart.
#[derive(Clone, Copy)]
struct Left<'a> {
    numbers: &'a [f32],
    apart: usize,
    is_by_columns: bool,
}

impl<'a> Left<'a> {
    #[inline(always)]
    fn rows(numbers: &'a [f32], apart: usize) -> Self {
        Self {
            numbers,
            apart,
            is_by_columns: false,
        }
    }

    #[inline(always)]
    fn columns(numbers: &'a [f32], apart: usize) -> Self {
        Self {
            numbers,
            apart,
            is_by_columns: true,
        }
    }
}

/// What becomes of what stands where a product goes.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    Overwritten,
    Added,
}

/// `out = left · right` or `out += left · right` of small matrices, `[m, k] · [k, n]`, n a multiple of [`WIDTH`]; the rows of
/// `right` and `out` lie so far apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a product is what it is")]
fn product<L: Lanes>(
    lanes: L,
    left: Left<'_>,
    [m, k, n]: [usize; 3],
    right: &[f32],
    right_apart: usize,
    out: &mut [f32],
    out_apart: usize,
    sum: Sum,
) {
    let factors = Factors {
        left,
        m,
        k,
        right,
        right_apart,
        out_apart,
        sum,
    };
    let mut column = 0;
    while column < n {
        let vectors = (n - column) / WIDTH;
        let out = &mut out[column..];
        column += WIDTH
            * match vectors {
                4.. if L::REGISTERS > 16 => rows::<4, 4, L>(lanes, factors, column, out),
                2.. if L::REGISTERS > 16 => rows::<8, 2, L>(lanes, factors, column, out),
                1.. if L::REGISTERS > 16 => rows::<8, 1, L>(lanes, factors, column, out),
                _ => rows::<4, 1, L>(lanes, factors, column, out),
            };
    }
}

/// What all tiles of a product share.
#[derive(Clone, Copy)]
struct Factors<'a> {
    left: Left<'a>,
    m: usize,
    k: usize,
    right: &'a [f32],
    right_apart: usize,
    out_apart: usize,
    sum: Sum,
}

/// C vectors of all rows, R rows at a time; tells C.
#[inline(always)]
fn rows<const R: usize, const C: usize, L: Lanes>(
    lanes: L,
    factors: Factors<'_>,
    column: usize,
    out: &mut [f32],
) -> usize {
    let Factors { m, out_apart, .. } = factors;
    let mut row = 0;
    while row + R <= m {
        tile::<R, C, L>(lanes, factors, row, column, &mut out[row * out_apart..]);
        row += R;
    }
    while row < m {
        tile::<1, C, L>(lanes, factors, row, column, &mut out[row * out_apart..]);
        row += 1;
    }
    C
}

/// R rows by C vectors, whose sums stay in registers.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "every index is of several arrays"
)]
fn tile<const R: usize, const C: usize, L: Lanes>(
    lanes: L,
    factors: Factors<'_>,
    row: usize,
    column: usize,
    out: &mut [f32],
) {
    let Factors {
        left,
        k,
        right,
        right_apart,
        out_apart,
        sum,
        ..
    } = factors;
    let zero = lanes.splat(0.0);
    let mut held = [[zero; C]; R];
    if sum == Sum::Added {
        for r in 0..R {
            for c in 0..C {
                held[r][c] = lanes.f32(vector(out, r * out_apart + c * WIDTH));
            }
        }
    }
    let rights = right.chunks(right_apart).take(k);
    if left.is_by_columns {
        for (left, right) in left.numbers.chunks(left.apart).zip(rights) {
            let left: &[f32; R] = left[row..][..R].try_into().expect("as many");
            let right = &right[column..][..C * WIDTH];
            for c in 0..C {
                let right = lanes.f32(vector(right, c * WIDTH));
                for r in 0..R {
                    held[r][c] = lanes.mul_add(lanes.splat(left[r]), right, held[r][c]);
                }
            }
        }
    } else {
        let mut lefts = [&left.numbers[..0]; R];
        for r in 0..R {
            lefts[r] = &left.numbers[(row + r) * left.apart..][..k];
        }
        for (at, right) in rights.enumerate() {
            let right = &right[column..][..C * WIDTH];
            let mut factors = [zero; C];
            for c in 0..C {
                factors[c] = lanes.f32(vector(right, c * WIDTH));
            }
            for r in 0..R {
                let left = lanes.splat(lefts[r][at]);
                for c in 0..C {
                    held[r][c] = lanes.mul_add(left, factors[c], held[r][c]);
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            out[r * out_apart + c * WIDTH..][..WIDTH].copy_from_slice(&lanes.array(held[r][c]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::activation;

    fn device() -> Device {
        Device::flex().autodiff()
    }

    fn numbers<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let data: Vec<f32> = (0..count)
            .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
            .collect();
        Tensor::from_data(TensorData::new(data, shape), &device()).require_grad()
    }

    fn vector<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().expect("f32")
    }

    /// |a − b| ≤ 1e-5 |a|, as vectors.
    #[track_caller]
    fn close(what: &str, a: &[f32], b: &[f32]) {
        let norm = |x: &mut dyn Iterator<Item = f32>| {
            x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
        };
        let off =
            norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied()).max(1e-9);
        assert!(a.len() == b.len() && off < 1e-5, "{what} is off by {off}");
    }

    /// Values, and the gradients of a weighted sum of them by each input, of two ways to compute the same.
    #[track_caller]
    fn same<const D: usize, const N: usize>(
        inputs: impl Fn() -> [Tensor<2>; N],
        written_out: impl Fn([Tensor<2>; N]) -> Tensor<D>,
        fused: impl Fn([Tensor<2>; N]) -> Tensor<D>,
    ) {
        let run = |compute: &dyn Fn([Tensor<2>; N]) -> Tensor<D>| {
            let inputs = inputs();
            let out = compute(inputs.clone());
            let grads = (out.clone() * numbers(out.dims(), 77).detach())
                .sum()
                .backward();
            let gradients =
                inputs.map(|input| vector(input.grad(&grads).expect("a part in the sum")));
            (vector(out), gradients)
        };
        let ((out, gradients), (ours, our_gradients)) = (run(&written_out), run(&fused));
        close("the value", &out, &ours);
        for (index, (a, b)) in gradients.iter().zip(&our_gradients).enumerate() {
            close(&format!("gradient {index}"), a, b);
        }
    }

    #[test]
    fn norms_equal_the_written_out_ones() {
        for [rows, width] in [[3, 7], [130, 48]] {
            let written_out = |[x, weight]: [Tensor<2>; 2]| {
                let mean_square = x.clone().square().mean_dim(1);
                x * (mean_square + 1e-5).sqrt().recip() * weight
            };
            let fused = |[x, weight]: [Tensor<2>; 2]| rms_norm(x, weight.squeeze_dim(0), 1e-5);
            same(
                || [numbers([rows, width], 1), numbers([1, width], 2)],
                written_out,
                fused,
            );
        }
    }

    #[test]
    fn swiglu_equals_the_written_out_one() {
        let inputs = || {
            [numbers([70, 21], 1) * 4.0, numbers([70, 21], 2)].map(|x| x.detach().require_grad())
        };
        same(
            inputs,
            |[gate, up]| activation::silu(gate) * up,
            |[gate, up]| swiglu(gate, up),
        );
    }

    #[test]
    fn logarithms_of_softmaxes_equal_the_written_out_ones() {
        let inputs = || [numbers([67, 37], 1).mul_scalar(9.0).detach().require_grad()];
        same(
            inputs,
            |[x]| activation::log_softmax(x, 1),
            |[x]| log_softmax(x),
        );
        let ids: Vec<i64> = (0..67).map(|row| row * 11 % 37).collect();
        let targets = || Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [67]), &device());
        let gathered = |[x]: [Tensor<2>; 1]| {
            activation::log_softmax(x, 1)
                .gather(1, targets().unsqueeze_dim(1))
                .squeeze_dim::<1>(1)
        };
        same(inputs, gathered, |[x]| target_logprobs(x, targets()));
    }

    #[test]
    fn a_table_read_backwards_equals_the_product() {
        let inputs = || [numbers([5, 12], 1), numbers([30, 12], 2)];
        same(
            inputs,
            |[hidden, table]| hidden.matmul(table.transpose()),
            |[hidden, table]| by_table(hidden, table),
        );
    }

    /// Lengths around a block of queries and a vector of keys, heads that fill vectors and heads that do not, shared keys
    /// and keys of one's own.
    #[test]
    fn attention_equals_the_written_out_one() {
        for (batch, time, heads, kv_heads, width) in [
            (2, 2, 2, 1, 6),
            (1, 33, 4, 2, 32),
            (2, 48, 3, 3, 20),
            (1, 70, 9, 3, 64),
        ] {
            let angles =
                |at: usize| ((at / width) as f32) * 0.7_f32.powi((at % width % (width / 2)) as i32);
            let table = |f: fn(f32) -> f32| {
                (0..time * width)
                    .map(|at| f(angles(at)))
                    .collect::<Vec<f32>>()
            };
            let rotary = Arc::new([table(f32::cos), table(f32::sin)]);
            let inputs = || {
                let of = |heads: usize, seed| numbers([batch * time, heads * width], seed);
                [of(heads, 1), of(kv_heads, 2), of(kv_heads, 3)]
            };
            let written_out = |[queries, keys, values]: [Tensor<2>; 3]| {
                let split = |x: Tensor<2>, heads: usize| {
                    x.reshape([batch, time, heads, width]).swap_dims(1, 2)
                };
                let table = |index: usize| {
                    Tensor::<4>::from_data(
                        TensorData::new(rotary[index].clone(), [1, 1, time, width]),
                        &device(),
                    )
                };
                let turn = |x: Tensor<4>| {
                    let half = width / 2;
                    let turned = Tensor::cat(
                        vec![
                            -x.clone().narrow(3, half, half),
                            x.clone().narrow(3, 0, half),
                        ],
                        3,
                    );
                    x * table(0) + turned * table(1)
                };
                let share = |x: Tensor<4>| {
                    let group = heads / kv_heads;
                    x.unsqueeze_dim::<5>(2)
                        .repeat_dim(2, group)
                        .reshape([batch, heads, time, width])
                };
                let causal = (0..time * time)
                    .map(|i| if i % time > i / time { -1e9 } else { 0.0 })
                    .collect();
                let causal = Tensor::<4>::from_data(
                    TensorData::new::<f32, _>(causal, [1, 1, time, time]),
                    &device(),
                );
                let queries = turn(split(queries, heads)) / (width as f64).sqrt();
                let scores =
                    queries.matmul(share(turn(split(keys, kv_heads))).swap_dims(2, 3)) + causal;
                let mixed = activation::softmax(scores, 3).matmul(share(split(values, kv_heads)));
                mixed.swap_dims(1, 2).reshape([batch * time, heads * width])
            };
            let fused = |[queries, keys, values]: [Tensor<2>; 3]| {
                attention(
                    queries,
                    keys,
                    values,
                    Heads {
                        batch,
                        heads,
                        kv_heads,
                        width,
                        rotary: rotary.clone(),
                    },
                )
            };
            same(inputs, written_out, fused);
        }
    }
}
