//! Translation compared with real games: a translated game equals the same game in the other text
//! version, byte for byte. The games are generated ones, and those of ALFWorld if they are
//! available.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use crate::support;
use env_bridge::{NativeWorld, Translating};
use scenarios::household::{GenerateOptions, Size, generate};
use scenarios::{Environment, Split, Suite, Task, TaskType, TextVersion, World};
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn generated_games_are_translated_byte_for_byte() {
    let mut coverage = TranslationCoverage::default();
    for (size, train, seed) in [(Size::Small, 24, 7), (Size::Full, 6, 8)] {
        let folder = tempfile::tempdir().unwrap();
        let suites = TextVersion::ALL.map(|text| {
            let options = GenerateOptions {
                seed,
                size,
                train,
                valid_train: 0,
                seen: 0,
                unseen: 6,
                text,
            };
            generate(&folder.path().join(text.name()), &options).unwrap()
        });
        coverage.compare(&suites);
    }
    coverage.assert_complete();
}

#[test]
fn alfworld_games_are_translated_byte_for_byte() {
    let Some(alfworld) = support::alfworld() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut coverage = TranslationCoverage::default();
    for text in TextVersion::ALL {
        let target = folder.path().join(text.name());
        if !support::expand_games(&alfworld, &target, text.name(), Split::ValidSeen) {
            return;
        }
    }
    let suites = TextVersion::ALL.map(|text| Suite::open(folder.path().join(text.name())).unwrap());
    assert_eq!(suites[0].tasks.len(), 140);
    coverage.compare(&suites);
    coverage.assert_complete();
}

/// If a game has the wanted version already, or if the file is not a game, the result is that of
/// the inner world.
#[test]
fn games_that_need_no_translation_are_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let native = NativeWorld::new();
    for text in TextVersion::ALL {
        let options = GenerateOptions {
            train: 1,
            valid_train: 0,
            seen: 0,
            unseen: 0,
            text,
            ..GenerateOptions::default()
        };
        let task = generate(&folder.path().join(text.name()), &options)
            .unwrap()
            .tasks
            .remove(0);
        let translating = Translating::new(&native, text);
        let mut pair = TranslatedPair::open(&native, &task, &translating, &task);
        pair.reset();
        for command in ["help", "move a 1 to b 1", "look", " inventory\n"] {
            pair.step(command);
        }
        let missing = Task {
            path: folder.path().join("nowhere"),
            ..task
        };
        let error = |world: &dyn World| world.open(&missing).err().unwrap().to_string();
        assert_eq!(error(&translating), error(&native));
    }
}

/// The same game twice: from its own file, and translated from the file of the other version.
struct TranslatedPair {
    name: String,
    real: Box<dyn Environment>,
    translated: Box<dyn Environment>,
    admissible: Vec<String>,
    won: bool,
}

impl TranslatedPair {
    fn open(
        native: &NativeWorld,
        real: &Task,
        translating: &Translating<'_>,
        other: &Task,
    ) -> Self {
        Self {
            name: format!(
                "{}, translated from {}",
                real.path.display(),
                other.path.display()
            ),
            real: native.open(real).unwrap(),
            translated: translating.open(other).unwrap(),
            admissible: Vec::new(),
            won: false,
        }
    }

    fn reset(&mut self) {
        let real = self.real.reset().unwrap();
        let translated = self.translated.reset().unwrap();
        assert_eq!(translated, real, "{}, reset", self.name);
        self.won = real.won();
        self.list("reset");
    }

    /// Executes a command in both games and in a copy of the translated one. Checks that the
    /// responses are equal and returns the text.
    fn step(&mut self, command: &str) -> String {
        let mut copy = self.translated.fork().unwrap();
        let real = self.real.step(command).unwrap();
        let translated = self.translated.step(command).unwrap();
        assert_eq!(translated, real, "{}, {command:?}", self.name);
        assert_eq!(
            copy.step(command).unwrap(),
            real,
            "{}, {command:?} in a copy",
            self.name
        );
        assert_eq!(
            copy.state_hash(),
            self.translated.state_hash(),
            "{}, {command:?} in a copy",
            self.name
        );
        self.won = real.won();
        self.list(command);
        real.text
    }

    fn list(&mut self, command: &str) {
        self.admissible = self.real.admissible_commands().unwrap();
        assert_eq!(
            self.translated.admissible_commands().unwrap(),
            self.admissible,
            "{}, {command:?}",
            self.name
        );
    }
}

/// What the comparisons covered. If a kind of text never occurs, the test fails.
#[derive(Default)]
struct TranslationCoverage {
    kinds: BTreeSet<Option<TaskType>>,
    walks: usize,
    won: usize,
    /// The number of observations by their first two words.
    texts: BTreeMap<String, usize>,
}

impl TranslationCoverage {
    /// Plays every game of the two suites in both directions.
    fn compare(&mut self, suites: &[Suite; 2]) {
        let native = NativeWorld::new();
        let [to_older, to_newer] = TextVersion::ALL.map(|to| (to, Translating::new(&native, to)));
        let [older, newer] = suites;
        assert_eq!(older.tasks.len(), newer.tasks.len());
        for (number, (older, newer)) in older.tasks.iter().zip(&newer.tasks).enumerate() {
            assert_eq!(older.id, newer.id);
            assert_ne!(older.hash, newer.hash);
            let walkthrough = native
                .game(&newer.path)
                .unwrap()
                .walkthrough()
                .unwrap()
                .to_vec();
            for ((to, translating), real, other) in
                [(&to_older, older, newer), (&to_newer, newer, older)]
            {
                let to = *to;
                assert_eq!(TextVersion::of_game(&real.path), Some(to));
                let mut random = TestRandom(number as u64 * 2 + 1);
                let mut pair = TranslatedPair::open(&native, real, translating, other);
                if number % 2 == 0 {
                    self.note(&pair.step("help")); // before any reset
                    pair.step("look");
                }
                self.follow(&mut pair, to, &walkthrough, &mut random);
                self.wander(&mut pair, to, &mut random);
                self.kinds.insert(real.task_type);
                self.walks += 1;
            }
        }
    }

