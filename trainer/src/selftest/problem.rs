//! Decision problems that are small enough to be solved exactly by backward induction.
//!
//! A state is the sequence of all tokens so far: the prefix of the tokens of a path.

use scenarios::{Outcome, Protocol, Spent, Split, Trajectory, Turn};
use std::collections::BTreeMap;

/// Number of token ids: the policy writes those below [`OBSERVATIONS`], the environment the others.
pub(super) const VOCAB: usize = 8;
/// The first token id of observations.
pub(super) const OBSERVATIONS: u32 = 4;

/// The tokens of one turn: observation and completion.
pub(super) type TurnTokens = (&'static [u32], &'static [u32]);

/// All tokens so far.
pub(super) type TokenPrefix = Vec<u32>;
/// Tokens with their probabilities.
pub(super) type TokenProbabilities = Vec<(u32, f64)>;

/// A path through the problem.
#[derive(Debug, Clone)]
pub(super) struct ProblemPath {
    /// How often the data contain the path.
    pub(super) rows: usize,
    pub(super) turns: Vec<TurnTokens>,
    pub(super) reward: f64,
}

impl ProblemPath {
    /// Returns every token, and whether the policy wrote it.
    fn tokens(&self) -> Vec<(u32, bool)> {
        let mut tokens = Vec::new();
        for (observation, completion) in &self.turns {
            tokens.extend(observation.iter().map(|token| (*token, false)));
            tokens.extend(completion.iter().map(|token| (*token, true)));
        }
        tokens
    }

    /// Returns the path as a recorded episode.
    pub(super) fn trajectory(&self) -> Trajectory {
        let turns = self
            .turns
            .iter()
            .map(|(observation, completion)| Turn {
                observation_tokens: observation.to_vec(),
                completion_tokens: completion.to_vec(),
                ..Turn::default()
            })
            .collect();
        Trajectory {
            format: Trajectory::FORMAT,
            game: String::new(),
            game_hash: String::new(),
            split: Split::Train,
            task_type: None,
            repetition: 0,
            seed: 0,
            policy: String::new(),
            value_policy: None,
            protocol: Protocol::default(),
            turns,
            last_observation: String::new(),
            outcome: if self.reward > 0.5 {
                Outcome::Success
            } else {
                Outcome::TurnLimit
            },
            reward: self.reward,
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
            branch: None,
        }
    }
}

/// A problem with all its paths. The transition probabilities of the environment are the
/// frequencies in the data.
#[derive(Debug, Clone)]
pub(super) struct DecisionProblem {
    pub(super) beta: f64,
    /// γ per turn.
    pub(super) discount: f64,
    pub(super) paths: Vec<ProblemPath>,
    /// π_ref of every token that may be written, by state.
    pub(super) reference: Vec<(TokenPrefix, TokenProbabilities)>,
}

/// The solution by backward induction, by state.
#[derive(Debug, Clone, Default)]
pub(super) struct Optimum {
    /// V* before a token, and U* = Q* after one.
    pub(super) values: BTreeMap<TokenPrefix, f64>,
    /// π*.
    pub(super) policy: BTreeMap<TokenPrefix, TokenProbabilities>,
}

/// The part of a path that backward induction reads.
struct PathTokens {
    /// Every token, and whether the policy wrote it.
    tokens: Vec<(u32, bool)>,
    rows: usize,
    reward: f64,
}

impl DecisionProblem {
    /// Solves the problem from the ends of the paths back to their beginning:
    /// Q* = r + γ E V*(s'), V*(s) = β log Σ π_ref e^{Q*/β}, π* = π_ref e^{(Q* − V*)/β}. γ is applied
    /// once per turn, between a completion and the next observation.
    pub(super) fn solve(&self) -> Optimum {
        let paths: Vec<PathTokens> = self
            .paths
            .iter()
            .map(|path| PathTokens {
                tokens: path.tokens(),
                rows: path.rows,
                reward: path.reward,
            })
            .collect();
        let mut optimum = Optimum::default();
        self.solve_at(&[], &paths.iter().collect::<Vec<_>>(), &mut optimum);
        optimum
    }

    /// Returns the value of a state through which `paths` pass, and records the solution from
    /// there.
    fn solve_at(&self, state: &[u32], paths: &[&PathTokens], optimum: &mut Optimum) -> f64 {
        let (ended, going): (Vec<&PathTokens>, Vec<&PathTokens>) = paths
            .iter()
            .copied()
            .partition(|path| path.tokens.len() == state.len());
        let at_end: f64 = ended
            .iter()
            .map(|path| path.rows as f64 / count_rows(paths) * path.reward)
            .sum();
        let value = match going.first().map(|path| path.tokens[state.len()]) {
            None => at_end,
            Some((_, is_written)) => {
                let mut by_token: BTreeMap<u32, Vec<&PathTokens>> = BTreeMap::new();
                for path in &going {
                    let (token, _) = path.tokens[state.len()];
                    by_token.entry(token).or_default().push(path);
                }
                let mut after = BTreeMap::new();
                for (token, paths) in &by_token {
                    let next = [state, &[*token]].concat();
                    after.insert(*token, self.solve_at(&next, paths, optimum));
                }
                if is_written {
                    self.soft_maximum(state, &after, optimum)
                } else {
                    let is_after_turn = !state.is_empty() && going[0].tokens[state.len() - 1].1;
                    let discount = if is_after_turn { self.discount } else { 1.0 };
                    let expected: f64 = by_token
                        .iter()
                        .map(|(token, some)| count_rows(some) / count_rows(paths) * after[token])
                        .sum();
                    at_end + discount * expected
                }
            }
        };
        optimum.values.insert(state.to_vec(), value);
        value
    }

    /// Returns V* from Q* of each token, and records π*.
    fn soft_maximum(
        &self,
        state: &[u32],
        after: &BTreeMap<u32, f64>,
        optimum: &mut Optimum,
    ) -> f64 {
        let reference = self.reference_at(state);
        let highest = after.values().copied().fold(f64::MIN, f64::max);
        let sum: f64 = reference
            .iter()
            .map(|(token, p)| p * ((after[token] - highest) / self.beta).exp())
            .sum();
        let value = highest + self.beta * sum.ln();
        let policy = reference
            .iter()
            .map(|(token, p)| (*token, p * ((after[token] - value) / self.beta).exp()))
            .collect();
        optimum.policy.insert(state.to_vec(), policy);
        value
    }

    fn reference_at(&self, state: &[u32]) -> &[(u32, f64)] {
        let found = self.reference.iter().find(|(at, _)| at == state);
        &found
            .unwrap_or_else(|| panic!("no reference at {state:?}"))
            .1
    }

    /// Returns every state, in order.
    pub(super) fn states(&self) -> Vec<TokenPrefix> {
        let mut states = Vec::new();
        for path in &self.paths {
            let tokens: Vec<u32> = path.tokens().into_iter().map(|(token, _)| token).collect();
            states.extend((1..=tokens.len()).map(|end| tokens[..end].to_vec()));
        }
        states.sort();
        states.dedup();
        states
    }
}

fn count_rows(paths: &[&PathTokens]) -> f64 {
    paths.iter().map(|path| path.rows).sum::<usize>() as f64
}
