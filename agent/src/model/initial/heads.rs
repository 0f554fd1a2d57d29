//! A previous-token head and an induction head in the initial weights of a plain decoder.
//!
//! An induction head looks up what followed the last occurrence of the present token (Olsson et al.,
//! arXiv 2209.11895). It needs a head of an earlier layer that attends to the previous token. Small
//! decoders often do not find this pair during training. Here both are written into the initial
//! weights. The layout stays Llama's, and training may change every weight. This is our extension.
//!
//! With σ the deviation of embeddings, H the width and w the width of a head, the stream is divided
//! into dimension 0, the content (H − 1 − R dimensions), and the last R dimensions:
//!
//! ```text
//! embedding        [ c | e | 0 ],  c = σ √(H − 1 − R), about |e|;  |P e| = σ √R for every token
//! layer 0, head 0  query and key read dimension 0 only; the score is that of `previous_token`
//!                  value P e of the attended token, written into the last R dimensions with norm c
//! layer 1, head 0  query P e of the token, key the last R dimensions: P e of the token before it
//!                  logit 30 cos(P e, P e') if no rotation turns them
//!                  value Q e of the attended token; Qᵀ Q e, scaled, is added to the content
//! ```
//!
//! P `[R, H − 1 − R]` and Q `[w, H − 1 − R]` have random orthonormal rows. R/2 is the number of
//! rotary pairs that turn by at most 2 radians within the context; the match uses only these. The
//! embedding is also the output matrix, so the addition raises the logit of the attended token, in
//! the mean to twice that of the present token, whose embedding is in the stream too.
//!
//! Query head 0 and key-value head 0 of both layers are used. The other query heads of the group have
//! the same keys and values, and output matrices of zeros.

use super::previous_token::PreviousTokenScore;
use super::random::{EMBEDDING_DEVIATION, normal};
use crate::error::AgentError;
use crate::model::config::{DecoderConfig, Family};
use crate::model::weights::Weights;
use rand::{SeedableRng, rngs::StdRng};
use std::ops::Range;

/// Angle by which a rotary pair of the match may turn within the context, radians.
const LARGEST_TURN: f64 = 2.0;

/// The fewest rotary pairs with which tokens are told apart.
const FEWEST_PAIRS: usize = 3;

/// The attention logit of a match.
const MATCH_LOGIT: f64 = 30.0;

/// The logit of the attended token over that of the present token, in the mean.
const COPY_GAIN: f64 = 2.0;

impl Weights {
    /// Returns the same trunk weights with a previous-token head in layer 0 and an induction head in
    /// layer 1, drawn from the seed.
    ///
    /// # Errors
    /// As [`check_initial_heads`], or if a tensor is missing or has another shape.
    pub fn with_initial_heads(
        mut self,
        config: &DecoderConfig,
        seed: u64,
    ) -> Result<Self, AgentError> {
        let circuit = InductionCircuit::new(config, seed)?;
        circuit.write_embeddings(self.matrix("model.embed_tokens", config.vocab_size, config)?);
        let query = config.query_width();
        let kv = config.kv_width();
        let attention = "model.layers.0.self_attn";
        let rows = self.matrix(&format!("{attention}.q_proj"), query, config)?;
        circuit.write_previous_token(rows, Rotation::ToPrevious);
        let rows = self.matrix(&format!("{attention}.k_proj"), kv, config)?;
        circuit.write_previous_token(rows, Rotation::None);
        let rows = self.matrix(&format!("{attention}.v_proj"), kv, config)?;
        circuit.write_content_rows(rows, &circuit.code, 1.0);
        let output = self.tensor(&format!("{attention}.o_proj"), config.hidden_size, query)?;
        circuit.write_reserved(output, query);
        let attention = "model.layers.1.self_attn";
        let rows = self.matrix(&format!("{attention}.q_proj"), query, config)?;
        circuit.write_match_query(rows);
        let rows = self.matrix(&format!("{attention}.k_proj"), kv, config)?;
        circuit.write_match_key(rows);
        let rows = self.matrix(&format!("{attention}.v_proj"), kv, config)?;
        circuit.write_content_rows(rows, &circuit.copied, circuit.copy_factor());
        let output = self.tensor(&format!("{attention}.o_proj"), config.hidden_size, query)?;
        circuit.write_copy(output, query);
        Ok(self)
    }

