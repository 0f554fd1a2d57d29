//! The HTML report of a run: what is read from its folder, its plots, its episodes, and the page.

pub(crate) mod chart;
pub(crate) mod gather;
pub(crate) mod pack;
pub(crate) mod page;
pub(crate) mod plots;
