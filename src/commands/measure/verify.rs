//! `hearth verify`: replays every logged episode in a fresh world and prints where the log differs.

use crate::args::concurrency::ConcurrencyArgs;
use crate::args::policy::FrameArgs;
use crate::args::stores::{self, StoreSource};
use crate::args::world::{OpenedWorld, ReplayWorldArgs};
use crate::commands::data::suite_table::report_faults;
use crate::ui;
use agent::text::tokenizer::Tokenizer;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::{Suite, Task, Trajectory};
use serde::Serialize;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use trainer::measure::verify::{
    EpisodeToReplay, ReplayDifference, by_protocol, first_difference, is_checkable, replay_all,
    token_difference,
};

/// The number of differences that are printed. All are counted.
const SHOWN: usize = 10;

#[derive(Args)]
pub(crate) struct VerifyCommand {
    /// Stores (JSONL), or run folders, whose stores are all read
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    stores: Vec<PathBuf>,
    /// Games: a game file, a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest [default: those of the
    /// run folder]
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Model folder whose tokenizer must decode the logged token ids to the logged texts
    #[arg(long, value_hint = ValueHint::DirPath)]
    policy: Option<PathBuf>,
    #[command(flatten)]
    frames: FrameArgs,
    #[command(flatten)]
    concurrency: ConcurrencyArgs,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: ReplayWorldArgs,
}

/// A difference and its episode.
#[derive(Serialize)]
struct EpisodeDifference {
    store: PathBuf,
    /// The line in the store, from 1.
    line: usize,
    game: String,
    repetition: usize,
    #[serde(flatten)]
    difference: ReplayDifference,
}

/// The JSON output of `hearth verify`.
#[derive(Default, Serialize)]
struct VerifyOutput {
    stores: usize,
    episodes: usize,
    checked: usize,
    /// Episodes whose world or server failed.
    not_checkable: usize,
    /// Turns of the checked episodes.
    turns: usize,
    /// Episodes that differ from the log.
    differences: usize,
    /// The first difference of each of these episodes, for at most [`SHOWN`] episodes.
    shown: Vec<EpisodeDifference>,
    seconds: f64,
    episodes_per_second: f64,
}

impl VerifyCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let tokenizer = self
            .policy
            .as_deref()
            .map(|folder| tokenizer(folder, &self.frames))
            .transpose()?;
        let sources = stores::find(&self.stores)?;
        let opened = self.world.open(usize::MAX)?;
        let mut suites: HashMap<PathBuf, Suite> = HashMap::new();
        let mut output = VerifyOutput::default();
        let bar = ui::bar("verify");
        for source in &sources {
            let (place, suite) = self.suite_of(source, &mut suites)?;
            let tasks = suite.tasks.iter().map(|task| (task.hash.as_str(), task));
            let tasks: HashMap<&str, &Task> = tasks.collect();
            output.stores += 1;
            stores::in_blocks(&source.store, |first, episodes| {
                bar.inc_length(episodes.len() as u64);
                let Some(logged) = logged_of(&tasks, first, episodes) else {
                    return Err(missing_games(&tasks, &source.store, &place)?.into());
                };
                let found = self.differences(&opened, &logged, tokenizer.as_ref(), || bar.inc(1));
                output.add(&source.store, first, episodes, found);
                Ok(())
            })?;
        }
        bar.finish();
        opened.report_replaced();
        output.seconds = started.elapsed().as_secs_f64();
        output.episodes_per_second = output.checked as f64 / output.seconds;
        if self.json {
            ui::print_json(&output)?;
        } else {
            output.print();
        }
        Ok(ExitCode::from(u8::from(output.differences > 0)))
    }

    /// Returns the suite of a store and its path. Each suite is opened once.
    fn suite_of<'s>(
        &self,
        source: &StoreSource,
        suites: &'s mut HashMap<PathBuf, Suite>,
    ) -> anyhow::Result<(PathBuf, &'s Suite)> {
        let Some(place) = self.suite.clone().or_else(|| source.folder.clone()) else {
            return Err(ui::WrongUse(format!(
                "{}: the games of this store are not known\nhint: --suite, or name the run folder",
                source.store.display()
            ))
            .into());
        };
        if !suites.contains_key(&place) {
            let suite = match &self.suite {
                Some(path) => Suite::open(path)?,
                None => stores::suite_of_run(&place)?,
            };
            report_faults(&suite);
            suites.insert(place.clone(), suite);
        }
        let suite = &suites[&place];
        Ok((place, suite))
    }

    /// Returns the first difference of each episode that has one, with its index in the store,
    /// sorted by index.
    fn differences(
        &self,
        opened: &OpenedWorld,
        logged: &[EpisodeToReplay<'_>],
        tokenizer: Option<&Tokenizer>,
        mut tick: impl FnMut(),
    ) -> Vec<(usize, ReplayDifference)> {
        let concurrency = self.concurrency.resolve();
        let mut found = Vec::new();
        for (protocol, group) in by_protocol(logged) {
            let versioned = opened.in_version(protocol.translated_to);
            let Ok(()) = replay_all(
                versioned.world(),
                &group,
                &protocol,
                concurrency,
                |logged, played| {
                    tick();
                    let difference = first_difference(logged.episode, &played).or_else(|| {
                        tokenizer.and_then(|tokenizer| token_difference(tokenizer, logged.episode))
                    });
                    found.extend(difference.map(|difference| (logged.place, difference)));
                    Ok::<(), Infallible>(())
                },
            );
        }
        found.sort_by_key(|(place, _)| *place);
        found
    }
}