    /// The values of a matrix `[rows, hidden]`.
    fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        config: &DecoderConfig,
    ) -> Result<&mut [f32], AgentError> {
        self.tensor(name, rows, config.hidden_size)
    }

    /// The values of a matrix `[rows, columns]`.
    fn tensor(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<&mut [f32], AgentError> {
        let name = format!("{name}.weight");
        self.get(&name, &[rows, columns])?;
        let tensor = self.0.get_mut(&name);
        Ok(tensor.map_or(&mut [], |tensor| &mut tensor.data))
    }
}

/// Refuses a decoder that cannot have the heads of [`Weights::with_initial_heads`].
///
/// # Errors
/// If it is not a plain Llama with tied embeddings and two layers or more, or if its heads are too
/// narrow for its context. The message names the sizes.
pub fn check_initial_heads(config: &DecoderConfig) -> Result<(), AgentError> {
    config.check()?;
    InductionCircuit::new(config, 0).map(drop)
}

/// The phases of a head's rows before the rotation.
#[derive(Clone, Copy)]
enum Rotation {
    /// None: the keys.
    None,
    /// Those of the token before: the queries.
    ToPrevious,
}

/// The numbers of both heads.
struct InductionCircuit {
    hidden: usize,
    head_width: usize,
    /// ε of RMSNorm.
    epsilon: f64,
    /// Radians per position, `[head_width / 2]`.
    frequencies: Vec<f64>,
    /// Logits of the previous-token head over those of vectors of length 1.
    previous: PreviousTokenScore,
    /// Factor of the rotated vectors' length, squared.
    rotated_length: f64,
    /// The rotary pairs of the match.
    pairs: Range<usize>,
    /// P, row by row.
    code: Vec<Vec<f64>>,
    /// Q, row by row.
    copied: Vec<Vec<f64>>,
}

impl InductionCircuit {
    fn new(config: &DecoderConfig, seed: u64) -> Result<Self, AgentError> {
        if config.family != Family::Llama || !config.tie_word_embeddings {
            return Err(refused(
                "it needs the plain Llama layout with tied embeddings\n\
                 hint: remove goal_match, ngram_embedding and convolution, or initial_heads",
            ));
        }
        if config.num_hidden_layers < 2 {
            return Err(refused("it needs at least 2 layers, one for each head"));
        }
        let head_width = config.head_width();
        let context = config.max_position_embeddings;
        let (frequencies, length) = config
            .rope_scaling
            .frequencies(head_width, config.rope_theta);
        let slow = frequencies
            .iter()
            .filter(|frequency| **frequency * context as f64 <= LARGEST_TURN)
            .count();
        let pairs = frequencies.len() - slow..frequencies.len();
        let previous = (slow >= FEWEST_PAIRS)
            .then(|| PreviousTokenScore::new(&frequencies, context))
            .flatten();
        let previous = previous.ok_or_else(|| {
            refused(&format!(
                "heads of width {head_width} are too narrow for a context of {context} tokens\n\
                 hint: use fewer heads, or a shorter context"
            ))
        })?;
        let hidden = config.hidden_size;
        let content = hidden.saturating_sub(1 + 2 * slow);
        if content < head_width {
            return Err(refused(&format!(
                "hidden = {hidden} is too narrow for heads of width {head_width}\n\
                 hint: it must be at least {}",
                head_width + 1 + 2 * slow
            )));
        }
        let mut rng = StdRng::seed_from_u64(seed);
        Ok(Self {
            hidden,
            head_width,
            epsilon: config.rms_norm_eps,
            frequencies,
            previous,
            rotated_length: length * length,
            pairs,
            code: orthonormal_rows(2 * slow, content, &mut rng),
            copied: orthonormal_rows(head_width, content, &mut rng),
        })
    }

    /// Number of content dimensions.
    fn content(&self) -> usize {
        self.hidden - 1 - self.code.len()
    }

    /// c: the constant in dimension 0, which is also the norm of the reserved dimensions.
    fn constant(&self) -> f64 {
        EMBEDDING_DEVIATION * (self.content() as f64).sqrt()
    }

