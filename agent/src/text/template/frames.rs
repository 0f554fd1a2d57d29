//! The texts that a template puts around the observations and completions of an episode.

use crate::error::AgentError;
use crate::text::tokenizer::Frames;

/// The texts that a template puts around the observations and completions of an episode.
///
/// An episode is `opening`, then for each turn: the observation, `generation_prompt`, what the
/// policy writes up to and including `end_of_turn`, and `next_observation` if another turn follows.
/// If a completion was not written by the policy (a demonstration), the template puts
/// `before_completion` before it and `after_completion` after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnFrames {
    /// Before the first observation: the system prompt (the template's own if none is given) and
    /// the user's header.
    pub opening: String,
    /// Between an observation and what the policy writes.
    pub generation_prompt: String,
    /// Between the generation prompt and a completion's own text. Mostly empty; one blank in
    /// Llama 2.
    pub before_completion: String,
    /// Between a completion's own text and the end of the turn. Mostly empty; one blank in Llama 2.
    pub after_completion: String,
    /// The text that ends a completion. `None` if the template ends it with nothing (MiniCPM); then
    /// the tokenizer's own end must serve, which the template would leave out.
    pub end_of_turn: Option<String>,
    /// Between the end of a turn and the next observation.
    pub next_observation: String,
    /// Whether the template strips white space from both ends of texts. If so, the frames hold for
    /// stripped texts, and texts must be stripped before they are encoded.
    pub strips: bool,
}

const IM_END: &str = "<|im_end|>";

impl TurnFrames {
    /// The frames that a tokenizer needs. If the template ends a completion with nothing, `eos` ends
    /// it.
    ///
    /// # Errors
    /// If nothing ends a completion.
    pub fn into_frames(self, eos: Option<&str>) -> Result<Frames, AgentError> {
        let end = self.end_of_turn.as_deref().or(eos).map(str::to_owned);
        let end = end.ok_or_else(|| {
            AgentError::Config("nothing ends a completion: there is no eos_token".into())
        })?;
        Ok(Frames {
            opening: self.opening,
            answer: self.generation_prompt,
            end,
            between: self.next_observation,
            strips: self.strips,
        })
    }

    /// The frames of [`super::ChatTemplate::chatml`].
    #[must_use]
    pub fn chatml(system: Option<&str>) -> Self {
        let system = system.map_or(String::new(), |text| {
            format!("<|im_start|>system\n{text}{IM_END}\n")
        });
        Self {
            opening: format!("{system}<|im_start|>user\n"),
            generation_prompt: format!("{IM_END}\n<|im_start|>assistant\n"),
            before_completion: String::new(),
            after_completion: String::new(),
            end_of_turn: Some(IM_END.into()),
            next_observation: "\n<|im_start|>user\n".into(),
            strips: false,
        }
    }

    /// Everything between a completion's own text and the next observation.
    #[must_use]
    pub fn between_turns(&self) -> String {
        [
            &self.after_completion,
            self.end_of_turn.as_deref().unwrap_or(""),
            &self.next_observation,
        ]
        .concat()
    }
}
