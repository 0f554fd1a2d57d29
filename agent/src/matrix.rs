//! A weight matrix as playing reads it, and its product with a few rows or many.
//!
//! Sixteen columns lie together as a panel, input by input, so that a product reads memory from front to back. Each
//! output is one chain of fused multiply-adds over the inputs in their order, whatever the number of rows, threads or
//! vector width, and a weight becomes the same f32 in every path: a row's result depends on the row and the weights
//! alone. That is what makes episodes independent of who they were batched with.

use half::{bf16, f16};
use rayon::prelude::*;
use scenarios::WeightFormat;

/// Columns of a panel.
const WIDTH: usize = 16;
/// Weights of a column that share a scale, as in GGUF's Q8_0.
const GROUP: usize = 32;
/// Multiply-adds below which a product stays on its thread.
const WORTH_SHARING: usize = 1 << 18;
/// Rows whose sums stay in registers together.
const TILE: usize = 4;
/// Inputs of a few panels that stay in the nearest cache while all rows pass; whole groups.
const BLOCK: usize = 4 * GROUP;

/// A matrix `[inputs, columns]`.
pub(crate) struct Matrix {
    inputs: usize,
    columns: usize,
    held: Held,
}

/// By panel, input and column; the last panel is filled up with zeros.
enum Held {
    F32(Vec<f32>),
    F16(Vec<[u16; WIDTH]>),
    Bf16(Vec<[u16; WIDTH]>),
    /// A panel has a row of scales for each group of inputs.
    Q8 {
        quants: Vec<[i8; WIDTH]>,
        scales: Vec<[u16; WIDTH]>,
    },
}

impl Matrix {
    /// Packs a matrix that lies as Hugging Face stores it, `[columns, inputs]`; numbers that stay in 32 bits in their own
    /// memory.
    ///
    /// # Panics
    /// When the length does not fit the shape.
    pub(crate) fn pack(data: Vec<f32>, columns: usize, inputs: usize, format: WeightFormat) -> Self {
        assert_eq!(data.len(), columns * inputs, "weight shape");
        let is_bf16 = || data.iter().all(|w| bf16::from_f32(*w).to_f32().to_bits() == w.to_bits());
        // The way back, f16_bits, is for finite numbers.
        let is_f16 = || data.iter().all(|w| w.is_finite() && f16::from_f32(*w).to_f32().to_bits() == w.to_bits());
        let to_bf16 = |w: f32| bf16::from_f32(w).to_bits();
        let to_f16 = |w: f32| f16::from_f32(w).to_bits();
        let held = match format {
            WeightFormat::Exact if is_bf16() => Held::Bf16(panels(&data, columns, inputs, to_bf16)),
            WeightFormat::Exact if is_f16() => Held::F16(panels(&data, columns, inputs, to_f16)),
            WeightFormat::Exact => Held::F32(turned(data, columns, inputs)),
            WeightFormat::Bf16 => Held::Bf16(panels(&data, columns, inputs, to_bf16)),
            WeightFormat::F16 => Held::F16(panels(&data, columns, inputs, to_f16)),
            WeightFormat::Q8 => quantized(&data, columns, inputs),
        };
        Self { inputs, columns, held }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match &self.held {
            Held::F32(panels) => size_of_val(&panels[..]),
            Held::F16(panels) | Held::Bf16(panels) => size_of_val(&panels[..]),
            Held::Q8 { quants, scales } => size_of_val(&quants[..]) + size_of_val(&scales[..]),
        }
    }

    /// Appends one column, which is a token's embedding where the matrix is the output's.
    pub(crate) fn column_into(&self, column: usize, out: &mut Vec<f32>) {
        let (panel, lane) = (column / WIDTH, column % WIDTH);
        let from = panel * self.inputs;
        match &self.held {
            Held::F32(panels) => {
                out.extend(panels.as_chunks::<WIDTH>().0[from..][..self.inputs].iter().map(|row| row[lane]))
            }
            Held::F16(panels) => out.extend(panels[from..][..self.inputs].iter().map(|row| f16_bits(row[lane]))),
            Held::Bf16(panels) => out.extend(panels[from..][..self.inputs].iter().map(|row| bf16_bits(row[lane]))),
            Held::Q8 { quants, scales } => {
                let scales = &scales[panel * self.inputs.div_ceil(GROUP)..];
                let rows = quants[from..][..self.inputs].iter().enumerate();
                out.extend(rows.map(|(k, row)| f32::from(row[lane]) * f16_bits(scales[k / GROUP][lane])));
            }
        }
    }

