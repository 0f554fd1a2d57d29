//! A training job and a whole loop that are killed repeatedly end in the weights, the episodes and the
//! table of an undisturbed run.
//!
//! If `HEARTH_KILLS=50` is set, each is killed 50 times; the default is a few times.

use crate::tiny;
use scenarios::Trajectory;
use scenarios::store::Store;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Number of updates. Every hundredth writes a checkpoint.
const UPDATES: usize = 130;

fn hearth(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command
        .args(arguments)
        .current_dir(folder)
        .stderr(Stdio::null())
        .stdout(Stdio::piped());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Value {
    let output = hearth(folder, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn kills(without: usize) -> usize {
    std::env::var("HEARTH_KILLS").map_or(without, |text| {
        text.parse().expect("HEARTH_KILLS is a number")
    })
}

/// A number in [0, 1), far from the numbers before it.
fn share(kill: usize) -> f64 {
    (kill as f64 * 0.618_033_988_749_895 + 0.37).fract()
}

/// Kills are spread over the whole duration by a fixed sequence.
#[test]
fn killed_training_jobs_end_in_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    std::fs::write(path.join("tiny.toml"), tiny::RECIPE).unwrap();
    let recipe: toml::Table = tiny::RECIPE.parse().unwrap();
    let mut jobs = recipe["train"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job.as_table().unwrap().clone());
    let sft = jobs.next().unwrap();
    let mut oreo = jobs.next_back().unwrap();
    oreo["optimizer"].as_table_mut().unwrap()["updates"] = toml::Value::Integer(UPDATES as i64);
    oreo["data"] = toml::Value::Array(vec!["rollouts".into()]);
    std::fs::write(path.join("sft.toml"), toml::to_string(&sft).unwrap()).unwrap();
    std::fs::write(path.join("oreo.toml"), toml::to_string(&oreo).unwrap()).unwrap();
    let collect = [
        "--suite",
        "games",
        "--repetitions",
        "1",
        "--turns",
        "4",
        "--out",
        "play.jsonl",
        "--json",
    ];
    run(
        path,
        &[&["collect", "--policy", "expert"], &collect[..]].concat(),
    );
    run(
        path,
        &[
            "train",
            "sft.toml",
            "--data",
            "play.jsonl",
            "--model",
            "tiny.toml",
            "--out",
            "sft",
            "--json",
        ],
    );
    let train = |out: &'static str| {
        [
            "train",
            "oreo.toml",
            "--data",
            "play.jsonl",
            "--from",
            "sft",
            "--out",
            out,
            "--json",
        ]
    };

    let started = Instant::now();
    let whole = run(path, &train("whole"));
    let whole_seconds = started.elapsed().as_secs_f64();
    let kills = kills(2);
    let mut alive_at_the_kill = 0;
    for kill in 0..kills {
        let mut child = hearth(path, &train("killed")).spawn().unwrap();
        let share = share(kill);
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
        let [whole, killed] =
            ["whole", "killed"].map(|out| std::fs::read(path.join(out).join(file)).unwrap());
        assert!(whole == killed, "{file} differs");
    }
    assert_eq!(losses(&path.join("whole/metrics.csv")).len(), UPDATES + 1);
    assert_eq!(
        losses(&path.join("killed/metrics.csv")),
        losses(&path.join("whole/metrics.csv"))
    );
}

/// The columns of the metrics that are not times.
fn losses(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| line.split(',').take(12).map(String::from).collect())
        .collect()
}

/// What two runs of one recipe must have in common: the table, the weights, the losses, the
/// episodes of each store without their seconds and in the order of seeds, each once, and the
/// inputs and outcome of each stage.
fn essence(run: &Path) -> BTreeMap<PathBuf, Vec<String>> {
    let mut essence = BTreeMap::new();
    for (path, bytes) in tiny::files(run) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = || String::from_utf8(bytes.clone()).unwrap();
        let said = if name == "eval.csv" {
            text().lines().map(String::from).collect()
        } else if name == "model.safetensors" {
            vec![scenarios::suite::hex_sha256(&bytes)]
        } else if name == "metrics.csv" {
            losses(&run.join(&path))
                .into_iter()
                .map(|row| row.join(","))
                .collect()
        } else if name.ends_with("stage.json") {
            let manifest: Value = serde_json::from_str(&text()).unwrap();
            ["state", "inputs", "expected", "outcome"]
                .iter()
                .map(|key| manifest[key].to_string())
                .collect()
        } else if name.ends_with(".jsonl") && name != "suite.jsonl" {
            let mut episodes = Store::read(run.join(&path)).unwrap();
            let count = episodes.len();
            episodes
                .iter_mut()
                .for_each(|episode| episode.seconds = 0.0);
            episodes.sort_by(|a, b| (&a.game, a.seed).cmp(&(&b.game, b.seed)));
            episodes.dedup_by(|a, b| (&a.game, a.seed) == (&b.game, b.seed));
            assert_eq!(
                episodes.len(),
                count,
                "{} holds an episode twice",
                path.display()
            );
            episodes
                .iter()
                .map(|episode: &Trajectory| serde_json::to_string(episode).unwrap())
                .collect()
        } else {
            continue;
        };
        essence.insert(path, said);
    }
    essence
}

/// Each run has its own folder. It is killed and started again until it is done. Runs are started
/// until there were enough kills.
#[test]
fn killed_loops_end_in_the_same_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("tiny.toml"), tiny::RECIPE).unwrap();
    let arguments = |out: &str| ["loop", "tiny.toml", "--json", "--out", out].map(String::from);
    let start = |out: &str| hearth(path, &arguments(out).each_ref().map(String::as_str));

    let started = Instant::now();
    assert!(start("whole").output().unwrap().status.success());
    let whole_seconds = started.elapsed().as_secs_f64();
    let whole = essence(&path.join("whole"));
    assert_eq!(
        whole
            .keys()
            .filter(|path| path.ends_with("model.safetensors"))
            .count(),
        7,
        "five policies, two values"
    );
    let (kills, mut struck, mut rounds) = (kills(3), 0, 0);
    while struck < kills {
        let out = format!("killed-{rounds}");
        loop {
            let mut child = start(&out).stdout(Stdio::null()).spawn().unwrap();
            if struck < kills {
                std::thread::sleep(Duration::from_secs_f64(
                    whole_seconds * share(struck + rounds) * 0.5,
                ));
                if child.try_wait().unwrap().is_none() {
                    child.kill().unwrap(); // SIGKILL on Unix
                    child.wait().unwrap();
                    struck += 1;
                    continue;
                }
            }
            assert!(child.wait().unwrap().success(), "{out}");
            break;
        }
        let killed = essence(&path.join(&out));
        assert!(killed.keys().eq(whole.keys()), "{:?}", killed.keys());
        for (file, said) in &whole {
            assert!(killed[file] == *said, "{} differs in {out}", file.display());
        }
        rounds += 1;
    }
    eprintln!("{struck} kills struck in {rounds} runs of {whole_seconds:.1} s");
}
