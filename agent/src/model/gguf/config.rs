//! `config.json` of Hugging Face from the metadata of a GGUF file.

mod families;

use super::file::GgufFile;
use super::metadata::{MetadataNumber, MetadataValue, shortest};
use super::sizes::GgufSizes;
use super::tensors::ROPE_FACTORS;
use crate::error::AgentError;
use crate::model::config::{Family, activation_name};
use serde_json::{Value, json};
use std::io::{Read, Seek};

impl<R: Read + Seek> GgufFile<R> {
    /// The content of Hugging Face's `config.json`. If a minicpm file does not give `scale_emb`,
    /// `scale_depth` and `dim_model_base`, they are 12, 1.4 and 256: such files were written before
    /// other values existed.
    ///
    /// # Errors
    /// If a needed value is missing, has another type, does not fit the others, or needs what is
    /// not computed here (experts; windows, partial rotation and longrope where the family has none).
    pub fn config(&mut self) -> Result<Value, AgentError> {
        if self.text("general.type")? == Some("adapter") {
            return Err(self.content(
                "is a LoRA adapter, not a whole model\n\
                 hint: hearth reads adapters in PEFT's layout: `hearth model import BASE OUT --adapter FOLDER`",
            ));
        }
        let family = self.family()?;
        self.refuse_extensions()?;
        let sizes = self.sizes()?;
        let special = self.special_tokens()?;
        let traits = family.traits();
        let mut config = json!({
            "architectures": [traits.architecture],
            "model_type": family.name(),
            "vocab_size": sizes.vocabulary,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "max_position_embeddings": self.needed_size("context_length")?,
            "rms_norm_eps": self.needed("attention.layer_norm_rms_epsilon", |key| self.positive(key))?,
            "rope_theta": self.rope_theta()?,
            "tie_word_embeddings": !self.tensors.contains_key("output.weight"),
            (traits.activation_key): activation_name(traits.activation),
            "bos_token_id": special.bos,
            "eos_token_id": special.eos,
            "pad_token_id": special.pad,
        });
        if sizes.own_head {
            config["head_dim"] = json!(sizes.head);
        }
        if let Some(scaling) = self.rope_scaling()? {
            config["rope_scaling"] = scaling;
        }
        self.add_family_keys(family, &mut config, &sizes)?;
        Ok(config)
    }

    /// Divisors of the rotary frequencies, one for each of the `head_dim / 2` pairs. `None` if the
    /// file has none; files with llama3 scaling have them.
    ///
    /// # Errors
    /// If they do not fit the heads, are not finite numbers above 0, or cannot be read.
    pub fn rope_factors(&mut self) -> Result<Option<Vec<f32>>, AgentError> {
        let Some(info) = self.tensors.get(ROPE_FACTORS) else {
            return Ok(None);
        };
        let shape = info.shape.clone();
        let pairs = self.sizes()?.head / 2;
        if shape != [pairs] {
            return Err(self.content(format!(
                "tensor {ROPE_FACTORS} has shape {shape:?}, expected [{pairs}]"
            )));
        }
        let factors = self.tensor(ROPE_FACTORS)?;
        let wrong = factors
            .iter()
            .find(|factor| !factor.is_finite() || **factor <= 0.0);
        match wrong {
            Some(factor) => Err(self.content(format!("tensor {ROPE_FACTORS} contains {factor}"))),
            None => Ok(Some(factors)),
        }
    }

    /// `rope_scaling` of `config.json`: linear, yarn or llama3.
    fn rope_scaling(&mut self) -> Result<Option<Value>, AgentError> {
        let declared = self.declared_scaling()?;
        let Some(factors) = self.rope_factors()? else {
            return Ok(declared);
        };
        if declared.is_some() {
            return Err(self.content(format!(
                "{ROPE_FACTORS} beside metadata {}",
                self.key("rope.scaling.type")
            )));
        }
        if factors.iter().all(|factor| *factor == 1.0) {
            return Ok(None);
        }
        let factor = factors.iter().copied().fold(1.0, f32::max).into();
        let made = llama3_factors(self.rope_theta()?, factor, factors.len());
        if factors
            .iter()
            .zip(made)
            .any(|(given, made)| (f64::from(*given) - made).abs() > 1e-3 * made)
        {
            return Err(self.content(format!(
                "tensor {ROPE_FACTORS} is not the llama3 scaling by {factor}"
            )));
        }
        Ok(Some(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW_FREQUENCY,
            "high_freq_factor": HIGH_FREQUENCY,
            "original_max_position_embeddings": LLAMA3_CONTEXT,
        })))
    }
}

