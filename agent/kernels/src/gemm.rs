//! The micro-kernel of matrix products, and the two loops around it.
//!
//! [`multiply_add`] updates a tile of sums, which stays in registers, by one input. All products and
//! both attentions use it. The loops around it differ because their operands do:
//!
//! - [`PanelProduct`] multiplies rows by a weight matrix, which is packed once and read many times.
//!   Weights have several formats, are read from memory in order and are prefetched. If a tile is
//!   followed by others, it stores the weights that it converted to f32 for them.
//! - [`StridedProduct`] multiplies small f32 matrices that exist for a few microseconds during
//!   training. It reads them where they are, by rows or by columns, and can add to its output.
//!
//! Every output is one chain of fused multiply-adds over the inputs in their order. If the tile
//! sizes change, no bit of a result changes.

use crate::simd::{self, Simd, SimdJob, WIDTH, vector_at};
use crate::weight_format::{
    F32Group, GROUP, PackedWeights, WeightGroup, aligned_length, f32_groups, first_aligned,
};
use rayon::prelude::*;

/// Adds `left[r] · right[c]` to `sums[r][c]`: R rows by C vectors, at one input.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "every index is of several arrays"
)]
pub(crate) fn multiply_add<const R: usize, const C: usize, S: Simd>(
    simd: S,
    left: &[f32; R],
    right: &[S::Vector; C],
    sums: &mut [[S::Vector; C]; R],
) {
    for r in 0..R {
        let left = simd.splat(left[r]);
        for c in 0..C {
            sums[r][c] = simd.mul_add(left, right[c], sums[r][c]);
        }
    }
}

/// The left matrix of a [`StridedProduct`].
#[derive(Clone, Copy)]
pub(crate) struct LeftMatrix<'a> {
    numbers: &'a [f32],
    stride: usize,
    order: MatrixOrder,
}

#[derive(Clone, Copy)]
enum MatrixOrder {
    ByRows,
    ByColumns,
}

impl<'a> LeftMatrix<'a> {
    /// A matrix whose rows begin `stride` numbers apart.
    #[inline(always)]
    pub(crate) fn by_rows(numbers: &'a [f32], stride: usize) -> Self {
        Self {
            numbers,
            stride,
            order: MatrixOrder::ByRows,
        }
    }

    /// A matrix whose columns begin `stride` numbers apart.
    #[inline(always)]
    pub(crate) fn by_columns(numbers: &'a [f32], stride: usize) -> Self {
        Self {
            numbers,
            stride,
            order: MatrixOrder::ByColumns,
        }
    }
}

/// The product of two small f32 matrices, `[rows, inputs] · [inputs, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct StridedProduct<'a> {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    /// A multiple of [`WIDTH`].
    pub(crate) columns: usize,
    pub(crate) left: LeftMatrix<'a>,
    /// Row-major.
    pub(crate) right: &'a [f32],
    /// Numbers between the beginnings of two rows of `right`.
    pub(crate) right_stride: usize,
}

/// What a product does with the previous numbers of its output.
#[derive(Clone, Copy, PartialEq)]
enum OutputMode {
    Overwrite,
    Add,
}

/// How a product writes its output.
#[derive(Clone, Copy)]
struct ProductOutput {
    /// Numbers between the beginnings of two rows.
    stride: usize,
    mode: OutputMode,
}

