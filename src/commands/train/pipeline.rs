//! `hearth quickstart` and `hearth loop`: follow a recipe and print the table.

use crate::args::shard::ShardArgs;
use crate::ui;
use agent::inference::device::DeviceChoice;
use clap::{Args, ValueHint};
use env_bridge::native::NativeWorld;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use trainer::TrainerError;
use trainer::measure::evaluate::Row;
use trainer::pipeline::manifest::sentence;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::{self, Report, RunOptions};
use trainer::pipeline::shard::Shard;
use trainer::pipeline::status::{StageStatus, counts, status};

/// Which code made a run.
pub(crate) const CODE: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("HEARTH_COMMIT"));

#[derive(Args)]
pub(crate) struct Quickstart {
    /// Seed of games, weights, episodes and batches
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of the run; a run that was stopped there goes on [default: runs/quickstart-SEED]
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// A few games and updates, to see every stage in under a minute; its numbers mean nothing
    #[arg(long)]
    quick: bool,
    /// Where to learn and play: `cpu`, or in a build with CUDA an NVIDIA GPU, `cuda` or `cuda:N`
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct Loop {
    /// The recipe, TOML
    #[arg(value_hint = ValueHint::FilePath)]
    recipe: PathBuf,
    /// Folder of the run; a run that was stopped there goes on [default: runs/NAME]
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Seed instead of the recipe's
    #[arg(long)]
    seed: Option<u64>,
    /// Where to learn and play: `cpu`, or in a build with CUDA an NVIDIA GPU, `cuda` or `cuda:N`
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Show how far each stage is, also while another process works on the run, and do nothing
    #[arg(long)]
    status: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shard: ShardArgs,
    /// Seconds that a shard waits for others before it stops, to be started again; shard 0 merges what all have played
    /// and learns, the others wait for it
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        help_heading = "Sharing"
    )]
    wait: u64,
}

impl Quickstart {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut recipe = Recipe::quickstart();
        recipe.seed = self.seed;
        if self.quick {
            recipe.shrink();
        }
        let out = self
            .out
            .unwrap_or_else(|| format!("runs/{}-{}", recipe.name, recipe.seed).into());
        follow(
            &recipe,
            &out,
            &RunOptions::alone(self.device, CODE),
            self.json,
        )
    }
}

impl Loop {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut recipe = Recipe::open(&self.recipe)?;
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        let out = self
            .out
            .unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
        if self.status {
            return show_status(&recipe, &out, self.json);
        }
        let shard = self.shard.resolve()?;
        let means = RunOptions {
            shard,
            wait: Duration::from_secs(self.wait),
            ..RunOptions::alone(self.device, CODE)
        };
        follow(&recipe, &out, &means, self.json)
    }
}

fn follow(
    recipe: &Recipe,
    out: &Path,
    means: &RunOptions<'_>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let report = match run::follow(recipe, out, &NativeWorld::new(), &ui::Terminal, means) {
        // Who does not wait has done what it could.
        Err(TrainerError::Awaiting(what)) if means.wait.is_zero() => {
            return say_awaited(out, means.shard, &what, json);
        }
        report => report?,
    };
    if json {
        ui::print_json(&report)?;
    } else {
        print_report(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn say_awaited(out: &Path, shard: Shard, what: &str, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        ui::print_json(&serde_json::json!({ "run": out, "shard": shard, "awaits": what }))?;
    } else {
        ui::print(&format!(
            "shard {shard} has done its part of what could be done; {what}\n"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Status {
    run: PathBuf,
    counts: BTreeMap<&'static str, usize>,
    stages: Vec<StageStatus>,
}

fn show_status(recipe: &Recipe, run: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let stages = status(recipe, run)?;
    let counts = counts(&stages);
    if json {
        ui::print_json(&Status {
            run: run.into(),
            counts,
            stages,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let cells = |stage: &StageStatus| {
        vec![
            stage.stage.clone(),
            stage.state.name().into(),
            progress(stage),
            remark(stage),
        ]
    };
    ui::print_table(
        &["stage", "state", "progress", "remark"],
        &stages.iter().map(cells).collect::<Vec<_>>(),
    );
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
    let processes: Vec<String> = stage.processes.iter().map(ToString::to_string).collect();
    let awaits = stage
        .awaits
        .as_ref()
        .map(|earlier| format!("after {earlier}"));
    let by = (!processes.is_empty()).then(|| format!("by process {}", processes.join(", ")));
    let differs = (!stage.differs.is_empty()).then(|| sentence(&stage.differs));
    [by, awaits, differs]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

fn print_report(report: &Report) {
    ui::print_summary(&report.rows, |row: &Row| match row.k {
        1 => row.policy.clone(),
        k => format!("{}, best of {k} by value", row.policy),
    });
    for (k, protocol) in &report.protocols {
        ui::print(&format!("K = {k}: {protocol}\n"));
    }
    ui::print(&format!("suite {}\n", &report.suite[..16]));
    ui::print(&format!(
        "run folder {} ({:.0} s); rows by task type in eval.csv\n",
        report.run.display(),
        report.seconds
    ));
}
