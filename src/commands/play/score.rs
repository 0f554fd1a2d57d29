//! `hearth score`: a store with process scores at the turns of its failed episodes; what was won, and what was lost to the
//! world, is copied as it is.
//!
//! What is found is written at once. A call that is stopped goes on with the episodes that are not in OUT yet, to the same
//! scores; OUT.settings.json beside it keeps scores that were found in another way out.

use crate::args::policy::{HoldingArgs, ReferenceArgs};
use crate::args::world::OwnWorldArgs;
use crate::ui;
use agent::policy::Policy;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use anyhow::Context;
use clap::{Args, ValueHint};
use scenarios::store::Store;
use scenarios::{Outcome, Protocol, Suite, Task, Trajectory, WeightFormat};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trainer::TrainerError;
use trainer::measure::score::{
    Failed, Found, Scoring, completing, is_scored, score_episodes, with_scores,
};

#[derive(Args)]
pub(crate) struct Score {
    /// The store, JSONL, as `collect`, `eval` and `loop` write it
    #[arg(value_hint = ValueHint::FilePath)]
    store: PathBuf,
    /// The games of the store: a folder of games (ALFWorld's layout, or SPLIT/NAME.z8) or a manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Who completes: a model folder, as a rule the one that played
    #[arg(long, value_hint = ValueHint::DirPath)]
    policy: PathBuf,
    /// Completions of each beginning, at the temperature of the episode (1 where that was greedy)
    #[arg(long, default_value_t = 20)]
    completions: usize,
    /// Turns between the beginnings that are tried; above 1 it is faster, and a score can come out too low
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// Episodes at once; changes the speed, not the result [default: 32 a core]
    #[arg(long)]
    episodes: Option<usize>,
    /// Seed of the completions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The store with scores, JSONL; episodes that stand there already are not scored again
    #[arg(long, value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    holding: HoldingArgs,
    #[command(flatten)]
    world: OwnWorldArgs,
}

/// What the scores of a store depend on beside its episodes; kept beside it, in OUT.settings.json.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    policy: String,
    weights: WeightFormat,
    completions: usize,
    stride: usize,
    seed: u64,
    world: String,
}

#[derive(Serialize)]
struct Counts {
    /// In the store with scores.
    episodes: usize,
    successes: usize,
    /// Failed ones, each with a score at every turn.
    scored: usize,
    /// Of these, the ones with a score above 0.
    winnable: usize,
    /// Lost when they were played, and copied.
    lost: usize,
    /// Not in the store with scores: completions were lost, and none won.
    unscored: usize,
    /// Completions played by this call, and the turns that the policy wrote in them.
    completions: usize,
    completed_turns: usize,
    store: PathBuf,
}

impl Score {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.completions == 0 || self.stride == 0 {
            return Err(ui::WrongUse("--completions, --stride: at least 1".into()).into());
        }
        let contents = Store::contents(&self.store)?;
        if contents.torn > 0 {
            eprintln!(
                "{}: {} bytes of a torn last line are left out",
                self.store.display(),
                contents.torn
            );
        }
        let episodes = contents.trajectories;
        let suite = Suite::open(&self.suite)?;
        crate::commands::data::scenarios::say_faults(&suite);
        let tasks = tasks_of(&suite, &episodes, &self.suite)?;
        let player = self.open_policy(&episodes)?;
        let (mut out, finished) = self.open_out(&player)?;
        let left = not_yet(&episodes, &finished, &self.out)?;
        let mut all = finished;
        let mut keep = |scored: Trajectory| -> Result<(), TrainerError> {
            out.append(&scored)?;
            all.push(scored);
            Ok(())
        };
        let (failed, others): (Vec<&Trajectory>, Vec<&Trajectory>) =
            left.iter().partition(|t| is_scored(t.outcome));
        others
            .into_iter()
            .try_for_each(|episode| keep(episode.clone()))?;

