//! A demonstration from a published data set: the parts that all formats share.
//!
//! A record is a list of messages, alternately from a `human` and a `gpt`. It begins with instructions
//! that the `gpt` only confirms, followed by the first observation. Each response is a thought, if
//! there is one, and an `Action:`. The recorders drop the first paragraph of the first observation
//! (the banner), one of its blank lines, and "You arrive at loc 14. " before what is seen there.
//! [`comparable`] drops the same parts of any text, so that a record can be compared with an
//! environment.

use agent::text::action::{command, parse_command};
use scenarios::{
    ActionFormat, Outcome, Protocol, Spent, Split, TaskType, TextVersion, Trajectory, Turn,
};
use serde::Deserialize;
use std::str::FromStr;

/// The response of a household environment to a text that is not a command, for example a thought.
pub(super) const NOTHING_HAPPENS: &str = "Nothing happens.";

/// The turn limit of ALFWorld. If a record is longer, its length is the limit.
const TURN_LIMIT: usize = 50;

/// A message of a record.
#[derive(Debug, Deserialize)]
pub(super) struct RecordedMessage {
    #[serde(alias = "role")]
    from: Author,
    #[serde(alias = "content")]
    value: String,
    /// Whether a trainer should learn from it, if the record contains this field.
    #[serde(default)]
    loss: Option<bool>,
}

/// The author of a message, by the names that data sets use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Author {
    System,
    #[serde(alias = "user")]
    Human,
    #[serde(alias = "assistant")]
    Gpt,
}

impl Author {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Human => "human",
            Self::Gpt => "gpt",
        }
    }
}

/// The name of a game in ALFWorld's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GameName {
    /// The split, if the record contains it.
    pub split: Option<Split>,
    /// The folder of the task, for example `pick_and_place_simple-AlarmClock-None-Desk-307`.
    pub task: String,
    /// The folder of the game in it, for example `trial_T20190907_072329_828593`.
    pub trial: String,
}

impl GameName {
    /// Returns the name at the end of a path in ALFWorld's layout, which is the path of the game's
    /// file or of its folder. Returns `None` if the path has fewer than two folders.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let path = path.replace('\\', "/");
        let folder = ["/game.tw-pddl", "/traj_data.json"]
            .into_iter()
            .find_map(|name| path.strip_suffix(name))
            .unwrap_or(&path);
        let mut parts = folder.rsplit('/').filter(|part| !part.is_empty());
        let trial = parts.next()?;
        let task = parts.next()?;
        let split = parts.next().and_then(|part| part.parse().ok());
        Some(Self {
            split,
            task: task.into(),
            trial: trial.into(),
        })
    }

    fn id(&self) -> String {
        format!(
            "{}/{}/{}",
            self.split.unwrap_or(Split::Train),
            self.task,
            self.trial
        )
    }

    fn task_type(&self) -> Option<TaskType> {
        TaskType::from_str(self.task.split('-').next()?).ok()
    }
}

/// What happens to the thoughts before the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoughts {
    /// They are dropped.
    Drop,
    /// Each thought becomes a turn `think: …` before its command, as in `ReAct` (arXiv 2210.03629).
    /// A completion must be exactly one command; if it contained a thought too, it would be
    /// malformed.
    Keep,
}

impl FromStr for Thoughts {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "drop" => Ok(Self::Drop),
            "keep" => Ok(Self::Keep),
            _ => Err(format!("`{name}` is neither drop nor keep")),
        }
    }
}

/// A response in a record, with the observation before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RecordedTurn {
    observation: String,
    thought: Option<String>,
    command: String,
}

/// A demonstration as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEpisode {
    /// The record's id.
    pub id: String,
    /// The game.
    pub game: GameName,
    turns: Vec<RecordedTurn>,
    /// The observation after the last command, if it was recorded.
    last: Option<String>,
}

