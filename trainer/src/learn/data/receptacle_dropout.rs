//! Augmentation by receptacle dropout: the first observation loses some of the receptacles that its
//! episode never names.
//!
//! The train split of ALFWorld has a hundred rooms for thousands of games. A small decoder soon
//! memorises a room by the list of receptacles in the first observation. What it memorised is
//! useless in a room that it has not seen. If a receptacle is missing that the episode never
//! visits, the episode is still valid in the changed room.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::Trajectory;
use scenarios::expert::receptacles;

/// Removes receptacles that no later text of the episode names from the first observation, each
/// with the same probability.
///
/// The probability is drawn between 0 and `most` for every game, repetition and seed, so some
/// observations stay nearly complete. If the list changes, the token ids of the episode are
/// cleared, because it must be tokenized again. If the text lists no receptacles, or none of them
/// would be left, the episode stays as it is.
pub fn drop_receptacles(trajectory: &mut Trajectory, most: f64, seed: u64) {
    let Some((opening, later)) = trajectory.turns.split_first_mut() else {
        return;
    };
    let list = receptacles(&opening.observation);
    let later_texts: Vec<&str> = std::iter::once(opening.completion.as_str())
        .chain(
            later
                .iter()
                .flat_map(|turn| [turn.observation.as_str(), turn.completion.as_str()]),
        )
        .chain([trajectory.last_observation.as_str()])
        .collect();
    let hash = trajectory
        .game_hash
        .get(..16)
        .and_then(|hash| u64::from_str_radix(hash, 16).ok())
        .unwrap_or_default();
    let mut random = StdRng::seed_from_u64(seed ^ hash ^ trajectory.seed.rotate_left(32));
    let probability = random.random_range(0.0..=most);
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let kept: Vec<&str> = list
        .iter()
        .copied()
        .filter(|name| {
            !random.random_bool(probability) || later_texts.iter().any(|text| names(text, name))
        })
        .collect();
    if kept.is_empty() || kept.len() == list.len() {
        return;
    }
    opening.observation = opening
        .observation
        .replacen(&listed(&list), &listed(&kept), 1);
    for turn in &mut trajectory.turns {
        turn.observation_tokens.clear();
        turn.completion_tokens.clear();
        turn.logprobs.clear();
    }
}

/// Returns `a x 1, a y 2, and a z 3`, the form of the observation. There must be a name.
pub(crate) fn listed(names: &[&str]) -> String {
    let last = names.len() - 1;
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            text += ", ";
        }
        if index == last && last > 0 {
            text += "and ";
        }
        text += "a ";
        text += name;
    }
    text
}

/// Returns whether a text contains this name. `desk 1` in `desk 12` does not count.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name)
        .any(|(at, _)| !text[at + name.len()..].starts_with(|next: char| next.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::{Outcome, Protocol, Split, Turn};

    fn episode(list: &str) -> Trajectory {
        let turn = |observation: String, completion: &str| Turn {
            observation,
            completion: completion.into(),
            action: Some(completion.into()),
            completion_tokens: vec![5],
            ..Turn::default()
        };
        Trajectory {
            format: Trajectory::FORMAT,
            game: "train/a".into(),
            game_hash: "0123456789abcdef0123".into(),
            split: Split::Train,
            task_type: None,
            repetition: 0,
            seed: 7,
            policy: "expert".into(),
            value_policy: None,
            protocol: Protocol::default(),
            turns: vec![
                turn(
                    format!(
                        "Hello.\n\nLooking quickly around you, you see {list}.\n\nYour task is to: put a pen in safe."
                    ),
                    "go to desk 12",
                ),
                turn(
                    "You arrive at desk 12. On the desk 12, you see a pen 1.".into(),
                    "take pen 1 from desk 12",
                ),
            ],
            last_observation: "You stand beside safe 1.".into(),
            outcome: Outcome::Success,
            reward: 1.0,
            seconds: 0.0,
            spent: scenarios::Spent::default(),
            branch: None,
            failure: None,
        }
    }

    #[test]
    fn receptacles_that_the_episode_names_stay() {
        let list = "a bed 1, a desk 12, a desk 1, a safe 1, and a shelf 3";
        let reduced = |seed| {
            let mut episode = episode(list);
            drop_receptacles(&mut episode, 1.0, seed);
            episode
        };
        let least = (0..40)
            .map(reduced)
            .min_by_key(|episode| episode.turns[0].observation.len());
        let mut reduced = least.expect("forty episodes");
        let opening = "Hello.\n\nLooking quickly around you, you see a desk 12, and a safe 1.\n\nYour task is to: put a pen in safe.";
        assert_eq!(reduced.turns[0].observation, opening);
        assert!(
            reduced
                .turns
                .iter()
                .all(|turn| turn.completion_tokens.is_empty()),
            "it must be tokenized again"
        );
        reduced.turns[0].observation = episode(list).turns[0].observation.clone();
        reduced
            .turns
            .iter_mut()
            .for_each(|turn| turn.completion_tokens = vec![5]);
        assert_eq!(reduced, episode(list), "nothing else is changed");
    }

    #[test]
    fn the_draw_depends_on_episode_and_seed_alone() {
        let list: Vec<String> = (1..=40)
            .rev()
            .map(|number| format!("shelf {number}"))
            .collect();
        let list = listed(&list.iter().map(String::as_str).collect::<Vec<_>>());
        let reduced = |seed, of: u64| {
            let mut episode = Trajectory {
                seed: of,
                ..episode(&list)
            };
            drop_receptacles(&mut episode, 0.5, seed);
            episode.turns.remove(0).observation
        };
        assert_eq!(reduced(1, 1), reduced(1, 1));
        assert!(reduced(1, 1) != reduced(2, 1) && reduced(1, 1) != reduced(1, 2));
        let left: Vec<usize> = (0..40)
            .map(|seed| reduced(seed, 1).matches("shelf").count())
            .collect();
        assert!(
            left.iter().any(|left| *left > 36) && left.iter().any(|left| *left < 26),
            "of 40: {left:?}"
        );
    }

    #[test]
    fn texts_without_a_list_stay_as_they_are() {
        for list in ["nothing", "a desk 1"] {
            let mut same = episode(list);
            same.turns.truncate(0);
            drop_receptacles(&mut same, 1.0, 1);
            let mut same = episode(list);
            drop_receptacles(&mut same, 1.0, 1);
            assert_eq!(same, episode(list));
        }
    }
}
