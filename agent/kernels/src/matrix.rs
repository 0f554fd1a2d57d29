//! A weight matrix as playing reads it, and its product with a few rows or many.
//!
//! Sixteen columns lie together as a panel, input by input, so that a product reads memory from front to back. Each
//! output is one chain of fused multiply-adds over the inputs in their order, whatever the number of rows, threads or
//! vector width, and a weight becomes the same f32 in every path: a row's result depends on the row and the weights
//! alone. That is what makes episodes independent of who they were batched with.

use crate::simd::{self, Lanes, Portable, WIDTH, Work};
use half::{bf16, f16};
use rayon::prelude::*;
use scenarios::WeightFormat;
use std::cell::Cell;

/// Inputs that lie together, and, as in GGUF's Q8_0, share a scale. A matrix is filled up to whole groups with zeros.
const GROUP: usize = 32;
/// Multiply-adds below which a product stays on its thread.
const WORTH_SHARING: usize = 1 << 18;
/// Numbers that are only moved from which threads share that too.
const WORTH_MOVING_APART: usize = 1 << 14;
/// Rows for each thread from which threads share rows, not columns.
const MANY_ROWS: usize = 32;
/// Rows at a time of a thread that shares rows.
const MOST_ROWS: usize = 64;
/// Panels at a time of a thread that shares rows, whose sums stay near.
const NEAR: usize = 12;
/// A thread that shares columns takes a multiple of so many panels.
const PANELS: usize = 6;
/// These from which it takes its share in four parts.
const MANY_SHARES: usize = 8;
/// Numbers of a line of the cache.
const LINE: usize = 16;

/// A matrix `[inputs, columns]`.
pub struct Matrix {
    inputs: usize,
    columns: usize,
    held: Held,
}

/// By panel and group; the last panel is filled up with zeros.
enum Held {
    /// As [`f32_groups`] finds them: the numbers of a checkpoint in their own memory.
    F32(Vec<f32>),
    F16(Vec<F16Group>),
    Bf16(Vec<Bf16Group>),
    Q8(Vec<Q8Group>),
}

type F32Group = [[f32; WIDTH]; GROUP];

#[derive(Clone)]
#[repr(align(64))]
struct F16Group([[u16; WIDTH]; GROUP]);

#[derive(Clone)]
#[repr(align(64))]
struct Bf16Group([[u16; WIDTH]; GROUP]);

#[derive(Clone)]
#[repr(align(32))]
struct Q8Group {
    /// f16.
    scales: [u16; WIDTH],
    quants: [[i8; WIDTH]; GROUP],
}

