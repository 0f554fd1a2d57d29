//! The recipe of a run: one TOML file with everything that decides the run's numbers. Unknown keys are refused.
//!
//! The training jobs of a recipe are described in [`crate::learn::config`].

pub use crate::learn::config::{
    Algorithm, CriticConfig, CriticInit, CriticRecipe, DataSource, EarlyStopping, Level, Lost,
    Normalisation, Prefer, Ranking, ReferenceUse, StartFrom, Targets, TrainConfig, ValueLoss,
    open_job,
};

pub use self::model::ModelRecipe;
pub use self::sampling::{CollectRecipe, DaggerRecipe, EvaluateRecipe, TokenFilters};

pub(super) mod continued;
mod model;
mod sampling;

use crate::error::TrainerError;
use crate::measure::branch::BranchRecipe;
use crate::measure::rescue::RescueRecipe;
use scenarios::{KvFormat, Protocol, WeightFormat, household};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Everything that decides a run's numbers.
///
/// ```
/// use trainer::pipeline::recipe::Recipe;
///
/// let recipe = Recipe::quickstart();
/// assert_eq!(recipe.jobs[0].name, "sft");
/// assert_eq!(recipe.check(), Ok(()));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The run's name.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Number of iterations of collect → train → evaluate.
    pub iterations: usize,
    /// Source of the games.
    pub games: GamesRecipe,
    /// Shape of the decoder.
    pub model: ModelRecipe,
    /// Limits of an episode.
    pub protocol: ProtocolRecipe,
    /// The expert's episodes.
    pub demonstrations: DemonstrationsRecipe,
    /// The expert's episodes with students (DAgger).
    #[serde(default, alias = "guided", skip_serializing_if = "Vec::is_empty")]
    pub dagger: Vec<DaggerRecipe>,
    /// The policy's own episodes.
    pub collect: CollectRecipe,
    /// The branches of the policy's own episodes; none if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<BranchRecipe>,
    /// The rescues of the policy's own lost episodes; none if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<RescueRecipe>,
    /// The training jobs, in the order in which they run.
    #[serde(rename = "train", alias = "lesson")]
    pub jobs: Vec<TrainConfig>,
    /// The evaluations.
    pub evaluate: EvaluateRecipe,
}

/// Source of the games.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GamesRecipe {
    /// Generated household games.
    Household {
        /// Size of the rooms: `small`, `full` or `alfworld`.
        size: RoomSize,
        /// Number of games of the split `train`.
        train: usize,
        /// Number of games for the selection of checkpoints.
        valid_train: usize,
        /// Number of test games on room layouts of `train`.
        seen: usize,
        /// Number of test games on room layouts that `train` lacks.
        unseen: usize,
        /// Further suites for practice: folders or manifests. The expert and the policy also play their
        /// `train` games, in the demonstrations, under DAgger and in the rollouts. Default: none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        practice: Vec<PathBuf>,
    },
    /// A folder of games, for example ALFWorld's, or a manifest.
    Folder {
        /// The folder or the manifest.
        path: PathBuf,
        /// Further suites for practice, see [`GamesRecipe::Household`]. Default: none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        practice: Vec<PathBuf>,
    },
}

impl GamesRecipe {
    /// Returns the paths of the practice suites.
    #[must_use]
    pub fn practice(&self) -> &[PathBuf] {
        match self {
            Self::Household { practice, .. } | Self::Folder { practice, .. } => practice,
        }
    }

    /// Returns the recipe of the main suite alone.
    #[must_use]
    pub fn without_practice(mut self) -> Self {
        self.practice_mut().clear();
        self
    }

    fn practice_mut(&mut self) -> &mut Vec<PathBuf> {
        match self {
            Self::Household { practice, .. } | Self::Folder { practice, .. } => practice,
        }
    }

    /// Makes relative paths relative to a folder.
    fn resolve(&mut self, folder: &Path) {
        if let Self::Folder { path, .. } = self {
            *path = folder.join(&*path);
        }
        for path in self.practice_mut() {
            *path = folder.join(&*path);
        }
    }
}

/// Size of the generated rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomSize {
    /// A few receptacles.
    Small,
    /// As many receptacles as in ALFWorld.
    Full,
    /// Receptacles, doors, objects and goals with the frequencies of ALFWorld's `train` games.
    Alfworld,
}

impl From<RoomSize> for household::Size {
    fn from(size: RoomSize) -> Self {
        match size {
            RoomSize::Small => Self::Small,
            RoomSize::Full => Self::Full,
            RoomSize::Alfworld => Self::Alfworld,
        }
    }
}

