//! How the tensors of some families' checkpoints differ from those of the decoder, and the conversion in both directions.
//!
//! | family | checkpoint | decoder |
//! | --- | --- | --- |
//! | phi3 | `qkv_proj`, `gate_up_proj` | `q_proj`, `k_proj`, `v_proj`, `gate_proj`, `up_proj` |
//! | phi3 | the first r numbers of a head are rotated | the first r/2 of each half |
//!
//! A decoder rotates the pairs (d, d + width/2) of a head. If only r numbers are rotated, the checkpoint pairs (d, d + r/2)
//! with d < r/2. The rows of queries and keys are reordered alike, so no score changes.

use crate::error::AgentError;
use crate::model::config::DecoderConfig;
use crate::model::lora::{LORA_A, LORA_B, PEFT_PREFIX};
use crate::model::weights::{HostTensor, Weights};
use std::borrow::Cow;

/// A matrix of a checkpoint that is several matrices of the decoder.
struct JoinedMatrix {
    name: &'static str,
    /// Names and rows, from the first row on.
    parts: Vec<(&'static str, usize)>,
}

fn joined_matrices(config: &DecoderConfig) -> Vec<JoinedMatrix> {
    let [queries, kv, inner] = [
        config.query_width(),
        config.kv_width(),
        config.intermediate_size,
    ];
    if !config.joins_matrices() {
        return Vec::new();
    }
    vec![
        JoinedMatrix {
            name: "self_attn.qkv_proj",
            parts: vec![
                ("self_attn.q_proj", queries),
                ("self_attn.k_proj", kv),
                ("self_attn.v_proj", kv),
            ],
        },
        JoinedMatrix {
            name: "mlp.gate_up_proj",
            parts: vec![("mlp.gate_proj", inner), ("mlp.up_proj", inner)],
        },
    ]
}

/// For each number of a head of the decoder, its index in a head of the checkpoint.
fn rotary_order(width: usize, rotated: usize) -> Vec<usize> {
    let (half, pairs) = (width / 2, rotated / 2);
    let of_half = |first: usize, kept: usize| {
        (0..half).map(move |d| {
            if d < pairs {
                first + d
            } else {
                kept + d - pairs
            }
        })
    };
    of_half(0, rotated)
        .chain(of_half(pairs, rotated + half - pairs))
        .collect()
}

/// Reorders the rows of each head of `[heads · width, columns]`. If `back`, from the decoder's order to the checkpoint's.
fn reorder_heads(data: &[f32], columns: usize, order: &[usize], back: bool) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    let size = order.len() * columns;
    let heads = data.chunks_exact(size).zip(out.chunks_exact_mut(size));
    for (data, out) in heads {
        for (ours, theirs) in order.iter().enumerate() {
            let (from, to) = if back {
                (ours, *theirs)
            } else {
                (*theirs, ours)
            };
            out[to * columns..][..columns].copy_from_slice(&data[from * columns..][..columns]);
        }
    }
    out
}

/// A joined matrix whose parts have adapters.
pub(in crate::model) struct JoinedFactors {
    /// Names without the block.
    pub(in crate::model) name: &'static str,
    pub(in crate::model) parts: Vec<&'static str>,
    /// How many parts have adapters.
    pub(in crate::model) count: usize,
}

/// The name of a matrix without its block.
fn module_name(name: &'static str) -> &'static str {
    name.rsplit('.').next().unwrap_or(name)
}

/// What is converted in a configuration.
struct LayoutConversion<'a> {
    config: &'a DecoderConfig,
    joined: Vec<JoinedMatrix>,
    /// [`rotary_order`], if it is not the identity.
    order: Option<Vec<usize>>,
}

impl<'a> LayoutConversion<'a> {
    fn new(config: &'a DecoderConfig) -> Self {
        let (width, rotated) = (config.head_width(), config.rotated_width());
        Self {
            config,
            joined: joined_matrices(config),
            order: (rotated < width).then(|| rotary_order(width, rotated)),
        }
    }

    fn is_identity(&self) -> bool {
        self.joined.is_empty() && self.order.is_none()
    }

    /// Reorders the rows of queries and keys; `suffix` follows the name of a matrix.
    fn reorder(&self, weights: &mut Weights, suffix: &str, back: bool) {
        let Some(order) = &self.order else { return };
        for (name, tensor) in &mut weights.0 {
            let rows = name
                .strip_suffix(suffix)
                .and_then(|module| self.rotated_rows(module));
            match (rows, &tensor.shape[..]) {
                (Some(rows), [found, columns]) if rows == *found && *columns > 0 => {
                    tensor.data = reorder_heads(&tensor.data, *columns, order, back);
                }
                _ => {} // another shape is refused elsewhere
            }
        }
    }

