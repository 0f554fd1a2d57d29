//! Training jobs with adapters: which tensors move, which files are written, and that resuming
//! equals not stopping.

use crate::training_jobs::in_memory;
use agent::model::decoder::Precision;
use agent::model::folder::Model;
use agent::model::lora::{LoraRecipe, Target};
use agent::model::peft::Adapter;
use agent::model::weights::{VALUE_HEAD, Weights};
use agent::policy::ScriptedPolicy;
use indicatif::ProgressBar;
use scenarios::Trajectory;
use std::collections::BTreeMap;
use std::path::Path;
use support::corridor::{babbler, jobs, play, protocol, task};
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::learn::ranks::Alone;
use trainer::learn::train::{TrainingJob, train};
use trainer::pipeline::recipe::{Algorithm, Level, Normalisation, Targets, TrainConfig};
use trainer::pipeline::run::tokenize_texts;

/// Updates after which a checkpoint is written.
const CHECKPOINT: usize = 100;

const SFT: Algorithm = Algorithm::Sft {
    targets: Targets::Actions,
};

const OREO: Algorithm = Algorithm::Oreo {
    level: Level::Token,
    beta: 0.1,
    alpha: 0.0,
    value_learning_rate: 1e-2,
    critic_only_share: 0.0,
    discount: 1.0,
    normalise: Normalisation::Trajectory,
    log_ratio_clip: None,
    path_length: None,
    imitation_coef: 0.0,
};

/// A job with adapters on all matrices but one.
fn recipe(algorithm: Algorithm, optimizer: OptimizerRecipe) -> TrainConfig {
    let targets = Target::all()
        .into_iter()
        .filter(|target| *target != Target::KProj)
        .collect();
    TrainConfig {
        optimizer,
        lora: Some(LoraRecipe {
            rank: 4,
            alpha: 8.0,
            targets,
        }),
        ..TrainConfig::of(algorithm)
    }
}

fn updates(trajectories: &[Trajectory], updates: usize) -> OptimizerRecipe {
    OptimizerRecipe {
        batch: trajectories.len(),
        learning_rate: 1e-2,
        updates,
        ..OptimizerRecipe::default()
    }
}

fn learn(recipe: &TrainConfig, start: &Model, trajectories: &[Trajectory], out: &Path) -> Model {
    let job = TrainingJob {
        recipe,
        start,
        lineage: None,
        reading: None,
        episodes: &in_memory(recipe, start, trajectories).unwrap(),
        branches: &[],
        seed: 7,
        out,
        hardware: support::device::choice(),
        ranks: &Alone,
    };
    train(&job, &ProgressBar::hidden()).unwrap().0
}

/// A column of metrics.csv, update by update.
fn column(out: &Path, name: &str) -> Vec<f64> {
    let mut reader = csv::Reader::from_path(out.join("metrics.csv")).unwrap();
    reader
        .deserialize::<BTreeMap<String, String>>()
        .map(|row| row.unwrap()[name].parse().unwrap())
        .collect()
}

/// A win, a loss and a win, played by scripts.
fn episodes(model: &Model) -> Vec<Trajectory> {
    let scripted = |id: &str, commands: &[&str]| {
        let policy = ScriptedPolicy(commands.iter().map(ToString::to_string).collect());
        play(
            &policy,
            &jobs(&[task(id)], 1),
            &protocol(),
            agent::rollout::Concurrency {
                workers: 1,
                episodes: 1,
            },
        )
        .remove(0)
    };
    let mut played = vec![
        scripted("plain/2", &["east", "east"]),
        scripted("plain/9", &["east", "west"]),
        scripted("plain/1", &["east"]),
    ];
    tokenize_texts(&model.tokenizer, &mut played);
    played
}

/// Names of the tensors that differ.
fn moved(a: &Weights, b: &Weights) -> Vec<String> {
    assert!(a.0.keys().eq(b.0.keys()));
    a.0.iter()
        .filter(|(name, tensor)| b.0[*name] != **tensor)
        .map(|(name, _)| name.clone())
        .collect()
}

