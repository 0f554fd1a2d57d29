//! What the terminal shows: progress bars, tables, errors. Results go to stdout, talk to stderr.

use agent::AgentError;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use scenarios::store::StoreError;
use scenarios::{Outcome, Split, Trajectory};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;
use trainer::TrainerError;
use trainer::measure::evaluate::{Interval, Row};
use trainer::measure::failures::{Failure, FailureRow};
use trainer::pipeline::run::Reporter;

/// Draws progress bars on stderr, or prints one line a stage where stderr is no terminal.
pub(crate) struct Terminal;

impl Reporter for Terminal {
    fn stage(&self, title: &str) -> ProgressBar {
        bar(title)
    }

    fn say(&self, text: &str) {
        eprintln!("{text}");
    }
}

/// A bar for one stage of work.
pub(crate) fn bar(title: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        eprintln!("{title}");
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template(
        "{prefix:32} {bar:24} {pos:>5}/{len:<5} {elapsed:>4}  {wide_msg}",
    );
    let bar = ProgressBar::new(0)
        .with_style(style.expect("the template is written here"))
        .with_prefix(title.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Prints a table to stdout.
pub(crate) fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if index == 0 {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        });
    }
    print(&format!("{}\n", table.trim_fmt()));
}

/// Prints one JSON object to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string(value)?));
    Ok(())
}

/// Writes to stdout; a closed pipe ends the program quietly, as a pager's reader expects.
pub(crate) fn print(text: &str) {
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        std::process::exit(0);
    }
}

/// Success by policy and K, one column a split.
pub(crate) fn print_summary(rows: &[Row], title: impl Fn(&Row) -> String) {
    let mut splits: Vec<Split> = rows.iter().map(|row| row.split).collect();
    splits.sort_unstable();
    splits.dedup();
    let mut lines: Vec<(String, usize)> = Vec::new();
    for row in rows {
        let line = (row.policy.clone(), row.k);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let table: Vec<Vec<String>> = lines
        .iter()
        .map(|(policy, k)| {
            let of = |split: &Split| {
                rows.iter().find(|r| {
                    r.policy == *policy && r.k == *k && r.split == *split && r.task_type.is_none()
                })
            };
            let name = splits
                .iter()
                .find_map(&of)
                .map_or_else(|| policy.clone(), &title);
            let cells = splits
                .iter()
                .map(|split| of(split).map_or_else(|| "-".into(), percent));
            std::iter::once(name).chain(cells).collect()
        })
        .collect();
    let header: Vec<String> = std::iter::once("success %, Wilson 95 %".to_string())
        .chain(splits.iter().map(|split| {
            let n = rows
                .iter()
                .find(|row| row.split == *split && row.task_type.is_none())
                .map_or(0, |row| row.n);
            format!("{split} (n = {n})")
        }))
        .collect();
    print_table(
        &header.iter().map(String::as_str).collect::<Vec<_>>(),
        &table,
    );
}

/// A p-value for the eye.
pub(crate) fn p_value(p: f64) -> String {
    if p < 1e-3 {
        format!("{p:.0e}")
    } else {
        format!("{p:.3}")
    }
}

/// Every row with all its columns.
pub(crate) fn print_rows(rows: &[Row]) {
    let cells = |row: &Row| {
        let kind = row.task_type.map_or("all", scenarios::TaskType::short_name);
        vec![
            row.policy.clone(),
            row.split.to_string(),
            kind.to_string(),
            row.k.to_string(),
            row.n.to_string(),
            percent(row),
            format!("{:.1}", row.mean_turns),
            format!("{:.1}", 100.0 * row.malformed_share),
        ]
    };
    let header = [
        "policy",
        "split",
        "task type",
        "K",
        "n",
        "success %, Wilson 95 %",
        "mean turns",
        "malformed %",
    ];
    if rows.iter().all(|row| row.interval == Interval::Wilson) {
        return print_table(&header, &rows.iter().map(cells).collect::<Vec<_>>());
    }
    let header = [
        "policy",
        "split",
        "task type",
        "K",
        "n",
        "games",
        "success %, 95 %",
        "by",
        "mean turns",
        "malformed %",
    ];
    let with_interval = |row: &Row| {
        let mut cells = cells(row);
        cells.insert(5, row.games.to_string());
        cells.insert(7, row.interval.name().into());
        cells
    };
    print_table(&header, &rows.iter().map(with_interval).collect::<Vec<_>>());
}

/// Lost episodes by class, one line a split and K; nothing where none was lost.
pub(crate) fn print_failures(rows: &[FailureRow]) {
    let all: Vec<&FailureRow> = rows.iter().filter(|row| row.task_type.is_none()).collect();
    if all.is_empty() {
        return;
    }
    let mut lines: Vec<(&str, Split, usize)> = all
        .iter()
        .map(|row| (row.policy.as_str(), row.split, row.k))
        .collect();
    lines.dedup();
    let line = |(policy, split, k): &(&str, Split, usize)| {
        let of = |failure: &Failure| {
            let is_it = |row: &&&FailureRow| {
                (row.policy.as_str(), row.split, row.k, row.failure)
                    == (*policy, *split, *k, *failure)
            };
            all.iter()
                .find(is_it)
                .map_or_else(|| "-".into(), |row| row.episodes.to_string())
        };
        let names = [(*policy).to_string(), split.to_string(), k.to_string()];
        names
            .into_iter()
            .chain(Failure::ALL.iter().map(of))
            .collect()
    };
    let header: Vec<&str> = ["lost episodes of", "split", "K"]
        .into_iter()
        .chain(Failure::ALL.map(Failure::name))
        .collect();
    print_table(
        &header,
        &lines.iter().map(line).collect::<Vec<Vec<String>>>(),
    );
}

/// Tells how many episodes were lost to a world or a server, and what the last of them said.
pub(crate) fn say_lost(played: &[Trajectory]) -> usize {
    let lost = played
        .iter()
        .filter(|trajectory| trajectory.outcome == Outcome::EnvFailed);
    let failure = lost
        .clone()
        .filter_map(|trajectory| trajectory.failure.as_deref())
        .next_back()
        .unwrap_or_default();
    let count = lost.count();
    if count > 0 {
        eprintln!(
            "{count} of {} episodes were lost and count neither as won nor as not won; the last: {failure}",
            played.len()
        );
    }
    count
}

fn percent(row: &Row) -> String {
    format!(
        "{:.1} [{:.1}, {:.1}]",
        100.0 * row.success_rate,
        100.0 * row.low,
        100.0 * row.high
    )
}

/// Prints a note to stderr.
#[cfg(not(feature = "png"))]
pub(crate) fn note(text: &str) {
    eprintln!("note: {text}");
}

/// Prints an error and its causes, each once; hints stand on their own lines.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("error: {text}");
}

