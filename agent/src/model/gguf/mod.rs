//! Reads GGUF files, versions 2 and 3, little endian: the header, and tensors as f32, one at a time
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! A file comes from a stranger. Whatever it claims is held against its length before memory is taken, and refused with
//! the file, the byte and the cause. Nothing is mapped: the header is read once, a tensor's data when asked for, some
//! blocks at a time, straight into f32.
//!
//! This file knows the container alone. [`blocks`] turns quantised blocks into numbers, [`hugging_face`] gives names,
//! shapes and `config.json`, [`vocabulary`] makes the `tokenizer.json`.

pub mod blocks;
pub mod hugging_face;
pub mod vocabulary;

use crate::error::AgentError;
use crate::files;
use blocks::Format;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Most bytes a header may take; the largest vocabularies in use need 16 MB.
const LONGEST_HEADER: u64 = 128 << 20;
/// Most metadata values, and most tensors; models in use have some thousands.
const MOST_ENTRIES: u64 = 1 << 16;
/// Most bytes a metadata key may take, as the format says.
const LONGEST_KEY: u64 = 65_535;
/// Most bytes a tensor's name may take, as the format says.
const LONGEST_NAME: u64 = 64;
/// Most dimensions of a tensor, as the format says.
const MOST_DIMENSIONS: u32 = 4;
/// Largest alignment of tensor data; 32 is what writers use.
const LARGEST_ALIGNMENT: u64 = 1 << 20;
/// Bytes of tensor data read at once.
const CHUNK: usize = 1 << 16;

/// An open GGUF file: its header in memory, its tensors on disk.
#[derive(Debug)]
pub struct GgufFile<R = File> {
    path: PathBuf,
    reader: R,
    version: u32,
    metadata: BTreeMap<String, MetadataValue>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// One number or truth value.
    Number(Number),
    /// A text.
    Text(String),
    /// An array of numbers or truth values.
    Numbers(Numbers),
    /// An array of texts.
    Texts(Vec<String>),
}

/// A number or truth value of the metadata, integers widened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Of 8, 16, 32 or 64 bits.
    Unsigned(u64),
    /// Of 8, 16, 32 or 64 bits.
    Signed(i64),
    /// Of 32 bits.
    Single(f32),
    /// Of 64 bits.
    Double(f64),
    /// One byte, 0 or 1.
    Bool(bool),
}

/// An array of numbers, in the bytes of the file: as small in memory as on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    kind: NumberKind,
    bytes: Vec<u8>,
}

/// The eleven number types of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

/// Where and what a tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes, outermost first: the file's own order reversed. None is 0.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub format: Format,
    /// Numbers in it: the product of the shape.
    pub elements: usize,
    /// First byte, from the start of the file.
    start: u64,
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When the file cannot be read, or its header is damaged, claims what the file does not hold, or uses a tensor
    /// type that is not read here.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        Self::from_reader(path, files::open(path)?.0)
    }
}

impl<R: Read + Seek> GgufFile<R> {
    /// Reads the header from anything that holds a GGUF file; `path` is for messages.
    pub(crate) fn from_reader(path: &Path, mut reader: R) -> Result<Self, AgentError> {
        let file_error = |source| AgentError::File {
            path: path.into(),
            source,
        };
        let length = reader.seek(SeekFrom::End(0)).map_err(file_error)?;
        reader.seek(SeekFrom::Start(0)).map_err(file_error)?;
        let mut header = Header {
            path,
            reader: BufReader::new(reader),
            position: 0,
            length,
        };
        let version = header.opening()?;
        let tensor_count = header.entries("tensors", 8 + 4 + 8 + 4 + 8)?;
        let value_count = header.entries("metadata values", 8 + 4 + 1)?;
        let metadata = header.metadata(value_count)?;
        let claims = header.tensor_claims(tensor_count)?;
        let tensors = header.placed(claims, header.alignment(&metadata)?)?;
        Ok(Self {
            path: path.into(),
            reader: header.reader.into_inner(),
            version,
            metadata,
            tensors,
        })
    }

    /// The numbers of a tensor, row-major.
    ///
    /// # Errors
    /// When there is no such tensor, the file cannot be read, or the memory cannot be had.
    pub fn tensor(&mut self, name: &str) -> Result<Vec<f32>, AgentError> {
        let elements = self.info(name)?.elements;
        let mut numbers = Vec::new();
        numbers
            .try_reserve_exact(elements)
            .map_err(|e| self.content(format!("tensor {name}: {e}")))?;
        numbers.resize(elements, 0.0);
        self.tensor_into(name, &mut numbers)?;
        Ok(numbers)
    }

