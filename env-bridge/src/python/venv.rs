//! Where the Python packages are: a venv or conda environment on disk, the pinned list, and how a venv is made.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pinned packages, one `name==version` a line.
pub const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The Python that this hearth was built for: `3.11`, say.
pub const PYTHON_VERSION: &str = concat!(
    env!("HEARTH_PYTHON_MAJOR"),
    ".",
    env!("HEARTH_PYTHON_MINOR")
);

/// The interpreter that this hearth was built with.
pub const PYTHON_EXECUTABLE: &str = env!("HEARTH_PYTHON_EXECUTABLE");

/// The folder of the library that this hearth loads.
pub const PYTHON_LIBRARY: &str = env!("HEARTH_PYTHON_LIBRARY");

/// A venv, or a conda environment, that fits the Python of this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Venv {
    /// The folder of the venv.
    pub folder: PathBuf,
    /// Its packages.
    pub site_packages: PathBuf,
    /// Whether the interpreter's own packages are out of sight in it.
    pub alone: bool,
}

/// Why there is no venv to use.
#[derive(Debug, thiserror::Error)]
pub enum VenvError {
    /// The folder is neither a venv nor a conda environment.
    #[error("{}: not a Python venv (it has no pyvenv.cfg, nor conda-meta)\nhint: hearth doctor --install {}", .0.display(), .0.display())]
    NotAVenv(PathBuf),
    /// The venv is of another Python.
    #[error(
        "{}: made for another Python than {PYTHON_VERSION}, which this hearth was built for (it has no {})\n\
         hint: build with PYO3_PYTHON={}/bin/python, or make another venv with: hearth doctor --install DIR",
        folder.display(), missing.display(), folder.display()
    )]
    OtherPython {
        /// The venv.
        folder: PathBuf,
        /// What it would have for this Python.
        missing: PathBuf,
    },
    /// A command of the installation failed.
    #[error("{command}: {reason}{}", hint(reason))]
    Install {
        /// The command line.
        command: String,
        /// How it ended, with the last of what it printed.
        reason: String,
    },
    /// The folder cannot be used.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The mending command for the ways in which installations are known to fail.
fn hint(reason: &str) -> &'static str {
    let any = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if any(&["ensurepip", "python3-venv"]) {
        "\nhint: apt-get install -y python3-venv"
    } else if any(&[
        "g++",
        "gcc",
        "make: not found",
        "No such file or directory: 'make'",
        "compiler",
    ]) {
        "\nhint: the planner and the Z-machine are compiled here; apt-get install -y gcc g++ make"
    } else {
        ""
    }
}

impl Venv {
    /// The venv in a folder.
    ///
    /// # Errors
    /// When the folder is neither, or of another Python than this build's.
    pub fn open(folder: &Path) -> Result<Self, VenvError> {
        let config = match std::fs::read_to_string(folder.join("pyvenv.cfg")) {
            Ok(config) => config,
            Err(_) if folder.join("conda-meta").is_dir() => String::new(),
            Err(_) => return Err(VenvError::NotAVenv(folder.into())),
        };
        let site_packages = folder
            .join("lib")
            .join(format!("python{PYTHON_VERSION}"))
            .join("site-packages");
        if !site_packages.is_dir() {
            return Err(VenvError::OtherPython {
                folder: folder.into(),
                missing: site_packages,
            });
        }
        let shared = |line: &str| {
            line.split_once('=').is_some_and(|(key, value)| {
                key.trim() == "include-system-site-packages"
                    && value.trim().eq_ignore_ascii_case("true")
            })
        };
        let site_packages = site_packages.canonicalize().unwrap_or(site_packages);
        Ok(Self {
            folder: folder.into(),
            site_packages,
            alone: !config.lines().any(shared),
        })
    }

    /// The venv's interpreter.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.folder.join("bin").join("python")
    }
}

