//! The loop: games, demonstrations, then rounds of collect → train → evaluate, all from one recipe into one folder.
//!
//! ```text
//! RUN/recipe.toml  run.json            what decides the numbers, and what ran
//! RUN/games/  suite.jsonl              the games, by hash, where they are generated
//! RUN/demonstrations.jsonl             the expert's episodes
//! RUN/dagger-LESSON.jsonl              the expert's beside a student
//! RUN/1/rollouts.jsonl                 the collector's episodes of iteration 1
//! RUN/1/LESSON/                        a model folder, with metrics.csv and the last checkpoint
//! RUN/1/eval/LESSON-k1.jsonl           the episodes behind each row
//! RUN/eval.csv                         the table; beside it what [`crate::measure::card`] says of it
//! RUN/…stage.json                      beside each output: what it was made from (see [`crate::pipeline::manifest`])
//! RUN/aside/                           what fits the recipe no more
//! RUN/run.lock                         who works here (see [`crate::pipeline::lock`])
//! ```
//!
//! [`crate::pipeline::stages`] says what is to be done and what decides it; here it is done, one step after the other. A step whose
//! output is whole and has the same inputs is skipped, one that was begun goes on, and what has other inputs is moved
//! aside and done anew, so a changed recipe costs what depends on the change. A killed run goes on where it stopped.
//!
//! **Shards.** Several processes on one folder share the played steps: each plays its games into a store of its own. All
//! else is done by the leader, shard 0: it begins every step, merges the stores when all have played, generates games,
//! learns and writes the table. The others do nothing but play what is begun, and wait. A run without shards takes in what
//! shards have played and plays the rest itself.

use crate::error::TrainerError;
use crate::learn::plan::Plan;
use crate::learn::receptacle_dropout::thin;
use crate::learn::selection::mix;
use crate::learn::train::{self, TrainingJob};
use crate::measure::card::{self, Card, Lineage, Made, Sheets};
use crate::measure::evaluate::{self, Baseline, Round, Row, in_order, jobs, play_jobs};
use crate::pipeline::lock::RunLock;
use crate::pipeline::manifest::{
    self, Found, StageInputs, StageManifest, StagePaths, State, sentence,
};
use crate::pipeline::recipe::{GamesRecipe, ModelRecipe, Recipe, TrainConfig};
use crate::pipeline::shard::{self, Shard, episodes_hash, parts_of, write_store};
use crate::pipeline::stages::{
    Stage, StageOutputs, collector, dagger, is_shown, name_on_disk, steps,
};
use agent::inference::device::DeviceChoice;
use agent::model::folder::{Companions, Model};
use agent::model::weights::Weights;
use agent::policy::dagger::DaggerPolicy;
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::policy::{ExpertPolicy, Policy};
use agent::rollout::{Concurrency, EpisodeJob};
use agent::text::chat;
use agent::text::tokenizer::Tokenizer;
use indicatif::ProgressBar;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::household::{self, GenerateOptions};
use scenarios::store::Store;
use scenarios::suite::hex_sha256;
use scenarios::{Split, Suite, Task, TextVersion, Trajectory, World, files};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Shows what is going on; the command line draws bars, tests draw nothing.
pub trait Reporter {
    /// A stage begins; the bar is its own.
    fn stage(&self, title: &str) -> ProgressBar;
    /// Something the user should read.
    fn say(&self, text: &str);
}

/// What a recipe is followed with; none of it decides a number.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions<'a> {
    /// Where to learn and play.
    pub hardware: DeviceChoice,
    /// Which code this is.
    pub code: &'a str,
    /// Which share of the games this process plays.
    pub shard: Shard,
    /// How long a shard waits for others.
    pub wait: Duration,
}

impl<'a> RunOptions<'a> {
    /// One process alone.
    #[must_use]
    pub fn alone(hardware: DeviceChoice, code: &'a str) -> Self {
        Self {
            hardware,
            code,
            shard: Shard::WHOLE,
            wait: Duration::ZERO,
        }
    }
}

/// What a run found out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The table: policies by splits, task types and K.
    pub rows: Vec<Row>,
    /// Wall-clock seconds of this call.
    pub seconds: f64,
    /// The run's folder.
    pub run: PathBuf,
    /// SHA-256 over the suite's games.
    pub suite: String,
    /// How each K was played.
    pub protocols: Vec<(usize, String)>,
}