impl Matrix {
    /// Packs a matrix that lies as Hugging Face stores it, `[columns, inputs]`; numbers that stay in 32 bits in their own
    /// memory.
    ///
    /// # Panics
    /// When the length does not fit the shape.
    pub fn pack(data: Vec<f32>, columns: usize, inputs: usize, format: WeightFormat) -> Self {
        assert_eq!(data.len(), columns * inputs, "weight shape");
        let is_bf16 = || {
            data.iter()
                .all(|w| bf16::from_f32(*w).to_f32().to_bits() == w.to_bits())
        };
        // The way back, Lanes::f16, is for finite numbers.
        let is_f16 = || {
            data.iter()
                .all(|w| w.is_finite() && f16::from_f32(*w).to_f32().to_bits() == w.to_bits())
        };
        let held = match format {
            WeightFormat::Exact if is_bf16() => Held::Bf16(groups(&data, inputs, bf16_group)),
            WeightFormat::Exact if is_f16() => Held::F16(groups(&data, inputs, f16_group)),
            WeightFormat::Exact => Held::F32(turned(data, columns, inputs)),
            WeightFormat::Bf16 => Held::Bf16(groups(&data, inputs, bf16_group)),
            WeightFormat::F16 => Held::F16(groups(&data, inputs, f16_group)),
            WeightFormat::Q8 => Held::Q8(groups(&data, inputs, q8_group)),
        };
        Self {
            inputs,
            columns,
            held,
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match &self.held {
            Held::F32(numbers) => size_of_val(&numbers[..]),
            Held::F16(groups) => size_of_val(&groups[..]),
            Held::Bf16(groups) => size_of_val(&groups[..]),
            Held::Q8(groups) => size_of_val(&groups[..]),
        }
    }

    /// Appends one column, which is a token's embedding where the matrix is the output's.
    pub fn column_into(&self, column: usize, out: &mut Vec<f32>) {
        match &self.held {
            Held::F32(numbers) => self.lane_into(f32_groups(numbers), column, out),
            Held::F16(groups) => self.lane_into(groups, column, out),
            Held::Bf16(groups) => self.lane_into(groups, column, out),
            Held::Q8(groups) => self.lane_into(groups, column, out),
        }
    }

    fn lane_into<G: Group>(&self, groups: &[G], column: usize, out: &mut Vec<f32>) {
        let (count, end) = (self.groups(), out.len() + self.inputs);
        for group in &groups[column / WIDTH * count..][..count] {
            let scale = group.scale(Portable);
            out.extend((0..GROUP).map(|k| group.weights(Portable, k, scale)[column % WIDTH]));
        }
        out.truncate(end);
    }

    /// Groups of a panel.
    fn groups(&self) -> usize {
        self.inputs.div_ceil(GROUP)
    }

    fn panels(&self) -> usize {
        self.columns.div_ceil(WIDTH)
    }

    /// `y = x · self`, with x `[rows, inputs]` and y `[rows, columns]`, row-major; y is overwritten.
    ///
    /// # Panics
    /// When a length does not fit the shapes.
    pub fn product(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "input shape");
        assert_eq!(y.len(), rows * self.columns, "output shape");
        if rows == 0 {
            return;
        }
        let threads = rayon::current_num_threads();
        if threads == 1 || rows * self.inputs * self.columns < WORTH_SHARING {
            self.by_rows(x, y);
        } else if rows < threads * MANY_ROWS {
            self.by_columns(x, y, threads);
        } else {
            let share = rows.div_ceil(threads).min(MOST_ROWS);
            (x.par_chunks(share * self.inputs)
                .zip(y.par_chunks_mut(share * self.columns)))
            .for_each(|(x, y)| self.by_rows(x, y));
        }
    }

    /// All columns of some rows, on this thread, a few panels at once so that their sums stay near.
    fn by_rows(&self, x: &[f32], y: &mut [f32]) {
        let Room {
            tiles,
            mut sums,
            mut wide,
        } = ROOM.take();
        let x = Rows::new(x, self.inputs, tiles);
        for first in (0..self.panels()).step_by(NEAR) {
            let panels = NEAR.min(self.panels() - first);
            let sums = at_least(&mut sums, panels * x.count);
            self.sum(&x, first, &mut wide, sums);
            for (row, y) in y.chunks_exact_mut(self.columns).enumerate() {
                write(&mut y[first * WIDTH..], &sums[row..], x.count);
            }
        }
        ROOM.set(Room {
            tiles: x.tiles,
            sums,
            wide,
        });
    }

    /// Some columns of all rows on each thread, so that a weight is read from memory once.
    fn by_columns(&self, x: &[f32], y: &mut [f32], threads: usize) {
        let Room {
            tiles,
            mut sums,
            wide,
        } = ROOM.take();
        let x = Rows::new(x, self.inputs, tiles);
        let share = share(self.panels(), threads);
        let found = at_least(&mut sums, self.panels() * x.count);
        found
            .par_chunks_mut(share * x.count)
            .enumerate()
            .for_each(|(index, sums)| {
                let mut room = ROOM.take();
                self.sum(&x, index * share, &mut room.wide, sums);
                ROOM.set(room);
            });
        let rows = if y.len() < WORTH_MOVING_APART {
            x.count
        } else {
            x.count.div_ceil(threads)
        };
        y.par_chunks_mut(rows * self.columns)
            .enumerate()
            .for_each(|(index, y)| {
                for (row, y) in y.chunks_exact_mut(self.columns).enumerate() {
                    write(y, &found[index * rows + row..], x.count);
                }
            });
        ROOM.set(Room {
            tiles: x.tiles,
            sums,
            wide,
        });
    }

    /// Panels from one on: `sums` is `[panels, rows]`.
    fn sum(&self, x: &Rows, first: usize, wide: &mut Vec<f32>, sums: &mut [[f32; WIDTH]]) {
        let wide = at_least(wide, MOST_TOGETHER * x.inputs * WIDTH + LINE);
        simd::widest(Product {
            matrix: self,
            x,
            first,
            wide,
            sums,
        });
    }
}

