//! The episodes of a training job: in memory, or read from their stores when an update needs them.
//!
//! A plan needs only a few numbers of each episode. So a job that reads stores needs memory for these and
//! for the episodes of one update.

use super::batch::{RewardSource, behaviour_logprobs};
use crate::error::TrainerError;
use crate::learn::config::{Algorithm, TrainConfig};
use crate::loss::rejection_sampling;
use crate::store::{RecordPlace, ScanCounts, StoredRecords};
use scenarios::household::is_permuted;
use scenarios::{Outcome, Split, TextVersion, Trajectory};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// How many trajectories a job does not read, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExcludedEpisodes {
    /// The environment failed.
    pub env_failed: usize,
    /// Longer than the context of the model.
    pub too_long: usize,
    /// Without a turn, or with a turn without tokens.
    pub empty: usize,
    /// Failures, if only successes are imitated.
    pub failures: usize,
    /// Without sampling log-probabilities, if the algorithm needs them.
    pub unlogged: usize,
    /// Without the states of their turns, if the algorithm compares states.
    pub stateless: usize,
    /// Failures without process scores, if these are rewards.
    pub unscored: usize,
    /// Nothing to compare with: every episode of the same game ended alike, or the limit of pairs
    /// was reached.
    pub uncompared: usize,
}

impl ExcludedEpisodes {
    /// Returns a sentence with the counts; `None` if nothing is excluded.
    #[must_use]
    pub fn describe(self) -> Option<String> {
        let Self {
            env_failed,
            too_long,
            empty,
            failures,
            unlogged,
            stateless,
            unscored,
            uncompared,
        } = self;
        let counts = [
            (failures, "failures"),
            (env_failed, "whose environment failed"),
            (too_long, "longer than the context"),
            (empty, "without tokens"),
            (
                unlogged,
                "without the log-probabilities that they were sampled with",
            ),
            (stateless, "without the states of their turns"),
            (unscored, "failures without process scores"),
            (
                uncompared,
                "with no episode of the same game to compare with",
            ),
        ];
        let parts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
    }
}

/// Which episodes a job can learn from: those of an algorithm, within the context of a model.
#[derive(Debug, Clone, Copy)]
pub struct Readable<'r> {
    /// The algorithm.
    pub algorithm: &'r Algorithm,
    /// Positions of the model.
    pub context: usize,
}

impl<'r> Readable<'r> {
    /// Returns the rule of a job for a model with `context` positions.
    #[must_use]
    pub fn new(recipe: &'r TrainConfig, context: usize) -> Self {
        Self {
            algorithm: &recipe.algorithm,
            context,
        }
    }

    /// Returns the first reason for which the algorithm cannot learn from the trajectory; `None` if it can.
    fn exclusion(self, trajectory: &Trajectory) -> Option<ExclusionReason> {
        let algorithm = self.algorithm;
        let needs_success = matches!(algorithm, Algorithm::RejectionSampling { .. });
        let needs_logprobs = matches!(algorithm, Algorithm::Grpo { .. } | Algorithm::Gigpo { .. });
        let needs_states = matches!(algorithm, Algorithm::Gigpo { .. });
        let needs_scores = reward_source(algorithm) == RewardSource::WithProcessScores;
        let turns = &trajectory.turns;
        if trajectory.outcome == Outcome::EnvFailed {
            Some(ExclusionReason::EnvFailed)
        } else if turns.is_empty() || turns.iter().any(|turn| turn.completion_tokens.is_empty()) {
            Some(ExclusionReason::Empty)
        } else if trajectory.tokens() > self.context {
            Some(ExclusionReason::TooLong)
        } else if needs_success && !rejection_sampling::is_imitated(trajectory.outcome.reward()) {
            Some(ExclusionReason::Failure)
        } else if needs_logprobs && turns.iter().any(|turn| behaviour_logprobs(turn).is_empty()) {
            Some(ExclusionReason::Unlogged)
        } else if needs_states && turns.iter().any(|turn| turn.state.is_none()) {
            Some(ExclusionReason::Stateless)
        } else if needs_scores
            && !trajectory.is_won()
            && turns.iter().any(|turn| turn.process_score.is_none())
        {
            Some(ExclusionReason::Unscored)
        } else {
            None
        }
    }
}

