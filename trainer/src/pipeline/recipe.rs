//! The recipe of a run: one TOML file with everything that decides its numbers. Unknown keys are refused, and a key
//! stands only where it means something: `beta` under `sft` is an error.

use crate::error::TrainerError;
use crate::learn::optimizer::OptimizerRecipe;
use agent::model::config::DecoderConfig;
use agent::model::decoder::Precision;
use agent::model::lora::LoraRecipe;
use agent::text::tokenizer::NumberTokens;
use scenarios::{Protocol, Split, household};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Everything that decides a run's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The run's name.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Rounds of collect → train → evaluate.
    pub iterations: usize,
    /// Where the games come from.
    pub games: GamesRecipe,
    /// Shape of the decoder.
    pub model: ModelRecipe,
    /// How episodes are played.
    pub protocol: ProtocolRecipe,
    /// What the expert shows.
    pub demonstrations: DemonstrationsRecipe,
    /// What it shows beside students.
    #[serde(default, alias = "guided", skip_serializing_if = "Vec::is_empty")]
    pub dagger: Vec<DaggerRecipe>,
    /// What the policy plays to learn from.
    pub collect: CollectRecipe,
    /// What is learned, in this order.
    #[serde(rename = "train", alias = "lesson")]
    pub jobs: Vec<TrainConfig>,
    /// What is measured.
    pub evaluate: EvaluateRecipe,
}

/// Where the games come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GamesRecipe {
    /// Generated household games.
    Household {
        /// How large rooms are: `small` or `full`.
        size: RoomSize,
        /// Games of each split.
        train: usize,
        /// Games for choosing checkpoints.
        valid_train: usize,
        /// Test games on room layouts of train.
        seen: usize,
        /// Test games on room layouts that train lacks.
        unseen: usize,
    },
    /// A folder of games, ALFWorld's for instance, or a manifest.
    Folder {
        /// The folder or the manifest.
        path: PathBuf,
    },
}

/// How large generated rooms are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomSize {
    /// A few receptacles.
    Small,
    /// As ALFWorld's.
    Full,
}

impl From<RoomSize> for household::Size {
    fn from(size: RoomSize) -> Self {
        match size {
            RoomSize::Small => Self::Small,
            RoomSize::Full => Self::Full,
        }
    }
}

/// Shape of the decoder and its vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the SwiGLU block.
    pub inner: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Most tokens of the vocabulary.
    pub vocabulary: usize,
    /// How numbered names stand in it: `whole` or `digits`.
    #[serde(default, alias = "names", skip_serializing_if = "are_whole")]
    pub numbers: NumberTokens,
    /// Most tokens of an episode.
    pub context: usize,
}

/// A recipe that does not say how names stand is the same as before it could.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn are_whole(names: &NumberTokens) -> bool {
    *names == NumberTokens::Whole
}

impl ModelRecipe {
    /// The decoder's configuration for a vocabulary of that size.
    #[must_use]
    pub fn config(&self, vocab_size: usize) -> DecoderConfig {
        DecoderConfig {
            vocab_size: vocab_size.next_multiple_of(16),
            hidden_size: self.hidden,
            intermediate_size: self.inner,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            max_position_embeddings: self.context,
            ..DecoderConfig::default()
        }
    }
}

/// How episodes are played.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtocolRecipe {
    /// Most turns in an episode.
    pub turns: usize,
    /// Most tokens in a completion.
    pub completion: usize,
}

impl ProtocolRecipe {
    /// The protocol for one temperature and K.
    #[must_use]
    pub fn protocol(&self, context: usize, temperature: f32, best_of: usize) -> Protocol {
        Protocol {
            turn_limit: self.turns,
            context_limit: context,
            completion_limit: self.completion,
            temperature,
            best_of,
            ..Protocol::default()
        }
    }
}

/// What the expert shows: the first games of `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemonstrationsRecipe {
    /// How many games; 0 = all.
    pub games: usize,
    /// Episodes a game, each with its own seed.
    pub repetitions: usize,
    /// Share of turns in which the expert begins to go perturbed, so that imitators see the way back; these turns are marked
    /// and not imitated. 0 = perfect play.
    #[serde(default, alias = "slips")]
    pub expert_noise: f64,
}

