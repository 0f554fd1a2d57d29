//! Tests of the expert: its commands for scripted observations.

use super::*;

/// Plays one game with scripted observations and checks the expert's command after each.
fn plays(task: &str, room: &str, first: &str, exchanges: &[(&str, &str)]) {
    let mut expert = Expert::new(0);
    assert_eq!(expert.act(&opening(task, room)), first);
    for (observation, command) in exchanges {
        assert_eq!(expert.act(observation), *command, "after {observation:?}");
    }
}

fn opening(task: &str, room: &str) -> String {
    format!(
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. \
         Looking quickly around you, you see {room}.\n\nYour task is to: {task}."
    )
}

#[test]
fn a_closed_target_is_opened() {
    plays(
        "put some creditcard on safe",
        "a desk 1, and a safe 1",
        "go to desk 1",
        &[
            (
                "You arrive at desk 1. On the desk 1, you see a creditcard 2.",
                "take creditcard 2 from desk 1",
            ),
            (
                "You pick up the creditcard 2 from the desk 1.",
                "go to safe 1",
            ),
            ("You arrive at safe 1. The safe 1 is closed.", "open safe 1"),
            (
                "You open the safe 1. The safe 1 is open. In it, you see nothing.",
                "move creditcard 2 to safe 1",
            ),
        ],
    );
}

#[test]
fn in_the_older_version_put_has_in_on() {
    plays(
        "put a mug in shelf",
        "a desk 1, and a shelf 1",
        "go to desk 1",
        &[
            (
                "You arrive at loc 14. On the desk 1, you see a mug 1.",
                "take mug 1 from desk 1",
            ),
            ("You pick up the mug 1 from the desk 1.", "go to shelf 1"),
            (
                "You arrive at loc 3. On the shelf 1, you see nothing.",
                "put mug 1 in/on shelf 1",
            ),
        ],
    );
}

/// A command that replaced the expert's counts as done: it neither heats twice nor searches for the
/// object that it holds.
#[test]
fn it_continues_from_a_command_that_replaced_its_own() {
    let mut expert = Expert::new(0);
    let room = "a coffeemachine 1, and a microwave 1";
    assert_eq!(
        expert.act(&opening("put a hot mug in coffeemachine", room)),
        "go to coffeemachine 1"
    );
    let observation = "You arrive at microwave 1. The microwave 1 is open. In it, you see a mug 3.";
    assert_eq!(
        act_after(&mut expert, "go to microwave 1", observation),
        "take mug 3 from microwave 1"
    );
    assert_eq!(
        expert.act("You pick up the mug 3 from the microwave 1."),
        "heat mug 3 with microwave 1"
    );
    assert_eq!(
        act_after(&mut expert, "inventory", "You are carrying: a mug 3."),
        "heat mug 3 with microwave 1"
    );
    let observation = "You heat the mug 3 using the microwave 1.";
    assert_eq!(
        act_after(&mut expert, "heat mug 3 with microwave 1", observation),
        "go to coffeemachine 1"
    );
    assert_eq!(
        act_after(&mut expert, "heat mug 3 with the sun", "Nothing happens."),
        "go to coffeemachine 1"
    );
}

fn act_after(expert: &mut Expert, replacement: &str, observation: &str) -> String {
    expert.replace_last(replacement);
    expert.act(observation)
}

#[test]
fn an_object_in_the_appliance_is_treated_there() {
    plays(
        "put a hot mug in coffeemachine",
        "a coffeemachine 1, and a microwave 1",
        "go to coffeemachine 1",
        &[
            (
                "You arrive at coffeemachine 1. On the coffeemachine 1, you see nothing.",
                "go to microwave 1",
            ),
            (
                "You arrive at microwave 1. The microwave 1 is closed.",
                "open microwave 1",
            ),
            (
                "You open the microwave 1. The microwave 1 is open. In it, you see a mug 3.",
                "take mug 3 from microwave 1",
            ),
            (
                "You pick up the mug 3 from the microwave 1.",
                "heat mug 3 with microwave 1",
            ),
            (
                "You heat the mug 3 using the microwave 1.",
                "go to coffeemachine 1",
            ),
            (
                "You arrive at coffeemachine 1. On the coffeemachine 1, you see nothing.",
                "move mug 3 to coffeemachine 1",
            ),
        ],
    );
}

