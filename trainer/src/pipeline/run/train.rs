//! A stage that trains a job.

use super::context::RunContext;
use crate::error::TrainerError;
use crate::learn::episodes::{Episodes, Readable};
use crate::learn::metrics::reading::ReadingProbe;
use crate::learn::plan::Plan;
use crate::learn::ranking::tokenize_states;
use crate::learn::ranks::Alone;
use crate::learn::selection::select_episodes;
use crate::learn::train::{self, TrainingJob};
use crate::measure::card::Lineage;
use crate::pipeline::manifest::{StageManifest, StageOutput, StagePaths};
use crate::pipeline::prepare::{fresh, prepare, reading_test, texts_of};
use crate::pipeline::recipe::DataSource;
use crate::pipeline::shard::{episodes_hash, sort};
use crate::pipeline::stages::{Stage, StageOutputs, dagger, data, start};
use agent::model::folder::Model;
use scenarios::store::Store;
use scenarios::{Suite, Trajectory, World};
use std::collections::BTreeMap;

/// Episodes that jobs read, by stage. They stay in memory, because several jobs read the same ones.
#[derive(Default)]
pub(super) struct EpisodeCache(BTreeMap<Stage, Vec<Trajectory>>);

impl EpisodeCache {
    fn get(&self, stage: Stage) -> &[Trajectory] {
        self.0.get(&stage).map_or(&[], Vec::as_slice)
    }

    /// Reads the episodes of a finished stage in the order of play. Of the expert's episodes only the won
    /// ones are kept.
    ///
    /// # Errors
    /// If the store cannot be read, has other episodes than the stage ended with, or if the expert won none.
    fn load(
        &mut self,
        stage: Stage,
        context: RunContext<'_>,
        outputs: &StageOutputs,
    ) -> Result<(), TrainerError> {
        if self.0.contains_key(&stage) {
            return Ok(());
        }
        let path = stage.paths(context.recipe, context.out).file("jsonl");
        let mut episodes = Store::read(&path)?;
        let recorded = outputs
            .get(&stage)
            .and_then(|output| output.episodes.as_ref());
        if recorded != Some(&episodes_hash(&episodes)) {
            let reason = "does not hold the episodes that its stage ended with\nhint: restore them, or move the file away to play them again";
            return Err(TrainerError::content(&path, reason));
        }
        sort(&mut episodes);
        if matches!(stage, Stage::Demonstrations | Stage::Dagger { .. }) {
            let played = episodes.len();
            episodes.retain(Trajectory::is_won);
            if episodes.is_empty() {
                return Err(TrainerError::Data(format!(
                    "the expert won none of {played} games of train"
                )));
            }
        }
        self.0.insert(stage, episodes);
        Ok(())
    }
}

/// A stage that trains a job, and what it needs.
#[derive(Clone, Copy)]
pub(super) struct TrainingStage<'a> {
    pub(super) context: RunContext<'a>,
    /// The environments and games of the reading test.
    pub(super) world: &'a dyn World,
    pub(super) suite: &'a Suite,
    /// Outputs of earlier stages.
    pub(super) outputs: &'a StageOutputs,
    /// The iteration, from 1.
    pub(super) iteration: usize,
    /// The job's index in the recipe.
    pub(super) job: usize,
}

/// The model that a job starts from, and the episodes that it reads.
struct JobData {
    start: Model,
    /// What the start was trained on, if that is known.
    lineage: Option<Lineage>,
    trajectories: Vec<Trajectory>,
    /// The branches of the iteration; empty if the job reads none.
    branches: Vec<Trajectory>,
}