/// What the expert shows beside a student, games of `train`: they take turns, and what the expert would not have written is
/// marked and not imitated ([`agent::policy::dagger`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaggerRecipe {
    /// The job whose policy is the student; one that is learned before the first rollouts.
    pub student: String,
    /// How many games; 0 = all.
    pub games: usize,
    /// Episodes a game.
    pub repetitions: usize,
    /// The student's sampling temperature.
    pub temperature: f32,
}

/// What the policy plays to learn from: games of `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectRecipe {
    /// The job whose policy collects in the first iteration.
    pub policy: String,
    /// The job whose policy collects afterwards.
    pub then: String,
    /// How many games; 0 = all.
    pub games: usize,
    /// Episodes a game.
    pub repetitions: usize,
    /// Sampling temperature.
    pub temperature: f32,
}

/// One job: where it starts, what it reads, how it learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Its name, and its folder's.
    pub name: String,
    /// The policy it starts from, also its reference.
    pub from: StartFrom,
    /// What it reads.
    pub data: Vec<DataSource>,
    /// What the linear layers multiply in: `f32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Batches, rates and schedule.
    #[serde(default)]
    pub optimizer: OptimizerRecipe,
    /// Adapters that learn in the networks' place; without it the networks do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraRecipe>,
    /// How the reference is asked.
    #[serde(default)]
    pub reference: ReferenceUse,
    /// Highest chance that a receptacle which an episode never names is left out of its opening: [`crate::learn::receptacle_dropout`]. For
    /// imitation.
    #[serde(default, alias = "thinned", skip_serializing_if = "Option::is_none")]
    pub receptacle_dropout: Option<f64>,
    /// When it ends early; never without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// What it minimises.
    pub algorithm: Algorithm,
}

impl TrainConfig {
    /// The job that only names its algorithm: from the collector, on its rollouts, with all defaults.
    #[must_use]
    pub fn of(algorithm: Algorithm) -> Self {
        Self {
            name: "job".into(),
            from: StartFrom::Collector,
            data: vec![DataSource::Rollouts],
            precision: Precision::default(),
            optimizer: OptimizerRecipe::default(),
            lora: None,
            reference: ReferenceUse::default(),
            receptacle_dropout: None,
            early_stopping: None,
            algorithm,
        }
    }

    /// Whether it is learned once, before the first rollouts, and not in every iteration from their collector.
    #[must_use]
    pub fn is_learned_once(&self) -> bool {
        self.from != StartFrom::Collector
    }

    /// Refuses jobs that cannot be followed.
    ///
    /// # Errors
    /// Says which key does not fit.
    pub fn check(&self) -> Result<(), String> {
        self.problem().map_or(Ok(()), |problem| {
            Err(format!("job {:?}: {problem}", self.name))
        })
    }

    fn problem(&self) -> Option<String> {
        let some = |text: &str| Some(text.to_string());
        if self.name.contains(['/', '\\', '.']) || self.name.is_empty() {
            return some("the name must do as a folder's");
        }
        if ["eval", "rollouts"].contains(&self.name.as_str()) {
            return some(
                "the name is taken: evaluations and rollouts stand beside the job's folder",
            );
        }
        if self.data.is_empty() {
            return some("data is empty");
        }
        if self.data.iter().any(|data| {
            matches!(
                data,
                DataSource::SelectedRollouts {
                    last: 0,
                    won_per_game: 0,
                    lost: Lost::Kept,
                    ..
                }
            )
        }) {
            return some(
                "chosen_rollouts: say last, won_per_game or lost = \"left_out\"; \"rollouts\" are all of them",
            );
        }
        if let Err(problem) = self.optimizer.check() {
            return Some(format!("optimizer: {problem}"));
        }
        if let Some(lora) = &self.lora {
            if let Err(problem) = lora.check() {
                return Some(problem);
            }
            if self.optimizer.last_layers > 0 {
                return some(
                    "lora and last_layers exclude each other: adapters learn in every layer, and nothing else does",
                );
            }
        }
        let fresh = self.from == StartFrom::Fresh;
        if self.is_learned_once()
            && self
                .data
                .iter()
                .any(|data| !matches!(data, DataSource::Demonstrations | DataSource::Dagger))
        {
            return some("it is learned before the first rollouts, so it has none to learn from");
        }
        let (algorithm, kind) = (&self.algorithm, self.algorithm.kind());
        if fresh && algorithm.has_reference() {
            return Some(format!(
                "{kind} needs a reference: from = \"collector\", or a job"
            ));
        }
        if self.reference == ReferenceUse::Cached {
            match algorithm {
                Algorithm::Kto { .. } => {
                    return some(
                        "reference = \"cached\": kto asks the reference about pairs made anew in every batch",
                    );
                }
                _ if !algorithm.has_reference() => {
                    return Some(format!("reference = \"cached\": {kind} has none"));
                }
                _ if algorithm.alpha().is_some_and(|alpha| alpha > 0.0) => {
                    return some(
                        "reference = \"cached\": the exact KL needs it live; set alpha = 0",
                    );
                }
                _ => {}
            }
        }
        if let Some(EarlyStopping {
            share,
            every,
            patience,
        }) = self.early_stopping
            && !(share > 0.0 && share < 1.0 && every > 0 && patience > 0)
        {
            return some("early_stopping: share must be in (0, 1), every and patience above 0");
        }
        if let Some(share) = self.receptacle_dropout {
            if !(share > 0.0 && share <= 1.0) {
                return some("receptacle_dropout must be in (0, 1]");
            }
            if !matches!(
                algorithm,
                Algorithm::Sft { .. } | Algorithm::RejectionSampling { .. }
            ) {
                return Some(format!(
                    "receptacle_dropout: {kind} learns from what was played as it was played"
                ));
            }
        }
        algorithm.check().err()
    }
}

