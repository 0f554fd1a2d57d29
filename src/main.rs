//! The command line: parses the arguments, runs the command, and prints an error to stderr.
//!
//! Exit codes: 0 done, 1 the run failed, 2 wrong use or a broken world.

mod args;
mod bench;
mod code;
mod commands;
mod help;
mod report;
mod scratch;
mod ui;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use commands::{data, measure, play, tools, train};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train and measure language-model agents in text worlds.
///
/// A policy plays household games turn by turn, learns offline from its own episodes with OREO, and
/// is measured on seen and unseen games, also with the best of K actions by its value network.
#[derive(Parser)]
#[command(
    name = "hearth",
    version,
    propagate_version = true,
    max_term_width = 110
)]
struct Hearth {
    #[command(subcommand)]
    command: HearthCommand,
}

/// The commands. A new command also needs a place in [`help`].
#[derive(Subcommand)]
enum HearthCommand {
    /// Train and evaluate a small model with the built-in recipe
    Quickstart(train::quickstart::QuickstartCommand),
    /// Run a recipe: collect, train, evaluate, repeat
    Loop(train::loop_command::LoopCommand),
    /// Print a script that runs a recipe on Slurm, PBS or Kubernetes
    Submit(train::submit::SubmitCommand),
    /// Play one game in the terminal: you, the expert, or a model
    Play(play::play::PlayCommand),
    /// Generate household games, or list a suite
    #[command(subcommand)]
    Scenarios(data::scenarios::ScenariosCommand),
    /// Play episodes into a trajectory store
    Collect(play::collect::CollectCommand),
    /// Combine the stores of shards (`--shard`) into whole stores
    Merge(play::merge::MergeCommand),
    /// Add process scores to the turns of failed episodes
    Score(play::score::ScoreCommand),
    /// Measure the returns of several actions of one state
    Branch(play::branch::BranchCommand),
    /// Write won continuations of lost episodes, for imitation
    Rescue(play::rescue::RescueCommand),
    /// Run one training job on trajectory stores
    Train(train::train::TrainCommand),
    /// Check the losses on known optima; exit code 1 if one is missed
    Selftest(train::selftest::SelftestCommand),
    /// Play every game of the given splits and print the table
    Eval(measure::eval::EvalCommand),
    /// Measure best of K for every K and scorer: success and cost
    #[command(alias = "lab")]
    Sweep(measure::sweep::SweepCommand),
    /// Measure how well scores order the actions of one state
    Rank(measure::rank::RankCommand),
    /// Measure whether a model reads the lists in its observations
    Reading(measure::reading::ReadingCommand),
    /// Compare two policies game by game, or pool runs of one recipe
    Compare(measure::compare::CompareCommand),
    /// Write a run or an evaluation as one HTML file
    Report(measure::report::ReportCommand),
    /// Replay logged episodes; exit code 1 if a log is not reproduced
    Verify(measure::verify::VerifyCommand),
    /// Write episodes for other trainers: ShareGPT, OpenAI, TRL, verl
    Export(data::export::ExportCommand),
    /// Read published demonstrations, and replay them in their games
    Import(data::import::ImportCommand),
    /// Show, compact and check trajectory stores
    #[command(subcommand)]
    Store(data::store::StoreCommand),
    /// Check evaluations for leaks and invalid results
    Audit(measure::audit::AuditCommand),
    /// Import, download or describe a model
    #[command(subcommand)]
    Model(tools::model::ModelCommand),
    /// Compare the native world with the Python world
    #[command(subcommand)]
    World(tools::world::WorldCommand),
    /// Check the requirements of Python worlds, and print the fixes
    Doctor(tools::doctor::DoctorCommand),
    /// Measure speed and memory
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Run as a Python worker process; hearth starts it itself
    #[cfg(feature = "python")]
    #[command(hide = true)]
    EnvWorker,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let matches = help::with_groups(Hearth::command()).get_matches();
    let hearth = Hearth::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let HearthCommand::Quickstart(_) | HearthCommand::Loop(_) | HearthCommand::Train(_) =
        hearth.command
    {
        keep_freed_memory();
    }
    run(hearth.command).unwrap_or_else(|error| {
        ui::print_error(&error);
        ui::exit_status(&error).into()
    })
}

fn run(command: HearthCommand) -> anyhow::Result<ExitCode> {
    match command {
        HearthCommand::Quickstart(command) => command.run(),
        HearthCommand::Loop(command) => command.run(),
        HearthCommand::Submit(command) => command.run(),
        HearthCommand::Play(command) => command.run(),
        HearthCommand::Scenarios(command) => command.run(),
        HearthCommand::Collect(command) => command.run(),
        HearthCommand::Merge(command) => command.run(),
        HearthCommand::Score(command) => command.run(),
        HearthCommand::Branch(command) => command.run(),
        HearthCommand::Rescue(command) => command.run(),
        HearthCommand::Train(command) => command.run(),
        HearthCommand::Selftest(command) => command.run(),
        HearthCommand::Eval(command) => command.run(),
        HearthCommand::Sweep(command) => command.run(),
        HearthCommand::Rank(command) => command.run(),
        HearthCommand::Reading(command) => command.run(),
        HearthCommand::Compare(command) => command.run(),
        HearthCommand::Report(command) => command.run(),
        HearthCommand::Verify(command) => command.run(),
        HearthCommand::Export(command) => command.run(),
        HearthCommand::Import(command) => command.run(),
        HearthCommand::Store(command) => command.run(),
        HearthCommand::Audit(command) => command.run(),
        HearthCommand::Model(command) => command.run(),
        HearthCommand::World(command) => command.run(),
        HearthCommand::Doctor(command) => command.run(),
        HearthCommand::Bench(command) => command.run(),
        #[cfg(feature = "python")]
        HearthCommand::EnvWorker => {
            env_bridge::python::serve().map_err(|e| ui::WrongUse(e.to_string()).into())
        }
        HearthCommand::Completions { shell } => {
            let mut command = Hearth::command();
            clap_complete::generate(shell, &mut command, "hearth", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Makes the allocator keep freed memory for a minute instead of a second. An update of a large
/// network frees and allocates gigabytes, and the system zeroes every page that it gives out again.
#[allow(
    unsafe_code,
    reason = "sets an option of the allocator before any thread starts"
)]
fn keep_freed_memory() {
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const MINUTE: std::ffi::c_long = 60_000; // milliseconds
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, MINUTE) };
}
