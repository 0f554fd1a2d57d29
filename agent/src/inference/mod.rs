//! The transformer that plays: the decoder of [`crate::model::decoder`] with a key-value cache for each episode that is kept
//! from turn to turn, so that every token is read exactly once.
//!
//! Sequences of any lengths go through together as [`Span`]s without padding. A span may stand on caches that others
//! share: the K candidates of a turn read the episode's cache and write only their own, and episodes that open with the
//! same words share those. Knows nothing of text, only token ids.
//!
//! Two engines stand behind these types: `host`, which is our own and for the CPU, and `device`, which is on burn and for
//! a GPU. On the CPU a row's numbers do not depend on which other spans travel with it, on how a sequence was cut, or on
//! the number of threads. On a device they do not either, but for rounding: a product of other shapes may be summed in
//! another order.

mod cpu;
pub mod device;
mod gpu;
mod layer;
pub mod limits;
mod pool;
pub mod sample;

use crate::error::AgentError;
use crate::inference::device::Backend;
use crate::model::config::DecoderConfig;
use crate::model::weights::{VALUE_HEAD, Weights};
use scenarios::WeightFormat;

/// Runs a job that hands out work again and again, as passes do, on one of the threads that take it: from elsewhere each
/// handing out would wake them anew.
pub fn on_all_threads<R: Send>(job: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| job())
}

/// Keys and values of the tokens read so far. It belongs to the trunk that first writes to it; its memory is free again
/// when it is dropped.
#[derive(Debug, Default)]
pub struct KvCache(Held);

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Host(cpu::KvCache),
    Device(pool::Rows),
}

impl KvCache {
    /// Tokens read so far.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::Nothing => 0,
            Held::Host(cache) => cache.len(),
            Held::Device(rows) => rows.len(),
        }
    }

    /// Whether nothing was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends what a candidate read on top of this cache.
    ///
    /// # Panics
    /// When another trunk read it.
    pub fn append(&mut self, tail: Self) {
        match (&mut self.0, tail.0) {
            (_, Held::Nothing) => {}
            (Held::Host(cache), Held::Host(tail)) => cache.append(tail),
            (Held::Device(rows), Held::Device(tail)) => rows.append(tail),
            (held @ Held::Nothing, tail) => *held = tail,
            _ => panic!("{FOREIGN}"),
        }
    }

    /// The whole of it, to stand before a span.
    #[must_use]
    pub fn whole(&self) -> Part<'_> {
        Part {
            cache: self,
            tokens: self.len(),
        }
    }
}

const FOREIGN: &str = "the cache belongs to another trunk";

/// The first tokens of a cache that stands before a span, and is only read.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The cache.
    pub cache: &'a KvCache,
    /// How many of its tokens.
    pub tokens: usize,
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Span<'a> {
    /// The tokens to read; at least one.
    pub tokens: &'a [u32],
    /// What stands before `cache`, in order.
    pub before: Vec<Part<'a>>,
    /// What the sequence read itself; grows by `tokens`.
    pub cache: &'a mut KvCache,
}

impl<'a> Span<'a> {
    /// A span with nothing before its own cache.
    pub fn new(tokens: &'a [u32], cache: &'a mut KvCache) -> Self {
        Self {
            tokens,
            before: Vec::new(),
            cache,
        }
    }

    fn on_host(&mut self) -> cpu::Span<'_> {
        let before = self.before.iter().filter_map(|part| match &part.cache.0 {
            Held::Nothing => None,
            Held::Host(cache) => Some(cpu::Part {
                cache,
                tokens: part.tokens,
            }),
            Held::Device(_) => panic!("{FOREIGN}"),
        });
        let before = before.collect();
        if self.cache.is_empty() {
            self.cache.0 = Held::Host(cpu::KvCache::default());
        }
        let Held::Host(cache) = &mut self.cache.0 else {
            panic!("{FOREIGN}")
        };
        cpu::Span {
            tokens: self.tokens,
            before,
            cache,
        }
    }

    fn on_device(&mut self, trunk: &gpu::Trunk) -> gpu::Span<'_> {
        let before = self.before.iter().filter_map(|part| match &part.cache.0 {
            Held::Nothing => None,
            Held::Device(rows) => Some(&rows.numbers()[..part.tokens]),
            Held::Host(_) => panic!("{FOREIGN}"),
        });
        let before = before.collect();
        if self.cache.is_empty() {
            self.cache.0 = Held::Device(trunk.no_rows());
        }
        let Held::Device(own) = &mut self.cache.0 else {
            panic!("{FOREIGN}")
        };
        gpu::Span {
            tokens: self.tokens,
            before,
            own,
        }
    }
}

