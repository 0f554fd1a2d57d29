//! `hearth train`: runs one training job on trajectory stores.

use crate::args::stores;
use crate::ui;
use agent::inference::device::DeviceChoice;
use agent::model::folder::Model;
use clap::{Args, ValueHint};
use scenarios::Trajectory;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::learn::plan::DataSummary;
use trainer::learn::train::{self, TrainingJob};
use trainer::measure::card::Lineage;
use trainer::pipeline::recipe::{Recipe, StartFrom, open_job};
use trainer::pipeline::run::{fresh, prepare};

#[derive(Args)]
pub(crate) struct TrainCommand {
    /// The training job, a TOML file with the keys of one `[[train]]` table of a recipe
    #[arg(value_hint = ValueHint::FilePath)]
    job: PathBuf,
    /// Trajectory stores to train on
    #[arg(long, required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    data: Vec<PathBuf>,
    /// Stores of `hearth branch`, if the job's data contain "branches"
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    branches: Vec<PathBuf>,
    /// Model folder to start from, which is also the reference; not if the job starts fresh
    #[arg(long, value_hint = ValueHint::DirPath)]
    from: Option<PathBuf>,
    /// Recipe whose `model` table gives the shape of a fresh model [default: the quickstart's]
    #[arg(long, value_hint = ValueHint::FilePath)]
    model: Option<PathBuf>,
    /// Seed of fresh weights and of the order of batches
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the model, metrics.csv and the checkpoint; an interrupted job in it is resumed
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Device to train on: `cpu`, or `cuda` or `cuda:N` in a build with CUDA
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

/// The JSON output of `hearth train`.
#[derive(Serialize)]
struct TrainOutput {
    model: PathBuf,
    policy_hash: String,
    /// Trajectories in the stores.
    given: usize,
    read: DataSummary,
}

impl TrainCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.device.burn().map_err(TrainerError::from)?;
        let recipe = open_job(&self.job)?;
        let mut trajectories = Vec::new();
        for path in &self.data {
            trajectories.extend(scenarios::store::Store::read(path)?);
        }
        trajectories
            .sort_by(|a, b| (&a.game, a.repetition, a.seed).cmp(&(&b.game, b.repetition, b.seed)));
        let start = self.start(&recipe.from, &trajectories)?;
        prepare(&recipe, &start.tokenizer, &mut trajectories, self.seed);
        let branches = stores::read_branches(&self.branches)?;
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
            branches: &branches,
            seed: self.seed,
            out: &self.out,
            hardware: self.device,
        };
        let bar = ui::bar(&format!("train {}", recipe.name));
        let (model, read) = train::train(&job, &bar)?;
        bar.finish();
        model.save(&self.out).map_err(TrainerError::from)?;
        for remark in read.remarks() {
            eprintln!("{} {remark}", recipe.name);
        }
        let output = TrainOutput {
            policy_hash: model.policy.hash(),
            model: self.out,
            given: trajectories.len(),
            read,
        };
        if self.json {
            ui::print_json(&output)?;
        } else {
            ui::print(&format!(
                "policy {} in {}\n",
                output.policy_hash,
                output.model.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Opens the model to start from, or makes a fresh one.
    fn start(&self, from: &StartFrom, trajectories: &[Trajectory]) -> anyhow::Result<Model> {
        match (&self.from, from) {
            (Some(folder), StartFrom::Collector | StartFrom::Job(_)) => {
                Ok(Model::open(folder).map_err(TrainerError::from)?)
            }
            (None, StartFrom::Fresh) => {
                let shape = match &self.model {
                    Some(path) => Recipe::open(path)?.model,
                    None => Recipe::quickstart().model,
                };
                Ok(fresh(&shape, trajectories, self.seed)?)
            }
            (Some(_), StartFrom::Fresh) => {
                Err(ui::WrongUse("--from: the job has from = \"fresh\"".into()).into())
            }
            (None, StartFrom::Collector | StartFrom::Job(_)) => Err(ui::WrongUse(
                "--from MODEL is missing: the job does not have from = \"fresh\"".into(),
            )
            .into()),
        }
    }
}
