//! The record of one episode: [`Turn`]s and an [`Outcome`], with the token ids as they were sampled.

use crate::task::{Split, TaskType};
use crate::text_version::TextVersion;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// Why an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The goal held.
    Success,
    /// The game was lost, or the policy ended it without the goal (the strict malformed rule, or a player who quit).
    Failure,
    /// The turn limit was reached.
    TurnLimit,
    /// The next turn would not have fitted into the context.
    ContextLimit,
    /// The world failed, or the server that was to play; says nothing about the policy.
    EnvFailed,
}

impl Outcome {
    /// As it is written in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::TurnLimit => "turn_limit",
            Self::ContextLimit => "context_limit",
            Self::EnvFailed => "env_failed",
        }
    }

    /// The terminal reward: 1 for success, else 0.
    #[must_use]
    pub fn reward(self) -> f64 {
        f64::from(u8::from(self == Self::Success))
    }
}

/// One alternative of a turn with several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// What was sampled, without the end-of-turn token.
    pub completion: String,
    /// What it was chosen by, higher is better: see [`Scorer`].
    pub score: f32,
    /// How many of the K samples said this.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: usize,
    /// ln π of the whole completion, its end included, under the untempered policy, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
    /// ln π − ln π_ref of the whole completion, nats, when a reference looked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_ratio: Option<f32>,
    /// U just after it, reward units, when a value network looked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_value: Option<f32>,
}

/// What the best of K candidates is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    /// U: the value network just after the candidate.
    #[default]
    AfterValue,
    /// U + β ln π with β = [`Scorer::BETA`]: the likeliest command of the policy improved by U, π exp(U/β). A value network
    /// whose errors are larger than what tells candidates apart is led to rare ones by U alone.
    SoftValue,
    /// The implicit advantage ln π − ln π_ref, which β would only scale.
    LogRatio,
    /// ln π of the whole candidate.
    Logprob,
    /// A draw that looks at nothing: what more samples alone are worth.
    Random,
    /// How near to the goal the candidate leads, by the world's own state: what the best scorer could reach. It cheats.
    Oracle,
}

impl Scorer {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AfterValue,
        Self::SoftValue,
        Self::LogRatio,
        Self::Logprob,
        Self::Random,
        Self::Oracle,
    ];
    /// Reward per nat of [`Scorer::SoftValue`]: that of the lessons' recipes.
    pub const BETA: f32 = 0.1;

    /// As it is written in flags and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterValue => "after_value",
            Self::SoftValue => "soft_value",
            Self::LogRatio => "log_ratio",
            Self::Logprob => "logprob",
            Self::Random => "random",
            Self::Oracle => "oracle",
        }
    }
}

impl FromStr for Scorer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scorer| scorer.name() == name);
        found.ok_or_else(|| {
            format!(
                "`{name}` is none of after_value, soft_value, log_ratio, logprob, random and oracle"
            )
        })
    }
}

/// A search over turns with copies of the world: it sees what its candidates lead to before it acts, which no agent in a
/// real world can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Search {
    /// Keeps `width` episodes; each turn every one of them writes K candidates, and the best `width` of what these lead to
    /// are kept.
    Beam {
        /// B.
        width: usize,
    },
    /// Goes on from the best state found so far, wherever it stands, until it wins or has written its budget.
    BestFirst {
        /// Most completions in a game.
        budget: usize,
    },
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beam { width } => write!(f, "beam:{width}"),
            Self::BestFirst { budget } => write!(f, "best-first:{budget}"),
        }
    }
}

impl FromStr for Search {
    type Err = String;

    /// As it is displayed; the number is at least 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':');
        let number = parts
            .and_then(|(_, number)| number.parse().ok())
            .filter(|number| *number > 0);
        match (parts.map(|(kind, _)| kind), number) {
            (Some("beam"), Some(width)) => Ok(Self::Beam { width }),
            (Some("best-first"), Some(budget)) => Ok(Self::BestFirst { budget }),
            _ => Err(format!(
                "`{text}` is neither beam:B nor best-first:N, with a number from 1"
            )),
        }
    }
}

