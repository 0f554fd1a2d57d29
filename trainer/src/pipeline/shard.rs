//! Episodes shared out among processes that know nothing of each other but a folder: shard `i` of `n`, counted from 0,
//! plays the games whose place modulo `n` is `i`, into a store of its own, and [`merge`] makes the whole of the parts.
//!
//! An episode's seed comes from its game's place among *all* games, so it is the same whoever plays it. Beside its store
//! `NAME.shard-I-of-N.jsonl` a shard writes down what it has to play, `NAME.shard-I-of-N.plan.json`; merging holds the
//! stores to these plans, and the merged episodes stand in the order in which [`crate::measure::evaluate::play_round`] returns
//! them.

use crate::error::TrainerError;
use crate::measure::evaluate::{Round, episode_seed};
use crate::pipeline::manifest::{StageInputs, sentence};
use agent::policy::Policy;
use agent::rollout::Concurrency;
use scenarios::store::Store;
use scenarios::suite::hex_sha256;
use scenarios::{Protocol, Task, Trajectory, files};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A share of the games.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// All games.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Shard `index`, from 0, of `of`.
    ///
    /// # Errors
    /// When there is no such shard.
    pub fn new(index: usize, of: usize) -> Result<Self, String> {
        if index < of {
            Ok(Self { index, of })
        } else {
            Err(format!(
                "shard {index} of {of}: shards count from 0 to n - 1"
            ))
        }
    }

    /// Which one, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// Whether there are others.
    #[must_use]
    pub fn is_part(self) -> bool {
        self.of > 1
    }

    /// Whether it learns and merges for all.
    #[must_use]
    pub fn leads(self) -> bool {
        self.index == 0
    }

    /// Whether the game at that place is its own.
    #[must_use]
    pub fn holds(self, place: usize) -> bool {
        place % self.of == self.index
    }

    /// Its store beside the whole one: `rollouts.shard-2-of-4.jsonl` for `rollouts.jsonl`; the whole one where there are
    /// no others.
    #[must_use]
    pub fn store(self, whole: &Path) -> PathBuf {
        let Self { index, of } = self;
        if self.is_part() {
            whole.with_extension(format!("shard-{index}-of-{of}.jsonl"))
        } else {
            whole.into()
        }
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, of) = numbers.ok_or_else(|| format!("`{text}` is not I/N, as 0/4"))?;
        Self::new(index, of)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// The whole store that a shard's belongs to, and the shard; `None` for another file.
#[must_use]
pub fn whole_of(part: &Path) -> Option<(PathBuf, Shard)> {
    let name = part.file_name()?.to_str()?.strip_suffix(".jsonl")?;
    let (stem, shard) = name.rsplit_once(".shard-")?;
    let (index, of) = shard.split_once("-of-")?;
    let shard = Shard::new(index.parse().ok()?, of.parse().ok()?).ok()?;
    Some((part.with_file_name(format!("{stem}.jsonl")), shard))
}

/// The shards' stores of a whole store that are there, whatever their number.
///
/// # Errors
/// When the folder cannot be read.
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

/// All shards' stores of a folder.
///
/// # Errors
/// When the folder cannot be read.
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

/// Puts episodes into the order of an undivided round: all games once, then all again. Their seeds follow the games'
/// places.
pub fn sort(episodes: &mut [Trajectory]) {
    episodes.sort_by_key(|episode| (episode.repetition, episode.seed));
}

/// Writes a store of these episodes, at once or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_store(path: &Path, episodes: &[Trajectory]) -> Result<(), TrainerError> {
    let mut bytes = Vec::new();
    for episode in episodes {
        serde_json::to_writer(&mut bytes, episode).map_err(|e| TrainerError::content(path, e))?;
        bytes.push(b'\n');
    }
    files::replace(path, &bytes).map_err(TrainerError::file(path))
}

/// What a shard has to play.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Assignment {
    shard: Shard,
    common: Common,
    /// The shard's games, in order.
    games: Vec<Game>,
}

/// What all shards of a round have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Common {
    policy: String,
    value_policy: Option<String>,
    protocol: Protocol,
    seed: u64,
    repetitions: usize,
    /// How many games there are in all shards.
    games: usize,
    /// Hash of them, in order.
    games_hash: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Game {
    id: String,
    hash: String,
}

