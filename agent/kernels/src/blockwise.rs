//! Causal attention composed of burn's operations, in blocks of queries, with its gradient.
//!
//! Only the scores of one block exist at a time, so memory grows linearly with the length of a
//! sequence. The backward pass recomputes them from the normalizers (Dao et al., arXiv 2205.14135).
//! Query heads that share a key head are rows of one product, so keys and values are not repeated.

#[cfg(feature = "gpu")]
use burn::backend::Cube;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Int, Tensor};
use std::ops::Range;

/// What is added to the score of a token that a query must not see.
const MASKED: f32 = -1e9;

/// Most scores of a block, if a block has more than [`FEWEST_ROWS`] queries.
const BLOCK_SCORES: usize = 1 << 23;

/// Fewest and most queries of a block. The number of queries is a power of two.
const FEWEST_ROWS: usize = 64;
const MOST_ROWS: usize = 512;

/// softmax(q · k) · v, in which a query sees the `window` tokens that end with its own. Queries are
/// scaled by the caller.
///
/// # Shapes
/// `queries` and the result `[batch, heads, time, width]`, `keys` and `values`
/// `[batch, kv_heads, time, width]`; `heads` is a multiple of `kv_heads`.
pub(crate) fn attention([queries, keys, values]: [Tensor<4>; 3], window: usize) -> Tensor<4> {
    let [batch, heads, time, width] = queries.dims();
    let rows = block_rows(batch * heads * time);
    let window = window.min(time); // a larger one may not fit into the integers of a device
    blockwise([queries, keys, values], Blocks { rows, window }).reshape([batch, heads, time, width])
}

/// Returns the queries of a block, if one query has this many scores in all heads and sequences.
fn block_rows(scores: usize) -> usize {
    let rows = (BLOCK_SCORES / scores.max(1)).clamp(FEWEST_ROWS, MOST_ROWS);
    1 << rows.ilog2()
}

fn blockwise([queries, keys, values]: [Tensor<4>; 3], blocks: Blocks) -> Tensor<4> {
    let [batch, heads, time, width] = queries.dims();
    let kv_heads = keys.dims()[1];
    let groups = batch * kv_heads;
    let queries = queries.reshape([groups, heads / kv_heads, time, width]);
    let [keys, values] = [keys, values].map(|x| x.reshape([groups, time, width]));
    Tensor::from_dispatch(Dispatch::blockwise_attention(
        queries.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        blocks,
    ))
}

/// How the queries are cut, and what they see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocks {
    /// Queries of a block.
    rows: usize,
    /// How many tokens a query sees, its own included; at least 1.
    window: usize,
}

/// The queries of a block and the tokens that at least one of them sees.
struct Block {
    queries: Range<usize>,
    seen: Range<usize>,
}

impl Block {
    /// The queries of the block, from all of them.
    fn of_queries(&self, x: &Tensor<4>) -> Tensor<4> {
        x.clone().narrow(2, self.queries.start, self.queries.len())
    }

    /// The same, with the heads that share a key head as rows: `[groups, members · rows, width]`.
    fn rows(&self, x: &Tensor<4>) -> Tensor<3> {
        let [groups, members, _, width] = x.dims();
        self.of_queries(x)
            .reshape([groups, members * self.queries.len(), width])
    }

    /// The part of keys or values that the block sees.
    fn of_seen(&self, x: &Tensor<3>) -> Tensor<3> {
        x.clone().narrow(1, self.seen.start, self.seen.len())
    }
}

impl Blocks {
    fn of(self, time: usize) -> impl DoubleEndedIterator<Item = Block> {
        (0..time.div_ceil(self.rows)).map(move |index| {
            let queries = index * self.rows..((index + 1) * self.rows).min(time);
            Block {
                seen: (queries.start + 1).saturating_sub(self.window)..queries.end,
                queries,
            }
        })
    }

