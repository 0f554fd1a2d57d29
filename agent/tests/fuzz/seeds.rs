//! The valid files that mutations start from: model folders and GGUF files, as small as possible.

use agent::model::config::{DecoderConfig, Family};
use agent::model::gguf::GgufFile;
use agent::model::weights::{HostTensor, Weights};
use agent::text::template::ChatTemplate;
use agent::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The files of a folder by name.
pub(crate) type FileSet = BTreeMap<String, Vec<u8>>;

/// A GGUF file before it is written.
#[derive(Clone, Default)]
pub(crate) struct GgufSeed {
    /// Each with its key, and the bytes of its type and value.
    pub(crate) values: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufSeedTensor>,
}

/// Sizes are innermost first.
#[derive(Clone)]
pub(crate) struct GgufSeedTensor {
    pub(crate) name: String,
    pub(crate) sizes: Vec<u64>,
    pub(crate) code: u32,
    pub(crate) data: Vec<u8>,
}

impl GgufSeed {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            bytes.extend([text(key), value.clone()].concat());
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.sizes.len() as u32).to_le_bytes());
            tensor
                .sizes
                .iter()
                .for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(tensor.code.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        [bytes, data].concat()
    }

    fn set(&mut self, key: &str, value: Vec<u8>) {
        self.values.push((key.into(), value));
    }

    /// Adds a tensor whose data are small bytes; `code` is its format.
    fn tensor(&mut self, name: &str, sizes: &[u64], code: u32) {
        let elements: u64 = sizes.iter().product();
        let bytes = match code {
            2 => elements / 32 * 18,
            8 => elements / 32 * 34,
            1 => elements * 2,
            _ => elements * 4,
        };
        let data = (0..bytes).map(|place| (place * 7 % 60) as u8).collect();
        self.tensors.push(GgufSeedTensor {
            name: name.into(),
            sizes: sizes.into(),
            code,
            data,
        });
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn tagged(code: u32, value: &[u8]) -> Vec<u8> {
    [&code.to_le_bytes()[..], value].concat()
}

fn number(value: u32) -> Vec<u8> {
    tagged(4, &value.to_le_bytes())
}

fn array(code: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let count = (items.len() as u64).to_le_bytes();
    tagged(
        9,
        &[&code.to_le_bytes()[..], &count, &items.concat()].concat(),
    )
}

/// The letter for a byte in a byte-level vocabulary.
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

/// Adds a byte-level vocabulary with merges; returns its size.
fn byte_vocabulary(gguf: &mut GgufSeed) -> u64 {
    let mut tokens: Vec<String> = (0..=255_u8).map(spelled).map(String::from).collect();
    tokens.extend(["Ġg", "go", "Ġgo", "<|im_start|>", "<|im_end|>", "<tool>"].map(String::from));
    let types: Vec<Vec<u8>> = (0..tokens.len())
        .map(|id| match id {
            259 | 260 => 3_i32,
            261 => 4,
            _ => 1,
        })
        .map(|kind| kind.to_le_bytes().to_vec())
        .collect();
    gguf.set("tokenizer.ggml.model", tagged(8, &text("gpt2")));
    gguf.set("tokenizer.ggml.pre", tagged(8, &text("smollm")));
    gguf.set(
        "tokenizer.ggml.tokens",
        array(
            8,
            &tokens.iter().map(|token| text(token)).collect::<Vec<_>>(),
        ),
    );
    gguf.set("tokenizer.ggml.token_type", array(5, &types));
    gguf.set(
        "tokenizer.ggml.merges",
        array(8, &["g o", "Ġ g", "Ġ go"].map(text)),
    );
    gguf.set("tokenizer.ggml.eos_token_id", number(260));
    gguf.set(
        "tokenizer.chat_template",
        tagged(8, &text(ChatTemplate::chatml().source())),
    );
    tokens.len() as u64
}

/// Adds a SentencePiece vocabulary with scores; returns its size.
fn piece_vocabulary(gguf: &mut GgufSeed) -> u64 {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["og", "▁g", "go", "▁go", "▁", "g", "o"].map(String::from));
    let types = [vec![2_i32, 3, 3], vec![6; 256], vec![1; 7]].concat();
    let types: Vec<Vec<u8>> = types
        .into_iter()
        .map(|kind| kind.to_le_bytes().to_vec())
        .collect();
    let scores: Vec<Vec<u8>> = (0..tokens.len())
        .map(|id| (-(id as f32)).to_le_bytes().to_vec())
        .collect();
    gguf.set("tokenizer.ggml.model", tagged(8, &text("llama")));
    gguf.set(
        "tokenizer.ggml.tokens",
        array(
            8,
            &tokens.iter().map(|token| text(token)).collect::<Vec<_>>(),
        ),
    );
    gguf.set("tokenizer.ggml.token_type", array(5, &types));
    gguf.set("tokenizer.ggml.scores", array(6, &scores));
    gguf.set("tokenizer.ggml.add_bos_token", tagged(7, &[1]));
    gguf.set("tokenizer.chat_template", tagged(8, &text(LLAMA)));
    tokens.len() as u64
}

