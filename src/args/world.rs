//! Which world is played, and in whose words: the `--world` flags, for every command that plays.

use crate::ui;
use clap::{Args, ValueHint};
use env_bridge::{NativeWorld, Translating};
use scenarios::{Task, TextVersion, World};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Which world.
#[derive(Args)]
#[command(next_help_heading = "World")]
pub(crate) struct WhichWorld {
    /// `native`; `python`: ALFWorld's and TextWorld's own, from a venv; or `python:FILE.py:CLASS`: a class of yours with
    /// reset, step and close
    #[arg(long, default_value = "native")]
    pub(crate) world: String,
}

/// The world, and how the processes of a Python world are run.
#[derive(Args)]
#[command(next_help_heading = "World")]
pub(crate) struct WorldArgs {
    #[command(flatten)]
    which: WhichWorld,
    /// Have every household game speak one text version, 2.1.1 (`put X in/on Y`) or 2.1.3 (`move X to Y`): without a
    /// value, the one that the model learned from
    #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true)]
    translate_commands: Option<Option<TextVersion>>,
    #[command(flatten)]
    pub(crate) python: PythonArgs,
}

/// The world in which episodes are replayed, in the words that they were played in.
#[derive(Args)]
#[command(next_help_heading = "World")]
pub(crate) struct OwnWorldArgs {
    #[command(flatten)]
    pub(crate) which: WhichWorld,
    #[command(flatten)]
    python: PythonArgs,
}

/// How the processes of a Python world are run.
#[derive(Args)]
pub(crate) struct PythonArgs {
    /// The venv with the Python packages [default: $VIRTUAL_ENV or $CONDA_PREFIX, else the interpreter's own packages]
    #[arg(long, value_name = "VENV", env = "HEARTH_PYTHON", hide_env_values = true, value_hint = ValueHint::DirPath)]
    pub(crate) python: Option<PathBuf>,
    /// Python processes, each with one episode [default: one a core]
    #[arg(long, value_name = "N")]
    processes: Option<usize>,
    /// Seconds that Python may take to load a game, and to reset it
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    load_timeout: f64,
    /// Seconds that Python may take for a command
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    step_timeout: f64,
    /// Memory in MiB above which a Python process is ended and its episode lost
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory_limit: u64,
    /// Episodes after which a Python process is replaced, because TextWorld's planner leaks about 1 MiB a game
    #[arg(long, value_name = "N", default_value_t = 25)]
    recycle_after: usize,
}

/// An open world.
pub(crate) enum Opened {
    Native(NativeWorld),
    #[cfg(feature = "python")]
    Python(env_bridge::python::PythonWorld),
}

impl WhichWorld {
    /// Opens the world for at most `at_once` episodes at a time.
    pub(crate) fn open(&self, python: &PythonArgs, at_once: usize) -> anyhow::Result<Opened> {
        match self.world.split_once(':').unwrap_or((&self.world, "")) {
            ("native", "") => Ok(Opened::Native(NativeWorld::new())),
            ("python", place) => python.open(place, at_once),
            _ => Err(ui::WrongUse(format!(
                "--world {}: unknown; known: native, python, python:FILE.py:CLASS, python:package.module:CLASS",
                self.world
            ))
            .into()),
        }
    }
}

impl OwnWorldArgs {
    /// [`WhichWorld::open`].
    pub(crate) fn open(&self, at_once: usize) -> anyhow::Result<Opened> {
        self.which.open(&self.python, at_once)
    }
}

impl WorldArgs {
    /// [`WhichWorld::open`].
    pub(crate) fn open(&self, at_once: usize) -> anyhow::Result<Opened> {
        self.which.open(&self.python, at_once)
    }

    /// The text version that every game is to speak; `None` = each its own, with a warning where a model then meets
    /// words that it has not learned. `learned` is empty for who reads both, and for a model that does not tell.
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
                warn_of_other_words(policy, learned, tasks);
                Ok(None)
            }
            (None, None) => Ok(None),
        }
    }
}

fn no_version(policy: &str, learned: &BTreeSet<TextVersion>) -> ui::WrongUse {
    let why = match policy {
        "expert" | "person" => "reads both text versions",
        _ if learned.is_empty() => "does not say which text version it learned from",
        _ => "learned from both text versions",
    };
    let hint = "name the version: --translate-commands=2.1.1 or --translate-commands=2.1.3";
    ui::WrongUse(format!(
        "--translate-commands: {policy} {why}\nhint: {hint}"
    ))
}

fn warn_of_other_words(policy: &str, learned: TextVersion, tasks: &[&Task]) {
    for (text, games) in text_versions(tasks) {
        if let Some(text) = text.filter(|text| *text != learned) {
            eprintln!(
                "warning: {policy} learned from games of text {learned}, and {games} of {} games are of text {text} \
                 (`{}` where it writes `{}`)\nhint: --translate-commands",
                tasks.len(),
                text.put_command("X", "Y"),
                learned.put_command("X", "Y")
            );
        }
    }
}

/// How many games are of which text version; `None` = of neither. A fifth of a second for ALFWorld's 4026.
pub(crate) fn text_versions(tasks: &[&Task]) -> BTreeMap<Option<TextVersion>, usize> {
    let mut counts = BTreeMap::new();
    tasks
        .iter()
        .for_each(|task| *counts.entry(TextVersion::of_game(&task.path)).or_default() += 1);
    counts
}

