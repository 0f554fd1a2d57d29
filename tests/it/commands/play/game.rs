//! `hearth play`: the expert, a model and a person.

use crate::binary::{hearth, hearth_told, with_games};
use crate::commands::models::save_model;
use serde_json::json;

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
