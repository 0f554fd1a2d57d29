//! LoRA adapters in the files of PEFT, and merging them into weights.
//!
//! ```text
//! FOLDER/adapter_config.json        rank, α, which matrices
//! FOLDER/adapter_model.safetensors  the factors, named
//!     base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight, lora_B, …
//! ```
//! The layout is that of PEFT, which can load the folder over the same base. The adapter of a value
//! network also contains its head, named `base_model.model.value_head.weight`, like modules that
//! PEFT saves whole. If PEFT loads it over a causal model, which has no such module, it ignores
//! that tensor.

use crate::error::AgentError;
use crate::files;
use crate::model::config::DecoderConfig;
use crate::model::folder::Model;
use crate::model::lora::{LORA_A, LORA_B, LoraRecipe, PEFT_PREFIX};
use crate::model::weights::layout::JoinedFactors;
use crate::model::weights::{ADVANTAGE_HEAD, VALUE_HEAD, Weights, is_head};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the file with the settings of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Name of the file with the tensors of an adapter.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// The most bytes of an `adapter_config.json`.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Written before the policy's hash as the base of an adapter that was trained here. No model of a
/// hub can have such a name.
const POLICY_PREFIX: &str = "policy:";

/// An adapter in host memory, which can be written for PEFT or merged into its base.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// `adapter_config.json`.
    config: Map<String, Value>,
    ranks: AdapterRanks,
    /// The factors, with PEFT's names.
    tensors: Weights,
}

