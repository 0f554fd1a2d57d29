//! `hearth bench mind`: reading, writing and whole episodes of the engine that plays, beside llama.cpp and transformers
//! on the same weights, and as a share of what the machine could do at most.

use crate::scratch::Scratch;
use crate::ui;
use agent::inference::device::{Backend, DeviceChoice};
use agent::inference::limits::Limits;
use agent::inference::{KvCache, PolicyInference, Span, on_all_threads};
use agent::model::decoder::Precision;
use agent::model::folder::Model;
use agent::policy::ExpertPolicy;
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use anyhow::{Context, bail};
use clap::{Args, ValueHint};
use env_bridge::NativeWorld;
use scenarios::{Protocol, Split, Task, Trajectory, WeightFormat};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use trainer::TrainerError;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::fresh;

/// The peers' script; it runs under a Python of the user's that has their packages.
const PEERS: &str = include_str!("peers.py");

#[derive(Args)]
pub(crate) struct BenchMind {
    /// Model folder; without it, a fresh decoder of the quickstart's shape
    #[arg(long, value_hint = ValueHint::DirPath)]
    model: Option<PathBuf>,
    /// Sequences at once, with commas between
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    batches: Vec<usize>,
    /// Tokens that each sequence reads at once
    #[arg(long, default_value_t = 256)]
    prompt: usize,
    /// Tokens that each sequence then takes one by one
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// How the matrices are held, with commas between: exact, f16, bf16, q8; on a GPU exact, which is f32 there, and
    /// bf16 [default: exact,f16,q8; on a GPU exact,bf16]
    #[arg(long, value_delimiter = ',')]
    weights: Option<Vec<WeightFormat>>,
    /// Where to play: `cpu`, or in a build with CUDA an NVIDIA GPU, `cuda` or `cuda:N`
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Readings, of which the median counts
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Episodes to collect on generated games; 0 = none
    #[arg(long, default_value_t = 32)]
    episodes: usize,
    /// Python with torch and transformers, to measure beside, on the same device
    #[arg(long, value_name = "PYTHON", value_hint = ValueHint::FilePath)]
    transformers: Option<PathBuf>,
    /// Python with llama-cpp-python and gguf, to measure beside on the CPU
    #[arg(long, value_name = "PYTHON", value_hint = ValueHint::FilePath)]
    llama_cpp: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// One speed, beside one peer or none.
#[derive(Debug, Clone, Serialize)]
struct Row {
    /// `prefill`, `decode` or `episodes`.
    what: &'static str,
    model: String,
    weights: WeightFormat,
    batch: usize,
    /// Tokens a second of all sequences: read, written, or written in whole episodes.
    ours: f64,
    peer: Option<f64>,
    peer_name: Option<String>,
    ratio: Option<f64>,
    /// Of the nearer of the two ceilings; none for episodes.
    share_of_limit: Option<f64>,
}

/// What could be had at most where the matrices are held so.
#[derive(Debug, Serialize)]
struct Ceilings {
    weights: WeightFormat,
    /// GB/s from memory.
    memory: f64,
    /// GFLOP/s: on the CPU in f32, on a GPU in matrix products.
    peak: f64,
}

#[derive(Serialize)]
struct Report {
    device: String,
    threads: usize,
    ceilings: Vec<Ceilings>,
    rows: Vec<Row>,
}

/// A line of the peers' script.
#[derive(Debug, Clone, Deserialize)]
struct PeerLine {
    peer: String,
    what: String,
    batch: usize,
    tokens_per_s: f64,
    dtype: String,
}

impl BenchMind {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.batches.contains(&0)
            || self.prompt == 0
            || self.tokens == 0
            || self.repetitions == 0
        {
            return Err(ui::WrongUse(
                "--batches, --prompt, --tokens and --repetitions start at 1".into(),
            )
            .into());
        }
        if self.llama_cpp.is_some() && self.device != DeviceChoice::Cpu {
            return Err(ui::WrongUse(format!(
                "--llama-cpp: measures on the CPU, not on {}",
                self.device
            ))
            .into());
        }
        let engine = self.device.engine().map_err(TrainerError::from)?;
        let formats = self.formats()?;
        let scratch = Scratch::new();
        let suite = crate::commands::data::scenarios::one_of_each(scratch.path(), 1)?;
        let tasks = suite.split(Split::Train);
        let model = match &self.model {
            Some(folder) => Model::open(folder).map_err(TrainerError::from)?,
            None => {
                let demonstrations =
                    demonstrations(&ExpertPolicy::default(), &tasks, &Protocol::default());
                fresh(&Recipe::quickstart().model, &demonstrations, 1)?
            }
        };
        let room = model.config.max_position_embeddings;
        if self.prompt + self.tokens > room {
            let text =
                format!("--prompt and --tokens: together at most the model's context, {room}");
            return Err(ui::WrongUse(text).into());
        }
        let name = self
            .model
            .as_ref()
            .map_or("quickstart".into(), |path| path.display().to_string());
        let limits = limits(&engine, &formats);
        let threads = limits[0].1.threads;
        let mut ceilings = Vec::new();
        let mut rows = Vec::new();
        for (weights, limits) in &limits {
            let (memory, peak) = (limits.bytes_per_s / 1e9, limits.flop_per_s / 1e9);
            eprintln!(
                "{}, {}: {memory:.1} GB/s from memory, {peak:.0} GFLOP/s",
                self.device,
                weights.name()
            );
            ceilings.push(Ceilings {
                weights: *weights,
                memory,
                peak,
            });
            rows.extend(self.speeds(&model, &name, *weights, &engine, limits)?);
        }
        let folder = scratch.path().join("model");
        if self.transformers.is_some() || self.llama_cpp.is_some() {
            model.save(&folder).map_err(TrainerError::from)?;
        }
        let mut found = Vec::new();
        if let Some(python) = &self.llama_cpp {
            found.extend(self.ask_llama_cpp(python, threads, &formats, &folder, scratch.path())?);
        }
        if let Some(python) = &self.transformers {
            for dtype in self.dtypes(&formats) {
                let folder = folder.to_string_lossy();
                found.extend(self.ask_transformers(
                    python,
                    threads,
                    &["--folder", &folder, "--dtype", dtype],
                )?);
            }
        }
        let mut rows: Vec<Row> = rows
            .into_iter()
            .flat_map(|row| row.beside(&found))
            .collect();
        if self.episodes > 0 {
            let holding = LoadOptions {
                weights: formats[0],
                engine,
                ..ValueUse::Skip.into()
            };
            rows.extend(self.episodes(model, &name, holding, &tasks, &folder, threads)?);
        }
        let report = Report {
            device: self.device.to_string(),
            threads,
            ceilings,
            rows,
        };
        if self.json {
            ui::print_json(&report)?;
        } else {
            print(&report);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// How the matrices are to be held.
    fn formats(&self) -> anyhow::Result<Vec<WeightFormat>> {
        let is_on_cpu = self.device == DeviceChoice::Cpu;
        let default = || match is_on_cpu {
            true => vec![WeightFormat::Exact, WeightFormat::F16, WeightFormat::Q8],
            false => vec![WeightFormat::Exact, WeightFormat::Bf16],
        };
        let formats = self.weights.clone().unwrap_or_else(default);
        match formats
            .iter()
            .find(|format| !is_on_cpu && Precision::of(**format).is_none())
        {
            Some(format) => {
                let text = format!(
                    "--weights {}: on {} there are exact and bf16",
                    format.name(),
                    self.device
                );
                Err(ui::WrongUse(text).into())
            }
            None => Ok(formats),
        }
    }

    /// What transformers holds its weights in: f32 on the CPU, on a GPU as we do.
    fn dtypes(&self, formats: &[WeightFormat]) -> Vec<&'static str> {
        let is_narrow = |format: &WeightFormat| {
            self.device != DeviceChoice::Cpu && *format == WeightFormat::Bf16
        };
        let mut dtypes: Vec<&str> = formats
            .iter()
            .map(|format| {
                if is_narrow(format) {
                    "bfloat16"
                } else {
                    "float32"
                }
            })
            .collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        dtypes
    }

