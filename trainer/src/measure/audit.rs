//! Looks for leaks and cheats in what was measured: everything that makes a success rate better than it is, as far as the
//! logs, the games and the cards can show it.
//!
//! What no log can show is whether the world itself said `won`: household texts do not. What is looked at is whether a
//! logged success contradicts the rest of its episode.

use crate::measure::card::{Card, Lineage, UNKNOWN};
use scenarios::{Outcome, Protocol, Scorer, Split, Suite, TaskType, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How much a finding says against a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// To be told beside the number.
    Warning,
    /// The number is not what it is called.
    Error,
}

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The policy saw the admissible commands.
    AdmissibleShown,
    /// The best of K was chosen by the world's own state.
    OracleChooser,
    /// A search looked into copies of the world.
    WorldCopies,
    /// A game of a test split was learned from.
    TrainedOnTestGame,
    /// Episodes of a test split were learned from.
    TrainedOnTestSplit,
    /// A room of `valid_unseen` was learned from.
    TrainedOnUnseenRoom,
    /// The checkpoint was chosen on a test split.
    CheckpointChosenOnTest,
    /// Games were played more often than the card says.
    GamesRepeated,
    /// Games of the suite were not played, or not often enough.
    GamesMissing,
    /// Games were played that the suite does not have.
    GamesForeign,
    /// Episodes were lost to the world, and count nowhere.
    EpisodesLost,
    /// A success that its episode contradicts.
    SuccessDoubtful,
    /// Episodes of several policies or protocols in one store.
    MixedStore,
    /// A card that does not fit its episodes.
    CardDisagrees,
}

impl Kind {
    /// How much it says against a number.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::AdmissibleShown
            | Self::GamesMissing
            | Self::EpisodesLost
            | Self::CardDisagrees => Severity::Warning,
            Self::OracleChooser
            | Self::WorldCopies
            | Self::TrainedOnTestGame
            | Self::TrainedOnTestSplit
            | Self::TrainedOnUnseenRoom
            | Self::CheckpointChosenOnTest
            | Self::GamesRepeated
            | Self::GamesForeign
            | Self::SuccessDoubtful
            | Self::MixedStore => Severity::Error,
        }
    }
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub id: Kind,
    /// How bad.
    pub severity: Severity,
    /// A sentence with its numbers.
    pub text: String,
}

/// What was found, and what could not be looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Leaks and cheats.
    pub findings: Vec<Finding>,
    /// Questions for which the evidence was missing, a sentence each.
    pub not_checked: Vec<String>,
}

impl Audit {
    fn found(&mut self, id: Kind, text: String) {
        self.findings.push(Finding {
            id,
            severity: id.severity(),
            text,
        });
    }

    fn did_not_check(&mut self, what: &str, stores: &[&str]) {
        match stores {
            [] => {}
            [store] => self.not_checked.push(format!("{store}: {what}")),
            [store, ..] => self
                .not_checked
                .push(format!("{} stores, {store} for one: {what}", stores.len())),
        }
    }
}

/// The episodes behind a number.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// What to call them.
    pub name: &'a str,
    /// All of them.
    pub episodes: &'a [Trajectory],
    /// Their card, where there is one.
    pub card: Option<&'a Card>,
}

/// A game that was learned from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Learned {
    /// [`scenarios::Task::id`].
    pub game: String,
    /// SHA-256 of the game file.
    pub game_hash: String,
    /// Its split.
    pub split: Split,
}

/// All that is looked at.
#[derive(Debug, Clone, Default)]
pub struct Evidence<'a> {
    /// The numbers' episodes.
    pub measured: Vec<Measured<'a>>,
    /// Games of the stores that were learned from; empty where none are known.
    pub learned: &'a [Learned],
    /// What model folders say of themselves, by name.
    pub lineages: &'a [(String, Lineage)],
    /// The games that should have been played, and those to learn from.
    pub suite: Option<&'a Suite>,
}

