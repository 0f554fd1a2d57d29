//! The map of the workspace, kept true: which crate knows which, who may use which library, and what happens in one
//! place only.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 4] = ["scenarios", "env-bridge", "agent", "trainer"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn toml_of(file: &str) -> toml::Table {
    toml::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap()
}

/// The packages that a manifest names under any of these tables, those of targets and renamed ones included.
fn dependencies(package: &str, tables: &[&str]) -> BTreeSet<String> {
    let manifest = toml_of(&format!("{package}/Cargo.toml"));
    let targets = manifest
        .get("target")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(toml::Table::values);
    let owners = targets.filter_map(toml::Value::as_table).chain([&manifest]);
    let lists = owners.flat_map(|owner| {
        tables
            .iter()
            .filter_map(|table| owner.get(*table)?.as_table())
    });
    let name = |(key, value): (&String, &toml::Value)| {
        value
            .get("package")
            .and_then(toml::Value::as_str)
            .unwrap_or(key)
            .replace('_', "-")
    };
    lists.flatten().map(name).collect()
}

const ALL: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Sources of a folder without their comments, each with its path below the root.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code: Vec<&str> = text
                    .lines()
                    .map(|line| line.split("//").next().unwrap_or(""))
                    .collect();
                found.push((path.strip_prefix(root()).unwrap().into(), code.join("\n")));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} holds no sources");
    found
}

/// The files of these folders in which a piece of code occurs.
fn files_with(piece: &str, folders: &[&str]) -> BTreeSet<String> {
    let all = folders.iter().flat_map(|folder| sources(folder));
    all.filter(|(_, code)| code.contains(piece))
        .map(|(path, _)| path.to_string_lossy().replace('\\', "/"))
        .collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(ToString::to_string).collect()
}

