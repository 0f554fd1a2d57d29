//! A GGUF file in Hugging Face's terms: `config.json`, tensor names, shapes, and the order of rows.
//!
//! Undoes what llama.cpp's `convert_hf_to_gguf.py` did. Its one trap: for llama and minicpm the rows of q and k stand
//! in the order of interleaved rotation, `(0, d/2, 1, d/2 + 1, …)` within each head of width d; they go back to the two
//! halves. qwen2 keeps the halves. Knows nothing of how tensors are computed with.

use super::{GgufFile, MetadataValue, Number};
use crate::error::AgentError;
use crate::model::config::Family;
use serde_json::{Value, json};
use std::io::{Read, Seek};

/// Divisors of the rotary frequencies, as llama3 scaling makes them.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// A tensor in Hugging Face's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfTensor {
    /// Such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `[out, in]`, or `[out]`.
    pub shape: Vec<usize>,
    /// Name in the file.
    source: String,
    /// Heads whose rows are interleaved in the file.
    interleaved_heads: Option<usize>,
}

/// The sizes that shapes are made of.
struct Sizes {
    vocabulary: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    /// Whether the file gives `head` rather than leaving it to hidden / heads.
    own_head: bool,
}

/// A tensor that a model may have.
struct Part {
    source: &'static str,
    name: &'static str,
    shape: Vec<usize>,
    interleaved_heads: Option<usize>,
}

