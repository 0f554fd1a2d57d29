//! What a model is: its architecture, size, hash and turn format.

use crate::ui;
use agent::model::folder::Model;
use agent::model::reading::config::{ConvolutionConfig, ReadingConfig};
use agent::text::template::FrameSource;
use scenarios::Thinking;
use serde::Serialize;
use std::path::Path;
use trainer::TrainerError;

/// The description of a model; the JSON output of `hearth model info`.
#[derive(Serialize)]
pub(super) struct ModelCard {
    family: &'static str,
    parameters: usize,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    context: usize,
    /// The number of tokens that a token sees in some layers, and how many layers these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<usize>,
    windowed_layers: usize,
    tied: bool,
    /// The additions to the Llama layout.
    additions: Vec<String>,
    value_network: bool,
    /// The heads of the value network.
    value_heads: Vec<&'static str>,
    text_versions: Vec<&'static str>,
    pub(super) policy_hash: String,
    /// The texts around the parts of a turn.
    frames: TurnFormat,
    /// Where the frames come from.
    frame_source: FrameSource,
    /// Why turns do not follow the model's own chat template as it is, if they do not.
    reframed: Option<String>,
    thinking: Thinking,
}

/// The texts around the parts of a turn.
#[derive(Serialize)]
struct TurnFormat {
    opening: String,
    answer: String,
    end: String,
    between: String,
}

/// Opens a model folder or a GGUF file.
///
/// # Errors
/// If it is not readable, or not a supported model.
pub(super) fn open(path: &Path) -> anyhow::Result<Model> {
    Ok(Model::open(path).map_err(TrainerError::from)?)
}

/// The additions of hearth's own family, by name.
fn additions(reading: &ReadingConfig) -> Vec<String> {
    let mut list = Vec::new();
    if reading.goal_match.is_some() {
        list.push("goal match".into());
    }
    for order in &reading.ngram_embedding {
        list.push(format!("{order}-gram embedding"));
    }
    if let Some(ConvolutionConfig { width, places }) = &reading.convolution {
        let places: Vec<&str> = places.iter().map(|place| place.name()).collect();
        list.push(format!(
            "convolutions of width {width} at {}",
            places.join(", ")
        ));
    }
    list
}

impl ModelCard {
    /// Describes a model.
    ///
    /// # Errors
    /// If the value network has no heads of a known shape.
    pub(super) fn of(model: &Model) -> anyhow::Result<Self> {
        let config = &model.config;
        let heads = match &model.value {
            Some(value) => value
                .value_heads(config)
                .map_err(TrainerError::from)?
                .names(),
            None => Vec::new(),
        };
        let frames = model.tokenizer.frames();
        Ok(Self {
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
            window: (!config.pattern.windowed.is_empty())
                .then_some(config.pattern.window)
                .filter(|window| *window < config.max_position_embeddings),
            windowed_layers: config.pattern.windowed.len(),
            tied: config.tie_word_embeddings,
            additions: additions(&config.reading),
            value_network: model.value.is_some(),
            value_heads: heads,
            text_versions: model
                .text_versions
                .iter()
                .map(|version| version.name())
                .collect(),
            policy_hash: model.policy.hash(),
            frames: TurnFormat {
                opening: frames.opening.clone(),
                answer: frames.answer.clone(),
                end: frames.end.clone(),
                between: frames.between.clone(),
            },
            frame_source: model.companions.frame_source,
            reframed: model.companions.reframed.clone(),
            thinking: model.companions.thinking,
        })
    }

    /// Prints the description.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return ui::print_json(self);
        }
        let value = if self.value_network {
            format!(", with a value network ({})", heads_text(&self.value_heads))
        } else {
            String::new()
        };
        ui::print(&format!(
            "{}, {:.1} M parameters{value}, policy {}\n",
            self.family,
            self.parameters as f64 / 1e6,
            self.policy_hash
        ));
        let output = if self.tied {
            "tied to the embedding"
        } else {
            "a separate matrix"
        };
        ui::print(&format!(
            "{} layers of width {}, {} query and {} key heads, vocabulary {}, context {}, output {output}\n",
            self.layers, self.hidden, self.heads, self.kv_heads, self.vocabulary, self.context
        ));
        if let Some(window) = self.window {
            ui::print(&format!(
                "in {} of {} layers, a token sees at most {window} tokens, itself included\n",
                self.windowed_layers, self.layers
            ));
        }
        if !self.additions.is_empty() {
            ui::print(&format!("with {}\n", self.additions.join(", ")));
        }
        if !self.text_versions.is_empty() {
            ui::print(&format!(
                "trained on games of text {}\n",
                self.text_versions.join(", ")
            ));
        }
        let TurnFormat {
            opening,
            answer,
            end,
            between,
        } = &self.frames;
        ui::print(&format!(
            "a turn: {opening:?} observation {answer:?} completion {end:?} {between:?} observation ...\n"
        ));
        if let Some(reason) = &self.reframed {
            ui::print(&format!(
                "turns are framed {}: {reason}\n",
                self.frame_source
            ));
        }
        if self.thinking != Thinking::Keep {
            ui::print(&format!("thinking: {}\n", self.thinking.name()));
        }
        Ok(())
    }
}

/// Names the heads of a value network, for example `heads: value, advantage`.
fn heads_text(heads: &[&str]) -> String {
    let noun = if heads.len() == 1 { "head" } else { "heads" };
    format!("{noun}: {}", heads.join(", "))
}
