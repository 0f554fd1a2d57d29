//! Rotary position embedding (Su et al., arXiv 2104.09864) and the ways in which checkpoints stretch it.
//!
//! A position p turns the pair (x_d, x_{d + width/2}) of a head by the angle p · f_d, with f_d = θ^(−2d/width). Scaling
//! changes the frequencies f, and for some kinds the length of what is turned. Names and rules are those of Hugging
//! Face's `rope_scaling`. Knows nothing of tensors.

use serde_json::{Map, Value};
use std::f64::consts::TAU;

/// How the frequencies are stretched for contexts longer than those of pre-training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all; also Hugging Face's `dynamic`, which changes nothing within `max_position_embeddings`.
    None,
    /// f / factor (Chen et al., arXiv 2306.15595).
    Linear {
        /// Above 0.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// By which low frequencies are divided.
        factor: f64,
        /// Wavelengths above `original / low` are low frequencies.
        low: f64,
        /// Wavelengths below `original / high` are high frequencies.
        high: f64,
        /// Context of pre-training, tokens.
        original: f64,
    },
    /// The same by rotations within the context, and longer vectors (Peng et al., arXiv 2309.00071).
    Yarn {
        /// By which low frequencies are divided.
        factor: f64,
        /// Context of pre-training, tokens.
        original: f64,
        /// More rotations than this are kept.
        beta_fast: f64,
        /// Fewer rotations than this are divided.
        beta_slow: f64,
        /// By which cosines and sines are multiplied.
        attention: f64,
    },
    /// A divisor of its own for every frequency (Ding et al., arXiv 2402.13753), the one for short contexts.
    LongRope {
        /// `[width / 2]`.
        short: Vec<f64>,
        /// Context up to which the short divisors are meant, tokens; longer contexts are not offered.
        original: f64,
        /// By which cosines and sines are multiplied.
        attention: f64,
    },
}

impl RopeScaling {
    /// Reads `rope_scaling` (or `rope_parameters`, as transformers 5 calls it) of a model with that context.
    ///
    /// # Errors
    /// Says which key is missing or out of range, or that the kind is unknown.
    pub fn from_hugging_face(keys: &Map<String, Value>, context: usize) -> Result<Self, String> {
        let kind = keys
            .get("rope_type")
            .or_else(|| keys.get("type"))
            .and_then(Value::as_str)
            .unwrap_or("default");
        let optional = |key: &str| match keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(format!(
                    "rope_scaling: {key} is {value}, and must be a number above 0"
                )),
            },
        };
        let number = |key: &str| {
            optional(key)?.ok_or_else(|| format!("rope_scaling of type {kind:?} lacks {key}"))
        };
        let original = || {
            Ok::<f64, String>(
                optional("original_max_position_embeddings")?.unwrap_or(context as f64),
            )
        };
        match kind {
            "default" | "dynamic" => Ok(Self::None),
            "linear" => Ok(Self::Linear {
                factor: number("factor")?,
            }),
            "llama3" => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if low >= high {
                    return Err(format!(
                        "rope_scaling: low_freq_factor {low} must be below high_freq_factor {high}"
                    ));
                }
                Ok(Self::Llama3 {
                    factor: number("factor")?,
                    low,
                    high,
                    original: original()?,
                })
            }
            "yarn" => {
                let factor = number("factor")?;
                let longer = |scale: f64| {
                    if factor <= 1.0 {
                        1.0
                    } else {
                        0.1 * scale * factor.ln() + 1.0
                    }
                };
                let attention = match (
                    optional("attention_factor")?,
                    optional("mscale")?,
                    optional("mscale_all_dim")?,
                ) {
                    (Some(attention), ..) => attention,
                    (None, Some(one), Some(all)) => longer(one) / longer(all),
                    _ => longer(1.0),
                };
                let beta_fast = optional("beta_fast")?.unwrap_or(32.0);
                let beta_slow = optional("beta_slow")?.unwrap_or(1.0);
                Ok(Self::Yarn {
                    factor,
                    original: original()?,
                    beta_fast,
                    beta_slow,
                    attention,
                })
            }
            "longrope" | "su" => {
                let original = original()?;
                let factor = optional("factor")?.unwrap_or(context as f64 / original);
                let longer = if factor <= 1.0 {
                    1.0
                } else {
                    (1.0 + factor.ln() / original.ln()).sqrt()
                };
                let short = keys.get("short_factor").and_then(Value::as_array);
                let short = short.ok_or("rope_scaling of type \"longrope\" lacks short_factor")?;
                let short: Option<Vec<f64>> = short
                    .iter()
                    .map(|v| v.as_f64().filter(|f| *f > 0.0))
                    .collect();
                let short = short.ok_or("rope_scaling: short_factor must be numbers above 0")?;
                Ok(Self::LongRope {
                    short,
                    original,
                    attention: optional("attention_factor")?.unwrap_or(longer),
                })
            }
            other => Err(format!(
                "rope_scaling of type {other:?} is not known; known: default, linear, dynamic, llama3, yarn, longrope"
            )),
        }
    }

    /// Frequencies of a head of that width, `[width / 2]`, radians a position, and by what the turned vectors are
    /// multiplied.
    #[must_use]
    pub fn frequencies(&self, width: usize, theta: f64) -> (Vec<f64>, f64) {
        let plain = |d: usize| theta.powf(-2.0 * d as f64 / width as f64);
        let all = |f: &dyn Fn(usize) -> f64| (0..width / 2).map(f).collect::<Vec<f64>>();
        match self {
            Self::None => (all(&plain), 1.0),
            Self::Linear { factor } => (all(&|d| plain(d) / factor), 1.0),
            Self::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let stretched = |d: usize| {
                    let turns = original * plain(d) / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    plain(d) * (kept + (1.0 - kept) / factor)
                };
                (all(&stretched), 1.0)
            }
            Self::Yarn {
                factor,
                original,
                beta_fast,
                beta_slow,
                attention,
            } => {
                // The d at which a frequency makes so many rotations within the original context.
                let place = |turns: f64| {
                    width as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln())
                };
                let first = place(*beta_fast).floor().max(0.0);
                let last = place(*beta_slow).ceil().min(width as f64 - 1.0);
                let span = if first == last { 0.001 } else { last - first };
                let stretched = |d: usize| {
                    let divided = ((d as f64 - first) / span).clamp(0.0, 1.0);
                    plain(d) * (1.0 - divided + divided / factor)
                };
                (all(&stretched), *attention)
            }
            Self::LongRope {
                short, attention, ..
            } => (
                all(&|d| plain(d) / short.get(d).unwrap_or(&1.0)),
                *attention,
            ),
        }
    }
}

