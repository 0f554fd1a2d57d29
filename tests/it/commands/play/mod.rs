//! The commands that play.

mod continued;
mod dagger;
mod game;
mod score;
mod search;
mod server;
mod translate;
