//! Terminal output: progress bars, tables, errors and exit codes. Results go to stdout, messages to
//! stderr.

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
use trainer::measure::failures::{FailureClass, FailureRow};
use trainer::measure::play_notes::is_lost;
use trainer::measure::table::{EvalRow, Interval};
use trainer::pipeline::run::Reporter;

/// Draws progress bars on stderr, or prints one line per stage if stderr is not a terminal.
pub(crate) struct Terminal;

impl Reporter for Terminal {
    fn stage(&self, title: &str) -> ProgressBar {
        bar(title)
    }

    fn say(&self, text: &str) {
        eprintln!("{text}");
    }
}

/// Returns the progress bar of one stage of work. If stderr is not a terminal, prints the title and
/// returns a hidden bar.
pub(crate) fn bar(title: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        eprintln!("{title}");
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template(
        "{prefix:32} {bar:24} {pos:>5}/{len:<5} {elapsed:>4}  {wide_msg}",
    );
    let bar = ProgressBar::new(0)
        .with_style(style.expect("the template is a valid constant"))
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

/// Writes to stdout. If the pipe is closed, for example by a pager, the program exits without an
/// error. If the text cannot be written for another reason, such as a full disk, it exits with an error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout();
    let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) else {
        return;
    };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("error: cannot write to stdout: {error}");
    std::process::exit(1);
}

/// Prints the success rates by policy and K, with one column per split.
pub(crate) fn print_summary(rows: &[EvalRow], title: impl Fn(&EvalRow) -> String) {
    let mut splits: Vec<Split> = rows.iter().map(|row| row.split).collect();
    splits.sort_unstable();
    splits.dedup();
    let mut lines: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        let line = (row.policy.as_str(), row.k);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let mut header = vec!["success %, Wilson 95 %".to_string()];
    for split in &splits {
        let n = rows
            .iter()
            .find(|row| row.split == *split && row.task_type.is_none())
            .map_or(0, |row| row.n);
        header.push(format!("{split} (n = {n})"));
    }
    let mut table = Vec::new();
    for (policy, k) in lines {
        let found: Vec<Option<&EvalRow>> = splits
            .iter()
            .map(|split| {
                rows.iter().find(|row| {
                    (row.policy.as_str(), row.k, row.split, row.task_type)
                        == (policy, k, *split, None)
                })
            })
            .collect();
        let name = found
            .iter()
            .flatten()
            .next()
            .map_or_else(|| policy.to_string(), |row| title(row));
        let mut cells = vec![name];
        cells.extend(
            found
                .into_iter()
                .map(|row| row.map_or_else(|| "-".into(), percent)),
        );
        table.push(cells);
    }
    print_table(
        &header.iter().map(String::as_str).collect::<Vec<_>>(),
        &table,
    );
}

/// Formats a p-value for reading.
pub(crate) fn p_value(p: f64) -> String {
    if p < 1e-3 {
        format!("{p:.0e}")
    } else {
        format!("{p:.3}")
    }
}

/// Prints every row with all its columns. The number of games and the kind of interval are shown if
/// an interval is not a Wilson interval.
pub(crate) fn print_rows(rows: &[EvalRow]) {
    if rows.iter().all(|row| row.interval == Interval::Wilson) {
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
        return print_table(&header, &rows.iter().map(row_cells).collect::<Vec<_>>());
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
    let mut table = Vec::new();
    for row in rows {
        let mut cells = row_cells(row);
        cells.insert(5, row.games.to_string());
        cells.insert(7, row.interval.name().into());
        table.push(cells);
    }
    print_table(&header, &table);
}

fn row_cells(row: &EvalRow) -> Vec<String> {
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
}

/// Prints lost episodes by class, one line per split and K. Prints nothing if none was lost.
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
    let mut header = vec!["lost episodes of", "split", "K"];
    header.extend(FailureClass::ALL.map(FailureClass::name));
    let mut table = Vec::new();
    for (policy, split, k) in lines {
        let mut cells = vec![policy.to_string(), split.to_string(), k.to_string()];
        cells.extend(FailureClass::ALL.iter().map(|failure| {
            all.iter()
                .find(|row| {
                    (row.policy.as_str(), row.split, row.k, row.failure)
                        == (policy, split, k, *failure)
                })
                .map_or_else(|| "-".into(), |row| row.episodes.to_string())
        }));
        table.push(cells);
    }
    print_table(&header, &table);
}

/// Prints how many episodes were lost because their world or server failed, with the reason of the
/// last one. Returns the number.
pub(crate) fn report_lost(played: &[Trajectory]) -> usize {
    let lost: Vec<&Trajectory> = played
        .iter()
        .filter(|trajectory| trajectory.outcome == Outcome::EnvFailed)
        .collect();
    if !lost.is_empty() {
        let reason = lost
            .iter()
            .rev()
            .find_map(|trajectory| trajectory.failure.as_deref())
            .unwrap_or_default();
        eprintln!(
            "{} of {} episodes were lost and count neither as won nor as not won; the last: {reason}",
            lost.len(),
            played.len()
        );
    }
    lost.len()
}

/// Returns the exit code of several rounds: a failure if every episode of one was lost, because then nothing was measured.
pub(crate) fn exit_of_rounds(rounds: &[&[Trajectory]]) -> ExitCode {
    if rounds.iter().any(|episodes| is_lost(episodes)) {
        eprintln!(
            "error: every episode of a round was lost or did not fit into the context, so nothing was measured"
        );
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn percent(row: &EvalRow) -> String {
    format!(
        "{:.1} [{:.1}, {:.1}]",
        100.0 * row.success_rate,
        100.0 * row.low,
        100.0 * row.high
    )
}

/// Prints a note to stderr.
pub(crate) fn note(text: &str) {
    eprintln!("note: {text}");
}

/// Prints an error and its causes, each once. Hints are on lines of their own.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("error: {text}");
}

/// Wrong use (exit code 2), in contrast to a run that failed (1).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUse(pub(crate) String);

/// Refuses a list that contains an item twice, because its episodes would be counted twice.
///
/// # Errors
/// If an item occurs twice.
pub(crate) fn refuse_duplicates<T: PartialEq>(flag: &str, list: &[T]) -> Result<(), WrongUse> {
    let has_duplicates = list
        .iter()
        .enumerate()
        .any(|(index, item)| list[..index].contains(item));
    if has_duplicates {
        Err(WrongUse(format!(
            "{flag}: one of the values is given twice"
        )))
    } else {
        Ok(())
    }
}

/// Returns 2 if the error is wrong use, an unusable file or a broken world, else 1.
pub(crate) fn exit_status(error: &anyhow::Error) -> u8 {
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
    if wrong_use { 2 } else { 1 }
}

/// Returns true for every store error except one of writing, which means that the store was usable
/// when it was opened.
fn is_unusable_store(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::Io {
            verb: "append to" | "mend",
            ..
        }
    )
}
