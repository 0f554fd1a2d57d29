//! The small loops that playing needs beside the products of [`crate::matrix`], written so that the compiler turns them
//! into the widest vectors of the machine it runs on (dispatch at run time by `pulp`, no unsafe code here). Each works
//! on one row, so a row's result does not depend on which other rows share its batch.

/// Runs a job compiled for the widest vectors of this machine. The job's `call`, and all it calls, must be
/// `#[inline(always)]`, or the compiler leaves it in the narrow form.
pub fn widest<J: pulp::NullaryFnOnce>(job: J) -> J::Output {
    pulp::Arch::new().dispatch(job)
}

/// Lanes of a dot product's partial sums.
const LANES: usize = 16;

/// Σ a·b.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let mut sums = [0.0f32; LANES];
    let mut start = 0;
    while start + LANES <= length {
        let x: &[f32; LANES] = a[start..][..LANES].try_into().expect("a block's length");
        let y: &[f32; LANES] = b[start..][..LANES].try_into().expect("a block's length");
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

/// y += x.
#[inline(always)]
pub fn add(y: &mut [f32], x: &[f32]) {
    for (out, value) in y.iter_mut().zip(x) {
        *out += *value;
    }
}

/// x *= factor.
#[inline(always)]
pub fn scale(x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        x.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Adds a bias to every row; an empty one is none.
#[inline(always)]
pub fn add_to_rows(x: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        x.chunks_exact_mut(bias.len())
            .for_each(|row| add(row, bias));
    }
}

/// y = x / √(mean(x²) + ε) · weight, row by row (RMSNorm).
#[inline(always)]
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    for row in 0..x.len() / width {
        let (input, output) = (&x[row * width..][..width], &mut y[row * width..][..width]);
        let scale = 1.0 / (dot(input, input) / width as f32 + epsilon).sqrt();
        for at in 0..width {
            output[at] = input[at] * scale * weight[at];
        }
    }
}

/// out = silu(gate) · up, where each row of `gate_up` is a gate and an up side by side.
#[inline(always)]
pub fn swiglu(gate_up: &[f32], out: &mut [f32], width: usize) {
    for (both, out) in gate_up
        .chunks_exact(2 * width)
        .zip(out.chunks_exact_mut(width))
    {
        let (gate, up) = both.split_at(width);
        for at in 0..width {
            out[at] = gate[at] / (1.0 + exp(-gate[at])) * up[at];
        }
    }
}

/// Turns scores into weights that sum to one, in place.
#[inline(always)]
pub fn softmax(scores: &mut [f32]) {
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

/// The greatest of some numbers.
#[inline(always)]
pub fn highest(numbers: &[f32]) -> f32 {
    let (blocks, rest) = numbers.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for lane in 0..LANES {
            most[lane] = if block[lane] > most[lane] {
                block[lane]
            } else {
                most[lane]
            };
        }
    }
    let greater = |a: f32, b: &f32| if *b > a { *b } else { a };
    most.iter().chain(rest).fold(f32::NEG_INFINITY, greater)
}

/// The sum of some numbers.
#[inline(always)]
pub fn total(numbers: &[f32]) -> f32 {
    let (blocks, rest) = numbers.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += block[lane];
        }
    }
    rest.iter().fold(sum(sums), |total, number| total + number)
}

/// The sum of a block, in a tree.
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

/// Logits of one row to ln softmax(scale · logits), nats. The sum is in f32 over short stretches, in f64 over those.
#[inline(always)]
pub fn log_softmax(row: &mut [f32], scale: f32) {
    self::scale(row, scale);
    let highest = highest(row);
    let normalizer = highest + sum_of_exp(row, highest).ln() as f32;
    for logit in row.iter_mut() {
        *logit -= normalizer;
    }
}

/// Σ exp(x − highest).
#[inline(always)]
pub fn sum_of_exp(row: &[f32], highest: f32) -> f64 {
    let mut total = 0.0;
    for stretch in row.chunks(64 * LANES) {
        let (blocks, rest) = stretch.as_chunks::<LANES>();
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

/// `out` = exp((logprobs − highest) / temperature), all in one stretch of vectors.
pub struct Tempered<'a> {
    pub logprobs: &'a [f32],
    pub temperature: f32,
    pub out: &'a mut Vec<f32>,
}

impl pulp::NullaryFnOnce for Tempered<'_> {
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

/// eˣ to within 2 ulp where it is a normal number, without a call, so that loops over it become vectors:
/// x = n·ln 2 + r, 2ⁿ put together from its bits, eʳ by its Taylor polynomial (|r| ≤ ½ ln 2, so seven terms leave 1e-8).
/// Adding 1.5·2²³ rounds to a whole number and leaves it in the low bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
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
        log_softmax(&mut row, 0.5);
        for (found, logit) in row.iter().zip(&logits) {
            assert!((f64::from(*found) - (f64::from(*logit) * 0.5 - total.ln())).abs() < 3e-6);
        }
    }

    #[test]
    fn swiglu_takes_gate_and_up_side_by_side() {
        let mut out = [0.0; 2];
        swiglu(&[0.0, 1.0, 5.0, 2.0], &mut out, 2);
        assert_eq!(out[0], 0.0);
        assert!((out[1] - 2.0 / (1.0 + (-1.0_f32).exp())).abs() < 1e-6);
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
