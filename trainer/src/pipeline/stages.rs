//! The stages of a recipe and what each depends on.
//!
//! The [`StageInputs`] of a stage are the parts of the recipe that it reads, its seed, and hashes of what
//! earlier stages produced. A stage depends on nothing else. The device, the number of cores and the shards
//! change how long a stage takes and how sums are rounded; they are not inputs.

use crate::learn::selection;
use crate::pipeline::checkpoint::checkpoint_hash;
use crate::pipeline::manifest::{OutputForm, StageInputs, StageOutput, StagePaths, VERSION};
use crate::pipeline::recipe::continued::{BRANCHES, RESCUES};
use crate::pipeline::recipe::{CriticInit, DataSource, GamesRecipe, Recipe, StartFrom};
use scenarios::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One stage of a recipe. Iterations count from 1; `job` and `dagger` are indices in the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Prepares the suite.
    Games,
    /// Plays the expert's episodes.
    Demonstrations,
    /// Plays the expert's episodes with a student (DAgger).
    Dagger {
        /// Index in [`Recipe::dagger`].
        dagger: usize,
    },
    /// Trains a job.
    Train {
        /// The iteration, from 1.
        iteration: usize,
        /// Index in [`Recipe::jobs`].
        job: usize,
    },
    /// Plays the policy's own episodes.
    Collect {
        /// The iteration, from 1.
        iteration: usize,
    },
    /// Plays the branches of the policy's own episodes.
    Branch {
        /// The iteration, from 1.
        iteration: usize,
    },
    /// Plays the rescues of the policy's own lost episodes.
    Rescue {
        /// The iteration, from 1.
        iteration: usize,
    },
    /// Plays a job's model on the test games with K candidates per turn.
    Evaluate {
        /// The iteration, from 1.
        iteration: usize,
        /// Index in [`Recipe::jobs`].
        job: usize,
        /// Number of candidates K.
        k: usize,
    },
}

/// The outputs of finished stages.
pub type StageOutputs = BTreeMap<Stage, StageOutput>;

/// Returns all stages of a recipe in the order in which they run.
#[must_use]
pub fn stages(recipe: &Recipe) -> Vec<Stage> {
    let mut stages = vec![Stage::Games, Stage::Demonstrations];
    for iteration in 1..=recipe.iterations {
        if iteration == 1 {
            for job in jobs(recipe, true) {
                stages.push(Stage::Train { iteration, job });
                let student = recipe
                    .dagger
                    .iter()
                    .position(|dagger| dagger.student == recipe.jobs[job].name);
                stages.extend(student.map(|dagger| Stage::Dagger { dagger }));
            }
        }
        stages.push(Stage::Collect { iteration });
        if recipe.branch.is_some() {
            stages.push(Stage::Branch { iteration });
        }
        if recipe.rescue.is_some() {
            stages.push(Stage::Rescue { iteration });
        }
        stages.extend(jobs(recipe, false).map(|job| Stage::Train { iteration, job }));
        for (job, config) in recipe.jobs.iter().enumerate() {
            if config.is_trained_once() && iteration > 1 {
                continue; // its model is the one that was evaluated in iteration 1
            }
            let has_value = config.algorithm.critic().is_some();
            for &k in &recipe.evaluate.best_of {
                if recipe.evaluate.measures(k, has_value) {
                    stages.push(Stage::Evaluate { iteration, job, k });
                }
            }
        }
    }
    stages
}

/// Returns the indices of the jobs that are trained once, or of those that are trained in every iteration.
fn jobs(recipe: &Recipe, once: bool) -> impl Iterator<Item = usize> {
    (0..recipe.jobs.len()).filter(move |job| recipe.jobs[*job].is_trained_once() == once)
}

impl Stage {
    /// Returns the stage's name: the path of its output below the run's folder, without extensions.
    #[must_use]
    pub fn name(&self, recipe: &Recipe) -> String {
        match *self {
            Self::Games => "games".into(),
            Self::Demonstrations => DEMONSTRATIONS.into(),
            Self::Dagger { dagger } => format!("{DAGGER}{}", recipe.dagger[dagger].student),
            Self::Train { iteration, job } => {
                format!("{iteration}/{}", recipe.jobs[job].name)
            }
            Self::Collect { iteration } => format!("{iteration}/rollouts"),
            Self::Branch { iteration } => format!("{iteration}/{BRANCHES}"),
            Self::Rescue { iteration } => format!("{iteration}/{RESCUES}"),
            Self::Evaluate { iteration, job, k } => {
                format!("{iteration}/eval/{}-k{k}", recipe.jobs[job].name)
            }
        }
    }

