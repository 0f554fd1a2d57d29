//! The protocol card: all that a number needs beside it, so that nobody compares it with one made otherwise.
//!
//! ```text
//! eval-card.json      for each policy and K: suite, splits, seeds, protocol, hashes, code, how the checkpoint was chosen
//! eval-games.csv      for each policy, K and game: episodes and wins
//! eval-failures.csv   for each policy, K, split and task type: lost episodes by [`crate::measure::failures::Failure`]
//! ```
//!
//! They stand beside `eval.csv`, whose rows have the same policies and K.

use crate::error::TrainerError;
use crate::measure::evaluate;
use crate::measure::failures::{self, FailureRow};
use crate::measure::games::{self, GameRow};
use scenarios::files;
use scenarios::{History, Protocol, Scorer, Split, Suite, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use crate::learn::lineage::{LINEAGE, Lineage, checkpoint_rule as scorer};

/// The cards' file.
pub const CARDS: &str = "eval-card.json";
/// The games' file.
pub const GAMES: &str = "eval-games.csv";
/// The failures' file.
pub const FAILURES: &str = "eval-failures.csv";
/// How a checkpoint was chosen, where nobody tells.
pub const UNKNOWN: &str = "unknown";

/// A protocol that others measure by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedCard {
    /// OREO's (arXiv 2412.16145): 40 turns, full history, no admissible list, greedy or the best of K by value at
    /// temperature 1, a malformed completion wastes its turn.
    Oreo,
    /// verl-agent's: 50 turns, the last 2 in sight, the admissible list shown, temperature 0.4. The settings, not the
    /// words of its prompt.
    Verl,
}

impl NamedCard {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Oreo, Self::Verl];

    /// As it is written in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oreo => "oreo",
            Self::Verl => "verl",
        }
    }

    /// Most turns in an episode.
    #[must_use]
    pub fn turn_limit(self) -> usize {
        match self {
            Self::Oreo => 40,
            Self::Verl => 50,
        }
    }

    /// How much of the episode is in sight.
    #[must_use]
    pub fn history(self) -> History {
        match self {
            Self::Oreo => History::Full,
            Self::Verl => History::Last(2),
        }
    }

    /// Whether the admissible commands are shown.
    #[must_use]
    pub fn admissible_shown(self) -> bool {
        self == Self::Verl
    }

    /// The sampling temperature for K candidates a turn.
    #[must_use]
    pub fn temperature(self, k: usize) -> f32 {
        match (self, k) {
            (Self::Oreo, 1) => 0.0,
            (Self::Oreo, _) => 1.0,
            (Self::Verl, _) => 0.4,
        }
    }

    /// Everything in which a protocol, played so many times on each game, differs from the card; nothing where it is the
    /// card. What a card leaves open differs from none: limits of tokens, how weights are held, instructions, stop texts, a
    /// translation.
    #[must_use]
    pub fn differences(self, protocol: &Protocol, repetitions: usize) -> Vec<String> {
        let mut differences = Vec::new();
        let mut hold = |what: &str, is: String, should_be: String| {
            if is != should_be {
                differences.push(format!("{what} is {is}, not {should_be}"));
            }
        };
        let shown = |shown: bool| if shown { "shown" } else { "hidden" }.to_string();
        hold(
            "turn_limit",
            protocol.turn_limit.to_string(),
            self.turn_limit().to_string(),
        );
        hold(
            "history",
            protocol.history.to_string(),
            self.history().to_string(),
        );
        hold(
            "the admissible list",
            shown(protocol.admissible_shown),
            shown(self.admissible_shown()),
        );
        if self == Self::Verl {
            hold("best_of", protocol.best_of.to_string(), "1".into());
        }
        if protocol.best_of > 1 {
            hold(
                "scorer",
                protocol.scorer.name().into(),
                Scorer::AfterValue.name().into(),
            );
        }
        hold(
            "temperature",
            protocol.temperature.to_string(),
            self.temperature(protocol.best_of).to_string(),
        );
        hold("top_k", protocol.top_k.to_string(), "0".into());
        hold("top_p", protocol.top_p.to_string(), "1".into());
        hold("min_p", protocol.min_p.to_string(), "0".into());
        hold(
            "malformed",
            protocol.malformed.to_string(),
            Protocol::default().malformed.to_string(),
        );
        hold(
            "search",
            protocol.search.map_or("none", |_| "done").into(),
            "none".into(),
        );
        hold("repetitions", repetitions.to_string(), "1".into());
        differences
    }

    /// The card with the fewest differences, and these.
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

