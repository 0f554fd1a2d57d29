//! The counts of a suite, as a table or as JSON.

use crate::args::world::text_versions;
use crate::ui;
use scenarios::suite::{NO_GAME_FILE, SuiteFault};
use scenarios::{Split, Suite, Task, TaskType, TextVersion};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// The JSON output of `scenarios generate` and `scenarios list`.
#[derive(Serialize)]
struct SuiteOutput<'a> {
    suite: &'a str,
    hash: String,
    games: usize,
    splits: BTreeMap<Split, BTreeMap<&'static str, usize>>,
    texts: BTreeMap<&'static str, usize>,
    faults: Vec<(String, &'a str)>,
    left_out: usize,
    /// Games that do not say whether they are solvable.
    unmarked: usize,
}

/// Prints the counts of a suite. Returns exit code 1 if a game is damaged or missing.
pub(super) fn show(suite: &Suite, json: bool) -> anyhow::Result<ExitCode> {
    report_faults(suite);
    let mut splits: BTreeMap<Split, BTreeMap<&'static str, usize>> = BTreeMap::new();
    for task in &suite.tasks {
        let kind = task.task_type.map_or("unknown", TaskType::short_name);
        *splits
            .entry(task.split)
            .or_default()
            .entry(kind)
            .or_default() += 1;
    }
    let tasks: Vec<&Task> = suite.tasks.iter().collect();
    let texts = text_versions(&tasks)
        .into_iter()
        .map(|(text, games)| (text.map_or("unknown", TextVersion::name), games))
        .collect();
    if json {
        let faults = suite
            .faults
            .iter()
            .map(|f| (f.path.display().to_string(), f.reason.as_str()))
            .collect();
        ui::print_json(&SuiteOutput {
            suite: &suite.name,
            hash: suite.hash(),
            games: suite.tasks.len(),
            splits,
            texts,
            faults,
            left_out: suite.left_out.len(),
            unmarked: suite.unmarked.len(),
        })?;
    } else {
        print_counts(suite, &splits, &texts);
    }
    Ok(ExitCode::from(u8::from(!suite.faults.is_empty())))
}

fn print_counts(
    suite: &Suite,
    splits: &BTreeMap<Split, BTreeMap<&'static str, usize>>,
    texts: &BTreeMap<&'static str, usize>,
) {
    let kinds = TaskType::ALL.map(TaskType::short_name);
    let mut header = vec!["split", "games"];
    header.extend(kinds);
    let mut rows = Vec::new();
    for (split, counts) in splits {
        let total: usize = counts.values().sum();
        let mut row = vec![split.to_string(), total.to_string()];
        row.extend(
            kinds
                .iter()
                .map(|kind| counts.get(kind).copied().unwrap_or(0).to_string()),
        );
        rows.push(row);
    }
    ui::print_table(&header, &rows);
    let left_out = match suite.left_out.len() {
        0 => String::new(),
        n => format!(", {n} folders or files contain no game"),
    };
    if !texts.is_empty() {
        let counts: Vec<String> = texts
            .iter()
            .map(|(text, games)| format!("{text} ({games} games)"))
            .collect();
        ui::print(&format!("text {}\n", counts.join(", ")));
    }
    ui::print(&format!(
        "suite {} {}: {} games, {} faults{left_out}\n",
        suite.name,
        &suite.hash()[..16],
        suite.tasks.len(),
        suite.faults.len()
    ));
}

/// Prints every game that is damaged or missing.
pub(crate) fn report_faults(suite: &Suite) {
    for fault in &suite.faults {
        eprintln!("left out: {}: {}", fault.path.display(), fault.reason);
    }
    if !suite.faults.is_empty() {
        eprintln!(
            "{} games of {} are left out",
            suite.faults.len(),
            suite.name
        );
    }
    if let Some(note) = without_game_file(suite, None) {
        eprintln!("note: {note}");
    }
    if let Some(first) = suite.unmarked.first() {
        eprintln!(
            "note: {} games do not say whether they are solvable: they are played here, and ALFWorld skips them; the first: {}",
            suite.unmarked.len(),
            first.display()
        );
    }
}

/// The error if a split has no games: why, or which splits have some.
pub(crate) fn no_games(suite: &Suite, path: &Path, split: Split) -> anyhow::Error {
    let why = match without_game_file(suite, Some(split)) {
        Some(why) => format!(": {why}"),
        None => {
            let others = Split::ALL
                .into_iter()
                .filter(|split| !suite.split(*split).is_empty());
            let others: Vec<&str> = others.map(Split::name).collect();
            if others.is_empty() {
                String::new()
            } else {
                format!(
                    "\nhint: it has games in {}; choose one with --split",
                    others.join(", ")
                )
            }
        }
    };
    ui::WrongUse(format!("{} has no games in {split}{why}", path.display())).into()
}

/// Returns a message about the trials of a split, or of all splits, that have no text game. `None` if there are none.
fn without_game_file(suite: &Suite, split: Option<Split>) -> Option<String> {
    let missing: Vec<&SuiteFault> = suite
        .left_out
        .iter()
        .filter(|fault| fault.reason == NO_GAME_FILE)
        .filter(|fault| {
            let name = split.map(Split::name);
            name.is_none_or(|name| fault.path.starts_with(suite.root.join(name)))
        })
        .collect();
    let first = missing.first()?;
    Some(format!(
        "{} trials have no game.tw-pddl and cannot be played; the first: {}\n\
         hint: `alfworld-download` of the Python package alfworld fetches the text games beside the JSON files",
        missing.len(),
        first.path.display()
    ))
}
