//! Texts and commands of the native world, one test for each rule in which an implementation could
//! differ from the Python stack. Every expected text was printed by TextWorld 1.7.0 with ALFWorld's
//! demangler from the same game.

use crate::kitchen::{GRAMMAR, PROBLEM, admissible, kitchen, load};
use env_bridge::NativeEnvironment;
use scenarios::Environment;

/// Plays each command and compares the text.
fn check(environment: &mut NativeEnvironment, walk: &[(&str, &str)]) {
    for (turn, (command, expected)) in walk.iter().enumerate() {
        let text = environment.step(command).expect("steps").text;
        assert_eq!(text, *expected, "turn {turn}, {command:?}");
    }
}

/// The ids `egg_bar_a` and `egg_bar_b` are sorted and numbered from the highest number down, so
/// they are `egg 2` and `egg 1`. The id of the sink contains "basin". Lists have the order of ids.
#[test]
fn names_are_lower_case_and_numbered_from_the_highest_down() {
    let opening = kitchen().reset().expect("resets");
    assert_eq!(
        opening.text,
        "-= Welcome =-\n\nYou are in the middle of a room. Looking quickly around you, you see a fridge 1, a microwave 1, \
         a shelf 2, a shelf 1, and a sinkbasin 1.\n\nYour task is to: warm an egg."
    );
    assert!(!opening.won());
}

/// The older text version shows `{lend.name}`: `loc_bar_1 … loc_bar_9` are numbered down from 4.
#[test]
fn locations_are_numbered_like_objects() {
    let mut environment = load(
        PROBLEM,
        &GRAMMAR.replace("You arrive at {r.name}.", "You arrive at {lend.name}."),
    );
    check(
        &mut environment,
        &[
            (
                "go to fridge 1",
                "You arrive at loc 3. The fridge 1 is closed.",
            ),
            (
                "go to microwave 1",
                "You arrive at loc 2. The microwave 1 is open. In it, you see nothing.",
            ),
            (
                "go to shelf 1",
                "You arrive at loc 4. On the shelf 1, you see a egg 2, and a pan 1.",
            ),
        ],
    );
}

#[test]
fn an_agent_that_starts_at_a_receptacle_faces_it() {
    let at_the_shelves = PROBLEM.replace(
        "(atLocation agent1 loc_bar_9)",
        "(atLocation agent1 loc_bar_1)",
    );
    let opening = load(&at_the_shelves, GRAMMAR).reset().expect("resets").text;
    assert_eq!(
        opening,
        "-= Welcome =-\n\nYou are facing the shelf 2, and shelf 1. Next to it, you see nothing.\n\nYour task is to: warm an egg."
    );
}

/// If `look` has bound `l` to the location of the agent, its list of all receptacles is empty. A
/// free placeholder must not be bound to an object that another placeholder already has.
#[test]
fn placeholders_of_one_query_are_different_objects() {
    let mut environment = kitchen();
    check(
        &mut environment,
        &[
            (
                "look",
                "You are in the middle of a room. Looking quickly around you, you see nothing.",
            ),
            (
                "go to shelf 1",
                "You arrive at shelf 1. On the shelf 1, you see a egg 2, and a pan 1.",
            ),
            (
                "take pan 1 from shelf 1",
                "You pick up the pan 1 from the shelf 1.",
            ),
            // The pan is inside itself, but is not listed.
            (
                "examine pan 1",
                "This is a normal pan 1. In it, you see a egg 2.",
            ),
        ],
    );
}

/// Both shelves are at one location. Going from one to the other changes nothing, so it is not
/// admissible.
#[test]
fn admissible_commands_are_sorted_by_bytes_and_change_something() {
    let mut environment = kitchen();
    check(
        &mut environment,
        &[
            (
                "go to shelf 1",
                "You arrive at shelf 1. On the shelf 1, you see a egg 2, and a pan 1.",
            ),
            ("go to shelf 2", "Nothing happens."),
            ("go to shelf 1", "Nothing happens."),
        ],
    );
    let expected = [
        "examine shelf 1",
        "examine shelf 2",
        "go to fridge 1",
        "go to microwave 1",
        "go to sinkbasin 1",
        "help",
        "inventory",
        "look",
        "take desklamp 1 from shelf 2",
        "take egg 2 from shelf 1",
        "take pan 1 from shelf 1",
        "take pan 1 from shelf 2",
        "use desklamp 1",
    ];
    assert_eq!(admissible(&mut environment), expected);
}

/// In `(?l - location, ?r - receptacle)` the comma is part of the type's name, and no object has
/// the type "location,".
#[test]
fn an_object_can_be_examined_only_if_it_is_held() {
    let mut environment = kitchen();
    check(
        &mut environment,
        &[
            (
                "go to shelf 2",
                "You arrive at shelf 2. On the shelf 2, you see a desklamp 1, and a pan 1.",
            ),
            ("examine pan 1", "Nothing happens."),
            ("examine desklamp 1", "Nothing happens."),
            (
                "take desklamp 1 from shelf 2",
                "You pick up the desklamp 1 from the shelf 2.",
            ),
            (
                "examine desklamp 1",
                "There's nothing special about desklamp 1.",
            ),
        ],
    );
}

