//! `hearth import`: converts published demonstrations to a store. If the games are available, every
//! record is replayed, and the observations of the world are written.

use crate::args::world::ReplayWorldArgs;
use crate::commands::data::suite_table::report_faults;
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
use trainer::formats::import::{
    GameName, Origin, RecordedEpisode, Thoughts, first_text_difference, read,
};
use trainer::measure::verify::{EpisodeToReplay, by_protocol, replay_all};

/// The number of omitted records that are printed. All are counted.
const SHOWN: usize = 10;

#[derive(Args)]
pub(crate) struct ImportCommand {
    /// Files, each a JSON list or one record per line
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// Format: `eto` (agent-eto/eto-sft-trajectory, alfworld_sft.json) or `agentgym`
    /// (AgentGym/AgentTraj-L, alfworld_train.json)
    #[arg(long)]
    format: Origin,
    /// Store to write, JSONL
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// Games: a folder or a manifest; each record of one of them is replayed and the world's
    /// observations are written [default: write the record's observations]
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: Option<PathBuf>,
    /// Text version of the episodes, 2.1.1 (`put X in/on Y`) or 2.1.3 (`move X to Y`) [default:
    /// that of the game, or of the record if there is no suite]
    #[arg(long, value_name = "VERSION")]
    text: Option<TextVersion>,
    /// Thoughts: `drop`, or `keep` each as a turn `think: …`, which the world does not understand
    #[arg(long, default_value = "drop")]
    thoughts: Thoughts,
    /// Skip and count records that cannot be read, instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: ReplayWorldArgs,
}

/// The JSON output of `hearth import`.
#[derive(Default, Serialize)]
struct ImportOutput {
    records: usize,
    imported: usize,
    /// Won episodes among the imported ones.
    won: usize,
    /// Records that could not be read.
    bad: usize,
    /// Records of games that the suite does not contain.
    unmatched: usize,
    /// Records whose observations differ from those of the world.
    differing: usize,
    store: PathBuf,
}

/// A record with its file and position.
struct PlacedRecord {
    file: PathBuf,
    /// The position in the file, from 1.
    number: usize,
    recorded: RecordedEpisode,
}

