//! Reads published demonstrations as episodes.
//!
//! - `eto`: `agent-eto/eto-sft-trajectory`, the file `alfworld_sft.json` (Song et al., arXiv
//!   2403.02502). It is a JSON list of records with `id`, `game_file`, which is a path that ends in
//!   TASK/TRIAL, and `conversations` of `from` and `value`: the instructions and "OK", the first
//!   observation, then "Thought: …\nAction: …" and "Observation: …" in turn, up to the last response.
//!   Sources in github.com/Yifan-Song793/ETO: `eval_agent/envs/alfworld_env.py` (what is dropped from
//!   an observation, how an action is found), `eval_agent/tasks/alfworld.py` (what is dropped from
//!   the first observation), `construct_preference.py` (the fields, `game_file`, the first two
//!   messages, that these episodes count as won),
//!   `eval_agent/prompt/icl_examples/alfworld_icl.json` (the texts).
//! - `agentgym`: `AgentGym/AgentTraj-L`, the file `alfworld_train.json` (Xi et al., arXiv 2406.04151).
//!   It is a JSON list of records with `item_id`, which is TASK and TRIAL joined by `_`, and
//!   `conversations` of `from`, `value` and `loss` (null, or whether a trainer learns from the
//!   response). The first observation ends in "AVAILABLE ACTIONS: …". A response is "Action: …", with
//!   or without a "Thought: …" before it, on the line of its label or below it. Sources in
//!   github.com/WooooDyy/AgentGym: `agentenv/agentenv/envs/alfworld.py` (messages and labels),
//!   `agentenv-alfworld/agentenv_alfworld/env_wrapper.py` and `utils.py` (what is dropped from the
//!   texts), and a quoted record.
//!
//! Copies of these files in other layouts are read too: `role` and `content` in place of `from` and `value`, `messages` in
//! place of `conversations`, a system message first, `<action>` tags, paths of Windows or to `traj_data.json`.
//!
//! Both use text version 2.1.1. The readers were written from the code that writes and reads these
//! files; the files themselves were not available.

pub use super::recorded::{GameName, RecordedEpisode, Thoughts, comparable};

use super::recorded::RecordedMessage;
use super::records;
use crate::error::TrainerError;
use crate::measure::verify::{Field, ReplayDifference};
use scenarios::{Outcome, Trajectory};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::str::FromStr;

/// The data set whose format a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// ETO.
    Eto,
    /// AgentGym.
    AgentGym,
}

impl Origin {
    /// Returns the name in flags, which is also the policy name of the episodes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Eto => "eto",
            Self::AgentGym => "agentgym",
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = [Self::Eto, Self::AgentGym]
            .into_iter()
            .find(|origin| origin.name() == name);
        found.ok_or_else(|| format!("`{name}` is neither eto nor agentgym"))
    }
}

/// A record that cannot be converted to an episode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// The number of the record in the file, from 1.
    pub number: usize,
    /// Why it cannot be converted.
    pub reason: String,
}

/// Reads a file of records: a JSON list, a list in an object such as `{"data": [...]}`, or one record per line.
///
/// # Errors
/// If the file cannot be read, or if it is a Git LFS pointer. If a single record cannot be parsed or converted, it is
/// returned as a [`BadRecord`].
pub fn read(
    origin: Origin,
    path: &Path,
) -> Result<Vec<Result<RecordedEpisode, BadRecord>>, TrainerError> {
    let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
    let records = records::split(&text).map_err(|reason| TrainerError::content(path, reason))?;
    Ok(records
        .into_iter()
        .enumerate()
        .map(|(index, record)| {
            serde_json::from_str(record)
                .map_err(|error| error.to_string())
                .and_then(|record| match origin {
                    Origin::Eto => eto(record),
                    Origin::AgentGym => agentgym(record),
                })
                .map_err(|reason| BadRecord {
                    number: index + 1,
                    reason,
                })
        })
        .collect())
}

