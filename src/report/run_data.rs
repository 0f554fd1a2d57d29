//! The contents of a run or of an evaluation, as the page and the plots use them.

use super::labels::{best_of, title};
use super::pack::{Packed, PackedStore};
use scenarios::Split;
use serde::Deserialize;
use std::collections::BTreeMap;
use trainer::measure::table::EvalRow;

/// A run or an evaluation.
pub(crate) struct RunData {
    pub(super) name: String,
    /// Label and value of seed, suite, code and others, from `run.json` or `eval.json`.
    pub(super) facts: Vec<(String, String)>,
    pub(super) recipe: Option<String>,
    /// The table.
    pub(crate) rows: Vec<EvalRow>,
    /// The file of the table; `None` if it was counted from the stores.
    pub(super) table: Option<String>,
    /// How the episodes of the table were played, if `eval.json` records it.
    pub(super) table_protocols: Vec<String>,
    /// How each kind of episode was played, each line once.
    pub(super) protocols: Vec<(String, String)>,
    pub(super) jobs: Vec<TrainingCurves>,
    pub(super) sweeps: Vec<SweepTable>,
    pub(crate) packed: Packed,
    /// Messages for the user.
    pub(crate) notes: Vec<String>,
}

/// The updates of one training job.
pub(super) struct TrainingCurves {
    pub(super) iteration: Option<usize>,
    pub(super) name: String,
    /// By the column of `metrics.csv`; `None` if a cell is empty or not finite.
    pub(super) columns: BTreeMap<String, Vec<Option<f64>>>,
}

/// One `sweep.csv` (`lab.csv` in older runs): success of best-of-K by scorer.
pub(super) struct SweepTable {
    pub(super) file: String,
    pub(super) points: Vec<SweepPoint>,
}

/// The columns of `sweep.csv` that a curve needs. The aliases of `scorer` are its names in older
/// runs.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SweepPoint {
    #[serde(default)]
    pub(super) policy: Option<String>,
    #[serde(alias = "score", alias = "chosen_by", alias = "chooser")]
    pub(super) scorer: String,
    pub(super) k: usize,
    pub(super) split: Split,
    pub(super) n: usize,
    pub(super) success_rate: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl SweepPoint {
    /// The name of the curve that this point belongs to.
    pub(super) fn curve(&self) -> String {
        match &self.policy {
            Some(policy) => format!("{policy}, {}", self.scorer),
            None => self.scorer.clone(),
        }
    }
}

impl RunData {
    /// Returns the store behind a row of the table. If several stores have the row's policy and K,
    /// it is the one whose protocol is recorded in `eval.json`.
    pub(super) fn store_of(&self, row: &EvalRow) -> Option<&PackedStore> {
        let mut stores = self
            .packed
            .stores()
            .iter()
            .filter(|store| store.played.policy == row.policy && store.played.k == row.k);
        stores
            .clone()
            .find(|store| self.table_protocols.contains(&store.played.protocol))
            .or_else(|| stores.next())
    }

    /// Returns the name of a row's policy on the page.
    pub(crate) fn row_title(&self, row: &EvalRow) -> String {
        self.store_of(row).map_or_else(
            || title(&row.policy, &best_of(row.k)),
            |store| store.played.title.clone(),
        )
    }
}
