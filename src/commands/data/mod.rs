//! Commands that read and write games and episodes.

pub(crate) mod export;
pub(crate) mod import;
mod permute;
pub(crate) mod scenarios;
pub(crate) mod store;
pub(crate) mod suite_table;
