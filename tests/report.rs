//! `hearth report`: what stands in the page and its plots, what is said of damage, and, where there is a Chromium, that the
//! page works.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use scenarios::store::Store;
use scenarios::{Candidate, Outcome, Protocol, Search, Spent, Split, TaskType, Trajectory, Turn};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use trainer::measure::evaluate;

const HOSTILE: &str = "</script><img src=x onerror=\"document.title='taken'\"><!--";
const OUTCOMES: [Outcome; 3] = [Outcome::Success, Outcome::TurnLimit, Outcome::EnvFailed];

fn turn(number: usize, completion: &str) -> Turn {
    Turn {
        observation: format!(
            "You see a cup {number}.\n\nYour task is to: put cup {number} in the safe."
        ),
        observation_tokens: vec![987_654_321],
        completion: completion.into(),
        completion_tokens: vec![987_654_321, 987_654_322],
        logprobs: vec![-0.25, -0.5],
        action: Some(completion.into()),
        value: Some(0.5),
        after_value: Some(0.75),
        ..Turn::default()
    }
}

/// A game of seen (0 to 2) or unseen (3 to 5); the completions end in `said`.
fn episode(game: usize, policy: &str, best_of: usize, said: &str, outcome: Outcome) -> Trajectory {
    let mut turns = vec![
        turn(game, "go to safe 1"),
        turn(game, &format!("take cup {game} {said}")),
        turn(game, "look"),
    ];
    if best_of > 1 {
        let candidate = |completion: &str, score, count| Candidate {
            completion: completion.into(),
            score,
            count,
            logprob: Some(-0.75),
            log_ratio: Some(0.5),
            after_value: Some(score),
        };
        turns[0].candidates = vec![
            candidate("go to safe 1", 0.75, 2),
            candidate("examine safe 1", 0.25, 1),
        ];
    }
    if outcome != Outcome::Success {
        turns[2] = Turn {
            action: None,
            completion: "loook".into(),
            ..turns[2].clone()
        };
    }
    let split = if game < 3 {
        Split::ValidSeen
    } else {
        Split::ValidUnseen
    };
    Trajectory {
        format: Trajectory::FORMAT,
        game: format!("{split}/put-{game}"),
        game_hash: format!(
            "{:064x}",
            0xabc_def0_u64.wrapping_mul(game as u64 + 7) << 32
        ),
        split,
        task_type: Some(TaskType::ALL[game % 2]),
        repetition: 0,
        seed: game as u64,
        policy: policy.into(),
        value_policy: None,
        protocol: Protocol {
            best_of,
            temperature: if best_of > 1 { 0.5 } else { 0.0 },
            ..Protocol::default()
        },
        turns,
        last_observation: "Nothing happens.".into(),
        outcome,
        reward: outcome.reward(),
        failure: (outcome == Outcome::EnvFailed).then(|| "the world fell down".into()),
        seconds: 1.5,
        spent: Spent {
            completions: 3 * best_of,
            tokens: 20,
            commands: 3,
        },
    }
}

fn write_store(path: &Path, trajectories: &[Trajectory]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (mut store, _) = Store::open(path).unwrap();
    trajectories
        .iter()
        .for_each(|trajectory| store.append(trajectory).unwrap());
}

/// Six games, the first won, the second not, the third lost to the world, and so on from `first`.
fn games(policy: &str, best_of: usize, said: &str, first: usize) -> Vec<Trajectory> {
    (0..6)
        .map(|game| episode(game, policy, best_of, said, OUTCOMES[(game + first) % 3]))
        .collect()
}

