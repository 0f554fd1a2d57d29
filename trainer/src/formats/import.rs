//! Demonstrations that others have published, as episodes.
//!
//! - `eto`: `agent-eto/eto-sft-trajectory`, the file `alfworld_sft.json` (Song et al., arXiv 2403.02502). A JSON list of
//!   records with `id`, `game_file`, a path that ends in TASK/TRIAL, and `conversations` of `from` and `value`: instructions
//!   and "OK", the opening, then "Thought: …\nAction: …" and "Observation: …" in turn, to the last answer. Read off
//!   github.com/Yifan-Song793/ETO: `eval_agent/envs/alfworld_env.py` (what an observation drops, how an action is found),
//!   `eval_agent/tasks/alfworld.py` (what an opening drops), `construct_preference.py` (fields, `game_file`, the two first
//!   messages, that these episodes count as won), `eval_agent/prompt/icl_examples/alfworld_icl.json` (the texts).
//! - `agentgym`: `AgentGym/AgentTraj-L`, the file `alfworld_train.json` (Xi et al., arXiv 2406.04151). A JSON list of records
//!   with `item_id`, TASK and TRIAL with `_` between, and `conversations` of `from`, `value` and `loss` (null, or whether an
//!   answer is learned from). An opening ends in "AVAILABLE ACTIONS: …", an answer is "Action: …" with or without a
//!   "Thought: …" above, in one line or with the text below its label. Read off github.com/WooooDyy/AgentGym:
//!   `agentenv/agentenv/envs/alfworld.py` (messages and labels), `agentenv-alfworld/agentenv_alfworld/env_wrapper.py` and
//!   `utils.py` (what texts drop), and a record as others quote it.
//!
//! Both speak text 2.1.1. None of their files was at hand when this was written, only the code that writes and reads them.

pub use super::recorded::{GameName, Recorded, Thoughts, plain};

use super::recorded::Said;
use crate::error::TrainerError;
use crate::measure::verify::{Difference, Field};
use scenarios::{Outcome, Trajectory};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::str::FromStr;

/// Whose form a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// ETO's.
    Eto,
    /// AgentGym's.
    AgentGym,
}

