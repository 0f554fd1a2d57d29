//! A stage of a run on the disk: what it was made from, how far it is, what came out. Knows nothing of games, jobs or
//! recipes, only names, inputs and files.
//!
//! Beside each stage's output stands its manifest: `stage.json` in a folder that is one stage's (a job's),
//! `NAME.stage.json` beside the files `NAME.*` of any other. It is written before the output begins and again when it is
//! whole. A stage is named by its inputs: with the same inputs a finished one is reused and a begun one goes on; with
//! others it is moved to `RUN/aside/STAGE.HASH`, and comes back when its inputs do. Nothing is overwritten or removed.
//!
//! The inputs hold a stage's version ([`VERSION`]) in the code's place: a commit that changes nothing a stage computes
//! throws no day's work away, and who changes what one computes raises the number. Which code ran is written down beside.

use super::old_names;
use crate::error::TrainerError;
use scenarios::files;
use scenarios::suite::hex_sha256;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What stages compute; another number makes every earlier output out of date.
pub const VERSION: u32 = 2;

/// The form of a manifest.
const FORMAT: u32 = 1;

/// The folder of a run where that goes which fits no more.
pub const ASIDE: &str = "aside";

/// All that decides what a stage computes, flat: `job.optimizer.batch` → 16.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageInputs(#[serde(deserialize_with = "with_new_names")] BTreeMap<String, Value>);

fn with_new_names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Value>, D::Error> {
    let inputs = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(inputs
        .into_iter()
        .map(|(key, value)| old_names::to_new(&key, value))
        .collect())
}

/// An input that is not what it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its name.
    pub key: String,
    /// What it is now; `None` = there is none.
    pub is: Option<Value>,
    /// What it was.
    pub was: Option<Value>,
}

impl StageInputs {
    /// The same with one more; tables and lists become a line a leaf.
    ///
    /// # Panics
    /// When the value cannot be written as JSON, which recipes, protocols and hashes can.
    #[must_use]
    pub fn with(mut self, key: &str, value: &impl Serialize) -> Self {
        // By way of text, so that 0.3 of 32 bits stays 0.3.
        let text = serde_json::to_string(value).expect("an input is plain data");
        self.add(
            key,
            serde_json::from_str(&text).expect("JSON that was just written"),
        );
        self
    }

    fn add(&mut self, key: &str, value: Value) {
        match value {
            Value::Object(table) => table
                .into_iter()
                .for_each(|(name, value)| self.add(&format!("{key}.{name}"), value)),
            Value::Array(list) => {
                list.into_iter()
                    .enumerate()
                    .for_each(|(index, value)| self.add(&format!("{key}[{index}]"), value));
            }
            leaf => {
                self.0.insert(key.into(), leaf);
            }
        }
    }

    /// Lower-case hex SHA-256 over all of them, by their old names.
    #[must_use]
    pub fn hash(&self) -> String {
        let old: BTreeMap<String, Value> = self
            .0
            .iter()
            .map(|(key, value)| old_names::to_old(key, value))
            .collect();
        let lines: String = old
            .iter()
            .map(|(key, value)| format!("{key}\t{value}\n"))
            .collect();
        hex_sha256(lines.as_bytes())
    }

    /// Where they are not what they were.
    #[must_use]
    pub fn differences(&self, before: &Self) -> Vec<Difference> {
        let keys = self
            .0
            .keys()
            .chain(before.0.keys().filter(|key| !self.0.contains_key(*key)));
        let difference = |key: &String| {
            let (is, was) = (self.0.get(key).cloned(), before.0.get(key).cloned());
            (is != was).then(|| Difference {
                key: key.clone(),
                is,
                was,
            })
        };
        keys.filter_map(difference).collect()
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = |value: &Option<Value>| match value.as_ref().map(ToString::to_string) {
            None => "not there".into(),
            Some(text) if text.len() > 60 => format!(
                "{}…",
                text.chars().take(12).collect::<String>().replace('"', "")
            ),
            Some(text) => text,
        };
        write!(
            f,
            "`{}` is {} and was {}",
            self.key,
            said(&self.is),
            said(&self.was)
        )
    }
}

/// Differences as a sentence: the first three, and how many more.
#[must_use]
pub fn sentence(differences: &[Difference]) -> String {
    let first: Vec<String> = differences
        .iter()
        .take(3)
        .map(ToString::to_string)
        .collect();
    let more = differences.len().saturating_sub(first.len());
    first.join(", ")
        + &if more > 0 {
            format!(" (and {more} more)")
        } else {
            String::new()
        }
}

