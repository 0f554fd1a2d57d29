//! Expert.
