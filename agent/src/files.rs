//! Opens the files of a model folder.
//!
//! The folder may come from a stranger: a name may be a pipe that never ends or a link to
//! `/dev/zero`, and a file that should be small may be large. So only regular files are opened, and
//! if a file is read whole, its length has a limit.

pub(crate) use scenarios::files::without_mark;

use crate::error::AgentError;
use std::borrow::Cow;
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// Opens a regular file; returns it with its length in bytes.
pub(crate) fn open(path: &Path) -> Result<(File, u64), AgentError> {
    // Checked before opening: if the file were a pipe, opening it would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(|source| unusable(path, source))?;
    if !metadata.is_file() {
        return Err(unusable(path, Error::other("it is not a regular file")));
    }
    let file = File::open(path).map_err(|source| unusable(path, source))?;
    let metadata = file.metadata().map_err(|source| unusable(path, source))?;
    Ok((file, metadata.len()))
}

/// The bytes of a file; an error if there are more than `longest`.
pub(crate) fn read(path: &Path, longest: u64) -> Result<Vec<u8>, AgentError> {
    let (file, length) = open(path)?;
    if length > longest {
        return Err(AgentError::Content {
            path: path.into(),
            reason: format!("has {length} bytes, and such a file at most {longest}"),
        });
    }
    let mut bytes = Vec::new();
    file.take(longest)
        .read_to_end(&mut bytes)
        .map_err(|source| unusable(path, source))?;
    Ok(bytes)
}

/// The same as [`read`]; `None` if there is no such file.
pub(crate) fn read_if_any(path: &Path, longest: u64) -> Result<Option<Vec<u8>>, AgentError> {
    match read(path, longest) {
        Err(AgentError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// The bytes of a file as text, without a byte order mark; an error if they are not UTF-8.
pub(crate) fn text(path: &Path, bytes: Vec<u8>) -> Result<String, AgentError> {
    let text = String::from_utf8(bytes).map_err(|error| AgentError::Content {
        path: path.into(),
        reason: format!("is not UTF-8: {error}"),
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// JSON as Python writes it, made standard: without a byte order mark, and `NaN`, `Infinity` and `-Infinity` as texts. So a
/// reader that needs such a value refuses it by name, and one that does not need it reads on.
pub(crate) fn standard_json(bytes: &[u8]) -> Cow<'_, [u8]> {
    let bytes = without_mark(bytes);
    if !["NaN", "Infinity"].iter().any(|word| {
        bytes
            .windows(word.len())
            .any(|part| part == word.as_bytes())
    }) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let (mut place, mut in_text) = (0, false);
    while place < bytes.len() {
        let rest = &bytes[place..];
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|word| !in_text && rest.starts_with(word.as_bytes()));
        let length = match (word, rest[0]) {
            (Some(word), _) => {
                out.extend(format!("\"{word}\"").bytes());
                place += word.len();
                continue;
            }
            (None, b'\\') if in_text => rest.len().min(2),
            (None, letter) => {
                in_text ^= letter == b'"';
                1
            }
        };
        out.extend(&rest[..length]);
        place += length;
    }
    Cow::Owned(out)
}

fn unusable(path: &Path, source: Error) -> AgentError {
    AgentError::File {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        read(path, 4).unwrap_err().to_string()
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        assert!(read_if_any(&path, 4).unwrap().is_none());
        assert!(refusal(folder.path()).ends_with("it is not a regular file"));
        std::fs::write(&path, "12345").unwrap();
        assert!(refusal(&path).ends_with("config.json: has 5 bytes, and such a file at most 4"));
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"1234");
        assert!(
            text(&path, vec![0xFF])
                .unwrap_err()
                .to_string()
                .contains("config.json: is not UTF-8")
        );
    }

    #[test]
    fn json_of_python_becomes_standard_json() {
        for (python, standard) in [
            (r#"{"a": 1}"#, r#"{"a": 1}"#),
            ("\u{feff}{}", "{}"),
            (
                r#"{"a": Infinity, "b": [-Infinity, NaN], "c": "NaN \" Infinity"}"#,
                r#"{"a": "Infinity", "b": ["-Infinity", "NaN"], "c": "NaN \" Infinity"}"#,
            ),
            (r#"["\\", NaN]"#, r#"["\\", "NaN"]"#),
            ("\"NaN\\", "\"NaN\\"),
        ] {
            let found = standard_json(python.as_bytes());
            assert_eq!(String::from_utf8(found.into_owned()).unwrap(), standard);
        }
    }

    /// A link in a cloned repository may lead anywhere.
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
                .ends_with("it is not a regular file")
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
