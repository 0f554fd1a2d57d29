//! The state of the optimizer, and one update of a network with clipping by the global gradient norm.

use super::adamw::AdamStep;
use super::muon::MuonStep;
use super::{OptimizerKind, OptimizerRecipe};
use crate::error::TrainerError;
use crate::learn::parameters::{HostGradients, PIECE, Parameter};
use agent::model::weights::{HostTensor, Weights};
use rayon::prelude::*;

/// Name of the number of updates in a checkpoint. It may be lower than the job's, if the network
/// was frozen in some updates.
const UPDATES: &str = "updates";

/// The state of the optimizer, in the order of the parameters.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// Both moments of AdamW, or the momentum of Muon and nothing.
    moments: Vec<[Vec<f32>; 2]>,
    updates: usize,
}

impl OptimizerState {
    /// Updates every parameter that has a gradient with learning rate `rate`. Returns the global
    /// norm of the gradient before clipping.
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
        let scale = if norm > recipe.clip {
            recipe.clip / norm
        } else {
            1.0
        };
        let muon = MuonStep {
            scale: scale as f32,
            rate: rate as f32,
            decay: recipe.weight_decay as f32,
        };
        let adam = AdamStep {
            scale: scale as f32,
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
            let Some(gradient) = gradient else { continue };
            let values = &mut parameter.values;
            match (recipe.kind, parameter.hidden_matrix) {
                (OptimizerKind::Muon, Some(shape)) => {
                    muon.apply(values, gradient.values(), &mut moments[0], shape);
                }
                _ => adam.apply(values, gradient.values(), moments, decay),
            }
        }
        norm
    }

    /// Returns the number of updates done.
    #[must_use]
    pub fn updates(&self) -> usize {
        self.updates
    }

    /// Returns the state as named tensors, for a checkpoint.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut tensors = vec![(UPDATES.to_string(), vec![self.updates as f32])];
        for (index, [first, second]) in self.moments.iter().enumerate() {
            tensors.push((format!("{index:05}.first"), first.clone()));
            tensors.push((format!("{index:05}.second"), second.clone()));
        }
        let mut weights = Weights::default();
        for (name, data) in tensors {
            let shape = vec![data.len()];
            weights.0.insert(name, HostTensor { shape, data });
        }
        weights
    }

    /// Reads the state from a checkpoint.
    ///
    /// # Errors
    /// If the second moment of a parameter or the number of updates is missing.
    pub fn from_weights(mut weights: Weights) -> Result<Self, TrainerError> {
        let updates = weights
            .0
            .remove(UPDATES)
            .and_then(|tensor| tensor.data.first().copied())
            .ok_or_else(|| missing("number of updates"))? as usize;
        let mut data = weights.0.into_values().map(|tensor| tensor.data);
        let mut moments = Vec::new();
        while let Some(first) = data.next() {
            let second = data.next().ok_or_else(|| missing("second moment"))?;
            moments.push([first, second]);
        }
        Ok(Self { moments, updates })
    }
}

fn missing(what: &str) -> TrainerError {
    TrainerError::Data(format!("an optimizer checkpoint lacks a {what}"))
}

/// Returns Σ g².
fn squares(gradient: &[f32]) -> f64 {
    gradient
        .par_chunks(PIECE)
        .map(squares_of_piece)
        .collect::<Vec<_>>()
        .into_iter()
        .sum()
}

fn squares_of_piece(piece: &[f32]) -> f64 {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::parameters::test_network::two_parameters;
    use crate::learn::parameters::{gradients, parameters, with_parameters};

    /// The first update of Adam moves every weight by the rate against the sign of its gradient,
    /// even if the gradient is large.
    #[test]
    fn the_first_update_moves_by_the_rate() {
        let model = two_parameters();
        let mut optimizer = OptimizerState::default();
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

    /// Gradients 3 then 1 (unclipped), β = (½, ½), rate 1, no decay. m = 1.5, then 1.25, m̂ =
    /// 1.25/0.75; v = 4.5, then 2.75, v̂ = 2.75/0.75. Moves: 1, then 1.6667/1.9149 = 0.8704.
    #[test]
    fn two_updates_by_hand() {
        let mut model = two_parameters();
        let mut optimizer = OptimizerState::default();
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
    fn a_checkpoint_restores_the_moments() {
        let model = two_parameters();
        let mut optimizer = OptimizerState::default();
        let found = gradients(&model, (model.weight.val() * 3.0).sum().backward());
        optimizer.update(
            &mut parameters(&model),
            &found,
            0.1,
            &OptimizerRecipe::default(),
        );
        let again = OptimizerState::from_weights(optimizer.to_weights()).expect("complete");
        assert_eq!((again.moments, again.updates), (optimizer.moments, 1));
    }

    /// A hidden matrix has Muon; an embedding and a norm have AdamW, with the same clip.
    #[test]
    fn muon_moves_only_the_hidden_matrices() {
        let whole = [
            Parameter {
                values: vec![1.0, 2.0, 3.0, 4.0],
                axes: 2,
                hidden_matrix: None,
            },
            Parameter {
                values: vec![1.0, 2.0],
                axes: 1,
                hidden_matrix: None,
            },
            Parameter {
                values: vec![1.0, 2.0, 3.0, 4.0],
                axes: 2,
                hidden_matrix: Some([2, 2]),
            },
        ];
        let gradients: HostGradients = vec![
            Some(vec![3.0, -1.0, 2.0, 0.5].into()),
            Some(vec![1.0, 2.0].into()),
            Some(vec![3.0, -1.0, 2.0, 0.5].into()),
        ];
        let run = |kind: OptimizerKind| {
            let recipe = OptimizerRecipe {
                kind,
                clip: 0.5,
                weight_decay: 0.1,
                ..OptimizerRecipe::default()
            };
            let mut parameters = whole.clone();
            let mut state = OptimizerState::default();
            let norms =
                [0.1, 0.01].map(|rate| state.update(&mut parameters, &gradients, rate, &recipe));
            (parameters, state, norms)
        };
        let (adam, _, adam_norms) = run(OptimizerKind::AdamW);
        let (muon, state, norms) = run(OptimizerKind::Muon);
        assert_eq!(norms, adam_norms);
        assert_eq!(muon[..2], adam[..2]);
        assert_ne!(muon[2], adam[2]);
        let sizes: Vec<[usize; 2]> = (state.moments.iter())
            .map(|moments| moments.each_ref().map(Vec::len))
            .collect();
        assert_eq!(sizes, [[4, 4], [2, 2], [4, 0]]);
        let again = OptimizerState::from_weights(state.to_weights()).expect("complete");
        assert_eq!((again.moments, again.updates), (state.moments, 2));
    }
}
