//! The decoders that are trained in the benchmark, and the demonstrations that they are trained on.

use crate::bench::episodes::demonstrations;
use agent::model::config::DecoderConfig;
use agent::model::folder::Model;
use agent::model::weights::Weights;
use agent::policy::ExpertPolicy;
use clap::ValueEnum;
use scenarios::household::{self, GenerateOptions, Size};
use scenarios::{Protocol, Split, Task, Trajectory};
use std::path::Path;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::{fresh, texts_of, tokenize_texts};

/// The shape of a decoder with random weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DecoderShape {
    Quickstart,
    Smollm2,
    Qwen2,
}

impl DecoderShape {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Quickstart => "quickstart",
            Self::Smollm2 => "SmolLM2-135M's shape",
            Self::Qwen2 => "Qwen2.5-0.5B's shape, without biases",
        }
    }

    /// Makes a decoder, and one demonstration on each of `batch` generated games.
    pub(super) fn model_and_batch(
        self,
        batch: usize,
        scratch: &Path,
    ) -> anyhow::Result<(Model, Vec<Trajectory>)> {
        let recipe = Recipe::quickstart();
        // Large shapes get longer texts.
        let (size, noise) = match self {
            Self::Quickstart => (Size::Small, recipe.demonstrations.expert_noise),
            Self::Smollm2 | Self::Qwen2 => (Size::Full, 0.5),
        };
        let options = GenerateOptions {
            seed: 1,
            size,
            train: batch.max(48),
            ..GenerateOptions::default()
        };
        let suite = household::generate(&scratch.join("games"), &options)?;
        let tasks: Vec<&Task> = suite.split(Split::Train);
        let protocol: Protocol = recipe.protocol.protocol(recipe.model.context, 0.0, 1);
        let mut played = demonstrations(&ExpertPolicy { noise }, &tasks, &protocol);
        let mut model = fresh(&recipe.model.plain(), texts_of(&played), 1)?;
        if let Some(config) = self.config(&model.config) {
            model.policy = Weights::random(&config, 1);
            model.config = config;
        }
        fill_zero_matrices(&mut model.policy);
        if self != Self::Quickstart {
            played.sort_by_key(|trajectory| std::cmp::Reverse(trajectory.turns.len()));
        }
        played.truncate(batch);
        tokenize_texts(&model.tokenizer, &mut played);
        // The peer learns every token of the text, also those of random commands.
        let turns = played.iter_mut().flat_map(|episode| &mut episode.turns);
        turns.for_each(|turn| turn.perturbed = false);
        Ok((model, played))
    }

    /// The configuration that takes the place of the quickstart's.
    fn config(self, quickstart: &DecoderConfig) -> Option<DecoderConfig> {
        let shared = DecoderConfig {
            max_position_embeddings: 2048,
            ..quickstart.clone()
        };
        match self {
            Self::Quickstart => None,
            Self::Smollm2 => Some(DecoderConfig {
                vocab_size: 49_152,
                hidden_size: 576,
                intermediate_size: 1536,
                num_hidden_layers: 30,
                num_attention_heads: 9,
                num_key_value_heads: 3,
                ..shared
            }),
            Self::Qwen2 => Some(DecoderConfig {
                vocab_size: 151_936,
                hidden_size: 896,
                intermediate_size: 4864,
                num_hidden_layers: 24,
                num_attention_heads: 14,
                num_key_value_heads: 2,
                ..shared
            }),
        }
    }
}

/// Fills the tensors that a fresh decoder starts with as zeros with small numbers, so that every
/// weight has a gradient.
fn fill_zero_matrices(weights: &mut Weights) {
    for tensor in weights
        .0
        .values_mut()
        .filter(|tensor| tensor.data.iter().all(|x| *x == 0.0))
    {
        let size = 0.5 / (tensor.shape.last().copied().unwrap_or(1) as f32).sqrt();
        tensor
            .data
            .iter_mut()
            .enumerate()
            .for_each(|(index, x)| *x = size * (index as f32 * 1.7).sin());
    }
}
