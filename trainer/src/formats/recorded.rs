//! A demonstration as others recorded it: what is common to their forms.
//!
//! A list of messages, `from` a `human` or a `gpt`, in turn. It begins with instructions that are only agreed to, then the
//! world's opening; each answer is a thought, or none, and an `Action:`. Both recorders drop the opening's first paragraph
//! (the banner), one of its blank lines, and "You arrive at loc 14. " before what is to be seen there; [`plain`] drops the
//! same of any text, so that a record can be held against a world.

use agent::text::chat::parse_command;
use scenarios::{Outcome, Protocol, Spent, Split, TaskType, TextVersion, Trajectory, Turn};
use serde::Deserialize;
use std::str::FromStr;

/// What a household world says to anything that it does not know, a thought for instance.
pub(super) const NOTHING_HAPPENS: &str = "Nothing happens.";

/// ALFWorld's own limit, unless a record is longer.
const TURN_LIMIT: usize = 50;

/// A message of a record.
#[derive(Debug, Deserialize)]
pub(super) struct Said {
    from: String,
    value: String,
    /// Whether it is to be learned from; some recorders do not tell.
    #[serde(default)]
    loss: Option<bool>,
}

/// The place of a game in ALFWorld's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GameName {
    /// Where the record tells.
    pub split: Option<Split>,
    /// Folder of the task, e.g. `pick_and_place_simple-AlarmClock-None-Desk-307`.
    pub task: String,
    /// Folder of the game in it, e.g. `trial_T20190907_072329_828593`.
    pub trial: String,
}

impl GameName {
    /// What is at the end of a path of ALFWorld's layout: of the game's file, or of its folder.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let folder = path.strip_suffix("/game.tw-pddl").unwrap_or(path);
        let mut parts = folder.rsplit('/').filter(|part| !part.is_empty());
        let (trial, task) = (parts.next()?, parts.next()?);
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

/// What becomes of the thoughts before the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoughts {
    /// They are left out.
    Drop,
    /// Each is a turn of its own before its command, `think: …`, as in `ReAct` (arXiv 2210.03629). A completion is one
    /// command and nothing else, so that a thought beside the command would make it malformed.
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

/// An answer in a record, and what it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    observation: String,
    thought: Option<String>,
    command: String,
}

/// A demonstration as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What the record calls itself.
    pub id: String,
    /// The game.
    pub game: GameName,
    steps: Vec<Step>,
    /// What the world said last, where that was recorded.
    last: Option<String>,
}

impl Recorded {
    /// Reads the messages of a record.
    pub(super) fn new(id: String, game: GameName, said: &[Said]) -> Result<Self, String> {
        let (mut steps, mut last) = (Vec::new(), None);
        let first = preface(said);
        for (index, pair) in said[first..].chunks(2).enumerate() {
            let number = first + 2 * index + 1;
            let human = &pair[0];
            if human.from != "human" {
                return Err(format!(
                    "message {number} is from {:?}, and a human's turn it was",
                    human.from
                ));
            }
            let observation = observation(&human.value).to_owned();
            let Some(gpt) = pair.get(1) else {
                last = Some(observation);
                break;
            };
            let (thought, command) =
                answer(gpt).map_err(|reason| format!("message {}: {reason}", number + 1))?;
            steps.push(Step {
                observation,
                thought,
                command,
            });
        }
        if steps.is_empty() {
            return Err("no answer holds an `Action:`".into());
        }
        Ok(Self {
            id,
            game,
            steps,
            last,
        })
    }

    /// The text version that its commands show; `None` where none of them does, or where they show both.
    #[must_use]
    pub fn text(&self) -> Option<TextVersion> {
        let speaks = |text: &TextVersion| {
            self.steps
                .iter()
                .any(|step| text.put_parts(&step.command).is_some())
        };
        let mut shown = TextVersion::ALL.into_iter().filter(speaks);
        shown.next().filter(|_| shown.next().is_none())
    }