impl TrainingStage<'_> {
    /// Trains the job, or continues its training, and finishes the manifest. If the model files already exist,
    /// the job is not trained again.
    ///
    /// # Errors
    /// Any error of training, and if a file cannot be read or written.
    pub(super) fn run(
        &self,
        cache: &mut EpisodeCache,
        mut manifest: StageManifest,
    ) -> Result<StageOutput, TrainerError> {
        let RunContext { recipe, out, .. } = self.context;
        let stage = Stage::Train {
            iteration: self.iteration,
            job: self.job,
        };
        let paths = stage.paths(recipe, out);
        let has_value = recipe.jobs[self.job].algorithm.critic().is_some();
        let names: &[&str] = if has_value {
            &["model.safetensors", "value/model.safetensors"]
        } else {
            &["model.safetensors"]
        };
        if !names.iter().all(|name| paths.file(name).exists()) {
            let data = self.data(cache)?;
            self.train(data, &paths, &mut manifest)?;
        }
        let model = Model::open(&paths.path())?;
        let output = StageOutput {
            policy: Some(model.policy.hash()),
            value: model.value.map(|value| value.hash()),
            ..StageOutput::default()
        };
        Ok(paths.finish(manifest, output, names)?.output)
    }

    fn train(
        &self,
        data: JobData,
        paths: &StagePaths,
        manifest: &mut StageManifest,
    ) -> Result<(), TrainerError> {
        let config = &self.context.recipe.jobs[self.job];
        let seed = self.context.recipe.seed;
        let JobData {
            start,
            lineage,
            mut trajectories,
            mut branches,
        } = data;
        prepare(config, &start.tokenizer, &mut trajectories, seed);
        let context_limit = start.config.max_position_embeddings;
        let episodes = Episodes::in_memory(Readable::new(config, context_limit), &trajectories)?;
        paths.expect(manifest, Plan::new(config, &episodes, seed)?.updates.len())?;
        let retokenized = tokenize_states(&start.tokenizer, &mut branches);
        if retokenized > 0 {
            self.context.say(&format!(
                "{}: {retokenized} branch states have no token ids of its model: their texts were tokenized",
                config.name
            ));
        }
        let out = paths.path();
        let reading = if config.reading_every > 0 {
            Some(reading_test(self.world, self.suite, &start, seed)?)
        } else {
            None
        };
        let job = TrainingJob {
            recipe: config,
            start: &start,
            lineage: lineage.as_ref(),
            episodes: &episodes,
            branches: &branches,
            reading: reading.as_ref().map(|test| test as &dyn ReadingProbe),
            seed,
            out: &out,
            hardware: self.context.options.device,
            ranks: &Alone,
        };
        let bar = self
            .context
            .reporter
            .stage(&format!("train {}", config.name));
        let (model, read) = train::train(&job, &bar)?;
        bar.finish();
        for remark in read.remarks() {
            self.context.say(&format!("{} {remark}", config.name));
        }
        model.save(&out)?;
        Ok(())
    }

    /// Returns the model that the job starts from and the episodes that it reads.
    fn data(&self, cache: &mut EpisodeCache) -> Result<JobData, TrainerError> {
        let Self {
            context,
            outputs,
            iteration,
            job,
            ..
        } = *self;
        let recipe = context.recipe;
        for stage in data(recipe, job, iteration) {
            cache.load(stage, context, outputs)?;
        }
        let demonstrations = cache.get(Stage::Demonstrations);
        let (start, lineage) = match start(recipe, job, iteration) {
            None => (
                fresh(&recipe.model, texts_of(demonstrations), recipe.seed)?,
                None,
            ),
            Some(stage) => {
                let folder = stage.paths(recipe, context.out).path();
                (context.model(outputs, stage)?, Lineage::open(&folder)?)
            }
        };
        let dagger: Vec<&[Trajectory]> = dagger(recipe, job)
            .into_iter()
            .map(|stage| cache.get(stage))
            .collect();
        let rollouts: BTreeMap<usize, &[Trajectory]> = cache
            .0
            .iter()
            .filter_map(|(stage, episodes)| match *stage {
                Stage::Collect { iteration } => Some((iteration, episodes.as_slice())),
                _ => None,
            })
            .filter(|(of, _)| *of <= iteration)
            .collect();
        let trajectories = select_episodes(
            &recipe.jobs[job].data,
            demonstrations,
            &dagger,
            &rollouts,
            cache.get(Stage::Rescue { iteration }),
            iteration,
            recipe.seed,
        );
        let reads_branches = recipe.jobs[job].data.contains(&DataSource::Branches);
        let branches = if reads_branches {
            cache.get(Stage::Branch { iteration }).to_vec()
        } else {
            Vec::new()
        };
        Ok(JobData {
            start,
            lineage,
            trajectories,
            branches,
        })
    }
}
