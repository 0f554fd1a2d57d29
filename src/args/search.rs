//! The `--search` flag, and the name of the store that it leads to.

use clap::Args;
use scenarios::Search;

/// Whether a policy searches in copies of the environment.
#[derive(Args, Clone, Copy)]
pub(crate) struct SearchArgs {
    /// Search in copies of the environment: `beam:B` keeps the B best states per turn,
    /// `best-first:N` generates at most N completions per game; needs a value network and `--world
    /// native`
    #[arg(long, value_name = "SEARCH")]
    pub(crate) search: Option<Search>,
}

impl SearchArgs {
    /// Returns the file name of the store, for example `episodes-beam3-k5.jsonl`.
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

    fn name(search: Option<&str>, k: usize) -> String {
        let search = search.map(|text| text.parse().unwrap());
        SearchArgs { search }.store_name(k)
    }

    #[test]
    fn every_search_and_k_has_its_own_store() {
        assert_eq!(name(None, 5), "episodes-k5.jsonl");
        assert_eq!(name(Some("beam:3"), 3), "episodes-beam3-k3.jsonl");
        assert_eq!(
            name(Some("best-first:60"), 2),
            "episodes-best-first60-k2.jsonl"
        );
    }
}
