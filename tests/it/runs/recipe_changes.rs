//! A changed recipe: what is kept, what is made anew, and what is refused.

use super::pipeline::{Notes, changed, cut_last_lines, go, recipe, states};
use crate::tiny;
use crate::tiny::files;
use agent::inference::device::DeviceChoice;
use env_bridge::NativeWorld;
use scenarios::Split;
use scenarios::household::{self, GenerateOptions};
use scenarios::store::Store;
use std::fs;
use std::path::Path;
use trainer::pipeline::recipe::GamesRecipe;
use trainer::pipeline::run::{RunOptions, follow};
use trainer::pipeline::status::{StageState, status};

/// If the games or the seed differ, nothing can be reused, so it is another run.
#[test]
fn a_recipe_of_other_games_or_another_seed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let few = |text: &str| -> String { text.replace("iterations = 2", "iterations = 0") };
    go(&recipe(few), folder.path()).unwrap();
    let before = files(folder.path());
    for (from, to, why) in [
        ("seed = 3", "seed = 4", "`seed` is 4 and was 3"),
        ("train = 12", "train = 13", "`games.train` is 13 and was 12"),
    ] {
        let other = recipe(|text| few(text).replacen(from, to, 1));
        let Err(error) = go(&other, folder.path()) else {
            panic!("{why}")
        };
        let path = folder.path().join("recipe.toml").display().to_string();
        let expected = format!(
            "{path}: another recipe has run here: {why}, and every stage follows from that\nhint: choose another --out, or remove this folder"
        );
        assert_eq!(error.to_string(), expected);
        assert!(
            files(folder.path()) == before,
            "the run that was there is untouched"
        );
    }
}

/// If a stage does not depend on the change, its files stay the same, byte for byte. If it does, it
/// is made anew, and the old files are moved aside. If the old recipe returns, they come back
/// without an episode being played.
#[test]
fn a_changed_recipe_repeats_only_what_depends_on_the_change() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let one = |text: &str| -> String { text.replace("iterations = 2", "iterations = 1") };
    let first = go(&recipe(one), out).unwrap();
    let before = files(out);

    let more = go(
        &recipe(|text| one(text).replace("best_of = [1, 2]", "best_of = [1, 2, 3]")),
        out,
    )
    .unwrap();
    assert_eq!(more.opened, 4, "the new K");
    let sheets = [
        "eval-card.json",
        "eval-failures.csv",
        "eval-games.csv",
        "eval.csv",
        "recipe.toml",
    ];
    assert_eq!(changed(&before, &files(out)), sheets);
    assert!(
        more.notes[0].starts_with("the recipe has changed; the one before is kept in "),
        "{:?}",
        more.notes
    );

    let beta = |text: &str| {
        one(text)
            .replace("beta = 0.1", "beta = 0.2")
            .replace("[1, 2]", "[1]")
    };
    let other = go(&recipe(beta), out).unwrap();
    assert_eq!(other.opened, 4, "OREO's model, greedily");
    let notes = other.notes.join("\n");
    for said in [
        "1/eval/oreo-k2 is not asked for by the recipe any more; it is kept in aside/1/eval/oreo-k2.",
        "1/oreo is out of date, as `job.algorithm.beta` is 0.2 and was 0.1; it is kept in aside/1/oreo.",
        "1/eval/oreo-k1 is out of date, as `policy` is \"",
    ] {
        assert!(notes.contains(said), "{notes}");
    }
    let now = files(out);
    let (oreo, kept) = ("1/oreo/model.safetensors", |path: &Path| {
        path.starts_with("aside/1")
    });
    assert_ne!(now[Path::new(oreo)], before[Path::new(oreo)]);
    assert!(
        now.iter()
            .any(|(path, bytes)| kept(path) && *bytes == before[Path::new(oreo)]),
        "it is kept"
    );
    assert!(
        changed(&before, &now)
            .iter()
            .all(|path| path.contains("oreo") || !path.starts_with("1/"))
    );

    let back = go(&recipe(one), out).unwrap();
    assert_eq!((back.opened, back.report.rows), (0, first.report.rows));
    assert_eq!(changed(&before, &files(out)), [""; 0]);
    assert!(
        back.notes
            .iter()
            .any(|note| note == "1/oreo is taken again from what was moved aside"),
        "{:?}",
        back.notes
    );
}

