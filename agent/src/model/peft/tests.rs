use super::*;
use crate::model::config::Family;
use crate::model::decoder::Decoder;
use crate::model::folder::tests::tiny;
use crate::model::lora::Target;
use crate::model::lora::tests::{base, changed, recipe, value_network, values};
use crate::model::weights::HostTensor;
use std::fs;

#[track_caller]
fn assert_close(a: &[f32], b: &[f32], limit: f32) {
    let off = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(a.len() == b.len() && off < limit, "off by {off}");
}

/// The network with adapters computes the same as with W + α/r · B·A, merged on burn, in host
/// memory, and after writing and reading the adapter.
#[test]
fn merged_weights_compute_the_same_as_the_adapters() {
    let weights = base();
    let recipe = recipe(&Target::all());
    let adapted = value_network(&weights).with_lora(&recipe, 1).unwrap();
    let learned = changed(adapted.to_learned());
    let mut all = weights.clone();
    all.0.extend(learned.0.clone());
    let adapted = value_network(&all)
        .with_lora(&recipe, 2)
        .unwrap()
        .with_factors(&all)
        .unwrap();
    assert_eq!(adapted.to_learned(), learned);

    let merged = adapted.to_weights();
    assert_close(&values(&adapted), &values(&value_network(&merged)), 1e-4);
    let folder = tempfile::tempdir().unwrap();
    let adapter = Adapter::new(&recipe, "0123456789abcdef", learned);
    adapter.save(folder.path()).unwrap();
    let again = Adapter::open(folder.path()).unwrap();
    assert_eq!(again, adapter);
    assert_eq!(again.base(), Some("0123456789abcdef"));
    let by_hand = again.merge(weights.clone()).unwrap();
    assert_eq!(
        by_hand.0.keys().collect::<Vec<_>>(),
        weights.0.keys().collect::<Vec<_>>()
    );
    for (name, tensor) in &merged.0 {
        assert_close(&tensor.data, &by_hand.0[name].data, 1e-6);
        let stays = name.contains("norm") || name.contains("embed");
        assert_eq!(*tensor == weights.0[name], stays, "{name}");
    }
}

fn matrix(shape: [usize; 2], data: &[f32]) -> HostTensor {
    HostTensor {
        shape: shape.to_vec(),
        data: data.to_vec(),
    }
}