/// Cosines and sines of the first `time` positions, `[time, width]` each, both halves of a head alike.
#[must_use]
pub fn rotary_table(
    time: usize,
    width: usize,
    theta: f64,
    scaling: &RopeScaling,
) -> (Vec<f32>, Vec<f32>) {
    let (frequencies, length) = scaling.frequencies(width, theta);
    let angle = |t: usize, d: usize| t as f64 * frequencies[d % frequencies.len()];
    let angles = (0..time).flat_map(|t| (0..width).map(move |d| (t, d)));
    angles
        .map(|(t, d)| angle(t, d))
        .map(|a| ((a.cos() * length) as f32, (a.sin() * length) as f32))
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<RopeScaling, String> {
        RopeScaling::from_hugging_face(value.as_object().expect("an object"), 4096)
    }

    /// θ = 10⁴, width 4: f = 1 and 1/100.
    #[test]
    fn frequencies_by_hand() {
        let close = |got: Vec<f64>, want: [f64; 2]| {
            assert!(
                got.iter()
                    .zip(want)
                    .all(|(g, w)| (g / w - 1.0).abs() < 1e-12),
                "{got:?} {want:?}"
            );
        };
        close(RopeScaling::None.frequencies(4, 1e4).0, [1.0, 0.01]);
        close(
            RopeScaling::Linear { factor: 4.0 }.frequencies(4, 1e4).0,
            [0.25, 0.0025],
        );
        // Within 2π·100 positions the second makes one turn: at low = 1 it is wholly divided, at high = 4 the first kept.
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: TAU * 100.0,
        };
        close(llama3.frequencies(4, 1e4).0, [1.0, 0.01 / 8.0]);
        let long = RopeScaling::LongRope {
            short: vec![1.0, 2.0],
            original: 64.0,
            attention: 1.5,
        };
        close(long.frequencies(4, 1e4).0, [1.0, 0.005]);
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
    fn wrong_settings_are_named() {
        let said = |value: Value| read(value).expect_err("refused");
        assert!(said(json!({"rope_type": "spiral"})).contains("\"spiral\" is not known"));
        assert!(said(json!({"rope_type": "linear"})).contains("lacks factor"));
        assert!(said(json!({"rope_type": "linear", "factor": -1})).contains("factor is -1"));
        let backwards = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1});
        assert!(said(backwards).contains("low_freq_factor 4"));
    }

    #[test]
    fn both_halves_of_a_head_turn_alike() {
        let (cosines, sines) = rotary_table(3, 4, 1e4, &RopeScaling::None);
        assert_eq!(cosines[4..6], cosines[6..8]);
        assert_eq!((cosines[0], sines[0]), (1.0, 0.0));
        assert!((sines[9] - 0.02f32.sin()).abs() < 1e-7);
    }
}
