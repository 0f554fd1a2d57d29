//! What a folder holds, read into one value: the recipe, tables, curves and stores of a run or of an evaluation. Whatever is
//! not there is left out; whatever is damaged is an error that names its file and line.

use super::pack::{Packed, PackedStore, Played};
use crate::ui::WrongUse;
use anyhow::Context;
use scenarios::store::Store;
use scenarios::{Protocol, Scorer, Search, Split, Trajectory};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use trainer::measure::evaluate::{self, Row, read_csv};
use trainer::pipeline::manifest::ASIDE;
use trainer::pipeline::shard::whole_of;
use trainer::pipeline::stages::is_shown;

/// A run or an evaluation, read.
pub(crate) struct Found {
    /// What it is called.
    pub(crate) name: String,
    /// Seed, suite, code and the like, as `run.json` or `eval.json` tells them.
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) recipe: Option<String>,
    /// The table.
    pub(crate) rows: Vec<Row>,
    /// Where the table stands; `None` when it was counted from the stores.
    pub(crate) table: Option<String>,
    /// How the episodes of the table were played, where `eval.json` tells.
    table_protocols: Vec<String>,
    /// How each kind of episode was played, each line once.
    pub(crate) protocols: Vec<(String, String)>,
    pub(crate) jobs: Vec<Lesson>,
    pub(crate) labs: Vec<Sweep>,
    pub(crate) packed: Packed,
    /// What the user should read.
    pub(crate) notes: Vec<String>,
}

/// The updates of one job.
pub(crate) struct Lesson {
    pub(crate) iteration: Option<usize>,
    pub(crate) name: String,
    /// By the column of `metrics.csv`; `None` where a cell is empty or no number.
    pub(crate) columns: BTreeMap<String, Vec<Option<f64>>>,
}

/// One `lab.csv`: best-of-K by what it is chosen by.
pub(crate) struct Sweep {
    pub(crate) file: String,
    pub(crate) rows: Vec<SweepRow>,
}

/// The columns of `lab.csv` that a curve needs.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SweepRow {
    #[serde(default)]
    pub(crate) policy: Option<String>,
    #[serde(alias = "score")]
    pub(crate) scorer: String,
    pub(crate) k: usize,
    pub(crate) split: Split,
    pub(crate) n: usize,
    pub(crate) success_rate: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Everything a report tells of `run`.
pub(crate) fn gather(
    run: &Path,
    with_rollouts: bool,
    games: Option<usize>,
) -> anyhow::Result<Found> {
    let files = files(run)?;
    let named = |name: &str| {
        files
            .iter()
            .find(|file| file.parent() == Some(Path::new("")) && is_named(file, name))
    };
    let (table, recipe) = (named("eval.csv"), named("recipe.toml"));
    let rows: Vec<Row> = table
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
    let mut found = Found {
        name: folder_name(run),
        facts: Vec::new(),
        rows,
        table: table.map(|file| shown(file)),
        table_protocols: Vec::new(),
        protocols: Vec::new(),
        jobs: jobs(run, &files, recipe.as_deref())?,
        recipe,
        labs: labs(run, &files)?,
        packed: Packed::default(),
        notes: Vec::new(),
    };
    for file in ["run.json", "eval.json"].into_iter().filter_map(named) {
        found.read_facts(&run.join(file))?;
    }
    let place = |store: &StoreFile| {
        found
            .rows
            .iter()
            .position(|row| row.policy == store.policy())
            .unwrap_or(usize::MAX)
    };
    stores.sort_by_cached_key(|store| (store.kind, place(store), store.k)); // as the table is
    for store in &stores {
        found.read_store(run, store, games)?;
    }
    if let (Some(games), true) = (
        games,
        found
            .packed
            .stores()
            .iter()
            .any(|store| store.kept < store.episodes),
    ) {
        found.notes.push(format!(
            "--episodes: of each store the {games} games with the smallest hashes"
        ));
    }
    Ok(found)
}

