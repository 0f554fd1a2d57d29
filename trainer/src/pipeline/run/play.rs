//! A stage that plays episodes: demonstrations, DAgger, rollouts or an evaluation.

use super::context::{RunContext, RunOptions};
use super::leases::Leases;
use super::waiting::wait;
use crate::error::TrainerError;
use crate::measure::play_notes::{is_lost, play_notes};
use crate::pipeline::manifest::{StageManifest, StageOutput, StagePaths};
use crate::pipeline::rounds::{Round, Shard, in_order, jobs, play_jobs};
use crate::pipeline::shard::{episodes_hash, parts_of, write_store};
use crate::pipeline::stages::{Stage, StageOutputs, collected_best_of, collector, student};
use agent::policy::dagger::DaggerPolicy;
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::policy::{ExpertPolicy, Policy};
use agent::rollout::{Concurrency, EpisodeJob};
use indicatif::ProgressBar;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::store::Store;
use scenarios::{Split, Suite, Task, Trajectory, World};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A stage that plays episodes, and what it needs.
#[derive(Clone, Copy)]
pub(super) struct PlayedStage<'a> {
    pub(super) context: RunContext<'a>,
    pub(super) world: &'a dyn World,
    pub(super) suite: &'a Suite,
    /// The practice suites: their `train` games are played with those of the suite.
    pub(super) practice: &'a [Suite],
    /// Outputs of earlier stages.
    pub(super) outputs: &'a StageOutputs,
    pub(super) stage: Stage,
}

impl<'a> PlayedStage<'a> {
    /// Runs the stage to its end: plays the games of this process, takes in the episodes of other shards, and
    /// finishes the manifest.
    ///
    /// # Errors
    /// [`TrainerError::Awaiting`] if other shards have not played their games; other errors of playing.
    pub(super) fn lead(&self, mut manifest: StageManifest) -> Result<StageOutput, TrainerError> {
        let paths = self.paths();
        let jobs = self.jobs(Shard::WHOLE);
        paths.expect(&mut manifest, jobs.len())?;
        let store = paths.file("jsonl");
        let bar = self.bar();
        let episodes = if self.context.options.shard.is_part() {
            self.play(&self.share()?, &bar)?;
            let episodes = self.wait_for_shards(&jobs)?;
            write_store(&store, &episodes)?;
            episodes
        } else {
            take_in(&store, &jobs)?;
            self.play(&jobs, &bar)?
        };
        remove_parts(&store, &episodes)?;
        self.report(&store, &episodes)?;
        if let Stage::Evaluate { .. } = self.stage {
            bar.finish();
        } else {
            let won = episodes.iter().filter(|episode| episode.is_won()).count();
            bar.finish_with_message(format!("{won} won of {}", episodes.len()));
        }
        let output = StageOutput {
            episodes: Some(episodes_hash(&episodes)),
            ..StageOutput::default()
        };
        Ok(paths.finish(manifest, output, &["jsonl"])?.output)
    }

    /// Says what the completions show about the setting.
    ///
    /// # Errors
    /// If every episode was lost: the stages that follow would learn from nothing, or measure nothing.
    fn report(&self, store: &Path, episodes: &[Trajectory]) -> Result<(), TrainerError> {
        for note in play_notes(episodes) {
            self.context.say(&format!("note: {}: {note}", self.title()));
        }
        if !is_lost(episodes) {
            return Ok(());
        }
        let failures = episodes.iter().rev();
        let why = failures
            .filter_map(|episode| episode.failure.as_deref())
            .next();
        let why = why.unwrap_or("its first observation does not fit into the context");
        Err(TrainerError::content(
            store,
            format!(
                "every episode of this stage was lost; the last: {why}\n\
                 hint: fix the cause, then remove this file; the next run plays the stage again"
            ),
        ))
    }

    /// Plays the games of a shard that is not the leader.
    ///
    /// # Errors
    /// Any error of playing.
    pub(super) fn play_share(&self) -> Result<(), TrainerError> {
        let bar = self.bar();
        let played = self.play(&self.share()?, &bar)?;
        bar.finish_with_message(format!(
            "shard {} has played its {} episodes",
            self.context.options.shard,
            played.len()
        ));
        Ok(())
    }

