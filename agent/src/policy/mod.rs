//! Who plays: the [`Policy`] trait that the rollout loop asks for completions, the expert, and a scripted policy for
//! tests. The language model behind it is [`crate::policy::lm`].

pub mod dagger;
pub mod lm;
pub mod remote;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use scenarios::seed::mixed_seed;
use scenarios::{Candidate, History, Protocol, Turn, expert::Expert, household::catalog};

/// Answers observations with completions, many episodes at once.
pub trait Policy: Sync {
    /// What one episode keeps between its turns.
    type EpisodeState: Send;

    /// Hash of the weights, or a name.
    fn name(&self) -> String;

    /// Hash of the value network's weights, when one looks on.
    fn value_name(&self) -> Option<String> {
        None
    }

    /// Why it will answer no more, when it will not: a run then stops instead of losing every episode that is left.
    fn gone(&self) -> Option<String> {
        None
    }

    /// Whether it can play by this protocol.
    ///
    /// # Errors
    /// What it cannot do.
    fn can_play(&self, protocol: &Protocol) -> Result<(), String> {
        match protocol.history {
            History::Full => Ok(()),
            window @ History::Last(_) => Err(format!(
                "{} sees the full history and cannot play with {window} of it",
                self.name()
            )),
        }
    }

    /// Begins an episode; everything random in it comes from `seed`.
    fn begin(&self, seed: u64) -> Self::EpisodeState;

    /// Takes in a turn that was played before: its observation and, as if it had written it itself, its completion. The
    /// next question comes after it.
    ///
    /// # Errors
    /// Why it cannot; the episode is then lost.
    fn replay(&self, _seat: &mut Self::EpisodeState, _turn: &Turn) -> Result<(), String> {
        Err(format!(
            "{} cannot go on from turns that were played before",
            self.name()
        ))
    }

    /// Takes the best of what it has offered in this seat, by one score for each offer, higher is better.
    ///
    /// # Panics
    /// When it has offered nothing.
    fn take(&self, _seat: &mut Self::EpisodeState, _scores: &[f32]) -> Completion {
        panic!("{} offers nothing to choose from", self.name())
    }

    /// One answer for each question, in order. Who is not done says so, and is asked the same again, with others who are
    /// ready by then.
    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, Self::EpisodeState>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse>;

    /// What a search needs of it; `None` = it cannot search.
    fn lookahead(&self) -> Option<&dyn Lookahead<EpisodeState = Self::EpisodeState>> {
        None
    }
}

/// A policy that a search can be guided by. Under a protocol with a search it first answers [`TurnResponse::Seen`] to an
/// observation, and [`TurnResponse::Candidates`] when it is asked the same again.
pub trait Lookahead {
    /// [`Policy::EpisodeState`].
    type EpisodeState;

    /// The seat of an episode that goes on with one of the candidates that `seat` has just written, by its place among
    /// them; each can be asked for once. The first candidate's draws on as `seat` would have, every other from a seed of
    /// its own.
    fn branch(&self, seat: &mut Self::EpisodeState, candidate: usize) -> Self::EpisodeState;

    /// Gives up the room that a seat holds and is not using now; no answer of it changes.
    fn make_room(&self, _seat: &mut Self::EpisodeState) {}
}

/// An episode that waits for its next completion.
#[derive(Debug)]
pub struct TurnRequest<'a, S> {
    /// What the policy keeps of this episode.
    pub seat: &'a mut S,
    /// The world's last text.
    pub observation: &'a str,
}

/// What a policy does with an observation.
#[derive(Debug, Clone, PartialEq)]
pub enum TurnResponse {
    /// It writes.
    Completion(Completion),
    /// In a search: V of the observation, reward units, before anything is written.
    Seen(f32),
    /// In a search: the distinct ones of the K that it writes, each with how many of them it stands for as `written`.
    Candidates(Vec<Completion>),
    /// It has written several, without doubles, and asks what they lead to: see [`Policy::take`].
    Offers(Vec<CandidateText>),
    /// The observation and a whole completion would not fit into the context.
    ContextFull,
    /// It ends the episode.
    GaveUp,
    /// It is not done.
    Writing,
    /// It has not begun: there is no room before another episode is over or its world has answered.
    Waiting,
    /// It could not be asked, for this reason; says nothing about the policy.
    Failed(String),
}

