//! The commands that read and write data.

mod episodes;
mod export;
mod import;
mod scenarios;
mod store;
