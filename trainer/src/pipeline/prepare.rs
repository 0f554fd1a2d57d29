//! Preparation of a training job's data: augmentation, token ids, a new model if the job starts from random
//! weights, and its reading test.

use crate::error::TrainerError;
use crate::learn::receptacle_dropout::drop_receptacles;
use crate::measure::reading::ReadingTest;
use crate::pipeline::recipe::{ModelRecipe, TrainConfig};
use crate::pipeline::rounds::expert_episodes;
use agent::model::folder::{Companions, Model};
use agent::text::chat;
use agent::text::tokenizer::Tokenizer;
use scenarios::{Split, Suite, Task, Trajectory, World};
use std::collections::BTreeSet;

/// Largest number of games that give pairs to the reading test of a job.
const READING_GAMES: usize = 100;

/// Prepares episodes for a job. If the job sets `receptacle_dropout`, receptacles are removed from the first
/// observations. Token ids that are missing are filled in.
pub fn prepare(
    job: &TrainConfig,
    tokenizer: &Tokenizer,
    trajectories: &mut [Trajectory],
    seed: u64,
) {
    for trajectory in trajectories {
        prepare_one(job, tokenizer, trajectory, seed);
    }
}

/// Prepares one episode: [`prepare`]. The result does not depend on other episodes.
pub fn prepare_one(
    job: &TrainConfig,
    tokenizer: &Tokenizer,
    trajectory: &mut Trajectory,
    seed: u64,
) {
    if let Some(most) = job.receptacle_dropout {
        drop_receptacles(trajectory, most, seed);
    }
    tokenize_texts(tokenizer, std::slice::from_mut(trajectory));
}

/// Fills in the token ids of episodes that have only texts, or the ids of another tokenizer.
pub fn tokenize_texts(tokenizer: &Tokenizer, trajectories: &mut [Trajectory]) {
    for trajectory in trajectories {
        if !chat::is_tokenized_by(tokenizer, trajectory) {
            chat::tokenize(tokenizer, trajectory);
        }
    }
}

/// Returns the model from which fresh jobs start: that of the checkpoint, or a decoder with its initial
/// weights and a vocabulary from these texts. The order of the texts does not matter.
///
/// # Errors
/// If the checkpoint cannot be read or has a shorter context, the tokenizer library returns an error, or the
/// decoder cannot have the initial heads.
pub fn fresh<S: AsRef<str> + Send>(
    shape: &ModelRecipe,
    texts: impl Iterator<Item = S> + Send,
    seed: u64,
) -> Result<Model, TrainerError> {
    if let Some(model) = open_checkpoint(shape)? {
        return Ok(model);
    }
    let tokenizer = Tokenizer::train_with(texts, shape.vocabulary, shape.numbers)?;
    let config = shape.config(&tokenizer);
    Ok(Model {
        policy: shape.initial_weights(&config, seed)?,
        config,
        tokenizer,
        value: None,
        text_versions: BTreeSet::new(),
        companions: Companions::default(),
    })
}

/// Returns the texts of episodes that a vocabulary is made from.
pub fn texts_of(trajectories: &[Trajectory]) -> impl Iterator<Item = &str> + Send {
    trajectories
        .iter()
        .flat_map(|trajectory| &trajectory.turns)
        .flat_map(|turn| [turn.observation.as_str(), turn.completion.as_str()])
}

/// Opens the checkpoint from which fresh jobs start, if the recipe names one.
///
/// # Errors
/// If the checkpoint cannot be read, or its context is shorter than the recipe's.
pub fn open_checkpoint(shape: &ModelRecipe) -> Result<Option<Model>, TrainerError> {
    let Some(path) = &shape.checkpoint else {
        return Ok(None);
    };
    let model = Model::open(path)?;
    let longest = model.config.max_position_embeddings;
    if shape.context > longest {
        return Err(TrainerError::content(
            path,
            format!(
                "its context has {longest} tokens, and that of [model] {}",
                shape.context
            ),
        ));
    }
    Ok(Some(model))
}

/// Returns the reading test of a job that starts from this model: pairs from the first 100 games of valid_train,
/// or of train if the suite has no valid_train. Test games are never used. The expert plays the games anew.
///
/// # Errors
/// If the suite has no such games, or none of them gives a pair.
pub fn reading_test(
    world: &dyn World,
    suite: &Suite,
    start: &Model,
    seed: u64,
) -> Result<ReadingTest, TrainerError> {
    let tasks = [Split::ValidTrain, Split::Train]
        .into_iter()
        .map(|split| suite.split(split))
        .find(|tasks| !tasks.is_empty())
        .ok_or_else(|| {
            TrainerError::Data(
                "the reading test has no games: the suite has neither valid_train nor train".into(),
            )
        })?;
    let tasks: Vec<&Task> = tasks.into_iter().take(READING_GAMES).collect();
    let episodes = expert_episodes(world, &tasks, seed);
    let context = start.config.max_position_embeddings;
    ReadingTest::new(&start.tokenizer, context, &episodes, seed)
}
