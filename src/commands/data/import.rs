//! `hearth import`: demonstrations that others have published, as a store. Where the games are at hand every record is
//! played again, and what is written is what the world said.

use crate::args::world::OwnWorldArgs;
use crate::ui;
use agent::rollout::Concurrency;
use clap::{Args, ValueHint};
use scenarios::{Outcome, Protocol, Suite, Task, TextVersion, Trajectory};
use serde::Serialize;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::formats::Sink;
use trainer::formats::import::{GameName, Origin, Recorded, Thoughts, read, said_otherwise};
use trainer::measure::verify::{Logged, by_protocol, replay_all};

/// Records that are named on the screen; all are counted.
const SHOWN: usize = 10;

#[derive(Args)]
pub(crate) struct Import {
    /// Files, each a JSON list or one record a line
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// Whose form: `eto` (agent-eto/eto-sft-trajectory, alfworld_sft.json) or `agentgym` (AgentGym/AgentTraj-L,
    /// alfworld_train.json)
    #[arg(long)]
    format: Origin,
    /// The store, JSONL
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// The games: a folder of games or a manifest. Each record of one of them is played again, and what the world says is
    /// written; without it, what the record says
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Text version of the episodes, 2.1.1 (`put X in/on Y`) or 2.1.3 (`move X to Y`) [default: the game's own; without
    /// a suite, the record's]
    #[arg(long, value_name = "VERSION")]
    text: Option<TextVersion>,
    /// Thoughts: `drop`, or `keep`, each as a turn of its own, `think: …`, which the world does not understand
    #[arg(long, default_value = "drop")]
    thoughts: Thoughts,
    /// Count records that cannot be read instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: OwnWorldArgs,
}

#[derive(Default, Serialize)]
struct Report {
    records: usize,
    imported: usize,
    /// Of the imported ones.
    won: usize,
    /// That could not be read.
    bad: usize,
    /// Of games that the suite does not hold.
    unmatched: usize,
    /// In which the world said something else than the record.
    differing: usize,
    store: PathBuf,
}

/// A record and where it stands.
struct Placed {
    file: PathBuf,
    /// From 1.
    number: usize,
    recorded: Recorded,
}

impl Import {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut report = Report {
            store: self.out.clone(),
            ..Report::default()
        };
        let placed = self.read(&mut report)?;
        let mut out = Sink::json(&self.out)?;
        let episodes = match &self.suite {
            Some(path) => self.play(path, &placed, &mut report)?,
            None => {
                let mut repetitions = Repetitions::default();
                let episode = |one: &Placed| self.episode(one, self.text, &mut repetitions);
                placed.iter().map(episode).collect()
            }
        };
        say_left_out(&report);
        anyhow::ensure!(
            !episodes.is_empty(),
            "nothing was imported of {} records",
            report.records
        );
        report.imported = episodes.len();
        report.won = episodes.iter().filter(|episode| episode.is_won()).count();
        for episode in &episodes {
            out.write(episode)?;
        }
        out.finish()?;
        if self.json {
            ui::print_json(&report)?;
        } else {
            let Report {
                imported,
                records,
                won,
                store,
                ..
            } = report;
            ui::print(&format!(
                "{imported} of {records} records imported, {won} of them won, in {}\n",
                store.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn read(&self, report: &mut Report) -> anyhow::Result<Vec<Placed>> {
        let mut placed = Vec::new();
        for file in &self.files {
            for (index, record) in read(self.format, file)?.into_iter().enumerate() {
                report.records += 1;
                let bad = match record {
                    Ok(recorded) => {
                        placed.push(Placed {
                            file: file.clone(),
                            number: index + 1,
                            recorded,
                        });
                        continue;
                    }
                    Err(bad) => {
                        format!("{}, record {}: {}", file.display(), bad.number, bad.reason)
                    }
                };
                if !self.skip_bad {
                    return Err(ui::WrongUse(format!(
                        "{bad}\nhint: --skip-bad leaves such records out"
                    ))
                    .into());
                }
                report.bad += 1;
                name(report.bad, &bad);
            }
        }
        Ok(placed)
    }

    fn episode(
        &self,
        one: &Placed,
        text: Option<TextVersion>,
        repetitions: &mut Repetitions,
    ) -> Trajectory {
        one.recorded.episode(
            self.format.name(),
            self.thoughts,
            text,
            repetitions.next(&one.recorded.game),
        )
    }

    /// What the world says to the commands of the records whose games are there, in their order.
    fn play(
        &self,
        path: &Path,
        placed: &[Placed],
        report: &mut Report,
    ) -> anyhow::Result<Vec<Trajectory>> {
        let suite = Suite::open(path)?;
        crate::commands::data::scenarios::say_faults(&suite);
        let games = by_folders(&suite);
        let mut repetitions = Repetitions::default();
        let mut drafts: Vec<(&Placed, &Task, Trajectory)> = Vec::new();
        for one in placed {
            let GameName { task, trial, .. } = &one.recorded.game;
            let Some(game) = games.get(&(task.as_str(), trial.as_str())) else {
                report.unmatched += 1;
                continue;
            };
            let draft = self.draft(one, game, &mut repetitions);
            drafts.push((one, game, draft));
        }
        let logged: Vec<Logged<'_>> = drafts
            .iter()
            .enumerate()
            .map(|(place, (_, task, episode))| Logged {
                place,
                task,
                episode,
            })
            .collect();
        let mut played: Vec<Option<Trajectory>> = vec![None; drafts.len()];
        let opened = self.world.open(usize::MAX)?;
        let bar = ui::bar("play again");
        bar.set_length(drafts.len() as u64);
        for (protocol, group) in by_protocol(&logged) {
            let speaking = opened.speaking(protocol.translated_to);
            let Ok(()) = replay_all(
                speaking.world(),
                &group,
                &protocol,
                Concurrency::default(),
                |one, episode| {
                    bar.inc(1);
                    played[one.place] = Some(episode);
                    Ok::<(), Infallible>(())
                },
            );
        }
        bar.finish();
        opened.say_losses();
        let mut kept = Vec::new();
        for ((one, _, draft), played) in drafts.into_iter().zip(played.into_iter().flatten()) {
            match said_otherwise(&draft, &played) {
                None => kept.push(as_imported(draft, played)),
                Some(difference) => {
                    report.differing += 1;
                    let Placed {
                        file,
                        number,
                        recorded,
                    } = one;
                    name(
                        report.differing,
                        &format!(
                            "{}, record {number} ({}), {difference}",
                            file.display(),
                            recorded.id
                        ),
                    );
                }
            }
        }
        Ok(kept)
    }

    /// A record as an episode of its game, to be played again: it ends with the record, won or not.
    fn draft(&self, one: &Placed, game: &Task, repetitions: &mut Repetitions) -> Trajectory {
        let own = TextVersion::of_game(&game.path);
        let text = self.text.or(own);
        let draft = self.episode(one, text, repetitions);
        let protocol = Protocol {
            translated_to: text.filter(|_| text != own),
            ..draft.protocol
        };
        Trajectory {
            protocol,
            outcome: Outcome::Failure,
            ..draft
        }
    }
}

/// How many records of a game there were.
#[derive(Default)]
struct Repetitions(HashMap<(String, String), usize>);

impl Repetitions {
    fn next(&mut self, game: &GameName) -> usize {
        let count = self
            .0
            .entry((game.task.clone(), game.trial.clone()))
            .or_default();
        *count += 1;
        *count - 1
    }
}

/// The games of a suite by the two folders that they lie in, as their ids tell them.
fn by_folders(suite: &Suite) -> HashMap<(&str, &str), &Task> {
    let folders = suite.tasks.iter().filter_map(|task| {
        let mut parts = task.id.rsplit('/');
        let trial = parts.next()?;
        Some(((parts.next()?, trial), task))
    });
    folders.collect()
}

/// What was played again, as the record's own episode.
fn as_imported(draft: Trajectory, played: Trajectory) -> Trajectory {
    let Trajectory {
        repetition,
        seed,
        policy,
        protocol,
        spent,
        ..
    } = draft;
    Trajectory {
        repetition,
        seed,
        policy,
        protocol,
        seconds: 0.0,
        spent,
        ..played
    }
}

/// Tells of a record that is left out, unless many were told of before.
fn name(number: usize, what: &str) {
    if number <= SHOWN {
        eprintln!("left out: {what}");
    }
}

fn say_left_out(report: &Report) {
    if report.bad > 0 {
        eprintln!("{} records could not be read", report.bad);
    }
    if report.unmatched > 0 {
        eprintln!(
            "{} records are of games that the suite does not hold",
            report.unmatched
        );
    }
    if report.differing > 0 {
        eprintln!(
            "in {} records the world says something else",
            report.differing
        );
    }
}
