//! Damaged games: loading returns an error with the file, the place and the reason. It never
//! panics, hangs or overflows the stack.

use env_bridge::{NativeEnvironment, NativeWorld};
use proptest::prelude::*;
use scenarios::{Environment, Split, Task, World};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static LAMP: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../recorded/textworld-1.7.0/lamp/game.tw-pddl");
    serde_json::from_str(text).expect("the lamp game is JSON")
});

/// The lamp game with one text changed.
fn lamp_with(key: &str, from: &str, to: &str) -> Vec<u8> {
    let mut game = LAMP.clone();
    let text = game[key].as_str().expect("a text");
    assert!(text.contains(from), "{key} has no {from:?}");
    game[key] = json!(text.replacen(from, to, 1));
    game.to_string().into_bytes()
}

/// Returns the error of loading, or `None` if the game loads.
fn load_error(bytes: &[u8]) -> Option<String> {
    NativeWorld::new()
        .game_from_bytes(Path::new("some/game.tw-pddl"), bytes)
        .err()
        .map(|error| error.to_string())
}

#[test]
fn each_fault_contains_its_file_its_place_and_its_reason() {
    let rows: &[(&str, &str, &str, &str)] = &[
        (
            "pddl_domain",
            "(define",
            "define",
            "pddl_domain, line 2, column 1: expected '(', found \"define\"",
        ),
        (
            "pddl_domain",
            "(lit ?x)) :effect (hot ?f))",
            "(lit ?x)) :effect (hot ?f)",
            "pddl_domain, line 2, column 1: this '(' is never closed",
        ),
        (
            "pddl_domain",
            "(at ?a ?from)",
            "(near ?a ?from)",
            "pddl_domain, line 7, column 79: unknown predicate \"near\"",
        ),
        (
            "pddl_domain",
            "(at ?a ?from)",
            "(at ?a)",
            "pddl_domain, line 7, column 79: \"at\" takes 2 arguments, found 1",
        ),
        (
            "pddl_domain",
            "(at ?a ?from)",
            "(at ?a ?whence)",
            "pddl_domain, line 7, column 86: unbound variable \"?whence\"",
        ),
        (
            "pddl_domain",
            "(at ?a ?from)",
            "(place ?from)",
            "pddl_domain, line 7, column 79: type \"place\" used as a predicate, which is not supported",
        ),
        (
            "pddl_domain",
            "food - thing",
            "food - thng",
            "pddl_domain, line 4, column 37: type \"food\" is based on the unknown type \"thng\"",
        ),
        (
            "pddl_domain",
            "(:types",
            "(:kinds",
            "pddl_domain, line 4, column 2: unknown section \":kinds\"",
        ),
        (
            "pddl_domain",
            ":precondition (at",
            ":precondetion (at",
            "pddl_domain, line 7, column 65: unknown field \":precondetion\" in action \"go\"",
        ),
        (
            "pddl_domain",
            "?x - food",
            "?x - (either food)",
            "pddl_domain, line 6, column 49: a type must be one word; (either …) is not supported",
        ),
        (
            "pddl_domain",
            "(hot ?f))",
            "(increase (heat) 1))",
            "only (total-cost) can be increased",
        ),
        (
            "pddl_problem",
            "Pie_bar_1 - food",
            "Pie_bar_1 - cake",
            "pddl_problem, line 2, column 84: object \"pie_bar_1\" has the unknown type \"cake\"",
        ),
        (
            "pddl_problem",
            "(lit Lamp_bar_1)",
            "(lit Lamp_bar_7)",
            "unknown object \"lamp_bar_7\"",
        ),
        (
            "pddl_problem",
            "(lit Lamp_bar_1)",
            "(glows Lamp_bar_1)",
            "unknown predicate \"glows\"",
        ),
        (
            "pddl_problem",
            "(:domain lamp)",
            "(:domain pie)",
            "pddl_problem, line 1, column 30: the problem is not of domain \"lamp\"",
        ),
        (
            "pddl_problem",
            "Lamp_bar_2",
            "Lamp_bar_1",
            "object \"lamp_bar_1\" is declared twice",
        ),
        (
            "pddl_problem",
            "(hot ?f) (in",
            "(holds ?f ?f) (in",
            "pddl_problem, line 5, column 9: the goal can never hold",
        ),
        (
            "pddl_problem",
            "(hot ?f) (in ?f ?p)",
            "(= ?f ?f)",
            "pddl_problem, line 5, column 9: the goal always holds",
        ),
        (
            "pddl_problem",
            "(lit Lamp_bar_1)",
            "(lit Lamp_bar_1) (not (lit Lamp_bar_1))",
            "this fact is both true and false",
        ),
        (
            "pddl_problem",
            "(:goal",
            "(:gaol",
            "unknown section \":gaol\"",
        ),
        (
            "pddl_problem",
            "two-places",
            "zwei-Plätze",
            "pddl_problem, line 1, column 25: non-ASCII character outside a comment",
        ),
        (
            "grammar",
            "grammar ::",
            "gramar ::",
            "grammar, line 1, column 1: expected \"action\" or \"grammar\"",
        ),
        (
            "grammar",
            "\"intro\": [{",
            "\"intro\": [",
            "a grammar block is not JSON rules",
        ),
        (
            "grammar",
            "\"place\": [",
            "\"site\": [",
            "unknown symbol #place# (reached through #intro# → #scene#)",
        ),
        (
            "grammar",
            "\"rhs\": \"#place#\"",
            "\"rhs\": \"#scene#\"",
            "symbol #scene# calls itself (reached through #intro# → #scene#)",
        ),
        (
            "grammar",
            "at(a:agent, p:place)",
            "at(:agent, p:place)",
            "\"\" is not a placeholder",
        ),
        (
            "grammar",
            "at(a:agent, p:place)",
            "at(a:agent)",
            "\"at\" takes 2 arguments, found 1",
        ),
        (
            "grammar",
            "at(a:agent, p:place)",
            "at(a:agent, p:planet)",
            "unknown type \"planet\"",
        ),
        (
            "grammar",
            "at(a:agent, p:place)",
            "near(a:agent, p:place)",
            "unknown predicate \"near\"",
        ),
        (
            "grammar",
            "{p.name",
            "{q.name",
            "grammar, line 5, column 2: expression \"q.name \": unknown variable \"q\"",
        ),
        (
            "grammar",
            "{p.name",
            "{p.colour",
            "unknown attribute \"colour\"",
        ),
        (
            "grammar",
            "action heat {",
            "action warm {",
            "the grammar has no action \"heat\"",
        ),
        (
            "grammar",
            "template :: \"press {x}\";",
            "",
            "action \"press\" has no template",
        ),
        (
            "grammar",
            "\"press {x}\"",
            "\"press [{y.name | lit(y:thing)}]\"",
            "the template of action \"press\" depends on facts that change",
        ),
        (
            "grammar",
            "feedback :: \"Click.\"; }",
            "feedback :: \"Click.",
            "never closed",
        ),
    ];
    let mut wrong = Vec::new();
    for (key, from, to, expected) in rows {
        let error =
            load_error(&lamp_with(key, from, to)).unwrap_or_else(|| "none, it loads".to_owned());
        let has_place = error.starts_with("some/game.tw-pddl: ")
            && error.contains(", line ")
            && error.contains(", column ");
        if !(has_place && error.contains(key) && error.contains(expected)) {
            wrong.push(format!("error    {error}\nexpected {expected}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn json_faults_contain_line_and_column() {
    for (bytes, expected) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        (
            "{\"pddl_domain\": \"\"}",
            "missing field `grammar` at line 1 column 19",
        ),
        (
            "{\"pddl_domain\": 7}",
            "invalid type: integer `7`, expected a string at line 1 column 17",
        ),
        ("[]", "invalid length 0"),
        ("{\"pddl_domain\": \"\\ud800\"}", "at line 1 column"),
    ] {
        let error = load_error(bytes.as_bytes()).expect("an error");
        assert!(
            error.contains("some/game.tw-pddl: ") && error.contains(expected),
            "{error}"
        );
    }
    assert!(load_error(b"\xff\xfe").is_some());
}

#[test]
fn a_missing_file_is_named_in_the_error_of_the_world() {
    let task = Task {
        id: "gone".to_owned(),
        split: Split::Train,
        task_type: None,
        path: "no/such/game.tw-pddl".into(),
        hash: String::new(),
    };
    let Err(error) = NativeWorld::new().open(&task) else {
        panic!("it opens")
    };
    assert!(
        error
            .to_string()
            .starts_with("cannot load no/such/game.tw-pddl: "),
        "{error}"
    );
}

/// A game of one action over many objects.
fn wide_game(objects: usize, parameters: usize) -> Vec<u8> {
    let typed: String = (0..parameters).map(|p| format!("?p{p} ")).collect();
    let names: String = (0..objects).map(|o| format!("o{o} ")).collect();
    json!({
        "pddl_domain": format!(
            "(define (domain d) (:types t) (:predicates (p ?x - t) (q)) (:action a :parameters ({typed} - t) :effect (q)))"
        ),
        "grammar": "grammar :: \"\"\"{\"intro\": [{\"rhs\": \"x\"}]}\"\"\"; action a { template :: \"a\"; feedback :: \"a\"; }",
        "pddl_problem": format!("(define (problem p) (:domain d) (:objects {names} - t) (:init (p o0)) (:goal (q)))"),
    })
    .to_string()
    .into_bytes()
}

/// The lamp game with a chain of symbols in its grammar. Each calls the next twice.
fn doubling(depth: usize, text: &str) -> Vec<u8> {
    let mut rules: Vec<String> = (0..depth)
        .map(|n| format!("\"s{n}\": [{{\"rhs\": \"#s{0}##s{0}#\"}}]", n + 1))
        .collect();
    rules.push(format!("\"s{depth}\": [{{\"rhs\": \"{text}\"}}]"));
    let rules = rules.join(", ");
    lamp_with(
        "grammar",
        "{\"intro\": [{\"rhs\": \"A house.",
        &format!("{{{rules}, \"intro\": [{{\"rhs\": \"#s0# A house."),
    )
}

#[test]
fn a_game_that_exceeds_a_limit_is_refused_quickly() {
    let deep_condition = format!("{}(lit ?x){}", "(not ".repeat(50_000), ")".repeat(50_000));
    let choices = "(or (lit ?x) (lamp ?x)) ".repeat(40);
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "nesting",
            lamp_with(
                "pddl_domain",
                "(lamp ?x) (at",
                &format!("{deep_condition} (at"),
            ),
            "lists are nested deeper than 100",
        ),
        (
            "choices",
            lamp_with("pddl_domain", "(lamp ?x) (at", &format!("{choices} (at")),
            "expands into more than 512 alternatives",
        ),
        (
            "conditions",
            lamp_with(
                "pddl_domain",
                "(lamp ?x) (at",
                &format!("{} (at", "(lit ?x) ".repeat(2000)),
            ),
            "a conjunction of more than 1000 conditions",
        ),
        ("objects", wide_game(40_000, 1), "more than 30000 objects"),
        (
            "groundings",
            wide_game(1000, 3),
            "grounding visits more than 30000000 facts and conditions",
        ),
        (
            "operators",
            wide_game(700, 2),
            "the game has more than 400000 operators",
        ),
        (
            "symbols",
            doubling(200, "x"),
            "symbols call each other deeper than 100",
        ),
        (
            "json",
            json!([[[[[[]]]]]])
                .to_string()
                .replace("[]", &"[".repeat(100_000))
                .into_bytes(),
            "line 1 column",
        ),
        (
            "file",
            vec![b' '; (16 << 20) + 1],
            "16777217 bytes, and a game has at most 16777216",
        ),
    ];
    for (name, bytes, expected) in rows {
        let start = Instant::now();
        let error = load_error(&bytes).unwrap_or_else(|| panic!("{name} loads"));
        assert!(
            error.contains(expected),
            "{name}: {}",
            error.chars().take(300).collect::<String>()
        );
        let limit = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 6 });
        assert!(start.elapsed() < limit, "{name} took {:?}", start.elapsed());
    }
}