impl<R: Read + Seek> GgufFile<R> {
    /// The content of Hugging Face's `config.json`. `scale_emb`, `scale_depth` and `dim_model_base` of a minicpm file
    /// that does not give them are 12, 1.4 and 256: such files were written when nothing else existed.
    ///
    /// # Errors
    /// When a needed value is missing, has another type, does not fit the others, or asks for what these architectures
    /// do not compute (experts, sliding windows, partial rotation, longrope).
    pub fn config(&mut self) -> Result<Value, AgentError> {
        let family = self.family()?;
        self.refuse_extensions()?;
        let sizes = self.sizes()?;
        let special = self.special_tokens()?;
        let mut config = json!({
            "architectures": [family.architecture()],
            "model_type": family.name(),
            "vocab_size": sizes.vocabulary,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "max_position_embeddings": self.needed_size("context_length")?,
            "rms_norm_eps": self.needed("attention.layer_norm_rms_epsilon", |key| self.positive(key))?,
            "rope_theta": self.positive(&self.key("rope.freq_base"))?.unwrap_or(10_000.0),
            "tie_word_embeddings": !self.tensors.contains_key("output.weight"),
            "hidden_act": "silu",
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
        match family {
            Family::Llama => {
                config["attention_bias"] = json!(self.tensors.contains_key("blk.0.attn_q.bias"));
                config["mlp_bias"] = json!(self.tensors.contains_key("blk.0.ffn_up.bias"));
            }
            Family::Qwen2 => {}
            Family::MiniCpm => self.add_minicpm_scales(&mut config, &sizes)?,
        }
        Ok(config)
    }

    /// Divisors of the rotary frequencies, one for each of the `head_dim / 2` pairs, where the file has them
    /// (llama3 scaling).
    ///
    /// # Errors
    /// When they do not fit the heads, are not finite numbers above 0, or cannot be read.
    pub fn rope_factors(&mut self) -> Result<Option<Vec<f32>>, AgentError> {
        let Some(info) = self.tensors.get(ROPE_FACTORS) else {
            return Ok(None);
        };
        let (shape, pairs) = (info.shape.clone(), self.sizes()?.head / 2);
        if shape != [pairs] {
            return Err(self.content(format!(
                "tensor {ROPE_FACTORS} has shape {shape:?}, expected [{pairs}]"
            )));
        }
        let factors = self.tensor(ROPE_FACTORS)?;
        match factors
            .iter()
            .find(|factor| !factor.is_finite() || **factor <= 0.0)
        {
            Some(factor) => Err(self.content(format!("tensor {ROPE_FACTORS} holds {factor}"))),
            None => Ok(Some(factors)),
        }
    }

    /// The numbers of a tensor from [`GgufFile::hf_tensors`], row-major, rows in Hugging Face's order.
    ///
    /// # Errors
    /// When the file cannot be read, or the memory cannot be had.
    pub fn hf_tensor(&mut self, tensor: &HfTensor) -> Result<Vec<f32>, AgentError> {
        let mut numbers = self.tensor(&tensor.source)?;
        tensor.reorder(&mut numbers);
        Ok(numbers)
    }

    /// As [`GgufFile::hf_tensor`], into `out`.
    ///
    /// # Errors
    /// When `out` has another length than the tensor, or the file cannot be read.
    pub fn hf_tensor_into(&mut self, tensor: &HfTensor, out: &mut [f32]) -> Result<(), AgentError> {
        self.tensor_into(&tensor.source, out)?;
        tensor.reorder(out);
        Ok(())
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
        let theta = self
            .positive(&self.key("rope.freq_base"))?
            .unwrap_or(10_000.0);
        let factor = factors.iter().copied().fold(1.0, f32::max).into();
        let made = llama3_factors(theta, factor, factors.len());
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

/// What every llama3 model uses; a file keeps only the divisors that follow.
const LOW_FREQUENCY: f64 = 1.0;
const HIGH_FREQUENCY: f64 = 4.0;
const LLAMA3_CONTEXT: u32 = 8192;

/// Divisors of the frequencies `θ^(−i/pairs)`: 1 for waves much shorter than the old context, `factor` for longer ones,
/// and between the two a smooth passage.
fn llama3_factors(theta: f64, factor: f64, pairs: usize) -> impl Iterator<Item = f64> {
    (0..pairs).map(move |pair| {
        let wavelength = std::f64::consts::TAU * theta.powf(pair as f64 / pairs as f64);
        let turns = f64::from(LLAMA3_CONTEXT) / wavelength;
        let smooth = ((turns - LOW_FREQUENCY) / (HIGH_FREQUENCY - LOW_FREQUENCY)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    })
}

impl<R> GgufFile<R> {
    /// Whose decoder it holds.
    ///
    /// # Errors
    /// When it is missing or none of the three.
    pub fn family(&self) -> Result<Family, AgentError> {
        let name = self.text("general.architecture")?;
        let name = name.ok_or_else(|| self.content("metadata general.architecture is missing"))?;
        let family = Family::ALL.into_iter().find(|family| family.name() == name);
        family.ok_or_else(|| {
            self.content(format!(
                "architecture {name:?}; llama, qwen2 and minicpm are read"
            ))
        })
    }

    /// The model's tensors in the order of its layers: all that the architecture needs, with the shapes that the
    /// metadata asks for, and nothing else.
    ///
    /// # Errors
    /// When one is missing, has another shape, or has no place in the architecture.
    pub fn hf_tensors(&self) -> Result<Vec<HfTensor>, AgentError> {
        let (family, sizes) = (self.family()?, self.sizes()?);
        let mut found = Vec::new();
        for part in outer_parts(&sizes) {
            let optional = part.source == "output.weight";
            self.find(
                part.source.into(),
                part.name.into(),
                &part,
                optional,
                &mut found,
            )?;
        }
        for layer in 0..sizes.layers {
            for part in layer_parts(&sizes, family) {
                let bias = part.source.ends_with(".bias");
                let needed = !bias || family == Family::Qwen2 && is_qkv(part.source);
                let (source, name) = (
                    format!("blk.{layer}.{}", part.source),
                    format!("model.layers.{layer}.{}", part.name),
                );
                self.find(source, name, &part, !needed, &mut found)?;
            }
        }
        self.refuse_strangers(&found)?;
        Ok(found)
    }

    fn find(
        &self,
        source: String,
        name: String,
        part: &Part,
        optional: bool,
        found: &mut Vec<HfTensor>,
    ) -> Result<(), AgentError> {
        let Some(info) = self.tensors.get(&source) else {
            return if optional {
                Ok(())
            } else {
                Err(self.content(format!("tensor {source} is missing")))
            };
        };
        if info.shape != part.shape {
            let reason = format!(
                "tensor {source} has shape {:?}, the metadata asks for {:?}",
                info.shape, part.shape
            );
            return Err(self.content(reason));
        }
        let (shape, interleaved_heads) = (part.shape.clone(), part.interleaved_heads);
        found.push(HfTensor {
            name,
            shape,
            source,
            interleaved_heads,
        });
        Ok(())
    }

    fn refuse_strangers(&self, found: &[HfTensor]) -> Result<(), AgentError> {
        let known: std::collections::BTreeSet<&str> =
            found.iter().map(|tensor| tensor.source.as_str()).collect();
        match self
            .tensors
            .keys()
            .find(|name| !known.contains(name.as_str()) && *name != ROPE_FACTORS)
        {
            Some(name) => Err(self.content(format!(
                "tensor {name} has no place in a {} model",
                self.family()?.name()
            ))),
            None => Ok(()),
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family().map_or("", Family::name))
    }

    fn needed<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<Option<T>, AgentError>,
    ) -> Result<T, AgentError> {
        let key = self.key(key);
        read(&key)?.ok_or_else(|| self.content(format!("metadata {key} is missing")))
    }

    fn needed_size(&self, key: &str) -> Result<usize, AgentError> {
        match self.needed(key, |key| self.size(key))? {
            0 => Err(self.content(format!("metadata {} is 0", self.key(key)))),
            size => Ok(size),
        }
    }

    /// A size that some files give once for each layer; all must be equal.
    fn layer_size(&self, key: &str) -> Result<Option<usize>, AgentError> {
        let key = self.key(key);
        let Some(MetadataValue::Numbers(numbers)) = self.metadata.get(&key) else {
            return self.size(&key);
        };
        let mut sizes = numbers.iter().map(Number::integer);
        let first = sizes
            .next()
            .flatten()
            .and_then(|size| usize::try_from(size).ok());
        match first {
            Some(size)
                if sizes
                    .all(|other| other.and_then(|other| usize::try_from(other).ok()) == first) =>
            {
                Ok(Some(size))
            }
            _ => Err(self.content(format!("metadata {key} differs between layers"))),
        }
    }

    fn sizes(&self) -> Result<Sizes, AgentError> {
        self.family()?;
        if let parts @ 2.. = self.size("split.count")?.unwrap_or(1) {
            return Err(self.content(format!(
                "one of {parts} files of a model; join them with llama.cpp's gguf-split"
            )));
        }
        let embedding = self.info("token_embd.weight")?;
        let (hidden, layers) = (
            self.needed_size("embedding_length")?,
            self.needed_size("block_count")?,
        );
        let [vocabulary, width] = embedding.shape[..] else {
            return Err(self.content(format!(
                "tensor token_embd.weight has shape {:?}",
                embedding.shape
            )));
        };
        let given = self.size(&self.key("vocab_size"))?.unwrap_or(vocabulary);
        if width != hidden || given != vocabulary {
            let reason = format!(
                "{:?}, the metadata asks for [{given}, {hidden}]",
                embedding.shape
            );
            return Err(self.content(format!("tensor token_embd.weight has shape {reason}")));
        }
        let missing = |key: &str| self.content(format!("metadata {} is missing", self.key(key)));
        let heads = self
            .layer_size("attention.head_count")?
            .ok_or_else(|| missing("attention.head_count"))?;
        let kv_heads = self.layer_size("attention.head_count_kv")?.unwrap_or(heads);
        let inner = self
            .layer_size("feed_forward_length")?
            .ok_or_else(|| missing("feed_forward_length"))?;
        let own = self.size(&self.key("attention.key_length"))?;
        let head = own.or_else(|| hidden.checked_div(heads)).unwrap_or(0);
        let sizes = Sizes {
            vocabulary,
            hidden,
            inner,
            layers,
            heads,
            kv_heads,
            head,
            own_head: own.is_some(),
        };
        self.check_sizes(&sizes)?;
        Ok(sizes)
    }

    fn check_sizes(&self, sizes: &Sizes) -> Result<(), AgentError> {
        let Sizes {
            hidden,
            inner,
            heads,
            kv_heads,
            head,
            own_head,
            ..
        } = *sizes;
        if [heads, kv_heads, head, inner].contains(&0) || !heads.is_multiple_of(kv_heads) {
            return Err(self.content(format!(
                "{heads} heads of width {head} share {kv_heads} keys; inner width {inner}"
            )));
        }
        if !head.is_multiple_of(2) || !own_head && !hidden.is_multiple_of(heads) {
            return Err(self.content(format!(
                "hidden width {hidden} does not split into {heads} heads of even width"
            )));
        }
        for key in ["attention.value_length", "rope.dimension_count"] {
            let width = self.size(&self.key(key))?.unwrap_or(head);
            if width != head {
                return Err(self.content(format!(
                    "metadata {} is {width}, a head has {head}",
                    self.key(key)
                )));
            }
        }
        Ok(())
    }

    /// What these architectures may carry in a file but is not computed here.
    fn refuse_extensions(&self) -> Result<(), AgentError> {
        for key in [
            "expert_count",
            "attention.sliding_window",
            "rope.scaling.yarn_log_multiplier",
        ] {
            let key = self.key(key);
            match self.metadata.get(&key) {
                None | Some(MetadataValue::Number(Number::Unsigned(0) | Number::Signed(0))) => {}
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

    /// `rope_scaling` as the metadata has it.
    fn declared_scaling(&self) -> Result<Option<Value>, AgentError> {
        let number = |key: &str| self.positive(&self.key(&format!("rope.scaling.{key}")));
        let factor = || {
            let linear = self.positive(&self.key("rope.scale_linear"))?;
            let factor = number("factor")?.or(linear);
            factor.ok_or_else(|| {
                self.content(format!(
                    "metadata {} is missing",
                    self.key("rope.scaling.factor")
                ))
            })
        };
        match self.text(&self.key("rope.scaling.type"))? {
            None if self.metadata.contains_key(&self.key("rope.scale_linear")) => {}
            None | Some("none") => return Ok(None),
            Some("linear") => {}
            Some("yarn") => {
                let context = self.needed_size("rope.scaling.original_context_length")?;
                let mut scaling = json!({"rope_type": "yarn", "factor": factor()?, "original_max_position_embeddings": context});
                let names = [
                    ("yarn_ext_factor", "extrapolation_factor"),
                    ("yarn_attn_factor", "attention_factor"),
                    ("yarn_beta_fast", "beta_fast"),
                    ("yarn_beta_slow", "beta_slow"),
                ];
                for (key, name) in names {
                    if let Some(value) = number(key)? {
                        scaling[name] = json!(value);
                    }
                }
                return Ok(Some(scaling));
            }
            Some(other) => {
                return Err(
                    self.content(format!("rope scaling {other:?}; linear and yarn are read"))
                );
            }
        }
        Ok(Some(json!({"rope_type": "linear", "factor": factor()?})))
    }

    /// `scale_depth = residual_scale √layers`, `dim_model_base = hidden / logit_scale`.
    fn add_minicpm_scales(&self, config: &mut Value, sizes: &Sizes) -> Result<(), AgentError> {
        let scale = |key: &str| self.positive(&self.key(key));
        let depth =
            scale("residual_scale")?.map(|scale| single(scale * (sizes.layers as f64).sqrt()));
        let base = scale("logit_scale")?.map(|scale| single(sizes.hidden as f64 / scale));
        config["scale_emb"] = json!(scale("embedding_scale")?.unwrap_or(12.0));
        config["scale_depth"] = json!(depth.unwrap_or(1.4));
        config["dim_model_base"] = json!(base.unwrap_or(256.0));
        Ok(())
    }
}

/// As many digits as a single has: what was computed from a single knows no more.
fn single(number: f64) -> f64 {
    super::shortest(number as f32)
}

fn is_qkv(source: &str) -> bool {
    ["attn_q.", "attn_k.", "attn_v."]
        .iter()
        .any(|start| source.starts_with(start))
}

fn outer_parts(sizes: &Sizes) -> [Part; 3] {
    let matrix = vec![sizes.vocabulary, sizes.hidden];
    let part = |source, name, shape| Part {
        source,
        name,
        shape,
        interleaved_heads: None,
    };
    [
        part(
            "token_embd.weight",
            "model.embed_tokens.weight",
            matrix.clone(),
        ),
        part(
            "output_norm.weight",
            "model.norm.weight",
            vec![sizes.hidden],
        ),
        part("output.weight", "lm_head.weight", matrix),
    ]
}

/// The tensors of a layer; biases are optional but for q, k and v of qwen2.
fn layer_parts(sizes: &Sizes, family: Family) -> [Part; 16] {
    let Sizes {
        hidden,
        inner,
        heads,
        kv_heads,
        head,
        ..
    } = *sizes;
    let (q, kv) = (heads.saturating_mul(head), kv_heads.saturating_mul(head));
    let interleaved = family != Family::Qwen2;
    let part = |source, name, shape: &[usize]| Part {
        source,
        name,
        shape: shape.into(),
        interleaved_heads: None,
    };
    let rotated = |source, name, shape, heads| Part {
        interleaved_heads: interleaved.then_some(heads),
        ..part(source, name, shape)
    };
    [
        part("attn_norm.weight", "input_layernorm.weight", &[hidden]),
        rotated(
            "attn_q.weight",
            "self_attn.q_proj.weight",
            &[q, hidden],
            heads,
        ),
        rotated("attn_q.bias", "self_attn.q_proj.bias", &[q], heads),
        rotated(
            "attn_k.weight",
            "self_attn.k_proj.weight",
            &[kv, hidden],
            kv_heads,
        ),
        rotated("attn_k.bias", "self_attn.k_proj.bias", &[kv], kv_heads),
        part("attn_v.weight", "self_attn.v_proj.weight", &[kv, hidden]),
        part("attn_v.bias", "self_attn.v_proj.bias", &[kv]),
        part(
            "attn_output.weight",
            "self_attn.o_proj.weight",
            &[hidden, q],
        ),
        part("attn_output.bias", "self_attn.o_proj.bias", &[hidden]),
        part(
            "ffn_norm.weight",
            "post_attention_layernorm.weight",
            &[hidden],
        ),
        part("ffn_gate.weight", "mlp.gate_proj.weight", &[inner, hidden]),
        part("ffn_gate.bias", "mlp.gate_proj.bias", &[inner]),
        part("ffn_up.weight", "mlp.up_proj.weight", &[inner, hidden]),
        part("ffn_up.bias", "mlp.up_proj.bias", &[inner]),
        part("ffn_down.weight", "mlp.down_proj.weight", &[hidden, inner]),
        part("ffn_down.bias", "mlp.down_proj.bias", &[hidden]),
    ]
}

impl HfTensor {
    /// Name in the file.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    fn reorder(&self, numbers: &mut [f32]) {
        if let Some(heads) = self.interleaved_heads {
            let width = self.shape.get(1).copied().unwrap_or(1);
            join_halves(numbers, self.shape[0] / heads, width);
        }
    }
}

/// Takes the rows of each head (`head` rows of `width` numbers) from the order `(0, h, 1, h + 1, …)`, h = `head` / 2, to
/// `(0, 1, …, h, h + 1, …)`. Needs one head's worth of memory.
fn join_halves(numbers: &mut [f32], head: usize, width: usize) {
    let half = head / 2;
    let mut interleaved = vec![0.0; head * width];
    for rows in numbers.chunks_exact_mut(head * width) {
        interleaved.copy_from_slice(rows);
        for (place, row) in rows.chunks_exact_mut(width).enumerate() {
            let source = place % half * 2 + place / half;
            row.copy_from_slice(&interleaved[source * width..][..width]);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::{Writer, array_value, bool_value, f32_value, text_value, u32_value};
    use super::*;

    /// Width 8, 2 heads of 4 sharing 1 key, inner width 6, 5 tokens, 1 layer.
    pub(in super::super) fn model(architecture: &str) -> Writer {
        let mut writer = Writer::new(&[("general.architecture", text_value(architecture))]);
        for (key, size) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 8),
            ("feed_forward_length", 6),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            writer = writer.set(&format!("{architecture}.{key}"), u32_value(size));
        }
        writer = writer.set(
            &format!("{architecture}.attention.layer_norm_rms_epsilon"),
            f32_value(1e-6),
        );
        for (name, sizes) in [
            ("token_embd.weight", &[8, 5][..]),
            ("output_norm.weight", &[8]),
            ("blk.0.attn_norm.weight", &[8]),
            ("blk.0.attn_q.weight", &[8, 8]),
            ("blk.0.attn_k.weight", &[8, 4]),
            ("blk.0.attn_v.weight", &[8, 4]),
            ("blk.0.attn_output.weight", &[8, 8]),
            ("blk.0.ffn_norm.weight", &[8]),
            ("blk.0.ffn_gate.weight", &[8, 6]),
            ("blk.0.ffn_up.weight", &[8, 6]),
            ("blk.0.ffn_down.weight", &[6, 8]),
        ] {
            writer = writer.counting(name, sizes);
        }
        if architecture == "qwen2" {
            for (name, size) in [("q", 8), ("k", 4), ("v", 4)] {
                writer = writer.counting(&format!("blk.0.attn_{name}.bias"), &[size]);
            }
        }
        writer
    }

    fn refusal(writer: &Writer) -> String {
        let mut file = writer.open();
        let error = file
            .config()
            .map(drop)
            .and_then(|()| file.hf_tensors().map(drop))
            .unwrap_err();
        error
            .to_string()
            .trim_start_matches("model.gguf: ")
            .to_string()
    }

    /// The first column of each row says which row of the file it was.
    fn rows(writer: &Writer, name: &str) -> Vec<f32> {
        let mut file = writer.open();
        let tensor = file
            .hf_tensors()
            .unwrap()
            .into_iter()
            .find(|tensor| tensor.name == name)
            .unwrap();
        let (numbers, width) = (
            file.hf_tensor(&tensor).unwrap(),
            tensor.shape.get(1).copied().unwrap_or(1),
        );
        let mut again = vec![0.0; numbers.len()];
        file.hf_tensor_into(&tensor, &mut again).unwrap();
        assert_eq!(again, numbers);
        numbers
            .iter()
            .step_by(width)
            .map(|number| number / width as f32)
            .collect()
    }

    #[test]
    fn names_and_shapes_are_hugging_faces() {
        let tensors = model("llama")
            .counting("output.weight", &[8, 5])
            .open()
            .hf_tensors()
            .unwrap();
        let list: Vec<_> = tensors
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))
            .collect();
        let expected: [(&str, &[usize]); 12] = [
            ("model.embed_tokens.weight", &[5, 8]),
            ("model.norm.weight", &[8]),
            ("lm_head.weight", &[5, 8]),
            ("model.layers.0.input_layernorm.weight", &[8]),
            ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
            ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
            ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
            ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
            ("model.layers.0.post_attention_layernorm.weight", &[8]),
            ("model.layers.0.mlp.gate_proj.weight", &[6, 8]),
            ("model.layers.0.mlp.up_proj.weight", &[6, 8]),
            ("model.layers.0.mlp.down_proj.weight", &[8, 6]),
        ];
        assert_eq!(list, expected);
    }

    /// A head of 4: the file holds rows 0, 2, 1, 3 of the original at places 0, 1, 2, 3.
    #[test]
    fn interleaved_rows_go_back_to_halves() {
        for architecture in ["llama", "minicpm"] {
            let writer = model(architecture);
            let q = rows(&writer, "model.layers.0.self_attn.q_proj.weight");
            assert_eq!(q, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
            assert_eq!(
                rows(&writer, "model.layers.0.self_attn.k_proj.weight"),
                [0.0, 2.0, 1.0, 3.0]
            );
            assert_eq!(
                rows(&writer, "model.layers.0.self_attn.v_proj.weight"),
                [0.0, 1.0, 2.0, 3.0]
            );
        }
        let bias = rows(
            &model("llama").counting("blk.0.attn_q.bias", &[8]),
            "model.layers.0.self_attn.q_proj.bias",
        );
        assert_eq!(bias, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let mut six: Vec<f32> = (0..6_u8).map(f32::from).collect();
        join_halves(&mut six, 6, 1);
        assert_eq!(six, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    }

    #[test]
    fn qwen2_rows_stay() {
        let writer = model("qwen2");
        for part in ["q_proj.weight", "q_proj.bias"] {
            let rows = rows(&writer, &format!("model.layers.0.self_attn.{part}"));
            assert_eq!(rows, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "{part}");
        }
    }

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
    fn yarn_keeps_its_numbers() {
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

    /// `MiniCPM`-2B: 12, 1.4 / √40 and 2304 / 256.
    #[test]
    fn minicpm_scales_go_back() {
        let scales = |writer: Writer| {
            let config = writer.open().config().unwrap();
            ["scale_emb", "scale_depth", "dim_model_base"].map(|key| config[key].as_f64().unwrap())
        };
        assert_eq!(scales(model("minicpm")), [12.0, 1.4, 256.0]);
        let given = model("minicpm")
            .set("minicpm.embedding_scale", f32_value(3.0))
            .set("minicpm.residual_scale", f32_value(0.7))
            .set("minicpm.logit_scale", f32_value(2.0));
        assert_eq!(scales(given), [3.0, 0.7, 4.0]);
        assert_eq!(
            single(f64::from(1.4_f32 / 40_f32.sqrt()) * 40_f64.sqrt()),
            1.4
        );
    }

    #[test]
    fn llama3_scaling_is_known_by_its_divisors() {
        let with = |factors: [f32; 2]| {
            let mut writer = model("llama")
                .set("llama.rope.freq_base", f32_value(5e5))
                .counting(ROPE_FACTORS, &[2]);
            writer.tensors[11].data = factors
                .iter()
                .flat_map(|factor| factor.to_le_bytes())
                .collect();
            writer
        };
        // Pair 1 has the wavelength 2π √500000 = 4442.9: 1.84384 turns in 8192, smooth = 0.84384 / 3.
        let factor = 1.0 / ((1.0 - 0.281_28) / 32.0 + 0.281_28);
        let made: Vec<f64> = llama3_factors(5e5, 32.0, 2).collect();
        assert!(
            (made[0] - 1.0).abs() < 1e-9 && (made[1] - factor).abs() < 1e-3,
            "{made:?}, {factor}"
        );
        assert_eq!(
            with([1.0, 1.0])
                .open()
                .config()
                .unwrap()
                .get("rope_scaling"),
            None
        );
        assert_eq!(
            with([1.0, 3.5]).open().rope_factors().unwrap(),
            Some(vec![1.0, 3.5])
        );
        assert_eq!(model("llama").open().rope_factors().unwrap(), None);
        assert!(refusal(&with([1.0, 3.5])).ends_with("is not the llama3 scaling by 3.5"));
        assert!(refusal(&with([1.0, -1.0])).ends_with("tensor rope_freqs.weight holds -1"));
        let both = with([1.0, 2.0]).set("llama.rope.scaling.type", text_value("linear"));
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
    fn what_is_not_computed_is_refused() {
        let llama = || model("llama");
        for (writer, reason) in [
            (
                llama().set("general.architecture", text_value("gemma")),
                "architecture \"gemma\"; llama, qwen2 and",
            ),
            (
                llama().set("general.architecture", u32_value(1)),
                "metadata general.architecture is not a text",
            ),
            (
                llama().set("llama.expert_count", u32_value(8)),
                "metadata llama.expert_count is Unsigned(8)",
            ),
            (
                llama().set("llama.attention.sliding_window", u32_value(9)),
                "metadata llama.attention.sliding_window",
            ),
            (
                llama().set("llama.attention.causal", bool_value(false)),
                "attention that is not causal",
            ),
            (
                llama().set("split.count", u32_value(3)),
                "one of 3 files of a model; join them",
            ),
            (
                llama().set("llama.rope.dimension_count", u32_value(2)),
                "metadata llama.rope.dimension_count is 2",
            ),
            (
                llama().set("llama.rope.scaling.type", text_value("longrope")),
                "rope scaling \"longrope\"; linear and",
            ),
            (
                llama().set("llama.rope.scaling.type", text_value("linear")),
                "metadata llama.rope.scaling.factor is mis",
            ),
            (
                llama().set("llama.attention.head_count", u32_value(3)),
                "hidden width 8 does not split into 3 heads",
            ),
        ] {
            let error = refusal(&writer);
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for (key, size, reason) in [
            (
                "attention.head_count",
                0,
                "0 heads of width 0 share 1 keys; inner width 6",
            ),
            (
                "attention.head_count_kv",
                3,
                "2 heads of width 4 share 3 keys; inner width 6",
            ),
            (
                "embedding_length",
                7,
                "tensor token_embd.weight has shape [5, 8], the metadata asks for [5, 7]",
            ),
            (
                "vocab_size",
                6,
                "tensor token_embd.weight has shape [5, 8], the metadata asks for [6, 8]",
            ),
            ("block_count", 0, "metadata llama.block_count is 0"),
            (
                "block_count",
                u32::MAX,
                "tensor blk.1.attn_norm.weight is missing",
            ),
            (
                "feed_forward_length",
                7,
                "tensor blk.0.ffn_gate.weight has shape [6, 8], the metadata asks for [7, 8]",
            ),
            (
                "attention.key_length",
                6,
                "tensor blk.0.attn_q.weight has shape [8, 8], the metadata asks for [12, 8]",
            ),
            (
                "attention.key_length",
                3,
                "hidden width 8 does not split into 2 heads of even width",
            ),
        ] {
            assert_eq!(
                refusal(&model("llama").set(&format!("llama.{key}"), u32_value(size))),
                reason
            );
        }
        let mut bare = model("llama");
        bare.values.retain(|(key, _)| key != "llama.context_length");
        assert_eq!(refusal(&bare), "metadata llama.context_length is missing");
    }

    #[test]
    fn the_tensors_are_all_and_no_others() {
        let mut short = model("qwen2");
        short.tensors.pop();
        assert_eq!(refusal(&short), "tensor blk.0.attn_v.bias is missing");
        let strange = model("llama").counting("blk.0.ffn_gate_inp.weight", &[8]);
        assert_eq!(
            refusal(&strange),
            "tensor blk.0.ffn_gate_inp.weight has no place in a llama model"
        );
    }
}
