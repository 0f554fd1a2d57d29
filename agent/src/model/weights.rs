//! Weights in host memory and on disk: named f32 tensors with Hugging Face's names and layouts
//! (`[out, in]`), safetensors files, and the files of a model folder.
//!
//! ```text
//! MODEL/config.json  model.safetensors  tokenizer.json   the policy; shards with an index if large
//! MODEL/hearth.json                  the text versions of the games that it was trained on
//! MODEL/value/config.json  model.safetensors          the value network, if one was trained
//! MODEL/adapter/  value/adapter/     the adapters that were merged last; never read
//! ```
//!
//! The files of adapters are those of [`crate::model::peft`].

mod header;
pub mod layout;

use crate::error::AgentError;
use crate::files;
use crate::model::config::{DecoderConfig, OUTPUT};
use crate::model::source;
use half::{bf16, f16};
use header::SafetensorsHeader;
use safetensors::{Dtype, SafeTensorError, View};
use scenarios::files::sync_folder;
use scenarios::suite::hex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path};

/// The most bytes of the index of a folder with shards.
const INDEX_LIMIT: u64 = 4 << 20;

/// Name of the file with the weights of a model folder, if they are in one file.
pub const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Name of the value head's tensor, `[1, hidden]`, or `[51, hidden]` with bins
/// ([`crate::model::value_heads`]).
pub const VALUE_HEAD: &str = "value_head.weight";

/// Name of the advantage head's tensor, `[1, hidden]`. Not every value network has one.
pub const ADVANTAGE_HEAD: &str = "advantage_head.weight";

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: Vec<f32>,
}

/// Tensors become bytes one after the other while a file is written.
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

/// Named tensors in host memory, ordered by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights(pub BTreeMap<String, HostTensor>);

impl Weights {
    /// Returns the values of the tensor of that name.
    ///
    /// # Errors
    /// If it is missing or has another shape.
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

