//! The decoder's operations on burn tensors.
//!
//! If the device supports it (f32 on the CPU), an operation is fused: one loop over rows. Otherwise
//! it is composed of burn's operations. Both compute the same result up to rounding, and both have a
//! gradient.
//!
//! # Example
//! ```
//! use burn::tensor::{Device, Tensor, TensorData};
//! use kernels::ops;
//!
//! let logits = Tensor::<2>::from_data(TensorData::new(vec![0.0_f32; 8], [2, 4]), &Device::flex());
//! let logprobs = ops::log_softmax(logits).into_data().try_to_vec::<f32>().unwrap();
//! assert!((logprobs[0] - 0.25_f32.ln()).abs() < 1e-6);
//! ```

use crate::blockwise;
use crate::elementwise::{Activation, GELU_CUBE, GELU_SLOPE};
use crate::fused::{self, Heads};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation, assert_shape};
use std::sync::Arc;

/// Whether the operations are fused for tensors of this type on this device. Such tensors are also in
/// host memory, as f32.
#[must_use]
pub fn are_fused(device: &Device, dtype: DType) -> bool {
    fused::work_on(device, dtype)
}

/// x / √(mean(x²) + ε) · weight over the last axis (RMSNorm).
///
/// # Shapes
/// `weight` `[width]`, if the last axis of `x` has `width` numbers.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    if are_fused(&x.device(), x.dtype()) {
        fused::rms_norm(x, weight, epsilon)
    } else {
        composed::rms_norm(x, weight, epsilon)
    }
}

/// activation(gate) · up, both of one shape.
pub fn gated(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
    if are_fused(&gate.device(), gate.dtype()) {
        fused::gated(gate, up, activation)
    } else {
        activated(gate, activation) * up
    }
}

/// activation(x), composed of burn's operations.
pub fn activated<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::Silu => activation::silu(x),
        Activation::GeluTanh => {
            // burn's own takes the power of a negative number, which WGSL does not define.
            let argument = (x.clone().square() * GELU_CUBE + 1.0) * x.clone() * GELU_SLOPE;
            x * activation::sigmoid(argument)
        }
    }
}

/// Returns `x[t] + Σ_j w[j] · x[t − j]` within each sequence of `time` rows: a causal depthwise convolution
/// beside the residual (a Canon layer, arXiv 2512.17351). Inputs before a sequence are 0.
///
/// # Shapes
/// `x` and the result `[batch · time, channels]`, `weight` `[width, channels]`; `w[0]` multiplies the
/// row itself.
pub fn causal_convolution(x: Tensor<2>, weight: Tensor<2>, time: usize) -> Tensor<2> {
    if are_fused(&x.device(), x.dtype()) {
        fused::causal_convolution(x, weight, time)
    } else {
        composed::causal_convolution(x, weight, time)
    }
}

/// `x · tableᵀ`: the logits of hidden states, if `table` is the output matrix or the embedding.
///
/// # Shapes
/// `x` `[rows, width]`, `table` `[vocab, width]`; the result `[rows, vocab]`.
pub fn matmul_transposed(x: Tensor<2>, table: Tensor<2>) -> Tensor<2> {
    if are_fused(&table.device(), table.dtype()) {
        fused::by_table(x, table)
    } else {
        composed::matmul_transposed(x, table)
    }
}

/// ln softmax over the last axis, nats.
///
/// # Shapes
/// `logits` and the result `[…, vocab]`.
#[must_use]
pub fn log_softmax<const D: usize>(logits: Tensor<D>) -> Tensor<D> {
    if are_fused(&logits.device(), logits.dtype()) {
        fused::log_softmax(logits)
    } else {
        composed::log_softmax(logits)
    }
}

/// ln softmax at one target of each position, nats: the logit of the target minus ln Σ exp over the
/// vocabulary. The normalised table `[batch, time, vocab]` is never stored.
///
/// # Shapes
/// `logits` `[batch, time, vocab]`, `targets` `[batch, time]`; the result `[batch, time]`.
#[must_use]
pub fn target_logprobs(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
    let [batch, time, vocab] = logits.dims();
    assert_shape!(targets, [batch, time]);
    if are_fused(&logits.device(), logits.dtype()) {
        let logits = logits.reshape([batch * time, vocab]);
        let targets = targets.reshape([batch * time]);
        fused::target_logprobs(logits, targets).reshape([batch, time])
    } else {
        composed::target_logprobs(logits, targets)
    }
}

/// Widths of an [`attention`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads, which is also the number of value heads. Query heads are a multiple of it.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_width: usize,
}

