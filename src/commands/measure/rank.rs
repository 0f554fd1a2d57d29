//! `hearth rank`: measures how well the policy and its value network order the candidates of branch
//! states.

use crate::args::policy::{FOLDER_HINT, LoadArgs, PolicyKind, ReferenceArgs};
use crate::args::stores::read_branches;
use crate::report::chart::{self, Panel, Point, Series, XAxis};
use crate::ui;
use agent::policy::Policy;
use agent::policy::lm::{LmPolicy, ValueUse};
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::Trajectory;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::learn::ranking::RankedState;
use trainer::measure::csv_file::write_csv;
use trainer::measure::ranking::{
    CandidateScorer, DiscriminationRow, GapRow, RankingRow, ScoredState, TurnGroup,
    accuracy_by_gap, discrimination, ranking_rows, score_states,
};
use trainer::statistics::Resampling;

/// States that are scored between two steps of the progress bar.
const CHUNK: usize = 32;

#[derive(Args)]
pub(crate) struct RankCommand {
    /// Policy: a model folder; its value network gives U and V
    #[arg(long, value_hint = ValueHint::DirPath)]
    policy: PathBuf,
    /// Branch stores: several actions of one state, with Monte-Carlo returns of each
    #[arg(long, value_name = "FILE", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    branches: Vec<PathBuf>,
    /// λ of the scorer U + λ ln π, reward units per nat, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0,0.005,0.01,0.02,0.05,0.1",
        value_parser = lambda
    )]
    lambda: Vec<f64>,
    /// Write the table to this CSV file
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Write a plot to this SVG file: the share of pairs in the right order, by how much their mean
    /// returns differ
    #[arg(long, value_hint = ValueHint::FilePath)]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of the tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reference: ReferenceArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// Parses a finite number that is 0 or more.
fn lambda(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("not a number of 0 or more".into()),
    }
}

/// The JSON output of `hearth rank`.
#[derive(Serialize)]
struct RankOutput {
    rows: Vec<RankingRow>,
    discrimination: Vec<DiscriminationRow>,
    by_gap: Vec<GapRow>,
    policy_hash: String,
    value_hash: Option<String>,
    /// States that were scored.
    states: usize,
    /// Left out: states with fewer than two candidates.
    single: usize,
    /// Left out: states longer than the context.
    too_long: usize,
}

