//! How many episodes a command plays at once: the `--episodes` flag.

use agent::rollout::Concurrency;
use clap::Args;

/// The number of episodes in progress at once.
#[derive(Args, Clone, Copy)]
pub(crate) struct ConcurrencyArgs {
    /// Number of episodes in progress at once; affects only the speed [default: 32 per core]
    #[arg(long, value_name = "N")]
    episodes: Option<usize>,
}

impl ConcurrencyArgs {
    /// Returns the default concurrency, with the number of episodes replaced if the flag is set.
    pub(crate) fn resolve(self) -> Concurrency {
        let default = Concurrency::default();
        Concurrency {
            episodes: self.episodes.unwrap_or(default.episodes),
            ..default
        }
    }
}
