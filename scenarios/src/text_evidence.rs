//! Infers the text version of a logged episode from its commands and observations.

use crate::text_version::{TextVersion, agreed};
use crate::trajectory::Trajectory;

impl TextVersion {
    /// Returns the version that a logged episode shows. Returns `None` if no turn shows a version,
    /// or if the turns contradict each other.
    #[must_use]
    pub fn of_trajectory(trajectory: &Trajectory) -> Option<Self> {
        let turns = &trajectory.turns;
        let responses = turns
            .iter()
            .skip(1)
            .map(|turn| turn.observation.as_str())
            .chain([trajectory.last_observation.as_str()]);
        agreed(
            turns.iter().zip(responses).filter_map(|(turn, response)| {
                of_response(turn.action.as_deref()?.trim(), response)
            }),
        )
    }
}

/// Returns the version that a command and the response of the environment show.
fn of_response(command: &str, response: &str) -> Option<TextVersion> {
    TextVersion::ALL
        .into_iter()
        .find(|version| {
            version
                .put_parts(command)
                .is_some_and(|(object, receptacle)| {
                    response.starts_with(&version.put_feedback(object, receptacle))
                })
        })
        .or_else(|| of_arrival(command, response))
}

fn of_arrival(command: &str, response: &str) -> Option<TextVersion> {
    let receptacle = command.strip_prefix("go to ")?;
    let (place, _) = response.strip_prefix("You arrive at ")?.split_once('.')?;
    if place == receptacle {
        return Some(TextVersion::V2_1_3);
    }
    let number = place.strip_prefix("loc ")?;
    number.parse::<u32>().is_ok().then_some(TextVersion::V2_1_1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;
    use crate::task::Split;
    use crate::trajectory::{Outcome, Spent, Turn};

    /// Returns an episode with these (action, response of the environment) pairs as its turns.
    fn trajectory(exchanges: &[(Option<&str>, &str)]) -> Trajectory {
        let observations =
            std::iter::once("opening").chain(exchanges.iter().map(|(_, response)| *response));
        let turns = observations
            .zip(exchanges)
            .map(|(observation, (action, _))| Turn {
                observation: observation.into(),
                completion: action.unwrap_or("?").into(),
                action: action.map(str::to_owned),
                ..Turn::default()
            })
            .collect();
        Trajectory {
            format: Trajectory::FORMAT,
            game: "a game".into(),
            game_hash: String::new(),
            split: Split::Train,
            task_type: None,
            repetition: 0,
            seed: 0,
            policy: "test".into(),
            value_policy: None,
            protocol: Protocol::default(),
            turns,
            last_observation: exchanges
                .last()
                .map_or("opening", |(_, response)| response)
                .into(),
            outcome: Outcome::TurnLimit,
            reward: 0.0,
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
            branch: None,
        }
    }

    fn version(exchanges: &[(Option<&str>, &str)]) -> Option<TextVersion> {
        TextVersion::of_trajectory(&trajectory(exchanges))
    }

    #[test]
    fn the_version_of_an_episode_is_inferred_from_its_texts() {
        let desk = (
            Some("go to desk 1"),
            "You arrive at desk 1. On the desk 1, you see nothing.",
        );
        let loc = (
            Some("go to desk 1"),
            "You arrive at loc 14. On the desk 1, you see nothing.",
        );
        let moved = (
            Some(" move cup 1 to desk 1"),
            "You move the cup 1 to the desk 1.\nAdmissible commands: look",
        );
        let put = (
            Some("put cup 1 in/on desk 1"),
            "You put the cup 1 in/on the desk 1.",
        );
        let neutral = [
            (None, "You arrive at loc 14."),
            (Some("look"), "You arrive at loc 14."),
            (Some("go to desk 1"), "Nothing happens."),
            (Some("go to desk 1"), "You arrive at last. Nobody is here."),
            (Some("put cup 1 in/on desk 1"), "Nothing happens."),
            (
                Some("move cup 1 to desk 1"),
                "You put the cup 1 in/on the desk 1.",
            ),
        ];
        assert_eq!(version(&[]), None);
        assert_eq!(version(&neutral), None);
        for exchange in [desk, moved] {
            assert_eq!(
                version(&[exchange]),
                Some(TextVersion::V2_1_3),
                "{exchange:?}"
            );
            assert_eq!(
                version(&[neutral[0], exchange, neutral[2]]),
                Some(TextVersion::V2_1_3),
                "{exchange:?}"
            );
        }
        for exchange in [loc, put] {
            assert_eq!(
                version(&[exchange]),
                Some(TextVersion::V2_1_1),
                "{exchange:?}"
            );
            assert_eq!(
                version(&[neutral[1], exchange, neutral[3]]),
                Some(TextVersion::V2_1_1),
                "{exchange:?}"
            );
        }
        assert_eq!(
            version(&[desk, put]),
            None,
            "a contradiction determines nothing"
        );
    }
}
