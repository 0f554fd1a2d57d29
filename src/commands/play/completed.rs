//! What the commands share that continue logged episodes: the resumable output, and the groups of
//! episodes that are continued under one protocol.

use crate::ui;
use anyhow::Context;
use scenarios::store::Store;
use scenarios::{Protocol, Trajectory};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why an output that already exists is refused.
pub(super) struct Refusals {
    /// Its settings differ.
    pub(super) other: &'static str,
    /// It has records, and its settings are not known.
    pub(super) unknown: &'static str,
}

/// Opens the store at `path` for a command that can be interrupted, and returns the records that it
/// has. The settings are written to `PATH.settings.json` if the store is new.
///
/// # Errors
/// If the store has records that were made with other settings, or cannot be used.
pub(super) fn open_resumable<S: Serialize + DeserializeOwned + PartialEq>(
    path: &Path,
    settings: &S,
    refusals: Refusals,
) -> anyhow::Result<(Store, Vec<Trajectory>)> {
    let settings_path = beside(path, ".settings.json");
    let (out, finished) = Store::open(path)?;
    if finished.is_empty() {
        let text = serde_json::to_string_pretty(settings)? + "\n";
        std::fs::write(&settings_path, text)
            .with_context(|| format!("cannot use {}", settings_path.display()))?;
        return Ok((out, finished));
    }
    let before = std::fs::read_to_string(&settings_path)
        .ok()
        .and_then(|text| serde_json::from_str::<S>(&text).ok());
    let reason = match before {
        Some(before) if before == *settings => return Ok((out, finished)),
        Some(_) => refusals.other,
        None => refusals.unknown,
    };
    Err(ui::WrongUse(format!(
        "{}: {reason}\nhint: choose another --out, or remove it",
        path.display()
    ))
    .into())
}

/// Returns the path of a file beside an output: its name followed by `ending`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
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
