//! Demonstrations in states that the student visits (DAgger; Ross, Gordon & Bagnell 2011, arXiv
//! 1011.0686): a model and the expert alternate in one game, and only the turns of the expert are
//! imitated.
//!
//! A policy that imitates only the games of the expert reaches, after its first mistake, states
//! from which the expert never showed a way out. These episodes contain such states. Differs from
//! the paper: the expert does not label every state of the student, but writes some of the turns
//! itself, because a transcript holds one action a turn. The author of a turn changes by chance
//! from turn to turn, so that mistakes come in runs, as they do in play.

use crate::policy::expert::ExpertAdvice;
use crate::policy::lm::{LmEpisode, LmPolicy};
use crate::policy::{Completion, Policy, TurnRequest, TurnResponse, text_response};
use crate::text::action::parse_command;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::seed::mixed_seed;
use scenarios::{Protocol, Turn};

/// The recorded name of this policy, before the name of the student. Existing logs contain it, and
/// stores are matched by it, so it must not change.
const NAME_BEFORE_STUDENT: &str = "expert guiding ";
/// Probability that the student writes the first turn.
const STUDENT_BEGINS: f64 = 0.7;
/// Probability that the author changes before a turn.
const AUTHOR_CHANGES: f64 = 0.15;
/// Takes the place of a turn number in the seed of the authors. No turn has this number, so the
/// authors are independent of the samples of the student.
const AUTHOR_STREAM: u64 = u64::MAX - 1;

/// A student and the expert that alternate in each episode.
pub struct DaggerPolicy {
    /// The model whose turns are not imitated.
    pub student: LmPolicy,
}

/// The state that a [`DaggerPolicy`] keeps for an episode.
#[derive(Debug)]
pub struct DaggerEpisode {
    expert: ExpertAdvice,
    student: LmEpisode,
    rng: StdRng,
    author: TurnAuthor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TurnAuthor {
    Expert,
    Student,
}

impl Policy for DaggerPolicy {
    type EpisodeState = DaggerEpisode;

    fn name(&self) -> String {
        format!("{NAME_BEFORE_STUDENT}{}", self.student.name())
    }

    fn begin(&self, seed: u64) -> DaggerEpisode {
        let mut rng = StdRng::seed_from_u64(mixed_seed(seed, AUTHOR_STREAM, 0));
        let author = if rng.random_bool(STUDENT_BEGINS) {
            TurnAuthor::Student
        } else {
            TurnAuthor::Expert
        };
        DaggerEpisode {
            expert: ExpertAdvice::new(seed),
            student: self.student.begin(seed),
            rng,
            author,
        }
    }

    fn respond(
        &self,
        requests: &mut [TurnRequest<'_, DaggerEpisode>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        for request in requests.iter_mut() {
            request.episode.read(request.observation);
        }
        let mut of_student: Vec<TurnRequest<'_, LmEpisode>> = requests
            .iter_mut()
            .filter(|request| request.episode.author == TurnAuthor::Student)
            .map(|request| TurnRequest {
                episode: &mut request.episode.student,
                observation: request.observation,
            })
            .collect();
        let mut responses = self.student.respond(&mut of_student, protocol).into_iter();
        requests
            .iter_mut()
            .map(|request| match request.episode.author {
                TurnAuthor::Expert => self.expert_turn(request.episode, request.observation),
                TurnAuthor::Student => request.episode.student_turn(
                    responses
                        .next()
                        .expect("a policy responds to every request"),
                ),
            })
            .collect()
    }
}

impl DaggerPolicy {
    /// Returns the command of the expert, and adds the turn to the context of the student.
    fn expert_turn(&self, episode: &mut DaggerEpisode, observation: &str) -> TurnResponse {
        let intended = episode.expert.intended();
        let text = intended
            .expect("the expert has read the observation")
            .to_string();
        episode.expert.continue_after(Some(&text));
        let turn = Turn {
            observation: observation.into(),
            completion: text.clone(),
            action: Some(text.clone()),
            ..Turn::default()
        };
        self.student
            .replay(&mut episode.student, &turn)
            .map_or_else(TurnResponse::Failed, |()| text_response(text))
    }
}

impl DaggerEpisode {
    /// Lets the expert read the observation, and decides who writes this turn. Does nothing if the
    /// turn was decided before, which is the case while the student is still writing it.
    fn read(&mut self, observation: &str) {
        if self.expert.intended().is_some() {
            return;
        }
        self.expert.read(observation);
        if self.rng.random_bool(AUTHOR_CHANGES) {
            self.author = match self.author {
                TurnAuthor::Expert => TurnAuthor::Student,
                TurnAuthor::Student => TurnAuthor::Expert,
            };
        }
    }

    /// If the student has written its turn, reports the action to the expert, and marks the turn as
    /// perturbed if the expert would have acted differently. Token ids are left out, because the
    /// turns of the expert have none.
    fn student_turn(&mut self, response: TurnResponse) -> TurnResponse {
        let TurnResponse::Completion(completion) = response else {
            return response;
        };
        let command = parse_command(&completion.text).filter(|_| completion.ended);
        let perturbed = !self.expert.continue_after(command);
        let Completion {
            text,
            ended,
            written,
            written_tokens,
            ..
        } = completion;
        TurnResponse::Completion(Completion {
            text,
            ended,
            perturbed,
            written,
            written_tokens,
            ..Completion::default()
        })
    }
}
