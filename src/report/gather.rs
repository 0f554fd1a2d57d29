//! Reads a run folder or an evaluation folder into one value: recipe, tables, curves and stores.
//! Files that do not exist are left out. If a file is damaged, the error names the file and the
//! line.

use super::labels::{sampling, score_symbol, search, title};
use super::pack::{Packed, StoreLabels};
use super::run_data::{RunData, SweepPoint, SweepTable, TrainingCurves};
use super::run_files::{
    StoreFile, StoreKind, damaged, display_path, folder_name, is_named, iteration, list_files,
    read, stores, top_level,
};
use crate::ui::WrongUse;
use scenarios::store::Store;
use scenarios::{Protocol, Trajectory};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use trainer::measure::csv_file::read_csv;
use trainer::measure::protocol_line;
use trainer::measure::table::{self, EvalRow};

/// The table of `hearth sweep`, and its name in older runs.
const SWEEP_FILES: [&str; 2] = ["sweep.csv", "lab.csv"];
/// The list of training jobs in `recipe.toml`, and its name in older runs.
const JOB_KEYS: [&str; 2] = ["train", "lesson"];

/// Reads everything that a report of `run` contains. If `games` is given, at most that many games
/// of each store are shown.
///
/// # Errors
/// If the folder contains neither a run nor an evaluation, or if one of its files cannot be read.
pub(crate) fn gather(
    run: &Path,
    with_rollouts: bool,
    games: Option<usize>,
) -> anyhow::Result<RunData> {
    let files = list_files(run)?;
    let table = top_level(&files, "eval.csv");
    let recipe = top_level(&files, "recipe.toml");
    let rows: Vec<EvalRow> = table
        .map(|file| read_csv(&run.join(file)))
        .transpose()?
        .unwrap_or_default();
    let mut stores = stores(run, &files, with_rollouts)?;
    if rows.is_empty() && stores.is_empty() && recipe.is_none() {
        let hint = "hint: name a folder written by `hearth loop`, `hearth quickstart` or `hearth eval --out`";
        return Err(WrongUse(format!(
            "{} holds no run and no evaluation\n{hint}",
            run.display()
        ))
        .into());
    }
    let recipe = recipe.map(|file| read(&run.join(file))).transpose()?;
    let mut data = RunData {
        name: folder_name(run),
        facts: Vec::new(),
        rows,
        table: table.map(|file| display_path(file)),
        table_protocols: Vec::new(),
        protocols: Vec::new(),
        jobs: training_curves(run, &files, recipe.as_deref())?,
        recipe,
        sweeps: sweeps(run, &files)?,
        packed: Packed::default(),
        notes: Vec::new(),
    };
    for name in ["run.json", "eval.json"] {
        if let Some(file) = top_level(&files, name) {
            data.read_facts(&run.join(file))?;
        }
    }
    // In the order of the table.
    stores.sort_by_cached_key(|store| (store.kind, data.table_position(store), store.k));
    for store in &stores {
        data.read_store(run, store, games)?;
    }
    let mut packed = data.packed.stores().iter();
    if let Some(games) = games
        && packed.any(|store| store.kept < store.episodes)
    {
        data.notes.push(format!(
            "--episodes: of each store the {games} games with the smallest hashes"
        ));
    }
    Ok(data)
}

impl RunData {
    /// Returns the first row of a store's policy; `usize::MAX` if the table does not contain it.
    fn table_position(&self, store: &StoreFile) -> usize {
        self.rows
            .iter()
            .position(|row| row.policy == store.policy())
            .unwrap_or(usize::MAX)
    }

    fn read_facts(&mut self, path: &Path) -> anyhow::Result<()> {
        let facts: BTreeMap<String, Value> =
            serde_json::from_str(&read(path)?).map_err(|e| damaged(path, e))?;
        let protocols: Option<Vec<Protocol>> = facts
            .get("protocols")
            .cloned()
            .and_then(|list| serde_json::from_value(list).ok());
        self.table_protocols.extend(
            protocols
                .unwrap_or_default()
                .iter()
                .map(protocol_line::protocol_line),
        );
        if let Some(name) = facts.get("name").and_then(plain) {
            self.name = name;
        }
        for (key, label) in [
            ("seed", "seed"),
            ("suite", "suite"),
            ("policy_hash", "policy"),
            ("games", "games"),
            ("faults", "damaged games"),
            ("code", "code"),
            ("device", "device"),
        ] {
            let value = facts
                .get(key)
                .and_then(plain)
                .filter(|text| key != "faults" || text != "0");
            self.facts
                .extend(value.map(|text| (label.to_string(), text)));
        }
        Ok(())
    }

