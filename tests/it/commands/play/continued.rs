//! `hearth branch` and `hearth rescue`: play that continues the episodes of a store.

use crate::binary::{Ran, folder, hearth};
use crate::commands::models::{corridor, walker};
use scenarios::store::Store;
use scenarios::{Outcome, Trajectory};
use serde_json::json;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A folder with a model, corridors, and episodes in them: `played.jsonl`.
fn played() -> TempDir {
    let folder = folder();
    let games = folder.path().join("corridors/train");
    fs::create_dir_all(&games).unwrap();
    for rooms in [1, 3] {
        fs::write(games.join(format!("{rooms}.tw-pddl")), corridor(rooms)).unwrap();
    }
    walker().save(&folder.path().join("model")).unwrap();
    let collect = "collect --policy model --suite corridors --repetitions 4 --turns 8 --completion 4 --out played.jsonl";
    hearth(folder.path(), &collect.split(' ').collect::<Vec<_>>()).done();
    folder
}

/// Runs `branch` or `rescue` on the episodes.
fn go_on(folder: &Path, command: &str, more: &str) -> Ran {
    let line =
        format!("{command} --policy model --data played.jsonl --suite corridors --json {more}");
    hearth(folder, &line.split_whitespace().collect::<Vec<_>>())
}

fn without_last_line(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    fs::write(path, lines[..lines.len() - 1].join("\n") + "\n{\"torn").unwrap();
}

#[test]
fn branches_of_a_store_are_written_and_continued() {
    let folder = played();
    let folder = folder.path();
    let sampling = "--candidates 2 --rollouts 3 --discount 0.9 --out branches.jsonl";
    let counts = go_on(folder, "branch", sampling).json();
    assert_eq!((&counts["states"], &counts["lost"]), (&json!(8), &json!(0)));
    assert!(counts["contrasts"].as_u64() > Some(0), "{counts}");
    let source = Store::read(folder.join("played.jsonl")).unwrap();
    let branches = Store::read(folder.join("branches.jsonl")).unwrap();
    for record in &branches {
        let info = record.branch.as_ref().unwrap();
        assert_eq!((info.source.as_str(), info.discount), ("played.jsonl", 0.9));
        let of = source
            .iter()
            .find(|of| of.game_hash == record.game_hash && of.seed == record.seed)
            .unwrap();
        assert_eq!(of.turns[..info.turn], record.turns[..info.turn]);
        let candidates = &record.turns[info.turn].candidates;
        for candidate in candidates {
            assert!(!candidate.tokens.is_empty());
            assert_eq!(candidate.returns.len(), 3);
        }
    }

    let whole = by_turn(branches);
    without_last_line(&folder.join("branches.jsonl"));
    let rest = go_on(folder, "branch", sampling).json();
    assert_eq!(rest["states"], counts["states"]);
    assert!(
        rest["samples"].as_u64() < counts["samples"].as_u64(),
        "{rest}"
    );
    let continued = by_turn(Store::read(folder.join("branches.jsonl")).unwrap());
    assert_eq!(
        continued, whole,
        "an interrupted run ends in the same records"
    );

    let hint = "hint: choose another --out, or remove it\n";
    go_on(folder, "branch", "--candidates 2 --out branches.jsonl").refused(
        2,
        &format!("error: branches.jsonl: contains branches of another policy, or with other settings\n{hint}"),
    );
    let limited = go_on(
        folder,
        "branch",
        "--limit 3 --games 1 --rollouts 1 --out few.jsonl",
    )
    .json();
    assert_eq!(limited["states"], json!(3));
}

fn by_turn(mut records: Vec<Trajectory>) -> Vec<Trajectory> {
    records.sort_by(|a, b| (&a.game, a.seed).cmp(&(&b.game, b.seed)));
    records
}

