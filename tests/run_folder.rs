//! What a run's folder stands: a full disk, a folder that cannot be written, two processes at once, many that share it.
//! Whatever happens, what was there stays there, the message says what is wrong, and the same command goes on.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod tiny;

use scenarios::Trajectory;
use scenarios::store::Store;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const HEARTH: &str = env!("CARGO_BIN_EXE_hearth");

/// No launcher's variables of the machine that tests run on.
const LAUNCHERS: [&str; 4] = ["SLURM_PROCID", "SLURM_NTASKS", "RANK", "WORLD_SIZE"];

fn hearth(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(HEARTH);
    command.args(arguments).current_dir(folder);
    LAUNCHERS.iter().for_each(|name| {
        command.env_remove(name);
    });
    command
}

fn output(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let (code, stdout, stderr) = output(command);
    assert_eq!(code, 0, "{stderr}");
    stdout
}

fn json_of(command: &mut Command) -> Value {
    serde_json::from_str(&done(command)).unwrap()
}

fn with_recipe(iterations: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = tiny::RECIPE.replace("iterations = 2", &format!("iterations = {iterations}"));
    fs::write(folder.path().join("tiny.toml"), text).unwrap();
    folder
}

/// Episodes without their seconds.
fn episodes(path: &Path) -> Vec<Trajectory> {
    let mut all = Store::read(path).unwrap();
    all.iter_mut().for_each(|episode| episode.seconds = 0.0);
    all
}

fn in_order(mut episodes: Vec<Trajectory>) -> Vec<Trajectory> {
    episodes.sort_by_key(|episode| (episode.repetition, episode.seed));
    episodes
}

/// The stages of a run that are done.
fn finished(folder: &Path) -> Vec<String> {
    let status = json_of(&mut hearth(
        folder,
        &["loop", "tiny.toml", "--status", "--json"],
    ));
    let stages = status["stages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|stage| stage["state"] == "done");
    stages
        .map(|stage| stage["stage"].as_str().unwrap().to_string())
        .collect()
}

/// A command that can write no file of more than so many blocks of 512 bytes, as on a disk that is full.
fn limited(folder: &Path, blocks: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -f {blocks}; trap '' XFSZ; exec \"$0\" \"$@\"");
    command
        .arg("-c")
        .arg(script)
        .arg(HEARTH)
        .args(arguments)
        .current_dir(folder);
    command
}

#[test]
fn a_store_on_a_full_disk_keeps_its_episodes_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    let collect = |out| {
        [
            "collect",
            "--policy",
            "expert",
            "--suite",
            "games",
            "--repetitions",
            "1",
            "--out",
            out,
        ]
    };
    done(&mut hearth(path, &collect("whole.jsonl")));
    let whole = fs::metadata(path.join("whole.jsonl")).unwrap().len();
    let (code, _, stderr) = output(&mut limited(
        path,
        usize::try_from(whole / 1024).unwrap(),
        &collect("full.jsonl"),
    ));
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("error: cannot append to full.jsonl: File too large"),
        "{stderr}"
    );
    let kept = episodes(&path.join("full.jsonl"));
    assert!(!kept.is_empty() && kept.len() < 6, "{}", kept.len());
    done(&mut hearth(path, &collect("full.jsonl")));
    assert_eq!(
        episodes(&path.join("full.jsonl"))[..kept.len()],
        kept,
        "what was there stays where it was"
    );
    assert_eq!(
        in_order(episodes(&path.join("full.jsonl"))),
        in_order(episodes(&path.join("whole.jsonl")))
    );
}

