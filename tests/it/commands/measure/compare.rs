//! `hearth compare`: two policies game by game.

use crate::binary::hearth_line;
use crate::binary::with_games;
use serde_json::json;
use std::fs;

#[test]
fn two_policies_are_compared_with_every_difference_named() {
    let (folder, _) = with_games();
    let run = |arguments: &str| hearth_line(folder.path(), arguments);
    run("eval --policy expert --suite games --out a --json").json();
    run("eval --policy expert --suite games --out b --turns 7 --json").json();
    run("eval --policy expert --suite games --split train --out train --json").json();

    let same = run("compare a a --json").json();
    assert_eq!(same["warnings"], json!([]));
    let row = &same["rows"][0];
    assert_eq!(
        (&row["games"], &row["difference"], &row["p_value"]),
        (&json!(3), &json!(0.0), &json!(1.0))
    );

    let compared = run("compare a b --json").json();
    assert_eq!(
        compared["warnings"],
        json!(["protocol.turn_limit: 40 against 7"])
    );
    let alone = |key: &str| -> u64 {
        let rows = compared["rows"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["task_type"].is_null());
        rows.map(|row| row[key].as_u64().unwrap()).sum()
    };
    assert!(
        alone("first_alone") > 0 && alone("second_alone") == 0,
        "fewer turns win no other game: {compared}"
    );
    let table = run("compare a@1 b");
    assert!(
        table.stdout.contains("A alone : B alone")
            && table.stdout.contains("sign-flip p")
            && !table.stdout.contains("t-test p")
            && table.stdout.contains("\nA: a@1, policy expert\n"),
        "{}",
        table.stdout
    );
    assert_eq!(table.stderr, "warning: protocol.turn_limit: 40 against 7\n");

    let turns = &compared["rows"][0]["turns"];
    assert!(
        turns["first"].as_f64() >= turns["second"].as_f64(),
        "a limit of seven turns ends lost episodes: {compared}"
    );
    assert!(row["runs"].is_null());
    let of_runs = run("compare a,b b,a --json").json();
    let runs = &of_runs["rows"][0]["runs"];
    let difference = compared["rows"][0]["difference"].as_f64().unwrap();
    assert_eq!(runs["differences"], json!([difference, -difference]));
    assert_eq!(runs["p_value"], json!(1.0));
    assert!(run("compare a,b b,a").stdout.contains("t-test p"));

    run("compare a train").refused_with("a and train have no game in common");
    run("compare a@5 b")
        .refused_with("error: a@5: no policy and K matches\nhint: there are :expert@1\n");
    for name in ["c", "d"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::copy(
            folder.path().join("a/eval.csv"),
            folder.path().join(name).join("eval.csv"),
        )
        .unwrap();
    }
    let added = run("compare c d --json").json();
    assert_eq!(
        (&added["rows"][0]["n"], &added["rows"][0]["successes"]),
        (&json!(6), &json!(6)),
        "tables alone: {added}"
    );
    run("compare c a").refused_with("error: c: this folder does not record single games\nhint: ");
    run("compare a nowhere:oreo").refused_with("error: nowhere: no such folder\n");

    fs::remove_file(folder.path().join("b/eval-card.json")).unwrap();
    let bare = run("compare a b --json").json();
    assert_eq!(bare["rows"], compared["rows"], "the store tells the games");
    let warning = "b has no eval-card.json, so its suite, seeds, code and checkpoint are not known";
    assert_eq!(
        bare["warnings"],
        json!([warning, "protocol.turn_limit: 40 against 7"])
    );
}
