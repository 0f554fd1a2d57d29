//! Translation between the two `ALFWorld` text versions: a world in which all games have the
//! wording of one version.
//!
//! If a policy learned the command `put X in/on Y`, it can then play games that expect
//! `move X to Y`, and the reverse. The observations, admissible commands and status of a translated
//! game equal, byte for byte, those of the same game in the other version; [`TextVersion`] lists
//! the differences. Only texts are translated: the inner world receives only its own commands.
//!
//! The wording of the other version lacks two facts, which have other sources:
//! - The location that is named on an arrival comes from the initial facts of the game.
//! - `help` is admissible if and only if `inventory` is. Both are operators without conditions, and
//!   no text depends on their only effect; they only need an agent that can execute them.
//!
//! The module depends on the wording of the two versions, but not on how a world creates its texts.

use crate::native::{NOTHING_HAPPENS, NativeWorld, is_blank};
use scenarios::{Environment, EnvironmentError, Observation, Status, Task, TextVersion, World};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The response to `help` in text 2.1.3.
pub const HELP: &str = "\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
";

/// The predicate for the location of a receptacle.
const LOCATION_PREDICATE: &str = "receptacleatlocation";

/// A world that opens the games of another world in the wording of one text version. If a game has
/// that version already, or neither version, it is not changed.
pub struct Translating<'w> {
    world: &'w dyn World,
    to: TextVersion,
    /// Reads the initial facts of games.
    facts: NativeWorld,
}

impl<'w> Translating<'w> {
    /// Returns a world with the games of `world`, all in the wording of `to`.
    #[must_use]
    pub fn new(world: &'w dyn World, to: TextVersion) -> Self {
        Self {
            world,
            to,
            facts: NativeWorld::new(),
        }
    }

    /// Returns the location of every receptacle of a game by its name. If a receptacle has two
    /// locations, the first is used.
    fn locations(&self, path: &Path) -> Result<HashMap<String, String>, EnvironmentError> {
        let game = self
            .facts
            .game(path)
            .map_err(|error| error.into_environment_error(path))?;
        let mut locations = HashMap::new();
        for fact in game.initial_facts(LOCATION_PREDICATE) {
            if let [receptacle, location] = fact[..] {
                locations
                    .entry(receptacle.to_owned())
                    .or_insert_with(|| location.to_owned());
            }
        }
        Ok(locations)
    }
}

impl World for Translating<'_> {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        let inner = self.world.open(task)?;
        match TextVersion::of_game(&task.path) {
            Some(from) if from != self.to => {
                let translator = TextTranslator {
                    from,
                    to: self.to,
                    locations: self.locations(&task.path)?,
                };
                Ok(Box::new(TranslatedGame {
                    inner,
                    translator: Arc::new(translator),
                    status: Status::Playing,
                }))
            }
            _ => Ok(inner),
        }
    }

    fn capacity(&self) -> Option<usize> {
        self.world.capacity()
    }
}

/// One running game in the wording of the other version.
struct TranslatedGame {
    inner: Box<dyn Environment>,
    translator: Arc<TextTranslator>,
    /// The status in the last response of the inner world.
    status: Status,
}

impl Environment for TranslatedGame {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        let opening = self.inner.reset()?; // the same in both versions
        self.status = opening.status;
        Ok(opening)
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        let command = command.trim_matches(is_blank);
        let text = match self.translator.command(command) {
            TranslatedCommand::Inner(inner) => {
                let observation = self.inner.step(&inner)?;
                self.status = observation.status;
                self.translator.response(&inner, observation.text)?
            }
            TranslatedCommand::Help
                if self
                    .admissible_commands()?
                    .iter()
                    .any(|command| command == "help") =>
            {
                HELP.to_owned()
            }
            TranslatedCommand::Help | TranslatedCommand::Unknown => NOTHING_HAPPENS.to_owned(),
        };
        Ok(Observation {
            text,
            status: self.status,
        })
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        Ok(self
            .translator
            .admissible(self.inner.admissible_commands()?))
    }

    fn state_hash(&self) -> Option<u64> {
        self.inner.state_hash()
    }

    fn remaining(&self) -> Option<usize> {
        self.inner.remaining()
    }

    fn fork(&self) -> Option<Box<dyn Environment>> {
        Some(Box::new(Self {
            inner: self.inner.fork()?,
            translator: Arc::clone(&self.translator),
            status: self.status,
        }))
    }
}

/// Translates the texts of a game between the versions.
struct TextTranslator {
    /// The version of the inner world.
    from: TextVersion,
    /// The version that the player sees.
    to: TextVersion,
    /// The name of the location of each receptacle, by the name of the receptacle.
    locations: HashMap<String, String>,
}

/// The translation of a command of version `to`.
#[derive(Debug, PartialEq, Eq)]
enum TranslatedCommand {
    /// A command of the inner world.
    Inner(String),
    /// `help`, which the inner world does not have.
    Help,
    /// A command that does not exist in `to`.
    Unknown,
}

