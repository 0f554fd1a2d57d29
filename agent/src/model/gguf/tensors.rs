//! The tensors of a GGUF file with Hugging Face's names, shapes and order of rows.
//!
//! Undoes what llama.cpp's `convert_hf_to_gguf.py` did. For llama, minicpm, granite and smollm3, the script reorders
//! the rows of q and k for interleaved rotation: `(0, d/2, 1, d/2 + 1, …)` within each head of width
//! d. Here they go back to the two halves. For the other families the halves were kept. The norms of gemma3 are 1 + w in the
//! file, as in the decoder.

use super::file::GgufFile;
use super::sizes::GgufSizes;
use crate::error::AgentError;
use crate::model::config::{Family, QueryNorms};
use std::collections::BTreeSet;
use std::io::{Read, Seek};

/// Divisors of the rotary frequencies, as llama3 scaling makes them.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Divisors of the rotary frequencies for short and for long contexts (phi3).
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";

/// A tensor in Hugging Face's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfTensor {
    /// Such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `[out, in]`, or `[out]`.
    pub shape: Vec<usize>,
    /// Name in the file.
    source: String,
    /// The number of heads, if the file has their rows interleaved.
    interleaved_heads: Option<usize>,
}

impl<R: Read + Seek> GgufFile<R> {
    /// The numbers of a tensor from [`GgufFile::hf_tensors`], row-major, rows in Hugging Face's
    /// order.
    ///
    /// # Errors
    /// If the file cannot be read, or the memory cannot be allocated.
    pub fn hf_tensor(&mut self, tensor: &HfTensor) -> Result<Vec<f32>, AgentError> {
        let mut numbers = self.tensor(&tensor.source)?;
        tensor.reorder(&mut numbers);
        Ok(numbers)
    }

    /// As [`GgufFile::hf_tensor`], into `out`.
    ///
    /// # Errors
    /// If `out` has another length than the tensor, or the file cannot be read.
    pub fn hf_tensor_into(&mut self, tensor: &HfTensor, out: &mut [f32]) -> Result<(), AgentError> {
        self.tensor_into(&tensor.source, out)?;
        tensor.reorder(out);
        Ok(())
    }
}

impl<R> GgufFile<R> {
    /// The model's tensors in the order of its layers: all that the architecture needs, with the
    /// shapes that the metadata requires, and no others.
    ///
    /// # Errors
    /// If one is missing, has another shape, or does not belong to the architecture.
    pub fn hf_tensors(&self) -> Result<Vec<HfTensor>, AgentError> {
        let family = self.family()?;
        let sizes = self.sizes()?;
        let mut found = Vec::new();
        for part in outer_tensors(&sizes) {
            let is_needed = part.source != "output.weight";
            let tensor = self.find(part.source.into(), part.name.clone(), &part, is_needed)?;
            found.extend(tensor);
        }
        for layer in 0..sizes.layers {
            for part in layer_tensors(&sizes, family) {
                let is_needed = match part.source {
                    source if source.ends_with(".bias") => family.traits().biases && is_qkv(source),
                    _ => true,
                };
                let source = format!("blk.{layer}.{}", part.source);
                let name = format!("model.layers.{layer}.{}", part.name);
                found.extend(self.find(source, name, &part, is_needed)?);
            }
        }
        self.refuse_others(&found)?;
        Ok(found)
    }

    /// The tensor `source` of the file. `None` if it is missing and not needed.
    fn find(
        &self,
        source: String,
        name: String,
        part: &ExpectedTensor,
        is_needed: bool,
    ) -> Result<Option<HfTensor>, AgentError> {
        let Some(info) = self.tensors.get(&source) else {
            return if is_needed {
                Err(self.content(format!("tensor {source} is missing")))
            } else {
                Ok(None)
            };
        };
        if info.shape != part.shape {
            return Err(self.content(format!(
                "tensor {source} has shape {:?}, the metadata requires {:?}",
                info.shape, part.shape
            )));
        }
        Ok(Some(HfTensor {
            name,
            shape: part.shape.clone(),
            source,
            interleaved_heads: part.interleaved_heads,
        }))
    }

