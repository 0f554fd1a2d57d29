//! The policy and the value network at play.

use super::device::Backend;
use super::sample::{DrawRequest, Drawn, Sampling};
use super::trunk::Trunk;
use crate::error::AgentError;
use crate::model::config::DecoderConfig;
use crate::model::value_heads::bin_centres;
use crate::model::weights::{ADVANTAGE_HEAD, VALUE_HEAD, Weights};
use scenarios::{KvFormat, WeightFormat};

/// The policy π_θ at play.
pub struct PolicyInference {
    /// The decoder.
    pub trunk: Trunk,
}

impl PolicyInference {
    /// Takes the policy's tensors out of `weights`.
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
        Ok(Self {
            trunk: Trunk::from_weights(config, weights, format, backend)?
                .with_output(weights, format)?,
        })
    }

    /// Keeps keys and values in this number format.
    ///
    /// # Errors
    /// If the backend is a GPU and the format is not exact.
    pub fn with_kv(self, kv: KvFormat) -> Result<Self, AgentError> {
        Ok(Self {
            trunk: self.trunk.with_kv(kv)?,
        })
    }

    /// Bytes that a decode step reads: every matrix once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.trunk.bytes()
    }

    /// Log-probabilities of the next token, nats.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden]` → `[rows, vocab]`.
    #[must_use]
    pub fn logprobs(&self, hidden: &[f32]) -> Vec<f32> {
        self.trunk.logprobs(hidden)
    }

    /// Draws a token for each request, in their order. A device sends back only the tokens and their
    /// log-probabilities, except with top-k, top-p or min-p.
    ///
    /// # Shapes
    /// `hidden` `[rows, hidden]`.
    ///
    /// # Panics
    /// If the row of a request does not exist.
    #[must_use]
    pub fn draw(&self, hidden: &[f32], requests: &[DrawRequest], sampling: Sampling) -> Vec<Drawn> {
        if requests.is_empty() {
            return Vec::new();
        }
        self.trunk.draw(hidden, requests, sampling)
    }
}

/// The value network V_φ at play.
pub struct ValueInference {
    /// The decoder.
    pub trunk: Trunk,
    /// `[1, hidden]`, or `[VALUE_BINS, hidden]` if V is the expected value of a distribution.
    value_head: Vec<f32>,
    /// `[hidden]`, if U is V plus an advantage.
    advantage_head: Option<Vec<f32>>,
}

impl ValueInference {
    /// Takes the value network's tensors out of `weights`.
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
        let heads = weights.value_heads(config)?;
        let width = config.hidden_size;
        let value_head = weights.take(VALUE_HEAD, &[heads.value.rows(), width])?;
        let advantage_head = heads
            .has_advantage
            .then(|| weights.take(ADVANTAGE_HEAD, &[1, width]))
            .transpose()?;
        Ok(Self {
            trunk: Trunk::from_weights(config, weights, format, backend)?,
            value_head,
            advantage_head,
        })
    }

    /// Keeps keys and values in this number format.
    ///
    /// # Errors
    /// If the backend is a GPU and the format is not exact.
    pub fn with_kv(self, kv: KvFormat) -> Result<Self, AgentError> {
        Ok(Self {
            trunk: self.trunk.with_kv(kv)?,
            ..self
        })
    }

    /// V at one hidden state `[hidden]`, reward units.
    #[must_use]
    pub fn value(&self, hidden: &[f32]) -> f32 {
        if self.value_head.len() == hidden.len() {
            return dot(hidden, &self.value_head);
        }
        let rows = self.value_head.chunks_exact(hidden.len());
        let logits: Vec<f32> = rows.map(|row| dot(hidden, row)).collect();
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut total, mut sum) = (0.0, 0.0);
        for (logit, centre) in logits.into_iter().zip(bin_centres()) {
            let share = (logit - highest).exp();
            total += share;
            sum += share * centre;
        }
        sum / total
    }

    /// U after an action, reward units. `hidden` `[hidden]` is the state at the last token of the
    /// completion, and `before` is V of the state before it. If there is no advantage head, U does
    /// not depend on `before`; if there is one and `before` is `None`, U is not known.
    #[must_use]
    pub fn after_value(&self, before: Option<f32>, hidden: &[f32]) -> Option<f32> {
        match &self.advantage_head {
            Some(head) => before.map(|before| before + dot(hidden, head)),
            None => Some(self.value(hidden)),
        }
    }
}