/// Wrong use (exit code 2), as against a run that failed (1).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUse(pub(crate) String);

/// Refuses a list in which something stands twice: what is played twice would be counted twice.
pub(crate) fn refuse_twice<T: PartialEq>(flag: &str, list: &[T]) -> Result<(), WrongUse> {
    let stands_twice = list
        .iter()
        .enumerate()
        .any(|(index, item)| list[..index].contains(item));
    if stands_twice {
        Err(WrongUse(format!("{flag}: one of them stands there twice")))
    } else {
        Ok(())
    }
}

/// 2 for wrong use, an unusable file or a broken world, else 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let wrong_use = error.is::<WrongUse>()
        || error.is::<scenarios::EnvironmentError>()
        || error.is::<scenarios::SuiteError>()
        || error.downcast_ref().is_some_and(is_unusable_store)
        || match error.downcast_ref() {
            Some(
                TrainerError::Suite(_) | TrainerError::Content { .. } | TrainerError::File { .. },
            ) => true,
            Some(TrainerError::Busy { .. } | TrainerError::Protocol(_)) => true,
            Some(TrainerError::Agent(AgentError::File { .. } | AgentError::Content { .. })) => true,
            Some(TrainerError::Agent(AgentError::Device { .. })) => true,
            Some(TrainerError::Store(error)) => is_unusable_store(error),
            _ => false,
        };
    ExitCode::from(if wrong_use { 2 } else { 1 })
}

/// Everything but a store that could be read and then no longer written.
fn is_unusable_store(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::Io {
            verb: "append to" | "mend",
            ..
        }
    )
}
