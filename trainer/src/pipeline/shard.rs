//! Shards: processes that divide a round of episodes and share only a folder.
//!
//! Shard `i` of `n` (from 0) plays the games whose index modulo `n` is `i` into a store of its own, and
//! [`merge`] combines the stores. An episode's seed depends on its game's index among *all* games, so it is
//! the same whichever shard plays it. Beside its store `NAME.shard-I-of-N.jsonl` a shard writes its
//! assignment, `NAME.shard-I-of-N.plan.json`. Merging checks the stores against these assignments. The merged
//! episodes are in the order in which [`play_round`] returns them.

pub use crate::pipeline::rounds::Shard;

use crate::error::TrainerError;
use crate::pipeline::manifest::{StageInputs, sentence};
use crate::pipeline::rounds::{Round, episode_seed, jobs, play_jobs};
use agent::policy::Policy;
use agent::rollout::Concurrency;
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::suite::hex_sha256;
use scenarios::{Protocol, Task, Trajectory, World, files};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Plays `round.repetitions` episodes of every task of the round's shard into the store at `path`. Episodes
/// that the store already has are not played again. Returns all of them in the order of repetitions and
/// tasks. If the shard is not the whole round, its assignment is written beside the store for [`merge`].
///
/// # Errors
/// If the store cannot be read or written, or has episodes of another round. [`TrainerError::Protocol`] if
/// the policy cannot play by the protocol; [`TrainerError::Gone`] if it no longer answers.
pub fn play_round<P: Policy>(
    policy: &P,
    world: &dyn World,
    tasks: &[&Task],
    protocol: &Protocol,
    round: Round,
    path: &Path,
    progress: &ProgressBar,
) -> Result<Vec<Trajectory>, TrainerError> {
    policy.can_play(protocol).map_err(TrainerError::Protocol)?;
    if round.shard.is_part() {
        Assignment::new(policy, tasks, protocol, round).claim(path)?;
    }
    play_jobs(
        policy,
        world,
        &jobs(tasks, round),
        protocol,
        round.pool,
        path,
        progress,
    )
}

/// Returns the whole store that a shard's store belongs to, and the shard. Returns `None` if the file's name
/// is not that of a shard's store.
#[must_use]
pub fn whole_of(part: &Path) -> Option<(PathBuf, Shard)> {
    let name = part.file_name()?.to_str()?.strip_suffix(".jsonl")?;
    let (stem, shard) = name.rsplit_once(".shard-")?;
    let (index, of) = shard.split_once("-of-")?;
    let shard = Shard::new(index.parse().ok()?, of.parse().ok()?).ok()?;
    Some((part.with_file_name(format!("{stem}.jsonl")), shard))
}

/// Returns the existing shards' stores of a whole store, for any number of shards.
///
/// # Errors
/// If the folder cannot be read.
pub fn parts_of(whole: &Path) -> Result<Vec<PathBuf>, TrainerError> {
    let folder = whole
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Ok(parts_in(folder)?
        .into_iter()
        .filter(|part| whole_of(part).is_some_and(|(w, _)| w.file_name() == whole.file_name()))
        .collect())
}

/// Returns all shards' stores in a folder.
///
/// # Errors
/// If the folder cannot be read.
pub fn parts_in(folder: &Path) -> Result<Vec<PathBuf>, TrainerError> {
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TrainerError::file(folder))? {
        let path = entry.map_err(TrainerError::file(folder))?.path();
        if whole_of(&path).is_some() {
            parts.push(path);
        }
    }
    parts.sort();
    Ok(parts)
}

/// Sorts episodes into the order of an undivided round: every game once, then every game again. Within a
/// repetition the seeds increase with the games' indices.
pub fn sort(episodes: &mut [Trajectory]) {
    episodes.sort_by_key(|episode| (episode.repetition, episode.seed));
}

/// Writes a store of these episodes in one step: if writing fails, the old file stays.
///
/// # Errors
/// If it cannot be written.
pub fn write_store(path: &Path, episodes: &[Trajectory]) -> Result<(), TrainerError> {
    let mut bytes = Vec::new();
    for episode in episodes {
        serde_json::to_writer(&mut bytes, episode).map_err(|e| TrainerError::content(path, e))?;
        bytes.push(b'\n');
    }
    files::replace(path, &bytes).map_err(TrainerError::file(path))
}

/// The episodes that a shard has to play.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Assignment {
    shard: Shard,
    common: SharedPlan,
    /// The shard's games, in order.
    games: Vec<AssignedGame>,
}

/// The part of an assignment that is the same for all shards of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedPlan {
    policy: String,
    value_policy: Option<String>,
    protocol: Protocol,
    seed: u64,
    repetitions: usize,
    /// Number of games in all shards.
    games: usize,
    /// Hash of these games, in order.
    games_hash: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssignedGame {
    id: String,
    hash: String,
}

