//! The measured limits of the CPU or of a device: memory bandwidth and arithmetic throughput. Used by
//! `hearth bench`, which reports a speed as a share of them.

use crate::model::decoder::Precision;
use burn::tensor::{Device, Distribution, Tensor};
use kernels::elementwise;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long each limit is measured. The best reading counts.
const READING: Duration = Duration::from_millis(600);
/// Sums that are kept in registers: sixteen of the widest vectors.
const SUMS: usize = 256;

/// Numbers that a device copies for a reading: far more than its caches hold, a fraction of its
/// memory.
const COPIED: usize = 1 << 28;
/// Rows and columns of the matrices that a device multiplies for a reading.
const MULTIPLIED: usize = 8192;

/// The limits of the CPU or of a device, with all threads that play uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Threads that play uses.
    pub threads: usize,
    /// Memory bandwidth, bytes per second.
    pub bytes_per_s: f64,
    /// Floating-point operations per second: on the CPU in f32, on a device in matrix products of its
    /// precision. A fused multiply-add counts as two.
    pub flop_per_s: f64,
}

impl Limits {
    /// Measures the CPU. This takes about a second.
    #[must_use]
    pub fn measure() -> Self {
        let memory = vec![1.0_f32; 64 << 20];
        let bytes_per_s = best(size_of_val(&memory[..]) as f64, || {
            black_box(
                memory
                    .par_chunks(1 << 18)
                    .map(|part| elementwise::dispatch(MemorySum(part)))
                    .sum::<f32>(),
            );
        });
        let threads = rayon::current_num_threads();
        let chain = 1 << 16;
        let flop_per_s = best((2 * SUMS * chain * threads) as f64, || {
            black_box(
                (0..threads)
                    .into_par_iter()
                    .map(|_| elementwise::dispatch(FmaChains(chain)))
                    .sum::<f32>(),
            );
        });
        Self {
            threads,
            bytes_per_s,
            flop_per_s,
        }
    }

    /// Measures a device through burn. The bandwidth is that of adding a number to a long vector in
    /// place, which reads and writes it. The throughput is that of the product of two square matrices
    /// of random numbers. This takes some seconds, in which kernels are tuned.
    #[must_use]
    pub fn of_device(device: &Device, precision: Precision) -> Self {
        Self::of_sizes(device, precision, COPIED, MULTIPLIED)
    }

    fn of_sizes(device: &Device, precision: Precision, copied: usize, multiplied: usize) -> Self {
        let mut memory = Some(Tensor::<1>::random([copied], Distribution::Default, device));
        let bytes_per_s = best_when_warm((2 * size_of::<f32>() * copied) as f64, || {
            memory = memory.take().map(|numbers| numbers + 1.0);
            wait(device);
        });
        let left = precision.narrow(random_matrix(multiplied, device));
        let right = precision.narrow(random_matrix(multiplied, device));
        let flop_per_s = best_when_warm(2.0 * (multiplied as f64).powi(3), || {
            black_box(left.clone().matmul(right.clone()));
            wait(device);
        });
        Self {
            threads: rayon::current_num_threads(),
            bytes_per_s,
            flop_per_s,
        }
    }

    /// The shortest possible time of a pass that reads `bytes` and does `operations`, seconds.
    #[must_use]
    pub fn seconds(&self, bytes: f64, operations: f64) -> f64 {
        (bytes / self.bytes_per_s).max(operations / self.flop_per_s)
    }
}

fn random_matrix(side: usize, device: &Device) -> Tensor<2> {
    Tensor::random([side, side], Distribution::Default, device)
}

/// Waits until a device has finished its work.
fn wait(device: &Device) {
    device
        .sync()
        .expect("a device that computes can be waited for");
}

/// [`best`] after one run that is not measured.
fn best_when_warm(work: f64, mut run: impl FnMut()) -> f64 {
    run();
    best(work, run)
}

/// The highest of many readings of `work` per second.
fn best(work: f64, mut run: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut highest = 0.0_f64;
    while begun.elapsed() < READING {
        let started = Instant::now();
        run();
        highest = highest.max(work / started.elapsed().as_secs_f64());
    }
    highest
}

/// Sums a part of memory.
struct MemorySum<'a>(&'a [f32]);

impl pulp::NullaryFnOnce for MemorySum<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let mut sums = [0.0; 64];
        for block in self.0.as_chunks::<64>().0 {
            for lane in 0..64 {
                sums[lane] += block[lane];
            }
        }
        sums.iter().sum()
    }
}

/// Runs independent chains of this many fused multiply-adds.
struct FmaChains(usize);

impl pulp::NullaryFnOnce for FmaChains {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let factor = black_box(0.999_f32);
        let more = black_box(0.001_f32);
        let mut sums = [0.5_f32; SUMS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, more);
            }
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_limit_counts() {
        let limits = Limits {
            threads: 1,
            bytes_per_s: 10.0,
            flop_per_s: 100.0,
        };
        assert_eq!(
            (limits.seconds(30.0, 100.0), limits.seconds(30.0, 1000.0)),
            (3.0, 10.0)
        );
    }

    /// If a side is doubled, a product is eight times the work, but the measured speed stays of the
    /// same order.
    #[test]
    fn the_limits_of_a_device_are_speeds() {
        let [small, large] =
            [64, 128].map(|side| Limits::of_sizes(&Device::flex(), Precision::F32, 1 << 16, side));
        for ratio in [
            small.flop_per_s / large.flop_per_s,
            small.bytes_per_s / large.bytes_per_s,
        ] {
            assert!((0.05..20.0).contains(&ratio), "{small:?} and {large:?}");
        }
    }

    /// A chain starts at 0.5 and converges to 1, so it stays between them.
    #[test]
    fn the_jobs_compute_their_results() {
        let sum = elementwise::dispatch(FmaChains(3));
        assert!((128.0..256.0).contains(&sum), "{sum}");
        assert_eq!(elementwise::dispatch(MemorySum(&[1.0; 640])), 640.0);
    }
}
