//! The device for training and play: the CPU, or an NVIDIA GPU if the feature `cuda` is built in.
//!
//! On the CPU, training uses burn's flex backend, and play uses the kernels of this workspace
//! ([`crate::inference`]). On a GPU both use burn. A device is opened before any other work, so that
//! a missing driver or library is reported at once.

use crate::error::AgentError;
use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// The device for training and play.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// The NVIDIA GPU with this number.
    Cuda(usize),
}

/// The implementation of inference.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Backend {
    /// The kernels of this workspace, on the CPU.
    #[default]
    Cpu,
    /// burn, on a device. It is used for a GPU.
    Burn(Device),
}

impl DeviceChoice {
    /// Opens the device for training.
    ///
    /// # Errors
    /// [`AgentError::Device`] for a GPU if this build has no CUDA, or if its driver, the device, the
    /// CUDA headers or NVRTC are missing.
    pub fn burn(self) -> Result<Device, AgentError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => cuda(index).map_err(|reason| AgentError::Device {
                device: self.to_string(),
                reason,
            }),
        }
    }

    /// Opens the device for play.
    ///
    /// # Errors
    /// As [`DeviceChoice::burn`].
    pub fn backend(self) -> Result<Backend, AgentError> {
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

    /// Reads `cpu`, `cuda` (the first GPU) or `cuda:N`.
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

/// Checks what kernels need in the order in which it is needed, because the CUDA libraries panic if
/// something is missing. Then it compiles and runs one kernel.
#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device, String> {
    use burn::tensor::{DeviceType, Tensor};
    let found = Device::enumerate(DeviceType::Cuda).into_vec().len();
    if found == 0 {
        return Err(
            "no NVIDIA GPU is found\nhint: install its driver (libcuda.so.1) and check that \
                    nvidia-smi lists the GPU"
                .into(),
        );
    }
    if index >= found {
        return Err(format!(
            "there are {found} NVIDIA GPUs, of which the last is cuda:{}",
            found - 1
        ));
    }
    let headers =
        cubecl::cuda::install::cuda_path().map(|toolkit| toolkit.join("include/cuda_runtime.h"));
    if !headers.as_ref().is_some_and(|headers| headers.exists()) {
        let place = headers.map_or_else(
            || "/usr/local/cuda".into(),
            |headers| headers.display().to_string(),
        );
        return Err(format!(
            "the CUDA headers are missing: {place}\nhint: install the CUDA toolkit, or set CUDA_PATH to \
             its folder"
        ));
    }
    let device = Device::cuda(index);
    let sum = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Tensor::<1>::ones([8], &device)
            .exp()
            .sum()
            .try_into_scalar::<f32>()
    }));
    let reason = match sum {
        Ok(Ok(sum)) if (sum - 8.0 * std::f32::consts::E).abs() < 1e-2 => return Ok(device),
        Ok(Ok(sum)) => format!("a test kernel returned {sum}, not 8 · e = 21.746"),
        Ok(Err(error)) => format!("a test kernel failed: {error:?}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("the reason is printed above");
            format!("a test kernel could not be compiled or run: {text}")
        }
    };
    Err(format!(
        "{reason}\nhint: check that libnvrtc is in LD_LIBRARY_PATH, and that the driver, the toolkit and \
         the CUDARC_CUDA_VERSION of the build match: results/gpu/README.md"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_back_from_its_name() {
        for device in [
            DeviceChoice::Cpu,
            DeviceChoice::Cuda(0),
            DeviceChoice::Cuda(3),
        ] {
            assert_eq!(device.to_string().parse(), Ok(device));
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
    fn the_cpu_is_always_available() {
        assert!(DeviceChoice::Cpu.burn().is_ok());
    }

    /// If the feature is built in, the machine is assumed to have fewer than 100 GPUs.
    #[test]
    fn a_missing_gpu_is_an_error() {
        let error = DeviceChoice::Cuda(99)
            .burn()
            .expect_err("there is no such GPU")
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
