//! Kernels of the decoder: matrix products, attention, element-wise loops, and fused training
//! operations with their gradients.
//!
//! | module | contains | used by |
//! | --- | --- | --- |
//! | [`matrix`] | packed weight matrices (f32, f16, bf16, 8 bits) and their product with rows | play |
//! | [`attention`] | attention of new tokens over a KV cache | play |
//! | [`elementwise`] | RMSNorm, gated units, log-softmax and other loops over rows | play |
//! | [`convolution`] | short causal convolutions | play, training |
//! | `paged` | attention of single tokens over the KV pool of a GPU, with the feature `gpu` | play |
//! | [`ops`] | the decoder's operations on burn tensors, fused if the device supports it | training |
//!
//! Everything computes in f32. A result never depends on the number of threads or on the width of
//! the machine's vectors. In the kernels for play, a row's result also does not depend on which
//! other rows share the call.

pub mod attention;
mod blockwise;
pub mod convolution;
pub mod elementwise;
mod fused;
mod gemm;
pub mod matrix;
pub mod ops;
#[cfg(feature = "gpu")]
pub mod paged;
mod simd;
mod weight_format;
