//! States of the native world: snapshots, copies, hashes, and the distance to the goal.

use crate::kitchen::{DOMAIN, GRAMMAR, PROBLEM, admissible, kitchen, load, load_in};
use env_bridge::NativeEnvironment;
use scenarios::Environment;
use std::collections::HashMap;

/// Commands that take an egg in the kitchen.
const TAKE_EGG: [&str; 3] = [
    "go to fridge 1",
    "open fridge 1",
    "take egg 1 from fridge 1",
];

/// After a return to a snapshot, play continues as it did from there, whatever happened in between.
#[test]
fn a_restored_state_has_the_same_continuation() {
    let mut environment = kitchen();
    for command in TAKE_EGG {
        environment.step(command).expect("steps");
    }
    let here = environment.snapshot();
    let hash = environment.game().state_hash(environment.state());
    let continuation = [
        "cool egg 1 with fridge 1",
        "examine egg 1",
        "go to microwave 1",
        "move egg 1 to microwave 1",
        "look",
    ];
    let play = |environment: &mut NativeEnvironment| {
        continuation.map(|command| {
            let observation = environment.step(command).expect("steps");
            (
                observation,
                admissible(environment),
                environment.game().state_hash(environment.state()),
            )
        })
    };
    let first = play(&mut environment);
    environment.reset().expect("resets");
    environment.step("go to shelf 1").expect("steps");
    assert_ne!(environment.game().state_hash(environment.state()), hash);
    environment.restore(&here);
    assert_eq!(environment.game().state_hash(environment.state()), hash);
    assert_eq!(play(&mut environment), first);
}

/// A copy continues as the original does, and neither depends on the commands of the other.
#[test]
fn a_copy_is_independent() {
    let mut environment = kitchen();
    environment.reset().expect("resets");
    let commands = admissible(&mut environment);
    let before = environment.state_hash();
    for command in &commands {
        let mut copy = environment.fork().expect("copies");
        let mut original = environment.clone();
        assert_eq!(
            copy.step(command).expect("steps"),
            original.step(command).expect("steps")
        );
        assert_eq!(copy.state_hash(), original.state_hash());
        assert_eq!(
            copy.admissible_commands().expect("lists"),
            admissible(&mut original)
        );
        assert_eq!(environment.state_hash(), before, "{command:?} in a copy");
    }
    let walked = commands
        .iter()
        .find(|command| command.starts_with("go to "))
        .expect("a way");
    let mut stayed = environment.fork().expect("copies");
    environment.step(walked).expect("steps");
    assert_eq!(stayed.state_hash(), before, "{walked:?} in the original");
    assert_eq!(stayed.admissible_commands().expect("lists"), commands);
}

/// All states of the kitchen by hash, each with the hashes of its successors.
fn states_of(start: NativeEnvironment) -> HashMap<u64, (NativeEnvironment, Vec<u64>)> {
    let mut states = HashMap::new();
    let mut open = vec![start];
    while let Some(mut state) = open.pop() {
        let hash = state.state_hash().expect("a native world has hashes");
        if states.contains_key(&hash) {
            continue;
        }
        let mut leads_to = Vec::new();
        for command in admissible(&mut state) {
            let mut next = state.clone();
            next.step(&command).expect("steps");
            leads_to.push(next.state_hash().expect("a native world has hashes"));
            open.push(next);
        }
        states.insert(hash, (state, leads_to));
    }
    states
}

/// The kitchen with one egg only, which is in the fridge and on a shelf.
fn one_egg() -> String {
    let others = [
        "(inReceptacle Pan_bar_1 Shelf_bar_1) (inReceptacle Pan_bar_1 Shelf_bar_2)",
        "(inReceptacle Egg_bar_b Fridge_bar_1)",
        "(inReceptacle DeskLamp_bar_1 Shelf_bar_1)",
    ];
    others.iter().fold(PROBLEM.to_owned(), |problem, fact| {
        problem.replace(fact, "")
    })
}

/// Compares the distance of every state that is reachable with one egg with the true distance in
/// the graph of all states. The estimate is never lower. It is 0 if and only if the goal holds, and
/// in most states it is exact.
#[test]
fn the_distance_to_the_goal_is_the_length_of_a_plan() {
    let mut start = load(&one_egg(), GRAMMAR);
    start.reset().expect("resets");
    assert_eq!(
        start.remaining(),
        Some(5),
        "go to shelf, take egg, go to microwave, heat egg, put egg"
    );
    let states = states_of(start);
    let mut fewest: HashMap<u64, usize> = HashMap::new();
    for commands in 0.. {
        let reached = |(hash, (state, leads_to)): (&u64, &(NativeEnvironment, Vec<u64>))| {
            let won = commands == 0 && state.game().won(state.state());
            let is_next =
                won || commands > 0 && leads_to.iter().any(|next| fewest.contains_key(next));
            (is_next && !fewest.contains_key(hash)).then_some(*hash)
        };
        let found: Vec<u64> = states.iter().filter_map(reached).collect();
        if found.is_empty() {
            break;
        }
        fewest.extend(found.into_iter().map(|hash| (hash, commands)));
    }
    let mut exact = 0;
    for (hash, (state, _)) in &states {
        let remaining = state.remaining().expect("a native world has distances");
        let fewest = fewest[hash];
        assert!(
            remaining >= fewest && (remaining == 0) == (fewest == 0),
            "{remaining}, not {fewest}"
        );
        exact += usize::from(remaining == fewest);
    }
    assert!(
        states.len() > 500 && exact > states.len() * 9 / 10,
        "{exact} of {}",
        states.len()
    );
}

