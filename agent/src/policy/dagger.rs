//! Demonstrations on the student's own ground: a model and the expert take turns at one game, and only what the expert
//! writes is to be imitated.
//!
//! Whoever imitates an expert's own games alone meets, after its first mistake, states that the expert never showed a way
//! out of (Ross, Gordon & Bagnell, DAgger, arXiv 1011.0686). Here it shows one. Differs from the paper: the expert is not
//! asked about every state of the student, but writes some of the turns itself, because a transcript holds one action a
//! turn; who holds the pen changes by chance from turn to turn, so that mistakes come in runs, as they do at play.

use crate::policy::lm::{LmEpisode, LmPolicy};
use crate::policy::{Completion, Policy, TurnRequest, TurnResponse, written};
use crate::text::chat;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::seed::mixed_seed;
use scenarios::{Protocol, Turn, expert::Expert};

/// Chance that the student begins.
const STUDENT_BEGINS: f64 = 0.7;
/// In the place of a turn, which none has: who holds the pen says nothing of what the student draws.
const PEN: u64 = u64::MAX - 1;
/// Chance that the pen changes hands at a turn.
const HANDOVER: f64 = 0.15;

/// A student and the expert, turn about.
pub struct DaggerPolicy {
    /// Who goes perturbed.
    pub student: LmPolicy,
}

/// What [`DaggerPolicy`] keeps of an episode.
#[derive(Debug)]
pub struct DaggerEpisode {
    expert: Expert,
    student: LmEpisode,
    rng: StdRng,
    writer: Writer,
    /// What the expert would write now; `None` until it has read the observation.
    meant: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Expert,
    Student,
}

impl DaggerEpisode {
    /// The expert reads the observation; now and then the pen changes hands.
    fn read(&mut self, observation: &str) {
        if self.meant.is_some() {
            return;
        }
        self.meant = Some(self.expert.act(observation));
        if self.rng.random_bool(HANDOVER) {
            self.writer = match self.writer {
                Writer::Expert => Writer::Student,
                Writer::Student => Writer::Expert,
            };
        }
    }

    /// The expert learns what was written in its place, where it is something else. Ids are left out: half of the turns
    /// have none.
    fn wrote(&mut self, completion: Completion) -> Completion {
        let command = chat::command(&completion.text, completion.ended);
        let perturbed = self.meant.take().as_deref() != command;
        if perturbed {
            self.expert.instead(command.unwrap_or_default());
        }
        let Completion {
            text,
            ended,
            written,
            written_tokens,
            ..
        } = completion;
        Completion {
            text,
            ended,
            perturbed,
            written,
            written_tokens,
            ..Completion::default()
        }
    }
}

impl DaggerPolicy {
    /// The expert's turn, which the student reads along.
    fn expert_writes(&self, seat: &mut DaggerEpisode, observation: &str) -> TurnResponse {
        let text = seat.meant.take().expect("it has read the observation");
        let (observation, completion, action) =
            (observation.into(), text.clone(), Some(text.clone()));
        let turn = Turn {
            observation,
            completion,
            action,
            ..Turn::default()
        };
        self.student
            .replay(&mut seat.student, &turn)
            .map_or_else(TurnResponse::Failed, |()| written(text))
    }
}

impl Policy for DaggerPolicy {
    type EpisodeState = DaggerEpisode;

    fn name(&self) -> String {
        format!("expert guiding {}", self.student.name())
    }

    fn begin(&self, seed: u64) -> DaggerEpisode {
        let mut rng = StdRng::seed_from_u64(mixed_seed(seed, PEN, 0));
        let writer = if rng.random_bool(STUDENT_BEGINS) {
            Writer::Student
        } else {
            Writer::Expert
        };
        DaggerEpisode {
            expert: Expert::new(seed),
            student: self.student.begin(seed),
            rng,
            writer,
            meant: None,
        }
    }

    fn respond(
        &self,
        asked: &mut [TurnRequest<'_, DaggerEpisode>],
        protocol: &Protocol,
    ) -> Vec<TurnResponse> {
        asked
            .iter_mut()
            .for_each(|question| question.seat.read(question.observation));
        let mut of_student: Vec<TurnRequest<'_, LmEpisode>> = (asked.iter_mut())
            .filter(|question| question.seat.writer == Writer::Student)
            .map(|question| TurnRequest {
                seat: &mut question.seat.student,
                observation: question.observation,
            })
            .collect();
        let mut answers = self.student.respond(&mut of_student, protocol).into_iter();
        let answer = |question: &mut TurnRequest<'_, DaggerEpisode>| match question.seat.writer {
            Writer::Expert => self.expert_writes(question.seat, question.observation),
            Writer::Student => match answers.next().expect("a policy answers every question") {
                TurnResponse::Completion(completion) => {
                    TurnResponse::Completion(question.seat.wrote(completion))
                }
                other => other,
            },
        };
        asked.iter_mut().map(answer).collect()
    }
}
