//! Compaction keeps every byte of every line, the index tells the truth, and damage is found.

use super::compact::{CompactionCounts, PartSizes, PartWriter, compact_into};
use super::select::{Selection, iteration_of};
use super::verify::check;
use super::{CompactedStore, StoredRecords, is_compacted};
use crate::error::TrainerError;
use scenarios::store::Store;
use scenarios::{Outcome, Split, Trajectory};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Several frames of three records, and several parts.
const SMALL: PartSizes = PartSizes {
    records: 7,
    bytes: 1 << 20,
    frame: 1500,
};

fn record(index: usize) -> Trajectory {
    let outcome = ["success", "turn_limit", "env_failed"][index % 3];
    let policy = ["expert", "a1b2"][index % 2];
    let turn = json!({
        "observation": format!("You see {} é", "a lamp, ".repeat(index % 4)), "observation_tokens": [1, 2, index],
        "completion": "look", "completion_tokens": [3], "logprobs": [-0.5], "action": "look",
    });
    serde_json::from_value(json!({
        "format": 1, "game": format!("train/g{}", index % 5), "game_hash": format!("{:02}", index % 5),
        "split": if index % 5 == 4 { "valid_train" } else { "train" },
        "task_type": null, "repetition": index / 5, "seed": index,
        "policy": policy,
        "protocol": {
            "turn_limit": 3, "context_limit": 99, "completion_limit": 9, "temperature": 1.0, "best_of": 1,
            "admissible_shown": false, "history": "full", "malformed": "wasted_turn",
        },
        "turns": vec![turn; index % 3 + 1], "last_observation": "", "outcome": outcome, "seconds": 0.0,
    }))
    .unwrap()
}

/// Writes records into a store.
fn store(path: &Path, indices: impl IntoIterator<Item = usize>) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (mut store, _) = Store::open(path).unwrap();
    for index in indices {
        store.append(&record(index)).unwrap();
    }
    path.into()
}

fn compact(stores: &[PathBuf], out: &Path) -> CompactionCounts {
    let writer = PartWriter::new(out, 3, SMALL);
    compact_into(stores, &Selection::default(), writer).unwrap()
}

/// The selected lines of stores as one text.
fn lines(selection: &Selection, stores: &[PathBuf]) -> String {
    let mut text = Vec::new();
    let count = selection
        .lines(stores, |line| {
            text.extend_from_slice(line);
            Ok(())
        })
        .unwrap();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), count);
    text
}

#[test]
fn compaction_keeps_every_byte_and_leaves_doubled_records_out() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder.path().join("run/1/rollouts.jsonl"), 0..20);
    let second = store(&folder.path().join("run/2/rollouts.jsonl"), 15..30);
    let out = folder.path().join("all");
    let counts = compact(&[first.clone(), second.clone()], &out);
    assert_eq!((counts.read, counts.written, counts.doubled), (35, 30, 5));
    assert_eq!(counts.parts, 5, "30 records in parts of 7");

    let all = fs::read_to_string(&first).unwrap()
        + &fs::read_to_string(&second)
            .unwrap()
            .lines()
            .skip(5)
            .map(|line| format!("{line}\n"))
            .collect::<String>();
    let compacted = [out.clone()];
    assert_eq!(lines(&Selection::default(), &compacted), all);
    let store = CompactedStore::open(&out).unwrap();
    let frames: usize = store.parts().iter().map(|part| part.frames()).sum();
    assert!(frames > 2 * store.parts().len(), "{frames} frames");
    // Every program that reads zstd can read the data files.
    let mut decoded = String::new();
    for part in store.parts() {
        let file = fs::File::open(part.path()).unwrap();
        let bytes = zstd::stream::decode_all(file).unwrap();
        decoded += std::str::from_utf8(&bytes).unwrap();
    }
    assert_eq!(decoded, all);

    let again = compact(&[first, second], &out);
    assert_eq!((again.written, again.doubled, again.parts), (0, 35, 0));
    assert_eq!(lines(&Selection::default(), &compacted), all);
    let found = check(&out).unwrap();
    assert_eq!((found.records, found.doubled, found.damaged), (30, 0, 0));
}

/// The index gives the records that reading every line gives, and each is read alone at its place.
#[test]
fn the_index_selects_what_a_scan_selects() {
    let folder = tempfile::tempdir().unwrap();
    let path = store(&folder.path().join("run/3/rollouts.jsonl"), 0..40);
    assert_eq!(iteration_of(&path), 3);
    assert_eq!(iteration_of(Path::new("run/12/eval/oreo-k1.jsonl")), 12);
    assert_eq!(iteration_of(Path::new("run/demonstrations.jsonl")), 0);
    assert_eq!(iteration_of(Path::new("2024/played.jsonl")), 0, "no run");
    let out = folder.path().join("all");
    compact(std::slice::from_ref(&path), &out);
    let (lines_store, compacted) = ([path], [out]);
    let selections = [
        Selection::default(),
        Selection {
            game: Some("g2".into()),
            ..Selection::default()
        },
        Selection {
            outcome: Some(Outcome::TurnLimit),
            policy: Some("a1".into()),
            ..Selection::default()
        },
        Selection {
            split: Some(Split::ValidTrain),
            iteration: Some(3),
            ..Selection::default()
        },
        Selection {
            iteration: Some(2),
            ..Selection::default()
        },
    ];
    for (selection, expected) in selections.iter().zip([40, 8, 7, 8, 0]) {
        let scanned = selection.count(&lines_store).unwrap();
        assert_eq!(scanned.records, expected, "{selection:?}");
        assert_eq!(
            selection.count(&compacted).unwrap(),
            scanned,
            "{selection:?}"
        );
        assert_eq!(
            lines(selection, &compacted),
            lines(selection, &lines_store),
            "{selection:?}"
        );
    }
    for stores in [lines_store, compacted] {
        let records = StoredRecords::open(&stores).unwrap();
        let mut found = Vec::new();
        records
            .scan(
                |record| (record.place, record.trajectory),
                |record| {
                    found.push(record);
                    Ok::<(), TrainerError>(())
                },
            )
            .unwrap();
        assert_eq!(found.len(), 40);
        for (index, (place, trajectory)) in found.iter().enumerate().rev() {
            assert_eq!(*trajectory, record(index));
            assert_eq!(records.read(*place).unwrap(), *trajectory);
        }
    }
}

