//! The settings of a sweep: which scorer and which K.

use scenarios::{Outcome, Protocol, Scorer, Search, Spent, Trajectory};

/// How one run of a sweep plays every game: a scorer and a K. If there is one candidate, nothing is
/// selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepSetting {
    /// K = 1 at temperature 0.
    Greedy,
    /// K = 1 at the temperature of the sweep. The completion of the first turn is the first
    /// candidate of every other run's first turn.
    Sampled,
    /// Up to K > 1 episodes per game with one sample per turn, until one is won. This is the
    /// baseline for best-of-K and for a search. The reward decides when to stop, as in a search.
    Repeated(usize),
    /// The best of K > 1 candidates.
    BestOf(usize, Scorer),
    /// A beam of K > 1 states with K candidates each, in copies of the environment.
    Beam(usize),
}

impl SweepSetting {
    /// Returns all settings of a sweep, the cheapest first: greedy play, one sample, repeated
    /// samples for each K, then for each K all scorers and, if `with_beams`, a beam.
    ///
    /// Each K is used once. If a K is below 2, it is ignored.
    #[must_use]
    pub fn all(ks: &[usize], scorers: &[Scorer], with_beams: bool) -> Vec<Self> {
        let mut ks = ks.to_vec();
        ks.sort_unstable();
        ks.dedup();
        ks.retain(|k| *k > 1);
        let mut settings = vec![Self::Greedy, Self::Sampled];
        settings.extend(ks.iter().map(|k| Self::Repeated(*k)));
        for k in ks {
            settings.extend(scorers.iter().map(|scorer| Self::BestOf(k, *scorer)));
            if with_beams {
                settings.push(Self::Beam(k));
            }
        }
        settings
    }

    /// Returns the name of the scorer. If nothing is selected, returns how the games are played.
    #[must_use]
    pub fn scorer(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Sampled => "sampled",
            Self::Repeated(_) => "repeated",
            Self::BestOf(_, scorer) => scorer.name(),
            Self::Beam(_) => "beam",
        }
    }

    /// Returns K.
    #[must_use]
    pub fn k(self) -> usize {
        match self {
            Self::Greedy | Self::Sampled => 1,
            Self::Repeated(k) | Self::BestOf(k, _) | Self::Beam(k) => k,
        }
    }

    /// Returns the name of the store, without an extension. If games are repeated, it is the store
    /// of the K-th episodes.
    #[must_use]
    pub fn store(self) -> String {
        match self {
            Self::Greedy | Self::Sampled => self.scorer().into(),
            Self::Repeated(k) => format!("sampled-{k}"),
            Self::BestOf(..) | Self::Beam(_) => format!("{}-k{}", self.scorer(), self.k()),
        }
    }

    /// Returns the protocol with the setting's K and scorer. If the setting is greedy, the
    /// temperature is 0.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Protocol {
        match self {
            Self::Greedy => Protocol {
                temperature: 0.0,
                best_of: 1,
                ..protocol
            },
            Self::Sampled | Self::Repeated(_) => Protocol {
                best_of: 1,
                ..protocol
            },
            Self::BestOf(best_of, scorer) => Protocol {
                best_of,
                scorer,
                ..protocol
            },
            Self::Beam(best_of) => Protocol {
                best_of,
                search: Some(Search::Beam { width: best_of }),
                ..protocol
            },
        }
    }
}

/// Merges two episodes of a game that was played again. The result is the later episode with the
/// total cost of both. If the environment failed in the later episode, the result is the earlier
/// one with the total cost.
#[must_use]
pub fn merge_attempts(before: &Trajectory, after: Trajectory) -> Trajectory {
    let spent = Spent {
        completions: before.spent.completions + after.spent.completions,
        tokens: before.spent.tokens + after.spent.tokens,
        commands: before.spent.commands + after.spent.commands,
    };
    let seconds = before.seconds + after.seconds;
    let kept = if after.outcome == Outcome::EnvFailed {
        before.clone()
    } else {
        after
    };
    Trajectory {
        spent,
        seconds,
        ..kept
    }
}