/// Whether a stage's output is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was begun.
    Running,
    /// It is.
    Done,
}

/// What stands beside a stage's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageManifest {
    format: u32,
    /// Its name, as `1/oreo`.
    pub stage: String,
    /// How far it is.
    pub state: State,
    /// Hash of the inputs.
    pub inputs_hash: String,
    /// What it is made from.
    pub inputs: StageInputs,
    /// Episodes that will be played, or updates that will be made; 0 until that is known.
    pub expected: usize,
    /// Unix seconds at which it began, or went on last.
    pub started: u64,
    /// Unix seconds at which it was whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// What came out, by what it is called among the inputs of later stages: a hash.
    pub outcome: BTreeMap<String, String>,
    /// Bytes of the files of a whole output.
    pub files: BTreeMap<String, u64>,
    /// Which code ran; decides nothing.
    pub code: String,
}

/// Where a stage's output and manifest are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePaths {
    run: PathBuf,
    stage: String,
    form: Form,
}

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A folder of its own.
    Folder,
    /// The files whose names begin with the stage's and a dot.
    Files,
}

/// What stands in a stage's place.
pub enum Found {
    /// A whole output of these inputs.
    Done(StageManifest),
    /// One that was begun, or nothing yet: to be gone on with.
    Begun(StageManifest),
}

impl StageManifest {
    fn new(stage: &str, inputs: StageInputs, code: &str) -> Self {
        Self {
            format: FORMAT,
            stage: stage.into(),
            state: State::Running,
            inputs_hash: inputs.hash(),
            inputs,
            expected: 0,
            started: now(),
            ended: None,
            outcome: BTreeMap::new(),
            files: BTreeMap::new(),
            code: code.into(),
        }
    }

    fn read(path: &Path) -> Result<Option<Self>, TrainerError> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(TrainerError::file(path))?,
        };
        let hint =
            "hint: it stands beside the output of a stage; without it the output is moved aside";
        let manifest: Self = serde_json::from_str(&text)
            .map_err(|e| TrainerError::content(path, format!("{e}\n{hint}")))?;
        if manifest.format != FORMAT {
            return Err(TrainerError::content(
                path,
                format!("unknown format {}\n{hint}", manifest.format),
            ));
        }
        Ok(Some(manifest))
    }
}

impl StagePaths {
    /// Of the stage of that name in a run's folder.
    #[must_use]
    pub fn new(run: &Path, stage: &str, form: Form) -> Self {
        Self {
            run: run.into(),
            stage: stage.into(),
            form,
        }
    }