    /// |P e| of every token.
    fn code_norm(&self) -> f64 {
        EMBEDDING_DEVIATION * (self.code.len() as f64).sqrt()
    }

    /// The divisor of the norm before layer 0 or 1. Before layer 0, the stream has two parts of norm
    /// c, and before layer 1 three.
    fn divisor(&self, parts: f64) -> f64 {
        (parts * self.constant().powi(2) / self.hidden as f64 + self.epsilon).sqrt()
    }

    /// The length of q and k over √(q · k), so that attention's logit is `logit`.
    fn logit_factor(&self, logit: f64) -> f64 {
        (logit * (self.head_width as f64).sqrt() / self.rotated_length).sqrt()
    }

    /// `[ c | e | 0 ]` in each row, with |P e| = σ √R.
    fn write_embeddings(&self, table: &mut [f32]) {
        let reserved = self.hidden - self.code.len();
        for row in table.chunks_exact_mut(self.hidden) {
            row[0] = self.constant() as f32;
            row[reserved..].fill(0.0);
            let content = &mut row[1..reserved];
            let products: Vec<f64> = self.code.iter().map(|p| product(p, content)).collect();
            let norm = products.iter().map(|x| x * x).sum::<f64>().sqrt();
            let change = self.code_norm() / norm.max(f64::MIN_POSITIVE) - 1.0;
            for (p, x) in self.code.iter().zip(products) {
                for (value, p) in content.iter_mut().zip(p) {
                    *value += (p * x * change) as f32;
                }
            }
        }
    }

    /// Rows of layer 0's queries or keys, which read dimension 0 only.
    fn write_previous_token(&self, matrix: &mut [f32], rotation: Rotation) {
        let half = self.head_width / 2;
        let constant = self.constant() / self.divisor(2.0);
        matrix[..self.head_width * self.hidden].fill(0.0);
        for (pair, amplitude) in self.previous.amplitudes.iter().enumerate() {
            let length = self.logit_factor(*amplitude) / constant;
            let angle = match rotation {
                Rotation::None => 0.0,
                Rotation::ToPrevious => -self.frequencies[pair],
            };
            matrix[pair * self.hidden] = (length * angle.cos()) as f32;
            matrix[(pair + half) * self.hidden] = (length * angle.sin()) as f32;
        }
    }

    /// The first rows of a value matrix: these rows of the content, times a factor.
    fn write_content_rows(&self, matrix: &mut [f32], rows: &[Vec<f64>], factor: f64) {
        for (index, row) in rows.iter().enumerate() {
            self.write_content_row(matrix, index, row, factor);
        }
    }

    fn write_content_row(&self, matrix: &mut [f32], index: usize, row: &[f64], factor: f64) {
        let target = &mut matrix[index * self.hidden..][..self.hidden];
        target.fill(0.0);
        for (value, number) in target[1..].iter_mut().zip(row) {
            *value = (factor * number) as f32;
        }
    }

    /// Layer 0's output: the first R values into the reserved dimensions, with norm c.
    fn write_reserved(&self, output: &mut [f32], columns: usize) {
        let reserved = self.hidden - self.code.len();
        let gain = self.constant() * self.divisor(2.0) / self.code_norm();
        for index in 0..self.code.len() {
            output[(reserved + index) * columns + index] = gain as f32;
        }
    }

    /// The factor of layer 1's queries and keys.
    fn match_factor(&self) -> f64 {
        let divisor = self.divisor(3.0);
        let lengths = self.code_norm() / divisor * (self.constant() / divisor);
        self.logit_factor(MATCH_LOGIT) / lengths.sqrt()
    }

    fn write_match_query(&self, matrix: &mut [f32]) {
        let half = self.head_width / 2;
        matrix[..self.head_width * self.hidden].fill(0.0);
        for (pair, rows) in self.pairs.clone().zip(self.code.chunks_exact(2)) {
            self.write_content_row(matrix, pair, &rows[0], self.match_factor());
            self.write_content_row(matrix, pair + half, &rows[1], self.match_factor());
        }
    }

    fn write_match_key(&self, matrix: &mut [f32]) {
        let half = self.head_width / 2;
        let reserved = self.hidden - self.code.len();
        matrix[..self.head_width * self.hidden].fill(0.0);
        for (index, pair) in self.pairs.clone().enumerate() {
            let column = reserved + 2 * index;
            matrix[pair * self.hidden + column] = self.match_factor() as f32;
            matrix[(pair + half) * self.hidden + column + 1] = self.match_factor() as f32;
        }
    }