/// W = [[1, 2, 3], [4, 5, 6]], A = [[1, 0, −1]], B = [[2], [3]], α/r = ½ / 1:
/// W + ½·B·A = [[2, 2, 2], [5½, 5, 4½]].
#[test]
fn a_merge_by_hand() {
    let module = "model.layers.0.mlp.up_proj";
    let a = format!("{PEFT_PREFIX}{module}{LORA_A}");
    let b = format!("{PEFT_PREFIX}{module}{LORA_B}");
    let learned = Weights(
        [
            (a, matrix([1, 3], &[1.0, 0.0, -1.0])),
            (b, matrix([2, 1], &[2.0, 3.0])),
        ]
        .into(),
    );
    let recipe = LoraRecipe {
        rank: 1,
        alpha: 0.5,
        targets: Target::all(),
    };
    let adapter = Adapter::new(&recipe, "", learned);
    let name = format!("{module}.weight");
    let weight = matrix([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let base = Weights([(name.clone(), weight)].into());
    assert_eq!(
        adapter.merge(base).unwrap().0[&name].data,
        [2.0, 2.0, 2.0, 5.5, 5.0, 4.5]
    );
}

/// Factors for the value projections of [`tiny`].
fn factors(model: &Model) -> Weights {
    let device = support::device::device().autodiff();
    let decoder = Decoder::from_weights(&model.config, &model.policy, &device).unwrap();
    let adapted = decoder.with_lora(&recipe(&[Target::VProj]), 1).unwrap();
    changed(adapted.to_learned())
}

/// The model merged with the adapter of a folder, after this configuration was written into it.
fn merged(model: &Model, folder: &Path, config: &str) -> Result<Model, AgentError> {
    fs::write(folder.join(ADAPTER_CONFIG), config).unwrap();
    model.clone().with_adapter(folder)
}

/// What PEFT 0.21.2 writes for a LoRA of rank 3.
const PEFT_CONFIG: &str = r#"{"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
    "auto_mapping": null, "base_model_name_or_path": "some/base", "bias": "none", "corda_config": null,
    "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false,
    "inference_mode": true, "init_lora_weights": true, "kasa_config": null, "layer_replication": null,
    "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 6, "lora_bias": false,
    "lora_dropout": 0.1, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
    "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2",
    "qalora_group_size": 16, "r": 3, "rank_pattern": {}, "revision": null, "target_modules": "all-linear",
    "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null,
    "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null}"#;

#[test]
fn an_adapter_of_peft_is_merged_with_its_scale() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(&[]);
    let path = folder.path().join(ADAPTER_WEIGHTS);
    factors(&model).save(&path).unwrap();
    let by_root = PEFT_CONFIG.replace("\"use_rslora\": false", "\"use_rslora\": true");
    let [plain, by_root] = [PEFT_CONFIG, &by_root].map(|config| {
        let name = "model.layers.1.self_attn.v_proj.weight";
        let merged = merged(&model, folder.path(), config).unwrap();
        f64::from(merged.policy.0[name].data[5] - model.policy.0[name].data[5])
    });
    assert!(
        (by_root / plain - 3.0_f64.sqrt()).abs() < 1e-3,
        "{by_root} and {plain}"
    );
}

#[test]
fn a_rank_and_an_alpha_of_a_module_replace_those_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(&[]);
    factors(&model)
        .save(&folder.path().join(ADAPTER_WEIGHTS))
        .unwrap();
    let change = |rank: &str, ranks: &str, alphas: &str| {
        let config = PEFT_CONFIG
            .replace("\"r\": 3", rank)
            .replace("\"rank_pattern\": {}", ranks)
            .replace("\"alpha_pattern\": {}", alphas);
        let name = "model.layers.1.self_attn.v_proj.weight";
        let merged = merged(&model, folder.path(), &config).unwrap();
        f64::from(merged.policy.0[name].data[5] - model.policy.0[name].data[5])
    };
    let [ranks, alphas] = ["\"rank_pattern\": {}", "\"alpha_pattern\": {}"];
    let plain = change("\"r\": 3", ranks, alphas);
    let by_name = change(
        "\"r\": 8",
        "\"rank_pattern\": {\"self_attn.v_proj\": 3}",
        "\"alpha_pattern\": {\"q_proj\": 1, \"v_proj\": 12}",
    );
    assert!(
        (by_name / plain - 2.0).abs() < 1e-3,
        "{by_name} and {plain}"
    );
}

