//! The HTML report of a run: the contents of its folder, its plots, its episodes, and the page.

pub(crate) mod chart;
pub(crate) mod gather;
mod labels;
mod pack;
pub(crate) mod page;
pub(crate) mod plots;
pub(crate) mod run_data;
mod run_files;