impl Found {
    fn read_facts(&mut self, path: &Path) -> anyhow::Result<()> {
        let facts: BTreeMap<String, Value> =
            serde_json::from_str(&read(path)?).map_err(|e| damaged(path, e))?;
        let plain = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let protocols = facts
            .get("protocols")
            .cloned()
            .and_then(|list| serde_json::from_value(list).ok());
        let protocols: Vec<Protocol> = protocols.unwrap_or_default();
        self.table_protocols
            .extend(protocols.iter().map(evaluate::protocol_line));
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
            let told = facts
                .get(key)
                .and_then(plain)
                .filter(|text| key != "faults" || text != "0");
            self.facts
                .extend(told.map(|text| (label.to_string(), text)));
        }
        Ok(())
    }

    /// Reads one store, counts it where no table does, and keeps the episodes that shall be shown.
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
                shown(&store.file),
                contents.torn
            ));
        }
        let Some(first) = contents.trajectories.first() else {
            return Ok(());
        };
        let mut policy = self.policy_of(store, first);
        let (search, how) = (search(&first.protocol), how(&first.protocol));
        let name = title(&policy, &search);
        let (protocol, is_measured) = (
            evaluate::protocol_line(&first.protocol),
            store.kind == Kind::Measured,
        );
        if is_measured && self.table.is_none() {
            policy.clone_from(&name);
            self.rows.extend(evaluate::table(
                &policy,
                first.protocol.best_of,
                &contents.trajectories,
            ));
        }
        let words = [search, how.clone()]
            .into_iter()
            .filter(|words| !words.is_empty())
            .collect::<Vec<_>>()
            .join(", ");
        let line = (words, protocol.clone());
        if is_measured && !self.protocols.contains(&line) {
            self.protocols.push(line);
        }
        let played = Played {
            title: title(&name, &how),
            policy,
            k: first.protocol.best_of,
            score: score(first.protocol.scorer),
            file: shown(&store.file),
            protocol,
        };
        self.packed.add(played, &contents.trajectories, games);
        Ok(())
    }

    /// What the table calls the policy of a store.
    fn policy_of(&self, store: &StoreFile, first: &Trajectory) -> String {
        let Some(tag) = &store.of_eval else {
            return store.policy();
        };
        let mut named: Vec<&String> = self.rows.iter().map(|row| &row.policy).collect();
        named.dedup();
        let policy = if let [only] = named[..] {
            only
        } else {
            &first.policy
        };
        let says_more = first.protocol.search.is_none() && !tag.is_empty();
        if says_more {
            format!("{policy} ({tag})")
        } else {
            policy.clone()
        }
    }

    /// The store behind a row of the table: where several are of one policy and K, the one that was played as `eval.json`
    /// says.
    pub(crate) fn store_of(&self, row: &Row) -> Option<&PackedStore> {
        let is_of =
            |store: &&PackedStore| store.played.policy == row.policy && store.played.k == row.k;
        let mut stores = self.packed.stores().iter().filter(is_of);
        let is_told = |store: &&PackedStore| self.table_protocols.contains(&store.played.protocol);
        stores.clone().find(is_told).or_else(|| stores.next())
    }

    /// What the page calls the policy of a row.
    pub(crate) fn row_title(&self, row: &Row) -> String {
        self.store_of(row).map_or_else(
            || title(&row.policy, &how_many(row.k)),
            |store| store.played.title.clone(),
        )
    }
}

/// What kind of episodes a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Each game once, to be counted.
    Measured,
    /// Demonstrations and rollouts, to be learned from.
    Learned,
}

/// A store of trajectories.
struct StoreFile {
    file: PathBuf,
    kind: Kind,
    iteration: Option<usize>,
    /// Its name without K.
    stem: String,
    /// K, where the name tells.
    k: Option<usize>,
    /// What `hearth eval` says in the name beside K, such as `beam3`; `None` for others' stores.
    of_eval: Option<String>,
}

impl StoreFile {
    /// What a run's table calls it: from the second iteration on with the iteration.
    fn policy(&self) -> String {
        match self.iteration {
            Some(iteration) if iteration > 1 => format!("{}-{iteration}", self.stem),
            _ => self.stem.clone(),
        }
    }
}