const LLAMA: &str = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + \
    ' [/INST]' }}{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}";

/// GGUF files that cover every family, every kind of vocabulary, and plain and quantised tensors.
pub(crate) fn ggufs() -> Vec<GgufSeed> {
    let kinds = [("llama", 0), ("qwen2", 8), ("minicpm", 2), ("llama", 1)];
    kinds
        .into_iter()
        .map(|(architecture, code)| gguf(architecture, code))
        .collect()
}

fn gguf(architecture: &str, code: u32) -> GgufSeed {
    let mut gguf = GgufSeed::default();
    let wide = 32;
    gguf.set("general.architecture", tagged(8, &text(architecture)));
    gguf.set("general.alignment", number(32));
    for (key, size) in [
        ("block_count", 1),
        ("context_length", 128),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        gguf.set(&format!("{architecture}.{key}"), number(size));
    }
    gguf.set(
        &format!("{architecture}.attention.layer_norm_rms_epsilon"),
        tagged(6, &1e-5_f32.to_le_bytes()),
    );
    gguf.set(
        &format!("{architecture}.rope.freq_base"),
        tagged(6, &1e4_f32.to_le_bytes()),
    );
    if architecture == "qwen2" {
        gguf.set("qwen2.rope.scaling.type", tagged(8, &text("yarn")));
        gguf.set("qwen2.rope.scaling.factor", tagged(6, &4_f32.to_le_bytes()));
        gguf.set("qwen2.rope.scaling.original_context_length", number(32));
    }
    let pieces = architecture == "minicpm" || code == 1;
    let count = if pieces {
        piece_vocabulary(&mut gguf)
    } else {
        byte_vocabulary(&mut gguf)
    };
    gguf.tensor("token_embd.weight", &[wide, count], code);
    gguf.tensor("output_norm.weight", &[wide], 0);
    gguf.tensor("blk.0.attn_norm.weight", &[wide], 0);
    gguf.tensor("blk.0.ffn_norm.weight", &[wide], 0);
    for (part, rows) in [
        ("attn_q", wide),
        ("attn_k", 16),
        ("attn_v", 16),
        ("attn_output", wide),
        ("ffn_gate", wide),
        ("ffn_up", wide),
    ] {
        gguf.tensor(&format!("blk.0.{part}.weight"), &[wide, rows], code);
    }
    gguf.tensor("blk.0.ffn_down.weight", &[wide, wide], code);
    match architecture {
        "qwen2" => [("q", wide), ("k", 16), ("v", 16)]
            .iter()
            .for_each(|(part, size)| gguf.tensor(&format!("blk.0.attn_{part}.bias"), &[*size], 0)),
        "llama" if code == 1 => gguf.tensor("output.weight", &[wide, count], 1),
        _ => {}
    }
    gguf
}