    fn refuse_others(&self, found: &[HfTensor]) -> Result<(), AgentError> {
        let known: BTreeSet<&str> = found.iter().map(|tensor| tensor.source.as_str()).collect();
        let family = self.family()?;
        let other = self
            .tensors
            .keys()
            .find(|name| !known.contains(name.as_str()) && !is_read_by_config(name, family));
        match other {
            Some(name) => Err(self.content(format!(
                "tensor {name} does not belong to a {} model",
                family.name()
            ))),
            None => Ok(()),
        }
    }
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

/// Reorders the rows of each head (`head` rows of `width` numbers) from `(0, h, 1, h + 1, …)`,
/// h = `head` / 2, to `(0, 1, …, h, h + 1, …)`. Needs the memory of one head.
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

fn is_qkv(source: &str) -> bool {
    ["attn_q.", "attn_k.", "attn_v."]
        .iter()
        .any(|start| source.starts_with(start))
}

/// A tensor that a model may have.
struct ExpectedTensor {
    source: &'static str,
    name: String,
    shape: Vec<usize>,
    interleaved_heads: Option<usize>,
}

impl ExpectedTensor {
    fn new(source: &'static str, name: &str, shape: &[usize]) -> Self {
        Self {
            source,
            name: name.to_owned(),
            shape: shape.into(),
            interleaved_heads: None,
        }
    }

    /// The same, with the rows of so many heads interleaved.
    fn interleaved(self, heads: Option<usize>) -> Self {
        Self {
            interleaved_heads: heads,
            ..self
        }
    }
}

/// The tensors outside of layers.
fn outer_tensors(sizes: &GgufSizes) -> [ExpectedTensor; 3] {
    let matrix = [sizes.vocabulary, sizes.hidden];
    [
        ExpectedTensor::new("token_embd.weight", "model.embed_tokens.weight", &matrix),
        ExpectedTensor::new("output_norm.weight", "model.norm.weight", &[sizes.hidden]),
        ExpectedTensor::new("output.weight", "lm_head.weight", &matrix),
    ]
}

/// Whether a tensor holds divisors that the configuration contains.
fn is_read_by_config(name: &str, family: Family) -> bool {
    match name {
        SHORT_FACTORS | LONG_FACTORS => family == Family::Phi3,
        name => name == ROPE_FACTORS,
    }
}

/// The tensors of a layer. A bias is optional, except if it is that of q, k or v in qwen2.
fn layer_tensors(sizes: &GgufSizes, family: Family) -> Vec<ExpectedTensor> {
    use ExpectedTensor as T;
    let hidden = sizes.hidden;
    let inner = sizes.inner;
    let q = sizes.heads.saturating_mul(sizes.head);
    let kv = sizes.kv_heads.saturating_mul(sizes.head);
    let traits = family.traits();
    let is_interleaved = matches!(
        family,
        Family::Llama | Family::MiniCpm | Family::Granite | Family::SmolLm3
    );
    let q_heads = is_interleaved.then_some(sizes.heads);
    let k_heads = is_interleaved.then_some(sizes.kv_heads);
    let norms = [
        ("attn_norm.weight", traits.norms.before_attention),
        ("post_attention_norm.weight", traits.norms.after_attention),
        ("ffn_norm.weight", traits.norms.before_mlp),
        ("post_ffw_norm.weight", traits.norms.after_mlp),
    ];
    let norms = norms.into_iter().filter_map(|(source, name)| {
        let name = format!("{}.weight", name?);
        Some(T::new(source, &name, &[hidden]))
    });
    let mut list: Vec<ExpectedTensor> = norms.collect();
    if traits.joined {
        let rows = kv.saturating_mul(2).saturating_add(q);
        list.push(T::new(
            "attn_qkv.weight",
            "self_attn.qkv_proj.weight",
            &[rows, hidden],
        ));
        let rows = inner.saturating_mul(2);
        list.push(T::new(
            "ffn_up.weight",
            "mlp.gate_up_proj.weight",
            &[rows, hidden],
        ));
    } else {
        list.extend([
            T::new("attn_q.weight", "self_attn.q_proj.weight", &[q, hidden]).interleaved(q_heads),
            T::new("attn_q.bias", "self_attn.q_proj.bias", &[q]).interleaved(q_heads),
            T::new("attn_k.weight", "self_attn.k_proj.weight", &[kv, hidden]).interleaved(k_heads),
            T::new("attn_k.bias", "self_attn.k_proj.bias", &[kv]).interleaved(k_heads),
            T::new("attn_v.weight", "self_attn.v_proj.weight", &[kv, hidden]),
            T::new("attn_v.bias", "self_attn.v_proj.bias", &[kv]),
            T::new("ffn_gate.weight", "mlp.gate_proj.weight", &[inner, hidden]),
            T::new("ffn_gate.bias", "mlp.gate_proj.bias", &[inner]),
            T::new("ffn_up.weight", "mlp.up_proj.weight", &[inner, hidden]),
            T::new("ffn_up.bias", "mlp.up_proj.bias", &[inner]),
        ]);
    }
    let query_norms = match traits.query_norms {
        QueryNorms::None => None,
        QueryNorms::Head => Some([sizes.head; 2]),
        QueryNorms::All => Some([q, kv]),
    };
    if let Some([of_queries, of_keys]) = query_norms {
        list.extend([
            T::new(
                "attn_q_norm.weight",
                "self_attn.q_norm.weight",
                &[of_queries],
            ),
            T::new("attn_k_norm.weight", "self_attn.k_norm.weight", &[of_keys]),
        ]);
    }
    list.extend([
        T::new(
            "attn_output.weight",
            "self_attn.o_proj.weight",
            &[hidden, q],
        ),
        T::new("attn_output.bias", "self_attn.o_proj.bias", &[hidden]),
        T::new("ffn_down.weight", "mlp.down_proj.weight", &[hidden, inner]),
        T::new("ffn_down.bias", "mlp.down_proj.bias", &[hidden]),
    ]);
    list
}

#[cfg(test)]
mod tests {
    use super::super::test_files::{GgufWriter, model, refusal};
    use super::*;

