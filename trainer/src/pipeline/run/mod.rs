//! Runs a recipe in one folder: games and demonstrations, then iterations of collect → train → evaluate.
//!
//! ```text
//! RUN/recipe.toml  run.json            the recipe, and what ran
//! RUN/games/  suite.jsonl              the games and their hashes, if the games are generated
//! RUN/demonstrations.jsonl             the expert's episodes
//! RUN/dagger-STUDENT.jsonl             the episodes of the expert with a student; `guided-STUDENT.jsonl` in old runs
//! RUN/1/rollouts.jsonl                 the collector's episodes of iteration 1
//! RUN/1/branches.jsonl                 the branches of these episodes, if the recipe has a table `[branch]`
//! RUN/1/rescues.jsonl                  the rescues of the lost ones, if the recipe has a table `[rescue]`
//! RUN/1/JOB/                           a model folder, with metrics.csv and the last checkpoint
//! RUN/1/eval/JOB-k1.jsonl              the episodes behind the rows of JOB with K = 1
//! RUN/eval.csv                         the result table; beside it the files of [`crate::measure::card`]
//! RUN/…stage.json                      beside each output: its inputs (see [`crate::pipeline::manifest`])
//! RUN/aside/                           outputs that no longer fit the recipe
//! RUN/run.lock                         the process that works here (see [`crate::pipeline::lock`])
//! ```
//!
//! [`crate::pipeline::stages`] lists the stages and their inputs; this module runs them one after another. If a
//! stage's output is complete and has the same inputs, the stage is skipped. If it was begun, it continues. If
//! it has other inputs, it is moved aside and the stage runs again. So a change of the recipe repeats only what
//! depends on the change, and a killed run continues from where it stopped.
//!
//! **Shards.** Several processes on one folder can divide the stages that play. Each plays its games into a
//! store of its own. The leader, shard 0, does everything else: it begins every stage, merges the stores when
//! all shards have played, generates games, trains and writes the table. The other shards play the stages that
//! the leader has begun, and wait. If a shard stops, the others play its games (`leases`). A run without shards
//! takes in the episodes that shards have played and plays the rest itself.

mod context;
mod continued;
mod games;
mod leases;
mod play;
mod table;
mod train;
mod waiting;

use crate::pipeline::prepare::open_checkpoint;
pub use crate::pipeline::prepare::{
    fresh, prepare, prepare_one, reading_test, texts_of, tokenize_texts,
};
pub use context::{Reporter, RunOptions};

use crate::error::TrainerError;
use crate::measure::protocol_line::protocol_line;
use crate::measure::table::EvalRow;
use crate::pipeline::lock::RunLock;
use crate::pipeline::manifest::{self, Claimed, StageInputs, StageManifest, StageOutput, sentence};
use crate::pipeline::recipe::Recipe;
use crate::pipeline::stages::{Stage, StageOutputs, stages};
use context::RunContext;
use continued::ContinuedStage;
use games::{open_practice, prepare_suite};
use leases::Leases;
use play::PlayedStage;
use scenarios::suite::hex_sha256;
use scenarios::{Suite, World, files};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;
use table::ResultTable;
use train::{EpisodeCache, TrainingStage};
use waiting::wait_for_leader;

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The result table: policies by splits, task types and K.
    pub rows: Vec<EvalRow>,
    /// Wall-clock seconds of this call.
    pub seconds: f64,
    /// The run's folder.
    pub run: PathBuf,
    /// SHA-256 over the suite's games.
    pub suite: String,
    /// The protocol of each K, as one line.
    pub protocols: Vec<(usize, String)>,
}

