//! An episode that is searched: its states form a tree, in which every candidate of a state was
//! tried in a copy of the environment.

use super::search::{FoundState, Frontier, NextStates};
use super::state::{AfterState, RolloutState, StateEnd};
use crate::policy::{Completion, Lookahead};
use crate::text::action;
use scenarios::{ActionFormat, Candidate, Outcome, Protocol, Search};
use std::sync::Arc;

/// The states of an episode that is searched.
pub(super) struct SearchTree<S> {
    /// The states from which the search continues, and behind them the states that these have led
    /// to, until they are judged.
    nodes: Vec<Option<SearchNode<S>>>,
    /// The states that the last ones have led to, with their verdicts.
    judged: Vec<(SearchNode<S>, StateVerdict)>,
    frontier: Frontier<SearchNode<S>>,
    turn_limit: usize,
    /// K.
    best_of: usize,
    /// Number of turns at the beginning that were played before.
    forced: usize,
}

/// A state of the search.
struct SearchNode<S> {
    state: RolloutState<S>,
    /// The index of the node that it came from, and the index of the candidate that led to it.
    origin: (usize, usize),
    /// How many of the K samples gave the same command.
    count: usize,
}

/// The result of a state that the search was led to.
struct StateVerdict {
    /// V, in reward units. `None` if the value network did not evaluate it.
    score: Option<f32>,
    /// `None` if the search can continue from it.
    end: Option<StateEnd>,
}

impl<S> SearchTree<S> {
    pub(super) fn new(
        search: Search,
        protocol: &Protocol,
        forced: usize,
        root: RolloutState<S>,
    ) -> Self {
        Self {
            nodes: vec![Some(SearchNode {
                state: root,
                origin: (0, 0),
                count: 1,
            })],
            judged: Vec::new(),
            frontier: Frontier::new(search, protocol.best_of),
            turn_limit: protocol.turn_limit,
            best_of: protocol.best_of,
            forced,
        }
    }

    /// Returns the states that are being played, by index.
    pub(super) fn states(&mut self) -> impl Iterator<Item = (usize, &mut RolloutState<S>)> {
        self.nodes
            .iter_mut()
            .enumerate()
            .filter_map(|(index, node)| Some((index, &mut node.as_mut()?.state)))
    }

    /// Returns a state that is being played.
    pub(super) fn state(&mut self, index: usize) -> Option<&mut RolloutState<S>> {
        Some(&mut self.nodes[index].as_mut()?.state)
    }

    /// Replaces a state by one state for each distinct command of its candidates, each with a copy
    /// of the environment. Returns the indices of the new states, each with the completion to be
    /// played in it.
    pub(super) fn expand(
        &mut self,
        index: usize,
        candidates: Vec<Completion>,
        format: ActionFormat,
        lookahead: &dyn Lookahead<EpisodeState = S>,
    ) -> Vec<(usize, Completion)> {
        let mut parent = self.nodes[index]
            .take()
            .expect("only a state that is being played is expanded")
            .state;
        let mut distinct: Vec<(usize, Completion)> = Vec::new();
        for (candidate, completion) in candidates.into_iter().enumerate() {
            let command = action::command(format, &completion.text, completion.ended);
            let same = distinct
                .iter()
                .find(|(_, other)| action::command(format, &other.text, other.ended) == command);
            if let Some((same, _)) = same {
                let node = self.nodes[*same].as_mut();
                node.expect("it was added just now").count += completion.written;
                continue;
            }
            let episode = lookahead.branch(&mut parent.episode, candidate);
            let copy = parent
                .environment
                .as_ref()
                .and_then(|environment| environment.fork());
            let node = SearchNode {
                state: parent.fork(episode, copy),
                origin: (index, candidate),
                count: completion.written,
            };
            distinct.push((self.nodes.len(), completion));
            self.nodes.push(Some(node));
        }
        distinct
    }

    /// Takes V of a state. If the turn limit is reached, the search cannot continue from it.
    pub(super) fn evaluate(&mut self, index: usize, value: f32) -> AfterState<S> {
        let turns = self
            .state(index)
            .expect("only a state that is being played is evaluated")
            .turns
            .len();
        let end = (turns >= self.turn_limit).then(|| Outcome::TurnLimit.into());
        self.judge(
            index,
            StateVerdict {
                score: Some(value),
                end,
            },
        )
    }

