//! A branch state: a state of an episode, and candidates with their returns.

use agent::text::chat;
use agent::text::tokenizer::Tokenizer;
use scenarios::{Candidate, Outcome, Trajectory, Turn};

/// A line of a branch store that can be ranked: at least two candidates, each with token ids and
/// returns.
#[derive(Debug, Clone)]
pub struct RankedState<'a> {
    /// The line.
    pub trajectory: &'a Trajectory,
    /// Token ids from the beginning of the episode up to where the policy begins to write.
    pub prefix: Vec<u32>,
    /// The label of each candidate: the mean of its returns, reward units.
    pub labels: Vec<f64>,
}

impl<'a> RankedState<'a> {
    /// Reads a line of a branch store. Returns `None` if it has only one candidate, because nothing
    /// can then be compared.
    ///
    /// # Errors
    /// A text that names game, repetition and turn, if the last turn has no candidates, or if one
    /// of them has no token ids or no finite returns.
    pub fn new(trajectory: &'a Trajectory) -> Result<Option<Self>, String> {
        let Some((last, earlier)) = trajectory.turns.split_last() else {
            return Err(refusal(trajectory, "there is no turn"));
        };
        if last.candidates.is_empty() {
            return Err(refusal(trajectory, "the last turn has no candidates"));
        }
        if last.candidates.len() < 2 {
            return Ok(None); // `hearth branch` plays no continuations of a single candidate
        }
        for candidate in &last.candidates {
            let name = &candidate.completion;
            if candidate.tokens.is_empty() {
                let reason = format!("the candidate {name:?} has no token ids");
                return Err(refusal(trajectory, &reason));
            }
            let is_finite = candidate.returns.iter().all(|number| number.is_finite());
            if candidate.returns.is_empty() || !is_finite {
                let reason = format!("the candidate {name:?} has no finite returns");
                return Err(refusal(trajectory, &reason));
            }
        }
        let mut prefix = Vec::new();
        for turn in earlier {
            if turn.completion_tokens.is_empty() {
                return Err(refusal(trajectory, "an earlier turn has no token ids"));
            }
            prefix.extend(&turn.observation_tokens);
            prefix.extend(&turn.completion_tokens);
        }
        prefix.extend(&last.observation_tokens);
        if prefix.is_empty() {
            return Err(refusal(trajectory, "the observation has no token ids"));
        }
        let labels = last.candidates.iter().map(|c| mean_return(&c.returns));
        Ok(Some(Self {
            trajectory,
            prefix,
            labels: labels.collect(),
        }))
    }

    /// Returns game, repetition, seed and turn of the state.
    pub(super) fn place(&self) -> (&'a str, usize, u64, usize) {
        let Trajectory {
            game,
            repetition,
            seed,
            turns,
            ..
        } = self.trajectory;
        (game.as_str(), *repetition, *seed, turns.len())
    }

    /// Returns the number of turns before the state.
    #[must_use]
    pub fn turn(&self) -> usize {
        self.trajectory.turns.len() - 1
    }

    /// Returns the candidates.
    #[must_use]
    pub fn candidates(&self) -> &'a [Candidate] {
        let last = self.trajectory.turns.last();
        last.map_or(&[], |turn| &turn.candidates)
    }

    /// Returns the number of tokens of the prefix and the longest candidate.
    #[must_use]
    pub fn longest(&self) -> usize {
        let candidates = self.candidates().iter();
        self.prefix.len() + candidates.map(|c| c.tokens.len()).max().unwrap_or(0)
    }

    /// Returns an episode of one turn for each candidate: the prefix is its observation, the
    /// candidate its completion. The text is left out, and the outcome means nothing.
    pub(crate) fn rows(&self) -> Vec<Trajectory> {
        self.candidates().iter().map(|c| self.row(c)).collect()
    }

    fn row(&self, candidate: &Candidate) -> Trajectory {
        let source = self.trajectory;
        Trajectory {
            format: source.format,
            game: source.game.clone(),
            game_hash: source.game_hash.clone(),
            split: source.split,
            task_type: source.task_type,
            repetition: source.repetition,
            seed: source.seed,
            policy: String::new(),
            value_policy: None,
            protocol: source.protocol.clone(),
            turns: vec![Turn {
                observation_tokens: self.prefix.clone(),
                completion_tokens: candidate.tokens.clone(),
                ..Turn::default()
            }],
            last_observation: String::new(),
            outcome: Outcome::TurnLimit,
            reward: 0.0,
            failure: None,
            seconds: 0.0,
            spent: source.spent,
            branch: None,
        }
    }
}

/// Returns the mean. The numbers are added in ascending order, so that candidates with the same
/// returns in another order have the same label to the bit.
pub(crate) fn mean_return(returns: &[f64]) -> f64 {
    let mut sorted = returns.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.iter().sum::<f64>() / sorted.len().max(1) as f64
}

/// Fills in the token ids of branch states that have only texts, or the ids of another tokenizer.
/// Returns the number of states that were changed.
pub fn tokenize_states(tokenizer: &Tokenizer, states: &mut [Trajectory]) -> usize {
    let mut changed = 0;
    for state in states {
        if is_tokenized_by(tokenizer, state) {
            continue;
        }
        chat::tokenize(tokenizer, state);
        if let Some(last) = state.turns.last_mut() {
            for candidate in &mut last.candidates {
                candidate.tokens = chat::completion_tokens(tokenizer, &candidate.completion);
            }
        }
        changed += 1;
    }
    changed
}

/// Returns whether the ids of earlier completions and of the candidates spell their texts. The
/// completion of the last turn is not read.
fn is_tokenized_by(tokenizer: &Tokenizer, state: &Trajectory) -> bool {
    let Some((last, earlier)) = state.turns.split_last() else {
        return true;
    };
    let written = earlier
        .iter()
        .map(|turn| (&turn.completion_tokens, &turn.completion))
        .chain(last.candidates.iter().map(|c| (&c.tokens, &c.completion)));
    !last.observation_tokens.is_empty()
        && written.into_iter().all(|(tokens, text)| {
            let own = tokens.strip_suffix(&[tokenizer.end]).unwrap_or(tokens);
            !tokens.is_empty() && tokenizer.decode(own) == *text
        })
}

fn refusal(trajectory: &Trajectory, reason: &str) -> String {
    format!(
        "game {}, repetition {}, turn {}: {reason}\nhint: a branch store is needed, whose candidates have tokens and returns",
        trajectory.game,
        trajectory.repetition,
        trajectory.turns.len().saturating_sub(1)
    )
}
