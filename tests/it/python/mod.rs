//! The bridge to Python worlds.

#[cfg(target_os = "linux")]
mod pool;
mod worlds;
