//! The contents of a run folder or an eval folder, for audits: measured episodes, cards, the games that were
//! learned from, and the suite.

use crate::error::TrainerError;
use crate::measure::audit::{Evidence, MeasuredEpisodes, TrainingGame};
use crate::measure::card::{CARDS, LINEAGE, Lineage, Sheets, UNKNOWN, checkpoint_rule, run_of};
use crate::pipeline::recipe::{GamesRecipe, Recipe};
use crate::pipeline::shard::whole_of;
use crate::pipeline::stages::holds_demonstrations;
use scenarios::store::Store;
use scenarios::{Suite, Trajectory};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The contents of a folder that an audit examines.
#[derive(Debug, Default)]
pub struct Folder {
    stores: Vec<(String, Vec<Trajectory>)>,
    sheets: Sheets,
    learned: Vec<TrainingGame>,
    lineages: Vec<(String, Lineage)>,
    suite: Option<Suite>,
}

impl Folder {
    /// Reads an eval folder or the folder of a run. Of a run, the stores that were learned from and the suite
    /// are read too. Of an eval folder, the run of its model is read if it still exists. `training` are
    /// additional stores that were learned from. `suite` replaces the run's suite.
    ///
    /// # Errors
    /// If the folder is neither, or if a file cannot be read.
    pub fn open(
        folder: &Path,
        suite: Option<&Path>,
        training: &[PathBuf],
    ) -> Result<Self, TrainerError> {
        let mut found = Self {
            sheets: Sheets::open(folder)?,
            ..Self::default()
        };
        let names = measured_stores(folder)?;
        if names.is_empty() {
            let reason = format!(
                "neither an eval folder nor a run: no episodes-k*.jsonl, no */eval/*.jsonl, no {CARDS}"
            );
            return Err(TrainerError::content(folder, reason));
        }
        for name in names {
            let episodes = Store::read(folder.join(&name))?;
            found.stores.push((name, episodes));
        }
        for card in &found.sheets.cards {
            let lineage = Lineage::open(Path::new(&card.policy))?;
            found
                .lineages
                .extend(lineage.map(|lineage| (card.policy.clone(), lineage)));
        }
        let run = if folder.join("recipe.toml").exists() {
            Some(folder.to_path_buf())
        } else {
            found.run_of_models()
        };
        if let Some(run) = run {
            found.read_run(&run)?;
        }
        for path in training {
            found.learned.extend(learned(path)?);
        }
        if let Some(path) = suite {
            found.suite = Some(Suite::open(path)?);
        }
        found.learned.sort_unstable();
        found.learned.dedup();
        Ok(found)
    }

    /// Returns the run whose models were measured.
    fn run_of_models(&self) -> Option<PathBuf> {
        self.sheets
            .cards
            .iter()
            .find_map(|card| run_of(Path::new(&card.policy)))
    }

    fn read_run(&mut self, run: &Path) -> Result<(), TrainerError> {
        self.learned.extend(learned_in_run(run)?);
        for (name, model) in models(run) {
            self.lineages
                .extend(Lineage::open(&model)?.map(|lineage| (name, lineage)));
        }
        let manifest = run.join(scenarios::suite::MANIFEST);
        let suite = match Recipe::open(&run.join("recipe.toml"))?.games {
            _ if manifest.exists() => manifest,
            GamesRecipe::Folder { path, .. } => path,
            GamesRecipe::Household { .. } => return Ok(()),
        };
        if suite.exists() {
            self.suite = Some(Suite::open(suite)?);
        }
        Ok(())
    }

    /// Returns the input of [`crate::measure::audit::audit`].
    #[must_use]
    pub fn evidence(&self) -> Evidence<'_> {
        let measured = self.stores.iter().map(|(name, episodes)| MeasuredEpisodes {
            name,
            episodes,
            card: self
                .sheets
                .cards
                .iter()
                .find(|card| card.store == Path::new(name)),
        });
        Evidence {
            measured: measured.collect(),
            learned: &self.learned,
            lineages: &self.lineages,
            suite: self.suite.as_ref(),
        }
    }
}

