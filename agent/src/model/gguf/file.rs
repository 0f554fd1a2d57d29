//! An open GGUF file: typed metadata, and tensors as f32, one at a time.

use super::header::{GgufHeader, TensorInfo};
use super::metadata::{MetadataNumber, MetadataValue, NumberArray, shortest};
use crate::error::AgentError;
use crate::files;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes of tensor data read at once.
const CHUNK: usize = 1 << 16;

/// An open GGUF file: its header in memory, its tensors on disk.
#[derive(Debug)]
pub struct GgufFile<R = File> {
    path: PathBuf,
    reader: R,
    version: u32,
    pub(super) metadata: BTreeMap<String, MetadataValue>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// If the file cannot be read, or if its header is damaged, claims what the file does not
    /// contain, or uses a tensor type that is not supported.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        Self::from_reader(path, files::open(path)?.0)
    }
}

impl<R: Read + Seek> GgufFile<R> {
    /// Reads the header from anything that contains a GGUF file. `path` is only used in errors.
    pub(crate) fn from_reader(path: &Path, mut reader: R) -> Result<Self, AgentError> {
        let length = reader
            .seek(SeekFrom::End(0))
            .and_then(|length| reader.seek(SeekFrom::Start(0)).map(|_| length))
            .map_err(|source| AgentError::File {
                path: path.into(),
                source,
            })?;
        let header = GgufHeader::read(path, &mut reader, length)?;
        Ok(Self {
            path: path.into(),
            reader,
            version: header.version,
            metadata: header.metadata,
            tensors: header.tensors,
        })
    }

    /// The numbers of a tensor, row-major.
    ///
    /// # Errors
    /// If there is no such tensor, the file cannot be read, or the memory cannot be allocated.
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

    /// Writes the numbers of a tensor, row-major, into `out`. The file is read some blocks at a time.
    ///
    /// # Errors
    /// If there is no such tensor, `out` has another length than the tensor, or the file cannot be
    /// read.
    pub fn tensor_into(&mut self, name: &str, out: &mut [f32]) -> Result<(), AgentError> {
        let info = self.info(name)?.clone();
        if out.len() != info.elements {
            return Err(self.content(format!(
                "tensor {name} has {} numbers, the buffer has room for {}",
                info.elements,
                out.len()
            )));
        }
        let block = info.format.block_elements();
        let block_bytes = info.format.block_bytes();
        let blocks_at_once = CHUNK / block_bytes;
        let mut raw = vec![0; blocks_at_once * block_bytes];
        self.seek(info.start)?;
        for numbers in out.chunks_mut(blocks_at_once * block) {
            let bytes = &mut raw[..numbers.len() / block * block_bytes];
            self.fill(bytes)?;
            info.format.dequantize(bytes, numbers);
        }
        Ok(())
    }

    fn seek(&mut self, start: u64) -> Result<(), AgentError> {
        let sought = self.reader.seek(SeekFrom::Start(start));
        sought.map(drop).map_err(|source| self.unreadable(source))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), AgentError> {
        let read = self.reader.read_exact(bytes);
        read.map_err(|source| self.unreadable(source))
    }
}

impl<R> GgufFile<R> {
    /// The format's version: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata, by key.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, MetadataValue> {
        &self.metadata
    }

    /// All tensors, by the file's own names.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn unreadable(&self, source: std::io::Error) -> AgentError {
        AgentError::File {
            path: self.path.clone(),
            source,
        }
    }

    pub(super) fn info(&self, name: &str) -> Result<&TensorInfo, AgentError> {
        self.tensors
            .get(name)
            .ok_or_else(|| self.content(format!("there is no tensor {name}")))
    }

    pub(super) fn content(&self, reason: impl Into<String>) -> AgentError {
        AgentError::Content {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    pub(super) fn wrong_type(&self, key: &str, wanted: &str) -> AgentError {
        self.content(format!("metadata {key} is not {wanted}"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, AgentError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(MetadataValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_type(key, "a text")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&[String]>, AgentError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(MetadataValue::Texts(texts)) => Ok(Some(texts)),
            Some(_) => Err(self.wrong_type(key, "an array of texts")),
        }
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<&NumberArray>, AgentError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(MetadataValue::Numbers(numbers)) => Ok(Some(numbers)),
            Some(_) => Err(self.wrong_type(key, "an array of numbers")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, AgentError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(MetadataValue::Number(MetadataNumber::Bool(flag))) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong_type(key, "a truth value")),
        }
    }

    /// A whole number from 0 to 2³² − 1.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, AgentError> {
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

    /// A finite number above 0. A single is read as its shortest decimal, because that is what the
    /// original configuration had: 1e-5, not 9.999999747378752e-6.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, AgentError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let number = match value {
            MetadataValue::Number(MetadataNumber::Single(single)) => shortest(*single),
            MetadataValue::Number(MetadataNumber::Double(double)) => *double,
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