    /// The rows of a matrix whose outputs are rotated.
    fn rotated_rows(&self, module: &str) -> Option<usize> {
        if module.ends_with("self_attn.q_proj") {
            Some(self.config.query_width())
        } else if module.ends_with("self_attn.k_proj") {
            Some(self.config.kv_width())
        } else {
            None
        }
    }

    /// The matrices with a name that ends with that of a joined matrix and `suffix`, and their prefixes.
    fn prefixes(weights: &Weights, name: &str, suffix: &str) -> Vec<String> {
        let end = format!("{name}{suffix}");
        let names = weights.0.keys();
        names
            .filter_map(|name| name.strip_suffix(&end).map(str::to_owned))
            .collect()
    }
}

impl Weights {
    /// Changes the tensors of a checkpoint to those of the decoder.
    ///
    /// # Errors
    /// If a joined matrix has another shape than `config` requires.
    pub fn unpack(&mut self, config: &DecoderConfig) -> Result<(), AgentError> {
        let conversion = LayoutConversion::new(config);
        for JoinedMatrix { name, parts } in &conversion.joined {
            for prefix in LayoutConversion::prefixes(self, name, ".weight") {
                let rows = parts.iter().map(|(_, rows)| rows).sum();
                let whole = format!("{prefix}{name}.weight");
                let data = self.take(&whole, &[rows, config.hidden_size])?;
                split_rows(
                    self,
                    &data,
                    config.hidden_size,
                    |part| format!("{prefix}{part}.weight"),
                    parts,
                );
            }
        }
        conversion.reorder(self, ".weight", false);
        Ok(())
    }

    /// Returns the tensors as a checkpoint of the family has them. [`Weights::unpack`] reverts it.
    #[must_use]
    pub fn packed(&self, config: &DecoderConfig) -> Cow<'_, Self> {
        if LayoutConversion::new(config).is_identity() {
            Cow::Borrowed(self)
        } else {
            Cow::Owned(self.clone().into_packed(config))
        }
    }

    /// The same, without a copy of tensors that do not change.
    #[must_use]
    pub fn into_packed(self, config: &DecoderConfig) -> Self {
        let conversion = LayoutConversion::new(config);
        let mut weights = self;
        conversion.reorder(&mut weights, ".weight", true);
        for JoinedMatrix { name, parts } in &conversion.joined {
            for prefix in LayoutConversion::prefixes(&weights, parts[0].0, ".weight") {
                let mut data = Vec::new();
                for (part, _) in parts {
                    let part = weights.0.remove(&format!("{prefix}{part}.weight"));
                    data.extend(part.map(|tensor| tensor.data).unwrap_or_default());
                }
                let shape = vec![data.len() / config.hidden_size, config.hidden_size];
                let whole = format!("{prefix}{name}.weight");
                weights.0.insert(whole, HostTensor { shape, data });
            }
        }
        weights
    }

    /// Returns the factors of adapters as those on a checkpoint of the family. A of a joined matrix has the rows of all its
    /// parts' A, and B is block-diagonal.
    pub(in crate::model) fn into_packed_factors(
        self,
        config: &DecoderConfig,
    ) -> (Self, Vec<JoinedFactors>) {
        let conversion = LayoutConversion::new(config);
        let mut weights = self;
        conversion.reorder(&mut weights, LORA_B, true);
        let mut joined = Vec::new();
        for JoinedMatrix { name, parts } in &conversion.joined {
            let mut count = 0;
            for layer in 0..config.num_hidden_layers {
                let prefix = format!("{PEFT_PREFIX}model.layers.{layer}.");
                count = join_factors(&mut weights, &prefix, name, parts);
            }
            if count > 0 {
                joined.push(JoinedFactors {
                    name: module_name(name),
                    parts: parts.iter().map(|(part, _)| module_name(part)).collect(),
                    count,
                });
            }
        }
        (weights, joined)
    }
}