/// The policy a job starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// Random weights and a new vocabulary: learned once, before the first rollouts.
    Fresh,
    /// A job that stands before it, `from = { job = NAME }`; learned once, before the first rollouts, like that one.
    #[serde(alias = "lesson")]
    Job(String),
    /// The policy that collected this iteration's rollouts.
    Collector,
}

/// What a job reads; an episode that several sources name is read once. A name alone, or a table:
/// `data = ["demonstrations", { chosen_rollouts = { last = 2, won_per_game = 3 } }]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DataSource {
    /// The expert's episodes.
    Demonstrations,
    /// The expert's beside all students that stand before this job.
    #[serde(alias = "guided")]
    Dagger,
    /// The policy's own episodes of all iterations so far.
    Rollouts,
    /// The policy's own episodes of this iteration: online learning.
    LatestRollouts,
    /// Some of the policy's own episodes.
    #[serde(alias = "chosen_rollouts")]
    SelectedRollouts {
        /// Of the last so many iterations, this one included; 0 = all so far.
        #[serde(default)]
        last: usize,
        /// At most so many won episodes of a game, over all these iterations; 0 = all.
        #[serde(default)]
        won_per_game: usize,
        /// Which of the won episodes of a game.
        #[serde(default)]
        prefer: Prefer,
        /// What becomes of the others.
        #[serde(default)]
        lost: Lost,
    },
}

/// Which of a game's won episodes are read where not all are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// Those of the fewest turns; of two of one length the later.
    #[default]
    Shortest,
    /// Those that a draw by the recipe's seed names.
    Random,
}

/// What becomes of episodes that were not won.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// All are read.
    #[default]
    Kept,
    /// None is.
    LeftOut,
}