/// The first losses are those of the whole networks, to the bit. Then the matrices with adapters
/// move, by no more than the rank, and the head of a value network. The adapter files beside the
/// model contain the same change.
#[test]
fn only_matrices_with_adapters_move() {
    let model = babbler(22);
    let played = episodes(&model);
    for algorithm in [SFT, OREO] {
        let with = recipe(algorithm, updates(&played, 4));
        let out = tempfile::tempdir().unwrap();
        let whole = tempfile::tempdir().unwrap();
        let learned = learn(&with, &model, &played, out.path());
        learn(
            &TrainConfig {
                lora: None,
                ..with.clone()
            },
            &model,
            &played,
            whole.path(),
        );
        let first = |column_of: &Path| column(column_of, "loss/policy")[0];
        assert_eq!(first(out.path()), first(whole.path()));

        let adapted = |name: &&String| name.contains("_proj.weight") && !name.contains("k_proj");
        let expected: Vec<String> = model.policy.0.keys().filter(adapted).cloned().collect();
        assert_eq!(moved(&learned.policy, &model.policy), expected);
        let merges = |folder: &Path, base: &Weights, learned: &Weights| {
            let adapter = Adapter::open(folder).unwrap();
            assert_eq!(adapter.base(), Some(&*model.policy.hash()));
            let merged = adapter.merge(base.clone()).unwrap();
            assert!(merged.0.keys().eq(learned.0.keys()));
            for (name, tensor) in &merged.0 {
                let off = tensor
                    .data
                    .iter()
                    .zip(&learned.0[name].data)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(off < 1e-6, "{name} is off by {off}");
            }
        };
        merges(&out.path().join("adapter"), &model.policy, &learned.policy);
        assert_eq!(
            learned.value.is_some(),
            out.path().join("value/adapter").exists()
        );
        if let Some(value) = &learned.value {
            let base = model.policy.with_zero_value_head(&model.config);
            assert_eq!(
                moved(value, &base),
                [expected, vec![VALUE_HEAD.to_string()]].concat()
            );
            merges(&out.path().join("value/adapter"), &base, value);
        }
        learned.save(out.path()).unwrap();
        let opened = Model::open(out.path()).unwrap();
        assert_eq!(
            (opened.policy, opened.value),
            (learned.policy, learned.value),
            "the adapter files do not matter"
        );
    }
}

/// If one batch is read repeatedly, the loss decreases, in bf16 as far as that of whole networks.
#[test]
fn adapters_lower_the_loss_in_both_precisions() {
    let model = babbler(22);
    let played = episodes(&model);
    for (algorithm, name) in [(SFT, "loss/policy"), (OREO, "loss/value")] {
        for precision in [Precision::F32, Precision::Bf16] {
            if precision.check(&support::device::device()).is_err() {
                continue;
            }
            let job = TrainConfig {
                precision,
                ..recipe(algorithm.clone(), updates(&played, 8))
            };
            let out = tempfile::tempdir().unwrap();
            learn(&job, &model, &played, out.path());
            let losses = column(out.path(), name);
            assert!(
                losses[7] < 0.95 * losses[0],
                "{algorithm:?} in {precision:?}: {losses:?}"
            );
        }
    }
}

/// If the rank is that of the matrices, the factors can represent any change of them.
#[test]
fn adapters_of_full_rank_learn_about_as_fast_as_the_matrices() {
    let model = babbler(22);
    let played = episodes(&model);
    let rank = model.config.intermediate_size.max(model.config.hidden_size);
    let lora = LoraRecipe {
        rank,
        alpha: rank as f64,
        targets: Target::all(),
    };
    let whole = TrainConfig {
        lora: None,
        ..recipe(SFT, updates(&played, 12))
    };
    let with = TrainConfig {
        lora: Some(lora),
        ..whole.clone()
    };
    let [whole, with] = [whole, with].map(|job| {
        let out = tempfile::tempdir().unwrap();
        learn(&job, &model, &played, out.path());
        let losses = column(out.path(), "loss/policy");
        losses[0] - losses[11]
    });
    assert!(
        with > 0.5 * whole,
        "lowered by {with}, without adapters by {whole}"
    );
}