/// If a file is not a PDDL game, the error names a world that can play it.
#[test]
fn a_game_of_another_kind_is_refused_with_a_way_to_play_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let python = "\nhint: only .tw-pddl games play natively; play this one with --world python";
    let no_world =
        "\nhint: only .tw-pddl games play natively, and TextWorld 1.7 no longer plays Glulx";
    let large = vec![8; env_bridge::native::FILE_LIMIT + 1];
    for (name, bytes, reason, hint) in [
        (
            "coin.z8",
            &b"\x08\x00\x01"[..],
            "expected value at line 1 column 1",
            python,
        ),
        (
            "coin.z5",
            b"",
            "EOF while parsing a value at line 1 column 0",
            python,
        ),
        (
            "coin",
            b"\x7fELF",
            "expected value at line 1 column 1",
            python,
        ),
        (
            "huge.z8",
            &large,
            "16777217 bytes, and a game has at most 16777216",
            python,
        ),
        (
            "coin.ulx",
            b"Glul",
            "expected value at line 1 column 1",
            no_world,
        ),
        (
            "torn.tw-pddl",
            b"\x08",
            "expected value at line 1 column 1",
            "",
        ),
        (
            "torn.tw-pddl",
            &large,
            "16777217 bytes, and a game has at most 16777216",
            "",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("writes");
        let task = Task {
            id: name.into(),
            split: Split::Train,
            task_type: None,
            path: path.clone(),
            hash: String::new(),
        };
        let Err(error) = NativeWorld::new().open(&task) else {
            panic!("{name} loads")
        };
        assert_eq!(
            error.to_string(),
            format!("cannot load {}: {reason}{hint}", path.display())
        );
    }
    let path = folder.path().join("missing.z8");
    let task = Task {
        id: String::new(),
        split: Split::Train,
        task_type: None,
        path,
        hash: String::new(),
    };
    let Err(error) = NativeWorld::new().open(&task) else {
        panic!("a missing file loads")
    };
    assert!(!error.to_string().contains("hint"), "{error}");
}

