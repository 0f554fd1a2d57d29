//! `hearth doctor`: what the Python worlds need, what is missing, and the command that mends it.

use crate::args::world::PythonArgs;
use crate::scratch::Scratch;
use crate::ui;
use clap::{Args, ValueHint};
use env_bridge::NativeWorld;
use scenarios::{Suite, World};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(crate) struct Doctor {
    /// First make a Python venv in this folder and install the pinned packages there (about 200 MB; compiles a planner)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    install: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    python: PythonArgs,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Check {
    name: String,
    ok: bool,
    detail: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Serialize)]
struct Findings {
    ok: bool,
    checks: Vec<Check>,
}

impl Check {
    fn fine(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok: true,
            detail: detail.into(),
            fix: None,
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

impl Doctor {
    pub(crate) fn run(mut self) -> anyhow::Result<ExitCode> {
        if let Some(folder) = self.install.take() {
            python::install(&folder)?;
            self.python.python = Some(folder);
        }
        let checks = self.checks(Scratch::new().path());
        let findings = Findings {
            ok: checks.iter().all(|check| check.ok),
            checks,
        };
        if self.json {
            ui::print_json(&findings)?;
        } else {
            self.print(&findings);
        }
        Ok(ExitCode::from(if findings.ok { 0 } else { 2 }))
    }

    fn checks(&self, folder: &Path) -> Vec<Check> {
        let mut checks = Vec::new();
        let suite = match crate::commands::data::scenarios::one_of_each(folder, 1) {
            Ok(suite) => suite,
            Err(error) => {
                return vec![Check::missing(
                    "temporary folder",
                    error.to_string(),
                    "export TMPDIR=/a/folder/with/room",
                )];
            }
        };
        checks.push(native_world(&suite));
        checks.extend(python::checks(&self.python, &suite));
        checks
    }

    fn print(&self, findings: &Findings) {
        let width = findings
            .checks
            .iter()
            .map(|check| check.name.len())
            .max()
            .unwrap_or(0);
        for Check {
            name,
            ok,
            detail,
            fix,
        } in &findings.checks
        {
            ui::print(&format!(
                "{}  {name:width$}  {}\n",
                if *ok { "ok     " } else { "MISSING" },
                detail.trim_end()
            ));
            if let Some(fix) = fix {
                ui::print(&format!("         {:width$}  mend: {fix}\n", ""));
            }
        }
        if findings.ok {
            let venv = self
                .python
                .python
                .as_ref()
                .map(|folder| format!(" --python {}", folder.display()));
            let venv = venv.unwrap_or_default();
            ui::print(&format!(
                "everything is there; play with: hearth play --policy expert --world python{venv}\n"
            ));
        }
    }
}

/// Plays one tiny game by its walkthrough.
fn native_world(suite: &Suite) -> Check {
    let play = || -> anyhow::Result<usize> {
        let world = NativeWorld::new();
        let game = world.game(&suite.tasks[0].path)?;
        let mut environment = world.open(&suite.tasks[0])?;
        environment.reset()?;
        let walkthrough = game.walkthrough().unwrap_or_default();
        let mut won = false;
        for command in walkthrough {
            won = environment.step(command)?.won();
        }
        anyhow::ensure!(won, "the walkthrough of {} does not win", suite.tasks[0].id);
        Ok(walkthrough.len())
    };
    match play() {
        Ok(commands) => Check::fine("native world", format!("won a game in {commands} commands")),
        Err(error) => Check::missing(
            "native world",
            format!("{error:#}"),
            "report this: it needs nothing but hearth",
        ),
    }
}

#[cfg(not(feature = "python"))]
mod python {
    use super::{Check, Path, PythonArgs, Suite, ui};
    use crate::args::world::WITHOUT_PYTHON;

    pub(super) fn install(_: &Path) -> anyhow::Result<()> {
        Err(ui::WrongUse(WITHOUT_PYTHON.into()).into())
    }

    pub(super) fn checks(_: &PythonArgs, _: &Suite) -> Vec<Check> {
        let (detail, fix) = WITHOUT_PYTHON
            .split_once("\nhint: ")
            .unwrap_or((WITHOUT_PYTHON, ""));
        vec![Check::missing("python support", detail, fix)]
    }
}

#[cfg(feature = "python")]
mod python {
    use super::{Check, NativeWorld, Path, PathBuf, PythonArgs, Suite, ui};
    use env_bridge::diff::{self, Commands, Plan};
    use env_bridge::python::{
        self, PYTHON_EXECUTABLE, PYTHON_LIBRARY, PYTHON_VERSION, Pin, PythonWorld, Venv,
    };
    use std::process::Command;

    pub(super) fn install(folder: &Path) -> anyhow::Result<()> {
        python::install(folder, |command| eprintln!("{command}"))
            .map(drop)
            .map_err(|e| ui::WrongUse(e.to_string()).into())
    }

    pub(super) fn checks(arguments: &PythonArgs, suite: &Suite) -> Vec<Check> {
        let mut checks = vec![Check::fine(
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
                checks.push(Check::missing("venv", detail, hint));
                return checks;
            }
        };
        checks.push(match &venv {
            Some(venv) => Check::fine("venv", venv.folder.display().to_string()),
            None => Check::fine(
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
                checks.push(Check::missing(
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

    /// Asks an interpreter for the versions of the pinned packages, in their order; "" where one is not installed.
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
            Err("it does not tell its packages".into())
        }
    }

    fn packages(found: &[String], venv: Option<&Venv>) -> Vec<Check> {
        let pins = python::pinned();
        let absent = found.iter().filter(|version| version.is_empty()).count();
        let mend = |pin: &Pin| match venv {
            Some(venv) if absent <= 3 => {
                format!(
                    "{} -m pip install --no-deps {}=={}",
                    venv.python().display(),
                    pin.name,
                    pin.version
                )
            }
            Some(venv) => format!("hearth doctor --install {}", venv.folder.display()),
            None => "hearth doctor --install DIR, then export HEARTH_PYTHON=DIR".into(),
        };
        let check = |(pin, version): (&Pin, &String)| match version.as_str() {
            "" => Check::missing(pin.name, "not installed", mend(pin)),
            version if version == pin.version => Check::fine(pin.name, version),
            version if !pin.matters => {
                Check::fine(pin.name, format!("{version} (tested: {})", pin.version))
            }
            version => {
                let detail = format!(
                    "{version}: games may say something else than under {}",
                    pin.version
                );
                Check::missing(pin.name, detail, mend(pin))
            }
        };
        pins.iter().zip(found).map(check).collect()
    }

    /// Plays one tiny game in both worlds.
    fn python_world(arguments: &PythonArgs, suite: &Suite) -> Check {
        let name = "python world";
        let world = match arguments.options(1) {
            Ok(options) => PythonWorld::start(options).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let mend = "PYTHON -m pip install --no-deps the module that is named above, or hearth doctor --install DIR";
        let world = match world {
            Ok(world) => world,
            Err(reason) => return Check::missing(name, reason, mend),
        };
        let plan = Plan {
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
            return Check::missing(name, failure.message.clone(), mend);
        }
        match &report.first {
            None => Check::fine(
                name,
                format!(
                    "played a game, {} commands as in the native world",
                    report.commands
                ),
            ),
            Some(first) => {
                let detail = format!(
                    "not as the native world: {} and {}",
                    first.other, first.ours
                );
                Check::missing(
                    name,
                    detail,
                    "hearth world diff --suite GAMES, and report what it prints",
                )
            }
        }
    }
}
