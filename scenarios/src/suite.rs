//! A suite: a named list of tasks.
