//! Attention of new tokens over a KV cache, for play on the CPU.
//!
//! Keys are stored in blocks of sixteen tokens, so that a vector holds sixteen scores and no sum runs
//! across a vector. Query heads that share a key head are computed together, so that each key and
//! value is read once for them. A score is one chain of fused multiply-adds over the numbers of a
//! head, and a mixed value is one chain over the tokens. Therefore no bit changes if a sequence is
//! cut at another place.

mod cache;

pub use self::cache::{LayerKv, reserve};

use self::cache::{CacheNumber, Formatted};
use crate::elementwise;
use crate::gemm::multiply_add;
use crate::simd::{self, Simd, SimdJob, WIDTH, vector_at};

/// Query heads that are computed together.
const HEADS: usize = 4;
/// Blocks of keys that are scored together if there are registers for their scores.
const BLOCKS: usize = 4;
/// Vectors of a head's values that are mixed together.
const CHUNKS: usize = 4;

/// Widths of an attention, in numbers.
#[derive(Debug, Clone, Copy)]
pub struct HeadWidths {
    /// Of one head.
    pub head: usize,
    /// Of all query heads together.
    pub queries: usize,
    /// Of all key heads together. All value heads together have the same width.
    pub kv: usize,
}

/// Keys and values of consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct KvSegment<'a> {
    /// May have more tokens than are visible.
    pub cache: &'a LayerKv,
    /// Visible tokens.
    pub tokens: usize,
}

/// Attention of some rows, each a new token of a sequence: softmax(q · k / √head) · v.
pub struct CachedAttention<'a, V> {
    /// The widths of the heads.
    pub widths: HeadWidths,
    /// `[rows, queries + keys + values]`, of which only the queries are read.
    pub qkv: &'a [f32],
    /// Returns the segments of a row's sequence, and how many of their tokens are not later than the row.
    pub visible: V,
    /// How many tokens a row sees, itself included; at least 1.
    pub window: usize,
    /// `[rows, queries]`; overwritten.
    pub mixed: &'a mut [f32],
}

impl<'a, V: Fn(usize) -> (&'a [KvSegment<'a>], usize)> CachedAttention<'a, V> {
    /// Computes the attention on this thread.
    pub fn run(self) {
        simd::dispatch(self);
    }
}

impl<'a, V: Fn(usize) -> (&'a [KvSegment<'a>], usize)> SimdJob for CachedAttention<'a, V> {
    #[inline(always)]
    fn run_with<S: Simd>(self, simd: S) {
        let HeadWidths { head, queries, kv } = self.widths;
        let group = queries / kv;
        let mut scores = Vec::new();
        let rows = self
            .qkv
            .chunks_exact(queries + 2 * kv)
            .zip(self.mixed.chunks_exact_mut(queries))
            .enumerate();
        for (row, (qkv, mixed)) in rows {
            let (segments, count) = (self.visible)(row);
            let first_seen = count.saturating_sub(self.window);
            scores.resize(scores.len().max(HEADS * (count + WIDTH)), 0.0);
            for shared in 0..kv / head {
                let key_head = KeyHead {
                    head,
                    kv,
                    column: shared * head,
                    first_seen,
                    count,
                };
                for first in (0..group).step_by(HEADS) {
                    let heads = HEADS.min(group - first);
                    let at = (shared * group + first) * head;
                    let work = HeadsWork {
                        key_head,
                        queries: &qkv[at..][..heads * head],
                        segments,
                        scores: &mut scores,
                        mixed: &mut mixed[at..][..heads * head],
                    };
                    match segments[0].cache.0 {
                        Formatted::F32(_) => work.attend_heads::<f32, S>(simd, heads),
                        Formatted::F16(_) => work.attend_heads::<u16, S>(simd, heads),
                    }
                }
            }
        }
    }
}

/// Position of a key head in the cache.
#[derive(Clone, Copy)]
struct KeyHead {
    /// Numbers of a head.
    head: usize,
    /// Numbers of all key heads.
    kv: usize,
    /// The head's first number among those of all key heads.
    column: usize,
    /// The first token that is visible.
    first_seen: usize,
    /// Tokens up to the last that is visible.
    count: usize,
}

/// Query heads that share a key head.
struct HeadsWork<'a> {
    key_head: KeyHead,
    /// `[heads, head]`.
    queries: &'a [f32],
    segments: &'a [KvSegment<'a>],
    /// Has room for `count + WIDTH` numbers of each head.
    scores: &'a mut [f32],
    /// `[heads, head]`.
    mixed: &'a mut [f32],
}

