//! Induction: random lists of names that are repeated (prefix matching; Olsson et al. 2022,
//! arXiv 2209.11895).
//!
//! A sequence is the beginning of an episode, then the token ids of random names without separators,
//! then the same ids again. The names are objects of the suite's lists, each of another type. A
//! token of the second copy counts if the token before it occurs once in a copy. An induction head,
//! which looks up what followed the last occurrence of the present token, predicts every such token.
//! The same tokens in the first copy are the chance level, because nothing before them predicts
//! them.

use super::predictor::{TokenPrediction, TokenQuery};
use agent::text::chat::completion_tokens;
use agent::text::tokenizer::Tokenizer;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{SeedableRng, rngs::StdRng};
use scenarios::Trajectory;
use scenarios::expert::listed_objects;
use std::collections::{BTreeMap, BTreeSet};

/// Number of lists.
const LISTS: usize = 32;

/// Largest number of names in a list.
const NAMES: usize = 16;

/// Smallest number of names in a list. If the suite has fewer types of objects, there are no lists.
const FEWEST_NAMES: usize = 4;

/// A list of names that is repeated.
#[derive(Debug, Clone)]
pub(super) struct RepeatedList {
    /// Both copies; everything from the second token of the first copy on is predicted.
    pub(super) query: TokenQuery,
    /// Indices within a copy of the tokens that count.
    counted: Vec<usize>,
    /// Number of tokens in a copy.
    length: usize,
}

/// How a policy predicts a repeated list; means over the tokens that count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ListScore {
    /// Probability of a token in the second copy.
    pub second: f64,
    /// Share of the tokens of the second copy that are the most probable ones.
    pub accuracy: f64,
    /// Probability of a token in the first copy: the chance level.
    pub first: f64,
}

impl RepeatedList {
    /// Returns the list of these names after the token ids that begin an episode. `None` if no token
    /// counts.
    fn new(opening: &[u32], names: &[Vec<u32>]) -> Option<Self> {
        let copy = names.concat();
        let counted: Vec<usize> = (1..copy.len())
            .filter(|index| {
                let before = copy[index - 1];
                copy.iter().filter(|token| **token == before).count() == 1
            })
            .collect();
        (!counted.is_empty()).then(|| Self {
            query: TokenQuery {
                tokens: [opening, &copy, &copy].concat(),
                from: opening.len() + 1,
            },
            counted,
            length: copy.len(),
        })
    }

    /// Scores the predictions of the query.
    pub(super) fn score(&self, predictions: &[TokenPrediction]) -> ListScore {
        let n = self.counted.len() as f64;
        let mut score = ListScore {
            second: 0.0,
            accuracy: 0.0,
            first: 0.0,
        };
        for index in &self.counted {
            let first = predictions[index - 1];
            let second = predictions[index - 1 + self.length];
            score.first += first.logprob.exp() / n;
            score.second += second.logprob.exp() / n;
            score.accuracy += f64::from(u8::from(second.is_top)) / n;
        }
        score
    }
}

/// Draws lists from the names in the lists of these episodes.
pub(super) fn repeated_lists(
    tokenizer: &Tokenizer,
    episodes: &[Trajectory],
    seed: u64,
) -> Vec<RepeatedList> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for turn in episodes.iter().flat_map(|episode| &episode.turns) {
        for name in listed_objects(&turn.observation).unwrap_or_default() {
            if let Some((kind, _)) = name.rsplit_once(' ') {
                names.entry(kind.into()).or_default().insert(name);
            }
        }
    }
    let mut names: Vec<Vec<String>> = names
        .into_values()
        .map(|names| names.into_iter().collect())
        .collect();
    if names.len() < FEWEST_NAMES {
        return Vec::new();
    }
    let opening = tokenizer.encode_framed(&tokenizer.frames().opening, "", "");
    let mut random = StdRng::seed_from_u64(seed);
    (0..LISTS)
        .filter_map(|_| {
            names.shuffle(&mut random);
            let drawn: Vec<Vec<u32>> = names
                .iter()
                .take(NAMES)
                .filter_map(|names| names.choose(&mut random))
                .map(|name| name_tokens(tokenizer, name))
                .collect();
            RepeatedList::new(&opening, &drawn)
        })
        .collect()
}

/// Returns the token ids of a name.
fn name_tokens(tokenizer: &Tokenizer, name: &str) -> Vec<u32> {
    let mut tokens = completion_tokens(tokenizer, name);
    tokens.pop(); // the end of a completion
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(probability: f64, is_top: bool) -> TokenPrediction {
        TokenPrediction {
            logprob: probability.ln(),
            is_top,
        }
    }

    /// Token 5 occurs twice in a copy, so what follows it does not count.
    #[test]
    fn a_token_counts_if_the_one_before_it_is_unique() {
        let list = RepeatedList::new(&[0], &[vec![7, 5], vec![8, 5], vec![9]]).unwrap();
        assert_eq!(list.query.tokens, [0, 7, 5, 8, 5, 9, 7, 5, 8, 5, 9]);
        assert_eq!((list.query.from, &list.counted), (2, &vec![1, 3]));
        assert!(RepeatedList::new(&[0], &[vec![5], vec![5]]).is_none());
    }

    #[test]
    fn the_second_copy_is_scored_against_the_first() {
        let list = RepeatedList::new(&[0], &[vec![7, 5], vec![8, 5], vec![9]]).unwrap();
        // The predictions of tokens 2 to 10: copy one from its second token, then copy two.
        let mut predictions = vec![prediction(0.01, false); 9];
        predictions[0] = prediction(0.1, true);
        predictions[2] = prediction(0.3, false);
        predictions[5] = prediction(0.5, true);
        predictions[7] = prediction(0.9, false);
        let ListScore {
            second,
            accuracy,
            first,
        } = list.score(&predictions);
        assert!((second - 0.7).abs() < 1e-12 && (first - 0.2).abs() < 1e-12);
        assert!((accuracy - 0.5).abs() < 1e-12);
    }
}