    /// The first column of each row is its place in the file.
    fn rows(writer: &GgufWriter, name: &str) -> Vec<f32> {
        let mut file = writer.open();
        let tensor = file
            .hf_tensors()
            .unwrap()
            .into_iter()
            .find(|tensor| tensor.name == name)
            .unwrap();
        let numbers = file.hf_tensor(&tensor).unwrap();
        let width = tensor.shape.get(1).copied().unwrap_or(1);
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
            ("model.layers.0.post_attention_layernorm.weight", &[8]),
            ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
            ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
            ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
            ("model.layers.0.mlp.gate_proj.weight", &[6, 8]),
            ("model.layers.0.mlp.up_proj.weight", &[6, 8]),
            ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
            ("model.layers.0.mlp.down_proj.weight", &[8, 6]),
        ];
        assert_eq!(list, expected);
    }

    /// A head of 4: the file has rows 0, 2, 1, 3 of the original at places 0, 1, 2, 3.
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
    fn qwen3_has_the_norms_of_its_heads_and_keeps_the_order_of_rows() {
        let writer = model("qwen3");
        let first = |name: &str| rows(&writer, name)[..3].to_vec();
        assert_eq!(
            first("model.layers.0.self_attn.q_proj.weight"),
            [0.0, 1.0, 2.0]
        );
        assert_eq!(
            first("model.layers.0.self_attn.q_norm.weight"),
            [0.0, 1.0, 2.0]
        );
        let mut bare = model("qwen3");
        bare.tensors
            .retain(|tensor| !tensor.name.contains("k_norm"));
        let error = refusal(&bare);
        assert!(error.contains("attn_k_norm.weight is missing"), "{error}");
        let mut other = model("llama");
        let norm = model("qwen3").tensors.pop().unwrap();
        other.tensors.push(norm);
        assert!(refusal(&other).contains("does not belong to a llama model"));
    }

    #[test]
    fn qwen2_rows_keep_their_order() {
        let writer = model("qwen2");
        for part in ["q_proj.weight", "q_proj.bias"] {
            let rows = rows(&writer, &format!("model.layers.0.self_attn.{part}"));
            assert_eq!(rows, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "{part}");
        }
    }

    #[test]
    fn missing_and_additional_tensors_are_refused() {
        let mut short = model("qwen2");
        short.tensors.pop();
        assert_eq!(refusal(&short), "tensor blk.0.attn_v.bias is missing");
        let strange = model("llama").counting("blk.0.ffn_gate_inp.weight", &[8]);
        assert_eq!(
            refusal(&strange),
            "tensor blk.0.ffn_gate_inp.weight does not belong to a llama model"
        );
    }
}
