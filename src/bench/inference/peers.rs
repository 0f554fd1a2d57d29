//! The peers llama.cpp and transformers, measured by `peers.py` in the user's Python.

use super::options::BenchInference;
use crate::bench::peer::{WAIT_POLICIES, run_script};
use crate::ui;
use agent::inference::device::DeviceChoice;
use anyhow::{Context, bail};
use scenarios::{Trajectory, WeightFormat};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = include_str!("../peers.py");

/// One line of the script's output.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PeerSpeed {
    pub(super) peer: String,
    pub(super) what: String,
    pub(super) batch: usize,
    pub(super) tokens_per_s: f64,
    pub(super) dtype: String,
}

/// The peers that the options name, and what they measure.
pub(super) struct Peers<'a> {
    pub(super) options: &'a BenchInference,
    pub(super) threads: usize,
    /// The model, as a Hugging Face folder.
    pub(super) folder: &'a Path,
}

impl Peers<'_> {
    /// Measures prefill and decode with every peer; returns nothing if the options name none.
    pub(super) fn speeds(&self, formats: &[WeightFormat]) -> anyhow::Result<Vec<PeerSpeed>> {
        let mut speeds = Vec::new();
        if let Some(python) = &self.options.llama_cpp {
            speeds.extend(self.llama_cpp(python, formats)?);
        }
        if let Some(python) = &self.options.transformers {
            let mut dtypes: Vec<&str> = formats.iter().map(|format| self.dtype(*format)).collect();
            dtypes.sort_unstable();
            dtypes.dedup();
            for dtype in dtypes {
                speeds.extend(self.transformers(python, dtype, &[])?);
            }
        }
        Ok(speeds)
    }

    /// Measures `model.generate` of transformers on the same observations and completion lengths;
    /// nothing if the options do not name transformers.
    pub(super) fn episodes(
        &self,
        weights: WeightFormat,
        played: &[Trajectory],
    ) -> anyhow::Result<Vec<PeerSpeed>> {
        let Some(python) = &self.options.transformers else {
            return Ok(Vec::new());
        };
        let turns: Vec<Vec<(&[u32], usize)>> = (played.iter())
            .map(|e| {
                e.turns
                    .iter()
                    .map(|t| (&t.observation_tokens[..], t.completion_tokens.len()))
                    .collect()
            })
            .collect();
        let file = self.folder.with_file_name("episodes.json");
        std::fs::write(&file, serde_json::to_string(&turns)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let batch = self.options.episodes.to_string();
        let file = file.to_string_lossy();
        let arguments = ["--episodes", &file, "--batches", &batch];
        self.transformers(python, self.dtype(weights), &arguments)
    }

    /// The number format in which transformers holds the weights: f32 on the CPU, as hearth does on
    /// a GPU.
    fn dtype(&self, format: WeightFormat) -> &'static str {
        if self.options.device != DeviceChoice::Cpu && format == WeightFormat::Bf16 {
            "bfloat16"
        } else {
            "float32"
        }
    }

    fn transformers(
        &self,
        python: &Path,
        dtype: &str,
        more: &[&str],
    ) -> anyhow::Result<Vec<PeerSpeed>> {
        let device = self.options.device.to_string();
        let folder = self.folder.to_string_lossy();
        let arguments = [
            "--peer",
            "transformers",
            "--device",
            &device,
            "--folder",
            &folder,
            "--dtype",
            dtype,
        ];
        self.fastest(python, &[&arguments, more].concat())
    }

    fn llama_cpp(&self, python: &Path, formats: &[WeightFormat]) -> anyhow::Result<Vec<PeerSpeed>> {
        let folder = self.folder.to_string_lossy();
        let mut arguments: Vec<String> = vec!["--peer".into(), "llama.cpp".into()];
        for (format, kind, flag) in [
            (WeightFormat::F16, "f16", "--gguf-f16"),
            (WeightFormat::Q8, "q8_0", "--gguf-q8"),
        ] {
            if formats.contains(&format) {
                let file = self
                    .folder
                    .with_file_name(format!("model.{kind}.gguf"))
                    .to_string_lossy()
                    .into_owned();
                self.run(
                    python,
                    &["--folder", &folder, "--make-gguf", &file, "--type", kind],
                    WAIT_POLICIES[0],
                )?;
                arguments.extend([flag.to_string(), file]);
            }
        }
        if arguments.len() == 2 {
            bail!(ui::WrongUse(
                "--llama-cpp: --weights names neither f16 nor q8".into()
            ));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.fastest(python, &arguments)
    }

    /// The faster reading of each speed with the ways in which threads may wait.
    fn fastest(&self, python: &Path, arguments: &[&str]) -> anyhow::Result<Vec<PeerSpeed>> {
        let [asleep, busy] = WAIT_POLICIES;
        let mut speeds = self.run(python, arguments, asleep)?;
        for (speed, other) in speeds.iter_mut().zip(self.run(python, arguments, busy)?) {
            if other.tokens_per_s > speed.tokens_per_s {
                *speed = other;
            }
        }
        Ok(speeds)
    }

    fn run(
        &self,
        python: &Path,
        arguments: &[&str],
        wait_policy: &str,
    ) -> anyhow::Result<Vec<PeerSpeed>> {
        let name = python.display().to_string();
        eprintln!("running {name} {}", arguments[..2].join(" "));
        let options = self.options;
        let batches: Vec<String> = options.batches.iter().map(usize::to_string).collect();
        let mut command = Command::new(python);
        command
            .arg("-")
            .args(["--batches", &batches.join(",")])
            .args(["--prompt", &options.prompt.to_string()])
            .args(["--tokens", &options.tokens.to_string()])
            .args(["--repetitions", &options.repetitions.to_string()])
            .args(["--threads", &self.threads.to_string()])
            .args(arguments)
            .env("OMP_WAIT_POLICY", wait_policy);
        run_script(&mut command, SCRIPT)?
            .lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("{name} printed {line:?}"))
            })
            .collect()
    }
}
