//! Small GGUF files for the tests of this folder: a writer, models and vocabularies.

use super::file::GgufFile;
use crate::error::AgentError;
use std::io::Cursor;
use std::path::Path;

/// Writes small GGUF files.
#[derive(Clone)]
pub(super) struct GgufWriter {
    pub(super) values: Vec<(String, Vec<u8>)>,
    pub(super) tensors: Vec<WrittenTensor>,
}

/// Sizes are in the file's order, innermost first.
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

impl GgufWriter {
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
            offsets
                .push(offsets[offsets.len() - 1] + tensor.data.len().next_multiple_of(32) as u64);
        }
        self.bytes_with(3, &offsets)
    }

    /// The file with this version and these offsets of its tensors.
    pub(super) fn bytes_with(&self, version: u32, offsets: &[u64]) -> Vec<u8> {
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

/// Opens the bytes of a file.
pub(super) fn open(bytes: Vec<u8>) -> Result<GgufFile<Cursor<Vec<u8>>>, AgentError> {
    GgufFile::from_reader(Path::new("model.gguf"), Cursor::new(bytes))
}

/// A file with some metadata, a quantised tensor `q` and a tensor `f` of f32.
pub(super) fn sample() -> GgufWriter {
    let q8_0 = WrittenTensor {
        name: "q".into(),
        sizes: vec![32, 2],
        code: 8,
        data: vec![1; 68],
    };
    let mut writer = GgufWriter::new(&[
        ("general.architecture", text_value("llama")),
        ("a.size", u32_value(7)),
    ]);
    writer.tensors.push(q8_0);
    writer
        .set("a.texts", texts_value(&["x", ""]))
        .counting("f", &[3, 2])
}

/// A model of width 8 with 2 heads of width 4 that share 1 key, inner width 6, 5 tokens, 1 layer.
pub(super) fn model(architecture: &str) -> GgufWriter {
    let mut writer = GgufWriter::new(&[("general.architecture", text_value(architecture))]);
    for (key, size) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 8),
        ("feed_forward_length", 6),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        writer = writer.set(&format!("{architecture}.{key}"), u32_value(size));
    }
    writer = writer.set(
        &format!("{architecture}.attention.layer_norm_rms_epsilon"),
        f32_value(1e-6),
    );
    let [is_joined, is_olmo] = [architecture == "phi3", architecture == "olmo2"];
    let is_gemma = architecture == "gemma3";
    for (name, sizes, is_there) in [
        ("token_embd.weight", &[8, 5][..], true),
        ("output_norm.weight", &[8], true),
        ("blk.0.attn_norm.weight", &[8], !is_olmo),
        ("blk.0.attn_qkv.weight", &[8, 16], is_joined),
        ("blk.0.attn_q.weight", &[8, 8], !is_joined),
        ("blk.0.attn_k.weight", &[8, 4], !is_joined),
        ("blk.0.attn_v.weight", &[8, 4], !is_joined),
        ("blk.0.attn_output.weight", &[8, 8], true),
        (
            "blk.0.post_attention_norm.weight",
            &[8],
            is_olmo || is_gemma,
        ),
        ("blk.0.ffn_norm.weight", &[8], !is_olmo),
        ("blk.0.ffn_gate.weight", &[8, 6], !is_joined),
        (
            "blk.0.ffn_up.weight",
            if is_joined { &[8, 12] } else { &[8, 6] },
            true,
        ),
        ("blk.0.ffn_down.weight", &[6, 8], true),
        ("blk.0.post_ffw_norm.weight", &[8], is_olmo || is_gemma),
    ] {
        if is_there {
            writer = writer.counting(name, sizes);
        }
    }
    if is_gemma {
        for key in ["key_length", "value_length"] {
            writer = writer.set(&format!("gemma3.attention.{key}"), u32_value(4));
        }
    }
    if is_olmo {
        for (name, width) in [("q", 8), ("k", 4)] {
            writer = writer.counting(&format!("blk.0.attn_{name}_norm.weight"), &[width]);
        }
    }
    if architecture == "qwen2" {
        for (name, size) in [("q", 8), ("k", 4), ("v", 4)] {
            writer = writer.counting(&format!("blk.0.attn_{name}.bias"), &[size]);
        }
    }
    if architecture == "qwen3" || is_gemma {
        for name in ["q", "k"] {
            writer = writer.counting(&format!("blk.0.attn_{name}_norm.weight"), &[4]);
        }
    }
    writer
}

/// Why the configuration or the tensors of a model are refused.
pub(super) fn refusal(writer: &GgufWriter) -> String {
    let mut file = writer.open();
    let error = file
        .config()
        .map(drop)
        .and_then(|()| file.hf_tensors().map(drop))
        .unwrap_err();
    error
        .to_string()
        .trim_start_matches("model.gguf: ")
        .to_string()
}

/// The 256 bytes as GPT-2 spells them (ids 0 to 255), "Ġg" 256, "go" 257, "Ġgo" 258, a control token 259, one of
/// the user's 260.
pub(super) fn byte_level() -> GgufWriter {
    let mut tokens: Vec<String> = (0..=255_u8).map(spelled).map(String::from).collect();
    tokens.extend(["Ġg", "go", "Ġgo", "<|end|>", "<tool>"].map(String::from));
    let types: Vec<i32> = (0..261)
        .map(|id| [1, 3, 4][(id.max(258) - 258) as usize])
        .collect();
    GgufWriter::new(&[
        ("general.architecture", text_value("llama")),
        ("tokenizer.ggml.model", text_value("gpt2")),
        ("tokenizer.ggml.pre", text_value("smollm")),
        ("tokenizer.ggml.tokens", texts_value(&tokens)),
        ("tokenizer.ggml.token_type", i32s_value(&types)),
        (
            "tokenizer.ggml.merges",
            texts_value(&["g o", "Ġ g", "Ġ go"]),
        ),
        ("tokenizer.ggml.eos_token_id", u32_value(259)),
    ])
}

/// The letter of a byte in GPT-2: printable bytes spell themselves, the others follow from U+0100.
fn spelled(byte: u8) -> char {
    let others = (0..byte).filter(|other| !spells_itself(*other)).count() as u32;
    if spells_itself(byte) {
        byte.into()
    } else {
        char::from_u32(256 + others).unwrap()
    }
}

fn spells_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The vocabulary of SentencePiece: unknown 0, bos 1, eos 2, bytes 3 to 258, then pieces from 259 with scores −0, −1, …
pub(super) fn pieces() -> GgufWriter {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["og", "▁g", "go", "▁go", "▁", "g", "o"].map(String::from));
    let types: Vec<i32> = [vec![2, 3, 3], vec![6; 256], vec![1; 7]].concat();
    let scores: Vec<f32> = (0..266_u16)
        .map(|id| 259.0 - f32::from(id.max(259)))
        .collect();
    GgufWriter::new(&[
        ("general.architecture", text_value("llama")),
        ("tokenizer.ggml.model", text_value("llama")),
        ("tokenizer.ggml.tokens", texts_value(&tokens)),
        ("tokenizer.ggml.token_type", i32s_value(&types)),
        ("tokenizer.ggml.scores", f32s_value(&scores)),
    ])
}
