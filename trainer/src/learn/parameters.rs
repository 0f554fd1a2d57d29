//! The trainable parameters of a network and their gradients, on the host or on the device of the
//! network.

mod values;

pub use self::values::{Gradient, NetworkGradients, Values};
pub(crate) use self::values::{PIECE, host, norm};

use crate::error::TrainerError;
use crate::learn::transfer::counted;
use agent::model::weights::Weights;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Gradients, Tensor};
use kernels::ops;
use rayon::prelude::*;

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Row-major values.
    pub values: Values,
    /// Number of axes. If it is 1, there is no weight decay.
    pub axes: usize,
    /// Rows and columns, if it is one of the seven matrices of a layer. Embeddings, output matrices,
    /// heads, filters and factors of adapters are none.
    pub hidden_matrix: Option<[usize; 2]>,
}

/// Returns the trainable parameters of a network, in the order in which the module visits them. If
/// a matrix has an adapter, the matrix is frozen and the factors of the adapter are trainable.
#[must_use]
pub fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut reader = ParameterReader::default();
    module.visit(&mut reader);
    reader.parameters
}

#[derive(Default)]
struct ParameterReader {
    parameters: Vec<Parameter>,
    /// The names of the modules around a parameter, and its own.
    path: Vec<String>,
}

impl ModuleVisitor for ParameterReader {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let tensor = param.val();
            let shape = <[usize; 2]>::try_from(tensor.dims().as_slice()).ok();
            let name = self.path.last();
            assert_eq!(tensor.dtype(), DType::F32, "networks are f32");
            let length = tensor.dims().iter().product();
            let mut values = Values::of(tensor.clone().inner().reshape([length]));
            if ops::are_fused(&tensor.device(), tensor.dtype()) {
                values.on_host(length);
            }
            self.parameters.push(Parameter {
                values,
                axes: D,
                hidden_matrix: shape.filter(|_| name.is_some_and(|name| name.ends_with("_proj"))),
            });
        }
    }
}

/// Returns the gradients of the trainable parameters, in the order of [`parameters`].
///
/// # Panics
/// If the network is not f32.
#[must_use]
pub fn gradients<M: Module>(module: &M, gradients: Gradients) -> NetworkGradients {
    let mut reader = GradientReader {
        graph: gradients,
        found: Vec::new(),
    };
    module.visit(&mut reader);
    reader.found
}

struct GradientReader {
    graph: Gradients,
    found: NetworkGradients,
}

impl ModuleVisitor for GradientReader {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let gradient = param.val().grad_remove(&mut self.graph);
        self.found.push(gradient.map(|gradient| {
            assert_eq!(gradient.dtype(), DType::F32, "networks are f32");
            if ops::are_fused(&gradient.device(), gradient.dtype()) {
                return Gradient::Host(counted(gradient.into_data()));
            }
            let length: usize = gradient.dims().iter().product();
            Gradient::Device(gradient.reshape([length]))
        }));
    }
}

/// Returns the same network with other values of the trainable parameters.
#[must_use]
pub fn with_parameters<M: Module>(module: M, parameters: &[Parameter]) -> M {
    module.map(&mut ParameterWriter(parameters.iter()))
}

struct ParameterWriter<'a>(std::slice::Iter<'a, Parameter>);

impl ModuleMapper for ParameterWriter<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let values = &self
            .0
            .next()
            .expect("a value for every trainable parameter")
            .values;
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        let device = tensor.device();
        let tensor = match values {
            Values::Device(values) => values.as_ref().clone().reshape(shape).autodiff(),
            Values::Host(values) => {
                let mut data = counted(tensor.into_data()); // on the CPU, the memory of the old values
                let old: &mut [f32] = data.as_mut_slice().expect("networks are f32");
                old.par_chunks_mut(PIECE)
                    .zip(values.par_chunks(PIECE))
                    .for_each(|(old, new)| old.copy_from_slice(new));
                Tensor::from_data(data, &device)
            }
        };
        Param::from_mapped_value(id, tensor.require_grad(), mapper)
    }
}

