//! What one forward pass on a device needs to know about its tokens, computed once for all layers.
//!
//! For attention, spans of similar length form a [`SpanGroup`], padded to the longest. Spans with one
//! new token form a group of their own, so that a long prompt does not make other sequences longer.
//! Rows, spans and lengths are rounded up, so that few kernel shapes occur.

use crate::inference::pool::PADDING;
use crate::model::config::DecoderConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::collections::BTreeMap;

/// The longest sequence of a group is rounded up to a multiple of this many tokens.
const TOKEN_STEP: usize = 64;
/// Up to this many spans or rows, their number is rounded up to a power of two; above, to a multiple.
const ROW_STEP: usize = 8;
/// Keys, values and scores that a group may hold at once.
const MAX_GROUP_NUMBERS: usize = 1 << 28;
/// Sequences times key heads from which keys and values are read in place. If there are fewer, most of
/// a GPU would be idle.
#[cfg(feature = "gpu")]
const MIN_CUBES: usize = 8;
/// What is added to the score of a token that must not be seen.
const MASKED: f32 = -1e9;

/// What a span reads.
pub(in crate::inference) struct SpanRead {
    /// Index of its first new token among those of all spans.
    pub(in crate::inference) first: usize,
    /// New tokens.
    pub(in crate::inference) new: usize,
    /// Pool rows of the whole sequence, those of the new tokens last.
    pub(in crate::inference) seen: Vec<u32>,
}

/// The pool rows of the tokens that precede each new token at one distance.
pub(in crate::inference) struct EarlierRows {
    /// `[rows]`; [`PADDING`] if the sequence has no such token.
    pub(in crate::inference) numbers: Tensor<1, Int>,
    /// 1 if there is such a token, else 0: `[rows, 1]`.
    pub(in crate::inference) exist: Tensor<2>,
}

impl SpanRead {
    /// Positions of its new tokens.
    fn positions(&self) -> impl Iterator<Item = i32> + use<> {
        (self.seen.len() - self.new..self.seen.len()).map(|position| position as i32)
    }
}

/// A forward pass on a device.
pub(in crate::inference) struct DevicePass {
    /// `[rows]`.
    pub(in crate::inference) tokens: Tensor<1, Int>,
    /// Cosines and sines of the new tokens' positions, `[rows, 1, head / 2]`, by kind of attention.
    rotary: Vec<[Tensor<3>; 2]>,
    /// Lines of a pool to which the new keys and values are written, `[rows · 2 · kv_heads, 1]`.
    pub(in crate::inference) written: Tensor<2, Int>,
    /// Pool rows of the new tokens, `[rows, 1]`.
    pub(in crate::inference) new_rows: Tensor<2, Int>,
    /// By distance from 1; as many as the convolutions need.
    pub(in crate::inference) earlier: Vec<EarlierRows>,
    pub(in crate::inference) groups: Vec<SpanGroup>,
    /// Index of each row among the rows of all groups, `[rows]`; none if every row is at its index.
    pub(in crate::inference) order: Option<Tensor<1, Int>>,
}

/// Spans whose attention is one product.
pub(in crate::inference) struct SpanGroup {
    pub(in crate::inference) shape: GroupShape,
    /// Its rows among those of the pass, `[spans · new]`; none if it has all rows in order.
    pub(in crate::inference) rows: Option<Tensor<1, Int>>,
    pub(in crate::inference) tokens: SeenTokens,
}

/// The tokens that the queries of a group see.
#[cfg_attr(
    feature = "gpu",
    expect(clippy::large_enum_variant, reason = "a pass has few groups")
)]
pub(in crate::inference) enum SeenTokens {
    /// Their keys and values are gathered.
    Gathered {
        /// Lines of a pool with the keys, `[spans · kv_heads · seen]`.
        keys: Tensor<1, Int>,
        /// Lines of a pool with the values, `[spans · kv_heads · seen]`.
        values: Tensor<1, Int>,
        /// [`MASKED`] if a token is later than the query or before its window, else 0:
        /// `[spans, 1, 1, new, seen]`, by kind of attention.
        biases: Vec<Tensor<5>>,
    },
    /// Each span has one query, and a kernel reads keys and values in the pool.
    #[cfg(feature = "gpu")]
    InPlace {
        /// The pool row of each token, `[spans · seen]`.
        table: Tensor<1, Int>,
        /// The first token that the query sees, and the one after the last: `[spans, 2]`, by kind of
        /// attention.
        seen: Vec<Tensor<2, Int>>,
    },
}

/// What the layers with one kind of attention share.
pub(in crate::inference) struct DeviceAttention {
    /// Cosines and sines, `[context, head / 2]`.
    pub(in crate::inference) rotary: [Tensor<2>; 2],
    /// How many tokens a token sees; `None` = all.
    pub(in crate::inference) window: Option<usize>,
}

/// Sizes of a group, padding included.
#[derive(Clone, Copy)]
pub(in crate::inference) struct GroupShape {
    pub(in crate::inference) spans: usize,
    /// New tokens of a span.
    pub(in crate::inference) new: usize,
    /// All tokens of a sequence.
    pub(in crate::inference) seen: usize,
}

