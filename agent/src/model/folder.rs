//! A model folder, or a GGUF file, as one value: the configuration, the tokenizer, the policy's
//! weights and, if one was trained, the value network's weights.

use crate::error::AgentError;
use crate::files;
use crate::model::config::{DecoderConfig, Family};
use crate::model::gguf::GgufFile;
use crate::model::source::{self, ModelSource};
use crate::model::weights::{HostTensor, WEIGHTS, Weights};
use crate::text::template::{ChatTemplate, ChosenFrames, FrameOptions, FrameSource};
use crate::text::tokenizer::{Tokenizer, UnframedTokenizer};
use scenarios::{TextVersion, Thinking};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Companions {
    /// The bytes of each file, by name.
    pub files: BTreeMap<&'static str, Vec<u8>>,
    /// Where the frames of turns come from.
    pub frame_source: FrameSource,
    /// The reason, if turns are not framed by the model's own chat template as it is.
    pub reframed: Option<String>,
    /// Whether the policy thinks.
    pub thinking: Thinking,
    /// Hash of the chat template that the user gave.
    pub template: Option<String>,
}

impl Default for Companions {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            frame_source: FrameSource::Own,
            reframed: None,
            thinking: Thinking::Keep,
            template: None,
        }
    }
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
    /// Reads a model folder, either one that hearth wrote or a Hugging Face checkpoint, a folder of the Hugging Face cache, or
    /// a GGUF file. If the folder has no `hearth.json`, no text version is recorded.
    ///
    /// # Errors
    /// If a file is missing, is damaged, or does not fit the others.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        Self::open_framed(folder, &FrameOptions::default())
    }

    /// The same with a choice about the frames of turns. If the model is saved, the choice is saved with it.
    ///
    /// # Errors
    /// As [`Self::open`], and if the chosen chat template does not fit.
    pub fn open_framed(path: &Path, options: &FrameOptions) -> Result<Self, AgentError> {
        match ModelSource::find(path)? {
            ModelSource::Folder(folder) => Self::open_folder(&folder, options),
            ModelSource::Gguf(file) => Self::open_gguf_framed(&file, options),
        }
    }

    fn open_folder(folder: &Path, options: &FrameOptions) -> Result<Self, AgentError> {
        let config = DecoderConfig::open(&folder.join("config.json"))?;
        let HearthJson {
            text_versions,
            thinking,
        } = HearthJson::open(&folder.join("hearth.json"))?;
        let mut companions = Companions::open(folder)?;
        let options = FrameOptions {
            thinking: options.thinking.or(Some(thinking)),
            template: options.template.clone(),
        };
        let path = folder.join("tokenizer.json");
        let file = UnframedTokenizer::open(&path).map_err(|error| {
            source::without_tokenizer_json(folder)
                .filter(|_| source::is_missing(&error))
                .unwrap_or(error)
        })?;
        let tokenizer = companions
            .framed(folder, file, &config, &options)
            .map_err(|error| error.in_file(&path))?;
        tokenizer
            .check_rows(config.vocab_size)
            .map_err(|reason| AgentError::content(&folder.join("tokenizer.json"), reason))?;
        let policy = open_weights(folder, &config)?;
        let value_folder = folder.join("value");
        let value = if value_folder.join(WEIGHTS).exists() {
            Some(open_weights(&value_folder, &config)?)
        } else {
            None
        };
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
        Self::open_gguf_framed(path, &FrameOptions::default())
    }

    /// The same with a choice about the frames of turns.
    fn open_gguf_framed(path: &Path, options: &FrameOptions) -> Result<Self, AgentError> {
        let mut file = GgufFile::open(path)?;
        let Value::Object(keys) = file.config()? else {
            return Err(AgentError::content(path, "its config is not an object"));
        };
        let config = DecoderConfig::from_hugging_face(keys)
            .map_err(|error| AgentError::content(path, error.to_string()))?;
        let json = file.tokenizer()?.to_string();
        let mut companions = Companions::from_gguf(&file)?;
        let tokenizer = UnframedTokenizer::from_json(json.as_bytes())
            .and_then(|file| companions.framed(Path::new(""), file, &config, options))
            .map_err(|error| match error {
                AgentError::Content {
                    path: inner,
                    reason,
                } if inner.parent() == Some(Path::new("")) => AgentError::content(path, reason),
                AgentError::Content { .. } | AgentError::File { .. } => error,
                other => AgentError::content(path, other.to_string()),
            })?;
        tokenizer
            .check_rows(config.vocab_size)
            .map_err(|reason| AgentError::content(path, reason))?;
        let mut policy = Weights::default();
        let tensors = file.hf_tensors()?;
        let known = config.tensors();
        let is_unknown_bias =
            |name: &str| name.ends_with(".bias") && known.iter().all(|(known, _)| known != name);
        if let Some(bias) = tensors.iter().find(|tensor| is_unknown_bias(&tensor.name)) {
            let reason = format!(
                "tensor {} is a bias that a {} model does not have",
                bias.source(),
                config.family.name()
            );
            return Err(AgentError::content(path, reason));
        }
        for tensor in tensors {
            let data = file.hf_tensor(&tensor)?;
            let shape = tensor.shape.clone();
            policy
                .0
                .insert(tensor.name.clone(), HostTensor { shape, data });
        }
        // The norms of the file are those that multiply.
        for (name, tensor) in &mut policy.0 {
            if name.ends_with("norm.weight") {
                tensor
                    .data
                    .iter_mut()
                    .for_each(|weight| *weight -= config.norm_offset());
            }
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
            thinking: self.companions.thinking,
        }
        .save(&folder.join("hearth.json"))?;
        if let Some(value) = &self.value {
            let folder = folder.join("value");
            create_folder(&folder)?;
            self.config.save(&folder.join("config.json"))?;
            value.packed(&self.config).save(&folder.join(WEIGHTS))?;
        }
        let policy = self.policy.packed(&self.config);
        policy.save(&folder.join(WEIGHTS))
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
            ..Self::default()
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
            ..Self::default()
        })
    }

    /// Chooses the frames of turns for a tokenizer. If it was trained by hearth and has no chat template, it gets hearth's own
    /// frames.
    fn framed(
        &mut self,
        folder: &Path,
        tokenizer: UnframedTokenizer,
        config: &DecoderConfig,
        options: &FrameOptions,
    ) -> Result<Tokenizer, AgentError> {
        let (template, mut special) =
            ChatTemplate::from_hf_texts(folder, |name| self.text(folder, name))?;
        let is_own = template.is_none() && tokenizer.is_own();
        special.others.extend_from_slice(tokenizer.special());
        if special.eos.is_none() {
            special.eos = self
                .end_id(config)
                .and_then(|id| tokenizer.token(u32::try_from(id).ok()?));
        }
        let chosen = if is_own && options.template.is_none() {
            ChosenFrames::own()
        } else {
            let template = template.map(|template| template.with_special(special.clone()));
            ChosenFrames::choose(template, &special, &tokenizer, options)?
        };
        if let Some(path) = &options.template {
            let text = files::read(path, COMPANION_LIMIT)?;
            self.template = Some(scenarios::suite::hex_sha256(&text)[..16].to_owned());
            self.files.insert("chat_template.jinja", text);
        }
        self.thinking = chosen.thinking;
        self.frame_source = chosen.source;
        self.reframed = chosen.reason;
        tokenizer.with_frames(chosen.frames)
    }

    /// The id of the token that ends a text, by `generation_config.json` or else `config.json`.
    fn end_id(&self, config: &DecoderConfig) -> Option<u64> {
        let generation = self.files.get("generation_config.json");
        let generation: Option<Value> =
            generation.and_then(|bytes| serde_json::from_slice(&files::standard_json(bytes)).ok());
        let id = |keys: &Value| match keys.get("eos_token_id")? {
            Value::Array(ids) => ids.first()?.as_u64(),
            id => id.as_u64(),
        };
        let source = Value::Object(config.source.clone());
        generation.as_ref().and_then(id).or_else(|| id(&source))
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
    /// Whether the policy thinks. If it is missing, the chat template decides.
    #[serde(default, skip_serializing_if = "is_kept")]
    thinking: Thinking,
}

fn is_kept(thinking: &Thinking) -> bool {
    *thinking == Thinking::Keep
}

impl HearthJson {
    /// Reads the file. If it does not exist, no text version is recorded.
    fn open(path: &Path) -> Result<Self, AgentError> {
        let Some(bytes) = files::read_if_any(path, HEARTH_JSON_LIMIT)? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&files::standard_json(&bytes))
            .map_err(|error| AgentError::content(path, error.to_string()))
    }

    fn save(&self, path: &Path) -> Result<(), AgentError> {
        let text =
            serde_json::to_string(self).map_err(|error| AgentError::Config(error.to_string()))?;
        scenarios::files::replace(path, (text + "\n").as_bytes())
            .map_err(|source| AgentError::file(path, source))
    }
}

#[cfg(test)]
pub(in crate::model) mod tests {
    use super::*;
    use crate::model::weights::tests::tiny_config;
    use crate::text::chat::{self, PromptPosition};
    use std::fs;

    /// A model with the sizes of [`tiny_config`].
    pub(in crate::model) fn tiny(text_versions: &[TextVersion]) -> Model {
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
        assert!(reason.contains("not prefix-preserving"), "{reason}");
        assert_eq!(model.companions.frame_source, FrameSource::ChatMl);
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
