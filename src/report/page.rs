//! The page: tables and figures as markup that needs no script, and the episodes as data for the
//! page's script.
//!
//! All texts of a run go through the template, which escapes them. The page's content security
//! policy forbids the browser to load anything, and to run any script except `report.js`.

use super::plots::{Figure, FigureSection, in_order, intervals};
use super::run_data::RunData;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use scenarios::{Split, TaskType};
use serde::Serialize;
use sha2::{Digest, Sha256};
use trainer::measure::table::EvalRow;

const TEMPLATE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// A policy at one K: its cells in the order of the columns.
#[derive(Serialize)]
struct TableLine {
    title: String,
    cells: Vec<Option<RateCell>>,
}

/// A success rate with the numbers beside it.
#[derive(Serialize)]
struct RateCell {
    /// Percent.
    rate: String,
    low: String,
    high: String,
    n: usize,
    successes: usize,
    mean_turns: String,
    malformed: String,
    env_failed: usize,
    /// The paired test in words.
    paired: Option<String>,
    /// The paired test in short.
    p: Option<String>,
    /// The fragment of the page's address that shows its episodes.
    link: String,
}

/// The rates of one split by task type.
#[derive(Serialize)]
struct TaskTypeTable {
    split: String,
    kinds: Vec<&'static str>,
    lines: Vec<TableLine>,
}

#[derive(Serialize)]
struct EmbeddedFigure {
    title: String,
    caption: String,
    svg: Value,
}

/// Returns the whole HTML file.
pub(crate) fn page(data: &RunData, figures: &[Figure]) -> anyhow::Result<String> {
    let stores = data.packed.stores();
    let kept: usize = stores.iter().map(|store| store.kept).sum();
    let all: usize = stores.iter().map(|store| store.episodes).sum();
    let splits = in_order(data.rows.iter().map(|row| row.split));
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template("report.html", TEMPLATE)?;
    let page = environment.get_template("report.html")?.render(context! {
        name => data.name,
        facts => data.facts,
        recipe => data.recipe,
        table => data.table,
        against => data.rows.iter().find_map(|row| row.against.as_deref()),
        intervals => intervals(&data.rows.iter().collect::<Vec<_>>()),
        splits => splits.iter().map(ToString::to_string).collect::<Vec<_>>(),
        lines => split_lines(data),
        kinds => task_type_tables(data),
        protocols => data.protocols,
        success => embedded(figures, FigureSection::Success),
        learning => embedded(figures, FigureSection::Learning),
        episodes => kept,
        left_out => all - kept,
        code => crate::code::CODE,
        style => Value::from_safe_string(STYLE.into()),
        script => Value::from_safe_string(SCRIPT.into()),
        script_hash => Base64Display::new(&Sha256::digest(SCRIPT), &STANDARD).to_string(),
        data => Value::from_safe_string(data.packed.json()?),
    })?;
    Ok(page)
}

/// Returns the lines of the main table; its columns are the splits.
fn split_lines(data: &RunData) -> Vec<TableLine> {
    let rows: Vec<&EvalRow> = data
        .rows
        .iter()
        .filter(|row| row.task_type.is_none())
        .collect();
    let splits = in_order(rows.iter().map(|row| row.split));
    table_lines(data, &rows, &splits, |row| Some(row.split))
}

fn task_type_tables(data: &RunData) -> Vec<TaskTypeTable> {
    let rows: Vec<&EvalRow> = data
        .rows
        .iter()
        .filter(|row| row.task_type.is_some())
        .collect();
    in_order(rows.iter().map(|row| row.split))
        .into_iter()
        .map(|split| task_type_table(data, &rows, split))
        .collect()
}

fn task_type_table(data: &RunData, rows: &[&EvalRow], split: Split) -> TaskTypeTable {
    let rows: Vec<&EvalRow> = rows
        .iter()
        .filter(|row| row.split == split)
        .copied()
        .collect();
    let kinds: Vec<TaskType> = TaskType::ALL
        .into_iter()
        .filter(|kind| rows.iter().any(|row| row.task_type == Some(*kind)))
        .collect();
    TaskTypeTable {
        split: split.to_string(),
        kinds: kinds.iter().map(|kind| kind.short_name()).collect(),
        lines: table_lines(data, &rows, &kinds, |row| row.task_type),
    }
}

/// Returns a line for each policy at each K. If the cell of a row is already filled, the row begins
/// another line.
fn table_lines<T: PartialEq>(
    data: &RunData,
    rows: &[&EvalRow],
    columns: &[T],
    column_of: impl Fn(&EvalRow) -> Option<T>,
) -> Vec<TableLine> {
    let mut lines: Vec<((&str, usize), TableLine)> = Vec::new();
    for row in rows {
        let column = columns
            .iter()
            .position(|column| column_of(row).as_ref() == Some(column));
        let Some(column) = column else {
            continue;
        };
        let key = (row.policy.as_str(), row.k);
        let free = lines
            .iter()
            .position(|(other, line)| *other == key && line.cells[column].is_none());
        let line = free.unwrap_or_else(|| {
            let line = TableLine {
                title: data.row_title(row),
                cells: columns.iter().map(|_| None).collect(),
            };
            lines.push((key, line));
            lines.len() - 1
        });
        lines[line].1.cells[column] = Some(cell(data, row));
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

fn cell(data: &RunData, row: &EvalRow) -> RateCell {
    let paired = row.against.as_ref().zip(row.won_alone.zip(row.lost_alone));
    let kind = row
        .task_type
        .map_or(String::new(), |kind| format!("&type={kind}"));
    RateCell {
        rate: percent(row.success_rate),
        low: percent(row.low),
        high: percent(row.high),
        n: row.n,
        successes: row.successes,
        mean_turns: format!("{:.1}", row.mean_turns),
        malformed: percent(row.malformed_share),
        env_failed: row.env_failed,
        paired: paired.map(|(against, (won, lost))| {
            format!(
                "{won} games won by this policy only, {lost} by {against} only; exact McNemar test, two-sided"
            )
        }),
        p: row
            .won_alone
            .zip(row.lost_alone)
            .zip(row.p_value)
            .map(|((won, lost), p)| format!("{won} : {lost}, p {}", p_value(p))),
        link: data.store_of(row).map_or(String::new(), |store| {
            let file = percent_encoded(&store.played.file);
            format!("#episodes?store={file}&split={}{kind}", row.split)
        }),
    }
}

fn percent(rate: f64) -> String {
    format!("{:.1}", 100.0 * rate)
}

fn p_value(p: f64) -> String {
    if p < 1e-3 {
        format!("= {p:.0e}")
    } else {
        format!("= {p:.3}")
    }
}

/// Percent-encodes a text for the part of an address after `#`.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Returns the figures of a section for the page, where `report.css` sets their colours, each with
/// a label for screen readers.
fn embedded(figures: &[Figure], section: FigureSection) -> Vec<EmbeddedFigure> {
    figures
        .iter()
        .filter(|figure| figure.section == section)
        .map(|figure| {
            let title = minijinja::HtmlEscape(&figure.title);
            let opened = format!("<svg role=\"img\" aria-label=\"{title}\" ");
            // An SVG in a page needs no namespace, which would be the only address in the file.
            let svg = figure
                .svg
                .replacen("<svg ", &opened, 1)
                .replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
            EmbeddedFigure {
                title: figure.title.clone(),
                caption: figure.caption.clone(),
                svg: Value::from_safe_string(svg),
            }
        })
        .collect()
}
