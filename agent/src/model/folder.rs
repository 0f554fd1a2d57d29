//! A model folder as one value: shape, tokenizer, policy weights and, where one was trained, the value network's.

use crate::error::AgentError;
use crate::files;
use crate::model::config::DecoderConfig;
use crate::model::gguf::GgufFile;
use crate::model::weights::{HostTensor, WEIGHTS, Weights};
use crate::text::template::{ChatTemplate, TurnFrames};
use crate::text::tokenizer::{Frames, Tokenizer};
use scenarios::TextVersion;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a model folder holds; see [`crate::model::weights`] for the files.
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
    /// What a checkpoint from elsewhere brought along.
    pub companions: Companions,
}

/// Files of a Hugging Face folder that are kept as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Companions {
    /// By name: their bytes.
    pub files: BTreeMap<&'static str, Vec<u8>>,
    /// Why turns are not framed as the model's own chat template says, where they are not.
    pub reframed: Option<String>,
}

/// Those files.
const COMPANIONS: [&str; 4] = [
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
];

/// Each may have this many bytes.
const COMPANION_LIMIT: u64 = 16 << 20;

/// `hearth.json` may have this many bytes.
const NOTES_LIMIT: u64 = 1 << 20;

/// `hearth.json`: what only hearth wants to know of a model.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    text_versions: BTreeSet<TextVersion>,
}

impl Model {
    /// Reads a model folder: one of hearth's, or a checkpoint of Hugging Face's. One without `hearth.json` tells of no
    /// text version.
    ///
    /// # Errors
    /// When a file is missing, damaged, or does not fit the others.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let config = DecoderConfig::open(&folder.join("config.json"))?;
        let mut companions = Companions::open(folder)?;
        let tokenizer = companions.tokenizer(folder)?;
        fitting_ids(&tokenizer, &config).map_err(|reason| AgentError::Content {
            path: folder.join("tokenizer.json"),
            reason,
        })?;
        let fitting = |folder: &Path| -> Result<Weights, AgentError> {
            let mut weights = Weights::open_folder(folder)?;
            let path = folder.join(WEIGHTS);
            weights.fit(&config).map_err(|error| AgentError::Content {
                path,
                reason: error.to_string(),
            })?;
            Ok(weights)
        };
        let policy = fitting(folder)?;
        let critic = folder.join("value");
        let value = if critic.join(WEIGHTS).exists() {
            Some(fitting(&critic)?)
        } else {
            None
        };
        let Notes { text_versions } = Notes::open(&folder.join("hearth.json"))?;
        Ok(Self {
            config,
            tokenizer,
            policy,
            value,
            text_versions,
            companions,
        })
    }

    /// Reads a GGUF file: every tensor is widened to f32.
    ///
    /// # Errors
    /// When the file is missing or damaged, or holds a model that is not built here.
    pub fn open_gguf(path: &Path) -> Result<Self, AgentError> {
        let content = |reason: String| AgentError::Content {
            path: path.into(),
            reason,
        };
        let mut file = GgufFile::open(path)?;
        let Value::Object(keys) = file.config()? else {
            return Err(content("its config is no object".into()));
        };
        let config = DecoderConfig::from_hugging_face(keys).map_err(|e| content(e.to_string()))?;
        let json = file.tokenizer()?.to_string();
        let mut companions = Companions::of_gguf(&file)?;
        let frames = companions
            .frames(Path::new(""))
            .map_err(|error| match error {
                AgentError::Content { reason, .. } => content(reason),
                other => content(other.to_string()),
            })?;
        let tokenizer =
            Tokenizer::from_json(json.as_bytes(), frames).map_err(|e| content(e.to_string()))?;
        fitting_ids(&tokenizer, &config).map_err(content)?;
        let mut policy = Weights::default();
        for tensor in file.hf_tensors()? {
            let data = file.hf_tensor(&tensor)?;
            policy.0.insert(
                tensor.name.clone(),
                HostTensor {
                    shape: tensor.shape.clone(),
                    data,
                },
            );
        }
        policy.fit(&config).map_err(|e| content(e.to_string()))?;
        Ok(Self {
            config,
            tokenizer,
            policy,
            value: None,
            text_versions: BTreeSet::new(),
            companions,
        })
    }

    /// Writes a model folder; the policy's weights last, so that a folder with them is whole.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), AgentError> {
        let make = |folder: &Path| {
            std::fs::create_dir_all(folder).map_err(|source| AgentError::File {
                path: folder.into(),
                source,
            })
        };
        make(folder)?;
        self.config.save(&folder.join("config.json"))?;
        self.tokenizer.save(&folder.join("tokenizer.json"))?;
        for (name, bytes) in &self.companions.files {
            let path = folder.join(name);
            scenarios::files::replace(&path, bytes)
                .map_err(|source| AgentError::File { path, source })?;
        }
        Notes {
            text_versions: self.text_versions.clone(),
        }
        .save(&folder.join("hearth.json"))?;
        if let Some(value) = &self.value {
            let folder = folder.join("value");
            make(&folder)?;
            self.config.save(&folder.join("config.json"))?;
            value.save(&folder.join("model.safetensors"))?;
        }
        self.policy.save(&folder.join("model.safetensors"))
    }
}

