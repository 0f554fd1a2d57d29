//! `hearth score`: writes a store with process scores at the turns of its failed episodes. Won
//! episodes, and episodes whose world failed, are copied unchanged.
//!
//! Each scored episode is written at once. If a call is interrupted, the next one continues with
//! the episodes that are not in OUT yet, and the scores are the same. OUT.settings.json records the
//! settings; if they differ, the call is refused.

use crate::args::concurrency::ConcurrencyArgs;
use crate::args::policy::{FOLDER_HINT, LoadArgs, ReferenceArgs};
use crate::args::stores;
use crate::args::world::ReplayWorldArgs;
use crate::commands::data::suite_table::report_faults;
use crate::commands::play::completed::{Refusals, by_protocol, key, open_resumable};
use crate::ui;
use agent::policy::Policy;
use agent::policy::lm::{LmPolicy, ValueUse};
use clap::{Args, ValueHint};
use scenarios::store::Store;
use scenarios::{KvFormat, Outcome, Suite, Task, Trajectory, WeightFormat};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::measure::score::{
    FailedEpisode, Scoring, ScoringResult, completion_protocol, is_scored, score_episodes,
    with_scores,
};

#[derive(Args)]
pub(crate) struct ScoreCommand {
    /// Store to read, JSONL, as written by `collect`, `eval` and `loop`
    #[arg(value_hint = ValueHint::FilePath)]
    store: PathBuf,
    /// Games of the store: a folder (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Model folder that completes the episodes, usually the one that played them
    #[arg(long, value_hint = ValueHint::DirPath)]
    policy: PathBuf,
    /// Number of completions of each prefix, at the temperature of the episode (1 if it was greedy)
    #[arg(long, default_value_t = 20)]
    completions: usize,
    /// Turns between the prefixes that are tried; above 1 is faster, but a score can be too low
    #[arg(long, default_value_t = 1)]
    stride: usize,
    #[command(flatten)]
    concurrency: ConcurrencyArgs,
    /// Seed of the completions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Store to write, JSONL; episodes that it already contains are not scored again
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    world: ReplayWorldArgs,
}

/// What the scores of a store depend on besides its episodes; recorded in OUT.settings.json.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ScoreSettings {
    policy: String,
    weights: WeightFormat,
    #[serde(default, skip_serializing_if = "KvFormat::is_exact")]
    kv: KvFormat,
    /// Choices about the frames of turns, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<String>,
    completions: usize,
    stride: usize,
    seed: u64,
    world: String,
}

/// The JSON output of `hearth score`.
#[derive(Serialize)]
struct ScoreOutput {
    /// Episodes in the store with scores.
    episodes: usize,
    successes: usize,
    /// Failed episodes, each with a score at every turn.
    scored: usize,
    /// Scored episodes with a score above 0.
    winnable: usize,
    /// Episodes whose world failed when they were played; they are copied.
    lost: usize,
    /// Episodes that are not in the store, because completions were lost and none won.
    unscored: usize,
    /// Completions played by this call.
    completions: usize,
    /// Turns that the policy generated in these completions.
    completed_turns: usize,
    store: PathBuf,
}

