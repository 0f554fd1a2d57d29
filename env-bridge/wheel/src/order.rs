//! The order in which TextWorld plays games: the shuffle of numpy's legacy generator, without numpy.
//!
//! `RandomState(seed)` is MT19937 (Matsumoto and Nishimura 1998) with its `init_genrand`. `shuffle` of a list swaps
//! from the end, with indices drawn by rejection under a mask.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

const WORDS: usize = 624;
const SHIFT: usize = 397;
/// The largest number of games in an order.
const LARGEST: u32 = 1 << 24;

/// MT19937.
struct Mt19937 {
    words: Box<[u32; WORDS]>,
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut words = Box::new([0; WORDS]);
        words[0] = seed;
        for index in 1..WORDS {
            let before = words[index - 1];
            words[index] = (before ^ before >> 30)
                .wrapping_mul(1_812_433_253)
                .wrapping_add(index as u32);
        }
        Self { words, next: WORDS }
    }

    fn refill(&mut self) {
        for index in 0..WORDS {
            let joined =
                self.words[index] & 0x8000_0000 | self.words[(index + 1) % WORDS] & 0x7fff_ffff;
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[index] = self.words[(index + SHIFT) % WORDS] ^ joined >> 1 ^ odd;
        }
        self.next = 0;
    }

    fn draw(&mut self) -> u32 {
        if self.next == WORDS {
            self.refill();
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// Returns a number from 0 to `max`.
    fn up_to(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let draw = self.draw() & mask;
            if draw <= max {
                return draw;
            }
        }
    }
}

/// The order of `TextworldBatchGymEnv.seed(seed)` over `count` games: all games shuffled, then the same list
/// shuffled again, for ever. Without a seed, the games keep their order. An iterator over indices that never ends.
#[pyclass(module = "hearth_world._native")]
pub struct GameOrder {
    generator: Option<Mt19937>,
    indices: Vec<u32>,
    next: usize,
}

impl GameOrder {
    /// Returns the order for a seed over `count` games, at least one.
    pub(crate) fn seeded(count: u32, seed: Option<u32>) -> Self {
        let mut order = Self {
            generator: seed.map(Mt19937::new),
            indices: (0..count).collect(),
            next: 0,
        };
        order.shuffle();
        order
    }

    fn shuffle(&mut self) {
        if let Some(generator) = &mut self.generator {
            for last in (1..self.indices.len()).rev() {
                let other = generator.up_to(last as u32);
                self.indices.swap(last, other as usize);
            }
        }
        self.next = 0;
    }

    /// Returns the index of the next game.
    pub(crate) fn advance(&mut self) -> usize {
        if self.next == self.indices.len() {
            self.shuffle();
        }
        self.next += 1;
        self.indices[self.next - 1] as usize
    }
}

#[pymethods]
impl GameOrder {
    /// The order over `count` games for a seed. Raises `ValueError` if there are no games.
    #[new]
    #[pyo3(signature = (count, seed=None))]
    fn new(count: u32, seed: Option<u32>) -> PyResult<Self> {
        if count == 0 {
            return Err(PyValueError::new_err("there are no games to put in order"));
        }
        if count > LARGEST {
            return Err(PyValueError::new_err(format!(
                "{count} games, and an order has at most {LARGEST}"
            )));
        }
        Ok(Self::seeded(count, seed))
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&mut self) -> usize {
        self.advance()
    }

    /// Restores a pickled order.
    #[staticmethod]
    fn _restored(
        generator: Option<(Vec<u32>, usize)>,
        indices: Vec<u32>,
        next: usize,
    ) -> PyResult<Self> {
        let damaged = || PyValueError::new_err("the pickled order is damaged");
        let generator = match generator {
            None => None,
            Some((words, next)) if next <= WORDS => {
                let words = words.try_into().map_err(|_| damaged())?;
                Some(Mt19937 { words, next })
            }
            Some(_) => return Err(damaged()),
        };
        let count = indices.len();
        let known = indices.iter().all(|index| (*index as usize) < count);
        if count == 0 || next > count || !known {
            return Err(damaged());
        }
        Ok(Self {
            generator,
            indices,
            next,
        })
    }

    #[allow(clippy::type_complexity, reason = "what pickle expects")]
    fn __reduce__(
        slf: &Bound<'_, Self>,
    ) -> PyResult<(Py<PyAny>, (Option<(Vec<u32>, usize)>, Vec<u32>, usize))> {
        let order = slf.borrow();
        let generator = order.generator.as_ref();
        let generator = generator.map(|generator| (generator.words.to_vec(), generator.next));
        Ok((
            slf.get_type().getattr("_restored")?.unbind(),
            (generator, order.indices.clone(), order.next),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From numpy 2.4.6.
    #[test]
    fn the_order_is_that_of_numpy() {
        let first = |seed| {
            let mut order = GameOrder::seeded(140, seed);
            [(); 6].map(|()| order.advance())
        };
        assert_eq!(first(Some(1234)), [6, 96, 91, 94, 29, 36]);
        assert_eq!(first(Some(0)), [45, 59, 7, 50, 92, 27]);
        assert_eq!(first(None), [0, 1, 2, 3, 4, 5]);
    }
}