fn eto(record: Value) -> Result<RecordedEpisode, String> {
    if record.get("item_id").is_some() && record.get("game_file").is_none() {
        return Err(
            "has item_id and no game_file, as AgentGym's records\nhint: --format agentgym".into(),
        );
    }
    #[derive(Deserialize)]
    struct EtoRecord {
        id: Value,
        game_file: String,
        #[serde(alias = "messages")]
        conversations: Vec<RecordedMessage>,
    }
    let EtoRecord {
        id,
        game_file,
        conversations,
    } = serde_json::from_value(record).map_err(|e| e.to_string())?;
    let game = GameName::of_path(&game_file)
        .ok_or_else(|| format!("game_file {game_file:?} does not end in TASK/TRIAL"))?;
    RecordedEpisode::new(
        id.as_str().map_or_else(|| id.to_string(), Into::into),
        game,
        &conversations,
    )
}

fn agentgym(record: Value) -> Result<RecordedEpisode, String> {
    #[derive(Deserialize)]
    struct AgentGymRecord {
        item_id: String,
        #[serde(alias = "messages")]
        conversations: Vec<RecordedMessage>,
    }
    let AgentGymRecord {
        item_id,
        conversations,
    } = serde_json::from_value(record).map_err(|e| e.to_string())?;
    let Some((task, trial)) = item_id.split_once("_trial_") else {
        return Err(format!(
            "item_id {item_id:?} is not TASK_trial_… of ALFWorld"
        ));
    };
    let game = GameName {
        split: None,
        task: task.into(),
        trial: format!("trial_{trial}"),
    };
    RecordedEpisode::new(item_id, game, &conversations)
}

/// Returns the first difference between a record and its replay by [`crate::measure::verify`],
/// without the parts of the texts that recorders drop. Whether the episode was won is not compared.
#[must_use]
pub fn first_text_difference(
    recorded: &Trajectory,
    played: &Trajectory,
) -> Option<ReplayDifference> {
    for (index, (recorded, played)) in recorded.turns.iter().zip(&played.turns).enumerate() {
        if comparable(&recorded.observation) != comparable(&played.observation) {
            return Some(observation_difference(
                index + 1,
                &recorded.observation,
                &played.observation,
            ));
        }
    }
    let [expected, found] = [recorded, played].map(|episode| episode.turns.len());
    if expected != found || played.outcome == Outcome::EnvFailed {
        return Some(ReplayDifference {
            turn: found + 1,
            field: Field::Outcome,
            expected: format!("{expected} turns"),
            found: played
                .failure
                .clone()
                .unwrap_or_else(|| format!("the game is over after {found} turns")),
        });
    }
    let last = &recorded.last_observation;
    (!last.is_empty() && comparable(last) != comparable(&played.last_observation))
        .then(|| observation_difference(expected + 1, last, &played.last_observation))
}