impl HeadsWork<'_> {
    #[inline(always)]
    fn attend_heads<E: CacheNumber, S: Simd>(self, simd: S, heads: usize) {
        match heads {
            4 => self.attend::<4, E, S>(simd),
            3 => self.attend::<3, E, S>(simd),
            2 => self.attend::<2, E, S>(simd),
            _ => self.attend::<1, E, S>(simd),
        }
    }

    #[inline(always)]
    fn attend<const H: usize, E: CacheNumber, S: Simd>(self, simd: S) {
        let Self {
            key_head,
            queries,
            segments,
            scores,
            mixed,
        } = self;
        let KeyHead {
            first_seen,
            count,
            head,
            kv,
            ..
        } = key_head;
        let mut start = 0;
        for segment in segments {
            let hidden = first_seen.saturating_sub(start) / WIDTH;
            let blocks = segment.tokens.min(count - start).div_ceil(WIDTH);
            let together = if S::REGISTERS > HEADS * BLOCKS {
                hidden + blocks.saturating_sub(hidden) / BLOCKS * BLOCKS
            } else {
                hidden
            };
            let keys = &E::of(segment.cache).keys[..];
            for block in (hidden..together).step_by(BLOCKS) {
                let scores = &mut scores[start + block * WIDTH..];
                key_head.score::<H, BLOCKS, E, S>(simd, queries, &keys[block * kv..], scores);
            }
            for block in together..blocks {
                let scores = &mut scores[start + block * WIDTH..];
                key_head.score::<H, 1, E, S>(simd, queries, &keys[block * kv..], scores);
            }
            start += segment.tokens.min(count - start);
        }
        for scores in scores.chunks_exact_mut(count + WIDTH).take(H) {
            elementwise::softmax(&mut scores[first_seen..count]);
        }
        if segments
            .iter()
            .any(|segment| E::of(segment.cache).is_broken)
        {
            mixed.fill(f32::NAN);
            return;
        }
        mixed.fill(0.0);
        let mut start = 0;
        for segment in segments {
            let tokens = segment.tokens.min(count - start);
            let hidden = first_seen.saturating_sub(start).min(tokens);
            let weights = &scores[start + hidden..];
            let values = &E::of(segment.cache).values[hidden * kv..tokens * kv];
            let whole = head / WIDTH;
            let together = whole / CHUNKS * CHUNKS;
            for chunk in (0..together).step_by(CHUNKS) {
                key_head.mix::<H, CHUNKS, E, S>(simd, weights, values, chunk * WIDTH, mixed);
            }
            for chunk in together..whole {
                key_head.mix::<H, 1, E, S>(simd, weights, values, chunk * WIDTH, mixed);
            }
            key_head.mix_rest::<H, E>(weights, values, whole * WIDTH, mixed);
            start += tokens;
        }
    }
}