/// Writes a row's sums, which lie `rows` apart.
fn write(y: &mut [f32], sums: &[[f32; WIDTH]], rows: usize) {
    for (y, sums) in y.chunks_mut(WIDTH).zip(sums.iter().step_by(rows)) {
        y.copy_from_slice(&sums[..y.len()]);
    }
}

/// Panels for each thread at a time: where they are many, some are left to the thread that is done first.
fn share(panels: usize, threads: usize) -> usize {
    let each = panels.div_ceil(PANELS).div_ceil(threads);
    PANELS
        * if each < MANY_SHARES {
            each
        } else {
            each.div_ceil(4)
        }
}

/// What a thread's products need beside their results, kept from one to the next. Taken while it is used: a thread that
/// waits for others may begin another product.
#[derive(Default)]
struct Room {
    tiles: Vec<f32>,
    sums: Vec<[f32; WIDTH]>,
    /// A few panels, widened.
    wide: Vec<f32>,
}

thread_local! {
    static ROOM: Cell<Room> = Cell::default();
}

/// The first so many of a buffer that grows where it must.
fn at_least<T: Clone + Default>(buffer: &mut Vec<T>, count: usize) -> &mut [T] {
    if buffer.len() < count {
        buffer.resize(count, T::default());
    }
    &mut buffer[..count]
}

/// The matrix as [`f32_groups`] reads it, each sixteen rows turned where they lie. Where they do not begin a line of the
/// cache they also move to the next, from the last on; most are lent memory that begins one, and grow by nothing.
fn turned(mut data: Vec<f32>, columns: usize, inputs: usize) -> Vec<f32> {
    let (padded, panels) = (inputs.next_multiple_of(GROUP), columns.div_ceil(WIDTH));
    let length = panels * WIDTH * padded;
    if data.len() < length || line(&data) > 0 {
        data.resize(length + LINE, 0.0);
    }
    let start = line(&data);
    let mut rows = vec![0.0; WIDTH * inputs];
    for panel in (0..panels).rev() {
        let count = WIDTH.min(columns - panel * WIDTH);
        rows.fill(0.0);
        rows[..count * inputs].copy_from_slice(&data[panel * WIDTH * inputs..][..count * inputs]);
        let turned = data[start + panel * WIDTH * padded..][..WIDTH * padded]
            .as_chunks_mut::<WIDTH>()
            .0;
        for (k, turned) in turned.iter_mut().enumerate() {
            for (lane, weight) in turned.iter_mut().enumerate() {
                *weight = if k < inputs {
                    rows[lane * inputs + k]
                } else {
                    0.0
                };
            }
        }
    }
    data
}

/// The first number that begins a line of the cache. Vectors that lie across two are read at half the speed.
fn line(numbers: &[f32]) -> usize {
    numbers
        .as_ptr()
        .align_offset(LINE * size_of::<f32>())
        .min(LINE)
}

/// The groups in numbers that begin a line of the cache, or are [`LINE`] longer.
fn f32_groups(numbers: &[f32]) -> &[F32Group] {
    let groups = &numbers[line(numbers)..];
    groups.as_chunks::<WIDTH>().0.as_chunks::<GROUP>().0
}

/// The matrix by panel and group, each group narrowed.
fn groups<G>(data: &[f32], inputs: usize, narrow: impl Fn(&F32Group) -> G) -> Vec<G> {
    let count = inputs.div_ceil(GROUP);
    let mut groups = Vec::with_capacity(data.len().div_ceil(WIDTH * inputs) * count);
    for columns in data.chunks(WIDTH * inputs) {
        for group in 0..count {
            let mut turned = [[0.0; WIDTH]; GROUP];
            for (lane, column) in columns.chunks_exact(inputs).enumerate() {
                for (row, weight) in turned.iter_mut().zip(&column[group * GROUP..]) {
                    row[lane] = *weight;
                }
            }
            groups.push(narrow(&turned));
        }
    }
    groups
}

fn f16_group(group: &F32Group) -> F16Group {
    F16Group(group.map(|row| row.map(|w| f16::from_f32(w).to_bits())))
}

fn bf16_group(group: &F32Group) -> Bf16Group {
    Bf16Group(group.map(|row| row.map(|w| bf16::from_f32(w).to_bits())))
}

