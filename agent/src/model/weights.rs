//! Weights on the host and on disk: named f32 tensors in Hugging Face's names and layouts (`[out, in]`), safetensors
//! files, and the model folder that holds them.
//!
//! ```text
//! MODEL/config.json  model.safetensors  tokenizer.json      the policy; large ones in shards with an index
//! MODEL/hearth.json                                         the text versions of the games that it learned from
//! MODEL/value/config.json  model.safetensors                the value network, where one was trained
//! MODEL/adapter/  value/adapter/                            what was merged into them last ([`crate::model::lora`]); never read
//! ```

use crate::error::AgentError;
use crate::files;
use crate::model::config::DecoderConfig;
use half::{bf16, f16};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, View};
use scenarios::files::sync_folder;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Formatter;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path};

/// The header of a safetensors file may have this many bytes; some thousand tensors need a tenth of it.
const HEADER_LIMIT: u64 = 8 << 20;

/// The index of a folder of shards may have this many bytes.
const INDEX_LIMIT: u64 = 4 << 20;

/// The weights of a model folder, in one file or by an index over several.
pub const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Name of the value head's tensor, `[1, hidden]`.
pub const VALUE_HEAD: &str = "value_head.weight";

/// One tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: Vec<f32>,
}

/// One after the other becomes bytes while a file is written.
impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        self.data
            .iter()
            .for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        bytes.into()
    }

    fn data_len(&self) -> usize {
        4 * self.data.len()
    }
}

/// Named tensors on the host, in name order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights(pub BTreeMap<String, HostTensor>);

impl Weights {
    /// Fresh trunk weights: normal with σ = 1/√inputs for matrices, zero for the two that write into the residual
    /// stream (so that every layer begins as the identity and a token's own embedding is what the first updates see),
    /// σ = 0.02 for the embedding, ones for norms.
    #[must_use]
    pub fn random(config: &DecoderConfig, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let make = |(name, shape): (String, Vec<usize>)| {
            let size: usize = shape.iter().product();
            let data = if name.ends_with(".bias") {
                vec![0.0; size]
            } else if shape.len() == 1 {
                vec![1.0; size]
            } else {
                let deviation = match name.as_str() {
                    "model.embed_tokens.weight" | "lm_head.weight" => 0.02,
                    name if name.ends_with("o_proj.weight")
                        || name.ends_with("down_proj.weight") =>
                    {
                        0.0
                    }
                    _ => 1.0 / (shape[1] as f32).sqrt(),
                };
                (0..size).map(|_| normal(&mut rng) * deviation).collect()
            };
            (name, HostTensor { shape, data })
        };
        Self(config.tensors().into_iter().map(make).collect())
    }

    /// The same trunk with a value head of zeros: V ≡ 0 before the first update.
    #[must_use]
    pub fn with_zero_value_head(&self, config: &DecoderConfig) -> Self {
        let mut weights = self.clone();
        let head = HostTensor {
            shape: vec![1, config.hidden_size],
            data: vec![0.0; config.hidden_size],
        };
        weights.0.insert(VALUE_HEAD.into(), head);
        weights
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<&[f32], AgentError> {
        let tensor = self
            .0
            .get(name)
            .ok_or_else(|| AgentError::Config(format!("tensor {name} is missing")))?;
        if tensor.shape != shape {
            return Err(AgentError::Config(format!(
                "tensor {name} has shape {:?}, expected {shape:?}",
                tensor.shape
            )));
        }
        Ok(&tensor.data)
    }

    /// Takes the tensor of that name out.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, AgentError> {
        self.get(name, shape)?;
        Ok(self
            .0
            .remove(name)
            .map(|tensor| tensor.data)
            .unwrap_or_default())
    }

    /// SHA-256 over names, shapes and bytes: what trajectories call the policy's hash (first 16 hex digits).
    #[must_use]
    pub fn hash(&self) -> String {
        let mut digest = Sha256::new();
        for (name, tensor) in &self.0 {
            digest.update(name.as_bytes());
            tensor
                .shape
                .iter()
                .for_each(|size| digest.update((*size as u64).to_le_bytes()));
            tensor
                .data
                .iter()
                .for_each(|value| digest.update(value.to_le_bytes()));
        }
        digest
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Reads a safetensors file of f32, f16 or bf16 tensors, one tensor after the other.
    ///
    /// # Errors
    /// When the file is missing, damaged, or holds another type; before memory is taken for what it claims to hold.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let mut weights = Self::default();
        weights.read(path)?;
        Ok(weights)
    }

