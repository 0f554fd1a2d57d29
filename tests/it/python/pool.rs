//! The pool of Python workers: faults, recycling, and what a killed run leaves behind.

use agent::policy::ScriptedPolicy;
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use env_bridge::python::{PythonKind, PythonOptions, PythonWorld};
use scenarios::{Outcome, Protocol, Split, Task, Trajectory, World};
use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WORLDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/worlds.py");

fn options(class: &str, workers: usize, temporary: &Path) -> PythonOptions {
    let kind = PythonKind::Users(format!("{WORLDS}:{class}"));
    PythonOptions {
        workers,
        temporary: temporary.into(),
        ..PythonOptions::new(env!("CARGO_BIN_EXE_hearth").into(), kind)
    }
}

/// A game file of the corridor, with or without a fault.
fn game(folder: &Path, number: usize, content: &str) -> Task {
    let path = folder.join(format!("{number}.game"));
    fs::write(&path, content).unwrap();
    let hash = scenarios::suite::hex_sha256(format!("{number}{content}").as_bytes());
    Task {
        id: number.to_string(),
        split: Split::Train,
        task_type: None,
        path,
        hash,
    }
}

fn play(world: &PythonWorld, tasks: &[Task], commands: &[&str]) -> Vec<Trajectory> {
    let jobs: Vec<EpisodeJob<'_>> = tasks
        .iter()
        .map(|task| EpisodeJob {
            task,
            repetition: 0,
            seed: 1,
            forced: &[],
        })
        .collect();
    let script = ScriptedPolicy(commands.iter().map(ToString::to_string).collect());
    let mut played = Vec::new();
    let Ok(()) = play_episodes(
        &script,
        world,
        &jobs,
        &Protocol::default(),
        Concurrency::default(),
        |trajectory| {
            played.push(trajectory);
            Ok::<(), Infallible>(())
        },
    );
    played
}

/// The processes with this folder in their command line, or as the folder for temporary files.
fn processes_of(folder: &Path) -> Vec<String> {
    let of = |pid: &str| -> Option<String> {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).ok();
        let (environment, line) = (read("environ")?, read("cmdline")?);
        let wanted = folder.to_str().unwrap().as_bytes();
        let named = environment
            .windows(wanted.len())
            .any(|window| window == wanted);
        (named && !line.is_empty()).then(|| {
            format!(
                "{pid} {}",
                String::from_utf8_lossy(&line).replace('\0', " ")
            )
        })
    };
    let all = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    all.filter_map(|name| of(name.to_str()?)).collect()
}

/// The files in a folder, after at most ten seconds of waiting for it to become empty.
fn left_in(folder: &Path) -> Vec<PathBuf> {
    let list = || {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    wait_until(|| list().is_empty());
    list()
}

/// Returns whether this process ignores SIGINT (2). If it does, so do its children. Shells do this
/// for background jobs.
fn ignores_interrupts() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 << (2 - 1) != 0
}

fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    holds()
}

/// Each fault, the number of the 200 games that have it, and a part of the logged reason.
const FAULTS: [(&str, usize, &str); 14] = [
    ("raises", 10, "RuntimeError: the corridor caves in"),
    ("exits", 10, "SystemExit: as the planner's translator does"),
    ("exits_hard", 10, "exit status: 3"),
    ("kills", 10, "signal: 9"),
    ("crashes", 10, "Segmentation fault"),
    ("hangs", 4, "no answer within"),
    ("hangs_busy", 3, "no answer within"),
    ("stops", 3, "no answer within"),
    ("leaves_children", 5, "exit status: 0"),
    ("corrupts", 10, "wrote something else than an answer"),
    ("answers_twice", 10, "wrote something else than an answer"),
    ("closes_pipes", 5, "the worker process ended by itself"),
    ("hoards", 3, "MiB of memory and may have 300"),
    ("at the reset", 7, "RuntimeError: the corridor caves in"),
];

