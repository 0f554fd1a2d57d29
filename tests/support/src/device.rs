//! The device for tests of what burn computes. `HEARTH_TEST_DEVICE=webgpu` runs them on a GPU, in a
//! build with the feature of that name; otherwise they run on burn's CPU backend.

use agent::inference::device::{Backend, DeviceChoice};
use burn::tensor::Device;
use std::sync::OnceLock;

/// Returns the device that `HEARTH_TEST_DEVICE` names, else the CPU.
///
/// # Panics
/// Panics if the variable is not a device.
#[must_use]
pub fn choice() -> DeviceChoice {
    std::env::var("HEARTH_TEST_DEVICE").map_or(DeviceChoice::Cpu, |name| {
        name.parse()
            .unwrap_or_else(|error| panic!("HEARTH_TEST_DEVICE={name}: {error}"))
    })
}

/// Opens that device, once.
///
/// # Panics
/// Panics if it cannot be opened.
#[must_use]
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| choice().burn().unwrap()).clone()
}

/// The inference backend on burn, on that device.
///
/// # Panics
/// Panics if it cannot be opened.
#[must_use]
pub fn backend() -> Backend {
    Backend::Burn(device())
}

/// Returns `on_cpu`, the allowed difference of two numbers on the CPU, or what is allowed instead on
/// a GPU, whose functions such as `exp` are less exact.
#[must_use]
pub fn tolerance(on_cpu: f32) -> f32 {
    match choice() {
        DeviceChoice::Cpu => on_cpu,
        DeviceChoice::Gpu(..) => 10.0 * on_cpu,
    }
}