/// Why a job does not read an episode: the fields of [`ExcludedEpisodes`].
#[derive(Debug, Clone, Copy)]
enum ExclusionReason {
    EnvFailed,
    Empty,
    TooLong,
    Failure,
    Unlogged,
    Stateless,
    Unscored,
}

impl ExcludedEpisodes {
    fn count(&mut self, reason: ExclusionReason) {
        *match reason {
            ExclusionReason::EnvFailed => &mut self.env_failed,
            ExclusionReason::Empty => &mut self.empty,
            ExclusionReason::TooLong => &mut self.too_long,
            ExclusionReason::Failure => &mut self.failures,
            ExclusionReason::Unlogged => &mut self.unlogged,
            ExclusionReason::Stateless => &mut self.stateless,
            ExclusionReason::Unscored => &mut self.unscored,
        } += 1;
    }
}

/// Returns which numbers of a trajectory are rewards.
pub(super) fn reward_source(algorithm: &Algorithm) -> RewardSource {
    match algorithm {
        Algorithm::Dqo {
            process_scores: true,
            ..
        } => RewardSource::WithProcessScores,
        _ => RewardSource::Terminal,
    }
}

/// A game of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct JobGame {
    /// [`Trajectory::game`].
    pub(crate) game: String,
    /// [`Trajectory::game_hash`].
    pub(crate) hash: String,
    /// [`Trajectory::split`].
    pub(crate) split: Split,
}

impl JobGame {
    /// Returns split, hash, and whether the game is a permuted one: what a lineage counts.
    pub(crate) fn lineage_key(&self) -> (Split, &str, bool) {
        (self.split, &self.hash, is_permuted(&self.game))
    }
}

/// What a plan needs to know of an episode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EpisodeRow {
    /// Index in [`Episodes::games`].
    pub(crate) game: u32,
    /// Number of turns.
    pub(crate) turns: u32,
    /// Number of tokens.
    pub(crate) tokens: u32,
    /// Why it ended.
    pub(crate) outcome: Outcome,
    /// The wording of its texts, if they show it.
    pub(crate) text_version: Option<TextVersion>,
    /// Index in the given trajectories, or in the places of the stored ones.
    source: u32,
}

impl EpisodeRow {
    /// Returns the row of an episode, with the game and the source 0.
    fn new(readable: Readable<'_>, trajectory: &Trajectory) -> Result<Self, ExclusionReason> {
        if let Some(reason) = readable.exclusion(trajectory) {
            return Err(reason);
        }
        Ok(Self {
            game: 0,
            turns: u32::try_from(trajectory.turns.len()).unwrap_or(u32::MAX),
            tokens: u32::try_from(trajectory.tokens()).unwrap_or(u32::MAX),
            outcome: trajectory.outcome,
            text_version: TextVersion::of_trajectory(trajectory),
            source: 0,
        })
    }

    /// Returns true if the episode was won.
    pub(crate) fn is_won(&self) -> bool {
        self.outcome == Outcome::Success
    }
}

/// The rows of trajectories that must be in one micro-batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrajectoryGroup {
    /// One trajectory.
    Single(u32),
    /// A pair: won, lost.
    Pair([u32; 2]),
}

impl TrajectoryGroup {
    /// Returns the rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        let rows = match self {
            Self::Single(row) => std::slice::from_ref(row),
            Self::Pair(rows) => &rows[..],
        };
        rows.iter().map(|row| *row as usize)
    }
}

/// A list of rows, whatever their number: the identity of a job contains this text.
impl fmt::Debug for TrajectoryGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rows()).finish()
    }
}

/// The episodes that a job can read, in an order that does not depend on which one finished first.
pub struct Episodes<'a> {
    pub(crate) rows: Vec<EpisodeRow>,
    pub(crate) games: Vec<JobGame>,
    /// Number of episodes, those that cannot be read included.
    pub(crate) given: usize,
    pub(crate) left_out: ExcludedEpisodes,
    /// How many of them are the result of a search in copies of the world.
    pub(crate) searched: usize,
    texts: EpisodeTexts<'a>,
}

enum EpisodeTexts<'a> {
    Memory(&'a [Trajectory]),
    Stored {
        records: &'a StoredRecords,
        prepare: PrepareEpisode<'a>,
        places: Vec<RecordPlace>,
        /// SHA-256 of all episodes, in order, those that cannot be read included.
        digest: [u8; 32],
    },
}

