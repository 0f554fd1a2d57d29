//! Keys, values and tokens of the sequences that a decoder on the CPU has read.

use kernels::attention::{KvSegment, LayerKv, reserve};
use scenarios::KvFormat;

/// Tokens for which a cache reserves room at first.
pub(super) const FIRST_TOKENS: usize = 64;

/// Keys and values of the tokens that were read so far, layer by layer.
#[derive(Debug, Default)]
pub(in crate::inference) struct HostCache {
    pub(super) layers: Vec<LayerCache>,
    /// The token ids.
    pub(super) tokens: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct LayerCache {
    /// Of `length` tokens.
    pub(super) kv: LayerKv,
    /// The inputs of the convolutions, by place, `[length, channels]`.
    pub(super) convolved: [Vec<f32>; 4],
}

impl LayerCache {
    /// An empty cache in a number format.
    pub(super) fn new(format: KvFormat) -> Self {
        Self {
            kv: match format {
                KvFormat::Exact => LayerKv::default(),
                KvFormat::F16 => LayerKv::f16(),
            },
            convolved: Default::default(),
        }
    }

    /// The first `tokens` tokens.
    pub(super) fn segment(&self, tokens: usize) -> KvSegment<'_> {
        KvSegment {
            cache: &self.kv,
            tokens,
        }
    }
}

impl HostCache {
    /// Tokens that were read so far.
    pub(in crate::inference) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Appends the cache of a candidate that was read on top of this one.
    pub(in crate::inference) fn append(&mut self, tail: Self) {
        if self.layers.is_empty() {
            *self = tail;
            return;
        }
        for (layer, more) in self.layers.iter_mut().zip(tail.layers) {
            layer.kv.append(&more.kv);
            for (inputs, more) in layer.convolved.iter_mut().zip(&more.convolved) {
                append_values(inputs, more, 0);
            }
        }
        self.tokens.extend(tail.tokens);
    }
}

/// Appends values. The first allocation has room for `capacity` numbers.
pub(super) fn append_values(values: &mut Vec<f32>, more: &[f32], capacity: usize) {
    reserve(values, more.len(), capacity);
    values.extend_from_slice(more);
}

/// The first tokens of a cache that precede a span. The span only reads them.
#[derive(Clone, Copy)]
pub(in crate::inference) struct HostPrefix<'a> {
    pub(in crate::inference) cache: &'a HostCache,
    pub(in crate::inference) tokens: usize,
}

/// New tokens of one sequence.
pub(in crate::inference) struct HostSpan<'a> {
    pub(in crate::inference) tokens: &'a [u32],
    /// What precedes `cache`, in order.
    pub(in crate::inference) before: Vec<HostPrefix<'a>>,
    /// Grows by `tokens`.
    pub(in crate::inference) cache: &'a mut HostCache,
}

impl HostSpan<'_> {
    /// Position of the first new token.
    pub(super) fn start(&self) -> usize {
        self.before.iter().map(|part| part.tokens).sum::<usize>() + self.cache.len()
    }

    /// The token ids of the whole sequence, those of the span last.
    pub(super) fn sequence(&self) -> Vec<u32> {
        let mut sequence = Vec::new();
        for prefix in &self.before {
            sequence.extend_from_slice(&prefix.cache.tokens[..prefix.tokens]);
        }
        sequence.extend_from_slice(&self.cache.tokens);
        sequence.extend_from_slice(self.tokens);
        sequence
    }

    /// Up to `count` inputs of a convolution before the span's tokens, the latest last,
    /// `[inputs, channels]`.
    pub(super) fn earlier_inputs(
        &self,
        layer: usize,
        place: usize,
        count: usize,
        channels: usize,
    ) -> Vec<f32> {
        let own = &self.cache.layers[layer].convolved[place];
        let mut parts = vec![&own[own.len().saturating_sub(count * channels)..]];
        let mut missing = count - parts[0].len() / channels;
        for prefix in self.before.iter().rev() {
            if missing == 0 {
                break;
            }
            if prefix.tokens > 0 {
                let inputs = &prefix.cache.layers[layer].convolved[place];
                let first = prefix.tokens.saturating_sub(missing);
                missing -= prefix.tokens - first;
                parts.push(&inputs[first * channels..prefix.tokens * channels]);
            }
        }
        parts.reverse();
        parts.concat()
    }
}
