//! `hearth export`: writes logged episodes in the formats of other trainers.

use crate::args::stores;
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::Split;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::formats::export::{Export, ExportCounts, ExportFormat, ExportOptions, LeftOut};

#[derive(Args)]
pub(crate) struct ExportCommand {
    /// Stores (JSONL), or run folders, whose stores are all read
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    stores: Vec<PathBuf>,
    /// Format: `sharegpt`, `openai`, `trl-sft`, `trl-dpo` (pairs of a won and a lost episode of one
    /// game), `trl-kto`, or, as Parquet, `verl-sft` and `verl-rl` (one row per game)
    #[arg(long)]
    format: ExportFormat,
    /// File to write; a JSON list if its name ends in .json, else JSON lines
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// Omit episodes that were not won
    #[arg(long)]
    won_only: bool,
    /// Splits to include, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    split: Vec<Split>,
    /// Text file with the system message [default: the instructions of the episode, if it has some]
    #[arg(long, value_hint = ValueHint::FilePath)]
    instructions: Option<PathBuf>,
    /// Maximum number of pairs per game, for `trl-dpo`
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seed of the choice of pairs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

/// The JSON output of `hearth export`.
#[derive(Serialize)]
struct ExportOutput {
    #[serde(flatten)]
    counts: ExportCounts,
    file: PathBuf,
}

impl ExportCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.format == ExportFormat::TrlDpo && (self.won_only || self.pairs == 0) {
            let text = "--format trl-dpo: a pair needs a lost episode too\n\
                        hint: omit --won-only, and set --pairs to 1 or more";
            return Err(ui::WrongUse(text.into()).into());
        }
        let sources = stores::find(&self.stores)?;
        let instructions = match &self.instructions {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|e| ui::WrongUse(format!("--instructions {}: {e}", path.display())))?;
                Some(text.trim_end().to_owned())
            }
            None => None,
        };
        let options = ExportOptions {
            won_only: self.won_only,
            splits: self.split,
            instructions,
            pairs: self.pairs,
            seed: self.seed,
        };
        let mut file = Export::create(self.format, options, &self.out)?;
        let bar = ui::bar("export");
        bar.set_length(sources.len() as u64);
        for source in &sources {
            for episode in stores::read(&source.store)? {
                file.add(&episode)
                    .with_context(|| format!("in {}", source.store.display()))?;
            }
            bar.inc(1);
        }
        let counts = file.finish()?;
        bar.finish();
        report_omitted(self.format, &counts);
        if self.json {
            ui::print_json(&ExportOutput {
                counts,
                file: self.out,
            })?;
        } else {
            ui::print(&format!(
                "{} rows of {} from {} episodes, in {}\n",
                counts.rows,
                self.format.name(),
                counts.episodes,
                self.out.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints which episodes are not in the file, and warns if rows that were not won will be imitated.
fn report_omitted(format: ExportFormat, counts: &ExportCounts) {
    let LeftOut {
        lost,
        empty,
        other_split,
        not_won,
        unpaired,
    } = counts.left_out;
    for (count, why) in [
        (lost, "were lost because their world or server failed"),
        (empty, "have no turn"),
        (other_split, "are of other splits"),
        (not_won, "were not won"),
        (
            unpaired,
            "are in no pair: their game was only won or only lost, or has all its pairs",
        ),
    ] {
        if count > 0 {
            eprintln!("left out: {count} episodes that {why}");
        }
    }
    if format.is_imitated() && counts.not_won > 0 {
        eprintln!(
            "warning: {} of the rows were not won, and will be imitated\nhint: --won-only",
            counts.not_won
        );
    }
}
