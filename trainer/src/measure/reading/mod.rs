//! The reading test: whether a policy reads the lists of objects in its observations.
//!
//! A small decoder can win games without reading: it takes the object where such objects usually
//! are. Two measures show this, and both see the policy only through [`TokenPredictor`].
//!
//! - **Minimal pairs** ([`pairs`]). The expert plays a game until just before its first `take`. The
//!   policy predicts the next command twice: after the list with the object, and after the same list
//!   without it. A policy that reads prefers `take` in the first case only.
//! - **Induction** ([`induction`]). A random list of names is repeated. A policy with induction heads
//!   (Olsson et al. 2022, arXiv 2209.11895) predicts the second copy, and no policy can predict the
//!   first.
//!
//! Both are our own measures; they are not part of OREO.

pub mod induction;
pub mod pairs;
pub mod predictor;
pub mod scores;

use crate::error::TrainerError;
use crate::learn::metrics::reading::{ReadingNumbers, ReadingProbe};
use agent::inference::PolicyInference;
use agent::text::tokenizer::Tokenizer;
use induction::RepeatedList;
use pairs::{MinimalPair, PairQueries};
use predictor::{TokenPrediction, TokenPredictor, TokenQuery};
use scenarios::Trajectory;
use scores::ReadingScores;

/// The queries of a reading test, in the vocabulary of one tokenizer.
#[derive(Debug, Clone)]
pub struct ReadingTest {
    pairs: Vec<PairQueries>,
    lists: Vec<RepeatedList>,
    /// Number of episodes that gave no pair: the expert took nothing, the object was alone in its
    /// list, or the pair does not fit into the context.
    pub left_out: usize,
}

impl ReadingTest {
    /// Builds the test from the expert's episodes, one pair for each. `context` is the maximum
    /// number of tokens of a sequence, and `seed` draws the repeated lists.
    ///
    /// # Errors
    /// If no episode gives a pair.
    pub fn new(
        tokenizer: &Tokenizer,
        context: usize,
        episodes: &[Trajectory],
        seed: u64,
    ) -> Result<Self, TrainerError> {
        let pairs: Vec<PairQueries> = episodes
            .iter()
            .filter_map(MinimalPair::of)
            .map(|pair| pair.queries(tokenizer))
            .filter(|queries| queries.longest() <= context)
            .collect();
        if pairs.is_empty() {
            return Err(TrainerError::Data(format!(
                "none of {} expert episodes gives a pair for the reading test\n\
                 hint: it needs household games in which the expert takes an object from a list with \
                 other objects, within a context of {context} tokens",
                episodes.len()
            )));
        }
        let mut lists = induction::repeated_lists(tokenizer, episodes, seed);
        lists.retain(|list| list.query.tokens.len() <= context);
        Ok(Self {
            left_out: episodes.len() - pairs.len(),
            pairs,
            lists,
        })
    }

    /// Runs the test on a policy.
    #[must_use]
    pub fn measure(&self, policy: &impl TokenPredictor) -> ReadingScores {
        let pairs = self.pairs.iter();
        let queries: Vec<&TokenQuery> = pairs
            .flat_map(|pair| [&pair.there, &pair.absent])
            .chain(self.lists.iter().map(|list| &list.query))
            .collect();
        let predictions: Vec<Vec<TokenPrediction>> = policy.predict(&queries);
        let (of_pairs, of_lists) = predictions.split_at(2 * self.pairs.len());
        ReadingScores {
            pairs: self
                .pairs
                .iter()
                .zip(of_pairs.chunks_exact(2))
                .map(|(pair, both)| pair.score(&both[0], &both[1]))
                .collect(),
            lists: self
                .lists
                .iter()
                .zip(of_lists)
                .map(|(list, predictions)| list.score(predictions))
                .collect(),
        }
    }
}

impl ReadingProbe for ReadingTest {
    fn read(&self, policy: &PolicyInference) -> ReadingNumbers {
        self.measure(policy).numbers()
    }
}

#[cfg(test)]
mod tests;