/// Files may grow larger and larger, so that a loop stops at one writer after the other.
#[test]
fn a_loop_on_a_full_disk_loses_no_stage_and_ends_in_the_same_table() {
    let folder = with_recipe(1);
    let path = folder.path();
    done(&mut hearth(path, &["loop", "tiny.toml", "--out", "whole"]));
    let largest = |name: &str| {
        let files = tiny::files(&path.join("whole")).into_iter();
        files
            .filter(|(path, _)| path.ends_with(name))
            .map(|(_, bytes)| bytes.len())
            .max()
            .unwrap()
            / 512
    };
    let (games, weights) = (largest("game.tw-pddl"), largest("model.safetensors"));
    let mut before: Vec<String> = Vec::new();
    let mut stopped = Vec::new();
    for blocks in [
        1,
        games / 2,
        games + 2,
        weights / 2,
        weights + 2,
        weights * 2,
        weights * 3,
    ] {
        let (code, _, stderr) = output(&mut limited(path, blocks, &["loop", "tiny.toml"]));
        if code == 0 {
            break;
        }
        let error =
            stderr[stderr.find("error: ").unwrap_or_else(|| panic!("{stderr}"))..].to_string();
        assert!(
            error.contains("File too large") && error.contains("runs/tiny"),
            "{error}"
        );
        stopped.push(error);
        let now = finished(path);
        assert!(
            before.iter().all(|stage| now.contains(stage)),
            "{before:?}, then {now:?}"
        );
        before = now;
    }
    assert!(stopped.len() > 2, "{stopped:?}");
    done(&mut hearth(path, &["loop", "tiny.toml"]));
    for file in [
        "eval.csv",
        "1/oreo/model.safetensors",
        "1/oreo/value/model.safetensors",
    ] {
        let [whole, full] =
            ["whole", "runs/tiny"].map(|run| fs::read(path.join(run).join(file)).unwrap());
        assert!(whole == full, "{file}");
    }
    let drafts: Vec<PathBuf> = tiny::files(&path.join("runs/tiny"))
        .into_keys()
        .filter(|path| path.to_string_lossy().contains(".new"))
        .collect();
    assert!(drafts.is_empty(), "half written files stay: {drafts:?}");
}

/// A file system in memory, where the test may mount one; goes with this value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let mounted = Self::mount(
            &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"],
            folder,
        );
        if !mounted {
            eprintln!("skipped: this test mounts a small file system, which only root may");
        }
        mounted.then(|| Self(folder.into()))
    }

    fn remount(&self, options: &str) {
        assert!(
            Self::mount(&["-o", &format!("remount,{options}")], &self.0),
            "{options}"
        );
    }

    fn mount(arguments: &[&str], folder: &Path) -> bool {
        let mut command = Command::new("mount");
        command.args(arguments).arg(folder).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_run_goes_on_when_its_disk_has_room_again_and_may_be_written_again() {
    let folder = with_recipe(1);
    let path = folder.path();
    let Some(disk) = Mounted::new(&path.join("runs"), "1m") else {
        return;
    };
    let (mut before, mut failures) = (Vec::new(), 0);
    for size in ["1m", "1200k", "1400k"] {
        disk.remount(&format!("size={size}"));
        let (code, _, stderr) = output(&mut hearth(path, &["loop", "tiny.toml"]));
        if code == 0 {
            break;
        }
        assert!(stderr.contains("No space left on device"), "{stderr}");
        failures += 1;
        let now = finished(path);
        assert!(
            before.iter().all(|stage| now.contains(stage)),
            "{before:?}, then {now:?}"
        );
        before = now;
    }
    assert!(failures > 0, "the disk is too large for this test");
    let before = finished(path);
    disk.remount("size=64m,ro");
    let held = tiny::files(&path.join("runs"));
    let (code, _, stderr) = output(&mut hearth(path, &["loop", "tiny.toml"]));
    assert_eq!(code, 2, "{stderr}");
    assert_eq!(
        stderr,
        "error: cannot use runs/tiny/run.lock: Read-only file system (os error 30)\n"
    );
    assert_eq!(
        finished(path),
        before,
        "what is there can still be looked at"
    );
    disk.remount("size=64m,rw");
    assert!(tiny::files(&path.join("runs")) == held);
    done(&mut hearth(path, &["loop", "tiny.toml"]));
    assert_eq!(
        finished(path).len(),
        10,
        "games, demonstrations, rollouts, three jobs, four evaluations"
    );
}

/// Root may write what nobody may; a file where a folder should be stops it too.
#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = with_recipe(1);
    fs::write(folder.path().join("file"), "mine").unwrap();
    let (code, _, stderr) = output(&mut hearth(
        folder.path(),
        &["loop", "tiny.toml", "--out", "file/run"],
    ));
    assert_eq!(
        (code, stderr.as_str()),
        (
            2,
            "error: cannot use file/run: Not a directory (os error 20)\n"
        )
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("file")).unwrap(),
        "mine"
    );
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
}