/// A run in progress.
struct Pipeline<'a> {
    recipe: &'a Recipe,
    out: &'a Path,
    world: &'a dyn World,
    reporter: &'a dyn Reporter,
    means: &'a RunOptions<'a>,
    suite: Suite,
    outcomes: StageOutputs,
    /// Episodes that jobs have asked for, by step.
    episodes: BTreeMap<String, Vec<Trajectory>>,
    /// What all evaluations are paired with: the first that is played greedily.
    baseline: Option<Baseline>,
    rows: Vec<Row>,
    /// What stands beside them.
    sheets: Sheets,
}

/// Follows a recipe into `out`, or goes on with what stands there.
///
/// # Errors
/// [`TrainerError::Busy`] when another process works in `out`, [`TrainerError::Awaiting`] when this shard can go on only
/// after another; any other [`TrainerError`]. What was written stays, and the same call goes on from it.
pub fn follow(
    recipe: &Recipe,
    out: &Path,
    world: &dyn World,
    reporter: &dyn Reporter,
    means: &RunOptions<'_>,
) -> Result<Report, TrainerError> {
    let started = Instant::now();
    means.hardware.burn()?; // what it lacks is said before an hour of playing
    std::fs::create_dir_all(out).map_err(TrainerError::file(out))?;
    let _lock = RunLock::take(out, means.shard)?;
    if means.shard.leads() {
        claim(recipe, out, reporter)?;
    }
    let mut outcomes = StageOutputs::new();
    let suite = games(recipe, out, reporter, means, &mut outcomes)?;
    let (episodes, baseline, rows, sheets) = (BTreeMap::new(), None, Vec::new(), Sheets::default());
    let mut pipeline = Pipeline {
        recipe,
        out,
        world,
        reporter,
        means,
        suite,
        outcomes,
        episodes,
        baseline,
        rows,
        sheets,
    };
    if means.shard.leads() {
        pipeline.write_run_json()?;
        move_what_nobody_asks_for(recipe, out, reporter)?;
    }
    for step in steps(recipe).into_iter().skip(1) {
        pipeline.take(&step)?;
    }
    pipeline.write_table()?;
    let (suite, protocols) = (pipeline.suite.hash(), pipeline.protocols());
    Ok(Report {
        rows: pipeline.rows,
        seconds: started.elapsed().as_secs_f64(),
        run: out.into(),
        suite,
        protocols,
    })
}

/// Writes the recipe into the folder. Another one that is there is kept aside, where it began with the same games and
/// seed; else nothing of its run could be used, and it is another run.
fn claim(recipe: &Recipe, out: &Path, reporter: &dyn Reporter) -> Result<(), TrainerError> {
    let path = out.join("recipe.toml");
    let text = toml::to_string(recipe).map_err(|e| TrainerError::content(&path, e))?;
    if path.exists() {
        let before = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
        let refused = |why: &str| {
            let text = format!(
                "another recipe has run here: {why}\nhint: choose another --out, or remove this folder"
            );
            TrainerError::content(&path, text)
        };
        let other: Recipe =
            toml::from_str(&before).map_err(|e| refused(&format!("it cannot be read: {e}")))?;
        if other == *recipe {
            return Ok(());
        }
        let start = |of: &Recipe| {
            StageInputs::default()
                .with("games", &of.games)
                .with("seed", &of.seed)
        };
        let differences = start(recipe).differences(&start(&other));
        if !differences.is_empty() {
            return Err(refused(&format!(
                "{}, and every stage follows from that",
                sentence(&differences)
            )));
        }
        for step in steps(recipe) {
            if step.place(recipe, out).is_unsigned()? {
                let name = step.name(recipe);
                return Err(refused(&format!(
                    "{name} does not say what it was made from, as runs of earlier versions"
                )));
            }
        }
        let kept = out.join(manifest::ASIDE).join(format!(
            "recipe.{}.toml",
            &hex_sha256(before.as_bytes())[..12]
        ));
        let folder = out.join(manifest::ASIDE);
        std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
        files::replace(&kept, before.as_bytes()).map_err(TrainerError::file(&kept))?;
        reporter.say(&format!(
            "the recipe has changed; the one before is kept in {}",
            kept.display()
        ));
    }
    files::replace(&path, text.as_bytes()).map_err(TrainerError::file(&path))
}

