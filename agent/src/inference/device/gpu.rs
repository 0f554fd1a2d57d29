//! Interfaces to GPUs: which are built in, which GPUs they find, and opening one.

use super::DeviceChoice;
use burn::tensor::Device;
#[cfg(feature = "gpu")]
use burn::tensor::{DeviceType, Tensor};
use std::fmt;
#[cfg(feature = "gpu")]
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An interface to GPUs. Each is a feature of this crate with the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuApi {
    /// CUDA, for NVIDIA GPUs; kernels are compiled by NVRTC.
    Cuda,
    /// ROCm, for AMD GPUs; kernels are compiled by HIPRTC.
    Rocm,
    /// Metal, for Apple GPUs.
    Metal,
    /// Vulkan; kernels are compiled to SPIR-V.
    Vulkan,
    /// Whatever wgpu finds: Vulkan, Metal, Direct3D 12 or OpenGL; kernels are compiled to WGSL.
    WebGpu,
}

/// A GPU that an interface found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundGpu {
    /// Its name for `--device`.
    pub device: DeviceChoice,
    /// Its name as its driver says it.
    pub name: String,
    /// Whether it is a program on the CPU, such as Mesa's lavapipe.
    pub is_software: bool,
}

impl GpuApi {
    /// All interfaces. The native ones come first.
    pub const ALL: [Self; 5] = [
        Self::Cuda,
        Self::Rocm,
        Self::Metal,
        Self::Vulkan,
        Self::WebGpu,
    ];

    /// Returns the name for `--device`, which is also that of the feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::WebGpu => "webgpu",
        }
    }

    /// Returns whether this build has the interface.
    pub fn is_built_in(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::WebGpu => cfg!(feature = "webgpu"),
        }
    }

    fn without(self) -> String {
        format!(
            "this hearth is built without {self}\nhint: cargo build --release --features {self}"
        )
    }
}

impl fmt::Display for GpuApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No interface is built in.
#[cfg(not(feature = "gpu"))]
impl GpuApi {
    /// Lists the GPUs.
    ///
    /// # Errors
    /// Always, because no interface is built in.
    pub fn found(self) -> Result<Vec<FoundGpu>, String> {
        Err(self.without())
    }

    pub(super) fn open(self, _: usize) -> Result<Device, String> {
        Err(self.without())
    }
}

#[cfg(feature = "gpu")]
impl GpuApi {
    /// Lists the GPUs. To learn their names, each is opened.
    ///
    /// # Errors
    /// Why there is none, and what to do about it.
    pub fn found(self) -> Result<Vec<FoundGpu>, String> {
        Ok(self
            .devices()?
            .into_iter()
            .enumerate()
            .map(|(index, device)| self.describe(index, &device))
            .collect())
    }

    fn describe(self, index: usize, device: &Device) -> FoundGpu {
        let identity = catch_unwind(AssertUnwindSafe(|| device.identity())).unwrap_or(None);
        FoundGpu {
            device: DeviceChoice::Gpu(self, index),
            is_software: is_software(device),
            name: identity.map_or_else(|| "a GPU that cannot be opened".into(), |it| it.name),
        }
    }

    /// Returns what to do if no GPU is found.
    fn hint(self) -> &'static str {
        match self {
            Self::Cuda => {
                "install the NVIDIA driver (libcuda.so.1) and check that nvidia-smi lists the GPU"
            }
            Self::Rocm => "install ROCm and check that rocminfo lists the GPU",
            Self::Metal => "Metal exists on macOS only; use vulkan or webgpu elsewhere",
            Self::Vulkan | Self::WebGpu => {
                "install the GPU's Vulkan driver and check that vulkaninfo --summary lists it"
            }
        }
    }

    /// Lists the devices that burn finds, software last.
    fn devices(self) -> Result<Vec<Device>, String> {
        let filter = match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => DeviceType::Cuda,
            #[cfg(feature = "rocm")]
            Self::Rocm => DeviceType::Rocm,
            #[cfg(feature = "metal")]
            Self::Metal => DeviceType::Metal,
            #[cfg(feature = "vulkan")]
            Self::Vulkan => DeviceType::Vulkan,
            // burn's own WebGpu is that of a browser.
            #[cfg(feature = "webgpu")]
            Self::WebGpu => DeviceType::Wgpu,
            #[allow(unreachable_patterns, reason = "if all interfaces are built in")]
            _ => return Err(self.without()),
        };
        let mut devices = catch_unwind(|| Device::enumerate(filter).into_vec()).unwrap_or_default();
        devices.sort_by_key(is_software);
        if devices.is_empty() {
            return Err(format!("no GPU is found\nhint: {}", self.hint()));
        }
        Ok(devices)
    }

    /// Checks what kernels need in the order in which it is needed, because the libraries of a GPU
    /// panic if something is missing. Then it compiles and runs one kernel.
    pub(super) fn open(self, index: usize) -> Result<Device, String> {
        let devices = self.devices()?;
        let Some(device) = devices.get(index) else {
            let last = devices.len() - 1;
            return Err(match last {
                0 => format!("there is one GPU, {self}:0"),
                last => format!(
                    "there are {} GPUs, of which the last is {self}:{last}",
                    last + 1
                ),
            });
        };
        #[cfg(feature = "cuda")]
        if self == Self::Cuda {
            cuda_headers()?;
        }
        let sum = catch_unwind(AssertUnwindSafe(|| {
            Tensor::<1>::ones([8], device)
                .exp()
                .sum()
                .try_into_scalar::<f32>()
        }));
        let reason = match sum {
            Ok(Ok(sum)) if (sum - 8.0 * std::f32::consts::E).abs() < 1e-2 => {
                return Ok(device.clone());
            }
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
        let hint = match self {
            Self::Cuda => {
                "check that libnvrtc is in LD_LIBRARY_PATH, and that the driver, the toolkit and the \
                 CUDARC_CUDA_VERSION of the build match: docs/gpu.md"
            }
            _ => "try another interface or driver: docs/gpu.md",
        };
        Err(format!("{reason}\nhint: {hint}"))
    }
}

/// Returns whether a device is a program on the CPU.
#[cfg(feature = "gpu")]
fn is_software(device: &Device) -> bool {
    format!("{device:?}").contains("Cpu")
}

#[cfg(feature = "cuda")]
fn cuda_headers() -> Result<(), String> {
    let headers =
        cubecl::cuda::install::cuda_path().map(|toolkit| toolkit.join("include/cuda_runtime.h"));
    if headers.as_ref().is_some_and(|headers| headers.exists()) {
        return Ok(());
    }
    let place = headers.map_or_else(
        || "/usr/local/cuda".into(),
        |headers| headers.display().to_string(),
    );
    Err(format!(
        "the CUDA headers are missing: {place}\nhint: install the CUDA toolkit, or set CUDA_PATH to its \
         folder"
    ))
}
