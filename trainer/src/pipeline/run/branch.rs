//! The stage that plays the branches of an iteration's rollouts.

use super::context::RunContext;
use crate::error::TrainerError;
use crate::measure::branch::{BranchResult, BranchState, Branching, branch_states, play_branches};
use crate::pipeline::manifest::{StageManifest, StageOutput};
use crate::pipeline::shard::{episodes_hash, sort, write_store};
use crate::pipeline::stages::{Stage, StageOutputs, collector};
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::rollout::Concurrency;
use scenarios::store::Store;
use scenarios::{Suite, Task, Trajectory, World};
use std::collections::{HashMap, HashSet};

/// The stage that plays branches, and what it needs.
#[derive(Clone, Copy)]
pub(super) struct BranchStage<'a> {
    pub(super) context: RunContext<'a>,
    pub(super) world: &'a dyn World,
    pub(super) suite: &'a Suite,
    /// Outputs of earlier stages.
    pub(super) outputs: &'a StageOutputs,
    /// The iteration, from 1.
    pub(super) iteration: usize,
}

impl BranchStage<'_> {
    /// Plays the states that are not in the store yet, and finishes the manifest. The store is then
    /// in the order of the rollouts.
    ///
    /// # Errors
    /// If the rollouts or the model cannot be read, if they are not those that their stages ended
    /// with, and any error of playing.
    pub(super) fn run(&self, mut manifest: StageManifest) -> Result<StageOutput, TrainerError> {
        let RunContext {
            recipe,
            out,
            reporter,
            options,
        } = self.context;
        let iteration = self.iteration;
        let stage = Stage::Branch { iteration };
        let Some(branch) = &recipe.branch else {
            return Err(TrainerError::Data("the recipe plays no branches".into()));
        };
        let paths = stage.paths(recipe, out);
        let rollouts = self.rollouts()?;
        let tasks: HashMap<&str, &Task> = self
            .suite
            .tasks
            .iter()
            .map(|task| (task.hash.as_str(), task))
            .collect();
        let seed = stage.seed(recipe);
        let states = branch_states(&rollouts, &tasks, branch, seed);
        paths.expect(&mut manifest, states.len())?;
        let path = paths.file("jsonl");
        let (mut store, mut records) = Store::open(&path)?;
        let done: HashSet<(String, u64, usize)> = records.iter().map(state_of_record).collect();
        let left: Vec<BranchState<'_>> = states
            .iter()
            .filter(|state| !done.contains(&state_key(state)))
            .copied()
            .collect();
        let policy = LmPolicy::new(
            self.context
                .model(self.outputs, collector(recipe, iteration))?,
            LoadOptions {
                backend: options.device.backend()?,
                ..ValueUse::Skip.into()
            },
        )?;
        let bar = reporter.stage(&format!("branch, iteration {iteration}"));
        bar.set_length(states.len() as u64);
        bar.set_position((states.len() - left.len()) as u64);
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
        if lost > 0 {
            self.context.say(&format!(
                "{lost} states of {} have no branches, because a sample failed",
                states.len()
            ));
        }
        drop(store);
        records.sort_by_key(|record| (record.repetition, record.seed, record.turns.len()));
        write_store(&path, &records)?;
        let output = StageOutput {
            episodes: Some(episodes_hash(&records)),
            ..StageOutput::default()
        };
        Ok(paths.finish(manifest, output, &["jsonl"])?.output)
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
}

/// Returns game, seed and turn of a state. Within one iteration they identify it.
fn state_key(state: &BranchState<'_>) -> (String, u64, usize) {
    let episode = state.episode;
    (episode.game_hash.clone(), episode.seed, state.turn)
}

fn state_of_record(record: &Trajectory) -> (String, u64, usize) {
    let turn = record.turns.len().saturating_sub(1);
    (record.game_hash.clone(), record.seed, turn)
}
