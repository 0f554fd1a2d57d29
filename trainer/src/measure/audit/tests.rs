use super::training::room;
use super::*;
use crate::measure::card::{Card, CardInputs, Lineage};
use scenarios::{
    Outcome, Protocol, Scorer, Search, Spent, Split, Suite, Task, TaskType, Trajectory, Turn,
};
use std::path::{Path, PathBuf};

const ROOM: &str = "pick_and_place_simple-Mug-None-Desk";

fn task(split: Split, room: &str) -> Task {
    Task {
        id: format!("{split}/{ROOM}-{room}/trial_1"),
        split,
        task_type: Some(TaskType::PickAndPlaceSimple),
        path: PathBuf::new(),
        hash: format!("{split} {room}"),
    }
}

fn suite() -> Suite {
    let tasks = vec![
        task(Split::Train, "301"),
        task(Split::Train, "L302"),
        task(Split::ValidSeen, "301"),
        task(Split::ValidUnseen, "308"),
    ];
    Suite {
        name: "s".into(),
        root: PathBuf::new(),
        tasks,
        faults: Vec::new(),
        left_out: Vec::new(),
        unmarked: Vec::new(),
    }
}

/// Returns a won episode of a game.
fn won(task: &Task) -> Trajectory {
    let turn = Turn {
        observation: "o".into(),
        action: Some("look".into()),
        ..Turn::default()
    };
    Trajectory {
        format: Trajectory::FORMAT,
        game: task.id.clone(),
        game_hash: task.hash.clone(),
        split: task.split,
        task_type: task.task_type,
        repetition: 0,
        seed: 1,
        policy: "p".into(),
        value_policy: None,
        protocol: Protocol::default(),
        turns: vec![turn],
        last_observation: "You move the mug 1 to the desk 1.".into(),
        outcome: Outcome::Success,
        reward: 1.0,
        failure: None,
        seconds: 0.0,
        spent: Spent::default(),
        branch: None,
    }
}

/// The records of a run without findings: each of the two test games was played once, and the
/// training data are the two games of the train split.
struct Run {
    suite: Suite,
    episodes: Vec<Trajectory>,
    learned: Vec<TrainingGame>,
    lineages: Vec<(String, Lineage)>,
    checkpoint: &'static str,
}

fn clean() -> Run {
    let suite = suite();
    let learned = suite.tasks[..2].iter().map(|task| TrainingGame {
        game: task.id.clone(),
        game_hash: task.hash.clone(),
        split: task.split,
    });
    let lineage = Lineage {
        checkpoint: "last update".into(),
        games: [(Split::Train, 2)].into(),
        extensions: Vec::new(),
        permuted: 0,
        start: None,
    };
    Run {
        episodes: suite.tasks[2..].iter().map(won).collect(),
        learned: learned.collect(),
        lineages: vec![("m".into(), lineage)],
        checkpoint: "lowest loss on held-out games of its data",
        suite,
    }
}

impl Run {
    fn audit(&self) -> Audit {
        let made = CardInputs {
            permuted_games: 0,
            suite: &self.suite,
            seeds: &[1],
            repetitions: 1,
            checkpoint: self.checkpoint,
            extensions: &[],
            code: "test",
            store: Path::new("store.jsonl"),
        };
        let card = Card {
            splits: vec![Split::ValidSeen, Split::ValidUnseen],
            ..Card::new("p", &made, &self.episodes)
        };
        let measured = MeasuredEpisodes {
            name: "store.jsonl",
            episodes: &self.episodes,
            card: Some(&card),
        };
        audit(&Evidence {
            measured: vec![measured],
            learned: &self.learned,
            lineages: &self.lineages,
            suite: Some(&self.suite),
        })
    }
}

