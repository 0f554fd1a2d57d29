//! `hearth audit`: leaks and cheats in eval folders and runs.

use crate::ui;
use clap::{Args, ValueHint};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::measure::audit::{Severity, audit};
use trainer::pipeline::folder::Folder;

#[derive(Args)]
pub(crate) struct Audit {
    /// Folders of `hearth eval` or `hearth loop`
    #[arg(required = true, value_hint = ValueHint::DirPath)]
    folders: Vec<PathBuf>,
    /// The suite that was measured on, for games that are missing and games or rooms of train [default: the run's]
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Stores that were learned from, beside those of the run
    #[arg(long, num_args = 1.., value_hint = ValueHint::FilePath)]
    training: Vec<PathBuf>,
    /// End with exit code 1 when something is found
    #[arg(long)]
    strict: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// A folder and what is wrong with it.
#[derive(Serialize)]
struct Audited {
    folder: PathBuf,
    #[serde(flatten)]
    audit: trainer::measure::audit::Audit,
}

#[derive(Serialize)]
struct Report {
    folders: Vec<Audited>,
    findings: usize,
}

impl Audit {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut folders = Vec::new();
        for folder in self.folders {
            let opened = Folder::open(&folder, self.suite.as_deref(), &self.training)?;
            folders.push(Audited {
                folder,
                audit: audit(&opened.evidence()),
            });
        }
        let findings = folders
            .iter()
            .map(|audited| audited.audit.findings.len())
            .sum();
        let report = Report { folders, findings };
        if self.json {
            ui::print_json(&report)?;
        } else {
            report.folders.iter().for_each(Audited::print);
        }
        Ok(ExitCode::from(u8::from(self.strict && findings > 0)))
    }
}

impl Audited {
    fn print(&self) {
        let (findings, folder) = (&self.audit.findings, self.folder.display());
        ui::print(&format!("{folder}: {} found\n", findings.len()));
        for finding in findings {
            ui::print(&format!("  {}: {}\n", word(finding.severity), finding.text));
        }
        for text in &self.audit.not_checked {
            ui::print(&format!("  not checked: {text}\n"));
        }
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// Tells on stderr what was found beside a number that was just measured.
pub(crate) fn say(audit: &trainer::measure::audit::Audit) {
    for finding in &audit.findings {
        eprintln!("warning: {}", finding.text);
    }
}
