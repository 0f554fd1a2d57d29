//! The heads of a value network: the tensors of its checkpoint beside those of the trunk.
//!
//! ```text
//! value_head.weight      [1, hidden]   V(s) = w · h
//!                        [51, hidden]  V(s) = Σ_b softmax(W h)_b c_b, with c_b the centre of bin b
//! advantage_head.weight  [1, hidden]   A(s, a) = w · h at the last token of a completion; optional
//! ```
//!
//! If there is an advantage head, U(s, a) = V(s) + A(s, a). Otherwise U(s, a) is the output of the
//! value head at the last token of the completion.
//!
//! The bins are those of HL-Gauss (Farebrother et al., arXiv 2403.03950). The range is wider than
//! that of the rewards, which are in [0, 1], so that a target near 0 or 1 has bins on both sides.

use crate::error::AgentError;
use crate::model::config::DecoderConfig;
use crate::model::weights::{ADVANTAGE_HEAD, HostTensor, VALUE_HEAD, Weights};

/// Number of bins of a value head with bins.
pub const VALUE_BINS: usize = 51;

/// The lower end of the first bin and the upper end of the last one, reward units.
pub const VALUE_RANGE: [f64; 2] = [-0.25, 1.25];

/// What the value head computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ValueHeadKind {
    /// The value itself.
    #[default]
    Scalar,
    /// A distribution over [`VALUE_BINS`] bins, whose expected value is the value.
    Bins,
}

impl ValueHeadKind {
    /// Returns the number of rows of the head's tensor.
    #[must_use]
    pub fn rows(self) -> usize {
        match self {
            Self::Scalar => 1,
            Self::Bins => VALUE_BINS,
        }
    }
}

/// The heads of a value network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ValueHeads {
    /// What the value head computes.
    pub value: ValueHeadKind,
    /// Whether there is an advantage head.
    pub has_advantage: bool,
}

impl ValueHeads {
    /// Returns the names of the heads, for people.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let value = match self.value {
            ValueHeadKind::Scalar => "value",
            ValueHeadKind::Bins => "value in 51 bins",
        };
        let advantage = self.has_advantage.then_some("advantage");
        [Some(value), advantage].into_iter().flatten().collect()
    }
}

/// Returns the edges of the bins, `[VALUE_BINS + 1]`, ascending, reward units.
#[must_use]
pub fn bin_edges() -> Vec<f64> {
    let [low, high] = VALUE_RANGE;
    (0..=VALUE_BINS)
        .map(|edge| low + (high - low) * edge as f64 / VALUE_BINS as f64)
        .collect()
}

/// Returns the centres of the bins, `[VALUE_BINS]`, ascending, reward units.
#[must_use]
pub fn bin_centres() -> Vec<f32> {
    bin_edges()
        .windows(2)
        .map(|edges| ((edges[0] + edges[1]) / 2.0) as f32)
        .collect()
}

impl Weights {
    /// Returns which heads the weights of a value network contain.
    ///
    /// # Errors
    /// If there is no value head, or if a head has a shape that none of its kinds has.
    pub fn value_heads(&self, config: &DecoderConfig) -> Result<ValueHeads, AgentError> {
        let binned = [VALUE_BINS, config.hidden_size];
        let value = match self.0.get(VALUE_HEAD) {
            Some(head) if head.shape == binned => ValueHeadKind::Bins,
            _ => ValueHeadKind::Scalar,
        };
        self.get(VALUE_HEAD, &[value.rows(), config.hidden_size])?;
        let has_advantage = self.0.contains_key(ADVANTAGE_HEAD);
        if has_advantage {
            self.get(ADVANTAGE_HEAD, &[1, config.hidden_size])?;
        }
        Ok(ValueHeads {
            value,
            has_advantage,
        })
    }

