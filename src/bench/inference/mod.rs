//! `hearth bench inference`: prefill, decode and whole episodes of the inference backend, against
//! llama.cpp and transformers with the same weights, and as a share of the hardware limits.

mod options;
mod peers;
mod report;
mod speed;

pub(super) use options::BenchInference;

use super::episodes::{demonstrations, play_all};
use crate::scratch::Scratch;
use crate::ui;
use agent::model::folder::Model;
use agent::policy::ExpertPolicy;
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::rollout::{Concurrency, EpisodeJob};
use peers::Peers;
use report::{HardwareLimits, InferenceReport, InferenceRow};
use scenarios::{Protocol, Split, Task};
use speed::FormatUnderTest;
use std::process::ExitCode;
use std::time::Instant;
use trainer::TrainerError;
use trainer::pipeline::recipe::Recipe;
use trainer::pipeline::run::{fresh, texts_of};

impl BenchInference {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.check()?;
        let backend = self.device.backend().map_err(TrainerError::from)?;
        let formats = self.formats()?;
        let scratch = Scratch::new();
        let suite = crate::commands::data::scenarios::one_of_each(scratch.path(), 1)?;
        let tasks = suite.split(Split::Train);
        let model = self.model(&tasks)?;
        let name = self
            .model
            .as_ref()
            .map_or("quickstart".into(), |path| path.display().to_string());
        let limits = speed::limits(&backend, &formats);
        let threads = limits[0].1.threads;
        let mut ceilings = Vec::new();
        let mut rows = Vec::new();
        for (weights, limits) in limits {
            let memory = limits.bytes_per_s / 1e9;
            let peak = limits.flop_per_s / 1e9;
            eprintln!(
                "{}, {}: {memory:.1} GB/s from memory, {peak:.0} GFLOP/s",
                self.device,
                weights.name()
            );
            ceilings.push(HardwareLimits {
                weights,
                memory,
                peak,
            });
            let tested = FormatUnderTest {
                model: &model,
                name: &name,
                weights,
                limits,
            };
            rows.extend(speed::measure(&self, &tested, &backend)?);
        }
        let folder = scratch.path().join("model");
        if self.transformers.is_some() || self.llama_cpp.is_some() {
            model.save(&folder).map_err(TrainerError::from)?;
        }
        let peers = Peers {
            options: &self,
            threads,
            folder: &folder,
        };
        let speeds = peers.speeds(&formats)?;
        let mut rows: Vec<InferenceRow> = rows
            .into_iter()
            .flat_map(|row| row.with_peers(&speeds))
            .collect();
        if self.episodes > 0 {
            let load = LoadOptions {
                weights: formats[0],
                kv: self.kv,
                backend,
                ..ValueUse::Skip.into()
            };
            rows.extend(self.play(model, name, load, &tasks, &peers)?);
        }
        let report = InferenceReport {
            device: self.device.to_string(),
            kv: self.kv,
            threads,
            ceilings,
            rows,
        };
        if self.json {
            ui::print_json(&report)?;
        } else {
            report.print();
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Opens the model of `--model`, or makes a fresh decoder of the quickstart's shape.
    ///
    /// # Errors
    /// If the model's context is too short for `--prompt` and `--tokens`.
    fn model(&self, tasks: &[&Task]) -> anyhow::Result<Model> {
        let model = match &self.model {
            Some(folder) => Model::open(folder).map_err(TrainerError::from)?,
            None => {
                let demonstrations =
                    demonstrations(&ExpertPolicy::default(), tasks, &Protocol::default());
                fresh(
                    &Recipe::quickstart().model.plain(),
                    texts_of(&demonstrations),
                    1,
                )?
            }
        };
        let context = model.config.max_position_embeddings;
        if self.prompt + self.tokens > context {
            let text =
                format!("--prompt and --tokens: together at most the model's context, {context}");
            return Err(ui::WrongUse(text).into());
        }
        Ok(model)
    }

    /// Plays whole episodes with the model at temperature 1, and measures the peer on the same
    /// token counts.
    fn play(
        &self,
        model: Model,
        name: String,
        load: LoadOptions,
        tasks: &[&Task],
        peers: &Peers<'_>,
    ) -> anyhow::Result<Vec<InferenceRow>> {
        let weights = load.weights;
        let policy = LmPolicy::new(model, load).map_err(TrainerError::from)?;
        let protocol = Protocol {
            temperature: 1.0,
            turn_limit: 12,
            context_limit: policy.context_limit(),
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
        let concurrency = Concurrency {
            episodes: self.episodes,
            ..Concurrency::default()
        };
        let started = Instant::now();
        let played = play_all(&policy, &jobs, &protocol, concurrency);
        let seconds = started.elapsed().as_secs_f64();
        let written: usize = played
            .iter()
            .flat_map(|episode| &episode.turns)
            .map(|turn| turn.completion_tokens.len())
            .sum();
        let row = InferenceRow {
            what: "episodes",
            model: name,
            weights,
            batch: self.episodes,
            ours: written as f64 / seconds,
            peer: None,
            peer_name: None,
            ratio: None,
            share_of_limit: None,
        };
        Ok(row.with_peers(&peers.episodes(weights, &played)?))
    }
}