/// An egg breaks if it is put down. The goal is then out of reach, and the distance is a number
/// that no other state can have.
#[test]
fn an_unreachable_goal_has_the_largest_distance() {
    let fragile = DOMAIN.replace(
        "(inReceptacle ?o ?r) (objectAtLocation ?o ?l) (not (holds",
        "(checked ?o) (not (holds",
    );
    let problem = one_egg().replace("(inReceptacle Egg_bar_a Fridge_bar_1)", "");
    let problem = problem.replace(
        "(inReceptacle ?o ?r) (objectType ?o",
        "(holds agent1 ?o) (objectType ?o",
    );
    let mut environment = load_in(&fragile, &problem, GRAMMAR);
    environment.reset().expect("resets");
    assert_eq!(
        environment.remaining(),
        Some(4),
        "go to shelf, take egg, go to microwave, heat egg"
    );
    let puts = [
        "go to shelf 1",
        "take egg 2 from shelf 1",
        "move egg 2 to shelf 1",
    ];
    let mut remaining = |command: &&str| {
        environment.step(command).expect("steps");
        environment.remaining()
    };
    assert_eq!(
        puts.iter().map(&mut remaining).collect::<Vec<_>>(),
        [Some(3), Some(2), Some(usize::MAX)]
    );
}

/// The hash after these commands, from the initial state.
fn hash_after(environment: &mut NativeEnvironment, commands: &[&str]) -> u64 {
    environment.reset().expect("resets");
    for command in commands {
        assert_ne!(
            environment.step(command).expect("steps").text,
            "Nothing happens.",
            "{command}"
        );
    }
    environment.state_hash().expect("a native world has hashes")
}

#[test]
fn the_hash_does_not_depend_on_the_path_to_a_state() {
    let mut environment = kitchen();
    let mut hash = |commands: &[&str]| hash_after(&mut environment, commands);
    let start = hash(&[]);
    assert_eq!(
        hash(&["look", "inventory", "help"]),
        start,
        "commands that only print do not change the hash"
    );
    let at_the_open_fridge = hash(&["go to fridge 1", "open fridge 1"]);
    let roundabout = [
        "look",
        "go to microwave 1",
        "close microwave 1",
        "go to fridge 1",
        "open fridge 1",
        "go to microwave 1",
    ];
    let back = [
        "open microwave 1",
        "go to shelf 2",
        "go to fridge 1",
        "examine fridge 1",
    ];
    assert_eq!(hash(&[&roundabout[..], &back].concat()), at_the_open_fridge);
    let moved = [
        "go to shelf 1",
        "take egg 2 from shelf 1",
        "move egg 2 to shelf 2",
    ];
    let twice = [
        "take egg 2 from shelf 2",
        "move egg 2 to shelf 1",
        "take egg 2 from shelf 1",
        "move egg 2 to shelf 2",
    ];
    assert_eq!(hash(&[&moved[..], &twice[..]].concat()), hash(&moved));
    let used = [
        "go to shelf 1",
        "use desklamp 1",
        "use desklamp 1",
        "use desklamp 1",
    ];
    assert_eq!(hash(&used), hash(&used[..2]));
}

/// Each state differs from the one before in one fact that a condition or a text reads. All hashes
/// are different.
#[test]
fn every_fact_that_matters_changes_the_hash() {
    let walk = [
        "go to fridge 1",
        "open fridge 1",
        "take egg 1 from fridge 1",
        "cool egg 1 with fridge 1",
        "close fridge 1",
        "go to microwave 1",
        "heat egg 1 with microwave 1",
        "move egg 1 to microwave 1",
        "close microwave 1",
        "go to shelf 1",
        "use desklamp 1",
        "use desklamp 1", // the text is the same as before, but a condition reads that it is off
        "take pan 1 from shelf 2",
        "move pan 1 to shelf 1", // a text reads from where it was taken
    ];
    let mut environment = kitchen();
    let mut seen: Vec<u64> = (0..=walk.len())
        .map(|turns| hash_after(&mut environment, &walk[..turns]))
        .collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), walk.len() + 1);
}