/// How the numbers of one policy at one K were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// What the policy is called in the table.
    pub policy: String,
    /// Candidates a turn.
    pub k: usize,
    /// The suite's name.
    pub suite: String,
    /// [`Suite::hash`].
    pub suite_hash: String,
    /// Splits that were played.
    pub splits: Vec<Split>,
    /// Games that were played.
    pub games: usize,
    /// Episodes that were played, those lost to the world included.
    pub episodes: usize,
    /// Episodes of each game and seed.
    pub repetitions: usize,
    /// Seeds of the rounds.
    pub seeds: Vec<u64>,
    /// Hash of the policy's weights, or its name.
    pub policy_hash: String,
    /// Hash of the value network's weights, when one looked on.
    pub value_hash: Option<String>,
    /// How the checkpoint was chosen: `last update`, what early stopping looked at, or what its user says; [`UNKNOWN`].
    pub checkpoint: String,
    /// Version and commit of hearth.
    pub code: String,
    /// How it was played.
    pub protocol: Protocol,
    /// The named card that it is, or is the nearest to.
    pub nearest: NamedCard,
    /// What makes it another; empty where it is that card.
    pub differences: Vec<String>,
    /// The episodes, from the card's folder.
    pub store: PathBuf,
}

/// What a card says that the episodes do not.
#[derive(Debug, Clone)]
pub struct Made<'a> {
    /// The games.
    pub suite: &'a Suite,
    /// Seeds of the rounds.
    pub seeds: &'a [u64],
    /// Episodes of each game and seed.
    pub repetitions: usize,
    /// How the checkpoint was chosen.
    pub checkpoint: &'a str,
    /// Version and commit of hearth.
    pub code: &'a str,
    /// The episodes' file, from the card's folder.
    pub store: &'a Path,
}

impl Card {
    /// Of the episodes of one policy at one K.
    ///
    /// # Panics
    /// When there is no episode.
    #[must_use]
    pub fn new(policy: &str, made: &Made<'_>, episodes: &[Trajectory]) -> Self {
        let first = episodes
            .first()
            .expect("a measure of no episode has no card");
        let splits: BTreeSet<Split> = episodes.iter().map(|episode| episode.split).collect();
        let games: BTreeSet<&str> = episodes
            .iter()
            .map(|episode| episode.game_hash.as_str())
            .collect();
        let (nearest, differences) =
            NamedCard::nearest(&first.protocol, made.repetitions * made.seeds.len());
        Self {
            policy: policy.into(),
            k: first.protocol.best_of,
            suite: made.suite.name.clone(),
            suite_hash: made.suite.hash(),
            splits: splits.into_iter().collect(),
            games: games.len(),
            episodes: episodes.len(),
            repetitions: made.repetitions,
            seeds: made.seeds.to_vec(),
            policy_hash: first.policy.clone(),
            value_hash: first.value_policy.clone(),
            checkpoint: made.checkpoint.into(),
            code: made.code.into(),
            protocol: first.protocol.clone(),
            nearest,
            differences,
            store: made.store.into(),
        }
    }

    /// How often each game was played.
    #[must_use]
    pub fn times(&self) -> usize {
        self.repetitions * self.seeds.len()
    }

    /// The named card in words.
    #[must_use]
    pub fn likeness(&self) -> String {
        if self.differences.is_empty() {
            return format!("card {}", self.nearest);
        }
        format!(
            "nearest to card {}: {}",
            self.nearest,
            self.differences.join("; ")
        )
    }

    /// Everything in which two measures differ but the policy itself, a sentence each.
    #[must_use]
    pub fn against(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut hold = |what: &str, this: String, that: String| {
            if this != that {
                found.push(format!("{what}: {this} against {that}"));
            }
        };
        let list = |items: Vec<String>| items.join(", ");
        hold(
            "suite",
            format!("{} {:.16}", self.suite, self.suite_hash),
            format!("{} {:.16}", other.suite, other.suite_hash),
        );
        let splits = |card: &Self| list(card.splits.iter().map(ToString::to_string).collect());
        hold("splits", splits(self), splits(other));
        hold(
            "repetitions",
            self.repetitions.to_string(),
            other.repetitions.to_string(),
        );
        let seeds = |card: &Self| list(card.seeds.iter().map(ToString::to_string).collect());
        hold("seeds", seeds(self), seeds(other));
        hold("code", self.code.clone(), other.code.clone());
        found.extend(protocol_differences(&self.protocol, &other.protocol));
        found
    }
}