/// A run of two iterations with everything that a run may have.
fn run() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let played = [
        (
            "sft",
            "1/eval/sft-k1.jsonl",
            games("sft", 1, "from table 1", 0),
        ),
        (
            "oreo",
            "1/eval/oreo-k1.jsonl",
            games("oreo", 1, "from shelf 1", 1),
        ),
        (
            "oreo",
            "1/eval/oreo-k3.jsonl",
            games("oreo", 3, "from shelf 1", 0),
        ),
        (
            "oreo-2",
            "2/eval/oreo-k1.jsonl",
            games("oreo", 1, "from shelf 1", 0),
        ),
    ];
    let mut rows = Vec::new();
    let baseline = trainer::measure::compare::Baseline::new("sft", &played[0].2);
    for (name, file, trajectories) in &played {
        write_store(&run.join(file), trajectories);
        let mut table = evaluate::table(name, trajectories[0].protocol.best_of, trajectories);
        if *name != "sft" {
            baseline.pair(&mut table, trajectories);
        }
        rows.extend(table);
    }
    evaluate::write_csv(&run.join("eval.csv"), &rows).unwrap();
    write_store(
        &run.join("demonstrations.jsonl"),
        &games("expert", 1, "from bed 1", 0)[..2],
    );
    write_store(
        &run.join("1/rollouts.jsonl"),
        &games("sft", 1, "from box 1", 0)[..1],
    );
    let facts = json!({ "name": "small run", "seed": 7, "suite": "5".repeat(64), "games": 6, "faults": 0, "code": "test", "device": "cpu" });
    fs::write(run.join("run.json"), facts.to_string()).unwrap();
    let recipe = "name = \"small run\"\n[[train]]\nname = \"sft\"\n[[train]]\nname = \"oreo\"\n";
    fs::write(run.join("recipe.toml"), recipe).unwrap();
    fs::write(run.join("suite.jsonl"), "{\"not\":\"a trajectory\"}\n").unwrap();
    for (job, value) in [("sft", ""), ("oreo", "0.5")] {
        fs::create_dir_all(run.join("1").join(job)).unwrap();
        let line = |update: usize| format!("{update},{}.5,{value},{value}\n", 9 - update);
        let text = format!(
            "update,loss/policy,loss/value,kl/exact\n{}",
            (0..9).map(line).collect::<String>()
        );
        fs::write(run.join("1").join(job).join("metrics.csv"), text).unwrap();
    }
    let lab = "scorer,k,split,n,successes,success_rate,low,high,more\n\
               after_value,1,valid_seen,3,1,0.333,0.06,0.79,x\nafter_value,2,valid_seen,3,2,0.667,0.2,0.94,x\n\
               oracle,1,valid_seen,3,1,0.333,0.06,0.79,x\noracle,2,valid_seen,3,3,1.0,0.44,1.0,x\n";
    fs::write(run.join("sweep.csv"), lab).unwrap();
    folder
}

fn report(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
        .arg("report")
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn written(folder: &Path, more: &[&str]) -> (Value, String) {
    let output = report(&[&[folder.to_str().unwrap(), "--json"], more].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let page = fs::read_to_string(told["path"].as_str().unwrap()).unwrap();
    assert_eq!(told["bytes"], page.len());
    (told, page)
}

#[track_caller]
fn refused(arguments: &[&str], expected: &str) {
    let output = report(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(2), expected));
}

const DATA: &str = "<script type=\"application/json\" id=\"data\">";

/// The page before, in and after its data.
fn parts(page: &str) -> (&str, Value, &str) {
    let (before, rest) = page.split_once(DATA).unwrap();
    let (data, after) = rest.split_once("</script>").unwrap();
    (before, serde_json::from_str(data).unwrap(), after)
}

fn titles(data: &Value) -> Vec<&str> {
    data["stores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|store| store["title"].as_str().unwrap())
        .collect()
}

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
    // Of three seen games sft won one, and one was lost to the world: 1 of 2, Wilson [9.5, 90.5].
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

/// A run in which every text that others decide is hostile.
fn hostile(run: &Path) {
    let mut trajectory = episode(0, HOSTILE, 3, HOSTILE, Outcome::EnvFailed);
    trajectory.game = HOSTILE.into();
    trajectory.failure = Some(HOSTILE.into());
    trajectory.last_observation = HOSTILE.into();
    for turn in &mut trajectory.turns {
        turn.observation = HOSTILE.into();
        turn.completion = HOSTILE.into();
        turn.action = Some(format!("{HOSTILE} "));
        turn.candidates
            .iter_mut()
            .for_each(|candidate| candidate.completion = HOSTILE.into());
    }
    let won = Trajectory {
        outcome: Outcome::Success,
        ..trajectory.clone()
    };
    write_store(
        &run.join("1/eval/<img src=x onerror=alert(1)>-k3.jsonl"),
        &[
            trajectory.clone(),
            Trajectory {
                repetition: 1,
                ..won.clone()
            },
        ],
    );
    write_store(&run.join("episodes-k3.jsonl"), std::slice::from_ref(&won));
    evaluate::write_csv(
        &run.join("eval.csv"),
        &evaluate::table(HOSTILE, 3, std::slice::from_ref(&won)),
    )
    .unwrap();
    fs::write(run.join("recipe.toml"), format!("# {HOSTILE}\n")).unwrap();
    fs::write(
        run.join("run.json"),
        json!({ "name": HOSTILE, "seed": 1, "code": HOSTILE }).to_string(),
    )
    .unwrap();
    let lab = format!(
        "score,k,split,n,successes,success_rate,low,high\n\"{}\",1,valid_seen,1,1,1,0,1\n",
        HOSTILE.replace('"', "\"\"")
    );
    fs::write(run.join("lab.csv"), lab).unwrap();
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

/// `hearth eval` calls the policy by what --policy said; a search keeps stores of its own beside.
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
    evaluate::write_csv(
        &out.join("eval.csv"),
        &evaluate::table("runs/sft", 1, &played),
    )
    .unwrap();
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

/// What the expert showed stands in `dagger-STUDENT.jsonl`, what a job of that name played in `eval/dagger-k1.jsonl`.
#[test]
fn a_lesson_called_guided_is_measured_like_others() {
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

/// A laboratory plays in dozens of ways: the first few stand on top, the others are there to be unfolded.
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
        run.path().join("lab.csv"),
        "score,k,split,n,successes,success_rate,low,high\nx,two,valid_seen,1,1,1,0,1\n",
    )
    .unwrap();
    let stderr = String::from_utf8(report(&[run.path().to_str().unwrap()]).stderr).unwrap();
    assert!(
        stderr.contains("lab.csv: ") && stderr.contains("line: 2"),
        "{stderr}"
    );
}

#[test]
fn a_folder_that_holds_no_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let hint =
        "hint: name a folder written by `hearth loop`, `hearth quickstart` or `hearth eval --out`";
    refused(
        &[path],
        &format!("error: {path} holds no run and no evaluation\n{hint}\n"),
    );
    let nowhere = format!("{path}/nowhere");
    refused(
        &[&nowhere],
        &format!("error: cannot read {nowhere}: No such file or directory (os error 2)\n"),
    );
    refused(
        &[path, "--episodes", "0"],
        "error: --episodes: at least one game\nhint: leave it out to show all\n",
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
fn plots_are_written_as_svg_and_png() {
    let run = run();
    let folder = run.path().join("plots");
    let (told, _) = written(run.path(), &["--plots", folder.to_str().unwrap()]);
    let names = [
        "best-of-k",
        "iterations",
        "learning-1-oreo",
        "learning-1-sft",
        "success",
        "sweep",
    ];
    let files: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        files,
        names
            .iter()
            .flat_map(|name| [format!("{name}.png"), format!("{name}.svg")])
            .collect()
    );
    assert_eq!(told["plots"].as_array().unwrap().len(), files.len());
    let svg = fs::read_to_string(folder.join("success.svg")).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.contains("oreo, best of 3"),
        "{svg}"
    );
    assert!(
        fs::read(folder.join("success.png"))
            .unwrap()
            .starts_with(b"\x89PNG\r\n")
    );
}

/// The browser, where there is one.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: no Chromium on the path");
    }
    found
}

