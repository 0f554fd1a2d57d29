//! Attention of one row over what stands before it, for the engine on the CPU.
//!
//! Keys lie sixteen tokens side by side, so that sixteen scores are made at once and no sum runs across a vector; the query
//! heads that share a key head go together, so that a key or a value is read once for them. A score is one chain of fused
//! multiply-adds over the head, a mixed value one over the tokens: where a sequence was cut changes no bit.

use crate::elementwise;
use crate::simd::{Lanes, WIDTH, Work, vector};

/// Query heads that go together.
const HEADS: usize = 4;
/// Blocks of keys that go together where there are registers for their scores.
const BLOCKS: usize = 4;
/// Vectors of a head's values that go together.
const CHUNKS: usize = 4;

/// Widths of attention, in numbers.
#[derive(Debug, Clone, Copy)]
pub struct Widths {
    /// Of a head.
    pub head: usize,
    /// Of all query heads.
    pub queries: usize,
    /// Of all key heads, which is also that of all value heads.
    pub kv: usize,
}

/// Keys and values of some tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// `[blocks, kv]`: sixteen tokens in each.
    pub keys: &'a [[f32; WIDTH]],
    /// `[tokens, kv]`.
    pub values: &'a [f32],
    /// How many are seen; what the last block has beyond them is not.
    pub tokens: usize,
}

/// Keys of a sequence, `[blocks, kv]`, as they come.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keys {
    blocks: Vec<[f32; WIDTH]>,
    tokens: usize,
}

impl Keys {
    /// Appends one token's keys, `[kv]`; there is room for so many tokens at first.
    pub fn push(&mut self, keys: impl ExactSizeIterator<Item = f32>, first: usize) {
        let (block, lane) = (self.tokens / WIDTH * keys.len(), self.tokens % WIDTH);
        if lane == 0 {
            reserve(
                &mut self.blocks,
                keys.len(),
                first.div_ceil(WIDTH) * keys.len(),
            );
            self.blocks.resize(block + keys.len(), [0.0; WIDTH]);
        }
        for (out, key) in self.blocks[block..].iter_mut().zip(keys) {
            out[lane] = key;
        }
        self.tokens += 1;
    }

    /// Appends the keys of a sequence that goes on here.
    pub fn append(&mut self, more: &Self) {
        let kv = more.blocks.len() / more.tokens.div_ceil(WIDTH).max(1);
        for token in 0..more.tokens {
            let keys = more.blocks[token / WIDTH * kv..][..kv]
                .iter()
                .map(|lanes| lanes[token % WIDTH]);
            self.push(keys, more.tokens);
        }
    }

    /// `[blocks, kv]`.
    pub fn blocks(&self) -> &[[f32; WIDTH]] {
        &self.blocks
    }
}

/// Makes room for more; by a quarter at a time, so that at most a fifth of a cache lies idle.
pub fn reserve<T>(numbers: &mut Vec<T>, more: usize, first: usize) {
    let length = numbers.len() + more;
    if length > numbers.capacity() {
        let room = length.max(numbers.len() + numbers.len() / 4).max(first);
        numbers.reserve_exact(room - numbers.len());
    }
}

/// Some rows of an attention, as a job for the widest vectors.
pub struct Attend<'a, R> {
    pub widths: Widths,
    /// `[rows, queries + keys + values]`, of which only the queries are read.
    pub qkv: &'a [f32],
    /// What each row sees, and how many tokens of it.
    pub seen: R,
    /// `[rows, queries]`; overwritten.
    pub mixed: &'a mut [f32],
}

