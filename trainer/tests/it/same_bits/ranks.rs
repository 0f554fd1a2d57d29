//! Several ranks train the same bits as one process. The ranks are threads here; `tests/cluster/mpi.sh` has processes.

use super::resuming::without_times;
use crate::training_jobs::{SFT, in_memory, metrics, one_update, oreo, recipe, rollouts};
use agent::model::folder::Model;
use indicatif::ProgressBar;
use scenarios::Trajectory;
use std::path::Path;
use std::sync::{Barrier, Mutex};
use support::corridor::babbler;
use trainer::TrainerError;
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::learn::ranks::{Alone, Ranks};
use trainer::learn::train::{TrainingJob, train};
use trainer::pipeline::recipe::{Algorithm, Level, TrainConfig};

/// The messages of all ranks: what the first gives to the second.
struct Board {
    barrier: Barrier,
    messages: Mutex<Vec<Vec<Vec<u8>>>>,
}

/// A rank that is a thread.
struct ThreadRank<'a> {
    rank: usize,
    count: usize,
    board: &'a Board,
}

impl ThreadRank<'_> {
    fn exchange_bytes(&self, parts: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        self.board.messages.lock().unwrap()[self.rank] = parts;
        self.board.barrier.wait();
        let received = (self.board.messages.lock().unwrap().iter())
            .map(|from| from[self.rank].clone())
            .collect();
        self.board.barrier.wait();
        received
    }
}

impl Ranks for ThreadRank<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn exchange(&self, parts: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let bytes = |part: &Vec<f32>| part.iter().flat_map(|x| x.to_le_bytes()).collect();
        let received = self.exchange_bytes(parts.iter().map(bytes).collect());
        let numbers = |part: Vec<u8>| {
            let (whole, []) = part.as_chunks::<4>() else {
                panic!("a number has four bytes")
            };
            whole
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect()
        };
        received.into_iter().map(numbers).collect()
    }

    fn gather(&self, part: &[f32]) -> Vec<Vec<f32>> {
        self.exchange(&vec![part.to_vec(); self.count])
    }

    fn gather_bytes(&self, part: &[u8]) -> Vec<Vec<u8>> {
        self.exchange_bytes(vec![part.to_vec(); self.count])
    }
}

/// Trains in this many ranks with these seeds, in one folder; returns what each rank returns.
fn train_in_ranks(
    seeds: &[u64],
    recipe: &TrainConfig,
    start: &Model,
    played: &[Trajectory],
    out: &Path,
) -> Vec<Result<Model, TrainerError>> {
    let count = seeds.len();
    let board = Board {
        barrier: Barrier::new(count),
        messages: Mutex::new(vec![Vec::new(); count]),
    };
    let board = &board;
    let in_rank = |rank: usize, seed: u64| {
        let rank = ThreadRank { rank, count, board };
        let job = TrainingJob {
            recipe,
            start,
            lineage: None,
            reading: None,
            episodes: &in_memory(recipe, start, played)?,
            branches: &[],
            seed,
            out,
            hardware: support::device::choice(),
            ranks: if count == 1 { &Alone } else { &rank },
        };
        train(&job, &ProgressBar::hidden()).map(|(model, _)| model)
    };
    let in_rank = &in_rank;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (seeds.iter().enumerate())
            .map(|(rank, seed)| scope.spawn(move || in_rank(rank, *seed)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// A batch has several micro-batches, which are dealt to one, two, three and eight ranks.
#[test]
fn any_number_of_ranks_trains_the_same_bits() {
    let start = babbler(5);
    let played = rollouts(&start);
    let tokens: usize = played.iter().map(Trajectory::tokens).sum();
    assert!(tokens > 3 * 64, "more than three micro-batches");
    let optimizer = OptimizerRecipe {
        batch: played.len(),
        updates: 3,
        learning_rate: 1e-2,
        token_budget: 64,
        ..OptimizerRecipe::default()
    };
    let kto = Algorithm::Kto {
        beta: 0.1,
        desirable: 1.0,
        undesirable: 1.0,
    };
    for algorithm in [SFT, oreo(Level::Turn, 0.4), kto] {
        let recipe = recipe(algorithm, optimizer.clone());
        let trained = |count: usize| {
            let out = tempfile::tempdir().unwrap();
            let models = train_in_ranks(&vec![7; count], &recipe, &start, &played, out.path());
            (models, without_times(&metrics(out.path())))
        };
        let (expected, expected_rows) = trained(1);
        let expected = expected[0].as_ref().unwrap();
        assert_ne!(expected.policy, start.policy, "it has learned");
        for count in [2, 3, 8] {
            let (models, rows) = trained(count);
            assert_eq!(rows, expected_rows, "{count} ranks");
            for model in models {
                let model = model.unwrap();
                assert!(model.policy == expected.policy, "{count} ranks");
                assert!(model.value == expected.value, "{count} ranks");
            }
        }
    }
}

#[test]
fn ranks_with_different_jobs_are_refused() {
    let start = babbler(5);
    let played = rollouts(&start);
    let out = tempfile::tempdir().unwrap();
    let recipe = recipe(SFT, one_update(&played, 1e-3));
    let results = train_in_ranks(&[7, 8], &recipe, &start, &played, out.path());
    for result in results {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("start all processes with the same arguments"),
            "{error}"
        );
    }
}
