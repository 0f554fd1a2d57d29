//! The index of a part: one row per record, stored as columns.
//!
//! The file is: the eight bytes `hearth-x`; the length of the header, u64; the header, JSON; the columns, in the
//! order of [`Column::ALL`], each with one number per record; the offsets of the zstd frames, u64, with the end of
//! the last one; and the first eight bytes of the SHA-256 of all of that. Numbers are little-endian.

use crate::error::TrainerError;
use scenarios::{Outcome, Protocol, Split, TaskType, Trajectory};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"hearth-x";

/// The version of the format.
const VERSION: u32 = 1;

/// Longest header that is read, bytes. A part has at most 100 000 games.
const LONGEST_HEADER: u64 = 1 << 28;

/// One number of each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// What makes an episode the same as another: [`identity`], 16 bytes.
    Identity,
    /// [`Trajectory::seed`].
    Seed,
    /// Index of the zstd frame.
    Frame,
    /// Where the line begins in the decompressed frame, bytes.
    Within,
    /// The length of the line with its newline, bytes.
    Length,
    /// Index in [`IndexTables::games`].
    Game,
    /// Index in [`IndexTables::policies`].
    Policy,
    /// Index in [`IndexTables::protocols`].
    Protocol,
    /// Index in [`IndexTables::sources`].
    Source,
    /// The iteration of the loop that played it; 0 if it is not known.
    Iteration,
    /// [`Trajectory::repetition`].
    Repetition,
    /// Number of turns.
    Turns,
    /// Number of tokens.
    Tokens,
    /// The outcome, in the order of [`OUTCOMES`].
    Outcome,
    /// 1 if the record is a branch, else 0.
    Branch,
}

impl Column {
    /// All columns, in the order of the file.
    pub const ALL: [Self; 15] = [
        Self::Identity,
        Self::Seed,
        Self::Frame,
        Self::Within,
        Self::Length,
        Self::Game,
        Self::Policy,
        Self::Protocol,
        Self::Source,
        Self::Iteration,
        Self::Repetition,
        Self::Turns,
        Self::Tokens,
        Self::Outcome,
        Self::Branch,
    ];

    /// Returns the bytes of one number.
    fn width(self) -> usize {
        match self {
            Self::Identity => 16,
            Self::Seed => 8,
            Self::Outcome | Self::Branch => 1,
            _ => 4,
        }
    }
}

/// The outcomes, in the order of their numbers in the index.
pub const OUTCOMES: [Outcome; 5] = [
    Outcome::Success,
    Outcome::Failure,
    Outcome::TurnLimit,
    Outcome::ContextLimit,
    Outcome::EnvFailed,
];

/// A game of the index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexedGame {
    /// [`Trajectory::game`].
    pub game: String,
    /// [`Trajectory::game_hash`].
    pub hash: String,
    /// [`Trajectory::split`].
    pub split: Split,
    /// [`Trajectory::task_type`].
    pub task_type: Option<TaskType>,
}

/// The values that many records share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexTables {
    /// The games.
    pub games: Vec<IndexedGame>,
    /// The policies' hashes or names.
    pub policies: Vec<String>,
    /// How episodes were played.
    pub protocols: Vec<Protocol>,
    /// The files that were compacted, with the folder that they were in.
    pub sources: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct IndexHeader {
    version: u32,
    records: usize,
    frames: usize,
    /// Bytes of the lines before compression.
    bytes: u64,
    tables: IndexTables,
}

/// Returns what makes two records the same: the SHA-256 of game, split, repetition, seed, policy, protocol and
/// place of the branch, cut to 16 bytes.
#[must_use]
pub fn identity(record: &Trajectory) -> [u8; 16] {
    let mut digest = Sha256::new();
    let branch = record
        .branch
        .as_ref()
        .map(|branch| (&branch.source, branch.turn, &branch.policy));
    let key = (
        (&record.game, &record.game_hash, record.split),
        (record.repetition, record.seed),
        (&record.policy, &record.value_policy, &record.protocol),
        branch,
    );
    digest.update(serde_json::to_vec(&key).expect("texts and numbers are JSON"));
    let digest = digest.finalize();
    digest[..16].try_into().expect("a SHA-256 has 32 bytes")
}

/// Where a line is in its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinePlace {
    pub(super) frame: u32,
    pub(super) within: u32,
    pub(super) length: u32,
}

/// What the index holds of a record, before its values are replaced by their places in the tables.
pub(super) struct IndexEntry {
    identity: [u8; 16],
    seed: u64,
    game: IndexedGame,
    policy: String,
    protocol: Protocol,
    repetition: u32,
    turns: u32,
    tokens: u32,
    outcome: u8,
    branch: u8,
}

impl IndexEntry {
    pub(super) fn new(record: &Trajectory) -> Self {
        Self {
            identity: identity(record),
            seed: record.seed,
            game: IndexedGame {
                game: record.game.clone(),
                hash: record.game_hash.clone(),
                split: record.split,
                task_type: record.task_type,
            },
            policy: record.policy.clone(),
            protocol: record.protocol.clone(),
            repetition: saturated(record.repetition),
            turns: saturated(record.turns.len()),
            tokens: saturated(record.tokens()),
            outcome: outcome_number(record.outcome),
            branch: u8::from(record.branch.is_some()),
        }
    }

