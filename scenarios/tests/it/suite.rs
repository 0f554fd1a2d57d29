//! Suites on disk: manifests, ALFWorld's layout, single game files, and reports of damage.

use scenarios::suite::{MANIFEST, SuiteFault, hex_sha256};
use scenarios::{Split, Suite, TaskType};
use std::fs;
use std::path::Path;

const GAME: &str = r#"{"pddl_domain": "", "grammar": "", "pddl_problem": "", "solvable": true}"#;
const PUT: &str = r#"{"task_type": "pick_and_place_simple", "pddl_params": {}}"#;

/// Writes ALFWorld's layout: three good games in two splits, and one of every kind that is not a
/// game.
fn lay_out(root: &Path) {
    let trials = [
        ("train/put-Mug-None-Desk-1/trial_2", Some(GAME), Some(PUT)),
        ("train/put-Mug-None-Desk-1/trial_1", Some(GAME), None),
        (
            "valid_seen/put-Mug-None-Desk-1/trial_1",
            Some(GAME),
            Some(PUT),
        ),
        (
            "train/put-Mug-None-Desk-2/trial_broken_game",
            Some("{"),
            Some(PUT),
        ),
        (
            "train/put-Mug-None-Desk-2/trial_broken_data",
            Some(GAME),
            Some(r#"{"task_type": "stack"}"#),
        ),
        ("train/put-Mug-None-Desk-2/trial_no_game", None, Some(PUT)),
        (
            "train/put-Mug-None-Desk-2/trial_unsolvable",
            Some(r#"{"solvable": false}"#),
            Some(PUT),
        ),
        (
            "train/pick_and_place_with_movable_recep-Mug-Bowl-Desk-2/trial_1",
            Some(GAME),
            Some(PUT),
        ),
    ];
    for (folder, game, data) in trials {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [("game.tw-pddl", game), ("traj_data.json", data)] {
            if let Some(text) = text {
                fs::write(folder.join(name), text).unwrap();
            }
        }
    }
}

fn ids(suite: &Suite) -> Vec<&str> {
    suite.tasks.iter().map(|task| task.id.as_str()).collect()
}

#[test]
fn alfworlds_layout_is_read_and_everything_left_out_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let suite = Suite::open(folder.path()).unwrap();
    assert_eq!(
        ids(&suite),
        [
            "train/put-Mug-None-Desk-1/trial_1",
            "train/put-Mug-None-Desk-1/trial_2",
            "valid_seen/put-Mug-None-Desk-1/trial_1"
        ]
    );
    assert_eq!(suite.tasks[0].task_type, None, "no traj_data.json");
    assert_eq!(suite.tasks[1].task_type, Some(TaskType::PickAndPlaceSimple));
    assert_eq!(suite.tasks[0].hash, hex_sha256(GAME.as_bytes()));
    assert_eq!(suite.split(Split::Train).len(), 2);
    assert_eq!(suite.split(Split::ValidUnseen).len(), 0);

    let faults: Vec<_> = suite
        .faults
        .iter()
        .map(|fault| fault.reason.as_str())
        .collect();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].starts_with("unknown variant `stack`"),
        "{faults:?}"
    );
    assert!(faults[1].starts_with("not a game: EOF"), "{faults:?}");
    let left_out: Vec<_> = suite
        .left_out
        .iter()
        .map(|fault| fault.reason.as_str())
        .collect();
    assert_eq!(
        left_out,
        [
            "movable receptacle or sliced object",
            "no game file",
            "marked unsolvable"
        ]
    );
}

/// One game is a suite: with the id and the split that it has in its layout, if there is one above it.
#[test]
fn one_game_is_a_suite() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let trial = folder.path().join("train/put-Mug-None-Desk-1/trial_2");
    let whole = Suite::open(folder.path()).unwrap();
    for place in [trial.clone(), trial.join("game.tw-pddl")] {
        let suite = Suite::open(place).unwrap();
        assert_eq!(ids(&suite), ["train/put-Mug-None-Desk-1/trial_2"]);
        let task = &suite.tasks[0];
        let same = whole.tasks.iter().find(|same| same.id == task.id).unwrap();
        assert_eq!(
            (task.split, task.task_type, &task.hash),
            (same.split, same.task_type, &same.hash)
        );
    }
    let alone = folder.path().join("some/where/trial");
    fs::create_dir_all(&alone).unwrap();
    fs::write(alone.join("game.tw-pddl"), GAME).unwrap();
    let suite = Suite::open(&alone).unwrap();
    assert_eq!(
        (ids(&suite), suite.tasks[0].split),
        (vec!["where/trial"], Split::ValidSeen)
    );
    fs::write(folder.path().join("some/one.tw-pddl"), GAME).unwrap();
    let suite = Suite::open(folder.path().join("some/one.tw-pddl")).unwrap();
    assert_eq!(ids(&suite), ["one.tw-pddl"]);
    #[cfg(unix)]
    {
        let link = folder.path().join("valid_seen/link.tw-pddl");
        std::os::unix::fs::symlink(alone.join("game.tw-pddl"), &link).unwrap();
        assert_eq!(
            ids(&Suite::open(link).unwrap()),
            ["valid_seen/link.tw-pddl"]
        );
    }
    fs::write(folder.path().join("some/broken.tw-pddl"), "{").unwrap();
    let suite = Suite::open(folder.path().join("some/broken.tw-pddl")).unwrap();
    assert!(suite.tasks.is_empty() && suite.faults[0].reason.starts_with("not a game: EOF"));
}

