//! AdamW (Loshchilov & Hutter, arXiv 1711.05101) with clipping by the global gradient norm, in one pass over host
//! vectors, which on a CPU is several times faster than a chain of tensor operations.

use crate::error::TrainerError;
use agent::model::weights::{HostTensor, Weights};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Gradients, Tensor, TensorData};
use kernels::fused;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Settings of the optimizer and its schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// Trajectories in one update.
    pub batch: usize,
    /// Passes over the data.
    pub epochs: usize,
    /// Updates at most; 0 = as many as the epochs give.
    pub updates: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Share of the updates over which the rate rises from 0.
    pub warmup: f64,
    /// Layers that move, counted from the last, with the norm behind them and a value network's head; 0 = everything.
    /// The layers below, the embedding and the output's matrix stay as they are, and cost no backward pass.
    pub last_layers: usize,
    /// Largest global gradient norm.
    pub clip: f64,
    /// Weight decay of matrices; norms have none.
    pub weight_decay: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// Tokens, padding included, that go through the networks together; 0 = what suits the device. A batch is cut into
    /// parts of at most so many, or of one trajectory, whose gradients are added up.
    pub token_budget: usize,
    /// Largest sum of log-ratios of one trajectory, nats, either way; beyond it a job stops as gone perturbed.
    pub log_ratio_limit: f64,
    /// What is kept of a forward pass for the backward one.
    pub activations: Activations,
}

/// What is kept of a forward pass for the backward one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// Everything.
    #[default]
    Kept,
    /// What enters each layer; the layer is computed again when the backward pass comes to it (gradient checkpointing):
    /// less memory, a third more work.
    #[serde(alias = "recomputed")]
    Checkpointed,
}

impl OptimizerRecipe {
    /// Names the number that does not fit.
    pub(crate) fn check(&self) -> Result<(), String> {
        let not =
            |name: &str, value: f64, what: &str| Err(format!("{name} = {value} must be {what}"));
        if self.batch == 0 || (self.epochs == 0 && self.updates == 0) {
            return Err("batch, and epochs or updates, must be above 0".into());
        }
        if !(self.learning_rate.is_finite() && self.learning_rate >= 0.0) {
            return not("learning_rate", self.learning_rate, "0 or more");
        }
        if !(0.0..=1.0).contains(&self.warmup) {
            return not("warmup", self.warmup, "in [0, 1]");
        }
        for (name, value) in [
            ("clip", self.clip),
            ("log_ratio_limit", self.log_ratio_limit),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return not(name, value, "above 0");
            }
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return not("weight_decay", self.weight_decay, "0 or more");
        }
        match self.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            Some(beta) => not("betas", *beta, "in [0, 1)"),
            None => Ok(()),
        }
    }
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            batch: 8,
            epochs: 1,
            updates: 0,
            learning_rate: 1e-3,
            warmup: 0.03,
            last_layers: 0,
            clip: 1.0,
            weight_decay: 0.0,
            betas: [0.9, 0.95],
            token_budget: 0,
            log_ratio_limit: 1000.0,
            activations: Activations::default(),
        }
    }
}

/// Warm-up, then a cosine to 0.
#[must_use]
pub fn scheduled(highest: f64, warmup: f64, update: usize, updates: usize) -> f64 {
    let (now, all) = (update as f64, updates as f64);
    let rise = (warmup * all).max(1.0);
    let share = ((now + 1.0) / rise).min(1.0);
    let progress = ((now - rise) / (all - rise).max(1.0)).clamp(0.0, 1.0);
    highest * share * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

const EPSILON: f32 = 1e-8;
/// Numbers of a parameter that a thread works on at a time. Sums are made piece by piece and added in order, so that they
/// do not depend on the number of threads.
const PIECE: usize = 1 << 16;
/// Name of the count of updates in a checkpoint; it may lag behind the job's while a network is held still.
const UPDATES: &str = "updates";

/// One parameter on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Row-major values.
    pub values: Vec<f32>,
    /// Number of axes; only matrices decay.
    pub axes: usize,
}

