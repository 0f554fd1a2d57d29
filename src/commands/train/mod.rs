//! Commands that train.

pub(crate) mod pipeline;
pub(crate) mod selftest;
pub(crate) mod train;
