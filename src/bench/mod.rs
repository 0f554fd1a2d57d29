//! `hearth bench`: speed and memory. Every figure is also a ratio to a named peer that is measured
//! in the same run.

mod episodes;
mod games;
mod inference;
mod measure;
mod peer;
mod train;
mod world;

use clap::Subcommand;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Speed of the native world against the Python world, and of the bridge against a plain Python
    /// loop
    World(world::BenchWorld),
    /// Prefill, decode and whole episodes of a model, against llama.cpp and transformers with the
    /// same weights
    #[command(alias = "mind")]
    Inference(inference::BenchInference),
    /// Training on the CPU: speed and memory of jobs, against PyTorch with the same weights, batch
    /// and optimizer
    Train(train::BenchTrain),
    /// Memory, processes and files of a pool of Python workers over many resets
    Pool(world::BenchPool),
}

impl BenchCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::World(command) => command.run(),
            Self::Inference(command) => command.run(),
            Self::Train(command) => command.run(),
            Self::Pool(command) => command.run(),
        }
    }
}
