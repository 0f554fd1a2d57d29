//! `hearth model import`: converts a checkpoint to a model folder.

use crate::args::policy::FrameArgs;
use crate::commands::tools::model::card::ModelCard;
use crate::ui;
use clap::{Args, ValueHint};
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::TrainerError;

#[derive(Args)]
pub(crate) struct ModelImportCommand {
    /// A .gguf file, or a folder with config.json, tokenizer.json and safetensors files
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(super) source: PathBuf,
    /// Model folder to write
    #[arg(value_hint = ValueHint::DirPath)]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) frames: FrameArgs,
    /// LoRA adapter of this checkpoint in PEFT's layout, to merge into the policy; a value network
    /// is not changed
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(super) adapter: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub(super) json: bool,
}

impl ModelImportCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.out.join("config.json").exists() {
            return Err(ui::WrongUse(format!(
                "{} already contains a model\nhint: name another folder",
                self.out.display()
            ))
            .into());
        }
        let mut model = self.frames.open(&self.source)?;
        if let Some(folder) = &self.adapter {
            model = model.with_adapter(folder).map_err(TrainerError::from)?;
        }
        model.save(&self.out).map_err(TrainerError::from)?;
        ModelCard::of(&model)?.print(self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}
