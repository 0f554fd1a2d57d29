//! Checks of the training data: overlap with the measured games, splits and rooms.

use super::evidence::{Evidence, TrainingGame};
use super::findings::{Audit, FindingKind};
use scenarios::household::is_permuted;
use scenarios::{Split, TaskType};

use std::collections::{BTreeMap, BTreeSet};

/// Compares the games that were learned from with the games that were measured.
pub(super) fn check_training_games(evidence: &Evidence<'_>, audit: &mut Audit) {
    for (model, lineage) in evidence.lineages {
        for split in [Split::ValidSeen, Split::ValidUnseen] {
            let games = lineage.learned_from(split);
            if games > 0 {
                let text = format!("{model}: it learned from episodes of {games} games of {split}");
                audit.found(FindingKind::TrainedOnTestSplit, text);
            }
        }
    }
    check_permuted_rooms(evidence, audit);
    let mut tested: TestGames<'_> = BTreeMap::new();
    for episode in evidence
        .measured
        .iter()
        .flat_map(|measured| measured.episodes)
    {
        if is_test(episode.split) {
            tested.insert(&episode.game_hash, (episode.split, &episode.game));
        }
    }
    if tested.is_empty() {
        return;
    }
    let mut sources: Vec<TrainingSource<'_>> = Vec::new();
    if !evidence.learned.is_empty() {
        check_training_splits(evidence.learned, audit);
        check_generated_rooms(evidence, &tested, audit);
        sources.push(TrainingSource {
            name: "the episodes that were learned from",
            games: evidence
                .learned
                .iter()
                .map(|game| (game.game_hash.as_str(), game.game.as_str()))
                .collect(),
        });
    }
    if let Some(suite) = evidence.suite {
        sources.push(TrainingSource {
            name: "the suite's train split",
            games: suite
                .split(Split::Train)
                .into_iter()
                .map(|task| (task.hash.as_str(), task.id.as_str()))
                .collect(),
        });
    }
    if sources.is_empty() {
        audit.not_checked.push(
            "whether test games or rooms were learned from, because there are no training stores \
             and no suite"
                .into(),
        );
    }
    for source in &sources {
        check_overlap(&tested, source, audit);
    }
}

/// The measured games of test splits: split and id by hash.
type TestGames<'a> = BTreeMap<&'a str, (Split, &'a str)>;

/// The games of one source of training data.
struct TrainingSource<'a> {
    name: &'a str,
    /// Hash and id of each game.
    games: Vec<(&'a str, &'a str)>,
}

fn is_test(split: Split) -> bool {
    matches!(split, Split::ValidSeen | Split::ValidUnseen)
}

fn check_training_splits(learned: &[TrainingGame], audit: &mut Audit) {
    let games: BTreeSet<&TrainingGame> =
        learned.iter().filter(|game| is_test(game.split)).collect();
    if !games.is_empty() {
        let text = format!(
            "{} games of the test splits are among those that were learned from",
            games.len()
        );
        audit.found(FindingKind::TrainedOnTestSplit, text);
    }
}

/// Checks for permuted games among the training data. If the training episodes are known, their games are
/// counted; if not, the lineages of the models are used.
fn check_permuted_rooms(evidence: &Evidence<'_>, audit: &mut Audit) {
    let learned = evidence.learned;
    let permuted = learned
        .iter()
        .filter(|game| is_permuted(&game.game))
        .count();
    if permuted > 0 {
        let text = format!(
            "trained on rooms permuted from train: {permuted} of {} games that were learned from",
            learned.len()
        );
        audit.found(FindingKind::TrainedOnPermutedRooms, text);
        return;
    }
    for (model, lineage) in evidence.lineages {
        let games = lineage.permuted_games();
        if games > 0 {
            let text = format!("{model}: trained on rooms permuted from train: {games} games");
            audit.found(FindingKind::TrainedOnPermutedRooms, text);
        }
    }
}

/// Checks for games in generated rooms among the training data, if no test game is in a generated room and the
/// games are not those of the suite.
fn check_generated_rooms(evidence: &Evidence<'_>, tested: &TestGames<'_>, audit: &mut Audit) {
    if tested.values().any(|(_, id)| is_generated(id)) {
        return;
    }
    let tasks = evidence.suite.map_or(&[][..], |suite| &suite.tasks);
    let own: BTreeSet<&str> = tasks.iter().map(|task| task.hash.as_str()).collect();
    let learned = evidence.learned;
    let generated = learned
        .iter()
        .filter(|game| is_generated(&game.game) && !own.contains(game.game_hash.as_str()))
        .count();
    if generated > 0 {
        let text = format!(
            "trained on generated rooms: {generated} of {} games that were learned from",
            learned.len()
        );
        audit.found(FindingKind::TrainedOnGeneratedRooms, text);
    }
}

/// Returns true if the room in a game's id was generated.
fn is_generated(id: &str) -> bool {
    room(id).is_some_and(|room| room.starts_with(GENERATED))
}

/// The first letters of generated rooms: small, full and like ALFWorld's.
const GENERATED: [char; 3] = ['L', 'F', 'A'];

/// Checks for test games and rooms of `valid_unseen` in a source of training data.
fn check_overlap(tested: &TestGames<'_>, source: &TrainingSource<'_>, audit: &mut Audit) {
    let name = source.name;
    let hashes: BTreeSet<&str> = source.games.iter().map(|(hash, _)| *hash).collect();
    let shared: Vec<&str> = tested
        .iter()
        .filter(|(hash, _)| hashes.contains(**hash))
        .map(|(_, (_, id))| *id)
        .collect();
    if let Some(first) = shared.first() {
        let count = shared.len();
        let n = tested.len();
        audit.found(
            FindingKind::TrainedOnTestGame,
            format!("{count} of {n} test games stand in {name}, for example {first}"),
        );
    }
    let rooms: BTreeSet<&str> = source.games.iter().filter_map(|(_, id)| room(id)).collect();
    let unseen: Vec<&str> = tested
        .values()
        .filter(|(split, _)| *split == Split::ValidUnseen)
        .filter_map(|(_, id)| room(id))
        .collect();
    let known: BTreeSet<&str> = unseen
        .iter()
        .copied()
        .filter(|room| rooms.contains(room))
        .collect();
    if !known.is_empty() {
        let count = unseen.iter().filter(|room| known.contains(*room)).count();
        let n = unseen.len();
        let rooms = known.into_iter().collect::<Vec<&str>>().join(", ");
        audit.found(
            FindingKind::TrainedOnUnseenRoom,
            format!("{count} of {n} games of valid_unseen are in rooms of {name}: {rooms}"),
        );
    }
}

/// Returns the room in a household game's id: `308` of
/// `SPLIT/pick_and_place_simple-Mug-None-Desk-308/TRIAL`, or `L303` if the game was generated.
/// Returns `None` if the id has another form.
pub(super) fn room(id: &str) -> Option<&str> {
    let parts: Vec<&str> = id.split('/').nth(1)?.split('-').collect();
    let [task_type, _, _, _, room] = parts.as_slice() else {
        return None;
    };
    task_type.parse::<TaskType>().ok()?;
    let number = room.strip_prefix(GENERATED).unwrap_or(room);
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(room)
}