    /// Reads the weights of a model folder: `model.safetensors`, or the shards that its index names.
    ///
    /// # Errors
    /// When a file is missing or damaged, when shards hold other tensors than the index says, or lie elsewhere.
    pub fn open_folder(folder: &Path) -> Result<Self, AgentError> {
        let index = folder.join(INDEX);
        if folder.join(WEIGHTS).exists() || !index.exists() {
            return Self::open(&folder.join(WEIGHTS));
        }
        let content = |reason: String| AgentError::Content {
            path: index.clone(),
            reason,
        };
        let bytes = files::read(&index, INDEX_LIMIT)?;
        let map: Index = serde_json::from_slice(&bytes).map_err(|e| content(e.to_string()))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &map.weight_map {
            shards.entry(shard).or_default().push(tensor);
        }
        let mut weights = Self::default();
        for (shard, tensors) in shards {
            let is_name = matches!(
                Path::new(shard).components().collect::<Vec<_>>()[..],
                [Component::Normal(_)]
            );
            if !is_name {
                return Err(content(format!(
                    "shard {shard:?} is not a file of this folder"
                )));
            }
            weights.read(&folder.join(shard))?;
            if let Some(missing) = tensors
                .into_iter()
                .find(|tensor| !weights.0.contains_key(*tensor))
            {
                return Err(content(format!("tensor {missing} is not in {shard}")));
            }
        }
        Ok(weights)
    }

    /// Adds the tensors of a file.
    fn read(&mut self, path: &Path) -> Result<(), AgentError> {
        let file_error = |source| AgentError::File {
            path: path.into(),
            source,
        };
        let content = |reason: String| AgentError::Content {
            path: path.into(),
            reason,
        };
        let (file, length) = files::open(path)?;
        let mut file = BufReader::new(file);
        let (start, tensors) = header(&mut file, length).map_err(content)?;
        let end = tensors.last().map_or(0, |(_, info)| info.data_offsets.1) as u64;
        if start.checked_add(end) != Some(length) {
            return Err(content(format!(
                "has {length} bytes, and its header tells of {start} + {end}"
            )));
        }
        for (name, info) in tensors {
            let size = info.data_offsets.1 - info.data_offsets.0;
            let mut bytes = vec![0; size];
            file.seek(SeekFrom::Start(start + info.data_offsets.0 as u64))
                .map_err(file_error)?;
            file.read_exact(&mut bytes).map_err(file_error)?;
            let data = to_f32(info.dtype, &bytes).ok_or_else(|| {
                content(format!(
                    "tensor {name} is {:?}; F32, F16 and BF16 are read",
                    info.dtype
                ))
            })?;
            if self
                .0
                .insert(
                    name.clone(),
                    HostTensor {
                        shape: info.shape,
                        data,
                    },
                )
                .is_some()
            {
                return Err(content(format!("tensor {name} is in another file already")));
            }
        }
        Ok(())
    }

    /// Keeps the tensors of a decoder, and the value head; other files hold more (frequencies of the rotary embedding,
    /// an output matrix that is tied).
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn fit(&mut self, config: &DecoderConfig) -> Result<(), AgentError> {
        let tensors = config.tensors();
        for (name, shape) in &tensors {
            self.get(name, shape)?;
        }
        let names: std::collections::BTreeSet<&str> =
            tensors.iter().map(|(name, _)| name.as_str()).collect();
        self.0
            .retain(|name, _| name == VALUE_HEAD || names.contains(name.as_str()));
        Ok(())
    }

