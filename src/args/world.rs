//! Which world is played, and in which text version: the `--world` flags of every command that
//! plays.

use crate::ui;
use clap::{Args, ValueHint};
use env_bridge::{NativeWorld, Translating};
use scenarios::{Task, TextVersion, World};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The heading of the Python flags in `--help`. Each field sets it, because `next_help_heading`
/// would also apply to the flags that follow this struct.
const PYTHON_HEADING: &str = "Python worlds";

/// The world.
#[derive(Args)]
pub(crate) struct WorldName {
    /// World: `native`, `python` (ALFWorld and TextWorld from a Python environment), or
    /// `python:FILE.py:CLASS` (your class with reset, step and close)
    #[arg(long, default_value = "native", help_heading = "World")]
    pub(crate) world: String,
}

/// The world, its text version, and how the processes of a Python world are run.
#[derive(Args)]
pub(crate) struct WorldArgs {
    #[command(flatten)]
    name: WorldName,
    /// Translate every household game to text version 2.1.1 (`put X in/on Y`) or 2.1.3 (`move X to
    /// Y`); without a value, to the version that the model was trained on
    #[arg(
        long,
        value_name = "VERSION",
        num_args = 0..=1,
        require_equals = true,
        help_heading = "World"
    )]
    translate_commands: Option<Option<TextVersion>>,
    #[command(flatten)]
    pub(crate) python: PythonArgs,
}

/// The world in which episodes are replayed, in the text version that they were played in.
#[derive(Args)]
pub(crate) struct ReplayWorldArgs {
    #[command(flatten)]
    pub(crate) name: WorldName,
    #[command(flatten)]
    python: PythonArgs,
}

/// How the processes of a Python world are run.
#[derive(Args)]
pub(crate) struct PythonArgs {
    /// Python environment (venv) with the packages [default: $VIRTUAL_ENV, else $CONDA_PREFIX, else
    /// the packages of the interpreter]
    #[arg(
        long,
        value_name = "VENV",
        env = "HEARTH_PYTHON",
        hide_env_values = true,
        value_hint = ValueHint::DirPath,
        help_heading = PYTHON_HEADING
    )]
    pub(crate) python: Option<PathBuf>,
    /// Number of Python processes, each with one episode [default: one per core]
    #[arg(long, value_name = "N", help_heading = PYTHON_HEADING)]
    processes: Option<usize>,
    /// Timeout of loading or resetting a game in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120.0,
        help_heading = PYTHON_HEADING
    )]
    load_timeout: f64,
    /// Timeout of a command in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60.0,
        help_heading = PYTHON_HEADING
    )]
    step_timeout: f64,
    /// Memory limit of a Python process in MiB; above it the process is killed and its episode lost
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 2048,
        help_heading = PYTHON_HEADING
    )]
    memory_limit: u64,
    /// Number of episodes after which a Python process is replaced, because TextWorld's planner
    /// leaks about 1 MiB per game
    #[arg(long, value_name = "N", default_value_t = 25, help_heading = PYTHON_HEADING)]
    recycle_after: usize,
}

impl WorldName {
    /// Opens the world for at most `at_once` episodes at a time.
    ///
    /// # Errors
    /// If the name is unknown, or the Python world cannot start.
    pub(crate) fn open(&self, python: &PythonArgs, at_once: usize) -> anyhow::Result<OpenedWorld> {
        match self.world.split_once(':').unwrap_or((&self.world, "")) {
            ("native", "") => Ok(OpenedWorld::Native(NativeWorld::new())),
            ("python", place) => python.open(place, at_once),
            _ => Err(ui::WrongUse(format!(
                "--world {}: unknown; known: native, python, python:FILE.py:CLASS, \
                 python:package.module:CLASS",
                self.world
            ))
            .into()),
        }
    }
}

impl ReplayWorldArgs {
    /// See [`WorldName::open`].
    pub(crate) fn open(&self, at_once: usize) -> anyhow::Result<OpenedWorld> {
        self.name.open(&self.python, at_once)
    }
}

impl WorldArgs {
    /// See [`WorldName::open`].
    pub(crate) fn open(&self, at_once: usize) -> anyhow::Result<OpenedWorld> {
        self.name.open(&self.python, at_once)
    }

