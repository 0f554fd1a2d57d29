//! What a path names where a model is expected, and what to do if it is something else.

use crate::error::AgentError;
use crate::files;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// A model that can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ModelSource {
    /// A folder with `config.json`.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

/// The first bytes of a GGUF file.
const GGUF: &[u8] = b"GGUF";

/// How a Git LFS pointer begins.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

impl ModelSource {
    /// Finds the model that a path names: a folder, a snapshot in a folder of the Hugging Face cache, or a GGUF file.
    ///
    /// # Errors
    /// If the path names no model. The message says what it names instead, and how to get a model from it.
    pub(super) fn find(path: &Path) -> Result<Self, AgentError> {
        if path.is_file() {
            let is_gguf = first_bytes(path, GGUF.len())? == GGUF;
            return match is_gguf || path.extension().is_some_and(|ending| ending == "gguf") {
                true => Ok(Self::Gguf(path.into())),
                false => Err(AgentError::content(path, not_a_model(path))),
            };
        }
        if path.join("config.json").exists() {
            return Ok(Self::Folder(path.into()));
        }
        if let Some(snapshot) = snapshot(path)? {
            return Ok(Self::Folder(snapshot));
        }
        match instead_of_folder(path) {
            Some(reason) => Err(AgentError::content(path, reason)),
            // The error of opening `config.json` names the file.
            None => Ok(Self::Folder(path.into())),
        }
    }
}

/// The reason why a file is no model, with the fix.
fn not_a_model(path: &Path) -> String {
    if is_lfs_pointer(path) {
        return lfs_reason();
    }
    "is neither a model folder nor a GGUF file\n\
        hint: name the folder that contains config.json, tokenizer.json and *.safetensors"
        .into()
}

/// Returns whether a file is a Git LFS pointer.
pub(super) fn is_lfs_pointer(path: &Path) -> bool {
    first_bytes(path, LFS_POINTER.len()).is_ok_and(|bytes| bytes == LFS_POINTER)
}

/// Why a file with the text of a Git LFS pointer cannot be used.
pub(super) fn lfs_reason() -> String {
    "is a Git LFS pointer: the file itself was not downloaded\n\
     hint: `git lfs pull` in the repository fetches it"
        .into()
}

/// The snapshot in a folder `models--owner--name` of the Hugging Face cache: the one that `refs/main` names, or the only one.
fn snapshot(path: &Path) -> Result<Option<PathBuf>, AgentError> {
    let folder = path.join("snapshots");
    if !folder.is_dir() {
        return Ok(None);
    }
    if let Ok(commit) = std::fs::read_to_string(path.join("refs").join("main")) {
        let named = folder.join(commit.trim());
        if named.join("config.json").exists() {
            return Ok(Some(named));
        }
    }
    let unreadable = |source| AgentError::file(&folder, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let snapshot = entry.map_err(unreadable)?.path();
        if snapshot.join("config.json").exists() {
            found.push(snapshot);
        }
    }
    match found.len() {
        0 => Err(AgentError::content(
            &folder,
            "no snapshot has a config.json\nhint: download the model again",
        )),
        1 => Ok(found.pop()),
        count => Err(AgentError::content(
            &folder,
            format!(
                "has {count} snapshots, and refs/main names none of them\nhint: name one of them"
            ),
        )),
    }
}

/// What a folder without `config.json` contains, if that is known, and how to get a model from it.
fn instead_of_folder(path: &Path) -> Option<String> {
    let names: Vec<String> = std::fs::read_dir(path)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let has = |name: &str| names.iter().any(|own| own == name);
    if has("adapter_config.json") {
        return Some(
            "is a LoRA adapter, not a whole model\n\
             hint: `hearth model import BASE OUT --adapter FOLDER` merges it into its base model"
                .into(),
        );
    }
    if let Some(reason) = verl_reason(path) {
        return Some(reason);
    }
    let gguf = names.iter().find(|name| name.ends_with(".gguf"))?;
    Some(format!(
        "has no config.json\nhint: name the file {} itself",
        path.join(gguf).display()
    ))
}

/// The reason why a checkpoint that verl wrote is no model, if the folder is one, contains one, or is the part of one
/// that has the tokenizer.
fn verl_reason(path: &Path) -> Option<String> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let read = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let named = |path: &Path, prefix: &str| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(prefix))
    };
    let mut candidates = vec![path.to_path_buf(), path.join("actor")];
    candidates.extend(path.parent().map(Path::to_path_buf));
    let steps = entries(path)
        .into_iter()
        .filter(|own| named(own, "global_step_"));
    candidates.extend(steps.map(|step| step.join("actor")));
    let is_checkpoint = |folder: &PathBuf| {
        entries(folder)
            .iter()
            .any(|own| named(own, "model_world_size_"))
    };
    let folder = candidates.into_iter().find(is_checkpoint)?;
    Some(format!(
        "is a checkpoint of verl in pieces, one per process\n\
         hint: `python -m verl.model_merger merge --backend fsdp --local_dir {} --target_dir OUT` makes a model folder",
        folder.display()
    ))
}

