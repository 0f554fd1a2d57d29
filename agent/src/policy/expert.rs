//! The expert of [`scenarios::expert`] as a policy, with optional noise.

use crate::policy::{Completion, Policy, TurnRequest, TurnResponse};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::household::{self, PerturbationDraws};
use scenarios::seed::mixed_seed;
use scenarios::{Protocol, expert::Expert};
use std::ops::Range;

/// The recorded name of a noisy expert, before and after its noise. Existing logs contain this
/// name, and stores are matched by it, so it must not change.
const NOISY_NAME: [&str; 2] = ["expert that goes astray in ", " of its turns"];

/// Probability of a perturbed turn directly after a perturbed turn, if `noise` is lower.
const NOISE_AFTER_NOISE: f64 = 0.3;

/// The expert of [`scenarios::expert`], as a policy.
///
/// If `noise` is above 0, some actions are perturbed (noise injection; DART, Laskey et al. 2017,
/// arXiv 1703.09327): the expert writes a command that fails or leads nowhere, sometimes several in
/// a row, and continues from there. A policy that imitates only perfect play never sees how to
/// recover from a mistake. The log marks these turns ([`scenarios::Turn::perturbed`]), and
/// imitation leaves them out.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExpertPolicy {
    /// Probability that a turn is perturbed. If it is 0, the play is perfect.
    pub noise: f64,
}

/// The state that an [`ExpertPolicy`] keeps for an episode.
#[derive(Debug)]
pub struct ExpertEpisode {
    expert: Expert,
    rng: StdRng,
    /// The numbered names read so far. Perturbed commands are made from them.
    names: Vec<String>,
    /// Whether the last action was perturbed.
    last_was_perturbed: bool,
}

impl Policy for ExpertPolicy {
    type EpisodeState = ExpertEpisode;

    fn name(&self) -> String {
        if self.noise > 0.0 {
            let [before, after] = NOISY_NAME;
            format!("{before}{}{after}", self.noise)
        } else {
            "expert".into()
        }
    }

    fn begin(&self, seed: u64) -> ExpertEpisode {
        ExpertEpisode {
            expert: Expert::new(seed),
            rng: StdRng::seed_from_u64(mixed_seed(seed, 0, 0)),
            names: Vec::new(),
            last_was_perturbed: false,
        }
    }

    fn respond(
        &self,
        requests: &mut [TurnRequest<'_, ExpertEpisode>],
        _: &Protocol,
    ) -> Vec<TurnResponse> {
        requests
            .iter_mut()
            .map(|request| {
                let completion = request.episode.act(request.observation, self.noise);
                TurnResponse::Completion(completion)
            })
            .collect()
    }
}

impl ExpertEpisode {
    fn act(&mut self, observation: &str, noise: f64) -> Completion {
        let command = self.expert.act(observation);
        self.names.extend(household::numbered_names(observation));
        let chance = if self.last_was_perturbed {
            noise.max(NOISE_AFTER_NOISE)
        } else {
            noise
        };
        let perturbed = if noise > 0.0 && self.rng.random_bool(chance.min(1.0)) {
            household::perturb(&self.expert, &self.names, &mut EpisodeDraws(&mut self.rng))
        } else {
            None
        };
        self.last_was_perturbed = perturbed.is_some();
        match perturbed {
            None => Completion::from_text(command),
            Some(command) => {
                self.expert.replace_last(&command);
                Completion {
                    perturbed: true,
                    ..Completion::from_text(command)
                }
            }
        }
    }
}

/// The expert beside another policy: the command that it would write after the same text.
#[derive(Debug)]
pub(super) struct ExpertAdvice {
    expert: Expert,
    /// `None` if the expert has not read the observation of this turn.
    intended: Option<String>,
}

impl ExpertAdvice {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            expert: Expert::new(seed),
            intended: None,
        }
    }

    /// Lets the expert read the observation of this turn.
    pub(super) fn read(&mut self, observation: &str) {
        self.intended = Some(self.expert.act(observation));
    }

    /// Returns the command that the expert would write now, if it has read the observation.
    pub(super) fn intended(&self) -> Option<&str> {
        self.intended.as_deref()
    }

    /// Ends the turn in which the expert has read the observation. The expert continues after
    /// `command`, which is `None` if the completion had none. Returns whether the expert would have
    /// written the same command.
    pub(super) fn continue_after(&mut self, command: Option<&str>) -> bool {
        let is_same = self.intended.take().as_deref() == command;
        if !is_same {
            self.expert.replace_last(command.unwrap_or_default());
        }
        is_same
    }
}