/// ALFWorld skips games that do not say whether they are solvable. A byte order mark is invisible.
#[test]
fn games_without_the_mark_solvable_and_with_a_byte_order_mark_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let unmarked = GAME.replace(", \"solvable\": true", "");
    let marked = format!("\u{feff}{GAME}");
    for (trial, game) in [
        ("trial_1", GAME),
        ("trial_2", &unmarked),
        ("trial_3", &marked),
    ] {
        let trial = folder.path().join("train/put-Mug-None-Desk-1").join(trial);
        fs::create_dir_all(&trial).unwrap();
        fs::write(trial.join("game.tw-pddl"), game).unwrap();
    }
    let suite = Suite::open(folder.path()).unwrap();
    assert_eq!(suite.tasks.len(), 2);
    assert_eq!(suite.unmarked, [suite.tasks[1].path.clone()]);
    assert!(suite.faults[0].reason.contains("byte order mark"));
}

/// The files that `tw-make … --output SPLIT/NAME.z8` writes.
#[test]
fn files_in_the_folder_of_a_split_are_games_themselves() {
    let folder = tempfile::tempdir().unwrap();
    for (file, content) in [
        ("train/coin1.z8", &b"\x08 not JSON"[..]),
        ("train/coin1.json", b"{}"),
        ("train/coin1.ni", b"The story"),
        ("train/sliced-movable.z5", b"\x05"),
        ("train/kitchen.tw-pddl", GAME.as_bytes()),
        ("train/hopeless.tw-pddl", br#"{"solvable": false}"#),
        ("train/torn.tw-pddl", b"{"),
        ("train/glulx.ulx", b"Glul"),
        ("train/COIN.Z8", b"\x08"),
        ("train/coin.z9", b"\x09"),
        ("train/z8", b"\x08"),
        ("valid_unseen/coin2.z8", b"\x08"),
        ("coin3.z8", b"\x08"),
    ] {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let suite = Suite::open(folder.path()).unwrap();
    let games = [
        "train/coin1.z8",
        "train/kitchen.tw-pddl",
        "train/sliced-movable.z5",
        "valid_unseen/coin2.z8",
    ];
    assert_eq!(ids(&suite), games);
    assert!(
        suite
            .tasks
            .iter()
            .all(|task| task.task_type.is_none() && task.path == folder.path().join(&task.id))
    );
    assert_eq!(suite.tasks[0].hash, hex_sha256(b"\x08 not JSON"));
    assert_eq!(
        relative_faults(&suite.left_out, folder.path()),
        [
            ("train/glulx.ulx", "TextWorld 1.7 no longer plays Glulx"),
            ("train/hopeless.tw-pddl", "marked unsolvable")
        ]
    );
    let faults = relative_faults(&suite.faults, folder.path());
    assert!(
        faults.len() == 1 && faults[0].0 == "train/torn.tw-pddl",
        "{faults:?}"
    );
    assert!(faults[0].1.starts_with("not a game: EOF"), "{faults:?}");

    lay_out(folder.path());
    let both = Suite::open(folder.path()).unwrap();
    assert_eq!(
        both.tasks.len(),
        suite.tasks.len() + 3,
        "both layouts in one folder"
    );
    both.write_manifest(folder.path().join(MANIFEST)).unwrap();
    assert_eq!(
        Suite::open(folder.path()).unwrap().tasks,
        both.tasks,
        "a manifest lists games of both"
    );
}

/// Returns the (path below the folder, reason) of each fault.
fn relative_faults<'a>(faults: &'a [SuiteFault], folder: &Path) -> Vec<(&'a str, &'a str)> {
    faults
        .iter()
        .map(|fault| {
            let path = fault.path.strip_prefix(folder).unwrap();
            (path.to_str().unwrap(), fault.reason.as_str())
        })
        .collect()
}

#[test]
fn the_splits_may_be_one_level_down() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(&folder.path().join("json_2.1.1"));
    let above = Suite::open(folder.path()).unwrap();
    let below = Suite::open(folder.path().join("json_2.1.1")).unwrap();
    assert_eq!(above.tasks, below.tasks);
    assert_eq!(above.hash(), below.hash());
}

