//! The map of the workspace in `docs/architecture.md`: which crate depends on which, which crate may
//! use which library, and what happens in one place only.

use super::sources::{CRATES, code_of, root, rust_files, without_tests};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The packages of the workspace except the binary and the crate for tests, with their folders.
const LIBRARIES: [(&str, &str); 5] = [
    ("scenarios", "scenarios"),
    ("env-bridge", "env-bridge"),
    ("agent", "agent"),
    ("kernels", "agent/kernels"),
    ("trainer", "trainer"),
];

/// Every package folder, the binary's included.
const FOLDERS: [&str; 6] = [
    ".",
    "scenarios",
    "env-bridge",
    "agent",
    "agent/kernels",
    "trainer",
];

const NORMAL: [&str; 2] = ["dependencies", "build-dependencies"];
const ALL: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

fn toml_of(file: &str) -> toml::Table {
    toml::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap()
}

/// The packages that a manifest names under these tables, also for single targets. If a dependency
/// is renamed, its real name is returned.
fn dependencies(package: &str, tables: &[&str]) -> BTreeSet<String> {
    let manifest = toml_of(&format!("{package}/Cargo.toml"));
    let targets = manifest
        .get("target")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(toml::Table::values);
    targets
        .filter_map(toml::Value::as_table)
        .chain([&manifest])
        .flat_map(|owner| {
            tables
                .iter()
                .filter_map(|table| owner.get(*table)?.as_table())
        })
        .flatten()
        .map(|(key, value)| {
            let package = value.get("package").and_then(toml::Value::as_str);
            package.unwrap_or(key).replace('_', "-")
        })
        .collect()
}

/// The crates of the workspace among the dependencies of a package.
fn arrows(package: &str, tables: &[&str]) -> BTreeSet<String> {
    let crates: BTreeSet<String> = LIBRARIES
        .iter()
        .map(|(name, _)| (*name).to_string())
        .chain(["support".to_string()])
        .collect();
    dependencies(package, tables)
        .intersection(&crates)
        .cloned()
        .collect()
}

/// The package folders that depend on a package whose name starts with this text.
fn users(library: &str) -> BTreeSet<String> {
    FOLDERS
        .iter()
        .filter(|package| {
            dependencies(package, &ALL)
                .iter()
                .any(|name| name.starts_with(library))
        })
        .map(ToString::to_string)
        .collect()
}

/// The files of these folders whose text matches, comments excluded and strings included.
fn files_with(piece: &str, folders: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in folders {
        let files = rust_files(folder);
        assert!(!files.is_empty(), "{folder} has no sources");
        found.extend(
            files
                .into_iter()
                .filter(|(_, text)| {
                    text.lines()
                        .any(|line| line.split("//").next().unwrap_or("").contains(piece))
                })
                .map(|(path, _)| path),
        );
    }
    found
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(ToString::to_string).collect()
}

fn library_sources() -> Vec<String> {
    LIBRARIES
        .iter()
        .map(|(_, folder)| format!("{folder}/src"))
        .collect()
}

