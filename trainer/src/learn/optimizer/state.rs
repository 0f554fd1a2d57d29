//! The state of the optimizer, and one update of a network with clipping by the global gradient norm.

use super::adamw::AdamStep;
use super::muon::MuonStep;
use super::{OptimizerKind, OptimizerRecipe};
use crate::error::TrainerError;
use crate::learn::parameters::{Gradient, NetworkGradients, Parameter, Values, host, norm};
use agent::model::weights::Weights;

/// Name of the number of updates in a checkpoint. It may be lower than the job's, if the network
/// was frozen in some updates.
const UPDATES: &str = "updates";

/// The state of the optimizer, in the order of the parameters.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// Both moments of AdamW, or the momentum of Muon and nothing.
    moments: Vec<[Values; 2]>,
    updates: usize,
}

impl OptimizerState {
    /// Updates every parameter that has a gradient with learning rate `rate`. Returns the global
    /// norm of the gradient before clipping.
    pub fn update(
        &mut self,
        parameters: &mut [Parameter],
        gradients: &NetworkGradients,
        rate: f64,
        recipe: &OptimizerRecipe,
    ) -> f64 {
        let norm = norm(gradients);
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
            let hidden_matrix = match recipe.kind {
                OptimizerKind::Muon => parameter.hidden_matrix,
                OptimizerKind::AdamW => None,
            };
            match (&mut parameter.values, gradient) {
                (Values::Device(values), Gradient::Device(gradient)) => match hidden_matrix {
                    Some(shape) => {
                        muon.apply_on_device(values, gradient, &mut moments[0], shape);
                    }
                    None => adam.apply_on_device(values, gradient, moments, decay),
                },
                (Values::Host(values), Gradient::Host(gradient)) => {
                    let length = values.len();
                    let gradient = host(gradient);
                    match hidden_matrix {
                        Some(shape) => {
                            muon.apply(values, gradient, moments[0].on_host(length), shape);
                        }
                        None => {
                            let moments = moments.each_mut().map(|m| m.on_host(length));
                            adam.apply(values, gradient, moments, decay);
                        }
                    }
                }
                _ => panic!("parameters and gradients are on one device"),
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
        let updates = Values::from(vec![self.updates as f32]);
        let mut weights = Weights::default();
        let mut insert = |name: String, values: &Values| {
            weights.0.insert(name, values.to_host_tensor());
        };
        insert(UPDATES.into(), &updates);
        for (index, [first, second]) in self.moments.iter().enumerate() {
            insert(format!("{index:05}.first"), first);
            insert(format!("{index:05}.second"), second);
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
        let mut data = weights
            .0
            .into_values()
            .map(|tensor| Values::from(tensor.data));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::parameters::test_network::two_parameters;
    use crate::learn::parameters::{gradients, parameters, with_parameters};
    use burn::tensor::{Tensor, TensorData};

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
                values: vec![1.0, 2.0, 3.0, 4.0].into(),
                axes: 2,
                hidden_matrix: None,
            },
            Parameter {
                values: vec![1.0, 2.0].into(),
                axes: 1,
                hidden_matrix: None,
            },
            Parameter {
                values: vec![1.0, 2.0, 3.0, 4.0].into(),
                axes: 2,
                hidden_matrix: Some([2, 2]),
            },
        ];
        let gradients: NetworkGradients = vec![
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
            .map(|moments| moments.each_ref().map(Values::len))
            .collect();
        assert_eq!(sizes, [[4, 4], [2, 2], [4, 0]]);
        let again = OptimizerState::from_weights(state.to_weights()).expect("complete");
        assert_eq!((again.moments, again.updates), (state.moments, 2));
    }

    /// Three updates of a matrix and a norm, with a clip and weight decay. On a device, everything
    /// stays there.
    #[test]
    fn updates_on_a_device_are_those_on_the_host() {
        let device = support::device::device();
        let on_device = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            Tensor::<1>::from_data(data, &device)
        };
        let matrix = [1.0, -2.0, 3.0, 0.5, 0.25, -1.0];
        let norm_weight = [1.0, 2.0];
        let parameter = |values: Values, axes, hidden_matrix| Parameter {
            values,
            axes,
            hidden_matrix,
        };
        for kind in [OptimizerKind::AdamW, OptimizerKind::Muon] {
            let recipe = OptimizerRecipe {
                kind,
                clip: 0.5,
                weight_decay: 0.1,
                ..OptimizerRecipe::default()
            };
            let mut host = [
                parameter(matrix.to_vec().into(), 2, Some([2, 3])),
                parameter(norm_weight.to_vec().into(), 1, None),
            ];
            let mut there = [
                parameter(Values::of(on_device(&matrix)), 2, Some([2, 3])),
                parameter(Values::of(on_device(&norm_weight)), 1, None),
            ];
            let [mut host_state, mut state] =
                [OptimizerState::default(), OptimizerState::default()];
            for step in 0..3 {
                let gradient = |length: usize| -> Vec<f32> {
                    (0..length)
                        .map(|i| ((i * 3 + step * 5) as f32).sin())
                        .collect()
                };
                let of_host = vec![Some(gradient(6).into()), Some(gradient(2).into())];
                let of_device = [6, 2].map(|n| Some(Gradient::Device(on_device(&gradient(n)))));
                let norm = host_state.update(&mut host, &of_host, 0.1, &recipe);
                let found = state.update(&mut there, &of_device.to_vec(), 0.1, &recipe);
                assert!((norm - found).abs() < 1e-5 * norm, "{norm} and {found}");
            }
            for (host, there) in host.iter().zip(&there) {
                for (a, b) in host.values.to_vec().iter().zip(there.values.to_vec()) {
                    assert!((a - b).abs() < 1e-5, "{kind:?}: {a} and {b}");
                }
                assert!(matches!(there.values, Values::Device(_)));
            }
            assert!(matches!(
                state.moments[1],
                [Values::Device(_), Values::Device(_)]
            ));
            assert!(matches!(state.moments[0][0], Values::Device(_)));
            // A checkpoint continues on the device.
            let mut again = OptimizerState::from_weights(state.to_weights()).expect("complete");
            let mut continued = there.clone();
            let of_device = [6, 2].map(|n| Some(Gradient::Device(on_device(&vec![1.0; n]))));
            again.update(&mut continued, &of_device.to_vec(), 0.1, &recipe);
            state.update(&mut there, &of_device.to_vec(), 0.1, &recipe);
            assert_eq!(continued, there);
        }
    }
}
