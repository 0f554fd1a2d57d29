//! `hearth world`: compares the native world with the Python world, live or recorded.

use crate::args::world::PythonArgs;
use crate::commands::data::scenarios;
use crate::commands::data::suite_table::report_faults;
use crate::ui;
use ::scenarios::{Split, Task};
use clap::{Args, Subcommand, ValueHint};
use env_bridge::diff::{self, Commands, DiffPlace, DiffPlan, DiffReport};
use env_bridge::{NativeWorld, replay};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum WorldCommand {
    /// Play the same commands in both worlds and print the first difference; exit code 1 if there
    /// is one
    Diff(DiffCommand),
    /// Replay recorded traces and print the first difference; exit code 1 if there is one
    Replay(ReplayCommand),
}

#[derive(Args)]
pub(crate) struct DiffCommand {
    /// Games: a game.tw-pddl file, a folder (ALFWorld's layout), or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Splits to play, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    split: Vec<Split>,
    /// Number of games, spread evenly over the splits; 0 means all
    #[arg(long, default_value_t = 0)]
    games: usize,
    /// Number of commands per game
    #[arg(long, default_value_t = 30)]
    turns: usize,
    /// Kinds of commands, separated by commas and used in turn game by game: walkthrough, random,
    /// mixed, adversarial
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "walkthrough,random,mixed,adversarial"
    )]
    commands: Vec<Commands>,
    /// Seed of the commands
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    python: PythonArgs,
}

#[derive(Args)]
pub(crate) struct ReplayCommand {
    /// Recorded episodes, JSONL, plain or .xz: {game, version, walk: [{command, observation,
    /// admissible, won}]}
    #[arg(value_hint = ValueHint::FilePath)]
    traces: PathBuf,
    /// Folder of the games; the game of a line is DIR/VERSION/GAME
    #[arg(long, value_hint = ValueHint::DirPath)]
    games: PathBuf,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

impl WorldCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Diff(command) => command.run(),
            Self::Replay(command) => command.run(),
        }
    }
}

impl DiffCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let suite = scenarios::open(&self.suite)?;
        report_faults(&suite);
        let splits = if self.split.is_empty() {
            &Split::ALL[..]
        } else {
            &self.split
        };
        let tasks = spread(
            splits
                .iter()
                .flat_map(|split| suite.split(*split))
                .collect(),
            self.games,
        );
        if tasks.is_empty() {
            return Err(ui::WrongUse(format!(
                "{} has no games in these splits",
                self.suite.display()
            ))
            .into());
        }
        let plan = DiffPlan {
            commands: self.commands,
            turns: self.turns,
            seed: self.seed,
        };
        let opened = self.python.open("", tasks.len())?;
        let workers = opened.world().capacity().unwrap_or(1);
        let bar = ui::bar("play in both worlds");
        let report = diff::diff(
            &NativeWorld::new(),
            opened.world(),
            &tasks,
            &plan,
            workers,
            &|progress| {
                bar.set_length(progress.games as u64);
                bar.set_position(progress.done as u64);
                bar.set_message(format!(
                    "{} commands, {} differences",
                    progress.commands, progress.differences
                ));
            },
        );
        bar.finish();
        if self.json {
            ui::print_json(&report)?;
        } else {
            print(&report);
        }
        Ok(ExitCode::from(u8::from(!report.clean())))
    }
}

/// Returns this many tasks, spread evenly; 0 means all.
fn spread(tasks: Vec<&Task>, games: usize) -> Vec<&Task> {
    if games == 0 || games >= tasks.len() {
        return tasks;
    }
    (0..games)
        .map(|index| tasks[index * tasks.len() / games])
        .collect()
}

fn print(report: &DiffReport) {
    let DiffReport {
        games,
        commands,
        differences,
        failures,
        retried,
        ..
    } = report;
    ui::print(&format!(
        "{games} games, {commands} commands, {differences} differences, {failures} games failed\n"
    ));
    if *retried > 0 {
        ui::print(&format!(
            "{retried} games were repeated because the Python world failed once\n"
        ));
    }
    if let Some(first) = &report.first {
        ui::print(&format!("first difference: {}\n", place(&first.place)));
        ui::print(&format!("  {} native {}\n", first.field, first.ours));
        ui::print(&format!("  {} python {}\n", first.field, first.other));
    }
    if let Some(first) = &report.first_failure {
        ui::print(&format!(
            "first failure: {}\n  {:?}: {}\n",
            place(&first.place),
            first.world,
            first.message
        ));
    }
}

/// Formats the place of a difference, with the commands before it.
fn place(place: &DiffPlace) -> String {
    let before = place.before.iter().map(|exchange| {
        format!(
            "\n  before  {:?} -> {:?}",
            exchange.command.as_deref().unwrap_or("(reset)"),
            exchange.observation
        )
    });
    format!(
        "{} ({} commands, seed {}), turn {}, {:?}{}",
        place.path,
        place.commands,
        place.seed,
        place.turn,
        place.command.as_deref().unwrap_or("(reset)"),
        before.collect::<String>()
    )
}

impl ReplayCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let report =
            replay::replay(&self.traces, &self.games).map_err(|e| ui::WrongUse(e.to_string()))?;
        if self.json {
            ui::print_json(&report)?;
        } else {
            ui::print(&format!(
                "{} walks, {} commands, {} differences\n",
                report.walks, report.commands, report.differences
            ));
            if let Some(first) = &report.first {
                let command = first.command.as_deref().unwrap_or("(reset)");
                ui::print(&format!(
                    "first: {} in text {}, turn {}, {command:?}: {}\n",
                    first.game, first.version, first.turn, first.field
                ));
                ui::print(&format!(
                    "  recorded {}\n  here     {}\n",
                    first.expected, first.found
                ));
            }
        }
        Ok(ExitCode::from(u8::from(report.differences > 0)))
    }
}
