//! The transformer that plays: the decoder of [`crate::decoder`] over plain vectors, with a key-value cache for each
//! episode that is kept from turn to turn, so that every token is read exactly once.
//!
//! Sequences of any lengths go through together as [`Span`]s without padding. A span may stand on a prefix that others
//! share: the K candidates of a turn read the episode's cache and write only their own. A row's numbers do not depend
//! on which other spans travel with it. Knows nothing of text, only token ids.

use crate::config::{DecoderConfig, OUTPUT, Scales};
use crate::error::AgentError;
use crate::kernel::{self, Matmul};
use crate::rope::rotary_table;
use crate::weights::{VALUE_HEAD, Weights, transposed};
use rand::{RngExt, rngs::StdRng};

/// Keys and values of the tokens read so far, layer by layer.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    length: usize,
}

#[derive(Debug, Clone, Default)]
struct LayerCache {
    /// `[length, kv_dim]`.
    keys: Vec<f32>,
    /// `[length, kv_dim]`.
    values: Vec<f32>,
}

impl KvCache {
    /// Tokens read so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends what a candidate read on top of this cache.
    pub fn append(&mut self, tail: KvCache) {
        if self.layers.is_empty() {
            self.layers.resize_with(tail.layers.len(), LayerCache::default);
        }
        for (layer, more) in self.layers.iter_mut().zip(tail.layers) {
            layer.keys.extend_from_slice(&more.keys);
            layer.values.extend_from_slice(&more.values);
        }
        self.length += tail.length;
    }
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Span<'a> {
    /// The tokens to read; at least one.
    pub tokens: &'a [u32],
    /// What stands before `cache` and is only read.
    pub prefix: Option<&'a KvCache>,
    /// What the sequence read itself; grows by `tokens`.
    pub cache: &'a mut KvCache,
}

struct LayerWeights {
    input_norm: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Of queries, keys and values; empty where the family has none.
    biases: [Vec<f32>; 3],
    o: Vec<f32>,
    post_norm: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

/// A decoder trunk for playing; matrices are `[in, out]`.
pub struct Trunk {
    config: DecoderConfig,
    embedding: Vec<f32>,
    layers: Vec<LayerWeights>,
    norm: Vec<f32>,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// [`Trunk::extend`] as a job for the widest vectors.
struct Extend<'a, 'b, 'c> {
    trunk: &'a Trunk,
    spans: &'b mut [Span<'c>],
}

impl pulp::NullaryFnOnce for Extend<'_, '_, '_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn call(self) -> Vec<f32> {
        self.trunk.extend_here(self.spans)
    }
}

/// Working memory of one forward pass.
struct Scratch {
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    mixed: Vec<f32>,
    projected: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    scores: Vec<f32>,
}