/// What a job minimises; the equations stand in [`crate::loss`], one file an algorithm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Algorithm {
    /// Imitation of all episodes given.
    Sft {
        /// Which tokens count.
        targets: Targets,
    },
    /// Imitation of the successful episodes only.
    RejectionSampling {
        /// Which tokens count.
        targets: Targets,
    },
    /// Soft-Bellman policy and value (arXiv 2412.16145).
    Oreo {
        /// What one action is.
        level: Level,
        /// Reward per nat.
        beta: f64,
        /// Weight of the exact KL to the reference.
        alpha: f64,
        /// Highest learning rate of the value network.
        value_learning_rate: f64,
        /// Share of the updates during which only the value network learns.
        #[serde(alias = "value_warmup")]
        critic_only_share: f64,
    },
    /// Soft Q by λ-returns, trajectories weighed by how likely the policy makes them (arXiv 2410.09302).
    Dqo {
        /// What one action is: `turn` or `token`.
        level: Level,
        /// Reward per nat.
        beta: f64,
        /// λ of the returns, in [0, 1].
        lambda: f64,
        /// Whether the process scores of failed episodes are rewards; `hearth score` writes them.
        #[serde(default)]
        process_scores: bool,
        /// Highest learning rate of the value network.
        value_learning_rate: f64,
        /// Share of the updates during which only the value network learns.
        #[serde(alias = "value_warmup")]
        critic_only_share: f64,
    },
    /// The whole episode as one action (arXiv 2405.19107).
    Dro {
        /// Reward per nat.
        beta: f64,
        /// Highest learning rate of the value network.
        value_learning_rate: f64,
        /// Share of the updates during which only the value network learns.
        #[serde(alias = "value_warmup")]
        critic_only_share: f64,
    },
    /// Preference of a won episode over a lost one of the same game (arXiv 2305.18290).
    Dpo {
        /// Reward per nat.
        beta: f64,
        /// Most pairs of one game.
        #[serde(default = "five")]
        pairs: usize,
    },
    /// Won and lost episodes against a reference point, without pairs (arXiv 2402.01306).
    Kto {
        /// Reward per nat.
        beta: f64,
        /// Weight of a won episode.
        #[serde(default = "one")]
        desirable: f64,
        /// Weight of a lost episode.
        #[serde(default = "one")]
        undesirable: f64,
    },
    /// Advantages within the episodes of one game (arXiv 2402.03300).
    Grpo {
        /// What one action is: `turn` or `token`.
        level: Level,
        /// How far from 1 a ratio of probabilities counts.
        clip: f64,
        /// Weight of the exact KL to the reference.
        alpha: f64,
    },
    /// The same, and advantages among turns that began in the same state (arXiv 2505.10978).
    Gigpo {
        /// What one action is: `turn` or `token`.
        level: Level,
        /// How far from 1 a ratio of probabilities counts.
        clip: f64,
        /// Weight of the exact KL to the reference.
        alpha: f64,
        /// γ of the returns that are compared within a state, in (0, 1].
        discount: f64,
        /// ω, weight of the advantage within a state.
        omega: f64,
    },
}

fn five() -> usize {
    5
}

fn one() -> f64 {
    1.0
}

/// How a value network learns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CriticRecipe {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Share of the updates during which only the value network learns.
    pub critic_only_share: f64,
}

impl Algorithm {
    /// Its value network's settings; `None` where it has none.
    #[must_use]
    pub fn critic(&self) -> Option<CriticRecipe> {
        match *self {
            Self::Oreo {
                value_learning_rate: learning_rate,
                critic_only_share,
                ..
            }
            | Self::Dqo {
                value_learning_rate: learning_rate,
                critic_only_share,
                ..
            }
            | Self::Dro {
                value_learning_rate: learning_rate,
                critic_only_share,
                ..
            } => Some(CriticRecipe {
                learning_rate,
                critic_only_share,
            }),
            _ => None,
        }
    }

    /// Whether it looks at the reference.
    #[must_use]
    pub fn has_reference(&self) -> bool {
        !matches!(self, Self::Sft { .. } | Self::RejectionSampling { .. })
    }

    /// Weight of the exact KL, which needs the reference's whole distribution; `None` where it has no such term.
    #[must_use]
    pub fn alpha(&self) -> Option<f64> {
        match *self {
            Self::Oreo { alpha, .. } | Self::Grpo { alpha, .. } | Self::Gigpo { alpha, .. } => {
                Some(alpha)
            }
            _ => None,
        }
    }