/// Returns the same network over the same memory, with a separate autodiff graph, for another
/// thread.
#[must_use]
pub fn sharing<M: Module>(module: &M) -> M {
    module.clone().map(&mut GraphSeparator)
}

struct GraphSeparator;

impl ModuleMapper for GraphSeparator {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_trainable = param.is_require_grad();
        let (id, tensor, mapper) = param.consume();
        let tensor = tensor.inner().autodiff();
        let tensor = if is_trainable {
            tensor.require_grad()
        } else {
            tensor
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// Adds `share` times the gradients of one micro-batch to the sum over the batch.
pub fn accumulate(whole: &mut NetworkGradients, part: NetworkGradients, share: f64) {
    whole.resize(part.len(), None);
    let share = share as f32;
    for (sum, part) in whole.iter_mut().zip(part) {
        let Some(mut part) = part else { continue };
        if let Some(sum) = sum {
            sum.add(part, share);
        } else {
            if share != 1.0 {
                part.scale(share);
            }
            *sum = Some(part);
        }
    }
}

/// Returns parameters as named tensors, for a checkpoint.
#[must_use]
pub fn to_weights(parameters: &[Parameter]) -> Weights {
    let mut weights = Weights::default();
    for (index, parameter) in parameters.iter().enumerate() {
        let tensor = parameter.values.to_host_tensor();
        weights.0.insert(format!("{index:05}"), tensor);
    }
    weights
}

/// Reads parameters from a checkpoint; they must have the sizes of `like`.
///
/// # Errors
/// If their number or a size differs.
pub fn from_weights(weights: &Weights, like: &[Parameter]) -> Result<Vec<Parameter>, TrainerError> {
    let stored = weights.0.values().map(|tensor| tensor.data.len());
    if !stored.eq(like.iter().map(|parameter| parameter.values.len())) {
        return Err(TrainerError::Data(
            "the best parameters of a checkpoint have other shapes than the networks".into(),
        ));
    }
    Ok(like
        .iter()
        .zip(weights.0.values())
        .map(|(like, tensor)| Parameter {
            values: Values::beside(tensor.data.clone(), &like.values),
            axes: like.axes,
            hidden_matrix: like.hidden_matrix,
        })
        .collect())
}

/// A network for tests of parameters and optimizer.
#[cfg(test)]
pub(crate) mod test_network {
    use burn::module::{Module, Param};
    use burn::tensor::{Tensor, TensorData};

    #[derive(Module, Debug)]
    pub(crate) struct TwoParameters {
        pub(crate) weight: Param<Tensor<2>>,
        pub(crate) unused: Param<Tensor<1>>,
    }

    pub(crate) fn two_parameters() -> TwoParameters {
        let device = support::device::device().autodiff();
        TwoParameters {
            weight: Param::from_data(TensorData::new(vec![1.0_f32, -2.0], [1, 2]), &device),
            unused: Param::from_data(TensorData::new(vec![5.0_f32], [1]), &device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::test_network::{TwoParameters, two_parameters};
    use super::*;
    use agent::model::config::{DecoderConfig, Family};
    use agent::model::decoder::ValueNetwork;
    use agent::model::reading::config::{ConvolutionConfig, ConvolutionPlace, ReadingConfig};

    /// A `[1, 2]` matrix with an adapter of rank 1: factor A has one number and B has two.
    #[test]
    fn only_trainable_parameters_are_visited() {
        let adapted = two_parameters().apply_lora(burn::module::Lora::new(1, 1.0));
        let mut host = parameters(&adapted);
        assert_eq!(
            host.iter()
                .map(|parameter| parameter.values.len())
                .collect::<Vec<_>>(),
            [1, 2]
        );
        let of_factors = gradients(&adapted, adapted.weight.val().sum().backward());
        assert_eq!(
            of_factors
                .iter()
                .flatten()
                .map(|gradient| gradient.to_vec().len())
                .collect::<Vec<_>>(),
            [1, 2]
        );
        host[1].values = Values::beside(vec![4.0, 5.0], &host[1].values);
        let adapted = with_parameters(adapted, &host);
        assert_eq!(parameters(&adapted), host);
        assert_eq!(
            adapted
                .weight
                .base()
                .into_data()
                .try_to_vec::<f32>()
                .expect("f32"),
            [1.0, -2.0]
        );
        assert_eq!(
            adapted
                .unused
                .val()
                .into_data()
                .try_to_vec::<f32>()
                .expect("f32"),
            [5.0]
        );
        assert!(parameters(&two_parameters().no_grad()).is_empty());
    }

    /// The seven matrices of each layer, `[in, out]`, and nothing else. An adapter freezes them.
    #[test]
    fn the_matrices_of_the_layers_are_hidden_matrices() {
        let convolution = ConvolutionConfig {
            width: 3,
            places: ConvolutionPlace::ALL.to_vec(),
        };
        let config = DecoderConfig {
            family: Family::Hearth,
            vocab_size: 11,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 16,
            tie_word_embeddings: false,
            reading: ReadingConfig {
                ngram_embedding: vec![1],
                convolution: Some(convolution),
                ..ReadingConfig::default()
            },
            ..DecoderConfig::default()
        };
        let weights = Weights::random(&config, 1).with_zero_value_head(&config);
        let network =
            ValueNetwork::from_weights(&config, &weights, &support::device::device().autodiff())
                .expect("builds");
        let all = parameters(&network);
        let hidden: Vec<[usize; 2]> = all.iter().filter_map(|p| p.hidden_matrix).collect();
        let layer = [[8, 8], [8, 4], [8, 4], [8, 8], [8, 12], [8, 12], [12, 8]];
        assert_eq!(hidden, [layer, layer].concat());
        let others = all
            .iter()
            .filter(|p| p.axes == 2 && p.hidden_matrix.is_none());
        assert_eq!(
            others.count(),
            2 + 2 + 2 * 4 + 1,
            "tables, n-grams, filters and a head"
        );
        let adapted = network.apply_lora(burn::module::Lora::new(1, 1.0));
        assert!(
            parameters(&adapted)
                .iter()
                .all(|p| p.hidden_matrix.is_none())
        );
    }

    /// Two networks share one memory: the gradient of one does not reach the other, and a frozen
    /// parameter stays frozen.
    #[test]
    fn sharing_networks_share_values_but_no_gradients() {
        let first = TwoParameters {
            unused: two_parameters().unused.no_grad(),
            ..two_parameters()
        };
        let other = sharing(&first);
        assert!(other.weight.is_require_grad() && !other.unused.is_require_grad());
        let sum = (other.weight.val() * 3.0).sum() + other.unused.val().sum();
        let of_other = gradients(&other, sum.backward());
        let found: Vec<Vec<f32>> = of_other.iter().flatten().map(Gradient::to_vec).collect();
        assert_eq!(found, [[3.0, 3.0]]);
        let moved = with_parameters(
            other,
            &[Parameter {
                values: vec![7.0, 8.0].into(),
                axes: 2,
                hidden_matrix: None,
            }],
        );
        assert_eq!(
            parameters(&first)[0].values.to_vec(),
            [1.0, -2.0],
            "the first keeps its values"
        );
        assert_eq!(parameters(&moved)[0].values.to_vec(), [7.0, 8.0]);
    }

    /// Two micro-batches, weighted by their shares, add up to the whole. If a parameter has no
    /// gradient in any of them, it has none in the sum.
    #[test]
    fn micro_batches_add_up_to_the_whole() {
        let mut whole = NetworkGradients::new();
        accumulate(&mut whole, vec![Some(vec![4.0, 0.0].into()), None], 0.25);
        accumulate(&mut whole, vec![Some(vec![0.0, 8.0].into()), None], 0.75);
        assert_eq!(whole, [Some(vec![1.0, 6.0].into()), None]);
    }
}