/// The settings of every llama3 model. A GGUF file keeps only the divisors that follow from them.
const LOW_FREQUENCY: f64 = 1.0;
const HIGH_FREQUENCY: f64 = 4.0;
const LLAMA3_CONTEXT: u32 = 8192;

/// Divisors of the frequencies `θ^(−i/pairs)`: 1 if the wave is much shorter than the original
/// context, `factor` if it is longer, and a smooth passage between the two.
fn llama3_factors(theta: f64, factor: f64, pairs: usize) -> impl Iterator<Item = f64> {
    (0..pairs).map(move |pair| {
        let wavelength = std::f64::consts::TAU * theta.powf(pair as f64 / pairs as f64);
        let turns = f64::from(LLAMA3_CONTEXT) / wavelength;
        let smooth = ((turns - LOW_FREQUENCY) / (HIGH_FREQUENCY - LOW_FREQUENCY)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    })
}

impl<R> GgufFile<R> {
    fn rope_theta(&self) -> Result<f64, AgentError> {
        let theta = self.positive(&self.key("rope.freq_base"))?;
        Ok(theta.unwrap_or(10_000.0))
    }

    /// Refuses what a file of these architectures may have but what is not computed here.
    fn refuse_extensions(&self) -> Result<(), AgentError> {
        let has_windows = [Family::Gemma3, Family::Phi3, Family::Olmo3].contains(&self.family()?);
        for key in [
            "expert_count",
            "attention.sliding_window",
            "rope.scaling.yarn_log_multiplier",
        ] {
            if key == "attention.sliding_window" && has_windows {
                continue;
            }
            let key = self.key(key);
            match self.metadata.get(&key) {
                None
                | Some(MetadataValue::Number(
                    MetadataNumber::Unsigned(0) | MetadataNumber::Signed(0),
                )) => {}
                Some(MetadataValue::Number(number)) => {
                    return Err(self.content(format!(
                        "metadata {key} is {number:?}, which is not supported"
                    )));
                }
                Some(_) => return Err(self.wrong_type(&key, "a number")),
            }
        }
        match self.flag(&self.key("attention.causal"))? {
            Some(false) => Err(self.content("attention that is not causal is not supported")),
            _ => Ok(()),
        }
    }

    /// `rope_scaling` as the metadata has it: linear or yarn.
    fn declared_scaling(&self) -> Result<Option<Value>, AgentError> {
        match self.text(&self.key("rope.scaling.type"))? {
            None if self.metadata.contains_key(&self.key("rope.scale_linear")) => {}
            None | Some("none") => return Ok(None),
            Some("linear") => {}
            Some("yarn") => return self.yarn_scaling().map(Some),
            Some(other) => {
                return Err(self.content(format!(
                    "rope scaling {other:?}; linear and yarn are supported"
                )));
            }
        }
        let factor = self.scaling_factor()?;
        Ok(Some(json!({"rope_type": "linear", "factor": factor})))
    }

    fn yarn_scaling(&self) -> Result<Value, AgentError> {
        let context = self.needed_size("rope.scaling.original_context_length")?;
        let mut scaling = json!({
            "rope_type": "yarn",
            "factor": self.scaling_factor()?,
            "original_max_position_embeddings": context,
        });
        let names = [
            ("yarn_ext_factor", "extrapolation_factor"),
            ("yarn_attn_factor", "attention_factor"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ];
        for (key, name) in names {
            if let Some(value) = self.positive(&self.key(&format!("rope.scaling.{key}")))? {
                scaling[name] = json!(value);
            }
        }
        Ok(scaling)
    }

    fn scaling_factor(&self) -> Result<f64, AgentError> {
        let linear = self.positive(&self.key("rope.scale_linear"))?;
        let factor = self.positive(&self.key("rope.scaling.factor"))?.or(linear);
        factor.ok_or_else(|| self.missing("rope.scaling.factor"))
    }

    /// `scale_depth = residual_scale √layers`, `dim_model_base = hidden / logit_scale`.
    pub(super) fn add_minicpm_scales(
        &self,
        config: &mut Value,
        sizes: &GgufSizes,
    ) -> Result<(), AgentError> {
        let depth = self
            .positive(&self.key("residual_scale"))?
            .map(|scale| single(scale * (sizes.layers as f64).sqrt()));
        let base = self
            .positive(&self.key("logit_scale"))?
            .map(|scale| single(sizes.hidden as f64 / scale));
        let embedding = self.positive(&self.key("embedding_scale"))?;
        config["scale_emb"] = json!(embedding.unwrap_or(12.0));
        config["scale_depth"] = json!(depth.unwrap_or(1.4));
        config["dim_model_base"] = json!(base.unwrap_or(256.0));
        Ok(())
    }
}

/// Rounds to the digits of a single, because what was computed from a single has no more.
fn single(number: f64) -> f64 {
    shortest(number as f32)
}

#[cfg(test)]
mod tests {
    use super::super::test_files::{
        GgufWriter, array_value, bool_value, f32_value, model, refusal, text_value, u32_value,
    };
    use super::*;

    #[test]
    fn the_configuration_is_hugging_faces() {
        let expected = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 5,
            "hidden_size": 8,
            "intermediate_size": 6,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
            "hidden_act": "silu",
            "bos_token_id": null,
            "eos_token_id": null,
            "pad_token_id": null,
            "attention_bias": false,
            "mlp_bias": false,
        });
        assert_eq!(model("llama").open().config().unwrap(), expected);
        let heads = array_value(4, &[2_u32.to_le_bytes().to_vec()]);
        let other = model("llama")
            .set("llama.attention.head_count", heads)
            .set("llama.attention.key_length", u32_value(4))
            .set("llama.attention.value_length", u32_value(4))
            .set("llama.rope.freq_base", f32_value(5e5))
            .set("llama.rope.scaling.type", text_value("linear"))
            .set("llama.rope.scaling.factor", f32_value(2.5))
            .set("llama.attention.causal", bool_value(true))
            .counting("output.weight", &[8, 5]);
        let config = other.open().config().unwrap();
        assert_eq!(
            (&config["head_dim"], &config["rope_theta"]),
            (&json!(4), &json!(5e5))
        );
        assert_eq!(
            config["rope_scaling"],
            json!({"rope_type": "linear", "factor": 2.5})
        );
        assert_eq!(config["tie_word_embeddings"], json!(false));
    }

    #[test]
    fn yarn_settings_are_kept() {
        let config = model("qwen2")
            .set("qwen2.rope.scaling.type", text_value("yarn"))
            .set("qwen2.rope.scaling.factor", f32_value(4.0))
            .set(
                "qwen2.rope.scaling.original_context_length",
                u32_value(32_768),
            )
            .set("qwen2.rope.scaling.yarn_beta_fast", f32_value(32.0));
        let expected = json!({
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768, "beta_fast": 32.0,
        });
        let config = config.open().config().unwrap();
        assert_eq!(
            (&config["rope_scaling"], &config["model_type"]),
            (&expected, &json!("qwen2"))
        );
        assert_eq!(config.get("attention_bias"), None);
    }

    fn scales(writer: &GgufWriter) -> [f64; 3] {
        let config = writer.open().config().unwrap();
        ["scale_emb", "scale_depth", "dim_model_base"].map(|key| config[key].as_f64().unwrap())
    }

    /// `MiniCPM`-2B: 12, 1.4 / √40 and 2304 / 256.
    #[test]
    fn minicpm_scales_are_hugging_faces() {
        assert_eq!(scales(&model("minicpm")), [12.0, 1.4, 256.0]);
        let given = model("minicpm")
            .set("minicpm.embedding_scale", f32_value(3.0))
            .set("minicpm.residual_scale", f32_value(0.7))
            .set("minicpm.logit_scale", f32_value(2.0));
        assert_eq!(scales(&given), [3.0, 0.7, 4.0]);
        assert_eq!(
            single(f64::from(1.4_f32 / 40_f32.sqrt()) * 40_f64.sqrt()),
            1.4
        );
    }

    /// A model with these divisors of its two frequencies.
    fn with_factors(factors: [f32; 2]) -> GgufWriter {
        let mut writer = model("llama")
            .set("llama.rope.freq_base", f32_value(5e5))
            .counting(ROPE_FACTORS, &[2]);
        writer.tensors[11].data = factors
            .iter()
            .flat_map(|factor| factor.to_le_bytes())
            .collect();
        writer
    }

    #[test]
    fn llama3_scaling_is_recognised_by_its_divisors() {
        // Pair 1 has the wavelength 2π √500000 = 4442.9: 1.84384 turns in 8192, smooth = 0.84384 / 3.
        let factor = 1.0 / ((1.0 - 0.281_28) / 32.0 + 0.281_28);
        let made: Vec<f64> = llama3_factors(5e5, 32.0, 2).collect();
        assert!(
            (made[0] - 1.0).abs() < 1e-9 && (made[1] - factor).abs() < 1e-3,
            "{made:?}, {factor}"
        );
        assert_eq!(
            with_factors([1.0, 1.0])
                .open()
                .config()
                .unwrap()
                .get("rope_scaling"),
            None
        );
        assert_eq!(
            with_factors([1.0, 3.5]).open().rope_factors().unwrap(),
            Some(vec![1.0, 3.5])
        );
        assert_eq!(model("llama").open().rope_factors().unwrap(), None);
        assert!(refusal(&with_factors([1.0, 3.5])).ends_with("is not the llama3 scaling by 3.5"));
        assert!(
            refusal(&with_factors([1.0, -1.0])).ends_with("tensor rope_freqs.weight contains -1")
        );
        let both = with_factors([1.0, 2.0]).set("llama.rope.scaling.type", text_value("linear"));
        assert!(
            refusal(&both.set("llama.rope.scaling.factor", f32_value(2.0)))
                .contains("beside metadata")
        );
    }

    /// Heads of 16 at θ = 500000: the slowest of 8 pairs turns less than once in 8192.
    #[test]
    fn llama3_scaling_is_written_as_hugging_face_does() {
        let mut writer = model("llama").set("llama.rope.freq_base", f32_value(5e5));
        writer = writer
            .set("llama.attention.key_length", u32_value(16))
            .counting(ROPE_FACTORS, &[8]);
        writer.tensors[11].data = llama3_factors(5e5, 8.0, 8)
            .flat_map(|factor| (factor as f32).to_le_bytes())
            .collect();
        let expected = json!({
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        assert_eq!(writer.open().config().unwrap()["rope_scaling"], expected);
    }

    #[test]
    fn settings_that_are_not_computed_are_refused() {
        for (writer, reason) in [
            (
                model("llama").set("general.architecture", text_value("gemma")),
                "architecture \"gemma\"; supported: llama, qwen2",
            ),
            (
                model("llama").set("general.architecture", u32_value(1)),
                "metadata general.architecture is not a text",
            ),
            (
                model("llama").set("llama.expert_count", u32_value(8)),
                "metadata llama.expert_count is Unsigned(8)",
            ),
            (
                model("llama").set("llama.attention.sliding_window", u32_value(9)),
                "metadata llama.attention.sliding_window",
            ),
            (
                model("llama").set("llama.attention.causal", bool_value(false)),
                "attention that is not causal",
            ),
            (
                model("llama").set("split.count", u32_value(3)),
                "one of 3 files of a model; join them",
            ),
            (
                model("llama").set("llama.rope.dimension_count", u32_value(2)),
                "metadata llama.rope.dimension_count is 2",
            ),
            (
                model("llama").set("llama.rope.scaling.type", text_value("longrope")),
                "rope scaling \"longrope\"; linear and",
            ),
            (
                model("llama").set("llama.rope.scaling.type", text_value("linear")),
                "metadata llama.rope.scaling.factor is mis",
            ),
            (
                model("llama").set("llama.attention.head_count", u32_value(3)),
                "hidden width 8 does not split into 3 heads",
            ),
        ] {
            let error = refusal(&writer);
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
