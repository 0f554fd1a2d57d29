//! Sampling of a token: temperature, top-k, top-p and min-p, in this order, as transformers and vLLM
//! apply them. The input is log-probabilities, and the output is a token.

use kernels::elementwise;
use rand::{RngExt, rngs::StdRng};
use scenarios::Protocol;
use std::cmp::Ordering;

/// The settings by which a token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it. If it is 0, the most probable token is taken.
    pub temperature: f32,
    /// Draw among this many most probable tokens; 0 = all.
    pub top_k: usize,
    /// Draw among the fewest most probable tokens that together have at least this probability; 1 = all.
    pub top_p: f32,
    /// Draw among tokens with at least this share of the highest probability; 0 = all.
    pub min_p: f32,
}

/// A token, and ln of its probability in the distribution that it was drawn from, nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// 0 if the draw was greedy.
    pub logprob: f32,
}

impl Sampling {
    /// Draws from the policy itself.
    pub const UNTEMPERED: Self = Self {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };
    /// Takes the most probable token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        ..Self::UNTEMPERED
    };

    /// The settings of a protocol.
    #[must_use]
    pub fn of(protocol: &Protocol) -> Self {
        let Protocol {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = *protocol;
        Self {
            temperature,
            top_k,
            top_p,
            min_p,
        }
    }

    /// Whether draws follow the policy itself, without a filter or a temperature.
    #[must_use]
    pub fn is_untempered(&self) -> bool {
        *self == Self::UNTEMPERED
    }

    /// Draws a token. If tokens have equal probability, those with a lower id come first.
    ///
    /// # Shapes
    /// `logprobs` `[vocab]`.
    pub fn draw(&self, logprobs: &[f32], rng: &mut StdRng) -> Drawn {
        if self.temperature <= 0.0 {
            return Drawn {
                token: first_highest(logprobs),
                logprob: 0.0,
            };
        }
        let mut weights = Vec::new();
        elementwise::tempered(logprobs, self.temperature, &mut weights);
        let is_filtered = self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0;
        if is_filtered {
            let kept = self.kept(&weights);
            return drawn(kept.into_iter().map(|id| (id, weights[id as usize])), rng);
        }
        drawn((0..).zip(weights.iter().copied()), rng)
    }

    /// The tokens that pass every filter, the most probable first. The highest weight is 1.
    fn kept(&self, weights: &[f32]) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..)
            .zip(weights)
            .filter(|(_, w)| **w >= self.min_p)
            .map(|(id, _)| id)
            .collect();
        if self.top_k > 0 && self.top_k < ids.len() {
            ids.select_nth_unstable_by(self.top_k - 1, |a, b| by_weight(weights, *a, *b));
            ids.truncate(self.top_k);
        }
        ids.sort_unstable_by(|a, b| by_weight(weights, *a, *b));
        if self.top_p < 1.0 {
            // The share is of the tokens that top-k kept, before min-p.
            let enough = f64::from(self.top_p) * self.top_k_total(weights);
            let mut before = 0.0;
            let count = ids
                .iter()
                .take_while(|id| {
                    let is_needed = before < enough;
                    before += f64::from(weights[**id as usize]);
                    is_needed
                })
                .count();
            ids.truncate(count.max(1));
        }
        ids
    }

    /// The total weight of the top-k tokens.
    fn top_k_total(&self, weights: &[f32]) -> f64 {
        if self.top_k == 0 || self.top_k >= weights.len() {
            return weights.iter().copied().map(f64::from).sum();
        }
        let mut all = weights.to_vec();
        all.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a));
        all[..self.top_k].iter().copied().map(f64::from).sum()
    }
}

/// The id of the highest log-probability; the lowest id if several are equal.
fn first_highest(logprobs: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logprob) in logprobs.iter().enumerate() {
        if *logprob > logprobs[best] {
            best = id;
        }
    }
    best as u32
}

/// Orders tokens by descending weight, then by id.
fn by_weight(weights: &[f32], a: u32, b: u32) -> Ordering {
    weights[b as usize]
        .total_cmp(&weights[a as usize])
        .then(a.cmp(&b))
}

