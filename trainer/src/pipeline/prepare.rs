//! Preparation of a training job's data: augmentation, token ids, and a new model if the job starts from
//! random weights.

use crate::error::TrainerError;
use crate::learn::receptacle_dropout::drop_receptacles;
use crate::pipeline::recipe::{ModelRecipe, TrainConfig};
use agent::model::folder::{Companions, Model};
use agent::model::weights::Weights;
use agent::text::chat;
use agent::text::tokenizer::Tokenizer;
use scenarios::Trajectory;
use std::collections::BTreeSet;

/// Prepares episodes for a job. If the job sets `receptacle_dropout`, receptacles are removed from the first
/// observations. Token ids that are missing are filled in.
pub fn prepare(
    job: &TrainConfig,
    tokenizer: &Tokenizer,
    trajectories: &mut [Trajectory],
    seed: u64,
) {
    if let Some(most) = job.receptacle_dropout {
        for trajectory in trajectories.iter_mut() {
            drop_receptacles(trajectory, most, seed);
        }
    }
    tokenize_texts(tokenizer, trajectories);
}

/// Fills in the token ids of episodes that have only texts, or the ids of another tokenizer.
pub fn tokenize_texts(tokenizer: &Tokenizer, trajectories: &mut [Trajectory]) {
    for trajectory in trajectories {
        if !chat::is_tokenized_by(tokenizer, trajectory) {
            chat::tokenize(tokenizer, trajectory);
        }
    }
}

/// Returns a decoder with random weights and a vocabulary from the texts of these episodes.
///
/// # Errors
/// If the tokenizer library returns an error.
pub fn fresh(
    shape: &ModelRecipe,
    trajectories: &[Trajectory],
    seed: u64,
) -> Result<Model, TrainerError> {
    let texts = trajectories
        .iter()
        .flat_map(|trajectory| &trajectory.turns)
        .flat_map(|turn| [turn.observation.as_str(), turn.completion.as_str()]);
    let tokenizer = Tokenizer::train_with(texts, shape.vocabulary, shape.numbers)?;
    let config = shape.config(&tokenizer);
    Ok(Model {
        policy: Weights::random(&config, seed),
        config,
        tokenizer,
        value: None,
        text_versions: BTreeSet::new(),
        companions: Companions::default(),
    })
}