/// src ──► trainer ──► agent ──► scenarios ◄── env-bridge ◄── src, tests included.
#[test]
fn the_arrows_between_crates_are_those_of_the_map() {
    let crates = set(&CRATES);
    let arrows = |package: &str| {
        dependencies(package, &ALL)
            .intersection(&crates)
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(arrows("scenarios"), set(&[]));
    assert_eq!(arrows("env-bridge"), set(&["scenarios"]));
    assert_eq!(arrows("agent"), set(&["scenarios"]));
    assert_eq!(arrows("trainer"), set(&["agent", "scenarios"]));
    assert_eq!(arrows("."), crates);
}

#[test]
fn every_member_is_on_the_map() {
    let manifest = toml_of("Cargo.toml");
    let members: BTreeSet<String> = manifest["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_str().unwrap().to_string())
        .collect();
    assert_eq!(members, set(&CRATES));
}

#[test]
fn tensors_and_python_stay_in_their_rooms() {
    let users = |library: &str| -> BTreeSet<String> {
        let uses = |package: &&&str| {
            dependencies(package, &ALL)
                .iter()
                .any(|name| name.starts_with(library))
        };
        [".", "scenarios", "env-bridge", "agent", "trainer"]
            .iter()
            .filter(uses)
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(users("burn"), set(&["agent", "trainer"]));
    assert!(
        users("pyo3").is_subset(&set(&["env-bridge"])),
        "pyo3 is used by {:?}",
        users("pyo3")
    );
    for library in ["tokenizers", "safetensors"] {
        assert!(
            users(library).is_subset(&set(&["agent", "trainer"])),
            "{library} is used by {:?}",
            users(library)
        );
    }
    assert!(
        users("anyhow").is_subset(&set(&["."])),
        "a library has errors of its own, not anyhow"
    );
}

/// The default build has nothing of CUDA, and no build has the kernel compiler whose build script downloads LLVM.
#[test]
fn cuda_is_there_only_when_asked_for() {
    for package in [".", "scenarios", "env-bridge", "agent", "trainer"] {
        let manifest = toml_of(&format!("{package}/Cargo.toml"));
        let default = manifest
            .get("features")
            .and_then(|features| features.get("default"));
        assert_eq!(default, None, "{package} has default features");
    }
    let workspace = toml_of("Cargo.toml");
    let burn: Vec<&str> = workspace["workspace"]["dependencies"]["burn"]["features"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    assert!(
        !burn
            .iter()
            .any(|feature| ["cuda", "autotune", "fusion", "default"].contains(feature)),
        "{burn:?}"
    );
    assert_eq!(
        toml_of("agent/Cargo.toml")["dependencies"]["cubecl"]["optional"].as_bool(),
        Some(true)
    );
    let lock = toml_of("Cargo.lock");
    let locked = lock["package"].as_array().unwrap();
    let of = |name: &str| {
        locked
            .iter()
            .find(|package| package["name"].as_str() == Some(name))
    };
    assert!(
        of("cubecl-llvm").is_some_and(|package| package.get("source").is_none()),
        "cubecl-llvm is the stand-in"
    );
    assert!(of("llvm-sys").is_none() && of("tracel-llvm-bundler").is_none());
}

/// Python is embedded by worker processes alone: hearth's own process never starts an interpreter.
#[test]
fn only_a_worker_process_runs_python() {
    let folders = [
        "src",
        "scenarios/src",
        "env-bridge/src",
        "agent/src",
        "trainer/src",
    ];
    assert_eq!(
        files_with("pyo3", &folders),
        set(&["env-bridge/src/python/interpreter.rs"])
    );
    assert_eq!(
        files_with("Interpreter::start(", &folders),
        set(&["env-bridge/src/python/worker.rs"])
    );
}

/// Whoever plays calls `play_episodes`: there alone worlds are stepped and policies are asked.
#[test]
fn there_is_one_rollout_loop() {
    let minds = ["agent/src", "trainer/src"];
    assert_eq!(files_with(".step(", &minds), set(&["agent/src/episode.rs"]));
    assert_eq!(
        files_with(".reset(", &minds),
        set(&["agent/src/episode.rs"])
    );
    // The second is a policy that asks another one.
    let asks = set(&["agent/src/episode.rs", "agent/src/dagger.rs"]);
    assert_eq!(
        files_with(".respond(", &["agent/src", "trainer/src", "src"]),
        asks
    );
    let callers = files_with("play_episodes(", &["agent/src", "trainer/src", "src"]);
    assert_eq!(
        callers,
        set(&[
            "src/bench/mind.rs",
            "src/play.rs",
            "trainer/src/evaluate.rs",
            "trainer/src/process.rs",
            "trainer/src/verify.rs"
        ])
    );
}

/// Tensors in, a scalar tensor out.
#[test]
fn a_loss_neither_reads_nor_writes_nor_draws_nor_updates() {
    for piece in [
        "std::fs",
        "std::io",
        "std::env",
        "rand::",
        "print!",
        "println!",
        "::recipe",
        "::optimizer",
        "Instant",
    ] {
        assert_eq!(
            files_with(piece, &["trainer/src/loss"]),
            set(&[]),
            "{piece} in a loss"
        );
    }
}

/// What decides a number stands in the recipe, the seed or the flags, never in the environment.
#[test]
fn no_library_reads_the_environment() {
    let folders = CRATES.map(|name| format!("{name}/src"));
    let found = files_with("env::var", &folders.each_ref().map(String::as_str));
    assert_eq!(found, set(&[]));
}

/// Text that was sampled is never tokenized again: only the chat of an episode and a person's or an expert's words are.
#[test]
fn texts_are_tokenized_in_one_place() {
    assert_eq!(
        files_with(".encode(", &["agent/src", "trainer/src", "src"]),
        // The last tests the tokenizers that it has made.
        set(&[
            "agent/src/chat.rs",
            "agent/src/tokenizer.rs",
            "agent/src/gguf/vocabulary.rs"
        ])
    );
}

/// Results go to stdout through one door, and a library never prints.
#[test]
fn only_the_hand_prints() {
    let folders = CRATES.map(|name| format!("{name}/src"));
    for piece in ["println!", "eprintln!", "dbg!", "print!("] {
        assert_eq!(
            files_with(piece, &folders.each_ref().map(String::as_str)),
            set(&[]),
            "{piece} in a library"
        );
    }
    assert_eq!(
        files_with(" println!", &["src"]),
        set(&[]),
        "src prints results through ui::print"
    );
}