/// The pan is on both shelves. If it is taken from one, it is still listed on the other. "Next to
/// it" lists an object only if an effect made `inReceptacle` false and the object is at the
/// location again.
#[test]
fn taking_deletes_only_the_facts_it_names() {
    let mut environment = kitchen();
    check(
        &mut environment,
        &[
            (
                "go to shelf 1",
                "You arrive at shelf 1. On the shelf 1, you see a egg 2, and a pan 1.",
            ),
            (
                "look",
                "You are facing the shelf 2, and shelf 1. Next to it, you see nothing.",
            ),
            (
                "take pan 1 from shelf 1",
                "You pick up the pan 1 from the shelf 1.",
            ),
            ("examine shelf 1", "On the shelf 1, you see a egg 2."),
            (
                "examine shelf 2",
                "On the shelf 2, you see a desklamp 1, and a pan 1.",
            ),
            (
                "look",
                "You are facing the shelf 2, and shelf 1. Next to it, you see nothing.",
            ),
            (
                "move pan 1 to shelf 2",
                "You move the pan 1 to the shelf 2.",
            ),
            (
                "look",
                "You are facing the shelf 2, and shelf 1. Next to it, you see pan 1.",
            ),
            ("inventory", "You are not carrying anything."),
        ],
    );
}

#[test]
fn closed_doors_prevent_only_taking_and_putting() {
    let mut environment = kitchen();
    check(
        &mut environment,
        &[
            (
                "go to fridge 1",
                "You arrive at fridge 1. The fridge 1 is closed.",
            ),
            ("take egg 1 from fridge 1", "Nothing happens."),
            (
                "open fridge 1",
                "You open the fridge 1. The fridge 1 is open. In it, you see a egg 2, and a egg 1.",
            ),
            (
                "take egg 2 from fridge 1",
                "You pick up the egg 2 from the fridge 1.",
            ),
            // A fridge cannot contain eggs in this kitchen, open or not.
            ("move egg 2 to fridge 1", "Nothing happens."),
            ("close fridge 1", "You close the fridge 1."),
            (
                "cool egg 2 with fridge 1",
                "You cool the egg 2 using the fridge 1.",
            ),
            (
                "go to microwave 1",
                "You arrive at microwave 1. The microwave 1 is open. In it, you see nothing.",
            ),
            ("close microwave 1", "You close the microwave 1."),
            ("move egg 2 to microwave 1", "Nothing happens."),
            (
                "heat egg 2 with microwave 1",
                "You heat the egg 2 using the microwave 1.",
            ),
            ("inventory", "You are carrying: a egg 2."),
        ],
    );
}

#[test]
fn use_always_reports_turning_on() {
    let mut environment = kitchen();
    environment.step("go to shelf 1").expect("steps");
    let on = "You turn on the desklamp 1.";
    check(
        &mut environment,
        &[
            ("use desklamp 1", on),
            ("use desklamp 1", on),
            ("use desklamp 1", on),
        ],
    );
}

#[test]
fn hot_and_cool_clear_each_other_and_the_goal_is_checked_every_time() {
    let mut environment = kitchen();
    check(
        &mut environment,
        &[
            (
                "go to fridge 1",
                "You arrive at fridge 1. The fridge 1 is closed.",
            ),
            (
                "open fridge 1",
                "You open the fridge 1. The fridge 1 is open. In it, you see a egg 2, and a egg 1.",
            ),
            (
                "take egg 1 from fridge 1",
                "You pick up the egg 1 from the fridge 1.",
            ),
            (
                "cool egg 1 with fridge 1",
                "You cool the egg 1 using the fridge 1.",
            ),
            ("examine egg 1", "This is a cold egg 1."),
            (
                "go to microwave 1",
                "You arrive at microwave 1. The microwave 1 is open. In it, you see nothing.",
            ),
            (
                "heat egg 1 with microwave 1",
                "You heat the egg 1 using the microwave 1.",
            ),
            ("examine egg 1", "This is a hot egg 1."),
        ],
    );
    let won = [
        "move egg 1 to microwave 1",
        "look",
        "take egg 1 from microwave 1",
    ]
    .map(|command| environment.step(command).expect("steps").won());
    assert_eq!(won, [true, true, false]);
}

#[test]
fn a_command_is_stripped_and_then_must_match_exactly() {
    let mut environment = kitchen();
    check(
        &mut environment,
        &[
            (
                "  go to fridge 1\t\n",
                "You arrive at fridge 1. The fridge 1 is closed.",
            ),
            (
                "\u{1c}open fridge 1\u{a0}",
                "You open the fridge 1. The fridge 1 is open. In it, you see a egg 2, and a egg 1.",
            ),
            ("Take egg 1 from fridge 1", "Nothing happens."),
            ("take  egg 1 from fridge 1", "Nothing happens."),
            ("", "Nothing happens."),
            ("take egg", "Nothing happens."),
        ],
    );
}

/// The string in the grammar begins and ends with a newline. Only the leading one is removed.
#[test]
fn the_leading_newline_of_a_text_is_removed() {
    check(&mut kitchen(), &[("help", "Commands:\n  look\n")]);
}

#[test]
fn the_task_sentence_comes_from_the_grammar() {
    let environment = kitchen();
    assert_eq!(
        environment.game().task_sentence().as_deref(),
        Some("Your task is to: warm an egg.")
    );
    assert_eq!(environment.game().walkthrough(), None);
}
