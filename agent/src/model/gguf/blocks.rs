//! Tensor formats of GGUF and their numbers as f32, bit for bit as the reference computes them
//! (`gguf.quants.dequantize` of the Python package `gguf`, which is checked against ggml's
//! `dequantize_row_*`).
//!
//! A block contains 32 or 256 numbers: small integers `q` and the scales that they share. If the
//! format is not quantised, a block is one number. This module does not depend on files.

use half::{bf16, f16};

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "ggml's own names")]
pub enum TensorFormat {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// `d (q − 8)`, 4 bits.
    Q4_0,
    /// `d q + m`, 4 bits.
    Q4_1,
    /// `d (q − 16)`, 5 bits.
    Q5_0,
    /// `d q + m`, 5 bits.
    Q5_1,
    /// `d q`, 8 bits.
    Q8_0,
    /// `d sc_j q − dmin m_j` for the j-th 16 of 256, 2 bits.
    Q2_K,
    /// `d sc_j (q − 4)` for the j-th 16 of 256, 3 bits.
    Q3_K,
    /// `d sc_j q − dmin m_j` for the j-th 32 of 256, 4 bits.
    Q4_K,
    /// `d sc_j q − dmin m_j` for the j-th 32 of 256, 5 bits.
    Q5_K,
    /// `d sc_j (q − 32)` for the j-th 16 of 256, 6 bits.
    Q6_K,
    /// `d t_q` with a table t of 16 numbers, 4 bits.
    IQ4_NL,
    /// `d sc_j t_q` for the j-th 32 of 256, with the same table, 4 bits.
    IQ4_XS,
}

/// Name of a tensor type for messages, also if it is not supported.
pub(super) fn name(code: u32) -> String {
    let known = match code {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return format!("of the unknown type {code}"),
    };
    format!("of type {known}")
}

/// The names of the formats that are read, for messages.
pub(super) const READABLE: &str =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL and IQ4_XS";

impl TensorFormat {
    /// The format that a file writes as this code; `None` if it is not supported.
    pub(super) fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2_K,
            11 => Self::Q3_K,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            20 => Self::IQ4_NL,
            23 => Self::IQ4_XS,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Numbers in a block.
    #[must_use]
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q2_K => 16 + 64 + 2 + 2,
            Self::Q3_K => 32 + 64 + 12 + 2,
            Self::Q4_K => 2 + 2 + 12 + 128,
            Self::Q5_K => 2 + 2 + 12 + 32 + 128,
            Self::Q6_K => 128 + 64 + 16 + 2,
            Self::IQ4_NL => 2 + 16,
            Self::IQ4_XS => 2 + 2 + 4 + 128,
        }
    }

    /// Turns whole blocks into numbers. If there are more blocks than room in `out`, or more room
    /// than blocks, the excess is left unchanged.
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => each(blocks, out, |block, [y]: &mut [f32; 1]| {
                *y = f32::from_le_bytes(*block)
            }),
            Self::F16 => each(blocks, out, |block, [y]: &mut [f32; 1]| {
                *y = f16::from_le_bytes(*block).to_f32()
            }),
            Self::BF16 => each(blocks, out, |block, [y]: &mut [f32; 1]| {
                *y = bf16::from_le_bytes(*block).to_f32()
            }),
            Self::Q4_0 => each(blocks, out, q4_0),
            Self::Q4_1 => each(blocks, out, q4_1),
            Self::Q5_0 => each(blocks, out, q5_0),
            Self::Q5_1 => each(blocks, out, q5_1),
            Self::Q8_0 => each(blocks, out, q8_0),
            Self::Q2_K => each(blocks, out, q2_k),
            Self::Q3_K => each(blocks, out, q3_k),
            Self::Q4_K => each(blocks, out, q4_k),
            Self::Q5_K => each(blocks, out, q5_k),
            Self::Q6_K => each(blocks, out, q6_k),
            Self::IQ4_NL => each(blocks, out, iq4_nl),
            Self::IQ4_XS => each(blocks, out, iq4_xs),
        }
    }
}

fn each<const BYTES: usize, const ELEMENTS: usize>(
    blocks: &[u8],
    out: &mut [f32],
    turn: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    for (block, numbers) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        turn(block, numbers);
    }
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// The 4 low bits of 16 bytes, then their 4 high bits.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes
        .iter()
        .map(|byte| byte & 15)
        .chain(bytes.iter().map(|byte| byte >> 4))
}

