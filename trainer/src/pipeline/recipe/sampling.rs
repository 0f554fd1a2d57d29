//! The recipe tables of the stages in which a model samples: `[[dagger]]`, `[collect]` and `[evaluate]`.

use scenarios::{DistinctBy, Protocol, Scorer, Split};
use serde::{Deserialize, Serialize};

/// The episodes of the expert with one student on games of `train` (DAgger, Ross et al. 2011,
/// arXiv 1011.0686). Both take turns. If the student acts otherwise than the expert would have, the turn is
/// marked and not imitated ([`agent::policy::dagger`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaggerRecipe {
    /// Name of the job whose policy is the student. The job must be trained before the first rollouts.
    pub student: String,
    /// Number of games. If 0, all games.
    pub games: usize,
    /// Episodes per game.
    pub repetitions: usize,
    /// The student's sampling temperature.
    pub temperature: f32,
    /// [`TokenFilters::top_k`] of the student.
    #[serde(default, skip_serializing_if = "is_default")]
    pub top_k: usize,
    /// [`TokenFilters::top_p`] of the student.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub top_p: f32,
    /// [`TokenFilters::min_p`] of the student.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_p: f32,
}

/// The policy's own episodes on games of `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectRecipe {
    /// Name of the job whose policy collects in the first iteration.
    pub policy: String,
    /// Name of the job whose policy collects in later iterations.
    pub then: String,
    /// Number of games. If 0, all games.
    pub games: usize,
    /// Episodes per game.
    pub repetitions: usize,
    /// Sampling temperature.
    pub temperature: f32,
    /// [`TokenFilters::top_k`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub top_k: usize,
    /// [`TokenFilters::top_p`].
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub top_p: f32,
    /// [`TokenFilters::min_p`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_p: f32,
    /// Number of candidates K per turn; the best by `scorer` is played. Default: 1. If the collector
    /// lacks the value network that the scorer needs, as it often does in iteration 1, K is 1. The
    /// keys below apply if K is above 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub best_of: usize,
    /// What selects the best of K. Default: `after_value`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scorer: Scorer,
    /// The factor of ln π in the scorer `soft_value`, reward units per nat. Default:
    /// [`Protocol::SOFT_VALUE_BETA`].
    #[serde(default = "default_beta", skip_serializing_if = "is_default_beta")]
    pub soft_value_beta: f32,
    /// Which candidates count as equal. Default: `tokens`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub distinct_by: DistinctBy,
}

/// The evaluations of every job's model. The keys after `best_of` apply if K is above 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateRecipe {
    /// The splits that are played.
    pub splits: Vec<Split>,
    /// Number of games of each split. If 0 (the default), all games.
    #[serde(default)]
    pub games: usize,
    /// Numbers of candidates K. K = 1 is greedy and is measured for every job; a larger K is measured only
    /// if the job has the network that the scorer needs.
    pub best_of: Vec<usize>,
    /// Sampling temperature.
    pub temperature: f32,
    /// [`TokenFilters::top_k`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub top_k: usize,
    /// [`TokenFilters::top_p`].
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub top_p: f32,
    /// [`TokenFilters::min_p`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_p: f32,
    /// What selects the best of K. Default: `after_value`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scorer: Scorer,
    /// The factor of ln π in the scorer `soft_value`, reward units per nat. Default:
    /// [`Protocol::SOFT_VALUE_BETA`].
    #[serde(default = "default_beta", skip_serializing_if = "is_default_beta")]
    pub soft_value_beta: f32,
    /// Which candidates count as equal. Default: `tokens`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub distinct_by: DistinctBy,
}

/// The token filters of a sampled stage. They are applied after the temperature, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenFilters {
    /// Sample among this many most likely tokens. If 0 (the default), all.
    pub top_k: usize,
    /// Sample among the fewest most likely tokens that together have this probability. If 1 (the default),
    /// all.
    pub top_p: f32,
    /// Sample among tokens whose probability is at least this share of the highest one. If 0 (the default),
    /// all.
    pub min_p: f32,
}

