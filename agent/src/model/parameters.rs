//! The parameters of the networks: loading them from weights in host memory, reading them back, and
//! choosing which of them are trained.

use crate::error::AgentError;
use crate::model::config::{DecoderConfig, OUTPUT};
use crate::model::decoder::{
    Decoder, DecoderLayer, DecoderSettings, NgramEmbedding, NormSettings, Precision, ValueNetwork,
};
use crate::model::reading::config::{ConvolutionPlace, GOAL_MATCH, ngram_matrix, ngram_none};
use crate::model::weights::{ADVANTAGE_HEAD, HostTensor, VALUE_HEAD, Weights, transposed};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

impl Decoder {
    /// Builds the decoder on a device from weights in host memory.
    ///
    /// # Errors
    /// If a tensor is missing or does not have the shape of `config`.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, AgentError> {
        config.check()?;
        let (kinds, kind_of_layer) = config.attention_kinds();
        let loader = ParameterLoader {
            config,
            weights,
            device,
        };
        Ok(Self {
            embed_tokens: loader.table("model.embed_tokens.weight")?,
            goal_match: (config.reading.goal_match.is_some())
                .then(|| loader.tensor(GOAL_MATCH, [1, config.hidden_size]))
                .transpose()?,
            ngrams: (config.reading.ngram_embedding.iter())
                .map(|order| loader.ngram(*order))
                .collect::<Result<_, _>>()?,
            layers: (kind_of_layer.into_iter().enumerate())
                .map(|(index, kind)| loader.layer(index, kind))
                .collect::<Result<_, _>>()?,
            norm: loader.vector("model.norm.weight", config.hidden_size)?,
            lm_head: (!config.tie_word_embeddings)
                .then(|| loader.table(OUTPUT))
                .transpose()?,
            settings: DecoderSettings {
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_width: config.head_width(),
                attention: kinds,
                activation: config.activation,
                norm: NormSettings {
                    epsilon: config.rms_norm_eps,
                    offset: config.norm_offset(),
                },
                scales: config.scales,
                precision: Precision::default(),
                reading: config.reading.clone(),
                norms: config.norms(),
            },
        })
    }

    /// Returns the same decoder, of which only the last `layers` layers and the last norm are
    /// trained. If `layers` is 0, everything is trained.
    #[must_use]
    pub fn learning_last(self, layers: usize) -> Self {
        if layers == 0 {
            return self;
        }
        let mut all = self.layers;
        let frozen = all.len().saturating_sub(layers);
        let trained = all.split_off(frozen);
        Self {
            embed_tokens: self.embed_tokens.no_grad(),
            goal_match: self.goal_match.map(Module::no_grad),
            ngrams: self.ngrams.into_iter().map(Module::no_grad).collect(),
            layers: all
                .into_iter()
                .map(Module::no_grad)
                .chain(trained)
                .collect(),
            lm_head: self.lm_head.map(Module::no_grad),
            ..self
        }
    }

    /// Returns the weights in host memory, with Hugging Face's names and layouts.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::default();
        let names = self.settings.norms;
        insert(&mut weights, "model.norm.weight", self.norm.val());
        for (index, layer) in self.layers.iter().enumerate() {
            let norms = [
                (names.before_attention, &layer.before_attention),
                (names.after_attention, &layer.after_attention),
                (names.before_mlp, &layer.before_mlp),
                (names.after_mlp, &layer.after_mlp),
            ];
            for (part, norm) in norms {
                if let (Some(part), Some(norm)) = (part, norm) {
                    let name = format!("model.layers.{index}.{part}.weight");
                    insert(&mut weights, &name, norm.val());
                }
            }
            for (part, vector) in [
                ("q_proj.bias", &layer.q_bias),
                ("k_proj.bias", &layer.k_bias),
                ("v_proj.bias", &layer.v_bias),
                ("q_norm.weight", &layer.q_norm),
                ("k_norm.weight", &layer.k_norm),
            ] {
                if let Some(vector) = vector {
                    let name = format!("model.layers.{index}.self_attn.{part}");
                    insert(&mut weights, &name, vector.val());
                }
            }
        }
        if let Some(vector) = &self.goal_match {
            insert(&mut weights, GOAL_MATCH, vector.val());
        }
        for (order, ngram) in (self.settings.reading.ngram_embedding.iter()).zip(&self.ngrams) {
            let matrix = ngram.weight.val().transpose();
            insert(&mut weights, &ngram_matrix(*order), matrix);
            insert(&mut weights, &ngram_none(*order), ngram.none.val());
        }
        let embedding = self.embed_tokens.val();
        insert(&mut weights, "model.embed_tokens.weight", embedding);
        if let Some(output) = &self.lm_head {
            insert(&mut weights, OUTPUT, output.val());
        }
        for (index, layer) in self.layers.iter().enumerate() {
            for (part, param) in layer.matrices() {
                let name = format!("model.layers.{index}.{part}.weight");
                insert(&mut weights, &name, param.val().transpose());
            }
            for place in ConvolutionPlace::ALL {
                if let Some(filter) = layer.filter(place) {
                    let name = format!("model.layers.{index}.{}", place.tensor());
                    insert(&mut weights, &name, filter.val());
                }
            }
        }
        weights
    }
}