impl ImportCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut output = ImportOutput {
            store: self.out.clone(),
            ..ImportOutput::default()
        };
        let placed = self.read(&mut output)?;
        let mut out = Sink::json(&self.out)?;
        let episodes = match &self.suite {
            Some(path) => self.replay(path, &placed, &mut output)?,
            None => {
                let mut repetitions = Repetitions::default();
                placed
                    .iter()
                    .map(|one| self.episode(one, self.text, &mut repetitions))
                    .collect()
            }
        };
        report_omitted(&output);
        anyhow::ensure!(
            !episodes.is_empty(),
            "none of {} records was imported",
            output.records
        );
        output.imported = episodes.len();
        output.won = episodes.iter().filter(|episode| episode.is_won()).count();
        for episode in &episodes {
            out.write(episode)?;
        }
        out.finish()?;
        if self.json {
            ui::print_json(&output)?;
        } else {
            ui::print(&format!(
                "{} of {} records imported, {} of them won, in {}\n",
                output.imported,
                output.records,
                output.won,
                output.store.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn read(&self, output: &mut ImportOutput) -> anyhow::Result<Vec<PlacedRecord>> {
        let mut placed = Vec::new();
        for file in &self.files {
            for (index, record) in read(self.format, file)?.into_iter().enumerate() {
                output.records += 1;
                let bad = match record {
                    Ok(recorded) => {
                        placed.push(PlacedRecord {
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
                        "{bad}\nhint: --skip-bad omits such records"
                    ))
                    .into());
                }
                output.bad += 1;
                print_omitted(output.bad, &bad);
            }
        }
        Ok(placed)
    }

    fn episode(
        &self,
        one: &PlacedRecord,
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

    /// Replays the records whose games the suite contains. Returns their episodes in order.
    fn replay(
        &self,
        path: &Path,
        placed: &[PlacedRecord],
        output: &mut ImportOutput,
    ) -> anyhow::Result<Vec<Trajectory>> {
        let suite = Suite::open(path)?;
        report_faults(&suite);
        let games = by_folders(&suite);
        let mut repetitions = Repetitions::default();
        let mut drafts: Vec<(&PlacedRecord, &Task, Trajectory)> = Vec::new();
        for one in placed {
            let GameName { task, trial, .. } = &one.recorded.game;
            let Some(game) = games.get(&(task.as_str(), trial.as_str())) else {
                output.unmatched += 1;
                continue;
            };
            let draft = self.draft(one, game, &mut repetitions);
            drafts.push((one, game, draft));
        }
        let logged: Vec<EpisodeToReplay<'_>> = drafts
            .iter()
            .enumerate()
            .map(|(place, (_, task, episode))| EpisodeToReplay {
                place,
                task,
                episode,
            })
            .collect();
        let mut played: Vec<Option<Trajectory>> = vec![None; drafts.len()];
        let opened = self.world.open(usize::MAX)?;
        let bar = ui::bar("replay");
        bar.set_length(drafts.len() as u64);
        for (protocol, group) in by_protocol(&logged) {
            let versioned = opened.in_version(protocol.translated_to);
            let Ok(()) = replay_all(
                versioned.world(),
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
        opened.report_replaced();
        let mut kept = Vec::new();
        for ((one, _, draft), played) in drafts.into_iter().zip(played.into_iter().flatten()) {
            match first_text_difference(&draft, &played) {
                None => kept.push(as_imported(draft, played)),
                Some(difference) => {
                    output.differing += 1;
                    let text = format!(
                        "{}, record {} ({}), {difference}",
                        one.file.display(),
                        one.number,
                        one.recorded.id
                    );
                    print_omitted(output.differing, &text);
                }
            }
        }
        Ok(kept)
    }

    /// Returns a record as an episode of its game, to be replayed. It ends with the record, won or
    /// not.
    fn draft(&self, one: &PlacedRecord, game: &Task, repetitions: &mut Repetitions) -> Trajectory {
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

/// The number of records of each game so far.
#[derive(Default)]
struct Repetitions(HashMap<(String, String), usize>);

impl Repetitions {
    /// Returns the number of earlier records of the game, and counts this one.
    fn next(&mut self, game: &GameName) -> usize {
        let count = self
            .0
            .entry((game.task.clone(), game.trial.clone()))
            .or_default();
        *count += 1;
        *count - 1
    }
}

/// Returns the games of a suite by the two innermost folders of their ids.
fn by_folders(suite: &Suite) -> HashMap<(&str, &str), &Task> {
    suite
        .tasks
        .iter()
        .filter_map(|task| {
            let mut parts = task.id.rsplit('/');
            let trial = parts.next()?;
            Some(((parts.next()?, trial), task))
        })
        .collect()
}

/// Returns the replayed episode with the identity of the record: its repetition, seed, policy and
/// protocol.
fn as_imported(draft: Trajectory, played: Trajectory) -> Trajectory {
    Trajectory {
        repetition: draft.repetition,
        seed: draft.seed,
        policy: draft.policy,
        protocol: draft.protocol,
        seconds: 0.0,
        spent: draft.spent,
        ..played
    }
}

/// Prints an omitted record if it is one of the first [`SHOWN`].
fn print_omitted(number: usize, what: &str) {
    if number <= SHOWN {
        eprintln!("left out: {what}");
    }
}

/// Prints how many records were omitted.
fn report_omitted(output: &ImportOutput) {
    if output.bad > 0 {
        eprintln!("{} records could not be read", output.bad);
    }
    if output.unmatched > 0 {
        eprintln!(
            "{} records are of games that the suite does not contain",
            output.unmatched
        );
    }
    if output.differing > 0 {
        eprintln!("{} records differ from the world", output.differing);
    }
}