/// Parameters as named tensors, for a checkpoint.
#[must_use]
pub fn to_weights(parameters: &[Parameter]) -> Weights {
    let tensor = |data: &Vec<f32>| HostTensor {
        shape: vec![data.len()],
        data: data.clone(),
    };
    let named = |(index, parameter): (usize, &Parameter)| {
        (format!("{index:05}"), tensor(&parameter.values))
    };
    Weights(parameters.iter().enumerate().map(named).collect())
}

/// Parameters out of a checkpoint, of the shapes of others.
///
/// # Errors
/// When there are more or fewer, or one has another size.
pub fn from_weights(weights: &Weights, like: &[Parameter]) -> Result<Vec<Parameter>, TrainerError> {
    let values: Vec<&Vec<f32>> = weights.0.values().map(|tensor| &tensor.data).collect();
    if !values
        .iter()
        .map(|values| values.len())
        .eq(like.iter().map(|parameter| parameter.values.len()))
    {
        return Err(TrainerError::Data(
            "a checkpoint's best parameters have other shapes than the networks".into(),
        ));
    }
    let parameter = |(like, values): (&Parameter, &Vec<f32>)| Parameter {
        values: values.clone(),
        axes: like.axes,
    };
    Ok(like.iter().zip(values).map(parameter).collect())
}

/// One parameter's gradient on the host, in the memory in which it was computed where that is the host's.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradient(TensorData);

impl Gradient {
    /// Row-major values.
    ///
    /// # Panics
    /// Never: it is f32, which is looked at when it is made.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        self.0.as_slice().expect("a gradient is f32")
    }

    fn values_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice().expect("a gradient is f32")
    }
}

impl From<Vec<f32>> for Gradient {
    fn from(values: Vec<f32>) -> Self {
        let length = values.len();
        Self(TensorData::new(values, [length]))
    }
}

/// A network's gradient on the host, parameter by parameter; `None` where a parameter had no part in the loss.
pub type HostGradients = Vec<Option<Gradient>>;

/// Those of a network's parameters that learn, in the order in which the module visits them. The matrix under an adapter
/// is held still, so it is not among them, and its adapter's factors are.
#[must_use]
pub fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    struct Fetch(Vec<Parameter>);
    impl ModuleVisitor for Fetch {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.push(Parameter {
                    values: host(param.val()),
                    axes: D,
                });
            }
        }
    }
    let mut fetch = Fetch(Vec::new());
    module.visit(&mut fetch);
    fetch.0
}

/// Their gradients, in the same order.
///
/// # Panics
/// When a network is not f32.
#[must_use]
pub fn gradients<M: Module>(module: &M, gradients: Gradients) -> HostGradients {
    struct Fetch(Gradients, HostGradients);
    impl ModuleVisitor for Fetch {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = |gradient: Tensor<D>| {
                assert_eq!(gradient.dtype(), DType::F32, "networks are f32");
                Gradient(gradient.into_data())
            };
            if param.is_require_grad() {
                self.1
                    .push(param.val().grad_remove(&mut self.0).map(gradient));
            }
        }
    }
    let mut fetch = Fetch(gradients, Vec::new());
    module.visit(&mut fetch);
    fetch.1
}

/// The same network with other values of those parameters.
#[must_use]
pub fn with_parameters<M: Module>(module: M, parameters: &[Parameter]) -> M {
    struct Put<'a>(std::slice::Iter<'a, Parameter>);
    impl ModuleMapper for Put<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.is_require_grad() {
                return param; // it is held still
            }
            let values = &self
                .0
                .next()
                .expect("a value for every parameter that learns")
                .values;
            let (id, tensor, mapper) = param.consume();
            let (shape, device) = (tensor.dims(), tensor.device());
            let data = if fused::work_on(&device, tensor.dtype()) {
                let mut data = tensor.into_data(); // its own memory again, which need not be asked for anew
                let old: &mut [f32] = data.as_mut_slice().expect("networks are f32");
                old.par_chunks_mut(PIECE)
                    .zip(values.par_chunks(PIECE))
                    .for_each(|(old, new)| old.copy_from_slice(new));
                data
            } else {
                TensorData::new(values.clone(), shape)
            };
            Param::from_mapped_value(id, Tensor::from_data(data, &device).require_grad(), mapper)
        }
    }
    module.map(&mut Put(parameters.iter()))
}

