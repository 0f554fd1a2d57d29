//! Waiting for other shards of a run.

use super::context::{Reporter, RunOptions};
use crate::error::TrainerError;
use crate::pipeline::manifest::{OutputState, StageInputs, StageManifest, StagePaths};
use std::time::{Duration, Instant};

/// Waits until the leader has finished a stage. While the stage has begun and is not finished, `work` is called
/// between the pauses.
///
/// # Errors
/// [`TrainerError::Awaiting`] if the stage is not finished within the waiting time; errors of `work` and of
/// reading the manifest.
pub(super) fn wait_for_leader(
    paths: &StagePaths,
    inputs: &StageInputs,
    options: &RunOptions<'_>,
    reporter: &dyn Reporter,
    mut work: impl FnMut(&StageManifest) -> Result<(), TrainerError>,
) -> Result<StageManifest, TrainerError> {
    wait(
        options,
        reporter,
        || {
            format!(
                "{}: awaits shard 0, which begins and finishes it",
                paths.stage()
            )
        },
        || {
            let Some(manifest) = paths
                .manifest()?
                .filter(|manifest| manifest.inputs_hash == inputs.hash())
            else {
                return Ok(None);
            };
            if manifest.state == OutputState::Done {
                return Ok(Some(manifest));
            }
            work(&manifest)?;
            Ok(None)
        },
    )
}

/// Calls `ready` until it returns a value. The pauses between calls grow from 0.1 s to 5 s.
///
/// # Errors
/// [`TrainerError::Awaiting`] with the text `what` if the waiting time is over; errors of `ready`.
pub(super) fn wait<T>(
    options: &RunOptions<'_>,
    reporter: &dyn Reporter,
    what: impl Fn() -> String,
    mut ready: impl FnMut() -> Result<Option<T>, TrainerError>,
) -> Result<T, TrainerError> {
    let mut started: Option<Instant> = None;
    let mut pause = Duration::from_millis(100);
    loop {
        if let Some(found) = ready()? {
            return Ok(found);
        }
        let started = started.get_or_insert_with(|| {
            if !options.wait.is_zero() {
                reporter.say(&format!(
                    "{}; waiting, for {} s at most",
                    what(),
                    options.wait.as_secs()
                ));
            }
            Instant::now()
        });
        if started.elapsed() >= options.wait {
            return Err(TrainerError::Awaiting(what()));
        }
        std::thread::sleep(pause.min(options.wait.saturating_sub(started.elapsed())));
        pause = (pause * 3 / 2).min(Duration::from_secs(5));
    }
}