    /// The record as an episode that was won, as those who publish demonstrations say it was, in the words of `text`. Its
    /// texts are those of the record, its game has no hash, and no command was performed.
    #[must_use]
    pub fn episode(
        &self,
        policy: &str,
        thoughts: Thoughts,
        text: Option<TextVersion>,
        repetition: usize,
    ) -> Trajectory {
        let words = self.text().zip(text).filter(|(from, to)| from != to);
        let mut turns: Vec<Turn> = Vec::new();
        let mut before: Option<&str> = None;
        for step in &self.steps {
            let mut observation = translated_answer(words, before, &step.observation);
            if let Some(thought) = step
                .thought
                .as_deref()
                .filter(|_| thoughts == Thoughts::Keep)
                .and_then(spoken)
            {
                turns.push(turn(
                    std::mem::replace(&mut observation, NOTHING_HAPPENS.into()),
                    thought,
                ));
            }
            turns.push(turn(observation, translated(words, &step.command)));
            before = Some(&step.command);
        }
        let last = self
            .last
            .as_deref()
            .map(|last| translated_answer(words, before, last));
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
        }
    }
}

/// Instructions that are agreed to, and nothing else: how many messages stand before the opening.
fn preface(said: &[Said]) -> usize {
    let is_agreed = |pair: &&[Said]| match pair {
        [human, gpt] => !human.value.contains("Your task is to:") && !gpt.value.contains("Action:"),
        _ => false,
    };
    2 * said.chunks(2).take_while(is_agreed).count()
}

/// What the world said, without what recorders put around it.
fn observation(value: &str) -> &str {
    let value = value.strip_prefix("Observation:").unwrap_or(value);
    value
        .split("AVAILABLE ACTIONS:")
        .next()
        .unwrap_or(value)
        .trim()
}

/// The thought, where there is one, and the command of an answer: `Thought: …`, `Action: …`, each on its own line or below.
fn answer(gpt: &Said) -> Result<(Option<String>, String), String> {
    if gpt.from != "gpt" {
        return Err(format!(
            "it is from {:?}, and a gpt's turn it was",
            gpt.from
        ));
    }
    if gpt.loss == Some(false) {
        return Err("an answer that is not to be learned from, and no episode can say that".into());
    }
    let value = gpt.value.trim();
    let begins_line = |(place, _): &(usize, &str)| {
        *place == 0 || value[..*place].trim_end_matches(' ').ends_with('\n')
    };
    let Some((place, label)) = value.match_indices("Action:").filter(begins_line).last() else {
        return Err("no line begins with `Action:`".into());
    };
    let said = &value[place + label.len()..];
    let command = parse_command(said)
        .ok_or_else(|| format!("{:?} is not one command on one line", said.trim()))?;
    let thought = value[..place].trim();
    let thought = thought.strip_prefix("Thought:").unwrap_or(thought).trim();
    Ok((
        (!thought.is_empty()).then(|| thought.into()),
        command.into(),
    ))
}

/// A thought as a turn of its own; `None` where it would not be one, by the frames of chats that it holds.
fn spoken(thought: &str) -> Option<String> {
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

/// From which text version into which.
type Words = Option<(TextVersion, TextVersion)>;

fn translated(words: Words, command: &str) -> String {
    let put = words.and_then(|(from, to)| {
        from.put_parts(command)
            .map(|(object, place)| to.put_command(object, place))
    });
    put.unwrap_or_else(|| command.into())
}

/// What was said to a recorded command. Arrivals are no matter: recorders drop them.
fn translated_answer(words: Words, command: Option<&str>, text: &str) -> String {
    let put = words.zip(command).and_then(|((from, to), command)| {
        let (object, place) = from.put_parts(command)?;
        (text == from.put_feedback(object, place)).then(|| to.put_feedback(object, place))
    });
    put.unwrap_or_else(|| text.into())
}

/// A world's text, or a record's, without what recorders drop.
#[must_use]
pub fn plain(text: &str) -> String {
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
