//! A suite: a named list of tasks, checked against hashes.
//!
//! Two forms are read. A manifest is JSONL: a header `{"suite": NAME, "format": 1}`, then one game
//! per line with `id`, `split`, `task_type`, `path` (relative to the manifest) and `hash`. If a
//! folder has no `suite.jsonl`, its games are found by its layout, which may be ALFWorld's, that of
//! other TextWorld games, or both:
//!
//! ```text
//! SPLIT/TASK/TRIAL/game.tw-pddl     with a traj_data.json beside it: ALFWorld's layout
//! SPLIT/NAME.z8                     z1 to z8 and tw-pddl, for example the output of
//!                                   `tw-make tw-coin_collector … --output SPLIT/NAME.z8`
//! ```
//!
//! The content of a game is not read, except to check whether ALFWorld marks it as unsolvable.

use crate::files::{self, without_mark};
use crate::task::{Split, Task, TaskType};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

/// The file name of the manifest within a folder.
pub const MANIFEST: &str = "suite.jsonl";
/// The file name of a game within its trial folder.
pub const GAME: &str = "game.tw-pddl";
/// The name of the file beside a game that contains its task type.
pub const TRAJ_DATA: &str = "traj_data.json";

const FORMAT: u32 = 1;

/// A named list of tasks, in the order of (split, id).
///
/// ```
/// use scenarios::{Split, Suite, household};
///
/// let folder = tempfile::tempdir()?;
/// let options = household::GenerateOptions {
///     train: 6,
///     valid_train: 0,
///     seen: 0,
///     unseen: 2,
///     ..household::GenerateOptions::default()
/// };
/// household::generate(folder.path(), &options)?;
///
/// let suite = Suite::open(folder.path())?;
/// assert_eq!(suite.name, "household-small-seed1");
/// assert_eq!((suite.tasks.len(), suite.faults.len()), (8, 0));
/// assert_eq!(suite.split(Split::ValidUnseen).len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// Its name in tables.
    pub name: String,
    /// The folder that holds the manifest or the splits.
    pub root: PathBuf,
    /// The games that can be played.
    pub tasks: Vec<Task>,
    /// Games that are listed but cannot be used. They must be reported, never dropped silently.
    pub faults: Vec<SuiteFault>,
    /// Files and folders in the place of a game that are not playable games: folders that have no
    /// text game by ALFWorld's own rules (movable receptacles, sliced objects, no game file, marked
    /// unsolvable), and Glulx files. Empty if the suite has a manifest.
    pub left_out: Vec<SuiteFault>,
    /// Games in ALFWorld's layout without the mark `solvable`. They are among `tasks`, and ALFWorld skips them.
    pub unmarked: Vec<PathBuf>,
}

/// A game that is not in the suite, with the cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteFault {
    /// The file or folder.
    pub path: PathBuf,
    /// The cause.
    pub reason: String,
}

