//! `hearth report`: a run, or an evaluation, as one HTML file that needs nothing else, and its plots as files.

#[cfg(feature = "png")]
use crate::report::chart;
use crate::report::{gather, page, plots};
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueHint};
use gather::Found;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(crate) struct Report {
    /// Folder of a run (`loop`, `quickstart`) or of an evaluation (`eval --out`)
    #[arg(value_hint = ValueHint::DirPath)]
    run: PathBuf,
    /// File for the page [default: RUN/report.html]
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Folder for the plots too, each as SVG, and as PNG if the feature `png` is built in
    #[arg(long, value_hint = ValueHint::DirPath)]
    plots: Option<PathBuf>,
    /// Show the episodes of this many games of each store: those with the smallest hashes, which are the same games in
    /// every store; the tables count all [default: all]
    #[arg(long)]
    episodes: Option<usize>,
    /// Show demonstrations and rollouts too
    #[arg(long)]
    with_rollouts: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// What was written.
#[derive(Serialize)]
struct Written {
    path: PathBuf,
    bytes: usize,
    /// Episodes that can be looked at.
    episodes: usize,
    /// Those of the stores that `--episodes` left out.
    left_out: usize,
    /// Policies, each at every K that it was played with.
    policies: Vec<String>,
    plots: Vec<PathBuf>,
}

impl Report {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.episodes == Some(0) {
            return Err(ui::WrongUse(
                "--episodes: at least one game\nhint: leave it out to show all".into(),
            )
            .into());
        }
        let found = gather::gather(&self.run, self.with_rollouts, self.episodes)?;
        found.notes.iter().for_each(|note| eprintln!("{note}"));
        let figures = plots::figures(&found)?;
        let html = page::page(&found, &figures)?;
        let path = self.out.unwrap_or_else(|| self.run.join("report.html"));
        write(&path, html.as_bytes())?;
        let plots = match &self.plots {
            Some(folder) => write_plots(folder, &figures)?,
            None => Vec::new(),
        };
        let written = Written {
            path,
            bytes: html.len(),
            plots,
            ..summary(&found)
        };
        if self.json {
            ui::print_json(&written)?;
        } else {
            print(&written);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn summary(found: &Found) -> Written {
    let stores = found.packed.stores();
    let mut policies: Vec<String> = stores
        .iter()
        .map(|store| store.played.title.clone())
        .collect();
    policies.extend(found.rows.iter().map(|row| found.row_title(row)));
    let mut seen = std::collections::BTreeSet::new();
    policies.retain(|policy| seen.insert(policy.clone()));
    Written {
        path: PathBuf::new(),
        bytes: 0,
        episodes: stores.iter().map(|store| store.kept).sum(),
        left_out: stores.iter().map(|store| store.episodes - store.kept).sum(),
        policies,
        plots: Vec::new(),
    }
}

fn print(written: &Written) {
    let left_out = match written.left_out {
        0 => String::new(),
        count => format!(", {count} left out by --episodes"),
    };
    ui::print(&format!(
        "{}: {} episodes{left_out}, {} policies, {:.1} MB\n",
        written.path.display(),
        written.episodes,
        written.policies.len(),
        written.bytes as f64 / 1e6
    ));
    written
        .plots
        .iter()
        .for_each(|path| ui::print(&format!("{}\n", path.display())));
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