/// Every field in which two protocols differ, a sentence each.
#[must_use]
pub fn protocol_differences(this: &Protocol, that: &Protocol) -> Vec<String> {
    let fields = |protocol| {
        let text = serde_json::to_string(protocol).expect("a protocol is always JSON"); // 0.3, where a value says 0.30000001
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text)
            .expect("a protocol has named fields")
    };
    let (this, that) = (fields(this), fields(that));
    let names: BTreeSet<&String> = this.keys().chain(that.keys()).collect();
    let told = |value: Option<&serde_json::Value>| {
        value.map_or("the default".to_string(), ToString::to_string)
    };
    let of = |name: &String| {
        format!(
            "protocol.{name}: {} against {}",
            told(this.get(name)),
            told(that.get(name))
        )
    };
    names
        .into_iter()
        .filter(|name| this.get(*name) != that.get(*name))
        .map(of)
        .collect()
}

/// What stands beside `eval.csv`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sheets {
    /// How each policy's numbers were made.
    pub cards: Vec<Card>,
    /// What each policy did on each game.
    pub games: Vec<GameRow>,
    /// Why it lost games.
    pub failures: Vec<FailureRow>,
}

#[derive(Serialize, Deserialize)]
struct CardFile {
    format: u32,
    cards: Vec<Card>,
}

impl Sheets {
    /// Reads what stands in a folder; nothing where there is none.
    ///
    /// # Errors
    /// When a file is damaged.
    pub fn open(folder: &Path) -> Result<Self, TrainerError> {
        let path = folder.join(CARDS);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
        let file: CardFile =
            serde_json::from_str(&text).map_err(|e| TrainerError::content(&path, e))?;
        let games = evaluate::read_csv(&folder.join(GAMES))?;
        Ok(Self {
            cards: file.cards,
            games,
            failures: evaluate::read_csv(&folder.join(FAILURES))?,
        })
    }

    /// Counts a policy's episodes.
    pub fn add(&mut self, card: Card, episodes: &[Trajectory]) {
        self.games
            .extend(games::games(&card.policy, card.k, episodes));
        self.failures
            .extend(failures::failures(&card.policy, card.k, episodes));
        self.cards.push(card);
    }

    /// Writes the three files; the cards last.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), TrainerError> {
        evaluate::write_csv(&folder.join(GAMES), &self.games)?;
        evaluate::write_csv(&folder.join(FAILURES), &self.failures)?;
        write_json(
            &folder.join(CARDS),
            &CardFile {
                format: 1,
                cards: self.cards.clone(),
            },
        )
    }
}

/// Writes JSON for the eye, replacing what was there at once or not at all.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainerError> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| TrainerError::content(path, e))? + "\n";
    files::replace(path, text.as_bytes()).map_err(TrainerError::file(path))
}

/// What tables call a job's model of an iteration.
#[must_use]
pub fn run_policy(job: &str, iteration: usize) -> String {
    if iteration == 1 {
        job.into()
    } else {
        format!("{job}-{iteration}")
    }
}

/// The run in whose `RUN/ITERATION/LESSON` a model lies.
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
            ..Protocol::default()
        }
    }

    #[test]
    fn a_protocol_that_is_a_card_differs_in_nothing() {
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
    fn protocols_are_held_against_each_other_field_by_field() {
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

    #[test]
    fn a_lineage_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Lineage::open(folder.path()).unwrap(), None);
        let before = Lineage {
            checkpoint: "last update".into(),
            games: [(Split::ValidSeen, 2)].into(),
            start: None,
        };
        let start = Some(Box::new(before.clone()));
        let lineage = Lineage {
            games: [(Split::Train, 12)].into(),
            start,
            ..before
        };
        assert_eq!(
            [Split::Train, Split::ValidSeen].map(|split| lineage.learned_from(split)),
            [12, 2]
        );
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
