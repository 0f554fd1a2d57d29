//! `hearth merge`: combines the stores of shards into whole stores, if no shard is missing.

use crate::ui;
use clap::{Args, ValueHint};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::pipeline::shard::{Merged, merge, parts_in};

#[derive(Args)]
pub(crate) struct MergeCommand {
    /// Stores of shards (NAME.shard-I-of-N.jsonl), or folders that contain some
    #[arg(required = true, value_name = "STORE", value_hint = ValueHint::AnyPath)]
    stores: Vec<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// The JSON output of `hearth merge`.
#[derive(Serialize)]
struct MergeOutput {
    merged: Vec<Merged>,
}

impl MergeCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut stores = Vec::new();
        for path in &self.stores {
            let found = if path.is_dir() {
                parts_in(path)?
            } else {
                vec![path.clone()]
            };
            if found.is_empty() {
                return Err(ui::WrongUse(format!(
                    "no store of a shard in {}\nhint: they are named NAME.shard-I-of-N.jsonl",
                    path.display()
                ))
                .into());
            }
            stores.extend(found);
        }
        let merged = merge(&stores)?;
        if self.json {
            ui::print_json(&MergeOutput { merged })?;
            return Ok(ExitCode::SUCCESS);
        }
        for Merged {
            store,
            episodes,
            successes,
            shards,
        } in merged
        {
            ui::print(&format!(
                "{successes} won of {episodes} episodes of {} shards, in {}\n",
                shards.len(),
                store.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
