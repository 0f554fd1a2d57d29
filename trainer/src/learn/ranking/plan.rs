//! Which branch states a job reads, and in which update.

use super::state::RankedState;
use crate::error::TrainerError;
use crate::learn::config::{Algorithm, TrainConfig};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::Trajectory;
use scenarios::seed::mixed_seed;
use serde::Serialize;
use std::collections::BTreeSet;

/// Counts of the branch states of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RankingSummary {
    /// States that are learned from.
    pub states: usize,
    /// States with fewer than two candidates.
    pub single: usize,
    /// States longer than the context of the model.
    pub too_long: usize,
    /// States of games that are held out for early stopping.
    pub held_out: usize,
    /// States that are learned from and whose returns have another γ than the job.
    pub other_discount: usize,
}

impl RankingSummary {
    /// Returns remarks for the user: which states are left out, and whether their returns are those
    /// that the job's other losses have.
    #[must_use]
    pub fn remarks(self) -> Vec<String> {
        let discount = (self.other_discount > 0).then(|| {
            format!(
                "the returns of {} branch states have another discount than the job; set `discount` of the algorithm and of the branches to one value if U is to have one scale",
                self.other_discount
            )
        });
        self.left_out().into_iter().chain(discount).collect()
    }

    /// Returns a sentence with the states that are left out; `None` if there are none.
    fn left_out(self) -> Option<String> {
        let counts = [
            (self.single, "with fewer than two candidates"),
            (self.too_long, "longer than the context"),
            (self.held_out, "of held-out games"),
        ];
        let parts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!parts.is_empty()).then(|| format!("branch states left out: {}", parts.join(", ")))
    }
}

/// The branch states of a job.
#[derive(Default)]
pub(crate) struct RankingPlan<'a> {
    /// The states that may be read.
    pub(crate) states: Vec<RankedState<'a>>,
    /// The indices of the states of each update; empty if the job reads none.
    pub(crate) updates: Vec<Vec<usize>>,
    /// Counts of all of it.
    pub(crate) summary: RankingSummary,
}

impl<'a> RankingPlan<'a> {
    /// Plans which states are read beside the trajectories of each of `updates` updates. Every pass
    /// over the states has an order of its own, which depends on the seed alone, not on the order of
    /// `branches`. `held_out` contains the hashes of games that decide when training stops.
    ///
    /// # Errors
    /// If the job reads branch states and none remains, if it does not read them and some are
    /// given, or if a line is no branch state.
    pub(crate) fn new(
        recipe: &TrainConfig,
        branches: &'a [Trajectory],
        context: usize,
        held_out: &BTreeSet<&str>,
        updates: usize,
        seed: u64,
    ) -> Result<Self, TrainerError> {
        if !recipe.critic.reads_branches() {
            if branches.is_empty() {
                return Ok(Self::default());
            }
            let hint = "hint: set critic.ranking and data = [\"rollouts\", \"branches\"]";
            let reason = format!("branch states are given, and the job reads none\n{hint}");
            return Err(no_states(recipe, &reason));
        }
        let mut summary = RankingSummary::default();
        let mut states = Vec::new();
        for trajectory in branches {
            match RankedState::new(trajectory).map_err(|reason| no_states(recipe, &reason))? {
                None => summary.single += 1,
                Some(state) if state.longest() > context => summary.too_long += 1,
                Some(_) if held_out.contains(trajectory.game_hash.as_str()) => {
                    summary.held_out += 1;
                }
                Some(state) => states.push(state),
            }
        }
        states.sort_by_key(|state: &RankedState<'_>| state.place());
        summary.states = states.len();
        if let Algorithm::Oreo { discount, .. } = recipe.algorithm {
            summary.other_discount = states
                .iter()
                .filter_map(|state| state.trajectory.branch.as_ref())
                .filter(|branch| branch.discount.to_bits() != discount.to_bits())
                .count();
        }
        if states.is_empty() {
            let left_out = summary
                .left_out()
                .map(|text| format!(" ({text})"))
                .unwrap_or_default();
            let hint = if branches.is_empty() {
                "`hearth train` reads them with --branches"
            } else {
                "play more branches, with more candidates or a higher proposal temperature"
            };
            let reason = format!(
                "it reads branch states, and none remains of {}{left_out}\nhint: {hint}",
                branches.len()
            );
            return Err(no_states(recipe, &reason));
        }
        let per_update = recipe.critic.branch_batch.min(states.len());
        Ok(Self {
            updates: schedule(states.len(), per_update, updates, seed),
            states,
            summary,
        })
    }
}

/// Returns the indices of the states of each update.
fn schedule(states: usize, per_update: usize, updates: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut left: Vec<usize> = Vec::new();
    let mut passes = 0;
    let mut schedule = Vec::with_capacity(updates);
    for _ in 0..updates {
        let mut chosen = Vec::with_capacity(per_update);
        while chosen.len() < per_update {
            if left.is_empty() {
                left = (0..states).collect();
                left.shuffle(&mut StdRng::seed_from_u64(mixed_seed(seed, passes, 1)));
                passes += 1;
            }
            chosen.extend(left.pop());
        }
        schedule.push(chosen);
    }
    schedule
}

fn no_states(recipe: &TrainConfig, reason: &str) -> TrainerError {
    TrainerError::Data(format!("job {}: {reason}", recipe.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of five states, two an update: every pass of five reads each once, across updates.
    #[test]
    fn every_pass_reads_each_state_once() {
        let planned = schedule(5, 2, 10, 7);
        assert!(planned.iter().all(|states| states.len() == 2));
        let flat: Vec<usize> = planned.concat();
        for pass in flat.chunks(5) {
            assert_eq!(pass.iter().collect::<BTreeSet<_>>().len(), 5, "{flat:?}");
        }
        assert_ne!(flat[..5], flat[5..10]);
        assert_eq!(
            schedule(5, 2, 4, 7),
            planned[..4],
            "no update depends on later ones"
        );
        assert_ne!(schedule(5, 2, 10, 8), planned);
        assert!(schedule(3, 2, 0, 1).is_empty());
    }
}
