//! The weights of a decoder before its first update.
//!
//! | module | contains |
//! | --- | --- |
//! | [`random`] | random weights |
//! | [`heads`] | a previous-token head and an induction head, written into random weights |
//! | `previous_token` | the rotary phases with which a head attends to the previous token |

pub mod heads;
mod previous_token;
pub mod random;
