//! Play that continues the turns of logged episodes, and learning from it.

mod branches;
mod ranking;
mod rescues;