/// The same network over the same memory, its backward passes a matter of its own: for another thread.
#[must_use]
pub fn sharing<M: Module>(module: &M) -> M {
    struct Share;
    impl ModuleMapper for Share {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let learns = param.is_require_grad();
            let (id, tensor, mapper) = param.consume();
            let tensor = tensor.inner().autodiff();
            Param::from_mapped_value(
                id,
                if learns {
                    tensor.require_grad()
                } else {
                    tensor
                },
                mapper,
            )
        }
    }
    module.clone().map(&mut Share)
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .try_to_vec::<f32>()
        .expect("networks are f32")
}

/// Adds `share` times one part's gradients to the whole's.
pub fn accumulate(whole: &mut HostGradients, part: HostGradients, share: f64) {
    whole.resize(part.len(), None);
    for (sum, part) in whole.iter_mut().zip(part) {
        let Some(mut part) = part else { continue };
        let share = share as f32;
        if let Some(sum) = sum {
            let pieces = sum
                .values_mut()
                .par_chunks_mut(PIECE)
                .zip(part.values().par_chunks(PIECE));
            pieces.for_each(|(sum, part)| {
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(sum, value)| *sum += share * value)
            });
        } else {
            if share != 1.0 {
                let pieces = part.values_mut().par_chunks_mut(PIECE);
                pieces.for_each(|part| part.iter_mut().for_each(|value| *value *= share));
            }
            *sum = Some(part);
        }
    }
}

/// The optimizer's state: both moments of every parameter, in the order in which the module visits them.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    moments: Vec<[Vec<f32>; 2]>,
    updates: usize,
}

impl AdamW {
    /// One update of every parameter that has a gradient; returns the global norm of the gradient before clipping.
    pub fn update(
        &mut self,
        parameters: &mut [Parameter],
        gradients: &HostGradients,
        rate: f64,
        recipe: &OptimizerRecipe,
    ) -> f64 {
        let norm = gradients
            .iter()
            .flatten()
            .map(|gradient| squares(gradient.values()))
            .sum::<f64>()
            .sqrt();
        self.moments.resize_with(parameters.len(), Default::default);
        self.updates += 1;
        let [beta1, beta2] = recipe.betas.map(|beta| beta as f32);
        let time = i32::try_from(self.updates).unwrap_or(i32::MAX);
        let step = Step {
            scale: if norm > recipe.clip {
                recipe.clip / norm
            } else {
                1.0
            } as f32,
            rate: rate as f32,
            betas: [beta1, beta2],
            corrections: [1.0 - beta1.powi(time), 1.0 - beta2.powi(time)],
        };
        for ((parameter, gradient), moments) in
            parameters.iter_mut().zip(gradients).zip(&mut self.moments)
        {
            let decay = if parameter.axes > 1 {
                recipe.weight_decay as f32
            } else {
                0.0
            };
            if let Some(gradient) = gradient {
                step.apply(&mut parameter.values, gradient.values(), moments, decay);
            }
        }
        norm
    }

    /// The state as named tensors, for a checkpoint.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::default();
        let mut put = |name: String, data: Vec<f32>| {
            weights.0.insert(
                name,
                HostTensor {
                    shape: vec![data.len()],
                    data,
                },
            );
        };
        for (index, [first, second]) in self.moments.iter().enumerate() {
            put(format!("{index:05}.first"), first.clone());
            put(format!("{index:05}.second"), second.clone());
        }
        put(UPDATES.into(), vec![self.updates as f32]);
        weights
    }

    /// The state out of a checkpoint.
    ///
    /// # Errors
    /// When a moment lacks its twin, or the count of updates is missing.
    pub fn from_weights(mut weights: Weights) -> Result<Self, TrainerError> {
        let updates = weights
            .0
            .remove(UPDATES)
            .and_then(|tensor| tensor.data.first().copied());
        let lacking =
            || TrainerError::Data("an optimizer checkpoint lacks its count of updates".into());
        let updates = updates.ok_or_else(lacking)? as usize;
        let mut data = weights.0.into_values().map(|tensor| tensor.data);
        let mut moments = Vec::new();
        while let Some(first) = data.next() {
            let lacking =
                || TrainerError::Data("an optimizer checkpoint lacks a second moment".into());
            moments.push([first, data.next().ok_or_else(lacking)?]);
        }
        Ok(Self { moments, updates })
    }
}