#[test]
fn texts_are_those_of_all_records_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = store(&folder.path().join("a.jsonl"), 0..40);
    let records = StoredRecords::open(&[path]).unwrap();
    let texts: Vec<String> = records.with_texts(|texts| texts.collect()).unwrap();
    let expected: Vec<String> = (0..40)
        .flat_map(|index| record(index).turns)
        .flat_map(|turn| [turn.observation, turn.completion])
        .collect();
    assert_eq!(texts, expected);
    let first = records.with_texts(|texts| texts.next()).unwrap();
    assert_eq!(first.as_ref(), expected.first(), "the rest is not needed");
}

/// A kill can leave data without an index, or files with a temporary name.
#[test]
fn what_an_interrupted_compaction_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = store(&folder.path().join("a.jsonl"), 0..20);
    let out = folder.path().join("all");
    compact(std::slice::from_ref(&path), &out);
    let last = out.join("part-000003.index");
    fs::remove_file(&last).unwrap();
    fs::write(out.join("part-000004.jsonl.zst.new"), b"half a part").unwrap();
    let all = fs::read_to_string(&path).unwrap();
    let readable: String = all.split_inclusive('\n').take(14).collect();
    assert_eq!(
        lines(&Selection::default(), std::slice::from_ref(&out)),
        readable
    );
    let counts = compact(&[path], &out);
    assert_eq!((counts.written, counts.doubled, counts.parts), (6, 14, 1));
    assert_eq!(
        lines(&Selection::default(), std::slice::from_ref(&out)),
        all
    );
    assert_eq!(check(&out).unwrap().damaged, 0);
}

#[test]
fn a_torn_last_line_is_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = store(&folder.path().join("a.jsonl"), 0..4);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    let out = folder.path().join("all");
    let counts = compact(std::slice::from_ref(&path), &out);
    assert_eq!(counts.written, 3);
    let [(store, bytes)] = &counts.torn[..] else {
        panic!("{:?}", counts.torn)
    };
    assert_eq!(*store, path);
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(*bytes, lines[3].len() - 10);
    let found = check(&path).unwrap();
    assert_eq!((found.records, found.torn, found.damaged), (3, *bytes, 0));
}

/// If any byte of the two files of a part is changed, or the files are cut, the check finds it, or the
/// records are still the same: zstd ignores one bit of a frame's header. Nothing panics.
#[test]
fn every_changed_byte_of_a_part_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = store(&folder.path().join("a.jsonl"), 0..2);
    let out = folder.path().join("all");
    compact(std::slice::from_ref(&path), &out);
    let all = fs::read_to_string(&path).unwrap();
    for file in ["part-000001.jsonl.zst", "part-000001.index"].map(|name| out.join(name)) {
        let whole = fs::read(&file).unwrap();
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            if place % 16 == 0 {
                bytes.truncate(place);
            }
            fs::write(&file, bytes).unwrap();
            let stores = [out.clone()];
            let mut read = Vec::new();
            let result = Selection::default().lines(&stores, |line| {
                read.extend_from_slice(line);
                Ok(())
            });
            let is_found = check(&out).map_or(true, |found| found.damaged > 0);
            let is_same = result.is_ok() && read == all.as_bytes();
            assert!(is_found || is_same, "byte {place} of {}", file.display());
        }
        fs::write(&file, whole).unwrap();
    }
    assert_eq!(check(&out).unwrap().damaged, 0);
}

#[test]
fn other_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = store(&folder.path().join("a.jsonl"), 0..2);
    assert!(!is_compacted(folder.path()));
    let into = |out: &Path, stores: &[PathBuf]| {
        let writer = PartWriter::new(out, 3, SMALL);
        compact_into(stores, &Selection::default(), writer)
            .unwrap_err()
            .to_string()
    };
    let error = into(folder.path(), std::slice::from_ref(&path));
    assert!(error.contains("such as a.jsonl"), "{error}");
    let out = folder.path().join("all");
    compact(&[path], &out);
    let error = into(&out, std::slice::from_ref(&out));
    assert!(error.contains("read and written"), "{error}");
    let lock = fs::File::create(out.join("writer.lock")).unwrap();
    lock.lock().unwrap();
    let error = into(&out, &[]);
    assert!(error.contains("is in use by"), "{error}");
}
