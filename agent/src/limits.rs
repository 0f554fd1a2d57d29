//! What this machine could do at most, measured: the two ceilings that a speed is a share of.

use crate::kernel;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Each ceiling is the best of readings over this long.
const READING: Duration = Duration::from_millis(600);
/// Sums in registers: sixteen of the widest vectors.
const SUMS: usize = 256;

/// Both ceilings, with all threads that playing uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Threads that play.
    pub threads: usize,
    /// Bytes a second that come from memory.
    pub bytes_per_s: f64,
    /// Floating-point operations a second in f32; a fused multiply-add is two.
    pub flop_per_s: f64,
}

impl Limits {
    /// Measures for about a second.
    #[must_use]
    pub fn measure() -> Self {
        let memory = vec![1.0_f32; 64 << 20];
        let bytes_per_s = best(size_of_val(&memory[..]) as f64, || {
            black_box(memory.par_chunks(1 << 18).map(|part| kernel::widest(Sum(part))).sum::<f32>());
        });
        let threads = rayon::current_num_threads();
        let chain = 1 << 16;
        let flop_per_s = best((2 * SUMS * chain * threads) as f64, || {
            black_box((0..threads).into_par_iter().map(|_| kernel::widest(Chains(chain))).sum::<f32>());
        });
        Self { threads, bytes_per_s, flop_per_s }
    }

    /// Seconds that a pass takes at least, which reads so many bytes and does so many operations.
    #[must_use]
    pub fn seconds(&self, bytes: f64, operations: f64) -> f64 {
        (bytes / self.bytes_per_s).max(operations / self.flop_per_s)
    }
}

/// The highest of many readings of `work` a second.
fn best(work: f64, run: impl Fn()) -> f64 {
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
        let limits = Limits { threads: 1, bytes_per_s: 10.0, flop_per_s: 100.0 };
        assert_eq!((limits.seconds(30.0, 100.0), limits.seconds(30.0, 1000.0)), (3.0, 10.0));
    }

    /// A chain that starts at 0.5 and tends to 1 stays between them.
    #[test]
    fn the_ceilings_are_real_work() {
        let sum = kernel::widest(Chains(3));
        assert!((128.0..256.0).contains(&sum), "{sum}");
        assert_eq!(kernel::widest(Sum(&[1.0; 640])), 640.0);
    }
}
