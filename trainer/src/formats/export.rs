//! Writes logged episodes as rows that other trainers load.
//!
//! If the environment failed in an episode, or if the episode has no turn, it never becomes a row.
//! [`ExportOptions`] can omit more episodes. All omitted episodes are counted.

use super::chat::{self, ChatMessage, ChatRole, EpisodeColumns, OpenAi, ShareGpt};
use super::sink::Sink;
use super::{trl, verl};
use crate::error::TrainerError;
use crate::loss::dpo;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scenarios::{Outcome, Split, Trajectory};
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;

/// The format of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// `conversations` of `from` and `value`.
    ShareGpt,
    /// `messages` of `role` and `content`.
    OpenAi,
    /// For TRL's `SFTTrainer`.
    TrlSft,
    /// For TRL's `DPOTrainer`: pairs of a won and a lost episode of one game.
    TrlDpo,
    /// For TRL's `KTOTrainer`.
    TrlKto,
    /// For verl's `MultiTurnSFTDataset`, as Parquet.
    VerlSft,
    /// For verl's `RLHFDataset`, as Parquet with one row per game.
    VerlRl,
}

impl ExportFormat {
    /// All formats.
    pub const ALL: [Self; 7] = [
        Self::ShareGpt,
        Self::OpenAi,
        Self::TrlSft,
        Self::TrlDpo,
        Self::TrlKto,
        Self::VerlSft,
        Self::VerlRl,
    ];

    /// Returns the name in flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ShareGpt => "sharegpt",
            Self::OpenAi => "openai",
            Self::TrlSft => "trl-sft",
            Self::TrlDpo => "trl-dpo",
            Self::TrlKto => "trl-kto",
            Self::VerlSft => "verl-sft",
            Self::VerlRl => "verl-rl",
        }
    }

    /// Returns whether a trainer that loads this format imitates every row.
    #[must_use]
    pub fn is_imitated(self) -> bool {
        matches!(self, Self::TrlSft | Self::VerlSft)
    }
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| format!("unknown format {name:?}; known: {known}"))
    }
}

/// Which episodes become rows, and what is added to them.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// If true, episodes that were not won are omitted.
    pub won_only: bool,
    /// The splits to include. If the list is empty, all splits are included.
    pub splits: Vec<Split>,
    /// The system message. If `None`, it is that of each episode's protocol.
    pub instructions: Option<String>,
    /// Maximum number of pairs per game.
    pub pairs: usize,
    /// Seed of the choice of pairs.
    pub seed: u64,
}

/// The number of episodes that were read, written and omitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExportCounts {
    /// Number of episodes that were read.
    pub episodes: usize,
    /// Number of rows in the file.
    pub rows: usize,
    /// Number of episodes in the file, or counted in its rows, that were not won.
    pub not_won: usize,
    /// Number of omitted episodes by reason.
    pub left_out: LeftOut,
}

/// The number of episodes that did not become rows, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The environment or a server failed.
    pub lost: usize,
    /// The episode has no turn.
    pub empty: usize,
    /// The split is not among those in [`ExportOptions::splits`].
    pub other_split: usize,
    /// The episode was not won, and [`ExportOptions::won_only`] is set.
    pub not_won: usize,
    /// The episode is in no pair: all episodes of its game were won or none was, or the game has its
    /// maximum number of pairs.
    pub unpaired: usize,
}

/// An export in progress.
pub struct Export {
    format: ExportFormat,
    options: ExportOptions,
    sink: Sink,
    counts: ExportCounts,
    /// The episodes read so far, if the rows are pairs.
    to_pair: Vec<EpisodeToPair>,
    /// The rows so far, if the rows are games.
    games: Vec<verl::VerlRlRow>,
    /// The index of each game by hash and id.
    places: HashMap<(String, String), usize>,
}

struct EpisodeToPair {
    game: usize,
    won: bool,
    messages: Vec<ChatMessage>,
}

impl Export {
    /// Creates the file.
    ///
    /// # Errors
    /// If the file exists already, or if it cannot be created.
    pub fn create(
        format: ExportFormat,
        options: ExportOptions,
        path: &Path,
    ) -> Result<Self, TrainerError> {
        let sink = match format {
            ExportFormat::VerlSft | ExportFormat::VerlRl => parquet(format, path)?,
            _ => Sink::json(path)?,
        };
        Ok(Self {
            format,
            options,
            sink,
            counts: ExportCounts::default(),
            to_pair: Vec::new(),
            games: Vec::new(),
            places: HashMap::new(),
        })
    }

