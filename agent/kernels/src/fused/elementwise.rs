//! Row loops of the fused operations and of their gradients, compiled for the widest vectors.
//!
//! In the equations, g is the gradient of the result, and ∂x that of an input x.

use crate::elementwise::{
    Activation, dispatch, dot, exp, gated, gelu_argument, gelu_slope, log_sum_exp, total,
};

/// out = activation(gate) · up.
pub(super) fn gated_block(gate: &[f32], up: &[f32], out: &mut [f32], activation: Activation) {
    dispatch(GatedJob {
        gate,
        up,
        out,
        activation,
    });
}

/// Rows of an RMSNorm and their gradients.
pub(super) struct RmsNormGradient<'a> {
    /// `[rows, width]`.
    pub(super) x: &'a [f32],
    /// `[rows, width]`.
    pub(super) gradient: &'a [f32],
    /// `[width]`.
    pub(super) weight: &'a [f32],
    pub(super) epsilon: f32,
    /// ∂x, `[rows, width]`; overwritten.
    pub(super) to_x: &'a mut [f32],
    /// ∂w, `[width]`; added to.
    pub(super) to_weight: &'a mut [f32],
}

impl RmsNormGradient<'_> {
    /// With s = 1/√(mean(x²) + ε) and h = g·w: ∂x = s·h − x · s³ · mean(h·x), ∂w = Σ g · s·x.
    pub(super) fn run(self) {
        dispatch(self);
    }
}

/// Numbers of a gated linear unit and their gradients, all of one length.
pub(super) struct GatedGradient<'a> {
    pub(super) activation: Activation,
    pub(super) gate: &'a [f32],
    pub(super) up: &'a [f32],
    pub(super) gradient: &'a [f32],
    /// ∂gate; overwritten.
    pub(super) to_gate: &'a mut [f32],
    /// ∂up; overwritten.
    pub(super) to_up: &'a mut [f32],
}

impl GatedGradient<'_> {
    /// With σ = 1/(1 + e^−a(gate)): ∂up = g · gate·σ, ∂gate = g · up · σ · (1 + gate·a′(gate)·(1 − σ)).
    pub(super) fn run(self) {
        dispatch(self);
    }
}

/// Rows of a log-softmax and their gradients, all `[rows, width]`.
pub(super) struct LogSoftmaxGradient<'a> {
    pub(super) logprobs: &'a [f32],
    pub(super) gradient: &'a [f32],
    /// ∂logits; overwritten.
    pub(super) to_logits: &'a mut [f32],
    pub(super) width: usize,
}

impl LogSoftmaxGradient<'_> {
    /// ∂x = g − softmax(x) · Σg.
    pub(super) fn run(self) {
        dispatch(self);
    }
}

/// ln Σ exp of each row: `logits` `[rows, width]`, `normalizers` `[rows]`; overwritten.
pub(super) fn log_normalizers(logits: &[f32], width: usize, normalizers: &mut [f32]) {
    dispatch(NormalizersJob {
        logits,
        width,
        normalizers,
    });
}

/// One row of logits whose log-softmax is read at a target.
pub(super) struct TargetGradient<'a> {
    /// `[vocab]`.
    pub(super) logits: &'a [f32],
    /// ln Σ exp of the logits.
    pub(super) normalizer: f32,
    /// Of the target's log-probability.
    pub(super) gradient: f32,
    /// `[vocab]`; overwritten.
    pub(super) to_logits: &'a mut [f32],
}

impl TargetGradient<'_> {
    /// ∂x = −g · softmax(x). The caller adds g at the target.
    pub(super) fn run(self) {
        dispatch(self);
    }
}

struct GatedJob<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
    activation: Activation,
}

impl pulp::NullaryFnOnce for GatedJob<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        gated(self.gate, self.up, self.out, self.activation);
    }
}

impl pulp::NullaryFnOnce for RmsNormGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.weight.len();
        let weight = &self.weight[..width];
        let to_weight = &mut self.to_weight[..width];
        let rows = self
            .x
            .chunks_exact(width)
            .zip(self.gradient.chunks_exact(width))
            .zip(self.to_x.chunks_exact_mut(width));
        for ((x, gradient), to_x) in rows {
            let scale = 1.0 / (dot(x, x) / width as f32 + self.epsilon).sqrt();
            for at in 0..width {
                to_x[at] = gradient[at] * weight[at];
                to_weight[at] += gradient[at] * x[at] * scale;
            }
            let back = scale * scale * scale * (dot(to_x, x) / width as f32);
            for at in 0..width {
                to_x[at] = to_x[at] * scale - x[at] * back;
            }
        }
    }
}

impl pulp::NullaryFnOnce for GatedGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let length = self.to_gate.len();
        let gate = &self.gate[..length];
        let up = &self.up[..length];
        let gradient = &self.gradient[..length];
        let to_up = &mut self.to_up[..length];
        match self.activation {
            Activation::Silu => {
                for (at, to_gate) in self.to_gate.iter_mut().enumerate() {
                    let sigmoid = 1.0 / (1.0 + exp(-gate[at]));
                    to_up[at] = gradient[at] * gate[at] * sigmoid;
                    *to_gate = gradient[at] * up[at] * sigmoid * (1.0 + gate[at] * (1.0 - sigmoid));
                }
            }
            Activation::GeluTanh => {
                for (at, to_gate) in self.to_gate.iter_mut().enumerate() {
                    let sigmoid = 1.0 / (1.0 + exp(-gelu_argument(gate[at])));
                    let change = gate[at] * gelu_slope(gate[at]) * (1.0 - sigmoid);
                    to_up[at] = gradient[at] * gate[at] * sigmoid;
                    *to_gate = gradient[at] * up[at] * sigmoid * (1.0 + change);
                }
            }
        }
    }
}

impl pulp::NullaryFnOnce for LogSoftmaxGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.width;
        let rows = self
            .logprobs
            .chunks_exact(width)
            .zip(self.gradient.chunks_exact(width))
            .zip(self.to_logits.chunks_exact_mut(width));
        for ((logprobs, gradient), to_logits) in rows {
            let total = total(gradient);
            for at in 0..width {
                to_logits[at] = gradient[at] - exp(logprobs[at]) * total;
            }
        }
    }
}

struct NormalizersJob<'a> {
    logits: &'a [f32],
    width: usize,
    normalizers: &'a mut [f32],
}

impl pulp::NullaryFnOnce for NormalizersJob<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (row, normalizer) in self.logits.chunks_exact(self.width).zip(self.normalizers) {
            *normalizer = log_sum_exp(row);
        }
    }
}

impl pulp::NullaryFnOnce for TargetGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, logit) in self.to_logits.iter_mut().zip(self.logits) {
            *out = -self.gradient * exp(logit - self.normalizer);
        }
    }
}