/// Looks for everything there is a [`Kind`] of.
#[must_use]
pub fn audit(evidence: &Evidence<'_>) -> Audit {
    let mut audit = Audit::default();
    for measured in &evidence.measured {
        look_at_protocols(measured, &mut audit);
        look_at_successes(measured, &mut audit);
        look_at_counts(measured, evidence.suite, &mut audit);
        look_at_checkpoint(measured, &mut audit);
    }
    look_at_learning(evidence, &mut audit);
    let stores = |is: &dyn Fn(&&Measured<'_>) -> bool| -> Vec<&str> {
        evidence
            .measured
            .iter()
            .filter(is)
            .map(|measured| measured.name)
            .collect()
    };
    let unknown = stores(&|measured| measured.card.is_none_or(|card| card.checkpoint == UNKNOWN));
    audit.did_not_check(
        "how the checkpoint was chosen, since no card says",
        &unknown,
    );
    match evidence.suite.map(Suite::hash) {
        None => audit.did_not_check(
            "whether games are missing, for want of the suite",
            &stores(&|_| true),
        ),
        Some(hash) => {
            let other =
                stores(&|measured| measured.card.is_some_and(|card| card.suite_hash != hash));
            audit.did_not_check(
                "whether games are missing, since the suite is not the card's",
                &other,
            );
        }
    }
    audit
}

fn look_at_protocols(measured: &Measured<'_>, audit: &mut Audit) {
    let Measured {
        name,
        episodes,
        card,
    } = measured;
    let n = episodes.len();
    let count = |is: &dyn Fn(&Protocol) -> bool| {
        episodes
            .iter()
            .filter(|episode| is(&episode.protocol))
            .count()
    };
    let mut told = |id, count: usize, what: &str| {
        if count > 0 {
            audit.found(id, format!("{name}: {what} in {count} of {n} episodes"));
        }
    };
    told(
        Kind::AdmissibleShown,
        count(&|p| p.admissible_shown),
        "the admissible commands were shown",
    );
    let by_oracle =
        |p: &Protocol| p.scorer == Scorer::Oracle && (p.best_of > 1 || p.search.is_some());
    told(
        Kind::OracleChooser,
        count(&by_oracle),
        "an oracle that reads the world's state chose among the candidates",
    );
    told(
        Kind::WorldCopies,
        count(&|p| p.search.is_some()),
        "a search looked into copies of the world before it acted",
    );
    let policies: BTreeSet<_> = episodes
        .iter()
        .map(|t| (t.policy.as_str(), t.value_policy.as_deref()))
        .collect();
    let mut protocols: Vec<&Protocol> = Vec::new();
    for episode in *episodes {
        if !protocols.contains(&&episode.protocol) {
            protocols.push(&episode.protocol);
        }
    }
    if policies.len() > 1 || protocols.len() > 1 {
        let (policies, protocols) = (policies.len(), protocols.len());
        audit.found(
            Kind::MixedStore,
            format!("{name}: {n} episodes are of {policies} policies and {protocols} protocols, not of one each"),
        );
    }
    let Some(card) = card else { return };
    let is_of_card = |t: &&Trajectory| {
        t.policy == card.policy_hash
            && t.value_policy == card.value_hash
            && t.protocol == card.protocol
    };
    let of_card = episodes.iter().filter(is_of_card).count();
    if of_card < n || n != card.episodes {
        let counted = card.episodes;
        audit.found(
            Kind::CardDisagrees,
            format!("{name}: of {n} episodes {of_card} are of the card's policy and protocol, and it counts {counted}"),
        );
    }
}

/// Successes whose reward is another, that a failed world or an empty turn ended, or after which the world said that
/// nothing happened; and failures that were rewarded.
fn look_at_successes(measured: &Measured<'_>, audit: &mut Audit) {
    let Measured { name, episodes, .. } = measured;
    let won = episodes.iter().filter(|episode| episode.is_won()).count();
    let mut told = |count: usize, what: &str| {
        if count > 0 {
            let n = episodes.len();
            audit.found(
                Kind::SuccessDoubtful,
                format!("{name}: {count} of {n} episodes, {won} of them won, {what}"),
            );
        }
    };
    let count =
        |is: &dyn Fn(&Trajectory) -> bool| episodes.iter().filter(|episode| is(episode)).count();
    let is_won = |episode: &Trajectory| episode.is_won();
    told(
        count(&|t| (t.reward - t.outcome.reward()).abs() > f64::EPSILON),
        "have another reward than their outcome gives",
    );
    told(
        count(&|t| is_won(t) && t.failure.is_some()),
        "are won and tell why their world failed",
    );
    let without_command = |t: &Trajectory| t.turns.last().is_none_or(|turn| turn.action.is_none());
    told(
        count(&|t| is_won(t) && without_command(t)),
        "are won without a last command",
    );
    let in_vain = |t: &Trajectory| t.last_observation.trim() == "Nothing happens.";
    told(
        count(&|t| is_won(t) && in_vain(t)),
        "are won by a command to which the world said \"Nothing happens.\"",
    );
}

