//! The options of `hearth bench inference`.

use crate::args::device;
use crate::ui;
use agent::inference::device::DeviceChoice;
use agent::model::decoder::Precision;
use clap::{Args, ValueHint};
use scenarios::{KvFormat, WeightFormat};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct BenchInference {
    /// Model folder [default: a fresh decoder of the quickstart's shape]
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub(super) model: Option<PathBuf>,
    /// Batch sizes (sequences at once), with commas between
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    pub(super) batches: Vec<usize>,
    /// Tokens to prefill per sequence
    #[arg(long, default_value_t = 256)]
    pub(super) prompt: usize,
    /// Tokens to decode per sequence, one per pass
    #[arg(long, default_value_t = 64)]
    pub(super) tokens: usize,
    /// Formats of the weight matrices, with commas between: exact, f16, bf16, q8; on a GPU exact
    /// (f32 there) and bf16 [default: exact,f16,q8; on a GPU exact,bf16]
    #[arg(long, value_delimiter = ',')]
    pub(super) weights: Option<Vec<WeightFormat>>,
    /// Format of keys and values: exact, or f16 on the CPU
    #[arg(long, default_value = "exact")]
    pub(super) kv: KvFormat,
    /// Device: `cpu`, or a GPU that `hearth doctor` lists, such as `cuda` or `vulkan:1`, or `auto`,
    /// the first GPU, else the CPU
    #[arg(long, default_value_t, value_parser = device::read)]
    pub(super) device: DeviceChoice,
    /// Readings per speed, of which the median counts
    #[arg(long, default_value_t = 3)]
    pub(super) repetitions: usize,
    /// Episodes to collect on generated games; 0 = none
    #[arg(long, default_value_t = 32)]
    pub(super) episodes: usize,
    /// Python with torch and transformers, a peer on the same device
    #[arg(long, value_name = "PYTHON", value_hint = ValueHint::FilePath)]
    pub(super) transformers: Option<PathBuf>,
    /// Python with llama-cpp-python and gguf, a peer on the CPU
    #[arg(long, value_name = "PYTHON", value_hint = ValueHint::FilePath)]
    pub(super) llama_cpp: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(super) json: bool,
}

impl BenchInference {
    pub(super) fn check(&self) -> Result<(), ui::WrongUse> {
        if self.batches.contains(&0)
            || self.prompt == 0
            || self.tokens == 0
            || self.repetitions == 0
        {
            return Err(ui::WrongUse(
                "--batches, --prompt, --tokens and --repetitions start at 1".into(),
            ));
        }
        if self.llama_cpp.is_some() && self.device != DeviceChoice::Cpu {
            return Err(ui::WrongUse(format!(
                "--llama-cpp: measures on the CPU, not on {}",
                self.device
            )));
        }
        Ok(())
    }

    /// Returns the formats of `--weights`, or all formats of the device if the flag is not given.
    ///
    /// # Errors
    /// If the device does not have one of the formats.
    pub(super) fn formats(&self) -> Result<Vec<WeightFormat>, ui::WrongUse> {
        let is_on_cpu = self.device == DeviceChoice::Cpu;
        let formats = match &self.weights {
            Some(formats) => formats.clone(),
            None if is_on_cpu => vec![WeightFormat::Exact, WeightFormat::F16, WeightFormat::Q8],
            None => vec![WeightFormat::Exact, WeightFormat::Bf16],
        };
        let missing = formats
            .iter()
            .find(|format| !is_on_cpu && Precision::of(**format).is_none());
        match missing {
            Some(format) => Err(ui::WrongUse(format!(
                "--weights {}: the formats on {} are exact and bf16",
                format.name(),
                self.device
            ))),
            None => Ok(formats),
        }
    }
}
