//! The protocol card: everything that a number needs beside it to be compared with other numbers.
//!
//! ```text
//! eval-card.json      per policy and K: suite, splits, seeds, protocol, hashes, code, checkpoint selection
//! eval-games.csv      per policy, K and game: episodes and wins
//! eval-failures.csv   per policy, K, split and task type: lost episodes by FailureClass
//! ```
//!
//! The files are in the same folder as `eval.csv`, whose rows have the same policies and K. The
//! classes of lost episodes are those of [`crate::measure::failures::FailureClass`].

use crate::error::TrainerError;
use crate::measure::csv_file::{read_csv, write_csv};
use crate::measure::failures::{self, FailureRow};
use crate::measure::games::{self, GameRow};
use scenarios::files;
use scenarios::{ActionFormat, DistinctBy, History, Protocol, Scorer, Split, Suite, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use crate::learn::lineage::{LINEAGE, Lineage, checkpoint_rule};

/// Name of the file with the cards.
pub const CARDS: &str = "eval-card.json";
/// Name of the file with the results by game.
pub const GAMES: &str = "eval-games.csv";
/// Name of the file with the lost episodes by class.
pub const FAILURES: &str = "eval-failures.csv";
/// The value of [`Card::checkpoint`] if it is not known how the checkpoint was selected.
pub const UNKNOWN: &str = "unknown";

/// A published protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedCard {
    /// The protocol of OREO (arXiv 2412.16145): 40 turns, full history, no admissible list, greedy
    /// if K is 1, else the best of K by value at temperature 1. A malformed completion uses up its
    /// turn.
    Oreo,
    /// The protocol of verl-agent: 50 turns, the last 2 turns visible, the admissible list shown,
    /// temperature 0.4, the command inside `<action>`. Only the settings are the same, not the text of the prompt.
    Verl,
}

impl NamedCard {
    /// Both cards.
    pub const ALL: [Self; 2] = [Self::Oreo, Self::Verl];

    /// Returns the name in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oreo => "oreo",
            Self::Verl => "verl",
        }
    }

    /// Returns the maximum number of turns in an episode.
    #[must_use]
    pub fn turn_limit(self) -> usize {
        match self {
            Self::Oreo => 40,
            Self::Verl => 50,
        }
    }

    /// Returns how much of the episode the policy sees.
    #[must_use]
    pub fn history(self) -> History {
        match self {
            Self::Oreo => History::Full,
            Self::Verl => History::Last(2),
        }
    }

    /// Returns whether the admissible commands are shown.
    #[must_use]
    pub fn admissible_shown(self) -> bool {
        self == Self::Verl
    }

    /// Returns where a completion contains its command.
    #[must_use]
    pub fn action_format(self) -> ActionFormat {
        match self {
            Self::Oreo => ActionFormat::Plain,
            Self::Verl => ActionFormat::Tags,
        }
    }

    /// Returns the sampling temperature for K candidates per turn.
    #[must_use]
    pub fn temperature(self, k: usize) -> f32 {
        match (self, k) {
            (Self::Oreo, 1) => 0.0,
            (Self::Oreo, _) => 1.0,
            (Self::Verl, _) => 0.4,
        }
    }

    /// Returns everything in which a protocol differs from the card, if each game is played
    /// `repetitions` times. The list is empty if the protocol is that of the card.
    ///
    /// Settings that a card does not define are not compared: token limits, the precision of the
    /// weights, instructions, stop texts and the text version.
    #[must_use]
    pub fn differences(self, protocol: &Protocol, repetitions: usize) -> Vec<String> {
        let mut settings: Vec<(&str, String, String)> = vec![
            (
                "turn_limit",
                protocol.turn_limit.to_string(),
                self.turn_limit().to_string(),
            ),
            (
                "history",
                protocol.history.to_string(),
                self.history().to_string(),
            ),
            (
                "the admissible list",
                shown(protocol.admissible_shown).into(),
                shown(self.admissible_shown()).into(),
            ),
            (
                "action_format",
                protocol.action_format.to_string(),
                self.action_format().to_string(),
            ),
        ];
        if self == Self::Verl {
            settings.push(("best_of", protocol.best_of.to_string(), "1".into()));
        }
        if protocol.best_of > 1 {
            settings.push((
                "scorer",
                scorer_text(protocol),
                Scorer::AfterValue.name().into(),
            ));
            settings.push((
                "distinct_by",
                protocol.distinct_by.name().into(),
                DistinctBy::default().name().into(),
            ));
        }
        settings.extend([
            (
                "temperature",
                protocol.temperature.to_string(),
                self.temperature(protocol.best_of).to_string(),
            ),
            ("top_k", protocol.top_k.to_string(), "0".into()),
            ("top_p", protocol.top_p.to_string(), "1".into()),
            ("min_p", protocol.min_p.to_string(), "0".into()),
            (
                "malformed",
                protocol.malformed.to_string(),
                Protocol::default().malformed.to_string(),
            ),
            (
                "search",
                protocol.search.map_or("none", |_| "done").into(),
                "none".into(),
            ),
            ("repetitions", repetitions.to_string(), "1".into()),
        ]);
        settings
            .into_iter()
            .filter(|(_, is, expected)| is != expected)
            .map(|(name, is, expected)| format!("{name} is {is}, not {expected}"))
            .collect()
    }

    /// Returns the card with the fewest differences, and the differences. If both cards have the
    /// same number of differences, [`NamedCard::Oreo`] is returned.
    #[must_use]
    pub fn nearest(protocol: &Protocol, repetitions: usize) -> (Self, Vec<String>) {
        let [first, second] = Self::ALL.map(|card| (card, card.differences(protocol, repetitions)));
        if second.1.len() < first.1.len() {
            second
        } else {
            first
        }
    }
}

