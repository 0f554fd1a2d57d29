//! Small games with features that the official games do not use, compared with recorded play of the
//! Python stack.

use env_bridge::replay::{ReplayError, replay};
use std::path::{Path, PathBuf};

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded")
}

#[test]
fn games_with_unusual_features_are_repeated_byte_for_byte() {
    let report = replay(&recorded().join("walks.jsonl"), &recorded()).expect("replays");
    assert_eq!(report.first, None);
    assert_eq!(
        (report.walks, report.commands, report.differences),
        (6, 152, 0)
    );
}

#[test]
fn a_changed_recording_is_reported_with_its_turn() {
    let text = std::fs::read_to_string(recorded().join("walks.jsonl")).expect("readable");
    let first =
        text.lines()
            .next()
            .expect("a line")
            .replacen("You are in the", "You were in the", 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("changed.jsonl");
    std::fs::write(&path, first).expect("writable");
    let report = replay(&path, &recorded()).expect("replays");
    let difference = report.first.expect("a difference");
    assert_eq!((report.walks, report.differences), (1, 1));
    assert_eq!(
        (
            difference.game.as_str(),
            difference.turn,
            difference.command
        ),
        ("lamp/game.tw-pddl", 0, None)
    );
    assert_eq!(difference.field, "observation");
    assert!(
        difference.expected.contains("You were in the")
            && difference.found.contains("You are in the")
    );
}

#[test]
fn a_missing_game_and_a_damaged_line_are_errors_with_their_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("walks.jsonl");
    std::fs::write(
        &path,
        "\n{\"game\":\"a/b\",\"version\":\"v\",\"walk\":[]}\n",
    )
    .expect("writable");
    let missing = replay(&path, &recorded()).expect_err("no such game");
    assert!(
        matches!(missing, ReplayError::MissingGame { line: 2, .. }),
        "{missing}"
    );
    assert!(missing.to_string().ends_with("v/a/b"), "{missing}");
    std::fs::write(&path, "{\"game\":1}\n").expect("writable");
    let damaged = replay(&path, &recorded()).expect_err("damaged");
    assert!(
        matches!(damaged, ReplayError::Damaged { line: 1, .. }),
        "{damaged}"
    );
    let packed = folder.path().join("walks.jsonl.xz");
    std::fs::write(&packed, "not packed").expect("writable");
    assert!(matches!(
        replay(&packed, &recorded()),
        Err(ReplayError::Damaged { line: 0, .. })
    ));
}
