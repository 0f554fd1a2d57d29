//! `hearth bench pool`: memory, processes and files of a pool of Python workers over many
//! resets.

use crate::args::world::PythonArgs;
use clap::{Args, ValueHint};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct BenchPool {
    /// Folder of games (ALFWorld's layout), manifest or game.tw-pddl [default: generated games of
    /// ALFWorld's size]
    #[arg(long, value_hint = ValueHint::AnyPath)]
    pub(super) suite: Option<PathBuf>,
    /// Games to load and reset, each followed by one command
    #[arg(long, default_value_t = 1000)]
    pub(super) resets: usize,
    /// Games per round, spread evenly over the suite. A reading is taken after each round, so all
    /// readings are of the same work
    #[arg(long, default_value_t = 20)]
    pub(super) games: usize,
    /// CSV file for the readings
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub(super) out: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) python: PythonArgs,
}

#[cfg(not(feature = "python"))]
impl BenchPool {
    #[expect(clippy::unused_self, reason = "the other build uses it")]
    pub(crate) fn run(self) -> anyhow::Result<std::process::ExitCode> {
        Err(crate::ui::WrongUse(crate::args::world::WITHOUT_PYTHON.into()).into())
    }
}
