//! Who plays: the player that `--policy` names, and the flags that say how.

use crate::remote::RemoteArgs;
use crate::ui;
use agent::device::Hardware;
use agent::guided::Guided;
use agent::model::Model;
use agent::model_player::{Holding, LookingOn, ModelPlayer};
use agent::player::ExpertPolicy;
use agent::remote::{Address, RemotePolicy};
use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use scenarios::{Protocol, Task, TextVersion, Trajectory, WeightFormat, World};
use std::collections::BTreeSet;
use std::path::Path;
use trainer::TrainerError;
use trainer::evaluate::{Round, play_round};

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
    /// Text that ends a completion and is no part of it, `\n` for a new line; may be given several times, empty for
    /// none [default: none for a model folder, `\n` for a server]
    #[arg(long, value_name = "TEXT", help_heading = "Sampling")]
    stop: Option<Vec<String>>,
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
    pub(crate) weights: WeightFormat,
    /// Where a model folder plays: `cpu`, or in a build with CUDA an NVIDIA GPU, `cuda` or `cuda:N`, with `--weights`
    /// `exact`, which is f32 there, or `bf16`; changes the speed, and numbers by rounding
    #[arg(long, default_value_t, help_heading = "Model")]
    device: Hardware,
    /// Most tokens held in the caches of all episodes at once; an episode that does not fit waits, and no result
    /// changes [default: what 4 GiB hold]
    #[arg(long, help_heading = "Model")]
    token_budget: Option<usize>,
}

impl HoldingArgs {
    /// The model of a folder; for K above 1 there must be a value network.
    pub(crate) fn open(self, folder: &Path, highest_k: usize, looking_on: LookingOn) -> anyhow::Result<ModelPlayer> {
        let Self { weights, device, token_budget } = self;
        let policy = folder.display();
        let engine = device.engine().map_err(TrainerError::from)?;
        let model = Model::open(folder).map_err(TrainerError::from).with_context(|| format!("--policy {policy}"))?;
        if highest_k > 1 && model.value.is_none() {
            return Err(ui::WrongUse(format!("--best-of {highest_k}: {policy} holds no value network (value/)")).into());
        }
        let holding = Holding { looking_on, weights, token_budget, engine };
        Ok(ModelPlayer::new(model, holding).map_err(TrainerError::from)?)
    }
}

/// How the player of `--policy` plays.
#[derive(Args)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    holding: HoldingArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl PolicyArgs {
    /// Refuses a device for who needs none.
    pub(crate) fn refuse_device(&self, policy: &str) -> anyhow::Result<()> {
        match self.holding.device {
            Hardware::Cpu => Ok(()),
            gpu => Err(ui::WrongUse(format!("--device {gpu}: a model folder plays there, not {policy}")).into()),
        }
    }

    /// The protocol with what these flags say of it.
    pub(crate) fn onto(&self, protocol: Protocol) -> Protocol {
        let SamplingArgs { top_k, top_p, min_p, .. } = self.sampling;
        Protocol { top_k, top_p, min_p, stop: self.stop(&[]), weights: self.holding.weights, ..protocol }
    }

    fn stop(&self, default: &[&str]) -> Vec<String> {
        let Some(texts) = &self.sampling.stop else { return default.iter().map(ToString::to_string).collect() };
        texts.iter().filter(|text| !text.is_empty()).map(|text| text.replace("\\n", "\n")).collect()
    }
}

/// Who plays, from the `--policy` flag.
pub(crate) enum Player {
    Expert(ExpertPolicy),
    Model(Box<ModelPlayer>),
    Remote(Box<RemotePolicy>),
    Guided(Box<Guided>),
}

impl Player {
    /// `expert`, a model folder, or `openai:URL#MODEL`; for K above 1 there must be a value network.
    pub(crate) fn open(policy: &str, highest_k: usize, args: &PolicyArgs) -> anyhow::Result<Self> {
        if policy.starts_with(Address::SCHEME) {
            args.refuse_device(policy)?;
            if highest_k > 1 {
                let text = "--best-of: a value network chooses the best of K, and a server has none; only K = 1 works";
                return Err(ui::WrongUse(text.into()).into());
            }
            let remote = args.remote.connect(policy, args.stop(&["\n"]))?;
            if !remote.takes_filters() && (args.sampling.top_k > 0 || args.sampling.min_p > 0.0) {
                return Err(ui::WrongUse("--top-k, --min-p: the server takes neither; --top-p it does".into()).into());
            }
            return Ok(Self::Remote(Box::new(remote)));
        }
        if policy == "expert" {
            args.refuse_device(policy)?;
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
                "--policy {policy}: neither `expert` nor a model folder nor openai:URL#MODEL\nhint: a model folder holds config.json, tokenizer.json and model.safetensors"
            );
            return Err(ui::WrongUse(text).into());
        }
        Ok(Self::Model(Box::new(args.holding.open(folder, highest_k, LookingOn::Value)?)))
    }

    /// The expert, and the model of a folder that it guides.
    pub(crate) fn guided(student: &Path, args: &PolicyArgs) -> anyhow::Result<Self> {
        Ok(Self::Guided(Box::new(Guided { student: args.holding.open(student, 1, LookingOn::Nobody)? })))
    }

    pub(crate) fn context(&self) -> usize {
        match self {
            Self::Expert(_) | Self::Remote(_) => 0,
            Self::Model(player) => player.context_limit(),
            Self::Guided(guided) => guided.student.context_limit(),
        }
    }

    /// The protocol with what only this player has.
    pub(crate) fn protocol(&self, protocol: Protocol) -> Protocol {
        match self {
            Self::Expert(_) | Self::Model(_) | Self::Guided(_) => protocol,
            Self::Remote(policy) => policy.protocol(protocol),
        }
    }

    /// The text versions that a model learned from; empty where it does not tell, and for the expert, who reads both.
    pub(crate) fn learned(&self) -> BTreeSet<TextVersion> {
        match self {
            Self::Expert(_) | Self::Remote(_) => BTreeSet::new(),
            Self::Model(player) => player.text_versions.clone(),
            Self::Guided(guided) => guided.student.text_versions.clone(),
        }
    }

    pub(crate) fn name(&self) -> String {
        use agent::player::Policy;
        match self {
            Self::Expert(expert) => expert.name(),
            Self::Model(player) => player.name(),
            Self::Guided(guided) => guided.name(),
            Self::Remote(policy) => policy.name(),
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
            Self::Guided(guided) => play_round(&**guided, world, tasks, protocol, round, store, bar),
            Self::Remote(policy) => play_round(&**policy, world, tasks, protocol, round, store, bar),
        }
    }
}