    /// Returns the text version that every game is translated to. If it is `None`, each game uses
    /// its own, and a warning is printed if the model was trained on another version. `learned` is
    /// empty for a policy that reads both versions, and for a model that does not record its
    /// versions.
    ///
    /// # Errors
    /// If `--translate-commands` has no value and the model's version is not known.
    pub(crate) fn translation(
        &self,
        policy: &str,
        learned: &BTreeSet<TextVersion>,
        tasks: &[&Task],
    ) -> anyhow::Result<Option<TextVersion>> {
        let only = learned.first().copied().filter(|_| learned.len() == 1);
        match (self.translate_commands, only) {
            (Some(Some(to)), _) | (Some(None), Some(to)) => Ok(Some(to)),
            (Some(None), None) => Err(no_version(policy, learned).into()),
            (None, Some(learned)) => {
                warn_of_other_versions(policy, learned, tasks);
                Ok(None)
            }
            (None, None) => Ok(None),
        }
    }
}

fn no_version(policy: &str, learned: &BTreeSet<TextVersion>) -> ui::WrongUse {
    let reason = match policy {
        "expert" | "person" => "reads both text versions",
        _ if learned.is_empty() => "does not record which text version it was trained on",
        _ => "was trained on both text versions",
    };
    ui::WrongUse(format!(
        "--translate-commands: {policy} {reason}\n\
         hint: name the version: --translate-commands=2.1.1 or --translate-commands=2.1.3"
    ))
}

fn warn_of_other_versions(policy: &str, learned: TextVersion, tasks: &[&Task]) {
    for (text, games) in text_versions(tasks) {
        if let Some(text) = text.filter(|text| *text != learned) {
            eprintln!(
                "warning: {policy} was trained on games of text {learned}, and {games} of {} games are \
                 of text {text} (`{}` instead of `{}`)\nhint: --translate-commands",
                tasks.len(),
                text.put_command("X", "Y"),
                learned.put_command("X", "Y")
            );
        }
    }
}

/// Returns the number of games of each text version; `None` counts games of neither. Takes about
/// 0.2 s for ALFWorld's 4026 games.
pub(crate) fn text_versions(tasks: &[&Task]) -> BTreeMap<Option<TextVersion>, usize> {
    let mut counts = BTreeMap::new();
    for task in tasks {
        *counts.entry(TextVersion::of_game(&task.path)).or_default() += 1;
    }
    counts
}

/// An open world.
pub(crate) enum OpenedWorld {
    Native(NativeWorld),
    #[cfg(feature = "python")]
    Python(env_bridge::python::PythonWorld),
}

impl OpenedWorld {
    /// Returns the world without translation.
    pub(crate) fn world(&self) -> &dyn World {
        match self {
            Self::Native(world) => world,
            #[cfg(feature = "python")]
            Self::Python(world) => world,
        }
    }

    /// Returns whether its games can be copied.
    pub(crate) fn can_be_copied(&self) -> bool {
        match self {
            Self::Native(_) => true,
            #[cfg(feature = "python")]
            Self::Python(_) => false,
        }
    }

    /// Returns the world with every game translated to `text`, or untranslated if it is `None`.
    pub(crate) fn in_version(&self, text: Option<TextVersion>) -> VersionedWorld<'_> {
        match text {
            Some(text) => VersionedWorld::Translated(Translating::new(self.world(), text)),
            None => VersionedWorld::AsWritten(self.world()),
        }
    }

    /// Prints why Python processes were replaced, if some were.
    pub(crate) fn report_replaced(&self) {
        #[cfg(feature = "python")]
        if let Self::Python(world) = self {
            let counts = world.counts();
            if counts.failed() > 0 {
                eprintln!(
                    "Python processes replaced: {} raised an exception, {} ended by themselves, {} did \
                     not answer, {} sent invalid data, {} exceeded the memory limit; each cost one \
                     episode, whose `failure` contains the reason",
                    counts.raised, counts.died, counts.hung, counts.corrupt, counts.over_memory
                );
            }
        }
    }
}