fn dot(hidden: &[f32], head: &[f32]) -> f32 {
    hidden
        .iter()
        .zip(head)
        .fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::{CachedPrefix, KvCache, Span};
    use crate::model::config::{Family, LayerPattern, Scales};
    use crate::model::decoder::{Decoder, HeadOutputs, Precision, ValueNetwork};
    use crate::model::rope::RopeScaling;
    use crate::model::value_heads::tests::{all_heads, with_some_heads};
    use crate::model::weights::tests::{tiny_config, tiny_reading_config, tiny_windowed_config};
    use burn::tensor::{Int, Tensor, TensorData, activation};
    use kernels::elementwise::Activation;
    use support::device::device;

    const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 36];

    /// The CPU backend, and burn on a device that every machine has.
    fn backends() -> [Backend; 2] {
        [Backend::Cpu, Backend::Burn(device())]
    }

    /// Every family, and every way in which one differs from a plain Llama.
    fn configs() -> Vec<DecoderConfig> {
        let llama = tiny_config();
        let scales = Scales {
            embedding: 3.0,
            residual: 0.7,
            attention: 1.3,
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
                family: Family::Qwen3,
                head_dim: Some(10),
                ..llama.clone()
            },
            DecoderConfig {
                head_dim: Some(10),
                rope_scaling,
                ..llama.clone()
            },
            DecoderConfig {
                family: Family::SmolLm3,
                pattern: LayerPattern {
                    unrotated: [1].into(),
                    ..LayerPattern::default()
                },
                ..llama.clone()
            },
            DecoderConfig {
                head_dim: Some(10),
                activation: Activation::GeluTanh,
                scales,
                ..tiny_windowed_config()
            },
            DecoderConfig {
                family: Family::Phi3,
                head_dim: Some(10),
                rotary_width: Some(6),
                pattern: LayerPattern {
                    windowed: [0, 1].into(),
                    window: 5,
                    ..LayerPattern::default()
                },
                ..llama.clone()
            },
            DecoderConfig {
                family: Family::Olmo2,
                ..llama.clone()
            },
            tiny_reading_config(),
            llama,
        ]
    }

    /// Weights of which every tensor affects the result.
    fn noise(config: &DecoderConfig) -> Weights {
        let mut weights = Weights::random(config, 1);
        for (name, tensor) in &mut weights.0 {
            if name.ends_with("norm.weight") {
                let noise = |i: usize| 0.4 + (i as f32 * 1.3).sin() / 8.0;
                (tensor.data.iter_mut().enumerate()).for_each(|(i, w)| *w = noise(i));
            }
            if name.ends_with("bias")
                || name.ends_with(".none")
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

    fn policy(config: &DecoderConfig, format: WeightFormat, backend: &Backend) -> PolicyInference {
        PolicyInference::from_weights(config, &mut noise(config), format, backend).expect("builds")
    }

    fn device_trunk(config: &DecoderConfig) -> Trunk {
        policy(config, WeightFormat::Exact, &Backend::Burn(device())).trunk
    }

    fn token_tensor(tokens: &[u32]) -> Tensor<2, Int> {
        let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
        Tensor::from_data(TensorData::new(ids, [1, tokens.len()]), &device())
    }

    fn floats(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_to_vec().expect("f32")
    }

    #[track_caller]
    fn assert_close(a: &[f32], b: &[f32], tolerance: f32) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!(
                (x - y).abs() < support::device::tolerance(tolerance),
                "{x} and {y}"
            );
        }
    }

    /// Both backends and the decoder that is trained compute the same log-probabilities.
    #[test]
    fn the_backends_equal_the_decoder() {
        for config in configs() {
            let weights = noise(&config);
            let decoder = Decoder::from_weights(&config, &weights, &device()).expect("builds");
            assert_eq!(decoder.to_weights(), weights);
            let states = decoder
                .hidden(token_tensor(&TOKENS))
                .reshape([TOKENS.len(), config.hidden_size]);
            let theirs = activation::log_softmax(decoder.logits(states), 1).into_data();
            for backend in backends() {
                let policy = policy(&config, WeightFormat::Exact, &backend);
                let hidden = policy
                    .trunk
                    .extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
                assert_close(
                    &policy.logprobs(&hidden),
                    &theirs.clone().try_to_vec::<f32>().expect("f32"),
                    2e-5,
                );
            }
        }
    }

    #[test]
    fn the_backends_draw_the_same_tokens() {
        let config = tiny_config();
        let requests: Vec<DrawRequest> = (0..40)
            .map(|at| DrawRequest {
                row: at % TOKENS.len(),
                uniform: (at as f64 * 0.618).fract(),
            })
            .collect();
        let cooler = Sampling {
            temperature: 0.4,
            ..Sampling::UNTEMPERED
        };
        let filtered = Sampling { top_k: 3, ..cooler };
        for sampling in [Sampling::UNTEMPERED, Sampling::GREEDY, cooler, filtered] {
            let drawn = backends().map(|backend| {
                let policy = policy(&config, WeightFormat::Exact, &backend);
                let hidden = policy
                    .trunk
                    .extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
                policy.draw(&hidden, &requests, sampling)
            });
            for (host, device) in drawn[0].iter().zip(&drawn[1]) {
                assert_eq!(host.token, device.token);
                let logprobs = |drawn: &Drawn| [drawn.logprob, drawn.sampling_logprob];
                assert_close(&logprobs(host), &logprobs(device), 2e-5);
            }
            assert_eq!(drawn[0].len(), requests.len());
            assert_eq!(drawn[1].len(), requests.len());
        }
    }

    /// V and U of every kind of head.
    #[test]
    fn the_value_backends_equal_the_value_network() {
        let config = tiny_config();
        for heads in all_heads() {
            let weights = with_some_heads(&config, heads);
            let network = ValueNetwork::from_weights(&config, &weights, &device()).expect("builds");
            assert_eq!(network.to_weights(), weights);
            let hidden = network.trunk().hidden(token_tensor(&TOKENS));
            let HeadOutputs {
                values, advantages, ..
            } = network.head_outputs(hidden);
            let theirs = floats(values.clone());
            let after = advantages.map_or(values, |advantages| advantages + 0.5);
            let theirs_after = floats(after);
            for backend in backends() {
                let mut weights = weights.clone();
                let format = WeightFormat::Exact;
                let value = ValueInference::from_weights(&config, &mut weights, format, &backend)
                    .expect("builds");
                let hidden = value
                    .trunk
                    .extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
                let (mut ours, mut ours_after) = (Vec::new(), Vec::new());
                for hidden in hidden.chunks_exact(config.hidden_size) {
                    ours.push(value.value(hidden));
                    ours_after.extend(value.after_value(Some(0.5), hidden));
                    let is_known = value.after_value(None, hidden).is_some();
                    assert_eq!(is_known, !heads.has_advantage);
                }
                assert_close(&ours, &theirs, 2e-5);
                assert_close(&ours_after, &theirs_after, 2e-5);
            }
        }
    }

    /// The last state is the last row, for any length.
    #[test]
    fn last_states_are_the_last_rows() {
        let config = tiny_config();
        for backend in backends() {
            let trunk = policy(&config, WeightFormat::Exact, &backend).trunk;
            let read =
                |tokens: &[u32]| trunk.extend(&mut [Span::new(tokens, &mut KvCache::default())]);
            let long = read(&TOKENS);
            let short = read(&TOKENS[..2]);
            let mut one = KvCache::default();
            let mut two = KvCache::default();
            let last = trunk.last_states(&mut [
                Span::new(&TOKENS, &mut one),
                Span::new(&TOKENS[..2], &mut two),
            ]);
            let width = config.hidden_size;
            assert_close(&last, &[&long[8 * width..], &short[width..]].concat(), 1e-5);
        }
    }

    /// One call, token by token, on a shared prefix, or together with spans of other lengths: the
    /// numbers are the same. On a device they are equal up to rounding; on the CPU the bits are equal
    /// (another test).
    #[test]
    fn cutting_a_sequence_changes_nothing_on_a_device() {
        for config in configs() {
            let trunk = device_trunk(&config);
            let width = config.hidden_size;
            let whole = trunk.extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
            let mut cache = KvCache::default();
            let mut step = |token: &u32| trunk.extend(&mut [Span::new(&[*token], &mut cache)]);
            assert_close(
                &TOKENS.iter().flat_map(&mut step).collect::<Vec<f32>>(),
                &whole,
                3e-5,
            );

            let mut prefix = KvCache::default();
            let mut tail = KvCache::default();
            let mut long = KvCache::default();
            trunk.extend(&mut [Span::new(&TOKENS[..4], &mut prefix)]);
            let crowd = [7; 33];
            let mut alone = [KvCache::default(), KvCache::default()];
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
            assert_close(
                &together[width..5 * width],
                &whole[4 * width..8 * width],
                3e-5,
            );
            assert_close(&together[38 * width..], &whole[..width], 3e-5);
            prefix.append(tail);
            assert_eq!(prefix.len(), 8);
            assert_close(
                &trunk.extend(&mut [Span::new(&TOKENS[8..], &mut prefix)]),
                &whole[8 * width..],
                3e-5,
            );
        }
    }

    /// Two candidates follow the first six of eight cached tokens. They see neither the other two
    /// tokens nor each other.
    #[test]
    fn a_part_of_a_cache_is_shared() {
        let config = tiny_config();
        let trunk = device_trunk(&config);
        let width = config.hidden_size;
        let whole = trunk.extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
        let mut prefix = KvCache::default();
        trunk.extend(&mut [Span::new(&[&TOKENS[..6], &[30, 31]].concat(), &mut prefix)]);
        let mut one = KvCache::default();
        let mut two = KvCache::default();
        let before = vec![CachedPrefix {
            cache: &prefix,
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
        assert_close(&states[..3 * width], &whole[6 * width..], 1e-5);
    }

    /// The rows of a dropped cache are written again, and the rows of other caches do not change. If a
    /// pool must grow, it keeps its contents.
    #[test]
    fn rows_are_reused_and_pools_grow() {
        let config = tiny_config();
        let trunk = device_trunk(&config);
        let width = config.hidden_size;
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
        assert_eq!(
            trunk.pool_rows(),
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
        assert!(trunk.pool_rows() > 800);
        assert_close(
            &trunk.extend(&mut [Span::new(&TOKENS[5..], &mut kept)]),
            &whole[5 * width..],
            1e-5,
        );
    }

    /// A mantissa of eight bits has an error of at most 2⁻⁹ = 0.2 %. After a few operations the error
    /// is some hundredths of a nat.
    #[test]
    fn bf16_gives_nearly_the_same_logprobs() {
        if Precision::Bf16.check(&device()).is_err() {
            return;
        }
        for config in configs() {
            let logprobs = |format| {
                let policy = policy(&config, format, &Backend::Burn(device()));
                let hidden = policy
                    .trunk
                    .extend(&mut [Span::new(&TOKENS, &mut KvCache::default())]);
                policy.logprobs(&hidden)
            };
            let wide = logprobs(WeightFormat::Exact);
            let narrow = logprobs(WeightFormat::Bf16);
            assert_close(&narrow, &wide, 0.05);
            assert_ne!(wide, narrow);
        }
    }

    /// f16 has a mantissa of eleven bits, so that a number is off by at most 2⁻¹² = 0.02 %.
    #[test]
    fn keys_and_values_in_f16_give_nearly_the_same_logprobs() {
        for config in configs() {
            let read = |kv| {
                let policy = policy(&config, WeightFormat::Exact, &Backend::Cpu);
                let policy = policy.with_kv(kv).expect("the CPU has both");
                let mut cache = KvCache::default();
                let [first, second] = [&TOKENS[..4], &TOKENS[4..]]
                    .map(|part| policy.trunk.extend(&mut [Span::new(part, &mut cache)]));
                let bytes = policy.trunk.bytes_per_token();
                (policy.logprobs(&[first, second].concat()), bytes)
            };
            let (exact, bytes) = read(KvFormat::Exact);
            let (rounded, fewer_bytes) = read(KvFormat::F16);
            assert_close(&rounded, &exact, 5e-3);
            assert_ne!(rounded, exact);
            assert!(fewer_bytes < bytes);
        }
        let on_device = policy(
            &tiny_config(),
            WeightFormat::Exact,
            &Backend::Burn(device()),
        );
        let error = on_device
            .with_kv(KvFormat::F16)
            .err()
            .expect("only on the CPU");
        assert!(
            error.to_string().contains("only the CPU has them"),
            "{error}"
        );
    }

    #[test]
    fn formats_that_a_device_does_not_support_are_refused() {
        let config = tiny_config();
        for format in [WeightFormat::F16, WeightFormat::Q8] {
            let backend = Backend::Burn(device());
            let Err(error) =
                PolicyInference::from_weights(&config, &mut noise(&config), format, &backend)
            else {
                panic!("{format:?} must be refused");
            };
            assert!(
                error
                    .to_string()
                    .ends_with("\nhint: use bf16, or exact, which is f32 on a GPU"),
                "{error}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "the cache belongs to another trunk")]
    fn the_cache_of_another_trunk_is_refused() {
        let config = tiny_config();
        let mut cache = KvCache::default();
        device_trunk(&config).extend(&mut [Span::new(&TOKENS, &mut cache)]);
        device_trunk(&config).extend(&mut [Span::new(&TOKENS, &mut cache)]);
    }
}
