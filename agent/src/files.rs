//! Opens the files of a model folder. They come from a stranger: a name may be a pipe that never ends or a link to
//! `/dev/zero`, and a small file's place may hold a large one. So only regular files are opened, and those that are
//! read whole may have so many bytes.

use crate::error::AgentError;
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// A regular file and its length, bytes.
pub(crate) fn open(path: &Path) -> Result<(File, u64), AgentError> {
    let refused = |source| AgentError::File {
        path: path.into(),
        source,
    };
    // Before it is opened, as opening a pipe waits for a writer.
    if !std::fs::metadata(path).map_err(refused)?.is_file() {
        return Err(refused(Error::other("it is no regular file")));
    }
    let file = File::open(path).map_err(refused)?;
    let length = file.metadata().map_err(refused)?.len();
    Ok((file, length))
}

/// The bytes of a file of at most `longest`.
pub(crate) fn read(path: &Path, longest: u64) -> Result<Vec<u8>, AgentError> {
    let (file, length) = open(path)?;
    if length > longest {
        let reason = format!("has {length} bytes, and such a file at most {longest}");
        return Err(AgentError::Content {
            path: path.into(),
            reason,
        });
    }
    let mut bytes = Vec::new();
    file.take(longest)
        .read_to_end(&mut bytes)
        .map_err(|source| AgentError::File {
            path: path.into(),
            source,
        })?;
    Ok(bytes)
}

/// The same; `None` where there is no such file.
pub(crate) fn read_if_any(path: &Path, longest: u64) -> Result<Option<Vec<u8>>, AgentError> {
    match read(path, longest) {
        Err(AgentError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// The bytes of a file as text.
pub(crate) fn text(path: &Path, bytes: Vec<u8>) -> Result<String, AgentError> {
    let content = |reason: String| AgentError::Content {
        path: path.into(),
        reason,
    };
    String::from_utf8(bytes).map_err(|error| content(format!("is not UTF-8: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_their_length_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let said = |path: &Path| read(path, 4).unwrap_err().to_string();
        assert!(read_if_any(&path, 4).unwrap().is_none());
        assert!(said(folder.path()).ends_with("it is no regular file"));
        std::fs::write(&path, "12345").unwrap();
        assert!(said(&path).ends_with("config.json: has 5 bytes, and such a file at most 4"));
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"1234");
        assert!(
            text(&path, vec![0xFF])
                .unwrap_err()
                .to_string()
                .contains("config.json: is not UTF-8")
        );
    }

    /// A link of a cloned repository may lead anywhere.
    #[cfg(unix)]
    #[test]
    fn a_link_to_an_endless_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(
            read(&path, 1 << 20)
                .unwrap_err()
                .to_string()
                .ends_with("it is no regular file")
        );
        std::fs::write(folder.path().join("blob"), "{}").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("blob", &path).unwrap();
        assert_eq!(
            read(&path, 1 << 20).unwrap(),
            b"{}",
            "as in the cache of Hugging Face"
        );
    }
}
