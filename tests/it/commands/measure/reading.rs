//! `hearth reading`: its table and file, and its minimal pairs against the native world.

use crate::binary::{folder, has_keys, hearth_line, with_games};
use crate::tiny;
use env_bridge::NativeWorld;
use scenarios::household::{GenerateOptions, Size, generate};
use scenarios::{Split, Task, TextVersion, World};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use trainer::measure::reading::pairs::MinimalPair;
use trainer::pipeline::rounds::expert_episodes;

/// Returns the texts of a game after each of these commands.
fn texts<'a>(task: &Task, commands: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut game = NativeWorld::new().open(task).unwrap();
    let mut texts = vec![game.reset().unwrap().text];
    for command in commands {
        texts.push(game.step(command).unwrap().text);
    }
    texts
}

/// Returns the problem with all objects of a type in this receptacle.
fn moved(problem: &str, kind: &str, receptacle: &str) -> String {
    let is_of_kind = |object: &str| problem.contains(&format!("(objectType {object} {kind}type)"));
    problem
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.trim().trim_matches(['(', ')']).split(' ').collect();
            match words.as_slice() {
                ["inReceptacle", object, _] if is_of_kind(object) => {
                    format!("(inReceptacle {object} {receptacle})\n")
                }
                _ => format!("{line}\n"),
            }
        })
        .collect()
}

/// The receptacles of a problem.
fn receptacles(problem: &str) -> Vec<&str> {
    problem
        .lines()
        .filter_map(|line| line.trim().strip_suffix(" - receptacle"))
        .collect()
}

/// The edited observation of a pair is exactly what the native world writes if the objects of the
/// task's type are in a receptacle that the history does not look into. Both text versions are
/// tested.
#[test]
fn the_list_without_the_object_is_what_the_world_writes() {
    for text in [TextVersion::V2_1_1, TextVersion::V2_1_3] {
        let folder = folder();
        let options = GenerateOptions {
            seed: 8,
            size: Size::Full,
            train: 0,
            valid_train: 8,
            seen: 0,
            unseen: 0,
            text,
        };
        let suite = generate(&folder.path().join("games"), &options).unwrap();
        let tasks = suite.split(Split::ValidTrain);
        let episodes = expert_episodes(&NativeWorld::new(), &tasks, 1);
        assert_eq!(episodes.len(), tasks.len());
        let mut compared = 0;
        for (task, episode) in tasks.iter().zip(&episodes) {
            if let Some(pair) = MinimalPair::of(episode) {
                assert_pair(task, pair, folder.path());
                compared += 1;
            }
        }
        assert!(compared >= 3, "{compared} pairs of text {text}");
    }
}

/// Moves the objects into one receptacle after another, until two are elsewhere. If the history stays the same, the last text is that
/// with or that without the objects.
#[track_caller]
fn assert_pair(task: &Task, pair: MinimalPair<'_>, folder: &Path) {
    let game: Value = serde_json::from_slice(&fs::read(&task.path).unwrap()).unwrap();
    let problem = game["pddl_problem"].as_str().unwrap();
    let kind = scenarios::household::goal_object(&pair.history()[0].observation).unwrap();
    let commands = || pair.history().iter().map(|turn| turn.completion.as_str());
    let with = pair.there().observation.as_str();
    let without = pair.absent_observation().unwrap();
    let history: Vec<&str> = pair
        .history()
        .iter()
        .map(|turn| turn.observation.as_str())
        .collect();
    let mut elsewhere = 0;
    for receptacle in receptacles(problem) {
        let mut changed = game.clone();
        changed["pddl_problem"] = json!(moved(problem, &kind, receptacle));
        let changed_task = Task {
            path: folder.join("changed.tw-pddl"),
            ..task.clone()
        };
        fs::write(&changed_task.path, changed.to_string()).unwrap();
        let texts = texts(&changed_task, commands());
        let (last, before) = texts.split_last().unwrap();
        if before != history {
            continue; // the history has looked into this receptacle
        }
        let kind_is_listed = last.contains(&format!("a {kind} "));
        if !kind_is_listed {
            assert_eq!(
                *last, without,
                "{receptacle} instead of the place of {with}"
            );
            elsewhere += 1;
        }
        if elsewhere == 2 {
            return;
        }
    }
    assert!(elsewhere > 0, "{}: no other place for {kind}", task.id);
}

