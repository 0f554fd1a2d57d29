//! Statistics, units and memory readings that several benchmarks use.

use std::time::Duration;

/// Returns the median of `values`. If their number is even, it is the upper of the two middle
/// values.
///
/// # Panics
/// If `values` is empty.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Returns the resident memory of this process in MiB, or 0 if `/proc/self/statm` cannot be read.
pub(super) fn memory_mib() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = statm.split_whitespace().nth(1);
    let pages = resident.and_then(|pages| pages.parse::<u64>().ok());
    pages.map_or(0, |pages| (pages * PAGE_BYTES) >> 20)
}

/// Returns a figure of `/proc/PID/status` in KiB, for example of `VmRSS`; `None` if the system does
/// not report it.
pub(super) fn status_kib(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Formats a figure with `digits` decimals; an empty cell if there is none.
pub(super) fn decimals(value: Option<f64>, digits: usize) -> String {
    value.map_or(String::new(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If the kernel reports this process, both figures are positive and of the same order.
    #[test]
    #[cfg(target_os = "linux")]
    fn resident_memory_is_read_from_proc() {
        let resident = status_kib(std::process::id(), "VmRSS").unwrap();
        assert!(resident > 0 && resident >> 10 < 2 * memory_mib() + 2);
        assert_eq!(status_kib(std::process::id(), "Vm"), None);
    }
}
