//! Loops over rows that a decoder needs besides matrix products.
//!
//! The compiler vectorises them for the widest vectors of the machine; [`dispatch`] selects them at
//! run time through `pulp`. Each loop works on one row, so a row's result does not depend on which
//! other rows share its batch.

/// Runs a job that is compiled for the widest vectors of this machine.
///
/// The job's `call` and every function that it calls must be `#[inline(always)]`. If one is not, the
/// compiler compiles it for the baseline instruction set.
pub fn dispatch<J: pulp::NullaryFnOnce>(job: J) -> J::Output {
    pulp::Arch::new().dispatch(job)
}

/// y = x / √(mean(x²) + ε) · weight, row by row (RMSNorm, Zhang & Sennrich, arXiv 1910.07467).
///
/// # Shapes
/// `x` and `y` `[rows, width]`, `weight` `[width]`.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    dispatch(RmsNormJob {
        x,
        weight,
        epsilon,
        y,
    });
}

/// The activation of a gated linear unit (Shazeer, arXiv 2002.05202). Both are x · σ(a(x)) with the logistic function σ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activation {
    /// a(x) = x.
    #[default]
    Silu,
    /// The approximation of GELU by tanh (arXiv 1606.08415): a(x) = √(8/π) · (x + 0.044715 x³).
    GeluTanh,
}

/// √(8/π).
pub(crate) const GELU_SLOPE: f32 = 1.595_769;
pub(crate) const GELU_CUBE: f32 = 0.044_715;

/// a(x) of [`Activation::GeluTanh`].
#[inline(always)]
pub(crate) fn gelu_argument(x: f32) -> f32 {
    GELU_SLOPE * x * (1.0 + GELU_CUBE * x * x)
}

/// a′(x) of [`Activation::GeluTanh`].
#[inline(always)]
pub(crate) fn gelu_slope(x: f32) -> f32 {
    GELU_SLOPE * (1.0 + 3.0 * GELU_CUBE * x * x)
}

/// out = activation(gate) · up, row by row.
///
/// # Shapes
/// `gate_up` `[rows, 2 · width]`, the gate before the up projection; `out` `[rows, width]`.
pub fn gated_rows(gate_up: &[f32], out: &mut [f32], width: usize, activation: Activation) {
    dispatch(GatedRowsJob {
        gate_up,
        out,
        width,
        activation,
    });
}

/// Replaces logits by ln softmax(scale · logits), nats, row by row.
///
/// # Shapes
/// `rows` `[rows, width]`.
pub fn log_softmax(rows: &mut [f32], width: usize, scale: f32) {
    dispatch(LogSoftmaxJob { rows, width, scale });
}

/// Replaces `out` by exp((logprobs − highest) / temperature).
///
/// # Shapes
/// `logprobs` and `out` `[vocab]`.
pub fn tempered(logprobs: &[f32], temperature: f32, out: &mut Vec<f32>) {
    dispatch(TemperedJob {
        logprobs,
        temperature,
        out,
    });
}

/// y += x.
#[inline(always)]
pub fn add(y: &mut [f32], x: &[f32]) {
    for (out, value) in y.iter_mut().zip(x) {
        *out += *value;
    }
}

/// y += x · w, by element.
#[inline(always)]
pub(crate) fn mul_add(y: &mut [f32], x: &[f32], w: &[f32]) {
    let width = y.len();
    let x = &x[..width];
    let w = &w[..width];
    for at in 0..width {
        y[at] = x[at].mul_add(w[at], y[at]);
    }
}

/// x *= factor.
#[inline(always)]
pub fn scale(x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        x.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Adds a bias to every row. If `bias` is empty, nothing is added.
#[inline(always)]
pub fn add_to_rows(x: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        x.chunks_exact_mut(bias.len())
            .for_each(|row| add(row, bias));
    }
}

struct RmsNormJob<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
}