/// Inserts each part's rows of a joined matrix.
fn split_rows(
    weights: &mut Weights,
    data: &[f32],
    columns: usize,
    name: impl Fn(&str) -> String,
    parts: &[(&'static str, usize)],
) {
    let mut first = 0;
    for (part, rows) in parts {
        let tensor = HostTensor {
            shape: vec![*rows, columns],
            data: data[first * columns..][..rows * columns].to_vec(),
        };
        weights.0.insert(name(part), tensor);
        first += rows;
    }
}

/// Joins the factors of a matrix's parts in one layer; returns how many parts have some.
fn join_factors(
    weights: &mut Weights,
    prefix: &str,
    name: &str,
    parts: &[(&'static str, usize)],
) -> usize {
    let total: usize = parts.iter().map(|(_, rows)| rows).sum();
    let mut found = Vec::new();
    let mut first = 0;
    for (part, rows) in parts {
        let a = weights.0.remove(&format!("{prefix}{part}{LORA_A}"));
        let b = weights.0.remove(&format!("{prefix}{part}{LORA_B}"));
        if let (Some(a), Some(b)) = (a, b) {
            found.push((first, a, b));
        }
        first += rows;
    }
    let rank: usize = found.iter().map(|(_, a, _)| a.shape[0]).sum();
    let Some(inputs) = found.first().map(|(_, a, _)| a.shape[1]) else {
        return 0;
    };
    let present = found.len();
    let mut down = Vec::with_capacity(rank * inputs);
    let mut up = vec![0.0; total * rank];
    let mut column = 0;
    for (first, a, b) in found {
        down.extend(a.data);
        let width = a.shape[0];
        for (row, numbers) in b.data.chunks_exact(width).enumerate() {
            up[(first + row) * rank + column..][..width].copy_from_slice(numbers);
        }
        column += width;
    }
    for (factor, shape, data) in [
        (LORA_A, vec![rank, inputs], down),
        (LORA_B, vec![total, rank], up),
    ] {
        let tensor = HostTensor { shape, data };
        weights.0.insert(format!("{prefix}{name}{factor}"), tensor);
    }
    present
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Family;
    use crate::model::weights::tests::tiny_config;

    fn config(family: Family, rotary_width: Option<usize>) -> DecoderConfig {
        DecoderConfig {
            family,
            rotary_width,
            head_dim: Some(8),
            ..tiny_config()
        }
    }

    /// Numbers that all differ, in every tensor.
    fn numbered(config: &DecoderConfig) -> Weights {
        let tensors = config.tensors().into_iter().enumerate();
        let tensors = tensors.map(|(k, (name, shape))| {
            let size = shape.iter().product::<usize>();
            let data = (0..size).map(|i| ((k * 5000 + i) as f32).sin() + 1.0);
            let data = data.collect();
            (name, HostTensor { shape, data })
        });
        Weights(tensors.collect())
    }

    #[test]
    fn a_part_of_a_head_is_paired_as_in_the_checkpoint() {
        // Of eight numbers four are rotated, in the pairs (0, 2) and (1, 3) of the checkpoint.
        assert_eq!(rotary_order(8, 4), [0, 1, 4, 5, 2, 3, 6, 7]);
        assert_eq!(rotary_order(4, 4), [0, 1, 2, 3]);
        let rows: Vec<f32> = (0..8).map(|row| row as f32).collect();
        let ours = reorder_heads(&rows, 1, &rotary_order(8, 4), false);
        assert_eq!(ours, [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        assert_eq!(reorder_heads(&ours, 1, &rotary_order(8, 4), true), rows);
    }

    #[test]
    fn unpacking_reverts_packing() {
        for config in [
            config(Family::Phi3, None),
            config(Family::Phi3, Some(4)),
            config(Family::Gemma3, None),
            config(Family::Llama, None),
        ] {
            let weights = numbered(&config);
            let mut again = weights.packed(&config).into_owned();
            assert_eq!(again == weights, config.family != Family::Phi3);
            again.unpack(&config).unwrap();
            assert_eq!(
                again.0.keys().collect::<Vec<_>>(),
                weights.0.keys().collect::<Vec<_>>()
            );
            for (name, tensor) in &weights.0 {
                let off = tensor.data.iter().zip(&again.0[name].data);
                let off = off.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-6, "{name} is off by {off}");
            }
        }
    }

    #[test]
    fn a_joined_matrix_of_another_shape_is_named() {
        let config = config(Family::Phi3, None);
        let mut weights = numbered(&config).packed(&config).into_owned();
        let name = "model.layers.1.self_attn.qkv_proj.weight";
        weights.0.get_mut(name).unwrap().shape[0] -= 1;
        let error = weights.unpack(&config).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("expected"),
            "{error}"
        );
    }
}