/// As [`nibbles`], with a fifth bit each from `high`.
fn five_bits(high: [u8; 4], bytes: &[u8]) -> impl Iterator<Item = u8> {
    let high = u32::from_le_bytes(high);
    nibbles(bytes)
        .zip(0..32)
        .map(move |(low, bit)| low | ((high >> bit & 1) << 4) as u8)
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let [d0, d1, qs @ ..] = block;
    let d = half(*d0, *d1);
    out.iter_mut()
        .zip(nibbles(qs))
        .for_each(|(y, q)| *y = d * (f32::from(q) - 8.0));
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let [d0, d1, m0, m1, qs @ ..] = block;
    let d = half(*d0, *d1);
    let m = half(*m0, *m1);
    out.iter_mut()
        .zip(nibbles(qs))
        .for_each(|(y, q)| *y = d * f32::from(q) + m);
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let [d0, d1, h0, h1, h2, h3, qs @ ..] = block;
    let d = half(*d0, *d1);
    out.iter_mut()
        .zip(five_bits([*h0, *h1, *h2, *h3], qs))
        .for_each(|(y, q)| *y = d * (f32::from(q) - 16.0));
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, qs @ ..] = block;
    let d = half(*d0, *d1);
    let m = half(*m0, *m1);
    out.iter_mut()
        .zip(five_bits([*h0, *h1, *h2, *h3], qs))
        .for_each(|(y, q)| *y = d * f32::from(q) + m);
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let [d0, d1, qs @ ..] = block;
    let d = half(*d0, *d1);
    out.iter_mut()
        .zip(qs)
        .for_each(|(y, q)| *y = f32::from(q.cast_signed()) * d);
}

/// The j-th of eight 6-bit scales and minima, packed into 12 bytes. If `j < 4`, they are the low 6
/// bits of bytes j and j + 4. Otherwise each is a half of byte j + 4 below the two high bits of
/// bytes j − 4 and j.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            packed[j + 4] & 15 | packed[j - 4] >> 6 << 4,
            packed[j + 4] >> 4 | packed[j] >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let d = half(block[0], block[1]);
    let dmin = half(block[2], block[3]);
    let (scales, qs) = block[4..].split_at(12);
    for (j, numbers) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, j);
        let d = d * scale;
        let m = dmin * minimum;
        let low = qs[j / 2 * 32..].iter().map(|byte| byte >> (j % 2 * 4) & 15);
        numbers
            .iter_mut()
            .zip(low)
            .for_each(|(y, q)| *y = d * f32::from(q) - m);
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let d = half(block[0], block[1]);
    let dmin = half(block[2], block[3]);
    let (scales, rest) = block[4..].split_at(12);
    let (high, qs) = rest.split_at(32);
    for (j, numbers) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, j);
        let d = d * scale;
        let m = dmin * minimum;
        let low = qs[j / 2 * 32..].iter().map(|byte| byte >> (j % 2 * 4) & 15);
        let fifth = high.iter().map(|byte| (byte >> j & 1) << 4);
        numbers
            .iter_mut()
            .zip(low.zip(fifth))
            .for_each(|(y, (low, fifth))| *y = d * f32::from(low | fifth) - m);
    }
}

/// Two bits of the bytes of a half: the q of the j-th 16 of 256 numbers.
fn two_bits(qs: &[u8], j: usize) -> impl Iterator<Item = u8> {
    let (half, shift, part) = (j / 8, j / 2 % 4 * 2, j % 2);
    qs[half * 32 + part * 16..]
        .iter()
        .map(move |byte| byte >> shift & 3)
}

fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, rest) = block.split_at(16);
    let (qs, rest) = rest.split_at(64);
    let d = half(rest[0], rest[1]);
    let dmin = half(rest[2], rest[3]);
    for (j, numbers) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[j] & 15);
        let minimum = dmin * f32::from(scales[j] >> 4);
        numbers
            .iter_mut()
            .zip(two_bits(qs, j))
            .for_each(|(y, q)| *y = scale * f32::from(q) - minimum);
    }
}

