//! The rollout loop: plays many episodes at the same time, for every command that plays.
//!
//! Environments run on a pool of worker threads, and the policy responds to all episodes that are
//! ready, so a slow environment delays no other episode. The result of an episode depends only on
//! its game, its forced turns, its seed and the protocol. It does not depend on the other episodes.
//!
//! If an episode is searched ([`search`]), several of its states are played at the same time, each
//! in a copy of the environment. Only the path that the search returns is logged, as an ordinary
//! episode. The other states appear only in `spent` and in the candidates of its turns.

mod judge;
pub mod search;
mod shape;
mod state;
mod tree;
mod worker;

pub use judge::NO_LOOK_AHEAD;

use crate::policy::{Completion, Policy, TurnRequest, TurnResponse};
use crate::text::chat;
use crossbeam::channel::{Receiver, Sender, unbounded};
use scenarios::{Outcome, Protocol, Spent, Status, Task, Trajectory, Turn, World};
use shape::EpisodeShape;
use state::{AfterState, RolloutState, StateEnd};
use std::sync::Arc;
use std::time::Instant;
use worker::{RolloutReply, StateIndex, WorkerTask, run_worker};

/// An episode to play.
#[derive(Debug, Clone)]
pub struct EpisodeJob<'a> {
    /// The game.
    pub task: &'a Task,
    /// Index among the repetitions of this game, from 0.
    pub repetition: usize,
    /// Seed of everything random in the episode.
    pub seed: u64,
    /// The turns at the beginning that were played before, in order; usually none. Their commands
    /// are performed again, and the policy continues after them. If the environment does not repeat
    /// its observations, the episode is lost.
    pub forced: &'a [Turn],
}

/// How many episodes are played at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Concurrency {
    /// Number of threads that run environments.
    pub workers: usize,
    /// Number of episodes.
    pub episodes: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            workers: cores,
            episodes: 32 * cores,
        }
    }
}

/// Plays every job and passes each finished trajectory to `record`, in the order in which they end.
///
/// If the world has a limited capacity, no more episodes are played at the same time, each with a
/// thread of its own, so that none waits for the environment of another.
///
/// # Errors
/// Returns the first error of `record`. The episodes that are being played are then dropped.
pub fn play_episodes<P: Policy, E>(
    policy: &P,
    world: &dyn World,
    jobs: &[EpisodeJob<'_>],
    protocol: &Protocol,
    pool: Concurrency,
    mut record: impl FnMut(Trajectory) -> Result<(), E>,
) -> Result<(), E> {
    let pool = match world.capacity() {
        Some(most) => Concurrency {
            workers: pool.episodes.min(most),
            episodes: pool.episodes.min(most),
        },
        None => pool,
    };
    let (task_sender, task_receiver) = unbounded::<WorkerTask<'_>>();
    let (reply_sender, reply_receiver) = unbounded::<RolloutReply>();
    std::thread::scope(|scope| {
        for _ in 0..pool.workers.max(1) {
            let tasks = task_receiver.clone();
            let replies = reply_sender.clone();
            scope.spawn(move || run_worker(world, &tasks, &replies, protocol.admissible_shown));
        }
        drop(task_receiver);
        drop(reply_sender);
        let mut rollout = Rollout {
            policy,
            protocol,
            tasks: task_sender,
            pending: 0,
            running: Vec::new(),
            jobs: jobs.iter(),
            record: &mut record,
        };
        rollout.run(pool.episodes.max(1), &reply_receiver)
    })
}

/// An episode that is being played.
struct RunningEpisode<'a, S> {
    job: &'a EpisodeJob<'a>,
    shape: EpisodeShape<S>,
    started: Instant,
    spent: Spent,
}

/// The state of [`play_episodes`].
struct Rollout<'a, 'r, P: Policy, R> {
    policy: &'a P,
    protocol: &'a Protocol,
    tasks: Sender<WorkerTask<'a>>,
    /// Number of tasks without a reply.
    pending: usize,
    /// The episodes that are being played, by slot.
    running: Vec<Option<RunningEpisode<'a, P::EpisodeState>>>,
    jobs: std::slice::Iter<'a, EpisodeJob<'a>>,
    record: &'r mut R,
}