    /// The scores of a block, `[groups, members, rows, seen]`. Those of tokens that a query does not
    /// see are so low that their weight is 0.
    fn scores(self, queries: &Tensor<4>, keys: &Tensor<3>, block: &Block) -> Tensor<4> {
        let [groups, members, ..] = queries.dims();
        let shape = [groups, members, block.queries.len(), block.seen.len()];
        let scores = block
            .rows(queries)
            .matmul(block.of_seen(keys).swap_dims(1, 2))
            .reshape(shape);
        let bias = self.bias(block, &scores.device()).cast(scores.dtype());
        scores + bias
    }

    /// What is added to the scores of a block, `[1, 1, rows, seen]`. It is computed on the device.
    fn bias(self, block: &Block, device: &Device) -> Tensor<4> {
        let index = |range: &Range<usize>| {
            Tensor::<1, Int>::arange(range.start as i64..range.end as i64, device)
        };
        let shape = [block.queries.len(), block.seen.len()];
        let query = index(&block.queries).unsqueeze_dim::<2>(1).expand(shape);
        let token = index(&block.seen).unsqueeze_dim::<2>(0).expand(shape);
        let distance = query - token;
        let later = distance.clone().lower_elem(0);
        let too_early = distance.greater_equal_elem(self.window as i64);
        (later.bool_or(too_early).float() * MASKED).unsqueeze::<4>()
    }
}

/// Mixed values and, for every query, ln Σ exp of its scores.
///
/// # Shapes
/// `queries` and the mixed values `[groups, members, time, width]`, `keys` and `values`
/// `[groups, time, width]`, the normalizers `[groups, members, time, 1]`.
fn forward(
    queries: &Tensor<4>,
    keys: &Tensor<3>,
    values: &Tensor<3>,
    blocks: Blocks,
) -> (Tensor<4>, Tensor<4>) {
    let [groups, members, time, width] = queries.dims();
    let (mixed, normalizers) = blocks
        .of(time)
        .map(|block| {
            let (rows, seen) = (block.queries.len(), block.seen.len());
            let scores = blocks.scores(queries, keys, &block);
            let highest = scores.clone().max_dim(3);
            let weights = (scores - highest.clone()).exp();
            let sum = weights.clone().sum_dim(3);
            let mixed = weights
                .reshape([groups, members * rows, seen])
                .matmul(block.of_seen(values))
                .reshape([groups, members, rows, width]);
            (mixed / sum.clone(), highest + sum.log())
        })
        .unzip();
    (Tensor::cat(mixed, 2), Tensor::cat(normalizers, 2))
}

/// The gradients of queries, keys and values, from that of the mixed values.
fn backward(
    Kept {
        queries,
        keys,
        values,
        mixed,
        normalizers,
        blocks,
    }: Kept<Tensor<4>, Tensor<3>>,
    gradient: Tensor<4>,
) -> (Tensor<4>, Tensor<3>, Tensor<3>) {
    let [groups, members, time, width] = queries.dims();
    let shift = (gradient.clone() * mixed).sum_dim(3);
    let mut to_queries = Vec::new();
    let mut to_keys = keys.zeros_like();
    let mut to_values = values.zeros_like();
    for block in blocks.of(time) {
        let (rows, seen) = (block.queries.len(), block.seen.len());
        let as_products = |x: Tensor<4>| x.reshape([groups, members * rows, seen]);
        let scores = blocks.scores(&queries, &keys, &block);
        let weights = (scores - block.of_queries(&normalizers)).exp();
        let gradient = block.rows(&gradient);
        let to_weights = gradient
            .clone()
            .matmul(block.of_seen(&values).swap_dims(1, 2))
            .reshape([groups, members, rows, seen]);
        let to_scores = as_products(weights.clone() * (to_weights - block.of_queries(&shift)));
        let of_queries = to_scores.clone().matmul(block.of_seen(&keys));
        to_queries.push(of_queries.reshape([groups, members, rows, width]));
        let slice = [0..groups, block.seen.clone(), 0..width];
        let of_keys = to_scores.swap_dims(1, 2).matmul(block.rows(&queries));
        let of_keys = of_keys + to_keys.clone().slice(slice.clone());
        to_keys = to_keys.slice_assign(slice.clone(), of_keys);
        let of_values = as_products(weights).swap_dims(1, 2).matmul(gradient);
        let of_values = of_values + to_values.clone().slice(slice.clone());
        to_values = to_values.slice_assign(slice, of_values);
    }
    (Tensor::cat(to_queries, 2), to_keys, to_values)
}

