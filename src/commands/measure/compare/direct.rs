//! Two policies on the same games.

use crate::ui;
use scenarios::Protocol;
use scenarios::store::Store;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use trainer::measure::card::{CARDS, Card, Sheets, protocol_differences, run_policy};
use trainer::measure::compare::{Comparison, compare, merge};
use trainer::measure::evaluate::{GameRow, games};
use trainer::measure::statistics::Resampling;
use trainer::pipeline::folder::measured_stores;

/// `FOLDER`, `FOLDER:POLICY`, `FOLDER@K` or `FOLDER:POLICY@K`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Selector {
    folder: PathBuf,
    policy: Option<String>,
    k: Option<usize>,
}

impl Selector {
    /// A folder of that very name comes first.
    fn parse(text: &str) -> Result<Self, ui::WrongUse> {
        if Path::new(text).is_dir() {
            return Ok(Self {
                folder: text.into(),
                policy: None,
                k: None,
            });
        }
        let (rest, k) = match text.rsplit_once('@') {
            Some((rest, k)) => match k.parse() {
                Ok(k) => (rest, Some(k)),
                Err(_) => {
                    return Err(ui::WrongUse(format!(
                        "{text}: {k:?} is no K\nhint: FOLDER:POLICY@K"
                    )));
                }
            },
            None => (text, None),
        };
        let (folder, policy) = match rest.rsplit_once(':') {
            Some((folder, policy)) if !Path::new(rest).is_dir() => {
                (folder, Some(policy.to_string()))
            }
            _ => (rest, None),
        };
        if !Path::new(folder).is_dir() {
            let text = format!(
                "{folder}: no such folder\nhint: an eval folder, or RUN:POLICY or RUN:POLICY@K"
            );
            return Err(ui::WrongUse(text));
        }
        Ok(Self {
            folder: folder.into(),
            policy,
            k,
        })
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.folder.display())?;
        self.policy
            .iter()
            .try_for_each(|policy| write!(f, ":{policy}"))?;
        self.k.iter().try_for_each(|k| write!(f, "@{k}"))
    }
}

/// What one policy did, as it was measured in one folder.
struct Measure {
    name: String,
    games: Vec<GameRow>,
    protocol: Protocol,
    /// Only where the folder has cards.
    card: Option<Card>,
}

impl Measure {
    fn open(selector: &Selector) -> anyhow::Result<Self> {
        let sheets = Sheets::open(&selector.folder)?;
        if sheets.cards.is_empty() {
            Self::of_stores(selector)
        } else {
            Self::of_sheets(selector, sheets)
        }
    }

    fn of_sheets(selector: &Selector, sheets: Sheets) -> anyhow::Result<Self> {
        let places: Vec<(&str, usize)> = sheets
            .cards
            .iter()
            .map(|card| (card.policy.as_str(), card.k))
            .collect();
        let card = sheets.cards[choose(selector, &places)?].clone();
        let is_its = |row: &GameRow| (&row.policy, row.k) == (&card.policy, card.k);
        let games = sheets.games.into_iter().filter(is_its).collect();
        Ok(Self {
            name: selector.to_string(),
            games,
            protocol: card.protocol.clone(),
            card: Some(card),
        })
    }

    /// Of a folder from before there were cards, or of a run that was stopped before the first.
    fn of_stores(selector: &Selector) -> anyhow::Result<Self> {
        let stores = measured_stores(&selector.folder)?;
        let named: Vec<(String, usize, &String)> = stores
            .iter()
            .filter_map(|store| named(store).map(|(policy, k)| (policy, k, store)))
            .collect();
        let places: Vec<(&str, usize)> = named
            .iter()
            .map(|(policy, k, _)| (policy.as_str(), *k))
            .collect();
        let (policy, k, store) = &named[choose(selector, &places)?];
        let path = selector.folder.join(store);
        let episodes = Store::read(&path)?;
        let Some(first) = episodes.first() else {
            return Err(ui::WrongUse(format!("{} holds no episodes", path.display())).into());
        };
        let protocol = first.protocol.clone();
        Ok(Self {
            name: selector.to_string(),
            games: games(policy, *k, &episodes),
            protocol,
            card: None,
        })
    }
}

