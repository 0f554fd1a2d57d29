//! A round of episodes: every game some number of times, each episode with its own seed. A round can be
//! divided among shards: shard `i` of `n` plays the games whose index modulo `n` is `i`.

use crate::error::TrainerError;
use agent::policy::{ExpertPolicy, Policy};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{Protocol, Task, Trajectory, World};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A share of the games: shard `index`, from 0, of `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// The shard that contains all games.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Returns shard `index`, from 0, of `of`.
    ///
    /// # Errors
    /// If `index` is not below `of`.
    pub fn new(index: usize, of: usize) -> Result<Self, String> {
        if index < of {
            Ok(Self { index, of })
        } else {
            Err(format!(
                "shard {index} of {of}: shards count from 0 to n - 1"
            ))
        }
    }

    /// Returns the shard's index, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// Returns the number of shards.
    #[must_use]
    pub fn count(self) -> usize {
        self.of
    }

    /// Returns whether there are other shards.
    #[must_use]
    pub fn is_part(self) -> bool {
        self.of > 1
    }

    /// Returns whether this is the leader, which trains and merges for all shards.
    #[must_use]
    pub fn leads(self) -> bool {
        self.index == 0
    }

    /// Returns whether the game with this index belongs to the shard.
    #[must_use]
    pub fn holds(self, game: usize) -> bool {
        game % self.of == self.index
    }

    /// Returns the path of the shard's store: `rollouts.shard-2-of-4.jsonl` for `rollouts.jsonl`. If there
    /// are no other shards, it is the whole store.
    #[must_use]
    pub fn store(self, whole: &Path) -> PathBuf {
        let Self { index, of } = self;
        if self.is_part() {
            whole.with_extension(format!("shard-{index}-of-{of}.jsonl"))
        } else {
            whole.into()
        }
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, of) = numbers.ok_or_else(|| format!("`{text}` is not I/N, as 0/4"))?;
        Self::new(index, of)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// Seed and repetitions of a round of episodes.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Episodes per game.
    pub repetitions: usize,
    /// Seed of the round. An episode's seed depends on it, on the game's index and on the repetition.
    pub seed: u64,
    /// Number of episodes that are played at the same time.
    pub pool: Concurrency,
    /// The share of the games that is played.
    pub shard: Shard,
}

/// Returns the episodes of the round's shard in the order of play: every game once, then every game again.
pub(crate) fn jobs<'a>(tasks: &[&'a Task], round: Round) -> Vec<EpisodeJob<'a>> {
    let mut jobs = Vec::new();
    for repetition in 0..round.repetitions {
        for (index, &task) in tasks.iter().enumerate() {
            if round.shard.holds(index) {
                jobs.push(EpisodeJob {
                    task,
                    repetition,
                    seed: episode_seed(&round, index, repetition),
                    forced: &[],
                });
            }
        }
    }
    jobs
}

/// Returns the seed of an episode. `game` is the game's index among all games, so the seed is the same
/// whichever shard plays the game.
pub(crate) fn episode_seed(round: &Round, game: usize, repetition: usize) -> u64 {
    round
        .seed
        .wrapping_mul(1_000_003)
        .wrapping_add((game * round.repetitions + repetition) as u64)
}

/// Plays the jobs that are missing from the store at `path`. Returns the episodes of all jobs in job order.
///
/// # Errors
/// If the store cannot be read or written, or if it has episodes of another policy or protocol.
/// [`TrainerError::Gone`] if the policy no longer answers.
pub(crate) fn play_jobs<P: Policy>(
    policy: &P,
    world: &dyn World,
    jobs: &[EpisodeJob<'_>],
    protocol: &Protocol,
    pool: Concurrency,
    path: &Path,
    progress: &ProgressBar,
) -> Result<Vec<Trajectory>, TrainerError> {
    let (mut store, mut finished) = Store::open(path)?;
    if let Some(other) = finished.iter().find(|trajectory| {
        trajectory.policy != policy.name()
            || trajectory.value_policy != policy.value_name()
            || trajectory.protocol != *protocol
    }) {
        let reason = format!(
            "holds episodes of policy {} under another protocol or policy than {}\nhint: choose another --out, or remove it",
            other.policy,
            policy.name()
        );
        return Err(TrainerError::content(path, reason));
    }
    let done: HashSet<(String, u64)> = finished
        .iter()
        .map(|t| (t.game_hash.clone(), t.seed))
        .collect();
    let open: Vec<EpisodeJob<'_>> = jobs
        .iter()
        .filter(|job| !done.contains(&(job.task.hash.clone(), job.seed)))
        .cloned()
        .collect();
    progress.set_length(jobs.len() as u64);
    progress.set_position((jobs.len() - open.len()) as u64);
    let mut wins = finished.iter().filter(|t| t.is_won()).count();
    play_episodes(policy, world, &open, protocol, pool, |trajectory| {
        TrainerError::check_policy(policy, &trajectory)?;
        store.append(&trajectory)?;
        wins += usize::from(trajectory.is_won());
        finished.push(trajectory);
        progress.inc(1);
        progress.set_message(format!("won {wins} of {}", finished.len()));
        Ok::<(), TrainerError>(())
    })?;
    Ok(in_order(finished, jobs))
}

/// Plays every game once with the perfect expert, without a store. Returns the episodes in the order of the
/// games. An episode that is lost to the environment is among them.
#[must_use]
pub fn expert_episodes(world: &dyn World, tasks: &[&Task], seed: u64) -> Vec<Trajectory> {
    let pool = Concurrency::default();
    let round = Round {
        repetitions: 1,
        seed,
        pool,
        shard: Shard::WHOLE,
    };
    let jobs = jobs(tasks, round);
    let mut episodes = Vec::new();
    let Ok(()) = play_episodes(
        &ExpertPolicy::default(),
        world,
        &jobs,
        &Protocol::default(),
        pool,
        |trajectory| {
            episodes.push(trajectory);
            Ok::<(), Infallible>(())
        },
    );
    in_order(episodes, &jobs)
}

/// Returns the episodes of these jobs in job order. Episodes of other jobs are omitted. If a job has several
/// episodes, the first one is kept.
pub(crate) fn in_order(episodes: Vec<Trajectory>, jobs: &[EpisodeJob<'_>]) -> Vec<Trajectory> {
    let places: BTreeMap<(&str, u64), usize> = jobs
        .iter()
        .enumerate()
        .map(|(index, job)| ((job.task.hash.as_str(), job.seed), index))
        .collect();
    let mut placed: Vec<(usize, Trajectory)> = episodes
        .into_iter()
        .filter_map(|episode| {
            let place = *places.get(&(episode.game_hash.as_str(), episode.seed))?;
            Some((place, episode))
        })
        .collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.dedup_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, episode)| episode).collect()
}
