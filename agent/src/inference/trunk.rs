//! The decoder trunk at play, on the CPU or on a device.

use super::cpu::HostTrunk;
use super::device::Backend;
use super::gpu::DeviceTrunk;
use super::kv_cache::Span;
use super::sample::{DrawRequest, Drawn, Sampling};
use crate::error::AgentError;
use crate::model::config::DecoderConfig;
use crate::model::weights::Weights;
use scenarios::{KvFormat, WeightFormat};

/// A decoder trunk for play: token ids in, hidden states out.
pub struct Trunk(TrunkBackend);

enum TrunkBackend {
    Host(Box<HostTrunk>),
    Device(Box<DeviceTrunk>),
}

impl Trunk {
    /// Takes the trunk's tensors out of `weights`.
    ///
    /// # Errors
    /// If a tensor is missing or its shape differs from `config`, or if the backend does not support
    /// `format`.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
        backend: &Backend,
    ) -> Result<Self, AgentError> {
        Ok(Self(match backend {
            Backend::Cpu => {
                let trunk = HostTrunk::from_weights(config, weights, format)?;
                TrunkBackend::Host(Box::new(trunk))
            }
            Backend::Burn(device) => {
                let trunk = DeviceTrunk::from_weights(config, weights, format, device)?;
                TrunkBackend::Device(Box::new(trunk))
            }
        }))
    }

    /// Also takes the output matrix, if it is not the embedding.
    ///
    /// # Errors
    /// If the matrix is missing or its shape differs from that of the embedding.
    pub(super) fn with_output(
        self,
        weights: &mut Weights,
        format: WeightFormat,
    ) -> Result<Self, AgentError> {
        Ok(Self(match self.0 {
            TrunkBackend::Host(trunk) => {
                TrunkBackend::Host(Box::new(trunk.with_output(weights, format)?))
            }
            TrunkBackend::Device(trunk) => {
                TrunkBackend::Device(Box::new(trunk.with_output(weights)?))
            }
        }))
    }

    /// Keeps keys and values in this number format.
    ///
    /// # Errors
    /// If the backend is a GPU and the format is not exact.
    pub(super) fn with_kv(self, kv: KvFormat) -> Result<Self, AgentError> {
        match self.0 {
            TrunkBackend::Host(trunk) => Ok(Self(TrunkBackend::Host(Box::new(trunk.with_kv(kv))))),
            TrunkBackend::Device(_) if kv != KvFormat::Exact => Err(AgentError::Config(format!(
                "keys and values in {}: only the CPU has them\n\
                 hint: on a GPU they have the format of the weights; choose --weights bf16",
                kv.name()
            ))),
            device => Ok(Self(device)),
        }
    }

    /// The configuration of this trunk.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        match &self.0 {
            TrunkBackend::Host(trunk) => trunk.config(),
            TrunkBackend::Device(trunk) => trunk.config(),
        }
    }

    /// Bytes of a KV cache for each token.
    #[must_use]
    pub fn bytes_per_token(&self) -> usize {
        match &self.0 {
            TrunkBackend::Host(trunk) => trunk.bytes_per_token(),
            TrunkBackend::Device(trunk) => trunk.bytes_per_token(),
        }
    }

    /// Bytes of all matrices, the output matrix included.
    pub(super) fn bytes(&self) -> usize {
        match &self.0 {
            TrunkBackend::Host(trunk) => trunk.bytes(),
            TrunkBackend::Device(trunk) => trunk.bytes(),
        }
    }

    /// Whether the CPU computes, on the threads of this process.
    #[must_use]
    pub fn is_on_host(&self) -> bool {
        matches!(self.0, TrunkBackend::Host(_))
    }

    /// Reads every span's tokens. Returns the hidden states after the last norm in the order of the
    /// spans, `[all new tokens, hidden]`.
    ///
    /// # Panics
    /// If a sequence becomes longer than `max_position_embeddings`, a token id is outside the
    /// vocabulary, or another trunk wrote a cache.
    pub fn extend(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        match &self.0 {
            TrunkBackend::Host(trunk) => {
                trunk.extend(&mut spans.iter_mut().map(Span::on_host).collect::<Vec<_>>())
            }
            TrunkBackend::Device(trunk) => trunk.extend(
                &mut spans
                    .iter_mut()
                    .map(|span| span.on_device(trunk))
                    .collect::<Vec<_>>(),
            ),
        }
    }

    /// Reads every span's tokens. Returns the hidden state of each span's last token,
    /// `[spans, hidden]`. If a prompt is long, a device then has much less to send back.
    ///
    /// # Panics
    /// As [`Trunk::extend`].
    pub fn last_states(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        match &self.0 {
            TrunkBackend::Host(_) => {
                let lengths: Vec<usize> = spans.iter().map(|span| span.tokens.len()).collect();
                last_rows(&self.extend(spans), &lengths, self.config().hidden_size)
            }
            TrunkBackend::Device(trunk) => trunk.last_states(
                &mut spans
                    .iter_mut()
                    .map(|span| span.on_device(trunk))
                    .collect::<Vec<_>>(),
            ),
        }
    }

    /// Log-probabilities of the next token, nats: `hidden` `[rows, hidden]` → `[rows, vocab]`.
    pub(super) fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        match &self.0 {
            TrunkBackend::Host(trunk) => trunk.logprobs(hidden),
            TrunkBackend::Device(trunk) => trunk.logprobs(hidden),
        }
    }

    /// Draws the next token of some rows of `hidden`, `[rows, hidden]`. A device draws tokens itself,
    /// except with top-k, top-p or min-p.
    pub(super) fn draw(
        &self,
        hidden: &[f32],
        requests: &[DrawRequest],
        sampling: Sampling,
    ) -> Vec<Drawn> {
        match &self.0 {
            TrunkBackend::Device(trunk) if !sampling.is_filtered() => {
                trunk.draw(hidden, requests, sampling.temperature)
            }
            _ => sampling.draw_all(&self.logprobs(hidden), self.config().vocab_size, requests),
        }
    }

    /// Rows of a device's cache pool that were ever used.
    #[cfg(test)]
    pub(super) fn pool_rows(&self) -> usize {
        match &self.0 {
            TrunkBackend::Host(_) => panic!("a trunk on the CPU has no pool"),
            TrunkBackend::Device(trunk) => trunk.pool_rows(),
        }
    }
}

/// The last row of each of several sequences that are adjacent in `rows`.
fn last_rows(rows: &[f32], lengths: &[usize], width: usize) -> Vec<f32> {
    let mut last = Vec::with_capacity(lengths.len() * width);
    let mut end = 0;
    for length in lengths {
        end += length;
        last.extend_from_slice(&rows[(end - 1) * width..end * width]);
    }
    last
}
