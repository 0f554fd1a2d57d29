//! A weight matrix for play, and its product with one row or many.
//!
//! Each output is one chain of fused multiply-adds over the inputs in their order. The number of
//! rows, threads or vector lanes does not change that order, so a row's result depends only on the
//! row and the weights. Therefore an episode does not depend on the other episodes of its batch.

use crate::gemm::{MIN_PARALLEL_COPY, PackedRows, PanelProduct};
use crate::simd::{self, Portable, WIDTH};
use crate::weight_format::{GROUP, PackedWeights, WeightGroup, f32_groups};
use rayon::prelude::*;
use scenarios::WeightFormat;
use std::cell::Cell;

/// Multiply-adds from which threads share a product.
const MIN_PARALLEL: usize = 1 << 18;
/// Rows for each thread from which threads share rows instead of columns.
const MANY_ROWS: usize = 32;
/// Most rows that a thread takes at a time if threads share rows.
const MAX_ROWS: usize = 64;
/// Panels that a thread multiplies at a time if threads share rows. Their sums stay in the cache.
const CACHED_PANELS: usize = 12;
/// If threads share columns, each takes a multiple of this many panels.
const PANEL_STEP: usize = 6;
/// If a thread's share has at least this many [`PANEL_STEP`]s, it is taken in four parts.
const MANY_STEPS: usize = 8;

/// A weight matrix `[inputs, columns]`.
///
/// # Example
/// ```
/// use kernels::matrix::Matrix;
/// use scenarios::WeightFormat;
///
/// // Two columns of three inputs, as a checkpoint stores them.
/// let weights = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let matrix = Matrix::pack(weights, 2, 3, WeightFormat::Exact);
/// let mut y = [0.0; 2];
/// matrix.product(&[1.0, 0.0, 1.0], &mut y);
/// assert_eq!(y, [4.0, 10.0]);
/// ```
pub struct Matrix {
    inputs: usize,
    columns: usize,
    weights: PackedWeights,
}

