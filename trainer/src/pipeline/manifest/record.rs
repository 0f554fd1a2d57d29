//! The manifest of one stage: the record beside its output.

use super::inputs::StageInputs;
use crate::error::TrainerError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of what the stages compute. If it is increased, every earlier output is out of date.
pub const VERSION: u32 = 2;

/// Version of the manifest file.
const FORMAT: u32 = 1;

/// Whether a stage's output is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputState {
    /// The stage has begun and is not finished.
    Running,
    /// The output is complete.
    Done,
}

/// The hashes of what a stage produced. Each is set only if the stage produces it; later stages have them
/// among their inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageOutput {
    /// Hash of the episodes, of a stage that plays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episodes: Option<String>,
    /// Hash of the policy's weights, of a training job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Hash over the practice suites, of the stage that prepares the games, if the recipe has any. It is not
    /// written to the manifest, so that the suite's stage does not depend on them.
    #[serde(skip)]
    pub practice: Option<String>,
    /// Hash of the suite, of the stage that prepares the games.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// Hash of the value network's weights, of a training job with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The record beside a stage's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageManifest {
    format: u32,
    /// The stage's name, for example `1/oreo`.
    pub stage: String,
    /// Whether the output is complete.
    pub state: OutputState,
    /// Hash of the inputs.
    pub inputs_hash: String,
    /// The inputs.
    pub inputs: StageInputs,
    /// Number of episodes to play or updates to make. It is 0 until the number is known.
    pub expected: usize,
    /// Unix seconds at which the stage began, or last continued.
    pub started: u64,
    /// Unix seconds at which the output was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// The hashes of the output. They are empty until the output is complete.
    #[serde(rename = "outcome")]
    pub output: StageOutput,
    /// Sizes in bytes of the files of a complete output.
    pub files: BTreeMap<String, u64>,
    /// Version of the code that ran. It is not an input.
    pub code: String,
}

impl StageManifest {
    pub(super) fn new(stage: &str, inputs: StageInputs, code: &str) -> Self {
        Self {
            format: FORMAT,
            stage: stage.into(),
            state: OutputState::Running,
            inputs_hash: inputs.hash(),
            inputs,
            expected: 0,
            started: now(),
            ended: None,
            output: StageOutput::default(),
            files: BTreeMap::new(),
            code: code.into(),
        }
    }

    /// Returns the manifest of a stage that begins again with the same inputs.
    pub(super) fn restarted(self, code: &str) -> Self {
        Self {
            state: OutputState::Running,
            started: now(),
            ended: None,
            code: code.into(),
            ..self
        }
    }

    /// Returns the manifest of a complete output.
    pub(super) fn finished(self, output: StageOutput, files: BTreeMap<String, u64>) -> Self {
        Self {
            state: OutputState::Done,
            ended: Some(now()),
            output,
            files,
            ..self
        }
    }

    /// Reads a manifest; returns `None` if the file does not exist.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, TrainerError> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(TrainerError::file(path))?,
        };
        let hint = "hint: this file describes the output beside it; if you remove it, the output is used as it is";
        let manifest: Self = serde_json::from_str(&text)
            .map_err(|e| TrainerError::content(path, format!("{e}\n{hint}")))?;
        if manifest.format != FORMAT {
            return Err(TrainerError::content(
                path,
                format!("unknown format {}\n{hint}", manifest.format),
            ));
        }
        Ok(Some(manifest))
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_written_with_the_names_of_earlier_versions() {
        let mut manifest = StageManifest::new("1/oreo", StageInputs::default(), "code");
        manifest.started = 7;
        let text = serde_json::to_string(&manifest).expect("JSON");
        assert!(text.contains(r#""outcome":{},"files":{}"#), "{text}");
        manifest.output = StageOutput {
            policy: Some("p".into()),
            value: Some("v".into()),
            ..StageOutput::default()
        };
        let text = serde_json::to_string(&manifest).expect("JSON");
        assert!(
            text.contains(r#""outcome":{"policy":"p","value":"v"}"#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<StageManifest>(&text).expect("reads"),
            manifest
        );
    }
}