impl StridedProduct<'_> {
    /// `out = left · right`, if `out` has rows that begin `stride` numbers apart.
    #[inline(always)]
    pub(crate) fn write<S: Simd>(self, simd: S, out: &mut [f32], stride: usize) {
        let mode = OutputMode::Overwrite;
        self.all_columns(simd, out, ProductOutput { stride, mode });
    }

    /// `out += left · right`, if `out` has rows that begin `stride` numbers apart.
    #[inline(always)]
    pub(crate) fn add_to<S: Simd>(self, simd: S, out: &mut [f32], stride: usize) {
        let mode = OutputMode::Add;
        self.all_columns(simd, out, ProductOutput { stride, mode });
    }

    #[inline(always)]
    fn all_columns<S: Simd>(self, simd: S, out: &mut [f32], output: ProductOutput) {
        let mut column = 0;
        while column < self.columns {
            let vectors = (self.columns - column) / WIDTH;
            let out = &mut out[column..];
            let taken = match vectors {
                4.. if S::REGISTERS > 16 => self.all_rows::<4, 4, S>(simd, column, out, output),
                2.. if S::REGISTERS > 16 => self.all_rows::<8, 2, S>(simd, column, out, output),
                1.. if S::REGISTERS > 16 => self.all_rows::<8, 1, S>(simd, column, out, output),
                _ => self.all_rows::<4, 1, S>(simd, column, out, output),
            };
            column += WIDTH * taken;
        }
    }

    /// C vectors of all rows, R rows at a time; returns C.
    #[inline(always)]
    fn all_rows<const R: usize, const C: usize, S: Simd>(
        self,
        simd: S,
        column: usize,
        out: &mut [f32],
        output: ProductOutput,
    ) -> usize {
        let mut row = 0;
        while row + R <= self.rows {
            let out = &mut out[row * output.stride..];
            self.tile::<R, C, S>(simd, [row, column], out, output);
            row += R;
        }
        while row < self.rows {
            let out = &mut out[row * output.stride..];
            self.tile::<1, C, S>(simd, [row, column], out, output);
            row += 1;
        }
        C
    }

    /// R rows by C vectors, whose sums stay in registers.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "every index is of several arrays"
    )]
    fn tile<const R: usize, const C: usize, S: Simd>(
        self,
        simd: S,
        [row, column]: [usize; 2],
        out: &mut [f32],
        output: ProductOutput,
    ) {
        let zero = simd.splat(0.0);
        let mut sums = [[zero; C]; R];
        if output.mode == OutputMode::Add {
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = simd.load(vector_at(out, r * output.stride + c * WIDTH));
                }
            }
        }
        let left = self.left;
        let rights = self.right.chunks(self.right_stride).take(self.inputs);
        match left.order {
            MatrixOrder::ByColumns => {
                for (left, right) in left.numbers.chunks(left.stride).zip(rights) {
                    let left: &[f32; R] = left[row..][..R]
                        .try_into()
                        .expect("the slice has R numbers");
                    let right = load_vectors(simd, &right[column..]);
                    multiply_add::<R, C, S>(simd, left, &right, &mut sums);
                }
            }
            MatrixOrder::ByRows => {
                let mut lefts = [&left.numbers[..0]; R];
                for r in 0..R {
                    lefts[r] = &left.numbers[(row + r) * left.stride..][..self.inputs];
                }
                for (input, right) in rights.enumerate() {
                    let mut left = [0.0; R];
                    for r in 0..R {
                        left[r] = lefts[r][input];
                    }
                    let right = load_vectors(simd, &right[column..]);
                    multiply_add::<R, C, S>(simd, &left, &right, &mut sums);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                out[r * output.stride + c * WIDTH..][..WIDTH]
                    .copy_from_slice(&simd.to_array(sums[r][c]));
            }
        }
    }
}

/// The first C vectors of some numbers.
#[inline(always)]
pub(crate) fn load_vectors<const C: usize, S: Simd>(simd: S, numbers: &[f32]) -> [S::Vector; C] {
    let numbers = &numbers[..C * WIDTH];
    let mut vectors = [simd.splat(0.0); C];
    for (c, vector) in vectors.iter_mut().enumerate() {
        *vector = simd.load(vector_at(numbers, c * WIDTH));
    }
    vectors
}

/// Numbers that are only copied, from which threads share that work.
pub(crate) const MIN_PARALLEL_COPY: usize = 1 << 14;

/// The rows that a [`PanelProduct`] multiplies, packed tile by tile: of each input, the numbers of a
/// tile's rows are adjacent.
pub(crate) struct PackedRows {
    pub(crate) count: usize,
    /// Inputs of a row, padded with zeros to whole groups.
    pub(crate) inputs: usize,
    /// Rows of the largest tile.
    max_rows: usize,
    /// `[inputs, rows]` of each tile.
    pub(crate) tiles: Vec<f32>,
}

impl PackedRows {
    /// Packs `x` `[rows, inputs]` into the buffer `tiles`, whose contents are overwritten.
    pub(crate) fn new(x: &[f32], inputs: usize, tiles: Vec<f32>) -> Self {
        Self::with_max_rows(x, inputs, tiles, simd::max_tile_rows())
    }

    /// [`PackedRows::new`] with another largest tile.
    pub(crate) fn with_max_rows(
        x: &[f32],
        inputs: usize,
        mut tiles: Vec<f32>,
        max_rows: usize,
    ) -> Self {
        let count = x.len() / inputs;
        let padded = inputs.next_multiple_of(GROUP);
        tiles.resize(count * padded, 0.0);
        if inputs < padded {
            tiles.fill(0.0);
        }
        if count > max_rows && x.len() >= MIN_PARALLEL_COPY {
            (tiles
                .par_chunks_mut(max_rows * padded)
                .zip(x.par_chunks(max_rows * inputs)))
            .for_each(|(tiles, x)| pack_rows(tiles, x, inputs, max_rows));
        } else {
            pack_rows(&mut tiles, x, inputs, max_rows);
        }
        Self {
            count,
            inputs: padded,
            max_rows,
            tiles,
        }
    }

