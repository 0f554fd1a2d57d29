//! `hearth store`: what trajectory stores contain, compaction, selection, and a check that they can be read.

use crate::args::stores::{self, note_torn};
use crate::ui;
use clap::{Args, Subcommand, ValueHint};
use scenarios::{Outcome, Split, files};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::store::compact::{CompactionCounts, LEVEL, compact};
use trainer::store::is_compacted;
use trainer::store::select::{RecordCounts, Selection};
use trainer::store::verify::{StoreCheck, check};

/// Show, compact and check trajectory stores
#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    /// Count records by outcome, policy and iteration
    Info(InfoCommand),
    /// Compress stores into a folder of parts with an index; stores stay as they are
    Compact(CompactCommand),
    /// Write the selected records of stores as JSON lines
    Select(SelectCommand),
    /// Read every record; exit code 1 if one is damaged
    Verify(VerifyStoreCommand),
}

/// Which stores, and which of their records.
#[derive(Args)]
struct SelectionArgs {
    /// Stores: JSONL files, compacted stores, or run folders, whose stores are all read
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    stores: Vec<PathBuf>,
    /// Only this game: its id, or the last part of it
    #[arg(long)]
    game: Option<String>,
    /// Only this outcome: success, failure, turn_limit, context_limit or env_failed
    #[arg(long, value_parser = outcome)]
    outcome: Option<Outcome>,
    /// Only policies whose hash or name begins with this
    #[arg(long)]
    policy: Option<String>,
    /// Only this iteration of a loop; 0 selects stores outside of an iteration's folder
    #[arg(long)]
    iteration: Option<u32>,
    /// Only this split
    #[arg(long)]
    split: Option<Split>,
}

#[derive(Args)]
pub(crate) struct InfoCommand {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct CompactCommand {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Folder of the compacted store; new parts are added to those that are there
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Level of zstd: higher levels are smaller and slower
    #[arg(long, default_value_t = LEVEL, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct SelectCommand {
    #[command(flatten)]
    selection: SelectionArgs,
    /// New JSONL file [default: stdout]
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct VerifyStoreCommand {
    /// Stores: JSONL files, compacted stores, or run folders, whose stores are all read
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    stores: Vec<PathBuf>,
    /// Print one JSON object instead of a line per store
    #[arg(long)]
    json: bool,
}

fn outcome(text: &str) -> Result<Outcome, String> {
    let outcomes = trainer::store::index::OUTCOMES;
    outcomes
        .into_iter()
        .find(|outcome| outcome.name() == text)
        .ok_or_else(|| {
            let names: Vec<&str> = outcomes.iter().map(|outcome| outcome.name()).collect();
            format!("one of {}", names.join(", "))
        })
}

impl StoreCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Info(command) => command.run(),
            Self::Compact(command) => command.run(),
            Self::Select(command) => command.run(),
            Self::Verify(command) => command.run(),
        }
    }
}

impl SelectionArgs {
    /// Returns the stores and the conditions.
    fn open(self) -> anyhow::Result<(Vec<PathBuf>, Selection)> {
        let stores = found(&self.stores)?;
        let selection = Selection {
            game: self.game,
            outcome: self.outcome,
            policy: self.policy,
            iteration: self.iteration,
            split: self.split,
        };
        Ok((stores, selection))
    }
}

fn found(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let sources = stores::find(paths)?;
    Ok(sources.into_iter().map(|source| source.store).collect())
}

/// The JSON output of `hearth store info`.
#[derive(Serialize)]
struct InfoOutput {
    #[serde(flatten)]
    counts: RecordCounts,
    /// Bytes of the stores' files, of which the records may be a part.
    bytes_on_disk: u64,
}