fn look_at_counts(measured: &Measured<'_>, suite: Option<&Suite>, audit: &mut Audit) {
    let Measured {
        name,
        episodes,
        card,
    } = measured;
    let times = card.map_or(1, Card::times);
    let mut counts: BTreeMap<(Split, &str), usize> = BTreeMap::new();
    for episode in *episodes {
        *counts
            .entry((episode.split, &episode.game_hash))
            .or_default() += 1;
    }
    let more = counts.values().filter(|count| **count > times).count();
    if more > 0 {
        let (most, games) = (counts.values().max().copied().unwrap_or(0), counts.len());
        let text = format!(
            "{name}: {more} of {games} games were played more than {times} times, one of them {most} times"
        );
        audit.found(Kind::GamesRepeated, text);
    }
    let lost = episodes
        .iter()
        .filter(|episode| episode.outcome == Outcome::EnvFailed)
        .count();
    if lost > 0 {
        let n = episodes.len();
        audit.found(
            Kind::EpisodesLost,
            format!("{name}: {lost} of {n} episodes were lost to the world and count nowhere"),
        );
    }
    let is_its = |suite: &&Suite| card.is_none_or(|card| card.suite_hash == suite.hash());
    let Some(suite) = suite.filter(is_its) else {
        return;
    };
    let splits: BTreeSet<Split> = match card {
        Some(card) => card.splits.iter().copied().collect(),
        None => counts.keys().map(|(split, _)| *split).collect(),
    };
    for split in splits {
        let games: BTreeSet<&str> = suite
            .split(split)
            .iter()
            .map(|task| task.hash.as_str())
            .collect();
        let played = |game: &&&str| counts.get(&(split, **game)).copied().unwrap_or(0);
        let fewer = games.iter().filter(|game| played(game) < times).count();
        if fewer > 0 {
            let text = match times {
                1 => format!(
                    "{name}: {fewer} of {} games of {split} were not played",
                    games.len()
                ),
                _ => {
                    format!(
                        "{name}: {fewer} of {} games of {split} were played fewer than {times} times",
                        games.len()
                    )
                }
            };
            audit.found(Kind::GamesMissing, text);
        }
        let foreign = counts
            .keys()
            .filter(|(of, game)| *of == split && !games.contains(game))
            .count();
        if foreign > 0 {
            let text = format!(
                "{name}: {foreign} games of {split} were played that the suite {} does not have",
                suite.name
            );
            audit.found(Kind::GamesForeign, text);
        }
    }
}

fn look_at_checkpoint(measured: &Measured<'_>, audit: &mut Audit) {
    let Measured { name, card, .. } = measured;
    let Some(Card { checkpoint, .. }) = card else {
        return;
    };
    let names_test = |word: &str| ["valid_seen", "valid_unseen", "test"].contains(&word);
    if checkpoint
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(names_test)
    {
        audit.found(
            Kind::CheckpointChosenOnTest,
            format!("{name}: the checkpoint was chosen on a test split: {checkpoint}"),
        );
    }
}

fn is_test(split: Split) -> bool {
    matches!(split, Split::ValidSeen | Split::ValidUnseen)
}

