//! The formats in which a weight matrix is held in memory, and how they become f32.
//!
//! Sixteen columns form a panel, and 32 inputs of a panel form a group. The groups of a panel are
//! adjacent, so that a product reads memory in order. A weight becomes the same f32 in every product.

use crate::simd::{Simd, WIDTH};
use half::{bf16, f16};
use scenarios::WeightFormat;

/// Inputs of a group. As in GGUF's Q8_0, the weights of a column in a group share a scale. A matrix
/// is padded with zeros to whole groups.
pub(crate) const GROUP: usize = 32;
/// f32 of a cache line.
pub(crate) const LINE: usize = 16;

/// The groups of a matrix, panel by panel. The last panel is padded with zeros.
pub(crate) enum PackedWeights {
    /// As [`f32_groups`] finds them: the numbers of a checkpoint in their own memory.
    F32(Vec<f32>),
    F16(Vec<F16Group>),
    Bf16(Vec<Bf16Group>),
    Q8(Vec<Q8Group>),
}

impl PackedWeights {
    /// Packs a matrix `[columns, inputs]`.
    pub(crate) fn pack(
        data: Vec<f32>,
        columns: usize,
        inputs: usize,
        format: WeightFormat,
    ) -> Self {
        match format {
            WeightFormat::Exact if is_bf16(&data) => Self::Bf16(groups(&data, inputs, bf16_group)),
            WeightFormat::Exact if is_f16(&data) => Self::F16(groups(&data, inputs, f16_group)),
            WeightFormat::Exact => Self::F32(transpose_panels(data, columns, inputs)),
            WeightFormat::Bf16 => Self::Bf16(groups(&data, inputs, bf16_group)),
            WeightFormat::F16 => Self::F16(groups(&data, inputs, f16_group)),
            WeightFormat::Q8 => Self::Q8(groups(&data, inputs, q8_group)),
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::F32(numbers) => size_of_val(&numbers[..]),
            Self::F16(groups) => size_of_val(&groups[..]),
            Self::Bf16(groups) => size_of_val(&groups[..]),
            Self::Q8(groups) => size_of_val(&groups[..]),
        }
    }
}

/// Whether bf16 represents every number exactly.
fn is_bf16(data: &[f32]) -> bool {
    data.iter()
        .all(|w| bf16::from_f32(*w).to_f32().to_bits() == w.to_bits())
}

/// Whether f16 represents every number exactly and every number is finite. The conversion back,
/// [`Simd::load_f16`], is correct only for finite numbers.
fn is_f16(data: &[f32]) -> bool {
    data.iter()
        .all(|w| w.is_finite() && f16::from_f32(*w).to_f32().to_bits() == w.to_bits())
}

/// A group of weights in some format.
pub(crate) trait WeightGroup {
    /// The factors of the sixteen columns; 1 if the format has no scales.
    #[inline(always)]
    fn scale<S: Simd>(&self, simd: S) -> S::Vector {
        simd.splat(1.0)
    }

    /// The weights of the group's input `k`.
    fn weights<S: Simd>(&self, simd: S, k: usize, scale: S::Vector) -> S::Vector;
}

pub(crate) type F32Group = [[f32; WIDTH]; GROUP];

#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct F16Group([[u16; WIDTH]; GROUP]);

#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Bf16Group([[u16; WIDTH]; GROUP]);

#[derive(Clone)]
#[repr(align(32))]
pub(crate) struct Q8Group {
    /// f16.
    scales: [u16; WIDTH],
    quants: [[i8; WIDTH]; GROUP],
}

impl WeightGroup for F32Group {
    #[inline(always)]
    fn weights<S: Simd>(&self, simd: S, k: usize, _: S::Vector) -> S::Vector {
        simd.load(&self[k])
    }
}

impl WeightGroup for F16Group {
    #[inline(always)]
    fn weights<S: Simd>(&self, simd: S, k: usize, _: S::Vector) -> S::Vector {
        simd.load_f16(&self.0[k])
    }
}

impl WeightGroup for Bf16Group {
    #[inline(always)]
    fn weights<S: Simd>(&self, simd: S, k: usize, _: S::Vector) -> S::Vector {
        simd.load_bf16(&self.0[k])
    }
}

impl WeightGroup for Q8Group {
    #[inline(always)]
    fn scale<S: Simd>(&self, simd: S) -> S::Vector {
        simd.load_f16(&self.scales)
    }

    #[inline(always)]
    fn weights<S: Simd>(&self, simd: S, k: usize, scale: S::Vector) -> S::Vector {
        simd.mul(simd.load_i8(&self.quants[k]), scale)
    }
}

/// Transposes a matrix `[columns, inputs]` panel by panel, in its own memory, so that [`f32_groups`]
/// can read it.
///
/// If the memory does not begin at a cache line, the panels also move to the next line, the last
/// panel first. Large allocations mostly begin at a line; then the memory does not grow.
fn transpose_panels(mut data: Vec<f32>, columns: usize, inputs: usize) -> Vec<f32> {
    let padded = inputs.next_multiple_of(GROUP);
    let panels = columns.div_ceil(WIDTH);
    let length = panels * WIDTH * padded;
    if data.len() < length || first_aligned(&data) > 0 {
        data.resize(aligned_length(length), 0.0);
    }
    let start = first_aligned(&data);
    let mut rows = vec![0.0; WIDTH * inputs];
    for panel in (0..panels).rev() {
        let count = WIDTH.min(columns - panel * WIDTH);
        rows.fill(0.0);
        rows[..count * inputs].copy_from_slice(&data[panel * WIDTH * inputs..][..count * inputs]);
        let transposed = data[start + panel * WIDTH * padded..][..WIDTH * padded]
            .as_chunks_mut::<WIDTH>()
            .0;
        for (k, transposed) in transposed.iter_mut().enumerate() {
            for (lane, weight) in transposed.iter_mut().enumerate() {
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

/// Index of the first number that begins a cache line. A vector that spans two lines is read at half
/// the speed.
pub(crate) fn first_aligned(numbers: &[f32]) -> usize {
    numbers
        .as_ptr()
        .align_offset(LINE * size_of::<f32>())
        .min(LINE)
}

/// Length of a buffer that has `length` numbers from its [`first_aligned`] number on.
pub(crate) fn aligned_length(length: usize) -> usize {
    length + LINE
}

/// The groups in numbers that begin at a cache line or have [`aligned_length`].
pub(crate) fn f32_groups(numbers: &[f32]) -> &[F32Group] {
    let groups = &numbers[first_aligned(numbers)..];
    groups.as_chunks::<WIDTH>().0.as_chunks::<GROUP>().0
}

/// The groups of a matrix `[columns, inputs]`, each converted by `narrow`.
fn groups<G>(data: &[f32], inputs: usize, narrow: impl Fn(&F32Group) -> G) -> Vec<G> {
    let count = inputs.div_ceil(GROUP);
    let mut groups = Vec::with_capacity(data.len().div_ceil(WIDTH * inputs) * count);
    for columns in data.chunks(WIDTH * inputs) {
        for group in 0..count {
            let mut transposed = [[0.0; WIDTH]; GROUP];
            for (lane, column) in columns.chunks_exact(inputs).enumerate() {
                for (row, weight) in transposed.iter_mut().zip(&column[group * GROUP..]) {
                    row[lane] = *weight;
                }
            }
            groups.push(narrow(&transposed));
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

/// Quantises each column to multiples of max |w| / 127.
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
