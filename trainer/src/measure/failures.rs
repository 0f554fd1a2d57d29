//! Why episodes were lost: one class per episode, by rules that a reader of the log can check.
//!
//! The class of an episode is the first whose rule holds:
//!
//! | class | rule |
//! | --- | --- |
//! | `world_failed` | the environment or the policy's server failed |
//! | `context_limit` | the next turn did not fit into the context |
//! | `malformed` | more than half of the turns have no command, or none of the last [`MALFORMED_END`] turns has one |
//! | `loop` | each of the last [`LOOP_END`] turns repeated a command in a state where the episode had given it before |
//! | `near_goal` | at the end the goal's object was in hand, or had been cleaned, heated or cooled |
//! | `ended` | the environment reported a loss, or the policy ended the episode |
//! | `turn_limit` | no other rule holds: the turns ran out |
//!
//! A state is [`scenarios::Turn::state`]. If the environment does not report it, the observation
//! before the command is the state. The rule of `near_goal` reads household texts; if a game is of
//! another kind, its episodes are never in this class.

use scenarios::{Outcome, Split, TaskType, Trajectory, Turn, expert};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// An episode is `malformed` if this many turns at its end have no command.
pub const MALFORMED_END: usize = 3;
/// An episode is a `loop` if this many turns at its end repeat earlier ones.
pub const LOOP_END: usize = 4;

/// Why an episode was lost. The module documentation defines the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The environment or the policy's server failed.
    WorldFailed,
    /// The context was full.
    ContextLimit,
    /// Turns had no command.
    Malformed,
    /// The last turns repeated commands in states where they had been given before.
    Loop,
    /// The goal's object was in hand or had been cleaned, heated or cooled.
    NearGoal,
    /// The environment or the policy ended the episode.
    Ended,
    /// The turns ran out.
    TurnLimit,
}

impl FailureClass {
    /// All classes, in the order of the rules.
    pub const ALL: [Self; 7] = [
        Self::WorldFailed,
        Self::ContextLimit,
        Self::Malformed,
        Self::Loop,
        Self::NearGoal,
        Self::Ended,
        Self::TurnLimit,
    ];

    /// Returns the name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WorldFailed => "world_failed",
            Self::ContextLimit => "context_limit",
            Self::Malformed => "malformed",
            Self::Loop => "loop",
            Self::NearGoal => "near_goal",
            Self::Ended => "ended",
            Self::TurnLimit => "turn_limit",
        }
    }
}

/// Returns the class of an episode, or `None` if it was won.
#[must_use]
pub fn classify(episode: &Trajectory) -> Option<FailureClass> {
    Some(match episode.outcome {
        Outcome::Success => return None,
        Outcome::EnvFailed => FailureClass::WorldFailed,
        Outcome::ContextLimit => FailureClass::ContextLimit,
        Outcome::Failure | Outcome::TurnLimit if is_malformed(episode) => FailureClass::Malformed,
        Outcome::Failure | Outcome::TurnLimit if is_loop(&episode.turns) => FailureClass::Loop,
        Outcome::Failure | Outcome::TurnLimit if is_near_goal(episode) => FailureClass::NearGoal,
        Outcome::Failure => FailureClass::Ended,
        Outcome::TurnLimit => FailureClass::TurnLimit,
    })
}

fn is_malformed(episode: &Trajectory) -> bool {
    let turns = &episode.turns;
    let is_malformed_at_end = turns.len() >= MALFORMED_END
        && turns[turns.len() - MALFORMED_END..]
            .iter()
            .all(|t| t.action.is_none());
    is_malformed_at_end || 2 * episode.malformed_turns() > turns.len()
}

/// The state in which a command was given.
#[derive(PartialEq, Eq, Hash)]
enum VisitedState<'a> {
    Reported(u64),
    Observed(&'a str),
}

fn is_loop(turns: &[Turn]) -> bool {
    let repeated = repeats(turns);
    repeated.len() >= LOOP_END
        && repeated[repeated.len() - LOOP_END..]
            .iter()
            .all(|repeated| *repeated)
}

/// Returns for each turn whether it repeated a command in a state where the episode had given it
/// before. A turn without a command repeats nothing.
pub(crate) fn repeats(turns: &[Turn]) -> Vec<bool> {
    times_given(turns)
        .into_iter()
        .map(|times| times > 0)
        .collect()
}

