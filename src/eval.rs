//! `hearth eval`: every game of the named splits once, the table with intervals, the protocol beside the number.

use crate::ui;
use crate::worlds::WorldArgs;
use agent::episode::Pool;
use agent::model::Model;
use agent::model_player::{Holding, LookingOn, ModelPlayer};
use agent::player::ExpertPolicy;
use anyhow::Context;
use clap::{Args, ValueHint};
use indicatif::ProgressBar;
use scenarios::{Precision, Protocol, Split, Suite, Task, TextVersion, Trajectory, World};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use trainer::TrainerError;
use trainer::evaluate::{self, Round, Row, play_round};

#[derive(Args)]
pub(crate) struct Eval {
    /// Who plays: `expert`, or a model folder
    #[arg(long)]
    policy: String,
    /// Folder of games (ALFWorld's layout, or SPLIT/NAME.z8) or manifest
    #[arg(long, value_hint = ValueHint::AnyPath)]
    suite: PathBuf,
    /// Splits, with commas between
    #[arg(long, value_delimiter = ',', default_value = "valid_seen,valid_unseen")]
    split: Vec<Split>,
    /// K, with commas between: 1 is greedy, above 1 the best of K sampled completions by the model's value network
    #[arg(long, value_delimiter = ',', default_value = "1")]
    best_of: Vec<usize>,
    /// Sampling temperature for K above 1
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    #[command(flatten)]
    played: Played,
    /// Seed of the episodes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for eval.csv and the episodes; episodes that stand there already are not played again
    #[arg(long, value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    world: WorldArgs,
}

/// How episodes are played, for `eval` and `collect`.
#[derive(Args)]
pub(crate) struct Played {
    /// Most turns in an episode
    #[arg(long, default_value_t = 40)]
    turns: usize,
    /// Most tokens in one completion
    #[arg(long, default_value_t = 24)]
    completion: usize,
    /// Show the admissible commands to the policy: a different protocol
    #[arg(long)]
    show_admissible: bool,
    /// Episodes at once; changes the speed, not the result [default: 32 a core]
    #[arg(long)]
    episodes: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) holding: HoldingArgs,
}

/// What a model's completions are sampled by, beside the temperature.
#[derive(Args)]
pub(crate) struct SamplingArgs {
    /// Sample among this many likeliest tokens; 0 = all
    #[arg(long, default_value_t = 0, help_heading = "Sampling")]
    top_k: usize,
    /// Sample among the fewest likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, help_heading = "Sampling", value_parser = share)]
    top_p: f32,
    /// Sample among tokens of at least this share of the likeliest one's probability
    #[arg(long, default_value_t = 0.0, help_heading = "Sampling", value_parser = share)]
    min_p: f32,
    /// Text that ends a completion and is no part of it; may be given several times
    #[arg(long, help_heading = "Sampling", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|_| "not a number".to_string())?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("not between 0 and 1".into()) }
}

/// How a model is held while it plays.
#[derive(Args, Clone, Copy)]
pub(crate) struct HoldingArgs {
    /// Numbers of the model's matrices: `exact` (in 16 bits where that changes nothing), or rounded to `f16`, `bf16` or
    /// `q8`; part of the protocol
    #[arg(long, default_value = "exact", help_heading = "Model")]
    pub(crate) weights: Precision,
    /// Most tokens held in the caches of all episodes at once; an episode that does not fit waits, and no result
    /// changes [default: what 4 GiB hold]
    #[arg(long, help_heading = "Model")]
    token_budget: Option<usize>,
}

impl SamplingArgs {
    pub(crate) fn onto(&self, protocol: Protocol) -> Protocol {
        let Self { top_k, top_p, min_p, ref stop } = *self;
        Protocol { top_k, top_p, min_p, stop: stop.clone(), ..protocol }
    }
}

#[derive(Serialize)]
struct Measured {
    rows: Vec<Row>,
    protocols: Vec<Protocol>,
    suite: String,
    policy_hash: String,
    seed: u64,
    seconds: f64,
    run: PathBuf,
}

impl Played {
    pub(crate) fn pool(&self) -> Pool {
        let pool = Pool::default();
        Pool { episodes: self.episodes.unwrap_or(pool.episodes), ..pool }
    }

    pub(crate) fn protocol(&self, context_limit: usize, temperature: f32, best_of: usize) -> Protocol {
        self.sampling.onto(Protocol {
            turn_limit: self.turns,
            context_limit,
            completion_limit: self.completion,
            temperature,
            weights: self.holding.weights,
            best_of,
            admissible_shown: self.show_admissible,
            ..Protocol::default()
        })
    }
}

/// Who plays, from the `--policy` flag.
pub(crate) enum Player {
    Expert(ExpertPolicy),
    Model(Box<ModelPlayer>),
}