impl Adapter {
    /// Makes the adapter of a network from its trained weights ([`Decoder::to_learned`] or
    /// [`ValueNetwork::to_learned`]); `base` is the hash of the policy on which it was trained.
    ///
    /// [`Decoder::to_learned`]: crate::model::decoder::Decoder::to_learned
    /// [`ValueNetwork::to_learned`]: crate::model::decoder::ValueNetwork::to_learned
    #[must_use]
    pub fn new(recipe: &LoraRecipe, base: &str, mut learned: Weights) -> Self {
        for name in [VALUE_HEAD, ADVANTAGE_HEAD] {
            if let Some(head) = learned.0.remove(name) {
                learned.0.insert(format!("{PEFT_PREFIX}{name}"), head);
            }
        }
        let LoraRecipe {
            rank,
            alpha,
            targets,
        } = recipe;
        let is_whole = alpha.fract() == 0.0 && alpha.abs() < 1e9;
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": format!("{POLICY_PREFIX}{base}"),
            "r": rank,
            "lora_alpha": if is_whole { json!(*alpha as i64) } else { json!(alpha) },
            "target_modules": targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
        });
        Self {
            config: config.as_object().cloned().unwrap_or_default(),
            ranks: AdapterRanks {
                rank: *rank,
                alpha: *alpha,
                is_stabilized: false,
                rank_of: BTreeMap::new(),
                alpha_of: BTreeMap::new(),
            },
            tensors: learned,
        }
    }

    /// Returns the same adapter for a checkpoint of the family ([`crate::model::weights::layout`]). If a matrix of the checkpoint is
    /// several matrices of the decoder, its rank and α are the sums of theirs.
    #[must_use]
    pub fn for_checkpoint(mut self, config: &DecoderConfig) -> Self {
        let (tensors, joined) = self.tensors.into_packed_factors(config);
        for JoinedFactors { name, parts, count } in joined {
            let AdapterRanks { rank, alpha, .. } = self.ranks;
            self.ranks.rank_of.insert(name.into(), count * rank);
            self.ranks
                .alpha_of
                .insert(name.into(), count as f64 * alpha);
            if let Some(Value::Array(targets)) = self.config.get_mut("target_modules") {
                targets.retain(|target| !parts.iter().any(|part| target == part));
                targets.push(json!(name));
            }
        }
        if !self.ranks.rank_of.is_empty() {
            let AdapterRanks {
                rank_of, alpha_of, ..
            } = &self.ranks;
            self.config.insert("rank_pattern".into(), json!(rank_of));
            self.config.insert("alpha_pattern".into(), json!(alpha_of));
        }
        Self { tensors, ..self }
    }

    /// Reads the folder of an adapter, written here or by PEFT.
    ///
    /// # Errors
    /// If a file is missing or damaged, or if the adapter needs more than `W + scale · B·A`. A
    /// computation that is not supported is refused, never ignored.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let path = folder.join(ADAPTER_CONFIG);
        let bytes = files::read(&path, CONFIG_LIMIT)?;
        let config: Map<String, Value> = serde_json::from_slice(&files::standard_json(&bytes))
            .map_err(|error| AgentError::content(&path, error.to_string()))?;
        let ranks =
            AdapterRanks::read(&config).map_err(|reason| AgentError::content(&path, reason))?;
        let tensors = Weights::open(&folder.join(ADAPTER_WEIGHTS))?;
        Ok(Self {
            config,
            ranks,
            tensors,
        })
    }

    /// Writes the folder. The tensors are written last.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), AgentError> {
        std::fs::create_dir_all(folder).map_err(|source| AgentError::file(folder, source))?;
        let path = folder.join(ADAPTER_CONFIG);
        let text = serde_json::to_string_pretty(&self.config)
            .map_err(|error| AgentError::Config(error.to_string()))?;
        scenarios::files::replace(&path, (text + "\n").as_bytes())
            .map_err(|source| AgentError::file(&path, source))?;
        self.tensors.save(&folder.join(ADAPTER_WEIGHTS))
    }

    /// Returns the hash of the policy on which it was trained; `None` if the adapter is from
    /// elsewhere.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.config
            .get("base_model_name_or_path")?
            .as_str()?
            .strip_prefix(POLICY_PREFIX)
    }

    /// Returns the base with the adapter merged into it: W + scale · B·A, and the heads of a
    /// value network.
    ///
    /// # Errors
    /// If the base lacks a matrix or has one of another shape, if A or B of a matrix is missing, or
    /// if a tensor is neither a factor nor a head.
    pub fn merge(&self, mut base: Weights) -> Result<Weights, AgentError> {
        for (name, tensor) in &self.tensors.0 {
            let module = name.strip_prefix(PEFT_PREFIX);
            if let Some(matrix) = module.and_then(|module| module.strip_suffix(LORA_A)) {
                self.merge_matrix(matrix, &mut base)?;
            } else if let Some(matrix) = module.and_then(|module| module.strip_suffix(LORA_B)) {
                let a = format!("{PEFT_PREFIX}{matrix}{LORA_A}");
                if !self.tensors.0.contains_key(&a) {
                    return Err(AgentError::Config(format!("tensor {a} is missing")));
                }
            } else if let Some(head) = module.filter(|module| is_head(module)) {
                base.get(head, &tensor.shape)?;
                base.0.insert(head.into(), tensor.clone());
            } else {
                return Err(AgentError::Config(format!(
                    "tensor {name} cannot be merged"
                )));
            }
        }
        Ok(base)
    }

    /// W + scale · B·A of one matrix, row by row.
    fn merge_matrix(&self, matrix: &str, base: &mut Weights) -> Result<(), AgentError> {
        let (rank, scale) = self.ranks.of(matrix).map_err(AgentError::Config)?;
        let name = format!("{matrix}.weight");
        let Some(whole) = base.0.get_mut(&name) else {
            return Err(AgentError::Config(format!("tensor {name} is missing")));
        };
        let [out, input] = whole.shape[..] else {
            return Err(AgentError::Config(format!(
                "tensor {name} has shape {:?}, and is not a matrix",
                whole.shape
            )));
        };
        let a = format!("{PEFT_PREFIX}{matrix}{LORA_A}");
        let a = self.tensors.get(&a, &[rank, input])?;
        let b = format!("{PEFT_PREFIX}{matrix}{LORA_B}");
        let b = self.tensors.get(&b, &[out, rank])?;
        for (row, b_row) in whole.data.chunks_exact_mut(input).zip(b.chunks_exact(rank)) {
            for (weight, a_row) in b_row.iter().zip(a.chunks_exact(input)) {
                let weight = (scale * f64::from(*weight)) as f32;
                row.iter_mut()
                    .zip(a_row)
                    .for_each(|(sum, a)| *sum += weight * a);
            }
        }
        Ok(())
    }
}

impl Model {
    /// Returns the same model with an adapter merged into its policy. A value network does not
    /// change.
    ///
    /// # Errors
    /// If the folder cannot be read, or the adapter belongs to another base.
    pub fn with_adapter(mut self, folder: &Path) -> Result<Self, AgentError> {
        let adapter = Adapter::open(folder)?;
        let hash = self.policy.hash();
        if let Some(base) = adapter.base().filter(|base| *base != hash) {
            let reason = format!("was trained on policy {base}, and this is policy {hash}");
            return Err(AgentError::content(&folder.join(ADAPTER_CONFIG), reason));
        }
        // The adapter names the matrices of a checkpoint.
        let checkpoint = self.policy.into_packed(&self.config);
        let merged = adapter.merge(checkpoint).and_then(|mut merged| {
            merged.unpack(&self.config)?;
            Ok(merged)
        });
        self.policy = merged.map_err(|error| error.in_file(&folder.join(ADAPTER_WEIGHTS)))?;
        Ok(self)
    }
}

/// Keys that do not change a merged weight. The tensors show which matrices have adapters. The
/// other keys are about training or files, or are unused without another key.
const IGNORED_KEYS: [&str; 14] = [
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
];