/// What a policy could say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateText {
    /// All it wrote, without the end-of-turn token.
    pub text: String,
    /// Whether it ended its turn itself; a cut completion is malformed.
    pub ended: bool,
}

/// What a policy wrote in a turn. Fields as in [`scenarios::Turn`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Completion {
    /// All it wrote, without the end-of-turn token.
    pub text: String,
    /// Whether it ended its turn itself; a cut completion is malformed.
    pub ended: bool,
    /// Token ids that brought the observation into the context.
    pub observation_tokens: Vec<u32>,
    /// Token ids as sampled.
    pub tokens: Vec<u32>,
    /// Under the untempered policy, nats.
    pub logprobs: Vec<f32>,
    /// Under the distribution sampled from, where that is another.
    pub sampling_logprobs: Vec<f32>,
    /// Whether it was written to go perturbed.
    pub perturbed: bool,
    /// V before the completion.
    pub value: Option<f32>,
    /// U after the completion.
    pub after_value: Option<f32>,
    /// The distinct alternatives of a best-of-K turn.
    pub candidates: Vec<Candidate>,
    /// ln π − ln π_ref of all of it, nats.
    pub log_ratio: Option<f32>,
    /// Completions written for this turn, this one included.
    pub written: usize,
    /// Tokens of them.
    pub written_tokens: usize,
}

/// The expert of [`scenarios::expert`], as a policy.
///
/// With noise it is a better teacher: now and then it writes a command that fails or leads nowhere, sometimes several in a
/// row, and goes on from there. Whoever imitates only perfect play never sees how to go on after a mistake (Laskey et
/// al., DART, arXiv 1703.09327). The log marks these turns ([`Turn::perturbed`]), and imitation leaves them out.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExpertPolicy {
    /// Share of turns in which it begins to go perturbed; 0 = perfect play.
    pub noise: f64,
}

/// What an [`ExpertPolicy`] keeps of an episode.
#[derive(Debug)]
pub struct ExpertEpisode {
    expert: Expert,
    rng: StdRng,
    /// The numbered names read so far: what a slip is made of.
    names: Vec<String>,
    /// The last command, where it was a slip.
    slip: Option<String>,
}

/// Chance that a slip follows a slip.
const ANOTHER_SLIP: f64 = 0.3;

impl ExpertEpisode {
    fn act(&mut self, observation: &str, noise: f64) -> Completion {
        let command = self.expert.act(observation);
        self.names.extend(numbered_names(observation));
        let chance = if self.slip.is_some() {
            noise.max(ANOTHER_SLIP)
        } else {
            noise
        };
        self.slip = None;
        if noise > 0.0 && self.rng.random_bool(chance.min(1.0)) {
            self.slip = self.perturb();
        }
        match &self.slip {
            None => text(command),
            Some(slip) => {
                self.expert.instead(slip);
                Completion {
                    perturbed: true,
                    ..text(slip.clone())
                }
            }
        }
    }

    /// A command that works and leads nowhere, or one that very likely changes nothing: a thing taken from where it is not,
    /// or a way to where nothing is.
    fn perturb(&mut self) -> Option<String> {
        if self.rng.random_bool(0.5) {
            return self.expert.stray(self.rng.random());
        }
        let [object, place] = [(); 2].map(|()| self.names.choose(&mut self.rng).cloned());
        let elsewhere = catalog::RECEPTACLES
            .choose(&mut self.rng)?
            .name
            .to_lowercase();
        Some(match self.rng.random_range(0..4) {
            0 => format!("go to {elsewhere} {}", self.rng.random_range(1..4)),
            1 => format!("open {}", object?),
            2 => "use desklamp 1".into(),
            _ => format!("take {} from {}", object?, place?),
        })
    }
}

/// The names with a number in a text, such as "mug 2".
fn numbered_names(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let pairs = words
        .windows(2)
        .filter(|pair| pair[0].chars().all(|c| c.is_ascii_lowercase()) && !pair[0].is_empty());
    let numbered =
        pairs.filter(|pair| !pair[1].is_empty() && pair[1].chars().all(|c| c.is_ascii_digit()));
    numbered
        .map(|pair| format!("{} {}", pair[0], pair[1]))
        .collect()
}

