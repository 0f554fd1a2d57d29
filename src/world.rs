//! `hearth world`: hold the native world against recorded play.

use crate::ui;
use clap::{Args, Subcommand, ValueHint};
use env_bridge::replay;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum World {
    /// Replay recorded traces and report the first difference; exit code 1 when there is one
    Replay(Replay),
}

#[derive(Args)]
pub(crate) struct Replay {
    /// Recorded play, JSONL, plain or .xz: {game, version, walk: [{command, observation, admissible, won}]}
    #[arg(value_hint = ValueHint::FilePath)]
    traces: PathBuf,
    /// Folder of the games: a line's game is DIR/VERSION/GAME
    #[arg(long, value_hint = ValueHint::DirPath)]
    games: PathBuf,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

impl World {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Replay(command) => command.run(),
        }
    }
}

impl Replay {
    fn run(self) -> anyhow::Result<ExitCode> {
        let report = replay::replay(&self.traces, &self.games).map_err(|e| ui::WrongUse(e.to_string()))?;
        if self.json {
            ui::print_json(&report)?;
        } else {
            let (walks, commands, differences) = (report.walks, report.commands, report.differences);
            ui::print(&format!("{walks} walks, {commands} commands, {differences} differences\n"));
            if let Some(first) = &report.first {
                let command = first.command.as_deref().unwrap_or("(reset)");
                ui::print(&format!(
                    "first: {} in text {}, turn {}, {command:?}: {}\n",
                    first.game, first.version, first.turn, first.field
                ));
                ui::print(&format!("  recorded {}\n  here     {}\n", first.expected, first.found));
            }
        }
        Ok(ExitCode::from(u8::from(report.differences > 0)))
    }
}
