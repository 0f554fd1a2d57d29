//! Which stores a command reads: files, and the folders of `loop`, `quickstart` and `eval`.

use crate::ui;
use agent::text::tokenizer::Tokenizer;
use scenarios::{Split, Suite, Trajectory};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use trainer::learn::ranking::tokenize_states;
use trainer::pipeline::practice;
use trainer::pipeline::recipe::GamesRecipe;
use trainer::pipeline::shard::whole_of;
use trainer::pipeline::stages::holds_demonstrations;
use trainer::store::{StoredRecords, is_compacted};

/// A store to read.
pub(crate) struct StoreSource {
    pub(crate) store: PathBuf,
    /// The folder that the user named, if the store was found in one.
    pub(crate) folder: Option<PathBuf>,
}

/// Returns the files and the compacted stores among `paths`, and the stores of the other folders: `demonstrations.jsonl`,
/// `dagger-*.jsonl` (`guided-*.jsonl` in old runs), `episodes-*.jsonl`, and per iteration
/// `N/rollouts.jsonl` and `N/eval/*.jsonl`.
///
/// # Errors
/// If a folder contains no store.
pub(crate) fn find(paths: &[PathBuf]) -> anyhow::Result<Vec<StoreSource>> {
    let mut sources = Vec::new();
    for path in paths {
        if !path.is_dir() || is_compacted(path) {
            sources.push(StoreSource {
                store: path.clone(),
                folder: None,
            });
            continue;
        }
        let found = stores_in(path)?;
        if found.is_empty() {
            return Err(ui::WrongUse(format!(
                "{}: no store in this folder\n\
                 hint: a run folder contains demonstrations.jsonl, N/rollouts.jsonl, N/eval/*.jsonl or \
                 episodes-*.jsonl",
                path.display()
            ))
            .into());
        }
        sources.extend(found.into_iter().map(|store| StoreSource {
            store,
            folder: Some(path.clone()),
        }));
    }
    Ok(sources)
}

fn stores_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut iterations: Vec<(usize, PathBuf)> = Vec::new();
    for path in entries(folder)? {
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        if is_store(&path) && is_played(&path) {
            found.push(path.clone());
        }
        iterations.extend(number.map(|number| (number, path)));
    }
    iterations.sort();
    for (_, iteration) in iterations {
        let rollouts = iteration.join("rollouts.jsonl");
        if rollouts.is_file() {
            found.push(rollouts);
        }
        let eval = iteration.join("eval");
        if eval.is_dir() {
            found.extend(entries(&eval)?.into_iter().filter(|path| is_store(path)));
        }
    }
    Ok(found)
}

/// Returns whether the path is a whole store, not one shard of it.
fn is_store(path: &Path) -> bool {
    path.extension().is_some_and(|of| of == "jsonl") && whole_of(path).is_none()
}

fn is_played(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    holds_demonstrations(&name) || name.starts_with("episodes-")
}

/// Returns the entries of a folder, sorted by name.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|e| ui::WrongUse(format!("cannot read {}: {e}", folder.display())))?;
    entries.sort();
    Ok(entries)
}

/// Reads the episodes of a store. Prints a message if the last line is incomplete.
///
/// # Errors
/// If the store is not readable, or contains branches instead of episodes.
pub(crate) fn read(store: &Path) -> anyhow::Result<Vec<Trajectory>> {
    let episodes = read_records(store)?;
    for episode in &episodes {
        check_episode(store, episode)?;
    }
    Ok(episodes)
}

