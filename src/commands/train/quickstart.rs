//! `hearth quickstart`: runs the built-in recipe and prints the table.

use crate::args::device;
use crate::code::CODE;
use crate::commands::train::run_recipe::run_recipe;
use agent::inference::device::DeviceChoice;
use clap::{Args, ValueHint};
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::RunOptions;

#[derive(Args)]
pub(crate) struct QuickstartCommand {
    /// Seed of games, weights, episodes and batches
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of the run; an interrupted run in it is resumed [default: runs/quickstart-SEED]
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Use a few games and updates to see every stage in under a minute; the numbers mean nothing
    #[arg(long)]
    quick: bool,
    /// Device to train and play on: `cpu`, or a GPU that `hearth doctor` lists, such as `cuda` or
    /// `vulkan:1`, or `auto`, the first GPU, else the CPU
    #[arg(long, default_value_t, value_parser = device::read)]
    device: DeviceChoice,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

impl QuickstartCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut recipe = Recipe::quickstart();
        recipe.seed = self.seed;
        if self.quick {
            recipe.shrink();
        }
        let out = self
            .out
            .unwrap_or_else(|| format!("runs/{}-{}", recipe.name, recipe.seed).into());
        let options = RunOptions::alone(self.device, CODE);
        run_recipe(&recipe, &out, &options, self.json)
    }
}