    /// The factor of layer 1's values, and of its output. Qᵀ Q e is on average w/(H − 1 − R) of e.
    fn copy_factor(&self) -> f64 {
        let share = self.copied.len() as f64 / self.content() as f64;
        (COPY_GAIN / share * self.divisor(3.0)).sqrt()
    }

    fn write_copy(&self, output: &mut [f32], columns: usize) {
        for (index, row) in self.copied.iter().enumerate() {
            for (dimension, number) in row.iter().enumerate() {
                output[(1 + dimension) * columns + index] = (self.copy_factor() * number) as f32;
            }
        }
    }
}

fn refused(reason: &str) -> AgentError {
    AgentError::Config(format!("initial_heads: {reason}"))
}

fn product(row: &[f64], values: &[f32]) -> f64 {
    row.iter().zip(values).map(|(a, b)| a * f64::from(*b)).sum()
}

/// Random rows of length 1, each orthogonal to the others (Gram-Schmidt, twice for precision).
fn orthonormal_rows(count: usize, width: usize, rng: &mut StdRng) -> Vec<Vec<f64>> {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for _ in 0..count {
        let mut row: Vec<f64> = (0..width).map(|_| f64::from(normal(rng))).collect();
        for other in rows.iter().chain(&rows) {
            let overlap: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            for (value, b) in row.iter_mut().zip(other) {
                *value -= overlap * b;
            }
        }
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter_mut().for_each(|value| *value /= length);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::model::decoder::Decoder;
    use burn::tensor::{Int, Tensor, TensorData};
    use rand::seq::SliceRandom;

    fn config() -> DecoderConfig {
        DecoderConfig {
            vocab_size: 600,
            hidden_size: 192,
            intermediate_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 6,
            num_key_value_heads: 3,
            max_position_embeddings: 1024,
            ..DecoderConfig::default()
        }
    }

    fn born(config: &DecoderConfig, seed: u64) -> Weights {
        Weights::random(config, seed)
            .with_initial_heads(config, seed)
            .unwrap()
    }

    /// Different random token ids.
    fn random_tokens(count: usize, vocabulary: u32, seed: u64) -> Vec<u32> {
        let mut all: Vec<u32> = (0..vocabulary).collect();
        all.shuffle(&mut StdRng::seed_from_u64(seed));
        all.truncate(count);
        all
    }

    fn tensor(tokens: &[u32]) -> Tensor<2, Int> {
        let ids: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
        Tensor::from_data(
            TensorData::new(ids, [1, tokens.len()]),
            &support::device::device(),
        )
    }

    /// The residual stream after the first `layers` layers, row by row.
    fn stream(config: &DecoderConfig, weights: &Weights, tokens: &[u32]) -> Vec<Vec<f32>> {
        let decoder = Decoder::from_weights(config, weights, &support::device::device()).unwrap();
        let positions = decoder.positions(tokens.len(), &support::device::device());
        let after = decoder.through(
            &decoder.layers[0],
            decoder.embedded(tensor(tokens)),
            &positions,
        );
        let data = after.into_data().try_to_vec::<f32>().unwrap();
        data.chunks_exact(config.hidden_size)
            .map(<[f32]>::to_vec)
            .collect()
    }

    /// The share of the tokens of the second copy, from its second token, that get the highest logit.
    fn induction(config: &DecoderConfig, weights: &Weights, copy: &[u32]) -> f64 {
        let decoder = Decoder::from_weights(config, weights, &support::device::device()).unwrap();
        let tokens = [copy, copy].concat();
        let hidden = decoder
            .hidden(tensor(&tokens))
            .reshape([tokens.len(), config.hidden_size]);
        let logits = decoder.logits(hidden).into_data();
        let logits = logits.try_to_vec::<f32>().unwrap();
        let rows: Vec<&[f32]> = logits.chunks_exact(config.vocab_size).collect();
        let right = (copy.len()..tokens.len() - 1)
            .filter(|at| {
                let highest = rows[*at].iter().copied().fold(f32::NEG_INFINITY, f32::max);
                rows[*at][tokens[at + 1] as usize] == highest
            })
            .count();
        right as f64 / (copy.len() - 1) as f64
    }

    /// After layer 0, the reserved dimensions of each token are the projection of the token before
    /// it, of norm c. Its own embedding is unchanged.
    #[test]
    fn the_first_layer_copies_from_the_previous_token() {
        let config = config();
        let weights = born(&config, 1);
        let circuit = InductionCircuit::new(&config, 1).unwrap();
        let tokens = random_tokens(300, 600, 2);
        let embeddings = &weights.0["model.embed_tokens.weight"].data;
        let reserved = config.hidden_size - circuit.code.len();
        assert_eq!(circuit.code.len(), 10, "5 slow pairs");
        let after = stream(&config, &weights, &tokens);
        let mut least: f64 = 1.0;
        for at in 1..tokens.len() {
            let row = |id: u32| &embeddings[id as usize * config.hidden_size..][..reserved];
            assert_eq!(after[at][..reserved], *row(tokens[at]));
            let expected: Vec<f64> = circuit
                .code
                .iter()
                .map(|p| product(p, &row(tokens[at - 1])[1..]))
                .map(|x| x * circuit.constant() / circuit.code_norm())
                .collect();
            // The coefficient of the expected vector: the attention, up to the divisor of the norm.
            let share = product(&expected, &after[at][reserved..]) / circuit.constant().powi(2);
            least = least.min(share);
            assert!(share < 1.3, "{share}");
        }
        assert!(least > 0.75, "{least}");
    }

    /// Measured: 0.974, 0.897 and 0.945. Without the heads a decoder predicts the present token, never
    /// the next.
    #[test]
    fn the_untrained_decoder_continues_a_repeated_list() {
        let config = config();
        let mut shares = Vec::new();
        for (seed, length) in [(1, 40), (2, 40), (3, 200)] {
            let copy = random_tokens(length, 600, seed + 10);
            shares.push(induction(&config, &born(&config, seed), &copy));
            assert_eq!(
                induction(&config, &Weights::random(&config, seed), &copy),
                0.0
            );
        }
        assert!(shares.iter().all(|share| *share > 0.75), "{shares:?}");
    }

    #[test]
    fn other_tensors_stay_and_the_seed_decides_the_heads() {
        let config = config();
        let random = Weights::random(&config, 1);
        let with_heads = born(&config, 1);
        assert_eq!(with_heads, born(&config, 1));
        let changed: Vec<&str> = random
            .0
            .iter()
            .filter(|(name, tensor)| with_heads.0[*name] != **tensor)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            changed.len(),
            9,
            "the embedding and four matrices of two layers"
        );
        assert!(
            changed.iter().all(|name| !name.contains("mlp")),
            "{changed:?}"
        );
        // Rows of the other heads stay.
        let [before, after] = [&random, &with_heads]
            .map(|weights| &weights.0["model.layers.0.self_attn.q_proj.weight"]);
        assert_eq!(before.data[32 * 192..], after.data[32 * 192..]);
        let other = random.with_initial_heads(&config, 2).unwrap();
        assert_ne!(other, with_heads);
    }

    #[test]
    fn a_decoder_that_cannot_have_the_heads_is_refused() {
        assert!(check_initial_heads(&config()).is_ok());
        for (config, words) in [
            (
                DecoderConfig {
                    num_hidden_layers: 1,
                    ..config()
                },
                "at least 2 layers",
            ),
            (
                DecoderConfig {
                    tie_word_embeddings: false,
                    ..config()
                },
                "tied embeddings",
            ),
            (
                DecoderConfig {
                    family: Family::Hearth,
                    ..config()
                },
                "plain Llama layout",
            ),
            (
                DecoderConfig {
                    num_attention_heads: 24,
                    ..config()
                },
                "heads of width 8 are too narrow for a context of 1024 tokens",
            ),
            (
                DecoderConfig {
                    hidden_size: 40,
                    head_dim: Some(32),
                    ..config()
                },
                "hidden = 40 is too narrow",
            ),
        ] {
            let error = check_initial_heads(&config).unwrap_err().to_string();
            assert!(
                error.contains("initial_heads") && error.contains(words),
                "{error}"
            );
        }
    }
}
