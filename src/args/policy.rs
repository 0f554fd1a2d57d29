//! The policy that `--policy` names, and the flags of how it is loaded and sampled.

use crate::args::device;
use crate::args::server::RemoteArgs;
use crate::ui;
use agent::inference::device::DeviceChoice;
use agent::model::folder::Model;
use agent::policy::dagger::DaggerPolicy;
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::policy::remote::{RemotePolicy, ServerAddress};
use agent::policy::{ExpertPolicy, Policy};
use agent::text::template::FrameOptions;
use anyhow::Context;
use clap::{Args, ValueHint};
use indicatif::ProgressBar;
use scenarios::expert::goal_object;
use scenarios::{
    ActionFormat, DistinctBy, KvFormat, Protocol, Scorer, Task, TextVersion, Thinking, Trajectory,
    WeightFormat, World,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use trainer::TrainerError;
use trainer::measure::card::NamedCard;
use trainer::measure::play_notes::play_notes;
use trainer::pipeline::rounds::Round;
use trainer::pipeline::shard::play_round;

/// How a model's completions are sampled, besides the temperature.
#[derive(Args)]
pub(crate) struct SamplingArgs {
    /// Sample among this many of the most likely tokens; 0 means all
    #[arg(long, default_value_t = 0, help_heading = "Sampling")]
    pub(crate) top_k: usize,
    /// Sample among the fewest most likely tokens whose probabilities sum to this
    #[arg(long, default_value_t = 1.0, help_heading = "Sampling", value_parser = share)]
    pub(crate) top_p: f32,
    /// Sample among tokens with at least this share of the highest token probability
    #[arg(long, default_value_t = 0.0, help_heading = "Sampling", value_parser = share)]
    pub(crate) min_p: f32,
    /// End a completion before this text (`\n` means a line break); can be repeated, and an empty
    /// text means none [default: none for a model folder, `\n` for a server with the action format
    /// `plain`]
    #[arg(long, value_name = "TEXT", help_heading = "Sampling")]
    stop: Option<Vec<String>>,
}

/// Parses a number from 0 to 1.
fn share(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|_| "not a number".to_string())?;
    if (0.0..=1.0).contains(&number) {
        Ok(number)
    } else {
        Err("not between 0 and 1".into())
    }
}

/// How the turns of a model are framed.
#[derive(Args, Clone, Default)]
pub(crate) struct FrameArgs {
    /// Jinja file with a chat template to use in place of the model's own
    #[arg(long, value_name = "FILE", help_heading = "Model", value_hint = ValueHint::FilePath)]
    template: Option<PathBuf>,
    /// Whether a model thinks before its command: `on` or `off` by the switch of its chat template (`off` also closes a
    /// thought that the template opens), or `keep` for what the template does by itself; thoughts are part of
    /// the completion [default: what the model was trained with, else keep]
    #[arg(long, help_heading = "Model")]
    thinking: Option<Thinking>,
}

impl FrameArgs {
    /// Opens a model folder or a GGUF file with these frames.
    ///
    /// # Errors
    /// If the model is not usable, or the chat template does not fit.
    pub(crate) fn open(&self, path: &Path) -> Result<Model, TrainerError> {
        let options = FrameOptions {
            template: self.template.clone(),
            thinking: self.thinking,
        };
        Ok(Model::open_framed(path, &options)?)
    }
}

/// Prints how turns are framed, if it is not by the model's chat template as it is.
pub(crate) fn note_frames(model: &Model) {
    if let Some(reason) = &model.companions.reframed {
        let source = model.companions.frame_source;
        eprintln!("note: turns are framed {source}: {reason}");
    }
}

/// How a model folder is loaded.
#[derive(Args, Clone)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    frames: FrameArgs,
    /// Format of the model's matrices: `exact` (16 bits if that loses nothing), or rounded to
    /// `f16`, `bf16` or `q8`; part of the protocol
    #[arg(long, default_value = "exact", help_heading = "Model")]
    pub(crate) weights: WeightFormat,
    /// Format of keys and values in memory: `exact`, or on the CPU rounded to `f16`, which needs half
    /// the memory; part of the protocol
    #[arg(long, default_value = "exact", help_heading = "Model")]
    pub(crate) kv: KvFormat,
    /// Device of a model folder: `cpu`, or a GPU that `hearth doctor` lists, such as `cuda` or
    /// `vulkan:1`, or `auto`, the first GPU, else the CPU. On a GPU weights are `exact`, which are
    /// f32 there, or `bf16`. Results differ only by rounding
    #[arg(long, default_value_t, value_parser = device::read, help_heading = "Model")]
    device: DeviceChoice,
    /// Maximum number of tokens in the KV caches of all episodes; an episode waits if it does not
    /// fit, and results do not change [default: 4 GiB of tokens]
    #[arg(long, help_heading = "Model")]
    token_budget: Option<usize>,
}

