//! Files that are whole or as they were: what is written goes beside, onto the disk, and then takes the place. And who
//! holds a file's lock.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path`, replacing what was there at once or not at all: after a kill, a full disk or a power cut
/// there is the old file or the new one. One process writes a path at a time.
///
/// # Errors
/// When the file beside, `PATH.new`, cannot be written or renamed; it is then removed, and `path` is as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside); // what failed first is what is reported
    })?;
    sync_folder(path);
    Ok(())
}

/// Puts the entry of `path` in its folder onto the disk, where the system can.
pub fn sync_folder(path: &Path) {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all()); // some file systems cannot
}

/// The process that holds a lock on the file at `path`, where the system tells (`/proc/locks` on Linux). Takes no lock
/// itself, and sees no process of another machine.
#[must_use]
pub fn lock_holder(path: &Path) -> Option<u32> {
    let inode = inode(&fs::metadata(path).ok()?)?;
    (0..LOOKS).find_map(|_| locks().ok()?.lines().find_map(|line| holder(line, inode)))
}

/// The system's list goes on by the number of the line from one read to the next, so it lacks a lock when an earlier one
/// ended in between: it is read in few pieces, and more than once before a lock is said to have no holder.
const LOOKS: usize = 4;

fn locks() -> io::Result<String> {
    let mut text = String::with_capacity(1 << 16);
    File::open("/proc/locks")?.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(unix)]
fn inode(file: &fs::Metadata) -> Option<u64> {
    Some(std::os::unix::fs::MetadataExt::ino(file))
}

#[cfg(not(unix))]
fn inode(_: &fs::Metadata) -> Option<u64> {
    None
}

/// Of a line `1: FLOCK  ADVISORY  WRITE 4711 fe:00:10185108 0 EOF`: the process, where the file is the one.
fn holder(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace();
    let process = words.by_ref().nth(4)?;
    let file = words.next()?.rsplit(':').next()?;
    (file.parse() == Ok(inode)).then(|| process.parse().ok())?
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    #[test]
    fn a_file_that_cannot_be_replaced_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        replace(&path, b"old").unwrap();
        fs::create_dir(beside(&path)).unwrap(); // so that nothing can be written there
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_dir(beside(&path)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing stays beside"
        );
    }

    #[test]
    fn the_holder_is_read_from_the_line_of_the_file() {
        let line = "1: FLOCK  ADVISORY  WRITE 4711 fe:00:10185108 0 EOF";
        assert_eq!(
            (holder(line, 10_185_108), holder(line, 10_185_109)),
            (Some(4711), None)
        );
        assert_eq!(
            (
                holder("", 1),
                holder("2: -> FLOCK ADVISORY WRITE 4712 fe:00:1 0 EOF", 1)
            ),
            (None, None)
        );
    }

    #[test]
    fn a_lock_tells_its_process() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(lock_holder(file.path()), None);
        file.as_file().lock().unwrap();
        let is_told = Path::new("/proc/locks").exists();
        assert_eq!(lock_holder(file.path()), is_told.then(std::process::id));
    }

    #[test]
    fn a_holder_is_found_while_other_locks_come_and_go() {
        let is_done = AtomicBool::new(!Path::new("/proc/locks").exists());
        let takes_and_leaves = || {
            let file = tempfile::NamedTempFile::new().unwrap();
            while !is_done.load(Relaxed) {
                file.as_file().lock().unwrap();
                file.as_file().unlock().unwrap();
            }
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().lock().unwrap();
        let is_found =
            || is_done.load(Relaxed) || lock_holder(file.path()) == Some(std::process::id());
        std::thread::scope(|scope| {
            scope.spawn(takes_and_leaves);
            scope.spawn(takes_and_leaves);
            let found = (0..5_000).filter(|_| is_found()).count();
            is_done.store(true, Relaxed);
            assert_eq!(found, 5_000);
        });
    }
}
