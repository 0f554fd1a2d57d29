//! A model folder, or a GGUF file, as one value: the configuration, the tokenizer, the policy's
//! weights and, if one was trained, the value network's weights.

use crate::error::AgentError;
use crate::files;
use crate::model::config::{DecoderConfig, Family};
use crate::model::gguf::GgufFile;
use crate::model::weights::{HostTensor, WEIGHTS, Weights};
use crate::text::template::{ChatTemplate, TurnFrames};
use crate::text::tokenizer::{Frames, Tokenizer};
use scenarios::TextVersion;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The content of a model folder. [`crate::model::weights`] lists its files.
#[derive(Debug, Clone)]
pub struct Model {
    /// The sizes of both networks.
    pub config: DecoderConfig,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The weights of the policy.
    pub policy: Weights,
    /// The weights of the value network.
    pub value: Option<Weights>,
    /// The text versions of the games that the policy was trained on; empty if they are not
    /// recorded. They are not part of the policy's hash.
    pub text_versions: BTreeSet<TextVersion>,
    /// Files of a checkpoint from elsewhere.
    pub companions: Companions,
}

/// Files of a Hugging Face folder that are kept unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Companions {
    /// The bytes of each file, by name.
    pub files: BTreeMap<&'static str, Vec<u8>>,
    /// The reason, if turns are not framed by the model's own chat template.
    pub reframed: Option<String>,
}

/// Names of the files that are kept.
const COMPANIONS: [&str; 4] = [
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
];

/// The most bytes of each of them.
const COMPANION_LIMIT: u64 = 16 << 20;

/// The most bytes of `hearth.json`.
const HEARTH_JSON_LIMIT: u64 = 1 << 20;

/// The code with which transformers opens a folder of hearth's own family.
const MODELING_HEARTH: &str = include_str!("reading/modeling_hearth.py");

impl Model {
    /// Reads a model folder, either one that hearth wrote or a Hugging Face checkpoint. If the
    /// folder has no `hearth.json`, no text version is recorded.
    ///
    /// # Errors
    /// If a file is missing, is damaged, or does not fit the others.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let config = DecoderConfig::open(&folder.join("config.json"))?;
        let mut companions = Companions::open(folder)?;
        let tokenizer = companions.tokenizer(folder)?;
        check_ids(&tokenizer, &config)
            .map_err(|reason| AgentError::content(&folder.join("tokenizer.json"), reason))?;
        let policy = open_weights(folder, &config)?;
        let value_folder = folder.join("value");
        let value = if value_folder.join(WEIGHTS).exists() {
            Some(open_weights(&value_folder, &config)?)
        } else {
            None
        };
        let HearthJson { text_versions } = HearthJson::open(&folder.join("hearth.json"))?;
        Ok(Self {
            config,
            tokenizer,
            policy,
            value,
            text_versions,
            companions,
        })
    }

    /// Reads a GGUF file. Every tensor is converted to f32.
    ///
    /// # Errors
    /// If the file is missing or damaged, or contains a model that is not supported.
    pub fn open_gguf(path: &Path) -> Result<Self, AgentError> {
        let mut file = GgufFile::open(path)?;
        let Value::Object(keys) = file.config()? else {
            return Err(AgentError::content(path, "its config is not an object"));
        };
        let config = DecoderConfig::from_hugging_face(keys)
            .map_err(|error| AgentError::content(path, error.to_string()))?;
        let json = file.tokenizer()?.to_string();
        let mut companions = Companions::from_gguf(&file)?;
        let frames = companions
            .frames(Path::new(""))
            .map_err(|error| match error {
                AgentError::Content { reason, .. } => AgentError::content(path, reason),
                other => AgentError::content(path, other.to_string()),
            })?;
        let tokenizer = Tokenizer::from_json(json.as_bytes(), frames)
            .map_err(|error| AgentError::content(path, error.to_string()))?;
        check_ids(&tokenizer, &config).map_err(|reason| AgentError::content(path, reason))?;
        let mut policy = Weights::default();
        for tensor in file.hf_tensors()? {
            let data = file.hf_tensor(&tensor)?;
            let shape = tensor.shape.clone();
            policy
                .0
                .insert(tensor.name.clone(), HostTensor { shape, data });
        }
        policy
            .fit(&config)
            .map_err(|error| AgentError::content(path, error.to_string()))?;
        Ok(Self {
            config,
            tokenizer,
            policy,
            value: None,
            text_versions: BTreeSet::new(),
            companions,
        })
    }

    /// Writes a model folder. The policy's weights are written last, so that a folder with them is
    /// complete.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), AgentError> {
        create_folder(folder)?;
        self.config.save(&folder.join("config.json"))?;
        self.tokenizer.save(&folder.join("tokenizer.json"))?;
        for (name, bytes) in &self.companions.files {
            let path = folder.join(name);
            scenarios::files::replace(&path, bytes)
                .map_err(|source| AgentError::File { path, source })?;
        }
        if self.config.family == Family::Hearth {
            let path = folder.join("modeling_hearth.py");
            scenarios::files::replace(&path, MODELING_HEARTH.as_bytes())
                .map_err(|source| AgentError::File { path, source })?;
        }
        HearthJson {
            text_versions: self.text_versions.clone(),
        }
        .save(&folder.join("hearth.json"))?;
        if let Some(value) = &self.value {
            let folder = folder.join("value");
            create_folder(&folder)?;
            self.config.save(&folder.join("config.json"))?;
            value.save(&folder.join(WEIGHTS))?;
        }
        self.policy.save(&folder.join(WEIGHTS))
    }
}

