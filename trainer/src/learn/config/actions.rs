//! What counts as one action, and the keys of OREO that are not in the paper.

use serde::{Deserialize, Serialize};

/// What counts as one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The whole completion of a turn.
    Turn,
    /// Every token.
    Token,
    /// All completions of an episode together.
    Response,
}

/// What the losses of OREO are averaged over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// The actions of each trajectory, then the trajectories. So an action of a short episode has a
    /// larger weight.
    #[default]
    Trajectory,
    /// All actions of the batch. Each has the same weight.
    Batch,
}

impl Normalisation {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn is_published(&self) -> bool {
        *self == Self::Trajectory
    }
}

/// The keys of OREO that are not in the paper, and the level that they must fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct OreoExtensions {
    pub(super) level: Level,
    pub(super) discount: f64,
    pub(super) normalise: Normalisation,
    pub(super) log_ratio_clip: Option<f64>,
    pub(super) path_length: Option<usize>,
    pub(super) imitation_coef: f64,
}

impl OreoExtensions {
    /// Returns an error if a key is out of range or does not fit the level.
    pub(super) fn check(self) -> Result<(), String> {
        let Self {
            level,
            discount,
            normalise,
            log_ratio_clip,
            path_length,
            imitation_coef: _, // every level supports it
        } = self;
        if !(discount > 0.0 && discount <= 1.0) {
            return Err(format!("discount = {discount} must be above 0, at most 1"));
        }
        if discount < 1.0 && level != Level::Turn {
            return Err(format!(
                "discount = {discount}: γ counts turns, so oreo supports it at level = \"turn\" only\nhint: set level = \"turn\", or remove discount"
            ));
        }
        if normalise == Normalisation::Batch && level == Level::Response {
            return Err("normalise = \"batch\": at level = \"response\" every episode is one action, so nothing would change\nhint: remove normalise".into());
        }
        match path_length {
            Some(0) => return Err("path_length = 0 must be above 0".into()),
            Some(length) if level != Level::Turn => {
                return Err(format!(
                    "path_length = {length} counts turns, so oreo supports it at level = \"turn\" only\nhint: set level = \"turn\", or remove path_length"
                ));
            }
            _ => {}
        }
        match log_ratio_clip {
            Some(limit) if !(limit > 0.0 && limit.is_finite()) => {
                Err(format!("log_ratio_clip = {limit} must be above 0"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the keys that differ from the published algorithm, as `KEY = VALUE`.
    pub(super) fn settings(self) -> Vec<String> {
        let discount = Some(self.discount).filter(|discount| *discount < 1.0);
        let discount = discount.map(|discount| format!("discount = {discount}"));
        let by_batch = self.normalise == Normalisation::Batch;
        let normalise = by_batch.then(|| "normalise = \"batch\"".to_string());
        let clip = self.log_ratio_clip;
        let clip = clip.map(|clip| format!("log_ratio_clip = {clip:?}"));
        let path = self.path_length;
        let path = path.map(|length| format!("path_length = {length}"));
        let imitation = Some(self.imitation_coef).filter(|coef| *coef > 0.0);
        let imitation = imitation.map(|coef| format!("imitation_coef = {coef:?}"));
        let keys = [discount, normalise, clip, path, imitation];
        keys.into_iter().flatten().collect()
    }
}