    /// `y = x · self`, with x `[rows, inputs]` and y `[rows, columns]`, row-major; y is overwritten.
    ///
    /// # Panics
    /// When a length does not fit the shapes.
    pub(crate) fn product(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "input shape");
        assert_eq!(y.len(), rows * self.columns, "output shape");
        if rows == 0 {
            return;
        }
        let panels = self.columns.div_ceil(WIDTH);
        let threads = rayon::current_num_threads();
        let shared = threads > 1 && rows * self.inputs * self.columns >= WORTH_SHARING;
        let share = if shared { panels.div_ceil(threads * 2) } else { panels };
        let x = &Rows::new(x, self.inputs);
        let mut sums = vec![[0.0; WIDTH]; panels * rows];
        let job = |(index, sums): (usize, &mut [[f32; WIDTH]])| {
            pulp::Arch::new().dispatch(Product { matrix: self, x, first: index * share, sums, rows });
        };
        if shared {
            sums.par_chunks_mut(share * rows).enumerate().for_each(job);
        } else {
            job((0, &mut sums));
        }
        for (panel, sums) in sums.chunks_exact(rows).enumerate() {
            let from = panel * WIDTH;
            let width = WIDTH.min(self.columns - from);
            for (row, sums) in sums.iter().enumerate() {
                y[row * self.columns + from..][..width].copy_from_slice(&sums[..width]);
            }
        }
    }
}

/// The matrix by panels: each sixteen rows turned where they lie.
fn turned(mut data: Vec<f32>, columns: usize, inputs: usize) -> Vec<f32> {
    data.resize(columns.next_multiple_of(WIDTH) * inputs, 0.0);
    let mut rows = vec![0.0; WIDTH * inputs];
    for panel in data.chunks_exact_mut(WIDTH * inputs) {
        rows.copy_from_slice(panel);
        for (k, turned) in panel.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            for (lane, weight) in turned.iter_mut().enumerate() {
                *weight = rows[lane * inputs + k];
            }
        }
    }
    data
}

/// The matrix by panels, each weight narrowed.
fn panels<T: Copy + Default>(
    data: &[f32],
    columns: usize,
    inputs: usize,
    narrow: impl Fn(f32) -> T,
) -> Vec<[T; WIDTH]> {
    let mut panels = vec![[T::default(); WIDTH]; columns.div_ceil(WIDTH) * inputs];
    for (column, weights) in data.chunks_exact(inputs).enumerate() {
        let panel = &mut panels[column / WIDTH * inputs..][..inputs];
        for (row, weight) in panel.iter_mut().zip(weights) {
            row[column % WIDTH] = narrow(*weight);
        }
    }
    panels
}

fn quantized(data: &[f32], columns: usize, inputs: usize) -> Held {
    let groups = inputs.div_ceil(GROUP);
    let mut quants = vec![[0; WIDTH]; columns.div_ceil(WIDTH) * inputs];
    let mut scales = vec![[0; WIDTH]; columns.div_ceil(WIDTH) * groups];
    for (column, weights) in data.chunks_exact(inputs).enumerate() {
        let (panel, lane) = (column / WIDTH, column % WIDTH);
        for (group, weights) in weights.chunks(GROUP).enumerate() {
            let scale = weights.iter().fold(0.0_f32, |most, w| most.max(w.abs())) / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            scales[panel * groups + group][lane] = f16::from_f32(scale).to_bits();
            for (offset, weight) in weights.iter().enumerate() {
                quants[panel * inputs + group * GROUP + offset][lane] = (weight * inverse).round() as i8;
            }
        }
    }
    Held::Q8 { quants, scales }
}

/// Rows as products read them: the inputs of a tile's rows side by side.
struct Rows {
    inputs: usize,
    fours: Vec<Vec<[f32; TILE]>>,
    /// Those that fill no tile.
    ones: Vec<Vec<[f32; 1]>>,
}

impl Rows {
    fn new(x: &[f32], inputs: usize) -> Self {
        let tiles = x.chunks_exact(TILE * inputs);
        let ones = tiles.remainder().chunks_exact(inputs).map(|row| row.iter().map(|x| [*x]).collect()).collect();
        let four = |rows: &[f32]| (0..inputs).map(|k| std::array::from_fn(|r| rows[r * inputs + k])).collect();
        Self { inputs, fours: tiles.map(four).collect(), ones }
    }
}

/// A panel of some type.
trait Panel: Copy {
    /// What a group's weights are multiplied by.
    type Scale: Copy;

    fn scale(&self, group: usize) -> Self::Scale;

    /// So many inputs from one on, which begins a group.
    fn part(&self, from: usize, count: usize) -> Self;

    /// The weights of input `k`, which stays below the number of inputs.
    fn at(&self, k: usize, scale: &Self::Scale) -> [f32; WIDTH];
}

#[derive(Clone, Copy)]
struct F32Panel<'a>(&'a [[f32; WIDTH]]);
#[derive(Clone, Copy)]
struct F16Panel<'a>(&'a [[u16; WIDTH]]);
#[derive(Clone, Copy)]
struct Bf16Panel<'a>(&'a [[u16; WIDTH]]);
#[derive(Clone, Copy)]
struct Q8Panel<'a> {
    quants: &'a [[i8; WIDTH]],
    scales: &'a [[u16; WIDTH]],
}