/// Policy and K of a store: `("sft-2", 1)` of `2/eval/sft-k1.jsonl`, `("", 5)` of `episodes-k5.jsonl`.
fn named(store: &str) -> Option<(String, usize)> {
    let (stem, k) = store.strip_suffix(".jsonl")?.rsplit_once("-k")?;
    let k = k.parse().ok()?;
    match stem.split('/').collect::<Vec<_>>().as_slice() {
        [_] => Some((String::new(), k)),
        [iteration, "eval", job] => Some((run_policy(job, iteration.parse().ok()?), k)),
        _ => None,
    }
}

/// Which of a folder's policies and K the selector means: the only one it leaves, or the only one at K = 1.
fn choose(selector: &Selector, places: &[(&str, usize)]) -> Result<usize, ui::WrongUse> {
    let is_meant = |(policy, k): &(&str, usize)| {
        selector
            .policy
            .as_deref()
            .is_none_or(|name| name == *policy)
            && selector.k.is_none_or(|asked| asked == *k)
    };
    let meant: Vec<usize> = (0..places.len())
        .filter(|index| is_meant(&places[*index]))
        .collect();
    let greedy: Vec<usize> = meant
        .iter()
        .copied()
        .filter(|index| places[*index].1 == 1)
        .collect();
    match (meant.as_slice(), greedy.as_slice()) {
        ([only], _) | (_, [only]) => Ok(*only),
        _ if places.is_empty() => {
            let hint = "what is compared game by game has eval-games.csv, or the episodes, beside its table";
            Err(ui::WrongUse(format!(
                "{selector}: no games are told of there\nhint: {hint}"
            )))
        }
        _ => {
            let names = places.iter().map(|(policy, k)| match *policy {
                "" => format!("@{k}"),
                policy => format!(":{policy}@{k}"),
            });
            let names: Vec<String> = names.collect();
            let which = if meant.is_empty() {
                "nothing there is meant"
            } else {
                "which policy and K is meant"
            };
            Err(ui::WrongUse(format!(
                "{selector}: {which}?\nhint: there are {}",
                names.join(", ")
            )))
        }
    }
}

/// One side of the comparison: a policy, or runs of one policy with several seeds.
struct Side {
    measures: Vec<Measure>,
    games: Vec<GameRow>,
}

impl Side {
    /// Selectors with commas between.
    fn open(text: &str) -> anyhow::Result<Self> {
        let texts: Vec<&str> = if Path::new(text).is_dir() {
            vec![text]
        } else {
            text.split(',').collect()
        };
        let mut measures = Vec::new();
        for text in texts {
            measures.push(Measure::open(&Selector::parse(text)?)?);
        }
        let games = merge(measures.iter().flat_map(|measure| measure.games.clone()));
        Ok(Self { measures, games })
    }