/// A decoder trunk for playing.
pub struct Trunk(At);

enum At {
    Host(Box<cpu::Trunk>),
    Device(Box<gpu::Trunk>),
}

impl Trunk {
    /// Takes the trunk's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says, or the engine has no such `format`.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
        engine: &Backend,
    ) -> Result<Self, AgentError> {
        Ok(Self(match engine {
            Backend::Cpu => At::Host(Box::new(cpu::Trunk::from_weights(config, weights, format)?)),
            Backend::Burn(device) => At::Device(Box::new(gpu::Trunk::from_weights(
                config, weights, format, device,
            )?)),
        }))
    }

    /// The same with the matrix of the logits, where that is not the embedding.
    fn with_output(self, weights: &mut Weights, format: WeightFormat) -> Result<Self, AgentError> {
        Ok(Self(match self.0 {
            At::Host(trunk) => At::Host(Box::new(trunk.with_output(weights, format)?)),
            At::Device(trunk) => At::Device(Box::new(trunk.with_output(weights)?)),
        }))
    }

    /// The shape this trunk was built from.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        match &self.0 {
            At::Host(trunk) => trunk.config(),
            At::Device(trunk) => trunk.config(),
        }
    }

    /// Bytes of a cache for each token.
    #[must_use]
    pub fn bytes_per_token(&self) -> usize {
        match &self.0 {
            At::Host(trunk) => trunk.bytes_per_token(),
            At::Device(trunk) => trunk.bytes_per_token(),
        }
    }

    /// Whether the CPU reads, on the threads of the process.
    #[must_use]
    pub fn is_on_host(&self) -> bool {
        matches!(self.0, At::Host(_))
    }

    /// Reads every span's tokens; returns the hidden states after the last norm, `[all new tokens, hidden]`, in span
    /// order.
    ///
    /// # Panics
    /// When a sequence outgrows `max_position_embeddings`, a token id the vocabulary, or a cache is another trunk's.
    pub fn extend(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        match &self.0 {
            At::Host(trunk) => {
                trunk.extend(&mut spans.iter_mut().map(Span::on_host).collect::<Vec<_>>())
            }
            At::Device(trunk) => trunk.extend(
                &mut spans
                    .iter_mut()
                    .map(|s| s.on_device(trunk))
                    .collect::<Vec<_>>(),
            ),
        }
    }

    /// Reads every span's tokens; returns the hidden state of each one's last token alone, `[spans, hidden]`: what a
    /// device has to send back of a long prompt.
    ///
    /// # Panics
    /// As [`Trunk::extend`].
    pub fn last_states(&self, spans: &mut [Span<'_>]) -> Vec<f32> {
        match &self.0 {
            At::Host(_) => {
                let lengths: Vec<usize> = spans.iter().map(|span| span.tokens.len()).collect();
                last_rows(&self.extend(spans), lengths, self.config().hidden_size)
            }
            At::Device(trunk) => trunk.last_states(
                &mut spans
                    .iter_mut()
                    .map(|span| span.on_device(trunk))
                    .collect::<Vec<_>>(),
            ),
        }
    }
}

/// The last row of each of several sequences that lie one after the other in `rows`.
fn last_rows(rows: &[f32], lengths: Vec<usize>, width: usize) -> Vec<f32> {
    let ends = lengths.into_iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    ends.flat_map(|end| &rows[(end - 1) * width..end * width])
        .copied()
        .collect()
}

/// The policy for playing.
pub struct PolicyInference {
    /// The decoder.
    pub trunk: Trunk,
}

