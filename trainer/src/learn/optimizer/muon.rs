//! The update of Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"),
//! with the scale of Moonlight (arXiv 2502.16982).
//!
//! ```text
//! M ← μ M + G                                    G clipped, μ = 0.95
//! O = NS(G + μ M)                                Nesterov
//! θ ← θ − rate·( 0.2 √max(rows, columns) · O + decay·θ )
//! ```
//!
//! NS makes all singular values about 1: X is divided by its Frobenius norm, then five times
//! X ← a X + (b X Xᵀ + c (X Xᵀ)²) X. A tall matrix is transposed first. The root mean square of the
//! update is then about 0.2, as with AdamW, so the learning rate of AdamW can be kept.

use crate::learn::parameters::Values;
use burn::tensor::{Device, Tensor, TensorData};

/// μ, the decay of the momentum.
const MOMENTUM: f32 = 0.95;
/// a, b and c of a Newton-Schulz step.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.775, 2.0315];
const NEWTON_SCHULZ_STEPS: usize = 5;
/// The root mean square of an update over the learning rate.
const UPDATE_SIZE: f32 = 0.2;

/// The numbers of one update that all matrices share.
#[derive(Clone, Copy)]
pub(super) struct MuonStep {
    /// Factor of the gradient: the clip.
    pub(super) scale: f32,
    /// The learning rate.
    pub(super) rate: f32,
    /// The weight decay.
    pub(super) decay: f32,
}

impl MuonStep {
    /// Updates a matrix `[rows, columns]` and its momentum. An empty momentum is zero.
    pub(super) fn apply(
        self,
        values: &mut [f32],
        gradient: &[f32],
        momentum: &mut Vec<f32>,
        shape: [usize; 2],
    ) {
        momentum.resize(values.len(), 0.0);
        let mut direction = Vec::with_capacity(values.len());
        for (m, raw) in momentum.iter_mut().zip(gradient) {
            let g = raw * self.scale;
            *m = MOMENTUM * *m + g;
            direction.push(g + MOMENTUM * *m);
        }
        let size = UPDATE_SIZE * (shape[0].max(shape[1]) as f32).sqrt();
        let orthogonal = orthogonalised(direction, shape);
        for (value, o) in values.iter_mut().zip(orthogonal) {
            *value -= self.rate * (size * o + self.decay * *value);
        }
    }
}

impl MuonStep {
    /// The same update as operations on tensors.
    pub(super) fn apply_on_device(
        self,
        values: &mut Tensor<1>,
        gradient: &Tensor<1>,
        momentum: &mut Values,
        shape: [usize; 2],
    ) {
        let g = gradient.clone() * self.scale;
        let m = momentum.take_on_device(values) * MOMENTUM + g.clone();
        let direction = (g + m.clone() * MOMENTUM).reshape(shape);
        let length = direction.clone().square().sum().sqrt() + 1e-7;
        let orthogonal = with_equal_singular_values(direction / length.reshape([1, 1]));
        let size = UPDATE_SIZE * (shape[0].max(shape[1]) as f32).sqrt();
        let moves = orthogonal.reshape([shape[0] * shape[1]]) * size + values.clone() * self.decay;
        *values = values.clone() - moves * self.rate;
        *momentum = Values::of(m);
    }
}

/// Returns a matrix with the same singular vectors and with singular values of about 1.
fn orthogonalised(mut matrix: Vec<f32>, [rows, columns]: [usize; 2]) -> Vec<f32> {
    let squares: f64 = matrix.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let factor = 1.0 / (squares.sqrt() + 1e-7);
    for value in &mut matrix {
        *value = (f64::from(*value) * factor) as f32;
    }
    let x = Tensor::<2>::from_data(TensorData::new(matrix, [rows, columns]), &Device::flex());
    let x = with_equal_singular_values(x);
    x.into_data().try_to_vec().expect("the tensor is f32")
}

/// The Newton-Schulz steps, for a matrix whose singular values are at most 1.
fn with_equal_singular_values(x: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    let is_tall = rows > columns;
    let mut x = if is_tall { x.transpose() } else { x };
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..NEWTON_SCHULZ_STEPS {
        let gram = x.clone().matmul(x.clone().transpose());
        let polynomial = gram.clone() * b + gram.clone().matmul(gram) * c;
        x = x.clone() * a + polynomial.matmul(x);
    }
    if is_tall { x.transpose() } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Newton-Schulz step of one singular value, five times.
    fn of_singular_value(mut x: f64) -> f64 {
        for _ in 0..5 {
            x = 3.4445 * x - 4.775 * x.powi(3) + 2.0315 * x.powi(5);
        }
        x
    }

    /// The singular values of a matrix with two rows, from trace and determinant of X Xᵀ.
    fn singular_values([first, second]: [&[f32]; 2]) -> [f64; 2] {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        let [p, q, r] = [dot(first, first), dot(second, second), dot(first, second)];
        let root = ((p - q).powi(2) / 4.0 + r * r).sqrt();
        [(p + q) / 2.0 - root, (p + q) / 2.0 + root].map(f64::sqrt)
    }

    #[test]
    fn the_singular_values_become_about_one() {
        for seed in 0..20 {
            let wide: Vec<f32> = (0..10)
                .map(|i| ((i * 7 + seed * 13) as f32 * 1.7).sin() * 50.0)
                .collect();
            let [before, after] = [wide.clone(), orthogonalised(wide.clone(), [2, 5])]
                .map(|matrix| singular_values([&matrix[..5], &matrix[5..]]));
            assert!(before[0] > 1.0, "{before:?}");
            assert!(
                after.iter().all(|value| (0.6..1.3).contains(value)),
                "{after:?}"
            );
            // A tall matrix gives the transposed result.
            let tall = agent::model::weights::transposed(&wide, 2, 5);
            let result = agent::model::weights::transposed(&orthogonalised(tall, [5, 2]), 5, 2);
            for (a, b) in result.iter().zip(orthogonalised(wide, [2, 5])) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
        assert_eq!(orthogonalised(vec![0.0; 6], [2, 3]), [0.0; 6]);
    }

    /// The gradient diag(3, 4) has norm 5, so its singular values are 0.6 and 0.8 before the five
    /// steps. Momentum scales both alike. Rate 0.5, decay 0.1, weights of 2.
    #[test]
    fn one_update_by_hand() {
        let step = MuonStep {
            scale: 0.25,
            rate: 0.5,
            decay: 0.1,
        };
        let mut values = [2.0; 4];
        let mut momentum = Vec::new();
        step.apply(&mut values, &[3.0, 0.0, 0.0, 4.0], &mut momentum, [2, 2]);
        assert_eq!(momentum, [0.75, 0.0, 0.0, 1.0]);
        assert_eq!([values[1], values[2]], [1.9, 1.9]);
        for (value, singular) in [(values[0], 0.6), (values[3], 0.8)] {
            let expected = 2.0 - 0.5 * (0.2 * 2f64.sqrt() * of_singular_value(singular) + 0.2);
            assert!(
                (f64::from(value) - expected).abs() < 1e-5,
                "{value} {expected}"
            );
        }
        // The second update: M = 0.95·0.75 + 0.75 and so on; the direction is again diag(3, 4).
        step.apply(&mut values, &[3.0, 0.0, 0.0, 4.0], &mut momentum, [2, 2]);
        assert_eq!(momentum, [1.4625, 0.0, 0.0, 1.95]);
    }
}
