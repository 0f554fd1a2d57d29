//! A suite: a named list of tasks, checked against hashes.
//!
//! Two forms are read. A manifest is JSONL: a header `{"suite": NAME, "format": 1}`, then one game a line with `id`,
//! `split`, `task_type`, `path` (relative to the manifest) and `hash`. A folder without `suite.jsonl` is read by its
//! layout, which may be ALFWorld's, that of other TextWorld games, or both:
//!
//! ```text
//! SPLIT/TASK/TRIAL/game.tw-pddl     with a traj_data.json beside it, as ALFWorld lays its games out
//! SPLIT/NAME.z8                     z1 to z8 and tw-pddl, as of `tw-make tw-coin_collector … --output SPLIT/NAME.z8`
//! ```
//!
//! Knows nothing of what is inside a game, except whether ALFWorld itself calls it unsolvable.

use crate::files;
use crate::task::{Split, Task, TaskType};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

/// The manifest's name within a folder.
pub const MANIFEST: &str = "suite.jsonl";
/// The game's name within its trial folder.
pub const GAME: &str = "game.tw-pddl";
/// The file beside a game that names its task type.
pub const TRAJ_DATA: &str = "traj_data.json";

const FORMAT: u32 = 1;

/// A named list of tasks, in the order of (split, id).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// What tables call it.
    pub name: String,
    /// The folder that holds the manifest or the splits.
    pub root: PathBuf,
    /// The games that are whole.
    pub tasks: Vec<Task>,
    /// Games that are named but cannot be used; to be shown, never dropped.
    pub faults: Vec<Fault>,
    /// What stands where a game is expected and is none that can be played: folders that hold no text game by ALFWorld's
    /// own rules (movable receptacles, sliced objects, no game file, marked unsolvable), and Glulx files. Empty with a
    /// manifest.
    pub left_out: Vec<Fault>,
}

/// A game that is not in the suite, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a suite could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A file or folder cannot be read or written.
    #[error("cannot {verb} {}: {source}\nhint: {hint}", path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What to try.
        hint: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A line of a manifest means nothing.
    #[error("{}:{line}: {reason}\nhint: {hint}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with the line.
        reason: String,
        /// What to try.
        hint: &'static str,
    },
    /// The folder holds neither a manifest nor splits.
    #[error(
        "no suite in {}\nhint: expected {MANIFEST}, or folders named train, valid_train, valid_seen or valid_unseen, \
         with TASK/TRIAL/{GAME} or .z8 files in them",
        path.display()
    )]
    NotASuite {
        /// The folder.
        path: PathBuf,
    },
    /// A game lies outside the folder of the manifest that should name it.
    #[error("{} is not below {}\nhint: write the manifest into a folder above all games", path.display(), folder.display())]
    Outside {
        /// The game.
        path: PathBuf,
        /// The manifest's folder.
        folder: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    suite: String,
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    split: Split,
    task_type: Option<TaskType>,
    path: String,
    hash: String,
}

impl Suite {
    /// Opens a manifest file, a folder that holds one, or a folder of splits in the layouts above (for ALFWorld's also one
    /// level higher, as in `json_2.1.1/train`). With a manifest every game's hash is checked; without one it is computed.
    ///
    /// # Errors
    /// `Io` when the path cannot be read, `Manifest` for a line that means nothing, `NotASuite` for another folder. A single
    /// missing or damaged game is no error but one of [`Suite::faults`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SuiteError> {
        let path = path.as_ref();
        let manifest = path.join(MANIFEST);
        if manifest.is_file() {
            return open_manifest(&manifest);
        }
        if fs::metadata(path)
            .map_err(|source| cannot_read(path, source))?
            .is_file()
        {
            return open_manifest(path);
        }
        open_layout(path)
    }

    /// The tasks of one split, in the order of their ids.
    #[must_use]
    pub fn split(&self, split: Split) -> Vec<&Task> {
        self.tasks
            .iter()
            .filter(|task| task.split == split)
            .collect()
    }

    /// Lower-case hex SHA-256 over the sorted (split, id, game hash): equal when the same games are asked the same way,
    /// wherever they lie.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut lines: Vec<String> = self
            .tasks
            .iter()
            .map(|task| format!("{}\t{}\t{}\n", task.split, task.id, task.hash))
            .collect();
        lines.sort_unstable();
        hex_sha256(lines.concat().as_bytes())
    }

    /// Writes the manifest of the whole games to `path`, replacing what was there at once or not at all.
    ///
    /// # Errors
    /// `Outside` when a game lies outside the manifest's folder, `Io` when the file cannot be written.
    pub fn write_manifest(&self, path: impl AsRef<Path>) -> Result<(), SuiteError> {
        let path = path.as_ref();
        let mut text = json_line(&Header {
            suite: self.name.clone(),
            format: FORMAT,
        });
        for task in &self.tasks {
            text.push_str(&json_line(&Entry {
                id: task.id.clone(),
                split: task.split,
                task_type: task.task_type,
                path: relative_path(&task.path, folder_of(path))?,
                hash: task.hash.clone(),
            }));
        }
        files::replace(path, text.as_bytes()).map_err(|source| cannot_write(path, source))
    }
}

