//! The commands that train.

mod jobs;
mod stages;
