//! The peer PyTorch, measured by `train_peer.py` in the user's Python.

use super::workload::{UpdateLosses, Workload};
use crate::bench::peer::{WAIT_POLICIES, run_script};
use agent::inference::device::{DeviceChoice, GpuApi};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;
use trainer::pipeline::recipe::Algorithm;

const SCRIPT: &str = include_str!("../train_peer.py");
/// Sizes of a micro-batch, in tokens, that the peer tries: about hearth's, on the CPU a larger one, and
/// the whole batch.
const MICRO_BATCHES: [usize; 3] = [640, 2048, 1 << 30];
const MICRO_BATCHES_ON_GPU: [usize; 2] = [8192, 1 << 30];

/// What one run of the peer measured.
#[derive(Deserialize)]
pub(super) struct TorchTraining {
    pub(super) peer: String,
    /// Median time of an update.
    pub(super) seconds: f64,
    pub(super) losses: Vec<UpdateLosses>,
    pub(super) memory_mib: u64,
}

/// The fastest settings of the peer.
pub(super) struct TorchSettings<'a> {
    python: &'a Path,
    micro_batch_tokens: usize,
    wait_policy: &'static str,
}

impl<'a> TorchSettings<'a> {
    /// Tries every micro-batch size with every wait policy.
    pub(super) fn fastest(python: &'a Path, workload: &Workload<'_>) -> anyhow::Result<Self> {
        let mut best: Option<(f64, Self)> = None;
        let (sizes, policies) = match workload.device {
            DeviceChoice::Cpu => (&MICRO_BATCHES[..], &WAIT_POLICIES[..]),
            // The CPU's threads have nothing to compute.
            DeviceChoice::Gpu(..) => (&MICRO_BATCHES_ON_GPU[..], &WAIT_POLICIES[..1]),
        };
        for wait_policy in policies {
            let answer = run_peer(python, workload, sizes, wait_policy)?;
            let (seconds, micro_batch_tokens): (f64, usize) = serde_json::from_str(&answer)?;
            if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
                let settings = Self {
                    python,
                    micro_batch_tokens,
                    wait_policy,
                };
                best = Some((seconds, settings));
            }
        }
        Ok(best.context("no setting of the peer was tried")?.1)
    }

    pub(super) fn run(&self, workload: &Workload<'_>) -> anyhow::Result<TorchTraining> {
        let sizes = [self.micro_batch_tokens];
        let answer = run_peer(self.python, workload, &sizes, self.wait_policy)?;
        Ok(serde_json::from_str(&answer)?)
    }
}

/// Returns the script's stdout: if `micro_batches` has one size, a [`TorchTraining`], else the
/// fastest time and size.
fn run_peer(
    python: &Path,
    workload: &Workload<'_>,
    micro_batches: &[usize],
    wait_policy: &str,
) -> anyhow::Result<String> {
    let job = workload.job;
    let turns: Vec<Vec<_>> = (workload.batch.iter())
        .map(|trajectory| {
            trajectory
                .turns
                .iter()
                .map(|t| (&t.observation_tokens, &t.completion_tokens))
                .collect()
        })
        .collect();
    let returns: Vec<_> = (workload.batch.iter())
        .map(|episode| episode.outcome.reward())
        .collect();
    let optimizer = &job.optimizer;
    let mut request = serde_json::json!({
        "job": job.name, "batch": turns, "returns": returns,
        "updates": optimizer.updates, "learning_rate": optimizer.learning_rate, "warmup": optimizer.warmup,
        "clip": optimizer.clip, "weight_decay": optimizer.weight_decay, "betas": optimizer.betas,
        "part_tokens": micro_batches,
    });
    if let Algorithm::Oreo {
        beta,
        alpha,
        value_learning_rate,
        ..
    } = job.algorithm
    {
        request["beta"] = beta.into();
        request["alpha"] = alpha.into();
        request["value_learning_rate"] = value_learning_rate.into();
    }
    let file = workload.scratch.join("job.json");
    std::fs::write(&file, request.to_string())
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(python);
    command
        .arg("-")
        .arg("--folder")
        .arg(workload.scratch.join("model"))
        .arg("--job")
        .arg(&file)
        .args(["--threads", &workload.threads.to_string()])
        .args(["--device", &torch_device(workload.device)?])
        .args(["--precision", job.precision.name()])
        .env("OMP_WAIT_POLICY", wait_policy);
    run_script(&mut command, SCRIPT)
}

/// Returns torch's name of a device.
///
/// # Errors
/// If torch has no such device.
fn torch_device(device: DeviceChoice) -> anyhow::Result<String> {
    Ok(match device {
        DeviceChoice::Cpu => "cpu".into(),
        DeviceChoice::Gpu(GpuApi::Cuda | GpuApi::Rocm, index) => format!("cuda:{index}"),
        DeviceChoice::Gpu(api, _) => {
            bail!("--torch: torch is measured on the CPU, CUDA and ROCm, not on {api}")
        }
    })
}
