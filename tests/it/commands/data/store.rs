//! `hearth store`: what it prints, writes and refuses, and commands that read a compacted store.

use super::episodes::{hearth, json_of, played, refused, said};
use std::fs;

#[test]
fn a_compacted_store_is_read_like_its_source() {
    let (folder, episodes) = played();
    let folder = folder.path();
    let source = fs::read_to_string(folder.join("log.jsonl")).unwrap();
    let of_log = json_of(&hearth(folder, &["store", "info", "log.jsonl", "--json"]));
    assert_eq!(of_log["records"], episodes.len());
    assert_eq!(of_log["bytes"], source.len());
    assert_eq!(of_log["games"], 6);
    let won = episodes.iter().filter(|episode| episode.is_won()).count();
    assert_eq!(of_log["outcomes"]["success"], won);
    assert!(
        (1..episodes.len()).contains(&won),
        "{won} of {}",
        episodes.len()
    );

    let compact = ["store", "compact", "log.jsonl", "--out", "all", "--json"];
    let counts = json_of(&hearth(folder, &compact));
    assert_eq!(counts["written"], episodes.len());
    let again = hearth(folder, &compact);
    assert_eq!(json_of(&again)["written"], 0);
    assert!(
        said(&again).contains("the store has them already"),
        "{}",
        said(&again)
    );
    let mut of_compacted = json_of(&hearth(folder, &["store", "info", "all", "--json"]));
    assert!(of_compacted["bytes_on_disk"].as_u64() < of_log["bytes_on_disk"].as_u64());
    of_compacted["bytes_on_disk"] = of_log["bytes_on_disk"].clone();
    assert_eq!(of_compacted, of_log);

    let selected = hearth(folder, &["store", "select", "all"]);
    assert_eq!(String::from_utf8(selected.stdout).unwrap(), source);
    let command = [
        "store",
        "select",
        "all",
        "--outcome",
        "success",
        "--policy",
        "exp",
        "--out",
        "won.jsonl",
    ];
    let written = hearth(folder, &command);
    assert_eq!(said(&written), format!("{won} records in won.jsonl\n"));
    assert_eq!(
        fs::read_to_string(folder.join("won.jsonl"))
            .unwrap()
            .lines()
            .count(),
        won
    );
    refused(&hearth(folder, &command), 2, "won.jsonl: exists");
    refused(
        &hearth(folder, &["store", "info", "all", "--outcome", "won"]),
        2,
        "one of success, failure",
    );

    for store in ["log.jsonl", "all"] {
        let replayed = json_of(&hearth(
            folder,
            &["verify", store, "--suite", "games", "--json"],
        ));
        assert_eq!(replayed["checked"], episodes.len(), "{replayed}");
    }
}

/// One training job on a JSONL store and on the compacted one.
#[test]
fn training_reads_a_compacted_store() {
    let (folder, _) = played();
    let folder = folder.path();
    let job = "name = \"sft\"\nfrom = \"fresh\"\ndata = [\"demonstrations\"]\n[algorithm]\nkind = \"sft\"\ntargets = \"actions\"\n[optimizer]\nbatch = 2\nupdates = 2\n";
    fs::write(folder.join("job.toml"), job).unwrap();
    json_of(&hearth(
        folder,
        &["store", "compact", "log.jsonl", "--out", "all", "--json"],
    ));
    let hash = |data: &str, out: &str| {
        let command = ["train", "job.toml", "--data", data, "--out", out, "--json"];
        json_of(&hearth(folder, &command))["policy_hash"].clone()
    };
    assert_eq!(hash("log.jsonl", "from-lines"), hash("all", "from-parts"));
}

#[test]
fn damage_is_named_and_is_an_exit_code() {
    let (folder, episodes) = played();
    let folder = folder.path();
    json_of(&hearth(
        folder,
        &["store", "compact", "log.jsonl", "--out", "all", "--json"],
    ));
    let verify = ["store", "verify", "log.jsonl", "all", "--json"];
    let found = json_of(&hearth(folder, &verify));
    for store in found.as_array().unwrap() {
        assert_eq!(store["records"], episodes.len());
        assert_eq!(store["damaged"], 0);
    }
    let data = folder.join("all/part-000001.jsonl.zst");
    let mut bytes = fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&data, bytes).unwrap();
    let found = hearth(folder, &["store", "verify", "log.jsonl", "all"]);
    assert_eq!(found.status.code(), Some(1));
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.contains("log.jsonl: 36 records, no damage"), "{text}");
    assert!(
        text.contains("part-000001.jsonl.zst: frame 0 at byte 0 is damaged"),
        "{text}"
    );
    refused(
        &hearth(
            folder,
            &["export", "all", "--format", "openai", "--out", "x.json"],
        ),
        2,
        "is damaged",
    );
    refused(
        &hearth(folder, &["store", "compact", "log.jsonl", "--out", "games"]),
        2,
        "choose a new folder",
    );
}
