//! Generated games in the native world: every walkthrough wins with its last command, and the texts
//! have the forms of ALFWorld 2.1.3.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use env_bridge::NativeWorld;
use scenarios::household::{Game, GenerateOptions, Size, games, generate};
use scenarios::{Environment, Split, Suite, Task, TaskType, World};
use std::collections::{BTreeMap, BTreeSet};

/// A generated game and its environment.
struct OpenGame {
    task: Task,
    game: Game,
    environment: Box<dyn Environment>,
}

/// Opens every game of a small suite and calls `play` with it.
fn with_games(size: Size, mut play: impl FnMut(OpenGame)) {
    let options = GenerateOptions {
        seed: 11,
        size,
        train: 36,
        valid_train: 6,
        seen: 6,
        unseen: 12,
        ..GenerateOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let suite: Suite = generate(folder.path(), &options).unwrap();
    let mut by_id: BTreeMap<String, Game> = games(&options)
        .unwrap()
        .into_iter()
        .map(|(split, game)| (format!("{split}/{}", game.id), game))
        .collect();
    let mut seen = BTreeSet::new();
    let world = NativeWorld::new();
    for task in suite.tasks {
        let game = by_id.remove(&task.id).unwrap();
        seen.insert((game.task_type, task.split == Split::ValidUnseen));
        let environment = world.open(&task).unwrap();
        play(OpenGame {
            task,
            game,
            environment,
        });
    }
    assert_eq!(
        seen.len(),
        2 * TaskType::ALL.len(),
        "all six kinds, in seen and unseen layouts"
    );
}

#[test]
fn every_walkthrough_wins_with_its_last_command() {
    for size in [Size::Small, Size::Full] {
        with_games(
            size,
            |OpenGame {
                 task,
                 game,
                 mut environment,
             }| {
                for _ in 0..2 {
                    let mut won = environment.reset().unwrap().won();
                    for command in &game.walkthrough {
                        assert!(!won, "{} is won before {command}", task.id);
                        let admissible = environment.admissible_commands().unwrap();
                        assert!(
                            admissible.contains(command),
                            "{}: {command} is not among {admissible:?}",
                            task.id
                        );
                        let observation = environment.step(command).unwrap();
                        assert!(
                            has_form(command, &observation.text),
                            "{command}: {:?}",
                            observation.text
                        );
                        won = observation.won();
                    }
                    assert!(won, "{}: {:?}", task.id, game.walkthrough);
                }
            },
        );
    }
}

#[test]
fn the_opening_names_the_room_and_the_task() {
    with_games(
        Size::Small,
        |OpenGame {
             game,
             mut environment,
             ..
         }| {
            let text = environment.reset().unwrap().text;
            let (room, task) = text
            .strip_prefix(
                "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, \
                 you see a ",
            )
            .and_then(|rest| rest.split_once(".\n\nYour task is to: "))
            .unwrap();
            assert_eq!(task, game.sentence);
            let places: Vec<_> = room.split(", ").collect();
            assert!((7..=13).contains(&places.len()), "{text}");
            assert!(places.last().unwrap().starts_with("and a "), "{text}");
        },
    );
}

/// Visits every receptacle. If a receptacle has a door, the first object in it is taken, examined
/// and put back.
#[test]
fn every_text_has_the_form_of_its_command() {
    let forms = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    with_games(
        Size::Small,
        |OpenGame {
             mut environment, ..
         }| {
            environment.reset().unwrap();
            let mut script = tour(&environment.admissible_commands().unwrap());
            script.reverse();
            while let Some(command) = script.pop() {
                let text = environment.step(&command).unwrap().text;
                assert!(has_form(&command, &text), "{command}: {text:?}");
                *forms
                    .lock()
                    .unwrap()
                    .entry(verb(&command).to_owned())
                    .or_default() += 1;
                if command.starts_with("go to ") {
                    let here = environment.admissible_commands().unwrap();
                    assert!(
                        !here.contains(&command),
                        "{command} again would change nothing"
                    );
                    assert_eq!(environment.step(&command).unwrap().text, "Nothing happens.");
                    let opening = here.iter().filter(|c| c.starts_with("open "));
                    script.extend(opening.cloned());
                } else if command.starts_with("open ") {
                    script.extend(door_commands(&mut *environment, &command));
                }
            }
        },
    );
    let forms = forms.into_inner().unwrap();
    for verb in [
        "go",
        "open",
        "close",
        "take",
        "move",
        "examine",
        "look",
        "inventory",
        "help",
    ] {
        assert!(forms.contains_key(verb), "{verb} was never used: {forms:?}");
    }
}

fn tour(admissible: &[String]) -> Vec<String> {
    let mut script: Vec<String> = ["look", "inventory", "help", "fly to moon"]
        .map(String::from)
        .into();
    script.extend(
        admissible
            .iter()
            .filter(|command| command.starts_with("go to "))
            .cloned(),
    );
    script
}

/// Returns the commands after a door was opened: take the first object, examine it, put it back,
/// close the door. The last command is first.
fn door_commands(environment: &mut dyn Environment, opened: &str) -> Vec<String> {
    let place = opened.strip_prefix("open ").unwrap();
    let mut script = vec![
        format!("close {place}"),
        "look".into(),
        format!("examine {place}"),
    ];
    let admissible = environment.admissible_commands().unwrap();
    if let Some(take) = admissible
        .iter()
        .find(|command| command.starts_with("take "))
    {
        let object = take
            .strip_prefix("take ")
            .and_then(|rest| rest.split(" from ").next())
            .unwrap();
        script.push(format!("move {object} to {place}"));
        script.push(format!("examine {object}"));
        script.push("inventory".into());
        script.push(take.clone());
    }
    script
}

fn verb(command: &str) -> &str {
    command.split(' ').next().unwrap()
}

/// Returns whether a text has the form of the command it follows.
fn has_form(command: &str, text: &str) -> bool {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["go", "to", kind, number] => {
            let place = format!("{kind} {number}");
            text.strip_prefix(&format!("You arrive at {place}. "))
                .is_some_and(|view| is_view(&place, view))
        }
        ["open", kind, number] => {
            let place = format!("{kind} {number}");
            text.strip_prefix(&format!(
                "You open the {place}. The {place} is open. In it, you see "
            ))
            .is_some_and(is_list)
        }
        ["close", kind, number] => text == format!("You close the {kind} {number}."),
        ["take", o, n, "from", kind, number] => {
            text == format!("You pick up the {o} {n} from the {kind} {number}.")
        }
        ["move", o, n, "to", kind, number] => {
            text == format!("You move the {o} {n} to the {kind} {number}.")
        }
        [
            verb @ ("heat" | "cool" | "clean"),
            o,
            n,
            "with",
            kind,
            number,
        ] => text == format!("You {verb} the {o} {n} using the {kind} {number}."),
        ["use", o, n] => text == format!("You turn on the {o} {n}."),
        ["examine", kind, number] => {
            let name = format!("{kind} {number}");
            is_view(&name, text)
                || text == format!("There's nothing special about {name}.")
                || text == format!("This is a normal {name}. In it, you see nothing.")
        }
        ["look"] => {
            text == "You are in the middle of a room. Looking quickly around you, you see nothing."
                || (text.starts_with("You are facing the ")
                    && text.ends_with(". Next to it, you see nothing."))
        }
        ["inventory"] => {
            text == "You are not carrying anything."
                || text.strip_prefix("You are carrying: ").is_some_and(is_list)
        }
        ["help"] => {
            text.starts_with("Available commands:\n  look:")
                && text.ends_with("using a sharp object\n")
        }
        _ => text == "Nothing happens.",
    }
}