    pub(super) fn identity(&self) -> [u8; 16] {
        self.identity
    }

    /// Returns turns, tokens and the number of the outcome.
    pub(super) fn numbers(&self) -> (u32, u32, u32) {
        (self.turns, self.tokens, u32::from(self.outcome))
    }
}

fn saturated(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Returns the number of an outcome in the index.
pub(super) fn outcome_number(outcome: Outcome) -> u8 {
    OUTCOMES
        .iter()
        .position(|known| *known == outcome)
        .and_then(|place| place.try_into().ok())
        .expect("all outcomes are listed")
}

/// Builds the index of a part.
pub(super) struct IndexBuilder {
    columns: [Vec<u8>; Column::ALL.len()],
    records: usize,
    bytes: u64,
    games: TableBuilder<IndexedGame, IndexedGame>,
    policies: TableBuilder<String, String>,
    protocols: TableBuilder<String, Protocol>,
    sources: TableBuilder<String, String>,
    frames: Vec<u64>,
}

impl IndexBuilder {
    pub(super) fn new() -> Self {
        Self {
            columns: Default::default(),
            records: 0,
            bytes: 0,
            games: TableBuilder::default(),
            policies: TableBuilder::default(),
            protocols: TableBuilder::default(),
            sources: TableBuilder::default(),
            frames: vec![0],
        }
    }

    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Returns the number of frames that have ended.
    pub(super) fn frames(&self) -> usize {
        self.frames.len() - 1
    }

    /// Returns the bytes of the frames.
    pub(super) fn compressed(&self) -> u64 {
        self.frames[self.frames.len() - 1]
    }

    /// Notes the length of the next frame.
    pub(super) fn end_frame(&mut self, compressed: usize) {
        self.frames.push(self.compressed() + compressed as u64);
    }

    pub(super) fn push(
        &mut self,
        entry: IndexEntry,
        place: LinePlace,
        source: &str,
        iteration: u32,
    ) {
        let protocol = serde_json::to_string(&entry.protocol).expect("a protocol is JSON");
        let protocol = self.protocols.place(protocol, entry.protocol);
        let game = self.games.place(entry.game.clone(), entry.game);
        let policy = self.policies.place(entry.policy.clone(), entry.policy);
        let source = self.sources.place(source.to_owned(), source.to_owned());
        self.records += 1;
        self.bytes += u64::from(place.length);
        for (column, values) in Column::ALL.into_iter().zip(&mut self.columns) {
            match column {
                Column::Identity => values.extend(entry.identity),
                Column::Seed => values.extend(entry.seed.to_le_bytes()),
                Column::Frame => values.extend(place.frame.to_le_bytes()),
                Column::Within => values.extend(place.within.to_le_bytes()),
                Column::Length => values.extend(place.length.to_le_bytes()),
                Column::Game => values.extend(game.to_le_bytes()),
                Column::Policy => values.extend(policy.to_le_bytes()),
                Column::Protocol => values.extend(protocol.to_le_bytes()),
                Column::Source => values.extend(source.to_le_bytes()),
                Column::Iteration => values.extend(iteration.to_le_bytes()),
                Column::Repetition => values.extend(entry.repetition.to_le_bytes()),
                Column::Turns => values.extend(entry.turns.to_le_bytes()),
                Column::Tokens => values.extend(entry.tokens.to_le_bytes()),
                Column::Outcome => values.push(entry.outcome),
                Column::Branch => values.push(entry.branch),
            }
        }
    }

    /// Returns the content of the file.
    pub(super) fn finish(self) -> Vec<u8> {
        let header = IndexHeader {
            version: VERSION,
            records: self.records,
            frames: self.frames(),
            bytes: self.bytes,
            tables: IndexTables {
                games: self.games.values,
                policies: self.policies.values,
                protocols: self.protocols.values,
                sources: self.sources.values,
            },
        };
        let header = serde_json::to_vec(&header).expect("texts and numbers are JSON");
        let mut file = MAGIC.to_vec();
        file.extend((header.len() as u64).to_le_bytes());
        file.extend(header);
        for column in self.columns {
            file.extend(column);
        }
        for offset in self.frames {
            file.extend(offset.to_le_bytes());
        }
        let checksum = checksum(&file);
        file.extend(checksum);
        file
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(bytes);
    digest[..8].try_into().expect("a SHA-256 has 32 bytes")
}

/// The distinct values of a column, in the order in which they first occur.
struct TableBuilder<K, V> {
    places: HashMap<K, u32>,
    values: Vec<V>,
}

impl<K, V> Default for TableBuilder<K, V> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            values: Vec::new(),
        }
    }
}

impl<K: Eq + Hash, V> TableBuilder<K, V> {
    fn place(&mut self, key: K, value: V) -> u32 {
        let next = saturated(self.values.len());
        let place = *self.places.entry(key).or_insert(next);
        if place == next {
            self.values.push(value);
        }
        place
    }
}

