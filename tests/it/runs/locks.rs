//! Two processes in one folder: the second is refused.

use super::process::{done, hearth, json_of, kill, output, wait_for, with_recipe};
use crate::tiny;
use scenarios::store::Store;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;

#[test]
fn a_second_process_in_a_folder_is_refused_and_status_is_not() {
    let folder = with_recipe(2);
    let path = folder.path();
    let status = || {
        json_of(&mut hearth(
            path,
            &["loop", "tiny.toml", "--status", "--json"],
        ))
    };
    let running = |status: &Value| {
        let stages = status["stages"].as_array().unwrap().iter();
        stages
            .filter(|stage| stage["state"] == "running")
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(status()["counts"], json!({"missing": 16}));
    let first = hearth(path, &["loop", "tiny.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the first process signs", || {
        fs::read_to_string(path.join("runs/tiny/run.lock")).is_ok_and(|text| text.ends_with('\n'))
    });
    let (code, _, stderr) = output(&mut hearth(path, &["loop", "tiny.toml"]));
    assert_eq!(code, 2, "{stderr}");
    let expected = format!("error: runs/tiny is in use by process {}", first.id());
    assert!(
        stderr.starts_with(&expected) && stderr.contains("hint: wait for it"),
        "{stderr}"
    );
    let (code, _, stderr) = output(&mut hearth(path, &["loop", "tiny.toml", "--shard", "1/2"]));
    assert!(code == 2 && stderr.contains(&expected), "{stderr}");
    if Path::new("/proc/locks").exists() {
        let running = running(&status());
        assert_eq!(running.len(), 1, "{running:?}");
        assert_eq!(running[0]["processes"], json!([first.id()]));
    }
    kill(first);
    assert!(
        running(&status()).is_empty(),
        "the lock went with its process"
    );
    done(&mut hearth(path, &["loop", "tiny.toml"]));
    assert_eq!(status()["counts"], json!({"done": 16}));
}

#[test]
fn a_store_is_written_by_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    let (held, _) = Store::open(path.join("store.jsonl")).unwrap();
    let collect = [
        "collect",
        "--policy",
        "expert",
        "--suite",
        "games",
        "--out",
        "store.jsonl",
    ];
    let (code, _, stderr) = output(&mut hearth(path, &collect));
    assert_eq!(code, 2);
    assert!(
        stderr.contains("error: store.jsonl is in use by"),
        "{stderr}"
    );
    if Path::new("/proc/locks").exists() {
        assert!(
            stderr.contains(&format!("in use by process {}", std::process::id())),
            "{stderr}"
        );
    }
    drop(held);
    done(&mut hearth(path, &collect));
}