/// In all states of ten random walks: if two states have the same hash, they have the same
/// admissible commands, and each command has the same result.
#[test]
fn states_with_the_same_hash_have_the_same_future() {
    let mut environment = kitchen();
    let mut futures: HashMap<u64, Vec<(String, String, bool)>> = HashMap::new();
    let mut random = 7u64;
    let mut met_again = 0;
    for _ in 0..10 {
        environment.reset().expect("resets");
        for _ in 0..200 {
            let here = environment.snapshot();
            let hash = environment.state_hash().expect("a native world has hashes");
            let commands = admissible(&mut environment);
            let future = |command: &String| {
                environment.restore(&here);
                let observation = environment.step(command).expect("steps");
                let won = observation.won();
                (command.clone(), observation.text, won)
            };
            let future: Vec<_> = commands.iter().map(future).collect();
            environment.restore(&here);
            met_again += usize::from(futures.contains_key(&hash));
            assert_eq!(
                futures.entry(hash).or_insert_with(|| future.clone()),
                &future
            );
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            environment
                .step(&commands[(random >> 33) as usize % commands.len()])
                .expect("steps");
        }
    }
    assert!(
        met_again > 500 && futures.len() > 100,
        "{met_again} met again, {} states",
        futures.len()
    );
}

/// Logs contain hashes, so the same facts must give this number in every build. A script of twenty
/// lines over the text of the problem computed the same number. If a static fact differs, it is
/// another game with another hash.
#[test]
fn a_hash_is_the_same_in_every_build() {
    assert_eq!(kitchen().state_hash(), Some(0x39d0_26f7_952f_3d6d));
    let elsewhere = PROBLEM.replace("(canContain ShelfType PanType)", "");
    assert_ne!(
        load(&elsewhere, GRAMMAR).state_hash(),
        kitchen().state_hash()
    );
}

/// A stored state is the same state, in every game with the same facts, and nothing else is accepted.
#[test]
fn a_state_survives_as_bytes() {
    let mut environment = kitchen();
    for command in TAKE_EGG {
        environment.step(command).expect("steps");
        let bytes = environment.game().state_bytes(environment.state());
        let mut other = kitchen();
        let state = other.game().state_from_bytes(&bytes).expect("reads");
        other.restore(&state);
        assert_eq!(
            other.game().state_hash(other.state()),
            environment.game().state_hash(environment.state())
        );
        assert_eq!(admissible(&mut other), admissible(&mut environment));
        for wrong in [&bytes[1..], &bytes[..bytes.len() - 1], &[]] {
            assert!(other.game().state_from_bytes(wrong).is_err());
        }
    }
}

/// The bytes of a state number the facts by their order in the file.
#[test]
fn a_snapshot_is_refused_by_a_game_with_the_same_facts_in_another_order() {
    let mut environment = kitchen();
    for command in TAKE_EGG {
        environment.step(command).expect("steps");
    }
    let bytes = environment.game().state_bytes(environment.state());
    let lamp = "(inReceptacle DeskLamp_bar_1 Shelf_bar_1)";
    let reordered = PROBLEM
        .replace(lamp, "")
        .replace("(:init ", &format!("(:init {lamp} "));
    assert_ne!(reordered, PROBLEM);
    let other = load(&reordered, GRAMMAR);
    let initial = |game: &NativeEnvironment| game.game().state_hash(&game.game().initial_state());
    assert_eq!(initial(&other), initial(&kitchen()));
    let refused = other.game().state_from_bytes(&bytes);
    assert!(
        refused.is_err_and(|reason| reason.contains("not of this game")),
        "the facts of the other game have other numbers"
    );
}

#[test]
fn the_reasons_against_a_command_are_in_plain_words() {
    let mut environment = kitchen();
    environment.reset().expect("resets");
    let why = |environment: &NativeEnvironment, command: &str| {
        environment.game().why(environment.state(), command)
    };
    assert_eq!(
        why(&environment, "open fridge 1"),
        ["you must be at fridge 1"]
    );
    environment.step("go to fridge 1").expect("steps");
    assert_eq!(why(&environment, " open fridge 1 "), [""; 0]);
    assert_eq!(
        why(&environment, "go to fridge 1"),
        ["you must not be at fridge 1"]
    );
    environment.step("open fridge 1").expect("steps");
    assert_eq!(
        why(&environment, "open fridge 1"),
        ["fridge 1 must be closed"]
    );
    assert_eq!(
        why(&environment, "take egg 9 from fridge 1"),
        ["there is no \"egg 9\" in this game"]
    );
    assert!(why(&environment, "dance")[0].contains("the forms are: "));
    // Two shelves are at one place.
    assert_eq!(
        why(&environment, "take pan 1 from shelf 2"),
        ["you must be at shelf 1 or shelf 2"]
    );
    assert_eq!(
        why(&environment, "cool egg 1 with fridge 1"),
        ["you must hold egg 1"]
    );
}
