//! Rotary position embedding (Su et al., arXiv 2104.09864) and the scalings that checkpoints use.
//!
//! At position p, the pair (x_d, x_{d + width/2}) of a head is rotated by the angle p · f_d, with
//! f_d = θ^(−2d/width). A scaling changes the frequencies f. Some kinds also change the length of
//! the rotated vectors. Names and rules are those of Hugging Face's `rope_scaling`. This module
//! does not depend on tensors.

use serde_json::{Map, Value};
use std::f64::consts::TAU;

/// How the frequencies are changed for contexts longer than those of pre-training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// No change. Also Hugging Face's `dynamic`, which changes nothing within
    /// `max_position_embeddings`.
    None,
    /// f / factor (Chen et al., arXiv 2306.15595).
    Linear {
        /// The divisor, above 0.
        factor: f64,
    },
    /// Low frequencies are divided, high ones are kept, with a ramp between (Llama 3.1).
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// If a wavelength is above `original / low`, its frequency is low.
        low: f64,
        /// If a wavelength is below `original / high`, its frequency is high.
        high: f64,
        /// Context of pre-training, tokens.
        original: f64,
    },
    /// The same, decided by the rotations within the context, and with longer vectors (Peng et al.,
    /// arXiv 2309.00071).
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Context of pre-training, tokens.
        original: f64,
        /// If a frequency makes more rotations than this, it is kept.
        beta_fast: f64,
        /// If a frequency makes fewer rotations than this, it is divided.
        beta_slow: f64,
        /// Factor of cosines and sines.
        attention: f64,
    },
    /// One divisor for each frequency (Ding et al., arXiv 2402.13753). Only the divisors for short
    /// contexts are used.
    LongRope {
        /// The divisors, `[width / 2]`.
        short: Vec<f64>,
        /// Context for which the short divisors are made, tokens. Longer contexts are not offered.
        original: f64,
        /// Factor of cosines and sines.
        attention: f64,
    },
}

impl RopeScaling {
    /// Reads `rope_scaling` (in transformers 5: `rope_parameters`) of a model with a context of
    /// `context` tokens.
    ///
    /// # Errors
    /// If a key is missing or out of range, or if the kind is unknown.
    pub fn from_hugging_face(keys: &Map<String, Value>, context: usize) -> Result<Self, String> {
        let kind = keys
            .get("rope_type")
            .or_else(|| keys.get("type"))
            .and_then(Value::as_str)
            .unwrap_or("default");
        let keys = RopeKeys {
            kind,
            keys,
            context,
        };
        match kind {
            "dynamic" if keys.keys.contains_key("alpha") => Err(
                "rope_scaling of type \"dynamic\" with alpha, as in Hunyuan models, is not supported".into(),
            ),
            "default" | "dynamic" => Ok(Self::None),
            "linear" => Ok(Self::Linear {
                factor: keys.required("factor")?,
            }),
            "llama3" => keys.llama3(),
            "yarn" => keys.yarn(),
            "longrope" | "su" => keys.longrope(),
            other => Err(format!(
                "rope_scaling of type {other:?} is not known; known: default, linear, dynamic, llama3, yarn, longrope"
            )),
        }
    }

    /// Returns the frequencies of a head of that width, `[width / 2]`, in radians per position, and
    /// the factor of the rotated vectors.
    #[must_use]
    pub fn frequencies(&self, width: usize, theta: f64) -> (Vec<f64>, f64) {
        let plain = (0..width / 2).map(|d| theta.powf(-2.0 * d as f64 / width as f64));
        match self {
            Self::None => (plain.collect(), 1.0),
            Self::Linear { factor } => (plain.map(|f| f / factor).collect(), 1.0),
            Self::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let scaled = plain.map(|f| {
                    let rotations = original * f / TAU;
                    let kept = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                    f * (kept + (1.0 - kept) / factor)
                });
                (scaled.collect(), 1.0)
            }
            Self::Yarn {
                factor,
                original,
                beta_fast,
                beta_slow,
                attention,
            } => {
                // The index d at which a frequency makes `beta` rotations within the original
                // context.
                let [fast, slow] = [beta_fast, beta_slow]
                    .map(|beta| width as f64 * (original / (beta * TAU)).ln() / (2.0 * theta.ln()));
                let first = fast.floor().max(0.0);
                let last = slow.ceil().min(width as f64 - 1.0);
                let span = if first == last { 0.001 } else { last - first };
                let scaled = plain.enumerate().map(|(d, f)| {
                    let divided = ((d as f64 - first) / span).clamp(0.0, 1.0);
                    f * (1.0 - divided + divided / factor)
                });
                (scaled.collect(), *attention)
            }
            Self::LongRope {
                short, attention, ..
            } => {
                let scaled = plain
                    .enumerate()
                    .map(|(d, f)| f / short.get(d).unwrap_or(&1.0));
                (scaled.collect(), *attention)
            }
        }
    }
}

