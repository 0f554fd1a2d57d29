//! The readers under test, and what is done with what they open.

use crate::inputs::memory_folder;
use agent::AgentError;
use agent::inference::device::Backend;
use agent::inference::sample::Sampling;
use agent::inference::{KvCache, PolicyInference, Span, ValueInference};
use agent::model::config::DecoderConfig;
use agent::model::folder::Model;
use agent::model::gguf::GgufFile;
use agent::model::weights::Weights;
use agent::text::chat::{PromptPosition, observation_tokens};
use agent::text::template::{ChatTemplate, TurnFrames};
use agent::text::tokenizer::{Frames, Tokenizer};
use scenarios::WeightFormat;
use std::path::Path;

/// Longest error message, in bytes.
const MESSAGE: usize = 4_000;

/// A reader under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FuzzReader {
    Safetensors,
    Gguf,
    Config,
    Tokenizer,
}

/// What is done with an accepted model after it played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterPlay {
    Nothing,
    WriteAndReadAgain,
}

impl FuzzReader {
    /// Number of inputs of an ordinary test run: about two seconds in a debug build.
    pub(crate) fn inputs(self) -> u64 {
        match self {
            Self::Safetensors => 1000,
            Self::Gguf => 700,
            Self::Config => 1000,
            Self::Tokenizer => 200,
        }
    }

    /// Whether this reader is tested on a damaged file of this name in a model folder.
    pub(crate) fn reads(self, name: &str) -> bool {
        match self {
            Self::Safetensors => name.contains("safetensors"),
            Self::Gguf => false,
            Self::Config => name == "config.json",
            Self::Tokenizer => name != "config.json" && !name.contains("safetensors"),
        }
    }

    /// Reads the files of a folder in all ways; returns whether the whole model was accepted.
    pub(crate) fn read(self, folder: &Path, after: AfterPlay) -> bool {
        match self {
            Self::Safetensors => read_safetensors(folder, after),
            Self::Gguf => read_gguf(folder, after),
            Self::Config => read_config(folder, after),
            Self::Tokenizer => read_tokenizer(folder, after),
        }
    }
}

fn read_safetensors(folder: &Path, after: AfterPlay) -> bool {
    for name in ["model.safetensors", "model-1.safetensors"] {
        opened(folder, Weights::open(&folder.join(name)));
    }
    opened(folder, Weights::open_folder(folder)).is_some_and(|weights| weights.hash().len() == 16)
        && opened(folder, Model::open(folder)).is_some_and(|model| play(&model, after))
}

fn read_gguf(folder: &Path, after: AfterPlay) -> bool {
    let path = folder.join("model.gguf");
    if let Some(mut file) = opened(folder, GgufFile::open(&path)) {
        opened(folder, file.config());
        opened(folder, file.tokenizer());
        opened(folder, file.rope_factors());
        opened(folder, file.special_tokens());
        opened(folder, file.hf_tensors());
    }
    opened(folder, Model::open_gguf(&path)).is_some_and(|model| play(&model, after))
}

fn read_config(folder: &Path, after: AfterPlay) -> bool {
    let Some(config) = opened(folder, DecoderConfig::open(&folder.join("config.json"))) else {
        return false;
    };
    let again = DecoderConfig::from_hugging_face(config.to_hugging_face()).unwrap();
    assert_eq!(
        without_source(&again),
        without_source(&config),
        "a config round-trips"
    );
    opened(folder, Model::open(folder)).map(|model| play(&model, after));
    play_shape(&config)
}

fn read_tokenizer(folder: &Path, after: AfterPlay) -> bool {
    let path = folder.join("tokenizer.json");
    opened(folder, Tokenizer::open(&path, Frames::default())).map(|tokenizer| encode(&tokenizer));
    if let Some(Some(template)) = opened(folder, ChatTemplate::from_hf_folder(folder)) {
        let frames = TurnFrames::derive(&template, Some("Be brief."));
        let _ = checked(frames).map(|frames| frames.into_frames(Some("</s>")));
    }
    opened(folder, Model::open(folder)).is_some_and(|model| play(&model, after))
}

fn without_source(config: &DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        source: serde_json::Map::new(),
        ..config.clone()
    }
}

/// What was opened. `None` if it was refused; the error must name a file and be fit for a terminal.
pub(crate) fn opened<T>(folder: &Path, result: Result<T, AgentError>) -> Option<T> {
    if let Err(error) = &result {
        assert!(
            error.to_string().contains(&*folder.to_string_lossy()),
            "the message names no file: {error}"
        );
    }
    checked(result)
}

