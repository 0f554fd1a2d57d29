//! Wrong use: the message, the hint and the exit code.

use crate::binary::{expert_plays, folder, hearth, with_games};
use crate::tiny;
use std::fs;

#[test]
fn a_missing_device_is_refused_at_once() {
    let folder = folder();
    let quickstart = ["quickstart", "--quick", "--out", "run", "--device"];
    let train = [
        "train",
        "job.toml",
        "--data",
        "data.jsonl",
        "--out",
        "run",
        "--device",
    ];
    let play = ["play", "--policy", ".", "--device"];
    let mind = ["bench", "inference", "--episodes", "0", "--device"];
    for command in [&quickstart[..], &train, &play, &mind] {
        let ran = |device: &str| hearth(folder.path(), &[command, &[device]].concat());
        let said = ran("cuda:99");
        assert_eq!((said.code, said.stdout.as_str()), (2, ""));
        if cfg!(feature = "cuda") {
            assert!(
                said.stderr.starts_with("error: device cuda:99: "),
                "{}",
                said.stderr
            );
        } else {
            let hint = "hint: cargo build --release --features cuda\n";
            assert_eq!(
                said.stderr,
                format!("error: device cuda:99: this hearth is built without cuda\n{hint}")
            );
        }
        let said = ran("gpu");
        assert!(
            said.code == 2
                && said
                    .stderr
                    .contains("a device is cpu, auto, cuda, rocm, metal, vulkan or webgpu"),
            "{}",
            said.stderr
        );
    }
    assert!(!folder.path().join("run").exists());
}

#[test]
fn only_a_model_has_a_device() {
    let folder = folder();
    for (policy, name) in [("expert", "expert"), ("person", "a person")] {
        let said = hearth(
            folder.path(),
            &["play", "--policy", policy, "--device", "cuda:1"],
        );
        assert_eq!((said.code, said.stdout.as_str()), (2, ""));
        assert_eq!(
            said.stderr,
            format!("error: --device cuda:1: only a model folder can run there, not {name}\n")
        );
    }
}

#[test]
fn wrong_use_ends_with_2_and_a_hint() {
    let (folder, _) = with_games();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    let eval = |more: &[&str]| run(&[&["eval", "--out", "out", "--policy"], more].concat());
    let nowhere = "No such file or directory (os error 2)";

    eval(&["expert", "--suite", "nowhere"]).refused(
        2,
        &format!(
            "error: cannot read nowhere: {nowhere}\nhint: name a suite folder or a manifest file\n"
        ),
    );
    fs::create_dir(folder.path().join("empty")).unwrap();
    eval(&["expert", "--suite", "empty"]).refused(
        2,
        "error: no suite in empty\nhint: expected suite.jsonl, or folders named train, valid_train, valid_seen or valid_unseen, \
         with TASK/TRIAL/game.tw-pddl or .z8 files in them\n",
    );
    eval(&["nowhere", "--suite", "games"]).refused(
        2,
        "error: --policy nowhere: neither `expert` nor a model folder nor a GGUF file nor openai:URL#MODEL\n\
         hint: a model folder contains config.json, tokenizer.json and model.safetensors\n",
    );
    eval(&["expert", "--suite", "games", "--best-of", "3"]).refused(
        2,
        "error: --best-of: the expert writes one completion; only K = 1 makes sense\n",
    );
    eval(&["expert", "--suite", "games", "--best-of", "0"])
        .refused(2, "error: --best-of: K starts at 1\n");
    eval(&["expert", "--suite", "games", "--split", "valid_train"])
        .refused(2, "error: games has no games in valid_train\nhint: it has games in train, valid_seen, valid_unseen; choose one with --split\n");
    let unknown = eval(&["expert", "--suite", "games", "--split", "test"]);
    assert_eq!(unknown.code, 2);
    assert!(
        unknown
            .stderr
            .contains("known: train, valid_train, valid_seen, valid_unseen"),
        "{}",
        unknown.stderr
    );
    run(&[
        "play", "--policy", "expert", "--suite", "games", "--game", "9",
    ])
    .refused(
        2,
        "error: --game 9: household-small-seed5 has 2 games in valid_unseen\n",
    );
    run(&expert_plays("store.jsonl", &["--split", "valid_train"]))
    .refused(2, "error: games has no games in valid_train\nhint: it has games in train, valid_seen, valid_unseen; choose one with --split\n");
    run(&[
        "train",
        "nowhere.toml",
        "--data",
        "nowhere.jsonl",
        "--out",
        "out",
    ])
    .refused(2, &format!("error: cannot use nowhere.toml: {nowhere}\n"));
    fs::write(folder.path().join("damaged.jsonl"), "{}\n{}\n").unwrap();
    run(&expert_plays("damaged.jsonl", &[])).refused(
        2,
        "collect\nerror: damaged.jsonl:1: missing field `format` at line 1 column 2\n\
         hint: the file was changed or damaged; remove the line to keep the others\n",
    );
    run(&["loop", "nowhere.toml"])
        .refused(2, &format!("error: cannot use nowhere.toml: {nowhere}\n"));
    assert_eq!(run(&["evaluate"]).code, 2);
    assert!(!folder.path().join("out").exists(), "nothing was begun");
}

/// An error of a recipe names the file, the line, the key, and what is expected there.
#[test]
fn a_bad_recipe_is_refused_with_its_file_and_key() {
    let folder = folder();
    let told = |from: &str, to: &str| {
        fs::write(
            folder.path().join("bad.toml"),
            tiny::RECIPE.replacen(from, to, 1),
        )
        .unwrap();
        let ran = hearth(folder.path(), &["loop", "bad.toml"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
        assert!(
            ran.stderr.starts_with("error: bad.toml: "),
            "{}",
            ran.stderr
        );
        ran.stderr
    };
    let unknown = told("iterations = 2", "iterations = 2\nbudget = 3");
    assert!(
        unknown.contains("line 5") && unknown.contains("unknown field `budget`"),
        "{unknown}"
    );
    let misplaced = told(
        "targets = \"transcript\"",
        "targets = \"transcript\", beta = 0.1",
    );
    assert!(misplaced.contains("unknown field `beta`"), "{misplaced}");
    assert!(told("seed = 3\n", "").contains("missing field `seed`"));
    let job = told("policy = \"sft\"", "policy = \"gpt\"");
    assert_eq!(
        job,
        "error: bad.toml: collect: there is no job \"gpt\"; jobs are [\"sft\", \"rejection-sampling\", \"oreo\"]\n"
    );
    assert!(!folder.path().join("runs").exists(), "nothing was begun");
}

/// A full disk is not a closed pipe.
#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_an_error() {
    use std::process::{Command, Stdio};
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(["doctor", "--json"])
        .stdout(Stdio::from(full))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write to stdout"), "{text}");
}
