//! Checks of the repository itself: structure, language, and the map of crates and files.

mod language;
mod map;
mod sources;
mod structure;
