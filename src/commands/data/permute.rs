//! `hearth scenarios permute`: new games from the train games of a suite, each checked to be winnable.

use super::suite_table::{report_faults, show};
use crate::ui;
use anyhow::Context;
use clap::{Args, ValueHint};
use env_bridge::native::{NativeEnvironment, NativeGame, NativeWorld};
use scenarios::expert::Expert;
use scenarios::household::{PermutationSource, PermuteError, VariantDraw, is_permuted};
use scenarios::suite::{GAME, MANIFEST, TRAJ_DATA, hex_sha256};
use scenarios::{Environment, Split, Suite, Task};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Args)]
pub(crate) struct PermuteCommand {
    /// Household games with a train split: a folder (ALFWorld's layout) or a manifest
    #[arg(value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// New folder for the games and suite.jsonl
    #[arg(value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Seed of the variants; the same seed writes the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of variants of each game
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    variants: u32,
    /// Number of train games to permute, spread evenly over the split; 0 means all
    #[arg(long, default_value_t = 0)]
    games: usize,
    /// Turns in which the expert must win a variant
    #[arg(long, default_value_t = 40)]
    turns: usize,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// The number of draws of one variant. If none is winnable, the variant is left out.
const ATTEMPTS: u64 = 20;

/// Why a draw was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Redrawn {
    /// The room has the same receptacles as its source, or a needed object has no place.
    NoVariant,
    /// The goal holds at the start.
    WonAtStart,
    /// The planner finds no plan.
    NoPlan,
    /// The expert does not win within the turns.
    ExpertLost,
}

impl Redrawn {
    fn text(self) -> &'static str {
        match self {
            Self::NoVariant => "no other room",
            Self::WonAtStart => "won at the start",
            Self::NoPlan => "no plan",
            Self::ExpertLost => "not won by the expert",
        }
    }
}

/// A variant that can be won.
struct WinnableVariant {
    draw: VariantDraw,
    file: String,
    /// Number of turns in which the expert wins.
    turns: usize,
    /// Number of commands of the plan.
    plan: usize,
    room: RoomInventory,
}

/// A variant, or nothing after [`ATTEMPTS`] draws, and the draws that were not used.
struct DrawnVariant {
    variant: Option<WinnableVariant>,
    redrawn: Vec<Redrawn>,
    source: RoomInventory,
}

/// What a room contains, by display names.
#[derive(Debug, Clone, Default)]
struct RoomInventory {
    /// Names of the receptacles, such as `desk 1`.
    receptacles: Vec<String>,
    /// Object type and receptacle name of every object in a receptacle, such as `mug desk 1`.
    places: Vec<String>,
}

/// The JSON output of `hearth scenarios permute`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct PermuteReport {
    suite: String,
    hash: String,
    /// Number of source games.
    sources: usize,
    /// Number of games written.
    games: usize,
    /// Number of variants without a winnable draw.
    left_out: usize,
    /// Number of draws that were not used, by cause.
    redrawn: BTreeMap<&'static str, usize>,
    /// Share in [0, 1] of the draws of another room that can be won.
    winnable: f64,
    /// Mean share in [0, 1] of receptacle names that a variant and its source have in common, of
    /// all names of both.
    same_receptacles: f64,
    /// The same for the places of objects: an object type and the name of a receptacle.
    same_places: f64,
    /// Mean number of receptacles of the sources and of the variants.
    receptacles: [f64; 2],
    /// Mean and largest number of turns in which the expert wins.
    expert_turns: [f64; 2],
    /// Mean number of commands of the plans.
    plan: f64,
}

