//! Logged episodes as rows that the trainers of others load.
//!
//! Episodes that were lost to their world, and those without a turn, are never rows. What else is left out is asked for by
//! [`Options`]; all of it is counted.

use super::chat::{self, About, Message, OpenAi, Role, ShareGpt};
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

/// The form of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
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
    /// For verl's `MultiTurnSFTDataset`; Parquet.
    VerlSft,
    /// For verl's `RLHFDataset`: a row a game; Parquet.
    VerlRl,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ShareGpt,
        Self::OpenAi,
        Self::TrlSft,
        Self::TrlDpo,
        Self::TrlKto,
        Self::VerlSft,
        Self::VerlRl,
    ];

    /// As it is written in flags.
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

    /// Whether whoever learns from it imitates every row.
    #[must_use]
    pub fn is_imitated(self) -> bool {
        matches!(self, Self::TrlSft | Self::VerlSft)
    }
}

impl FromStr for Format {
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
pub struct Options {
    /// Leaves out episodes that were not won.
    pub won_only: bool,
    /// The splits to keep; empty = all.
    pub splits: Vec<Split>,
    /// The system message; `None` = what the protocol of each episode says.
    pub instructions: Option<String>,
    /// Most pairs of a game.
    pub pairs: usize,
    /// Seed of the pairs.
    pub seed: u64,
}

/// What became of the episodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// That were read.
    pub episodes: usize,
    /// In the file.
    pub rows: usize,
    /// Episodes in the file, or counted in its rows, that were not won.
    pub not_won: usize,
    /// Episodes that are not there, and why.
    pub left_out: LeftOut,
}

/// Episodes that did not become rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Lost to their world, or to a server.
    pub lost: usize,
    /// Without a turn.
    pub empty: usize,
    /// Not of the splits that were asked for.
    pub other_split: usize,
    /// Not won, where only won ones were asked for.
    pub not_won: usize,
    /// In no pair: all of their game ended alike, or it has enough pairs.
    pub unpaired: usize,
}

/// An export in progress.
pub struct Export {
    format: Format,
    options: Options,
    sink: Sink,
    counts: Counts,
    /// Of pairs: the episodes so far.
    to_pair: Vec<ToPair>,
    /// Of games: the rows so far, and by hash and id where they stand.
    games: Vec<verl::Rl>,
    places: HashMap<(String, String), usize>,
}

#[cfg(feature = "parquet")]
fn parquet(format: Format, path: &Path) -> Result<Sink, TrainerError> {
    let schema = match format {
        Format::VerlRl => super::verl_schema::rl_schema(),
        _ => super::verl_schema::sft_schema(),
    };
    Sink::parquet(path, schema)
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: Format, _: &Path) -> Result<Sink, TrainerError> {
    let reason = "verl reads Parquet, and this hearth is built without the feature `parquet`\n\
                  hint: cargo build --release --features parquet";
    Err(TrainerError::Data(reason.into()))
}

struct ToPair {
    game: usize,
    won: bool,
    messages: Vec<Message>,
}

impl Export {
    /// Begins a file.
    ///
    /// # Errors
    /// When something stands there already, or it cannot be made.
    pub fn create(format: Format, options: Options, path: &Path) -> Result<Self, TrainerError> {
        let sink = match format {
            Format::VerlSft | Format::VerlRl => parquet(format, path)?,
            _ => Sink::json(path)?,
        };
        let (to_pair, games) = (Vec::new(), Vec::new());
        Ok(Self {
            format,
            options,
            sink,
            counts: Counts::default(),
            to_pair,
            games,
            places: HashMap::new(),
        })
    }

    /// Takes an episode: writes its row, or keeps what a later row needs of it.
    ///
    /// # Errors
    /// When the row cannot be written.
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
            Format::ShareGpt => sink.write(&ShareGpt::new(episode, &messages)),
            Format::OpenAi => sink.write(&OpenAi {
                messages: &messages,
                about: About::new(episode),
            }),
            Format::TrlSft => sink.write(&trl::Sft {
                messages: &messages,
            }),
            Format::TrlKto => sink.write(&trl::Kto::new(&messages, won)),
            Format::VerlSft => sink.write(&verl::Sft::new(sink.rows(), episode, &messages)),
            Format::TrlDpo => {
                let game = self.game_of(episode);
                self.to_pair.push(ToPair {
                    game,
                    won,
                    messages,
                });
                Ok(())
            }
            Format::VerlRl => {
                self.count_game(episode, messages);
                Ok(())
            }
        }
    }

    /// The count of those that are left out for the same reason; `None` for an episode that is kept.
    fn left_out(&mut self, episode: &Trajectory) -> Option<&mut usize> {
        let Self {
            options,
            counts: Counts { left_out, .. },
            ..
        } = self;
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

    /// A number for each game, in the order in which they first occur.
    fn game_of(&mut self, episode: &Trajectory) -> usize {
        let next = self.places.len();
        *self
            .places
            .entry((episode.game_hash.clone(), episode.game.clone()))
            .or_insert(next)
    }

    fn count_game(&mut self, episode: &Trajectory, mut messages: Vec<Message>) {
        let place = self.game_of(episode);
        match self.games.get_mut(place) {
            Some(row) => row.count(episode),
            None => {
                let opening = messages
                    .iter()
                    .position(|message| message.role == Role::Assistant);
                messages.truncate(opening.unwrap_or(messages.len()));
                self.games.push(verl::Rl::new(place, episode, messages));
            }
        }
    }

    /// Writes the rows that needed all episodes, and gives the file its name.
    ///
    /// # Errors
    /// When the file cannot be written to its end.
    pub fn finish(mut self) -> Result<Counts, TrainerError> {
        self.write_pairs()?;
        for row in &self.games {
            self.sink.write(row)?;
        }
        Ok(Counts {
            rows: self.sink.finish()?,
            ..self.counts
        })
    }

    fn write_pairs(&mut self) -> Result<(), TrainerError> {
        self.to_pair
            .shuffle(&mut StdRng::seed_from_u64(self.options.seed));
        self.to_pair.sort_by_key(|episode| episode.game); // stable: shuffled within each game
        let outcomes: Vec<(usize, bool)> =
            self.to_pair.iter().map(|one| (one.game, one.won)).collect();
        let mut is_paired = vec![false; outcomes.len()];
        for [won, lost] in dpo::pairs(&outcomes, self.options.pairs) {
            if let Some(row) =
                trl::Dpo::new(&self.to_pair[won].messages, &self.to_pair[lost].messages)
            {
                self.sink.write(&row)?;
                (is_paired[won], is_paired[lost]) = (true, true);
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
