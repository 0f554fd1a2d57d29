//! Diff: plays the same commands in two worlds side by side and compares what they say, reset and every turn.
//!
//! The left world is the native one; the right one may be any, and is meant to be the Python stack it imitates. The
//! commands of a game are drawn from the seed and the game's hash alone, so they are the same beside any other game
//! and under any number of workers. A game ends at its first difference, since the states may have parted there; a
//! game that a world fails on is neither equal nor different, and is counted apart.

use crate::native::{NativeEnvironment, NativeGame, NativeWorld};
use crate::replay::{Answer, Unequal};
use scenarios::seed::SplitMix64;
use scenarios::{EnvironmentError, Task, World};
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// As many turns before a difference are shown with it.
pub const TURNS_BEFORE: usize = 5;

/// Where the commands of a game come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Commands {
    /// The walkthrough of the game where it has one, then admissible commands, past the goal too.
    Walkthrough,
    /// Admissible commands, each as likely.
    Random,
    /// The walkthrough with admissible and sometimes adversarial commands between.
    Mixed,
    /// Strings meant to break a parser, half of them made from admissible commands; every third is admissible, so that
    /// the state moves.
    Adversarial,
}

impl Commands {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self::Walkthrough,
        Self::Random,
        Self::Mixed,
        Self::Adversarial,
    ];

    /// The name a flag takes.
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

/// What is said in the two worlds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Game i of the list is played with the commands at i modulo the length.
    pub commands: Vec<Commands>,
    /// Commands a game; those of a shorter plan are the first of a longer one's.
    pub turns: usize,
    /// Seed of all draws.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Games on the list.
    pub games: usize,
    /// Commands whose answers were compared. Resets are compared as well and not counted.
    pub commands: usize,
    /// Games that differ.
    pub differences: usize,
    /// That of the first such game on the list.
    pub first: Option<Difference>,
    /// Games that a world failed on, twice where it was the other world.
    pub failures: usize,
    /// That of the first such game on the list.
    pub first_failure: Option<Failure>,
    /// Games begun again because the other world had failed.
    pub retried: usize,
}

impl Report {
    /// Whether something was compared, and all of it is equal.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.games > 0 && self.differences == 0 && self.failures == 0
    }
}

/// A turn of a game, and what is needed to come there again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The task's id.
    pub game: String,
    /// Its file.
    pub path: String,
    /// [`Plan::seed`].
    pub seed: u64,
    /// Where the game's commands came from.
    pub commands: Commands,
    /// The turn; 0 is the reset.
    pub turn: usize,
    /// The command; `None` for the reset.
    pub command: Option<String>,
    /// At most [`TURNS_BEFORE`] turns that went before, the last one last; the worlds agree on them.
    pub before: VecDeque<Exchange>,
}

/// A command and the observation it brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// `None` for the reset.
    pub command: Option<String>,
    /// What both worlds said.
    pub observation: String,
}

/// One field that is not the same in both worlds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// `observation`, `admissible` or `won`.
    pub field: &'static str,
    /// What the native world says, as JSON.
    pub ours: String,
    /// What the other world says, as JSON.
    pub other: String,
}

/// A world that could not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Where; the reset also stands for the loading before it.
    #[serde(flatten)]
    pub place: Place,
    /// Which world.
    pub world: Side,
    /// What it said.
    pub message: String,
}

/// One of the two worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The native world.
    Ours,
    /// The one it is held against.
    Other,
}

/// How far a diff has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Games that are done with, failed ones too.
    pub done: usize,
    /// Games on the list.
    pub games: usize,
    /// As in [`Report::commands`], so far.
    pub commands: usize,
    /// As in [`Report::differences`], so far.
    pub differences: usize,
    /// As in [`Report::failures`], so far.
    pub failures: usize,
}

