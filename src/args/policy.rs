//! Who plays: the player that `--policy` names, and the flags that say how.

use crate::args::server::RemoteArgs;
use crate::ui;
use agent::inference::device::DeviceChoice;
use agent::model::folder::Model;
use agent::policy::ExpertPolicy;
use agent::policy::dagger::DaggerPolicy;
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::policy::remote::{RemotePolicy, ServerAddress};
use agent::rollout::NO_LOOK_AHEAD;
use anyhow::Context;
use clap::{Args, ValueHint};
use indicatif::ProgressBar;
use scenarios::{Protocol, Scorer, Task, TextVersion, Trajectory, WeightFormat, World};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use trainer::TrainerError;
use trainer::pipeline::rounds::Round;
use trainer::pipeline::shard::play_round;

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
    if (0.0..=1.0).contains(&number) {
        Ok(number)
    } else {
        Err("not between 0 and 1".into())
    }
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
    device: DeviceChoice,
    /// Most tokens held in the caches of all episodes at once; an episode that does not fit waits, and no result
    /// changes [default: what 4 GiB hold]
    #[arg(long, help_heading = "Model")]
    token_budget: Option<usize>,
}

/// Who looks on while a model plays, beside its value network.
#[derive(Args, Clone, Default)]
pub(crate) struct ReferenceArgs {
    /// A model folder with the same tokenizer, the one that the policy was trained from for instance: log-ratios against
    /// it are logged. It reads all that is read and written, about the time and memory of one more network
    #[arg(long, value_name = "MODEL", help_heading = "Best of K", value_hint = ValueHint::DirPath)]
    pub(crate) reference: Option<PathBuf>,
}

/// What the best of K is chosen by.
#[derive(Args, Clone, Default)]
pub(crate) struct ChoosingArgs {
    /// What the best of K is chosen by: `after_value`, the model's value network just after a candidate; `soft_value`,
    /// that and 0.1 ln π; `log_ratio`, the implicit advantage over `--reference`; `logprob`; `random`; or `oracle`, how near
    /// to the goal the world's own state then is, which cheats
    #[arg(
        long,
        value_name = "CHOOSER",
        default_value = "after_value",
        help_heading = "Best of K"
    )]
    pub(crate) scorer: Scorer,
    #[command(flatten)]
    pub(crate) looking_on: ReferenceArgs,
}

impl ReferenceArgs {
    fn open(&self) -> anyhow::Result<Option<Model>> {
        let open = |folder: &PathBuf| {
            let opened = Model::open(folder).map_err(TrainerError::from);
            opened.with_context(|| format!("--reference {}", folder.display()))
        };
        self.reference.as_ref().map(open).transpose()
    }

    /// Refuses a reference for who writes no tokens here.
    pub(crate) fn refuse(&self, policy: &str) -> anyhow::Result<()> {
        match &self.reference {
            None => Ok(()),
            Some(_) => Err(ui::WrongUse(format!(
                "--reference: a model folder is held against it, not {policy}"
            ))
            .into()),
        }
    }
}

impl ChoosingArgs {
    /// This protocol with K and what the best of it is chosen by.
    pub(crate) fn onto(&self, protocol: Protocol) -> Protocol {
        let scorer = if protocol.best_of > 1 {
            self.scorer
        } else {
            Scorer::default()
        };
        Protocol { scorer, ..protocol }
    }

    /// Refuses, before the first episode, what this model cannot choose by.
    fn check(&self, policy: &str, highest_k: usize, player: &LmPolicy) -> anyhow::Result<()> {
        if highest_k < 2 || player.scorers().contains(&self.scorer) {
            return Ok(());
        }
        Err(ui::WrongUse(match self.scorer {
            Scorer::LogRatio => "--choose-by log_ratio: the advantage is held against a model\n\
                                  hint: --reference MODEL, the one that the policy was trained from"
                .into(),
            _ => format!(
                "--best-of {highest_k}: {policy} holds no value network (value/)\n\
                 hint: --choose-by logprob or random needs none"
            ),
        })
        .into())
    }

    /// Refuses, before the first episode, an oracle in a world that does not tell what remains.
    pub(crate) fn check_world(
        &self,
        highest_k: usize,
        world: &dyn World,
        task: &Task,
    ) -> anyhow::Result<()> {
        if highest_k > 1 && self.scorer == Scorer::Oracle && !tells_what_remains(world, task)? {
            return Err(ui::WrongUse(format!("--choose-by oracle: {NO_LOOK_AHEAD}")).into());
        }
        Ok(())
    }
}

/// Whether an oracle can look at this game.
pub(crate) fn tells_what_remains(world: &dyn World, task: &Task) -> anyhow::Result<bool> {
    let copy = world.open(task)?.fork();
    Ok(copy.is_some_and(|copy| copy.remaining().is_some()))
}