impl TextTranslator {
    /// Translates a command of the player. The command has no blanks around it.
    fn command(&self, command: &str) -> TranslatedCommand {
        if command == "help" {
            return if self.to.has_help() {
                TranslatedCommand::Help
            } else {
                TranslatedCommand::Unknown
            };
        }
        if let Some((object, receptacle)) = self.to.put_parts(command) {
            return TranslatedCommand::Inner(self.from.put_command(object, receptacle));
        }
        match self.from.put_parts(command) {
            Some(_) => TranslatedCommand::Unknown,
            None => TranslatedCommand::Inner(command.to_owned()),
        }
    }

    /// Translates the response of the inner world to one of its commands.
    ///
    /// # Errors
    /// If the text is an arrival, but not in the form of `from` or not at the location of the
    /// receptacle.
    fn response(&self, command: &str, text: String) -> Result<String, EnvironmentError> {
        if let Some((object, receptacle)) = self.from.put_parts(command)
            && text == self.from.put_feedback(object, receptacle)
        {
            return Ok(self.to.put_feedback(object, receptacle));
        }
        let arrival = command
            .strip_prefix("go to ")
            .zip(text.strip_prefix("You arrive at "));
        let Some((receptacle, place)) = arrival else {
            return Ok(text);
        };
        self.arrival(receptacle, place)
            .ok_or_else(|| EnvironmentError::Step {
                command: command.to_owned(),
                reason: format!(
                    "{text:?} is not an arrival in text {}, or the location is unknown",
                    self.from
                ),
            })
    }

    /// Translates an arrival at a receptacle. `place` is the text after `You arrive at `: the name
    /// of the place and a description. Returns `None` if the place is not that of the receptacle.
    fn arrival(&self, receptacle: &str, place: &str) -> Option<String> {
        let location = self.locations.get(receptacle)?.as_str();
        let (old, new) = match self.to {
            TextVersion::V2_1_1 => (receptacle, location),
            TextVersion::V2_1_3 => (location, receptacle),
        };
        let description = place.strip_prefix(old)?;
        description
            .starts_with('.')
            .then(|| format!("You arrive at {new}{description}"))
    }

    /// Translates the admissible commands of the inner world. The result is sorted by bytes and has
    /// no duplicates.
    fn admissible(&self, inner: Vec<String>) -> Vec<String> {
        let has_help = self.to.has_help() && inner.iter().any(|command| command == "inventory");
        let others = inner.into_iter().filter(|command| command != "help");
        let mut commands: Vec<String> = others
            .map(|command| match self.from.put_parts(&command) {
                Some((object, receptacle)) => self.to.put_command(object, receptacle),
                None => command,
            })
            .chain(has_help.then(|| "help".to_owned()))
            .collect();
        commands.sort_unstable();
        commands.dedup();
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translator(to: TextVersion) -> TextTranslator {
        let from = if to == TextVersion::V2_1_1 {
            TextVersion::V2_1_3
        } else {
            TextVersion::V2_1_1
        };
        let locations = [
            ("desk 1", "loc 14"),
            ("desk 10", "loc 3"),
            ("fridge 1", "loc 1"),
        ];
        TextTranslator {
            from,
            to,
            locations: locations.map(|(r, l)| (r.to_owned(), l.to_owned())).into(),
        }
    }

    fn owned(commands: &[&str]) -> Vec<String> {
        commands
            .iter()
            .map(|command| (*command).to_owned())
            .collect()
    }

    #[test]
    fn commands_are_translated_to_those_of_the_inner_world() {
        let inner = |command: &str| TranslatedCommand::Inner(command.to_owned());
        for (to, command, meaning) in [
            (
                TextVersion::V2_1_1,
                "put mug 1 in/on desk 1",
                inner("move mug 1 to desk 1"),
            ),
            (
                TextVersion::V2_1_1,
                "move mug 1 to desk 1",
                TranslatedCommand::Unknown,
            ),
            (TextVersion::V2_1_1, "help", TranslatedCommand::Unknown),
            (TextVersion::V2_1_1, "go to desk 1", inner("go to desk 1")),
            (
                TextVersion::V2_1_1,
                "put mug 1 into desk 1",
                inner("put mug 1 into desk 1"),
            ),
            (
                TextVersion::V2_1_3,
                "move mug 1 to desk 1",
                inner("put mug 1 in/on desk 1"),
            ),
            (
                TextVersion::V2_1_3,
                "put mug 1 in/on desk 1",
                TranslatedCommand::Unknown,
            ),
            (TextVersion::V2_1_3, "help", TranslatedCommand::Help),
            (TextVersion::V2_1_3, "Help", inner("Help")),
            (TextVersion::V2_1_3, "", inner("")),
        ] {
            assert_eq!(
                translator(to).command(command),
                meaning,
                "{command:?} in text {to}"
            );
        }
    }

    #[test]
    fn only_arrivals_and_put_feedback_are_translated() {
        for (newer, move_or_put, older) in [
            (
                "You arrive at desk 1. On the desk 1, you see nothing.",
                ["go to desk 1"; 2],
                "You arrive at loc 14. On the desk 1, you see nothing.",
            ),
            (
                "You arrive at fridge 1. The fridge 1 is closed.",
                ["go to fridge 1"; 2],
                "You arrive at loc 1. The fridge 1 is closed.",
            ),
            (
                "You move the mug 1 to the desk 1.",
                ["move mug 1 to desk 1", "put mug 1 in/on desk 1"],
                "You put the mug 1 in/on the desk 1.",
            ),
            (
                "Nothing happens.",
                ["move mug 1 to desk 1", "put mug 1 in/on desk 1"],
                "Nothing happens.",
            ),
            ("Nothing happens.", ["go to desk 2"; 2], "Nothing happens."),
            (
                "You arrive at desk 1.",
                ["look"; 2],
                "You arrive at desk 1.",
            ),
        ] {
            let [in_newer, in_older] = move_or_put;
            assert_eq!(
                translator(TextVersion::V2_1_1)
                    .response(in_newer, newer.to_owned())
                    .unwrap(),
                older
            );
            assert_eq!(
                translator(TextVersion::V2_1_3)
                    .response(in_older, older.to_owned())
                    .unwrap(),
                newer
            );
        }
    }

    #[test]
    fn an_arrival_in_another_form_is_an_error() {
        for (command, text) in [
            (
                "go to desk 1",
                "You arrive at desk 10. On the desk 10, you see nothing.",
            ),
            (
                "go to shelf 1",
                "You arrive at shelf 1. On the shelf 1, you see nothing.",
            ),
            (
                "go to desk 1",
                "You arrive at loc 14. On the desk 1, you see nothing.",
            ),
        ] {
            let error = translator(TextVersion::V2_1_1)
                .response(command, text.to_owned())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("is not an arrival in text 2.1.3, or the location is unknown"),
                "{error}"
            );
        }
    }