fn shown(is_shown: bool) -> &'static str {
    if is_shown { "shown" } else { "hidden" }
}

impl Display for NamedCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for NamedCard {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|card| card.name() == name);
        found.ok_or_else(|| format!("`{name}` is neither oreo nor verl"))
    }
}

/// How the numbers of one policy at one K were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// The policy's name in the table.
    pub policy: String,
    /// Number of candidates K per turn.
    pub k: usize,
    /// The suite's name.
    pub suite: String,
    /// [`Suite::hash`].
    pub suite_hash: String,
    /// The splits that were played.
    pub splits: Vec<Split>,
    /// Number of games that were played.
    pub games: usize,
    /// Number of episodes that were played, including those whose environment failed.
    pub episodes: usize,
    /// Number of episodes per game and seed.
    pub repetitions: usize,
    /// The seeds of the rounds.
    pub seeds: Vec<u64>,
    /// Hash of the policy's weights, or its name if it has no weights.
    pub policy_hash: String,
    /// Hash of the value network's weights, if a value network was used.
    pub value_hash: Option<String>,
    /// How the checkpoint was selected: `last update`, the measure of early stopping, or a text
    /// from the user. [`UNKNOWN`] if it is not known.
    pub checkpoint: String,
    /// The keys of the training job that go beyond the published algorithm, if they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// Number of permuted `train` games that the policy learned from, at least. Such games are practice in
    /// rooms that the suite does not have.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub permuted_games: usize,
    /// Version and commit of hearth.
    pub code: String,
    /// The protocol of the episodes.
    pub protocol: Protocol,
    /// The named card that has this protocol. If none has it, the one with the fewest differences.
    pub nearest: NamedCard,
    /// The differences from that card. Empty if there are none.
    pub differences: Vec<String>,
    /// The store of the episodes, relative to the card's folder.
    pub store: PathBuf,
}

/// The parts of a card that the episodes do not contain.
#[derive(Debug, Clone)]
pub struct CardInputs<'a> {
    /// The suite that was played.
    pub suite: &'a Suite,
    /// The seeds of the rounds.
    pub seeds: &'a [u64],
    /// Number of episodes per game and seed.
    pub repetitions: usize,
    /// How the checkpoint was selected.
    pub checkpoint: &'a str,
    /// The keys of the training job that go beyond the published algorithm.
    pub extensions: &'a [String],
    /// Number of permuted `train` games that the policy learned from, at least.
    pub permuted_games: usize,
    /// Version and commit of hearth.
    pub code: &'a str,
    /// The store of the episodes, relative to the card's folder.
    pub store: &'a Path,
}

