//! Damaged inputs, and the folder in which one of them is read.

use crate::dictionary::WORDS;
use crate::mutate::Mutator;
use crate::readers::FuzzReader;
use crate::seeds::{self, FileSet, GgufSeed};
use std::path::{Path, PathBuf};

/// The files that inputs of a reader are made from.
pub(crate) struct FuzzInputs {
    reader: FuzzReader,
    folders: Vec<FileSet>,
    ggufs: Vec<GgufSeed>,
    templates: Vec<Vec<u8>>,
}

impl FuzzInputs {
    pub(crate) fn new(reader: FuzzReader) -> Self {
        let place = tempfile::tempdir_in(memory_folder()).unwrap();
        Self {
            reader,
            folders: seeds::folders(place.path()),
            ggufs: seeds::ggufs(),
            templates: seeds::templates(),
        }
    }

    /// The files of one input.
    pub(crate) fn damaged(&self, mutator: &mut Mutator) -> FileSet {
        if self.reader == FuzzReader::Gguf {
            let seed = self.ggufs[mutator.below(self.ggufs.len())].clone();
            let other = mutator.choose(&self.ggufs);
            return FileSet::from([("model.gguf".into(), mutator.gguf(&seed, other))]);
        }
        let mut files = mutator.choose(&self.folders).clone();
        let names: Vec<String> = files
            .keys()
            .filter(|name| self.reader.reads(name))
            .cloned()
            .collect();
        for _ in 0..=usize::from(mutator.one_in(8)) {
            let name = mutator.choose(&names).clone();
            if mutator.one_in(100) {
                files.remove(&name);
                continue;
            }
            let name = if name == "model.safetensors.index.json" && mutator.one_in(4) {
                "model-1.safetensors".into()
            } else {
                name
            };
            self.damage_file(&mut files, &name, mutator);
        }
        files
    }

    fn damage_file(&self, files: &mut FileSet, name: &str, mutator: &mut Mutator) {
        let other = mutator
            .choose(&self.folders)
            .get(name)
            .or_else(|| files.get(name))
            .cloned()
            .unwrap_or_default();
        let Some(bytes) = files.get_mut(name) else {
            return;
        };
        match Path::new(name)
            .extension()
            .and_then(|extension| extension.to_str())
        {
            _ if mutator.one_in(12) => mutator.bytes(bytes, &other),
            Some("safetensors") => mutator.safetensors(bytes, &other, &WORDS),
            Some("jinja") => {
                *bytes = mutator.choose(&self.templates).clone();
                let other = mutator.choose(&self.templates).clone();
                mutator.jinja(bytes, &other, &WORDS);
            }
            _ => mutator.json(bytes, &other, &WORDS),
        }
    }
}

/// A folder in memory, if the system has one.
pub(crate) fn memory_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// The files of the current input, on disk.
pub(crate) struct InputFolder {
    folder: tempfile::TempDir,
    files: FileSet,
}

impl InputFolder {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir_in(memory_folder()).unwrap(),
            files: FileSet::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn files(&self) -> &FileSet {
        &self.files
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// Replaces the files; writes only those that changed.
    pub(crate) fn put(&mut self, files: FileSet) {
        for name in self.files.keys().filter(|name| !files.contains_key(*name)) {
            std::fs::remove_file(self.path().join(name)).unwrap();
        }
        for (name, bytes) in files
            .iter()
            .filter(|(name, bytes)| self.files.get(*name) != Some(bytes))
        {
            std::fs::write(self.path().join(name), bytes).unwrap();
        }
        self.files = files;
    }
}
