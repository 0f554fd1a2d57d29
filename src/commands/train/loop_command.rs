//! `hearth loop`: runs a recipe and prints the table, or prints the status of a run.

use crate::args::device;
use crate::args::shard::ShardArgs;
use crate::code::CODE;
use crate::commands::train::run_recipe::run_recipe;
use crate::ui;
use agent::inference::device::DeviceChoice;
use clap::{Args, ValueHint};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use trainer::pipeline::manifest::sentence;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::RunOptions;
use trainer::pipeline::status::{ShardStatus, StageStatus, counts, status};

#[derive(Args)]
pub(crate) struct LoopCommand {
    /// The recipe, a TOML file
    #[arg(value_hint = ValueHint::FilePath)]
    recipe: PathBuf,
    /// Folder of the run; an interrupted run in it is resumed [default: runs/NAME]
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Seed that replaces the recipe's
    #[arg(long)]
    seed: Option<u64>,
    /// Device to train and play on: `cpu`, or a GPU that `hearth doctor` lists, such as `cuda` or
    /// `vulkan:1`, or `auto`, the first GPU, else the CPU
    #[arg(long, default_value_t, value_parser = device::read)]
    device: DeviceChoice,
    /// Print the status of each stage and exit; safe while the run is in progress
    #[arg(long)]
    status: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shard: ShardArgs,
    /// Seconds that a shard waits for the others before it stops; shard 0 merges and trains, and
    /// the others wait for it
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        help_heading = "Sharding"
    )]
    wait: u64,
    /// Seconds without a new episode of a shard after which the shards that wait play its games; 0 =
    /// never
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        help_heading = "Sharding"
    )]
    lease: u64,
}

/// The JSON output of `hearth loop --status`.
#[derive(Serialize)]
struct StatusOutput {
    run: PathBuf,
    counts: BTreeMap<&'static str, usize>,
    stages: Vec<StageStatus>,
}

impl LoopCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut recipe = Recipe::open(&self.recipe)?;
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        let out = self
            .out
            .unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
        if self.status {
            return print_status(&recipe, &out, self.json);
        }
        let options = RunOptions {
            shard: self.shard.resolve()?,
            wait: Duration::from_secs(self.wait),
            lease: Duration::from_secs(self.lease),
            ..RunOptions::alone(self.device, CODE)
        };
        run_recipe(&recipe, &out, &options, self.json)
    }
}

fn print_status(recipe: &Recipe, run: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let stages = status(recipe, run)?;
    let counts = counts(&stages);
    if json {
        ui::print_json(&StatusOutput {
            run: run.into(),
            counts,
            stages,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = stages
        .iter()
        .map(|stage| {
            vec![
                stage.stage.clone(),
                stage.state.name().into(),
                progress(stage),
                remark(stage),
            ]
        })
        .collect();
    ui::print_table(&["stage", "state", "progress", "remark"], &rows);
    let counts: Vec<String> = counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    ui::print(&format!("{}: {}\n", run.display(), counts.join(", ")));
    Ok(ExitCode::SUCCESS)
}

fn progress(stage: &StageStatus) -> String {
    let StageStatus { done, of, unit, .. } = stage;
    match (done, of) {
        (0, 0) => String::new(),
        (done, 0) => format!("{done} {unit}"),
        (done, of) => format!("{done} of {of} {unit}"),
    }
}

fn remark(stage: &StageStatus) -> String {
    let mut remarks = Vec::new();
    if !stage.processes.is_empty() {
        let processes: Vec<String> = stage.processes.iter().map(ToString::to_string).collect();
        remarks.push(format!("by process {}", processes.join(", ")));
    }
    if let Some(earlier) = &stage.awaits {
        remarks.push(format!("after {earlier}"));
    }
    if !stage.differs.is_empty() {
        remarks.push(sentence(&stage.differs));
    }
    for ShardStatus {
        shard,
        done,
        quiet_seconds,
    } in &stage.shards
    {
        remarks.push(format!("shard {shard}: {done}, last {quiet_seconds} s ago"));
    }
    if let Some(seconds) = stage.seconds_left {
        remarks.push(format!("about {seconds} s left"));
    }
    remarks.join("; ")
}