impl Player {
    /// `expert`, or a model folder; for K above 1 it must hold a value network.
    pub(crate) fn open(policy: &str, highest_k: usize, holding: HoldingArgs) -> anyhow::Result<Self> {
        if policy == "expert" {
            if highest_k > 1 {
                return Err(
                    ui::WrongUse("--best-of: the expert writes one completion; only K = 1 makes sense".into()).into()
                );
            }
            return Ok(Self::Expert(ExpertPolicy::default()));
        }
        let folder = Path::new(policy);
        if !folder.is_dir() {
            let text = format!(
                "--policy {policy}: neither `expert` nor a model folder\nhint: a model folder holds config.json, tokenizer.json and model.safetensors"
            );
            return Err(ui::WrongUse(text).into());
        }
        let model = Model::open(folder).map_err(TrainerError::from).with_context(|| format!("--policy {policy}"))?;
        if highest_k > 1 && model.value.is_none() {
            return Err(ui::WrongUse(format!("--best-of {highest_k}: {policy} holds no value network (value/)")).into());
        }
        let HoldingArgs { weights, token_budget } = holding;
        let holding = Holding { looking_on: LookingOn::Value, weights, token_budget };
        Ok(Self::Model(Box::new(ModelPlayer::new(model, holding).map_err(TrainerError::from)?)))
    }

    pub(crate) fn context(&self) -> usize {
        match self {
            Self::Expert(_) => 0,
            Self::Model(player) => player.context_limit(),
        }
    }

    /// The text versions that a model learned from; empty where it does not tell, and for the expert, who reads both.
    pub(crate) fn learned(&self) -> BTreeSet<TextVersion> {
        match self {
            Self::Expert(_) => BTreeSet::new(),
            Self::Model(player) => player.text_versions.clone(),
        }
    }

    pub(crate) fn name(&self) -> String {
        use agent::player::Policy;
        match self {
            Self::Expert(expert) => expert.name(),
            Self::Model(player) => player.name(),
        }
    }

    pub(crate) fn play(
        &self,
        world: &dyn World,
        tasks: &[&Task],
        protocol: &Protocol,
        round: Round,
        store: &Path,
        bar: &ProgressBar,
    ) -> Result<Vec<Trajectory>, TrainerError> {
        match self {
            Self::Expert(expert) => play_round(expert, world, tasks, protocol, round, store, bar),
            Self::Model(player) => play_round(&**player, world, tasks, protocol, round, store, bar),
        }
    }
}

impl Eval {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let highest = self.best_of.iter().copied().max().unwrap_or(1);
        if self.best_of.contains(&0) {
            return Err(ui::WrongUse("--best-of: K starts at 1".into()).into());
        }
        let suite = Suite::open(&self.suite)?;
        crate::games::say_faults(&suite);
        let mut tasks: Vec<&Task> = Vec::new();
        for split in &self.split {
            let games = suite.split(*split);
            if games.is_empty() {
                return Err(ui::WrongUse(format!("{} has no games in {split}", self.suite.display())).into());
            }
            tasks.extend(games);
        }
        let player = Player::open(&self.policy, highest, self.played.holding)?;
        let translated_to = self.world.translation(&self.policy, &player.learned(), &tasks)?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("cannot use {}", self.out.display()))?;
        let opened = self.world.open(tasks.len())?;
        let speaking = opened.speaking(translated_to);
        let (mut rows, mut protocols) = (Vec::new(), Vec::new());
        for k in &self.best_of {
            let temperature = if *k == 1 { 0.0 } else { self.temperature };
            let protocol = Protocol { translated_to, ..self.played.protocol(player.context(), temperature, *k) };
            let round = Round { repetitions: 1, seed: self.seed, pool: self.played.pool() };
            let bar = ui::bar(&format!("evaluate, K = {k}"));
            let store = self.out.join(format!("episodes-k{k}.jsonl"));
            let played = player.play(speaking.world(), &tasks, &protocol, round, &store, &bar)?;
            bar.finish();
            rows.extend(evaluate::table(&self.policy, *k, &played));
            protocols.push(protocol);
        }
        opened.say_losses();
        evaluate::write_csv(&self.out.join("eval.csv"), &rows)?;
        let measured = Measured {
            rows,
            protocols,
            suite: suite.hash(),
            policy_hash: player.name(),
            seed: self.seed,
            seconds: started.elapsed().as_secs_f64(),
            run: self.out,
        };
        let path = measured.run.join("eval.json");
        let text = serde_json::to_string_pretty(&measured)?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot use {}", path.display()))?;
        if self.json {
            ui::print_json(&measured)?;
        } else {
            ui::print_rows(&measured.rows);
            for protocol in &measured.protocols {
                ui::print(&format!("K = {}: {}\n", protocol.best_of, evaluate::protocol_line(protocol)));
            }
            ui::print(&format!(
                "suite {}, policy {}, seed {}\n",
                &measured.suite[..16],
                measured.policy_hash,
                measured.seed
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
