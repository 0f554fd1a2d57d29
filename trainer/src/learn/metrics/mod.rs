//! The log of a training job, one row an update: `metrics.csv`, and the same numbers as TensorBoard
//! events.
//!
//! If a job resumes, the rows after its checkpoint are removed from both, so each update has one
//! row.

pub mod reading;
mod tensorboard;

use crate::error::TrainerError;
use crate::learn::objective::BatchStatistics;
use crate::statistics::{TurnPrediction, area_given_turn, area_under_curve, mean, quantile};
use reading::{READING_COLUMNS, ReadingNumbers};
use scenarios::files;
use std::fs::File;
use std::path::{Path, PathBuf};
use tensorboard::{EventWriter, wall_time};

/// Number of columns.
const COUNT: usize = 30;

/// Number of columns of the first version. Later versions appended columns.
const FIRST_COUNT: usize = 27;

/// Columns in order. The same names are TensorBoard's tags.
const COLUMNS: [&str; COUNT] = [
    "update",
    "epoch",
    "learning_rate",
    "trajectories",
    "tokens",
    "success_rate",
    "loss/policy",
    "loss/value",
    "loss/after_value",
    "loss/held_out",
    "kl/exact",
    "kl/k3",
    "log_ratio/p05",
    "log_ratio/p50",
    "log_ratio/p95",
    "value/min",
    "value/mean",
    "value/max",
    "value/auc",
    "gradient_norm/policy",
    "gradient_norm/value",
    "tokens_per_s",
    "time/forward",
    "time/backward",
    "time/update",
    "time/other",
    "seconds",
    "value/auc_given_turn",
    "loss/ranking",
    "loss/policy_branch",
];

/// The numbers of one update. A number that an algorithm does not have is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsRow {
    /// The update, from 0.
    pub update: usize,
    /// The epoch, from 0.
    pub epoch: usize,
    /// Learning rate of the policy.
    pub learning_rate: f64,
    /// Trajectories of this update.
    pub trajectories: usize,
    /// Their tokens, without padding.
    pub tokens: usize,
    /// The share of them that were won.
    pub success_rate: f64,
    /// Losses, KL, log-ratios and values.
    pub statistics: BatchStatistics,
    /// Loss of policy and value network on the held-out games, if they were evaluated.
    pub held_out: Option<f64>,
    /// The reading test, if it was run after this update.
    pub reading: Option<ReadingNumbers>,
    /// Gradient norm of the policy before clipping.
    pub gradient_norm_policy: Option<f64>,
    /// Gradient norm of the value network before clipping.
    pub gradient_norm_value: Option<f64>,
    /// Wall-clock time.
    pub time: UpdateTime,
}

/// Wall-clock seconds of one update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UpdateTime {
    /// The whole update.
    pub total: f64,
    /// Forward passes and losses, mean over the replicas.
    pub forward: f64,
    /// Backward passes, mean over the replicas.
    pub backward: f64,
    /// The optimizer, and copying the new weights into the networks.
    pub update: f64,
}

impl MetricsRow {
    /// Returns the numbers in the order of [`COLUMNS`].
    fn numbers(&self) -> [Option<f64>; COUNT] {
        let BatchStatistics {
            loss_policy,
            loss_value,
            loss_after_value,
            loss_ranking,
            loss_policy_branch,
            kl_exact,
            kl_k3,
            log_ratios,
            values,
            value_turns,
        } = &self.statistics;
        let by_turn: Vec<TurnPrediction> = values
            .iter()
            .zip(value_turns)
            .map(|((value, won), turn)| TurnPrediction {
                turn: *turn,
                value: *value,
                won: *won,
            })
            .collect();
        let state_values: Vec<f64> = values.iter().map(|(value, _)| *value).collect();
        let UpdateTime {
            total,
            forward,
            backward,
            update,
        } = self.time;
        [
            Some(self.update as f64),
            Some(self.epoch as f64),
            Some(self.learning_rate),
            Some(self.trajectories as f64),
            Some(self.tokens as f64),
            Some(self.success_rate),
            *loss_policy,
            *loss_value,
            *loss_after_value,
            self.held_out,
            *kl_exact,
            *kl_k3,
            quantile(log_ratios, 0.05),
            quantile(log_ratios, 0.5),
            quantile(log_ratios, 0.95),
            state_values.iter().copied().reduce(f64::min),
            mean(&state_values),
            state_values.iter().copied().reduce(f64::max),
            area_under_curve(values),
            self.gradient_norm_policy,
            self.gradient_norm_value,
            Some(self.tokens as f64 / total),
            Some(forward / total),
            Some(backward / total),
            Some(update / total),
            Some((total - forward - backward - update) / total),
            Some(total),
            area_given_turn(&by_turn),
            *loss_ranking,
            *loss_policy_branch,
        ]
    }

