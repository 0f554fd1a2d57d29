//! The families of decoders, and what differs between them besides their sizes.

/// The family of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// No biases, no scales.
    Llama,
    /// Biases on queries, keys and values.
    Qwen2,
    /// Scaled embeddings, residual branches and logits.
    MiniCpm,
    /// A Llama with [`ReadingConfig`].
    Hearth,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::MiniCpm, Self::Hearth];

    /// Returns Hugging Face's `model_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::MiniCpm => "minicpm",
            Self::Hearth => "hearth",
        }
    }

    /// Returns the name of Hugging Face's class.
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::MiniCpm => "MiniCPMForCausalLM",
            Self::Hearth => "HearthForCausalLM",
        }
    }
}

/// MiniCPM's scales. In the other families all are 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Factor of the embeddings.
    pub embedding: f64,
    /// Factor of what a layer adds to the residual stream.
    pub residual: f64,
    /// Factor of the logits.
    pub logits: f64,
}

impl Default for Scales {
    fn default() -> Self {
        Self {
            embedding: 1.0,
            residual: 1.0,
            logits: 1.0,
        }
    }
}
