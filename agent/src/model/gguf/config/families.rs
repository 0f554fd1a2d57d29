//! What GGUF files of the families contain in addition to a Llama's: architectures, and keys of `config.json` from their metadata.

use crate::error::AgentError;
use crate::model::config::Family;
use crate::model::gguf::file::GgufFile;
use crate::model::gguf::metadata::{MetadataNumber, MetadataValue, shortest};
use crate::model::gguf::sizes::GgufSizes;
use crate::model::gguf::tensors::{LONG_FACTORS, SHORT_FACTORS};
use serde_json::{Value, json};
use std::io::{Read, Seek};

/// Names of architectures and their families. `olmo2` is also the architecture of OLMo 3, which has windows.
const ARCHITECTURES: [(&str, Family); 9] = [
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("minicpm", Family::MiniCpm),
    ("gemma3", Family::Gemma3),
    ("phi3", Family::Phi3),
    ("olmo2", Family::Olmo2),
    ("smollm3", Family::SmolLm3),
    ("granite", Family::Granite),
];

const WINDOW: &str = "attention.sliding_window";

/// The number of layers of Gemma 3 27B, the only size with another factor of attention scores.
const GEMMA3_27B_LAYERS: usize = 62;

impl<R> GgufFile<R> {
    /// The family of the decoder.
    ///
    /// # Errors
    /// If the architecture is missing or not supported.
    pub fn family(&self) -> Result<Family, AgentError> {
        let name = self.text("general.architecture")?;
        let name = name.ok_or_else(|| self.content("metadata general.architecture is missing"))?;
        let family = ARCHITECTURES.iter().find(|(known, _)| *known == name);
        match family {
            Some((_, Family::Olmo2)) if self.window()?.is_some() => Ok(Family::Olmo3),
            Some((_, family)) => Ok(*family),
            None => {
                let known = ARCHITECTURES.map(|(name, _)| name).join(", ");
                Err(self.content(format!("architecture {name:?}; supported: {known}")))
            }
        }
    }

    /// The metadata key of this architecture.
    pub(in crate::model::gguf) fn key(&self, key: &str) -> String {
        let architecture = self.text("general.architecture").ok().flatten();
        format!("{}.{key}", architecture.unwrap_or_default())
    }

    /// The window of attention; `None` if the file has none.
    fn window(&self) -> Result<Option<usize>, AgentError> {
        let window = self.size(&self.key(WINDOW))?;
        Ok(window.filter(|window| *window > 0))
    }

    /// Copies a number of the metadata, if it is there.
    fn copy(&self, config: &mut Value, name: &str, key: &str) -> Result<(), AgentError> {
        if let Some(value) = self.positive(&self.key(key))? {
            config[name] = json!(value);
        }
        Ok(())
    }

    /// The window, and which layers have it if the file says so.
    fn add_window(&self, config: &mut Value, layers: usize) -> Result<(), AgentError> {
        config["sliding_window"] = json!(self.window()?);
        if self.window()?.is_none() {
            config["layer_types"] = json!(vec!["full_attention"; layers]);
            return Ok(());
        }
        let key = self.key("attention.sliding_window_pattern");
        match self.metadata.get(&key) {
            None => {}
            Some(MetadataValue::Numbers(list)) if list.len() == layers => {
                let is_windowed = |number| {
                    !matches!(
                        number,
                        MetadataNumber::Bool(false)
                            | MetadataNumber::Unsigned(0)
                            | MetadataNumber::Signed(0)
                    )
                };
                let kinds = list.iter().map(|number| match is_windowed(number) {
                    true => "sliding_attention",
                    false => "full_attention",
                });
                config["layer_types"] = kinds.collect();
            }
            Some(MetadataValue::Number(_)) => {
                config["sliding_window_pattern"] = json!(self.size(&key)?);
            }
            Some(_) => return Err(self.wrong_type(&key, "a number, or one for each layer")),
        }
        Ok(())
    }
}

impl<R: Read + Seek> GgufFile<R> {
    /// Adds the keys that only the family has.
    pub(super) fn add_family_keys(
        &mut self,
        family: Family,
        config: &mut Value,
        sizes: &GgufSizes,
    ) -> Result<(), AgentError> {
        match family {
            Family::Llama => {
                config["attention_bias"] = json!(self.tensors.contains_key("blk.0.attn_q.bias"));
                config["mlp_bias"] = json!(self.tensors.contains_key("blk.0.ffn_up.bias"));
            }
            Family::MiniCpm => self.add_minicpm_scales(config, sizes)?,
            Family::Granite => {
                config["attention_multiplier"] = json!(1.0 / (sizes.head as f64).sqrt());
                self.copy(config, "attention_multiplier", "attention.scale")?;
                self.copy(config, "embedding_multiplier", "embedding_scale")?;
                self.copy(config, "residual_multiplier", "residual_scale")?;
                self.copy(config, "logits_scaling", "logit_scale")?;
            }
            Family::Gemma3 => {
                self.add_window(config, sizes.layers)?;
                let scalar = if sizes.layers == GEMMA3_27B_LAYERS {
                    sizes.hidden / sizes.heads
                } else {
                    sizes.head
                };
                config["query_pre_attn_scalar"] = json!(scalar);
                self.copy(config, "rope_local_base_freq", "rope.freq_base_swa")?;
                self.copy(config, "final_logit_softcapping", "final_logit_softcapping")?;
                self.copy(config, "attn_logit_softcapping", "attn_logit_softcapping")?;
            }
            Family::Olmo3 => self.add_window(config, sizes.layers)?,
            Family::Phi3 => {
                config["sliding_window"] = json!(self.window()?);
                let pattern = self.key("attention.sliding_window_pattern");
                if self.metadata.contains_key(&pattern) {
                    return Err(self.content(format!("metadata {pattern} is not supported")));
                }
                let rotated = self.size(&self.key("rope.dimension_count"))?;
                let rotated = rotated.unwrap_or(sizes.head);
                config["partial_rotary_factor"] = json!(rotated as f64 / sizes.head as f64);
                self.add_long_rope(config, rotated)?;
            }
            Family::Qwen2
            | Family::Qwen3
            | Family::Mistral
            | Family::Olmo2
            | Family::SmolLm3
            | Family::Hearth => {}
        }
        Ok(())
    }

