//! Causal self-attention over whole sequences, with its gradient.
//!
//! Work is divided by key head: a job computes one key head of one sequence with the query heads that
//! share it. Queries go in blocks, so that only a block's scores are held. The backward pass
//! recomputes the weights from the normalizers instead of storing them (Dao et al., arXiv 2205.14135).

use super::host::{CpuTensor, numbers, tensor_like};
use crate::elementwise::{dot, exp, highest, total};
use crate::gemm::{LeftMatrix, StridedProduct};
use crate::simd::{self, Simd, SimdJob, WIDTH};
use rayon::prelude::*;
use std::sync::Arc;

/// Queries whose scores are computed together.
const BLOCK: usize = 32;

/// The heads of an attention, and its rotary tables.
#[derive(Debug, Clone)]
pub(crate) struct Heads {
    /// Sequences.
    pub(crate) batch: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key heads, which is also the number of value heads.
    pub(crate) kv_heads: usize,
    /// Numbers of a head.
    pub(crate) width: usize,
    /// Cosines and sines, both `[time, width]`.
    pub(crate) rotary: Arc<[Vec<f32>; 2]>,
    /// How many tokens a token sees, itself included; at least 1.
    pub(crate) window: usize,
}

/// The mixed values and, for every key head of every sequence, ln Σ exp of the scores of its queries,
/// `[group, time]`.
pub(super) fn forward(
    [queries, keys, values]: [&CpuTensor; 3],
    heads: &Heads,
) -> (CpuTensor, Vec<Vec<f32>>) {
    let all = numbers(queries);
    let found: Vec<(Vec<f32>, Vec<f32>)> = (0..heads.batch * heads.kv_heads)
        .into_par_iter()
        .map(|index| {
            let group = HeadGroup::new(heads, all.len(), index);
            let mut out = vec![0.0; group.members * group.size()];
            let mut normalizers = vec![0.0; group.members * group.time];
            simd::dispatch(AttentionForward {
                group,
                rotary: &heads.rotary,
                queries: all,
                keys: numbers(keys),
                values: numbers(values),
                out: &mut out,
                normalizers: &mut normalizers,
            });
            (out, normalizers)
        })
        .collect();
    let mut out = vec![0.0; all.len()];
    let mut normalizers = Vec::with_capacity(found.len());
    for (index, (mixed, normalizer)) in found.into_iter().enumerate() {
        let group = HeadGroup::new(heads, all.len(), index);
        for member in 0..group.members {
            let part = &mixed[member * group.size()..];
            group.put(part, &mut out, group.query_head(member));
        }
        normalizers.push(normalizer);
    }
    (tensor_like(out, queries), normalizers)
}

/// What the backward pass reads.
pub(super) struct BackwardInputs<'a> {
    /// Queries, keys and values of the forward pass.
    pub(super) inputs: [&'a CpuTensor; 3],
    /// The result of the forward pass.
    pub(super) out: &'a CpuTensor,
    /// The gradient of the result.
    pub(super) gradient: &'a CpuTensor,
    /// As [`forward`] returned them.
    pub(super) normalizers: &'a [Vec<f32>],
    pub(super) heads: &'a Heads,
}

/// The gradients of queries, keys and values, each in the layout of its input.
pub(super) fn backward(inputs: BackwardInputs<'_>) -> [Vec<f32>; 3] {
    let BackwardInputs {
        inputs: [queries, keys, values],
        out,
        gradient,
        normalizers,
        heads,
    } = inputs;
    let all = numbers(queries);
    let found: Vec<[Vec<f32>; 3]> = (0..heads.batch * heads.kv_heads)
        .into_par_iter()
        .map(|index| {
            let group = HeadGroup::new(heads, all.len(), index);
            let mut gradients = [
                vec![0.0; group.members * group.size()],
                vec![0.0; group.size()],
                vec![0.0; group.size()],
            ];
            simd::dispatch(AttentionBackward {
                group,
                rotary: &heads.rotary,
                queries: all,
                keys: numbers(keys),
                values: numbers(values),
                out: numbers(out),
                gradient: numbers(gradient),
                normalizers: &normalizers[index],
                gradients: &mut gradients,
            });
            gradients
        })
        .collect();
    let [mut all_queries, mut all_keys, mut all_values] =
        [queries, keys, values].map(|input| vec![0.0; numbers(input).len()]);
    for (index, [to_queries, to_keys, to_values]) in found.into_iter().enumerate() {
        let group = HeadGroup::new(heads, all.len(), index);
        for member in 0..group.members {
            let part = &to_queries[member * group.size()..];
            group.put(part, &mut all_queries, group.query_head(member));
        }
        group.put(&to_keys, &mut all_keys, group.key_head());
        group.put(&to_values, &mut all_values, group.key_head());
    }
    [all_queries, all_keys, all_values]
}

