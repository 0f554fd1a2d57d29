//! What the commands share that continue logged episodes: the resumable output, and the groups of
//! episodes that are continued under one protocol.

use crate::args::policy::FOLDER_HINT;
use crate::args::stores;
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::store::Store;
use scenarios::{History, Protocol, Split, Suite, Task, Trajectory};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The policy, and the episodes that it continues.
#[derive(Args)]
pub(super) struct ContinuedArgs {
    /// Model folder that plays, usually the one that played the episodes
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub(super) policy: PathBuf,
    /// Store of the episodes, JSONL, as written by `collect` and `loop`
    #[arg(long, value_hint = ValueHint::FilePath)]
    data: PathBuf,
    /// Games of the store: a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Splits whose episodes are used, separated by commas: `train`, or `valid_train` to measure
    #[arg(long, value_delimiter = ',', default_value = "train")]
    pub(super) split: Vec<Split>,
    /// Number of games of each split, taken from its start; 0 means all
    #[arg(long, default_value_t = 0)]
    pub(super) games: usize,
}

impl ContinuedArgs {
    /// Checks the flags before anything is opened.
    ///
    /// # Errors
    /// If a split is for tests, or the policy is not a model folder.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let test = self
            .split
            .iter()
            .find(|split| !matches!(split, Split::Train | Split::ValidTrain));
        if let Some(test) = test {
            return Err(ui::WrongUse(format!(
                "--split {test}: these games are for tests, and continued episodes are for learning and selection\n\
                 hint: train, or valid_train to measure"
            ))
            .into());
        }
        if !self.policy.is_dir() {
            return Err(ui::WrongUse(format!(
                "--policy {}: not a model folder\n{FOLDER_HINT}",
                self.policy.display()
            ))
            .into());
        }
        Ok(())
    }

    /// Opens the suite.
    ///
    /// # Errors
    /// If it is not readable.
    pub(super) fn open_suite(&self) -> anyhow::Result<Suite> {
        Ok(Suite::open(&self.suite)?)
    }

    /// Returns the games of `--split` and `--games` by hash.
    pub(super) fn tasks<'s>(&self, suite: &'s Suite) -> HashMap<&'s str, &'s Task> {
        let mut tasks = HashMap::new();
        for split in &self.split {
            let first = suite.first(*split, self.games).into_iter();
            tasks.extend(first.map(|task| (task.hash.as_str(), task)));
        }
        tasks
    }

    /// Reads the episodes of `--split` and `--games`.
    ///
    /// # Errors
    /// If there are none, if a game is not in the suite, or if an episode was played with a window over
    /// its last turns, because such an episode has no token ids.
    pub(super) fn episodes(
        &self,
        suite: &Suite,
        tasks: &HashMap<&str, &Task>,
    ) -> anyhow::Result<Vec<Trajectory>> {
        let mut episodes = stores::read(&self.data)?;
        episodes.retain(|episode| self.split.contains(&episode.split));
        refuse_missing(&episodes, suite, &self.suite)?;
        episodes.retain(|episode| tasks.contains_key(episode.game_hash.as_str()));
        let data = self.data.display();
        if episodes.is_empty() {
            return Err(ui::WrongUse(format!(
                "{data}: no episode to continue\nhint: --split names the splits that are used"
            ))
            .into());
        }
        let windowed = episodes
            .iter()
            .find(|episode| episode.protocol.history != History::Full);
        if let Some(episode) = windowed {
            return Err(ui::WrongUse(format!(
                "{data}: {} was played with a history of {}, and only episodes with the full history can be continued",
                episode.game, episode.protocol.history
            ))
            .into());
        }
        Ok(episodes)
    }

    /// Returns the name of the store without its folder.
    pub(super) fn source(&self) -> String {
        let name = self.data.file_name().unwrap_or(self.data.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// Refuses the suite if it lacks the game of an episode.
fn refuse_missing(episodes: &[Trajectory], suite: &Suite, path: &Path) -> anyhow::Result<()> {
    let known: HashSet<&str> = suite.tasks.iter().map(|task| task.hash.as_str()).collect();
    let mut missing = episodes
        .iter()
        .filter(|episode| !known.contains(episode.game_hash.as_str()));
    let Some(first) = missing.next() else {
        return Ok(());
    };
    Err(ui::WrongUse(format!(
        "{} episodes are of games that {} does not contain; the first: {}",
        1 + missing.count(),
        path.display(),
        first.game
    ))
    .into())
}

/// Why an output that already exists is refused.
pub(super) struct Refusals {
    /// Its settings differ.
    pub(super) other: &'static str,
    /// It has records, and its settings are not known.
    pub(super) unknown: &'static str,
}

/// Opens the store at `path` for a command that can be interrupted, and returns the records that it
/// has. [`claim_settings`] is called for it.
///
/// # Errors
/// If the store has records that were made with other settings, or cannot be used.
pub(super) fn open_resumable<S: Serialize + DeserializeOwned + PartialEq>(
    path: &Path,
    settings: &S,
    refusals: Refusals,
) -> anyhow::Result<(Store, Vec<Trajectory>)> {
    let (out, finished) = Store::open(path)?;
    claim_settings(path, settings, finished.is_empty(), refusals)?;
    Ok((out, finished))
}

/// Writes the settings of the output at `path` to `PATH.settings.json`, if the output is new. If not,
/// checks that they are the same.
///
/// # Errors
/// If they differ, or the file cannot be written.
pub(super) fn claim_settings<S: Serialize + DeserializeOwned + PartialEq>(
    path: &Path,
    settings: &S,
    is_new: bool,
    refusals: Refusals,
) -> anyhow::Result<()> {
    let mut settings_path = path.as_os_str().to_owned();
    settings_path.push(".settings.json");
    let settings_path = PathBuf::from(settings_path);
    if is_new {
        let text = serde_json::to_string_pretty(settings)? + "\n";
        std::fs::write(&settings_path, text)
            .with_context(|| format!("cannot use {}", settings_path.display()))?;
        return Ok(());
    }
    let before = std::fs::read_to_string(&settings_path)
        .ok()
        .and_then(|text| serde_json::from_str::<S>(&text).ok());
    let reason = match before {
        Some(before) if before == *settings => return Ok(()),
        Some(_) => refusals.other,
        None => refusals.unknown,
    };
    Err(ui::WrongUse(format!(
        "{}: {reason}\nhint: choose another --out, or remove it",
        path.display()
    ))
    .into())
}

/// Returns the key that identifies an episode in both stores.
pub(super) fn key(episode: &Trajectory) -> anyhow::Result<(&str, u64, usize, &str, String)> {
    let Trajectory {
        game_hash,
        seed,
        repetition,
        policy,
        protocol,
        ..
    } = episode;
    Ok((
        game_hash,
        *seed,
        *repetition,
        policy,
        serde_json::to_string(protocol)?,
    ))
}

/// Groups the episodes by protocol, in order.
pub(super) fn by_protocol<'a>(
    episodes: &[&'a Trajectory],
) -> Vec<(&'a Protocol, Vec<&'a Trajectory>)> {
    let mut groups: Vec<(&Protocol, Vec<&Trajectory>)> = Vec::new();
    for episode in episodes {
        match groups
            .iter_mut()
            .find(|(protocol, _)| **protocol == episode.protocol)
        {
            Some((_, group)) => group.push(episode),
            None => groups.push((&episode.protocol, vec![episode])),
        }
    }
    groups
}
