//! LoRA (Hu et al., arXiv 2106.09685) on the networks: a matrix W stays fixed, and the product of
//! two thin matrices beside it is trained.
//!
//! ```text
//! y = W·x + α/r · B·A·x        W [out, in]  A [r, in]  B [out, r]
//! ```
//! The adapters are burn's own. In checkpoints their factors A and B have the names and shapes of
//! PEFT; [`crate::model::peft`] has its files.

use crate::error::AgentError;
use crate::model::decoder::{Decoder, ValueNetwork};
use crate::model::weights::{ADVANTAGE_HEAD, HostTensor, VALUE_HEAD, Weights, transposed};
use burn::module::{Lora, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup};
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What PEFT puts before the name of a module of the base.
pub(super) const PEFT_PREFIX: &str = "base_model.model.";
/// What PEFT puts after the name of a matrix for the factor A.
pub(super) const LORA_A: &str = ".lora_A.weight";
/// What PEFT puts after the name of a matrix for the factor B.
pub(super) const LORA_B: &str = ".lora_B.weight";

/// Which matrices get adapters, and of which size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// r, the width between A and B.
    pub rank: usize,
    /// α. The output of an adapter is multiplied by α/r.
    pub alpha: f64,
    /// The matrices of every layer that get adapters. Default: all seven.
    #[serde(default = "Target::all")]
    pub targets: Vec<Target>,
}

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
    /// Returns all seven matrices.
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

    /// Returns the name of the matrix, which is the same on burn, at Hugging Face and in PEFT.
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

    /// The block of a layer that contains the matrix at Hugging Face.
    fn block(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }
}

impl LoraRecipe {
    /// Refuses adapters that cannot be trained.
    ///
    /// # Errors
    /// If a key is out of range, the targets are empty, or one of them is defined twice.
    pub fn check(&self) -> Result<(), String> {
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
            return Err("lora: targets is empty, so nothing would be trained".into());
        }
        for (index, target) in self.targets.iter().enumerate() {
            if self.targets[..index].contains(target) {
                return Err(format!(
                    "lora: {} is defined twice in targets",
                    target.name()
                ));
            }
        }
        Ok(())
    }
}

impl Decoder {
    /// Returns the same decoder with adapters; only they are trained.
    ///
    /// A is drawn as in PEFT, uniformly within ±1/√in, from the seed and the name of the matrix. B
    /// is 0, so the decoder computes the same as before, to the bit.
    ///
    /// # Errors
    /// If the recipe is refused ([`LoraRecipe::check`]).
    pub fn with_lora(self, recipe: &LoraRecipe, seed: u64) -> Result<Self, AgentError> {
        attach(self, recipe, seed)
    }

    /// Returns the trained weights for a checkpoint: the factors of the adapters, under PEFT's
    /// names. If the decoder has no adapters, returns all weights.
    #[must_use]
    pub fn to_learned(&self) -> Weights {
        read_factors(self).unwrap_or_else(|| self.to_weights())
    }

    /// Returns the same decoder with the factors in these weights. If the weights contain no
    /// factors, the decoder keeps its own.
    ///
    /// # Errors
    /// If some factors are there but not all, or one has another shape.
    pub fn with_factors(self, weights: &Weights) -> Result<Self, AgentError> {
        replace_factors(self, weights)
    }
}

/// The paths of the heads in a value network, and the names of their tensors.
const HEAD_PATHS: [(&str, &str); 2] = [
    ("value_head", VALUE_HEAD),
    ("advantage_head", ADVANTAGE_HEAD),
];

impl ValueNetwork {
    /// Returns the same network with adapters on its trunk. The adapters and the heads are trained.
    /// See [`Decoder::with_lora`].
    ///
    /// # Errors
    /// If the recipe is refused.
    pub fn with_lora(self, recipe: &LoraRecipe, seed: u64) -> Result<Self, AgentError> {
        let heads = HEAD_PATHS.map(|(path, _)| path.to_string());
        Ok(attach(self, recipe, seed)?
            .set_require_grad_group(ParamGroup::from_paths(heads.to_vec()), true))
    }

    /// Returns the trained weights for a checkpoint: the factors of the adapters and the heads. If
    /// the network has no adapters, returns all weights.
    #[must_use]
    pub fn to_learned(&self) -> Weights {
        read_factors(self).unwrap_or_else(|| self.to_weights())
    }

    /// Returns the same network with the factors in these weights. See [`Decoder::with_factors`].
    ///
    /// # Errors
    /// If some factors are there but not all, or one has another shape.
    pub fn with_factors(self, weights: &Weights) -> Result<Self, AgentError> {
        replace_factors(self, weights)
    }
}

/// Adds burn's adapters to the matrices of the recipe and freezes everything else.
fn attach<M: Module>(network: M, recipe: &LoraRecipe, seed: u64) -> Result<M, AgentError> {
    recipe.check().map_err(AgentError::Config)?;
    let mut found = TargetVisitor {
        targets: &recipe.targets,
        path: ParameterPath::default(),
        found: Vec::new(),
    };
    network.visit(&mut found);
    let lora =
        Lora::new(recipe.rank, recipe.alpha).set_param_group(ParamGroup::from_paths(found.found));
    Ok(network.apply_lora(lora).map(&mut FactorInitializer {
        seed,
        path: ParameterPath::default(),
    }))
}