/// Makes a venv in `folder` and installs the pinned packages without their dependencies. What is there already is kept,
/// so that a broken-off installation can be run again. `say` hears each command before it runs.
///
/// # Errors
/// When a command fails; the error holds the last of what it printed.
pub fn install(folder: &Path, mut say: impl FnMut(&str)) -> Result<Venv, VenvError> {
    if Venv::open(folder).is_err() {
        let known = Path::new(PYTHON_EXECUTABLE);
        let python = if known.is_file() {
            known.into()
        } else {
            PathBuf::from(format!("python{PYTHON_VERSION}"))
        };
        run(
            Command::new(python).args(["-m", "venv"]).arg(folder),
            &mut say,
        )?;
    }
    let venv = Venv::open(folder)?;
    let list = folder.join("hearth-requirements.txt");
    std::fs::write(&list, REQUIREMENTS).map_err(|source| VenvError::Write {
        path: list.clone(),
        source,
    })?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-deps",
        "-r",
    ];
    run(Command::new(venv.python()).args(pip).arg(&list), &mut say)?;
    Ok(venv)
}

fn run(command: &mut Command, say: &mut impl FnMut(&str)) -> Result<(), VenvError> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    say(&line);
    let fail = |reason: String| VenvError::Install {
        command: line.clone(),
        reason,
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said
        .lines()
        .rev()
        .take(40)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
        .join("\n");
    Err(fail(format!("{}; it said:\n{last}", output.status)))
}

/// A line of the pinned list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The package.
    pub name: &'static str,
    /// The version that hearth is tested with.
    pub version: &'static str,
    /// Whether another version may make games say something else.
    pub matters: bool,
}

/// The pinned packages.
#[must_use]
pub fn pinned() -> Vec<Pin> {
    let (strict, loose) = REQUIREMENTS
        .split_once("# Others")
        .unwrap_or((REQUIREMENTS, ""));
    let pins = |text: &'static str, matters: bool| {
        text.lines()
            .filter_map(|line| line.split_once("=="))
            .map(move |(name, version)| Pin {
                name,
                version,
                matters,
            })
    };
    pins(strict, true).chain(pins(loose, false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_packages_are_names_and_versions() {
        let all = pinned();
        assert!(
            all.contains(&Pin {
                name: "textworld",
                version: "1.7.0",
                matters: true
            }),
            "{all:?}"
        );
        assert!(
            all.iter().any(|pin| pin.name == "numpy" && !pin.matters),
            "{all:?}"
        );
        assert_eq!(
            all.len(),
            REQUIREMENTS
                .lines()
                .filter(|line| line.contains("=="))
                .count()
        );
    }

    #[test]
    fn a_folder_that_is_no_venv_of_this_python_is_refused_with_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let error = Venv::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("not a Python venv") && error.contains("hearth doctor --install"),
            "{error}"
        );
        std::fs::write(
            folder.path().join("pyvenv.cfg"),
            "include-system-site-packages = false\n",
        )
        .unwrap();
        std::fs::create_dir_all(folder.path().join("lib/python3.1/site-packages")).unwrap();
        let error = Venv::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("another Python than") && error.contains("PYO3_PYTHON="),
            "{error}"
        );
        let fitting = folder
            .path()
            .join(format!("lib/python{PYTHON_VERSION}/site-packages"));
        std::fs::create_dir_all(&fitting).unwrap();
        assert!(Venv::open(folder.path()).unwrap().alone);
        std::fs::write(
            folder.path().join("pyvenv.cfg"),
            "include-system-site-packages = True\n",
        )
        .unwrap();
        assert!(!Venv::open(folder.path()).unwrap().alone);
        std::fs::remove_file(folder.path().join("pyvenv.cfg")).unwrap();
        std::fs::create_dir(folder.path().join("conda-meta")).unwrap();
        assert!(
            Venv::open(folder.path()).unwrap().alone,
            "a conda environment"
        );
    }
}
