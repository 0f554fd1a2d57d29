//! Plays the candidates of states and their continuations.

use super::recipe::{BranchRecipe, branch_protocol};
use crate::error::TrainerError;
use agent::policy::Policy;
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use scenarios::seed::SplitMix64;
use scenarios::{BranchInfo, Candidate, Outcome, Protocol, Spent, Task, Trajectory, Turn, World};

/// At most this many times K samples are drawn for K distinct candidates.
pub const SAMPLES: usize = 4;

/// A state: the one in which an episode wrote a turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BranchState<'a> {
    /// The game.
    pub task: &'a Task,
    /// The episode.
    pub episode: &'a Trajectory,
    /// Index of the turn. The turns before it are the beginning of every sample.
    pub turn: usize,
}

/// How states are branched.
#[derive(Debug, Clone, Copy)]
pub struct Branching<'a> {
    /// Numbers of samples, temperatures and discount.
    pub recipe: &'a BranchRecipe,
    /// Name of the store of the episodes, recorded in [`BranchInfo::source`].
    pub source: &'a str,
    /// Maximum number of tokens in the context, if the episodes were recorded as text.
    pub context_limit: usize,
    /// Seed. The seed of each sample is computed from it, the episode's seed, the turn and the
    /// numbers of candidate and sample.
    pub seed: u64,
    /// Number of episodes that are played concurrently.
    pub pool: Concurrency,
}

/// The result of a state.
#[derive(Debug, Clone, PartialEq)]
pub enum BranchResult {
    /// The record of the state: [`Trajectory::branch`].
    Record(Box<Trajectory>),
    /// A sample failed, so the state has no record. For example, the environment did not repeat a
    /// logged observation. Contains the last failure.
    Lost(String),
}

/// The cost of branches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BranchCost {
    /// Number of samples that were drawn to find candidates.
    pub samples: usize,
    /// Number of continuations that were played.
    pub continuations: usize,
    /// Number of turns that the policy generated in both.
    pub turns: usize,
}

impl BranchCost {
    /// Adds the cost of other branches.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.continuations += other.continuations;
        self.turns += other.turns;
    }
}

/// A candidate of an open state.
struct OpenCandidate {
    /// The turns of the episode before the state, and the turn in which the candidate was written.
    turns: Vec<Turn>,
    /// How many samples have the same command.
    count: usize,
    /// One for each continuation, in the order of their numbers.
    returns: Vec<f64>,
}

/// A state whose samples are being played.
struct OpenState<'a> {
    state: BranchState<'a>,
    candidates: Vec<OpenCandidate>,
    lost: Option<String>,
}