    #[test]
    fn translated_lists_are_sorted_and_gain_or_lose_help() {
        let newer = [
            "go to desk 1",
            "help",
            "inventory",
            "look",
            "move mug 1 to desk 1",
            "move mug 1 to desk 10",
        ];
        let older = [
            "go to desk 1",
            "inventory",
            "look",
            "put mug 1 in/on desk 1",
            "put mug 1 in/on desk 10",
        ];
        assert_eq!(
            translator(TextVersion::V2_1_1).admissible(owned(&newer)),
            older
        );
        assert_eq!(
            translator(TextVersion::V2_1_3).admissible(owned(&older)),
            newer
        );
        let open = owned(&["open fridge 1", "put mug 1 in/on desk 1"]);
        let moved = ["move mug 1 to desk 1", "open fridge 1"];
        assert_eq!(
            translator(TextVersion::V2_1_3).admissible(open),
            moved,
            "sorted again, and no help if there is no inventory"
        );
        assert_eq!(
            translator(TextVersion::V2_1_1).admissible(owned(&["look", "look"])),
            ["look"]
        );
    }

    /// Repeats every command as its observation, and records the commands. Only `inventory` is
    /// admissible.
    struct RecordingEnvironment(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

    impl Environment for RecordingEnvironment {
        fn reset(&mut self) -> Result<Observation, EnvironmentError> {
            self.step("reset")
        }

        fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
            self.0.lock().unwrap().push(command.to_owned());
            let status = if command == "reset" {
                Status::Playing
            } else {
                Status::Lost
            };
            Ok(Observation {
                text: command.to_owned(),
                status,
            })
        }

        fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
            Ok(owned(&["inventory"]))
        }
    }

    #[test]
    fn commands_of_only_one_version_do_not_reach_the_inner_world() {
        for (to, help, refused) in [
            (TextVersion::V2_1_1, NOTHING_HAPPENS, "move mug 1 to desk 1"),
            (TextVersion::V2_1_3, HELP, "put mug 1 in/on desk 1"),
        ] {
            let received = std::sync::Arc::default();
            let inner = Box::new(RecordingEnvironment(std::sync::Arc::clone(&received)));
            let mut game = TranslatedGame {
                inner,
                translator: Arc::new(translator(to)),
                status: Status::Playing,
            };
            for (command, text, status) in [
                (" help ", help, Status::Playing),
                (" inventory\n", "inventory", Status::Lost),
                ("help", help, Status::Lost),
                (refused, NOTHING_HAPPENS, Status::Lost),
            ] {
                let expected = Observation {
                    text: text.to_owned(),
                    status,
                };
                assert_eq!(
                    game.step(command).unwrap(),
                    expected,
                    "{command:?} in text {to}"
                );
            }
            assert_eq!(game.reset().unwrap().status, Status::Playing);
            assert_eq!(
                game.step(refused).unwrap().status,
                Status::Playing,
                "a reset is a new game"
            );
            assert_eq!(*received.lock().unwrap(), ["inventory", "reset"]);
        }
    }
}
