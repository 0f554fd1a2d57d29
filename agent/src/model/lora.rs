//! LoRA (Hu et al., arXiv 2106.09685): a matrix W stays as it is, and a product of two thin ones learns beside it.
//!
//! ```text
//! y = W·x + α/r · B·A·x        W [out, in]  A [r, in]  B [out, r]
//! ```
//! On burn these are burn's own adapters. On disk they have the layout of PEFT, which puts them over the same base:
//!
//! ```text
//! FOLDER/adapter_config.json           rank, α, which matrices
//! FOLDER/adapter_model.safetensors     base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight, lora_B, …
//! ```
//! A value network's adapter keeps its head as PEFT keeps what it saves whole, `base_model.model.value_head.weight`; over
//! a causal model, which has no such module, PEFT leaves that tensor aside.

use crate::error::AgentError;
use crate::files;
use crate::model::decoder::{Decoder, ValueNetwork};
use crate::model::folder::Model;
use crate::model::weights::{HostTensor, VALUE_HEAD, Weights, transposed};
use burn::module::{Lora, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup};
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The settings of an adapter's folder.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The tensors of an adapter's folder.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// An `adapter_config.json` may have this many bytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// What PEFT puts before the name of a base's module.
const PREFIX: &str = "base_model.model.";
const DOWN: &str = ".lora_A.weight";
const UP: &str = ".lora_B.weight";

/// Before the hash of the policy under an adapter that was learned here; no name that a hub could have.
const POLICY: &str = "policy:";

/// Which matrices get adapters, and of which size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// r, the width between A and B.
    pub rank: usize,
    /// α; what an adapter adds is multiplied by α/r.
    pub alpha: f64,
    /// The matrices of every layer that have adapters; all seven where nothing is said.
    #[serde(default = "Target::all")]
    pub targets: Vec<Target>,
}

/// A matrix of a layer, named as in PEFT's `target_modules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are Hugging Face's")]
pub enum Target {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Target {
    /// All seven.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::QProj,
            Self::KProj,
            Self::VProj,
            Self::OProj,
            Self::GateProj,
            Self::UpProj,
            Self::DownProj,
        ]
    }

    /// Its name, the same on burn, at Hugging Face and in PEFT.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The block of a layer that it stands in at Hugging Face.
    fn block(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }
}

impl LoraRecipe {
    /// Refuses adapters that cannot learn.
    ///
    /// # Errors
    /// Says which key does not fit.
    pub fn check(&self) -> Result<(), String> {
        let twice = (1..self.targets.len())
            .find(|index| self.targets[..*index].contains(&self.targets[*index]));
        if self.rank == 0 {
            return Err("lora: rank starts at 1".into());
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(format!(
                "lora: alpha is {}, and must be a number above 0",
                self.alpha
            ));
        }
        if self.targets.is_empty() {
            return Err("lora: targets is empty, so nothing would learn".into());
        }
        twice.map_or(Ok(()), |index| {
            Err(format!(
                "lora: {} stands twice among the targets",
                self.targets[index].name()
            ))
        })
    }
}

impl Decoder {
    /// The same decoder with adapters, which alone learn. A is drawn as PEFT draws it, uniformly within ±1/√in, from the
    /// seed and the matrix's name; B is 0, so the decoder computes what it did, to the bit.
    ///
    /// # Errors
    /// When the recipe does not fit ([`LoraRecipe::check`]).
    pub fn with_lora(self, recipe: &LoraRecipe, seed: u64) -> Result<Self, AgentError> {
        attach(self, recipe, seed)
    }

    /// What learning changes, for a checkpoint: the factors of the adapters, under PEFT's names; of a decoder without
    /// adapters all weights.
    #[must_use]
    pub fn to_learned(&self) -> Weights {
        learned(self).unwrap_or_else(|| self.to_weights())
    }

    /// The same decoder with the factors that stand among these weights; where none does, with those that it has.
    ///
    /// # Errors
    /// When some but not all are there, or one has another shape.
    pub fn with_factors(self, weights: &Weights) -> Result<Self, AgentError> {
        put_factors(self, weights)
    }
}