/// The index of a part. Columns are read from the file when they are asked for.
#[derive(Debug)]
pub struct PartIndex {
    path: PathBuf,
    header: IndexTables,
    records: usize,
    bytes: u64,
    /// Where the columns begin in the file.
    columns: u64,
    /// The offset of each frame, and the end of the last one.
    frames: Vec<u64>,
}

impl PartIndex {
    /// Opens the index of a part. Reads its header and the offsets of its frames.
    ///
    /// # Errors
    /// If the file cannot be read, is no index, or has another length than its header says.
    pub fn open(path: &Path) -> Result<Self, TrainerError> {
        let mut file = File::open(path).map_err(TrainerError::file(path))?;
        let length = file.metadata().map_err(TrainerError::file(path))?.len();
        let mut start = [0; 16];
        file.read_exact(&mut start)
            .map_err(TrainerError::file(path))?;
        let header_length = u64::from_le_bytes(start[8..].try_into().expect("eight bytes"));
        if &start[..8] != MAGIC || header_length > LONGEST_HEADER || header_length > length {
            return Err(TrainerError::content(path, "is no index of a part"));
        }
        let mut header = vec![0; usize::try_from(header_length).expect("checked above")];
        file.read_exact(&mut header)
            .map_err(TrainerError::file(path))?;
        let header: IndexHeader =
            serde_json::from_slice(&header).map_err(|e| TrainerError::content(path, e))?;
        if header.version != VERSION {
            let reason = format!("unknown version {} of the index", header.version);
            return Err(TrainerError::content(path, reason));
        }
        let columns = 16 + header_length;
        let row: usize = Column::ALL.iter().map(|column| column.width()).sum();
        let rows = (header.records as u64).checked_mul(row as u64);
        let frames = (header.frames as u64)
            .checked_add(1)
            .and_then(|count| count.checked_mul(8));
        let expected = rows.zip(frames).and_then(|(rows, frames)| {
            columns
                .checked_add(rows)?
                .checked_add(frames)?
                .checked_add(8)
        });
        let (Some(rows), true) = (rows, expected == Some(length)) else {
            let reason = format!(
                "has {length} bytes, and its header names {} records\nhint: the file was changed or cut off",
                header.records
            );
            return Err(TrainerError::content(path, reason));
        };
        let mut index = Self {
            path: path.into(),
            header: header.tables,
            records: header.records,
            bytes: header.bytes,
            columns,
            frames: Vec::new(),
        };
        let offsets = index.read_bytes(columns + rows, 8 * (header.frames + 1))?;
        index.frames = numbers(&offsets, u64::from_le_bytes);
        if index.frames[0] != 0 || !index.frames.is_sorted() {
            return Err(TrainerError::content(path, "its frames are not in order"));
        }
        Ok(index)
    }

    /// Returns the number of records.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    /// Returns the bytes of the lines before compression.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the values that the columns name by their places.
    #[must_use]
    pub fn tables(&self) -> &IndexTables {
        &self.header
    }

    /// Returns where each zstd frame begins in the data file, and the end of the last one, bytes.
    #[must_use]
    pub fn frames(&self) -> &[u64] {
        &self.frames
    }

    /// Reads a column of four-byte numbers.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn column(&self, column: Column) -> Result<Vec<u32>, TrainerError> {
        let bytes = self.column_bytes(column)?;
        Ok(match column.width() {
            1 => bytes.into_iter().map(u32::from).collect(),
            _ => numbers(&bytes, u32::from_le_bytes),
        })
    }

    /// Reads the identities.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn identities(&self) -> Result<Vec<[u8; 16]>, TrainerError> {
        Ok(numbers(&self.column_bytes(Column::Identity)?, |bytes| {
            bytes
        }))
    }

    /// Returns whether the checksum at the end of the file is that of its content.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn is_intact(&self) -> Result<bool, TrainerError> {
        let bytes = std::fs::read(&self.path).map_err(TrainerError::file(&self.path))?;
        let (content, end) = bytes.split_at(bytes.len().saturating_sub(8));
        Ok(checksum(content) == end)
    }

    fn column_bytes(&self, column: Column) -> Result<Vec<u8>, TrainerError> {
        let before: usize = Column::ALL
            .iter()
            .take_while(|other| **other != column)
            .map(|other| other.width())
            .sum();
        let start = self.columns + (before * self.records) as u64;
        self.read_bytes(start, column.width() * self.records)
    }

    fn read_bytes(&self, start: u64, length: usize) -> Result<Vec<u8>, TrainerError> {
        let mut bytes = vec![0; length];
        File::open(&self.path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(&mut bytes)
            })
            .map_err(TrainerError::file(&self.path))?;
        Ok(bytes)
    }
}

fn numbers<const WIDTH: usize, T>(bytes: &[u8], number: impl Fn([u8; WIDTH]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<WIDTH>();
    chunks.iter().map(|chunk| number(*chunk)).collect()
}