impl Card {
    /// Returns the card of the episodes of one policy at one K.
    ///
    /// # Panics
    /// If there is no episode.
    #[must_use]
    pub fn new(policy: &str, inputs: &CardInputs<'_>, episodes: &[Trajectory]) -> Self {
        let first = episodes
            .first()
            .expect("the caller must pass at least one episode");
        let splits: BTreeSet<Split> = episodes.iter().map(|episode| episode.split).collect();
        let games: BTreeSet<&str> = episodes
            .iter()
            .map(|episode| episode.game_hash.as_str())
            .collect();
        let (nearest, differences) =
            NamedCard::nearest(&first.protocol, inputs.repetitions * inputs.seeds.len());
        Self {
            policy: policy.into(),
            k: first.protocol.best_of,
            suite: inputs.suite.name.clone(),
            suite_hash: inputs.suite.hash(),
            splits: splits.into_iter().collect(),
            games: games.len(),
            episodes: episodes.len(),
            repetitions: inputs.repetitions,
            seeds: inputs.seeds.to_vec(),
            policy_hash: first.policy.clone(),
            value_hash: first.value_policy.clone(),
            checkpoint: inputs.checkpoint.into(),
            extensions: inputs.extensions.to_vec(),
            permuted_games: inputs.permuted_games,
            code: inputs.code.into(),
            protocol: first.protocol.clone(),
            nearest,
            differences,
            store: inputs.store.into(),
        }
    }

    /// Returns how many times each game was played.
    #[must_use]
    pub fn times(&self) -> usize {
        self.repetitions * self.seeds.len()
    }

    /// Describes the nearest named card and the differences from it, and names the keys that go
    /// beyond the published algorithm.
    #[must_use]
    pub fn likeness(&self) -> String {
        let likeness = if self.differences.is_empty() {
            format!("card {}", self.nearest)
        } else {
            let differences = self.differences.join("; ");
            format!("nearest to card {}: {differences}", self.nearest)
        };
        if self.extensions.is_empty() {
            return likeness;
        }
        format!("{likeness}; trained with {}", self.extensions.join(", "))
    }

    /// Returns the training data that a reader of the number must know, or `None` if there are none but the
    /// suite's own `train` games.
    #[must_use]
    pub fn practice(&self) -> Option<String> {
        let games = self.permuted_games;
        (games > 0).then(|| format!("trained on rooms permuted from train ({games} games)"))
    }

    /// Returns everything except the policy in which two measurements differ, one sentence each.
    #[must_use]
    pub fn differences_from(&self, other: &Self) -> Vec<String> {
        let settings = [
            ("suite", self.suite_text(), other.suite_text()),
            ("splits", list(&self.splits), list(&other.splits)),
            (
                "repetitions",
                self.repetitions.to_string(),
                other.repetitions.to_string(),
            ),
            ("seeds", list(&self.seeds), list(&other.seeds)),
            ("code", self.code.clone(), other.code.clone()),
        ];
        let mut found: Vec<String> = settings
            .into_iter()
            .filter(|(_, this, that)| this != that)
            .map(|(name, this, that)| format!("{name}: {this} against {that}"))
            .collect();
        found.extend(protocol_differences(&self.protocol, &other.protocol));
        found
    }

    fn suite_text(&self) -> String {
        format!("{} {:.16}", self.suite, self.suite_hash)
    }
}

/// Returns the name of the scorer, with β if it uses it.
fn scorer_text(protocol: &Protocol) -> String {
    let name = protocol.scorer.name();
    match protocol.scorer {
        Scorer::SoftValue => format!("{name} with beta {}", protocol.soft_value_beta),
        _ => name.into(),
    }
}

/// If no game is permuted, the count is not written, so that cards are the same as before the field existed.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn list(items: &[impl Display]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// Returns every field in which two protocols differ, one sentence each.
#[must_use]
pub fn protocol_differences(this: &Protocol, that: &Protocol) -> Vec<String> {
    let this = protocol_fields(this);
    let that = protocol_fields(that);
    let names: BTreeSet<&String> = this.keys().chain(that.keys()).collect();
    names
        .into_iter()
        .filter(|name| this.get(*name) != that.get(*name))
        .map(|name| {
            format!(
                "protocol.{name}: {} against {}",
                value_text(this.get(name)),
                value_text(that.get(name))
            )
        })
        .collect()
}

