//! The chat template: its Jinja text, and the text that it makes of a conversation.

use super::hugging_face::TokenizerConfigJson;
use super::message::{Message, SpecialTokens};
use crate::error::AgentError;
use crate::files;
use crate::text::template_guard;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A Jinja template that makes one text of a conversation.
///
/// ```
/// use agent::text::template::{ChatTemplate, Message, Role};
///
/// let messages = [Message::new(Role::User, "You see a mug 1.")];
/// let text = ChatTemplate::chatml().render(&messages, true)?;
/// assert_eq!(
///     text,
///     "<|im_start|>user\nYou see a mug 1.<|im_end|>\n<|im_start|>assistant\n"
/// );
/// # Ok::<(), agent::AgentError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    special: SpecialTokens,
    path: Option<PathBuf>,
    /// Whether the policy should think, for templates with such a switch; `None` leaves it to the template.
    thinking: Option<bool>,
}

/// The variables of a template. Tools and documents are never given.
#[derive(Serialize)]
struct TemplateVariables<'a> {
    messages: &'a [Message],
    add_generation_prompt: bool,
    tools: Option<()>,
    documents: Option<()>,
    /// The switch of Qwen3, SmolLM3 and others.
    #[serde(skip_serializing_if = "Option::is_none")]
    enable_thinking: Option<bool>,
    /// The switch of Granite and DeepSeek V3.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unk_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_token: Option<&'a str>,
}

/// Longest file that is read for its template, in bytes.
const LONGEST_FILE: u64 = 16 << 20;

const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

impl ChatTemplate {
    /// A template from its Jinja text.
    ///
    /// # Errors
    /// [`AgentError::Config`] if the text is not Jinja, or if it uses what is not supported.
    pub fn new(source: &str, special: SpecialTokens) -> Result<Self, AgentError> {
        Self {
            source: lines(source),
            special,
            path: None,
            thinking: None,
        }
        .checked()
    }

    /// The same template with other special tokens.
    #[must_use]
    pub fn with_special(self, special: SpecialTokens) -> Self {
        Self { special, ..self }
    }

    /// The same template with its switch for thoughts on or off, if it has one.
    #[must_use]
    pub fn with_thinking(self, thinking: bool) -> Self {
        Self {
            thinking: Some(thinking),
            ..self
        }
    }

    /// Whether the template reads a switch for thoughts.
    #[must_use]
    pub fn has_thinking_switch(&self) -> bool {
        ["enable_thinking", "thinking"].iter().any(|name| {
            self.source
                .split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
                .any(|word| word == *name)
        })
    }

    /// A template from a file with its Jinja text.
    ///
    /// # Errors
    /// If the file cannot be read, or its text is not Jinja.
    pub fn open(path: &Path, special: SpecialTokens) -> Result<Self, AgentError> {
        let source = files::text(path, files::read(path, LONGEST_FILE)?)?;
        Self {
            source: lines(&source),
            special,
            path: Some(path.into()),
            thinking: None,
        }
        .checked()
    }

    /// The plain ChatML template: no default system prompt, every text word for word, and
    /// `<|im_end|>` ends a turn.
    #[must_use]
    pub fn chatml() -> Self {
        let special = SpecialTokens {
            eos: Some("<|im_end|>".into()),
            ..SpecialTokens::default()
        };
        Self {
            source: CHATML.into(),
            special,
            path: None,
            thinking: None,
        }
    }

    /// The template in the folder of a Hugging Face model: `chat_template.jinja`, or else
    /// `chat_template` (a text, or the one named `default`) in `tokenizer_config.json`, which also
    /// names the special tokens. `None` if the folder has neither.
    ///
    /// # Errors
    /// [`AgentError::File`] or [`AgentError::Content`] if a file cannot be read or its content is
    /// wrong.
    pub fn from_hf_folder(folder: &Path) -> Result<Option<Self>, AgentError> {
        let text = |name: &str| text_if_any(&folder.join(name));
        Ok(Self::from_hf_texts(folder, text)?.0)
    }

    /// The same from the texts of the files: `text` returns a file's text by its name, or `None` if there is no such
    /// file. Also returns the special tokens, which may be known without a template. The folder is only used in error
    /// messages.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_hf_folder`].
    pub fn from_hf_texts(
        folder: &Path,
        text: impl Fn(&str) -> Result<Option<String>, AgentError>,
    ) -> Result<(Option<Self>, SpecialTokens), AgentError> {
        let parsed = |name: &str| match text(name)? {
            Some(text) => TokenizerConfigJson::parse(&text)
                .map_err(|reason| AgentError::content(&folder.join(name), reason)),
            None => Ok(TokenizerConfigJson::default()),
        };
        let settings = folder.join("tokenizer_config.json");
        let mut config = parsed("tokenizer_config.json")?;
        config.add_special(parsed("special_tokens_map.json")?);
        let special = config.special_tokens();
        let (source, path) = match text("chat_template.jinja")? {
            Some(source) => (source, folder.join("chat_template.jinja")),
            None => match config
                .take_default_template()
                .map_err(|reason| AgentError::content(&settings, reason))?
            {
                Some(source) => (source, settings),
                None => return Ok((None, special)),
            },
        };
        let template = Self {
            source: lines(&source),
            special: special.clone(),
            path: Some(path),
            thinking: None,
        };
        Ok((Some(template.checked()?), special))
    }

    /// The special tokens that the template was given.
    #[must_use]
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The Jinja text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The file that the template came from, if it came from one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The text of a conversation, as transformers' `apply_chat_template` renders it. If
    /// `add_generation_prompt` is set, the text ends where the policy begins to write.
    /// `strftime_now` always returns Friday, 26 July 2024, midnight.
    ///
    /// # Errors
    /// If the template raises, uses what chat templates do not have, or makes more than 8 MiB of
    /// text on the way: [`AgentError::Content`] if it came from a file, else
    /// [`AgentError::Config`].
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, AgentError> {
        let variables = TemplateVariables {
            messages,
            add_generation_prompt,
            tools: None,
            documents: None,
            enable_thinking: self.thinking,
            thinking: self.thinking,
            bos_token: self.special.bos.as_deref(),
            eos_token: self.special.eos.as_deref(),
            unk_token: self.special.unk.as_deref(),
            pad_token: self.special.pad.as_deref(),
        };
        template_guard::render(&self.source, minijinja::Value::from_serialize(variables))
            .map_err(|reason| self.failed(&reason))
    }

    fn checked(self) -> Result<Self, AgentError> {
        template_guard::check(&self.source).map_err(|reason| self.failed(&reason))?;
        Ok(self)
    }

    fn failed(&self, reason: &str) -> AgentError {
        let reason = format!("chat template: {reason}");
        match &self.path {
            Some(path) => AgentError::Content {
                path: path.clone(),
                reason,
            },
            None => AgentError::Config(reason),
        }
    }
}

/// A template with Unix line ends. Jinja reads `\r\n` and `\r` in a template as `\n`.
fn lines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

fn text_if_any(path: &Path) -> Result<Option<String>, AgentError> {
    files::read_if_any(path, LONGEST_FILE)?
        .map(|bytes| files::text(path, bytes))
        .transpose()
}