impl pulp::NullaryFnOnce for RmsNormJob<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let weight = self.weight;
        let width = weight.len();
        for row in 0..self.x.len() / width {
            let input = &self.x[row * width..][..width];
            let output = &mut self.y[row * width..][..width];
            let scale = 1.0 / (dot(input, input) / width as f32 + self.epsilon).sqrt();
            for at in 0..width {
                output[at] = input[at] * scale * weight[at];
            }
        }
    }
}

struct GatedRowsJob<'a> {
    gate_up: &'a [f32],
    out: &'a mut [f32],
    width: usize,
    activation: Activation,
}

impl pulp::NullaryFnOnce for GatedRowsJob<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self
            .gate_up
            .chunks_exact(2 * self.width)
            .zip(self.out.chunks_exact_mut(self.width));
        for (gate_up, out) in rows {
            let (gate, up) = gate_up.split_at(self.width);
            gated(gate, up, out, self.activation);
        }
    }
}

/// out = activation(gate) · up.
#[inline(always)]
pub(crate) fn gated(gate: &[f32], up: &[f32], out: &mut [f32], activation: Activation) {
    let width = out.len();
    let gate = &gate[..width];
    let up = &up[..width];
    match activation {
        Activation::Silu => {
            for at in 0..width {
                out[at] = gate[at] / (1.0 + exp(-gate[at])) * up[at];
            }
        }
        Activation::GeluTanh => {
            for at in 0..width {
                out[at] = gate[at] / (1.0 + exp(-gelu_argument(gate[at]))) * up[at];
            }
        }
    }
}

struct LogSoftmaxJob<'a> {
    rows: &'a mut [f32],
    width: usize,
    scale: f32,
}

impl pulp::NullaryFnOnce for LogSoftmaxJob<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.rows.chunks_exact_mut(self.width) {
            scale(row, self.scale);
            let normalizer = log_sum_exp(row);
            for logit in row.iter_mut() {
                *logit -= normalizer;
            }
        }
    }
}

struct TemperedJob<'a> {
    logprobs: &'a [f32],
    temperature: f32,
    out: &'a mut Vec<f32>,
}

impl pulp::NullaryFnOnce for TemperedJob<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let highest = highest(self.logprobs);
        let inverse = 1.0 / self.temperature;
        self.out.clear();
        self.out.resize(self.logprobs.len(), 0.0);
        for (out, logprob) in self.out.iter_mut().zip(self.logprobs) {
            *out = exp((logprob - highest) * inverse);
        }
    }
}

/// Partial sums of a reduction.
const LANES: usize = 16;

/// Σ a·b.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let mut sums = [0.0f32; LANES];
    let mut start = 0;
    while start + LANES <= length {
        let x: &[f32; LANES] = a[start..][..LANES].try_into().expect("LANES numbers");
        let y: &[f32; LANES] = b[start..][..LANES].try_into().expect("LANES numbers");
        for lane in 0..LANES {
            sums[lane] = x[lane].mul_add(y[lane], sums[lane]);
        }
        start += LANES;
    }
    let mut total = sum(sums);
    while start < length {
        total = a[start].mul_add(b[start], total);
        start += 1;
    }
    total
}

/// Replaces scores by their softmax.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32]) {
    let highest = highest(scores);
    let (blocks, rest) = scores.as_chunks_mut::<LANES>();
    let mut sums = [0.0f32; LANES];
    for block in blocks {
        for lane in 0..LANES {
            block[lane] = exp(block[lane] - highest);
            sums[lane] += block[lane];
        }
    }
    let mut total = sum(sums);
    for score in rest {
        *score = exp(*score - highest);
        total += *score;
    }
    let scale = 1.0 / total;
    for score in scores.iter_mut() {
        *score *= scale;
    }
}