/// A key head of a sequence, and the query heads that share it.
#[derive(Clone, Copy)]
struct HeadGroup {
    sequence: usize,
    kv_head: usize,
    /// Key heads of a sequence.
    kv_heads: usize,
    /// Query heads of the group.
    members: usize,
    time: usize,
    /// Numbers of a head.
    width: usize,
    /// The same, rounded up to whole vectors.
    padded: usize,
    window: usize,
}

/// One of the heads of a tensor `[batch · time, heads · width]`.
#[derive(Clone, Copy)]
struct HeadIndex {
    head: usize,
    heads: usize,
}

impl HeadGroup {
    /// The group `index`, if the tensor of all queries has `queries` numbers.
    fn new(heads: &Heads, queries: usize, index: usize) -> Self {
        Self {
            sequence: index / heads.kv_heads,
            kv_head: index % heads.kv_heads,
            kv_heads: heads.kv_heads,
            members: heads.heads / heads.kv_heads,
            time: queries / (heads.batch * heads.heads * heads.width),
            width: heads.width,
            padded: heads.width.next_multiple_of(WIDTH),
            window: heads.window,
        }
    }

    /// The first token that a query sees.
    #[inline(always)]
    fn first_seen(&self, query: usize) -> usize {
        (query + 1).saturating_sub(self.window)
    }

    /// Numbers of a head's `[time, padded]`.
    fn size(&self) -> usize {
        self.time * self.padded
    }

    /// Tokens, rounded up to whole vectors.
    fn columns(&self) -> usize {
        self.time.next_multiple_of(WIDTH)
    }

    fn query_head(&self, member: usize) -> HeadIndex {
        HeadIndex {
            head: self.kv_head * self.members + member,
            heads: self.kv_heads * self.members,
        }
    }

    fn key_head(&self) -> HeadIndex {
        HeadIndex {
            head: self.kv_head,
            heads: self.kv_heads,
        }
    }

    /// Index of the first number of a token's head.
    #[inline(always)]
    fn start(&self, token: usize, HeadIndex { head, heads }: HeadIndex) -> usize {
        ((self.sequence * self.time + token) * heads + head) * self.width
    }

    /// A copy of a head's numbers, `[time, padded]`.
    #[inline(always)]
    fn take(&self, all: &[f32], head: HeadIndex) -> Vec<f32> {
        let mut taken = vec![0.0; self.size()];
        for (token, out) in taken.chunks_exact_mut(self.padded).enumerate() {
            out[..self.width].copy_from_slice(&all[self.start(token, head)..][..self.width]);
        }
        taken
    }

    /// The same, rotated by the tokens' positions and multiplied by `scale`.
    #[inline(always)]
    fn take_rotated(
        &self,
        all: &[f32],
        head: HeadIndex,
        rotary: &[Vec<f32>; 2],
        scale: f32,
    ) -> Vec<f32> {
        let mut taken = vec![0.0; self.size()];
        let half = self.width / 2;
        for (token, out) in taken.chunks_exact_mut(self.padded).enumerate() {
            let (low, high) = all[self.start(token, head)..][..self.width].split_at(half);
            let [cosines, sines] = self.tables(rotary, token);
            for at in 0..half {
                out[at] = (low[at] * cosines[at] - high[at] * sines[at]) * scale;
                out[half + at] =
                    (high[at] * cosines[half + at] + low[at] * sines[half + at]) * scale;
            }
        }
        taken
    }

    /// Rotates gradients `[time, padded]` back and multiplies them by `scale`.
    #[inline(always)]
    fn rotate_back(&self, gradients: &mut [f32], rotary: &[Vec<f32>; 2], scale: f32) {
        let half = self.width / 2;
        for (token, out) in gradients.chunks_exact_mut(self.padded).enumerate() {
            let [cosines, sines] = self.tables(rotary, token);
            for at in 0..half {
                let low = out[at];
                let high = out[half + at];
                out[at] = (low * cosines[at] + high * sines[half + at]) * scale;
                out[half + at] = (high * cosines[half + at] - low * sines[at]) * scale;
            }
        }
    }