    /// Writes a safetensors file: first beside, then renamed, so that a killed run leaves the old file whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AgentError> {
        let content = |reason: String| AgentError::Content {
            path: path.into(),
            reason,
        };
        let metadata = Some([("format".to_string(), "pt".to_string())].into());
        let beside = path.with_extension("safetensors.new");
        let failed = |source| AgentError::File {
            path: path.into(),
            source,
        };
        let write = || {
            safetensors::serialize_to_file(&self.0, metadata, &beside).map_err(
                |error| match error {
                    SafeTensorError::IoError(source) => failed(source),
                    other => content(other.to_string()),
                },
            )?;
            File::open(&beside)
                .and_then(|file| file.sync_all())
                .map_err(failed)?;
            std::fs::rename(&beside, path).map_err(failed)
        };
        write().inspect_err(|_| {
            let _ = std::fs::remove_file(&beside); // half of it may fill the disk
        })?;
        sync_folder(path);
        Ok(())
    }
}

/// The index of a folder of shards.
#[derive(Deserialize)]
struct Index {
    /// By tensor: its file.
    weight_map: BTreeMap<String, String>,
}

/// The header of a safetensors file: where its data begins, and its tensors in the order of their data, which follow one
/// another without gaps.
fn header(file: &mut impl Read, length: u64) -> Result<(u64, Vec<(String, TensorInfo)>), String> {
    let mut size = [0; 8];
    file.read_exact(&mut size)
        .map_err(|_| "is too short for a safetensors file".to_string())?;
    let header = u64::from_le_bytes(size);
    if header > HEADER_LIMIT || header > length.saturating_sub(8) {
        return Err(format!(
            "claims a header of {header} bytes, and has {length}"
        ));
    }
    let mut bytes = Vec::new();
    file.take(header)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    let HeaderTensors(tensors) =
        serde_json::from_slice(&bytes).map_err(|e| format!("its header: {e}"))?;
    let mut tensors: Vec<(String, TensorInfo)> = tensors.into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    // It refuses tensors that overlap, leave gaps, or have another size than their shape asks for.
    Metadata::new(None, tensors.clone()).map_err(|e| format!("its header: {e}"))?;
    Ok((8 + header, tensors))
}

/// The tensors of a header. The library's own reading holds whatever stands in one, at many times its size, before it
/// looks at it; and of two tensors with one name it takes the last.
struct HeaderTensors(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for HeaderTensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self(BTreeMap::new()))
    }
}

impl<'de> Visitor<'de> for HeaderTensors {
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
                return Err(A::Error::custom(format!("tensor {name:?} stands twice")));
            }
            self.0.insert(name, info);
        }
        Ok(self)
    }
}

/// Little-endian numbers as f32; `None` for a type that is not read.
fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => Some(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        ),
        Dtype::F16 => Some(pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::BF16 => Some(pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        _ => None,
    }
}