    /// The output's folder, or its files' path without their extensions.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.run.join(&self.stage)
    }

    /// One file of the output: in its folder, or with that extension.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        match self.form {
            Form::Folder => self.path().join(name),
            Form::Files => self.run.join(format!("{}.{name}", self.stage)),
        }
    }

    /// What the manifest says; `None` where there is none.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn manifest(&self) -> Result<Option<StageManifest>, TrainerError> {
        StageManifest::read(&self.file("stage.json"))
    }

    /// Whether the files of a finished stage are all there, in their lengths.
    #[must_use]
    pub fn is_whole(&self, manifest: &StageManifest) -> bool {
        let is_there = |(name, bytes): (&String, &u64)| {
            fs::metadata(self.file(name)).is_ok_and(|f| f.len() == *bytes)
        };
        manifest.state == State::Done && manifest.files.iter().all(is_there)
    }

    /// Whether there is an output without a manifest, as runs of an earlier hearth have them.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn is_unsigned(&self) -> Result<bool, TrainerError> {
        Ok(self.manifest()?.is_none() && !self.parts()?.is_empty())
    }

    /// Makes the place ready for `inputs`: what stands there from others is moved aside, what was moved aside and has
    /// them comes back. An output without a manifest is taken as it is. What is done that the user should know of is said.
    ///
    /// # Errors
    /// When a file cannot be read, moved or written.
    pub fn claim(
        &self,
        inputs: StageInputs,
        code: &str,
        say: &dyn Fn(&str),
    ) -> Result<Found, TrainerError> {
        if let Some(found) = self.manifest()?
            && found.inputs_hash != inputs.hash()
        {
            let why = sentence(&inputs.differences(&found.inputs));
            self.move_aside(
                &found.inputs_hash,
                &format!("is out of date, as {why}"),
                say,
            )?;
        }
        self.bring_back(&inputs.hash(), say)?;
        match self.manifest()? {
            Some(manifest) if self.is_whole(&manifest) => Ok(Found::Done(manifest)),
            Some(manifest) => {
                let manifest = StageManifest {
                    state: State::Running,
                    started: now(),
                    ended: None,
                    code: code.into(),
                    ..manifest
                };
                self.write(&manifest)?;
                Ok(Found::Begun(manifest))
            }
            None => {
                let manifest = StageManifest::new(&self.stage, inputs, code);
                self.write(&manifest)?;
                Ok(Found::Begun(manifest))
            }
        }
    }

    /// Writes down how much there is to do.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn expect(&self, manifest: &mut StageManifest, count: usize) -> Result<(), TrainerError> {
        manifest.expected = count;
        self.write(manifest)
    }

    /// Writes down that the output is whole: what came out, and which files hold it.
    ///
    /// # Errors
    /// When a file is not there, or the manifest cannot be written.
    pub fn finish(
        &self,
        manifest: StageManifest,
        outcome: BTreeMap<String, String>,
        names: &[&str],
    ) -> Result<StageManifest, TrainerError> {
        let length = |name: &&str| {
            let path = self.file(name);
            let length = fs::metadata(&path)
                .map_err(TrainerError::file(&path))?
                .len();
            Ok(((*name).to_string(), length))
        };
        let files = names
            .iter()
            .map(length)
            .collect::<Result<_, TrainerError>>()?;
        let manifest = StageManifest {
            state: State::Done,
            ended: Some(now()),
            outcome,
            files,
            ..manifest
        };
        self.write(&manifest)?;
        Ok(manifest)
    }

    fn write(&self, manifest: &StageManifest) -> Result<(), TrainerError> {
        let path = self.file("stage.json");
        let text =
            serde_json::to_string_pretty(manifest).map_err(|e| TrainerError::content(&path, e))?;
        make_parent(&path)?;
        files::replace(&path, (text + "\n").as_bytes()).map_err(TrainerError::file(&path))
    }

    /// What stands in the place, the manifest last; not what a killed process left half written.
    fn parts(&self) -> Result<Vec<PathBuf>, TrainerError> {
        let path = self.path();
        let mut parts = match (self.form, path.parent(), path.file_name()) {
            (Form::Folder, ..) => beginning_with(&path, "")?,
            (Form::Files, Some(folder), Some(name)) => {
                beginning_with(folder, &format!("{}.", name.to_string_lossy()))?
            }
            (Form::Files, ..) => Vec::new(),
        };
        parts.retain(|part| part.extension().is_none_or(|extension| extension != "new"));
        let manifest = self.file("stage.json");
        parts.sort_by_key(|part| *part == manifest);
        Ok(parts)
    }

    /// Moves all of it to `aside/STAGE.LABEL`.
    ///
    /// # Errors
    /// When it cannot be moved; what was not moved yet stays, with the manifest.
    pub fn move_aside(
        &self,
        label: &str,
        why: &str,
        say: &dyn Fn(&str),
    ) -> Result<(), TrainerError> {
        let parts = self.parts()?;
        if parts.is_empty() {
            return Ok(());
        }
        let aside = self.free_aside(label);
        make_parent(&aside)?;
        match self.form {
            Form::Folder => rename(&self.path(), &aside)?,
            Form::Files => move_into(&parts, &aside)?,
        }
        let kept = aside
            .strip_prefix(&self.run)
            .unwrap_or(&aside)
            .display()
            .to_string();
        say(&format!("{} {why}; it is kept in {kept}", self.stage));
        Ok(())
    }

    /// Where something can be moved: a folder that is not there, or that was not filled to the end.
    fn free_aside(&self, label: &str) -> PathBuf {
        let is_free = |path: &PathBuf| match self.form {
            Form::Folder => !path.exists(),
            Form::Files => !path.join(manifest_name(&self.stage)).exists(),
        };
        let plain = self.aside(label);
        let later = (2..).map(|number| {
            self.run
                .join(ASIDE)
                .join(format!("{}.{}-{number}", self.stage, short(label)))
        });
        std::iter::once(plain)
            .chain(later)
            .find(is_free)
            .expect("one of endlessly many is free")
    }

    fn aside(&self, label: &str) -> PathBuf {
        self.run
            .join(ASIDE)
            .join(format!("{}.{}", self.stage, short(label)))
    }

    /// Puts back what was moved aside with these inputs, if there is any. A move that was cut short goes on.
    fn bring_back(&self, inputs_hash: &str, say: &dyn Fn(&str)) -> Result<(), TrainerError> {
        let aside = self.aside(inputs_hash);
        match self.form {
            Form::Folder if aside.exists() && !self.path().exists() => {
                rename(&aside, &self.path())?
            }
            Form::Files if aside.exists() => {
                let path = self.path();
                let Some(folder) = path.parent() else {
                    return Ok(());
                };
                let mut parts = beginning_with(&aside, "")?;
                let manifest = aside.join(manifest_name(&self.stage));
                parts.sort_by_key(|part| *part != manifest);
                parts.retain(|part| {
                    part.file_name()
                        .is_some_and(|name| !folder.join(name).exists())
                });
                move_into(&parts, folder)?;
                let _ = fs::remove_dir(&aside); // where it is empty now
                if parts.is_empty() {
                    return Ok(());
                }
            }
            _ => return Ok(()),
        }
        say(&format!(
            "{} is taken again from what was moved aside",
            self.stage
        ));
        Ok(())
    }
}

