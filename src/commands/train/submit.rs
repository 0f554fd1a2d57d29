//! `hearth submit`: prints the job script or manifest with which a cluster's scheduler runs a whole
//! loop. Nothing of hearth stays running between the jobs.

mod scripts;

use crate::code::CODE;
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueEnum, ValueHint};
use scripts::{Cluster, LoopJob};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::pipeline::recipe::Recipe;

/// What runs the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scheduler {
    /// Slurm: a job array for `sbatch`
    Slurm,
    /// PBS Professional: a job array for `qsub`
    Pbs,
    /// Kubernetes: an Indexed Job for `kubectl apply`
    K8s,
}

#[derive(Args)]
pub(crate) struct SubmitCommand {
    /// The scheduler
    scheduler: Scheduler,
    /// The recipe, a TOML file
    #[arg(value_hint = ValueHint::FilePath)]
    recipe: PathBuf,
    /// Processes, each of which plays a share of the games; the first also merges, trains and
    /// evaluates
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    processes: u32,
    /// Folder of the run, which all processes must see [default: runs/NAME]
    #[arg(long, value_hint = ValueHint::DirPath)]
    run: Option<PathBuf>,
    /// Write the script to this file instead of printing it
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// CPU cores of each process
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// Memory of each process, GiB
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
    /// GPUs of each process; with more than 0, `--device` is `cuda` unless it is given
    #[arg(long, default_value_t = 0)]
    gpus: u32,
    /// Device to train and play on, as in `hearth loop` [default: cpu, or cuda with --gpus]
    #[arg(long)]
    device: Option<String>,
    /// Time limit, as the scheduler reads it, such as 12:00:00; a run that is cut off continues when
    /// its script is submitted again
    #[arg(long)]
    time: Option<String>,
    /// Partition or queue
    #[arg(long)]
    queue: Option<String>,
    /// The program [default: this one; on Kubernetes `hearth` of the image]
    #[arg(long, value_hint = ValueHint::FilePath)]
    hearth: Option<PathBuf>,
    /// Kubernetes: the container image
    #[arg(long, required_if_eq("scheduler", "k8s"))]
    image: Option<String>,
    /// Kubernetes: the claim of a volume that all pods can write to (ReadWriteMany)
    #[arg(long, required_if_eq("scheduler", "k8s"))]
    claim: Option<String>,
    /// Kubernetes: where the volume is mounted; relative paths are paths in it
    #[arg(long, default_value = "/data")]
    mount: PathBuf,
}

impl SubmitCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = Recipe::open(&self.recipe)?;
        let text = self.script(&recipe.name)?;
        match &self.out {
            None => ui::print(&text),
            Some(path) => {
                std::fs::write(path, text)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                let how = match self.scheduler {
                    Scheduler::Slurm => "sbatch",
                    Scheduler::Pbs => "qsub",
                    Scheduler::K8s => "kubectl apply -f",
                };
                ui::note(&format!("submit it: {how} {}", path.display()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn script(&self, name: &str) -> anyhow::Result<String> {
        for (flag, value) in [("--time", &self.time), ("--queue", &self.queue)] {
            if let Some(value) = value
                && !value
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.:,".contains(c))
            {
                let text = format!("{flag} {value:?}: it has characters that no scheduler reads");
                return Err(ui::WrongUse(text).into());
            }
        }
        let run = self
            .run
            .clone()
            .unwrap_or_else(|| PathBuf::from("runs").join(name));
        let (recipe, run, hearth) = match self.scheduler {
            Scheduler::K8s => (
                self.mount.join(&self.recipe),
                self.mount.join(run),
                self.hearth.clone().unwrap_or_else(|| "hearth".into()),
            ),
            Scheduler::Slurm | Scheduler::Pbs => (
                absolute(&self.recipe)?,
                absolute(&run)?,
                match &self.hearth {
                    Some(path) => path.clone(),
                    None => std::env::current_exe()
                        .context("cannot find the path of this program; give --hearth")?,
                },
            ),
        };
        let job = LoopJob {
            name: name.into(),
            version: CODE.into(),
            hearth,
            recipe,
            run,
            device: match (&self.device, self.gpus) {
                (Some(device), _) => device.clone(),
                (None, 0) => "cpu".into(),
                (None, _) => "cuda".into(),
            },
            processes: self.processes,
            cpus: self.cpus,
            memory: self.memory,
            gpus: self.gpus,
            time: self.time.clone(),
            queue: self.queue.clone(),
        };
        Ok(match self.scheduler {
            Scheduler::Slurm => job.slurm(),
            Scheduler::Pbs => job.pbs(),
            Scheduler::K8s => job.kubernetes(&Cluster {
                image: self.image.clone().unwrap_or_default(),
                claim: self.claim.clone().unwrap_or_default(),
                mount: self.mount.clone(),
            })?,
        })
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path)
        .with_context(|| format!("cannot make {} an absolute path", path.display()))
}