impl ValueNetwork {
    /// Builds the network on a device from weights in host memory with the tensors of
    /// [`crate::model::value_heads`].
    ///
    /// # Errors
    /// If a tensor is missing or does not have the shape of `config`.
    pub fn from_weights(
        config: &DecoderConfig,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, AgentError> {
        let heads = weights.value_heads(config)?;
        let loader = ParameterLoader {
            config,
            weights,
            device,
        };
        Ok(Self {
            trunk: Decoder::from_weights(config, weights, device)?,
            value_head: loader.matrix(VALUE_HEAD, [heads.value.rows(), config.hidden_size])?,
            advantage_head: heads
                .has_advantage
                .then(|| loader.matrix(ADVANTAGE_HEAD, [1, config.hidden_size]))
                .transpose()?,
        })
    }

    /// Returns the same network, of which only the last `layers` layers, the last norm and the heads
    /// are trained. If `layers` is 0, everything is trained.
    #[must_use]
    pub fn learning_last(self, layers: usize) -> Self {
        Self {
            trunk: self.trunk.learning_last(layers),
            ..self
        }
    }

    /// Returns the weights in host memory.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut weights = self.trunk.to_weights();
        let head = self.value_head.val().transpose();
        insert(&mut weights, VALUE_HEAD, head);
        if let Some(head) = &self.advantage_head {
            insert(&mut weights, ADVANTAGE_HEAD, head.val().transpose());
        }
        weights
    }
}

/// Makes parameters on a device from weights in host memory.
struct ParameterLoader<'a> {
    config: &'a DecoderConfig,
    weights: &'a Weights,
    device: &'a Device,
}

