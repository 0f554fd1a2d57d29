//! The two text versions of `ALFWorld`'s games: the same houses and tasks in slightly different words.
//!
//! | | 2.1.1 | 2.1.3 |
//! | --- | --- | --- |
//! | put | `put X in/on Y`: `You put the X in/on the Y.` | `move X to Y`: `You move the X to the Y.` |
//! | arrive | `You arrive at loc 14.` | `You arrive at desk 1.` |
//! | `help` | not known | lists the commands |
//!
//! A game says in its grammar which it is ([`TextVersion::of_game`]); a logged episode shows it in what was said
//! ([`TextVersion::of_trajectory`]).

use crate::trajectory::Trajectory;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;
use std::{fmt, fs, str::FromStr};

/// Which words a game uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TextVersion {
    /// The older: `put X in/on Y`, arrivals name a location, no `help`.
    #[serde(rename = "2.1.1")]
    V2_1_1,
    /// The newer: `move X to Y`, arrivals name the receptacle, `help` is a command.
    #[serde(rename = "2.1.3")]
    V2_1_3,
}

impl TextVersion {
    /// Both, the older first.
    pub const ALL: [Self; 2] = [Self::V2_1_1, Self::V2_1_3];

    /// `ALFWorld`'s number of the version.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V2_1_1 => "2.1.1",
            Self::V2_1_3 => "2.1.3",
        }
    }

    /// The version of a TWL2 grammar, by its action templates; `None` where they are of neither or of both.
    #[must_use]
    pub fn of_grammar(grammar: &str) -> Option<Self> {
        let has_template = |version: &Self| {
            templates(grammar).any(|template| version.put_parts(template).is_some())
        };
        only(Self::ALL.into_iter().filter(has_template))
    }

    /// The version of a game file; `None` when it is not a readable PDDL game, or of neither version.
    #[must_use]
    pub fn of_game(path: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct GameFile<'a> {
            #[serde(borrow)]
            grammar: Cow<'a, str>,
        }
        let bytes = fs::read(path).ok()?;
        let game: GameFile<'_> = serde_json::from_slice(&bytes).ok()?;
        Self::of_grammar(&game.grammar)
    }

    /// The version that a logged episode shows; `None` where nothing in it tells, or where it contradicts itself.
    #[must_use]
    pub fn of_trajectory(trajectory: &Trajectory) -> Option<Self> {
        let later = trajectory
            .turns
            .iter()
            .skip(1)
            .map(|turn| turn.observation.as_str());
        let answers = later.chain([trajectory.last_observation.as_str()]);
        let shown =
            |(action, answer): (Option<&str>, &str)| Self::of_answer(action?.trim(), answer);
        only(
            trajectory
                .turns
                .iter()
                .map(|turn| turn.action.as_deref())
                .zip(answers)
                .filter_map(shown),
        )
    }

    /// The version that a command and its answer show.
    fn of_answer(command: &str, answer: &str) -> Option<Self> {
        let put = |version: &Self| {
            let parts = version.put_parts(command);
            parts.is_some_and(|(object, receptacle)| {
                answer.starts_with(&version.put_feedback(object, receptacle))
            })
        };
        Self::ALL
            .into_iter()
            .find(put)
            .or_else(|| Self::of_arrival(command, answer))
    }

    fn of_arrival(command: &str, answer: &str) -> Option<Self> {
        let receptacle = command.strip_prefix("go to ")?;
        let (place, _) = answer.strip_prefix("You arrive at ")?.split_once('.')?;
        let is_location = || {
            place
                .strip_prefix("loc ")
                .is_some_and(|number| number.parse::<u32>().is_ok())
        };
        if place == receptacle {
            Some(Self::V2_1_3)
        } else {
            is_location().then_some(Self::V2_1_1)
        }
    }

    /// The command that puts an object down.
    #[must_use]
    pub fn put_command(self, object: &str, receptacle: &str) -> String {
        match self {
            Self::V2_1_1 => format!("put {object} in/on {receptacle}"),
            Self::V2_1_3 => format!("move {object} to {receptacle}"),
        }
    }

    /// Object and receptacle of a command that puts an object down; `None` for any other command.
    #[must_use]
    pub fn put_parts(self, command: &str) -> Option<(&str, &str)> {
        match self {
            Self::V2_1_1 => command.strip_prefix("put ")?.split_once(" in/on "),
            Self::V2_1_3 => command.strip_prefix("move ")?.split_once(" to "),
        }
    }

    /// What the world says when an object has been put down.
    #[must_use]
    pub fn put_feedback(self, object: &str, receptacle: &str) -> String {
        match self {
            Self::V2_1_1 => format!("You put the {object} in/on the {receptacle}."),
            Self::V2_1_3 => format!("You move the {object} to the {receptacle}."),
        }
    }

    /// Whether `help` is a command.
    #[must_use]
    pub fn has_help(self) -> bool {
        self == Self::V2_1_3
    }
}

impl fmt::Display for TextVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for TextVersion {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("unknown text version {name:?}; known: 2.1.1, 2.1.3");
        Self::ALL
            .into_iter()
            .find(|version| version.name() == name)
            .ok_or_else(unknown)
    }
}

