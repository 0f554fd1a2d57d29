//! `hearth report` from end to end: what the page contains, and how it is used.

mod browser;
mod page;
mod run;
