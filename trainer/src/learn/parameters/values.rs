//! The numbers of a parameter, of its gradient and of its moments: in host memory if the networks are
//! on the CPU, else on the device. An update of networks on a device moves no number between the two.

use crate::learn::transfer::counted;
use agent::model::weights::HostTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::ops;
use rayon::prelude::*;
use std::ops::Range;

/// Number of values of a parameter that a thread works on at a time. Sums are made piece by piece
/// and added in order, so they do not depend on the number of threads.
pub(crate) const PIECE: usize = 1 << 16;

/// The row-major numbers of a parameter or of a moment.
#[derive(Debug, Clone)]
pub enum Values {
    /// In host memory.
    Host(Vec<f32>),
    /// On a device, f32, without a graph for gradients.
    Device(Box<Tensor<1>>),
}

impl Values {
    /// Returns the numbers of a tensor without copying them.
    pub(crate) fn of(tensor: Tensor<1>) -> Self {
        Self::Device(Box::new(tensor))
    }

    /// Returns how many numbers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(tensor) => tensor.dims()[0],
        }
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the numbers to the host.
    ///
    /// # Panics
    /// If a tensor is not f32.
    #[must_use]
    pub fn to_vec(&self) -> Vec<f32> {
        match self {
            Self::Host(values) => values.clone(),
            Self::Device(tensor) => {
                let values = counted(tensor.as_ref().clone().into_data());
                values.try_into_vec().expect("networks are f32")
            }
        }
    }

    /// Returns these numbers where `other` is.
    pub(crate) fn beside(values: Vec<f32>, other: &Self) -> Self {
        match other {
            Self::Host(_) => Self::Host(values),
            Self::Device(tensor) => Self::of(to_device(values, &tensor.device())),
        }
    }

    /// Returns the numbers as a tensor of a checkpoint.
    pub(crate) fn to_host_tensor(&self) -> HostTensor {
        HostTensor {
            shape: vec![self.len()],
            data: self.to_vec(),
        }
    }

    /// Returns host memory of `length` numbers; what was not there is 0.
    pub(crate) fn on_host(&mut self, length: usize) -> &mut Vec<f32> {
        if let Self::Device(_) = self {
            *self = Self::Host(self.to_vec());
        }
        match self {
            Self::Host(values) => {
                values.resize(length, 0.0);
                values
            }
            Self::Device(_) => unreachable!("they are on the host now"),
        }
    }

    /// Takes the numbers out as a tensor beside `like`, of its length; what was not there is 0.
    pub(crate) fn take_on_device(&mut self, like: &Tensor<1>) -> Tensor<1> {
        match std::mem::take(self) {
            Self::Device(tensor) => *tensor,
            Self::Host(values) if values.is_empty() => like.zeros_like(),
            Self::Host(values) => to_device(values, &like.device()),
        }
    }
}

fn to_device(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let length = values.len();
    Tensor::from_data(counted(TensorData::new(values, [length])), device)
}

impl Default for Values {
    fn default() -> Self {
        Self::Host(Vec::new())
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::Host(values)
    }
}

/// Equal numbers, wherever they are.
impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.to_vec() == other.to_vec()
    }
}

/// The gradient of one parameter.
#[derive(Debug, Clone)]
pub enum Gradient {
    /// In host memory. If the network is there too, this is the memory of the tensor itself.
    Host(TensorData),
    /// On a device, f32.
    Device(Tensor<1>),
}

impl Gradient {
    /// Copies the row-major numbers to the host.
    ///
    /// # Panics
    /// Never: the type is checked to be f32 when the gradient is made.
    #[must_use]
    pub fn to_vec(&self) -> Vec<f32> {
        match self {
            Self::Host(data) => host(data).to_vec(),
            Self::Device(tensor) => Values::of(tensor.clone()).to_vec(),
        }
    }

    /// Returns these numbers as the gradient of a network on a device.
    pub(crate) fn on(device: &Device, values: Vec<f32>) -> Self {
        if ops::are_fused(device, DType::F32) {
            return values.into();
        }
        Self::Device(to_device(values, device))
    }

    /// Returns how many numbers there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host(data) => data.num_elements(),
            Self::Device(tensor) => tensor.dims()[0],
        }
    }

    /// Copies a range of the numbers to the host.
    pub(crate) fn range(&self, range: Range<usize>) -> Vec<f32> {
        match self {
            Self::Host(data) => host(data)[range].to_vec(),
            Self::Device(_) if range.is_empty() => Vec::new(),
            Self::Device(tensor) => Values::of(tensor.clone().slice(range)).to_vec(),
        }
    }

    /// Adds `share` times another gradient.
    ///
    /// # Panics
    /// If one is on the host and the other is not.
    pub(crate) fn add(&mut self, part: Self, share: f32) {
        match (self, part) {
            (Self::Host(sum), Self::Host(part)) => host_mut(sum)
                .par_chunks_mut(PIECE)
                .zip(host(&part).par_chunks(PIECE))
                .for_each(|(sum, part)| {
                    for (sum, value) in sum.iter_mut().zip(part) {
                        *sum += share * value;
                    }
                }),
            (Self::Device(sum), Self::Device(part)) => *sum = sum.clone() + part * share,
            _ => panic!("the micro-batches of a batch are on one device"),
        }
    }

    /// Multiplies it by `share`.
    pub(crate) fn scale(&mut self, share: f32) {
        match self {
            Self::Host(data) => host_mut(data)
                .par_chunks_mut(PIECE)
                .for_each(|part| part.iter_mut().for_each(|value| *value *= share)),
            Self::Device(tensor) => *tensor = tensor.clone() * share,
        }
    }
}

impl From<Vec<f32>> for Gradient {
    fn from(values: Vec<f32>) -> Self {
        let length = values.len();
        Self::Host(TensorData::new(values, [length]))
    }
}

/// Equal numbers, wherever they are.
impl PartialEq for Gradient {
    fn eq(&self, other: &Self) -> bool {
        self.to_vec() == other.to_vec()
    }
}

/// The numbers of a gradient on the host.
pub(crate) fn host(data: &TensorData) -> &[f32] {
    data.as_slice().expect("a gradient is f32")
}

fn host_mut(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("a gradient is f32")
}

/// The gradient of a network, parameter by parameter; `None` if the loss does not depend on the
/// parameter.
pub type NetworkGradients = Vec<Option<Gradient>>;

/// Returns the norm of all numbers of a gradient. From a device, one number is read.
pub(crate) fn norm(gradients: &NetworkGradients) -> f64 {
    let mut on_host = 0.0;
    let mut on_device = Vec::new();
    for gradient in gradients.iter().flatten() {
        match gradient {
            Gradient::Host(data) => on_host += squares(host(data)),
            Gradient::Device(tensor) => on_device.push(tensor.clone().square().sum()),
        }
    }
    if !on_device.is_empty() {
        let sum = counted(Tensor::cat(on_device, 0).sum().into_data());
        on_host += sum.iter::<f64>().sum::<f64>();
    }
    on_host.sqrt()
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