impl ValueNetwork {
    /// The same network with adapters on its trunk; they and the head learn. See [`Decoder::with_lora`].
    ///
    /// # Errors
    /// When the recipe does not fit.
    pub fn with_lora(self, recipe: &LoraRecipe, seed: u64) -> Result<Self, AgentError> {
        Ok(attach(self, recipe, seed)?
            .set_require_grad_group(ParamGroup::from_path("value_head"), true))
    }

    /// What learning changes, for a checkpoint: the factors of the adapters and the head; of a network without adapters
    /// all weights.
    #[must_use]
    pub fn to_learned(&self) -> Weights {
        learned(self).unwrap_or_else(|| self.to_weights())
    }

    /// The same network with the factors that stand among these weights; see [`Decoder::with_factors`].
    ///
    /// # Errors
    /// When some but not all are there, or one has another shape.
    pub fn with_factors(self, weights: &Weights) -> Result<Self, AgentError> {
        put_factors(self, weights)
    }
}

/// Where a walk through a network stands: names of fields and indices of layers, the value network's `trunk` left out.
#[derive(Debug, Default)]
struct Place(Vec<String>);

impl Place {
    fn enter(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn path(&self) -> String {
        self.0.join(".")
    }

    /// The layer and the matrix that stand here, and what is below the matrix.
    fn matrix(&self) -> Option<(&str, Target, &[String])> {
        let place = self
            .0
            .strip_prefix(&["trunk".to_string()])
            .unwrap_or(&self.0);
        let [layers, layer, matrix, below @ ..] = place else {
            return None;
        };
        let target = Target::all()
            .into_iter()
            .find(|target| target.name() == matrix)?;
        (layers == "layers").then_some((layer, target, below))
    }

    /// PEFT's name of the factor that stands here.
    fn factor(&self) -> Option<String> {
        let (layer, target, [lora, factor]) = self.matrix()? else {
            return None;
        };
        let end = match (lora.as_str(), factor.as_str()) {
            ("lora", "a") => DOWN,
            ("lora", "b") => UP,
            _ => return None,
        };
        Some(format!(
            "{PREFIX}model.layers.{layer}.{}.{}{end}",
            target.block(),
            target.name()
        ))
    }
}

/// burn's adapters on the matrices of the recipe; all else is held still.
fn attach<M: Module>(network: M, recipe: &LoraRecipe, seed: u64) -> Result<M, AgentError> {
    recipe.check().map_err(AgentError::Config)?;
    let mut found = Matrices {
        targets: &recipe.targets,
        place: Place::default(),
        paths: Vec::new(),
    };
    network.visit(&mut found);
    let lora =
        Lora::new(recipe.rank, recipe.alpha).set_param_group(ParamGroup::from_paths(found.paths));
    Ok(network.apply_lora(lora).map(&mut Draw {
        seed,
        place: Place::default(),
    }))
}

/// The paths of the matrices that are to have adapters.
struct Matrices<'a> {
    targets: &'a [Target],
    place: Place,
    paths: Vec<String>,
}

impl ModuleVisitor for Matrices<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        if let Some((_, target, [])) = self.place.matrix()
            && self.targets.contains(&target)
        {
            self.paths.push(self.place.path());
        }
    }
}

/// Draws every A anew: burn draws it from a state that all threads of the process share.
struct Draw {
    seed: u64,
    place: Place,
}

impl ModuleMapper for Draw {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.place.factor().is_some_and(|name| name.ends_with(DOWN)) {
            return param;
        }
        let mut digest = Sha256::new();
        digest.update(self.seed.to_le_bytes());
        digest.update(self.place.path());
        let mut rng = StdRng::from_seed(digest.finalize().into());
        let dims = param.dims();
        let bound = 1.0 / (dims[0] as f32).sqrt();
        let drawn = (0..dims.iter().product())
            .map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound)
            .collect();
        filled(param, drawn)
    }
}

