//! The states that are branched: turns of an episode, half of them uniform and half where it
//! matters.

use crate::measure::failures::repeats;
use scenarios::seed::SplitMix64;
use scenarios::{Trajectory, Turn};

/// The observation after a command that the environment refused.
const REFUSED: &str = "Nothing happens.";

/// Separates the random numbers of this choice from those of the candidates and continuations.
const CHOICE: u64 = 0x0073_7461_7465;

/// Returns the indices of up to `states` turns of an episode, in increasing order. The choice
/// depends only on the episode and the seed.
///
/// The turns are drawn alternately from all turns and from the turns where it matters, both
/// uniformly and without repetition. A random bit decides which comes first, so with one state half
/// of the episodes give a turn of each kind. A turn matters if the turn before it repeated a command
/// in a state where the episode had given it before, or if the observation is that nothing happens.
/// If no such turn is left, all turns are drawn from.
#[must_use]
pub fn branched_turns(episode: &Trajectory, states: usize, seed: u64) -> Vec<usize> {
    let turns = &episode.turns;
    let mut random = SplitMix64::new(&[seed, episode.seed, CHOICE, turns.len() as u64]);
    let mut left: Vec<usize> = (0..turns.len()).collect();
    random.shuffle(&mut left);
    let matters = matters(turns);
    let first = random.below(2);
    let mut chosen = Vec::new();
    for number in 0..states.min(turns.len()) {
        let place = if (number + first).is_multiple_of(2) {
            left.iter().position(|turn| matters[*turn])
        } else {
            None
        };
        chosen.push(left.remove(place.unwrap_or(0)));
    }
    chosen.sort_unstable();
    chosen
}

/// Returns for each turn whether it is one of the turns where it matters.
fn matters(turns: &[Turn]) -> Vec<bool> {
    let repeats = repeats(turns);
    (0..turns.len())
        .map(|turn| {
            turn > 0
                && (repeats[turn - 1] || turns[turn].observation.trim_start().starts_with(REFUSED))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An episode of (observation, command) turns.
    fn episode(seed: u64, turns: &[(&str, &str)]) -> Trajectory {
        let line = serde_json::json!({
            "format": 1, "game": "train/a", "game_hash": "00", "split": "train", "task_type": null,
            "repetition": 0, "seed": seed, "policy": "p", "protocol": scenarios::Protocol::default(),
            "turns": turns.iter().map(|(observation, command)| serde_json::json!({
                "observation": observation, "observation_tokens": [], "completion": command,
                "completion_tokens": [], "logprobs": [], "action": command,
            })).collect::<Vec<_>>(),
            "last_observation": "", "outcome": "turn_limit", "seconds": 0.0,
        });
        serde_json::from_value(line).expect("a trajectory")
    }

    const WALK: [(&str, &str); 6] = [
        ("room 0", "east"),
        ("room 1", "fly"),
        ("Nothing happens.", "look"),
        ("room 1 again", "look"),
        ("room 1 again", "look"),
        ("room 1 again", "east"),
    ];

    /// Turn 2 follows a refused command, and turn 5 a repeated one: at turn 4, `look` was given
    /// after the observation of turn 3.
    #[test]
    fn turns_after_repeated_and_refused_commands_matter() {
        let turns = episode(1, &WALK).turns;
        let expected = [false, false, true, false, false, true];
        assert_eq!(matters(&turns), expected);
        assert_eq!(matters(&[]), [false; 0]);
    }

    /// Of 600 episodes, half give turn 2 or 5. The other half are uniform, so two of six of them
    /// give these turns too: 2/3 in all. The standard deviation is 11.5.
    #[test]
    fn half_of_the_states_are_where_it_matters() {
        let mut counts = [0_usize; 6];
        for seed in 0..600 {
            for turn in branched_turns(&episode(seed, &WALK), 1, 7) {
                counts[turn] += 1;
            }
        }
        assert_eq!(counts.iter().sum::<usize>(), 600);
        let mattering = counts[2] + counts[5];
        assert!(mattering.abs_diff(400) < 46, "{counts:?}");
        assert!(counts.iter().all(|count| *count > 25), "{counts:?}");
    }

    /// With two states, one is always where it matters.
    #[test]
    fn the_turns_are_distinct_and_follow_from_the_seed() {
        for seed in 0..50 {
            let walk = episode(seed, &WALK);
            let turns = branched_turns(&walk, 2, 7);
            assert!(turns.len() == 2 && turns[0] < turns[1], "{turns:?}");
            assert!(turns.contains(&2) || turns.contains(&5), "{turns:?}");
            assert_eq!(branched_turns(&walk, 2, 7), turns);
            assert_eq!(branched_turns(&walk, 9, 7), [0, 1, 2, 3, 4, 5]);
            assert_eq!(branched_turns(&walk, 0, 7), [0_usize; 0]);
        }
        let quiet = episode(3, &WALK[..2]);
        assert_eq!(branched_turns(&quiet, 2, 7), [0, 1]);
        assert_eq!(branched_turns(&episode(3, &[]), 2, 7), [0_usize; 0]);
    }
}