/// Plays every task in both worlds, `workers` at a time; so many environments of `other` are open at once, never more.
/// A game on which `other` fails is begun once more in a new environment. `progress` is told after each game, by one
/// worker at a time.
///
/// The report is that of one worker, whatever `workers` is, as long as the worlds answer alike.
///
/// # Panics
/// When the plan names no commands.
pub fn diff(
    ours: &NativeWorld,
    other: &dyn World,
    tasks: &[&Task],
    plan: &Plan,
    workers: usize,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Report {
    assert!(
        !plan.commands.is_empty(),
        "a plan names at least one source of commands"
    );
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    let work = || {
        while let Some((index, task)) = take(&next, tasks) {
            let commands = plan.commands[index % plan.commands.len()];
            let played = play(ours, other, task, commands, plan);
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.add(index, played);
            progress(&tally.progress(tasks.len()));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, tasks.len().max(1)) {
            scope.spawn(work);
        }
    });
    tally
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .report(tasks.len())
}

fn take<'a>(next: &AtomicUsize, tasks: &[&'a Task]) -> Option<(usize, &'a Task)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, *tasks.get(index)?))
}

/// The games so far; the first of a kind is the one with the smallest index.
#[derive(Default)]
struct Tally {
    done: usize,
    report: Report,
    first: Option<usize>,
    first_failure: Option<usize>,
}

impl Tally {
    fn add(&mut self, index: usize, played: Played) {
        self.done += 1;
        self.report.commands += played.compared;
        self.report.retried += usize::from(played.retried);
        match played.ending {
            Ending::Agreed => {}
            Ending::Differed(difference) => {
                self.report.differences += 1;
                if self.first.is_none_or(|first| index < first) {
                    self.first = Some(index);
                    self.report.first = Some(difference);
                }
            }
            Ending::Failed(failure) => {
                self.report.failures += 1;
                if self.first_failure.is_none_or(|first| index < first) {
                    self.first_failure = Some(index);
                    self.report.first_failure = Some(failure);
                }
            }
        }
    }

    fn progress(&self, games: usize) -> Progress {
        let Report {
            commands,
            differences,
            failures,
            ..
        } = self.report;
        Progress {
            done: self.done,
            games,
            commands,
            differences,
            failures,
        }
    }

    fn report(self, games: usize) -> Report {
        Report {
            games,
            ..self.report
        }
    }
}

/// One game played in both worlds.
struct Played {
    compared: usize,
    retried: bool,
    ending: Ending,
}

enum Ending {
    Agreed,
    Differed(Difference),
    Failed(Failure),
}

/// Why two worlds could not be followed further; the place is known to the caller.
enum Stop {
    Unequal(Unequal),
    Failed(Side, EnvironmentError),
}

fn play(
    ours: &NativeWorld,
    other: &dyn World,
    task: &Task,
    commands: Commands,
    plan: &Plan,
) -> Played {
    let first = attempt(ours, other, task, commands, plan);
    if matches!(&first.ending, Ending::Failed(failure) if failure.world == Side::Other) {
        return Played {
            retried: true,
            ..attempt(ours, other, task, commands, plan)
        };
    }
    first
}

fn attempt(
    ours: &NativeWorld,
    other: &dyn World,
    task: &Task,
    commands: Commands,
    plan: &Plan,
) -> Played {
    let mut place = Place {
        game: task.id.clone(),
        path: task.path.display().to_string(),
        seed: plan.seed,
        commands,
        turn: 0,
        command: None,
        before: VecDeque::new(),
    };
    let stop = follow(ours, other, task, plan, &mut place);
    let turn = place.turn;
    let (compared, ending) = match stop {
        Ok(()) => (turn, Ending::Agreed),
        Err(Stop::Unequal(Unequal { field, left, right })) => (
            turn,
            Ending::Differed(Difference {
                place,
                field,
                ours: left,
                other: right,
            }),
        ),
        Err(Stop::Failed(world, error)) => (
            turn.saturating_sub(1),
            Ending::Failed(Failure {
                place,
                world,
                message: error.to_string(),
            }),
        ),
    };
    Played {
        compared,
        retried: false,
        ending,
    }
}