/// Three model folders: one as hearth writes it, a checkpoint in shards with ChatML, and one with a
/// SentencePiece vocabulary and a plain template.
pub(crate) fn folders(place: &Path) -> Vec<FileSet> {
    let texts = ["You arrive at desk 1. On the desk 1, you see a mug 2.\ngo to desk 1"; 4];
    let trained = Tokenizer::train(texts.into_iter(), 280).unwrap();
    let path = place.join("tokenizer.json");
    trained.save(&path).unwrap();
    let trained = std::fs::read(&path).unwrap();
    let chatml = String::from_utf8_lossy(&trained)
        .replace("<|begin|>", "<|im_start|>")
        .replace("<|end|>", "<|im_end|>");
    let path = place.join("model.gguf");
    std::fs::write(&path, gguf("minicpm", 2).bytes()).unwrap();
    let pieces = GgufFile::open(&path)
        .unwrap()
        .tokenizer()
        .unwrap()
        .to_string();
    let parts: FileSet = PARTS
        .iter()
        .map(|(name, text)| ((*name).to_string(), text.as_bytes().to_vec()))
        .collect();

    let mut own = FileSet::from([("tokenizer.json".to_string(), trained)]);
    own.insert(
        "hearth.json".into(),
        b"{\"text_versions\":[\"2.1.1\"]}".to_vec(),
    );
    add_weights(&mut own, Family::Llama, place, false);
    let mut checkpoint = FileSet::from([("tokenizer.json".to_string(), chatml.into_bytes())]);
    checkpoint.extend(parts);
    checkpoint.insert(
        "chat_template.jinja".into(),
        ChatTemplate::chatml().source().into(),
    );
    add_weights(&mut checkpoint, Family::Qwen2, place, true);
    let mut plain = FileSet::from([("tokenizer.json".to_string(), pieces.into_bytes())]);
    let settings = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}, "chat_template": LLAMA});
    plain.insert(
        "tokenizer_config.json".into(),
        settings.to_string().into_bytes(),
    );
    let [mut joined, mut normed] = [plain.clone(), plain.clone()];
    add_weights(&mut plain, Family::MiniCpm, place, false);
    add_weights(&mut joined, Family::Phi3, place, false);
    add_weights(&mut normed, Family::Gemma3, place, false);
    vec![own, checkpoint, plain, joined, normed]
}

const PARTS: [(&str, &str); 3] = [
    (
        "tokenizer_config.json",
        r#"{"added_tokens_decoder":{"0":{"content":"<|im_start|>","special":true},"2":{"content":"<|im_end|>","special":true}},
        "bos_token":null,"eos_token":"<|im_end|>","unk_token":null,"pad_token":{"content":"<|im_end|>"},
        "chat_template":[{"name":"default","template":"{{ messages }}"},{"name":"tool","template":"{% for"}],
        "model_max_length":2048}"#,
    ),
    (
        "generation_config.json",
        r#"{"eos_token_id":[0,2],"temperature":0.7,"do_sample":true}"#,
    ),
    (
        "special_tokens_map.json",
        r#"{"eos_token":"<|im_end|>","additional_special_tokens":["<|im_start|>"]}"#,
    ),
];