impl<'a, R: Fn(usize) -> (&'a [Seen<'a>], usize)> Work for Attend<'a, R> {
    #[inline(always)]
    fn with<L: Lanes>(self, lanes: L) {
        let Widths { head, queries, kv } = self.widths;
        let group = queries / kv;
        let mut scores = Vec::new();
        let rows = self
            .qkv
            .chunks_exact(queries + 2 * kv)
            .zip(self.mixed.chunks_exact_mut(queries))
            .enumerate();
        for (row, (qkv, mixed)) in rows {
            let (seen, count) = (self.seen)(row);
            scores.resize(scores.len().max(HEADS * (count + WIDTH)), 0.0);
            for shared in 0..kv / head {
                let place = Place {
                    head,
                    kv,
                    column: shared * head,
                    count,
                };
                for first in (0..group).step_by(HEADS) {
                    let heads = HEADS.min(group - first);
                    let (at, numbers) = ((shared * group + first) * head, heads * head);
                    let (queries, mixed) = (&qkv[at..][..numbers], &mut mixed[at..][..numbers]);
                    match heads {
                        4 => some_heads::<4, L>(lanes, place, queries, seen, &mut scores, mixed),
                        3 => some_heads::<3, L>(lanes, place, queries, seen, &mut scores, mixed),
                        2 => some_heads::<2, L>(lanes, place, queries, seen, &mut scores, mixed),
                        _ => some_heads::<1, L>(lanes, place, queries, seen, &mut scores, mixed),
                    }
                }
            }
        }
    }
}

/// Where a key head lies.
#[derive(Clone, Copy)]
struct Place {
    /// Numbers of a head.
    head: usize,
    /// Numbers of all key heads.
    kv: usize,
    /// The head's first among them.
    column: usize,
    /// Tokens seen.
    count: usize,
}

/// H query heads that share a key head; `scores` has room for each head's tokens and a vector.
#[inline(always)]
fn some_heads<const H: usize, L: Lanes>(
    lanes: L,
    place: Place,
    queries: &[f32],
    seen: &[Seen<'_>],
    scores: &mut [f32],
    mixed: &mut [f32],
) {
    let (Place { count, head, .. }, stride) = (place, place.count + WIDTH);
    let scale = 1.0 / (head as f32).sqrt();
    let mut start = 0;
    for part in seen {
        let blocks = part.tokens.min(count - start).div_ceil(WIDTH);
        let together = if L::REGISTERS > HEADS * BLOCKS {
            blocks / BLOCKS * BLOCKS
        } else {
            0
        };
        for block in (0..together).step_by(BLOCKS) {
            score::<H, BLOCKS, L>(
                lanes,
                place,
                queries,
                part.keys,
                block,
                scale,
                &mut scores[start..],
            );
        }
        for block in together..blocks {
            score::<H, 1, L>(
                lanes,
                place,
                queries,
                part.keys,
                block,
                scale,
                &mut scores[start..],
            );
        }
        start += part.tokens.min(count - start);
    }
    for scores in scores.chunks_exact_mut(stride).take(H) {
        elementwise::softmax(&mut scores[..count]);
    }
    mixed.fill(0.0);
    let mut start = 0;
    for part in seen {
        let tokens = part.tokens.min(count - start);
        let whole = head / WIDTH;
        let together = whole / CHUNKS * CHUNKS;
        for chunk in (0..together).step_by(CHUNKS) {
            mix::<H, CHUNKS, L>(
                lanes,
                place,
                &scores[start..],
                part.values,
                tokens,
                chunk * WIDTH,
                mixed,
            );
        }
        for chunk in together..whole {
            mix::<H, 1, L>(
                lanes,
                place,
                &scores[start..],
                part.values,
                tokens,
                chunk * WIDTH,
                mixed,
            );
        }
        mix_rest::<H>(
            place,
            &scores[start..],
            part.values,
            tokens,
            whole * WIDTH,
            mixed,
        );
        start += tokens;
    }
}

/// Scores of B blocks of keys; a head's begin `count` and a vector after the one's before.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "every index is of several arrays"
)]
fn score<const H: usize, const B: usize, L: Lanes>(
    lanes: L,
    Place {
        head,
        kv,
        column,
        count,
    }: Place,
    queries: &[f32],
    keys: &[[f32; WIDTH]],
    block: usize,
    scale: f32,
    scores: &mut [f32],
) {
    let zero = lanes.splat(0.0);
    let mut held = [[zero; B]; H];
    let mut query = [&queries[..0]; H];
    for h in 0..H {
        query[h] = &queries[h * head..][..head];
    }
    let mut key = [&keys[..0]; B];
    for b in 0..B {
        key[b] = &keys[(block + b) * kv + column..][..head];
    }
    for d in 0..head {
        let mut numbers = [zero; B];
        for b in 0..B {
            numbers[b] = lanes.f32(&key[b][d]);
        }
        for h in 0..H {
            let query = lanes.splat(query[h][d]);
            for b in 0..B {
                held[h][b] = lanes.mul_add(query, numbers[b], held[h][b]);
            }
        }
    }
    let scale = lanes.splat(scale);
    for h in 0..H {
        for b in 0..B {
            let at = h * (count + WIDTH) + (block + b) * WIDTH;
            scores[at..][..WIDTH].copy_from_slice(&lanes.array(lanes.mul(held[h][b], scale)));
        }
    }
}

