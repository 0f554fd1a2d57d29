//! The files of a run folder: which ones are stores of trajectories, and how they are read.

use crate::ui::WrongUse;
use anyhow::Context;
use serde_json::Value;
use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use trainer::pipeline::manifest::ASIDE;
use trainer::pipeline::shard::whole_of;
use trainer::pipeline::stages::holds_demonstrations;

/// Folders that contain no results: models, games, optimizers, and files of earlier recipes.
const SKIPPED: [&str; 6] = [
    ASIDE,
    "games",
    "checkpoint",
    "tensorboard",
    "value",
    "adapter",
];

/// What the episodes of a store are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StoreKind {
    /// An evaluation: each game once.
    Evaluation,
    /// Training data: demonstrations and rollouts.
    TrainingData,
}

/// A store of trajectories.
pub(super) struct StoreFile {
    pub(super) file: PathBuf,
    pub(super) kind: StoreKind,
    pub(super) iteration: Option<usize>,
    /// The file name without extension and K.
    pub(super) stem: String,
    /// K, if the file name contains it.
    pub(super) k: Option<usize>,
    /// What `hearth eval` writes in the file name beside K, such as `beam3`; `None` if it did not
    /// write the store.
    pub(super) eval_tag: Option<String>,
}

impl StoreFile {
    /// Returns the policy's name in the run's table. If the iteration is above 1, the name ends
    /// with it.
    pub(super) fn policy(&self) -> String {
        match self.iteration {
            Some(iteration) if iteration > 1 => format!("{}-{iteration}", self.stem),
            _ => self.stem.clone(),
        }
    }
}

/// Lists the files of a run by their paths in it, sorted. Folders of models, games and optimizers
/// are skipped.
pub(super) fn list_files(run: &Path) -> anyhow::Result<Vec<PathBuf>> {
    const DEEPEST: usize = 3;
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let place = if folder.as_os_str().is_empty() {
            run.to_path_buf()
        } else {
            run.join(&folder)
        };
        let entries = std::fs::read_dir(&place).map_err(|e| unreadable(&place, &e))?;
        for entry in entries {
            let entry = entry.map_err(|e| unreadable(&place, &e))?;
            let name = entry.file_name();
            let is_skipped =
                SKIPPED.iter().any(|other| name == *other) || whole_of(Path::new(&name)).is_some();
            if is_skipped {
                continue;
            }
            if !entry.path().is_dir() {
                found.push(folder.join(name));
            } else if folder.components().count() < DEEPEST {
                open.push(folder.join(name));
            }
        }
    }
    found.sort_by_key(|file| {
        file.components()
            .map(|part| number_first(&part.as_os_str().to_string_lossy()))
            .collect::<Vec<_>>()
    });
    Ok(found)
}

/// A sort key that puts iteration 10 after iteration 9.
fn number_first(name: &str) -> (usize, String) {
    (name.parse().unwrap_or(usize::MAX), name.to_string())
}

/// Returns the stores among the files: those in a folder `eval`, those named `episodes-…`, and
/// others if their first line is a trajectory. Stores of training data are returned only if
/// `with_rollouts` is set.
pub(super) fn stores(
    run: &Path,
    files: &[PathBuf],
    with_rollouts: bool,
) -> anyhow::Result<Vec<StoreFile>> {
    let mut found = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "jsonl"))
    {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_in_eval = file
            .parent()
            .is_some_and(|folder| folder.file_name().is_some_and(|name| name == "eval"));
        // A job may be called `dagger`: in the folder `eval` its store is an evaluation like any
        // other.
        let kind = if !is_in_eval && (name == "rollouts" || holds_demonstrations(&name)) {
            StoreKind::TrainingData
        } else {
            StoreKind::Evaluation
        };
        let is_store = is_in_eval
            || name.starts_with("episodes-")
            || begins_with_a_trajectory(&run.join(file))?;
        if is_store && (kind == StoreKind::Evaluation || with_rollouts) {
            let (stem, k) = stem_and_k(&name);
            found.push(StoreFile {
                file: file.clone(),
                kind,
                iteration: iteration(file),
                stem: stem.into(),
                k,
                eval_tag: stem
                    .strip_prefix("episodes")
                    .map(|tag| tag.trim_start_matches('-').to_string()),
            });
        }
    }
    Ok(found)
}

/// Splits K from a name: `oreo-k5` is `oreo` and 5, `episodes-beam3-k3` is `episodes-beam3` and 3,
/// `greedy` has no K.
fn stem_and_k(name: &str) -> (&str, Option<usize>) {
    let parts = name
        .rsplit_once("-k")
        .and_then(|(stem, k)| Some((stem, k.parse().ok()?)));
    parts.map_or((name, None), |(stem, k)| (stem, Some(k)))
}

fn begins_with_a_trajectory(path: &Path) -> anyhow::Result<bool> {
    let file = std::fs::File::open(path).map_err(|e| unreadable(path, &e))?;
    let mut line = String::new();
    if BufReader::new(file).read_line(&mut line).is_err() {
        return Ok(false); // the file is not text
    }
    Ok(serde_json::from_str::<Value>(&line).is_ok_and(|value| {
        let is_trajectory = value["game_hash"].is_string() && value["turns"].is_array();
        is_trajectory && value["branch"].is_null() // a branch is no episode
    }))
}

/// Returns the iteration of a file: the number that its first folder is named by.
pub(super) fn iteration(file: &Path) -> Option<usize> {
    file.components()
        .next()
        .and_then(|part| part.as_os_str().to_str()?.parse().ok())
}

/// Returns the file of that name in the run folder itself.
pub(super) fn top_level<'a>(files: &'a [PathBuf], name: &str) -> Option<&'a PathBuf> {
    files.iter().find(|file| *file == Path::new(name))
}

pub(super) fn is_named(file: &Path, name: &str) -> bool {
    file.file_name().is_some_and(|other| other == name)
}

pub(super) fn folder_name(folder: &Path) -> String {
    let absolute = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.into());
    absolute.file_name().map_or_else(
        || display_path(folder),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Returns a path with `/` between its parts on every system.
pub(super) fn display_path(path: &Path) -> String {
    path.components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    WrongUse(format!("cannot read {}: {error}", path.display())).into()
}

pub(super) fn damaged(path: &Path, error: impl Display) -> anyhow::Error {
    WrongUse(format!("{}: {error}", path.display())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_and_k_are_read_from_the_name_of_a_store() {
        for (name, expected) in [
            ("oreo-turn-k5", ("oreo-turn", Some(5))),
            ("episodes-beam3-k3", ("episodes-beam3", Some(3))),
            ("greedy", ("greedy", None)),
            ("oreo-kto", ("oreo-kto", None)),
        ] {
            assert_eq!(stem_and_k(name), expected);
        }
    }
}
