//! Selection of records by game, outcome, policy, iteration and split. A compacted store answers from its index.

use super::index::{Column, IndexTables, IndexedGame, OUTCOMES, outcome_number};
use super::part::{CompactedStore, Part};
use super::records::{StoredRecord, StoredRecords};
use crate::error::TrainerError;
use scenarios::{Outcome, Split, Trajectory};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which records are selected. A record must fulfil every condition that is set.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The game's id, or the end of it after a `/`.
    pub game: Option<String>,
    /// The outcome.
    pub outcome: Option<Outcome>,
    /// The first letters of the policy's hash or name.
    pub policy: Option<String>,
    /// The iteration of the loop that played it.
    pub iteration: Option<u32>,
    /// The split of the game.
    pub split: Option<Split>,
}

/// What selected records are, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecordCounts {
    /// Records, branches included.
    pub records: usize,
    /// How many of them are branches.
    pub branches: usize,
    /// Bytes of their lines.
    pub bytes: u64,
    /// Turns.
    pub turns: u64,
    /// Tokens.
    pub tokens: u64,
    /// Distinct games.
    pub games: usize,
    /// Records by outcome, branches left out.
    pub outcomes: BTreeMap<&'static str, usize>,
    /// Records by policy.
    pub policies: BTreeMap<String, usize>,
    /// Records by iteration of the loop; 0 if it is not known.
    pub iterations: BTreeMap<u32, usize>,
    #[serde(skip)]
    seen_games: BTreeSet<(String, String)>,
}

/// Returns the iteration of a loop that wrote a store: 3 for `RUN/3/rollouts.jsonl` and `RUN/3/eval/oreo-k1.jsonl`;
/// 0 for every other path.
#[must_use]
pub fn iteration_of(store: &Path) -> u32 {
    let is_of_iteration = store.file_stem().is_some_and(|stem| {
        ["rollouts", "branches", "rescues"]
            .iter()
            .any(|name| stem == *name)
    });
    let folder = store.parent().filter(|folder| folder.ends_with("eval"));
    let folder = match (folder, is_of_iteration) {
        (Some(eval), _) => eval.parent(),
        (None, true) => store.parent(),
        (None, false) => None,
    };
    folder
        .and_then(|folder| folder.file_name()?.to_str()?.parse().ok())
        .unwrap_or(0)
}

impl Selection {
    fn has_game(&self, game: &IndexedGame) -> bool {
        let is_named = self.game.as_ref().is_none_or(|named| {
            game.game == *named
                || game
                    .game
                    .strip_suffix(named.as_str())
                    .is_some_and(|start| start.ends_with('/'))
        });
        is_named && self.split.is_none_or(|split| split == game.split)
    }

    fn has_policy(&self, policy: &str) -> bool {
        self.policy
            .as_ref()
            .is_none_or(|start| policy.starts_with(start.as_str()))
    }

    /// Returns whether a record of a store of this iteration is selected.
    #[must_use]
    pub fn has(&self, record: &Trajectory, iteration: u32) -> bool {
        let game = IndexedGame {
            game: record.game.clone(),
            hash: String::new(),
            split: record.split,
            task_type: None,
        };
        self.has_game(&game)
            && self.has_policy(&record.policy)
            && self.outcome.is_none_or(|of| of == record.outcome)
            && self.iteration.is_none_or(|of| of == iteration)
    }

