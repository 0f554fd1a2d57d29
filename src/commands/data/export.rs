//! `hearth export`: logged episodes as rows that the trainers of others load.

use crate::args::stores;
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::Split;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::formats::export::{Counts, Export as File, Format, LeftOut, Options};

#[derive(Args)]
pub(crate) struct Export {
    /// Stores, JSONL, and run folders, whose stores are all read
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    stores: Vec<PathBuf>,
    /// `sharegpt`, `openai`; `trl-sft`, `trl-dpo` (pairs of a won and a lost episode of one game), `trl-kto`; `verl-sft`
    /// or `verl-rl` (a row a game), both Parquet
    #[arg(long)]
    format: Format,
    /// The file; JSON lines, or a JSON list where it ends in .json
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// Leave out episodes that were not won
    #[arg(long)]
    won_only: bool,
    /// Splits to keep, with commas between [default: all]
    #[arg(long, value_delimiter = ',')]
    split: Vec<Split>,
    /// A file with the system message [default: the instructions that the episode was played with, if any]
    #[arg(long, value_hint = ValueHint::FilePath)]
    instructions: Option<PathBuf>,
    /// Most pairs of a game, for `trl-dpo`
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seed of the pairs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Exported {
    #[serde(flatten)]
    counts: Counts,
    file: PathBuf,
}

impl Export {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.format == Format::TrlDpo && (self.won_only || self.pairs == 0) {
            let text = "--format trl-dpo: a pair needs a lost episode too; no --won-only, and --pairs from 1";
            return Err(ui::WrongUse(text.into()).into());
        }
        let sources = stores::find(&self.stores)?;
        let instructions = match &self.instructions {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text
                    .map_err(|e| ui::WrongUse(format!("--instructions {}: {e}", path.display())))?;
                Some(text.trim_end().to_owned())
            }
            None => None,
        };
        let Self {
            won_only,
            pairs,
            seed,
            ..
        } = self;
        let options = Options {
            won_only,
            splits: self.split,
            instructions,
            pairs,
            seed,
        };
        let mut file = File::create(self.format, options, &self.out)?;
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
        say(self.format, &counts);
        if self.json {
            ui::print_json(&Exported {
                counts,
                file: self.out,
            })?;
        } else {
            let Counts { rows, episodes, .. } = counts;
            let format = self.format.name();
            ui::print(&format!(
                "{rows} rows of {format} from {episodes} episodes, in {}\n",
                self.out.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Tells what is not in the file, and what perhaps should not be.
fn say(format: Format, counts: &Counts) {
    let LeftOut {
        lost,
        empty,
        other_split,
        not_won,
        unpaired,
    } = counts.left_out;
    for (count, why) in [
        (lost, "were lost to their world or server"),
        (empty, "have no turn"),
        (other_split, "are of other splits"),
        (not_won, "were not won"),
        (
            unpaired,
            "are in no pair: their game was only won or only lost, or has its pairs",
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
