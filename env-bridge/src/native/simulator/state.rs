//! A state of a game: its bits and counters.

use crate::native::bits::words_for;

/// One state of a [`super::NativeGame`]. A clone copies three slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GameState {
    /// The number of the game, so that a state cannot be used with another game.
    pub(super) game: u32,
    /// The bit sets described by [`StateLayout`].
    pub(super) words: Box<[u64]>,
    /// By operator, then by conjunction: the number of conditions that do not hold.
    pub(super) unmet: Box<[u16]>,
    /// By command: the number of applicable operators. Then by derived atom: the number of true
    /// conjunctions.
    pub(super) counts: Box<[u32]>,
}

/// The operator that a command selected when it was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator(pub(super) u32);

/// The start of every bit set in [`GameState::words`].
///
/// The first bit set, at 0, is the truth of fluents and derived atoms.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateLayout {
    /// By fluent: whether the texts read it as true.
    pub(super) holds: usize,
    /// By fluent: whether the texts read it as made false by an effect.
    pub(super) made_false: usize,
    /// By command: whether it is admissible.
    pub(super) commands: usize,
    /// The number of words.
    pub(super) end: usize,
}

impl StateLayout {
    pub(super) fn new(fluents: usize, derived: usize, commands: usize) -> Self {
        let holds = words_for(fluents + derived);
        let made_false = holds + words_for(fluents);
        let commands_start = made_false + words_for(fluents);
        Self {
            holds,
            made_false,
            commands: commands_start,
            end: commands_start + words_for(commands),
        }
    }

    /// Returns, by fluent: whether it is true, whether the texts read it as true, and whether they
    /// read it as made false. The first slice also contains the derived atoms.
    pub(super) fn facts<'a>(&self, state: &'a GameState) -> [&'a [u64]; 3] {
        [
            &state.words[..self.holds],
            &state.words[self.holds..self.made_false],
            &state.words[self.made_false..self.commands],
        ]
    }
}