/// Files below a folder by their path there, sorted; not what models, games and optimizers keep in folders of their own.
fn files(run: &Path) -> anyhow::Result<Vec<PathBuf>> {
    const DEEPEST: usize = 3;
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let place = if folder.as_os_str().is_empty() {
            run.to_path_buf()
        } else {
            run.join(&folder)
        };
        let entries = std::fs::read_dir(&place).map_err(|e| unreadable(&place, &e))?;
        for entry in entries {
            let entry = entry.map_err(|e| unreadable(&place, &e))?;
            let (name, is_folder) = (entry.file_name(), entry.path().is_dir());
            let skipped = [
                ASIDE,
                "games",
                "checkpoint",
                "tensorboard",
                "value",
                "adapter",
            ];
            let is_skipped =
                skipped.iter().any(|other| name == *other) || whole_of(Path::new(&name)).is_some();
            if is_skipped {
                continue;
            }
            if !is_folder {
                found.push(folder.join(name));
            } else if folder.components().count() < DEEPEST {
                open.push(folder.join(name));
            }
        }
    }
    found.sort_by_key(|file| {
        file.components()
            .map(|part| number_first(&part.as_os_str().to_string_lossy()))
            .collect::<Vec<_>>()
    });
    Ok(found)
}

/// Sorts iteration 10 after iteration 9.
fn number_first(name: &str) -> (usize, String) {
    (name.parse().unwrap_or(usize::MAX), name.to_string())
}

/// The stores among the files: those in a folder `eval`, those named `episodes-…`, and others whose first line is a
/// trajectory.
fn stores(run: &Path, files: &[PathBuf], with_rollouts: bool) -> anyhow::Result<Vec<StoreFile>> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| {
        file.extension()
            .is_some_and(|extension| extension == "jsonl")
    }) {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_in_eval = file
            .parent()
            .is_some_and(|folder| folder.file_name().is_some_and(|name| name == "eval"));
        let is_learned = !is_in_eval && (name == "rollouts" || is_shown(&name)); // a job may be called `guided`
        let kind = if is_learned {
            Kind::Learned
        } else {
            Kind::Measured
        };
        let is_store = is_in_eval
            || name.starts_with("episodes-")
            || begins_with_a_trajectory(&run.join(file))?;
        if is_store && (kind == Kind::Measured || with_rollouts) {
            let (stem, k) = stem_and_k(&name);
            let of_eval = stem
                .strip_prefix("episodes")
                .map(|tag| tag.trim_start_matches('-').to_string());
            let iteration = iteration(file);
            found.push(StoreFile {
                file: file.clone(),
                kind,
                iteration,
                stem: stem.into(),
                k,
                of_eval,
            });
        }
    }
    Ok(found)
}

/// `oreo-k5` → `oreo` and 5, `episodes-beam3-k3` → `episodes-beam3` and 3, `greedy` → `greedy`.
fn stem_and_k(name: &str) -> (&str, Option<usize>) {
    let parts = name
        .rsplit_once("-k")
        .and_then(|(stem, k)| Some((stem, k.parse().ok()?)));
    parts.map_or((name, None), |(stem, k)| (stem, Some(k)))
}

fn begins_with_a_trajectory(path: &Path) -> anyhow::Result<bool> {
    let file = std::fs::File::open(path).map_err(|e| unreadable(path, &e))?;
    let mut line = String::new();
    if BufReader::new(file).read_line(&mut line).is_err() {
        return Ok(false); // no text, so no store
    }
    Ok(serde_json::from_str::<Value>(&line)
        .is_ok_and(|value| value["game_hash"].is_string() && value["turns"].is_array()))
}

/// The jobs that left metrics: by iteration, in the recipe's order.
fn jobs(run: &Path, files: &[PathBuf], recipe: Option<&str>) -> anyhow::Result<Vec<Lesson>> {
    let named = |recipe: toml::Table| -> Option<Vec<String>> {
        let jobs = recipe.get("job")?.as_array()?.iter();
        jobs.map(|job| Some(job.get("name")?.as_str()?.to_string()))
            .collect()
    };
    let order = recipe
        .and_then(|text| text.parse().ok())
        .and_then(named)
        .unwrap_or_default();
    let mut jobs = Vec::new();
    for file in files.iter().filter(|file| is_named(file, "metrics.csv")) {
        let folder = file.parent().filter(|folder| *folder != Path::new(""));
        let name = folder.map_or_else(|| folder_name(run), folder_name);
        jobs.push(Lesson {
            iteration: iteration(file),
            name,
            columns: columns(&run.join(file))?,
        });
    }
    let place = |name: &str| {
        order
            .iter()
            .position(|other| other == name)
            .unwrap_or(order.len())
    };
    jobs.sort_by_key(|job| (job.iteration, place(&job.name)));
    Ok(jobs)
}

