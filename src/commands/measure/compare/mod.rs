//! `hearth compare`: compares two policies on the same games, or pools the tables of several runs
//! of one recipe. Pooling adds the counts over seeds, and computes intervals and paired tests of
//! the sums.

mod direct;

use crate::report::plots::{SuccessCell, success_chart};
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::Split;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::measure::card::{GAMES, Sheets};
use trainer::measure::compare::{merge, pairs, won_more_often};
use trainer::measure::csv_file::read_csv;
use trainer::measure::games::GameRow;
use trainer::measure::table::{EvalRow, Interval};
use trainer::statistics::{mcnemar_exact, wilson_interval};

#[derive(Args)]
pub(crate) struct CompareCommand {
    /// Two policies: eval folders (`@K` selects one of several K), `RUN:POLICY` or `RUN:POLICY@K` of
    /// a loop, or `SWEEP:SCORER@K`, with commas between runs of several seeds; or the run folders of
    /// one recipe, one per seed, whose tables are pooled
    #[arg(required = true, value_name = "POLICY_OR_RUN", value_hint = ValueHint::DirPath)]
    runs: Vec<PathBuf>,
    /// Write a plot of the pooled table to this SVG file: success with intervals, and a small circle
    /// for each run
    #[arg(long, value_hint = ValueHint::FilePath)]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// A policy at one K on one split, over all runs.
#[derive(Serialize)]
struct PooledRow {
    policy: String,
    k: usize,
    split: Split,
    n: usize,
    successes: usize,
    success_rate: f64,
    /// Lower end of the 95 % interval. The interval is over games if runs share games, as far as
    /// their eval-games.csv records it.
    low: f64,
    /// Upper end of the 95 % interval.
    high: f64,
    interval: Interval,
    /// Success rate of each run.
    runs: Vec<f64>,
    mean_turns: f64,
    malformed_share: f64,
    /// The policy that it is paired with, run by run and game by game.
    against: Option<String>,
    won_alone: Option<u32>,
    lost_alone: Option<u32>,
    /// Exact McNemar test over all pairs. If runs share games, each game is one pair, won by the
    /// policy that won it more often.
    p_value: Option<f64>,
}

/// The JSON output of `hearth compare` if it pools runs.
#[derive(Serialize)]
struct PooledOutput {
    rows: Vec<PooledRow>,
}

impl CompareCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if let [first, second] = self.runs.as_slice()
            && !(is_table(first) && is_table(second))
        {
            if self.plot.is_some() {
                return Err(ui::WrongUse(
                    "--plot draws the pooled table of run folders, not two policies\nhint: name the run folders of one recipe, or remove --plot".into(),
                )
                .into());
            }
            let direct = direct::direct(&first.to_string_lossy(), &second.to_string_lossy())?;
            if self.json {
                ui::print_json(&direct)?;
            } else {
                direct.print();
            }
            direct.print_warnings();
            return Ok(ExitCode::SUCCESS);
        }
        let rows = pool(&self.runs)?;
        if let Some(path) = &self.plot {
            std::fs::write(path, plot(&rows)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if self.json {
            ui::print_json(&PooledOutput { rows })?;
        } else {
            print(&rows);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns whether the folder is one of a loop, or contains a table without games.
fn is_table(folder: &Path) -> bool {
    if folder.join("recipe.toml").exists() {
        return true;
    }
    let has_games = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .any(|path| path.ends_with(GAMES) || path.extension().is_some_and(|of| of == "jsonl"));
    folder.join("eval.csv").exists() && !has_games
}

/// Pools the tables of several runs of one recipe.
///
/// # Errors
/// If a run has no table, or lacks a row of the first one.
fn pool(runs: &[PathBuf]) -> anyhow::Result<Vec<PooledRow>> {
    let tables: Vec<Vec<EvalRow>> = runs
        .iter()
        .map(|run| read_csv(&run.join("eval.csv")))
        .collect::<Result<_, _>>()?;
    let sheets: Vec<Sheets> = runs
        .iter()
        .map(|run| Sheets::open(run))
        .collect::<Result<_, _>>()?;
    let games: Vec<GameRow> = sheets.into_iter().flat_map(|sheets| sheets.games).collect();
    let mut rows = Vec::new();
    for row in tables[0].iter().filter(|row| row.task_type.is_none()) {
        let mut found: Vec<&EvalRow> = Vec::new();
        for (table, run) in tables.iter().zip(runs) {
            let same = table.iter().find(|other| {
                (&other.policy, other.k, other.split, other.task_type)
                    == (&row.policy, row.k, row.split, None)
            });
            found.push(same.ok_or_else(|| {
                ui::WrongUse(format!(
                    "{} has no row of {}, K = {}, {}\nhint: compare runs of one recipe",
                    run.display(),
                    row.policy,
                    row.k,
                    row.split
                ))
            })?);
        }
        rows.push(pooled(&found, &games));
    }
    Ok(rows)
}

fn pooled(rows: &[&EvalRow], games: &[GameRow]) -> PooledRow {
    let first = rows[0];
    let n: usize = rows.iter().map(|row| row.n).sum();
    let successes: usize = rows.iter().map(|row| row.successes).sum();
    let mut won_alone: Option<u32> = rows.iter().map(|row| row.won_alone).sum();
    let mut lost_alone: Option<u32> = rows.iter().map(|row| row.lost_alone).sum();
    let (low, high) = wilson_interval(count(successes), count(n), 0.95);
    let mut interval = (Interval::Wilson, low, high);
    let own = games_of(games, &first.policy, first.k, first.split);
    if own.iter().any(|row| row.played > 1) {
        interval = Interval::of(&own.iter().filter_map(GameRow::tally).collect::<Vec<_>>());
        if let Some(against) = &first.against {
            let other = games_of(games, against, 1, first.split);
            let (won, lost) = won_more_often(&pairs(&own, &other, first.split, None));
            won_alone = Some(won);
            lost_alone = Some(lost);
        }
    }
    PooledRow {
        policy: first.policy.clone(),
        k: first.k,
        split: first.split,
        n,
        successes,
        success_rate: successes as f64 / n as f64,
        low: interval.1,
        high: interval.2,
        interval: interval.0,
        runs: rows.iter().map(|row| row.success_rate).collect(),
        mean_turns: weighted_mean(rows, |row| row.mean_turns),
        malformed_share: weighted_mean(rows, |row| row.malformed_share),
        against: first.against.clone(),
        won_alone,
        lost_alone,
        p_value: won_alone
            .zip(lost_alone)
            .map(|(won, lost)| mcnemar_exact(won, lost)),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).expect("an evaluation has fewer than four billion games")
}

/// Returns the mean of a column over all episodes of the rows.
fn weighted_mean(rows: &[&EvalRow], column: fn(&EvalRow) -> f64) -> f64 {
    let n: usize = rows.iter().map(|row| row.n).sum();
    rows.iter()
        .map(|row| column(row) * row.n as f64)
        .sum::<f64>()
        / n as f64
}

/// Returns the games of a policy at one K on a split, merged over runs.
fn games_of(games: &[GameRow], policy: &str, k: usize, split: Split) -> Vec<GameRow> {
    merge(
        games
            .iter()
            .filter(|row| (row.policy.as_str(), row.k, row.split) == (policy, k, split))
            .cloned(),
    )
}

fn print(rows: &[PooledRow]) {
    let against = rows
        .iter()
        .find_map(|row| row.against.as_deref())
        .unwrap_or("-");
    let alone = format!("alone : {against} alone");
    let is_wilson = rows.iter().all(|row| row.interval == Interval::Wilson);
    let success = if is_wilson {
        "success %, Wilson 95 %"
    } else {
        "success %, 95 % over games"
    };
    let header = [
        "policy",
        "K",
        "split",
        "n",
        success,
        "by run",
        &alone,
        "McNemar p",
        "mean turns",
    ];
    ui::print_table(&header, &rows.iter().map(cells).collect::<Vec<_>>());
}

fn cells(row: &PooledRow) -> Vec<String> {
    let runs: Vec<String> = row.runs.iter().map(|rate| percent(*rate)).collect();
    let paired = row
        .won_alone
        .zip(row.lost_alone)
        .map(|(won, lost)| format!("{won} : {lost}"));
    vec![
        row.policy.clone(),
        row.k.to_string(),
        row.split.to_string(),
        row.n.to_string(),
        format!(
            "{} [{}, {}]",
            percent(row.success_rate),
            percent(row.low),
            percent(row.high)
        ),
        runs.join(" "),
        paired.unwrap_or_else(|| "-".into()),
        row.p_value.map_or_else(|| "-".into(), ui::p_value),
        format!("{:.1}", row.mean_turns),
    ]
}

/// Draws the pooled success of each policy with its interval.
fn plot(rows: &[PooledRow]) -> anyhow::Result<String> {
    let cells: Vec<SuccessCell> = rows
        .iter()
        .map(|row| SuccessCell {
            title: match row.k {
                1 => row.policy.clone(),
                k => format!("{}, best of {k}", row.policy),
            },
            k: row.k,
            split: row.split,
            n: row.n,
            success: (row.success_rate, row.low, row.high),
            runs: row.runs.clone(),
        })
        .collect();
    success_chart(&cells)
}

fn percent(rate: f64) -> String {
    format!("{:.1}", 100.0 * rate)
}
