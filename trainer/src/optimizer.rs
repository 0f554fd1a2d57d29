//! AdamW (Loshchilov & Hutter, arXiv 1711.05101) with clipping by the global gradient norm, in one pass over host
//! vectors, which on a CPU is several times faster than a chain of tensor operations.

use crate::error::TrainerError;
use agent::weights::{HostTensor, Weights};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
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
    /// Largest global gradient norm.
    pub clip: f64,
    /// Weight decay of matrices; norms have none.
    pub weight_decay: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            batch: 8,
            epochs: 1,
            updates: 0,
            learning_rate: 1e-3,
            warmup: 0.03,
            clip: 1.0,
            weight_decay: 0.0,
            betas: [0.9, 0.95],
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

/// The optimizer's state: both moments of every parameter, in the order in which the module visits them.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    moments: Vec<[Vec<f32>; 2]>,
    updates: usize,
}

/// What one update looked like.
#[derive(Debug, Clone, Copy)]
pub struct Norms {
    /// Global norm of the gradient before clipping.
    pub gradient: f64,
}

impl AdamW {
    /// One update of every parameter that has a gradient.
    #[must_use]
    pub fn update<M: Module>(&mut self, module: M, gradients: &Gradients, rate: f64, recipe: &OptimizerRecipe) -> (M, Norms) {
        let mut collected = Collect { gradients, found: Vec::new() };
        module.visit(&mut collected);
        let found = collected.found;
        let squares = found.iter().flatten().flatten().map(|g| f64::from(*g) * f64::from(*g));
        let norm = squares.sum::<f64>().sqrt();
        if self.moments.is_empty() {
            self.moments.resize_with(found.len(), Default::default);
        }
        self.updates += 1;
        let [beta1, beta2] = recipe.betas.map(|beta| beta as f32);
        let time = self.updates as i32;
        let step = Step {
            scale: if norm > recipe.clip { recipe.clip / norm } else { 1.0 } as f32,
            rate: rate as f32,
            decay: recipe.weight_decay as f32,
            betas: [beta1, beta2],
            corrections: [1.0 - beta1.powi(time), 1.0 - beta2.powi(time)],
        };
        let mut apply = Apply { step, gradients: found.into_iter(), moments: self.moments.iter_mut() };
        (module.map(&mut apply), Norms { gradient: norm })
    }

    /// The state as named tensors, for a checkpoint.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::default();
        let mut put = |name: String, data: Vec<f32>| {
            weights.0.insert(name, HostTensor { shape: vec![data.len()], data });
        };
        for (index, [first, second]) in self.moments.iter().enumerate() {
            put(format!("{index:05}.first"), first.clone());
            put(format!("{index:05}.second"), second.clone());
        }
        weights
    }

    /// The state out of a checkpoint.
    ///
    /// # Errors
    /// When a moment lacks its twin.
    pub fn from_weights(weights: Weights, updates: usize) -> Result<Self, TrainerError> {
        let mut data = weights.0.into_values().map(|tensor| tensor.data);
        let mut moments = Vec::new();
        while let Some(first) = data.next() {
            let lacking = || TrainerError::Data("an optimizer checkpoint lacks a second moment".into());
            moments.push([first, data.next().ok_or_else(lacking)?]);
        }
        Ok(Self { moments, updates })
    }
}

/// Fetches every parameter's gradient to the host.
struct Collect<'a> {
    gradients: &'a Gradients,
    found: Vec<Option<Vec<f32>>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.gradients);
        self.found.push(gradient.map(|g| g.into_data().try_to_vec::<f32>().expect("gradients are f32")));
    }
}

/// The numbers of one update that all parameters share.
#[derive(Clone, Copy)]
struct Step {
    scale: f32,
    rate: f32,
    decay: f32,
    betas: [f32; 2],
    corrections: [f32; 2],
}

