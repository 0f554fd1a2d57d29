//! The hand: parses the command line, dispatches, prints results to stdout and errors to stderr.
//!
//! Exit codes: 0 done, 1 the run failed, 2 wrong use or a broken world.

mod args;
mod bench;
mod commands;
mod report;
mod scratch;
mod ui;

use clap::{CommandFactory, Parser, Subcommand};
use commands::{data, measure, play, tools, train};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train and measure language-model agents in text worlds.
///
/// A policy plays household games turn by turn, learns offline from its own episodes with OREO, and is measured on
/// seen and unseen games with best-of-K actions chosen by its value network.
#[derive(Parser)]
#[command(
    name = "hearth",
    version,
    propagate_version = true,
    max_term_width = 110
)]
struct Hearth {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Collect, train and evaluate a small decoder from scratch with the built-in recipe
    Quickstart(train::pipeline::Quickstart),
    /// Follow a recipe: collect, train, evaluate, again
    Loop(train::pipeline::Loop),
    /// Play one game in the terminal: yourself, the expert, or a model
    Play(play::play::Play),
    /// Generate household games, or list a suite
    #[command(subcommand)]
    Scenarios(data::scenarios::Scenarios),
    /// Play episodes into a trajectory store
    Collect(play::collect::Collect),
    /// Make whole stores of what shards have played (`--shard`)
    Merge(play::merge::Merge),
    /// Score the turns of failed episodes by how far they could still be won
    Score(play::score::Score),
    /// Train one job on trajectory stores
    Train(train::train::Train),
    /// Prove the losses on problems whose optimum is known; exit code 1 when one misses
    Selftest(train::selftest::Selftest),
    /// Play every game of the named splits and print the table, with all that its numbers need beside them
    Eval(measure::eval::Eval),
    /// Play the best of K for every K and scorer: success against cost, and what the value network's numbers are worth
    Sweep(measure::sweep::Sweep),
    /// Compare two policies game by game, or add up the tables of runs of one recipe
    Compare(measure::compare::Compare),
    /// Write a run or an evaluation as one HTML file: tables, curves and every episode turn by turn
    Report(measure::report::Report),
    /// Replay every logged episode in a fresh world; exit code 1 when a log does not say what happens there
    Verify(measure::verify::Verify),
    /// Write logged episodes as other trainers load them: ShareGPT, OpenAI, TRL, verl
    Export(data::export::Export),
    /// Read demonstrations that others have published, and play them again where the games are at hand
    Import(data::import::Import),
    /// Look for leaks and cheats in what was measured
    Audit(measure::audit::Audit),
    /// Import a checkpoint, or tell what one holds
    #[command(subcommand)]
    Model(tools::model::ModelCommand),
    /// Hold the native world against the Python one
    #[command(subcommand)]
    World(tools::world::World),
    /// Look for what the Python worlds need and say how to mend what is missing
    Doctor(tools::doctor::Doctor),
    /// Measure speed
    #[command(subcommand)]
    Bench(bench::Bench),
    /// A Python worker process; hearth starts it itself
    #[cfg(feature = "python")]
    #[command(hide = true)]
    EnvWorker,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Lets the allocator keep what is freed for a minute instead of a second: an update of a large network frees and asks for
/// gigabytes, and the system clears each page that it lends anew.
#[allow(unsafe_code, reason = "a setting, made before there are threads")]
fn keep_freed_memory() {
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const MINUTE: std::ffi::c_long = 60_000; // milliseconds
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, MINUTE) };
}

fn main() -> ExitCode {
    let hearth = Hearth::parse();
    if let Command::Quickstart(_) | Command::Loop(_) | Command::Train(_) = hearth.command {
        keep_freed_memory();
    }
    let done = match hearth.command {
        Command::Quickstart(command) => command.run(),
        Command::Loop(command) => command.run(),
        Command::Play(command) => command.run(),
        Command::Scenarios(command) => command.run(),
        Command::Collect(command) => command.run(),
        Command::Merge(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Selftest(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Sweep(command) => command.run(),
        Command::Compare(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Import(command) => command.run(),
        Command::Audit(command) => command.run(),
        Command::Model(command) => command.run(),
        Command::World(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Bench(command) => command.run(),
        #[cfg(feature = "python")]
        Command::EnvWorker => {
            env_bridge::python::serve().map_err(|e| ui::WrongUse(e.to_string()).into())
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Hearth::command(),
                "hearth",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        ui::print_error(&error);
        ui::exit_code(&error)
    })
}