    /// Removes the tensor of that name and returns its values.
    ///
    /// # Errors
    /// If it is missing or has another shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, AgentError> {
        self.get(name, shape)?;
        Ok(self
            .0
            .remove(name)
            .map(|tensor| tensor.data)
            .unwrap_or_default())
    }

    /// Returns the first 16 hexadecimal digits of the SHA-256 of names, shapes and bytes.
    /// Trajectories record it as the policy's hash.
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
        hex(&digest.finalize()[..8])
    }

    /// Reads a safetensors file of f32, f16 or bf16 tensors, one tensor after the other.
    ///
    /// # Errors
    /// If the file is missing or damaged, or contains another type. A file that claims more data
    /// than it has is refused before memory is allocated for it.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let mut weights = Self::default();
        weights.read(path)?;
        Ok(weights)
    }

    /// Reads the weights of a model folder: `model.safetensors`, or the shards in its index.
    ///
    /// # Errors
    /// If a file is missing or damaged, if a shard lacks a tensor of the index, or if a shard is
    /// not a file of the folder.
    pub fn open_folder(folder: &Path) -> Result<Self, AgentError> {
        let index = folder.join(INDEX);
        if folder.join(WEIGHTS).exists() || !index.exists() {
            return Self::open(&folder.join(WEIGHTS)).map_err(|error| {
                source::without_safetensors(folder)
                    .filter(|_| source::is_missing(&error))
                    .unwrap_or(error)
            });
        }
        let bytes = files::read(&index, INDEX_LIMIT)?;
        let ShardIndex { weight_map } = serde_json::from_slice(&files::standard_json(&bytes))
            .map_err(|error| AgentError::content(&index, error.to_string()))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &weight_map {
            shards.entry(shard).or_default().push(tensor);
        }
        let mut weights = Self::default();
        for (shard, tensors) in shards {
            let is_name = matches!(
                Path::new(shard).components().collect::<Vec<_>>()[..],
                [Component::Normal(_)]
            );
            if !is_name {
                let reason = format!("shard {shard:?} is not a file of this folder");
                return Err(AgentError::content(&index, reason));
            }
            weights.read(&folder.join(shard))?;
            if let Some(missing) = tensors
                .into_iter()
                .find(|tensor| !weights.0.contains_key(*tensor))
            {
                let reason = format!("tensor {missing} is not in {shard}");
                return Err(AgentError::content(&index, reason));
            }
        }
        Ok(weights)
    }

    /// Adds the tensors of a file.
    fn read(&mut self, path: &Path) -> Result<(), AgentError> {
        let (file, length) = files::open(path)?;
        let mut file = BufReader::new(file);
        let SafetensorsHeader {
            data_start,
            tensors,
        } = SafetensorsHeader::read(&mut file, length).map_err(|reason| {
            let is_pointer = source::is_lfs_pointer(path);
            AgentError::content(
                path,
                if is_pointer {
                    source::lfs_reason()
                } else {
                    reason
                },
            )
        })?;
        let size = tensors.last().map_or(0, |(_, info)| info.data_offsets.1) as u64;
        if data_start.checked_add(size) != Some(length) {
            let reason =
                format!("has {length} bytes, but its header requires {data_start} + {size}");
            return Err(AgentError::content(path, reason));
        }
        for (name, info) in tensors {
            let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
            file.seek(SeekFrom::Start(data_start + info.data_offsets.0 as u64))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(|source| AgentError::file(path, source))?;
            let Some(data) = to_f32(info.dtype, &bytes) else {
                let reason = format!(
                    "tensor {name} is {:?}; only F32, F16 and BF16 are supported",
                    info.dtype
                );
                return Err(AgentError::content(path, reason));
            };
            let shape = info.shape;
            let tensor = HostTensor { shape, data };
            if self.0.insert(name.clone(), tensor).is_some() {
                let reason = format!("tensor {name} is also in another file");
                return Err(AgentError::content(path, reason));
            }
        }
        Ok(())
    }

    /// Makes the tensors of a checkpoint those of the decoder ([`Weights::unpack`]), and removes all except them and the
    /// heads of a value network. Files may contain more, for example frequencies of the rotary embedding, or an output
    /// matrix that is tied.
    ///
    /// # Errors
    /// If a tensor of the decoder is missing or has another shape, if adapters are not merged, or if a tied output matrix
    /// differs from the embedding.
    pub fn fit(&mut self, config: &DecoderConfig) -> Result<(), AgentError> {
        let tensors = config.tensors();
        self.remove_prefix();
        if let Some(name) = self
            .0
            .keys()
            .find(|name| name.contains(".lora_A.") || name.contains(".base_layer."))
        {
            return Err(AgentError::Config(format!(
                "tensor {name} belongs to a LoRA adapter that is not merged into the weights\n\
                 hint: merge it where it was trained: `python -m verl.model_merger merge ...`, or PEFT's merge_and_unload()"
            )));
        }
        self.unpack(config)?;
        for (name, shape) in &tensors {
            self.get(name, shape)?;
        }
        let embedding = self.0.get("model.embed_tokens.weight");
        let output = self.0.get(OUTPUT).filter(|_| config.tie_word_embeddings);
        if output.is_some_and(|output| Some(output) != embedding) {
            return Err(AgentError::Config(format!(
                "{OUTPUT} is there and differs from the embedding, and tie_word_embeddings is true\n\
                 hint: write tie_word_embeddings = false into config.json if this matrix is the output, else remove it"
            )));
        }
        let names: BTreeSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
        self.0
            .retain(|name, _| is_head(name) || names.contains(name.as_str()));
        Ok(())
    }

    /// Removes what other programs put before every name: PEFT (`base_model.model.`) and `torch.compile` (`_orig_mod.`).
    fn remove_prefix(&mut self) {
        const EMBEDDING: &str = "model.embed_tokens.weight";
        let prefix = self
            .0
            .keys()
            .find_map(|name| name.strip_suffix(EMBEDDING))
            .unwrap_or_default();
        if prefix.is_empty() || self.0.contains_key(EMBEDDING) {
            return;
        }
        let prefix = prefix.to_owned();
        self.0 = std::mem::take(&mut self.0)
            .into_iter()
            .map(|(name, tensor)| match name.strip_prefix(&prefix) {
                Some(rest) => (rest.to_owned(), tensor),
                None => (name, tensor),
            })
            .collect();
    }

    /// Writes a safetensors file. A new file is written beside `path` and renamed, so that the old
    /// file stays whole if the process is killed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AgentError> {
        let beside = path.with_extension("safetensors.new");
        self.write(path, &beside).inspect_err(|_| {
            let _ = std::fs::remove_file(&beside); // half of it may fill the disk
        })?;
        sync_folder(path);
        Ok(())
    }

    /// Writes the file `beside` and renames it to `path`.
    fn write(&self, path: &Path, beside: &Path) -> Result<(), AgentError> {
        let metadata = Some([("format".to_string(), "pt".to_string())].into());
        safetensors::serialize_to_file(&self.0, metadata, beside).map_err(|error| match error {
            SafeTensorError::IoError(source) => AgentError::file(path, source),
            other => AgentError::content(path, other.to_string()),
        })?;
        File::open(beside)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(beside, path))
            .map_err(|source| AgentError::file(path, source))
    }
}