fn observation_difference(turn: usize, expected: &str, found: &str) -> ReplayDifference {
    ReplayDifference {
        turn,
        field: Field::Observation,
        expected: format!("{expected:?}"),
        found: format!("{found:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::TextVersion;
    use serde_json::json;

    fn record() -> Value {
        json!({"item_id": "pick_and_place_simple-Mug-None-Desk-3_trial_T1_2", "conversations": [
            {"from": "human", "loss": null, "value": "Interact with a household to solve a task."},
            {"from": "gpt", "loss": false, "value": "OK. I'll follow your instructions."},
            {"from": "human", "loss": null, "value": "You see a desk 1.\nYour task is to: put a mug on desk.\nAVAILABLE ACTIONS: look,go to desk 1"},
            {"from": "gpt", "loss": true, "value": "Thought: I need a mug.\nThe Action: is to look.\nAction: take mug 1 from shelf 1 "},
            {"from": "human", "loss": null, "value": "You pick up the mug 1 from the shelf 1."},
            {"from": "gpt", "loss": true, "value": "Action:\nput mug 1 in/on desk 1"},
            {"from": "human", "loss": null, "value": "You put the mug 1 in/on the desk 1."},
            {"from": "gpt", "loss": true, "value": "Action: look"},
        ]})
    }

    fn texts(episode: &Trajectory) -> Vec<(&str, &str)> {
        episode
            .turns
            .iter()
            .map(|turn| (turn.observation.as_str(), turn.completion.as_str()))
            .collect()
    }

    #[test]
    fn labels_and_lists_of_actions_are_removed() {
        let recorded = agentgym(record()).unwrap();
        assert_eq!(recorded.text(), Some(TextVersion::V2_1_1));
        let episode = recorded.episode("agentgym", Thoughts::Drop, None, 0);
        let expected = [
            (
                "You see a desk 1.\nYour task is to: put a mug on desk.",
                "take mug 1 from shelf 1",
            ),
            (
                "You pick up the mug 1 from the shelf 1.",
                "put mug 1 in/on desk 1",
            ),
            ("You put the mug 1 in/on the desk 1.", "look"),
        ];
        assert_eq!(texts(&episode), expected);
        assert_eq!(
            episode.game,
            "train/pick_and_place_simple-Mug-None-Desk-3/trial_T1_2"
        );
        assert_eq!(
            episode.task_type,
            Some(scenarios::TaskType::PickAndPlaceSimple)
        );
    }

    /// If thoughts are kept, each is a turn that the environment does not understand. Every completion
    /// is still one command.
    #[test]
    fn a_kept_thought_is_a_turn_and_old_grammar_is_translated() {
        let episode =
            agentgym(record())
                .unwrap()
                .episode("x", Thoughts::Keep, Some(TextVersion::V2_1_3), 0);
        let expected = [
            (
                "You see a desk 1.\nYour task is to: put a mug on desk.",
                "think: I need a mug. The Action: is to look.",
            ),
            ("Nothing happens.", "take mug 1 from shelf 1"),
            (
                "You pick up the mug 1 from the shelf 1.",
                "move mug 1 to desk 1",
            ),
            ("You move the mug 1 to the desk 1.", "look"),
        ];
        assert_eq!(texts(&episode), expected);
        for turn in &episode.turns {
            assert_eq!(
                agent::text::action::parse_command(&turn.completion),
                turn.action.as_deref()
            );
        }
    }

    #[test]
    fn a_bad_record_is_reported_with_the_place_of_the_error() {
        for (path, value, expected) in [
            (
                "/item_id",
                json!("babyai_3"),
                "\"babyai_3\" is not TASK_trial_",
            ),
            (
                "/conversations/5/value",
                json!("look"),
                "message 6: no line begins with `Action:`",
            ),
            (
                "/conversations/5/loss",
                json!(false),
                "message 6: its loss is false",
            ),
            (
                "/conversations/4/from",
                json!("gpt"),
                "message 5 is from \"gpt\"",
            ),
            (
                "/conversations/7/value",
                json!("Action: look\nlook"),
                "message 8: \"look\\nlook\"",
            ),
            (
                "/conversations",
                json!([]),
                "no response contains an `Action:`",
            ),
            (
                "/conversations/3",
                json!({"from": "gpt"}),
                "missing field `value`",
            ),
        ] {
            let mut record = record();
            *record.pointer_mut(path).unwrap() = value;
            let reason = agentgym(record).unwrap_err();
            assert!(reason.contains(expected), "{path}: {reason}");
        }
    }

    #[test]
    fn the_game_is_read_from_a_path_of_alfworld() {
        for path in [
            "data/json_2.1.1/train/a-b/trial_1",
            "/x/train/a-b/trial_1/game.tw-pddl",
            "train/a-b/trial_1/",
        ] {
            let game = GameName::of_path(path).unwrap();
            assert_eq!(
                game,
                GameName {
                    split: Some(scenarios::Split::Train),
                    task: "a-b".into(),
                    trial: "trial_1".into()
                }
            );
        }
        assert_eq!(GameName::of_path("trial_1"), None);
    }

    #[test]
    fn an_environment_and_a_record_are_compared_without_what_recorders_drop() {
        let opening =
            "-= Welcome to TextWorld, ALFRED! =-\n\nYou are here.\n\nYour task is to: look.";
        assert_eq!(
            comparable(opening),
            comparable("You are here.\nYour task is to: look.")
        );
        for arrival in [
            "You arrive at loc 14. On the desk 1, you see a mug 1.",
            "You arrive at desk 1. On the desk 1, you see a mug 1.",
        ] {
            assert_eq!(comparable(arrival), "On the desk 1, you see a mug 1.");
        }
    }
}