/// Draws one of the tokens by weight. If a weight is 0, its token is never drawn.
fn drawn(weights: impl Iterator<Item = (u32, f32)> + Clone, rng: &mut StdRng) -> Drawn {
    let total: f64 = weights.clone().map(|(_, weight)| f64::from(weight)).sum();
    let mut left = rng.random::<f64>() * total;
    let mut last = Drawn {
        token: 0,
        logprob: 0.0,
    };
    for (token, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
        last = Drawn {
            token,
            logprob: (f64::from(weight) / total).ln() as f32,
        };
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const PROBABILITIES: [f32; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

    /// The frequency of each token in 20 000 draws, and its logprob.
    fn frequencies(sampling: Sampling) -> Vec<(f64, Option<f32>)> {
        let logprobs = PROBABILITIES.map(f32::ln);
        let mut rng = StdRng::seed_from_u64(5);
        let mut found = vec![(0.0, None); 5];
        for _ in 0..20_000 {
            let Drawn { token, logprob } = sampling.draw(&logprobs, &mut rng);
            let (count, known) = &mut found[token as usize];
            *count += 1.0 / 20_000.0;
            assert_eq!(*known.get_or_insert(logprob), logprob);
        }
        found
    }

    #[track_caller]
    fn assert_follows(sampling: Sampling, expected: [f64; 5]) {
        for ((frequency, logprob), expected) in frequencies(sampling).into_iter().zip(expected) {
            assert!(
                (frequency - expected).abs() < 0.012,
                "{frequency} for {expected}"
            );
            assert_eq!(logprob.is_some(), expected > 0.0);
            assert!(logprob.is_none_or(|l| (f64::from(l).exp() - expected).abs() < 1e-6));
        }
    }

    /// 0.4 + 0.25 + 0.2 = 0.85; at temperature ½ the squares: 0.01, 0.16, 0.0025, 0.0625, 0.04 of 0.275.
    #[test]
    fn draws_follow_the_filtered_probabilities() {
        let plain = Sampling::UNTEMPERED;
        assert_follows(plain, [0.1, 0.4, 0.05, 0.25, 0.2]);
        assert_follows(
            Sampling { top_k: 2, ..plain },
            [0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0],
        );
        let three = [0.0, 0.4 / 0.85, 0.0, 0.25 / 0.85, 0.2 / 0.85];
        assert_follows(
            Sampling {
                top_p: 0.7,
                ..plain
            },
            three,
        );
        assert_follows(
            Sampling {
                top_p: 0.84,
                ..plain
            },
            three,
        );
        assert_follows(
            Sampling {
                min_p: 0.45,
                ..plain
            },
            three,
        );
        assert_follows(
            Sampling {
                top_p: 0.01,
                ..plain
            },
            [0.0, 1.0, 0.0, 0.0, 0.0],
        );
        let squares = [0.01, 0.16, 0.0025, 0.0625, 0.04].map(|square| square / 0.275);
        assert_follows(
            Sampling {
                temperature: 0.5,
                ..plain
            },
            squares,
        );
        // Top-p is a share of what top-k kept: 0.4 of 0.65 is 62 %.
        assert_follows(
            Sampling {
                top_k: 2,
                top_p: 0.6,
                ..plain
            },
            [0.0, 1.0, 0.0, 0.0, 0.0],
        );
        // It is applied before min-p: 0.4 + 0.25 of 1 is less than 0.7, but more than 0.7 of 0.85.
        assert_follows(
            Sampling {
                min_p: 0.45,
                top_p: 0.7,
                ..plain
            },
            three,
        );
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equal_tokens() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(
            Sampling::GREEDY.draw(&[-2.0, -1.0, -1.0], &mut rng),
            Drawn {
                token: 1,
                logprob: 0.0
            }
        );
        let first = Sampling {
            top_k: 1,
            ..Sampling::UNTEMPERED
        };
        assert_eq!(
            first.draw(&[-2.0, -1.0, -1.0], &mut rng),
            Drawn {
                token: 1,
                logprob: 0.0
            }
        );
    }
}