impl Trunk {
    /// Takes the trunk's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_weights(config: &DecoderConfig, weights: &Weights) -> Result<Self, AgentError> {
        config.check()?;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, kv) = (config.query_width(), config.kv_width());
        let layer = |index: usize| -> Result<LayerWeights, AgentError> {
            let vector = |part: &str| -> Result<Vec<f32>, AgentError> {
                Ok(weights.get(&format!("model.layers.{index}.{part}.weight"), &[hidden])?.to_vec())
            };
            let matrix = |part: &str, out: usize, input: usize| -> Result<Vec<f32>, AgentError> {
                let data = weights.get(&format!("model.layers.{index}.{part}.weight"), &[out, input])?;
                Ok(transposed(data, out, input))
            };
            let bias = |part: &str, size: usize| -> Result<Vec<f32>, AgentError> {
                if !config.has_biases() {
                    return Ok(Vec::new());
                }
                Ok(weights.get(&format!("model.layers.{index}.self_attn.{part}.bias"), &[size])?.to_vec())
            };
            Ok(LayerWeights {
                input_norm: vector("input_layernorm")?,
                q: matrix("self_attn.q_proj", queries, hidden)?,
                k: matrix("self_attn.k_proj", kv, hidden)?,
                v: matrix("self_attn.v_proj", kv, hidden)?,
                biases: [bias("q_proj", queries)?, bias("k_proj", kv)?, bias("v_proj", kv)?],
                o: matrix("self_attn.o_proj", hidden, queries)?,
                post_norm: vector("post_attention_layernorm")?,
                gate: matrix("mlp.gate_proj", inner, hidden)?,
                up: matrix("mlp.up_proj", inner, hidden)?,
                down: matrix("mlp.down_proj", hidden, inner)?,
            })
        };
        let (width, context) = (config.head_width(), config.max_position_embeddings);
        let (cosines, sines) = rotary_table(context, width, config.rope_theta, &config.rope_scaling);
        Ok(Self {
            config: config.clone(),
            embedding: weights.get("model.embed_tokens.weight", &[config.vocab_size, hidden])?.to_vec(),
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
            norm: weights.get("model.norm.weight", &[hidden])?.to_vec(),
            cosines,
            sines,
        })
    }

    /// The shape this trunk was built from.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Reads every span's tokens; returns the hidden states after the last norm, `[all new tokens, hidden]`, in span
    /// order.
    ///
    /// # Panics
    /// When a sequence outgrows `max_position_embeddings` or a token id the vocabulary.
    pub fn extend(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        kernel::widest(Extend { trunk: self, spans })
    }

    #[inline(always)]
    fn extend_here(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (wide, kv) = (self.config.query_width(), self.config.kv_width());
        let Scales { embedding, residual, .. } = self.config.scales;
        let epsilon = self.config.rms_norm_eps as f32;
        let mut stream: Vec<f32> = Vec::new();
        for token in spans.iter().flat_map(|span| span.tokens) {
            stream.extend_from_slice(&self.embedding[*token as usize * hidden..][..hidden]);
        }
        kernel::scale(&mut stream, embedding as f32);
        let rows = stream.len() / hidden;
        let mut work = Scratch {
            normed: vec![0.0; rows * hidden],
            queries: vec![0.0; rows * wide],
            keys: vec![0.0; rows * kv],
            values: vec![0.0; rows * kv],
            mixed: vec![0.0; rows * wide],
            projected: vec![0.0; rows * hidden],
            gate: vec![0.0; rows * inner],
            up: vec![0.0; rows * inner],
            scores: Vec::new(),
        };
        for span in spans.iter_mut() {
            span.cache.layers.resize_with(self.layers.len(), LayerCache::default);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            kernel::rms_norm(&stream, &layer.input_norm, epsilon, &mut work.normed);
            kernel::matmul(&work.normed, &layer.q, &mut work.queries, hidden, wide);
            kernel::matmul(&work.normed, &layer.k, &mut work.keys, hidden, kv);
            kernel::matmul(&work.normed, &layer.v, &mut work.values, hidden, kv);
            kernel::add_to_rows(&mut work.queries, &layer.biases[0]);
            kernel::add_to_rows(&mut work.keys, &layer.biases[1]);
            kernel::add_to_rows(&mut work.values, &layer.biases[2]);
            self.attend(index, spans, &mut work);
            kernel::matmul(&work.mixed, &layer.o, &mut work.projected, wide, hidden);
            kernel::scale(&mut work.projected, residual as f32);
            kernel::add(&mut stream, &work.projected);
            kernel::rms_norm(&stream, &layer.post_norm, epsilon, &mut work.normed);
            kernel::matmul(&work.normed, &layer.gate, &mut work.gate, hidden, inner);
            kernel::matmul(&work.normed, &layer.up, &mut work.up, hidden, inner);
            kernel::swiglu(&mut work.gate, &work.up);
            kernel::matmul(&work.gate, &layer.down, &mut work.projected, inner, hidden);
            kernel::scale(&mut work.projected, residual as f32);
            kernel::add(&mut stream, &work.projected);
        }
        for span in spans.iter_mut() {
            span.cache.length += span.tokens.len();
        }
        kernel::rms_norm(&stream, &self.norm, epsilon, &mut work.normed);
        work.normed
    }

    /// Attention of every new token over its own sequence; fills `work.mixed`.
    #[inline(always)]
    fn attend(&self, layer: usize, spans: &mut [Span<'_>], work: &mut Scratch) {
        let (wide, kv, head) = (self.config.query_width(), self.config.kv_width(), self.config.head_width());
        let group = self.config.num_attention_heads / self.config.num_key_value_heads;
        let scale = 1.0 / (head as f32).sqrt();
        let mut row = 0;
        for span in spans.iter_mut() {
            let before = span.prefix.map_or(0, KvCache::len);
            let first = before + span.cache.length;
            for offset in 0..span.tokens.len() {
                self.rotate(&mut work.queries[(row + offset) * wide..][..wide], first + offset);
                self.rotate(&mut work.keys[(row + offset) * kv..][..kv], first + offset);
            }
            let count = span.tokens.len() * kv;
            let own = &mut span.cache.layers[layer];
            own.keys.extend_from_slice(&work.keys[row * kv..][..count]);
            own.values.extend_from_slice(&work.values[row * kv..][..count]);
            let shared = span.prefix.and_then(|prefix| prefix.layers.get(layer));
            let shared_keys = shared.map_or(&[][..], |shared| &shared.keys);
            let shared_values = shared.map_or(&[][..], |shared| &shared.values);
            for offset in 0..span.tokens.len() {
                let seen = span.cache.length + offset + 1;
                for index in 0..self.config.num_attention_heads {
                    let at = (row + offset) * wide + index * head;
                    let column = index / group * head;
                    let query = &work.queries[at..][..head];
                    work.scores.resize(before + seen, 0.0);
                    let (old, new) = work.scores.split_at_mut(before);
                    kernel::score(query, shared_keys, kv, column, scale, old);
                    kernel::score(query, &own.keys, kv, column, scale, new);
                    kernel::softmax(&mut work.scores);
                    let mixed = &mut work.mixed[at..][..head];
                    mixed.fill(0.0);
                    kernel::mix(&work.scores[..before], shared_values, kv, column, mixed);
                    kernel::mix(&work.scores[before..], &own.values, kv, column, mixed);
                }
            }
            row += span.tokens.len();
        }
    }

    /// Rotary embedding of all heads of one row.
    #[inline(always)]
    fn rotate(&self, row: &mut [f32], position: usize) {
        let head = self.config.head_width();
        let half = head / 2;
        assert!(position < self.config.max_position_embeddings, "position {position} is outside the context");
        let cosines = &self.cosines[position * head..][..half];
        let sines = &self.sines[position * head..][..half];
        for part in row.chunks_exact_mut(head) {
            let (low, high) = part.split_at_mut(half);
            for d in 0..half {
                let (a, b) = (low[d], high[d]);
                low[d] = a * cosines[d] - b * sines[d];
                high[d] = b * cosines[d] + a * sines[d];
            }
        }
    }
}