/// The page after its script has run, and what the console said.
fn browse(browser: &Path, page: &Path, address: &str) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            "--enable-logging=stderr",
            "--v=0",
        ])
        .arg("--window-size=1366,768")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}{address}", page.display()))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = stderr
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect();
    (
        String::from_utf8(output.stdout).unwrap(),
        console.join("\n"),
    )
}

/// What the page says of itself on its body.
#[track_caller]
fn told(dom: &str, name: &str) -> String {
    let (_, body) = dom.split_once("<body").unwrap();
    let (attributes, _) = body.split_once('>').unwrap();
    let value = attributes
        .split_once(&format!("data-{name}=\""))
        .map(|(_, rest)| rest.split('"').next().unwrap());
    value
        .unwrap_or_else(|| panic!("no data-{name} in <body{attributes}>"))
        .to_string()
}

#[test]
fn the_page_shows_what_its_address_says() {
    let Some(browser) = chromium() else { return };
    let run = run();
    written(run.path(), &[]);
    let page = run.path().join("report.html");
    let open = |address: &str| {
        let (dom, console) = browse(&browser, &page, address);
        assert_eq!(console, "", "{address}");
        dom
    };
    let dom = open("#episodes");
    assert_eq!(
        (told(&dom, "view"), told(&dom, "rows")),
        ("episodes".into(), "24".into())
    );
    let drawn = dom.matches("role=\"option\"").count();
    assert!(
        (8..24).contains(&drawn),
        "{drawn} rows, as many as the window needs"
    );
    for (address, rows) in [
        ("store=1/eval/oreo-k3.jsonl", "6"),
        ("split=valid_seen", "12"),
        ("outcome=success", "8"),
        ("outcome=not_won", "8"),
        ("outcome=env_failed", "8"),
        ("outcome=malformed", "16"),
        ("type=pick_and_place_simple&split=valid_unseen", "4"),
        ("q=CUP+4+safe", "4"),
        ("q=nowhere", "0"),
    ] {
        assert_eq!(
            told(&open(&format!("#episodes?{address}")), "rows"),
            rows,
            "{address}"
        );
    }
    let name = |store: &str| {
        format!(
            "{store}~{}~0",
            &episode(0, "", 1, "", Outcome::Success).game_hash[..16]
        )
    };
    let (sft, oreo) = (name("1/eval/sft-k1.jsonl"), name("1/eval/oreo-k3.jsonl"));
    let dom = open(&format!("#episodes?at={sft}&beside={oreo}&turn=2"));
    assert_eq!(
        (told(&dom, "at"), told(&dom, "beside"), told(&dom, "turn")),
        (sft, oreo, "2".into())
    );
    assert_eq!(told(&dom, "differs"), "2", "the first turn is the same");
    assert!(dom.contains("turn 2: the first that differs") && dom.contains("examine safe 1"));
}