/// What was learned from against what was measured.
fn look_at_learning(evidence: &Evidence<'_>, audit: &mut Audit) {
    for (model, lineage) in evidence.lineages {
        let learned = [Split::ValidSeen, Split::ValidUnseen]
            .map(|split| (split, lineage.learned_from(split)));
        for (split, games) in learned.into_iter().filter(|(_, games)| *games > 0) {
            let text = format!("{model}: it learned from episodes of {games} games of {split}");
            audit.found(Kind::TrainedOnTestSplit, text);
        }
    }
    let mut tested: BTreeMap<&str, (Split, &str)> = BTreeMap::new();
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
    let mut sources: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    if !evidence.learned.is_empty() {
        look_at_learned_splits(evidence.learned, audit);
        let games = evidence
            .learned
            .iter()
            .map(|game| (game.game_hash.as_str(), game.game.as_str()));
        sources.push(("the episodes that were learned from", games.collect()));
    }
    if let Some(suite) = evidence.suite {
        let games = suite
            .split(Split::Train)
            .into_iter()
            .map(|task| (task.hash.as_str(), task.id.as_str()));
        sources.push(("the suite's train split", games.collect()));
    }
    if sources.is_empty() {
        audit.not_checked.push(
            "whether test games or rooms were learned from, for want of training stores and suite"
                .into(),
        );
    }
    for (source, games) in sources {
        look_at_overlap(&tested, source, &games, audit);
    }
}

fn look_at_learned_splits(learned: &[Learned], audit: &mut Audit) {
    let games: BTreeSet<&Learned> = learned.iter().filter(|game| is_test(game.split)).collect();
    if !games.is_empty() {
        let text = format!(
            "{} games of the test splits are among those that were learned from",
            games.len()
        );
        audit.found(Kind::TrainedOnTestSplit, text);
    }
}

fn look_at_overlap(
    tested: &BTreeMap<&str, (Split, &str)>,
    source: &str,
    learned: &[(&str, &str)],
    audit: &mut Audit,
) {
    let hashes: BTreeSet<&str> = learned.iter().map(|(hash, _)| *hash).collect();
    let shared: Vec<&str> = tested
        .iter()
        .filter(|(hash, _)| hashes.contains(**hash))
        .map(|(_, (_, id))| *id)
        .collect();
    if let Some(first) = shared.first() {
        let (count, n) = (shared.len(), tested.len());
        audit.found(
            Kind::TrainedOnTestGame,
            format!("{count} of {n} test games stand in {source}, {first} for one"),
        );
    }
    let rooms: BTreeSet<&str> = learned.iter().filter_map(|(_, id)| room(id)).collect();
    let unseen = tested
        .values()
        .filter(|(split, _)| *split == Split::ValidUnseen);
    let unseen: Vec<&str> = unseen.filter_map(|(_, id)| room(id)).collect();
    let known: BTreeSet<&str> = unseen
        .iter()
        .copied()
        .filter(|room| rooms.contains(room))
        .collect();
    if !known.is_empty() {
        let games = unseen.iter().filter(|room| known.contains(*room)).count();
        let rooms: Vec<&str> = known.into_iter().collect();
        let (n, rooms) = (unseen.len(), rooms.join(", "));
        audit.found(
            Kind::TrainedOnUnseenRoom,
            format!("{games} of {n} games of valid_unseen lie in rooms of {source}: {rooms}"),
        );
    }
}

