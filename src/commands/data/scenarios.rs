//! `hearth scenarios`: generates household games, permutes train games, or lists a suite.

use super::permute::PermuteCommand;
use super::suite_table::show;
use crate::ui;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use env_bridge::native::NativeWorld;
use scenarios::household::{self, GenerateOptions, Size};
use scenarios::{Split, Suite, Task, TaskType, TextVersion, World};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum ScenariosCommand {
    /// Generate household games in ALFWorld's file format, and check that each can be won
    Generate(GenerateCommand),
    /// Make new games from a suite's train games, with other receptacles, objects and places; each
    /// can be won
    Permute(PermuteCommand),
    /// List a suite: games by split and task type, and damaged or missing files
    List(ListCommand),
}

#[derive(Args)]
pub(crate) struct GenerateCommand {
    /// Folder for the games and suite.jsonl
    #[arg(value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Seed of the games; the same seed writes the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of games of train
    #[arg(long, default_value_t = 600)]
    train: usize,
    /// Number of games of valid_train, for choosing checkpoints and settings
    #[arg(long, default_value_t = 60)]
    valid_train: usize,
    /// Number of games of valid_seen, with room layouts of train
    #[arg(long, default_value_t = 120)]
    seen: usize,
    /// Number of games of valid_unseen, with room layouts that train does not have
    #[arg(long, default_value_t = 120)]
    unseen: usize,
    /// Size of the rooms
    #[arg(long, value_enum, default_value_t = GenerateSize::Small)]
    size: GenerateSize,
    /// ALFWorld's text version: 2.1.3 (`move X to Y`) or 2.1.1 (`put X in/on Y`)
    #[arg(long, value_name = "VERSION", default_value_t = TextVersion::V2_1_3)]
    text: TextVersion,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum GenerateSize {
    /// A few receptacles per room
    Small,
    /// As many receptacles as in ALFWorld
    Full,
    /// Receptacles, doors, objects and goals with the frequencies of ALFWorld's train games, in
    /// other rooms
    Alfworld,
}

#[derive(Args)]
pub(crate) struct ListCommand {
    /// Games: a game file, a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest
    #[arg(value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Also print every game
    #[arg(long)]
    games: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

impl ScenariosCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Generate(command) => command.run(),
            Self::Permute(command) => command.run(),
            Self::List(command) => command.run(),
        }
    }
}

impl GenerateCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let options = GenerateOptions {
            seed: self.seed,
            size: match self.size {
                GenerateSize::Small => Size::Small,
                GenerateSize::Full => Size::Full,
                GenerateSize::Alfworld => Size::Alfworld,
            },
            train: self.train,
            valid_train: self.valid_train,
            seen: self.seen,
            unseen: self.unseen,
            text: self.text,
        };
        let suite = household::generate(&self.out, &options)?;
        let bar = ui::bar("check walkthroughs");
        bar.set_length(suite.tasks.len() as u64);
        let world = NativeWorld::new();
        for task in &suite.tasks {
            win_by_walkthrough(&world, task)?;
            bar.inc(1);
        }
        bar.finish();
        show(&suite, self.json)
    }
}

/// Plays a generated game by its walkthrough. If it is not won, the generator has a bug.
fn win_by_walkthrough(world: &NativeWorld, task: &Task) -> anyhow::Result<()> {
    let game = world.game(&task.path)?;
    let mut environment = world.open(task)?;
    environment.reset()?;
    let mut won = false;
    for command in game.walkthrough().unwrap_or_default() {
        won = environment.step(command)?.won();
    }
    anyhow::ensure!(won, "{}: the walkthrough does not win", task.path.display());
    Ok(())
}

impl ListCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let suite = Suite::open(&self.suite)?;
        if self.games && !self.json {
            for task in &suite.tasks {
                let kind = task.task_type.map_or("-", TaskType::short_name);
                ui::print(&format!("{}  {kind:8} {}\n", &task.hash[..16], task.id));
            }
        }
        show(&suite, self.json)
    }
}

/// Opens a suite, or a single game file as a suite with one game.
///
/// # Errors
/// If a file is not readable.
pub(crate) fn open(path: &Path) -> anyhow::Result<Suite> {
    if path.is_file()
        && path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
    {
        let task = single(path)?;
        let root = path.parent().unwrap_or(Path::new("")).into();
        return Ok(Suite {
            name: task.id.clone(),
            root,
            tasks: vec![task],
            faults: Vec::new(),
            left_out: Vec::new(),
            unmarked: Vec::new(),
        });
    }
    Ok(Suite::open(path)?)
}

/// Returns the task of a single game file.
///
/// # Errors
/// If the file is not readable.
pub(crate) fn single(path: &Path) -> anyhow::Result<Task> {
    let bytes = std::fs::read(path)
        .map_err(|e| ui::WrongUse(format!("cannot read {}: {e}", path.display())))?;
    let hash = scenarios::suite::hex_sha256(&bytes);
    Ok(Task {
        id: path.display().to_string(),
        split: Split::ValidUnseen,
        task_type: None,
        path: path.into(),
        hash,
    })
}

/// Generates six games per split, one of each task type.
///
/// # Errors
/// If the folder is not writable.
pub(crate) fn one_of_each(folder: &Path, seed: u64) -> anyhow::Result<Suite> {
    let options = GenerateOptions {
        seed,
        train: 6,
        valid_train: 6,
        seen: 6,
        unseen: 6,
        ..GenerateOptions::default()
    };
    Ok(household::generate(folder, &options)?)
}
