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
use crate::model::folder::Model;
use crate::model::lora::{LORA_A, LORA_B, LoraRecipe, PEFT_PREFIX};
use crate::model::weights::{ADVANTAGE_HEAD, VALUE_HEAD, Weights, is_head};
use serde_json::{Map, Value, json};
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
    /// α/r, or α/√r if it was trained with rank-stabilized LoRA.
    scale: f64,
    rank: usize,
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
            scale: alpha / *rank as f64,
            rank: *rank,
            tensors: learned,
        }
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
        let (rank, scale) =
            rank_and_scale(&config).map_err(|reason| AgentError::content(&path, reason))?;
        let tensors = Weights::open(&folder.join(ADAPTER_WEIGHTS))?;
        Ok(Self {
            config,
            scale,
            rank,
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
        let rank = self.rank;
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
                let weight = (self.scale * f64::from(*weight)) as f32;
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
        self.policy = adapter
            .merge(self.policy)
            .map_err(|error| error.in_file(&folder.join(ADAPTER_WEIGHTS)))?;
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

/// Rank and scale of an `adapter_config.json`.
///
/// # Errors
/// If a key asks for a computation that is not supported, or one is missing or out of range.
fn rank_and_scale(config: &Map<String, Value>) -> Result<(usize, f64), String> {
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
            "r" | "lora_alpha" | "use_rslora" => true, // checked below
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
    if !config.contains_key("peft_type") {
        return Err("peft_type is missing".into());
    }
    let rank = config
        .get("r")
        .and_then(Value::as_u64)
        .filter(|rank| *rank > 0);
    let rank = rank.ok_or("r must be a whole number above 0")? as usize;
    let alpha = config
        .get("lora_alpha")
        .and_then(Value::as_f64)
        .ok_or("lora_alpha must be a number")?;
    match config.get("use_rslora").unwrap_or(&Value::Null) {
        Value::Null | Value::Bool(false) => Ok((rank, alpha / rank as f64)),
        Value::Bool(true) => Ok((rank, alpha / (rank as f64).sqrt())),
        other => Err(format!("use_rslora is {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::DecoderConfig;
    use crate::model::decoder::Decoder;
    use crate::model::folder::Companions;
    use crate::model::lora::Target;
    use crate::model::lora::tests::{base, changed, recipe, value_network, values};
    use crate::model::weights::HostTensor;
    use crate::model::weights::tests::tiny_config;
    use crate::text::tokenizer::Tokenizer;
    use burn::tensor::Device;
    use std::collections::BTreeSet;
    use std::fs;

    #[track_caller]
    fn assert_close(a: &[f32], b: &[f32], limit: f32) {
        let off = a
            .iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(a.len() == b.len() && off < limit, "off by {off}");
    }

    /// The network with adapters computes the same as with W + α/r · B·A, merged on burn, in host
    /// memory, and after writing and reading the adapter.
    #[test]
    fn merged_weights_compute_the_same_as_the_adapters() {
        let weights = base();
        let recipe = recipe(&Target::all());
        let adapted = value_network(&weights).with_lora(&recipe, 1).unwrap();
        let learned = changed(adapted.to_learned());
        let mut all = weights.clone();
        all.0.extend(learned.0.clone());
        let adapted = value_network(&all)
            .with_lora(&recipe, 2)
            .unwrap()
            .with_factors(&all)
            .unwrap();
        assert_eq!(adapted.to_learned(), learned);

        let merged = adapted.to_weights();
        assert_close(&values(&adapted), &values(&value_network(&merged)), 1e-4);
        let folder = tempfile::tempdir().unwrap();
        let adapter = Adapter::new(&recipe, "0123456789abcdef", learned);
        adapter.save(folder.path()).unwrap();
        let again = Adapter::open(folder.path()).unwrap();
        assert_eq!(again, adapter);
        assert_eq!(again.base(), Some("0123456789abcdef"));
        let by_hand = again.merge(weights.clone()).unwrap();
        assert_eq!(
            by_hand.0.keys().collect::<Vec<_>>(),
            weights.0.keys().collect::<Vec<_>>()
        );
        for (name, tensor) in &merged.0 {
            assert_close(&tensor.data, &by_hand.0[name].data, 1e-6);
            let stays = name.contains("norm") || name.contains("embed");
            assert_eq!(*tensor == weights.0[name], stays, "{name}");
        }
    }

    fn matrix(shape: [usize; 2], data: &[f32]) -> HostTensor {
        HostTensor {
            shape: shape.to_vec(),
            data: data.to_vec(),
        }
    }

    /// W = [[1, 2, 3], [4, 5, 6]], A = [[1, 0, −1]], B = [[2], [3]], α/r = ½ / 1:
    /// W + ½·B·A = [[2, 2, 2], [5½, 5, 4½]].
    #[test]
    fn a_merge_by_hand() {
        let module = "model.layers.0.mlp.up_proj";
        let a = format!("{PEFT_PREFIX}{module}{LORA_A}");
        let b = format!("{PEFT_PREFIX}{module}{LORA_B}");
        let learned = Weights(
            [
                (a, matrix([1, 3], &[1.0, 0.0, -1.0])),
                (b, matrix([2, 1], &[2.0, 3.0])),
            ]
            .into(),
        );
        let recipe = LoraRecipe {
            rank: 1,
            alpha: 0.5,
            targets: Target::all(),
        };
        let adapter = Adapter::new(&recipe, "", learned);
        let name = format!("{module}.weight");
        let weight = matrix([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let base = Weights([(name.clone(), weight)].into());
        assert_eq!(
            adapter.merge(base).unwrap().0[&name].data,
            [2.0, 2.0, 2.0, 5.5, 5.0, 4.5]
        );
    }

    /// A model with the sizes of [`tiny_config`].
    fn model() -> Model {
        let tokenizer = Tokenizer::train(["go to desk 1"].into_iter(), 300).unwrap();
        let config = DecoderConfig {
            vocab_size: tokenizer.vocab_size(),
            ..tiny_config()
        };
        let policy = Weights::random(&config, 7);
        Model {
            config,
            tokenizer,
            policy,
            value: None,
            text_versions: BTreeSet::new(),
            companions: Companions::default(),
        }
    }

    /// Factors for the value projections of [`model`].
    fn factors(model: &Model) -> Weights {
        let device = Device::flex().autodiff();
        let decoder = Decoder::from_weights(&model.config, &model.policy, &device).unwrap();
        let adapted = decoder.with_lora(&recipe(&[Target::VProj]), 1).unwrap();
        changed(adapted.to_learned())
    }

    /// The model merged with the adapter of a folder, after this configuration was written into it.
    fn merged(model: &Model, folder: &Path, config: &str) -> Result<Model, AgentError> {
        fs::write(folder.join(ADAPTER_CONFIG), config).unwrap();
        model.clone().with_adapter(folder)
    }

    /// What PEFT 0.21.2 writes for a LoRA of rank 3.
    const PEFT_CONFIG: &str = r#"{"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
        "auto_mapping": null, "base_model_name_or_path": "some/base", "bias": "none", "corda_config": null,
        "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false,
        "inference_mode": true, "init_lora_weights": true, "kasa_config": null, "layer_replication": null,
        "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 6, "lora_bias": false,
        "lora_dropout": 0.1, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
        "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2",
        "qalora_group_size": 16, "r": 3, "rank_pattern": {}, "revision": null, "target_modules": "all-linear",
        "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null,
        "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null}"#;

    #[test]
    fn an_adapter_of_peft_is_merged_with_its_scale() {
        let folder = tempfile::tempdir().unwrap();
        let model = model();
        let path = folder.path().join(ADAPTER_WEIGHTS);
        factors(&model).save(&path).unwrap();
        let by_root = PEFT_CONFIG.replace("\"use_rslora\": false", "\"use_rslora\": true");
        let [plain, by_root] = [PEFT_CONFIG, &by_root].map(|config| {
            let name = "model.layers.1.self_attn.v_proj.weight";
            let merged = merged(&model, folder.path(), config).unwrap();
            f64::from(merged.policy.0[name].data[5] - model.policy.0[name].data[5])
        });
        assert!(
            (by_root / plain - 3.0_f64.sqrt()).abs() < 1e-3,
            "{by_root} and {plain}"
        );
    }

    #[test]
    fn an_adapter_with_an_unsupported_setting_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let model = model();
        let path = folder.path().join(ADAPTER_WEIGHTS);
        factors(&model).save(&path).unwrap();
        for (from, to, words) in [
            (
                "\"use_dora\": false",
                "\"use_dora\": true",
                "adapter_config.json: use_dora is true; only a plain LoRA",
            ),
            (
                "\"LORA\"",
                "\"IA3\"",
                "peft_type is \"IA3\"; only a plain LoRA can be merged",
            ),
            ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias is \"all\""),
            (
                "\"init_lora_weights\": true",
                "\"init_lora_weights\": \"pissa\"",
                "init_lora_weights is \"pissa\"",
            ),
            (
                "\"rank_pattern\": {}",
                "\"rank_pattern\": {\"q_proj\": 8}",
                "rank_pattern is {\"q_proj\":8}",
            ),
            (
                "\"velora_config\"",
                "\"next_config\": {\"a\": 1}, \"velora_config\"",
                "next_config is {\"a\":1}",
            ),
            ("\"r\": 3", "\"r\": 0", "r must be a whole number above 0"),
            (
                "\"r\": 3",
                "\"r\": 4",
                "adapter_model.safetensors: tensor base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight has shape [3, 24], expected [4, 24]",
            ),
            (
                "\"some/base\"",
                "\"policy:0123\"",
                "was trained on policy 0123, and this is policy",
            ),
        ] {
            assert!(PEFT_CONFIG.contains(from));
            let config = PEFT_CONFIG.replace(from, to);
            let error = merged(&model, folder.path(), &config)
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    /// The error after a factor of layer 1 was removed, and inserted again under another name if
    /// there is one.
    fn refusal_without(factor: &str, new_name: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let model = model();
        let mut factors = factors(&model);
        let tensor = factors.0.remove(factor).unwrap();
        factors
            .0
            .extend(new_name.map(|name| (name.to_string(), tensor)));
        factors.save(&folder.path().join(ADAPTER_WEIGHTS)).unwrap();
        merged(&model, folder.path(), PEFT_CONFIG)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_adapter_with_a_missing_or_unknown_tensor_is_refused() {
        let [a, b, magnitude] = ["lora_A", "lora_B", "lora_magnitude_vector"]
            .map(|end| format!("base_model.model.model.layers.1.self_attn.v_proj.{end}.weight"));
        assert!(refusal_without(&a, None).ends_with(&format!("tensor {a} is missing")));
        assert!(refusal_without(&b, None).ends_with(&format!("tensor {b} is missing")));
        let error = refusal_without(&b, Some(&magnitude));
        assert!(error.contains(&b) || error.contains(&magnitude), "{error}");
        let head = format!("{PEFT_PREFIX}{VALUE_HEAD}");
        assert!(refusal_without(&b, Some(&head)).contains("is missing"));
    }
}