/// If a folder has no manifests, as in the first versions, it is continued with its own recipe and
/// refused with another.
#[test]
fn a_run_without_manifests_is_used_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let one = |text: &str| -> String { text.replace("iterations = 2", "iterations = 1") };
    let first = go(&recipe(one), out).unwrap();
    for path in files(out)
        .into_keys()
        .filter(|path| path.to_string_lossy().ends_with("stage.json"))
    {
        fs::remove_file(out.join(path)).unwrap();
    }
    let before = files(out);
    let Err(error) = go(
        &recipe(|text| one(text).replace("beta = 0.1", "beta = 0.2")),
        out,
    ) else {
        panic!("refused")
    };
    assert!(
        error
            .to_string()
            .contains("another recipe has run here: demonstrations does not say"),
        "{error}"
    );
    assert_eq!(changed(&before, &files(out)), [""; 0]);
    let unsigned = &states(&recipe(one), out)[1];
    assert_eq!(
        *unsigned,
        ("demonstrations".to_string(), StageState::Partial, 12, 0)
    );
    let again = go(&recipe(one), out).unwrap();
    assert_eq!((again.opened, again.report.rows), (0, first.report.rows));
    assert_eq!(changed(&before, &files(out)), [""; 0]);
    assert!(
        status(&recipe(one), out)
            .unwrap()
            .iter()
            .all(|stage| stage.state == StageState::Done)
    );
}

/// The branches and rescues of an iteration come after its rollouts. If one of the stores is cut, only what is
/// missing is played, and the store ends in the same bytes. If the tables change, only these stages run again.
#[test]
fn branches_and_rescues_are_stages_after_the_rollouts() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let with = |discount: &str| {
        recipe(|text| {
            let text = text.replace("iterations = 2", "iterations = 1");
            let reads = "[\"demonstrations\", \"rollouts\", \"rescues\"]";
            let text = text.replacen("[\"demonstrations\", \"rollouts\"]", reads, 1);
            let tables = format!(
                "[branch]\ncandidates = 2\nrollouts = 1\ndiscount = {discount}\n\n\
                 [rescue]\ncompletions = 2\nwins = 1\nstride = 5\n\n[[train]]"
            );
            text.replacen("[[train]]", &tables, 1)
        })
    };
    go(&with("0.9"), out).unwrap();
    let names: Vec<String> = states(&with("0.9"), out)
        .into_iter()
        .map(|(stage, state, done, of)| {
            assert_eq!((state, done), (StageState::Done, of), "{stage}");
            stage
        })
        .collect();
    let order = [
        "1/sft",
        "1/rollouts",
        "1/branches",
        "1/rescues",
        "1/rejection-sampling",
    ];
    assert_eq!(names[2..7], order);
    let branches = Store::read(out.join("1/branches.jsonl")).unwrap();
    assert_eq!(branches.len(), 3, "one state of each rollout");
    assert!(branches.iter().all(|record| record.branch.is_some()));
    assert!(!out.join("1/rescues.jsonl.played.jsonl").exists());

    let before = files(out);
    assert_eq!(go(&with("0.9"), out).unwrap().opened, 0);
    cut_last_lines(&out.join("1/branches.jsonl"));
    let continued = go(&with("0.9"), out).unwrap();
    assert!(continued.opened > 0);
    let differ = changed(&before, &files(out));
    assert!(
        differ
            .iter()
            .all(|path| path.ends_with("stage.json") || path == "run.json"),
        "{differ:?}"
    );

    let changed = go(&with("0.8"), out).unwrap();
    assert!(changed.opened > 0);
    let again = Store::read(out.join("1/branches.jsonl")).unwrap();
    let info = again[0].branch.as_ref().unwrap();
    assert_eq!(
        (info.discount, info.source.as_str()),
        (0.8, "rollouts.jsonl")
    );
    for kept in [
        "1/rollouts.jsonl",
        "1/rescues.jsonl",
        "1/oreo/model.safetensors",
    ] {
        assert_eq!(
            before[Path::new(kept)],
            files(out)[Path::new(kept)],
            "{kept}"
        );
    }
}