    /// Reading and writing at every batch.
    fn speeds(
        &self,
        model: &Model,
        name: &str,
        weights: WeightFormat,
        engine: &Backend,
        limits: &Limits,
    ) -> anyhow::Result<Vec<Row>> {
        let mut policy = model.policy.clone();
        let engine = PolicyInference::from_weights(&model.config, &mut policy, weights, engine)
            .map_err(TrainerError::from)?;
        let mut rows = Vec::new();
        for &batch in &self.batches {
            if !engine.trunk.is_on_host() {
                self.reading(&engine, batch); // kernels are compiled and tuned in it
            }
            let readings: Vec<[f64; 2]> = (0..self.repetitions)
                .map(|_| on_all_threads(|| self.reading(&engine, batch)))
                .collect();
            let median = |which: usize| {
                let mut seconds: Vec<f64> = readings.iter().map(|reading| reading[which]).collect();
                seconds.sort_unstable_by(f64::total_cmp);
                seconds[seconds.len() / 2]
            };
            let limit = |new: usize, before: usize, passes: usize| {
                let cost = Cost::of(&engine, batch, new, before);
                passes as f64 * limits.seconds(cost.bytes, cost.operations)
            };
            let (prefill, decode) = (median(0), median(1));
            let floors = [
                limit(self.prompt, 0, 1),
                limit(1, self.prompt + self.tokens / 2, self.tokens),
            ];
            let speeds = [
                ("prefill", self.prompt, prefill, floors[0]),
                ("decode", self.tokens, decode, floors[1]),
            ];
            rows.extend(speeds.map(|(what, tokens, seconds, floor)| Row {
                what,
                model: name.into(),
                weights,
                batch,
                ours: (batch * tokens) as f64 / seconds,
                peer: None,
                peer_name: None,
                ratio: None,
                share_of_limit: Some(floor / seconds),
            }));
        }
        Ok(rows)
    }