    /// Returns where the stage's output is in the run's folder.
    #[must_use]
    pub fn paths(&self, recipe: &Recipe, run: &Path) -> StagePaths {
        let form = if matches!(self, Self::Train { .. }) {
            OutputForm::Folder
        } else {
            OutputForm::Files
        };
        StagePaths::new(run, &self.name_on_disk(recipe, run), form)
    }

    /// Returns the name that the stage's files have. Runs of earlier versions call the episodes of the expert
    /// with a student `guided-STUDENT`; if such files exist, they are used.
    fn name_on_disk(&self, recipe: &Recipe, run: &Path) -> String {
        if let Self::Dagger { dagger } = *self {
            let old = format!("{OLD_DAGGER}{}", recipe.dagger[dagger].student);
            if run.join(format!("{old}.stage.json")).exists() {
                return old;
            }
        }
        self.name(recipe)
    }

    /// Returns whether the stage plays episodes that shards divide among them. Branches and
    /// rescues are played by the leader alone.
    #[must_use]
    pub fn is_played(&self) -> bool {
        matches!(
            self,
            Self::Demonstrations
                | Self::Dagger { .. }
                | Self::Collect { .. }
                | Self::Evaluate { .. }
        )
    }

    /// Returns the stage's inputs.
    ///
    /// # Errors
    /// An earlier stage, if its output is an input and is not in `outputs`.
    pub fn inputs(&self, recipe: &Recipe, outputs: &StageOutputs) -> Result<StageInputs, Stage> {
        let inputs = StageInputs::default().with("version", &VERSION);
        if *self == Self::Games {
            return Ok(match &recipe.games {
                GamesRecipe::Folder { .. } => inputs.with("games.kind", &"folder"), // the suite's hash identifies the games
                games @ GamesRecipe::Household { .. } => {
                    let games = games.clone().without_practice();
                    inputs.with("games", &games).with("seed", &recipe.seed)
                }
            });
        }
        let inputs = inputs.with("seed", &self.seed(recipe));
        let inputs = match *self {
            Self::Games | Self::Demonstrations => {
                inputs.with("demonstrations", &recipe.demonstrations)
            }
            Self::Dagger { dagger } => {
                let config = &recipe.dagger[dagger];
                inputs
                    .with("games", &config.games)
                    .with("repetitions", &config.repetitions)
                    .with("student", policy(outputs, student(recipe, dagger))?)
            }
            Self::Collect { iteration } => {
                let model = collector(recipe, iteration);
                let inputs = inputs
                    .with("games", &recipe.collect.games)
                    .with("repetitions", &recipe.collect.repetitions)
                    .with("policy", policy(outputs, model)?);
                match outputs.get(&model).and_then(|output| output.value.as_ref()) {
                    Some(value) if collected_best_of(recipe, iteration) > 1 => {
                        inputs.with("value", value)
                    }
                    _ => inputs,
                }
            }
            Self::Branch { iteration } => {
                let inputs = inputs.with("branch", &recipe.branch);
                with_rollouts(inputs, recipe, outputs, iteration)?
            }
            Self::Rescue { iteration } => {
                let inputs = inputs.with("rescue", &recipe.rescue);
                with_rollouts(inputs, recipe, outputs, iteration)?
            }
            Self::Evaluate { iteration, job, .. } => {
                let model = Self::Train { iteration, job };
                let inputs = inputs
                    .with("splits", &recipe.evaluate.splits)
                    .with("games", &recipe.evaluate.games)
                    .with("policy", policy(outputs, model)?);
                match outputs.get(&model).and_then(|output| output.value.as_ref()) {
                    Some(value) => inputs.with("value", value),
                    None => inputs,
                }
            }
            Self::Train { iteration, job } => {
                return training_inputs(inputs, recipe, outputs, iteration, job);
            }
        };
        let games = outputs.get(&Self::Games).ok_or(Self::Games)?;
        let suite = games.suite.as_ref().ok_or(Self::Games)?;
        let inputs = inputs
            .with("suite", suite)
            .with("protocol", &self.protocol(recipe));
        Ok(match &games.practice {
            Some(practice) if self.plays_train() => inputs.with("practice", practice),
            _ => inputs,
        })
    }