/// Limits of an episode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtocolRecipe {
    /// Maximum number of turns in an episode.
    pub turns: usize,
    /// Maximum number of tokens in a completion.
    pub completion: usize,
    /// Number format of the policies' weights when they play. Default: `exact`.
    #[serde(default, skip_serializing_if = "WeightFormat::is_exact")]
    pub weights: WeightFormat,
    /// Number format of their keys and values. Default: `exact`.
    #[serde(default, skip_serializing_if = "KvFormat::is_exact")]
    pub kv: KvFormat,
}

impl ProtocolRecipe {
    /// Returns the protocol for one sampling temperature and number of candidates K.
    #[must_use]
    pub fn protocol(&self, context: usize, temperature: f32, best_of: usize) -> Protocol {
        Protocol {
            turn_limit: self.turns,
            context_limit: context,
            completion_limit: self.completion,
            weights: self.weights,
            kv: self.kv,
            temperature,
            best_of,
            ..Protocol::default()
        }
    }
}

/// The expert's episodes on the first games of `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemonstrationsRecipe {
    /// Number of games. If 0, all games.
    pub games: usize,
    /// Episodes per game, each with its own seed.
    pub repetitions: usize,
    /// Share of turns in which the expert begins a perturbation (noise injection, DART, Laskey et al. 2017,
    /// arXiv 1703.09327), so that the episodes show how to recover. Perturbed turns are marked and not
    /// imitated. If 0, the expert plays perfectly.
    #[serde(default, alias = "slips")]
    pub expert_noise: f64,
}

impl Recipe {
    /// Returns the built-in recipe of `hearth quickstart`.
    ///
    /// # Panics
    /// Never: a test reads the built-in recipe.
    #[must_use]
    pub fn quickstart() -> Self {
        toml::from_str(include_str!("../../recipes/quickstart.toml"))
            .expect("the built-in recipe is read by a test")
    }

    /// Reads a recipe. If the path of a game folder is relative, it is relative to the recipe's folder.
    ///
    /// # Errors
    /// If the file is missing, or if a key is unknown, missing, misplaced or of the wrong type.
    pub fn open(path: &Path) -> Result<Self, TrainerError> {
        let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
        let mut recipe: Self = toml::from_str(&text).map_err(|e| TrainerError::content(path, e))?;
        if let Some(folder) = path.parent() {
            recipe.games.resolve(folder);
            recipe.model.resolve(folder);
        }
        recipe
            .check()
            .map_err(|reason| TrainerError::content(path, reason))?;
        Ok(recipe)
    }

    /// Reduces games, episodes and updates so that every stage runs within a minute; the numbers then mean
    /// nothing. After so few updates a policy wins no episode, so every job also reads the demonstrations.
    pub fn shrink(&mut self) {
        self.name += "-quick";
        if let GamesRecipe::Household {
            train,
            valid_train,
            seen,
            unseen,
            ..
        } = &mut self.games
        {
            *train = 24;
            *valid_train = 6;
            *seen = 6;
            *unseen = 6;
        }
        self.demonstrations.games = 24;
        self.collect.games = 12;
        self.collect.repetitions = 2;
        for dagger in &mut self.dagger {
            dagger.games = 12;
            dagger.repetitions = 1;
        }
        if let Some(branch) = &mut self.branch {
            branch.episodes = 4;
            branch.rollouts = 2;
        }
        if let Some(rescue) = &mut self.rescue {
            rescue.completions = 2;
            rescue.wins = 1;
        }
        for job in &mut self.jobs {
            job.optimizer.updates = 8;
            if !job.is_trained_once() {
                let mut data = vec![DataSource::Demonstrations, DataSource::Rollouts];
                data.extend(continued::sources(job));
                job.data = data;
            }
        }
        self.evaluate.games = 6;
    }

    /// Returns the index of the job with this name, or `None` if there is no such job.
    #[must_use]
    pub fn job_index(&self, name: &str) -> Option<usize> {
        self.jobs.iter().position(|job| job.name == name)
    }

    /// Returns whether there is a job of this name that is trained once, before the first rollouts.
    #[must_use]
    pub fn is_trained_once(&self, name: &str) -> bool {
        self.jobs
            .iter()
            .any(|job| job.name == name && job.is_trained_once())
    }

    /// Returns the indices in [`Recipe::dagger`] of the students that come before a job, given by its index.
    pub fn students_before(&self, job: usize) -> impl Iterator<Item = usize> {
        self.dagger
            .iter()
            .enumerate()
            .filter(move |(_, dagger)| {
                self.jobs[..job]
                    .iter()
                    .any(|before| before.name == dagger.student)
            })
            .map(|(index, _)| index)
    }