/// Lower-case hex SHA-256 of bytes.
#[must_use]
pub fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
            hex
        })
}

fn open_manifest(path: &Path) -> Result<Suite, SuiteError> {
    let text = fs::read_to_string(path).map_err(|source| cannot_read(path, source))?;
    let bad_line = |line: usize, reason: String, hint| SuiteError::Manifest {
        path: path.into(),
        line,
        reason,
        hint,
    };
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));

    let header_hint = r#"the first line of a manifest is {"suite": NAME, "format": 1}"#;
    let first = lines.next().map_or("", |(_, line)| line);
    let header: Header =
        serde_json::from_str(first).map_err(|e| bad_line(1, e.to_string(), header_hint))?;
    if header.format != FORMAT {
        return Err(bad_line(
            1,
            format!("unknown format {}", header.format),
            "this version reads format 1",
        ));
    }

    let root = folder_of(path);
    let mut suite = Suite {
        name: header.suite,
        root: root.into(),
        tasks: Vec::new(),
        faults: Vec::new(),
        left_out: Vec::new(),
    };
    let mut ids = HashSet::new();
    for (number, line) in lines {
        let entry: Entry = serde_json::from_str(line).map_err(|e| {
            bad_line(
                number,
                e.to_string(),
                "a game's line holds id, split, task_type, path and hash, and nothing else",
            )
        })?;
        if !ids.insert(entry.id.clone()) {
            return Err(bad_line(
                number,
                format!("id {:?} occurs twice", entry.id),
                "remove one of the two lines",
            ));
        }
        if !stays_below(Path::new(&entry.path)) {
            let reason = format!("path {:?} leaves the folder of the manifest", entry.path);
            return Err(bad_line(
                number,
                reason,
                "paths are relative and go down only",
            ));
        }
        match check_entry(&entry, root) {
            Ok(task) => suite.tasks.push(task),
            Err(fault) => suite.faults.push(fault),
        }
    }
    Ok(in_order(suite))
}

fn check_entry(entry: &Entry, root: &Path) -> Result<Task, Fault> {
    let path = root.join(&entry.path);
    let hash = match fs::read(&path) {
        Ok(bytes) => hex_sha256(&bytes),
        Err(error) => {
            return Err(Fault {
                path,
                reason: format!("cannot read the game: {error}"),
            });
        }
    };
    if hash != entry.hash {
        let reason = format!(
            "the game is not the one in the manifest (hash {hash}, expected {})",
            entry.hash
        );
        return Err(Fault { path, reason });
    }
    Ok(Task {
        id: entry.id.clone(),
        split: entry.split,
        task_type: entry.task_type,
        path,
        hash,
    })
}

fn open_layout(path: &Path) -> Result<Suite, SuiteError> {
    let root = layout_root(path)?.ok_or_else(|| SuiteError::NotASuite { path: path.into() })?;
    let name = fs::canonicalize(path)
        .ok()
        .and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    let name = name.unwrap_or_else(|| "suite".into());
    let mut suite = Suite {
        name,
        root,
        tasks: Vec::new(),
        faults: Vec::new(),
        left_out: Vec::new(),
    };
    for split in Split::ALL {
        let folder = suite.root.join(split.name());
        if folder.is_dir() {
            for entry in entries(&folder)? {
                if entry.is_dir() {
                    for trial in subfolders(&entry)? {
                        suite.add(&trial, read_trial(&suite.root, split, &trial));
                    }
                } else if let Some(found) = read_file(&suite.root, split, &entry) {
                    suite.add(&entry, found);
                }
            }
        }
    }
    Ok(in_order(suite))
}

/// The folder that holds the splits: `path` itself, or a `json_…` folder in it.
fn layout_root(path: &Path) -> Result<Option<PathBuf>, SuiteError> {
    let holds_splits = |folder: &Path| {
        Split::ALL
            .iter()
            .any(|split| folder.join(split.name()).is_dir())
    };
    if holds_splits(path) {
        return Ok(Some(path.into()));
    }
    let is_release = |folder: &PathBuf| {
        folder
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("json_"))
    };
    Ok(subfolders(path)?
        .into_iter()
        .filter(is_release)
        .find(|folder| holds_splits(folder)))
}