fn in_libraries(piece: &str) -> BTreeSet<String> {
    let folders = library_sources();
    files_with(
        piece,
        &folders.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

/// src -> trainer -> agent -> kernels -> scenarios <- env-bridge <- src. If a crate is needed only
/// by tests, the arrow is counted too.
#[test]
fn the_arrows_between_crates_are_those_of_the_map() {
    for (package, normal, for_tests) in [
        ("scenarios", &[][..], &[][..]),
        ("env-bridge", &["scenarios"], &[]),
        ("agent/kernels", &["scenarios"], &["support"]),
        ("agent", &["kernels", "scenarios"], &["support"]),
        ("trainer", &["agent", "kernels", "scenarios"], &["support"]),
        (
            ".",
            &["agent", "env-bridge", "scenarios", "trainer"],
            &["support"],
        ),
    ] {
        assert_eq!(arrows(package, &NORMAL), set(normal), "{package}");
        assert!(
            arrows(package, &["dev-dependencies"]).is_subset(&set(&[normal, for_tests].concat())),
            "{package}"
        );
    }
    assert!(arrows("tests/support", &ALL).is_subset(&set(&["agent", "scenarios"])));
}

/// The Python package of the native world is a workspace of its own, and embeds no Python.
#[test]
fn the_python_package_uses_the_native_world_only() {
    let package = "env-bridge/wheel";
    assert_eq!(
        arrows(package, &ALL),
        set(&["env-bridge", "scenarios"]),
        "{package}"
    );
    assert!(dependencies(package, &ALL).contains("pyo3"));
    let manifest = toml_of(&format!("{package}/Cargo.toml"));
    assert!(manifest.contains_key("workspace"));
    let world = &manifest["dependencies"]["env-bridge"];
    assert_eq!(
        world.get("features"),
        None,
        "the bridge to Python is a feature"
    );
}

#[test]
fn every_member_is_on_the_map() {
    let manifest = toml_of("Cargo.toml");
    let members: BTreeSet<String> = manifest["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member.as_str().unwrap().to_string())
        .collect();
    let mut known = set(&["tests/support"]);
    known.extend(LIBRARIES.iter().map(|(_, folder)| (*folder).to_string()));
    assert_eq!(members, known);
}

#[test]
fn tensors_and_python_are_used_only_in_their_crates() {
    assert_eq!(users("burn"), set(&["agent", "agent/kernels", "trainer"]));
    for (library, allowed) in [
        ("pyo3", &["env-bridge"][..]),
        ("tokenizers", &["agent", "trainer"]),
        ("safetensors", &["agent", "trainer"]),
        // A library has its own error type.
        ("anyhow", &["."]),
    ] {
        assert!(
            users(library).is_subset(&set(allowed)),
            "{library} is used by {:?}",
            users(library)
        );
    }
}

/// The default build contains nothing of a GPU. No build contains the kernel compiler whose build
/// script downloads LLVM.
#[test]
fn no_gpu_is_in_a_default_build() {
    for package in FOLDERS {
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
    let refused = [
        "cuda", "rocm", "metal", "vulkan", "webgpu", "wgpu", "autotune", "fusion", "default",
    ];
    assert!(
        !burn.iter().any(|feature| refused.contains(feature)),
        "{burn:?}"
    );
    assert_eq!(
        toml_of("agent/Cargo.toml")["dependencies"]["cubecl"]["optional"].as_bool(),
        Some(true)
    );
    let lock = toml_of("Cargo.lock");
    let locked: BTreeMap<&str, &toml::Value> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["name"].as_str().unwrap(), package))
        .collect();
    assert!(
        locked
            .get("cubecl-llvm")
            .is_some_and(|package| package.get("source").is_none()),
        "cubecl-llvm must be the stand-in"
    );
    assert!(!locked.contains_key("llvm-sys") && !locked.contains_key("tracel-llvm-bundler"));
}

/// Python is embedded only by worker processes. The main process never starts an interpreter.
#[test]
fn only_a_worker_process_runs_python() {
    let mut folders = library_sources();
    folders.push("src".into());
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    assert_eq!(
        files_with("pyo3", &folders),
        set(&["env-bridge/src/python/interpreter.rs"])
    );
    assert_eq!(
        files_with("Interpreter::start(", &folders),
        set(&["env-bridge/src/python/worker.rs"])
    );
}

/// Every command that plays calls `play_episodes`. Only the rollout loop steps environments and
/// queries policies. The DAgger policy queries its student.
#[test]
fn there_is_one_rollout_loop() {
    let libraries = ["agent/src", "trainer/src"];
    let all = ["agent/src", "trainer/src", "src"];
    assert_eq!(
        files_with(".step(", &libraries),
        set(&["agent/src/rollout/judge.rs", "agent/src/rollout/worker.rs"])
    );
    assert_eq!(
        files_with(".reset(", &libraries),
        set(&["agent/src/rollout/worker.rs"])
    );
    assert_eq!(
        files_with(".respond(", &all),
        set(&["agent/src/policy/dagger.rs", "agent/src/rollout/mod.rs"])
    );
    let callers: BTreeSet<String> = files_with("play_episodes(", &all)
        .into_iter()
        .map(|path| match path.starts_with("src/bench/") {
            true => "src/bench".to_string(),
            false => path,
        })
        .collect();
    assert_eq!(
        callers,
        set(&[
            "src/bench",
            "src/commands/play/play.rs",
            "trainer/src/measure/branch/play.rs",
            "trainer/src/measure/score.rs",
            "trainer/src/measure/verify.rs",
            "trainer/src/pipeline/rounds.rs",
        ])
    );
}

/// A loss takes tensors and returns a scalar tensor.
#[test]
fn a_loss_has_no_io_randomness_updates_or_configuration() {
    for piece in [
        "std::fs",
        "std::io",
        "std::env",
        "rand::",
        "print!",
        "println!",
        "::recipe",
        "::config",
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

/// If something decides a number, it is in the recipe, the seed or the flags.
#[test]
fn no_library_reads_the_environment() {
    assert_eq!(in_libraries("env::var"), set(&[]));
}

/// Sampled text is never tokenized again. Only the chat of an episode, and the words of a person or
/// the expert, are tokenized. The GGUF reader tests the tokenizers that it has made. A decoder of
/// hearth's own family has the token ids that precede the goal.
#[test]
fn texts_are_tokenized_in_one_place() {
    assert_eq!(
        files_with(".encode(", &["agent/src", "trainer/src", "src"]),
        set(&[
            "agent/src/model/gguf/tokenizer_json.rs",
            "agent/src/model/reading/config.rs",
            "agent/src/text/chat.rs",
            "agent/src/text/tokenizer/mod.rs",
        ])
    );
}

/// Results go to stdout through `ui::print`. A library never prints.
#[test]
fn only_the_binary_prints() {
    for piece in ["println!", "eprintln!", "dbg!", "print!("] {
        assert_eq!(in_libraries(piece), set(&[]), "{piece} in a library");
    }
    assert_eq!(
        files_with(" println!", &["src"]),
        set(&[]),
        "src prints results through ui::print"
    );
}

/// Inside a crate, a folder uses only the folders after it in these lists. If two folders are in one
/// entry, the test for circles still applies to their files. The errors may name any type.
#[test]
fn the_folders_of_a_crate_are_used_downwards() {
    let agent: [&[&str]; 6] = [
        &["rollout"],
        &["policy"],
        &["inference"],
        &["model"],
        &["text"],
        &["files"],
    ];
    let trainer: [&[&str]; 7] = [
        &["pipeline"],
        &["formats", "selftest"],
        &["measure"],
        &["learn"],
        &["store"],
        &["loss"],
        &["statistics"],
    ];
    let upward: Vec<String> = [("agent", &agent[..]), ("trainer", &trainer[..])]
        .iter()
        .flat_map(|(name, layers)| upward_uses(name, layers))
        .collect();
    assert!(upward.is_empty(), "{upward:#?}");
}

/// The uses of a folder by the folders after it.
fn upward_uses(name: &str, layers: &[&[&str]]) -> Vec<String> {
    let named = Regex::new(r"\bcrate::(\w+)").unwrap();
    let (_, folder) = CRATES.iter().find(|(known, _)| *known == name).unwrap();
    let mut upward = Vec::new();
    for (path, text) in rust_files(folder) {
        let inner = path.strip_prefix(folder).unwrap().trim_start_matches('/');
        let own = inner.split(['/', '.']).next().unwrap();
        if ["lib", "error"].contains(&own) {
            continue;
        }
        let Some(level) = level_of(layers, own) else {
            upward.push(format!("{path}: {own} is not on the map"));
            continue;
        };
        for found in named.captures_iter(without_tests(&code_of(&text))) {
            if level_of(layers, &found[1]).is_some_and(|used| used < level) {
                upward.push(format!("{path} uses {}", &found[1]));
            }
        }
    }
    upward.sort();
    upward.dedup();
    upward
}

fn level_of(layers: &[&[&str]], folder: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&folder))
}
