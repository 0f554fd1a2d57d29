//! The folder with the real ALFWorld games, for the tests that need it.

use scenarios::Split;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the folder with the real ALFWorld games: the environment variable `HEARTH_ALFWORLD`, or
/// `../shared/alfworld` beside the repository if it is not set. If the folder is missing, the test
/// is skipped: see [`skip`].
pub(crate) fn alfworld() -> Option<PathBuf> {
    let folder = std::env::var_os("HEARTH_ALFWORLD").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/alfworld"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    skip(&format!(
        "no ALFWorld games at {}; set HEARTH_ALFWORLD to their folder",
        folder.display()
    ));
    None
}

/// Prints that a test is skipped.
///
/// # Panics
/// Panics if `HEARTH_REQUIRE_ALL` is 1, so that the skipped test fails.
pub(crate) fn skip(reason: &str) {
    assert!(
        std::env::var_os("HEARTH_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "HEARTH_REQUIRE_ALL=1, but this test cannot run: {reason}"
    );
    eprintln!("skipped: {reason}");
}

/// Writes the ALFWorld games of a split under `target` with the script in `alfworld`, which needs
/// `python3`. If the script fails, the test is skipped and the result is `false`.
pub(crate) fn expand_games(alfworld: &Path, target: &Path, version: &str, split: Split) -> bool {
    let script = alfworld.join("expand.py");
    let output = Command::new("python3")
        .arg(&script)
        .arg(target)
        .args(["--version", version, "--split", split.name()])
        .output();
    let is_done = output.is_ok_and(|output| output.status.success());
    if !is_done {
        skip(&format!("python3 cannot run {}", script.display()));
    }
    is_done
}
