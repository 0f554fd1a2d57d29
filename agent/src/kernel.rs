//! The few dense loops that playing needs, written so that the compiler turns them into the widest vectors of the
//! machine it runs on (dispatch at run time by `pulp`, no unsafe code here).
//!
//! Each output element is one sequential fused-multiply-add chain over the inner axis, whatever the number of rows,
//! so a row's result does not depend on which other rows share its batch.

/// Runs a job compiled for the widest vectors of this machine. The job's `call`, and all it calls, must be
/// `#[inline(always)]`, or the compiler leaves it in the narrow form.
pub(crate) fn widest<J: pulp::NullaryFnOnce>(job: J) -> J::Output {
    pulp::Arch::new().dispatch(job)
}

/// `y = x · w` as a job; see [`matmul`].
pub(crate) struct Matmul<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) w: &'a [f32],
    pub(crate) y: &'a mut [f32],
    pub(crate) inner: usize,
    pub(crate) columns: usize,
}

impl pulp::NullaryFnOnce for Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        matmul(self.x, self.w, self.y, self.inner, self.columns);
    }
}

/// Columns that one inner block keeps in registers.
const COLUMNS: usize = 16;
/// Lanes of a dot product's partial sums.
const LANES: usize = 16;

/// y = x · w, with x `[rows, inner]`, w `[inner, columns]`, y `[rows, columns]`, all row-major; y is overwritten.
///
/// # Panics
/// When a length does not fit the shapes.
#[inline(always)]
pub(crate) fn matmul(x: &[f32], w: &[f32], y: &mut [f32], inner: usize, columns: usize) {
    assert_eq!(w.len(), inner * columns, "weight shape");
    assert_eq!(x.len() / inner * columns, y.len(), "output shape");
    let rows = x.len() / inner;
    let mut row = 0;
    while row + 8 <= rows {
        rows_block::<8>(&x[row * inner..], w, &mut y[row * columns..], inner, columns);
        row += 8;
    }
    while row + 4 <= rows {
        rows_block::<4>(&x[row * inner..], w, &mut y[row * columns..], inner, columns);
        row += 4;
    }
    while row < rows {
        rows_block::<1>(&x[row * inner..], w, &mut y[row * columns..], inner, columns);
        row += 1;
    }
}

#[inline(always)]
fn rows_block<const R: usize>(x: &[f32], w: &[f32], y: &mut [f32], inner: usize, columns: usize) {
    let mut column = 0;
    while column + COLUMNS <= columns {
        let mut sums = [[0.0f32; COLUMNS]; R];
        for k in 0..inner {
            let weights: &[f32; COLUMNS] = w[k * columns + column..][..COLUMNS].try_into().expect("a block's length");
            for r in 0..R {
                let input = x[r * inner + k];
                for c in 0..COLUMNS {
                    sums[r][c] = input.mul_add(weights[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            y[r * columns + column..][..COLUMNS].copy_from_slice(&sums[r]);
        }
        column += COLUMNS;
    }
    for c in column..columns {
        for r in 0..R {
            let mut sum = 0.0f32;
            for k in 0..inner {
                sum = x[r * inner + k].mul_add(w[k * columns + c], sum);
            }
            y[r * columns + c] = sum;
        }
    }
}

/// Σ a·b.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
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
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    let mut total = sums[0];
    while start < length {
        total = a[start].mul_add(b[start], total);
        start += 1;
    }
    total
}

/// Appends `scale · query · key` of every key row to `scores`; a row's head begins at `column`.
#[inline(always)]
pub(crate) fn score(query: &[f32], keys: &[f32], width: usize, column: usize, scale: f32, scores: &mut [f32]) {
    for (row, out) in scores.iter_mut().enumerate() {
        *out = dot(query, &keys[row * width + column..][..query.len()]) * scale;
    }
}

/// `mixed += Σ weight · value` over the value rows; a row's head begins at `column`.
#[inline(always)]
pub(crate) fn mix(weights: &[f32], values: &[f32], width: usize, column: usize, mixed: &mut [f32]) {
    let mut start = 0;
    while start + LANES <= mixed.len() {
        let out: &mut [f32; LANES] = (&mut mixed[start..][..LANES]).try_into().expect("a block's length");
        let mut sums = *out;
        for (row, weight) in weights.iter().enumerate() {
            let value: &[f32; LANES] =
                values[row * width + column + start..][..LANES].try_into().expect("a block's length");
            for lane in 0..LANES {
                sums[lane] = weight.mul_add(value[lane], sums[lane]);
            }
        }
        *out = sums;
        start += LANES;
    }
    for at in start..mixed.len() {
        for (row, weight) in weights.iter().enumerate() {
            mixed[at] = weight.mul_add(values[row * width + column + at], mixed[at]);
        }
    }
}

/// y += x.
#[inline(always)]
pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    for (out, value) in y.iter_mut().zip(x) {
        *out += *value;
    }
}

/// x *= factor.
#[inline(always)]
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        x.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Adds a bias to every row; an empty one is none.
#[inline(always)]
pub(crate) fn add_to_rows(x: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        x.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
    }
}

/// y = x / √(mean(x²) + ε) · weight, row by row (RMSNorm).
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    for row in 0..x.len() / width {
        let (input, output) = (&x[row * width..][..width], &mut y[row * width..][..width]);
        let scale = 1.0 / (dot(input, input) / width as f32 + epsilon).sqrt();
        for at in 0..width {
            output[at] = input[at] * scale * weight[at];
        }
    }
}

/// gate = silu(gate) · up.
#[inline(always)]
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * *up;
    }
}

/// Turns scores into weights that sum to one, in place.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32]) {
    let mut highest = f32::NEG_INFINITY;
    for score in scores.iter() {
        highest = if *score > highest { *score } else { highest };
    }
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    let mut total = 0.0f32;
    for score in scores.iter() {
        total += *score;
    }
    let scale = 1.0 / total;
    for score in scores.iter_mut() {
        *score *= scale;
    }
}

/// eˣ to within 2 ulp where it is a normal number, without a call, so that loops over it become vectors:
/// x = n·ln 2 + r, 2ⁿ put together from its bits, eʳ by its Taylor polynomial (|r| ≤ ½ ln 2, so seven terms leave 1e-8).
/// Adding 1.5·2²³ rounds to a whole number and leaves it in the low bits.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LOW, n.mul_add(-HIGH, x));
    let mut sum = 1.0 / 5040.0;
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = r.mul_add(sum, term);
    }
    sum * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    #[test]
    fn matmul_equals_the_triple_loop() {
        let (rows, inner, columns) = (13, 37, 53);
        let (x, w) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
        let mut y = vec![0.0; rows * columns];
        widest(Matmul { x: &x, w: &w, y: &mut y, inner, columns });
        for r in 0..rows {
            for c in 0..columns {
                let exact: f64 = (0..inner).map(|k| f64::from(x[r * inner + k]) * f64::from(w[k * columns + c])).sum();
                assert!((f64::from(y[r * columns + c]) - exact).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_row_does_not_feel_its_neighbours() {
        let (rows, inner, columns) = (11, 64, 40);
        let (x, w) = (numbers(rows * inner, 3), numbers(inner * columns, 4));
        let mut together = vec![0.0; rows * columns];
        widest(Matmul { x: &x, w: &w, y: &mut together, inner, columns });
        for r in 0..rows {
            let mut alone = vec![0.0; columns];
            widest(Matmul { x: &x[r * inner..][..inner], w: &w, y: &mut alone, inner, columns });
            assert_eq!(alone, together[r * columns..][..columns]);
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