impl KeyHead {
    /// Scores of B blocks of keys. The scores of a head begin `count + WIDTH` numbers after those of
    /// the previous one.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "every index is of several arrays"
    )]
    fn score<const H: usize, const B: usize, E: CacheNumber, S: Simd>(
        self,
        simd: S,
        queries: &[f32],
        keys: &[[E; WIDTH]],
        scores: &mut [f32],
    ) {
        let Self {
            head,
            kv,
            column,
            count,
            ..
        } = self;
        let zero = simd.splat(0.0);
        let mut sums = [[zero; B]; H];
        let mut query = [&queries[..0]; H];
        for h in 0..H {
            query[h] = &queries[h * head..][..head];
        }
        let mut key = [&keys[..0]; B];
        for b in 0..B {
            key[b] = &keys[b * kv + column..][..head];
        }
        for d in 0..head {
            let mut left = [0.0; H];
            for h in 0..H {
                left[h] = query[h][d];
            }
            let mut right = [zero; B];
            for b in 0..B {
                right[b] = E::load(simd, &key[b][d]);
            }
            multiply_add::<H, B, S>(simd, &left, &right, &mut sums);
        }
        let scale = simd.splat(1.0 / (head as f32).sqrt());
        for h in 0..H {
            for b in 0..B {
                let at = h * (count + WIDTH) + b * WIDTH;
                scores[at..][..WIDTH].copy_from_slice(&simd.to_array(simd.mul(sums[h][b], scale)));
            }
        }
    }

    /// `mixed += Σ weight · value` over the tokens of `values` `[tokens, kv]`, in C vectors of each
    /// head that begin with its number `from`.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "every index is of several arrays"
    )]
    fn mix<const H: usize, const C: usize, E: CacheNumber, S: Simd>(
        self,
        simd: S,
        weights: &[f32],
        values: &[E],
        from: usize,
        mixed: &mut [f32],
    ) {
        let Self {
            head,
            kv,
            column,
            count,
            ..
        } = self;
        let mut sums = [[simd.splat(0.0); C]; H];
        for h in 0..H {
            for c in 0..C {
                sums[h][c] = simd.load(vector_at(mixed, h * head + from + c * WIDTH));
            }
        }
        let mut weight = [&weights[..0]; H];
        for h in 0..H {
            weight[h] = &weights[h * (count + WIDTH)..][..values.len() / kv];
        }
        for (token, values) in values.chunks_exact(kv).enumerate() {
            let mut left = [0.0; H];
            for h in 0..H {
                left[h] = weight[h][token];
            }
            let values = &values[column + from..][..C * WIDTH];
            let mut right = [simd.splat(0.0); C];
            for c in 0..C {
                right[c] = E::load(simd, vector_at(values, c * WIDTH));
            }
            multiply_add::<H, C, S>(simd, &left, &right, &mut sums);
        }
        for h in 0..H {
            for c in 0..C {
                mixed[h * head + from + c * WIDTH..][..WIDTH]
                    .copy_from_slice(&simd.to_array(sums[h][c]));
            }
        }
    }

    /// [`KeyHead::mix`] of the numbers from `from` on, which do not fill a vector.
    #[inline(always)]
    fn mix_rest<const H: usize, E: CacheNumber>(
        self,
        weights: &[f32],
        values: &[E],
        from: usize,
        mixed: &mut [f32],
    ) {
        let Self {
            head,
            kv,
            column,
            count,
            ..
        } = self;
        for h in 0..H {
            for d in from..head {
                let out = &mut mixed[h * head + d];
                for (token, values) in values.chunks_exact(kv).enumerate() {
                    *out = weights[h * (count + WIDTH) + token]
                        .mul_add(values[column + d].to_f32(), *out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Portable;
    use half::f16;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
            .collect()
    }

    /// softmax(q · k / √d) · v in f64.
    fn formula(
        widths: HeadWidths,
        queries: &[f32],
        keys: &[f32],
        values: &[f32],
        tokens: std::ops::Range<usize>,
    ) -> Vec<f64> {
        let HeadWidths { head, kv, .. } = widths;
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
            let scores: Vec<f64> = (tokens.clone())
                .map(|token| (dot(token) / (head as f64).sqrt()).exp())
                .collect();
            let total: f64 = scores.iter().sum();
            mixed.extend((0..head).map(|d| -> f64 {
                let value = |at: usize| f64::from(values[(tokens.start + at) * kv + column + d]);
                scores
                    .iter()
                    .enumerate()
                    .map(|(at, score)| score * value(at))
                    .sum::<f64>()
                    / total
            }));
        }
        mixed
    }

    fn cache(
        empty: &LayerKv,
        kv: usize,
        keys: &[f32],
        values: &[f32],
        tokens: std::ops::Range<usize>,
    ) -> LayerKv {
        let mut cache = empty.clone();
        for token in tokens {
            let of = |numbers: &[f32]| numbers[token * kv..][..kv].to_vec();
            cache.push(&of(keys), &of(values), 3);
        }
        cache
    }

    /// The row with all keys in one segment or in several.
    fn attend(
        widths: HeadWidths,
        qkv: &[f32],
        keys: &[f32],
        values: &[f32],
        cuts: &[usize],
        [count, window]: [usize; 2],
        empty: &LayerKv,
    ) -> Vec<f32> {
        let parts: Vec<(LayerKv, usize)> = (cuts.windows(2))
            .map(|cut| {
                (
                    cache(empty, widths.kv, keys, values, cut[0]..cut[1]),
                    cut[1] - cut[0],
                )
            })
            .collect();
        let seen: Vec<KvSegment<'_>> = parts
            .iter()
            .map(|(cache, tokens)| KvSegment {
                cache,
                tokens: *tokens,
            })
            .collect();
        let mut mixed = vec![f32::NAN; widths.queries];
        let mut arrays = vec![f32::NAN; widths.queries];
        CachedAttention {
            widths,
            qkv,
            visible: |_| (&seen[..], count),
            window,
            mixed: &mut mixed,
        }
        .run();
        // As if the machine had no AVX-512.
        CachedAttention {
            widths,
            qkv,
            visible: |_| (&seen[..], count),
            window,
            mixed: &mut arrays,
        }
        .run_with(Portable);
        assert_eq!(bits(&mixed), bits(&arrays));
        mixed
    }

    fn bits(numbers: &[f32]) -> Vec<u32> {
        numbers.iter().map(|number| number.to_bits()).collect()
    }

    fn rounded(numbers: &[f32]) -> Vec<f32> {
        let round = |number: &f32| f16::from_f32(*number).to_f32();
        numbers.iter().map(round).collect()
    }

    /// Heads that fill vectors and heads that do not, groups of every size, one block and four, tokens
    /// that are not visible, windows, segments of any length.
    #[test]
    fn attention_equals_the_formula_wherever_the_cache_is_cut() {
        for (head, group, kv_heads) in [(64, 3, 2), (10, 1, 3), (16, 2, 1), (80, 7, 1), (128, 4, 2)]
        {
            let widths = HeadWidths {
                head,
                queries: head * group * kv_heads,
                kv: head * kv_heads,
            };
            let tokens = 150;
            let qkv = numbers(widths.queries + 2 * widths.kv, 1);
            let keys = numbers(tokens * widths.kv, 2);
            let values = numbers(tokens * widths.kv, 3);
            for count in [
                [1, tokens],
                [16, tokens],
                [17, tokens],
                [150, tokens],
                [150, 1],
                [150, 37],
                [17, 16],
            ] {
                for empty in [LayerKv::default(), LayerKv::f16()] {
                    let whole = attend(widths, &qkv, &keys, &values, &[0, tokens], count, &empty);
                    let visible = count[0].saturating_sub(count[1])..count[0];
                    // As f16, exactly what the rounded numbers give.
                    let [keys_read, values_read] = match empty.0 {
                        Formatted::F32(_) => [keys.clone(), values.clone()],
                        Formatted::F16(_) => [rounded(&keys), rounded(&values)],
                    };
                    let queries = &qkv[..widths.queries];
                    let exact = formula(widths, queries, &keys_read, &values_read, visible);
                    assert!(
                        whole
                            .iter()
                            .zip(&exact)
                            .all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5),
                        "{head} {group} {count:?}"
                    );
                    for cuts in [
                        &[0, 1, 150][..],
                        &[0, 16, 33, 149, 150],
                        &[0, 100, 100, 150],
                    ] {
                        assert_eq!(
                            attend(widths, &qkv, &keys, &values, cuts, count, &empty),
                            whole,
                            "{head} {group} {cuts:?}"
                        );
                    }
                }
            }
        }
    }

    /// f16 has no number above 65504: larger ones become it. Infinities and NaN give NaN.
    #[test]
    fn f16_keys_and_values_are_never_silently_wrong() {
        let widths = HeadWidths {
            head: 16,
            queries: 16,
            kv: 16,
        };
        let qkv = numbers(48, 1);
        let keys = numbers(32, 2);
        let mut values = numbers(32, 3);
        let run = |values: &[f32]| {
            attend(
                widths,
                &qkv,
                &keys,
                values,
                &[0, 2],
                [2, 2],
                &LayerKv::f16(),
            )
        };
        values[3] = 1e6;
        let clipped = run(&values);
        values[3] = 65504.0;
        assert_eq!(clipped, run(&values));
        for broken in [f32::NAN, f32::INFINITY] {
            values[3] = broken;
            assert!(run(&values).iter().all(|number| number.is_nan()));
        }
    }

    #[test]
    fn appended_caches_equal_the_cache_of_the_whole_sequence() {
        let (keys, values) = (numbers(40 * 6, 5), numbers(40 * 6, 6));
        for empty in [LayerKv::default(), LayerKv::f16()] {
            let part = |tokens| cache(&empty, 6, &keys, &values, tokens);
            for cut in [0, 1, 16, 31, 40] {
                let mut joined = part(0..cut);
                joined.append(&part(cut..40));
                assert_eq!(joined, part(0..40), "{cut}");
            }
        }
    }
}