/// The adapter of a decoder whose checkpoint joins matrices is merged to the same weights from the checkpoint's layout.
#[test]
fn an_adapter_is_written_for_the_checkpoint_of_its_family() {
    let base = tiny(&[]);
    let config = DecoderConfig {
        family: Family::Phi3,
        head_dim: Some(8),
        rotary_width: Some(4),
        ..base.config.clone()
    };
    let model = Model {
        policy: Weights::random(&config, 7),
        config,
        ..base
    };
    let device = support::device::device().autodiff();
    let decoder = Decoder::from_weights(&model.config, &model.policy, &device).unwrap();
    for targets in [
        Target::all(),
        vec![Target::VProj, Target::DownProj, Target::KProj],
    ] {
        let recipe = recipe(&targets);
        let learned = changed(decoder.clone().with_lora(&recipe, 1).unwrap().to_learned());
        let adapter = Adapter::new(&recipe, &model.policy.hash(), learned);
        let expected = adapter.merge(model.policy.clone()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        adapter
            .for_checkpoint(&model.config)
            .save(folder.path())
            .unwrap();
        let text = fs::read_to_string(folder.path().join(ADAPTER_CONFIG)).unwrap();
        assert!(
            text.contains("\"qkv_proj\"") && !text.contains("\"v_proj\""),
            "{text}"
        );
        let found = model.clone().with_adapter(folder.path()).unwrap().policy;
        for (name, tensor) in &expected.0 {
            assert_close(&tensor.data, &found.0[name].data, 1e-5);
            let moved = tensor.data != model.policy.0[name].data;
            let is_target = targets.iter().any(|target| name.contains(target.name()));
            assert_eq!(moved, is_target, "{name}");
        }
    }
}

#[test]
fn an_adapter_with_an_unsupported_setting_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(&[]);
    let path = folder.path().join(ADAPTER_WEIGHTS);
    factors(&model).save(&path).unwrap();
    for (from, to, words) in [
        (
            "\"use_dora\": false",
            "\"use_dora\": true",
            "adapter_config.json: use_dora is true; only a plain LoRA",
        ),
        (
            "\"LORA\"",
            "\"IA3\"",
            "peft_type is \"IA3\"; only a plain LoRA can be merged",
        ),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias is \"all\""),
        (
            "\"init_lora_weights\": true",
            "\"init_lora_weights\": \"pissa\"",
            "init_lora_weights is \"pissa\"",
        ),
        (
            "\"rank_pattern\": {}",
            "\"rank_pattern\": {\"q.*\": 8}",
            "rank_pattern contains \"q.*\"",
        ),
        (
            "\"alpha_pattern\": {}",
            "\"alpha_pattern\": {\"v_proj\": 1, \"self_attn.v_proj\": 2}",
            "two keys of alpha_pattern fit model.layers.0.self_attn.v_proj",
        ),
        (
            "\"velora_config\"",
            "\"next_config\": {\"a\": 1}, \"velora_config\"",
            "next_config is {\"a\":1}",
        ),
        ("\"r\": 3", "\"r\": 0", "r must be a whole number above 0"),
        (
            "\"r\": 3",
            "\"r\": 4",
            "adapter_model.safetensors: tensor base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight has shape [3, 24], expected [4, 24]",
        ),
        (
            "\"some/base\"",
            "\"policy:0123\"",
            "was trained on policy 0123, and this is policy",
        ),
    ] {
        assert!(PEFT_CONFIG.contains(from));
        let config = PEFT_CONFIG.replace(from, to);
        let error = merged(&model, folder.path(), &config)
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// The error after a factor of layer 1 was removed, and inserted again under another name if
/// there is one.
fn refusal_without(factor: &str, new_name: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(&[]);
    let mut factors = factors(&model);
    let tensor = factors.0.remove(factor).unwrap();
    factors
        .0
        .extend(new_name.map(|name| (name.to_string(), tensor)));
    factors.save(&folder.path().join(ADAPTER_WEIGHTS)).unwrap();
    merged(&model, folder.path(), PEFT_CONFIG)
        .unwrap_err()
        .to_string()
}

#[test]
fn an_adapter_with_a_missing_or_unknown_tensor_is_refused() {
    let [a, b, magnitude] = ["lora_A", "lora_B", "lora_magnitude_vector"]
        .map(|end| format!("base_model.model.model.layers.1.self_attn.v_proj.{end}.weight"));
    assert!(refusal_without(&a, None).ends_with(&format!("tensor {a} is missing")));
    assert!(refusal_without(&b, None).ends_with(&format!("tensor {b} is missing")));
    let error = refusal_without(&b, Some(&magnitude));
    assert!(error.contains(&b) || error.contains(&magnitude), "{error}");
    let head = format!("{PEFT_PREFIX}{VALUE_HEAD}");
    assert!(refusal_without(&b, Some(&head)).contains("is missing"));
}