impl RankCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let name = self.policy.display().to_string();
        if PolicyKind::of(&name) != PolicyKind::Folder || !self.policy.is_dir() {
            let text = format!("--policy {name}: not a model folder\n{FOLDER_HINT}");
            return Err(ui::WrongUse(text).into());
        }
        ui::refuse_duplicates("--lambda", &self.lambda)?;
        let policy = self
            .load
            .open(&self.policy, ValueUse::Score, &self.reference)?;
        if !policy.has_value() {
            eprintln!("{name} has no value network: after_value and soft_value are left out");
        }
        let lines = read_branches(&self.branches, &policy.tokenizer)?;
        let mut output = RankOutput {
            rows: Vec::new(),
            discrimination: Vec::new(),
            by_gap: Vec::new(),
            policy_hash: policy.name(),
            value_hash: policy.value_name(),
            states: 0,
            single: 0,
            too_long: 0,
        };
        let states = output.readable(&lines, policy.context_limit())?;
        let scored = score(&policy, &states)?;
        output.rows = ranking_rows(&scored, &self.lambda, Resampling::default());
        output.discrimination = discrimination(&scored);
        output.by_gap = accuracy_by_gap(
            &scored,
            &scorers_by_gap(best_lambda(&output.rows)),
            Resampling::default(),
        );
        if let Some(path) = &self.plot {
            let svg = gap_plot(&output.by_gap)?;
            std::fs::write(path, svg)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(path) = &self.out {
            write_csv(path, &output.rows)?;
        }
        if self.json {
            ui::print_json(&output)?;
        } else {
            output.print(self.out.as_deref());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the λ of the row of `soft_value` with the lowest regret over all states.
fn best_lambda(rows: &[RankingRow]) -> Option<f64> {
    let soft = rows.iter().filter(|row| row.turns == TurnGroup::All);
    let soft = soft.filter_map(|row| Some((row.lambda?, row.regret)));
    soft.min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(lambda, _)| lambda)
}

/// Returns the scorers that are shown by the difference of the returns.
fn scorers_by_gap(lambda: Option<f64>) -> Vec<CandidateScorer> {
    let mut scorers = vec![CandidateScorer::AfterValue, CandidateScorer::LogRatio];
    scorers.extend(lambda.map(CandidateScorer::SoftValue));
    scorers.push(CandidateScorer::Logprob);
    scorers
}

/// Draws the pair accuracy of each scorer over the groups of differences.
fn gap_plot(rows: &[GapRow]) -> anyhow::Result<String> {
    let mut groups: Vec<(f64, Option<f64>)> = rows.iter().map(|row| (row.from, row.to)).collect();
    groups.sort_by(|a, b| a.0.total_cmp(&b.0));
    groups.dedup();
    let names = groups.iter().map(|group| group_name(*group)).collect();
    let mut series: Vec<Series> = Vec::new();
    for row in rows {
        let name = scorer_name(row);
        let x = groups.iter().position(|group| group.0 == row.from);
        let point = Point {
            x: x.unwrap_or_default() as f64,
            y: 100.0 * row.accuracy,
            interval: row.interval.map(|(low, high)| (100.0 * low, 100.0 * high)),
        };
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => series.push(Series {
                name,
                points: vec![point],
            }),
        }
    }
    let panel = Panel {
        title: "Order of two actions of one state".into(),
        x_axis: XAxis::Categories("difference of the mean returns", names),
        y_label: "pairs in the right order, %".into(),
        series,
    };
    chart::lines(&[panel], 1, (720, 400))
}

fn scorer_name(row: &GapRow) -> String {
    match row.lambda {
        Some(lambda) => format!("{}, λ = {lambda}", row.scorer),
        None => row.scorer.into(),
    }
}

fn group_name((from, to): (f64, Option<f64>)) -> String {
    match to {
        Some(to) => format!("{from}-{to}"),
        None => format!("from {from}"),
    }
}

