//! Checks a measurement for leaks and invalid results: everything that makes a success rate too
//! high, if the logs, the games or the protocol cards can show it.
//!
//! A log cannot show whether the environment itself reported a win: household texts do not contain
//! it. The audit only checks if a logged success contradicts the rest of its episode.

mod evidence;
mod findings;
mod measured;
mod training;

#[cfg(test)]
mod tests;

pub use evidence::{Evidence, MeasuredEpisodes, TrainingGame};
pub use findings::{Audit, Finding, FindingKind, Severity};

use crate::measure::card::UNKNOWN;
use scenarios::Suite;

/// Checks the evidence for every [`FindingKind`].
#[must_use]
pub fn audit(evidence: &Evidence<'_>) -> Audit {
    let mut audit = Audit::default();
    for measured in &evidence.measured {
        measured::check_protocols(measured, &mut audit);
        measured::check_successes(measured, &mut audit);
        measured::check_counts(measured, evidence.suite, &mut audit);
        measured::check_checkpoint(measured, &mut audit);
    }
    training::check_training_games(evidence, &mut audit);
    let unknown = names(evidence, |measured| {
        measured.card.is_none_or(|card| card.checkpoint == UNKNOWN)
    });
    audit.did_not_check(
        "how the checkpoint was selected, because no card records it",
        &unknown,
    );
    match evidence.suite.map(Suite::hash) {
        None => audit.did_not_check(
            "whether games are missing, because there is no suite",
            &names(evidence, |_| true),
        ),
        Some(hash) => {
            let other = names(evidence, |measured| {
                measured.card.is_some_and(|card| card.suite_hash != hash)
            });
            audit.did_not_check(
                "whether games are missing, because the suite is not the card's",
                &other,
            );
        }
    }
    audit
}

/// Returns the names of the stores that satisfy a condition.
fn names<'a>(
    evidence: &Evidence<'a>,
    is_named: impl Fn(&MeasuredEpisodes<'a>) -> bool,
) -> Vec<&'a str> {
    evidence
        .measured
        .iter()
        .filter(|measured| is_named(measured))
        .map(|measured| measured.name)
        .collect()
}