/// An observation and the completion that answered it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Text from the world.
    pub observation: String,
    /// Token ids that brought the observation into the context, up to where the policy begins to write.
    pub observation_tokens: Vec<u32>,
    /// All the policy wrote this turn, without the end-of-turn token.
    pub completion: String,
    /// Token ids of the completion as sampled; the end-of-turn token included when it was sampled. Empty, as are the
    /// observation's, where text was written or a server did not tell.
    pub completion_tokens: Vec<u32>,
    /// ln π(token | before), nats, of each completion token under the untempered policy; empty where nobody tells. From
    /// a server that tells no ids, of every token it sampled, those of a stop text included.
    pub logprobs: Vec<f32>,
    /// The same under the distribution that was sampled from: with temperature, top-k, top-p and min-p. Empty where that
    /// is the untempered policy, and where nothing was sampled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sampling_logprobs: Vec<f32>,
    /// The command in the completion; `None` when it was malformed.
    pub action: Option<String>,
    /// Whether the expert wrote it to go perturbed, so as to show the way back: nobody is to imitate it.
    #[serde(default, alias = "astray", skip_serializing_if = "is_default")]
    pub perturbed: bool,
    /// V just before the completion, reward units, when a value network looked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f32>,
    /// U just after the completion, reward units, when a value network looked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_value: Option<f32>,
    /// The distinct alternatives of a best-of-K turn; empty for K = 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// [`crate::Environment::state_hash`] of the state in which the observation was made and the completion written; in
    /// JSON 16 hex digits, since many readers of JSON lose the last bits of such numbers. `None` where the world does not
    /// tell.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex_digits")]
    pub state: Option<u64>,
    /// The turn's share of the longest beginning of a failed episode that could still be won, reward units: see
    /// `trainer::process`. `None` where nobody has looked, and in an episode that was won.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_score: Option<f64>,
    /// ln π − ln π_ref of the whole completion, nats, when a reference looked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_ratio: Option<f32>,
}

/// A 64-bit number as 16 hex digits.
mod hex_digits {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        number: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match number {
            Some(number) => serializer.collect_str(&format_args!("{number:016x}")),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        number
            .map(Some)
            .ok_or_else(|| D::Error::custom(format!("state {text:?} is not 16 hex digits")))
    }
}

/// How the matrices of a model are held while it plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// In 16 bits where every weight of a matrix is a bf16 or an f16 number, else in 32: no number changes.
    #[default]
    Exact,
    /// Rounded to f16.
    F16,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to 8 bits with an f16 scale for each 32 inputs of a column, the numbers of GGUF's Q8_0.
    Q8,
}

impl WeightFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Exact, Self::F16, Self::Bf16, Self::Q8];

    /// As it is written in flags and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
        }
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| format!("`{name}` is none of exact, f16, bf16 and q8"))
    }
}

/// How much of an episode the policy sees when it writes. In text `full`, or `last_2` for [`History::Last`] of 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum History {
    /// All of it.
    #[default]
    Full,
    /// The first observation, which states the task, this many turns before the one that is written, at least 1, and the
    /// observation to answer.
    Last(usize),
}

impl Display for History {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Last(turns) => write!(f, "last_{turns}"),
        }
    }
}

impl FromStr for History {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let last = || {
            name.strip_prefix("last_")?
                .parse()
                .ok()
                .filter(|turns| *turns > 0)
        };
        match name {
            "full" => Ok(Self::Full),
            _ => last()
                .map(Self::Last)
                .ok_or_else(|| format!("`{name}` is neither full nor last_N, N above 0")),
        }
    }
}

impl From<History> for String {
    fn from(history: History) -> Self {
        history.to_string()
    }
}

