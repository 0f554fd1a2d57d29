//! The rotary phases with which a head attends to the previous token, whatever the tokens are.
//!
//! If query and key are constant before the rotation, the score depends on the distance Δ alone.
//! With an amplitude a_f ≥ 0 and a phase −θ_f for each frequency θ_f,
//!
//! ```text
//! score(Δ) = Σ_f a_f cos(θ_f (Δ − 1))
//! ```
//!
//! which is highest at Δ = 1. The amplitudes decide how much lower it is elsewhere. They maximise
//! the attention on Δ = 1 among all distances of the context, which is the logarithm of a convex
//! function of them, by exponentiated gradient steps.

/// The attention that the previous token must get at the end of the longest context.
const SHARE: f64 = 0.95;

/// The first and the largest scale Σ a_f that are tried, and the factor between two of them.
const SCALES: [f64; 2] = [12.0, 64.0];
const SCALE_FACTOR: f64 = 1.25;

/// Gradient steps, and the size of the first.
const STEPS: usize = 60;
const FIRST_STEP: f64 = 2.0;

/// The amplitudes of a head that attends to the previous token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PreviousTokenScore {
    /// a_f, in the order of the frequencies, as attention logits.
    pub(super) amplitudes: Vec<f64>,
    /// The attention on the previous token at the end of the longest context.
    pub(super) share: f64,
}

impl PreviousTokenScore {
    /// Returns the amplitudes with the smallest scale that gives the previous token 95 % of the
    /// attention in a context of `context` tokens; `None` if no scale does.
    ///
    /// # Shapes
    /// `frequencies` `[head width / 2]`, radians per position.
    pub(super) fn new(frequencies: &[f64], context: usize) -> Option<Self> {
        let cosines: Vec<Vec<f64>> = (0..context)
            .filter(|distance| *distance != 1)
            .map(|distance| cosines(frequencies, distance))
            .collect();
        let mut scale = SCALES[0];
        while scale <= SCALES[1] {
            let (share, weights) = best_weights(&cosines, frequencies.len(), scale);
            if share >= SHARE {
                let amplitudes = weights.into_iter().map(|weight| scale * weight).collect();
                return Some(Self { amplitudes, share });
            }
            scale *= SCALE_FACTOR;
        }
        None
    }
}

/// cos(θ_f (Δ − 1)) of all frequencies.
fn cosines(frequencies: &[f64], distance: usize) -> Vec<f64> {
    let steps = distance as f64 - 1.0;
    frequencies.iter().map(|f| (f * steps).cos()).collect()
}

/// The attention on the previous token, and the weights of the frequencies, with sum 1, that make it
/// largest. `cosines` has a row for every other distance.
fn best_weights(cosines: &[Vec<f64>], frequencies: usize, scale: f64) -> (f64, Vec<f64>) {
    let mut weights = vec![1.0 / frequencies as f64; frequencies];
    let mut best = (f64::INFINITY, weights.clone());
    for step in 0..STEPS {
        // Σ exp(score(Δ) − score(1)) over the other distances, and its gradient over the scale.
        let mut others = 0.0;
        let mut gradient = vec![0.0; frequencies];
        for row in cosines {
            let score: f64 = row.iter().zip(&weights).map(|(c, w)| c * w).sum();
            let odds = (scale * (score - 1.0)).exp();
            others += odds;
            for (sum, cosine) in gradient.iter_mut().zip(row) {
                *sum += odds * cosine;
            }
        }
        if others < best.0 {
            best = (others, weights.clone());
        }
        let size = FIRST_STEP / (1.0 + step as f64 / 20.0);
        for (weight, slope) in weights.iter_mut().zip(gradient) {
            *weight *= (-size * slope / others.max(f64::MIN_POSITIVE)).exp();
        }
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    (1.0 / (1.0 + best.0), best.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rope::RopeScaling;

    fn frequencies(width: usize) -> Vec<f64> {
        RopeScaling::None.frequencies(width, 10_000.0).0
    }

    /// The softmax of score(Δ) over the distances of a context, computed anew.
    fn attention(amplitudes: &[f64], frequencies: &[f64], context: usize) -> Vec<f64> {
        let odds: Vec<f64> = (0..context)
            .map(|distance| cosines(frequencies, distance))
            .map(|row| row.iter().zip(amplitudes).map(|(c, a)| c * a).sum::<f64>())
            .map(f64::exp)
            .collect();
        let sum: f64 = odds.iter().sum();
        odds.into_iter().map(|odds| odds / sum).collect()
    }

    #[test]
    fn the_previous_token_gets_the_attention() {
        for (width, context) in [(32, 1024), (16, 256)] {
            let frequencies = frequencies(width);
            let score = PreviousTokenScore::new(&frequencies, context).expect("is found");
            assert!(score.amplitudes.iter().all(|a| *a >= 0.0));
            let attention = attention(&score.amplitudes, &frequencies, context);
            assert!((attention[1] - score.share).abs() < 1e-9);
            assert!(score.share >= SHARE && score.share < 1.0);
            let strongest = attention
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.total_cmp(b.1));
            assert_eq!(strongest.map(|(distance, _)| distance), Some(1));
        }
    }

    /// If the amplitudes were equal, the same scale would give less.
    #[test]
    fn the_search_improves_on_equal_amplitudes() {
        let frequencies = frequencies(32);
        let score = PreviousTokenScore::new(&frequencies, 512).expect("is found");
        let scale: f64 = score.amplitudes.iter().sum();
        let equal = attention(&[scale / 16.0; 16], &frequencies, 512);
        assert!(
            equal[1] < score.share - 0.05,
            "{} {}",
            equal[1],
            score.share
        );
    }

    /// One frequency of one radian: Δ − 1 = 44 is almost seven turns.
    #[test]
    fn one_frequency_is_not_enough() {
        assert_eq!(PreviousTokenScore::new(&[1.0], 256), None);
    }
}