    /// Returns whether the stage plays `train` games, those of the practice suites included.
    fn plays_train(&self) -> bool {
        self.is_played() && !matches!(self, Self::Evaluate { .. })
    }

    /// Returns the seed of the stage's random numbers.
    #[must_use]
    pub fn seed(&self, recipe: &Recipe) -> u64 {
        match *self {
            Self::Collect { iteration }
            | Self::Branch { iteration }
            | Self::Rescue { iteration } => recipe.seed + 1000 * iteration as u64,
            Self::Dagger { dagger } => recipe.seed + 1_000_000 * (dagger as u64 + 1), // differs from the demonstrations' seed
            _ => recipe.seed,
        }
    }

    /// Returns the protocol of the stage's episodes.
    #[must_use]
    pub fn protocol(&self, recipe: &Recipe) -> Protocol {
        let (temperature, k) = match *self {
            Self::Collect { iteration } => (
                recipe.collect.temperature,
                collected_best_of(recipe, iteration),
            ),
            Self::Branch { .. } | Self::Rescue { .. } => (recipe.collect.temperature, 1),
            Self::Dagger { dagger } => (recipe.dagger[dagger].temperature, 1),
            Self::Evaluate { k, .. } if k > 1 => (recipe.evaluate.temperature, k),
            _ => (0.0, 1),
        };
        let protocol = recipe
            .protocol
            .protocol(recipe.model.context, temperature, k);
        match *self {
            Self::Collect { .. } if k > 1 => {
                let protocol = recipe.collect.filters().apply(protocol);
                recipe.collect.select(protocol)
            }
            Self::Collect { .. } | Self::Branch { .. } | Self::Rescue { .. } => {
                recipe.collect.filters().apply(protocol)
            }
            Self::Dagger { dagger } => recipe.dagger[dagger].filters().apply(protocol),
            Self::Evaluate { k, .. } if k > 1 => recipe.evaluate.apply(protocol),
            _ => protocol,
        }
    }
}

/// Returns the number of candidates per turn with which the rollouts of an iteration are collected.
#[must_use]
pub fn collected_best_of(recipe: &Recipe, iteration: usize) -> usize {
    let has_value = match collector(recipe, iteration) {
        Stage::Train { job, .. } => recipe.jobs[job].algorithm.critic().is_some(),
        _ => false,
    };
    recipe.collect.candidates(has_value)
}

/// Adds the rollouts of an iteration and the policy that collected them.
fn with_rollouts(
    inputs: StageInputs,
    recipe: &Recipe,
    outputs: &StageOutputs,
    iteration: usize,
) -> Result<StageInputs, Stage> {
    let collector = policy(outputs, collector(recipe, iteration))?;
    let rollouts = episodes(outputs, Stage::Collect { iteration })?;
    Ok(inputs.with("policy", collector).with("rollouts", rollouts))
}

fn training_inputs(
    inputs: StageInputs,
    recipe: &Recipe,
    outputs: &StageOutputs,
    iteration: usize,
    job: usize,
) -> Result<StageInputs, Stage> {
    let mut inputs = inputs
        .with("job", &recipe.jobs[job])
        .with("context", &recipe.model.context);
    inputs = match start(recipe, job, iteration) {
        None => {
            let inputs = inputs.with("model", &recipe.model);
            match &recipe.model.checkpoint {
                Some(path) => inputs.with("checkpoint", &checkpoint_hash(path)),
                None => inputs,
            }
        }
        Some(start) => inputs.with("start", policy(outputs, start)?),
    };
    let start_value = start(recipe, job, iteration)
        .filter(|_| recipe.jobs[job].critic.init != CriticInit::Policy)
        .and_then(|start| outputs.get(&start)?.value.as_ref());
    if let Some(value) = start_value {
        inputs = inputs.with("start_value", value);
    }
    for stage in data(recipe, job, iteration) {
        let episodes = episodes(outputs, stage)?;
        inputs = inputs.with(&format!("data.{}", stage.name(recipe)), episodes);
    }
    Ok(inputs)
}

