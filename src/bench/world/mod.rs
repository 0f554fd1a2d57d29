//! `hearth bench world` and `hearth bench pool`: speed of the worlds, overhead of the Python
//! bridge, and memory of its workers.

#[cfg(feature = "python")]
mod bridge;
mod native;
#[cfg(feature = "python")]
mod parallel;
mod pool;
#[cfg(feature = "python")]
mod pool_rounds;
mod report;
mod walk;

pub(super) use pool::BenchPool;

use super::games::BenchmarkGames;
use crate::args::world::PythonArgs;
use crate::ui;
use clap::{Args, ValueHint};
use env_bridge::NativeWorld;
use report::WorldBenchReport;
use std::path::PathBuf;
use std::process::ExitCode;
use walk::GameWalk;

#[derive(Args)]
pub(crate) struct BenchWorld {
    /// Folder of games (ALFWorld's layout), manifest or game.tw-pddl [default: generated games of
    /// ALFWorld's size]
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Games to play, spread evenly over the suite
    #[arg(long, default_value_t = 12)]
    games: usize,
    /// Commands per game: its walkthrough, then random admissible commands
    #[arg(long, default_value_t = 30)]
    turns: usize,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    python: PythonArgs,
}

impl BenchWorld {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let games = BenchmarkGames::open(self.suite.as_deref())?;
        let world = NativeWorld::new();
        let walks = games
            .tasks(self.games)
            .into_iter()
            .map(|task| GameWalk::new(&world, task, self.turns))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if walks.is_empty() {
            return Err(ui::WrongUse("there are no games to play".into()).into());
        }
        let native = native::measure(&walks)?;
        let (python, bridge) = measure_python(&self.python, &walks)?;
        let report = WorldBenchReport {
            games: walks.len(),
            commands: walks.iter().map(|walk| walk.commands.len()).sum(),
            native,
            ratio: python.map(|python| native.commands_per_s / python.commands_per_s),
            python,
            bridge,
        };
        if self.json {
            ui::print_json(&report)?;
        } else {
            report.print();
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(feature = "python")]
use bridge::measure as measure_python;

#[cfg(not(feature = "python"))]
fn measure_python(
    _: &PythonArgs,
    _: &[GameWalk<'_>],
) -> anyhow::Result<(Option<report::WorldSpeed>, Option<report::BridgeOverhead>)> {
    use crate::args::world::WITHOUT_PYTHON;
    eprintln!("only the native world is measured: {WITHOUT_PYTHON}");
    Ok((None, None))
}
