//! A model folder as one value: shape, tokenizer, policy weights and, where one was trained, the value network's.

use crate::config::DecoderConfig;
use crate::error::AgentError;
use crate::tokenizer::Tokenizer;
use crate::weights::{WEIGHTS, Weights};
use scenarios::TextVersion;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::ErrorKind;
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
    /// The text versions of the games that the policy learned from; empty where nobody wrote them down. No part of the
    /// policy's hash.
    pub text_versions: BTreeSet<TextVersion>,
}

/// `hearth.json`: what only hearth wants to know of a model.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    text_versions: BTreeSet<TextVersion>,
}

impl Model {
    /// Reads a model folder. One without `hearth.json` tells of no text version.
    ///
    /// # Errors
    /// When a file is missing, damaged, or does not fit the others.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let config = DecoderConfig::open(&folder.join("config.json"))?;
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"))?;
        let fitting = |folder: &Path| -> Result<Weights, AgentError> {
            let mut weights = Weights::open_folder(folder)?;
            let path = folder.join(WEIGHTS);
            weights.fit(&config).map_err(|error| AgentError::Content { path, reason: error.to_string() })?;
            Ok(weights)
        };
        let policy = fitting(folder)?;
        let critic = folder.join("value");
        let value = if critic.join(WEIGHTS).exists() { Some(fitting(&critic)?) } else { None };
        let Notes { text_versions } = Notes::open(&folder.join("hearth.json"))?;
        Ok(Self { config, tokenizer, policy, value, text_versions })
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
        Notes { text_versions: self.text_versions.clone() }.save(&folder.join("hearth.json"))?;
        if let Some(value) = &self.value {
            let folder = folder.join("value");
            make(&folder)?;
            self.config.save(&folder.join("config.json"))?;
            value.save(&folder.join("model.safetensors"))?;
        }
        self.policy.save(&folder.join("model.safetensors"))
    }
}

impl Notes {
    fn open(path: &Path) -> Result<Self, AgentError> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| AgentError::Content { path: path.into(), reason: error.to_string() }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(AgentError::File { path: path.into(), source }),
        }
    }

    fn save(&self, path: &Path) -> Result<(), AgentError> {
        let text = serde_json::to_string(self).map_err(|e| AgentError::Config(e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|source| AgentError::File { path: path.into(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::tests::tiny_config;
    use std::fs;

    fn tiny(text_versions: &[TextVersion]) -> Model {
        let tokenizer = Tokenizer::train(["go to desk 1"].into_iter(), 300).unwrap();
        let config = DecoderConfig { vocab_size: tokenizer.vocab_size(), ..tiny_config() };
        let policy = Weights::random(&config, 7);
        Model { config, tokenizer, policy, value: None, text_versions: text_versions.iter().copied().collect() }
    }

    #[test]
    fn a_folder_keeps_the_text_versions_beside_the_weights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hearth.json");
        for (versions, text) in [
            (&[TextVersion::V2_1_3, TextVersion::V2_1_1][..], "{\"text_versions\":[\"2.1.1\",\"2.1.3\"]}\n"),
            (&[TextVersion::V2_1_3], "{\"text_versions\":[\"2.1.3\"]}\n"),
            (&[], "{\"text_versions\":[]}\n"),
        ] {
            let model = tiny(versions);
            model.save(folder.path()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let again = Model::open(folder.path()).unwrap();
            assert_eq!(again.text_versions, model.text_versions);
            assert_eq!(again.policy.hash(), tiny(&[]).policy.hash(), "no part of the policy's identity");
        }
        fs::remove_file(path).unwrap();
        assert_eq!(Model::open(folder.path()).unwrap().text_versions, BTreeSet::new(), "an older folder");
    }

    #[test]
    fn damaged_notes_are_an_error_that_names_them() {
        let folder = tempfile::tempdir().unwrap();
        tiny(&[TextVersion::V2_1_1]).save(folder.path()).unwrap();
        let path = folder.path().join("hearth.json");
        for (text, reason) in [
            ("", "EOF"),
            ("{}", "missing field `text_versions`"),
            ("{\"text_versions\":[\"2.1.2\"]}", "unknown variant `2.1.2`"),
            ("{\"text_versions\":[],\"words\":1}", "unknown field `words`"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Model::open(folder.path()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: {reason}", path.display())), "{error}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = Model::open(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot use {}: ", path.display())), "{error}");
    }
}
