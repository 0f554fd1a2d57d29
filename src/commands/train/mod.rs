//! Commands that train.

pub(crate) mod loop_command;
pub(crate) mod quickstart;
mod ranks;
mod run_recipe;
pub(crate) mod selftest;
pub(crate) mod submit;
#[expect(
    clippy::module_inception,
    reason = "the file is named after its command"
)]
pub(crate) mod train;