/// Runs a recipe in the folder `out`, or continues the run that is there.
///
/// # Errors
/// [`TrainerError::Busy`] if another process works in `out`. [`TrainerError::Awaiting`] if this shard can only
/// continue after another one. Any other [`TrainerError`] of a stage. Files that were written stay, and the
/// same call continues from them.
///
/// # Panics
/// If the recipe names a job that does not exist, which [`Recipe::check`] refuses.
pub fn follow(
    recipe: &Recipe,
    out: &Path,
    world: &dyn World,
    reporter: &dyn Reporter,
    options: &RunOptions<'_>,
) -> Result<RunReport, TrainerError> {
    let started = Instant::now();
    options.device.burn()?; // fails before an hour of playing if the device is missing
    open_checkpoint(&recipe.model)?; // likewise if the checkpoint is missing or does not fit
    std::fs::create_dir_all(out).map_err(TrainerError::file(out))?;
    let _lock = RunLock::take(out, options.shard)?;
    let context = RunContext {
        recipe,
        out,
        reporter,
        options,
    };
    if options.shard.leads() {
        claim_folder(context)?;
    }
    let mut outputs = StageOutputs::new();
    let suite = prepare_suite(context, &mut outputs)?;
    let practice = open_practice(context, &suite, &mut outputs)?;
    let mut pipeline = Pipeline {
        context,
        world,
        suite,
        practice,
        outputs,
        episodes: EpisodeCache::default(),
        table: ResultTable::default(),
    };
    if options.shard.leads() {
        pipeline.write_run_json()?;
        move_removed_stages_aside(context)?;
    }
    for stage in stages(recipe).into_iter().skip(1) {
        pipeline.run(stage)?;
    }
    pipeline.write_table()?;
    Ok(RunReport {
        suite: pipeline.suite.hash(),
        rows: pipeline.table.rows,
        seconds: started.elapsed().as_secs_f64(),
        run: out.into(),
        protocols: protocols(recipe),
    })
}

/// Writes the recipe into the folder. If another recipe is there, it is kept aside, provided that it has the
/// same games and seed. If it has not, no stage could be reused, so it is another run and an error is returned.
fn claim_folder(context: RunContext<'_>) -> Result<(), TrainerError> {
    let RunContext { recipe, out, .. } = context;
    let path = out.join("recipe.toml");
    let text = toml::to_string(recipe).map_err(|e| TrainerError::content(&path, e))?;
    if path.exists() {
        let before = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
        let other: Recipe = toml::from_str(&before)
            .map_err(|e| another_run(&path, &format!("it cannot be read: {e}")))?;
        if other == *recipe {
            return Ok(());
        }
        check_same_start(context, &path, &other)?;
        let folder = out.join(manifest::ASIDE);
        let kept = folder.join(format!(
            "recipe.{}.toml",
            &hex_sha256(before.as_bytes())[..12]
        ));
        std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
        files::replace(&kept, before.as_bytes()).map_err(TrainerError::file(&kept))?;
        context.say(&format!(
            "the recipe has changed; the one before is kept in {}",
            kept.display()
        ));
    }
    files::replace(&path, text.as_bytes()).map_err(TrainerError::file(&path))
}

/// Returns an error if the run of another recipe cannot be continued with this one.
fn check_same_start(
    context: RunContext<'_>,
    path: &Path,
    other: &Recipe,
) -> Result<(), TrainerError> {
    let RunContext { recipe, out, .. } = context;
    let differences = first_inputs(recipe).differences(&first_inputs(other));
    if !differences.is_empty() {
        let why = format!(
            "{}, and every stage follows from that",
            sentence(&differences)
        );
        return Err(another_run(path, &why));
    }
    for stage in stages(recipe) {
        if stage.paths(recipe, out).is_unsigned()? {
            let why = format!(
                "{} does not say what it was made from, as runs of earlier versions",
                stage.name(recipe)
            );
            return Err(another_run(path, &why));
        }
    }
    Ok(())
}

/// The inputs that every stage depends on.
fn first_inputs(recipe: &Recipe) -> StageInputs {
    StageInputs::default()
        .with("games", &recipe.games.clone().without_practice())
        .with("seed", &recipe.seed)
}

fn another_run(path: &Path, why: &str) -> TrainerError {
    let text = format!(
        "another recipe has run here: {why}\nhint: choose another --out, or remove this folder"
    );
    TrainerError::content(path, text)
}

/// Moves the outputs of an earlier recipe aside if this recipe does not contain their stages.
fn move_removed_stages_aside(context: RunContext<'_>) -> Result<(), TrainerError> {
    let RunContext { recipe, out, .. } = context;
    let asked: BTreeSet<String> = stages(recipe)
        .iter()
        .map(|stage| stage.paths(recipe, out).stage().to_string())
        .collect();
    for paths in manifest::all(out)? {
        if asked.contains(paths.stage()) {
            continue;
        }
        if let Some(manifest) = paths.manifest()? {
            let why = "is not asked for by the recipe any more";
            paths.move_aside(&manifest.inputs_hash, why, &|text| context.say(text))?;
        }
    }
    Ok(())
}