fn add_weights(files: &mut FileSet, family: Family, place: &Path, shards: bool) {
    let json: Value = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
    let vocab_size = json["model"]["vocab"].as_object().unwrap().len();
    let config = DecoderConfig {
        family,
        vocab_size,
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 256,
        ..DecoderConfig::default()
    };
    let mut keys = config.to_hugging_face();
    match family {
        Family::Llama => {
            keys.insert("rope_scaling".into(), json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}));
        }
        Family::Qwen2 => {
            keys.insert("rope_scaling".into(), json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32, "mscale": 1.0, "mscale_all_dim": 0.7}));
            keys.insert("use_sliding_window".into(), json!(false));
        }
        Family::Qwen3 => {
            keys.insert("head_dim".into(), json!(6));
        }
        Family::SmolLm3 => {
            keys.insert("no_rope_layers".into(), json!([0]));
        }
        Family::Gemma3 => {
            keys.insert("layer_types".into(), json!(["sliding_attention"]));
            keys.insert("sliding_window".into(), json!(16));
            keys.insert("query_pre_attn_scalar".into(), json!(4));
            keys.insert("head_dim".into(), json!(4));
            keys.insert(
                "rope_parameters".into(),
                json!({
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }),
            );
            keys.remove("rope_theta");
        }
        Family::Phi3 => {
            keys.insert("head_dim".into(), json!(8));
            keys.insert("partial_rotary_factor".into(), json!(0.5));
            keys.insert("original_max_position_embeddings".into(), json!(128));
            keys.insert(
                "rope_scaling".into(),
                json!({"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}),
            );
        }
        Family::Olmo2 | Family::Olmo3 => {
            keys.insert("sliding_window".into(), json!(16));
        }
        Family::Mistral => {
            keys.insert("sliding_window".into(), json!(64));
        }
        Family::Granite => {
            keys.extend([
                ("embedding_multiplier".into(), json!(12)),
                ("attention_multiplier".into(), json!(0.3)),
                ("residual_multiplier".into(), json!(0.22)),
                ("logits_scaling".into(), json!(8)),
            ]);
        }
        Family::Hearth => {
            keys.insert(
                "goal_match".into(),
                json!({"marker": [1, 2], "end": [0], "ignored": [3]}),
            );
            keys.insert("ngram_embedding".into(), json!([1]));
            keys.insert(
                "convolution".into(),
                json!({"width": 3, "places": ["mlp_input"]}),
            );
        }
        Family::MiniCpm => {
            keys.insert("rope_scaling".into(), json!({"type": "longrope", "factor": 2.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0], "original_max_position_embeddings": 128}));
            keys.extend([
                ("scale_emb".into(), json!(12)),
                ("scale_depth".into(), json!(1.4)),
                ("dim_model_base".into(), json!(256)),
            ]);
        }
    }
    let config = DecoderConfig::from_hugging_face(keys).unwrap();
    let mut weights = Weights::random(&config, 7).packed(&config).into_owned();
    let path = place.join("model.safetensors");
    if shards {
        weights.0.insert(
            "spare".into(),
            HostTensor {
                shape: vec![0, 3],
                data: vec![],
            },
        );
        let second = Weights(
            weights
                .0
                .split_off("model.layers.0.self_attn.k_proj.weight"),
        );
        let mut map: BTreeMap<&String, &str> = weights
            .0
            .keys()
            .map(|name| (name, "model-1.safetensors"))
            .collect();
        map.extend(second.0.keys().map(|name| (name, "model-2.safetensors")));
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        files.insert("model.safetensors.index.json".into(), index.into_bytes());
        files.insert("model-1.safetensors".into(), saved_bytes(&weights, &path));
        files.insert("model-2.safetensors".into(), saved_bytes(&second, &path));
    } else {
        files.insert("model.safetensors".into(), saved_bytes(&weights, &path));
    }
    files.insert(
        "config.json".into(),
        Value::Object(config.to_hugging_face())
            .to_string()
            .into_bytes(),
    );
}

/// The bytes of weights as a safetensors file.
fn saved_bytes(weights: &Weights, path: &Path) -> Vec<u8> {
    weights.save(path).unwrap();
    std::fs::read(path).unwrap()
}

/// The templates that the tests of templates use.
pub(crate) fn templates() -> Vec<Vec<u8>> {
    let golden: Value =
        serde_json::from_str(include_str!("../golden/chat_templates.json")).unwrap();
    let sources = golden["templates"].as_array().unwrap().iter();
    sources
        .map(|template| template["source"].as_str().unwrap().as_bytes().to_vec())
        .collect()
}
