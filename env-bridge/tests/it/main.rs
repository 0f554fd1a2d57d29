//! Integration tests of the env-bridge crate.

mod diff;
mod expert;
mod household;
mod kitchen;
mod malformed;
mod native_states;
mod native_texts;
mod official_games;
mod permute;
mod recorded_play;
mod support;
mod translate;