impl RecordedEpisode {
    /// Reads the messages of a record. Returns an error if a message has an unexpected author, if a
    /// response has no command, or if there is no response.
    pub(super) fn new(
        id: String,
        game: GameName,
        messages: &[RecordedMessage],
    ) -> Result<Self, String> {
        let mut turns = Vec::new();
        let mut last = None;
        let systems = messages
            .iter()
            .take_while(|message| message.from == Author::System)
            .count();
        let messages = &messages[systems..];
        let first = preface(messages);
        for (index, pair) in messages[first..].chunks(2).enumerate() {
            let number = systems + first + 2 * index + 1;
            let human = &pair[0];
            if human.from != Author::Human {
                return Err(format!(
                    "message {number} is from {:?}, expected \"human\"",
                    human.from.name()
                ));
            }
            let observation = observation(&human.value).to_owned();
            let Some(gpt) = pair.get(1) else {
                last = Some(observation);
                break;
            };
            let (thought, command) =
                response(gpt).map_err(|reason| format!("message {}: {reason}", number + 1))?;
            turns.push(RecordedTurn {
                observation,
                thought,
                command,
            });
        }
        if turns.is_empty() {
            return Err("no response contains an `Action:`".into());
        }
        Ok(Self {
            id,
            game,
            turns,
            last,
        })
    }

    /// Returns the text version that the commands show, or `None` if they show none or both.
    #[must_use]
    pub fn text(&self) -> Option<TextVersion> {
        let mut shown = TextVersion::ALL.into_iter().filter(|text| {
            self.turns
                .iter()
                .any(|turn| text.put_parts(&turn.command).is_some())
        });
        shown.next().filter(|_| shown.next().is_none())
    }

    /// Returns the record as an episode. If `text` is given, the episode is translated into this text
    /// version. The outcome is a success, because the publishers state that all demonstrations were
    /// won. The observations are those of the record, the game has no hash, and no command was
    /// executed.
    #[must_use]
    pub fn episode(
        &self,
        policy: &str,
        thoughts: Thoughts,
        text: Option<TextVersion>,
        repetition: usize,
    ) -> Trajectory {
        let translation = self
            .text()
            .zip(text)
            .filter(|(from, to)| from != to)
            .map(|(from, to)| TextTranslation { from, to });
        let mut turns: Vec<Turn> = Vec::new();
        let mut before: Option<&str> = None;
        for recorded in &self.turns {
            let mut observation = translated_feedback(translation, before, &recorded.observation);
            if let Some(thought) = recorded
                .thought
                .as_deref()
                .filter(|_| thoughts == Thoughts::Keep)
                .and_then(think_command)
            {
                turns.push(turn(
                    std::mem::replace(&mut observation, NOTHING_HAPPENS.into()),
                    thought,
                ));
            }
            turns.push(turn(
                observation,
                translated(translation, &recorded.command),
            ));
            before = Some(&recorded.command);
        }
        let last = self
            .last
            .as_deref()
            .map(|last| translated_feedback(translation, before, last));
        Trajectory {
            format: Trajectory::FORMAT,
            game: self.game.id(),
            game_hash: String::new(),
            split: self.game.split.unwrap_or(Split::Train),
            task_type: self.game.task_type(),
            repetition,
            seed: repetition as u64,
            policy: policy.into(),
            value_policy: None,
            protocol: Protocol {
                turn_limit: turns.len().max(TURN_LIMIT),
                ..Protocol::default()
            },
            turns,
            last_observation: last.unwrap_or_default(),
            outcome: Outcome::Success,
            reward: Outcome::Success.reward(),
            failure: None,
            seconds: 0.0,
            spent: Spent::default(),
            branch: None,
        }
    }
}

/// Returns the number of messages before the first observation: pairs of instructions and a
/// confirmation.
fn preface(messages: &[RecordedMessage]) -> usize {
    2 * messages
        .chunks(2)
        .take_while(|pair| match pair {
            [human, gpt] => {
                !human.value.contains("Your task is to:") && !gpt.value.contains("Action:")
            }
            _ => false,
        })
        .count()
}

