//! The families of decoders, and what differs between them besides their sizes.
//!
//! A family is one row of [`FamilyTraits`], and the keys of `config.json` that only it has (`keys`). `docs/models.md` says how
//! to add one.

/// The family of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// No biases, no scales (arXiv 2302.13971).
    Llama,
    /// Biases on queries, keys and values (arXiv 2407.10671).
    Qwen2,
    /// The queries and keys of each head are normalised (arXiv 2505.09388).
    Qwen3,
    /// A Llama. Its window of attention limits the context (arXiv 2310.06825).
    Mistral,
    /// Some layers have no rotary embedding (arXiv 2501.18795).
    SmolLm3,
    /// Scaled embeddings, residual branches, scores and logits.
    Granite,
    /// Scaled embeddings, residual branches and logits (arXiv 2404.06395).
    MiniCpm,
    /// A Llama with [`crate::model::reading::config::ReadingConfig`].
    Hearth,
}

/// What differs between families besides sizes and scales.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FamilyTraits {
    /// Hugging Face's `model_type`.
    name: &'static str,
    /// The name of Hugging Face's class.
    pub(crate) architecture: &'static str,
    /// Whether queries, keys and values have biases.
    pub(crate) biases: bool,
    /// Whether the queries and keys of each head are normalised.
    pub(crate) head_norms: bool,
    /// Whether the output is tied to the embedding if the file does not say so.
    pub(crate) tied: bool,
}

/// A Llama: what the other rows differ from.
const PLAIN: FamilyTraits = FamilyTraits {
    name: "llama",
    architecture: "LlamaForCausalLM",
    biases: false,
    head_norms: false,
    tied: false,
};

impl Family {
    /// All families.
    pub const ALL: [Self; 8] = [
        Self::Llama,
        Self::Qwen2,
        Self::Qwen3,
        Self::Mistral,
        Self::SmolLm3,
        Self::Granite,
        Self::MiniCpm,
        Self::Hearth,
    ];

    pub(crate) fn traits(self) -> FamilyTraits {
        match self {
            Self::Llama => PLAIN,
            Self::Qwen2 => FamilyTraits {
                name: "qwen2",
                architecture: "Qwen2ForCausalLM",
                biases: true,
                ..PLAIN
            },
            Self::Qwen3 => FamilyTraits {
                name: "qwen3",
                architecture: "Qwen3ForCausalLM",
                head_norms: true,
                ..PLAIN
            },
            Self::Mistral => FamilyTraits {
                name: "mistral",
                architecture: "MistralForCausalLM",
                ..PLAIN
            },
            Self::SmolLm3 => FamilyTraits {
                name: "smollm3",
                architecture: "SmolLM3ForCausalLM",
                tied: true,
                ..PLAIN
            },
            Self::Granite => FamilyTraits {
                name: "granite",
                architecture: "GraniteForCausalLM",
                ..PLAIN
            },
            Self::MiniCpm => FamilyTraits {
                name: "minicpm",
                architecture: "MiniCPMForCausalLM",
                tied: true,
                ..PLAIN
            },
            Self::Hearth => FamilyTraits {
                name: "hearth",
                architecture: "HearthForCausalLM",
                ..PLAIN
            },
        }
    }

    /// Returns Hugging Face's `model_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.traits().name
    }

    /// Returns the names of all families, for messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

/// Constant factors inside a decoder. In a Llama all are 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Factor of the embeddings.
    pub embedding: f64,
    /// Factor of what a layer adds to the residual stream.
    pub residual: f64,
    /// Factor of the attention scores, besides 1/√head.
    pub attention: f64,
    /// Factor of the logits.
    pub logits: f64,
}

impl Default for Scales {
    fn default() -> Self {
        Self {
            embedding: 1.0,
            residual: 1.0,
            attention: 1.0,
            logits: 1.0,
        }
    }
}
