//! `hearth bench train`: how fast jobs learn on the CPU, and in how much memory, beside PyTorch with the same weights,
//! batch, losses and optimizer, and as a share of what the machine could compute at most.
//!
//! Hearth's side is `hearth train` in a process of its own, so what is measured is what users run.

use crate::scratch::Scratch;
use crate::ui;
use agent::inference::limits::Limits;
use agent::model::config::DecoderConfig;
use agent::model::folder::Model;
use agent::model::weights::Weights;
use agent::policy::ExpertPolicy;
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum, ValueHint};
use scenarios::household::{self, GenerateOptions, Size};
use scenarios::store::Store;
use scenarios::{Protocol, Split, Task, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;
use trainer::TrainerError;
use trainer::pipeline::recipe::{Algorithm, DataSource, Recipe, StartFrom, TrainConfig};
use trainer::pipeline::run::{fresh, tokenize_texts};

/// The peer's script; it runs under a Python of the user's that has PyTorch.
const PEER: &str = include_str!("train_peer.py");
/// Tokens of the parts that the peer may cut a batch into: about what hearth does, a middle way, and not at all.
const PEER_PARTS: [usize; 3] = [640, 2048, 1 << 30];
/// Whether the peer's threads sleep or spin while they wait: spinning is faster where nothing else runs, and far slower
/// elsewhere.
const PEER_WAITING: [&str; 2] = ["PASSIVE", "ACTIVE"];
/// How far the first update's losses of the two sides may be apart, as a share.
const SAME_LOSS: f64 = 1e-4;

#[derive(Args)]
pub(crate) struct BenchTrain {
    /// Shape of the decoder, whose weights are random: the quickstart's, or SmolLM2-135M's
    #[arg(long, value_enum, default_value = "quickstart")]
    shape: Shape,
    /// Lessons of the quickstart's recipe, with commas between: sft, oreo
    #[arg(
        long,
        alias = "lessons",
        value_delimiter = ',',
        default_value = "sft,oreo"
    )]
    jobs: Vec<String>,
    /// Trajectories in an update [default: the recipe's; 2 for SmolLM2's shape]
    #[arg(long)]
    batch: Option<usize>,
    /// Updates, all of the same batch; the median of those after the first two counts
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(3..))]
    updates: u64,
    /// Readings of either side, in turn, of which the fastest counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    repetitions: u64,
    /// Python with torch and safetensors, to measure beside
    #[arg(long, value_name = "PYTHON", value_hint = ValueHint::FilePath)]
    torch: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Quickstart,
    Smollm2,
}

/// A job's speed, beside the peer or alone.
#[derive(Debug, Serialize)]
struct Row {
    /// The job.
    what: String,
    model: String,
    /// Trajectories in an update.
    batch: usize,
    /// Tokens in an update.
    tokens: usize,
    /// Tokens a second: those of the trajectories, through however many networks the job has.
    ours: f64,
    peer: Option<f64>,
    peer_name: Option<String>,
    ratio: Option<f64>,
    /// Most memory that the process held, where the system tells.
    memory_mib: Option<u64>,
    peer_memory_mib: Option<u64>,
    memory_ratio: Option<f64>,
    /// Operations of matrix products that the job needs, of what the machine could do in that time.
    share_of_peak: f64,
    /// The largest difference of a loss between the two sides, as a share: at the first update, and at any.
    first_loss_off: Option<f64>,
    loss_off: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    threads: usize,
    /// GFLOP/s in f32.
    peak: f64,
    rows: Vec<Row>,
}

/// What a job did by itself.
struct Ours {
    seconds: f64,
    losses: Vec<Losses>,
    memory_mib: Option<u64>,
}

/// By the names of the columns of metrics.csv without their beginning.
type Losses = BTreeMap<String, f64>;

/// What the peer did.
#[derive(Deserialize)]
struct Peer {
    peer: String,
    seconds: f64,
    losses: Vec<Losses>,
    memory_mib: u64,
}

/// The columns of metrics.csv that are looked at.
#[derive(Deserialize)]
struct Update {
    #[serde(rename = "loss/policy")]
    loss_policy: Option<f64>,
    #[serde(rename = "loss/value")]
    loss_value: Option<f64>,
    #[serde(rename = "loss/after_value")]
    loss_after_value: Option<f64>,
    #[serde(rename = "kl/exact")]
    kl_exact: Option<f64>,
    seconds: f64,
}

