//! The `--search` flag: what a search needs before its first episode.

use crate::args::policy::Player;
use crate::args::world::Opened;
use crate::ui::WrongUse;
use clap::Args;
use scenarios::Search;

/// Whether a model searches with copies of the world.
#[derive(Args, Clone, Copy)]
pub(crate) struct SearchArgs {
    /// Search with copies of the world, each state given K candidates that are judged by V of what they lead to: `beam:B`
    /// keeps the best B states of a turn, `best-first:N` writes at most N completions a game. A protocol of its own: no
    /// agent can try its commands in copies of a real world
    #[arg(long, value_name = "SEARCH")]
    pub(crate) search: Option<Search>,
}

impl SearchArgs {
    /// Refuses a search by who has no value network, with fewer completions than one state is given, or in a world that
    /// cannot be copied. `player` is `None` for a person.
    pub(crate) fn check(
        self,
        policy: &str,
        player: Option<&Player>,
        highest_k: usize,
        opened: &Opened,
    ) -> Result<(), WrongUse> {
        let Some(search) = self.search else {
            return Ok(());
        };
        let has_value = matches!(player, Some(Player::Model(model)) if model.has_value());
        let text = match search {
            _ if !has_value => format!(
                "--search {search}: {policy} has no value network to be guided by\nhint: a model folder with value/ has one"
            ),
            _ if !opened.can_be_copied() => {
                format!("--search {search}: this world cannot be copied\nhint: --world native")
            }
            Search::BestFirst { budget } if budget < highest_k => {
                format!(
                    "--search {search}: fewer completions than the {highest_k} of --best-of that one state is given"
                )
            }
            Search::BestFirst { .. } | Search::Beam { .. } => return Ok(()),
        };
        Err(WrongUse(text))
    }

    /// A name for the file of the episodes, such as `episodes-beam3-k5`.
    pub(crate) fn store_name(self, k: usize) -> String {
        let kind = self
            .search
            .map(|search| format!("{}-", search.to_string().replace(':', "")))
            .unwrap_or_default();
        format!("episodes-{kind}k{k}.jsonl")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_play_has_a_file_of_its_own() {
        let name = |search: Option<&str>, k| {
            SearchArgs {
                search: search.map(|s| s.parse().unwrap()),
            }
            .store_name(k)
        };
        assert_eq!(name(None, 5), "episodes-k5.jsonl");
        assert_eq!(name(Some("beam:3"), 3), "episodes-beam3-k3.jsonl");
        assert_eq!(
            name(Some("best-first:60"), 2),
            "episodes-best-first60-k2.jsonl"
        );
    }
}