fn is_view(place: &str, text: &str) -> bool {
    let seen = [
        format!("On the {place}, you see "),
        format!("The {place} is open. In it, you see "),
    ];
    text == format!("The {place} is closed.")
        || seen
            .iter()
            .any(|start| text.strip_prefix(start.as_str()).is_some_and(is_list))
}

/// Returns whether a text is one of "nothing.", "a x 1.", "a x 1, and a y 1.", "a x 1, a y 1, and a
/// z 1.".
fn is_list(text: &str) -> bool {
    let Some(list) = text.strip_suffix('.') else {
        return false;
    };
    let items: Vec<&str> = list.split(", ").collect();
    match items[..] {
        ["nothing"] => true,
        [only] => is_item(only),
        [ref first @ .., last] => {
            first.iter().all(|item| is_item(item)) && last.strip_prefix("and ").is_some_and(is_item)
        }
        [] => false,
    }
}

fn is_item(text: &str) -> bool {
    let words: Vec<&str> = text.split(' ').collect();
    matches!(words[..], ["a", _, number] if number.parse::<u32>().is_ok())
}

/// Always applies the command with the lowest distance to the goal after it, and returns the
/// commands.
fn follow_the_distance(environment: &mut dyn Environment) -> Vec<String> {
    let mut taken = Vec::new();
    while environment.remaining().unwrap() > 0 && taken.len() < 30 {
        let commands = environment.admissible_commands().unwrap();
        let after = |command: String| {
            let mut copy = environment.fork().unwrap();
            copy.step(&command).unwrap();
            (copy.remaining().unwrap(), command)
        };
        let (_, best) = commands.into_iter().map(after).min().unwrap();
        environment.step(&best).unwrap();
        taken.push(best);
    }
    taken
}

/// Following the distance wins, and never takes longer than the walkthrough. Along the walkthrough
/// the distance is at most one more than the number of commands left.
#[test]
fn the_distance_leads_to_the_goal() {
    let mut exact = 0;
    with_games(
        Size::Small,
        |OpenGame {
             task,
             game,
             mut environment,
         }| {
            environment.reset().unwrap();
            let commands = follow_the_distance(&mut *environment);
            assert_eq!(
                environment.remaining(),
                Some(0),
                "{}: {commands:?}",
                task.id
            );
            assert!(
                commands.len() <= game.walkthrough.len(),
                "{}: {commands:?}",
                task.id
            );
            environment.reset().unwrap();
            for (done, command) in game.walkthrough.iter().enumerate() {
                let left = game.walkthrough.len() - done;
                let remaining = environment.remaining().unwrap();
                assert!(
                    (1..=left + 1).contains(&remaining),
                    "{}: {remaining} remain before {command}, not {left}",
                    task.id
                );
                exact += usize::from(remaining == left);
                environment.step(command).unwrap();
            }
            assert_eq!(environment.remaining(), Some(0), "{}", task.id);
        },
    );
    assert!(exact > 350, "{exact}");
}
