//! Why episodes were lost: one class for each, by rules that a reader of the log can follow.
//!
//! | class | rule, the first that holds |
//! | --- | --- |
//! | `world_failed` | the world, or the server that was to play, failed |
//! | `context_limit` | the next turn would not have fitted into the context |
//! | `malformed` | more than half of the turns held no command, or none of the last [`MALFORMED_END`] did |
//! | `loop` | each of the last [`LOOP_END`] turns gave a command in a state in which the episode had given it before |
//! | `near_goal` | at its end the goal's object was in hand, or had been cleaned, heated or cooled |
//! | `ended` | the world said that it is lost, or the policy ended it |
//! | `turn_limit` | none of these: it ran out of turns |
//!
//! A state is what the world tells of it ([`scenarios::Turn::state`]), or where it tells nothing the observation before
//! the command. `near_goal` reads household texts; episodes of other games are never in it.

use scenarios::{Outcome, Split, TaskType, Trajectory, Turn, expert};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// So many turns without a command at the end are `malformed`.
pub const MALFORMED_END: usize = 3;
/// So many repeated turns at the end are a `loop`.
pub const LOOP_END: usize = 4;

/// Why an episode was lost; the rules stand above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The world, or the server that was to play, failed.
    WorldFailed,
    /// The context was full.
    ContextLimit,
    /// Turns held no command.
    Malformed,
    /// It did again what had led nowhere.
    Loop,
    /// The goal's object was in hand or treated.
    NearGoal,
    /// The world or the policy ended it.
    Ended,
    /// It ran out of turns.
    TurnLimit,
}

impl Failure {
    /// All of them, in the order of the rules.
    pub const ALL: [Self; 7] = [
        Self::WorldFailed,
        Self::ContextLimit,
        Self::Malformed,
        Self::Loop,
        Self::NearGoal,
        Self::Ended,
        Self::TurnLimit,
    ];