/// Returns the environment's text without the parts that recorders add.
fn observation(value: &str) -> &str {
    let value = value.strip_prefix("Observation:").unwrap_or(value);
    value
        .split("AVAILABLE ACTIONS:")
        .next()
        .unwrap_or(value)
        .trim()
}

/// Returns the thought, if there is one, and the command of a response: `Thought: …`, `Action: …`,
/// each on the line of its label or below it.
fn response(gpt: &RecordedMessage) -> Result<(Option<String>, String), String> {
    if gpt.from != Author::Gpt {
        return Err(format!(
            "it is from {:?}, expected \"gpt\"",
            gpt.from.name()
        ));
    }
    if gpt.loss == Some(false) {
        return Err(
            "its loss is false, but an episode cannot exclude a response from training".into(),
        );
    }
    let value = gpt.value.trim();
    let small = value.to_ascii_lowercase();
    let label = small
        .match_indices("action:")
        .filter(|(place, _)| *place == 0 || value[..*place].trim_end_matches(' ').ends_with('\n'))
        .last();
    let Some((place, label)) = label else {
        return tagged(value).ok_or_else(|| "no line begins with `Action:`".to_owned());
    };
    let action = &value[place + label.len()..];
    let command = parse_command(action)
        .ok_or_else(|| format!("{:?} is not one command on one line", action.trim()))?;
    let thought = value[..place].trim();
    let thought = match small.starts_with("thought:") {
        true => thought["thought:".len()..].trim(),
        false => thought,
    };
    Ok((
        (!thought.is_empty()).then(|| thought.into()),
        command.into(),
    ))
}

/// Returns the thought and the command of a response with the tags of verl-agent, `<think>` and `<action>`.
fn tagged(value: &str) -> Option<(Option<String>, String)> {
    let command = command(ActionFormat::Tags, value, true)?;
    let thought = value.split_once("<think>").and_then(|(_, rest)| {
        let (thought, _) = rest.split_once("</think>")?;
        Some(thought.trim().to_owned())
    });
    Some((thought.filter(|thought| !thought.is_empty()), command))
}

/// Returns a thought as the command of its own turn. Returns `None` if it contains chat markers that
/// make it malformed.
fn think_command(thought: &str) -> Option<String> {
    let words: Vec<&str> = thought.split_whitespace().collect();
    let line = format!("think: {}", words.join(" "));
    parse_command(&line).is_some().then_some(line)
}

fn turn(observation: String, command: String) -> Turn {
    Turn {
        observation,
        completion: command.clone(),
        action: Some(command),
        ..Turn::default()
    }
}

/// A translation from one text version to another.
#[derive(Clone, Copy)]
struct TextTranslation {
    from: TextVersion,
    to: TextVersion,
}

/// Returns a command in the other text version. If there is no translation, or if the command is the
/// same in both versions, it is not changed.
fn translated(translation: Option<TextTranslation>, command: &str) -> String {
    translation
        .and_then(|TextTranslation { from, to }| {
            let (object, place) = from.put_parts(command)?;
            Some(to.put_command(object, place))
        })
        .unwrap_or_else(|| command.into())
}

/// Returns the observation after a recorded command in the other text version. The text of an
/// arrival is not translated, because recorders drop it.
fn translated_feedback(
    translation: Option<TextTranslation>,
    command: Option<&str>,
    text: &str,
) -> String {
    translation
        .zip(command)
        .and_then(|(TextTranslation { from, to }, command)| {
            let (object, place) = from.put_parts(command)?;
            (text == from.put_feedback(object, place)).then(|| to.put_feedback(object, place))
        })
        .unwrap_or_else(|| text.into())
}

/// Returns the text of an environment or of a record without the parts that recorders drop.
#[must_use]
pub fn comparable(text: &str) -> String {
    let text = text
        .strip_prefix("-= Welcome to TextWorld, ALFRED! =-")
        .unwrap_or(text);
    let arrived = text
        .strip_prefix("You arrive at ")
        .and_then(|rest| rest.split_once(". "));
    let text = arrived.map_or(text, |(_, seen)| seen);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("\n")
}
