//! The generator: the same bytes for the same seed, splits by layout, and the form of the games.

use scenarios::household::{Door, Game, GenerateOptions, Size, games, generate, layouts};
use scenarios::suite::MANIFEST;
use scenarios::{Split, Suite, TaskType};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;

fn options(seed: u64) -> GenerateOptions {
    GenerateOptions {
        seed,
        train: 120,
        valid_train: 24,
        seen: 24,
        unseen: 36,
        ..GenerateOptions::default()
    }
}

/// Returns the bytes of every file below a folder, by its path relative to the folder.
fn bytes_below(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_string_lossy()
                        .into_owned(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    files
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let first = tempfile::tempdir().unwrap();
    let second = tempfile::tempdir().unwrap();
    let few = GenerateOptions {
        train: 12,
        valid_train: 6,
        seen: 6,
        unseen: 6,
        ..options(3)
    };
    let suite = generate(first.path(), &few).unwrap();
    generate(second.path(), &few).unwrap();
    let files = bytes_below(first.path());
    assert_eq!(files.len(), 2 * 30 + 1);
    assert_eq!(files, bytes_below(second.path()));
    assert_eq!(Suite::open(first.path()).unwrap(), suite);

    fs::remove_file(first.path().join(MANIFEST)).unwrap();
    let unlisted = Suite::open(first.path()).unwrap();
    assert_eq!(
        (&unlisted.tasks, unlisted.hash()),
        (&suite.tasks, suite.hash()),
        "without the manifest, the layout gives the same games"
    );
    let error = generate(second.path(), &few).unwrap_err().to_string();
    assert!(error.contains("holds a suite already\nhint: "), "{error}");
}

/// If the catalog, the draws or the texts change, every game changes, and earlier results are not
/// comparable.
#[test]
fn the_games_of_seed_one_do_not_change() {
    let folder = tempfile::tempdir().unwrap();
    let few = GenerateOptions {
        train: 12,
        valid_train: 6,
        seen: 6,
        unseen: 6,
        ..options(1)
    };
    let hash = generate(folder.path(), &few).unwrap().hash();
    assert_eq!(
        hash,
        "63b01404f3ef8e0395cad8f5a3f767f0b587838eb33bab1acf3c14417f5f036f"
    );
}

#[test]
fn seeds_differ_and_no_game_occurs_twice() {
    let first = problems(1);
    let second = problems(2);
    assert_eq!((first.len(), second.len()), (204, 204));
    assert!(first.is_disjoint(&second));
}

/// Returns the problems of the games of a seed, without their names.
fn problems(seed: u64) -> HashSet<String> {
    games(&options(seed))
        .unwrap()
        .iter()
        .map(|(_, game)| game.problem.lines().skip(1).collect::<Vec<_>>().join("\n"))
        .collect()
}

#[test]
fn unseen_layouts_occur_in_no_other_split_under_any_seed() {
    let mut where_used: HashMap<bool, HashSet<String>> = HashMap::new();
    for seed in 1..4 {
        for (split, game) in games(&options(seed)).unwrap() {
            where_used
                .entry(split == Split::ValidUnseen)
                .or_default()
                .insert(game.layout);
        }
    }
    assert!(where_used[&true].is_disjoint(&where_used[&false]));
    assert!(where_used[&true].len() > 12, "{:?}", where_used[&true]);
}

#[test]
fn seen_layouts_occur_in_train() {
    for train in [6, 12, 120] {
        let games = games(&GenerateOptions {
            train,
            ..options(5)
        })
        .unwrap();
        for split in [Split::ValidTrain, Split::ValidSeen] {
            assert!(
                layouts_of(&games, split).is_subset(&layouts_of(&games, Split::Train)),
                "{train}: {split}"
            );
        }
    }
}

fn layouts_of(games: &[(Split, Game)], split: Split) -> HashSet<&str> {
    games
        .iter()
        .filter(|(of, _)| *of == split)
        .map(|(_, game)| game.layout.as_str())
        .collect()
}

#[test]
fn every_split_has_the_six_task_types_equally_often() {
    let mut counts: BTreeMap<(Split, TaskType), usize> = BTreeMap::new();
    for (split, game) in games(&options(1)).unwrap() {
        *counts.entry((split, game.task_type)).or_default() += 1;
    }
    for ((split, _), count) in counts {
        let expected = [
            (Split::Train, 20),
            (Split::ValidTrain, 4),
            (Split::ValidSeen, 4),
            (Split::ValidUnseen, 6),
        ];
        assert!(expected.contains(&(split, count)), "{split}: {count}");
    }
}

#[test]
fn names_and_sentences_have_alfworlds_forms() {
    for (_, game) in games(&options(1)).unwrap() {
        let (task, trial) = game.id.split_once('/').unwrap();
        let goal = &game.goal;
        let last = goal
            .parent
            .map(|p| p.title)
            .or(goal.lamp.map(|l| l.title))
            .unwrap();
        assert_eq!(
            task,
            format!(
                "{}-{}-None-{last}-{}",
                game.task_type, goal.target.title, game.layout
            )
        );
        assert!(
            trial.starts_with("trial_S1_") && trial.len() == 14,
            "{trial}"
        );

        let what = goal.target.name;
        let place = goal
            .parent
            .map_or(String::new(), |parent| parent.name.to_owned());
        let forms = match game.task_type {
            TaskType::PickAndPlaceSimple => [
                format!("put a {what} in {place}."),
                format!("put some {what} on {place}."),
            ],
            TaskType::LookAtObjInLight => [
                format!("look at {what} under the desklamp."),
                format!("examine the {what} with the desklamp."),
            ],
            TaskType::PickCleanThenPlaceInRecep => treated("clean", "clean", what, &place),
            TaskType::PickHeatThenPlaceInRecep => treated("hot", "heat", what, &place),
            TaskType::PickCoolThenPlaceInRecep => treated("cool", "cool", what, &place),
            TaskType::PickTwoObjAndPlace => [
                format!("put two {what} in {place}."),
                format!("find two {what} and put them in {place}."),
            ],
        };
        assert!(forms.contains(&game.sentence), "{}", game.sentence);
        assert!(
            game.grammar
                .contains(&format!("Your task is to: {}\"", game.sentence))
        );
    }
}

fn treated(how: &str, verb: &str, what: &str, place: &str) -> [String; 2] {
    [
        format!("put a {how} {what} in {place}."),
        format!("{verb} some {what} and put it in {place}."),
    ]
}

#[test]
fn rooms_have_the_documented_size() {
    for (size, receptacles, objects) in [
        (Size::Small, 7..=13, 6..=14),
        (Size::Full, 10..=54, 8..=64),
        (Size::Alfworld, 6..=54, 8..=64),
    ] {
        for layout in layouts(size) {
            assert!(
                receptacles.contains(&layout.receptacles.len()),
                "{}: {}",
                layout.id,
                layout.receptacles.len()
            );
            let closed = layout
                .receptacles
                .iter()
                .all(|r| r.door == Door::Absent || r.kind.openable);
            assert!(closed, "{}", layout.id);
        }
        let few = GenerateOptions {
            size,
            train: 60,
            valid_train: 0,
            seen: 0,
            unseen: 0,
            ..options(9)
        };
        let games = games(&few).unwrap();
        for (_, game) in games {
            let count = game
                .problem
                .lines()
                .filter(|line| line.ends_with(" - item"))
                .count();
            assert!(objects.contains(&count), "{}: {count}", game.id);
        }
    }
}

#[test]
fn walkthroughs_are_as_short_as_the_task_type_allows() {
    for (_, game) in games(&options(1)).unwrap() {
        let range = match game.task_type {
            TaskType::PickAndPlaceSimple => 4..=6,
            TaskType::LookAtObjInLight => 3..=5,
            TaskType::PickTwoObjAndPlace => 6..=11,
            _ => 4..=8,
        };
        assert!(
            range.contains(&game.walkthrough.len()),
            "{}: {:?}",
            game.id,
            game.walkthrough
        );
    }
}