impl Matrix {
    /// Packs a matrix that is stored as in Hugging Face checkpoints, `[columns, inputs]`. If the
    /// numbers stay in 32 bits, the matrix uses the memory of `data`.
    ///
    /// [`WeightFormat::Exact`] holds the numbers in 16 bits if that loses nothing.
    ///
    /// # Panics
    /// If the length of `data` is not `columns · inputs`.
    pub fn pack(data: Vec<f32>, columns: usize, inputs: usize, format: WeightFormat) -> Self {
        assert_eq!(data.len(), columns * inputs, "weight shape");
        Self {
            inputs,
            columns,
            weights: PackedWeights::pack(data, columns, inputs, format),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Appends one column to `out`. If the matrix computes logits with tied embeddings, that is the
    /// embedding of a token.
    pub fn column_into(&self, column: usize, out: &mut Vec<f32>) {
        match &self.weights {
            PackedWeights::F32(numbers) => self.append_column(f32_groups(numbers), column, out),
            PackedWeights::F16(groups) => self.append_column(groups, column, out),
            PackedWeights::Bf16(groups) => self.append_column(groups, column, out),
            PackedWeights::Q8(groups) => self.append_column(groups, column, out),
        }
    }

    fn append_column<G: WeightGroup>(&self, groups: &[G], column: usize, out: &mut Vec<f32>) {
        let count = self.groups();
        let end = out.len() + self.inputs;
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

    /// `y = x · self`; `y` is overwritten.
    ///
    /// # Shapes
    /// `x` `[rows, inputs]` and `y` `[rows, columns]`, row-major.
    ///
    /// # Panics
    /// If a length does not fit the shapes.
    pub fn product(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "input shape");
        assert_eq!(y.len(), rows * self.columns, "output shape");
        if rows == 0 {
            return;
        }
        let threads = rayon::current_num_threads();
        if threads == 1 || rows * self.inputs * self.columns < MIN_PARALLEL {
            self.by_rows(x, y);
        } else if rows < threads * MANY_ROWS {
            self.by_columns(x, y, threads);
        } else {
            let share = rows.div_ceil(threads).min(MAX_ROWS);
            (x.par_chunks(share * self.inputs)
                .zip(y.par_chunks_mut(share * self.columns)))
            .for_each(|(x, y)| self.by_rows(x, y));
        }
    }

    /// All columns of some rows, on this thread. Panels are taken a few at a time, so that their sums
    /// stay in the cache.
    fn by_rows(&self, x: &[f32], y: &mut [f32]) {
        let ProductBuffers {
            tiles,
            mut sums,
            mut wide,
        } = BUFFERS.take();
        let x = PackedRows::new(x, self.inputs, tiles);
        for first in (0..self.panels()).step_by(CACHED_PANELS) {
            let panels = CACHED_PANELS.min(self.panels() - first);
            let sums = prefix(&mut sums, panels * x.count);
            self.sum(&x, first, &mut wide, sums);
            for (row, y) in y.chunks_exact_mut(self.columns).enumerate() {
                write_row(&mut y[first * WIDTH..], &sums[row..], x.count);
            }
        }
        BUFFERS.set(ProductBuffers {
            tiles: x.tiles,
            sums,
            wide,
        });
    }

    /// Some columns of all rows on each thread, so that each weight is read from memory once.
    fn by_columns(&self, x: &[f32], y: &mut [f32], threads: usize) {
        let ProductBuffers {
            tiles,
            mut sums,
            wide,
        } = BUFFERS.take();
        let x = PackedRows::new(x, self.inputs, tiles);
        let share = panel_share(self.panels(), threads);
        let found = prefix(&mut sums, self.panels() * x.count);
        found
            .par_chunks_mut(share * x.count)
            .enumerate()
            .for_each(|(index, sums)| {
                let mut buffers = BUFFERS.take();
                self.sum(&x, index * share, &mut buffers.wide, sums);
                BUFFERS.set(buffers);
            });
        let rows = if y.len() < MIN_PARALLEL_COPY {
            x.count
        } else {
            x.count.div_ceil(threads)
        };
        y.par_chunks_mut(rows * self.columns)
            .enumerate()
            .for_each(|(index, y)| {
                for (row, y) in y.chunks_exact_mut(self.columns).enumerate() {
                    write_row(y, &found[index * rows + row..], x.count);
                }
            });
        BUFFERS.set(ProductBuffers {
            tiles: x.tiles,
            sums,
            wide,
        });
    }

    /// Multiplies by the panels from `first` on; `sums` is `[panels, rows]`.
    fn sum(&self, x: &PackedRows, first: usize, wide: &mut Vec<f32>, sums: &mut [[f32; WIDTH]]) {
        let wide = prefix(wide, PanelProduct::wide_length(x));
        simd::dispatch(PanelProduct {
            weights: &self.weights,
            groups: self.groups(),
            x,
            first,
            wide,
            sums,
        });
    }
}

/// Writes a row's sums, of which each is `rows` vectors after the previous one.
fn write_row(y: &mut [f32], sums: &[[f32; WIDTH]], rows: usize) {
    for (y, sums) in y.chunks_mut(WIDTH).zip(sums.iter().step_by(rows)) {
        y.copy_from_slice(&sums[..y.len()]);
    }
}

/// Panels that a thread takes at a time. If there are many, each thread takes its share in parts, so
/// that a thread that finishes early can take more.
fn panel_share(panels: usize, threads: usize) -> usize {
    let each = panels.div_ceil(PANEL_STEP).div_ceil(threads);
    PANEL_STEP
        * if each < MANY_STEPS {
            each
        } else {
            each.div_ceil(4)
        }
}

/// Buffers of a thread's products, kept from one product to the next. A product takes them while it
/// uses them: if the thread waits for others, it may begin another product.
#[derive(Default)]
struct ProductBuffers {
    tiles: Vec<f32>,
    sums: Vec<[f32; WIDTH]>,
    /// A few panels in f32.
    wide: Vec<f32>,
}

thread_local! {
    static BUFFERS: Cell<ProductBuffers> = Cell::default();
}

/// The first `count` items of a buffer, which grows if it is shorter.
fn prefix<T: Clone + Default>(buffer: &mut Vec<T>, count: usize) -> &mut [T] {
    if buffer.len() < count {
        buffer.resize(count, T::default());
    }
    &mut buffer[..count]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::SimdJob;
    use crate::weight_format::LINE;
    use half::{bf16, f16};

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
            let x = numbers(rows * inputs, 1);
            let w = numbers(inputs * columns, 2);
            for format in ALL {
                let matrix = Matrix::pack(w.clone(), columns, inputs, format);
                let weights = held(&matrix);
                let y = product(&matrix, &x);
                for r in 0..rows {
                    for c in 0..columns {
                        let x = &x[r * inputs..][..inputs];
                        let w = &weights[c * inputs..][..inputs];
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

    /// If all episodes ended at once, there is nothing to compute.
    #[test]
    fn no_rows_give_no_rows() {
        let matrix = Matrix::pack(numbers(64, 1), 4, 16, WeightFormat::Exact);
        assert!(product(&matrix, &[]).is_empty());
    }

    /// Tiles of one, two, four or eight rows and one, three or six panels, with weights converted by
    /// the tile itself or by an earlier one, on one thread or more: the bits are the same.
    #[test]
    fn a_row_does_not_depend_on_the_other_rows() {
        let rows = 75;
        let inputs = 100;
        let columns = 150;
        let x = numbers(rows * inputs, 3);
        let w = numbers(inputs * columns, 4);
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

    /// Computes as if the machine had no AVX-512, in tiles of four rows and in tiles of this
    /// machine's size.
    #[test]
    fn arrays_give_the_bits_of_vectors() {
        let rows = 13;
        let inputs = 70;
        let columns = 100;
        let x = numbers(rows * inputs, 6);
        let w = numbers(inputs * columns, 7);
        for format in ALL {
            let matrix = Matrix::pack(w.clone(), columns, inputs, format);
            let expected = product(&matrix, &x);
            for max_rows in [4, simd::max_tile_rows()] {
                let packed = PackedRows::with_max_rows(&x, inputs, Vec::new(), max_rows);
                let mut sums = vec![[f32::NAN; WIDTH]; matrix.panels() * rows];
                let mut wide = vec![0.0; PanelProduct::wide_length(&packed)];
                let product = PanelProduct {
                    weights: &matrix.weights,
                    groups: matrix.groups(),
                    x: &packed,
                    first: 0,
                    wide: &mut wide,
                    sums: &mut sums,
                };
                product.run_with(Portable);
                for (row, expected) in expected.chunks_exact(columns).enumerate() {
                    let mut y = vec![0.0; columns];
                    write_row(&mut y, &sums[row..], rows);
                    assert_eq!(y, expected, "{format:?} {max_rows}");
                }
            }
        }
    }

    #[test]
    fn exact_changes_no_number_and_uses_16_bits_if_it_can() {
        let w = numbers(64 * 48, 5);
        type Round = fn(f32) -> f32;
        let cases: [(Round, usize); 3] = [
            (|w| w, 4),
            (|w| bf16::from_f32(w).to_f32(), 2),
            // Too fine for bf16, and subnormal in f16.
            (|w| f16::from_f32(w * 6e-5).to_f32(), 2),
        ];
        for (round, bytes) in cases {
            let w: Vec<f32> = w.iter().map(|w| round(*w)).collect();
            let matrix = Matrix::pack(w.clone(), 48, 64, WeightFormat::Exact);
            assert_eq!(held(&matrix), w);
            let extra = matrix.bytes() - w.len() * bytes;
            assert!(
                extra == 0 || bytes == 4 && extra == LINE * 4,
                "{extra} bytes besides the weights"
            );
        }
        let infinite = vec![f32::INFINITY; 16];
        assert_eq!(
            held(&Matrix::pack(infinite.clone(), 1, 16, WeightFormat::Exact)),
            infinite
        );
    }

    /// By hand: if the largest of 32 is 127 · 2⁻⁷, the scale is 2⁻⁷ and every multiple of it is exact.
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
