//! A model folder as one value: shape, tokenizer, policy weights and, where one was trained, the value network's.

use crate::error::AgentError;
use crate::tokenizer::Tokenizer;
use crate::weights::{DecoderConfig, Weights};
use std::path::Path;

/// What a model folder holds; see [`crate::weights`] for the files.
#[derive(Debug, Clone)]
pub struct Model {
    /// Shape of both networks.
    pub config: DecoderConfig,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// The policy.
    pub policy: Weights,
    /// The value network.
    pub value: Option<Weights>,
}

impl Model {
    /// Reads a model folder.
    ///
    /// # Errors
    /// When a file is missing, damaged, or does not fit the others.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let config = DecoderConfig::open(&folder.join("config.json"))?;
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"))?;
        let policy = Weights::open(&folder.join("model.safetensors"))?;
        let value_file = folder.join("value").join("model.safetensors");
        let value = if value_file.exists() { Some(Weights::open(&value_file)?) } else { None };
        Ok(Self { config, tokenizer, policy, value })
    }

    /// Writes a model folder; the policy's weights last, so that a folder with them is whole.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), AgentError> {
        let make = |folder: &Path| {
            std::fs::create_dir_all(folder).map_err(|source| AgentError::File { path: folder.into(), source })
        };
        make(folder)?;
        self.config.save(&folder.join("config.json"))?;
        self.tokenizer.save(&folder.join("tokenizer.json"))?;
        if let Some(value) = &self.value {
            let folder = folder.join("value");
            make(&folder)?;
            self.config.save(&folder.join("config.json"))?;
            value.save(&folder.join("model.safetensors"))?;
        }
        self.policy.save(&folder.join("model.safetensors"))
    }
}
