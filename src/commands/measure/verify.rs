//! `hearth verify`: replays every logged episode in a fresh world and tells where the log says something else.

use crate::args::stores::{self, Source};
use crate::args::world::{Opened, OwnWorldArgs};
use crate::ui;
use agent::model::folder::Model;
use agent::rollout::Concurrency;
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
use trainer::TrainerError;
use trainer::measure::verify::{
    Difference, Logged, by_protocol, first_difference, is_checkable, replay_all, token_difference,
};

/// Differences that are printed; all are counted.
const SHOWN: usize = 10;

#[derive(Args)]
pub(crate) struct Verify {
    /// Stores, JSONL, and run folders, whose stores are all read
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    stores: Vec<PathBuf>,
    /// The games: a folder of games (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest [default: the run folder's own]
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// A model folder by whose tokenizer the logged ids must spell the texts
    #[arg(long, value_hint = ValueHint::DirPath)]
    policy: Option<PathBuf>,
    /// Episodes at once; changes the speed, not the result [default: 32 a core]
    #[arg(long)]
    episodes: Option<usize>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: OwnWorldArgs,
}

/// A difference and the episode it is in.
#[derive(Serialize)]
struct Named {
    store: PathBuf,
    /// From 1.
    line: usize,
    game: String,
    repetition: usize,
    #[serde(flatten)]
    difference: Difference,
}

#[derive(Default, Serialize)]
struct Report {
    stores: usize,
    episodes: usize,
    checked: usize,
    /// Lost to their world, or to a server.
    not_checkable: usize,
    /// Of the checked episodes.
    turns: usize,
    /// Episodes that are not as logged.
    differences: usize,
    /// The first of each of these episodes.
    shown: Vec<Named>,
    seconds: f64,
    episodes_per_second: f64,
}

impl Verify {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let tokenizer = self.policy.as_deref().map(tokenizer).transpose()?;
        let sources = stores::find(&self.stores)?;
        let opened = self.world.open(usize::MAX)?;
        let mut suites: HashMap<PathBuf, Suite> = HashMap::new();
        let mut report = Report::default();
        let bar = ui::bar("verify");
        for source in &sources {
            let (place, suite) = self.suite_of(source, &mut suites)?;
            let episodes = stores::read(&source.store)?;
            bar.inc_length(episodes.len() as u64);
            let logged = logged_of(suite, &episodes, &source.store, &place)?;
            let found = self.differences(&opened, &logged, tokenizer.as_ref(), || bar.inc(1));
            report.add(&source.store, &episodes, found);
        }
        bar.finish();
        opened.say_losses();
        report.seconds = started.elapsed().as_secs_f64();
        report.episodes_per_second = report.checked as f64 / report.seconds;
        if self.json {
            ui::print_json(&report)?;
        } else {
            report.print();
        }
        Ok(ExitCode::from(u8::from(report.differences > 0)))
    }

    /// The suite of a store and its place, opened once.
    fn suite_of<'s>(
        &self,
        source: &Source,
        suites: &'s mut HashMap<PathBuf, Suite>,
    ) -> anyhow::Result<(PathBuf, &'s Suite)> {
        let Some(place) = self.suite.clone().or_else(|| source.folder.clone()) else {
            let text = format!(
                "{}: whose games are these?\nhint: --suite, or name the run folder",
                source.store.display()
            );
            return Err(ui::WrongUse(text).into());
        };
        if !suites.contains_key(&place) {
            let suite = match &self.suite {
                Some(path) => Suite::open(path)?,
                None => stores::suite_of_run(&place)?,
            };
            crate::commands::data::scenarios::say_faults(&suite);
            suites.insert(place.clone(), suite);
        }
        let suite = &suites[&place];
        Ok((place, suite))
    }

    /// By place in the store: the first difference of each episode that has one.
    fn differences(
        &self,
        opened: &Opened,
        logged: &[Logged<'_>],
        tokenizer: Option<&Tokenizer>,
        mut tick: impl FnMut(),
    ) -> Vec<(usize, Difference)> {
        let pool = Concurrency::default();
        let pool = Concurrency {
            episodes: self.episodes.unwrap_or(pool.episodes),
            ..pool
        };
        let mut found = Vec::new();
        for (protocol, group) in by_protocol(logged) {
            let speaking = opened.speaking(protocol.translated_to);
            let Ok(()) = replay_all(
                speaking.world(),
                &group,
                &protocol,
                pool,
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

fn tokenizer(folder: &Path) -> anyhow::Result<Tokenizer> {
    let model = Model::open(folder).map_err(TrainerError::from);
    Ok(model
        .with_context(|| format!("--policy {}", folder.display()))?
        .tokenizer)
}

/// The episodes that can be checked, with their games.
fn logged_of<'a>(
    suite: &'a Suite,
    episodes: &'a [Trajectory],
    store: &Path,
    games: &Path,
) -> anyhow::Result<Vec<Logged<'a>>> {
    let tasks: HashMap<&str, &Task> = suite
        .tasks
        .iter()
        .map(|task| (task.hash.as_str(), task))
        .collect();
    let checkable = || {
        episodes
            .iter()
            .enumerate()
            .filter(|(_, episode)| is_checkable(episode))
    };
    let missing: Vec<(usize, &Trajectory)> = checkable()
        .filter(|(_, episode)| !tasks.contains_key(episode.game_hash.as_str()))
        .collect();
    if let Some((index, first)) = missing.first() {
        let (count, store, games, line) =
            (missing.len(), store.display(), games.display(), index + 1);
        let text = format!(
            "{count} episodes of {store} are of games that {games} does not hold; the first, line {line}: {}\n\
             hint: --suite names the games that were played",
            first.game
        );
        return Err(ui::WrongUse(text).into());
    }
    let logged = |(place, episode): (usize, &'a Trajectory)| Logged {
        place,
        task: tasks[episode.game_hash.as_str()],
        episode,
    };
    Ok(checkable().map(logged).collect())
}

impl Report {
    fn add(&mut self, store: &Path, episodes: &[Trajectory], found: Vec<(usize, Difference)>) {
        let checkable = || episodes.iter().filter(|episode| is_checkable(episode));
        self.stores += 1;
        self.episodes += episodes.len();
        self.checked += checkable().count();
        self.not_checkable += episodes.len() - checkable().count();
        self.turns += checkable()
            .map(|episode| episode.turns.len())
            .sum::<usize>();
        self.differences += found.len();
        for (index, difference) in found
            .into_iter()
            .take(SHOWN.saturating_sub(self.shown.len()))
        {
            let Trajectory {
                game, repetition, ..
            } = &episodes[index];
            let (game, repetition) = (game.clone(), *repetition);
            self.shown.push(Named {
                store: store.into(),
                line: index + 1,
                game,
                repetition,
                difference,
            });
        }
    }

    fn print(&self) {
        for Named {
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
