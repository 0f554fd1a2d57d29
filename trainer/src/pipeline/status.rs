//! The progress of a run, stage by stage, from its files alone. Reading it takes no lock and writes nothing, so
//! it is safe while other processes work in the folder.

use crate::error::TrainerError;
use crate::pipeline::lock;
use crate::pipeline::manifest::{self, InputDifference, StageManifest, StagePaths};
use crate::pipeline::practice;
use crate::pipeline::recipe::Recipe;
use crate::pipeline::shard::{parts_of, whole_of};
use crate::pipeline::stages::{Stage, StageOutputs, stages};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The progress of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// It is finished, and its inputs are those that it would have now.
    Done,
    /// A process works on it.
    Running,
    /// It has begun, and no process works on it.
    Partial,
    /// It has not begun.
    Missing,
    /// It was finished or begun with other inputs. It will be moved aside and run again.
    OutOfDate,
    /// The recipe does not contain it. It will be moved aside.
    NotAsked,
}

impl StageState {
    /// Returns the state in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Running => "running",
            Self::Partial => "partial",
            Self::Missing => "missing",
            Self::OutOfDate => "out of date",
            Self::NotAsked => "not asked for",
        }
    }
}

/// The status of one stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageStatus {
    /// The stage's name, for example `1/oreo`.
    pub stage: String,
    /// Its progress.
    pub state: StageState,
    /// Number of episodes played or updates made.
    pub done: usize,
    /// Number of episodes or updates in total. It is 0 if that is not known yet.
    pub of: usize,
    /// `episodes`, `states` (of branches), `updates` or `games`.
    pub unit: &'static str,
    /// The processes on this machine that work on it.
    pub processes: Vec<u32>,
    /// An earlier stage that must finish before this stage's inputs are known.
    pub awaits: Option<String>,
    /// The inputs whose values have changed.
    pub differs: Vec<InputDifference>,
    /// What each shard has played, if several play the stage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardStatus>,
    /// Seconds until the stage is finished, if it goes on as fast as it has since its first episode. `None` if that
    /// is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// What one shard has played of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShardStatus {
    /// The shard, for example `1/4`.
    pub shard: String,
    /// Number of episodes in its store.
    pub done: usize,
    /// Seconds since its last episode, by this machine's clock.
    pub quiet_seconds: u64,
}

impl StageStatus {
    fn missing(stage: String, unit: &'static str) -> Self {
        Self {
            stage,
            state: StageState::Missing,
            done: 0,
            of: 0,
            unit,
            processes: Vec::new(),
            awaits: None,
            differs: Vec::new(),
            shards: Vec::new(),
            seconds_left: None,
        }
    }
}

/// Returns the status of a recipe's run in a folder: the recipe's stages in their order, then stages in the
/// folder that the recipe does not contain. If the folder does not exist, all stages are missing.
///
/// # Errors
/// If a manifest is damaged, or the folder or a practice suite cannot be read.
///
/// # Panics
/// If the recipe names a job that does not exist, which [`Recipe::check`] refuses.
pub fn status(recipe: &Recipe, run: &Path) -> Result<Vec<StageStatus>, TrainerError> {
    let processes = if run.exists() {
        lock::holders(run)?
    } else {
        Vec::new()
    };
    let mut known = KnownStages {
        practice: practice::hash(&practice::open(&recipe.games)?),
        ..KnownStages::default()
    };
    let mut all: Vec<StageStatus> = Vec::new();
    for stage in stages(recipe) {
        let mut status = known.add(stage, recipe, run)?;
        let is_next = all.iter().all(|before| before.state == StageState::Done);
        if is_next
            && matches!(status.state, StageState::Partial | StageState::Missing)
            && !processes.is_empty()
        {
            status.state = StageState::Running;
            status.processes.clone_from(&processes);
        }
        let paths = stage.paths(recipe, run);
        if is_next && stage.is_played() && paths.path().parent().is_some_and(Path::exists) {
            status.shards = shards(&paths.file("jsonl"))?;
            status.seconds_left = seconds_left(&status, &paths);
        }
        all.push(status);
    }
    for paths in manifest::all(run)? {
        if !known.names_on_disk.contains(paths.stage()) {
            all.push(not_asked(&paths)?);
        }
    }
    Ok(all)
}