/// The policy for playing.
pub struct PolicyEngine {
    /// The decoder.
    pub trunk: Trunk,
    /// The output matrix or the embedding, transposed: `[hidden, vocab]`.
    output: Vec<f32>,
}

impl PolicyEngine {
    /// Builds the engine from host weights.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_weights(config: &DecoderConfig, weights: &Weights) -> Result<Self, AgentError> {
        let trunk = Trunk::from_weights(config, weights)?;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let matrix =
            if config.tie_word_embeddings { &trunk.embedding } else { weights.get(OUTPUT, &[vocab, hidden])? };
        let output = transposed(matrix, vocab, hidden);
        Ok(Self { trunk, output })
    }

    /// Log-probabilities of the next token, nats.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden]` → `[rows, vocab]`.
    #[must_use]
    pub fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        let (width, vocab) = (self.trunk.config.hidden_size, self.trunk.config.vocab_size);
        let mut logits = vec![0.0; hidden.len() / width * vocab];
        kernel::widest(Matmul { x: hidden, w: &self.output, y: &mut logits, inner: width, columns: vocab });
        let scale = self.trunk.config.scales.logits as f32;
        for row in logits.chunks_exact_mut(vocab) {
            if scale != 1.0 {
                row.iter_mut().for_each(|logit| *logit *= scale);
            }
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = row.iter().map(|logit| f64::from(logit - highest).exp()).sum();
            let normalizer = highest + total.ln() as f32;
            row.iter_mut().for_each(|logit| *logit -= normalizer);
        }
        logits
    }
}

