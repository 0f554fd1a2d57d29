//! Translation against the real thing: a game of one text version, translated, is to the byte the same game of the other
//! version. On games of our own, and on `ALFWorld`'s where they are there: `../shared/alfworld` beside the repository,
//! and a `python3` to expand them; says so where it skips.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use env_bridge::{NativeWorld, Translating};
use scenarios::household::{GenerateOptions, Size, generate};
use scenarios::{Environment, Split, Suite, Task, TaskType, TextVersion, World};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

#[test]
fn our_own_games_translate_to_the_byte() {
    let mut seen = Seen::default();
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
        seen.compare(&suites);
    }
    seen.assert_everything_was_said();
}

#[test]
fn alfworlds_games_translate_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Seen::default();
    if !TextVersion::ALL
        .into_iter()
        .all(|text| expand(&folder.path().join(text.name()), text, Split::ValidSeen))
    {
        eprintln!("skipped: no ALFWorld games in ../shared/alfworld, or no python3");
        return;
    }
    let suites = TextVersion::ALL.map(|text| Suite::open(folder.path().join(text.name())).unwrap());
    assert_eq!(suites[0].tasks.len(), 140);
    seen.compare(&suites);
    seen.assert_everything_was_said();
}

/// A game that is in the asked words already, and what is no game at all, is the inner world's business.
#[test]
fn what_needs_no_translation_is_passed_on() {
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
        let mut pair = Pair::open(&native, &task, &translating, &task);
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

/// Writes the games of a split under `folder`; false where that cannot be done.
fn expand(folder: &Path, text: TextVersion, split: Split) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/alfworld/expand.py");
    let arguments = ["--version", text.name(), "--split", split.name()];
    script.exists()
        && Command::new("python3")
            .arg(script)
            .arg(folder)
            .args(arguments)
            .output()
            .is_ok_and(|o| o.status.success())
}

/// The same game twice: as its file has it, and translated from the other version's file.
struct Pair {
    name: String,
    real: Box<dyn Environment>,
    translated: Box<dyn Environment>,
    admissible: Vec<String>,
    won: bool,
}

impl Pair {
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
        let (real, translated) = (self.real.reset().unwrap(), self.translated.reset().unwrap());
        assert_eq!(translated, real, "{}, reset", self.name);
        self.won = real.won();
        self.list("reset");
    }

    /// What the world says to a command, once both have said the same, and a copy of the translated one too.
    fn step(&mut self, command: &str) -> String {
        let mut copy = self.translated.fork().unwrap();
        let (real, translated) = (
            self.real.step(command).unwrap(),
            self.translated.step(command).unwrap(),
        );
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

/// What was met on the way, so that no comparison is an empty one.
#[derive(Default)]
struct Seen {
    kinds: BTreeSet<Option<TaskType>>,
    walks: usize,
    won: usize,
    /// By first words of what was said.
    said: BTreeMap<String, usize>,
}

impl Seen {
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
                let mut dice = Dice(number as u64 * 2 + 1);
                let mut pair = Pair::open(&native, real, translating, other);
                if number % 2 == 0 {
                    self.note(&pair.step("help")); // before any reset
                    pair.step("look");
                }
                self.follow(&mut pair, to, &walkthrough, &mut dice);
                self.wander(&mut pair, to, &mut dice);
                self.kinds.insert(real.task_type);
                self.walks += 1;
            }
        }
    }

    /// The walkthrough, with commands between that do not lead away from it.
    fn follow(
        &mut self,
        pair: &mut Pair,
        to: TextVersion,
        walkthrough: &[String],
        dice: &mut Dice,
    ) {
        pair.reset();
        for command in walkthrough {
            if dice.below(2) == 0 {
                self.note(&pair.step(&noise(pair, to, dice)));
            }
            let command = in_words(command, to);
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

    /// Anything at all, putting down more often than by chance.
    fn wander(&mut self, pair: &mut Pair, to: TextVersion, dice: &mut Dice) {
        pair.reset();
        for _ in 0..25 {
            let command = match dice.below(4) {
                0 => noise(pair, to, dice),
                1 => {
                    let handy: Vec<&String> = pair
                        .admissible
                        .iter()
                        .filter(|command| has_object(command))
                        .collect();
                    dice.pick(&handy)
                        .copied()
                        .or(dice.pick(&pair.admissible))
                        .unwrap()
                        .clone()
                }
                _ => dice.pick(&pair.admissible).unwrap().clone(),
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
        *self.said.entry(start.join(" ")).or_default() += 1;
    }

    fn assert_everything_was_said(&self) {
        println!("{} walks, {} won: {:?}", self.walks, self.won, self.said);
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
                self.said.get(start).is_some_and(|times| *times >= 50),
                "{start:?}: {:?}",
                self.said
            );
        }
        assert!(
            self.said.contains_key("Available commands:\n"),
            "{:?}",
            self.said.keys()
        );
    }
}

/// A command that changes nothing a walkthrough needs: garbage, the other version's words, `help`, blanks.
fn noise(pair: &Pair, to: TextVersion, dice: &mut Dice) -> String {
    let from = TextVersion::ALL
        .into_iter()
        .find(|version| *version != to)
        .unwrap();
    let garbage = [
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
    match dice.below(4) {
        0 if !others.is_empty() => dice.pick(&others).unwrap().clone(),
        // Two blanks inside are two blanks too many.
        1 if own.is_some() => own.unwrap().replace(' ', "  "),
        _ => (*dice.pick(&garbage).unwrap()).to_owned(),
    }
}

/// A command of text 2.1.3 in the words of a version.
fn in_words(command: &str, to: TextVersion) -> String {
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

/// Xorshift: the same numbers every time.
struct Dice(u64);

impl Dice {
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