    /// Adds an episode: writes its row, or keeps what a later row needs.
    ///
    /// # Errors
    /// If the row cannot be written.
    pub fn add(&mut self, episode: &Trajectory) -> Result<(), TrainerError> {
        self.counts.episodes += 1;
        if let Some(count) = self.left_out(episode) {
            *count += 1;
            return Ok(());
        }
        let won = episode.is_won();
        self.counts.not_won += usize::from(!won);
        let messages = chat::messages(episode, self.options.instructions.as_deref());
        let sink = &mut self.sink;
        match self.format {
            ExportFormat::ShareGpt => sink.write(&ShareGpt::new(episode, &messages)),
            ExportFormat::OpenAi => sink.write(&OpenAi {
                messages: &messages,
                about: EpisodeColumns::new(episode),
            }),
            ExportFormat::TrlSft => sink.write(&trl::TrlSftRow {
                messages: &messages,
            }),
            ExportFormat::TrlKto => sink.write(&trl::TrlKtoRow::new(&messages, won)),
            ExportFormat::VerlSft => {
                sink.write(&verl::VerlSftRow::new(sink.rows(), episode, &messages))
            }
            ExportFormat::TrlDpo => {
                let game = self.game_of(episode);
                self.to_pair.push(EpisodeToPair {
                    game,
                    won,
                    messages,
                });
                Ok(())
            }
            ExportFormat::VerlRl => {
                self.count_game(episode, messages);
                Ok(())
            }
        }
    }

    /// Returns the count of episodes that are omitted for the same reason as this one, or `None` if
    /// the episode is kept.
    fn left_out(&mut self, episode: &Trajectory) -> Option<&mut usize> {
        let options = &self.options;
        let left_out = &mut self.counts.left_out;
        if episode.outcome == Outcome::EnvFailed {
            Some(&mut left_out.lost)
        } else if !options.splits.is_empty() && !options.splits.contains(&episode.split) {
            Some(&mut left_out.other_split)
        } else if episode.turns.is_empty() {
            Some(&mut left_out.empty)
        } else if options.won_only && !episode.is_won() {
            Some(&mut left_out.not_won)
        } else {
            None
        }
    }

    /// Returns the index of an episode's game, in the order in which the games first occur.
    fn game_of(&mut self, episode: &Trajectory) -> usize {
        let next = self.places.len();
        *self
            .places
            .entry((episode.game_hash.clone(), episode.game.clone()))
            .or_insert(next)
    }

    fn count_game(&mut self, episode: &Trajectory, mut messages: Vec<ChatMessage>) {
        let place = self.game_of(episode);
        match self.games.get_mut(place) {
            Some(row) => row.count(episode),
            None => {
                let first_completion = messages
                    .iter()
                    .position(|message| message.role == ChatRole::Assistant);
                messages.truncate(first_completion.unwrap_or(messages.len()));
                self.games
                    .push(verl::VerlRlRow::new(place, episode, messages));
            }
        }
    }

    /// Writes the rows that need all episodes, and renames the temporary file to its name.
    ///
    /// # Errors
    /// If the file cannot be written completely.
    pub fn finish(mut self) -> Result<ExportCounts, TrainerError> {
        self.write_pairs()?;
        for row in &self.games {
            self.sink.write(row)?;
        }
        Ok(ExportCounts {
            rows: self.sink.finish()?,
            ..self.counts
        })
    }

    fn write_pairs(&mut self) -> Result<(), TrainerError> {
        self.to_pair
            .shuffle(&mut StdRng::seed_from_u64(self.options.seed));
        // The sort is stable, so the episodes stay shuffled within each game.
        self.to_pair.sort_by_key(|episode| episode.game);
        let outcomes: Vec<(usize, bool)> =
            self.to_pair.iter().map(|one| (one.game, one.won)).collect();
        let mut is_paired = vec![false; outcomes.len()];
        for [won, lost] in dpo::pairs(&outcomes, self.options.pairs) {
            if let Some(row) =
                trl::TrlDpoRow::new(&self.to_pair[won].messages, &self.to_pair[lost].messages)
            {
                self.sink.write(&row)?;
                is_paired[won] = true;
                is_paired[lost] = true;
            }
        }
        let unpaired = self
            .to_pair
            .iter()
            .zip(&is_paired)
            .filter(|(_, is_paired)| !**is_paired);
        self.counts.left_out.unpaired = unpaired.clone().count();
        self.counts.not_won -= unpaired.filter(|(one, _)| !one.won).count();
        Ok(())
    }
}

#[cfg(feature = "parquet")]
fn parquet(format: ExportFormat, path: &Path) -> Result<Sink, TrainerError> {
    let schema = match format {
        ExportFormat::VerlRl => super::verl_schema::rl_schema(),
        _ => super::verl_schema::sft_schema(),
    };
    Sink::parquet(path, schema)
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: ExportFormat, path: &Path) -> Result<Sink, TrainerError> {
    let reason = "verl reads Parquet, and this hearth is built without the feature `parquet`\n\
                  hint: cargo build --release --features parquet";
    Err(TrainerError::content(path, reason))
}