/// `mixed += Σ weight · value` over tokens, in C vectors of each head from one of its numbers on.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "every index is of several arrays"
)]
fn mix<const H: usize, const C: usize, L: Lanes>(
    lanes: L,
    Place {
        head,
        kv,
        column,
        count,
    }: Place,
    weights: &[f32],
    values: &[f32],
    tokens: usize,
    from: usize,
    mixed: &mut [f32],
) {
    let zero = lanes.splat(0.0);
    let mut held = [[zero; C]; H];
    for h in 0..H {
        for c in 0..C {
            held[h][c] = lanes.f32(vector(mixed, h * head + from + c * WIDTH));
        }
    }
    let mut weight = [&weights[..0]; H];
    for h in 0..H {
        weight[h] = &weights[h * (count + WIDTH)..][..tokens];
    }
    for (token, values) in values.chunks_exact(kv).take(tokens).enumerate() {
        let mut numbers = [zero; C];
        for c in 0..C {
            numbers[c] = lanes.f32(vector(values, column + from + c * WIDTH));
        }
        for h in 0..H {
            let weight = lanes.splat(weight[h][token]);
            for c in 0..C {
                held[h][c] = lanes.mul_add(weight, numbers[c], held[h][c]);
            }
        }
    }
    for h in 0..H {
        for c in 0..C {
            mixed[h * head + from + c * WIDTH..][..WIDTH].copy_from_slice(&lanes.array(held[h][c]));
        }
    }
}