/// The iteration whose folder a file lies in.
fn iteration(file: &Path) -> Option<usize> {
    file.components()
        .next()
        .and_then(|part| part.as_os_str().to_str()?.parse().ok())
}

/// The numbers of a CSV file, by column.
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

fn labs(run: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<Sweep>> {
    let read = |file: &PathBuf| {
        let path = run.join(file);
        let mut reader = csv::Reader::from_path(&path).map_err(|e| damaged(&path, e))?;
        let rows: Result<Vec<SweepRow>, _> = reader.deserialize().collect();
        Ok(Sweep {
            file: shown(file),
            rows: rows.map_err(|e| damaged(&path, e))?,
        })
    };
    files
        .iter()
        .filter(|file| is_named(file, "lab.csv"))
        .map(read)
        .collect()
}

/// How the completions of a protocol come about, in a few words; none for a greedy policy.
fn how(protocol: &Protocol) -> String {
    match (protocol.best_of, protocol.temperature) {
        (1, 0.0) => String::new(),
        (1, temperature) => format!("temperature {temperature}"),
        (k, _) if protocol.scorer == Scorer::default() => how_many(k),
        (k, _) => format!("{} by {}", how_many(k), protocol.scorer.name()),
    }
}

/// How a protocol searches, in a few words; none where it does not.
fn search(protocol: &Protocol) -> String {
    match protocol.search {
        None => String::new(),
        Some(Search::Beam { width }) => format!("beam {width}"),
        Some(Search::BestFirst { budget }) => format!("best first, {budget} completions"),
    }
}

/// What candidates are chosen by, as the page calls it.
fn score(scorer: Scorer) -> &'static str {
    match scorer {
        Scorer::AfterValue => "U",
        Scorer::SoftValue => "U + β ln π",
        Scorer::LogRatio => "ρ",
        Scorer::Logprob => "ln π",
        Scorer::Random => "random",
        Scorer::Oracle => "oracle",
    }
}

/// How completions come about, where only K is known.
pub(crate) fn how_many(k: usize) -> String {
    if k == 1 {
        String::new()
    } else {
        format!("best of {k}")
    }
}

/// A policy with how it was played.
pub(crate) fn title(policy: &str, how: &str) -> String {
    if how.is_empty() {
        policy.into()
    } else {
        format!("{policy}, {how}")
    }
}

fn is_named(file: &Path, name: &str) -> bool {
    file.file_name().is_some_and(|other| other == name)
}

fn folder_name(folder: &Path) -> String {
    let whole = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.into());
    whole
        .file_name()
        .map_or_else(|| shown(folder), |name| name.to_string_lossy().into_owned())
}

/// A path with `/` between its parts on every system.
fn shown(path: &Path) -> String {
    path.components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    WrongUse(format!("cannot read {}: {error}", path.display())).into()
}

fn damaged(path: &Path, error: impl Display) -> anyhow::Error {
    WrongUse(format!("{}: {error}", path.display())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_store_tells_policy_and_k() {
        for (name, expected) in [
            ("oreo-turn-k5", ("oreo-turn", Some(5))),
            ("episodes-beam3-k3", ("episodes-beam3", Some(3))),
            ("greedy", ("greedy", None)),
            ("oreo-kto", ("oreo-kto", None)),
        ] {
            assert_eq!(stem_and_k(name), expected);
        }
    }

    #[test]
    fn how_a_policy_was_played_is_said_where_it_is_not_greedy() {
        let greedy = Protocol::default();
        let sampled = Protocol {
            temperature: 0.5,
            ..greedy.clone()
        };
        let best = Protocol {
            best_of: 4,
            ..sampled.clone()
        };
        let by_logprob = Protocol {
            scorer: Scorer::Logprob,
            ..best.clone()
        };
        let said =
            [&greedy, &sampled, &best, &by_logprob].map(|protocol| title("p", &how(protocol)));
        assert_eq!(
            said,
            [
                "p",
                "p, temperature 0.5",
                "p, best of 4",
                "p, best of 4 by logprob"
            ]
        );
        assert_eq!(
            search(&Protocol {
                search: Some(Search::Beam { width: 3 }),
                ..best
            }),
            "beam 3"
        );
    }
}