/// The greatest number.
#[inline(always)]
pub(crate) fn highest(numbers: &[f32]) -> f32 {
    let (blocks, rest) = numbers.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for lane in 0..LANES {
            most[lane] = greater(most[lane], &block[lane]);
        }
    }
    most.iter().chain(rest).fold(f32::NEG_INFINITY, greater)
}

/// The greater of two numbers; `a` if they are equal or one is NaN.
#[inline(always)]
fn greater(a: f32, b: &f32) -> f32 {
    if *b > a { *b } else { a }
}

/// The sum of some numbers.
#[inline(always)]
pub(crate) fn total(numbers: &[f32]) -> f32 {
    let (blocks, rest) = numbers.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += block[lane];
        }
    }
    rest.iter().fold(sum(sums), |total, number| total + number)
}

/// The sum of a block, added as a binary tree.
#[inline(always)]
fn sum(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// ln Σ exp(x).
#[inline(always)]
pub(crate) fn log_sum_exp(row: &[f32]) -> f32 {
    let highest = highest(row);
    highest + sum_of_exp(row, highest).ln() as f32
}

/// Σ exp(x − highest). The sum is in f32 within blocks of 1024 numbers and in f64 over the blocks.
#[inline(always)]
fn sum_of_exp(row: &[f32], highest: f32) -> f64 {
    let mut total = 0.0;
    for block in row.chunks(64 * LANES) {
        let (blocks, rest) = block.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for block in blocks {
            for lane in 0..LANES {
                sums[lane] += exp(block[lane] - highest);
            }
        }
        let rest = rest.iter().map(|x| exp(x - highest));
        total += sums.into_iter().chain(rest).map(f64::from).sum::<f64>();
    }
    total
}

/// eˣ to within 2 ulp if the result is a normal number. There is no function call, so that loops over
/// it can be vectorised.
///
/// x = n·ln 2 + r. 2ⁿ is assembled from its bits, and eʳ is a Taylor polynomial; because
/// |r| ≤ ½ ln 2, seven terms leave an error of 1e-8. If 1.5·2²³ is added to a number, the sum is
/// rounded to an integer, which is in the low bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LOW, n.mul_add(-HIGH, x));
    let mut sum = 1.0 / 5040.0;
    for term in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = r.mul_add(sum, term);
    }
    sum * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_equals_the_sum_in_f64() {
        let logits: Vec<f32> = (0..2500).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
        let total: f64 = logits
            .iter()
            .map(|logit| (f64::from(*logit) * 0.5).exp())
            .sum();
        let mut row = logits.clone();
        log_softmax(&mut row, logits.len(), 0.5);
        for (found, logit) in row.iter().zip(&logits) {
            assert!((f64::from(*found) - (f64::from(*logit) * 0.5 - total.ln())).abs() < 3e-6);
        }
    }

    #[test]
    fn the_gate_is_before_the_up_projection() {
        let mut out = [0.0; 2];
        gated_rows(&[0.0, 1.0, 5.0, 2.0], &mut out, 2, Activation::Silu);
        assert_eq!(out[0], 0.0);
        assert!((out[1] - 2.0 / (1.0 + (-1.0_f32).exp())).abs() < 1e-6);
    }

    #[test]
    fn gelu_is_its_formula_with_tanh() {
        for step in -60..60 {
            let x = f64::from(step) / 10.0;
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let expected = 0.5 * x * (1.0 + inner.tanh());
            let mut out = [0.0];
            gated_rows(&[x as f32, 1.0], &mut out, 1, Activation::GeluTanh);
            assert!((f64::from(out[0]) - expected).abs() < 1e-6, "gelu({x})");
        }
    }

    #[test]
    fn exp_is_exact_to_the_last_bits() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2.5e-7, "exp({x})");
        }
    }

    #[test]
    fn softmax_of_equal_scores_is_uniform() {
        let mut scores = [3.0, 3.0, 3.0, 3.0];
        softmax(&mut scores);
        assert_eq!(scores, [0.25; 4]);
    }
}