/// The status of an output that the recipe does not contain.
fn not_asked(paths: &StagePaths) -> Result<StageStatus, TrainerError> {
    let name = paths.stage().to_string();
    let mut status = if paths.path().is_dir() {
        StageStatus {
            done: updates(paths),
            ..StageStatus::missing(name, "updates")
        }
    } else {
        StageStatus {
            done: episodes(paths)?,
            ..StageStatus::missing(name, "episodes")
        }
    };
    status.state = StageState::NotAsked;
    status.of = paths.manifest()?.map_or(0, |manifest| manifest.expected);
    Ok(status)
}

/// The stages before the next one, as far as they decide its status.
#[derive(Default)]
struct KnownStages {
    /// The hash over the practice suites, if the recipe has any.
    practice: Option<String>,
    /// Outputs of the stages that are done.
    outputs: StageOutputs,
    /// Stages that are out of date.
    stale: BTreeSet<Stage>,
    /// The names that the stages' files have.
    names_on_disk: BTreeSet<String>,
}

impl KnownStages {
    /// Returns the status of the next stage.
    fn add(
        &mut self,
        stage: Stage,
        recipe: &Recipe,
        run: &Path,
    ) -> Result<StageStatus, TrainerError> {
        let paths = stage.paths(recipe, run);
        self.names_on_disk.insert(paths.stage().to_string());
        let name = stage.name(recipe);
        let mut status = match stage {
            Stage::Games => StageStatus::missing(name, "games"),
            Stage::Train { .. } => StageStatus {
                done: updates(&paths),
                ..StageStatus::missing(name, "updates")
            },
            Stage::Branch { .. } => StageStatus {
                done: episodes(&paths)?,
                ..StageStatus::missing(name, "states")
            },
            _ => StageStatus {
                done: episodes(&paths)?,
                ..StageStatus::missing(name, "episodes")
            },
        };
        let inputs = stage.inputs(recipe, &self.outputs);
        let Some(manifest) = paths.manifest()? else {
            status.awaits = inputs.err().map(|earlier| earlier.name(recipe));
            if paths.is_unsigned()? {
                status.state = StageState::Partial; // a run of the first versions, without manifests
            }
            return Ok(status);
        };
        status.of = manifest.expected;
        if stage == Stage::Games {
            status.done = manifest.expected;
        }
        status.state = match inputs {
            Ok(inputs) if inputs.hash() == manifest.inputs_hash => state(&paths, &manifest),
            Ok(inputs) => {
                status.differs = inputs.differences(&manifest.inputs);
                StageState::OutOfDate
            }
            Err(earlier) => {
                status.awaits = Some(earlier.name(recipe));
                if self.stale.contains(&earlier) {
                    StageState::OutOfDate
                } else {
                    state(&paths, &manifest)
                }
            }
        };
        match status.state {
            StageState::Done => {
                let mut output = manifest.output;
                if stage == Stage::Games {
                    output.practice.clone_from(&self.practice);
                }
                self.outputs.insert(stage, output);
            }
            StageState::OutOfDate => {
                self.stale.insert(stage);
            }
            _ => {}
        }
        Ok(status)
    }
}

fn state(paths: &StagePaths, manifest: &StageManifest) -> StageState {
    if paths.is_whole(manifest) {
        StageState::Done
    } else {
        StageState::Partial
    }
}

