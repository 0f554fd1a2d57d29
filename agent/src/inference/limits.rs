//! What the CPU or a device could do at most, measured: the two ceilings that a speed is a share of.

use crate::model::decoder::Precision;
use burn::tensor::{Device, Distribution, Tensor};
use kernels::elementwise;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Each ceiling is the best of readings over this long.
const READING: Duration = Duration::from_millis(600);
/// Sums in registers: sixteen of the widest vectors.
const SUMS: usize = 256;

/// Numbers that a device copies for a reading: far more than its caches hold, a fraction of its memory.
const COPIED: usize = 1 << 28;
/// Rows and columns of the matrices that a device multiplies for a reading.
const MULTIPLIED: usize = 8192;

/// Both ceilings, with all threads that playing uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Threads that play.
    pub threads: usize,
    /// Bytes a second that come from memory.
    pub bytes_per_s: f64,
    /// Floating-point operations a second, on the CPU in f32, on a device in matrix products of its precision; a fused
    /// multiply-add is two.
    pub flop_per_s: f64,
}

impl Limits {
    /// Those of the CPU; measures for about a second.
    #[must_use]
    pub fn measure() -> Self {
        let memory = vec![1.0_f32; 64 << 20];
        let bytes_per_s = best(size_of_val(&memory[..]) as f64, || {
            black_box(
                memory
                    .par_chunks(1 << 18)
                    .map(|part| elementwise::widest(Sum(part)))
                    .sum::<f32>(),
            );
        });
        let threads = rayon::current_num_threads();
        let chain = 1 << 16;
        let flop_per_s = best((2 * SUMS * chain * threads) as f64, || {
            black_box(
                (0..threads)
                    .into_par_iter()
                    .map(|_| elementwise::widest(Chains(chain)))
                    .sum::<f32>(),
            );
        });
        Self {
            threads,
            bytes_per_s,
            flop_per_s,
        }
    }

    /// Those of a device through burn: adding a number to a long vector in place, which reads and writes it, and the
    /// product of two square matrices of random numbers. Measures for some seconds, in which kernels are tuned.
    #[must_use]
    pub fn of_device(device: &Device, precision: Precision) -> Self {
        Self::of_sizes(device, precision, COPIED, MULTIPLIED)
    }

    fn of_sizes(device: &Device, precision: Precision, copied: usize, multiplied: usize) -> Self {
        let wait = || {
            device
                .sync()
                .expect("a device that computes can be waited for")
        };
        let mut memory = Some(Tensor::<1>::random([copied], Distribution::Default, device));
        let mut copy = || {
            memory = memory.take().map(|numbers| numbers + 1.0);
            wait();
        };
        copy();
        let bytes_per_s = best((2 * size_of::<f32>() * copied) as f64, copy);
        let matrix =
            || Tensor::<2>::random([multiplied, multiplied], Distribution::Default, device);
        let (left, right) = (precision.narrow(matrix()), precision.narrow(matrix()));
        let multiply = || {
            black_box(left.clone().matmul(right.clone()));
            wait();
        };
        multiply();
        let flop_per_s = best(2.0 * (multiplied as f64).powi(3), multiply);
        Self {
            threads: rayon::current_num_threads(),
            bytes_per_s,
            flop_per_s,
        }
    }

    /// Seconds that a pass takes at least, which reads so many bytes and does so many operations.
    #[must_use]
    pub fn seconds(&self, bytes: f64, operations: f64) -> f64 {
        (bytes / self.bytes_per_s).max(operations / self.flop_per_s)
    }
}

/// The highest of many readings of `work` a second.
fn best(work: f64, mut run: impl FnMut()) -> f64 {
    let (begun, mut highest) = (Instant::now(), 0.0_f64);
    while begun.elapsed() < READING {
        let started = Instant::now();
        run();
        highest = highest.max(work / started.elapsed().as_secs_f64());
    }
    highest
}

/// Σ of a stretch of memory.
struct Sum<'a>(&'a [f32]);

impl pulp::NullaryFnOnce for Sum<'_> {
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

/// Fused multiply-adds with nothing to wait for but each other.
struct Chains(usize);

impl pulp::NullaryFnOnce for Chains {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let (factor, more) = (black_box(0.999_f32), black_box(0.001_f32));
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
    fn the_nearer_ceiling_counts() {
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

    /// Doubling a side is eight times the work of a product; the ceiling is a speed, and stays of one order.
    #[test]
    fn the_ceilings_of_a_device_are_speeds() {
        let of = |side| Limits::of_sizes(&Device::flex(), Precision::F32, 1 << 16, side);
        let (small, large) = (of(64), of(128));
        for ratio in [
            small.flop_per_s / large.flop_per_s,
            small.bytes_per_s / large.bytes_per_s,
        ] {
            assert!((0.05..20.0).contains(&ratio), "{small:?} and {large:?}");
        }
    }

    /// A chain that starts at 0.5 and tends to 1 stays between them.
    #[test]
    fn the_ceilings_are_real_work() {
        let sum = elementwise::widest(Chains(3));
        assert!((128.0..256.0).contains(&sum), "{sum}");
        assert_eq!(elementwise::widest(Sum(&[1.0; 640])), 640.0);
    }
}