#[test]
fn lost_episodes_are_rescued() {
    let folder = played();
    let folder = folder.path();
    let sampling = "--completions 4 --wins 1 --keep 1 --stride 2 --out rescues.jsonl";
    let counts = go_on(folder, "rescue", sampling).json();
    let rescues = Store::read(folder.join("rescues.jsonl")).unwrap();
    let lost = Store::read(folder.join("played.jsonl")).unwrap();
    let lost = lost.iter().filter(|of| !of.is_won()).count();
    assert!(
        lost > 0 && counts["episodes"].as_u64() <= Some(lost as u64),
        "{counts}"
    );
    assert_eq!(counts["rescues"], json!(rescues.len()));
    assert!(!rescues.is_empty(), "{counts}");
    for rescue in &rescues {
        assert_eq!(rescue.outcome, Outcome::Success);
        let marked = rescue.turns.iter().filter(|turn| turn.perturbed).count();
        assert!(marked > 0 && !rescue.turns[marked..].iter().any(|turn| turn.perturbed));
        assert!(marked < rescue.turns.len());
    }
    let again = go_on(folder, "rescue", sampling).json();
    assert_eq!(
        (&again["rescues"], &again["completions"]),
        (&counts["rescues"], &json!(0))
    );
    let other = go_on(folder, "rescue", "--stride 3 --out rescues.jsonl");
    assert!(
        other.code == 2
            && other.stderr.contains(
                "contains rescues of other episodes, by another policy or with other settings"
            ),
        "{}",
        other.stderr
    );
}

/// A branch is no episode, a test split is not continued, and settings out of range are named.
#[test]
fn wrong_use_is_refused() {
    let folder = played();
    let folder = folder.path();
    go_on(
        folder,
        "branch",
        "--rollouts 1 --games 1 --limit 2 --out branches.jsonl",
    )
    .done();
    for command in [
        "score branches.jsonl --policy model --suite corridors --out scored.jsonl",
        "branch --data branches.jsonl --policy model --suite corridors --out more.jsonl",
        "export branches.jsonl --format sharegpt --out exported.jsonl",
    ] {
        let ran = hearth(folder, &command.split(' ').collect::<Vec<_>>());
        let text = "error: branches.jsonl: the record of train/1.tw-pddl, repetition ";
        let expected = ran.stderr.contains(text)
            && ran
                .stderr
                .contains("\nhint: leave the store of `hearth branch` out");
        assert!(ran.code == 2 && expected, "{command}: {}", ran.stderr);
    }
    let job = "name = \"sft\"\nfrom = \"collector\"\ndata = [\"rollouts\"]\n\
               algorithm = { kind = \"sft\", targets = \"actions\" }\n";
    fs::write(folder.join("job.toml"), job).unwrap();
    let train =
        "train job.toml --data played.jsonl --from model --branches branches.jsonl --out trained";
    let ran = hearth(folder, &train.split(' ').collect::<Vec<_>>());
    let expected = "--branches: the job reads no branch states\nhint: ";
    assert!(
        ran.code == 2 && ran.stderr.contains(expected),
        "{}",
        ran.stderr
    );
    for (command, more, expected) in [
        (
            "branch",
            "--split valid_seen",
            "error: --split valid_seen: these games are for tests",
        ),
        (
            "rescue",
            "--split valid_unseen",
            "error: --split valid_unseen: these games are for tests",
        ),
        (
            "branch",
            "--split valid_train",
            "error: played.jsonl: no episode to continue\nhint: --split",
        ),
        (
            "branch",
            "--candidates 1",
            "error: candidates must be at least 2",
        ),
        ("rescue", "--wins 0", "error: wins must be from 1"),
    ] {
        let ran = go_on(folder, command, &format!("{more} --out new.jsonl"));
        assert!(
            ran.code == 2 && ran.stderr.starts_with(expected),
            "{more}: {}",
            ran.stderr
        );
    }
    assert!(!folder.join("new.jsonl").exists(), "nothing was begun");
}
