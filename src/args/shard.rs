//! Which share of the games a process plays: `--shard`, or the variables of a cluster's launcher.

use crate::ui;
use clap::Args;
use trainer::pipeline::shard::Shard;

/// Launchers' variables for the index of a process (zero-based) and the number of processes. The
/// first pair that is set counts.
const LAUNCHERS: [(&str, &str); 2] = [(SLURM_INDEX, "SLURM_NTASKS"), ("RANK", "WORLD_SIZE")];

const SLURM_INDEX: &str = "SLURM_PROCID";

/// Set by `srun` for the processes that it starts.
const SLURM_STEP: &str = "SLURM_STEP_ID";

/// The share of the games that this process plays.
#[derive(Args)]
pub(crate) struct ShardArgs {
    /// Play shard I of N (zero-based) into its own store; combine stores with `hearth merge`
    /// [default: SLURM_PROCID/SLURM_NTASKS, else RANK/WORLD_SIZE, else 0/1 (all games)]
    #[arg(long, value_name = "I/N", help_heading = "Sharding")]
    shard: Option<Shard>,
}

impl ShardArgs {
    /// Returns the shard of the flag, else the launcher's. Prints it if there are several shards.
    ///
    /// # Errors
    /// If the launcher's variables are not a shard, or if Slurm has several tasks and `srun` did not start them.
    pub(crate) fn resolve(&self) -> anyhow::Result<Shard> {
        self.resolve_with(|name| std::env::var(name).ok())
    }

    fn resolve_with(&self, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Shard> {
        if let Some(shard) = self.shard {
            return Ok(announced(shard, "--shard"));
        }
        let mut unstarted = None;
        for (index, count) in LAUNCHERS {
            if let (Some(i), Some(n)) = (variable(index), variable(count)) {
                // Inside `sbatch` and `salloc`, the variables name the tasks of the job before `srun` has started them.
                if index == SLURM_INDEX && n != "1" && variable(SLURM_STEP).is_none() {
                    unstarted = Some(format!(
                        "{count} is {n}, but `srun` did not start this process ({SLURM_STEP} is not set), so \
                         nothing plays the other shares\n\
                         hint: `srun hearth ...` starts {n} processes; --shard 0/1 plays all games in this one"
                    ));
                    continue; // another launcher may have started it
                }
                let shard = format!("{i}/{n}").parse().map_err(|error| {
                    ui::WrongUse(format!(
                        "{index}, {count}: {error}\nhint: --shard 0/1 plays all games"
                    ))
                })?;
                return Ok(announced(shard, &format!("{index}, {count}")));
            }
        }
        match unstarted {
            Some(reason) => Err(ui::WrongUse(reason).into()),
            None => Ok(Shard::WHOLE),
        }
    }
}

/// Prints the shard and its origin if it is not the whole, and returns it.
fn announced(shard: Shard, from: &str) -> Shard {
    if shard.is_part() {
        eprintln!("shard {shard} ({from})");
    }
    shard
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(flag: Option<&str>, set: &[(&str, &str)]) -> Result<String, String> {
        let args = ShardArgs {
            shard: flag.map(|text| text.parse().unwrap()),
        };
        args.resolve_with(|name| {
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
}
