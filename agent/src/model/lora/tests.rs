//! Tests of the adapters, and helpers for the tests of PEFT's files.

use super::*;
use crate::model::decoder::Precision;
use crate::model::peft::Adapter;
use crate::model::value_heads::ValueHeads;
use crate::model::value_heads::tests::with_some_heads;
use crate::model::weights::tests::tiny_config;
use burn::tensor::{Gradients, Int};
use std::collections::BTreeSet;

/// Adapters of rank 3 with α = 6.
pub(in crate::model) fn recipe(targets: &[Target]) -> LoraRecipe {
    LoraRecipe {
        rank: 3,
        alpha: 6.0,
        targets: targets.to_vec(),
    }
}

/// Weights of a value network, of which none is 0.
pub(in crate::model) fn base() -> Weights {
    let config = tiny_config();
    let mut weights = Weights::random(&config, 5).with_zero_value_head(&config);
    for tensor in weights.0.values_mut() {
        tensor
            .data
            .iter_mut()
            .enumerate()
            .for_each(|(i, w)| *w += (i as f32 * 1.7).sin() / 4.0);
    }
    weights
}

pub(in crate::model) fn value_network(weights: &Weights) -> ValueNetwork {
    ValueNetwork::from_weights(
        &tiny_config(),
        weights,
        &support::device::device().autodiff(),
    )
    .unwrap()
}

pub(in crate::model) fn values(network: &ValueNetwork) -> Vec<f32> {
    network.values(tokens()).into_data().try_to_vec().unwrap()
}

/// The same factors after a change, so that no B is 0.
pub(in crate::model) fn changed(mut factors: Weights) -> Weights {
    for tensor in factors.0.values_mut() {
        tensor
            .data
            .iter_mut()
            .enumerate()
            .for_each(|(i, w)| *w += (i as f32 * 0.9).cos() / 8.0);
    }
    factors
}

fn decoder(weights: &Weights) -> Decoder {
    Decoder::from_weights(
        &tiny_config(),
        weights,
        &support::device::device().autodiff(),
    )
    .unwrap()
}

fn tokens() -> Tensor<2, Int> {
    let tokens = TensorData::new((0..18).map(|i| i * 7 % 37).collect::<Vec<i64>>(), [2, 9]);
    Tensor::from_data(tokens, &support::device::device().autodiff())
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    decoder
        .logits(decoder.hidden(tokens()).reshape([18, -1]))
        .into_data()
        .try_to_vec()
        .unwrap()
}

#[test]
fn new_adapters_do_not_change_a_network_to_the_bit() {
    let weights = base();
    for precision in [Precision::F32, Precision::Bf16] {
        if precision.check(&support::device::device()).is_err() {
            continue;
        }
        let plain = decoder(&weights).with_precision(precision);
        let adapted = plain.clone().with_lora(&recipe(&Target::all()), 1).unwrap();
        assert_eq!(logits(&adapted), logits(&plain));
        let plain = value_network(&weights).with_precision(precision);
        let adapted = plain.clone().with_lora(&recipe(&Target::all()), 1).unwrap();
        assert_eq!(values(&adapted), values(&plain));
        assert_eq!(adapted.to_weights(), weights);
    }
}

/// Names and shapes are those of PEFT: A `[r, in]`, B `[out, r]`. Only the targets are there.
#[test]
fn the_factors_of_the_targets_are_trained() {
    let adapted = decoder(&base())
        .with_lora(&recipe(&[Target::KProj, Target::DownProj]), 1)
        .unwrap();
    let learned = adapted.to_learned();
    let found: Vec<(&str, &[usize])> = learned
        .0
        .iter()
        .map(|(name, t)| (name.as_str(), &t.shape[..]))
        .collect();
    let expected: [(&str, &[usize]); 8] = [
        (
            "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight",
            &[3, 40],
        ),
        (
            "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight",
            &[24, 3],
        ),
        (
            "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
            &[3, 24],
        ),
        (
            "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight",
            &[12, 3],
        ),
        (
            "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight",
            &[3, 40],
        ),
        (
            "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight",
            &[24, 3],
        ),
        (
            "base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight",
            &[3, 24],
        ),
        (
            "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight",
            &[12, 3],
        ),
    ];
    assert_eq!(found, expected);
    let all = value_network(&base())
        .with_lora(&recipe(&Target::all()), 1)
        .unwrap()
        .to_learned();
    assert_eq!(all.0.len(), 2 * 7 * 2 + 1);
    assert_eq!(all.0[VALUE_HEAD], base().0[VALUE_HEAD]);
}