/// The reference policy that scores tokens beside a model.
#[derive(Args, Clone, Default)]
pub(crate) struct ReferenceArgs {
    /// Model folder of a reference policy with the same tokenizer, for example the one that
    /// training started from; adds log-ratios to the log and costs one more forward pass per token
    #[arg(long, value_name = "MODEL", help_heading = "Best of K", value_hint = ValueHint::DirPath)]
    pub(crate) reference: Option<PathBuf>,
}

/// How the candidates of best-of-K are counted and scored, besides the name of the scorer.
#[derive(Args, Clone, Copy, Default)]
pub(crate) struct CandidateArgs {
    /// Factor of ln π in the scorer `soft_value`, in reward units per nat [default: 0.1]
    #[arg(long, value_name = "BETA", help_heading = "Best of K", value_parser = factor)]
    pub(crate) soft_value_beta: Option<f32>,
    /// Which candidates count as one: those with the same `tokens`, or with the same `command`; of
    /// these the most likely one is kept [default: tokens]
    #[arg(long, value_name = "BY", help_heading = "Best of K")]
    pub(crate) distinct_by: Option<DistinctBy>,
}

impl CandidateArgs {
    /// Refuses a factor that none of these scorers uses.
    ///
    /// # Errors
    /// If `--soft-value-beta` is set and `soft_value` is not among the scorers.
    pub(crate) fn check(self, scorers: &[Scorer]) -> anyhow::Result<()> {
        if self.soft_value_beta.is_none() || scorers.contains(&Scorer::SoftValue) {
            return Ok(());
        }
        let text = "--soft-value-beta: only the scorer soft_value uses it\n\
                    hint: add --scorer soft_value";
        Err(ui::WrongUse(text.into()).into())
    }

    /// Returns the protocol with these settings, as far as they have an effect: none if K is 1.
    pub(crate) fn apply(self, protocol: Protocol) -> Protocol {
        let default = Protocol::default();
        let is_selected = protocol.best_of > 1;
        let uses_beta = is_selected && protocol.scorer == Scorer::SoftValue;
        Protocol {
            soft_value_beta: self
                .soft_value_beta
                .filter(|_| uses_beta)
                .unwrap_or(default.soft_value_beta),
            distinct_by: self
                .distinct_by
                .filter(|_| is_selected)
                .unwrap_or(default.distinct_by),
            ..protocol
        }
    }
}

/// Parses a number that is at least 0 and finite.
fn factor(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|_| "not a number".to_string())?;
    if number >= 0.0 && number.is_finite() {
        Ok(number)
    } else {
        Err("not a finite number from 0".into())
    }
}

/// What selects among K candidates.
#[derive(Args, Clone, Default)]
pub(crate) struct ScorerArgs {
    /// Select the best of K by `after_value` (value network after the candidate), `soft_value`
    /// (that plus 0.1 ln π, see --soft-value-beta), `log_ratio` (implicit advantage over
    /// --reference), `logprob`, `random` (one of the K samples), `distinct` (one of the distinct
    /// candidates: what a scorer without information reaches), `expert` (the command of the expert,
    /// which reads text alone, if it is among the candidates), or `oracle` (clairvoyant: reads the
    /// hidden distance to the goal, not a fair comparison)
    #[arg(
        long,
        alias = "choose-by",
        value_name = "SCORER",
        default_value = "after_value",
        help_heading = "Best of K"
    )]
    pub(crate) scorer: Scorer,
    #[command(flatten)]
    pub(crate) candidates: CandidateArgs,
    #[command(flatten)]
    pub(crate) reference: ReferenceArgs,
}

impl ReferenceArgs {
    fn open(&self) -> anyhow::Result<Option<Model>> {
        let Some(folder) = &self.reference else {
            return Ok(None);
        };
        Model::open(folder)
            .map(Some)
            .map_err(TrainerError::from)
            .with_context(|| format!("--reference {}", folder.display()))
    }