/// Refuses a key that asks for a computation which is not supported.
fn refuse_unsupported(config: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in config {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        let fits = match key.as_str() {
            "peft_type" => value == "LORA",
            "bias" => value == "none",
            "r" | "lora_alpha" | "use_rslora" | "rank_pattern" | "alpha_pattern" => true, // checked elsewhere
            "modules_to_save" => {
                let heads = [
                    json!(["value_head"]),
                    json!(["value_head", "advantage_head"]),
                ];
                empty || heads.contains(value)
            }
            // The other values change the base before training.
            "init_lora_weights" => value.is_boolean() || value.is_null() || value == "gaussian",
            key => empty || IGNORED_KEYS.contains(&key),
        };
        if !fits {
            return Err(format!("{key} is {value}; only a plain LoRA can be merged"));
        }
    }
    if config.contains_key("peft_type") {
        Ok(())
    } else {
        Err("peft_type is missing".into())
    }
}

/// Ranks and α of an adapter.
#[derive(Debug, Clone, PartialEq)]
struct AdapterRanks {
    rank: usize,
    alpha: f64,
    /// Whether a factor is α/√r instead of α/r (rank-stabilized LoRA).
    is_stabilized: bool,
    /// Ranks and α of the modules whose name ends with a key.
    rank_of: BTreeMap<String, usize>,
    alpha_of: BTreeMap<String, f64>,
}

impl AdapterRanks {
    /// Reads an `adapter_config.json`.
    ///
    /// # Errors
    /// If a key asks for a computation that is not supported, or one is missing or out of range.
    fn read(config: &Map<String, Value>) -> Result<Self, String> {
        refuse_unsupported(config)?;
        let rank = |value: &Value| value.as_u64().filter(|rank| *rank > 0);
        let all = config.get("r").and_then(rank);
        let alpha = config.get("lora_alpha").and_then(Value::as_f64);
        Ok(Self {
            rank: all.ok_or("r must be a whole number above 0")? as usize,
            alpha: alpha.ok_or("lora_alpha must be a number")?,
            is_stabilized: match config.get("use_rslora").unwrap_or(&Value::Null) {
                Value::Null => false,
                Value::Bool(is_stabilized) => *is_stabilized,
                other => return Err(format!("use_rslora is {other}")),
            },
            rank_of: pattern(config, "rank_pattern", |value| {
                rank(value).map(|rank| rank as usize)
            })?,
            alpha_of: pattern(config, "alpha_pattern", Value::as_f64)?,
        })
    }

    /// The rank and the scale of a matrix.
    ///
    /// # Errors
    /// If two keys of a pattern fit the matrix and have different values: in PEFT, their order in the file counts.
    fn of(&self, matrix: &str) -> Result<(usize, f64), String> {
        let rank = of_module("rank_pattern", &self.rank_of, matrix)?.unwrap_or(self.rank);
        let alpha = of_module("alpha_pattern", &self.alpha_of, matrix)?.unwrap_or(self.alpha);
        let divisor = if self.is_stabilized {
            (rank as f64).sqrt()
        } else {
            rank as f64
        };
        Ok((rank, alpha / divisor))
    }
}

/// The value of the keys that are a name or the end of it, from a dot on.
fn of_module<T: Copy + PartialEq>(
    name: &str,
    pattern: &BTreeMap<String, T>,
    matrix: &str,
) -> Result<Option<T>, String> {
    let fits = |key: &str| {
        let before = matrix.strip_suffix(key);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    let mut values = pattern
        .iter()
        .filter(|(key, _)| fits(key))
        .map(|(_, value)| *value);
    let first = values.next();
    if values.all(|value| Some(value) == first) {
        Ok(first)
    } else {
        Err(format!(
            "two keys of {name} fit {matrix} and have different values"
        ))
    }
}

/// `rank_pattern` or `alpha_pattern`. A key is the end of a module's name; regular expressions are refused.
fn pattern<T>(
    config: &Map<String, Value>,
    name: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<BTreeMap<String, T>, String> {
    let mut pattern = BTreeMap::new();
    let keys = match config.get(name) {
        None | Some(Value::Null) => return Ok(pattern),
        Some(Value::Object(keys)) => keys,
        Some(other) => return Err(format!("{name} is {other}, and must be an object")),
    };
    for (key, value) in keys {
        let is_plain = |c: char| c.is_alphanumeric() || "_.-".contains(c);
        if !key.chars().all(is_plain) {
            return Err(format!(
                "{name} contains {key:?}; a key must be the end of a module's name, not a regular expression"
            ));
        }
        let read = read(value)
            .ok_or_else(|| format!("{name} of {key} is {value}, and must be a number above 0"))?;
        pattern.insert(key.clone(), read);
    }
    Ok(pattern)
}

#[cfg(test)]
mod tests;