fn q8_group(group: &F32Group) -> Q8Group {
    let mut quantized = Q8Group {
        scales: [0; WIDTH],
        quants: [[0; WIDTH]; GROUP],
    };
    for lane in 0..WIDTH {
        let scale = group
            .iter()
            .fold(0.0_f32, |most, row| most.max(row[lane].abs()))
            / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        quantized.scales[lane] = f16::from_f32(scale).to_bits();
        for (quants, row) in quantized.quants.iter_mut().zip(group) {
            quants[lane] = (row[lane] * inverse).round() as i8;
        }
    }
    quantized
}

/// A group in some format.
trait Group {
    /// What all its weights are multiplied by; one where the format has no scales.
    #[inline(always)]
    fn scale<L: Lanes>(&self, lanes: L) -> L::Sixteen {
        lanes.splat(1.0)
    }

    /// The weights of the group's input `k`.
    fn weights<L: Lanes>(&self, lanes: L, k: usize, scale: L::Sixteen) -> L::Sixteen;
}

impl Group for F32Group {
    #[inline(always)]
    fn weights<L: Lanes>(&self, lanes: L, k: usize, _: L::Sixteen) -> L::Sixteen {
        lanes.f32(&self[k])
    }
}

impl Group for F16Group {
    #[inline(always)]
    fn weights<L: Lanes>(&self, lanes: L, k: usize, _: L::Sixteen) -> L::Sixteen {
        lanes.f16(&self.0[k])
    }
}

impl Group for Bf16Group {
    #[inline(always)]
    fn weights<L: Lanes>(&self, lanes: L, k: usize, _: L::Sixteen) -> L::Sixteen {
        lanes.bf16(&self.0[k])
    }
}

impl Group for Q8Group {
    #[inline(always)]
    fn scale<L: Lanes>(&self, lanes: L) -> L::Sixteen {
        lanes.f16(&self.scales)
    }

    #[inline(always)]
    fn weights<L: Lanes>(&self, lanes: L, k: usize, scale: L::Sixteen) -> L::Sixteen {
        lanes.mul(lanes.i8(&self.quants[k]), scale)
    }
}

/// Rows as products read them: tile by tile, the inputs of a tile's rows side by side.
struct Rows {
    count: usize,
    /// Inputs of a row, filled up to whole groups with zeros.
    inputs: usize,
    /// Of the largest tiles.
    most: usize,
    /// `[inputs, rows]` of each tile.
    tiles: Vec<f32>,
}

impl Rows {
    /// Puts rows into tiles, in a buffer that was used before.
    fn new(x: &[f32], inputs: usize, mut tiles: Vec<f32>) -> Self {
        let (count, padded) = (x.len() / inputs, inputs.next_multiple_of(GROUP));
        tiles.resize(count * padded, 0.0);
        if inputs < padded {
            tiles.fill(0.0);
        }
        let most = simd::most_rows();
        if count > most && x.len() >= WORTH_MOVING_APART {
            (tiles
                .par_chunks_mut(most * padded)
                .zip(x.par_chunks(most * inputs)))
            .for_each(|(tiles, x)| fill(tiles, x, inputs, most));
        } else {
            fill(&mut tiles, x, inputs, most);
        }
        Self {
            count,
            inputs: padded,
            most,
            tiles,
        }
    }

    /// How many rows the tile has that begins with one.
    fn next(&self, row: usize) -> usize {
        tile_rows(self.count - row, self.most)
    }

    /// R rows from one on: by group and input.
    #[inline(always)]
    fn tile<const R: usize>(&self, row: usize) -> &[[[f32; R]; GROUP]] {
        self.tiles[row * self.inputs..][..R * self.inputs]
            .as_chunks::<R>()
            .0
            .as_chunks::<GROUP>()
            .0
    }
}

/// Rows of the next tile where so many are left, and so many fit.
fn tile_rows(left: usize, most: usize) -> usize {
    match left.min(most) {
        8.. => 8,
        4..8 => 4,
        2..4 => 2,
        _ => 1,
    }
}