impl Origin {
    /// As it is written in flags, and as the policy of the episodes.
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

/// A record that says nothing that could be an episode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Its number in the file, from 1.
    pub number: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a file of records: a JSON list, or one record a line.
///
/// # Errors
/// When it cannot be read, or is neither. A record that means nothing is no error but a [`BadRecord`].
pub fn read(origin: Origin, path: &Path) -> Result<Vec<Result<Recorded, BadRecord>>, TrainerError> {
    let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
    let records: Vec<Result<Value, String>> = if text.trim_start().starts_with('[') {
        let list: Vec<Value> =
            serde_json::from_str(&text).map_err(|e| TrainerError::content(path, e))?;
        list.into_iter().map(Ok).collect()
    } else {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines
            .map(|line| serde_json::from_str(line).map_err(|e| e.to_string()))
            .collect()
    };
    let read = |(index, record): (usize, Result<Value, String>)| {
        let recorded = record.and_then(|record| match origin {
            Origin::Eto => eto(record),
            Origin::AgentGym => agentgym(record),
        });
        recorded.map_err(|reason| BadRecord {
            number: index + 1,
            reason,
        })
    };
    Ok(records.into_iter().enumerate().map(read).collect())
}

fn eto(record: Value) -> Result<Recorded, String> {
    #[derive(Deserialize)]
    struct Eto {
        id: Value,
        game_file: String,
        conversations: Vec<Said>,
    }
    let Eto {
        id,
        game_file,
        conversations,
    } = serde_json::from_value(record).map_err(|e| e.to_string())?;
    let game = GameName::of_path(&game_file)
        .ok_or_else(|| format!("game_file {game_file:?} names no TASK/TRIAL"))?;
    Recorded::new(
        id.as_str().map_or_else(|| id.to_string(), Into::into),
        game,
        &conversations,
    )
}

fn agentgym(record: Value) -> Result<Recorded, String> {
    #[derive(Deserialize)]
    struct AgentGym {
        item_id: String,
        conversations: Vec<Said>,
    }
    let AgentGym {
        item_id,
        conversations,
    } = serde_json::from_value(record).map_err(|e| e.to_string())?;
    let Some((task, trial)) = item_id.split_once("_trial_") else {
        return Err(format!(
            "item_id {item_id:?} is no TASK_trial_… of ALFWorld"
        ));
    };
    let game = GameName {
        split: None,
        task: task.into(),
        trial: format!("trial_{trial}"),
    };
    Recorded::new(item_id, game, &conversations)
}

/// Where an episode, played again as [`crate::measure::verify`] does, first says something else than the record of it, whatever
/// recorders drop. Whether it was won is for the world alone to say.
#[must_use]
pub fn said_otherwise(recorded: &Trajectory, played: &Trajectory) -> Option<Difference> {
    let differs = |turn: usize, expected: &str, found: &str| {
        let [expected, found] = [expected, found].map(|text| format!("{text:?}"));
        Some(Difference {
            turn,
            field: Field::Observation,
            expected,
            found,
        })
    };
    for (index, (recorded, played)) in recorded.turns.iter().zip(&played.turns).enumerate() {
        if plain(&recorded.observation) != plain(&played.observation) {
            return differs(index + 1, &recorded.observation, &played.observation);
        }
    }
    let [expected, found] = [recorded, played].map(|episode| episode.turns.len());
    if expected != found || played.outcome == Outcome::EnvFailed {
        let over = || format!("the game is over after {found} turns");
        return Some(Difference {
            turn: found + 1,
            field: Field::Outcome,
            expected: format!("{expected} turns"),
            found: played.failure.clone().unwrap_or_else(over),
        });
    }
    let (last, world) = (&recorded.last_observation, &played.last_observation);
    if !last.is_empty() && plain(last) != plain(world) {
        return differs(expected + 1, last, world);
    }
    None
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

    fn said(episode: &Trajectory) -> Vec<(&str, &str)> {
        episode
            .turns
            .iter()
            .map(|turn| (turn.observation.as_str(), turn.completion.as_str()))
            .collect()
    }

    #[test]
    fn labels_and_lists_are_no_part_of_what_was_said() {
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
        assert_eq!(said(&episode), expected);
        assert_eq!(
            episode.game,
            "train/pick_and_place_simple-Mug-None-Desk-3/trial_T1_2"
        );
        assert_eq!(
            episode.task_type,
            Some(scenarios::TaskType::PickAndPlaceSimple)
        );
    }

    /// A thought is a turn that the world does not understand, and every completion stays one command.
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
        assert_eq!(said(&episode), expected);
        for turn in &episode.turns {
            assert_eq!(
                agent::text::chat::parse_command(&turn.completion),
                turn.action.as_deref()
            );
        }
    }

    #[test]
    fn what_means_nothing_is_said_with_its_place() {
        let broken = |change: &dyn Fn(&mut Value)| {
            let mut record = record();
            change(&mut record);
            agentgym(record).unwrap_err()
        };
        let messages = |record: &mut Value, index: usize, key: &str, value: Value| {
            record["conversations"][index][key] = value;
        };
        assert!(
            broken(&|r| r["item_id"] = json!("babyai_3"))
                .contains("\"babyai_3\" is no TASK_trial_")
        );
        assert!(
            broken(&|r| messages(r, 5, "value", json!("look")))
                .contains("message 6: no line begins with `Action:`")
        );
        assert!(
            broken(&|r| messages(r, 5, "loss", json!(false)))
                .contains("message 6: an answer that is not")
        );
        assert!(
            broken(&|r| messages(r, 4, "from", json!("gpt"))).contains("message 5 is from \"gpt\"")
        );
        assert!(
            broken(&|r| messages(r, 7, "value", json!("Action: look\nlook")))
                .contains("message 8: \"look\\nlook\"")
        );
        assert!(
            broken(&|r| r["conversations"] = json!([])).contains("no answer holds an `Action:`")
        );
        assert!(
            broken(&|r| r["conversations"][3] = json!({"from": "gpt"}))
                .contains("missing field `value`")
        );
    }

    #[test]
    fn a_path_of_alfworld_names_its_game() {
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
    fn a_world_and_a_record_are_compared_without_what_recorders_drop() {
        let opening =
            "-= Welcome to TextWorld, ALFRED! =-\n\nYou are here.\n\nYour task is to: look.";
        assert_eq!(
            plain(opening),
            plain("You are here.\nYour task is to: look.")
        );
        for arrival in [
            "You arrive at loc 14. On the desk 1, you see a mug 1.",
            "You arrive at desk 1. On the desk 1, you see a mug 1.",
        ] {
            assert_eq!(plain(arrival), "On the desk 1, you see a mug 1.");
        }
    }
}