/// Plays one game in both worlds, as long as they agree; `place` is where they have come.
fn follow(
    ours: &NativeWorld,
    other: &dyn World,
    task: &Task,
    plan: &Plan,
    place: &mut Place,
) -> Result<(), Stop> {
    let game = ours.game(&task.path);
    let game =
        game.map_err(|error| Stop::Failed(Side::Ours, error.into_environment_error(&task.path)))?;
    let mut source = Source::new(
        place.commands,
        game.clone(),
        stream_of_game(plan.seed, &task.hash),
    );
    let mut ours = NativeEnvironment::new(game);
    let mut other = other
        .open(task)
        .map_err(|error| Stop::Failed(Side::Other, error))?;
    loop {
        let command = place.command.as_deref();
        let left =
            Answer::to(command, &mut ours).map_err(|error| Stop::Failed(Side::Ours, error))?;
        let right =
            Answer::to(command, &mut *other).map_err(|error| Stop::Failed(Side::Other, error))?;
        if let Some(unequal) = left.unequal(&right) {
            return Err(Stop::Unequal(unequal));
        }
        if place.turn == plan.turns {
            return Ok(());
        }
        let command = source.next(&left.admissible);
        place.go_on(left.text, command);
    }
}

impl Place {
    fn go_on(&mut self, observation: String, command: String) {
        self.before.push_back(Exchange {
            command: self.command.replace(command),
            observation,
        });
        if self.before.len() > TURNS_BEFORE {
            self.before.pop_front();
        }
        self.turn += 1;
    }
}

/// The commands of one game, drawn one at a time.
struct Source {
    commands: Commands,
    game: Arc<NativeGame>,
    /// Commands of the walkthrough that have been said.
    walked: usize,
    said: usize,
    rng: SplitMix64,
}

impl Source {
    fn new(commands: Commands, game: Arc<NativeGame>, rng: SplitMix64) -> Self {
        Self {
            commands,
            game,
            walked: 0,
            said: 0,
            rng,
        }
    }

    /// The next command where these are the admissible ones.
    fn next(&mut self, admissible: &[String]) -> String {
        self.said += 1;
        match self.commands {
            Commands::Walkthrough => self.walk(admissible),
            Commands::Random => self.any(admissible),
            Commands::Mixed => match self.rng.below(20) {
                0..10 => self.walk(admissible),
                10..17 => self.any(admissible),
                _ => self.trick(admissible),
            },
            Commands::Adversarial if self.said.is_multiple_of(3) => self.any(admissible),
            Commands::Adversarial => self.trick(admissible),
        }
    }

    fn walk(&mut self, admissible: &[String]) -> String {
        let next = self
            .game
            .walkthrough()
            .and_then(|walkthrough| walkthrough.get(self.walked))
            .cloned();
        self.walked += 1;
        next.unwrap_or_else(|| self.any(admissible))
    }

    fn any(&mut self, admissible: &[String]) -> String {
        self.rng
            .pick(admissible)
            .cloned()
            .unwrap_or_else(|| "look".to_owned())
    }

    fn trick(&mut self, admissible: &[String]) -> String {
        let base = self.any(admissible);
        let tricks: &[Trick] = if self.rng.below(2) == 0 {
            &Trick::ALTERING
        } else {
            &Trick::INVENTING
        };
        let trick = *self.rng.pick(tricks).unwrap_or(&Trick::Empty);
        Prankster {
            rng: &mut self.rng,
            game: &self.game,
            admissible,
        }
        .play(trick, &base)
    }
}

/// A way to say what a parser may not expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    Case,
    BlanksWithin,
    BlanksAround,
    NearBlanksAround,
    Punctuation,
    OffByOne,
    SwappedNames,
    OtherGrammar,
    CutShort,
    Joined,
    Wrapped,
    Lookalike,
    Elsewhere,
    Words,
    Empty,
    Unicode,
    Long,
    Syntax,
    Nul,
    GrammarSyntax,
}

impl Trick {
    /// Those that alter an admissible command.
    const ALTERING: [Self; 12] = [
        Self::Case,
        Self::BlanksWithin,
        Self::BlanksAround,
        Self::NearBlanksAround,
        Self::Punctuation,
        Self::OffByOne,
        Self::SwappedNames,
        Self::OtherGrammar,
        Self::CutShort,
        Self::Joined,
        Self::Wrapped,
        Self::Lookalike,
    ];
    /// Those that have no need of one.
    const INVENTING: [Self; 8] = [
        Self::Elsewhere,
        Self::Words,
        Self::Empty,
        Self::Unicode,
        Self::Long,
        Self::Syntax,
        Self::Nul,
        Self::GrammarSyntax,
    ];
}