/// The rotary embedding of a layer, and a factor of its attention scores.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryEmbedding {
    /// Numbers of a head.
    pub width: usize,
    /// Numbers that are rotated: the first `rotated / 2` of each half of a head. The other numbers keep
    /// their values.
    pub rotated: usize,
    /// θ.
    pub theta: f64,
    /// The change of the frequencies.
    pub scaling: RopeScaling,
    /// Factor of the attention scores. Queries and keys are both multiplied by its root.
    pub scores: f64,
}

impl RotaryEmbedding {
    /// Returns cosines and sines of the first `time` positions, `[time, width]` each. Both halves of a
    /// head have the same values.
    #[must_use]
    pub fn table(&self, time: usize) -> [Vec<f32>; 2] {
        self.half_table(time).map(|numbers| {
            let rows = numbers.chunks_exact(self.width / 2);
            rows.flat_map(|half| [half, half])
                .flatten()
                .copied()
                .collect()
        })
    }

    /// Returns the first half of each row of [`RotaryEmbedding::table`], `[time, width / 2]`.
    #[must_use]
    pub fn half_table(&self, time: usize) -> [Vec<f32>; 2] {
        let half = self.width / 2;
        let pairs = self.rotated / 2;
        let (frequencies, length) = match pairs {
            0 => (Vec::new(), 1.0),
            _ => self.scaling.frequencies(self.rotated, self.theta),
        };
        let root = self.scores.sqrt();
        let length = length * root;
        let mut tables = [(); 2].map(|()| Vec::with_capacity(time * half));
        for position in 0..time {
            for pair in 0..half {
                let (cosine, sine) = match frequencies.get(pair) {
                    Some(frequency) => {
                        let angle = position as f64 * frequency;
                        (angle.cos() * length, angle.sin() * length)
                    }
                    None => (root, 0.0),
                };
                tables[0].push(cosine as f32);
                tables[1].push(sine as f32);
            }
        }
        tables
    }
}

/// The keys of `rope_scaling`.
struct RopeKeys<'a> {
    kind: &'a str,
    keys: &'a Map<String, Value>,
    /// The context of the model, tokens.
    context: usize,
}

impl RopeKeys<'_> {
    fn llama3(&self) -> Result<RopeScaling, String> {
        let low = self.required("low_freq_factor")?;
        let high = self.required("high_freq_factor")?;
        if low >= high {
            return Err(format!(
                "rope_scaling: low_freq_factor {low} must be below high_freq_factor {high}"
            ));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.required("factor")?,
            low,
            high,
            original: self.original_context()?,
        })
    }

    fn yarn(&self) -> Result<RopeScaling, String> {
        if self.keys.get("truncate") == Some(&Value::Bool(false)) {
            return Err(
                "rope_scaling of type \"yarn\": truncate is false, which is not supported".into(),
            );
        }
        let factor = self.required("factor")?;
        let attention = match (
            self.optional("attention_factor")?,
            self.optional("mscale")?,
            self.optional("mscale_all_dim")?,
        ) {
            (Some(attention), ..) => attention,
            (None, Some(one), Some(all)) => yarn_length(one, factor) / yarn_length(all, factor),
            _ => yarn_length(1.0, factor),
        };
        let beta_fast = self.optional("beta_fast")?.unwrap_or(32.0);
        let beta_slow = self.optional("beta_slow")?.unwrap_or(1.0);
        Ok(RopeScaling::Yarn {
            factor,
            original: self.original_context()?,
            beta_fast,
            beta_slow,
            attention,
        })
    }

    fn longrope(&self) -> Result<RopeScaling, String> {
        let original = self.original_context()?;
        let factor = self
            .optional("factor")?
            .unwrap_or(self.context as f64 / original);
        let length = if factor <= 1.0 {
            1.0
        } else {
            (1.0 + factor.ln() / original.ln()).sqrt()
        };
        let short = self.keys.get("short_factor").and_then(Value::as_array);
        let short = short.ok_or("rope_scaling of type \"longrope\" lacks short_factor")?;
        let short: Option<Vec<f64>> = short
            .iter()
            .map(|v| v.as_f64().filter(|f| *f > 0.0))
            .collect();
        let short = short.ok_or("rope_scaling: short_factor must be numbers above 0")?;
        Ok(RopeScaling::LongRope {
            short,
            original,
            attention: self.optional("attention_factor")?.unwrap_or(length),
        })
    }

    /// The context of pre-training; the context of the model if the file does not contain it.
    fn original_context(&self) -> Result<f64, String> {
        let context = self.optional("original_max_position_embeddings")?;
        Ok(context.unwrap_or(self.context as f64))
    }

    fn required(&self, key: &str) -> Result<f64, String> {
        self.optional(key)?
            .ok_or_else(|| format!("rope_scaling of type {:?} lacks {key}", self.kind))
    }

    /// The number of a key; `None` if it is missing or null.
    fn optional(&self, key: &str) -> Result<Option<f64>, String> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(format!(
                    "rope_scaling: {key} is {value}, and must be a number above 0"
                )),
            },
        }
    }
}

