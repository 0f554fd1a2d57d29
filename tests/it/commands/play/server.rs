//! A policy on a server: a stub in this process, and llama.cpp's own server if there is one.

use crate::tiny;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::server::{HttpReply, Server, friendly};

const SECRET: &str = "sk-do-not-tell";

fn hearth(folder: &Path, arguments: &[&str], key: (&str, &str)) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("OPENAI_API_KEY")
        .env(key.0, key.1)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn json_of(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, text: &str) {
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(2), text)
    );
}

/// A server that answers `look` if the request has the key.
fn looker() -> Server {
    Server::start(|_, heard| match heard.line.as_str() {
        _ if heard.authorization.as_deref() != Some(&format!("Bearer {SECRET}")) => {
            HttpReply::new(401, "{}")
        }
        "GET /v1/models" => HttpReply::new(200, json!({"data": [{"id": "m"}]})),
        _ => HttpReply::completion("look"),
    })
}

#[test]
fn a_server_plays_collects_and_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    tiny::suite(&folder.path().join("games"));
    let server = looker();
    let policy = server.policy();
    let run = |command: &[&str]| {
        let output = hearth(
            folder.path(),
            &[command, &["--policy", &policy, "--turns", "2", "--json"]].concat(),
            ("MY_KEY", SECRET),
        );
        assert!(!format!("{output:?}").contains(SECRET));
        output
    };
    let keyed = ["--api-key-env", "MY_KEY"];
    let played = json_of(&run(&[&["play"], &keyed[..]].concat()));
    assert_eq!(
        (&played["policy"], &played["outcome"]),
        (
            &json!(format!("openai:{}#m", server.address)),
            &json!("turn_limit")
        )
    );
    assert_eq!(
        (
            &played["turns"][1]["completion"],
            &played["protocol"]["stop"]
        ),
        (&json!("look"), &json!(["\n"]))
    );
    let instructions = played["protocol"]["instructions"].as_str().unwrap();
    let first = server.turns()[0].body["messages"][0]["content"]
        .as_str()
        .unwrap()
        .to_string();
    assert_eq!(
        first,
        format!(
            "{instructions}\n\n{}",
            played["turns"][0]["observation"].as_str().unwrap()
        )
    );

    fs::write(folder.path().join("house.txt"), "Tidy up.\n").unwrap();
    let own = json_of(&run(&[
        &["play", "--instructions", "house.txt", "--stop", ""],
        &keyed[..],
    ]
    .concat()));
    assert_eq!(
        (
            &own["protocol"]["instructions"],
            own["protocol"].get("stop")
        ),
        (&json!("Tidy up."), None)
    );
    let none = json_of(&run(&[&["play", "--no-instructions"], &keyed[..]].concat()));
    assert_eq!(none["protocol"].get("instructions"), None);

    let collect = [
        &[
            "collect",
            "--suite",
            "games",
            "--repetitions",
            "1",
            "--out",
            "store.jsonl",
        ],
        &keyed[..],
    ]
    .concat();
    let collected = json_of(&run(&collect));
    assert_eq!(
        (
            &collected["episodes"],
            &collected["successes"],
            &collected["lost"]
        ),
        (&json!(6), &json!(0), &json!(0))
    );
    let asked = server.turns().len();
    assert_eq!(json_of(&run(&collect)), collected);
    assert_eq!(
        server.turns().len(),
        asked,
        "existing episodes are not played again"
    );
    let job = "name = \"imitate\"\nfrom = \"fresh\"\ndata = [\"demonstrations\"]\noptimizer = { batch = 2, updates = 1 }\nalgorithm = { kind = \"sft\", targets = \"actions\" }\n";
    fs::write(folder.path().join("job.toml"), job).unwrap();
    fs::write(folder.path().join("tiny.toml"), tiny::RECIPE).unwrap();
    let train = [
        "train",
        "job.toml",
        "--data",
        "store.jsonl",
        "--model",
        "tiny.toml",
        "--out",
        "student",
        "--json",
    ];
    let trained = json_of(&hearth(folder.path(), &train, ("MY_KEY", "")));
    assert_eq!(
        (&trained["given"], &trained["read"]["left_out"]["empty"]),
        (&json!(6), &json!(0)),
        "read as texts"
    );

    let measured = json_of(&run(&[&EVAL[..], &["--out", "out"], &keyed[..]].concat()));
    assert_eq!(
        (
            &measured["rows"][0]["n"],
            &measured["rows"][0]["env_failed"]
        ),
        (&json!(3), &json!(0))
    );
    let files = [
        folder.path().join("store.jsonl"),
        folder.path().join("out/eval.json"),
    ];
    assert!(
        files
            .iter()
            .all(|file| !fs::read_to_string(file).unwrap().contains(SECRET))
    );
}

/// The beginning of every evaluation here.
const EVAL: [&str; 5] = ["eval", "--suite", "games", "--split", "valid_seen"];