    /// Seconds to read every prompt, and to take every further token, with the logits of each sequence's last token.
    fn reading(&self, engine: &PolicyInference, batch: usize) -> [f64; 2] {
        let vocab = engine.trunk.config().vocab_size;
        let token = |sequence: usize, place: usize| {
            ((7919 * place + 104_729 * sequence + 11) % vocab) as u32
        };
        let prompts: Vec<Vec<u32>> = (0..batch)
            .map(|sequence| {
                (0..self.prompt)
                    .map(|place| token(sequence, place))
                    .collect()
            })
            .collect();
        let mut caches: Vec<KvCache> = prompts.iter().map(|_| KvCache::default()).collect();
        let mut pass = |tokens: &[Vec<u32>]| {
            let mut spans: Vec<Span<'_>> = tokens
                .iter()
                .zip(&mut caches)
                .map(|(tokens, cache)| Span::new(tokens, cache))
                .collect();
            std::hint::black_box(engine.logprobs(&engine.trunk.last_states(&mut spans)));
        };
        let started = Instant::now();
        pass(&prompts);
        let prefill = started.elapsed().as_secs_f64();
        let started = Instant::now();
        for place in self.prompt..self.prompt + self.tokens {
            pass(
                &(0..batch)
                    .map(|sequence| vec![token(sequence, place)])
                    .collect::<Vec<_>>(),
            );
        }
        [prefill, started.elapsed().as_secs_f64()]
    }