#[test]
fn a_lamp_that_was_seen_during_the_search_is_remembered() {
    plays(
        "look at pillow under the desklamp",
        "a bed 1, a sofa 1, and a drawer 1",
        "go to bed 1",
        &[
            (
                "You arrive at bed 1. On the bed 1, you see a desklamp 1.",
                "go to sofa 1",
            ),
            (
                "You arrive at sofa 1. On the sofa 1, you see a pillow 2.",
                "take pillow 2 from sofa 1",
            ),
            ("You pick up the pillow 2 from the sofa 1.", "go to bed 1"),
            (
                "You arrive at bed 1. On the bed 1, you see a desklamp 1.",
                "use desklamp 1",
            ),
        ],
    );
}

#[test]
fn a_lamp_is_searched_for_with_the_object_in_hand() {
    plays(
        "examine the pillow with the desklamp",
        "a bed 1, a dresser 1, and a drawer 1",
        "go to bed 1",
        &[
            (
                "You arrive at bed 1. On the bed 1, you see a pillow 1.",
                "take pillow 1 from bed 1",
            ),
            (
                "You pick up the pillow 1 from the bed 1.",
                "go to dresser 1",
            ),
        ],
    );
}

#[test]
fn a_receptacle_at_the_same_location_is_examined_directly() {
    let room = "a stoveburner 2, a stoveburner 1, and a sinkbasin 1";
    let mut expert = Expert::new(0);
    let first = expert.act(&opening("put a kettle in sinkbasin", room));
    let (here, there) = if first.ends_with('1') { (1, 2) } else { (2, 1) };
    let arrival =
        format!("You arrive at stoveburner {here}. On the stoveburner {here}, you see nothing.");
    assert_eq!(expert.act(&arrival), format!("go to stoveburner {there}"));
    assert_eq!(
        expert.act("Nothing happens."),
        format!("examine stoveburner {there}")
    );
    let view = format!("On the stoveburner {there}, you see a kettle 1.");
    assert_eq!(
        expert.act(&view),
        format!("take kettle 1 from stoveburner {there}")
    );
}

#[test]
fn a_door_at_the_same_location_is_opened_directly() {
    let mut expert = Expert::new(0);
    let first = expert.act(&opening(
        "put a pen in bed",
        "a drawer 2, a drawer 1, and a bed 1",
    ));
    let (here, there) = if first.ends_with('1') { (1, 2) } else { (2, 1) };
    assert_eq!(
        expert.act(&format!(
            "You arrive at drawer {here}. The drawer {here} is closed."
        )),
        format!("open drawer {here}")
    );
    let opened =
        format!("You open the drawer {here}. The drawer {here} is open. In it, you see nothing.");
    assert_eq!(expert.act(&opened), format!("go to drawer {there}"));
    assert_eq!(
        expert.act("Nothing happens."),
        format!("open drawer {there}")
    );
    assert_eq!(
        expert.act("Nothing happens."),
        format!("examine drawer {there}")
    );
}

#[test]
fn an_object_that_is_already_in_the_target_counts_and_stays() {
    plays(
        "put two pillow in armchair",
        "a bed 1, a sofa 1, and a armchair 1",
        "go to bed 1",
        &[
            (
                "You arrive at bed 1. On the bed 1, you see nothing.",
                "go to sofa 1",
            ),
            (
                "You arrive at sofa 1. On the sofa 1, you see nothing.",
                "go to armchair 1",
            ),
            (
                "You arrive at armchair 1. On the armchair 1, you see a pillow 1.",
                "look",
            ),
            (
                "You are facing the armchair 1. Next to it, you see nothing.",
                "examine armchair 1",
            ),
        ],
    );
}