/// 200 games, half of them faulty, in a fixed order that looks random.
fn faulty_games(folder: &Path) -> (Vec<Task>, BTreeMap<String, &'static str>) {
    let mut contents: Vec<(String, Option<&'static str>)> = Vec::new();
    for (fault, count, expected) in FAULTS {
        for index in 0..count {
            let at = 1 + index % 3;
            contents.push(match fault {
                "at the reset" => (
                    r#"{"length": 3, "fault": "raises", "at": "reset"}"#.into(),
                    Some(expected),
                ),
                _ => (
                    format!(r#"{{"length": 3, "fault": "{fault}", "at": {at}}}"#),
                    Some(expected),
                ),
            });
        }
    }
    contents.resize_with(200, || (r#"{"length": 3}"#.into(), None));
    contents.sort_by_key(|(content, _)| scenarios::suite::hex_sha256(content.as_bytes()));
    let order = (0..200).map(|index| index * 77 % 200);
    let chosen: Vec<_> = order.map(|index| contents[index].clone()).collect();
    let tasks: Vec<Task> = chosen
        .iter()
        .enumerate()
        .map(|(n, (content, _))| game(folder, n, content))
        .collect();
    let expected = chosen
        .iter()
        .enumerate()
        .filter_map(|(n, (_, expected))| Some((n.to_string(), (*expected)?)));
    let expected = expected.collect();
    (tasks, expected)
}

#[test]
fn every_fault_costs_its_own_episode_and_nothing_else() {
    let (games, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tasks, expected) = faulty_games(games.path());
    let mut options = options("Faulty", 4, temporary.path());
    options.step_limit = Duration::from_secs(4);
    options.memory_limit_mib = 300;
    options.recycle_after = 25;
    let world = PythonWorld::start(options).unwrap();
    let played = play(&world, &tasks, &["forward"; 3]);

    assert_eq!(played.len(), 200, "none is lost");
    let names: HashSet<&str> = played.iter().map(|t| t.game.as_str()).collect();
    assert_eq!(names.len(), 200, "none is doubled");
    for trajectory in &played {
        match expected.get(&trajectory.game) {
            None => assert_eq!(
                (trajectory.outcome, &trajectory.failure),
                (Outcome::Success, &None)
            ),
            Some(words) => {
                assert_eq!(trajectory.outcome, Outcome::EnvFailed, "{words}");
                let failure = trajectory.failure.as_ref().unwrap();
                assert!(failure.contains(words), "{words:?} is not in {failure}");
            }
        }
    }
    let counts = world.counts();
    let (hung, corrupt) = (10, 20);
    assert_eq!(
        (
            counts.failed(),
            counts.hung,
            counts.corrupt,
            counts.over_memory
        ),
        (100, hung, corrupt, 3)
    );
    assert_eq!(counts.raised, 27);
    let idle = world.idle();
    assert_eq!(idle.len(), 4, "the pool ends at full size: {counts:?}");
    assert_eq!(
        play(&world, &tasks[..1], &["forward"; 3]).len(),
        1,
        "and can be used again"
    );

    drop(world);
    assert_eq!(
        left_in(temporary.path()),
        Vec::<PathBuf>::new(),
        "no temporary file is left"
    );
    let left: Vec<String> = processes_of(temporary.path());
    assert_eq!(left, Vec::<String>::new(), "no process is left");
    let sleeping = Command::new("pgrep")
        .args(["-f", "^sleep 3600$"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&sleeping.stdout),
        "",
        "nor one that a worker had started"
    );
}

#[test]
fn a_failure_names_the_python_line() {
    let (games, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut options = options("Faulty", 1, temporary.path());
    options.step_limit = Duration::from_secs(2);
    let world = PythonWorld::start(options).unwrap();
    for (number, (fault, place)) in [("raises", "in raises"), ("hangs", "in hangs")]
        .into_iter()
        .enumerate()
    {
        let content = format!(r#"{{"length": 3, "fault": "{fault}", "at": 3}}"#);
        let played = play(
            &world,
            &[game(games.path(), number, &content)],
            &["forward"],
        );
        let failure = played[0].failure.as_ref().unwrap();
        assert!(
            failure.contains("worlds.py") && failure.contains(place),
            "{failure}"
        );
        assert!(
            failure.starts_with("the world failed at command \"forward\""),
            "{failure}"
        );
    }
}

#[test]
fn a_users_world_is_won_lost_and_lists_its_commands() {
    let (games, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = PythonWorld::start(options("Corridor", 2, temporary.path())).unwrap();
    let tasks = [game(games.path(), 0, r#"{"length": 2}"#)];
    let won = &play(&world, &tasks, &["forward", "wait", "forward"])[0];
    assert_eq!((won.outcome, won.turns.len()), (Outcome::Success, 3));
    assert_eq!(
        won.turns[0].observation,
        "You are in a corridor, 2 doors from the end."
    );
    assert_eq!(won.last_observation, "0 doors are left. \u{e9}\u{1F525}");
    let lost = &play(&world, &tasks, &["forward", "lose", "forward"])[0];
    assert_eq!(
        (lost.outcome, lost.turns.len(), lost.reward),
        (Outcome::Failure, 2, 0.0)
    );
    let mut environment = world.open(&tasks[0]).unwrap();
    environment.reset().unwrap();
    assert_eq!(
        environment.admissible_commands().unwrap(),
        ["forward", "lose"]
    );
}

/// Workers are replaced one after the other, the oldest first. An old worker may be playing at that
/// time, so the number of replacements depends on how fast each starts.
#[test]
fn workers_serve_many_games_and_are_recycled() {
    for (workers, replaced) in [(1, 4..=4), (2, 1..=4)] {
        let (games, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut options = options("Corridor", workers, temporary.path());
        options.recycle_after = 5;
        let world = PythonWorld::start(options).unwrap();
        let tasks: Vec<Task> = (0..24)
            .map(|number| game(games.path(), number, r#"{"length": 1}"#))
            .collect();
        assert!(
            play(&world, &tasks, &["forward"])
                .iter()
                .all(|t| t.is_won())
        );
        let counts = world.counts();
        assert!(
            replaced.contains(&counts.recycled),
            "24 games, one replaced every 5: {counts:?}"
        );
        assert_eq!(
            (counts.started, counts.failed()),
            (workers + counts.recycled, 0)
        );
    }
}

#[test]
fn a_world_that_cannot_be_made_gives_the_reason() {
    let temporary = tempfile::tempdir().unwrap();
    let said = |place: &str| {
        let mut options = options("", 1, temporary.path());
        options.world = PythonKind::Users(place.into());
        PythonWorld::start(options)
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let no_class = said(&format!("{WORLDS}:Absent"));
    assert!(no_class.contains("has no class Absent"), "{no_class}");
    let no_method = said(&format!("{WORLDS}:Misnamed"));
    assert!(
        no_method.contains("Misnamed") && no_method.contains("has no method close"),
        "{no_method}"
    );
    assert!(said("no_such_module:World").contains("ModuleNotFoundError"));
    assert!(said("/nowhere/world.py:World").contains("FileNotFoundError"));
}

#[test]
fn an_answer_of_another_form_is_explained() {
    let (games, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = PythonWorld::start(options("Nonsense", 1, temporary.path())).unwrap();
    let played = play(
        &world,
        &[game(games.path(), 0, r#"{"length": 1}"#)],
        &["forward"],
    );
    let failure = played[0].failure.as_ref().unwrap();
    assert!(
        failure.contains("Nonsense.step must return (observation,"),
        "{failure}"
    );
    assert!(
        failure.contains("returned {'observation': 'forward'}"),
        "{failure}"
    );
}

/// A suite of corridors for the command line.
fn corridor_suite(folder: &Path, games: usize, content: &str) -> PathBuf {
    let mut manifest = "{\"suite\": \"corridors\", \"format\": 1}\n".to_string();
    for number in 0..games {
        let name = format!("{number}.game");
        let content = format!("{content}{}", " ".repeat(number));
        fs::write(folder.join(&name), &content).unwrap();
        let hash = scenarios::suite::hex_sha256(content.as_bytes());
        manifest += &serde_json::json!({"id": number.to_string(), "split": "train", "task_type": null, "path": name, "hash": hash})
            .to_string();
        manifest.push('\n');
    }
    let path = folder.join("suite.jsonl");
    fs::write(&path, manifest).unwrap();
    path
}

/// If hearth ends in any way, its workers and their files are removed. The same command then
/// continues.
#[test]
fn a_killed_run_leaves_no_process_and_no_file_and_can_go_on() {
    for signal in ["INT", "TERM", "KILL"] {
        if signal == "INT" && ignores_interrupts() {
            eprintln!("skipped for INT: whoever started this test has interrupts ignored");
            continue;
        }
        let (games, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let suite = corridor_suite(
            games.path(),
            3,
            r#"{"length": 2, "fault": "hangs", "at": 2}"#,
        );
        let store = games.path().join("store.jsonl");
        let collect = |timeout: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
            command.args([
                "collect",
                "--policy",
                "expert",
                "--repetitions",
                "1",
                "--step-timeout",
                timeout,
            ]);
            command.args([
                "--world",
                &format!("python:{WORLDS}:Faulty"),
                "--processes",
                "2",
                "--suite",
            ]);
            command
                .arg(&suite)
                .arg("--out")
                .arg(&store)
                .env("TMPDIR", temporary.path());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut child = collect("600").spawn().unwrap();
        let worked = || {
            fs::read_dir(temporary.path())
                .unwrap()
                .filter_map(Result::ok)
                .any(|e| fs::read_dir(e.path()).is_ok_and(|mut files| files.next().is_some()))
        };
        assert!(wait_until(worked), "a worker has made a temporary file");
        assert!(
            processes_of(temporary.path()).len() >= 3,
            "hearth and two workers"
        );
        assert!(
            Command::new("kill")
                .args(["-s", signal, &child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        assert!(
            wait_until(|| child.try_wait().unwrap().is_some()),
            "SIG{signal} ends hearth"
        );
        assert!(
            wait_until(|| processes_of(temporary.path()).is_empty()),
            "{:?}",
            processes_of(temporary.path())
        );
        assert_eq!(
            left_in(temporary.path()),
            Vec::<PathBuf>::new(),
            "after SIG{signal}"
        );
        if signal == "KILL" {
            // All three episodes are lost, so the run itself failed.
            assert_eq!(collect("1").status().unwrap().code(), Some(1));
            let episodes = fs::read_to_string(&store).unwrap();
            assert_eq!(
                episodes.lines().count(),
                3,
                "every episode has an outcome: {episodes}"
            );
            assert!(episodes.lines().all(|line| line.contains("\"env_failed\"")));
        }
    }
}

/// If hearth and its workers were all killed at once, the next hearth removes their folder.
#[test]
fn files_of_the_dead_are_swept() {
    let temporary = tempfile::tempdir().unwrap();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let stale = temporary
        .path()
        .join(format!("hearth-worker-{}-0", gone.id()));
    let living = temporary
        .path()
        .join(format!("hearth-worker-{}-999", std::process::id()));
    let foreign = temporary.path().join("hearth-worker-of-mine");
    for folder in [&stale, &living, &foreign] {
        fs::create_dir(folder).unwrap();
    }
    let world = PythonWorld::start(options("Corridor", 1, temporary.path())).unwrap();
    assert!(!stale.exists() && living.exists() && foreign.exists());
    drop(world);
}