impl BenchTrain {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let limits = Limits::measure();
        let (threads, peak) = (limits.threads, limits.flop_per_s / 1e9);
        eprintln!("{threads} threads, {peak:.0} GFLOP/s");
        let mut rows = Vec::new();
        for name in &self.jobs {
            rows.push(self.row(name, limits)?);
        }
        let report = Report {
            threads,
            peak,
            rows,
        };
        if self.json {
            ui::print_json(&report)?;
        } else {
            print(&report);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn row(&self, name: &str, limits: Limits) -> anyhow::Result<Row> {
        let scratch = Scratch::new();
        let job = self.job(name)?;
        let (model, batch) = self.shape.material(job.optimizer.batch, scratch.path())?;
        let tokens: usize = batch.iter().map(Trajectory::tokens).sum();
        eprintln!(
            "{name}: {} trajectories, {tokens} tokens an update",
            batch.len()
        );
        let folder = scratch.path().join("model");
        model.save(&folder).map_err(TrainerError::from)?;
        let material = Material {
            job: &job,
            batch: &batch,
            scratch: scratch.path(),
            threads: limits.threads,
        };
        let way = self
            .torch
            .as_ref()
            .map(|python| Way::fastest(python, &material))
            .transpose()?;
        let mut ours = material.ours()?;
        let mut peer = way.as_ref().map(|way| way.take(&material)).transpose()?;
        for _ in 1..self.repetitions {
            ours.seconds = ours.seconds.min(material.ours()?.seconds);
            if let (Some(way), Some(peer)) = (&way, &mut peer) {
                peer.seconds = peer.seconds.min(way.take(&material)?.seconds);
            }
        }
        let offs = peer
            .as_ref()
            .map(|peer| differences(&ours.losses, &peer.losses))
            .transpose()?;
        let speed = |seconds: f64| tokens as f64 / seconds;
        let memory = peer
            .as_ref()
            .zip(ours.memory_mib)
            .map(|(peer, ours)| ours as f64 / peer.memory_mib as f64);
        Ok(Row {
            what: name.into(),
            model: self.shape.name().into(),
            batch: batch.len(),
            tokens,
            ours: speed(ours.seconds),
            peer: peer.as_ref().map(|peer| speed(peer.seconds)),
            peer_name: peer.as_ref().map(|peer| peer.peer.clone()),
            ratio: peer.as_ref().map(|peer| peer.seconds / ours.seconds),
            memory_mib: ours.memory_mib,
            peer_memory_mib: peer.as_ref().map(|peer| peer.memory_mib),
            memory_ratio: memory,
            share_of_peak: operations(&model.config, &batch, &job.algorithm)
                / (ours.seconds * limits.flop_per_s),
            first_loss_off: offs.map(|[first, _]| first),
            loss_off: offs.map(|[_, all]| all),
        })
    }

    /// The quickstart's job of that name, for one batch again and again; no update leaves the policy still.
    fn job(&self, name: &str) -> anyhow::Result<TrainConfig> {
        let known = Recipe::quickstart().jobs;
        let found = known
            .into_iter()
            .find(|job| job.name == name && ["sft", "oreo"].contains(&name));
        let Some(mut job) = found else {
            return Err(ui::WrongUse(format!("--jobs {name}: there are sft and oreo")).into());
        };
        (job.from, job.data) = (StartFrom::Collector, vec![DataSource::Demonstrations]);
        job.optimizer.updates = usize::try_from(self.updates)?;
        job.optimizer.batch = self.batch.unwrap_or(match self.shape {
            Shape::Quickstart => job.optimizer.batch,
            Shape::Smollm2 => 2,
        });
        if job.optimizer.batch == 0 {
            return Err(ui::WrongUse("--batch starts at 1".into()).into());
        }
        if let Algorithm::Oreo {
            critic_only_share, ..
        } = &mut job.algorithm
        {
            *critic_only_share = 0.0;
        }
        Ok(job)
    }
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Quickstart => "quickstart",
            Self::Smollm2 => "SmolLM2-135M's shape",
        }
    }

    /// A decoder, and demonstrations on as many generated games.
    fn material(self, batch: usize, scratch: &Path) -> anyhow::Result<(Model, Vec<Trajectory>)> {
        let size = match self {
            Self::Quickstart => Size::Small,
            Self::Smollm2 => Size::Full, // longer texts
        };
        let options = GenerateOptions {
            seed: 1,
            size,
            train: batch.max(48),
            ..GenerateOptions::default()
        };
        let suite = household::generate(&scratch.join("games"), &options)?;
        let tasks: Vec<&Task> = suite.split(Split::Train);
        let recipe = Recipe::quickstart();
        let protocol: Protocol = recipe.protocol.protocol(recipe.model.context, 0.0, 1);
        let slips = match self {
            Self::Quickstart => recipe.demonstrations.expert_noise,
            Self::Smollm2 => 0.5, // longer texts
        };
        let expert = ExpertPolicy { noise: slips };
        let mut played = super::inference::demonstrations(&expert, &tasks, &protocol);
        let mut model = fresh(&recipe.model, &played, 1)?;
        if self == Self::Smollm2 {
            model.config = DecoderConfig {
                vocab_size: 49_152,
                hidden_size: 576,
                intermediate_size: 1536,
                num_hidden_layers: 30,
                num_attention_heads: 9,
                num_key_value_heads: 3,
                max_position_embeddings: 2048,
                ..model.config
            };
            model.policy = Weights::random(&model.config, 1);
        }
        stir(&mut model.policy);
        if self == Self::Smollm2 {
            played.sort_by_key(|trajectory| std::cmp::Reverse(trajectory.turns.len()));
        }
        played.truncate(batch);
        tokenize_texts(&model.tokenizer, &mut played);
        Ok((model, played))
    }
}