    /// Reads one store and packs the episodes to show. If there is no table, the store is counted.
    fn read_store(
        &mut self,
        run: &Path,
        store: &StoreFile,
        games: Option<usize>,
    ) -> anyhow::Result<()> {
        let contents = Store::contents(run.join(&store.file))?;
        if contents.torn > 0 {
            self.notes.push(format!(
                "{}: left out a torn last line of {} bytes",
                display_path(&store.file),
                contents.torn
            ));
        }
        let Some(first) = contents.trajectories.first() else {
            return Ok(());
        };
        let search = search(&first.protocol);
        let sampling = sampling(&first.protocol);
        let protocol = protocol_line::protocol_line(&first.protocol);
        let mut policy = self.policy_of(store, first);
        let name = title(&policy, &search);
        if store.kind == StoreKind::Evaluation {
            if self.table.is_none() {
                policy.clone_from(&name);
                self.rows.extend(table::table(
                    &policy,
                    first.protocol.best_of,
                    &contents.trajectories,
                ));
            }
            let words = [search, sampling.clone()]
                .into_iter()
                .filter(|words| !words.is_empty())
                .collect::<Vec<_>>()
                .join(", ");
            let line = (words, protocol.clone());
            if !self.protocols.contains(&line) {
                self.protocols.push(line);
            }
        }
        let labels = StoreLabels {
            title: title(&name, &sampling),
            policy,
            k: first.protocol.best_of,
            score: score_symbol(first.protocol.scorer),
            file: display_path(&store.file),
            protocol,
        };
        self.packed.add(labels, &contents.trajectories, games);
        Ok(())
    }

    /// Returns the name of a store's policy in the table.
    fn policy_of(&self, store: &StoreFile, first: &Trajectory) -> String {
        let Some(tag) = &store.eval_tag else {
            return store.policy();
        };
        let mut named: Vec<&String> = self.rows.iter().map(|row| &row.policy).collect();
        named.dedup();
        let policy = if let [only] = named[..] {
            only
        } else {
            &first.policy
        };
        // The tag of a search is already in the protocol.
        if first.protocol.search.is_none() && !tag.is_empty() {
            format!("{policy} ({tag})")
        } else {
            policy.clone()
        }
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads the metrics of every training job, sorted by iteration and by the order of the recipe.
fn training_curves(
    run: &Path,
    files: &[PathBuf],
    recipe: Option<&str>,
) -> anyhow::Result<Vec<TrainingCurves>> {
    let order = recipe.and_then(job_names).unwrap_or_default();
    let mut jobs = Vec::new();
    for file in files.iter().filter(|file| is_named(file, "metrics.csv")) {
        let folder = file.parent().filter(|folder| *folder != Path::new(""));
        jobs.push(TrainingCurves {
            iteration: iteration(file),
            name: folder.map_or_else(|| folder_name(run), folder_name),
            columns: columns(&run.join(file))?,
        });
    }
    jobs.sort_by_key(|job| {
        let position = order.iter().position(|name| *name == job.name);
        (job.iteration, position.unwrap_or(order.len()))
    });
    Ok(jobs)
}

/// Returns the names of a recipe's training jobs, in order; `None` if the text is not a recipe.
fn job_names(recipe: &str) -> Option<Vec<String>> {
    let recipe: toml::Table = recipe.parse().ok()?;
    let jobs = JOB_KEYS.iter().find_map(|key| recipe.get(*key))?;
    let jobs = jobs.as_array()?.iter();
    jobs.map(|job| Some(job.get("name")?.as_str()?.to_string()))
        .collect()
}

/// Reads the numbers of a CSV file, by column.
fn columns(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<Option<f64>>>> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| damaged(path, e))?;
    let header = reader.headers().map_err(|e| damaged(path, e))?.clone();
    let mut columns: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| damaged(path, e))?;
        for (name, cell) in header.iter().zip(&record) {
            let number = cell.parse().ok().filter(|number: &f64| number.is_finite());
            columns.entry(name.into()).or_default().push(number);
        }
    }
    Ok(columns)
}

fn sweeps(run: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<SweepTable>> {
    files
        .iter()
        .filter(|file| SWEEP_FILES.iter().any(|name| is_named(file, name)))
        .map(|file| {
            let path = run.join(file);
            let mut reader = csv::Reader::from_path(&path).map_err(|e| damaged(&path, e))?;
            let points: Result<Vec<SweepPoint>, _> = reader.deserialize().collect();
            Ok(SweepTable {
                file: display_path(file),
                points: points.map_err(|e| damaged(&path, e))?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_new_and_old_recipes_are_found() {
        for key in ["train", "lesson"] {
            let recipe = format!("[[{key}]]\nname = \"sft\"\n[[{key}]]\nname = \"oreo\"\n");
            assert_eq!(job_names(&recipe).unwrap(), ["sft", "oreo"], "{key}");
        }
        assert_eq!(job_names("seed = 1"), None);
    }

    #[test]
    fn sweeps_of_new_and_old_runs_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = ["lab.csv", "other.csv", "sweep.csv"]
            .map(PathBuf::from)
            .to_vec();
        for (file, column) in files.iter().zip(["chosen_by", "none", "scorer"]) {
            let text = format!(
                "{column},k,split,n,successes,success_rate,low,high\noracle,2,valid_seen,3,3,1,0.4,1\n"
            );
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let found = sweeps(folder.path(), &files).unwrap();
        let read: Vec<_> = found
            .iter()
            .map(|sweep| (sweep.file.as_str(), sweep.points[0].curve()))
            .collect();
        assert_eq!(
            read,
            [
                ("lab.csv", "oracle".into()),
                ("sweep.csv", "oracle".to_string())
            ]
        );
    }
}
