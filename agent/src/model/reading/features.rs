//! The features of a token that [`ReadingConfig`] adds to its embedding, from token ids alone.

use super::config::{GoalMatch, ReadingConfig};

/// The features of some tokens of one or more sequences, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenFeatures {
    /// Whether each token occurs in the goal, and the goal has ended before it. Empty if goals are not
    /// matched.
    pub matched: Vec<bool>,
    /// By order of the n-gram embeddings: the token that followed the last occurrence of each token's
    /// n-gram.
    pub followers: Vec<Vec<Option<u32>>>,
}

impl TokenFeatures {
    /// Appends the features of the tokens of `sequence` from index `from` on. They depend on the tokens
    /// up to each position only.
    pub fn extend(&mut self, config: &ReadingConfig, sequence: &[u32], from: usize) {
        self.followers
            .resize_with(config.ngram_embedding.len(), Vec::new);
        for (order, list) in config.ngram_embedding.iter().zip(&mut self.followers) {
            list.extend((from..sequence.len()).map(|at| follower(&sequence[..=at], *order)));
        }
        if let Some(goal) = &config.goal_match {
            let (end, words) = goal.find(sequence).unwrap_or((sequence.len(), &[]));
            self.matched.extend((from..sequence.len()).map(|at| {
                let token = sequence[at];
                at >= end && words.contains(&token) && !goal.ignored.contains(&token)
            }));
        }
    }
}

/// The token that followed the last earlier occurrence of the last `order` tokens.
fn follower(sequence: &[u32], order: usize) -> Option<u32> {
    let last = sequence.len().checked_sub(order)?;
    let ngram = &sequence[last..];
    let start = (0..last)
        .rev()
        .find(|start| sequence[*start..][..order] == *ngram)?;
    Some(sequence[start + order])
}

impl GoalMatch {
    /// The position after the goal, and the tokens of the goal; `None` if the sequence has none, or it
    /// has not ended.
    fn find<'a>(&self, sequence: &'a [u32]) -> Option<(usize, &'a [u32])> {
        let start = sequence
            .windows(self.marker.len())
            .position(|window| window == self.marker)?
            + self.marker.len();
        let length = sequence[start..]
            .iter()
            .position(|token| self.end.contains(token))?;
        Some((start + length, &sequence[start..][..length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::chat::{PromptPosition, observation_tokens};
    use crate::text::tokenizer::{NumberTokens, Tokenizer};

    const FIRST: &str = "You see a mug 1.\n\nYour task is to: put a clean mug in shelf.";
    const NEXT: &str = "On the shelf 2, you see a mug 3, and a pen 1.";

    fn features(config: &ReadingConfig, sequence: &[u32], from: usize) -> TokenFeatures {
        let mut features = TokenFeatures::default();
        features.extend(config, sequence, from);
        features
    }

    /// The tokens that are marked in the second observation are exactly the names of the goal.
    #[test]
    fn names_of_the_goal_are_matched_after_it() {
        let texts = std::iter::repeat_n([FIRST, NEXT], 3).flatten();
        let tokenizer = Tokenizer::train_with(texts, 600, NumberTokens::Digits).unwrap();
        let config = ReadingConfig {
            goal_match: Some(GoalMatch::of_household_games(&tokenizer)),
            ..ReadingConfig::default()
        };
        config.check(600).unwrap();
        let mut sequence = observation_tokens(&tokenizer, FIRST, PromptPosition::Opening);
        let first = sequence.len();
        sequence.extend(observation_tokens(
            &tokenizer,
            NEXT,
            PromptPosition::AfterEnd,
        ));
        let matched = features(&config, &sequence, 0).matched;
        let marked: Vec<String> = (0..sequence.len())
            .filter(|at| matched[*at])
            .map(|at| tokenizer.decode(&sequence[at..=at]))
            .collect();
        assert_eq!(marked, ["shelf", "mug"]);
        assert!(!matched[..first].contains(&true));
        assert_eq!(
            features(&config, &sequence, first).matched,
            matched[first..]
        );
        let without_goal = observation_tokens(&tokenizer, NEXT, PromptPosition::Opening);
        assert!(!features(&config, &without_goal, 0).matched.contains(&true));
    }

    /// a b a b c b: by hand.
    #[test]
    fn followers_are_those_of_the_last_occurrence() {
        let config = ReadingConfig {
            ngram_embedding: vec![1, 2],
            ..ReadingConfig::default()
        };
        let sequence = [1, 2, 1, 2, 3, 2];
        let all = features(&config, &sequence, 0);
        assert_eq!(
            all.followers[0],
            [None, None, Some(2), Some(1), None, Some(3)]
        );
        assert_eq!(all.followers[1], [None, None, None, Some(1), None, None]);
        let last = features(&config, &sequence, 5);
        assert_eq!(last.followers[0], [Some(3)]);
        // A run of one token follows itself.
        assert_eq!(features(&config, &[4, 4], 1).followers[0], [Some(4)]);
    }

    #[test]
    fn a_goal_that_has_not_ended_matches_nothing() {
        let config = ReadingConfig {
            goal_match: Some(GoalMatch {
                marker: vec![7, 8],
                end: vec![0],
                ignored: vec![5],
            }),
            ..ReadingConfig::default()
        };
        assert!(
            !features(&config, &[7, 8, 4, 5, 4], 0)
                .matched
                .contains(&true)
        );
        let matched = features(&config, &[4, 7, 8, 4, 5, 0, 4, 5, 9, 4], 0).matched;
        let marked: Vec<usize> = (0..10).filter(|at| matched[*at]).collect();
        assert_eq!(marked, [6, 9], "5 is ignored");
    }
}