impl Suite {
    fn add(&mut self, place: &Path, found: Found) {
        match found {
            Found::Game(task) => self.tasks.push(task),
            Found::Faulty(fault) => self.faults.push(fault),
            Found::LeftOut(reason) => self.left_out.push(Fault {
                path: place.into(),
                reason: reason.into(),
            }),
        }
    }
}

/// What stands in a place where a game is expected.
enum Found {
    Game(Task),
    Faulty(Fault),
    LeftOut(&'static str),
}

#[derive(Deserialize)]
struct GameHead {
    solvable: Option<bool>,
}

#[derive(Deserialize)]
struct TrajData {
    task_type: TaskType,
}

fn read_trial(root: &Path, split: Split, trial: &Path) -> Found {
    let id = slashed(trial.strip_prefix(root).unwrap_or(trial));
    if id.contains("movable") || id.contains("Sliced") {
        return Found::LeftOut("movable receptacle or sliced object");
    }
    let path = trial.join(GAME);
    if matches!(path.try_exists(), Ok(false)) {
        return Found::LeftOut("no game file");
    }
    let found = read_game(id, split, path);
    let Found::Game(task) = found else {
        return found;
    };
    match read_task_type(&trial.join(TRAJ_DATA)) {
        Ok(task_type) => Found::Game(Task { task_type, ..task }),
        Err(reason) => Found::Faulty(Fault {
            path: trial.join(TRAJ_DATA),
            reason,
        }),
    }
}

/// A file that lies in the folder of a split itself; `None` where it is there for another reason, as what `tw-make`
/// writes beside its games.
fn read_file(root: &Path, split: Split, path: &Path) -> Option<Found> {
    match path.extension()?.to_str()? {
        "z1" | "z2" | "z3" | "z4" | "z5" | "z6" | "z7" | "z8" | "tw-pddl" => {
            let id = slashed(path.strip_prefix(root).unwrap_or(path));
            Some(read_game(id, split, path.into()))
        }
        "ulx" => Some(Found::LeftOut("TextWorld 1.7 no longer plays Glulx")),
        _ => None,
    }
}

/// A game of a kind yet unknown.
fn read_game(id: String, split: Split, path: PathBuf) -> Found {
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            return Found::Faulty(Fault {
                path,
                reason: format!("cannot read the game: {error}"),
            });
        }
    };
    if path
        .extension()
        .is_some_and(|extension| extension == "tw-pddl")
    {
        match serde_json::from_slice::<GameHead>(&bytes) {
            Ok(GameHead {
                solvable: Some(false),
            }) => return Found::LeftOut("marked unsolvable"),
            Ok(_) => {}
            Err(error) => {
                return Found::Faulty(Fault {
                    path,
                    reason: format!("not a game: {error}"),
                });
            }
        }
    }
    Found::Game(Task {
        id,
        split,
        task_type: None,
        hash: hex_sha256(&bytes),
        path,
    })
}

/// `None` where there is no such file.
fn read_task_type(path: &Path) -> Result<Option<TaskType>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let data: TrajData = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok(Some(data.task_type))
}

fn in_order(mut suite: Suite) -> Suite {
    suite
        .tasks
        .sort_by(|a, b| (a.split, &a.id).cmp(&(b.split, &b.id)));
    suite
}

/// What a folder holds, by name.
fn entries(path: &Path) -> Result<Vec<PathBuf>, SuiteError> {
    let found =
        fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries: Vec<PathBuf> = found.map_err(|source| cannot_read(path, source))?;
    entries.sort();
    Ok(entries)
}

fn subfolders(path: &Path) -> Result<Vec<PathBuf>, SuiteError> {
    Ok(entries(path)?
        .into_iter()
        .filter(|entry| entry.is_dir())
        .collect())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn stays_below(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn relative_path(path: &Path, folder: &Path) -> Result<String, SuiteError> {
    let below = path.strip_prefix(folder).or_else(|_| {
        match folder == Path::new(".") && stays_below(path) {
            true => Ok(path),
            false => Err(SuiteError::Outside {
                path: path.into(),
                folder: folder.into(),
            }),
        }
    })?;
    Ok(slashed(below))
}

fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}

fn json_line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("strings and numbers are always JSON");
    line.push('\n');
    line
}

fn cannot_read(path: &Path, source: io::Error) -> SuiteError {
    SuiteError::Io {
        verb: "read",
        path: path.into(),
        hint: "name a suite folder or a manifest file",
        source,
    }
}

fn cannot_write(path: &Path, source: io::Error) -> SuiteError {
    SuiteError::Io {
        verb: "write",
        path: path.into(),
        hint: "name a file in a folder that exists",
        source,
    }
}
