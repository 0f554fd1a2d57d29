//! The names of `cubecl-llvm` 0.11.3 that `cubecl-cuda` uses, without a compiler behind them.
//!
//! `cubecl-cuda` always links two compilers of GPU kernels and asks one: NVRTC where the feature `cubecl/cuda-cpp` is
//! on, as it is here, else LLVM. The LLVM one brings a build script that downloads LLVM from outside crates.io, so a
//! build without a network beyond the registry fails for the sake of a compiler that is never asked. This crate takes
//! its place; a kernel that is sent to it all the same is refused in words.
//!
//! Back to stock: remove `[patch.crates-io]` from the root manifest, this folder, and its checks in `tests/it/repository/map.rs`.

#![deny(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::compiler::CompilationError;
use cubecl_runtime::kernel::BufferIOAttr;
use std::ffi::c_char;

/// What concerns NVIDIA's PTX.
pub mod nvptx {
    /// The version of PTX that is written.
    pub mod ptx_version {
        use std::fmt;

        /// A version of PTX; there is none, because none is written.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// The newest version that a driver loads: always none.
            #[must_use]
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

/// What the targets share.
pub mod shared {
    /// What a device can do that the compiler cannot.
    pub mod lowered_features {
        /// The kind of GPU.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Would take from the device's properties what the compiler cannot write; called only where LLVM compiles.
        pub fn restrict_features<P>(_properties: &mut P, _target: GpuTarget) {}
    }
}

/// What is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// The CPU.
    #[default]
    Cpu,
    /// NVIDIA's GPUs.
    Nvptx,
}

/// What the compiler would have to know; nobody reads it.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// Of AMD's GPUs.
    pub arch: Option<()>,
    /// Of NVIDIA's GPUs.
    pub sm_arch: Option<SmArch>,
    /// The version to write.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// How kernels take their parameters.
    pub grid_constants: bool,
    /// There are more, as `..Default::default()` behind the others expects.
    pub others: (),
}

/// A compiled kernel; none is ever made.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// What the driver loads.
    pub ptx: Vec<c_char>,
    /// The kernel's name in it.
    pub entrypoint: String,
    /// What it was made from.
    pub ir: String,
    /// Bytes.
    pub shared_memory_size: usize,
    /// What it does with each buffer.
    pub io: Vec<BufferIOAttr>,
}

/// What compiling gives.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// For the CPU.
    Jit,
    /// For NVIDIA's GPUs.
    NvptxCode(NvptxModule),
}

/// The compiler that is not there.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would compile for.
    pub target: LlvmTarget,
}

impl PlironCompiler {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        let reason = "hearth is built without LLVM: kernels are compiled by NVRTC, with the feature cubecl/cuda-cpp";
        Err(CompilationError::Generic { reason: reason.into(), backtrace: BackTrace::capture() })
    }

    /// Of the files it would write.
    #[must_use]
    pub fn extension(&self) -> &'static str {
        "ll"
    }

    /// Of the language it would write.
    #[must_use]
    pub fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