/// The factor of the vectors' length for a context that is `factor` times as long (YaRN).
fn yarn_length(scale: f64, factor: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * scale * factor.ln() + 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<RopeScaling, String> {
        RopeScaling::from_hugging_face(value.as_object().expect("an object"), 4096)
    }

    #[track_caller]
    fn assert_close(found: Vec<f64>, expected: [f64; 2]) {
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(f, e)| (f / e - 1.0).abs() < 1e-12),
            "{found:?} {expected:?}"
        );
    }

    /// θ = 10⁴, width 4: f = 1 and 1/100.
    #[test]
    fn frequencies_by_hand() {
        assert_close(RopeScaling::None.frequencies(4, 1e4).0, [1.0, 0.01]);
        let linear = RopeScaling::Linear { factor: 4.0 };
        assert_close(linear.frequencies(4, 1e4).0, [0.25, 0.0025]);
        // Within 2π·100 positions the second frequency makes one rotation. With low = 1 it is fully
        // divided, and with high = 4 the first is kept.
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: TAU * 100.0,
        };
        assert_close(llama3.frequencies(4, 1e4).0, [1.0, 0.01 / 8.0]);
        let long = RopeScaling::LongRope {
            short: vec![1.0, 2.0],
            original: 64.0,
            attention: 1.5,
        };
        assert_close(long.frequencies(4, 1e4).0, [1.0, 0.005]);
        assert_eq!(long.frequencies(4, 1e4).1, 1.5);
    }

    #[test]
    fn settings_are_read_as_transformers_reads_them() {
        assert_eq!(
            read(json!({"rope_type": "default", "rope_theta": 1e6})),
            Ok(RopeScaling::None)
        );
        assert_eq!(
            read(json!({"type": "linear", "factor": 2.0})),
            Ok(RopeScaling::Linear { factor: 2.0 })
        );
        let yarn = read(
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}),
        );
        let attention = 0.1 * 4f64.ln() + 1.0;
        let expected = RopeScaling::Yarn {
            factor: 4.0,
            original: 1024.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention,
        };
        assert_eq!(yarn, Ok(expected));
    }

    #[test]
    fn wrong_settings_are_named_in_the_error() {
        for (value, words) in [
            (json!({"rope_type": "spiral"}), "\"spiral\" is not known"),
            (json!({"rope_type": "linear"}), "lacks factor"),
            (
                json!({"rope_type": "yarn", "factor": 4, "truncate": false}),
                "truncate is false",
            ),
            (json!({"rope_type": "linear", "factor": -1}), "factor is -1"),
            (
                json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}),
                "low_freq_factor 4",
            ),
        ] {
            let error = read(value).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn both_halves_of_a_head_are_rotated_alike() {
        let [cosines, sines] = embedding(4).table(3);
        assert_eq!(cosines[4..6], cosines[6..8]);
        assert_eq!((cosines[0], sines[0]), (1.0, 0.0));
        assert!((sines[9] - 0.02f32.sin()).abs() < 1e-7);
    }

    fn embedding(rotated: usize) -> RotaryEmbedding {
        RotaryEmbedding {
            width: 4,
            rotated,
            theta: 1e4,
            scaling: RopeScaling::None,
            scores: 1.0,
        }
    }

    /// If two of four numbers are rotated, they are the first of each half, with the frequencies of a head of width 2.
    #[test]
    fn a_part_of_a_head_may_be_rotated() {
        let [cosines, sines] = embedding(2).table(2);
        let [cosine, sine] = [1f32.cos(), 1f32.sin()];
        assert_eq!(cosines[4..], [cosine, 1.0, cosine, 1.0]);
        assert_eq!(sines[4..], [sine, 0.0, sine, 0.0]);
        assert_eq!(embedding(0).table(2), [vec![1.0; 8], vec![0.0; 8]]);
        let scaled = RotaryEmbedding {
            scores: 4.0,
            ..embedding(0)
        };
        assert_eq!(scaled.table(1)[0], [2.0; 4]);
    }
}