/// As for whole networks in resuming.rs: a second call resumes at the checkpoint and must end in
/// the same bits. The checkpoint has the factors, the head and their moments, and no matrix with an
/// adapter.
#[test]
fn resuming_with_adapters_equals_not_stopping() {
    let model = babbler(28);
    let played = episodes(&model);
    for algorithm in [SFT, OREO] {
        let optimizer = OptimizerRecipe {
            batch: 1,
            updates: CHECKPOINT + 4,
            weight_decay: 0.01,
            ..OptimizerRecipe::default()
        };
        let job = recipe(algorithm, optimizer);
        let out = tempfile::tempdir().unwrap();
        let whole = learn(&job, &model, &played, out.path());
        let losses = column(out.path(), "loss/policy");
        let seconds = column(out.path(), "seconds");

        let tensors = |name: &str| {
            Weights::open(&out.path().join(format!("checkpoint/{name}.safetensors"))).unwrap()
        };
        let factors = tensors("policy");
        assert_eq!(factors.0.len(), 2 * 6 * model.config.num_hidden_layers);
        assert!(factors.0.keys().all(|name| name.contains(".lora_")));
        assert_eq!(
            tensors("policy-optimizer").0.len(),
            2 * factors.0.len() + 1,
            "two moments each, and a count"
        );
        if whole.value.is_some() {
            assert_eq!(
                tensors("value").0.len(),
                factors.0.len() + 1,
                "the head too"
            );
            assert_eq!(tensors("value-optimizer").0.len(), 2 * factors.0.len() + 3);
        }

        let adapter = Adapter::open(&out.path().join("adapter")).unwrap();
        let resumed = learn(&job, &model, &played, out.path());
        assert_eq!((resumed.policy, resumed.value), (whole.policy, whole.value));
        assert_eq!(column(out.path(), "loss/policy"), losses);
        assert_eq!(
            column(out.path(), "seconds")[..CHECKPOINT],
            seconds[..CHECKPOINT],
            "not computed again"
        );
        assert_eq!(Adapter::open(&out.path().join("adapter")).unwrap(), adapter);
    }
}

/// The table `lora` of a job file, and the settings that exclude it.
#[test]
fn adapters_are_set_by_a_table_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.toml");
    let read = |lines: &str| {
        let text = format!(
            "name = \"job\"\nfrom = \"collector\"\ndata = [\"rollouts\"]\n{lines}\n\
             [algorithm]\nkind = \"sft\"\ntargets = \"actions\"\n"
        );
        std::fs::write(&path, text).unwrap();
        trainer::pipeline::recipe::open_job(&path).map_err(|error| error.to_string())
    };
    let job = read("lora = { rank = 8, alpha = 16 }").unwrap();
    assert_eq!(
        job.lora,
        Some(LoraRecipe {
            rank: 8,
            alpha: 16.0,
            targets: Target::all()
        })
    );
    assert_eq!(
        toml::from_str::<TrainConfig>(&toml::to_string(&job).unwrap()).unwrap(),
        job
    );
    let some = read("lora = { rank = 8, alpha = 16, targets = [\"q_proj\", \"v_proj\"] }").unwrap();
    assert_eq!(some.lora.unwrap().targets, [Target::QProj, Target::VProj]);
    let plain = read("").unwrap();
    assert!(plain.lora.is_none() && !toml::to_string(&plain).unwrap().contains("lora"));
    for (lines, words) in [
        ("lora = { rank = 0, alpha = 16 }", "lora: rank starts at 1"),
        ("lora = { rank = 8 }", "missing field `alpha`"),
        (
            "lora = { rank = 8, alpha = 16, dropout = 0.1 }",
            "unknown field `dropout`",
        ),
        (
            "lora = { rank = 8, alpha = 16, targets = [\"lm_head\"] }",
            "unknown variant `lm_head`",
        ),
        (
            "lora = { rank = 8, alpha = 16 }\noptimizer = { last_layers = 1 }",
            "lora and last_layers exclude each other",
        ),
    ] {
        let error = read(lines).unwrap_err();
        assert!(
            error.contains(words) && error.contains("job.toml"),
            "{error}"
        );
    }
}
