//! Who plays: the [`Policy`] trait that the rollout loop asks for completions, the expert, and a scripted policy for
//! tests. The language model behind it is [`crate::model_player`].

use crate::model_player::mixed_seed;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::{Candidate, Protocol, Turn, expert::Expert, household::catalog};

/// Answers observations with completions, many episodes at once.
pub trait Policy: Sync {
    /// What one episode keeps between its turns.
    type Seat: Send;

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

    /// Begins an episode; everything random in it comes from `seed`.
    fn sit(&self, seed: u64) -> Self::Seat;

    /// Takes in a turn that was played before: its observation and, as if it had written it itself, its completion. The
    /// next question comes after it.
    ///
    /// # Errors
    /// Why it cannot; the episode is then lost.
    fn replay(&self, _seat: &mut Self::Seat, _turn: &Turn) -> Result<(), String> {
        Err(format!("{} cannot go on from turns that were played before", self.name()))
    }

    /// One answer for each question, in order. Who is not done says so, and is asked the same again, with others who are
    /// ready by then.
    fn answer(&self, asked: &mut [Asked<'_, Self::Seat>], protocol: &Protocol) -> Vec<Answer>;

    /// What a search needs of it; `None` = it cannot search.
    fn foresight(&self) -> Option<&dyn Foresight<Seat = Self::Seat>> {
        None
    }
}

/// A policy that a search can be guided by. Under a protocol with a search it first answers [`Answer::Seen`] to an
/// observation, and [`Answer::Candidates`] when it is asked the same again.
pub trait Foresight {
    /// [`Policy::Seat`].
    type Seat;

    /// The seat of an episode that goes on with one of the candidates that `seat` has just written, by its place among
    /// them; each can be asked for once. The first candidate's draws on as `seat` would have, every other from a seed of
    /// its own.
    fn branch(&self, seat: &mut Self::Seat, candidate: usize) -> Self::Seat;

    /// Gives up the room that a seat holds and is not using now; no answer of it changes.
    fn make_room(&self, _seat: &mut Self::Seat) {}
}

/// An episode that waits for its next completion.
#[derive(Debug)]
pub struct Asked<'a, S> {
    /// What the policy keeps of this episode.
    pub seat: &'a mut S,
    /// The world's last text.
    pub observation: &'a str,
}

/// What a policy does with an observation.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It writes.
    Completion(Completion),
    /// In a search: V of the observation, reward units, before anything is written.
    Seen(f32),
    /// In a search: the distinct ones of the K that it writes, each with how many of them it stands for as `written`.
    Candidates(Vec<Completion>),
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
/// With slips it is a better teacher: now and then it first writes a command that fails, sees "Nothing happens.", and
/// goes on as it meant to. Whoever imitates only perfect play never sees how to go on after a mistake
/// (Laskey et al., DART, arXiv 1703.09327).
#[derive(Debug, Clone, Copy, Default)]
pub struct ExpertPolicy {
    /// Share of turns that begin with a slip; 0 = perfect play.
    pub slips: f64,
}

/// What an [`ExpertPolicy`] keeps of an episode.
#[derive(Debug)]
pub struct ExpertSeat {
    expert: Expert,
    rng: StdRng,
    /// The numbered names read so far: what a slip is made of.
    names: Vec<String>,
    /// What the expert meant to write when it slipped.
    meant: Option<String>,
}

impl ExpertSeat {
    fn act(&mut self, observation: &str, slips: f64) -> String {
        if let Some(meant) = self.meant.take() {
            return meant;
        }
        let command = self.expert.act(observation);
        if slips <= 0.0 {
            return command;
        }
        self.names.extend(numbered_names(observation));
        if !self.rng.random_bool(slips.min(1.0)) || self.names.is_empty() {
            return command;
        }
        self.meant = Some(command);
        self.slip()
    }

    /// A command that very likely changes nothing: a thing taken from where it is not, or a way to where nothing is.
    fn slip(&mut self) -> String {
        let mut name = || self.names[self.rng.random_range(0..self.names.len())].clone();
        let (object, place) = (name(), name());
        let receptacles = catalog::RECEPTACLES;
        let elsewhere = receptacles[self.rng.random_range(0..receptacles.len())].name.to_lowercase();
        match self.rng.random_range(0..4) {
            0 => format!("go to {elsewhere} {}", self.rng.random_range(1..4)),
            1 => format!("open {object}"),
            2 => "use desklamp 1".into(),
            _ => format!("take {object} from {place}"),
        }
    }
}

/// The names with a number in a text, such as "mug 2".
fn numbered_names(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let pairs = words.windows(2).filter(|pair| pair[0].chars().all(|c| c.is_ascii_lowercase()) && !pair[0].is_empty());
    let numbered = pairs.filter(|pair| !pair[1].is_empty() && pair[1].chars().all(|c| c.is_ascii_digit()));
    numbered.map(|pair| format!("{} {}", pair[0], pair[1])).collect()
}

impl Policy for ExpertPolicy {
    type Seat = ExpertSeat;

    fn name(&self) -> String {
        if self.slips > 0.0 { format!("expert with {} slips a turn", self.slips) } else { "expert".into() }
    }

    fn sit(&self, seed: u64) -> ExpertSeat {
        let rng = StdRng::seed_from_u64(mixed_seed(seed, 0, 0));
        ExpertSeat { expert: Expert::new(seed), rng, names: Vec::new(), meant: None }
    }

    fn answer(&self, asked: &mut [Asked<'_, ExpertSeat>], _: &Protocol) -> Vec<Answer> {
        asked.iter_mut().map(|question| written(question.seat.act(question.observation, self.slips))).collect()
    }
}

/// Writes the same list of commands in every episode, then gives up.
#[derive(Debug, Clone)]
pub struct Scripted(pub Vec<String>);

impl Policy for Scripted {
    type Seat = std::vec::IntoIter<String>;

    fn name(&self) -> String {
        "scripted".into()
    }

    fn sit(&self, _: u64) -> Self::Seat {
        self.0.clone().into_iter()
    }

    /// A turn that was played counts as the next command of the list.
    fn replay(&self, seat: &mut Self::Seat, _: &Turn) -> Result<(), String> {
        seat.next();
        Ok(())
    }

    fn answer(&self, asked: &mut [Asked<'_, Self::Seat>], _: &Protocol) -> Vec<Answer> {
        asked.iter_mut().map(|question| question.seat.next().map_or(Answer::GaveUp, written)).collect()
    }
}

/// A completion by somebody who writes text, not tokens.
#[must_use]
pub fn written(text: String) -> Answer {
    Answer::Completion(Completion { text, ended: true, written: 1, ..Completion::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_numbers_are_found() {
        let text = "On the desk 1, you see a mug 2, and a pen 14.\n\nYour task is to: put a pen in desk.";
        assert_eq!(numbered_names(text), ["desk 1", "mug 2", "pen 14"]);
    }

    /// The command that was meant follows every slip, so a seat without its slips is the perfect expert.
    #[test]
    fn a_slip_only_delays_what_was_meant() {
        let opening = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1.\n\n\
                       Your task is to: put a mug in desk.";
        let perfect = ExpertPolicy::default().sit(3).act(opening, 0.0);
        let mut seat = ExpertPolicy::default().sit(3);
        let slip = seat.act(opening, 1.0);
        assert_ne!(slip, perfect);
        assert_eq!(seat.act("Nothing happens.", 1.0), perfect);
    }
}