impl Assignment {
    pub(crate) fn new<P: Policy>(
        policy: &P,
        tasks: &[&Task],
        protocol: &Protocol,
        round: Round,
    ) -> Self {
        let line = |task: &&Task| format!("{}\t{}\t{}\n", task.split, task.id, task.hash);
        let common = Common {
            policy: policy.name(),
            value_policy: policy.value_name(),
            protocol: protocol.clone(),
            seed: round.seed,
            repetitions: round.repetitions,
            games: tasks.len(),
            games_hash: hex_sha256(tasks.iter().map(line).collect::<String>().as_bytes()),
        };
        let mine = tasks
            .iter()
            .enumerate()
            .filter(|(place, _)| round.shard.holds(*place));
        let games = mine
            .map(|(_, task)| Game {
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

    /// Writes the plan beside the store, or makes sure that the one there is the same.
    pub(crate) fn claim(&self, store: &Path) -> Result<(), TrainerError> {
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

    /// In words; empty where there are none.
    fn differences(&self, other: &Self) -> String {
        let of = |plan: &Self| StageInputs::default().with("plan", &plan.common);
        sentence(&of(self).differences(&of(other)))
    }

    /// Game, seed and repetition of every episode.
    fn episodes(&self) -> impl Iterator<Item = (&Game, u64, usize)> {
        let Common {
            seed, repetitions, ..
        } = self.common;
        let round = Round {
            repetitions,
            seed,
            pool: Concurrency::default(),
            shard: self.shard,
        };
        let place = move |index: usize| self.shard.index + index * self.shard.of;
        (0..repetitions).flat_map(move |repetition| {
            let games = self.games.iter().enumerate();
            games.map(move |(index, game)| {
                (
                    game,
                    episode_seed(&round, place(index), repetition),
                    repetition,
                )
            })
        })
    }
}

/// A whole store that was made of shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// The store.
    pub store: PathBuf,
    /// Its episodes.
    pub episodes: usize,
    /// How many of them were won.
    pub successes: usize,
    /// The stores that it was made of; they stay.
    pub shards: Vec<PathBuf>,
}

/// Merges shards' stores, each round into its whole store: every episode of every shard's plan must be there exactly once,
/// played by one policy under one protocol on one list of games. The whole store is written at once or not at all, and
/// one that is there is only replaced where all its episodes are among the merged ones.
///
/// # Errors
/// [`TrainerError::Incomplete`] names what is missing; otherwise when stores do not fit together, cannot be read, are
/// being written, or the whole one holds something else.
pub fn merge(stores: &[PathBuf]) -> Result<Vec<Merged>, TrainerError> {
    let mut rounds: BTreeMap<PathBuf, BTreeMap<Shard, PathBuf>> = BTreeMap::new();
    for store in stores {
        let (whole, shard) = whole_of(store).ok_or_else(|| {
            let reason = "is no shard's store\nhint: they are named NAME.shard-I-of-N.jsonl";
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
    let of: BTreeSet<usize> = parts.keys().map(|shard| shard.of).collect();
    let &[of] = of.iter().copied().collect::<Vec<_>>().as_slice() else {
        let reason = format!(
            "there are shards of {of:?}: one round is shared out in one way\nhint: name the stores of one"
        );
        return Err(TrainerError::content(&whole, reason));
    };
    let mut missing: Vec<String> = (0..of)
        .map(|index| Shard { index, of })
        .filter(|shard| !parts.contains_key(shard))
        .map(|shard| format!("{} is not there", shard.store(&whole).display()))
        .collect();
    let (mut locks, mut episodes) = (Vec::new(), Vec::new());
    let mut first: Option<(Assignment, &Path)> = None;
    for (shard, store) in parts {
        let plan = Assignment::read(store)?.filter(|plan| plan.shard == *shard).ok_or_else(|| {
            let name = Assignment::path(store).display().to_string();
            TrainerError::content(store, format!("{name} does not say what this shard has to play\nhint: bring it back; a run of `hearth loop` merges its shards itself"))
        })?;
        if let Some((first, of)) = &first {
            let differences = plan.differences(first);
            if !differences.is_empty() {
                return Err(TrainerError::content(
                    store,
                    format!("does not fit {}: {differences}", of.display()),
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

/// Says what a shard lacks; refuses episodes that are not its own, and doubles.
fn check(
    store: &Path,
    plan: &Assignment,
    played: &[Trajectory],
) -> Result<Option<String>, TrainerError> {
    let mut open: BTreeMap<(&str, u64), (&str, usize)> = plan
        .episodes()
        .map(|(game, seed, repetition)| {
            ((game.hash.as_str(), seed), (game.id.as_str(), repetition))
        })
        .collect();
    let all = open.len();
    let Common {
        policy,
        value_policy,
        protocol,
        ..
    } = &plan.common;
    for episode in played {
        let named = || format!("{} repetition {}", episode.game, episode.repetition);
        if (&episode.policy, &episode.value_policy, &episode.protocol)
            != (policy, value_policy, protocol)
        {
            let reason = format!(
                "{} was played by another policy or protocol than its plan says",
                named()
            );
            return Err(TrainerError::content(store, reason));
        }
        if open
            .remove(&(episode.game_hash.as_str(), episode.seed))
            .is_none()
        {
            let reason = format!("{} stands there twice, or is not in its plan", named());
            return Err(TrainerError::content(store, reason));
        }
    }
    let names: Vec<String> = open
        .values()
        .take(5)
        .map(|(id, repetition)| format!("{id} repetition {repetition}"))
        .collect();
    let more = if open.len() > names.len() {
        ", …"
    } else {
        ""
    };
    let text = || {
        format!(
            "{} lacks {} of {all} episodes: {}{more}",
            store.display(),
            open.len(),
            names.join(", ")
        )
    };
    Ok((!open.is_empty()).then(text))
}

/// Writes the merged store, unless what is there would be lost by it.
fn write_whole(whole: &Path, episodes: &[Trajectory]) -> Result<(), TrainerError> {
    if whole.exists() {
        let (_lock, before) = Store::open(whole)?;
        let same = |a: &Trajectory, b: &Trajectory| digest(a) == digest(b);
        let place: BTreeMap<(&str, u64), &Trajectory> = episodes
            .iter()
            .map(|e| ((e.game_hash.as_str(), e.seed), e))
            .collect();
        let is_kept = |old: &&Trajectory| {
            place
                .get(&(old.game_hash.as_str(), old.seed))
                .is_some_and(|new| same(old, new))
        };
        if let Some(other) = before.iter().find(|old| !is_kept(old)) {
            let reason = format!(
                "holds another episode of {} than the shards\nhint: move it away",
                other.game
            );
            return Err(TrainerError::content(whole, reason));
        }
    }
    write_store(whole, episodes)
}

/// Hash of an episode without its duration.
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

/// Hash of episodes in the order of an undivided round, whatever order they stand in.
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
