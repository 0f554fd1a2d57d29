//! The games of a benchmark: a suite that the user names, or generated games.

use crate::commands::data::scenarios;
use crate::scratch::Scratch;
use ::scenarios::household::{self, GenerateOptions, Size};
use ::scenarios::{Suite, Task};
use std::path::Path;

/// A suite. If it was generated, its files are removed when this value is dropped.
pub(super) struct BenchmarkGames {
    suite: Suite,
    _scratch: Option<Scratch>,
}

impl BenchmarkGames {
    /// Opens a suite; if there is no path, generates 42 games of ALFWorld's size.
    pub(super) fn open(suite: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = suite {
            return Ok(Self {
                suite: scenarios::open(path)?,
                _scratch: None,
            });
        }
        let scratch = Scratch::new();
        let options = GenerateOptions {
            size: Size::Full,
            train: 24,
            valid_train: 6,
            seen: 6,
            unseen: 6,
            ..Default::default()
        };
        Ok(Self {
            suite: household::generate(scratch.path(), &options)?,
            _scratch: Some(scratch),
        })
    }

    /// Returns `games` tasks, spread evenly over the suite; all of them if the suite has fewer.
    pub(super) fn tasks(&self, games: usize) -> Vec<&Task> {
        let all = &self.suite.tasks;
        let games = games.min(all.len());
        (0..games)
            .map(|index| &all[index * all.len() / games])
            .collect()
    }
}