    /// Returns the text beside the progress bar.
    #[must_use]
    pub fn summary(&self) -> String {
        let statistics = &self.statistics;
        let kl = statistics.kl_exact.or(statistics.kl_k3);
        let losses: String = [
            ("policy", statistics.loss_policy),
            ("value", statistics.loss_value),
            ("kl", kl),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| format!(" {name} {value:.4}")))
        .collect();
        format!(
            "loss{losses}, {:.0} tokens/s",
            self.tokens as f64 / self.time.total
        )
    }

    /// Returns the name and value of the first number that is not finite, or of the first log-ratio
    /// beyond the limit.
    #[must_use]
    pub fn diverged(&self, log_ratio_limit: f64) -> Option<(&'static str, f64)> {
        let statistics = &self.statistics;
        let numbers = [
            ("the policy loss", statistics.loss_policy),
            ("the value loss", statistics.loss_value),
            ("the after-state value loss", statistics.loss_after_value),
            ("the ranking loss", statistics.loss_ranking),
            (
                "the policy loss of branch states",
                statistics.loss_policy_branch,
            ),
            ("the KL", statistics.kl_exact),
            ("the policy's gradient norm", self.gradient_norm_policy),
            (
                "the value network's gradient norm",
                self.gradient_norm_value,
            ),
        ];
        for (name, number) in numbers {
            if let Some(number) = number.filter(|number| !number.is_finite()) {
                return Some((name, number));
            }
        }
        statistics
            .log_ratios
            .iter()
            .find(|sum| sum.is_nan() || sum.abs() > log_ratio_limit)
            .map(|sum| ("a trajectory's sum of log-ratios", *sum))
    }
}

/// Which columns a job writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsColumns {
    /// Those of every job.
    Common,
    /// Also those of the reading test, at the end. They are empty in updates without a test.
    WithReading,
}

impl MetricsColumns {
    fn names(self) -> Vec<&'static str> {
        let reading: &[&str] = match self {
            Self::Common => &[],
            Self::WithReading => &READING_COLUMNS,
        };
        [&COLUMNS, reading].concat()
    }
}

/// Both files, open for the next row.
pub struct Metrics {
    columns: Vec<&'static str>,
    csv: csv::Writer<File>,
    events: EventWriter<File>,
    csv_path: PathBuf,
    events_path: PathBuf,
}