/// Characters in the longest line.
const LONG_LINE: usize = 10_000;

/// What Python's `str.strip` strips.
const BLANKS: [char; 29] = [
    ' ', '\t', '\n', '\u{b}', '\u{c}', '\r', '\u{1c}', '\u{1d}', '\u{1e}', '\u{1f}', '\u{85}',
    '\u{a0}', '\u{1680}', '\u{2000}', '\u{2001}', '\u{2002}', '\u{2003}', '\u{2004}', '\u{2005}',
    '\u{2006}', '\u{2007}', '\u{2008}', '\u{2009}', '\u{200a}', '\u{2028}', '\u{2029}', '\u{202f}',
    '\u{205f}', '\u{3000}',
];

/// What looks like a blank, and stays.
const NEAR_BLANKS: [char; 7] = [
    '\u{200b}', '\u{200c}', '\u{2060}', '\u{feff}', '\u{180e}', '\u{8}', '\u{1b}',
];

const ENDINGS: [&str; 8] = [".", "!", "?", ",", ";", "...", ". ", "。"];

/// Letters for which another stands that lower-casing, normalising or the eye makes the same.
const LOOKALIKES: [(char, &str); 9] = [
    ('i', "ı"),
    ('i', "İ"),
    ('k', "\u{212a}"),
    ('s', "ſ"),
    ('o', "о"),
    ('e', "e\u{301}"),
    ('a', "ａ"),
    ('1', "１"),
    (' ', "\u{a0}"),
];

const WORDS: [&str; 18] = [
    "help",
    "look",
    "inventory",
    "l",
    "i",
    "x",
    "wait",
    "undo",
    "again",
    "save",
    "restore",
    "restart",
    "quit",
    "None",
    "null",
    "True",
    "0",
    "-1",
];

const UNICODE: [&str; 11] = [
    "🍎",
    "take 🍎 1 from 🧊 1",
    "👩\u{200d}🍳",
    "e\u{301}\u{327}\u{308}",
    "Z\u{351}\u{36b}a\u{343}\u{36a}l\u{302}g\u{31a}o\u{310}",
    "ıİ",
    "ﬁ ß ẞ ŉ",
    "\u{202e}kool\u{202c}",
    "\u{10ffff}",
    "\u{fffd}\u{fffe}",
    "日本語 شكرا ไทย",
];

const SYNTAX: [&str; 18] = [
    "\"",
    "'",
    "\\",
    "\\n",
    "\\u0041",
    "\\x00",
    "{",
    "}",
    "{}",
    "{0}",
    "{0.__class__}",
    "%s",
    "%(x)s",
    "$look",
    "`look`",
    "(and (look))",
    "[\"look\"]",
    "</s>",
];

const GRAMMAR_SYNTAX: [&str; 11] = [
    "#intro#",
    "#look#",
    "#",
    "##",
    "{o.name}",
    "{r.name | inreceptacle(o, r)}",
    "{o.indefinite + ' ' + o.name}",
    "go to {r.name}",
    "take {o.name} from {r.name}",
    "[list]",
    "|",
];

/// Plays tricks where these are the admissible commands.
struct Prankster<'a> {
    rng: &'a mut SplitMix64,
    game: &'a NativeGame,
    admissible: &'a [String],
}

