//! Vectors of sixteen f32.
//!
//! If the machine has AVX-512, a vector is one register. Otherwise it is an array, and the compiler
//! uses the vectors that the machine has. Both give the same bits.

/// Numbers in a vector.
pub(crate) const WIDTH: usize = 16;

/// A job that is written once for all implementations of [`Simd`].
///
/// The method and every function that it calls must be `#[inline(always)]`. If one is not, the
/// compiler compiles it for the baseline instruction set.
pub(crate) trait SimdJob {
    fn run_with<S: Simd>(self, simd: S);
}

/// Runs a job with the widest vectors of this machine.
pub(crate) fn dispatch(job: impl SimdJob) {
    struct Dispatched<J>(J);

    impl<J: SimdJob> pulp::WithSimd for Dispatched<J> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) {
            #[cfg(target_arch = "x86_64")]
            if let (true, Some(simd)) = (S::F32_LANES == WIDTH, pulp::x86::V4::try_new()) {
                return self.0.run_with(simd);
            }
            self.0.run_with(Portable);
        }
    }

    pulp::Arch::new().dispatch(Dispatched(job));
}

/// Operations on vectors of [`WIDTH`] numbers.
///
/// Call a method only from code that was dispatched to the instruction set of the implementation.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type Vector: Copy;

    /// Vectors that fit into the registers.
    const REGISTERS: usize;
    /// Panels of weights in a tile of [`max_tile_rows`] rows.
    const TILE_PANELS: usize;

    fn load(self, numbers: &[f32; WIDTH]) -> Self::Vector;
    /// Converts finite f16, given by their bits.
    fn load_f16(self, bits: &[u16; WIDTH]) -> Self::Vector;
    /// Converts bf16, given by their bits.
    fn load_bf16(self, bits: &[u16; WIDTH]) -> Self::Vector;
    fn load_i8(self, numbers: &[i8; WIDTH]) -> Self::Vector;
    fn splat(self, number: f32) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a · b + c, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    fn to_array(self, numbers: Self::Vector) -> [f32; WIDTH];
    /// Hints to the cache that `soon` will be read soon.
    fn prefetch<T>(self, soon: &T);
}

/// The [`WIDTH`] numbers that begin at `from`.
#[inline(always)]
pub(crate) fn vector_at<E>(numbers: &[E], from: usize) -> &[E; WIDTH] {
    numbers[from..][..WIDTH]
        .try_into()
        .expect("the slice has the length of a vector")
}

/// Most rows of a tile whose sums fit into the registers if the tile has [`Simd::TILE_PANELS`]
/// panels.
pub(crate) fn max_tile_rows() -> usize {
    #[cfg(target_arch = "x86_64")]
    if pulp::x86::V4::try_new().is_some() {
        return 8;
    }
    4
}

/// Vectors as arrays, for machines without AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type Vector = [f32; WIDTH];

    const REGISTERS: usize = 8;
    const TILE_PANELS: usize = 1;

    #[inline(always)]
    fn load(self, numbers: &[f32; WIDTH]) -> [f32; WIDTH] {
        *numbers
    }

    #[inline(always)]
    fn load_f16(self, bits: &[u16; WIDTH]) -> [f32; WIDTH] {
        each(|lane| f16_bits(bits[lane]))
    }

    #[inline(always)]
    fn load_bf16(self, bits: &[u16; WIDTH]) -> [f32; WIDTH] {
        each(|lane| f32::from_bits(u32::from(bits[lane]) << 16))
    }

    #[inline(always)]
    fn load_i8(self, numbers: &[i8; WIDTH]) -> [f32; WIDTH] {
        each(|lane| f32::from(numbers[lane]))
    }

    #[inline(always)]
    fn splat(self, number: f32) -> [f32; WIDTH] {
        [number; WIDTH]
    }

    #[inline(always)]
    fn mul(self, a: [f32; WIDTH], b: [f32; WIDTH]) -> [f32; WIDTH] {
        each(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; WIDTH], b: [f32; WIDTH], c: [f32; WIDTH]) -> [f32; WIDTH] {
        each(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn to_array(self, numbers: [f32; WIDTH]) -> [f32; WIDTH] {
        numbers
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &T) {}
}

/// An array by a loop. The compiler vectorises this loop, but not `std::array::from_fn`.
#[inline(always)]
fn each(number: impl Fn(usize) -> f32) -> [f32; WIDTH] {
    let mut lanes = [0.0; WIDTH];
    for (lane, out) in lanes.iter_mut().enumerate() {
        *out = number(lane);
    }
    lanes
}

/// Converts the bits of a finite f16 exactly. A multiplication corrects the exponent's bias; it also
/// normalises subnormal numbers.
#[inline(always)]
fn f16_bits(bits: u16) -> f32 {
    let magnitude =
        f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits((254 - 15) << 23);
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

/// AVX-512.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Simd, WIDTH};
    use pulp::cast;
    use pulp::x86::V4;
    use std::arch::x86_64::{__m512, _MM_HINT_T1, _mm_prefetch};

    /// Bytes of a cache line.
    const LINE: usize = 64;

    impl Simd for V4 {
        type Vector = __m512;

        const REGISTERS: usize = 32;
        const TILE_PANELS: usize = 3;

        #[inline(always)]
        fn load(self, numbers: &[f32; WIDTH]) -> __m512 {
            cast(*numbers)
        }

        #[inline(always)]
        fn load_f16(self, bits: &[u16; WIDTH]) -> __m512 {
            self.avx512f._mm512_cvtph_ps(cast(*bits))
        }

        #[inline(always)]
        fn load_bf16(self, bits: &[u16; WIDTH]) -> __m512 {
            let wide = self.avx512f._mm512_cvtepu16_epi32(cast(*bits));
            self.avx512f
                ._mm512_castsi512_ps(self.avx512f._mm512_slli_epi32::<16>(wide))
        }

        #[inline(always)]
        fn load_i8(self, numbers: &[i8; WIDTH]) -> __m512 {
            self.avx512f
                ._mm512_cvtepi32_ps(self.avx512f._mm512_cvtepi8_epi32(cast(*numbers)))
        }

        #[inline(always)]
        fn splat(self, number: f32) -> __m512 {
            self.avx512f._mm512_set1_ps(number)
        }

        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            self.avx512f._mm512_mul_ps(a, b)
        }

        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            self.avx512f._mm512_fmadd_ps(a, b, c)
        }

        #[inline(always)]
        fn to_array(self, numbers: __m512) -> [f32; WIDTH] {
            cast(numbers)
        }

        #[inline(always)]
        #[allow(
            unsafe_code,
            reason = "a prefetch is only a hint, which is safe for any address"
        )]
        fn prefetch<T>(self, soon: &T) {
            for line in 0..size_of::<T>().div_ceil(LINE) {
                let line = std::ptr::from_ref(soon)
                    .cast::<i8>()
                    .wrapping_add(line * LINE);
                unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
            }
        }
    }
}
