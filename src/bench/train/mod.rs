//! `hearth bench train`: speed and memory of training jobs, against PyTorch on the same device with
//! the same weights, batch, losses and optimizer, and as a share of the device's peak.

mod ours;
mod report;
mod shape;
mod torch;
mod workload;

use crate::args::device;
use crate::scratch::Scratch;
use crate::ui;
use agent::inference::device::{Backend, DeviceChoice};
use agent::inference::limits::Limits;
use agent::model::decoder::Precision;
use clap::{Args, ValueHint};
use ours::HearthTraining;
use report::{TrainBenchReport, TrainBenchRow};
use scenarios::Trajectory;
use shape::DecoderShape;
use std::path::PathBuf;
use std::process::ExitCode;
use torch::{TorchSettings, TorchTraining};
use trainer::TrainerError;
use trainer::pipeline::recipe::{Algorithm, DataSource, Recipe, StartFrom, TrainConfig};
use workload::{LossDifferences, Workload, operations, same_loss};

#[derive(Args)]
pub(crate) struct BenchTrain {
    /// Shape of the decoder, which has random weights: the quickstart's, SmolLM2-135M's, or
    /// Qwen2.5-0.5B's without biases
    #[arg(long, value_enum, default_value = "quickstart")]
    shape: DecoderShape,
    /// Jobs of the quickstart's recipe, with commas between: sft, oreo
    #[arg(
        long,
        alias = "lessons",
        value_delimiter = ',',
        default_value = "sft,oreo"
    )]
    jobs: Vec<String>,
    /// Trajectories per update [default: the recipe's; 2 for the large shapes]
    #[arg(long)]
    batch: Option<usize>,
    /// Updates, all on the same batch; the figure is the median of the updates after the first two
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(3..))]
    updates: u64,
    /// Readings of each side, in turn; the figure is the fastest
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    repetitions: u64,
    /// Device: `cpu`, or a GPU that `hearth doctor` lists, such as `cuda` or `vulkan:1`, or `auto`,
    /// the first GPU, else the CPU
    #[arg(long, default_value_t, value_parser = device::read)]
    device: DeviceChoice,
    /// Precision of the matrix products: f32, or bf16
    #[arg(long, default_value = "f32", value_parser = precision)]
    precision: Precision,
    /// Python with torch and safetensors, the peer on the same device
    #[arg(long, value_name = "PYTHON", value_hint = ValueHint::FilePath)]
    torch: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

impl BenchTrain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let limits = match self.device.backend()? {
            Backend::Cpu => Limits::measure(),
            Backend::Burn(device) => {
                self.precision.check(&device)?;
                Limits::of_device(&device, self.precision)
            }
        };
        let threads = limits.threads;
        let peak = limits.flop_per_s / 1e9;
        eprintln!("{threads} threads, {peak:.0} GFLOP/s");
        let mut rows = Vec::new();
        for name in &self.jobs {
            rows.push(self.row(name, limits)?);
        }
        let report = TrainBenchReport {
            device: self.device.to_string(),
            precision: self.precision.name(),
            threads,
            peak,
            rows,
        };
        if self.json {
            ui::print_json(&report)?;
        } else {
            report.print();
        }
        Ok(ExitCode::SUCCESS)
    }

    fn row(&self, name: &str, limits: Limits) -> anyhow::Result<TrainBenchRow> {
        let scratch = Scratch::new();
        let job = self.job(name)?;
        let (model, batch) = self
            .shape
            .model_and_batch(job.optimizer.batch, scratch.path())?;
        let tokens: usize = batch.iter().map(Trajectory::tokens).sum();
        eprintln!(
            "{name}: {} trajectories, {tokens} tokens per update",
            batch.len()
        );
        let folder = scratch.path().join("model");
        model.save(&folder).map_err(TrainerError::from)?;
        let workload = Workload {
            job: &job,
            batch: &batch,
            scratch: scratch.path(),
            threads: limits.threads,
            device: self.device,
        };
        let (ours, peer) = self.measure(&workload)?;
        let differences = peer
            .as_ref()
            .map(|peer| {
                let allowed = same_loss(self.device, self.precision);
                LossDifferences::of(&ours.losses, &peer.losses, allowed)
            })
            .transpose()?;
        let memory_ratio = peer
            .as_ref()
            .zip(ours.memory_mib)
            .map(|(peer, ours)| ours as f64 / peer.memory_mib as f64);
        Ok(TrainBenchRow {
            what: name.into(),
            model: self.shape.name().into(),
            batch: batch.len(),
            tokens,
            ours: tokens as f64 / ours.seconds,
            peer: peer.as_ref().map(|peer| tokens as f64 / peer.seconds),
            peer_name: peer.as_ref().map(|peer| peer.peer.clone()),
            ratio: peer.as_ref().map(|peer| peer.seconds / ours.seconds),
            memory_mib: ours.memory_mib,
            peer_memory_mib: peer.as_ref().map(|peer| peer.memory_mib),
            memory_ratio,
            share_of_peak: operations(&model.config, &batch, &job.algorithm)
                / (ours.seconds * limits.flop_per_s),
            first_loss_off: differences.map(|found| found.first_update),
            loss_off: differences.map(|found| found.any_update),
        })
    }

    /// Runs both sides in turn, and keeps the fastest time of each.
    fn measure(
        &self,
        workload: &Workload<'_>,
    ) -> anyhow::Result<(HearthTraining, Option<TorchTraining>)> {
        let settings = self
            .torch
            .as_ref()
            .map(|python| TorchSettings::fastest(python, workload))
            .transpose()?;
        let mut ours = HearthTraining::run(workload)?;
        let mut peer = settings
            .as_ref()
            .map(|settings| settings.run(workload))
            .transpose()?;
        for _ in 1..self.repetitions {
            ours.seconds = ours.seconds.min(HearthTraining::run(workload)?.seconds);
            if let (Some(settings), Some(peer)) = (&settings, &mut peer) {
                peer.seconds = peer.seconds.min(settings.run(workload)?.seconds);
            }
        }
        Ok((ours, peer))
    }

    /// Returns the quickstart's job of that name, changed to train on one batch again and again.
    /// The policy learns from the first update on.
    fn job(&self, name: &str) -> anyhow::Result<TrainConfig> {
        let known = Recipe::quickstart().jobs;
        let found = known
            .into_iter()
            .find(|job| job.name == name && ["sft", "oreo"].contains(&name));
        let Some(mut job) = found else {
            let text = format!("--jobs {name}: the jobs are sft and oreo");
            return Err(ui::WrongUse(text).into());
        };
        job.from = StartFrom::Collector;
        job.data = vec![DataSource::Demonstrations];
        job.precision = self.precision;
        job.optimizer.updates = usize::try_from(self.updates)?;
        job.optimizer.batch = self.batch.unwrap_or(match self.shape {
            DecoderShape::Quickstart => job.optimizer.batch,
            DecoderShape::Smollm2 | DecoderShape::Qwen2 => 2,
        });
        if job.optimizer.batch == 0 {
            return Err(ui::WrongUse("--batch starts at 1".into()).into());
        }
        if let Algorithm::Oreo {
            critic_only_share, ..
        } = &mut job.algorithm
        {
            *critic_only_share = 0.0;
        }
        Ok(job)
    }
}

fn precision(text: &str) -> Result<Precision, String> {
    [Precision::F32, Precision::Bf16]
        .into_iter()
        .find(|precision| precision.name() == text)
        .ok_or_else(|| "the precisions are f32 and bf16".into())
}
