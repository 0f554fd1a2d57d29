//! Chat templates of Hugging Face models, and the texts that they put around turns.
//!
//! An episode only appends: text that is already in the context is never rendered or tokenized
//! again. A template fits if the rendering of `k` turns is a prefix of the rendering of `k + 1`
//! turns, and if each text is in it word for word. [`TurnFrames::derive`] checks this by rendering.
//! If a template does not fit (it drops earlier thoughts, or moves the system prompt along), the
//! error shows the difference, and [`ChosenFrames::choose`] takes the next best frames.
//!
//! This module does not depend on token ids. If a text contains the spelling of a frame, such as
//! `<|im_end|>`, it stays as it is, and the caller must encode it as ordinary text.

mod choice;
mod derive;
mod frames;
mod hugging_face;
mod message;
mod render;

pub use choice::{ChosenFrames, FrameOptions, FrameSource};
pub(crate) use derive::THOUGHTS;
pub use derive::open_thought;
pub use frames::TurnFrames;
pub use message::{Message, Role, SpecialTokens};
pub use render::ChatTemplate;