impl Panel for F32Panel<'_> {
    type Scale = ();

    #[inline(always)]
    fn scale(&self, _: usize) {}

    #[inline(always)]
    fn part(&self, from: usize, count: usize) -> Self {
        Self(&self.0[from..][..count])
    }

    #[inline(always)]
    fn at(&self, k: usize, (): &()) -> [f32; WIDTH] {
        self.0[k]
    }
}

impl Panel for F16Panel<'_> {
    type Scale = ();

    #[inline(always)]
    fn scale(&self, _: usize) {}

    #[inline(always)]
    fn part(&self, from: usize, count: usize) -> Self {
        Self(&self.0[from..][..count])
    }

    #[inline(always)]
    fn at(&self, k: usize, (): &()) -> [f32; WIDTH] {
        lanes(|lane| f16_bits(self.0[k][lane]))
    }
}

impl Panel for Bf16Panel<'_> {
    type Scale = ();

    #[inline(always)]
    fn scale(&self, _: usize) {}

    #[inline(always)]
    fn part(&self, from: usize, count: usize) -> Self {
        Self(&self.0[from..][..count])
    }

    #[inline(always)]
    fn at(&self, k: usize, (): &()) -> [f32; WIDTH] {
        lanes(|lane| bf16_bits(self.0[k][lane]))
    }
}

impl Panel for Q8Panel<'_> {
    type Scale = [f32; WIDTH];

    #[inline(always)]
    fn scale(&self, group: usize) -> [f32; WIDTH] {
        lanes(|lane| f16_bits(self.scales[group][lane]))
    }

    #[inline(always)]
    fn part(&self, from: usize, count: usize) -> Self {
        Self { quants: &self.quants[from..][..count], scales: &self.scales[from / GROUP..] }
    }

    #[inline(always)]
    fn at(&self, k: usize, scale: &[f32; WIDTH]) -> [f32; WIDTH] {
        lanes(|lane| f32::from(self.quants[k][lane]) * scale[lane])
    }
}

/// A loop, which the compiler makes a vector of; `std::array::from_fn` it does not.
#[inline(always)]
fn lanes(number: impl Fn(usize) -> f32) -> [f32; WIDTH] {
    let mut lanes = [0.0; WIDTH];
    for (lane, out) in lanes.iter_mut().enumerate() {
        *out = number(lane);
    }
    lanes
}

