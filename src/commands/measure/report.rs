//! `hearth report`: writes a run or an evaluation as one self-contained HTML file, and its plots as
//! files.

#[cfg(feature = "png")]
use crate::report::chart;
use crate::report::run_data::RunData;
use crate::report::{gather, page, plots};
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueHint};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(crate) struct ReportCommand {
    /// Folder of a run (`loop`, `quickstart`) or of an evaluation (`eval --out`)
    #[arg(value_hint = ValueHint::DirPath)]
    run: PathBuf,
    /// HTML file to write [default: RUN/report.html]
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Folder for the plots as SVG files, and as PNG files if hearth is built with the feature
    /// `png`
    #[arg(long, value_hint = ValueHint::DirPath)]
    plots: Option<PathBuf>,
    /// Number of games per store whose episodes are shown: those with the smallest hashes, which
    /// are the same games in every store; tables count all games [default: all]
    #[arg(long, value_name = "N")]
    episodes: Option<usize>,
    /// Also show demonstrations and rollouts
    #[arg(long)]
    with_rollouts: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// The JSON output of `hearth report`.
#[derive(Serialize)]
struct ReportOutput {
    path: PathBuf,
    bytes: usize,
    /// Episodes that the page shows.
    episodes: usize,
    /// Episodes that `--episodes` left out.
    left_out: usize,
    /// Policies, each with every K.
    policies: Vec<String>,
    plots: Vec<PathBuf>,
}

impl ReportCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.episodes == Some(0) {
            return Err(ui::WrongUse(
                "--episodes: must be at least 1\nhint: omit it to show all games".into(),
            )
            .into());
        }
        let found = gather::gather(&self.run, self.with_rollouts, self.episodes)?;
        for note in &found.notes {
            eprintln!("{note}");
        }
        let figures = plots::figures(&found)?;
        let html = page::page(&found, &figures)?;
        let path = self.out.unwrap_or_else(|| self.run.join("report.html"));
        write(&path, html.as_bytes())?;
        let plots = match &self.plots {
            Some(folder) => write_plots(folder, &figures)?,
            None => Vec::new(),
        };
        let output = ReportOutput {
            path,
            bytes: html.len(),
            plots,
            ..summary(&found)
        };
        if self.json {
            ui::print_json(&output)?;
        } else {
            print(&output);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the output without its files.
fn summary(found: &RunData) -> ReportOutput {
    let stores = found.packed.stores();
    let mut policies: Vec<String> = stores
        .iter()
        .map(|store| store.played.title.clone())
        .collect();
    policies.extend(found.rows.iter().map(|row| found.row_title(row)));
    let mut seen = std::collections::BTreeSet::new();
    policies.retain(|policy| seen.insert(policy.clone()));
    ReportOutput {
        path: PathBuf::new(),
        bytes: 0,
        episodes: stores.iter().map(|store| store.kept).sum(),
        left_out: stores.iter().map(|store| store.episodes - store.kept).sum(),
        policies,
        plots: Vec::new(),
    }
}

fn print(output: &ReportOutput) {
    let left_out = match output.left_out {
        0 => String::new(),
        count => format!(", {count} left out by --episodes"),
    };
    ui::print(&format!(
        "{}: {} episodes{left_out}, {} policies, {:.1} MB\n",
        output.path.display(),
        output.episodes,
        output.policies.len(),
        output.bytes as f64 / 1e6
    ));
    for path in &output.plots {
        ui::print(&format!("{}\n", path.display()));
    }
}

fn write_plots(folder: &Path, figures: &[plots::Figure]) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot use {}", folder.display()))?;
    let mut paths = Vec::new();
    for figure in figures {
        let path = folder.join(format!("{}.svg", figure.file));
        write(&path, figure.svg.as_bytes())?;
        paths.push(path);
        #[cfg(feature = "png")]
        {
            let path = folder.join(format!("{}.png", figure.file));
            write(&path, &chart::png(&figure.svg)?)?;
            paths.push(path);
        }
    }
    #[cfg(not(feature = "png"))]
    ui::note(
        "the plots are SVG only: this hearth is built without the feature `png`\n\
         hint: cargo build --release --features png",
    );
    Ok(paths)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    scenarios::files::replace(path, bytes)
        .with_context(|| format!("cannot write {}", path.display()))
}