    /// Returns the rows of a part that are selected, in order. Reads only the columns that a condition needs.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn rows(&self, part: &Part) -> Result<Vec<usize>, TrainerError> {
        let index = part.index();
        let IndexTables {
            games, policies, ..
        } = index.tables();
        let mut keeps = vec![true; index.records()];
        if self.game.is_some() || self.split.is_some() {
            let known: Vec<bool> = games.iter().map(|game| self.has_game(game)).collect();
            keep(&mut keeps, &index.column(Column::Game)?, |game| {
                known.get(game as usize) == Some(&true)
            });
        }
        if self.policy.is_some() {
            let known: Vec<bool> = policies.iter().map(|name| self.has_policy(name)).collect();
            keep(&mut keeps, &index.column(Column::Policy)?, |policy| {
                known.get(policy as usize) == Some(&true)
            });
        }
        if let Some(outcome) = self.outcome {
            let number = u32::from(outcome_number(outcome));
            keep(&mut keeps, &index.column(Column::Outcome)?, |of| {
                of == number
            });
        }
        if let Some(iteration) = self.iteration {
            keep(&mut keeps, &index.column(Column::Iteration)?, |of| {
                of == iteration
            });
        }
        let places = keeps.into_iter().enumerate();
        Ok(places
            .filter_map(|(row, keep)| keep.then_some(row))
            .collect())
    }

    /// Counts the selected records of stores.
    ///
    /// # Errors
    /// If a store cannot be read.
    pub fn count(&self, stores: &[PathBuf]) -> Result<RecordCounts, TrainerError> {
        let mut counts = RecordCounts::default();
        for store in stores {
            if super::is_compacted(store) {
                for part in CompactedStore::open(store)?.parts() {
                    self.count_part(part, &mut counts)?;
                }
            } else {
                self.count_lines(store, &mut counts)?;
            }
        }
        counts.games = counts.seen_games.len();
        Ok(counts)
    }

    fn count_part(&self, part: &Part, counts: &mut RecordCounts) -> Result<(), TrainerError> {
        let index = part.index();
        let tables = index.tables();
        let rows = self.rows(part)?;
        let total = |column: Column| -> Result<u64, TrainerError> {
            let values = index.column(column)?;
            Ok(rows.iter().map(|row| u64::from(values[*row])).sum())
        };
        counts.records += rows.len();
        counts.bytes += total(Column::Length)?;
        counts.turns += total(Column::Turns)?;
        counts.tokens += total(Column::Tokens)?;
        let branches = index.column(Column::Branch)?;
        let outcomes = index.column(Column::Outcome)?;
        let by_outcome = rows.iter().filter(|row| branches[**row] == 0);
        for (outcome, count) in tally(by_outcome.map(|row| outcomes[*row])) {
            let name = OUTCOMES
                .get(outcome as usize)
                .map_or("unknown", |outcome| outcome.name());
            *counts.outcomes.entry(name).or_default() += count;
        }
        counts.branches += rows.iter().filter(|row| branches[**row] != 0).count();
        let games = index.column(Column::Game)?;
        for (game, _) in tally(rows.iter().map(|row| games[*row])) {
            if let Some(game) = tables.games.get(game as usize) {
                counts
                    .seen_games
                    .insert((game.hash.clone(), game.game.clone()));
            }
        }
        let policies = index.column(Column::Policy)?;
        for (policy, count) in tally(rows.iter().map(|row| policies[*row])) {
            let name = tables.policies.get(policy as usize);
            *counts
                .policies
                .entry(name.cloned().unwrap_or_default())
                .or_default() += count;
        }
        let iterations = index.column(Column::Iteration)?;
        for (iteration, count) in tally(rows.iter().map(|row| iterations[*row])) {
            *counts.iterations.entry(iteration).or_default() += count;
        }
        Ok(())
    }

    fn count_lines(&self, store: &Path, counts: &mut RecordCounts) -> Result<(), TrainerError> {
        let iteration = iteration_of(store);
        StoredRecords::open(&[store.into()])?.scan(
            |record| {
                let StoredRecord {
                    line, trajectory, ..
                } = record;
                self.has(&trajectory, iteration)
                    .then_some((line.len(), trajectory))
            },
            |selected| {
                let Some((bytes, record)) = selected else {
                    return Ok(());
                };
                counts.records += 1;
                counts.bytes += bytes as u64;
                counts.turns += record.turns.len() as u64;
                counts.tokens += record.tokens() as u64;
                if record.branch.is_some() {
                    counts.branches += 1;
                } else {
                    *counts.outcomes.entry(record.outcome.name()).or_default() += 1;
                }
                *counts.policies.entry(record.policy).or_default() += 1;
                *counts.iterations.entry(iteration).or_default() += 1;
                counts.seen_games.insert((record.game_hash, record.game));
                Ok::<(), TrainerError>(())
            },
        )?;
        Ok(())
    }

    /// Passes the lines of the selected records of stores to `take`, in order. Of a compacted store, only frames
    /// with a selected record are decompressed.
    ///
    /// # Errors
    /// If a store cannot be read, or `take` returns an error.
    pub fn lines(
        &self,
        stores: &[PathBuf],
        mut take: impl FnMut(&[u8]) -> Result<(), TrainerError>,
    ) -> Result<usize, TrainerError> {
        let mut selected = 0;
        for store in stores {
            if super::is_compacted(store) {
                for part in CompactedStore::open(store)?.parts() {
                    let places = part.places()?;
                    for row in self.rows(part)? {
                        let (frame, within) = places[row];
                        take(&part.line(frame as usize, within as usize)?)?;
                        selected += 1;
                    }
                }
                continue;
            }
            let iteration = iteration_of(store);
            StoredRecords::open(std::slice::from_ref(store))?.scan(
                |record| {
                    self.has(&record.trajectory, iteration)
                        .then(|| record.line.to_vec())
                },
                |line| {
                    if let Some(line) = line {
                        take(&line)?;
                        selected += 1;
                    }
                    Ok::<(), TrainerError>(())
                },
            )?;
        }
        Ok(selected)
    }
}

/// Keeps a row if its value fulfils a condition.
fn keep(keeps: &mut [bool], values: &[u32], condition: impl Fn(u32) -> bool) {
    for (keep, value) in keeps.iter_mut().zip(values) {
        *keep = *keep && condition(*value);
    }
}

fn tally(values: impl Iterator<Item = u32>) -> BTreeMap<u32, usize> {
    let mut counts = Vec::new();
    for value in values {
        let place = value as usize;
        if place >= counts.len() {
            counts.resize(place + 1, 0_usize);
        }
        counts[place] += 1;
    }
    let counts = (0..).zip(counts);
    counts.filter(|(_, count)| *count > 0).collect()
}