impl Assignment {
    fn new<P: Policy>(policy: &P, tasks: &[&Task], protocol: &Protocol, round: Round) -> Self {
        let lines: String = tasks
            .iter()
            .map(|task| format!("{}\t{}\t{}\n", task.split, task.id, task.hash))
            .collect();
        let common = SharedPlan {
            policy: policy.name(),
            value_policy: policy.value_name(),
            protocol: protocol.clone(),
            seed: round.seed,
            repetitions: round.repetitions,
            games: tasks.len(),
            games_hash: hex_sha256(lines.as_bytes()),
        };
        let games = tasks
            .iter()
            .enumerate()
            .filter(|(index, _)| round.shard.holds(*index))
            .map(|(_, task)| AssignedGame {
                id: task.id.clone(),
                hash: task.hash.clone(),
            })
            .collect();
        Self {
            shard: round.shard,
            common,
            games,
        }
    }

    fn path(store: &Path) -> PathBuf {
        store.with_extension("plan.json")
    }

    fn read(store: &Path) -> Result<Option<Self>, TrainerError> {
        let path = Self::path(store);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            bytes => {
                let bytes = bytes.map_err(TrainerError::file(&path))?;
                serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|e| TrainerError::content(&path, e))
            }
        }
    }

    /// Writes the assignment beside the store. If there is one already, checks that it is the same.
    fn claim(&self, store: &Path) -> Result<(), TrainerError> {
        let path = Self::path(store);
        if let Some(before) = Self::read(store)? {
            let differences = self.differences(&before);
            return if differences.is_empty() {
                Ok(())
            } else {
                let text = format!(
                    "the shard was begun otherwise: {differences}\nhint: choose another --out, or remove it"
                );
                Err(TrainerError::content(&path, text))
            };
        }
        let text = serde_json::to_string(self).map_err(|e| TrainerError::content(&path, e))?;
        files::replace(&path, (text + "\n").as_bytes()).map_err(TrainerError::file(&path))
    }

    /// Returns the differences in words. The text is empty if there are none.
    fn differences(&self, other: &Self) -> String {
        sentence(&self.inputs().differences(&other.inputs()))
    }

    fn inputs(&self) -> StageInputs {
        StageInputs::default().with("plan", &self.common)
    }

    /// Returns game, seed and repetition of every episode.
    fn episodes(&self) -> Vec<(&AssignedGame, u64, usize)> {
        let round = Round {
            repetitions: self.common.repetitions,
            seed: self.common.seed,
            pool: Concurrency::default(),
            shard: self.shard,
        };
        let mut episodes = Vec::new();
        for repetition in 0..round.repetitions {
            for (position, game) in self.games.iter().enumerate() {
                let index = self.shard.index() + position * self.shard.count();
                episodes.push((game, episode_seed(&round, index, repetition), repetition));
            }
        }
        episodes
    }
}

/// A whole store that was merged from shards' stores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// The store.
    pub store: PathBuf,
    /// Number of its episodes.
    pub episodes: usize,
    /// Number of its won episodes.
    pub successes: usize,
    /// The stores that it was merged from. They are not deleted.
    pub shards: Vec<PathBuf>,
}

/// Merges shards' stores, each round into its whole store. Every episode of every shard's assignment must
/// exist exactly once, played by one policy under one protocol on one list of games. The whole store is
/// written in one step. If it already exists, it is replaced only if all its episodes are among the merged
/// ones.
///
/// # Errors
/// [`TrainerError::Incomplete`] names the missing episodes. Other errors if stores do not fit together,
/// cannot be read or are being written, or if the whole store has other episodes.
pub fn merge(stores: &[PathBuf]) -> Result<Vec<Merged>, TrainerError> {
    let mut rounds: BTreeMap<PathBuf, BTreeMap<Shard, PathBuf>> = BTreeMap::new();
    for store in stores {
        let (whole, shard) = whole_of(store).ok_or_else(|| {
            let reason =
                "is not a shard's store\nhint: such stores are named NAME.shard-I-of-N.jsonl";
            TrainerError::content(store, reason)
        })?;
        rounds
            .entry(whole)
            .or_default()
            .insert(shard, store.clone());
    }
    rounds
        .into_iter()
        .map(|(whole, parts)| merge_round(whole, &parts))
        .collect()
}

fn merge_round(whole: PathBuf, parts: &BTreeMap<Shard, PathBuf>) -> Result<Merged, TrainerError> {
    let counts: BTreeSet<usize> = parts.keys().map(|shard| shard.count()).collect();
    let &[count] = counts.iter().copied().collect::<Vec<_>>().as_slice() else {
        let reason = format!(
            "there are shards of {counts:?}: all shards of a round must have the same N\nhint: name the stores of one N"
        );
        return Err(TrainerError::content(&whole, reason));
    };
    let mut missing: Vec<String> = (0..count)
        .filter_map(|index| Shard::new(index, count).ok())
        .filter(|shard| !parts.contains_key(shard))
        .map(|shard| format!("{} is not there", shard.store(&whole).display()))
        .collect();
    let mut locks = Vec::new();
    let mut episodes = Vec::new();
    let mut first: Option<(Assignment, &Path)> = None;
    for (shard, store) in parts {
        let plan = assignment(*shard, store)?;
        if let Some((first, other)) = &first {
            let differences = plan.differences(first);
            if !differences.is_empty() {
                return Err(TrainerError::content(
                    store,
                    format!("does not fit {}: {differences}", other.display()),
                ));
            }
        }
        let (lock, played) = Store::open(store)?;
        missing.extend(check(store, &plan, &played)?);
        episodes.extend(played);
        locks.push(lock);
        first.get_or_insert((plan, store));
    }
    if !missing.is_empty() {
        return Err(TrainerError::Incomplete {
            store: whole,
            missing,
        });
    }
    sort(&mut episodes);
    write_whole(&whole, &episodes)?;
    let successes = episodes.iter().filter(|episode| episode.is_won()).count();
    Ok(Merged {
        store: whole,
        episodes: episodes.len(),
        successes,
        shards: parts.values().cloned().collect(),
    })
}

