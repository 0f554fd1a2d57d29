//! Integration tests of the crate `trainer`: one binary, one module for each question.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod adapters;
mod continued;
mod device;
mod job_data;
mod losses;
mod paired_games;
mod process_scores;
mod remote_policy;
mod same_bits;
mod stopping;
mod stores;
mod token_exactness;
mod training_jobs;
