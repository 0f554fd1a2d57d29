//! A policy as a function from token ids to predictions of the next token.

use agent::inference::{KvCache, PolicyInference, Span, on_all_threads};
use std::ops::Range;

/// Largest number of tokens that one forward pass reads, unless a single query is longer.
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
    /// Returns, for each query, the predictions of its tokens from `from` on.
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

/// Returns ranges of queries that are read together.
fn chunks(queries: &[&TokenQuery]) -> impl Iterator<Item = Range<usize>> {
    let mut starts = vec![0];
    let mut tokens = 0;
    for (index, query) in queries.iter().enumerate() {
        tokens += query.tokens.len();
        if tokens > TOKENS_AT_ONCE && index > 0 {
            starts.push(index);
            tokens = query.tokens.len();
        }
    }
    starts.push(queries.len());
    (1..starts.len()).map(move |end| starts[end - 1]..starts[end])
}

fn predict_chunk(policy: &PolicyInference, queries: &[&TokenQuery]) -> Vec<Vec<TokenPrediction>> {
    let width = policy.trunk.config().hidden_size;
    let vocab = policy.trunk.config().vocab_size;
    let mut caches: Vec<KvCache> = queries.iter().map(|_| KvCache::default()).collect();
    let mut spans: Vec<Span<'_>> = queries
        .iter()
        .zip(&mut caches)
        .map(|(query, cache)| Span::new(&query.tokens[..query.tokens.len() - 1], cache))
        .collect();
    let hidden = policy.trunk.extend(&mut spans);
    // The state of a token predicts the next one, so the rows begin one token before `from`.
    let mut rows = Vec::new();
    let mut start = 0;
    for query in queries {
        let end = start + query.tokens.len() - 1;
        rows.extend_from_slice(&hidden[(start + query.from - 1) * width..end * width]);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass has at most [`TOKENS_AT_ONCE`] tokens, unless it has one query.
    #[test]
    fn queries_are_read_in_passes_of_limited_size() {
        let lengths = [3000, 1096, 1, 5000, 4096, 2];
        let queries: Vec<TokenQuery> = lengths
            .iter()
            .map(|length| TokenQuery {
                tokens: vec![0; *length],
                from: 1,
            })
            .collect();
        let queries: Vec<&TokenQuery> = queries.iter().collect();
        let passes: Vec<Range<usize>> = chunks(&queries).collect();
        assert_eq!(passes, [0..2, 2..3, 3..4, 4..5, 5..6]);
    }
}