    /// Writes the numbers of a tensor, row-major, into `out`, reading the file block by block.
    ///
    /// # Errors
    /// When there is no such tensor, `out` has another length than the tensor, or the file cannot be read.
    pub fn tensor_into(&mut self, name: &str, out: &mut [f32]) -> Result<(), AgentError> {
        let info = self.info(name)?.clone();
        if out.len() != info.elements {
            return Err(self.content(format!(
                "tensor {name}: {} numbers for a place of {}",
                info.elements,
                out.len()
            )));
        }
        let (block, block_bytes) = (info.format.block_elements(), info.format.block_bytes());
        let blocks_at_once = CHUNK / block_bytes;
        let mut raw = vec![0; blocks_at_once * block_bytes];
        let file_error = |source| AgentError::File {
            path: self.path.clone(),
            source,
        };
        self.reader
            .seek(SeekFrom::Start(info.start))
            .map_err(file_error)?;
        for numbers in out.chunks_mut(blocks_at_once * block) {
            let bytes = &mut raw[..numbers.len() / block * block_bytes];
            self.reader.read_exact(bytes).map_err(file_error)?;
            info.format.dequantize(bytes, numbers);
        }
        Ok(())
    }
}

impl<R> GgufFile<R> {
    /// The format's version: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata by key.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, MetadataValue> {
        &self.metadata
    }

    /// All tensors by the file's own names.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, AgentError> {
        self.tensors
            .get(name)
            .ok_or_else(|| self.content(format!("there is no tensor {name}")))
    }

    fn content(&self, reason: impl Into<String>) -> AgentError {
        AgentError::Content {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    fn wrong_type(&self, key: &str, wanted: &str) -> AgentError {
        self.content(format!("metadata {key} is not {wanted}"))
    }

    fn text(&self, key: &str) -> Result<Option<&str>, AgentError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(MetadataValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_type(key, "a text")),
        }
    }

    fn texts(&self, key: &str) -> Result<Option<&[String]>, AgentError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(MetadataValue::Texts(texts)) => Ok(Some(texts)),
            Some(_) => Err(self.wrong_type(key, "an array of texts")),
        }
    }

    fn numbers(&self, key: &str) -> Result<Option<&Numbers>, AgentError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(MetadataValue::Numbers(numbers)) => Ok(Some(numbers)),
            Some(_) => Err(self.wrong_type(key, "an array of numbers")),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, AgentError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(MetadataValue::Number(Number::Bool(flag))) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong_type(key, "a truth value")),
        }
    }

    /// A whole number from 0 to 2³² − 1.
    fn size(&self, key: &str) -> Result<Option<usize>, AgentError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let MetadataValue::Number(number) = value else {
            return Err(self.wrong_type(key, "a whole number"));
        };
        let size = number
            .integer()
            .and_then(|integer| u32::try_from(integer).ok());
        let size = size.and_then(|size| usize::try_from(size).ok());
        size.map(Some)
            .ok_or_else(|| self.wrong_type(key, "a whole number from 0 to 4294967295"))
    }

    /// A finite number above 0. A single is read as its shortest decimal, which is what the original configuration
    /// said: 1e-5, not 9.999999747378752e-6.
    fn positive(&self, key: &str) -> Result<Option<f64>, AgentError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let number = match value {
            MetadataValue::Number(Number::Single(single)) => shortest(*single),
            MetadataValue::Number(Number::Double(double)) => *double,
            _ => return Err(self.wrong_type(key, "a number")),
        };
        if !number.is_finite() || number <= 0.0 {
            return Err(self.content(format!(
                "metadata {key} is {number}, not a finite number above 0"
            )));
        }
        Ok(Some(number))
    }
}

/// The double with the shortest decimal that rounds to this single.
fn shortest(single: f32) -> f64 {
    single.to_string().parse().unwrap_or(f64::from(single))
}

impl Number {
    /// The value, where it is an integer.
    fn integer(self) -> Option<i64> {
        match self {
            Self::Unsigned(number) => i64::try_from(number).ok(),
            Self::Signed(number) => Some(number),
            _ => None,
        }
    }
}

impl Numbers {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.bytes()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The numbers in order.
    pub fn iter(&self) -> impl Iterator<Item = Number> {
        self.bytes
            .chunks_exact(self.kind.bytes())
            .map(|bytes| self.kind.decode(bytes))
    }
}

