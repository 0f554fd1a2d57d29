//! `hearth world`: hold the native world against the Python world, live or recorded.

use crate::args::world::PythonArgs;
use crate::ui;
use clap::{Args, Subcommand, ValueHint};
use env_bridge::diff::{self, Commands, Place, Plan, Report};
use env_bridge::{NativeWorld, replay};
use scenarios::{Split, Task};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum World {
    /// Play the same commands in both worlds and report the first difference; exit code 1 when there is one
    Diff(Diff),
    /// Replay recorded traces and report the first difference; exit code 1 when there is one
    Replay(Replay),
}

#[derive(Args)]
pub(crate) struct Diff {
    /// A game.tw-pddl file, a folder of games (ALFWorld's layout), or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Splits, with commas between [default: all]
    #[arg(long, value_delimiter = ',')]
    split: Vec<Split>,
    /// Games to play, spread evenly over the splits; 0 = all
    #[arg(long, default_value_t = 0)]
    games: usize,
    /// Commands a game
    #[arg(long, default_value_t = 30)]
    turns: usize,
    /// Kinds of commands, with commas between, game by game in turn: walkthrough, random, mixed, adversarial
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
            Self::Diff(command) => command.run(),
            Self::Replay(command) => command.run(),
        }
    }
}

impl Diff {
    fn run(self) -> anyhow::Result<ExitCode> {
        let suite = crate::commands::data::scenarios::open(&self.suite)?;
        crate::commands::data::scenarios::say_faults(&suite);
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
        let plan = Plan {
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
            ui::print_json(&report)?
        } else {
            print(&report)
        }
        Ok(ExitCode::from(u8::from(!report.clean())))
    }
}

/// As many of the tasks, spread evenly; 0 = all.
fn spread(tasks: Vec<&Task>, games: usize) -> Vec<&Task> {
    if games == 0 || games >= tasks.len() {
        return tasks;
    }
    (0..games)
        .map(|index| tasks[index * tasks.len() / games])
        .collect()
}

fn print(report: &Report) {
    let Report {
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
            "{retried} games were played again because the Python world failed once\n"
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

fn place(place: &Place) -> String {
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

impl Replay {
    fn run(self) -> anyhow::Result<ExitCode> {
        let report =
            replay::replay(&self.traces, &self.games).map_err(|e| ui::WrongUse(e.to_string()))?;
        if self.json {
            ui::print_json(&report)?;
        } else {
            let (walks, commands, differences) =
                (report.walks, report.commands, report.differences);
            ui::print(&format!(
                "{walks} walks, {commands} commands, {differences} differences\n"
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