/// An open world, translated or not.
pub(crate) enum VersionedWorld<'w> {
    AsWritten(&'w dyn World),
    Translated(Translating<'w>),
}

impl VersionedWorld<'_> {
    pub(crate) fn world(&self) -> &dyn World {
        match self {
            Self::AsWritten(world) => *world,
            Self::Translated(world) => world,
        }
    }
}

#[cfg(not(feature = "python"))]
impl PythonArgs {
    #[expect(clippy::unused_self, reason = "the other build uses it")]
    pub(crate) fn open(&self, _: &str, _: usize) -> anyhow::Result<OpenedWorld> {
        Err(ui::WrongUse(WITHOUT_PYTHON.into()).into())
    }
}

/// The message of a build without Python if a command needs it.
#[cfg(not(feature = "python"))]
pub(crate) const WITHOUT_PYTHON: &str = "this hearth was built without Python\n\
    hint: cargo install --path . --features python (it uses the python3 on your path; \
    PYO3_PYTHON=/path/to/python names another)";

#[cfg(feature = "python")]
mod python {
    use super::{OpenedWorld, PythonArgs, ui};
    use anyhow::Context;
    use env_bridge::python::{PythonKind, PythonOptions, PythonWorld, Venv};
    use std::path::PathBuf;
    use std::time::Duration;

    impl PythonArgs {
        /// Returns the number of processes for at most `at_once` episodes.
        pub(crate) fn processes(&self, at_once: usize) -> usize {
            let cores = std::thread::available_parallelism().map_or(2, usize::from);
            self.processes.unwrap_or(cores).clamp(1, at_once.max(1))
        }

        /// Returns the venv of the flag, of `HEARTH_PYTHON` or of the shell.
        ///
        /// # Errors
        /// If the folder is no venv.
        pub(crate) fn venv(&self) -> anyhow::Result<Option<Venv>> {
            self.python
                .clone()
                .filter(|folder| !folder.as_os_str().is_empty())
                .or_else(|| folder_in("VIRTUAL_ENV"))
                .or_else(|| folder_in("CONDA_PREFIX"))
                .map(|folder| Venv::open(&folder))
                .transpose()
                .map_err(|e| ui::WrongUse(e.to_string()).into())
        }

        /// Returns the options for the games of ALFWorld and TextWorld.
        ///
        /// # Errors
        /// If a flag is not usable.
        pub(crate) fn options(&self, at_once: usize) -> anyhow::Result<PythonOptions> {
            // On Linux this path stays the running program even if its file is replaced.
            let own = PathBuf::from("/proc/self/exe");
            let program = if own.exists() {
                own
            } else {
                std::env::current_exe().context("cannot find hearth's own program")?
            };
            Ok(PythonOptions {
                venv: self.venv()?,
                workers: self.processes(at_once),
                load_limit: timeout("--load-timeout", self.load_timeout)?,
                step_limit: timeout("--step-timeout", self.step_timeout)?,
                memory_limit_mib: self.memory_limit,
                recycle_after: self.recycle_after,
                ..PythonOptions::new(program, PythonKind::TextWorld)
            })
        }

        /// Starts a Python world; `place` is empty, or names a class of the user.
        pub(crate) fn open(&self, place: &str, at_once: usize) -> anyhow::Result<OpenedWorld> {
            let mut options = self.options(at_once)?;
            if !place.is_empty() {
                if !place.contains(':') {
                    return Err(ui::WrongUse(format!(
                        "--world python:{place}: a class is named as FILE.py:CLASS or \
                         package.module:CLASS"
                    ))
                    .into());
                }
                options.world = PythonKind::Users(place.into());
            }
            Ok(OpenedWorld::Python(
                PythonWorld::start(options).map_err(|e| ui::WrongUse(e.to_string()))?,
            ))
        }
    }

    fn folder_in(variable: &str) -> Option<PathBuf> {
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }

    fn timeout(flag: &str, seconds: f64) -> Result<Duration, ui::WrongUse> {
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|duration| !duration.is_zero())
            .ok_or_else(|| ui::WrongUse(format!("{flag} {seconds}: must be above 0 seconds")))
    }
}