    /// Whole episodes with the model as it samples, and model.generate on the same observations and lengths.
    fn episodes(
        &self,
        model: Model,
        name: &str,
        holding: LoadOptions,
        tasks: &[&Task],
        folder: &Path,
        threads: usize,
    ) -> anyhow::Result<Vec<Row>> {
        let weights = holding.weights;
        let player = LmPolicy::new(model, holding).map_err(TrainerError::from)?;
        let protocol = Protocol {
            temperature: 1.0,
            turn_limit: 12,
            context_limit: player.context_limit(),
            ..Protocol::default()
        };
        let jobs: Vec<EpisodeJob<'_>> = (0..self.episodes)
            .map(|index| EpisodeJob {
                task: tasks[index % tasks.len()],
                repetition: index / tasks.len(),
                seed: index as u64,
                forced: &[],
            })
            .collect();
        let started = Instant::now();
        let played = played(
            &player,
            &jobs,
            &protocol,
            Concurrency {
                episodes: self.episodes,
                ..Concurrency::default()
            },
        );
        let seconds = started.elapsed().as_secs_f64();
        let written: usize = played
            .iter()
            .flat_map(|episode| &episode.turns)
            .map(|turn| turn.completion_tokens.len())
            .sum();
        let row = Row {
            what: "episodes",
            model: name.into(),
            weights,
            batch: self.episodes,
            ours: written as f64 / seconds,
            peer: None,
            peer_name: None,
            ratio: None,
            share_of_limit: None,
        };
        let Some(python) = &self.transformers else {
            return Ok(vec![row]);
        };
        let turns: Vec<Vec<(&[u32], usize)>> = (played.iter())
            .map(|e| {
                e.turns
                    .iter()
                    .map(|t| (&t.observation_tokens[..], t.completion_tokens.len()))
                    .collect()
            })
            .collect();
        let file = folder.with_file_name("episodes.json");
        std::fs::write(&file, serde_json::to_string(&turns)?)
            .with_context(|| format!("cannot use {}", file.display()))?;
        let batch = self.episodes.to_string();
        let (folder, file) = (folder.to_string_lossy(), file.to_string_lossy());
        let dtype = self.dtypes(&[weights])[0];
        let asked = [
            "--folder",
            &folder,
            "--dtype",
            dtype,
            "--episodes",
            &file,
            "--batches",
            &batch,
        ];
        Ok(row.beside(&self.ask_transformers(python, threads, &asked)?))
    }

    fn ask_transformers(
        &self,
        python: &Path,
        threads: usize,
        asked: &[&str],
    ) -> anyhow::Result<Vec<PeerLine>> {
        let device = self.device.to_string();
        self.ask(
            python,
            threads,
            &[&["--peer", "transformers", "--device", &device], asked].concat(),
        )
    }

    fn ask_llama_cpp(
        &self,
        python: &Path,
        threads: usize,
        formats: &[WeightFormat],
        folder: &Path,
        scratch: &Path,
    ) -> anyhow::Result<Vec<PeerLine>> {
        let folder = folder.to_string_lossy();
        let mut asked: Vec<String> = vec!["--peer".into(), "llama.cpp".into()];
        for (format, kind, flag) in [
            (WeightFormat::F16, "f16", "--gguf-f16"),
            (WeightFormat::Q8, "q8_0", "--gguf-q8"),
        ] {
            if formats.contains(&format) {
                let file = scratch
                    .join(format!("model.{kind}.gguf"))
                    .to_string_lossy()
                    .into_owned();
                self.ask(
                    python,
                    threads,
                    &["--folder", &folder, "--make-gguf", &file, "--type", kind],
                )?;
                asked.extend([flag.to_string(), file]);
            }
        }
        if asked.len() == 2 {
            bail!(ui::WrongUse(
                "--llama-cpp: --weights names neither f16 nor q8".into()
            ));
        }
        self.ask(
            python,
            threads,
            &asked.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    }

    /// What the script says under a Python; its words go to stderr.
    fn ask(
        &self,
        python: &Path,
        threads: usize,
        arguments: &[&str],
    ) -> anyhow::Result<Vec<PeerLine>> {
        let name = python.display().to_string();
        eprintln!(
            "asking {name} {}",
            arguments
                .iter()
                .take(2)
                .copied()
                .collect::<Vec<_>>()
                .join(" ")
        );
        let batches = self
            .batches
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(",");
        let mut command = Command::new(python);
        command
            .arg("-")
            .args(["--batches", &batches, "--prompt", &self.prompt.to_string()]);
        command.args([
            "--tokens",
            &self.tokens.to_string(),
            "--repetitions",
            &self.repetitions.to_string(),
        ]);
        command
            .args(["--threads", &threads.to_string()])
            .args(arguments);
        let lines = super::peer_says(&mut command, PEERS)?;
        lines
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("{name} said {line:?}")))
            .collect()
    }
}

/// What could be had at most, for each way of holding the matrices.
fn limits(engine: &Backend, formats: &[WeightFormat]) -> Vec<(WeightFormat, Limits)> {
    match engine {
        Backend::Cpu => {
            let limits = Limits::measure();
            formats.iter().map(|format| (*format, limits)).collect()
        }
        Backend::Burn(device) => {
            let of = |format: &WeightFormat| {
                (
                    *format,
                    Limits::of_device(device, Precision::of(*format).unwrap_or_default()),
                )
            };
            formats.iter().map(of).collect()
        }
    }
}