/// Reads the assignment beside a shard's store.
fn assignment(shard: Shard, store: &Path) -> Result<Assignment, TrainerError> {
    Assignment::read(store)?
        .filter(|plan| plan.shard == shard)
        .ok_or_else(|| {
            let reason = format!(
                "{} does not contain this shard's games\nhint: restore that file; `hearth loop` merges the shards of a run itself",
                Assignment::path(store).display()
            );
            TrainerError::content(store, reason)
        })
}

/// Returns a text about the episodes that a shard lacks, or `None` if it has all.
///
/// # Errors
/// If an episode occurs twice, is not in the assignment, or was played by another policy or protocol.
fn check(
    store: &Path,
    plan: &Assignment,
    played: &[Trajectory],
) -> Result<Option<String>, TrainerError> {
    let mut open: BTreeMap<(&str, u64), (&str, usize)> = plan
        .episodes()
        .into_iter()
        .map(|(game, seed, repetition)| {
            ((game.hash.as_str(), seed), (game.id.as_str(), repetition))
        })
        .collect();
    let all = open.len();
    let SharedPlan {
        policy,
        value_policy,
        protocol,
        ..
    } = &plan.common;
    for episode in played {
        let is_of_plan = (&episode.policy, &episode.value_policy, &episode.protocol)
            == (policy, value_policy, protocol);
        let problem = if !is_of_plan {
            "was played by another policy or protocol than its plan says"
        } else if open
            .remove(&(episode.game_hash.as_str(), episode.seed))
            .is_none()
        {
            "is listed twice, or is not in its plan"
        } else {
            continue;
        };
        let reason = format!(
            "{} repetition {} {problem}",
            episode.game, episode.repetition
        );
        return Err(TrainerError::content(store, reason));
    }
    if open.is_empty() {
        return Ok(None);
    }
    let mut names: Vec<String> = open
        .values()
        .take(5)
        .map(|(id, repetition)| format!("{id} repetition {repetition}"))
        .collect();
    if open.len() > names.len() {
        names.push("…".into());
    }
    Ok(Some(format!(
        "{} lacks {} of {all} episodes: {}",
        store.display(),
        open.len(),
        names.join(", ")
    )))
}

/// Writes the merged store. If the file exists with an episode that the shards do not have, it is kept and an
/// error is returned.
fn write_whole(whole: &Path, episodes: &[Trajectory]) -> Result<(), TrainerError> {
    if whole.exists() {
        let (_lock, before) = Store::open(whole)?;
        let merged: BTreeMap<(&str, u64), &Trajectory> = episodes
            .iter()
            .map(|e| ((e.game_hash.as_str(), e.seed), e))
            .collect();
        if let Some(other) = before.iter().find(|old| {
            merged
                .get(&(old.game_hash.as_str(), old.seed))
                .is_none_or(|new| digest(old) != digest(new))
        }) {
            let reason = format!(
                "holds another episode of {} than the shards\nhint: move it away",
                other.game
            );
            return Err(TrainerError::content(whole, reason));
        }
    }
    write_store(whole, episodes)
}

/// Returns the hash of an episode without its duration.
///
/// The hash is computed over the field names that logs had before `perturbed` and `scorer` were renamed, so that an
/// episode keeps its hash. Quotes inside a JSON string are escaped, so only field names can match.
#[must_use]
pub fn digest(episode: &Trajectory) -> String {
    let timeless = Trajectory {
        seconds: 0.0,
        ..episode.clone()
    };
    let json = serde_json::to_string(&timeless).expect("a trajectory is plain data");
    let json = json
        .replace("\"perturbed\":", "\"astray\":")
        .replace("\"scorer\":", "\"chosen_by\":");
    hex_sha256(json.as_bytes())
}

/// Returns the hash of episodes. It does not depend on their order: they are hashed in the order of an
/// undivided round.
#[must_use]
pub fn episodes_hash(episodes: &[Trajectory]) -> String {
    let mut lines: Vec<(usize, u64, String)> = episodes
        .iter()
        .map(|episode| (episode.repetition, episode.seed, digest(episode)))
        .collect();
    lines.sort();
    hex_sha256(
        lines
            .into_iter()
            .map(|(_, _, digest)| digest)
            .collect::<String>()
            .as_bytes(),
    )
}
