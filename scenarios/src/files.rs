//! Atomic replacement of files, and the process that holds the lock of a file.
//!
//! New content is written to a second file and flushed to the disk. Then a rename replaces the old
//! file, so that a reader sees either the old content or the new.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Returns the bytes after a byte order mark, if there is one. Editors on Windows write it before UTF-8.
#[must_use]
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Writes `bytes` to `path` and replaces a file that exists there atomically. After a kill, a full
/// disk or a power cut, `path` contains either the old bytes or the new ones. Only one process at a
/// time may write to a path.
///
/// # Errors
/// If the temporary file `PATH.new` cannot be written or renamed. It is then removed, and `path` is
/// unchanged.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_path(path);
    write_and_rename(&temporary, path, bytes).inspect_err(|_| {
        let _ = fs::remove_file(&temporary); // only the first error is reported
    })?;
    sync_folder(path);
    Ok(())
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// Flushes the directory entry of `path` to the disk, if the system supports it.
pub fn sync_folder(path: &Path) {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Some file systems do not support it.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Returns the process that holds a lock on the file at `path`, if the system lists it
/// (`/proc/locks` on Linux). Takes no lock itself, and does not find a process of another machine.
#[must_use]
pub fn lock_holder(path: &Path) -> Option<u32> {
    let inode = inode(&fs::metadata(path).ok()?)?;
    (0..ATTEMPTS).find_map(|_| locks().ok()?.lines().find_map(|line| holder(line, inode)))
}

/// How often the list of locks is read before the lock counts as free.
///
/// The system continues its list by line number from one read call to the next. If an earlier lock
/// ends in between, one lock is missing from the list. So the list is read in large pieces, and
/// more than once if the lock is not found.
const ATTEMPTS: usize = 4;

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

/// Returns the process (4711) of a line `1: FLOCK  ADVISORY  WRITE 4711 fe:00:10185108 0 EOF` if
/// its inode (10185108) is `inode`.
fn holder(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace();
    let process = words.by_ref().nth(4)?;
    let file = words.next()?.rsplit(':').next()?;
    (file.parse() == Ok(inode)).then(|| process.parse().ok())?
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    #[test]
    fn a_file_that_cannot_be_replaced_is_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        replace(&path, b"old").unwrap();
        // The temporary file cannot be created, because a folder has its name.
        fs::create_dir(temporary_path(&path)).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_dir(temporary_path(&path)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file remains"
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
    fn the_holder_of_a_lock_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(lock_holder(file.path()), None);
        file.as_file().lock().unwrap();
        let is_listed = Path::new("/proc/locks").exists();
        assert_eq!(lock_holder(file.path()), is_listed.then(std::process::id));
    }

    #[test]
    fn a_holder_is_found_while_other_locks_are_taken_and_released() {
        let is_done = AtomicBool::new(!Path::new("/proc/locks").exists());
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().lock().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| lock_and_unlock_until(&is_done));
            }
            let found = (0..5_000)
                .filter(|_| {
                    is_done.load(Relaxed) || lock_holder(file.path()) == Some(std::process::id())
                })
                .count();
            is_done.store(true, Relaxed);
            assert_eq!(found, 5_000);
        });
    }

    fn lock_and_unlock_until(is_done: &AtomicBool) {
        let file = tempfile::NamedTempFile::new().unwrap();
        while !is_done.load(Relaxed) {
            file.as_file().lock().unwrap();
            file.as_file().unlock().unwrap();
        }
    }
}
