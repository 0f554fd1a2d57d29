//! The loop: games, demonstrations, then rounds of collect → train → evaluate, all from one recipe into one folder.
//!
//! ```text
//! RUN/recipe.toml  run.json            what decides the numbers, and what ran
//! RUN/games/  suite.jsonl              the games, by hash, where they are generated
//! RUN/demonstrations.jsonl             the expert's episodes
//! RUN/1/rollouts.jsonl                 the collector's episodes of iteration 1
//! RUN/1/LESSON/                        a model folder, with metrics.csv and the last checkpoint
//! RUN/1/eval/LESSON-k1.jsonl           the episodes behind each row
//! RUN/eval.csv                         the table; beside it what [`crate::card`] says of it
//! ```
//!
//! Every stage is finished by a file that is written last, so a killed run goes on where it stopped.

use crate::card;
use crate::error::TrainerError;
use crate::evaluate::{self, Baseline, Round, Row, play_round};
use crate::recipe::{Data, DemonstrationsRecipe, GamesRecipe, LessonRecipe, ModelRecipe, Recipe, Start};
use crate::train::{self, Lesson};
use agent::chat;
use agent::device::Hardware;
use agent::episode::Pool;
use agent::model::{Companions, Model};
use agent::model_player::{Holding, LookingOn, ModelPlayer};
use agent::player::ExpertPolicy;
use agent::tokenizer::Tokenizer;
use agent::weights::Weights;
use indicatif::ProgressBar;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::household::{self, GenerateOptions};
use scenarios::{Protocol, Split, Suite, Task, TextVersion, Trajectory, World};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Shows what is going on; the command line draws bars, tests draw nothing.
pub trait Reporter {
    /// A stage begins; the bar is its own.
    fn stage(&self, title: &str) -> ProgressBar;
    /// Something the user should read.
    fn say(&self, text: &str);
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
struct Course<'a> {
    recipe: &'a Recipe,
    out: &'a Path,
    world: &'a dyn World,
    reporter: &'a dyn Reporter,
    hardware: Hardware,
    suite: Suite,
}

/// Follows a recipe into `out`, or goes on with what stands there; learns and plays on `hardware`.
///
/// # Errors
/// Any [`TrainerError`]; what was written stays, and the same call goes on from it.
pub fn follow(
    recipe: &Recipe,
    out: &Path,
    world: &dyn World,
    reporter: &dyn Reporter,
    hardware: Hardware,
    code: &str,
) -> Result<Report, TrainerError> {
    let started = Instant::now();
    hardware.burn()?; // what it lacks is said before an hour of playing
    std::fs::create_dir_all(out).map_err(TrainerError::file(out))?;
    claim(recipe, out)?;
    let suite = games(recipe, out, reporter)?;
    let course = Course { recipe, out, world, reporter, hardware, suite };
    course.write_run_json(code)?;
    let demonstrations = course.demonstrations()?;
    let mut rows = Vec::new();
    let mut baseline = None;
    let mut rollouts = Vec::new();
    for iteration in 1..=recipe.iterations {
        course.fresh_lessons(iteration, &demonstrations)?;
        let before = rollouts.len();
        rollouts.extend(course.collect(iteration)?);
        course.collector_lessons(iteration, &demonstrations, &rollouts, before)?;
        rows.extend(course.evaluate(iteration, &mut baseline)?);
        evaluate::write_csv(&out.join("eval.csv"), &rows)?;
        card::record_iteration(out, iteration, &course.suite, recipe, code)?;
    }
    Ok(Report {
        rows,
        seconds: started.elapsed().as_secs_f64(),
        run: out.into(),
        suite: course.suite.hash(),
        protocols: course.protocols(),
    })
}

/// Writes the recipe into the folder, or makes sure that the one there is the same.
fn claim(recipe: &Recipe, out: &Path) -> Result<(), TrainerError> {
    let path = out.join("recipe.toml");
    let text = toml::to_string(recipe).map_err(|e| TrainerError::content(&path, e))?;
    if !path.exists() {
        return std::fs::write(&path, text).map_err(TrainerError::file(&path));
    }
    if std::fs::read_to_string(&path).map_err(TrainerError::file(&path))? == text {
        return Ok(());
    }
    Err(TrainerError::content(&path, "another recipe has run here\nhint: choose another --out, or remove this folder"))
}

