//! Rooms that an imitator cannot know by heart: an opening without some of the receptacles that its episode never names.
//!
//! ALFWorld's train split has a hundred rooms for thousands of games. A small decoder soon knows them by the list in the
//! opening, and what it learned in them by heart it cannot use in a room that it has never seen. Who plays by what it
//! sees goes the same way in a room that lacks what it never went to: the episode stays true.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::Trajectory;
use scenarios::expert::receptacles;

/// Leaves each receptacle that no later turn names out of the opening, with one chance for all, drawn between 0 and `most`
/// anew for every game, repetition and seed: some openings stay as full as those that will be met. What is changed is an
/// episode in text again, without token ids. Texts that list no receptacles, and lists of which nothing would be left, stay
/// as they are.
pub fn thin(trajectory: &mut Trajectory, most: f64, seed: u64) {
    let Some((opening, later)) = trajectory.turns.split_first_mut() else {
        return;
    };
    let list = receptacles(&opening.observation);
    let told: Vec<&str> = std::iter::once(opening.completion.as_str())
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
    let chance = random.random_range(0.0..=most);
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let kept: Vec<&str> = (list.iter().copied())
        .filter(|name| !random.random_bool(chance) || told.iter().any(|text| names(text, name)))
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

/// `a x 1, a y 2, and a z 3`, as the world says it.
fn listed(names: &[&str]) -> String {
    let last = names.len() - 1;
    let item = |(index, name): (usize, &&str)| match index {
        index if index == last && last > 0 => format!("and a {name}"),
        _ => format!("a {name}"),
    };
    names
        .iter()
        .enumerate()
        .map(item)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether a text holds this name, and not only as the beginning of `desk 12`.
fn names(text: &str, name: &str) -> bool {
    let is_end =
        |at: usize| !text[at + name.len()..].starts_with(|next: char| next.is_ascii_digit());
    text.match_indices(name).any(|(at, _)| is_end(at))
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
            failure: None,
        }
    }

    #[test]
    fn what_the_episode_names_stays() {
        let list = "a bed 1, a desk 12, a desk 1, a safe 1, and a shelf 3";
        let thinned = |seed| {
            let mut episode = episode(list);
            thin(&mut episode, 1.0, seed);
            episode
        };
        let least = (0..40)
            .map(thinned)
            .min_by_key(|episode| episode.turns[0].observation.len());
        let mut thinned = least.expect("there are some");
        let opening = "Hello.\n\nLooking quickly around you, you see a desk 12, and a safe 1.\n\nYour task is to: put a pen in safe.";
        assert_eq!(thinned.turns[0].observation, opening);
        assert!(
            thinned
                .turns
                .iter()
                .all(|turn| turn.completion_tokens.is_empty()),
            "it is to be read anew"
        );
        thinned.turns[0].observation = episode(list).turns[0].observation.clone();
        thinned
            .turns
            .iter_mut()
            .for_each(|turn| turn.completion_tokens = vec![5]);
        assert_eq!(thinned, episode(list), "nothing else is changed");
    }

    #[test]
    fn another_draw_for_every_episode_and_the_same_for_the_same() {
        let list: Vec<String> = (1..=40)
            .rev()
            .map(|number| format!("shelf {number}"))
            .collect();
        let list = listed(&list.iter().map(String::as_str).collect::<Vec<_>>());
        let thinned = |seed, of: u64| {
            let mut episode = Trajectory {
                seed: of,
                ..episode(&list)
            };
            thin(&mut episode, 0.5, seed);
            episode.turns.remove(0).observation
        };
        assert_eq!(thinned(1, 1), thinned(1, 1));
        assert!(thinned(1, 1) != thinned(2, 1) && thinned(1, 1) != thinned(1, 2));
        let left: Vec<usize> = (0..40)
            .map(|seed| thinned(seed, 1).matches("shelf").count())
            .collect();
        assert!(
            left.iter().any(|left| *left > 36) && left.iter().any(|left| *left < 26),
            "of 40: {left:?}"
        );
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for list in ["nothing", "a desk 1"] {
            let mut same = episode(list);
            same.turns.truncate(0);
            thin(&mut same, 1.0, 1);
            let mut same = episode(list);
            thin(&mut same, 1.0, 1);
            assert_eq!(same, episode(list));
        }
    }
}
