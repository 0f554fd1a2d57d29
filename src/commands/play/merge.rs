//! `hearth merge`: shards' stores made into the whole ones, once nothing is missing.

use crate::ui;
use clap::{Args, ValueHint};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::pipeline::shard::{Merged, merge, parts_in};

#[derive(Args)]
pub(crate) struct Merge {
    /// Shards' stores (NAME.shard-I-of-N.jsonl), or folders that hold some
    #[arg(required = true, value_name = "STORE", value_hint = ValueHint::AnyPath)]
    stores: Vec<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    merged: Vec<Merged>,
}

impl Merge {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut stores = Vec::new();
        for path in &self.stores {
            let found = if path.is_dir() {
                parts_in(path)?
            } else {
                vec![path.clone()]
            };
            if found.is_empty() {
                let text = format!(
                    "no shard's store in {}\nhint: they are named NAME.shard-I-of-N.jsonl",
                    path.display()
                );
                return Err(ui::WrongUse(text).into());
            }
            stores.extend(found);
        }
        let merged = merge(&stores)?;
        if self.json {
            ui::print_json(&Report { merged })?;
        } else {
            for Merged {
                store,
                episodes,
                successes,
                shards,
            } in merged
            {
                let (store, shards) = (store.display(), shards.len());
                ui::print(&format!(
                    "{successes} won of {episodes} episodes of {shards} shards, in {store}\n"
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
