//! The only rollout loop: episodes of many games at once, for every command that plays.
//!
//! Worlds run on a pool of worker threads and the policy answers whoever is ready, so a slow world makes no other
//! episode wait. An episode's result depends on its game, its forced turns, seed and protocol alone, not on who it was
//! played beside.
//!
//! An episode that is searched ([`crate::rollout::search`]) has many states in flight, each in a copy of the world. What is recorded
//! of it is the way that the search ends with, as if nothing else had been tried; only `spent` and the candidates tell.

pub mod search;

use crate::policy::{CandidateText, Completion, Policy, TurnRequest, TurnResponse};
use crate::rollout::search::{Found, Frontier, Next};
use crate::text::chat;
use crossbeam::channel::{Receiver, Sender, unbounded};
use scenarios::{
    Candidate, Environment, EnvironmentError, Observation, Outcome, Protocol, Spent, Status, Task,
    Trajectory, Turn, World,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// One episode to play.
#[derive(Debug, Clone)]
pub struct EpisodeJob<'a> {
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
pub struct Concurrency {
    /// Threads that run worlds.
    pub workers: usize,
    /// Episodes in flight.
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

/// An episode's slot, and which of its states in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    slot: usize,
    node: usize,
}

/// What worlds are asked to do.
enum Order<'a> {
    Open {
        place: Place,
        task: &'a Task,
    },
    Step {
        place: Place,
        environment: Box<dyn Environment>,
        command: String,
    },
}

/// What comes back.
struct Reply {
    place: Place,
    result: Result<(Box<dyn Environment>, Said), EnvironmentError>,
}

struct Said {
    observation: Observation,
    admissible: Option<Vec<String>>,
    state: Option<u64>,
}

/// An episode in flight.
struct Live<'a, S> {
    job: &'a EpisodeJob<'a>,
    /// One; in a search those that it goes on from, and behind them what they have led to, until that is judged.
    nodes: Vec<Option<Node<S>>>,
    search: Option<Searching<S>>,
    started: Instant,
    spent: Spent,
}

/// A state of the game, and the way to it.
struct Node<S> {
    seat: S,
    environment: Option<Box<dyn Environment>>,
    observation: String,
    /// [`Environment::state_hash`] after the world's last text.
    state: Option<u64>,
    turns: Vec<Arc<Turn>>,
    /// In a search: which node it came from, by which of its candidates, and how many of the K said the same.
    origin: (usize, usize),
    count: usize,
}

/// What only an episode that is searched keeps.
struct Searching<S> {
    frontier: Frontier<Node<S>>,
    /// What the nodes that it goes on from have led to.
    judged: Vec<(Node<S>, Verdict)>,
}

/// What became of a state that a search was led to.
struct Verdict {
    /// V, reward units; `None` where nobody looked.
    score: Option<f32>,
    end: Option<Outcome>,
    failure: Option<String>,
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
fn work(
    world: &dyn World,
    inbox: &Receiver<Order<'_>>,
    outbox: &Sender<Reply>,
    admissible_shown: bool,
) {
    for order in inbox {
        let (place, panicked) = order.if_it_panics();
        let result = catch_unwind(AssertUnwindSafe(|| perform(world, order, admissible_shown)))
            .unwrap_or(Err(panicked));
        if outbox.send(Reply { place, result }).is_err() {
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
        Order::Step {
            mut environment,
            command,
            ..
        } => {
            let observation = environment.step(&command)?;
            (environment, observation)
        }
    };
    let admissible = if admissible_shown {
        Some(environment.admissible_commands()?)
    } else {
        None
    };
    let state = environment.state_hash();
    Ok((
        environment,
        Said {
            observation,
            admissible,
            state,
        },
    ))
}

impl Order<'_> {
    fn if_it_panics(&self) -> (Place, EnvironmentError) {
        let reason = "it panicked".to_string();
        match self {
            Self::Open { place, task } => (
                *place,
                EnvironmentError::Load {
                    path: task.path.clone(),
                    reason,
                },
            ),
            Self::Step { place, command, .. } => (
                *place,
                EnvironmentError::Step {
                    command: command.clone(),
                    reason,
                },
            ),
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
    live: Vec<Option<Live<'a, P::EpisodeState>>>,
    waiting: std::slice::Iter<'a, EpisodeJob<'a>>,
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
                let reply = replies
                    .recv()
                    .expect("workers live as long as orders can come");
                self.receive(reply, &mut ready)?;
            }
            while let Ok(reply) = replies.try_recv() {
                self.receive(reply, &mut ready)?;
            }
            let asked = ready.len();
            (ready, is_idle) = self.ask(std::mem::take(&mut ready))?;
            if is_idle && self.ordered == 0 && ready.len() == asked {
                self.make_room();
            }
        }
        Ok(())
    }

