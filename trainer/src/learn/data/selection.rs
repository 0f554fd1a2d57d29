//! Episode selection: which episodes a training job reads, by the rules of [`DataSource`].

use crate::learn::config::{DataSource, Lost, Prefer};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::Trajectory;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

/// Returns the iterations whose rollouts a source reads in `iteration` (from 1); `None` if it reads
/// no rollouts.
#[must_use]
pub fn iterations(source: &DataSource, iteration: usize) -> Option<RangeInclusive<usize>> {
    match *source {
        DataSource::Demonstrations
        | DataSource::Dagger
        | DataSource::Branches
        | DataSource::Rescues => None,
        DataSource::Rollouts => Some(1..=iteration),
        DataSource::LatestRollouts => Some(iteration..=iteration),
        DataSource::SelectedRollouts { last: 0, .. } => Some(1..=iteration),
        DataSource::SelectedRollouts { last, .. } => {
            Some((iteration + 1).saturating_sub(last).max(1)..=iteration)
        }
    }
}

/// Returns the episodes that a job reads in `iteration`: source after source, each in the order of
/// iterations and of play. If two sources contain the same episode, it is read once.
///
/// `dagger` contains the expert labels on states that students visited. `rollouts` contains the
/// rollouts of every iteration that a source reads. `rescues` contains the rescues of this iteration.
#[must_use]
pub fn select_episodes(
    sources: &[DataSource],
    demonstrations: &[Trajectory],
    dagger: &[&[Trajectory]],
    rollouts: &BTreeMap<usize, &[Trajectory]>,
    rescues: &[Trajectory],
    iteration: usize,
    seed: u64,
) -> Vec<Trajectory> {
    let mut selected: Vec<&Trajectory> = Vec::new();
    let mut seen: HashSet<*const Trajectory> = HashSet::new();
    for source in sources {
        let in_range = iterations(source, iteration)
            .into_iter()
            .flatten()
            .filter_map(|iteration| rollouts.get(&iteration))
            .copied()
            .flatten()
            .collect();
        let episodes: Vec<&Trajectory> = match source {
            DataSource::Demonstrations => demonstrations.iter().collect(),
            DataSource::Dagger => dagger.iter().copied().flatten().collect(),
            DataSource::SelectedRollouts {
                won_per_game,
                prefer,
                lost,
                ..
            } => cap_won(in_range, *won_per_game, *prefer, *lost, seed),
            DataSource::Rollouts | DataSource::LatestRollouts => in_range,
            DataSource::Rescues => rescues.iter().collect(),
            DataSource::Branches => Vec::new(), // no episodes: the job reads them from their store
        };
        selected.extend(
            episodes
                .into_iter()
                .filter(|episode| seen.insert(std::ptr::from_ref(*episode))),
        );
    }
    selected.into_iter().cloned().collect()
}