    fn add_long_rope(&mut self, config: &mut Value, rotated: usize) -> Result<(), AgentError> {
        let original = self.size(&self.key("rope.scaling.original_context_length"))?;
        if let Some(original) = original {
            config["original_max_position_embeddings"] = json!(original);
        }
        let names = [SHORT_FACTORS, LONG_FACTORS];
        if names.iter().all(|name| !self.tensors.contains_key(*name)) {
            return Ok(());
        }
        let mut factors = Vec::new();
        for name in names {
            let shape = &self.info(name)?.shape;
            if *shape != [rotated / 2] {
                return Err(self.content(format!(
                    "tensor {name} has shape {shape:?}, expected [{}]",
                    rotated / 2
                )));
            }
            let numbers = self.tensor(name)?;
            factors.push(numbers.into_iter().map(shortest).collect::<Vec<_>>());
        }
        let length = self.positive(&self.key("rope.scaling.attn_factor"))?;
        config["rope_scaling"] = json!({
            "rope_type": "longrope",
            "short_factor": factors[0],
            "long_factor": factors[1],
            "attention_factor": length.unwrap_or(1.0),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::DecoderConfig;
    use crate::model::gguf::test_files::{array_value, bool_value, f32_value, model, u32_value};

    fn config(writer: &crate::model::gguf::test_files::GgufWriter) -> DecoderConfig {
        let Value::Object(keys) = writer.open().config().unwrap() else {
            panic!("an object")
        };
        DecoderConfig::from_hugging_face(keys).unwrap()
    }

    #[test]
    fn gemma3_has_windows_and_two_rotary_embeddings() {
        let writer = model("gemma3")
            .set("gemma3.attention.sliding_window", u32_value(16))
            .set("gemma3.rope.freq_base", f32_value(1e6));
        let found = config(&writer);
        assert_eq!(found.pattern.windowed, [0].into());
        assert_eq!(found.pattern.window, 16);
        assert_eq!(
            (found.rope_theta, found.pattern.windowed_theta),
            (1e6, Some(1e4))
        );
        assert_eq!(found.scales.attention, 1.0, "1/√head");
        let listed = writer.set(
            "gemma3.attention.sliding_window_pattern",
            array_value(7, &[bool_value(false)[4..].to_vec()]),
        );
        assert!(config(&listed).pattern.windowed.is_empty());
    }

    #[test]
    fn phi3_rotates_a_part_of_each_head() {
        let writer = model("phi3")
            .set("phi3.rope.dimension_count", u32_value(2))
            .set("phi3.rope.scaling.original_context_length", u32_value(32))
            .set("phi3.rope.scaling.attn_factor", f32_value(1.25))
            .counting(SHORT_FACTORS, &[1])
            .counting(LONG_FACTORS, &[1]);
        let mut writer = writer;
        for tensor in &mut writer.tensors {
            if tensor.name == SHORT_FACTORS {
                tensor.data = 1.5_f32.to_le_bytes().to_vec();
            }
        }
        let found = config(&writer);
        assert_eq!(
            (found.rotated_width(), found.max_position_embeddings),
            (2, 32)
        );
        let text = format!("{:?}", found.rope_scaling);
        assert!(
            text.contains("[1.5]") && text.contains("attention: 1.25"),
            "{text}"
        );
    }

    #[test]
    fn granite_and_olmo3_are_read() {
        let granite = model("granite")
            .set("granite.attention.scale", f32_value(0.25))
            .set("granite.logit_scale", f32_value(4.0));
        let scales = config(&granite).scales;
        assert_eq!((scales.attention, scales.logits), (0.5, 0.25));
        assert_eq!(model("olmo2").open().family().unwrap(), Family::Olmo2);
        let windowed = model("olmo2").set("olmo2.attention.sliding_window", u32_value(8));
        assert_eq!(config(&windowed).family, Family::Olmo3);
        assert_eq!(config(&model("smollm3")).family, Family::SmolLm3);
    }
}
