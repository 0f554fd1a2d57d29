//! Shards of a collection, an evaluation and a loop make the files of one process.

use super::process::{done, episodes, hearth, in_order, json_of, output, with_recipe};
use crate::binary::expert_plays;
use crate::tiny;
use scenarios::Trajectory;
use scenarios::store::Store;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

#[test]
fn shards_are_merged_once_nothing_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    let collect = |out| expert_plays(out, &["--repetitions", "2", "--expert-noise", "0.2"]);
    done(&mut hearth(path, &collect("whole.jsonl")));
    let shard = |i: &str| {
        json_of(
            hearth(path, &collect("some.jsonl"))
                .args(["--json", "--shard"])
                .arg(i),
        )
    };
    assert_eq!(shard("0/3")["store"], json!("some.shard-0-of-3.jsonl"));
    let merge = || {
        output(hearth(path, &["merge", "some.shard-0-of-3.jsonl"]).arg("some.shard-1-of-3.jsonl"))
    };
    let slurm = |i: &str| {
        let mut command = hearth(path, &collect("some.jsonl"));
        output(command.envs([
            ("SLURM_PROCID", i),
            ("SLURM_NTASKS", "3"),
            ("SLURM_STEP_ID", "0"),
            ("RANK", "0"),
            ("WORLD_SIZE", "9"),
        ]))
    };
    let (code, _, stderr) = slurm("1");
    assert!(
        code == 0 && stderr.contains("shard 1/3 (SLURM_PROCID, SLURM_NTASKS)"),
        "{stderr}"
    );

    let (code, _, stderr) = merge();
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains(
            "some.jsonl cannot be merged yet\nsome.shard-2-of-3.jsonl is not there\nhint: "
        ),
        "{stderr}"
    );
    assert_eq!(shard("2/3")["episodes"], json!(4), "two games, twice");
    let third = path.join("some.shard-2-of-3.jsonl");
    let text = fs::read_to_string(&third).unwrap();
    fs::write(
        &third,
        text.lines()
            .take(3)
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
    .unwrap();
    let folder_merge = || output(&mut hearth(path, &["merge", ".", "--json"]));
    let (code, _, stderr) = folder_merge();
    assert!(
        code == 1 && stderr.contains("some.shard-2-of-3.jsonl lacks 1 of 4 episodes: train/"),
        "{stderr}"
    );
    assert!(stderr.contains(" repetition "), "{stderr}");
    let first = text.lines().next().unwrap();
    fs::write(&third, format!("{text}{first}\n")).unwrap();
    let (code, _, stderr) = folder_merge();
    assert!(
        code == 2 && stderr.contains("is listed twice, or is not in its plan"),
        "{stderr}"
    );
    fs::write(
        &third,
        text.replacen("\"policy\":\"expert", "\"policy\":\"other", 1),
    )
    .unwrap();
    let (code, _, stderr) = folder_merge();
    assert!(
        code == 2 && stderr.contains("was played by another policy or protocol than its plan says"),
        "{stderr}"
    );
    assert!(!path.join("some.jsonl").exists(), "nothing was merged");
    fs::write(&third, &text).unwrap();
    let (code, stdout, stderr) = folder_merge();
    assert_eq!(code, 0, "{stderr}");
    let merged: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (
            &merged["merged"][0]["episodes"],
            &merged["merged"][0]["shards"][2]
        ),
        (&json!(12), &json!("./some.shard-2-of-3.jsonl"))
    );
    assert_eq!(
        episodes(&path.join("some.jsonl")),
        in_order(episodes(&path.join("whole.jsonl"))),
        "in the order of play"
    );
    assert_eq!(folder_merge().0, 0, "again");
    let other = episodes(&path.join("some.jsonl"))[0].clone();
    shard_of_other(path, &other);
    let (code, _, stderr) = folder_merge();
    assert!(
        code == 2 && stderr.contains("some.jsonl: holds another episode of train/"),
        "{stderr}"
    );

    let other_seed =
        output(hearth(path, &collect("some.jsonl")).args(["--shard", "0/3", "--seed", "2"]));
    assert!(
        other_seed.0 == 2
            && other_seed
                .2
                .contains("begun otherwise: `plan.seed` is 2 and was 1"),
        "{}",
        other_seed.2
    );
    let none = output(&mut hearth(path, &["merge", "games"]));
    assert!(
        none.0 == 2 && none.2.contains("no store of a shard in games"),
        "{}",
        none.2
    );
}

