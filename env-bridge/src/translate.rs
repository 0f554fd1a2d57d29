//! Translation: a world whose games all speak one of `ALFWorld`'s two text versions, whichever they are written in.
//!
//! A policy that learned `put X in/on Y` can so play games that say `move X to Y`, and the reverse. What a player sees of
//! a translated game (observation, admissible commands, status) is to the byte what the same game in the other version
//! shows; [`TextVersion`] says what differs. Only the words are touched: the inner world is never asked for anything but
//! its own commands.
//!
//! Two things the other version's words do not tell are taken from elsewhere. The location that an arrival names comes
//! from the game's initial facts. And `help` is admissible exactly while `inventory` is: both are operators without
//! conditions whose one effect no text looks at, so that nothing but an agent to perform them is asked for.
//!
//! Knows the words of the two versions, not how a world comes by its texts.

use crate::native::{NOTHING_HAPPENS, NativeWorld, is_blank};
use scenarios::{Environment, EnvironmentError, Observation, Status, Task, TextVersion, World};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// What `help` says in text 2.1.3.
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

/// The predicate that says where a receptacle stands.
const STANDS_AT: &str = "receptacleatlocation";

/// A world that opens the games of another and has them speak one text version. A game of that version, and one that is
/// of neither, is passed on untouched.
pub struct Translating<'w> {
    world: &'w dyn World,
    to: TextVersion,
    /// Reads the initial facts of games.
    facts: NativeWorld,
}

impl<'w> Translating<'w> {
    /// The games of `world`, all in the words of `to`.
    #[must_use]
    pub fn new(world: &'w dyn World, to: TextVersion) -> Self {
        Self {
            world,
            to,
            facts: NativeWorld::new(),
        }
    }

