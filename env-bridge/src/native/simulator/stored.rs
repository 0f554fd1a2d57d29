//! States as bytes, so that another process can continue from them.

use super::game::NativeGame;
use super::state::GameState;
use crate::native::bits::{Bits, bit};

/// The number of bytes before the bit sets of a stored state.
const HEADER: usize = 12;

impl NativeGame {
    /// Returns a state as bytes, for [`Self::state_from_bytes`]: a number that depends on the game, and
    /// three bits per fluent.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    #[must_use]
    pub fn state_bytes(&self, state: &GameState) -> Vec<u8> {
        self.assert_own(state);
        let mut bytes = self.fingerprint().layout().to_le_bytes().to_vec();
        bytes.extend((self.transitions.grounded.fluents as u32).to_le_bytes());
        for words in self.transitions.layout.facts(state) {
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes
    }

    /// Returns the state that [`Self::state_bytes`] stored.
    ///
    /// # Errors
    /// If the bytes are damaged, or are a state of a game with other facts or with the same facts in another order.
    pub fn state_from_bytes(&self, bytes: &[u8]) -> Result<GameState, String> {
        let fluents = self.transitions.grounded.fluents;
        let layout = self.transitions.layout;
        let sizes = layout.facts(&self.initial).map(<[u64]>::len);
        let length = HEADER + 8 * sizes.iter().sum::<usize>();
        let header = [
            &self.fingerprint().layout().to_le_bytes()[..],
            &(fluents as u32).to_le_bytes(),
        ]
        .concat();
        if bytes.get(..HEADER) != Some(&header[..]) {
            return Err("the snapshot is not of this game".to_owned());
        }
        if bytes.len() != length {
            return Err(format!(
                "the snapshot has {} bytes and must have {length}",
                bytes.len()
            ));
        }
        let words: Vec<u64> = bytes[HEADER..]
            .chunks_exact(8)
            .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()))
            .collect();
        let (truth, texts) = words.split_at(sizes[0]);
        let (holds, made_false) = texts.split_at(sizes[1]);
        let is_true = |atom: u32| bit(truth, atom);
        let state = self
            .transitions
            .state_with(self.number, is_true, holds, made_false);
        // Bits beyond the fluents, and derived atoms that contradict them, are damage.
        if layout.facts(&state) != [truth, holds, made_false]
            || beyond(holds, fluents)
            || beyond(made_false, fluents)
        {
            return Err("the snapshot is damaged".to_owned());
        }
        Ok(state)
    }
}

/// Returns whether a bit at or after `count` is set.
fn beyond(words: &[u64], count: usize) -> bool {
    words
        .iter()
        .enumerate()
        .flat_map(|(index, word)| Bits(*word).map(move |bit| index * 64 + bit))
        .any(|bit| bit >= count)
}
