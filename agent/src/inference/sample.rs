//! Sampling of a token: temperature, top-k, top-p and min-p, in this order, as transformers and vLLM
//! apply them. The input is log-probabilities, and the output is a token.

use kernels::elementwise;
use rayon::prelude::*;
use scenarios::Protocol;
use std::cmp::Ordering;

/// Numbers in the log-probabilities of several draws from which they are made on all threads.
const MIN_PARALLEL_LOGPROBS: usize = 1 << 16;

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

/// A draw that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct DrawRequest {
    /// The row of hidden states or log-probabilities.
    pub row: usize,
    /// A random number from [0, 1) that selects the token. A greedy draw ignores it.
    pub uniform: f64,
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// ln of its probability in the policy, nats.
    pub logprob: f32,
    /// ln of its probability in the distribution that it was drawn from, nats; 0 if the draw was
    /// greedy.
    pub sampling_logprob: f32,
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

    /// Whether the most probable token is taken.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }

    /// Whether some tokens cannot be drawn.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Draws a token for each request.
    ///
    /// # Shapes
    /// `logprobs` `[rows, vocab]`.
    pub(super) fn draw_all(
        &self,
        logprobs: &[f32],
        vocab: usize,
        requests: &[DrawRequest],
    ) -> Vec<Drawn> {
        let draw = |request: &DrawRequest| {
            self.draw(&logprobs[request.row * vocab..][..vocab], request.uniform)
        };
        if requests.len() * vocab >= MIN_PARALLEL_LOGPROBS {
            requests.par_iter().map(draw).collect()
        } else {
            requests.iter().map(draw).collect()
        }
    }

    /// Draws the token that a random number from [0, 1) selects. If tokens have equal probability,
    /// those with a lower id come first.
    ///
    /// # Shapes
    /// `logprobs` `[vocab]`.
    #[must_use]
    pub fn draw(&self, logprobs: &[f32], uniform: f64) -> Drawn {
        let (token, sampling_logprob) = if self.is_greedy() {
            (first_highest(logprobs), 0.0)
        } else {
            let mut weights = Vec::new();
            elementwise::tempered(logprobs, self.temperature, &mut weights);
            if self.is_filtered() {
                let kept = self.kept(&weights);
                drawn(
                    kept.into_iter().map(|id| (id, weights[id as usize])),
                    uniform,
                )
            } else {
                drawn((0..).zip(weights.iter().copied()), uniform)
            }
        };
        Drawn {
            token,
            logprob: logprobs[token as usize],
            sampling_logprob,
        }
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

/// Draws one of the tokens by weight; returns it with ln of its share. If a weight is 0, its token is
/// never drawn.
fn drawn(weights: impl Iterator<Item = (u32, f32)> + Clone, uniform: f64) -> (u32, f32) {
    let total: f64 = weights.clone().map(|(_, weight)| f64::from(weight)).sum();
    let mut left = uniform * total;
    let mut last = (0, 0.0);
    for (token, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
        last = (token, (f64::from(weight) / total).ln() as f32);
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
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    const PROBABILITIES: [f32; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

    /// The frequency of each token in 20 000 draws, and its logprob.
    fn frequencies(sampling: Sampling) -> Vec<(f64, Option<f32>)> {
        let logprobs = PROBABILITIES.map(f32::ln);
        let mut rng = StdRng::seed_from_u64(5);
        let mut found = vec![(0.0, None); 5];
        for _ in 0..20_000 {
            let drawn = sampling.draw(&logprobs, rng.random());
            assert_eq!(drawn.logprob, logprobs[drawn.token as usize]);
            let (count, known) = &mut found[drawn.token as usize];
            *count += 1.0 / 20_000.0;
            assert_eq!(
                *known.get_or_insert(drawn.sampling_logprob),
                drawn.sampling_logprob
            );
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
        let first = Sampling {
            top_k: 1,
            ..Sampling::UNTEMPERED
        };
        for sampling in [Sampling::GREEDY, first] {
            assert_eq!(
                sampling.draw(&[-2.0, -1.0, -1.0], 0.7),
                Drawn {
                    token: 1,
                    logprob: -1.0,
                    sampling_logprob: 0.0
                }
            );
        }
    }
}
