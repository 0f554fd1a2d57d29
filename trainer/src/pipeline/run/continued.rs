//! The stages that continue the rollouts of an iteration: branches and rescues.

use super::context::RunContext;
use crate::error::TrainerError;
use crate::measure::branch::{BranchResult, BranchState, Branching, branch_states, play_branches};
use crate::measure::rescue::{
    LostBeginning, RescueResult, Rescuing, lost_beginnings, play_rescues,
};
use crate::pipeline::manifest::{StageManifest, StageOutput};
use crate::pipeline::rescue_store::RescueStore;
use crate::pipeline::shard::{episodes_hash, sort, write_store};
use crate::pipeline::stages::{Stage, StageOutputs, collector};
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::rollout::Concurrency;
use indicatif::ProgressBar;
use scenarios::store::Store;
use scenarios::{Split, Suite, Task, Trajectory, World};
use std::collections::{HashMap, HashSet};

/// A stage that continues rollouts, and what it needs.
#[derive(Clone, Copy)]
pub(super) struct ContinuedStage<'a> {
    pub(super) context: RunContext<'a>,
    pub(super) world: &'a dyn World,
    pub(super) suite: &'a Suite,
    /// The practice suites, whose `train` games are among those of the rollouts.
    pub(super) practice: &'a [Suite],
    /// Outputs of earlier stages.
    pub(super) outputs: &'a StageOutputs,
    /// The iteration, from 1.
    pub(super) iteration: usize,
}

