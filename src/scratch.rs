//! Temporary folders that exist while a command runs, for example for generated games or a model
//! that is being converted.
//!
//! The crate tempfile does not replace this: if hearth is killed, its folder stays (a model and its
//! wheel take over 600 MB), and the next call of hearth removes it.

use std::path::{Path, PathBuf};

/// The path of a temporary folder. The folder is removed when this value is dropped. Folders of
/// killed processes are removed when a new value is created. The folder itself is not created.
pub(crate) struct Scratch(PathBuf);

/// The part of a folder's name before the id of its process.
const NAME: &str = "hearth-scratch-";

impl Scratch {
    /// A folder below the system's folder for temporary files.
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// A folder below `root`, for example if its content is moved to a folder on the same disk.
    pub(crate) fn within(root: &Path) -> Self {
        remove_leftovers(root, Path::new("/proc"));
        Self(root.join(format!("{NAME}{}", std::process::id())))
    }

    /// The path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders of processes that no longer run. Does nothing if the system does not list
/// its processes.
fn remove_leftovers(root: &Path, processes: &Path) {
    if !processes.join(std::process::id().to_string()).exists() {
        return;
    }
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME)?.parse::<u32>().ok());
        if process.is_some_and(|process| !processes.join(process.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_processes_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let processes = tempfile::tempdir().unwrap();
        for name in [std::process::id().to_string(), "8".into()] {
            std::fs::create_dir(processes.path().join(name)).unwrap();
        }
        for name in [
            "hearth-scratch-7",
            "hearth-scratch-8",
            "hearth-scratch-mine",
        ] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        remove_leftovers(root.path(), processes.path());
        assert!(!root.path().join("hearth-scratch-7").exists());
        assert!(root.path().join("hearth-scratch-8").exists());
        assert!(root.path().join("hearth-scratch-mine").exists());
    }
}