    /// Cosines and sines of a token, `[width]`.
    #[inline(always)]
    fn tables<'a>(&self, [cosines, sines]: &'a [Vec<f32>; 2], token: usize) -> [&'a [f32]; 2] {
        [
            &cosines[token * self.width..][..self.width],
            &sines[token * self.width..][..self.width],
        ]
    }

    /// Writes a head's `[time, padded]` into the tensor of all heads.
    fn put(&self, from: &[f32], all: &mut [f32], head: HeadIndex) {
        for (token, from) in from.chunks_exact(self.padded).take(self.time).enumerate() {
            all[self.start(token, head)..][..self.width].copy_from_slice(&from[..self.width]);
        }
    }

    /// Transposes `[time, padded]` to `[padded, columns]`, padded with zeros.
    #[inline(always)]
    fn transposed(&self, taken: &[f32]) -> Vec<f32> {
        let columns = self.columns();
        let mut out = vec![0.0; self.padded * columns];
        for (token, row) in taken.chunks_exact(self.padded).enumerate() {
            for (at, number) in row.iter().enumerate() {
                out[at * columns + token] = *number;
            }
        }
        out
    }
}

/// The forward pass of a group.
struct AttentionForward<'a> {
    group: HeadGroup,
    rotary: &'a [Vec<f32>; 2],
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    /// `[members, time, padded]`; overwritten.
    out: &'a mut [f32],
    /// `[members, time]`; overwritten.
    normalizers: &'a mut [f32],
}

impl SimdJob for AttentionForward<'_> {
    #[inline(always)]
    fn run_with<S: Simd>(self, simd: S) {
        let Self { group, rotary, .. } = self;
        let HeadGroup {
            time,
            padded,
            width,
            ..
        } = group;
        let columns = group.columns();
        let keys = group.take_rotated(self.keys, group.key_head(), rotary, 1.0);
        let keys = group.transposed(&keys);
        let values = group.take(self.values, group.key_head());
        let scale = 1.0 / (width as f32).sqrt();
        let mut scores = vec![0.0; BLOCK * columns];
        let outs = self
            .out
            .chunks_exact_mut(time * padded)
            .zip(self.normalizers.chunks_exact_mut(time));
        for (member, (out, normalizers)) in outs.enumerate() {
            let queries = group.take_rotated(self.queries, group.query_head(member), rotary, scale);
            for first in (0..time).step_by(BLOCK) {
                let rows = BLOCK.min(time - first);
                // The scores begin with those of token `begin`.
                let begin = group.first_seen(first) / WIDTH * WIDTH;
                let seen = (first + rows).next_multiple_of(WIDTH) - begin;
                let product = StridedProduct {
                    rows,
                    inputs: width,
                    columns: seen,
                    left: LeftMatrix::by_rows(&queries[first * padded..], padded),
                    right: &keys[begin..],
                    right_stride: columns,
                };
                product.write(simd, &mut scores, columns);
                for (row, scores) in scores.chunks_exact_mut(columns).take(rows).enumerate() {
                    let from = group.first_seen(first + row) - begin;
                    let count = first + row + 1 - begin;
                    normalizers[first + row] = softmax(&mut scores[from..count]);
                    scores[..from].fill(0.0);
                    scores[count..seen].fill(0.0);
                }
                let product = StridedProduct {
                    rows,
                    inputs: first + rows - begin,
                    columns: padded,
                    left: LeftMatrix::by_rows(&scores, columns),
                    right: &values[begin * padded..],
                    right_stride: padded,
                };
                product.write(simd, &mut out[first * padded..], padded);
            }
        }
    }
}

/// Replaces scores by their softmax; returns ln Σ exp.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    let highest = highest(scores);
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    let total = total(scores);
    let scale = 1.0 / total;
    for score in scores.iter_mut() {
        *score *= scale;
    }
    highest + total.ln()
}

