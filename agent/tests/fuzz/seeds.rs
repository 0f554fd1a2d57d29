//! Whole files to begin with: model folders and GGUF files, as small as they can be.

use crate::mutate::Words;
use agent::model::config::{DecoderConfig, Family};
use agent::model::gguf::GgufFile;
use agent::model::weights::{HostTensor, Weights};
use agent::text::template::ChatTemplate;
use agent::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The files of a folder by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A GGUF file before it is written.
#[derive(Clone, Default)]
pub(crate) struct Gguf {
    /// Key, and type with value.
    pub(crate) values: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufTensor>,
}

/// Sizes stand innermost first.
#[derive(Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    pub(crate) sizes: Vec<u64>,
    pub(crate) code: u32,
    pub(crate) data: Vec<u8>,
}

impl Gguf {
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

    /// Numbers in blocks of 32 whose bytes are small.
    fn tensor(&mut self, name: &str, sizes: &[u64], code: u32) {
        let elements: u64 = sizes.iter().product();
        let bytes = match code {
            2 => elements / 32 * 18,
            8 => elements / 32 * 34,
            1 => elements * 2,
            _ => elements * 4,
        };
        let data = (0..bytes).map(|place| (place * 7 % 60) as u8).collect();
        self.tensors.push(GgufTensor {
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

/// How byte-level vocabularies spell a byte.
fn spelled(byte: u8) -> char {
    let itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..byte).filter(|other| !itself(*other)).count() as u32;
    if itself(byte) {
        byte.into()
    } else {
        char::from_u32(256 + others).unwrap()
    }
}

/// A vocabulary of bytes with merges.
fn byte_vocabulary(gguf: &mut Gguf) -> u64 {
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

/// A vocabulary of pieces with scores.
fn piece_vocabulary(gguf: &mut Gguf) -> u64 {
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

/// One of every family, one of every vocabulary, plain numbers and blocks.
pub(crate) fn ggufs() -> Vec<Gguf> {
    let made = [("llama", 0), ("qwen2", 8), ("minicpm", 2), ("llama", 1)];
    made.into_iter()
        .map(|(architecture, code)| gguf(architecture, code))
        .collect()
}

fn gguf(architecture: &str, code: u32) -> Gguf {
    let mut gguf = Gguf::default();
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

/// Three model folders: one of hearth's, a checkpoint in shards with ChatML, one with pieces and a plain template.
pub(crate) fn folders(place: &Path) -> Vec<Files> {
    let texts = ["You arrive at desk 1. On the desk 1, you see a mug 2.\ngo to desk 1"; 4];
    let own = Tokenizer::train(texts.into_iter(), 280).unwrap();
    let path = place.join("tokenizer.json");
    own.save(&path).unwrap();
    let own = std::fs::read(&path).unwrap();
    let chatml = String::from_utf8_lossy(&own)
        .replace("<|begin|>", "<|im_start|>")
        .replace("<|end|>", "<|im_end|>");
    let path = place.join("model.gguf");
    std::fs::write(&path, gguf("minicpm", 2).bytes()).unwrap();
    let pieces = GgufFile::open(&path)
        .unwrap()
        .tokenizer()
        .unwrap()
        .to_string();
    let parts: Files = PARTS
        .iter()
        .map(|(name, text)| ((*name).to_string(), text.as_bytes().to_vec()))
        .collect();

    let mut hearths = Files::from([("tokenizer.json".to_string(), own)]);
    hearths.insert(
        "hearth.json".into(),
        b"{\"text_versions\":[\"2.1.1\"]}".to_vec(),
    );
    add_weights(&mut hearths, Family::Llama, place, false);
    let mut checkpoint = Files::from([("tokenizer.json".to_string(), chatml.into_bytes())]);
    checkpoint.extend(parts);
    checkpoint.insert(
        "chat_template.jinja".into(),
        ChatTemplate::chatml().source().into(),
    );
    add_weights(&mut checkpoint, Family::Qwen2, place, true);
    let mut plain = Files::from([("tokenizer.json".to_string(), pieces.into_bytes())]);
    let settings = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}, "chat_template": LLAMA});
    plain.insert(
        "tokenizer_config.json".into(),
        settings.to_string().into_bytes(),
    );
    add_weights(&mut plain, Family::MiniCpm, place, false);
    vec![hearths, checkpoint, plain]
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

fn add_weights(files: &mut Files, family: Family, place: &Path, shards: bool) {
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
    let mut weights = Weights::random(&config, 7);
    let path = place.join("model.safetensors");
    let bytes = |weights: &Weights| {
        weights.save(&path).unwrap();
        std::fs::read(&path).unwrap()
    };
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
        files.insert("model-1.safetensors".into(), bytes(&weights));
        files.insert("model-2.safetensors".into(), bytes(&second));
    } else {
        files.insert("model.safetensors".into(), bytes(&weights));
    }
    files.insert(
        "config.json".into(),
        Value::Object(config.to_hugging_face())
            .to_string()
            .into_bytes(),
    );
}

/// Real templates, as the tests of templates know them.
pub(crate) fn templates() -> Vec<Vec<u8>> {
    let golden: Value =
        serde_json::from_str(include_str!("../golden/chat_templates.json")).unwrap();
    let sources = golden["templates"].as_array().unwrap().iter();
    sources
        .map(|template| template["source"].as_str().unwrap().as_bytes().to_vec())
        .collect()
}

/// What a damaged file may say.
pub(crate) const WORDS: Words = Words {
    json: &[
        // config.json
        "\"llama\"",
        "\"qwen2\"",
        "\"minicpm\"",
        "\"silu\"",
        r#"{"rope_type":"default"}"#,
        r#"{"rope_type":"linear","factor":1e-300}"#,
        r#"{"type":"dynamic","factor":2}"#,
        r#"{"rope_type":"yarn","factor":1e300,"beta_fast":1e-300,"beta_slow":1e300}"#,
        r#"{"rope_type":"llama3","factor":8,"low_freq_factor":1e-300,"high_freq_factor":1e300}"#,
        r#"{"type":"su","short_factor":[1e-300,1e300],"original_max_position_embeddings":0.5}"#,
        // model.safetensors.index.json
        "\"../model-1.safetensors\"",
        "\"/dev/zero\"",
        "\"..\"",
        "\".\"",
        "\"model-1.safetensors/\"",
        "\"model-2.safetensors\"",
        "\"value\"",
        "\"model.safetensors.index.json\"",
        "\"C:\\\\x\"",
        // safetensors
        "\"F32\"",
        "\"F16\"",
        "\"BF16\"",
        "\"F4\"",
        "\"BOOL\"",
        "[0,4]",
        "[4,0]",
        "[0,18446744073709551615]",
        "[4294967296,4294967296]",
        "[0,18446744073709551615,18446744073709551615]",
        // tokenizer.json
        r#"{"type":"NFC"}"#,
        r#"{"type":"NFKD"}"#,
        r#"{"type":"Nmt"}"#,
        r#"{"type":"Lowercase"}"#,
        r#"{"type":"StripAccents"}"#,
        r#"{"type":"Strip","strip_left":true,"strip_right":true}"#,
        r#"{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":true,"lowercase":true}"#,
        r#"{"type":"Precompiled","precompiled_charsmap":"AAAA"}"#,
        r#"{"type":"Precompiled","precompiled_charsmap":"/////w=="}"#,
        r#"{"type":"Prepend","prepend":"▁"}"#,
        r#"{"type":"Prepend","prepend":""}"#,
        r#"{"type":"Replace","pattern":{"String":""},"content":"aa"}"#,
        r#"{"type":"Replace","pattern":{"Regex":""},"content":"aa"}"#,
        r#"{"type":"Replace","pattern":{"Regex":"(a*)*b|(?=e)"},"content":""}"#,
        r#"{"type":"Replace","pattern":{"String":"e"},"content":"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"}"#,
        r#"{"type":"Sequence","normalizers":[{"type":"NFD"},{"type":"StripAccents"},{"type":"Strip","strip_left":true,"strip_right":true}]}"#,
        r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}"#,
        r#"{"type":"ByteLevel"}"#,
        r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true}"#,
        r#"{"type":"Metaspace","replacement":" ","prepend_scheme":"always","split":false}"#,
        r#"{"type":"Split","pattern":{"String":""},"behavior":"Isolated","invert":true}"#,
        r#"{"type":"Split","pattern":{"Regex":"(?=(a+)+$)|\\b"},"behavior":"MergedWithPrevious","invert":true}"#,
        r#"{"type":"Split","pattern":{"Regex":"(\\p{L}{100}){9}"},"behavior":"MergedWithNext","invert":false}"#,
        r#"{"type":"Split","pattern":{"Regex":"(.|.)*(.|.)*x(?!y)"},"behavior":"Contiguous","invert":false}"#,
        r#"{"type":"FixedLength","length":0}"#,
        r#"{"type":"FixedLength","length":3}"#,
        r#"{"type":"Delimiter","delimiter":" "}"#,
        r#"{"type":"Whitespace"}"#,
        r#"{"type":"WhitespaceSplit"}"#,
        r#"{"type":"UnicodeScripts"}"#,
        r#"{"type":"BertPreTokenizer"}"#,
        r#"{"type":"Punctuation","behavior":"Isolated"}"#,
        r#"{"type":"Digits","individual_digits":true}"#,
        r#"{"type":"Strip","content":"a","start":0,"stop":99999999999}"#,
        r#"{"type":"Strip","content":" ","start":99999999999,"stop":0}"#,
        r#"{"type":"CTC","pad_token":"","word_delimiter_token":"","cleanup":true}"#,
        r#"{"type":"WordPiece","prefix":"","cleanup":true}"#,
        r#"{"type":"BPEDecoder","suffix":""}"#,
        r#"{"type":"ByteFallback"}"#,
        r#"{"type":"Fuse"}"#,
        r#"{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":1}]}"#,
        r#"{"strategy":{"Fixed":99999999999},"direction":"Right","pad_to_multiple_of":7,"pad_id":0,"pad_type_id":0,"pad_token":"x"}"#,
        r#"{"max_length":0,"stride":9,"strategy":"OnlySecond","direction":"Left"}"#,
        r#"{"max_length":3,"stride":9,"strategy":"LongestFirst","direction":"Left"}"#,
        r#"{"type":"TemplateProcessing","single":["<s>","$B"],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[],"tokens":["a"]}}}"#,
        r#"{"type":"RobertaProcessing","sep":["</s>",4294967295],"cls":["<s>",0],"trim_offsets":true,"add_prefix_space":true}"#,
        r#"{"type":"BertProcessing","sep":["",0],"cls":["",0]}"#,
        r#"{"type":"Unigram","unk_id":null,"vocab":[["a",0.0],["<unk>",-1e308]],"byte_fallback":true}"#,
        r#"{"type":"Unigram","unk_id":7,"vocab":[]}"#,
        r#"{"type":"WordLevel","vocab":{"a":0,"<|end|>":1,"<|agent|>":2,"<|begin|>":3,"<|im_end|>":4},"unk_token":"no"}"#,
        r#"{"type":"WordPiece","vocab":{"a":0,"<|end|>":1,"<|agent|>":2,"<|begin|>":3,"<|im_end|>":4},"unk_token":"no","continuing_subword_prefix":"","max_input_chars_per_word":0}"#,
        r#"{"type":"BPE","vocab":{"é":0,"a":1,"aé":4294967295},"merges":["a é"],"continuing_subword_prefix":"b","unk_token":"z"}"#,
        r#"{"type":"BPE","vocab":{},"merges":[]}"#,
        "\"é\"",
        "\"##\"",
        "\"<unk>\"",
        "\"<|im_end|>\"",
        "\"</s>\"",
        "\"\\\\p{L}+(?=x)(\"",
        "[\"a\",\"b\"]",
        "[[\"g\",\"o\"],[\"\",\"\"]]",
        // Templates in JSON
        "\"{{ messages }}\"",
        "\"{% for m in messages %}{{ m.content }}{% endfor %}\"",
        "\"{{ raise_exception('\\u001b[31m') }}\"",
        r#"[{"name":"default","template":"{{ bos_token * 9 }}"}]"#,
        r#"{"default":"x"}"#,
    ],
    jinja: &[
        "{% for i in range(100000) %}",
        "{% for i in range(9223372036854775807) %}",
        "{% endfor %}",
        "{% set ns = namespace(x=messages) %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set x = x ~ x %}",
        "{% macro f(x) %}",
        "{{ f(f) }}",
        "{% endmacro %}",
        "{% if messages[-1] is defined %}",
        "{% endif %}",
        "{% else %}",
        "{% generation %}",
        "{% endgeneration %}",
        "{{ messages | tojson(indent=4) }}",
        "{{ messages[::-1] }}",
        "{{ messages[0:9223372036854775807:-9223372036854775808] }}",
        "{{ 9223372036854775807 + 1 }}",
        "{{ -9223372036854775808 // -1 }}",
        "{{ 1 // 0 }}",
        "{{ 1 % 0 }}",
        "{{ 2 ** 1000 }}",
        "{{ -(-9223372036854775808) }}",
        "{{ 0.0 / 0.0 }}",
        "{{ messages | map(attribute='content') | join('x') }}",
        "{{ messages | selectattr('role', 'equalto', 'user') | list }}",
        "{{ messages[0].content.split('e') }}",
        "{{ messages[0].content.replace('', 'aa') }}",
        "{{ messages[0].content[5:2] | upper }}",
        "{{ strftime_now('%Y') }}",
        "{{ raise_exception('no') }}",
        "{% break %}",
        "{% continue %}",
        "{% raw %}",
        "{% endraw %}",
        "{# ",
        " #}",
        "{%- ",
        " -%}",
        "{{- ",
        " -}}",
        "(",
        ")",
        "((((((((((((((((((((((((((((((((((((((((",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        "not not not not not not not not not not not not not ",
        "- - - - - - - - - - - - - ",
        " | string",
        " | length",
        " | sort",
        " | unique",
        " | items",
        " | round(2)",
        " | int",
        " | default('x')",
        " is iterable",
        " in messages",
        " ~ ",
        " + ",
        " * ",
        " ** ",
        " // ",
        " % ",
        " and ",
        " or ",
        " if true else ",
        "[0]",
        "[-1]",
        "['content']",
        ".content",
        ".x.y.z",
        "loop.index",
        "loop(messages)",
        "loop.cycle(1, 2)",
        "caller()",
        "{% filter upper %}",
        "{% endfilter %}",
        "{% call f(1) %}",
        "{% endcall %}",
        "{% set %}",
        "{% set y %}",
        "{% endset %}",
        "{% with a = 1 %}",
        "{% endwith %}",
        "'é🙂\u{301}'",
        "\0",
        "\u{1b}[2J",
        "18446744073709551616",
        "1e400",
        "none",
        "eos_token",
        "bos_token",
        "messages",
        "add_generation_prompt",
    ],
};
