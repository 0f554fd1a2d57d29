//! How an episode is played: [`Protocol`] and the closed sets of its fields.

use crate::text_version::TextVersion;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// How an episode was played: every setting that must be reported beside a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Most turns in an episode.
    pub turn_limit: usize,
    /// Most tokens in the context of an episode; 0 if the policy reads text, not tokens.
    pub context_limit: usize,
    /// Most tokens in one completion.
    pub completion_limit: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f32,
    /// Sample among this many most likely tokens; 0 = all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub top_k: usize,
    /// Sample among the fewest most likely tokens that together have this probability; 1 = all.
    #[serde(default = "top_p_of_all", skip_serializing_if = "is_top_p_of_all")]
    pub top_p: f32,
    /// Sample among tokens whose probability is at least this share of the highest one; 0 = all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_p: f32,
    /// Texts that end a completion and are not part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// The number format of the model's weights during play.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weights: WeightFormat,
    /// The number format of the keys and values of the tokens that the model has read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kv: KvFormat,
    /// K: candidates per turn. The best one is executed.
    pub best_of: usize,
    /// The score that selects the best of K. It has no effect if K is 1.
    #[serde(default, alias = "chosen_by", skip_serializing_if = "is_default")]
    pub scorer: Scorer,
    /// The factor of ln π in [`Scorer::SoftValue`], reward units per nat. No other scorer uses it.
    #[serde(
        default = "default_soft_value_beta",
        skip_serializing_if = "is_default_soft_value_beta"
    )]
    pub soft_value_beta: f32,
    /// Which of the K candidates count as equal, so that one of them stands for all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub distinct_by: DistinctBy,
    /// Hash of the weights of the reference policy, if one scored the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The search over copies of the environment, if there was one. K is then the number of
    /// candidates per state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// Whether the observations listed the admissible commands.
    pub admissible_shown: bool,
    /// How much of the episode is in the context of the policy.
    pub history: History,
    /// What a malformed completion costs.
    pub malformed: Malformed,
    /// Where a completion contains its command.
    #[serde(default, skip_serializing_if = "is_default")]
    pub action_format: ActionFormat,
    /// Whether a model folder thinks, if it was told to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub thinking: Thinking,
    /// Hash of the chat template that replaced the model's own, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The text version into which every household game was translated. If it is `None`, each game
    /// kept its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_to: Option<TextVersion>,
    /// The instructions above the first observation, if the policy runs on a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
}

impl Protocol {
    /// The default of [`Protocol::soft_value_beta`], reward units per nat. The recipes of the
    /// training jobs use the same value as β.
    pub const SOFT_VALUE_BETA: f32 = 0.1;
}

impl Default for Protocol {
    /// The card `oreo` for a policy that reads text: 40 turns, greedy, full history, no admissible
    /// list.
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
            kv: KvFormat::Exact,
            best_of: 1,
            scorer: Scorer::default(),
            soft_value_beta: Self::SOFT_VALUE_BETA,
            distinct_by: DistinctBy::default(),
            reference: None,
            search: None,
            admissible_shown: false,
            history: History::Full,
            malformed: Malformed::WastedTurn,
            action_format: ActionFormat::Plain,
            thinking: Thinking::Keep,
            template: None,
            translated_to: None,
            instructions: None,
        }
    }
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn top_p_of_all() -> f32 {
    1.0
}

fn default_soft_value_beta() -> f32 {
    Protocol::SOFT_VALUE_BETA
}

fn is_default_soft_value_beta(beta: &f32) -> bool {
    *beta == Protocol::SOFT_VALUE_BETA
}

fn is_top_p_of_all(top_p: &f32) -> bool {
    *top_p == 1.0
}

/// What a malformed completion costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// The turn counts, the environment receives no command, and the episode continues.
    #[default]
    WastedTurn,
}

impl Malformed {
    /// The name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WastedTurn => "wasted_turn",
        }
    }
}

impl Display for Malformed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a completion contains its command. A thought (`<think>…</think>`) before it never belongs to it; if a thought is
/// not closed, the completion is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionFormat {
    /// The whole completion is the command. It is malformed if it is empty or has several lines.
    #[default]
    Plain,
    /// The command is in the line after the first `Action:`, as in `ReAct`. It is malformed without such a line.
    React,
    /// The command is in the first pair of `<action>` tags, in small letters, as in verl-agent. It is malformed without such a pair.
    Tags,
    /// The first of: `<action>` tags, a line after `Action:`, a single text in backticks, a line after `>`, the whole
    /// completion. It is malformed if none of them is one line.
    Auto,
}

