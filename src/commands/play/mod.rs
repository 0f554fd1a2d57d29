//! Commands that play episodes.

pub(crate) mod collect;
pub(crate) mod merge;
pub(crate) mod play;
pub(crate) mod score;
