//! Files and command lines of an earlier version: old run folders and stores open, and old command
//! lines write the same episodes and tables.

use crate::binary::{Ran, folder, hearth, hearth_line};
use crate::tiny::files;
use scenarios::store::Store;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A copy of the files that hearth wrote at commit 1b268d4.
fn earlier() -> TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/1b268d4");
    let copy = folder();
    for (path, bytes) in files(&source) {
        let target = copy.path().join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
    copy
}

/// Runs an old command line on a copy of the old files, and requires that it ends well.
#[track_caller]
fn run(folder: &TempDir, arguments: &str) -> Ran {
    let ran = hearth_line(folder.path(), arguments);
    assert_eq!(ran.code, 0, "{arguments}: {}", ran.stderr);
    ran
}

/// The files of a run without those that name the version or the process that ran last.
fn outputs(folder: &TempDir) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut outputs = files(&folder.path().join("run"));
    outputs.retain(|path, _| !path.ends_with("run.json") && !path.ends_with("run.lock"));
    outputs
}

/// The episodes of a store as JSON, in the order of games. The wall-clock seconds are left out, and
/// the old names of fields are replaced.
fn episodes(path: &Path) -> Vec<Value> {
    let mut episodes: Vec<Value> = fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| renamed(serde_json::from_str(line).unwrap()))
        .collect();
    episodes.sort_by_key(|episode| format!("{}#{}", episode["game"], episode["repetition"]));
    episodes
}

/// The value with the present names of renamed fields and without `seconds`.
fn renamed(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| name != "seconds")
            .map(|(name, value)| (new_name(&name).to_string(), renamed(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(renamed).collect(),
        other => other,
    }
}

fn new_name(name: &str) -> &str {
    match name {
        "astray" => "perturbed",
        "chosen_by" => "scorer",
        other => other,
    }
}

/// The rows of a CSV file with the present names in the header and without the column `seconds`.
fn table(path: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap();
    let mut rows: Vec<Vec<String>> = text
        .lines()
        .map(|line| line.split(',').map(String::from).collect())
        .collect();
    rows[0] = rows[0].iter().map(|name| new_name(name).into()).collect();
    if let Some(column) = rows[0].iter().position(|name| name == "seconds") {
        for row in &mut rows {
            row.remove(column);
        }
    }
    rows
}

#[test]
fn an_old_run_is_complete_and_nothing_is_done_again() {
    let folder = earlier();
    let before = outputs(&folder);
    let status = run(&folder, "loop recipe.toml --out run --status --json").json();
    let stages = status["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 11, "{status}");
    assert!(
        stages.iter().all(|stage| stage["state"] == "done"),
        "{status}"
    );
    let report = run(&folder, "loop recipe.toml --out run --json").json();
    assert_eq!(
        report["rows"].as_array().unwrap().len() + 1,
        table(&folder.path().join("run/eval.csv")).len()
    );
    let after = outputs(&folder);
    assert!(
        after.keys().eq(before.keys()),
        "{:?} became {:?}",
        before.keys(),
        after.keys()
    );
    for (path, bytes) in &before {
        assert!(after[path] == *bytes, "{} has changed", path.display());
    }
}

#[test]
fn an_old_run_is_verified_reported_and_audited() {
    let folder = earlier();
    let verified = run(&folder, "verify run --json").json();
    assert_eq!(
        (
            verified["differences"].as_u64(),
            verified["checked"].as_u64()
        ),
        (Some(0), Some(20)),
        "{verified}"
    );
    run(&folder, "report run");
    assert!(folder.path().join("run/report.html").exists());
    let audited = run(&folder, "audit run --json").json();
    assert_eq!(audited["findings"], 0, "{audited}");
}

/// The command lines of the fixtures' README, with other names for the output.
#[test]
fn old_command_lines_collect_the_same_episodes() {
    let folder = earlier();
    for (arguments, name) in [
        ("--slips 0.3 --turns 12", "slips"),
        ("--student run/1/sft --turns 8 --completion 6", "student"),
    ] {
        let collect = "collect --policy expert --suite run/suite.jsonl --seed 3 --repetitions 1";
        run(
            &folder,
            &format!("{collect} {arguments} --out {name}-now.jsonl"),
        );
        let was = episodes(&folder.path().join(format!("{name}.jsonl")));
        let now = episodes(&folder.path().join(format!("{name}-now.jsonl")));
        assert_eq!(was.len(), 4, "{name}");
        assert_eq!(now, was, "{name}");
    }
}

#[test]
fn an_old_evaluation_has_the_same_episodes_and_table() {
    let folder = earlier();
    run(
        &folder,
        "eval --policy run/1/oreo --suite run/suite.jsonl --best-of 1,2 --choose-by soft_value \
         --temperature 0.5 --turns 6 --completion 6 --seed 4 --out now",
    );
    let [was, now] = ["eval", "now"].map(|out| folder.path().join(out));
    assert_eq!(
        episodes(&now.join("episodes-k2.jsonl")),
        episodes(&was.join("episodes-k2.jsonl"))
    );
    let [was, now] = [was, now].map(|out| fs::read_to_string(out.join("eval.csv")).unwrap());
    assert_eq!(now, was);
}

/// The command `sweep` was called `lab`, and its table `lab.csv`.
#[test]
fn an_old_sweep_has_the_same_tables() {
    let folder = earlier();
    run(
        &folder,
        "lab --policy run/1/oreo --suite run/suite.jsonl --best-of 1,2 --choose-by \
         after_value,random --turns 6 --completion 6 --seed 4 --out now",
    );
    let [was, now] = ["lab", "now"].map(|out| folder.path().join(out));
    assert_eq!(table(&now.join("sweep.csv")), table(&was.join("lab.csv")));
    let old = table(&was.join("calibration.csv"));
    let mut new = table(&now.join("calibration.csv"));
    assert_eq!(new[0].last().unwrap(), "auc_given_turn");
    for row in &mut new {
        row.truncate(old[0].len()); // later versions append columns
    }
    assert_eq!(new, old);
}

#[test]
fn old_stores_open_with_their_perturbed_turns() {
    let folder = earlier();
    for name in ["slips.jsonl", "student.jsonl", "run/guided-sft.jsonl"] {
        let path = folder.path().join(name);
        let marked = fs::read_to_string(&path)
            .unwrap()
            .matches("\"astray\":true")
            .count();
        let perturbed = Store::read(&path)
            .unwrap()
            .iter()
            .flat_map(|episode| &episode.turns)
            .filter(|turn| turn.perturbed)
            .count();
        assert!(perturbed > 0, "{name}");
        assert_eq!(perturbed, marked, "{name}");
    }
    let scored = Store::read(folder.path().join("eval/episodes-k2.jsonl")).unwrap();
    assert!(
        scored.iter().all(
            |episode| serde_json::to_value(&episode.protocol).unwrap()["scorer"] == "soft_value"
        )
    );
}

/// The old spellings are not in the help, and still work as if they were the new ones.
#[test]
fn old_spellings_are_hidden() {
    let folder = folder();
    for (command, old) in [
        ("collect", &["--slips", "--student"][..]),
        ("eval", &["--choose-by"]),
        ("play", &["--choose-by"]),
        ("sweep", &["--choose-by"]),
    ] {
        let help = hearth(folder.path(), &[command, "--help"]).done();
        for flag in old {
            assert!(!help.contains(flag), "{flag} in the help of {command}");
        }
    }
    let help = hearth(folder.path(), &["--help"]).done();
    assert!(!help.contains(" lab"), "{help}");
}