impl Prankster<'_> {
    /// A string to say; `base` is an admissible command.
    fn play(&mut self, trick: Trick, base: &str) -> String {
        match trick {
            Trick::Case => self.case(base),
            Trick::BlanksWithin => self.blanks_within(base),
            Trick::BlanksAround => self.around(base, &BLANKS),
            Trick::NearBlanksAround => self.around(base, &NEAR_BLANKS),
            Trick::Punctuation => base.to_owned() + self.one_of(&ENDINGS),
            Trick::OffByOne => self.off_by_one(base),
            Trick::SwappedNames => self.swapped_names(base),
            Trick::OtherGrammar => self.other_grammar(base),
            Trick::CutShort => self.cut_short(base),
            Trick::Joined => {
                let joint = self.one_of(&["\n", ". ", " and ", "; ", " ", "\r\n", ", then "]);
                format!("{base}{joint}{}", self.elsewhere())
            }
            Trick::Wrapped => {
                let (left, right) = *self
                    .rng
                    .pick(&[("\"", "\""), ("'", "'"), ("{", "}"), ("> ", ""), ("[", "]")])
                    .unwrap_or(&("", ""));
                format!("{left}{base}{right}")
            }
            Trick::Lookalike => self.lookalike(base),
            Trick::Elsewhere => self.elsewhere(),
            Trick::Words => self.one_of(&WORDS).to_owned(),
            Trick::Empty => self.around("", &BLANKS[..3]),
            Trick::Unicode => self.one_of(&UNICODE).to_owned(),
            Trick::Long => self.long(base),
            Trick::Syntax => self.one_of(&SYNTAX).to_owned(),
            Trick::Nul => match self.rng.below(3) {
                0 => "\0".to_owned(),
                1 => format!("{base}\0"),
                _ => format!("\0{base}"),
            },
            Trick::GrammarSyntax => self.one_of(&GRAMMAR_SYNTAX).to_owned(),
        }
    }

    fn one_of<'b>(&mut self, items: &[&'b str]) -> &'b str {
        self.rng.pick(items).copied().unwrap_or_default()
    }

    fn case(&mut self, base: &str) -> String {
        if self.rng.below(2) == 0 {
            return base.to_uppercase();
        }
        let letters: Vec<usize> = base
            .char_indices()
            .filter(|(_, c)| c.is_lowercase())
            .map(|(at, _)| at)
            .collect();
        let chosen = self.rng.pick(&letters).copied();
        base.char_indices()
            .map(|(at, c)| {
                if Some(at) == chosen {
                    c.to_ascii_uppercase()
                } else {
                    c
                }
            })
            .collect()
    }

    fn blanks_within(&mut self, base: &str) -> String {
        let joint = self.one_of(&["  ", "\t", "   ", " \n", ""]);
        if self.rng.below(2) == 0 {
            base.replace(' ', joint)
        } else {
            base.replacen(' ', joint, 1)
        }
    }

    /// Up to three of `blanks` on each side, each as likely.
    fn around(&mut self, base: &str, blanks: &[char]) -> String {
        let mut some = || -> String {
            let count = self.rng.below(4);
            (0..count)
                .filter_map(|_| self.rng.pick(blanks).copied())
                .collect()
        };
        format!("{}{base}{}", some(), some())
    }

    fn off_by_one(&mut self, base: &str) -> String {
        let mut words: Vec<String> = base.split(' ').map(str::to_owned).collect();
        let numbers: Vec<usize> = (0..words.len())
            .filter(|&at| words[at].parse::<i64>().is_ok())
            .collect();
        let Some(&at) = self.rng.pick(&numbers) else {
            return format!("{base} 1");
        };
        let by = if self.rng.below(2) == 0 { 1 } else { -1 };
        words[at] = words[at]
            .parse()
            .map_or(0, |number: i64| number.saturating_add(by))
            .to_string();
        words.join(" ")
    }

    /// Two names of the command in each other's place, or its only one replaced.
    fn swapped_names(&mut self, base: &str) -> String {
        match &names(base)[..] {
            [] => base.split(' ').rev().collect::<Vec<_>>().join(" "),
            [only] => base.replacen(only, &self.name(), 1),
            [first, .., last] => base
                .replacen(first, "\0", 1)
                .replacen(last, first, 1)
                .replacen('\0', last, 1),
        }
    }

    /// What one text version of ALFWorld writes `move X to Y`, the other writes `put X in/on Y`.
    fn other_grammar(&mut self, base: &str) -> String {
        let mut found = names(base).into_iter();
        let x = found.next().unwrap_or_else(|| self.name());
        let y = found.next().unwrap_or_else(|| self.name());
        match self.rng.below(5) {
            0 | 1 => format!("put {x} in/on {y}"),
            2 | 3 => format!("move {x} to {y}"),
            _ => format!("put {x} on {y}"),
        }
    }

    fn cut_short(&mut self, base: &str) -> String {
        let keep = self.rng.below(base.chars().count());
        base.chars().take(keep).collect()
    }

    fn lookalike(&mut self, base: &str) -> String {
        let fitting: Vec<_> = LOOKALIKES
            .iter()
            .filter(|(letter, _)| base.contains(*letter))
            .collect();
        match self.rng.pick(&fitting) {
            Some((letter, twin)) => base.replacen(*letter, twin, 1),
            None => format!("{base}\u{301}"),
        }
    }

    /// A command of the game that is not admissible now, if a few draws find one.
    fn elsewhere(&mut self) -> String {
        let mut drawn = "look";
        for _ in 0..8.min(self.game.command_count()) {
            drawn = self.game.command(self.rng.below(self.game.command_count()));
            if !self.admissible.iter().any(|command| command == drawn) {
                break;
            }
        }
        drawn.to_owned()
    }

    fn name(&mut self) -> String {
        let found = names(&self.elsewhere());
        self.rng
            .pick(&found)
            .cloned()
            .unwrap_or_else(|| "mug 1".to_owned())
    }

    fn long(&mut self, base: &str) -> String {
        match self.rng.below(3) {
            0 => "a".repeat(LONG_LINE),
            1 => format!("{base} ").chars().cycle().take(LONG_LINE).collect(),
            _ => format!(
                "{base}{}",
                " ".repeat(LONG_LINE.saturating_sub(base.chars().count()))
            ),
        }
    }
}

