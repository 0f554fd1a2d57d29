//! Which share of the games a process plays: `--shard`, or the variables of a cluster's launcher.

use crate::ui;
use clap::Args;
use std::str::FromStr;
use trainer::pipeline::shard::Shard;

/// Names the number of shards where a launcher tells only the index of a process.
pub(crate) const SHARDS: &str = "HEARTH_SHARDS";

/// Set by `srun` for the processes that it starts.
const SLURM_STEP: &str = "SLURM_STEP_ID";

/// Variables for the index of a process (zero-based) and the number of processes.
type Launcher = (&'static str, &'static str);

const SLURM: Launcher = ("SLURM_PROCID", "SLURM_NTASKS");
const TORCH: Launcher = ("RANK", "WORLD_SIZE");

/// The launchers that `--shard auto` knows besides Slurm, in order: PBS Professional and Torque, an
/// Indexed Job of Kubernetes, Open MPI, other MPIs, torchrun.
const OTHERS: [Launcher; 6] = [
    ("PBS_ARRAY_INDEX", SHARDS),
    ("PBS_ARRAYID", SHARDS),
    ("JOB_COMPLETION_INDEX", SHARDS),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    TORCH,
];

/// The share of the games that this process plays.
#[derive(Args)]
pub(crate) struct ShardArgs {
    /// Play shard I of N (zero-based) into its own store; combine stores with `hearth merge`. `auto`
    /// takes it from a Slurm array or step, a PBS array, a Kubernetes Indexed Job, MPI or torchrun
    /// [default: SLURM_PROCID/SLURM_NTASKS, else RANK/WORLD_SIZE, else 0/1 (all games)]
    #[arg(long, value_name = "I/N|auto", help_heading = "Sharding")]
    shard: Option<ShardChoice>,
}

/// The value of `--shard`.
#[derive(Debug, Clone, Copy)]
enum ShardChoice {
    Auto,
    Given(Shard),
}

impl FromStr for ShardChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Given),
        }
    }
}

/// A shard, and the variables that it was read from.
type Found = anyhow::Result<Option<(Shard, String)>>;

impl ShardArgs {
    /// Returns the shard of the flag, else the launcher's. Prints it if there are several shards, or
    /// if the flag is `auto`.
    ///
    /// # Errors
    /// If the launcher's variables are not a shard, if Slurm has several tasks and `srun` did not start
    /// them, or if `auto` finds an index without the number of shards.
    pub(crate) fn resolve(&self) -> anyhow::Result<Shard> {
        self.resolve_with(&|name| std::env::var(name).ok())
    }