impl ActionFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::React, Self::Tags, Self::Auto];

    /// The name in flags and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::React => "react",
            Self::Tags => "tags",
            Self::Auto => "auto",
        }
    }
}

impl Display for ActionFormat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ActionFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| format!("`{name}` is none of plain, react, tags and auto"))
    }
}

/// Whether a policy thinks before it writes a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// The chat template decides.
    #[default]
    Keep,
    /// The template's switch is on, if it has one.
    On,
    /// The template's switch is off, if it has one. If the prompt of a turn still opens a thought, the thought is closed at
    /// once.
    Off,
}

impl Thinking {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Keep, Self::On, Self::Off];

    /// The name on the command line and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl FromStr for Thinking {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.name() == name)
            .ok_or_else(|| format!("`{name}` is none of keep, on and off"))
    }
}

/// The score that selects the best of K candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    /// U: the after-state value of the candidate.
    #[default]
    AfterValue,
    /// U + β ln π with β = [`Protocol::soft_value_beta`]. Its maximum is the most likely candidate
    /// of the policy that U improves, π exp(U/β). If the errors of the value network exceed the
    /// differences between candidates, U alone selects unlikely candidates.
    SoftValue,
    /// The implicit advantage ln π − ln π_ref. A factor β would only scale it.
    LogRatio,
    /// ln π of the whole candidate.
    Logprob,
    /// A uniform draw over the K samples: a candidate that was sampled twice is selected twice as
    /// often. So it plays like one sample, whatever K is.
    Random,
    /// A uniform draw over the distinct candidates, from the seed of the episode. Every other scorer
    /// also ranks distinct candidates, so this is the null of best-of-K: what a scorer without any
    /// information reaches. If K grows, it plays like a policy of a higher temperature.
    Distinct,
    /// The candidate with the command that the expert ([`crate::expert`]) would write after the same
    /// text. If there is none, the most likely candidate. The expert reads text alone, so the result
    /// is a bound that an honest scorer can reach, in household games only.
    Expert,
    /// How near to the goal the candidate leads, by the hidden state of the environment. It is
    /// clairvoyant: it uses information that no policy has. So it is an upper bound for the other
    /// scorers, and not a bound that they can reach.
    #[serde(alias = "clairvoyant_oracle")]
    Oracle,
}

impl Scorer {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AfterValue,
        Self::SoftValue,
        Self::LogRatio,
        Self::Logprob,
        Self::Random,
        Self::Distinct,
        Self::Expert,
        Self::Oracle,
    ];

    /// The name in flags and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterValue => "after_value",
            Self::SoftValue => "soft_value",
            Self::LogRatio => "log_ratio",
            Self::Logprob => "logprob",
            Self::Random => "random",
            Self::Distinct => "distinct",
            Self::Expert => "expert",
            Self::Oracle => "oracle",
        }
    }

    /// Returns whether the scorer reads U, and so needs a value network.
    #[must_use]
    pub fn needs_value(self) -> bool {
        matches!(self, Self::AfterValue | Self::SoftValue)
    }
}

impl FromStr for Scorer {
    type Err = String;

    /// Reads a name. `clairvoyant_oracle` is another spelling of `oracle`.
    fn from_str(name: &str) -> Result<Self, String> {
        if name == "clairvoyant_oracle" {
            return Ok(Self::Oracle);
        }
        let found = Self::ALL.into_iter().find(|scorer| scorer.name() == name);
        found.ok_or_else(|| {
            format!(
                "`{name}` is none of after_value, soft_value, log_ratio, logprob, random, \
                 distinct, expert and oracle"
            )
        })
    }
}

/// Which of the K candidates of a turn count as equal. A scorer ranks one of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistinctBy {
    /// Candidates with the same token ids.
    #[default]
    Tokens,
    /// Candidates with the same command, so with the same effect in the environment. All candidates
    /// without a command count as one. The candidate with the highest ln π stands for the others.
    Command,
}

impl DistinctBy {
    /// The name in flags and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Command => "command",
        }
    }
}

impl FromStr for DistinctBy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Tokens, Self::Command]
            .into_iter()
            .find(|by| by.name() == name)
            .ok_or_else(|| format!("`{name}` is neither tokens nor command"))
    }
}

/// A search over turns with copies of the environment. It observes the results of its candidates
/// before it acts. In a real environment no agent can do this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Search {
    /// Keeps `width` episodes. In every turn each of them samples K candidates, and the best
    /// `width` of the resulting states are kept.
    Beam {
        /// B.
        width: usize,
    },
    /// Expands the best state found so far, at any depth, until the game is won or the budget is
    /// spent.
    BestFirst {
        /// Most completions in a game.
        budget: usize,
    },
}