/// Returns the JSON fields of a protocol. The protocol is converted to text first, so that an `f32`
/// of 0.3 is compared and printed as 0.3, not as 0.30000001.
fn protocol_fields(protocol: &Protocol) -> serde_json::Map<String, serde_json::Value> {
    let text = serde_json::to_string(protocol).expect("a protocol can always be written as JSON");
    serde_json::from_str(&text).expect("a protocol is a JSON object")
}

fn value_text(value: Option<&serde_json::Value>) -> String {
    value.map_or("the default".to_string(), ToString::to_string)
}

/// The files beside `eval.csv`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sheets {
    /// How each policy's numbers were measured.
    pub cards: Vec<Card>,
    /// The results of each policy on each game.
    pub games: Vec<GameRow>,
    /// The lost episodes of each policy by class.
    pub failures: Vec<FailureRow>,
}

#[derive(Serialize, Deserialize)]
struct CardFile {
    format: u32,
    cards: Vec<Card>,
}

impl Sheets {
    /// Reads the files of a folder. If the folder has no cards, the result is empty.
    ///
    /// # Errors
    /// If a file cannot be parsed.
    pub fn open(folder: &Path) -> Result<Self, TrainerError> {
        let path = folder.join(CARDS);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
        let file: CardFile =
            serde_json::from_str(&text).map_err(|e| TrainerError::content(&path, e))?;
        let games = read_csv(&folder.join(GAMES))?;
        Ok(Self {
            cards: file.cards,
            games,
            failures: read_csv(&folder.join(FAILURES))?,
        })
    }

    /// Adds a policy's card and counts its episodes.
    pub fn add(&mut self, card: Card, episodes: &[Trajectory]) {
        self.games
            .extend(games::games(&card.policy, card.k, episodes));
        self.failures
            .extend(failures::failures(&card.policy, card.k, episodes));
        self.cards.push(card);
    }

    /// Writes the three files. The cards are written last.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), TrainerError> {
        write_csv(&folder.join(GAMES), &self.games)?;
        write_csv(&folder.join(FAILURES), &self.failures)?;
        write_json(
            &folder.join(CARDS),
            &CardFile {
                format: 1,
                cards: self.cards.clone(),
            },
        )
    }
}

/// Writes indented JSON. The file is replaced as a whole; if an error occurs, it is unchanged.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainerError> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| TrainerError::content(path, e))? + "\n";
    files::replace(path, text.as_bytes()).map_err(TrainerError::file(path))
}

/// Returns the name in tables of a job's model after an iteration. The name of the first iteration
/// has no number.
#[must_use]
pub fn run_policy(job: &str, iteration: usize) -> String {
    if iteration == 1 {
        job.into()
    } else {
        format!("{job}-{iteration}")
    }
}