impl Step {
    /// θ ← θ − rate·( m̂ / (√v̂ + ε) + decay·θ )
    fn apply(self, values: &mut [f32], gradient: &[f32], [first, second]: &mut [Vec<f32>; 2], decay: f32) {
        first.resize(values.len(), 0.0);
        second.resize(values.len(), 0.0);
        let [beta1, beta2] = self.betas;
        let [correction1, correction2] = self.corrections.map(f32::recip);
        for (((value, raw), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = raw * self.scale;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            let move_by = *m * correction1 / ((*v * correction2).sqrt() + EPSILON) + decay * *value;
            *value -= self.rate * move_by;
        }
    }
}

struct Apply<'a> {
    step: Step,
    gradients: std::vec::IntoIter<Option<Vec<f32>>>,
    moments: std::slice::IterMut<'a, [Vec<f32>; 2]>,
}

impl ModuleMapper for Apply<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.gradients.next().expect("visiting and mapping meet the same parameters");
        let moments = self.moments.next().expect("one pair of moments for each parameter");
        let Some(gradient) = gradient else { return param };
        let (id, tensor, mapper) = param.consume();
        let (shape, device) = (tensor.dims(), tensor.device());
        let mut values = tensor.into_data().try_to_vec::<f32>().expect("parameters are f32");
        let decay = if D > 1 { self.step.decay } else { 0.0 };
        self.step.apply(&mut values, &gradient, moments, decay);
        let tensor = Tensor::<D>::from_data(TensorData::new(values, shape), &device).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
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

    /// Adam's first update moves every weight by the rate against the sign of its gradient, whatever its size.
    #[test]
    fn the_first_update_moves_by_the_rate() {
        let (model, mut optimizer) = (one(), AdamW::default());
        let gradients = (model.weight.val() * 3.0).sum().backward();
        let recipe = OptimizerRecipe { clip: 1e9, ..OptimizerRecipe::default() };
        let (model, norms) = optimizer.update(model, &gradients, 0.1, &recipe);
        let values = model.weight.val().into_data().try_to_vec::<f32>().expect("f32");
        assert!((values[0] - 0.9).abs() < 1e-6 && (values[1] + 2.1).abs() < 1e-6, "{values:?}");
        assert!((norms.gradient - 18.0_f64.sqrt()).abs() < 1e-6);
        assert_eq!(model.unused.val().into_data().try_to_vec::<f32>().expect("f32"), [5.0]);
    }

    /// Two updates by hand: gradients 3 then 1 (unclipped), β = (½, ½), rate 1, no decay.
    /// m = 1.5, then 1.25, m̂ = 1.25/0.75; v = 4.5, then 2.75, v̂ = 2.75/0.75. Moves: 1, then 1.6667/1.9149 = 0.8704.
    #[test]
    fn two_updates_by_hand() {
        let (mut model, mut optimizer) = (one(), AdamW::default());
        let recipe = OptimizerRecipe { clip: 1e9, betas: [0.5, 0.5], ..OptimizerRecipe::default() };
        for factor in [3.0, 1.0] {
            let gradients = (model.weight.val() * factor).sum().backward();
            model = optimizer.update(model, &gradients, 1.0, &recipe).0;
        }
        let values = model.weight.val().into_data().try_to_vec::<f32>().expect("f32");
        assert!((values[0] - (1.0 - 1.0 - 0.870_388)).abs() < 1e-5, "{values:?}");
    }

    #[test]
    fn a_large_gradient_is_scaled_to_the_clip() {
        let mut moments = [Vec::new(), Vec::new()];
        let step = Step { scale: 0.01, rate: 0.0, decay: 0.0, betas: [0.0, 0.0], corrections: [1.0, 1.0] };
        step.apply(&mut [0.0], &[200.0], &mut moments, 0.0);
        assert_eq!(moments, [vec![2.0], vec![4.0]]);
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let rates: Vec<f64> = (0..100).map(|update| scheduled(2.0, 0.1, update, 100)).collect();
        assert!((rates[0] - 0.2).abs() < 1e-12 && (rates[9] - 2.0).abs() < 1e-12);
        assert!((rates[55] - 1.0).abs() < 1e-12 && rates[99] < 0.01);
    }

    #[test]
    fn a_checkpoint_brings_the_moments_back() {
        let (model, mut optimizer) = (one(), AdamW::default());
        let gradients = (model.weight.val() * 3.0).sum().backward();
        let (_, _) = optimizer.update(model, &gradients, 0.1, &OptimizerRecipe::default());
        let again = AdamW::from_weights(optimizer.to_weights(), optimizer.updates).expect("whole");
        assert_eq!(again.moments, optimizer.moments);
    }
}