/// Puts small numbers into matrices of zeros, with which a fresh decoder begins, so that every weight counts.
fn stir(weights: &mut Weights) {
    for tensor in weights
        .0
        .values_mut()
        .filter(|tensor| tensor.data.iter().all(|x| *x == 0.0))
    {
        let size = 0.5 / (tensor.shape.last().copied().unwrap_or(1) as f32).sqrt();
        tensor
            .data
            .iter_mut()
            .enumerate()
            .for_each(|(index, x)| *x = size * (index as f32 * 1.7).sin());
    }
}

/// Multiplications and additions of the matrix products that an update needs: two for each weight and token forwards, four
/// backwards; attention's two products over what stands before a token; logits where a loss reads them. Three networks
/// read the tokens in OREO, of which the reference has no backward pass and the value network no logits.
fn operations(config: &DecoderConfig, batch: &[Trajectory], algorithm: &Algorithm) -> f64 {
    let layer = config.hidden_size * (2 * config.query_width() + 2 * config.kv_width())
        + 3 * config.hidden_size * config.intermediate_size;
    let lengths = || batch.iter().map(|trajectory| trajectory.tokens() as f64);
    let tokens: f64 = lengths().sum();
    let seen: f64 = lengths().map(|length| length * (length + 1.0) / 2.0).sum();
    let products = (layer as f64 * tokens + 2.0 * config.query_width() as f64 * seen)
        * config.num_hidden_layers as f64;
    let written = batch
        .iter()
        .flat_map(|trajectory| &trajectory.turns)
        .map(|turn| turn.completion_tokens.len())
        .sum::<usize>();
    let logits = |positions: f64| (config.hidden_size * config.vocab_size) as f64 * positions;
    match algorithm {
        Algorithm::Oreo { .. } => {
            (2.0 + 6.0 + 6.0) * products + (2.0 + 6.0) * logits(written as f64)
        }
        _ => 6.0 * (products + logits(tokens - batch.len() as f64)),
    }
}

/// What both sides are given; the model lies in the scratch folder.
struct Material<'a> {
    job: &'a TrainConfig,
    batch: &'a [Trajectory],
    scratch: &'a Path,
    threads: usize,
}