impl HoldingArgs {
    /// The model of a folder, and who looks on.
    pub(crate) fn open(
        self,
        folder: &Path,
        looking_on: ValueUse,
        reference: &ReferenceArgs,
    ) -> anyhow::Result<LmPolicy> {
        let Self {
            weights,
            device,
            token_budget,
        } = self;
        let policy = folder.display();
        let engine = device.engine().map_err(TrainerError::from)?;
        let model = Model::open(folder)
            .map_err(TrainerError::from)
            .with_context(|| format!("--policy {policy}"))?;
        let holding = LoadOptions {
            looking_on,
            weights,
            token_budget,
            engine,
        };
        Ok(LmPolicy::with_reference(model, reference.open()?, holding)
            .map_err(TrainerError::from)?)
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
            DeviceChoice::Cpu => Ok(()),
            gpu => Err(ui::WrongUse(format!(
                "--device {gpu}: a model folder plays there, not {policy}"
            ))
            .into()),
        }
    }

    /// The protocol with what these flags say of it.
    pub(crate) fn onto(&self, protocol: Protocol) -> Protocol {
        let SamplingArgs {
            top_k,
            top_p,
            min_p,
            ..
        } = self.sampling;
        Protocol {
            top_k,
            top_p,
            min_p,
            stop: self.stop(&[]),
            weights: self.holding.weights,
            ..protocol
        }
    }

    fn stop(&self, default: &[&str]) -> Vec<String> {
        let Some(texts) = &self.sampling.stop else {
            return default.iter().map(ToString::to_string).collect();
        };
        texts
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| text.replace("\\n", "\n"))
            .collect()
    }
}

/// Who plays, from the `--policy` flag.
pub(crate) enum Player {
    Expert(ExpertPolicy),
    Model(Box<LmPolicy>),
    Remote(Box<RemotePolicy>),
    DaggerPolicy(Box<DaggerPolicy>),
}

impl Player {
    /// `expert`, a model folder, or `openai:URL#MODEL`; for K above 1 whoever it is chosen by must look on.
    pub(crate) fn open(
        policy: &str,
        highest_k: usize,
        choosing: &ChoosingArgs,
        args: &PolicyArgs,
    ) -> anyhow::Result<Self> {
        if policy.starts_with(ServerAddress::SCHEME) || policy == "expert" {
            choosing.looking_on.refuse(policy)?;
        }
        if policy.starts_with(ServerAddress::SCHEME) {
            args.refuse_device(policy)?;
            if highest_k > 1 {
                let text = "--best-of: a value network chooses the best of K, and a server has none; only K = 1 works";
                return Err(ui::WrongUse(text.into()).into());
            }
            let remote = args.remote.connect(policy, args.stop(&["\n"]))?;
            if !remote.takes_filters() && (args.sampling.top_k > 0 || args.sampling.min_p > 0.0) {
                return Err(ui::WrongUse(
                    "--top-k, --min-p: the server takes neither; --top-p it does".into(),
                )
                .into());
            }
            return Ok(Self::Remote(Box::new(remote)));
        }
        if policy == "expert" {
            args.refuse_device(policy)?;
            if highest_k > 1 {
                return Err(ui::WrongUse(
                    "--best-of: the expert writes one completion; only K = 1 makes sense".into(),
                )
                .into());
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
        let player = args
            .holding
            .open(folder, ValueUse::Score, &choosing.looking_on)?;
        choosing.check(policy, highest_k, &player)?;
        Ok(Self::Model(Box::new(player)))
    }

    /// The expert, and the model of a folder that it guides.
    pub(crate) fn guided(student: &Path, args: &PolicyArgs) -> anyhow::Result<Self> {
        Ok(Self::DaggerPolicy(Box::new(DaggerPolicy {
            student: args
                .holding
                .open(student, ValueUse::Skip, &ReferenceArgs::default())?,
        })))
    }

    pub(crate) fn context(&self) -> usize {
        match self {
            Self::Expert(_) | Self::Remote(_) => 0,
            Self::Model(player) => player.context_limit(),
            Self::DaggerPolicy(guided) => guided.student.context_limit(),
        }
    }

    /// The protocol with what only this player has.
    pub(crate) fn protocol(&self, protocol: Protocol) -> Protocol {
        match self {
            Self::Expert(_) | Self::DaggerPolicy(_) => protocol,
            Self::Model(player) => Protocol {
                reference: player.reference_name().map(str::to_owned),
                ..protocol
            },
            Self::Remote(policy) => policy.protocol(protocol),
        }
    }

    /// The text versions that a model learned from; empty where it does not tell, and for the expert, who reads both.
    pub(crate) fn learned(&self) -> BTreeSet<TextVersion> {
        match self {
            Self::Expert(_) | Self::Remote(_) => BTreeSet::new(),
            Self::Model(player) => player.text_versions.clone(),
            Self::DaggerPolicy(guided) => guided.student.text_versions.clone(),
        }
    }

    pub(crate) fn name(&self) -> String {
        use agent::policy::Policy;
        match self {
            Self::Expert(expert) => expert.name(),
            Self::Model(player) => player.name(),
            Self::DaggerPolicy(guided) => guided.name(),
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
            Self::DaggerPolicy(guided) => {
                play_round(&**guided, world, tasks, protocol, round, store, bar)
            }
            Self::Remote(policy) => {
                play_round(&**policy, world, tasks, protocol, round, store, bar)
            }
        }
    }
}
