//! The expert plays one generated household game in the native simulator, and every turn is printed.
//!
//! ```sh
//! cargo run --example play_one_game
//! ```

use agent::policy::ExpertPolicy;
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use env_bridge::NativeWorld;
use scenarios::household::{GenerateOptions, generate};
use scenarios::{Protocol, Split};

fn main() -> anyhow::Result<()> {
    // One game of each split, written in ALFWorld's file format.
    let folder = std::env::temp_dir().join(format!("hearth-example-{}", std::process::id()));
    let options = GenerateOptions {
        train: 1,
        valid_train: 1,
        seen: 1,
        unseen: 1,
        ..GenerateOptions::default()
    };
    let suite = generate(&folder, &options)?;
    let tasks = suite.split(Split::Train);
    let jobs = [EpisodeJob {
        task: tasks[0],
        repetition: 0,
        seed: 1,
        forced: &[],
    }];

    // The rollout loop hands every finished episode to this closure.
    play_episodes(
        &ExpertPolicy { noise: 0.0 },
        &NativeWorld::new(),
        &jobs,
        &Protocol::default(),
        Concurrency::default(),
        |episode| -> anyhow::Result<()> {
            for turn in &episode.turns {
                println!("{}\n> {}\n", turn.observation, turn.completion);
            }
            println!("{}\n", episode.last_observation);
            println!(
                "outcome: {}, {} turns",
                episode.outcome.name(),
                episode.turns.len()
            );
            Ok(())
        },
    )?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