    fn open_next(&mut self, slot: usize) {
        self.live[slot] = self.waiting.next().map(|job| {
            self.order(Order::Open {
                place: Place { slot, node: 0 },
                task: job.task,
            });
            let (seat, started) = (self.policy.begin(job.seed), Instant::now());
            let root = Node {
                seat,
                environment: None,
                observation: String::new(),
                state: None,
                turns: Vec::new(),
                origin: (0, 0),
                count: 1,
            };
            let frontier = |search| Frontier::new(search, self.protocol.best_of);
            let search = self.protocol.search.map(|s| Searching {
                frontier: frontier(s),
                judged: Vec::new(),
            });
            Live {
                job,
                nodes: vec![Some(root)],
                search,
                started,
                spent: Spent::default(),
            }
        });
    }

    fn order(&mut self, order: Order<'a>) {
        self.ordered += 1;
        self.orders
            .send(order)
            .expect("workers live as long as orders can come");
    }

    fn live(&mut self, slot: usize) -> &mut Live<'a, P::EpisodeState> {
        self.live[slot].as_mut().expect("the episode is in flight")
    }

    fn node(&mut self, place: Place) -> &mut Node<P::EpisodeState> {
        self.live(place.slot).nodes[place.node]
            .as_mut()
            .expect("the state is in flight")
    }

    /// Takes in what a world said; the episode ends or becomes ready.
    fn receive(&mut self, reply: Reply, ready: &mut Vec<Place>) -> Result<(), E> {
        self.ordered -= 1;
        let place = reply.place;
        let forced = self.live(place.slot).job.forced.len();
        let node = self.node(place);
        match reply.result {
            Err(error) => {
                node.observation.clear();
                return self.conclude(place, Outcome::EnvFailed, Some(error.to_string()), ready);
            }
            Ok((environment, said)) => {
                node.environment = Some(environment);
                node.observation = said.observation.text;
                node.state = said.state;
                let turn = node.turns.len();
                if said.observation.status != Status::Playing && turn < forced {
                    let reason =
                        format!("the game was over before turn {turn}, which was played before");
                    return self.conclude(place, Outcome::EnvFailed, Some(reason), ready);
                }
                match said.observation.status {
                    Status::Won => return self.conclude(place, Outcome::Success, None, ready),
                    Status::Lost => return self.conclude(place, Outcome::Failure, None, ready),
                    Status::Playing => {}
                }
                if let Some(commands) = said.admissible {
                    node.observation.push_str("\nAdmissible commands: ");
                    node.observation.push_str(&commands.join(", "));
                }
            }
        }
        self.go_on(place, ready)
    }

    /// After an observation: the episode is out of turns, plays a forced turn again, or is ready for the policy, which in
    /// a search looks at the last observation too.
    fn go_on(&mut self, place: Place, ready: &mut Vec<Place>) -> Result<(), E> {
        let (policy, limit) = (self.policy, self.protocol.turn_limit);
        let live = self.live(place.slot);
        let (forced, searches) = (live.job.forced, live.search.is_some());
        let node = self.node(place);
        let number = node.turns.len();
        if number >= limit && !searches {
            return self.conclude(place, Outcome::TurnLimit, None, ready);
        }
        let Some(turn) = forced.get(number).filter(|_| number < limit) else {
            ready.push(place);
            return Ok(());
        };
        let replayed = same_again(number, turn, &node.observation)
            .and_then(|()| policy.replay(&mut node.seat, turn));
        match replayed {
            Ok(()) => self.act(
                place,
                Turn {
                    process_score: None,
                    ..turn.clone()
                },
                ready,
            ),
            Err(reason) => self.conclude(place, Outcome::EnvFailed, Some(reason), ready),
        }
    }

    /// Lets the policy answer the ready episodes; returns those that are ready again without their world, and whether
    /// none of them could go on at once.
    fn ask(&mut self, mut places: Vec<Place>) -> Result<(Vec<Place>, bool), E> {
        places.sort_unstable();
        let mut asked: Vec<TurnRequest<'_, P::EpisodeState>> = nodes(&mut self.live)
            .filter(|(place, _)| places.binary_search(place).is_ok())
            .map(|(_, node)| TurnRequest {
                seat: &mut node.seat,
                observation: &node.observation,
            })
            .collect();
        let answers = self.policy.respond(&mut asked, self.protocol);
        assert_eq!(
            answers.len(),
            places.len(),
            "a policy answers every question"
        );
        let mut again = Vec::new();
        let mut is_idle = true;
        for (place, answer) in places.into_iter().zip(answers) {
            let waiting = again.len();
            match self.decided(place, answer) {
                TurnResponse::ContextFull => {
                    self.conclude(place, Outcome::ContextLimit, None, &mut again)?
                }
                TurnResponse::GaveUp => self.conclude(place, Outcome::Failure, None, &mut again)?,
                TurnResponse::Failed(reason) => {
                    self.conclude(place, Outcome::EnvFailed, Some(reason), &mut again)?
                }
                TurnResponse::Completion(completion) => {
                    self.write(place, completion, &mut again)?
                }
                TurnResponse::Seen(value) => self.see(place, value, &mut again)?,
                TurnResponse::Candidates(candidates) => {
                    self.branch(place, candidates, &mut again)?
                }
                TurnResponse::Offers(_) => unreachable!("a copy of the world has been asked"),
                TurnResponse::Writing => again.push(place),
                TurnResponse::Waiting => {
                    again.push(place);
                    continue;
                }
            }
            is_idle &= again.len() == waiting;
        }
        Ok((again, is_idle))
    }

    /// All who were asked wait for room, and no world is to answer: what else a search holds gives it up.
    fn make_room(&mut self) {
        let Some(lookahead) = self.policy.lookahead() else {
            return;
        };
        for search in self
            .live
            .iter_mut()
            .flatten()
            .filter_map(|live| live.search.as_mut())
        {
            let judged = search.judged.iter_mut().map(|(node, _)| node);
            search
                .frontier
                .waiting()
                .chain(judged)
                .for_each(|node| lookahead.make_room(&mut node.seat));
        }
    }

    /// The answer, after a copy of the world has told what each offer leads to.
    fn decided(&mut self, place: Place, answer: TurnResponse) -> TurnResponse {
        let TurnResponse::Offers(offers) = answer else {
            return answer;
        };
        let policy = self.policy;
        let live = self.live(place.slot);
        let node = live.nodes[place.node]
            .as_mut()
            .expect("an answer belongs to a live episode");
        match look_ahead(node, &offers) {
            Ok((scores, commands)) => {
                live.spent.commands += commands;
                TurnResponse::Completion(policy.take(&mut node.seat, &scores))
            }
            Err(reason) => TurnResponse::Failed(reason),
        }
    }

    fn write(
        &mut self,
        place: Place,
        completion: Completion,
        again: &mut Vec<Place>,
    ) -> Result<(), E> {
        let name = self.policy.name();
        let live = self.live(place.slot);
        if live.search.is_some() {
            let reason = format!("{name} cannot search: it has no value network");
            return self.conclude(place, Outcome::EnvFailed, Some(reason), again);
        }
        live.spent.completions += completion.written;
        live.spent.tokens += completion.written_tokens;
        self.act(place, turn_of(completion), again)
    }

    /// Notes a turn and orders its command; without one the episode goes on at once.
    fn act(&mut self, place: Place, turn: Turn, again: &mut Vec<Place>) -> Result<(), E> {
        let node = self.node(place);
        let observation = std::mem::take(&mut node.observation);
        let action = turn.action.clone();
        node.turns.push(Arc::new(Turn {
            observation,
            state: node.state,
            ..turn
        }));
        if let Some(command) = action {
            let environment = node
                .environment
                .take()
                .expect("the world has answered before the policy did");
            self.live(place.slot).spent.commands += 1;
            self.order(Order::Step {
                place,
                environment,
                command,
            });
            return Ok(());
        }
        node.observation = chat::MALFORMED_ANSWER.into();
        self.go_on(place, again)
    }

    /// Tries each distinct command of a state's candidates in a copy of its world.
    fn branch(
        &mut self,
        place: Place,
        candidates: Vec<Completion>,
        again: &mut Vec<Place>,
    ) -> Result<(), E> {
        let lookahead = self
            .policy
            .lookahead()
            .expect("who writes candidates has lookahead");
        let live = self.live(place.slot);
        let mut parent = live.nodes[place.node]
            .take()
            .expect("the state is in flight");
        let first = live.nodes.len();
        let mut turns: Vec<Turn> = Vec::new();
        for (index, completion) in candidates.into_iter().enumerate() {
            let written = completion.written;
            live.spent.completions += written;
            live.spent.tokens += completion.written_tokens;
            let turn = turn_of(completion);
            if let Some(same) = turns.iter().position(|other| other.action == turn.action) {
                live.nodes[first + same].as_mut().expect("just made").count += written;
                continue;
            }
            turns.push(turn);
            live.nodes.push(Some(Node {
                seat: lookahead.branch(&mut parent.seat, index),
                environment: parent
                    .environment
                    .as_ref()
                    .and_then(|environment| environment.fork()),
                observation: parent.observation.clone(),
                state: parent.state,
                turns: parent.turns.clone(),
                origin: (place.node, index),
                count: written,
            }));
        }
        for (index, turn) in turns.into_iter().enumerate() {
            let place = Place {
                node: first + index,
                ..place
            };
            if self.node(place).environment.is_none() {
                let reason =
                    "the world cannot be copied, and a search tries its candidates in copies"
                        .into();
                self.conclude(place, Outcome::EnvFailed, Some(reason), again)?;
            } else {
                self.act(place, turn, again)?;
            }
        }
        Ok(())
    }

    /// Takes in V of a state that a search was led to.
    fn see(&mut self, place: Place, value: f32, again: &mut Vec<Place>) -> Result<(), E> {
        let is_last = self.node(place).turns.len() >= self.protocol.turn_limit;
        let end = is_last.then_some(Outcome::TurnLimit);
        self.judge(
            place,
            Verdict {
                score: Some(value),
                end,
                failure: None,
            },
            again,
        )
    }

    /// Nobody can go on from a state: its episode ends, or a search goes on from others.
    fn conclude(
        &mut self,
        place: Place,
        outcome: Outcome,
        failure: Option<String>,
        again: &mut Vec<Place>,
    ) -> Result<(), E> {
        let limit = self.protocol.turn_limit;
        let live = self.live(place.slot);
        if live.search.is_none() {
            let node = live.nodes[place.node]
                .take()
                .expect("only a state in flight ends");
            return self.end(place.slot, node, outcome, failure);
        }
        let turns = &self.node(place).turns;
        let verdict = match outcome {
            // V of what does not fit is not known: that of the turn before stands for it.
            Outcome::ContextLimit => {
                let end = if turns.len() >= limit {
                    Outcome::TurnLimit
                } else {
                    outcome
                };
                Verdict {
                    score: turns.last().and_then(|turn| turn.value),
                    end: Some(end),
                    failure,
                }
            }
            _ => Verdict {
                score: None,
                end: Some(outcome),
                failure,
            },
        };
        self.judge(place, verdict, again)
    }

    /// Notes what became of a state; with the last one that was in flight the search goes on or ends. Whatever comes first
    /// from the worlds, it sees all of them in the order of their candidates.
    fn judge(&mut self, place: Place, verdict: Verdict, again: &mut Vec<Place>) -> Result<(), E> {
        let (slot, shows_candidates) = (place.slot, self.protocol.best_of > 1);
        let Live {
            job, nodes, search, ..
        } = self.live(slot);
        let node = nodes[place.node]
            .take()
            .expect("only a state in flight is judged");
        let Searching { frontier, judged } = search.as_mut().expect("only a search judges");
        judged.push((node, verdict));
        if nodes.iter().any(Option::is_some) {
            return Ok(());
        }
        judged.sort_by_key(|(node, _)| node.origin);
        if let Some(lost) = judged
            .iter()
            .position(|(_, verdict)| verdict.end == Some(Outcome::EnvFailed))
        {
            let (node, verdict) = judged.swap_remove(lost);
            return self.end(slot, node, Outcome::EnvFailed, verdict.failure);
        }
        if shows_candidates && judged[0].0.turns.len() > job.forced.len() {
            note_candidates(judged);
        }
        match frontier.next(judged.drain(..).map(found).collect()) {
            Next::GoOn(chosen) => {
                again.extend((0..chosen.len()).map(|node| Place { slot, node }));
                *nodes = chosen.into_iter().map(Some).collect();
                Ok(())
            }
            Next::End(node, outcome) => self.end(slot, node, outcome, None),
        }
    }

    fn end(
        &mut self,
        slot: usize,
        node: Node<P::EpisodeState>,
        outcome: Outcome,
        failure: Option<String>,
    ) -> Result<(), E> {
        let Live {
            job,
            started,
            spent,
            ..
        } = self.live[slot].take().expect("only a live episode ends");
        drop(node.environment); // its place in the world is free before the next game is opened
        let task = job.task;
        (self.record)(Trajectory {
            format: Trajectory::FORMAT,
            game: task.id.clone(),
            game_hash: task.hash.clone(),
            split: task.split,
            task_type: task.task_type,
            repetition: job.repetition,
            seed: job.seed,
            policy: self.policy.name(),
            value_policy: self.policy.value_name(),
            protocol: self.protocol.clone(),
            turns: node.turns.into_iter().map(Arc::unwrap_or_clone).collect(),
            last_observation: node.observation,
            outcome,
            reward: outcome.reward(),
            failure,
            seconds: started.elapsed().as_secs_f64(),
            spent,
        })?;
        self.open_next(slot);
        Ok(())
    }
}

