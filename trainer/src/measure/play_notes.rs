//! What the completions of a measurement show about its setting: a success of 0 % may mean that no completion was read as
//! a command.

use agent::text::action::has_open_thought;
use agent::text::chat::without_admissible;
use scenarios::{ActionFormat, Outcome, Trajectory};

/// The reply of a TextWorld game to a command that it does not know or that is not possible now.
const NOTHING: &str = "Nothing happens.";

/// The fewest commands that must all do nothing before that is worth a note.
const COMMANDS: usize = 8;

/// Counts over the turns of several episodes.
#[derive(Debug, Default, PartialEq, Eq)]
struct TurnCounts {
    completions: usize,
    malformed: usize,
    /// Malformed, because a thought has no end.
    open_thoughts: usize,
    /// Commands after which the game said that nothing happens.
    without_effect: usize,
}

impl TurnCounts {
    fn of(episodes: &[Trajectory]) -> Self {
        let mut counts = Self::default();
        for episode in episodes {
            for (index, turn) in episode.turns.iter().enumerate() {
                let next = episode.turns.get(index + 1);
                let reply = next.map_or(&episode.last_observation, |turn| &turn.observation);
                let is_malformed = turn.action.is_none();
                let does_nothing = without_admissible(reply).trim() == NOTHING;
                counts.completions += 1;
                counts.malformed += usize::from(is_malformed);
                counts.open_thoughts +=
                    usize::from(is_malformed && has_open_thought(&turn.completion));
                counts.without_effect += usize::from(!is_malformed && does_nothing);
            }
        }
        counts
    }
}

/// Returns messages about problems that a success rate hides: thoughts without an end, completions
/// without any command, and commands that the game never understood.
#[must_use]
pub fn play_notes(episodes: &[Trajectory]) -> Vec<String> {
    let TurnCounts {
        completions,
        malformed,
        open_thoughts,
        without_effect,
    } = TurnCounts::of(episodes);
    let Some(first) = episodes.iter().find(|episode| !episode.turns.is_empty()) else {
        return Vec::new();
    };
    let protocol = &first.protocol;
    let shown = excerpt(&first.turns[0].completion);
    let commands = completions - malformed;
    let is_auto = protocol.action_format == ActionFormat::Auto;
    let mut notes = Vec::new();
    if open_thoughts > 0 {
        notes.push(format!(
            "{open_thoughts} of {completions} completions end inside a thought, so they contain no command\n\
             hint: raise --completion (now {}), stop at no text (--stop ''), or switch thinking off (--thinking off for a model folder, else at the server)",
            protocol.completion_limit
        ));
    }
    if malformed == completions && open_thoughts < completions {
        let other = if is_auto {
            ""
        } else {
            "--action-format auto reads other forms, and "
        };
        notes.push(format!(
            "none of the {completions} completions contains a command in the action format {}; the first is {shown}\n\
             hint: {other}--completion (now {}) may be too small",
            protocol.action_format, protocol.completion_limit
        ));
    }
    if commands >= COMMANDS && without_effect == commands {
        let other = if is_auto {
            ""
        } else {
            "--action-format auto reads labelled commands; "
        };
        notes.push(format!(
            "the game understood none of the {commands} commands; the first completion is {shown}\n\
             hint: {other}the success rate says nothing about the policy"
        ));
    }
    notes
}

/// Returns whether nothing was measured: every episode was lost because its world or its server failed, or not even its
/// first observation fitted into the context.
#[must_use]
pub fn is_lost(episodes: &[Trajectory]) -> bool {
    let is_lost = |episode: &Trajectory| match episode.outcome {
        Outcome::EnvFailed => true,
        Outcome::ContextLimit => episode.turns.is_empty(),
        Outcome::Success | Outcome::Failure | Outcome::TurnLimit => false,
    };
    !episodes.is_empty() && episodes.iter().all(is_lost)
}

fn excerpt(text: &str) -> String {
    let begin: String = text.chars().take(60).collect();
    if begin.len() < text.len() {
        format!("{begin:?}…")
    } else {
        format!("{text:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::Turn;

    /// An episode in which each completion, with its command, got a reply.
    fn episode(turns: &[(&str, Option<&str>, &str)]) -> Trajectory {
        let json = r#"{"format": 1, "game": "g", "game_hash": "00", "split": "train", "task_type": null, "repetition": 0,
            "seed": 0, "policy": "p", "turns": [], "last_observation": "", "outcome": "turn_limit", "reward": 0.0, "seconds": 0.0,
            "protocol": {"turn_limit": 40, "context_limit": 0, "completion_limit": 24, "temperature": 0.0,
            "best_of": 1, "admissible_shown": false, "history": "full", "malformed": "wasted_turn"}}"#;
        let mut episode: Trajectory = serde_json::from_str(json).unwrap();
        let mut observation = "You are in a room.";
        for (completion, action, reply) in turns {
            episode.turns.push(Turn {
                observation: observation.into(),
                completion: (*completion).into(),
                action: action.map(str::to_owned),
                ..Turn::default()
            });
            observation = reply;
        }
        episode.last_observation = observation.into();
        episode
    }

    fn note(turns: &[(&str, Option<&str>, &str)]) -> String {
        play_notes(&[episode(turns)]).join("\n")
    }

    #[test]
    fn a_success_of_zero_by_format_is_said() {
        let label = ("Action: look", Some("Action: look"), NOTHING);
        assert!(note(&[label; COMMANDS]).contains("understood none of the 8 commands"));
        assert_eq!(note(&[label; COMMANDS - 1]), "");
        let mut once = [label; COMMANDS];
        once[0] = ("look", Some("look"), "You see a desk 1.");
        assert_eq!(note(&once), "");
        let cut = ("<think>\nI am", None, "That was no command.");
        let found = note(&[cut, label]);
        assert!(
            found.contains("1 of 2 completions end inside a thought"),
            "{found}"
        );
        assert!(!found.contains("none of the"), "{found}");
        let lines = ("look\nlook", None, "That was no command.");
        assert!(note(&[lines]).contains("the first is \"look\\nlook\""));
        assert_eq!(play_notes(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_round_is_lost_if_every_episode_is() {
        let lost = Trajectory {
            outcome: Outcome::EnvFailed,
            ..episode(&[])
        };
        assert!(is_lost(&[lost.clone(), lost.clone()]));
        let full = Trajectory {
            outcome: Outcome::ContextLimit,
            ..episode(&[])
        };
        assert!(is_lost(&[lost.clone(), full]));
        assert!(!is_lost(&[lost, episode(&[])]) && !is_lost(&[]));
    }
}