#[test]
fn lost_episodes_are_counted_on_the_screen() {
    let folder = tempfile::tempdir().unwrap();
    tiny::suite(&folder.path().join("games"));
    let server = friendly(|number, _| {
        if number == 0 {
            HttpReply::new(400, "{\"error\": \"too rude\"}")
        } else {
            HttpReply::completion("look")
        }
    });
    let policy = server.policy();
    let own = ["--policy", &policy, "--turns", "2", "--out", "out"];
    let arguments = [&EVAL[..], &own].concat();
    let output = hearth(
        folder.path(),
        &[&arguments[..], &["--concurrency", "1"]].concat(),
        ("MY_KEY", ""),
    );
    let (said, table) = (
        String::from_utf8(output.stderr).unwrap(),
        String::from_utf8(output.stdout).unwrap(),
    );
    let line = format!(
        "1 of 3 episodes were lost and count neither as won nor as not won; the last: openai:{}#m: HTTP 400: too rude\n\
         warning: episodes-k1.jsonl: 1 of 3 episodes were lost to the world and count nowhere\n",
        server.address
    );
    assert!(output.status.success() && said.ends_with(&line), "{said}");
    let line = "2 turns, full history, no admissible list, with instructions, greedy, stopped at [\"\\n\"], malformed";
    assert!(table.contains(line), "{table}");
    let play = hearth(
        folder.path(),
        &[
            "play",
            "--policy",
            &friendly(|_, _| HttpReply::new(400, "no")).policy(),
        ],
        ("MY_KEY", ""),
    );
    assert_eq!(play.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&play.stderr).contains("#m: HTTP 400: no"),
        "{play:?}"
    );
}

#[test]
fn a_server_that_cannot_play_is_wrong_use() {
    let folder = tempfile::tempdir().unwrap();
    let server = looker();
    let (policy, name) = (server.policy(), format!("openai:{}#m", server.address));
    let play = |more: &[&str], key| hearth(folder.path(), &[&["play"], more].concat(), key);
    let none = ("MY_KEY", "");
    refused(
        &play(&["--policy", &policy, "--best-of", "3"], none),
        "error: --best-of: a value network chooses the best of K, and a server has none; only K = 1 works\n",
    );
    refused(
        &play(&["--policy", &policy], none),
        &format!(
            "error: {name}: HTTP 401: {{}}\nhint: put its key into OPENAI_API_KEY, or name the variable that holds it with --api-key-env\n"
        ),
    );
    refused(
        &play(&["--policy", &policy, "--api-key-env", "NO_SUCH_KEY"], none),
        "error: the environment variable NO_SUCH_KEY is not set\nhint: export it, or omit --api-key-env\n",
    );
    refused(
        &play(
            &["--policy", &policy, "--api-key-env", "MY_KEY"],
            ("MY_KEY", "two words"),
        ),
        "error: the environment variable MY_KEY contains no key that fits into an HTTP header\n",
    );
    assert!(
        play(
            &["--policy", &policy, "--turns", "1"],
            ("OPENAI_API_KEY", SECRET)
        )
        .status
        .success()
    );
    let form =
        "\nhint: the form is openai:URL#MODEL, as in openai:http://127.0.0.1:8000/v1#my-model\n";
    refused(
        &play(&["--policy", "openai:http://me:word@127.0.0.1/v1#m"], none),
        &format!(
            "error: openai:: a URL with a user or a password is refused; a key is taken from the environment alone{form}"
        ),
    );
    refused(
        &play(&["--policy", &policy, "--request-timeout", "0"], none),
        "error: --request-timeout 0: must be above 0 seconds\n",
    );
    refused(
        &play(&["--policy", &policy, "--concurrency", "0"], none),
        "error: --concurrency: N starts at 1\n",
    );
}

/// `python -m llama_cpp.server` with SmolLM2-135M-Instruct on a port of loopback. It ends when the
/// value is dropped.
struct LlamaServer {
    child: Child,
    policy: String,
}

impl LlamaServer {
    fn start(more: &[&str]) -> Self {
        let python = required("HEARTH_LLAMA_SERVER_PYTHON");
        let model = required("HEARTH_SMOLLM2_GGUF");
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
            .to_string();
        let child = Command::new(python)
            .args([
                "-m",
                "llama_cpp.server",
                "--model_alias",
                "smollm2",
                "--host",
                "127.0.0.1",
                "--port",
                &port,
            ])
            .args(["--n_threads", "1", "--n_threads_batch", "1", "--model"])
            .arg(model)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            child,
            policy: format!("openai:http://127.0.0.1:{port}/v1/#smollm2"),
        };
        let begun = Instant::now();
        while std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "the server does not start"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        server
    }
}

