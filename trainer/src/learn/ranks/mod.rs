//! The processes that train one job together (ranks, as in MPI), and how they share its micro-batches.
//!
//! All ranks hold the same networks and make the same plan. Micro-batch i of a batch belongs to rank i mod n. Sums over
//! micro-batches are made in the order of the micro-batches, so the result has the same bits with any number of ranks.
//! Rank 0 alone writes files.

#[cfg(feature = "mpi")]
pub mod mpi;
mod sum;

pub(crate) use sum::sum;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Messages between the ranks. All ranks must call the same functions in the same order. An implementation ends all
/// ranks if a message cannot be sent.
pub trait Ranks {
    /// Returns which rank this process is, from 0.
    fn rank(&self) -> usize;

    /// Returns how many ranks there are.
    fn count(&self) -> usize;

    /// Gives `parts[r]` to rank r. Returns what every rank gave to this one, in the order of ranks.
    fn exchange(&self, parts: &[Vec<f32>]) -> Vec<Vec<f32>>;

    /// Gives the same numbers to all ranks. Returns what every rank gave, in the order of ranks.
    fn gather(&self, part: &[f32]) -> Vec<Vec<f32>>;

    /// As [`Ranks::gather`], with bytes.
    fn gather_bytes(&self, part: &[u8]) -> Vec<Vec<u8>>;
}

/// One process without others.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn exchange(&self, parts: &[Vec<f32>]) -> Vec<Vec<f32>> {
        parts.to_vec()
    }

    fn gather(&self, part: &[f32]) -> Vec<Vec<f32>> {
        vec![part.to_vec()]
    }

    fn gather_bytes(&self, part: &[u8]) -> Vec<Vec<u8>> {
        vec![part.to_vec()]
    }
}

/// Returns the results of all micro-batches, in their order, if each rank has those of its own with their indices.
///
/// # Panics
/// If another rank sends what this version of hearth does not read.
pub(crate) fn in_order<T: Serialize + DeserializeOwned>(
    ranks: &dyn Ranks,
    mine: Vec<(usize, T)>,
) -> Vec<T> {
    let mut all = mine;
    if ranks.count() > 1 {
        let bytes = postcard::to_allocvec(&all).expect("plain data");
        all = ranks
            .gather_bytes(&bytes)
            .iter()
            .flat_map(|bytes| {
                postcard::from_bytes::<Vec<(usize, T)>>(bytes)
                    .expect("all ranks run the same version of hearth")
            })
            .collect();
    }
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}
