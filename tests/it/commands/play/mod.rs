//! The commands that play.

mod dagger;
mod game;
mod score;
mod search;
mod server;
mod translate;