impl PermuteCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.out.exists() {
            let out = self.out.display();
            let text = format!("{out} exists\nhint: choose another folder, or remove this one");
            return Err(ui::WrongUse(text).into());
        }
        let suite = Suite::open(&self.suite)?;
        report_faults(&suite);
        let sources = self.sources(&suite)?;
        let world = NativeWorld::new();
        let drawn = self.draw_all(&world, &sources)?;
        let (written, report) = self.write(&suite, &sources, drawn)?;
        if self.json {
            ui::print_json(&report)?;
        } else {
            show(&written, false)?;
            report.print();
        }
        Ok(ExitCode::from(u8::from(report.games == 0)))
    }

    /// Returns the train games to permute.
    fn sources(&self, suite: &Suite) -> anyhow::Result<Vec<PermutationSource>> {
        let mut tasks = suite.split(Split::Train);
        if tasks.is_empty() {
            let path = self.suite.display();
            let text = format!(
                "{path} has no games in train\nhint: only train games can be permuted; give a folder that contains \
                 train/TASK/TRIAL/{GAME}"
            );
            return Err(ui::WrongUse(text).into());
        }
        if self.games > 0 && self.games < tasks.len() {
            let count = tasks.len();
            tasks = (0..self.games)
                .map(|index| tasks[index * count / self.games])
                .collect();
        }
        let sources: Result<Vec<_>, PermuteError> =
            tasks.into_iter().map(PermutationSource::open).collect();
        Ok(sources.map_err(|error| ui::WrongUse(error.to_string()))?)
    }

    /// Draws every variant of every source, on all cores. The result is in the order of the games.
    fn draw_all(
        &self,
        world: &NativeWorld,
        sources: &[PermutationSource],
    ) -> anyhow::Result<Vec<DrawnVariant>> {
        let variants = self.variants as usize;
        let total = sources.len() * variants;
        let bar = ui::bar("permute games");
        bar.set_length(total as u64);
        let next = AtomicUsize::new(0);
        let drawn = Mutex::new(BTreeMap::new());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..cores.min(total) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= total {
                            return;
                        }
                        let source = &sources[index / variants];
                        let result = self.draw(world, source, index % variants);
                        if result.is_err() {
                            next.store(total, Ordering::Relaxed); // ends the other threads
                        }
                        let mut drawn = drawn.lock().unwrap_or_else(|held| held.into_inner());
                        drawn.insert(index, result);
                        bar.inc(1);
                    }
                });
            }
        });
        bar.finish();
        let drawn = drawn.into_inner().unwrap_or_else(|held| held.into_inner());
        drawn.into_values().collect()
    }

    /// Draws one variant until one can be won.
    fn draw(
        &self,
        world: &NativeWorld,
        source: &PermutationSource,
        variant: usize,
    ) -> anyhow::Result<DrawnVariant> {
        let game = world.game(&source.task().path)?;
        let mut drawn = DrawnVariant {
            variant: None,
            redrawn: Vec::new(),
            source: RoomInventory::of(&game),
        };
        for attempt in 0..ATTEMPTS {
            let draw = VariantDraw {
                seed: self.seed,
                variant,
                attempt,
            };
            match self.attempt(world, source, draw)? {
                Ok(winnable) => {
                    drawn.variant = Some(winnable);
                    break;
                }
                Err(cause) => drawn.redrawn.push(cause),
            }
        }
        Ok(drawn)
    }

    /// Makes one draw and plays it: the plan of the native planner and the expert must win.
    fn attempt(
        &self,
        world: &NativeWorld,
        source: &PermutationSource,
        draw: VariantDraw,
    ) -> anyhow::Result<Result<WinnableVariant, Redrawn>> {
        let Some(problem) = source.problem(draw) else {
            return Ok(Err(Redrawn::NoVariant));
        };
        let name = PathBuf::from(source.id(draw)).join(GAME);
        let file = source.game_file(draw, &problem, &[]);
        let game = world.game_from_bytes(&name, file.as_bytes())?;
        let start = game.initial_state();
        if game.won(&start) {
            return Ok(Err(Redrawn::WonAtStart));
        }
        let Some(plan) = game.plan(&start) else {
            return Ok(Err(Redrawn::NoPlan));
        };
        let plan: Vec<String> = plan.into_iter().map(str::to_owned).collect();
        let mut environment = NativeEnvironment::new(game.clone());
        environment.reset()?;
        let mut won = false;
        for command in &plan {
            won = environment.step(command)?.won();
        }
        anyhow::ensure!(won, "{}: the planner's plan does not win", name.display());
        let Some(turns) = turns_of_expert(&mut environment, self.turns)? else {
            return Ok(Err(Redrawn::ExpertLost));
        };
        Ok(Ok(WinnableVariant {
            draw,
            file: source.game_file(draw, &problem, &plan),
            turns,
            plan: plan.len(),
            room: RoomInventory::of(&game),
        }))
    }

    /// Writes the games into a folder beside `out`, which is renamed when it is complete.
    fn write(
        &self,
        suite: &Suite,
        sources: &[PermutationSource],
        drawn: Vec<DrawnVariant>,
    ) -> anyhow::Result<(Suite, PermuteReport)> {
        let unfinished = unfinished(&self.out);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished) // games of a killed process; the same seed writes them again
                .with_context(|| format!("cannot remove {}", unfinished.display()))?;
        }
        fs::create_dir_all(&unfinished)
            .with_context(|| format!("cannot write {}", unfinished.display()))?;
        let mut written = Suite {
            name: format!("{}-permuted-s{}", suite.name, self.seed),
            root: unfinished.clone(),
            tasks: Vec::new(),
            faults: Vec::new(),
            left_out: Vec::new(),
            unmarked: Vec::new(),
        };
        let mut report = PermuteReport::of(sources.len(), &drawn);
        for (index, drawn) in drawn.into_iter().enumerate() {
            let source = &sources[index / self.variants as usize];
            if let Some(variant) = drawn.variant {
                written
                    .tasks
                    .push(write_game(&unfinished, source, &variant)?);
            }
        }
        written.tasks.sort_by(|a, b| a.id.cmp(&b.id));
        written.write_manifest(unfinished.join(MANIFEST))?;
        fs::rename(&unfinished, &self.out)
            .with_context(|| format!("cannot write {}", self.out.display()))?;
        report.suite.clone_from(&written.name);
        report.hash = written.hash();
        Ok((Suite::open(&self.out)?, report))
    }
}

/// Returns the folder of an unfinished `out`, beside it.
fn unfinished(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".unfinished");
    out.with_file_name(name)
}