/// The operation as burn dispatches it. Call [`attention`] instead.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub(crate) trait BlockwiseBackend: Backend {
    fn blockwise_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        blocks: Blocks,
    ) -> FloatTensor<Self>;
}

/// A backend whose tensors are tensors of burn's interface too.
pub(crate) trait Concrete: Backend {
    fn wrap<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D>;
    fn unwrap<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self>;
}

macro_rules! concrete {
    ($backend:ident) => {
        impl Concrete for $backend {
            fn wrap<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D> {
                Tensor::from_primitive::<Self>(primitive)
            }

            fn unwrap<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self> {
                match tensor.try_into_primitive::<Self>() {
                    Ok(primitive) => primitive,
                    Err(error) => unreachable!("the tensor came from this backend: {error:?}"),
                }
            }
        }

        impl BlockwiseBackend for $backend {
            fn blockwise_attention(
                queries: FloatTensor<Self>,
                keys: FloatTensor<Self>,
                values: FloatTensor<Self>,
                blocks: Blocks,
            ) -> FloatTensor<Self> {
                let [keys, values] = [keys, values].map(Self::wrap);
                Self::unwrap(forward(&Self::wrap(queries), &keys, &values, blocks).0)
            }
        }
    };
}

concrete!(Flex);
#[cfg(feature = "gpu")]
concrete!(Cube);

/// What the backward pass reads.
#[derive(Debug, Clone)]
struct Kept<FourAxes, ThreeAxes> {
    queries: FourAxes,
    keys: ThreeAxes,
    values: ThreeAxes,
    mixed: FourAxes,
    normalizers: FourAxes,
    blocks: Blocks,
}

/// The backward step.
#[derive(Debug)]
struct AttentionStep;

impl<B: Concrete> Backward<B, 3> for AttentionStep {
    type State = Kept<FloatTensor<B>, FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = B::wrap(grads.consume::<B>(&ops.node));
        let kept = Kept {
            queries: B::wrap(ops.state.queries),
            keys: B::wrap(ops.state.keys),
            values: B::wrap(ops.state.values),
            mixed: B::wrap(ops.state.mixed),
            normalizers: B::wrap(ops.state.normalizers),
            blocks: ops.state.blocks,
        };
        let (to_queries, to_keys, to_values) = backward(kept, gradient);
        let gradients = [
            B::unwrap(to_queries),
            B::unwrap(to_keys),
            B::unwrap(to_values),
        ];
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: Concrete + BlockwiseBackend, C: CheckpointStrategy> BlockwiseBackend for Autodiff<B, C> {
    fn blockwise_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        blocks: Blocks,
    ) -> FloatTensor<Self> {
        let nodes = [queries.node(), keys.node(), values.node()];
        let [queries, keys, values] = [queries, keys, values].map(|x| x.into_primitive());
        match AttentionStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let wrapped = [keys.clone(), values.clone()].map(B::wrap);
                let (mixed, normalizers) =
                    forward(&B::wrap(queries.clone()), &wrapped[0], &wrapped[1], blocks);
                let mixed = B::unwrap(mixed);
                let kept = Kept {
                    queries,
                    keys,
                    values,
                    mixed: mixed.clone(),
                    normalizers: B::unwrap(normalizers),
                    blocks,
                };
                step.finish(kept, mixed)
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::blockwise_attention(queries, keys, values, blocks))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{TensorData, activation};
    use support::device::{device, tolerance};