/// Plays the candidates of states and their continuations, and passes the result of each state to
/// `record` as soon as it is known. All episodes must have been played under `protocol`.
///
/// States of one turn are played together, because the samples of candidates end after one turn. A
/// result depends only on the state, the settings and the policy.
///
/// # Errors
/// The first error of `record`. [`TrainerError::Protocol`] if the policy cannot play by the
/// protocol, [`TrainerError::Gone`] if it does not respond any more.
///
/// # Panics
/// If the settings are out of range, which [`BranchRecipe::check`] refuses.
pub fn play_branches<P: Policy>(
    policy: &P,
    world: &dyn World,
    states: &[BranchState<'_>],
    protocol: &Protocol,
    branching: Branching<'_>,
    mut record: impl FnMut(&BranchState<'_>, BranchResult) -> Result<(), TrainerError>,
) -> Result<BranchCost, TrainerError> {
    let recipe = branching.recipe;
    recipe.check().expect("the caller has checked the settings");
    let continued = branch_protocol(protocol, branching.context_limit, recipe.temperature, 0.0);
    policy
        .can_play(&continued)
        .map_err(TrainerError::Protocol)?;
    let mut ordered = states.to_vec();
    ordered.sort_by_key(|state| state.turn);
    let at_once = (16 * branching.pool.episodes / (recipe.candidates * recipe.rollouts)).max(1);
    let mut cost = BranchCost::default();
    for same_turn in ordered.chunk_by(|a, b| a.turn == b.turn) {
        for chunk in same_turn.chunks(at_once) {
            let mut round = BranchRound {
                policy,
                world,
                protocol,
                branching,
                open: chunk.iter().map(|state| OpenState::new(*state)).collect(),
                cost: &mut cost,
            };
            for number in 0..SAMPLES {
                round.propose(number)?;
            }
            round.play_on(&continued)?;
            for open in round.open {
                let state = open.state;
                record(&state, open.result(&policy.name(), branching))?;
            }
        }
    }
    Ok(cost)
}

/// States of one turn that are played together.
struct BranchRound<'a, 'c, P> {
    policy: &'a P,
    world: &'a dyn World,
    /// The protocol of the episodes.
    protocol: &'a Protocol,
    branching: Branching<'a>,
    open: Vec<OpenState<'a>>,
    cost: &'c mut BranchCost,
}

impl<P: Policy> BranchRound<'_, '_, P> {
    /// Draws K more samples for each state that has fewer than K distinct candidates. `number`
    /// counts these calls from 0.
    fn propose(&mut self, number: usize) -> Result<(), TrainerError> {
        let Branching { recipe, seed, .. } = self.branching;
        let k = recipe.candidates;
        let Some(turn) = self.open.first().map(|open| open.state.turn) else {
            return Ok(());
        };
        let protocol = Protocol {
            turn_limit: turn + 1,
            ..branch_protocol(
                self.protocol,
                self.branching.context_limit,
                recipe.proposal_temperature,
                recipe.min_p,
            )
        };
        let mut jobs = Vec::new();
        for (index, open) in self.open.iter().enumerate() {
            if open.lost.is_some() || open.candidates.len() >= k {
                continue;
            }
            let state = open.state;
            jobs.extend((0..k).map(|sample| EpisodeJob {
                task: state.task,
                repetition: index * k + sample,
                seed: sample_seed(seed, &state, &[0, (number * k + sample) as u64]),
                forced: &state.episode.turns[..turn],
            }));
        }
        let mut samples: Vec<Option<Trajectory>> = vec![None; self.open.len() * k];
        let cost = &mut *self.cost;
        play_jobs(
            self.policy,
            self.world,
            &jobs,
            &protocol,
            self.branching.pool,
            |sample| {
                cost.samples += 1;
                cost.turns += sample.turns.len().saturating_sub(turn);
                let place = sample.repetition;
                samples[place] = Some(sample);
            },
        )?;
        for (place, sample) in samples.into_iter().enumerate() {
            if let Some(sample) = sample {
                self.open[place / k].add(sample, k);
            }
        }
        Ok(())
    }

    /// Plays the continuations of all candidates.
    fn play_on(&mut self, protocol: &Protocol) -> Result<(), TrainerError> {
        let Branching { recipe, seed, .. } = self.branching;
        let mut jobs = Vec::new();
        let mut places = Vec::new();
        for (index, open) in self.open.iter().enumerate() {
            if open.lost.is_some() {
                continue;
            }
            for (number, candidate) in open.candidates.iter().enumerate() {
                for continuation in 0..recipe.rollouts {
                    let words = [1, number as u64, continuation as u64];
                    jobs.push(EpisodeJob {
                        task: open.state.task,
                        repetition: places.len(),
                        seed: sample_seed(seed, &open.state, &words),
                        forced: &candidate.turns,
                    });
                    places.push((index, number));
                }
            }
        }
        let mut played: Vec<Option<Result<f64, String>>> = vec![None; jobs.len()];
        let cost = &mut *self.cost;
        play_jobs(
            self.policy,
            self.world,
            &jobs,
            protocol,
            self.branching.pool,
            |episode| {
                let forced = jobs[episode.repetition].forced.len();
                cost.continuations += 1;
                cost.turns += episode.turns.len().saturating_sub(forced);
                played[episode.repetition] = Some(match episode.outcome {
                    Outcome::EnvFailed => Err(episode.failure.unwrap_or_default()),
                    _ => Ok(discounted_return(&episode, forced, recipe.discount)),
                });
            },
        )?;
        drop(jobs);
        for (place, result) in places.into_iter().zip(played) {
            let open = &mut self.open[place.0];
            match result {
                Some(Ok(value)) => open.candidates[place.1].returns.push(value),
                Some(Err(reason)) => open.lost = Some(reason),
                None => {}
            }
        }
        Ok(())
    }
}

impl<'a> OpenState<'a> {
    fn new(state: BranchState<'a>) -> Self {
        Self {
            state,
            candidates: Vec::new(),
            lost: None,
        }
    }

    /// Takes a sample: a new candidate if its command is new and there are fewer than `most`. All
    /// malformed completions count as one command, because the environment gets none.
    fn add(&mut self, sample: Trajectory, most: usize) {
        if sample.outcome == Outcome::EnvFailed {
            self.lost = Some(sample.failure.unwrap_or_default());
            return;
        }
        let at = self.state.turn;
        let Some(turn) = sample.turns.get(at) else {
            self.lost = Some(format!(
                "before turn {at}, the episode ended with {}",
                sample.outcome.name()
            ));
            return;
        };
        let known = self
            .candidates
            .iter_mut()
            .find(|candidate| candidate.turns[at].action == turn.action);
        if let Some(known) = known {
            known.count += 1;
        } else if self.candidates.len() < most {
            self.candidates.push(OpenCandidate {
                turns: sample.turns,
                count: 1,
                returns: Vec::new(),
            });
        }
    }

    fn result(self, policy: &str, branching: Branching<'_>) -> BranchResult {
        if let Some(reason) = self.lost {
            return BranchResult::Lost(reason);
        }
        let BranchState { episode, turn, .. } = self.state;
        let candidates = self
            .candidates
            .into_iter()
            .map(|candidate| logged(candidate, turn))
            .collect();
        let mut turns = episode.turns[..=turn].to_vec();
        turns[turn].candidates = candidates;
        BranchResult::Record(Box::new(Trajectory {
            turns,
            last_observation: String::new(),
            outcome: Outcome::Failure,
            reward: 0.0,
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
            branch: Some(BranchInfo {
                source: branching.source.into(),
                turn,
                policy: policy.into(),
                discount: branching.recipe.discount,
            }),
            ..episode.clone()
        }))
    }
}

/// Returns the candidate as the record of its state contains it.
fn logged(mut candidate: OpenCandidate, turn: usize) -> Candidate {
    let written = candidate.turns.swap_remove(turn);
    Candidate {
        completion: written.completion,
        score: 0.0, // nothing is selected
        count: candidate.count,
        logprob: (!written.logprobs.is_empty()).then(|| written.logprobs.iter().sum()),
        log_ratio: None,
        after_value: None,
        tokens: written.completion_tokens,
        returns: candidate.returns,
    }
}

/// Returns γ^(n−1) if the episode was won, n turns after and with the last of the `forced` turns, else
/// 0.
fn discounted_return(episode: &Trajectory, forced: usize, discount: f64) -> f64 {
    if episode.is_won() {
        discount.powi((episode.turns.len() - forced) as i32)
    } else {
        0.0
    }
}

/// Plays jobs, and passes each finished episode to `take`.
///
/// # Errors
/// [`TrainerError::Gone`] if the policy does not respond any more.
pub(crate) fn play_jobs<P: Policy>(
    policy: &P,
    world: &dyn World,
    jobs: &[EpisodeJob<'_>],
    protocol: &Protocol,
    pool: Concurrency,
    mut take: impl FnMut(Trajectory),
) -> Result<(), TrainerError> {
    play_episodes(policy, world, jobs, protocol, pool, |episode| {
        TrainerError::check_policy(policy, &episode)?;
        take(episode);
        Ok(())
    })
}

/// Returns the seed of a sample, computed from the seeds of the command and the episode, the turn,
/// and numbers that identify the sample. If this formula changes, logged branches cannot be reproduced.
fn sample_seed(seed: u64, state: &BranchState<'_>, words: &[u64]) -> u64 {
    let identity = [seed, state.episode.seed, state.turn as u64];
    SplitMix64::new(&[&identity[..], words].concat()).next()
}
