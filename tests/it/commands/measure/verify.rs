//! `hearth verify`: an unchanged log has no differences, and each change is found and named with its
//! place.

use crate::tiny;
use scenarios::household::{GenerateOptions, generate};
use scenarios::store::Store;
use scenarios::{Outcome, TextVersion, Trajectory, Turn};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn hearth(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// The exit code of `hearth verify`, and the JSON that it prints.
#[track_caller]
fn verified(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = hearth(folder, &[&["verify", "--json"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {said}"));
    (output.status.code().unwrap(), report)
}

/// `games`, and `log.jsonl`: episodes of the expert with noise.
fn played(more: &[&str]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    tiny::suite(&folder.path().join("games"));
    let collect = [
        "collect",
        "--policy",
        "expert",
        "--suite",
        "games",
        "--out",
        "log.jsonl",
        "--expert-noise",
        "0.3",
    ];
    let output = hearth(folder.path(), &[&collect, more].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let log = folder.path().join("log.jsonl");
    (folder, log)
}

fn write(path: &Path, episodes: &[Trajectory]) {
    let _ = fs::remove_file(path);
    let (mut store, _) = Store::open(path).unwrap();
    episodes
        .iter()
        .for_each(|episode| store.append(episode).unwrap());
}

#[test]
fn an_unchanged_log_has_no_differences() {
    for (more, outcome) in [
        (&["--repetitions", "2"][..], Outcome::Success),
        (
            &["--show-admissible", "--repetitions", "1"],
            Outcome::Success,
        ),
        (
            &["--translate-commands=2.1.1", "--repetitions", "1"],
            Outcome::Success,
        ),
        (&["--turns", "3", "--repetitions", "1"], Outcome::TurnLimit),
    ] {
        let (folder, log) = played(more);
        let episodes = Store::read(&log).unwrap();
        assert!(
            episodes.iter().any(|episode| episode.outcome == outcome),
            "{more:?}"
        );
        let (code, report) = verified(folder.path(), &["log.jsonl", "--suite", "games"]);
        assert_eq!(
            (code, &report["differences"], &report["shown"]),
            (0, &0.into(), &serde_json::json!([])),
            "{more:?}"
        );
        let turns: usize = episodes.iter().map(|episode| episode.turns.len()).sum();
        assert_eq!(
            (report["checked"].as_u64(), report["turns"].as_u64()),
            (Some(episodes.len() as u64), Some(turns as u64))
        );
    }
}

/// If a completion does not end, the policy gives up, or its context is full, the log records it.
/// The world cannot contradict such a record.
#[test]
fn malformed_turns_and_ended_episodes_have_no_differences() {
    let (folder, log) = played(&["--repetitions", "1"]);
    let mut episodes = Store::read(&log).unwrap();
    let malformed = |episode: &mut Trajectory, completion: &str| {
        let first = episode.turns[0].clone();
        episode.turns[0].observation = agent::text::chat::MALFORMED_ANSWER.into();
        episode.turns.insert(
            0,
            Turn {
                completion: completion.into(),
                action: None,
                ..first
            },
        );
    };
    malformed(&mut episodes[0], "go to the");
    malformed(&mut episodes[1], "look\nlook");
    for (index, outcome) in [(2, Outcome::Failure), (3, Outcome::ContextLimit)] {
        let episode = &mut episodes[index];
        episode.last_observation = episode.turns.pop().unwrap().observation;
        (episode.outcome, episode.reward) = (outcome, 0.0);
    }
    episodes[4].outcome = Outcome::EnvFailed;
    episodes[4].game_hash = "of no game here".into();
    write(&log, &episodes);
    let (code, report) = verified(folder.path(), &["log.jsonl", "--suite", "games"]);
    assert_eq!(
        (
            code,
            report["differences"].as_u64(),
            report["not_checkable"].as_u64()
        ),
        (0, Some(0), Some(1)),
        "{report}"
    );
}

/// One forgery: its name, the change to the third episode, the turn and the field that must be
/// named, and parts of the expected and the found text.
type Forgery<'a> = (
    &'a str,
    &'a dyn Fn(&mut Trajectory),
    fn(&Trajectory) -> (usize, &'static str),
    &'a str,
    &'a str,
);

#[test]
fn every_forgery_is_caught_and_named() {
    let (folder, log) = played(&["--repetitions", "1"]);
    let episodes = Store::read(&log).unwrap();
    assert!(
        episodes[2].outcome == Outcome::Success && episodes[2].turns.len() > 3,
        "{:?}",
        episodes[2].turns.len()
    );
    let forgeries: &[Forgery<'_>] = &[
        (
            "a changed observation",
            &|e| e.turns[1].observation.push('!'),
            |_| (2, "observation"),
            "!\"",
            "\"",
        ),
        (
            "another opening",
            &|e| e.turns[0].observation = "Hello.".into(),
            |_| (1, "observation"),
            "\"Hello.\"",
            "-= Welcome",
        ),
        (
            "another state",
            &|e| e.turns[2].state = Some(7),
            |_| (3, "state"),
            "0000000000000007",
            "",
        ),
        (
            "another last text",
            &|e| e.last_observation = "Bye.".into(),
            |e| (e.turns.len() + 1, "observation"),
            "\"Bye.\"",
            "",
        ),
        (
            "another action",
            &|e| e.turns[1].action = Some("look".into()),
            |_| (2, "action"),
            "\"look\"",
            "",
        ),
        (
            "a flipped outcome",
            &|e| (e.outcome, e.reward) = (Outcome::Failure, 0.0),
            |e| (e.turns.len() + 1, "outcome"),
            "failure after",
            "success after",
        ),
        (
            "a dropped turn",
            &|e| drop(e.turns.remove(1)),
            |_| (2, "observation"),
            "",
            "",
        ),
        (
            "a dropped last turn",
            &|e| drop(e.turns.pop()),
            |e| (e.turns.len() + 1, "outcome"),
            "success after",
            "it goes on",
        ),
        (
            "turns after the win",
            &|e| {
                let last = e.turns.last().unwrap().clone();
                let won = std::mem::replace(&mut e.last_observation, "Nothing happens.".into());
                e.turns.push(Turn {
                    observation: won,
                    state: None,
                    ..last
                });
            },
            |e| (e.turns.len(), "outcome"),
            "success after",
            "success after",
        ),
        (
            "a turn limit that was not reached",
            &|e| {
                e.last_observation = e.turns.pop().unwrap().observation;
                (e.outcome, e.reward) = (Outcome::TurnLimit, 0.0);
            },
            |e| (e.turns.len() + 1, "outcome"),
            "turn_limit after",
            "it goes on",
        ),
        (
            "a wrong reward",
            &|e| e.reward = 0.5,
            |e| (e.turns.len() + 1, "reward"),
            "0.5",
            "1, which is what success gives",
        ),
    ];
    for (what, forge, place, expected, found) in forgeries {
        let mut forged = episodes.clone();
        forge(&mut forged[2]);
        write(&log, &forged);
        let (code, report) = verified(folder.path(), &["log.jsonl", "--suite", "games"]);
        let (turn, field) = place(&forged[2]);
        let shown = &report["shown"][0];
        assert_eq!(
            (code, report["differences"].as_u64()),
            (1, Some(1)),
            "{what}: {report}"
        );
        assert_eq!(
            (shown["line"].as_u64(), shown["store"].as_str()),
            (Some(3), Some("log.jsonl")),
            "{what}"
        );
        assert_eq!(
            (shown["game"].as_str(), shown["turn"].as_u64()),
            (Some(&*forged[2].game), Some(turn as u64)),
            "{what}: {shown}"
        );
        assert_eq!(shown["field"].as_str(), Some(field), "{what}: {shown}");
        assert!(
            shown["expected"].as_str().unwrap().contains(expected),
            "{what}: {shown}"
        );
        assert!(
            shown["found"].as_str().unwrap().contains(found),
            "{what}: {shown}"
        );
    }
}

#[test]
fn a_difference_is_printed_with_its_place() {
    let (folder, log) = played(&["--repetitions", "1"]);
    let mut episodes = Store::read(&log).unwrap();
    episodes[1].reward = 0.0;
    write(&log, &episodes);
    let output = hearth(folder.path(), &["verify", "log.jsonl", "--suite", "games"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let first = format!(
        "log.jsonl:2: {}, repetition 0, turn {}: reward\n  expected 0\n  found    1, which is what success gives\n5 of 6 episodes are as logged, 1 are not; ",
        episodes[1].game,
        episodes[1].turns.len() + 1
    );
    assert!(
        text.starts_with(&first) && output.status.code() == Some(1),
        "{text}"
    );
}

#[test]
fn a_suite_without_the_games_is_wrong_use() {
    let (folder, log) = played(&["--repetitions", "1"]);
    let options = GenerateOptions {
        seed: 99,
        train: 6,
        valid_train: 0,
        seen: 0,
        unseen: 0,
        ..GenerateOptions::default()
    };
    generate(&folder.path().join("others"), &options).unwrap();
    let refused = |arguments: &[&str]| {
        let output = hearth(folder.path(), &[&["verify"], arguments].concat());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let game = &Store::read(&log).unwrap()[0].game;
    let said = refused(&["log.jsonl", "--suite", "others"]);
    let text = format!(
        "6 episodes of log.jsonl are of games that others does not contain; the first, line 1: {game}"
    );
    assert!(said.contains(&text), "{said}");
    assert!(
        refused(&["log.jsonl"])
            .contains("log.jsonl: the games of this store are not known\nhint: --suite")
    );
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(refused(&["empty"]).contains("empty: no store in this folder"));
}

/// All stores of a run are found, and the run's own games are used. The tokenizer of the model
/// decodes its token ids to the logged texts. If an id is changed, the difference is found.
#[test]
fn a_run_folder_is_verified_with_its_own_games() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tiny.toml"), tiny::RECIPE).unwrap();
    let output = hearth(folder.path(), &["loop", "tiny.toml", "--out", "run"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (code, report) = verified(folder.path(), &["run", "--policy", "run/1/sft"]);
    assert_eq!(
        (code, report["differences"].as_u64()),
        (0, Some(0)),
        "{report}"
    );
    let is_store = |path: &&PathBuf| {
        path.extension().is_some_and(|e| e == "jsonl") && !path.ends_with("suite.jsonl")
    };
    let stores = tiny::files(&folder.path().join("run"))
        .keys()
        .filter(is_store)
        .count();
    assert_eq!(report["stores"].as_u64(), Some(stores as u64), "{report}");

    let rollouts = folder.path().join("run/1/rollouts.jsonl");
    let mut episodes = Store::read(&rollouts).unwrap();
    episodes[1].turns[0].completion_tokens[0] ^= 1;
    write(&rollouts, &episodes);
    let (code, report) = verified(
        folder.path(),
        &[
            "run/1/rollouts.jsonl",
            "--suite",
            "run/games",
            "--policy",
            "run/1/sft",
        ],
    );
    assert_eq!(
        (
            code,
            &report["shown"][0]["field"],
            &report["shown"][0]["line"]
        ),
        (1, &"tokens".into(), &2.into())
    );
    assert_eq!(
        verified(
            folder.path(),
            &["run/1/rollouts.jsonl", "--suite", "run/games"]
        )
        .0,
        0,
        "without a policy, ids are not checked"
    );
}

/// A log of translated games is verified in the same translation. If the log loses that record, it
/// differs.
#[test]
fn a_translated_log_is_verified_in_the_translated_game() {
    let folder = tempfile::tempdir().unwrap();
    let options = GenerateOptions {
        text: TextVersion::V2_1_1,
        train: 6,
        valid_train: 0,
        seen: 0,
        unseen: 0,
        ..GenerateOptions::default()
    };
    generate(&folder.path().join("games"), &options).unwrap();
    let collect = [
        "collect",
        "--policy",
        "expert",
        "--suite",
        "games",
        "--out",
        "log.jsonl",
        "--repetitions",
        "1",
    ];
    assert!(
        hearth(
            folder.path(),
            &[&collect[..], &["--translate-commands=2.1.3"]].concat()
        )
        .status
        .success()
    );
    let log = folder.path().join("log.jsonl");
    let mut episodes = Store::read(&log).unwrap();
    assert!(
        episodes
            .iter()
            .flat_map(|e| &e.turns)
            .any(|turn| turn.completion.starts_with("move "))
    );
    assert_eq!(
        verified(folder.path(), &["log.jsonl", "--suite", "games"]).0,
        0
    );
    episodes
        .iter_mut()
        .for_each(|episode| episode.protocol.translated_to = None);
    write(&log, &episodes);
    assert_eq!(
        verified(folder.path(), &["log.jsonl", "--suite", "games"]).0,
        1
    );
}