impl Metrics {
    /// Opens `metrics.csv` and `tensorboard/` in `folder`, and keeps the rows of the updates before
    /// `update`.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn open(
        folder: &Path,
        update: usize,
        columns: MetricsColumns,
    ) -> Result<Self, TrainerError> {
        let columns = columns.names();
        let csv_path = folder.join("metrics.csv");
        let events_folder = folder.join("tensorboard");
        let events_path = events_folder.join("events.out.tfevents.hearth");
        let rows = if update > 0 && csv_path.exists() {
            rows_before(&csv_path, update, &columns)?
        } else {
            Vec::new()
        };
        std::fs::create_dir_all(&events_folder).map_err(TrainerError::file(&events_folder))?;
        let events = File::create(&events_path).map_err(TrainerError::file(&events_path))?;
        let events =
            EventWriter::new(events, wall_time()).map_err(TrainerError::file(&events_path))?;
        rewrite(&csv_path, &columns, &rows)?;
        let csv = File::options()
            .append(true)
            .open(&csv_path)
            .map_err(TrainerError::file(&csv_path))?;
        let mut metrics = Self {
            columns,
            csv: csv::Writer::from_writer(csv),
            events,
            csv_path,
            events_path,
        };
        for row in rows {
            metrics.write_scalars(row.iter().map(|text| text.parse().ok()))?;
        }
        Ok(metrics)
    }

    /// Appends a row to both files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&mut self, row: &MetricsRow) -> Result<(), TrainerError> {
        let mut numbers = row.numbers().to_vec();
        numbers.extend(row.reading.unwrap_or_default().numbers());
        numbers.truncate(self.columns.len());
        let texts: Vec<String> = numbers
            .iter()
            .map(|number| number.map(|number| number.to_string()).unwrap_or_default())
            .collect();
        self.csv
            .write_record(&texts)
            .map_err(|e| TrainerError::content(&self.csv_path, e))?;
        self.csv
            .flush()
            .map_err(TrainerError::file(&self.csv_path))?;
        self.write_scalars(numbers.into_iter())
    }

    fn write_scalars(
        &mut self,
        numbers: impl Iterator<Item = Option<f64>>,
    ) -> Result<(), TrainerError> {
        let mut update = 0;
        for (tag, number) in self.columns.iter().copied().zip(numbers) {
            let Some(number) = number else { continue };
            if tag == "update" {
                update = number as u64;
            } else {
                self.events
                    .write_scalar(wall_time(), tag, update, number as f32)
                    .map_err(TrainerError::file(&self.events_path))?;
            }
        }
        Ok(())
    }
}

/// Writes the header and these rows. The file is replaced as a whole, so a kill loses no row.
fn rewrite(path: &Path, columns: &[&str], rows: &[Vec<String>]) -> Result<(), TrainerError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let columns: Vec<String> = columns.iter().copied().map(String::from).collect();
    for row in std::iter::once(columns.as_slice()).chain(rows.iter().map(Vec::as_slice)) {
        writer
            .write_record(row)
            .map_err(|e| TrainerError::content(path, e))?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|e| TrainerError::content(path, e))?;
    files::replace(path, &bytes).map_err(TrainerError::file(path))
}

/// Returns the complete rows of the updates before `update`, as texts. If they were written by an
/// earlier version or without a reading test, the columns that they do not have are empty.
fn rows_before(
    path: &Path,
    update: usize,
    columns: &[&str],
) -> Result<Vec<Vec<String>>, TrainerError> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| TrainerError::content(path, e))?;
    let header = reader
        .headers()
        .map_err(|e| TrainerError::content(path, e))?;
    let count = header.len();
    if count < FIRST_COUNT || !header.iter().eq(columns.iter().copied().take(count)) {
        return Err(TrainerError::content(
            path,
            "has other columns than this version writes\nhint: choose another --out",
        ));
    }
    Ok(reader
        .into_records()
        .filter_map(Result::ok)
        .filter(|row| {
            row.get(0)
                .and_then(|text| text.parse().ok())
                .is_some_and(|row_update: usize| row_update < update)
        })
        .map(|row| {
            let mut row: Vec<String> = row.iter().map(String::from).collect();
            row.resize(columns.len(), String::new());
            row
        })
        .collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// The rows of a version with fewer columns stay, and the new cells are empty. Any other columns
    /// are refused.
    #[test]
    fn a_file_with_fewer_columns_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        let old = COLUMNS[..FIRST_COUNT].join(",");
        let row = ["0"; FIRST_COUNT].join(",");
        std::fs::write(&path, format!("{old}\n{row}\n")).unwrap();
        drop(Metrics::open(folder.path(), 1, MetricsColumns::Common).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n{row},,,\n", COLUMNS.join(",")));
        for other in [
            old.replace("kl/k3", "kl/k4"),
            COLUMNS[..FIRST_COUNT - 1].join(","),
            format!("{},more", COLUMNS.join(",")),
        ] {
            std::fs::write(&path, format!("{other}\n")).unwrap();
            let error = Metrics::open(folder.path(), 1, MetricsColumns::Common)
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains("has other columns"), "{error}");
        }
    }
}