impl Display for Search {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beam { width } => write!(f, "beam:{width}"),
            Self::BestFirst { budget } => write!(f, "best-first:{budget}"),
        }
    }
}

impl FromStr for Search {
    type Err = String;

    /// Reads the form that `Display` writes. The number must be at least 1.
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

/// The number format of a model's weight matrices during play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// 16 bits if every weight of a matrix is a bf16 or an f16 number, else 32. No value changes.
    #[default]
    Exact,
    /// Rounded to f16.
    F16,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to 8 bits with one f16 scale for each 32 inputs of a column, as in GGUF's Q8_0.
    Q8,
}

impl WeightFormat {
    /// Whether no value changes.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        *self == Self::Exact
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Exact, Self::F16, Self::Bf16, Self::Q8];

    /// The name in flags and logs.
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

/// The number format of keys and values in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvFormat {
    /// As they are computed: 32 bits on the CPU, and those of the products on a GPU.
    #[default]
    Exact,
    /// Rounded to f16.
    F16,
}

impl KvFormat {
    /// Whether nothing is rounded.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        *self == Self::Exact
    }

    /// The name in flags and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::F16 => "f16",
        }
    }
}

impl FromStr for KvFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = [Self::Exact, Self::F16]
            .into_iter()
            .find(|format| format.name() == name);
        found.ok_or_else(|| format!("`{name}` is neither exact nor f16"))
    }
}

/// How much of an episode is in the context of the policy. Its text is `full`, or `last_2` for
/// [`History::Last`] of 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum History {
    /// All of it.
    #[default]
    Full,
    /// The first observation, which states the task, then this many previous turns (at least 1),
    /// then the current observation.
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
        if name == "full" {
            return Ok(Self::Full);
        }
        let turns = name
            .strip_prefix("last_")
            .and_then(|number| number.parse().ok())
            .filter(|turns| *turns > 0);
        turns
            .map(Self::Last)
            .ok_or_else(|| format!("`{name}` is neither full nor last_N, N above 0"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_malformed_completion_is_logged_by_its_name() {
        let text = serde_json::to_string(&Malformed::WastedTurn).unwrap();
        assert_eq!(text, format!("\"{}\"", Malformed::WastedTurn));
        assert_eq!(text, "\"wasted_turn\"");
        assert!(serde_json::from_str::<Malformed>("\"failure\"").is_err());
    }

    /// Logs older than translations lack the field. If there is no translation, it is not written.
    #[test]
    fn a_protocol_contains_a_translation_only_if_there_is_one() {
        let own = serde_json::to_string(&Protocol::default()).unwrap();
        assert!(!own.contains("translated_to"), "{own}");
        assert!(own.contains(r#""malformed":"wasted_turn""#), "{own}");
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

    /// Logs older than these fields lack them. If they have their default, they are not written.
    #[test]
    fn the_fields_of_a_selection_are_written_only_if_they_differ_from_the_default() {
        let old = serde_json::to_string(&Protocol::default()).unwrap();
        assert!(
            !old.contains("soft_value_beta") && !old.contains("distinct_by"),
            "{old}"
        );
        let read: Protocol = serde_json::from_str(&old).unwrap();
        assert_eq!(
            (read.soft_value_beta, read.distinct_by),
            (0.1, DistinctBy::Tokens)
        );
        let other = Protocol {
            scorer: Scorer::SoftValue,
            soft_value_beta: 0.02,
            distinct_by: DistinctBy::Command,
            ..Protocol::default()
        };
        let text = serde_json::to_string(&other).unwrap();
        assert!(
            text.contains(r#""soft_value_beta":0.02,"distinct_by":"command""#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Protocol>(&text).unwrap(), other);
    }

    #[test]
    fn a_scorer_is_read_by_its_name() {
        for scorer in Scorer::ALL {
            assert_eq!(scorer.name().parse(), Ok(scorer));
            let text = serde_json::to_string(&scorer).unwrap();
            assert_eq!(text, format!("{:?}", scorer.name()));
            assert_eq!(serde_json::from_str::<Scorer>(&text).unwrap(), scorer);
        }
        assert_eq!("clairvoyant_oracle".parse(), Ok(Scorer::Oracle));
        let alias = serde_json::from_str::<Scorer>("\"clairvoyant_oracle\"");
        assert_eq!(alias.unwrap(), Scorer::Oracle);
        assert!("luck".parse::<Scorer>().unwrap_err().contains("distinct"));
        for by in [DistinctBy::Tokens, DistinctBy::Command] {
            assert_eq!(by.name().parse(), Ok(by));
        }
        assert!("text".parse::<DistinctBy>().is_err());
    }

    /// Logs older than history windows contain `full`. A full history is still written that way.
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
