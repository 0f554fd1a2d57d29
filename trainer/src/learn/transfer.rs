//! How many bytes training has copied between the host and a device. A test asks whether the copies of an
//! update grow with the number of parameters.

use burn::tensor::TensorData;
use std::sync::atomic::{AtomicU64, Ordering};

static BYTES: AtomicU64 = AtomicU64::new(0);

/// Returns how many bytes have gone to a device, or come from one, since this process started. If the networks
/// are on the CPU, numbers that are only handed over count as well.
#[must_use]
pub fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// Counts numbers that have come from a device or are about to go to one, and returns them.
pub(crate) fn counted(data: TensorData) -> TensorData {
    BYTES.fetch_add(data.bytes().len() as u64, Ordering::Relaxed);
    data
}
