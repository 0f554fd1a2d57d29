//! The scores of a reading test, and their table.

use super::induction::ListScore;
use super::pairs::PairScore;
use crate::learn::metrics::reading::ReadingNumbers;
use crate::statistics::{mean, wilson_of_rate};
use serde::Serialize;
use std::fmt::Write;

/// The scores of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingScores {
    /// One score for each pair; never empty.
    pub pairs: Vec<PairScore>,
    /// One score for each repeated list. Empty if the suite has too few types of objects.
    pub lists: Vec<ListScore>,
}

/// A measure: the mean of numbers in [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReadingRow {
    /// `there`, `absent`, `pairs`, `exact`, `induction`, `induction_accuracy` or
    /// `induction_chance`.
    pub measure: &'static str,
    /// The mean.
    pub value: f64,
    /// Low end of the 95 % interval.
    pub low: f64,
    /// High end of the 95 % interval.
    pub high: f64,
    /// Number of pairs or lists.
    pub n: usize,
}

impl ReadingRow {
    /// Returns the mean of `values` with Wilson's interval. If values lie between 0 and 1, their
    /// variance is at most that of a coin with the same mean, so the interval is not too narrow.
    /// Returns `None` if there are no values.
    fn new(measure: &'static str, values: impl Iterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.collect();
        let value = mean(&values)?;
        let (low, high) = wilson_of_rate(value.clamp(0.0, 1.0), values.len() as f64, 0.95);
        Some(Self {
            measure,
            value,
            low: low.min(value), // the ends are rounded
            high: high.max(value),
            n: values.len(),
        })
    }
}

impl ReadingScores {
    /// Returns one row for each measure.
    #[must_use]
    pub fn rows(&self) -> Vec<ReadingRow> {
        let pairs = &self.pairs;
        let lists = &self.lists;
        [
            ReadingRow::new("there", pairs.iter().map(|pair| pair.there)),
            ReadingRow::new("absent", pairs.iter().map(|pair| pair.absent)),
            ReadingRow::new("pairs", pairs.iter().map(|pair| one_if(pair.distinguishes))),
            ReadingRow::new("exact", pairs.iter().map(|pair| one_if(pair.exact))),
            ReadingRow::new("induction", lists.iter().map(|list| list.second)),
            ReadingRow::new("induction_accuracy", lists.iter().map(|list| list.accuracy)),
            ReadingRow::new("induction_chance", lists.iter().map(|list| list.first)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Returns the numbers that a training job logs.
    #[must_use]
    pub fn numbers(&self) -> ReadingNumbers {
        let rows = self.rows();
        ReadingNumbers {
            there: value_of(&rows, "there"),
            absent: value_of(&rows, "absent"),
            pairs: value_of(&rows, "pairs"),
            induction: value_of(&rows, "induction"),
        }
    }
}

fn value_of(rows: &[ReadingRow], measure: &str) -> Option<f64> {
    let row = rows.iter().find(|row| row.measure == measure)?;
    Some(row.value)
}

fn one_if(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Returns the rows as a table for a terminal.
#[must_use]
pub fn reading_table(rows: &[ReadingRow]) -> String {
    let mut text = format!(
        "{:<20}{:>7}  {:<16}{:>5}\n",
        "measure", "mean", "95 % interval", "n"
    );
    for row in rows {
        let interval = format!("{:.3} to {:.3}", row.low, row.high);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<20}{:>7.3}  {interval:<16}{:>5}",
            row.measure, row.value, row.n
        );
    }
    text
}