    /// The location of every receptacle of a game. One that stands in two places is said to stand in the first.
    fn locations(&self, path: &Path) -> Result<Locations, EnvironmentError> {
        let game = self
            .facts
            .game(path)
            .map_err(|error| error.into_environment_error(path))?;
        let mut locations = Locations::new();
        for fact in game.initial_facts(STANDS_AT) {
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
                let words = Arc::new(Words {
                    from,
                    to: self.to,
                    locations: self.locations(&task.path)?,
                });
                Ok(Box::new(Translated {
                    inner,
                    words,
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

/// One running game in the words of the other version.
struct Translated {
    inner: Box<dyn Environment>,
    words: Arc<Words>,
    /// How the game stood when the inner world last spoke.
    status: Status,
}

impl Environment for Translated {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        let opening = self.inner.reset()?; // the same in both versions
        self.status = opening.status;
        Ok(opening)
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        let command = command.trim_matches(is_blank);
        let text = match self.words.meaning(command) {
            Meaning::Inner(inner) => {
                let said = self.inner.step(&inner)?;
                self.status = said.status;
                self.words.answer(&inner, said.text)?
            }
            Meaning::Help
                if self
                    .admissible_commands()?
                    .iter()
                    .any(|command| command == "help") =>
            {
                HELP.to_owned()
            }
            Meaning::Help | Meaning::Nothing => NOTHING_HAPPENS.to_owned(),
        };
        Ok(Observation {
            text,
            status: self.status,
        })
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        Ok(self.words.commands(self.inner.admissible_commands()?))
    }

    fn state_hash(&self) -> Option<u64> {
        self.inner.state_hash()
    }

    fn remaining(&self) -> Option<usize> {
        self.inner.remaining()
    }

    fn fork(&self) -> Option<Box<dyn Environment>> {
        let (words, status) = (Arc::clone(&self.words), self.status);
        Some(Box::new(Self {
            inner: self.inner.fork()?,
            words,
            status,
        }))
    }
}

/// By a receptacle's name, the name of its location.
type Locations = HashMap<String, String>;

/// How to turn the words of one version of a game into those of the other.
struct Words {
    from: TextVersion,
    to: TextVersion,
    locations: Locations,
}

/// What a command in the words of `to` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// This command of the inner world.
    Inner(String),
    /// The list of commands, which the inner world does not have.
    Help,
    /// Something that `to` does not know.
    Nothing,
}

impl Words {
    /// What a command without blanks around it asks for.
    fn meaning(&self, command: &str) -> Meaning {
        if command == "help" {
            return if self.to.has_help() {
                Meaning::Help
            } else {
                Meaning::Nothing
            };
        }
        if let Some((object, receptacle)) = self.to.put_parts(command) {
            return Meaning::Inner(self.from.put_command(object, receptacle));
        }
        match self.from.put_parts(command) {
            Some(_) => Meaning::Nothing,
            None => Meaning::Inner(command.to_owned()),
        }
    }

    /// The inner world's answer to one of its commands.
    fn answer(&self, command: &str, text: String) -> Result<String, EnvironmentError> {
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
                    "{text:?} is no arrival of text {}, or the place is not known",
                    self.from
                ),
            })
    }

    /// An arrival at a receptacle, where `place` is what follows `You arrive at `: the place's name and what is to be
    /// seen. `None` when the place is not that of the receptacle.
    fn arrival(&self, receptacle: &str, place: &str) -> Option<String> {
        let location = self.locations.get(receptacle)?.as_str();
        let (old, new) = match self.to {
            TextVersion::V2_1_1 => (receptacle, location),
            TextVersion::V2_1_3 => (location, receptacle),
        };
        let seen = place.strip_prefix(old)?;
        seen.starts_with('.')
            .then(|| format!("You arrive at {new}{seen}"))
    }

    /// A list of admissible commands, sorted by bytes and without doubles.
    fn commands(&self, inner: Vec<String>) -> Vec<String> {
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

    fn words(to: TextVersion) -> Words {
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
        Words {
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
    fn commands_are_turned_into_the_inner_worlds() {
        let inner = |command: &str| Meaning::Inner(command.to_owned());
        for (to, command, meaning) in [
            (
                TextVersion::V2_1_1,
                "put mug 1 in/on desk 1",
                inner("move mug 1 to desk 1"),
            ),
            (
                TextVersion::V2_1_1,
                "move mug 1 to desk 1",
                Meaning::Nothing,
            ),
            (TextVersion::V2_1_1, "help", Meaning::Nothing),
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
                Meaning::Nothing,
            ),
            (TextVersion::V2_1_3, "help", Meaning::Help),
            (TextVersion::V2_1_3, "Help", inner("Help")),
            (TextVersion::V2_1_3, "", inner("")),
        ] {
            assert_eq!(
                words(to).meaning(command),
                meaning,
                "{command:?} in text {to}"
            );
        }
    }

    #[test]
    fn only_arrivals_and_putting_down_are_said_otherwise() {
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
                words(TextVersion::V2_1_1)
                    .answer(in_newer, newer.to_owned())
                    .unwrap(),
                older
            );
            assert_eq!(
                words(TextVersion::V2_1_3)
                    .answer(in_older, older.to_owned())
                    .unwrap(),
                newer
            );
        }
    }

    #[test]
    fn an_arrival_that_is_not_understood_is_an_error() {
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
            let error = words(TextVersion::V2_1_1)
                .answer(command, text.to_owned())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("is no arrival of text 2.1.3, or the place is not known"),
                "{error}"
            );
        }
    }

    #[test]
    fn lists_stay_sorted_and_gain_or_lose_help() {
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
        assert_eq!(words(TextVersion::V2_1_1).commands(owned(&newer)), older);
        assert_eq!(words(TextVersion::V2_1_3).commands(owned(&older)), newer);
        let open = owned(&["open fridge 1", "put mug 1 in/on desk 1"]);
        let moved = ["move mug 1 to desk 1", "open fridge 1"];
        assert_eq!(
            words(TextVersion::V2_1_3).commands(open),
            moved,
            "sorted anew, and no help without inventory"
        );
        assert_eq!(
            words(TextVersion::V2_1_1).commands(owned(&["look", "look"])),
            ["look"]
        );
    }

    /// Answers `inventory` and nothing else, and writes down what it was asked.
    struct Scribe(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

    impl Environment for Scribe {
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
    fn what_only_one_version_knows_never_reaches_the_other() {
        for (to, help, refused) in [
            (TextVersion::V2_1_1, NOTHING_HAPPENS, "move mug 1 to desk 1"),
            (TextVersion::V2_1_3, HELP, "put mug 1 in/on desk 1"),
        ] {
            let asked = std::sync::Arc::default();
            let inner = Box::new(Scribe(std::sync::Arc::clone(&asked)));
            let mut game = Translated {
                inner,
                words: Arc::new(words(to)),
                status: Status::Playing,
            };
            let mut says = |command: &str, text: &str, status| {
                let expected = Observation {
                    text: text.to_owned(),
                    status,
                };
                assert_eq!(
                    game.step(command).unwrap(),
                    expected,
                    "{command:?} in text {to}"
                );
            };
            says(" help ", help, Status::Playing);
            says(" inventory\n", "inventory", Status::Lost);
            says("help", help, Status::Lost);
            says(refused, NOTHING_HAPPENS, Status::Lost);
            assert_eq!(game.reset().unwrap().status, Status::Playing);
            assert_eq!(
                game.step(refused).unwrap().status,
                Status::Playing,
                "a reset is a new game"
            );
            assert_eq!(*asked.lock().unwrap(), ["inventory", "reset"]);
        }
    }
}