impl ParameterLoader<'_> {
    fn layer(&self, index: usize, attention_kind: usize) -> Result<DecoderLayer, AgentError> {
        let hidden = self.config.hidden_size;
        let inner = self.config.intermediate_size;
        let queries = self.config.query_width();
        let kv = self.config.kv_width();
        let layer = format!("model.layers.{index}");
        let attention = format!("{layer}.self_attn");
        let mlp = format!("{layer}.mlp");
        let norm = |part| self.vector(&format!("{layer}.{part}.weight"), hidden);
        let norms = self.config.norms().try_map(norm)?;
        let [of_queries, of_keys] = match self.config.query_norm_widths() {
            Some([queries, keys]) => [
                Some(self.vector(&format!("{attention}.q_norm.weight"), queries)?),
                Some(self.vector(&format!("{attention}.k_norm.weight"), keys)?),
            ],
            None => [None, None],
        };
        Ok(DecoderLayer {
            before_attention: norms.before_attention,
            after_attention: norms.after_attention,
            q_proj: self.matrix(&format!("{attention}.q_proj.weight"), [queries, hidden])?,
            k_proj: self.matrix(&format!("{attention}.k_proj.weight"), [kv, hidden])?,
            v_proj: self.matrix(&format!("{attention}.v_proj.weight"), [kv, hidden])?,
            q_bias: self.bias(&format!("{attention}.q_proj.bias"), queries)?,
            k_bias: self.bias(&format!("{attention}.k_proj.bias"), kv)?,
            v_bias: self.bias(&format!("{attention}.v_proj.bias"), kv)?,
            q_norm: of_queries,
            k_norm: of_keys,
            o_proj: self.matrix(&format!("{attention}.o_proj.weight"), [hidden, queries])?,
            before_mlp: norms.before_mlp,
            after_mlp: norms.after_mlp,
            gate_proj: self.matrix(&format!("{mlp}.gate_proj.weight"), [inner, hidden])?,
            up_proj: self.matrix(&format!("{mlp}.up_proj.weight"), [inner, hidden])?,
            down_proj: self.matrix(&format!("{mlp}.down_proj.weight"), [hidden, inner])?,
            attention_conv: self.filter(&layer, ConvolutionPlace::AttentionInput)?,
            qkv_conv: self.filter(&layer, ConvolutionPlace::QueryKeyValue)?,
            mlp_conv: self.filter(&layer, ConvolutionPlace::MlpInput)?,
            gate_up_conv: self.filter(&layer, ConvolutionPlace::GateUp)?,
            attention_kind,
        })
    }

    /// The filter of a convolution of this layer; `None` if it has none at that place.
    fn filter(
        &self,
        layer: &str,
        place: ConvolutionPlace,
    ) -> Result<Option<Param<Tensor<2>>>, AgentError> {
        let Some(width) = self.config.reading.width_at(place) else {
            return Ok(None);
        };
        let name = format!("{layer}.{}", place.tensor());
        self.tensor(&name, [width, self.config.channels_at(place)])
            .map(Some)
    }

    fn ngram(&self, order: usize) -> Result<NgramEmbedding, AgentError> {
        let hidden = self.config.hidden_size;
        Ok(NgramEmbedding {
            weight: self.matrix(&ngram_matrix(order), [hidden, hidden])?,
            none: self.tensor(&ngram_none(order), [1, hidden])?,
        })
    }

    /// The embedding or the output matrix, `[vocab, hidden]`.
    fn table(&self, name: &str) -> Result<Param<Tensor<2>>, AgentError> {
        self.tensor(name, [self.config.vocab_size, self.config.hidden_size])
    }

    /// A tensor as a parameter of the same layout.
    fn tensor(&self, name: &str, shape: [usize; 2]) -> Result<Param<Tensor<2>>, AgentError> {
        let data = self.weights.get(name, &shape)?.to_vec();
        Ok(Param::from_data(TensorData::new(data, shape), self.device))
    }

    /// A matrix `[out, in]` of the weights as a parameter `[in, out]`.
    fn matrix(&self, name: &str, [out, input]: [usize; 2]) -> Result<Param<Tensor<2>>, AgentError> {
        let data = transposed(self.weights.get(name, &[out, input])?, out, input);
        Ok(Param::from_data(
            TensorData::new(data, [input, out]),
            self.device,
        ))
    }

    fn vector(&self, name: &str, size: usize) -> Result<Param<Tensor<1>>, AgentError> {
        let data = self.weights.get(name, &[size])?.to_vec();
        Ok(Param::from_data(TensorData::new(data, [size]), self.device))
    }

    /// A bias; `None` if the family has no biases.
    fn bias(&self, name: &str, size: usize) -> Result<Option<Param<Tensor<1>>>, AgentError> {
        self.config
            .has_biases()
            .then(|| self.vector(name, size))
            .transpose()
    }
}

fn insert<const D: usize>(weights: &mut Weights, name: &str, tensor: Tensor<D>) {
    let shape = tensor.dims().to_vec();
    let data = tensor
        .into_data()
        .try_to_vec::<f32>()
        .expect("decoder weights are f32");
    weights.0.insert(name.into(), HostTensor { shape, data });
}
