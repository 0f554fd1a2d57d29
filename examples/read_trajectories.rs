//! Reads a trajectory store: how many episodes were won, how long they were, and what the policy did in the first one.
//!
//! ```sh
//! cargo run --example read_trajectories -- runs/quickstart-1/1/rollouts.jsonl
//! ```

use anyhow::Context;
use scenarios::store::Store;

fn main() -> anyhow::Result<()> {
    let path = std::env::args()
        .nth(1)
        .context("name a store, for example runs/quickstart-1/1/rollouts.jsonl")?;
    // Reading needs no lock. If a process is appending to the store, a torn last line is left out.
    let episodes = Store::read(&path)?;
    let won = episodes.iter().filter(|episode| episode.is_won()).count();
    let turns: usize = episodes.iter().map(|episode| episode.turns.len()).sum();
    println!(
        "{path}: {} episodes, {won} won, {turns} turns",
        episodes.len()
    );

    let Some(first) = episodes.first() else {
        return Ok(());
    };
    println!(
        "game {}, policy {}, seed {}",
        first.game, first.policy, first.seed
    );
    for (number, turn) in first.turns.iter().enumerate() {
        let log_probability: f32 = turn.logprobs.iter().sum();
        println!(
            "{number:2} {:<40} log π = {log_probability:7.3}  V = {:?}",
            turn.action.as_deref().unwrap_or("(no command)"),
            turn.value
        );
    }
    println!("outcome {}, reward {}", first.outcome.name(), first.reward);
    Ok(())
}