    /// As it is written in tables.
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

/// The class of an episode; `None` of a won one.
#[must_use]
pub fn classify(episode: &Trajectory) -> Option<Failure> {
    Some(match episode.outcome {
        Outcome::Success => return None,
        Outcome::EnvFailed => Failure::WorldFailed,
        Outcome::ContextLimit => Failure::ContextLimit,
        Outcome::Failure | Outcome::TurnLimit if is_malformed(episode) => Failure::Malformed,
        Outcome::Failure | Outcome::TurnLimit if is_loop(&episode.turns) => Failure::Loop,
        Outcome::Failure | Outcome::TurnLimit if is_near_goal(episode) => Failure::NearGoal,
        Outcome::Failure => Failure::Ended,
        Outcome::TurnLimit => Failure::TurnLimit,
    })
}

fn is_malformed(episode: &Trajectory) -> bool {
    let turns = &episode.turns;
    let end_is = turns.len() >= MALFORMED_END
        && turns[turns.len() - MALFORMED_END..]
            .iter()
            .all(|t| t.action.is_none());
    end_is || 2 * episode.malformed_turns() > turns.len()
}

/// Where a command was given.
#[derive(PartialEq, Eq, Hash)]
enum Place<'a> {
    State(u64),
    Observation(&'a str),
}

fn is_loop(turns: &[Turn]) -> bool {
    let mut given = HashSet::new();
    let is_new = |turn: &Turn| turn.action.is_some();
    let mut repeated = Vec::new();
    for turn in turns {
        let place = turn
            .state
            .map_or(Place::Observation(turn.observation.trim()), Place::State);
        let is_first = given.insert((place, turn.action.as_deref().map(str::trim)));
        repeated.push(is_new(turn) && !is_first);
    }
    repeated.len() >= LOOP_END
        && repeated[repeated.len() - LOOP_END..]
            .iter()
            .all(|repeated| *repeated)
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
    let (mut held, mut treated) = (false, false);
    for text in later.chain([episode.last_observation.as_str()]) {
        let done = |verb: &str| named(text, verb, &object);
        held =
            (held || done("You pick up the ")) && !done("You move the ") && !done("You put the ");
        treated |= ["You clean the ", "You heat the ", "You cool the "]
            .into_iter()
            .any(done);
    }
    held || treated
}

/// Whether a text begins by saying that this was done to an object of a type, as in `You heat the mug 2 using`.
fn named(text: &str, verb: &str, object: &str) -> bool {
    let rest = text
        .strip_prefix(verb)
        .and_then(|rest| rest.strip_prefix(object))
        .and_then(|rest| rest.strip_prefix(' '));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// How many episodes of a policy were lost in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureRow {
    /// What the policy is called in the table.
    pub policy: String,
    /// Candidates a turn.
    pub k: usize,
    /// The split.
    pub split: Split,
    /// The kind of task; `None` = all.
    pub task_type: Option<TaskType>,
    /// The way.
    pub failure: Failure,
    /// Episodes lost in it.
    pub episodes: usize,
    /// Share of all lost episodes, those of the world included.
    pub share: f64,
}

/// Counts episodes by class: for each split all task types together, then each on its own. Classes that did not occur have
/// no row.
#[must_use]
pub fn failures(policy: &str, k: usize, episodes: &[Trajectory]) -> Vec<FailureRow> {
    let mut counts: BTreeMap<(Split, Option<TaskType>), BTreeMap<Failure, usize>> = BTreeMap::new();
    for episode in episodes {
        let Some(failure) = classify(episode) else {
            continue;
        };
        let mut count = |task_type| {
            *counts
                .entry((episode.split, task_type))
                .or_default()
                .entry(failure)
                .or_default() += 1
        };
        count(None);
        if episode.task_type.is_some() {
            count(episode.task_type);
        }
    }
    let row = |split, task_type, failure, episodes: usize, lost: usize| FailureRow {
        policy: policy.into(),
        k,
        split,
        task_type,
        failure,
        episodes,
        share: episodes as f64 / lost as f64,
    };
    let rows =
        |((split, task_type), classes): ((Split, Option<TaskType>), BTreeMap<Failure, usize>)| {
            let lost = classes.values().sum();
            classes
                .into_iter()
                .map(move |(failure, episodes)| row(split, task_type, failure, episodes, lost))
        };
    counts.into_iter().flat_map(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::{Protocol, Spent};

    const OPENING: &str = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1.\n\n\
                           Your task is to: put a clean mug in shelf.";

    /// An episode of (observation, command, state); an empty command is a malformed turn.
    fn episode(outcome: Outcome, turns: &[(&str, &str, Option<u64>)]) -> Trajectory {
        let turn = |&(observation, command, state): &(&str, &str, Option<u64>)| Turn {
            observation: observation.into(),
            completion: command.into(),
            action: (!command.is_empty()).then(|| command.into()),
            state,
            ..Turn::default()
        };
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
            turns: turns.iter().map(turn).collect(),
            last_observation: "Nothing happens.".into(),
            outcome,
            reward: outcome.reward(),
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
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
    fn the_outcome_tells_some_classes_alone() {
        let of = |outcome| classify(&episode(outcome, &WALK));
        assert_eq!(of(Outcome::Success), None);
        assert_eq!(of(Outcome::EnvFailed), Some(Failure::WorldFailed));
        assert_eq!(of(Outcome::ContextLimit), Some(Failure::ContextLimit));
        assert_eq!(of(Outcome::Failure), Some(Failure::Ended));
        assert_eq!(of(Outcome::TurnLimit), Some(Failure::TurnLimit));
    }

    /// Two of five turns without a command are none of it, three are, and so are the last three of seven.
    #[test]
    fn most_turns_or_the_last_ones_without_a_command_are_malformed() {
        let mut turns = WALK;
        (turns[0].1, turns[2].1) = ("", "");
        assert_eq!(
            classify(&episode(Outcome::TurnLimit, &turns)),
            Some(Failure::TurnLimit)
        );
        turns[3].1 = "";
        assert_eq!(
            classify(&episode(Outcome::TurnLimit, &turns)),
            Some(Failure::Malformed)
        );
        let late = [&WALK[..4], &[("o", "", None); 3]].concat();
        assert_eq!(
            classify(&episode(Outcome::TurnLimit, &late)),
            Some(Failure::Malformed)
        );
        assert_eq!(
            classify(&episode(Outcome::TurnLimit, &late[..6])),
            Some(Failure::TurnLimit)
        );
    }

    /// `look`, then four times what was tried there before; with three it is no loop, and neither where the world says
    /// that its state is another.
    #[test]
    fn the_same_command_in_the_same_state_is_a_loop() {
        let stuck = [("Nothing happens.", "use lamp 1", None); 5];
        let of =
            |turns: &[(&str, &str, Option<u64>)]| classify(&episode(Outcome::TurnLimit, turns));
        assert_eq!(of(&[&WALK[..1], &stuck[..]].concat()), Some(Failure::Loop));
        assert_eq!(
            of(&[&WALK[..1], &stuck[..4]].concat()),
            Some(Failure::TurnLimit)
        );
        let moving: Vec<_> = (0..5)
            .map(|state| ("Nothing happens.", "use lamp 1", Some(state)))
            .collect();
        assert_eq!(of(&moving), Some(Failure::TurnLimit));
        let here_and_there = [("a", "go to b", Some(1)), ("b", "go to a", Some(2))].repeat(3);
        assert_eq!(
            of(&here_and_there),
            Some(Failure::Loop),
            "of two commands in turn"
        );
        assert_eq!(
            of(&[&here_and_there[..], &[("a", "look", Some(1))]].concat()),
            Some(Failure::TurnLimit)
        );
    }

    /// The goal's mug, not its numberless namesake nor another thing; laid down again it is far, unless it was cleaned.
    #[test]
    fn who_holds_or_has_cleaned_the_object_is_near_the_goal() {
        let held = walk_with(1, ("You pick up the mug 1 from the desk 1.", "look", None));
        assert_eq!(classify(&held), Some(Failure::NearGoal));
        let other = walk_with(1, ("You pick up the pen 1 from the desk 1.", "look", None));
        assert_eq!(classify(&other), Some(Failure::TurnLimit));
        let longer = walk_with(
            1,
            ("You pick up the mug rack 1 from the desk 1.", "look", None),
        );
        assert_eq!(classify(&longer), Some(Failure::TurnLimit));
        for laid in [
            "You move the mug 1 to the shelf 1.",
            "You put the mug 1 in/on the shelf 1.",
        ] {
            let mut turns = WALK;
            (turns[1].0, turns[2].0) = ("You pick up the mug 1 from the desk 1.", laid);
            assert_eq!(
                classify(&episode(Outcome::TurnLimit, &turns)),
                Some(Failure::TurnLimit)
            );
            turns[3].0 = "You clean the mug 1 using the sinkbasin 1.";
            assert_eq!(
                classify(&episode(Outcome::TurnLimit, &turns)),
                Some(Failure::NearGoal)
            );
        }
    }

    /// Of three lost episodes two ran out of turns and one out of context; the won one is in no row.
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
                (kind, Failure::ContextLimit, 1),
                (kind, Failure::TurnLimit, 2),
            ]
        });
        assert_eq!(counted, expected.concat());
        assert!((rows[1].share - 2.0 / 3.0).abs() < 1e-12);
    }
}
