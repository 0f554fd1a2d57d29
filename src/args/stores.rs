//! Which stores a command reads: files, and folders that `loop`, `quickstart` and `eval` have filled.

use crate::ui;
use scenarios::store::Store;
use scenarios::{Suite, Trajectory};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use trainer::pipeline::recipe::GamesRecipe;
use trainer::pipeline::shard::whole_of;
use trainer::pipeline::stages::is_shown;

/// A store to read, and the folder that was named where it was found in one.
pub(crate) struct Source {
    pub(crate) store: PathBuf,
    pub(crate) folder: Option<PathBuf>,
}

/// The files among `paths`, and the stores of the folders: `demonstrations.jsonl`, `guided-*.jsonl`, `episodes-*.jsonl`, and
/// by iteration `N/rollouts.jsonl` and `N/eval/*.jsonl`.
pub(crate) fn find(paths: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if !path.is_dir() {
            sources.push(Source {
                store: path.clone(),
                folder: None,
            });
            continue;
        }
        let found = of_folder(path)?;
        if found.is_empty() {
            let hint = "a run folder holds demonstrations.jsonl, N/rollouts.jsonl, N/eval/*.jsonl or episodes-*.jsonl";
            return Err(ui::WrongUse(format!(
                "{}: no store in this folder\nhint: {hint}",
                path.display()
            ))
            .into());
        }
        sources.extend(found.into_iter().map(|store| Source {
            store,
            folder: Some(path.clone()),
        }));
    }
    Ok(sources)
}

fn of_folder(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_store = |path: &PathBuf| {
        path.extension().is_some_and(|of| of == "jsonl") && whole_of(path).is_none()
    };
    let is_played = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        is_shown(&name) || name.starts_with("episodes-")
    };
    let mut found: Vec<PathBuf> = entries(folder)?
        .into_iter()
        .filter(|path| is_store(path) && is_played(path))
        .collect();
    let iteration = |path: &PathBuf| path.file_name()?.to_str()?.parse::<usize>().ok();
    let mut iterations: Vec<(usize, PathBuf)> = entries(folder)?
        .into_iter()
        .filter_map(|path| Some((iteration(&path)?, path)))
        .collect();
    iterations.sort();
    for (_, iteration) in iterations {
        let rollouts = iteration.join("rollouts.jsonl");
        found.extend(rollouts.is_file().then_some(rollouts));
        let eval = iteration.join("eval");
        if eval.is_dir() {
            found.extend(entries(&eval)?.into_iter().filter(is_store));
        }
    }
    Ok(found)
}

/// What a folder holds, by name.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = |e| ui::WrongUse(format!("cannot read {}: {e}", folder.display()));
    let found = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries: Vec<PathBuf> = found.map_err(cannot)?;
    entries.sort();
    Ok(entries)
}

/// The episodes of a store; tells of a torn last line.
pub(crate) fn read(store: &Path) -> anyhow::Result<Vec<Trajectory>> {
    let contents = Store::contents(store)?;
    if contents.torn > 0 {
        eprintln!(
            "{}: {} bytes of a torn last line are left out",
            store.display(),
            contents.torn
        );
    }
    Ok(contents.trajectories)
}

/// The games of a run: its own, or those that its recipe names.
pub(crate) fn suite_of_run(folder: &Path) -> anyhow::Result<Suite> {
    #[derive(Deserialize)]
    struct Games {
        games: GamesRecipe,
    }
    let own = folder.join("games");
    if own.is_dir() {
        return Ok(Suite::open(own)?);
    }
    let recipe = folder.join("recipe.toml");
    let text = std::fs::read_to_string(&recipe).ok();
    match text.and_then(|text| toml::from_str::<Games>(&text).ok()) {
        Some(Games {
            games: GamesRecipe::Folder { path },
        }) => Ok(Suite::open(path)?),
        _ => Err(ui::WrongUse(format!(
            "{}: nothing here says which games were played\nhint: --suite",
            folder.display()
        ))
        .into()),
    }
}
