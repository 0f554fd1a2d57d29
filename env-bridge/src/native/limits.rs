//! Limits on the size of a game. The native world refuses a game if it exceeds one of them.

/// The largest number of objects in a game.
pub const OBJECT_LIMIT: usize = 30_000;

/// The largest product of the number of objects and the number of predicates.
pub const OBJECT_PREDICATE_LIMIT: usize = 1_000_000;

/// The largest size of a game file in bytes. The largest official file has 140 000.
pub const FILE_LIMIT: usize = 16 << 20;
