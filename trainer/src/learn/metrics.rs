//! What is written down of a job, update by update: `metrics.csv`, and the same numbers as TensorBoard events.
//!
//! A resumed job drops the rows after its checkpoint from both, so each update stands once.

use crate::error::TrainerError;
use crate::learn::objective::Watched;
use crate::measure::statistics::{area_under_curve, mean, quantile};
use scenarios::files;
use std::fs::File;
use std::path::{Path, PathBuf};
use syntaxdot_summary::SummaryWriter;

/// Columns in order; the same names are TensorBoard's tags.
const COLUMNS: [&str; 27] = [
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
];

/// The numbers of one update; what an algorithm does not have stays empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// From 0.
    pub update: usize,
    /// From 0.
    pub epoch: usize,
    /// Of the policy.
    pub learning_rate: f64,
    /// Read in this update.
    pub trajectories: usize,
    /// Of those trajectories, without padding.
    pub tokens: usize,
    /// Share of them that were won.
    pub success_rate: f64,
    /// Losses, KL, log-ratios and values.
    pub watched: Watched,
    /// Loss of the policy, and of V, on what is held out; where a look was taken.
    pub held_out: Option<f64>,
    /// Before clipping.
    pub gradient_norm_policy: Option<f64>,
    /// Before clipping.
    pub gradient_norm_value: Option<f64>,
    /// Where the time went.
    pub time: Time,
}

/// Wall-clock seconds of one update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Time {
    /// All of it.
    pub total: f64,
    /// Forward passes and losses, mean of the lanes.
    pub forward: f64,
    /// Backward passes, mean of the lanes.
    pub backward: f64,
    /// The optimizer, and the new weights' way back into the networks.
    pub update: f64,
}

impl Row {
    /// In the order of [`COLUMNS`].
    fn numbers(&self) -> [Option<f64>; 27] {
        let Watched {
            loss_policy,
            loss_value,
            loss_after_value,
            kl_exact,
            kl_k3,
            log_ratios,
            values,
        } = &self.watched;
        let only: Vec<f64> = values.iter().map(|(value, _)| *value).collect();
        let Time {
            total,
            forward,
            backward,
            update,
        } = self.time;
        let share = |seconds: f64| Some(seconds / total);
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
            only.iter().copied().reduce(f64::min),
            mean(&only),
            only.iter().copied().reduce(f64::max),
            area_under_curve(values),
            self.gradient_norm_policy,
            self.gradient_norm_value,
            Some(self.tokens as f64 / total),
            share(forward),
            share(backward),
            share(update),
            share(total - forward - backward - update),
            Some(total),
        ]
    }

    /// The line beside the progress bar.
    #[must_use]
    pub fn summary(&self) -> String {
        let part = |name: &str, value: Option<f64>| {
            value.map(|v| format!(" {name} {v:.4}")).unwrap_or_default()
        };
        let Watched {
            loss_policy,
            loss_value,
            kl_exact,
            kl_k3,
            ..
        } = &self.watched;
        let losses = part("policy", *loss_policy)
            + &part("value", *loss_value)
            + &part("kl", kl_exact.or(*kl_k3));
        format!(
            "loss{losses}, {:.0} tokens/s",
            self.tokens as f64 / self.time.total
        )
    }

    /// The first number that is none, or too far away, by name.
    #[must_use]
    pub fn diverged(&self, log_ratio_limit: f64) -> Option<(&'static str, f64)> {
        let Watched {
            loss_policy,
            loss_value,
            loss_after_value,
            kl_exact,
            log_ratios,
            ..
        } = &self.watched;
        let numbers = [
            ("the policy loss", *loss_policy),
            ("the value loss", *loss_value),
            ("the after-state value loss", *loss_after_value),
            ("the KL", *kl_exact),
            ("the policy's gradient norm", self.gradient_norm_policy),
            (
                "the value network's gradient norm",
                self.gradient_norm_value,
            ),
        ];
        let found = numbers
            .into_iter()
            .find_map(|(what, value)| value.filter(|v| !v.is_finite()).map(|v| (what, v)));
        let far = |sum: &&f64| sum.is_nan() || sum.abs() > log_ratio_limit;
        found.or_else(|| {
            log_ratios
                .iter()
                .find(far)
                .map(|sum| ("a trajectory's sum of log-ratios", *sum))
        })
    }
}

