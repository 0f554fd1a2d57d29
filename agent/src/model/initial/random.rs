//! Random initial weights.

use crate::model::config::DecoderConfig;
use crate::model::reading::config::GOAL_MATCH;
use crate::model::weights::{HostTensor, Weights};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// Standard deviation of embeddings and of an output matrix of its own.
pub const EMBEDDING_DEVIATION: f64 = 0.02;

/// The exponent γ of [`Weights::random`].
pub const USUAL_EXPONENT: f64 = 0.5;

impl Weights {
    /// Returns new trunk weights, drawn from the seed.
    ///
    /// Matrices are normal with σ = 1/√inputs. The two matrices that write into the residual stream
    /// are zero, so that every layer starts as the identity, and the first updates see a token's
    /// own embedding. Embeddings have σ = 0.02, norms are ones, and biases are zero. The filter of a
    /// convolution is uniform in ±1/√width, as in PyTorch.
    #[must_use]
    pub fn random(config: &DecoderConfig, seed: u64) -> Self {
        Self::random_with_exponent(config, USUAL_EXPONENT, seed)
    }

    /// Returns the same weights, but the matrices of the layers have σ = inputs^(−γ).
    ///
    /// γ = 0.5 is [`Weights::random`], to the bit. If γ is larger, the initial weights are smaller.
    /// Small transformers with small initial weights learn more composition and less memorisation
    /// (arXiv 2405.05409).
    #[must_use]
    pub fn random_with_exponent(config: &DecoderConfig, exponent: f64, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut weights = Self::default();
        for (name, shape) in config.tensors() {
            let mut data = initial_values(&name, &shape, exponent, &mut rng);
            if name.ends_with("norm.weight") {
                data.iter_mut()
                    .for_each(|weight| *weight -= config.norm_offset());
            }
            weights.0.insert(name, HostTensor { shape, data });
        }
        weights
    }
}

/// The first values of a parameter; see [`Weights::random_with_exponent`].
fn initial_values(name: &str, shape: &[usize], exponent: f64, rng: &mut impl Rng) -> Vec<f32> {
    let size = shape.iter().product();
    if name.ends_with(".bias") {
        return vec![0.0; size];
    }
    let [_, inputs] = shape else {
        return vec![1.0; size];
    };
    if name.ends_with("conv.weight") {
        let bound = 1.0 / (shape[0] as f32).sqrt();
        return (0..size)
            .map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound)
            .collect();
    }
    let deviation = match name {
        "model.embed_tokens.weight" | "lm_head.weight" | GOAL_MATCH => EMBEDDING_DEVIATION as f32,
        name if name.ends_with(".none") => 0.0,
        name if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => 0.0,
        name if name.starts_with("model.layers.") && exponent != USUAL_EXPONENT => {
            (*inputs as f64).powf(-exponent) as f32
        }
        _ => 1.0 / (*inputs as f32).sqrt(),
    };
    (0..size).map(|_| normal(rng) * deviation).collect()
}

/// A standard normal number (Box–Muller).
pub(super) fn normal(rng: &mut impl Rng) -> f32 {
    let u: f32 = rng.random();
    let v: f32 = rng.random();
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::tests::{tiny_config, tiny_reading_config};

    fn deviation(weights: &Weights, name: &str) -> f64 {
        let data = &weights.0[name].data;
        let squares: f64 = data.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
        (squares / data.len() as f64).sqrt()
    }

    /// The hash was recorded before the exponent existed.
    #[test]
    fn the_usual_weights_stay_as_they_are() {
        let weights = Weights::random(&tiny_config(), 7);
        assert_eq!(weights.hash(), "1d8a57771cb0f7c3");
        assert_eq!(
            Weights::random(&tiny_reading_config(), 7).hash(),
            "2110c0b5e1f9b492"
        );
        assert_eq!(
            Weights::random_with_exponent(&tiny_config(), 0.5, 7),
            weights
        );
    }

    /// The same draws, with σ = 24^(−0.8) instead of 24^(−0.5) in the layers. Everything else stays.
    #[test]
    fn a_larger_exponent_makes_the_matrices_of_the_layers_smaller() {
        let config = tiny_reading_config();
        let usual = Weights::random(&config, 7);
        let small = Weights::random_with_exponent(&config, 0.8, 7);
        let factor = 24f64.powf(-0.3);
        for name in usual.0.keys() {
            let [a, b] = [&usual, &small].map(|weights| deviation(weights, name));
            let is_matrix = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
                .iter()
                .any(|part| name.contains(part));
            if is_matrix {
                assert!((b / a / factor - 1.0).abs() < 1e-5, "{name}: {a} {b}");
                assert!((b / 24f64.powf(-0.8) - 1.0).abs() < 0.2, "{name}: {b}");
            } else {
                assert_eq!(small.0[name], usual.0[name], "{name}");
            }
        }
    }
}