/// The same parameter with other values; it learns.
fn filled<const D: usize>(param: Param<Tensor<D>>, values: Vec<f32>) -> Param<Tensor<D>> {
    let (id, tensor, mapper) = param.consume();
    let data = TensorData::new(values, tensor.dims());
    Param::from_mapped_value(
        id,
        Tensor::from_data(data, &tensor.device()).require_grad(),
        mapper,
    )
}

/// The factors of a network's adapters, under PEFT's names and in its layout, and the head of a value network; none
/// where there are no adapters.
fn learned<M: Module>(network: &M) -> Option<Weights> {
    struct Fetch(Place, Weights);
    impl ModuleVisitor for Fetch {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self
                .0
                .factor()
                .or_else(|| (self.0.path() == "value_head").then(|| VALUE_HEAD.into()));
            let (Some(name), &[input, out]) = (name, &param.dims()[..]) else {
                return;
            };
            let data = param
                .val()
                .into_data()
                .try_to_vec::<f32>()
                .expect("factors are f32 as their base");
            let tensor = HostTensor {
                shape: vec![out, input],
                data: transposed(&data, input, out),
            };
            self.1.0.insert(name, tensor);
        }
    }
    let mut fetch = Fetch(Place::default(), Weights::default());
    network.visit(&mut fetch);
    has_factors(&fetch.1).then_some(fetch.1)
}

fn has_factors(weights: &Weights) -> bool {
    weights.0.keys().any(|name| name.starts_with(PREFIX))
}

/// The same network with the factors that stand among the weights, if any does.
fn put_factors<M: Module>(network: M, weights: &Weights) -> Result<M, AgentError> {
    struct Put<'a>(Place, &'a Weights, Result<(), AgentError>);
    impl ModuleMapper for Put<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (Some(name), &[input, out]) = (self.0.factor(), &param.dims()[..]) else {
                return param;
            };
            match self.1.get(&name, &[out, input]) {
                Ok(data) => filled(param, transposed(data, out, input)),
                Err(error) => {
                    self.2 = Err(error);
                    param
                }
            }
        }
    }
    if !has_factors(weights) {
        return Ok(network);
    }
    let mut put = Put(Place::default(), weights, Ok(()));
    let network = network.map(&mut put);
    put.2.map(|()| network)
}

/// An adapter on the host, to be written for PEFT or merged into its base.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// `adapter_config.json`.
    config: Map<String, Value>,
    /// α/r, or α/√r where it was learned so.
    scale: f64,
    rank: usize,
    /// By PEFT's names.
    tensors: Weights,
}