/// Prepares an episode of a store for a job: augmentation and token ids. The result depends on the episode alone.
pub type PrepareEpisode<'a> = &'a (dyn Fn(&mut Trajectory) + Sync);

impl<'a> Episodes<'a> {
    /// Uses trajectories in memory, in their order.
    ///
    /// # Errors
    /// If a trajectory is a branch.
    pub fn in_memory(
        readable: Readable<'_>,
        trajectories: &'a [Trajectory],
    ) -> Result<Self, TrainerError> {
        let mut table = EpisodeTable::default();
        for (place, trajectory) in trajectories.iter().enumerate() {
            trajectory.check_episode().map_err(TrainerError::Data)?;
            table.searched += usize::from(trajectory.protocol.search.is_some());
            match EpisodeRow::new(readable, trajectory) {
                Ok(row) => {
                    let game = table.game(game_of(trajectory));
                    let source = index(place)?;
                    table.rows.push(EpisodeRow {
                        game,
                        source,
                        ..row
                    });
                }
                Err(reason) => table.left_out.count(reason),
            }
        }
        Ok(table.finish(trajectories.len(), EpisodeTexts::Memory(trajectories)))
    }

    /// Reads all episodes of stores once, in the order of game, repetition and seed, and keeps only what a plan
    /// needs of each. Also returns what was read.
    ///
    /// # Errors
    /// If a store cannot be read, or contains a branch.
    pub fn stored(
        readable: Readable<'_>,
        records: &'a StoredRecords,
        prepare: PrepareEpisode<'a>,
    ) -> Result<(Self, ScanCounts), TrainerError> {
        let mut keyed: Vec<SortedEpisode> = Vec::new();
        let mut table = EpisodeTable::default();
        let counts = records.scan(
            |record| {
                let mut trajectory = record.trajectory;
                trajectory.check_episode().map_err(TrainerError::Data)?;
                prepare(&mut trajectory);
                Ok(ScannedEpisode::new(readable, &trajectory, record.place))
            },
            |scanned: Result<ScannedEpisode, TrainerError>| {
                keyed.push(table.add(scanned?));
                Ok::<(), TrainerError>(())
            },
        )?;
        let ranks = table.ranks();
        // The sort is stable: equal keys stay in the order of the stores.
        keyed.sort_by_key(|episode| {
            (
                ranks[episode.game as usize],
                episode.repetition,
                episode.seed,
            )
        });
        let mut places = Vec::new();
        let mut digest = Sha256::new();
        for episode in &keyed {
            digest.update(episode.digest.to_le_bytes());
            if let Some(row) = episode.row {
                let source = index(places.len())?;
                table.rows.push(EpisodeRow { source, ..row });
                places.push(episode.place);
            }
        }
        let given = keyed.len();
        drop(keyed);
        let texts = EpisodeTexts::Stored {
            records,
            prepare,
            places,
            digest: digest.finalize().into(),
        };
        Ok((table.finish(given, texts), counts))
    }

    /// Returns the number of episodes, those that the job cannot read included.
    #[must_use]
    pub fn given(&self) -> usize {
        self.given
    }

    /// Returns how many of them are the result of a search in copies of the world.
    #[must_use]
    pub fn searched(&self) -> usize {
        self.searched
    }

    /// Hashes all episodes, in order, those that cannot be read included.
    pub(crate) fn hash_into(&self, digest: &mut Sha256) {
        match &self.texts {
            EpisodeTexts::Memory(trajectories) => {
                for trajectory in *trajectories {
                    hash_episode(trajectory, digest);
                }
            }
            EpisodeTexts::Stored { digest: of_all, .. } => digest.update(of_all),
        }
    }

    /// Returns the episode of a row.
    ///
    /// # Errors
    /// If its store cannot be read, or has changed since it was scanned.
    pub(crate) fn load(&self, row: usize) -> Result<Cow<'_, Trajectory>, TrainerError> {
        let EpisodeRow {
            source,
            turns,
            tokens,
            ..
        } = self.rows[row];
        match &self.texts {
            EpisodeTexts::Memory(trajectories) => Ok(Cow::Borrowed(&trajectories[source as usize])),
            EpisodeTexts::Stored {
                records,
                prepare,
                places,
                ..
            } => {
                let mut episode = records.read(places[source as usize])?;
                prepare(&mut episode);
                let is_same =
                    episode.turns.len() == turns as usize && episode.tokens() == tokens as usize;
                if is_same {
                    return Ok(Cow::Owned(episode));
                }
                let reason = format!(
                    "the episode of {}, repetition {}, has changed in its store while the job was running",
                    episode.game, episode.repetition
                );
                Err(TrainerError::Data(reason))
            }
        }
    }
}

