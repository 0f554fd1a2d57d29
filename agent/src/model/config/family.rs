//! The families of decoders, and what differs between them besides their sizes.
//!
//! A family is one row of [`FamilyTraits`], and the keys of `config.json` that only it has (`keys`). `docs/models.md` says how
//! to add one.

use kernels::elementwise::Activation;

/// The family of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// No biases, no scales (arXiv 2302.13971).
    Llama,
    /// Biases on queries, keys and values (arXiv 2407.10671).
    Qwen2,
    /// The queries and keys of each head are normalised (arXiv 2505.09388).
    Qwen3,
    /// A Llama with a window of attention (arXiv 2310.06825).
    Mistral,
    /// Norms on both sides of each block, GELU, most layers with a window and their own θ (arXiv 2503.19786).
    Gemma3,
    /// One matrix for queries, keys and values, and one for gate and up; only a part of each head may be rotated
    /// (arXiv 2404.14219, 2503.01743).
    Phi3,
    /// Norms after each block instead of before it, and of all queries and all keys together (arXiv 2501.00656).
    Olmo2,
    /// The same with windows, and a scaled rotary embedding only in the layers without (arXiv 2512.13961).
    Olmo3,
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
    /// The norms of queries and keys.
    pub(crate) query_norms: QueryNorms,
    /// The names of the norms of a layer.
    pub(crate) norms: LayerNorms<&'static str>,
    /// The activation if the file does not name it, and the key that names it.
    pub(crate) activation: Activation,
    pub(crate) activation_key: &'static str,
    /// ε of the norms if the file does not say so.
    pub(crate) epsilon: f64,
    /// Whether the output is tied to the embedding if the file does not say so.
    pub(crate) tied: bool,
    /// Whether a norm multiplies by 1 + its weight.
    pub(crate) norms_minus_one: bool,
    /// Whether queries, keys and values are one matrix in a checkpoint, and gate and up another
    /// ([`crate::model::weights::layout`]).
    pub(crate) joined: bool,
}

/// What the norms of queries and keys, before the rotary embedding, extend over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueryNorms {
    /// There are none.
    None,
    /// Over each head; all heads share the weight.
    Head,
    /// Over all heads together.
    All,
}

/// The norms of a layer, as names, numbers or tensors. `None` if the family has no norm at that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerNorms<T> {
    /// Of the input of attention.
    pub(crate) before_attention: Option<T>,
    /// Of what attention adds to the residual stream.
    pub(crate) after_attention: Option<T>,
    /// Of the input of the MLP.
    pub(crate) before_mlp: Option<T>,
    /// Of what the MLP adds to the residual stream.
    pub(crate) after_mlp: Option<T>,
}

impl<T> LayerNorms<T> {
    /// Applies a function to each norm.
    pub(crate) fn try_map<U, E>(
        self,
        mut function: impl FnMut(T) -> Result<U, E>,
    ) -> Result<LayerNorms<U>, E> {
        let mut at = |norm: Option<T>| norm.map(&mut function).transpose();
        Ok(LayerNorms {
            before_attention: at(self.before_attention)?,
            after_attention: at(self.after_attention)?,
            before_mlp: at(self.before_mlp)?,
            after_mlp: at(self.after_mlp)?,
        })
    }
}

/// A Llama: what the other rows differ from.
const PLAIN: FamilyTraits = FamilyTraits {
    name: "llama",
    architecture: "LlamaForCausalLM",
    biases: false,
    query_norms: QueryNorms::None,
    norms: LayerNorms {
        before_attention: Some("input_layernorm"),
        after_attention: None,
        before_mlp: Some("post_attention_layernorm"),
        after_mlp: None,
    },
    activation: Activation::Silu,
    activation_key: "hidden_act",
    epsilon: 1e-6,
    tied: false,
    norms_minus_one: false,
    joined: false,
};

const OLMO2: FamilyTraits = FamilyTraits {
    name: "olmo2",
    architecture: "Olmo2ForCausalLM",
    query_norms: QueryNorms::All,
    norms: LayerNorms {
        before_attention: None,
        after_attention: Some("post_attention_layernorm"),
        before_mlp: None,
        after_mlp: Some("post_feedforward_layernorm"),
    },
    epsilon: 1e-5,
    ..PLAIN
};

impl Family {
    /// All families.
    pub const ALL: [Self; 12] = [
        Self::Llama,
        Self::Qwen2,
        Self::Qwen3,
        Self::Mistral,
        Self::Gemma3,
        Self::Phi3,
        Self::Olmo2,
        Self::Olmo3,
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
                query_norms: QueryNorms::Head,
                ..PLAIN
            },
            Self::Mistral => FamilyTraits {
                name: "mistral",
                architecture: "MistralForCausalLM",
                ..PLAIN
            },
            Self::Gemma3 => FamilyTraits {
                name: "gemma3_text",
                architecture: "Gemma3ForCausalLM",
                query_norms: QueryNorms::Head,
                norms: LayerNorms {
                    before_attention: Some("input_layernorm"),
                    after_attention: Some("post_attention_layernorm"),
                    before_mlp: Some("pre_feedforward_layernorm"),
                    after_mlp: Some("post_feedforward_layernorm"),
                },
                activation: Activation::GeluTanh,
                activation_key: "hidden_activation",
                tied: true,
                norms_minus_one: true,
                ..PLAIN
            },
            Self::Phi3 => FamilyTraits {
                name: "phi3",
                architecture: "Phi3ForCausalLM",
                epsilon: 1e-5,
                joined: true,
                ..PLAIN
            },
            Self::Olmo2 => OLMO2,
            Self::Olmo3 => FamilyTraits {
                name: "olmo3",
                architecture: "Olmo3ForCausalLM",
                ..OLMO2
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