/// The value network for playing.
pub struct ValueEngine {
    /// The trunk.
    pub trunk: Trunk,
    head: Vec<f32>,
}

impl ValueEngine {
    /// Builds the engine from host weights with a value head.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_weights(config: &DecoderConfig, weights: &Weights) -> Result<Self, AgentError> {
        let head = weights.get(VALUE_HEAD, &[1, config.hidden_size])?.to_vec();
        Ok(Self { trunk: Trunk::from_weights(config, weights)?, head })
    }

    /// The value at one hidden state `[hidden]`, reward units.
    #[must_use]
    pub fn value(&self, hidden: &[f32]) -> f32 {
        let mut value = [0.0];
        kernel::widest(Matmul { x: hidden, w: &self.head, y: &mut value, inner: self.head.len(), columns: 1 });
        value[0]
    }
}

/// Draws a token from log-probabilities `[vocab]` at a temperature; 0 takes the best (the lowest id of equals).
pub fn sample(logprobs: &[f32], temperature: f32, rng: &mut StdRng) -> u32 {
    let best = || {
        let better = |best: usize, id: usize| if logprobs[id] > logprobs[best] { id } else { best };
        (0..logprobs.len()).fold(0, better) as u32
    };
    if temperature <= 0.0 {
        return best();
    }
    let highest = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logprob: f32| f64::from((logprob - highest) / temperature).exp();
    let total: f64 = logprobs.iter().map(|l| weight(*l)).sum();
    let mut left = rng.random::<f64>() * total;
    for (id, logprob) in logprobs.iter().enumerate() {
        left -= weight(*logprob);
        if left < 0.0 {
            return id as u32;
        }
    }
    best()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Family;
    use crate::decoder::{Decoder, ValueNetwork};
    use crate::rope::RopeScaling;
    use crate::weights::tests::tiny_config;
    use burn::tensor::{Device, Int, Tensor, TensorData};
    use rand::SeedableRng;

    const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 36];

    /// Every family, and every way in which one departs from the plain Llama.
    fn configs() -> Vec<DecoderConfig> {
        let llama = tiny_config();
        let scales = Scales { embedding: 3.0, residual: 0.7, logits: 0.25 };
        let rope_scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 16.0 };
        vec![
            DecoderConfig { family: Family::Qwen2, tie_word_embeddings: false, ..llama.clone() },
            DecoderConfig { family: Family::MiniCpm, scales, ..llama.clone() },
            DecoderConfig { head_dim: Some(10), rope_scaling, ..llama.clone() },
            llama,
        ]
    }

    /// Weights of which every one matters.
    fn noise(config: &DecoderConfig) -> Weights {
        let mut weights = Weights::random(config, 1);
        for (name, tensor) in &mut weights.0 {
            if name.ends_with("bias") || name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
                tensor.data.iter_mut().enumerate().for_each(|(i, w)| *w = (i as f32 * 1.7).sin() / 4.0);
            }
        }
        weights
    }

    fn on_burn(tokens: &[u32]) -> Tensor<2, Int> {
        let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
        Tensor::from_data(TensorData::new(ids, [1, tokens.len()]), &Device::flex())
    }

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() < 2e-5, "{x} and {y}");
        }
    }

    /// Playing and learning compute the same log-probabilities.
    #[test]
    fn the_engine_equals_the_decoder() {
        for config in configs() {
            let weights = noise(&config);
            let engine = PolicyEngine::from_weights(&config, &weights).expect("builds");
            let decoder = Decoder::from_weights(&config, &weights, &Device::flex()).expect("builds");
            assert_eq!(decoder.to_weights(), weights);
            let mut cache = KvCache::default();
            let hidden = engine.trunk.extend(&mut [Span { tokens: &TOKENS, prefix: None, cache: &mut cache }]);
            let ours = engine.logprobs(&hidden);
            let states = decoder.hidden(on_burn(&TOKENS)).reshape([TOKENS.len(), config.hidden_size]);
            let theirs = burn::tensor::activation::log_softmax(decoder.logits(states), 1);
            close(&ours, &theirs.into_data().try_to_vec::<f32>().expect("f32"));
        }
    }

    #[test]
    fn the_value_engine_equals_the_value_network() {
        let config = tiny_config();
        let mut weights = Weights::random(&config, 1).with_zero_value_head(&config);
        let head = weights.0.get_mut(VALUE_HEAD).expect("a head");
        head.data.iter_mut().enumerate().for_each(|(i, w)| *w = (i as f32).sin());
        let engine = ValueEngine::from_weights(&config, &weights).expect("builds");
        let network = ValueNetwork::from_weights(&config, &weights, &Device::flex()).expect("builds");
        assert_eq!(network.to_weights(), weights);
        let mut cache = KvCache::default();
        let hidden = engine.trunk.extend(&mut [Span { tokens: &TOKENS, prefix: None, cache: &mut cache }]);
        let ours: Vec<f32> = hidden.chunks_exact(config.hidden_size).map(|h| engine.value(h)).collect();
        close(&ours, &network.values(on_burn(&TOKENS)).into_data().try_to_vec::<f32>().expect("f32"));
    }

    /// One call, token by token, on a shared prefix, or in company: the same bits.
    #[test]
    fn cutting_a_sequence_changes_no_bit() {
        let config = tiny_config();
        let trunk = Trunk::from_weights(&config, &Weights::random(&config, 1)).expect("builds");
        let mut whole_cache = KvCache::default();
        let whole = trunk.extend(&mut [Span { tokens: &TOKENS, prefix: None, cache: &mut whole_cache }]);
        let mut stepped = Vec::new();
        let mut cache = KvCache::default();
        for token in &TOKENS {
            let one = std::slice::from_ref(token);
            stepped.extend(trunk.extend(&mut [Span { tokens: one, prefix: None, cache: &mut cache }]));
        }
        assert_eq!(whole, stepped);
        let (mut prefix, mut tail, mut other) = (KvCache::default(), KvCache::default(), KvCache::default());
        trunk.extend(&mut [Span { tokens: &TOKENS[..4], prefix: None, cache: &mut prefix }]);
        let together = trunk.extend(&mut [
            Span { tokens: &[7, 8, 9], prefix: None, cache: &mut other },
            Span { tokens: &TOKENS[4..], prefix: Some(&prefix), cache: &mut tail },
        ]);
        assert_eq!(whole[4 * config.hidden_size..], together[3 * config.hidden_size..]);
        prefix.append(tail);
        assert_eq!(prefix.layers[1].keys, whole_cache.layers[1].keys);
    }

    #[test]
    fn sampling_follows_the_probabilities() {
        let logprobs = [0.7_f32.ln(), 0.2_f32.ln(), 0.1_f32.ln()];
        let mut rng = StdRng::seed_from_u64(5);
        let mut counts = [0; 3];
        (0..20_000).for_each(|_| counts[sample(&logprobs, 1.0, &mut rng) as usize] += 1);
        let expected = [14_000, 4_000, 2_000];
        assert!(counts.iter().zip(expected).all(|(c, e): (&i32, i32)| (c - e).abs() < 300), "{counts:?}");
        assert_eq!(sample(&[-2.0, -1.0, -1.0], 0.0, &mut rng), 1);
    }
}