/// What a pass reads from memory, and computes.
struct Cost {
    bytes: f64,
    operations: f64,
}

impl Cost {
    /// Of `batch` sequences with so many new tokens on so many old ones, and the logits of the last.
    fn of(engine: &PolicyInference, batch: usize, new: usize, before: usize) -> Self {
        let config = engine.trunk.config();
        let rows = (batch * new) as f64;
        let layer = config.hidden_size * (2 * config.query_width() + 2 * config.kv_width())
            + 3 * config.hidden_size * config.intermediate_size;
        let matrices = (layer * config.num_hidden_layers) as f64 * rows;
        let logits = (config.hidden_size * config.vocab_size * batch) as f64;
        let seen = before as f64 + (new as f64 + 1.0) / 2.0;
        let attention =
            2.0 * rows * seen * (config.query_width() * config.num_hidden_layers) as f64;
        let cached = (batch * (before + new) * engine.trunk.bytes_per_token()) as f64;
        Self {
            bytes: engine.bytes() as f64 + cached,
            operations: 2.0 * (matrices + logits + attention),
        }
    }
}

impl Row {
    /// The same, once for each peer that measured it with the same numbers; alone where none did.
    fn beside(self, found: &[PeerLine]) -> Vec<Self> {
        let is_peer = |line: &&PeerLine| {
            let same_numbers = match self.weights {
                WeightFormat::F16 => ["f16", "float32"].contains(&&*line.dtype),
                WeightFormat::Q8 => line.dtype == "q8_0",
                WeightFormat::Exact => line.dtype == "float32",
                WeightFormat::Bf16 => line.dtype == "bfloat16",
            };
            same_numbers && line.what == self.what && line.batch == self.batch
        };
        let peers = found.iter().filter(is_peer).map(|line| Self {
            peer: Some(line.tokens_per_s),
            peer_name: Some(format!("{} {}", line.peer, line.dtype)),
            ratio: Some(self.ours / line.tokens_per_s),
            ..self.clone()
        });
        let rows: Vec<Self> = peers.collect();
        if rows.is_empty() { vec![self] } else { rows }
    }
}

/// Demonstrations of each task, for the vocabulary of a fresh decoder, or to learn from.
pub(super) fn demonstrations(
    expert: &ExpertPolicy,
    tasks: &[&Task],
    protocol: &Protocol,
) -> Vec<Trajectory> {
    let jobs: Vec<EpisodeJob<'_>> = tasks
        .iter()
        .map(|task| EpisodeJob {
            task,
            repetition: 0,
            seed: 1,
            forced: &[],
        })
        .collect();
    let mut episodes = played(expert, &jobs, protocol, Concurrency::default());
    episodes.sort_by(|a, b| a.game.cmp(&b.game));
    episodes
}

fn played(
    policy: &impl agent::policy::Policy,
    jobs: &[EpisodeJob<'_>],
    protocol: &Protocol,
    pool: Concurrency,
) -> Vec<Trajectory> {
    let mut played = Vec::new();
    let Ok(()) = play_episodes(
        policy,
        &NativeWorld::new(),
        jobs,
        protocol,
        pool,
        |trajectory| -> Result<(), Infallible> {
            played.push(trajectory);
            Ok(())
        },
    );
    played
}

fn print(report: &Report) {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or(String::new(), |value| format!("{value:.digits$}"))
    };
    let rows: Vec<Vec<String>> = (report.rows.iter())
        .map(|row| {
            vec![
                row.what.into(),
                row.weights.name().into(),
                row.batch.to_string(),
                format!("{:.1}", row.ours),
                number(row.peer, 1),
                row.peer_name.clone().unwrap_or_default(),
                number(row.ratio, 2),
                number(row.share_of_limit, 2),
            ]
        })
        .collect();
    ui::print_table(
        &[
            "what",
            "weights",
            "batch",
            "tokens/s",
            "peer",
            "peer's name",
            "ratio",
            "share of limit",
        ],
        &rows,
    );
}
