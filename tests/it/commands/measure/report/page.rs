//! `hearth report`: what the page contains.

use super::run::{
    HOSTILE, games, hostile, parts, refused, report, run, titles, write_store, written,
};
use scenarios::Search;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use trainer::measure::{csv_file, table};

#[test]
fn every_evaluated_episode_is_in_the_page_and_the_table_beside_it() {
    let run = run();
    let (told, page) = written(run.path(), &[]);
    assert_eq!(
        told["path"],
        run.path().join("report.html").to_str().unwrap()
    );
    assert_eq!(
        (&told["episodes"], &told["left_out"]),
        (&json!(24), &json!(0))
    );
    assert_eq!(
        told["policies"],
        json!(["sft", "oreo", "oreo, best of 3", "oreo-2"])
    );
    let (before, data, _) = parts(&page);
    assert_eq!(titles(&data), ["sft", "oreo", "oreo, best of 3", "oreo-2"]);
    assert_eq!(data["games"].as_array().unwrap().len(), 6);
    assert_eq!(data["games"][0][4], "put cup 0 in the safe.");
    let episodes = data["episodes"].as_array().unwrap();
    for store in 0..4 {
        let of: BTreeSet<u64> = episodes
            .iter()
            .filter(|e| e[0] == store)
            .map(|e| e[1].as_u64().unwrap())
            .collect();
        assert_eq!(of, (0..6).collect(), "store {store} has each game");
    }
    assert!(!page.contains("987654321"), "token ids are left out");
    // Of three seen games, sft won one, and one was lost because its world failed: 1 of 2, Wilson
    // [9.5, 90.5].
    for piece in [
        "<b>50.0</b></a> <small>[9.5, 90.5]</small>",
        "small run",
        "best of 3 by value at temperature 0.5",
    ] {
        assert!(before.contains(piece), "{piece}");
    }
    let figures = [
        "Success by policy",
        "By iteration",
        "Best of K",
        "Best of K by scorer",
        "sft",
        "oreo",
    ];
    for title in figures {
        assert!(
            before.contains(&format!("<svg role=\"img\" aria-label=\"{title}\"")),
            "{title}"
        );
    }
}

#[test]
fn the_page_needs_no_other_file_and_no_network() {
    let run = run();
    let (_, page) = written(run.path(), &[]);
    for piece in [
        "http://", "https://", "src=", "url(", "@import", "<link", "<iframe", "import(", "fetch(",
        "xmlns",
    ] {
        assert!(!page.contains(piece), "{piece}");
    }
    let links: Vec<&str> = page
        .split("href=\"")
        .skip(1)
        .map(|rest| &rest[..1])
        .collect();
    assert!(
        links.iter().all(|first| *first == "#") && links.len() > 8,
        "{links:?}"
    );
    assert!(
        page.contains(
            "content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-"
        )
    );
}

#[test]
fn hostile_text_never_becomes_markup() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    hostile(run);
    let (_, page) = written(run, &[]);
    assert!(
        !page.contains("<img") && !page.contains("<!--"),
        "markup of a world stands in the page"
    );
    let (_, data, after) = parts(&page);
    assert!(data["texts"].as_array().unwrap().contains(&json!(HOSTILE)));
    assert_eq!(data["games"][0][1], HOSTILE);
    assert_eq!(after.matches("</script>").count(), 1);
    assert_eq!(page.matches("<script").count(), 2);
}

#[test]
fn what_is_not_there_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    write_store(&run.join("1/eval/sft-k1.jsonl"), &games("sft", 1, "x", 0));
    let (told, page) = written(run, &[]);
    assert_eq!(told["episodes"], 6);
    assert!(page.contains("Counted from the episodes: there is no eval.csv."));
    assert!(page.contains("<b>50.0</b></a> <small>[9.5, 90.5]</small>"));
    for piece in [
        "<h2>Learning curves</h2>",
        "<h2>Recipe</h2>",
        "Best of K",
        "against",
    ] {
        assert!(!parts(&page).0.contains(piece), "{piece}");
    }
}

/// The name of the policy is the text of --policy. If a search was used, it has its own stores.
#[test]
fn an_evaluation_is_reported_under_the_name_of_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let played = games("0123456789abcdef", 1, "x", 0);
    write_store(&out.join("episodes-k1.jsonl"), &played);
    let mut searched = games("0123456789abcdef", 3, "x", 1);
    searched
        .iter_mut()
        .for_each(|trajectory| trajectory.protocol.search = Some(Search::Beam { width: 3 }));
    write_store(&out.join("episodes-beam3-k3.jsonl"), &searched);
    csv_file::write_csv(&out.join("eval.csv"), &table::table("runs/sft", 1, &played)).unwrap();
    fs::write(
        out.join("eval.json"),
        json!({ "suite": "abc", "seed": 4, "policy_hash": "0123456789abcdef" }).to_string(),
    )
    .unwrap();
    let (told, page) = written(out, &["--out", out.join("page.html").to_str().unwrap()]);
    assert_eq!(
        told["policies"],
        json!(["runs/sft", "runs/sft, beam 3, best of 3"])
    );
    assert!(
        page.contains("#episodes?store=episodes-k1.jsonl&amp;split=valid_seen"),
        "a rate leads to its episodes"
    );
}