#[cfg(not(feature = "python"))]
impl PythonArgs {
    #[expect(clippy::unused_self, reason = "the other build uses it")]
    pub(crate) fn open(&self, _: &str, _: usize) -> anyhow::Result<Opened> {
        Err(ui::WrongUse(WITHOUT_PYTHON.into()).into())
    }
}

/// What a build without Python says where one is needed.
#[cfg(not(feature = "python"))]
pub(crate) const WITHOUT_PYTHON: &str = "this hearth was built without Python\n\
    hint: cargo install --path . --features python (it uses the python3 on your path; PYO3_PYTHON=/path/to/python names another)";

#[cfg(feature = "python")]
mod python {
    use super::{Opened, PythonArgs, ui};
    use anyhow::Context;
    use env_bridge::python::{PythonKind, PythonOptions, PythonWorld, Venv};
    use std::path::PathBuf;
    use std::time::Duration;

    impl PythonArgs {
        /// Processes to run for at most `at_once` episodes.
        pub(crate) fn processes(&self, at_once: usize) -> usize {
            let cores = std::thread::available_parallelism().map_or(2, usize::from);
            self.processes.unwrap_or(cores).clamp(1, at_once.max(1))
        }

        /// The venv of the flag, of `HEARTH_PYTHON` or of the shell.
        pub(crate) fn venv(&self) -> anyhow::Result<Option<Venv>> {
            let of = |name: &str| {
                std::env::var_os(name)
                    .filter(|value| !value.is_empty())
                    .map(PathBuf::from)
            };
            let shell = || of("VIRTUAL_ENV").or_else(|| of("CONDA_PREFIX"));
            let named = self
                .python
                .clone()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder = named.or_else(shell);
            folder
                .map(|folder| Venv::open(&folder))
                .transpose()
                .map_err(|e| ui::WrongUse(e.to_string()).into())
        }

        /// Options for ALFWorld's and TextWorld's games.
        pub(crate) fn options(&self, at_once: usize) -> anyhow::Result<PythonOptions> {
            // On Linux by the name that stays this very program though its file be replaced by a newer one.
            let own = PathBuf::from("/proc/self/exe");
            let program = if own.exists() {
                own
            } else {
                std::env::current_exe().context("cannot find hearth's own program")?
            };
            let seconds = |flag: &str, seconds: f64| {
                let duration = Duration::try_from_secs_f64(seconds)
                    .ok()
                    .filter(|duration| !duration.is_zero());
                duration.ok_or_else(|| ui::WrongUse(format!("{flag} {seconds}: seconds above 0")))
            };
            Ok(PythonOptions {
                venv: self.venv()?,
                workers: self.processes(at_once),
                load_limit: seconds("--load-timeout", self.load_timeout)?,
                step_limit: seconds("--step-timeout", self.step_timeout)?,
                memory_limit_mib: self.memory_limit,
                recycle_after: self.recycle_after,
                ..PythonOptions::new(program, PythonKind::TextWorld)
            })
        }

        pub(crate) fn open(&self, place: &str, at_once: usize) -> anyhow::Result<Opened> {
            let mut options = self.options(at_once)?;
            if !place.is_empty() {
                if !place.contains(':') {
                    let text = format!(
                        "--world python:{place}: a class is named as FILE.py:CLASS or package.module:CLASS"
                    );
                    return Err(ui::WrongUse(text).into());
                }
                options.world = PythonKind::Users(place.into());
            }
            Ok(Opened::Python(
                PythonWorld::start(options).map_err(|e| ui::WrongUse(e.to_string()))?,
            ))
        }
    }
}

impl Opened {
    pub(crate) fn world(&self) -> &dyn World {
        match self {
            Self::Native(world) => world,
            #[cfg(feature = "python")]
            Self::Python(world) => world,
        }
    }

    /// Whether its games can be copied.
    pub(crate) fn can_be_copied(&self) -> bool {
        match self {
            Self::Native(_) => true,
            #[cfg(feature = "python")]
            Self::Python(_) => false,
        }
    }

    /// The world with every game in the words of `text`; `None` = each in its own.
    pub(crate) fn speaking(&self, text: Option<TextVersion>) -> Speaking<'_> {
        match text {
            Some(text) => Speaking::Translated(Translating::new(self.world(), text)),
            None => Speaking::AsWritten(self.world()),
        }
    }

    /// Tells what became of the Python processes, where some had to be replaced.
    pub(crate) fn say_losses(&self) {
        #[cfg(feature = "python")]
        if let Self::Python(world) = self {
            let counts = world.counts();
            if counts.failed() > 0 {
                eprintln!(
                    "Python processes replaced: {} raised, {} ended by themselves, {} did not answer, {} wrote nonsense, \
                     {} took too much memory; each cost one episode, and its `failure` says why",
                    counts.raised, counts.died, counts.hung, counts.corrupt, counts.over_memory
                );
            }
        }
    }
}

/// An open world, translated or not.
pub(crate) enum Speaking<'w> {
    AsWritten(&'w dyn World),
    Translated(Translating<'w>),
}

impl Speaking<'_> {
    pub(crate) fn world(&self) -> &dyn World {
        match self {
            Self::AsWritten(world) => *world,
            Self::Translated(world) => world,
        }
    }
}
