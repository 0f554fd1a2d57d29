//! The CPU kernels of the decoder.

pub mod attention;
pub mod elementwise;
pub mod fused;
pub mod matrix;
pub mod simd;
