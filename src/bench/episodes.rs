//! Episodes that the benchmarks play in the native world.

use agent::policy::{ExpertPolicy, Policy};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use env_bridge::NativeWorld;
use scenarios::{Protocol, Task, Trajectory};
use std::convert::Infallible;

/// Plays every job and returns the episodes in the order in which they end.
pub(super) fn play_all(
    policy: &impl Policy,
    jobs: &[EpisodeJob<'_>],
    protocol: &Protocol,
    concurrency: Concurrency,
) -> Vec<Trajectory> {
    let mut played = Vec::new();
    let Ok(()) = play_episodes(
        policy,
        &NativeWorld::new(),
        jobs,
        protocol,
        concurrency,
        |trajectory| -> Result<(), Infallible> {
            played.push(trajectory);
            Ok(())
        },
    );
    played
}

/// Plays one demonstration of each task, sorted by game: for the vocabulary of a fresh decoder, or
/// as training data.
pub(super) fn demonstrations(
    expert: &ExpertPolicy,
    tasks: &[&Task],
    protocol: &Protocol,
) -> Vec<Trajectory> {
    let jobs: Vec<EpisodeJob<'_>> = tasks
        .iter()
        .map(|task| EpisodeJob {
            task,
            repetition: 0,
            seed: 1,
            forced: &[],
        })
        .collect();
    let mut episodes = play_all(expert, &jobs, protocol, Concurrency::default());
    episodes.sort_by(|a, b| a.game.cmp(&b.game));
    episodes
}