/// A text that is too long loads, and rendering it returns an error.
#[test]
fn rendering_a_text_that_is_too_long_is_an_error_of_the_world() {
    for text in ["x", ""] {
        let game = NativeWorld::new()
            .game_from_bytes(Path::new("doubling"), &doubling(90, text))
            .expect("loads");
        let error = NativeEnvironment::new(game).reset().expect_err("no end");
        assert!(
            error
                .to_string()
                .starts_with("the world failed at command \"reset\": the text "),
            "{error}"
        );
    }
}

/// Loads a game, and plays some commands if it loads.
fn load_and_play(bytes: &[u8]) {
    let Ok(game) = NativeWorld::new().game_from_bytes(Path::new("mutant"), bytes) else {
        return;
    };
    let mut environment = NativeEnvironment::new(game);
    let _ = environment.reset();
    for turn in 0..6 {
        let commands = environment.admissible_commands().expect("lists");
        let Some(command) = commands.get(turn * 7 % commands.len().max(1)) else {
            return;
        };
        let _ = environment.step(command);
    }
}

/// Changes a text: removes some bytes at a place and inserts a fragment.
fn mutate(text: &str, place: usize, removed: usize, inserted: &str) -> String {
    let mut cut = place % (text.len() + 1);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut end = (cut + removed).min(text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    format!("{}{inserted}{}", &text[..cut], &text[end..])
}

static FRAGMENTS: &[&str] = &[
    "",
    "(",
    ")",
    "()",
    "?x",
    "?",
    "- thing",
    "-",
    "(not ",
    "(forall (?z - thing) ",
    "(exists () ",
    "(= ?x ?x)",
    "(when ",
    "#",
    "#place#",
    "{",
    "}",
    "[",
    "]",
    "|",
    "&",
    "\"",
    "\"\"\"",
    "{x.name}",
    "{x}",
    "or",
    "+",
    ".",
    ":",
    "::",
    ";",
    ",",
    "not_",
    "!",
    "é",
    "\\",
    "\n",
    "_bar_",
    "object",
    "0",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_text_never_panics(
        game in prop::sample::select(vec!["lamp", "boxes", "toggle"]),
        key in prop::sample::select(vec!["pddl_domain", "pddl_problem", "grammar"]),
        changes in prop::collection::vec((any::<usize>(), 0_usize..12, prop::sample::select(FRAGMENTS.to_vec())), 1..4),
    ) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recorded/textworld-1.7.0/{game}/game.tw-pddl"));
        let mut value: Value = serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON");
        let mut text = value[key].as_str().expect("a text").to_owned();
        for (place, removed, inserted) in changes {
            text = mutate(&text, place, removed, inserted);
        }
        value[key] = json!(text);
        load_and_play(value.to_string().as_bytes());
    }

    #[test]
    fn a_truncated_or_flipped_file_never_panics(cut in any::<usize>(), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..5)) {
        let mut bytes = LAMP.to_string().into_bytes();
        for (place, value) in flips {
            let place = place % bytes.len();
            bytes[place] = value;
        }
        if cut % 3 == 0 {
            bytes.truncate(cut / 3 % bytes.len());
        }
        load_and_play(&bytes);
    }
}
