//! `hearth selftest`: the production losses against decision problems whose optimum is known.

use crate::ui;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;
use trainer::selftest::{Fact, facts};

#[derive(Args)]
pub(crate) struct Selftest {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    passed: bool,
    facts: Vec<Fact>,
}

impl Selftest {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let facts = facts();
        let missed = facts.iter().filter(|fact| !fact.passed).count();
        let report = Report {
            passed: missed == 0,
            facts,
        };
        if self.json {
            ui::print_json(&report)?;
        } else {
            for Fact { id, passed, detail } in &report.facts {
                ui::print(&format!(
                    "{:<20} {:<7} {detail}\n",
                    id,
                    if *passed { "holds" } else { "MISSED" }
                ));
            }
            ui::print(&format!(
                "{} facts in double precision, {missed} missed\n",
                report.facts.len()
            ));
        }
        Ok(if report.passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