/// The room of a household game's id: `308` of `SPLIT/pick_and_place_simple-Mug-None-Desk-308/TRIAL`, or `L303` of a
/// generated one.
fn room(id: &str) -> Option<&str> {
    let parts: Vec<&str> = id.split('/').nth(1)?.split('-').collect();
    let [task_type, _, _, _, room] = parts.as_slice() else {
        return None;
    };
    task_type.parse::<TaskType>().ok()?;
    let number = room.strip_prefix(['L', 'F']).unwrap_or(room);
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::{Search, Spent, Task, Turn};
    use std::path::{Path, PathBuf};

    const ROOM: &str = "pick_and_place_simple-Mug-None-Desk";

    fn suite() -> Suite {
        let task = |split: Split, room: &str| Task {
            id: format!("{split}/{ROOM}-{room}/trial_1"),
            split,
            task_type: Some(TaskType::PickAndPlaceSimple),
            path: PathBuf::new(),
            hash: format!("{split} {room}"),
        };
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
        }
    }

    /// A won episode of a game.
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
        }
    }

    /// What a clean run leaves: the two test games once each, learned from the two games of train.
    struct Run {
        suite: Suite,
        episodes: Vec<Trajectory>,
        learned: Vec<Learned>,
        lineages: Vec<(String, Lineage)>,
        checkpoint: &'static str,
    }

    fn clean() -> Run {
        let suite = suite();
        let learned = suite.tasks[..2].iter().map(|task| Learned {
            game: task.id.clone(),
            game_hash: task.hash.clone(),
            split: task.split,
        });
        let lineage = Lineage {
            checkpoint: "last update".into(),
            games: [(Split::Train, 2)].into(),
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
            let made = crate::measure::card::Made {
                suite: &self.suite,
                seeds: &[1],
                repetitions: 1,
                checkpoint: self.checkpoint,
                code: "test",
                store: Path::new("store.jsonl"),
            };
            let card = Card {
                splits: vec![Split::ValidSeen, Split::ValidUnseen],
                ..Card::new("p", &made, &self.episodes)
            };
            let measured = Measured {
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

    /// The findings after something was planted in a clean run.
    #[track_caller]
    fn planted(plant: impl FnOnce(&mut Run), expected: &[(Kind, &str)]) {
        let mut run = clean();
        plant(&mut run);
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

    #[test]
    fn cheating_protocols_are_found() {
        planted(
            |run| {
                run.episodes
                    .iter_mut()
                    .for_each(|t| t.protocol.admissible_shown = true)
            },
            &[(
                Kind::AdmissibleShown,
                "store.jsonl: the admissible commands were shown in 2 of 2 episodes",
            )],
        );
        planted(
            |run| {
                for episode in &mut run.episodes {
                    (episode.protocol.best_of, episode.protocol.scorer) = (4, Scorer::Oracle);
                    episode.protocol.search = Some(Search::Beam { width: 2 });
                }
            },
            &[
                (
                    Kind::OracleChooser,
                    "store.jsonl: an oracle that reads the world's state chose among the candidates in 2 of 2 episodes",
                ),
                (
                    Kind::WorldCopies,
                    "store.jsonl: a search looked into copies of the world before it acted in 2 of 2 episodes",
                ),
            ],
        );
        planted(
            |run| {
                run.episodes
                    .iter_mut()
                    .for_each(|t| t.protocol.scorer = Scorer::Oracle)
            },
            &[],
        ); // K is 1
    }

    #[test]
    fn test_games_and_rooms_that_were_learned_from_are_found() {
        let (seen, unseen) = (
            format!("valid_seen/{ROOM}-301/trial_1"),
            format!("valid_unseen/{ROOM}-308/trial_1"),
        );
        planted(
            |run| run.learned[0].game_hash = "valid_seen 301".into(),
            &[(
                Kind::TrainedOnTestGame,
                &format!(
                    "1 of 2 test games stand in the episodes that were learned from, {seen} for one"
                ),
            )],
        );
        planted(
            |run| run.learned[0].game = format!("train/{ROOM}-308/trial_9"),
            &[(
                Kind::TrainedOnUnseenRoom,
                "1 of 1 games of valid_unseen lie in rooms of the episodes that were learned from: 308",
            )],
        );
        planted(
            |run| {
                run.learned.clear();
                run.suite.tasks[0].hash = "valid_unseen 308".into();
                run.suite.tasks[1].id = format!("train/{ROOM}-308/trial_9");
            },
            &[
                (
                    Kind::TrainedOnTestGame,
                    &format!(
                        "1 of 2 test games stand in the suite's train split, {unseen} for one"
                    ),
                ),
                (
                    Kind::TrainedOnUnseenRoom,
                    "1 of 1 games of valid_unseen lie in rooms of the suite's train split: 308",
                ),
            ],
        );
        planted(
            |run| run.lineages[0].1.games = [(Split::Train, 2), (Split::ValidSeen, 1)].into(),
            &[(
                Kind::TrainedOnTestSplit,
                "m: it learned from episodes of 1 games of valid_seen",
            )],
        );
        let before = Lineage {
            checkpoint: "last update".into(),
            games: [(Split::Train, 2), (Split::ValidUnseen, 3)].into(),
            start: None,
        };
        planted(
            |run| run.lineages[0].1.start = Some(Box::new(before.clone())),
            &[(
                Kind::TrainedOnTestSplit,
                "m: it learned from episodes of 3 games of valid_unseen",
            )],
        );
        planted(
            |run| run.learned[0].split = Split::ValidUnseen,
            &[(
                Kind::TrainedOnTestSplit,
                "1 games of the test splits are among those that were learned from",
            )],
        );
    }

    #[test]
    fn a_checkpoint_chosen_on_a_test_split_is_found() {
        planted(
            |run| run.checkpoint = "best success rate on valid_seen",
            &[(
                Kind::CheckpointChosenOnTest,
                "store.jsonl: the checkpoint was chosen on a test split: best success rate on valid_seen",
            )],
        );
        let unknown = Run {
            checkpoint: UNKNOWN,
            ..clean()
        }
        .audit();
        assert_eq!(
            unknown.not_checked,
            ["store.jsonl: how the checkpoint was chosen, since no card says"]
        );
    }

    #[test]
    fn games_that_repeat_or_are_missing_or_foreign_are_found() {
        planted(
            |run| run.episodes.push(run.episodes[0].clone()),
            &[(
                Kind::GamesRepeated,
                "store.jsonl: 1 of 2 games were played more than 1 times, one of them 2 times",
            )],
        );
        planted(
            |run| run.episodes.truncate(1),
            &[(
                Kind::GamesMissing,
                "store.jsonl: 1 of 1 games of valid_unseen were not played",
            )],
        );
        planted(
            |run| {
                run.episodes.push(Trajectory {
                    game_hash: "other".into(),
                    ..run.episodes[0].clone()
                })
            },
            &[(
                Kind::GamesForeign,
                "store.jsonl: 1 games of valid_seen were played that the suite s does not have",
            )],
        );
        planted(
            |run| run.episodes[0].outcome = Outcome::EnvFailed,
            &[
                (
                    Kind::SuccessDoubtful,
                    "store.jsonl: 1 of 2 episodes, 1 of them won, have another reward than their outcome gives",
                ),
                (
                    Kind::EpisodesLost,
                    "store.jsonl: 1 of 2 episodes were lost to the world and count nowhere",
                ),
            ],
        );
    }

    #[test]
    fn a_success_that_its_episode_contradicts_is_found() {
        let doubt = |what: &str| format!("store.jsonl: 1 of 2 episodes, 2 of them won, {what}");
        planted(
            |run| run.episodes[0].reward = 0.0,
            &[(
                Kind::SuccessDoubtful,
                &doubt("have another reward than their outcome gives"),
            )],
        );
        planted(
            |run| run.episodes[0].failure = Some("gone".into()),
            &[(
                Kind::SuccessDoubtful,
                &doubt("are won and tell why their world failed"),
            )],
        );
        planted(
            |run| run.episodes[0].turns[0].action = None,
            &[(
                Kind::SuccessDoubtful,
                &doubt("are won without a last command"),
            )],
        );
        planted(
            |run| run.episodes[0].last_observation = "Nothing happens.".into(),
            &[(
                Kind::SuccessDoubtful,
                &doubt("are won by a command to which the world said \"Nothing happens.\""),
            )],
        );
    }

    #[test]
    fn mixed_stores_are_found() {
        let disagrees =
            "store.jsonl: of 2 episodes 1 are of the card's policy and protocol, and it counts 2";
        planted(
            |run| run.episodes[1].policy = "q".into(),
            &[
                (
                    Kind::MixedStore,
                    "store.jsonl: 2 episodes are of 2 policies and 1 protocols, not of one each",
                ),
                (Kind::CardDisagrees, disagrees),
            ],
        );
        planted(
            |run| run.episodes[1].protocol.turn_limit = 50,
            &[
                (
                    Kind::MixedStore,
                    "store.jsonl: 2 episodes are of 1 policies and 2 protocols, not of one each",
                ),
                (Kind::CardDisagrees, disagrees),
            ],
        );
    }

    #[test]
    fn what_could_not_be_looked_for_is_told() {
        let run = clean();
        let measured = Measured {
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
            "whether test games or rooms were learned from, for want of training stores and suite",
            "store.jsonl: how the checkpoint was chosen, since no card says",
            "store.jsonl: whether games are missing, for want of the suite",
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
}