fn games(
    recipe: &Recipe,
    out: &Path,
    reporter: &dyn Reporter,
    means: &RunOptions<'_>,
    outcomes: &mut StageOutputs,
) -> Result<Suite, TrainerError> {
    let (step, place) = (Stage::Games, Stage::Games.place(recipe, out));
    let inputs = step.inputs(recipe, outcomes).map_err(TrainerError::Data)?;
    if !means.shard.leads() {
        wait_for_leader(&place, &inputs, means, reporter, |_| Ok(false))?;
    }
    let suite = match &recipe.games {
        GamesRecipe::Folder { path } => Suite::open(path)?,
        GamesRecipe::Household { .. } => household_games(recipe, out, reporter)?,
    };
    for fault in &suite.faults {
        reporter.say(&format!(
            "left out: {}: {}",
            fault.path.display(),
            fault.reason
        ));
    }
    if !suite.faults.is_empty() {
        reporter.say(&format!(
            "{} games of {} are left out",
            suite.faults.len(),
            suite.name
        ));
    }
    let outcome = BTreeMap::from([("suite".to_string(), suite.hash())]);
    if means.shard.leads() {
        check_games(out, &suite)?;
        if let GamesRecipe::Household { .. } = recipe.games {
            suite.write_manifest(out.join("suite.jsonl"))?; // games elsewhere cannot be named by a manifest in this folder
        }
        if let Found::Begun(mut manifest) =
            place.claim(inputs, means.code, &|text| reporter.say(text))?
        {
            manifest.expected = suite.tasks.len();
            place.finish(manifest, outcome.clone(), &[])?;
        }
    }
    outcomes.insert(step.name(recipe), outcome);
    Ok(suite)
}

fn household_games(
    recipe: &Recipe,
    out: &Path,
    reporter: &dyn Reporter,
) -> Result<Suite, TrainerError> {
    let GamesRecipe::Household {
        size,
        train,
        valid_train,
        seen,
        unseen,
    } = recipe.games
    else {
        return Err(TrainerError::Data("the recipe generates no games".into()));
    };
    let folder = out.join("games");
    if folder.join("suite.jsonl").exists() {
        return Ok(Suite::open(&folder)?);
    }
    crate::learn::checkpoint::remove(&folder)?; // what a killed process has generated, which its seed makes again
    let (seed, size, text) = (recipe.seed, size.into(), TextVersion::V2_1_3);
    let bar = reporter.stage("generate games");
    let suite = household::generate(
        &folder,
        &GenerateOptions {
            seed,
            size,
            train,
            valid_train,
            seen,
            unseen,
            text,
        },
    )?;
    bar.finish_with_message(format!("{} games", suite.tasks.len()));
    Ok(suite)
}

/// Refuses to go on with other games than those that the run began with.
fn check_games(out: &Path, suite: &Suite) -> Result<(), TrainerError> {
    let path = out.join("run.json");
    if !path.exists() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
    let before: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| TrainerError::content(&path, e))?;
    if before["suite"] == suite.hash().as_str() {
        return Ok(());
    }
    let reason = "the games are not those that this run began with\nhint: choose another --out, or bring them back";
    Err(TrainerError::content(&path, reason))
}

/// Moves aside what an earlier recipe made and this one does not name.
fn move_what_nobody_asks_for(
    recipe: &Recipe,
    out: &Path,
    reporter: &dyn Reporter,
) -> Result<(), TrainerError> {
    let asked: BTreeSet<String> = steps(recipe)
        .iter()
        .map(|step| step.place(recipe, out).stage().to_string())
        .collect();
    for place in manifest::all(out)?
        .into_iter()
        .filter(|place| !asked.contains(place.stage()))
    {
        if let Some(manifest) = place.manifest()? {
            let why = "is not asked for by the recipe any more";
            place.move_aside(&manifest.inputs_hash, why, &|text| reporter.say(text))?;
        }
    }
    Ok(())
}

/// Games of a split in an order that the seed decides; 0 = all.
fn chosen(suite: &Suite, split: Split, count: usize, seed: u64) -> Vec<&Task> {
    let mut tasks = suite.split(split);
    tasks.shuffle(&mut StdRng::seed_from_u64(seed));
    if count > 0 {
        tasks.truncate(count);
    }
    tasks
}

