//! Names of policies and protocols on the page.

use scenarios::{Protocol, Scorer, Search};

/// Returns how the completions of a protocol are sampled, in a few words; empty if the policy is
/// greedy.
pub(super) fn sampling(protocol: &Protocol) -> String {
    match (protocol.best_of, protocol.temperature) {
        (1, 0.0) => String::new(),
        (1, temperature) => format!("temperature {temperature}"),
        (k, _) if protocol.scorer == Scorer::default() => best_of(k),
        (k, _) => format!("{} by {}", best_of(k), protocol.scorer.name()),
    }
}

/// Returns how completions are sampled if only K is known; empty if K is 1.
pub(super) fn best_of(k: usize) -> String {
    if k == 1 {
        String::new()
    } else {
        format!("best of {k}")
    }
}

/// Returns how a protocol searches, in a few words; empty if it does not search.
pub(super) fn search(protocol: &Protocol) -> String {
    match protocol.search {
        None => String::new(),
        Some(Search::Beam { width }) => format!("beam {width}"),
        Some(Search::BestFirst { budget }) => format!("best first, {budget} completions"),
    }
}

/// Returns the symbol of the score that ranks candidates.
pub(super) fn score_symbol(scorer: Scorer) -> &'static str {
    match scorer {
        Scorer::AfterValue => "U",
        Scorer::SoftValue => "U + β ln π",
        Scorer::LogRatio => "ρ",
        Scorer::Logprob => "ln π",
        Scorer::Random => "random",
        Scorer::Distinct => "distinct",
        Scorer::Expert => "expert",
        Scorer::Oracle => "clairvoyant oracle",
    }
}

/// Returns a policy's name with how it was played.
pub(super) fn title(policy: &str, how: &str) -> String {
    if how.is_empty() {
        policy.into()
    } else {
        format!("{policy}, {how}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_contains_the_protocol_if_it_is_not_greedy() {
        let greedy = Protocol::default();
        let sampled = Protocol {
            temperature: 0.5,
            ..greedy.clone()
        };
        let best = Protocol {
            best_of: 4,
            ..sampled.clone()
        };
        let by_logprob = Protocol {
            scorer: Scorer::Logprob,
            ..best.clone()
        };
        let titles =
            [&greedy, &sampled, &best, &by_logprob].map(|protocol| title("p", &sampling(protocol)));
        assert_eq!(
            titles,
            [
                "p",
                "p, temperature 0.5",
                "p, best of 4",
                "p, best of 4 by logprob"
            ]
        );
        assert_eq!(
            search(&Protocol {
                search: Some(Search::Beam { width: 3 }),
                ..best
            }),
            "beam 3"
        );
    }
}