/// Returns whether a tensor is a head of a value network.
pub(super) fn is_head(name: &str) -> bool {
    [VALUE_HEAD, ADVANTAGE_HEAD].contains(&name)
}

/// The index of a folder with shards.
#[derive(Deserialize)]
struct ShardIndex {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// Little-endian numbers as f32; `None` if the type is not supported.
fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => Some(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        ),
        Dtype::F16 => Some(pairs.map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::BF16 => Some(pairs.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        _ => None,
    }
}

/// Returns a `[rows, columns]` matrix as `[columns, rows]`.
#[must_use]
pub fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|c| (0..rows).map(move |r| data[r * columns + c]))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::config::{Family, LayerPattern};
    use crate::model::reading::config::{
        ConvolutionConfig, ConvolutionPlace, GoalMatch, ReadingConfig,
    };
    use safetensors::tensor::TensorView;

    /// The configuration of a decoder for tests.
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

    /// The same with every addition of hearth's own family. In the tokens 3 1 4 1 …, the goal is 1.
    pub(crate) fn tiny_reading_config() -> DecoderConfig {
        DecoderConfig {
            family: Family::Hearth,
            reading: ReadingConfig {
                goal_match: Some(GoalMatch {
                    marker: vec![3],
                    end: vec![4],
                    ignored: vec![],
                }),
                ngram_embedding: vec![1, 2],
                convolution: Some(ConvolutionConfig {
                    width: 3,
                    places: ConvolutionPlace::ALL.to_vec(),
                }),
            },
            ..tiny_config()
        }
    }

    /// The same as a Gemma 3. In the first layer a token sees three tokens, and θ is another.
    pub(crate) fn tiny_windowed_config() -> DecoderConfig {
        DecoderConfig {
            family: Family::Gemma3,
            pattern: LayerPattern {
                windowed: [0].into(),
                window: 3,
                windowed_theta: Some(100.0),
                ..LayerPattern::default()
            },
            ..tiny_config()
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

    /// Writes a safetensors file whose tensors have one type.
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

    /// The weights of a folder after this index was written into it, or the error.
    fn open_shards(folder: &Path, map: &str) -> Result<Weights, String> {
        let index = format!("{{\"weight_map\": {map}}}");
        std::fs::write(folder.join(INDEX), index).expect("writes");
        Weights::open_folder(folder).map_err(|error| error.to_string())
    }

    #[test]
    fn shards_are_read_as_one_model_and_a_wrong_index_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let folder = folder.path();
        let numbers = [1.0_f32, 2.0, 3.0].map(|n| n.to_le_bytes().to_vec());
        let [a, b, c] = numbers;
        write(&folder.join("one.safetensors"), Dtype::F32, &[("a", a)], 1);
        let tensors = [("b", b), ("c", c)];
        write(&folder.join("two.safetensors"), Dtype::F32, &tensors, 1);
        let map = r#"{"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}"#;
        let whole = open_shards(folder, map).expect("opens");
        assert_eq!(
            whole
                .0
                .values()
                .map(|tensor| tensor.data[0])
                .collect::<Vec<_>>(),
            [1.0, 2.0, 3.0]
        );
        for (map, words) in [
            (
                r#"{"z": "one.safetensors"}"#,
                "tensor z is not in one.safetensors",
            ),
            (
                r#"{"a": "../one.safetensors"}"#,
                "is not a file of this folder",
            ),
            (r#"{"a": "/etc/passwd"}"#, "is not a file of this folder"),
            (r#"{"a": "three.safetensors"}"#, "three.safetensors"),
        ] {
            let error = open_shards(folder, map).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
    }

    /// A safetensors file with this header and data.
    fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
    }

    #[test]
    fn a_header_that_claims_too_much_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(WEIGHTS);
        let huge = br#"{"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}}"#;
        let wrong = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
        let overlap = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let twice = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        for (bytes, words) in [
            (u64::MAX.to_le_bytes().to_vec(), "claims a header of"),
            ((90_u64 << 20).to_le_bytes().to_vec(), "claims a header of"),
            (with_header(huge, &[]), "its header requires"),
            (with_header(wrong, &[0; 4]), "its header:"),
            (with_header(overlap, &[0; 4]), "invalid offset for tensor"),
            (with_header(twice, &[0; 4]), "tensor \"a\" is defined twice"),
        ] {
            std::fs::write(&path, bytes).expect("writes");
            let error = Weights::open(&path).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn fitting_removes_what_a_decoder_does_not_need_and_requires_what_it_needs() {
        let config = tiny_config();
        let mut weights = Weights::random(&config, 7);
        let whole = weights.clone();
        let mut embedding = weights.0["model.embed_tokens.weight"].clone();
        weights.0.insert(OUTPUT.into(), embedding.clone());
        let frequencies = HostTensor {
            shape: vec![1],
            data: vec![0.0],
        };
        weights.0.insert("rotary_emb.inv_freq".into(), frequencies);
        weights.fit(&config).expect("fits");
        assert_eq!(weights, whole);
        embedding.data[3] += 1.0;
        weights.0.insert(OUTPUT.into(), embedding);
        let error = weights.fit(&config).expect_err("two outputs").to_string();
        assert!(error.contains("differs from the embedding"), "{error}");
        weights.0.remove(OUTPUT);
        weights.0.remove("model.norm.weight");
        assert!(
            weights
                .fit(&config)
                .expect_err("missing")
                .to_string()
                .contains("model.norm.weight is missing")
        );
    }

    /// PEFT and `torch.compile` put a prefix before every name.
    #[test]
    fn a_prefix_of_every_name_is_removed() {
        let config = tiny_config();
        let whole = Weights::random(&config, 7);
        for prefix in ["base_model.model.", "_orig_mod."] {
            let named = whole
                .0
                .iter()
                .map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone()));
            let mut weights = Weights(named.collect());
            weights.fit(&config).expect("fits");
            assert_eq!(weights, whole);
        }
        let mut weights = whole;
        let tensor = weights.0["model.norm.weight"].clone();
        weights.0.insert(
            "model.layers.0.self_attn.q_proj.lora_A.weight".into(),
            tensor,
        );
        let error = weights
            .fit(&config)
            .expect_err("a LoRA adapter")
            .to_string();
        assert!(error.contains("merge_and_unload"), "{error}");
    }

    #[test]
    fn a_pointer_of_git_lfs_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(WEIGHTS);
        std::fs::write(
            &path,
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
        )
        .expect("writes");
        let error = Weights::open(&path).expect_err("refused").to_string();
        assert!(error.contains("git lfs pull"), "{error}");
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let data: Vec<f32> = (0..6_u8).map(f32::from).collect();
        assert_eq!(transposed(&data, 2, 3), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(transposed(&transposed(&data, 2, 3), 3, 2), data);
    }
}