impl TryFrom<String> for History {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> usize {
    1
}

fn is_one(count: &usize) -> bool {
    *count == 1
}

fn whole() -> f32 {
    1.0
}

fn is_whole(value: &f32) -> bool {
    *value == 1.0
}

/// How an episode was played: all that a number needs beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Most turns in an episode.
    pub turn_limit: usize,
    /// Most tokens in an episode's context; 0 = the player reads text, not tokens.
    pub context_limit: usize,
    /// Most tokens in one completion.
    pub completion_limit: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f32,
    /// Sample among this many likeliest tokens; 0 = all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub top_k: usize,
    /// Sample among the fewest likeliest tokens that together have this probability; 1 = all.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub top_p: f32,
    /// Sample among tokens of at least this share of the likeliest one's probability; 0 = all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_p: f32,
    /// Texts that end a completion and are no part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// How the model's matrices were held.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weights: WeightFormat,
    /// K: candidates a turn, the best acted on.
    pub best_of: usize,
    /// What the best of K is chosen by; says nothing where K is 1.
    #[serde(default, alias = "chosen_by", skip_serializing_if = "is_default")]
    pub scorer: Scorer,
    /// Hash of the weights of the reference policy that looks on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Whether and how it searches with copies of the world; K is then what each state is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// Whether the admissible commands were shown to the policy.
    pub admissible_shown: bool,
    /// How much of the episode the policy sees.
    pub history: History,
    /// What a malformed completion costs: `wasted_turn`.
    pub malformed: String,
    /// The text version that every household game spoke, whichever it is written in; `None` = each its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_to: Option<TextVersion>,
    /// What stood above the first observation, for a policy on a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
}

impl Default for Protocol {
    /// The card `oreo` for a player who reads text: 40 turns, greedy, full history, no admissible list.
    fn default() -> Self {
        Self {
            turn_limit: 40,
            context_limit: 0,
            completion_limit: 24,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            stop: Vec::new(),
            weights: WeightFormat::Exact,
            best_of: 1,
            scorer: Scorer::default(),
            reference: None,
            search: None,
            admissible_shown: false,
            history: History::Full,
            malformed: "wasted_turn".into(),
            translated_to: None,
            instructions: None,
        }
    }
}

/// The record of one episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// Version of this form.
    pub format: u32,
    /// [`crate::Task::id`] of the game.
    pub game: String,
    /// SHA-256 of the game file.
    pub game_hash: String,
    /// The split of the game.
    pub split: Split,
    /// The kind of task, where known.
    pub task_type: Option<TaskType>,
    /// Which of the repetitions of this game, from 0.
    pub repetition: usize,
    /// Seed of this episode's sampling.
    pub seed: u64,
    /// Hash of the policy's weights, or its name (`expert`, `person`).
    pub policy: String,
    /// Hash of the value network's weights, when one looked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_policy: Option<String>,
    /// How it was played.
    pub protocol: Protocol,
    /// The turns, in order.
    pub turns: Vec<Turn>,
    /// The world's text after the last completion; empty when the world failed.
    pub last_observation: String,
    /// Why the episode ended.
    pub outcome: Outcome,
    /// The terminal reward that the outcome gives, for those who read the log; every earlier reward is 0.
    #[serde(default)]
    pub reward: f64,
    /// What the world, or the server that was to play, said when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Wall-clock seconds from reset to end.
    pub seconds: f64,
    /// What was spent on it, candidates that were not acted on included.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spent: Spent,
}

/// What an episode cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Completions written.
    pub completions: usize,
    /// Tokens of them.
    pub tokens: usize,
    /// Commands that the world, or a copy of it, performed.
    pub commands: usize,
}

impl Trajectory {
    /// The form that this code writes.
    pub const FORMAT: u32 = 1;

    /// Whether the episode was won.
    #[must_use]
    pub fn is_won(&self) -> bool {
        self.outcome == Outcome::Success
    }

    /// How many turns held no command.
    #[must_use]
    pub fn malformed_turns(&self) -> usize {
        self.turns
            .iter()
            .filter(|turn| turn.action.is_none())
            .count()
    }

