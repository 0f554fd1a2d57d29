//! Which frames the turns of a model get.

use super::derive::open_thought;
use super::frames::TurnFrames;
use super::message::{Message, Role, SpecialTokens};
use super::render::ChatTemplate;
use crate::error::AgentError;
use crate::text::tokenizer::{Frames, UnframedTokenizer};
use scenarios::Thinking;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// Returns a template with this choice.
fn switched(template: ChatTemplate, thinking: Thinking) -> ChatTemplate {
    match thinking {
        Thinking::Keep => template,
        Thinking::On => template.with_thinking(true),
        Thinking::Off => template.with_thinking(false),
    }
}

/// What a user chooses about the frames of turns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameOptions {
    /// A file with a chat template that replaces the model's own.
    pub template: Option<PathBuf>,
    /// Whether the policy thinks; `None` is what the model folder says, or else [`Thinking::Keep`].
    pub thinking: Option<Thinking>,
}

/// Where the frames of turns come from, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameSource {
    /// The tokens of a decoder that hearth trained from scratch.
    Own,
    /// The chat template.
    Template,
    /// The chat template, but each turn keeps its thoughts ([`TurnFrames::derive_with_thoughts`]).
    TemplateWithThoughts,
    /// What the chat template puts around turns ([`TurnFrames::derive_around_turns`]).
    AroundTurns,
    /// ChatML: the vocabulary has its tokens.
    ChatMl,
    /// Plain text, for base models: an empty line, `> ` before a command, and the token that ends a text after it.
    Text,
}

impl Display for FrameSource {
    /// Completes a sentence that begins with "turns are framed".
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "by hearth's own tokens",
            Self::Template => "by the chat template",
            Self::TemplateWithThoughts => {
                "by the chat template, and earlier turns keep their thoughts"
            }
            Self::AroundTurns => "by what the chat template puts around the first two turns",
            Self::ChatMl => "as ChatML",
            Self::Text => "as plain text",
        })
    }
}

/// The frames of turns, where they come from, and why no better source was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenFrames {
    /// The frames.
    pub frames: Frames,
    /// Where they come from.
    pub source: FrameSource,
    /// Why no better source was used; `None` if the chat template was used as it is.
    pub reason: Option<String>,
    /// Whether the policy thinks. [`Thinking::Keep`] if there is nothing to switch.
    pub thinking: Thinking,
}

impl ChosenFrames {
    /// The frames of a decoder that hearth trained from scratch.
    #[must_use]
    pub fn own() -> Self {
        Self {
            frames: Frames::default(),
            source: FrameSource::Own,
            reason: None,
            thinking: Thinking::Keep,
        }
    }

    /// Chooses the frames of a model from elsewhere, in the order of [`FrameSource`]. If the user gave the template, only
    /// that is used.
    ///
    /// # Errors
    /// If nothing fits: the message has the reason for each source.
    pub fn choose(
        template: Option<ChatTemplate>,
        special: &SpecialTokens,
        tokenizer: &UnframedTokenizer,
        options: &FrameOptions,
    ) -> Result<Self, AgentError> {
        let thinking = options.thinking.unwrap_or_default();
        let template = match &options.template {
            Some(path) => Some(ChatTemplate::open(path, special.clone())?),
            None => template,
        };
        let mut reasons = Vec::new();
        if let Some(template) = template {
            let template = switched(template, thinking);
            // A user's template must fit: what stands around its first turns is not enough.
            let ways = OF_TEMPLATE.len() - usize::from(options.template.is_some());
            for (source, derive) in OF_TEMPLATE.into_iter().take(ways) {
                let chosen = derive(&template, None)
                    .and_then(|frames| frames.into_frames(special.eos.as_deref()))
                    .and_then(|frames| usable(frames, tokenizer, thinking));
                match chosen {
                    Ok(frames) => {
                        let reason = reasons.into_iter().next();
                        let is_switched = template.has_thinking_switch()
                            || open_thought(&template_prompt(&template)).is_some();
                        return Ok(Self {
                            frames,
                            source,
                            reason,
                            thinking: if is_switched {
                                thinking
                            } else {
                                Thinking::Keep
                            },
                        });
                    }
                    Err(error) => reasons.push(reason(&error)),
                }
            }
            reasons.truncate(1);
        } else {
            reasons.push("the model has no chat template".to_owned());
        }
        if options.template.is_none() {
            for (source, frames) in [
                (
                    FrameSource::ChatMl,
                    TurnFrames::chatml(None).into_frames(None),
                ),
                (FrameSource::Text, plain_text(special)),
            ] {
                match frames.and_then(|frames| usable(frames, tokenizer, Thinking::Keep)) {
                    Ok(frames) => {
                        return Ok(Self {
                            frames,
                            source,
                            reason: reasons.into_iter().next(),
                            thinking: Thinking::Keep,
                        });
                    }
                    Err(error) => reasons.push(reason(&error)),
                }
            }
        }
        Err(AgentError::Config(format!(
            "turns cannot be framed: {}\nhint: `--template FILE` takes a chat template in Jinja",
            reasons.join("; ")
        )))
    }
}

/// The text after the first observation, where the policy writes; empty if the template cannot be rendered.
fn template_prompt(template: &ChatTemplate) -> String {
    const MARK: &str = "an observation";
    let messages = [Message::new(Role::User, MARK)];
    let text = template.render(&messages, true).unwrap_or_default();
    text.rsplit(MARK).next().unwrap_or_default().to_owned()
}

type Derive = fn(&ChatTemplate, Option<&str>) -> Result<TurnFrames, AgentError>;

/// The ways to use a chat template, the best first.
const OF_TEMPLATE: [(FrameSource, Derive); 3] = [
    (FrameSource::Template, TurnFrames::derive),
    (
        FrameSource::TemplateWithThoughts,
        TurnFrames::derive_with_thoughts,
    ),
    (FrameSource::AroundTurns, TurnFrames::derive_around_turns),
];

/// The reason in an error, without a hint.
fn reason(error: &AgentError) -> String {
    let text = match error {
        AgentError::Config(reason) | AgentError::Tokenizer(reason) => reason.clone(),
        other => other.to_string(),
    };
    match text.split_once("\nhint:") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

/// Closes the thought that the prompt opens if the policy should not think, and checks that the end of a completion is a
/// token.
fn usable(
    mut frames: Frames,
    tokenizer: &UnframedTokenizer,
    thinking: Thinking,
) -> Result<Frames, AgentError> {
    if thinking == Thinking::Off
        && let Some(close) = open_thought(&frames.answer)
    {
        frames.answer = format!("{}\n\n{close}\n\n", frames.answer.trim_end());
    }
    tokenizer.check_frames(&frames)?;
    Ok(frames)
}

/// The frames of a base model.
fn plain_text(special: &SpecialTokens) -> Result<Frames, AgentError> {
    let end = special.eos.clone().ok_or_else(|| {
        AgentError::Config("nothing ends a completion: there is no eos_token".into())
    })?;
    Ok(Frames {
        opening: special.bos.clone().unwrap_or_default(),
        answer: "\n\n> ".into(),
        end,
        between: "\n\n".into(),
        strips: true,
    })
}