    /// Rows of the tile that begins with `row`.
    fn tile_rows(&self, row: usize) -> usize {
        tile_rows(self.count - row, self.max_rows)
    }

    /// The R rows that begin with `row`, by group and input.
    #[inline(always)]
    fn tile<const R: usize>(&self, row: usize) -> &[[[f32; R]; GROUP]] {
        self.tiles[row * self.inputs..][..R * self.inputs]
            .as_chunks::<R>()
            .0
            .as_chunks::<GROUP>()
            .0
    }
}

/// Rows of the next tile, if `left` rows are left and a tile has at most `max_rows`.
fn tile_rows(left: usize, max_rows: usize) -> usize {
    match left.min(max_rows) {
        8.. => 8,
        4..8 => 4,
        2..4 => 2,
        _ => 1,
    }
}

/// Packs rows into tiles on this thread.
fn pack_rows(tiles: &mut [f32], x: &[f32], inputs: usize, max_rows: usize) {
    let count = x.len() / inputs;
    let padded = inputs.next_multiple_of(GROUP);
    let mut row = 0;
    while row < count {
        let rows = tile_rows(count - row, max_rows);
        let tile = &mut tiles[row * padded..][..rows * inputs];
        for (r, values) in x[row * inputs..][..rows * inputs]
            .chunks_exact(inputs)
            .enumerate()
        {
            for (adjacent, value) in tile.chunks_exact_mut(rows).zip(values) {
                adjacent[r] = *value;
            }
        }
        row += rows;
    }
}

/// WeightPanels that are multiplied together if there is one row.
const ONE_ROW_PANELS: usize = 6;
/// Most panels that are multiplied together if there are several rows.
const MAX_PANELS: usize = 3;

/// The product of rows with some panels of a weight matrix.
pub(crate) struct PanelProduct<'a> {
    pub(crate) weights: &'a PackedWeights,
    /// Groups of a panel of `weights`.
    pub(crate) groups: usize,
    pub(crate) x: &'a PackedRows,
    /// The first panel.
    pub(crate) first: usize,
    /// Buffer for weights that are converted to f32.
    pub(crate) wide: &'a mut [f32],
    /// `[panels, rows]`; overwritten.
    pub(crate) sums: &'a mut [[f32; WIDTH]],
}

impl PanelProduct<'_> {
    /// Numbers that the buffer `wide` must have.
    pub(crate) fn wide_length(x: &PackedRows) -> usize {
        aligned_length(MAX_PANELS * x.inputs * WIDTH)
    }
}

impl SimdJob for PanelProduct<'_> {
    #[inline(always)]
    fn run_with<S: Simd>(self, simd: S) {
        match self.weights {
            PackedWeights::F32(numbers) => {
                self.all_panels(simd, f32_groups(numbers));
            }
            PackedWeights::F16(groups) => self.all_panels(simd, groups),
            PackedWeights::Bf16(groups) => self.all_panels(simd, groups),
            PackedWeights::Q8(groups) => self.all_panels(simd, groups),
        }
    }
}

impl PanelProduct<'_> {
    #[inline(always)]
    fn all_panels<S: Simd, G: WeightGroup>(self, simd: S, groups: &[G]) {
        let rows = self.x.count;
        let count = self.groups;
        let panels = self.sums.len() / rows;
        let groups = &groups[self.first * count..][..panels * count];
        let step = if rows == 1 {
            ONE_ROW_PANELS
        } else {
            S::TILE_PANELS
        };
        let start = first_aligned(self.wide);
        let wide = self.wide[start..]
            .as_chunks_mut::<WIDTH>()
            .0
            .as_chunks_mut::<GROUP>()
            .0;
        let mut panel = 0;
        while panel < panels {
            let take = if panels - panel < step { 1 } else { step };
            let (groups, next) = groups[panel * count..].split_at(take * count);
            let next = &next[..next.len().min(take * count)];
            let sums = &mut self.sums[panel * rows..][..take * rows];
            match take {
                ONE_ROW_PANELS => one_row(simd, self.x, groups, sums),
                3 => some_panels::<3, S, G>(simd, self.x, groups, next, wide, sums),
                _ => some_panels::<1, S, G>(simd, self.x, groups, next, wide, sums),
            }
            panel += take;
        }
    }
}

/// Some panels, each a slice of its groups.
#[derive(Clone, Copy)]
struct WeightPanels<'a, const P: usize, G> {
    panels: [&'a [G]; P],
}

