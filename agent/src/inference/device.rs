//! Where learning and playing compute: on the CPU, or on an NVIDIA GPU where the feature `cuda` is built in.
//!
//! On the CPU, learning is on burn's flex backend and playing on kernels of our own ([`crate::inference`]); on a GPU both
//! are on burn. A device is opened before anything else is done, so that what it lacks
//! is said at once and in words.

use crate::error::AgentError;
use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// Where learning and playing compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of that number.
    Cuda(usize),
}

/// What computes when a model plays.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Backend {
    /// Kernels of our own, on the CPU.
    #[default]
    Cpu,
    /// burn, on a device: the one for a GPU.
    Burn(Device),
}

impl DeviceChoice {
    /// Opens the device for learning.
    ///
    /// # Errors
    /// [`AgentError::Device`] for a GPU where this build has no CUDA, or its driver, the device, the CUDA headers or
    /// NVRTC are missing.
    pub fn burn(self) -> Result<Device, AgentError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => cuda(index).map_err(|reason| AgentError::Device {
                device: self.to_string(),
                reason,
            }),
        }
    }

    /// Opens the device for playing.
    ///
    /// # Errors
    /// As [`DeviceChoice::burn`].
    pub fn engine(self) -> Result<Backend, AgentError> {
        match self {
            Self::Cpu => Ok(Backend::Cpu),
            Self::Cuda(_) => self.burn().map(Backend::Burn),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    /// Reads `cpu`, `cuda`, which is the first GPU, or `cuda:N`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => index
                .parse()
                .map(Self::Cuda)
                .map_err(|_| format!("{index:?} is not the number of a GPU")),
            _ => Err("a device is cpu, cuda or cuda:N".into()),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Device, String> {
    Err("this hearth is built without CUDA\nhint: cargo build --release --features cuda".into())
}

/// Asks for what kernels need in the order in which it is needed, since the CUDA libraries panic at what they miss, then
/// has one kernel compiled and run.
#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device, String> {
    use burn::tensor::{DeviceType, Tensor};
    let found = Device::enumerate(DeviceType::Cuda).into_vec().len();
    if found == 0 {
        return Err("no NVIDIA GPU is found\nhint: its driver (libcuda.so.1) must be installed and the GPU visible: \
                    nvidia-smi lists it"
            .into());
    }
    if index >= found {
        return Err(format!(
            "the last of {found} NVIDIA GPUs is cuda:{}",
            found - 1
        ));
    }
    let headers =
        cubecl::cuda::install::cuda_path().map(|toolkit| toolkit.join("include/cuda_runtime.h"));
    if !headers.as_ref().is_some_and(|headers| headers.exists()) {
        let where_sought = headers.map_or_else(
            || "/usr/local/cuda".into(),
            |headers| headers.display().to_string(),
        );
        return Err(format!(
            "the CUDA headers are not there: {where_sought}\nhint: install the CUDA toolkit, or name it with CUDA_PATH"
        ));
    }
    let device = Device::cuda(index);
    let one_kernel = || {
        Tensor::<1>::ones([8], &device)
            .exp()
            .sum()
            .try_into_scalar::<f32>()
    };
    let sum = std::panic::catch_unwind(std::panic::AssertUnwindSafe(one_kernel));
    let reason = match sum {
        Ok(Ok(sum)) if (sum - 8.0 * std::f32::consts::E).abs() < 1e-2 => return Ok(device),
        Ok(Ok(sum)) => format!("eight times e is {sum} on it"),
        Ok(Err(error)) => format!("a kernel failed: {error:?}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("the reason stands above");
            format!("a kernel could not be compiled or run: {text}")
        }
    };
    Err(format!(
        "{reason}\nhint: libnvrtc must be found (LD_LIBRARY_PATH), and the driver, the toolkit and the \
         CUDARC_CUDA_VERSION of the build must fit: results/gpu/README.md"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_survives_its_name() {
        for hardware in [
            DeviceChoice::Cpu,
            DeviceChoice::Cuda(0),
            DeviceChoice::Cuda(3),
        ] {
            assert_eq!(hardware.to_string().parse(), Ok(hardware));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in [
            "",
            "gpu",
            "CPU",
            "cpu:0",
            "cuda:",
            "cuda:-1",
            "cuda:first",
            "cuda:0:1",
        ] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_cpu_is_always_there() {
        assert!(DeviceChoice::Cpu.burn().is_ok());
    }

    /// With the feature, a machine that has so many GPUs would be another surprise.
    #[test]
    fn a_gpu_that_is_not_there_is_an_error_in_words() {
        let error = DeviceChoice::Cuda(99)
            .burn()
            .expect_err("not there")
            .to_string();
        let reason = if cfg!(feature = "cuda") {
            "NVIDIA GPU"
        } else {
            "built without CUDA\nhint: cargo build"
        };
        assert!(
            error.starts_with("device cuda:99: ") && error.contains(reason),
            "{error}"
        );
    }
}
