//! The work that both sides do: a model, one batch and a job; and how their losses are compared.

use agent::inference::device::DeviceChoice;
use agent::model::config::DecoderConfig;
use agent::model::decoder::Precision;
use anyhow::ensure;
use scenarios::Trajectory;
use std::collections::BTreeMap;
use std::path::Path;
use trainer::pipeline::recipe::{Algorithm, TrainConfig};

/// The largest relative difference of the losses at the first update on a device. If it is exceeded,
/// the benchmark fails. A GPU may compute f32 products in TF32, whose mantissa has ten bits; that of
/// bf16 has seven.
pub(super) fn same_loss(device: DeviceChoice, precision: Precision) -> f64 {
    match (device, precision) {
        (_, Precision::Bf16) => 3e-2,
        (DeviceChoice::Gpu(..), Precision::F32) => 2e-3,
        (DeviceChoice::Cpu, Precision::F32) => 1e-4,
    }
}

/// The losses of one update, by the names of the columns of `metrics.csv` without `loss/` or `kl/`.
pub(super) type UpdateLosses = BTreeMap<String, f64>;

/// What both sides get. The model is saved in the folder `model` of the scratch folder.
pub(super) struct Workload<'a> {
    pub(super) job: &'a TrainConfig,
    pub(super) batch: &'a [Trajectory],
    pub(super) scratch: &'a Path,
    pub(super) threads: usize,
    pub(super) device: DeviceChoice,
}

/// The largest relative differences of a loss between the two sides.
#[derive(Debug, Clone, Copy)]
pub(super) struct LossDifferences {
    pub(super) first_update: f64,
    pub(super) any_update: f64,
}

impl LossDifferences {
    /// Compares the losses of all updates.
    ///
    /// # Errors
    /// If the numbers of updates differ, or if the first losses differ by more than `allowed`.
    pub(super) fn of(
        ours: &[UpdateLosses],
        theirs: &[UpdateLosses],
        allowed: f64,
    ) -> anyhow::Result<Self> {
        ensure!(
            ours.len() == theirs.len(),
            "hearth made {} updates, the peer {}",
            ours.len(),
            theirs.len()
        );
        let differences: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| relative_difference(ours, theirs))
            .collect();
        let first_update = differences[0];
        ensure!(
            first_update <= allowed,
            "the two sides do not compute the same losses: {:?} and {:?}",
            ours[0],
            theirs[0]
        );
        Ok(Self {
            first_update,
            any_update: differences.into_iter().fold(0.0, f64::max),
        })
    }
}

/// Returns the largest difference of a loss, divided by the peer's largest loss; NaN if a loss is
/// missing or NaN.
fn relative_difference(ours: &UpdateLosses, theirs: &UpdateLosses) -> f64 {
    let size = theirs
        .values()
        .fold(f64::MIN_POSITIVE, |size, loss| size.max(loss.abs())); // all losses may be 0
    theirs
        .iter()
        .map(|(name, loss)| (ours.get(name).copied().unwrap_or(f64::NAN) - loss).abs() / size)
        .fold(
            0.0,
            |most, off| if off.is_nan() { off } else { most.max(off) },
        )
}

/// Returns the number of multiplications and additions in the matrix products of one update.
///
/// Each weight and token costs two operations in the forward pass and four in the backward pass. To
/// these are added the two products of attention over the tokens before each token, and the logits,
/// if a loss reads them. In OREO three networks read the tokens: the reference has no backward
/// pass, and the value network has no logits.
pub(super) fn operations(
    config: &DecoderConfig,
    batch: &[Trajectory],
    algorithm: &Algorithm,
) -> f64 {
    let layer = config.hidden_size * (2 * config.query_width() + 2 * config.kv_width())
        + 3 * config.hidden_size * config.intermediate_size;
    let lengths: Vec<f64> = batch
        .iter()
        .map(|trajectory| trajectory.tokens() as f64)
        .collect();
    let tokens: f64 = lengths.iter().sum();
    let attended: f64 = lengths
        .iter()
        .map(|length| length * (length + 1.0) / 2.0)
        .sum();
    let products = (layer as f64 * tokens + 2.0 * config.query_width() as f64 * attended)
        * config.num_hidden_layers as f64;
    let logits_per_position = (config.hidden_size * config.vocab_size) as f64;
    if let Algorithm::Oreo { .. } = algorithm {
        let written = batch
            .iter()
            .flat_map(|trajectory| &trajectory.turns)
            .map(|turn| turn.completion_tokens.len())
            .sum::<usize>();
        (2.0 + 6.0 + 6.0) * products + (2.0 + 6.0) * (logits_per_position * written as f64)
    } else {
        6.0 * (products + logits_per_position * (tokens - batch.len() as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(policy: f64, value: f64) -> UpdateLosses {
        [("policy".to_string(), policy), ("value".to_string(), value)].into()
    }

    /// If the largest loss is 2, a difference of 0.0001 is a share of 0.00005. Later updates may
    /// drift, the first may not.
    #[test]
    fn first_losses_that_differ_are_refused() {
        let theirs = [losses(2.0, 0.5), losses(2.0, 0.5)];
        let ours = [losses(2.0, 0.5001), losses(2.0, 0.6)];
        let found = LossDifferences::of(&ours, &theirs, 1e-4).unwrap();
        assert!(
            (found.first_update - 5e-5).abs() < 1e-9 && (found.any_update - 0.05).abs() < 1e-9,
            "{found:?}"
        );
        let is_refused = |ours: &[UpdateLosses]| LossDifferences::of(ours, &theirs, 1e-4).is_err();
        assert!(is_refused(&[losses(2.1, 0.5), losses(2.0, 0.5)]));
        assert!(is_refused(&[losses(2.0, f64::NAN), losses(2.0, 0.5)]));
        assert!(is_refused(&[losses(2.0, 0.5)]));
    }
}
