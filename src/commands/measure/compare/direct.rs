//! The comparison of two policies on the same games.

use crate::commands::measure::sweep;
use crate::ui;
use anyhow::Context;
use scenarios::Protocol;
use scenarios::store::Store;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use trainer::measure::card::{CARDS, Card, Sheets, protocol_differences, run_policy};
use trainer::measure::compare::{Comparison, compare};
use trainer::measure::games::{GameRow, games};
use trainer::pipeline::folder::measured_stores;
use trainer::statistics::Resampling;

/// Which measurement is compared: `FOLDER`, `FOLDER:POLICY`, `FOLDER@K` or `FOLDER:POLICY@K`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Selector {
    folder: PathBuf,
    policy: Option<String>,
    k: Option<usize>,
}

impl Selector {
    /// Parses a selector. If a folder has exactly this name, it is the folder.
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
                        "{text}: {k:?} is not a K\nhint: FOLDER:POLICY@K"
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
            return Err(ui::WrongUse(format!(
                "{folder}: no such folder\nhint: an eval folder, SWEEP:SCORER@K, or RUN:POLICY or RUN:POLICY@K"
            )));
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
        if let Some(policy) = &self.policy {
            write!(f, ":{policy}")?;
        }
        match self.k {
            Some(k) => write!(f, "@{k}"),
            None => Ok(()),
        }
    }
}

/// The games of one policy, as measured in one folder.
struct Measurement {
    name: String,
    games: Vec<GameRow>,
    protocol: Protocol,
    /// `None` if the folder has no cards.
    card: Option<Card>,
}