    /// Refuses a reference for a policy that is no model folder.
    ///
    /// # Errors
    /// If `--reference` is set.
    pub(crate) fn refuse(&self, policy: &str) -> anyhow::Result<()> {
        match &self.reference {
            None => Ok(()),
            Some(_) => Err(ui::WrongUse(format!(
                "--reference: only a model folder can have a reference, not {policy}"
            ))
            .into()),
        }
    }
}

impl LoadArgs {
    /// Opens the model of a folder with its value network and its reference.
    ///
    /// # Errors
    /// If a model or the device is not usable.
    pub(crate) fn open(
        &self,
        folder: &Path,
        value: ValueUse,
        reference: &ReferenceArgs,
    ) -> anyhow::Result<LmPolicy> {
        let options = LoadOptions {
            value_use: value,
            weights: self.weights,
            kv: self.kv,
            token_budget: self.token_budget,
            backend: self.device.backend().map_err(TrainerError::from)?,
        };
        let model = self.frames.open(folder);
        let model = model.with_context(|| format!("--policy {}", folder.display()))?;
        note_frames(&model);
        Ok(LmPolicy::with_reference(model, reference.open()?, options)
            .map_err(TrainerError::from)?)
    }
}

/// How the policy of `--policy` is sampled, loaded, or reached.
#[derive(Args)]
pub(crate) struct PolicyArgs {
    /// Where a completion of a model or a server contains its command: `plain` (all of it is the command), `react` (a
    /// line after `Action:`), `tags` (inside `<action>`), or `auto` (any of these, a line after `>`, or in
    /// backticks); part of the protocol [default: plain]
    #[arg(long, value_name = "FORMAT")]
    action_format: Option<ActionFormat>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl PolicyArgs {
    /// Refuses flags that only a model folder has: another device, and other frames of turns.
    ///
    /// # Errors
    /// If one of them is set.
    pub(crate) fn refuse_model_flags(&self, policy: &str) -> anyhow::Result<()> {
        let frames = &self.load.frames;
        for (flag, is_set) in [
            ("--template", frames.template.is_some()),
            ("--thinking", frames.thinking.is_some()),
        ] {
            if is_set {
                return Err(ui::WrongUse(format!(
                    "{flag}: only a model folder has it, not {policy}"
                ))
                .into());
            }
        }
        match self.load.device {
            DeviceChoice::Cpu => Ok(()),
            gpu => Err(ui::WrongUse(format!(
                "--device {gpu}: only a model folder can run there, not {policy}"
            ))
            .into()),
        }
    }

    /// Returns where a completion of a model or a server contains its command: the flag comes first, then the card.
    pub(crate) fn action_format(&self, card: Option<NamedCard>) -> ActionFormat {
        self.action_format
            .or(card.map(NamedCard::action_format))
            .unwrap_or_default()
    }

    /// Returns the texts that end a completion: those of `--stop`, else the default.
    pub(crate) fn stop(&self, default: &[&str]) -> Vec<String> {
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

/// The three kinds of `--policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyKind {
    /// `expert`.
    Expert,
    /// `openai:URL#MODEL`.
    Server,
    /// A model folder.
    Folder,
}

impl PolicyKind {
    /// Returns the kind of a `--policy` value, without opening anything.
    pub(crate) fn of(policy: &str) -> Self {
        if policy.starts_with(ServerAddress::SCHEME) {
            Self::Server
        } else if policy == "expert" {
            Self::Expert
        } else {
            Self::Folder
        }
    }
}

/// An open policy.
pub(crate) enum Player {
    /// The planner that demonstrates.
    Expert(ExpertPolicy),
    /// A model folder.
    Model(Box<LmPolicy>),
    /// A model on a server.
    Remote(Box<RemotePolicy>),
    /// The expert together with a learner whose states it labels.
    Dagger(Box<DaggerPolicy>),
}

/// Returns a message about the games whose task sentence the expert does not know. There it only looks.
fn unread_tasks(episodes: &[Trajectory]) -> Option<String> {
    let opening = |episode: &Trajectory| Some(episode.turns.first()?.observation.clone());
    let unread: Vec<&Trajectory> = episodes
        .iter()
        .filter(|episode| opening(episode).is_some_and(|text| goal_object(&text).is_none()))
        .collect();
    let first = unread.first()?;
    Some(format!(
        "the expert does not know the task sentence of {} of {} episodes, so it only looks there; the first: {}\n\
         hint: it knows ALFWorld's own sentences, not tasks in free words; a model can play such games",
        unread.len(),
        episodes.len(),
        first.game
    ))
}

impl Player {
    /// Opens `expert`, a model folder, or `openai:URL#MODEL`.
    ///
    /// # Errors
    /// If the policy is not usable, or a flag does not apply to it.
    pub(crate) fn open(
        policy: &str,
        reference: &ReferenceArgs,
        args: &PolicyArgs,
        card: Option<NamedCard>,
    ) -> anyhow::Result<Self> {
        match PolicyKind::of(policy) {
            PolicyKind::Server => {
                reference.refuse(policy)?;
                args.refuse_model_flags(policy)?;
                Self::connect(policy, args, card)
            }
            PolicyKind::Expert => {
                reference.refuse(policy)?;
                args.refuse_model_flags(policy)?;
                Ok(Self::Expert(ExpertPolicy::default()))
            }
            PolicyKind::Folder => {
                let folder = Path::new(policy);
                if !folder.exists() {
                    return Err(ui::WrongUse(format!(
                        "--policy {policy}: neither `expert` nor a model folder nor a GGUF file nor \
                         openai:URL#MODEL\n{FOLDER_HINT}"
                    ))
                    .into());
                }
                let model = args.load.open(folder, ValueUse::Score, reference)?;
                Ok(Self::Model(Box::new(model)))
            }
        }
    }

    fn connect(policy: &str, args: &PolicyArgs, card: Option<NamedCard>) -> anyhow::Result<Self> {
        // In the other formats the command may come after the first line.
        let stop: &[&str] = match args.action_format(card) {
            ActionFormat::Plain => &["\n"],
            ActionFormat::React | ActionFormat::Tags | ActionFormat::Auto => &[],
        };
        let remote = args.remote.connect(policy, args.stop(stop))?;
        if !remote.takes_filters() && (args.sampling.top_k > 0 || args.sampling.min_p > 0.0) {
            return Err(ui::WrongUse(
                "--top-k, --min-p: this server accepts neither\nhint: it accepts --top-p".into(),
            )
            .into());
        }
        Ok(Self::Remote(Box::new(remote)))
    }

    /// Opens the expert together with the learner of a model folder (DAgger).
    ///
    /// # Errors
    /// If the model is not usable.
    pub(crate) fn dagger(student: &Path, args: &PolicyArgs) -> anyhow::Result<Self> {
        Ok(Self::Dagger(Box::new(DaggerPolicy {
            student: args
                .load
                .open(student, ValueUse::Skip, &ReferenceArgs::default())?,
        })))
    }

    /// Returns messages about what a success rate of these episodes hides.
    pub(crate) fn notes(&self, episodes: &[Trajectory]) -> Vec<String> {
        let mut notes = play_notes(episodes);
        match self {
            Self::Remote(remote) => notes.extend(remote.closing_notes()),
            Self::Expert(_) | Self::Dagger(_) => notes.extend(unread_tasks(episodes)),
            Self::Model(_) => {}
        }
        notes
    }

    /// Returns the maximum number of tokens in the context; 0 if the policy reads text.
    pub(crate) fn context(&self) -> usize {
        match self {
            Self::Expert(_) | Self::Remote(_) => 0,
            Self::Model(model) => model.context_limit(),
            Self::Dagger(dagger) => dagger.student.context_limit(),
        }
    }

    /// Returns the text versions that a model was trained on. The set is empty if the model does
    /// not record them, and for the expert, which reads both.
    pub(crate) fn learned(&self) -> BTreeSet<TextVersion> {
        match self {
            Self::Expert(_) | Self::Remote(_) => BTreeSet::new(),
            Self::Model(model) => model.text_versions.clone(),
            Self::Dagger(dagger) => dagger.student.text_versions.clone(),
        }
    }

    /// Returns the name of the policy in logs, such as its hash.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Expert(expert) => expert.name(),
            Self::Model(model) => model.name(),
            Self::Dagger(dagger) => dagger.name(),
            Self::Remote(remote) => remote.name(),
        }
    }

    /// Plays a round; see [`play_round`].
    ///
    /// # Errors
    /// Those of [`play_round`].
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
            Self::Model(model) => play_round(&**model, world, tasks, protocol, round, store, bar),
            Self::Dagger(dagger) => {
                play_round(&**dagger, world, tasks, protocol, round, store, bar)
            }
            Self::Remote(remote) => {
                play_round(&**remote, world, tasks, protocol, round, store, bar)
            }
        }
    }
}

/// Added to a message if a path is no model folder.
pub(crate) const FOLDER_HINT: &str =
    "hint: a model folder contains config.json, tokenizer.json and model.safetensors";
