//! `hearth quickstart` and `hearth loop`: follow a recipe and print the table.

use crate::ui;
use agent::device::Hardware;
use clap::{Args, ValueHint};
use env_bridge::native::NativeWorld;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::course::{self, Report};
use trainer::evaluate::Row;
use trainer::recipe::Recipe;

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
    device: Hardware,
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
    device: Hardware,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

impl Quickstart {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut recipe = Recipe::quickstart();
        recipe.seed = self.seed;
        if self.quick {
            recipe.shrink();
        }
        let out = self.out.unwrap_or_else(|| format!("runs/{}-{}", recipe.name, recipe.seed).into());
        follow(&recipe, &out, self.device, self.json)
    }
}

impl Loop {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut recipe = Recipe::open(&self.recipe)?;
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        let out = self.out.unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
        follow(&recipe, &out, self.device, self.json)
    }
}

fn follow(recipe: &Recipe, out: &Path, hardware: Hardware, json: bool) -> anyhow::Result<ExitCode> {
    let report = course::follow(recipe, out, &NativeWorld::new(), &ui::Terminal, hardware, CODE)?;
    if json {
        ui::print_json(&report)?;
    } else {
        print_report(&report);
    }
    Ok(ExitCode::SUCCESS)
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