/// Returns the factors of a network's adapters, with PEFT's names and layout, and the heads of a
/// value network; `None` if there are no adapters.
fn read_factors<M: Module>(network: &M) -> Option<Weights> {
    let mut reader = FactorReader {
        path: ParameterPath::default(),
        weights: Weights::default(),
    };
    network.visit(&mut reader);
    has_factors(&reader.weights).then_some(reader.weights)
}

/// Replaces the factors of a network by those in the weights, if there are any.
fn replace_factors<M: Module>(network: M, weights: &Weights) -> Result<M, AgentError> {
    if !has_factors(weights) {
        return Ok(network);
    }
    let mut writer = FactorWriter {
        path: ParameterPath::default(),
        weights,
        result: Ok(()),
    };
    let network = network.map(&mut writer);
    writer.result.map(|()| network)
}

fn has_factors(weights: &Weights) -> bool {
    weights.0.keys().any(|name| name.starts_with(PEFT_PREFIX))
}

/// The path of a visitor in a network: names of fields and indices of layers.
#[derive(Debug, Default)]
struct ParameterPath(Vec<String>);

impl ParameterPath {
    fn enter(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn joined(&self) -> String {
        self.0.join(".")
    }

    /// The layer and the matrix of this path, and the rest of the path below the matrix. The trunk
    /// of a value network is treated as a decoder.
    fn matrix(&self) -> Option<(&str, Target, &[String])> {
        let path = self
            .0
            .strip_prefix(&["trunk".to_string()])
            .unwrap_or(&self.0);
        let [layers, layer, matrix, below @ ..] = path else {
            return None;
        };
        let target = Target::all()
            .into_iter()
            .find(|target| target.name() == matrix)?;
        (layers == "layers").then_some((layer, target, below))
    }

    /// The name of the head of a value network at this path; `None` if there is none.
    fn head(&self) -> Option<&'static str> {
        let path = self.joined();
        let head = HEAD_PATHS.iter().find(|(of, _)| *of == path);
        head.map(|(_, name)| *name)
    }

    /// PEFT's name of the factor at this path; `None` if there is none.
    fn factor(&self) -> Option<String> {
        let (layer, target, [lora, factor]) = self.matrix()? else {
            return None;
        };
        let end = match (lora.as_str(), factor.as_str()) {
            ("lora", "a") => LORA_A,
            ("lora", "b") => LORA_B,
            _ => return None,
        };
        Some(format!(
            "{PEFT_PREFIX}model.layers.{layer}.{}.{}{end}",
            target.block(),
            target.name()
        ))
    }
}

/// Finds the paths of the matrices that get adapters.
struct TargetVisitor<'a> {
    targets: &'a [Target],
    path: ParameterPath,
    found: Vec<String>,
}

impl ModuleVisitor for TargetVisitor<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        if let Some((_, target, [])) = self.path.matrix()
            && self.targets.contains(&target)
        {
            self.found.push(self.path.joined());
        }
    }
}

/// Draws every A again, because burn draws it from a state that all threads of the process share.
struct FactorInitializer {
    seed: u64,
    path: ParameterPath,
}

impl ModuleMapper for FactorInitializer {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self
            .path
            .factor()
            .is_some_and(|name| name.ends_with(LORA_A))
        {
            return param;
        }
        let mut digest = Sha256::new();
        digest.update(self.seed.to_le_bytes());
        digest.update(self.path.joined());
        let mut rng = StdRng::from_seed(digest.finalize().into());
        let dims = param.dims();
        let bound = 1.0 / (dims[0] as f32).sqrt();
        let drawn = (0..dims.iter().product())
            .map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound)
            .collect();
        with_values(param, drawn)
    }
}

/// Returns the same parameter with other values. It is trained.
fn with_values<const D: usize>(param: Param<Tensor<D>>, values: Vec<f32>) -> Param<Tensor<D>> {
    let (id, tensor, mapper) = param.consume();
    let data = TensorData::new(values, tensor.dims());
    Param::from_mapped_value(
        id,
        Tensor::from_data(data, &tensor.device()).require_grad(),
        mapper,
    )
}

/// Reads the factors, and the heads of a value network, into weights.
struct FactorReader {
    path: ParameterPath,
    weights: Weights,
}

impl ModuleVisitor for FactorReader {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self
            .path
            .factor()
            .or_else(|| self.path.head().map(Into::into));
        let (Some(name), &[input, out]) = (name, &param.dims()[..]) else {
            return;
        };
        let data = param
            .val()
            .into_data()
            .try_to_vec::<f32>()
            .expect("factors are f32, like their base");
        let tensor = HostTensor {
            shape: vec![out, input],
            data: transposed(&data, input, out),
        };
        self.weights.0.insert(name, tensor);
    }
}

/// Replaces the factors of a network by those in weights.
struct FactorWriter<'a> {
    path: ParameterPath,
    weights: &'a Weights,
    result: Result<(), AgentError>,
}

impl ModuleMapper for FactorWriter<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (Some(name), &[input, out]) = (self.path.factor(), &param.dims()[..]) else {
            return param;
        };
        match self.weights.get(&name, &[out, input]) {
            Ok(data) => with_values(param, transposed(data, out, input)),
            Err(error) => {
                self.result = Err(error);
                param
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