    /// Reads the stage's episodes in the order of play.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) fn read(&self) -> Result<Vec<Trajectory>, TrainerError> {
        let episodes = Store::read(self.paths().file("jsonl"))?;
        Ok(in_order(episodes, &self.jobs(Shard::WHOLE)))
    }

    fn paths(&self) -> StagePaths {
        self.stage.paths(self.context.recipe, self.context.out)
    }

    fn bar(&self) -> ProgressBar {
        self.context.reporter.stage(&self.title())
    }

    fn title(&self) -> String {
        let recipe = self.context.recipe;
        match self.stage {
            Stage::Collect { iteration } => format!("collect, iteration {iteration}"),
            Stage::Evaluate { job, k, .. } => {
                format!("evaluate {}, K = {k}", recipe.jobs[job].name)
            }
            Stage::Dagger { dagger } => format!("DAgger with {}", recipe.dagger[dagger].student),
            _ => "expert demonstrations".into(),
        }
    }

    /// Returns the episodes that a shard has to play.
    fn jobs(&self, shard: Shard) -> Vec<EpisodeJob<'a>> {
        let recipe = self.context.recipe;
        let (tasks, repetitions) = match self.stage {
            Stage::Collect { .. } => {
                let config = &recipe.collect;
                (self.select(Split::Train, config.games), config.repetitions)
            }
            Stage::Dagger { dagger } => {
                let config = &recipe.dagger[dagger];
                (self.select(Split::Train, config.games), config.repetitions)
            }
            Stage::Evaluate { .. } => {
                let config = &recipe.evaluate;
                let splits = config.splits.iter();
                let tasks = splits.flat_map(|split| self.select(*split, config.games));
                (tasks.collect(), 1)
            }
            _ => {
                let config = &recipe.demonstrations;
                (self.select(Split::Train, config.games), config.repetitions)
            }
        };
        let round = Round {
            repetitions,
            seed: self.stage.seed(recipe),
            pool: Concurrency::default(),
            shard,
        };
        jobs(&tasks, round)
    }

    /// Returns games of a split in an order that depends on the recipe's seed. If `count` is 0, all games. The
    /// `train` games of the practice suites are among those of `train`, except in an evaluation.
    fn select(&self, split: Split, count: usize) -> Vec<&'a Task> {
        let mut tasks = self.suite.split(split);
        if split == Split::Train && !matches!(self.stage, Stage::Evaluate { .. }) {
            tasks.extend(self.practice.iter().flat_map(|suite| suite.split(split)));
        }
        tasks.shuffle(&mut StdRng::seed_from_u64(self.context.recipe.seed));
        if count > 0 {
            tasks.truncate(count);
        }
        tasks
    }

    /// Returns the episodes of this process's share that other shards have not played.
    fn share(&self) -> Result<Vec<EpisodeJob<'a>>, TrainerError> {
        let whole = self.paths().file("jsonl");
        let shard = self.context.options.shard;
        let own = shard.store(&whole);
        let mut others = stores(&whole)?;
        others.retain(|store| *store != own);
        let played = played_in(&others)?;
        let mut jobs = self.jobs(shard);
        jobs.retain(|job| !played.contains(&(job.task.hash.clone(), job.seed)));
        Ok(jobs)
    }

    /// Plays games of shards whose lease has expired, until none is missing or another shard is at work.
    ///
    /// # Errors
    /// Any error of playing.
    pub(super) fn take_over(&self, leases: &mut Leases) -> Result<(), TrainerError> {
        let RunOptions { shard, lease, .. } = *self.context.options;
        if lease.is_zero() {
            return Ok(());
        }
        let whole = self.paths().file("jsonl");
        let portion = Concurrency::default().episodes;
        for offset in 1..shard.count() {
            let index = (shard.index() + offset) % shard.count();
            let other = Shard::new(index, shard.count()).expect("below the count");
            while leases.has_expired(&other.store(&whole), lease) {
                let played = played_in(&stores(&whole)?)?;
                let mut missing = self.jobs(other);
                missing.retain(|job| !played.contains(&(job.task.hash.clone(), job.seed)));
                if missing.is_empty() {
                    break;
                }
                // The shards that have time each begin at another place, so that they rarely play the same games. They
                // go from the end: if the other shard is only slow, it plays from the beginning.
                let count = missing.len();
                let part = count.div_ceil(shard.count() - 1).min(portion);
                missing.reverse();
                missing.rotate_left(shard.index() * count / shard.count());
                missing.truncate(part);
                self.context.say(&format!(
                    "{}: shard {other} has written nothing for {} s; shard {shard} plays {part} of its {count} missing episodes",
                    self.paths().stage(),
                    lease.as_secs(),
                ));
                self.play(&missing, &self.bar())?;
            }
        }
        Ok(())
    }

    /// Plays episodes that are not in the store of this process.
    fn play(
        &self,
        jobs: &[EpisodeJob<'a>],
        bar: &ProgressBar,
    ) -> Result<Vec<Trajectory>, TrainerError> {
        let recipe = self.context.recipe;
        match self.stage {
            Stage::Collect { iteration } => {
                let value = if collected_best_of(recipe, iteration) > 1 {
                    ValueUse::Score
                } else {
                    ValueUse::Skip
                };
                self.play_as(
                    &self.model_policy(collector(recipe, iteration), value)?,
                    jobs,
                    bar,
                )
            }
            Stage::Dagger { dagger } => {
                let student = self.model_policy(student(recipe, dagger), ValueUse::Skip)?;
                self.play_as(&DaggerPolicy { student }, jobs, bar)
            }
            Stage::Evaluate { iteration, job, .. } => self.play_as(
                &self.model_policy(Stage::Train { iteration, job }, ValueUse::Score)?,
                jobs,
                bar,
            ),
            _ => {
                let noise = recipe.demonstrations.expert_noise;
                self.play_as(&ExpertPolicy { noise }, jobs, bar)
            }
        }
    }

    fn model_policy(&self, training: Stage, value: ValueUse) -> Result<LmPolicy, TrainerError> {
        let model = self.context.model(self.outputs, training)?;
        let backend = self.context.options.device.backend()?;
        Ok(LmPolicy::new(
            model,
            LoadOptions {
                backend,
                weights: self.context.recipe.protocol.weights,
                kv: self.context.recipe.protocol.kv,
                ..value.into()
            },
        )?)
    }

    fn play_as<P: Policy>(
        &self,
        policy: &P,
        jobs: &[EpisodeJob<'_>],
        bar: &ProgressBar,
    ) -> Result<Vec<Trajectory>, TrainerError> {
        let whole = self.paths().file("jsonl");
        play_jobs(
            policy,
            self.world,
            jobs,
            &self.stage.protocol(self.context.recipe),
            Concurrency::default(),
            &self.context.options.shard.store(&whole),
            bar,
        )
    }

    /// Waits until the shards have played all episodes, and returns them.
    fn wait_for_shards(&self, jobs: &[EpisodeJob<'_>]) -> Result<Vec<Trajectory>, TrainerError> {
        let paths = self.paths();
        let whole = paths.file("jsonl");
        let mut seen = None;
        let mut leases = Leases::default();
        wait(
            self.context.options,
            self.context.reporter,
            || {
                let there = read_all(&whole, jobs).map_or(0, |episodes| episodes.len());
                format!(
                    "{}: awaits the other shards; {there} of {} episodes are there",
                    paths.stage(),
                    jobs.len()
                )
            },
            || {
                self.take_over(&mut leases)?;
                let sizes = sizes(parts_of(&whole)?);
                if seen.as_ref() == Some(&sizes) {
                    return Ok(None); // no shard has written since the last call
                }
                seen = Some(sizes);
                let episodes = read_all(&whole, jobs)?;
                Ok((episodes.len() == jobs.len()).then_some(episodes))
            },
        )
    }
}

/// Returns the whole store and the shards' stores, if they exist.
fn stores(whole: &Path) -> Result<Vec<PathBuf>, TrainerError> {
    let mut stores = vec![whole.to_path_buf()];
    stores.extend(parts_of(whole)?);
    stores.retain(|store| store.exists());
    Ok(stores)
}

/// Returns game and seed of each episode in these stores.
fn played_in(stores: &[PathBuf]) -> Result<HashSet<(String, u64)>, TrainerError> {
    let mut played = HashSet::new();
    for store in stores {
        let episodes = Store::read(store)?.into_iter();
        played.extend(episodes.map(|episode| (episode.game_hash, episode.seed)));
    }
    Ok(played)
}

/// Reads the episodes of these jobs from the whole store and the shards' stores.
fn read_all(whole: &Path, jobs: &[EpisodeJob<'_>]) -> Result<Vec<Trajectory>, TrainerError> {
    let mut episodes = Vec::new();
    for store in stores(whole)? {
        episodes.extend(Store::read(store)?);
    }
    Ok(in_order(episodes, jobs))
}

/// Copies the episodes of these jobs from shards' stores into the whole store, for a run without shards.
fn take_in(whole: &Path, jobs: &[EpisodeJob<'_>]) -> Result<(), TrainerError> {
    let parts = parts_of(whole)?;
    if parts.is_empty() {
        return Ok(());
    }
    let (mut store, there) = Store::open(whole)?;
    let mut known: HashSet<(String, u64)> = there
        .into_iter()
        .map(|episode| (episode.game_hash, episode.seed))
        .collect();
    for part in parts {
        for episode in in_order(Store::read(&part)?, jobs) {
            if known.insert((episode.game_hash.clone(), episode.seed)) {
                store.append(&episode)?;
            }
        }
    }
    Ok(())
}

/// Removes each shard's store whose episodes are all in the whole store.
fn remove_parts(whole: &Path, episodes: &[Trajectory]) -> Result<(), TrainerError> {
    let there: HashSet<(&str, u64)> = episodes
        .iter()
        .map(|e| (e.game_hash.as_str(), e.seed))
        .collect();
    for part in parts_of(whole)? {
        if Store::read(&part)?
            .iter()
            .all(|e| there.contains(&(e.game_hash.as_str(), e.seed)))
        {
            std::fs::remove_file(&part).map_err(TrainerError::file(&part))?;
        }
    }
    Ok(())
}

fn sizes(paths: Vec<PathBuf>) -> Vec<(PathBuf, u64)> {
    paths
        .into_iter()
        .filter_map(|path| {
            let bytes = std::fs::metadata(&path).ok()?.len();
            Some((path, bytes))
        })
        .collect()
}
