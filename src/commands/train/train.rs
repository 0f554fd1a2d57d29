//! `hearth train`: runs one training job on trajectory stores.

use crate::args::device;
use crate::args::policy::{FrameArgs, note_frames};
use crate::args::stores::{self, read_branches};
use crate::commands::train::ranks::in_all_ranks;
use crate::ui;
use agent::inference::device::DeviceChoice;
use agent::model::folder::Model;
use agent::text::tokenizer::Tokenizer;
use clap::{Args, ValueHint};
use env_bridge::NativeWorld;
use indicatif::ProgressBar;
use scenarios::{Suite, Trajectory};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::learn::episodes::{Episodes, Readable};
use trainer::learn::metrics::reading::ReadingProbe;
use trainer::learn::plan::DataSummary;
use trainer::learn::ranks::Ranks;
use trainer::learn::train::{self, TrainingJob};
use trainer::measure::card::Lineage;
use trainer::measure::reading::ReadingTest;
use trainer::pipeline::recipe::{Recipe, StartFrom, TrainConfig, open_job};
use trainer::pipeline::run::{fresh, prepare_one, reading_test};
use trainer::store::StoredRecords;

#[derive(Args)]
pub(crate) struct TrainCommand {
    /// The training job, a TOML file with the keys of one `[[train]]` table of a recipe
    #[arg(value_hint = ValueHint::FilePath)]
    job: PathBuf,
    /// Trajectory stores to train on: JSONL files, or folders that `hearth store compact` made
    #[arg(long, required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    data: Vec<PathBuf>,
    /// Branch stores, if the job reads `branches`: several actions of one state, with Monte-Carlo
    /// returns of each
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    branches: Vec<PathBuf>,
    /// Model folder to start from, which is also the reference; not if the job starts fresh
    #[arg(long, value_hint = ValueHint::DirPath)]
    from: Option<PathBuf>,
    #[command(flatten)]
    frames: FrameArgs,
    /// Recipe whose `model` table gives the shape of a fresh model [default: the quickstart's]
    #[arg(long, value_hint = ValueHint::FilePath)]
    model: Option<PathBuf>,
    /// Games whose expert episodes give the pairs of the job's reading test (`reading_every`), a
    /// folder or a manifest; valid_train is used, or train if there is no valid_train
    #[arg(long, value_name = "GAMES", value_hint = ValueHint::AnyPath)]
    reading_suite: Option<PathBuf>,
    /// Seed of fresh weights and of the order of batches
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the model, metrics.csv and the checkpoint; an interrupted job in it is resumed
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Device to train on: `cpu`, or a GPU that `hearth doctor` lists, such as `cuda` or `vulkan:1`,
    /// or `auto`, the first GPU, else the CPU
    #[arg(long, default_value_t, value_parser = device::read)]
    device: DeviceChoice,
    /// Train in all processes that an MPI launcher such as `srun` has started; `mpirun` needs no flag.
    /// Every process must see the same files; the first one writes
    #[arg(long)]
    mpi: bool,
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
        in_all_ranks(self.mpi, |ranks| self.run_in(ranks))
    }

    /// Runs the command in one of these processes.
    fn run_in(self, ranks: &dyn Ranks) -> anyhow::Result<ExitCode> {
        let is_first = ranks.rank() == 0;
        self.device.burn().map_err(TrainerError::from)?;
        let recipe = open_job(&self.job)?;
        self.check_reading(&recipe)?;
        let records = StoredRecords::open(&self.data)?;
        let start = self.start(&recipe.from, &records)?;
        let prepare = |episode: &mut Trajectory| {
            prepare_one(&recipe, &start.tokenizer, episode, self.seed);
        };
        let readable = Readable::new(&recipe, start.config.max_position_embeddings);
        let (episodes, counts) = Episodes::stored(readable, &records, &prepare)?;
        if is_first {
            for (store, bytes) in &counts.torn {
                stores::note_torn(store, *bytes);
            }
            warn_of_search(&recipe, &episodes);
        }
        let branches = self.branches(&recipe, &start.tokenizer)?;
        let lineage = self
            .from
            .as_deref()
            .map(Lineage::open)
            .transpose()?
            .flatten();
        let reading = self.reading(&start)?;
        let job = TrainingJob {
            recipe: &recipe,
            start: &start,
            lineage: lineage.as_ref(),
            episodes: &episodes,
            branches: &branches,
            reading: reading.as_ref().map(|test| test as &dyn ReadingProbe),
            seed: self.seed,
            out: &self.out,
            hardware: self.device,
            ranks,
        };
        let bar = if is_first {
            ui::bar(&format!("train {}", recipe.name))
        } else {
            ProgressBar::hidden()
        };
        if is_first && ranks.count() > 1 {
            eprintln!("{} processes train this job", ranks.count());
        }
        let (model, read) = train::train(&job, &bar)?;
        bar.finish();
        if !is_first {
            return Ok(ExitCode::SUCCESS);
        }
        model.save(&self.out).map_err(TrainerError::from)?;
        for remark in read.remarks() {
            eprintln!("{} {remark}", recipe.name);
        }
        let output = TrainOutput {
            policy_hash: model.policy.hash(),
            model: self.out,
            given: episodes.given(),
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

    /// Reads the branch stores, with token ids of this tokenizer.
    fn branches(
        &self,
        recipe: &TrainConfig,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Vec<Trajectory>> {
        match (recipe.critic.reads_branches(), self.branches.is_empty()) {
            (false, false) => {
                let text = "--branches: the job reads no branch states\nhint: set critic.ranking and add \"branches\" to its data";
                return Err(ui::WrongUse(text.into()).into());
            }
            (true, true) => {
                let text = "--branches FILE is missing: the job reads branch states";
                return Err(ui::WrongUse(text.into()).into());
            }
            _ => {}
        }
        read_branches(&self.branches, tokenizer)
    }

    /// Checks that the job and the flags agree on the reading test.
    fn check_reading(&self, recipe: &TrainConfig) -> anyhow::Result<()> {
        match (&self.reading_suite, recipe.reading_every) {
            (None, 0) | (Some(_), 1..) => Ok(()),
            (None, every) => Err(ui::WrongUse(format!(
                "--reading-suite GAMES is missing: the job has reading_every = {every}"
            ))
            .into()),
            (Some(_), 0) => Err(ui::WrongUse(
                "--reading-suite: the job does not set reading_every\n\
                 hint: add reading_every = 100 to the job, or remove the flag"
                    .into(),
            )
            .into()),
        }
    }

    /// Returns the job's reading test, if it has one. The expert plays its games.
    fn reading(&self, start: &Model) -> anyhow::Result<Option<ReadingTest>> {
        let Some(path) = &self.reading_suite else {
            return Ok(None);
        };
        let suite = Suite::open(path)?;
        Ok(Some(reading_test(
            &NativeWorld::new(),
            &suite,
            start,
            self.seed,
        )?))
    }

    /// Opens the model to start from, or makes a fresh one.
    fn start(&self, from: &StartFrom, records: &StoredRecords) -> anyhow::Result<Model> {
        match (&self.from, from) {
            (Some(folder), StartFrom::Collector | StartFrom::Job(_)) => {
                let model = self.frames.open(folder)?;
                note_frames(&model);
                Ok(model)
            }
            (None, StartFrom::Fresh) => {
                let shape = match &self.model {
                    Some(path) => Recipe::open(path)?.model,
                    None => Recipe::quickstart().model,
                };
                Ok(records.with_texts(|texts| fresh(&shape, texts, self.seed))??)
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

/// Prints a warning if a value network would learn from episodes of a search.
fn warn_of_search(recipe: &TrainConfig, episodes: &Episodes<'_>) {
    let searched = episodes.searched();
    if searched > 0 && recipe.algorithm.critic().is_some() {
        eprintln!(
            "warning: {searched} of {} episodes are the result of a search in copies of the world, \
             which was told of its wins; a value network of {} learns too high values from them\n\
             hint: use them for rejection_sampling or sft, and plain episodes for {1}",
            episodes.given(),
            recipe.algorithm.kind(),
        );
    }
}