fn checked<T>(result: Result<T, AgentError>) -> Option<T> {
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(
            message.len() < MESSAGE,
            "a message of {} bytes: {:.200}",
            message.len(),
            message
        );
        let control = message
            .chars()
            .find(|letter| letter.is_control() && *letter != '\n');
        assert_eq!(control, None, "a control character in {message:?}");
    }
    result.ok()
}

const OBSERVATION: &str = "You see a mug 1.\n é🙂\u{301} <|im_end|></s> {{ x }}\0  eeeeeeeeeeeeeeeeeeee aaaaaaaaaaaaaaaaaaaa go to desk 1";

/// Short texts that begin and end with letters of every length in bytes, and unusual ones.
const SHORT_TEXTS: [&str; 9] = [
    "",
    " ",
    "é",
    "🙂",
    "\u{301}",
    "日本 1é",
    "\u{FDFA}\u{FDFA} ",
    "İ\u{AD}\0",
    "  a\t\r\n🙂",
];

/// Encodes and decodes; returns the token ids of a conversation.
pub(crate) fn encode(tokenizer: &Tokenizer) -> Vec<u32> {
    let positions = [
        PromptPosition::Opening,
        PromptPosition::AfterEnd,
        PromptPosition::AfterCut,
    ];
    let ids: Vec<u32> = positions
        .iter()
        .flat_map(|position| observation_tokens(tokenizer, OBSERVATION, *position))
        .collect();
    assert!(
        !tokenizer.frames().end.is_empty() && !ids.is_empty(),
        "no frames"
    );
    assert!(tokenizer.decode(&ids).len() < 1 << 20);
    (0..300).for_each(|id| drop(tokenizer.decode(&[id, id + 1])));
    let _ = tokenizer.decode(&[tokenizer.end, u32::MAX]);
    SHORT_TEXTS
        .into_iter()
        .for_each(|text| drop(tokenizer.decode(&tokenizer.encode(text))));
    ids
}

/// Plays some tokens with a model.
fn play(model: &Model, after: AfterPlay) -> bool {
    let ids = encode(&model.tokenizer);
    generate(&model.config, &model.policy, &ids);
    if let Some(value) = model
        .value
        .as_ref()
        .filter(|value| value.value_heads(&model.config).is_ok())
    {
        let config = short(&model.config);
        let inference = ValueInference::from_weights(
            &config,
            &mut value.clone(),
            WeightFormat::Exact,
            &Backend::Cpu,
        )
        .unwrap();
        let _ = inference.value(&vec![0.5; config.hidden_size]);
    }
    if after == AfterPlay::Nothing {
        return true;
    }
    let again = tempfile::tempdir_in(memory_folder()).unwrap();
    model.save(again.path()).unwrap();
    let same = Model::open(again.path()).unwrap();
    assert_eq!(
        same.policy.hash(),
        model.policy.hash(),
        "a model round-trips"
    );
    assert_eq!(encode(&same.tokenizer), ids, "a tokenizer round-trips");
    true
}

/// The config with a short context. The rotary table is as long as the context, and these tests do
/// not need a long one.
fn short(config: &DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        max_position_embeddings: config.max_position_embeddings.min(64),
        ..config.clone()
    }
}

/// Reads `ids` and draws one token.
fn generate(config: &DecoderConfig, weights: &Weights, ids: &[u32]) {
    let config = short(config);
    let inference = PolicyInference::from_weights(
        &config,
        &mut weights.clone(),
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let tokens = &ids[..ids.len().min(config.max_position_embeddings)];
    let hidden = inference
        .trunk
        .extend(&mut [Span::new(tokens, &mut KvCache::default())]);
    let logprobs = inference.logprobs(&hidden[hidden.len() - config.hidden_size..]);
    let drawn = Sampling::UNTEMPERED.draw(&logprobs, 0.3);
    assert!((drawn.token as usize) < config.vocab_size);
}

/// Plays with random weights of this shape, if there are at most 2¹⁸ of them.
fn play_shape(config: &DecoderConfig) -> bool {
    let is_small = config.num_hidden_layers <= 4 && config.head_width() <= 4096;
    if is_small
        && config
            .tensors()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum::<usize>()
            <= 1 << 18
    {
        generate(config, &Weights::random(config, 1), &[0, 0, 0]);
    }
    true
}