    #[test]
    fn blocks_cover_all_queries_and_what_they_see() {
        let blocks = Blocks { rows: 4, window: 3 };
        let found: Vec<_> = blocks.of(10).map(|b| (b.queries, b.seen)).collect();
        assert_eq!(found, [(0..4, 0..4), (4..8, 2..8), (8..10, 6..10)]);
        let all = Blocks {
            rows: 4,
            window: 10,
        };
        assert!(all.of(10).all(|block| block.seen.start == 0));
    }

    #[test]
    fn long_sequences_have_small_blocks() {
        assert_eq!(block_rows(1), MOST_ROWS);
        assert_eq!(block_rows(16 * 4 * 512), 256);
        assert_eq!(block_rows(9 * 32_768), FEWEST_ROWS);
    }

    fn numbers(shape: [usize; 4], seed: usize) -> Tensor<4> {
        let count: usize = shape.iter().product();
        let data: Vec<f32> = (0..count)
            .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
            .collect();
        Tensor::from_data(TensorData::new(data, shape), &device().autodiff()).require_grad()
    }

    fn written_out([queries, keys, values]: [Tensor<4>; 3], window: usize) -> Tensor<4> {
        let [batch, heads, time, width] = queries.dims();
        let kv_heads = keys.dims()[1];
        let repeat = |x: Tensor<4>| {
            x.unsqueeze_dim::<5>(2)
                .repeat_dim(2, heads / kv_heads)
                .reshape([batch, heads, time, width])
        };
        let bias: Vec<f32> = (0..time * time)
            .map(|i| (i / time, i % time))
            .map(|(query, key)| {
                if key <= query && key + window > query {
                    0.0
                } else {
                    MASKED
                }
            })
            .collect();
        let bias = Tensor::from_data(TensorData::new(bias, [1, 1, time, time]), &queries.device());
        let scores = queries.matmul(repeat(keys).swap_dims(2, 3)) + bias;
        activation::softmax(scores, 3).matmul(repeat(values))
    }

    /// The result, and the gradients of a weighted sum of it by queries, keys and values.
    fn with_gradients(
        inputs: [Tensor<4>; 3],
        operation: impl Fn([Tensor<4>; 3]) -> Tensor<4>,
    ) -> [Vec<f32>; 4] {
        let out = operation(inputs.clone());
        let weights = numbers(out.dims(), 77).detach();
        let gradients = (out.clone() * weights).sum().backward();
        let [queries, keys, values] = inputs.map(|input| input.grad(&gradients).unwrap());
        [out, queries, keys, values].map(|x| x.into_data().try_to_vec().unwrap())
    }

    /// One block and several, whole blocks and parts, shared key heads, windows of any size.
    #[test]
    fn blocks_have_the_values_and_gradients_of_the_written_out_form() {
        for (batch, time, heads, kv_heads, width, rows, window) in [
            (2, 2, 2, 1, 6, 64, 2),
            (1, 33, 4, 2, 32, 8, 33),
            (2, 48, 3, 3, 20, 16, 5),
            (1, 70, 9, 3, 64, 64, 70),
            (2, 130, 2, 1, 16, 32, 19),
        ] {
            let inputs = || {
                [(heads, 1), (kv_heads, 2), (kv_heads, 3)]
                    .map(|(heads, seed)| numbers([batch, heads, time, width], seed))
            };
            let expected = with_gradients(inputs(), |inputs| written_out(inputs, window));
            let found = with_gradients(inputs(), |inputs| {
                blockwise(inputs, Blocks { rows, window }).reshape([batch, heads, time, width])
            });
            for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
                let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                assert_eq!(expected.len(), found.len());
                for (a, b) in expected.iter().zip(found) {
                    assert!(
                        (a - b).abs() < tolerance(1e-5) * largest,
                        "{time} tokens, output {index}: {a} and {b}"
                    );
                }
            }
        }
    }
}