/// Games outside the run folder are recorded by their hash. If they change, the run is refused.
#[test]
fn a_run_on_a_folder_of_games_is_bound_to_these_games() {
    let folder = tempfile::tempdir().unwrap();
    let (games, out) = (folder.path().join("games"), folder.path().join("run"));
    let suite = tiny::suite(&games);
    fs::remove_file(games.join("suite.jsonl")).unwrap();
    let mut recipe = recipe(|text| text.replace("iterations = 2", "iterations = 0"));
    recipe.games = GamesRecipe::Folder {
        path: games.clone(),
        practice: Vec::new(),
    };
    let followed = go(&recipe, &out).unwrap();
    assert_eq!(followed.report.suite, suite.hash());
    assert_eq!(go(&recipe, &out).unwrap().opened, 0);
    let damaged = &suite.split(Split::ValidSeen)[0].path;
    fs::write(damaged, "{").unwrap();
    let notes = Notes::default();
    let Err(error) = follow(
        &recipe,
        &out,
        &NativeWorld::new(),
        &notes,
        &RunOptions::alone(DeviceChoice::Cpu, "test"),
    ) else {
        panic!("a game less")
    };
    assert!(
        error
            .to_string()
            .contains("run.json: the games are not those that this run began with"),
        "{error}"
    );
    let notes = notes.0.into_inner().unwrap();
    assert!(
        notes[0].starts_with(&format!("left out: {}: not a game: ", damaged.display())),
        "{notes:?}"
    );
    assert_eq!(notes[1], "1 games of games are left out");
}

/// If a job gets a reading test, the job is trained again and logs the test. Its model stays the
/// same, so no other stage runs again. The expert plays the games of valid_train for the test.
#[test]
fn a_reading_test_changes_nothing_but_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let one = |text: &str| -> String {
        text.replace("iterations = 2", "iterations = 1")
            .replace("valid_train = 2", "valid_train = 9")
    };
    let before = go(&recipe(one), out).unwrap();
    let tested = go(
        &recipe(|text| one(text).replacen("optimizer", "reading_every = 2\noptimizer", 1)),
        out,
    )
    .unwrap();
    assert_eq!(tested.opened, 9, "the games of the test");
    assert_eq!(tested.report.rows, before.report.rows);
    let log = fs::read_to_string(out.join("1/sft/metrics.csv")).unwrap();
    let rows: Vec<Vec<&str>> = log.lines().map(|line| line.split(',').collect()).collect();
    let columns = rows[0].len() - 4;
    assert_eq!(rows[0][columns], "reading/there");
    let filled: Vec<bool> = rows[1..]
        .iter()
        .map(|row| !row[columns].is_empty())
        .collect();
    assert_eq!(filled, [false, true, true]);
}

/// The expert and the collector play the train games of a practice suite too; no evaluation does. If a
/// practice suite is added to a run, the stages that play train games are repeated, and the games stay.
#[test]
fn a_practice_suite_adds_train_games_to_the_stages_that_play_them() {
    let folder = tempfile::tempdir().unwrap();
    let (more, out) = (folder.path().join("more"), folder.path().join("run"));
    let practice = household::generate(
        &more,
        &GenerateOptions {
            seed: 77,
            train: 6,
            valid_train: 0,
            seen: 2,
            unseen: 0,
            ..GenerateOptions::default()
        },
    )
    .unwrap();
    let none = recipe(|text| text.replace("iterations = 2", "iterations = 0"));
    go(&none, &out).unwrap();
    let demonstrations = || Store::read(out.join("demonstrations.jsonl")).unwrap();
    let before = demonstrations();
    let mut both = none.clone();
    let GamesRecipe::Household {
        practice: paths, ..
    } = &mut both.games
    else {
        panic!("the tiny recipe generates games")
    };
    paths.push(more.clone());
    assert_eq!(
        states(&both, &out)[..2]
            .iter()
            .map(|state| state.1)
            .collect::<Vec<_>>(),
        [StageState::Done, StageState::OutOfDate]
    );
    go(&both, &out).unwrap();
    let after = demonstrations();
    let practised: Vec<_> = practice
        .split(Split::Train)
        .iter()
        .map(|task| &task.hash)
        .collect();
    let (own, added): (Vec<_>, Vec<_>) = after
        .iter()
        .partition(|episode| !practised.contains(&&episode.game_hash));
    assert_eq!((own.len(), added.len()), (before.len(), 6));
    assert_eq!(states(&both, &out)[1].1, StageState::Done);
    assert_eq!(go(&both, &out).unwrap().opened, 0);

    let games = out.join("games");
    let GamesRecipe::Household {
        practice: paths, ..
    } = &mut both.games
    else {
        panic!("the tiny recipe generates games")
    };
    *paths = vec![games];
    let Err(error) = go(&both, &out) else {
        panic!("the same games twice")
    };
    assert!(
        error.to_string().contains("is also the game") && error.to_string().contains("\nhint: "),
        "{error}"
    );
}