/// A standard normal number (Box–Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f32, f32) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// `[rows, columns]` to `[columns, rows]`.
#[must_use]
pub fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|c| (0..rows).map(move |r| data[r * columns + c]))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    pub(crate) fn tiny_config() -> DecoderConfig {
        DecoderConfig {
            vocab_size: 37,
            hidden_size: 24,
            intermediate_size: 40,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 64,
            ..DecoderConfig::default()
        }
    }

    #[test]
    fn saved_weights_come_back_with_the_same_hash() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.safetensors");
        let weights = Weights::random(&tiny_config(), 7);
        weights.save(&path).expect("saves");
        let again = Weights::open(&path).expect("opens");
        assert_eq!(again, weights);
        assert_eq!(again.hash(), weights.hash());
        assert_ne!(Weights::random(&tiny_config(), 8).hash(), weights.hash());
    }

    #[test]
    fn a_truncated_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.safetensors");
        Weights::random(&tiny_config(), 7)
            .save(&path)
            .expect("saves");
        let bytes = std::fs::read(&path).expect("reads");
        for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).expect("writes");
            let error = Weights::open(&path).expect_err("truncated");
            assert!(error.to_string().contains("model.safetensors"), "{error}");
        }
    }

    /// Writes a safetensors file of one type.
    fn write(path: &Path, dtype: Dtype, tensors: &[(&str, Vec<u8>)], elements: usize) {
        let views = tensors.iter().map(|(name, data)| {
            (
                *name,
                TensorView::new(dtype, vec![elements], data).expect("the data fits"),
            )
        });
        std::fs::write(
            path,
            safetensors::serialize(views, None).expect("serializes"),
        )
        .expect("writes");
    }

    #[test]
    fn half_precision_is_widened() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(WEIGHTS);
        let numbers = [1.0f32, -2.5, 0.0];
        let halves = numbers
            .iter()
            .flat_map(|n| f16::from_f32(*n).to_le_bytes())
            .collect();
        write(&path, Dtype::F16, &[("a", halves)], 3);
        assert_eq!(Weights::open(&path).expect("opens").0["a"].data, numbers);
        let brains = numbers
            .iter()
            .flat_map(|n| bf16::from_f32(*n).to_le_bytes())
            .collect();
        write(&path, Dtype::BF16, &[("a", brains)], 3);
        assert_eq!(Weights::open(&path).expect("opens").0["a"].data, numbers);
        write(&path, Dtype::I64, &[("a", vec![0; 24])], 3);
        assert!(
            Weights::open(&path)
                .expect_err("another type")
                .to_string()
                .contains("tensor a is I64")
        );
    }

    #[test]
    fn shards_are_one_model_and_their_index_is_believed_only_as_far_as_it_is_true() {
        let folder = tempfile::tempdir().expect("folder");
        let file = |name: &str| folder.path().join(name);
        let bytes = |n: f32| n.to_le_bytes().to_vec();
        write(
            &file("one.safetensors"),
            Dtype::F32,
            &[("a", bytes(1.0))],
            1,
        );
        write(
            &file("two.safetensors"),
            Dtype::F32,
            &[("b", bytes(2.0)), ("c", bytes(3.0))],
            1,
        );
        let open = |map: &str| {
            std::fs::write(file(INDEX), format!("{{\"weight_map\": {map}}}")).expect("writes");
            Weights::open_folder(folder.path())
        };
        let map = r#"{"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}"#;
        let whole = open(map).expect("opens");
        assert_eq!(
            whole
                .0
                .values()
                .map(|tensor| tensor.data[0])
                .collect::<Vec<_>>(),
            [1.0, 2.0, 3.0]
        );
        let said = |map: &str| open(map).expect_err("refused").to_string();
        assert!(said(r#"{"z": "one.safetensors"}"#).contains("tensor z is not in one.safetensors"));
        assert!(said(r#"{"a": "../one.safetensors"}"#).contains("is not a file of this folder"));
        assert!(said(r#"{"a": "/etc/passwd"}"#).contains("is not a file of this folder"));
        assert!(said(r#"{"a": "three.safetensors"}"#).contains("three.safetensors"));
    }

    #[test]
    fn a_header_that_promises_too_much_takes_no_memory() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(WEIGHTS);
        let said = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("writes");
            Weights::open(&path).expect_err("refused").to_string()
        };
        assert!(said(&u64::MAX.to_le_bytes()).contains("claims a header of"));
        assert!(said(&(90_u64 << 20).to_le_bytes()).contains("claims a header of"));
        let promise =
            br#"{"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}}"#;
        let bytes = [&(promise.len() as u64).to_le_bytes()[..], promise].concat();
        assert!(
            said(&bytes).contains("its header tells of"),
            "{}",
            said(&bytes)
        );
        let overlap = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let wrong = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
        let bytes = [&(wrong.len() as u64).to_le_bytes()[..], wrong, &[0; 4]].concat();
        assert!(said(&bytes).contains("its header:"), "{}", said(&bytes));
        let bytes = [&(overlap.len() as u64).to_le_bytes()[..], overlap, &[0; 4]].concat();
        assert!(
            said(&bytes).contains("invalid offset for tensor"),
            "{}",
            said(&bytes)
        );
    }

    #[test]
    fn what_a_decoder_does_not_need_is_left_out_and_what_it_needs_is_there() {
        let config = tiny_config();
        let mut weights = Weights::random(&config, 7);
        let whole = weights.clone();
        weights.0.insert(
            "lm_head.weight".into(),
            HostTensor {
                shape: vec![1],
                data: vec![0.0],
            },
        );
        weights.fit(&config).expect("fits");
        assert_eq!(weights, whole);
        weights.0.remove("model.norm.weight");
        assert!(
            weights
                .fit(&config)
                .expect_err("missing")
                .to_string()
                .contains("model.norm.weight is missing")
        );
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let data: Vec<f32> = (0..6_u8).map(f32::from).collect();
        assert_eq!(transposed(&data, 2, 3), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(transposed(&transposed(&data, 2, 3), 3, 2), data);
    }
}
