//! Short episodes first: in a share of the updates, from the first, batches are drawn from the shortest
//! quarter of the episodes, and then from all.
//!
//! Induction heads need fewer tokens to form if sequences are short: about T √(batch · context)
//! (arXiv 2511.16893). The key is our extension, and only imitation has it: in other algorithms a batch
//! of short episodes would be a batch of successes.

use super::episodes::{EpisodeRow, TrajectoryGroup};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

/// One in so many episodes is short.
const PART: usize = 4;

/// Added to the seed, so that the short episodes have an order of their own.
const SEED_OFFSET: u64 = 1 << 40;

/// Which updates read short episodes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShortEpisodes {
    /// Share of the updates, from the first, rounded to a number of updates.
    pub(super) share: f64,
    /// Episodes of an update.
    pub(super) batch: usize,
    /// Seed of their order.
    pub(super) seed: u64,
}

impl ShortEpisodes {
    /// Replaces the groups of the first updates by groups of the shortest quarter of `groups`, by
    /// tokens. These are read in passes, each in an order of its own. The number of updates, their
    /// epochs and all later updates stay as they are; so does everything if the share is 0.
    ///
    /// A group is a list of rows of `data`; imitation has one row in each.
    pub(super) fn come_first(
        self,
        updates: &mut [(usize, Vec<TrajectoryGroup>)],
        groups: &[TrajectoryGroup],
        data: &[EpisodeRow],
    ) {
        let count = (self.share * updates.len() as f64).round() as usize;
        if count == 0 {
            return;
        }
        let mut shortest = groups.to_vec();
        shortest.sort_by_key(|group| group.rows().map(|row| data[row].tokens).sum::<u32>());
        shortest.truncate(groups.len().div_ceil(PART));
        let mut batches: Vec<Vec<TrajectoryGroup>> = Vec::new();
        for pass in 0.. {
            if batches.len() >= count {
                break;
            }
            let seed = self.seed.wrapping_add(SEED_OFFSET).wrapping_add(pass);
            shortest.shuffle(&mut StdRng::seed_from_u64(seed));
            batches.extend(shortest.chunks(self.batch).map(<[_]>::to_vec));
        }
        for ((_, groups), batch) in updates.iter_mut().take(count).zip(batches) {
            *groups = batch;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::config::{Algorithm, Targets, TrainConfig};
    use crate::learn::episodes::{Episodes, Readable};
    use crate::learn::optimizer::OptimizerRecipe;
    use crate::learn::plan::Plan;
    use scenarios::Trajectory;
    use serde_json::json;
    use std::collections::BTreeSet;

    /// Ten episodes of 11, 10, …, 2 tokens.
    fn episodes() -> Vec<Trajectory> {
        let protocol = json!({
            "turn_limit": 3, "context_limit": 99, "completion_limit": 9, "temperature": 1.0, "best_of": 1,
            "admissible_shown": false, "history": "full", "malformed": "wasted_turn",
        });
        (0..10)
            .map(|index| {
                let turn = json!({
                    "observation": "", "observation_tokens": vec![1; 10 - index], "completion": "",
                    "completion_tokens": [2], "logprobs": [], "action": "look",
                });
                serde_json::from_value(json!({
                    "format": 1, "game": format!("g{index}"), "game_hash": "", "split": "train",
                    "task_type": null, "repetition": 0, "seed": 0, "policy": "", "protocol": protocol,
                    "turns": [turn], "last_observation": "", "outcome": "success", "seconds": 0.0,
                }))
                .expect("an episode")
            })
            .collect()
    }

    fn recipe(short_first: f64) -> TrainConfig {
        TrainConfig {
            short_first,
            optimizer: OptimizerRecipe {
                batch: 2,
                updates: 12,
                ..OptimizerRecipe::default()
            },
            ..TrainConfig::of(Algorithm::Sft {
                targets: Targets::Actions,
            })
        }
    }

    fn planned(short_first: f64, seed: u64) -> Vec<(usize, Vec<TrajectoryGroup>)> {
        let recipe = recipe(short_first);
        let trajectories = episodes();
        let episodes = Episodes::in_memory(Readable::new(&recipe, 64), &trajectories);
        let episodes = episodes.expect("episodes");
        let plan = Plan::new(&recipe, &episodes, seed).expect("plans");
        plan.updates.clone()
    }

    /// Ten episodes have a quarter of three. A third of twelve updates is four: passes of a batch of
    /// two and a batch of one.
    #[test]
    fn the_first_updates_read_the_shortest_quarter() {
        let usual = planned(0.0, 3);
        let short = planned(1.0 / 3.0, 3);
        assert_eq!(short[4..], usual[4..]);
        let sizes: Vec<usize> = short[..4].iter().map(|(_, groups)| groups.len()).collect();
        assert_eq!(sizes, [2, 1, 2, 1]);
        for pass in [&short[..2], &short[2..4]] {
            let read: BTreeSet<usize> = pass
                .iter()
                .flat_map(|(_, groups)| groups.iter().flat_map(TrajectoryGroup::rows))
                .collect();
            assert_eq!(read, BTreeSet::from([7, 8, 9]));
        }
        let epochs: Vec<usize> = short.iter().map(|(epoch, _)| *epoch).collect();
        assert_eq!(
            epochs,
            usual.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>()
        );
        assert_eq!(planned(1.0 / 3.0, 3), short);
        assert_ne!(planned(0.9, 3), planned(0.9, 4));
    }

    /// The default is the plan of a job without the key, to the update.
    #[test]
    fn a_share_of_nothing_changes_nothing() {
        let [first, second] = [0, 1].map(TrajectoryGroup::Single);
        let mut updates = vec![(0, vec![second]), (0, vec![first])];
        let before = updates.clone();
        let trajectories = episodes();
        let recipe = recipe(0.0);
        let episodes = Episodes::in_memory(Readable::new(&recipe, 64), &trajectories);
        let episodes = episodes.expect("episodes");
        for share in [0.0, 0.2] {
            let short = ShortEpisodes {
                share,
                batch: 1,
                seed: 1,
            };
            short.come_first(&mut updates, &[first, second], &episodes.rows);
            assert_eq!(updates, before, "less than half an update");
        }
    }
}
