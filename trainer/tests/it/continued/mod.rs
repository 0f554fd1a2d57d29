//! Play that continues the turns of logged episodes.

mod branches;
mod rescues;
