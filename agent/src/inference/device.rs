//! The device for training and play: the CPU, or a GPU through one of the interfaces that are built
//! in as features of the crate.
//!
//! On the CPU, training uses burn's flex backend, and play uses the kernels of this workspace
//! ([`crate::inference`]). On a GPU both use burn. A device is opened before any other work, so that
//! a missing driver or library is reported at once.

mod gpu;

pub use gpu::{FoundGpu, GpuApi};

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
    /// The GPU with this number among those that the interface finds.
    Gpu(GpuApi, usize),
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
    /// Returns the first GPU that is no software, or the CPU if there is none. The interfaces are
    /// tried in the order of [`GpuApi::ALL`].
    pub fn automatic() -> Self {
        GpuApi::ALL
            .into_iter()
            .filter(|api| api.is_built_in())
            .flat_map(|api| api.found().unwrap_or_default())
            .find(|gpu| !gpu.is_software)
            .map_or(Self::Cpu, |gpu| gpu.device)
    }

    /// Opens the device for training.
    ///
    /// # Errors
    /// [`AgentError::Device`] for a GPU if this build does not have its interface, if its driver or
    /// the device is missing, or if a test kernel fails.
    pub fn burn(self) -> Result<Device, AgentError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Gpu(api, index) => api.open(index).map_err(|reason| AgentError::Device {
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
            Self::Gpu(..) => self.burn().map(Backend::Burn),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(api, index) => write!(f, "{api}:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    /// Reads `cpu`, an interface such as `cuda` (its first GPU), or an interface and a number such
    /// as `vulkan:1`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "cpu" {
            return Ok(Self::Cpu);
        }
        let (name, index) = text.split_once(':').unwrap_or((text, "0"));
        let Some(api) = GpuApi::ALL.into_iter().find(|api| api.name() == name) else {
            return Err(
                "a device is cpu, auto, cuda, rocm, metal, vulkan or webgpu; a GPU may have a \
                 number, such as cuda:1"
                    .into(),
            );
        };
        index
            .parse()
            .map(|index| Self::Gpu(api, index))
            .map_err(|_| format!("{index:?} is not the number of a GPU"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_back_from_its_name() {
        let gpus = GpuApi::ALL.map(|api| [DeviceChoice::Gpu(api, 0), DeviceChoice::Gpu(api, 3)]);
        for device in gpus.concat().into_iter().chain([DeviceChoice::Cpu]) {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Gpu(GpuApi::Cuda, 0)));
        assert_eq!("webgpu".parse(), Ok(DeviceChoice::Gpu(GpuApi::WebGpu, 0)));
        for wrong in [
            "",
            "gpu",
            "CPU",
            "cpu:0",
            "cuda:",
            "cuda:-1",
            "cuda:first",
            "cuda:0:1",
            "vulkan:x",
        ] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_cpu_is_always_available() {
        assert!(DeviceChoice::Cpu.burn().is_ok());
    }

    /// A software GPU is never chosen, since the CPU is faster than one.
    #[test]
    fn the_automatic_choice_can_be_opened() {
        let chosen = DeviceChoice::automatic();
        assert!(chosen.backend().is_ok(), "{chosen}");
        if let DeviceChoice::Gpu(api, index) = chosen {
            let found = api.found().unwrap_or_default();
            assert!(!found[index].is_software, "{chosen}");
        }
    }

    /// The machine is assumed to have fewer than 100 GPUs.
    #[test]
    fn a_missing_gpu_is_an_error() {
        for api in GpuApi::ALL {
            let error = DeviceChoice::Gpu(api, 99)
                .burn()
                .expect_err("there is no such GPU")
                .to_string();
            let reason = if api.is_built_in() {
                "GPU".to_owned()
            } else {
                format!("without {api}\nhint: cargo build --release --features {api}")
            };
            assert!(
                error.starts_with(&format!("device {api}:99: ")) && error.contains(&reason),
                "{error}"
            );
        }
    }
}