fn tokenizer(folder: &Path, frames: &FrameArgs) -> anyhow::Result<Tokenizer> {
    Ok(frames
        .open(folder)
        .with_context(|| format!("--policy {}", folder.display()))?
        .tokenizer)
}

/// Returns the episodes that can be checked, with their games. The first one has the index `first` in its store.
/// `None` if a game is missing.
fn logged_of<'a>(
    tasks: &HashMap<&str, &'a Task>,
    first: usize,
    episodes: &'a [Trajectory],
) -> Option<Vec<EpisodeToReplay<'a>>> {
    (first..)
        .zip(episodes)
        .filter(|(_, episode)| is_checkable(episode))
        .map(|(place, episode)| {
            Some(EpisodeToReplay {
                place,
                task: tasks.get(episode.game_hash.as_str())?,
                episode,
            })
        })
        .collect()
}

/// Returns the error that names how many episodes of a store are of other games.
fn missing_games(
    tasks: &HashMap<&str, &Task>,
    store: &Path,
    games: &Path,
) -> anyhow::Result<ui::WrongUse> {
    let mut missing = 0;
    let mut first_missing = None;
    stores::in_blocks(store, |first, episodes| {
        for (place, episode) in (first + 1..).zip(episodes) {
            if is_checkable(episode) && !tasks.contains_key(episode.game_hash.as_str()) {
                missing += 1;
                first_missing.get_or_insert((place, episode.game.clone()));
            }
        }
        Ok(())
    })?;
    let (line, game) = first_missing.unwrap_or_default();
    Ok(ui::WrongUse(format!(
        "{missing} episodes of {} are of games that {} does not contain; the first, line {line}: {game}\n\
         hint: --suite names the games that were played",
        store.display(),
        games.display(),
    )))
}

impl VerifyOutput {
    fn add(
        &mut self,
        store: &Path,
        first: usize,
        episodes: &[Trajectory],
        found: Vec<(usize, ReplayDifference)>,
    ) {
        let checkable: Vec<&Trajectory> = episodes
            .iter()
            .filter(|episode| is_checkable(episode))
            .collect();
        self.episodes += episodes.len();
        self.checked += checkable.len();
        self.not_checkable += episodes.len() - checkable.len();
        self.turns += checkable
            .iter()
            .map(|episode| episode.turns.len())
            .sum::<usize>();
        self.differences += found.len();
        let room = SHOWN.saturating_sub(self.shown.len());
        for (index, difference) in found.into_iter().take(room) {
            self.shown.push(EpisodeDifference {
                store: store.into(),
                line: index + 1,
                game: episodes[index - first].game.clone(),
                repetition: episodes[index - first].repetition,
                difference,
            });
        }
    }

    fn print(&self) {
        for EpisodeDifference {
            store,
            line,
            game,
            repetition,
            difference,
        } in &self.shown
        {
            ui::print(&format!(
                "{}:{line}: {game}, repetition {repetition}, {difference}\n",
                store.display()
            ));
        }
        if self.differences > self.shown.len() {
            ui::print(&format!(
                "… and {} more\n",
                self.differences - self.shown.len()
            ));
        }
        let lost = match self.not_checkable {
            0 => String::new(),
            n => format!(", {n} were lost and cannot be checked"),
        };
        ui::print(&format!(
            "{} of {} episodes are as logged, {} are not{lost}; {} turns in {:.1} s, {:.0} episodes a second\n",
            self.checked - self.differences,
            self.episodes,
            self.differences,
            self.turns,
            self.seconds,
            self.episodes_per_second
        ));
    }
}