/// The weights of a folder that are tensors of the decoder or its value head.
fn open_weights(folder: &Path, config: &DecoderConfig) -> Result<Weights, AgentError> {
    let mut weights = Weights::open_folder(folder)?;
    weights
        .fit(config)
        .map_err(|error| AgentError::content(&folder.join(WEIGHTS), error.to_string()))?;
    Ok(weights)
}

fn create_folder(folder: &Path) -> Result<(), AgentError> {
    std::fs::create_dir_all(folder).map_err(|source| AgentError::file(folder, source))
}

/// Refuses a tokenizer with an id for which the decoder has no embedding.
fn check_ids(tokenizer: &Tokenizer, config: &DecoderConfig) -> Result<(), String> {
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
    /// Reads the files that exist.
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

    /// Makes a `tokenizer_config.json` from a GGUF file.
    fn from_gguf(file: &GgufFile) -> Result<Self, AgentError> {
        let ids = file.special_tokens()?;
        let tokens = file.tokens()?;
        let [bos, eos, pad] = [ids.bos, ids.eos, ids.pad].map(|id| tokens.get(id? as usize));
        let settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": eos,
            "pad_token": pad,
            "chat_template": file.chat_template()?,
        });
        Ok(Self {
            files: [("tokenizer_config.json", settings.to_string().into_bytes())].into(),
            reframed: None,
        })
    }

    /// Reads the folder's tokenizer with the frames of its chat template. If the tokenizer was
    /// trained by hearth, it gets hearth's own frames.
    fn tokenizer(&mut self, folder: &Path) -> Result<Tokenizer, AgentError> {
        let path = folder.join("tokenizer.json");
        if !self.files.contains_key("tokenizer_config.json") {
            return Tokenizer::open(&path, Frames::default());
        }
        let frames = self.frames(folder)?;
        Tokenizer::open(&path, frames)
    }

    /// Returns the frames of the model's chat template. If it has none, or one that does not fit an
    /// episode, returns the frames of plain ChatML and records the reason.
    fn frames(&mut self, folder: &Path) -> Result<Frames, AgentError> {
        let settings = self.text(folder, "tokenizer_config.json")?;
        let jinja = self.text(folder, "chat_template.jinja")?;
        let Some(template) = ChatTemplate::from_hf_texts(folder, settings.as_deref(), jinja)?
        else {
            self.reframed =
                Some("the model has no chat template; turns are framed as ChatML".into());
            return TurnFrames::chatml(None).into_frames(None);
        };
        match TurnFrames::derive(&template, None) {
            Ok(frames) => frames
                .into_frames(template.special_tokens().eos.as_deref())
                .map_err(|error| {
                    let path = folder.join("tokenizer_config.json");
                    AgentError::content(&path, error.to_string())
                }),
            Err(error) => {
                self.reframed = Some(format!("{error}; turns are framed as ChatML"));
                TurnFrames::chatml(None).into_frames(None)
            }
        }
    }

    /// A file as text; `None` if it does not exist.
    fn text(&self, folder: &Path, name: &str) -> Result<Option<String>, AgentError> {
        self.files
            .get(name)
            .map(|bytes| files::text(&folder.join(name), bytes.clone()))
            .transpose()
    }
}

/// `hearth.json`: facts about a model that only hearth uses.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HearthJson {
    text_versions: BTreeSet<TextVersion>,
}

impl HearthJson {
    /// Reads the file. If it does not exist, no text version is recorded.
    fn open(path: &Path) -> Result<Self, AgentError> {
        let Some(bytes) = files::read_if_any(path, HEARTH_JSON_LIMIT)? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&bytes).map_err(|error| AgentError::content(path, error.to_string()))
    }

    fn save(&self, path: &Path) -> Result<(), AgentError> {
        let text =
            serde_json::to_string(self).map_err(|error| AgentError::Config(error.to_string()))?;
        scenarios::files::replace(path, (text + "\n").as_bytes())
            .map_err(|source| AgentError::file(path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::tests::tiny_config;
    use crate::text::chat::{self, PromptPosition};
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
                "they are not part of the hash"
            );
        }
        fs::remove_file(path).unwrap();
        assert_eq!(
            Model::open(folder.path()).unwrap().text_versions,
            BTreeSet::new(),
            "an older folder"
        );
    }

    /// Writes a folder as other programs do: with ChatML's special tokens, and a chat template
    /// beside the tokenizer.
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
    fn a_hugging_face_checkpoint_is_framed_by_its_chat_template() {
        let folder = tempfile::tempdir().unwrap();
        let again = tempfile::tempdir().unwrap();
        checkpoint(folder.path(), ChatTemplate::chatml().source());
        let model = Model::open(folder.path()).unwrap();
        assert_eq!(model.companions.reframed, None);
        let [opening, after_end, after_cut] = [
            PromptPosition::Opening,
            PromptPosition::AfterEnd,
            PromptPosition::AfterCut,
        ]
        .map(|position| chat::observation_tokens(&model.tokenizer, "go to <|im_end|>", position));
        assert_eq!(
            model.tokenizer.decode(&opening),
            "<|im_start|>user\ngo to < |im_end|><|im_end|>\n<|im_start|>assistant\n"
        );
        let later = "\n<|im_start|>user\ngo to < |im_end|><|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(model.tokenizer.decode(&after_end), later);
        assert_eq!(
            model.tokenizer.decode(&after_cut),
            format!("<|im_end|>{later}")
        );
        assert_eq!(after_cut[0], model.tokenizer.end);
        assert_eq!(
            after_end
                .iter()
                .filter(|id| **id == model.tokenizer.end)
                .count(),
            1,
            "not that of the observation"
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
    fn a_template_that_is_not_prefix_preserving_is_replaced_and_the_reason_is_recorded() {
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
    fn a_damaged_hearth_json_is_an_error_that_names_the_file() {
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
