//! A lesson that is killed again and again, for real, ends in the weights of one that never was.
//!
//! `HEARTH_KILLS=20 cargo test --release --test killed` kills as often as that; twice without it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod tiny;

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Updates, of which every hundredth leaves a checkpoint.
const UPDATES: usize = 130;

fn hearth(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command.args(arguments).current_dir(folder).stderr(Stdio::null()).stdout(Stdio::piped());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Value {
    let output = hearth(folder, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Kills fall anywhere between the first moment and the last, wherever a fixed sequence puts them.
#[test]
fn killed_lessons_end_in_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    std::fs::write(path.join("tiny.toml"), tiny::RECIPE).unwrap();
    let recipe: toml::Table = tiny::RECIPE.parse().unwrap();
    let mut lessons = recipe["lesson"].as_array().unwrap().iter().map(|lesson| lesson.as_table().unwrap().clone());
    let sft = lessons.next().unwrap();
    let mut oreo = lessons.next_back().unwrap();
    oreo["optimizer"].as_table_mut().unwrap()["updates"] = toml::Value::Integer(UPDATES as i64);
    oreo["data"] = toml::Value::Array(vec!["rollouts".into()]);
    std::fs::write(path.join("sft.toml"), toml::to_string(&sft).unwrap()).unwrap();
    std::fs::write(path.join("oreo.toml"), toml::to_string(&oreo).unwrap()).unwrap();
    let collect = ["--suite", "games", "--repetitions", "1", "--turns", "4", "--out", "play.jsonl", "--json"];
    run(path, &[&["collect", "--policy", "expert"], &collect[..]].concat());
    run(path, &["train", "sft.toml", "--data", "play.jsonl", "--model", "tiny.toml", "--out", "sft", "--json"]);
    let train =
        |out: &'static str| ["train", "oreo.toml", "--data", "play.jsonl", "--from", "sft", "--out", out, "--json"];

    let started = Instant::now();
    let whole = run(path, &train("whole"));
    let whole_seconds = started.elapsed().as_secs_f64();
    let kills: usize = std::env::var("HEARTH_KILLS").map_or(2, |text| text.parse().expect("HEARTH_KILLS is a number"));
    let mut alive_at_the_kill = 0;
    for kill in 0..kills {
        let mut child = hearth(path, &train("killed")).spawn().unwrap();
        let share = (kill as f64 * 0.618_033_988_749_895 + 0.37).fract();
        std::thread::sleep(Duration::from_secs_f64(whole_seconds * share));
        alive_at_the_kill += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap(); // SIGKILL on Unix
        child.wait().unwrap();
    }
    assert!(alive_at_the_kill > 0, "no kill struck");
    eprintln!("{alive_at_the_kill} of {kills} kills struck");
    let killed = run(path, &train("killed"));
    assert_eq!(killed["policy_hash"], whole["policy_hash"]);
    for file in ["model.safetensors", "value/model.safetensors"] {
        let [whole, killed] = ["whole", "killed"].map(|out| std::fs::read(path.join(out).join(file)).unwrap());
        assert!(whole == killed, "{file} differs");
    }
    let rows = |out: &str| {
        let text = std::fs::read_to_string(path.join(out).join("metrics.csv")).unwrap();
        let losses = |line: &str| line.split(',').take(12).map(String::from).collect::<Vec<_>>();
        text.lines().map(losses).collect::<Vec<_>>()
    };
    assert_eq!(rows("whole").len(), UPDATES + 1);
    assert_eq!(rows("killed"), rows("whole"));
}
