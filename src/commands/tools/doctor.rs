//! `hearth doctor`: lists the devices, checks the requirements of Python worlds, and prints the
//! commands that fix them.

use crate::args::world::PythonArgs;
use crate::commands::data::scenarios::one_of_each;
use crate::scratch::Scratch;
use crate::ui;
use agent::inference::device::GpuApi;
use clap::{Args, ValueHint};
use env_bridge::NativeWorld;
use scenarios::{Suite, World};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(crate) struct DoctorCommand {
    /// First create a Python venv in this folder and install the pinned packages (about 200 MB;
    /// this compiles a planner)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    install: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    python: PythonArgs,
}

/// The result of one check.
#[derive(Serialize)]
struct DoctorCheck {
    name: String,
    ok: bool,
    detail: String,
    /// The command that fixes it. A check that is ok and has one names something that is not needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// The JSON output of `hearth doctor`.
#[derive(Serialize)]
struct DoctorOutput {
    ok: bool,
    checks: Vec<DoctorCheck>,
}

impl DoctorCheck {
    fn fine(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok: true,
            detail: detail.into(),
            fix: None,
        }
    }

    /// Something that is not needed.
    fn absent(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            fix: Some(fix.into()),
            ..Self::fine(name, detail)
        }
    }

    fn missing(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok: false,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

impl DoctorCommand {
    pub(crate) fn run(mut self) -> anyhow::Result<ExitCode> {
        if let Some(folder) = self.install.take() {
            python::install(&folder)?;
            self.python.python = Some(folder);
        }
        let checks = self.checks(Scratch::new().path());
        let output = DoctorOutput {
            ok: checks.iter().all(|check| check.ok),
            checks,
        };
        if self.json {
            ui::print_json(&output)?;
        } else {
            self.print(&output);
        }
        Ok(ExitCode::from(if output.ok { 0 } else { 2 }))
    }

    fn checks(&self, folder: &Path) -> Vec<DoctorCheck> {
        let mut checks = Vec::new();
        let suite = match one_of_each(folder, 1) {
            Ok(suite) => suite,
            Err(error) => {
                return vec![DoctorCheck::missing(
                    "temporary folder",
                    error.to_string(),
                    "export TMPDIR=/a/folder/with/room",
                )];
            }
        };
        checks.push(native_world(&suite));
        checks.extend(devices());
        checks.extend(python::checks(&self.python, &suite));
        checks
    }

    fn print(&self, output: &DoctorOutput) {
        let width = output
            .checks
            .iter()
            .map(|check| check.name.len())
            .max()
            .unwrap_or(0);
        for DoctorCheck {
            name,
            ok,
            detail,
            fix,
        } in &output.checks
        {
            ui::print(&format!(
                "{}  {name:width$}  {}\n",
                match (ok, fix) {
                    (true, None) => "ok     ",
                    (true, Some(_)) => "-      ",
                    (false, _) => "MISSING",
                },
                detail.trim_end()
            ));
            if let Some(fix) = fix {
                ui::print(&format!("         {:width$}  fix: {fix}\n", ""));
            }
        }
        if output.ok {
            let venv = self
                .python
                .python
                .as_ref()
                .map(|folder| format!(" --python {}", folder.display()));
            let venv = venv.unwrap_or_default();
            ui::print(&format!(
                "nothing is missing; play with: hearth play --policy expert --world python{venv}\n"
            ));
        }
    }
}

/// The GPUs that `--device` may name. A missing GPU is no fault, since everything runs on the CPU.
fn devices() -> Vec<DoctorCheck> {
    let mut checks = Vec::new();
    for api in GpuApi::ALL {
        if !api.is_built_in() {
            continue;
        }
        match api.found() {
            Ok(gpus) => checks.extend(gpus.into_iter().map(|gpu| {
                let kind = if gpu.is_software {
                    "software, slower than --device cpu: "
                } else {
                    ""
                };
                DoctorCheck::fine(
                    format!("device {}", gpu.device),
                    kind.to_owned() + &gpu.name,
                )
            })),
            Err(reason) => {
                let (detail, hint) = reason.split_once("\nhint: ").unwrap_or((&reason, ""));
                checks.push(DoctorCheck::absent(format!("device {api}"), detail, hint));
            }
        }
    }
    let others: Vec<&str> = GpuApi::ALL
        .into_iter()
        .filter(|api| !api.is_built_in())
        .map(GpuApi::name)
        .collect();
    if let Some(first) = others.first() {
        checks.push(DoctorCheck::absent(
            "other devices",
            format!("this build is without {}", others.join(", ")),
            format!("cargo build --release --features {first}, and likewise the others"),
        ));
    }
    checks
}

fn native_world(suite: &Suite) -> DoctorCheck {
    match win_by_walkthrough(suite) {
        Ok(commands) => {
            DoctorCheck::fine("native world", format!("won a game in {commands} commands"))
        }
        Err(error) => DoctorCheck::missing(
            "native world",
            format!("{error:#}"),
            "report this as a bug: it needs nothing but hearth",
        ),
    }
}

/// Plays one small game by its walkthrough, and returns the number of its commands.
fn win_by_walkthrough(suite: &Suite) -> anyhow::Result<usize> {
    let world = NativeWorld::new();
    let task = &suite.tasks[0];
    let game = world.game(&task.path)?;
    let mut environment = world.open(task)?;
    environment.reset()?;
    let walkthrough = game.walkthrough().unwrap_or_default();
    let mut won = false;
    for command in walkthrough {
        won = environment.step(command)?.won();
    }
    anyhow::ensure!(won, "the walkthrough of {} does not win", task.id);
    Ok(walkthrough.len())
}

#[cfg(not(feature = "python"))]
mod python {
    use super::{DoctorCheck, Path, PythonArgs, Suite, ui};
    use crate::args::world::WITHOUT_PYTHON;

    pub(super) fn install(_: &Path) -> anyhow::Result<()> {
        Err(ui::WrongUse(WITHOUT_PYTHON.into()).into())
    }

    pub(super) fn checks(_: &PythonArgs, _: &Suite) -> Vec<DoctorCheck> {
        let (detail, fix) = WITHOUT_PYTHON
            .split_once("\nhint: ")
            .unwrap_or((WITHOUT_PYTHON, ""));
        vec![DoctorCheck::missing("python support", detail, fix)]
    }
}

#[cfg(feature = "python")]
mod python {
    use super::{DoctorCheck, NativeWorld, Path, PathBuf, PythonArgs, Suite, ui};
    use env_bridge::diff::{self, Commands, DiffPlan};
    use env_bridge::python::{
        self, PYTHON_EXECUTABLE, PYTHON_LIBRARY, PYTHON_VERSION, Pin, PythonWorld, Venv,
    };
    use std::process::Command;

    pub(super) fn install(folder: &Path) -> anyhow::Result<()> {
        python::install(folder, |command| eprintln!("{command}"))
            .map(drop)
            .map_err(|e| ui::WrongUse(e.to_string()).into())
    }

    pub(super) fn checks(arguments: &PythonArgs, suite: &Suite) -> Vec<DoctorCheck> {
        let mut checks = vec![DoctorCheck::fine(
            "python support",
            format!("built for Python {PYTHON_VERSION} in {PYTHON_LIBRARY}"),
        )];
        let venv = match arguments.venv() {
            Ok(venv) => venv,
            Err(error) => {
                let text = error.to_string();
                let (detail, hint) = text
                    .split_once("\nhint: ")
                    .unwrap_or((&text, "hearth doctor --install DIR"));
                checks.push(DoctorCheck::missing("venv", detail, hint));
                return checks;
            }
        };
        checks.push(match &venv {
            Some(venv) => DoctorCheck::fine("venv", venv.folder.display().to_string()),
            None => DoctorCheck::fine(
                "venv",
                format!("none named (--python, HEARTH_PYTHON); using {PYTHON_EXECUTABLE}'s own"),
            ),
        });
        let python = venv
            .as_ref()
            .map_or_else(|| PathBuf::from(PYTHON_EXECUTABLE), Venv::python);
        match installed(&python) {
            Ok(found) => checks.extend(packages(&found, venv.as_ref())),
            Err(reason) => {
                let fix = "name a venv that works: hearth doctor --install DIR".to_string();
                checks.push(DoctorCheck::missing(
                    "interpreter",
                    format!("{}: {reason}", python.display()),
                    fix,
                ));
                return checks;
            }
        }
        if checks.iter().all(|check| check.ok) {
            checks.push(python_world(arguments, suite));
        }
        checks
    }

    /// Returns the versions of the pinned packages in an interpreter, in their order. A version is
    /// empty if the package is not installed.
    fn installed(python: &Path) -> Result<Vec<String>, String> {
        const ASK: &str = "import sys\nfrom importlib import metadata\nfor name in sys.argv[1:]:\n    try:\n        \
                           print(metadata.version(name))\n    except metadata.PackageNotFoundError:\n        print()\n";
        let pins = python::pinned();
        let names = pins.iter().map(|pin| pin.name);
        let output = Command::new(python)
            .args(["-c", ASK])
            .args(names)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!(
                "{}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        let found: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        if found.len() == pins.len() {
            Ok(found)
        } else {
            Err("it does not list its packages".into())
        }
    }

    fn packages(found: &[String], venv: Option<&Venv>) -> Vec<DoctorCheck> {
        let pins = python::pinned();
        let absent = found.iter().filter(|version| version.is_empty()).count();
        let mut checks = Vec::new();
        for (pin, version) in pins.iter().zip(found) {
            checks.push(match version.as_str() {
                "" => DoctorCheck::missing(pin.name, "not installed", fix(pin, venv, absent)),
                version if version == pin.version => DoctorCheck::fine(pin.name, version),
                version if !pin.matters => {
                    DoctorCheck::fine(pin.name, format!("{version} (tested: {})", pin.version))
                }
                version => DoctorCheck::missing(
                    pin.name,
                    format!(
                        "{version}: the text of games may differ from that under {}",
                        pin.version
                    ),
                    fix(pin, venv, absent),
                ),
            });
        }
        checks
    }

    /// Returns the command that installs a package: only this one if at most three are absent.
    fn fix(pin: &Pin, venv: Option<&Venv>, absent: usize) -> String {
        match venv {
            Some(venv) if absent <= 3 => format!(
                "{} -m pip install --no-deps {}=={}",
                venv.python().display(),
                pin.name,
                pin.version
            ),
            Some(venv) => format!("hearth doctor --install {}", venv.folder.display()),
            None => "hearth doctor --install DIR, then export HEARTH_PYTHON=DIR".into(),
        }
    }

    /// Plays one small game in both worlds.
    fn python_world(arguments: &PythonArgs, suite: &Suite) -> DoctorCheck {
        let name = "python world";
        let world = match arguments.options(1) {
            Ok(options) => PythonWorld::start(options).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let fix = "PYTHON -m pip install --no-deps MODULE, if a module is named above, or hearth doctor --install DIR";
        let world = match world {
            Ok(world) => world,
            Err(reason) => return DoctorCheck::missing(name, reason, fix),
        };
        let plan = DiffPlan {
            commands: vec![Commands::Walkthrough],
            turns: 8,
            seed: 1,
        };
        let report = diff::diff(
            &NativeWorld::new(),
            &world,
            &[&suite.tasks[0]],
            &plan,
            1,
            &|_| {},
        );
        if let Some(failure) = &report.first_failure {
            return DoctorCheck::missing(name, failure.message.clone(), fix);
        }
        match &report.first {
            None => DoctorCheck::fine(
                name,
                format!(
                    "played a game: {} commands, with the same results as the native world",
                    report.commands
                ),
            ),
            Some(first) => {
                let detail = format!(
                    "differs from the native world: {} and {}",
                    first.other, first.ours
                );
                DoctorCheck::missing(
                    name,
                    detail,
                    "hearth world diff --suite GAMES, and report its output",
                )
            }
        }
    }
}