    /// Takes the end of a state. If the context is full, V of the state is not known, and V of the
    /// turn before is used in its place.
    pub(super) fn end(&mut self, index: usize, end: StateEnd) -> AfterState<S> {
        let turn_limit = self.turn_limit;
        let turns = &self
            .state(index)
            .expect("only a state that is being played ends")
            .turns;
        let verdict = match end.outcome {
            Outcome::ContextLimit => StateVerdict {
                score: turns.last().and_then(|turn| turn.value),
                end: Some(StateEnd {
                    outcome: if turns.len() >= turn_limit {
                        Outcome::TurnLimit
                    } else {
                        Outcome::ContextLimit
                    },
                    ..end
                }),
            },
            _ => StateVerdict {
                score: None,
                end: Some(end),
            },
        };
        self.judge(index, verdict)
    }

    /// Lets all states that are not being played release their caches.
    pub(super) fn make_room(&mut self, lookahead: &dyn Lookahead<EpisodeState = S>) {
        let judged = self.judged.iter_mut().map(|(node, _)| node);
        for node in self.frontier.waiting().chain(judged) {
            lookahead.make_room(&mut node.state.episode);
        }
    }

    /// Records the verdict on a state. After the last state that is being played, the search
    /// continues or ends. The search receives the states in the order of their candidates,
    /// whichever environment replied first.
    fn judge(&mut self, index: usize, verdict: StateVerdict) -> AfterState<S> {
        let node = self.nodes[index]
            .take()
            .expect("only a state that is being played is judged");
        self.judged.push((node, verdict));
        if self.nodes.iter().any(Option::is_some) {
            return AfterState::Wait;
        }
        self.judged.sort_by_key(|(node, _)| node.origin);
        let lost = self
            .judged
            .iter()
            .position(|(_, verdict)| verdict.outcome() == Some(Outcome::EnvFailed));
        if let Some(lost) = lost {
            let (node, verdict) = self.judged.swap_remove(lost);
            let failure = verdict.end.and_then(|end| end.failure);
            let end = StateEnd {
                outcome: Outcome::EnvFailed,
                failure,
            };
            return AfterState::End(Box::new(node.state), end);
        }
        if self.best_of > 1 && self.judged[0].0.state.turns.len() > self.forced {
            record_candidates(&mut self.judged);
        }
        let found = self.judged.drain(..).map(found).collect();
        match self.frontier.next(found) {
            NextStates::GoOn(chosen) => {
                self.nodes = chosen.into_iter().map(Some).collect();
                AfterState::Continue {
                    states: self.nodes.len(),
                }
            }
            NextStates::End(node, outcome) => AfterState::End(Box::new(node.state), outcome.into()),
        }
    }
}

impl StateVerdict {
    fn outcome(&self) -> Option<Outcome> {
        self.end.as_ref().map(|end| end.outcome)
    }
}

fn found<S>((node, verdict): (SearchNode<S>, StateVerdict)) -> FoundState<SearchNode<S>> {
    FoundState {
        turns: node.state.turns.len(),
        hash: node.state.hash,
        score: verdict.score.unwrap_or(f32::NEG_INFINITY),
        end: verdict.outcome(),
        node,
    }
}

/// Stores, in the last turn of each state, all candidates that were tried beside it, each with V of
/// the state that it led to. If a game is over, its reward takes the place of V.
fn record_candidates<S>(judged: &mut [(SearchNode<S>, StateVerdict)]) {
    for siblings in judged.chunk_by_mut(|(a, _), (b, _)| a.origin.0 == b.origin.0) {
        let candidates: Vec<Candidate> = siblings
            .iter()
            .map(|(node, verdict)| candidate(node, verdict))
            .collect();
        for (node, _) in siblings {
            let turn = node.state.turns.last_mut().and_then(Arc::get_mut);
            turn.expect("the last turn of a new state is not shared yet")
                .candidates
                .clone_from(&candidates);
        }
    }
}

fn candidate<S>(node: &SearchNode<S>, verdict: &StateVerdict) -> Candidate {
    let turn = node
        .state
        .turns
        .last()
        .expect("a candidate was written in a turn");
    let reward = verdict.outcome().map_or(0.0, Outcome::reward) as f32;
    Candidate {
        completion: turn.completion.clone(),
        score: verdict.score.unwrap_or(reward),
        count: node.count,
        logprob: Some(turn.logprobs.iter().sum()),
        log_ratio: turn.log_ratio,
        after_value: turn.after_value,
        tokens: Vec::new(),
        returns: Vec::new(),
    }
}