/// Refuses a tokenizer with an id that the decoder has no embedding for.
fn fitting_ids(tokenizer: &Tokenizer, config: &DecoderConfig) -> Result<(), String> {
    let largest = tokenizer.largest_id();
    if largest as usize >= config.vocab_size {
        return Err(format!(
            "its tokens have ids up to {largest}, and the model's vocab_size is {}",
            config.vocab_size
        ));
    }
    Ok(())
}

impl Companions {
    /// Reads those that are there.
    fn open(folder: &Path) -> Result<Self, AgentError> {
        let mut files = BTreeMap::new();
        for name in COMPANIONS {
            files.extend(
                files::read_if_any(&folder.join(name), COMPANION_LIMIT)?.map(|bytes| (name, bytes)),
            );
        }
        Ok(Self {
            files,
            reframed: None,
        })
    }

    /// The `tokenizer_config.json` that a GGUF file stands for.
    fn of_gguf(file: &GgufFile) -> Result<Self, AgentError> {
        let ids = file.special_tokens()?;
        let tokens = file.tokens()?;
        let text = |id: Option<u32>| id.and_then(|id| tokens.get(id as usize));
        let settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": text(ids.bos),
            "eos_token": text(ids.eos),
            "pad_token": text(ids.pad),
            "chat_template": file.chat_template()?,
        });
        Ok(Self {
            files: [("tokenizer_config.json", settings.to_string().into_bytes())].into(),
            reframed: None,
        })
    }

    /// The folder's tokenizer with the frames of its chat template, or with hearth's own where it was trained here.
    fn tokenizer(&mut self, folder: &Path) -> Result<Tokenizer, AgentError> {
        let path = folder.join("tokenizer.json");
        if !self.files.contains_key("tokenizer_config.json") {
            return Tokenizer::open(&path, Frames::default());
        }
        let frames = self.frames(folder)?;
        Tokenizer::open(&path, frames)
    }

    /// The frames of the model's chat template; plain ChatML, and a note, where it has none that fits an episode.
    fn frames(&mut self, folder: &Path) -> Result<Frames, AgentError> {
        let text = |name: &str| {
            self.files
                .get(name)
                .map(|bytes| files::text(&folder.join(name), bytes.clone()))
        };
        let (settings, jinja) = (
            text("tokenizer_config.json").transpose()?,
            text("chat_template.jinja").transpose()?,
        );
        let Some(template) = ChatTemplate::from_hf_texts(folder, settings.as_deref(), jinja)?
        else {
            self.reframed =
                Some("the model has no chat template; turns are framed as ChatML".into());
            return TurnFrames::chatml(None).into_frames(None);
        };
        let path = folder.join("tokenizer_config.json");
        match TurnFrames::derive(&template, None) {
            Ok(frames) => frames
                .into_frames(template.special_tokens().eos.as_deref())
                .map_err(|error| AgentError::Content {
                    path,
                    reason: error.to_string(),
                }),
            Err(error) => {
                self.reframed = Some(format!("{error}; turns are framed as ChatML"));
                TurnFrames::chatml(None).into_frames(None)
            }
        }
    }
}