        let pool = Concurrency::default();
        let pool = Concurrency {
            episodes: self.episodes.unwrap_or(pool.episodes),
            ..pool
        };
        let Self {
            completions,
            stride,
            seed,
            ..
        } = self;
        let scoring = Scoring {
            completions,
            stride,
            seed,
            pool,
        };
        let opened = self.world.open(failed.len() * completions)?;
        let bar = ui::bar("score");
        bar.set_length(failed.len() as u64);
        let (mut cost, mut lost) = ((0, 0), Vec::new());
        for (protocol, group) in by_protocol(&failed) {
            let failed: Vec<Failed<'_>> = group
                .into_iter()
                .map(|episode| Failed {
                    task: tasks[episode.game_hash.as_str()],
                    episode,
                })
                .collect();
            let speaking = opened.speaking(protocol.translated_to);
            let protocol = completing(protocol, player.context_limit());
            player.can_play(&protocol).map_err(ui::WrongUse)?;
            let spent = score_episodes(
                &player,
                speaking.world(),
                &failed,
                &protocol,
                scoring,
                |episode, found| {
                    bar.inc(1);
                    match found {
                        Found::Scores(scores) => keep(with_scores(episode, &scores)),
                        Found::Lost(reason) => {
                            lost.push(reason);
                            Ok(())
                        }
                    }
                },
            )?;
            cost = (cost.0 + spent.completions, cost.1 + spent.turns);
        }
        bar.finish();
        opened.say_losses();
        if let Some(reason) = lost.last() {
            let out = self.out.display();
            eprintln!(
                "{} episodes could not be completed and are not in {out}; the last: {reason}",
                lost.len()
            );
        }
        self.report(&all, lost.len(), cost)
    }

    /// The value network looks on only where one chose among K.
    fn open_policy(&self, episodes: &[Trajectory]) -> anyhow::Result<LmPolicy> {
        if !self.policy.is_dir() {
            let hint = "a model folder holds config.json, tokenizer.json and model.safetensors";
            let text = format!(
                "--policy {}: no model folder\nhint: {hint}",
                self.policy.display()
            );
            return Err(ui::WrongUse(text).into());
        }
        let failed = episodes.iter().filter(|episode| is_scored(episode.outcome));
        let highest_k = failed
            .map(|episode| episode.protocol.best_of)
            .max()
            .unwrap_or(1);
        let looking_on = if highest_k > 1 {
            ValueUse::Score
        } else {
            ValueUse::Skip
        };
        self.holding
            .open(&self.policy, looking_on, &ReferenceArgs::default())
    }

    /// The store with scores; what stands in it was scored in the same way.
    fn open_out(&self, player: &LmPolicy) -> anyhow::Result<(Store, Vec<Trajectory>)> {
        let settings = Settings {
            policy: player.name(),
            weights: self.holding.weights,
            completions: self.completions,
            stride: self.stride,
            seed: self.seed,
            world: self.world.which.world.clone(),
        };
        let mut path = self.out.clone().into_os_string();
        path.push(".settings.json");
        let path = PathBuf::from(path);
        let (out, finished) = Store::open(&self.out)?;
        if finished.is_empty() {
            let text = serde_json::to_string_pretty(&settings)? + "\n";
            std::fs::write(&path, text)
                .with_context(|| format!("cannot use {}", path.display()))?;
            return Ok((out, finished));
        }
        let other = |reason: &str| {
            let text = format!(
                "{}: {reason}\nhint: choose another --out, or remove it",
                self.out.display()
            );
            Err(ui::WrongUse(text).into())
        };
        match std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| serde_json::from_str::<Settings>(&text).ok())
        {
            Some(before) if before == settings => Ok((out, finished)),
            Some(_) => other("holds scores by another policy, or with other settings"),
            None => other("holds episodes, and nothing says how they were scored"),
        }
    }

    fn report(
        self,
        all: &[Trajectory],
        unscored: usize,
        (completions, completed_turns): (usize, usize),
    ) -> anyhow::Result<ExitCode> {
        let count =
            |is: &dyn Fn(&Trajectory) -> bool| all.iter().filter(|episode| is(episode)).count();
        let counts = Counts {
            episodes: all.len(),
            successes: count(&|episode| episode.is_won()),
            scored: count(&|episode| is_scored(episode.outcome)),
            winnable: count(&|episode| {
                episode
                    .turns
                    .iter()
                    .any(|turn| turn.process_score > Some(0.0))
            }),
            lost: count(&|episode| episode.outcome == Outcome::EnvFailed),
            unscored,
            completions,
            completed_turns,
            store: self.out,
        };
        if self.json {
            ui::print_json(&counts)?;
        } else {
            let Counts {
                episodes,
                scored,
                winnable,
                store,
                ..
            } = counts;
            ui::print(&format!(
                "{scored} failed of {episodes} episodes scored, {winnable} of them above 0, by {completions} completions \
                 ({completed_turns} turns), in {}\n",
                store.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The game of every failed episode, by its hash.
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
    let is_missing =
        |t: &&Trajectory| is_scored(t.outcome) && !tasks.contains_key(t.game_hash.as_str());
    let missing: Vec<&Trajectory> = episodes.iter().filter(is_missing).collect();
    if let Some(first) = missing.first() {
        let text = format!(
            "{} failed episodes are of games that {} does not hold; the first: {}",
            missing.len(),
            path.display(),
            first.game
        );
        return Err(ui::WrongUse(text).into());
    }
    Ok(tasks)
}

/// What an episode is known by in both stores.
fn key(episode: &Trajectory) -> anyhow::Result<(&str, u64, usize, &str, String)> {
    let Trajectory {
        game_hash,
        seed,
        repetition,
        policy,
        protocol,
        ..
    } = episode;
    Ok((
        game_hash,
        *seed,
        *repetition,
        policy,
        serde_json::to_string(protocol)?,
    ))
}

/// The episodes that do not stand among the finished ones.
fn not_yet<'a>(
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
            "{}: holds {foreign} episodes of another store\nhint: choose another --out, or remove it",
            out.display()
        );
        return Err(ui::WrongUse(text).into());
    }
    Ok(left)
}

/// The episodes by how they were played, in order.
fn by_protocol<'a>(episodes: &[&'a Trajectory]) -> Vec<(&'a Protocol, Vec<&'a Trajectory>)> {
    let mut groups: Vec<(&Protocol, Vec<&Trajectory>)> = Vec::new();
    for episode in episodes {
        match groups
            .iter_mut()
            .find(|(protocol, _)| **protocol == episode.protocol)
        {
            Some((_, group)) => group.push(episode),
            None => groups.push((&episode.protocol, vec![episode])),
        }
    }
    groups
}
