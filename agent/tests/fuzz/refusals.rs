//! Reads given files under the limits of all inputs, for the tests of failures that were found.

use crate::inputs::InputFolder;
use crate::readers::opened;
use crate::seeds::{self, FileSet};
use crate::trial;
use agent::AgentError;
use agent::model::folder::Model;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// The error that `open` returns for these files; `None` if they were accepted.
pub(crate) fn message<T>(
    files: &FileSet,
    open: impl FnOnce(&Path) -> Result<T, AgentError> + Send,
) -> Option<String> {
    let _alone = trial::alone();
    let mut input = InputFolder::new();
    input.put(files.clone());
    let folder = input.path();
    let mut message = None;
    let read = || {
        let result = open(folder);
        message = result.as_ref().err().map(ToString::to_string);
        opened(folder, result).is_some()
    };
    trial::attempt(input.bytes(), Duration::from_secs(20), read).unwrap();
    message
}

/// Checks that these files are refused as a model with an error that contains all of `words`.
pub(crate) fn refused(files: &FileSet, words: &[&str]) {
    let message =
        message(files, Model::open).unwrap_or_else(|| panic!("accepted, expected {words:?}"));
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message}");
    }
}

/// The model folders of [`seeds::folders`].
pub(crate) fn folders() -> Vec<FileSet> {
    // Making them takes memory, which the counters of a trial in another thread would see.
    let _alone = trial::alone();
    seeds::folders(tempfile::tempdir().unwrap().path())
}

/// The files with another value at a JSON pointer in one of them.
pub(crate) fn with(files: &FileSet, name: &str, place: &str, value: Value) -> FileSet {
    let mut json: Value = serde_json::from_slice(&files[name]).unwrap();
    let (parent, key) = place.rsplit_once('/').unwrap();
    json.pointer_mut(parent).unwrap()[key] = value;
    let mut files = files.clone();
    files.insert(name.into(), json.to_string().into_bytes());
    files
}

/// Number of tokens in the vocabulary of `tokenizer.json`.
pub(crate) fn vocabulary_size(files: &FileSet) -> usize {
    let json: Value = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
    json["model"]["vocab"].as_object().unwrap().len()
}
