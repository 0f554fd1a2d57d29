//! Commands that play episodes.

pub(crate) mod branch;
pub(crate) mod collect;
mod completed;
pub(crate) mod merge;
#[expect(
    clippy::module_inception,
    reason = "the file is named after its command"
)]
pub(crate) mod play;
pub(crate) mod rescue;
pub(crate) mod score;
