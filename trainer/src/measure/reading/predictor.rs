//! A policy as a function from token ids to predictions of the next token.

use agent::inference::{KvCache, PolicyInference, Span, on_all_threads};
use std::ops::Range;

/// Largest number of tokens that one forward pass reads, unless a single pair is longer.
const TOKENS_AT_ONCE: usize = 4096;

/// A sequence of token ids, and from where on its tokens are predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenQuery {
    /// The whole sequence, which begins with the tokens that begin an episode.
    pub tokens: Vec<u32>,
    /// Index of the first token that is predicted, from 1.
    pub from: usize,
}

/// How a policy predicts one token after those before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenPrediction {
    /// ln π(token | tokens before it), nats.
    pub logprob: f64,
    /// Whether no other token is more probable. Greedy play would then write this token.
    pub is_top: bool,
}

impl TokenPrediction {
    /// Returns the prediction of a token from the log-probabilities of all tokens, `[vocab]`.
    #[must_use]
    pub fn of(token: u32, logprobs: &[f32]) -> Self {
        let logprob = logprobs[token as usize];
        Self {
            logprob: f64::from(logprob),
            is_top: logprobs.iter().all(|other| *other <= logprob),
        }
    }
}

/// A policy that is known only by its predictions.
pub trait TokenPredictor {
    /// Returns, for each query, the predictions of its tokens from `from` on. If the queries at 2i and
    /// 2i + 1 begin with the same tokens, these may be read once for both.
    fn predict(&self, queries: &[&TokenQuery]) -> Vec<Vec<TokenPrediction>>;
}

impl TokenPredictor for PolicyInference {
    fn predict(&self, queries: &[&TokenQuery]) -> Vec<Vec<TokenPrediction>> {
        on_all_threads(|| {
            chunks(queries)
                .flat_map(|chunk| predict_chunk(self, &queries[chunk]))
                .collect()
        })
    }
}

/// Returns ranges of queries that are read together. None begins with the second query of a pair.
fn chunks(queries: &[&TokenQuery]) -> impl Iterator<Item = Range<usize>> {
    let mut starts = vec![0];
    let mut tokens = 0;
    for (index, pair) in queries.chunks(2).enumerate() {
        let of_pair: usize = pair.iter().map(|query| query.tokens.len()).sum();
        tokens += of_pair;
        if tokens > TOKENS_AT_ONCE && index > 0 {
            starts.push(2 * index);
            tokens = of_pair;
        }
    }
    starts.push(queries.len());
    (1..starts.len()).map(move |end| starts[end - 1]..starts[end])
}

fn predict_chunk(policy: &PolicyInference, queries: &[&TokenQuery]) -> Vec<Vec<TokenPrediction>> {
    let width = policy.trunk.config().hidden_size;
    let vocab = policy.trunk.config().vocab_size;
    let shared: Vec<usize> = queries.chunks(2).map(shared_tokens).collect();
    let histories = read_shared(policy, queries, &shared);
    let mut caches: Vec<KvCache> = queries.iter().map(|_| KvCache::default()).collect();
    let mut spans: Vec<Span<'_>> = queries
        .iter()
        .zip(&mut caches)
        .enumerate()
        .map(|(index, (query, cache))| Span {
            tokens: &query.tokens[shared[index / 2]..query.tokens.len() - 1],
            before: vec![histories[index / 2].whole()],
            cache,
        })
        .collect();
    let hidden = policy.trunk.extend(&mut spans);
    // The state of a token predicts the next one, so the rows begin one token before `from`.
    let mut rows = Vec::new();
    let mut start = 0;
    for (index, query) in queries.iter().enumerate() {
        let first = start + query.from - 1 - shared[index / 2];
        let end = start + query.tokens.len() - 1 - shared[index / 2];
        rows.extend_from_slice(&hidden[first * width..end * width]);
        start = end;
    }
    let logprobs = policy.logprobs(&rows);
    let mut rows = logprobs.chunks_exact(vocab);
    queries
        .iter()
        .map(|query| {
            query.tokens[query.from..]
                .iter()
                .zip(rows.by_ref())
                .map(|(token, row)| TokenPrediction::of(*token, row))
                .collect()
        })
        .collect()
}

/// Returns the number of tokens that both queries of a pair begin with, and from which no prediction
/// is needed. It is 0 if there is one query.
fn shared_tokens(pair: &[&TokenQuery]) -> usize {
    let [one, other] = pair else { return 0 };
    one.tokens
        .iter()
        .zip(&other.tokens)
        .take_while(|(a, b)| a == b)
        .count()
        .min(one.from - 1)
        .min(other.from - 1)
}

/// Reads what the queries of each pair begin with, once for both.
fn read_shared(
    policy: &PolicyInference,
    queries: &[&TokenQuery],
    shared: &[usize],
) -> Vec<KvCache> {
    let mut histories: Vec<KvCache> = shared.iter().map(|_| KvCache::default()).collect();
    let mut spans: Vec<Span<'_>> = queries
        .chunks(2)
        .zip(shared)
        .zip(&mut histories)
        .filter(|((_, tokens), _)| **tokens > 0)
        .map(|((pair, tokens), cache)| Span::new(&pair[0].tokens[..*tokens], cache))
        .collect();
    if !spans.is_empty() {
        policy.trunk.last_states(&mut spans);
    }
    histories
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass has at most [`TOKENS_AT_ONCE`] tokens, unless it has one pair.
    #[test]
    fn pairs_are_read_in_passes_of_limited_size() {
        let lengths = [2000, 1000, 1000, 96, 1, 5000, 4096, 2, 1];
        let queries: Vec<TokenQuery> = lengths
            .iter()
            .map(|length| TokenQuery {
                tokens: vec![0; *length],
                from: 1,
            })
            .collect();
        let queries: Vec<&TokenQuery> = queries.iter().collect();
        let passes: Vec<Range<usize>> = chunks(&queries).collect();
        assert_eq!(passes, [0..4, 4..6, 6..8, 8..9]);
    }

    #[test]
    fn a_pair_shares_what_comes_before_the_first_prediction() {
        let query = |tokens: &[u32], from| TokenQuery {
            tokens: tokens.into(),
            from,
        };
        let one = query(&[1, 2, 3, 4, 9], 4);
        for (other, shared) in [
            (query(&[1, 2, 5, 9], 3), 2),
            (query(&[1, 2, 3, 4, 9], 4), 3),
            (query(&[1, 2, 3, 4, 9], 2), 1),
            (query(&[7, 2, 3, 9], 3), 0),
        ] {
            assert_eq!(shared_tokens(&[&one, &other]), shared);
        }
        assert_eq!(shared_tokens(&[&one]), 0);
    }
}