/// A model of three updates, in `RUN/sft`.
fn with_model() -> tempfile::TempDir {
    let (folder, _) = with_games();
    let at = |line: &str| hearth_line(folder.path(), line).done();
    at("collect --policy expert --suite games --repetitions 1 --out demos.jsonl");
    fs::write(folder.path().join("tiny.toml"), tiny::RECIPE).unwrap();
    fs::write(folder.path().join("sft.toml"), sft("")).unwrap();
    at("train sft.toml --data demos.jsonl --model tiny.toml --out sft");
    folder
}

/// A training job with one more key.
fn sft(key: &str) -> String {
    format!(
        "name = \"sft\"\nfrom = \"fresh\"\ndata = [\"demonstrations\"]\n{key}\n\
         optimizer = {{ batch = 2, updates = 3, learning_rate = 2e-3 }}\n\
         algorithm = {{ kind = \"sft\", targets = \"transcript\" }}\n"
    )
}

#[test]
fn the_measures_are_a_table_a_file_and_one_json_object() {
    let folder = with_model();
    let run = |line: &str| hearth_line(folder.path(), line);
    let arguments = "reading --policy sft --suite games --split train";
    let table = run(arguments).done();
    assert_eq!(table.lines().count(), 8, "{table}");
    let measured = run(&format!("{arguments} --json --out reading.csv")).json();
    has_keys(
        &measured,
        &[
            "policy_hash",
            "suite",
            "split",
            "seed",
            "games",
            "left_out",
            "rows",
        ],
    );
    let rows = measured["rows"].as_array().unwrap();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["measure"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "there",
            "absent",
            "pairs",
            "exact",
            "induction",
            "induction_accuracy",
            "induction_chance"
        ]
    );
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
    for row in rows {
        let value = number(row, "value");
        assert!(
            0.0 <= number(row, "low")
                && number(row, "low") <= value
                && value <= number(row, "high")
                && number(row, "high") <= 1.0,
            "{row}"
        );
    }
    let left_out = measured["left_out"].as_u64().unwrap();
    assert_eq!(rows[0]["n"].as_u64(), Some(6 - left_out));
    let file = fs::read_to_string(folder.path().join("reading.csv")).unwrap();
    assert_eq!(file.lines().count(), 8, "{file}");
    assert!(file.starts_with("policy,policy_hash,suite,split,measure,value,low,high,n\nsft,"));
    run("reading --policy expert --suite games").refused_with("must be a model folder");
    run("reading --policy sft --suite games").refused_with("no games in valid_train");
}

/// The columns of `hearth train` are filled after the last update. The flag and the key need each
/// other.
#[test]
fn a_training_job_logs_its_reading() {
    let folder = with_model();
    let run = |line: &str| hearth_line(folder.path(), line);
    fs::write(folder.path().join("read.toml"), sft("reading_every = 2")).unwrap();
    let train = "train read.toml --data demos.jsonl --model tiny.toml --out read";
    run(train).refused_with("--reading-suite GAMES is missing: the job has reading_every = 2");
    run("train sft.toml --data demos.jsonl --model tiny.toml --out other --reading-suite games")
        .refused_with("--reading-suite: the job does not set reading_every");
    run(&format!("{train} --reading-suite games")).done();
    let file = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_eq!(
        file("read/model.safetensors"),
        file("sft/model.safetensors"),
        "the test does not change the model"
    );
    let measured = run("reading --policy read --suite games --split train --json").json();
    let text = fs::read_to_string(folder.path().join("read/metrics.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let column = rows[0]
        .iter()
        .position(|name| *name == "reading/there")
        .unwrap();
    let logged: Vec<&str> = rows[1..].iter().map(|row| row[column]).collect();
    assert!(logged[0].is_empty() && !logged[1].is_empty());
    let last: f64 = logged[2].parse().unwrap();
    assert!((last - measured["rows"][0]["value"].as_f64().unwrap()).abs() < 1e-12);
}