/// Σ g².
fn squares(gradient: &[f32]) -> f64 {
    let of_piece = |piece: &[f32]| {
        let (blocks, rest) = piece.as_chunks::<8>();
        let mut sums = [0.0_f64; 8];
        for block in blocks {
            for (sum, g) in sums.iter_mut().zip(block) {
                *sum += f64::from(*g) * f64::from(*g);
            }
        }
        sums.into_iter()
            .chain(rest.iter().map(|g| f64::from(*g) * f64::from(*g)))
            .sum::<f64>()
    };
    gradient
        .par_chunks(PIECE)
        .map(of_piece)
        .collect::<Vec<_>>()
        .into_iter()
        .sum()
}

/// The numbers of one update that all parameters share.
#[derive(Clone, Copy)]
struct Step {
    scale: f32,
    rate: f32,
    betas: [f32; 2],
    corrections: [f32; 2],
}

impl Step {
    /// θ ← θ − rate·( m̂ / (√v̂ + ε) + decay·θ )
    fn apply(
        self,
        values: &mut [f32],
        gradient: &[f32],
        [first, second]: &mut [Vec<f32>; 2],
        decay: f32,
    ) {
        first.resize(values.len(), 0.0);
        second.resize(values.len(), 0.0);
        let [beta1, beta2] = self.betas;
        let [correction1, correction2] = self.corrections.map(f32::recip);
        let values = values.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE));
        let moments = first
            .par_chunks_mut(PIECE)
            .zip(second.par_chunks_mut(PIECE));
        values
            .zip(moments)
            .for_each(|((values, gradient), (first, second))| {
                for (((value, raw), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second)
                {
                    let g = raw * self.scale;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    let move_by =
                        *m * correction1 / ((*v * correction2).sqrt() + EPSILON) + decay * *value;
                    *value -= self.rate * move_by;
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct One {
        weight: Param<Tensor<2>>,
        unused: Param<Tensor<1>>,
    }

    fn one() -> One {
        let device = Device::flex().autodiff();
        One {
            weight: Param::from_data(TensorData::new(vec![1.0_f32, -2.0], [1, 2]), &device),
            unused: Param::from_data(TensorData::new(vec![5.0_f32], [1]), &device),
        }
    }

    /// Of a `[1, 2]` matrix with an adapter of rank 1: A with one number and B with two.
    #[test]
    fn only_what_learns_is_seen() {
        let adapted = one().apply_lora(burn::module::Lora::new(1, 1.0));
        let mut host = parameters(&adapted);
        assert_eq!(
            host.iter()
                .map(|parameter| parameter.values.len())
                .collect::<Vec<_>>(),
            [1, 2]
        );
        let found = gradients(&adapted, adapted.weight.val().sum().backward());
        assert_eq!(
            found
                .iter()
                .flatten()
                .map(|gradient| gradient.values().len())
                .collect::<Vec<_>>(),
            [1, 2]
        );
        host[1].values = vec![4.0, 5.0];
        let adapted = with_parameters(adapted, &host);
        assert_eq!(parameters(&adapted), host);
        let (base, unused) = (adapted.weight.base(), adapted.unused.val());
        assert_eq!(
            base.into_data().try_to_vec::<f32>().expect("f32"),
            [1.0, -2.0]
        );
        assert_eq!(unused.into_data().try_to_vec::<f32>().expect("f32"), [5.0]);
        assert!(parameters(&one().no_grad()).is_empty());
    }

    /// Adam's first update moves every weight by the rate against the sign of its gradient, whatever its size.
    #[test]
    fn the_first_update_moves_by_the_rate() {
        let (model, mut optimizer) = (one(), AdamW::default());
        let found = gradients(&model, (model.weight.val() * 3.0).sum().backward());
        let recipe = OptimizerRecipe {
            clip: 1e9,
            ..OptimizerRecipe::default()
        };
        let mut host = parameters(&model);
        let norm = optimizer.update(&mut host, &found, 0.1, &recipe);
        let model = with_parameters(model, &host);
        let values = model
            .weight
            .val()
            .into_data()
            .try_to_vec::<f32>()
            .expect("f32");
        assert!(
            (values[0] - 0.9).abs() < 1e-6 && (values[1] + 2.1).abs() < 1e-6,
            "{values:?}"
        );
        assert!((norm - 18.0_f64.sqrt()).abs() < 1e-6);
        assert_eq!(
            model
                .unused
                .val()
                .into_data()
                .try_to_vec::<f32>()
                .expect("f32"),
            [5.0]
        );
    }

    /// Two networks over one memory: what one finds of its gradient the other knows nothing of, and what is held still stays so.
    #[test]
    fn sharing_networks_share_numbers_alone() {
        let held = One {
            unused: one().unused.no_grad(),
            ..one()
        };
        let other = sharing(&held);
        assert!(other.weight.is_require_grad() && !other.unused.is_require_grad());
        let sum = (other.weight.val() * 3.0).sum() + other.unused.val().sum();
        let found = gradients(&other, sum.backward());
        let found: Vec<&[f32]> = found.iter().flatten().map(Gradient::values).collect();
        assert_eq!(found, [[3.0, 3.0]]);
        let moved = with_parameters(
            other,
            &[Parameter {
                values: vec![7.0, 8.0],
                axes: 2,
            }],
        );
        assert_eq!(
            parameters(&held)[0].values,
            [1.0, -2.0],
            "the first keeps its numbers"
        );
        assert_eq!(parameters(&moved)[0].values, [7.0, 8.0]);
    }

    /// Two updates by hand: gradients 3 then 1 (unclipped), β = (½, ½), rate 1, no decay.
    /// m = 1.5, then 1.25, m̂ = 1.25/0.75; v = 4.5, then 2.75, v̂ = 2.75/0.75. Moves: 1, then 1.6667/1.9149 = 0.8704.
    #[test]
    fn two_updates_by_hand() {
        let (mut model, mut optimizer) = (one(), AdamW::default());
        let recipe = OptimizerRecipe {
            clip: 1e9,
            betas: [0.5, 0.5],
            ..OptimizerRecipe::default()
        };
        for factor in [3.0, 1.0] {
            let found = gradients(&model, (model.weight.val() * factor).sum().backward());
            let mut host = parameters(&model);
            optimizer.update(&mut host, &found, 1.0, &recipe);
            model = with_parameters(model, &host);
        }
        let values = model
            .weight
            .val()
            .into_data()
            .try_to_vec::<f32>()
            .expect("f32");
        assert!(
            (values[0] - (1.0 - 1.0 - 0.870_388)).abs() < 1e-5,
            "{values:?}"
        );
    }

    #[test]
    fn a_large_gradient_is_scaled_to_the_clip() {
        let mut moments = [Vec::new(), Vec::new()];
        let step = Step {
            scale: 0.01,
            rate: 0.0,
            betas: [0.0, 0.0],
            corrections: [1.0, 1.0],
        };
        step.apply(&mut [0.0], &[200.0], &mut moments, 0.0);
        assert_eq!(moments, [vec![2.0], vec![4.0]]);
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let rates: Vec<f64> = (0..100)
            .map(|update| scheduled(2.0, 0.1, update, 100))
            .collect();
        assert!((rates[0] - 0.2).abs() < 1e-12 && (rates[9] - 2.0).abs() < 1e-12);
        assert!((rates[55] - 1.0).abs() < 1e-12 && rates[99] < 0.01);
    }

    #[test]
    fn a_checkpoint_brings_the_moments_back() {
        let (model, mut optimizer) = (one(), AdamW::default());
        let found = gradients(&model, (model.weight.val() * 3.0).sum().backward());
        optimizer.update(
            &mut parameters(&model),
            &found,
            0.1,
            &OptimizerRecipe::default(),
        );
        let again = AdamW::from_weights(optimizer.to_weights()).expect("whole");
        assert_eq!((again.moments, again.updates), (optimizer.moments, 1));
    }

    /// Halves of a batch, weighted by their shares, add up to the whole; a parameter without a part stays without.
    #[test]
    fn parts_add_up_to_the_whole() {
        let mut whole = HostGradients::new();
        accumulate(&mut whole, vec![Some(vec![4.0, 0.0].into()), None], 0.25);
        accumulate(&mut whole, vec![Some(vec![0.0, 8.0].into()), None], 0.75);
        assert_eq!(whole, [Some(vec![1.0, 6.0].into()), None]);
    }
}