/// What [`attention`] needs about positions: the rotary tables and the causal mask of one forward
/// pass, in the form that its device uses.
#[derive(Debug, Clone)]
pub struct AttentionPositions(PositionTables);

#[derive(Debug, Clone)]
enum PositionTables {
    /// Cosines and sines, both `[time, head_width]`, and how many tokens a token sees.
    Fused(Arc<[Vec<f32>; 2]>, usize),
    Composed(Box<composed::PositionTensors>),
}

impl AttentionPositions {
    /// Prepares the positions `0..time` of f32 queries and keys on `device`. With a `window`, a token
    /// sees that many tokens, itself included.
    ///
    /// # Shapes
    /// `rotary`: cosines and sines, both `[time, head_width]`.
    #[must_use]
    pub fn new(rotary: [Vec<f32>; 2], window: Option<usize>, time: usize, device: &Device) -> Self {
        let window = window.unwrap_or(time);
        Self(if are_fused(device, DType::F32) {
            PositionTables::Fused(Arc::new(rotary), window)
        } else {
            let tensors = composed::PositionTensors::new(rotary, window, time, device);
            PositionTables::Composed(Box::new(tensors))
        })
    }
}

/// Causal grouped-query attention, softmax(q · k / √head_width) · v, with rotary position embedding
/// (rotate-half) of queries and keys, and the window of `positions`.
///
/// # Shapes
/// `queries` `[batch · time, heads · head_width]`, `keys` and `values`
/// `[batch · time, kv_heads · head_width]`; the result has the shape of `queries`.
pub fn attention(
    [queries, keys, values]: [Tensor<2>; 3],
    shape: AttentionShape,
    positions: &AttentionPositions,
) -> Tensor<2> {
    match &positions.0 {
        PositionTables::Fused(rotary, window) => {
            let heads = Heads {
                batch: shape.batch,
                heads: shape.heads,
                kv_heads: shape.kv_heads,
                width: shape.head_width,
                rotary: rotary.clone(),
                window: *window,
            };
            fused::attention(queries, keys, values, heads)
        }
        PositionTables::Composed(tensors) => {
            composed::attention([queries, keys, values], shape, tensors)
        }
    }
}

/// The operations composed of burn's. burn's own `attention` is not used, because its backward pass
/// holds all scores.
mod composed {
    use super::*;

    pub(super) fn rms_norm<const D: usize>(
        x: Tensor<D>,
        weight: Tensor<1>,
        epsilon: f64,
    ) -> Tensor<D> {
        let mean_square = x.clone().square().mean_dim(D - 1);
        x * (mean_square + epsilon).sqrt().recip() * weight.unsqueeze::<D>()
    }

    pub(super) fn causal_convolution(x: Tensor<2>, weight: Tensor<2>, time: usize) -> Tensor<2> {
        let [rows, channels] = x.dims();
        let sequences = x.clone().reshape([rows / time, time, channels]);
        let mut sum = sequences.clone();
        for tap in 0..weight.dims()[0].min(time) {
            let earlier = sequences.clone().narrow(1, 0, time - tap);
            let shifted = if tap == 0 {
                earlier
            } else {
                let none = Tensor::zeros([rows / time, tap, channels], &x.device());
                Tensor::cat(vec![none, earlier], 1)
            };
            sum = sum + shifted * weight.clone().narrow(0, tap, 1).unsqueeze::<3>();
        }
        sum.reshape([rows, channels])
    }

    pub(super) fn matmul_transposed(x: Tensor<2>, table: Tensor<2>) -> Tensor<2> {
        x.matmul(table.transpose())
    }

    pub(super) fn log_softmax<const D: usize>(logits: Tensor<D>) -> Tensor<D> {
        activation::log_softmax(logits, D - 1)
    }

    pub(super) fn target_logprobs(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
        let maxima = logits.clone().detach().max_dim(2);
        let sums = (logits.clone() - maxima.clone()).exp().sum_dim(2);
        let target_logits = logits.gather(2, targets.unsqueeze_dim(2));
        (target_logits - maxima - sums.log()).squeeze_dim(2)
    }

    /// Rotary tables `[1, 1, time, head_width]`, and how many tokens a token sees.
    #[derive(Debug, Clone)]
    pub(super) struct PositionTensors {
        cosines: Tensor<4>,
        sines: Tensor<4>,
        window: usize,
    }

