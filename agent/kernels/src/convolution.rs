//! Short causal convolutions, one filter for each channel (depthwise), beside the residual: a Canon
//! layer (Allen-Zhu, arXiv 2512.17351).
//!
//! ```text
//! y[t] = x[t] + Σ_{j < width} w[j] · x[t − j]     inputs before the first row are 0
//! ```
//!
//! The terms of a row are added in the order of j, so its bits do not depend on where a sequence was
//! cut.

use crate::elementwise::{dispatch, mul_add};

/// Rows of one sequence and a filter.
#[derive(Clone, Copy)]
pub struct Convolution<'a> {
    /// `[rows, channels]`.
    pub x: &'a [f32],
    /// `[width, channels]`; `w[0]` multiplies the row itself.
    pub weight: &'a [f32],
    /// Numbers of a row.
    pub channels: usize,
}

impl Convolution<'_> {
    /// Computes the rows from `first` on; the rows before are only read.
    ///
    /// # Shapes
    /// `y` `[rows − first, channels]`; overwritten.
    pub fn run(self, first: usize, y: &mut [f32]) {
        dispatch(ForwardJob {
            input: self,
            first,
            y,
        });
    }

    /// Adds the gradients, if `gradient` `[rows, channels]` is that of all rows of the result:
    /// `∂x[t] = g[t] + Σ w[j] · g[t + j]`, `∂w[j] = Σ g[t] · x[t − j]`.
    ///
    /// # Shapes
    /// `to_x` `[rows, channels]`, overwritten; `to_weight` `[width, channels]`, added to.
    pub fn gradients(self, gradient: &[f32], to_x: &mut [f32], to_weight: &mut [f32]) {
        dispatch(GradientJob {
            input: self,
            gradient,
            to_x,
            to_weight,
        });
    }
}

struct ForwardJob<'a> {
    input: Convolution<'a>,
    first: usize,
    y: &'a mut [f32],
}

impl pulp::NullaryFnOnce for ForwardJob<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Convolution {
            x,
            weight,
            channels,
        } = self.input;
        for (row, y) in (self.first..).zip(self.y.chunks_exact_mut(channels)) {
            y.copy_from_slice(&x[row * channels..][..channels]);
            for (tap, weight) in weight.chunks_exact(channels).enumerate().take(row + 1) {
                mul_add(y, &x[(row - tap) * channels..][..channels], weight);
            }
        }
    }
}

struct GradientJob<'a> {
    input: Convolution<'a>,
    gradient: &'a [f32],
    to_x: &'a mut [f32],
    to_weight: &'a mut [f32],
}

impl pulp::NullaryFnOnce for GradientJob<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Convolution {
            x,
            weight,
            channels,
        } = self.input;
        self.to_x.copy_from_slice(self.gradient);
        for (row, gradient) in self.gradient.chunks_exact(channels).enumerate() {
            for (tap, weight) in weight.chunks_exact(channels).enumerate().take(row + 1) {
                let from = (row - tap) * channels;
                mul_add(&mut self.to_x[from..][..channels], gradient, weight);
                mul_add(
                    &mut self.to_weight[tap * channels..][..channels],
                    gradient,
                    &x[from..][..channels],
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [f32; 6] = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
    const WEIGHT: [f32; 4] = [0.5, 0.0, 0.25, -1.0];

    fn convolution() -> Convolution<'static> {
        Convolution {
            x: &X,
            weight: &WEIGHT,
            channels: 2,
        }
    }

    /// Two channels, three rows, a filter of width 2, by hand.
    #[test]
    fn rows_are_mixed_with_earlier_rows() {
        let mut y = [0.0; 6];
        convolution().run(0, &mut y);
        assert_eq!(y, [1.5, 10.0, 3.25, 10.0, 5.0, 10.0]);
        let mut last = [0.0; 2];
        convolution().run(2, &mut last);
        assert_eq!(last, y[4..]);
    }

    /// Σ g·y is linear in x and in w, so its derivatives are exact differences.
    #[test]
    fn gradients_are_those_of_the_sum() {
        let gradient = [1.0, 2.0, -1.0, 0.5, 3.0, -2.0];
        let value = |x: &[f32], weight: &[f32]| -> f32 {
            let mut y = [0.0; 6];
            Convolution {
                x,
                weight,
                channels: 2,
            }
            .run(0, &mut y);
            y.iter().zip(&gradient).map(|(y, g)| y * g).sum()
        };
        let mut to_x = [0.0; 6];
        let mut to_weight = [0.0; 4];
        convolution().gradients(&gradient, &mut to_x, &mut to_weight);
        let start = value(&X, &WEIGHT);
        for at in 0..6 {
            let mut x = X;
            x[at] += 1.0;
            assert!((value(&x, &WEIGHT) - start - to_x[at]).abs() < 1e-4, "{at}");
        }
        for at in 0..4 {
            let mut weight = WEIGHT;
            weight[at] += 1.0;
            let found = value(&X, &weight) - start;
            assert!((found - to_weight[at]).abs() < 1e-4, "{at}");
        }
    }
}
