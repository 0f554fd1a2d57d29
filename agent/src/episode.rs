//! The only rollout loop: episodes of many games at once, for every command that plays.
//!
//! Worlds run on a pool of worker threads and the policy answers whoever is ready, so a slow world makes no other
//! episode wait. An episode's result depends on its game, its forced turns, seed and protocol alone, not on who it was
//! played beside.

use crate::chat;
use crate::player::{Answer, Asked, Completion, Policy};
use crossbeam::channel::{Receiver, Sender, unbounded};
use scenarios::{
    Environment, EnvironmentError, Observation, Outcome, Protocol, Spent, Status, Task, Trajectory, Turn, World,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// One episode to play.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The game.
    pub task: &'a Task,
    /// Which of the repetitions of this game, from 0.
    pub repetition: usize,
    /// Seed of everything random in the episode.
    pub seed: u64,
    /// The turns that it begins with, played before, in order: their commands go to the world again, and the policy goes
    /// on from there. Usually none. Where the world does not say again what it said, the episode is lost.
    pub forced: &'a [Turn],
}

/// How many at once.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    /// Threads that run worlds.
    pub workers: usize,
    /// Episodes in flight.
    pub episodes: usize,
}

impl Default for Pool {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { workers: cores, episodes: 32 * cores }
    }
}

/// What worlds are asked to do.
enum Order<'a> {
    Open { slot: usize, task: &'a Task },
    Step { slot: usize, environment: Box<dyn Environment>, command: String },
}

/// What comes back.
struct Reply {
    slot: usize,
    result: Result<(Box<dyn Environment>, Said), EnvironmentError>,
}

struct Said {
    observation: Observation,
    admissible: Option<Vec<String>>,
    state: Option<u64>,
}

/// An episode in flight.
struct Live<'a, S> {
    job: &'a Job<'a>,
    seat: S,
    environment: Option<Box<dyn Environment>>,
    observation: String,
    /// [`Environment::state_hash`] after the world's last text.
    state: Option<u64>,
    turns: Vec<Turn>,
    started: Instant,
    spent: Spent,
}

/// Plays every job and hands each finished trajectory to `record`, in the order in which they end.
///
/// A world of limited capacity has no more episodes in flight than that, and a thread for each, so that none waits for
/// another's world.
///
/// # Errors
/// The first error of `record`; episodes in flight are then given up.
pub fn play_episodes<P: Policy, E>(
    policy: &P,
    world: &dyn World,
    jobs: &[Job<'_>],
    protocol: &Protocol,
    pool: Pool,
    mut record: impl FnMut(Trajectory) -> Result<(), E>,
) -> Result<(), E> {
    let pool = match world.capacity() {
        Some(most) => Pool { workers: pool.episodes.min(most), episodes: pool.episodes.min(most) },
        None => pool,
    };
    let (orders, inbox) = unbounded::<Order<'_>>();
    let (outbox, replies) = unbounded::<Reply>();
    std::thread::scope(|scope| {
        for _ in 0..pool.workers.max(1) {
            let (inbox, outbox) = (inbox.clone(), outbox.clone());
            let shown = protocol.admissible_shown;
            scope.spawn(move || work(world, &inbox, &outbox, shown));
        }
        drop((inbox, outbox));
        let mut loop_ = Rollout {
            policy,
            protocol,
            orders,
            ordered: 0,
            live: Vec::new(),
            waiting: jobs.iter(),
            record: &mut record,
        };
        loop_.run(pool.episodes.max(1), &replies)
    })
}

/// A worker: opens games and performs commands until nobody orders any more. A world that panics loses its episode, not
/// the others.
fn work(world: &dyn World, inbox: &Receiver<Order<'_>>, outbox: &Sender<Reply>, admissible_shown: bool) {
    for order in inbox {
        let (slot, panicked) = order.if_it_panics();
        let result =
            catch_unwind(AssertUnwindSafe(|| perform(world, order, admissible_shown))).unwrap_or(Err(panicked));
        if outbox.send(Reply { slot, result }).is_err() {
            return;
        }
    }
}

fn perform(
    world: &dyn World,
    order: Order<'_>,
    admissible_shown: bool,
) -> Result<(Box<dyn Environment>, Said), EnvironmentError> {
    let (mut environment, observation) = match order {
        Order::Open { task, .. } => {
            let mut environment = world.open(task)?;
            let observation = environment.reset()?;
            (environment, observation)
        }
        Order::Step { mut environment, command, .. } => {
            let observation = environment.step(&command)?;
            (environment, observation)
        }
    };
    let admissible = if admissible_shown { Some(environment.admissible_commands()?) } else { None };
    let state = environment.state_hash();
    Ok((environment, Said { observation, admissible, state }))
}

impl Order<'_> {
    fn if_it_panics(&self) -> (usize, EnvironmentError) {
        let reason = "it panicked".to_string();
        match self {
            Self::Open { slot, task } => (*slot, EnvironmentError::Load { path: task.path.clone(), reason }),
            Self::Step { slot, command, .. } => (*slot, EnvironmentError::Step { command: command.clone(), reason }),
        }
    }
}

