//! What `hearth quickstart` and `hearth loop` share: running a recipe and printing its table.

use crate::ui;
use env_bridge::native::NativeWorld;
use std::path::Path;
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::{self, RunOptions, RunReport};
use trainer::pipeline::shard::Shard;

/// Runs a recipe in the folder `out` and prints the table.
///
/// # Errors
/// Those of [`run::follow`]. If the process is a shard that does not wait, it is no error that
/// other shards have to play first.
pub(super) fn run_recipe(
    recipe: &Recipe,
    out: &Path,
    options: &RunOptions<'_>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let report = match run::follow(recipe, out, &NativeWorld::new(), &ui::Terminal, options) {
        Err(TrainerError::Awaiting(what)) if options.wait.is_zero() => {
            return print_awaited(out, options.shard, &what, json);
        }
        report => report?,
    };
    if json {
        ui::print_json(&report)?;
    } else {
        print_report(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_awaited(out: &Path, shard: Shard, what: &str, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        ui::print_json(&serde_json::json!({ "run": out, "shard": shard, "awaits": what }))?;
    } else {
        ui::print(&format!(
            "shard {shard} has finished what it can do now; {what}\n"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_report(report: &RunReport) {
    ui::print_summary(&report.rows, |row| match row.k {
        1 => row.policy.clone(),
        k => format!("{}, best of {k} by value", row.policy),
    });
    for (k, protocol) in &report.protocols {
        ui::print(&format!("K = {k}: {protocol}\n"));
    }
    ui::print(&format!("suite {}\n", &report.suite[..16]));
    ui::print(&format!(
        "run folder {} ({:.0} s); rows by task type in eval.csv\n",
        report.run.display(),
        report.seconds
    ));
}