impl Material<'_> {
    /// `hearth train` on the batch.
    fn ours(&self) -> anyhow::Result<Ours> {
        let [file, data, model, out] =
            ["job.toml", "batch.jsonl", "model", "out"].map(|name| self.scratch.join(name));
        if out.exists() {
            std::fs::remove_dir_all(&out)
                .with_context(|| format!("cannot remove {}", out.display()))?;
        } else {
            let job = toml::to_string(self.job)?;
            std::fs::write(&file, job)
                .with_context(|| format!("cannot write {}", file.display()))?;
            let (mut store, _) = Store::open(&data)?;
            self.batch
                .iter()
                .try_for_each(|trajectory| store.append(trajectory))?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("train")
            .arg(&file)
            .arg("--data")
            .arg(&data)
            .arg("--from")
            .arg(&model)
            .arg("--out")
            .arg(&out);
        let mut child = command
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start hearth")?;
        let memory_mib = highest_memory(&mut child)?;
        let status = child.wait()?;
        ensure!(
            status.success(),
            "hearth train could not learn ({status}); its words stand above"
        );
        let path = out.join("metrics.csv");
        let mut reader = csv::Reader::from_path(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let updates = reader.deserialize().collect::<Result<Vec<Update>, _>>()?;
        let seconds = super::median(
            updates
                .iter()
                .skip(2)
                .map(|update| update.seconds)
                .collect(),
        );
        Ok(Ours {
            seconds,
            losses: updates.iter().map(Update::losses).collect(),
            memory_mib,
        })
    }
}

/// The most memory that a process held until it ended, read while it runs; Linux tells.
fn highest_memory(child: &mut Child) -> anyhow::Result<Option<u64>> {
    let path = format!("/proc/{}/status", child.id());
    let mut highest = None;
    while child.try_wait()?.is_none() {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        highest = highest.max(kib);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(highest.map(|kib| kib >> 10))
}

impl Update {
    fn losses(&self) -> Losses {
        let all = [
            ("policy", self.loss_policy),
            ("value", self.loss_value),
            ("after_value", self.loss_after_value),
            ("kl", self.kl_exact),
        ];
        all.into_iter()
            .filter_map(|(name, loss)| Some((name.to_string(), loss?)))
            .collect()
    }
}

/// How the peer is fastest: into parts of how many tokens the batch is cut, and how its threads wait.
struct Way<'a> {
    python: &'a Path,
    part_tokens: usize,
    waiting: &'static str,
}

impl<'a> Way<'a> {
    fn fastest(python: &'a Path, material: &Material<'_>) -> anyhow::Result<Self> {
        let mut best: Option<(f64, Self)> = None;
        for waiting in PEER_WAITING {
            let answer = ask(python, material, &PEER_PARTS, waiting)?;
            let (seconds, part_tokens): (f64, usize) = serde_json::from_str(&answer)?;
            if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
                best = Some((
                    seconds,
                    Self {
                        python,
                        part_tokens,
                        waiting,
                    },
                ));
            }
        }
        Ok(best.context("the peer was tried")?.1)
    }

    fn take(&self, material: &Material<'_>) -> anyhow::Result<Peer> {
        Ok(serde_json::from_str(&ask(
            self.python,
            material,
            &[self.part_tokens],
            self.waiting,
        )?)?)
    }
}

/// What the peer's script says; its words go to stderr.
fn ask(
    python: &Path,
    material: &Material<'_>,
    part_tokens: &[usize],
    waiting: &str,
) -> anyhow::Result<String> {
    let Material {
        job,
        batch,
        scratch,
        threads,
    } = material;
    let turns: Vec<Vec<_>> = (batch.iter())
        .map(|trajectory| {
            trajectory
                .turns
                .iter()
                .map(|t| (&t.observation_tokens, &t.completion_tokens))
                .collect()
        })
        .collect();
    let optimizer = &job.optimizer;
    let mut order = serde_json::json!({
        "job": job.name, "batch": turns, "returns": batch.iter().map(|episode| episode.outcome.reward()).collect::<Vec<_>>(),
        "updates": optimizer.updates, "learning_rate": optimizer.learning_rate, "warmup": optimizer.warmup,
        "clip": optimizer.clip, "weight_decay": optimizer.weight_decay, "betas": optimizer.betas,
        "part_tokens": part_tokens,
    });
    if let Algorithm::Oreo {
        beta,
        alpha,
        value_learning_rate,
        ..
    } = job.algorithm
    {
        order["beta"] = beta.into();
        order["alpha"] = alpha.into();
        order["value_learning_rate"] = value_learning_rate.into();
    }
    let file = scratch.join("job.json");
    std::fs::write(&file, order.to_string())
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(python);
    command
        .arg("-")
        .arg("--folder")
        .arg(scratch.join("model"))
        .arg("--job")
        .arg(&file);
    command
        .args(["--threads", &threads.to_string()])
        .env("OMP_WAIT_POLICY", waiting);
    super::peer_says(&mut command, PEER)
}