impl<'a, const P: usize, G> WeightPanels<'a, P, G> {
    #[inline(always)]
    fn new(groups: &'a [G]) -> Self {
        let mut panels = [&groups[..0]; P];
        for (panel, groups) in panels.iter_mut().zip(groups.chunks_exact(groups.len() / P)) {
            *panel = groups;
        }
        Self { panels }
    }
}

/// The only row of `x` with a few panels.
#[inline(always)]
fn one_row<S: Simd, G: WeightGroup>(
    simd: S,
    x: &PackedRows,
    groups: &[G],
    sums: &mut [[f32; WIDTH]],
) {
    let panels = WeightPanels::<ONE_ROW_PANELS, G>::new(groups);
    let side = TileSideWork::<G> {
        next: &[],
        wide: None,
    };
    panels.tile(simd, x.tile::<1>(0), side, sums, 0);
}

/// All rows of `x` with P panels; `groups` is `[P, groups]`, `sums` `[P, rows]`. The first tile
/// stores the weights in f32 for the other tiles, which prefetch the `next` panels.
#[inline(always)]
fn some_panels<const P: usize, S: Simd, G: WeightGroup>(
    simd: S,
    x: &PackedRows,
    groups: &[G],
    next: &[G],
    wide: &mut [F32Group],
    sums: &mut [[f32; WIDTH]],
) {
    let wide = &mut wide[..groups.len()];
    let has_more = x.tile_rows(0) < x.count;
    let side = TileSideWork::<G> {
        next: &[],
        wide: has_more.then_some(&mut *wide),
    };
    let mut row = WeightPanels::<P, G>::new(groups).next_tile(simd, x, 0, side, sums);
    let share = next
        .len()
        .div_ceil((x.count - row).div_ceil(x.max_rows).clamp(1, 3));
    let mut next = next.chunks(share.max(1));
    while row < x.count {
        let side = TileSideWork {
            next: next.next().unwrap_or_default(),
            wide: None,
        };
        row += WeightPanels::<P, F32Group>::new(wide).next_tile(simd, x, row, side, sums);
    }
}

/// What a tile does besides its product.
struct TileSideWork<'a, N> {
    /// Groups to prefetch.
    next: &'a [N],
    /// Receives the panels' weights in f32.
    wide: Option<&'a mut [F32Group]>,
}

impl<const P: usize, G: WeightGroup> WeightPanels<'_, P, G> {
    /// The tile that begins with `row`; returns its number of rows.
    #[inline(always)]
    fn next_tile<S: Simd, N>(
        self,
        simd: S,
        x: &PackedRows,
        row: usize,
        side: TileSideWork<'_, N>,
        sums: &mut [[f32; WIDTH]],
    ) -> usize {
        let rows = x.tile_rows(row);
        match rows {
            8 => self.tile(simd, x.tile::<8>(row), side, sums, row),
            4 => self.tile(simd, x.tile::<4>(row), side, sums, row),
            2 => self.tile(simd, x.tile::<2>(row), side, sums, row),
            _ => self.tile(simd, x.tile::<1>(row), side, sums, row),
        }
        rows
    }

    /// The R rows that begin with `row`, whose sums stay in registers.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "every index is of several arrays"
    )]
    fn tile<const R: usize, S: Simd, N>(
        self,
        simd: S,
        x: &[[[f32; R]; GROUP]],
        mut side: TileSideWork<'_, N>,
        sums: &mut [[f32; WIDTH]],
        row: usize,
    ) {
        let panels = self.panels;
        let rows = sums.len() / P;
        let count = panels[0].len();
        let zero = simd.splat(0.0);
        let mut held = [[zero; P]; R];
        let mut next = side.next.chunks(side.next.len().div_ceil(count).max(1));
        for (group, x) in (0..count).zip(x) {
            next.next()
                .into_iter()
                .flatten()
                .for_each(|next| simd.prefetch(next));
            let mut scales = [zero; P];
            for p in 0..P {
                scales[p] = panels[p][group].scale(simd);
            }
            for k in 0..GROUP {
                let mut weights = [zero; P];
                for p in 0..P {
                    weights[p] = panels[p][group].weights(simd, k, scales[p]);
                }
                if let Some(wide) = &mut side.wide {
                    for p in 0..P {
                        wide[p * count + group][k] = simd.to_array(weights[p]);
                    }
                }
                multiply_add::<R, P, S>(simd, &x[k], &weights, &mut held);
            }
        }
        for r in 0..R {
            for p in 0..P {
                sums[p * rows + row + r] = simd.to_array(held[r][p]);
            }
        }
    }
}