    /// Returns the same trunk with these heads, all zero. A scalar V is then 0 for every state, a V
    /// with bins is the middle of [`VALUE_RANGE`], and A is 0, so that U = V.
    #[must_use]
    pub fn with_zero_heads(&self, config: &DecoderConfig, heads: ValueHeads) -> Self {
        let mut weights = self.clone();
        weights.0.remove(ADVANTAGE_HEAD);
        let value = zero_head(heads.value.rows(), config);
        weights.0.insert(VALUE_HEAD.into(), value);
        if heads.has_advantage {
            let advantage = zero_head(1, config);
            weights.0.insert(ADVANTAGE_HEAD.into(), advantage);
        }
        weights
    }

    /// Returns the same trunk with a scalar value head of zeros, so that V ≡ 0 before the first
    /// update.
    #[must_use]
    pub fn with_zero_value_head(&self, config: &DecoderConfig) -> Self {
        self.with_zero_heads(config, ValueHeads::default())
    }
}

fn zero_head(rows: usize, config: &DecoderConfig) -> HostTensor {
    HostTensor {
        shape: vec![rows, config.hidden_size],
        data: vec![0.0; rows * config.hidden_size],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod tests {
    use super::*;
    use crate::model::weights::tests::tiny_config;

    /// Every combination of heads.
    pub(crate) fn all_heads() -> [ValueHeads; 4] {
        [
            (ValueHeadKind::Scalar, false),
            (ValueHeadKind::Scalar, true),
            (ValueHeadKind::Bins, false),
            (ValueHeadKind::Bins, true),
        ]
        .map(|(value, has_advantage)| ValueHeads {
            value,
            has_advantage,
        })
    }

    /// Random trunk weights with heads of which no value is 0.
    pub(crate) fn with_some_heads(config: &DecoderConfig, heads: ValueHeads) -> Weights {
        let mut weights = Weights::random(config, 1).with_zero_heads(config, heads);
        for (name, tensor) in &mut weights.0 {
            if [VALUE_HEAD, ADVANTAGE_HEAD].contains(&name.as_str()) {
                let shift = name.len() as f32;
                for (index, w) in tensor.data.iter_mut().enumerate() {
                    *w = (index as f32 + shift).sin();
                }
            }
        }
        weights
    }

    #[test]
    fn the_weights_record_their_heads() {
        let config = tiny_config();
        for heads in all_heads() {
            let weights = Weights::random(&config, 1).with_zero_heads(&config, heads);
            assert_eq!(weights.value_heads(&config).unwrap(), heads);
            let plain = weights.with_zero_value_head(&config);
            assert_eq!(plain.value_heads(&config).unwrap(), ValueHeads::default());
        }
        let both = all_heads()[3];
        assert_eq!(both.names(), ["value in 51 bins", "advantage"]);
        assert_eq!(ValueHeads::default().names(), ["value"]);
    }

    #[test]
    fn a_missing_head_and_one_of_another_shape_are_refused() {
        let config = tiny_config();
        let error = Weights::random(&config, 1).value_heads(&config);
        assert!(error.unwrap_err().to_string().contains("is missing"));
        for name in [VALUE_HEAD, ADVANTAGE_HEAD] {
            let mut weights = Weights::random(&config, 1).with_zero_heads(&config, all_heads()[1]);
            weights.0.get_mut(name).unwrap().shape = vec![2, config.hidden_size / 2];
            let error = weights.value_heads(&config).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("expected [1, "),
                "{error}"
            );
        }
    }

    /// 51 bins of 1.5/51 each. The middle one has its centre at 0.5.
    #[test]
    fn the_bins_divide_the_range() {
        let edges = bin_edges();
        assert_eq!((edges[0], edges[51]), (-0.25, 1.25));
        let centres = bin_centres();
        assert_eq!(centres.len(), VALUE_BINS);
        assert!((centres[25] - 0.5).abs() < 1e-6);
        assert!((centres[0] + 0.25 - 0.75 / 51.0).abs() < 1e-6);
    }
}
