//! The contents of the checkpoint from which fresh jobs start, as one hash.

use scenarios::suite::hex;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The hashes that were computed. A checkpoint is not written while a run reads it.
static KNOWN: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());

/// Returns the SHA-256 of a GGUF file, or of the files of a model folder with their names. What cannot be read
/// counts as empty; opening the model reports the error.
pub(super) fn checkpoint_hash(path: &Path) -> String {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known
        .entry(path.to_owned())
        .or_insert_with(|| hex(&files(path).iter().fold(Sha256::new(), add_file).finalize()))
        .clone()
}

fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = path.read_dir() else {
        return vec![path.to_owned()];
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    files
}

fn add_file(mut hash: Sha256, file: &PathBuf) -> Sha256 {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    let mut bytes = 0;
    if let Ok(mut file) = File::open(file) {
        bytes = io::copy(&mut file, &mut hash).unwrap_or(0);
    }
    hash.update(bytes.to_le_bytes());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_a_folder_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let hash_with = |name: &str, files: &[(&str, &str)]| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).expect("creates");
            for (file, text) in files {
                std::fs::write(path.join(file), text).expect("writes");
            }
            checkpoint_hash(&path)
        };
        let first = hash_with("a", &[("config.json", "{}"), ("model.safetensors", "12")]);
        let same = hash_with("b", &[("model.safetensors", "12"), ("config.json", "{}")]);
        assert_eq!(first, same);
        for (name, files) in [
            ("c", [("config.json", "{}"), ("model.safetensors", "13")]),
            ("d", [("config.json", "{}1"), ("model.safetensors", "2")]),
            ("e", [("config.json", "{}"), ("other.safetensors", "12")]),
        ] {
            assert_ne!(hash_with(name, &files), first, "{files:?}");
        }
    }
}