impl GroupShape {
    fn of(reads: &[SpanRead], members: &[usize]) -> Self {
        let new = members
            .first()
            .map_or(1, |member| padded_length(reads[*member].new));
        Self {
            spans: padded_rows(members.len()),
            new,
            seen: longest(reads, members).next_multiple_of(TOKEN_STEP),
        }
    }
}

/// Puts passes onto a device.
pub(in crate::inference) struct PassBuilder<'a> {
    pub(in crate::inference) config: &'a DecoderConfig,
    pub(in crate::inference) device: &'a Device,
    pub(in crate::inference) attention: &'a [DeviceAttention],
}

impl PassBuilder<'_> {
    /// The pass that reads `tokens`, which are the new tokens of all `reads` in order.
    pub(in crate::inference) fn pass(&self, tokens: &[u32], reads: &[SpanRead]) -> DevicePass {
        let rows = padded_rows(tokens.len());
        let positions = reads.iter().flat_map(SpanRead::positions).collect();
        let positions = self.padded(positions, rows);
        let kv_heads = self.config.num_key_value_heads;
        let new = reads
            .iter()
            .flat_map(|read| &read.seen[read.seen.len() - read.new..]);
        let new = self.padded(new.map(|row| *row as i32).collect(), rows);
        let lines = Tensor::<1, Int>::arange(0..2 * kv_heads as i64, self.device);
        let new_rows = new.unsqueeze_dim::<2>(1);
        let written = new_rows.clone() * (2 * kv_heads as i32) + lines.unsqueeze::<2>();
        let members = group_members(reads, self.config);
        let in_order = members.len() == 1 && reads.iter().all(|read| read.new == 1);
        DevicePass {
            tokens: self.padded(tokens.iter().map(|token| *token as i32).collect(), rows),
            rotary: (self.attention.iter())
                .map(|kind| {
                    kind.rotary
                        .each_ref()
                        .map(|table| rotary_rows(table, &positions))
                })
                .collect(),
            written: written.reshape([rows * 2 * kv_heads, 1]),
            new_rows,
            earlier: self.earlier(reads, rows),
            groups: members
                .iter()
                .map(|members| self.group(reads, members, in_order))
                .collect(),
            order: (!in_order).then(|| self.padded(group_rows(reads, &members), rows)),
        }
    }

    /// The rows that convolutions read.
    fn earlier(&self, reads: &[SpanRead], rows: usize) -> Vec<EarlierRows> {
        let width = match &self.config.reading.convolution {
            Some(convolution) => convolution.width,
            None => 1,
        };
        (1..width)
            .map(|distance| {
                let mut numbers = Vec::with_capacity(rows);
                let mut exist = Vec::with_capacity(rows);
                for read in reads {
                    for position in read.seen.len() - read.new..read.seen.len() {
                        let row = position.checked_sub(distance).map(|at| read.seen[at]);
                        numbers.push(row.unwrap_or(PADDING) as i32);
                        exist.push(f32::from(u8::from(row.is_some())));
                    }
                }
                exist.resize(rows, 0.0);
                EarlierRows {
                    numbers: self.padded(numbers, rows),
                    exist: Tensor::from_data(TensorData::new(exist, [rows, 1]), self.device),
                }
            })
            .collect()
    }

    fn group(&self, reads: &[SpanRead], members: &[usize], in_order: bool) -> SpanGroup {
        let shape = GroupShape::of(reads, members);
        let GroupShape { spans, new, seen } = shape;
        let mut rows = vec![0; spans * new];
        let mut positions = vec![0; spans * new];
        let mut lines = vec![PADDING as i32; spans * seen];
        for (slot, member) in members.iter().enumerate() {
            let read = &reads[*member];
            for (offset, position) in read.positions().enumerate() {
                rows[slot * new + offset] = (read.first + offset) as i32;
                positions[slot * new + offset] = position;
            }
            for (line, row) in lines[slot * seen..].iter_mut().zip(&read.seen) {
                *line = *row as i32;
            }
        }
        let tokens = self.tokens(shape, lines, positions);
        SpanGroup {
            shape,
            rows: (!in_order).then(|| self.ints(rows)),
            tokens,
        }
    }

    /// What the queries of a group at these positions see. `lines` are the pool rows of all tokens.
    fn tokens(&self, shape: GroupShape, lines: Vec<i32>, positions: Vec<i32>) -> SeenTokens {
        let kv_heads = self.config.num_key_value_heads;
        #[cfg(feature = "gpu")]
        if shape.new == 1
            && shape.spans * kv_heads >= MIN_CUBES
            && kernels::paged::runs_on(self.device)
        {
            let seen = self.attention.iter().map(|kind| {
                let bounds = positions.iter().flat_map(|position| {
                    let end = position + 1;
                    let first = kind
                        .window
                        .map_or(0, |window| (end as usize).saturating_sub(window));
                    [first as i32, end]
                });
                self.ints(bounds.collect()).reshape([shape.spans, 2])
            });
            return SeenTokens::InPlace {
                seen: seen.collect(),
                table: self.ints(lines),
            };
        }
        let GroupShape { spans, new, seen } = shape;
        let heads =
            Tensor::<1, Int>::arange(0..kv_heads as i64, self.device).reshape([1, kv_heads, 1]);
        let lines = self.ints(lines).reshape([spans, 1, seen]) * (2 * kv_heads as i32) + heads;
        let keys = lines.reshape([spans * kv_heads * seen]);
        let indices = Tensor::<1, Int>::arange(0..seen as i64, self.device).reshape([1, 1, seen]);
        let positions = self.ints(positions).reshape([spans, new, 1]);
        let later = indices.clone().greater(positions.clone());
        let mut made: Vec<(Option<usize>, Tensor<5>)> = Vec::new();
        let biases = self.attention.iter().map(|kind| {
            if let Some((_, bias)) = made.iter().find(|(window, _)| *window == kind.window) {
                return bias.clone();
            }
            let masked = match kind.window {
                Some(window) if window < seen => {
                    let end = indices.clone() + window as i32;
                    later.clone().bool_or(end.lower_equal(positions.clone()))
                }
                _ => later.clone(),
            };
            let bias: Tensor<5> = (masked.float() * MASKED).reshape([spans, 1, 1, new, seen]);
            made.push((kind.window, bias.clone()));
            bias
        });
        let biases = biases.collect();
        SeenTokens::Gathered {
            values: keys.clone() + kv_heads as i32,
            keys,
            biases,
        }
    }

    /// Numbers on the device, padded with zeros.
    fn padded(&self, mut numbers: Vec<i32>, length: usize) -> Tensor<1, Int> {
        numbers.resize(length, 0);
        self.ints(numbers)
    }

    fn ints(&self, numbers: Vec<i32>) -> Tensor<1, Int> {
        int_tensor(numbers, self.device)
    }
}

