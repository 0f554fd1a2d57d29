//! Which share of the games a process plays: `--shard`, or what a cluster's launcher says.

use crate::ui;
use clap::Args;
use trainer::pipeline::shard::Shard;

/// Launchers' variables for a process's number, from 0, and for how many there are; the first pair that is set counts.
const LAUNCHERS: [(&str, &str); 2] = [("SLURM_PROCID", "SLURM_NTASKS"), ("RANK", "WORLD_SIZE")];

#[derive(Args)]
pub(crate) struct ShardArgs {
    /// Play only the games whose place modulo N is I, from 0, into a store of this shard's own; `hearth merge` makes the
    /// whole of all [default: SLURM_PROCID/SLURM_NTASKS, else RANK/WORLD_SIZE, else 0/1, which is all games]
    #[arg(long, value_name = "I/N", help_heading = "Sharing")]
    shard: Option<Shard>,
}

impl ShardArgs {
    /// The flag's shard, else the launcher's; says which where there are several.
    pub(crate) fn resolve(&self) -> anyhow::Result<Shard> {
        self.resolve_with(|name| std::env::var(name).ok())
    }

    fn resolve_with(&self, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Shard> {
        if let Some(shard) = self.shard {
            return Ok(said(shard, "--shard"));
        }
        for (index, count) in LAUNCHERS {
            if let (Some(i), Some(n)) = (variable(index), variable(count)) {
                let shard = format!("{i}/{n}").parse();
                let wrong = |e| {
                    ui::WrongUse(format!(
                        "{index}, {count}: {e}\nhint: --shard 0/1 plays all games"
                    ))
                };
                return Ok(said(shard.map_err(wrong)?, &format!("{index}, {count}")));
            }
        }
        Ok(Shard::WHOLE)
    }
}

fn said(shard: Shard, from: &str) -> Shard {
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
        let variable = |name: &str| {
            set.iter()
                .find(|(other, _)| *other == name)
                .map(|(_, value)| (*value).to_string())
        };
        args.resolve_with(variable)
            .map(|shard| shard.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_flag_comes_before_slurm_and_slurm_before_rank() {
        let (slurm, rank) = (
            [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "3")],
            [("RANK", "2"), ("WORLD_SIZE", "4")],
        );
        let both = [slurm, rank].concat();
        assert_eq!(resolved(Some("0/2"), &both), Ok("0/2".into()));
        assert_eq!(
            resolved(Some("0/1"), &both),
            Ok("0/1".into()),
            "as if there were no launcher"
        );
        assert_eq!(resolved(None, &both), Ok("1/3".into()));
        assert_eq!(resolved(None, &rank), Ok("2/4".into()));
        assert_eq!(
            resolved(None, &slurm[..1]),
            Ok("0/1".into()),
            "half a pair says nothing"
        );
        assert_eq!(
            resolved(None, &[("RANK", "0"), ("WORLD_SIZE", "1")]),
            Ok("0/1".into())
        );
        let error = resolved(None, &[("RANK", "4"), ("WORLD_SIZE", "4")]).unwrap_err();
        assert!(
            error.starts_with("RANK, WORLD_SIZE: shard 4 of 4"),
            "{error}"
        );
    }
}