fn games(recipe: &Recipe, out: &Path, reporter: &dyn Reporter) -> Result<Suite, TrainerError> {
    let suite = match &recipe.games {
        GamesRecipe::Folder { path } => Suite::open(path)?,
        GamesRecipe::Household { size, train, valid_train, seen, unseen } => {
            let folder = out.join("games");
            if folder.join("suite.jsonl").exists() {
                Suite::open(&folder)?
            } else {
                crate::checkpoint::remove(&folder)?;
                let options = GenerateOptions {
                    seed: recipe.seed,
                    size: (*size).into(),
                    train: *train,
                    valid_train: *valid_train,
                    seen: *seen,
                    unseen: *unseen,
                    text: TextVersion::V2_1_3,
                };
                let bar = reporter.stage("generate games");
                let suite = household::generate(&folder, &options)?;
                bar.finish_with_message(format!("{} games", suite.tasks.len()));
                suite
            }
        }
    };
    for fault in &suite.faults {
        reporter.say(&format!("left out: {}: {}", fault.path.display(), fault.reason));
    }
    if !suite.faults.is_empty() {
        reporter.say(&format!("{} games of {} are left out", suite.faults.len(), suite.name));
    }
    if let GamesRecipe::Household { .. } = recipe.games {
        suite.write_manifest(out.join("suite.jsonl"))?; // games elsewhere cannot be named by a manifest in this folder
    }
    Ok(suite)
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

impl Course<'_> {
    /// Says what runs here; refuses to go on with other games than those that the run began with.
    fn write_run_json(&self, code: &str) -> Result<(), TrainerError> {
        let path = self.out.join("run.json");
        if path.exists() {
            let text = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
            let before: serde_json::Value = serde_json::from_str(&text).map_err(|e| TrainerError::content(&path, e))?;
            if before["suite"] != self.suite.hash().as_str() {
                let reason =
                    "the games are not those that this run began with\nhint: choose another --out, or bring them back";
                return Err(TrainerError::content(&path, reason));
            }
        }
        let run = serde_json::json!({
            "name": self.recipe.name, "seed": self.recipe.seed, "suite": self.suite.hash(),
            "games": self.suite.tasks.len(), "faults": self.suite.faults.len(), "code": code,
            "device": self.hardware.to_string(),
        });
        std::fs::write(&path, format!("{run:#}\n")).map_err(TrainerError::file(&path))
    }

    fn folder(&self, iteration: usize, name: &str) -> PathBuf {
        self.out.join(iteration.to_string()).join(name)
    }

    fn protocol(&self, temperature: f32, best_of: usize) -> Protocol {
        self.recipe.protocol.protocol(self.recipe.model.context, temperature, best_of)
    }

    fn protocols(&self) -> Vec<(usize, String)> {
        let line = |k: &usize| (*k, evaluate::protocol_line(&self.evaluation_protocol(*k)));
        self.recipe.evaluate.best_of.iter().map(line).collect()
    }

    fn evaluation_protocol(&self, k: usize) -> Protocol {
        self.protocol(if k == 1 { 0.0 } else { self.recipe.evaluate.temperature }, k)
    }

    fn demonstrations(&self) -> Result<Vec<Trajectory>, TrainerError> {
        let DemonstrationsRecipe { games, repetitions, slips } = self.recipe.demonstrations;
        let tasks = chosen(&self.suite, Split::Train, games, self.recipe.seed);
        let round = Round { repetitions, seed: self.recipe.seed, pool: Pool::default() };
        let bar = self.reporter.stage("expert demonstrations");
        let path = self.out.join("demonstrations.jsonl");
        let mut all =
            play_round(&ExpertPolicy { slips }, self.world, &tasks, &self.protocol(0.0, 1), round, &path, &bar)?;
        let played = all.len();
        all.retain(|trajectory| trajectory.reward() > 0.0);
        bar.finish_with_message(format!("{} won of {played}", all.len()));
        if all.is_empty() {
            return Err(TrainerError::Data(format!("the expert won none of {played} games of train")));
        }
        Ok(all)
    }

    /// Lessons that begin with random weights: once, before anything is collected.
    fn fresh_lessons(&self, iteration: usize, demonstrations: &[Trajectory]) -> Result<(), TrainerError> {
        if iteration > 1 {
            return Ok(());
        }
        for lesson in self.recipe.lessons.iter().filter(|lesson| lesson.from == Start::Fresh) {
            let folder = self.folder(iteration, &lesson.name);
            if folder.join("model.safetensors").exists() {
                continue;
            }
            let start = fresh(&self.recipe.model, demonstrations, self.recipe.seed)?;
            self.learn(lesson, &start, demonstrations.to_vec(), &folder)?;
        }
        Ok(())
    }

    /// The model whose policy collects in an iteration.
    fn collector(&self, iteration: usize) -> Result<Model, TrainerError> {
        let folder = match iteration {
            1 => self.folder(1, &self.recipe.collect.policy),
            _ if self.is_fresh(&self.recipe.collect.then) => self.folder(1, &self.recipe.collect.then),
            later => self.folder(later - 1, &self.recipe.collect.then),
        };
        Ok(Model::open(&folder)?)
    }

    fn player(&self, model: Model, looking_on: LookingOn) -> Result<ModelPlayer, TrainerError> {
        let engine = self.hardware.engine()?;
        Ok(ModelPlayer::new(model, Holding { engine, ..looking_on.into() })?)
    }

    fn is_fresh(&self, name: &str) -> bool {
        self.recipe.lessons.iter().any(|lesson| lesson.name == name && lesson.from == Start::Fresh)
    }

    fn collect(&self, iteration: usize) -> Result<Vec<Trajectory>, TrainerError> {
        let recipe = &self.recipe.collect;
        let player = self.player(self.collector(iteration)?, LookingOn::Nobody)?;
        let seed = self.recipe.seed + 1000 * iteration as u64;
        let tasks = chosen(&self.suite, Split::Train, recipe.games, self.recipe.seed);
        let round = Round { repetitions: recipe.repetitions, seed, pool: Pool::default() };
        let bar = self.reporter.stage(&format!("collect, iteration {iteration}"));
        let path = self.folder(iteration, "rollouts.jsonl");
        std::fs::create_dir_all(self.out.join(iteration.to_string())).map_err(TrainerError::file(&path))?;
        let rollouts =
            play_round(&player, self.world, &tasks, &self.protocol(recipe.temperature, 1), round, &path, &bar)?;
        let won = rollouts.iter().filter(|t| t.reward() > 0.0).count();
        bar.finish_with_message(format!("{won} won of {}", rollouts.len()));
        Ok(rollouts)
    }

    fn collector_lessons(
        &self,
        iteration: usize,
        demonstrations: &[Trajectory],
        rollouts: &[Trajectory],
        earlier_rollouts: usize,
    ) -> Result<(), TrainerError> {
        for lesson in self.recipe.lessons.iter().filter(|lesson| lesson.from == Start::Collector) {
            let folder = self.folder(iteration, &lesson.name);
            if folder.join("model.safetensors").exists() {
                continue;
            }
            let mut data = Vec::new();
            for source in &lesson.data {
                data.extend_from_slice(match source {
                    Data::Demonstrations => demonstrations,
                    Data::Rollouts => rollouts,
                    Data::LatestRollouts => &rollouts[earlier_rollouts..],
                });
            }
            self.learn(lesson, &self.collector(iteration)?, data, &folder)?;
        }
        Ok(())
    }

    fn learn(
        &self,
        recipe: &LessonRecipe,
        start: &Model,
        mut trajectories: Vec<Trajectory>,
        out: &Path,
    ) -> Result<(), TrainerError> {
        tokenize_texts(&start.tokenizer, &mut trajectories);
        let (seed, hardware) = (self.recipe.seed, self.hardware);
        let lesson = Lesson { recipe, start, trajectories: &trajectories, seed, out, hardware };
        let bar = self.reporter.stage(&format!("train {}", recipe.name));
        let (model, read) = train::train(&lesson, &bar)?;
        bar.finish();
        read.remarks().iter().for_each(|remark| self.reporter.say(&format!("{} {remark}", recipe.name)));
        Ok(model.save(out)?)
    }

    /// Plays every lesson's model; the first that is played greedily is what all others are paired with.
    fn evaluate(&self, iteration: usize, baseline: &mut Option<Baseline>) -> Result<Vec<Row>, TrainerError> {
        let recipe = &self.recipe.evaluate;
        let splits = recipe.splits.iter();
        let tasks: Vec<&Task> =
            splits.flat_map(|split| chosen(&self.suite, *split, recipe.games, self.recipe.seed)).collect();
        let folder = self.folder(iteration, "eval");
        std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
        let mut rows = Vec::new();
        for lesson in &self.recipe.lessons {
            if lesson.from == Start::Fresh && iteration > 1 {
                continue;
            }
            let player = self.player(Model::open(&self.folder(iteration, &lesson.name))?, LookingOn::Value)?;
            for k in &recipe.best_of {
                if *k > 1 && !player.has_value() {
                    continue;
                }
                let bar = self.reporter.stage(&format!("evaluate {}, K = {k}", lesson.name));
                let round = Round { repetitions: 1, seed: self.recipe.seed, pool: Pool::default() };
                let path = folder.join(format!("{}-k{k}.jsonl", lesson.name));
                let protocol = self.evaluation_protocol(*k);
                let played = play_round(&player, self.world, &tasks, &protocol, round, &path, &bar)?;
                bar.finish();
                let name = if iteration == 1 { lesson.name.clone() } else { format!("{}-{iteration}", lesson.name) };
                let mut table = evaluate::table(&name, *k, &played);
                match baseline {
                    Some(baseline) => baseline.pair(&mut table, &played),
                    None if *k == 1 => *baseline = Some(Baseline::new(&name, &played)),
                    None => {}
                }
                rows.extend(table);
            }
        }
        Ok(rows)
    }
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
pub fn fresh(shape: &ModelRecipe, trajectories: &[Trajectory], seed: u64) -> Result<Model, TrainerError> {
    let tokenizer = vocabulary(trajectories, shape.vocabulary)?;
    let config = shape.config(tokenizer.vocab_size());
    let policy = Weights::random(&config, seed);
    let (text_versions, companions) = (BTreeSet::new(), Companions::default());
    Ok(Model { config, tokenizer, policy, value: None, text_versions, companions })
}

/// A vocabulary from the texts of episodes.
fn vocabulary(trajectories: &[Trajectory], size: usize) -> Result<Tokenizer, TrainerError> {
    let turns = trajectories.iter().flat_map(|trajectory| &trajectory.turns);
    let texts = turns.flat_map(|turn| [turn.observation.as_str(), turn.completion.as_str()]);
    Ok(Tokenizer::train(texts, size)?)
}