/// Returns a number as it is stored in a row.
fn index(place: usize) -> Result<u32, TrainerError> {
    u32::try_from(place)
        .map_err(|_| TrainerError::Data("a job can read at most 4 294 967 295 episodes".into()))
}

/// Hashes what a job learns from an episode.
fn hash_episode(trajectory: &Trajectory, digest: &mut Sha256) {
    digest.update(format!(
        "{} {} {:?}",
        trajectory.game_hash, trajectory.repetition, trajectory.outcome
    ));
    for turn in &trajectory.turns {
        for token in turn
            .observation_tokens
            .iter()
            .chain(&turn.completion_tokens)
        {
            digest.update(token.to_le_bytes());
        }
        if let Some(score) = turn.process_score {
            digest.update(score.to_le_bytes());
        }
    }
}

/// An episode of a store, as one thread has read it.
struct ScannedEpisode {
    place: RecordPlace,
    game: JobGame,
    repetition: usize,
    seed: u64,
    digest: u64,
    row: Result<EpisodeRow, ExclusionReason>,
    is_searched: bool,
}

impl ScannedEpisode {
    fn new(readable: Readable<'_>, trajectory: &Trajectory, place: RecordPlace) -> Self {
        let mut digest = Sha256::new();
        hash_episode(trajectory, &mut digest);
        let digest = digest.finalize();
        let first = digest[..8].try_into().expect("a SHA-256 has 32 bytes");
        Self {
            place,
            game: game_of(trajectory),
            repetition: trajectory.repetition,
            seed: trajectory.seed,
            digest: u64::from_le_bytes(first),
            row: EpisodeRow::new(readable, trajectory),
            is_searched: trajectory.protocol.search.is_some(),
        }
    }
}

/// The same, with its game as an index.
struct SortedEpisode {
    place: RecordPlace,
    game: u32,
    repetition: usize,
    seed: u64,
    digest: u64,
    row: Option<EpisodeRow>,
}

fn game_of(trajectory: &Trajectory) -> JobGame {
    JobGame {
        game: trajectory.game.clone(),
        hash: trajectory.game_hash.clone(),
        split: trajectory.split,
    }
}

/// What is known so far of a job's episodes.
#[derive(Default)]
struct EpisodeTable {
    rows: Vec<EpisodeRow>,
    places: HashMap<JobGame, u32>,
    games: Vec<JobGame>,
    left_out: ExcludedEpisodes,
    searched: usize,
}

impl EpisodeTable {
    fn game(&mut self, game: JobGame) -> u32 {
        if let Some(place) = self.places.get(&game) {
            return *place;
        }
        let place = u32::try_from(self.games.len()).expect("fewer games than episodes");
        self.games.push(game.clone());
        self.places.insert(game, place);
        place
    }

    /// Adds an episode that another thread has read.
    fn add(&mut self, scanned: ScannedEpisode) -> SortedEpisode {
        let ScannedEpisode {
            place,
            game,
            repetition,
            seed,
            digest,
            row,
            is_searched,
        } = scanned;
        self.searched += usize::from(is_searched);
        let row = row.inspect_err(|reason| self.left_out.count(*reason)).ok();
        let game = self.game(game);
        SortedEpisode {
            place,
            game,
            repetition,
            seed,
            digest,
            row: row.map(|row| EpisodeRow { game, ..row }),
        }
    }

    /// Returns the place of each game in the order of their ids. Games with the same id have the same place.
    fn ranks(&self) -> Vec<usize> {
        let mut ids: Vec<&str> = self.games.iter().map(|game| game.game.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        self.games
            .iter()
            .map(|game| ids.partition_point(|id| *id < game.game.as_str()))
            .collect()
    }

    fn finish(self, given: usize, texts: EpisodeTexts<'_>) -> Episodes<'_> {
        Episodes {
            rows: self.rows,
            games: self.games,
            given,
            left_out: self.left_out,
            searched: self.searched,
            texts,
        }
    }
}