    /// Tokens in the whole episode.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.turns
            .iter()
            .map(|turn| turn.observation_tokens.len() + turn.completion_tokens.len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_named_as_it_is_logged() {
        use Outcome::{ContextLimit, EnvFailed, Failure, Success, TurnLimit};
        for outcome in [Success, Failure, TurnLimit, ContextLimit, EnvFailed] {
            assert_eq!(
                serde_json::to_string(&outcome).unwrap(),
                format!("{:?}", outcome.name())
            );
        }
    }

    /// Logs from before there were states and scores are read, and a turn without them is written as it was then.
    #[test]
    fn a_turn_tells_its_state_in_sixteen_digits_or_not_at_all() {
        let old = r#"{"observation":"o","observation_tokens":[],"completion":"look","completion_tokens":[],"logprobs":[],"action":"look"}"#;
        let turn: Turn = serde_json::from_str(old).unwrap();
        assert_eq!((turn.state, turn.process_score), (None, None));
        assert_eq!(serde_json::to_string(&turn).unwrap(), old);
        let told = Turn {
            state: Some(0xab_cdef_0123),
            process_score: Some(0.25),
            ..turn
        };
        let text = serde_json::to_string(&told).unwrap();
        assert!(
            text.ends_with(r#","state":"000000abcdef0123","process_score":0.25}"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Turn>(&text).unwrap(), told);
        for wrong in [
            "\"abcdef0123\"",
            "\"000000abcdefg123\"",
            "\"+00000abcdef0123\"",
            "7",
        ] {
            let text = text.replace("\"000000abcdef0123\"", wrong);
            assert!(serde_json::from_str::<Turn>(&text).is_err(), "{wrong}");
        }
    }

    /// Logs from before there were translations say nothing of one, and those without one are written as they were.
    #[test]
    fn a_protocol_tells_of_a_translation_only_where_there_is_one() {
        let own = serde_json::to_string(&Protocol::default()).unwrap();
        assert!(!own.contains("translated_to"), "{own}");
        assert_eq!(
            serde_json::from_str::<Protocol>(&own).unwrap(),
            Protocol::default()
        );
        let translated = Protocol {
            translated_to: Some(TextVersion::V2_1_1),
            ..Protocol::default()
        };
        let text = serde_json::to_string(&translated).unwrap();
        assert!(text.ends_with(",\"translated_to\":\"2.1.1\"}"), "{text}");
        assert_eq!(serde_json::from_str::<Protocol>(&text).unwrap(), translated);
    }

    /// Logs from before there were windows say `full`, and an episode that saw everything is still written so.
    #[test]
    fn a_history_is_full_or_a_number_of_turns() {
        for (text, history) in [
            ("\"full\"", History::Full),
            ("\"last_2\"", History::Last(2)),
        ] {
            assert_eq!(serde_json::from_str::<History>(text).unwrap(), history);
            assert_eq!(serde_json::to_string(&history).unwrap(), text);
        }
        for wrong in ["\"none\"", "\"last_0\"", "\"last_\"", "\"last_-1\"", "2"] {
            assert!(serde_json::from_str::<History>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_search_is_read_as_it_is_written() {
        for search in [Search::Beam { width: 3 }, Search::BestFirst { budget: 120 }] {
            assert_eq!(search.to_string().parse(), Ok(search));
        }
        for wrong in [
            "beam",
            "beam:0",
            "beam:-1",
            "best-first:",
            "best_first:3",
            "greedy:2",
            "",
        ] {
            assert!(
                wrong.parse::<Search>().unwrap_err().contains("beam:B"),
                "{wrong}"
            );
        }
        let searched = Protocol {
            search: Some(Search::Beam { width: 3 }),
            ..Protocol::default()
        };
        let text = serde_json::to_string(&searched).unwrap();
        assert!(
            text.contains(r#""search":{"kind":"beam","width":3}"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Protocol>(&text).unwrap(), searched);
    }
}