/// All states in flight, by place.
fn nodes<'l, S>(
    live: &'l mut [Option<Live<'_, S>>],
) -> impl Iterator<Item = (Place, &'l mut Node<S>)> {
    let live = live
        .iter_mut()
        .enumerate()
        .filter_map(|(slot, live)| Some((slot, live.as_mut()?)));
    live.flat_map(|(slot, live)| {
        let nodes = live.nodes.iter_mut().enumerate();
        nodes.filter_map(move |(node, state)| Some((Place { slot, node }, state.as_mut()?)))
    })
}

fn turn_of(completion: Completion) -> Turn {
    let command = chat::command(&completion.text, completion.ended);
    Turn {
        observation: String::new(), // `act` fills in what the world said
        observation_tokens: completion.observation_tokens,
        action: command.map(str::to_string),
        completion: completion.text,
        perturbed: completion.perturbed,
        completion_tokens: completion.tokens,
        logprobs: completion.logprobs,
        sampling_logprobs: completion.sampling_logprobs,
        value: completion.value,
        after_value: completion.after_value,
        candidates: completion.candidates,
        state: None,
        process_score: None,
        log_ratio: completion.log_ratio,
    }
}

fn found<S>((node, verdict): (Node<S>, Verdict)) -> Found<Node<S>> {
    let score = verdict.score.unwrap_or(f32::NEG_INFINITY);
    Found {
        turns: node.turns.len(),
        state: node.state,
        score,
        end: verdict.end,
        node,
    }
}