#[test]
fn a_manifest_reads_back_the_same_suite() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let suite = Suite::open(folder.path()).unwrap();
    suite.write_manifest(folder.path().join(MANIFEST)).unwrap();
    let again = Suite::open(folder.path()).unwrap();
    assert_eq!(
        (&again.tasks, &again.root, again.hash()),
        (&suite.tasks, &suite.root, suite.hash())
    );
    assert!(
        again.faults.is_empty() && again.left_out.is_empty(),
        "a manifest lists playable games only"
    );
    assert_eq!(Suite::open(folder.path().join(MANIFEST)).unwrap(), again);
}

/// The expected hash by hand: the SHA-256 of the three lines `split TAB id TAB game hash`.
#[test]
fn the_hash_is_over_split_id_and_game() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let suite = Suite::open(folder.path()).unwrap();
    let game = hex_sha256(GAME.as_bytes());
    let lines = format!(
        "train\ttrain/put-Mug-None-Desk-1/trial_1\t{game}\ntrain\ttrain/put-Mug-None-Desk-1/trial_2\t{game}\n\
         valid_seen\tvalid_seen/put-Mug-None-Desk-1/trial_1\t{game}\n"
    );
    assert_eq!(suite.hash(), hex_sha256(lines.as_bytes()));
    let fewer = Suite {
        tasks: suite.tasks[1..].to_vec(),
        ..suite.clone()
    };
    assert_ne!(fewer.hash(), suite.hash());
}

#[test]
fn damaged_and_missing_games_are_listed_as_faults() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let suite = Suite::open(folder.path()).unwrap();
    suite.write_manifest(folder.path().join(MANIFEST)).unwrap();
    fs::write(&suite.tasks[0].path, GAME.replace("true", "true ")).unwrap();
    fs::remove_file(&suite.tasks[2].path).unwrap();
    let damaged = Suite::open(folder.path()).unwrap();
    assert_eq!(ids(&damaged), ["train/put-Mug-None-Desk-1/trial_2"]);
    assert_eq!(damaged.faults.len(), 2);
    assert_eq!(damaged.faults[0].path, suite.tasks[0].path);
    assert!(
        damaged.faults[0]
            .reason
            .starts_with("the game is not the one in the manifest")
    );
    assert_eq!(damaged.faults[1].path, suite.tasks[2].path);
    assert!(damaged.faults[1].reason.starts_with("cannot read the game"));
}

#[test]
fn the_error_for_a_bad_manifest_has_file_line_and_hint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("games.jsonl");
    let header = r#"{"suite": "s", "format": 1}"#;
    let game = r#"{"id": "a", "split": "train", "task_type": null, "path": "a", "hash": "0"}"#;
    let cases = [
        (String::new(), ":1: EOF"),
        (
            r#"{"suite": "s", "format": 2}"#.into(),
            ":1: unknown format 2\nhint: this version reads format 1",
        ),
        (format!("{header}\n{game}\nnothing\n"), ":3: expected ident"),
        (
            format!("{header}\n{game}\n{game}\n"),
            ":3: id \"a\" occurs twice\nhint: remove one",
        ),
        (
            format!(
                "{header}\n{}\n",
                game.replace(r#""path": "a""#, r#""path": "../a""#)
            ),
            ":2: path \"../a\" leaves",
        ),
        (
            format!("{header}\n{}\n", game.replace("train", "test")),
            ":2: unknown variant `test`",
        ),
    ];
    for (text, expected) in cases {
        fs::write(&path, &text).unwrap();
        let error = Suite::open(&path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}{expected}", path.display())),
            "{error}"
        );
        assert!(error.contains("\nhint: "), "{error}");
    }
}

#[test]
fn any_other_folder_is_not_a_suite() {
    let folder = tempfile::tempdir().unwrap();
    let error = Suite::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.starts_with("no suite in ")
            && error.contains("\nhint: expected suite.jsonl, or folders"),
        "{error}"
    );
    let error = Suite::open(folder.path().join("nothing"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("\nhint: "), "{error}");
}

#[test]
fn a_manifest_cannot_list_games_above_it() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let suite = Suite::open(folder.path()).unwrap();
    let error = suite
        .write_manifest(folder.path().join("valid_seen/suite.jsonl"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(" is not below ") && error.contains("\nhint: "),
        "{error}"
    );
}
