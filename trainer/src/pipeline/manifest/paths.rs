//! The place of a stage's output in a run's folder, and moves between that place and `RUN/aside`.

use super::inputs::{StageInputs, sentence};
use super::record::{OutputState, StageManifest, StageOutput};
use crate::error::TrainerError;
use scenarios::files;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The subfolder of a run that holds outputs that no longer fit the recipe.
pub const ASIDE: &str = "aside";

/// Where a stage's output and its manifest are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePaths {
    run: PathBuf,
    stage: String,
    form: OutputForm,
}

/// Whether an output is a folder or a group of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputForm {
    /// A folder that belongs to one stage.
    Folder,
    /// The files whose names begin with the stage's name and a dot.
    Files,
}

/// The result of [`StagePaths::claim`].
pub enum Claimed {
    /// The output is complete and has these inputs.
    Done(StageManifest),
    /// The output is unfinished or does not exist yet; the stage must run.
    Begun(StageManifest),
}

impl StagePaths {
    /// Returns the paths of the stage with this name in a run's folder.
    #[must_use]
    pub fn new(run: &Path, stage: &str, form: OutputForm) -> Self {
        Self {
            run: run.into(),
            stage: stage.into(),
            form,
        }
    }

    /// Returns the stage's name on disk, for example `1/oreo`.
    #[must_use]
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// Returns the output's folder, or the path of its files without their extensions.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.run.join(&self.stage)
    }

    /// Returns the path of one file of the output. `name` is the name in the output's folder, or the
    /// extension if the output is a group of files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        match self.form {
            OutputForm::Folder => self.path().join(name),
            OutputForm::Files => self.run.join(format!("{}.{name}", self.stage)),
        }
    }

    /// Reads the manifest; returns `None` if there is none.
    ///
    /// # Errors
    /// If the manifest is damaged.
    pub fn manifest(&self) -> Result<Option<StageManifest>, TrainerError> {
        StageManifest::read(&self.file("stage.json"))
    }

    /// Returns whether the stage is finished and all its files exist with the recorded sizes.
    #[must_use]
    pub fn is_whole(&self, manifest: &StageManifest) -> bool {
        manifest.state == OutputState::Done
            && manifest.files.iter().all(|(name, bytes)| {
                fs::metadata(self.file(name)).is_ok_and(|file| file.len() == *bytes)
            })
    }

    /// Returns whether there is an output without a manifest, as in runs of the first versions.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn is_unsigned(&self) -> Result<bool, TrainerError> {
        Ok(self.manifest()?.is_none() && !self.parts()?.is_empty())
    }

    /// Prepares the place for an output with these inputs. If the place has an output with other inputs, it
    /// is moved aside. If an output with these inputs was moved aside, it is moved back. An output without a
    /// manifest is used as it is. `say` receives a message about each move.
    ///
    /// # Errors
    /// If a file cannot be read, moved or written.
    pub fn claim(
        &self,
        inputs: StageInputs,
        code: &str,
        say: &dyn Fn(&str),
    ) -> Result<Claimed, TrainerError> {
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
        let manifest = match self.manifest()? {
            Some(manifest) if self.is_whole(&manifest) => return Ok(Claimed::Done(manifest)),
            Some(manifest) => manifest.restarted(code),
            None => StageManifest::new(&self.stage, inputs, code),
        };
        self.write(&manifest)?;
        Ok(Claimed::Begun(manifest))
    }

    /// Records how many episodes or updates the stage will have.
    ///
    /// # Errors
    /// If the manifest cannot be written.
    pub fn expect(&self, manifest: &mut StageManifest, count: usize) -> Result<(), TrainerError> {
        manifest.expected = count;
        self.write(manifest)
    }

    /// Records that the output is complete: its hashes, and the sizes of the files that hold it.
    ///
    /// # Errors
    /// If a file does not exist, or the manifest cannot be written.
    pub fn finish(
        &self,
        manifest: StageManifest,
        output: StageOutput,
        names: &[&str],
    ) -> Result<StageManifest, TrainerError> {
        let mut files = BTreeMap::new();
        for name in names {
            let path = self.file(name);
            let file = fs::metadata(&path).map_err(TrainerError::file(&path))?;
            files.insert((*name).to_string(), file.len());
        }
        let manifest = manifest.finished(output, files);
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

    /// Returns the files of the output, the manifest last. Files that a killed process left half written
    /// (`*.new`) are omitted.
    fn parts(&self) -> Result<Vec<PathBuf>, TrainerError> {
        let path = self.path();
        let mut parts = match (self.form, path.parent(), path.file_name()) {
            (OutputForm::Folder, ..) => beginning_with(&path, "")?,
            (OutputForm::Files, Some(folder), Some(name)) => {
                beginning_with(folder, &format!("{}.", name.to_string_lossy()))?
            }
            (OutputForm::Files, ..) => Vec::new(),
        };
        parts.retain(|part| part.extension().is_none_or(|extension| extension != "new"));
        let manifest = self.file("stage.json");
        parts.sort_by_key(|part| *part == manifest);
        Ok(parts)
    }

    /// Moves the output and its manifest to `aside/STAGE.LABEL`.
    ///
    /// # Errors
    /// If a file cannot be moved. Files that were not moved yet stay in place, with the manifest.
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
            OutputForm::Folder => rename(&self.path(), &aside)?,
            OutputForm::Files => move_into(&parts, &aside)?,
        }
        let kept = aside
            .strip_prefix(&self.run)
            .unwrap_or(&aside)
            .display()
            .to_string();
        say(&format!("{} {why}; it is kept in {kept}", self.stage));
        Ok(())
    }

    /// Returns a folder to move an output into: one that does not exist, or one whose move was cut short.
    fn free_aside(&self, label: &str) -> PathBuf {
        let plain = self.aside(label);
        let numbered = (2..).map(|number| {
            self.run
                .join(ASIDE)
                .join(format!("{}.{}-{number}", self.stage, short(label)))
        });
        std::iter::once(plain)
            .chain(numbered)
            .find(|path| match self.form {
                OutputForm::Folder => !path.exists(),
                OutputForm::Files => !path.join(manifest_name(&self.stage)).exists(),
            })
            .expect("the numbers are endless, so one is free")
    }

    fn aside(&self, label: &str) -> PathBuf {
        self.run
            .join(ASIDE)
            .join(format!("{}.{}", self.stage, short(label)))
    }

    /// Moves the output that was moved aside with these inputs back, if there is one. If an earlier move was
    /// cut short, it continues.
    fn bring_back(&self, inputs_hash: &str, say: &dyn Fn(&str)) -> Result<(), TrainerError> {
        let aside = self.aside(inputs_hash);
        match self.form {
            OutputForm::Folder if aside.exists() && !self.path().exists() => {
                rename(&aside, &self.path())?
            }
            OutputForm::Files if aside.exists() => {
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
                let _ = fs::remove_dir(&aside); // succeeds if the folder is empty now
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

/// Returns every stage with a manifest in a run's folder, including the folders of iterations and their
/// `eval` subfolders.
///
/// # Errors
/// If a folder cannot be read.
pub fn all(run: &Path) -> Result<Vec<StagePaths>, TrainerError> {
    let mut folders: Vec<PathBuf> = beginning_with(run, "")?
        .into_iter()
        .filter(|path| is_numbered(path))
        .collect();
    let evaluations: Vec<PathBuf> = folders
        .iter()
        .map(|folder| folder.join("eval"))
        .filter(|folder| folder.is_dir())
        .collect();
    folders.extend(evaluations);
    folders.push(run.to_path_buf());
    let mut stages = Vec::new();
    for folder in folders {
        for path in beginning_with(&folder, "")? {
            let Ok(below) = path.strip_prefix(run) else {
                continue;
            };
            let name = below.to_string_lossy().replace('\\', "/");
            if let Some(stage) = name.strip_suffix(".stage.json") {
                stages.push(StagePaths::new(run, stage, OutputForm::Files));
            } else if path.join("stage.json").exists() {
                stages.push(StagePaths::new(run, &name, OutputForm::Folder));
            }
        }
    }
    Ok(stages)
}

fn is_numbered(path: &Path) -> bool {
    path.is_dir()
        && path.file_name().is_some_and(|name| {
            name.to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
}

/// Returns the sorted entries of a folder whose names begin with `start`. If the folder does not exist, the
/// list is empty.
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
    for part in parts {
        if let Some(name) = part.file_name() {
            rename(part, &folder.join(name))?;
        }
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<(), TrainerError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(TrainerError::file(parent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Claims the place of a stage with one number as its input; returns the messages too.
    fn claim(paths: &StagePaths, number: usize) -> (Claimed, Vec<String>) {
        let messages = RefCell::new(Vec::new());
        let inputs = StageInputs::default().with("number", &number);
        let claimed = paths
            .claim(inputs, "code", &|text| {
                messages.borrow_mut().push(text.to_string())
            })
            .expect("claims");
        (claimed, messages.into_inner())
    }

    fn finish(paths: &StagePaths, number: usize) {
        let (Claimed::Begun(manifest), _) = claim(paths, number) else {
            panic!("nothing is done")
        };
        fs::write(paths.file("jsonl"), format!("episodes of {number}")).expect("writes");
        let output = StageOutput {
            episodes: Some("hash".into()),
            ..StageOutput::default()
        };
        paths
            .finish(manifest, output, &["jsonl"])
            .expect("finishes");
    }

    fn text(paths: &StagePaths) -> String {
        fs::read_to_string(paths.file("jsonl")).expect("reads")
    }

    #[test]
    fn other_inputs_move_the_output_aside_and_the_same_bring_it_back() {
        let run = tempfile::tempdir().expect("a folder");
        let paths = StagePaths::new(run.path(), "1/rollouts", OutputForm::Files);
        finish(&paths, 1);
        assert!(matches!(claim(&paths, 1), (Claimed::Done(_), said) if said.is_empty()));
        let label = paths.manifest().expect("reads").expect("there").inputs_hash[..12].to_string();
        let (claimed, said) = claim(&paths, 2);
        assert!(matches!(claimed, Claimed::Begun(_)) && !paths.file("jsonl").exists());
        let why = "1/rollouts is out of date, as `number` is 2 and was 1; it is kept in aside/1/rollouts.";
        assert_eq!(said, [format!("{why}{label}")]);
        finish(&paths, 2);
        assert!(matches!(claim(&paths, 1), (Claimed::Done(_), said) if said.len() == 2));
        assert_eq!(text(&paths), "episodes of 1");
        assert!(matches!(claim(&paths, 2), (Claimed::Done(_), _)));
        assert_eq!(text(&paths), "episodes of 2");
    }

    /// The process is killed when some of three files are moved. A move in either direction continues.
    #[test]
    fn a_move_that_was_cut_short_continues() {
        for goes_back in [false, true] {
            let run = tempfile::tempdir().expect("a folder");
            let paths = StagePaths::new(run.path(), "demonstrations", OutputForm::Files);
            finish(&paths, 1);
            let label = paths.manifest().expect("reads").expect("there").inputs_hash;
            let aside = paths.aside(&label);
            fs::create_dir_all(&aside).expect("makes");
            fs::rename(paths.file("jsonl"), aside.join("demonstrations.jsonl"))
                .expect("as if killed after the first");
            if goes_back {
                assert!(matches!(claim(&paths, 1), (Claimed::Done(_), _)));
                assert!(!aside.exists() && text(&paths) == "episodes of 1");
            } else {
                assert!(matches!(claim(&paths, 2), (Claimed::Begun(_), _)));
                assert_eq!(
                    beginning_with(&aside, "").expect("reads").len(),
                    2,
                    "store and manifest"
                );
            }
        }
    }

    #[test]
    fn an_incomplete_output_continues() {
        let run = tempfile::tempdir().expect("a folder");
        let paths = StagePaths::new(run.path(), "demonstrations", OutputForm::Files);
        fs::write(paths.file("stage.json.new"), "{").expect("as if killed at the first write");
        assert!(!paths.is_unsigned().expect("reads"));
        finish(&paths, 1);
        fs::write(paths.file("jsonl"), "episodes").expect("as if torn");
        let (Claimed::Begun(manifest), said) = claim(&paths, 1) else {
            panic!("a file is shorter")
        };
        assert_eq!(
            (manifest.state, manifest.ended, said.len()),
            (OutputState::Running, None, 0)
        );
        fs::write(paths.file("stage.json"), "{}").expect("damages");
        let error = paths.manifest().expect_err("damaged").to_string();
        assert!(
            error.contains("demonstrations.stage.json: missing field") && error.contains("hint: "),
            "{error}"
        );
    }
}