/// Scores the states, with a progress bar.
///
/// # Errors
/// If a score is not finite.
fn score(policy: &LmPolicy, states: &[RankedState<'_>]) -> anyhow::Result<Vec<ScoredState>> {
    let bar = ui::bar("score branch states");
    bar.set_length(states.len() as u64);
    let mut scored = Vec::with_capacity(states.len());
    for chunk in states.chunks(CHUNK) {
        scored.extend(score_states(policy, chunk));
        bar.inc(chunk.len() as u64);
    }
    bar.finish();
    for state in &scored {
        let of_candidates = state.candidates.iter();
        let mut scores = of_candidates
            .flat_map(|candidate| [Some(candidate.logprob), candidate.after_value])
            .chain([state.value])
            .flatten();
        if let Some(score) = scores.find(|score| !score.is_finite()) {
            anyhow::bail!(
                "game {}, turn {}: a score is {score}\nhint: the policy or its value network has diverged; train it again",
                state.game,
                state.turn
            );
        }
    }
    Ok(scored)
}

impl RankOutput {
    /// Returns the states that can be ranked, and counts them and the others.
    fn readable<'a>(
        &mut self,
        lines: &'a [Trajectory],
        context: usize,
    ) -> anyhow::Result<Vec<RankedState<'a>>> {
        let mut states = Vec::new();
        for line in lines {
            match RankedState::new(line).map_err(ui::WrongUse)? {
                None => self.single += 1,
                Some(state) if state.longest() > context => self.too_long += 1,
                Some(state) => states.push(state),
            }
        }
        self.states = states.len();
        if states.is_empty() {
            let text = format!(
                "--branches: no state remains of {}: {} have fewer than two candidates, {} are longer than the context of {context}",
                lines.len(),
                self.single,
                self.too_long
            );
            return Err(ui::WrongUse(text).into());
        }
        Ok(states)
    }

    fn print(&self, out: Option<&Path>) {
        let header = [
            "scorer",
            "λ",
            "turns",
            "games",
            "states",
            "pairs",
            "pair accuracy %, 95 %",
            "clear pairs",
            "accuracy there",
            "regret, 95 %",
            "return of the chosen",
        ];
        ui::print_table(&header, &self.rows.iter().map(cells).collect::<Vec<_>>());
        let header = [
            "scorer",
            "returns differ by",
            "pairs",
            "pair accuracy %, 95 %",
        ];
        ui::print_table(
            &header,
            &self.by_gap.iter().map(gap_cells).collect::<Vec<_>>(),
        );
        if !self.discrimination.is_empty() {
            let header = [
                "outcome of continuations by",
                "n",
                "won %",
                "AUC given the turn",
                "AUC",
                "AUC of the turn number",
            ];
            let rows: Vec<Vec<String>> = self.discrimination.iter().map(area_cells).collect();
            ui::print_table(&header, &rows);
        }
        let beside = out.map_or_else(String::new, |path| format!("; table in {}", path.display()));
        ui::print(&format!(
            "Pairs are candidates of one state with different mean returns; those of clear pairs differ by more \
             than two standard errors. `uniform` is the null of every \
             scorer; `split_halves` is the ceiling that the noise of the returns leaves. Early: the first ten \
             turns. Intervals are over games.\n{} states, {} left out with fewer than two candidates, {} longer \
             than the context; policy {}{beside}\n",
            self.states, self.single, self.too_long, self.policy_hash
        ));
    }
}

fn cells(row: &RankingRow) -> Vec<String> {
    let turns = match row.turns {
        TurnGroup::All => "all",
        TurnGroup::Early => "early",
        TurnGroup::Late => "late",
    };
    let percent = |share: Option<f64>, low: Option<f64>, high: Option<f64>| {
        share.map_or_else(
            || "-".into(),
            |share| format!("{:.1}{}", 100.0 * share, interval(low, high, 100.0, 1)),
        )
    };
    vec![
        row.scorer.to_string(),
        row.lambda
            .map_or_else(|| "-".into(), |lambda| lambda.to_string()),
        turns.to_string(),
        row.games.to_string(),
        row.states.to_string(),
        row.pairs.to_string(),
        percent(row.pair_accuracy, row.pair_low, row.pair_high),
        row.clear_pairs.to_string(),
        percent(row.clear_accuracy, row.clear_low, row.clear_high),
        format!(
            "{:.4}{}",
            row.regret,
            interval(row.regret_low, row.regret_high, 1.0, 4)
        ),
        format!("{:.4}", row.chosen),
    ]
}

fn gap_cells(row: &GapRow) -> Vec<String> {
    let (low, high) = row.interval.unzip();
    vec![
        scorer_name(row),
        group_name((row.from, row.to)),
        row.pairs.to_string(),
        format!(
            "{:.1}{}",
            100.0 * row.accuracy,
            interval(low, high, 100.0, 1)
        ),
    ]
}

/// Formats an interval after its number, or nothing if there is none.
fn interval(low: Option<f64>, high: Option<f64>, scale: f64, decimals: usize) -> String {
    low.zip(high).map_or_else(String::new, |(low, high)| {
        format!(" [{:.decimals$}, {:.decimals$}]", scale * low, scale * high)
    })
}

fn area_cells(row: &DiscriminationRow) -> Vec<String> {
    let areas = [row.auc_given_turn, row.auc, row.auc_of_turn]
        .map(|area| area.map_or_else(|| "-".into(), |area| format!("{area:.3}")));
    let mut cells = vec![
        format!("{:?}", row.reading),
        row.continuations.to_string(),
        format!("{:.1}", 100.0 * row.won_share),
    ];
    cells.extend(areas);
    cells
}
