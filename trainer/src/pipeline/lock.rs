//! One process works in a run's folder at a time, or several as its shards. The locks are the system's, on files in the
//! folder; they go with the process, however it ends, and the files stay.
//!
//! On a folder that several machines share, the file system must pass locks on (NFS 4 does, as does Lustre mounted with
//! `flock`); where it does not, that nobody else works there is up to whoever starts the processes.

use crate::error::TrainerError;
use crate::pipeline::shard::Shard;
use scenarios::files::lock_holder;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The file that says who works in a run's folder.
const NAME: &str = "run.lock";

/// Held while a run goes on.
#[derive(Debug)]
pub struct RunLock {
    _files: Vec<File>,
}

impl RunLock {
    /// Takes the folder for a whole run, or for one of its shards beside others.
    ///
    /// # Errors
    /// [`TrainerError::Busy`] names the process that has it; otherwise when a file cannot be written.
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
            .map_err(TrainerError::file(&folder.join(NAME)))?; // who stood there is gone
        let path = shard_path(folder, shard);
        let own = open(&path)?;
        held(own.try_lock(), folder, &path)?;
        Ok(Self {
            _files: vec![run, signed(own, &path)?],
        })
    }
}

/// The processes that work in a run's folder, where the system tells; takes no lock, and sees no other machine's.
///
/// # Errors
/// When the folder cannot be read.
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
    folder.join(format!("run.shard-{}.lock", shard.index())) // of however many: there is one leader
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
            Err(TrainerError::Busy {
                folder: folder.into(),
                holder,
            })
        }
    }
}

/// Writes into a locked file who holds it.
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

    #[test]
    fn a_run_has_its_folder_for_itself_or_shares_it_among_its_shards() {
        let folder = tempfile::tempdir().expect("a folder");
        let take = |shard: &str| RunLock::take(folder.path(), shard.parse().expect("a shard"));
        let whole = take("0/1").expect("nobody is there");
        for other in ["0/1", "1/2"] {
            let error = take(other).expect_err("somebody is there").to_string();
            let expected = format!(
                "{} is in use by process {}",
                folder.path().display(),
                std::process::id()
            );
            assert!(error.starts_with(&expected), "{error}");
        }
        drop(whole);
        let (first, second) = (
            take("0/2").expect("free again"),
            take("1/2").expect("beside the other"),
        );
        assert!(matches!(
            take("0/3").expect_err("two would lead"),
            TrainerError::Busy { .. }
        ));
        assert!(
            take("1/2")
                .expect_err("that shard plays")
                .to_string()
                .contains("in use by process")
        );
        assert!(matches!(
            take("0/1").expect_err("shards play"),
            TrainerError::Busy { .. }
        ));
        drop((first, second));
        take("0/1").expect("locks went with their holders");
    }
}