/// [`mix`] of the numbers that fill no vector.
#[inline(always)]
fn mix_rest<const H: usize>(
    Place {
        head,
        kv,
        column,
        count,
    }: Place,
    weights: &[f32],
    values: &[f32],
    tokens: usize,
    from: usize,
    mixed: &mut [f32],
) {
    for h in 0..H {
        for d in from..head {
            let out = &mut mixed[h * head + d];
            for (token, values) in values.chunks_exact(kv).take(tokens).enumerate() {
                *out = weights[h * (count + WIDTH) + token].mul_add(values[column + d], *out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{self, Portable};

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
            .collect()
    }

    /// softmax(q · k / √d) · v in f64.
    fn written_out(
        widths: Widths,
        queries: &[f32],
        keys: &[f32],
        values: &[f32],
        count: usize,
    ) -> Vec<f64> {
        let Widths { head, kv, .. } = widths;
        let group = widths.queries / kv;
        let mut mixed = Vec::new();
        for (index, query) in queries.chunks_exact(head).enumerate() {
            let column = index / group * head;
            let dot = |token: usize| -> f64 {
                let key = &keys[token * kv + column..][..head];
                query
                    .iter()
                    .zip(key)
                    .map(|(q, k)| f64::from(*q) * f64::from(*k))
                    .sum()
            };
            let scores: Vec<f64> = (0..count)
                .map(|token| (dot(token) / (head as f64).sqrt()).exp())
                .collect();
            let total: f64 = scores.iter().sum();
            mixed.extend((0..head).map(|d| -> f64 {
                let value = |token: usize| f64::from(values[token * kv + column + d]);
                scores
                    .iter()
                    .enumerate()
                    .map(|(token, score)| score * value(token))
                    .sum::<f64>()
                    / total
            }));
        }
        mixed
    }

    /// The row with all keys in one part or in several.
    fn attend(
        widths: Widths,
        qkv: &[f32],
        keys: &[f32],
        values: &[f32],
        cuts: &[usize],
        count: usize,
    ) -> Vec<f32> {
        let kv = widths.kv;
        let parts: Vec<(Keys, &[f32], usize)> = (cuts.windows(2))
            .map(|cut| {
                let mut part = Keys::default();
                keys[cut[0] * kv..cut[1] * kv]
                    .chunks_exact(kv)
                    .for_each(|key| part.push(key.iter().copied(), 1));
                (part, &values[cut[0] * kv..cut[1] * kv], cut[1] - cut[0])
            })
            .collect();
        let seen: Vec<Seen<'_>> = parts
            .iter()
            .map(|(keys, values, tokens)| Seen {
                keys: keys.blocks(),
                values,
                tokens: *tokens,
            })
            .collect();
        let (mut mixed, mut arrays) = (
            vec![f32::NAN; widths.queries],
            vec![f32::NAN; widths.queries],
        );
        simd::widest(Attend {
            widths,
            qkv,
            seen: |_| (&seen[..], count),
            mixed: &mut mixed,
        });
        // As where there is no AVX-512.
        Attend {
            widths,
            qkv,
            seen: |_| (&seen[..], count),
            mixed: &mut arrays,
        }
        .with(Portable);
        assert_eq!(mixed, arrays);
        mixed
    }

    /// Heads that fill vectors and heads that do not, groups of every size, blocks by one and by four, tokens that are
    /// not seen, parts of any length.
    #[test]
    fn attention_equals_the_written_out_one_however_it_is_cut() {
        for (head, group, kv_heads) in [(64, 3, 2), (10, 1, 3), (16, 2, 1), (80, 7, 1), (128, 4, 2)]
        {
            let widths = Widths {
                head,
                queries: head * group * kv_heads,
                kv: head * kv_heads,
            };
            let tokens = 150;
            let qkv = numbers(widths.queries + 2 * widths.kv, 1);
            let (keys, values) = (
                numbers(tokens * widths.kv, 2),
                numbers(tokens * widths.kv, 3),
            );
            for count in [1, 16, 17, 150] {
                let whole = attend(widths, &qkv, &keys, &values, &[0, tokens], count);
                let exact = written_out(widths, &qkv[..widths.queries], &keys, &values, count);
                assert!(
                    whole
                        .iter()
                        .zip(&exact)
                        .all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5),
                    "{head} {group} {count}"
                );
                for cuts in [
                    &[0, 1, 150][..],
                    &[0, 16, 33, 149, 150],
                    &[0, 100, 100, 150],
                ] {
                    assert_eq!(
                        attend(widths, &qkv, &keys, &values, cuts, count),
                        whole,
                        "{head} {group} {cuts:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn keys_that_go_on_are_the_keys_of_the_whole() {
        let numbers = numbers(40 * 6, 5);
        let push = |from: usize, to: usize| {
            let mut keys = Keys::default();
            numbers[from * 6..to * 6]
                .chunks_exact(6)
                .for_each(|key| keys.push(key.iter().copied(), 3));
            keys
        };
        for cut in [0, 1, 16, 31, 40] {
            let mut joined = push(0, cut);
            joined.append(&push(cut, 40));
            assert_eq!(joined, push(0, 40), "{cut}");
        }
    }
}
