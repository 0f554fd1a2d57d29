//! How far a run is, stage by stage, from its files alone: takes no lock and writes nothing, while others work there.

use crate::error::TrainerError;
use crate::pipeline::lock;
use crate::pipeline::manifest::{self, Difference, StageManifest, StagePaths};
use crate::pipeline::recipe::Recipe;
use crate::pipeline::shard::parts_of;
use crate::pipeline::stages::{Stage, StageOutputs, steps};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Finished, with the inputs that it would have now.
    Done,
    /// A process works on it.
    Running,
    /// It was begun, and nobody works on it.
    Partial,
    /// It was not begun.
    Missing,
    /// Finished or begun with other inputs: it will be moved aside and done anew.
    OutOfDate,
    /// The recipe names it no more: it will be moved aside.
    NotAsked,
}

/// A stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageStatus {
    /// Its name, as `1/oreo`.
    pub stage: String,
    /// How far it is.
    pub state: State,
    /// Episodes played or updates made.
    pub done: usize,
    /// Of how many; 0 where it is not known yet.
    pub of: usize,
    /// `episodes`, `updates` or `games`.
    pub unit: &'static str,
    /// Who works on it, on this machine.
    pub processes: Vec<u32>,
    /// An earlier stage that must be done before this one's inputs are known.
    pub awaits: Option<String>,
    /// Which inputs are not what they were.
    pub differs: Vec<Difference>,
}

/// How far a recipe's run in a folder is: its stages in their order, then those that the recipe names no more.
///
/// # Errors
/// When a manifest is damaged or the folder cannot be read; one that is not there holds nothing.
pub fn status(recipe: &Recipe, run: &Path) -> Result<Vec<StageStatus>, TrainerError> {
    let processes = if run.exists() {
        lock::holders(run)?
    } else {
        Vec::new()
    };
    let (mut outcomes, mut stale) = (StageOutputs::new(), BTreeSet::new());
    let mut all = Vec::new();
    for step in steps(recipe) {
        let mut status = look(&step, recipe, run, &mut outcomes, &stale)?;
        if status.state == State::OutOfDate {
            stale.insert(status.stage.clone());
        }
        let is_next = all
            .iter()
            .all(|before: &StageStatus| before.state == State::Done);
        if is_next
            && matches!(status.state, State::Partial | State::Missing)
            && !processes.is_empty()
        {
            (status.state, status.processes) = (State::Running, processes.clone());
        }
        all.push(status);
    }
    let asked: BTreeSet<String> = all.iter().map(|status| status.stage.clone()).collect();
    for place in manifest::all(run)?
        .into_iter()
        .filter(|place| !asked.contains(place.stage()))
    {
        let of = place.manifest()?.map_or(0, |manifest| manifest.expected);
        let unit = if place.path().is_dir() {
            "updates"
        } else {
            "episodes"
        };
        let done = if unit == "updates" {
            updates(&place)
        } else {
            episodes(&place)?
        };
        all.push(StageStatus {
            state: State::NotAsked,
            done,
            of,
            ..plain(place.stage().into(), unit)
        });
    }
    Ok(all)
}

fn plain(stage: String, unit: &'static str) -> StageStatus {
    let (processes, differs) = (Vec::new(), Vec::new());
    StageStatus {
        stage,
        state: State::Missing,
        done: 0,
        of: 0,
        unit,
        processes,
        awaits: None,
        differs,
    }
}

fn look(
    step: &Stage,
    recipe: &Recipe,
    run: &Path,
    outcomes: &mut StageOutputs,
    stale: &BTreeSet<String>,
) -> Result<StageStatus, TrainerError> {
    let unit = match step {
        Stage::Games => "games",
        Stage::Train { .. } => "updates",
        _ => "episodes",
    };
    let (place, mut status) = (step.place(recipe, run), plain(step.name(recipe), unit));
    status.done = match step {
        Stage::Games => 0,
        Stage::Train { .. } => updates(&place),
        _ => episodes(&place)?,
    };
    let Some(manifest) = place.manifest()? else {
        status.awaits = step.inputs(recipe, outcomes).err();
        if place.is_unsigned()? {
            status.state = State::Partial; // of a run that an earlier hearth began
        }
        return Ok(status);
    };
    status.of = manifest.expected;
    if *step == Stage::Games {
        status.done = manifest.expected;
    }
    status.state = match step.inputs(recipe, outcomes) {
        Ok(inputs) if inputs.hash() == manifest.inputs_hash => state(&place, &manifest),
        Ok(inputs) => {
            status.differs = inputs.differences(&manifest.inputs);
            State::OutOfDate
        }
        Err(earlier) => {
            let is_stale = stale.contains(&earlier);
            status.awaits = Some(earlier);
            if is_stale {
                State::OutOfDate
            } else {
                state(&place, &manifest)
            }
        }
    };
    if status.state == State::Done {
        outcomes.insert(status.stage.clone(), manifest.outcome);
    }
    Ok(status)
}

fn state(place: &StagePaths, manifest: &StageManifest) -> State {
    if place.is_whole(manifest) {
        State::Done
    } else {
        State::Partial
    }
}

/// Rows of the metrics.
fn updates(place: &StagePaths) -> usize {
    std::fs::read(place.file("metrics.csv")).map_or(0, |bytes| lines(&bytes).saturating_sub(1))
}

/// Whole lines of the store, and of shards' stores that are not merged yet.
fn episodes(place: &StagePaths) -> Result<usize, TrainerError> {
    let whole = place.file("jsonl");
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

/// How many stages are in each state.
#[must_use]
pub fn counts(all: &[StageStatus]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for status in all {
        *counts.entry(status.state.name()).or_default() += 1;
    }
    counts
}

impl State {
    /// In words.
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