impl NumberKind {
    fn of(code: u32) -> Option<Self> {
        use NumberKind::{Bool, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        Some(match code {
            0 => U8,
            1 => I8,
            2 => U16,
            3 => I16,
            4 => U32,
            5 => I32,
            6 => F32,
            7 => Bool,
            10 => U64,
            11 => I64,
            12 => F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The number in that many little-endian bytes.
    fn decode(self, bytes: &[u8]) -> Number {
        let mut wide = [0; 8];
        let width = bytes.len().min(8);
        wide[..width].copy_from_slice(&bytes[..width]);
        let unsigned = u64::from_le_bytes(wide);
        let [b0, b1, b2, b3, ..] = wide;
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Number::Unsigned(unsigned),
            Self::I8 => Number::Signed(i8::from_le_bytes([b0]).into()),
            Self::I16 => Number::Signed(i16::from_le_bytes([b0, b1]).into()),
            Self::I32 => Number::Signed(i32::from_le_bytes([b0, b1, b2, b3]).into()),
            Self::I64 => Number::Signed(i64::from_le_bytes(wide)),
            Self::F32 => Number::Single(f32::from_le_bytes([b0, b1, b2, b3])),
            Self::F64 => Number::Double(f64::from_le_bytes(wide)),
            Self::Bool => Number::Bool(b0 != 0),
        }
    }
}

/// The header while it is read: every step is held against the file's length.
struct Header<'a, R> {
    path: &'a Path,
    reader: BufReader<R>,
    position: u64,
    length: u64,
}

/// What the header says of a tensor, its place not yet checked.
struct Claim {
    name: String,
    shape: Vec<usize>,
    format: Format,
    elements: u64,
    bytes: u64,
    offset: u64,
}

impl<R: Read> Header<'_, R> {
    /// Refuses what was just read.
    fn refuse(&self, reason: impl std::fmt::Display) -> AgentError {
        self.refuse_whole(format!("byte {}: {reason}", self.position))
    }

    /// Refuses for a reason that has no one place.
    fn refuse_whole(&self, reason: String) -> AgentError {
        AgentError::Content {
            path: self.path.into(),
            reason,
        }
    }

    /// Refuses to go on where `bytes` more are not there.
    fn demand(&self, what: &str, bytes: u64) -> Result<(), AgentError> {
        let left = self.length.saturating_sub(self.position);
        if bytes > left {
            return Err(self.refuse(format!(
                "{what} needs {bytes} bytes, the file has {left} more"
            )));
        }
        let left = LONGEST_HEADER.saturating_sub(self.position);
        if bytes > left {
            return Err(self.refuse(format!(
                "{what} needs {bytes} bytes, a header may have {left} more"
            )));
        }
        Ok(())
    }

    fn fill(&mut self, what: &str, bytes: &mut [u8]) -> Result<(), AgentError> {
        let length = bytes.len() as u64;
        self.demand(what, length)?;
        self.reader
            .read_exact(bytes)
            .map_err(|source| AgentError::File {
                path: self.path.into(),
                source,
            })?;
        self.position += length;
        Ok(())
    }

    fn u32(&mut self, what: &str) -> Result<u32, AgentError> {
        let mut bytes = [0; 4];
        self.fill(what, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self, what: &str) -> Result<u64, AgentError> {
        let mut bytes = [0; 8];
        self.fill(what, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn bytes(&mut self, what: &str, length: u64) -> Result<Vec<u8>, AgentError> {
        self.demand(what, length)?;
        let size = usize::try_from(length).map_err(|e| self.refuse(format!("{what}: {e}")))?;
        let mut bytes = vec![0; size];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self, what: &str, longest: u64) -> Result<String, AgentError> {
        let length = self.u64(what)?;
        if length > longest {
            return Err(self.refuse(format!("{what} of {length} bytes, {longest} are allowed")));
        }
        let bytes = self.bytes(what, length)?;
        String::from_utf8(bytes).map_err(|e| self.refuse(format!("{what} is not UTF-8: {e}")))
    }

    /// How many things of at least `least` bytes follow; more than the file has room for are refused.
    fn count(&mut self, what: &str, least: u64) -> Result<u64, AgentError> {
        let count = self.u64(what)?;
        match count.checked_mul(least) {
            Some(bytes) => self.demand(&format!("a count of {count} {what}"), bytes)?,
            None => return Err(self.refuse(format!("a count of {count} {what}"))),
        }
        Ok(count)
    }

    fn entries(&mut self, what: &str, least: u64) -> Result<u64, AgentError> {
        match self.count(what, least)? {
            count if count > MOST_ENTRIES => {
                Err(self.refuse(format!("{count} {what}, {MOST_ENTRIES} are allowed")))
            }
            count => Ok(count),
        }
    }

    /// Magic and version.
    fn opening(&mut self) -> Result<u32, AgentError> {
        let mut magic = [0; 4];
        self.fill("the magic", &mut magic)?;
        if &magic != b"GGUF" {
            return Err(self.refuse(format!(
                "not a GGUF file: it begins with \"{}\"",
                magic.escape_ascii()
            )));
        }
        match self.u32("the version")? {
            version @ (2 | 3) => Ok(version),
            version if matches!(version.swap_bytes(), 1..=3) => {
                Err(self.refuse("the file is big endian; only little endian is read"))
            }
            version => Err(self.refuse(format!("version {version}; only 2 and 3 are read"))),
        }
    }

    fn metadata(&mut self, count: u64) -> Result<BTreeMap<String, MetadataValue>, AgentError> {
        let mut metadata = BTreeMap::new();
        for _ in 0..count {
            let key = self.text("a metadata key", LONGEST_KEY)?;
            let value = self.value(&key)?;
            if metadata.contains_key(&key) {
                return Err(self.refuse(format!("metadata {key} stands twice")));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str) -> Result<MetadataValue, AgentError> {
        match self.u32(key)? {
            8 => Ok(MetadataValue::Text(self.text(key, u64::MAX)?)),
            9 => self.array(key),
            code => {
                let kind = self.number_kind(key, code)?;
                let bytes = self.checked_numbers(key, kind, 1)?;
                Ok(MetadataValue::Number(kind.decode(&bytes)))
            }
        }
    }

    fn array(&mut self, key: &str) -> Result<MetadataValue, AgentError> {
        match self.u32(key)? {
            8 => {
                let count = self.count(key, 8)?;
                // Three times the bytes that the count was held against.
                let mut texts = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
                for _ in 0..count {
                    texts.push(self.text(key, u64::MAX)?);
                }
                Ok(MetadataValue::Texts(texts))
            }
            9 => Err(self.refuse(format!("metadata {key} is an array of arrays"))),
            code => {
                let kind = self.number_kind(key, code)?;
                let count = self.count(key, kind.bytes() as u64)?;
                let bytes = self.checked_numbers(key, kind, count)?;
                Ok(MetadataValue::Numbers(Numbers { kind, bytes }))
            }
        }
    }

    fn number_kind(&self, key: &str, code: u32) -> Result<NumberKind, AgentError> {
        NumberKind::of(code)
            .ok_or_else(|| self.refuse(format!("metadata {key} has the unknown type {code}")))
    }

    fn checked_numbers(
        &mut self,
        key: &str,
        kind: NumberKind,
        count: u64,
    ) -> Result<Vec<u8>, AgentError> {
        let length = count
            .checked_mul(kind.bytes() as u64)
            .ok_or_else(|| self.refuse(format!("{key} overflows")))?;
        let bytes = self.bytes(key, length)?;
        match bytes
            .iter()
            .find(|byte| kind == NumberKind::Bool && **byte > 1)
        {
            Some(byte) => {
                Err(self.refuse(format!("metadata {key} holds {byte} for a truth value")))
            }
            None => Ok(bytes),
        }
    }

    fn tensor_claims(&mut self, count: u64) -> Result<Vec<Claim>, AgentError> {
        (0..count).map(|_| self.tensor_claim()).collect()
    }

    fn tensor_claim(&mut self) -> Result<Claim, AgentError> {
        let name = self.text("a tensor's name", LONGEST_NAME)?;
        let shape = self.shape(&name)?;
        let code = self.u32(&name)?;
        let format = Format::of(code).ok_or_else(|| {
            self.refuse(format!(
                "tensor {name} is {}, which is not read",
                blocks::name(code)
            ))
        })?;
        let offset = self.u64(&name)?;
        let overflow = || self.refuse(format!("tensor {name} {shape:?} overflows"));
        let elements = shape
            .iter()
            .try_fold(1_u64, |product, size| product.checked_mul(*size))
            .ok_or_else(overflow)?;
        let (row, block) = (shape[0], format.block_elements() as u64);
        if !row.is_multiple_of(block) {
            return Err(self.refuse(format!(
                "tensor {name}: {format:?} has blocks of {block}, a row has {row}"
            )));
        }
        let bytes = (elements / block)
            .checked_mul(format.block_bytes() as u64)
            .ok_or_else(overflow)?;
        let shape = shape
            .iter()
            .rev()
            .map(|size| usize::try_from(*size).ok())
            .collect::<Option<_>>();
        Ok(Claim {
            shape: shape.ok_or_else(overflow)?,
            name,
            format,
            elements,
            bytes,
            offset,
        })
    }

    /// Sizes in the file's order, innermost first.
    fn shape(&mut self, name: &str) -> Result<Vec<u64>, AgentError> {
        let dimensions = self.u32(name)?;
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            let range = format!("1 to {MOST_DIMENSIONS} are allowed");
            return Err(self.refuse(format!(
                "tensor {name} has {dimensions} dimensions, {range}"
            )));
        }
        let shape = (0..dimensions)
            .map(|_| self.u64(name))
            .collect::<Result<Vec<_>, _>>()?;
        if shape.contains(&0) {
            return Err(self.refuse(format!("tensor {name} {shape:?} is empty")));
        }
        Ok(shape)
    }

    /// Bytes to whose multiples tensor data is aligned.
    fn alignment(&self, metadata: &BTreeMap<String, MetadataValue>) -> Result<u64, AgentError> {
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(MetadataValue::Number(Number::Unsigned(alignment))) => *alignment,
            Some(_) => {
                return Err(
                    self.refuse_whole("metadata general.alignment is not a whole number".into())
                );
            }
        };
        if !alignment.is_power_of_two() || !(8..=LARGEST_ALIGNMENT).contains(&alignment) {
            let range = format!("not a power of two from 8 to {LARGEST_ALIGNMENT}");
            return Err(self.refuse_whole(format!(
                "metadata general.alignment is {alignment}, {range}"
            )));
        }
        Ok(alignment)
    }

    /// The tensors, each at its place: aligned, inside the file, apart from the others.
    fn placed(
        &self,
        mut claims: Vec<Claim>,
        alignment: u64,
    ) -> Result<BTreeMap<String, TensorInfo>, AgentError> {
        let data = self.position.next_multiple_of(alignment);
        claims.sort_by_key(|claim| claim.offset);
        let mut tensors = BTreeMap::new();
        let mut free = data;
        for Claim {
            name,
            shape,
            format,
            elements,
            bytes,
            offset,
        } in claims
        {
            let refuse = |reason: String| {
                Err(self.refuse_whole(format!("tensor {name} at offset {offset} {reason}")))
            };
            if !offset.is_multiple_of(alignment) {
                return refuse(format!("is not aligned to {alignment}"));
            }
            let range = data
                .checked_add(offset)
                .and_then(|start| Some((start, start.checked_add(bytes)?)));
            let Some((start, end)) = range.filter(|(_, end)| *end <= self.length) else {
                return refuse(format!(
                    "takes {bytes} bytes, past the end of the file ({} bytes)",
                    self.length
                ));
            };
            if start < free {
                return refuse("begins inside another tensor".into());
            }
            let Ok(elements) = usize::try_from(elements) else {
                return refuse("is too large".into());
            };
            if tensors.contains_key(&name) {
                return refuse("stands twice".into());
            }
            free = end;
            tensors.insert(
                name,
                TensorInfo {
                    shape,
                    format,
                    elements,
                    start,
                },
            );
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// Writes small GGUF files.
    #[derive(Clone)]
    pub(super) struct Writer {
        pub(super) values: Vec<(String, Vec<u8>)>,
        pub(super) tensors: Vec<WrittenTensor>,
    }

    /// Sizes stand in the file's order, innermost first.
    #[derive(Clone)]
    pub(super) struct WrittenTensor {
        pub(super) name: String,
        pub(super) sizes: Vec<u64>,
        pub(super) code: u32,
        pub(super) data: Vec<u8>,
    }

    pub(super) fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    pub(super) fn text_value(value: &str) -> Vec<u8> {
        [8_u32.to_le_bytes().to_vec(), text(value)].concat()
    }

    pub(super) fn u32_value(value: u32) -> Vec<u8> {
        [4_u32.to_le_bytes(), value.to_le_bytes()].concat()
    }

    pub(super) fn f32_value(value: f32) -> Vec<u8> {
        [6_u32.to_le_bytes(), value.to_le_bytes()].concat()
    }

    pub(super) fn bool_value(value: bool) -> Vec<u8> {
        [&7_u32.to_le_bytes()[..], &[u8::from(value)]].concat()
    }

    pub(super) fn array_value(code: u32, items: &[Vec<u8>]) -> Vec<u8> {
        let count = (items.len() as u64).to_le_bytes().to_vec();
        [
            9_u32.to_le_bytes().to_vec(),
            code.to_le_bytes().to_vec(),
            count,
            items.concat(),
        ]
        .concat()
    }

    pub(super) fn texts_value<T: AsRef<str>>(items: &[T]) -> Vec<u8> {
        array_value(
            8,
            &items
                .iter()
                .map(|item| text(item.as_ref()))
                .collect::<Vec<_>>(),
        )
    }

    pub(super) fn i32s_value(items: &[i32]) -> Vec<u8> {
        array_value(
            5,
            &items
                .iter()
                .map(|item| item.to_le_bytes().to_vec())
                .collect::<Vec<_>>(),
        )
    }

    pub(super) fn f32s_value(items: &[f32]) -> Vec<u8> {
        array_value(
            6,
            &items
                .iter()
                .map(|item| item.to_le_bytes().to_vec())
                .collect::<Vec<_>>(),
        )
    }

    impl Writer {
        pub(super) fn new(values: &[(&str, Vec<u8>)]) -> Self {
            let values = values
                .iter()
                .map(|(key, value)| ((*key).to_string(), value.clone()))
                .collect();
            Self {
                values,
                tensors: vec![],
            }
        }

        pub(super) fn set(mut self, key: &str, value: Vec<u8>) -> Self {
            self.values.retain(|(known, _)| known != key);
            self.values.push((key.into(), value));
            self
        }

        /// Adds an f32 tensor whose numbers are 0, 1, 2, …
        pub(super) fn counting(mut self, name: &str, sizes: &[u64]) -> Self {
            let data = (0..sizes.iter().product::<u64>())
                .flat_map(|i| (i as f32).to_le_bytes())
                .collect();
            self.tensors.push(WrittenTensor {
                name: name.into(),
                sizes: sizes.into(),
                code: 0,
                data,
            });
            self
        }

        pub(super) fn bytes(&self) -> Vec<u8> {
            let mut offsets = vec![0];
            for tensor in &self.tensors {
                offsets.push(
                    offsets[offsets.len() - 1] + tensor.data.len().next_multiple_of(32) as u64,
                );
            }
            self.bytes_with(3, &offsets)
        }

        fn bytes_with(&self, version: u32, offsets: &[u64]) -> Vec<u8> {
            let mut bytes = [&b"GGUF"[..], &version.to_le_bytes()].concat();
            bytes.extend((self.tensors.len() as u64).to_le_bytes());
            bytes.extend((self.values.len() as u64).to_le_bytes());
            for (key, value) in &self.values {
                bytes.extend([&text(key)[..], value].concat());
            }
            for (tensor, offset) in self.tensors.iter().zip(offsets) {
                bytes.extend(text(&tensor.name));
                bytes.extend((tensor.sizes.len() as u32).to_le_bytes());
                tensor
                    .sizes
                    .iter()
                    .for_each(|size| bytes.extend(size.to_le_bytes()));
                bytes.extend(tensor.code.to_le_bytes());
                bytes.extend(offset.to_le_bytes());
            }
            let data = bytes.len().next_multiple_of(32);
            for (tensor, offset) in self.tensors.iter().zip(offsets) {
                bytes.resize(bytes.len().max(data + *offset as usize), 0);
                bytes.extend(&tensor.data);
            }
            bytes
        }

        pub(super) fn open(&self) -> GgufFile<Cursor<Vec<u8>>> {
            open(self.bytes()).unwrap()
        }
    }

    pub(super) fn open(bytes: Vec<u8>) -> Result<GgufFile<Cursor<Vec<u8>>>, AgentError> {
        GgufFile::from_reader(Path::new("model.gguf"), Cursor::new(bytes))
    }

    fn refusal(bytes: Vec<u8>) -> String {
        let error = open(bytes).expect_err("refused");
        assert!(matches!(error, AgentError::Content { .. }), "{error}");
        error.to_string()
    }

    fn sample() -> Writer {
        let q8_0 = WrittenTensor {
            name: "q".into(),
            sizes: vec![32, 2],
            code: 8,
            data: vec![1; 68],
        };
        let mut writer = Writer::new(&[
            ("general.architecture", text_value("llama")),
            ("a.size", u32_value(7)),
        ]);
        writer.tensors.push(q8_0);
        writer
            .set("a.texts", texts_value(&["x", ""]))
            .counting("f", &[3, 2])
    }

    /// Whatever can be asked of a file; only panics matter.
    pub(super) fn ask_everything(bytes: Vec<u8>) {
        let Ok(mut file) = open(bytes) else { return };
        let _ = (
            file.config(),
            file.rope_factors(),
            file.special_tokens(),
            file.tokenizer(),
        );
        let names: Vec<String> = file.tensors().keys().cloned().collect();
        names.iter().for_each(|name| drop(file.tensor(name)));
        for tensor in file.hf_tensors().unwrap_or_default() {
            let _ = file.hf_tensor(&tensor);
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let scalars: [(&str, u32, &[u8], Number); 11] = [
            ("u8", 0, &[200], Number::Unsigned(200)),
            ("i8", 1, &[200], Number::Signed(-56)),
            ("u16", 2, &[1, 2], Number::Unsigned(513)),
            ("i16", 3, &[0, 255], Number::Signed(-256)),
            ("u32", 4, &[255; 4], Number::Unsigned(u32::MAX.into())),
            ("i32", 5, &[255; 4], Number::Signed(-1)),
            ("f32", 6, &1.5_f32.to_le_bytes(), Number::Single(1.5)),
            ("bool", 7, &[1], Number::Bool(true)),
            ("u64", 10, &[255; 8], Number::Unsigned(u64::MAX)),
            (
                "i64",
                11,
                &[254, 255, 255, 255, 255, 255, 255, 255],
                Number::Signed(-2),
            ),
            ("f64", 12, &0.1_f64.to_le_bytes(), Number::Double(0.1)),
        ];
        let mut writer = sample();
        for (key, code, bytes, _) in scalars {
            writer = writer.set(key, [&code.to_le_bytes()[..], bytes].concat());
            writer = writer.set(
                &format!("{key}s"),
                array_value(code, &[bytes.to_vec(), bytes.to_vec()]),
            );
        }
        let mut file = writer.open();
        for (key, _, _, number) in scalars {
            assert_eq!(file.metadata()[key], MetadataValue::Number(number));
            let MetadataValue::Numbers(numbers) = &file.metadata()[&format!("{key}s")] else {
                panic!("{key}s")
            };
            assert_eq!(
                (numbers.len(), numbers.iter().collect::<Vec<_>>()),
                (2, vec![number; 2])
            );
        }
        assert_eq!(
            file.metadata()["a.texts"],
            MetadataValue::Texts(vec!["x".into(), String::new()])
        );
        assert_eq!((file.version(), file.tensors().len()), (3, 2));
        assert_eq!(file.tensors()["f"].shape, [2, 3], "outermost first");
        assert_eq!(file.tensor("f").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let scale = half::f16::from_le_bytes([1, 1]).to_f32();
        assert_eq!(file.tensor("q").unwrap(), [scale; 64]);
        assert_eq!(open(writer.bytes_with(2, &[0, 96])).unwrap().version(), 2);
    }

    #[test]
    fn a_file_on_disk_is_read_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let writer = sample().counting("long", &[1000, 1000]);
        std::fs::write(&path, writer.bytes()).unwrap();
        let mut file = GgufFile::open(&path).unwrap();
        let expected: Vec<f32> = (0..1_000_000).map(|i| i as f32).collect();
        assert_eq!(file.tensor("long").unwrap(), expected);
        let error = file
            .tensor_into("long", &mut [0.0; 3])
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("tensor long: 1000000 numbers for a place of 3"),
            "{error}"
        );
        assert!(
            file.tensor("short")
                .unwrap_err()
                .to_string()
                .ends_with("there is no tensor short")
        );
        std::fs::write(&path, &writer.bytes()[..3000]).unwrap();
        assert!(
            matches!(file.tensor("long"), Err(AgentError::File { .. })),
            "cut off while open"
        );
        assert!(matches!(
            GgufFile::open(&folder.path().join("none")),
            Err(AgentError::File { .. })
        ));
    }

    #[test]
    fn damaged_beginnings_are_refused() {
        let start = |place: usize, bytes: &[u8]| {
            let mut whole = sample().bytes();
            whole[place..place + bytes.len()].copy_from_slice(bytes);
            refusal(whole)
        };
        for (place, bytes, reason) in [
            (
                0,
                &b"GGML"[..],
                "byte 4: not a GGUF file: it begins with \"GGML\"",
            ),
            (4, &[1, 0, 0, 0], "byte 8: version 1; only 2 and 3 are read"),
            (4, &[4, 0, 0, 0], "byte 8: version 4; only 2 and 3 are read"),
            (
                4,
                &[0, 0, 0, 3],
                "byte 8: the file is big endian; only little endian is read",
            ),
            (
                8,
                &[255; 8],
                "byte 16: a count of 18446744073709551615 tensors",
            ),
            (
                8,
                &[20, 0, 0, 0],
                "byte 16: a count of 20 tensors needs 640 bytes, the file has 328 more",
            ),
            (
                16,
                &[200, 0, 0, 0],
                "byte 24: a count of 200 metadata values needs 2600 bytes, the file has 320 more",
            ),
            (
                24,
                &[255; 8],
                "byte 32: a metadata key of 18446744073709551615 bytes, 65535 are allowed",
            ),
            (
                24,
                &[0, 8, 0, 0],
                "byte 32: a metadata key needs 2048 bytes, the file has 312 more",
            ),
            (32, &[255], "byte 52: a metadata key is not UTF-8"),
            (
                52,
                &[13],
                "byte 56: metadata general.architecture has the unknown type 13",
            ),
            (
                56,
                &[255; 8],
                "byte 64: general.architecture needs 18446744073709551615 bytes, the file has 280 more",
            ),
        ] {
            let error = start(place, bytes);
            assert!(
                error.starts_with(&format!("model.gguf: {reason}")),
                "{error}"
            );
        }
    }

    #[test]
    fn values_that_claim_too_much_are_refused() {
        let nested = array_value(9, &[]);
        let long = [
            &9_u32.to_le_bytes()[..],
            &4_u32.to_le_bytes(),
            &(1_u64 << 62).to_le_bytes(),
        ]
        .concat();
        let texts = [
            &9_u32.to_le_bytes()[..],
            &8_u32.to_le_bytes(),
            &1000_u64.to_le_bytes(),
        ]
        .concat();
        for (value, reason) in [
            (nested, "metadata x is an array of arrays"),
            (long, "a count of 4611686018427387904 x"),
            (texts, "a count of 1000 x needs 8000 bytes, the file has "),
            (array_value(99, &[]), "metadata x has the unknown type 99"),
            (vec![7, 0, 0, 0, 7], "metadata x holds 7 for a truth value"),
            (
                array_value(7, &[vec![1], vec![2]]),
                "metadata x holds 2 for a truth value",
            ),
            (
                array_value(8, &[vec![1, 0, 0, 0, 0, 0, 0, 0, 0xC3]]),
                "x is not UTF-8",
            ),
        ] {
            let error = refusal(sample().set("x", value).bytes());
            assert!(error.contains(reason), "{error}");
        }
        let mut twice = sample();
        twice.values.push(twice.values[0].clone());
        assert!(refusal(twice.bytes()).ends_with("metadata general.architecture stands twice"));
    }

    #[test]
    fn tensors_that_cannot_be_are_refused() {
        let tensor = |sizes: &[u64], code: u32| {
            let mut writer = sample();
            writer.tensors[1] = WrittenTensor {
                name: "t".into(),
                sizes: sizes.into(),
                code,
                data: vec![0; 64],
            };
            refusal(writer.bytes())
        };
        for (sizes, code, reason) in [
            (&[][..], 0, "tensor t has 0 dimensions, 1 to 4 are allowed"),
            (&[1; 5], 0, "tensor t has 5 dimensions, 1 to 4 are allowed"),
            (&[2, 0], 0, "tensor t [2, 0] is empty"),
            (
                &[1 << 40, 1 << 40],
                0,
                "tensor t [1099511627776, 1099511627776] overflows",
            ),
            (&[1 << 62], 0, "overflows"),
            (&[48], 8, "tensor t: Q8_0 has blocks of 32, a row has 48"),
            (
                &[32, 8],
                12,
                "tensor t: Q4_K has blocks of 256, a row has 32",
            ),
            (&[256], 10, "tensor t is of type Q2_K, which is not read"),
            (
                &[256],
                999,
                "tensor t is of the unknown type 999, which is not read",
            ),
            (
                &[17],
                0,
                "tensor t at offset 96 takes 68 bytes, past the end of the file (",
            ),
            (&[1 << 61], 0, "past the end of the file ("),
        ] {
            let error = tensor(sizes, code);
            assert!(error.contains(reason), "{error}");
        }
        for (offsets, reason) in [
            (
                [0, 64],
                "tensor f at offset 64 begins inside another tensor",
            ),
            (
                [32, 32],
                "tensor f at offset 32 begins inside another tensor",
            ),
            ([0, 100], "tensor f at offset 100 is not aligned to 32"),
        ] {
            let error = refusal(sample().bytes_with(3, &offsets));
            assert!(error.ends_with(reason), "{error}");
        }
        let mut twice = sample();
        twice.tensors[1].name = "q".into();
        assert!(refusal(twice.bytes()).ends_with("tensor q at offset 96 stands twice"));
        twice.tensors[1].name = "q".repeat(65);
        assert!(refusal(twice.bytes()).ends_with("a tensor's name of 65 bytes, 64 are allowed"));
    }

    #[test]
    fn offsets_at_the_end_of_numbers_are_refused() {
        let whole = sample().bytes();
        let place = whole.len() - 24 - 96 - 32;
        let offset = whole[..place + 32]
            .windows(8)
            .rposition(|bytes| bytes == 96_u64.to_le_bytes())
            .unwrap();
        for claim in [u64::MAX, u64::MAX - 31, 1 << 63, 1 << 40] {
            let mut bytes = whole.clone();
            bytes[offset..offset + 8].copy_from_slice(&claim.to_le_bytes());
            assert!(refusal(bytes).contains(&format!("tensor f at offset {claim}")));
        }
    }

    #[test]
    fn alignments_are_powers_of_two() {
        for alignment in [0, 4, 24, 1 << 21, u32::MAX] {
            let error = refusal(
                sample()
                    .set("general.alignment", u32_value(alignment))
                    .bytes(),
            );
            assert!(
                error.contains(&format!(
                    "general.alignment is {alignment}, not a power of two"
                )),
                "{error}"
            );
        }
        assert!(open(sample().set("general.alignment", u32_value(8)).bytes()).is_ok());
        let error = refusal(sample().set("general.alignment", text_value("32")).bytes());
        assert!(
            error.ends_with("metadata general.alignment is not a whole number"),
            "{error}"
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        for seed in seeds() {
            (0..seed.len())
                .for_each(|length| assert!(open(seed[..length].to_vec()).is_err(), "{length}"));
        }
    }

    #[test]
    fn every_byte_may_be_wrong() {
        for seed in seeds() {
            for place in (0..seed.len()).step_by(1 + seed.len() / 1000) {
                for flip in [0x01, 0x80, seed[place]] {
                    let mut bytes = seed.clone();
                    bytes[place] ^= flip;
                    ask_everything(bytes);
                }
            }
        }
    }

    #[test]
    fn singles_are_read_as_their_shortest_decimal() {
        let file = sample()
            .set("x", f32_value(1e-5))
            .set("y", f32_value(f32::NAN))
            .open();
        assert_eq!(file.positive("x").unwrap(), Some(1e-5));
        assert!(
            file.positive("y")
                .unwrap_err()
                .to_string()
                .ends_with("metadata y is NaN, not a finite number above 0")
        );
    }

    fn seeds() -> [Vec<u8>; 4] {
        let model = |architecture| hugging_face::tests::model(architecture).bytes();
        [
            sample().bytes(),
            model("llama"),
            vocabulary::tests::byte_level().bytes(),
            vocabulary::tests::pieces().bytes(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn many_bytes_may_be_wrong(
            seed in 0..4_usize,
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = seeds()[seed].clone();
            for (place, value) in flips {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            ask_everything(bytes.clone());
            bytes.truncate(cut.index(bytes.len()));
            ask_everything(bytes);
        }
    }
}
