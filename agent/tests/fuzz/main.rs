//! Fuzzes the readers of files that may come from strangers: weights, GGUF, `config.json`,
//! tokenizers and chat templates.
//!
//! Each input is a damaged or hostile file. A reader must open it, or refuse it with an error that
//! names the file. It must not panic, hang, or take more memory than the size of the file explains.
//! If a model is opened, texts are encoded with it and it plays a few tokens.
//!
//! Each reader gets a fixed number of inputs ([`FuzzReader::inputs`]), about two seconds in a debug
//! build. Input n follows from the seed and n alone. Environment variables:
//!
//! - `HEARTH_FUZZ_INPUTS=100000`: number of inputs for each reader. In a release build, an input may
//!   then take 2 s instead of 20 s.
//! - `HEARTH_FUZZ_SEED=2`: other inputs (default 1).
//! - `HEARTH_FUZZ_FROM=553`: number of the first input (default 0).
//!
//! If an input fails, its files are saved in `target/fuzz/READER-SEED-NUMBER/`. Each failure that was
//! found and fixed has a test in `found_tokenizers` or `found_files`.
//!
//! This is a test binary of its own because its global allocator counts memory.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod dictionary;
mod found_files;
mod found_tokenizers;
mod inputs;
mod memory;
mod mutate;
mod readers;
mod refusals;
mod seeds;
mod trial;

use inputs::{FuzzInputs, InputFolder};
use mutate::Mutator;
use readers::{AfterPlay, FuzzReader};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A run stops after so many kinds of failures.
const MOST_FAILURES: usize = 12;

#[test]
fn damaged_safetensors_are_refused() {
    fuzz(FuzzReader::Safetensors);
}

#[test]
fn damaged_ggufs_are_refused() {
    fuzz(FuzzReader::Gguf);
}

#[test]
fn damaged_configs_are_refused() {
    fuzz(FuzzReader::Config);
}

#[test]
fn damaged_tokenizers_and_templates_are_refused() {
    fuzz(FuzzReader::Tokenizer);
}

fn fuzz(reader: FuzzReader) {
    let _alone = trial::alone();
    let given = setting("HEARTH_FUZZ_INPUTS");
    let count = given.unwrap_or(reader.inputs());
    let seed = setting("HEARTH_FUZZ_SEED").unwrap_or(1);
    let first = setting("HEARTH_FUZZ_FROM").unwrap_or(0);
    let is_fast = given.is_some() && !cfg!(debug_assertions);
    let patience = Duration::from_secs(if is_fast { 2 } else { 20 });
    trial::watch(patience);
    let inputs = FuzzInputs::new(reader);
    let mut folder = InputFolder::new();
    eprintln!(
        "{reader:?}: the current input is in {}",
        folder.path().display()
    );
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    let mut tried = 0;
    let mut accepted = 0;
    for number in first..first.saturating_add(count) {
        if failures.len() == MOST_FAILURES {
            break;
        }
        tried += 1;
        folder.put(inputs.damaged(&mut Mutator::new(seed, number)));
        let path = folder.path().to_path_buf();
        let after = if number.is_multiple_of(8) {
            AfterPlay::WriteAndReadAgain
        } else {
            AfterPlay::Nothing
        };
        match trial::attempt(folder.bytes(), patience, move || reader.read(&path, after)) {
            Ok(is_accepted) => accepted += u64::from(is_accepted),
            Err(failure) if failures.contains_key(&failure.kind) => {}
            Err(failure) => {
                let kept = saved(&folder, &format!("{reader:?}-{seed}-{number}"));
                let report = format!("{}: {}", kept.display(), failure.details);
                failures.insert(failure.kind, report);
            }
        }
    }
    println!("{reader:?}: {tried} inputs, {accepted} accepted");
    let list: Vec<String> = failures.into_values().collect();
    assert!(
        list.is_empty(),
        "seed {seed}, {} kinds of failures:\n\n{}\n",
        list.len(),
        list.join("\n\n")
    );
    assert!(accepted > 0, "no input was accepted, so little was tested");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Copies the files of an input into the target folder.
fn saved(input: &InputFolder, name: &str) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("fuzz")
        .join(name);
    std::fs::create_dir_all(&kept).unwrap();
    for (name, bytes) in input.files() {
        std::fs::write(kept.join(name), bytes).unwrap();
    }
    kept
}