#[test]
fn two_processes_in_one_folder_are_one_too_many_and_status_is_none() {
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

#[test]
fn shards_are_merged_once_nothing_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    let collect = [
        "collect",
        "--policy",
        "expert",
        "--suite",
        "games",
        "--repetitions",
        "2",
        "--expert_noise",
        "0.2",
        "--out",
    ];
    done(hearth(path, &collect).arg("whole.jsonl"));
    let shard = |i: &str| {
        json_of(
            hearth(path, &collect)
                .args(["some.jsonl", "--json", "--shard"])
                .arg(i),
        )
    };
    assert_eq!(shard("0/3")["store"], json!("some.shard-0-of-3.jsonl"));
    let merge = || {
        output(hearth(path, &["merge", "some.shard-0-of-3.jsonl"]).arg("some.shard-1-of-3.jsonl"))
    };
    let slurm = |i: &str| {
        let mut command = hearth(path, &collect);
        output(command.arg("some.jsonl").envs([
            ("SLURM_PROCID", i),
            ("SLURM_NTASKS", "3"),
            ("RANK", "0"),
            ("WORLD_SIZE", "9"),
        ]))
    };
    let (code, _, stderr) = slurm("1");
    assert!(
        code == 0 && stderr.contains("shard 1/3 (SLURM_PROCID, SLURM_NTASKS)"),
        "{stderr}"
    );

    let (code, _, stderr) = merge();
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains(
            "some.jsonl cannot be merged yet\nsome.shard-2-of-3.jsonl is not there\nhint: "
        ),
        "{stderr}"
    );
    assert_eq!(shard("2/3")["episodes"], json!(4), "two games, twice");
    let third = path.join("some.shard-2-of-3.jsonl");
    let text = fs::read_to_string(&third).unwrap();
    fs::write(
        &third,
        text.lines()
            .take(3)
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
    .unwrap();
    let folder_merge = || output(&mut hearth(path, &["merge", ".", "--json"]));
    let (code, _, stderr) = folder_merge();
    assert!(
        code == 1 && stderr.contains("some.shard-2-of-3.jsonl lacks 1 of 4 episodes: train/"),
        "{stderr}"
    );
    assert!(stderr.contains(" repetition "), "{stderr}");
    let first = text.lines().next().unwrap();
    fs::write(&third, format!("{text}{first}\n")).unwrap();
    let (code, _, stderr) = folder_merge();
    assert!(
        code == 2 && stderr.contains("stands there twice, or is not in its plan"),
        "{stderr}"
    );
    fs::write(
        &third,
        text.replacen("\"policy\":\"expert", "\"policy\":\"other", 1),
    )
    .unwrap();
    let (code, _, stderr) = folder_merge();
    assert!(
        code == 2 && stderr.contains("was played by another policy or protocol than its plan says"),
        "{stderr}"
    );
    assert!(!path.join("some.jsonl").exists(), "nothing was merged");
    fs::write(&third, &text).unwrap();
    let (code, stdout, stderr) = folder_merge();
    assert_eq!(code, 0, "{stderr}");
    let merged: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (
            &merged["merged"][0]["episodes"],
            &merged["merged"][0]["shards"][2]
        ),
        (&json!(12), &json!("./some.shard-2-of-3.jsonl"))
    );
    assert_eq!(
        episodes(&path.join("some.jsonl")),
        in_order(episodes(&path.join("whole.jsonl"))),
        "in the order of play"
    );
    assert_eq!(folder_merge().0, 0, "again");
    let other = episodes(&path.join("some.jsonl"))[0].clone();
    shard_of_other(path, &other);
    let (code, _, stderr) = folder_merge();
    assert!(
        code == 2 && stderr.contains("some.jsonl: holds another episode of train/"),
        "{stderr}"
    );

    let other_seed =
        output(hearth(path, &collect).args(["some.jsonl", "--shard", "0/3", "--seed", "2"]));
    assert!(
        other_seed.0 == 2
            && other_seed
                .2
                .contains("begun otherwise: `plan.seed` is 2 and was 1"),
        "{}",
        other_seed.2
    );
    let none = output(&mut hearth(path, &["merge", "games"]));
    assert!(
        none.0 == 2 && none.2.contains("no shard's store in games"),
        "{}",
        none.2
    );
}