/// The error for a folder without weights in safetensors, if it is known why.
pub(super) fn without_safetensors(folder: &Path) -> Option<AgentError> {
    if let Some(reason) = verl_reason(folder) {
        return Some(AgentError::content(folder, reason));
    }
    let bins = [
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "consolidated.00.pth",
    ];
    let bin = bins
        .into_iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists())?;
    let reason = "is in PyTorch's own format, which can run code when it is read; hearth reads safetensors\n\
                  hint: in Python, AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OUT, safe_serialization=True)";
    Some(AgentError::content(&bin, reason))
}

/// The error for a folder without `tokenizer.json`, if it is known why.
pub(super) fn without_tokenizer_json(folder: &Path) -> Option<AgentError> {
    let others = ["tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"];
    let other = others
        .into_iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists())?;
    let reason = "is the slow form of a tokenizer; hearth reads tokenizer.json\n\
                  hint: in Python, AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it";
    Some(AgentError::content(&other, reason))
}

/// The first bytes of a file, fewer if it is shorter.
fn first_bytes(path: &Path, count: usize) -> Result<Vec<u8>, AgentError> {
    use std::io::Read;
    let (file, _) = files::open(path)?;
    let mut bytes = Vec::new();
    file.take(count as u64)
        .read_to_end(&mut bytes)
        .map_err(|source| AgentError::file(path, source))?;
    Ok(bytes)
}

/// Returns whether an error says that a file does not exist.
pub(super) fn is_missing(error: &AgentError) -> bool {
    matches!(error, AgentError::File { source, .. } if Error::kind(source) == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn reason(path: &Path) -> String {
        ModelSource::find(path).unwrap_err().to_string()
    }

    #[test]
    fn a_snapshot_of_the_cache_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let snapshots = cache.path().join("snapshots");
        let write = |name: &str| {
            fs::create_dir_all(snapshots.join(name)).unwrap();
            fs::write(snapshots.join(name).join("config.json"), "{}").unwrap();
        };
        fs::create_dir_all(&snapshots).unwrap();
        assert!(reason(cache.path()).contains("no snapshot has a config.json"));
        write("aaa");
        let found = |name| ModelSource::Folder(snapshots.join(name));
        assert_eq!(ModelSource::find(cache.path()).unwrap(), found("aaa"));
        write("bbb");
        assert!(reason(cache.path()).contains("2 snapshots"));
        fs::create_dir(cache.path().join("refs")).unwrap();
        fs::write(cache.path().join("refs").join("main"), "bbb\n").unwrap();
        assert_eq!(ModelSource::find(cache.path()).unwrap(), found("bbb"));
    }

    #[test]
    fn what_is_no_model_is_named_with_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let empty = ModelSource::Folder(folder.path().into());
        assert_eq!(ModelSource::find(folder.path()).unwrap(), empty);
        assert!(reason(&file("x.txt", "hello")).contains("neither a model folder nor a GGUF file"));
        let pointer = file("x.bin", "version https://git-lfs.github.com/spec/v1\n");
        assert!(reason(&pointer).contains("git lfs pull"));
        let gguf = file("x.gguf", "");
        assert_eq!(ModelSource::find(&gguf).unwrap(), ModelSource::Gguf(gguf));
        assert!(reason(folder.path()).contains("x.gguf itself"));
        let shard = file("model_world_size_2_rank_0.pt", "");
        assert!(reason(folder.path()).contains("verl.model_merger merge"));
        fs::remove_file(shard).unwrap();
        file("adapter_config.json", "{}");
        assert!(reason(folder.path()).contains("--adapter FOLDER"));
        assert!(without_safetensors(folder.path()).is_none());
        file("pytorch_model.bin", "");
        let bin = without_safetensors(folder.path()).unwrap().to_string();
        assert!(bin.contains("safe_serialization"), "{bin}");
        assert!(without_tokenizer_json(folder.path()).is_none());
        file("tokenizer.model", "");
        let tokenizer = without_tokenizer_json(folder.path()).unwrap().to_string();
        assert!(tokenizer.contains("save_pretrained"), "{tokenizer}");
    }
}