impl Measurement {
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
        let games = sheets
            .games
            .into_iter()
            .filter(|row| (&row.policy, row.k) == (&card.policy, card.k))
            .collect();
        Ok(Self {
            name: selector.to_string(),
            games,
            protocol: card.protocol.clone(),
            card: Some(card),
        })
    }

    /// Reads the stores of a folder without cards: of a sweep, of an older version, or of a run that
    /// was stopped before the first card.
    fn of_stores(selector: &Selector) -> anyhow::Result<Self> {
        let is_sweep = selector.folder.join(sweep::TABLE).is_file();
        let (stores, named): (_, fn(&str) -> _) = if is_sweep {
            (files(&selector.folder)?, named_by_sweep)
        } else {
            (measured_stores(&selector.folder)?, named)
        };
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
            return Err(ui::WrongUse(format!("{} contains no episodes", path.display())).into());
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

/// Returns policy and K of a store: `("sft-2", 1)` of `2/eval/sft-k1.jsonl`, `("", 5)` of
/// `episodes-k5.jsonl`.
fn named(store: &str) -> Option<(String, usize)> {
    let (stem, k) = store.strip_suffix(".jsonl")?.rsplit_once("-k")?;
    let k = k.parse().ok()?;
    match stem.split('/').collect::<Vec<_>>().as_slice() {
        [_] => Some((String::new(), k)),
        [iteration, "eval", job] => Some((run_policy(job, iteration.parse().ok()?), k)),
        _ => None,
    }
}

/// Returns scorer and K of a store of a sweep: `("expert", 5)` of `expert-k5.jsonl`, and K = 1 of
/// `greedy.jsonl` and `sampled.jsonl`.
fn named_by_sweep(store: &str) -> Option<(String, usize)> {
    let stem = store.strip_suffix(".jsonl")?;
    if let "greedy" | "sampled" = stem {
        return Some((stem.into(), 1));
    }
    let (scorer, k) = stem.rsplit_once("-k")?;
    Some((scorer.into(), k.parse().ok()?))
}

/// Returns the names of the entries of a folder, sorted.
fn files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Returns the index of the selected policy and K: the only match, or the only match with K = 1.
fn choose(selector: &Selector, places: &[(&str, usize)]) -> Result<usize, ui::WrongUse> {
    let matching: Vec<usize> = (0..places.len())
        .filter(|index| {
            let (policy, k) = places[*index];
            selector.policy.as_deref().is_none_or(|name| name == policy)
                && selector.k.is_none_or(|wanted| wanted == k)
        })
        .collect();
    let greedy: Vec<usize> = matching
        .iter()
        .copied()
        .filter(|index| places[*index].1 == 1)
        .collect();
    match (matching.as_slice(), greedy.as_slice()) {
        ([only], _) | (_, [only]) => Ok(*only),
        _ if places.is_empty() => Err(ui::WrongUse(format!(
            "{selector}: this folder does not record single games\n\
             hint: a comparison needs eval-games.csv, or the episodes, beside the table"
        ))),
        _ => {
            let problem = if matching.is_empty() {
                "no policy and K matches"
            } else {
                "several policies or K match"
            };
            let names: Vec<String> = places
                .iter()
                .map(|(policy, k)| match *policy {
                    "" => format!("@{k}"),
                    policy => format!(":{policy}@{k}"),
                })
                .collect();
            Err(ui::WrongUse(format!(
                "{selector}: {problem}\nhint: there are {}",
                names.join(", ")
            )))
        }
    }
}

/// One side of the comparison: a policy, or several runs of one policy with different seeds.
struct ComparedSide {
    measures: Vec<Measurement>,
}

impl ComparedSide {
    /// Opens selectors separated by commas. If a folder has exactly this name, it is the only
    /// selector.
    fn open(text: &str) -> anyhow::Result<Self> {
        let texts: Vec<&str> = if Path::new(text).is_dir() {
            vec![text]
        } else {
            text.split(',').collect()
        };
        let mut measures = Vec::new();
        for text in texts {
            measures.push(Measurement::open(&Selector::parse(text)?)?);
        }
        Ok(Self { measures })
    }

    /// Returns the games of each run.
    fn runs(&self) -> Vec<Vec<GameRow>> {
        let runs = self.measures.iter();
        runs.map(|measure| measure.games.clone()).collect()
    }

    fn name(&self) -> String {
        self.measures
            .iter()
            .map(|measure| measure.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Returns the hashes of the games that were played to an end.
    fn played_games(&self) -> BTreeSet<&str> {
        let rows = self.measures.iter().flat_map(|measure| &measure.games);
        rows.filter(|row| row.played > 0)
            .map(|row| row.game_hash.as_str())
            .collect()
    }

    fn cards(&self) -> Vec<Card> {
        self.measures
            .iter()
            .filter_map(|measure| measure.card.clone())
            .collect()
    }
}

/// Returns a sentence for every difference between the measurements besides the policy.
fn warnings(first: &ComparedSide, second: &ComparedSide) -> Vec<String> {
    let mut found = Vec::new();
    for measure in first.measures.iter().chain(&second.measures) {
        if measure.card.is_none() {
            found.push(format!(
                "{} has no {CARDS}, so its suite, seeds, code and checkpoint are not known",
                measure.name
            ));
        }
    }
    for side in [first, second] {
        for other in &side.measures[1..] {
            for difference in protocol_differences(&side.measures[0].protocol, &other.protocol) {
                found.push(format!("within {}: {difference}", side.name()));
            }
        }
    }
    for (index, this) in first.measures.iter().enumerate() {
        let that = second.measures.get(index).unwrap_or(&second.measures[0]);
        match (&this.card, &that.card) {
            (Some(this), Some(that)) => found.extend(this.differences_from(that)),
            _ => found.extend(protocol_differences(&this.protocol, &that.protocol)),
        }
    }
    let a = first.played_games();
    let b = second.played_games();
    for (name, alone) in [
        ("A", a.difference(&b).count()),
        ("B", b.difference(&a).count()),
    ] {
        if alone > 0 {
            found.push(format!(
                "{alone} games were played only by {name}, and count on neither side"
            ));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|text| seen.insert(text.clone()));
    found
}

/// The comparison of two sides; the JSON output of `hearth compare A B`.
#[derive(Serialize)]
pub(super) struct DirectOutput {
    a: String,
    b: String,
    a_cards: Vec<Card>,
    b_cards: Vec<Card>,
    warnings: Vec<String>,
    rows: Vec<Comparison>,
    resamples: usize,
    resampling_seed: u64,
}

/// Compares two selectors, or lists of selectors.
///
/// # Errors
/// If a selector does not match one measurement, or the two sides have no game in common.
pub(super) fn direct(first: &str, second: &str) -> anyhow::Result<DirectOutput> {
    let first = ComparedSide::open(first)?;
    let second = ComparedSide::open(second)?;
    let resampling = Resampling::default();
    let rows = compare(&first.runs(), &second.runs(), resampling);
    if rows.is_empty() {
        return Err(ui::WrongUse(format!(
            "{} and {} have no game in common\nhint: measure both on one suite",
            first.name(),
            second.name()
        ))
        .into());
    }
    Ok(DirectOutput {
        a: first.name(),
        b: second.name(),
        a_cards: first.cards(),
        b_cards: second.cards(),
        warnings: warnings(&first, &second),
        rows,
        resamples: resampling.count,
        resampling_seed: resampling.seed,
    })
}

impl DirectOutput {
    pub(super) fn print(&self) {
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
        let header = [
            "split",
            "task type",
            "turns of A",
            "turns of B",
            "A - B, bootstrap 95 %",
            "sign-flip p",
        ];
        ui::print_table(
            &header,
            &self.rows.iter().map(turn_cells).collect::<Vec<_>>(),
        );
        let of_runs: Vec<Vec<String>> = self.rows.iter().filter_map(run_cells).collect();
        if !of_runs.is_empty() {
            let header = [
                "split",
                "A - B of each pair of runs",
                "t-test p",
                "turns, A - B of each",
                "t-test p",
            ];
            ui::print_table(&header, &of_runs);
        }
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
        ui::print(
            "found from: the smallest difference that this number of games detects with probability 0.8 \
             at p < 0.05\n",
        );
    }

    /// Prints the warnings to stderr.
    pub(super) fn print_warnings(&self) {
        for warning in &self.warnings {
            eprintln!("warning: {warning}");
        }
    }
}

fn cells(row: &Comparison) -> Vec<String> {
    let kind = row.task_type.map_or("all", scenarios::TaskType::short_name);
    vec![
        row.split.to_string(),
        kind.to_string(),
        row.games.to_string(),
        percent(row.first_rate),
        percent(row.second_rate),
        format!(
            "{:+.1} [{:+.1}, {:+.1}]",
            100.0 * row.difference,
            100.0 * row.low,
            100.0 * row.high
        ),
        format!("{} : {}", row.first_alone, row.second_alone),
        ui::p_value(row.p_value),
        row.minimum_detectable.map_or_else(|| "-".into(), percent),
    ]
}

fn turn_cells(row: &Comparison) -> Vec<String> {
    let kind = row.task_type.map_or("all", scenarios::TaskType::short_name);
    let turns = &row.turns;
    vec![
        row.split.to_string(),
        kind.to_string(),
        format!("{:.2}", turns.first),
        format!("{:.2}", turns.second),
        format!(
            "{:+.2} [{:+.2}, {:+.2}]",
            turns.first - turns.second,
            turns.low,
            turns.high
        ),
        ui::p_value(turns.p_value),
    ]
}

/// Returns the row of a split over all task types, if the sides have pairs of runs.
fn run_cells(row: &Comparison) -> Option<Vec<String>> {
    let runs = row.runs.as_ref().filter(|_| row.task_type.is_none())?;
    let numbers = |numbers: &[f64], scale: f64| -> String {
        let texts = numbers
            .iter()
            .map(|number| format!("{:+.1}", scale * number));
        texts.collect::<Vec<_>>().join(" ")
    };
    let p_value = |p: Option<f64>| p.map_or_else(|| "-".into(), ui::p_value);
    Some(vec![
        row.split.to_string(),
        numbers(&runs.differences, 100.0),
        p_value(runs.p_value),
        numbers(&runs.turn_differences, 1.0),
        p_value(runs.turns_p_value),
    ])
}

fn percent(rate: f64) -> String {
    format!("{:.1}", 100.0 * rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_has_a_folder_a_policy_and_k() {
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
        assert!(of("@many").unwrap_err().contains("\"many\" is not a K"));
        assert!(
            Selector::parse("nowhere:oreo")
                .unwrap_err()
                .to_string()
                .starts_with("nowhere: no such folder")
        );
    }

    #[test]
    fn policy_and_k_are_parsed_from_a_store_name() {
        assert_eq!(
            named("1/eval/oreo-turn-k5.jsonl"),
            Some(("oreo-turn".into(), 5))
        );
        assert_eq!(named("3/eval/oreo-k1.jsonl"), Some(("oreo-3".into(), 1)));
        assert_eq!(named("episodes-k1.jsonl"), Some((String::new(), 1)));
        assert_eq!(named("rollouts.jsonl"), None);
        let of_sweep = |store, policy: &str, k| {
            assert_eq!(named_by_sweep(store), Some((policy.into(), k)));
        };
        of_sweep("soft_value-k5.jsonl", "soft_value", 5);
        of_sweep("greedy.jsonl", "greedy", 1);
        assert_eq!(named_by_sweep("sampled-2.jsonl"), None);
        assert_eq!(named_by_sweep("sweep.csv"), None);
    }
}