/// Every stage that has a manifest in a run's folder, iterations' folders and their `eval` included.
///
/// # Errors
/// When a folder cannot be read.
pub fn all(run: &Path) -> Result<Vec<StagePaths>, TrainerError> {
    let mut places = Vec::new();
    let iterations: Vec<PathBuf> = beginning_with(run, "")?
        .into_iter()
        .filter(|path| is_numbered(path))
        .collect();
    let evaluations = iterations
        .iter()
        .map(|folder| folder.join("eval"))
        .filter(|folder| folder.is_dir());
    for folder in iterations
        .iter()
        .cloned()
        .chain(evaluations)
        .chain([run.to_path_buf()])
    {
        for path in beginning_with(&folder, "")? {
            let Ok(below) = path.strip_prefix(run) else {
                continue;
            };
            let name = below.to_string_lossy().replace('\\', "/");
            if let Some(stage) = name.strip_suffix(".stage.json") {
                places.push(StagePaths::new(run, stage, Form::Files));
            } else if path.join("stage.json").exists() {
                places.push(StagePaths::new(run, &name, Form::Folder));
            }
        }
    }
    Ok(places)
}

impl StagePaths {
    /// The stage's name, as `1/oreo`.
    #[must_use]
    pub fn stage(&self) -> &str {
        &self.stage
    }
}

