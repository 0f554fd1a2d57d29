//! The page: tables and figures as markup that needs no script, and the episodes as data for the page's own script.
//!
//! Everything that a run tells goes through the template, which escapes it; a policy of the page itself forbids the browser
//! to load anything or to run any script but `report.js`.

use super::gather::Found;
use super::plots::{About, Figure, in_order, intervals};
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use scenarios::TaskType;
use serde::Serialize;
use sha2::{Digest, Sha256};
use trainer::measure::evaluate::Row;

const TEMPLATE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// A policy at one K: its cells in the order of the splits.
#[derive(Serialize)]
struct Line {
    title: String,
    cells: Vec<Option<Cell>>,
}

/// A rate with what stands beside it.
#[derive(Serialize)]
struct Cell {
    /// Percent.
    rate: String,
    low: String,
    high: String,
    n: usize,
    successes: usize,
    mean_turns: String,
    malformed: String,
    env_failed: usize,
    /// The paired test, in words and in short.
    paired: Option<String>,
    p: Option<String>,
    /// The part of the page's address that shows its episodes.
    link: String,
}

#[derive(Serialize)]
struct Kinds {
    split: String,
    kinds: Vec<&'static str>,
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Shown {
    title: String,
    caption: String,
    svg: Value,
}

/// The whole file.
pub(crate) fn page(found: &Found, figures: &[Figure]) -> anyhow::Result<String> {
    let stores = found.packed.stores();
    let (kept, all) = stores.iter().fold((0, 0), |(kept, all), store| {
        (kept + store.kept, all + store.episodes)
    });
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template("report.html", TEMPLATE)?;
    let page = environment.get_template("report.html")?.render(context! {
        name => found.name,
        facts => found.facts,
        recipe => found.recipe,
        table => found.table,
        against => found.rows.iter().find_map(|row| row.against.as_deref()),
        intervals => intervals(&found.rows.iter().collect::<Vec<_>>()),
        splits => in_order(found.rows.iter().map(|row| row.split)).iter().map(ToString::to_string).collect::<Vec<_>>(),
        lines => lines(found),
        kinds => kinds(found),
        protocols => found.protocols,
        success => shown(figures, About::Success),
        learning => shown(figures, About::Learning),
        episodes => kept,
        left_out => all - kept,
        code => crate::commands::train::pipeline::CODE,
        style => Value::from_safe_string(STYLE.into()),
        script => Value::from_safe_string(SCRIPT.into()),
        script_hash => Base64Display::new(&Sha256::digest(SCRIPT), &STANDARD).to_string(),
        data => Value::from_safe_string(found.packed.json()?),
    })?;
    Ok(page)
}

fn lines(found: &Found) -> Vec<Line> {
    let rows: Vec<&Row> = found
        .rows
        .iter()
        .filter(|row| row.task_type.is_none())
        .collect();
    let splits = in_order(rows.iter().map(|row| row.split));
    lines_of(
        found,
        &rows,
        |row| splits.iter().position(|split| *split == row.split),
        splits.len(),
    )
}

fn kinds(found: &Found) -> Vec<Kinds> {
    let rows: Vec<&Row> = found
        .rows
        .iter()
        .filter(|row| row.task_type.is_some())
        .collect();
    let table = |split| {
        let rows: Vec<&Row> = rows
            .iter()
            .filter(|row| row.split == split)
            .copied()
            .collect();
        let is_there = |kind: &TaskType| rows.iter().any(|row| row.task_type == Some(*kind));
        let kinds: Vec<TaskType> = TaskType::ALL.into_iter().filter(is_there).collect();
        let column = |row: &Row| kinds.iter().position(|kind| Some(*kind) == row.task_type);
        let lines = lines_of(found, &rows, column, kinds.len());
        Kinds {
            split: split.to_string(),
            kinds: kinds.iter().map(|kind| kind.short_name()).collect(),
            lines,
        }
    };
    in_order(rows.iter().map(|row| row.split))
        .into_iter()
        .map(table)
        .collect()
}

/// A line for each policy at each K; a row whose place is taken begins another line.
fn lines_of(
    found: &Found,
    rows: &[&Row],
    column: impl Fn(&Row) -> Option<usize>,
    columns: usize,
) -> Vec<Line> {
    let mut lines: Vec<((&str, usize), Line)> = Vec::new();
    for row in rows {
        let (key, Some(column)) = ((row.policy.as_str(), row.k), column(row)) else {
            continue;
        };
        let place = lines
            .iter()
            .position(|(other, line)| *other == key && line.cells[column].is_none());
        let place = place.unwrap_or_else(|| {
            let cells = (0..columns).map(|_| None).collect();
            lines.push((
                key,
                Line {
                    title: found.row_title(row),
                    cells,
                },
            ));
            lines.len() - 1
        });
        lines[place].1.cells[column] = Some(cell(found, row));
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

fn cell(found: &Found, row: &Row) -> Cell {
    let percent = |rate: f64| format!("{:.1}", 100.0 * rate);
    let paired = row.against.as_ref().zip(row.won_alone.zip(row.lost_alone));
    let kind = row
        .task_type
        .map_or(String::new(), |kind| format!("&type={kind}"));
    Cell {
        rate: percent(row.success_rate),
        low: percent(row.low),
        high: percent(row.high),
        n: row.n,
        successes: row.successes,
        mean_turns: format!("{:.1}", row.mean_turns),
        malformed: percent(row.malformed_share),
        env_failed: row.env_failed,
        paired: paired.map(|(against, (won, lost))| {
            format!("{won} games won by this one alone, {lost} by {against} alone; exact McNemar test, two-sided")
        }),
        p: row
            .won_alone
            .zip(row.lost_alone)
            .zip(row.p_value)
            .map(|((won, lost), p)| format!("{won} : {lost}, p {}", p_value(p))),
        link: found.store_of(row).map_or(String::new(), |store| {
            format!("#episodes?store={}&split={}{kind}", encoded(&store.played.file), row.split)
        }),
    }
}

fn p_value(p: f64) -> String {
    if p < 1e-3 {
        format!("= {p:.0e}")
    } else {
        format!("= {p:.3}")
    }
}

/// For the part of an address behind `#`.
fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| {
            if is_plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Figures that stand in the page: their colours are the style's, and a reader is told what they are.
fn shown(figures: &[Figure], about: About) -> Vec<Shown> {
    let inline = |figure: &Figure| {
        let title = minijinja::HtmlEscape(&figure.title);
        let opened = format!("<svg role=\"img\" aria-label=\"{title}\" ");
        // In a page an SVG needs no name of its language, which would be the only address in the file.
        let svg = figure
            .svg
            .replacen("<svg ", &opened, 1)
            .replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
        Shown {
            title: figure.title.clone(),
            caption: figure.caption.clone(),
            svg: Value::from_safe_string(svg),
        }
    };
    figures
        .iter()
        .filter(|figure| figure.about == about)
        .map(inline)
        .collect()
}
