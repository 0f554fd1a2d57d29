//! `hearth audit`: checks evaluation folders and runs for leaks and invalid results.

use crate::ui;
use clap::{Args, ValueHint};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use trainer::measure::audit::{self, Severity};
use trainer::pipeline::folder::Folder;

#[derive(Args)]
pub(crate) struct AuditCommand {
    /// Folders of `hearth eval` or `hearth loop`
    #[arg(required = true, value_hint = ValueHint::DirPath)]
    folders: Vec<PathBuf>,
    /// Suite of the evaluation, to find missing games and games or rooms of train [default: the
    /// run's]
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Further stores that the policy was trained on, besides those of the run
    #[arg(long, num_args = 1.., value_hint = ValueHint::FilePath)]
    training: Vec<PathBuf>,
    /// Exit with code 1 if there is a warning or an error
    #[arg(long)]
    strict: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// A folder and its findings.
#[derive(Serialize)]
struct AuditedFolder {
    folder: PathBuf,
    #[serde(flatten)]
    audit: audit::Audit,
}

/// The JSON output of `hearth audit`.
#[derive(Serialize)]
struct AuditOutput {
    folders: Vec<AuditedFolder>,
    findings: usize,
}

impl AuditCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut folders = Vec::new();
        for folder in self.folders {
            let opened = Folder::open(&folder, self.suite.as_deref(), &self.training)?;
            folders.push(AuditedFolder {
                folder,
                audit: audit::audit(&opened.evidence()),
            });
        }
        let findings = folders
            .iter()
            .map(|audited| audited.audit.findings.len())
            .sum();
        let problems: usize = folders.iter().map(|audited| audited.audit.problems()).sum();
        let output = AuditOutput { folders, findings };
        if self.json {
            ui::print_json(&output)?;
        } else {
            output.folders.iter().for_each(AuditedFolder::print);
        }
        Ok(ExitCode::from(u8::from(self.strict && problems > 0)))
    }
}

impl AuditedFolder {
    fn print(&self) {
        let findings = &self.audit.findings;
        ui::print(&format!(
            "{}: {} found\n",
            self.folder.display(),
            findings.len()
        ));
        for finding in findings {
            let severity = match finding.severity {
                Severity::Note => "note",
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            ui::print(&format!("  {severity}: {}\n", finding.text));
        }
        for text in &self.audit.not_checked {
            ui::print(&format!("  not checked: {text}\n"));
        }
    }
}

/// Prints the findings about a new measurement as warnings on stderr.
pub(super) fn warn_of_findings(audit: &audit::Audit) {
    for finding in &audit.findings {
        match finding.severity {
            Severity::Note => eprintln!("note: {}", finding.text),
            Severity::Warning | Severity::Error => eprintln!("warning: {}", finding.text),
        }
    }
}