impl ScoreCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.completions == 0 || self.stride == 0 {
            return Err(ui::WrongUse("--completions, --stride: at least 1".into()).into());
        }
        let episodes = stores::read(&self.store)?;
        let suite = Suite::open(&self.suite)?;
        report_faults(&suite);
        let tasks = tasks_of(&suite, &episodes, &self.suite)?;
        let player = self.open_policy(&episodes)?;
        let (mut out, finished) = self.open_out(&player)?;
        let left = unfinished(&episodes, &finished, &self.out)?;
        let mut all = finished;
        let (failed, others): (Vec<&Trajectory>, Vec<&Trajectory>) =
            left.iter().partition(|t| is_scored(t.outcome));
        for episode in others {
            append(&mut out, &mut all, episode.clone())?;
        }

        let completions = self.completions;
        let scoring = Scoring {
            completions,
            stride: self.stride,
            seed: self.seed,
            pool: self.concurrency.resolve(),
        };
        let opened = self.world.open(failed.len() * completions)?;
        let bar = ui::bar("score");
        bar.set_length(failed.len() as u64);
        let mut cost = (0, 0);
        let mut lost = Vec::new();
        for (protocol, group) in by_protocol(&failed) {
            let failed: Vec<FailedEpisode<'_>> = group
                .into_iter()
                .map(|episode| FailedEpisode {
                    task: tasks[episode.game_hash.as_str()],
                    episode,
                })
                .collect();
            let versioned = opened.in_version(protocol.translated_to);
            let protocol = completion_protocol(protocol, player.context_limit());
            player.can_play(&protocol).map_err(ui::WrongUse)?;
            let spent = score_episodes(
                &player,
                versioned.world(),
                &failed,
                &protocol,
                scoring,
                |episode, found| {
                    bar.inc(1);
                    match found {
                        ScoringResult::Scores(scores) => {
                            append(&mut out, &mut all, with_scores(episode, &scores))
                        }
                        ScoringResult::Lost(reason) => {
                            lost.push(reason);
                            Ok(())
                        }
                    }
                },
            )?;
            cost = (cost.0 + spent.completions, cost.1 + spent.turns);
        }
        bar.finish();
        opened.report_replaced();
        if let Some(reason) = lost.last() {
            let out = self.out.display();
            eprintln!(
                "{} episodes could not be completed and are not in {out}; the last: {reason}",
                lost.len()
            );
        }
        self.print(&all, lost.len(), cost)
    }

    /// Opens the policy. Its value network is loaded only if an episode was played with K above 1.
    fn open_policy(&self, episodes: &[Trajectory]) -> anyhow::Result<LmPolicy> {
        if !self.policy.is_dir() {
            return Err(ui::WrongUse(format!(
                "--policy {}: not a model folder\n{FOLDER_HINT}",
                self.policy.display()
            ))
            .into());
        }
        let highest_k = episodes
            .iter()
            .filter(|episode| is_scored(episode.outcome))
            .map(|episode| episode.protocol.best_of)
            .max()
            .unwrap_or(1);
        let value = if highest_k > 1 {
            ValueUse::Score
        } else {
            ValueUse::Skip
        };
        self.load
            .open(&self.policy, value, &ReferenceArgs::default())
    }

    /// Opens the store with scores. Refuses it if its episodes were scored with other settings.
    fn open_out(&self, player: &LmPolicy) -> anyhow::Result<(Store, Vec<Trajectory>)> {
        let settings = ScoreSettings {
            policy: player.name(),
            weights: self.load.weights,
            kv: self.load.kv,
            frames: player.chosen_frames(),
            completions: self.completions,
            stride: self.stride,
            seed: self.seed,
            world: self.world.name.world.clone(),
        };
        let before = Refusals {
            other: "contains scores by another policy, or with other settings",
            unknown: "contains episodes, and no record of how they were scored",
        };
        open_resumable(&self.out, &settings, before)
    }

    fn print(
        self,
        all: &[Trajectory],
        unscored: usize,
        (completions, completed_turns): (usize, usize),
    ) -> anyhow::Result<ExitCode> {
        let output = ScoreOutput {
            episodes: all.len(),
            successes: all.iter().filter(|episode| episode.is_won()).count(),
            scored: all
                .iter()
                .filter(|episode| is_scored(episode.outcome))
                .count(),
            winnable: all
                .iter()
                .filter(|episode| {
                    episode
                        .turns
                        .iter()
                        .any(|turn| turn.process_score > Some(0.0))
                })
                .count(),
            lost: all
                .iter()
                .filter(|episode| episode.outcome == Outcome::EnvFailed)
                .count(),
            unscored,
            completions,
            completed_turns,
            store: self.out,
        };
        if self.json {
            ui::print_json(&output)?;
        } else {
            ui::print(&format!(
                "{} failed of {} episodes scored, {} of them above 0, by {completions} completions \
                 ({completed_turns} turns), in {}\n",
                output.scored,
                output.episodes,
                output.winnable,
                output.store.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Appends a scored episode to the store and to the list of its episodes.
fn append(
    out: &mut Store,
    all: &mut Vec<Trajectory>,
    scored: Trajectory,
) -> Result<(), TrainerError> {
    out.append(&scored)?;
    all.push(scored);
    Ok(())
}

/// Returns the games of the suite by hash. Refuses the suite if the game of a failed episode is
/// missing.
fn tasks_of<'s>(
    suite: &'s Suite,
    episodes: &[Trajectory],
    path: &Path,
) -> anyhow::Result<HashMap<&'s str, &'s Task>> {
    let tasks: HashMap<&str, &Task> = suite
        .tasks
        .iter()
        .map(|task| (task.hash.as_str(), task))
        .collect();
    let missing: Vec<&Trajectory> = episodes
        .iter()
        .filter(|episode| is_scored(episode.outcome))
        .filter(|episode| !tasks.contains_key(episode.game_hash.as_str()))
        .collect();
    if let Some(first) = missing.first() {
        return Err(ui::WrongUse(format!(
            "{} failed episodes are of games that {} does not contain; the first: {}",
            missing.len(),
            path.display(),
            first.game
        ))
        .into());
    }
    Ok(tasks)
}

/// Returns the episodes that are not among the finished ones.
fn unfinished<'a>(
    episodes: &'a [Trajectory],
    finished: &[Trajectory],
    out: &Path,
) -> anyhow::Result<Vec<&'a Trajectory>> {
    let mut done: HashMap<_, usize> = HashMap::new();
    for episode in finished {
        *done.entry(key(episode)?).or_default() += 1;
    }
    let mut left = Vec::new();
    for episode in episodes {
        match done.get_mut(&key(episode)?).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            None => left.push(episode),
        }
    }
    let foreign: usize = done.values().sum();
    if foreign > 0 {
        let text = format!(
            "{}: contains {foreign} episodes of another store\nhint: choose another --out, or remove it",
            out.display()
        );
        return Err(ui::WrongUse(text).into());
    }
    Ok(left)
}