impl<'a, P: Policy, E, R: FnMut(Trajectory) -> Result<(), E>> Rollout<'a, '_, P, R> {
    /// Plays all jobs in `slots` slots. Each state goes through the same steps until its episode
    /// ends: [`Self::receive`] a reply of the environment, [`Self::ask`] the policy, [`Self::act`]
    /// by its completion, and at last [`Self::end_state`].
    fn run(&mut self, slots: usize, replies: &Receiver<RolloutReply>) -> Result<(), E> {
        self.running.resize_with(slots, || None);
        for slot in 0..slots {
            self.open_next(slot);
        }
        let mut ready = Vec::new();
        let mut is_idle = true;
        while self.running.iter().any(Option::is_some) {
            if is_idle && self.pending > 0 {
                let reply = replies.recv().expect("the workers outlive the loop");
                self.receive(reply, &mut ready)?;
            }
            while let Ok(reply) = replies.try_recv() {
                self.receive(reply, &mut ready)?;
            }
            let asked = ready.len();
            (ready, is_idle) = self.ask(ready)?;
            if is_idle && self.pending == 0 && ready.len() == asked {
                self.make_room();
            }
        }
        Ok(())
    }

    /// Begins the next job in a slot. If there is none, the slot stays empty.
    fn open_next(&mut self, slot: usize) {
        self.running[slot] = self.jobs.next().map(|job| {
            self.send(WorkerTask::Open {
                target: StateIndex { slot, state: 0 },
                task: job.task,
            });
            let root = RolloutState::new(self.policy.begin(job.seed));
            RunningEpisode {
                job,
                shape: EpisodeShape::new(self.protocol, job.forced.len(), root),
                started: Instant::now(),
                spent: Spent::default(),
            }
        });
    }

    fn send(&mut self, task: WorkerTask<'a>) {
        self.pending += 1;
        self.tasks.send(task).expect("the workers outlive the loop");
    }

    fn episode(&mut self, slot: usize) -> &mut RunningEpisode<'a, P::EpisodeState> {
        self.running[slot]
            .as_mut()
            .expect("the episode is being played")
    }

    fn state(&mut self, at: StateIndex) -> &mut RolloutState<P::EpisodeState> {
        self.episode(at.slot).shape.state(at.state)
    }

    /// Takes the reply of an environment. The state ends, or becomes ready for the policy.
    fn receive(&mut self, reply: RolloutReply, ready: &mut Vec<StateIndex>) -> Result<(), E> {
        self.pending -= 1;
        let at = reply.target;
        let forced = self.episode(at.slot).job.forced.len();
        let state = self.state(at);
        let reply = match reply.result {
            Ok(reply) => reply,
            Err(error) => {
                state.observation.clear();
                return self.end_state(at, StateEnd::failed(error.to_string()), ready);
            }
        };
        state.environment = Some(reply.environment);
        state.observation = reply.observation.text;
        state.hash = reply.hash;
        let turn = state.turns.len();
        let outcome = match reply.observation.status {
            Status::Playing => None,
            Status::Won => Some(Outcome::Success),
            Status::Lost => Some(Outcome::Failure),
        };
        if let Some(outcome) = outcome {
            let end = if turn < forced {
                StateEnd::failed(format!(
                    "the game was over before turn {turn}, which was played before"
                ))
            } else {
                outcome.into()
            };
            return self.end_state(at, end, ready);
        }
        if let Some(commands) = reply.admissible {
            state.observation.push_str(chat::ADMISSIBLE_COMMANDS);
            state.observation.push_str(&commands.join(", "));
        }
        self.continue_from(at, ready)
    }

    /// Continues after an observation: the turn limit is reached, a forced turn is played again, or
    /// the state is ready for the policy. In a search, the policy evaluates the observation at the
    /// turn limit too.
    fn continue_from(&mut self, at: StateIndex, ready: &mut Vec<StateIndex>) -> Result<(), E> {
        let policy = self.policy;
        let limit = self.protocol.turn_limit;
        let episode = self.episode(at.slot);
        let forced = episode.job.forced;
        let is_searched = episode.shape.is_searched();
        let state = self.state(at);
        let number = state.turns.len();
        if number >= limit && !is_searched {
            return self.end_state(at, Outcome::TurnLimit.into(), ready);
        }
        let Some(turn) = forced.get(number).filter(|_| number < limit) else {
            ready.push(at);
            return Ok(());
        };
        let repeated = state.repeated_turn(turn).and_then(|repeated| {
            policy.replay(&mut state.episode, turn)?;
            Ok(repeated)
        });
        match repeated {
            Ok(turn) => self.act(at, turn, ready),
            Err(reason) => self.end_state(at, StateEnd::failed(reason), ready),
        }
    }

    /// Lets the policy respond to the ready states. Returns the states that are ready again without
    /// a reply of their environment, and whether no state made progress.
    fn ask(&mut self, mut ready: Vec<StateIndex>) -> Result<(Vec<StateIndex>, bool), E> {
        ready.sort_unstable();
        let mut requests: Vec<TurnRequest<'_, P::EpisodeState>> = Vec::with_capacity(ready.len());
        for (slot, episode) in self.running.iter_mut().enumerate() {
            let states = episode
                .iter_mut()
                .flat_map(|episode| episode.shape.states());
            for (state, found) in states {
                if ready.binary_search(&StateIndex { slot, state }).is_ok() {
                    requests.push(TurnRequest {
                        episode: &mut found.episode,
                        observation: &found.observation,
                    });
                }
            }
        }
        let responses = self.policy.respond(&mut requests, self.protocol);
        assert_eq!(
            responses.len(),
            ready.len(),
            "a policy responds to every request"
        );
        let mut again = Vec::new();
        let mut is_idle = true;
        for (at, response) in ready.into_iter().zip(responses) {
            if response == TurnResponse::Waiting {
                again.push(at);
                continue;
            }
            let before = again.len();
            self.apply(at, response, &mut again)?;
            is_idle &= again.len() == before;
        }
        Ok((again, is_idle))
    }

    fn apply(
        &mut self,
        at: StateIndex,
        response: TurnResponse,
        again: &mut Vec<StateIndex>,
    ) -> Result<(), E> {
        match response {
            TurnResponse::Completion(completion) => self.play(at, completion, again),
            TurnResponse::Offers(offers) => {
                let policy = self.policy;
                let format = self.protocol.action_format;
                let episode = self.episode(at.slot);
                let state = episode.shape.state(at.state);
                match judge::look_ahead(state, &offers, format) {
                    Ok(found) => {
                        let completion = policy.take(&mut state.episode, &found.scores);
                        episode.spent.commands += found.commands;
                        self.play(at, completion, again)
                    }
                    Err(reason) => self.end_state(at, StateEnd::failed(reason), again),
                }
            }
            TurnResponse::StateValue(value) => {
                let tree = self.episode(at.slot).shape.tree();
                let after = tree
                    .expect("a policy returns values only in a search")
                    .evaluate(at.state, value);
                self.follow(at.slot, after, again)
            }
            TurnResponse::Candidates(candidates) => self.expand(at, candidates, again),
            TurnResponse::ContextFull => self.end_state(at, Outcome::ContextLimit.into(), again),
            TurnResponse::GaveUp => self.end_state(at, Outcome::Failure.into(), again),
            TurnResponse::Failed(reason) => self.end_state(at, StateEnd::failed(reason), again),
            TurnResponse::InProgress | TurnResponse::Waiting => {
                again.push(at);
                Ok(())
            }
        }
    }

    /// Plays a completion. If the episode is searched, it is lost, because a search needs
    /// candidates.
    fn play(
        &mut self,
        at: StateIndex,
        completion: Completion,
        again: &mut Vec<StateIndex>,
    ) -> Result<(), E> {
        let policy = self.policy;
        let episode = self.episode(at.slot);
        if episode.shape.is_searched() {
            let name = policy.name();
            let reason = format!("{name} cannot search: it has no value network");
            return self.end_state(at, StateEnd::failed(reason), again);
        }
        episode.spent.completions += completion.written;
        episode.spent.tokens += completion.written_tokens;
        let format = self.protocol.action_format;
        let turn = self.state(at).turn(completion, format);
        self.act(at, turn, again)
    }

    /// Records a turn and sends its command to the environment. If it has none, the policy gets a
    /// fixed observation, and the environment is not involved.
    fn act(&mut self, at: StateIndex, turn: Turn, again: &mut Vec<StateIndex>) -> Result<(), E> {
        let state = self.state(at);
        let action = turn.action.clone();
        state.turns.push(Arc::new(turn));
        let Some(command) = action else {
            state.observation = chat::MALFORMED_ANSWER.into();
            return self.continue_from(at, again);
        };
        state.observation.clear();
        let environment = state
            .environment
            .take()
            .expect("the environment has replied before the policy responds");
        self.episode(at.slot).spent.commands += 1;
        self.send(WorkerTask::Step {
            target: at,
            environment,
            command,
        });
        Ok(())
    }

    /// In a search: plays each distinct command of the candidates of a state in a copy of the
    /// environment.
    fn expand(
        &mut self,
        at: StateIndex,
        candidates: Vec<Completion>,
        again: &mut Vec<StateIndex>,
    ) -> Result<(), E> {
        let (policy, format) = (self.policy, self.protocol.action_format);
        let lookahead = policy
            .lookahead()
            .expect("a policy that returns candidates has a lookahead");
        let episode = self.episode(at.slot);
        for completion in &candidates {
            episode.spent.completions += completion.written;
            episode.spent.tokens += completion.written_tokens;
        }
        let tree = episode.shape.tree();
        let children = tree
            .expect("a policy returns candidates only in a search")
            .expand(at.state, candidates, format, lookahead);
        for (state, completion) in children {
            let at = StateIndex { state, ..at };
            let child = self.state(at);
            if child.environment.is_none() {
                let reason =
                    "the world cannot be copied, and a search tries its candidates in copies";
                self.end_state(at, StateEnd::failed(reason.into()), again)?;
            } else {
                let turn = child.turn(completion, format);
                self.act(at, turn, again)?;
            }
        }
        Ok(())
    }

    /// Takes the end of a state. The episode ends, or a search continues from other states.
    fn end_state(
        &mut self,
        at: StateIndex,
        end: StateEnd,
        again: &mut Vec<StateIndex>,
    ) -> Result<(), E> {
        let after = self.episode(at.slot).shape.end(at.state, end);
        self.follow(at.slot, after, again)
    }

    fn follow(
        &mut self,
        slot: usize,
        after: AfterState<P::EpisodeState>,
        again: &mut Vec<StateIndex>,
    ) -> Result<(), E> {
        match after {
            AfterState::Wait => Ok(()),
            AfterState::Continue { states } => {
                again.extend((0..states).map(|state| StateIndex { slot, state }));
                Ok(())
            }
            AfterState::End(state, end) => self.end_episode(slot, *state, end),
        }
    }

    /// Records an episode and begins the next one in its slot.
    fn end_episode(
        &mut self,
        slot: usize,
        state: RolloutState<P::EpisodeState>,
        end: StateEnd,
    ) -> Result<(), E> {
        let episode = self.running[slot]
            .take()
            .expect("only an episode that is being played ends");
        let job = episode.job;
        let seconds = episode.started.elapsed().as_secs_f64();
        let spent = episode.spent;
        // All environments of the episode are closed before the next game is opened.
        drop(episode);
        drop(state.environment);
        (self.record)(Trajectory {
            format: Trajectory::FORMAT,
            game: job.task.id.clone(),
            game_hash: job.task.hash.clone(),
            split: job.task.split,
            task_type: job.task.task_type,
            repetition: job.repetition,
            seed: job.seed,
            policy: self.policy.name(),
            value_policy: self.policy.value_name(),
            protocol: self.protocol.clone(),
            turns: state.turns.into_iter().map(Arc::unwrap_or_clone).collect(),
            last_observation: state.observation,
            outcome: end.outcome,
            reward: end.outcome.reward(),
            failure: end.failure,
            seconds,
            spent,
            branch: None,
        })?;
        self.open_next(slot);
        Ok(())
    }

    /// Lets the searched episodes release the caches of all states that are not being played. This
    /// is called if every state waits for the cache budget and no environment is going to reply.
    fn make_room(&mut self) {
        let Some(lookahead) = self.policy.lookahead() else {
            return;
        };
        for episode in self.running.iter_mut().flatten() {
            if let Some(tree) = episode.shape.tree() {
                tree.make_room(lookahead);
            }
        }
    }
}