#[test]
fn the_second_of_two_objects_is_another_one() {
    plays(
        "find two pillow and put them in sofa",
        "a bed 1, a sofa 1, and a drawer 1",
        "go to bed 1",
        &[
            (
                "You arrive at bed 1. On the bed 1, you see a pillow 2, and a pillow 1.",
                "take pillow 2 from bed 1",
            ),
            ("You pick up the pillow 2 from the bed 1.", "go to sofa 1"),
            (
                "You arrive at sofa 1. On the sofa 1, you see nothing.",
                "move pillow 2 to sofa 1",
            ),
            ("You move the pillow 2 to the sofa 1.", "go to bed 1"),
            (
                "You arrive at bed 1. On the bed 1, you see a pillow 2, and a pillow 1.",
                "take pillow 1 from bed 1",
            ),
            ("You pick up the pillow 1 from the bed 1.", "go to sofa 1"),
            (
                "You arrive at sofa 1. On the sofa 1, you see a pillow 2.",
                "move pillow 1 to sofa 1",
            ),
        ],
    );
}

#[test]
fn the_target_does_not_alternate_between_two_with_one_object_each() {
    let mut expert = Expert::new(0);
    let first = expert.act(&opening("put two pillow in sofa", "a sofa 2, and a sofa 1"));
    let (one, two) = if first.ends_with('1') { (1, 2) } else { (2, 1) };
    assert_eq!(expert.act(&view_of_sofa(one)), format!("go to sofa {two}"));
    assert_eq!(
        expert.act(&view_of_sofa(two)),
        format!("take pillow {two} from sofa {two}")
    );
    assert_eq!(expert.act("You pick up it."), format!("go to sofa {one}"));
    assert_eq!(
        expert.act(&view_of_sofa(one)),
        format!("move pillow {two} to sofa {one}")
    );
}

fn view_of_sofa(sofa: usize) -> String {
    format!("You arrive at sofa {sofa}. On the sofa {sofa}, you see a pillow {sofa}.")
}

#[test]
fn a_target_that_refuses_is_replaced_by_another_of_its_type() {
    let mut expert = Expert::new(0);
    expert.act(&opening(
        "put a mug in shelf",
        "a desk 1, a shelf 1, and a shelf 2",
    ));
    expert.act("You arrive at desk 1. On the desk 1, you see a mug 1.");
    let first = expert.act("You pick up the mug 1 from the desk 1.");
    let (one, two) = if first.ends_with('1') { (1, 2) } else { (2, 1) };
    let put = expert.act(&format!(
        "You arrive at shelf {one}. On the shelf {one}, you see nothing."
    ));
    assert_eq!(put, format!("move mug 1 to shelf {one}"));
    assert_eq!(expert.act("Nothing happens."), format!("go to shelf {two}"));
}

#[test]
fn a_wrong_object_in_hand_is_detected_and_put_aside() {
    plays(
        "put a mug in shelf",
        "a desk 1, and a shelf 1",
        "go to desk 1",
        &[
            (
                "You arrive at desk 1. On the desk 1, you see a mug 2, and a mug 1.",
                "take mug 2 from desk 1",
            ),
            ("Nothing happens.", "take mug 1 from desk 1"),
            ("Nothing happens.", "inventory"),
            ("You are carrying: a pen 1.", "move pen 1 to desk 1"),
        ],
    );
}

#[test]
fn seeds_differ_only_between_about_equally_likely_receptacles() {
    let room = "a drawer 2, a drawer 1, a desk 1, a dresser 1, and a sidetable 1";
    let firsts: Vec<String> = (0..40)
        .map(|seed| Expert::new(seed).act(&opening("put a pencil in drawer", room)))
        .collect();
    assert!(firsts.iter().any(|first| first == "go to desk 1"));
    assert!(firsts.iter().any(|first| first == "go to dresser 1"));
    assert!(
        firsts
            .iter()
            .all(|first| !first.starts_with("go to drawer"))
    );
}

#[test]
fn a_new_opening_text_begins_a_new_game() {
    let mut expert = Expert::new(3);
    let first = expert.act(&opening("put a mug in shelf", "a desk 1, and a shelf 1"));
    expert.act("You arrive at loc 4. On the desk 1, you see a mug 1.");
    assert_eq!(
        expert.act(&opening("put a mug in shelf", "a desk 1, and a shelf 1")),
        first
    );
}

#[test]
fn the_command_for_an_unknown_task_is_look() {
    assert_eq!(
        Expert::new(0).act(&opening("sing a song", "a bed 1")),
        "look"
    );
}