impl Notes {
    fn open(path: &Path) -> Result<Self, AgentError> {
        let Some(bytes) = files::read_if_any(path, NOTES_LIMIT)? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&bytes).map_err(|error| AgentError::Content {
            path: path.into(),
            reason: error.to_string(),
        })
    }

    fn save(&self, path: &Path) -> Result<(), AgentError> {
        let text = serde_json::to_string(self).map_err(|e| AgentError::Config(e.to_string()))?;
        scenarios::files::replace(path, (text + "\n").as_bytes()).map_err(|source| {
            AgentError::File {
                path: path.into(),
                source,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::tests::tiny_config;
    use crate::text::chat::{self, Place};
    use std::fs;

    fn tiny(text_versions: &[TextVersion]) -> Model {
        let tokenizer = Tokenizer::train(["go to desk 1"].into_iter(), 300).unwrap();
        let config = DecoderConfig {
            vocab_size: tokenizer.vocab_size(),
            ..tiny_config()
        };
        let policy = Weights::random(&config, 7);
        Model {
            config,
            tokenizer,
            policy,
            value: None,
            text_versions: text_versions.iter().copied().collect(),
            companions: Companions::default(),
        }
    }

    #[test]
    fn a_folder_keeps_the_text_versions_beside_the_weights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hearth.json");
        for (versions, text) in [
            (
                &[TextVersion::V2_1_3, TextVersion::V2_1_1][..],
                "{\"text_versions\":[\"2.1.1\",\"2.1.3\"]}\n",
            ),
            (&[TextVersion::V2_1_3], "{\"text_versions\":[\"2.1.3\"]}\n"),
            (&[], "{\"text_versions\":[]}\n"),
        ] {
            let model = tiny(versions);
            model.save(folder.path()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let again = Model::open(folder.path()).unwrap();
            assert_eq!(again.text_versions, model.text_versions);
            assert_eq!(
                again.policy.hash(),
                tiny(&[]).policy.hash(),
                "no part of the policy's identity"
            );
        }
        fs::remove_file(path).unwrap();
        assert_eq!(
            Model::open(folder.path()).unwrap().text_versions,
            BTreeSet::new(),
            "an older folder"
        );
    }

    /// A folder as others write it: ChatML's special tokens, and a chat template beside the tokenizer.
    fn checkpoint(folder: &Path, template: &str) {
        tiny(&[]).save(folder).unwrap();
        let path = folder.join("tokenizer.json");
        let json = fs::read_to_string(&path).unwrap();
        fs::write(
            path,
            json.replace("<|begin|>", "<|im_start|>")
                .replace("<|end|>", "<|im_end|>"),
        )
        .unwrap();
        let settings = json!({"eos_token": "<|im_end|>", "chat_template": template});
        fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
    }

    #[test]
    fn a_checkpoint_from_elsewhere_is_framed_by_its_chat_template() {
        let (folder, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        checkpoint(folder.path(), ChatTemplate::chatml().source());
        let model = Model::open(folder.path()).unwrap();
        assert_eq!(model.companions.reframed, None);
        let say = |place| chat::observation_tokens(&model.tokenizer, "go to <|im_end|>", place);
        let text = |place| model.tokenizer.decode(&say(place));
        assert_eq!(
            text(Place::Opening),
            "<|im_start|>user\ngo to < |im_end|><|im_end|>\n<|im_start|>assistant\n"
        );
        let later = "\n<|im_start|>user\ngo to < |im_end|><|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text(Place::AfterEnd), later);
        assert_eq!(text(Place::AfterCut), format!("<|im_end|>{later}"));
        assert_eq!(say(Place::AfterCut)[0], model.tokenizer.end);
        assert_eq!(
            say(Place::AfterEnd)
                .iter()
                .filter(|id| **id == model.tokenizer.end)
                .count(),
            1,
            "not the world's"
        );

        model.save(again.path()).unwrap();
        let same = Model::open(again.path()).unwrap();
        assert_eq!(
            (same.companions, same.tokenizer.frames()),
            (model.companions, model.tokenizer.frames())
        );
        assert_eq!(same.policy.hash(), model.policy.hash());
    }

    #[test]
    fn a_template_that_does_not_only_append_is_replaced_and_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let last_only = "{{ messages[-1]['content'] }}<|im_end|>";
        checkpoint(folder.path(), last_only);
        let model = Model::open(folder.path()).unwrap();
        let reason = model.companions.reframed.unwrap();
        assert!(
            reason.contains("not prefix-preserving") && reason.contains("framed as ChatML"),
            "{reason}"
        );
        assert_eq!(model.tokenizer.frames().opening, "<|im_start|>user\n");
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
            (
                "{\"text_versions\":[],\"words\":1}",
                "unknown field `words`",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = Model::open(folder.path()).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{}: {reason}", path.display())),
                "{error}"
            );
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = Model::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot use {}: ", path.display())),
            "{error}"
        );
    }
}