/// Asserts the findings after a change to a run without findings.
#[track_caller]
fn assert_findings(change: impl FnOnce(&mut Run), expected: &[(FindingKind, &str)]) {
    let mut run = clean();
    change(&mut run);
    let found = run.audit().findings;
    let found: Vec<_> = found
        .iter()
        .map(|finding| (finding.id, finding.text.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_clean_run_gives_no_finding() {
    assert_eq!(clean().audit(), Audit::default());
}

/// A note is named, and is no problem.
#[test]
fn practice_in_other_rooms_is_a_note() {
    let mut audit = Audit::default();
    audit.found(FindingKind::TrainedOnPermutedRooms, "a".into());
    assert_eq!(
        (audit.findings[0].severity, audit.problems()),
        (Severity::Note, 0)
    );
    audit.found(FindingKind::GamesMissing, "b".into());
    audit.found(FindingKind::TrainedOnUnseenRoom, "c".into());
    assert_eq!((audit.findings.len(), audit.problems()), (3, 2));
}

/// Permuted games are counted from the training stores. If there are none, from the lineage.
#[test]
fn training_games_in_other_rooms_are_named() {
    assert_findings(
        |run| run.learned[0].game += "-permuted-s1-v0",
        &[(
            FindingKind::TrainedOnPermutedRooms,
            "trained on rooms permuted from train: 1 of 2 games that were learned from",
        )],
    );
    assert_findings(
        |run| {
            run.lineages[0].1.start = Some(Box::new(Lineage {
                permuted: 7,
                ..run.lineages[0].1.clone()
            }));
        },
        &[(
            FindingKind::TrainedOnPermutedRooms,
            "m: trained on rooms permuted from train: 7 games",
        )],
    );
    let generated = "train/pick_and_place_simple-Mug-None-Desk-A303/trial_1";
    assert_findings(
        |run| {
            run.learned[0].game = generated.into();
            run.learned[0].game_hash = "practice".into();
        },
        &[(
            FindingKind::TrainedOnGeneratedRooms,
            "trained on generated rooms: 1 of 2 games that were learned from",
        )],
    );
}

#[test]
fn protocols_with_extra_information_are_found() {
    assert_findings(
        |run| {
            run.episodes
                .iter_mut()
                .for_each(|t| t.protocol.admissible_shown = true)
        },
        &[(
            FindingKind::AdmissibleShown,
            "store.jsonl: the admissible commands were shown in 2 of 2 episodes",
        )],
    );
    assert_findings(
        |run| {
            for episode in &mut run.episodes {
                episode.protocol.best_of = 4;
                episode.protocol.scorer = Scorer::Oracle;
                episode.protocol.search = Some(Search::Beam { width: 2 });
            }
        },
        &[
            (
                FindingKind::OracleScorer,
                "store.jsonl: a clairvoyant oracle, which reads the hidden state of the world, selected the candidates in 2 of 2 episodes",
            ),
            (
                FindingKind::WorldCopies,
                "store.jsonl: a search executed commands in copies of the world in 2 of 2 episodes",
            ),
        ],
    );
    assert_findings(
        |run| {
            for episode in &mut run.episodes {
                episode.protocol.best_of = 4;
                episode.protocol.scorer = Scorer::Expert;
            }
        },
        &[(
            FindingKind::ExpertScorer,
            "store.jsonl: the expert selected the candidates, so the result is a bound and not that of the policy in 2 of 2 episodes",
        )],
    );
    for scorer in [Scorer::Oracle, Scorer::Expert] {
        assert_findings(
            |run| {
                run.episodes
                    .iter_mut()
                    .for_each(|t| t.protocol.scorer = scorer)
            },
            &[],
        );
    }
}

#[test]
fn test_games_and_rooms_that_were_learned_from_are_found() {
    let seen = format!("valid_seen/{ROOM}-301/trial_1");
    let unseen = format!("valid_unseen/{ROOM}-308/trial_1");
    assert_findings(
        |run| run.learned[0].game_hash = "valid_seen 301".into(),
        &[(
            FindingKind::TrainedOnTestGame,
            &format!(
                "1 of 2 test games stand in the episodes that were learned from, for example {seen}"
            ),
        )],
    );
    assert_findings(
        |run| run.learned[0].game = format!("train/{ROOM}-308/trial_9"),
        &[(
            FindingKind::TrainedOnUnseenRoom,
            "1 of 1 games of valid_unseen are in rooms of the episodes that were learned from: 308",
        )],
    );
    assert_findings(
        |run| {
            run.learned.clear();
            run.suite.tasks[0].hash = "valid_unseen 308".into();
            run.suite.tasks[1].id = format!("train/{ROOM}-308/trial_9");
        },
        &[
            (
                FindingKind::TrainedOnTestGame,
                &format!(
                    "1 of 2 test games stand in the suite's train split, for example {unseen}"
                ),
            ),
            (
                FindingKind::TrainedOnUnseenRoom,
                "1 of 1 games of valid_unseen are in rooms of the suite's train split: 308",
            ),
        ],
    );
    assert_findings(
        |run| run.lineages[0].1.games = [(Split::Train, 2), (Split::ValidSeen, 1)].into(),
        &[(
            FindingKind::TrainedOnTestSplit,
            "m: it learned from episodes of 1 games of valid_seen",
        )],
    );
    let before = Lineage {
        checkpoint: "last update".into(),
        games: [(Split::Train, 2), (Split::ValidUnseen, 3)].into(),
        extensions: Vec::new(),
        permuted: 0,
        start: None,
    };
    assert_findings(
        |run| run.lineages[0].1.start = Some(Box::new(before.clone())),
        &[(
            FindingKind::TrainedOnTestSplit,
            "m: it learned from episodes of 3 games of valid_unseen",
        )],
    );
    assert_findings(
        |run| run.learned[0].split = Split::ValidUnseen,
        &[(
            FindingKind::TrainedOnTestSplit,
            "1 games of the test splits are among those that were learned from",
        )],
    );
}

#[test]
fn a_checkpoint_that_was_selected_on_a_test_split_is_found() {
    assert_findings(
        |run| run.checkpoint = "best success rate on valid_seen",
        &[(
            FindingKind::CheckpointChosenOnTest,
            "store.jsonl: the checkpoint was selected on a test split: best success rate on valid_seen",
        )],
    );
    let unknown = Run {
        checkpoint: UNKNOWN,
        ..clean()
    }
    .audit();
    assert_eq!(
        unknown.not_checked,
        ["store.jsonl: how the checkpoint was selected, because no card records it"]
    );
}

#[test]
fn games_that_repeat_or_are_missing_or_foreign_are_found() {
    assert_findings(
        |run| run.episodes.push(run.episodes[0].clone()),
        &[(
            FindingKind::GamesRepeated,
            "store.jsonl: 1 of 2 games were played more than 1 times, one of them 2 times",
        )],
    );
    assert_findings(
        |run| run.episodes.truncate(1),
        &[(
            FindingKind::GamesMissing,
            "store.jsonl: 1 of 1 games of valid_unseen were not played",
        )],
    );
    assert_findings(
        |run| {
            run.episodes.push(Trajectory {
                game_hash: "other".into(),
                ..run.episodes[0].clone()
            })
        },
        &[(
            FindingKind::GamesForeign,
            "store.jsonl: 1 games of valid_seen were played that the suite s does not contain",
        )],
    );
    assert_findings(
        |run| run.episodes[0].outcome = Outcome::EnvFailed,
        &[
            (
                FindingKind::SuccessDoubtful,
                "store.jsonl: 1 of 2 episodes, 1 of them won, have a reward that does not match their outcome",
            ),
            (
                FindingKind::EpisodesLost,
                "store.jsonl: 1 of 2 episodes were lost to the world and count nowhere",
            ),
        ],
    );
}

/// The text of a finding about one of the two won episodes.
fn doubt(what: &str) -> String {
    format!("store.jsonl: 1 of 2 episodes, 2 of them won, {what}")
}

#[test]
fn a_success_that_its_episode_contradicts_is_found() {
    assert_findings(
        |run| run.episodes[0].reward = 0.0,
        &[(
            FindingKind::SuccessDoubtful,
            &doubt("have a reward that does not match their outcome"),
        )],
    );
    assert_findings(
        |run| run.episodes[0].failure = Some("gone".into()),
        &[(
            FindingKind::SuccessDoubtful,
            &doubt("are won but record a failure of the world"),
        )],
    );
    assert_findings(
        |run| run.episodes[0].turns[0].action = None,
        &[(
            FindingKind::SuccessDoubtful,
            &doubt("are won without a command in the last turn"),
        )],
    );
    assert_findings(
        |run| run.episodes[0].last_observation = "Nothing happens.".into(),
        &[(
            FindingKind::SuccessDoubtful,
            &doubt("are won by a command that the world answered with \"Nothing happens.\""),
        )],
    );
}

#[test]
fn mixed_stores_are_found() {
    let disagrees =
        "store.jsonl: 1 of 2 episodes have the card's policy and protocol, and the card counts 2";
    assert_findings(
        |run| run.episodes[1].policy = "q".into(),
        &[
            (
                FindingKind::MixedStore,
                "store.jsonl: the 2 episodes have 2 policies and 1 protocols, not one of each",
            ),
            (FindingKind::CardDisagrees, disagrees),
        ],
    );
    assert_findings(
        |run| run.episodes[1].protocol.turn_limit = 50,
        &[
            (
                FindingKind::MixedStore,
                "store.jsonl: the 2 episodes have 1 policies and 2 protocols, not one of each",
            ),
            (FindingKind::CardDisagrees, disagrees),
        ],
    );
}

#[test]
fn checks_without_evidence_are_listed() {
    let run = clean();
    let measured = MeasuredEpisodes {
        name: "store.jsonl",
        episodes: &run.episodes,
        card: None,
    };
    let alone = audit(&Evidence {
        measured: vec![measured],
        ..Evidence::default()
    });
    assert_eq!(alone.findings, []);
    let expected = [
        "whether test games or rooms were learned from, because there are no training stores and no suite",
        "store.jsonl: how the checkpoint was selected, because no card records it",
        "store.jsonl: whether games are missing, because there is no suite",
    ];
    assert_eq!(alone.not_checked, expected);
}

#[test]
fn a_room_is_read_from_the_name_of_its_game() {
    assert_eq!(
        room("train/pick_and_place_simple-Mug-None-Desk-308/trial_T2019"),
        Some("308")
    );
    assert_eq!(
        room("train/look_at_obj_in_light-CD-None-DeskLamp-L303/trial_S1_0"),
        Some("L303")
    );
    for other in [
        "train/coin-5.z8",
        "train/a-b-c-d-5/t",
        "plain/3",
        "train/pick_and_place_simple-a-b-c-x/t",
    ] {
        assert_eq!(room(other), None, "{other}");
    }
}
