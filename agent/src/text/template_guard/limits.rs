//! What one template may ask for.

/// What one rendering may make: bytes of text, plus [`NODE`] for each value in a list or map.
pub(super) const WORK: u64 = 8 << 20;
/// What a value costs beside the bytes of its text.
pub(super) const NODE: u64 = 32;
/// Instructions that one rendering may run.
pub(super) const FUEL: u64 = 200_000;
/// Most lists or maps inside each other. minijinja's recursion limit is three times this number.
pub(super) const DEPTH: usize = 32;
/// Longest template, in bytes. Templates in use have at most a third of it.
pub(super) const SOURCE: usize = 60_000;
/// Most words in one tag, and most `elif` in one template. Each word or `elif` may make the
/// compiler's own recursion deeper.
pub(super) const WORDS: usize = 400;
/// Most characters that `tojson(indent=…)` may put before a line for each level.
pub(super) const INDENT: usize = 16;