impl ContinuedStage<'_> {
    /// Plays the states that are not in the store of branches yet, and finishes the manifest. The store is then in
    /// the order of the rollouts.
    ///
    /// # Errors
    /// If the rollouts or the model cannot be read, if they are not those that their stages ended with, and any
    /// error of playing.
    pub(super) fn branch(&self, mut manifest: StageManifest) -> Result<StageOutput, TrainerError> {
        let RunContext { recipe, out, .. } = self.context;
        let stage = Stage::Branch {
            iteration: self.iteration,
        };
        let Some(branch) = &recipe.branch else {
            return Err(TrainerError::Data("the recipe plays no branches".into()));
        };
        let paths = stage.paths(recipe, out);
        let rollouts = self.rollouts()?;
        let seed = stage.seed(recipe);
        let states = branch_states(&rollouts, &self.tasks(), branch, seed);
        paths.expect(&mut manifest, states.len())?;
        let path = paths.file("jsonl");
        let (mut store, mut records) = Store::open(&path)?;
        let done: HashSet<(String, u64, usize)> = records.iter().map(key_of_record).collect();
        let left: Vec<BranchState<'_>> = states
            .iter()
            .filter(|state| !done.contains(&key_of_state(state)))
            .copied()
            .collect();
        let policy = self.policy()?;
        let bar = self.bar("branch", states.len(), states.len() - left.len());
        let branching = Branching {
            recipe: branch,
            source: "rollouts.jsonl",
            context_limit: policy.context_limit(),
            seed,
            pool: Concurrency::default(),
        };
        let mut lost = 0;
        play_branches(
            &policy,
            self.world,
            &left,
            &stage.protocol(recipe),
            branching,
            |_, result| {
                bar.inc(1);
                match result {
                    BranchResult::Record(record) => {
                        store.append(&record)?;
                        records.push(*record);
                    }
                    BranchResult::Lost(_) => lost += 1,
                }
                Ok(())
            },
        )?;
        bar.finish_with_message(format!("{} states", records.len()));
        self.say_lost(lost, "states have no branches");
        drop(store);
        records.sort_by_key(|record| (record.repetition, record.seed, record.turns.len()));
        write_store(&path, &records)?;
        Ok(paths.finish(manifest, output(&records), &["jsonl"])?.output)
    }

    /// Plays the beginnings of lost rollouts that were not played yet, and finishes the manifest.
    ///
    /// # Errors
    /// As [`Self::branch`].
    pub(super) fn rescue(&self, mut manifest: StageManifest) -> Result<StageOutput, TrainerError> {
        let RunContext { recipe, out, .. } = self.context;
        let stage = Stage::Rescue {
            iteration: self.iteration,
        };
        let Some(rescue) = &recipe.rescue else {
            return Err(TrainerError::Data("the recipe plays no rescues".into()));
        };
        let paths = stage.paths(recipe, out);
        let rollouts = self.rollouts()?;
        let beginnings = lost_beginnings(&rollouts, &self.tasks(), rescue);
        let path = paths.file("jsonl");
        let mut store = RescueStore::open(&path)?;
        let left: Vec<LostBeginning<'_>> = beginnings
            .iter()
            .filter(|beginning| !store.has_played(beginning))
            .copied()
            .collect();
        let policy = self.policy()?;
        let bar = self.bar("rescue", beginnings.len(), beginnings.len() - left.len());
        let rescuing = Rescuing {
            recipe: rescue,
            context_limit: policy.context_limit(),
            seed: stage.seed(recipe),
            pool: Concurrency::default(),
        };
        let mut lost = 0;
        play_rescues(
            &policy,
            self.world,
            &left,
            &stage.protocol(recipe),
            rescuing,
            |beginning, result| {
                bar.inc(1);
                match result {
                    RescueResult::Rescues(rescues) => store.add(beginning, rescues)?,
                    RescueResult::Lost(_) => lost += 1,
                }
                Ok(())
            },
        )?;
        let mut rescues = store.finish()?;
        bar.finish_with_message(format!("{} rescues", rescues.len()));
        self.say_lost(lost, "beginnings have no rescues");
        sort(&mut rescues);
        write_store(&path, &rescues)?;
        paths.expect(&mut manifest, rescues.len())?;
        Ok(paths.finish(manifest, output(&rescues), &["jsonl"])?.output)
    }

    /// Reads the rollouts of the iteration in the order of play.
    fn rollouts(&self) -> Result<Vec<Trajectory>, TrainerError> {
        let stage = Stage::Collect {
            iteration: self.iteration,
        };
        let path = stage
            .paths(self.context.recipe, self.context.out)
            .file("jsonl");
        let mut rollouts = Store::read(&path)?;
        let recorded = self
            .outputs
            .get(&stage)
            .and_then(|output| output.episodes.as_ref());
        if recorded != Some(&episodes_hash(&rollouts)) {
            let reason = "does not hold the episodes that its stage ended with\nhint: restore them, or move the file away to play them again";
            return Err(TrainerError::content(&path, reason));
        }
        sort(&mut rollouts);
        Ok(rollouts)
    }

    /// Returns the games by hash.
    fn tasks(&self) -> HashMap<&str, &Task> {
        let practice = self.practice.iter();
        let practised = practice.flat_map(|suite| suite.split(Split::Train));
        let tasks = self.suite.tasks.iter().chain(practised);
        tasks.map(|task| (task.hash.as_str(), task)).collect()
    }

    /// Opens the policy that collected the rollouts.
    fn policy(&self) -> Result<LmPolicy, TrainerError> {
        let training = collector(self.context.recipe, self.iteration);
        Ok(LmPolicy::new(
            self.context.model(self.outputs, training)?,
            LoadOptions {
                backend: self.context.options.device.backend()?,
                weights: self.context.recipe.protocol.weights,
                kv: self.context.recipe.protocol.kv,
                ..ValueUse::Skip.into()
            },
        )?)
    }

    fn bar(&self, what: &str, length: usize, done: usize) -> ProgressBar {
        let title = format!("{what}, iteration {}", self.iteration);
        let bar = self.context.reporter.stage(&title);
        bar.set_length(length as u64);
        bar.set_position(done as u64);
        bar
    }

    fn say_lost(&self, lost: usize, what: &str) {
        if lost > 0 {
            self.context
                .say(&format!("{lost} {what}, because a sample failed"));
        }
    }
}

fn output(records: &[Trajectory]) -> StageOutput {
    StageOutput {
        episodes: Some(episodes_hash(records)),
        ..StageOutput::default()
    }
}

/// Returns game, seed and turn of a state. Within one iteration they identify it.
fn key_of_state(state: &BranchState<'_>) -> (String, u64, usize) {
    let episode = state.episode;
    (episode.game_hash.clone(), episode.seed, state.turn)
}

fn key_of_record(record: &Trajectory) -> (String, u64, usize) {
    let turn = record.turns.len().saturating_sub(1);
    (record.game_hash.clone(), record.seed, turn)
}
