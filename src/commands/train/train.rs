//! `hearth train`: one job from its own file on trajectory stores.

use crate::ui;
use agent::inference::device::DeviceChoice;
use agent::model::folder::Model;
use clap::{Args, ValueHint};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::learn::plan::Read;
use trainer::learn::train::{self, TrainingJob};
use trainer::measure::card::Lineage;
use trainer::pipeline::recipe::{Recipe, StartFrom, open_job};
use trainer::pipeline::run::{fresh, prepare};

#[derive(Args)]
pub(crate) struct Train {
    /// The job, TOML: name, from, data, optimizer, algorithm, as one job of a recipe
    #[arg(value_hint = ValueHint::FilePath)]
    job: PathBuf,
    /// Trajectory stores to read
    #[arg(long, required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    data: Vec<PathBuf>,
    /// Model folder to start from, also the reference; not for a fresh start
    #[arg(long, value_hint = ValueHint::DirPath)]
    from: Option<PathBuf>,
    /// Recipe whose model table shapes a fresh start [default: the quickstart's]
    #[arg(long, value_hint = ValueHint::FilePath)]
    model: Option<PathBuf>,
    /// Seed of fresh weights and of the batches' order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the model, metrics.csv and the checkpoint; a job that was stopped there goes on
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Where to learn: `cpu`, or in a build with CUDA an NVIDIA GPU, `cuda` or `cuda:N`
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Trained {
    model: PathBuf,
    policy_hash: String,
    /// Trajectories in the stores.
    given: usize,
    read: Read,
}

impl Train {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.device.burn().map_err(TrainerError::from)?;
        let recipe = open_job(&self.job)?;
        let mut trajectories = Vec::new();
        for path in &self.data {
            trajectories.extend(scenarios::store::Store::read(path)?);
        }
        trajectories
            .sort_by(|a, b| (&a.game, a.repetition, a.seed).cmp(&(&b.game, b.repetition, b.seed)));
        let start = match (&self.from, &recipe.from) {
            (Some(folder), StartFrom::Collector | StartFrom::Job(_)) => {
                Model::open(folder).map_err(TrainerError::from)?
            }
            (None, StartFrom::Fresh) => {
                let shape = match &self.model {
                    Some(path) => Recipe::open(path)?.model,
                    None => Recipe::quickstart().model,
                };
                fresh(&shape, &trajectories, self.seed)?
            }
            (Some(_), StartFrom::Fresh) => {
                return Err(ui::WrongUse("--from: the job says from = \"fresh\"".into()).into());
            }
            (None, StartFrom::Collector | StartFrom::Job(_)) => {
                return Err(ui::WrongUse(
                    "--from MODEL is missing: the job is not from = \"fresh\"".into(),
                )
                .into());
            }
        };
        prepare(&recipe, &start.tokenizer, &mut trajectories, self.seed);
        let lineage = self
            .from
            .as_deref()
            .map(Lineage::open)
            .transpose()?
            .flatten();
        let job = TrainingJob {
            recipe: &recipe,
            start: &start,
            lineage: lineage.as_ref(),
            trajectories: &trajectories,
            seed: self.seed,
            out: &self.out,
            hardware: self.device,
        };
        let bar = ui::bar(&format!("train {}", recipe.name));
        let (model, read) = train::train(&job, &bar)?;
        bar.finish();
        model.save(&self.out).map_err(TrainerError::from)?;
        read.remarks()
            .iter()
            .for_each(|remark| eprintln!("{} {remark}", recipe.name));
        let trained = Trained {
            policy_hash: model.policy.hash(),
            model: self.out,
            given: trajectories.len(),
            read,
        };
        if self.json {
            ui::print_json(&trained)?;
        } else {
            ui::print(&format!(
                "policy {} in {}\n",
                trained.policy_hash,
                trained.model.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
