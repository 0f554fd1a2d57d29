//! The processes that `mpirun` or `srun` started to train one job together.

use crate::ui::WrongUse;
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
    let started = started_by_mpirun(&|name| std::env::var(name).ok());
    match started {
        None if !mpi => command(&Alone),
        _ => with_mpi(command),
    }
}

/// Returns how many processes `mpirun` of Open MPI or MPICH has started, if there are several. `srun` may set the same
/// variables for processes that have nothing to do with each other.
fn started_by_mpirun(variable: &dyn Fn(&str) -> Option<String>) -> Option<usize> {
    let size = variable("OMPI_COMM_WORLD_SIZE")
        .or_else(|| variable("PMI_SIZE").filter(|_| variable("SLURM_STEP_ID").is_none()))?;
    size.parse().ok().filter(|size| *size > 1)
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
            ranks.abort(if error.is::<WrongUse>() { 2 } else { 1 })
        }
        result => result,
    }
}

#[cfg(not(feature = "mpi"))]
fn with_mpi(_: impl FnOnce(&dyn Ranks) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    Err(WrongUse(
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
            started_by_mpirun(&|name| {
                let found = set.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(started(&[]), None);
        assert_eq!(started(&[("OMPI_COMM_WORLD_SIZE", "2")]), Some(2));
        assert_eq!(started(&[("OMPI_COMM_WORLD_SIZE", "1")]), None);
        assert_eq!(started(&[("PMI_SIZE", "4")]), Some(4));
        assert_eq!(started(&[("PMI_SIZE", "4"), ("SLURM_STEP_ID", "0")]), None);
    }
}
