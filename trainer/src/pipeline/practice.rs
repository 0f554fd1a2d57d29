//! The practice suites of a recipe: further games that the expert and the policy play, but that no evaluation
//! plays.

use crate::error::TrainerError;
use crate::pipeline::recipe::GamesRecipe;
use scenarios::suite::hex_sha256;
use scenarios::{Split, Suite};
use std::collections::BTreeMap;

/// Opens the practice suites of a recipe.
///
/// # Errors
/// If a suite cannot be read or has no `train` games.
pub fn open(games: &GamesRecipe) -> Result<Vec<Suite>, TrainerError> {
    games
        .practice()
        .iter()
        .map(|path| {
            let suite = Suite::open(path)?;
            if suite.split(Split::Train).is_empty() {
                let reason =
                    "has no train games\nhint: name a suite with a train split in games.practice";
                return Err(TrainerError::content(path, reason));
            }
            Ok(suite)
        })
        .collect()
}

/// Returns the hash over the practice suites, or `None` if there are none. Only their `train` games are part of
/// it, so that a change of their other splits repeats nothing.
#[must_use]
pub fn hash(practice: &[Suite]) -> Option<String> {
    if practice.is_empty() {
        return None;
    }
    let games = practice.iter().flat_map(|suite| suite.split(Split::Train));
    let lines: Vec<String> = games
        .map(|task| format!("{}\t{}\n", task.id, task.hash))
        .collect();
    Some(hex_sha256(lines.concat().as_bytes()))
}

/// Checks that each `train` game of the practice suites is in one suite of the recipe only.
///
/// # Errors
/// If a game is also in the main suite, in whatever split, or in another practice suite.
pub fn check(suite: &Suite, practice: &[Suite]) -> Result<(), TrainerError> {
    let mut known: BTreeMap<&str, (&str, &str)> = suite
        .tasks
        .iter()
        .map(|task| (task.hash.as_str(), (task.id.as_str(), suite.name.as_str())))
        .collect();
    for suite in practice {
        for task in suite.split(Split::Train) {
            if let Some((id, other)) = known.insert(&task.hash, (&task.id, &suite.name)) {
                let reason = format!(
                    "its game {} is also the game {id} of {other}\nhint: a game must be in one suite of the recipe only; \
                     remove this suite from games.practice",
                    task.id
                );
                return Err(TrainerError::content(&suite.root, reason));
            }
        }
    }
    Ok(())
}