/// Reads the branches of stores, in the order of game, repetition, seed and turn. If the token ids are
/// not of this tokenizer, the texts are tokenized, and the number of these states is printed.
///
/// # Errors
/// If a store is not readable, or contains an episode.
pub(crate) fn read_branches(
    stores: &[PathBuf],
    tokenizer: &Tokenizer,
) -> anyhow::Result<Vec<Trajectory>> {
    let mut branches = Vec::new();
    for store in stores {
        let records = read_records(store)?;
        if let Some(episode) = records.iter().find(|record| record.branch.is_none()) {
            return Err(ui::WrongUse(format!(
                "{}: the record of {}, repetition {}, is an episode, not a branch\n\
                 hint: `hearth branch` writes branches",
                store.display(),
                episode.game,
                episode.repetition
            ))
            .into());
        }
        branches.extend(records);
    }
    branches.sort_by(|a, b| {
        let (turn, other) = (a.turns.len(), b.turns.len());
        (&a.game, a.repetition, a.seed, turn).cmp(&(&b.game, b.repetition, b.seed, other))
    });
    let changed = tokenize_states(tokenizer, &mut branches);
    if changed > 0 {
        eprintln!(
            "{changed} branch states have no token ids of this model: their texts were tokenized"
        );
    }
    Ok(branches)
}

/// Passes the episodes of a store to `work` in blocks, with the index of the first one, so that memory does not grow
/// with the store. Prints a message if the last line is incomplete.
///
/// # Errors
/// If the store is not readable or contains branches, or `work` returns an error.
pub(crate) fn in_blocks(
    store: &Path,
    mut work: impl FnMut(usize, &[Trajectory]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    const BLOCK: usize = 1024;
    let mut block: Vec<Trajectory> = Vec::new();
    let mut first = 0;
    let counts = StoredRecords::open(&[store.into()])?.scan(
        |record| record.trajectory,
        |episode| {
            check_episode(store, &episode)?;
            block.push(episode);
            if block.len() == BLOCK {
                work(first, &block)?;
                first += block.len();
                block.clear();
            }
            anyhow::Ok(())
        },
    )?;
    for (store, bytes) in &counts.torn {
        note_torn(store, *bytes);
    }
    if block.is_empty() {
        return Ok(());
    }
    work(first, &block)
}

fn check_episode(store: &Path, episode: &Trajectory) -> anyhow::Result<()> {
    episode
        .check_episode()
        .map_err(|reason| ui::WrongUse(format!("{}: {reason}", store.display())).into())
}

/// Reads all records of a store. Prints a message if the last line is incomplete.
fn read_records(store: &Path) -> anyhow::Result<Vec<Trajectory>> {
    let mut records = Vec::new();
    let counts = StoredRecords::open(&[store.into()])?.scan(
        |record| record.trajectory,
        |trajectory| {
            records.push(trajectory);
            anyhow::Ok(())
        },
    )?;
    for (store, bytes) in &counts.torn {
        note_torn(store, *bytes);
    }
    Ok(records)
}

/// Prints that the last line of a store is incomplete.
pub(crate) fn note_torn(store: &Path, bytes: usize) {
    eprintln!(
        "{}: {bytes} bytes of an incomplete last line are left out",
        store.display()
    );
}

/// Opens the games of a run: those in its folder, or those that its recipe names, and the `train` games of its
/// practice suites.
///
/// # Errors
/// If neither exists, or if a suite is not readable.
pub(crate) fn suite_of_run(folder: &Path) -> anyhow::Result<Suite> {
    #[derive(Deserialize)]
    struct RecipeGames {
        games: GamesRecipe,
    }
    let own = folder.join("games");
    let recipe = folder.join("recipe.toml");
    let text = std::fs::read_to_string(&recipe).ok();
    let recipe = text.and_then(|text| toml::from_str::<RecipeGames>(&text).ok());
    let games = recipe.map(|recipe| recipe.games);
    let mut suite = match &games {
        _ if own.is_dir() => Suite::open(own)?,
        Some(GamesRecipe::Folder { path, .. }) => Suite::open(path)?,
        _ => {
            return Err(ui::WrongUse(format!(
                "{}: nothing here names the games that were played\nhint: --suite",
                folder.display()
            ))
            .into());
        }
    };
    if let Some(games) = &games {
        for practice in practice::open(games)? {
            let train = practice.split(Split::Train).into_iter().cloned();
            suite.tasks.extend(train);
        }
    }
    Ok(suite)
}