/// If a job is called `dagger`, its evaluation is in `eval/dagger-k1.jsonl`. The file
/// `dagger-STUDENT.jsonl` contains demonstrations.
#[test]
fn a_job_called_dagger_is_measured_like_others() {
    let run = run();
    write_store(
        &run.path().join("dagger-sft.jsonl"),
        &games("expert", 1, "from bed 1", 0)[..2],
    );
    write_store(
        &run.path().join("1/eval/dagger-k1.jsonl"),
        &games("dagger", 1, "from bed 1", 0),
    );
    let (_, page) = written(run.path(), &[]);
    let titles = |page| {
        titles(&parts(page).1)
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        titles(&page)
            .iter()
            .filter(|title| *title == "dagger")
            .count(),
        1
    );
    let (_, page) = written(run.path(), &["--with-rollouts"]);
    assert_eq!(
        titles(&page)
            .iter()
            .filter(|title| title.starts_with("dagger"))
            .count(),
        2
    );
}

/// A sweep has dozens of protocols. The first few are shown, and the others can be unfolded.
#[test]
fn many_protocols_are_folded() {
    let folder = tempfile::tempdir().unwrap();
    for k in 1..=6 {
        write_store(
            &folder.path().join(format!("episodes-k{k}.jsonl")),
            &games("sft", k, "x", 0),
        );
    }
    let (_, page) = written(
        folder.path(),
        &["--out", folder.path().join("page.html").to_str().unwrap()],
    );
    let (shown, folded) = page
        .split_once("<summary>2 more protocols</summary>")
        .unwrap();
    let (folded, _) = folded.split_once("</details>").unwrap();
    let lines = |part: &str| {
        part.matches("by value at temperature 0.5, malformed")
            .count()
    };
    assert_eq!((lines(shown), lines(folded)), (3, 2)); // and the greedy one

    let (_, page) = written(run().path(), &[]);
    assert!(!page.contains("more protocols"));
}

#[test]
fn damage_is_named_by_file_and_line() {
    let run = run();
    let path = run.path().join("1/eval/oreo-k1.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let damage = |(index, line): (usize, &str)| match index {
        3 => line.replace("\"outcome\":\"", "\"outcome\":\"no "),
        _ => line.to_string(),
    };
    fs::write(
        &path,
        text.lines()
            .enumerate()
            .map(damage)
            .map(|line| line + "\n")
            .collect::<String>(),
    )
    .unwrap();
    let output = report(&[run.path().to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.starts_with(&format!("error: {}:4: ", path.display())),
        "{stderr}"
    );
    assert!(!run.path().join("report.html").exists());

    fs::remove_file(&path).unwrap();
    fs::write(
        run.path().join("sweep.csv"),
        "score,k,split,n,successes,success_rate,low,high\nx,two,valid_seen,1,1,1,0,1\n",
    )
    .unwrap();
    let stderr = String::from_utf8(report(&[run.path().to_str().unwrap()]).stderr).unwrap();
    assert!(
        stderr.contains("sweep.csv: ") && stderr.contains("line: 2"),
        "{stderr}"
    );
}

#[test]
fn a_folder_without_a_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let output = report(&[path]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let hint = "\nhint: name a folder written by `hearth loop`, `hearth quickstart` or `hearth eval --out`\n";
    assert!(
        stderr.starts_with(&format!("error: {path} ")) && stderr.ends_with(hint),
        "{stderr}"
    );
    let nowhere = format!("{path}/nowhere");
    refused(
        &[&nowhere],
        &format!("error: cannot read {nowhere}: No such file or directory (os error 2)\n"),
    );
    refused(
        &[path, "--episodes", "0"],
        "error: --episodes: must be at least 1\nhint: omit it to show all games\n",
    );
}

#[test]
fn a_part_of_the_episodes_is_the_same_games_everywhere() {
    let run = run();
    let (told, page) = written(run.path(), &["--episodes", "2"]);
    assert_eq!(
        (&told["episodes"], &told["left_out"]),
        (&json!(8), &json!(16))
    );
    assert_eq!(parts(&page).1["games"].as_array().unwrap().len(), 2);
    assert!(
        page.contains("16 episodes are left out here"),
        "the page says so"
    );
}

#[test]
fn episodes_to_learn_from_are_shown_when_asked_for() {
    let run = run();
    let (told, page) = written(run.path(), &["--with-rollouts"]);
    assert_eq!(told["episodes"], 27);
    assert_eq!(titles(&parts(&page).1)[4..], ["rollouts", "demonstrations"]);
}

#[test]
fn plots_are_written_as_svg_and_in_a_build_with_png_as_png() {
    let run = run();
    let folder = run.path().join("plots");
    let (told, _) = written(run.path(), &["--plots", folder.to_str().unwrap()]);
    let kinds: &[&str] = match cfg!(feature = "png") {
        true => &["png", "svg"],
        false => &["svg"],
    };
    let names = [
        "best-of-k",
        "iterations",
        "sweep",
        "learning-1-oreo",
        "learning-1-sft",
        "success",
    ];
    let files: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        files,
        names
            .iter()
            .flat_map(|name| kinds.iter().map(move |kind| format!("{name}.{kind}")))
            .collect()
    );
    assert_eq!(told["plots"].as_array().unwrap().len(), files.len());
    let svg = fs::read_to_string(folder.join("success.svg")).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.contains("oreo, best of 3"),
        "{svg}"
    );
    if cfg!(feature = "png") {
        let png = fs::read(folder.join("success.png")).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n"));
    }
}