/// Both files, open for the next row.
pub struct Metrics {
    csv: csv::Writer<File>,
    events: SummaryWriter<File>,
    csv_path: PathBuf,
    events_path: PathBuf,
}

impl Metrics {
    /// Opens `metrics.csv` and `tensorboard/` in `folder`, with the rows of the updates before `update`.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(folder: &Path, update: usize) -> Result<Self, TrainerError> {
        let csv_path = folder.join("metrics.csv");
        let events_path = folder
            .join("tensorboard")
            .join("events.out.tfevents.hearth");
        let kept = if update > 0 && csv_path.exists() {
            kept(&csv_path, update)?
        } else {
            Vec::new()
        };
        let events_folder = folder.join("tensorboard");
        std::fs::create_dir_all(&events_folder).map_err(TrainerError::file(&events_folder))?;
        let events = File::create(&events_path).map_err(TrainerError::file(&events_path))?;
        let events = SummaryWriter::new(events).map_err(TrainerError::file(&events_path))?;
        rewrite(&csv_path, &kept)?;
        let csv = File::options()
            .append(true)
            .open(&csv_path)
            .map_err(TrainerError::file(&csv_path))?;
        let mut metrics = Self {
            csv: csv::Writer::from_writer(csv),
            events,
            csv_path,
            events_path,
        };
        for row in kept {
            metrics.scalars(row.iter().map(|text| text.parse().ok()))?;
        }
        Ok(metrics)
    }

    /// Writes a row into both.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, row: &Row) -> Result<(), TrainerError> {
        let numbers = row.numbers();
        self.record(
            &numbers.map(|number| number.map(|number| number.to_string()).unwrap_or_default()),
        )?;
        self.scalars(numbers.into_iter())
    }

    fn record(&mut self, row: &[String]) -> Result<(), TrainerError> {
        self.csv
            .write_record(row)
            .map_err(|e| TrainerError::content(&self.csv_path, e))?;
        self.csv.flush().map_err(TrainerError::file(&self.csv_path))
    }

    fn scalars(&mut self, numbers: impl Iterator<Item = Option<f64>>) -> Result<(), TrainerError> {
        let mut update = 0;
        for (tag, number) in COLUMNS.into_iter().zip(numbers) {
            let Some(number) = number else { continue };
            if tag == "update" {
                update = number as i64;
            } else {
                let written = self.events.write_scalar(tag, update, number as f32);
                written.map_err(TrainerError::file(&self.events_path))?;
            }
        }
        Ok(())
    }
}

/// Writes the columns and these rows, at once or not at all: a kill here loses no row.
fn rewrite(path: &Path, rows: &[Vec<String>]) -> Result<(), TrainerError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let columns = COLUMNS.map(String::from);
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

/// The whole rows of the updates before `update`, as they stand.
fn kept(path: &Path, update: usize) -> Result<Vec<Vec<String>>, TrainerError> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| TrainerError::content(path, e))?;
    if reader
        .headers()
        .map_err(|e| TrainerError::content(path, e))?
        != COLUMNS.as_slice()
    {
        return Err(TrainerError::content(
            path,
            "has other columns than this version writes\nhint: choose another --out",
        ));
    }
    let rows = reader.into_records().filter_map(Result::ok);
    let before = |row: &csv::StringRecord| {
        row.get(0)
            .and_then(|text| text.parse().ok())
            .is_some_and(|at: usize| at < update)
    };
    Ok(rows
        .filter(before)
        .map(|row| row.iter().map(String::from).collect())
        .collect())
}