/// The version that all the evidence agrees on.
fn only(evidence: impl IntoIterator<Item = TextVersion>) -> Option<TextVersion> {
    let mut evidence = evidence.into_iter();
    let first = evidence.next()?;
    evidence.all(|version| version == first).then_some(first)
}

/// The command templates of a grammar: what stands in quotes after `template ::`.
fn templates(grammar: &str) -> impl Iterator<Item = &str> {
    grammar.split("template").skip(1).filter_map(|rest| {
        let quoted = rest
            .trim_start()
            .strip_prefix("::")?
            .trim_start()
            .strip_prefix('"')?;
        quoted.trim_start_matches('"').split('"').next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::household::{GenerateOptions, games, generate};
    use crate::task::Split;
    use crate::trajectory::{Outcome, Protocol, Spent, Turn};

    fn few(text: TextVersion) -> GenerateOptions {
        GenerateOptions {
            train: 6,
            valid_train: 0,
            seen: 0,
            unseen: 6,
            text,
            ..GenerateOptions::default()
        }
    }

    /// Turns of (action, what the world answered).
    fn trajectory(said: &[(Option<&str>, &str)]) -> Trajectory {
        let before = std::iter::once("opening").chain(said.iter().map(|(_, answer)| *answer));
        let turn = |(observation, (action, _)): (&str, &(Option<&str>, &str))| Turn {
            observation: observation.into(),
            completion: action.unwrap_or("?").into(),
            action: action.map(str::to_owned),
            ..Turn::default()
        };
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
            turns: before.zip(said).map(turn).collect(),
            last_observation: said.last().map_or("opening", |(_, answer)| answer).into(),
            outcome: Outcome::TurnLimit,
            reward: 0.0,
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
        }
    }

    #[test]
    fn a_version_is_written_as_its_number() {
        for version in TextVersion::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
            assert_eq!(
                serde_json::to_string(&version).unwrap(),
                format!("\"{version}\"")
            );
            assert_eq!(
                serde_json::from_str::<TextVersion>(&format!("\"{version}\"")).unwrap(),
                version
            );
        }
        let error = "2.1.2".parse::<TextVersion>().unwrap_err();
        assert_eq!(error, "unknown text version \"2.1.2\"; known: 2.1.1, 2.1.3");
    }

    #[test]
    fn a_grammar_tells_by_its_templates() {
        let older = "action Put { template :: \"put {o} in/on {r}\"; feedback :: \"#put#\"; }";
        let newer = "action Put {\n  template::\"move {o} to {r}\";\n}";
        let neither =
            "action Put { template :: \"put {o} into {r}\"; feedback :: \"move {o} to {r}\"; }";
        assert_eq!(TextVersion::of_grammar(older), Some(TextVersion::V2_1_1));
        assert_eq!(TextVersion::of_grammar(newer), Some(TextVersion::V2_1_3));
        assert_eq!(TextVersion::of_grammar(&format!("{older}{newer}")), None);
        for text in [
            neither,
            "",
            "template",
            "template ::",
            "template :: \"",
            "template :: \"move",
        ] {
            assert_eq!(TextVersion::of_grammar(text), None, "{text:?}");
        }
    }

    #[test]
    fn generated_games_say_their_version() {
        for version in TextVersion::ALL {
            for (_, game) in games(&few(version)).unwrap() {
                assert_eq!(
                    TextVersion::of_grammar(&game.grammar),
                    Some(version),
                    "{}",
                    game.id
                );
            }
            let folder = tempfile::tempdir().unwrap();
            for task in generate(folder.path(), &few(version)).unwrap().tasks {
                assert_eq!(
                    TextVersion::of_game(&task.path),
                    Some(version),
                    "{}",
                    task.id
                );
            }
        }
    }

    #[test]
    fn what_is_no_game_has_no_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("game");
        assert_eq!(TextVersion::of_game(&path), None, "no file");
        assert_eq!(TextVersion::of_game(folder.path()), None, "a folder");
        for content in [
            &b"\xff\x00"[..],
            b"",
            b"{}",
            b"{\"grammar\": 1}",
            b"{\"grammar\": \"\"}",
            b"[1, 2",
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(TextVersion::of_game(&path), None, "{content:?}");
        }
    }

    #[test]
    fn an_episode_tells_by_what_was_said() {
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
        let silent = [
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
        let version = |said: &[_]| TextVersion::of_trajectory(&trajectory(said));
        assert_eq!(version(&[]), None);
        assert_eq!(version(&silent), None);
        for told in [desk, moved] {
            assert_eq!(version(&[told]), Some(TextVersion::V2_1_3), "{told:?}");
            assert_eq!(
                version(&[silent[0], told, silent[2]]),
                Some(TextVersion::V2_1_3),
                "{told:?}"
            );
        }
        for told in [loc, put] {
            assert_eq!(version(&[told]), Some(TextVersion::V2_1_1), "{told:?}");
            assert_eq!(
                version(&[silent[1], told, silent[3]]),
                Some(TextVersion::V2_1_1),
                "{told:?}"
            );
        }
        assert_eq!(version(&[desk, put]), None, "a contradiction tells nothing");
    }
}