/// Replaces one episode in the whole store by one with another end.
fn shard_of_other(path: &Path, episode: &Trajectory) {
    fs::remove_file(path.join("some.jsonl")).unwrap();
    let (mut store, _) = Store::open(path.join("some.jsonl")).unwrap();
    store
        .append(&Trajectory {
            last_observation: "another end".into(),
            ..episode.clone()
        })
        .unwrap();
}

#[test]
fn an_evaluation_in_shards_has_the_table_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::suite(&path.join("games"));
    let eval = |out: &str, more: &[&str]| {
        let mut command = hearth(
            path,
            &[
                "eval", "--policy", "expert", "--suite", "games", "--out", out, "--turns", "9",
            ],
        );
        command.args(more);
        command
    };
    done(&mut eval("whole", &[]));
    let nothing = output(&mut eval(
        "none",
        &["--split", "valid_seen", "--shard", "7/9"],
    ));
    assert_eq!(
        nothing.0, 0,
        "a shard without games has done its part: {}",
        nothing.2
    );
    for shard in ["1/2", "0/2"] {
        let told = json_of(&mut eval("shared", &["--json", "--shard", shard]));
        assert!(told["n"] == 2 || told["n"] == 3, "{told}");
        assert!(!path.join("shared/eval.csv").exists(), "a part is no table");
    }
    let merged = done(&mut hearth(path, &["merge", "shared"]));
    assert!(
        merged.ends_with("of 5 episodes of 2 shards, in shared/episodes-k1.jsonl\n"),
        "{merged}"
    );
    let verified = json_of(&mut hearth(
        path,
        &["verify", "shared", "--json", "--suite", "games"],
    ));
    assert_eq!(
        (&verified["stores"], &verified["checked"]),
        (&json!(1), &json!(5)),
        "parts are read no more"
    );
    done(&mut eval("shared", &[]));
    let [whole, shared] =
        ["whole", "shared"].map(|run| fs::read_to_string(path.join(run).join("eval.csv")).unwrap());
    assert_eq!(shared, whole);
}

/// If a shard may not wait, it prints what it waits for and succeeds. If it may wait and the time
/// is over, it fails.
#[test]
fn a_shard_of_a_loop_prints_what_it_awaits() {
    let folder = with_recipe(1);
    let path = folder.path();
    let awaited = "games: awaits shard 0, which begins and finishes it";
    let told = done(&mut hearth(path, &["loop", "tiny.toml", "--shard", "1/2"]));
    assert_eq!(
        told,
        format!("shard 1/2 has finished what it can do now; {awaited}\n")
    );
    let (code, _, stderr) = output(&mut hearth(
        path,
        &["loop", "tiny.toml", "--shard", "1/2", "--wait", "1"],
    ));
    assert_eq!(
        (code, stderr),
        (
            1,
            format!("shard 1/2 (--shard)\n{awaited}; waiting, for 1 s at most\nerror: {awaited}\n")
        )
    );
    let leader = json_of(
        hearth(path, &["loop", "tiny.toml", "--json"]).envs([("RANK", "0"), ("WORLD_SIZE", "2")]),
    );
    let awaits = "demonstrations: awaits the other shards; 6 of 12 episodes are there";
    assert_eq!(
        leader,
        json!({"run": "runs/tiny", "shard": {"index": 0, "of": 2}, "awaits": awaits})
    );
    let (code, _, stderr) = output(&mut hearth(path, &["loop", "tiny.toml", "--shard", "2/2"]));
    assert!(
        code == 2 && stderr.contains("shard 2 of 2: shards count from 0 to n - 1"),
        "{stderr}"
    );
}