/// Waits until the leader has finished a stage, and lets `work` do what it can when it is begun, once.
fn wait_for_leader(
    place: &StagePaths,
    inputs: &StageInputs,
    means: &RunOptions<'_>,
    reporter: &dyn Reporter,
    work: impl FnMut(&StageManifest) -> Result<bool, TrainerError>,
) -> Result<StageManifest, TrainerError> {
    let (mut work, mut has_worked) = (work, false);
    let ready = || -> Result<Option<StageManifest>, TrainerError> {
        let Some(manifest) = place
            .manifest()?
            .filter(|manifest| manifest.inputs_hash == inputs.hash())
        else {
            return Ok(None);
        };
        if manifest.state == State::Done {
            return Ok(Some(manifest));
        }
        if !has_worked {
            has_worked = work(&manifest)?;
        }
        Ok(None)
    };
    wait(
        means,
        reporter,
        || {
            format!(
                "{}: awaits shard 0, which begins and finishes it",
                place.stage()
            )
        },
        ready,
    )
}

/// Asks again and again, ever more rarely, until there is something or it has waited long enough.
fn wait<T>(
    means: &RunOptions<'_>,
    reporter: &dyn Reporter,
    what: impl Fn() -> String,
    mut ready: impl FnMut() -> Result<Option<T>, TrainerError>,
) -> Result<T, TrainerError> {
    let (mut since, mut pause) = (None, Duration::from_millis(100));
    loop {
        if let Some(found) = ready()? {
            return Ok(found);
        }
        let since = since.get_or_insert_with(|| {
            if !means.wait.is_zero() {
                reporter.say(&format!(
                    "{}; waiting, for {} s at most",
                    what(),
                    means.wait.as_secs()
                ));
            }
            Instant::now()
        });
        if since.elapsed() >= means.wait {
            return Err(TrainerError::Awaiting(what()));
        }
        std::thread::sleep(pause.min(means.wait.saturating_sub(since.elapsed())));
        pause = (pause * 3 / 2).min(Duration::from_secs(5));
    }
}