/// Returns for each turn how often the episode had given its command in its state before. The
/// number is 0 if the turn has no command.
pub(crate) fn times_given(turns: &[Turn]) -> Vec<usize> {
    let mut given: HashMap<(VisitedState<'_>, &str), usize> = HashMap::new();
    turns
        .iter()
        .map(|turn| {
            let state = turn.state.map_or(
                VisitedState::Observed(turn.observation.trim()),
                VisitedState::Reported,
            );
            let Some(command) = turn.action.as_deref() else {
                return 0;
            };
            let times = given.entry((state, command.trim())).or_default();
            *times += 1;
            *times - 1
        })
        .collect()
}

fn is_near_goal(episode: &Trajectory) -> bool {
    let Some(opening) = episode.turns.first() else {
        return false;
    };
    let Some(object) = expert::goal_object(&opening.observation) else {
        return false;
    };
    let later = episode
        .turns
        .iter()
        .skip(1)
        .map(|turn| turn.observation.as_str());
    let mut held = false;
    let mut treated = false;
    for text in later.chain([episode.last_observation.as_str()]) {
        held = (held || reports(text, "You pick up the ", &object))
            && !reports(text, "You move the ", &object)
            && !reports(text, "You put the ", &object);
        treated |= ["You clean the ", "You heat the ", "You cool the "]
            .into_iter()
            .any(|verb| reports(text, verb, &object));
    }
    held || treated
}

/// Returns whether a text begins with a verb and a numbered object of this type, for example
/// `You heat the mug 2 using`.
fn reports(text: &str, verb: &str, object: &str) -> bool {
    let rest = text
        .strip_prefix(verb)
        .and_then(|rest| rest.strip_prefix(object))
        .and_then(|rest| rest.strip_prefix(' '));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The number of episodes of a policy that were lost in one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureRow {
    /// The policy's name in the table.
    pub policy: String,
    /// Number of candidates K per turn.
    pub k: usize,
    /// The split.
    pub split: Split,
    /// The task type, or `None` if the row is of all task types.
    pub task_type: Option<TaskType>,
    /// The class.
    pub failure: FailureClass,
    /// Number of lost episodes of this class.
    pub episodes: usize,
    /// Share of all lost episodes, including those whose environment failed.
    pub share: f64,
}

/// Counts lost episodes by class. Each split has rows of all task types, followed by rows per task
/// type. If a class did not occur, it has no row.
#[must_use]
pub fn failures(policy: &str, k: usize, episodes: &[Trajectory]) -> Vec<FailureRow> {
    let mut counts: BTreeMap<(Split, Option<TaskType>), BTreeMap<FailureClass, usize>> =
        BTreeMap::new();
    for episode in episodes {
        let Some(failure) = classify(episode) else {
            continue;
        };
        let own_type = episode.task_type.map(Some);
        for task_type in [None].into_iter().chain(own_type) {
            *counts
                .entry((episode.split, task_type))
                .or_default()
                .entry(failure)
                .or_default() += 1;
        }
    }
    let mut rows = Vec::new();
    for ((split, task_type), classes) in counts {
        let lost: usize = classes.values().sum();
        rows.extend(classes.into_iter().map(|(failure, episodes)| FailureRow {
            policy: policy.into(),
            k,
            split,
            task_type,
            failure,
            episodes,
            share: episodes as f64 / lost as f64,
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::{Protocol, Spent};

    const OPENING: &str = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1.\n\n\
                           Your task is to: put a clean mug in shelf.";

    /// Returns an episode of turns (observation, command, state). If a command is empty, its turn is
    /// malformed.
    fn episode(outcome: Outcome, turns: &[(&str, &str, Option<u64>)]) -> Trajectory {
        Trajectory {
            format: Trajectory::FORMAT,
            game: "valid_seen/a/b".into(),
            game_hash: "00".into(),
            split: Split::ValidSeen,
            task_type: Some(TaskType::PickCleanThenPlaceInRecep),
            repetition: 0,
            seed: 1,
            policy: "p".into(),
            value_policy: None,
            protocol: Protocol::default(),
            turns: turns.iter().map(|turn| played_turn(*turn)).collect(),
            last_observation: "Nothing happens.".into(),
            outcome,
            reward: outcome.reward(),
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
            branch: None,
        }
    }

    fn played_turn((observation, command, state): (&str, &str, Option<u64>)) -> Turn {
        Turn {
            observation: observation.into(),
            completion: command.into(),
            action: (!command.is_empty()).then(|| command.into()),
            state,
            ..Turn::default()
        }
    }

    const WALK: [(&str, &str, Option<u64>); 5] = [
        (OPENING, "go to desk 1", None),
        (
            "You arrive at desk 1. On the desk 1, you see a mug 1, and a pen 1.",
            "go to shelf 1",
            None,
        ),
        (
            "You arrive at shelf 1. On the shelf 1, you see nothing.",
            "look",
            None,
        ),
        ("You are in the middle of a room.", "inventory", None),
        ("You are not carrying anything.", "examine shelf 1", None),
    ];

    fn walk_with(index: usize, turn: (&'static str, &'static str, Option<u64>)) -> Trajectory {
        let mut turns = WALK;
        turns[index] = turn;
        episode(Outcome::TurnLimit, &turns)
    }

    #[test]
    fn the_outcome_alone_determines_some_classes() {
        for (outcome, expected) in [
            (Outcome::Success, None),
            (Outcome::EnvFailed, Some(FailureClass::WorldFailed)),
            (Outcome::ContextLimit, Some(FailureClass::ContextLimit)),
            (Outcome::Failure, Some(FailureClass::Ended)),
            (Outcome::TurnLimit, Some(FailureClass::TurnLimit)),
        ] {
            assert_eq!(classify(&episode(outcome, &WALK)), expected, "{outcome:?}");
        }
    }

    /// An episode is not malformed if two of five turns have no command. It is if three have none, or
    /// if the last three of seven have none.
    #[test]
    fn most_turns_or_the_last_ones_without_a_command_are_malformed() {
        let mut turns = WALK;
        turns[0].1 = "";
        turns[2].1 = "";
        assert_eq!(
            classify(&episode(Outcome::TurnLimit, &turns)),
            Some(FailureClass::TurnLimit)
        );
        turns[3].1 = "";
        assert_eq!(
            classify(&episode(Outcome::TurnLimit, &turns)),
            Some(FailureClass::Malformed)
        );
        let late = [&WALK[..4], &[("o", "", None); 3]].concat();
        assert_eq!(
            classify(&episode(Outcome::TurnLimit, &late)),
            Some(FailureClass::Malformed)
        );
        assert_eq!(
            classify(&episode(Outcome::TurnLimit, &late[..6])),
            Some(FailureClass::TurnLimit)
        );
    }

    fn class_of(turns: &[(&str, &str, Option<u64>)]) -> Option<FailureClass> {
        classify(&episode(Outcome::TurnLimit, turns))
    }

    /// A turn, then the same command in the same state until four turns repeat an earlier one. It is not
    /// a loop if only three turns repeat one, or if the environment reports another state each time.
    #[test]
    fn the_same_command_in_the_same_state_is_a_loop() {
        let stuck = [("Nothing happens.", "use lamp 1", None); 5];
        assert_eq!(
            class_of(&[&WALK[..1], &stuck[..]].concat()),
            Some(FailureClass::Loop)
        );
        assert_eq!(
            class_of(&[&WALK[..1], &stuck[..4]].concat()),
            Some(FailureClass::TurnLimit)
        );
        let moving: Vec<_> = (0..5)
            .map(|state| ("Nothing happens.", "use lamp 1", Some(state)))
            .collect();
        assert_eq!(class_of(&moving), Some(FailureClass::TurnLimit));
        let alternating = [("a", "go to b", Some(1)), ("b", "go to a", Some(2))].repeat(3);
        assert_eq!(
            class_of(&alternating),
            Some(FailureClass::Loop),
            "two commands alternate"
        );
        assert_eq!(
            class_of(&[&alternating[..], &[("a", "look", Some(1))]].concat()),
            Some(FailureClass::TurnLimit)
        );
    }

    /// Only the goal's mug counts, not another object and not one whose name begins with `mug`. If it
    /// is put down again, the goal is not near, unless the mug was cleaned.
    #[test]
    fn holding_or_treating_the_object_is_near_the_goal() {
        let held = walk_with(1, ("You pick up the mug 1 from the desk 1.", "look", None));
        assert_eq!(classify(&held), Some(FailureClass::NearGoal));
        let other = walk_with(1, ("You pick up the pen 1 from the desk 1.", "look", None));
        assert_eq!(classify(&other), Some(FailureClass::TurnLimit));
        let longer = walk_with(
            1,
            ("You pick up the mug rack 1 from the desk 1.", "look", None),
        );
        assert_eq!(classify(&longer), Some(FailureClass::TurnLimit));
        for laid in [
            "You move the mug 1 to the shelf 1.",
            "You put the mug 1 in/on the shelf 1.",
        ] {
            let mut turns = WALK;
            turns[1].0 = "You pick up the mug 1 from the desk 1.";
            turns[2].0 = laid;
            assert_eq!(
                classify(&episode(Outcome::TurnLimit, &turns)),
                Some(FailureClass::TurnLimit)
            );
            turns[3].0 = "You clean the mug 1 using the sinkbasin 1.";
            assert_eq!(
                classify(&episode(Outcome::TurnLimit, &turns)),
                Some(FailureClass::NearGoal)
            );
        }
    }

    /// Of three lost episodes, two ran out of turns and one out of context. The won one is in no row.
    #[test]
    fn classes_are_counted_by_split_and_type() {
        let outcomes = [
            Outcome::TurnLimit,
            Outcome::Success,
            Outcome::ContextLimit,
            Outcome::TurnLimit,
        ];
        let rows = failures("p", 1, &outcomes.map(|outcome| episode(outcome, &WALK)));
        let counted: Vec<_> = rows
            .iter()
            .map(|row| (row.task_type, row.failure, row.episodes))
            .collect();
        let clean = Some(TaskType::PickCleanThenPlaceInRecep);
        let expected = [None, clean].map(|kind| {
            [
                (kind, FailureClass::ContextLimit, 1),
                (kind, FailureClass::TurnLimit, 2),
            ]
        });
        assert_eq!(counted, expected.concat());
        assert!((rows[1].share - 2.0 / 3.0).abs() < 1e-12);
    }
}