/// The 16 scales have 6 bits each: the low four in 8 bytes, the high two in 4 more.
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (mask, rest) = block.split_at(32);
    let (qs, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(12);
    let d = half(d[0], d[1]);
    for (j, numbers) in out.chunks_exact_mut(16).enumerate() {
        let low = scales[j % 8] >> (j / 8 * 4) & 15;
        let high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let third = mask[j % 2 * 16..].iter().map(|byte| byte >> (j / 2) & 1);
        numbers
            .iter_mut()
            .zip(two_bits(qs, j).zip(third))
            .for_each(|(y, (q, third))| *y = scale * (f32::from(q | third << 2) - 4.0));
    }
}

/// The table of the formats `IQ4`: finer around 0.
const TABLE: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let [d0, d1, qs @ ..] = block;
    let d = half(*d0, *d1);
    out.iter_mut()
        .zip(nibbles(qs))
        .for_each(|(y, q)| *y = d * f32::from(TABLE[usize::from(q)]));
}

/// The 8 scales have 6 bits each: the high two in 2 bytes, the low four in 4 more.
fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(block[0], block[1]);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, qs) = block[4..].split_at(4);
    for (j, numbers) in out.chunks_exact_mut(32).enumerate() {
        let low = low[j / 2] >> (j % 2 * 4) & 15;
        let high = (high >> (2 * j) & 3) as u8;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        numbers
            .iter_mut()
            .zip(nibbles(&qs[j * 16..j * 16 + 16]))
            .for_each(|(y, q)| *y = scale * f32::from(TABLE[usize::from(q)]));
    }
}

/// Eight times 32 numbers. In each half (four times 32), 64 bytes have the low bits (groups 0 and 2
/// share bytes, and so do 1 and 3), and 32 bytes have two high bits for each of the four groups.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half(d[0], d[1]);
    for (j, numbers) in out.chunks_exact_mut(32).enumerate() {
        let part = j / 4;
        let quarter = j % 4;
        let low = low[part * 64 + quarter % 2 * 32..]
            .iter()
            .map(|byte| byte >> (quarter / 2 * 4) & 15);
        let high = high[part * 32..]
            .iter()
            .map(|byte| (byte >> (quarter * 2) & 3) << 4);
        for (i, (y, (low, high))) in numbers.iter_mut().zip(low.zip(high)).enumerate() {
            let scale = d * f32::from(scales[j * 2 + i / 16].cast_signed());
            *y = scale * (f32::from(low | high) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Made by `agent/tests/oracle/gguf_golden.py`.
    const GOLDEN: &str = include_str!("../../../tests/golden/gguf_blocks.json");

    fn bytes(recorded: &Value) -> Vec<u8> {
        let digits = recorded.as_str().unwrap().as_bytes().as_chunks::<2>().0;
        digits
            .iter()
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn the_readable_formats_are_named() {
        for format in (0..64).filter_map(TensorFormat::of) {
            assert!(READABLE.contains(&format!("{format:?}")), "{format:?}");
        }
    }

    #[test]
    fn every_format_has_the_reference_bits() {
        let golden: Value = serde_json::from_str(GOLDEN).unwrap();
        let formats: Vec<TensorFormat> = (0..64).filter_map(TensorFormat::of).collect();
        assert_eq!(golden.as_object().unwrap().len(), formats.len());
        for format in formats {
            let recorded = &golden[format!("{format:?}")];
            let blocks = bytes(&recorded["blocks"]);
            let values = bytes(&recorded["values"]);
            let expected: Vec<u32> = values
                .as_chunks()
                .0
                .iter()
                .map(|bits| u32::from_le_bytes(*bits))
                .collect();
            let mut numbers = vec![f32::NAN; expected.len()];
            assert_eq!(
                blocks.len() / format.block_bytes() * format.block_elements(),
                numbers.len(),
                "{format:?}"
            );
            format.dequantize(&blocks, &mut numbers);
            let bits: Vec<u32> = numbers.iter().map(|number| number.to_bits()).collect();
            assert_eq!(bits, expected, "{format:?}");
        }
    }

    /// d = 2, m = −1; the first byte 0x4F is 15 for number 0 and 4 for number 16.
    #[test]
    fn q4_1_by_hand() {
        let mut block = [0; 20];
        block[..5].copy_from_slice(&[0x00, 0x40, 0x00, 0xBC, 0x4F]);
        let mut numbers = [0.0; 32];
        TensorFormat::Q4_1.dequantize(&block, &mut numbers);
        assert_eq!((numbers[0], numbers[1], numbers[16]), (29.0, -1.0, 7.0));
    }
}
