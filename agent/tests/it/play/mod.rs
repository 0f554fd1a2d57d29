//! Playing episodes: the rollout loop, search, the scorers of best-of-K, and the policies.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod device;
mod episode_end;
mod episode_log;
mod forced_turns;
mod remote;
mod remote_replies;
mod scorers;
mod search;
mod smollm2;

use agent::model::folder::Model;
use agent::policy::ScriptedPolicy;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use scenarios::{Protocol, Trajectory};
use support::corridor::protocol;

/// The usual concurrency of these tests.
const POOL: Concurrency = Concurrency {
    workers: 2,
    episodes: 8,
};

/// One episode at a time.
const ALONE: Concurrency = Concurrency {
    workers: 1,
    episodes: 1,
};

fn script(commands: &[&str]) -> ScriptedPolicy {
    ScriptedPolicy(commands.iter().map(ToString::to_string).collect())
}

/// A policy with its value network.
fn player(model: &Model) -> LmPolicy {
    LmPolicy::new(model.clone(), ValueUse::Score).unwrap()
}

fn best_of(k: usize) -> Protocol {
    Protocol {
        best_of: k,
        ..protocol()
    }
}

/// The token ids of a whole episode, turn after turn.
fn tokens(trajectory: &Trajectory) -> Vec<u32> {
    trajectory
        .turns
        .iter()
        .flat_map(|turn| {
            turn.observation_tokens
                .iter()
                .chain(&turn.completion_tokens)
        })
        .copied()
        .collect()
}
