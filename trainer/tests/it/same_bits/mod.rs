//! Jobs that give the same bits in another way: interrupted and resumed, or in several processes.

mod ranks;
mod resuming;