    /// Plays the walkthrough, with other commands between that do not affect it.
    fn follow(
        &mut self,
        pair: &mut TranslatedPair,
        to: TextVersion,
        walkthrough: &[String],
        random: &mut TestRandom,
    ) {
        pair.reset();
        for command in walkthrough {
            if random.below(2) == 0 {
                self.note(&pair.step(&noise(pair, to, random)));
            }
            let command = to_version(command, to);
            assert!(
                pair.admissible.contains(&command),
                "{}: {command}",
                pair.name
            );
            self.note(&pair.step(&command));
        }
        assert!(pair.won, "{}", pair.name);
        self.won += 1;
        self.note(&pair.step("help"));
        self.note(&pair.step("look"));
    }

    /// Plays random commands. Commands with objects are more frequent than in a uniform choice.
    fn wander(&mut self, pair: &mut TranslatedPair, to: TextVersion, random: &mut TestRandom) {
        pair.reset();
        for _ in 0..25 {
            let command = match random.below(4) {
                0 => noise(pair, to, random),
                1 => {
                    let with_object: Vec<&String> = pair
                        .admissible
                        .iter()
                        .filter(|command| has_object(command))
                        .collect();
                    random
                        .pick(&with_object)
                        .copied()
                        .or(random.pick(&pair.admissible))
                        .unwrap()
                        .clone()
                }
                _ => random.pick(&pair.admissible).unwrap().clone(),
            };
            self.note(&pair.step(&command));
            if command.starts_with("go to ") {
                assert_eq!(
                    pair.step(&command),
                    "Nothing happens.",
                    "{}: {command} again",
                    pair.name
                );
            }
        }
        pair.reset();
    }

    fn note(&mut self, text: &str) {
        let start: Vec<&str> = text.split(' ').take(2).collect();
        *self.texts.entry(start.join(" ")).or_default() += 1;
    }

    fn assert_complete(&self) {
        println!("{} walks, {} won: {:?}", self.walks, self.won, self.texts);
        assert_eq!(self.kinds, TaskType::ALL.map(Some).into());
        assert_eq!(self.walks, self.won);
        for start in [
            "Nothing happens.",
            "You arrive",
            "You put",
            "You move",
            "You pick",
            "You open",
        ] {
            assert!(
                self.texts.get(start).is_some_and(|times| *times >= 50),
                "{start:?}: {:?}",
                self.texts
            );
        }
        assert!(
            self.texts.contains_key("Available commands:\n"),
            "{:?}",
            self.texts.keys()
        );
    }
}

/// Returns a command that changes nothing that a walkthrough needs: an invalid command, a command
/// of the other version, `help`, or blanks.
fn noise(pair: &TranslatedPair, to: TextVersion, random: &mut TestRandom) -> String {
    let from = TextVersion::ALL
        .into_iter()
        .find(|version| *version != to)
        .unwrap();
    let invalid = [
        "",
        " ",
        "help",
        " help\t",
        "\u{1c}help\u{a0}",
        "Help",
        "help me",
        "go to moon 1",
        "go to ",
        "put",
        "put  in/on ",
        "put a 1 in/on b 1 in/on c 1",
        "move",
        "move  to ",
        "move a 1 to b 1 to c 1",
        "move a 1 in/on b 1",
        "put a 1 to b 1",
        "put a 1 into b 1",
        "look\r\n",
        "  inventory",
        "\u{85}look\u{2003}",
        "lo\u{f6}k",
    ];
    let put = pair
        .admissible
        .iter()
        .filter_map(|command| to.put_parts(command));
    let others: Vec<String> = put
        .map(|(object, receptacle)| from.put_command(object, receptacle))
        .collect();
    let own = pair
        .admissible
        .iter()
        .find(|command| to.put_parts(command).is_some());
    match random.below(4) {
        0 if !others.is_empty() => random.pick(&others).unwrap().clone(),
        // Two blanks instead of one make the command invalid.
        1 if own.is_some() => own.unwrap().replace(' ', "  "),
        _ => (*random.pick(&invalid).unwrap()).to_owned(),
    }
}

/// Translates a command of text 2.1.3 to a version.
fn to_version(command: &str, to: TextVersion) -> String {
    let put = TextVersion::V2_1_3
        .put_parts(command)
        .map(|(object, receptacle)| to.put_command(object, receptacle));
    put.unwrap_or_else(|| command.to_owned())
}

fn has_object(command: &str) -> bool {
    ["take ", "move ", "put "]
        .iter()
        .any(|verb| command.starts_with(verb))
}

/// Xorshift random numbers with a fixed seed.
struct TestRandom(u64);

impl TestRandom {
    fn below(&mut self, sides: usize) -> usize {
        for _ in 0..4 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
        }
        (self.0 >> 11) as usize % sides
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            None
        } else {
            Some(&items[self.below(items.len())])
        }
    }
}
