//! Episodes to export and import, and shorthands for the commands.

use scenarios::household::{GenerateOptions, generate};
use scenarios::store::Store;
use scenarios::{Suite, TextVersion, Trajectory};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

pub(super) fn hearth(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(super) fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
pub(super) fn refused(output: &Output, code: i32, text: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    assert!(said(output).contains(text), "{}", said(output));
}

pub(super) fn write(path: &Path, episodes: &[Trajectory]) {
    let (mut store, before) = Store::open(path).unwrap();
    assert!(before.is_empty());
    episodes
        .iter()
        .for_each(|episode| store.append(episode).unwrap());
}

/// A suite of generated games in `games`.
pub(super) fn suite(folder: &Path, text: TextVersion, train: usize) -> Suite {
    let options = GenerateOptions {
        seed: 5,
        text,
        train,
        valid_train: 0,
        seen: 3,
        unseen: 0,
        ..GenerateOptions::default()
    };
    generate(&folder.join("games"), &options).unwrap()
}

/// `games` and `log.jsonl`: episodes of the expert with noise. Some of them reach the turn limit.
pub(super) fn played() -> (TempDir, Vec<Trajectory>) {
    let how = [
        "--repetitions",
        "6",
        "--expert-noise",
        "0.4",
        "--turns",
        "9",
    ];
    collected(TextVersion::V2_1_3, 6, &how)
}

/// `games`, a suite with `train` games, and `log.jsonl`: the expert's episodes of them.
pub(super) fn collected(
    text: TextVersion,
    train: usize,
    how: &[&str],
) -> (TempDir, Vec<Trajectory>) {
    let folder = tempfile::tempdir().unwrap();
    suite(folder.path(), text, train);
    let command = [
        "collect",
        "--policy",
        "expert",
        "--suite",
        "games",
        "--out",
        "log.jsonl",
        "--json",
    ];
    json_of(&hearth(folder.path(), &[&command[..], how].concat()));
    let episodes = Store::read(folder.path().join("log.jsonl")).unwrap();
    (folder, episodes)
}

pub(super) fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(super) fn exported(folder: &Path, format: &str, more: &[&str]) -> (Value, Vec<Value>) {
    let out = folder.join("out.jsonl");
    let _ = fs::remove_file(&out);
    let arguments = [
        "export",
        "log.jsonl",
        "--format",
        format,
        "--out",
        "out.jsonl",
        "--json",
    ];
    let counts = json_of(&hearth(folder, &[&arguments, more].concat()));
    (counts, rows(&out))
}
