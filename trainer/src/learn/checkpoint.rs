//! Checkpoints of a training job: weights, optimizer state and position. If a run is killed, it
//! resumes from the last one with the same result.
//!
//! A new checkpoint is written beside the last one and then replaces it, so one of them is always
//! complete.

use crate::error::TrainerError;
use agent::model::weights::Weights;
use scenarios::files;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The content of a checkpoint folder.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Updates done, and the job that they belong to.
    pub position: Position,
    /// Named sets of tensors: `policy`, `policy-optimizer`, `value`, `value-optimizer`,
    /// `best-policy`, `best-value`.
    pub tensors: Vec<(String, Weights)>,
}

/// Updates done, and the job that they belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Updates done.
    pub update: usize,
    /// Hash of recipe, data and starting weights. A checkpoint of another job is refused.
    pub job: String,
    /// The best evaluation on the held-out games, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<BestEvaluation>,
}

/// The best evaluation on the held-out games.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestEvaluation {
    /// The lowest loss.
    pub loss: f64,
    /// Updates done at that time.
    pub update: usize,
    /// Evaluations since then.
    pub looks_since: usize,
}

impl Checkpoint {
    /// Writes the checkpoint into `folder`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), TrainerError> {
        let new = sibling(folder, "new");
        let old = sibling(folder, "old");
        remove(&new)?;
        self.write(&new).inspect_err(|_| {
            let _ = remove(&new); // an incomplete one may fill the disk
        })?;
        remove(&old)?;
        if folder.exists() {
            fs::rename(folder, &old).map_err(TrainerError::file(folder))?;
        }
        fs::rename(&new, folder).map_err(TrainerError::file(folder))?;
        files::sync_folder(folder);
        remove(&old)
    }

    fn write(&self, folder: &Path) -> Result<(), TrainerError> {
        fs::create_dir_all(folder).map_err(TrainerError::file(folder))?;
        for (name, weights) in &self.tensors {
            weights.save(&folder.join(format!("{name}.safetensors")))?;
        }
        let path = folder.join("position.json");
        let text =
            serde_json::to_string(&self.position).map_err(|e| TrainerError::content(&path, e))?;
        files::replace(&path, text.as_bytes()).map_err(TrainerError::file(&path))
    }

    /// Reads the checkpoint of `job` in `folder`; `None` if there is none.
    ///
    /// # Errors
    /// If a file is damaged or the checkpoint belongs to another job.
    pub fn open(folder: &Path, job: &str) -> Result<Option<Self>, TrainerError> {
        let old = sibling(folder, "old");
        if !folder.exists() && old.exists() {
            fs::rename(&old, folder).map_err(TrainerError::file(folder))?;
        }
        let path = folder.join("position.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
        let position: Position =
            serde_json::from_str(&text).map_err(|e| TrainerError::content(&path, e))?;
        if position.job != job {
            let reason = "belongs to another recipe, data or starting policy\nhint: choose another --out, or remove it";
            return Err(TrainerError::content(&path, reason));
        }
        let mut tensors = Vec::new();
        for entry in fs::read_dir(folder).map_err(TrainerError::file(folder))? {
            let file = entry.map_err(TrainerError::file(folder))?.path();
            if let (Some("safetensors"), Some(name)) =
                (file.extension().and_then(|e| e.to_str()), file.file_stem())
            {
                tensors.push((name.to_string_lossy().into_owned(), Weights::open(&file)?));
            }
        }
        Ok(Some(Self { position, tensors }))
    }

    /// Removes and returns the tensors of that name.
    ///
    /// # Errors
    /// If there are none.
    pub fn take(&mut self, name: &str) -> Result<Weights, TrainerError> {
        let index = self.tensors.iter().position(|(other, _)| other == name);
        let index = index.ok_or_else(|| {
            TrainerError::Data(format!("the checkpoint lacks {name}.safetensors"))
        })?;
        Ok(self.tensors.swap_remove(index).1)
    }
}

fn sibling(folder: &Path, suffix: &str) -> PathBuf {
    folder.with_extension(suffix)
}

/// Removes a checkpoint folder, if there is one.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(folder: &Path) -> Result<(), TrainerError> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(TrainerError::file(folder))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::model::weights::HostTensor;

    fn checkpoint(update: usize) -> Checkpoint {
        let tensor = HostTensor {
            shape: vec![1],
            data: vec![update as f32],
        };
        let tensors = vec![(
            "policy".to_string(),
            Weights([("w".to_string(), tensor)].into()),
        )];
        Checkpoint {
            position: Position {
                update,
                job: "a".into(),
                best: None,
            },
            tensors,
        }
    }

    #[test]
    fn the_last_complete_checkpoint_is_found() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("checkpoint");
        assert!(Checkpoint::open(&path, "a").expect("nothing yet").is_none());
        checkpoint(1).save(&path).expect("saves");
        checkpoint(2).save(&path).expect("saves again");
        let mut found = Checkpoint::open(&path, "a")
            .expect("opens")
            .expect("exists");
        assert_eq!(
            (
                found.position.update,
                found.take("policy").expect("exists").0["w"].data[0]
            ),
            (2, 2.0)
        );
        assert!(
            Checkpoint::open(&path, "b")
                .expect_err("another job")
                .to_string()
                .contains("another recipe")
        );
        fs::rename(&path, folder.path().join("checkpoint.old"))
            .expect("as if killed between two renames");
        assert!(Checkpoint::open(&path, "a").expect("opens").is_some());
    }
}