impl DevicePass {
    /// x·cos + rotate_half(x)·sin of `[rows, heads, head]`, for a kind of attention.
    pub(in crate::inference) fn rotate(&self, x: Tensor<3>, kind: usize) -> Tensor<3> {
        let [cosines, sines] = &self.rotary[kind];
        let half = x.dims()[2] / 2;
        let low = x.clone().narrow(2, 0, half);
        let high = x.narrow(2, half, half);
        let rotated_low = low.clone() * cosines.clone() - high.clone() * sines.clone();
        let rotated_high = high * cosines.clone() + low * sines.clone();
        Tensor::cat(vec![rotated_low, rotated_high], 2)
    }
}

/// Integers on a device.
pub(in crate::inference) fn int_tensor(numbers: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let length = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [length]), device)
}

/// A number of rows or spans, rounded up.
pub(in crate::inference) fn padded_rows(rows: usize) -> usize {
    if rows <= ROW_STEP {
        rows.next_power_of_two()
    } else {
        rows.next_multiple_of(ROW_STEP)
    }
}

/// Rows of a rotary table at some positions, `[rows, 1, head / 2]`.
fn rotary_rows(table: &Tensor<2>, positions: &Tensor<1, Int>) -> Tensor<3> {
    table
        .clone()
        .select(0, positions.clone())
        .unsqueeze_dim::<3>(1)
}

/// The length to which a span of `new` tokens is padded: 1, or a power of two from 8 on.
fn padded_length(new: usize) -> usize {
    if new == 1 {
        1
    } else {
        new.next_power_of_two().max(ROW_STEP)
    }
}

/// The length of the longest sequence of some spans.
fn longest(reads: &[SpanRead], members: &[usize]) -> usize {
    members
        .iter()
        .map(|member| reads[*member].seen.len())
        .max()
        .unwrap_or(0)
}

/// The spans that attend together: those of one [`padded_length`], at most as many as fit into
/// [`MAX_GROUP_NUMBERS`].
fn group_members(reads: &[SpanRead], config: &DecoderConfig) -> Vec<Vec<usize>> {
    let kv = config.kv_width();
    let heads = config.num_attention_heads;
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, read) in reads.iter().enumerate() {
        by_length
            .entry(padded_length(read.new))
            .or_default()
            .push(index);
    }
    let mut groups = Vec::new();
    for (new, members) in by_length {
        let numbers_of_span = longest(reads, &members) * (2 * kv + heads * new);
        let most = (MAX_GROUP_NUMBERS / numbers_of_span.max(1)).max(1);
        groups.extend(members.chunks(most).map(<[usize]>::to_vec));
    }
    groups
}

/// Index of each new token among the padded rows of all groups.
fn group_rows(reads: &[SpanRead], groups: &[Vec<usize>]) -> Vec<i32> {
    let mut indices = vec![0; reads.iter().map(|read| read.new).sum()];
    let mut start = 0;
    for members in groups {
        let GroupShape { spans, new, .. } = GroupShape::of(reads, members);
        for (slot, member) in members.iter().enumerate() {
            let read = &reads[*member];
            for (offset, index) in indices[read.first..][..read.new].iter_mut().enumerate() {
                *index = (start + slot * new + offset) as i32;
            }
        }
        start += spans * new;
    }
    indices
}
