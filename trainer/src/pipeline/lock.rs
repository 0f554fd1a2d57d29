//! Locks on a run's folder: either one process works in it, or several processes as its shards. The locks are
//! operating-system locks on files in the folder. The system releases them when the process ends, for any
//! reason; the files stay.
//!
//! If several machines share the folder, its file system must support locks between machines. NFS 4 does, and
//! Lustre does if it is mounted with `flock`. If it does not, the user must make sure that no other process
//! works in the folder.

use crate::error::TrainerError;
use crate::pipeline::shard::Shard;
use scenarios::files::lock_holder;
use scenarios::store::SAME_SHARD;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The file that is locked, and that names the process that works in the run's folder.
const NAME: &str = "run.lock";

/// The lock of a run. It is released when the value is dropped.
#[derive(Debug)]
pub struct RunLock {
    _files: Vec<File>,
}

impl RunLock {
    /// Locks the folder for a whole run, or for one shard of it while other shards may run too.
    ///
    /// # Errors
    /// [`TrainerError::Busy`] if another process has the folder; the error names it. Other errors if a file
    /// cannot be written.
    pub fn take(folder: &Path, shard: Shard) -> Result<Self, TrainerError> {
        let run = open(&folder.join(NAME))?;
        if !shard.is_part() {
            held(run.try_lock(), folder, &folder.join(NAME))?;
            return Ok(Self {
                _files: vec![signed(run, &folder.join(NAME))?],
            });
        }
        held(run.try_lock_shared(), folder, &folder.join(NAME))?;
        run.set_len(0)
            .map_err(TrainerError::file(&folder.join(NAME)))?; // the process that it names has ended
        let path = shard_path(folder, shard);
        let own = open(&path)?;
        held(own.try_lock(), folder, &path)?;
        Ok(Self {
            _files: vec![run, signed(own, &path)?],
        })
    }
}

/// Returns the processes that work in a run's folder, if the system can list them. It takes no lock and does
/// not see processes of other machines.
///
/// # Errors
/// If the folder cannot be read.
pub fn holders(folder: &Path) -> Result<Vec<u32>, TrainerError> {
    let mut holders = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TrainerError::file(folder))? {
        let entry = entry.map_err(TrainerError::file(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == NAME || (name.starts_with("run.shard-") && name.ends_with(".lock")) {
            holders.extend(lock_holder(&entry.path()));
        }
    }
    holders.sort_unstable();
    holders.dedup();
    Ok(holders)
}

fn shard_path(folder: &Path, shard: Shard) -> PathBuf {
    folder.join(format!("run.shard-{}.lock", shard.index())) // without N, so that two runs with different N cannot both have a leader
}

fn open(path: &Path) -> Result<File, TrainerError> {
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    options.map_err(TrainerError::file(path))
}

fn held(locked: Result<(), TryLockError>, folder: &Path, path: &Path) -> Result<(), TrainerError> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::Error(source)) => Err(TrainerError::File {
            path: path.into(),
            source,
        }),
        Err(TryLockError::WouldBlock) => {
            let signature = std::fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_string();
            let seen = lock_holder(path).map(|process| format!("process {process}"));
            let holder = Some(signature).filter(|text| !text.is_empty()).or(seen);
            let holder = holder.unwrap_or_else(|| "another process".into());
            let is_whole = path.file_name().is_some_and(|name| name == NAME);
            Err(TrainerError::Busy {
                folder: folder.into(),
                holder,
                hint: if is_whole {
                    "wait for it, or choose another --out; `--status` shows how far it is"
                } else {
                    SAME_SHARD
                },
            })
        }
    }
}

/// Writes the process that holds a locked file into the file.
fn signed(mut file: File, path: &Path) -> Result<File, TrainerError> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let on = if host.trim().is_empty() {
        String::new()
    } else {
        format!(" on {}", host.trim())
    };
    let text = format!("process {}{on}\n", std::process::id());
    let write = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(text.as_bytes()));
    write.map_err(TrainerError::file(path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(folder: &Path, shard: &str) -> Result<RunLock, TrainerError> {
        RunLock::take(folder, shard.parse().expect("a shard"))
    }

    #[test]
    fn a_folder_is_locked_by_one_run_or_by_several_shards_of_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let whole = take(folder, "0/1").expect("the folder is free");
        for other in ["0/1", "1/2"] {
            let error = take(folder, other).expect_err("it is locked").to_string();
            let expected = format!(
                "{} is in use by process {}",
                folder.display(),
                std::process::id()
            );
            assert!(error.starts_with(&expected), "{error}");
        }
        drop(whole);
        let first = take(folder, "0/2").expect("free again");
        let second = take(folder, "1/2").expect("beside the other");
        assert!(matches!(
            take(folder, "0/3").expect_err("there would be two leaders"),
            TrainerError::Busy { .. }
        ));
        assert!(
            take(folder, "1/2")
                .expect_err("that shard is running")
                .to_string()
                .contains("in use by process")
        );
        assert!(matches!(
            take(folder, "0/1").expect_err("shards are running"),
            TrainerError::Busy { .. }
        ));
        drop((first, second));
        take(folder, "0/1").expect("the locks were released");
    }
}