    /// As it is written in a recipe.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sft { .. } => "sft",
            Self::RejectionSampling { .. } => "rejection_sampling",
            Self::Oreo { .. } => "oreo",
            Self::Dqo { .. } => "dqo",
            Self::Dro { .. } => "dro",
            Self::Dpo { .. } => "dpo",
            Self::Kto { .. } => "kto",
            Self::Grpo { .. } => "grpo",
            Self::Gigpo { .. } => "gigpo",
        }
    }

    /// Returns an error that names the number that does not fit.
    fn check(&self) -> Result<(), String> {
        let within =
            |name: &str, value: f64, fits: bool, range: &str| match fits && value.is_finite() {
                true => Ok(()),
                false => Err(format!("{name} = {value} must be {range}")),
            };
        let positive = |name: &str, value: f64| within(name, value, value > 0.0, "above 0");
        let not_negative = |name: &str, value: f64| within(name, value, value >= 0.0, "0 or more");
        if let Some(CriticRecipe {
            learning_rate,
            critic_only_share,
        }) = self.critic()
        {
            not_negative("value_learning_rate", learning_rate)?;
            within(
                "critic_only_share",
                critic_only_share,
                (0.0..=1.0).contains(&critic_only_share),
                "in [0, 1]",
            )?;
        }
        if let Some(alpha) = self.alpha() {
            not_negative("alpha", alpha)?;
        }
        match *self {
            Self::Dqo { level, .. } | Self::Grpo { level, .. } | Self::Gigpo { level, .. }
                if level == Level::Response =>
            {
                return Err(format!(
                    "level = \"response\": {} has turn and token",
                    self.kind()
                ));
            }
            _ => {}
        }
        match *self {
            Self::Sft { .. } | Self::RejectionSampling { .. } => Ok(()),
            Self::Oreo { beta, .. } | Self::Dro { beta, .. } => positive("beta", beta),
            Self::Dqo { beta, lambda, .. } => {
                positive("beta", beta)?;
                within("lambda", lambda, (0.0..=1.0).contains(&lambda), "in [0, 1]")
            }
            Self::Dpo { beta, pairs } => {
                positive("beta", beta)?;
                positive("pairs", pairs as f64)
            }
            Self::Kto {
                beta,
                desirable,
                undesirable,
            } => {
                positive("beta", beta)?;
                positive("desirable", desirable)?;
                positive("undesirable", undesirable)
            }
            Self::Grpo { clip, .. } => positive("clip", clip),
            Self::Gigpo {
                clip,
                discount,
                omega,
                ..
            } => {
                positive("clip", clip)?;
                within(
                    "discount",
                    discount,
                    discount > 0.0 && discount <= 1.0,
                    "above 0, at most 1",
                )?;
                not_negative("omega", omega)
            }
        }
    }
}

/// Which tokens of an episode an imitator learns to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// Those of completions.
    Actions,
    /// All: a decoder from scratch learns the world's texts along the way.
    Transcript,
}

/// What one action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A turn's whole completion.
    Turn,
    /// Every token.
    Token,
    /// All that was written in an episode.
    Response,
}

/// How the reference's log-probabilities are had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceUse {
    /// Anew in every update: the exact KL can be had.
    #[default]
    Live,
    /// Once, before the first update; then the reference leaves the memory. Without the exact KL.
    Cached,
}

/// When a job ends before its last update: episodes of some games of `train` are held out of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Share of the games that are held out.
    pub share: f64,
    /// Updates between two looks at them.
    pub every: usize,
    /// Looks without a new best before the job ends. The weights of the best look are kept.
    pub patience: usize,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateRecipe {
    /// On which splits.
    pub splits: Vec<Split>,
    /// Games of each split; 0 = all.
    #[serde(default)]
    pub games: usize,
    /// K of the jobs with a value network; 1 is greedy and measured for every job.
    pub best_of: Vec<usize>,
    /// Sampling temperature for K above 1.
    pub temperature: f32,
}

impl Recipe {
    /// The built-in recipe of `hearth quickstart`.
    ///
    /// # Panics
    /// Never: a test reads it.
    #[must_use]
    pub fn quickstart() -> Self {
        toml::from_str(include_str!("../../recipes/quickstart.toml"))
            .expect("the built-in recipe is read by a test")
    }

    /// Reads a recipe; a relative game folder is relative to the recipe.
    ///
    /// # Errors
    /// When the file is missing, or a key is unknown, missing, misplaced or of the wrong type.
    pub fn open(path: &Path) -> Result<Self, TrainerError> {
        let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
        let mut recipe: Self = toml::from_str(&text).map_err(|e| TrainerError::content(path, e))?;
        if let GamesRecipe::Folder { path: games } = &mut recipe.games
            && games.is_relative()
            && let Some(parent) = path.parent()
        {
            *games = parent.join(&*games);
        }
        recipe
            .check()
            .map_err(|reason| TrainerError::content(path, reason))?;
        Ok(recipe)
    }

