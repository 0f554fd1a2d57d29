//! The update of AdamW (Loshchilov & Hutter, arXiv 1711.05101).
//!
//! On the CPU an update is one pass over host vectors, which is several times faster than a chain of
//! tensor operations. On a device it is that chain, and only its scalars come from the host.

use crate::learn::parameters::{PIECE, Values};
use burn::tensor::Tensor;
use rayon::prelude::*;

const EPSILON: f32 = 1e-8;

/// The numbers of one update that all parameters share.
#[derive(Clone, Copy)]
pub(super) struct AdamStep {
    /// Factor of the gradient: the clip.
    pub(super) scale: f32,
    /// The learning rate.
    pub(super) rate: f32,
    /// β₁ and β₂.
    pub(super) betas: [f32; 2],
    /// 1 − β^t of both moments, after t updates.
    pub(super) corrections: [f32; 2],
}

impl AdamStep {
    /// θ ← θ − rate·( m̂ / (√v̂ + ε) + decay·θ )
    pub(super) fn apply(
        self,
        values: &mut [f32],
        gradient: &[f32],
        [first, second]: [&mut Vec<f32>; 2],
        decay: f32,
    ) {
        let [beta1, beta2] = self.betas;
        let [correction1, correction2] = self.corrections.map(f32::recip);
        let values = values.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE));
        let moments = first
            .par_chunks_mut(PIECE)
            .zip(second.par_chunks_mut(PIECE));
        values
            .zip(moments)
            .for_each(|((values, gradient), (first, second))| {
                for (((value, raw), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second)
                {
                    let g = raw * self.scale;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    let move_by =
                        *m * correction1 / ((*v * correction2).sqrt() + EPSILON) + decay * *value;
                    *value -= self.rate * move_by;
                }
            });
    }
}

impl AdamStep {
    /// The same update as operations on tensors.
    pub(super) fn apply_on_device(
        self,
        values: &mut Tensor<1>,
        gradient: &Tensor<1>,
        [first, second]: &mut [Values; 2],
        decay: f32,
    ) {
        let [beta1, beta2] = self.betas;
        let [correction1, correction2] = self.corrections.map(f32::recip);
        let g = gradient.clone() * self.scale;
        let m = first.take_on_device(values) * beta1 + g.clone() * (1.0 - beta1);
        let v = second.take_on_device(values) * beta2 + g.square() * (1.0 - beta2);
        let root = (v.clone() * correction2).sqrt() + EPSILON;
        let move_by = m.clone() * correction1 / root + values.clone() * decay;
        *values = values.clone() - move_by * self.rate;
        *first = Values::of(m);
        *second = Values::of(v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_gradient_is_scaled_to_the_clip() {
        let mut moments = [vec![0.0], vec![0.0]];
        let step = AdamStep {
            scale: 0.01,
            rate: 0.0,
            betas: [0.0, 0.0],
            corrections: [1.0, 1.0],
        };
        step.apply(&mut [0.0], &[200.0], moments.each_mut(), 0.0);
        assert_eq!(moments, [vec![2.0], vec![4.0]]);
    }
}