    impl PositionTensors {
        pub(super) fn new(
            [cosines, sines]: [Vec<f32>; 2],
            window: usize,
            time: usize,
            device: &Device,
        ) -> Self {
            let width = cosines.len() / time;
            Self {
                cosines: tensor(cosines, [1, 1, time, width], device),
                sines: tensor(sines, [1, 1, time, width], device),
                window,
            }
        }

        /// x·cos + rotate_half(x)·sin.
        fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
            let half = x.dims()[3] / 2;
            let rotated = Tensor::cat(
                vec![
                    -x.clone().narrow(3, half, half),
                    x.clone().narrow(3, 0, half),
                ],
                3,
            );
            x * self.cosines.clone() + rotated * self.sines.clone()
        }
    }

    fn tensor(data: Vec<f32>, shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(data, shape), device)
    }

    pub(super) fn attention(
        [queries, keys, values]: [Tensor<2>; 3],
        shape: AttentionShape,
        positions: &PositionTensors,
    ) -> Tensor<2> {
        let AttentionShape {
            heads,
            kv_heads,
            head_width,
            ..
        } = shape;
        let scale = 1.0 / (head_width as f64).sqrt();
        let queries = positions.rotate(split_heads(queries, shape, heads)) * scale;
        let keys = positions.rotate(split_heads(keys, shape, kv_heads));
        let values = split_heads(values, shape, kv_heads);
        let mixed = blockwise::attention([queries, keys, values], positions.window);
        let [batch, _, time, _] = mixed.dims();
        mixed
            .swap_dims(1, 2)
            .reshape([batch * time, heads * head_width])
    }

    /// `[batch · time, heads · head_width]` as `[batch, heads, time, head_width]`.
    fn split_heads(x: Tensor<2>, shape: AttentionShape, heads: usize) -> Tensor<4> {
        let time = x.dims()[0] / shape.batch;
        x.reshape([shape.batch, time, heads, shape.head_width])
            .swap_dims(1, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn norm(numbers: impl Iterator<Item = f32>) -> f64 {
        numbers
            .map(|x| f64::from(x) * f64::from(x))
            .sum::<f64>()
            .sqrt()
    }

    /// |a − b| ≤ 1e-5 |a|, as vectors.
    #[track_caller]
    fn assert_close(what: &str, a: &[f32], b: &[f32]) {
        let difference = a.iter().zip(b).map(|(a, b)| a - b);
        let error = norm(difference) / norm(a.iter().copied()).max(1e-9);
        assert!(
            a.len() == b.len() && error < 1e-5,
            "{what} has the relative error {error}"
        );
    }

    /// The value of an operation, and the gradients of a weighted sum of it by each input.
    fn value_and_gradients<const D: usize, const N: usize>(
        inputs: [Tensor<2>; N],
        operation: impl Fn([Tensor<2>; N]) -> Tensor<D>,
    ) -> (Vec<f32>, [Vec<f32>; N]) {
        let out = operation(inputs.clone());
        let weights = numbers(out.dims(), 77).detach();
        let grads = (out.clone() * weights).sum().backward();
        let gradients = inputs.map(|input| vector(input.grad(&grads).expect("it is in the sum")));
        (vector(out), gradients)
    }

    /// Compares the values and gradients of two ways to compute the same.
    #[track_caller]
    fn assert_same<const D: usize, const N: usize>(
        inputs: impl Fn() -> [Tensor<2>; N],
        composed: impl Fn([Tensor<2>; N]) -> Tensor<D>,
        fused: impl Fn([Tensor<2>; N]) -> Tensor<D>,
    ) {
        let (expected, expected_gradients) = value_and_gradients(inputs(), composed);
        let (found, gradients) = value_and_gradients(inputs(), fused);
        assert_close("the value", &expected, &found);
        for (index, (a, b)) in expected_gradients.iter().zip(&gradients).enumerate() {
            assert_close(&format!("gradient {index}"), a, b);
        }
    }

    #[test]
    fn operations_are_fused_for_f32_on_the_cpu_only() {
        assert!(are_fused(&Device::flex(), DType::F32));
        assert!(!are_fused(&Device::flex(), DType::F64));
        let x = Tensor::<2>::from_data(
            TensorData::new(vec![3.0_f64, 4.0], [1, 2]),
            (&Device::flex(), DType::F64),
        );
        let weight = Tensor::<1>::from_data(
            TensorData::new(vec![1.0_f64, 2.0], [2]),
            (&Device::flex(), DType::F64),
        );
        let y: Vec<f64> = rms_norm(x, weight, 0.0).into_data().iter().collect();
        // 3/√12.5 and 2 · 4/√12.5
        assert!((y[0] - 0.848_528_137).abs() < 1e-6, "{y:?}");
        assert!((y[1] - 2.262_741_700).abs() < 1e-6, "{y:?}");
    }

    #[test]
    fn fused_norms_equal_the_composed_ones() {
        for [rows, width] in [[3, 7], [130, 48]] {
            assert_same(
                || [numbers([rows, width], 1), numbers([1, width], 2)],
                |[x, weight]| composed::rms_norm(x, weight.squeeze_dim(0), 1e-5),
                |[x, weight]| rms_norm(x, weight.squeeze_dim(0), 1e-5),
            );
        }
    }

    #[test]
    fn fused_gated_units_equal_the_composed_ones() {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            assert_same(
                || {
                    [numbers([70, 21], 1) * 4.0, numbers([70, 21], 2)]
                        .map(|x| x.detach().require_grad())
                },
                |[gate, up]| activated(gate, activation) * up,
                |[gate, up]| gated(gate, up, activation),
            );
        }
    }

    /// A sequence longer than the filter, and one that is shorter.
    #[test]
    fn the_fused_convolution_equals_the_composed_one() {
        for (batch, time, width) in [(3, 9, 4), (2, 3, 5), (40, 33, 4)] {
            assert_same(
                || [numbers([batch * time, 24], 1), numbers([width, 24], 2)],
                |[x, weight]| composed::causal_convolution(x, weight, time),
                |[x, weight]| causal_convolution(x, weight, time),
            );
        }
    }

    #[test]
    fn fused_log_softmax_equals_the_composed_one() {
        assert_same(
            || [numbers([67, 37], 1).mul_scalar(9.0).detach().require_grad()],
            |[x]| composed::log_softmax(x),
            |[x]| log_softmax(x),
        );
    }

    /// The composed one is compared with a gather from the whole log-softmax too.
    #[test]
    fn fused_target_logprobs_equal_the_composed_ones() {
        let ids: Vec<i64> = (0..67).map(|row| row * 11 % 37).collect();
        let targets = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 67]), &device());
        let gathered = |[x]: [Tensor<2>; 1]| {
            activation::log_softmax(x, 1)
                .gather(1, targets.clone().swap_dims(0, 1))
                .swap_dims(0, 1)
        };
        let inputs = || [numbers([67, 37], 1).mul_scalar(9.0).detach().require_grad()];
        assert_same(inputs, gathered, |[x]| {
            target_logprobs(x.unsqueeze_dim(0), targets.clone())
        });
        assert_same(inputs, gathered, |[x]| {
            composed::target_logprobs(x.unsqueeze_dim(0), targets.clone())
        });
    }

    #[test]
    fn the_fused_product_with_a_table_equals_the_composed_one() {
        assert_same(
            || [numbers([5, 12], 1), numbers([30, 12], 2)],
            |[x, table]| composed::matmul_transposed(x, table),
            |[x, table]| matmul_transposed(x, table),
        );
    }

    fn rotary_table(time: usize, width: usize, function: fn(f32) -> f32) -> Vec<f32> {
        (0..time * width)
            .map(|at| {
                let frequency = 0.7_f32.powi((at % width % (width / 2)) as i32);
                function(((at / width) as f32) * frequency)
            })
            .collect()
    }

    /// Lengths around a block of queries and a vector of keys, heads that fill vectors and heads that
    /// do not, shared key heads and a key head for each query head, windows of any size.
    #[test]
    fn fused_attention_equals_the_composed_one() {
        for (batch, time, heads, kv_heads, head_width, window) in [
            (2, 2, 2, 1, 6, None),
            (1, 33, 4, 2, 32, None),
            (2, 48, 3, 3, 20, Some(5)),
            (1, 70, 9, 3, 64, Some(70)),
            (2, 130, 2, 1, 16, Some(19)),
        ] {
            let shape = AttentionShape {
                batch,
                heads,
                kv_heads,
                head_width,
            };
            let rotary = [f32::cos, f32::sin].map(|f| rotary_table(time, head_width, f));
            let fused_positions = AttentionPositions::new(rotary.clone(), window, time, &device());
            assert!(matches!(fused_positions.0, PositionTables::Fused(..)));
            let window = window.unwrap_or(time);
            let positions = composed::PositionTensors::new(rotary, window, time, &device());
            assert_same(
                || {
                    [(heads, 1), (kv_heads, 2), (kv_heads, 3)]
                        .map(|(heads, seed)| numbers([batch * time, heads * head_width], seed))
                },
                |inputs| composed::attention(inputs, shape, &positions),
                |inputs| attention(inputs, shape, &fused_positions),
            );
        }
    }
}
