//! `hearth compare`: two policies on the same games, or the tables of several runs of one recipe as one: counts added up
//! over seeds, intervals and paired tests of the sums.

mod direct;

use crate::ui;
use clap::{Args, ValueHint};
use scenarios::Split;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::measure::card::{GAMES, Sheets};
use trainer::measure::compare::{merge, pairs, won_more_often};
use trainer::measure::evaluate::{GameRow, Interval, Row, read_csv};
use trainer::measure::statistics::{mcnemar_exact, wilson_interval};

#[derive(Args)]
pub(crate) struct Compare {
    /// Two policies: eval folders, with `@K` where there are several K, or `RUN:POLICY` or `RUN:POLICY@K` of a loop, with
    /// commas between runs of several seeds. Or the folders of runs of one recipe, one a seed, whose tables are added up
    #[arg(required = true, value_name = "POLICY_OR_RUN", value_hint = ValueHint::DirPath)]
    runs: Vec<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// A policy at one K on one split, all runs together.
#[derive(Serialize)]
struct Pooled {
    policy: String,
    k: usize,
    split: Split,
    n: usize,
    successes: usize,
    success_rate: f64,
    /// 95 %; over games where runs share games, as far as their eval-games.csv tells.
    low: f64,
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
    /// Exact McNemar test over all pairs; where runs share games each game is one pair, won by who won it the more often.
    p_value: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Pooled>,
}

impl Compare {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if let [first, second] = self.runs.as_slice()
            && !(is_table(first) && is_table(second))
        {
            let text = |path: &PathBuf| path.to_string_lossy().into_owned();
            let direct = direct::direct(&text(first), &text(second))?;
            if self.json {
                ui::print_json(&direct)?;
            } else {
                direct.print();
            }
            direct.say_warnings();
            return Ok(ExitCode::SUCCESS);
        }
        self.add_up()
    }

    /// The tables of several runs of one recipe as one.
    fn add_up(self) -> anyhow::Result<ExitCode> {
        let tables: Vec<Vec<Row>> = self
            .runs
            .iter()
            .map(|run| read_csv(&run.join("eval.csv")))
            .collect::<Result<_, _>>()?;
        let sheets: Vec<Sheets> = self
            .runs
            .iter()
            .map(|run| Sheets::open(run))
            .collect::<Result<_, _>>()?;
        let games: Vec<GameRow> = sheets.into_iter().flat_map(|sheets| sheets.games).collect();
        let mut rows = Vec::new();
        for row in tables[0].iter().filter(|row| row.task_type.is_none()) {
            let same = |other: &&Row| {
                (&other.policy, other.k, other.split, other.task_type)
                    == (&row.policy, row.k, row.split, None)
            };
            let mut found: Vec<&Row> = Vec::new();
            for (table, run) in tables.iter().zip(&self.runs) {
                let Some(other) = table.iter().find(same) else {
                    let text = format!(
                        "{} has no row of {}, K = {}, {}",
                        run.display(),
                        row.policy,
                        row.k,
                        row.split
                    );
                    return Err(
                        ui::WrongUse(format!("{text}\nhint: compare runs of one recipe")).into(),
                    );
                };
                found.push(other);
            }
            rows.push(pooled(&found, &games));
        }
        if self.json {
            ui::print_json(&Report { rows })?;
        } else {
            print(&rows);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The folder of a loop, no policy named, or a table with no games beside it.
fn is_table(folder: &Path) -> bool {
    let mut paths = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let tells_games =
        |path: PathBuf| path.ends_with(GAMES) || path.extension().is_some_and(|of| of == "jsonl");
    folder.join("recipe.toml").exists()
        || (folder.join("eval.csv").exists() && !paths.any(tells_games))
}

fn pooled(rows: &[&Row], games: &[GameRow]) -> Pooled {
    let first = rows[0];
    let (n, successes) = (
        rows.iter().map(|row| row.n).sum(),
        rows.iter().map(|row| row.successes).sum(),
    );
    let count = |number: usize| u32::try_from(number).expect("fewer than four billion games");
    let mean =
        |of: fn(&Row) -> f64| rows.iter().map(|row| of(row) * row.n as f64).sum::<f64>() / n as f64;
    let sum = |of: fn(&Row) -> Option<u32>| rows.iter().map(|row| of(row)).sum::<Option<u32>>();
    let (mut won_alone, mut lost_alone) = (sum(|row| row.won_alone), sum(|row| row.lost_alone));
    let (low, high) = wilson_interval(count(successes), count(n), 0.95);
    let mut interval = (Interval::Wilson, low, high);
    let of = |policy: &str, k: usize| {
        merge(
            games
                .iter()
                .filter(|row| (row.policy.as_str(), row.k, row.split) == (policy, k, first.split))
                .cloned(),
        )
    };
    let own = of(&first.policy, first.k);
    if own.iter().any(|row| row.played > 1) {
        interval = Interval::of(&own.iter().filter_map(GameRow::tally).collect::<Vec<_>>());
        if let Some(against) = &first.against {
            let (won, lost) = won_more_often(&pairs(&own, &of(against, 1), first.split, None));
            (won_alone, lost_alone) = (Some(won), Some(lost));
        }
    }
    Pooled {
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
        mean_turns: mean(|row| row.mean_turns),
        malformed_share: mean(|row| row.malformed_share),
        against: first.against.clone(),
        won_alone,
        lost_alone,
        p_value: won_alone
            .zip(lost_alone)
            .map(|(won, lost)| mcnemar_exact(won, lost)),
    }
}

fn print(rows: &[Pooled]) {
    let percent = |rate: f64| format!("{:.1}", 100.0 * rate);
    let cells = |row: &Pooled| {
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
            row.runs
                .iter()
                .map(|rate| percent(*rate))
                .collect::<Vec<_>>()
                .join(" "),
            paired.unwrap_or_else(|| "-".into()),
            row.p_value.map_or_else(|| "-".into(), ui::p_value),
            format!("{:.1}", row.mean_turns),
        ]
    };
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