impl Adapter {
    /// The adapter of a network with [`Decoder::to_learned`] or [`ValueNetwork::to_learned`] over the policy of that hash.
    #[must_use]
    pub fn new(recipe: &LoraRecipe, base: &str, mut learned: Weights) -> Self {
        if let Some(head) = learned.0.remove(VALUE_HEAD) {
            learned.0.insert(format!("{PREFIX}{VALUE_HEAD}"), head);
        }
        let LoraRecipe {
            rank,
            alpha,
            targets,
        } = recipe;
        let whole = alpha.fract() == 0.0 && alpha.abs() < 1e9;
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": format!("{POLICY}{base}"),
            "r": rank,
            "lora_alpha": if whole { json!(*alpha as i64) } else { json!(alpha) },
            "target_modules": targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
        });
        let config = config.as_object().cloned().unwrap_or_default();
        Self {
            config,
            scale: alpha / *rank as f64,
            rank: *rank,
            tensors: learned,
        }
    }

    /// Reads an adapter's folder, written here or by PEFT.
    ///
    /// # Errors
    /// When a file is missing or damaged, or asks for more than `W + scale · B·A`: what is not computed here is refused,
    /// never ignored.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let path = folder.join(ADAPTER_CONFIG);
        let content = |reason: String| AgentError::Content {
            path: path.clone(),
            reason,
        };
        let bytes = files::read(&path, CONFIG_LIMIT)?;
        let config: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|e| content(e.to_string()))?;
        let (rank, scale) = understood(&config).map_err(content)?;
        let tensors = Weights::open(&folder.join(ADAPTER_WEIGHTS))?;
        Ok(Self {
            config,
            scale,
            rank,
            tensors,
        })
    }

    /// Writes the folder; the tensors last.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), AgentError> {
        let file_error = |path: &Path, source| AgentError::File {
            path: path.into(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(|source| file_error(folder, source))?;
        let path = folder.join(ADAPTER_CONFIG);
        let text = serde_json::to_string_pretty(&self.config)
            .map_err(|e| AgentError::Config(e.to_string()))?;
        scenarios::files::replace(&path, (text + "\n").as_bytes())
            .map_err(|source| file_error(&path, source))?;
        self.tensors.save(&folder.join(ADAPTER_WEIGHTS))
    }

    /// The hash of the policy that it was learned over; none for an adapter from elsewhere.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.config
            .get("base_model_name_or_path")?
            .as_str()?
            .strip_prefix(POLICY)
    }

    /// The base with what was learned over it: W + scale · B·A, and the head of a value network.
    ///
    /// # Errors
    /// When the base lacks a matrix or has one of another shape, a factor lacks its twin, or a tensor is neither.
    pub fn merge(&self, mut base: Weights) -> Result<Weights, AgentError> {
        for (name, tensor) in &self.tensors.0 {
            let stranger =
                || AgentError::Config(format!("tensor {name} is none that can be merged"));
            let module = name.strip_prefix(PREFIX).ok_or_else(stranger)?;
            if let Some(matrix) = module.strip_suffix(DOWN) {
                self.merge_matrix(matrix, &mut base)?;
            } else if let Some(matrix) = module.strip_suffix(UP) {
                let down = format!("{PREFIX}{matrix}{DOWN}");
                self.tensors
                    .0
                    .get(&down)
                    .ok_or_else(|| AgentError::Config(format!("tensor {down} is missing")))?;
            } else if module == VALUE_HEAD {
                base.get(VALUE_HEAD, &tensor.shape)?;
                base.0.insert(VALUE_HEAD.into(), tensor.clone());
            } else {
                return Err(stranger());
            }
        }
        Ok(base)
    }

    /// W + scale · B·A of one matrix, row by row.
    fn merge_matrix(&self, matrix: &str, base: &mut Weights) -> Result<(), AgentError> {
        let (rank, name) = (self.rank, format!("{matrix}.weight"));
        let missing = || AgentError::Config(format!("tensor {name} is missing"));
        let shape = base.0.get(&name).ok_or_else(missing)?.shape.clone();
        let [out, input] = shape[..] else {
            return Err(AgentError::Config(format!(
                "tensor {name} has shape {shape:?}, and is no matrix"
            )));
        };
        let factor = |end: &str, shape: [usize; 2]| {
            self.tensors.get(&format!("{PREFIX}{matrix}{end}"), &shape)
        };
        let (down, up) = (factor(DOWN, [rank, input])?, factor(UP, [out, rank])?);
        let Some(whole) = base.0.get_mut(&name) else {
            return Err(missing());
        };
        for (row, up) in whole
            .data
            .chunks_exact_mut(input)
            .zip(up.chunks_exact(rank))
        {
            for (weight, down) in up.iter().zip(down.chunks_exact(input)) {
                let weight = (self.scale * f64::from(*weight)) as f32;
                row.iter_mut()
                    .zip(down)
                    .for_each(|(sum, down)| *sum += weight * down);
            }
        }
        Ok(())
    }
}

