//! The processes that `mpirun` or `srun` started to train one job together.

use std::process::ExitCode;
use trainer::learn::ranks::{Alone, Ranks};

/// Runs a command in each of these processes. If `mpi` is false, MPI is used only if `mpirun` has started several.
///
/// # Errors
/// Those of the command, if there is one process. If there are several, an error of one ends them all. If MPI is needed
/// and this binary was built without it.
pub(crate) fn in_all_ranks(
    mpi: bool,
    command: impl FnOnce(&dyn Ranks) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    if mpi || is_started_by_mpirun(&|name| std::env::var(name).ok()) {
        with_mpi(command)
    } else {
        command(&Alone)
    }
}

/// Whether `mpirun` of Open MPI or MPICH has started several processes. `srun` may set the same variables for processes
/// that have nothing to do with each other.
fn is_started_by_mpirun(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let size = variable("OMPI_COMM_WORLD_SIZE")
        .or_else(|| variable("PMI_SIZE").filter(|_| variable("SLURM_STEP_ID").is_none()));
    size.is_some_and(|size| size.parse::<usize>().is_ok_and(|size| size > 1))
}

#[cfg(feature = "mpi")]
fn with_mpi(
    command: impl FnOnce(&dyn Ranks) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let ranks = trainer::learn::ranks::mpi::MpiRanks::start()?;
    match command(&ranks) {
        Err(error) if ranks.count() > 1 => {
            eprintln!("rank {} of {} has failed", ranks.rank(), ranks.count());
            crate::ui::print_error(&error);
            ranks.abort(crate::ui::exit_status(&error).into())
        }
        result => result,
    }
}

#[cfg(not(feature = "mpi"))]
fn with_mpi(_: impl FnOnce(&dyn Ranks) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    Err(crate::ui::WrongUse(
        "this binary was built without MPI, so several processes cannot train one job\n\
         hint: build it with `cargo build --release --features mpi`, or start one process"
            .into(),
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_mpirun_train_together_and_those_of_srun_do_not() {
        let started = |set: &[(&str, &str)]| {
            is_started_by_mpirun(&|name| {
                let found = set.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(!started(&[]));
        assert!(started(&[("OMPI_COMM_WORLD_SIZE", "2")]));
        assert!(!started(&[("OMPI_COMM_WORLD_SIZE", "1")]));
        assert!(started(&[("PMI_SIZE", "4")]));
        assert!(!started(&[("PMI_SIZE", "4"), ("SLURM_STEP_ID", "0")]));
    }
}