/// The backward pass of a group. It recomputes the weights P from the normalizers.
///
/// With g the gradient of the result and D = Σ g·out of a query: ∂V = Pᵀg, ∂P = gVᵀ,
/// ∂S = P·(∂P − D), ∂Q = ∂S·K, ∂K = ∂Sᵀ·Q.
struct AttentionBackward<'a> {
    group: HeadGroup,
    rotary: &'a [Vec<f32>; 2],
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    out: &'a [f32],
    gradient: &'a [f32],
    /// `[members, time]`.
    normalizers: &'a [f32],
    /// Of queries `[members, time, padded]`, keys and values `[time, padded]`. All are zero before.
    gradients: &'a mut [Vec<f32>; 3],
}

impl SimdJob for AttentionBackward<'_> {
    #[inline(always)]
    fn run_with<S: Simd>(self, simd: S) {
        let Self { group, rotary, .. } = self;
        let HeadGroup {
            time,
            padded,
            width,
            ..
        } = group;
        let columns = group.columns();
        let keys = group.take_rotated(self.keys, group.key_head(), rotary, 1.0);
        let keys_transposed = group.transposed(&keys);
        let values = group.take(self.values, group.key_head());
        let values_transposed = group.transposed(&values);
        let scale = 1.0 / (width as f32).sqrt();
        let mut weights = vec![0.0; BLOCK * columns];
        let mut changes = vec![0.0; BLOCK * columns];
        let [to_queries, to_keys, to_values] = self.gradients;
        for (member, to_queries) in to_queries.chunks_exact_mut(time * padded).enumerate() {
            let head = group.query_head(member);
            let queries = group.take_rotated(self.queries, head, rotary, scale);
            let gradient = group.take(self.gradient, head);
            let out = group.take(self.out, head);
            let normalizers = &self.normalizers[member * time..][..time];
            for first in (0..time).step_by(BLOCK) {
                let rows = BLOCK.min(time - first);
                // Scores, keys and values begin with those of token `begin`.
                let begin = group.first_seen(first) / WIDTH * WIDTH;
                let count = first + rows - begin;
                let seen = (first + rows).next_multiple_of(WIDTH) - begin;
                let queries = &queries[first * padded..];
                let gradient = &gradient[first * padded..];
                let scores = StridedProduct {
                    rows,
                    inputs: width,
                    columns: seen,
                    left: LeftMatrix::by_rows(queries, padded),
                    right: &keys_transposed[begin..],
                    right_stride: columns,
                };
                scores.write(simd, &mut weights, columns);
                let to_weights = StridedProduct {
                    left: LeftMatrix::by_rows(gradient, padded),
                    right: &values_transposed[begin..],
                    ..scores
                };
                to_weights.write(simd, &mut changes, columns);
                let both = weights
                    .chunks_exact_mut(columns)
                    .zip(changes.chunks_exact_mut(columns));
                for (row, (weights, changes)) in both.take(rows).enumerate() {
                    let at = (first + row) * padded;
                    let mean = dot(&gradient[row * padded..][..padded], &out[at..][..padded]);
                    let normalizer = normalizers[first + row];
                    let from = group.first_seen(first + row) - begin;
                    let end = first + row + 1 - begin;
                    let visible = weights[from..end].iter_mut();
                    for (weight, change) in visible.zip(&mut changes[from..end]) {
                        *weight = exp(*weight - normalizer);
                        *change = *weight * (*change - mean);
                    }
                    for numbers in [weights, changes] {
                        numbers[..from].fill(0.0);
                        numbers[end..seen].fill(0.0);
                    }
                }
                let query_product = StridedProduct {
                    rows,
                    inputs: count,
                    columns: padded,
                    left: LeftMatrix::by_rows(&changes, columns),
                    right: &keys[begin * padded..],
                    right_stride: padded,
                };
                query_product.write(simd, &mut to_queries[first * padded..], padded);
                let value_product = StridedProduct {
                    rows: count,
                    inputs: rows,
                    columns: padded,
                    left: LeftMatrix::by_columns(&weights, columns),
                    right: gradient,
                    right_stride: padded,
                };
                value_product.add_to(simd, &mut to_values[begin * padded..], padded);
                let key_product = StridedProduct {
                    left: LeftMatrix::by_columns(&changes, columns),
                    right: queries,
                    ..value_product
                };
                key_product.add_to(simd, &mut to_keys[begin * padded..], padded);
            }
            group.rotate_back(to_queries, rotary, scale);
        }
        group.rotate_back(to_keys, rotary, 1.0);
    }
}