impl Model {
    /// The same model with an adapter merged into its policy; a value network stays as it is.
    ///
    /// # Errors
    /// When the folder cannot be read, or the adapter belongs to another base.
    pub fn with_adapter(mut self, folder: &Path) -> Result<Self, AgentError> {
        let adapter = Adapter::open(folder)?;
        let hash = self.policy.hash();
        if let Some(base) = adapter.base().filter(|base| *base != hash) {
            let reason = format!("was learned over policy {base}, and this is policy {hash}");
            return Err(AgentError::Content {
                path: folder.join(ADAPTER_CONFIG),
                reason,
            });
        }
        self.policy = adapter.merge(self.policy).map_err(|error| match error {
            AgentError::Config(reason) => AgentError::Content {
                path: folder.join(ADAPTER_WEIGHTS),
                reason,
            },
            other => other,
        })?;
        Ok(self)
    }
}

/// Keys that change nothing about a merged weight: what was adapted is told by the tensors, and the rest is about
/// learning, about files, or unused without another key.
const OF_NO_CONSEQUENCE: [&str; 14] = [
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
fn understood(config: &Map<String, Value>) -> Result<(usize, f64), String> {
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
            "r" | "lora_alpha" | "use_rslora" => true, // below
            "modules_to_save" => empty || *value == json!(["value_head"]),
            // Others change the base before they learn.
            "init_lora_weights" => value.is_boolean() || value.is_null() || value == "gaussian",
            key => empty || OF_NO_CONSEQUENCE.contains(&key),
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
    use crate::model::decoder::Precision;
    use crate::model::folder::Companions;
    use crate::model::weights::tests::tiny_config;
    use crate::text::tokenizer::Tokenizer;
    use burn::tensor::{Device, Int};
    use std::collections::BTreeSet;
    use std::fs;

    fn recipe(targets: &[Target]) -> LoraRecipe {
        LoraRecipe {
            rank: 3,
            alpha: 6.0,
            targets: targets.to_vec(),
        }
    }

    /// No weight is 0.
    fn base() -> Weights {
        let config = tiny_config();
        let mut weights = Weights::random(&config, 5).with_zero_value_head(&config);
        for tensor in weights.0.values_mut() {
            tensor
                .data
                .iter_mut()
                .enumerate()
                .for_each(|(i, w)| *w += (i as f32 * 1.7).sin() / 4.0);
        }
        weights
    }

    fn decoder(weights: &Weights) -> Decoder {
        Decoder::from_weights(&tiny_config(), weights, &Device::flex().autodiff()).unwrap()
    }

    fn value(weights: &Weights) -> ValueNetwork {
        ValueNetwork::from_weights(&tiny_config(), weights, &Device::flex().autodiff()).unwrap()
    }

    fn tokens() -> Tensor<2, Int> {
        let tokens = TensorData::new((0..18).map(|i| i * 7 % 37).collect::<Vec<i64>>(), [2, 9]);
        Tensor::from_data(tokens, &Device::flex().autodiff())
    }

    fn logits(decoder: &Decoder) -> Vec<f32> {
        decoder
            .logits(decoder.hidden(tokens()).reshape([18, -1]))
            .into_data()
            .try_to_vec()
            .unwrap()
    }

    /// The factors, no B 0 any more.
    fn moved(mut learned: Weights) -> Weights {
        for tensor in learned.0.values_mut() {
            tensor
                .data
                .iter_mut()
                .enumerate()
                .for_each(|(i, w)| *w += (i as f32 * 0.9).cos() / 8.0);
        }
        learned
    }

    #[track_caller]
    fn close(a: &[f32], b: &[f32], most: f32) {
        let off = a
            .iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(a.len() == b.len() && off < most, "off by {off}");
    }

    #[test]
    fn a_network_begins_as_what_it_was_to_the_bit() {
        let weights = base();
        for precision in [Precision::F32, Precision::Bf16] {
            let plain = decoder(&weights).with_precision(precision);
            let adapted = plain.clone().with_lora(&recipe(&Target::all()), 1).unwrap();
            assert_eq!(logits(&adapted), logits(&plain));
            let plain = value(&weights).with_precision(precision);
            let adapted = plain.clone().with_lora(&recipe(&Target::all()), 1).unwrap();
            let values = |network: &ValueNetwork| {
                network
                    .values(tokens())
                    .into_data()
                    .try_to_vec::<f32>()
                    .unwrap()
            };
            assert_eq!(values(&adapted), values(&plain));
            assert_eq!(adapted.to_weights(), weights);
        }
    }

    /// As PEFT names and shapes them: A `[r, in]`, B `[out, r]`. Only what the recipe names is there.
    #[test]
    fn the_factors_of_the_targets_are_what_learns() {
        let adapted = decoder(&base())
            .with_lora(&recipe(&[Target::KProj, Target::DownProj]), 1)
            .unwrap();
        let learned = adapted.to_learned();
        let found: Vec<(&str, &[usize])> = learned
            .0
            .iter()
            .map(|(name, t)| (name.as_str(), &t.shape[..]))
            .collect();
        let expected: [(&str, &[usize]); 8] = [
            (
                "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight",
                &[3, 40],
            ),
            (
                "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight",
                &[24, 3],
            ),
            (
                "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
                &[3, 24],
            ),
            (
                "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight",
                &[12, 3],
            ),
            (
                "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight",
                &[3, 40],
            ),
            (
                "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight",
                &[24, 3],
            ),
            (
                "base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight",
                &[3, 24],
            ),
            (
                "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight",
                &[12, 3],
            ),
        ];
        assert_eq!(found, expected);
        let all = value(&base())
            .with_lora(&recipe(&Target::all()), 1)
            .unwrap()
            .to_learned();
        assert_eq!(all.0.len(), 2 * 7 * 2 + 1);
        assert_eq!(all.0[VALUE_HEAD], base().0[VALUE_HEAD]);
    }

    /// Uniform within ±1/√in, so its variance is 1/(3·in).
    #[test]
    fn the_seed_alone_decides_the_factors() {
        let learned = |seed: u64, targets: &[Target]| {
            decoder(&base())
                .with_lora(&recipe(targets), seed)
                .unwrap()
                .to_learned()
        };
        let all = learned(1, &Target::all());
        assert_eq!(learned(1, &Target::all()), all);
        let some = learned(1, &[Target::UpProj]);
        assert!(
            some.0.iter().all(|(name, tensor)| all.0[name] == *tensor),
            "whatever else is adapted"
        );
        let other = learned(2, &Target::all());
        let mut drawn = BTreeSet::new();
        for (name, HostTensor { shape, data }) in &all.0 {
            if name.ends_with(UP) {
                assert!(data.iter().all(|b| *b == 0.0));
                continue;
            }
            assert_ne!(other.0[name].data, *data);
            assert!(drawn.insert(data[0].to_bits()), "every matrix has its own");
            let inputs = shape[1] as f32;
            assert!(data.iter().all(|a| a.abs() <= 1.0 / inputs.sqrt()));
            let variance = data.iter().map(|a| a * a).sum::<f32>() / data.len() as f32;
            assert!(
                (variance * 3.0 * inputs - 1.0).abs() < 0.5,
                "{name}: {variance}"
            );
        }
    }

    /// Gradients reach the factors and the head, and nothing below an adapter.
    #[test]
    fn only_factors_and_the_head_get_gradients() {
        struct Fetch<'a>(Place, &'a burn::tensor::Gradients, Vec<String>);
        impl ModuleVisitor for Fetch<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.0.enter(name);
            }

            fn exit_module(&mut self, _: &str, _: &str) {
                self.0.exit();
            }

            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let has = param.val().grad(self.1).is_some();
                assert_eq!(has, param.is_require_grad(), "{}", self.0.path());
                if has {
                    self.2.push(self.0.path());
                }
            }
        }
        let network = value(&base())
            .with_lora(&recipe(&[Target::QProj]), 1)
            .unwrap();
        let gradients = network.values(tokens()).sum().backward();
        let mut fetch = Fetch(Place::default(), &gradients, Vec::new());
        network.visit(&mut fetch);
        let factors = [0, 1]
            .map(|layer| ["a", "b"].map(|f| format!("trunk.layers.{layer}.q_proj.lora.{f}")))
            .concat();
        assert_eq!(fetch.2, [factors, vec!["value_head".to_string()]].concat());
    }

    /// What the network computes beside W it computes with W + α/r · B·A, here, on the host and after a file.
    #[test]
    fn merged_weights_compute_what_the_adapters_do() {
        let weights = base();
        let recipe = recipe(&Target::all());
        let adapted = value(&weights).with_lora(&recipe, 1).unwrap();
        let learned = moved(adapted.to_learned());
        let mut all = weights.clone();
        all.0.extend(learned.0.clone());
        let adapted = value(&all)
            .with_lora(&recipe, 2)
            .unwrap()
            .with_factors(&all)
            .unwrap();
        assert_eq!(adapted.to_learned(), learned);

        let merged = adapted.to_weights();
        let values = |network: &ValueNetwork| {
            network
                .values(tokens())
                .into_data()
                .try_to_vec::<f32>()
                .unwrap()
        };
        close(&values(&adapted), &values(&value(&merged)), 1e-4);
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
            close(&tensor.data, &by_hand.0[name].data, 1e-6);
            let stays = name.contains("norm") || name.contains("embed");
            assert_eq!(*tensor == weights.0[name], stays, "{name}");
        }
    }

    /// W = [[1, 2, 3], [4, 5, 6]], A = [[1, 0, −1]], B = [[2], [3]], α/r = ½ / 1:
    /// W + ½·B·A = [[2, 2, 2], [5½, 5, 4½]].
    #[test]
    fn a_merge_by_hand() {
        let tensor = |shape: &[usize], data: &[f32]| HostTensor {
            shape: shape.to_vec(),
            data: data.to_vec(),
        };
        let name = |end: &str| format!("{PREFIX}model.layers.0.mlp.up_proj{end}");
        let learned = Weights(
            [
                (name(DOWN), tensor(&[1, 3], &[1.0, 0.0, -1.0])),
                (name(UP), tensor(&[2, 1], &[2.0, 3.0])),
            ]
            .into(),
        );
        let adapter = Adapter::new(
            &LoraRecipe {
                rank: 1,
                alpha: 0.5,
                targets: Target::all(),
            },
            "",
            learned,
        );
        let matrix = "model.layers.0.mlp.up_proj.weight".to_string();
        let base = Weights(
            [(
                matrix.clone(),
                tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            )]
            .into(),
        );
        assert_eq!(
            adapter.merge(base).unwrap().0[&matrix].data,
            [2.0, 2.0, 2.0, 5.5, 5.0, 4.5]
        );
    }

    #[test]
    fn half_of_the_factors_are_not_taken_for_all() {
        let (weights, recipe) = (base(), recipe(&[Target::OProj]));
        let adapted = decoder(&weights).with_lora(&recipe, 1).unwrap();
        let same = adapted.clone().with_factors(&weights).unwrap();
        assert_eq!(
            same.to_learned(),
            adapted.to_learned(),
            "there are none in the base"
        );
        let mut learned = adapted.to_learned();
        let name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight";
        learned.0.get_mut(name).unwrap().shape = vec![3, 24];
        let said = |learned: &Weights| {
            adapted
                .clone()
                .with_factors(learned)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            said(&learned),
            format!("model configuration: tensor {name} has shape [3, 24], expected [24, 3]")
        );
        learned.0.remove(name);
        assert_eq!(
            said(&learned),
            format!("model configuration: tensor {name} is missing")
        );
    }

    #[test]
    fn a_recipe_that_cannot_be_followed_is_refused() {
        let said = |rank, alpha, targets: &[Target]| {
            LoraRecipe {
                rank,
                alpha,
                targets: targets.to_vec(),
            }
            .check()
            .unwrap_err()
        };
        assert_eq!(said(0, 16.0, &Target::all()), "lora: rank starts at 1");
        assert_eq!(
            said(8, f64::NAN, &Target::all()),
            "lora: alpha is NaN, and must be a number above 0"
        );
        assert_eq!(
            said(8, 16.0, &[]),
            "lora: targets is empty, so nothing would learn"
        );
        assert_eq!(
            said(8, 16.0, &[Target::QProj, Target::UpProj, Target::QProj]),
            "lora: q_proj stands twice among the targets"
        );
    }

    /// A model over [`tiny_config`]'s shape.
    fn model() -> Model {
        let tokenizer = Tokenizer::train(["go to desk 1"].into_iter(), 300).unwrap();
        let config = DecoderConfig {
            vocab_size: tokenizer.vocab_size(),
            ..tiny_config()
        };
        let policy = Weights::random(&config, 7);
        let (text_versions, companions) = (BTreeSet::new(), Companions::default());
        Model {
            config,
            tokenizer,
            policy,
            value: None,
            text_versions,
            companions,
        }
    }

    /// What PEFT 0.21.2 writes for a LoRA of rank 3.
    const OF_PEFT: &str = r#"{"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
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
    fn an_adapter_from_elsewhere_is_merged_or_says_what_does_not_fit() {
        let (folder, model) = (tempfile::tempdir().unwrap(), model());
        let device = Device::flex().autodiff();
        let decoder = Decoder::from_weights(&model.config, &model.policy, &device).unwrap();
        let learned = moved(
            decoder
                .with_lora(&recipe(&[Target::VProj]), 1)
                .unwrap()
                .to_learned(),
        );
        learned.save(&folder.path().join(ADAPTER_WEIGHTS)).unwrap();
        let merged = |config: &str| {
            fs::write(folder.path().join(ADAPTER_CONFIG), config).unwrap();
            model.clone().with_adapter(folder.path())
        };
        let moved = |merged: &Model| {
            let name = "model.layers.1.self_attn.v_proj.weight";
            f64::from(merged.policy.0[name].data[5] - model.policy.0[name].data[5])
        };
        let plain = moved(&merged(OF_PEFT).unwrap());
        let by_root = moved(
            &merged(&OF_PEFT.replace("\"use_rslora\": false", "\"use_rslora\": true")).unwrap(),
        );
        assert!(
            (by_root / plain - 3.0_f64.sqrt()).abs() < 1e-3,
            "{by_root} and {plain}"
        );

        let said = |from: &str, to: &str| {
            assert!(OF_PEFT.contains(from));
            merged(&OF_PEFT.replace(from, to)).unwrap_err().to_string()
        };
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
                "was learned over policy 0123, and this is policy",
            ),
        ] {
            let said = said(from, to);
            assert!(said.contains(words), "{said}");
        }

        let tensor = |name: &str, edit: &dyn Fn(&mut HostTensor) -> Option<String>| {
            let mut learned = learned.clone();
            let mut tensor = learned.0.remove(name).unwrap();
            learned
                .0
                .extend(edit(&mut tensor).map(|name| (name, tensor)));
            learned.save(&folder.path().join(ADAPTER_WEIGHTS)).unwrap();
            merged(OF_PEFT).unwrap_err().to_string()
        };
        let name =
            |end: &str| format!("base_model.model.model.layers.1.self_attn.v_proj.{end}.weight");
        assert!(
            tensor(&name("lora_B"), &|_| None)
                .ends_with(&format!("tensor {} is missing", name("lora_B")))
        );
        assert!(
            tensor(&name("lora_A"), &|_| None)
                .ends_with(&format!("tensor {} is missing", name("lora_A")))
        );
        let magnitude = name("lora_magnitude_vector");
        let said = tensor(&name("lora_B"), &|_| Some(magnitude.clone()));
        assert!(
            said.contains(&name("lora_B")) || said.contains(&magnitude),
            "{said}"
        );
        let head = format!("{PREFIX}{VALUE_HEAD}");
        assert!(tensor(&name("lora_B"), &|_| Some(head.clone())).contains("is missing"));
    }
}
