//! The commands from end to end, by the groups of the help.

mod data;
mod help;
mod measure;
mod models;
mod play;
mod tools;
mod train;
mod usage;