/// The names in a command: a word and the number after it.
fn names(command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let numbered = words
        .windows(2)
        .filter(|pair| pair[1].parse::<u64>().is_ok());
    numbered.map(|pair| pair.join(" ")).collect()
}

/// Returns a stream of random numbers for each seed and game.
fn stream_of_game(seed: u64, hash: &str) -> SplitMix64 {
    hash.bytes().fold(SplitMix64(seed), |mut stream, byte| {
        SplitMix64(stream.next() ^ u64::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::household::{GenerateOptions, Size, generate};
    use std::collections::BTreeSet;

    /// Any game has names, numbers and commands that are admissible elsewhere only.
    fn small_game() -> Arc<NativeGame> {
        let options = GenerateOptions {
            seed: 3,
            size: Size::Small,
            train: 6,
            ..GenerateOptions::default()
        };
        let options = GenerateOptions {
            valid_train: 0,
            seen: 0,
            unseen: 0,
            ..options
        };
        let folder = tempfile::tempdir().unwrap();
        let suite = generate(folder.path(), &options).unwrap();
        NativeWorld::new().game(&suite.tasks[0].path).unwrap()
    }

    fn admissible(game: &Arc<NativeGame>) -> Vec<String> {
        game.admissible_commands(&game.initial_state())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn names_of_commands_parse() {
        for commands in Commands::ALL {
            assert_eq!(commands.to_string().parse(), Ok(commands));
            assert_eq!(
                serde_json::to_string(&commands).unwrap(),
                format!("\"{commands}\"")
            );
            assert_eq!(commands.name(), commands.name().to_lowercase());
        }
        assert_eq!(
            "all".parse::<Commands>().unwrap_err(),
            "unknown commands \"all\"; known: walkthrough, random, mixed, adversarial"
        );
    }

    /// What each trick makes of `go to shelf 2` and `move mug 1 to shelf 2`.
    #[test]
    fn a_trick_does_what_its_name_says() {
        let game = small_game();
        let admissible = admissible(&game);
        let mut rng = stream_of_game(0, "");
        let mut all = |trick, base: &str| -> BTreeSet<String> {
            let mut prankster = Prankster {
                rng: &mut rng,
                game: &game,
                admissible: &admissible,
            };
            (0..400).map(|_| prankster.play(trick, base)).collect()
        };
        let go = "go to shelf 2";
        let all_of = |found: BTreeSet<String>, wanted: &[&str]| {
            for text in wanted {
                assert!(found.contains(*text), "{text:?} is not in {found:?}");
            }
        };
        all_of(
            all(Trick::Case, go),
            &["GO TO SHELF 2", "Go to shelf 2", "go to shelF 2"],
        );
        all_of(
            all(Trick::BlanksWithin, go),
            &["go  to shelf 2", "go\tto\tshelf\t2", "gotoshelf2"],
        );
        all_of(
            all(Trick::Punctuation, go),
            &["go to shelf 2.", "go to shelf 2!"],
        );
        all_of(
            all(Trick::OffByOne, go),
            &["go to shelf 1", "go to shelf 3"],
        );
        all_of(all(Trick::OffByOne, "look"), &["look 1"]);
        all_of(all(Trick::CutShort, go), &["", "go to shelf ", "go"]);
        all_of(
            all(Trick::Wrapped, go),
            &["\"go to shelf 2\"", "{go to shelf 2}"],
        );
        all_of(
            all(Trick::Lookalike, go),
            &[
                "go\u{a0}to shelf 2",
                "go to ſhelf 2",
                "go to she\u{301}lf 2",
            ],
        );
        all_of(
            all(Trick::Lookalike, "inventory"),
            &["ınventory", "İnventory"],
        );
        let put = "move mug 1 to shelf 2";
        assert_eq!(
            all(Trick::SwappedNames, put),
            BTreeSet::from(["move shelf 2 to mug 1".to_owned()])
        );
        assert!(all(Trick::SwappedNames, go).len() > 5);
        all_of(
            all(Trick::OtherGrammar, put),
            &[
                "put mug 1 in/on shelf 2",
                "move mug 1 to shelf 2",
                "put mug 1 on shelf 2",
            ],
        );
        let elsewhere = all(Trick::Elsewhere, go);
        assert!(elsewhere.len() > 20);
        assert!(
            elsewhere
                .iter()
                .all(|command| game.command_index(command).is_some())
        );
        let here = elsewhere
            .iter()
            .filter(|command| admissible.contains(command))
            .count();
        assert!(
            here * 10 < elsewhere.len(),
            "{here} of {} are admissible",
            elsewhere.len()
        );
        assert!(
            all(Trick::Joined, go)
                .iter()
                .all(|text| text.starts_with(go) && text.len() > go.len())
        );
        assert!(
            all(Trick::Long, go)
                .iter()
                .all(|text| text.chars().count() == LONG_LINE)
        );
        all_of(
            all(Trick::Nul, go),
            &["\0", "go to shelf 2\0", "\0go to shelf 2"],
        );
        all_of(all(Trick::Words, go), &["help", "look", "inventory"]);
        all_of(all(Trick::Empty, go), &["", " ", "\t", "\n"]);
        all_of(all(Trick::Unicode, go), &["🍎", "ıİ"]);
        all_of(all(Trick::Syntax, go), &["\"", "\\", "{}", "'"]);
        all_of(all(Trick::GrammarSyntax, go), &["#intro#", "{o.name}"]);
    }

    /// `BLANKS` around a command change nothing, whichever they are; look-alikes of blanks spoil it.
    #[test]
    fn blanks_are_stripped_and_what_looks_like_them_is_not() {
        use scenarios::Environment;
        let game = small_game();
        let mut environment = NativeEnvironment::new(game);
        let mut say = |command: &str| environment.step(command).unwrap().text;
        let look = say("look");
        for blank in BLANKS {
            assert_eq!(
                say(&format!("{blank}look{blank}{blank}")),
                look,
                "{blank:?}"
            );
        }
        for blank in NEAR_BLANKS {
            assert_ne!(say(&format!("{blank}look")), look, "{blank:?}");
        }
        let mut rng = stream_of_game(1, "");
        let mut prankster = Prankster {
            rng: &mut rng,
            game: &small_game(),
            admissible: &[],
        };
        let around: String = (0..2000)
            .map(|_| prankster.play(Trick::BlanksAround, "look"))
            .collect();
        assert!(BLANKS.iter().all(|blank| around.contains(*blank)));
        let around: String = (0..500)
            .map(|_| prankster.play(Trick::NearBlanksAround, "look"))
            .collect();
        assert!(NEAR_BLANKS.iter().all(|blank| around.contains(*blank)));
    }

    /// Whether a string bears a mark that only this trick leaves, or nearly so.
    fn shows(trick: Trick, text: &str, game: &NativeGame) -> bool {
        let goes = text.starts_with("go to ");
        match trick {
            Trick::Case => text.starts_with("GO TO "),
            Trick::BlanksWithin => text.starts_with("go  to "),
            Trick::BlanksAround => {
                text.starts_with(BLANKS) && text.trim_start().starts_with("go to ")
            }
            Trick::NearBlanksAround => text.starts_with(NEAR_BLANKS),
            Trick::Punctuation => goes && text.ends_with('?'),
            Trick::OffByOne => goes && text.ends_with(" 0"),
            Trick::SwappedNames => text.strip_prefix("go to ").is_some_and(|name| {
                game.command_index(text).is_none()
                    && game.command_index(&format!("examine {name}")).is_some()
            }),
            Trick::OtherGrammar => text.starts_with("put ") && text.contains(" in/on "),
            Trick::CutShort => "go to ".starts_with(text) && text.len() > 2,
            Trick::Joined => goes && text.contains(". "),
            Trick::Wrapped => text.starts_with("\"go to "),
            Trick::Lookalike => text.contains("ınventory"),
            Trick::Elsewhere => text.starts_with("take ") && game.command_index(text).is_some(),
            Trick::Words => WORDS.contains(&text),
            Trick::Empty => text.is_empty(),
            Trick::Unicode => UNICODE.contains(&text),
            Trick::Long => text.chars().count() == LONG_LINE,
            Trick::Syntax => SYNTAX.contains(&text),
            Trick::Nul => text.contains('\0'),
            Trick::GrammarSyntax => GRAMMAR_SYNTAX.contains(&text),
        }
    }

    /// A mark of each trick, looked for in what an adversarial source says.
    #[test]
    fn every_trick_is_played_and_every_third_command_is_admissible() {
        let game = small_game();
        let here = admissible(&game);
        let mut source = Source::new(
            Commands::Adversarial,
            game.clone(),
            stream_of_game(5, "abc"),
        );
        let said: Vec<String> = (0..3000).map(|_| source.next(&here)).collect();
        assert!(
            said.iter()
                .skip(2)
                .step_by(3)
                .all(|command| here.contains(command))
        );
        let tricks: Vec<&str> = said
            .iter()
            .map(String::as_str)
            .filter(|text| !here.iter().any(|h| h == text))
            .collect();
        assert!(tricks.len() > 1500, "{}", tricks.len());
        for trick in Trick::ALTERING.into_iter().chain(Trick::INVENTING) {
            assert!(
                tricks.iter().any(|text| shows(trick, text, &game)),
                "{trick:?} was never played"
            );
        }
    }

    #[test]
    fn a_plan_walks_the_walkthrough_in_order() {
        let game = small_game();
        let walkthrough = game.walkthrough().unwrap().to_vec();
        let here = admissible(&game);
        let said = |commands, turns| -> Vec<String> {
            let mut source = Source::new(commands, game.clone(), stream_of_game(5, "abc"));
            (0..turns).map(|_| source.next(&here)).collect()
        };
        let walked = said(Commands::Walkthrough, walkthrough.len() + 20);
        assert_eq!(walked[..walkthrough.len()], walkthrough);
        assert!(
            walked[walkthrough.len()..]
                .iter()
                .all(|command| here.contains(command))
        );
        let mixed = said(Commands::Mixed, 400);
        let mut rest = mixed.iter();
        assert!(
            walkthrough
                .iter()
                .all(|command| rest.any(|said| said == command)),
            "{mixed:?}"
        );
        assert!(
            mixed
                .iter()
                .any(|command| game.command_index(command).is_none())
        );
        assert!(
            said(Commands::Random, 100)
                .iter()
                .all(|command| here.contains(command))
        );
    }

    #[test]
    fn each_game_and_seed_has_a_stream_of_its_own() {
        let first = |seed, hash| stream_of_game(seed, hash).next();
        assert_eq!(first(1, "ab"), first(1, "ab"));
        assert_ne!(first(1, "ab"), first(2, "ab"));
        assert_ne!(first(1, "ab"), first(1, "ba"));
        assert_ne!(first(1, "a"), first(1, "b"));
    }
}
