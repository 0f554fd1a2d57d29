//! `hearth scenarios`: generate household games, list a suite.

use crate::args::world::text_versions;
use crate::ui;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use env_bridge::native::NativeWorld;
use scenarios::household::{self, GenerateOptions, Size};
use scenarios::{Split, Suite, Task, TaskType, TextVersion, World};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Scenarios {
    /// Generate household games in ALFWorld's file format, each checked winnable
    Generate(Generate),
    /// List a suite: games by split and task type, and whatever is damaged or missing
    List(List),
}

#[derive(Args)]
pub(crate) struct Generate {
    /// Folder to write the games and suite.jsonl into
    #[arg(value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Seed: the same seed writes the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Games of train
    #[arg(long, default_value_t = 600)]
    train: usize,
    /// Games of valid_train, for choosing checkpoints and settings
    #[arg(long, default_value_t = 60)]
    valid_train: usize,
    /// Games of valid_seen: room layouts of train
    #[arg(long, default_value_t = 120)]
    seen: usize,
    /// Games of valid_unseen: room layouts that train lacks
    #[arg(long, default_value_t = 120)]
    unseen: usize,
    /// How large rooms are
    #[arg(long, value_enum, default_value_t = Rooms::Small)]
    size: Rooms,
    /// ALFWorld's text version: 2.1.3 says `move X to Y`, 2.1.1 `put X in/on Y`
    #[arg(long, value_name = "VERSION", default_value_t = TextVersion::V2_1_3)]
    text: TextVersion,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rooms {
    /// A few receptacles
    Small,
    /// As ALFWorld's
    Full,
}

#[derive(Args)]
pub(crate) struct List {
    /// Folder of games (ALFWorld's layout, or SPLIT/NAME.z8) or manifest
    #[arg(value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Print every game, not only the counts
    #[arg(long)]
    games: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    suite: &'a str,
    hash: String,
    games: usize,
    splits: BTreeMap<Split, BTreeMap<&'static str, usize>>,
    texts: BTreeMap<&'static str, usize>,
    faults: Vec<(String, &'a str)>,
    left_out: usize,
}

impl Scenarios {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Generate(command) => command.run(),
            Self::List(command) => command.run(),
        }
    }
}

impl Generate {
    fn run(self) -> anyhow::Result<ExitCode> {
        let options = GenerateOptions {
            seed: self.seed,
            size: match self.size {
                Rooms::Small => Size::Small,
                Rooms::Full => Size::Full,
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

/// Plays a generated game by its walkthrough; an unwinnable one is a defect of ours.
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

impl List {
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

fn show(suite: &Suite, json: bool) -> anyhow::Result<ExitCode> {
    say_faults(suite);
    let mut splits: BTreeMap<Split, BTreeMap<&'static str, usize>> = BTreeMap::new();
    for task in &suite.tasks {
        let kind = task.task_type.map_or("unknown", TaskType::short_name);
        *splits
            .entry(task.split)
            .or_default()
            .entry(kind)
            .or_default() += 1;
    }
    let tasks: Vec<&Task> = suite.tasks.iter().collect();
    let name = |text: Option<TextVersion>| text.map_or("unknown", TextVersion::name);
    let texts = text_versions(&tasks)
        .into_iter()
        .map(|(text, games)| (name(text), games))
        .collect();
    if json {
        let faults = suite
            .faults
            .iter()
            .map(|f| (f.path.display().to_string(), f.reason.as_str()))
            .collect();
        let (games, left_out) = (suite.tasks.len(), suite.left_out.len());
        ui::print_json(&Listed {
            suite: &suite.name,
            hash: suite.hash(),
            games,
            splits,
            texts,
            faults,
            left_out,
        })?;
    } else {
        print_counts(suite, &splits, &texts);
    }
    Ok(ExitCode::from(u8::from(!suite.faults.is_empty())))
}

fn print_counts(
    suite: &Suite,
    splits: &BTreeMap<Split, BTreeMap<&'static str, usize>>,
    texts: &BTreeMap<&'static str, usize>,
) {
    let kinds = TaskType::ALL.map(TaskType::short_name);
    let mut header = vec!["split", "games"];
    header.extend(kinds);
    let row = |(split, counts): (&Split, &BTreeMap<&'static str, usize>)| {
        let total: usize = counts.values().sum();
        let of_kind = kinds
            .iter()
            .map(|kind| counts.get(kind).copied().unwrap_or(0).to_string());
        [split.to_string(), total.to_string()]
            .into_iter()
            .chain(of_kind)
            .collect()
    };
    ui::print_table(
        &header,
        &splits.iter().map(row).collect::<Vec<Vec<String>>>(),
    );
    let left_out = match suite.left_out.len() {
        0 => String::new(),
        n => format!(", {n} folders or files hold no game to play"),
    };
    if !texts.is_empty() {
        let counts: Vec<String> = texts
            .iter()
            .map(|(text, games)| format!("{text} ({games} games)"))
            .collect();
        ui::print(&format!("text {}\n", counts.join(", ")));
    }
    ui::print(&format!(
        "suite {} {}: {} games, {} faults{left_out}\n",
        suite.name,
        &suite.hash()[..16],
        suite.tasks.len(),
        suite.faults.len()
    ));
}

/// Names every game that is damaged or missing.
pub(crate) fn say_faults(suite: &Suite) {
    for fault in &suite.faults {
        eprintln!("left out: {}: {}", fault.path.display(), fault.reason);
    }
    if !suite.faults.is_empty() {
        eprintln!(
            "{} games of {} are left out",
            suite.faults.len(),
            suite.name
        );
    }
}

/// A suite, or a single game file as a suite of one.
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
        });
    }
    Ok(Suite::open(path)?)
}

/// One game file as a task of its own.
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

/// A handful of generated games, for a look.
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