    fn name(&self) -> String {
        self.measures
            .iter()
            .map(|measure| measure.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Everything in which the measures differ but the policy, a sentence each.
fn warnings(first: &Side, second: &Side) -> Vec<String> {
    let mut found = Vec::new();
    for measure in first
        .measures
        .iter()
        .chain(&second.measures)
        .filter(|measure| measure.card.is_none())
    {
        let name = &measure.name;
        found.push(format!(
            "{name} has no {CARDS}: of its suite, seeds, code and checkpoint nothing is known"
        ));
    }
    for side in [first, second] {
        for other in &side.measures[1..] {
            let differences = protocol_differences(&side.measures[0].protocol, &other.protocol);
            found.extend(
                differences
                    .iter()
                    .map(|text| format!("within {}: {text}", side.name())),
            );
        }
    }
    for (index, this) in first.measures.iter().enumerate() {
        let that = second.measures.get(index).unwrap_or(&second.measures[0]);
        match (&this.card, &that.card) {
            (Some(this), Some(that)) => found.extend(this.against(that)),
            _ => found.extend(protocol_differences(&this.protocol, &that.protocol)),
        }
    }
    let played = |side: &Side| -> BTreeSet<String> {
        side.games
            .iter()
            .filter(|row| row.played > 0)
            .map(|row| row.game_hash.clone())
            .collect()
    };
    let (a, b) = (played(first), played(second));
    for (name, alone) in [
        ("A", a.difference(&b).count()),
        ("B", b.difference(&a).count()),
    ] {
        if alone > 0 {
            found.push(format!(
                "{alone} games were played by {name} alone, and count on neither side"
            ));
        }
    }
    let mut told = BTreeSet::new();
    found.retain(|text| told.insert(text.clone()));
    found
}

/// The two sides and what came out.
#[derive(Serialize)]
pub(super) struct Direct {
    a: String,
    b: String,
    a_cards: Vec<Card>,
    b_cards: Vec<Card>,
    warnings: Vec<String>,
    rows: Vec<Comparison>,
    resamples: usize,
    resampling_seed: u64,
}

/// Compares what two selectors, or lists of them, mean.
pub(super) fn direct(first: &str, second: &str) -> anyhow::Result<Direct> {
    let (first, second) = (Side::open(first)?, Side::open(second)?);
    let resampling = Resampling::default();
    let rows = compare(&first.games, &second.games, resampling);
    if rows.is_empty() {
        let text = format!(
            "{} and {} have no game in common\nhint: measure both on one suite",
            first.name(),
            second.name()
        );
        return Err(ui::WrongUse(text).into());
    }
    let cards = |side: &Side| {
        side.measures
            .iter()
            .filter_map(|measure| measure.card.clone())
            .collect()
    };
    Ok(Direct {
        a: first.name(),
        b: second.name(),
        a_cards: cards(&first),
        b_cards: cards(&second),
        warnings: warnings(&first, &second),
        rows,
        resamples: resampling.count,
        resampling_seed: resampling.seed,
    })
}

impl Direct {
    pub(super) fn print(&self) {
        let percent = |rate: f64| format!("{:.1}", 100.0 * rate);
        let signed = |rate: f64| format!("{:+.1}", 100.0 * rate);
        let cells = |row: &Comparison| {
            vec![
                row.split.to_string(),
                row.task_type
                    .map_or("all", scenarios::TaskType::short_name)
                    .to_string(),
                row.games.to_string(),
                percent(row.first_rate),
                percent(row.second_rate),
                format!(
                    "{} [{}, {}]",
                    signed(row.difference),
                    signed(row.low),
                    signed(row.high)
                ),
                format!("{} : {}", row.first_alone, row.second_alone),
                ui::p_value(row.p_value),
                row.minimum_detectable.map_or_else(|| "-".into(), percent),
            ]
        };
        let header = [
            "split",
            "task type",
            "games",
            "A %",
            "B %",
            "A - B, bootstrap 95 %",
            "A alone : B alone",
            "McNemar p",
            "found from",
        ];
        ui::print_table(&header, &self.rows.iter().map(cells).collect::<Vec<_>>());
        for (letter, name, cards) in [("A", &self.a, &self.a_cards), ("B", &self.b, &self.b_cards)]
        {
            let hashes: Vec<&str> = cards.iter().map(|card| card.policy_hash.as_str()).collect();
            let policy = if hashes.is_empty() {
                String::new()
            } else {
                format!(", policy {}", hashes.join(", "))
            };
            ui::print(&format!("{letter}: {name}{policy}\n"));
        }
        let about = "found from: the smallest difference that so many games show with probability 0.8 at p < 0.05";
        ui::print(&format!("{about}\n"));
    }

    pub(super) fn say_warnings(&self) {
        for warning in &self.warnings {
            eprintln!("warning: {warning}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_names_folder_policy_and_k() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("a:b");
        std::fs::create_dir(&run).unwrap();
        let run = run.to_str().unwrap();
        let of = |more: &str| Selector::parse(&format!("{run}{more}")).map_err(|e| e.to_string());
        let is = |policy: Option<&str>, k| {
            Ok(Selector {
                folder: run.into(),
                policy: policy.map(str::to_string),
                k,
            })
        };
        assert_eq!(of(""), is(None, None));
        assert_eq!(of("@5"), is(None, Some(5)));
        assert_eq!(of(":oreo"), is(Some("oreo"), None));
        assert_eq!(of(":oreo-2@5"), is(Some("oreo-2"), Some(5)));
        assert_eq!(
            of(":oreo-2@5").unwrap().to_string(),
            format!("{run}:oreo-2@5")
        );
        assert!(of("@many").unwrap_err().contains("\"many\" is no K"));
        assert!(
            Selector::parse("nowhere:oreo")
                .unwrap_err()
                .to_string()
                .starts_with("nowhere: no such folder")
        );
    }

    #[test]
    fn a_store_tells_its_policy_and_k() {
        assert_eq!(
            named("1/eval/oreo-turn-k5.jsonl"),
            Some(("oreo-turn".into(), 5))
        );
        assert_eq!(named("3/eval/oreo-k1.jsonl"), Some(("oreo-3".into(), 1)));
        assert_eq!(named("episodes-k1.jsonl"), Some((String::new(), 1)));
        assert_eq!(named("rollouts.jsonl"), None);
    }
}