impl DaggerRecipe {
    /// Returns the token filters of the student.
    #[must_use]
    pub fn filters(&self) -> TokenFilters {
        TokenFilters {
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }
}

impl CollectRecipe {
    /// Returns the token filters.
    #[must_use]
    pub fn filters(&self) -> TokenFilters {
        TokenFilters {
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }

    /// Returns the number of candidates with which a collector plays. `has_value` is whether it has a value
    /// network.
    #[must_use]
    pub fn candidates(&self, has_value: bool) -> usize {
        if has_value || !self.scorer.needs_value() {
            self.best_of
        } else {
            1
        }
    }

    /// Returns the protocol with the settings for K above 1.
    #[must_use]
    pub fn select(&self, protocol: Protocol) -> Protocol {
        Protocol {
            scorer: self.scorer,
            soft_value_beta: self.soft_value_beta,
            distinct_by: self.distinct_by,
            ..protocol
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// A text that names the key.
    pub fn check(&self) -> Result<(), String> {
        if self.best_of == 0 {
            return Err("collect.best_of: K starts at 1".into());
        }
        self.filters().check("collect")?;
        check_scorer("collect", self.scorer, self.soft_value_beta)
    }
}

impl EvaluateRecipe {
    /// Returns the token filters for K above 1.
    #[must_use]
    pub fn filters(&self) -> TokenFilters {
        TokenFilters {
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }

    /// Returns whether K candidates can be scored for a job. `has_value` is whether it has a value network.
    #[must_use]
    pub fn measures(&self, k: usize, has_value: bool) -> bool {
        k == 1 || has_value || !self.scorer.needs_value()
    }

    /// Returns the protocol with the settings for K above 1.
    #[must_use]
    pub fn apply(&self, protocol: Protocol) -> Protocol {
        self.filters().apply(Protocol {
            scorer: self.scorer,
            soft_value_beta: self.soft_value_beta,
            distinct_by: self.distinct_by,
            ..protocol
        })
    }

    /// Checks the values.
    ///
    /// # Errors
    /// A text that names the key.
    pub fn check(&self) -> Result<(), String> {
        if self.best_of.contains(&0) || self.best_of.is_empty() {
            return Err("evaluate.best_of: K starts at 1".into());
        }
        self.filters().check("evaluate")?;
        check_scorer("evaluate", self.scorer, self.soft_value_beta)
    }
}

/// Checks the scorer of a recipe table and the factor β of `soft_value`.
fn check_scorer(table: &str, scorer: Scorer, beta: f32) -> Result<(), String> {
    if scorer == Scorer::LogRatio {
        return Err(format!(
            "{table}.scorer: log_ratio needs a reference policy, and a recipe loads none\n\
             hint: use hearth eval --scorer log_ratio --reference MODEL"
        ));
    }
    if !(beta.is_finite() && beta >= 0.0) {
        return Err(format!(
            "{table}.soft_value_beta is {beta}: it must be a finite number from 0"
        ));
    }
    if !is_default_beta(&beta) && scorer != Scorer::SoftValue {
        return Err(format!(
            "{table}.soft_value_beta: only the scorer soft_value uses it\n\
             hint: set scorer = \"soft_value\""
        ));
    }
    Ok(())
}

impl TokenFilters {
    /// Returns the protocol with these filters.
    #[must_use]
    pub fn apply(self, protocol: Protocol) -> Protocol {
        Protocol {
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            ..protocol
        }
    }

    /// Checks the values of a recipe table.
    ///
    /// # Errors
    /// A text that names the table and the key.
    pub fn check(self, table: &str) -> Result<(), String> {
        for (key, share) in [("top_p", self.top_p), ("min_p", self.min_p)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!(
                    "{table}.{key} is {share}: it must be between 0 and 1"
                ));
            }
        }
        Ok(())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> usize {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(number: &usize) -> bool {
    *number == 1
}

fn all() -> f32 {
    1.0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_all(top_p: &f32) -> bool {
    *top_p == 1.0
}

fn default_beta() -> f32 {
    Protocol::SOFT_VALUE_BETA
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_default_beta(beta: &f32) -> bool {
    *beta == Protocol::SOFT_VALUE_BETA
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "splits = [\"valid_seen\"]\ngames = 0\nbest_of = [1, 3]\ntemperature = 0.5\n";

    fn read(more: &str) -> Result<EvaluateRecipe, String> {
        let recipe: EvaluateRecipe =
            toml::from_str(&format!("{OLD}{more}")).map_err(|error| error.to_string())?;
        recipe.check().map(|()| recipe)
    }

    /// Only a best of K of the collector writes its keys, and wrong values are refused.
    #[test]
    fn the_collector_may_play_the_best_of_k() {
        let old =
            "policy = \"sft\"\nthen = \"oreo\"\ngames = 3\nrepetitions = 2\ntemperature = 1.0\n";
        let read = |more: &str| -> Result<CollectRecipe, String> {
            let recipe: CollectRecipe =
                toml::from_str(&format!("{old}{more}")).map_err(|error| error.to_string())?;
            recipe.check().map(|()| recipe)
        };
        let plain = read("").expect("valid");
        assert_eq!(toml::to_string(&plain).expect("writes"), old);
        assert_eq!([false, true].map(|has| plain.candidates(has)), [1, 1]);
        let keys = "best_of = 5\nscorer = \"soft_value\"\n";
        let guided = read(&format!("{keys}soft_value_beta = 0.05\n")).expect("valid");
        assert_eq!([false, true].map(|has| guided.candidates(has)), [1, 5]);
        let written = toml::to_string(&guided).expect("writes");
        assert_eq!(toml::from_str::<CollectRecipe>(&written), Ok(guided));
        for (more, reason) in [
            ("best_of = 0\n", "collect.best_of: K starts at 1"),
            (
                "scorer = \"log_ratio\"\n",
                "collect.scorer: log_ratio needs",
            ),
            ("soft_value_beta = 0.5\n", "collect.soft_value_beta: only"),
        ] {
            let error = read(more).expect_err("not valid");
            assert!(error.contains(reason), "{error}");
        }
    }

    /// If the keys have their defaults, a recipe is written as before they existed.
    #[test]
    fn the_keys_are_written_only_if_they_are_not_the_default() {
        let old = read("").expect("valid");
        assert_eq!(toml::to_string(&old).expect("writes"), OLD);
        let protocol = Protocol {
            best_of: 3,
            ..Protocol::default()
        };
        assert_eq!(old.apply(protocol.clone()), protocol);
        let keys = "top_k = 9\ntop_p = 0.5\nmin_p = 0.25\nscorer = \"soft_value\"\n\
                    soft_value_beta = 0.5\ndistinct_by = \"command\"\n";
        let new = read(keys).expect("valid");
        assert_eq!(
            toml::to_string(&new).expect("writes"),
            OLD.to_owned() + keys
        );
        assert_eq!(
            new.apply(protocol.clone()),
            Protocol {
                top_k: 9,
                top_p: 0.5,
                min_p: 0.25,
                scorer: Scorer::SoftValue,
                soft_value_beta: 0.5,
                distinct_by: DistinctBy::Command,
                ..protocol
            }
        );
    }

    #[test]
    fn values_without_a_meaning_are_refused() {
        for (keys, expected) in [
            ("top_p = 1.5", "evaluate.top_p is 1.5"),
            ("min_p = -0.1", "evaluate.min_p is -0.1"),
            ("min_p = nan", "evaluate.min_p is NaN"),
            ("top_k = -1", "invalid value"),
            ("scorer = \"luck\"", "unknown variant `luck`"),
            ("scorer = \"log_ratio\"", "needs a reference policy"),
            ("soft_value_beta = 0.5", "hint: set scorer = \"soft_value\""),
            (
                "scorer = \"soft_value\"\nsoft_value_beta = inf",
                "evaluate.soft_value_beta is inf",
            ),
            ("distinct_by = \"text\"", "unknown variant `text`"),
            ("min_q = 0.1", "unknown field `min_q`"),
        ] {
            let error = read(keys).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        }
        assert!(read("scorer = \"clairvoyant_oracle\"").is_ok());
    }

    #[test]
    fn a_scorer_without_a_value_network_is_measured_for_every_job() {
        let [value, null] = ["", "scorer = \"distinct\""].map(|keys| read(keys).expect("valid"));
        assert_eq!(
            [(1, false), (3, false), (3, true)].map(|(k, has)| value.measures(k, has)),
            [true, false, true]
        );
        assert!(null.measures(3, false));
    }
}