/// Puts rows into tiles on this thread.
fn fill(tiles: &mut [f32], x: &[f32], inputs: usize, most: usize) {
    let (count, padded) = (x.len() / inputs, inputs.next_multiple_of(GROUP));
    let mut row = 0;
    while row < count {
        let rows = tile_rows(count - row, most);
        let tile = &mut tiles[row * padded..][..rows * inputs];
        for (r, values) in x[row * inputs..][..rows * inputs]
            .chunks_exact(inputs)
            .enumerate()
        {
            for (side_by_side, value) in tile.chunks_exact_mut(rows).zip(values) {
                side_by_side[r] = *value;
            }
        }
        row += rows;
    }
}

/// Some panels of a product as a job for the widest vectors.
struct Product<'a> {
    matrix: &'a Matrix,
    x: &'a Rows,
    /// The first panel.
    first: usize,
    /// Room for widened panels.
    wide: &'a mut [f32],
    /// `[panels, rows]`; overwritten.
    sums: &'a mut [[f32; WIDTH]],
}

/// Panels that go together with one row.
const ALONE: usize = 6;
/// Most panels that go together with more.
const MOST_TOGETHER: usize = 3;

impl Work for Product<'_> {
    #[inline(always)]
    fn with<L: Lanes>(self, lanes: L) {
        match &self.matrix.held {
            Held::F32(numbers) => self.with_groups(lanes, f32_groups(numbers)),
            Held::F16(groups) => self.with_groups(lanes, groups),
            Held::Bf16(groups) => self.with_groups(lanes, groups),
            Held::Q8(groups) => self.with_groups(lanes, groups),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn with_groups<L: Lanes, G: Group>(self, lanes: L, groups: &[G]) {
        let (rows, count) = (self.x.count, self.matrix.groups());
        let panels = self.sums.len() / rows;
        let groups = &groups[self.first * count..][..panels * count];
        let step = if rows == 1 { ALONE } else { L::TOGETHER };
        let start = line(self.wide);
        let wide = self.wide[start..]
            .as_chunks_mut::<WIDTH>()
            .0
            .as_chunks_mut::<GROUP>()
            .0;
        let mut panel = 0;
        while panel < panels {
            let take = if panels - panel < step { 1 } else { step };
            let (groups, soon) = groups[panel * count..].split_at(take * count);
            let soon = &soon[..soon.len().min(take * count)];
            let sums = &mut self.sums[panel * rows..][..take * rows];
            match take {
                ALONE => one_row(lanes, self.x, groups, sums),
                3 => some_panels::<3, L, G>(lanes, self.x, groups, soon, wide, sums),
                _ => some_panels::<1, L, G>(lanes, self.x, groups, soon, wide, sums),
            }
            panel += take;
        }
    }
}

/// P panels one by one.
#[inline(always)]
fn cut<const P: usize, G>(groups: &[G]) -> [&[G]; P] {
    let mut panels = [&groups[..0]; P];
    for (panel, groups) in panels.iter_mut().zip(groups.chunks_exact(groups.len() / P)) {
        *panel = groups;
    }
    panels
}

/// The only row of `x` with a few panels.
#[inline(always)]
fn one_row<L: Lanes, G: Group>(lanes: L, x: &Rows, groups: &[G], sums: &mut [[f32; WIDTH]]) {
    tile::<1, ALONE, L, G, G>(lanes, x.tile(0), cut(groups), &[], None, sums, 0);
}

/// All rows of `x` with P panels; `groups` is `[P, groups]`, `sums` `[P, rows]`. The first tile leaves the weights, wide,
/// to the others, which ask for those of the panels to come.
#[inline(always)]
fn some_panels<const P: usize, L: Lanes, G: Group>(
    lanes: L,
    x: &Rows,
    groups: &[G],
    soon: &[G],
    wide: &mut [F32Group],
    sums: &mut [[f32; WIDTH]],
) {
    let wide = &mut wide[..groups.len()];
    let several = x.next(0) < x.count;
    let mut row = next_tile::<P, L, G, G>(
        lanes,
        x,
        0,
        cut(groups),
        &[],
        several.then_some(&mut *wide),
        sums,
    );
    let share = soon
        .len()
        .div_ceil((x.count - row).div_ceil(x.most).clamp(1, 3));
    let mut soon = soon.chunks(share.max(1));
    while row < x.count {
        let soon = soon.next().unwrap_or_default();
        row += next_tile::<P, L, F32Group, G>(lanes, x, row, cut(wide), soon, None, sums);
    }
}

/// The tile that begins with a row; its number of rows.
#[inline(always)]
fn next_tile<const P: usize, L: Lanes, G: Group, S>(
    lanes: L,
    x: &Rows,
    row: usize,
    panels: [&[G]; P],
    soon: &[S],
    wide: Option<&mut [F32Group]>,
    sums: &mut [[f32; WIDTH]],
) -> usize {
    let rows = x.next(row);
    match rows {
        8 => tile::<8, P, L, G, S>(lanes, x.tile(row), panels, soon, wide, sums, row),
        4 => tile::<4, P, L, G, S>(lanes, x.tile(row), panels, soon, wide, sums, row),
        2 => tile::<2, P, L, G, S>(lanes, x.tile(row), panels, soon, wide, sums, row),
        _ => tile::<1, P, L, G, S>(lanes, x.tile(row), panels, soon, wide, sums, row),
    }
    rows
}

/// R rows from `row` on with P panels, all sums in registers. `wide`, where it is asked for, becomes the panels' weights;
/// `soon` is what will be read soon.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "every index is of several arrays"
)]
fn tile<const R: usize, const P: usize, L: Lanes, G: Group, S>(
    lanes: L,
    x: &[[[f32; R]; GROUP]],
    panels: [&[G]; P],
    soon: &[S],
    mut wide: Option<&mut [F32Group]>,
    sums: &mut [[f32; WIDTH]],
    row: usize,
) {
    let (rows, count) = (sums.len() / P, panels[0].len());
    let zero = lanes.splat(0.0);
    let mut held = [[zero; P]; R];
    let mut soon = soon.chunks(soon.len().div_ceil(count).max(1));
    for (group, x) in (0..count).zip(x) {
        soon.next()
            .into_iter()
            .flatten()
            .for_each(|soon| lanes.fetch(soon));
        let mut scales = [zero; P];
        for p in 0..P {
            scales[p] = panels[p][group].scale(lanes);
        }
        for k in 0..GROUP {
            let mut weights = [zero; P];
            for p in 0..P {
                weights[p] = panels[p][group].weights(lanes, k, scales[p]);
            }
            if let Some(wide) = &mut wide {
                for p in 0..P {
                    wide[p * count + group][k] = lanes.array(weights[p]);
                }
            }
            for r in 0..R {
                let x = lanes.splat(x[k][r]);
                for p in 0..P {
                    held[r][p] = lanes.mul_add(x, weights[p], held[r][p]);
                }
            }
        }
    }
    for r in 0..R {
        for p in 0..P {
            sums[p * rows + row + r] = lanes.array(held[r][p]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    const ALL: [WeightFormat; 4] = [
        WeightFormat::Exact,
        WeightFormat::F16,
        WeightFormat::Bf16,
        WeightFormat::Q8,
    ];

    fn product(matrix: &Matrix, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / matrix.inputs * matrix.columns];
        matrix.product(x, &mut y);
        y
    }

    /// The weights as held, `[columns, inputs]`.
    fn held(matrix: &Matrix) -> Vec<f32> {
        let mut held = Vec::new();
        (0..matrix.columns).for_each(|column| matrix.column_into(column, &mut held));
        held
    }

    #[test]
    fn a_product_equals_the_triple_loop_over_the_weights_held() {
        for (rows, inputs, columns) in [
            (1, 37, 53),
            (2, 64, 16),
            (3, 33, 100),
            (13, 37, 53),
            (50, 40, 17),
        ] {
            let (x, w) = (numbers(rows * inputs, 1), numbers(inputs * columns, 2));
            for format in ALL {
                let matrix = Matrix::pack(w.clone(), columns, inputs, format);
                let (weights, y) = (held(&matrix), product(&matrix, &x));
                for r in 0..rows {
                    for c in 0..columns {
                        let (x, w) = (&x[r * inputs..][..inputs], &weights[c * inputs..][..inputs]);
                        let exact: f64 = x
                            .iter()
                            .zip(w)
                            .map(|(x, w)| f64::from(*x) * f64::from(*w))
                            .sum();
                        assert!(
                            (f64::from(y[r * columns + c]) - exact).abs() < 1e-5,
                            "{format:?} {r} {c}"
                        );
                    }
                }
            }
        }
    }

    /// Where all episodes ended at once there is nothing to compute.
    #[test]
    fn no_rows_give_no_rows() {
        let matrix = Matrix::pack(numbers(64, 1), 4, 16, WeightFormat::Exact);
        assert!(product(&matrix, &[]).is_empty());
    }

    /// One, two, four or eight rows in a tile, one, three or six panels, widened here or by the tile before, on one thread
    /// or more: the same bits.
    #[test]
    fn a_row_does_not_feel_its_neighbours() {
        let (rows, inputs, columns) = (75, 100, 150);
        let (x, w) = (numbers(rows * inputs, 3), numbers(inputs * columns, 4));
        for format in ALL {
            let matrix = Matrix::pack(w.clone(), columns, inputs, format);
            let together = product(&matrix, &x);
            for count in [1, 2, 3, 7, 8, 14] {
                for r in (0..rows - count).step_by(9) {
                    let some = product(&matrix, &x[r * inputs..][..count * inputs]);
                    assert_eq!(
                        some,
                        together[r * columns..][..count * columns],
                        "{format:?}"
                    );
                }
            }
        }
    }

    /// As where there is no AVX-512, in tiles of four rows and in those of this machine.
    #[test]
    fn arrays_give_the_bits_of_vectors() {
        let (rows, inputs, columns) = (13, 70, 100);
        let (x, w) = (numbers(rows * inputs, 6), numbers(inputs * columns, 7));
        for format in ALL {
            let matrix = Matrix::pack(w.clone(), columns, inputs, format);
            let expected = product(&matrix, &x);
            for most in [4, simd::most_rows()] {
                let mut packed = Rows::new(&x, inputs, Vec::new());
                packed.most = most;
                fill(&mut packed.tiles, &x, inputs, most);
                let mut sums = vec![[f32::NAN; WIDTH]; matrix.panels() * rows];
                let mut wide = vec![0.0; MOST_TOGETHER * packed.inputs * WIDTH + LINE];
                let product = Product {
                    matrix: &matrix,
                    x: &packed,
                    first: 0,
                    wide: &mut wide,
                    sums: &mut sums,
                };
                product.with(Portable);
                for (row, expected) in expected.chunks_exact(columns).enumerate() {
                    let mut y = vec![0.0; columns];
                    write(&mut y, &sums[row..], rows);
                    assert_eq!(y, expected, "{format:?} {most}");
                }
            }
        }
    }

    #[test]
    fn exact_changes_no_number_and_takes_half_the_memory_where_it_can() {
        let w = numbers(64 * 48, 5);
        type Round = fn(f32) -> f32;
        let cases: [(Round, usize); 3] = [
            (|w| w, 4),
            (|w| bf16::from_f32(w).to_f32(), 2),
            // Too fine for bf16, and below the normal numbers of f16.
            (|w| f16::from_f32(w * 6e-5).to_f32(), 2),
        ];
        for (round, bytes) in cases {
            let w: Vec<f32> = w.iter().map(|w| round(*w)).collect();
            let matrix = Matrix::pack(w.clone(), 48, 64, WeightFormat::Exact);
            assert_eq!(held(&matrix), w);
            let beside = matrix.bytes() - w.len() * bytes;
            assert!(
                beside == 0 || bytes == 4 && beside == LINE * 4,
                "{beside} bytes beside the weights"
            );
        }
        let infinite = vec![f32::INFINITY; 16];
        assert_eq!(
            held(&Matrix::pack(infinite.clone(), 1, 16, WeightFormat::Exact)),
            infinite
        );
    }

    /// By hand: the largest of 32 is 127 · 2⁻⁷, so the scale is 2⁻⁷ and every multiple of it is kept.
    #[test]
    fn eight_bits_keep_multiples_of_the_scale() {
        let w: Vec<f32> = (0..32).map(|i| (127 - 8 * i) as f32 / 128.0).collect();
        let matrix = Matrix::pack(w.clone(), 1, 32, WeightFormat::Q8);
        assert_eq!(held(&matrix), w);
        assert_eq!(matrix.bytes(), WIDTH * (32 + 2));
        let nothing = Matrix::pack(vec![0.0; 32], 1, 32, WeightFormat::Q8);
        assert_eq!(held(&nothing), [0.0; 32]);
    }
}
