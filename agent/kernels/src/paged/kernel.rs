//! The kernel of paged attention, in CubeCL.

use cubecl::prelude::*;

/// Units of a cube, and tokens of a chunk.
pub(super) const UNITS: usize = 64;

/// The heads of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeadCounts {
    /// Of queries; a multiple of `kv_heads`.
    pub heads: usize,
    /// Of keys, and of values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub width: usize,
}

/// A cube for each sequence and key head.
#[cube(launch)]
pub(super) fn read_in_place<F: Float, I: Int>(
    queries: &Tensor<F>,
    pool: &Tensor<F>,
    table: &Tensor<I>,
    seen: &Tensor<I>,
    output: &mut Tensor<F>,
    longest: usize,
    #[comptime] heads: HeadCounts,
    #[define(F, I)] _types: [ElemType; 2],
) {
    let width = heads.width;
    let kv_heads = heads.kv_heads;
    let share = comptime!(heads.heads / heads.kv_heads);
    let numbers = comptime!(share * width);
    let sequence = CUBE_POS_X as usize;
    let key_head = CUBE_POS_Y as usize;
    let unit = UNIT_POS_X as usize;
    let first_number = (sequence * kv_heads + key_head) * numbers;

    let mut query = Shared::<[f32]>::new_slice(numbers);
    let mut mixed = Shared::<[f32]>::new_slice(numbers);
    let mut scores = Shared::<[f32]>::new_slice(comptime!(share * UNITS));
    let mut values = Shared::<[u32]>::new_slice(UNITS);
    let mut highest = Shared::<[f32]>::new_slice(share);
    let mut sums = Shared::<[f32]>::new_slice(share);
    let mut shrink = Shared::<[f32]>::new_slice(share);
    let mut at = unit;
    while at < numbers {
        query[at] = f32::cast_from(queries[first_number + at]);
        mixed[at] = 0.0f32;
        at += UNITS;
    }
    if unit < share {
        highest[unit] = -1.0e30f32;
        sums[unit] = 0.0f32;
    }
    sync_cube();

    let end = usize::cast_from(seen[2 * sequence + 1]);
    let mut chunk = usize::cast_from(seen[2 * sequence]);
    while chunk < end {
        let tokens = select(end - chunk < UNITS, end - chunk, UNITS);
        if unit < tokens {
            let row = usize::cast_from(table[sequence * longest + chunk + unit]);
            let key = (row * 2 * kv_heads + key_head) * width;
            values[unit] = u32::cast_from(key + kv_heads * width);
            for member in 0..share {
                let mut score = 0.0f32.runtime();
                for number in 0..width {
                    score += query[member * width + number] * f32::cast_from(pool[key + number]);
                }
                scores[member * UNITS + unit] = score;
            }
        }
        sync_cube();
        if unit < share {
            let before = highest[unit];
            let mut top = before;
            for token in 0..tokens {
                top = max(top, scores[unit * UNITS + token]);
            }
            highest[unit] = top;
            shrink[unit] = (before - top).exp();
        }
        sync_cube();
        if unit < tokens {
            for member in 0..share {
                let place = member * UNITS + unit;
                scores[place] = (scores[place] - highest[member]).exp();
            }
        }
        sync_cube();
        if unit < share {
            let mut sum = sums[unit] * shrink[unit];
            for token in 0..tokens {
                sum += scores[unit * UNITS + token];
            }
            sums[unit] = sum;
        }
        let mut at = unit;
        while at < numbers {
            let member = at / width;
            let number = at % width;
            let mut sum = mixed[at] * shrink[member];
            for token in 0..tokens {
                let value = f32::cast_from(pool[values[token] as usize + number]);
                sum += scores[member * UNITS + token] * value;
            }
            mixed[at] = sum;
            at += UNITS;
        }
        sync_cube();
        chunk += UNITS;
    }

    let mut at = unit;
    while at < numbers {
        output[first_number + at] = F::cast_from(mixed[at] / sums[at / width]);
        at += UNITS;
    }
}
