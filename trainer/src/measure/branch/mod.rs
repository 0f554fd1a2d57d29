//! Branches: Monte-Carlo returns of several actions of one state, in copies of the state's game.
//!
//! A value network that is fitted to whole episodes learns mostly how far an episode is, because
//! this explains most of its return. It is not told what the other actions of a state would have
//! led to. VinePPO (arXiv 2410.01679) replaces such a network by the mean return of continuations
//! that start in the state. Here these returns are training data and a measure: they rank the
//! actions of one state, and everything that the actions share cancels.
//!
//! For a state, K candidates are sampled from the policy, at a high temperature so that they differ.
//! They are distinct by command: the first K distinct commands of at most [`SAMPLES`] · K samples. From
//! the state after each candidate the policy plays M continuations to the end of the episode, within the
//! turns that the protocol leaves. The return of a continuation is γ^(n−1) if it was won with n turns, the
//! candidate's turn included, and 0 if it was not.
//!
//! **Nothing is selected by outcome.** A copy of a game has the hidden layout of this game, so the best of
//! several continuations is informed by what no policy can observe, and a value fitted to it is biased.
//! All candidates and all continuations are recorded. If a state has only one distinct command,
//! its candidate is continued too, although there is nothing to compare it with.
//!
//! Each state becomes one record, a [`Trajectory`] with [`Trajectory::branch`]. This module does not read
//! or write stores.

mod play;
mod recipe;
mod states;

pub(crate) use play::play_jobs;
pub use play::{BranchCost, BranchResult, BranchState, Branching, SAMPLES, play_branches};
pub use recipe::{BranchRecipe, branch_protocol};
pub use states::branched_turns;

use scenarios::{Task, Trajectory};
use std::collections::HashMap;

/// Returns the states of these episodes that are branched, in the order of the episodes. Episodes
/// that have no turn, and those whose environment failed, have none. If the game of an episode is
/// not in `tasks`, which maps the hashes of games to them, its states are left out.
#[must_use]
pub fn branch_states<'a>(
    episodes: &'a [Trajectory],
    tasks: &HashMap<&str, &'a Task>,
    recipe: &BranchRecipe,
    seed: u64,
) -> Vec<BranchState<'a>> {
    let mut states = Vec::new();
    for index in recipe.selected(episodes, seed) {
        let episode = &episodes[index];
        let Some(&task) = tasks.get(episode.game_hash.as_str()) else {
            continue;
        };
        states.extend(
            branched_turns(episode, recipe.states, seed)
                .into_iter()
                .map(|turn| BranchState {
                    task,
                    episode,
                    turn,
                }),
        );
    }
    states
}