/// Returns the run that a model belongs to, if the model's folder is `RUN/ITERATION/JOB` and the run
/// still exists.
#[must_use]
pub fn run_of(model: &Path) -> Option<PathBuf> {
    let run = model.parent()?.parent()?;
    run.join("recipe.toml").exists().then(|| run.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verl() -> Protocol {
        Protocol {
            turn_limit: 50,
            history: History::Last(2),
            admissible_shown: true,
            temperature: 0.4,
            action_format: ActionFormat::Tags,
            ..Protocol::default()
        }
    }

    #[test]
    fn the_protocol_of_a_card_has_no_differences() {
        let best = Protocol {
            best_of: 5,
            temperature: 1.0,
            ..Protocol::default()
        };
        for (card, protocol) in [
            (NamedCard::Oreo, Protocol::default()),
            (NamedCard::Oreo, best),
            (NamedCard::Verl, verl()),
        ] {
            assert_eq!(NamedCard::nearest(&protocol, 1), (card, Vec::new()));
            assert_eq!(card.name().parse(), Ok(card));
        }
        assert_eq!(
            "paper".parse::<NamedCard>(),
            Err("`paper` is neither oreo nor verl".into())
        );
    }

    #[test]
    fn every_difference_from_the_nearest_card_is_named() {
        let (near, differences) = NamedCard::nearest(
            &Protocol {
                turn_limit: 20,
                ..Protocol::default()
            },
            3,
        );
        assert_eq!(near, NamedCard::Oreo);
        assert_eq!(
            differences,
            ["turn_limit is 20, not 40", "repetitions is 3, not 1"]
        );
        let search = Some(scenarios::Search::Beam { width: 2 });
        let searching = Protocol {
            best_of: 4,
            search,
            scorer: Scorer::Oracle,
            history: History::Full,
            ..verl()
        };
        let (near, differences) = NamedCard::nearest(&searching, 1);
        assert_eq!(near, NamedCard::Verl);
        let expected = [
            "history is full, not last_2",
            "best_of is 4, not 1",
            "scorer is oracle, not after_value",
            "search is done, not none",
        ];
        assert_eq!(differences, expected);
    }

    #[test]
    fn the_selection_among_candidates_is_a_difference_with_its_settings() {
        let selected = Protocol {
            best_of: 3,
            temperature: 1.0,
            scorer: Scorer::SoftValue,
            soft_value_beta: 0.02,
            distinct_by: DistinctBy::Command,
            ..Protocol::default()
        };
        assert_eq!(
            NamedCard::Oreo.differences(&selected, 1),
            [
                "scorer is soft_value with beta 0.02, not after_value",
                "distinct_by is command, not tokens"
            ]
        );
        let single = Protocol {
            best_of: 1,
            temperature: 0.0,
            ..selected
        };
        assert!(NamedCard::Oreo.differences(&single, 1).is_empty());
    }

    #[test]
    fn protocols_are_compared_field_by_field() {
        assert_eq!(protocol_differences(&verl(), &verl()), Vec::<String>::new());
        let found = protocol_differences(
            &Protocol::default(),
            &Protocol {
                top_k: 5,
                temperature: 0.3,
                ..Protocol::default()
            },
        );
        assert_eq!(
            found,
            [
                "protocol.temperature: 0.0 against 0.3",
                "protocol.top_k: the default against 5"
            ]
        );
    }

    /// A card without extensions is written as before, and one with extensions names them.
    #[test]
    fn a_card_names_the_keys_beyond_the_published_algorithm() {
        let text = r#"{ "policy": "oreo", "k": 1, "suite": "s", "suite_hash": "h", "splits": [],
            "games": 1, "episodes": 1, "repetitions": 1, "seeds": [1], "policy_hash": "p",
            "value_hash": null, "checkpoint": "last update", "code": "c", "protocol": PROTOCOL,
            "nearest": "oreo", "differences": [], "store": "s.jsonl" }"#;
        let protocol = serde_json::to_string(&Protocol::default()).unwrap();
        let text = text.replace("PROTOCOL", &protocol);
        let mut card: Card = serde_json::from_str(&text).unwrap();
        let written: serde_json::Value = serde_json::to_value(&card).unwrap();
        assert!(written.get("extensions").is_none());
        assert_eq!(card.likeness(), "card oreo");
        card.extensions = vec![
            "critic.head_only = 0.1".into(),
            "critic.advantage_head = true".into(),
        ];
        assert_eq!(
            card.likeness(),
            "card oreo; trained with critic.head_only = 0.1, critic.advantage_head = true"
        );
    }

    #[test]
    fn a_written_lineage_is_read_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Lineage::open(folder.path()).unwrap(), None);
        let before = Lineage {
            checkpoint: "last update".into(),
            games: [(Split::ValidSeen, 2)].into(),
            extensions: vec!["critic.head_only = 0.1".into()],
            permuted: 0,
            start: None,
        };
        let start = Some(Box::new(before.clone()));
        let lineage = Lineage {
            games: [(Split::Train, 12)].into(),
            permuted: 4,
            start,
            ..before.clone()
        };
        assert_eq!(
            [Split::Train, Split::ValidSeen].map(|split| lineage.learned_from(split)),
            [12, 2]
        );
        assert_eq!((lineage.permuted_games(), before.permuted_games()), (4, 0));
        assert!(!serde_json::to_string(&before).unwrap().contains("permuted"));
        lineage.save(folder.path()).unwrap();
        assert_eq!(Lineage::open(folder.path()).unwrap(), Some(lineage));
        std::fs::write(folder.path().join(LINEAGE), "{}").unwrap();
        assert!(
            Lineage::open(folder.path())
                .unwrap_err()
                .to_string()
                .contains(LINEAGE)
        );
    }
}
