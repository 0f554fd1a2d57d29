//! The header of a safetensors file.
//!
//! It is checked before the file's tensors take memory, because the file may come from a stranger.

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt::Formatter;
use std::io::Read;

/// The most bytes of a header. Some thousand tensors need a tenth of it.
const HEADER_LIMIT: u64 = 8 << 20;

/// The header of a safetensors file.
pub(super) struct SafetensorsHeader {
    /// The byte of the file at which the data begins.
    pub(super) data_start: u64,
    /// Names and descriptions of the tensors in the order of their data, which has no gaps.
    pub(super) tensors: Vec<(String, TensorInfo)>,
}

impl SafetensorsHeader {
    /// Reads the header of a file of `length` bytes.
    ///
    /// # Errors
    /// If the header is damaged, larger than the file or than the limit, defines a tensor twice, or
    /// describes data that overlaps, has gaps, or does not fit the shapes.
    pub(super) fn read(file: &mut impl Read, length: u64) -> Result<Self, String> {
        let mut size = [0; 8];
        file.read_exact(&mut size)
            .map_err(|_| "is too short for a safetensors file".to_string())?;
        let size = u64::from_le_bytes(size);
        if size > HEADER_LIMIT || size > length.saturating_sub(8) {
            return Err(format!(
                "claims a header of {size} bytes, but the file has {length} bytes, and a header may have {HEADER_LIMIT}"
            ));
        }
        let mut bytes = Vec::new();
        file.take(size)
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        let TensorInfos(tensors) =
            serde_json::from_slice(&bytes).map_err(|error| format!("its header: {error}"))?;
        let mut tensors: Vec<(String, TensorInfo)> = tensors.into_iter().collect();
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        // This refuses tensors that overlap, leave gaps, or have another size than their shape
        // needs.
        Metadata::new(None, tensors.clone()).map_err(|error| format!("its header: {error}"))?;
        Ok(Self {
            data_start: 8 + size,
            tensors,
        })
    }
}

/// The tensors of a header by name. If a name is defined twice, it is an error.
///
/// The safetensors library's own reader first keeps everything in the header, at many times its
/// size, and checks it afterwards. If two tensors have one name, it takes the last.
struct TensorInfos(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for TensorInfos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self(BTreeMap::new()))
    }
}

impl<'de> Visitor<'de> for TensorInfos {
    type Value = Self;

    fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let info = map.next_value()?;
            if self.0.contains_key(&name) {
                return Err(A::Error::custom(format!(
                    "tensor {name:?} is defined twice"
                )));
            }
            self.0.insert(name, info);
        }
        Ok(self)
    }
}