fn write_game(
    folder: &Path,
    source: &PermutationSource,
    variant: &WinnableVariant,
) -> anyhow::Result<Task> {
    let id = source.id(variant.draw);
    let trial = id
        .split('/')
        .fold(folder.to_path_buf(), |folder, part| folder.join(part));
    let write = |name: &str, text: &str| fs::write(trial.join(name), text);
    fs::create_dir_all(&trial)
        .and_then(|()| write(GAME, &variant.file))
        .and_then(|()| write(TRAJ_DATA, &source.traj_data(variant.draw)))
        .with_context(|| format!("cannot write {}", trial.display()))?;
    debug_assert!(is_permuted(&id));
    Ok(Task {
        id,
        split: Split::Train,
        task_type: source.task().task_type,
        path: trial.join(GAME),
        hash: hex_sha256(variant.file.as_bytes()),
    })
}

/// Returns the number of turns in which the expert wins, or `None` if it does not win within
/// `limit`.
fn turns_of_expert(
    environment: &mut NativeEnvironment,
    limit: usize,
) -> anyhow::Result<Option<usize>> {
    let mut expert = Expert::new(0);
    let mut observation = environment.reset()?;
    for turn in 1..=limit {
        observation = environment.step(&expert.act(&observation.text))?;
        if observation.won() {
            return Ok(Some(turn));
        }
    }
    Ok(None)
}

impl RoomInventory {
    fn of(game: &NativeGame) -> Self {
        let receptacles = game.initial_facts("receptacleatlocation");
        let places = game.initial_facts("inreceptacle");
        Self {
            receptacles: receptacles.map(|names| names[0].to_owned()).collect(),
            places: places
                .map(|names| {
                    let object = names[0].split(' ').next().unwrap_or_default();
                    format!("{object} {}", names[1])
                })
                .collect(),
        }
    }
}

/// Returns the share in [0, 1] of items that two lists have in common, of all items of both. An
/// item that occurs twice counts twice.
fn overlap(one: &[String], other: &[String]) -> f64 {
    let mut left: BTreeMap<&String, usize> = BTreeMap::new();
    for item in other {
        *left.entry(item).or_default() += 1;
    }
    let mut common = 0;
    for item in one {
        if let Some(count) = left.get_mut(item).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    let all = one.len() + other.len() - common;
    common as f64 / all.max(1) as f64
}

impl PermuteReport {
    fn of(sources: usize, drawn: &[DrawnVariant]) -> Self {
        let pairs: Vec<(&RoomInventory, &WinnableVariant)> = drawn
            .iter()
            .filter_map(|drawn| Some((&drawn.source, drawn.variant.as_ref()?)))
            .collect();
        let games = pairs.len();
        let mut redrawn = BTreeMap::new();
        for cause in drawn.iter().flat_map(|drawn| &drawn.redrawn) {
            *redrawn.entry(cause.text()).or_default() += 1;
        }
        let others: usize = redrawn.values().sum();
        let no_variant = redrawn.get(Redrawn::NoVariant.text()).copied().unwrap_or(0);
        let tried = games + others - no_variant;
        Self {
            sources,
            games,
            left_out: drawn.len() - games,
            redrawn,
            winnable: games as f64 / tried.max(1) as f64,
            same_receptacles: mean(&pairs, |(source, variant)| {
                overlap(&source.receptacles, &variant.room.receptacles)
            }),
            same_places: mean(&pairs, |(source, variant)| {
                overlap(&source.places, &variant.room.places)
            }),
            receptacles: [
                mean(&pairs, |(source, _)| source.receptacles.len() as f64),
                mean(&pairs, |(_, variant)| variant.room.receptacles.len() as f64),
            ],
            expert_turns: [
                mean(&pairs, |(_, variant)| variant.turns as f64),
                pairs
                    .iter()
                    .map(|(_, variant)| variant.turns)
                    .max()
                    .unwrap_or(0) as f64,
            ],
            plan: mean(&pairs, |(_, variant)| variant.plan as f64),
            ..Self::default()
        }
    }

    fn print(&self) {
        let redrawn: Vec<String> = self
            .redrawn
            .iter()
            .map(|(cause, count)| format!("{count} {cause}"))
            .collect();
        let redrawn = match redrawn.as_slice() {
            [] => "none".into(),
            _ => redrawn.join(", "),
        };
        let [before, after] = self.receptacles;
        let [turns, most] = self.expert_turns;
        ui::print(&format!(
            "{} variants of {} train games, {} left out; drawn again: {redrawn}; {:.1} % of the draws can be won\n\
             in common with their source: {:.1} % of the receptacle names, {:.1} % of the places of objects; \
             receptacles {before:.1} before, {after:.1} after\n\
             the expert wins in {turns:.1} turns on average, {most:.0} at most; the plan has {:.1} commands\n",
            self.games,
            self.sources,
            self.left_out,
            100.0 * self.winnable,
            100.0 * self.same_receptacles,
            100.0 * self.same_places,
            self.plan,
        ));
    }
}

fn mean<T>(items: &[T], number: impl Fn(&T) -> f64) -> f64 {
    items.iter().map(number).sum::<f64>() / items.len().max(1) as f64
}
