//! The fuzzer: commands that may break a parser.

use crate::native::NativeGame;
use scenarios::seed::SplitMix64;

/// A kind of text that a parser may not expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FuzzInput {
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

impl FuzzInput {
    /// The kinds that change an admissible command.
    pub(super) const MUTATED: [Self; 12] = [
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
    /// The kinds that do not need an admissible command.
    pub(super) const GENERATED: [Self; 8] = [
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

/// The number of characters of the longest line.
pub(super) const LONG_LINE: usize = 10_000;

/// The characters that Python's `str.strip` removes.
pub(super) const BLANKS: [char; 29] = [
    ' ', '\t', '\n', '\u{b}', '\u{c}', '\r', '\u{1c}', '\u{1d}', '\u{1e}', '\u{1f}', '\u{85}',
    '\u{a0}', '\u{1680}', '\u{2000}', '\u{2001}', '\u{2002}', '\u{2003}', '\u{2004}', '\u{2005}',
    '\u{2006}', '\u{2007}', '\u{2008}', '\u{2009}', '\u{200a}', '\u{2028}', '\u{2029}', '\u{202f}',
    '\u{205f}', '\u{3000}',
];

/// Characters that look like blanks, but that `str.strip` keeps.
pub(super) const NEAR_BLANKS: [char; 7] = [
    '\u{200b}', '\u{200c}', '\u{2060}', '\u{feff}', '\u{180e}', '\u{8}', '\u{1b}',
];

const ENDINGS: [&str; 8] = [".", "!", "?", ",", ";", "...", ". ", "。"];

/// Letters with a substitute that looks the same, or becomes the same if the text is lower-cased or
/// normalised.
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

pub(super) const WORDS: [&str; 18] = [
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

pub(super) const UNICODE: [&str; 11] = [
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

pub(super) const SYNTAX: [&str; 18] = [
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

pub(super) const GRAMMAR_SYNTAX: [&str; 11] = [
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

/// Draws adversarial commands.
pub(super) struct CommandFuzzer<'a> {
    pub(super) rng: &'a mut SplitMix64,
    pub(super) game: &'a NativeGame,
    /// The commands that are admissible now.
    pub(super) admissible: &'a [String],
}

impl CommandFuzzer<'_> {
    /// Returns a text of a kind; `base` is an admissible command.
    pub(super) fn draw(&mut self, input: FuzzInput, base: &str) -> String {
        match input {
            FuzzInput::Case => self.change_case(base),
            FuzzInput::BlanksWithin => self.blanks_within(base),
            FuzzInput::BlanksAround => self.around(base, &BLANKS),
            FuzzInput::NearBlanksAround => self.around(base, &NEAR_BLANKS),
            FuzzInput::Punctuation => base.to_owned() + self.one_of(&ENDINGS),
            FuzzInput::OffByOne => self.off_by_one(base),
            FuzzInput::SwappedNames => self.swapped_names(base),
            FuzzInput::OtherGrammar => self.other_grammar(base),
            FuzzInput::CutShort => self.cut_short(base),
            FuzzInput::Joined => {
                let joint = self.one_of(&["\n", ". ", " and ", "; ", " ", "\r\n", ", then "]);
                format!("{base}{joint}{}", self.elsewhere())
            }
            FuzzInput::Wrapped => {
                let (left, right) = *self
                    .rng
                    .pick(&[("\"", "\""), ("'", "'"), ("{", "}"), ("> ", ""), ("[", "]")])
                    .unwrap_or(&("", ""));
                format!("{left}{base}{right}")
            }
            FuzzInput::Lookalike => self.lookalike(base),
            FuzzInput::Elsewhere => self.elsewhere(),
            FuzzInput::Words => self.one_of(&WORDS).to_owned(),
            FuzzInput::Empty => self.around("", &BLANKS[..3]),
            FuzzInput::Unicode => self.one_of(&UNICODE).to_owned(),
            FuzzInput::Long => self.long(base),
            FuzzInput::Syntax => self.one_of(&SYNTAX).to_owned(),
            FuzzInput::Nul => match self.rng.below(3) {
                0 => "\0".to_owned(),
                1 => format!("{base}\0"),
                _ => format!("\0{base}"),
            },
            FuzzInput::GrammarSyntax => self.one_of(&GRAMMAR_SYNTAX).to_owned(),
        }
    }

    fn one_of<'b>(&mut self, items: &[&'b str]) -> &'b str {
        self.rng.pick(items).copied().unwrap_or_default()
    }

    fn change_case(&mut self, base: &str) -> String {
        if self.rng.below(2) == 0 {
            return base.to_uppercase();
        }
        let lower_case: Vec<usize> = base
            .char_indices()
            .filter(|(_, c)| c.is_lowercase())
            .map(|(at, _)| at)
            .collect();
        let chosen = self.rng.pick(&lower_case).copied();
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

    /// Adds zero to three of `blanks` on each side, each number with the same probability.
    fn around(&mut self, base: &str, blanks: &[char]) -> String {
        let left = self.up_to_three(blanks);
        let right = self.up_to_three(blanks);
        format!("{left}{base}{right}")
    }

    fn up_to_three(&mut self, blanks: &[char]) -> String {
        let count = self.rng.below(4);
        (0..count)
            .filter_map(|_| self.rng.pick(blanks).copied())
            .collect()
    }

    /// Adds 1 to a number of the command, or subtracts 1. If there is no number, appends one.
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

    /// Swaps the first and the last name of the command. If it has only one name, replaces it. If
    /// it has none, reverses the words.
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

    /// Returns a command in the grammar of either ALFWorld text version: `move X to Y` or
    /// `put X in/on Y`, or a mixture of the two.
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

    /// Returns a prefix of the command.
    fn cut_short(&mut self, base: &str) -> String {
        let keep = self.rng.below(base.chars().count());
        base.chars().take(keep).collect()
    }

    /// Replaces one letter by its substitute. If there is no such letter, appends an accent.
    fn lookalike(&mut self, base: &str) -> String {
        let replaceable: Vec<_> = LOOKALIKES
            .iter()
            .filter(|(letter, _)| base.contains(*letter))
            .collect();
        match self.rng.pick(&replaceable) {
            Some((letter, substitute)) => base.replacen(*letter, substitute, 1),
            None => format!("{base}\u{301}"),
        }
    }

    /// Returns a command of the game that is not admissible now, if eight draws find one.
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

    /// Returns a name from another command of the game.
    fn name(&mut self) -> String {
        let found = names(&self.elsewhere());
        self.rng
            .pick(&found)
            .cloned()
            .unwrap_or_else(|| "mug 1".to_owned())
    }

    /// Returns a text of [`LONG_LINE`] characters.
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

/// Returns the names in a command. A name is a word and the number after it.
fn names(command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let numbered = words
        .windows(2)
        .filter(|pair| pair[1].parse::<u64>().is_ok());
    numbered.map(|pair| pair.join(" ")).collect()
}