/// The largest difference of a loss at the first update, and at any; refuses sides that do not begin alike.
fn differences(ours: &[Losses], theirs: &[Losses]) -> anyhow::Result<[f64; 2]> {
    ensure!(
        ours.len() == theirs.len(),
        "{} updates of ours, {} of the peer's",
        ours.len(),
        theirs.len()
    );
    let off = |(ours, theirs): (&Losses, &Losses)| {
        let size = theirs
            .values()
            .fold(f64::MIN_POSITIVE, |size, loss| size.max(loss.abs())); // all may be 0
        let each = theirs
            .iter()
            .map(|(name, loss)| (ours.get(name).copied().unwrap_or(f64::NAN) - loss).abs() / size);
        each.fold(
            0.0,
            |most, off| if off.is_nan() { off } else { most.max(off) },
        )
    };
    let offs: Vec<f64> = ours.iter().zip(theirs).map(off).collect();
    let first = offs[0];
    ensure!(
        first <= SAME_LOSS,
        "the two sides do not compute the same: {:?} and {:?}",
        ours[0],
        theirs[0]
    );
    Ok([first, offs.into_iter().fold(0.0, f64::max)])
}

fn print(report: &Report) {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or(String::new(), |value| format!("{value:.digits$}"))
    };
    let mib = |value: Option<u64>| value.map_or(String::new(), |value| value.to_string());
    let rows: Vec<Vec<String>> = (report.rows.iter())
        .map(|row| {
            vec![
                row.what.clone(),
                row.batch.to_string(),
                row.tokens.to_string(),
                format!("{:.0}", row.ours),
                number(row.peer, 0),
                number(row.ratio, 2),
                mib(row.memory_mib),
                mib(row.peer_memory_mib),
                number(row.memory_ratio, 2),
                format!("{:.2}", row.share_of_peak),
                row.first_loss_off
                    .map_or(String::new(), |off| format!("{off:.1e}")),
            ]
        })
        .collect();
    let header = [
        "job",
        "batch",
        "tokens",
        "tokens/s",
        "peer",
        "ratio",
        "memory MiB",
        "peer",
        "ratio",
        "share of peak",
        "first loss off by",
    ];
    ui::print_table(&header, &rows);
    if let Some(row) = report.rows.first() {
        let peer = row
            .peer_name
            .as_ref()
            .map(|name| format!(" Peer: {name}."))
            .unwrap_or_default();
        let (threads, peak) = (report.threads, report.peak);
        ui::print(&format!(
            "{}, random weights; {threads} threads, {peak:.0} GFLOP/s.{peer}\n",
            row.model
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(policy: f64, value: f64) -> Losses {
        [("policy".to_string(), policy), ("value".to_string(), value)].into()
    }

    /// Of a largest loss of 2, 0.0001 is a share of 0.00005; later updates may drift, the first may not.
    #[test]
    fn sides_that_begin_apart_are_refused() {
        let theirs = [losses(2.0, 0.5), losses(2.0, 0.5)];
        let offs = differences(&[losses(2.0, 0.5001), losses(2.0, 0.6)], &theirs).unwrap();
        assert!(
            (offs[0] - 5e-5).abs() < 1e-9 && (offs[1] - 0.05).abs() < 1e-9,
            "{offs:?}"
        );
        assert!(differences(&[losses(2.1, 0.5), losses(2.0, 0.5)], &theirs).is_err());
        assert!(differences(&[losses(2.0, f64::NAN), losses(2.0, 0.5)], &theirs).is_err());
        assert!(differences(&[losses(2.0, 0.5)], &theirs).is_err());
    }
}
