//! The two text versions of `ALFWorld`'s games: the same houses and tasks with slightly different
//! texts.
//!
//! | | 2.1.1 | 2.1.3 |
//! | --- | --- | --- |
//! | put | `put X in/on Y`: `You put the X in/on the Y.` | `move X to Y`: `You move the X to the Y.` |
//! | arrive | `You arrive at loc 14.` | `You arrive at desk 1.` |
//! | `help` | not known | lists the commands |
//!
//! [`TextVersion::of_game`] reads the version of a game from its grammar. If only a logged episode
//! is available, [`TextVersion::of_trajectory`] infers the version from its texts.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;
use std::{fmt, fs, str::FromStr};

/// The wording of a game's texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TextVersion {
    /// The older version: `put X in/on Y`, arrivals name a location, no `help`.
    #[serde(rename = "2.1.1")]
    V2_1_1,
    /// The newer version: `move X to Y`, arrivals name the receptacle, `help` is a command.
    #[serde(rename = "2.1.3")]
    V2_1_3,
}

/// The part of a game file that determines its text version.
#[derive(Deserialize)]
struct GrammarOfGame<'a> {
    #[serde(borrow)]
    grammar: Cow<'a, str>,
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

    /// Returns the version of a TWL2 grammar, by its action templates. Returns `None` if they match
    /// neither version or both.
    #[must_use]
    pub fn of_grammar(grammar: &str) -> Option<Self> {
        agreed(Self::ALL.into_iter().filter(|version| {
            templates(grammar).any(|template| version.put_parts(template).is_some())
        }))
    }

    /// Returns the version of a game file. Returns `None` if the file is not a readable PDDL game,
    /// or if its grammar has neither version.
    #[must_use]
    pub fn of_game(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let game: GrammarOfGame<'_> = serde_json::from_slice(&bytes).ok()?;
        Self::of_grammar(&game.grammar)
    }

    /// Returns the command that puts an object down.
    #[must_use]
    pub fn put_command(self, object: &str, receptacle: &str) -> String {
        match self {
            Self::V2_1_1 => format!("put {object} in/on {receptacle}"),
            Self::V2_1_3 => format!("move {object} to {receptacle}"),
        }
    }

    /// Returns the object and the receptacle of a command that puts an object down. Returns `None`
    /// for any other command.
    #[must_use]
    pub fn put_parts(self, command: &str) -> Option<(&str, &str)> {
        match self {
            Self::V2_1_1 => command.strip_prefix("put ")?.split_once(" in/on "),
            Self::V2_1_3 => command.strip_prefix("move ")?.split_once(" to "),
        }
    }

    /// Returns the observation after an object has been put down.
    #[must_use]
    pub fn put_feedback(self, object: &str, receptacle: &str) -> String {
        match self {
            Self::V2_1_1 => format!("You put the {object} in/on the {receptacle}."),
            Self::V2_1_3 => format!("You move the {object} to the {receptacle}."),
        }
    }

    /// Returns true if `help` is a command.
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
        Self::ALL
            .into_iter()
            .find(|version| version.name() == name)
            .ok_or_else(|| format!("unknown text version {name:?}; known: 2.1.1, 2.1.3"))
    }
}

/// Returns the version on which all the evidence agrees. Returns `None` if there is no evidence or
/// if it is contradictory.
pub(crate) fn agreed(evidence: impl IntoIterator<Item = TextVersion>) -> Option<TextVersion> {
    let mut evidence = evidence.into_iter();
    let first = evidence.next()?;
    evidence.all(|version| version == first).then_some(first)
}

/// Iterates over the command templates of a grammar: the quoted texts after `template ::`.
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
    fn a_grammar_has_the_version_of_its_templates() {
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
    fn generated_games_have_the_version_they_were_asked_for() {
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
    fn a_file_that_is_not_a_game_has_no_version() {
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
}