/// Puts one episode with another end into the whole store.
fn shard_of_other(path: &Path, episode: &Trajectory) {
    fs::remove_file(path.join("some.jsonl")).unwrap();
    let (mut store, _) = Store::open(path.join("some.jsonl")).unwrap();
    store
        .append(&Trajectory {
            last_observation: "another end".into(),
            ..episode.clone()
        })
        .unwrap();
}

#[test]
fn an_evaluation_in_shards_has_the_table_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    let eval = |out: &str, more: &[&str]| {
        let mut command = hearth(
            path,
            &[
                "eval", "--policy", "expert", "--suite", "games", "--out", out, "--turns", "9",
            ],
        );
        command.args(more);
        command
    };
    done(&mut eval("whole", &[]));
    let nothing = output(&mut eval(
        "none",
        &["--split", "valid_seen", "--shard", "7/9"],
    ));
    assert_eq!(
        nothing.0, 0,
        "a shard without games has done its part: {}",
        nothing.2
    );
    for shard in ["1/2", "0/2"] {
        let told = json_of(&mut eval("shared", &["--json", "--shard", shard]));
        assert!(told["n"] == 2 || told["n"] == 3, "{told}");
        assert!(!path.join("shared/eval.csv").exists(), "a part is no table");
    }
    let merged = done(&mut hearth(path, &["merge", "shared"]));
    assert!(
        merged.ends_with("of 5 episodes of 2 shards, in shared/episodes-k1.jsonl\n"),
        "{merged}"
    );
    let verified = json_of(&mut hearth(
        path,
        &["verify", "shared", "--json", "--suite", "games"],
    ));
    assert_eq!(
        (&verified["stores"], &verified["checked"]),
        (&json!(1), &json!(5)),
        "parts are read no more"
    );
    done(&mut eval("shared", &[]));
    let [whole, shared] =
        ["whole", "shared"].map(|run| fs::read_to_string(path.join(run).join("eval.csv")).unwrap());
    assert_eq!(shared, whole);
}

/// Who may not wait says what it waits for and is done; who may, and waits in vain, has failed.
#[test]
fn a_shard_of_a_loop_says_what_it_awaits() {
    let folder = with_recipe(1);
    let path = folder.path();
    let awaited = "games: awaits shard 0, which begins and finishes it";
    let told = done(&mut hearth(path, &["loop", "tiny.toml", "--shard", "1/2"]));
    assert_eq!(
        told,
        format!("shard 1/2 has done its part of what could be done; {awaited}\n")
    );
    let (code, _, stderr) = output(&mut hearth(
        path,
        &["loop", "tiny.toml", "--shard", "1/2", "--wait", "1"],
    ));
    assert_eq!(
        (code, stderr),
        (
            1,
            format!("shard 1/2 (--shard)\n{awaited}; waiting, for 1 s at most\nerror: {awaited}\n")
        )
    );
    let leader = json_of(
        hearth(path, &["loop", "tiny.toml", "--json"]).envs([("RANK", "0"), ("WORLD_SIZE", "2")]),
    );
    let awaits = "demonstrations: awaits the other shards; 6 of 12 episodes are there";
    assert_eq!(
        leader,
        json!({"run": "runs/tiny", "shard": {"index": 0, "of": 2}, "awaits": awaits})
    );
    let (code, _, stderr) = output(&mut hearth(path, &["loop", "tiny.toml", "--shard", "2/2"]));
    assert!(
        code == 2 && stderr.contains("shard 2 of 2: shards count from 0 to n - 1"),
        "{stderr}"
    );
}
