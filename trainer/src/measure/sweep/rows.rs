//! The result table of a sweep: success and cost by setting and split.

use super::setting::SweepSetting;
use crate::measure::compare::Baseline;
use crate::measure::table::{EvalRow, table};
use scenarios::{Outcome, Split, Trajectory};
use serde::Serialize;

/// A row of `sweep.csv`: a setting on a split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepTableRow {
    /// [`SweepSetting::scorer`].
    pub scorer: &'static str,
    /// Number of candidates K per turn.
    pub k: usize,
    /// The split.
    pub split: Split,
    /// Number of games that were played to an end.
    pub n: usize,
    /// Number of won games.
    pub successes: usize,
    /// Share of the games that were won, in [0, 1].
    pub success_rate: f64,
    /// Lower end of the 95 % Wilson interval.
    pub low: f64,
    /// Upper end of the 95 % Wilson interval.
    pub high: f64,
    /// Number of games that this setting won and greedy play did not.
    pub won_alone: Option<u32>,
    /// Number of games that greedy play won and this setting did not.
    pub lost_alone: Option<u32>,
    /// The two-sided p-value of the exact McNemar test of the two.
    pub p_value: Option<f64>,
    /// Mean number of turns per episode.
    pub mean_turns: f64,
    /// Mean over turns of the number of distinct candidates divided by K.
    pub distinct_share: f64,
    /// Mean number of completions per game, including those that were not acted on.
    pub completions: f64,
    /// Mean number of generated tokens per game.
    pub tokens: f64,
    /// Mean number of executed commands per game, including those in copies of the environment.
    pub commands: f64,
    /// Mean wall-clock time per game in seconds, from reset to end, while other games ran at the
    /// same time.
    pub seconds: f64,
    /// Number of games whose environment failed. They are counted in no other column.
    pub env_failed: usize,
}

/// Returns the rows of one run, one per split. If the run is not greedy, it is paired with greedy
/// play.
#[must_use]
pub fn rows(setting: SweepSetting, played: &[Trajectory], greedy: &Baseline) -> Vec<SweepTableRow> {
    let mut table = table(setting.scorer(), setting.k(), played);
    table.retain(|row| row.task_type.is_none());
    if setting != SweepSetting::Greedy {
        greedy.pair(&mut table, played);
    }
    table
        .into_iter()
        .map(|row| sweep_row(setting, &row, played))
        .collect()
}

fn sweep_row(setting: SweepSetting, row: &EvalRow, played: &[Trajectory]) -> SweepTableRow {
    let ended: Vec<&Trajectory> = played
        .iter()
        .filter(|t| t.split == row.split && t.outcome != Outcome::EnvFailed)
        .collect();
    let turns: usize = ended.iter().map(|trajectory| trajectory.turns.len()).sum();
    let distinct: f64 = ended
        .iter()
        .flat_map(|trajectory| &trajectory.turns)
        .map(|turn| turn.candidates.len().max(1) as f64 / setting.k() as f64)
        .sum();
    SweepTableRow {
        scorer: setting.scorer(),
        k: row.k,
        split: row.split,
        n: row.n,
        successes: row.successes,
        success_rate: row.success_rate,
        low: row.low,
        high: row.high,
        won_alone: row.won_alone,
        lost_alone: row.lost_alone,
        p_value: row.p_value,
        mean_turns: row.mean_turns,
        distinct_share: distinct / turns.max(1) as f64,
        completions: mean_per_game(&ended, |trajectory| trajectory.spent.completions as f64),
        tokens: mean_per_game(&ended, |trajectory| trajectory.spent.tokens as f64),
        commands: mean_per_game(&ended, |trajectory| trajectory.spent.commands as f64),
        seconds: mean_per_game(&ended, |trajectory| trajectory.seconds),
        env_failed: row.env_failed,
    }
}

/// Returns the mean of a quantity over episodes, or 0 if there are none.
fn mean_per_game(ended: &[&Trajectory], quantity: impl Fn(&Trajectory) -> f64) -> f64 {
    let total: f64 = ended.iter().map(|trajectory| quantity(trajectory)).sum();
    total / ended.len().max(1) as f64
}