/// Every turn tells what else was tried in its state, and V of where that led; of a game that is over, its reward.
fn note_candidates<S>(judged: &mut [(Node<S>, Verdict)]) {
    for siblings in judged.chunk_by_mut(|(a, _), (b, _)| a.origin.0 == b.origin.0) {
        let candidates: Vec<Candidate> = siblings
            .iter()
            .map(|(node, verdict)| candidate(node, verdict))
            .collect();
        for (node, _) in siblings {
            let turn = node.turns.last_mut().and_then(Arc::get_mut);
            turn.expect("nobody shares the turn that led to it yet")
                .candidates
                .clone_from(&candidates);
        }
    }
}

fn candidate<S>(node: &Node<S>, verdict: &Verdict) -> Candidate {
    let turn = node
        .turns
        .last()
        .expect("a candidate was written in a turn");
    let reward = verdict.end.map_or(0.0, Outcome::reward) as f32;
    Candidate {
        completion: turn.completion.clone(),
        score: verdict.score.unwrap_or(reward),
        count: node.count,
        logprob: Some(turn.logprobs.iter().sum()),
        log_ratio: turn.log_ratio,
        after_value: turn.after_value,
    }
}

/// For each offer, how near a copy of the world then is to the goal: minus [`Environment::remaining`]; and how many commands
/// the copies performed.
fn look_ahead<S>(node: &Node<S>, offers: &[CandidateText]) -> Result<(Vec<f32>, usize), String> {
    let world = node
        .environment
        .as_ref()
        .expect("the world has answered before the policy did");
    let (mut scores, mut commands) = (Vec::new(), 0);
    for offer in offers {
        let mut copy = world.fork().ok_or(NO_LOOK_AHEAD)?;
        if let Some(command) = chat::command(&offer.text, offer.ended) {
            commands += 1;
            copy.step(command).map_err(|error| error.to_string())?;
        }
        scores.push(-(copy.remaining().ok_or(NO_LOOK_AHEAD)? as f32));
    }
    Ok((scores, commands))
}

/// What an oracle says of a world that keeps its state to itself.
pub const NO_LOOK_AHEAD: &str = "an oracle chooses by copies of the world that tell how far the goal is, and this world \
                                 has none\nhint: --world native, or another scorer";

/// Whether the world says again what it said before this turn.
fn same_again(number: usize, turn: &Turn, said: &str) -> Result<(), String> {
    if turn.observation == said {
        return Ok(());
    }
    Err(format!(
        "before turn {number}, played before, the world said {:?}, and now it says {said:?}",
        turn.observation
    ))
}