/// Random draws from the generator of an episode.
struct EpisodeDraws<'a>(&'a mut StdRng);

impl PerturbationDraws for EpisodeDraws<'_> {
    fn coin(&mut self) -> bool {
        self.0.random_bool(0.5)
    }

    fn bits(&mut self) -> u64 {
        self.0.random()
    }

    fn index(&mut self, count: usize) -> usize {
        self.0.random_range(..count)
    }

    fn integer(&mut self, range: Range<i32>) -> i32 {
        self.0.random_range(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_names_are_those_of_existing_logs() {
        assert_eq!(ExpertPolicy::default().name(), "expert");
        assert_eq!(
            ExpertPolicy { noise: 0.1 }.name(),
            "expert that goes astray in 0.1 of its turns"
        );
    }

    /// The expert continues from the command that the other policy wrote, or from no command.
    #[test]
    fn the_advice_follows_what_another_policy_does() {
        let opening = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1.\n\n\
                       Your task is to: put a mug in desk.";
        let arrival = "You arrive at shelf 1. On the shelf 1, you see a mug 1.";
        for other in [Some("go to shelf 1"), None] {
            let mut advice = ExpertAdvice::new(3);
            assert_eq!(advice.intended(), None);
            advice.read(opening);
            let intended = advice.intended().unwrap().to_string();
            assert_eq!(
                advice.continue_after(other),
                other == Some(intended.as_str())
            );
            assert_eq!(advice.intended(), None, "the turn is over");
            match other {
                Some(_) => {
                    advice.read(arrival);
                    assert_eq!(advice.intended(), Some("take mug 1 from shelf 1"));
                }
                None => {
                    advice.read("That was no command. Write one command on one line.");
                    assert_eq!(advice.intended(), Some(intended.as_str()));
                }
            }
        }
    }

    /// The expert reads the reply to a perturbed action. If the action failed, its plan is as
    /// before; if the action led to another place, its plan starts from there.
    #[test]
    fn the_expert_recovers_from_perturbed_actions() {
        let opening = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1.\n\n\
                       Your task is to: put a mug in desk.";
        let policy = ExpertPolicy { noise: 1.0 };
        let perfect = policy.begin(3).act(opening, 0.0);
        assert!(!perfect.perturbed);
        let mut failed = 0;
        let mut walked = 0;
        for seed in 0..200 {
            let mut episode = policy.begin(seed);
            let intended = policy.begin(seed).act(opening, 0.0).text;
            let perturbed = episode.act(opening, 1.0);
            assert!(perturbed.perturbed);
            match perturbed.text.as_str() {
                "go to desk 1" | "go to shelf 1" => {
                    let place = &perturbed.text[6..];
                    let arrival =
                        format!("You arrive at {place}. On the {place}, you see a mug 1.");
                    let next = episode.act(&arrival, 0.0);
                    let expected = if place == "shelf 1" {
                        "take mug 1 from shelf 1"
                    } else {
                        "go to shelf 1"
                    };
                    assert_eq!((next.text.as_str(), next.perturbed), (expected, false));
                    walked += 1;
                }
                _ => {
                    let next = episode.act("Nothing happens.", 0.0);
                    assert_eq!(
                        (next.text, next.perturbed),
                        (intended, false),
                        "after {:?}",
                        perturbed.text
                    );
                    failed += 1;
                }
            }
        }
        assert!(failed > 50 && walked > 50, "{failed} {walked}");
    }
}