fn is_numbered(path: &Path) -> bool {
    path.is_dir()
        && path.file_name().is_some_and(|name| {
            name.to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
}

/// The entries of a folder whose names begin so, sorted; none where there is no folder.
fn beginning_with(folder: &Path, start: &str) -> Result<Vec<PathBuf>, TrainerError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(TrainerError::file(folder))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(TrainerError::file(folder))?;
        if entry.file_name().to_string_lossy().starts_with(start) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn manifest_name(stage: &str) -> String {
    format!("{}.stage.json", stage.rsplit('/').next().unwrap_or(stage))
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn rename(from: &Path, to: &Path) -> Result<(), TrainerError> {
    fs::rename(from, to).map_err(TrainerError::file(from))
}

fn move_into(parts: &[PathBuf], folder: &Path) -> Result<(), TrainerError> {
    fs::create_dir_all(folder).map_err(TrainerError::file(folder))?;
    let named = parts
        .iter()
        .filter_map(|part| Some((part, folder.join(part.file_name()?))));
    named
        .into_iter()
        .try_for_each(|(part, there)| rename(part, &there))
}

fn make_parent(path: &Path) -> Result<(), TrainerError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(TrainerError::file(parent))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::cell::RefCell;

    /// A stage of files, claimed with one number as its input; says what was said.
    fn claim(place: &StagePaths, number: usize) -> (Found, Vec<String>) {
        let said = RefCell::new(Vec::new());
        let inputs = StageInputs::default().with("number", &number);
        let found = place
            .claim(inputs, "code", &|text| {
                said.borrow_mut().push(text.to_string())
            })
            .expect("claims");
        (found, said.into_inner())
    }

    fn finish(place: &StagePaths, number: usize) {
        let (Found::Begun(manifest), _) = claim(place, number) else {
            panic!("nothing is done")
        };
        fs::write(place.file("jsonl"), format!("episodes of {number}")).expect("writes");
        let outcome = BTreeMap::from([("episodes".to_string(), "hash".to_string())]);
        place
            .finish(manifest, outcome, &["jsonl"])
            .expect("finishes");
    }

    fn text(place: &StagePaths) -> String {
        fs::read_to_string(place.file("jsonl")).expect("reads")
    }

    #[test]
    fn inputs_are_flat_and_name_what_differs() {
        let table = json!({"rate": 0.5, "data": ["a", {"last": 2}], "none": null});
        let inputs = StageInputs::default()
            .with("job", &table)
            .with("temperature", &0.3_f32);
        let written = serde_json::to_string(&inputs).expect("JSON");
        let expected = r#"{"job.data[0]":"a","job.data[1].last":2,"job.none":null,"job.rate":0.5,"temperature":0.3}"#;
        assert_eq!(written, expected);
        let other = inputs
            .clone()
            .with("job.rate", &0.25)
            .with("policy", &"0".repeat(64));
        assert_ne!(inputs.hash(), other.hash());
        let said = sentence(&other.differences(&inputs));
        assert_eq!(
            said,
            "`job.rate` is 0.25 and was 0.5, `policy` is 00000000000… and was not there"
        );
        assert_eq!(sentence(&inputs.differences(&inputs)), "");
    }

    #[test]
    fn other_inputs_move_the_output_aside_and_the_same_bring_it_back() {
        let run = tempfile::tempdir().expect("a folder");
        let place = StagePaths::new(run.path(), "1/rollouts", Form::Files);
        finish(&place, 1);
        assert!(matches!(claim(&place, 1), (Found::Done(_), said) if said.is_empty()));
        let label = place.manifest().expect("reads").expect("there").inputs_hash[..12].to_string();
        let (found, said) = claim(&place, 2);
        assert!(matches!(found, Found::Begun(_)) && !place.file("jsonl").exists());
        let why = "1/rollouts is out of date, as `number` is 2 and was 1; it is kept in aside/1/rollouts.";
        assert_eq!(said, [format!("{why}{label}")]);
        finish(&place, 2);
        assert!(matches!(claim(&place, 1), (Found::Done(_), said) if said.len() == 2));
        assert_eq!(text(&place), "episodes of 1");
        assert!(matches!(claim(&place, 2), (Found::Done(_), _)));
        assert_eq!(text(&place), "episodes of 2");
    }

    /// Of three files some are moved when the process is killed: either way goes on to its end.
    #[test]
    fn a_move_that_was_cut_short_goes_on() {
        for goes_back in [false, true] {
            let run = tempfile::tempdir().expect("a folder");
            let place = StagePaths::new(run.path(), "demonstrations", Form::Files);
            finish(&place, 1);
            let label = place.manifest().expect("reads").expect("there").inputs_hash;
            let aside = place.aside(&label);
            fs::create_dir_all(&aside).expect("makes");
            fs::rename(place.file("jsonl"), aside.join("demonstrations.jsonl"))
                .expect("as if killed after the first");
            if goes_back {
                assert!(matches!(claim(&place, 1), (Found::Done(_), _)));
                assert!(!aside.exists() && text(&place) == "episodes of 1");
            } else {
                assert!(matches!(claim(&place, 2), (Found::Begun(_), _)));
                assert_eq!(
                    beginning_with(&aside, "").expect("reads").len(),
                    2,
                    "store and manifest"
                );
            }
        }
    }

    #[test]
    fn an_output_that_is_not_whole_goes_on() {
        let run = tempfile::tempdir().expect("a folder");
        let place = StagePaths::new(run.path(), "demonstrations", Form::Files);
        fs::write(place.file("stage.json.new"), "{").expect("as if killed at the first write");
        assert!(!place.is_unsigned().expect("reads"));
        finish(&place, 1);
        fs::write(place.file("jsonl"), "episodes").expect("as if torn");
        let (Found::Begun(manifest), said) = claim(&place, 1) else {
            panic!("a file is shorter")
        };
        assert_eq!(
            (manifest.state, manifest.ended, said.len()),
            (State::Running, None, 0)
        );
        fs::write(place.file("stage.json"), "{}").expect("damages");
        let error = place.manifest().expect_err("damaged").to_string();
        assert!(
            error.contains("demonstrations.stage.json: missing field") && error.contains("hint: "),
            "{error}"
        );
    }
}