    /// Checks that the recipe can be run.
    ///
    /// # Errors
    /// A text that names the key, if a value is out of range, two keys contradict each other or a name
    /// refers to no job.
    pub fn check(&self) -> Result<(), String> {
        let names: Vec<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
        for name in [&self.collect.policy, &self.collect.then] {
            if !names.contains(&name.as_str()) {
                return Err(format!(
                    "collect: there is no job {name:?}; jobs are {names:?}"
                ));
            }
        }
        for index in 0..self.jobs.len() {
            self.check_job(index)?;
        }
        for index in 0..self.dagger.len() {
            self.check_dagger(index, &names)?;
        }
        let collector = self.jobs.iter().find(|job| job.name == self.collect.policy);
        if collector.is_some_and(|job| !job.is_trained_once()) {
            return Err(
                "collect.policy must be a job that is trained before the first rollouts".into(),
            );
        }
        continued::check_tables(self.branch.as_ref(), self.rescue.as_ref())?;
        self.collect.check()?;
        self.check_importance_ratios()?;
        self.evaluate.check()?;
        self.model.check()
    }

    /// Refuses algorithms whose ratios are those of single samples, if the best of K samples is played.
    fn check_importance_ratios(&self) -> Result<(), String> {
        let by_ratio = |job: &&TrainConfig| {
            matches!(
                job.algorithm,
                Algorithm::Grpo { .. } | Algorithm::Gigpo { .. }
            )
        };
        match self.jobs.iter().find(by_ratio) {
            Some(job) if self.collect.best_of > 1 => Err(format!(
                "job {:?}: {} corrects by the probability of a sample, and collect.best_of = {} plays the best of several\n\
                 hint: remove collect.best_of, or the job",
                job.name,
                job.algorithm.kind(),
                self.collect.best_of
            )),
            _ => Ok(()),
        }
    }

    fn check_job(&self, index: usize) -> Result<(), String> {
        let (before, job) = (&self.jobs[..index], &self.jobs[index]);
        if before.iter().any(|other| other.name == job.name) {
            return Err(format!("job {:?}: the name is taken", job.name));
        }
        job.check()?;
        if let StartFrom::Job(start) = &job.from
            && !before.iter().any(|other| {
                other.name == *start && (other.is_trained_once() || !job.is_trained_once())
            })
        {
            return Err(format!(
                "job {:?}: it cannot start from {start:?}\n\
                 hint: name a job that comes before it; only a job that reads rollouts can start from a job that does",
                job.name
            ));
        }
        if job.critic.init == CriticInit::Critic {
            self.check_inherited_critic(job)?;
        }
        if job.data.contains(&DataSource::Dagger) && self.students_before(index).next().is_none() {
            return Err(format!(
                "job {:?}: data contains \"dagger\", but no [[dagger]] student comes before this job\n\
                 hint: add [[dagger]] with student = NAME, a job that comes before it and reads no rollouts",
                job.name
            ));
        }
        continued::check_job(job, self.branch.is_some(), self.rescue.is_some())
    }

    /// Checks that every model that a job starts from has a value network.
    fn check_inherited_critic(&self, job: &TrainConfig) -> Result<(), String> {
        let starts: &[&String] = match &job.from {
            StartFrom::Fresh => &[],
            StartFrom::Job(name) => &[name],
            StartFrom::Collector if self.iterations > 1 => {
                &[&self.collect.policy, &self.collect.then]
            }
            StartFrom::Collector => &[&self.collect.policy],
        };
        for name in starts {
            let start = self.jobs.iter().find(|other| other.name == **name);
            if start.is_none_or(|start| start.algorithm.critic().is_none()) {
                return Err(format!(
                    "job {:?}: critic.init = \"critic\", but {name:?}, from which it starts, has no value network\n\
                     hint: init = \"critic_if_any\" starts from the policy then",
                    job.name
                ));
            }
        }
        Ok(())
    }

    fn check_dagger(&self, index: usize, names: &[&str]) -> Result<(), String> {
        let dagger = &self.dagger[index];
        let student = &dagger.student;
        if !self.is_trained_once(student) {
            return Err(format!(
                "dagger: no job {student:?} is trained before the first rollouts; jobs are {names:?}"
            ));
        }
        dagger
            .filters()
            .check(&format!("dagger with student {student:?}"))?;
        if dagger.repetitions == 0 {
            return Err(format!("dagger: {student:?}: repetitions must be above 0"));
        }
        if self.dagger[..index]
            .iter()
            .any(|other| other.student == *student)
        {
            return Err(format!("dagger: student {student:?} is listed twice"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
