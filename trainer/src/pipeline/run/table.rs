//! The result table of a run: one row per policy, split, task type and K, and the cards beside it.

use super::context::RunContext;
use crate::error::TrainerError;
use crate::measure::card::{self, Card, CardInputs, Lineage, Sheets};
use crate::measure::compare::Baseline;
use crate::measure::csv_file::write_csv;
use crate::measure::table::{EvalRow, table};
use crate::pipeline::stages::Stage;
use scenarios::{Suite, Trajectory};
use std::path::{Path, PathBuf};

/// The rows of finished evaluations.
#[derive(Default)]
pub(super) struct ResultTable {
    /// The first greedy evaluation. All later evaluations are paired with it.
    baseline: Option<Baseline>,
    pub(super) rows: Vec<EvalRow>,
    /// The cards and the counts by game.
    sheets: Sheets,
}

impl ResultTable {
    /// Adds the rows of an evaluation. Does nothing if the stage is not an evaluation.
    ///
    /// # Errors
    /// If the stage's manifest cannot be read.
    pub(super) fn add(
        &mut self,
        context: RunContext<'_>,
        suite: &Suite,
        stage: Stage,
        played: &[Trajectory],
    ) -> Result<(), TrainerError> {
        let Stage::Evaluate {
            iteration,
            job: index,
            k,
        } = stage
        else {
            return Ok(());
        };
        let recipe = context.recipe;
        let job = &recipe.jobs[index];
        let name = card::run_policy(&job.name, iteration);
        let mut table = table(&name, k, played);
        match &self.baseline {
            Some(baseline) => baseline.pair(&mut table, played),
            None if k == 1 => self.baseline = Some(Baseline::new(&name, played)),
            None => {}
        }
        if recipe.iterations > 1 {
            let rates: Vec<String> = table
                .iter()
                .filter(|row| row.task_type.is_none())
                .map(|row| format!("{} won of {} {}", row.successes, row.n, row.split))
                .collect();
            context.say(&format!("{name}, K = {k}: {}", rates.join(", ")));
        }
        self.rows.extend(table);
        let paths = stage.paths(recipe, context.out);
        if let Some(manifest) = paths.manifest()?.filter(|_| !played.is_empty()) {
            let store = PathBuf::from(format!("{}.jsonl", paths.stage()));
            let model = Stage::Train {
                iteration,
                job: index,
            };
            let lineage = Lineage::open(&model.paths(recipe, context.out).path())?;
            let inputs = CardInputs {
                suite,
                seeds: &[recipe.seed],
                repetitions: 1,
                checkpoint: card::checkpoint_rule(job),
                extensions: &job.extensions(),
                permuted_games: lineage.map_or(0, |lineage| lineage.permuted_games()),
                code: &manifest.code,
                store: &store,
            };
            self.sheets.add(Card::new(&name, &inputs, played), played);
        }
        Ok(())
    }

    /// Writes `eval.csv` and the files beside it. If there are no rows, nothing is written.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(super) fn write(&self, out: &Path) -> Result<(), TrainerError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        write_csv(&out.join("eval.csv"), &self.rows)?;
        self.sheets.save(out)
    }
}