impl PolicyInference {
    /// Takes the policy's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says, or the engine has no such `format`.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
        engine: &Backend,
    ) -> Result<Self, AgentError> {
        Ok(Self {
            trunk: Trunk::from_weights(config, weights, format, engine)?
                .with_output(weights, format)?,
        })
    }

    /// Bytes that writing one token reads: every matrix once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.trunk.0 {
            At::Host(trunk) => trunk.bytes(),
            At::Device(trunk) => trunk.bytes(),
        }
    }

    /// Log-probabilities of the next token, nats.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden]` → `[rows, vocab]`.
    #[must_use]
    pub fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        match &self.trunk.0 {
            At::Host(trunk) => trunk.logprobs(hidden),
            At::Device(trunk) => trunk.logprobs(hidden),
        }
    }
}

/// The value network for playing.
pub struct ValueInference {
    /// The trunk.
    pub trunk: Trunk,
    head: Vec<f32>,
}

impl ValueInference {
    /// Takes the value network's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says, or the engine has no such `format`.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &mut Weights,
        format: WeightFormat,
        engine: &Backend,
    ) -> Result<Self, AgentError> {
        let head = weights.take(VALUE_HEAD, &[1, config.hidden_size])?;
        Ok(Self {
            trunk: Trunk::from_weights(config, weights, format, engine)?,
            head,
        })
    }

    /// The value at one hidden state `[hidden]`, reward units.
    #[must_use]
    pub fn value(&self, hidden: &[f32]) -> f32 {
        hidden
            .iter()
            .zip(&self.head)
            .fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{Family, Scales};
    use crate::model::decoder::{Decoder, ValueNetwork};
    use crate::model::rope::RopeScaling;
    use crate::model::weights::tests::tiny_config;
    use burn::tensor::{Device, Int, Tensor, TensorData, activation};

    const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 36];

    /// Our own engine, and burn's where every test has it.
    fn engines() -> [Backend; 2] {
        [Backend::Cpu, Backend::Burn(Device::flex())]
    }

    /// Every family, and every way in which one departs from the plain Llama.
    fn configs() -> Vec<DecoderConfig> {
        let llama = tiny_config();
        let scales = Scales {
            embedding: 3.0,
            residual: 0.7,
            logits: 0.25,
        };
        let rope_scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 16.0,
        };
        vec![
            DecoderConfig {
                family: Family::Qwen2,
                tie_word_embeddings: false,
                ..llama.clone()
            },
            DecoderConfig {
                family: Family::MiniCpm,
                scales,
                ..llama.clone()
            },
            DecoderConfig {
                head_dim: Some(10),
                rope_scaling,
                ..llama.clone()
            },
            llama,
        ]
    }

    /// Weights of which every one matters.
    fn noise(config: &DecoderConfig) -> Weights {
        let mut weights = Weights::random(config, 1);
        for (name, tensor) in &mut weights.0 {
            if name.ends_with("bias")
                || name.ends_with("o_proj.weight")
                || name.ends_with("down_proj.weight")
            {
                tensor
                    .data
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, w)| *w = (i as f32 * 1.7).sin() / 4.0);
            }
        }
        weights
    }

    fn policy(config: &DecoderConfig, format: WeightFormat, engine: &Backend) -> PolicyInference {
        PolicyInference::from_weights(config, &mut noise(config), format, engine).expect("builds")
    }

    fn trunk(config: &DecoderConfig) -> Trunk {
        policy(config, WeightFormat::Exact, &Backend::Burn(Device::flex())).trunk
    }

    fn on_burn(tokens: &[u32]) -> Tensor<2, Int> {
        let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
        Tensor::from_data(TensorData::new(ids, [1, tokens.len()]), &Device::flex())
    }

    #[track_caller]
    fn close(a: &[f32], b: &[f32], tolerance: f32) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() < tolerance, "{x} and {y}");
        }
    }

    /// Playing, on either engine, and learning compute the same log-probabilities.
    #[test]
    fn the_engines_equal_the_decoder() {
        for config in configs() {
            let weights = noise(&config);
            let decoder =
                Decoder::from_weights(&config, &weights, &Device::flex()).expect("builds");
            assert_eq!(decoder.to_weights(), weights);
            let states = decoder
                .hidden(on_burn(&TOKENS))
                .reshape([TOKENS.len(), config.hidden_size]);
            let theirs = activation::log_softmax(decoder.logits(states), 1).into_data();
            for engine in engines() {
                let engine = policy(&config, WeightFormat::Exact, &engine);
                let hidden = engine
                    .trunk
                    .extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
                close(
                    &engine.logprobs(&hidden),
                    &theirs.clone().try_to_vec::<f32>().expect("f32"),
                    2e-5,
                );
            }
        }
    }

    #[test]
    fn the_value_engines_equal_the_value_network() {
        let config = tiny_config();
        let mut weights = Weights::random(&config, 1).with_zero_value_head(&config);
        let head = weights.0.get_mut(VALUE_HEAD).expect("a head");
        head.data
            .iter_mut()
            .enumerate()
            .for_each(|(i, w)| *w = (i as f32).sin());
        let network =
            ValueNetwork::from_weights(&config, &weights, &Device::flex()).expect("builds");
        assert_eq!(network.to_weights(), weights);
        let theirs = network
            .values(on_burn(&TOKENS))
            .into_data()
            .try_to_vec::<f32>()
            .expect("f32");
        for engine in engines() {
            let format = WeightFormat::Exact;
            let engine =
                ValueInference::from_weights(&config, &mut weights.clone(), format, &engine)
                    .expect("builds");
            let hidden = engine
                .trunk
                .extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
            let ours: Vec<f32> = hidden
                .chunks_exact(config.hidden_size)
                .map(|h| engine.value(h))
                .collect();
            close(&ours, &theirs, 2e-5);
        }
    }

    /// The last state is the last row of all, whatever the lengths.
    #[test]
    fn last_states_are_the_last_rows() {
        let config = tiny_config();
        for engine in engines() {
            let trunk = policy(&config, WeightFormat::Exact, &engine).trunk;
            let read =
                |tokens: &[u32]| trunk.extend(&mut [Span::new(tokens, &mut KvCache::default())]);
            let (long, short) = (read(&TOKENS), read(&TOKENS[..2]));
            let (mut one, mut two) = (KvCache::default(), KvCache::default());
            let last = trunk.last_states(&mut [
                Span::new(&TOKENS, &mut one),
                Span::new(&TOKENS[..2], &mut two),
            ]);
            let width = config.hidden_size;
            close(&last, &[&long[8 * width..], &short[width..]].concat(), 1e-5);
        }
    }

    /// One call, token by token, on a shared prefix, or in company of spans of other lengths: the same numbers, to
    /// rounding on a device, to the bit on the CPU (its own test).
    #[test]
    fn cutting_a_sequence_changes_nothing_on_a_device() {
        for config in configs() {
            let (trunk, width) = (trunk(&config), config.hidden_size);
            let whole = trunk.extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
            let mut cache = KvCache::default();
            let mut step = |token: &u32| trunk.extend(&mut [Span::new(&[*token], &mut cache)]);
            close(
                &TOKENS.iter().flat_map(&mut step).collect::<Vec<f32>>(),
                &whole,
                1e-5,
            );

            let (mut prefix, mut tail, mut long) =
                (KvCache::default(), KvCache::default(), KvCache::default());
            trunk.extend(&mut [Span::new(&TOKENS[..4], &mut prefix)]);
            let (crowd, mut alone) = ([7; 33], [KvCache::default(), KvCache::default()]);
            let [one, two] = &mut alone;
            let together = trunk.extend(&mut [
                Span::new(&[7], one),
                Span {
                    tokens: &TOKENS[4..8],
                    before: vec![prefix.whole()],
                    cache: &mut tail,
                },
                Span::new(&crowd, &mut long),
                Span::new(&TOKENS[..1], two),
            ]);
            close(
                &together[width..5 * width],
                &whole[4 * width..8 * width],
                1e-5,
            );
            close(&together[38 * width..], &whole[..width], 1e-5);
            prefix.append(tail);
            assert_eq!(prefix.len(), 8);
            close(
                &trunk.extend(&mut [Span::new(&TOKENS[8..], &mut prefix)]),
                &whole[8 * width..],
                1e-5,
            );
        }
    }

    /// Two candidates stand on the first six of eight tokens that another read, and see neither the rest nor each other.
    #[test]
    fn a_part_of_a_cache_is_shared() {
        let config = tiny_config();
        let (trunk, width) = (trunk(&config), config.hidden_size);
        let whole = trunk.extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
        let mut opening = KvCache::default();
        trunk.extend(&mut [Span::new(&[&TOKENS[..6], &[30, 31]].concat(), &mut opening)]);
        let (mut one, mut two) = (KvCache::default(), KvCache::default());
        let before = vec![Part {
            cache: &opening,
            tokens: 6,
        }];
        let states = trunk.extend(&mut [
            Span {
                tokens: &TOKENS[6..],
                before: before.clone(),
                cache: &mut one,
            },
            Span {
                tokens: &[20, 21, 22],
                before,
                cache: &mut two,
            },
        ]);
        close(&states[..3 * width], &whole[6 * width..], 1e-5);
    }

    /// What a dropped cache held is written over, and who holds rows beside it notices nothing; a pool that must grow
    /// keeps what it held.
    #[test]
    fn rows_are_used_again_and_pools_grow() {
        let config = tiny_config();
        let (trunk, width) = (trunk(&config), config.hidden_size);
        let whole = trunk.extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
        let mut kept = KvCache::default();
        trunk.extend(&mut [Span::new(&TOKENS[..5], &mut kept)]);
        for round in 0..3 {
            let crowd: Vec<u32> = (0..60).map(|place| (place * 7 + round) % 37).collect();
            let mut caches: Vec<KvCache> = (0..8).map(|_| KvCache::default()).collect();
            trunk.last_states(
                &mut caches
                    .iter_mut()
                    .map(|cache| Span::new(&crowd, cache))
                    .collect::<Vec<_>>(),
            );
            if round == 1 {
                trunk.last_states(
                    &mut caches
                        .iter_mut()
                        .map(|cache| Span::new(&[1, 2], cache))
                        .collect::<Vec<_>>(),
                );
            }
        }
        let At::Device(device) = &trunk.0 else {
            panic!("it is on a device")
        };
        assert_eq!(
            device.reach(),
            1 + 5 + 8 * 62,
            "nine, then eight times 60 and 2 of the same rows"
        );
        let mut crowd: Vec<KvCache> = (0..20).map(|_| KvCache::default()).collect();
        trunk.last_states(
            &mut crowd
                .iter_mut()
                .map(|cache| Span::new(&[9; 40], cache))
                .collect::<Vec<_>>(),
        );
        assert!(device.reach() > 800);
        close(
            &trunk.extend(&mut [Span::new(&TOKENS[5..], &mut kept)]),
            &whole[5 * width..],
            1e-5,
        );
    }

    /// A mantissa of eight bits is off by at most 2⁻⁹ = 0.2 %; a few such in a row stay within some hundredths of a nat.
    #[test]
    fn half_the_bits_give_nearly_the_same_logprobs() {
        for config in configs() {
            let logprobs = |format| {
                let engine = policy(&config, format, &Backend::Burn(Device::flex()));
                let hidden = engine
                    .trunk
                    .extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
                engine.logprobs(&hidden)
            };
            let (wide, narrow) = (logprobs(WeightFormat::Exact), logprobs(WeightFormat::Bf16));
            close(&narrow, &wide, 0.05);
            assert_ne!(wide, narrow);
        }
    }

    #[test]
    fn formats_that_a_device_lacks_are_refused() {
        let config = tiny_config();
        for format in [WeightFormat::F16, WeightFormat::Q8] {
            let engine = Backend::Burn(Device::flex());
            let Err(error) =
                PolicyInference::from_weights(&config, &mut noise(&config), format, &engine)
            else {
                panic!("{format:?} is held on a device");
            };
            assert!(
                error
                    .to_string()
                    .ends_with("\nhint: bf16, or exact, which is f32"),
                "{error}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "the cache belongs to another trunk")]
    fn the_cache_of_another_trunk_is_refused() {
        let config = tiny_config();
        let mut cache = KvCache::default();
        trunk(&config).extend(&mut [Span::new(&TOKENS, &mut cache)]);
        trunk(&config).extend(&mut [Span::new(&TOKENS, &mut cache)]);
    }
}