/// Presses keys as a person would, and notes what the page says of itself after each.
const PERSON: &str = r"<script>
const notes = {};
const note = (name) => {
  const { view, rows, at, turn, beside } = document.body.dataset;
  notes[name] = { view, rows, at: at?.split('~')[0], turn, beside: beside?.split('~')[0], focus: document.activeElement.id };
};
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
const steps = [['e'], ['j'], ['ArrowDown'], ['k'], ['ArrowRight', 'ArrowRight', 'ArrowRight', 'ArrowRight'], ['ArrowLeft'], ['/']];
note('opened');
for (const keys of steps) { keys.forEach(press); note(keys[0]); }
const search = document.getElementById('q');
search.value = 'cup 5';
search.dispatchEvent(new Event('input'));
note('searched');
press('j'); note('j in the search');
press('Escape'); note('Escape');
const store = document.getElementById('store');
store.value = '1/eval/oreo-k1.jsonl';
store.dispatchEvent(new Event('change'));
note('filtered');
press('b'); note('b');
press('d'); note('d');
press('Escape'); note('Escape again');
press('?');
notes.help = document.getElementById('help').open;
document.getElementById('help').close();
press('s'); note('s');
notes.address = location.hash;
notes.images = document.querySelectorAll('img, b > b').length;
notes.title = document.title;
const told = document.createElement('template');
told.id = 'notes';
told.setAttribute('data-notes', encodeURIComponent(JSON.stringify(notes)));
document.body.append(told);
</script>";

/// The page without its policy, which would not let a stranger's script run, and with a person in it.
fn with_a_person(browser: &Path, run: &Path) -> Value {
    let (_, page) = written(run, &[]);
    let policy = page.find("<meta http-equiv").unwrap();
    let end = policy + page[policy..].find('\n').unwrap();
    let used =
        page[..policy].to_string() + &page[end..].replace("</body>", &format!("{PERSON}</body>"));
    let path = run.join("used.html");
    fs::write(&path, used).unwrap();
    let (dom, console) = browse(browser, &path, "");
    assert_eq!(console, "");
    let (_, rest) = dom.split_once("data-notes=\"").unwrap();
    let text: Vec<u8> = percent_decoded(rest.split('"').next().unwrap());
    serde_json::from_slice(&text).unwrap()
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

#[test]
fn the_page_is_used_by_keys() {
    let Some(browser) = chromium() else { return };
    let run = run();
    let notes = with_a_person(&browser, run.path());
    let sft = |turn: &str| json!({ "view": "episodes", "rows": "24", "at": "1/eval/sft-k1.jsonl", "turn": turn, "beside": "", "focus": "" });
    assert_eq!(notes["opened"]["view"], "summary");
    for (step, turn) in [
        ("e", "1"),
        ("j", "1"),
        ("ArrowDown", "1"),
        ("k", "1"),
        ("ArrowRight", "3"),
        ("ArrowLeft", "2"),
    ] {
        assert_eq!(notes[step], sft(turn), "{step}");
    }
    assert_eq!(notes["/"]["focus"], "q");
    assert_eq!(
        (&notes["searched"]["rows"], &notes["j in the search"]),
        (&json!("4"), &notes["searched"])
    );
    assert_eq!(
        (&notes["Escape"]["rows"], &notes["Escape"]["focus"]),
        (&json!("24"), &json!("list"))
    );
    assert_eq!(notes["filtered"]["rows"], "6");
    assert_eq!(
        notes["b"]["beside"], "1/eval/oreo-k3.jsonl",
        "the same policy at another K"
    );
    assert_eq!(notes["Escape again"]["beside"], "");
    assert_eq!(
        (&notes["help"], &notes["s"]["view"]),
        (&json!(true), &json!("summary"))
    );
    assert!(
        notes["address"]
            .as_str()
            .unwrap()
            .starts_with("#summary?store=1%2Feval%2Foreo-k1.jsonl"),
        "{notes}"
    );
}

#[test]
fn hostile_text_stays_text_in_a_browser() {
    let Some(browser) = chromium() else { return };
    let folder = tempfile::tempdir().unwrap();
    hostile(folder.path());
    let notes = with_a_person(&browser, folder.path());
    assert_eq!(notes["images"], 0);
    assert_eq!(notes["title"], format!("{HOSTILE} · hearth"));
}