/// Keeps at most `won_per_game` won episodes of each game (0 = all), and all or none of the lost
/// ones. The order stays.
fn cap_won(
    episodes: Vec<&Trajectory>,
    won_per_game: usize,
    prefer: Prefer,
    lost: Lost,
    seed: u64,
) -> Vec<&Trajectory> {
    let mut won: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, episode) in episodes.iter().enumerate() {
        if episode.is_won() {
            won.entry(&episode.game_hash).or_default().push(place);
        }
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut keeps: Vec<bool> = episodes
        .iter()
        .map(|episode| !episode.is_won() && lost == Lost::Kept)
        .collect();
    for mut places in won.into_values() {
        match prefer {
            Prefer::Shortest => {
                places.sort_by_key(|place| (episodes[*place].turns.len(), Reverse(*place)));
            }
            Prefer::Random => places.shuffle(&mut random),
        }
        let most = if won_per_game == 0 {
            places.len()
        } else {
            won_per_game
        };
        for place in places.into_iter().take(most) {
            keeps[place] = true;
        }
    }
    episodes
        .into_iter()
        .zip(keeps)
        .filter(|(_, keep)| *keep)
        .map(|(episode, _)| episode)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::{Outcome, Protocol, Spent, Split, Turn};

    fn episode(game: &str, seed: u64, turns: usize, outcome: Outcome) -> Trajectory {
        Trajectory {
            format: Trajectory::FORMAT,
            game: game.into(),
            game_hash: game.into(),
            split: Split::Train,
            task_type: None,
            repetition: 0,
            seed,
            policy: "p".into(),
            value_policy: None,
            protocol: Protocol::default(),
            turns: vec![Turn::default(); turns],
            last_observation: String::new(),
            outcome,
            reward: outcome.reward(),
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
            branch: None,
        }
    }

    /// The seed identifies an episode: 0 is a demonstration, 1 is from DAgger, 11 to 13 are from
    /// iteration 1, 21 to 23 from iteration 2, 31 and 32 from iteration 3; 91 is a
    /// rescue.
    fn seeds(data: &[DataSource], iteration: usize) -> Vec<u64> {
        use Outcome::{Success, TurnLimit};
        let demonstrations = [episode("a", 0, 9, Success)];
        let dagger = [episode("a", 1, 9, Success)];
        let rollouts: BTreeMap<usize, Vec<Trajectory>> = BTreeMap::from([
            (
                1,
                vec![
                    episode("a", 11, 5, Success),
                    episode("b", 12, 3, Success),
                    episode("a", 13, 9, TurnLimit),
                ],
            ),
            (
                2,
                vec![
                    episode("a", 21, 4, Success),
                    episode("b", 22, 9, TurnLimit),
                    episode("a", 23, 6, Success),
                ],
            ),
            (
                3,
                vec![episode("a", 31, 4, Success), episode("b", 32, 7, Success)],
            ),
        ]);
        let rollouts = rollouts
            .iter()
            .map(|(iteration, episodes)| (*iteration, episodes.as_slice()))
            .collect();
        let rescues = [episode("a", 91, 9, Success)];
        select_episodes(
            data,
            &demonstrations,
            &[&dagger],
            &rollouts,
            &rescues,
            iteration,
            7,
        )
        .iter()
        .map(|episode| episode.seed)
        .collect()
    }

    fn selected(last: usize, won_per_game: usize, prefer: Prefer, lost: Lost) -> DataSource {
        DataSource::SelectedRollouts {
            last,
            won_per_game,
            prefer,
            lost,
        }
    }

    #[test]
    fn the_range_of_iterations_moves_with_the_iteration() {
        assert_eq!(
            seeds(&[DataSource::Demonstrations, DataSource::Rollouts], 2),
            [0, 11, 12, 13, 21, 22, 23]
        );
        assert_eq!(seeds(&[DataSource::LatestRollouts], 3), [31, 32]);
        assert_eq!(
            seeds(&[DataSource::Demonstrations, DataSource::Dagger], 1),
            [0, 1]
        );
        assert_eq!(
            seeds(&[DataSource::LatestRollouts, DataSource::Branches], 1),
            [11, 12, 13],
            "branches are no episodes"
        );
        assert_eq!(
            seeds(&[DataSource::Rescues, DataSource::LatestRollouts], 3),
            [91, 31, 32]
        );
        let last_two = selected(2, 0, Prefer::Shortest, Lost::Kept);
        assert_eq!(seeds(&[last_two], 1), [11, 12, 13]);
        assert_eq!(seeds(&[last_two], 3), [21, 22, 23, 31, 32]);
    }

    /// Game a was won in 5 turns (11), 4 (21), 6 (23) and 4 (31); b in 3 (12) and 7 (32). If two
    /// episodes have the same length, the later one is preferred.
    #[test]
    fn won_episodes_are_capped_by_game_in_order() {
        assert_eq!(
            seeds(&[selected(0, 1, Prefer::Shortest, Lost::LeftOut)], 3),
            [12, 31]
        );
        assert_eq!(
            seeds(&[selected(0, 2, Prefer::Shortest, Lost::LeftOut)], 3),
            [12, 21, 31, 32]
        );
        assert_eq!(
            seeds(&[selected(0, 1, Prefer::Shortest, Lost::Kept)], 3),
            [12, 13, 22, 31]
        );
        assert_eq!(
            seeds(&[selected(2, 1, Prefer::Shortest, Lost::LeftOut)], 3),
            [31, 32]
        );
        let random = seeds(&[selected(0, 2, Prefer::Random, Lost::LeftOut)], 3);
        assert_eq!(
            random,
            seeds(&[selected(0, 2, Prefer::Random, Lost::LeftOut)], 3),
            "the seed decides"
        );
        let of_a = random
            .iter()
            .filter(|seed| [11, 21, 23, 31].contains(seed))
            .count();
        assert_eq!((of_a, random.len()), (2, 4));
    }

    #[test]
    fn an_episode_of_two_sources_is_read_once() {
        let sources = [
            DataSource::LatestRollouts,
            selected(0, 1, Prefer::Shortest, Lost::LeftOut),
        ];
        assert_eq!(seeds(&sources, 3), [31, 32, 12]);
    }
}