impl Pipeline<'_> {
    /// Says what runs here.
    fn write_run_json(&self) -> Result<(), TrainerError> {
        let path = self.out.join("run.json");
        let run = serde_json::json!({
            "name": self.recipe.name, "seed": self.recipe.seed, "suite": self.suite.hash(),
            "games": self.suite.tasks.len(), "faults": self.suite.faults.len(), "code": self.means.code,
            "device": self.means.hardware.to_string(),
        });
        files::replace(&path, format!("{run:#}\n").as_bytes()).map_err(TrainerError::file(&path))
    }

    fn write_table(&self) -> Result<(), TrainerError> {
        if !self.means.shard.leads() || self.rows.is_empty() {
            return Ok(());
        }
        evaluate::write_csv(&self.out.join("eval.csv"), &self.rows)?;
        self.sheets.save(self.out)
    }

    fn protocols(&self) -> Vec<(usize, String)> {
        let of = |k: usize| {
            Stage::Evaluate {
                iteration: 1,
                job: 0,
                k,
            }
            .protocol(self.recipe)
        };
        let line = |k: &usize| (*k, evaluate::protocol_line(&of(*k)));
        self.recipe.evaluate.best_of.iter().map(line).collect()
    }

    /// Does a step, or takes what stands there.
    fn take(&mut self, step: &Stage) -> Result<(), TrainerError> {
        if let Stage::Collect { iteration } = step
            && self.recipe.iterations > 1
        {
            self.reporter.say(&format!(
                "iteration {iteration} of {}",
                self.recipe.iterations
            ));
        }
        let (place, name) = (step.place(self.recipe, self.out), step.name(self.recipe));
        let awaited = |earlier: String| TrainerError::Data(format!("{name} needs {earlier} first"));
        let inputs = step.inputs(self.recipe, &self.outcomes).map_err(awaited)?;
        let say = |text: &str| self.reporter.say(text);
        let mut is_new = false;
        let outcome = if self.means.shard.leads() {
            match place.claim(inputs, self.means.code, &say)? {
                Found::Done(manifest) => manifest.outcome,
                Found::Begun(manifest) => {
                    is_new = true;
                    self.lead(step, &place, manifest)?
                }
            }
        } else {
            let play = |_: &StageManifest| {
                if step.is_played() {
                    self.play_part(step, &place)?;
                }
                Ok(true)
            };
            wait_for_leader(&place, &inputs, self.means, self.reporter, play)?.outcome
        };
        self.outcomes.insert(name, outcome);
        if let Stage::Evaluate { iteration, job, k } = *step {
            self.count(step, &place, iteration, job, k)?;
            if is_new {
                self.write_table()?; // all rows so far: those of finished evaluations were counted before
            }
        }
        Ok(())
    }

    /// Does a step to its end.
    fn lead(
        &mut self,
        step: &Stage,
        place: &StagePaths,
        mut manifest: StageManifest,
    ) -> Result<BTreeMap<String, String>, TrainerError> {
        if let Stage::Train { iteration, job } = *step {
            return self.learn(place, manifest, iteration, job);
        }
        let tasks = self.tasks(step);
        let jobs = jobs(&tasks, self.round(step, Shard::WHOLE));
        place.expect(&mut manifest, jobs.len())?;
        let path = place.file("jsonl");
        let bar = self.bar(step);
        let episodes = if self.means.shard.is_part() {
            self.play(step, place, &bar)?;
            let episodes = self.collect_parts(place, &jobs)?;
            write_store(&path, &episodes)?;
            episodes
        } else {
            take_in(&path, &jobs)?;
            self.play(step, place, &bar)?
        };
        remove_parts(&path, &episodes)?;
        let won = episodes.iter().filter(|episode| episode.is_won()).count();
        match step {
            Stage::Evaluate { .. } => bar.finish(),
            _ => bar.finish_with_message(format!("{won} won of {}", episodes.len())),
        }
        let outcome = BTreeMap::from([("episodes".to_string(), episodes_hash(&episodes))]);
        Ok(place.finish(manifest, outcome, &["jsonl"])?.outcome)
    }

    /// Plays a follower's part.
    fn play_part(&self, step: &Stage, place: &StagePaths) -> Result<(), TrainerError> {
        let bar = self.bar(step);
        let played = self.play(step, place, &bar)?;
        bar.finish_with_message(format!(
            "shard {} has played its {} episodes",
            self.means.shard,
            played.len()
        ));
        Ok(())
    }

    fn bar(&self, step: &Stage) -> ProgressBar {
        self.reporter.stage(&match *step {
            Stage::Collect { iteration } => format!("collect, iteration {iteration}"),
            Stage::Evaluate { job, k, .. } => {
                format!("evaluate {}, K = {k}", self.recipe.jobs[job].name)
            }
            Stage::Dagger { dagger } => format!("guide {}", self.recipe.dagger[dagger].student),
            _ => "expert demonstrations".into(),
        })
    }

    /// The games of a played step.
    fn tasks(&self, step: &Stage) -> Vec<&Task> {
        let chosen =
            |split: Split, count: usize| chosen(&self.suite, split, count, self.recipe.seed);
        match step {
            Stage::Collect { .. } => chosen(Split::Train, self.recipe.collect.games),
            Stage::Evaluate { .. } => {
                let about = &self.recipe.evaluate;
                about
                    .splits
                    .iter()
                    .flat_map(|split| chosen(*split, about.games))
                    .collect()
            }
            Stage::Dagger { dagger } => chosen(Split::Train, self.recipe.dagger[*dagger].games),
            _ => chosen(Split::Train, self.recipe.demonstrations.games),
        }
    }

    fn round(&self, step: &Stage, shard: Shard) -> Round {
        let repetitions = match step {
            Stage::Collect { .. } => self.recipe.collect.repetitions,
            Stage::Demonstrations => self.recipe.demonstrations.repetitions,
            Stage::Dagger { dagger } => self.recipe.dagger[*dagger].repetitions,
            _ => 1,
        };
        Round {
            repetitions,
            seed: step.seed(self.recipe),
            pool: Concurrency::default(),
            shard,
        }
    }

    /// Plays this process's share of a step, without what others have played.
    fn play(
        &self,
        step: &Stage,
        place: &StagePaths,
        bar: &ProgressBar,
    ) -> Result<Vec<Trajectory>, TrainerError> {
        match *step {
            Stage::Collect { iteration } => {
                let player = self.player(
                    self.model(&collector(self.recipe, iteration))?,
                    ValueUse::Skip,
                )?;
                self.play_as(&player, step, place, bar)
            }
            Stage::Dagger { dagger } => {
                let student = self.model(&format!("1/{}", self.recipe.dagger[dagger].student))?;
                let student = self.player(student, ValueUse::Skip)?;
                self.play_as(&DaggerPolicy { student }, step, place, bar)
            }
            Stage::Evaluate { iteration, job, .. } => {
                let name = Stage::Train { iteration, job }.name(self.recipe);
                self.play_as(
                    &self.player(self.model(&name)?, ValueUse::Score)?,
                    step,
                    place,
                    bar,
                )
            }
            _ => {
                let expert_noise = self.recipe.demonstrations.expert_noise;
                self.play_as(
                    &ExpertPolicy {
                        noise: expert_noise,
                    },
                    step,
                    place,
                    bar,
                )
            }
        }
    }

    fn play_as<P: Policy>(
        &self,
        policy: &P,
        step: &Stage,
        place: &StagePaths,
        bar: &ProgressBar,
    ) -> Result<Vec<Trajectory>, TrainerError> {
        let (whole, shard) = (place.file("jsonl"), self.means.shard);
        let (tasks, store) = (self.tasks(step), shard.store(&whole));
        let mut jobs = jobs(&tasks, self.round(step, shard));
        if shard.is_part() {
            let others = parts_of(&whole)?
                .into_iter()
                .chain([whole])
                .filter(|other| *other != store);
            let mut played = HashSet::new();
            for other in others.filter(|other| other.exists()) {
                played.extend(
                    Store::read(&other)?
                        .into_iter()
                        .map(|episode| (episode.game_hash, episode.seed)),
                );
            }
            jobs.retain(|job| !played.contains(&(job.task.hash.clone(), job.seed)));
        }
        play_jobs(
            policy,
            self.world,
            &jobs,
            &step.protocol(self.recipe),
            Concurrency::default(),
            &store,
            bar,
        )
    }

    /// The episodes of all shards, once they have played them all.
    fn collect_parts(
        &self,
        place: &StagePaths,
        jobs: &[EpisodeJob<'_>],
    ) -> Result<Vec<Trajectory>, TrainerError> {
        let whole = place.file("jsonl");
        let read = || -> Result<Vec<Trajectory>, TrainerError> {
            let stores = [whole.clone()]
                .into_iter()
                .chain(parts_of(&whole)?)
                .filter(|store| store.exists());
            let all = stores.map(Store::read).collect::<Result<Vec<_>, _>>()?;
            Ok(in_order(all.concat(), jobs))
        };
        let what = || {
            let there = read().map_or(0, |episodes| episodes.len());
            format!(
                "{}: awaits the other shards; {there} of {} episodes are there",
                place.stage(),
                jobs.len()
            )
        };
        let mut seen = None;
        wait(self.means, self.reporter, what, || {
            let sizes: Vec<(PathBuf, u64)> = sizes(&parts_of(&whole)?);
            if seen.as_ref() == Some(&sizes) {
                return Ok(None); // nobody has written since
            }
            seen = Some(sizes);
            let episodes = read()?;
            Ok((episodes.len() == jobs.len()).then_some(episodes))
        })
    }

    /// A job's model, as it was when its stage ended.
    fn model(&self, stage: &str) -> Result<Model, TrainerError> {
        let folder = self.out.join(stage);
        let model = Model::open(&folder)?;
        if self.outcomes.get(stage).and_then(|made| made.get("policy"))
            == Some(&model.policy.hash())
        {
            return Ok(model);
        }
        let reason = "is not the model that this stage ended with\nhint: bring that back, or remove the folder to learn it again";
        Err(TrainerError::content(&folder, reason))
    }

    fn player(&self, model: Model, looking_on: ValueUse) -> Result<LmPolicy, TrainerError> {
        let engine = self.means.hardware.engine()?;
        Ok(LmPolicy::new(
            model,
            LoadOptions {
                engine,
                ..looking_on.into()
            },
        )?)
    }

    /// Reads the episodes of a finished step in the order of play, as they were when it ended.
    fn load(&mut self, stage: &str) -> Result<(), TrainerError> {
        if self.episodes.contains_key(stage) {
            return Ok(());
        }
        let path = self
            .out
            .join(format!("{}.jsonl", name_on_disk(self.out, stage)));
        let mut episodes = Store::read(&path)?;
        if self
            .outcomes
            .get(stage)
            .and_then(|made| made.get("episodes"))
            != Some(&episodes_hash(&episodes))
        {
            let reason = "does not hold the episodes that its stage ended with\nhint: bring them back, or move the file away to have them played again";
            return Err(TrainerError::content(&path, reason));
        }
        shard::sort(&mut episodes);
        if is_shown(stage) {
            let played = episodes.len();
            episodes.retain(|episode| episode.is_won());
            if episodes.is_empty() {
                return Err(TrainerError::Data(format!(
                    "the expert won none of {played} games of train"
                )));
            }
        }
        self.episodes.insert(stage.into(), episodes);
        Ok(())
    }

    fn learn(
        &mut self,
        place: &StagePaths,
        mut manifest: StageManifest,
        iteration: usize,
        job: usize,
    ) -> Result<BTreeMap<String, String>, TrainerError> {
        let (about, out) = (&self.recipe.jobs[job], place.path());
        let names = ["model.safetensors", "value/model.safetensors"];
        let names = if about.algorithm.critic().is_some() {
            &names[..]
        } else {
            &names[..1]
        };
        if !names.iter().all(|name| place.file(name).exists()) {
            let (start, lineage, mut data) = self.job_data(job, iteration)?;
            prepare(about, &start.tokenizer, &mut data, self.recipe.seed);
            let (seed, hardware, context) = (
                self.recipe.seed,
                self.means.hardware,
                start.config.max_position_embeddings,
            );
            place.expect(
                &mut manifest,
                Plan::new(about, &data, context, seed)?.updates.len(),
            )?;
            let lineage = lineage.as_ref();
            let job = TrainingJob {
                recipe: about,
                start: &start,
                lineage,
                trajectories: &data,
                seed,
                out: &out,
                hardware,
            };
            let bar = self.reporter.stage(&format!("train {}", about.name));
            let (model, read) = train::train(&job, &bar)?;
            bar.finish();
            read.remarks()
                .iter()
                .for_each(|remark| self.reporter.say(&format!("{} {remark}", about.name)));
            model.save(&out)?;
        }
        let model = Model::open(&out)?;
        let mut outcome = BTreeMap::from([("policy".to_string(), model.policy.hash())]);
        outcome.extend(model.value.map(|value| ("value".to_string(), value.hash())));
        Ok(place.finish(manifest, outcome, names)?.outcome)
    }

    /// What a job starts from, what that was made from, and what the job reads.
    fn job_data(
        &mut self,
        job: usize,
        iteration: usize,
    ) -> Result<(Model, Option<Lineage>, Vec<Trajectory>), TrainerError> {
        let about = &self.recipe.jobs[job];
        for stage in crate::pipeline::stages::read(self.recipe, job, iteration) {
            self.load(&stage)?;
        }
        let none = Vec::new();
        let shown = self
            .episodes
            .get(&Stage::Demonstrations.name(self.recipe))
            .unwrap_or(&none);
        let (start, lineage) = match crate::pipeline::stages::start(self.recipe, job, iteration) {
            None => (fresh(&self.recipe.model, shown, self.recipe.seed)?, None),
            Some(start) => (self.model(&start)?, Lineage::open(&self.out.join(start))?),
        };
        let rollouts = |iteration| {
            Some((
                iteration,
                self.episodes
                    .get(&format!("{iteration}/rollouts"))?
                    .as_slice(),
            ))
        };
        let rollouts = (1..=iteration).filter_map(rollouts).collect();
        let dagger = dagger(self.recipe, job);
        let dagger: Vec<&[Trajectory]> = dagger
            .iter()
            .filter_map(|stage| self.episodes.get(stage))
            .map(Vec::as_slice)
            .collect();
        Ok((
            start,
            lineage,
            mix(
                &about.data,
                shown,
                &dagger,
                &rollouts,
                iteration,
                self.recipe.seed,
            ),
        ))
    }

    /// Adds an evaluation's rows to the table.
    fn count(
        &mut self,
        step: &Stage,
        place: &StagePaths,
        iteration: usize,
        job: usize,
        k: usize,
    ) -> Result<(), TrainerError> {
        let tasks = self.tasks(step);
        let played = in_order(
            Store::read(place.file("jsonl"))?,
            &jobs(&tasks, self.round(step, Shard::WHOLE)),
        );
        let job = &self.recipe.jobs[job];
        let name = card::run_policy(&job.name, iteration);
        let mut table = evaluate::table(&name, k, &played);
        match &self.baseline {
            Some(baseline) => baseline.pair(&mut table, &played),
            None if k == 1 => self.baseline = Some(Baseline::new(&name, &played)),
            None => {}
        }
        if self.recipe.iterations > 1 {
            let totals = table.iter().filter(|row| row.task_type.is_none());
            let rates: Vec<String> = totals
                .map(|row| format!("{} won of {} {}", row.successes, row.n, row.split))
                .collect();
            self.reporter
                .say(&format!("{name}, K = {k}: {}", rates.join(", ")));
        }
        self.rows.extend(table);
        if let Some(manifest) = place.manifest()?.filter(|_| !played.is_empty()) {
            let store = PathBuf::from(format!("{}.jsonl", place.stage()));
            let (seeds, checkpoint) = ([self.recipe.seed], card::scorer(job));
            let (suite, code) = (&self.suite, manifest.code.as_str());
            let made = Made {
                suite,
                seeds: &seeds,
                repetitions: 1,
                checkpoint,
                code,
                store: &store,
            };
            self.sheets.add(Card::new(&name, &made, &played), &played);
        }
        Ok(())
    }
}