/// The value of an environment variable that a test needs.
fn required(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set"))
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "needs llama.cpp's server (HEARTH_LLAMA_SERVER_PYTHON) and HEARTH_SMOLLM2_GGUF"]
fn llama_cpps_server_plays_a_generated_game() {
    let server = LlamaServer::start(&["--n_ctx", "768"]);
    let folder = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        hearth(
            folder.path(),
            &[more, &["--policy", &server.policy, "--json"]].concat(),
            ("MY_KEY", ""),
        )
    };
    let output = run(&["play", "--turns", "2"]);
    let played = json_of(&output);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "",
        "it refuses no field"
    );
    println!("{played}");
    let turns = played["turns"].as_array().unwrap();
    assert_eq!((turns.len(), &played["outcome"]), (2, &json!("turn_limit")));
    for turn in turns {
        let text = turn["completion"].as_str().unwrap();
        let logprobs: Vec<f64> = turn["logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p.as_f64().unwrap())
            .collect();
        assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
        assert!(
            turn["completion_tokens"].as_array().unwrap().is_empty(),
            "it tells no ids"
        );
        assert!((1..=25).contains(&logprobs.len()), "{logprobs:?}");
        assert!(
            logprobs.iter().all(|p| (-20.0..=0.0).contains(p)),
            "{logprobs:?}"
        );
        assert!(logprobs.iter().any(|p| *p < -1e-4), "{logprobs:?}");
    }
    let sampled = |seed: &str| {
        json_of(&run(&[
            "play",
            "--turns",
            "1",
            "--temperature",
            "1",
            "--seed",
            seed,
        ]))
    };
    assert_eq!(
        sampled("1")["turns"][0]["completion"],
        sampled("1")["turns"][0]["completion"],
        "the seed decides"
    );
    let tempered = json_of(&run(&["play", "--turns", "1", "--temperature", "0.5"]));
    assert_eq!(tempered["turns"][0]["logprobs"], json!([]));

    tiny::suite(&folder.path().join("games"));
    let few = ["--games", "2", "--repetitions", "1", "--turns", "1"];
    let collected = json_of(&run(&[
        &["collect", "--suite", "games", "--out", "store.jsonl"],
        &few[..],
    ]
    .concat()));
    assert_eq!(
        (&collected["episodes"], &collected["lost"]),
        (&json!(2), &json!(0))
    );
}

#[test]
#[ignore = "needs llama.cpp's server (HEARTH_LLAMA_SERVER_PYTHON) and HEARTH_SMOLLM2_GGUF"]
fn llama_cpps_server_refuses_what_it_does_not_support() {
    let server = LlamaServer::start(&["--n_ctx", "512", "--logits_all", "false"]);
    let folder = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| hearth(folder.path(), &[more, &["--json"]].concat(), ("MY_KEY", ""));
    let output = run(&["play", "--policy", &server.policy, "--turns", "40"]);
    let played = json_of(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with(
            "note: asked without log-probabilities, which the server refuses (HTTP 500: "
        ),
        "{said}"
    );
    assert_eq!(played["outcome"], json!("context_limit"), "{played}");
    assert!(!played["turns"].as_array().unwrap().is_empty(), "{played}");
    let other = run(&[
        "play",
        "--policy",
        &server.policy.replace("smollm2", "gpt-9"),
    ]);
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(
        other.status.code() == Some(2)
            && said.contains("the server has no such model; it lists smollm2\n"),
        "{said}"
    );
}

/// A labelled command is read in its format, logged as such, and replayed. In another format, a note says that the success
/// rate means nothing, and a round without any episode fails.
#[test]
fn the_format_of_a_command_is_part_of_the_measurement() {
    let folder = tempfile::tempdir().unwrap();
    tiny::suite(&folder.path().join("games"));
    let server = friendly(|_, _| HttpReply::completion("<think>a</think><action>Look</action>"));
    let policy = server.policy();
    let run = |arguments: &[&str]| hearth(folder.path(), arguments, ("NO_KEY", ""));
    let eval = |out: &str, more: &[&str]| {
        let own = ["--policy", &policy, "--turns", "9", "--out", out, "--json"];
        run(&[&EVAL[..], &own, more].concat())
    };
    let tags = json_of(&eval("tags", &["--action-format", "tags"]));
    assert_eq!(tags["protocols"][0]["action_format"], json!("tags"));
    assert_eq!(
        tags["protocols"][0].get("stop"),
        None,
        "a command may follow the first line"
    );
    assert_eq!(tags["notes"], json!([]));
    assert_eq!(tags["rows"][0]["malformed_share"], json!(0.0));
    let checked = run(&[
        "verify",
        "tags/episodes-k1.jsonl",
        "--suite",
        "games",
        "--json",
    ]);
    assert_eq!(json_of(&checked)["differences"], json!(0), "{checked:?}");

    let plain = json_of(&eval("plain", &[]));
    let note = plain["notes"][0].as_str().unwrap();
    assert!(note.contains("understood none of the"), "{note}");
    for (flag, value) in [("--thinking", "off"), ("--template", "x.jinja")] {
        let output = eval("refused", &[flag, value]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("only a model folder has it"), "{text}");
    }

    let broken =
        friendly(|_, _| HttpReply::new(200, json!({"error": {"message": "down", "code": 400}})));
    let policy = broken.policy();
    let own = ["--policy", &policy, "--retries", "0", "--out", "lost"];
    let output = run(&[&EVAL[..], &own].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was measured"));
}
