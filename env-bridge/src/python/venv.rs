//! The Python packages: a venv or conda environment on disk, the pinned list, and the installation
//! of a venv.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pinned packages, one `name==version` per line.
pub const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The version of the Python that this program was built for, for example `3.11`.
pub const PYTHON_VERSION: &str = concat!(
    env!("HEARTH_PYTHON_MAJOR"),
    ".",
    env!("HEARTH_PYTHON_MINOR")
);

/// The interpreter that this program was built with.
pub const PYTHON_EXECUTABLE: &str = env!("HEARTH_PYTHON_EXECUTABLE");

/// The folder of the Python library that this program loads.
pub const PYTHON_LIBRARY: &str = env!("HEARTH_PYTHON_LIBRARY");

/// A venv or a conda environment for the Python of this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Venv {
    /// The folder of the venv.
    pub folder: PathBuf,
    /// The folder of its packages.
    pub site_packages: PathBuf,
    /// If true, the packages of the interpreter are not importable in it.
    pub isolated: bool,
}

/// The reason why no venv can be used.
#[derive(Debug, thiserror::Error)]
pub enum VenvError {
    /// The folder is neither a venv nor a conda environment.
    #[error("{}: not a Python venv (it has neither pyvenv.cfg nor conda-meta)\nhint: hearth doctor --install {}", .0.display(), .0.display())]
    NotAVenv(PathBuf),
    /// The venv was made for another version of Python.
    #[error(
        "{}: made for another Python than {PYTHON_VERSION}, for which hearth was built (it has no {})\n\
         hint: build with PYO3_PYTHON={}/bin/python, or make a new venv: hearth doctor --install DIR",
        folder.display(), missing.display(), folder.display()
    )]
    OtherPython {
        /// The venv.
        folder: PathBuf,
        /// The folder that it would have for this Python.
        missing: PathBuf,
    },
    /// A command of the installation failed.
    #[error("{command}: {reason}{}", hint(reason))]
    Install {
        /// The command line.
        command: String,
        /// Its exit status and the end of its output.
        reason: String,
    },
    /// A file in the folder cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// The outputs of an installation that fails because the module `venv` is missing.
const NO_VENV_MODULE: [&str; 2] = ["ensurepip", "python3-venv"];

/// The outputs of an installation that fails because there is no compiler.
const NO_COMPILER: [&str; 5] = [
    "g++",
    "gcc",
    "make: not found",
    "No such file or directory: 'make'",
    "compiler",
];

/// Returns a hint if the installation failed in a known way, else an empty text.
fn hint(reason: &str) -> &'static str {
    if NO_VENV_MODULE.iter().any(|text| reason.contains(text)) {
        "\nhint: apt-get install -y python3-venv"
    } else if NO_COMPILER.iter().any(|text| reason.contains(text)) {
        "\nhint: the planner and the Z-machine are compiled here; apt-get install -y gcc g++ make"
    } else {
        ""
    }
}

impl Venv {
    /// Opens the venv or conda environment in a folder.
    ///
    /// # Errors
    /// If the folder is neither, or if it was made for another Python than that of this build.
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
        let site_packages = site_packages.canonicalize().unwrap_or(site_packages);
        Ok(Self {
            folder: folder.into(),
            site_packages,
            isolated: !config.lines().any(includes_system_packages),
        })
    }

    /// Returns the path of the interpreter of the venv.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.folder.join("bin").join("python")
    }
}

/// Returns true if a line of `pyvenv.cfg` makes the packages of the interpreter importable.
fn includes_system_packages(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, value)| {
        key.trim() == "include-system-site-packages" && value.trim().eq_ignore_ascii_case("true")
    })
}

/// Makes a venv in `folder` and installs the pinned packages without their dependencies. Existing
/// files are kept, so that the installation can be repeated if it was interrupted. `print` is
/// called with each command line before it runs.
///
/// # Errors
/// If a command fails. The error contains the end of its output.
pub fn install(folder: &Path, mut print: impl FnMut(&str)) -> Result<Venv, VenvError> {
    if Venv::open(folder).is_err() {
        let known = Path::new(PYTHON_EXECUTABLE);
        let python = if known.is_file() {
            known.into()
        } else {
            PathBuf::from(format!("python{PYTHON_VERSION}"))
        };
        run(
            Command::new(python).args(["-m", "venv"]).arg(folder),
            &mut print,
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
    run(Command::new(venv.python()).args(pip).arg(&list), &mut print)?;
    Ok(venv)
}

/// Runs a command. If it fails, the error contains the last 40 lines of its output.
fn run(command: &mut Command, print: &mut impl FnMut(&str)) -> Result<(), VenvError> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    print(&line);
    let reason = match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let bytes = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            format!("{}; its output:\n{last}", output.status)
        }
        Err(error) => error.to_string(),
    };
    Err(VenvError::Install {
        command: line,
        reason,
    })
}

/// A package in the pinned list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The name of the package.
    pub name: &'static str,
    /// The version with which hearth is tested.
    pub version: &'static str,
    /// True if the texts of games may differ with another version.
    pub matters: bool,
}

/// Returns the pinned packages.
#[must_use]
pub fn pinned() -> Vec<Pin> {
    let (strict, loose) = REQUIREMENTS
        .split_once("# Others")
        .unwrap_or((REQUIREMENTS, ""));
    pins(strict, true).chain(pins(loose, false)).collect()
}

fn pins(requirements: &'static str, matters: bool) -> impl Iterator<Item = Pin> {
    requirements
        .lines()
        .filter_map(|line| line.split_once("=="))
        .map(move |(name, version)| Pin {
            name,
            version,
            matters,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pinned_package_has_a_name_and_a_version() {
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
    fn if_a_folder_is_not_a_venv_of_this_python_the_error_has_a_hint() {
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
        assert!(Venv::open(folder.path()).unwrap().isolated);
        std::fs::write(
            folder.path().join("pyvenv.cfg"),
            "include-system-site-packages = True\n",
        )
        .unwrap();
        assert!(!Venv::open(folder.path()).unwrap().isolated);
        std::fs::remove_file(folder.path().join("pyvenv.cfg")).unwrap();
        std::fs::create_dir(folder.path().join("conda-meta")).unwrap();
        assert!(
            Venv::open(folder.path()).unwrap().isolated,
            "a conda environment"
        );
    }
}