/// The advantage head is trained beside the adapters, and the adapter in PEFT's layout contains it.
#[test]
fn an_advantage_head_is_trained_and_saved_with_the_adapters() {
    let config = tiny_config();
    let heads = ValueHeads {
        has_advantage: true,
        ..ValueHeads::default()
    };
    let weights = with_some_heads(&config, heads);
    let network = value_network(&weights)
        .with_lora(&recipe(&[Target::QProj]), 1)
        .unwrap();
    let learned = network.to_learned();
    assert_eq!(learned.0[ADVANTAGE_HEAD], weights.0[ADVANTAGE_HEAD]);
    let outputs = network.head_outputs(network.trunk().hidden(tokens()));
    let gradients = outputs.advantages.unwrap().sum().backward();
    let head = network.advantage_head.as_ref().unwrap().val();
    assert!(head.grad(&gradients).is_some());
    let mut changed = changed(learned);
    let expected = changed.0[ADVANTAGE_HEAD].clone();
    let adapter = Adapter::new(&recipe(&[Target::QProj]), "base", changed.clone());
    let merged = adapter.merge(weights.clone()).unwrap();
    assert_eq!(merged.0[ADVANTAGE_HEAD], expected);
    changed.0.remove(ADVANTAGE_HEAD);
    let adapter = Adapter::new(&recipe(&[Target::QProj]), "base", changed);
    let merged = adapter.merge(weights.clone()).unwrap();
    assert_eq!(merged.0[ADVANTAGE_HEAD], weights.0[ADVANTAGE_HEAD]);
}

fn drawn_factors(seed: u64, targets: &[Target]) -> Weights {
    decoder(&base())
        .with_lora(&recipe(targets), seed)
        .unwrap()
        .to_learned()
}

/// A number that is uniform within ±1/√in has the variance 1/(3·in).
#[test]
fn factors_depend_only_on_the_seed() {
    let all = drawn_factors(1, &Target::all());
    assert_eq!(drawn_factors(1, &Target::all()), all);
    let some = drawn_factors(1, &[Target::UpProj]);
    assert!(
        some.0.iter().all(|(name, tensor)| all.0[name] == *tensor),
        "they do not depend on the other targets"
    );
    let other = drawn_factors(2, &Target::all());
    let mut drawn = BTreeSet::new();
    for (name, HostTensor { shape, data }) in &all.0 {
        if name.ends_with(LORA_B) {
            assert!(data.iter().all(|b| *b == 0.0));
            continue;
        }
        assert_ne!(other.0[name].data, *data);
        assert!(drawn.insert(data[0].to_bits()), "every matrix has its own");
        let inputs = shape[1] as f32;
        assert!(data.iter().all(|a| a.abs() <= 1.0 / inputs.sqrt()));
        let variance = data.iter().map(|a| a * a).sum::<f32>() / data.len() as f32;
        assert!(
            (variance * 3.0 * inputs - 1.0).abs() < 0.5,
            "{name}: {variance}"
        );
    }
}

/// Finds the paths of the parameters that have gradients.
struct GradientPaths<'a> {
    path: ParameterPath,
    gradients: &'a Gradients,
    found: Vec<String>,
}

impl ModuleVisitor for GradientPaths<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let has = param.val().grad(self.gradients).is_some();
        assert_eq!(has, param.is_require_grad(), "{}", self.path.joined());
        if has {
            self.found.push(self.path.joined());
        }
    }
}

#[test]
fn only_factors_and_the_head_get_gradients() {
    let network = value_network(&base())
        .with_lora(&recipe(&[Target::QProj]), 1)
        .unwrap();
    let gradients = network.values(tokens()).sum().backward();
    let mut visitor = GradientPaths {
        path: ParameterPath::default(),
        gradients: &gradients,
        found: Vec::new(),
    };
    network.visit(&mut visitor);
    assert_eq!(
        visitor.found,
        [
            "trunk.layers.0.q_proj.lora.a",
            "trunk.layers.0.q_proj.lora.b",
            "trunk.layers.1.q_proj.lora.a",
            "trunk.layers.1.q_proj.lora.b",
            "value_head",
        ]
    );
}

#[track_caller]
fn assert_refused(decoder: &Decoder, factors: &Weights, reason: &str) {
    let error = decoder.clone().with_factors(factors).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("model configuration: tensor {reason}")
    );
}

#[test]
fn missing_factors_are_an_error_if_others_are_there() {
    let weights = base();
    let adapted = decoder(&weights)
        .with_lora(&recipe(&[Target::OProj]), 1)
        .unwrap();
    let same = adapted.clone().with_factors(&weights).unwrap();
    assert_eq!(
        same.to_learned(),
        adapted.to_learned(),
        "there are none in the base"
    );
    let mut learned = adapted.to_learned();
    let name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight";
    learned.0.get_mut(name).unwrap().shape = vec![3, 24];
    let reason = format!("{name} has shape [3, 24], expected [24, 3]");
    assert_refused(&adapted, &learned, &reason);
    learned.0.remove(name);
    assert_refused(&adapted, &learned, &format!("{name} is missing"));
}

#[test]
fn a_recipe_that_cannot_be_used_is_refused() {
    let twice = vec![Target::QProj, Target::UpProj, Target::QProj];
    for (rank, alpha, targets, reason) in [
        (0, 16.0, Target::all(), "lora: rank starts at 1"),
        (
            8,
            f64::NAN,
            Target::all(),
            "lora: alpha is NaN, and must be a number above 0",
        ),
        (
            8,
            16.0,
            Vec::new(),
            "lora: targets is empty, so nothing would be trained",
        ),
        (8, 16.0, twice, "lora: q_proj is defined twice in targets"),
    ] {
        let recipe = LoraRecipe {
            rank,
            alpha,
            targets,
        };
        assert_eq!(recipe.check(), Err(reason.to_string()));
    }
}
