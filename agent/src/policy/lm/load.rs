//! How a language model is loaded: its networks, the format of their weights, and the cache budget.

use super::cache::{CacheBudget, PrefixCache};
use crate::error::AgentError;
use crate::inference::device::Backend;
use crate::inference::{PolicyInference, ValueInference};
use crate::model::folder::Model;
use crate::model::weights::Weights;
use crate::text::tokenizer::Tokenizer;
use scenarios::{KvFormat, Scorer, TextVersion, Thinking, WeightFormat};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Size of all KV caches if no token budget is given, bytes.
const DEFAULT_CACHE_BYTES: usize = 4 << 30;

/// Whether the value network of a model scores the episodes. Best-of-K by value and search need it;
/// it costs a second forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueUse {
    /// The value network scores every observation and candidate, if the model has one.
    Score,
    /// Only the policy is loaded.
    Skip,
}

/// How a model is held in memory. The options change memory and speed. Only `weights` and `kv` change the
/// results, and `backend` their rounding.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// Whether the value network is used.
    pub value_use: ValueUse,
    /// Number format of the matrices.
    pub weights: WeightFormat,
    /// Number format of keys and values.
    pub kv: KvFormat,
    /// Most tokens in the KV caches of all episodes. If `None`, as many as fit into 4 GiB.
    pub token_budget: Option<usize>,
    /// The inference backend.
    pub backend: Backend,
}

impl From<ValueUse> for LoadOptions {
    fn from(value_use: ValueUse) -> Self {
        Self {
            value_use,
            weights: WeightFormat::Exact,
            kv: KvFormat::Exact,
            token_budget: None,
            backend: Backend::Cpu,
        }
    }
}

/// A language model as a policy, with an optional value network and an optional reference policy.
pub struct LmPolicy {
    /// The tokenizer of the model.
    pub tokenizer: Tokenizer,
    /// The text versions of the games that the model was trained on, if its folder records them.
    pub text_versions: BTreeSet<TextVersion>,
    /// Whether the policy thinks, by its frames.
    pub thinking: Thinking,
    /// Hash of the chat template that replaced the model's own, if one did.
    pub template: Option<String>,
    pub(super) policy: PolicyInference,
    pub(super) value: Option<ValueInference>,
    pub(super) reference: Option<PolicyInference>,
    pub(super) name: String,
    pub(super) value_name: Option<String>,
    reference_name: Option<String>,
    pub(super) budget: CacheBudget,
    prefixes: Mutex<PrefixCache>,
}

impl LmPolicy {
    /// Builds the policy from a model, whose policy and value network have the same configuration.
    ///
    /// # Errors
    /// Returns an error if a tensor does not fit the configuration, if the tokenizer has more
    /// tokens than the embedding, if the token budget is too small for one episode, or if the
    /// backend does not support the weight format.
    pub fn new(model: Model, options: impl Into<LoadOptions>) -> Result<Self, AgentError> {
        Self::with_reference(model, None, options)
    }