    /// Cuts games, episodes and updates down to a look at every stage; the numbers then mean nothing. So untrained a
    /// policy wins nothing, so every job reads the demonstrations too.
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
            (*train, *valid_train, *seen, *unseen) = (24, 6, 6, 6);
        }
        (
            self.demonstrations.games,
            self.collect.games,
            self.collect.repetitions,
        ) = (24, 12, 2);
        for dagger in &mut self.dagger {
            (dagger.games, dagger.repetitions) = (12, 1);
        }
        for job in &mut self.jobs {
            job.optimizer.updates = 8;
            if !job.is_learned_once() {
                job.data = vec![DataSource::Demonstrations, DataSource::Rollouts];
            }
        }
        self.evaluate.games = 6;
    }

    /// Those who are dagger before a job, by its place.
    pub fn students_before(&self, job: usize) -> impl Iterator<Item = &DaggerRecipe> {
        let stands_before =
            move |student: &str| self.jobs[..job].iter().any(|before| before.name == student);
        self.dagger
            .iter()
            .filter(move |dagger| stands_before(&dagger.student))
    }

    /// Refuses recipes that cannot be followed.
    ///
    /// # Errors
    /// Says which key does not fit.
    pub fn check(&self) -> Result<(), String> {
        let names: Vec<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
        for name in [&self.collect.policy, &self.collect.then] {
            if !names.contains(&name.as_str()) {
                return Err(format!(
                    "collect: there is no job {name:?}; jobs are {names:?}"
                ));
            }
        }
        for (index, job) in self.jobs.iter().enumerate() {
            if names[..index].contains(&job.name.as_str()) {
                return Err(format!("job {:?}: the name is taken", job.name));
            }
            job.check()?;
            if let StartFrom::Job(start) = &job.from
                && !self.jobs[..index]
                    .iter()
                    .any(|before| before.name == *start && before.is_learned_once())
            {
                let hint = "a job that stands before it and is not from = \"collector\"";
                return Err(format!(
                    "job {:?}: it cannot start from {start:?}\nhint: {hint}",
                    job.name
                ));
            }
            if job.data.contains(&DataSource::Dagger)
                && self.students_before(index).next().is_none()
            {
                let hint = "[[dagger]] student = NAME, a job that stands before it and is not from = \"collector\"";
                return Err(format!(
                    "job {:?}: nobody was dagger before it\nhint: {hint}",
                    job.name
                ));
            }
        }
        for (index, dagger) in self.dagger.iter().enumerate() {
            let student = &dagger.student;
            if !self
                .jobs
                .iter()
                .any(|job| job.name == *student && job.is_learned_once())
            {
                return Err(format!(
                    "dagger: no job {student:?} is learned before the first rollouts; jobs are {names:?}"
                ));
            }
            if dagger.repetitions == 0 {
                return Err(format!("dagger: {student:?}: repetitions must be above 0"));
            }
            if self.dagger[..index]
                .iter()
                .any(|other| other.student == *student)
            {
                return Err(format!("dagger: {student:?} stands there twice"));
            }
        }
        let collector = self.jobs.iter().find(|job| job.name == self.collect.policy);
        if collector.is_some_and(|job| !job.is_learned_once()) {
            return Err("collect.policy must be a job that is not from = \"collector\"".into());
        }
        if self.evaluate.best_of.contains(&0) || self.evaluate.best_of.is_empty() {
            return Err("evaluate.best_of: K starts at 1".into());
        }
        self.model
            .config(self.model.vocabulary)
            .check()
            .map_err(|e| e.to_string())
    }
}

