//! The sources of commands: the walkthrough, random admissible commands, and the fuzzer.

use super::fuzzer::{CommandFuzzer, FuzzInput};
use crate::native::NativeGame;
use scenarios::seed::SplitMix64;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where the commands of a game come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Commands {
    /// The walkthrough of the game if it has one, then admissible commands, also after the goal is
    /// reached.
    Walkthrough,
    /// Admissible commands, uniformly at random.
    Random,
    /// The walkthrough with admissible and sometimes adversarial commands between.
    Mixed,
    /// Texts that may break a parser; half of them are made from admissible commands. Every third
    /// command is admissible, so that the state changes.
    Adversarial,
}

impl Commands {
    /// All four sources.
    pub const ALL: [Self; 4] = [
        Self::Walkthrough,
        Self::Random,
        Self::Mixed,
        Self::Adversarial,
    ];

    /// Returns the name that is used on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Walkthrough => "walkthrough",
            Self::Random => "random",
            Self::Mixed => "mixed",
            Self::Adversarial => "adversarial",
        }
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Commands {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|commands| commands.name() == name)
            .ok_or_else(|| {
                format!("unknown commands {name:?}; known: walkthrough, random, mixed, adversarial")
            })
    }
}

/// The commands of one game, drawn one at a time.
pub(super) struct CommandStream {
    commands: Commands,
    game: Arc<NativeGame>,
    /// Commands of the walkthrough that were returned.
    walked: usize,
    /// Commands of any kind that were returned.
    drawn: usize,
    rng: SplitMix64,
}

impl CommandStream {
    pub(super) fn new(commands: Commands, game: Arc<NativeGame>, rng: SplitMix64) -> Self {
        Self {
            commands,
            game,
            walked: 0,
            drawn: 0,
            rng,
        }
    }

    /// Returns the next command. `admissible` is the list of commands that are admissible now.
    pub(super) fn next(&mut self, admissible: &[String]) -> String {
        self.drawn += 1;
        match self.commands {
            Commands::Walkthrough => self.walkthrough(admissible),
            Commands::Random => self.random(admissible),
            Commands::Mixed => match self.rng.below(20) {
                0..10 => self.walkthrough(admissible),
                10..17 => self.random(admissible),
                _ => self.adversarial(admissible),
            },
            Commands::Adversarial if self.drawn.is_multiple_of(3) => self.random(admissible),
            Commands::Adversarial => self.adversarial(admissible),
        }
    }

    /// Returns the next command of the walkthrough. If there is none, returns a random one.
    fn walkthrough(&mut self, admissible: &[String]) -> String {
        let next = self
            .game
            .walkthrough()
            .and_then(|walkthrough| walkthrough.get(self.walked))
            .cloned();
        self.walked += 1;
        next.unwrap_or_else(|| self.random(admissible))
    }

    fn random(&mut self, admissible: &[String]) -> String {
        self.rng
            .pick(admissible)
            .cloned()
            .unwrap_or_else(|| "look".to_owned())
    }

    fn adversarial(&mut self, admissible: &[String]) -> String {
        let base = self.random(admissible);
        let inputs: &[FuzzInput] = if self.rng.below(2) == 0 {
            &FuzzInput::MUTATED
        } else {
            &FuzzInput::GENERATED
        };
        let input = *self.rng.pick(inputs).unwrap_or(&FuzzInput::Empty);
        CommandFuzzer {
            rng: &mut self.rng,
            game: &self.game,
            admissible,
        }
        .draw(input, &base)
    }
}

/// Returns a stream of random numbers for each seed and game.
pub(super) fn stream_of_game(seed: u64, hash: &str) -> SplitMix64 {
    hash.bytes().fold(SplitMix64(seed), |mut stream, byte| {
        SplitMix64(stream.next() ^ u64::from(byte))
    })
}
