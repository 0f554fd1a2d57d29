//! Permuted games: the same bytes for the same draw, other rooms, and refusals.

use scenarios::household::{
    GenerateOptions, PermutationSource, PermuteError, VariantDraw, generate, is_permuted,
};
use scenarios::{Split, Suite, Task, TaskType};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn suite(folder: &Path) -> Suite {
    let options = GenerateOptions {
        seed: 5,
        train: 36,
        valid_train: 0,
        seen: 1,
        unseen: 0,
        ..GenerateOptions::default()
    };
    generate(folder, &options).unwrap()
}

fn draw(variant: usize) -> VariantDraw {
    VariantDraw {
        seed: 1,
        variant,
        attempt: 0,
    }
}

/// Returns the facts of a problem as lists of words.
fn facts(problem: &str) -> Vec<Vec<String>> {
    let lines = problem.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix('(')?.strip_suffix(')'))
        .map(|fact| fact.to_lowercase().split(' ').map(str::to_owned).collect())
        .collect()
}

fn of<'a>(facts: &'a [Vec<String>], predicate: &str) -> Vec<&'a [String]> {
    facts
        .iter()
        .filter(|fact| fact[0] == predicate)
        .map(|fact| &fact[1..])
        .collect()
}

fn source_problem(task: &Task) -> String {
    let game: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&task.path).unwrap()).unwrap();
    game["pddl_problem"].as_str().unwrap().to_owned()
}

/// Number of receptacles of each type.
fn room(facts: &[Vec<String>]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for typed in of(facts, "receptacletype") {
        *counts.entry(typed[1].clone()).or_default() += 1;
    }
    counts
}

#[test]
fn a_variant_is_another_room_that_obeys_the_rules_of_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = 0;
    for task in suite(folder.path()).split(Split::Train) {
        let source = PermutationSource::open(task).unwrap();
        let before = facts(&source_problem(task));
        for variant in 0..3 {
            let Some(problem) = source.problem(draw(variant)) else {
                continue;
            };
            made += 1;
            assert_eq!(source.problem(draw(variant)), Some(problem.clone()));
            let after = facts(&problem);
            assert_ne!(room(&before), room(&after), "{}", task.id);
            let kinds: BTreeMap<&String, &String> = of(&after, "objecttype")
                .into_iter()
                .chain(of(&after, "receptacletype"))
                .map(|typed| (&typed[0], &typed[1]))
                .collect();
            let movable: BTreeSet<&String> = of(&after, "pickupable")
                .iter()
                .map(|fact| &fact[0])
                .collect();
            let allowed: BTreeSet<(&String, &String)> = of(&after, "cancontain")
                .iter()
                .map(|fact| (&fact[0], &fact[1]))
                .collect();
            let mut placed = BTreeSet::new();
            for place in of(&after, "inreceptacle") {
                assert!(placed.insert(&place[0]), "{} is in one place", place[0]);
                let (object, receptacle) = (kinds[&place[0]], kinds[&place[1]]);
                assert!(
                    !movable.contains(&place[0]) || allowed.contains(&(receptacle, object)),
                    "{object} in {receptacle}"
                );
            }
            assert_eq!(
                placed.len(),
                of(&after, "objecttype").len(),
                "nothing is lost"
            );
            if task.task_type == Some(TaskType::PickHeatThenPlaceInRecep) {
                assert!(!of(&after, "heats").is_empty(), "{}", task.id);
            }
        }
    }
    assert!(made >= 90, "only {made} of 108 draws give a variant");
}

#[test]
fn a_variant_names_its_source_and_keeps_goal_and_texts() {
    let folder = tempfile::tempdir().unwrap();
    let suite = suite(folder.path());
    let task = suite.split(Split::Train)[0];
    let source = PermutationSource::open(task).unwrap();
    let draw = draw(2);
    let id = source.id(draw);
    assert_eq!(id, format!("{}-permuted-s1-v2", task.id));
    assert!(is_permuted(&id) && !is_permuted(&task.id) && !is_permuted("train/x-permuted-s1"));

    let file = source.game_file(draw, "(define)", &["look".into()]);
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let before: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&task.path).unwrap()).unwrap();
    for key in ["pddl_domain", "grammar", "solvable"] {
        assert_eq!(file[key], before[key]);
    }
    let from = serde_json::json!({
        "game": task.id, "game_hash": task.hash, "seed": 1, "variant": 2,
    });
    assert_eq!(file["permuted_from"], from);
    let data: serde_json::Value = serde_json::from_str(&source.traj_data(draw)).unwrap();
    assert_eq!(data["permuted_from"], from);
    assert_eq!(data["task_type"], task.task_type.unwrap().name());
}

#[test]
fn only_train_games_that_are_not_permuted_can_be_permuted() {
    let folder = tempfile::tempdir().unwrap();
    let suite = suite(folder.path());
    let seen = suite.split(Split::ValidSeen)[0];
    let error = PermutationSource::open(seen).unwrap_err();
    assert!(matches!(error, PermuteError::NotTrain { .. }));
    assert!(
        error
            .to_string()
            .contains("is a game of valid_seen, not of train\nhint: "),
        "{error}"
    );
    let train = suite.split(Split::Train)[0];
    let permuted = Task {
        id: format!("{}-permuted-s1-v0", train.id),
        ..train.clone()
    };
    let error = PermutationSource::open(&permuted).unwrap_err();
    assert!(matches!(error, PermuteError::Permuted { .. }));
    std::fs::write(&train.path, "{}").unwrap();
    let error = PermutationSource::open(train).unwrap_err();
    assert!(
        error.to_string().contains("game.tw-pddl: missing field"),
        "{error}"
    );
}