/// One job as a file of its own, for `hearth train`.
///
/// # Errors
/// When the file is missing, or a key is unknown, missing, misplaced or of the wrong type.
pub fn open_job(path: &Path) -> Result<TrainConfig, TrainerError> {
    let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
    let job: TrainConfig = toml::from_str(&text).map_err(|e| TrainerError::content(path, e))?;
    job.check()
        .map_err(|reason| TrainerError::content(path, reason))?;
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_recipe_can_be_followed() {
        assert_eq!(Recipe::quickstart().check(), Ok(()));
    }

    #[test]
    fn the_quick_form_can_be_followed() {
        let mut quick = Recipe::quickstart();
        quick.shrink();
        assert_eq!(quick.check(), Ok(()));
        assert!(
            quick
                .jobs
                .iter()
                .all(|job| job.data.contains(&DataSource::Demonstrations))
        );
    }

    #[test]
    fn a_recipe_survives_its_own_file() {
        let recipe = Recipe::quickstart();
        let text = toml::to_string(&recipe).expect("writes");
        assert_eq!(toml::from_str::<Recipe>(&text).expect("reads"), recipe);
    }

    #[test]
    fn the_precision_is_written_down_whether_asked_for_or_not() {
        let mut recipe = Recipe::quickstart();
        assert!(
            recipe
                .jobs
                .iter()
                .all(|job| job.precision == Precision::F32)
        );
        recipe.jobs[1].precision = Precision::Bf16;
        let text = toml::to_string(&recipe).expect("writes");
        assert_eq!(
            (
                text.matches("precision = \"f32\"").count(),
                text.matches("precision = \"bf16\"").count()
            ),
            (2, 1)
        );
    }

    fn refused(from: &str, to: &str) -> String {
        let text = include_str!("../../recipes/quickstart.toml");
        assert!(text.contains(from), "{from} is not in the recipe");
        match toml::from_str::<Recipe>(&text.replacen(from, to, 1)) {
            Err(error) => error.to_string(),
            Ok(recipe) => recipe.check().expect_err("refused"),
        }
    }

    /// Every file of the folder can be followed, and a job in a file of its own is the one that was compared.
    #[test]
    fn the_recipes_beside_the_code_can_be_followed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let compared = Recipe::open(&folder.join("compare.toml"))
            .expect("reads")
            .jobs;
        let mut kinds: Vec<&str> = Vec::new();
        for entry in std::fs::read_dir(&folder)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").path())
        {
            let name = entry
                .file_stem()
                .and_then(|name| name.to_str())
                .expect("a name");
            if let Some(job) = compared.iter().find(|job| job.name == name) {
                assert_eq!(open_job(&entry).expect("reads"), *job, "{name}");
                kinds.push(job.algorithm.kind());
            } else {
                assert_eq!(Recipe::open(&entry).expect("reads").name, name);
            }
        }
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(
            kinds,
            [
                "dpo",
                "dqo",
                "dro",
                "gigpo",
                "grpo",
                "kto",
                "oreo",
                "rejection_sampling",
                "sft"
            ]
        );
    }

    /// What real ALFWorld is measured with: the recipes of more seeds and of the loop are the first with fewer jobs.
    #[test]
    fn the_recipes_for_real_alfworld_are_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/alfworld");
        let open = |name: &str| Recipe::open(&folder.join(name)).expect("reads");
        let mut every = open("recipe.toml");
        every.jobs.retain(|job| {
            !["rejection-sampling", "dpo", "oreo-token"].contains(&job.name.as_str())
        });
        assert_eq!(open("seeds.toml"), every);
        assert_eq!(
            open("loop.toml"),
            Recipe {
                iterations: 3,
                ..every
            }
        );
    }

    /// Without the key, a recipe is written and hashed as it was before there was one.
    #[test]
    fn how_names_stand_is_written_down_where_it_is_not_the_default() {
        let mut recipe = Recipe::quickstart();
        assert!(!toml::to_string(&recipe).expect("writes").contains("names"));
        recipe.model.numbers = NumberTokens::Digits;
        let text = toml::to_string(&recipe).expect("writes");
        assert!(text.contains("numbers = \"digits\""), "{text}");
        assert_eq!(toml::from_str::<Recipe>(&text).expect("reads"), recipe);
        assert!(
            refused("context", "numbers = \"joined\"\ncontext")
                .contains("unknown variant `joined`")
        );
    }

    /// A job's table with one line in the place of another.
    fn refused_job(file: &str, from: &str, to: &str) -> String {
        let text = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("recipes")
                .join(file),
        );
        let text = text.expect("a recipe");
        assert!(text.contains(from), "{from} is not in {file}");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("job.toml");
        std::fs::write(&path, text.replacen(from, to, 1)).expect("writes");
        let error = open_job(&path).expect_err("refused").to_string();
        assert!(
            error.starts_with(&path.display().to_string()),
            "{error} does not name the file"
        );
        error
    }

    #[test]
    fn a_lesson_that_cannot_be_followed_is_refused_by_name() {
        let oreo = |from: &str, to: &str| refused_job("oreo-turn.toml", from, to);
        assert!(oreo("beta = 0.1, ", "").contains("missing field `beta`"));
        assert!(
            oreo("beta = 0.1", "beta = \"0.1\"")
                .contains("invalid type: string \"0.1\", expected f64")
        );
        assert!(oreo("beta = 0.1", "beta = 0.0").contains("beta = 0 must be above 0"));
        assert!(oreo("beta = 0.1", "beta = 0.1, gamma = 1").contains("unknown field `gamma`"));
        assert!(oreo("level = \"turn\"", "level = \"word\"").contains("unknown variant `word`"));
        assert!(
            oreo("critic_only_share = 0.15", "critic_only_share = 1.5")
                .contains("critic_only_share = 1.5 must be in [0, 1]")
        );
        assert!(
            oreo("batch = 16", "batch = 0")
                .contains("batch, and epochs or updates, must be above 0")
        );
        assert!(
            oreo("learning_rate = 1e-4", "learning_rate = nan")
                .contains("learning_rate = NaN must be 0 or more")
        );
        assert!(
            oreo("\"collector\"", "\"fresh\"")
                .contains("learned before the first rollouts, so it has none")
        );
        assert!(
            oreo("optimizer", "reference = \"cached\"\noptimizer")
                .contains("the exact KL needs it live")
        );
        let early = "early_stopping = { share = 1.0, every = 5, patience = 2 }\noptimizer";
        assert!(oreo("optimizer", early).contains("early_stopping: share must be in (0, 1)"));
        assert!(
            oreo("optimizer", "receptacle_dropout = 0.5\noptimizer")
                .contains("receptacle_dropout: oreo learns from what was played")
        );
        assert!(
            refused_job(
                "sft.toml",
                "optimizer",
                "receptacle_dropout = 1.5\noptimizer"
            )
            .contains("receptacle_dropout must be in (0, 1]")
        );
        let lora = "lora = { rank = 4, alpha = 8.0 }\noptimizer = { last_layers = 1, ";
        assert!(oreo("optimizer = { ", lora).contains("lora and last_layers exclude each other"));
        assert!(
            refused_job("dqo.toml", "\"turn\"", "\"response\"").contains("dqo has turn and token")
        );
        assert!(
            refused_job("dqo.toml", "lambda = 0.95", "lambda = 1.5")
                .contains("lambda = 1.5 must be in [0, 1]")
        );
        assert!(
            refused_job("gigpo.toml", "discount = 0.95", "discount = 0.0")
                .contains("discount = 0 must be above 0")
        );
        let cached =
            |file: &str| refused_job(file, "optimizer", "reference = \"cached\"\noptimizer");
        assert!(cached("kto.toml").contains("kto asks the reference about pairs"));
        assert!(cached("rejection-sampling.toml").contains("rejection_sampling has none"));
    }

    #[test]
    fn rollouts_are_chosen_by_a_table_that_survives_its_file() {
        let mut recipe = Recipe::quickstart();
        let text = "data = [\"demonstrations\", { chosen_rollouts = { last = 2, won_per_game = 3, prefer = \"random\" } }]";
        let table: toml::Table = text.parse().expect("TOML");
        recipe.jobs[1].data = table["data"].clone().try_into().expect("sources");
        let expected = DataSource::SelectedRollouts {
            last: 2,
            won_per_game: 3,
            prefer: Prefer::Random,
            lost: Lost::Kept,
        };
        assert_eq!(recipe.jobs[1].data, [DataSource::Demonstrations, expected]);
        let written = toml::to_string(&recipe).expect("writes");
        assert_eq!(toml::from_str::<Recipe>(&written).expect("reads"), recipe);
        assert_eq!(recipe.check(), Ok(()));
        let from = "data = [\"rollouts\"]";
        let chosen =
            |table: &str| refused(from, &format!("data = [{{ chosen_rollouts = {table} }}]"));
        let said = chosen("{ last = 2, most = 3 }");
        assert!(said.contains("unexpected keys in table: most"), "{said}");
        assert!(chosen("{ prefer = \"longest\" }").contains("unknown variant `longest`"));
        assert!(chosen("{}").contains("chosen_rollouts: say last, won_per_game or lost"));
        assert!(
            refused("name = \"rejection-sampling\"", "name = \"eval\"")
                .contains("the name is taken"),
            "a folder of that name"
        );
    }

    #[test]
    fn a_key_stands_only_where_it_means_something() {
        assert!(refused("kind = \"sft\"", "kind = \"sft\"\nbeta = 0.1").contains("beta"));
        assert!(refused("iterations = 1", "iterations = 1\nbudget = 3").contains("budget"));
        assert!(refused("iterations = 1", "iterations = \"one\"").contains("invalid type"));
        assert!(
            refused("from = \"fresh\"", "from = \"fresh\"\nprecision = \"f16\"")
                .contains("unknown variant `f16`")
        );
        assert!(
            refused("policy = \"sft\"", "policy = \"gpt\"").contains("there is no job \"gpt\"")
        );
        assert!(refused("heads = 4", "heads = 5").contains("heads"));
    }
}
