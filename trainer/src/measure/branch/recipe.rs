//! What is sampled for each branched state.

use scenarios::seed::SplitMix64;
use scenarios::{DistinctBy, Outcome, Protocol, Scorer, Trajectory};
use serde::{Deserialize, Serialize};

/// Separates the choice of episodes from the other random numbers of the seed.
const EPISODES: u64 = 0x6570_6973_6f64_6573;

/// The settings of branches: the table `[branch]` of a recipe, and the flags of `hearth branch`.
///
/// ```
/// use trainer::measure::branch::BranchRecipe;
///
/// let recipe = BranchRecipe::default();
/// assert_eq!((recipe.candidates, recipe.rollouts, recipe.discount), (4, 4, 0.95));
/// assert_eq!(recipe.check(), Ok(()));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BranchRecipe {
    /// Number of states of each episode.
    pub states: usize,
    /// Number of episodes whose states are branched, drawn at random. If 0, all episodes.
    pub episodes: usize,
    /// Number of candidates K of each state, distinct by command.
    pub candidates: usize,
    /// Number of continuations M of each candidate.
    pub rollouts: usize,
    /// Sampling temperature of the candidates.
    pub proposal_temperature: f32,
    /// Sampling temperature of the continuations.
    pub temperature: f32,
    /// Candidates are sampled among tokens with at least this share of the highest token
    /// probability. If 0, among all tokens. Continuations are always sampled among all tokens.
    pub min_p: f32,
    /// γ of the returns, in (0, 1].
    pub discount: f64,
}

impl Default for BranchRecipe {
    fn default() -> Self {
        Self {
            states: 1,
            episodes: 0,
            candidates: 4,
            rollouts: 4,
            proposal_temperature: 1.5,
            temperature: 1.0,
            min_p: 0.0,
            discount: 0.95,
        }
    }
}

impl BranchRecipe {
    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// A text that names the setting.
    pub fn check(&self) -> Result<(), String> {
        if self.states == 0 || self.rollouts == 0 {
            return Err("states and rollouts must be above 0".into());
        }
        if self.candidates < 2 {
            return Err(
                "candidates must be at least 2, because the actions of a state are compared".into(),
            );
        }
        let is_sampled = |temperature: f32| temperature > 0.0 && temperature.is_finite();
        if !is_sampled(self.proposal_temperature) || !is_sampled(self.temperature) {
            return Err(
                "proposal_temperature and temperature must be above 0, because all greedy samples are equal".into(),
            );
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err("min_p must be in [0, 1]".into());
        }
        if !(self.discount > 0.0 && self.discount <= 1.0) {
            return Err("discount must be in (0, 1]".into());
        }
        Ok(())
    }

    /// Returns the indices of the episodes whose states are branched, in increasing order. An
    /// episode without turns, or whose environment failed, is never among them.
    pub(super) fn selected(&self, episodes: &[Trajectory], seed: u64) -> Vec<usize> {
        let mut selected: Vec<usize> = (0..episodes.len())
            .filter(|index| {
                let episode = &episodes[*index];
                episode.outcome != Outcome::EnvFailed && !episode.turns.is_empty()
            })
            .collect();
        if self.episodes > 0 {
            SplitMix64::new(&[seed, EPISODES]).shuffle(&mut selected);
            selected.truncate(self.episodes);
            selected.sort_unstable();
        }
        selected
    }
}

/// Returns the protocol of samples of an episode that was played under `protocol`: one candidate per
/// turn, without search, reference or filters except `min_p`. The turn limit still counts the turns of
/// the whole episode. If the protocol has no context limit, because the episode was recorded as text,
/// `context_limit` is used, in tokens.
#[must_use]
pub fn branch_protocol(
    protocol: &Protocol,
    context_limit: usize,
    temperature: f32,
    min_p: f32,
) -> Protocol {
    Protocol {
        temperature,
        top_k: 0,
        top_p: 1.0,
        min_p,
        best_of: 1,
        scorer: Scorer::default(),
        soft_value_beta: Protocol::SOFT_VALUE_BETA,
        distinct_by: DistinctBy::default(),
        reference: None,
        search: None,
        context_limit: if protocol.context_limit == 0 {
            context_limit
        } else {
            protocol.context_limit
        },
        ..protocol.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let of = |change: fn(&mut BranchRecipe)| {
            let mut recipe = BranchRecipe::default();
            change(&mut recipe);
            recipe.check().expect_err("refused")
        };
        assert!(of(|recipe| recipe.states = 0).starts_with("states"));
        assert!(of(|recipe| recipe.rollouts = 0).contains("rollouts"));
        assert!(of(|recipe| recipe.candidates = 1).starts_with("candidates"));
        assert!(of(|recipe| recipe.temperature = 0.0).contains("temperature"));
        assert!(of(|recipe| recipe.proposal_temperature = f32::NAN).contains("proposal"));
        assert!(of(|recipe| recipe.min_p = 1.5).starts_with("min_p"));
        assert!(of(|recipe| recipe.discount = 0.0).starts_with("discount"));
        assert!(of(|recipe| recipe.discount = f64::NAN).starts_with("discount"));
    }

    #[test]
    fn samples_have_one_candidate_and_their_own_temperature() {
        let source = Protocol {
            temperature: 0.3,
            top_k: 5,
            min_p: 0.5,
            best_of: 5,
            scorer: Scorer::Logprob,
            turn_limit: 7,
            ..Protocol::default()
        };
        let expected = Protocol {
            temperature: 1.5,
            min_p: 0.02,
            turn_limit: 7,
            context_limit: 512,
            ..Protocol::default()
        };
        assert_eq!(branch_protocol(&source, 512, 1.5, 0.02), expected);
        let limited = Protocol {
            context_limit: 100,
            ..source
        };
        assert_eq!(branch_protocol(&limited, 512, 1.0, 0.0).context_limit, 100);
    }
}
