//! Commands that read and write games and episodes.

pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod scenarios;
