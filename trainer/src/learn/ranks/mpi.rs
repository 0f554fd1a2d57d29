//! Ranks that an MPI launcher started, such as `mpirun` or `srun --mpi`.

use super::Ranks;
use crate::error::TrainerError;
use mpi::Threading;
use mpi::datatype::{Equivalence, Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

/// The ranks of `MPI_COMM_WORLD`. If it is dropped, MPI ends, so a process can make it once.
pub struct MpiRanks {
    world: SimpleCommunicator,
    _universe: Universe,
}

impl MpiRanks {
    /// Starts MPI.
    ///
    /// # Errors
    /// If MPI has been started before in this process, or cannot be called from a process with threads.
    pub fn start() -> Result<Self, TrainerError> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| TrainerError::Data("MPI cannot be started twice in a process".into()))?;
        if threading < Threading::Funneled {
            return Err(TrainerError::Data(
                "this MPI library cannot be used by a process with threads".into(),
            ));
        }
        Ok(Self {
            world: universe.world(),
            _universe: universe,
        })
    }

    /// Ends all ranks with this exit code. Otherwise they would wait for one that has failed.
    pub fn abort(&self, code: i32) -> ! {
        self.world.abort(code)
    }

    fn gather_all<T: Equivalence + Clone + Default>(&self, part: &[T]) -> Vec<Vec<T>> {
        let mut counts = vec![0; self.count()];
        self.world.all_gather_into(&length(part), &mut counts[..]);
        let mut received = vec![T::default(); total(&counts)];
        let starts = starts(&counts);
        let mut partition = PartitionMut::new(&mut received[..], &counts[..], &starts[..]);
        self.world.all_gather_varcount_into(part, &mut partition);
        split(&received, &counts)
    }
}

impl Ranks for MpiRanks {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn count(&self) -> usize {
        self.world.size() as usize
    }

    fn exchange(&self, parts: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let sent_counts: Vec<i32> = parts.iter().map(|part| length(part)).collect();
        let mut counts = vec![0; self.count()];
        self.world
            .all_to_all_into(&sent_counts[..], &mut counts[..]);
        let sent = parts.concat();
        let mut received = vec![0.0; total(&counts)];
        let (sent_starts, starts) = (starts(&sent_counts), starts(&counts));
        self.world.all_to_all_varcount_into(
            &Partition::new(&sent[..], &sent_counts[..], &sent_starts[..]),
            &mut PartitionMut::new(&mut received[..], &counts[..], &starts[..]),
        );
        split(&received, &counts)
    }

    fn gather(&self, part: &[f32]) -> Vec<Vec<f32>> {
        self.gather_all(part)
    }

    fn gather_bytes(&self, part: &[u8]) -> Vec<Vec<u8>> {
        self.gather_all(part)
    }
}

/// MPI counts the numbers of a message with 32 bits.
fn length<T>(part: &[T]) -> i32 {
    i32::try_from(part.len()).expect("a message of MPI has fewer than 2^31 numbers")
}

fn total(counts: &[i32]) -> usize {
    counts.iter().map(|count| *count as usize).sum()
}

/// Returns where each part starts, if the parts follow each other.
fn starts(counts: &[i32]) -> Vec<i32> {
    let mut next = 0_i32;
    let mut start = |count: &i32| {
        let start = next;
        next = next
            .checked_add(*count)
            .expect("all messages to a rank have fewer than 2^31 numbers");
        start
    };
    counts.iter().map(&mut start).collect()
}

fn split<T: Clone>(received: &[T], counts: &[i32]) -> Vec<Vec<T>> {
    let mut rest = received;
    let mut parts = Vec::with_capacity(counts.len());
    for count in counts {
        let (part, others) = rest.split_at(*count as usize);
        parts.push(part.to_vec());
        rest = others;
    }
    parts
}