/// The number with these bits. Exact: the exponent's bias is put right by a multiplication, which also makes numbers
/// below the normal ones whole. A checkpoint's weights are finite.
#[inline(always)]
fn f16_bits(bits: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits((254 - 15) << 23);
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

#[inline(always)]
fn bf16_bits(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Some panels of a product as a job for the widest vectors.
struct Product<'a> {
    matrix: &'a Matrix,
    x: &'a Rows,
    /// The first panel.
    first: usize,
    /// `[panels, rows]`.
    sums: &'a mut [[f32; WIDTH]],
    rows: usize,
}

impl pulp::WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let wide = S::F32_LANES >= WIDTH;
        let inputs = self.matrix.inputs;
        let groups = inputs.div_ceil(GROUP);
        match &self.matrix.held {
            Held::F32(panels) => {
                let panels = panels.as_chunks().0;
                self.run(wide, |panel| F32Panel(&panels[panel * inputs..][..inputs]));
            }
            Held::F16(panels) => self.run(wide, |panel| F16Panel(&panels[panel * inputs..][..inputs])),
            Held::Bf16(panels) => self.run(wide, |panel| Bf16Panel(&panels[panel * inputs..][..inputs])),
            Held::Q8 { quants, scales } => self.run(wide, |panel| Q8Panel {
                quants: &quants[panel * inputs..][..inputs],
                scales: &scales[panel * groups..][..groups],
            }),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn run<L: Panel>(self, wide: bool, panel: impl Fn(usize) -> L) {
        let mut index = 0;
        let (rows, count) = (self.rows, self.sums.len() / self.rows);
        let step = if wide || rows == 1 { 4 } else { 1 };
        while index < count {
            let first = self.first + index;
            let take = if count - index >= step { step } else { 1 };
            let sums = &mut self.sums[index * rows..][..take * rows];
            match take {
                4 => some_panels::<4, L>(self.x, std::array::from_fn(|p| panel(first + p)), sums, rows),
                _ => some_panels::<1, L>(self.x, [panel(first)], sums, rows),
            }
            index += take;
        }
    }
}

/// All rows of `x` with a few panels; `sums` is `[P, rows]`, and zero.
///
/// Inputs are taken block by block, so that a block of the panels stays in the nearest cache for all rows; a sum rests
/// in memory between blocks, which changes no bit of it.
#[inline(always)]
fn some_panels<const P: usize, L: Panel>(x: &Rows, panels: [L; P], sums: &mut [[f32; WIDTH]], rows: usize) {
    if rows <= TILE {
        return tiles(x, panels, sums, rows, 0..x.inputs);
    }
    let mut widened = [[[0.0; WIDTH]; BLOCK]; P];
    for from in (0..x.inputs).step_by(BLOCK) {
        let block = from..x.inputs.min(from + BLOCK);
        for (widened, panel) in widened.iter_mut().zip(&panels) {
            for (group, some) in widened[..block.len()].chunks_mut(GROUP).enumerate() {
                let first = from + group * GROUP;
                let scale = panel.scale(first / GROUP);
                for (offset, weights) in some.iter_mut().enumerate() {
                    *weights = panel.at(first + offset, &scale);
                }
            }
        }
        let wide: [F32Panel<'_>; P] = std::array::from_fn(|p| F32Panel(&widened[p][..block.len()]));
        tiles(x, wide, sums, rows, block);
    }
}

/// All rows with the inputs of a range; a panel begins with the first of them.
#[inline(always)]
fn tiles<const P: usize, L: Panel>(
    x: &Rows,
    panels: [L; P],
    sums: &mut [[f32; WIDTH]],
    rows: usize,
    inputs: std::ops::Range<usize>,
) {
    let mut row = 0;
    for tile_of_four in &x.fours {
        tile::<4, P, L>(&tile_of_four[inputs.clone()], panels, sums, rows, row);
        row += 4;
    }
    for tile_of_one in &x.ones {
        tile::<1, P, L>(&tile_of_one[inputs.clone()], panels, sums, rows, row);
        row += 1;
    }
}

/// R rows from `row` on with P panels, all sums in registers.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "every index is of several arrays")]
fn tile<const R: usize, const P: usize, L: Panel>(
    x: &[[f32; R]],
    panels: [L; P],
    sums: &mut [[f32; WIDTH]],
    rows: usize,
    row: usize,
) {
    let mut held: [[[f32; WIDTH]; P]; R] = std::array::from_fn(|r| std::array::from_fn(|p| sums[p * rows + row + r]));
    for (group, x) in x.chunks(GROUP).enumerate() {
        let panels: [L; P] = std::array::from_fn(|p| panels[p].part(group * GROUP, x.len()));
        let scales: [L::Scale; P] = std::array::from_fn(|p| panels[p].scale(0));
        for (k, x) in x.iter().enumerate() {
            for p in 0..P {
                let weights = panels[p].at(k, &scales[p]);
                for r in 0..R {
                    for lane in 0..WIDTH {
                        held[r][p][lane] = x[r].mul_add(weights[lane], held[r][p][lane]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        for p in 0..P {
            sums[p * rows + row + r] = held[r][p];
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

    const ALL: [WeightFormat; 4] = [WeightFormat::Exact, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q8];

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
        for (rows, inputs, columns) in [(1, 37, 53), (2, 64, 16), (3, 33, 100), (13, 37, 53), (50, 40, 17)] {
            let (x, w) = (numbers(rows * inputs, 1), numbers(inputs * columns, 2));
            for format in ALL {
                let matrix = Matrix::pack(w.clone(), columns, inputs, format);
                let (weights, y) = (held(&matrix), product(&matrix, &x));
                for r in 0..rows {
                    for c in 0..columns {
                        let (x, w) = (&x[r * inputs..][..inputs], &weights[c * inputs..][..inputs]);
                        let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                        assert!((f64::from(y[r * columns + c]) - exact).abs() < 1e-5, "{format:?} {r} {c}");
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

    /// One, two, four or eight rows in a tile, one, two or four panels, widened once or on the way, on one thread or
    /// more: the same bits.
    #[test]
    fn a_row_does_not_feel_its_neighbours() {
        let (rows, inputs, columns) = (75, 100, 150);
        let (x, w) = (numbers(rows * inputs, 3), numbers(inputs * columns, 4));
        for format in ALL {
            let matrix = Matrix::pack(w.clone(), columns, inputs, format);
            let together = product(&matrix, &x);
            for count in [1, 2, 3, 7, 14] {
                for r in (0..rows - count).step_by(9) {
                    let some = product(&matrix, &x[r * inputs..][..count * inputs]);
                    assert_eq!(some, together[r * columns..][..count * columns], "{format:?}");
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
            assert_eq!((held(&matrix), matrix.bytes()), (w.clone(), w.len() * bytes));
        }
        let infinite = vec![f32::INFINITY; 16];
        assert_eq!(held(&Matrix::pack(infinite.clone(), 1, 16, WeightFormat::Exact)), infinite);
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
