//! Tests of the command sources and the fuzzer.

use super::fuzzer::{
    BLANKS, CommandFuzzer, FuzzInput, GRAMMAR_SYNTAX, LONG_LINE, NEAR_BLANKS, SYNTAX, UNICODE,
    WORDS,
};
use super::sources::{CommandStream, Commands, stream_of_game};
use crate::native::{NativeEnvironment, NativeGame, NativeWorld};
use scenarios::Environment;
use scenarios::household::{GenerateOptions, Size, generate};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Returns a generated game. Any game has names, numbers and commands that are not always
/// admissible.
fn small_game() -> Arc<NativeGame> {
    let options = GenerateOptions {
        seed: 3,
        size: Size::Small,
        train: 6,
        valid_train: 0,
        seen: 0,
        unseen: 0,
        ..GenerateOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let suite = generate(folder.path(), &options).unwrap();
    NativeWorld::new().game(&suite.tasks[0].path).unwrap()
}

fn admissible(game: &NativeGame) -> Vec<String> {
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

/// Draws inputs of a kind.
struct Draws {
    rng: scenarios::seed::SplitMix64,
    game: Arc<NativeGame>,
    admissible: Vec<String>,
}

impl Draws {
    fn new(seed: u64) -> Self {
        let game = small_game();
        Self {
            rng: stream_of_game(seed, ""),
            admissible: admissible(&game),
            game,
        }
    }

    fn times(&mut self, count: usize, input: FuzzInput, base: &str) -> Vec<String> {
        let mut fuzzer = CommandFuzzer {
            rng: &mut self.rng,
            game: &self.game,
            admissible: &self.admissible,
        };
        (0..count).map(|_| fuzzer.draw(input, base)).collect()
    }

    fn distinct(&mut self, input: FuzzInput, base: &str) -> BTreeSet<String> {
        self.times(400, input, base).into_iter().collect()
    }

    fn assert_contain(&mut self, input: FuzzInput, base: &str, wanted: &[&str]) {
        let found = self.distinct(input, base);
        for text in wanted {
            assert!(found.contains(*text), "{text:?} is not in {found:?}");
        }
    }
}

const GO: &str = "go to shelf 2";
const PUT: &str = "move mug 1 to shelf 2";

#[test]
fn mutated_inputs_have_the_form_of_their_kind() {
    let mut draws = Draws::new(0);
    for (input, base, wanted) in [
        (
            FuzzInput::Case,
            GO,
            &["GO TO SHELF 2", "Go to shelf 2", "go to shelF 2"][..],
        ),
        (
            FuzzInput::BlanksWithin,
            GO,
            &["go  to shelf 2", "go\tto\tshelf\t2", "gotoshelf2"],
        ),
        (
            FuzzInput::Punctuation,
            GO,
            &["go to shelf 2.", "go to shelf 2!"],
        ),
        (FuzzInput::OffByOne, GO, &["go to shelf 1", "go to shelf 3"]),
        (FuzzInput::OffByOne, "look", &["look 1"]),
        (FuzzInput::CutShort, GO, &["", "go to shelf ", "go"]),
        (
            FuzzInput::Wrapped,
            GO,
            &["\"go to shelf 2\"", "{go to shelf 2}"],
        ),
        (
            FuzzInput::Lookalike,
            GO,
            &[
                "go\u{a0}to shelf 2",
                "go to ſhelf 2",
                "go to she\u{301}lf 2",
            ],
        ),
        (
            FuzzInput::Lookalike,
            "inventory",
            &["ınventory", "İnventory"],
        ),
        (
            FuzzInput::OtherGrammar,
            PUT,
            &[
                "put mug 1 in/on shelf 2",
                "move mug 1 to shelf 2",
                "put mug 1 on shelf 2",
            ],
        ),
    ] {
        draws.assert_contain(input, base, wanted);
    }
    assert_eq!(
        draws.distinct(FuzzInput::SwappedNames, PUT),
        BTreeSet::from(["move shelf 2 to mug 1".to_owned()])
    );
    assert!(draws.distinct(FuzzInput::SwappedNames, GO).len() > 5);
    assert!(
        draws
            .distinct(FuzzInput::Joined, GO)
            .iter()
            .all(|text| text.starts_with(GO) && text.len() > GO.len())
    );
}

#[test]
fn generated_inputs_have_the_form_of_their_kind() {
    let mut draws = Draws::new(0);
    for (input, wanted) in [
        (
            FuzzInput::Nul,
            &["\0", "go to shelf 2\0", "\0go to shelf 2"][..],
        ),
        (FuzzInput::Words, &["help", "look", "inventory"]),
        (FuzzInput::Empty, &["", " ", "\t", "\n"]),
        (FuzzInput::Unicode, &["🍎", "ıİ"]),
        (FuzzInput::Syntax, &["\"", "\\", "{}", "'"]),
        (FuzzInput::GrammarSyntax, &["#intro#", "{o.name}"]),
    ] {
        draws.assert_contain(input, GO, wanted);
    }
    assert!(
        draws
            .distinct(FuzzInput::Long, GO)
            .iter()
            .all(|text| text.chars().count() == LONG_LINE)
    );
    let elsewhere = draws.distinct(FuzzInput::Elsewhere, GO);
    assert!(elsewhere.len() > 20);
    assert!(
        elsewhere
            .iter()
            .all(|command| draws.game.command_index(command).is_some())
    );
    let here = elsewhere
        .iter()
        .filter(|command| draws.admissible.contains(command))
        .count();
    assert!(
        here * 10 < elsewhere.len(),
        "{here} of {} are admissible",
        elsewhere.len()
    );
}

/// If a command is surrounded by any of `BLANKS`, its observation is the same. If it is surrounded
/// by a character of `NEAR_BLANKS`, the command is unknown.
#[test]
fn blanks_are_stripped_and_near_blanks_are_not() {
    let mut environment = NativeEnvironment::new(small_game());
    let look = environment.step("look").unwrap().text;
    for blank in BLANKS {
        let command = format!("{blank}look{blank}{blank}");
        assert_eq!(environment.step(&command).unwrap().text, look, "{blank:?}");
    }
    for blank in NEAR_BLANKS {
        let command = format!("{blank}look");
        assert_ne!(environment.step(&command).unwrap().text, look, "{blank:?}");
    }
    let mut draws = Draws::new(1);
    let around = draws.times(2000, FuzzInput::BlanksAround, "look").concat();
    assert!(BLANKS.iter().all(|blank| around.contains(*blank)));
    let around = draws
        .times(500, FuzzInput::NearBlanksAround, "look")
        .concat();
    assert!(NEAR_BLANKS.iter().all(|blank| around.contains(*blank)));
}

/// Returns true if a text has a feature that only (or almost only) this kind of input has.
fn is_of_kind(input: FuzzInput, text: &str, game: &NativeGame) -> bool {
    let goes = text.starts_with("go to ");
    match input {
        FuzzInput::Case => text.starts_with("GO TO "),
        FuzzInput::BlanksWithin => text.starts_with("go  to "),
        FuzzInput::BlanksAround => {
            text.starts_with(BLANKS) && text.trim_start().starts_with("go to ")
        }
        FuzzInput::NearBlanksAround => text.starts_with(NEAR_BLANKS),
        FuzzInput::Punctuation => goes && text.ends_with('?'),
        FuzzInput::OffByOne => goes && text.ends_with(" 0"),
        FuzzInput::SwappedNames => text.strip_prefix("go to ").is_some_and(|name| {
            game.command_index(text).is_none()
                && game.command_index(&format!("examine {name}")).is_some()
        }),
        FuzzInput::OtherGrammar => text.starts_with("put ") && text.contains(" in/on "),
        FuzzInput::CutShort => "go to ".starts_with(text) && text.len() > 2,
        FuzzInput::Joined => goes && text.contains(". "),
        FuzzInput::Wrapped => text.starts_with("\"go to "),
        FuzzInput::Lookalike => text.contains("ınventory"),
        FuzzInput::Elsewhere => text.starts_with("take ") && game.command_index(text).is_some(),
        FuzzInput::Words => WORDS.contains(&text),
        FuzzInput::Empty => text.is_empty(),
        FuzzInput::Unicode => UNICODE.contains(&text),
        FuzzInput::Long => text.chars().count() == LONG_LINE,
        FuzzInput::Syntax => SYNTAX.contains(&text),
        FuzzInput::Nul => text.contains('\0'),
        FuzzInput::GrammarSyntax => GRAMMAR_SYNTAX.contains(&text),
    }
}

#[test]
fn every_kind_of_input_is_drawn_and_every_third_command_is_admissible() {
    let game = small_game();
    let here = admissible(&game);
    let mut source = CommandStream::new(
        Commands::Adversarial,
        game.clone(),
        stream_of_game(5, "abc"),
    );
    let drawn: Vec<String> = (0..3000).map(|_| source.next(&here)).collect();
    assert!(
        drawn
            .iter()
            .skip(2)
            .step_by(3)
            .all(|command| here.contains(command))
    );
    let inputs: Vec<&str> = drawn
        .iter()
        .map(String::as_str)
        .filter(|text| !here.iter().any(|command| command == text))
        .collect();
    assert!(inputs.len() > 1500, "{}", inputs.len());
    for input in FuzzInput::MUTATED.into_iter().chain(FuzzInput::GENERATED) {
        assert!(
            inputs.iter().any(|text| is_of_kind(input, text, &game)),
            "{input:?} was never drawn"
        );
    }
}

/// Returns the first `turns` commands of a source. The admissible commands are those of the
/// initial state.
fn drawn(commands: Commands, game: &Arc<NativeGame>, turns: usize) -> Vec<String> {
    let here = admissible(game);
    let mut source = CommandStream::new(commands, game.clone(), stream_of_game(5, "abc"));
    (0..turns).map(|_| source.next(&here)).collect()
}

#[test]
fn the_walkthrough_is_followed_in_order() {
    let game = small_game();
    let walkthrough = game.walkthrough().unwrap().to_vec();
    let here = admissible(&game);
    let walked = drawn(Commands::Walkthrough, &game, walkthrough.len() + 20);
    assert_eq!(walked[..walkthrough.len()], walkthrough);
    assert!(
        walked[walkthrough.len()..]
            .iter()
            .all(|command| here.contains(command))
    );
    let mixed = drawn(Commands::Mixed, &game, 400);
    let mut rest = mixed.iter();
    assert!(
        walkthrough
            .iter()
            .all(|command| rest.any(|other| other == command)),
        "{mixed:?}"
    );
    assert!(
        mixed
            .iter()
            .any(|command| game.command_index(command).is_none())
    );
    assert!(
        drawn(Commands::Random, &game, 100)
            .iter()
            .all(|command| here.contains(command))
    );
}

#[test]
fn each_game_and_seed_has_its_own_stream() {
    assert_eq!(first_number(1, "ab"), first_number(1, "ab"));
    assert_ne!(first_number(1, "ab"), first_number(2, "ab"));
    assert_ne!(first_number(1, "ab"), first_number(1, "ba"));
    assert_ne!(first_number(1, "a"), first_number(1, "b"));
}

fn first_number(seed: u64, hash: &str) -> u64 {
    stream_of_game(seed, hash).next()
}
