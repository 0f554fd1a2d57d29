//! Learning from branch states: several actions of one state, with Monte-Carlo returns of each.

pub(crate) mod batch;
pub(crate) mod objective;
pub(crate) mod plan;
mod state;

pub use plan::RankingSummary;
pub(crate) use state::mean_return;
pub use state::{RankedState, tokenize_states};
