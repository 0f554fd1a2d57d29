//! The real ALFWorld games, which are not part of the repository.

use std::path::{Path, PathBuf};

/// Returns the folder with the real ALFWorld games: the one that `HEARTH_ALFWORLD` names, else
/// `../shared/alfworld` relative to the root of the workspace. If there is no such folder, the test
/// is skipped and this returns `None`.
///
/// # Panics
/// Panics if there is no such folder and `HEARTH_REQUIRE_ALL=1` is set.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("HEARTH_ALFWORLD").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/alfworld"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    crate::skip(&format!(
        "the ALFWorld games are not at {} (HEARTH_ALFWORLD)",
        folder.display()
    ));
    None
}