/// Returns how the checkpoint in a model's folder was selected: from the folder's lineage, or else from the
/// recipe of its run. If neither exists, returns [`UNKNOWN`].
///
/// # Errors
/// If a file is damaged.
pub fn checkpoint_of(model: &Path) -> Result<String, TrainerError> {
    if let Some(lineage) = Lineage::open(model)? {
        return Ok(lineage.checkpoint);
    }
    let Some(run) = run_of(model) else {
        return Ok(UNKNOWN.into());
    };
    let recipe = Recipe::open(&run.join("recipe.toml"))?;
    let job = recipe.jobs.iter().find(|job| {
        model
            .file_name()
            .is_some_and(|name| name == job.name.as_str())
    });
    Ok(job.map_or(UNKNOWN, checkpoint_rule).into())
}

/// Returns the games of the stores that a run's jobs read.
///
/// # Errors
/// If a store cannot be read.
pub fn learned_in_run(run: &Path) -> Result<Vec<TrainingGame>, TrainerError> {
    let mut paths: Vec<PathBuf> = entries(run)
        .into_iter()
        .filter(|path| {
            is_jsonl(path)
                && holds_demonstrations(&path.file_stem().unwrap_or_default().to_string_lossy())
        })
        .collect();
    paths.extend(iterations(run).map(|iteration| iteration.join("rollouts.jsonl")));
    let mut games = BTreeSet::new();
    for path in paths.iter().filter(|path| path.exists()) {
        games.extend(learned(path)?);
    }
    Ok(games.into_iter().collect())
}

/// Returns the games of a store. Of each episode, only the fields that identify its game are parsed.
fn learned(path: &Path) -> Result<Vec<TrainingGame>, TrainerError> {
    let lines = BufReader::new(File::open(path).map_err(TrainerError::file(path))?).lines();
    let mut games = BTreeSet::new();
    let mut torn: Option<(usize, serde_json::Error)> = None;
    for (index, line) in lines.enumerate() {
        let line = line.map_err(TrainerError::file(path))?;
        if let Some((line, error)) = torn {
            return Err(TrainerError::content(path, format!("line {line}: {error}")));
        }
        match serde_json::from_str(&line) {
            Ok(game) => {
                games.insert(game);
            }
            Err(error) => torn = Some((index + 1, error)), // a crash can cut off the last line
        }
    }
    Ok(games.into_iter().collect())
}

/// Returns the folders of a run's iterations: `RUN/1`, `RUN/2` and so on.
fn iterations(run: &Path) -> impl Iterator<Item = PathBuf> {
    let run = run.to_path_buf();
    (1..)
        .map(move |iteration: usize| run.join(iteration.to_string()))
        .take_while(|folder| folder.is_dir())
}

/// Returns the model folders of a run, each with its path below the run.
fn models(run: &Path) -> Vec<(String, PathBuf)> {
    let mut models = Vec::new();
    for folder in iterations(run).flat_map(|iteration| entries(&iteration)) {
        if folder.join(LINEAGE).exists() {
            let name = folder
                .strip_prefix(run)
                .unwrap_or(&folder)
                .display()
                .to_string();
            models.push((name, folder));
        }
    }
    models
}

/// Returns the stores with the measured episodes of an eval folder or a run, as paths below the folder.
///
/// # Errors
/// If the folder cannot be read.
pub fn measured_stores(folder: &Path) -> Result<Vec<String>, TrainerError> {
    std::fs::read_dir(folder).map_err(TrainerError::file(folder))?;
    let of_eval = entries(folder).into_iter().filter(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("episodes-"))
    });
    let of_run = iterations(folder).flat_map(|iteration| entries(&iteration.join("eval")));
    Ok(of_eval
        .chain(of_run)
        .filter(|path| is_jsonl(path) && whole_of(path).is_none())
        .filter_map(|path| Some(path.strip_prefix(folder).ok()?.to_str()?.to_string()))
        .collect())
}

fn is_jsonl(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "jsonl")
}

/// Returns the sorted entries of a folder. If the folder cannot be read, the list is empty.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.sort();
    found
}