/// Returns the hash of the episodes from the output of a stage that plays, or the stage if it has no
/// output.
fn episodes(outputs: &StageOutputs, stage: Stage) -> Result<&String, Stage> {
    outputs
        .get(&stage)
        .and_then(|output| output.episodes.as_ref())
        .ok_or(stage)
}

/// Returns the policy's hash from the output of a training stage, or the stage if it has no output.
fn policy(outputs: &StageOutputs, stage: Stage) -> Result<&String, Stage> {
    outputs
        .get(&stage)
        .and_then(|output| output.policy.as_ref())
        .ok_or(stage)
}

/// Returns the stage that trains the job with this name in an iteration.
fn training(recipe: &Recipe, iteration: usize, name: &str) -> Stage {
    let job = recipe
        .job_index(name)
        .expect("Recipe::check requires every named job to exist");
    Stage::Train { iteration, job }
}

/// Returns the stage whose model collects in an iteration. Jobs that start from the collector start from
/// this model.
///
/// # Panics
/// If the recipe names a job that does not exist, which [`Recipe::check`] refuses.
#[must_use]
pub fn collector(recipe: &Recipe, iteration: usize) -> Stage {
    let then = &recipe.collect.then;
    if iteration == 1 {
        return training(recipe, 1, &recipe.collect.policy);
    }
    let is_once = recipe.is_trained_once(then);
    training(recipe, if is_once { 1 } else { iteration - 1 }, then)
}

/// Returns the stage whose model is the student, by the student's index in [`Recipe::dagger`].
///
/// # Panics
/// If the recipe names a job that does not exist, which [`Recipe::check`] refuses.
#[must_use]
pub fn student(recipe: &Recipe, dagger: usize) -> Stage {
    training(recipe, 1, &recipe.dagger[dagger].student)
}

/// Returns the stage whose model a job starts from, or `None` if it starts from random weights.
///
/// # Panics
/// If the recipe names a job that does not exist, which [`Recipe::check`] refuses.
#[must_use]
pub fn start(recipe: &Recipe, job: usize, iteration: usize) -> Option<Stage> {
    match &recipe.jobs[job].from {
        StartFrom::Fresh => None,
        StartFrom::Job(name) => {
            let is_once = recipe.is_trained_once(name);
            Some(training(recipe, if is_once { 1 } else { iteration }, name))
        }
        StartFrom::Collector => Some(collector(recipe, iteration)),
    }
}

/// Returns the DAgger stages whose episodes a job reads, by the job's index.
#[must_use]
pub fn dagger(recipe: &Recipe, job: usize) -> Vec<Stage> {
    if !recipe.jobs[job].data.contains(&DataSource::Dagger) {
        return Vec::new();
    }
    recipe
        .students_before(job)
        .map(|dagger| Stage::Dagger { dagger })
        .collect()
}

/// Returns the stages whose episodes a job reads, by the job's index. If the job starts from random weights,
/// the demonstrations are among them, because the vocabulary is made from their texts.
#[must_use]
pub fn data(recipe: &Recipe, job: usize, iteration: usize) -> BTreeSet<Stage> {
    let config = &recipe.jobs[job];
    let mut stages: BTreeSet<Stage> = dagger(recipe, job).into_iter().collect();
    if config.from == StartFrom::Fresh || config.data.contains(&DataSource::Demonstrations) {
        stages.insert(Stage::Demonstrations);
    }
    if config.data.contains(&DataSource::Branches) {
        stages.insert(Stage::Branch { iteration });
    }
    if config.data.contains(&DataSource::Rescues) {
        stages.insert(Stage::Rescue { iteration });
    }
    for source in &config.data {
        let iterations = selection::iterations(source, iteration).into_iter();
        stages.extend(
            iterations
                .flatten()
                .map(|iteration| Stage::Collect { iteration }),
        );
    }
    stages
}

const DEMONSTRATIONS: &str = "demonstrations";
const DAGGER: &str = "dagger-";
const OLD_DAGGER: &str = "guided-";

/// Returns whether a store with this name (without extension) has episodes of the expert, alone or with a
/// student.
#[must_use]
pub fn holds_demonstrations(name: &str) -> bool {
    name == DEMONSTRATIONS || name.starts_with(DAGGER) || name.starts_with(OLD_DAGGER)
}

#[cfg(test)]
mod tests;