/// The state of [`play_episodes`].
struct Rollout<'a, 'r, P: Policy, R> {
    policy: &'a P,
    protocol: &'a Protocol,
    orders: Sender<Order<'a>>,
    /// Orders that no world has answered yet.
    ordered: usize,
    live: Vec<Option<Live<'a, P::Seat>>>,
    waiting: std::slice::Iter<'a, Job<'a>>,
    record: &'r mut R,
}

impl<'a, P: Policy, E, R: FnMut(Trajectory) -> Result<(), E>> Rollout<'a, '_, P, R> {
    fn run(&mut self, slots: usize, replies: &Receiver<Reply>) -> Result<(), E> {
        self.live.resize_with(slots, || None);
        for slot in 0..slots {
            self.open_next(slot);
        }
        let mut ready = Vec::new();
        let mut is_idle = true;
        while self.live.iter().any(Option::is_some) {
            if is_idle && self.ordered > 0 {
                let reply = replies.recv().expect("workers live as long as orders can come");
                self.receive(reply, &mut ready)?;
            }
            while let Ok(reply) = replies.try_recv() {
                self.receive(reply, &mut ready)?;
            }
            (ready, is_idle) = self.ask(std::mem::take(&mut ready))?;
        }
        Ok(())
    }

    fn open_next(&mut self, slot: usize) {
        self.live[slot] = self.waiting.next().map(|job| {
            self.order(Order::Open { slot, task: job.task });
            let (seat, started) = (self.policy.sit(job.seed), Instant::now());
            Live {
                job,
                seat,
                environment: None,
                observation: String::new(),
                state: None,
                turns: Vec::new(),
                started,
                spent: Spent::default(),
            }
        });
    }

    fn order(&mut self, order: Order<'a>) {
        self.ordered += 1;
        self.orders.send(order).expect("workers live as long as orders can come");
    }

    /// Takes in what a world said; the episode ends or becomes ready.
    fn receive(&mut self, reply: Reply, ready: &mut Vec<usize>) -> Result<(), E> {
        self.ordered -= 1;
        let slot = reply.slot;
        let live = self.live[slot].as_mut().expect("a reply belongs to a live episode");
        match reply.result {
            Err(error) => {
                live.observation.clear();
                return self.end(slot, Outcome::EnvFailed, Some(error.to_string()));
            }
            Ok((environment, said)) => {
                live.environment = Some(environment);
                live.observation = said.observation.text;
                live.state = said.state;
                if said.observation.status != Status::Playing && live.turns.len() < live.job.forced.len() {
                    let turn = live.turns.len();
                    return self.end(
                        slot,
                        Outcome::EnvFailed,
                        Some(format!("the game was over before turn {turn}, which was played before")),
                    );
                }
                match said.observation.status {
                    Status::Won => return self.end(slot, Outcome::Success, None),
                    Status::Lost => return self.end(slot, Outcome::Failure, None),
                    Status::Playing => {}
                }
                if let Some(commands) = said.admissible {
                    live.observation.push_str("\nAdmissible commands: ");
                    live.observation.push_str(&commands.join(", "));
                }
            }
        }
        self.go_on(slot, ready)
    }

    /// After an observation: the episode is out of turns, plays a forced turn again, or is ready for the policy.
    fn go_on(&mut self, slot: usize, ready: &mut Vec<usize>) -> Result<(), E> {
        let live = self.live[slot].as_mut().expect("asked about a live episode");
        if live.turns.len() >= self.protocol.turn_limit {
            return self.end(slot, Outcome::TurnLimit, None);
        }
        let Some(turn) = live.job.forced.get(live.turns.len()) else {
            ready.push(slot);
            return Ok(());
        };
        let replayed = same_again(live.turns.len(), turn, &live.observation)
            .and_then(|()| self.policy.replay(&mut live.seat, turn));
        match replayed {
            Ok(()) => self.act(slot, Turn { process_score: None, ..turn.clone() }, ready),
            Err(reason) => self.end(slot, Outcome::EnvFailed, Some(reason)),
        }
    }

    /// Lets the policy answer the ready episodes; returns those that are ready again without their world, and whether
    /// none of them could go on at once.
    fn ask(&mut self, mut slots: Vec<usize>) -> Result<(Vec<usize>, bool), E> {
        slots.sort_unstable();
        let mut asked: Vec<Asked<'_, P::Seat>> = (self.live.iter_mut().enumerate())
            .filter(|(slot, _)| slots.binary_search(slot).is_ok())
            .filter_map(|(_, live)| live.as_mut())
            .map(|live| Asked { seat: &mut live.seat, observation: &live.observation })
            .collect();
        let answers = self.policy.answer(&mut asked, self.protocol);
        assert_eq!(answers.len(), slots.len(), "a policy answers every question");
        let mut again = Vec::new();
        let mut is_idle = true;
        for (slot, answer) in slots.into_iter().zip(answers) {
            match answer {
                Answer::ContextFull => self.end(slot, Outcome::ContextLimit, None)?,
                Answer::GaveUp => self.end(slot, Outcome::Failure, None)?,
                Answer::Failed(reason) => self.end(slot, Outcome::EnvFailed, Some(reason))?,
                Answer::Completion(completion) => {
                    let waiting = again.len();
                    self.write(slot, completion, &mut again)?;
                    is_idle &= again.len() == waiting;
                }
                Answer::Writing => {
                    again.push(slot);
                    is_idle = false;
                }
                Answer::Waiting => again.push(slot),
            }
        }
        Ok((again, is_idle))
    }

    fn write(&mut self, slot: usize, completion: Completion, again: &mut Vec<usize>) -> Result<(), E> {
        let command = if completion.ended { chat::parse_command(&completion.text) } else { None };
        let turn = Turn {
            observation: String::new(), // `act` fills in what the world said
            observation_tokens: completion.observation_tokens,
            action: command.map(str::to_string),
            completion: completion.text,
            astray: completion.astray,
            completion_tokens: completion.tokens,
            logprobs: completion.logprobs,
            sampling_logprobs: completion.sampling_logprobs,
            value: completion.value,
            after_value: completion.after_value,
            candidates: completion.candidates,
            state: None,
            process_score: None,
            log_ratio: completion.log_ratio,
        };
        let live = self.live[slot].as_mut().expect("an answer belongs to a live episode");
        live.spent.completions += completion.written;
        live.spent.tokens += completion.written_tokens;
        self.act(slot, turn, again)
    }

    /// Notes a turn and orders its command; without one the episode goes on at once.
    fn act(&mut self, slot: usize, turn: Turn, again: &mut Vec<usize>) -> Result<(), E> {
        let live = self.live[slot].as_mut().expect("an answer belongs to a live episode");
        let observation = std::mem::take(&mut live.observation);
        let action = turn.action.clone();
        live.turns.push(Turn { observation, state: live.state, ..turn });
        if let Some(command) = action {
            live.spent.commands += 1;
            let environment = live.environment.take().expect("the world has answered before the policy did");
            self.order(Order::Step { slot, environment, command });
            return Ok(());
        }
        live.observation = chat::MALFORMED_ANSWER.into();
        self.go_on(slot, again)
    }

    fn end(&mut self, slot: usize, outcome: Outcome, failure: Option<String>) -> Result<(), E> {
        let live = self.live[slot].take().expect("only a live episode ends");
        drop(live.environment); // its place in the world is free before the next game is opened
        let task = live.job.task;
        (self.record)(Trajectory {
            format: Trajectory::FORMAT,
            game: task.id.clone(),
            game_hash: task.hash.clone(),
            split: task.split,
            task_type: task.task_type,
            repetition: live.job.repetition,
            seed: live.job.seed,
            policy: self.policy.name(),
            value_policy: self.policy.value_name(),
            protocol: self.protocol.clone(),
            turns: live.turns,
            last_observation: live.observation,
            outcome,
            reward: outcome.reward(),
            failure,
            seconds: live.started.elapsed().as_secs_f64(),
            spent: live.spent,
        })?;
        self.open_next(slot);
        Ok(())
    }
}

/// Whether the world says again what it said before this turn.
fn same_again(number: usize, turn: &Turn, said: &str) -> Result<(), String> {
    if turn.observation == said {
        return Ok(());
    }
    Err(format!("before turn {number}, played before, the world said {:?}, and now it says {said:?}", turn.observation))
}