    fn resolve_with(&self, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Shard> {
        let (shard, origin) = match self.shard {
            Some(ShardChoice::Given(shard)) => (shard, "--shard".into()),
            Some(ShardChoice::Auto) => automatic(variable)?
                .unwrap_or((Shard::WHOLE, "--shard auto: no launcher was found".into())),
            None => by_default(variable)?.unwrap_or((Shard::WHOLE, String::new())),
        };
        if shard.is_part() || matches!(self.shard, Some(ShardChoice::Auto)) {
            eprintln!("shard {shard} ({origin})");
        }
        Ok(shard)
    }
}

/// Reads the processes of a Slurm step, else torchrun's variables.
fn by_default(variable: &dyn Fn(&str) -> Option<String>) -> Found {
    let unstarted = match slurm_step(variable) {
        Ok(None) => None,
        Ok(found) => return Ok(found),
        Err(error) => Some(error),
    };
    // Another launcher may have started it.
    match (pair(variable, TORCH)?, unstarted) {
        (None, Some(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

/// Reads the variables of the first launcher that has set them.
fn automatic(variable: &dyn Fn(&str) -> Option<String>) -> Found {
    if variable("SLURM_ARRAY_TASK_ID").is_some() {
        return slurm_array(variable).map(Some);
    }
    // Without a step, the variables of Slurm name processes that nothing has started.
    if variable(SLURM_STEP).is_some()
        && let Some(found) = pair(variable, SLURM)?
    {
        return Ok(Some(found));
    }
    for launcher in OTHERS {
        if let Some(found) = pair(variable, launcher)? {
            return Ok(Some(found));
        }
        let (index, count) = launcher;
        if count == SHARDS && variable(index).is_some() {
            return Err(wrong(&format!(
                "{index} is set, but not {SHARDS}, the number of shards\n\
                 hint: set it for every process, or give --shard I/N"
            )));
        }
    }
    slurm_step(variable)
}

/// The tasks of a Slurm array. If each task has a step of several processes, these are shards too.
fn slurm_array(variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<(Shard, String)> {
    let number = |name: &str, default: Option<usize>| match variable(name) {
        None => {
            default.ok_or_else(|| wrong(&format!("{name} is not set, but SLURM_ARRAY_TASK_ID is")))
        }
        Some(text) => text
            .parse()
            .map_err(|_| wrong(&format!("{name}: {text:?} is not a number"))),
    };
    let id = number("SLURM_ARRAY_TASK_ID", None)?;
    let first = number("SLURM_ARRAY_TASK_MIN", Some(0))?;
    let last = number("SLURM_ARRAY_TASK_MAX", None)?;
    let count = number("SLURM_ARRAY_TASK_COUNT", None)?;
    let step = number("SLURM_ARRAY_TASK_STEP", Some(1))?.max(1);
    if last < first || (last - first) / step + 1 != count || id < first || (id - first) % step != 0
    {
        return Err(wrong(&format!(
            "the Slurm array has {count} tasks from {first} to {last}, with gaps, so their shards are not known\n\
             hint: sbatch --array=0-{} ..., or --shard I/N",
            count.saturating_sub(1)
        )));
    }
    let (inner, processes) = match variable(SLURM_STEP) {
        Some(_) => (number(SLURM.0, Some(0))?, number(SLURM.1, Some(1))?),
        None => (0, 1),
    };
    let index = (id - first) / step * processes + inner;
    let origin = "SLURM_ARRAY_TASK_ID";
    Ok((parsed(&index, &(count * processes), origin)?, origin.into()))
}

/// The processes of a Slurm step.
///
/// # Errors
/// If Slurm has several tasks, and `srun` did not start this process: inside `sbatch` and `salloc`, the
/// variables name the tasks of the job before `srun` has started them.
fn slurm_step(variable: &dyn Fn(&str) -> Option<String>) -> Found {
    let (index, count) = SLURM;
    let (Some(_), Some(n)) = (variable(index), variable(count)) else {
        return Ok(None);
    };
    if n != "1" && variable(SLURM_STEP).is_none() {
        return Err(wrong(&format!(
            "{count} is {n}, but `srun` did not start this process ({SLURM_STEP} is not set), so \
             nothing plays the other shares\n\
             hint: `srun hearth ...` starts {n} processes; --shard 0/1 plays all games in this one"
        )));
    }
    pair(variable, SLURM)
}

/// Reads a launcher's variables, if both are set.
fn pair(variable: &dyn Fn(&str) -> Option<String>, (index, count): Launcher) -> Found {
    let (Some(i), Some(n)) = (variable(index), variable(count)) else {
        return Ok(None);
    };
    let origin = format!("{index}, {count}");
    Ok(Some((parsed(&i, &n, &origin)?, origin)))
}

fn parsed(
    index: &impl std::fmt::Display,
    count: &impl std::fmt::Display,
    origin: &str,
) -> anyhow::Result<Shard> {
    format!("{index}/{count}").parse().map_err(|error| {
        wrong(&format!(
            "{origin}: {error}\nhint: --shard 0/1 plays all games"
        ))
    })
}

fn wrong(text: &str) -> anyhow::Error {
    ui::WrongUse(text.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(flag: Option<&str>, set: &[(&str, &str)]) -> Result<String, String> {
        let args = ShardArgs {
            shard: flag.map(|text| text.parse().unwrap()),
        };
        args.resolve_with(&|name| {
            set.iter()
                .find(|(other, _)| *other == name)
                .map(|(_, value)| (*value).to_string())
        })
        .map(|shard| shard.to_string())
        .map_err(|error| error.to_string())
    }

    #[test]
    fn the_flag_comes_before_slurm_and_slurm_before_rank() {
        let slurm = [
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "3"),
            ("SLURM_STEP_ID", "0"),
        ];
        let rank = [("RANK", "2"), ("WORLD_SIZE", "4")];
        let both = [&slurm[..], &rank].concat();
        assert_eq!(resolved(Some("0/2"), &both), Ok("0/2".into()));
        assert_eq!(
            resolved(Some("0/1"), &both),
            Ok("0/1".into()),
            "the launcher is ignored if the flag is set"
        );
        assert_eq!(resolved(None, &both), Ok("1/3".into()));
        assert_eq!(resolved(None, &rank), Ok("2/4".into()));
        assert_eq!(
            resolved(None, &slurm[..1]),
            Ok("0/1".into()),
            "one variable of a pair is not enough"
        );
        assert_eq!(
            resolved(None, &[("RANK", "0"), ("WORLD_SIZE", "1")]),
            Ok("0/1".into())
        );
        let error = resolved(None, &slurm[..2]).unwrap_err();
        assert!(
            error.contains("`srun hearth ...` starts 3 processes"),
            "{error}"
        );
        let torchrun = [&slurm[..2], &rank].concat();
        assert_eq!(resolved(None, &torchrun), Ok("2/4".into()));
        let alone = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")];
        assert_eq!(resolved(None, &alone), Ok("0/1".into()));
        let error = resolved(None, &[("RANK", "4"), ("WORLD_SIZE", "4")]).unwrap_err();
        assert!(
            error.starts_with("RANK, WORLD_SIZE: shard 4 of 4"),
            "{error}"
        );
    }

    #[test]
    fn auto_reads_the_first_launcher() {
        let auto = |set: &[(&str, &str)]| resolved(Some("auto"), set);
        let array = [
            ("SLURM_ARRAY_TASK_ID", "5"),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_MAX", "7"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
            ("SLURM_ARRAY_TASK_COUNT", "4"),
        ];
        let step = [
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "3"),
            ("SLURM_STEP_ID", "0"),
        ];
        let pbs = [("PBS_ARRAY_INDEX", "2"), ("HEARTH_SHARDS", "8")];
        let torque = [("PBS_ARRAYID", "3"), ("HEARTH_SHARDS", "8")];
        let kubernetes = [("JOB_COMPLETION_INDEX", "4"), ("HEARTH_SHARDS", "8")];
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "6")];
        let mpi = [("PMI_RANK", "2"), ("PMI_SIZE", "6")];
        let torch = [("RANK", "3"), ("WORLD_SIZE", "6")];
        let order: [(&[(&str, &str)], &str); 8] = [
            (&array, "2/4"),
            (&step, "1/3"),
            (&pbs, "2/8"),
            (&torque, "3/8"),
            (&kubernetes, "4/8"),
            (&open_mpi, "1/6"),
            (&mpi, "2/6"),
            (&torch, "3/6"),
        ];
        for first in 0..order.len() {
            let set: Vec<_> = order[first..]
                .iter()
                .flat_map(|(set, _)| set.iter().copied())
                .filter(|(name, _)| *name != "SLURM_STEP_ID" || first == 1)
                .collect();
            assert_eq!(auto(&set).as_deref(), Ok(order[first].1), "{set:?}");
        }
        assert_eq!(auto(&[]), Ok("0/1".into()));
        let nested = [&array[..], &step].concat();
        assert_eq!(auto(&nested), Ok("7/12".into()), "an array of steps");
    }

    #[test]
    fn auto_refuses_what_it_cannot_count() {
        let auto = |set: &[(&str, &str)]| resolved(Some("auto"), set).unwrap_err();
        let error = auto(&[("JOB_COMPLETION_INDEX", "4")]);
        assert!(
            error.contains("HEARTH_SHARDS, the number of shards"),
            "{error}"
        );
        let gaps = [
            ("SLURM_ARRAY_TASK_ID", "7"),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_MAX", "7"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
        ];
        let error = auto(&gaps);
        assert!(
            error.contains("with gaps") && error.contains("--array=0-2"),
            "{error}"
        );
        let error = auto(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]);
        assert!(
            error.contains("`srun hearth ...` starts 4 processes"),
            "{error}"
        );
    }
}
