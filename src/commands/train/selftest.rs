//! `hearth selftest`: checks the production losses on decision problems with a known optimum.

use crate::ui;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;
use trainer::selftest::{Fact, facts};

#[derive(Args)]
pub(crate) struct SelftestCommand {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// The JSON output of `hearth selftest`.
#[derive(Serialize)]
struct SelftestOutput {
    passed: bool,
    facts: Vec<Fact>,
}

impl SelftestCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let facts = facts();
        let missed = facts.iter().filter(|fact| !fact.passed).count();
        let output = SelftestOutput {
            passed: missed == 0,
            facts,
        };
        if self.json {
            ui::print_json(&output)?;
        } else {
            for Fact { id, passed, detail } in &output.facts {
                ui::print(&format!(
                    "{:<20} {:<7} {detail}\n",
                    id,
                    if *passed { "holds" } else { "MISSED" }
                ));
            }
            ui::print(&format!(
                "{} facts in double precision, {missed} missed\n",
                output.facts.len()
            ));
        }
        Ok(if output.passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
