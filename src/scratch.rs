//! Folders for things that are needed while a command runs: games that are generated for a look, a model on its way.

use std::path::{Path, PathBuf};

/// A folder of its own below the system's folder for temporary files, or another; it goes with this value, and what a
/// killed hearth has left there goes when the next one makes its own.
pub(crate) struct Scratch(PathBuf);

/// Before the number of the process that made the folder.
const NAME: &str = "hearth-scratch-";

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// Below a folder on whose disk the things shall stay when they are done.
    pub(crate) fn within(root: &Path) -> Self {
        sweep(root, Path::new("/proc"));
        Self(root.join(format!("{NAME}{}", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes folders of processes that run no more, where the system lists those that do.
fn sweep(root: &Path, processes: &Path) {
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
    fn folders_of_the_dead_are_swept_and_no_others() {
        let (root, processes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let make = |folder: &Path, name: &str| std::fs::create_dir(folder.join(name)).unwrap();
        make(processes.path(), &std::process::id().to_string());
        make(processes.path(), "8");
        for name in [
            "hearth-scratch-7",
            "hearth-scratch-8",
            "hearth-scratch-mine",
        ] {
            make(root.path(), name);
        }
        sweep(root.path(), processes.path());
        assert!(!root.path().join("hearth-scratch-7").exists());
        assert!(
            root.path().join("hearth-scratch-8").exists()
                && root.path().join("hearth-scratch-mine").exists()
        );
    }
}
