//! The self-test: minimises the production losses through [`crate::learn::objective`], as every
//! training job does, on small decision problems. Backward induction solves these problems exactly,
//! and the two solutions are compared. It computes in double precision and takes seconds.
//!
//! T1 to T14, the golden numbers A, B and C, and those with a discount are facts that follow from the
//! equations. The others check where the baselines converge.

mod baselines;
mod compare;
mod discount;
mod identities;
mod invariance;
mod optimum;
mod problem;
mod problems;
mod tables;

use serde::Serialize;

/// One fact and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Its name: `T1` to `T14`, `A` to `C`, `discount`, or that of an algorithm.
    pub id: String,
    /// Whether it holds.
    pub passed: bool,
    /// What was compared, the largest difference and the tolerance.
    pub detail: String,
}

/// Checks every fact.
#[must_use]
pub fn facts() -> Vec<Fact> {
    let all: [(&str, compare::FactCheck); 25] = [
        ("A", optimum::golden_a),
        ("B", optimum::golden_b),
        ("C", optimum::golden_c),
        ("T1", optimum::the_optimum_is_a_zero),
        ("T2", optimum::updates_converge),
        ("T3", identities::residuals_telescope),
        ("T4", identities::turns_and_tokens_agree),
        ("T5", identities::one_action_is_dro),
        ("T6", identities::dqo_contains_oreo),
        ("T7", identities::rewards_shift_and_scale),
        ("T8", optimum::beta_goes_to_its_limits),
        ("T9", invariance::other_positions_change_nothing),
        ("T10", invariance::an_action_learns_from_its_own_residual),
        ("T11", invariance::the_first_value_loss_is_the_success_rate),
        ("T12", invariance::failures_have_no_gradient_at_first),
        ("T13", optimum::regularising_moves_the_optimum),
        ("T14", baselines::more_candidates_never_hurt),
        ("discount", discount::discounted_facts),
        ("sft", baselines::imitation_finds_the_frequencies),
        (
            "rejection-sampling",
            baselines::rejection_sampling_finds_the_successful_frequencies,
        ),
        ("dqo", optimum::dqo_converges),
        ("dpo", baselines::preferences_find_their_odds),
        ("kto", baselines::kto_follows_the_outcome),
        ("grpo", baselines::the_first_gradient_is_the_policy_gradient),
        ("gigpo", baselines::equal_states_are_compared),
    ];
    let mut facts = Vec::new();
    for (id, check) in all {
        let verdict = check();
        facts.push(Fact {
            id: id.into(),
            passed: verdict.is_ok(),
            detail: verdict.unwrap_or_else(|wrong| wrong),
        });
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_holds() {
        let facts = facts();
        let missed: Vec<&Fact> = facts.iter().filter(|fact| !fact.passed).collect();
        assert!(missed.is_empty(), "{missed:#?}");
        assert_eq!(facts.len(), 25);
    }
}
