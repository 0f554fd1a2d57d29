//! Reads the header of a GGUF file and checks every claim in it against the file's length.

use super::blocks::{self, TensorFormat};
use super::metadata::{MetadataNumber, MetadataValue, NumberArray, NumberKind};
use crate::error::AgentError;
use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::Path;

/// Most bytes of a header. The largest vocabularies in use need 16 MB.
const LONGEST_HEADER: u64 = 128 << 20;
/// Most metadata values, and most tensors. Models in use have some thousands.
const MOST_ENTRIES: u64 = 1 << 16;
/// Most bytes of a metadata key (a limit of the format).
const LONGEST_KEY: u64 = 65_535;
/// Most bytes of a tensor's name (a limit of the format).
const LONGEST_NAME: u64 = 64;
/// Most dimensions of a tensor (a limit of the format).
const MOST_DIMENSIONS: u32 = 4;
/// Largest alignment of tensor data. Writers use 32.
const LARGEST_ALIGNMENT: u64 = 1 << 20;

/// The checked header of a file.
pub(super) struct GgufHeader {
    /// The format's version: 2 or 3.
    pub(super) version: u32,
    pub(super) metadata: BTreeMap<String, MetadataValue>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

/// Place, shape and format of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes, outermost first (the file has them innermost first). None of them is 0.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub format: TensorFormat,
    /// The number of its elements: the product of the shape.
    pub elements: usize,
    /// First byte of its data, from the start of the file.
    pub(super) start: u64,
}

impl GgufHeader {
    /// Reads the header from the start of a file of `length` bytes. `path` is only used in errors.
    pub(super) fn read(path: &Path, reader: impl Read, length: u64) -> Result<Self, AgentError> {
        let mut header = HeaderReader {
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
            version,
            metadata,
            tensors,
        })
    }
}

/// Reads a header; each read is checked against the file's length before memory is allocated.
struct HeaderReader<'a, R> {
    path: &'a Path,
    reader: BufReader<R>,
    position: u64,
    length: u64,
}

/// What the header claims about a tensor. Its place is not yet checked.
struct TensorClaim {
    name: String,
    shape: Vec<usize>,
    format: TensorFormat,
    elements: u64,
    bytes: u64,
    offset: u64,
}

impl<R: Read> HeaderReader<'_, R> {
    /// The error for what was just read.
    fn refuse(&self, reason: impl std::fmt::Display) -> AgentError {
        self.refuse_whole(format!("byte {}: {reason}", self.position))
    }

    /// The error for a reason that does not belong to one byte.
    fn refuse_whole(&self, reason: String) -> AgentError {
        AgentError::Content {
            path: self.path.into(),
            reason,
        }
    }

    /// Returns an error if the file, or the limit of a header, has fewer than `bytes` bytes left.
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

    /// Reads how many things of at least `least` bytes follow; an error if the file has no room for
    /// them.
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

    /// Reads the magic and the version; returns the version.
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
                Err(self.refuse("the file is big endian; only little endian is supported"))
            }
            version => Err(self.refuse(format!("version {version}; only 2 and 3 are supported"))),
        }
    }

    fn metadata(&mut self, count: u64) -> Result<BTreeMap<String, MetadataValue>, AgentError> {
        let mut metadata = BTreeMap::new();
        for _ in 0..count {
            let key = self.text("a metadata key", LONGEST_KEY)?;
            let value = self.value(&key)?;
            if metadata.contains_key(&key) {
                return Err(self.refuse(format!("metadata {key} is defined twice")));
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
                // Takes three times the bytes that the count was checked against.
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
                Ok(MetadataValue::Numbers(NumberArray::new(kind, bytes)))
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
        let wrong = bytes
            .iter()
            .find(|byte| kind == NumberKind::Bool && **byte > 1);
        match wrong {
            Some(byte) => Err(self.refuse(format!("metadata {key} has {byte} for a truth value"))),
            None => Ok(bytes),
        }
    }

    fn tensor_claims(&mut self, count: u64) -> Result<Vec<TensorClaim>, AgentError> {
        (0..count).map(|_| self.tensor_claim()).collect()
    }

    fn tensor_claim(&mut self) -> Result<TensorClaim, AgentError> {
        let name = self.text("a tensor's name", LONGEST_NAME)?;
        let shape = self.shape(&name)?;
        let code = self.u32(&name)?;
        let format = TensorFormat::of(code).ok_or_else(|| {
            self.refuse(format!(
                "tensor {name} is {}, which is not supported\nhint: quantise the model to one of {}",
                blocks::name(code),
                blocks::READABLE
            ))
        })?;
        let offset = self.u64(&name)?;
        let overflow = format!("tensor {name} {shape:?} overflows");
        let elements = shape
            .iter()
            .try_fold(1_u64, |product, size| product.checked_mul(*size))
            .ok_or_else(|| self.refuse(&overflow))?;
        let row = shape[0];
        let block = format.block_elements() as u64;
        if !row.is_multiple_of(block) {
            return Err(self.refuse(format!(
                "tensor {name}: {format:?} has blocks of {block}, a row has {row}"
            )));
        }
        let bytes = (elements / block)
            .checked_mul(format.block_bytes() as u64)
            .ok_or_else(|| self.refuse(&overflow))?;
        let shape = shape
            .iter()
            .rev()
            .map(|size| usize::try_from(*size).ok())
            .collect::<Option<_>>();
        Ok(TensorClaim {
            shape: shape.ok_or_else(|| self.refuse(&overflow))?,
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

    /// The alignment of tensor data in bytes.
    fn alignment(&self, metadata: &BTreeMap<String, MetadataValue>) -> Result<u64, AgentError> {
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(MetadataValue::Number(MetadataNumber::Unsigned(alignment))) => *alignment,
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

    fn misplaced(&self, name: &str, offset: u64, reason: &str) -> AgentError {
        self.refuse_whole(format!("tensor {name} at offset {offset} {reason}"))
    }

    /// The tensors with their places. Each must be aligned, inside the file, and apart from the
    /// others.
    fn placed(
        &self,
        mut claims: Vec<TensorClaim>,
        alignment: u64,
    ) -> Result<BTreeMap<String, TensorInfo>, AgentError> {
        let data = self.position.next_multiple_of(alignment);
        claims.sort_by_key(|claim| claim.offset);
        let mut tensors = BTreeMap::new();
        let mut free = data;
        for TensorClaim {
            name,
            shape,
            format,
            elements,
            bytes,
            offset,
        } in claims
        {
            if !offset.is_multiple_of(alignment) {
                let reason = format!("is not aligned to {alignment}");
                return Err(self.misplaced(&name, offset, &reason));
            }
            let range = data
                .checked_add(offset)
                .and_then(|start| Some((start, start.checked_add(bytes)?)));
            let Some((start, end)) = range.filter(|(_, end)| *end <= self.length) else {
                let reason = format!(
                    "takes {bytes} bytes, past the end of the file ({} bytes)",
                    self.length
                );
                return Err(self.misplaced(&name, offset, &reason));
            };
            if start < free {
                return Err(self.misplaced(&name, offset, "begins inside another tensor"));
            }
            let Ok(elements) = usize::try_from(elements) else {
                return Err(self.misplaced(&name, offset, "is too large"));
            };
            if tensors.contains_key(&name) {
                return Err(self.misplaced(&name, offset, "is defined twice"));
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