    /// Builds the policy with a reference policy of any configuration, for log-ratios against it.
    /// The reference reads every token of every episode and candidate, so it needs the memory and
    /// about the time of one more network.
    ///
    /// # Errors
    /// As [`Self::new`], and if the reference has another tokenizer.
    pub fn with_reference(
        model: Model,
        reference: Option<Model>,
        options: impl Into<LoadOptions>,
    ) -> Result<Self, AgentError> {
        let LoadOptions {
            value_use,
            weights,
            kv,
            token_budget,
            backend,
        } = options.into();
        if reference
            .as_ref()
            .is_some_and(|reference| !reference.tokenizer.is_same(&model.tokenizer))
        {
            let reason = "the reference has another tokenizer than the policy, so their log-probabilities cannot be \
                          compared\nhint: use the model that the policy was trained from";
            return Err(AgentError::Config(reason.into()));
        }
        let Model {
            config,
            tokenizer,
            mut policy,
            value,
            text_versions,
            companions,
        } = model;
        tokenizer
            .check_rows(config.vocab_size)
            .map_err(AgentError::Tokenizer)?;
        let mut value = match value_use {
            ValueUse::Score => value,
            ValueUse::Skip => None,
        };
        let name = policy.hash();
        let value_name = value.as_ref().map(Weights::hash);
        let reference_name = reference.as_ref().map(|reference| reference.policy.hash());
        let reference = match reference {
            Some(mut model) => {
                let weights_of = &mut model.policy;
                let policy =
                    PolicyInference::from_weights(&model.config, weights_of, weights, &backend);
                Some(policy?.with_kv(kv)?)
            }
            None => None,
        };
        let value = match &mut value {
            Some(value) => {
                let value = ValueInference::from_weights(&config, value, weights, &backend)?;
                Some(value.with_kv(kv)?)
            }
            None => None,
        };
        let policy = PolicyInference::from_weights(&config, &mut policy, weights, &backend)?;
        let policy = policy.with_kv(kv)?;
        let networks = 1 + usize::from(value.is_some()) + usize::from(reference.is_some());
        let context = config.max_position_embeddings;
        let most = token_budget.unwrap_or(DEFAULT_CACHE_BYTES / policy.trunk.bytes_per_token());
        let least = networks * context;
        if token_budget.is_some() && most < least {
            return Err(AgentError::Config(format!(
                "a token budget of {most}: one episode may hold {least} (a context of {context} in {networks} network{})",
                if networks == 1 { "" } else { "s" }
            )));
        }
        Ok(Self {
            tokenizer,
            text_versions,
            thinking: companions.thinking,
            template: companions.template,
            policy,
            value,
            reference,
            name,
            value_name,
            reference_name,
            budget: CacheBudget::new(most.max(least)),
            prefixes: Mutex::default(),
        })
    }

    /// Returns whether a value network scores the episodes.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.value.is_some()
    }

    /// Returns the choices about the frames of turns that differ from those of the model folder, for the settings of a store;
    /// `None` if there are none.
    #[must_use]
    pub fn chosen_frames(&self) -> Option<String> {
        let thinking = (self.thinking != Thinking::Keep).then(|| self.thinking.name());
        match (&self.template, thinking) {
            (None, None) => None,
            (template, thinking) => Some(format!(
                "template {}, thinking {}",
                template.as_deref().unwrap_or("own"),
                thinking.unwrap_or("keep")
            )),
        }
    }

    /// Returns the hash of the weights of the reference policy, if there is one.
    #[must_use]
    pub fn reference_name(&self) -> Option<&str> {
        self.reference_name.as_deref()
    }

    /// Returns the scorers that can rank the candidates of best-of-K, given the networks that are
    /// loaded.
    #[must_use]
    pub fn scorers(&self) -> Vec<Scorer> {
        Scorer::ALL
            .into_iter()
            .filter(|scorer| match scorer {
                Scorer::AfterValue | Scorer::SoftValue => self.value.is_some(),
                Scorer::LogRatio => self.reference.is_some(),
                Scorer::Logprob
                | Scorer::Random
                | Scorer::Distinct
                | Scorer::Expert
                | Scorer::Oracle => true,
            })
            .collect()
    }

    /// Returns the number of tokens that fit into the context of the model and, if there is one, of
    /// the reference.
    #[must_use]
    pub fn context_limit(&self) -> usize {
        let own = context_of(&self.policy);
        self.reference
            .as_ref()
            .map_or(own, |reference| own.min(context_of(reference)))
    }

    /// Returns the number of tokens in the KV caches of all episodes now.
    #[must_use]
    pub fn tokens_held(&self) -> usize {
        self.budget.held()
    }

    /// Returns the number of networks that read an episode.
    pub(super) fn networks(&self) -> usize {
        1 + usize::from(self.value.is_some()) + usize::from(self.reference.is_some())
    }

    /// Returns the size of a hidden state of policy and value network.
    pub(super) fn width(&self) -> usize {
        self.policy.trunk.config().hidden_size
    }

    /// Locks the prefix cache.
    pub(super) fn prefixes(&self) -> MutexGuard<'_, PrefixCache> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn context_of(policy: &PolicyInference) -> usize {
    policy.trunk.config().max_position_embeddings
}
