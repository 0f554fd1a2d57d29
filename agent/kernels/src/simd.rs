//! Sixteen numbers side by side, as the products of [`crate::matrix`] work on them: in one vector where the machine has
//! AVX-512, and as arrays, which the compiler turns into the vectors there are, elsewhere. Both give the same bits.

/// Numbers side by side.
pub const WIDTH: usize = 16;

/// Work that is written once for all lanes. Its method, and all it calls, must be `#[inline(always)]`, or the compiler
/// leaves it in the narrow form.
pub trait Work {
    fn with<L: Lanes>(self, lanes: L);
}

/// Does work in the widest vectors of this machine.
pub fn widest(work: impl Work) {
    struct Dispatched<W>(W);

    impl<W: Work> pulp::WithSimd for Dispatched<W> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) {
            #[cfg(target_arch = "x86_64")]
            if let (true, Some(lanes)) = (S::F32_LANES == WIDTH, pulp::x86::V4::try_new()) {
                return self.0.with(lanes);
            }
            self.0.with(Portable);
        }
    }

    pulp::Arch::new().dispatch(Dispatched(work));
}

/// Operations on sixteen numbers. Every method is for code that was dispatched to the vectors it names.
pub trait Lanes: Copy {
    /// Sixteen f32.
    type Sixteen: Copy;

    /// Sixteens that the registers hold.
    const REGISTERS: usize;
    /// Panels that go together with [`most_rows`] rows.
    const TOGETHER: usize;

    fn f32(self, numbers: &[f32; WIDTH]) -> Self::Sixteen;
    /// Finite f16 by their bits.
    fn f16(self, bits: &[u16; WIDTH]) -> Self::Sixteen;
    /// bf16 by their bits.
    fn bf16(self, bits: &[u16; WIDTH]) -> Self::Sixteen;
    fn i8(self, numbers: &[i8; WIDTH]) -> Self::Sixteen;
    fn splat(self, number: f32) -> Self::Sixteen;
    fn mul(self, a: Self::Sixteen, b: Self::Sixteen) -> Self::Sixteen;
    /// a · b + c, rounded once.
    fn mul_add(self, a: Self::Sixteen, b: Self::Sixteen, c: Self::Sixteen) -> Self::Sixteen;
    fn array(self, numbers: Self::Sixteen) -> [f32; WIDTH];
    /// Asks for what will be read soon.
    fn fetch<T>(self, soon: &T);
}

/// Sixteen numbers of many.
#[inline(always)]
pub fn vector(numbers: &[f32], from: usize) -> &[f32; WIDTH] {
    numbers[from..][..WIDTH]
        .try_into()
        .expect("a vector's length")
}

/// Rows whose sums fit into the registers together, with [`Lanes::TOGETHER`] panels.
pub fn most_rows() -> usize {
    #[cfg(target_arch = "x86_64")]
    if pulp::x86::V4::try_new().is_some() {
        return 8;
    }
    4
}

/// Arrays.
#[derive(Clone, Copy)]
pub struct Portable;

impl Lanes for Portable {
    type Sixteen = [f32; WIDTH];

    const REGISTERS: usize = 8;
    const TOGETHER: usize = 1;

    #[inline(always)]
    fn f32(self, numbers: &[f32; WIDTH]) -> [f32; WIDTH] {
        *numbers
    }

    #[inline(always)]
    fn f16(self, bits: &[u16; WIDTH]) -> [f32; WIDTH] {
        each(|lane| f16_bits(bits[lane]))
    }

    #[inline(always)]
    fn bf16(self, bits: &[u16; WIDTH]) -> [f32; WIDTH] {
        each(|lane| f32::from_bits(u32::from(bits[lane]) << 16))
    }

    #[inline(always)]
    fn i8(self, numbers: &[i8; WIDTH]) -> [f32; WIDTH] {
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
    fn array(self, numbers: [f32; WIDTH]) -> [f32; WIDTH] {
        numbers
    }

    #[inline(always)]
    fn fetch<T>(self, _: &T) {}
}

/// A loop, which the compiler makes a vector of; `std::array::from_fn` it does not.
#[inline(always)]
fn each(number: impl Fn(usize) -> f32) -> [f32; WIDTH] {
    let mut lanes = [0.0; WIDTH];
    for (lane, out) in lanes.iter_mut().enumerate() {
        *out = number(lane);
    }
    lanes
}

/// The number with these bits. Exact: the exponent's bias is put right by a multiplication, which also makes numbers
/// below the normal ones whole.
#[inline(always)]
fn f16_bits(bits: u16) -> f32 {
    let magnitude =
        f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits((254 - 15) << 23);
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

/// AVX-512.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Lanes, WIDTH};
    use pulp::cast;
    use pulp::x86::V4;
    use std::arch::x86_64::{__m512, _MM_HINT_T1, _mm_prefetch};

    /// Bytes of a line of the cache.
    const LINE: usize = 64;

    impl Lanes for V4 {
        type Sixteen = __m512;

        const REGISTERS: usize = 32;
        const TOGETHER: usize = 3;

        #[inline(always)]
        fn f32(self, numbers: &[f32; WIDTH]) -> __m512 {
            cast(*numbers)
        }

        #[inline(always)]
        fn f16(self, bits: &[u16; WIDTH]) -> __m512 {
            self.avx512f._mm512_cvtph_ps(cast(*bits))
        }

        #[inline(always)]
        fn bf16(self, bits: &[u16; WIDTH]) -> __m512 {
            let wide = self.avx512f._mm512_cvtepu16_epi32(cast(*bits));
            self.avx512f
                ._mm512_castsi512_ps(self.avx512f._mm512_slli_epi32::<16>(wide))
        }

        #[inline(always)]
        fn i8(self, numbers: &[i8; WIDTH]) -> __m512 {
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
        fn array(self, numbers: __m512) -> [f32; WIDTH] {
            cast(numbers)
        }

        #[inline(always)]
        #[allow(unsafe_code, reason = "a hint, which may name any address")]
        fn fetch<T>(self, soon: &T) {
            for line in 0..size_of::<T>().div_ceil(LINE) {
                let line = std::ptr::from_ref(soon)
                    .cast::<i8>()
                    .wrapping_add(line * LINE);
                unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
            }
        }
    }
}