impl Policy for ExpertPolicy {
    type EpisodeState = ExpertEpisode;

    fn name(&self) -> String {
        if self.noise > 0.0 {
            format!("expert that goes perturbed in {} of its turns", self.noise)
        } else {
            "expert".into()
        }
    }

    fn begin(&self, seed: u64) -> ExpertEpisode {
        let rng = StdRng::seed_from_u64(mixed_seed(seed, 0, 0));
        ExpertEpisode {
            expert: Expert::new(seed),
            rng,
            names: Vec::new(),
            slip: None,
        }
    }

    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, ExpertEpisode>],
        _: &Protocol,
    ) -> Vec<TurnResponse> {
        let answer = |question: &mut TurnRequest<'_, ExpertEpisode>| {
            question.seat.act(question.observation, self.noise)
        };
        asked
            .iter_mut()
            .map(answer)
            .map(TurnResponse::Completion)
            .collect()
    }
}

/// Writes the same list of commands in every episode, then gives up.
#[derive(Debug, Clone)]
pub struct ScriptedPolicy(pub Vec<String>);

impl Policy for ScriptedPolicy {
    type EpisodeState = std::vec::IntoIter<String>;

    fn name(&self) -> String {
        "scripted".into()
    }

    fn begin(&self, _: u64) -> Self::EpisodeState {
        self.0.clone().into_iter()
    }

    /// A turn that was played counts as the next command of the list.
    fn replay(&self, seat: &mut Self::EpisodeState, _: &Turn) -> Result<(), String> {
        seat.next();
        Ok(())
    }

    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, Self::EpisodeState>],
        _: &Protocol,
    ) -> Vec<TurnResponse> {
        asked
            .iter_mut()
            .map(|question| question.seat.next().map_or(TurnResponse::GaveUp, written))
            .collect()
    }
}

/// A completion by somebody who writes text, not tokens.
#[must_use]
pub fn written(text: String) -> TurnResponse {
    TurnResponse::Completion(self::text(text))
}

fn text(text: String) -> Completion {
    Completion {
        text,
        ended: true,
        written: 1,
        ..Completion::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_numbers_are_found() {
        let text =
            "On the desk 1, you see a mug 2, and a pen 14.\n\nYour task is to: put a pen in desk.";
        assert_eq!(numbered_names(text), ["desk 1", "mug 2", "pen 14"]);
    }

    /// The world's answers to a slip and to what follows it are understood: after one that fails the expert means what it
    /// meant before, after one that leads elsewhere it stands there.
    #[test]
    fn the_expert_goes_on_from_its_slips() {
        let opening = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1.\n\n\
                       Your task is to: put a mug in desk.";
        let sit = |seed| ExpertPolicy { noise: 1.0 }.begin(seed);
        let perfect = sit(3).act(opening, 0.0);
        assert!(!perfect.perturbed);
        let (mut failed, mut walked) = (0, 0);
        for seed in 0..200 {
            let mut seat = sit(seed);
            let meant = sit(seed).act(opening, 0.0).text;
            let slip = seat.act(opening, 1.0);
            assert!(slip.perturbed);
            match slip.text.as_str() {
                "go to desk 1" | "go to shelf 1" => {
                    let place = &slip.text[6..];
                    let arrival =
                        format!("You arrive at {place}. On the {place}, you see a mug 1.");
                    let next = seat.act(&arrival, 0.0);
                    let there = if place == "shelf 1" {
                        "take mug 1 from shelf 1"
                    } else {
                        "go to shelf 1"
                    };
                    assert_eq!((next.text.as_str(), next.perturbed), (there, false));
                    walked += 1;
                }
                _ => {
                    let next = seat.act("Nothing happens.", 0.0);
                    assert_eq!(
                        (next.text, next.perturbed),
                        (meant, false),
                        "after {:?}",
                        slip.text
                    );
                    failed += 1;
                }
            }
        }
        assert!(failed > 50 && walked > 50, "{failed} {walked}");
    }
}