/// Takes in what shards have played of these jobs, for a run without shards.
fn take_in(whole: &Path, jobs: &[EpisodeJob<'_>]) -> Result<(), TrainerError> {
    let parts = parts_of(whole)?;
    if parts.is_empty() {
        return Ok(());
    }
    let (mut store, mut there) = Store::open(whole)?;
    let mut known: HashSet<(String, u64)> = there
        .drain(..)
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

/// Removes shards' stores whose episodes all stand in the whole store.
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

fn sizes(paths: &[PathBuf]) -> Vec<(PathBuf, u64)> {
    let size = |path: &PathBuf| Some((path.clone(), std::fs::metadata(path).ok()?.len()));
    paths.iter().filter_map(size).collect()
}

/// Makes episodes what a job reads: thins their openings where it asks for that, and fills in token ids that are not
/// there.
pub fn prepare(
    job: &TrainConfig,
    tokenizer: &Tokenizer,
    trajectories: &mut [Trajectory],
    seed: u64,
) {
    if let Some(most) = job.receptacle_dropout {
        trajectories
            .iter_mut()
            .for_each(|trajectory| thin(trajectory, most, seed));
    }
    tokenize_texts(tokenizer, trajectories);
}

/// Fills in the token ids of episodes that were played in text, or by a policy with another tokenizer.
pub fn tokenize_texts(tokenizer: &Tokenizer, trajectories: &mut [Trajectory]) {
    for trajectory in trajectories {
        if !chat::is_tokenized_by(tokenizer, trajectory) {
            chat::tokenize(tokenizer, trajectory);
        }
    }
}

/// A decoder that has learned nothing, with a vocabulary from the texts of these episodes.
///
/// # Errors
/// When the tokenizer library refuses.
pub fn fresh(
    shape: &ModelRecipe,
    trajectories: &[Trajectory],
    seed: u64,
) -> Result<Model, TrainerError> {
    let tokenizer = vocabulary(trajectories, shape)?;
    let config = shape.config(tokenizer.vocab_size());
    let policy = Weights::random(&config, seed);
    let (text_versions, companions) = (BTreeSet::new(), Companions::default());
    Ok(Model {
        config,
        tokenizer,
        policy,
        value: None,
        text_versions,
        companions,
    })
}

/// A vocabulary from the texts of episodes.
fn vocabulary(trajectories: &[Trajectory], shape: &ModelRecipe) -> Result<Tokenizer, TrainerError> {
    let turns = trajectories.iter().flat_map(|trajectory| &trajectory.turns);
    let texts = turns.flat_map(|turn| [turn.observation.as_str(), turn.completion.as_str()]);
    Ok(Tokenizer::train_with(
        texts,
        shape.vocabulary,
        shape.numbers,
    )?)
}