/// Returns the protocol of each K as one line.
fn protocols(recipe: &Recipe) -> Vec<(usize, String)> {
    recipe
        .evaluate
        .best_of
        .iter()
        .map(|&k| {
            let stage = Stage::Evaluate {
                iteration: 1,
                job: 0,
                k,
            };
            (k, protocol_line(&stage.protocol(recipe)))
        })
        .collect()
}

/// A run in progress.
struct Pipeline<'a> {
    context: RunContext<'a>,
    world: &'a dyn World,
    suite: Suite,
    /// The practice suites. Only their `train` games are played.
    practice: Vec<Suite>,
    /// Outputs of the stages that are done.
    outputs: StageOutputs,
    /// Episodes that jobs have read.
    episodes: EpisodeCache,
    table: ResultTable,
}

impl Pipeline<'_> {
    /// Runs a stage, or reuses its output if it is up to date.
    fn run(&mut self, stage: Stage) -> Result<(), TrainerError> {
        let RunContext {
            recipe,
            out,
            reporter,
            options,
        } = self.context;
        if let Stage::Collect { iteration } = stage
            && recipe.iterations > 1
        {
            reporter.say(&format!("iteration {iteration} of {}", recipe.iterations));
        }
        let paths = stage.paths(recipe, out);
        let inputs = stage.inputs(recipe, &self.outputs).map_err(|earlier| {
            let name = stage.name(recipe);
            TrainerError::Data(format!("{name} needs {} first", earlier.name(recipe)))
        })?;
        let mut is_new = false;
        let output = if options.shard.leads() {
            match paths.claim(inputs, options.code, &|text| reporter.say(text))? {
                Claimed::Done(manifest) => manifest.output,
                Claimed::Begun(manifest) => {
                    is_new = true;
                    self.lead(stage, manifest)?
                }
            }
        } else {
            let played = self.played(stage);
            let mut leases = Leases::default();
            let mut has_played = false;
            let done = wait_for_leader(&paths, &inputs, options, reporter, |_| {
                if !stage.is_played() {
                    return Ok(());
                }
                if !has_played {
                    played.play_share()?;
                    has_played = true;
                }
                played.take_over(&mut leases)
            })?;
            done.output
        };
        self.outputs.insert(stage, output);
        if let Stage::Evaluate { .. } = stage {
            let episodes = self.played(stage).read()?;
            self.table
                .add(self.context, &self.suite, stage, &episodes)?;
            if is_new {
                self.write_table()?; // contains the rows of all evaluations so far
            }
        }
        Ok(())
    }

    /// Runs a stage to its end.
    fn lead(&mut self, stage: Stage, manifest: StageManifest) -> Result<StageOutput, TrainerError> {
        match stage {
            Stage::Train { iteration, job } => TrainingStage {
                context: self.context,
                world: self.world,
                suite: &self.suite,
                outputs: &self.outputs,
                iteration,
                job,
            }
            .run(&mut self.episodes, manifest),
            Stage::Branch { iteration } => self.continued(iteration).branch(manifest),
            Stage::Rescue { iteration } => self.continued(iteration).rescue(manifest),
            _ => self.played(stage).lead(manifest),
        }
    }

    fn continued(&self, iteration: usize) -> ContinuedStage<'_> {
        ContinuedStage {
            context: self.context,
            world: self.world,
            suite: &self.suite,
            practice: &self.practice,
            outputs: &self.outputs,
            iteration,
        }
    }

    fn played(&self, stage: Stage) -> PlayedStage<'_> {
        PlayedStage {
            context: self.context,
            world: self.world,
            suite: &self.suite,
            practice: &self.practice,
            outputs: &self.outputs,
            stage,
        }
    }

    /// Writes `run.json`: the recipe's name and seed, the suite, the code version and the device.
    fn write_run_json(&self) -> Result<(), TrainerError> {
        let RunContext {
            recipe,
            out,
            options,
            ..
        } = self.context;
        let path = out.join("run.json");
        let run = serde_json::json!({
            "name": recipe.name, "seed": recipe.seed, "suite": self.suite.hash(),
            "games": self.suite.tasks.len(), "faults": self.suite.faults.len(), "code": options.code,
            "device": options.device.to_string(),
        });
        files::replace(&path, format!("{run:#}\n").as_bytes()).map_err(TrainerError::file(&path))
    }

    /// Writes the result table, if this process is the leader.
    fn write_table(&self) -> Result<(), TrainerError> {
        if self.context.options.shard.leads() {
            self.table.write(self.context.out)?;
        }
        Ok(())
    }
}