impl InfoCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (stores, selection) = self.selection.open()?;
        let output = InfoOutput {
            counts: selection.count(&stores)?,
            bytes_on_disk: stores
                .iter()
                .map(|store| size(store))
                .sum::<Result<_, _>>()?,
        };
        if self.json {
            ui::print_json(&output)?;
        } else {
            output.print();
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the bytes of a file, or of the files of a compacted store.
fn size(store: &Path) -> Result<u64, TrainerError> {
    let failed = |source| TrainerError::File {
        path: store.into(),
        source,
    };
    if !is_compacted(store) {
        return Ok(store.metadata().map_err(failed)?.len());
    }
    let mut bytes = 0;
    for entry in store.read_dir().map_err(failed)? {
        bytes += entry
            .and_then(|entry| entry.metadata())
            .map_err(failed)?
            .len();
    }
    Ok(bytes)
}

impl InfoOutput {
    fn print(&self) {
        let Self {
            counts,
            bytes_on_disk,
        } = self;
        let mut rows = vec![
            cells("records", counts.records),
            cells("games", counts.games),
            cells("turns", counts.turns),
            cells("tokens", counts.tokens),
            cells("bytes of their lines", counts.bytes),
            cells("bytes on disk", bytes_on_disk),
        ];
        if counts.branches > 0 {
            rows.push(cells("branches", counts.branches));
        }
        rows.extend(named("outcome", &counts.outcomes));
        rows.extend(named("policy", &counts.policies));
        if counts.iterations.keys().any(|iteration| *iteration > 0) {
            rows.extend(named("iteration", &counts.iterations));
        }
        ui::print_table(&["", "count"], &rows);
    }
}

fn cells(name: &str, number: impl ToString) -> Vec<String> {
    vec![name.into(), number.to_string()]
}

fn named<K: ToString>(what: &str, counts: &BTreeMap<K, usize>) -> Vec<Vec<String>> {
    let rows = counts.iter();
    rows.map(|(name, count)| cells(&format!("{what} {}", name.to_string()), count))
        .collect()
}

/// The JSON output of `hearth store compact`.
#[derive(Serialize)]
struct CompactOutput {
    #[serde(flatten)]
    counts: CompactionCounts,
    folder: PathBuf,
}

impl CompactCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (stores, selection) = self.selection.open()?;
        let counts = compact(&stores, &selection, self.level, &self.out)?;
        for (store, bytes) in &counts.torn {
            note_torn(store, *bytes);
        }
        if counts.doubled > 0 {
            eprintln!(
                "{} records were left out, because the store has them already",
                counts.doubled
            );
        }
        if self.json {
            ui::print_json(&CompactOutput {
                counts,
                folder: self.out,
            })?;
        } else {
            let ratio = counts.bytes as f64 / counts.compressed.max(1) as f64;
            ui::print(&format!(
                "{} records in {} new parts of {}: {} bytes, {ratio:.1} times smaller\n",
                counts.written,
                counts.parts,
                self.out.display(),
                counts.compressed,
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl SelectCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (stores, selection) = self.selection.open()?;
        let Some(out) = self.out else {
            selection.lines(&stores, |line| {
                ui::print(&String::from_utf8_lossy(line));
                Ok(())
            })?;
            return Ok(ExitCode::SUCCESS);
        };
        if out.exists() {
            let text = format!("{}: exists\nhint: choose a new file", out.display());
            return Err(ui::WrongUse(text).into());
        }
        let selected = write_selected(&selection, &stores, &out)?;
        eprintln!("{selected} records in {}", out.display());
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the selected lines under another name and renames the file when it is complete.
fn write_selected(
    selection: &Selection,
    stores: &[PathBuf],
    out: &Path,
) -> Result<usize, TrainerError> {
    let temporary = out.with_added_extension("new");
    let failed = |source| TrainerError::File {
        path: temporary.clone(),
        source,
    };
    let file = std::fs::File::create(&temporary).map_err(failed)?;
    let mut writer = std::io::BufWriter::new(file);
    let selected = selection.lines(stores, |line| writer.write_all(line).map_err(failed))?;
    let file = writer.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all()
        .and_then(|()| std::fs::rename(&temporary, out))
        .map_err(failed)?;
    files::sync_folder(out);
    Ok(selected)
}

/// The JSON output of `hearth store verify`.
#[derive(Serialize)]
struct VerifyStoreOutput {
    store: PathBuf,
    #[serde(flatten)]
    check: StoreCheck,
}

impl VerifyStoreCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut checked = Vec::new();
        for store in found(&self.stores)? {
            let check = check(&store)?;
            checked.push(VerifyStoreOutput { store, check });
        }
        let is_damaged = checked.iter().any(|output| output.check.damaged > 0);
        if self.json {
            ui::print_json(&checked)?;
        } else {
            checked.iter().for_each(VerifyStoreOutput::print);
        }
        Ok(if is_damaged {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

impl VerifyStoreOutput {
    fn print(&self) {
        let Self { store, check } = self;
        let store = store.display();
        let mut text = format!("{store}: {} records", check.records);
        if check.doubled > 0 {
            text += &format!(", {} of them doubled", check.doubled);
        }
        if check.torn > 0 {
            text += &format!(", {} bytes of an incomplete last line", check.torn);
        }
        text += &match check.damaged {
            0 => ", no damage\n".to_owned(),
            count => format!(", {count} problems\n"),
        };
        for problem in &check.problems {
            text += &format!("  {problem}\n");
        }
        ui::print(&text);
    }
}