/// Returns what each shard has played of a stage, in the order of the shards.
fn shards(whole: &Path) -> Result<Vec<ShardStatus>, TrainerError> {
    let mut shards = Vec::new();
    for store in parts_of(whole)? {
        let Some((_, shard)) = whole_of(&store) else {
            continue;
        };
        let quiet = seconds_since_change(&store).unwrap_or(0.0);
        shards.push((
            shard,
            ShardStatus {
                shard: shard.to_string(),
                done: std::fs::read(&store).map_or(0, |bytes| lines(&bytes)),
                quiet_seconds: quiet as u64,
            },
        ));
    }
    shards.sort_by_key(|(shard, _)| *shard);
    Ok(shards.into_iter().map(|(_, status)| status).collect())
}

fn seconds_since_change(path: &Path) -> Option<f64> {
    let changed = std::fs::metadata(path).ok()?.modified().ok()?;
    Some(changed.elapsed().unwrap_or_default().as_secs_f64())
}

/// Returns the seconds until all episodes of a stage that is being played are there, if it goes on as fast as it has
/// since its manifest was written.
fn seconds_left(status: &StageStatus, paths: &StagePaths) -> Option<u64> {
    if status.state != StageState::Running || status.done == 0 {
        return None;
    }
    let begun = seconds_since_change(&paths.file("stage.json"))?;
    let left = status.of.checked_sub(status.done)?;
    Some((begun * left as f64 / status.done as f64).ceil() as u64)
}

/// Returns the number of rows of the metrics.
fn updates(paths: &StagePaths) -> usize {
    std::fs::read(paths.file("metrics.csv")).map_or(0, |bytes| lines(&bytes).saturating_sub(1))
}

/// Returns the number of complete lines of the store, and of shards' stores that are not merged yet.
fn episodes(paths: &StagePaths) -> Result<usize, TrainerError> {
    let whole = paths.file("jsonl");
    if whole.parent().is_none_or(|folder| !folder.exists()) {
        return Ok(0);
    }
    let stores = parts_of(&whole)?.into_iter().chain([whole]);
    Ok(stores
        .map(|store| std::fs::read(store).map_or(0, |bytes| lines(&bytes)))
        .sum())
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Returns the number of stages in each state.
#[must_use]
pub fn counts(all: &[StageStatus]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for status in all {
        *counts.entry(status.state.name()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::manifest::{Claimed, OutputForm, StageOutput};
    use crate::pipeline::recipe::DaggerRecipe;

    /// A run of an earlier version calls the episodes of the expert with a student `guided-STUDENT`. They
    /// belong to the recipe, and the jobs that read them are up to date.
    #[test]
    fn dagger_episodes_under_their_old_name_are_done() {
        let mut recipe = Recipe::quickstart();
        recipe.dagger.push(DaggerRecipe {
            student: "sft".into(),
            games: 4,
            repetitions: 1,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
        });
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path();
        let mut outputs = StageOutputs::new();
        for stage in &stages(&recipe)[..4] {
            let paths = match stage {
                Stage::Dagger { .. } => StagePaths::new(run, "guided-sft", OutputForm::Files),
                _ => stage.paths(&recipe, run),
            };
            let inputs = stage.inputs(&recipe, &outputs).expect("in order");
            let Claimed::Begun(manifest) = paths.claim(inputs, "code", &|_| {}).expect("claims")
            else {
                panic!("nothing is done")
            };
            let output = StageOutput {
                suite: Some("suite".into()),
                episodes: Some("episodes".into()),
                policy: Some("policy".into()),
                practice: None,
                value: None,
            };
            outputs.insert(*stage, output.clone());
            paths.finish(manifest, output, &[]).expect("finishes");
        }
        assert_eq!(
            outputs.len(),
            4,
            "games, demonstrations, sft and the student's"
        );
        let all = status(&recipe, run).expect("reads");
        let dagger = all
            .iter()
            .find(|status| status.stage == "dagger-sft")
            .expect("it is a stage of the recipe");
        assert_eq!(dagger.state, StageState::Done);
        assert_eq!(counts(&all).get("not asked for"), None);
    }
}
