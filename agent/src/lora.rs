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

use crate::decoder::{Decoder, ValueNetwork};
use crate::error::AgentError;
use crate::files;
use crate::model::Model;
use crate::weights::{HostTensor, VALUE_HEAD, Weights, transposed};
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
        vec![Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj]
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
        let twice = (1..self.targets.len()).find(|index| self.targets[..*index].contains(&self.targets[*index]));
        if self.rank == 0 {
            return Err("lora: rank starts at 1".into());
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(format!("lora: alpha is {}, and must be a number above 0", self.alpha));
        }
        if self.targets.is_empty() {
            return Err("lora: targets is empty, so nothing would learn".into());
        }
        twice
            .map_or(Ok(()), |index| Err(format!("lora: {} stands twice among the targets", self.targets[index].name())))
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
        Ok(attach(self, recipe, seed)?.set_require_grad_group(ParamGroup::from_path("value_head"), true))
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
        let place = self.0.strip_prefix(&["trunk".to_string()]).unwrap_or(&self.0);
        let [layers, layer, matrix, below @ ..] = place else { return None };
        let target = Target::all().into_iter().find(|target| target.name() == matrix)?;
        (layers == "layers").then_some((layer, target, below))
    }

    /// PEFT's name of the factor that stands here.
    fn factor(&self) -> Option<String> {
        let (layer, target, [lora, factor]) = self.matrix()? else { return None };
        let end = match (lora.as_str(), factor.as_str()) {
            ("lora", "a") => DOWN,
            ("lora", "b") => UP,
            _ => return None,
        };
        Some(format!("{PREFIX}model.layers.{layer}.{}.{}{end}", target.block(), target.name()))
    }
}

/// burn's adapters on the matrices of the recipe; all else is held still.
fn attach<M: Module>(network: M, recipe: &LoraRecipe, seed: u64) -> Result<M, AgentError> {
    recipe.check().map_err(AgentError::Config)?;
    let mut found = Matrices { targets: &recipe.targets, place: Place::default(), paths: Vec::new() };
    network.visit(&mut found);
    let lora = Lora::new(recipe.rank, recipe.alpha).set_param_group(ParamGroup::from_paths(found.paths));
    Ok(network.apply_lora(lora).map(&mut Draw { seed, place: Place::default() }))
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
        let drawn = (0..dims.iter().product()).map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound).collect();
        filled(param, drawn)
    }
}

/// The same parameter with other values; it learns.
fn filled<const D: usize>(param: Param<Tensor<D>>, values: Vec<f32>) -> Param<Tensor<D>> {
    let (id, tensor, mapper) = param.consume();
    let data = TensorData::new(values, tensor.dims());
    Param::from_mapped_value(id, Tensor::from_data(data, &tensor.device()).require_grad(), mapper)
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
            let name = self.0.factor().or_else(|| (self.0.path() == "value_head").then(|| VALUE_HEAD.into()));
            let (Some(name), &[input, out]) = (name, &param.dims()[..]) else { return };
            let data = param.val().into_data().try_to_vec::<f32>().expect("factors are f32 as their base");
            let tensor = HostTensor { shape: vec![out, input], data: transposed(&data, input, out) };
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
            let (Some(name), &[input, out]) = (self.0.factor(), &param.dims()[..]) else { return param };
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
        let LoraRecipe { rank, alpha, targets } = recipe;
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
        Self { config, scale: alpha / *rank as f64, rank: *rank, tensors: learned }
    }

    /// Reads an adapter's folder, written here or by PEFT.
    ///
    /// # Errors
    /// When a file is missing or damaged, or asks for more than `W + scale · B·A`: what is not computed here is refused,
    /// never ignored.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let path = folder.join(ADAPTER_CONFIG);
        let content = |reason: String| AgentError::Content { path: path.clone(), reason };
        let bytes = files::read(&path, CONFIG_LIMIT)?;
        let config: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| content(e.to_string()))?;
        let (rank, scale) = understood(&config).map_err(content)?;
        let tensors = Weights::open(&folder.join(ADAPTER_WEIGHTS))?;
        Ok(Self { config, scale, rank, tensors })
    }

    /// Writes the folder; the tensors last.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), AgentError> {
        let file_error = |path: &Path, source| AgentError::File { path: path.into(), source };
        std::fs::create_dir_all(folder).map_err(|source| file_error(folder, source))?;
        let path = folder.join(ADAPTER_CONFIG);
        let text = serde_json::to_string_pretty(&self.config).map_err(|e| AgentError::Config(e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(|source| file_error(&path, source))?;
        self.tensors.save(&folder.join(ADAPTER_WEIGHTS))
    }

    /// The hash of the policy that it was learned over; none for an adapter from elsewhere.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.config.get("base_model_name_or_path")?.as_str()?.strip_prefix(POLICY)
    }

    /// The base with what was learned over it: W + scale · B·A, and the head of a value network.
    ///
    /// # Errors
    /// When the base lacks a matrix or has one of another shape, a factor lacks its twin, or a tensor is neither.
    pub fn merge(&self, mut base: Weights) -> Result<Weights, AgentError> {
        for (name, tensor) in &self.tensors.0 {
            let stranger = || AgentError::Config(format!("tensor {name} is none that can be merged"));
            let module = name.strip_prefix(PREFIX).ok_or_else(stranger)?;
            if let Some(matrix) = module.strip_suffix(DOWN) {
                self.merge_matrix(matrix, &mut base)?;
            } else if let Some(matrix) = module.strip_suffix(UP) {
                let down = format!("{PREFIX}{matrix}{DOWN}");
                self.tensors.0.get(&down).ok_or_else(|| AgentError::Config(format!("tensor {down} is missing")))?;
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
            return Err(AgentError::Config(format!("tensor {name} has shape {shape:?}, and is no matrix")));
        };
        let factor = |end: &str, shape: [usize; 2]| self.tensors.get(&format!("{PREFIX}{matrix}{end}"), &shape);
        let (down, up) = (factor(DOWN, [rank, input])?, factor(UP, [out, rank])?);
        let Some(whole) = base.0.get_mut(&name) else { return Err(missing()) };
        for (row, up) in whole.data.chunks_exact_mut(input).zip(up.chunks_exact(rank)) {
            for (weight, down) in up.iter().zip(down.chunks_exact(input)) {
                let weight = (self.scale * f64::from(*weight)) as f32;
                row.iter_mut().zip(down).for_each(|(sum, down)| *sum += weight * down);
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
            return Err(AgentError::Content { path: folder.join(ADAPTER_CONFIG), reason });
        }
        self.policy = adapter.merge(self.policy).map_err(|error| match error {
            AgentError::Config(reason) => AgentError::Content { path: folder.join(ADAPTER_WEIGHTS), reason },
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
    let rank = config.get("r").and_then(Value::as_u64).filter(|rank| *rank > 0);
    let rank = rank.ok_or("r must be a whole number above 0")? as usize;
    let alpha = config.get("lora_alpha").and_then(Value::as_f64).ok_or("lora_alpha must be a number")?;
    match config.get("use_rslora").unwrap_or(&Value::Null) {
        Value::Null | Value::Bool(false) => Ok((rank, alpha / rank as f64)),
        Value::Bool(true) => Ok((rank, alpha / (rank as f64).sqrt())),
        other => Err(format!("use_rslora is {other}")),
    }
}