/// Why a suite cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A file or folder cannot be read or written.
    #[error("cannot {verb} {}: {source}\nhint: {hint}", path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// How to fix it.
        hint: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A line of a manifest is invalid.
    #[error("{}:{line}: {reason}\nhint: {hint}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
        /// The cause.
        reason: String,
        /// How to fix it.
        hint: &'static str,
    },
    /// The folder contains neither a manifest nor splits.
    #[error(
        "no suite in {}\nhint: expected {MANIFEST}, or folders named train, valid_train, valid_seen or valid_unseen, \
         with TASK/TRIAL/{GAME} or .z8 files in them",
        path.display()
    )]
    NotASuite {
        /// The folder.
        path: PathBuf,
    },
    /// A game is outside the folder of the manifest that should list it.
    #[error("{} is not below {}\nhint: write the manifest into a folder above all games", path.display(), folder.display())]
    Outside {
        /// The game.
        path: PathBuf,
        /// The folder of the manifest.
        folder: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SuiteHeader {
    suite: String,
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SuiteEntry {
    id: String,
    split: Split,
    task_type: Option<TaskType>,
    path: String,
    hash: String,
}

impl Suite {
    /// Opens a manifest file, a folder with a manifest, a folder of splits in one of the layouts
    /// above, or one game: its file, or its folder TASK/TRIAL. The split of one game is that of the folder above, else
    /// valid_seen. In ALFWorld's layout the splits may be one level lower, as in `json_2.1.1/train`. If
    /// there is a manifest, the hash of every game is checked; if not, the hashes are computed.
    ///
    /// # Errors
    /// `Io` if the path cannot be read, `Manifest` if a line is invalid, `NotASuite` for any other
    /// folder. A missing or damaged game is not an error; it is listed in [`Suite::faults`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SuiteError> {
        let path = path.as_ref();
        let manifest = path.join(MANIFEST);
        if manifest.is_file() {
            return open_manifest(&manifest);
        }
        if let Some(suite) = open_one_game(path)? {
            return Ok(suite);
        }
        if fs::metadata(path)
            .map_err(|source| cannot_read(path, source))?
            .is_file()
        {
            return open_manifest(path);
        }
        open_layout(path)
    }

    /// Returns the tasks of one split, in the order of their ids.
    #[must_use]
    pub fn split(&self, split: Split) -> Vec<&Task> {
        self.tasks
            .iter()
            .filter(|task| task.split == split)
            .collect()
    }

    /// Returns the first `games` tasks of one split; all of them if `games` is 0.
    #[must_use]
    pub fn first(&self, split: Split, games: usize) -> Vec<&Task> {
        let mut tasks = self.split(split);
        if games > 0 {
            tasks.truncate(games);
        }
        tasks
    }

    /// Returns the lower-case hex SHA-256 of the sorted (split, id, game hash). Two suites have the
    /// same hash if they have the same games with the same ids and splits, in whatever folder.
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

    /// Writes the manifest of the playable games to `path`. If a file exists there, it is replaced
    /// atomically.
    ///
    /// # Errors
    /// `Outside` if a game is outside the manifest's folder, `Io` if the file cannot be written.
    pub fn write_manifest(&self, path: impl AsRef<Path>) -> Result<(), SuiteError> {
        let path = path.as_ref();
        let mut text = json_line(&SuiteHeader {
            suite: self.name.clone(),
            format: FORMAT,
        });
        for task in &self.tasks {
            text.push_str(&json_line(&SuiteEntry {
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

/// Returns the lower-case hex SHA-256 of bytes.
#[must_use]
pub fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
            hex
        })
}

fn open_manifest(path: &Path) -> Result<Suite, SuiteError> {
    let text = fs::read_to_string(path).map_err(|source| cannot_read(path, source))?;
    let mut lines = (1..).zip(text.trim_start_matches('\u{feff}').lines());

    let header_hint = r#"the first line of a manifest is {"suite": NAME, "format": 1}"#;
    let first = lines.next().map_or("", |(_, line)| line);
    let header: SuiteHeader = serde_json::from_str(first)
        .map_err(|error| bad_line(path, 1, error.to_string(), header_hint))?;
    if header.format != FORMAT {
        return Err(bad_line(
            path,
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
        unmarked: Vec::new(),
    };
    let mut ids = HashSet::new();
    for (number, line) in lines {
        let entry: SuiteEntry = serde_json::from_str(line).map_err(|error| {
            bad_line(
                path,
                number,
                error.to_string(),
                "the line of a game has id, split, task_type, path and hash, and nothing else",
            )
        })?;
        if !ids.insert(entry.id.clone()) {
            return Err(bad_line(
                path,
                number,
                format!("id {:?} occurs twice", entry.id),
                "remove one of the two lines",
            ));
        }
        if !stays_below(Path::new(&entry.path)) {
            let reason = format!("path {:?} leaves the folder of the manifest", entry.path);
            return Err(bad_line(
                path,
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

fn bad_line(path: &Path, line: usize, reason: String, hint: &'static str) -> SuiteError {
    SuiteError::Manifest {
        path: path.into(),
        line,
        reason,
        hint,
    }
}

/// Returns the task of a line in a manifest. If its game is missing or changed, returns the fault.
fn check_entry(entry: &SuiteEntry, root: &Path) -> Result<Task, SuiteFault> {
    let path = root.join(&entry.path);
    let hash = match fs::read(&path) {
        Ok(bytes) => hex_sha256(&bytes),
        Err(error) => {
            return Err(SuiteFault {
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
        return Err(SuiteFault { path, reason });
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
    let mut suite = Suite::empty(name, root);
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

/// Opens one game; `None` if the path is neither the file of a game nor a trial's folder.
fn open_one_game(path: &Path) -> Result<Option<Suite>, SuiteError> {
    let is_trial = path.join(GAME).is_file() && !has_splits(path);
    let is_named = path.file_name().is_some_and(|name| name == GAME);
    if !is_trial && !(path.is_file() && (is_named || has_game_extension(path))) {
        return Ok(None);
    }
    let absolute = match path.file_name() {
        // The file may be a link to a file of another name.
        Some(name) if !is_trial => {
            let folder = path.parent().filter(|folder| *folder != Path::new(""));
            let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")));
            folder.map(|folder| folder.join(name))
        }
        _ => fs::canonicalize(path),
    };
    let path = absolute.map_err(|source| cannot_read(path, source))?;
    let place = if is_named {
        path.parent().unwrap_or(&path)
    } else {
        &path
    };
    let of_split = |folder: &&Path| {
        Split::ALL
            .into_iter()
            .find(|split| folder.ends_with(split.name()))
    };
    let folder = place
        .ancestors()
        .skip(1)
        .take(2)
        .find(|folder| of_split(folder).is_some());
    let split = folder.and_then(|folder| of_split(&folder));
    let above = |place: &Path| place.parent().map(Path::to_path_buf);
    let root = match folder {
        Some(folder) => above(folder),
        None if is_trial || is_named => above(place).as_deref().and_then(above),
        None => above(place),
    };
    let root = root.unwrap_or_else(|| "/".into());
    let mut suite = Suite::empty(
        place
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        root,
    );
    let split = split.unwrap_or(Split::ValidSeen);
    let found = if is_trial || is_named {
        Some(read_trial(&suite.root, split, place))
    } else {
        read_file(&suite.root, split, place)
    };
    if let Some(found) = found {
        suite.add(place, found);
    }
    Ok(Some(suite))
}

fn has_game_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        extension == "tw-pddl" || extension == "ulx" || STORY_FILES.contains(&extension)
    })
}

/// Returns the folder of the splits: `path` itself, or a `json_…` folder in it.
fn layout_root(path: &Path) -> Result<Option<PathBuf>, SuiteError> {
    if has_splits(path) {
        return Ok(Some(path.into()));
    }
    Ok(subfolders(path)?.into_iter().find(|folder| {
        let name = folder.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with("json_")) && has_splits(folder)
    }))
}

fn has_splits(folder: &Path) -> bool {
    Split::ALL
        .iter()
        .any(|split| folder.join(split.name()).is_dir())
}

impl Suite {
    fn empty(name: String, root: PathBuf) -> Self {
        Self {
            name,
            root,
            tasks: Vec::new(),
            faults: Vec::new(),
            left_out: Vec::new(),
            unmarked: Vec::new(),
        }
    }

    fn add(&mut self, place: &Path, found: GameEntry) {
        match found {
            GameEntry::Playable(task) => self.tasks.push(task),
            GameEntry::Unmarked(task) => {
                self.unmarked.push(task.path.clone());
                self.tasks.push(task);
            }
            GameEntry::Faulty(fault) => self.faults.push(fault),
            GameEntry::LeftOut(reason) => self.left_out.push(SuiteFault {
                path: place.into(),
                reason: reason.into(),
            }),
        }
    }
}

/// The content of a place where a layout expects a game.
enum GameEntry {
    Playable(Task),
    /// It can be played, and does not say whether it is solvable.
    Unmarked(Task),
    Faulty(SuiteFault),
    LeftOut(&'static str),
}

#[derive(Deserialize)]
struct SolvableMark {
    solvable: Option<bool>,
}

#[derive(Deserialize)]
struct TaskTypeMark {
    task_type: TaskType,
}

fn read_trial(root: &Path, split: Split, trial: &Path) -> GameEntry {
    let id = slashed(trial.strip_prefix(root).unwrap_or(trial));
    if id.contains("movable") || id.contains("Sliced") {
        return GameEntry::LeftOut("movable receptacle or sliced object");
    }
    let path = trial.join(GAME);
    if matches!(path.try_exists(), Ok(false)) {
        return GameEntry::LeftOut(NO_GAME_FILE);
    }
    let found = read_game(id, split, path);
    let (task, wrap): (Task, fn(Task) -> GameEntry) = match found {
        GameEntry::Playable(task) => (task, GameEntry::Playable),
        GameEntry::Unmarked(task) => (task, GameEntry::Unmarked),
        GameEntry::Faulty(_) | GameEntry::LeftOut(_) => return found,
    };
    match read_task_type(&trial.join(TRAJ_DATA)) {
        Ok(task_type) => wrap(Task { task_type, ..task }),
        Err(reason) => GameEntry::Faulty(SuiteFault {
            path: trial.join(TRAJ_DATA),
            reason,
        }),
    }
}

/// Reads a file directly in the folder of a split. Returns `None` if it is not a game, for example
/// if it is one of the files that `tw-make` writes beside its games.
fn read_file(root: &Path, split: Split, path: &Path) -> Option<GameEntry> {
    if !has_game_extension(path) {
        return None;
    }
    if path.extension().is_some_and(|extension| extension == "ulx") {
        return Some(GameEntry::LeftOut("TextWorld 1.7 no longer plays Glulx"));
    }
    let id = slashed(path.strip_prefix(root).unwrap_or(path));
    Some(read_game(id, split, path.into()))
}

/// The file extensions of Z-machine games.
const STORY_FILES: [&str; 8] = ["z1", "z2", "z3", "z4", "z5", "z6", "z7", "z8"];

/// The reason for [`Suite::left_out`] if a trial has no text game.
pub const NO_GAME_FILE: &str = "no game file";

/// Why a file is not JSON. A byte order mark is named, because it is invisible.
fn json_reason(bytes: &[u8], error: &serde_json::Error) -> String {
    if without_mark(bytes).len() < bytes.len() {
        return "begins with a byte order mark, which ALFWorld does not read either\nhint: save it as UTF-8 without the mark"
            .into();
    }
    error.to_string()
}

/// Reads a game without its task type.
fn read_game(id: String, split: Split, path: PathBuf) -> GameEntry {
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            return GameEntry::Faulty(SuiteFault {
                path,
                reason: format!("cannot read the game: {error}"),
            });
        }
    };
    let mut wrap: fn(Task) -> GameEntry = GameEntry::Playable;
    if path
        .extension()
        .is_some_and(|extension| extension == "tw-pddl")
    {
        match serde_json::from_slice::<SolvableMark>(&bytes) {
            Ok(SolvableMark {
                solvable: Some(false),
            }) => return GameEntry::LeftOut("marked unsolvable"),
            Ok(SolvableMark {
                solvable: Some(true),
            }) => {}
            Ok(SolvableMark { solvable: None }) => wrap = GameEntry::Unmarked,
            Err(error) => {
                let reason = json_reason(&bytes, &error);
                return GameEntry::Faulty(SuiteFault {
                    path,
                    reason: format!("not a game: {reason}"),
                });
            }
        }
    }
    wrap(Task {
        id,
        split,
        task_type: None,
        hash: hex_sha256(&bytes),
        path,
    })
}

/// Returns the task type in a `traj_data.json`, or `None` if there is no such file.
fn read_task_type(path: &Path) -> Result<Option<TaskType>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let data: TaskTypeMark =
        serde_json::from_slice(&bytes).map_err(|error| json_reason(&bytes, &error))?;
    Ok(Some(data.task_type))
}

fn in_order(mut suite: Suite) -> Suite {
    suite
        .tasks
        .sort_by(|a, b| (a.split, &a.id).cmp(&(b.split, &b.id)));
    suite
}

/// Returns the paths in a folder, sorted by name.
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
