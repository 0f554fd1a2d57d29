//! `hearth reading`: whether a model reads the lists of objects in its observations.

use crate::args::policy::{FOLDER_HINT, PolicyKind};
use crate::args::world::WorldArgs;
use crate::commands::data::suite_table::{no_games, report_faults};
use crate::ui;
use agent::inference::PolicyInference;
use agent::inference::device::Backend;
use agent::model::folder::Model;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::{Split, Suite, Task, WeightFormat};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::measure::csv_file::write_csv;
use trainer::measure::reading::ReadingTest;
use trainer::measure::reading::scores::{ReadingRow, reading_table};
use trainer::pipeline::rounds::expert_episodes;

#[derive(Args)]
pub(crate) struct ReadingCommand {
    /// Policy: a model folder
    #[arg(long, value_hint = ValueHint::DirPath)]
    policy: String,
    /// Games: a game file, a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Split whose games give the pairs
    #[arg(long, default_value = "valid_train")]
    split: Split,
    /// Number of games, taken from the start of the split; 0 means all
    #[arg(long, default_value_t = 200)]
    games: usize,
    /// Seed of the expert's episodes and of the random lists
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// CSV file to write, with one row per measure; it is replaced if it exists
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: WorldArgs,
}

/// A row of the CSV file. It names the model and the games, so that files can be joined.
#[derive(Serialize)]
struct ReadingCsvRow<'a> {
    policy: &'a str,
    policy_hash: &'a str,
    suite: &'a str,
    split: Split,
    measure: &'a str,
    value: f64,
    low: f64,
    high: f64,
    n: usize,
}

/// The JSON output of `hearth reading`.
#[derive(Serialize)]
struct ReadingOutput {
    policy_hash: String,
    suite: String,
    split: Split,
    seed: u64,
    games: usize,
    /// Games without a pair.
    left_out: usize,
    rows: Vec<ReadingRow>,
}

impl ReadingCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if PolicyKind::of(&self.policy) != PolicyKind::Folder {
            let text = format!("--policy {}: must be a model folder", self.policy);
            return Err(ui::WrongUse(format!("{text}\n{FOLDER_HINT}")).into());
        }
        let suite = Suite::open(&self.suite)?;
        report_faults(&suite);
        let tasks = self.tasks(&suite)?;
        let mut model = Model::open(Path::new(&self.policy))
            .map_err(TrainerError::from)
            .with_context(|| format!("--policy {}", self.policy))?;
        let translated_to = self
            .world
            .translation(&self.policy, &model.text_versions, &tasks)?;
        let opened = self.world.open(tasks.len())?;
        let world = opened.in_version(translated_to);
        let episodes = expert_episodes(world.world(), &tasks, self.seed);
        opened.report_replaced();
        ui::report_lost(&episodes);
        let context = model.config.max_position_embeddings;
        let test = ReadingTest::new(&model.tokenizer, context, &episodes, self.seed)?;
        if test.left_out > 0 {
            eprintln!(
                "{} of {} games give no pair: the object is alone in its list, was not found, or is \
                 beyond the context",
                test.left_out,
                episodes.len()
            );
        }
        let policy_hash = model.policy.hash();
        let policy = PolicyInference::from_weights(
            &model.config,
            &mut model.policy,
            WeightFormat::Exact,
            &Backend::Cpu,
        )
        .map_err(TrainerError::from)?;
        let output = ReadingOutput {
            policy_hash,
            suite: suite.hash(),
            split: self.split,
            seed: self.seed,
            games: episodes.len(),
            left_out: test.left_out,
            rows: test.measure(&policy).rows(),
        };
        if let Some(path) = &self.out {
            write_csv(path, &output.csv_rows(&self.policy))?;
        }
        if self.json {
            ui::print_json(&output)?;
        } else {
            ui::print(&reading_table(&output.rows));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn tasks<'a>(&self, suite: &'a Suite) -> anyhow::Result<Vec<&'a Task>> {
        let tasks = suite.first(self.split, self.games);
        if tasks.is_empty() {
            return Err(no_games(suite, &self.suite, self.split));
        }
        Ok(tasks)
    }
}

impl ReadingOutput {
    fn csv_rows<'a>(&'a self, policy: &'a str) -> Vec<ReadingCsvRow<'a>> {
        self.rows
            .iter()
            .map(|row| ReadingCsvRow {
                policy,
                policy_hash: &self.policy_hash,
                suite: &self.suite,
                split: self.split,
                measure: row.measure,
                value: row.value,
                low: row.low,
                high: row.high,
                n: row.n,
            })
            .collect()
    }
}
